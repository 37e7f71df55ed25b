"""Who uses a disk: read from the kernel's tables, here tables of our own."""

from __future__ import annotations

import os
import pathlib
import re

import pytest
from support import LINUX

from virtdisk import _volumes
from virtdisk._volumes import describe_holders, describe_users, mount_points

pytestmark = pytest.mark.skipif(not LINUX, reason="Linux only")

# proc_pid_mountinfo(5): id, parent, device, root, mount point, options,
# optional fields, "-", type, source, options.
MOUNTINFO = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 7:3 / /mnt/whole\040disk rw - ext4 /dev/loop3 rw
31 22 259:5 / /srv rw shared:2 master:1 - xfs /dev/loop3p2 rw
32 22 0:57 /sub /btr\134fs rw - btrfs /dev/loop3p1 rw
33 22 7:33 / /other rw - ext4 /dev/loop33 rw
34 22 0:5 / /tab\011and\012line rw - ext4 /dev/loop3 rw
broken line
35 22 7:3 - ext4
"""

#: Of other processes: Linux has no number as large (PID_MAX_LIMIT).
PIDS = ["4194305", "4194306", "4194307", "4194308"]


@pytest.fixture
def kernel(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A /proc and a /sys/block of our own with /dev/loop3 and two partitions."""
    proc, block = tmp_path / "proc", tmp_path / "block"
    (proc / "self" / "fd").mkdir(parents=True)
    (proc / "self" / "mountinfo").write_text("")
    disk = block / "loop3"
    for part, number in (("", "7:3"), ("loop3p1", "259:4"), ("loop3p2", "259:5")):
        directory = disk / part
        (directory / "holders").mkdir(parents=True)
        (directory / "dev").write_text(number + "\n")
        if part:
            (directory / "partition").write_text(part[-1] + "\n")
    monkeypatch.setattr(_volumes, "_PROC", proc)
    monkeypatch.setattr(_volumes, "_SYS_BLOCK", block)
    return tmp_path


def test_mount_points_of_disk_and_partitions(kernel: pathlib.Path) -> None:
    (kernel / "proc/self/mountinfo").write_text(MOUNTINFO)
    assert mount_points("/dev/loop3") == [
        "/btr\\fs",
        "/mnt/whole disk",
        "/srv",
        "/tab\tand\nline",
    ]
    assert mount_points("/dev/loop4") == []


def test_names_that_are_no_text(kernel: pathlib.Path) -> None:
    line = b"30 22 7:3 / /mnt/\\377\xff rw - ext4 /dev/loop3 rw\n"
    (kernel / "proc/self/mountinfo").write_bytes(line)
    assert mount_points("/dev/loop3") == [os.fsdecode(b"/mnt/\xff\xff")]


def test_link_to_the_device(kernel: pathlib.Path) -> None:
    (kernel / "proc/self/mountinfo").write_text(MOUNTINFO)
    link = kernel / "by-label"
    link.symlink_to("/dev/loop3")
    assert "/srv" in mount_points(str(link))


def test_nobody(kernel: pathlib.Path) -> None:
    assert describe_users("/dev/loop3") is None


def test_unreadable_tables(kernel: pathlib.Path) -> None:
    (kernel / "proc/self/mountinfo").unlink()
    assert mount_points("/dev/loop3") == []
    assert describe_users("/dev/loop9") is None


def test_mounts(kernel: pathlib.Path) -> None:
    (kernel / "proc/self/mountinfo").write_text(MOUNTINFO)
    text = describe_users("/dev/loop3") or ""
    assert text.startswith("unmount /btr\\fs, /mnt/whole disk, /srv and 1 more")
    assert "\n" not in text


def test_swap(kernel: pathlib.Path) -> None:
    (kernel / "proc/swaps").write_text(
        "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
        "/dev/loop3p2                            partition\t1024\t0\t-2\n"
        "/dev/loop33                             partition\t1024\t0\t-3\n"
    )
    assert describe_users("/dev/loop3") == "swapoff /dev/loop3p2"


def test_stacked_devices(kernel: pathlib.Path) -> None:
    (kernel / "block/loop3/holders/dm-0").mkdir()
    (kernel / "block/loop3/loop3p1/holders/md127").mkdir()
    assert describe_users("/dev/loop3") == (
        "remove the device on top of it: dm-0, md127"
    )


def process(kernel: pathlib.Path, pid: str, target: str) -> None:
    directory = kernel / "proc" / pid
    (directory / "fd").mkdir(parents=True, exist_ok=True)
    (directory / "comm").write_text("some program\n")
    number = len(list((directory / "fd").iterdir()))
    (directory / "fd" / str(number)).symlink_to(target)


def test_processes(kernel: pathlib.Path) -> None:
    process(kernel, PIDS[0], "/dev/loop3p1")
    process(kernel, PIDS[1], "/dev/loop33")
    process(kernel, str(os.getpid()), "/dev/loop3")
    (kernel / "proc" / PIDS[2]).mkdir()  # no rights to look into it
    assert describe_users("/dev/loop3") == f"end or wait for some program ({PIDS[0]})"


def test_holders_of_an_image(kernel: pathlib.Path) -> None:
    image = kernel / "a.vhd"
    image.touch()
    link = kernel / "link"
    link.symlink_to(image)
    assert describe_holders(str(link)) is None
    for pid in PIDS:
        process(kernel, pid, str(image))
    process(kernel, str(os.getpid()), str(image))
    text = describe_holders(str(link)) or ""
    names = re.findall(r"some program \((\d+)\)", text)
    assert len(names) == 3
    assert set(names) < set(PIDS)
    assert text.endswith(" and 1 more: end or wait for that")


@pytest.mark.parametrize(("files", "named"), [(1, False), (2, True)])
def test_own_files(files: int, named: bool, kernel: pathlib.Path) -> None:
    """One descriptor is the attachment's own."""
    for _ in range(files):
        process(kernel, "self", "/dev/loop3")
    text = describe_users("/dev/loop3")
    assert text == (
        "close the files that this process has open on it" if named else None
    )


def test_nothing_is_known_without_tables(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container without /proc and /sys: none of it may raise."""
    monkeypatch.setattr(_volumes, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(_volumes, "_SYS_BLOCK", tmp_path / "sys")
    assert describe_holders("/a.vhd") is None
    assert describe_users("/dev/loop3") is None
    assert mount_points("/dev/loop3") == []


def test_the_real_tables_can_be_read() -> None:
    """The root file system is mounted; no device of that name exists."""
    assert mount_points("/dev/no-such-device") == []
    assert describe_users("/dev/no-such-device") is None
