"""Every function of virtdisk.h, called with as little as it takes."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from virtdisk import _virtdisk

if TYPE_CHECKING:
    from virtdisk._virtdisk import Handle, Overlapped

GUID: Final = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff").bytes_le
OTHER_GUID: Final = uuid.UUID("fedcba98-7654-3210-0123-456789abcdef").bytes_le
# Something that can be opened to ask on what it depends.
OBJECT: Final = "P:\\python.exe"

# The functions without a disk, and those of one.
Free = Callable[[], Any]
Call = Callable[["Handle"], Any]
# The functions that can be asynchronous.  Two must be.
Start = Callable[["Handle", "Overlapped"], Any]

FREE: Final[Mapping[str, Free]] = {
    "OpenVirtualDisk": lambda: _virtdisk.OpenVirtualDisk("C:\\other.vhdx"),
    "CreateVirtualDisk": lambda: _virtdisk.CreateVirtualDisk(
        "C:\\new.vhdx", maximum_size=1 << 30
    ),
    "GetAllAttachedVirtualDiskPhysicalPaths": (
        _virtdisk.GetAllAttachedVirtualDiskPhysicalPaths
    ),
    "GetStorageDependencyInformation": (
        lambda: _virtdisk.GetStorageDependencyInformation(OBJECT)
    ),
}

STARTS: Final[Mapping[str, Start]] = {
    "AttachVirtualDisk": lambda disk, overlapped: _virtdisk.AttachVirtualDisk(
        disk, overlapped=overlapped
    ),
    "CompactVirtualDisk": lambda disk, overlapped: _virtdisk.CompactVirtualDisk(
        disk, overlapped=overlapped
    ),
    "MergeVirtualDisk": lambda disk, overlapped: _virtdisk.MergeVirtualDisk(
        disk, overlapped=overlapped
    ),
    "ExpandVirtualDisk": lambda disk, overlapped: _virtdisk.ExpandVirtualDisk(
        disk, 1 << 30, overlapped=overlapped
    ),
    "ResizeVirtualDisk": lambda disk, overlapped: _virtdisk.ResizeVirtualDisk(
        disk, 1 << 30, overlapped=overlapped
    ),
    "MirrorVirtualDisk": lambda disk, overlapped: _virtdisk.MirrorVirtualDisk(
        disk, "C:\\mirror.vhdx", overlapped
    ),
    "ForkVirtualDisk": lambda disk, overlapped: _virtdisk.ForkVirtualDisk(
        disk, "C:\\fork.vhdx", overlapped
    ),
}

ASYNCHRONOUS: Final = ("CreateVirtualDisk", *STARTS)


def start(function: str, disk: Handle, overlapped: Overlapped) -> Handle:
    """Starts any function that can be asynchronous.

    Returns:
        The handle the operation is of: a new one of CreateVirtualDisk.
    """
    if function == "CreateVirtualDisk":
        return _virtdisk.CreateVirtualDisk(
            "C:\\new.vhdx", maximum_size=1 << 30, overlapped=overlapped
        )
    STARTS[function](disk, overlapped)
    return disk


CALLS: Final[Mapping[str, Call]] = {
    "AttachVirtualDisk": _virtdisk.AttachVirtualDisk,
    "DetachVirtualDisk": _virtdisk.DetachVirtualDisk,
    "GetVirtualDiskPhysicalPath": _virtdisk.GetVirtualDiskPhysicalPath,
    "GetVirtualDiskInformation": (
        lambda disk: _virtdisk.GetVirtualDiskInformation(disk, 1)
    ),
    "SetVirtualDiskInformation": (
        lambda disk: _virtdisk.SetVirtualDiskInformation(disk, 6)
    ),
    "EnumerateVirtualDiskMetadata": _virtdisk.EnumerateVirtualDiskMetadata,
    "GetVirtualDiskMetadata": (
        lambda disk: _virtdisk.GetVirtualDiskMetadata(disk, GUID)
    ),
    "SetVirtualDiskMetadata": (
        lambda disk: _virtdisk.SetVirtualDiskMetadata(disk, GUID, b"value")
    ),
    "DeleteVirtualDiskMetadata": (
        lambda disk: _virtdisk.DeleteVirtualDiskMetadata(disk, GUID)
    ),
    "CompactVirtualDisk": _virtdisk.CompactVirtualDisk,
    "MergeVirtualDisk": _virtdisk.MergeVirtualDisk,
    "ExpandVirtualDisk": lambda disk: _virtdisk.ExpandVirtualDisk(disk, 1 << 30),
    "ResizeVirtualDisk": lambda disk: _virtdisk.ResizeVirtualDisk(disk, 1 << 30),
    "MirrorVirtualDisk": (
        lambda disk: STARTS["MirrorVirtualDisk"](disk, _virtdisk.Overlapped())
    ),
    "BreakMirrorVirtualDisk": _virtdisk.BreakMirrorVirtualDisk,
    "AddVirtualDiskParent": (
        lambda disk: _virtdisk.AddVirtualDiskParent(disk, "C:\\parent.vhdx")
    ),
    "QueryChangesVirtualDisk": (
        lambda disk: _virtdisk.QueryChangesVirtualDisk(disk, "rct", 0, 1 << 30)
    ),
    "TakeSnapshotVhdSet": lambda disk: _virtdisk.TakeSnapshotVhdSet(disk, GUID),
    "DeleteSnapshotVhdSet": lambda disk: _virtdisk.DeleteSnapshotVhdSet(disk, GUID),
    "ModifyVhdSet": lambda disk: _virtdisk.ModifyVhdSet(disk, 2, snapshot_id=GUID),
    "ApplySnapshotVhdSet": (
        lambda disk: _virtdisk.ApplySnapshotVhdSet(disk, GUID, OTHER_GUID)
    ),
    "RawSCSIVirtualDisk": (
        lambda disk: _virtdisk.RawSCSIVirtualDisk(disk, bytes(6), data_in=bytearray(36))
    ),
    "ForkVirtualDisk": (
        lambda disk: STARTS["ForkVirtualDisk"](disk, _virtdisk.Overlapped())
    ),
    "CompleteForkVirtualDisk": _virtdisk.CompleteForkVirtualDisk,
}
# The one that is of an operation, not of a disk alone.
PROGRESS: Final = "GetVirtualDiskOperationProgress"

# Newer than Windows 8, and what each needs.
NEWER: Final[Mapping[str, str]] = {
    "QueryChangesVirtualDisk": "Windows 10 or Windows Server 2016",
    "TakeSnapshotVhdSet": "Windows 10 or Windows Server 2016",
    "DeleteSnapshotVhdSet": "Windows 10 or Windows Server 2016",
    "ModifyVhdSet": "Windows 10 or Windows Server 2016",
    "ApplySnapshotVhdSet": "Windows 10 or Windows Server 2016",
    "RawSCSIVirtualDisk": "Windows 10 or Windows Server 2016",
    "ForkVirtualDisk": "1809",
    "CompleteForkVirtualDisk": "1809",
}
