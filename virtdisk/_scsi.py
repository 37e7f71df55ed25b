"""SCSI commands to a disk that is attached to this process alone.

Such a disk has no device; RawSCSIVirtualDisk reads and writes it.  The same
commands work on Windows and on Linux.

Source: RawSCSIVirtualDisk; SBC-3 (READ CAPACITY 16, READ 16, WRITE 16,
GET LBA STATUS, SYNCHRONIZE CACHE 16), SPC-4 (MODE SENSE 6, sense data).
"""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Final

from virtdisk import _virtdisk

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "is_write_protected",
    "lba_status",
    "read",
    "read_capacity",
    "read_into",
    "synchronize",
    "write",
]

_GOOD: Final = 0
_CHECK_CONDITION: Final = 2
_UNIT_ATTENTION: Final = b"\x06"  # the sense key, alone in byte 2
_BLOCK_COMMAND: Final = struct.Struct(">BBQIBB")  # of 16 bytes
_READ: Final = 0x88
_WRITE: Final = 0x8A
_SYNCHRONIZE_CACHE: Final = 0x91
_READ_CAPACITY: Final = bytes.fromhex("9e10 0000 0000 0000 0000 0000 0020 0000")
_SERVICE_ACTION_IN: Final = 0x9E
_GET_LBA_STATUS: Final = 0x12
_STATUS_COMMAND: Final = struct.Struct(">BBQIBB")
_STATUS_DESCRIPTOR: Final = struct.Struct(">QIB3x")
_STATUS_LENGTH: Final = 8 + 256 * 16
_MODE_SENSE: Final = bytes.fromhex("1a00 3f00 c000")
_WRITE_PROTECTED: Final = 0x80  # in byte 2 of the answer to MODE SENSE

# Sense key, additional code and qualifier, where there is an errno for it.
_ERRNO: Final[dict[tuple[int, int, int], int]] = {
    (0x5, 0x20, 0x00): errno.EOPNOTSUPP,
    (0x5, 0x24, 0x00): errno.EOPNOTSUPP,
    (0x7, 0x27, 0x00): errno.EROFS,
    (0x7, 0x27, 0x07): errno.ENOSPC,
}


def _failure(status: int, sense: bytes) -> OSError:
    """What a command that has failed is told as."""
    if len(sense) < 14 or sense[0] & 0x7F not in {0x70, 0x71}:
        return OSError(errno.EIO, f"SCSI status {status:#04x}")
    key, code, qualifier = sense[2] & 0xF, sense[12], sense[13]
    number = _ERRNO.get((key, code, qualifier), errno.EIO)
    text = f"{os.strerror(number)} (SCSI sense {key:x}/{code:02x}/{qualifier:02x})"
    return OSError(number, text)


def _execute(
    handle: _virtdisk.Handle,
    cdb: bytes,
    *,
    data_in: Buffer | None = None,
    data_out: Buffer | None = None,
) -> int:
    """One command; how many bytes it has moved.

    A unit attention (the disk has been resized) is told once, in place of an
    answer: the command is given again.
    """
    status, sense, transferred = _virtdisk.RawSCSIVirtualDisk(
        handle, cdb, data_in=data_in, data_out=data_out
    )
    if status == _CHECK_CONDITION and sense[2:3] == _UNIT_ATTENTION:
        status, sense, transferred = _virtdisk.RawSCSIVirtualDisk(
            handle, cdb, data_in=data_in, data_out=data_out
        )
    if status != _GOOD:
        raise _failure(status, sense)
    return transferred


def read_capacity(handle: _virtdisk.Handle) -> tuple[int, int]:
    """How large the disk is.

    Args:
        handle: Of a disk attached with NO_LOCAL_HOST.

    Returns:
        Its size and the size of a sector, in bytes.

    Raises:
        OSError: The command failed.
        VirtualDiskError: winerror 21 if the disk is not attached.

    Source: READ CAPACITY (16), SBC-3 5.13.
    """
    answer = bytearray(32)
    _execute(handle, _READ_CAPACITY, data_in=answer)
    last, sector_size = struct.unpack_from(">QI", answer)
    return (last + 1) * sector_size, sector_size


