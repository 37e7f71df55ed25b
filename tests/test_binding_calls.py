"""What each function gives to the system, byte for byte, and what it makes of
the answer; over the double of the API.

The layouts are those of Microsoft's metadata (tests/abi/vhd_abi.json), which
shares nothing with our header.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import select
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from binding_double import (
    APPLY_SNAPSHOT,
    ATTACH,
    BREAK_MIRROR,
    CANCEL,
    CLOSE,
    COMPACT,
    COMPLETE_FORK,
    CONVERT,
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
    NO_GUID,
    PENDING,
    PROGRESS,
    QUERY_CHANGES,
    RESIZE,
    SET_INFORMATION,
    SET_METADATA,
    SUCCESS,
    TAKE_SNAPSHOT,
    WAIT,
    Double,
    start,
    utf16,
)
from support import LINUX, ROOT

from virtdisk._errors import VirtualDiskError

pytestmark = pytest.mark.skipif(not LINUX, reason="the double is for Linux")

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


@pytest.mark.parametrize(
    "case", ALL_CASES, ids=[f"{n}-{case.name}" for n, case in enumerate(ALL_CASES)]
)
def test_parameters(double: Double, case: Case) -> None:
    make(double, case)
    size = ABI["structs"][case.structure]["size"]
    expected = b"" if case.members is None else pack(case.structure, case.members)
    assert double.given.parameters_size == len(expected) == (size if expected else 0)
    assert bytes(double.given.parameters) == expected.ljust(184, b"\0")
    assert double.given.text() == list(case.texts)
    assert double.given.flags == double.given.provider_specific_flags == 0
    assert double.given.overlapped == (case in MIRROR_CASES)
    assert double.calls(case.number) == 1


def test_every_member_is_passed() -> None:
    """With a value of its own in some case above, but Reserved, which is 0."""
    told: dict[str, set[str]] = {}
    for case in ALL_CASES:
        members = {m for m, value in (case.members or {}).items() if value}
        told.setdefault(case.structure, set()).update(members)
    for structure, members in told.items():
        fields = ABI["structs"][structure]["fields"]
        leaves = {f for f in fields if not any(o.startswith(f"{f}.") for o in fields)}
        assert leaves - members == {f for f in leaves if f.endswith(".Reserved")}


FLAGGED = [
    ("CREATE_VIRTUAL_DISK", CREATE_CASES[0]),
    ("COMPACT_VIRTUAL_DISK", next(c for c in CASES if c.number == COMPACT)),
    ("MERGE_VIRTUAL_DISK", next(c for c in CASES if c.number == MERGE)),
    ("EXPAND_VIRTUAL_DISK", next(c for c in CASES if c.number == EXPAND)),
    ("RESIZE_VIRTUAL_DISK", next(c for c in CASES if c.number == RESIZE)),
    ("MIRROR_VIRTUAL_DISK", MIRROR_CASES[0]),
    ("FORK_VIRTUAL_DISK", MIRROR_CASES[1]),
    ("TAKE_SNAPSHOT_VHDSET", next(c for c in CASES if c.number == TAKE_SNAPSHOT)),
    ("DELETE_SNAPSHOT_VHDSET", next(c for c in CASES if c.number == DELETE_SNAPSHOT)),
    ("MODIFY_VHDSET", next(c for c in CASES if c.number == MODIFY_SET)),
    ("APPLY_SNAPSHOT_VHDSET", next(c for c in CASES if c.number == APPLY_SNAPSHOT)),
]


@pytest.mark.parametrize(("prefix", "case"), FLAGGED, ids=ident)
def test_flags(double: Double, prefix: str, case: Case) -> None:
    for value in flags(prefix):
        make(double, case, flags=value)
        assert double.given.flags == value


# CreateVirtualDisk.


def test_create_scalars(double: Double) -> None:
    handle = double.api.CreateVirtualDisk(
        "C:\\new é.vhdx",
        device_id=0xFFFFFFF1,
        vendor_id=GUID_B,
        access_mask=0x003F0000,
        provider_specific_flags=0xFFFFFFFE,
        security_descriptor="D:",
    )
    given = double.given
    assert bytes(given.storage_type) == struct.pack("<I16s", 0xFFFFFFF1, GUID_B)
    assert given.access_mask == 0x003F0000
    assert given.provider_specific_flags == 0xFFFFFFFE
    assert given.text() == ["C:\\new é.vhdx"]
    assert bytes(given.descriptor)[:20] == b"\1\0\0\x80".ljust(20, b"\0")
    assert double.recorded.descriptors_freed == 1
    assert given.overlapped == 0
    assert handle.path == "C:\\new é.vhdx"
    assert not handle.closed


def test_create_defaults(double: Double) -> None:
    double.api.CreateVirtualDisk("x")
    assert bytes(double.given.storage_type) == bytes(20)
    assert double.given.access_mask == double.given.has_descriptor == 0


def test_create_fails(double: Double) -> None:
    double.answer(CREATE, 80)
    before = double.disks_open()
    with pytest.raises(FileExistsError) as caught:
        double.api.CreateVirtualDisk("the file")
    assert caught.value.filename == "the file"
    assert double.disks_open() == before


def test_create_bad_descriptor(double: Double) -> None:
    with pytest.raises(VirtualDiskError) as caught:
        double.api.CreateVirtualDisk("the file", security_descriptor="nonsense")
    assert caught.value.function.startswith("ConvertStringSecurityDescriptor")
    assert caught.value.filename == "the file"
    with pytest.raises(ValueError, match="security_descriptor"):
        double.api.CreateVirtualDisk("the file", security_descriptor=b"short")
    assert double.calls(CREATE) == 0


def create(double: Double, **more: object) -> tuple[Any, Any]:
    """One that is pending."""
    overlapped = double.api.Overlapped()
    double.answer(CREATE, PENDING)
    handle = double.api.CreateVirtualDisk("new", overlapped=overlapped, **more)
    double.answer(CREATE, SUCCESS)
    return handle, overlapped


def test_create_pending(double: Double) -> None:
    """The handle is there at once; the operation is asked for through both."""
    handle, overlapped = create(double, version=4, **EVERY_MEMBER)
    assert overlapped.pending
    assert not handle.closed
    assert double.api.GetVirtualDiskOperationProgress(handle, overlapped) == (
        (PENDING, 3, 0x100000007)
    )
    double.complete(SUCCESS)
    assert overlapped.wait(30)
    assert overlapped.result() is None
    handle.close()
    assert double.calls(CLOSE) == 1


def test_create_fails_later(double: Double) -> None:
    handle, overlapped = create(double)
    double.complete(112)
    with pytest.raises(VirtualDiskError) as caught:
        overlapped.result()
    assert caught.value.winerror == 112
    assert caught.value.function == "CreateVirtualDisk"
    assert caught.value.filename == "new"
    assert not handle.closed
    handle.close()
    assert double.calls(CLOSE) == 1


def test_create_fails_at_once(double: Double) -> None:
    overlapped = double.api.Overlapped()
    double.answer(CREATE, 87)
    with pytest.raises(VirtualDiskError) as caught:
        double.api.CreateVirtualDisk("new", overlapped=overlapped)
    assert caught.value.winerror == 87
    with pytest.raises(ValueError, match="started"):
        overlapped.result()


def test_create_done_at_once(double: Double) -> None:
    overlapped = double.api.Overlapped()
    handle = double.api.CreateVirtualDisk("new", overlapped=overlapped)
    assert overlapped.result() is None
    handle.close()
    assert double.calls(CLOSE) == 1


def test_create_closed_while_pending(double: Double) -> None:
    handle, overlapped = create(double)
    handle.close()
    assert double.calls(CLOSE) == 0
    del handle
    gc.collect()
    assert double.calls(CLOSE) == 0
    overlapped.cancel()
    assert overlapped.wait(30)
    assert double.calls(CLOSE) == 1


def test_create_dropped_while_pending(double: Double) -> None:
    handle, overlapped = create(double)
    del overlapped
    gc.collect()
    assert double.calls(CANCEL) == 1
    assert double.calls(CLOSE) == 0
    handle.close()
    assert double.calls(CLOSE) == 1


def test_create_all_dropped_while_pending(double: Double) -> None:
    pair = [*create(double)]
    pair.clear()
    gc.collect()
    assert (double.calls(CANCEL), double.calls(CLOSE)) == (1, 1)


def test_create_with_an_overlapped_in_use(double: Double) -> None:
    _, overlapped = create(double)
    with pytest.raises(ValueError, match="in use"):
        double.api.CreateVirtualDisk("other", overlapped=overlapped)
    assert double.calls(CREATE) == 1
    double.complete(SUCCESS)


def test_create_pending_without_overlapped_is_an_error(double: Double) -> None:
    double.answer(CREATE, PENDING)
    with pytest.raises(VirtualDiskError) as caught:
        double.api.CreateVirtualDisk("new")
    assert caught.value.winerror == PENDING


# Every function that takes an Overlapped.

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


def test_these_are_all_that_take_one() -> None:
    takes = {n for n, names in ABI["functions"].items() if "Overlapped" in names}
    tested = {c.name for c in STARTED} | {"AttachVirtualDisk"}
    assert takes == tested | {"GetVirtualDiskOperationProgress"}


@pytest.mark.parametrize("case", STARTED, ids=ident)
def test_operation(double: Double, case: Case) -> None:
    overlapped = started(double, case)
    assert double.given.overlapped == 1
    assert overlapped.pending
    assert overlapped.wait(0) is False
    assert overlapped.progress() == (PENDING, 3, 0x100000007)
    assert select.select([overlapped], [], [], 0) == ([], [], [])
    double.complete(SUCCESS)
    assert select.select([overlapped], [], [], 30) == ([overlapped], [], [])
    assert overlapped.result() is None


@pytest.mark.parametrize("case", STARTED, ids=ident)
def test_operation_is_cancelled(double: Double, case: Case) -> None:
    overlapped = started(double, case)
    overlapped.cancel()
    assert overlapped.wait(30)
    with pytest.raises(VirtualDiskError) as caught:
        overlapped.result()
    assert (caught.value.winerror, caught.value.function) == (995, case.name)


@pytest.mark.parametrize("case", STARTED, ids=ident)
def test_operation_is_dropped(double: Double, case: Case) -> None:
    box = [started(double, case)]
    waits = double.calls(WAIT)
    box.clear()
    assert double.calls(CANCEL) == 1
    assert double.calls(WAIT) == waits + 1


@pytest.mark.parametrize("case", STARTED, ids=ident)
def test_operation_fails_at_once(double: Double, case: Case) -> None:
    overlapped = double.api.Overlapped()
    double.answer(case.number, 5)
    with pytest.raises(PermissionError) as caught:
        make(double, case, overlapped=overlapped)
    assert getattr(caught.value, "function", None) == case.name
    assert not overlapped.pending


@pytest.mark.parametrize("case", STARTED, ids=ident)
def test_what_an_operation_was_given_is_kept(double: Double, case: Case) -> None:
    """Also after its objects are gone and others have taken their place."""
    overlapped = started(double, case)
    gc.collect()
    noise = [ctypes.create_string_buffer(b"\xaa" * n, n) for n in range(1, 400)]
    assert double.intact()
    del noise
    assert double.intact()
    double.complete(SUCCESS)
    assert overlapped.result() is None


def test_create_keeps_its_descriptor(double: Double) -> None:
    _, overlapped = create(double, security_descriptor="D:", **EVERY_MEMBER)
    noise = [ctypes.create_string_buffer(b"\xaa" * n, n) for n in range(1, 400)]
    assert len(noise) == 399
    assert double.intact()
    overlapped.cancel()
    assert overlapped.wait(30)


@pytest.mark.parametrize("case", MIRROR_CASES, ids=ident)
def test_overlapped_is_needed(double: Double, case: Case) -> None:
    handle = double.api.OpenVirtualDisk("x")
    function = getattr(double.api, case.name)
    for value in (None, 1, handle):
        with pytest.raises(TypeError, match="overlapped must be Overlapped, not"):
            function(handle, "path", value)
    with pytest.raises(TypeError, match="overlapped"):
        function(handle, "path")
    assert double.calls(case.number) == 0


@pytest.mark.parametrize("case", MIRROR_CASES, ids=ident)
def test_error_names_the_other_file(double: Double, case: Case) -> None:
    double.answer(case.number, 80)
    with pytest.raises(FileExistsError) as caught:
        make(double, case)
    assert caught.value.filename == case.texts[0]


# GetVirtualDiskOperationProgress.


def test_progress_is_what_the_system_says(double: Double) -> None:
    """It may go back, and be of nothing."""
    handle, overlapped = start(double)
    progress = double.api.GetVirtualDiskOperationProgress
    for told in ((5, 8), (2**64 - 1, 2**64 - 1), (1, 8), (3, 0), (0, 0)):
        double.progress.current, double.progress.completion = told
        assert progress(handle, overlapped) == (PENDING, *told)
    double.complete(SUCCESS)
    assert progress(handle, overlapped) == (SUCCESS, 0, 0)
    assert not overlapped.pending
    assert progress(handle, overlapped=overlapped) == (SUCCESS, 0, 0)
    double.answer(PROGRESS, 87)
    with pytest.raises(VirtualDiskError) as caught:
        progress(handle, overlapped)
    assert caught.value.winerror == 87
    assert caught.value.function == "GetVirtualDiskOperationProgress"
    assert caught.value.filename == "the image"


def test_progress_of_nothing(double: Double) -> None:
    handle = double.api.OpenVirtualDisk("x")
    progress = double.api.GetVirtualDiskOperationProgress
    with pytest.raises(ValueError, match="no operation was started"):
        progress(handle, double.api.Overlapped())
    for value in (None, handle):
        with pytest.raises(TypeError, match="overlapped must be Overlapped, not"):
            progress(handle, value)
    _, overlapped = start(double)
    handle.close()
    with pytest.raises(ValueError, match="closed"):
        progress(handle, overlapped)
    double.complete(SUCCESS)
    assert double.calls(PROGRESS) == 0


def test_progress_while_it_is_being_started(double: Double) -> None:
    handle = double.api.OpenVirtualDisk("x")
    overlapped = double.api.Overlapped()

    def attach() -> None:
        double.api.AttachVirtualDisk(handle, overlapped=overlapped)

    with (
        double.inside_of(ATTACH, attach) as raised,
        pytest.raises(ValueError, match="being started"),
    ):
        double.api.GetVirtualDiskOperationProgress(handle, overlapped)
    assert raised == []


def test_no_reuse_while_its_progress_is_asked(double: Double) -> None:
    handle, overlapped = start(double)
    double.complete(SUCCESS)
    assert overlapped.wait(30)

    def ask() -> None:
        double.api.GetVirtualDiskOperationProgress(handle, overlapped)

    with (
        double.inside_of(PROGRESS, ask) as raised,
        pytest.raises(ValueError, match="in use"),
    ):
        double.api.AttachVirtualDisk(handle, overlapped=overlapped)
    assert raised == []
    double.api.AttachVirtualDisk(handle, overlapped=overlapped)


# SetVirtualDiskInformation and ModifyVhdSet: what a version needs.

NEEDS = [
    ("SetVirtualDiskInformation", 1, "parent_file_path", {}),
    ("SetVirtualDiskInformation", 1, "parent_file_path", {"linkage_id": GUID_A}),
    ("SetVirtualDiskInformation", 2, "unique_identifier", {"virtual_disk_id": GUID_A}),
    ("SetVirtualDiskInformation", 3, "parent_file_path", {"child_depth": 1}),
    ("SetVirtualDiskInformation", 5, "virtual_disk_id", {"virtual_disk_id": None}),
    ("SetVirtualDiskInformation", 7, "parent_file_path", {"linkage_id": GUID_A}),
    ("SetVirtualDiskInformation", 7, "linkage_id", {"parent_file_path": "p"}),
    ("ModifyVhdSet", 1, "snapshot_id", {"snapshot_file_path": "p"}),
    ("ModifyVhdSet", 1, "snapshot_file_path", {"snapshot_id": GUID_A}),
    ("ModifyVhdSet", 2, "snapshot_id", {"default_file_path": "p"}),
    ("ModifyVhdSet", 3, "default_file_path", {"snapshot_file_path": "p"}),
]


@pytest.mark.parametrize(("name", "version", "missing", "keywords"), NEEDS)
def test_what_a_version_needs(
    double: Double, name: str, version: int, missing: str, keywords: dict[str, object]
) -> None:
    handle = double.api.OpenVirtualDisk("x")
    with pytest.raises(TypeError, match=f"version {version} needs {missing}"):
        getattr(double.api, name)(handle, version, **keywords)
    assert double.calls(SET_INFORMATION) == double.calls(MODIFY_SET) == 0


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


@pytest.mark.parametrize(("name", "positional", "keywords", "kind", "text"), MISUSE)
def test_misuse(
    double: Double,
    name: str,
    positional: tuple[object, ...],
    keywords: dict[str, object],
    kind: type[Exception],
    text: str,
) -> None:
    first = subject(double, name)
    with pytest.raises(kind, match=text):
        getattr(double.api, name)(first, *positional, **keywords)
    assert not any(double.calls(n) for n in range(CREATE, COMPLETE_FORK + 1))


# Metadata.


@pytest.mark.parametrize("code", [122, MORE_DATA])
@pytest.mark.parametrize("count", [0, 1, 8, 9, 100, 1024])
def test_enumerate_metadata(double: Double, count: int, code: int) -> None:
    """Windows answers 234 where others answer 122."""
    items = [bytes([n % 256, n // 256] * 8) for n in range(count)]
    double.output(b"".join(items))
    double.too_small(code)
    handle = double.api.OpenVirtualDisk("x")
    assert double.api.EnumerateVirtualDiskMetadata(handle) == items


def test_enumerate_metadata_that_grows(double: Double) -> None:
    double.output(GUID_A * 20, 16)
    handle = double.api.OpenVirtualDisk("x")
    found = double.api.EnumerateVirtualDiskMetadata(handle)
    assert found[:20] == [GUID_A] * 20
    assert set(found[20:]) == {NO_GUID}
    assert double.calls(ENUMERATE_METADATA) >= 2


@pytest.mark.parametrize("code", [122, MORE_DATA])
@pytest.mark.parametrize("size", [0, 1, 127, 128, 129, 1 << 20])
def test_get_metadata(double: Double, size: int, code: int) -> None:
    """As many bytes as there are, zeros at the end among them."""
    content = bytes(n % 251 for n in range(size // 2)).ljust(size, b"\0")
    double.output(content)
    double.too_small(code)
    handle = double.api.OpenVirtualDisk("x")
    assert double.api.GetVirtualDiskMetadata(handle, GUID_B) == content
    assert bytes(double.given.guid) == GUID_B


def test_metadata_larger_than_it_may_be(double: Double) -> None:
    handle = double.api.OpenVirtualDisk("x")
    double.answer(GET_METADATA, MORE_DATA)
    with pytest.raises(VirtualDiskError) as caught:
        double.api.GetVirtualDiskMetadata(handle, GUID_B)
    assert caught.value.winerror == MORE_DATA
    assert double.calls(GET_METADATA) < 30


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_set_metadata(double: Double, kind: Callable[[bytes], Any]) -> None:
    handle = double.api.OpenVirtualDisk("x")
    content = bytes(range(100))
    assert double.api.SetVirtualDiskMetadata(handle, GUID_A, kind(content)) is None
    assert bytes(double.given.guid) == GUID_A
    assert double.given.numbers[0] == 100
    assert bytes(double.given.parameters)[:101] == content + b"\0"


def test_set_empty_metadata(double: Double) -> None:
    handle = double.api.OpenVirtualDisk("x")
    double.api.SetVirtualDiskMetadata(handle, GUID_A, b"")
    assert (double.given.numbers[0], double.given.parameters_size) == (0, 0)


def test_metadata_is_copied(double: Double) -> None:
    """The buffer may change while the call runs."""
    handle = double.api.OpenVirtualDisk("x")
    content = bytearray(b"before")

    def call() -> None:
        double.api.SetVirtualDiskMetadata(handle, GUID_A, content)

    with double.inside_of(SET_METADATA, call) as raised:
        content.clear()
        assert double.intact()
    assert raised == []


def test_delete_metadata(double: Double) -> None:
    handle = double.api.OpenVirtualDisk("x")
    assert double.api.DeleteVirtualDiskMetadata(handle, bytearray(GUID_B)) is None
    assert bytes(double.given.guid) == GUID_B
    assert double.calls(DELETE_METADATA) == 1


# GetStorageDependencyInformation.

TYPE_1 = "STORAGE_DEPENDENCY_INFO_TYPE_1"
TYPE_2 = "STORAGE_DEPENDENCY_INFO_TYPE_2"
TEXTS = (
    "DependencyDeviceName",
    "HostVolumeName",
    "DependentVolumeName",
    "DependentVolumeRelativePath",
)


def answer(entries: list[bytes], tail: bytes = b"", count: int | None = None) -> bytes:
    """A STORAGE_DEPENDENCY_INFO without its version."""
    number = len(entries) if count is None else count
    return struct.pack("<I", number) + b"".join(entries) + tail


def test_dependency_version_1(double: Double) -> None:
    entries = [
        pack(TYPE_1, {
            "DependencyTypeFlags": 0x3FFF,
            "ProviderSpecificFlags": 0xFFFFFFFE,
            "VirtualStorageType.DeviceId": 3,
            "VirtualStorageType.VendorId": GUID_B,
        }),
        *[pack(TYPE_1, {"VirtualStorageType.DeviceId": n}) for n in range(50)],
    ]  # fmt: skip
    double.output(answer(entries))
    found = double.api.GetStorageDependencyInformation("D:", flags=2, version=1)
    assert found[0] == (0x3FFF, 0xFFFFFFFE, 3, GUID_B)
    assert found[1:] == [(0, 0, n, NO_GUID) for n in range(50)]
    assert double.recorded.dependency_version == 1
    assert double.recorded.dependency_flags == 2


def test_dependency_version_2(double: Double) -> None:
    """Texts lie behind the entries, or are NULL, or empty, or unfinished."""
    size = ABI["structs"][TYPE_2]["size"]
    behind = 8 + 2 * size
    texts = ("\\\\?\\GLOBALROOT\\Device", "C:\\", "", "d\ud800.vhd")
    starts = [behind + len(utf16(*texts[:n])) for n in range(4)]
    first = pack(TYPE_2, {
        "DependencyTypeFlags": 1,
        "ProviderSpecificFlags": 2,
        "VirtualStorageType.DeviceId": 3,
        "VirtualStorageType.VendorId": GUID_A,
        "AncestorLevel": 0xFFFFFFFF,
        **dict(zip(TEXTS, starts, strict=True)),
    })  # fmt: skip
    last = behind + len(utf16(*texts))
    second = pack(TYPE_2, {"AncestorLevel": 7, "DependentVolumeName": last})
    double.output(answer([first, second], utf16(*texts) + "end".encode("utf-16-le")))
    found = double.api.GetStorageDependencyInformation("x", flags=1)
    assert found == [
        (1, 2, 3, GUID_A, 0xFFFFFFFF, *texts),
        (0, 0, 0, NO_GUID, 7, None, None, "end", None),
    ]  # fmt: skip
    assert double.recorded.dependency_version == 2


def test_dependency_of_nothing(double: Double) -> None:
    double.output(answer([]))
    assert double.api.GetStorageDependencyInformation("x") == []
    assert double.api.GetStorageDependencyInformation("x", version=1) == []


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("count", [5, 2**31, 2**32 - 1])
def test_dependency_with_too_many_entries(
    double: Double, version: int, count: int
) -> None:
    """More than the buffer holds are not looked for behind it."""
    double.output(answer([], count=count))
    with pytest.raises(VirtualDiskError) as caught:
        double.api.GetStorageDependencyInformation("the path", version=version)
    assert (caught.value.winerror, caught.value.filename) == (13, "the path")


@pytest.mark.parametrize("member", TEXTS)
@pytest.mark.parametrize("at", [1, 128, 0x80000, 0x7FFFFFFFFFFFFFFE, 2**64 - 2, 2**32])
def test_dependency_with_text_elsewhere(double: Double, member: str, at: int) -> None:
    """Behind the buffer, before it, and at no text's place."""
    double.output(answer([pack(TYPE_2, {member: at})]))
    with pytest.raises(VirtualDiskError) as caught:
        double.api.GetStorageDependencyInformation("x")
    assert caught.value.winerror == 13
    assert caught.value.function == "GetStorageDependencyInformation"


