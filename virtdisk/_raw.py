"""The content of an attached disk as a binary file.

On Linux a block device is read and written at any byte, and Python's own file
objects serve.  A physical drive on Windows answers only to whole sectors and
has no end to seek to, and a disk without a device takes SCSI commands for
whole sectors; AlignedFile stands between these and Python's buffers and turns
any range into whole sectors.

Source: CreateFile, "Physical Disks and Volumes" (sector-aligned access);
RawSCSIVirtualDisk.
"""

from __future__ import annotations

import array
import errno
import io
import os
import stat
import sys
from abc import abstractmethod
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from virtdisk import _scsi

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from virtdisk._virtdisk import Handle

__all__ = [
    "AlignedFile",
    "ScsiFile",
    "SectorFile",
    "check_mode",
    "open_raw",
    "open_scsi",
    "open_sectors",
]

_MODES: Final = {"rb": "rb", "r+b": "r+b", "rb+": "r+b"}
_MAX_TRANSFER: Final = 1 << 20  # bytes of one system call
_BUFFER_SIZE: Final = 64 << 10
_BLKROGET: Final = 0x125E  # _IO(0x12, 94): whether a block device is read-only


if sys.platform == "win32":

    def _is_read_only(_descriptor: int) -> bool:
        """False: Windows itself refuses to open such a drive for writing."""
        return False

else:
    import fcntl

    def _is_read_only(descriptor: int) -> bool:
        """Whether a block device is read-only; no for a file.

        A file on a read-only mount cannot be opened for writing at all.
        """
        if not stat.S_ISBLK(os.fstat(descriptor).st_mode):
            return False
        flag = array.array("i", [0])
        fcntl.ioctl(descriptor, _BLKROGET, flag)
        return flag[0] != 0


def check_mode(mode: str) -> str:
    """The mode in one spelling.

    Args:
        mode: ``"rb"``, ``"r+b"`` or ``"rb+"``.

    Returns:
        ``"rb"`` or ``"r+b"``.

    Raises:
        ValueError: Any other mode; a disk cannot be truncated or appended to.

    Source: open() of the standard library.
    """
    if mode not in _MODES:
        msg = f"mode must be 'rb' or 'r+b', not {mode!r}"
        raise ValueError(msg)
    return _MODES[mode]


class AlignedFile(io.RawIOBase):
    """A raw file of a given size that transfers whole sectors only.

    A write that does not begin or end on a sector reads the rest of that
    sector first.  Not safe for several threads; the buffered objects around
    it, which the functions below return, are.
    """

    def __init__(self, *, size: int, sector_size: int, writable: bool) -> None:
        """A file at its beginning.

        Args:
            size: Of the disk in bytes, a multiple of sector_size.
            sector_size: In bytes.
            writable: Whether it may be written.
        """
        super().__init__()
        self._size = size
        self._sector = sector_size
        self._writable = writable
        self._position = 0

    def readable(self) -> bool:
        """True."""
        return True

    def writable(self) -> bool:
        """Whether the disk was opened for writing."""
        return self._writable

    def seekable(self) -> bool:
        """True."""
        return True

    @abstractmethod
    def _read_sectors(self, start: int, length: int) -> bytes | bytearray:
        """The sectors from a byte on; fewer if the disk gives fewer."""

    @abstractmethod
    def _write_sectors(self, start: int, data: memoryview) -> int:
        """Writes sectors; how many bytes of them."""

    def _check_open(self) -> None:
        if self.closed:
            msg = "I/O operation on closed file."
            raise ValueError(msg)

    def tell(self) -> int:
        """The position in bytes; ValueError when closed."""
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Moves to a byte; ValueError if it lies before the first."""
        self._check_open()
        bases = {
            os.SEEK_SET: 0,
            os.SEEK_CUR: self._position,
            os.SEEK_END: self._size,
        }
        if whence not in bases:
            msg = f"invalid whence ({whence}, should be 0, 1 or 2)"
            raise ValueError(msg)
        position = bases[whence] + offset
        if position < 0:
            msg = f"negative seek position {position}"
            raise ValueError(msg)
        self._position = position
        return position

    def _span(self, wanted: int) -> tuple[int, int, int]:
        """The sectors that hold the next bytes.

        Returns:
            The first sector's position, the length of all sectors, and how
            many of the bytes they hold, cut at the end of the disk and at
            what one call transfers.
        """
        start = self._position - self._position % self._sector
        end = min(
            self._position + wanted,
            self._size,
            start + max(_MAX_TRANSFER, self._sector),
        )
        whole = -(-(end - start) // self._sector) * self._sector
        return start, whole, max(end - self._position, 0)

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Reads; 0 at the end of the disk.  OSError from the system."""
        self._check_open()
        view = memoryview(buffer).cast("B")
        start, whole, count = self._span(len(view))
        if count == 0:
            return 0
        skip = self._position - start
        data = memoryview(self._read_sectors(start, whole))[skip : skip + count]
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def readall(self) -> bytes:
        """Reads to the end of the disk, in large pieces."""
        pieces = []
        while piece := self.read(max(_MAX_TRANSFER, self._sector)):
            pieces.append(piece)
        return b"".join(pieces)

    def write(self, buffer: ReadableBuffer, /) -> int:
        """Writes; fewer bytes than given near the disk's end.

        Raises:
            io.UnsupportedOperation: The disk was opened for reading.
            OSError: From the system; ENOSPC at the end of the disk.
        """
        self._check_open()
        if not self._writable:
            msg = "not writable"
            raise io.UnsupportedOperation(msg)
        view = memoryview(buffer).cast("B")
        start, whole, count = self._span(len(view))
        if count == 0:
            if len(view) == 0:
                return 0
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        skip = self._position - start
        if skip == 0 and count == whole:
            done = self._write_sectors(start, view[:count])
        else:
            sectors = bytearray(self._read_sectors(start, whole))
            sectors[skip : skip + count] = view[:count]
            done = self._write_sectors(start, memoryview(sectors)) - skip
        done = min(max(done, 0), count)
        self._position += done
        return done


