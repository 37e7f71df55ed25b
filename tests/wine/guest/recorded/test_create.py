"""CreateVirtualDisk: what arrives, bit for bit."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import oracle
import pytest
from recorder import Recorder, Value, handle_is_open

import virtdisk
from virtdisk import _virtdisk

BIG = 0xFEDCBA9876543210
WIDE = 0xFEDCBA98
PARAMETERS = "CREATE_VIRTUAL_DISK_PARAMETERS"
MICROSOFT = uuid.UUID("ec984aec-a0f9-47e9-901f-71415a66345b").bytes_le
SDDL = "D:P(A;;GA;;;WD)"


def guid(seed: int) -> bytes:
    """Sixteen bytes, all different and not those of another seed."""
    return bytes(range(16 * seed, 16 * seed + 16))


# The argument for each member, and what it holds; numbers and GUIDs.
VALUES: dict[str, tuple[str, int | bytes]] = {
    "UniqueId": ("unique_id", guid(1)),
    "MaximumSize": ("maximum_size", BIG),
    "BlockSizeInBytes": ("block_size_in_bytes", WIDE),
    "SectorSizeInBytes": ("sector_size_in_bytes", WIDE + 1),
    "PhysicalSectorSizeInBytes": ("physical_sector_size_in_bytes", WIDE + 2),
    "OpenFlags": ("open_flags", 0x80000001),
    "ParentVirtualStorageType.DeviceId": ("parent_device_id", WIDE + 3),
    "ParentVirtualStorageType.VendorId": ("parent_vendor_id", guid(2)),
    "SourceVirtualStorageType.DeviceId": ("source_device_id", WIDE + 4),
    "SourceVirtualStorageType.VendorId": ("source_vendor_id", guid(3)),
    "ResiliencyGuid": ("resiliency_guid", guid(4)),
    "BackingStorageType.DeviceId": ("backing_device_id", WIDE + 5),
    "BackingStorageType.VendorId": ("backing_vendor_id", guid(5)),
    "PmemAddressAbstractionType": ("pmem_address_abstraction_type", guid(6)),
    "DataAlignment": ("data_alignment", BIG + 1),
}
PATHS: dict[str, tuple[str, str]] = {
    "ParentPath": ("parent_path", "C:\\par\u00e9nt \U0001f4be.vhdx"),
    "SourcePath": ("source_path", r"\\.\PhysicalDrive1"),
    "SourceLimitPath": ("source_limit_path", "C:\\limit \ud800.vhdx"),
}
VERSIONS = (1, 2, 3, 4)
# Every member of every version, one at a time.
MEMBERS = [
    (version, member)
    for version in VERSIONS
    for member in (*VALUES, *PATHS)
    if oracle.has_member(PARAMETERS, f"Version{version}.{member}")
]
GUIDS = [argument for argument, value in VALUES.values() if isinstance(value, bytes)]
NUMBERS = {
    argument: 64 if member in {"MaximumSize", "DataAlignment"} else 32
    for member, (argument, value) in VALUES.items()
    if isinstance(value, int)
}


def expect(
    double: Recorder,
    version: int = 2,
    members: Mapping[str, int | bytes] | None = None,
    **changed: Value,
) -> None:
    """The only call was CreateVirtualDisk with the defaults but for these.

    Args:
        double: The double.
        version: That of the parameters.
        members: Those of the version that are not zero.  Paths are put in:
            their addresses are those that the double has followed.
        changed: Other fields of the record.
    """
    (call,) = double.calls()
    paths = ["ParentPath", "SourcePath", "SourceLimitPath"][: 3 if version > 2 else 2]
    addresses = {f"{path}Address": call[f"{path}Address"] for path in paths}
    packed: dict[str, int | bytes] = {"Version": version}
    for member, value in (members or {}).items():
        packed[f"Version{version}.{member}"] = value
    for path in paths:
        packed[f"Version{version}.{path}"] = addresses[f"{path}Address"]
        # NULL if and only if there is no path.
        assert (addresses[f"{path}Address"] == 0) == (changed.get(path) is None)
    defaults: dict[str, Value] = {
        "VirtualStorageType": bytes(20),
        "Path": "C:\\new.vhdx",
        "VirtualDiskAccessMask": 0,
        "SecurityDescriptor": None,
        "Flags": 0,
        "ProviderSpecificFlags": 0,
        "Parameters": oracle.pack(PARAMETERS, packed),
        **dict.fromkeys(paths),
        **addresses,
        "Overlapped": None,
        "Handle": call["Handle"],
    }
    double.assert_call(call, "CreateVirtualDisk", **{**defaults, **changed})


def create(**arguments: Any) -> None:
    """Creates and closes."""
    _virtdisk.CreateVirtualDisk("C:\\new.vhdx", **arguments).close()


def test_defaults(double: Recorder) -> None:
    create()
    expect(double)


def test_all_members_are_known() -> None:
    known = {f"Version{version}.{member}" for version, member in MEMBERS}
    assert known == {
        member for member in oracle.leaves(PARAMETERS) if member != "Version"
    }


@pytest.mark.parametrize(("version", "member"), MEMBERS)
def test_members(double: Recorder, version: int, member: str) -> None:
    if member in PATHS:
        argument, text = PATHS[member]
        create(version=version, **{argument: text})
        paths: dict[str, Any] = {member: text}
        expect(double, version, **paths)
    else:
        argument, value = VALUES[member]
        create(version=version, **{argument: value})
        expect(double, version, {member: value})


@pytest.mark.parametrize("version", VERSIONS)
def test_all_members_at_once(double: Recorder, version: int) -> None:
    # Arguments for members that the version lacks are not passed.
    values = dict(VALUES.values())
    texts = dict(PATHS.values())
    create(version=version, **values, **texts)
    has = {member for known, member in MEMBERS if known == version}
    expect(
        double,
        version,
        {member: value for member, (_, value) in VALUES.items() if member in has},
        **{member: text for member, (_, text) in PATHS.items() if member in has},
    )


@pytest.mark.parametrize("version", [0, 5, 0xFFFFFFFF])
def test_unknown_version_never_reaches_the_system(
    double: Recorder, version: int
) -> None:
    with pytest.raises(ValueError, match="version"):
        create(version=version)
    assert double.calls() == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *oracle.flags("CREATE_VIRTUAL_DISK_FLAG"),
        ("an unknown bit", 2147483648),
        ("every bit", 4294967295),
    ],
)
def test_flags(double: Recorder, name: str, value: int) -> None:
    create(flags=value)
    expect(double, Flags=value)


@pytest.mark.parametrize("bit", range(32))
def test_provider_specific_flags(double: Recorder, bit: int) -> None:
    create(provider_specific_flags=1 << bit)
    expect(double, ProviderSpecificFlags=1 << bit)


@pytest.mark.parametrize("mask", [0x100000, 0x3F0000, 0xFFFFFFFF])
def test_access_masks(double: Recorder, mask: int) -> None:
    create(version=1, access_mask=mask)
    expect(double, 1, VirtualDiskAccessMask=mask)


@pytest.mark.parametrize(
    ("name", "value"), oracle.constants("VIRTUAL_STORAGE_TYPE_DEVICE_").items()
)
def test_storage_types(double: Recorder, name: str, value: int) -> None:
    create(device_id=value, vendor_id=MICROSOFT)
    members: dict[str, int | bytes] = {"DeviceId": value, "VendorId": MICROSOFT}
    packed = oracle.pack("VIRTUAL_STORAGE_TYPE", members)
    expect(double, VirtualStorageType=packed)


def test_security_descriptor(double: Recorder) -> None:
    create(security_descriptor=SDDL)
    (call,) = double.calls()
    descriptor = bytes.fromhex(call["SecurityDescriptor"])
    # Revision 1; SE_DACL_PRESENT, SE_DACL_PROTECTED and SE_SELF_RELATIVE.
    assert (descriptor[0], descriptor[2:4]) == (1, b"\x04\x90")
    expect(double, SecurityDescriptor=descriptor, IsValidSecurityDescriptor=True)
    double.forget()
    create(security_descriptor=bytearray(descriptor))
    expect(double, SecurityDescriptor=descriptor, IsValidSecurityDescriptor=True)


@pytest.mark.parametrize("descriptor", [b"", bytes(20)])
def test_a_bad_descriptor_never_reaches_the_system(
    double: Recorder, descriptor: bytes
) -> None:
    with pytest.raises(ValueError, match="security_descriptor"):
        create(security_descriptor=descriptor)
    assert double.calls() == []


@pytest.mark.parametrize("path", ["", "disk.vhd", "C:\\\U0001f4be\udc00.vhdx"])
def test_paths(double: Recorder, path: str) -> None:
    with _virtdisk.CreateVirtualDisk(path) as handle:
        assert handle.path == path
    expect(double, Path=path)


@pytest.mark.parametrize(
    "argument", ["path", "parent_path", "source_path", "source_limit_path"]
)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_path_ends_where_it_says(
    double: Recorder, argument: str, version: int
) -> None:
    given: dict[str, Any] = {"path": "C:\\new.vhdx", argument: "C:\\disk.vhd\0.txt"}
    with pytest.raises(ValueError, match="null character"):
        _virtdisk.CreateVirtualDisk(version=version, **given)
    assert double.calls() == []


@pytest.mark.parametrize("size", [0, 15, 17])
@pytest.mark.parametrize("name", ["vendor_id", *GUIDS])
def test_a_guid_has_16_bytes(double: Recorder, name: str, size: int) -> None:
    with pytest.raises(ValueError, match=name):
        create(version=4, **{name: bytes(size)})
    assert double.calls() == []


@pytest.mark.parametrize("version", [1, 4])
@pytest.mark.parametrize(("name", "bits"), NUMBERS.items())
def test_numbers_that_do_not_fit_never_reach_the_system(
    double: Recorder, name: str, bits: int, version: int
) -> None:
    for value in (-1, 1 << bits):
        with pytest.raises(OverflowError, match=name):
            create(version=version, **{name: value})
    for wrong in (1.0, "1", None):
        with pytest.raises(TypeError, match=name):
            create(version=version, **{name: wrong})
    assert double.calls() == []


def test_the_handle_is_the_one_given_and_closed_once(double: Recorder) -> None:
    handle = _virtdisk.CreateVirtualDisk("C:\\new.vhdx")
    value = handle.value
    assert value == double.calls()[0]["Handle"]
    assert handle_is_open(value)
    handle.close()
    assert not handle_is_open(value)


@pytest.mark.parametrize("code", [80, 87, 112, 0xC03A001F])
def test_the_handle_of_a_failed_creation_is_not_touched(
    double: Recorder, code: int
) -> None:
    double.answer("CreateVirtualDisk", result=code)
    with pytest.raises(virtdisk.VirtualDiskError) as caught:
        create()
    assert caught.value.winerror == code
    assert caught.value.filename == "C:\\new.vhdx"
    assert handle_is_open(double.decoy)