def test_dependency_opens_the_path(double: Double) -> None:
    before = double.disks_open()
    double.output(answer([]))
    double.api.GetStorageDependencyInformation("\\\\.\\C:\\")
    given = double.given
    assert given.text() == ["\\\\.\\C:\\"]
    assert given.access_mask == 0x80000000  # GENERIC_READ
    assert given.numbers[0] == 7  # FILE_SHARE_READ, _WRITE and _DELETE
    assert given.numbers[1] == 3  # OPEN_EXISTING
    assert given.flags == 0x02000080  # FILE_FLAG_BACKUP_SEMANTICS, _NORMAL
    assert given.has_descriptor == 0
    assert double.calls(CLOSE) == 1
    assert double.disks_open() == before


def test_dependency_that_cannot_be_opened(double: Double) -> None:
    double.answer(CREATE_FILE, 2)
    with pytest.raises(FileNotFoundError) as caught:
        double.api.GetStorageDependencyInformation("the path")
    assert caught.value.filename == "the path"
    assert getattr(caught.value, "function", None) == "CreateFileW"
    assert double.calls(DEPENDENCY) == 0


def test_dependency_that_is_refused(double: Double) -> None:
    double.answer(DEPENDENCY, 1)
    before = double.disks_open()
    with pytest.raises(VirtualDiskError) as caught:
        double.api.GetStorageDependencyInformation("the path")
    assert (caught.value.winerror, caught.value.filename) == (1, "the path")
    assert caught.value.function == "GetStorageDependencyInformation"
    assert double.disks_open() == before


