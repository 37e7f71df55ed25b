"""Disks attached to this process alone, read and written through raw().

No device and no privilege: SCSI commands through the handle.  The commands
themselves are tested in tests/engine/test_scsi.c and test_api_raw_scsi.c; here
it is the file that they make, on real images of every kind.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import pathlib
import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import BinaryIO

import pytest
from engine_build import Build
from images import MIB, Kind, Tool, running
from support import (
    LINUX,
    PYTHON,
    make_iso,
    make_vhd,
    open_descriptors,
    pattern,
    require_root,
    require_tool,
)

import virtdisk
from virtdisk import AttachFlag, VirtualDiskError, _raw, _scsi, _virtdisk

pytestmark = pytest.mark.skipif(not LINUX, reason="needs the Linux engine")

PRIVATE = AttachFlag.NO_LOCAL_HOST
SIZE = 24 * MIB
KINDS = [
    Kind("vhd-fixed"),
    Kind("vhd-dynamic", block=512 << 10),
    Kind("vhdx-fixed", block=MIB),
    Kind("vhdx-dynamic", block=MIB),
    Kind("vhdx-dynamic", block=2 * MIB, sector=4096),
]


@pytest.fixture
def tool(disk_build: Build) -> Iterator[Tool]:
    with running(disk_build.link_once("disk_tool")) as tool:
        yield tool


@pytest.fixture
def vhd(tmp_path: pathlib.Path) -> pathlib.Path:
    return make_vhd(tmp_path / "disk.vhd")


def private(path: pathlib.Path, **keywords: object) -> virtdisk.VirtualDisk:
    return virtdisk.attach(path, flags=PRIVATE, **keywords)  # type: ignore[arg-type]


# The file.


def exercise(path: pathlib.Path, model: bytearray, seed: int) -> None:
    """Random seeks, reads, writes and flushes against an array of bytes."""
    generator = random.Random(seed)
    with private(path) as disk, disk.raw("r+b") as file:
        assert file.seek(0, io.SEEK_END) == len(model)
        for _ in range(150):
            length = int(2 ** generator.uniform(0, 19))
            offset = generator.randrange(len(model) - length)
            file.seek(offset)
            if generator.random() < 0.5:
                data = generator.randbytes(length)
                model[offset : offset + length] = data
                assert file.write(data) == length
            else:
                assert file.read(length) == model[offset : offset + length]
            if generator.random() < 0.05:
                file.flush()


def check(path: pathlib.Path, model: bytearray) -> None:
    with private(path, read_only=True) as disk, disk.raw() as file:
        assert file.read() == model


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_as_an_array_of_bytes(kind: Kind, tool: Tool, tmp_path: pathlib.Path) -> None:
    path = tool.create(kind, SIZE, tmp_path / f"disk{kind.suffix}")
    model = bytearray(SIZE)
    for seed in range(3):
        exercise(path, model, seed)
        check(path, model)


@pytest.mark.parametrize("name", ["vhdx-dynamic", "vhd-dynamic"])
def test_chain_three_deep(name: str, tool: Tool, tmp_path: pathlib.Path) -> None:
    """Each layer is written in its turn and stays as it was from then on."""
    kind = Kind(name, block=2 * MIB)
    paths = [tmp_path / f"{layer}{kind.suffix}" for layer in ("base", "middle", "leaf")]
    tool.create(kind, SIZE, paths[0])
    model = bytearray(SIZE)
    models = []
    for seed, path in enumerate(paths):
        if seed > 0:
            tool.create_child(paths[seed - 1], path)
        exercise(path, model, 100 + seed)
        models.append(bytearray(model))
    for path, expected in zip(paths, models, strict=True):
        check(path, expected)


def test_what_is_flushed_is_in_the_image(tool: Tool, tmp_path: pathlib.Path) -> None:
    """As a copy taken right after flush() shows: the next crash may come."""
    path = tool.create(Kind("vhdx-dynamic"), SIZE, tmp_path / "disk.vhdx")
    copy = tmp_path / "copy.vhdx"
    with private(path) as disk, disk.raw("r+b") as file:
        for number in range(3):
            file.seek(number * 5 * MIB + 100)
            file.write(pattern(3000, seed=number))
            file.flush()
            copy.write_bytes(path.read_bytes())
            with private(copy, read_only=True) as other, other.raw() as reader:
                reader.seek(number * 5 * MIB + 100)
                assert reader.read(3000) == pattern(3000, seed=number)


def test_what_kind_of_file_it_is(vhd: pathlib.Path) -> None:
    with private(vhd) as disk:
        with disk.raw() as file:
            assert isinstance(file, io.BufferedReader)
            assert file.readable()
            assert file.seekable()
            assert not file.writable()
            with pytest.raises(io.UnsupportedOperation):
                file.fileno()
            with pytest.raises(io.UnsupportedOperation):
                file.write(b"x")
            assert file.readline(4) == pattern(4)
        with disk.raw("rb+") as file:
            assert isinstance(file, io.BufferedRandom)
            assert file.writable()


def test_beyond_the_end(vhd: pathlib.Path) -> None:
    with private(vhd) as disk:
        file = disk.raw("r+b")
        file.seek(0, io.SEEK_END)
        assert file.read(1) == b""
        file.write(b"x")
        for call in (file.flush, file.close):
            with pytest.raises(OSError, match="No space") as caught:
                call()
            assert caught.value.errno == errno.ENOSPC
        assert file.closed


def test_read_only(vhd: pathlib.Path) -> None:
    before = vhd.read_bytes()
    with private(vhd, read_only=True) as disk:
        with pytest.raises(OSError, match=os.strerror(errno.EROFS)) as caught:
            disk.raw("r+b")
        assert caught.value.errno == errno.EROFS
        assert caught.value.filename == str(vhd)
        with disk.raw() as file:
            assert file.read() == pattern(4 * MIB)
    assert vhd.read_bytes() == before


def test_nothing_written_changes_nothing(tool: Tool, tmp_path: pathlib.Path) -> None:
    path = tool.create(Kind("vhdx-dynamic"), SIZE, tmp_path / "disk.vhdx")
    before = path.read_bytes()
    with private(path) as disk, disk.raw("r+b") as file:
        file.read(100)
        file.flush()
    assert path.read_bytes() == before


def test_restricted_range(vhd: pathlib.Path) -> None:
    with private(vhd, restricted_range=(1024, 2048)) as disk, disk.raw() as file:
        assert file.read() == pattern(4 * MIB)[1024:3072]


@pytest.mark.parametrize("mode", ["", "r", "w", "wb", "ab", "r+", "rb "])
def test_modes(mode: str, vhd: pathlib.Path) -> None:
    with private(vhd) as disk, pytest.raises(ValueError, match="mode must be"):
        disk.raw(mode)


def test_files_side_by_side(tool: Tool, tmp_path: pathlib.Path) -> None:
    """Four threads, each with a file and a part of the disk of its own."""
    path = tool.create(Kind("vhdx-dynamic", block=MIB), SIZE, tmp_path / "disk.vhdx")
    model = bytearray(SIZE)
    part = SIZE // 4
    failed: list[int] = []

    def work(number: int) -> None:
        generator = random.Random(number)
        with disk.raw("r+b") as file:
            for _ in range(60):
                length = generator.randrange(1, 100_000)
                offset = number * part + generator.randrange(part - length)
                data = generator.randbytes(length)
                file.seek(offset)
                file.write(data)
                model[offset : offset + length] = data
                file.seek(number * part)
                if file.read(part) != model[number * part : (number + 1) * part]:
                    failed.append(number)

    with private(path) as disk:
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failed
    check(path, model)


# The disk under the file.


def test_closed_disk(vhd: pathlib.Path) -> None:
    disk = private(vhd)
    file = disk.raw()
    disk.close()
    with pytest.raises(ValueError, match="closed"):
        file.read(10_000_000)
    file.close()
    with pytest.raises(ValueError, match="closed"):
        disk.raw()


def test_detached_by_somebody_else(vhd: pathlib.Path) -> None:
    with private(vhd) as disk:
        file = disk.raw("r+b")
        file.write(b"not flushed")
        virtdisk.detach(vhd)
        with pytest.raises(VirtualDiskError) as caught:
            file.flush()
        assert caught.value.winerror == 21
        with pytest.raises(VirtualDiskError) as caught:
            disk.raw()
        assert caught.value.winerror == 21
        with pytest.raises(VirtualDiskError):
            file.close()
    assert vhd.read_bytes()[: 4 * MIB] == pattern(4 * MIB)


def test_attached_again(vhd: pathlib.Path) -> None:
    with virtdisk.open(vhd) as disk:
        for _ in range(3):
            disk.attach(flags=PRIVATE)
            with disk.raw() as file:
                assert file.read(512) == pattern(512)
            disk.detach()
            with pytest.raises(VirtualDiskError) as caught:
                disk.raw()
            assert caught.value.winerror == 55


def test_iso_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(VirtualDiskError) as caught:
        private(make_iso(tmp_path / "disc.iso"))
    assert caught.value.winerror == 87


def test_permanent_is_refused(vhd: pathlib.Path) -> None:
    with pytest.raises(VirtualDiskError) as caught:
        private(vhd, permanent=True)
    assert caught.value.winerror == 50


def test_raw_scsi_with_a_device(vhd: pathlib.Path) -> None:
    require_root()
    with virtdisk.attach(vhd, drive_letter=False) as disk, disk.raw() as file:
        assert file.fileno() >= 0  # the device's own
        with pytest.raises(VirtualDiskError) as caught:
            _virtdisk.RawSCSIVirtualDisk(disk._handle, bytes(6))
    assert caught.value.winerror == 50


def test_nothing_is_left_open(vhd: pathlib.Path) -> None:
    before = open_descriptors()
    for _ in range(3):
        with private(vhd) as disk, disk.raw("r+b") as file:
            file.write(b"x")
    assert open_descriptors() == before


def fill(file: BinaryIO) -> None:
    """More than there is room for."""
    for _ in range(20):
        file.write(bytes([1]) * MIB)
        file.flush()


def test_no_room_for_the_image(tool: Tool, tmp_path: pathlib.Path) -> None:
    """ENOSPC to the writer; what was flushed before is there, and more can
    be written once there is room."""
    require_root()
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "none", mount], check=True
    )
    try:
        filler = mount / "filler"
        filler.write_bytes(bytes(MIB))
        path = tool.create(Kind("vhdx-dynamic", block=MIB), 64 * MIB, mount / "d.vhdx")
        with private(path) as disk, disk.raw("r+b") as file:
            file.write(pattern(MIB))
            file.flush()
            with pytest.raises(OSError, match="No space") as caught:
                fill(file)
            assert caught.value.errno == errno.ENOSPC
            with contextlib.suppress(OSError):
                file.close()
            filler.unlink()
            with disk.raw("r+b") as again:
                assert again.read(MIB) == pattern(MIB)
                again.seek(40 * MIB)
                again.write(b"room")
        with private(path, read_only=True) as disk, disk.raw() as file:
            assert file.read(MIB) == pattern(MIB)
            file.seek(40 * MIB)
            assert file.read(4) == b"room"
    finally:
        subprocess.run(["umount", mount], check=True)


WRITER = """
import sys, virtdisk
flags = virtdisk.AttachFlag.NO_LOCAL_HOST
with virtdisk.attach(sys.argv[1], flags=flags) as disk, disk.raw("r+b") as file:
    number = 0
    while True:
        number += 1
        file.seek(number % 20 << 20)
        file.write(number.to_bytes(8, "little") * 8192)
        file.flush()
        print(number, flush=True)
