"""What each function gives to the system, byte for byte, and what it makes of
the answer; over the double of the API.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from binding_calls import (
    ABI,
    ALL_CASES,
    CASES,
    CREATE_CASES,
    MIRROR_CASES,
    MISUSE,
    MORE_DATA,
    Case,
    answer,
    flags,
    ident,
    make,
    pack,
    subject,
)
from binding_double import (
    APPLY_SNAPSHOT,
    CLOSE,
    COMPACT,
    COMPLETE_FORK,
    CREATE,
    CREATE_FILE,
    DELETE_METADATA,
    DELETE_SNAPSHOT,
    DEPENDENCY,
    ENUMERATE_METADATA,
    EXPAND,
    GET_METADATA,
    GUID_A,
    GUID_B,
    MERGE,
    MODIFY_SET,
    NO_GUID,
    RESIZE,
    SET_INFORMATION,
    SET_METADATA,
    TAKE_SNAPSHOT,
    Double,
    utf16,
)
from support import LINUX

from virtdisk._errors import VirtualDiskError

pytestmark = pytest.mark.skipif(not LINUX, reason="the double is for Linux")


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
