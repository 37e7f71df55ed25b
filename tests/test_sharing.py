"""Who may use an image at once, and what an unprivileged user is told."""

from __future__ import annotations

import os
import pathlib
import subprocess
import textwrap
from collections.abc import Iterator

import pytest
from support import (
    PYTHON,
    let_go,
    loops_of,
    make_iso,
    make_vhd,
    require_loop,
    require_root,
    require_tool,
)
from unprivileged import NOBODY, as_nobody, public_directory

import virtdisk


@pytest.fixture
def image(tmp_path: pathlib.Path) -> pathlib.Path:
    require_loop()
    return make_vhd(tmp_path / "shared.vhd")


def qemu_io(*arguments: str | pathlib.Path) -> list[str]:
    return [
        require_tool("qemu-io", package="qemu-utils"),
        *map(str, arguments),
    ]


@pytest.fixture
def held_by_qemu(image: pathlib.Path) -> Iterator[pathlib.Path]:
    """The image open read-write in qemu-io, which waits for commands."""
    process = subprocess.Popen(
        qemu_io("-f", "raw", image),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout
    process.stdin.write("length\n")
    process.stdin.flush()
    while "MiB" not in process.stdout.readline():  # it has the image open
        assert process.poll() is None
    yield image
    process.communicate("quit\n")


@pytest.mark.parametrize("read_only", [False, True])
def test_image_in_use_by_qemu(held_by_qemu: pathlib.Path, read_only: bool) -> None:
    with pytest.raises(virtdisk.VirtualDiskError) as caught:
        virtdisk.attach(held_by_qemu, read_only=read_only)
    assert caught.value.winerror == 32
    assert isinstance(caught.value, PermissionError)
    assert caught.value.remedy


def test_qemu_refuses_an_attached_image(image: pathlib.Path) -> None:
    with virtdisk.attach(image):
        done = subprocess.run(
            qemu_io("-f", "raw", "-c", "read 0 512", image),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode != 0
        assert 'Failed to get "write" lock' in done.stderr
    again = subprocess.run(qemu_io("-f", "raw", "-c", "read 0 512", image), check=False)
    assert again.returncode == 0


def test_qemu_may_read_beside_a_read_only_attachment(
    image: pathlib.Path,
) -> None:
    with virtdisk.attach(image, read_only=True):
        reading = subprocess.run(
            qemu_io("-r", "-f", "raw", "-c", "read 0 512", image),
            check=False,
        )
        assert reading.returncode == 0
        writing = subprocess.run(
            qemu_io("-f", "raw", "-c", "read 0 512", image),
            capture_output=True,
            text=True,
            check=False,
        )
        assert 'Failed to get "write" lock' in writing.stderr


def test_lock_lives_on_with_a_permanent_device(image: pathlib.Path) -> None:
    code = "import sys, virtdisk; virtdisk.attach(sys.argv[1], permanent=True)"
    subprocess.run([*PYTHON, "-c", code, image], check=True)
    try:
        done = subprocess.run(
            qemu_io("-f", "raw", "-c", "read 0 512", image),
            capture_output=True,
            text=True,
            check=False,
        )
        assert 'Failed to get "write" lock' in done.stderr
    finally:
        virtdisk.detach(image)


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("make", [make_vhd, make_iso])
def test_attached_by_another_process(
    make: object, read_only: bool, tmp_path: pathlib.Path
) -> None:
    require_loop()
    assert callable(make)
    image = make(tmp_path / "image")
    mode = True if make is make_iso else read_only
    other = textwrap.dedent("""
        import sys, virtdisk
        try:
            virtdisk.attach(sys.argv[1], read_only=sys.argv[2] == "True")
        except virtdisk.VirtualDiskError as error:
            print(error.winerror, error.remedy or "")
    """)
    with virtdisk.attach(image, read_only=mode):
        for name in (image, tmp_path / "link"):
            if not name.exists():
                os.link(image, name)
            done = subprocess.run(
                [*PYTHON, "-c", other, name, str(mode)],
                capture_output=True,
                text=True,
                check=True,
            )
            code, _, remedy = done.stdout.strip().partition(" ")
            assert code == "32"
            assert remedy
        assert len(list(loops_of(tmp_path))) == 1


def test_two_processes_race_for_one_image(image: pathlib.Path) -> None:
    """Exactly one of two that start together gets it."""
    code = textwrap.dedent("""
        import sys, virtdisk
        sys.stdin.readline()
        try:
            disk = virtdisk.attach(sys.argv[1])
        except virtdisk.VirtualDiskError as error:
            print(error.winerror, flush=True)
        else:
            print("attached", flush=True)
            sys.stdin.readline()
            disk.close()
    """)
    for _ in range(10):
        pair = [
            subprocess.Popen(
                [*PYTHON, "-c", code, image],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        for process in pair:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
        answers = []
        for process in pair:
            assert process.stdout
            answers.append(process.stdout.readline().strip())
        for process in pair:
            process.communicate("\n")
        assert sorted(answers) == ["32", "attached"]


@pytest.fixture
def public() -> Iterator[pathlib.Path]:
    """A directory that nobody may enter and write."""
    require_root()
    with public_directory() as directory:
        yield directory


def refusal(answer: object) -> virtdisk.VirtualDiskError:
    """The error that an unprivileged attempt ended with."""
    assert isinstance(answer, virtdisk.VirtualDiskError), repr(answer)
    assert isinstance(answer, PermissionError)
    assert answer.remedy
    return answer


def test_attach_without_privilege(public: pathlib.Path) -> None:
    image = make_vhd(public / "mine.vhd")
    os.chown(image, NOBODY, NOBODY)
    error = refusal(as_nobody(lambda: virtdisk.attach(image)))
    assert error.winerror == 1314
    assert error.name == "ERROR_PRIVILEGE_NOT_HELD"
    assert "root" in str(error.remedy) or "CAP_SYS_ADMIN" in str(error.remedy)


def test_open_needs_no_privilege(public: pathlib.Path) -> None:
    image = make_vhd(public / "mine.vhd")
    os.chmod(image, 0o444)

    def virtual_size() -> int:
        with virtdisk.open(image, read_only=True) as disk:
            return disk.info.virtual_size

    assert as_nobody(virtual_size) == 4 << 20


def test_file_that_may_not_be_written(public: pathlib.Path) -> None:
    image = make_vhd(public / "readable.vhd")
    os.chmod(image, 0o444)
    assert refusal(as_nobody(lambda: virtdisk.attach(image))).winerror == 5


def test_file_that_may_not_be_read(public: pathlib.Path) -> None:
    image = make_vhd(public / "secret.vhd")
    os.chmod(image, 0o400)
    answer = as_nobody(lambda: virtdisk.attach(image, read_only=True))
    assert refusal(answer).winerror == 5


def test_node_takes_owner_group_and_mode_of_the_image(
    tmp_path: pathlib.Path,
) -> None:
    require_loop()
    image = make_vhd(tmp_path / "owned.vhd")
    os.chown(image, 1234, 2345)
    os.chmod(image, 0o640)
    with virtdisk.attach(image) as disk:
        node = os.stat(disk.physical_path)
        assert (node.st_uid, node.st_gid) == (1234, 2345)
        assert node.st_mode & 0o777 == 0o640
        device = disk.physical_path
    assert os.stat(device).st_uid == 0
    assert os.stat(device).st_mode & 0o007 == 0


@pytest.mark.parametrize(
    ("sddl", "uid", "gid", "mode"),
    [
        ("O:S-1-22-1-33G:S-1-22-2-44D:P(A;;GA;;;OW)", 33, 44, 0o600),
        ("O:S-1-22-1-33G:S-1-22-2-44D:P(A;;GA;;;OW)(A;;GR;;;CG)", 33, 44, 0o640),
        ("O:S-1-22-1-33G:S-1-22-2-44D:P(A;;GR;;;WD)", 33, 44, 0o444),
        ("D:P(A;;GA;;;WD)", 0, 0, 0o666),
        ("D:P(A;;GA;;;BA)", 0, 0, 0o000),
        ("O:BAG:BAD:P(A;;GA;;;SY)(D;;GW;;;WD)(A;;GA;;;WD)", 0, 0, 0o444),
    ],
)
def test_sddl_becomes_owner_and_mode(
    sddl: str, uid: int, gid: int, mode: int, image: pathlib.Path
) -> None:
    with virtdisk.attach(image, security=sddl) as disk:
        node = os.stat(disk.physical_path)
        assert (node.st_uid, node.st_gid) == (uid, gid)
        assert node.st_mode & 0o777 == mode


def test_mounted_disk_is_not_detached(tmp_path: pathlib.Path) -> None:
    require_loop()
    mkfs = require_tool("mkfs.ext4", package="e2fsprogs")
    mount = require_tool("mount", package="mount")
    umount = require_tool("umount", package="mount")
    image = make_vhd(tmp_path / "mounted.vhd", 16 << 20, data=b"")
    target = tmp_path / "mnt"
    target.mkdir()
    with virtdisk.attach(image) as disk:
        device = disk.physical_path
        subprocess.run([mkfs, "-q", device], check=True)
        subprocess.run([mount, device, target], check=True)
        try:
            (target / "file").write_text("kept")
            for detach in (disk.detach, lambda: virtdisk.detach(image)):
                with pytest.raises(virtdisk.VirtualDiskError) as caught:
                    detach()
                assert caught.value.winerror == 170
                assert str(target) in (caught.value.remedy or "")
            assert (target / "file").read_text() == "kept"
            assert disk.physical_path == device
        finally:
            subprocess.run([umount, target], check=True)
        disk.detach()
    assert let_go(tmp_path)
