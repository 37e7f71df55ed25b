"""ResizeVirtualDisk of a VHDX that is attached with a device.

Witnesses are a plain array of bytes, QEMU (size and content of the image
afterwards), sgdisk and sfdisk (partition tables) and ext4.  Without a device:
test_resize.py and test_file_surface.py; without an attachment: test_resize.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import random
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any, Literal, Self

import pytest
from devices import Device
from devices import opened as opened_device
from images import GIB, MIB
from support import (
    LINUX,
    PYTHON,
    eventually,
    pattern,
    require_loop,
    require_tool,
    small_file_system,
)

import virtdisk
from virtdisk import VirtualDiskError, _virtdisk, aio

pytestmark = [
    pytest.mark.skipif(not LINUX, reason="the engine is for Linux"),
    pytest.mark.usefixtures("loop_devices"),
]

UNSAFE, SMALLEST = 1, 2
FIXED, SPARSE_FILE = 1, 0x80  # of CREATE_VIRTUAL_DISK_FLAG
ACCESS_DENIED = 5
WRITE_PROTECT = 19
SHARING_VIOLATION = 32
INVALID_PARAMETER = 87
DISK_FULL = 112
ABORTED = 995
INVALID_STATE = 0xC03A001C
WOULD_TRUNCATE = 0xC03A0025
NO_MINIMUM = 0xC03A0026
AT_MINIMUM = 0xC03A0027
SIZE = 24 * MIB
LONG = bool(os.environ.get("VIRTDISK_LONG"))
RECORDS = pathlib.Path("/run/virtdisk")


@pytest.fixture
def loop_devices() -> None:
    require_loop()


@contextlib.contextmanager
def refused(*codes: int) -> Iterator[None]:
    with pytest.raises(VirtualDiskError) as caught:
        yield
    assert caught.value.winerror in codes


def run(command: list[str], **keywords: Any) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, **keywords
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return str(done.stdout)


def handle_of(disk: virtdisk.VirtualDisk) -> _virtdisk.Handle:
    handle = disk._handle
    assert isinstance(handle, _virtdisk.Handle)
    return handle


def node_of(disk: virtdisk.VirtualDisk) -> str:
    assert disk.physical_path is not None
    return disk.physical_path


def resize(path: pathlib.Path, size: int, flags: int = 0) -> None:
    """Through a handle that has not attached it."""
    with _virtdisk.OpenVirtualDisk(str(path), version=2) as handle:
        _virtdisk.ResizeVirtualDisk(handle, size, flags=flags)


def device_size(disk: virtdisk.VirtualDisk) -> int:
    """What the kernel says, in bytes."""
    name = pathlib.Path(node_of(disk)).name
    return int(pathlib.Path(f"/sys/block/{name}/size").read_text()) * 512


def check_sizes(path: pathlib.Path, disk: virtdisk.VirtualDisk, size: int) -> None:
    """Everybody is told the same."""
    assert device_size(disk) == size
    assert disk.info.virtual_size == size
    with _virtdisk.OpenVirtualDisk(str(path), version=2) as handle:
        assert _virtdisk.GetVirtualDiskInformation(handle, 1)[0] == size


def buffered(disk: virtdisk.VirtualDisk, offset: int, length: int) -> bytes:
    """Through the device's page cache, as most programs read."""
    with open(node_of(disk), "rb") as file:
        file.seek(offset)
        return file.read(length)


def qemu_reads(path: pathlib.Path) -> bytes:
    """The disk as QEMU reads it; the image is not attached."""
    qemu_img = require_tool("qemu-img", package="qemu-utils")
    raw = path.with_suffix(".raw")
    run([qemu_img, "check", "-q", "-f", "vhdx", str(path)])
    run([qemu_img, "convert", "-f", "vhdx", "-O", "raw", str(path), str(raw)])
    return raw.read_bytes()


