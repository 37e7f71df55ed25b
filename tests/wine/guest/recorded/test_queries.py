"""Paths and information: how the output of the system is fetched and read."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import oracle
import pytest
from recorder import Recorder

from virtdisk import _virtdisk

if TYPE_CHECKING:
    from virtdisk._virtdisk import Handle

INFO = "GET_VIRTUAL_DISK_INFO"
ID = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff").bytes_le
Ask = Callable[["Handle"], object]
BIG = 0xFEDCBA9876543210


def utf16(*strings: str) -> bytes:
    """NUL-terminated strings, one after the other."""
    text = "".join(f"{string}\0" for string in strings)
    return text.encode("utf-16-le", "surrogatepass")


# Each information class: what the system answers and what Python gets.
CLASSES: list[tuple[str, Mapping[str, int | bytes], object]] = [
    (
        "SIZE",
        {
            "Size.VirtualSize": BIG,
            "Size.PhysicalSize": BIG + 1,
            "Size.BlockSize": 0x80000001,
            "Size.SectorSize": 4096,
        },
        (BIG, BIG + 1, 0x80000001, 4096),
    ),
    ("IDENTIFIER", {"Identifier": ID}, ID),
    (
        "PARENT_LOCATION",
        {
            "ParentLocation.ParentResolved": 1,
            "ParentLocation.ParentLocationBuffer": utf16("C:\\p\U0001f4be.vhd"),
        },
        (True, ["C:\\p\U0001f4be.vhd"]),
    ),
    (
        "PARENT_LOCATION",
        {
            "ParentLocation.ParentResolved": 0,
            "ParentLocation.ParentLocationBuffer": utf16("a", "bc", "d", ""),
        },
        (False, ["a", "bc", "d"]),
    ),
    ("PARENT_IDENTIFIER", {"ParentIdentifier": ID}, ID),
    ("PARENT_TIMESTAMP", {"ParentTimestamp": 0xFFFFFFFE}, 0xFFFFFFFE),
    (
        "VIRTUAL_STORAGE_TYPE",
        {"VirtualStorageType.DeviceId": 3, "VirtualStorageType.VendorId": ID},
        (3, ID),
    ),
    ("PROVIDER_SUBTYPE", {"ProviderSubtype": 4}, 4),
    ("IS_4K_ALIGNED", {"Is4kAligned": 1}, True),
    ("IS_4K_ALIGNED", {"Is4kAligned": 0}, False),
    (
        "PHYSICAL_DISK",
        {
            "PhysicalDisk.LogicalSectorSize": 512,
            "PhysicalDisk.PhysicalSectorSize": 4096,
            "PhysicalDisk.IsRemote": 1,
        },
        (512, 4096, True),
    ),
    ("VHD_PHYSICAL_SECTOR_SIZE", {"VhdPhysicalSectorSize": 4096}, 4096),
    ("SMALLEST_SAFE_VIRTUAL_SIZE", {"SmallestSafeVirtualSize": BIG}, BIG),
    ("FRAGMENTATION", {"FragmentationPercentage": 77}, 77),
    ("IS_LOADED", {"IsLoaded": 1}, True),
    ("VIRTUAL_DISK_ID", {"VirtualDiskId": ID}, ID),
    (
        "CHANGE_TRACKING_STATE",
        {
            "ChangeTrackingState.Enabled": 1,
            "ChangeTrackingState.NewerChanges": 1,
            "ChangeTrackingState.MostRecentId": utf16("rctX:00:\u00e9"),
        },
        (True, True, "rctX:00:\u00e9"),
    ),
    (
        "CHANGE_TRACKING_STATE",
        {
            "ChangeTrackingState.Enabled": 0,
            "ChangeTrackingState.NewerChanges": 0,
            "ChangeTrackingState.MostRecentId": utf16(""),
        },
        (False, False, ""),
    ),
]


def sizes(double: Recorder, name: str) -> list[int]:
    """The buffer sizes of the calls so far."""
    return [call[name] for call in double.calls()]


def test_every_information_class_is_here() -> None:
    known = {f"{INFO}_{name}" for name, _, _ in CLASSES}
    published = oracle.constants(f"{INFO}_").keys() - {f"{INFO}_UNSPECIFIED"}
    assert known == published
    assert len(known) == 15


@pytest.mark.parametrize(("name", "members", "expected"), CLASSES)
def test_information(
    double: Recorder,
    disk: Handle,
    name: str,
    members: Mapping[str, int | bytes],
    expected: object,
) -> None:
    version = oracle.CONSTANTS[f"{INFO}_{name}"]
    answer = oracle.pack(INFO, {"Version": version, **members})
    double.answer("GetVirtualDiskInformation", data=answer)
    result = _virtdisk.GetVirtualDiskInformation(disk, version)
    assert result == expected
    assert type(result) is type(expected)
    call = double.calls()[-1]
    double.assert_call(
        call,
        "GetVirtualDiskInformation",
        VirtualDiskHandle=disk.value,
        VirtualDiskInfoSize=call["VirtualDiskInfoSize"],
        VirtualDiskInfo=oracle.pack(INFO, {"Version": version}),
        SizeUsed=False,
        Answer=answer,
    )
    assert call["VirtualDiskInfoSize"] >= len(answer)


@pytest.mark.parametrize("units", [0, 1, 250, 3000, 20000, 70000])
def test_long_information_is_fetched_whole(
    double: Recorder, disk: Handle, units: int
) -> None:
    paths = ["p" * units, "q" * units] if units else []
    version = oracle.CONSTANTS[f"{INFO}_PARENT_LOCATION"]
    members: dict[str, int | bytes] = {
        "Version": version,
        "ParentLocation.ParentLocationBuffer": utf16(*paths, ""),
    }
    answer = oracle.pack(INFO, members)
    double.answer("GetVirtualDiskInformation", data=answer)
    result = _virtdisk.GetVirtualDiskInformation(disk, version)
    assert result == (False, paths)
    # Every try has the version again, and nothing else.
    asked = oracle.pack(INFO, {"Version": version}).hex()
    assert {c["VirtualDiskInfo"] for c in double.calls()} == {asked}


def test_information_that_grows_meanwhile(double: Recorder, disk: Handle) -> None:
    version = oracle.CONSTANTS[f"{INFO}_PARENT_LOCATION"]
    for units in (3000, 9000, 27000):
        members: dict[str, int | bytes] = {
            "Version": version,
            "ParentLocation.ParentLocationBuffer": utf16("p" * units, ""),
        }
        double.answer("GetVirtualDiskInformation", data=oracle.pack(INFO, members))
    result = _virtdisk.GetVirtualDiskInformation(disk, version)
    assert result == (False, ["p" * 27000])
    assert len(double.calls()) >= 3


@pytest.mark.parametrize("version", [0, 16, 0xFFFFFFFF])
def test_unknown_information_class(
    double: Recorder, disk: Handle, version: int
) -> None:
    # A newer system may know it, but not how Python should see it.
    with pytest.raises(ValueError, match="version"):
        _virtdisk.GetVirtualDiskInformation(disk, version)
    double.answer("GetVirtualDiskInformation", result=87)
    with pytest.raises(OSError) as caught:
        _virtdisk.GetVirtualDiskInformation(disk, version)
    assert caught.value.winerror == 87


@pytest.mark.parametrize(
    "path",
    [
        r"\\.\PhysicalDrive0",
        r"\\.\CDROM12",
        "\\\\.\\\ufeff\U0001f4be\ud800",
        "p" * 5000,
        "p" * 40000,
    ],
)
def test_physical_path(double: Recorder, disk: Handle, path: str) -> None:
    double.answer("GetVirtualDiskPhysicalPath", data=utf16(path))
    assert _virtdisk.GetVirtualDiskPhysicalPath(disk) == path
    call = double.calls()[-1]
    double.assert_call(
        call,
        "GetVirtualDiskPhysicalPath",
        VirtualDiskHandle=disk.value,
        DiskPathSizeInBytes=call["DiskPathSizeInBytes"],
        DiskPath=True,
        Answer=utf16(path),
    )
    assert call["DiskPathSizeInBytes"] >= len(utf16(path))


@pytest.mark.parametrize("units", [63, 64, 65, 128, 256, 1000, 4096])
def test_text_without_an_end_is_not_read_past_the_buffer(
    double: Recorder, disk: Handle, units: int
) -> None:
    text = "p" * units
    double.answer("GetVirtualDiskPhysicalPath", data=text.encode("utf-16-le"))
    assert _virtdisk.GetVirtualDiskPhysicalPath(disk) == text
    double.answer(
        "GetAllAttachedVirtualDiskPhysicalPaths", data=text.encode("utf-16-le")
    )
    assert _virtdisk.GetAllAttachedVirtualDiskPhysicalPaths() == [text]


def test_physical_path_that_grows_meanwhile(double: Recorder, disk: Handle) -> None:
    for units in (3000, 9000, 27000):
        double.answer("GetVirtualDiskPhysicalPath", data=utf16("p" * units))
    result = _virtdisk.GetVirtualDiskPhysicalPath(disk)
    assert result == "p" * 27000
    asked = sizes(double, "DiskPathSizeInBytes")
    assert asked == sorted(set(asked))
    assert len(asked) >= 3


@pytest.mark.parametrize(
    "paths",
    [
        [],
        [r"C:\one.vhdx"],
        [r"C:\one.vhdx", "D:\\\u65e5\U0001f4be.iso", "\\\\?\\E:\\\udc80"],
        [f"C:\\{number}.vhd" for number in range(5000)],
    ],
)
def test_all_attached(double: Recorder, paths: list[str]) -> None:
    double.answer("GetAllAttachedVirtualDiskPhysicalPaths", data=utf16(*paths, ""))
    assert _virtdisk.GetAllAttachedVirtualDiskPhysicalPaths() == paths
    call = double.calls()[-1]
    double.assert_call(
        call,
        "GetAllAttachedVirtualDiskPhysicalPaths",
        PathsBufferSizeInBytes=call["PathsBufferSizeInBytes"],
        PathsBuffer=True,
        Answer=utf16(*paths, ""),
    )


def test_nothing_attached_may_be_no_bytes_at_all(double: Recorder) -> None:
    double.answer("GetAllAttachedVirtualDiskPhysicalPaths", data=b"")
    assert _virtdisk.GetAllAttachedVirtualDiskPhysicalPaths() == []


def test_a_list_that_grows_meanwhile(double: Recorder) -> None:
    for count in (1000, 3000, 9000):
        paths = [f"C:\\{number}.vhd" for number in range(count)]
        double.answer("GetAllAttachedVirtualDiskPhysicalPaths", data=utf16(*paths, ""))
    assert _virtdisk.GetAllAttachedVirtualDiskPhysicalPaths() == paths
    assert len(double.calls()) >= 3


def ask_information(disk: Handle) -> object:
    """Any information class."""
    return _virtdisk.GetVirtualDiskInformation(disk, 1)


def ask_path(disk: Handle) -> object:
    """The physical path."""
    return _virtdisk.GetVirtualDiskPhysicalPath(disk)


def ask_all(disk: Handle) -> object:
    """The attached images."""
    return _virtdisk.GetAllAttachedVirtualDiskPhysicalPaths()


QUERIES = [
    ("GetVirtualDiskInformation", ask_information),
    ("GetVirtualDiskPhysicalPath", ask_path),
    ("GetAllAttachedVirtualDiskPhysicalPaths", ask_all),
]


@pytest.mark.parametrize(("function", "ask"), QUERIES)
@pytest.mark.parametrize("needed", [1, 0xFFFFFFFE])
def test_too_small_forever_is_an_error_in_the_end(
    double: Recorder, disk: Handle, function: str, ask: Ask, needed: int
) -> None:
    double.answer(function, needed=needed)
    with pytest.raises(OSError) as caught:
        ask(disk)
    assert caught.value.winerror == 122
    assert 2 <= len(double.calls()) <= 32


@pytest.mark.parametrize(("function", "ask"), QUERIES)
def test_too_small_with_no_size_needed(
    double: Recorder, disk: Handle, function: str, ask: Ask
) -> None:
    double.answer(function, result=122)
    with pytest.raises(OSError) as caught:
        ask(disk)
    assert caught.value.winerror == 122
