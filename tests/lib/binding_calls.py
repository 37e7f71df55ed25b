"""Calls of all functions, and what each gives to the system.

The layouts are those of Microsoft's metadata (tests/abi/vhd_abi.json), which
shares nothing with our header.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from binding_double import (
    APPLY_SNAPSHOT,
    BREAK_MIRROR,
    COMPACT,
    COMPLETE_FORK,
    CREATE,
    CREATE_FILE,
    DELETE_METADATA,
    DELETE_SNAPSHOT,
    DEPENDENCY,
    ENUMERATE_METADATA,
    EXPAND,
    FORK,
    GET_METADATA,
    GUID_A,
    GUID_B,
    MERGE,
    MIRROR,
    MODIFY_SET,
    PENDING,
    QUERY_CHANGES,
    RESIZE,
    SET_INFORMATION,
    SET_METADATA,
    SUCCESS,
    TAKE_SNAPSHOT,
    Double,
)
from support import ROOT

ABI = json.loads((ROOT / "tests/abi/vhd_abi.json").read_text())
GUID_C, GUID_D, GUID_E, GUID_F = (bytes(range(n, n + 16)) for n in (16, 32, 48, 64))
MORE_DATA = 234


def pack(structure: str, members: Mapping[str, int | bytes]) -> bytes:
    """A structure of virtdisk.h; what is not given is zero."""
    layout = ABI["structs"][structure]
    image = bytearray(layout["size"])
    for member, value in members.items():
        offset, size = layout["fields"][member]
        raw = value.to_bytes(size, "little") if isinstance(value, int) else value
        assert len(raw) == size, member
        image[offset : offset + size] = raw
    return bytes(image)


def flags(prefix: str) -> list[int]:
    """All flags of an enumeration, alone and together, and more than it has."""
    found = [v for n, v in ABI["constants"].items() if n.startswith(f"{prefix}_FLAG_")]
    assert found
    return [*found, sum(found), 0x80000000, 0xFFFFFFFF]


@dataclass(frozen=True)
class Case:
    """A call, and what it gives to the system."""

    name: str
    number: int
    """In the double."""
    arguments: tuple[object, ...]
    """After the handle."""
    structure: str
    members: Mapping[str, int | bytes] | None
    """None: no structure.  A text has the number that it has in texts."""
    keywords: Mapping[str, object] = field(default_factory=dict)
    texts: tuple[str, ...] = ()


CREATE_STRUCTURE = "CREATE_VIRTUAL_DISK_PARAMETERS"
EVERY_MEMBER = {
    "unique_id": GUID_A,
    "maximum_size": 2**63 + 512,
    "block_size_in_bytes": 0xFFFFFFF1,
    "sector_size_in_bytes": 0xFFFFFFF2,
    "physical_sector_size_in_bytes": 0xFFFFFFF3,
    "parent_path": "parent é",
    "source_path": "source \udc80",
    "open_flags": 0x80000001,
    "parent_device_id": 0xFFFFFFF4,
    "parent_vendor_id": GUID_B,
    "source_device_id": 0xFFFFFFF5,
    "source_vendor_id": memoryview(GUID_C),
    "resiliency_guid": bytearray(GUID_D),
    "source_limit_path": "limit \U0001f600",
    "backing_device_id": 0xFFFFFFF6,
    "backing_vendor_id": GUID_E,
    "pmem_address_abstraction_type": GUID_F,
    "data_alignment": 2**64 - 1,
}


def create_members(version: int) -> dict[str, int | bytes]:
    """What of EVERY_MEMBER a version passes."""
    arm = f"Version{version}."
    found: dict[str, int | bytes] = {
        "Version": version,
        arm + "UniqueId": GUID_A,
        arm + "MaximumSize": 2**63 + 512,
        arm + "BlockSizeInBytes": 0xFFFFFFF1,
        arm + "SectorSizeInBytes": 0xFFFFFFF2,
        arm + "ParentPath": 2,
        arm + "SourcePath": 3,
    }
    if version >= 2:
        found |= {
            arm + "PhysicalSectorSizeInBytes": 0xFFFFFFF3,
            arm + "OpenFlags": 0x80000001,
            arm + "ParentVirtualStorageType.DeviceId": 0xFFFFFFF4,
            arm + "ParentVirtualStorageType.VendorId": GUID_B,
            arm + "SourceVirtualStorageType.DeviceId": 0xFFFFFFF5,
            arm + "SourceVirtualStorageType.VendorId": GUID_C,
            arm + "ResiliencyGuid": GUID_D,
        }
    if version >= 3:
        found |= {
            arm + "SourceLimitPath": 4,
            arm + "BackingStorageType.DeviceId": 0xFFFFFFF6,
            arm + "BackingStorageType.VendorId": GUID_E,
        }
    if version >= 4:
        found |= {
            arm + "PmemAddressAbstractionType": GUID_F,
            arm + "DataAlignment": 2**64 - 1,
        }
    return found


CREATE_TEXTS = ("x", "parent é", "source \udc80", "limit \U0001f600")
CREATE_CASES = [
    Case("CreateVirtualDisk", CREATE, (), CREATE_STRUCTURE, {"Version": 2},
         texts=("x",)),
    *(
        Case("CreateVirtualDisk", CREATE, (), CREATE_STRUCTURE, {"Version": n},
             {"version": n}, ("x",))
        for n in (1, 2, 3, 4)
    ),
    *(
        Case("CreateVirtualDisk", CREATE, (), CREATE_STRUCTURE, create_members(n),
             {"version": n, **EVERY_MEMBER}, CREATE_TEXTS[: 4 if n > 2 else 3])
        for n in (1, 2, 3, 4)
    ),
    Case("CreateVirtualDisk", CREATE, (), CREATE_STRUCTURE,
         {"Version": 2, "Version2.SourcePath": 2}, {"source_path": "s"}, ("x", "s")),
]  # fmt: skip

MERGE_STRUCTURE = "MERGE_VIRTUAL_DISK_PARAMETERS"
DEPTHS = {
    "merge_depth": 0xFFFFFFFD,
    "merge_source_depth": 0xFFFFFFFE,
    "merge_target_depth": 0xFFFFFFFF,
}
SET_STRUCTURE = "SET_VIRTUAL_DISK_INFO"
SET_MEMBERS = {
    "parent_file_path": "parent \ud800",
    "unique_identifier": GUID_A,
    "child_depth": 0xFFFFFFFE,
    "vhd_physical_sector_size": 0xFFFFFFFD,
    "virtual_disk_id": GUID_B,
    "change_tracking_enabled": True,
    "linkage_id": GUID_C,
}
PARENT = ("parent \ud800",)
SET_CASES: list[tuple[int, dict[str, int | bytes], tuple[str, ...]]] = [
    (1, {"ParentFilePath": 1}, PARENT),
    (2, {"UniqueIdentifier": GUID_A}, ()),
    (3, {"ParentPathWithDepthInfo.ChildDepth": 0xFFFFFFFE,
         "ParentPathWithDepthInfo.ParentFilePath": 1}, PARENT),
    (4, {"VhdPhysicalSectorSize": 0xFFFFFFFD}, ()),
    (5, {"VirtualDiskId": GUID_B}, ()),
    (6, {"ChangeTrackingEnabled": 1}, ()),
    (7, {"ParentLocator.LinkageId": GUID_C, "ParentLocator.ParentFilePath": 1},
     PARENT),
]  # fmt: skip
MODIFY_MEMBERS = {
    "snapshot_id": GUID_A,
    "snapshot_file_path": "file é",
    "default_file_path": "default é",
}
MODIFY_CASES: list[tuple[int, dict[str, int | bytes], tuple[str, ...]]] = [
    (1, {"SnapshotPath.SnapshotId": GUID_A, "SnapshotPath.SnapshotFilePath": 1},
     ("file é",)),
    (2, {"SnapshotId": GUID_A}, ()),
    (3, {"DefaultFilePath": 1}, ("default é",)),
]  # fmt: skip
CASES = [
    *CREATE_CASES,
    Case("CompactVirtualDisk", COMPACT, (), "COMPACT_VIRTUAL_DISK_PARAMETERS",
         {"Version": 1}),
    Case("CompactVirtualDisk", COMPACT, (), "COMPACT_VIRTUAL_DISK_PARAMETERS",
         {"Version": 1}, {"version": 1}),
    Case("CompactVirtualDisk", COMPACT, (), "COMPACT_VIRTUAL_DISK_PARAMETERS",
         None, {"version": None}),
    Case("MergeVirtualDisk", MERGE, (), MERGE_STRUCTURE,
         {"Version": 1, "Version1.MergeDepth": 1}),
    Case("MergeVirtualDisk", MERGE, (), MERGE_STRUCTURE,
         {"Version": 1, "Version1.MergeDepth": 0xFFFFFFFD}, {"version": 1, **DEPTHS}),
    Case("MergeVirtualDisk", MERGE, (), MERGE_STRUCTURE,
         {"Version": 2, "Version2.MergeSourceDepth": 1, "Version2.MergeTargetDepth": 2},
         {"version": 2}),
    Case("MergeVirtualDisk", MERGE, (), MERGE_STRUCTURE,
         {"Version": 2, "Version2.MergeSourceDepth": 0xFFFFFFFE,
          "Version2.MergeTargetDepth": 0xFFFFFFFF}, {"version": 2, **DEPTHS}),
    Case("ExpandVirtualDisk", EXPAND, (2**64 - 512,), "EXPAND_VIRTUAL_DISK_PARAMETERS",
         {"Version": 1, "Version1.NewSize": 2**64 - 512}),
    Case("ExpandVirtualDisk", EXPAND, (0,), "EXPAND_VIRTUAL_DISK_PARAMETERS",
         {"Version": 1}, {"version": 1}),
    Case("ResizeVirtualDisk", RESIZE, (2**64 - 512,), "RESIZE_VIRTUAL_DISK_PARAMETERS",
         {"Version": 1, "Version1.NewSize": 2**64 - 512}),
    Case("ResizeVirtualDisk", RESIZE, (0,), "RESIZE_VIRTUAL_DISK_PARAMETERS",
         {"Version": 1}, {"version": 1}),
    *(
        Case("SetVirtualDiskInformation", SET_INFORMATION, (n,), SET_STRUCTURE,
             {"Version": n, **members}, SET_MEMBERS, texts)
        for n, members, texts in SET_CASES
    ),
    Case("SetVirtualDiskInformation", SET_INFORMATION, (3,), SET_STRUCTURE,
         {"Version": 3, "ParentPathWithDepthInfo.ChildDepth": 1,
          "ParentPathWithDepthInfo.ParentFilePath": 1},
         {"parent_file_path": ""}, ("",)),
    Case("SetVirtualDiskInformation", SET_INFORMATION, (4,), SET_STRUCTURE,
         {"Version": 4}),
    Case("SetVirtualDiskInformation", SET_INFORMATION, (6,), SET_STRUCTURE,
         {"Version": 6}),
    Case("TakeSnapshotVhdSet", TAKE_SNAPSHOT, (GUID_A,),
         "TAKE_SNAPSHOT_VHDSET_PARAMETERS",
         {"Version": 1, "Version1.SnapshotId": GUID_A}),
    Case("DeleteSnapshotVhdSet", DELETE_SNAPSHOT, (bytearray(GUID_B),),
         "DELETE_SNAPSHOT_VHDSET_PARAMETERS",
         {"Version": 1, "Version1.SnapshotId": GUID_B}, {"version": 1}),
    *(
        Case("ModifyVhdSet", MODIFY_SET, (n,), "MODIFY_VHDSET_PARAMETERS",
             {"Version": n, **members}, MODIFY_MEMBERS, texts)
        for n, members, texts in MODIFY_CASES
    ),
    Case("ApplySnapshotVhdSet", APPLY_SNAPSHOT, (GUID_A, GUID_B),
         "APPLY_SNAPSHOT_VHDSET_PARAMETERS",
         {"Version": 1, "Version1.SnapshotId": GUID_A,
          "Version1.LeafSnapshotId": GUID_B}),
]  # fmt: skip
# Those that need an Overlapped.
MIRROR_CASES = [
    Case("MirrorVirtualDisk", MIRROR, ("mirror \U0001f600",),
         "MIRROR_VIRTUAL_DISK_PARAMETERS",
         {"Version": 1, "Version1.MirrorVirtualDiskPath": 1},
         texts=("mirror \U0001f600",)),
    Case("ForkVirtualDisk", FORK, ("fork \udcff",), "FORK_VIRTUAL_DISK_PARAMETERS",
         {"Version": 1, "Version1.ForkedVirtualDiskPath": 1}, texts=("fork \udcff",)),
]  # fmt: skip


def subject(double: Double, name: str) -> Any:
    """The first argument."""
    by_path = name in ("CreateVirtualDisk", "GetStorageDependencyInformation")
    return "x" if by_path else double.api.OpenVirtualDisk("the image")


def make(double: Double, case: Case, **more: object) -> Any:
    """Makes the call of a case; what it returns."""
    given = [subject(double, case.name), *case.arguments]
    if case in MIRROR_CASES:
        given.append(more.pop("overlapped", None) or double.api.Overlapped())
    return getattr(double.api, case.name)(*given, **{**case.keywords, **more})


def ident(value: object) -> str | None:
    return value.name if isinstance(value, Case) else None


ALL_CASES = [*CASES, *MIRROR_CASES]


STARTED = [
    CREATE_CASES[-2],
    *(
        next(c for c in CASES if c.number == n)
        for n in (COMPACT, MERGE, EXPAND, RESIZE)
    ),
    *MIRROR_CASES,
]


def started(double: Double, case: Case) -> Any:
    """A pending operation; its handle is held by it alone, but for Create's."""
    overlapped = double.api.Overlapped()
    double.answer(case.number, PENDING)
    make(double, case, overlapped=overlapped)
    double.answer(case.number, SUCCESS)
    return overlapped