def is_write_protected(handle: _virtdisk.Handle) -> bool:
    """Whether the disk can only be read.

    Args:
        handle: As for ``read_capacity``.

    Returns:
        The write protect bit.

    Raises:
        OSError: The command failed.
        VirtualDiskError: winerror 21 if the disk is not attached.

    Source: MODE SENSE (6), SPC-4 6.13 and SBC-3 6.5.1.
    """
    answer = bytearray(192)
    _execute(handle, _MODE_SENSE, data_in=answer)
    return bool(answer[2] & _WRITE_PROTECTED)


def read(
    handle: _virtdisk.Handle, start: int, length: int, *, sector_size: int
) -> bytearray:
    """Reads whole sectors.

    Args:
        handle: As for ``read_capacity``.
        start: In bytes, on a sector.
        length: In bytes, in whole sectors, more than 0.
        sector_size: In bytes.

    Returns:
        The sectors, all of them.

    Raises:
        OSError: The command failed.
        VirtualDiskError: winerror 21 if the disk is not attached.

    Source: READ (16), SBC-3 5.10.
    """
    data = bytearray(length)
    read_into(handle, start, memoryview(data), sector_size=sector_size)
    return data


def read_into(
    handle: _virtdisk.Handle, start: int, data: memoryview, *, sector_size: int
) -> None:
    """Reads whole sectors into memory.

    Args:
        handle: As for ``read_capacity``.
        start: In bytes, on a sector.
        data: Room for whole sectors, at least one; all of it is filled.
        sector_size: In bytes.

    Raises:
        OSError: The command failed.
        VirtualDiskError: winerror 21 if the disk is not attached.

    Source: READ (16), SBC-3 5.10.
    """
    length = len(data)
    cdb = _BLOCK_COMMAND.pack(
        _READ, 0, start // sector_size, length // sector_size, 0, 0
    )
    done = _execute(handle, cdb, data_in=data)
    if done != length:
        raise OSError(errno.EIO, f"SCSI READ moved {done} of {length} bytes")


def lba_status(
    handle: _virtdisk.Handle, start: int, *, sector_size: int
) -> list[tuple[int, int, bool]]:
    """Asks which parts of the disk have space, from a byte on.

    Args:
        handle: As for ``read_capacity``.
        start: In bytes, on a sector.
        sector_size: In bytes.

    Returns:
        Offset and length in bytes, and whether there may be data, in the
        order of the disk and not necessarily to its end.  What has none reads
        as zeros.

    Raises:
        OSError: The command failed; EOPNOTSUPP if the disk does not know it.
        VirtualDiskError: winerror 21 if the disk is not attached.

    Source: GET LBA STATUS (16), SBC-3 5.4.
    """
    answer = bytearray(_STATUS_LENGTH)
    cdb = _STATUS_COMMAND.pack(
        _SERVICE_ACTION_IN, _GET_LBA_STATUS, start // sector_size, len(answer), 0, 0
    )
    _execute(handle, cdb, data_in=answer)
    (length,) = struct.unpack_from(">I", answer)
    end = min(length + 4, len(answer))
    return [
        (first * sector_size, count * sector_size, not status & 0xF)
        for first, count, status in _STATUS_DESCRIPTOR.iter_unpack(
            answer[8 : end - (end - 8) % 16]
        )
    ]


def write(
    handle: _virtdisk.Handle, start: int, data: memoryview, *, sector_size: int
) -> None:
    """Writes whole sectors.

    Args:
        handle: As for ``read_capacity``.
        start: In bytes, on a sector.
        data: Whole sectors, at least one.
        sector_size: In bytes.

    Raises:
        OSError: The command failed; EROFS, or ENOSPC if the image cannot
            grow.
        VirtualDiskError: winerror 21 if the disk is not attached.

    Source: WRITE (16), SBC-3 5.35.
    """
    cdb = _BLOCK_COMMAND.pack(
        _WRITE, 0, start // sector_size, len(data) // sector_size, 0, 0
    )
    done = _execute(handle, cdb, data_out=data)
    if done != len(data):
        raise OSError(errno.EIO, f"SCSI WRITE moved {done} of {len(data)} bytes")


def synchronize(handle: _virtdisk.Handle) -> None:
    """Returns when everything written is durable.

    Args:
        handle: As for ``read_capacity``.

    Raises:
        OSError: The command failed.
        VirtualDiskError: winerror 21 if the disk is not attached.

    Source: SYNCHRONIZE CACHE (16), SBC-3 5.23.
    """
    _execute(handle, _BLOCK_COMMAND.pack(_SYNCHRONIZE_CACHE, 0, 0, 0, 0, 0))
