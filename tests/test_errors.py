"""Errors: every code has a name, an errno, a class and, where one exists, a
remedy; the exceptions read well and survive pickle and copy."""

from __future__ import annotations

import copy
import errno
import functools
import pathlib
import pickle
import re
import subprocess
import sys
import traceback
from collections.abc import Callable

import pytest
from support import ROOT

import virtdisk
from virtdisk import VirtualDiskError, _errors, error_from_code
from virtdisk._winerror import ERROR_TABLE

HEADERS = ROOT / "src" / "engine" / "include"

# Transcribed from the error tables of API.md 2.8, the column "decimal" and,
# for plain Win32 codes, the list below them.
DECIMAL = {
    "ERROR_QUERY_STORAGE_ERROR": 2151284737,
    "ERROR_VHD_DRIVE_FOOTER_MISSING": 3225026561,
    "ERROR_VHD_DRIVE_FOOTER_CHECKSUM_MISMATCH": 3225026562,
    "ERROR_VHD_DRIVE_FOOTER_CORRUPT": 3225026563,
    "ERROR_VHD_FORMAT_UNKNOWN": 3225026564,
    "ERROR_VHD_FORMAT_UNSUPPORTED_VERSION": 3225026565,
    "ERROR_VHD_SPARSE_HEADER_CHECKSUM_MISMATCH": 3225026566,
    "ERROR_VHD_SPARSE_HEADER_UNSUPPORTED_VERSION": 3225026567,
    "ERROR_VHD_SPARSE_HEADER_CORRUPT": 3225026568,
    "ERROR_VHD_BLOCK_ALLOCATION_FAILURE": 3225026569,
    "ERROR_VHD_BLOCK_ALLOCATION_TABLE_CORRUPT": 3225026570,
    "ERROR_VHD_INVALID_BLOCK_SIZE": 3225026571,
    "ERROR_VHD_BITMAP_MISMATCH": 3225026572,
    "ERROR_VHD_PARENT_VHD_NOT_FOUND": 3225026573,
    "ERROR_VHD_CHILD_PARENT_ID_MISMATCH": 3225026574,
    "ERROR_VHD_CHILD_PARENT_TIMESTAMP_MISMATCH": 3225026575,
    "ERROR_VHD_METADATA_READ_FAILURE": 3225026576,
    "ERROR_VHD_METADATA_WRITE_FAILURE": 3225026577,
    "ERROR_VHD_INVALID_SIZE": 3225026578,
    "ERROR_VHD_INVALID_FILE_SIZE": 3225026579,
    "ERROR_VIRTDISK_PROVIDER_NOT_FOUND": 3225026580,
    "ERROR_VIRTDISK_NOT_VIRTUAL_DISK": 3225026581,
    "ERROR_VHD_PARENT_VHD_ACCESS_DENIED": 3225026582,
    "ERROR_VHD_CHILD_PARENT_SIZE_MISMATCH": 3225026583,
    "ERROR_VHD_DIFFERENCING_CHAIN_CYCLE_DETECTED": 3225026584,
    "ERROR_VHD_DIFFERENCING_CHAIN_ERROR_IN_PARENT": 3225026585,
    "ERROR_VIRTUAL_DISK_LIMITATION": 3225026586,
    "ERROR_VHD_INVALID_TYPE": 3225026587,
    "ERROR_VHD_INVALID_STATE": 3225026588,
    "ERROR_VIRTDISK_UNSUPPORTED_DISK_SECTOR_SIZE": 3225026589,
    "ERROR_VIRTDISK_DISK_ALREADY_OWNED": 3225026590,
    "ERROR_VIRTDISK_DISK_ONLINE_AND_WRITABLE": 3225026591,
    "ERROR_CTLOG_TRACKING_NOT_INITIALIZED": 3225026592,
    "ERROR_CTLOG_LOGFILE_SIZE_EXCEEDED_MAXSIZE": 3225026593,
    "ERROR_CTLOG_VHD_CHANGED_OFFLINE": 3225026594,
    "ERROR_CTLOG_INVALID_TRACKING_STATE": 3225026595,
    "ERROR_CTLOG_INCONSISTENT_TRACKING_FILE": 3225026596,
    "ERROR_VHD_RESIZE_WOULD_TRUNCATE_DATA": 3225026597,
    "ERROR_VHD_COULD_NOT_COMPUTE_MINIMUM_VIRTUAL_SIZE": 3225026598,
    "ERROR_VHD_ALREADY_AT_OR_BELOW_MINIMUM_VIRTUAL_SIZE": 3225026599,
    "ERROR_VHD_METADATA_FULL": 3225026600,
    "ERROR_VHD_INVALID_CHANGE_TRACKING_ID": 3225026601,
    "ERROR_VHD_CHANGE_TRACKING_DISABLED": 3225026602,
    "ERROR_VHD_MISSING_CHANGE_TRACKING_INFORMATION": 3225026608,
    "ERROR_SVHDX_ERROR_STORED": 3227254784,
    "ERROR_SVHDX_ERROR_NOT_AVAILABLE": 3227320064,
    "ERROR_SVHDX_UNIT_ATTENTION_AVAILABLE": 3227320065,
    "ERROR_SVHDX_UNIT_ATTENTION_CAPACITY_DATA_CHANGED": 3227320066,
    "ERROR_SVHDX_UNIT_ATTENTION_RESERVATIONS_PREEMPTED": 3227320067,
    "ERROR_SVHDX_UNIT_ATTENTION_RESERVATIONS_RELEASED": 3227320068,
    "ERROR_SVHDX_UNIT_ATTENTION_REGISTRATIONS_PREEMPTED": 3227320069,
    "ERROR_SVHDX_UNIT_ATTENTION_OPERATING_DEFINITION_CHANGED": 3227320070,
    "ERROR_SVHDX_RESERVATION_CONFLICT": 3227320071,
    "ERROR_SVHDX_WRONG_FILE_TYPE": 3227320072,
    "ERROR_SVHDX_VERSION_MISMATCH": 3227320073,
    "ERROR_VHD_SHARED": 3227320074,
    "ERROR_SVHDX_NO_INITIATOR": 3227320075,
    "ERROR_VHDSET_BACKING_STORAGE_NOT_FOUND": 3227320076,
    "ERROR_SUCCESS": 0,
    "ERROR_INVALID_FUNCTION": 1,
    "ERROR_FILE_NOT_FOUND": 2,
    "ERROR_PATH_NOT_FOUND": 3,
    "ERROR_ACCESS_DENIED": 5,
    "ERROR_INVALID_HANDLE": 6,
    "ERROR_NOT_READY": 21,
    "ERROR_BAD_COMMAND": 22,
    "ERROR_SHARING_VIOLATION": 32,
    "ERROR_NOT_SUPPORTED": 50,
    "ERROR_DEV_NOT_EXIST": 55,
    "ERROR_FILE_EXISTS": 80,
    "ERROR_INVALID_PARAMETER": 87,
    "ERROR_DISK_FULL": 112,
    "ERROR_CALL_NOT_IMPLEMENTED": 120,
    "ERROR_INSUFFICIENT_BUFFER": 122,
    "ERROR_ALREADY_EXISTS": 183,
    "ERROR_UNSUPPORTED_COMPRESSION": 618,
    "ERROR_FILE_SYSTEM_LIMITATION": 665,
    "ERROR_OPERATION_ABORTED": 995,
    "ERROR_IO_PENDING": 997,
    "ERROR_NOT_FOUND": 1168,
    "ERROR_CANCELLED": 1223,
    "ERROR_PRIVILEGE_NOT_HELD": 1314,
    "ERROR_FILE_CORRUPT": 1392,
    "ERROR_FILE_ENCRYPTED": 6002,
}

