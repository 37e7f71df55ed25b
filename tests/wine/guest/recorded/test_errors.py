"""Codes of the system as exceptions: class, winerror, name, function."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import pytest
from calls import CALLS, FREE, Call, Free
from recorder import Recorder

import virtdisk
from virtdisk import _virtdisk

if TYPE_CHECKING:
    from virtdisk._virtdisk import Handle

# Code, name, and the built-in class it must also be (API.md 2.8).
CODES: list[tuple[int, str, type[OSError]]] = [
    (1, "ERROR_INVALID_FUNCTION", OSError),
    (2, "ERROR_FILE_NOT_FOUND", FileNotFoundError),
    (3, "ERROR_PATH_NOT_FOUND", FileNotFoundError),
    (5, "ERROR_ACCESS_DENIED", PermissionError),
    (6, "ERROR_INVALID_HANDLE", OSError),
    (21, "ERROR_NOT_READY", OSError),
    (22, "ERROR_BAD_COMMAND", OSError),
    (32, "ERROR_SHARING_VIOLATION", PermissionError),
    (50, "ERROR_NOT_SUPPORTED", OSError),
    (55, "ERROR_DEV_NOT_EXIST", OSError),
    (80, "ERROR_FILE_EXISTS", FileExistsError),
    (87, "ERROR_INVALID_PARAMETER", OSError),
    (112, "ERROR_DISK_FULL", OSError),
    (120, "ERROR_CALL_NOT_IMPLEMENTED", OSError),
    (183, "ERROR_ALREADY_EXISTS", FileExistsError),
    (618, "ERROR_UNSUPPORTED_COMPRESSION", OSError),
    (665, "ERROR_FILE_SYSTEM_LIMITATION", OSError),
    (995, "ERROR_OPERATION_ABORTED", OSError),
    (997, "ERROR_IO_PENDING", BlockingIOError),
    (1168, "ERROR_NOT_FOUND", OSError),
    (1223, "ERROR_CANCELLED", OSError),
    (1314, "ERROR_PRIVILEGE_NOT_HELD", PermissionError),
    (1392, "ERROR_FILE_CORRUPT", OSError),
    (6002, "ERROR_FILE_ENCRYPTED", OSError),
    (0xC03A0001, "ERROR_VHD_DRIVE_FOOTER_MISSING", OSError),
    (0xC03A000D, "ERROR_VHD_PARENT_VHD_NOT_FOUND", FileNotFoundError),
    (0xC03A0014, "ERROR_VIRTDISK_PROVIDER_NOT_FOUND", OSError),
    (0xC03A0016, "ERROR_VHD_PARENT_VHD_ACCESS_DENIED", PermissionError),
    (0xC03A001A, "ERROR_VIRTUAL_DISK_LIMITATION", OSError),
    (0xC03A001B, "ERROR_VHD_INVALID_TYPE", OSError),
    (0xC03A0030, "ERROR_VHD_MISSING_CHANGE_TRACKING_INFORMATION", OSError),
    (0xC05CFF0A, "ERROR_VHD_SHARED", OSError),
]
# Paths that calls.py gives to functions of a disk.
GIVEN = {
    "AddVirtualDiskParent": "C:\\parent.vhdx",
    "MirrorVirtualDisk": "C:\\mirror.vhdx",
    "ForkVirtualDisk": "C:\\fork.vhdx",
}


@pytest.mark.parametrize(("code", "name", "builtin"), CODES)
def test_codes(double: Recorder, code: int, name: str, builtin: type[OSError]) -> None:
    double.answer("OpenVirtualDisk", result=code)
    with pytest.raises(virtdisk.VirtualDiskError) as caught:
        _virtdisk.OpenVirtualDisk("C:\\disk.vhdx")
    error = caught.value
    assert isinstance(error, builtin)
    assert error.winerror == code  # unsigned: 0xC03A.... is positive
    assert error.name == name
    assert error.filename == "C:\\disk.vhdx"
    assert error.function == "OpenVirtualDisk"
    assert isinstance(error.errno, int)
    assert error.message
    assert double.names() == ["OpenVirtualDisk"]


def test_a_code_nobody_knows(double: Recorder) -> None:
    double.answer("OpenVirtualDisk", result=0xDEADBEEF)
    with pytest.raises(virtdisk.VirtualDiskError) as caught:
        _virtdisk.OpenVirtualDisk("disk")
    assert caught.value.winerror == 0xDEADBEEF
    assert caught.value.name is None
    assert "0xDEADBEEF" in str(caught.value)


@pytest.mark.parametrize("code", [5, 1314, 0xC03A001C])
@pytest.mark.parametrize(("function", "call"), CALLS.items())
def test_every_function_raises(
    double: Recorder, disk: Handle, function: str, call: Call, code: int
) -> None:
    double.answer(function, result=code)
    with pytest.raises(virtdisk.VirtualDiskError) as caught:
        call(disk)
    assert caught.value.winerror == code
    assert caught.value.function == function
    # The file that is the matter: the disk, or the path that was given.
    assert caught.value.filename in {disk.path, GIVEN.get(function)}
    assert double.names() == [function]


@pytest.mark.parametrize("code", [5, 0xC03A0014])
@pytest.mark.parametrize(("function", "call"), FREE.items())
def test_every_function_without_a_disk_raises(
    double: Recorder, function: str, call: Free, code: int
) -> None:
    double.answer(function, result=code)
    with pytest.raises(virtdisk.VirtualDiskError) as caught:
        call()
    assert caught.value.winerror == code
    assert caught.value.function == function
    assert double.names() == [function]


def test_a_function_without_a_disk_raises(double: Recorder) -> None:
    double.answer("GetAllAttachedVirtualDiskPhysicalPaths", result=50)
    with pytest.raises(virtdisk.VirtualDiskError) as caught:
        _virtdisk.GetAllAttachedVirtualDiskPhysicalPaths()
    assert caught.value.winerror == 50
    assert caught.value.filename is None


def test_an_exception_survives_pickle(double: Recorder) -> None:
    # OSError on Windows has a winerror of its own, a signed one.
    double.answer("OpenVirtualDisk", result=0xC03A0014)
    with pytest.raises(virtdisk.VirtualDiskError) as caught:
        _virtdisk.OpenVirtualDisk("C:\\disk.vhdx")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert copy.winerror == 0xC03A0014
    assert str(copy) == str(caught.value)
