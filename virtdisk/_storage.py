"""What an image file is, judged by its content.

Windows chooses the provider of an image by the file's extension when it is
not told the type, so a valid image with another extension fails there.  The
facade therefore looks itself and names the type.

This is a look, not a validation: the few bytes by which each format is
recognised, nothing of what they announce is believed.  A file that cannot be
read (locked, forbidden, missing) is UNKNOWN here, and the system then says
what is wrong with it.

Source: VHD: the footer's cookie; [MS-VHDX] 2.2.1 File Type Identifier;
ECMA-119 8.1 and ECMA-167 2/9.1 (volume descriptors from sector 16).
"""

from __future__ import annotations

import os
import stat
from typing import Final

from virtdisk._arguments import check_integer
from virtdisk._flags import StorageType

__all__ = ["detect_storage_type", "is_optical", "storage_type_of"]

VHD_COOKIE: Final = b"conectix"
VHDX_SIGNATURE: Final = b"vhdxfile"
ISO_SECTOR: Final = 2048
ISO_FIRST_DESCRIPTOR: Final = 16 * ISO_SECTOR
ISO_MAX_DESCRIPTORS: Final = 64
ISO_IDENTIFIERS: Final = frozenset(
    {b"CD001", b"BEA01", b"BOOT2", b"NSR02", b"NSR03", b"TEA01"}
)
ISO_TYPE_PRIMARY: Final = 1

# A FIFO must not block the look, a file descriptor must not be inherited and
# Windows must not translate line ends.
_OPEN_FLAGS: Final = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_NOINHERIT", 0)
)


def _read_at(descriptor: int, offset: int, length: int) -> bytes:
    """Up to length bytes at offset; fewer at the end of the file."""
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, length)


def _has_vhd_footer(descriptor: int, size: int) -> bool:
    """Whether the cookie of a VHD footer stands at one of its places.

    At the end (512 bytes, or 511 before Virtual PC 2004), or in the copy at
    the start that dynamic and differencing images have.
    """
    places = (size - 512, size - 511, 0)
    return any(
        _read_at(descriptor, place, len(VHD_COOKIE)) == VHD_COOKIE
        for place in places
        if place >= 0
    )


def _has_iso_descriptors(descriptor: int) -> bool:
    """Whether the volume descriptors name an ISO 9660 or UDF volume."""
    for number in range(ISO_MAX_DESCRIPTORS):
        place = ISO_FIRST_DESCRIPTOR + number * ISO_SECTOR
        start = _read_at(descriptor, place, 6)
        identifier = start[1:6]
        if identifier not in ISO_IDENTIFIERS:
            return False
        if identifier == b"CD001" and start[0] == ISO_TYPE_PRIMARY:
            return True
        if identifier in {b"NSR02", b"NSR03"}:
            return True
    return False


def _look(descriptor: int) -> StorageType:
    """The only format whose marks the file bears, else UNKNOWN."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        return StorageType.UNKNOWN
    found = []
    if _read_at(descriptor, 0, len(VHDX_SIGNATURE)) == VHDX_SIGNATURE:
        found.append(StorageType.VHDX)
    if _has_vhd_footer(descriptor, status.st_size):
        found.append(StorageType.VHD)
    if _has_iso_descriptors(descriptor):
        found.append(StorageType.ISO)
    return found[0] if len(found) == 1 else StorageType.UNKNOWN


def detect_storage_type(path: str) -> StorageType:
    """Looks at a file and says what kind of image it is.

    Args:
        path: The file.

    Returns:
        ``StorageType.UNKNOWN`` if the file bears the marks of no format or of
        several, if it cannot be read, or if it is a VHD Set, whose format is
        not published.  Raises nothing.

    Source: the signatures of VHD, [MS-VHDX] 2.2.1, ECMA-119 8.1, ECMA-167 2/9.
    """
    if os.path.splitext(path)[1].lower() == ".vhds":
        return StorageType.UNKNOWN
    try:
        descriptor = os.open(path, _OPEN_FLAGS)
    except OSError:
        return StorageType.UNKNOWN
    try:
        return _look(descriptor)
    except OSError:
        return StorageType.UNKNOWN
    finally:
        os.close(descriptor)


def storage_type_of(path: str, storage_type: StorageType | int | None) -> int:
    """The type to name to the system.

    Args:
        path: The file.
        storage_type: What the caller says; None to look at the content.

    Returns:
        A device id of VIRTUAL_STORAGE_TYPE; 0 leaves the choice to the system.

    Raises:
        TypeError: storage_type is not an integer.
        ValueError: It is not one of ``StorageType``.

    Source: OpenVirtualDisk, VIRTUAL_STORAGE_TYPE.
    """
    if storage_type is None:
        return int(detect_storage_type(path))
    return int(StorageType(check_integer(storage_type, "storage_type", 32)))


def is_optical(path: str, storage_type: int) -> bool:
    """Whether to use the parameters that an ISO image needs.

    Args:
        path: The file; its extension counts if nothing better is known.
        storage_type: The type that ``storage_type_of`` returned.

    Returns:
        True for ISO: version 1, read access, attached read-only.

    Source: OpenVirtualDisk and AttachVirtualDisk, the remarks on ISO.
    """
    if storage_type == StorageType.UNKNOWN:
        return os.path.splitext(path)[1].lower() == ".iso"
    return storage_type == StorageType.ISO
