"""What of virtdisk.h the guest's tests exercised, read off the recordings.

A recording is a call as the double wrote it down, after a test found it equal
to what it expected.  Here its bytes are taken apart by Microsoft's metadata
(tests/abi/vhd_abi.json); what a test meant to exercise plays no part.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from support import ROOT

METADATA: Final[dict[str, Any]] = json.loads(
    (ROOT / "tests/abi/vhd_abi.json").read_text("ascii")
)

# The structures that functions are given or answer with, by the name of the
# field in the recording.  "Answer" is what the double handed out.
STRUCTURES: Final[Mapping[str, str]] = {
    "OpenVirtualDisk.VirtualStorageType": "VIRTUAL_STORAGE_TYPE",
    "OpenVirtualDisk.Parameters": "OPEN_VIRTUAL_DISK_PARAMETERS",
    "CreateVirtualDisk.VirtualStorageType": "VIRTUAL_STORAGE_TYPE",
    "CreateVirtualDisk.Parameters": "CREATE_VIRTUAL_DISK_PARAMETERS",
    "AttachVirtualDisk.Parameters": "ATTACH_VIRTUAL_DISK_PARAMETERS",
    "GetVirtualDiskInformation.VirtualDiskInfo": "GET_VIRTUAL_DISK_INFO",
    "GetVirtualDiskInformation.Answer": "GET_VIRTUAL_DISK_INFO",
    "SetVirtualDiskInformation.VirtualDiskInfo": "SET_VIRTUAL_DISK_INFO",
    "GetStorageDependencyInformation.Answer": "STORAGE_DEPENDENCY_INFO",
    "GetVirtualDiskOperationProgress.Answer": "VIRTUAL_DISK_PROGRESS",
    "CompactVirtualDisk.Parameters": "COMPACT_VIRTUAL_DISK_PARAMETERS",
    "MergeVirtualDisk.Parameters": "MERGE_VIRTUAL_DISK_PARAMETERS",
    "ExpandVirtualDisk.Parameters": "EXPAND_VIRTUAL_DISK_PARAMETERS",
    "ResizeVirtualDisk.Parameters": "RESIZE_VIRTUAL_DISK_PARAMETERS",
    "MirrorVirtualDisk.Parameters": "MIRROR_VIRTUAL_DISK_PARAMETERS",
    "QueryChangesVirtualDisk.Answer": "QUERY_CHANGES_VIRTUAL_DISK_RANGE",
    "TakeSnapshotVhdSet.Parameters": "TAKE_SNAPSHOT_VHDSET_PARAMETERS",
    "DeleteSnapshotVhdSet.Parameters": "DELETE_SNAPSHOT_VHDSET_PARAMETERS",
    "ModifyVhdSet.Parameters": "MODIFY_VHDSET_PARAMETERS",
    "ApplySnapshotVhdSet.Parameters": "APPLY_SNAPSHOT_VHDSET_PARAMETERS",
    "RawSCSIVirtualDisk.Parameters": "RAW_SCSI_VIRTUAL_DISK_PARAMETERS",
    "RawSCSIVirtualDisk.Answer": "RAW_SCSI_VIRTUAL_DISK_RESPONSE",
    "ForkVirtualDisk.Parameters": "FORK_VIRTUAL_DISK_PARAMETERS",
}

# The member of a union that a class of information selects (API.md 1.4);
# elsewhere version 1 selects Version1, and so on.
ARMS: Final[Mapping[str, Mapping[int, str]]] = {
    "GET_VIRTUAL_DISK_INFO": {
        1: "Size",
        2: "Identifier",
        3: "ParentLocation",
        4: "ParentIdentifier",
        5: "ParentTimestamp",
        6: "VirtualStorageType",
        7: "ProviderSubtype",
        8: "Is4kAligned",
        9: "PhysicalDisk",
        10: "VhdPhysicalSectorSize",
        11: "SmallestSafeVirtualSize",
        12: "FragmentationPercentage",
        13: "IsLoaded",
        14: "VirtualDiskId",
        15: "ChangeTrackingState",
    },
    "SET_VIRTUAL_DISK_INFO": {
        1: "ParentFilePath",
        2: "UniqueIdentifier",
        3: "ParentPathWithDepthInfo",
        4: "VhdPhysicalSectorSize",
        5: "VirtualDiskId",
        6: "ChangeTrackingEnabled",
        7: "ParentLocator",
    },
    "MODIFY_VHDSET_PARAMETERS": {
        1: "SnapshotPath",
        2: "SnapshotId",
        3: "DefaultFilePath",
    },
}

# Where the constants of each enumeration must have been seen: in a parameter
# of a function, or a member of a structure.
PLACES: Final[Mapping[str, str]] = {
    "APPLY_SNAPSHOT_VHDSET_FLAG": "ApplySnapshotVhdSet.Flags",
    "APPLY_SNAPSHOT_VHDSET_VERSION": "APPLY_SNAPSHOT_VHDSET_PARAMETERS.Version",
    "ATTACH_VIRTUAL_DISK_FLAG": "AttachVirtualDisk.Flags",
    "ATTACH_VIRTUAL_DISK_VERSION": "ATTACH_VIRTUAL_DISK_PARAMETERS.Version",
    "COMPACT_VIRTUAL_DISK_FLAG": "CompactVirtualDisk.Flags",
    "COMPACT_VIRTUAL_DISK_VERSION": "COMPACT_VIRTUAL_DISK_PARAMETERS.Version",
    "CREATE_VIRTUAL_DISK_FLAG": "CreateVirtualDisk.Flags",
    "CREATE_VIRTUAL_DISK_PARAMETERS_DEFAULT_BLOCK_SIZE": (
        "CREATE_VIRTUAL_DISK_PARAMETERS.Version2.BlockSizeInBytes"
    ),
    "CREATE_VIRTUAL_DISK_PARAMETERS_DEFAULT_SECTOR_SIZE": (
        "CREATE_VIRTUAL_DISK_PARAMETERS.Version2.SectorSizeInBytes"
    ),
    "CREATE_VIRTUAL_DISK_VERSION": "CREATE_VIRTUAL_DISK_PARAMETERS.Version",
    "DELETE_SNAPSHOT_VHDSET_FLAG": "DeleteSnapshotVhdSet.Flags",
    "DELETE_SNAPSHOT_VHDSET_VERSION": "DELETE_SNAPSHOT_VHDSET_PARAMETERS.Version",
    "DEPENDENT_DISK_FLAG": "STORAGE_DEPENDENCY_INFO_TYPE_2.DependencyTypeFlags",
    "DETACH_VIRTUAL_DISK_FLAG": "DetachVirtualDisk.Flags",
    "EXPAND_VIRTUAL_DISK_FLAG": "ExpandVirtualDisk.Flags",
    "EXPAND_VIRTUAL_DISK_VERSION": "EXPAND_VIRTUAL_DISK_PARAMETERS.Version",
    "FORK_VIRTUAL_DISK_FLAG": "ForkVirtualDisk.Flags",
    "FORK_VIRTUAL_DISK_VERSION": "FORK_VIRTUAL_DISK_PARAMETERS.Version",
    "GET_STORAGE_DEPENDENCY_FLAG": "GetStorageDependencyInformation.Flags",
    "GET_VIRTUAL_DISK_INFO": "GET_VIRTUAL_DISK_INFO.Version",
    "MERGE_VIRTUAL_DISK_DEFAULT_MERGE_DEPTH": (
        "MERGE_VIRTUAL_DISK_PARAMETERS.Version1.MergeDepth"
    ),
    "MERGE_VIRTUAL_DISK_FLAG": "MergeVirtualDisk.Flags",
    "MERGE_VIRTUAL_DISK_VERSION": "MERGE_VIRTUAL_DISK_PARAMETERS.Version",
    "MIRROR_VIRTUAL_DISK_FLAG": "MirrorVirtualDisk.Flags",
    "MIRROR_VIRTUAL_DISK_VERSION": "MIRROR_VIRTUAL_DISK_PARAMETERS.Version",
    "MODIFY_VHDSET": "MODIFY_VHDSET_PARAMETERS.Version",
    "MODIFY_VHDSET_FLAG": "ModifyVhdSet.Flags",
    "OPEN_VIRTUAL_DISK_FLAG": "OpenVirtualDisk.Flags",
    "OPEN_VIRTUAL_DISK_RW_DEPTH_DEFAULT": (
        "OPEN_VIRTUAL_DISK_PARAMETERS.Version1.RWDepth"
    ),
    "OPEN_VIRTUAL_DISK_VERSION": "OPEN_VIRTUAL_DISK_PARAMETERS.Version",
    "QUERY_CHANGES_VIRTUAL_DISK_FLAG": "QueryChangesVirtualDisk.Flags",
    "RAW_SCSI_VIRTUAL_DISK_FLAG": "RawSCSIVirtualDisk.Flags",
    "RAW_SCSI_VIRTUAL_DISK_VERSION": "RAW_SCSI_VIRTUAL_DISK_PARAMETERS.Version",
    "RESIZE_VIRTUAL_DISK_FLAG": "ResizeVirtualDisk.Flags",
    "RESIZE_VIRTUAL_DISK_VERSION": "RESIZE_VIRTUAL_DISK_PARAMETERS.Version",
    "SET_VIRTUAL_DISK_INFO": "SET_VIRTUAL_DISK_INFO.Version",
    "STORAGE_DEPENDENCY_INFO_VERSION": "STORAGE_DEPENDENCY_INFO.Version",
    "TAKE_SNAPSHOT_VHDSET_FLAG": "TakeSnapshotVhdSet.Flags",
    "TAKE_SNAPSHOT_VHDSET_VERSION": "TAKE_SNAPSHOT_VHDSET_PARAMETERS.Version",
    "VIRTUAL_DISK_ACCESS": "OpenVirtualDisk.VirtualDiskAccessMask",
    "VIRTUAL_DISK_MAXIMUM_CHANGE_TRACKING_ID_LENGTH": (
        "QueryChangesVirtualDisk.ChangeTrackingId.length"
    ),
    "VIRTUAL_STORAGE_TYPE_DEVICE": "VIRTUAL_STORAGE_TYPE.DeviceId",
}

# What is not exercised, and why.  Anything else that is missing, and anything
# here that is exercised after all, fails a test.
UNEXERCISED: Final[Mapping[str, str]] = {
    **{
        name: "no version: refused before the system is called"
        for name in METADATA["constants"]
        if name.endswith("_UNSPECIFIED")
    },
    "ATTACH_VIRTUAL_DISK_PARAMETERS.Version1.Reserved": "must be zero",
    "COMPACT_VIRTUAL_DISK_PARAMETERS.Version1.Reserved": "must be zero",
    "GetVirtualDiskInformation.SizeUsed": (
        "optional; the size comes back in VirtualDiskInfoSize too"
    ),
}

Recording = Mapping[str, Any]


class Coverage:
    """The values that parameters and members had in recordings.

    Attributes:
        functions: The functions called.
        values: By place ("ResizeVirtualDisk.Flags",
            "VIRTUAL_STORAGE_TYPE.DeviceId"): numbers as they are, bytes as
            little-endian numbers, texts by whether they have a character.
    """

    def __init__(self, recordings: Iterable[Recording]) -> None:
        """Takes all recordings apart."""
        self.functions: set[str] = set()
        self.values: dict[str, set[int]] = collections.defaultdict(set)
        for recording in recordings:
            self._add(recording)

    def _add(self, recording: Recording) -> None:
        function = recording["function"]
        self.functions.add(function)
        for name, value in recording.items():
            place = f"{function}.{name}"
            if place in STRUCTURES and value is not None:
                self._add_structure(STRUCTURES[place], bytes.fromhex(value))
            if isinstance(value, str):
                self.values[f"{place}.length"].add(len(value))
                value = int(value != "")
            self.values[place].add(0 if value is None else int(value))

    def _add_structure(self, structure: str, image: bytes) -> None:
        if structure == "QUERY_CHANGES_VIRTUAL_DISK_RANGE":
            # After the length processed.
            self._add_entries(structure, image[8:])
            return
        self._add_members(structure, image)
        if structure == "STORAGE_DEPENDENCY_INFO":
            kind = int.from_bytes(image[:4], "little")
            count = int.from_bytes(image[4:8], "little")
            self._add_entries(f"{structure}_TYPE_{kind}", image[8:], count)

    def _add_entries(
        self, structure: str, image: bytes, count: int | None = None
    ) -> None:
        size = METADATA["structs"][structure]["size"]
        for index in range(len(image) // size if count is None else count):
            self._add_members(structure, image[index * size : (index + 1) * size])

    def _add_members(self, structure: str, image: bytes) -> None:
        fields = METADATA["structs"][structure]["fields"]
        version = int.from_bytes(image[:4], "little") if "Version" in fields else None
        for member in leaves(structure):
            if selected(structure, member, version):
                offset, size = fields[member]
                value = image[offset : offset + size] if size else image[offset:]
                place = f"{structure}.{member}"
                self.values[place].add(int.from_bytes(value, "little"))

    def had_a_value(self, place: str) -> bool:
        """Whether anything but zero, false, NULL and "" was seen there."""
        return any(self.values.get(place, ()))

    def appeared(self, constant: str) -> bool:
        """Whether a constant was seen where its kind belongs."""
        value = METADATA["constants"][constant] & 0xFFFFFFFF
        return value in self.values.get(place_of(constant), ())


def leaves(structure: str) -> set[str]:
    """The members of a structure that have no members of their own."""
    fields = METADATA["structs"][structure]["fields"]
    return set(fields) - {name.rpartition(".")[0] for name in fields}


def selected(structure: str, member: str, version: int | None) -> bool:
    """Whether a member counts in a structure of a version; None: it has none."""
    top = member.partition(".")[0]
    if version is None or top in {"Version", "NumberEntries"}:
        return True
    arms = ARMS.get(structure)
    if arms is not None:
        return arms.get(version) == top
    return top in {f"Version{version}", f"Version{version}Entries"}


def place_of(constant: str) -> str:
    """Where a constant belongs: by the longest prefix there is.

    Raises:
        KeyError: Nothing is said about its enumeration.
    """
    parts = constant.split("_")
    for end in range(len(parts), 0, -1):
        prefix = "_".join(parts[:end])
        if prefix in PLACES:
            return PLACES[prefix]
    raise KeyError(constant)


def missing_names(coverage: Coverage) -> Iterator[str]:
    """Every name of virtdisk.h that the recordings do not exercise."""
    for function, parameters in METADATA["functions"].items():
        if function not in coverage.functions:
            yield function
        for parameter in parameters:
            if not coverage.had_a_value(f"{function}.{parameter}"):
                yield f"{function}.{parameter}"
    for structure in METADATA["structs"]:
        for member in leaves(structure):
            if not coverage.had_a_value(f"{structure}.{member}"):
                yield f"{structure}.{member}"
    for constant in METADATA["constants"]:
        if not coverage.appeared(constant):
            yield constant
