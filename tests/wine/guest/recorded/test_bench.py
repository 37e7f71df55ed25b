"""The bench itself: a real Windows Python and the double, not Wine's DLL."""

from __future__ import annotations

import ctypes
import sys
import uuid

import oracle
from recorder import DLL, KERNEL32, Recorder

from virtdisk import _virtdisk

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