MISUSE: list[tuple[str, tuple[object, ...], dict[str, object], type[Exception], str]]
MISUSE = [
    ("CreateVirtualDisk", (), {"version": 0}, ValueError, "from 1 to 4, not 0"),
    ("CreateVirtualDisk", (), {"version": 5}, ValueError, "from 1 to 4, not 5"),
    ("CreateVirtualDisk", (), {"version": None}, ValueError, "from 1 to 4, not None"),
    ("CreateVirtualDisk", (), {"parent_path": 1}, TypeError,
     "parent_path must be str or None, not int"),
    ("CreateVirtualDisk", (), {"source_path": b"x"}, TypeError, "source_path must be"),
    ("CreateVirtualDisk", (), {"source_limit_path": "\0"}, ValueError,
     "source_limit_path: embedded null"),
    ("CreateVirtualDisk", (), {"unique_id": bytes(15)}, ValueError,
     "unique_id must have 16 bytes, not 15"),
    ("CreateVirtualDisk", (), {"backing_vendor_id": "x"}, TypeError,
     "backing_vendor_id must be a bytes-like object or None"),
    ("CreateVirtualDisk", (), {"overlapped": 1}, TypeError,
     "overlapped must be Overlapped or None, not int"),
    # Checked although version 1 does not have it.
    ("CreateVirtualDisk", (), {"version": 1, "data_alignment": -1}, OverflowError,
     "data_alignment must be"),
    ("CompactVirtualDisk", (), {"version": 2}, ValueError, "None or 1, not 2"),
    ("MergeVirtualDisk", (), {"version": 3}, ValueError, "from 1 to 2, not 3"),
    ("MergeVirtualDisk", (), {"version": None}, ValueError, "from 1 to 2, not None"),
    ("MergeVirtualDisk", (), {"merge_depth": 2**32}, OverflowError, "merge_depth"),
    ("ExpandVirtualDisk", (1,), {"version": 2}, ValueError, "must be 1, not 2"),
    ("ExpandVirtualDisk", (-1,), {}, OverflowError, "new_size must be from 0"),
    ("ExpandVirtualDisk", ("1",), {}, TypeError, "new_size must be int, not str"),
    ("ResizeVirtualDisk", (2**64,), {}, OverflowError, "new_size must be from 0"),
    ("ResizeVirtualDisk", (None,), {}, TypeError, "new_size must be int"),
    ("ResizeVirtualDisk", (1,), {"version": None}, ValueError, "must be 1, not None"),
    ("SetVirtualDiskInformation", (0,), {}, ValueError, "from 1 to 7, not 0"),
    ("SetVirtualDiskInformation", (8,), {}, ValueError, "from 1 to 7, not 8"),
    ("SetVirtualDiskInformation", (None,), {}, ValueError, "from 1 to 7, not None"),
    ("SetVirtualDiskInformation", ("1",), {}, TypeError, "version must be int"),
    ("SetVirtualDiskInformation", (4,), {"child_depth": -1}, OverflowError,
     "child_depth must be"),
    ("SetVirtualDiskInformation", (6,), {"parent_file_path": 1}, TypeError,
     "parent_file_path must be str or None"),
    ("GetVirtualDiskMetadata", (None,), {}, TypeError,
     "item must be a bytes-like object, not NoneType"),
    ("GetVirtualDiskMetadata", (bytes(17),), {}, ValueError, "item must have 16"),
    ("SetVirtualDiskMetadata", (GUID_A, "text"), {}, TypeError,
     "metadata must be a bytes-like object, not str"),
    ("SetVirtualDiskMetadata", (b"", b""), {}, ValueError, "item must have 16"),
    ("DeleteVirtualDiskMetadata", (b"",), {}, ValueError, "item must have 16"),
    ("GetStorageDependencyInformation", (), {"version": 3}, ValueError,
     "from 1 to 2, not 3"),
    ("GetStorageDependencyInformation", (), {"version": None}, ValueError,
     "from 1 to 2, not None"),
    ("QueryChangesVirtualDisk", (1, 0, 0), {}, TypeError,
     "change_tracking_id must be str, not int"),
    ("QueryChangesVirtualDisk", ("", -1, 0), {}, OverflowError, "byte_offset"),
    ("QueryChangesVirtualDisk", ("", 0, 2**64), {}, OverflowError, "byte_length"),
    ("QueryChangesVirtualDisk", ("", 0, 0), {"range_count": 2**32}, OverflowError,
     "range_count"),
    ("TakeSnapshotVhdSet", (None,), {}, TypeError, "snapshot_id must be"),
    ("TakeSnapshotVhdSet", (GUID_A,), {"version": 2}, ValueError, "must be 1, not 2"),
    ("DeleteSnapshotVhdSet", (bytes(1),), {}, ValueError, "snapshot_id must have 16"),
    ("ModifyVhdSet", (4,), {}, ValueError, "from 1 to 3, not 4"),
    ("ModifyVhdSet", (2,), {"snapshot_id": 1}, TypeError, "snapshot_id must be"),
    ("ApplySnapshotVhdSet", (GUID_A, None), {}, TypeError, "leaf_snapshot_id must be"),
    ("MirrorVirtualDisk", (1, None), {}, TypeError, "overlapped must be"),
]  # fmt: skip


