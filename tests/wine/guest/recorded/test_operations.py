"""Operations on whole images: what arrives, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import oracle
import pytest
from recorder import Recorder, Value

import virtdisk
from virtdisk import _virtdisk

if TYPE_CHECKING:
    from virtdisk._virtdisk import Handle

BIG = 0xFEDCBA9876543210
WIDE = 0xFEDCBA98
Operation = Callable[..., object]

# Function, its arguments, and the structure they make.
VERSIONS: list[tuple[str, dict[str, Any], str, Mapping[str, int]]] = [
    ("CompactVirtualDisk", {}, "COMPACT_VIRTUAL_DISK_PARAMETERS", {"Version": 1}),
    (
        "MergeVirtualDisk",
        {},
        "MERGE_VIRTUAL_DISK_PARAMETERS",
        {"Version": 1, "Version1.MergeDepth": 1},
    ),
    (
        "MergeVirtualDisk",
        {"version": 1, "merge_depth": WIDE, "merge_source_depth": 8},
        "MERGE_VIRTUAL_DISK_PARAMETERS",
        {"Version": 1, "Version1.MergeDepth": WIDE},
    ),
    (
        "MergeVirtualDisk",
        {"version": 2},
        "MERGE_VIRTUAL_DISK_PARAMETERS",
        {"Version": 2, "Version2.MergeSourceDepth": 1, "Version2.MergeTargetDepth": 2},
    ),
    (
        "MergeVirtualDisk",
        {
            "version": 2,
            "merge_depth": 7,
            "merge_source_depth": WIDE,
            "merge_target_depth": WIDE + 1,
        },
        "MERGE_VIRTUAL_DISK_PARAMETERS",
        {
            "Version": 2,
            "Version2.MergeSourceDepth": WIDE,
            "Version2.MergeTargetDepth": WIDE + 1,
        },
    ),
    (
        "ExpandVirtualDisk",
        {"new_size": BIG},
        "EXPAND_VIRTUAL_DISK_PARAMETERS",
        {"Version": 1, "Version1.NewSize": BIG},
    ),
    (
        "ResizeVirtualDisk",
        {"new_size": BIG},
        "RESIZE_VIRTUAL_DISK_PARAMETERS",
        {"Version": 1, "Version1.NewSize": BIG},
    ),
    (
        "ResizeVirtualDisk",
        {"new_size": 0, "flags": 2},
        "RESIZE_VIRTUAL_DISK_PARAMETERS",
        {"Version": 1},
    ),
]
# What must be given to each, and its structure with that.
NEEDED: dict[str, tuple[dict[str, Any], str, Mapping[str, int]]] = {
    function: (arguments, structure, members)
    for function, arguments, structure, members in reversed(VERSIONS)
    if "version" not in arguments and "flags" not in arguments
}
FLAGS = {
    "CompactVirtualDisk": "COMPACT_VIRTUAL_DISK_FLAG",
    "MergeVirtualDisk": "MERGE_VIRTUAL_DISK_FLAG",
    "ExpandVirtualDisk": "EXPAND_VIRTUAL_DISK_FLAG",
    "ResizeVirtualDisk": "RESIZE_VIRTUAL_DISK_FLAG",
}
ANY_FLAGS = [
    (function, value)
    for function, enumeration in FLAGS.items()
    for _, value in [*oracle.flags(enumeration), ("", 1 << 31), ("", (1 << 32) - 1)]
]
NUMBERS = [
    ("MergeVirtualDisk", "merge_depth", 32),
    ("MergeVirtualDisk", "merge_source_depth", 32),
    ("MergeVirtualDisk", "merge_target_depth", 32),
    ("ExpandVirtualDisk", "new_size", 64),
    ("ResizeVirtualDisk", "new_size", 64),
    *((function, "flags", 32) for function in FLAGS),
]


def call_function(function: str, disk: Handle, **arguments: Any) -> None:
    """Calls a function of the module by its name."""
    operation: Operation = getattr(_virtdisk, function)
    assert operation(disk, **arguments) is None


def expect(double: Recorder, disk: Handle, function: str, **expected: Value) -> None:
    """The only call, without an OVERLAPPED."""
    (call,) = double.calls()
    double.assert_call(
        call,
        function,
        **{
            "VirtualDiskHandle": disk.value,
            "Flags": 0,
            "Overlapped": None,
            **expected,
        },
    )


def test_all_are_here() -> None:
    assert NEEDED.keys() == FLAGS.keys()


@pytest.mark.parametrize(("function", "arguments", "structure", "members"), VERSIONS)
def test_parameters(
    double: Recorder,
    disk: Handle,
    function: str,
    arguments: dict[str, Any],
    structure: str,
    members: Mapping[str, int],
) -> None:
    call_function(function, disk, **arguments)
    packed = oracle.pack(structure, members)
    flags = arguments.get("flags", 0)
    expect(double, disk, function, Parameters=packed, Flags=flags)


@pytest.mark.parametrize("function", FLAGS)
def test_overlapped(double: Recorder, disk: Handle, function: str) -> None:
    arguments, structure, members = NEEDED[function]
    overlapped = _virtdisk.Overlapped()
    call_function(function, disk, overlapped=overlapped, **arguments)
    expect(
        double,
        disk,
        function,
        Parameters=oracle.pack(structure, members),
        Overlapped=bytes(24),
        OverlappedAddress=double.calls()[0]["OverlappedAddress"],
        hEvent=overlapped.event,
    )


def test_compact_without_parameters(double: Recorder, disk: Handle) -> None:
    _virtdisk.CompactVirtualDisk(disk, version=None)
    expect(double, disk, "CompactVirtualDisk", Parameters=None)


@pytest.mark.parametrize(("function", "value"), ANY_FLAGS)
def test_flags(double: Recorder, disk: Handle, function: str, value: int) -> None:
    arguments, structure, members = NEEDED[function]
    call_function(function, disk, flags=value, **arguments)
    packed = oracle.pack(structure, members)
    expect(double, disk, function, Parameters=packed, Flags=value)


@pytest.mark.parametrize("function", FLAGS)
def test_unknown_version_never_reaches_the_system(
    double: Recorder, disk: Handle, function: str
) -> None:
    newest = 2 if function == "MergeVirtualDisk" else 1
    for version in (0, newest + 1, 0xFFFFFFFF):
        with pytest.raises(ValueError, match="version"):
            call_function(function, disk, version=version, **NEEDED[function][0])
    assert double.calls() == []


@pytest.mark.parametrize(("function", "name", "bits"), NUMBERS)
@pytest.mark.parametrize("version", [1, 2])
def test_numbers_that_do_not_fit_never_reach_the_system(
    double: Recorder, disk: Handle, function: str, name: str, bits: int, version: int
) -> None:
    needed = {**NEEDED[function][0]}
    if function == "MergeVirtualDisk":
        needed["version"] = version
    for value in (-1, 1 << bits):
        with pytest.raises(OverflowError, match=name):
            call_function(function, disk, **{**needed, name: value})
    for wrong in (1.5, "1", None):
        with pytest.raises(TypeError, match=name):
            call_function(function, disk, **{**needed, name: wrong})
    assert double.calls() == []


# --- mirror and fork: always asynchronous ------------------------------------

PATHS: dict[str, tuple[str, str]] = {
    "MirrorVirtualDisk": (
        "MIRROR_VIRTUAL_DISK_PARAMETERS",
        "MirrorVirtualDiskPath",
    ),
    "ForkVirtualDisk": ("FORK_VIRTUAL_DISK_PARAMETERS", "ForkedVirtualDiskPath"),
}
PATH_FLAGS = [
    (function, value)
    for function, enumeration in (
        ("MirrorVirtualDisk", "MIRROR_VIRTUAL_DISK_FLAG"),
        ("ForkVirtualDisk", "FORK_VIRTUAL_DISK_FLAG"),
    )
    for _, value in [*oracle.flags(enumeration), ("", 0), ("", (1 << 32) - 1)]
]


def expect_with_path(
    double: Recorder, disk: Handle, function: str, path: str, **expected: Value
) -> None:
    """The only call, with an OVERLAPPED and a path at the followed address."""
    structure, member = PATHS[function]
    (call,) = double.calls()
    address = call[f"{member}Address"]
    packed = {"Version": 1, f"Version1.{member}": address}
    fields: dict[str, Value] = {
        "Flags": 0,
        member: path,
        f"{member}Address": address,
        "OverlappedAddress": call["OverlappedAddress"],
        "hEvent": call["hEvent"],
        "Overlapped": bytes(24),
        "Parameters": oracle.pack(structure, packed),
    }
    double.assert_call(
        call, function, VirtualDiskHandle=disk.value, **{**fields, **expected}
    )


@pytest.mark.parametrize("function", PATHS)
@pytest.mark.parametrize("path", ["C:\\to.vhdx", "\U0001f4be\ud800", 3000 * "long\\"])
def test_path(double: Recorder, disk: Handle, function: str, path: str) -> None:
    overlapped = _virtdisk.Overlapped()
    getattr(_virtdisk, function)(disk, path, overlapped)
    expect_with_path(double, disk, function, path, hEvent=overlapped.event)
    overlapped.result()


@pytest.mark.parametrize(("function", "value"), PATH_FLAGS)
def test_path_and_flags(
    double: Recorder, disk: Handle, function: str, value: int
) -> None:
    getattr(_virtdisk, function)(disk, "to", _virtdisk.Overlapped(), flags=value)
    expect_with_path(double, disk, function, "to", Flags=value)


@pytest.mark.parametrize("function", PATHS)
def test_an_overlapped_is_required(
    double: Recorder, disk: Handle, function: str
) -> None:
    call: Operation = getattr(_virtdisk, function)
    for missing in ((), (None,), (object(),)):
        with pytest.raises(TypeError):
            call(disk, "to", *missing)
    assert double.calls() == []


@pytest.mark.parametrize("function", PATHS)
def test_bad_path_or_version_never_reaches_the_system(
    double: Recorder, disk: Handle, function: str
) -> None:
    call: Operation = getattr(_virtdisk, function)
    with pytest.raises(ValueError, match="null character"):
        call(disk, "a\0b", _virtdisk.Overlapped())
    with pytest.raises(TypeError):
        call(disk, None, _virtdisk.Overlapped())
    for version in (0, 2):
        with pytest.raises(ValueError, match="version"):
            call(disk, "to", _virtdisk.Overlapped(), version=version)
    assert double.calls() == []


@pytest.mark.parametrize("function", PATHS)
def test_refused(double: Recorder, disk: Handle, function: str) -> None:
    double.answer(function, result=80)
    overlapped = _virtdisk.Overlapped()
    with pytest.raises(FileExistsError) as caught:
        getattr(_virtdisk, function)(disk, "C:\\to.vhdx", overlapped)
    assert isinstance(caught.value, virtdisk.VirtualDiskError)
    assert caught.value.winerror == 80
    assert caught.value.function == function
    assert not overlapped.pending


def test_a_mirror_is_pending_until_it_is_broken(double: Recorder, disk: Handle) -> None:
    # API.md 2.7: all is mirrored, and the operation goes on.
    double.answer("MirrorVirtualDisk", pending=1)
    overlapped = _virtdisk.Overlapped()
    _virtdisk.MirrorVirtualDisk(disk, "C:\\mirror.vhdx", overlapped)
    whole = {"OperationStatus": 997, "CurrentValue": 100, "CompletionValue": 100}
    double.answer(
        "GetVirtualDiskOperationProgress",
        data=oracle.pack("VIRTUAL_DISK_PROGRESS", whole),
    )
    assert overlapped.progress() == (997, 100, 100)
    assert overlapped.pending
    _virtdisk.BreakMirrorVirtualDisk(disk)
    double.complete(disk.value)
    assert overlapped.wait(60)
    overlapped.result()
    assert double.names()[-1] == "BreakMirrorVirtualDisk"


@pytest.mark.parametrize(
    "function", ["BreakMirrorVirtualDisk", "CompleteForkVirtualDisk"]
)
def test_ends(double: Recorder, disk: Handle, function: str) -> None:
    assert getattr(_virtdisk, function)(disk) is None
    (call,) = double.calls()
    double.assert_call(call, function, VirtualDiskHandle=disk.value)
