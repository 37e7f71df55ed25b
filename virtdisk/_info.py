"""What is known about a disk: every class of GetVirtualDiskInformation.

A disk does not have every class: an ISO image has no identifier, only a
differencing image has a parent, an older Windows knows fewer classes.  What a
disk does not have is None; every other failure is raised.

Source: GetVirtualDiskInformation, GET_VIRTUAL_DISK_INFO.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from virtdisk import _virtdisk
from virtdisk._errors import VirtualDiskError
from virtdisk._flags import ProviderSubtype, StorageType

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "ChangeTrackingInfo",
    "ParentInfo",
    "PhysicalDiskInfo",
    "VirtualDiskInfo",
    "query",
    "storage_type_from",
]

# GET_VIRTUAL_DISK_INFO_VERSION; literals, so that the type of each answer is
# known.
SIZE: Final = 1
IDENTIFIER: Final = 2
PARENT_LOCATION: Final = 3
PARENT_IDENTIFIER: Final = 4
PARENT_TIMESTAMP: Final = 5
VIRTUAL_STORAGE_TYPE: Final = 6
PROVIDER_SUBTYPE: Final = 7
IS_4K_ALIGNED: Final = 8
PHYSICAL_DISK: Final = 9
VHD_PHYSICAL_SECTOR_SIZE: Final = 10
SMALLEST_SAFE_VIRTUAL_SIZE: Final = 11
FRAGMENTATION: Final = 12
IS_LOADED: Final = 13
VIRTUAL_DISK_ID: Final = 14
CHANGE_TRACKING_STATE: Final = 15

# How a system says that a disk has no such class.  87 and 1 come from a
# Windows that does not know the class: the call itself is well-formed.
_ABSENT: Final = frozenset(
    {
        1,  # ERROR_INVALID_FUNCTION
        50,  # ERROR_NOT_SUPPORTED
        87,  # ERROR_INVALID_PARAMETER
        0xC03A001B,  # ERROR_VHD_INVALID_TYPE
    }
)
# These two are computed from the content; these codes say that it cannot be
# done now, which is no failure of the question.
_INCOMPUTABLE: Final = _ABSENT | {
    21,  # ERROR_NOT_READY
    0xC03A001C,  # ERROR_VHD_INVALID_STATE
    0xC03A0026,  # ERROR_VHD_COULD_NOT_COMPUTE_MINIMUM_VIRTUAL_SIZE
}

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentInfo:
    """The parent of a differencing image.

    Attributes:
        resolved: Whether the parent was found.
        paths: Where it is, or if it was not found, where it was looked for.
        identifier: The identifier that the image expects its parent to have.
        timestamp: The parent's modification time that the image expects, in
            the format's own unit (VHD: seconds since 2000-01-01 UTC; VHDX has
            none).
    """

    resolved: bool
    paths: tuple[str, ...]
    identifier: uuid.UUID | None
    timestamp: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PhysicalDiskInfo:
    """The disk that the image file lies on.

    Attributes:
        logical_sector_size: In bytes.
        physical_sector_size: In bytes.
        is_remote: Whether it is reached over a network.
    """

    logical_sector_size: int
    physical_sector_size: int
    is_remote: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeTrackingInfo:
    """The state of change tracking.

    Attributes:
        enabled: Whether changes are tracked.
        newer_changes: Whether the disk changed after ``most_recent_id``.
        most_recent_id: The latest change tracking identifier.
    """

    enabled: bool
    newer_changes: bool
    most_recent_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualDiskInfo:
    """Everything GetVirtualDiskInformation tells about a disk.

    Sizes are bytes.  None stands for what this kind of image does not have
    or this system cannot tell.

    Attributes:
        virtual_size: The size of the disk.
        physical_size: The size of the image file.
        block_size: The unit of allocation; 0 for a fixed image and ISO.
        sector_size: The logical sector size of the disk.
        storage_type: The kind of image; a plain number if it is a new one.
        vendor_id: Who made the provider.
        subtype: Fixed, dynamic or differencing.
        identifier: What a child of this image calls its parent: the unique
            identifier of a VHD; of a VHDX one that changes when it is written.
        virtual_disk_id: The identifier of a VHDX's disk.
        is_4k_aligned: Whether the content is aligned to 4 KiB in the file.
        physical_disk: The disk that the image file lies on.
        physical_sector_size: The physical sector size that the disk reports.
        smallest_safe_virtual_size: How small the disk can be made without
            cutting off its last partition.
        fragmentation: Of the image, in percent.
        is_loaded: Whether the disk is attached.
        parent: The parent of a differencing image.
        change_tracking: The state of change tracking.
    """

    virtual_size: int
    physical_size: int
    block_size: int
    sector_size: int
    storage_type: StorageType | int
    vendor_id: uuid.UUID
    subtype: ProviderSubtype | int | None
    identifier: uuid.UUID | None
    virtual_disk_id: uuid.UUID | None
    is_4k_aligned: bool | None
    physical_disk: PhysicalDiskInfo | None
    physical_sector_size: int | None
    smallest_safe_virtual_size: int | None
    fragmentation: int | None
    is_loaded: bool | None
    parent: ParentInfo | None
    change_tracking: ChangeTrackingInfo | None


def _unless(codes: frozenset[int], ask: Callable[[], _T]) -> _T | None:
    """The answer, or None if the system answers one of the codes."""
    try:
        return ask()
    except VirtualDiskError as error:
        if error.winerror not in codes:
            raise
        return None


def _guid(memory: bytes | None) -> uuid.UUID | None:
    """A GUID from its 16 bytes in memory."""
    return None if memory is None else uuid.UUID(bytes_le=memory)


def storage_type_from(number: int) -> StorageType | int:
    """Names a kind of image.

    Args:
        number: Of VIRTUAL_STORAGE_TYPE_DEVICE.

    Returns:
        The kind, or the number if it is not known.  Raises nothing.

    Source: VIRTUAL_STORAGE_TYPE.
    """
    try:
        return StorageType(number)
    except ValueError:
        return number


def _subtype(number: int | None) -> ProviderSubtype | int | None:
    try:
        return None if number is None else ProviderSubtype(number)
    except ValueError:
        return number


def _parent(handle: _virtdisk.Handle) -> ParentInfo | None:
    ask = _virtdisk.GetVirtualDiskInformation
    location = _unless(_ABSENT, lambda: ask(handle, PARENT_LOCATION))
    if location is None:
        return None
    resolved, paths = location
    return ParentInfo(
        resolved=resolved,
        paths=tuple(paths),
        identifier=_guid(_unless(_ABSENT, lambda: ask(handle, PARENT_IDENTIFIER))),
        timestamp=_unless(_ABSENT, lambda: ask(handle, PARENT_TIMESTAMP)),
    )


def _physical_disk(handle: _virtdisk.Handle) -> PhysicalDiskInfo | None:
    ask = _virtdisk.GetVirtualDiskInformation
    answer = _unless(_ABSENT, lambda: ask(handle, PHYSICAL_DISK))
    if answer is None:
        return None
    logical, physical, remote = answer
    return PhysicalDiskInfo(
        logical_sector_size=logical,
        physical_sector_size=physical,
        is_remote=remote,
    )


def _change_tracking(handle: _virtdisk.Handle) -> ChangeTrackingInfo | None:
    ask = _virtdisk.GetVirtualDiskInformation
    answer = _unless(_ABSENT, lambda: ask(handle, CHANGE_TRACKING_STATE))
    if answer is None:
        return None
    enabled, newer, most_recent = answer
    return ChangeTrackingInfo(
        enabled=enabled, newer_changes=newer, most_recent_id=most_recent
    )


def query(handle: _virtdisk.Handle) -> VirtualDiskInfo:
    """Asks for every class of information.

    Args:
        handle: An open disk with the right to ask.

    Returns:
        The answers; sizes in bytes.

    Raises:
        ValueError: The handle is closed.
        VirtualDiskError: winerror 5 without the right, or what reading the
            image led to.

    Source: GetVirtualDiskInformation.
    """
    ask = _virtdisk.GetVirtualDiskInformation
    virtual_size, physical_size, block_size, sector_size = ask(handle, SIZE)
    device_id, vendor = ask(handle, VIRTUAL_STORAGE_TYPE)
    return VirtualDiskInfo(
        virtual_size=virtual_size,
        physical_size=physical_size,
        block_size=block_size,
        sector_size=sector_size,
        storage_type=storage_type_from(device_id),
        vendor_id=uuid.UUID(bytes_le=vendor),
        subtype=_subtype(_unless(_ABSENT, lambda: ask(handle, PROVIDER_SUBTYPE))),
        identifier=_guid(_unless(_ABSENT, lambda: ask(handle, IDENTIFIER))),
        virtual_disk_id=_guid(_unless(_ABSENT, lambda: ask(handle, VIRTUAL_DISK_ID))),
        is_4k_aligned=_unless(_ABSENT, lambda: ask(handle, IS_4K_ALIGNED)),
        physical_disk=_physical_disk(handle),
        physical_sector_size=_unless(
            _ABSENT, lambda: ask(handle, VHD_PHYSICAL_SECTOR_SIZE)
        ),
        smallest_safe_virtual_size=_unless(
            _INCOMPUTABLE, lambda: ask(handle, SMALLEST_SAFE_VIRTUAL_SIZE)
        ),
        fragmentation=_unless(_INCOMPUTABLE, lambda: ask(handle, FRAGMENTATION)),
        is_loaded=_unless(_ABSENT, lambda: ask(handle, IS_LOADED)),
        parent=_parent(handle),
        change_tracking=_change_tracking(handle),
    )
