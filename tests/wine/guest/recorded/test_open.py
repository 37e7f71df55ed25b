"""OpenVirtualDisk: what arrives, bit for bit."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import oracle
import pytest
from recorder import Recorder, Value, handle_is_open

from virtdisk import _virtdisk

RESILIENCY = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff").bytes_le
SNAPSHOT = uuid.UUID("fedcba98-7654-3210-0123-456789abcdef").bytes_le
MICROSOFT = uuid.UUID("ec984aec-a0f9-47e9-901f-71415a66345b").bytes_le
Members = Mapping[str, int | bytes]

# How the arguments of each version fill OPEN_VIRTUAL_DISK_PARAMETERS.
VERSIONS: list[tuple[dict[str, Any], Members]] = [
    ({"version": 1, "rw_depth": 0}, {"Version": 1}),
    ({"version": 1}, {"Version": 1, "Version1.RWDepth": 1}),
    (
        {"version": 1, "rw_depth": 0xFFFFFFFF},
        {"Version": 1, "Version1.RWDepth": 0xFFFFFFFF},
    ),
    ({"version": 2}, {"Version": 2}),
    (
        {"version": 2, "get_info_only": True},
        {"Version": 2, "Version2.GetInfoOnly": 1},
    ),
    (
        {"version": 2, "read_only": True},
        {"Version": 2, "Version2.ReadOnly": 1},
    ),
    (
        {"version": 2, "resiliency_guid": RESILIENCY},
        {"Version": 2, "Version2.ResiliencyGuid": RESILIENCY},
    ),
    ({"version": 3}, {"Version": 3}),
    (
        {"version": 3, "get_info_only": True},
        {"Version": 3, "Version3.GetInfoOnly": 1},
    ),
    (
        {"version": 3, "read_only": True},
        {"Version": 3, "Version3.ReadOnly": 1},
    ),
    (
        {"version": 3, "resiliency_guid": RESILIENCY},
        {"Version": 3, "Version3.ResiliencyGuid": RESILIENCY},
    ),
    (
        {"version": 3, "snapshot_id": SNAPSHOT},
        {"Version": 3, "Version3.SnapshotId": SNAPSHOT},
    ),
]


def expect(double: Recorder, **changed: Value) -> None:
    """The only call was OpenVirtualDisk with the defaults but for these."""
    (call,) = double.calls()
    defaults: dict[str, Value] = {
        "VirtualStorageType": bytes(20),
        "Path": "C:\\disk.vhdx",
        "VirtualDiskAccessMask": 0,
        "Flags": 0,
        "Parameters": oracle.pack(
            "OPEN_VIRTUAL_DISK_PARAMETERS",
            {"Version": 1, "Version1.RWDepth": 1},
        ),
        "Handle": call["Handle"],
    }
    double.assert_call(call, "OpenVirtualDisk", **{**defaults, **changed})


def open_disk(**arguments: Any) -> None:
    """Opens and closes."""
    _virtdisk.OpenVirtualDisk("C:\\disk.vhdx", **arguments).close()


def test_defaults(double: Recorder) -> None:
    open_disk()
    expect(double)


@pytest.mark.parametrize(("arguments", "members"), VERSIONS)
def test_parameters(
    double: Recorder, arguments: dict[str, Any], members: Members
) -> None:
    open_disk(**arguments)
    packed = oracle.pack("OPEN_VIRTUAL_DISK_PARAMETERS", members)
    expect(double, Parameters=packed)


def test_no_parameters(double: Recorder) -> None:
    open_disk(version=None)
    expect(double, Parameters=None)


@pytest.mark.parametrize("version", [0, 4])
def test_unknown_version_never_reaches_the_system(
    double: Recorder, version: int
) -> None:
    with pytest.raises(ValueError, match="version"):
        open_disk(version=version)
    assert double.calls() == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *oracle.flags("OPEN_VIRTUAL_DISK_FLAG"),
        ("an unknown bit", 2147483648),
        ("every bit", 4294967295),
    ],
)
def test_flags(double: Recorder, name: str, value: int) -> None:
    open_disk(flags=value)
    expect(double, Flags=value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *oracle.flags("VIRTUAL_DISK_ACCESS"),
        ("READ", 851968),
        ("ALL", 4128768),
        ("WRITABLE", 3276800),
        ("every bit", 4294967295),
    ],
)
def test_access_masks(double: Recorder, name: str, value: int) -> None:
    open_disk(access_mask=value)
    expect(double, VirtualDiskAccessMask=value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *oracle.constants("VIRTUAL_STORAGE_TYPE_DEVICE_").items(),
        ("every bit", 0xFFFFFFFF),
    ],
)
def test_storage_types(double: Recorder, name: str, value: int) -> None:
    open_disk(device_id=value, vendor_id=MICROSOFT)
    members: Members = {"DeviceId": value, "VendorId": MICROSOFT}
    packed = oracle.pack("VIRTUAL_STORAGE_TYPE", members)
    expect(double, VirtualStorageType=packed)


@pytest.mark.parametrize(
    "vendor", [MICROSOFT, bytearray(MICROSOFT), memoryview(MICROSOFT)]
)
def test_vendors(double: Recorder, vendor: bytes | bytearray | memoryview) -> None:
    open_disk(vendor_id=vendor)
    packed = oracle.pack("VIRTUAL_STORAGE_TYPE", {"VendorId": MICROSOFT})
    expect(double, VirtualStorageType=packed)


@pytest.mark.parametrize("size", [0, 15, 17])
@pytest.mark.parametrize("name", ["vendor_id", "resiliency_guid", "snapshot_id"])
def test_a_guid_has_16_bytes(double: Recorder, name: str, size: int) -> None:
    with pytest.raises(ValueError, match=name):
        open_disk(**{"version": 3, name: bytes(size)})
    assert double.calls() == []


@pytest.mark.parametrize(
    "path",
    [
        "disk.iso",
        r"\\?\C:\d\u00e9" + "\u00e9\u65e5\u672c.vhdx",
        "C:\\\U0001f4be\U0010ffff.vhd",  # pairs of surrogates
        "C:\\lone \ud83d and \udc00.vhd",  # a file name may hold them
        "C:\\" + 300 * "long\\" + "disk.vhd",
        "",
    ],
)
def test_paths(double: Recorder, path: str) -> None:
    with _virtdisk.OpenVirtualDisk(path) as handle:
        assert handle.path == path
    (call,) = double.calls()
    # The record has UTF-16 code units; JSON joins the pairs of surrogates.
    expect(double, Path=path)
    assert call["Path"] == path


def test_a_path_ends_where_it_says(double: Recorder) -> None:
    with pytest.raises(ValueError, match="null character"):
        _virtdisk.OpenVirtualDisk("C:\\disk.vhd\0.txt")
    assert double.calls() == []


def test_the_handle_is_the_one_given_and_closed_once(
    double: Recorder,
) -> None:
    handle = _virtdisk.OpenVirtualDisk("C:\\disk.vhdx")
    value = handle.value
    assert value == double.calls()[0]["Handle"]
    states = [(handle.closed, handle_is_open(value))]
    handle.close()
    states.append((handle.closed, handle_is_open(value)))
    assert states == [(False, True), (True, False)]
    handle.close()
    with pytest.raises(ValueError, match="closed"):
        _ = handle.value


def test_a_dropped_handle_is_closed(double: Recorder) -> None:
    handle = _virtdisk.OpenVirtualDisk("C:\\disk.vhdx")
    value = handle.value
    del handle
    assert not handle_is_open(value)


def test_the_handle_of_a_failed_open_is_not_touched(double: Recorder) -> None:
    # It is undefined then; the double leaves one there that is not ours.
    double.answer("OpenVirtualDisk", result=5)
    with pytest.raises(PermissionError):
        open_disk()
    assert handle_is_open(double.decoy)