# QueryChangesVirtualDisk.


def test_query_changes(double: Double) -> None:
    handle = double.api.OpenVirtualDisk("x")
    ranges = [(0, 512), (2**63, 2**63 - 1), (2**64 - 1, 1)]
    double.output(b"".join(struct.pack("<QQQ", *r, 9) for r in ranges))
    double.progress.current = 2**64 - 1
    found = double.api.QueryChangesVirtualDisk(
        handle, "id \udc80", 2**64 - 2, 2**63 + 1, flags=0xFFFFFFFF, range_count=5
    )
    assert found == (ranges, 2**64 - 1)
    assert double.given.text() == ["id \udc80"]
    assert list(double.given.numbers) == [2**64 - 2, 2**63 + 1]
    assert double.given.flags == 0xFFFFFFFF
    assert double.given.parameters_size == 5


@pytest.mark.parametrize("room", [0, 1, 2])
def test_query_changes_with_little_room(double: Double, room: int) -> None:
    """A system that counts more than fit is not believed."""
    handle = double.api.OpenVirtualDisk("x")
    double.output(struct.pack("<QQQ", 1, 2, 0) * 3)
    found = double.api.QueryChangesVirtualDisk(handle, "", 0, 1, range_count=room)
    assert found == ([(1, 2)] * room, 3)
    assert double.given.parameters_size == room


