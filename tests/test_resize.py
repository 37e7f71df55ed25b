"""ExpandVirtualDisk and ResizeVirtualDisk on real images.

Witnesses are QEMU (size and content), sgdisk and sfdisk (partition tables)
and file systems.  What is refused, and power cuts: also
tests/engine/test_whole_image.c.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pathlib
import random
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Literal

import pytest
from engine_build import Build, run
from images import GIB, MIB, Kind, Tool, running
from support import (
    LINUX,
    eventually,
    pattern,
    require_loop,
    require_root,
    require_tool,
    small_file_system,
)

import virtdisk
from virtdisk import VirtualDiskError, _virtdisk

pytestmark = pytest.mark.skipif(not LINUX, reason="the engine is for Linux")

UNSAFE, SMALLEST = 1, 2
FIXED, SPARSE_FILE = 1, 0x80
NO_LOCAL_HOST = 8
SHARING_VIOLATION = 32
INVALID_PARAMETER = 87
WRITE_PROTECT = 19
DISK_FULL = 112
ID_MISMATCH = 0xC03A000E
INVALID_SIZE = 0xC03A0012
INVALID_TYPE = 0xC03A001B
INVALID_STATE = 0xC03A001C
WOULD_TRUNCATE = 0xC03A0025
NO_MINIMUM = 0xC03A0026
AT_MINIMUM = 0xC03A0027
QEMU_FORMAT = {".vhd": "vpc", ".vhdx": "vhdx"}
LONG = bool(os.environ.get("VIRTDISK_LONG"))
SIZE = 24 * MIB

KINDS = [
    Kind("vhd-fixed"),
    Kind("vhd-dynamic", 2 * MIB),
    Kind("vhdx-fixed", MIB),
    Kind("vhdx-dynamic", MIB),
    Kind("vhdx-dynamic", 4 * MIB, 4096),
]
VHDX = Kind("vhdx-dynamic", MIB)


@pytest.fixture
def tool(disk_build: Build) -> Iterator[Tool]:
    with running(disk_build.link_once("disk_tool")) as tool:
        yield tool


def opened(path: pathlib.Path) -> _virtdisk.Handle:
    return _virtdisk.OpenVirtualDisk(str(path), version=2)


def expand(path: pathlib.Path, size: int, flags: int = 0) -> None:
    with opened(path) as handle:
        _virtdisk.ExpandVirtualDisk(handle, size, flags=flags)


def resize(path: pathlib.Path, size: int, flags: int = 0) -> None:
    with opened(path) as handle:
        _virtdisk.ResizeVirtualDisk(handle, size, flags=flags)


@contextlib.contextmanager
def refused(code: int) -> Iterator[None]:
    with pytest.raises(VirtualDiskError) as caught:
        yield
    assert caught.value.winerror == code


def fill(tool: Tool, path: pathlib.Path, seed: int = 1) -> bytes:
    """Random pieces all over a disk; its content."""
    generator = random.Random(seed)
    size = tool.open(path, "write")["size"]
    content = bytearray(size)
    for at in [0, size - 65536, *(generator.randrange(size // 4096) for _ in range(9))]:
        at = at if at > size // 4096 or at == 0 else at * 4096
        data = generator.randbytes(min(65536, size - at))
        content[at : at + len(data)] = data
        tool.write(at, data)
    tool.close()
    return bytes(content)


def content_of(tool: Tool, path: pathlib.Path) -> bytes:
    size = tool.open(path)["size"]
    content = b"".join(tool.content(size))
    tool.close()
    return content


def raw_of(path: pathlib.Path) -> pathlib.Path:
    """The disk as QEMU reads it, in a raw file."""
    qemu_img = require_tool("qemu-img", package="qemu-utils")
    raw = path.with_suffix(".raw")
    form = QEMU_FORMAT[path.suffix]
    run([qemu_img, "convert", "-f", form, "-O", "raw", str(path), str(raw)])
    return raw


def qemu_size(path: pathlib.Path) -> int:
    qemu_img = require_tool("qemu-img", package="qemu-utils")
    form = QEMU_FORMAT[path.suffix]
    answer = run([qemu_img, "info", "-f", form, "--output=json", str(path)]).stdout
    return int(json.loads(answer)["virtual-size"])


# Larger.


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("function", [expand, resize])
def test_larger(
    function: object, kind: Kind, tool: Tool, tmp_path: pathlib.Path
) -> None:
    """What was there stays, the rest is zeros; QEMU agrees."""
    path = tool.create(kind, SIZE, tmp_path / f"disk{kind.suffix}")
    content = fill(tool, path)
    for size in (SIZE + 4096, 41 * MIB, 200 * MIB):
        function(path, size)  # type: ignore[operator]
        assert tool.open(path)["size"] == size
        tool.close()
    assert content_of(tool, path) == content.ljust(200 * MIB, b"\0")
    if kind.sector == 512:
        assert qemu_size(path) == 200 * MIB
        raw = raw_of(path)
        with raw.open("rb") as file:
            assert file.read(SIZE) == content
    tool.open(path, "write")
    tool.write(200 * MIB - 4096, b"last" * 1024)
    tool.close()
    assert content_of(tool, path)[-4096:] == b"last" * 1024


def bat_length(path: pathlib.Path) -> int:
    """Of a VHDX's BAT region, in bytes ([MS-VHDX] 2.2.3)."""
    bat = uuid.UUID("2DC27766-F623-4200-9D64-115E9BFD4A08").bytes_le
    with path.open("rb") as file:
        file.seek(192 << 10)
        table = file.read(64 << 10)
    return int.from_bytes(table[table.index(bat) + 24 :][:4], "little")


