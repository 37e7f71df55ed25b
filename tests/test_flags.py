"""The enumerations have the members and values of virtdisk.h, all of them."""

from __future__ import annotations

import enum
import pickle

import pytest

import virtdisk
from virtdisk import _info, _virtdisk

# Transcribed from API.md 1.4.
MEMBERS: dict[type[enum.IntEnum | enum.IntFlag], dict[str, int]] = {
    virtdisk.AccessMask: {
        "NONE": 0,
        "ATTACH_RO": 0x10000,
        "ATTACH_RW": 0x20000,
        "DETACH": 0x40000,
        "GET_INFO": 0x80000,
        "CREATE": 0x100000,
        "METAOPS": 0x200000,
        "READ": 0xD0000,
        "ALL": 0x3F0000,
        "WRITABLE": 0x320000,
    },
    virtdisk.OpenFlag: {
        "NONE": 0,
        "NO_PARENTS": 1,
        "BLANK_FILE": 2,
        "BOOT_DRIVE": 4,
        "CACHED_IO": 8,
        "CUSTOM_DIFF_CHAIN": 0x10,
        "PARENT_CACHED_IO": 0x20,
        "VHDSET_FILE_ONLY": 0x40,
        "IGNORE_RELATIVE_PARENT_LOCATOR": 0x80,
        "NO_WRITE_HARDENING": 0x100,
        "SUPPORT_COMPRESSED_VOLUMES": 0x200,
        "SUPPORT_SPARSE_FILES_ANY_FS": 0x400,
        "SUPPORT_ENCRYPTED_FILES": 0x800,
    },
    virtdisk.AttachFlag: {
        "NONE": 0,
        "READ_ONLY": 1,
        "NO_DRIVE_LETTER": 2,
        "PERMANENT_LIFETIME": 4,
        "NO_LOCAL_HOST": 8,
        "NO_SECURITY_DESCRIPTOR": 0x10,
        "BYPASS_DEFAULT_ENCRYPTION_POLICY": 0x20,
        "NON_PNP": 0x40,
        "RESTRICTED_RANGE": 0x80,
        "SINGLE_PARTITION": 0x100,
        "REGISTER_VOLUME": 0x200,
        "AT_BOOT": 0x400,
    },
    virtdisk.CreateFlag: {
        "NONE": 0,
        "FULL_PHYSICAL_ALLOCATION": 1,
        "PREVENT_WRITES_TO_SOURCE_DISK": 2,
        "DO_NOT_COPY_METADATA_FROM_PARENT": 4,
        "CREATE_BACKING_STORAGE": 8,
        "USE_CHANGE_TRACKING_SOURCE_LIMIT": 0x10,
        "PRESERVE_PARENT_CHANGE_TRACKING_STATE": 0x20,
        "VHD_SET_USE_ORIGINAL_BACKING_STORAGE": 0x40,
        "SPARSE_FILE": 0x80,
        "PMEM_COMPATIBLE": 0x100,
        "SUPPORT_COMPRESSED_VOLUMES": 0x200,
        "SUPPORT_SPARSE_FILES_ANY_FS": 0x400,
    },
    virtdisk.CompactFlag: {"NONE": 0, "NO_ZERO_SCAN": 1, "NO_BLOCK_MOVES": 2},
    virtdisk.ResizeFlag: {
        "NONE": 0,
        "ALLOW_UNSAFE_VIRTUAL_SIZE": 1,
        "RESIZE_TO_SMALLEST_SAFE_VIRTUAL_SIZE": 2,
    },
    virtdisk.MirrorFlag: {
        "NONE": 0,
        "EXISTING_FILE": 1,
        "SKIP_MIRROR_ACTIVATION": 2,
        "ENABLE_SMB_COMPRESSION": 4,
        "IS_LIVE_MIGRATION": 8,
    },
    virtdisk.DependentDiskFlag: {
        "NONE": 0,
        "MULT_BACKING_FILES": 1,
        "FULLY_ALLOCATED": 2,
        "READ_ONLY": 4,
        "REMOTE": 8,
        "SYSTEM_VOLUME": 0x10,
        "SYSTEM_VOLUME_PARENT": 0x20,
        "REMOVABLE": 0x40,
        "NO_DRIVE_LETTER": 0x80,
        "PARENT": 0x100,
        "NO_HOST_DISK": 0x200,
        "PERMANENT_LIFETIME": 0x400,
        "SUPPORT_COMPRESSED_VOLUMES": 0x800,
        "ALWAYS_ALLOW_SPARSE": 0x1000,
        "SUPPORT_ENCRYPTED_FILES": 0x2000,
    },
    virtdisk.DetachFlag: {"NONE": 0},
    virtdisk.StorageType: {
        "UNKNOWN": 0,
        "ISO": 1,
        "VHD": 2,
        "VHDX": 3,
        "VHDSET": 4,
    },
    # GET_VIRTUAL_DISK_INFO_PROVIDER_SUBTYPE has no constants in virtdisk.h.
    virtdisk.ProviderSubtype: {"FIXED": 2, "DYNAMIC": 3, "DIFFERENCING": 4},
}