def test_query_changes_defaults(double: Double) -> None:
    handle = double.api.OpenVirtualDisk("x")
    assert double.api.QueryChangesVirtualDisk(handle, "id", 0, 1) == ([], 3)
    assert (double.given.flags, double.given.parameters_size) == (0, 1024)


# All functions alike.

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


@pytest.mark.parametrize("code", [2, 32, 1314, 0xC03A0014, 0xFFFFFFFF])
@pytest.mark.parametrize(("name", "number", "call"), ALL_CALLS)
def test_codes_become_errors(
    double: Double, name: str, number: int, call: Call, code: int
) -> None:
    handle = double.api.OpenVirtualDisk("the image")
    double.answer(number, code)
    with pytest.raises(VirtualDiskError) as caught:
        call(double.api, handle)
    assert caught.value.winerror == code
    assert caught.value.function == name
    assert caught.value.filename == "the image"


@pytest.mark.parametrize(("name", "number", "call"), CALLS, ids=NAMES)
def test_close_while_another_thread_is_inside(
    double: Double, name: str, number: int, call: Call
) -> None:
    handle = double.api.OpenVirtualDisk("x")
    with double.inside_of(number, lambda: call(double.api, handle)) as raised:
        handle.close()
        assert double.calls(CLOSE) == 0
        with pytest.raises(ValueError, match="closed"):
            call(double.api, handle)
    assert raised == []
    assert double.calls(CLOSE) == 1
    assert double.calls(number) == 1


