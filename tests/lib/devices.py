"""Attached disks, used past the page cache as a file system's journal does."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import pathlib
import struct
from collections.abc import Iterator
from typing import Any

from images import Kind, Tool

import virtdisk

BLKDISCARD = 0x1277  # <linux/fs.h>
BLKZEROOUT = 0x127F
PIECE = 1 << 20


class Device:
    """An open block device: direct I/O in whole sectors."""

    def __init__(self, path: str, *, writable: bool) -> None:
        flags = os.O_RDWR if writable else os.O_RDONLY
        self.descriptor = os.open(path, flags | os.O_DIRECT | os.O_CLOEXEC)
        # O_DIRECT wants aligned memory; a mapping is.
        self.buffer = mmap.mmap(-1, PIECE)

    def close(self) -> None:
        os.close(self.descriptor)
        self.buffer.close()

    def read(self, offset: int, length: int) -> bytes:
        found = bytearray()
        with memoryview(self.buffer) as view:
            while len(found) < length:
                piece = min(PIECE, length - len(found))
                with view[:piece] as part:
                    got = os.preadv(self.descriptor, [part], offset + len(found))
                    assert got == piece
                    found += part
        return bytes(found)

    def write(self, offset: int, data: bytes) -> None:
        with memoryview(self.buffer) as view:
            for at in range(0, len(data), PIECE):
                piece = data[at : at + PIECE]
                view[: len(piece)] = piece
                with view[: len(piece)] as part:
                    put = os.pwritev(self.descriptor, [part], offset + at)
                assert put == len(piece)

    def zero(self, offset: int, length: int, *, free: bool) -> None:
        request = BLKDISCARD if free else BLKZEROOUT
        fcntl.ioctl(self.descriptor, request, struct.pack("=QQ", offset, length))

    def flush(self) -> None:
        os.fsync(self.descriptor)


@contextlib.contextmanager
def opened(disk: virtdisk.VirtualDisk, *, writable: bool = True) -> Iterator[Device]:
    """The device of an attached disk."""
    device = Device(disk.physical_path, writable=writable)
    try:
        yield device
    finally:
        device.close()


class DeviceTool:
    """What `images.Tool` does, through an attached device instead."""

    def __init__(self, program: pathlib.Path) -> None:
        self.tool = Tool(program)
        self.process = self.tool.process
        self.disk: virtdisk.VirtualDisk | None = None
        self.device: Device | None = None

    def create(self, kind: Kind, size: int, path: pathlib.Path) -> pathlib.Path:
        return self.tool.create(kind, size, path)

    def create_child(
        self, parent: pathlib.Path, path: pathlib.Path, *, block: int
    ) -> pathlib.Path:
        return self.tool.create_child(parent, path, block=block)

    def open(self, path: pathlib.Path, mode: str = "look") -> dict[str, Any]:
        """Attaches; the facts are those of an opened handle."""
        self.close()
        facts = self.tool.open(path)
        self.tool.close()
        writable = mode == "write"
        self.disk = virtdisk.attach(path, read_only=not writable, drive_letter=False)
        self.device = Device(self.disk.physical_path, writable=writable)
        return facts

    @property
    def _device(self) -> Device:
        assert self.device is not None
        return self.device

    def read(self, offset: int, length: int) -> bytes:
        return self._device.read(offset, length)

    def write(self, offset: int, data: bytes) -> None:
        self._device.write(offset, data)

    def zero(self, offset: int, length: int, *, free: bool) -> None:
        self._device.zero(offset, length, free=free)

    def flush(self) -> None:
        self._device.flush()

    def close(self) -> None:
        """Detaches."""
        if self.device is not None:
            self.device.close()
            self.device = None
        if self.disk is not None:
            self.disk.close()
            self.disk = None

    def end(self) -> None:
        self.close()
        self.tool.end()

    def kill(self) -> None:
        self.close()
        self.tool.kill()