# The built-in that a code must also be, whatever its errno.
BUILT_IN = {
    2: FileNotFoundError,
    3: FileNotFoundError,
    5: PermissionError,
    32: PermissionError,
    33: PermissionError,
    80: FileExistsError,
    183: FileExistsError,
    996: BlockingIOError,
    997: BlockingIOError,
    1314: PermissionError,
    1460: TimeoutError,
    0xC03A000D: FileNotFoundError,
    0xC03A0016: PermissionError,
}

SUBCLASSES = [
    virtdisk.AccessDeniedError,
    virtdisk.ImageCorruptError,
    virtdisk.ImageExistsError,
    virtdisk.ImageNotFoundError,
    virtdisk.OperationIncompleteError,
    virtdisk.OperationTimeoutError,
    virtdisk.PrivilegeNotHeldError,
    virtdisk.SharingViolationError,
]


def header_codes() -> dict[str, int]:
    """Every code that the engine's own headers define."""
    if not HEADERS.exists():
        pytest.skip("the sources are not here")
    pattern = re.compile(
        r"^#define ((?:ERROR|WAIT)_\w+) (0x[0-9A-F]+|\d+)U?$", re.MULTILINE
    )
    found = {}
    for name in ("winerror.h", "winerror_vhd.h"):
        for match in pattern.finditer((HEADERS / name).read_text()):
            found[match[1]] = int(match[2], 0)
    return found