class SectorFile(AlignedFile):
    """A drive, by its descriptor."""

    def __init__(
        self, descriptor: int, *, size: int, sector_size: int, writable: bool
    ) -> None:
        """Takes over the descriptor.

        Args:
            descriptor: Of the drive.
            size: Of the drive in bytes, a multiple of sector_size.
            sector_size: In bytes.
            writable: Whether the descriptor may be written.
        """
        super().__init__(size=size, sector_size=sector_size, writable=writable)
        self._descriptor = descriptor

    def fileno(self) -> int:
        """The descriptor; ValueError when closed."""
        self._check_open()
        return self._descriptor

    def close(self) -> None:
        """Closes the descriptor; a second call does nothing."""
        if not self.closed:
            super().close()
            os.close(self._descriptor)

    def _read_sectors(self, start: int, length: int) -> bytes:
        os.lseek(self._descriptor, start, os.SEEK_SET)
        return os.read(self._descriptor, length)

    def _write_sectors(self, start: int, data: memoryview) -> int:
        os.lseek(self._descriptor, start, os.SEEK_SET)
        return os.write(self._descriptor, data)


class ScsiFile(AlignedFile):
    """A disk without a device, by SCSI commands through its handle.

    It has no descriptor to be synchronized by, so ``flush`` does that:
    what was written before it returns is durable.
    """

    def __init__(
        self, handle: Handle, *, size: int, sector_size: int, writable: bool
    ) -> None:
        """Uses the handle, which stays its owner's.

        Args:
            handle: Of a disk attached with NO_LOCAL_HOST.
            size: Of the disk in bytes, a multiple of sector_size.
            sector_size: In bytes.
            writable: Whether it may be written.
        """
        super().__init__(size=size, sector_size=sector_size, writable=writable)
        self._handle = handle
        self._written = False  # since the last flush

    def _read_sectors(self, start: int, length: int) -> bytearray:
        return _scsi.read(self._handle, start, length, sector_size=self._sector)

    def _write_sectors(self, start: int, data: memoryview) -> int:
        _scsi.write(self._handle, start, data, sector_size=self._sector)
        self._written = True
        return len(data)

    def flush(self) -> None:
        """Makes durable what was written; ValueError when closed."""
        super().flush()
        if self._written:
            _scsi.synchronize(self._handle)
            self._written = False


class _ScsiBuffer(io.BufferedRandom):
    """The buffer of a ScsiFile, which it flushes when it is flushed."""

    def flush(self) -> None:
        """Makes durable what was written; ValueError when closed."""
        super().flush()
        self.raw.flush()


def open_raw(path: str, mode: str) -> BinaryIO:
    """Opens an attached disk whose node can be read at any byte.

    Args:
        path: Its physical path.
        mode: As ``check_mode`` returns it.

    Returns:
        A buffered, seekable binary file, not inherited by child processes.

    Raises:
        OSError: From the system's own open(); EROFS for a read-only disk in
            mode ``"r+b"``.

    Source: open(2), block devices; BLKROGET of <linux/fs.h>.
    """
    file = cast("BinaryIO", open(path, mode))  # noqa: SIM115 - the caller's
    try:
        # Linux opens a read-only device for writing all the same.  The first
        # write would fail, and behind a buffer that is too late.
        if mode == "r+b" and _is_read_only(file.fileno()):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
    except BaseException:
        file.close()
        raise
    return file


def open_sectors(path: str, mode: str, *, size: int, sector_size: int) -> BinaryIO:
    """Opens an attached disk that transfers whole sectors only.

    Args:
        path: Its physical path.
        mode: As ``check_mode`` returns it.
        size: Of the disk in bytes.
        sector_size: In bytes.

    Returns:
        A buffered, seekable binary file, not inherited by child processes.

    Raises:
        OSError: From the system's own open().

    Source: CreateFile, "Physical Disks and Volumes".
    """
    writable = mode == "r+b"
    flags = os.O_RDWR if writable else os.O_RDONLY
    for name in ("O_BINARY", "O_NOINHERIT", "O_CLOEXEC"):
        flags |= getattr(os, name, 0)
    drive = SectorFile(
        os.open(path, flags),
        size=size,
        sector_size=sector_size,
        writable=writable,
    )
    buffered = io.BufferedRandom if writable else io.BufferedReader
    return cast("BinaryIO", buffered(drive, _BUFFER_SIZE))


def open_scsi(handle: Handle, mode: str) -> BinaryIO:
    """Opens a disk that is attached to this process alone.

    Args:
        handle: Through which it was attached with NO_LOCAL_HOST; it must stay
            open as long as the file is used.
        mode: As ``check_mode`` returns it.

    Returns:
        A buffered, seekable binary file without a descriptor.  Its ``flush``
        returns when everything written is durable.

    Raises:
        OSError: EROFS for a read-only disk in mode ``"r+b"``.
        VirtualDiskError: winerror 21 if the disk is not attached (any more).

    Source: RawSCSIVirtualDisk.
    """
    writable = mode == "r+b"
    size, sector_size = _scsi.read_capacity(handle)
    if writable and _scsi.is_write_protected(handle):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), handle.path)
    disk = ScsiFile(handle, size=size, sector_size=sector_size, writable=writable)
    buffered = _ScsiBuffer if writable else io.BufferedReader
    return cast("BinaryIO", buffered(disk, _BUFFER_SIZE))