def answer(entries: list[bytes], tail: bytes = b"", count: int | None = None) -> bytes:
    """A STORAGE_DEPENDENCY_INFO without its version."""
    number = len(entries) if count is None else count
    return struct.pack("<I", number) + b"".join(entries) + tail


Call = Callable[[Any, Any], object]
CALLS: list[tuple[str, int, Call]] = [
    ("CompactVirtualDisk", COMPACT, lambda d, h: d.CompactVirtualDisk(h)),
    ("MergeVirtualDisk", MERGE, lambda d, h: d.MergeVirtualDisk(h)),
    ("ExpandVirtualDisk", EXPAND, lambda d, h: d.ExpandVirtualDisk(h, 1)),
    ("ResizeVirtualDisk", RESIZE, lambda d, h: d.ResizeVirtualDisk(h, 1)),
    ("MirrorVirtualDisk", MIRROR,
     lambda d, h: d.MirrorVirtualDisk(h, "the image", d.Overlapped())),
    ("BreakMirrorVirtualDisk", BREAK_MIRROR, lambda d, h: d.BreakMirrorVirtualDisk(h)),
    ("SetVirtualDiskInformation", SET_INFORMATION,
     lambda d, h: d.SetVirtualDiskInformation(h, 1, parent_file_path="p")),
    ("EnumerateVirtualDiskMetadata", ENUMERATE_METADATA,
     lambda d, h: d.EnumerateVirtualDiskMetadata(h)),
    ("GetVirtualDiskMetadata", GET_METADATA,
     lambda d, h: d.GetVirtualDiskMetadata(h, GUID_A)),
    ("SetVirtualDiskMetadata", SET_METADATA,
     lambda d, h: d.SetVirtualDiskMetadata(h, GUID_A, b"content")),
    ("DeleteVirtualDiskMetadata", DELETE_METADATA,
     lambda d, h: d.DeleteVirtualDiskMetadata(h, GUID_A)),
    ("QueryChangesVirtualDisk", QUERY_CHANGES,
     lambda d, h: d.QueryChangesVirtualDisk(h, "id", 0, 1)),
    ("TakeSnapshotVhdSet", TAKE_SNAPSHOT, lambda d, h: d.TakeSnapshotVhdSet(h, GUID_A)),
    ("DeleteSnapshotVhdSet", DELETE_SNAPSHOT,
     lambda d, h: d.DeleteSnapshotVhdSet(h, GUID_A)),
    ("ModifyVhdSet", MODIFY_SET,
     lambda d, h: d.ModifyVhdSet(h, 1, snapshot_id=GUID_A, snapshot_file_path="p")),
    ("ApplySnapshotVhdSet", APPLY_SNAPSHOT,
     lambda d, h: d.ApplySnapshotVhdSet(h, GUID_A, GUID_B)),
    ("ForkVirtualDisk", FORK,
     lambda d, h: d.ForkVirtualDisk(h, "the image", d.Overlapped())),
    ("CompleteForkVirtualDisk", COMPLETE_FORK,
     lambda d, h: d.CompleteForkVirtualDisk(h)),
]  # fmt: skip
BY_PATH: list[tuple[str, int, Call]] = [
    ("CreateVirtualDisk", CREATE,
     lambda d, _: d.CreateVirtualDisk("the image", version=4, **EVERY_MEMBER)),
    ("GetStorageDependencyInformation", DEPENDENCY,
     lambda d, _: d.GetStorageDependencyInformation("the image")),
    ("CreateFileW", CREATE_FILE,
     lambda d, _: d.GetStorageDependencyInformation("the image")),
]  # fmt: skip
ALL_CALLS = [*CALLS, *BY_PATH]
NAMES = [name for name, _, _ in CALLS]