def test_table_has_the_published_values() -> None:
    by_name = {entry.name: entry.code for entry in ERROR_TABLE.values()}
    assert {name: by_name.get(name) for name in DECIMAL} == DECIMAL


def test_table_and_headers_agree() -> None:
    codes = header_codes()
    assert len(codes) > 120
    table = {entry.name: entry.code for entry in ERROR_TABLE.values()}
    # The headers follow the SDK's documented list; this one code is in the
    # Win32 metadata alone.
    assert set(table) - set(codes) == {"ERROR_VHD_UNEXPECTED_ID"}
    assert {name: table.get(name) for name in codes} == codes


def test_names_and_codes_are_unique() -> None:
    names = [entry.name for entry in ERROR_TABLE.values()]
    assert len(set(names)) == len(names)
    assert all(code == entry.code for code, entry in ERROR_TABLE.items())
    assert all(0 <= code < 1 << 32 for code in ERROR_TABLE)


@pytest.mark.parametrize("code", ERROR_TABLE, ids=hex)
def test_text_is_one_sentence(code: int) -> None:
    text = ERROR_TABLE[code].text
    assert re.fullmatch(r"[A-Z][^\n]*[^.\s]\.", text)


@pytest.mark.parametrize("code", [code for code in ERROR_TABLE if code], ids=hex)
def test_class_and_errno_agree(code: int) -> None:
    """What OSError makes of the errno, our class is too."""
    error = error_from_code(code, "OpenVirtualDisk")
    assert error.errno in errno.errorcode
    assert isinstance(error, type(OSError(error.errno, "")))
    assert isinstance(error, BUILT_IN.get(code, OSError))


def test_every_subclass_is_used_and_has_its_built_in() -> None:
    made = {type(error_from_code(code, "f")) for code in ERROR_TABLE}
    assert made == {VirtualDiskError, *SUBCLASSES}
    for kind in made:
        assert kind.__module__ == "virtdisk"
        assert getattr(virtdisk, kind.__name__) is kind


@pytest.mark.parametrize("code", [0xC03A0014, 0xC03A0014 - (1 << 32)])
def test_winerror_is_unsigned(code: int) -> None:
    error = error_from_code(code, "OpenVirtualDisk")
    assert error.winerror == 3225026580
    assert error.name == "ERROR_VIRTDISK_PROVIDER_NOT_FOUND"


def test_attributes() -> None:
    error = error_from_code(32, "AttachVirtualDisk", "/srv/a.vhd")
    assert type(error) is virtdisk.SharingViolationError
    assert error.winerror == 32
    assert error.errno == errno.EACCES
    assert error.name == "ERROR_SHARING_VIOLATION"
    assert error.function == "AttachVirtualDisk"
    assert error.filename == "/srv/a.vhd"
    assert error.message == error.strerror == "The image is in use or already attached."
    assert error.remedy and "virtdisk.attached()" in error.remedy
    assert error.args == (errno.EACCES, error.message)


def test_text_with_file_and_remedy() -> None:
    error = error_from_code(32, "AttachVirtualDisk", "/srv/a.vhd")
    first, second = str(error).split("\n")
    assert first == (
        "[ERROR_SHARING_VIOLATION 32] AttachVirtualDisk: "
        "The image is in use or already attached: '/srv/a.vhd'"
    )
    assert second == f"remedy: {error.remedy}"