"""


def test_killed(tool: Tool, tmp_path: pathlib.Path) -> None:
    """Every number that was told to be flushed is found afterwards."""
    path = tool.create(Kind("vhdx-dynamic", block=MIB), SIZE, tmp_path / "disk.vhdx")
    with subprocess.Popen(
        [*PYTHON, "-c", WRITER, path], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout
        for _ in range(50):
            last = int(writer.stdout.readline())
        writer.kill()
        last = max([last, *map(int, writer.stdout.read().splitlines())])
    with private(path) as disk, disk.raw() as file:
        for number in range(last, last - 19, -1):
            file.seek(number % 20 << 20)
            found = file.read(65536)
            newest = [number.to_bytes(8, "little") * 8192]
            if number % 20 == (last + 1) % 20:
                newest.append((last + 1).to_bytes(8, "little") * 8192)
            assert found in newest


# Without privilege.

# Everything is imported before the privileges go, for nobody may have no right
# to read the interpreter's own files.  A first attempt, which fails, imports
# what is only imported when needed.
BARE = """
import os, sys
import virtdisk
try:
    virtdisk.attach("/no/such/file")
except FileNotFoundError:
    pass
assert os.listdir("/dev") == []
os.environ.pop("XDG_RUNTIME_DIR", None)
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
try:
    virtdisk.attach(sys.argv[1])
