"""SetVirtualDiskInformation: what arrives, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import oracle
import pytest
from calls import GUID, OTHER_GUID
from recorder import Recorder, Value

import virtdisk
from virtdisk import _virtdisk

if TYPE_CHECKING:
    from virtdisk._virtdisk import Handle

INFO = "SET_VIRTUAL_DISK_INFO"
WIDE = 0xFEDCBA98
PATH = "C:\\par\u00e9nt \U0001f4be\ud800.vhdx"

# Each class: its arguments, its members, and the member that is a path.
CLASSES: list[tuple[str, dict[str, Any], Mapping[str, int | bytes], str | None]] = [
    ("PARENT_PATH", {"parent_file_path": PATH}, {}, "ParentFilePath"),
    (
        "IDENTIFIER",
        {"unique_identifier": GUID},
        {"UniqueIdentifier": GUID},
        None,
    ),
    (
        "PARENT_PATH_WITH_DEPTH",
        {"parent_file_path": PATH},
        {"ParentPathWithDepthInfo.ChildDepth": 1},
        "ParentPathWithDepthInfo.ParentFilePath",
    ),
    (
        "PARENT_PATH_WITH_DEPTH",
        {"parent_file_path": PATH, "child_depth": WIDE},
        {"ParentPathWithDepthInfo.ChildDepth": WIDE},
        "ParentPathWithDepthInfo.ParentFilePath",
    ),
    (
        "PHYSICAL_SECTOR_SIZE",
        {"vhd_physical_sector_size": WIDE},
        {"VhdPhysicalSectorSize": WIDE},
        None,
    ),
    ("VIRTUAL_DISK_ID", {"virtual_disk_id": GUID}, {"VirtualDiskId": GUID}, None),
    (
        "CHANGE_TRACKING_STATE",
        {"change_tracking_enabled": True},
        {"ChangeTrackingEnabled": 1},
        None,
    ),
    ("CHANGE_TRACKING_STATE", {"change_tracking_enabled": False}, {}, None),
    (
        "PARENT_LOCATOR",
        {"linkage_id": GUID, "parent_file_path": PATH},
        {"ParentLocator.LinkageId": GUID},
        "ParentLocator.ParentFilePath",
    ),
]
# Arguments for every class at once, and none of them right for all.
ALL: dict[str, Any] = {
    "parent_file_path": PATH,
    "unique_identifier": OTHER_GUID,
    "child_depth": 77,
    "vhd_physical_sector_size": 4096,
    "virtual_disk_id": OTHER_GUID,
    "change_tracking_enabled": True,
    "linkage_id": OTHER_GUID,
}


def test_every_class_is_here() -> None:
    known = {f"{INFO}_{name}" for name, *_ in CLASSES}
    assert known == oracle.constants(f"{INFO}_").keys() - {f"{INFO}_UNSPECIFIED"}


@pytest.mark.parametrize("others", [False, True])
@pytest.mark.parametrize(("name", "arguments", "members", "path"), CLASSES)
def test_classes(
    double: Recorder,
    disk: Handle,
    name: str,
    arguments: dict[str, Any],
    members: Mapping[str, int | bytes],
    path: str | None,
    others: bool,
) -> None:
    version = oracle.CONSTANTS[f"{INFO}_{name}"]
    # Arguments of other classes are not passed; a depth is always there.
    given = {**ALL, "child_depth": 1, **arguments} if others else arguments
    _virtdisk.SetVirtualDiskInformation(disk, version, **given)
    (call,) = double.calls()
    packed: dict[str, int | bytes] = {"Version": version, **members}
    fields: dict[str, Value] = {}
    if path is not None:
        address = call["ParentFilePathAddress"]
        packed[path] = address
        fields = {"ParentFilePath": PATH, "ParentFilePathAddress": address}
    double.assert_call(
        call,
        "SetVirtualDiskInformation",
        VirtualDiskHandle=disk.value,
        VirtualDiskInfo=oracle.pack(INFO, packed),
        **fields,
    )


@pytest.mark.parametrize("version", [0, 8, 0xFFFFFFFF])
def test_unknown_class_never_reaches_the_system(
    double: Recorder, disk: Handle, version: int
) -> None:
    with pytest.raises(ValueError, match="version"):
        _virtdisk.SetVirtualDiskInformation(disk, version, **ALL)
    assert double.calls() == []


@pytest.mark.parametrize(
    ("version", "missing"),
    [
        (1, "parent_file_path"),
        (2, "unique_identifier"),
        (3, "parent_file_path"),
        (5, "virtual_disk_id"),
        (7, "linkage_id"),
        (7, "parent_file_path"),
    ],
)
def test_what_a_class_needs(
    double: Recorder, disk: Handle, version: int, missing: str
) -> None:
    given = {name: value for name, value in ALL.items() if name != missing}
    with pytest.raises(TypeError, match=missing):
        _virtdisk.SetVirtualDiskInformation(disk, version, **given)
    assert double.calls() == []


@pytest.mark.parametrize("version", range(1, 8))
@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("parent_file_path", "a\0b", ValueError),
        ("parent_file_path", b"a", TypeError),
        ("unique_identifier", bytes(15), ValueError),
        ("virtual_disk_id", bytes(17), ValueError),
        ("linkage_id", b"", ValueError),
        ("child_depth", -1, OverflowError),
        ("child_depth", 1 << 32, OverflowError),
        ("child_depth", "1", TypeError),
        ("vhd_physical_sector_size", 1 << 32, OverflowError),
        ("vhd_physical_sector_size", None, TypeError),
    ],
)
def test_bad_arguments_never_reach_the_system(
    double: Recorder,
    disk: Handle,
    version: int,
    name: str,
    value: Any,
    error: type[Exception],
) -> None:
    with pytest.raises(error):
        _virtdisk.SetVirtualDiskInformation(disk, version, **{**ALL, name: value})
    assert double.calls() == []


@pytest.mark.parametrize("code", [5, 87, 0xC03A001C])
def test_refused(double: Recorder, disk: Handle, code: int) -> None:
    double.answer("SetVirtualDiskInformation", result=code)
    with pytest.raises(virtdisk.VirtualDiskError) as caught:
        _virtdisk.SetVirtualDiskInformation(disk, 1, **ALL)
    assert caught.value.winerror == code
    assert caught.value.function == "SetVirtualDiskInformation"