def test_text_without_either() -> None:
    error = error_from_code(87, "DetachVirtualDisk")
    assert str(error) == (
        "[ERROR_INVALID_PARAMETER 87] DetachVirtualDisk: A parameter is not valid."
    )


def test_codes_of_a_facility_are_hexadecimal() -> None:
    text = str(error_from_code(0xC03A001B, "GetVirtualDiskInformation"))
    assert text.startswith("[ERROR_VHD_INVALID_TYPE 0xC03A001B] ")


def test_unknown_code() -> None:
    error = error_from_code(0xC03A7777, "OpenVirtualDisk", "a.vhd")
    assert type(error) is VirtualDiskError
    assert (error.name, error.remedy, error.errno) == (None, None, errno.EIO)
    assert str(error) == "[0xC03A7777] OpenVirtualDisk: Error 0xC03A7777: 'a.vhd'"


@pytest.mark.parametrize("text", ["Nie ma takiego dysku.", "x"])
def test_system_message_is_preferred(text: str) -> None:
    error = error_from_code(2, "OpenVirtualDisk", "a.vhd", text)
    assert error.message == error.strerror == text
    assert error.errno == errno.ENOENT


def test_empty_system_message_is_replaced() -> None:
    assert error_from_code(2, "f", None, "").message == "The file was not found."


def test_traceback_reads_well() -> None:
    error = error_from_code(1392, "OpenVirtualDisk", "a.iso")
    lines = "".join(traceback.format_exception_only(error)).splitlines()
    assert lines[0].startswith("virtdisk.ImageCorruptError: [ERROR_FILE_CORRUPT 1392]")
    assert lines[1].startswith("remedy: ")


def test_file_names_that_cannot_be_printed() -> None:
    error = error_from_code(32, "OpenVirtualDisk", "/a\udcff\n.vhd")
    assert len(error.lines()) == 2
    assert all(line.isprintable() for line in error.lines())


def pickled(error: VirtualDiskError, protocol: int) -> VirtualDiskError:
    again = pickle.loads(pickle.dumps(error, protocol))
    assert isinstance(again, VirtualDiskError)
    return again