except virtdisk.VirtualDiskError as error:
    print(error.remedy)
else:
    raise AssertionError
flags = virtdisk.AttachFlag.NO_LOCAL_HOST
with virtdisk.attach(sys.argv[1], flags=flags) as disk:
    with disk.raw("r+b") as file:
        file.seek(1000)
        file.write(b"nobody was here")
    with disk.raw() as file:
        file.seek(1000)
        print(file.read(15).decode())
"""


@pytest.mark.parametrize("name", ["vhd-fixed", "vhdx-dynamic"])
def test_nobody_without_any_device(name: str, tool: Tool, public: pathlib.Path) -> None:
    """A container's least: not even /dev/null, and no rights."""
    unshare = require_tool("unshare", package="util-linux")
    kind = Kind(name)
    path = tool.create(kind, SIZE, public / f"disk{kind.suffix}")
    os.chown(path, 65534, 65534)
    hide = 'mount -t tmpfs none /dev && exec "$@"'
    hidden = [unshare, "--mount", "sh", "-c", hide, "sh"]
    command = [*hidden, *PYTHON, "-c", BARE, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    remedy, found = done.stdout.splitlines()
    assert found == "nobody was here"
    if name == "vhd-fixed":
        assert "AttachFlag.NO_LOCAL_HOST" in remedy


@pytest.fixture
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    """A directory that everybody may enter."""
    require_root()
    directory = pathlib.Path("/tmp") / f"virtdisk-{os.getpid()}-{os.urandom(4).hex()}"
    directory.mkdir()
    directory.chmod(0o755)
    yield directory
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()


# What the disk says, as Python hears it.


Answer = tuple[int, bytes, int]


@pytest.fixture
def answered(
    monkeypatch: pytest.MonkeyPatch, vhd: pathlib.Path
) -> Iterator[Callable[[Answer], _virtdisk.Handle]]:
    """A handle whose disk answers what the test wants."""
    with _virtdisk.OpenVirtualDisk(str(vhd), version=2) as handle:

        def answer(given: Answer) -> _virtdisk.Handle:
            monkeypatch.setattr(_virtdisk, "RawSCSIVirtualDisk", lambda *_, **__: given)
            return handle

        yield answer


def fixed_sense(key: int, code: int, qualifier: int) -> bytes:
    return bytes([0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, code, qualifier, *bytes(4)])


@pytest.mark.parametrize(
    ("status", "sense", "number", "text"),
    [
        (2, fixed_sense(3, 0x11, 0), errno.EIO, "SCSI sense 3/11/00"),
        (2, fixed_sense(3, 0x0C, 0), errno.EIO, "SCSI sense 3/0c/00"),
        (2, fixed_sense(7, 0x27, 0), errno.EROFS, "SCSI sense 7/27/00"),
        (2, fixed_sense(7, 0x27, 7), errno.ENOSPC, "SCSI sense 7/27/07"),
        (2, b"", errno.EIO, "SCSI status 0x02"),
        (8, b"", errno.EIO, "SCSI status 0x08"),
        (2, fixed_sense(3, 0x11, 0)[:13], errno.EIO, "SCSI status 0x02"),
        (2, b"\x72\x05\x24\x00".ljust(18, b"\0"), errno.EIO, "SCSI status 0x02"),
    ],
)
def test_failed_commands(
    answered: Callable[[Answer], _virtdisk.Handle],
    status: int,
    sense: bytes,
    number: int,
    text: str,
) -> None:
    handle = answered((status, sense, 0))
    for command in (
        lambda: _scsi.read_capacity(handle),
        lambda: _scsi.is_write_protected(handle),
        lambda: _scsi.read(handle, 0, 512, sector_size=512),
        lambda: _scsi.write(handle, 0, memoryview(bytes(512)), sector_size=512),
        lambda: _scsi.synchronize(handle),
    ):
        with pytest.raises(OSError, match=text) as caught:
            command()
        assert caught.value.errno == number


def test_short_transfers(answered: Callable[[Answer], _virtdisk.Handle]) -> None:
    handle = answered((0, b"", 512))
    assert len(_scsi.read(handle, 0, 512, sector_size=512)) == 512
    with pytest.raises(OSError, match="READ moved 512 of 1024"):
        _scsi.read(handle, 0, 1024, sector_size=512)
    with pytest.raises(OSError, match="WRITE moved 512 of 1024"):
        _scsi.write(handle, 0, memoryview(bytes(1024)), sector_size=512)


def test_transfers_are_cut(vhd: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No command moves more than a megabyte."""
    lengths: list[int] = []
    real = _virtdisk.RawSCSIVirtualDisk

    def spy(handle: _virtdisk.Handle, cdb: bytes, **data: bytes | None) -> Answer:
        buffer = data.get("data_in") or data.get("data_out") or b""
        lengths.append(len(buffer))
        return real(handle, cdb, **data)  # type: ignore[arg-type]

    monkeypatch.setattr(_virtdisk, "RawSCSIVirtualDisk", spy)
    with private(vhd) as disk, disk.raw() as file:
        assert file.read() == pattern(4 * MIB)
        assert isinstance(file.raw, _raw.ScsiFile)  # type: ignore[attr-defined]
    assert max(lengths) == MIB
