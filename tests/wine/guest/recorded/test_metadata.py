"""The four functions of user metadata: what arrives, and what comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from calls import GUID, OTHER_GUID
from recorder import Recorder

import virtdisk
from virtdisk import _virtdisk

if TYPE_CHECKING:
    from virtdisk._virtdisk import Handle

KINDS: list[Callable[[bytes], Any]] = [bytes, bytearray, memoryview]


def items(count: int) -> list[bytes]:
    """GUIDs, all different."""
    return [number.to_bytes(16, "big") for number in range(1, count + 1)]


@pytest.mark.parametrize("count", [0, 1, 2, 100, 1024, 5000])
def test_enumerate(double: Recorder, disk: Handle, count: int) -> None:
    data = b"".join(items(count))
    double.answer("EnumerateVirtualDiskMetadata", data=data)
    assert _virtdisk.EnumerateVirtualDiskMetadata(disk) == items(count)
    call = double.calls()[-1]
    double.assert_call(
        call,
        "EnumerateVirtualDiskMetadata",
        VirtualDiskHandle=disk.value,
        NumberOfItems=call["NumberOfItems"],
        Items=True,
        Answer=data,
    )
    assert call["NumberOfItems"] >= count


def test_items_that_become_more_meanwhile(double: Recorder, disk: Handle) -> None:
    for count in (1000, 3000, 9000):
        double.answer("EnumerateVirtualDiskMetadata", data=b"".join(items(count)))
    assert _virtdisk.EnumerateVirtualDiskMetadata(disk) == items(9000)


@pytest.mark.parametrize("size", [0, 1, 15, 4096, 65536, 1 << 20])
def test_get(double: Recorder, disk: Handle, size: int) -> None:
    value = bytes(number % 251 for number in range(size))
    double.answer("GetVirtualDiskMetadata", data=value)
    assert _virtdisk.GetVirtualDiskMetadata(disk, GUID) == value
    call = double.calls()[-1]
    double.assert_call(
        call,
        "GetVirtualDiskMetadata",
        VirtualDiskHandle=disk.value,
        Item=GUID,
        MetaDataSize=call["MetaDataSize"],
        MetaData=True,
        Answer=value,
    )
    assert call["MetaDataSize"] >= size


def test_a_value_that_grows_meanwhile(double: Recorder, disk: Handle) -> None:
    for size in (3000, 9000, 27000):
        double.answer("GetVirtualDiskMetadata", data=size * b"m")
    assert _virtdisk.GetVirtualDiskMetadata(disk, GUID) == 27000 * b"m"


@pytest.mark.parametrize(
    ("function", "arguments"),
    [("EnumerateVirtualDiskMetadata", ()), ("GetVirtualDiskMetadata", (GUID,))],
)
@pytest.mark.parametrize("needed", [32, 0xFFFFFFFE])
def test_too_small_forever_is_an_error_in_the_end(
    double: Recorder,
    disk: Handle,
    function: str,
    arguments: tuple[bytes, ...],
    needed: int,
) -> None:
    double.answer(function, needed=needed)
    with pytest.raises((OSError, MemoryError)) as caught:
        getattr(_virtdisk, function)(disk, *arguments)
    assert getattr(caught.value, "winerror", 122) == 122
    assert 1 <= len(double.calls()) <= 64


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, 1, 4096, 1 << 20])
def test_set(
    double: Recorder, disk: Handle, kind: Callable[[bytes], Any], size: int
) -> None:
    value = bytes(number % 251 for number in range(size))
    _virtdisk.SetVirtualDiskMetadata(disk, kind(OTHER_GUID), kind(value))
    (call,) = double.calls()
    double.assert_call(
        call,
        "SetVirtualDiskMetadata",
        VirtualDiskHandle=disk.value,
        Item=OTHER_GUID,
        MetaDataSize=size,
        # Of no bytes, the address may be any.
        MetaData=value if size else call["MetaData"],
    )


def test_delete(double: Recorder, disk: Handle) -> None:
    _virtdisk.DeleteVirtualDiskMetadata(disk, GUID)
    (call,) = double.calls()
    double.assert_call(
        call, "DeleteVirtualDiskMetadata", VirtualDiskHandle=disk.value, Item=GUID
    )


CALLS: list[tuple[str, tuple[Any, ...]]] = [
    ("GetVirtualDiskMetadata", ()),
    ("SetVirtualDiskMetadata", (b"value",)),
    ("DeleteVirtualDiskMetadata", ()),
]


@pytest.mark.parametrize(("function", "rest"), CALLS)
@pytest.mark.parametrize("size", [0, 15, 17])
def test_an_item_has_16_bytes(
    double: Recorder, disk: Handle, function: str, rest: tuple[Any, ...], size: int
) -> None:
    with pytest.raises(ValueError, match="item"):
        getattr(_virtdisk, function)(disk, bytes(size), *rest)
    assert double.calls() == []


@pytest.mark.parametrize(("function", "rest"), CALLS)
@pytest.mark.parametrize("item", [None, str(GUID), 5])
def test_an_item_is_bytes(
    double: Recorder, disk: Handle, function: str, rest: tuple[Any, ...], item: Any
) -> None:
    with pytest.raises(TypeError):
        getattr(_virtdisk, function)(disk, item, *rest)
    assert double.calls() == []


@pytest.mark.parametrize("value", [None, "text", 5])
def test_a_value_is_bytes(double: Recorder, disk: Handle, value: Any) -> None:
    with pytest.raises(TypeError):
        _virtdisk.SetVirtualDiskMetadata(disk, GUID, value)
    assert double.calls() == []


@pytest.mark.parametrize(("function", "rest"), CALLS)
def test_refused(
    double: Recorder, disk: Handle, function: str, rest: tuple[Any, ...]
) -> None:
    double.answer(function, result=0xC03A0028)
    with pytest.raises(virtdisk.VirtualDiskError) as caught:
        getattr(_virtdisk, function)(disk, GUID, *rest)
    assert caught.value.winerror == 0xC03A0028
    assert caught.value.name == "ERROR_VHD_METADATA_FULL"
    assert caught.value.filename == disk.path
