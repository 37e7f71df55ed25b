"""The bench itself: a real Windows Python and the double, not Wine's DLL."""

from __future__ import annotations

import ctypes
import sys
import uuid
from typing import TYPE_CHECKING

import oracle
import pytest
from recorder import DLL, KERNEL32, Recorder

from virtdisk import _virtdisk

if TYPE_CHECKING:
    from virtdisk._virtdisk import Handle

assert sys.platform == "win32"


def test_python_is_the_one_for_windows() -> None:
    assert "MSC v." in sys.version  # built with Microsoft's compiler
    assert sys.getwindowsversion()[:2] == (10, 0)
    assert _virtdisk.__file__.endswith("_virtdisk.pyd")


def test_the_loaded_dll_is_the_double() -> None:
    path = ctypes.create_unicode_buffer(260)
    KERNEL32.GetModuleFileNameW.argtypes = [
        ctypes.c_void_p,
        ctypes.c_wchar_p,
        ctypes.c_uint32,
    ]
    KERNEL32.GetModuleFileNameW(DLL._handle, path, 260)
    assert path.value == r"P:\virtdisk.dll"


def test_the_oracle_packs_at_the_published_offsets() -> None:
    # API.md 1.3: OPEN's union begins at 4, ATTACH's at 8.
    snapshot = uuid.UUID("ec984aec-a0f9-47e9-901f-71415a66345b").bytes_le
    assert oracle.pack(
        "OPEN_VIRTUAL_DISK_PARAMETERS",
        {"Version": 3, "Version3.SnapshotId": snapshot},
    ) == (b"\3" + bytes(27) + snapshot)
    assert oracle.pack(
        "ATTACH_VIRTUAL_DISK_PARAMETERS",
        {"Version": 2, "Version2.RestrictedLength": 1 << 63},
    ) == (b"\2" + bytes(22) + b"\x80")


def test_a_wild_pointer_is_reported_not_followed(double: Recorder) -> None:
    # A structure laid out wrongly must fail a test, not kill the process.
    handle = ctypes.c_void_p()
    wild = ctypes.c_void_p(0x10)
    DLL.OpenVirtualDisk(wild, None, 0, 0, wild, ctypes.byref(handle))
    KERNEL32.CloseHandle(handle)
    (call,) = double.calls()
    assert call["VirtualStorageType"] == "BAD POINTER 0x10"
    assert call["Parameters"] == "BAD POINTER 0x10"
    assert call["Path"] is None


def test_a_handle_that_is_not_a_disk_is_refused(double: Recorder) -> None:
    assert DLL.DetachVirtualDisk(ctypes.c_void_p(0x10), 0, 0) == 6


def test_changed_parameters_of_a_pending_operation_are_seen(
    double: Recorder, disk: Handle
) -> None:
    double.answer("CompactVirtualDisk", pending=1)
    overlapped = (ctypes.c_void_p * 4)()
    parameters = ctypes.create_string_buffer(b"\1\0\0\0\0\0\0\0", 8)
    handle = ctypes.c_void_p(disk.value)
    for changed in (False, True):
        started = DLL.CompactVirtualDisk(handle, 0, parameters, overlapped)
        assert started == 997
        if changed:
            parameters[4] = b"\1"
            with pytest.raises(AssertionError, match="parameters"):
                double.complete(disk.value)
        else:
            double.complete(disk.value)


def test_every_function_is_exported() -> None:
    for function in oracle.PARAMETERS:
        assert hasattr(DLL, function), function


def test_null_everywhere_is_recorded(double: Recorder, disk: Handle) -> None:
    # Whatever a caller forgets must show, not end the process.
    null = ctypes.c_void_p()
    handle = ctypes.c_void_p(disk.value)
    for function in ("TakeSnapshotVhdSet", "ModifyVhdSet", "ApplySnapshotVhdSet"):
        assert getattr(DLL, function)(handle, null, 0) == 0
    for function in ("MergeVirtualDisk", "MirrorVirtualDisk", "ForkVirtualDisk"):
        assert getattr(DLL, function)(handle, 0, null, null) == 0
    assert DLL.SetVirtualDiskInformation(handle, null) == 0
    calls = double.calls()
    assert len(calls) == 7
    assert [call.get("Parameters") for call in calls] == [None] * 7
    assert calls[-1]["VirtualDiskInfo"] is None
