"""What an image, disk or file stands on: parents, and images below devices.

Source: GET_VIRTUAL_DISK_INFO_PARENT_LOCATION;
GetStorageDependencyInformation, STORAGE_DEPENDENCY_INFO_TYPE_2.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from virtdisk import _disk, _virtdisk
from virtdisk._arguments import WINDOWS, absolute_path
from virtdisk._errors import VirtualDiskError
from virtdisk._flags import DependentDiskFlag, StorageType
from virtdisk._info import storage_type_from

if TYPE_CHECKING:
    from virtdisk._info import VirtualDiskInfo

    StrPath = str | os.PathLike[str]

__all__ = ["ChainLink", "StorageDependency", "chain", "dependencies"]

# GET_STORAGE_DEPENDENCY_FLAG.
_HOST_VOLUMES: Final = 1
_DISK_HANDLE: Final = 2

# ERROR_INVALID_FUNCTION, ERROR_VIRTDISK_NOT_VIRTUAL_DISK.
_STANDS_ON_NONE: Final = frozenset({1, 0xC03A0015})

# What is wrong with a parent, and not with the image itself.
_BROKEN: Final = frozenset(
    {
        0xC03A000D,  # ERROR_VHD_PARENT_VHD_NOT_FOUND
        0xC03A000E,  # ERROR_VHD_CHILD_PARENT_ID_MISMATCH
        0xC03A000F,  # ERROR_VHD_CHILD_PARENT_TIMESTAMP_MISMATCH
        0xC03A0016,  # ERROR_VHD_PARENT_VHD_ACCESS_DENIED
        0xC03A0017,  # ERROR_VHD_CHILD_PARENT_SIZE_MISMATCH
        0xC03A0018,  # ERROR_VHD_DIFFERENCING_CHAIN_CYCLE_DETECTED
        0xC03A0019,  # ERROR_VHD_DIFFERENCING_CHAIN_ERROR_IN_PARENT
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainLink:
    """One image of a chain.

    Attributes:
        path: The image.
        info: What is known about it; its ``parent`` is None in the last link
            of a whole chain.
        error: Why the images from here on cannot be opened together; None if
            they can.
    """

    path: str
    info: VirtualDiskInfo
    error: VirtualDiskError | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageDependency:
    """An attached image that a volume or disk stands on, or the other way.

    Attributes:
        level: How many images lie between: 1 for the nearest.
        flags: What is true of the disk.
        storage_type: The kind of image; a plain number if it is a new one,
            UNKNOWN if nobody can tell.
        vendor_id: Who made the provider.
        device: The disk that the image is attached as.
        host_volume: The volume that the image file lies on.
        dependent_volume: The volume on the disk.
        relative_path: The image file on its volume.
    """

    level: int
    flags: DependentDiskFlag
    storage_type: StorageType | int
    vendor_id: uuid.UUID
    device: str | None
    host_volume: str | None
    dependent_volume: str | None
    relative_path: str | None

    @property
    def path(self) -> str | None:
        """The image file, or None if nobody can tell.  Raises nothing.

        Source: HostVolumeName and DependentVolumeRelativePath.
        """
        if not self.host_volume or not self.relative_path:
            return None
        separator = "\\" if WINDOWS else "/"
        volume = self.host_volume.rstrip(separator)
        return volume + separator + self.relative_path.lstrip(separator)


def _look(path: str) -> ChainLink:
    """One image, with its parents if they can be opened."""
    try:
        with _disk.open(path, info_only=True) as disk:
            return ChainLink(path=path, info=disk.info, error=None)
    except VirtualDiskError as error:
        if error.winerror not in _BROKEN:
            raise
        broken = error
    with _disk.open(path, info_only=True, parents=False) as disk:
        return ChainLink(path=path, info=disk.info, error=broken)


def _next(link: ChainLink) -> str | None:
    """Where the parent is, if there is one."""
    if link.info.parent is None:
        return None
    return next(filter(os.path.exists, link.info.parent.paths), None)


def chain(path: StrPath) -> tuple[ChainLink, ...]:
    """Follows a differencing image to the last of its parents.

    A chain that is broken ends where it is; the ``error`` of its last link
    says why, and that link's ``info.parent.paths`` where the parent was
    looked for.

    Args:
        path: The image.

    Returns:
        The images, this one first.

    Raises:
        TypeError: bytes are no path.
        ValueError: An empty path.
        VirtualDiskError: As ``virtdisk.open`` for this image, or for a parent
            that is damaged.

    Source: OpenVirtualDisk; GET_VIRTUAL_DISK_INFO_PARENT_LOCATION.
    """
    links: list[ChainLink] = []
    seen: set[str] = set()
    name: str | None = absolute_path(path)
    while name is not None and os.path.realpath(name) not in seen:
        seen.add(os.path.realpath(name))
        links.append(_look(name))
        name = _next(links[-1])
    return tuple(links)


if sys.platform == "win32":

    def _is_disk(path: str) -> bool:
        """Whether a path names a disk, and not a volume or a file."""
        disk = r"\\\\[.?]\\(physicaldrive|cdrom)\d+"
        return re.fullmatch(disk, path.lower()) is not None

else:

    def _is_disk(path: str) -> bool:
        """Whether a path names a disk, and not a volume or a file."""
        try:
            status = os.stat(path)
        except OSError:
            return False
        if not stat.S_ISBLK(status.st_mode):
            return False
        number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        return not os.path.exists(f"/sys/dev/block/{number}/partition")


def dependencies(path: StrPath, *, hosted: bool = False) -> list[StorageDependency]:
    r"""Tells which attached images a disk, volume or file stands on.

    Args:
        path: A disk (``/dev/loop3``, ``\\.\PhysicalDrive3``), a partition, a
            volume, or any file or folder on it.
        hosted: Instead: which ones stand on it.

    Returns:
        The images, nearest first; none if it does not stand on any.

    Raises:
        TypeError: bytes are no path.
        ValueError: An empty path.
        VirtualDiskError: winerror 2 or 3 if there is no such thing, 5 without
            rights on it.

    Source: GetStorageDependencyInformation, version 2.
    """
    name = absolute_path(path)
    flags = 0 if hosted else _HOST_VOLUMES
    if _is_disk(name):
        flags |= _DISK_HANDLE
    try:
        entries = _virtdisk.GetStorageDependencyInformation(name, flags=flags)
    except VirtualDiskError as error:
        if error.winerror not in _STANDS_ON_NONE:
            raise
        return []
    found = [
        StorageDependency(
            level=level,
            flags=DependentDiskFlag(bits),
            storage_type=storage_type_from(device_id),
            vendor_id=uuid.UUID(bytes_le=vendor),
            device=device or None,
            host_volume=host or None,
            dependent_volume=dependent or None,
            relative_path=relative or None,
        )
        for bits, _, device_id, vendor, level, device, host, dependent, relative in (
            entries
        )
    ]
    return sorted(found, key=lambda entry: entry.level)