ROUND_TRIPS: dict[str, Callable[[VirtualDiskError], VirtualDiskError]] = {
    **{
        f"pickle {protocol}": functools.partial(pickled, protocol=protocol)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("how", ROUND_TRIPS)
@pytest.mark.parametrize("code", [2, 5, 32, 997, 1314, 1392, 0xC03A0014, 0xC03A7777])
def test_round_trip(code: int, how: str) -> None:
    error = error_from_code(code, "OpenVirtualDisk", "/a.vhdx", "a message")
    error.remedy = "unmount /mnt"
    error.add_note("while testing")
    again = ROUND_TRIPS[how](error)
    assert type(again) is type(error)
    assert again is not error
    for name in ("winerror", "errno", "name", "function", "filename", "message"):
        assert getattr(again, name) == getattr(error, name)
    assert again.remedy == "unmount /mnt"
    assert again.__notes__ == ["while testing"]
    assert str(again) == str(error)


def test_round_trip_in_another_process() -> None:
    data = pickle.dumps(error_from_code(1314, "AttachVirtualDisk", "/a.vhd"))
    code = (
        "import pickle, sys; e = pickle.loads(sys.stdin.buffer.read());"
        "print(type(e).__name__, e.winerror, isinstance(e, PermissionError))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], input=data, capture_output=True, check=True
    )
    assert done.stdout.split() == [b"PrivilegeNotHeldError", b"1314", b"True"]


@pytest.mark.parametrize(
    ("code", "platform", "words"),
    [
        (1314, "win32", ["elevated", "SeManageVolumePrivilege"]),
        (1314, "linux", ["root"]),
        (32, "linux", ["virtual machine", "attached()"]),
        (183, "win32", ["detach"]),
        (5, "linux", ["read-only"]),
        (0xC03A001A, "win32", ["compressed", "encrypted", "sparse", "ReFS"]),
        (0xC03A0014, "linux", ["VHD, VHDX or ISO", "storage_type"]),
        (1392, "linux", ["damaged"]),
        (170, "linux", ["unmount"]),
        (55, "linux", ["attach it first"]),
        (50, "linux", ["VIRTDISK_DEBUG"]),
        (1, "win32", ["restricted range"]),
        (22, "win32", ["file system"]),
        (618, "win32", ["compact /u"]),
        (6002, "win32", ["cipher /d"]),
        (0xC03A000D, "win32", ["parents=False", "reconnect"]),
        (0xC03A000D, "linux", ["reconnect", "VIRTDISK_PARENT_ROOTS"]),
        (0xC03A0018, "linux", ["virtdisk.chain()"]),
        (0xC03A0019, "win32", ["virtdisk.chain()"]),
        (80, "linux", ["another name"]),
        (112, "win32", ["space"]),
        (995, "linux", ["again"]),
        (0xC03A0009, "linux", ["space", "VHDX"]),
        (0xC03A000B, "linux", ["2 MiB", "256 MiB"]),
        (0xC03A0012, "linux", ["2040 GiB", "64 TiB"]),
        (0xC03A001B, "win32", ["differencing"]),
        (0xC03A001C, "linux", ["detach", "operation", "wait"]),
        (0xC03A0025, "linux", ["smallest_safe_virtual_size", "allow_unsafe"]),
        (0xC03A0026, "win32", ["partition table", "allow_unsafe"]),
        (0xC03A0027, "linux", ["partition"]),
        (0xC03A0028, "linux", ["metadata"]),
    ],
)
def test_remedies(
    code: int, platform: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    remedy = error_from_code(code, "AttachVirtualDisk", "a.vhd").remedy
    assert remedy is not None
    for word in words:
        assert word in remedy


@pytest.mark.parametrize("platform", ["linux", "win32"])
@pytest.mark.parametrize("name", ["a.vhdx", "A.AVHDX"])
def test_access_denied_on_vhdx_speaks_of_the_log(
    name: str, platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    remedy = error_from_code(5, "OpenVirtualDisk", name).remedy or ""
    assert "log" in remedy
    assert ("VHDMP/Operational" in remedy) is (platform == "win32")
    remedy = error_from_code(5, "CreateVirtualDisk", name).remedy or ""
    assert "folder" in remedy
    assert "log" not in remedy
    remedy = error_from_code(5, "CompactVirtualDisk", name).remedy or ""
    assert "without read_only" in remedy
    assert "log" not in remedy


@pytest.mark.skipif(sys.platform == "win32", reason="the engine's code")
def test_a_size_that_no_disk_has(tmp_path: pathlib.Path) -> None:
    """What would be right depends on the function alone."""
    path = tmp_path / "disk.vhdx"
    virtdisk.create(path, 8 << 20).close()
    with virtdisk.open(path) as disk:
        for size in (100, (8 << 20) + 100, (3 << 20) - 512):
            with pytest.raises(virtdisk.VirtualDiskError) as caught:
                disk.resize(size)
            assert caught.value.winerror == 87
            assert "3 MiB" in (caught.value.remedy or "")
            assert "whole sectors" in (caught.value.remedy or "")
    assert error_from_code(87, "AttachVirtualDisk", "a.vhdx").remedy is None


def test_remedies_are_for_known_names_and_one_line() -> None:
    names = {entry.name for entry in ERROR_TABLE.values()}
    tables = (_errors._REMEDIES, _errors._REMEDIES_WINDOWS, _errors._REMEDIES_LINUX)
    for table in tables:
        assert set(table) <= names
        for remedy in table.values():
            assert remedy.strip() == remedy
            assert remedy
            assert "\n" not in remedy
    assert set(_errors._CLASSES) <= names


def test_real_failure_carries_everything(tmp_path: pathlib.Path) -> None:
    missing = tmp_path / "missing.vhd"
    with pytest.raises(FileNotFoundError) as caught:
        virtdisk.open(missing)
    error = caught.value
    assert isinstance(error, virtdisk.ImageNotFoundError)
    assert (error.winerror, error.errno) == (2, errno.ENOENT)
    assert (error.function, error.filename) == ("OpenVirtualDisk", str(missing))