PREFIXES: dict[type[enum.IntEnum | enum.IntFlag], str] = {
    virtdisk.AccessMask: "VIRTUAL_DISK_ACCESS_",
    virtdisk.OpenFlag: "OPEN_VIRTUAL_DISK_FLAG_",
    virtdisk.AttachFlag: "ATTACH_VIRTUAL_DISK_FLAG_",
    virtdisk.CreateFlag: "CREATE_VIRTUAL_DISK_FLAG_",
    virtdisk.CompactFlag: "COMPACT_VIRTUAL_DISK_FLAG_",
    virtdisk.ResizeFlag: "RESIZE_VIRTUAL_DISK_FLAG_",
    virtdisk.MirrorFlag: "MIRROR_VIRTUAL_DISK_FLAG_",
    virtdisk.DependentDiskFlag: "DEPENDENT_DISK_FLAG_",
    virtdisk.DetachFlag: "DETACH_VIRTUAL_DISK_FLAG_",
    virtdisk.StorageType: "VIRTUAL_STORAGE_TYPE_DEVICE_",
}

# API.md 1.1: second names of some values.
ALIASES = {"SURFACE_RO", "SURFACE_RW", "UNSURFACE", "USE_RCT_SOURCE_LIMIT"}

FLAGS = [family for family in MEMBERS if issubclass(family, enum.IntFlag)]


def constants(prefix: str) -> dict[str, int]:
    """The C constants of a family, without the prefix."""
    return {
        name.removeprefix(prefix): value
        for name, value in vars(_virtdisk).items()
        if name.startswith(prefix)
    }


@pytest.mark.parametrize("family", MEMBERS, ids=lambda family: family.__name__)
def test_members_and_values(family: type[enum.IntEnum | enum.IntFlag]) -> None:
    found = {name: int(value) for name, value in family.__members__.items()}
    assert found == MEMBERS[family]


@pytest.mark.parametrize("family", PREFIXES, ids=lambda family: family.__name__)
def test_same_as_the_c_constants(family: type[enum.IntEnum | enum.IntFlag]) -> None:
    in_c = constants(PREFIXES[family])
    assert {k: v for k, v in in_c.items() if k not in ALIASES} == MEMBERS[family]


@pytest.mark.parametrize("family", FLAGS, ids=lambda family: family.__name__)
def test_unknown_bits_survive(family: type[enum.IntFlag]) -> None:
    value = family(0x80000000)
    assert isinstance(value, family)
    assert int(value) == 0x80000000
    assert int(value | family(0)) == 0x80000000
    assert int(family(int(value) | 1)) == 0x80000001


@pytest.mark.parametrize("family", MEMBERS, ids=lambda family: family.__name__)
def test_pickle(family: type[enum.IntEnum | enum.IntFlag]) -> None:
    for member in family:
        assert pickle.loads(pickle.dumps(member)) is member


def test_composed_masks() -> None:
    mask = virtdisk.AccessMask
    assert mask.READ == mask.ATTACH_RO | mask.DETACH | mask.GET_INFO
    assert mask.WRITABLE == mask.ATTACH_RW | mask.CREATE | mask.METAOPS
    assert mask.ALL == mask.READ | mask.WRITABLE


def test_information_classes() -> None:
    in_c = constants("GET_VIRTUAL_DISK_INFO_")
    ours = {
        name: value
        for name, value in vars(_info).items()
        if name.isupper() and type(value) is int
    }
    assert len(ours) == 15
    assert sorted(ours.values()) == list(range(1, 16))
    assert {"UNSPECIFIED": 0, **ours} == in_c


def test_vendor() -> None:
    """API.md 1.1, VIRTUAL_STORAGE_TYPE_VENDOR_MICROSOFT."""
    from virtdisk import _open

    assert str(_open.MICROSOFT_VENDOR) == "ec984aec-a0f9-47e9-901f-71415a66345b"
    assert _open.MICROSOFT_VENDOR.bytes_le.hex() == "ec4a98ecf9a0e947901f71415a66345b"
