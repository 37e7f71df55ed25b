"""Whole sectors: the file object that stands before a drive of Windows.

The drive here is a regular file behind a stand-in for the system calls that
refuses, as Windows does, every transfer that is not in whole sectors.
"""

from __future__ import annotations

import errno
import io
import os
import pathlib
import random
from collections.abc import Iterator

import pytest
from support import pattern

from virtdisk import _raw
from virtdisk._raw import SectorFile, check_mode, open_raw, open_sectors

SECTOR = 512
SIZE = 64 * SECTOR


class StrictSystem:
    """os, but with a drive's rules for reading, writing and seeking."""

    def __init__(self, sector: int) -> None:
        self.sector = sector
        self.transfers: list[tuple[str, int]] = []
        self.short = False  # a write takes one sector at a time
        self.strict = True

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def _check(self, what: str, descriptor: int, length: int) -> None:
        position = os.lseek(descriptor, 0, os.SEEK_CUR)
        if self.strict and (position % self.sector or length % self.sector):
            raise OSError(errno.EINVAL, "not in whole sectors")
        self.transfers.append((what, length))

    def lseek(self, descriptor: int, offset: int, whence: int) -> int:
        if whence == os.SEEK_END:
            raise OSError(errno.EINVAL, "a drive has no end")
        return os.lseek(descriptor, offset, whence)

    def read(self, descriptor: int, length: int) -> bytes:
        self._check("read", descriptor, length)
        return os.read(descriptor, length)

    def write(self, descriptor: int, data: memoryview) -> int:
        self._check("write", descriptor, len(data))
        return os.write(descriptor, data[: self.sector] if self.short else data)


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> StrictSystem:
    strict = StrictSystem(SECTOR)
    monkeypatch.setattr(_raw, "os", strict)
    return strict


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    found = tmp_path / "drive"
    found.write_bytes(pattern(SIZE))
    return found


def drive(path: pathlib.Path, *, writable: bool = True) -> SectorFile:
    flags = os.O_RDWR if writable else os.O_RDONLY
    descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0))
    return SectorFile(descriptor, size=SIZE, sector_size=SECTOR, writable=writable)


@pytest.fixture
def raw(path: pathlib.Path, system: StrictSystem) -> Iterator[SectorFile]:
    with drive(path) as file:
        yield file


def test_the_stand_in_is_strict(path: pathlib.Path, system: StrictSystem) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    with pytest.raises(OSError, match="whole sectors"):
        system.read(descriptor, 100)
    os.close(descriptor)


@pytest.mark.parametrize("start", [0, 1, 511, 512, 513, SIZE - 512, SIZE - 1, SIZE])
@pytest.mark.parametrize("length", [0, 1, 100, 512, 513, 2048, SIZE, SIZE + 1])
def test_read_anywhere(start: int, length: int, raw: SectorFile) -> None:
    assert raw.seek(start) == start
    data = raw.read(length)
    assert data == pattern(SIZE)[start : start + length]
    assert raw.tell() == start + len(data or b"")


@pytest.mark.parametrize("start", [0, 1, 511, 512, 513, SIZE - 1024, SIZE - 513])
@pytest.mark.parametrize("length", [1, 100, 511, 512, 513])
def test_write_anywhere(
    start: int, length: int, raw: SectorFile, path: pathlib.Path
) -> None:
    data = b"\xa5" * length
    raw.seek(start)
    assert raw.write(data) == length
    assert raw.tell() == start + length
    before = pattern(SIZE)
    assert path.read_bytes() == before[:start] + data + before[start + length :]


def test_whole_sectors_are_written_without_reading(
    raw: SectorFile, system: StrictSystem
) -> None:
    raw.seek(1024)
    raw.write(bytes(4 * SECTOR))
    assert system.transfers == [("write", 4 * SECTOR)]


@pytest.mark.parametrize("start", [512, 700])
def test_short_write_counts_only_what_was_written(
    start: int, raw: SectorFile, system: StrictSystem, path: pathlib.Path
) -> None:
    system.short = True
    raw.seek(start)
    done = raw.write(b"\xa5" * 2000)
    assert start + done == 1024  # the end of the first sector
    assert raw.tell() == 1024
    assert path.read_bytes()[start:1024] == b"\xa5" * done
    assert path.read_bytes()[1024:] == pattern(SIZE)[1024:]


