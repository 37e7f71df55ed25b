"""AttachVirtualDisk, DetachVirtualDisk: what arrives, bit for bit."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import oracle
import pytest
from recorder import Recorder, Value

from virtdisk import _virtdisk

if TYPE_CHECKING:
    from virtdisk._virtdisk import Handle

BIG = 0xFEDCBA9876543210
SDDL = "O:BAG:SYD:P(A;;GA;;;BA)(A;;GRGX;;;WD)S:(AU;SAFA;GA;;;WD)"

# How the arguments of each version fill ATTACH_VIRTUAL_DISK_PARAMETERS.
VERSIONS: list[tuple[dict[str, Any], Mapping[str, int]]] = [
    ({"version": 1}, {"Version": 1}),
    ({"version": 2}, {"Version": 2}),
    (
        {"version": 2, "restricted_offset": BIG},
        {"Version": 2, "Version2.RestrictedOffset": BIG},
    ),
    (
        {"version": 2, "restricted_length": BIG},
        {"Version": 2, "Version2.RestrictedLength": BIG},
    ),
]


def expect(double: Recorder, disk: Handle, **changed: Value) -> None:
    """The only call was AttachVirtualDisk with the defaults but for these."""
    defaults: dict[str, Value] = {
        "VirtualDiskHandle": disk.value,
        "SecurityDescriptor": None,
        "Flags": 0,
        "ProviderSpecificFlags": 0,
        "Parameters": oracle.pack("ATTACH_VIRTUAL_DISK_PARAMETERS", {"Version": 1}),
        "Overlapped": None,
    }
    (call,) = double.calls()
    double.assert_call(call, "AttachVirtualDisk", **{**defaults, **changed})


def descriptor_from_sddl(text: str) -> bytes:
    """What the system makes of SDDL."""
    advapi = ctypes.WinDLL("advapi32")
    kernel = ctypes.WinDLL("kernel32")
    pointer = ctypes.c_void_p()
    size = ctypes.c_ulong()
    convert = advapi.ConvertStringSecurityDescriptorToSecurityDescriptorW
    assert convert(text, 1, ctypes.byref(pointer), ctypes.byref(size))
    kernel.LocalFree.argtypes = [ctypes.c_void_p]
    try:
        return ctypes.string_at(pointer, size.value)
    finally:
        kernel.LocalFree(pointer)


def test_defaults(double: Recorder, disk: Handle) -> None:
    _virtdisk.AttachVirtualDisk(disk)
    expect(double, disk)


@pytest.mark.parametrize(("arguments", "members"), VERSIONS)
def test_parameters(
    double: Recorder,
    disk: Handle,
    arguments: dict[str, Any],
    members: Mapping[str, int],
) -> None:
    _virtdisk.AttachVirtualDisk(disk, **arguments)
    packed = oracle.pack("ATTACH_VIRTUAL_DISK_PARAMETERS", members)
    expect(double, disk, Parameters=packed)


def test_no_parameters(double: Recorder, disk: Handle) -> None:
    _virtdisk.AttachVirtualDisk(disk, version=None)
    expect(double, disk, Parameters=None)


@pytest.mark.parametrize("version", [0, 3])
def test_unknown_version_never_reaches_the_system(
    double: Recorder, disk: Handle, version: int
) -> None:
    with pytest.raises(ValueError, match="version"):
        _virtdisk.AttachVirtualDisk(disk, version=version)
    assert double.calls() == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *oracle.flags("ATTACH_VIRTUAL_DISK_FLAG"),
        ("an unknown bit", 2147483648),
        ("every bit", 4294967295),
    ],
)
def test_flags(double: Recorder, disk: Handle, name: str, value: int) -> None:
    _virtdisk.AttachVirtualDisk(disk, flags=value)
    expect(double, disk, Flags=value)


@pytest.mark.parametrize("bit", range(32))
def test_provider_specific_flags(double: Recorder, disk: Handle, bit: int) -> None:
    _virtdisk.AttachVirtualDisk(disk, provider_specific_flags=1 << bit)
    expect(double, disk, ProviderSpecificFlags=1 << bit)


def test_security_descriptor_as_sddl(double: Recorder, disk: Handle) -> None:
    _virtdisk.AttachVirtualDisk(disk, security_descriptor=SDDL)
    expect(
        double,
        disk,
        SecurityDescriptor=descriptor_from_sddl(SDDL),
        IsValidSecurityDescriptor=True,
    )


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_security_descriptor_as_bytes(
    double: Recorder,
    disk: Handle,
    kind: type[bytes | bytearray | memoryview],
) -> None:
    descriptor = descriptor_from_sddl("D:P(A;;GA;;;WD)(A;;GA;;;AC)")
    _virtdisk.AttachVirtualDisk(disk, security_descriptor=kind(descriptor))
    expect(
        double,
        disk,
        SecurityDescriptor=descriptor,
        IsValidSecurityDescriptor=True,
    )


@pytest.mark.parametrize(
    "descriptor",
    [
        b"",
        bytes(19),
        bytes(20),  # revision 0
        b"\1\0\0\x80" + b"\xff" * 16,  # members outside
        b"\1\0\0\0" + bytes(16),  # not self-relative
    ],
)
def test_a_bad_descriptor_never_reaches_the_system(
    double: Recorder, disk: Handle, descriptor: bytes
) -> None:
    with pytest.raises(ValueError, match="security_descriptor"):
        _virtdisk.AttachVirtualDisk(disk, security_descriptor=descriptor)
    assert double.calls() == []


@pytest.mark.parametrize("text", ["nonsense", "D:(", "D:(A;;GA;;;nobody)"])
def test_bad_sddl_never_reaches_the_system(
    double: Recorder, disk: Handle, text: str
) -> None:
    with pytest.raises(OSError, match="SecurityDescriptor"):
        _virtdisk.AttachVirtualDisk(disk, security_descriptor=text)
    assert double.calls() == []


def test_the_error_of_a_failed_attach_keeps_the_handle(
    double: Recorder, disk: Handle
) -> None:
    double.answer("AttachVirtualDisk", result=1314)
    double.answer("AttachVirtualDisk")
    with pytest.raises(PermissionError) as caught:
        _virtdisk.AttachVirtualDisk(disk)
    assert caught.value.winerror == 1314
    assert caught.value.filename == disk.path
    _virtdisk.AttachVirtualDisk(disk)


@pytest.mark.parametrize("bit", range(32))
def test_detach(double: Recorder, disk: Handle, bit: int) -> None:
    _virtdisk.DetachVirtualDisk(
        disk, flags=1 << bit, provider_specific_flags=1 << (31 - bit)
    )
    (call,) = double.calls()
    double.assert_call(
        call,
        "DetachVirtualDisk",
        VirtualDiskHandle=disk.value,
        Flags=1 << bit,
        ProviderSpecificFlags=1 << (31 - bit),
    )


@pytest.mark.parametrize(
    "name", ["flags", "provider_specific_flags", "restricted_offset"]
)
@pytest.mark.parametrize("value", [-1, 1 << 64, 1.0, "1", None])
def test_numbers_that_do_not_fit_never_reach_the_system(
    double: Recorder, disk: Handle, name: str, value: Any
) -> None:
    with pytest.raises((OverflowError, TypeError), match=name):
        _virtdisk.AttachVirtualDisk(disk, **{name: value})
    assert double.calls() == []