class Model:
    """An attached disk and what must be in it."""

    def __init__(self, disk: virtdisk.VirtualDisk, size: int) -> None:
        self.disk = disk
        self.content = bytearray(size)

    def write(self, at: int, data: bytes) -> None:
        with opened_device(self.disk) as device:
            device.write(at, data)
        self.content[at : at + len(data)] = data

    def scatter(self, seed: int) -> None:
        """Pieces at random, and in the last sectors."""
        generator = random.Random(seed)
        size = len(self.content)
        for at in [generator.randrange(size // 4096 - 8) * 4096 for _ in range(6)]:
            self.write(at, generator.randbytes(8 * 4096))
        self.write(size - 4096, generator.randbytes(4096))

    def resized(self, size: int) -> None:
        del self.content[size:]
        self.content.extend(bytes(size - len(self.content)))

    def check(self) -> None:
        with opened_device(self.disk, writable=False) as device:
            assert device.read(0, len(self.content)) == self.content
        assert buffered(self.disk, 0, len(self.content)) == self.content


# What it comes to.


@pytest.mark.parametrize("kind", ["dynamic", "4096", "child"])
def test_larger_and_smaller(kind: str, tmp_path: pathlib.Path) -> None:
    """What is inside stays, what is new is zeros, also if it was there once."""
    path = tmp_path / "disk.vhdx"
    parent = tmp_path / "parent.vhdx"
    if kind == "child":
        virtdisk.create(parent, SIZE, block_size=MIB).close()
        virtdisk.create(path, parent=parent).close()
    else:
        sector = 4096 if kind == "4096" else 512
        virtdisk.create(path, SIZE, block_size=MIB, sector_size=sector).close()
    with virtdisk.attach(path, drive_letter=False) as disk:
        model = Model(disk, SIZE)
        model.scatter(1)
        buffered(disk, 0, SIZE)  # into the page cache
        for seed, (size, flags) in enumerate(
            [
                (SIZE + 4096, 0),
                (40 * MIB, UNSAFE),
                (SIZE // 2 + 8192, UNSAFE),
                (SIZE // 2 + 8192, 0),
                (60 * MIB, 0),
                (3 * MIB, UNSAFE),
                (32 * MIB, 0),
            ]
        ):
            resize(path, size, flags)
            model.resized(size)
            check_sizes(path, disk, size)
            model.check()
            model.scatter(seed)
        assert not device_error(disk, 32 * MIB - 4096)
    if kind == "dynamic":
        assert qemu_reads(path) == model.content
    with virtdisk.attach(path, drive_letter=False) as disk:
        model.disk = disk
        model.check()


def device_error(disk: virtdisk.VirtualDisk, at: int) -> bool:
    """Whether a sector cannot be read."""
    with opened_device(disk, writable=False) as device:
        try:
            device.read(at, 4096)
        except OSError:
            return True
    return False


Kind = Literal["dynamic", "fixed"]
KINDS: list[Kind] = ["dynamic", "fixed"]
#: A disk server serves the one, the loop driver alone shows the other.
both = pytest.mark.parametrize("kind", KINDS)


def test_a_fixed_image(tmp_path: pathlib.Path) -> None:
    """In whole blocks; its data stays one run at the end of the file."""
    path = tmp_path / "disk.vhdx"
    virtdisk.create(path, SIZE, type="fixed", block_size=MIB).close()
    with virtdisk.attach(path, drive_letter=False) as disk:
        assert not socket_of(disk).exists()
        model = Model(disk, SIZE)
        model.scatter(1)
        buffered(disk, 0, SIZE)
        for seed, (size, flags) in enumerate(
            [
                (SIZE + MIB, 0),
                (40 * MIB, UNSAFE),
                (12 * MIB, UNSAFE),
                (12 * MIB, 0),
                (60 * MIB, 0),
                (3 * MIB, UNSAFE),
                (32 * MIB, 0),
            ]
        ):
            with refused(INVALID_STATE):
                resize(path, size + 512, UNSAFE)
            resize(path, size, flags)
            model.resized(size)
            check_sizes(path, disk, size)
            model.check()
            model.scatter(seed)
    assert qemu_reads(path) == model.content
    with virtdisk.attach(path, drive_letter=False) as disk:
        model.disk = disk
        model.check()


def test_a_fixed_image_with_something_behind(tmp_path: pathlib.Path) -> None:
    """Then it becomes larger only when it is detached; smaller at any time."""
    path = tmp_path / "disk.vhdx"
    # 1 MiB of table is for 128 GiB in blocks of 1 MiB, less its bitmap entries;
    # another one can only be behind the data.
    size = 127 * GIB
    _virtdisk.CreateVirtualDisk(
        str(path),
        maximum_size=size,
        block_size_in_bytes=MIB,
        flags=FIXED | SPARSE_FILE,
    ).close()
    with virtdisk.attach(path, drive_letter=False) as disk:
        assert not socket_of(disk).exists()
        with opened_device(disk) as device:
            device.write(size - MIB, pattern(MIB))
            size += 2 * GIB
            resize(path, size)
            device.write(size - MIB, pattern(MIB, 2))
            with refused(INVALID_STATE):
                resize(path, size + GIB)
            check_sizes(path, disk, size)
            assert device.read(size - 2 * GIB - MIB, MIB) == pattern(MIB)
            size -= GIB
            resize(path, size, UNSAFE)
            check_sizes(path, disk, size)
            assert device.read(size - GIB - MIB, 2 * MIB) == pattern(MIB) + bytes(MIB)


@both
def test_what_is_still_in_the_page_cache(kind: Kind, tmp_path: pathlib.Path) -> None:
    """Dirty pages are not lost by it; those behind the end do not come back."""
    path = tmp_path / "disk.vhdx"
    virtdisk.create(path, SIZE, type=kind, block_size=MIB).close()
    with (
        virtdisk.attach(path, drive_letter=False) as disk,
        open(node_of(disk), "r+b", buffering=0) as file,
    ):
        os.pwrite(file.fileno(), pattern(MIB), 0)
        os.pwrite(file.fileno(), pattern(MIB), 20 * MIB)
        disk.resize(SIZE // 2, allow_unsafe=True)
        disk.resize(SIZE)
        assert os.pread(file.fileno(), MIB, 0) == pattern(MIB)
        assert os.pread(file.fileno(), MIB, 20 * MIB) == bytes(MIB)
    content = qemu_reads(path)
    assert content == pattern(MIB).ljust(SIZE, b"\0")


def test_behind_the_end(tmp_path: pathlib.Path) -> None:
    """Who has the device open is told of the end, not of an old one."""
    path = tmp_path / "disk.vhdx"
    virtdisk.create(path, SIZE, block_size=MIB).close()
    with (
        virtdisk.attach(path, drive_letter=False) as disk,
        opened_device(disk) as device,
    ):
        disk.resize(SIZE // 2, allow_unsafe=True)
        with pytest.raises(OSError, match="No space left"):
            device.write(SIZE // 2, bytes(4096))
        assert os.preadv(device.descriptor, [device.buffer], SIZE // 2) == 0
        disk.resize(SIZE)
        device.write(SIZE - 4096, b"last" * 1024)
        assert device.read(SIZE - 4096, 4096) == b"last" * 1024


@pytest.mark.parametrize("how", ["handle", "overlapped", "aio", "command"])
def test_every_way_to_ask(how: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "disk.vhdx"
    virtdisk.create(path, SIZE).close()
    with virtdisk.attach(path, drive_letter=False) as disk:
        if how == "handle":
            disk.resize(2 * SIZE)
        elif how == "overlapped":
            overlapped = _virtdisk.Overlapped()
            _virtdisk.ResizeVirtualDisk(
                handle_of(disk), 2 * SIZE, overlapped=overlapped
            )
            assert overlapped.wait(60)
            overlapped.result()
        elif how == "aio":
            asyncio.run(resize_by_aio(path))
        else:
            run([*PYTHON, "-m", "virtdisk", "resize", str(path), str(2 * SIZE)])
        check_sizes(path, disk, 2 * SIZE)
    with virtdisk.open(path) as closed:
        assert closed.info.virtual_size == 2 * SIZE


async def resize_by_aio(path: pathlib.Path) -> None:
    async with await aio.open(path) as disk:
        await disk.resize(2 * SIZE)


def test_permanently_attached(tmp_path: pathlib.Path) -> None:
    """Nobody holds it; the record still leads to it afterwards."""
    path = tmp_path / "disk.vhdx"
    virtdisk.create(path, SIZE).close()
    with virtdisk.open(path) as disk:
        disk.attach(permanent=True, drive_letter=False)
        node = node_of(disk)
    try:
        resize(path, 2 * SIZE)
        with open(node, "rb") as file:
            assert file.seek(0, os.SEEK_END) == 2 * SIZE
        found = [image for image in virtdisk.attached() if image.path == str(path)]
        assert [image.physical_path for image in found] == [node]
    finally:
        virtdisk.detach(path)


# Partitions and file systems.


def partition(device: str, script: str) -> None:
    sfdisk = require_tool("sfdisk", package="fdisk")
    run([sfdisk, "-q", "--no-reread", "--no-tell-kernel", device], input=script)


def may_grow_mounted() -> bool:
    """CAP_SYS_RESOURCE, which ext4 wants for it and containers may lack."""
    status = pathlib.Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("CapEff:")]
    return bool(int(line.split()[1], 16) & 1 << 24)


def grow_file_system(node: str, point: pathlib.Path) -> None:
    """While it is mounted; between two mounts, where that is not allowed."""
    fsck = require_tool("e2fsck", package="e2fsprogs")
    resize2fs = require_tool("resize2fs", package="e2fsprogs")
    if may_grow_mounted():
        run([resize2fs, node])
        return
    run(["umount", str(point)])
    run([fsck, "-fp", node])
    run([resize2fs, node])
    run(["mount", node, str(point)])


@both
def test_a_mounted_file_system(kind: Kind, tmp_path: pathlib.Path) -> None:
    """The disk grows, then the partition, then the file system, in use."""
    mkfs = require_tool("mkfs.ext4", package="e2fsprogs")
    fsck = require_tool("e2fsck", package="e2fsprogs")
    resizepart = require_tool("resizepart", package="util-linux")
    path, point = tmp_path / "disk.vhdx", tmp_path / "mnt"
    point.mkdir()
    virtdisk.create(path, 48 * MIB, type=kind, block_size=MIB).close()
    with virtdisk.attach(path, drive_letter=False) as disk:
        partition(node_of(disk), "label: gpt\nstart=2048, size=65536\n")
    data, more = pattern(3 * MIB), pattern(60 * MIB, 2)
    with virtdisk.attach(path) as disk:
        node = f"{node_of(disk)}p1"
        assert eventually(lambda: os.path.exists(node))
        run([mkfs, "-q", "-F", node])
        run(["mount", node, str(point)])
        try:
            (point / "before").write_bytes(data)
            disk.resize(128 * MIB)
            (point / "during").write_bytes(data)
            # 32 MiB from 1 MiB on become 100 MiB, in the table and the kernel.
            partition(node_of(disk), "label: gpt\nstart=2048, size=204800\n")
            run([resizepart, node_of(disk), "1", "204800"])
            with open(node, "rb") as file:
                assert file.seek(0, os.SEEK_END) == 100 * MIB
            grow_file_system(node, point)
            (point / "after").write_bytes(more)
            # 1 MiB, the partition, and the table's copy: 128 entries, a header
            end = 101 * MIB + 33 * 512
            if kind == "fixed":
                end = 102 * MIB
                with refused(INVALID_STATE):
                    disk.resize(smallest=True)
                disk.resize(end)
            else:
                disk.resize(smallest=True)
            os.sync()
            assert (point / "before").read_bytes() == data
        finally:
            run(["umount", str(point)])
        check_backup(disk, end)
    with virtdisk.attach(path) as disk:
        node = f"{node_of(disk)}p1"
        assert eventually(lambda: os.path.exists(node))
        run([fsck, "-fn", node])
        run(["mount", "-o", "ro", node, str(point)])
        try:
            for name, expected in (("before", data), ("during", data), ("after", more)):
                assert (point / name).read_bytes() == expected
        finally:
            run(["umount", str(point)])


def test_a_gpt_seen_through_the_device(tmp_path: pathlib.Path) -> None:
    """Its copy has moved, whatever was in the page cache, and p1 is mounted."""
    mkfs = require_tool("mkfs.ext4", package="e2fsprogs")
    sgdisk = require_tool("sgdisk", package="gdisk")
    path, point = tmp_path / "disk.vhdx", tmp_path / "mnt"
    point.mkdir()
    virtdisk.create(path, 64 * MIB, block_size=MIB).close()
    with virtdisk.attach(path, drive_letter=False) as disk:
        partition(node_of(disk), "label: gpt\nstart=2048, size=40960\n")
    with virtdisk.attach(path) as disk:
        node = f"{node_of(disk)}p1"
        assert eventually(lambda: os.path.exists(node))
        run([mkfs, "-q", "-F", node])
        run(["mount", node, str(point)])
        try:
            (point / "file").write_bytes(pattern(MIB))
            # A second partition that only the page cache knows of yet.
            partition(
                node_of(disk),
                "label: gpt\nstart=2048, size=40960\nstart=43008, size=8192\n",
            )
            end = (43008 + 8192 + 33) * 512
            with refused(WOULD_TRUNCATE):
                disk.resize(end - 512)
            with open(node_of(disk), "rb") as file:
                file.read()  # old sectors of the new copy too
                disk.resize(40 * MIB)
                check_backup(disk, 40 * MIB)
                file.seek(0)
                file.read()
                disk.resize(smallest=True)
                check_backup(disk, end)
            assert "No problems found" in run([sgdisk, "-v", node_of(disk)])
            with refused(AT_MINIMUM):
                disk.resize(smallest=True)
            assert (point / "file").read_bytes() == pattern(MIB)
        finally:
            run(["umount", str(point)])
        check_sizes(path, disk, end)
    content = qemu_reads(path)
    assert len(content) == end
    assert content[end - 512 :][:8] == b"EFI PART"


def check_backup(disk: virtdisk.VirtualDisk, size: int) -> None:
    """The header in the last sector, which says so itself (UEFI 5.3.2)."""
    assert device_size(disk) == size
    last = buffered(disk, size - 512, 512)
    first = buffered(disk, 512, 512)
    assert (last[:8], first[:8]) == (b"EFI PART", b"EFI PART")
    sector = size // 512 - 1
    assert struct.unpack_from("<QQ", last, 24) == (sector, 1)
    assert struct.unpack_from("<QQ", first, 24) == (1, sector)


def test_without_a_table(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "disk.vhdx"
    virtdisk.create(path, SIZE).close()
    with virtdisk.attach(path, drive_letter=False) as disk:
        with refused(NO_MINIMUM):
            disk.resize(SIZE // 2)
        with refused(NO_MINIMUM):
            disk.resize(smallest=True)
        with refused(INVALID_PARAMETER):
            disk.resize(2 * SIZE + 1)
        with refused(INVALID_PARAMETER):
            disk.resize(3 * MIB - 512, allow_unsafe=True)
        with refused(INVALID_STATE):
            _virtdisk.ExpandVirtualDisk(handle_of(disk), 2 * SIZE)
        check_sizes(path, disk, SIZE)


# What is refused, and changes nothing.


@both
def test_a_part_that_is_shown(kind: Kind, tmp_path: pathlib.Path) -> None:
    """It stays what it is, and cannot be cut off."""
    path = tmp_path / "disk.vhdx"
    virtdisk.create(path, SIZE, type=kind, block_size=MIB).close()
    with virtdisk.attach(
        path, drive_letter=False, restricted_range=(8 * MIB, 4 * MIB)
    ) as disk:
        with opened_device(disk) as device:
            device.write(0, pattern(4 * MIB))
        for size, flags in ((11 * MIB, UNSAFE), (0, SMALLEST)):
            with refused(WOULD_TRUNCATE):
                resize(path, size, flags)
        for size in (12 * MIB, 2 * SIZE):
            resize(path, size, UNSAFE)
            assert device_size(disk) == 4 * MIB
            assert disk.info.virtual_size == size
            assert buffered(disk, 0, 4 * MIB) == pattern(4 * MIB)
    content = qemu_reads(path)
    assert content[8 * MIB : 12 * MIB] == pattern(4 * MIB)
    assert len(content) == 2 * SIZE


@both
def test_not_while_only_read(kind: Kind, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "disk.vhdx"
    virtdisk.create(path, SIZE, type=kind, block_size=MIB).close()
    before = path.read_bytes()
    with virtdisk.attach(path, read_only=True, drive_letter=False) as disk:
        with refused(WRITE_PROTECT):
            resize(path, 2 * SIZE)
        assert device_size(disk) == SIZE
    assert path.read_bytes() == before


def test_not_a_vhd(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "disk.vhd"
    virtdisk.create(path, SIZE).close()
    with virtdisk.attach(path, drive_letter=False) as disk:
        before = path.read_bytes()
        with refused(SHARING_VIOLATION):
            resize(path, 2 * SIZE)
        with refused(INVALID_STATE):
            disk.resize(2 * SIZE)
        assert not socket_of(disk).exists()
        assert device_size(disk) == SIZE
        assert path.read_bytes() == before


WITHOUT_RIGHTS = f"""
import sys
from virtdisk import VirtualDiskError, _virtdisk
handle = _virtdisk.OpenVirtualDisk(sys.argv[1], version=2)
try:
    _virtdisk.ResizeVirtualDisk(handle, {2 * SIZE})
except VirtualDiskError as error:
    print(error.winerror)
"""


def wait_for_udev() -> None:
    """It may still be about to give a new device's node its mode."""
    if os.path.exists("/run/udev/control"):
        run(["udevadm", "settle"])


@both
def test_without_a_right_to_the_device(kind: Kind, tmp_path: pathlib.Path) -> None:
    """Root without capabilities, and a node that is not his to open."""
    setpriv = require_tool("setpriv", package="util-linux")
    path = tmp_path / "disk.vhdx"
    virtdisk.create(path, SIZE, type=kind, block_size=MIB).close()
    with virtdisk.attach(path, drive_letter=False) as disk:
        before = path.read_bytes()
        wait_for_udev()
        mode = os.stat(node_of(disk)).st_mode
        command = [setpriv, "--bounding-set=-all", *PYTHON, "-c", WITHOUT_RIGHTS]
        os.chmod(node_of(disk), 0)
        said = run([*command, str(path)])
        os.chmod(node_of(disk), mode)
        assert said == f"{ACCESS_DENIED}\n"
        assert path.read_bytes() == before
        assert device_size(disk) == SIZE
        # To open it for writing is enough.
        os.chmod(node_of(disk), 0o600)
        assert run([*command, str(path)]) == ""
        os.chmod(node_of(disk), mode)
        check_sizes(path, disk, 2 * SIZE)


# The socket.


def socket_of(disk: virtdisk.VirtualDisk) -> pathlib.Path:
    return RECORDS / f"{pathlib.Path(node_of(disk)).name}.upkeep"


PROTOCOL = 0x76640004
COMPACT, RESIZE, CUT = 1, 2, 3
WORKING, OVER, SHORTENED = 0, 1, 2


def request(
    operation: int, mode: int = 0, size: int = 0, *, protocol: int = PROTOCOL
) -> bytes:
    """struct vd_upkeep_request of src/engine/server/protocol.h."""
    return struct.pack("=IHBBIIQ", protocol, operation, 0, 0, mode, 0, size)


class Client:
    """One who speaks to the server itself."""

    def __init__(self, disk: virtdisk.VirtualDisk) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(30)
        self.socket.connect(str(socket_of(disk)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes, *files: pathlib.Path, flags: int = os.O_RDWR) -> None:
        fds = [os.open(file, flags) for file in files]
        try:
            socket.send_fds(self.socket, [data], fds)
        finally:
            for fd in fds:
                os.close(fd)

    def answer(self) -> tuple[int, int, int] | None:
        """State, error and length of the next report that is not WORKING."""
        while answer := self.socket.recv(64):
            protocol, state, code, length = struct.unpack("=III4x16xQ", answer)
            assert protocol == PROTOCOL
            if state != WORKING:
                return state, code, length
        return None


SAFE_MODE, UNSAFE_MODE, SMALLEST_MODE, GROW_MODE = 1, 2, 3, 0


def test_hostile_requests(tmp_path: pathlib.Path) -> None:
    """Hung up on, or refused; the disk stays as it is."""
    path, other = tmp_path / "disk.vhdx", tmp_path / "other"
    virtdisk.create(path, SIZE).close()
    other.write_bytes(bytes(4096))
    resizing = request(RESIZE, UNSAFE_MODE, 2 * SIZE)
    odd = [
        (b"x", [path]),
        (resizing[:-1], [path]),
        (resizing + b"\0", [path]),
        (resizing, []),
        (resizing, [path, path]),
        (request(RESIZE, UNSAFE_MODE, 2 * SIZE, protocol=PROTOCOL - 1), [path]),
        (request(0, UNSAFE_MODE, 2 * SIZE), [path]),
        (request(CUT), [path]),
        (request(77, UNSAFE_MODE, 2 * SIZE), [path]),
        (request(RESIZE, GROW_MODE, 2 * SIZE), [path]),
        (request(RESIZE, 4, 2 * SIZE), [path]),
        (request(RESIZE, 0xFFFFFFFF, 2 * SIZE), [path]),
        (request(RESIZE, SAFE_MODE, 0), [path]),
        (request(RESIZE, SMALLEST_MODE, 2 * SIZE), [path]),
        (resizing[:6] + b"\1" + resizing[7:], [path]),
        (resizing[:12] + b"\1" + resizing[13:], [path]),
        (request(COMPACT, 0, 2 * SIZE), [path]),
    ]
    with virtdisk.attach(path, drive_letter=False) as disk:
        for data, files in odd:
            with Client(disk) as client:
                client.send(data, *files)
                assert client.answer() is None, data
        for data, file, flags, code in (
            (resizing, other, os.O_RDWR, INVALID_PARAMETER),
            (resizing, path, os.O_RDONLY, INVALID_PARAMETER),
            (resizing, path, os.O_WRONLY, INVALID_PARAMETER),
            (resizing, path, os.O_PATH, INVALID_PARAMETER),
            (request(COMPACT), path, os.O_RDWR, INVALID_STATE),
            (request(RESIZE, SAFE_MODE, 1), path, os.O_RDWR, INVALID_PARAMETER),
            (request(RESIZE, UNSAFE_MODE, 512), path, os.O_RDWR, INVALID_PARAMETER),
            (request(RESIZE, SAFE_MODE, 2**64 - 512), path, os.O_RDWR, 0xC03A0012),
            (request(RESIZE, SAFE_MODE, 2**63), path, os.O_RDWR, 0xC03A0012),
            (request(RESIZE, SMALLEST_MODE), path, os.O_RDWR, NO_MINIMUM),
        ):
            with Client(disk) as client:
                client.send(data, file, flags=flags)
                assert client.answer() == (OVER, code, SIZE), data
        check_sizes(path, disk, SIZE)
        resize(path, 2 * SIZE)
        check_sizes(path, disk, 2 * SIZE)


def test_a_client_that_goes_in_between(tmp_path: pathlib.Path) -> None:
    """Nothing is cut off before he says so; the next resize mends the rest."""
    path = tmp_path / "disk.vhdx"
    virtdisk.create(path, SIZE, block_size=MIB).close()
    half = request(RESIZE, UNSAFE_MODE, SIZE // 2)
    with virtdisk.attach(path, drive_letter=False) as disk:
        model = Model(disk, SIZE)
        model.scatter(3)
        for last in (None, half, request(CUT, protocol=1)):
            with Client(disk) as client:
                client.send(half, path)
                assert client.answer() == (SHORTENED, 0, SIZE // 2)
                # Behind the file's end nothing is read, and nothing harmed.
                assert device_error(disk, SIZE - 4096)
                if last is not None:
                    client.send(last)
                    assert client.answer() == (OVER, ABORTED, SIZE)
            assert eventually(lambda: not device_error(disk, SIZE - 4096))
            model.check()
        # Killed when the disk was smaller, but the device not yet:
        with Client(disk) as client:
            client.send(half, path)
            assert client.answer() == (SHORTENED, 0, SIZE // 2)
            client.send(request(CUT))
            assert client.answer() == (OVER, 0, SIZE // 2)
        assert device_size(disk) == SIZE
        assert disk.info.virtual_size == SIZE // 2
        assert device_error(disk, SIZE // 2)
        assert buffered(disk, 0, SIZE // 2) == model.content[: SIZE // 2]
        resize(path, SIZE // 2)
        check_sizes(path, disk, SIZE // 2)
        # ... and when it was larger:
        with Client(disk) as client:
            client.send(request(RESIZE, SAFE_MODE, SIZE), path)
            assert client.answer() == (OVER, 0, SIZE)
        assert device_size(disk) == SIZE // 2
        resize(path, SIZE)
        check_sizes(path, disk, SIZE)
        model.resized(SIZE // 2)
        model.resized(SIZE)
        model.check()


@both
def test_two_at_once(kind: Kind, tmp_path: pathlib.Path) -> None:
    """One after the other, and everybody agrees on the last size."""
    path = tmp_path / "disk.vhdx"
    virtdisk.create(path, SIZE, type=kind, block_size=MIB).close()
    failed: list[BaseException] = []

    def often(step: int) -> None:
        try:
            for n in range(1, 8):
                resize(path, SIZE + n * step, UNSAFE)
        except BaseException as error:
            failed.append(error)

    with virtdisk.attach(path, drive_letter=False) as disk:
        threads = [threading.Thread(target=often, args=(s,)) for s in (MIB, 2 * MIB)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        size = device_size(disk)
        assert size in {SIZE + 7 * MIB, SIZE + 14 * MIB}
        check_sizes(path, disk, size)


# While it is used.


class Writer:
    """Writes and reads what stays inside, until it is told to stop."""

    def __init__(self, disk: virtdisk.VirtualDisk, size: int) -> None:
        self.content = bytearray(size)
        self.device = Device(node_of(disk), writable=True)
        self.failed: list[BaseException] = []
        self.count = 0
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        try:
            generator = random.Random(5)
            while not self.stopping.is_set():
                self.step(generator)
                self.count += 1
        except BaseException as error:
            self.failed.append(error)

    def step(self, generator: random.Random) -> None:
        length = generator.randrange(1, 33) * 4096
        at = generator.randrange((len(self.content) - length) // 4096) * 4096
        if generator.random() < 0.5:
            data = generator.randbytes(length)
            self.content[at : at + length] = data
            self.device.write(at, data)
        else:
            assert self.device.read(at, length) == self.content[at : at + length]

    def __enter__(self) -> Self:
        self.thread.start()
        assert eventually(lambda: self.count > 3 or bool(self.failed))
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.thread.join()
        self.device.close()


@both
def test_under_io(kind: Kind, tmp_path: pathlib.Path) -> None:
    """Twenty sizes, while others read and write; nobody notices."""
    path = tmp_path / "disk.vhdx"
    virtdisk.create(path, SIZE, type=kind, block_size=MIB).close()
    generator = random.Random(6)
    with virtdisk.attach(path, drive_letter=False) as disk:
        with Writer(disk, SIZE) as writer:
            for _ in range(20):
                before = writer.count
                size = SIZE + generator.randrange(1, 20) * MIB
                resize(path, size, UNSAFE)
                assert device_size(disk) == size
                assert eventually(lambda n=before: writer.count > n)  # type: ignore[misc]
        assert writer.failed == []
    assert qemu_reads(path) == bytes(writer.content).ljust(size, b"\0")


def server_of(path: pathlib.Path) -> int:
    """The process that serves an image."""
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            if not (entry / "cmdline").read_bytes().startswith(b"@virtdisk-server"):
                continue
            links = {os.readlink(link) for link in (entry / "fd").iterdir()}
            if str(path) in links:
                return int(entry.name)
    raise AssertionError("nobody serves it")


def test_the_server_is_killed(tmp_path: pathlib.Path) -> None:
    """At random moments; the image has the old or the new size, and opens."""
    path = tmp_path / "disk.vhdx"
    virtdisk.create(path, SIZE, block_size=MIB).close()
    generator = random.Random(7)
    content = bytearray(SIZE)
    for n in range(60 if LONG else 5):
        before = len(content)
        after = generator.randrange(8, 64) * MIB
        with contextlib.suppress(VirtualDiskError):  # of the end
            kill_while_resizing(path, after, content, generator)
        with virtdisk.attach(path, drive_letter=False) as disk:
            now = device_size(disk)
            assert now in {before, after}, n
            model = Model(disk, 0)
            model.content = content
            model.resized(now)
            model.check()
    assert qemu_reads(path) == content


def kill_while_resizing(
    path: pathlib.Path, size: int, content: bytearray, generator: random.Random
) -> None:
    """Writes before, durably, into what both sizes have."""
    with virtdisk.attach(path, drive_letter=False) as disk:
        with opened_device(disk) as device:
            at = generator.randrange(MIB) // 4096 * 4096
            content[at : at + 65536] = generator.randbytes(65536)
            device.write(at, bytes(content[at : at + 65536]))
            device.flush()
        delay = generator.uniform(0, 0.05)
        timer = threading.Timer(delay, os.kill, (server_of(path), signal.SIGKILL))
        timer.start()
        with contextlib.suppress(VirtualDiskError):
            resize(path, size, UNSAFE)
        timer.join()


KILLED_CLIENT = """
import sys
from virtdisk import _virtdisk
handle = _virtdisk.OpenVirtualDisk(sys.argv[1], version=2)
print("begun", flush=True)
for size in [int(word) for word in sys.argv[2:]] * 1000:
    _virtdisk.ResizeVirtualDisk(handle, size, flags=1)
"""


@both
def test_the_client_is_killed(kind: Kind, tmp_path: pathlib.Path) -> None:
    """At random moments; what is inside stays, and the device can follow."""
    path = tmp_path / "disk.vhdx"
    virtdisk.create(path, SIZE, type=kind, block_size=MIB).close()
    generator = random.Random(11)
    sizes = (SIZE, 2 * SIZE, SIZE + MIB)
    command = [*PYTHON, "-c", KILLED_CLIENT, str(path), *map(str, sizes)]
    content = bytearray(SIZE)
    for _ in range(60 if LONG else 3):
        with virtdisk.attach(path, drive_letter=False) as disk:
            model = Model(disk, 0)
            model.content = content
            model.scatter(generator.randrange(1000))
            with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
                assert client.stdout is not None
                assert client.stdout.readline() == b"begun\n"
                time.sleep(generator.uniform(0, 0.2))
                client.kill()
            with opened_device(disk, writable=False) as device:
                assert device.read(0, SIZE) == model.content
            # What he left in the file may be in the way of a larger one.
            now = settled_size(disk)
            resize(path, now)
            check_sizes(path, disk, now)
            resize(path, SIZE, UNSAFE)
            check_sizes(path, disk, SIZE)
            model.check()
        assert qemu_reads(path) == model.content


def settled_size(disk: virtdisk.VirtualDisk) -> int:
    """The disk's, once the server has done what it was asked for."""
    size = 0

    def settled() -> bool:
        nonlocal size
        before, size = size, int(disk.info.virtual_size)
        time.sleep(0.02)
        return before == size

    assert eventually(settled)
    return size


def test_no_space_for_data(tmp_path: pathlib.Path) -> None:
    """A fixed image does not fit: the old size for everybody, and it works."""
    with small_file_system(tmp_path / "small", 20 * MIB) as point:
        path = point / "disk.vhdx"
        virtdisk.create(path, 8 * MIB, type="fixed", block_size=MIB).close()
        with virtdisk.attach(path, drive_letter=False) as disk:
            model = Model(disk, 8 * MIB)
            model.scatter(8)
            with refused(DISK_FULL):
                resize(path, 64 * MIB)
            check_sizes(path, disk, 8 * MIB)
            model.check()
            resize(path, 9 * MIB)
            model.resized(9 * MIB)
            model.check()


def test_no_space(tmp_path: pathlib.Path) -> None:
    """A larger table does not fit: the old size for everybody, and it works."""
    with small_file_system(tmp_path / "small", 12 * MIB) as point:
        path = point / "disk.vhdx"
        virtdisk.create(path, 8 * MIB, block_size=MIB).close()
        with virtdisk.attach(path, drive_letter=False) as disk:
            model = Model(disk, 8 * MIB)
            model.scatter(8)
            # 8 bytes for each MiB: 16 MiB of table
            with refused(DISK_FULL):
                resize(path, 2 << 40)
            check_sizes(path, disk, 8 * MIB)
            model.check()
            model.scatter(9)
            resize(path, 9 * MIB)
            model.resized(9 * MIB)
            model.check()


def test_detached_meanwhile(tmp_path: pathlib.Path) -> None:
    """One waits for the other; the size is the old or the new one."""
    path = tmp_path / "disk.vhdx"
    virtdisk.create(path, SIZE).close()
    size = SIZE
    for delay in (0, 0.002, 0.01):
        disk = virtdisk.attach(path, drive_letter=False)
        timer = threading.Timer(delay, disk.detach)
        timer.start()
        with contextlib.suppress(VirtualDiskError):
            resize(path, size + MIB)
            size += MIB
        timer.join()
        disk.close()
        with virtdisk.open(path) as now:
            assert now.info.virtual_size == size
