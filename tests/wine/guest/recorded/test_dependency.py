"""GetStorageDependencyInformation: what is asked, and how it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import oracle
import pytest
from calls import GUID, OBJECT, OTHER_GUID
from recorder import Recorder, handle_is_open

import virtdisk
from virtdisk import _virtdisk

INFO = "STORAGE_DEPENDENCY_INFO"
HEAD = 8  # bytes: Version and NumberEntries
WIDE = 0xFEDCBA98
STRINGS = (
    "DependencyDeviceName",
    "HostVolumeName",
    "DependentVolumeName",
    "DependentVolumeRelativePath",
)
NAMES = (
    "\\\\.\\PhysicalDrive7",
    "\\\\?\\Volume{00112233-4455-6677-8899-aabbccddeeff}\\",
    "\\\\?\\Volume{\u00e9\U0001f4be}\\",
    "\\images\\\ud800.vhdx",
)

Entry = Mapping[str, int | bytes | str | None]
FIRST: Entry = {
    "DependencyTypeFlags": 0x401,
    "ProviderSpecificFlags": WIDE,
    "VirtualStorageType.DeviceId": 3,
    "VirtualStorageType.VendorId": GUID,
    "AncestorLevel": WIDE + 1,
    **dict(zip(STRINGS, NAMES, strict=True)),
}
SECOND: Entry = {
    "DependencyTypeFlags": 4,
    "ProviderSpecificFlags": 0,
    "VirtualStorageType.DeviceId": 2,
    "VirtualStorageType.VendorId": OTHER_GUID,
    "AncestorLevel": 2,
    **dict.fromkeys(STRINGS),
    "HostVolumeName": "",
}


def answer(version: int, entries: Sequence[Entry]) -> bytes:
    """What the system hands out: the entries, then the texts.

    The places of texts count from the start (double/virtdisk.c); the system's
    are addresses.
    """
    structure = f"{INFO}_TYPE_{version}"
    size = len(oracle.pack(structure, {}))
    texts = b""
    packed = b""
    for entry in entries:
        members: dict[str, int | bytes] = {}
        for name in sorted(oracle.leaves(structure)):
            value = entry[name]
            if isinstance(value, str):
                members[name] = HEAD + size * len(entries) + len(texts)
                texts += f"{value}\0".encode("utf-16-le", "surrogatepass")
            else:
                members[name] = value or 0
        packed += oracle.pack(structure, members)
    head = oracle.pack(INFO, {"Version": version, "NumberEntries": len(entries)})
    return head[:HEAD] + packed + texts


def expected(version: int, entries: Sequence[Entry]) -> list[tuple[Any, ...]]:
    """What Python gets for it, member by member in their order."""
    names = [
        "DependencyTypeFlags",
        "ProviderSpecificFlags",
        "VirtualStorageType.DeviceId",
        "VirtualStorageType.VendorId",
    ]
    if version == 2:
        names += ["AncestorLevel", *STRINGS]
    return [tuple(entry[name] for name in names) for entry in entries]


def assert_asked(
    double: Recorder, version: int, flags: int, data: bytes, path: str = OBJECT
) -> None:
    """The last call asked for a version, about an open object."""
    call = double.calls()[-1]
    double.assert_call(
        call,
        "GetStorageDependencyInformation",
        ObjectHandle=call["ObjectHandle"],
        ObjectHandleIsOpen=True,
        Flags=flags,
        StorageDependencyInfoSize=call["StorageDependencyInfoSize"],
        StorageDependencyInfo=oracle.pack(INFO, {"Version": version})[:HEAD],
        SizeUsed=True,
        Answer=data,
    )
    assert call["StorageDependencyInfoSize"] >= len(data)
    assert not handle_is_open(call["ObjectHandle"])  # for the call alone


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("entries", [[], [FIRST], [SECOND], [FIRST, SECOND, FIRST]])
def test_versions(double: Recorder, version: int, entries: list[Entry]) -> None:
    data = answer(version, entries)
    double.answer("GetStorageDependencyInformation", data=data)
    asked: Any = version
    result = _virtdisk.GetStorageDependencyInformation(OBJECT, version=asked)
    assert result == expected(version, entries)
    assert_asked(double, version, 0, data)


def test_version_2_unless_asked(double: Recorder) -> None:
    data = answer(2, [FIRST])
    double.answer("GetStorageDependencyInformation", data=data)
    result = _virtdisk.GetStorageDependencyInformation(OBJECT)
    assert result == expected(2, [FIRST])
    assert_asked(double, 2, 0, data)


@pytest.mark.parametrize(
    ("name", "value"), oracle.constants("DEPENDENT_DISK_FLAG_").items()
)
def test_kinds_of_dependency(double: Recorder, name: str, value: int) -> None:
    data = answer(2, [{**FIRST, "DependencyTypeFlags": value}])
    double.answer("GetStorageDependencyInformation", data=data)
    ((kind, *_),) = _virtdisk.GetStorageDependencyInformation(OBJECT)
    assert kind == value
    assert_asked(double, 2, 0, data)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *oracle.flags("GET_STORAGE_DEPENDENCY_FLAG"),
        ("an unknown bit", 2147483648),
        ("every bit", 4294967295),
    ],
)
def test_flags(double: Recorder, name: str, value: int) -> None:
    data = answer(2, [])
    double.answer("GetStorageDependencyInformation", data=data)
    assert _virtdisk.GetStorageDependencyInformation(OBJECT, flags=value) == []
    assert_asked(double, 2, value, data)


@pytest.mark.parametrize("count", [50, 500])
def test_many_are_fetched_whole(double: Recorder, count: int) -> None:
    entries = [{**FIRST, "AncestorLevel": number} for number in range(count)]
    data = answer(2, entries)
    double.answer("GetStorageDependencyInformation", data=data)
    result = _virtdisk.GetStorageDependencyInformation(OBJECT)
    assert result == expected(2, entries)
    assert len(double.calls()) >= 2


def test_they_become_more_meanwhile(double: Recorder) -> None:
    for count in (100, 300, 900):
        double.answer(
            "GetStorageDependencyInformation", data=answer(2, count * [FIRST])
        )
    result = _virtdisk.GetStorageDependencyInformation(OBJECT)
    assert len(result) == 900
    assert len(double.calls()) >= 3


@pytest.mark.parametrize("version", [1, 2])
def test_more_entries_than_bytes_are_not_read(double: Recorder, version: int) -> None:
    # A count that the size belies must not lead out of the buffer.
    data = bytearray(answer(version, [FIRST]))
    data[4:8] = (0x10000000).to_bytes(4, "little")
    double.answer("GetStorageDependencyInformation", data=bytes(data))
    asked: Any = version
    try:
        result = _virtdisk.GetStorageDependencyInformation(OBJECT, version=asked)
    except (OSError, ValueError):
        return  # refused
    assert len(result) < 0x1000  # or cut to what is there


def test_too_small_forever_is_an_error_in_the_end(double: Recorder) -> None:
    double.answer("GetStorageDependencyInformation", needed=8)
    with pytest.raises(OSError) as caught:
        _virtdisk.GetStorageDependencyInformation(OBJECT)
    assert caught.value.winerror == 122
    assert 2 <= len(double.calls()) <= 64


@pytest.mark.parametrize("version", [0, 3, 0xFFFFFFFF])
def test_unknown_version_never_reaches_the_system(
    double: Recorder, version: Any
) -> None:
    with pytest.raises(ValueError, match="version"):
        _virtdisk.GetStorageDependencyInformation(OBJECT, version=version)
    assert double.calls() == []


def test_what_cannot_be_opened(double: Recorder) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        _virtdisk.GetStorageDependencyInformation("P:\\nothing here")
    assert isinstance(caught.value, virtdisk.VirtualDiskError)
    assert caught.value.winerror == 2
    assert caught.value.filename == "P:\\nothing here"
    assert double.calls() == []


@pytest.mark.parametrize(
    ("path", "error"), [("a\0b", ValueError), (b"a", TypeError), (None, TypeError)]
)
def test_bad_paths_never_reach_the_system(
    double: Recorder, path: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        _virtdisk.GetStorageDependencyInformation(path)
    assert double.calls() == []


@pytest.mark.parametrize("code", [1, 5, 87, 0xC03A0015])
def test_refused(double: Recorder, code: int) -> None:
    double.answer("GetStorageDependencyInformation", result=code)
    with pytest.raises(virtdisk.VirtualDiskError) as caught:
        _virtdisk.GetStorageDependencyInformation(OBJECT)
    assert caught.value.winerror == code
    assert caught.value.filename == OBJECT
    (call,) = double.calls()
    assert not handle_is_open(call["ObjectHandle"])