@pytest.mark.parametrize(
    ("name", "number", "call"),
    [*BY_PATH, ("SDDL", CONVERT,
                lambda d, _: d.CreateVirtualDisk("x", security_descriptor="D:"))],
)  # fmt: skip
def test_gil_is_released(double: Double, name: str, number: int, call: Call) -> None:
    """This thread goes on while the other is held inside the call."""
    double.output(answer([]))
    with double.inside_of(number, lambda: call(double.api, None)) as raised:
        assert raised == []
    assert raised == []


class Mallinfo2(ctypes.Structure):
    """struct mallinfo2 of malloc.h."""

    _fields_ = (
        ("arena", ctypes.c_size_t),
        ("ordblks", ctypes.c_size_t),
        ("smblks", ctypes.c_size_t),
        ("hblks", ctypes.c_size_t),
        ("hblkhd", ctypes.c_size_t),
        ("usmblks", ctypes.c_size_t),
        ("fsmblks", ctypes.c_size_t),
        ("uordblks", ctypes.c_size_t),
        ("fordblks", ctypes.c_size_t),
        ("keepcost", ctypes.c_size_t),
    )


def allocated() -> int:
    """The bytes that malloc() has given out."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        pytest.skip("mallinfo2() came with glibc 2.33")
    library.mallinfo2.restype = Mallinfo2
    found = library.mallinfo2()
    return int(found.uordblks) + int(found.hblkhd)


@pytest.mark.parametrize("code", [SUCCESS, 5])
@pytest.mark.parametrize(("name", "number", "call"), ALL_CALLS)
def test_no_leak(double: Double, name: str, number: int, call: Call, code: int) -> None:
    """Of what is allocated for a call nothing stays, however it ends."""
    double.output(answer([]))
    handle = double.api.OpenVirtualDisk("the image")
    double.answer(number, code)

    def repeat(count: int) -> None:
        for _ in range(count):
            try:
                call(double.api, handle)
            except PermissionError:
                assert code != SUCCESS
        gc.collect()

    repeat(50)
    before = allocated()
    repeat(200)
    assert allocated() - before < 3200  # less than 16 bytes a call


@pytest.mark.parametrize(("name", "positional", "keywords", "kind", "text"), MISUSE)
def test_no_leak_when_refused(
    double: Double,
    name: str,
    positional: tuple[object, ...],
    keywords: dict[str, object],
    kind: type[Exception],
    text: str,
) -> None:
    first = subject(double, name)
    function = getattr(double.api, name)

    def repeat(count: int) -> None:
        for _ in range(count):
            with contextlib.suppress(kind):
                function(first, *positional, **keywords)
        gc.collect()

    repeat(50)
    before = allocated()
    repeat(200)
    assert allocated() - before < 3200


@pytest.mark.parametrize("case", STARTED, ids=ident)
def test_no_leak_of_operations(double: Double, case: Case) -> None:
    def repeat(count: int) -> None:
        for _ in range(count):
            overlapped = started(double, case)
            double.complete(SUCCESS)
            assert overlapped.result() is None
            del overlapped
        gc.collect()

    repeat(50)
    before = allocated()
    repeat(200)
    assert allocated() - before < 3200
