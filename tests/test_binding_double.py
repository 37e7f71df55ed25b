"""The binding over the double: OPEN and ATTACH, queries, closing, OVERLAPPED."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import select
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from binding_double import (
    ADD_PARENT,
    ALL_PATHS,
    ATTACH,
    CANCEL,
    CLOSE,
    CONVERT,
    CREATE_EVENT,
    DESCRIPTOR,
    DETACH,
    GUID_A,
    GUID_B,
    INFORMATION,
    INSUFFICIENT_BUFFER,
    NO_GUID,
    OPEN,
    PENDING,
    PHYSICAL_PATH,
    PROGRESS,
    RAW_SCSI,
    SUCCESS,
    WAIT,
    Double,
    start,
    thread,
    until,
    utf16,
)
from engine_build import TIMEOUT
from support import LINUX, ROOT

from virtdisk._errors import VirtualDiskError

pytestmark = pytest.mark.skipif(not LINUX, reason="the double is for Linux")

# What arrives at the system.

OPEN_VERSIONS = [
    ({"version": None}, None),
    ({}, struct.pack("<II36x", 1, 1)),
    ({"version": 1, "rw_depth": 7}, struct.pack("<II36x", 1, 7)),
    ({"version": 1, "get_info_only": True, "read_only": True,
      "resiliency_guid": GUID_A, "snapshot_id": GUID_B, "rw_depth": 0},
     struct.pack("<II36x", 1, 0)),
    ({"version": 2}, struct.pack("<I40x", 2)),
    ({"version": 2, "get_info_only": True}, struct.pack("<Iii32x", 2, 1, 0)),
    ({"version": 2, "read_only": True}, struct.pack("<Iii32x", 2, 0, 1)),
    ({"version": 2, "rw_depth": 9, "resiliency_guid": GUID_A, "snapshot_id": GUID_B},
     struct.pack("<Iii16s16x", 2, 0, 0, GUID_A)),
    ({"version": 3, "get_info_only": True, "read_only": True,
      "resiliency_guid": GUID_A, "snapshot_id": GUID_B},
     struct.pack("<Iii16s16s", 3, 1, 1, GUID_A, GUID_B)),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "expected"), OPEN_VERSIONS)
def test_open_parameters(
    double: Double, arguments: dict[str, object], expected: bytes | None
) -> None:
    double.api.OpenVirtualDisk("x", **arguments)
    assert bool(double.recorded.has_open_parameters) == (expected is not None)
    assert bytes(double.recorded.open_parameters) == (expected or bytes(44))


def test_open_scalars(double: Double) -> None:
    double.api.OpenVirtualDisk(
        "x",
        device_id=0xFFFFFFFF,
        vendor_id=bytearray(GUID_B),
        access_mask=0x003F0000,
        flags=0xFFFFFFFF,
    )
    assert double.recorded.device_id == 0xFFFFFFFF
    assert bytes(double.recorded.vendor_id) == GUID_B
    assert double.recorded.access_mask == 0x003F0000
    assert double.recorded.open_flags == 0xFFFFFFFF


def test_open_defaults(double: Double) -> None:
    double.api.OpenVirtualDisk("x")
    assert double.recorded.device_id == 0
    assert bytes(double.recorded.vendor_id) == NO_GUID
    assert double.recorded.access_mask == 0
    assert double.recorded.open_flags == 0


@pytest.mark.parametrize(
    "path", ["", "a", "C:\\é\U0001f600.vhd", "byte \udc80\udcff", "\ufeffbom", "\ud800"]
)
def test_path_as_utf16(double: Double, path: str) -> None:
    handle = double.api.OpenVirtualDisk(path)
    expected = utf16(path)
    assert bytes(double.recorded.path)[: len(expected)] == expected
    assert handle.path == path


ATTACH_VERSIONS = [
    ({"version": None}, None),
    ({}, struct.pack("<I20x", 1)),
    ({"version": 1, "restricted_offset": 1, "restricted_length": 2},
     struct.pack("<I20x", 1)),
    ({"version": 2}, struct.pack("<I20x", 2)),
    ({"version": 2, "restricted_offset": 2**64 - 512, "restricted_length": 2**63},
     struct.pack("<I4xQQ", 2, 2**64 - 512, 2**63)),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "expected"), ATTACH_VERSIONS)
def test_attach_parameters(
    double: Double, arguments: dict[str, object], expected: bytes | None
) -> None:
    double.api.AttachVirtualDisk(double.api.OpenVirtualDisk("x"), **arguments)
    assert bool(double.recorded.has_attach_parameters) == (expected is not None)
    assert bytes(double.recorded.attach_parameters) == (expected or bytes(24))


def test_attach_and_detach_scalars(double: Double) -> None:
    handle = double.api.OpenVirtualDisk("x")
    double.api.AttachVirtualDisk(
        handle, flags=0x80000001, provider_specific_flags=0xFFFFFFFE
    )
    assert double.recorded.attach_flags == 0x80000001
    assert double.recorded.provider_specific_flags == 0xFFFFFFFE
    assert double.recorded.has_descriptor == 0
    double.api.DetachVirtualDisk(handle, flags=5, provider_specific_flags=6)
    assert double.recorded.detach_flags == 5
    assert double.recorded.detach_provider_flags == 6


def test_integers_by_index(double: Double) -> None:
    class Number:
        def __index__(self) -> int:
            return 2

    double.api.OpenVirtualDisk("x", flags=Number(), version=Number())
    assert double.recorded.open_flags == 2
    assert double.recorded.open_parameters[0] == 2


def test_sddl_is_converted_and_freed(double: Double) -> None:
    handle = double.api.OpenVirtualDisk("x")
    double.api.AttachVirtualDisk(handle, security_descriptor="D:")
    assert bytes(double.recorded.descriptor)[:20] == b"\1\0\0\x80".ljust(20, b"\0")
    assert double.recorded.descriptors_freed == 1


def test_bad_sddl(double: Double) -> None:
    handle = double.api.OpenVirtualDisk("x")
    with pytest.raises(VirtualDiskError) as caught:
        double.api.AttachVirtualDisk(handle, security_descriptor="nonsense")
    assert caught.value.winerror == 87
    assert caught.value.function.startswith("ConvertStringSecurityDescriptor")
    assert caught.value.filename == "x"
    assert double.calls(ATTACH) == 0


def test_descriptor_bytes_arrive(double: Double) -> None:
    sid = struct.pack("<BB6sI", 1, 1, b"\0\0\0\0\0\1", 0)
    ace = struct.pack("<BBHI", 0, 0, 8 + len(sid), 0x10000000) + sid
    acl = struct.pack("<BBHHH", 2, 0, 8 + len(ace), 1, 0) + ace
    descriptor = struct.pack("<BBHIIII", 1, 0, 0x8004, 0, 0, 0, 20) + acl
    handle = double.api.OpenVirtualDisk("x")
    double.api.AttachVirtualDisk(handle, security_descriptor=descriptor)
    assert bytes(double.recorded.descriptor)[: len(descriptor)] == descriptor


@pytest.mark.parametrize("path", ["", "C:\\é\U0001f600.vhd", "byte \udc80\udcff"])
def test_parent_path_as_utf16(double: Double, path: str) -> None:
    double.api.AddVirtualDiskParent(double.api.OpenVirtualDisk("x"), path)
    expected = utf16(path)
    assert bytes(double.recorded.parent_path)[: len(expected)] == expected


def test_parent_error_names_the_parent(double: Double) -> None:
    handle = double.api.OpenVirtualDisk("the image")
    double.answer(ADD_PARENT, 0xC03A000E)
    with pytest.raises(VirtualDiskError) as caught:
        double.api.AddVirtualDiskParent(handle, path="the parent")
    assert caught.value.filename == "the parent"


def test_scsi_defaults(double: Double) -> None:
    handle = double.api.OpenVirtualDisk("x")
    assert double.api.RawSCSIVirtualDisk(handle, b"\1\2\3") == (0, b"", 0)
    recorded = double.recorded
    assert bytes(recorded.cdb)[:4] == b"\1\2\3\0"
    assert recorded.scsi_version == 1
    assert recorded.cdb_length == 3
    assert recorded.sense_length == 18
    assert recorded.data_length == recorded.data_in == 0
    assert recorded.rsvd_handle == recorded.srb_flags == recorded.scsi_flags == 0


def test_scsi_scalars(double: Double) -> None:
    double.api.RawSCSIVirtualDisk(
        double.api.OpenVirtualDisk("x"),
        memoryview(bytes(range(255))),
        data_out=bytearray(b"to the disk"),
        sense_length=255,
        srb_flags=0xFFFFFFFE,
        rsvd_handle=True,
        version=1,
        flags=0x80000001,
    )
    recorded = double.recorded
    assert bytes(recorded.cdb) == bytes(range(255))
    assert recorded.cdb_length == recorded.sense_length == 255
    assert recorded.srb_flags == 0xFFFFFFFE
    assert recorded.scsi_flags == 0x80000001
    assert recorded.rsvd_handle == 1
    assert (recorded.data_in, recorded.data_length) == (0, 11)
    assert bytes(recorded.data)[:12] == b"to the disk\0"


def test_scsi_answer(double: Double) -> None:
    """Status, sense and count are the system's; the data is in the buffer."""
    handle = double.api.OpenVirtualDisk("x")
    double.output(b"from the disk")
    double.scsi.status = 2
    double.scsi.sense[:] = list(range(255))
    double.scsi.sense_length = 18
    double.scsi.transferred = 0xFFFFFFFF
    data = bytearray(16)
    answer = double.api.RawSCSIVirtualDisk(handle, b"\0", data_in=data)
    assert answer == (2, bytes(range(18)), 0xFFFFFFFF)
    assert data == b"from the disk\0\0\0"
    assert (double.recorded.data_in, double.recorded.data_length) == (1, 16)
    # One that tells of more sense than it was given room for.
    answer = double.api.RawSCSIVirtualDisk(handle, b"\0", sense_length=4)
    assert answer[1] == bytes(range(4))
    assert double.api.RawSCSIVirtualDisk(handle, b"\0", sense_length=0)[1] == b""
    view = memoryview(bytearray(10))[2:6]
    double.api.RawSCSIVirtualDisk(handle, b"\0", data_in=view)
    assert bytes(view.obj) == b"\0\0from\0\0\0\0"


