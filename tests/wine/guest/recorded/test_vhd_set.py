"""VHD Sets and change tracking: what arrives, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import oracle
import pytest
from calls import GUID, OTHER_GUID
from recorder import Recorder, Value

import virtdisk
from virtdisk import _virtdisk

if TYPE_CHECKING:
    from virtdisk._virtdisk import Handle

PATH = "C:\\sn\u00e4p \U0001f4be\ud800.avhdx"
BIG = 0xFEDCBA9876543210
RANGE = "QUERY_CHANGES_VIRTUAL_DISK_RANGE"
Members = Mapping[str, int | bytes]

# Function, its arguments, its structure's members, and the one that is a path.
CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any], Members, str | None]] = [
    (
        "TakeSnapshotVhdSet",
        (GUID,),
        {},
        {"Version": 1, "Version1.SnapshotId": GUID},
        None,
    ),
    (
        "DeleteSnapshotVhdSet",
        (GUID,),
        {},
        {"Version": 1, "Version1.SnapshotId": GUID},
        None,
    ),
    (
        "ApplySnapshotVhdSet",
        (GUID, OTHER_GUID),
        {},
        {
            "Version": 1,
            "Version1.SnapshotId": GUID,
            "Version1.LeafSnapshotId": OTHER_GUID,
        },
        None,
    ),
    (
        "ModifyVhdSet",
        (1,),
        {"snapshot_id": GUID, "snapshot_file_path": PATH},
        {"Version": 1, "SnapshotPath.SnapshotId": GUID},
        "SnapshotPath.SnapshotFilePath",
    ),
    (
        "ModifyVhdSet",
        (2,),
        {"snapshot_id": GUID},
        {"Version": 2, "SnapshotId": GUID},
        None,
    ),
    (
        "ModifyVhdSet",
        (3,),
        {"default_file_path": PATH},
        {"Version": 3},
        "DefaultFilePath",
    ),
    # What the operation lacks is not passed.
    (
        "ModifyVhdSet",
        (2,),
        {
            "snapshot_id": GUID,
            "snapshot_file_path": PATH,
            "default_file_path": PATH,
        },
        {"Version": 2, "SnapshotId": GUID},
        None,
    ),
]
STRUCTURES = {
    "TakeSnapshotVhdSet": "TAKE_SNAPSHOT_VHDSET_PARAMETERS",
    "DeleteSnapshotVhdSet": "DELETE_SNAPSHOT_VHDSET_PARAMETERS",
    "ApplySnapshotVhdSet": "APPLY_SNAPSHOT_VHDSET_PARAMETERS",
    "ModifyVhdSet": "MODIFY_VHDSET_PARAMETERS",
}
FLAGS = {
    function: structure.replace("_PARAMETERS", "_FLAG")
    for function, structure in STRUCTURES.items()
}
SIMPLEST: dict[str, tuple[tuple[Any, ...], dict[str, Any], Members]] = {
    function: (positional, keywords, members)
    for function, positional, keywords, members, path in reversed(CALLS)
    if path is None
}


def call_function(function: str, *arguments: Any, **keywords: Any) -> None:
    """Calls a function of the module by its name."""
    call: Callable[..., object] = getattr(_virtdisk, function)
    assert call(*arguments, **keywords) is None


def expect(
    double: Recorder,
    disk: Handle,
    function: str,
    members: Members,
    flags: int = 0,
    path: str | None = None,
) -> None:
    """The only call, with these members and a path at the followed address."""
    (call,) = double.calls()
    packed = {**members}
    fields: dict[str, Value] = {}
    if path is not None:
        name = path.rpartition(".")[2]
        packed[path] = call[f"{name}Address"]
        fields = {name: PATH, f"{name}Address": call[f"{name}Address"]}
    double.assert_call(
        call,
        function,
        VirtualDiskHandle=disk.value,
        Parameters=oracle.pack(STRUCTURES[function], packed),
        Flags=flags,
        **fields,
    )


@pytest.mark.parametrize(
    ("function", "positional", "keywords", "members", "path"), CALLS
)
def test_parameters(
    double: Recorder,
    disk: Handle,
    function: str,
    positional: tuple[Any, ...],
    keywords: dict[str, Any],
    members: Members,
    path: str | None,
) -> None:
    call_function(function, disk, *positional, **keywords)
    expect(double, disk, function, members, path=path)


@pytest.mark.parametrize(
    ("function", "value"),
    [
        (function, value)
        for function, enumeration in FLAGS.items()
        for _, value in [*oracle.flags(enumeration), ("", 1 << 31), ("", (1 << 32) - 1)]
    ],
)
def test_flags(double: Recorder, disk: Handle, function: str, value: int) -> None:
    positional, keywords, members = SIMPLEST[function]
    call_function(function, disk, *positional, flags=value, **keywords)
    expect(double, disk, function, members, value)


@pytest.mark.parametrize("function", ["TakeSnapshotVhdSet", "DeleteSnapshotVhdSet"])
@pytest.mark.parametrize("version", [0, 2])
def test_unknown_version_never_reaches_the_system(
    double: Recorder, disk: Handle, function: str, version: int
) -> None:
    with pytest.raises(ValueError, match="version"):
        call_function(function, disk, GUID, version=version)
    with pytest.raises(ValueError, match="version"):
        _virtdisk.ApplySnapshotVhdSet(disk, GUID, GUID, version=version)
    with pytest.raises(ValueError, match="version"):
        _virtdisk.ModifyVhdSet(disk, 4 * (version // 2), snapshot_id=GUID)
    assert double.calls() == []


@pytest.mark.parametrize(
    ("version", "missing"),
    [
        (1, "snapshot_id"),
        (1, "snapshot_file_path"),
        (2, "snapshot_id"),
        (3, "default_file_path"),
    ],
)
def test_what_an_operation_needs(
    double: Recorder, disk: Handle, version: int, missing: str
) -> None:
    given: dict[str, Any] = {
        "snapshot_id": GUID,
        "snapshot_file_path": PATH,
        "default_file_path": PATH,
    }
    del given[missing]
    with pytest.raises(TypeError, match=missing):
        _virtdisk.ModifyVhdSet(disk, version, **given)
    assert double.calls() == []


@pytest.mark.parametrize("size", [0, 15, 17])
def test_a_guid_has_16_bytes(double: Recorder, disk: Handle, size: int) -> None:
    bad = bytes(size)
    calls: list[Callable[[], object]] = [
        lambda: _virtdisk.TakeSnapshotVhdSet(disk, bad),
        lambda: _virtdisk.DeleteSnapshotVhdSet(disk, bad),
        lambda: _virtdisk.ApplySnapshotVhdSet(disk, bad, GUID),
        lambda: _virtdisk.ModifyVhdSet(disk, 2, snapshot_id=bad),
        lambda: _virtdisk.ModifyVhdSet(
            disk, 3, snapshot_id=bad, default_file_path=PATH
        ),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="snapshot_id"):
            call()
    with pytest.raises(ValueError, match="leaf_snapshot_id"):
        _virtdisk.ApplySnapshotVhdSet(disk, GUID, bad)
    assert double.calls() == []


@pytest.mark.parametrize("name", ["snapshot_file_path", "default_file_path"])
def test_a_path_ends_where_it_says(double: Recorder, disk: Handle, name: str) -> None:
    for version in (1, 2, 3):
        given: dict[str, Any] = {
            "snapshot_id": GUID,
            "snapshot_file_path": PATH,
            "default_file_path": PATH,
            name: "a\0b",
        }
        with pytest.raises(ValueError, match="null character"):
            _virtdisk.ModifyVhdSet(disk, version, **given)
    assert double.calls() == []


# --- change tracking ---------------------------------------------------------


def changes(processed: int, ranges: list[tuple[int, int]]) -> bytes:
    """What the system answers; its ranges have a third, reserved member."""
    return processed.to_bytes(8, "little") + b"".join(
        oracle.pack(
            RANGE,
            {"ByteOffset": offset, "ByteLength": length, "Reserved": BIG + number},
        )
        for number, (offset, length) in enumerate(ranges)
    )


@pytest.mark.parametrize(
    "ranges",
    [
        [],
        [(BIG, 512)],
        [(0, 1 << 20), (1 << 40, BIG), (BIG, BIG + 1)],
        [(number << 20, 4096) for number in range(1024)],
    ],
)
def test_changes(double: Recorder, disk: Handle, ranges: list[tuple[int, int]]) -> None:
    data = changes(BIG, ranges)
    double.answer("QueryChangesVirtualDisk", data=data)
    result = _virtdisk.QueryChangesVirtualDisk(disk, "rctX:00:\u00e9", BIG + 2, BIG + 3)
    assert result == (ranges, BIG)
    (call,) = double.calls()
    double.assert_call(
        call,
        "QueryChangesVirtualDisk",
        VirtualDiskHandle=disk.value,
        ChangeTrackingId="rctX:00:\u00e9",
        ByteOffset=BIG + 2,
        ByteLength=BIG + 3,
        Flags=0,
        Ranges=True,
        RangeCount=1024,
        ProcessedLength=True,
        Answer=data,
    )


@pytest.mark.parametrize("flags", [1, 0x80000000, 0xFFFFFFFF])
@pytest.mark.parametrize("length", [0, 1, 256])
def test_change_tracking_ids_and_flags(
    double: Recorder, disk: Handle, flags: int, length: int
) -> None:
    name = length * "i"
    double.answer("QueryChangesVirtualDisk", data=changes(0, []))
    result = _virtdisk.QueryChangesVirtualDisk(disk, name, 0, 0, flags=flags)
    assert result == ([], 0)
    (call,) = double.calls()
    double.assert_call(
        call,
        "QueryChangesVirtualDisk",
        VirtualDiskHandle=disk.value,
        ChangeTrackingId=name,
        ByteOffset=0,
        ByteLength=0,
        Flags=flags,
        Ranges=True,
        RangeCount=1024,
        ProcessedLength=True,
        Answer=changes(0, []),
    )


@pytest.mark.parametrize("count", [1, 2, 3, 5000])
def test_as_many_ranges_as_asked_for(
    double: Recorder, disk: Handle, count: int
) -> None:
    ranges = [(1 << 20, 4096), (2 << 20, 8192), (3 << 20, 512)]
    double.answer("QueryChangesVirtualDisk", data=changes(1 << 30, ranges))
    found, processed = _virtdisk.QueryChangesVirtualDisk(
        disk, "rct", 1 << 19, 1 << 30, range_count=count
    )
    assert found == ranges[:count]
    (call,) = double.calls()
    assert call["RangeCount"] == count
    last = sum(found[-1])
    assert processed == (1 << 30 if count >= len(ranges) else last - (1 << 19))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("a\0b", 0, 0), ValueError),
        ((b"rct", 0, 0), TypeError),
        (("rct", -1, 0), OverflowError),
        (("rct", 1 << 64, 0), OverflowError),
        (("rct", 0, -1), OverflowError),
        (("rct", 0, 1 << 64), OverflowError),
        (("rct", "0", 0), TypeError),
        (("rct", 0, 1.5), TypeError),
    ],
)
def test_bad_arguments_never_reach_the_system(
    double: Recorder, disk: Handle, arguments: tuple[Any, ...], error: type[Exception]
) -> None:
    with pytest.raises(error):
        _virtdisk.QueryChangesVirtualDisk(disk, *arguments)
    assert double.calls() == []


def test_a_range_count_that_cannot_be(double: Recorder, disk: Handle) -> None:
    for count in (-1, 1 << 32):
        with pytest.raises(OverflowError, match="range_count"):
            _virtdisk.QueryChangesVirtualDisk(disk, "rct", 0, 1, range_count=count)
    assert double.calls() == []
    # No room at all is the system's to judge.
    double.answer("QueryChangesVirtualDisk", result=87)
    with pytest.raises(virtdisk.VirtualDiskError):
        _virtdisk.QueryChangesVirtualDisk(disk, "rct", 0, 1, range_count=0)
    assert double.calls()[0]["RangeCount"] == 0


@pytest.mark.parametrize("code", [0xC03A0029, 0xC03A002A, 0xC03A0030])
def test_change_tracking_refused(double: Recorder, disk: Handle, code: int) -> None:
    double.answer("QueryChangesVirtualDisk", result=code)
    with pytest.raises(virtdisk.VirtualDiskError) as caught:
        _virtdisk.QueryChangesVirtualDisk(disk, "rct", 0, 1)
    assert caught.value.winerror == code
