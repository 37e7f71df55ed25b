"""GetStorageDependencyInformation on real stacks of devices.

Flags, sizes and one image on another's partition are in
tests/engine/test_api_dependency.c; here it is chains, mapped devices, and
three images deep.
"""

from __future__ import annotations

import ast
import contextlib
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest
from support import LINUX, require_loop, require_tool

import virtdisk
from virtdisk import VirtualDiskError
from virtdisk import _virtdisk as api

pytestmark = pytest.mark.skipif(not LINUX, reason="needs the Linux engine")

MIB = 1 << 20
HOSTS = 1
DISK = 2
MULT_BACKING_FILES = 1
NOT_VIRTUAL_DISK = 0xC03A0015
VHD, VHDX = 2, 3


def hosts(path: str | pathlib.Path, flags: int = HOSTS) -> list[tuple[str, int, str]]:
    """The device, the type and the image's path of each entry, the next first."""
    entries = api.GetStorageDependencyInformation(str(path), flags=flags)
    for number, entry in enumerate(entries):
        assert entry[4] == number + 1
    return [
        (entry[5] or "", entry[2], (entry[6] or "") + (entry[8] or ""))
        for entry in entries
    ]


@contextlib.contextmanager
def attached(path: pathlib.Path) -> Iterator[str]:
    """The device of an image."""
    with virtdisk.attach(path) as disk:
        yield disk.physical_path


@contextlib.contextmanager
def mounted(device: str) -> Iterator[pathlib.Path]:
    """A new file system on the whole device."""
    subprocess.run([require_tool("mkfs.ext4", package="e2fsprogs"), "-q", device])
    with tempfile.TemporaryDirectory() as name:
        subprocess.run(["mount", device, name], check=True)
        try:
            yield pathlib.Path(name).resolve()
        finally:
            subprocess.run(["umount", name], check=True)


def test_three_deep(tmp_path: pathlib.Path) -> None:
    require_loop()
    outer = tmp_path.resolve() / "outer.vhdx"
    virtdisk.create(outer, 256 * MIB).close()
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(attached(outer))
        middle = stack.enter_context(mounted(first)) / "middle.vhd"
        virtdisk.create(middle, 64 * MIB).close()
        second = stack.enter_context(attached(middle))
        inner = stack.enter_context(mounted(second)) / "inner.vhdx"
        virtdisk.create(inner, 16 * MIB, block_size=MIB).close()
        third = stack.enter_context(attached(inner))
        chain = [
            (third, VHDX, str(inner)),
            (second, VHD, str(middle)),
            (first, VHDX, str(outer)),
        ]
        assert hosts(third, HOSTS | DISK) == chain
        assert hosts(inner) == chain[1:]  # of the volume that it is on
        assert hosts(middle.parent) == chain[2:]
        # And the other way.
        assert hosts(first, DISK) == list(reversed(chain[:2]))
        assert hosts(second, DISK) == chain[:1]
        assert hosts(third, DISK) == []


def test_chain_is_one_entry(tmp_path: pathlib.Path) -> None:
    require_loop()
    base, child = tmp_path / "base.vhdx", tmp_path / "child.vhdx"
    virtdisk.create(base, 16 * MIB).close()
    virtdisk.create(child, parent=base).close()
    with attached(child) as device:
        (entry,) = api.GetStorageDependencyInformation(device, flags=HOSTS | DISK)
        assert entry[0] & 0x7 == MULT_BACKING_FILES
        assert pathlib.Path((entry[6] or "") + (entry[8] or "")) == child.resolve()


#: In a mount namespace of its own: a block device with the number of no driver,
#: which the kernel says to stand on the device that is given.
MAPPED = """
import os, subprocess, sys
from virtdisk import _virtdisk
device, node = sys.argv[1:]
numbers = "/sys/dev/block"
number = os.stat(device).st_rdev
number = f"{os.major(number)}:{os.minor(number)}"
below = os.path.realpath(f"{numbers}/{number}")
subprocess.run(["mount", "-t", "tmpfs", "numbers", numbers], check=True)
os.symlink(below, f"{numbers}/{number}")
os.makedirs(f"{numbers}/253:7/slaves")
os.symlink(below, f"{numbers}/253:7/slaves/{os.path.basename(device)}")
os.mknod(node, 0o60600, os.makedev(253, 7))
for flags in 1, 3:
    print(*_virtdisk.GetStorageDependencyInformation(node, flags=flags), sep="\\n")
"""


def test_through_mapped_devices(tmp_path: pathlib.Path) -> None:
    """A mapped device stands on the disk below it, and on its image."""
    require_loop()
    image = tmp_path.resolve() / "a.vhdx"
    virtdisk.create(image, 16 * MIB).close()
    unshare = ["unshare", "--mount", "--propagation", "private"]
    with attached(image) as device:
        done = subprocess.run(
            [*unshare, sys.executable, "-P", "-c", MAPPED, device, tmp_path / "node"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        entries = [ast.literal_eval(line) for line in done.stdout.splitlines()]
    assert len(entries) == 2
    for entry in entries:
        assert (entry[5], entry[2], entry[6] + entry[8]) == (device, VHDX, str(image))


def test_what_is_detached_is_no_virtual_disk(tmp_path: pathlib.Path) -> None:
    require_loop()
    image = tmp_path / "a.vhdx"
    virtdisk.create(image, 16 * MIB).close()
    with attached(image) as device:
        assert len(hosts(device)) == 1
    with pytest.raises(VirtualDiskError) as caught:
        hosts(device)
    assert caught.value.winerror == NOT_VIRTUAL_DISK