def test_scsi_buffers_are_held(double: Double) -> None:
    """Data cannot be resized under the call; it can after it, failed or not."""
    handle = double.api.OpenVirtualDisk("x")
    data, cdb = bytearray(8), bytearray(6)
    double.output(b"a" * 8)

    def call() -> None:
        double.api.RawSCSIVirtualDisk(handle, cdb, data_in=data)

    with double.inside_of(RAW_SCSI, call):
        with pytest.raises(BufferError):
            data.clear()
        cdb.clear()  # it was copied
        del cdb[:]
    assert data == b"a" * 8
    data.clear()
    for arguments in ({"data_out": 1}, {"flags": -1}, {"data_out": data}):
        data, cdb = bytearray(8), bytearray(6)
        with contextlib.suppress(TypeError, OverflowError, ValueError):
            double.api.RawSCSIVirtualDisk(handle, cdb, data_in=data, **arguments)
        data.clear()
        cdb.clear()
    double.answer(RAW_SCSI, 21)
    data = bytearray(8)
    with pytest.raises(VirtualDiskError):
        double.api.RawSCSIVirtualDisk(handle, b"\0", data_in=data)
    data.clear()


SCSI_MISUSE: list[tuple[type[Exception], str, tuple[object, ...], dict[str, object]]]
SCSI_MISUSE = [
    (TypeError, "cdb must be a bytes-like object, not str", ("0",), {}),
    (ValueError, "cdb must have at most 255 bytes", (bytes(256),), {}),
    (TypeError, "data_in must be a bytes-like object, not int", (b"0",),
     {"data_in": 512}),
    (TypeError, "data_out must be a bytes-like object, not str", (b"0",),
     {"data_out": "x"}),
    (BufferError, "writable", (b"0",), {"data_in": b"constant"}),
    (ValueError, "one way", (b"0",), {"data_in": bytearray(), "data_out": b""}),
    (OverflowError, "sense_length must be from 0 to 255", (b"0",),
     {"sense_length": 256}),
    (OverflowError, "sense_length must be", (b"0",), {"sense_length": -1}),
    (TypeError, "sense_length must be int", (b"0",), {"sense_length": None}),
    (ValueError, "version must be 1, not 2", (b"0",), {"version": 2}),
    (ValueError, "version must be 1, not None", (b"0",), {"version": None}),
    (BufferError, "contiguous", (b"0",),
     {"data_out": memoryview(bytes(8))[::2]}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text", "positional", "keywords"), SCSI_MISUSE)
def test_scsi_misuse(
    double: Double,
    kind: type[Exception],
    text: str,
    positional: tuple[object, ...],
    keywords: dict[str, object],
) -> None:
    handle = double.api.OpenVirtualDisk("x")
    with pytest.raises(kind, match=text):
        double.api.RawSCSIVirtualDisk(handle, *positional, **keywords)
    assert double.calls(RAW_SCSI) == 0


# What comes back.


@pytest.mark.parametrize("code", [2, 32, 122, 1314, 0xC03A0014, 0xFFFFFFFF])
@pytest.mark.parametrize(
    ("function", "name", "call"),
    [
        (ATTACH, "AttachVirtualDisk", lambda d, h: d.AttachVirtualDisk(h)),
        (DETACH, "DetachVirtualDisk", lambda d, h: d.DetachVirtualDisk(h)),
        (PHYSICAL_PATH, "GetVirtualDiskPhysicalPath",
         lambda d, h: d.GetVirtualDiskPhysicalPath(h)),
        (INFORMATION, "GetVirtualDiskInformation",
         lambda d, h: d.GetVirtualDiskInformation(h, 1)),
        (RAW_SCSI, "RawSCSIVirtualDisk", lambda d, h: d.RawSCSIVirtualDisk(h, b"0")),
        (CLOSE, "CloseHandle", lambda d, h: h.close()),
    ],
)  # fmt: skip
def test_codes_become_errors(
    double: Double,
    function: int,
    name: str,
    call: Callable[[Any, Any], object],
    code: int,
) -> None:
    handle = double.api.OpenVirtualDisk("the image")
    double.answer(function, code)
    with pytest.raises(VirtualDiskError) as caught:
        call(double.api, handle)
    assert caught.value.winerror == code
    assert caught.value.function == name
    assert caught.value.filename == "the image"


def test_open_and_list_errors(double: Double) -> None:
    double.answer(OPEN, 1392)
    with pytest.raises(VirtualDiskError) as caught:
        double.api.OpenVirtualDisk("the image")
    assert (caught.value.winerror, caught.value.filename) == (1392, "the image")
    double.answer(ALL_PATHS, 5)
    with pytest.raises(VirtualDiskError) as caught:
        double.api.GetAllAttachedVirtualDiskPhysicalPaths()
    assert (caught.value.winerror, caught.value.filename) == (5, None)
    double.answer(CREATE_EVENT, 1450)
    with pytest.raises(VirtualDiskError) as caught:
        double.api.Overlapped()
    assert (caught.value.winerror, caught.value.function) == (1450, "CreateEventW")


@pytest.mark.parametrize(
    "text", ["/dev/loop0", "\\\\.\\PhysicalDrive1", "é\U0001f600\udc80", "", "x" * 5000]
)
def test_physical_path(double: Double, text: str) -> None:
    double.output(utf16(text))
    handle = double.api.OpenVirtualDisk("x")
    assert double.api.GetVirtualDiskPhysicalPath(handle) == text


def test_physical_path_ends_at_its_nul(double: Double) -> None:
    double.output(utf16("/dev/loop0", "left over"))
    handle = double.api.OpenVirtualDisk("x")
    assert double.api.GetVirtualDiskPhysicalPath(handle) == "/dev/loop0"


@pytest.mark.parametrize(
    "paths",
    [[], ["a"], ["a", "b\udc80", "\ufeffc"], [f"/images/{n}.vhd" for n in range(999)]],
)
def test_list_of_paths(double: Double, paths: list[str]) -> None:
    double.output(utf16(*paths) + b"\0\0")
    assert double.api.GetAllAttachedVirtualDiskPhysicalPaths() == paths


def test_list_without_its_end(double: Double) -> None:
    """A system that forgets the last NUL makes nothing worse."""
    double.output(utf16("a", "b")[:-2])
    assert double.api.GetAllAttachedVirtualDiskPhysicalPaths() == ["a", "b"]


def test_list_that_fills_its_buffer(double: Double) -> None:
    double.output("x".encode("utf-16-le") * 64)
    assert double.api.GetAllAttachedVirtualDiskPhysicalPaths() == ["x" * 64]


def test_list_grows_from_call_to_call(double: Double) -> None:
    double.output(utf16("a" * 100, "b") + b"\0\0", growth=700)
    assert double.api.GetAllAttachedVirtualDiskPhysicalPaths() == ["a" * 100, "b"]
    assert double.calls(ALL_PATHS) >= 3


def test_list_that_grows_for_ever(double: Double) -> None:
    double.answer(ALL_PATHS, INSUFFICIENT_BUFFER)
    with pytest.raises(VirtualDiskError) as caught:
        double.api.GetAllAttachedVirtualDiskPhysicalPaths()
    assert caught.value.winerror == INSUFFICIENT_BUFFER
    assert double.calls(ALL_PATHS) < 30
    assert 1 << 20 <= double.recorded.largest_query <= 64 << 20


INFORMATION_CLASSES: list[tuple[int, bytes, object]] = [
    (1, struct.pack("<QQII", 2**63 + 1, 3, 2**31, 512), (2**63 + 1, 3, 2**31, 512)),
    (2, GUID_A, GUID_A),
    (3, struct.pack("<i", 1) + utf16("C:\\p", "rubbish"), (True, ["C:\\p"])),
    (
        3,
        struct.pack("<i", 0) + utf16("..\\p", "D:\\p", ""),
        (False, ["..\\p", "D:\\p"]),
    ),
    (3, struct.pack("<i", 0) + utf16(""), (False, [])),
    (3, struct.pack("<i", 1) + utf16("q" * 9999), (True, ["q" * 9999])),
    (4, GUID_B, GUID_B),
    (5, struct.pack("<I", 2**32 - 1), 2**32 - 1),
    (6, struct.pack("<I", 3) + GUID_B, (3, GUID_B)),
    (7, struct.pack("<I", 4), 4),
    (8, struct.pack("<i", 1), True),
    (8, struct.pack("<i", 0), False),
    (9, struct.pack("<IIi", 512, 4096, 1), (512, 4096, True)),
    (10, struct.pack("<I", 4096), 4096),
    (11, struct.pack("<Q", 2**64 - 1), 2**64 - 1),
    (12, struct.pack("<I", 100), 100),
    (13, struct.pack("<i", 2), True),
    (14, GUID_A, GUID_A),
    (15, struct.pack("<ii", 1, 0) + utf16("id-\udc80"), (True, False, "id-\udc80")),
    (15, struct.pack("<ii", 0, 1) + utf16("i" * 300), (False, True, "i" * 300)),
]


@pytest.mark.parametrize(("version", "union", "expected"), INFORMATION_CLASSES)
def test_information(
    double: Double, version: int, union: bytes, expected: object
) -> None:
    double.output(union)
    handle = double.api.OpenVirtualDisk("x")
    value = double.api.GetVirtualDiskInformation(handle, version)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize("version", [0, 16, 2**32 - 1])
def test_information_that_only_the_system_knows(double: Double, version: int) -> None:
    handle = double.api.OpenVirtualDisk("x")
    with pytest.raises(ValueError, match=str(version)):
        double.api.GetVirtualDiskInformation(handle, version)
    assert double.calls(INFORMATION) == 1


# Closing while a call is running.

BLOCKING: list[tuple[int, Callable[[Any, Any], object]]] = [
    (ATTACH, lambda api, h: api.AttachVirtualDisk(h)),
    (DETACH, lambda api, h: api.DetachVirtualDisk(h)),
    (PHYSICAL_PATH, lambda api, h: api.GetVirtualDiskPhysicalPath(h)),
    (INFORMATION, lambda api, h: api.GetVirtualDiskInformation(h, 13)),
]


@pytest.mark.parametrize(("function", "call"), BLOCKING)
def test_close_while_another_thread_is_inside(
    double: Double, function: int, call: Callable[[Any, Any], object]
) -> None:
    double.output(bytes(8))
    handle = double.api.OpenVirtualDisk("x")
    before = double.disks_open()
    with double.inside_of(function, lambda: call(double.api, handle)) as raised:
        handle.close()
        assert handle.closed
        assert double.disks_open() == before
        with pytest.raises(ValueError, match="closed"):
            call(double.api, handle)
        handle.close()
    assert raised == []
    assert double.disks_open() == before - 1
    assert double.calls(CLOSE) == 1


@pytest.mark.parametrize(
    ("function", "call"),
    [
        *BLOCKING,
        (OPEN, lambda api, h: api.OpenVirtualDisk("y")),
        (ALL_PATHS, lambda api, h: api.GetAllAttachedVirtualDiskPhysicalPaths()),
        (CONVERT, lambda api, h: api.AttachVirtualDisk(h, security_descriptor="D:")),
        (CLOSE, lambda api, h: h.close()),
    ],
)
def test_gil_is_released(
    double: Double, function: int, call: Callable[[Any, Any], object]
) -> None:
    """This thread goes on while the other is held inside the call."""
    double.output(bytes(8))
    handle = double.api.OpenVirtualDisk("x")
    with double.inside_of(function, lambda: call(double.api, handle)) as raised:
        assert raised == []
    assert raised == []


def test_drop_releases_the_gil(double: Double) -> None:
    handles = [double.api.OpenVirtualDisk("x")]
    with double.inside_of(CLOSE, handles.clear) as raised:
        assert raised == []
    assert raised == []


def test_drop_while_an_exception_is_raised(double: Double) -> None:
    def leave() -> None:
        handle = double.api.OpenVirtualDisk("x")
        double.answer(CLOSE, 6)
        raise KeyError(handle.path)

    with pytest.raises(KeyError, match="x"):
        leave()
    gc.collect()
    assert double.calls(CLOSE) == 1


def test_threads_share_a_handle(double: Double) -> None:
    double.output(utf16("/dev/loop0"))
    handle = double.api.OpenVirtualDisk("x")
    results: list[object] = []

    def work() -> None:
        with contextlib.suppress(ValueError):
            while True:
                results.append(double.api.GetVirtualDiskPhysicalPath(handle))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for other in threads:
        other.start()
    until(lambda: len(results) > 100)
    handle.close()
    for other in threads:
        other.join(30)
    assert set(results) == {"/dev/loop0"}
    assert double.calls(CLOSE) == 1


# OVERLAPPED.


def test_operation_succeeds(double: Double) -> None:
    _, overlapped = start(double)
    assert overlapped.pending
    assert overlapped.wait(0) is False
    assert overlapped.wait(0.02) is False
    assert overlapped.progress() == (PENDING, 3, 0x100000007)
    double.complete(SUCCESS)
    assert overlapped.wait(0) is True
    assert overlapped.wait() is True
    assert not overlapped.pending
    assert overlapped.result() is None
    assert overlapped.result() is None
    assert overlapped.progress() == (SUCCESS, 3, 0x100000007)


def test_operation_fails(double: Double) -> None:
    _, overlapped = start(double)
    double.complete(112)
    for _ in range(2):
        with pytest.raises(VirtualDiskError) as caught:
            overlapped.result()
        assert caught.value.winerror == 112
        assert caught.value.function == "AttachVirtualDisk"
        assert caught.value.filename == "the image"
    assert overlapped.progress() == (112, 0, 0)


def test_operation_refused_at_once(double: Double) -> None:
    handle = double.api.OpenVirtualDisk("x")
    overlapped = double.api.Overlapped()
    double.answer(ATTACH, 87)
    with pytest.raises(VirtualDiskError) as caught:
        double.api.AttachVirtualDisk(handle, overlapped=overlapped)
    assert caught.value.winerror == 87
    assert not overlapped.pending
    with pytest.raises(ValueError, match="started"):
        overlapped.result()


def test_operation_done_at_once(double: Double) -> None:
    handle = double.api.OpenVirtualDisk("x")
    overlapped = double.api.Overlapped()
    double.api.AttachVirtualDisk(handle, overlapped=overlapped)
    assert not overlapped.pending
    assert overlapped.wait(0) is True
    assert overlapped.result() is None
    assert overlapped.progress() == (SUCCESS, 0, 0)
    handle.close()
    assert double.calls(CLOSE) == 1


def test_pending_without_overlapped_is_an_error(double: Double) -> None:
    handle = double.api.OpenVirtualDisk("x")
    double.answer(ATTACH, PENDING)
    with pytest.raises(VirtualDiskError) as caught:
        double.api.AttachVirtualDisk(handle)
    assert caught.value.winerror == PENDING


def test_result_while_pending(double: Double) -> None:
    _, overlapped = start(double)
    with pytest.raises(VirtualDiskError) as caught:
        overlapped.result()
    assert caught.value.winerror == 996
    assert isinstance(caught.value, BlockingIOError)
    assert overlapped.pending


@pytest.mark.parametrize(
    "call",
    [
        lambda overlapped: overlapped.wait(),
        lambda overlapped: overlapped.wait(0),
        lambda overlapped: overlapped.result(),
        lambda overlapped: overlapped.progress(),
        lambda overlapped: overlapped.cancel(),
    ],
    ids=["wait", "wait 0", "result", "progress", "cancel"],
)
def test_never_started(double: Double, call: Callable[[Any], object]) -> None:
    overlapped = double.api.Overlapped()
    assert not overlapped.pending
    with pytest.raises(ValueError, match="no operation was started"):
        call(overlapped)


def test_cancel(double: Double) -> None:
    _, overlapped = start(double)
    overlapped.cancel()
    assert overlapped.wait(30)
    with pytest.raises(VirtualDiskError) as caught:
        overlapped.result()
    assert caught.value.winerror == 995
    overlapped.cancel()
    assert double.calls(CANCEL) == 1


def test_cancel_too_late(double: Double) -> None:
    """Complete, but this side has not noticed: the system says 1168."""
    _, overlapped = start(double)
    double.complete(SUCCESS)
    overlapped.cancel()
    assert double.calls(CANCEL) == 1
    assert overlapped.result() is None


def test_cancel_refused(double: Double) -> None:
    _, overlapped = start(double)
    double.answer(CANCEL, 50)
    with pytest.raises(VirtualDiskError) as caught:
        overlapped.cancel()
    assert (caught.value.winerror, caught.value.function) == (50, "CancelIoEx")
    assert overlapped.pending
    double.answer(CANCEL, SUCCESS)


def test_progress_refused(double: Double) -> None:
    _, overlapped = start(double)
    double.answer(PROGRESS, 6)
    with pytest.raises(VirtualDiskError) as caught:
        overlapped.progress()
    assert caught.value.winerror == 6
    assert caught.value.function == "GetVirtualDiskOperationProgress"


def test_progress_that_the_system_has_forgotten(double: Double) -> None:
    """It is over, though nobody has asked yet."""
    _, overlapped = start(double)
    assert overlapped.progress() == (PENDING, 3, 0x100000007)
    double.complete(5)
    double.answer(PROGRESS, 87)
    assert overlapped.progress() == (5, 3, 0x100000007)


def test_progress_never_goes_back(double: Double) -> None:
    """As a fraction: the system may change what it counts, and count nothing."""
    _, overlapped = start(double)
    big = 2**64 - 1
    for told, expected in (
        ((0, 0), (0, 0)),
        ((5, 0), (0, 0)),
        ((0, 9), (0, 9)),
        ((3, 8), (3, 8)),
        ((2, 8), (3, 8)),  # less
        ((0, 0), (3, 8)),  # nothing
        ((30, 100), (3, 8)),  # less, of more
        ((6, 16), (6, 16)),  # the same
        ((4, 8), (4, 8)),
        ((big // 2, big), (4, 8)),  # less by one part in 2**65
        ((big // 2 + 1, big), (big // 2 + 1, big)),  # more by as little
        ((big // 2, big - 1), (big // 2 + 1, big)),
        ((big - 2, big - 1), (big - 2, big - 1)),
        ((big - 1, big), (big - 1, big)),
        ((big, big), (big, big)),
        ((7, 8), (big, big)),
        ((1, 1), (1, 1)),
        ((3, 2), (3, 2)),  # nonsense is passed on
        ((4, 3), (3, 2)),
    ):
        double.progress.current, double.progress.completion = told
        assert overlapped.progress() == (PENDING, *expected)
    double.complete(SUCCESS)
    assert overlapped.wait(30)
    assert overlapped.progress() == (SUCCESS, 3, 2)


def test_progress_starts_anew(double: Double) -> None:
    handle, overlapped = start(double)
    assert overlapped.progress() == (PENDING, 3, 0x100000007)
    double.complete(SUCCESS)
    double.answer(ATTACH, PENDING)
    double.api.AttachVirtualDisk(handle, overlapped=overlapped)
    double.progress.current = 1
    assert overlapped.progress() == (PENDING, 1, 0x100000007)


def test_fileno(double: Double) -> None:
    """One descriptor, readable when, and as long as, the operation is over."""
    handle, overlapped = start(double)
    poll = select.poll()
    poll.register(overlapped, select.POLLIN)
    assert poll.poll(0) == []
    double.complete(SUCCESS)
    assert poll.poll(30_000) == [(overlapped.fileno(), select.POLLIN)]
    assert overlapped.wait(0)
    assert poll.poll(0) == [(overlapped.fileno(), select.POLLIN)]
    double.answer(ATTACH, PENDING)
    double.api.AttachVirtualDisk(handle, overlapped=overlapped)
    assert poll.poll(0) == []
    double.complete(SUCCESS)
    double.answer(DESCRIPTOR, 6)
    with pytest.raises(VirtualDiskError) as caught:
        overlapped.fileno()
    assert (caught.value.winerror, caught.value.function) == (6, "GetEventDescriptor")


def test_fileno_of_an_operation_done_at_once(double: Double) -> None:
    overlapped = double.api.Overlapped()
    assert select.select([overlapped], [], [], 0) == ([], [], [])
    double.api.AttachVirtualDisk(double.api.OpenVirtualDisk("x"), overlapped=overlapped)
    assert select.select([overlapped], [], [], 0) == ([overlapped], [], [])


def test_wait_refused(double: Double) -> None:
    _, overlapped = start(double)
    double.answer(WAIT, 6)
    with pytest.raises(VirtualDiskError) as caught:
        overlapped.wait()
    assert (caught.value.winerror, caught.value.function) == (6, "WaitForSingleObject")
    double.answer(WAIT, SUCCESS)


def test_reuse(double: Double) -> None:
    handle, overlapped = start(double)
    event = overlapped.event
    with pytest.raises(ValueError, match="in use"):
        double.api.AttachVirtualDisk(handle, overlapped=overlapped)
    assert double.calls(ATTACH) == 1
    double.complete(87)
    double.answer(ATTACH, PENDING)
    double.api.AttachVirtualDisk(handle, overlapped=overlapped)
    assert overlapped.pending
    assert overlapped.event == event
    assert overlapped.wait(0) is False
    double.complete(SUCCESS)
    assert overlapped.result() is None


def test_reuse_while_another_thread_asks(double: Double) -> None:
    handle, overlapped = start(double)
    with double.inside_of(PROGRESS, overlapped.progress) as raised:
        double.complete(SUCCESS)
        assert not overlapped.pending
        with pytest.raises(ValueError, match="in use"):
            double.api.AttachVirtualDisk(handle, overlapped=overlapped)
        handle.close()
        assert double.calls(CLOSE) == 0
    assert raised == []
    assert double.calls(CLOSE) == 1


def test_waiting_thread_sees_its_own_operation(double: Double) -> None:
    handle, overlapped = start(double)
    with thread(overlapped.wait) as raised:
        until(lambda: double.calls(WAIT))
        double.complete(SUCCESS)
        double.answer(ATTACH, PENDING)
        double.api.AttachVirtualDisk(handle, overlapped=overlapped)
    assert raised == []
    assert overlapped.pending


def test_two_threads_start(double: Double) -> None:
    """One Overlapped carries one call, whoever is first."""
    handle = double.api.OpenVirtualDisk("x")
    overlapped = double.api.Overlapped()

    def attach() -> None:
        double.api.AttachVirtualDisk(handle, overlapped=overlapped)

    double.answer(ATTACH, PENDING)
    with double.inside_of(ATTACH, attach) as raised:
        assert overlapped.pending
        assert overlapped.wait(0.02) is False
        assert overlapped.progress() == (PENDING, 0, 0)
        with pytest.raises(ValueError, match="being started"):
            overlapped.cancel()
        with pytest.raises(ValueError, match="in use"):
            attach()
    assert raised == []
    assert overlapped.pending
    double.complete(SUCCESS)
    assert overlapped.result() is None


def test_handle_closed_while_pending(double: Double) -> None:
    handle, overlapped = start(double)
    handle.close()
    assert double.calls(CLOSE) == 0
    double.complete(SUCCESS)
    assert overlapped.wait(30)
    assert double.calls(CLOSE) == 1
    assert overlapped.result() is None


def test_handle_is_let_go_at_the_end(double: Double) -> None:
    handle, overlapped = start(double)
    del handle
    gc.collect()
    assert double.calls(CLOSE) == 0
    double.complete(SUCCESS)
    assert not overlapped.pending
    assert double.calls(CLOSE) == 1


def test_memory_is_kept_until_the_end(double: Double) -> None:
    """The descriptor of a pending call is not the one that was freed."""
    handle, overlapped = start(
        double, security_descriptor="D:", version=2, restricted_offset=512
    )
    assert double.recorded.descriptors_freed == 1  # the converted one, copied
    double.complete(SUCCESS)
    assert overlapped.result() is None
    assert bytes(double.recorded.descriptor)[:1] == b"\1"
    handle.close()


def test_drop_while_pending(double: Double) -> None:
    handle, overlapped = start(double)
    waits = double.calls(WAIT)
    del overlapped
    gc.collect()
    assert double.calls(CANCEL) == 1
    assert double.calls(WAIT) == waits + 1
    handle.close()
    assert double.calls(CLOSE) == 1


def test_drop_waits_for_what_cannot_be_cancelled(double: Double) -> None:
    handle, overlapped = start(double)
    double.cancellable(0)
    box = [overlapped]
    del overlapped
    with thread(box.clear) as raised:
        until(lambda: double.calls(WAIT))
        assert double.calls(CANCEL) == 1
        double.complete(SUCCESS)
    assert raised == []
    handle.close()


def test_drop_leaks_what_cannot_be_awaited(double: Double) -> None:
    """Memory that the system may still write to is never freed."""
    handle, overlapped = start(double)
    double.cancellable(0)
    double.answer(WAIT, 6)
    events, disks = double.events_open(), double.disks_open()
    del overlapped
    gc.collect()
    handle.close()
    del handle
    gc.collect()
    assert double.events_open() == events
    assert double.disks_open() == disks
    double.complete(SUCCESS)  # writes there: a freed OVERLAPPED would be damaged
    double.forget()  # leaked for good: not for the fixture to find


def test_event_signalled_by_mistake(double: Double) -> None:
    """The event alone does not make an operation complete."""
    _, overlapped = start(double)
    double.library.double_signal(ctypes.c_void_p(overlapped.event))
    assert overlapped.pending
    double.complete(SUCCESS)
    assert not overlapped.pending


@pytest.mark.parametrize("timeout", ["1", b"", object()])
def test_timeout_of_the_wrong_type(double: Double, timeout: object) -> None:
    _, overlapped = start(double)
    with pytest.raises(TypeError):
        overlapped.wait(timeout)


def test_timeout_values(double: Double) -> None:
    _, overlapped = start(double)
    with pytest.raises(ValueError, match="timeout"):
        overlapped.wait(float("nan"))
    assert overlapped.wait(-1) is False
    assert overlapped.wait(timeout=1e-9) is False
    double.complete(SUCCESS)
    assert overlapped.wait(float("inf")) is True


def test_wait_is_interrupted_by_a_signal(double: Double) -> None:
    _, overlapped = start(double)

    class Interrupted(Exception):
        pass

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    main = threading.main_thread().ident
    assert main is not None

    def send() -> None:
        until(lambda: double.calls(WAIT))
        signal.pthread_kill(main, signal.SIGUSR1)

    try:
        with thread(send), pytest.raises(Interrupted):
            overlapped.wait()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert overlapped.pending


EXIT = """
import json, sys
sys.path.insert(0, {library!r})
import pathlib, binding_double as t
d = t.Double(t.load(pathlib.Path({module!r})))
handle, overlapped = t.start(d)
d.report()
"""


WAITING = """
import threading
def wait():
    with d.api.OpenVirtualDisk("y") as other:
        overlapped.wait()
threading.Thread(target=wait, daemon=True).start()
t.until(lambda: d.calls(t.WAIT))
"""


def exit_of(built: Double, program: str) -> object:
    """Runs a program in an interpreter of its own; what was called at the end."""
    program = program.format(
        library=str(ROOT / "tests/lib"),
        module=built.api.__file__,
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_interpreter_exit_while_pending(built: Double) -> None:
    """At the end of the interpreter the operation is cancelled and awaited."""
    assert exit_of(built, EXIT) == {"cancel": 1, "close": 1, "wait": 1}


def test_interpreter_exit_while_a_thread_waits(built: Double) -> None:
    """That thread is never resumed: what it uses is left alone, not freed."""
    called = exit_of(built, EXIT + WAITING)
    assert isinstance(called, dict)
    assert (called["cancel"], called["close"]) == (0, 0)