def test_a_fixed_image_whose_table_moves(tool: Tool, tmp_path: pathlib.Path) -> None:
    """1 MiB of BAT is for 128 GiB in blocks of 1 MiB, less its bitmap entries."""
    qemu_io = require_tool("qemu-io", package="qemu-utils")
    path = tmp_path / "disk.vhdx"
    before, after = 127 * GIB, 129 * GIB
    _virtdisk.CreateVirtualDisk(
        str(path),
        maximum_size=before,
        block_size_in_bytes=MIB,
        flags=FIXED | SPARSE_FILE,
    ).close()
    assert bat_length(path) == MIB
    tool.open(path, "write")
    for at in (0, before - 4096):
        tool.write(at, b"\x11" * 4096)
    tool.close()
    expand(path, after)
    assert bat_length(path) == 2 * MIB
    tool.open(path, "write")
    tool.write(after - 4096, b"\x22" * 4096)
    tool.close()
    assert qemu_size(path) == after
    expected = [(0x11, 0), (0x11, before - 4096), (0, before), (0x22, after - 4096)]
    for value, at in expected:
        command = f"read -P {value} {at} 4096"
        answer = run([qemu_io, "-r", "-f", "vhdx", "-c", command, str(path)])
        assert "verification failed" not in answer.stdout


def test_expand_is_for_more_only(tool: Tool, tmp_path: pathlib.Path) -> None:
    path = tool.create(VHDX, SIZE, tmp_path / "disk.vhdx")
    before = path.read_bytes()
    for size in (0, 1, SIZE - 4096, SIZE, SIZE + 1):
        with refused(INVALID_PARAMETER):
            expand(path, size)
    assert path.read_bytes() == before
    expand(path, SIZE + 512, flags=1)  # NOTIFY_CHANGE