def test_large_transfers_are_cut(raw: SectorFile, system: StrictSystem) -> None:
    system.transfers.clear()
    wide = SectorFile(
        os.dup(raw.fileno()), size=1 << 30, sector_size=SECTOR, writable=False
    )
    with wide:
        wide.seek(100)
        assert len(wide.read(1 << 22) or b"") == SIZE - 100  # the file ends there
    assert max(length for _, length in system.transfers) <= 1 << 20


def test_write_is_cut_at_the_end(raw: SectorFile, path: pathlib.Path) -> None:
    raw.seek(SIZE - 10)
    assert raw.write(b"x" * 100) == 10
    with pytest.raises(OSError) as caught:
        raw.write(b"x")
    assert caught.value.errno == errno.ENOSPC
    assert raw.write(b"") == 0
    assert path.stat().st_size == SIZE


def test_seek(raw: SectorFile) -> None:
    assert raw.seek(-10, os.SEEK_END) == SIZE - 10
    assert raw.seek(5, os.SEEK_CUR) == SIZE - 5
    assert raw.seek(SIZE * 2) == SIZE * 2
    assert raw.read(1) == b""
    with pytest.raises(ValueError, match="negative"):
        raw.seek(-1)
    with pytest.raises(ValueError, match="whence"):
        raw.seek(0, 7)
    assert raw.tell() == SIZE * 2


def test_read_only(path: pathlib.Path, system: StrictSystem) -> None:
    with drive(path, writable=False) as raw:
        assert (raw.readable(), raw.writable(), raw.seekable()) == (True, False, True)
        with pytest.raises(io.UnsupportedOperation):
            raw.write(b"x")
        with pytest.raises(io.UnsupportedOperation):
            raw.truncate(0)
    assert path.read_bytes() == pattern(SIZE)


def test_closed(raw: SectorFile) -> None:
    descriptor = raw.fileno()
    raw.close()
    raw.close()
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(descriptor)
    for call in (raw.tell, raw.fileno, lambda: raw.seek(0), lambda: raw.read(1)):
        with pytest.raises(ValueError, match="closed"):
            call()
    with pytest.raises(ValueError, match="closed"):
        raw.write(b"x")


@pytest.mark.parametrize("sector", [512, 2048, 4096])
def test_random_use_through_the_buffer(
    sector: int, path: pathlib.Path, system: StrictSystem
) -> None:
    """A thousand reads and writes against a bytearray."""
    system.sector = sector
    chance = random.Random(sector)
    model = bytearray(pattern(SIZE))
    with open_sectors(str(path), "r+b", size=SIZE, sector_size=sector) as file:
        assert isinstance(file, io.BufferedRandom)
        for _ in range(1000):
            start = chance.randrange(SIZE)
            length = min(chance.choice([1, 7, sector, 3000]), SIZE - start)
            file.seek(start)
            if chance.random() < 0.5:
                assert file.read(length) == model[start : start + length]
            else:
                data = chance.randbytes(length)
                file.write(data)
                model[start : start + length] = data
        assert file.seek(0, os.SEEK_END) == SIZE
    assert path.read_bytes() == model


def test_buffered_reader(path: pathlib.Path, system: StrictSystem) -> None:
    with open_sectors(str(path), "rb", size=SIZE, sector_size=SECTOR) as file:
        assert isinstance(file, io.BufferedReader)
        assert file.read() == pattern(SIZE)
        assert os.get_inheritable(file.fileno()) is False


@pytest.mark.parametrize("opened", ["r+b", "rb"])
def test_missing_drive(opened: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_sectors(str(tmp_path / "none"), opened, size=SIZE, sector_size=SECTOR)
    with pytest.raises(FileNotFoundError):
        open_raw(str(tmp_path / "none"), opened)


def test_modes() -> None:
    assert check_mode("rb") == "rb"
    assert check_mode("rb+") == check_mode("r+b") == "r+b"
    with pytest.raises(ValueError, match="'w'"):
        check_mode("w")