@pytest.mark.parametrize("kind", [Kind("vhd-dynamic", 2 * MIB), VHDX], ids=str)
def test_a_child(kind: Kind, tool: Tool, tmp_path: pathlib.Path) -> None:
    """Expand is not for children; a child VHDX can be resized."""
    parent = tool.create(kind, SIZE, tmp_path / f"parent{kind.suffix}")
    below = fill(tool, parent)
    child = tmp_path / f"child{kind.suffix}"
    tool.create_child(parent, child)
    with refused(INVALID_TYPE):
        expand(child, 2 * SIZE)
    if kind is not VHDX:
        with refused(INVALID_TYPE):
            resize(child, 2 * SIZE)
        return
    resize(child, 2 * SIZE)
    assert content_of(tool, child) == below.ljust(2 * SIZE, b"\0")
    resize(child, SIZE // 2, UNSAFE)
    assert content_of(tool, child) == below[: SIZE // 2]
    resize(child, SIZE)  # what was cut off does not come back
    assert content_of(tool, child) == below[: SIZE // 2].ljust(SIZE, b"\0")


# Smaller.


@pytest.fixture
def small(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    with small_file_system(tmp_path / "small", 64 * MIB) as directory:
        yield directory


@pytest.mark.parametrize(
    ("kind", "size", "code"),
    [("dynamic", 65 << 40, INVALID_SIZE), ("fixed", 128 * MIB, DISK_FULL)],
)
def test_a_size_that_cannot_be_leaves_the_children(
    kind: Literal["dynamic", "fixed"], size: int, code: int, small: pathlib.Path
) -> None:
    """Nothing has changed, so they still have their parent."""
    parent, child = small / "parent.vhdx", small / "child.vhdx"
    virtdisk.create(parent, 5 * MIB, type=kind).close()
    virtdisk.create(child, parent=parent).close()
    with refused(code):
        resize(parent, size)
    with virtdisk.open(child) as disk:
        assert disk.info.virtual_size == 5 * MIB
    resize(parent, 6 * MIB)
    with refused(ID_MISMATCH):
        opened(child)


@pytest.mark.parametrize("kind", KINDS[:2], ids=str)
def test_a_vhd_cannot_shrink(kind: Kind, tool: Tool, tmp_path: pathlib.Path) -> None:
    path = tool.create(kind, SIZE, tmp_path / "disk.vhd")
    before = path.read_bytes()
    with refused(INVALID_TYPE):
        resize(path, SIZE // 2, UNSAFE)
    with refused(INVALID_TYPE):
        resize(path, 0, SMALLEST)
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", KINDS[2:], ids=str)
def test_unsafe(kind: Kind, tool: Tool, tmp_path: pathlib.Path) -> None:
    """Without a look at what is cut off."""
    path = tool.create(kind, SIZE, tmp_path / "disk.vhdx")
    content = fill(tool, path)
    with refused(NO_MINIMUM):
        resize(path, SIZE // 2)
    with refused(NO_MINIMUM):
        resize(path, 0, SMALLEST)
    resize(path, SIZE // 2, UNSAFE)
    assert content_of(tool, path) == content[: SIZE // 2]
    resize(path, SIZE, UNSAFE)
    assert content_of(tool, path) == content[: SIZE // 2].ljust(SIZE, b"\0")


def partitioned(tool: Tool, path: pathlib.Path, script: str) -> tuple[int, int]:
    """A disk of 64 MiB with a table by sfdisk; where its last partition is."""
    sfdisk = require_tool("sfdisk", package="fdisk")
    raw = path.with_suffix(".raw")
    raw.touch()
    os.truncate(raw, 64 * MIB)
    subprocess.run([sfdisk, "-q", raw], input=script, text=True, check=True)
    dump = json.loads(run([sfdisk, "--json", str(raw)]).stdout)
    last = max(dump["partitiontable"]["partitions"], key=lambda part: part["start"])
    tool.create(VHDX, 64 * MIB, path)
    content = raw.read_bytes()
    tool.open(path, "write")
    for at in range(0, len(content), MIB):
        if any(content[at : at + MIB]):
            tool.write(at, content[at : at + MIB])
    start, end = last["start"] * 512, (last["start"] + last["size"]) * 512
    tool.write(start, pattern(65536))
    tool.write(end - 65536, pattern(65536, 2))
    tool.close()
    return start, end


def check_data(tool: Tool, path: pathlib.Path, start: int, end: int) -> None:
    content = content_of(tool, path)
    assert content[start : start + 65536] == pattern(65536)
    assert content[end - 65536 : end] == pattern(65536, 2)


def test_an_mbr(tool: Tool, tmp_path: pathlib.Path) -> None:
    """To the end of the last partition, and no byte less."""
    path = tmp_path / "disk.vhdx"
    start, end = partitioned(
        tool, path, "label: dos\nstart=2048, size=8192\nstart=20480, size=10240\n"
    )
    assert end == (20480 + 10240) * 512
    with opened(path) as handle:
        info = _virtdisk.GetVirtualDiskInformation(handle, 11)
    assert info == end
    with refused(WOULD_TRUNCATE):
        resize(path, end - 512)
    resize(path, end + 4096)
    check_data(tool, path, start, end)
    resize(path, 0, SMALLEST)
    assert qemu_size(path) == end
    check_data(tool, path, start, end)
    with refused(AT_MINIMUM):
        resize(path, 0, SMALLEST)
    with refused(WOULD_TRUNCATE):
        resize(path, end - 512)
    resize(path, end - 512, UNSAFE)


def sgdisk_verifies(path: pathlib.Path, *, problems: bool = False) -> str:
    """What sgdisk says of a whole disk's table."""
    sgdisk = require_tool("sgdisk", package="gdisk")
    said = run([sgdisk, "-v", str(raw_of(path))]).stdout
    assert ("No problems found" in said) is not problems, said
    return said


GPT = "label: gpt\nstart=2048, size=8192\nstart=20480, size=10240\n"


def test_a_gpt(tool: Tool, tmp_path: pathlib.Path) -> None:
    """The table's copy moves along; sgdisk finds nothing wrong."""
    path = tmp_path / "disk.vhdx"
    start, end = partitioned(tool, path, GPT)
    sgdisk_verifies(path)
    smallest = end + 33 * 512  # the entries and the header
    with opened(path) as handle:
        assert _virtdisk.GetVirtualDiskInformation(handle, 11) == smallest
    with refused(WOULD_TRUNCATE):
        resize(path, smallest - 512)
    for size in (64 * MIB - 4096, 40 * MIB, smallest + 512):
        resize(path, size)
        sgdisk_verifies(path)
    resize(path, 0, SMALLEST)
    assert qemu_size(path) == smallest
    sgdisk_verifies(path)
    check_data(tool, path, start, end)
    with refused(AT_MINIMUM):
        resize(path, 0, SMALLEST)
    # Larger again: the copy stays where it was, and sgdisk says so.
    resize(path, 48 * MIB)
    assert "secondary" in sgdisk_verifies(path, problems=True)
    with opened(path) as handle:
        assert _virtdisk.GetVirtualDiskInformation(handle, 11) == smallest
    resize(path, 44 * MIB)
    sgdisk_verifies(path)
    check_data(tool, path, start, end)


@pytest.fixture
def device() -> None:
    require_root()
    require_loop()


@pytest.mark.usefixtures("device")
def test_a_file_system(tool: Tool, tmp_path: pathlib.Path) -> None:
    """Between two sizes it is checked and keeps its files."""
    mkfs = require_tool("mkfs.ext4", package="e2fsprogs")
    fsck = require_tool("e2fsck", package="e2fsprogs")
    mount = require_tool("mount", package="mount")
    umount = require_tool("umount", package="mount")
    path = tmp_path / "disk.vhdx"
    partitioned(tool, path, GPT)
    point = tmp_path / "mnt"
    point.mkdir()
    data = pattern(300_000)
    with virtdisk.attach(path) as disk:
        node = f"{disk.physical_path}p2"
        assert eventually(lambda: os.path.exists(node))
        run([mkfs, "-q", "-F", node])
        run([mount, node, str(point)])
        (point / "file").write_bytes(data)
        run([umount, str(point)])
    resize(path, 0, SMALLEST)
    with virtdisk.attach(path) as disk:
        node = f"{disk.physical_path}p2"
        assert eventually(lambda: os.path.exists(node))
        run([fsck, "-fn", node])
        run([mount, node, str(point)])
        try:
            assert (point / "file").read_bytes() == data
        finally:
            run([umount, str(point)])


# Attached.


def test_by_others(tool: Tool, tmp_path: pathlib.Path) -> None:
    """What is attached to one handle alone is not resized by another."""
    path = tool.create(VHDX, SIZE, tmp_path / "disk.vhdx")
    with virtdisk.attach(path, flags=NO_LOCAL_HOST), refused(SHARING_VIOLATION):
        resize(path, 2 * SIZE)
    resize(path, 2 * SIZE)


def test_without_a_device(tool: Tool, tmp_path: pathlib.Path) -> None:
    """A VHDX attached to the caller alone; SCSI tells of the new capacity."""
    path = tool.create(VHDX, SIZE, tmp_path / "disk.vhdx")
    content = fill(tool, path)
    with virtdisk.attach(path, flags=NO_LOCAL_HOST) as disk:
        disk.resize(2 * SIZE)
        status, sense = unit_ready(disk)
        # SPC-4 annex F: unit attention, capacity data has changed
        assert (status, sense[2] & 0xF, sense[12:14]) == (2, 6, b"\x2a\x09")
        assert unit_ready(disk) == (0, b"")
        with disk.raw("r+b") as file:
            assert file.read() == content.ljust(2 * SIZE, b"\0")
            file.seek(2 * SIZE - 4096)
            file.write(b"last" * 1024)
        with refused(INVALID_STATE):
            _virtdisk.ExpandVirtualDisk(handle_of(disk), 3 * SIZE)
        _virtdisk.ResizeVirtualDisk(handle_of(disk), SIZE // 2, flags=UNSAFE)
        with disk.raw() as file:
            assert file.read() == content[: SIZE // 2]
    assert content_of(tool, path) == content[: SIZE // 2]


def handle_of(disk: virtdisk.VirtualDisk) -> _virtdisk.Handle:
    handle = disk._handle
    assert isinstance(handle, _virtdisk.Handle)
    return handle


def unit_ready(disk: virtdisk.VirtualDisk) -> tuple[int, bytes]:
    """The status and sense data of TEST UNIT READY."""
    status, sense, _ = _virtdisk.RawSCSIVirtualDisk(handle_of(disk), bytes(6))
    return status, sense


def test_not_while_only_read(tool: Tool, tmp_path: pathlib.Path) -> None:
    path = tool.create(VHDX, SIZE, tmp_path / "disk.vhdx")
    before = path.read_bytes()
    with virtdisk.open(path) as disk:
        disk.attach(read_only=True, flags=NO_LOCAL_HOST)
        with refused(WRITE_PROTECT):
            disk.resize(2 * SIZE)
    assert path.read_bytes() == before


def test_a_part_that_is_shown(tool: Tool, tmp_path: pathlib.Path) -> None:
    """It stays what it is, and cannot be cut off."""
    path = tool.create(VHDX, SIZE, tmp_path / "disk.vhdx")
    with virtdisk.attach(
        path, flags=NO_LOCAL_HOST, restricted_range=(8 * MIB, 4 * MIB)
    ) as disk:
        with refused(WOULD_TRUNCATE):
            _virtdisk.ResizeVirtualDisk(handle_of(disk), 11 * MIB, flags=UNSAFE)
        _virtdisk.ResizeVirtualDisk(handle_of(disk), 12 * MIB, flags=UNSAFE)
        _virtdisk.ResizeVirtualDisk(handle_of(disk), 2 * SIZE, flags=UNSAFE)
        assert unit_ready(disk) == (0, b"")
        with disk.raw() as file:
            assert len(file.read()) == 4 * MIB


def test_asynchronously(tool: Tool, tmp_path: pathlib.Path) -> None:
    """Done when it says so."""
    path = tool.create(Kind("vhdx-fixed", MIB), SIZE, tmp_path / "disk.vhdx")
    overlapped = _virtdisk.Overlapped()
    with opened(path) as handle:
        _virtdisk.ResizeVirtualDisk(handle, 2 * SIZE, overlapped=overlapped)
        assert overlapped.wait(60)
        overlapped.result()
        status, current, completion = overlapped.progress()
        assert (status, current) == (0, completion)
        size = _virtdisk.GetVirtualDiskInformation(handle, 1)
    assert size[0] == 2 * SIZE  # the handle sees it
    overlapped = _virtdisk.Overlapped()
    with opened(path) as handle:
        _virtdisk.ResizeVirtualDisk(handle, SIZE, overlapped=overlapped)
        assert overlapped.wait(60)
        with refused(NO_MINIMUM):
            overlapped.result()


# Killed.


@pytest.mark.parametrize("kind", [KINDS[1], KINDS[2], KINDS[3]], ids=str)
def test_killed(kind: Kind, disk_build: Build, tmp_path: pathlib.Path) -> None:
    """At random moments, again and again; VIRTDISK_LONG: 200 of them."""
    generator = random.Random(9)
    program = disk_build.link_once("disk_tool")
    path = tmp_path / f"disk{kind.suffix}"
    with running(program) as tool:
        tool.create(kind, SIZE, path)
        content = fill(tool, path)
    sizes: Iterator[int] = itertools.cycle([40 * MIB, 24 * MIB + 4096, 64 * MIB, SIZE])
    if kind.suffix == ".vhd":
        sizes = itertools.count(SIZE + 4096, 512 * 1024)
    for _ in range(67 if LONG else 4):
        before = len(content)
        after = next(sizes)
        kill_while_resizing(program, path, after, generator.uniform(0, 0.01))
        with running(program) as tool:
            now = tool.open(path, "write")["size"]
            tool.close()
            assert now in {before, after}
            content = content[:now].ljust(now, b"\0")
            assert content_of(tool, path) == content


def kill_while_resizing(
    program: pathlib.Path, path: pathlib.Path, size: int, delay: float
) -> None:
    tool = Tool(program)
    tool.open(path, "write")
    timer = threading.Timer(delay, tool.process.kill)
    timer.start()
    with contextlib.suppress(AssertionError):  # it is gone
        tool.resize(size)
        time.sleep(delay)
    timer.join()
    tool.kill()
