"""AddVirtualDiskParent, RawSCSIVirtualDisk: what arrives, bit for bit."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import oracle
import pytest
from recorder import Recorder

import virtdisk
from virtdisk import _virtdisk

if TYPE_CHECKING:
    from virtdisk._virtdisk import Handle

PARAMETERS = "RAW_SCSI_VIRTUAL_DISK_PARAMETERS"
RESPONSE = "RAW_SCSI_VIRTUAL_DISK_RESPONSE"


@pytest.mark.parametrize("path", ["C:\\parent.vhdx", "\U0001f4be\ud800", ""])
def test_parent(double: Recorder, disk: Handle, path: str) -> None:
    _virtdisk.AddVirtualDiskParent(disk, path)
    (call,) = double.calls()
    double.assert_call(
        call, "AddVirtualDiskParent", VirtualDiskHandle=disk.value, ParentPath=path
    )


def test_refused_parent(double: Recorder, disk: Handle) -> None:
    double.answer("AddVirtualDiskParent", result=0xC03A000E)
    with pytest.raises(virtdisk.VirtualDiskError) as caught:
        _virtdisk.AddVirtualDiskParent(disk, "C:\\parent.vhdx")
    assert caught.value.winerror == 0xC03A000E
    assert caught.value.filename == "C:\\parent.vhdx"


def expect(
    double: Recorder, disk: Handle, members: Mapping[str, int], **fields: Any
) -> None:
    """The only call, with these members of the structure.

    The addresses in it are those the double has followed.
    """
    (call,) = double.calls()
    given = {"Version": 1, "Version1.SenseInfoLength": 18, **members}
    given["Version1.DataBuffer"] = call["DataBuffer"]
    given["Version1.SenseInfo"] = call["SenseInfo"]
    given["Version1.Cdb"] = call["CdbAddress"]
    defaults = {"Flags": 0, "Data": None, "DataBuffer": call["DataBuffer"]}
    double.assert_call(
        call,
        "RawSCSIVirtualDisk",
        VirtualDiskHandle=disk.value,
        Parameters=oracle.pack(PARAMETERS, given),
        Response=oracle.pack(RESPONSE, {"Version": 1}),
        SenseInfo=call["SenseInfo"],
        CdbAddress=call["CdbAddress"],
        **{**defaults, **fields},
    )


def test_command_without_data(double: Recorder, disk: Handle) -> None:
    assert _virtdisk.RawSCSIVirtualDisk(disk, b"\x00\x01\x02") == (0, b"", 0)
    expect(double, disk, {"Version1.CdbLength": 3}, Cdb=b"\x00\x01\x02", DataBuffer=0)


def test_data_to_the_disk(double: Recorder, disk: Handle) -> None:
    _virtdisk.RawSCSIVirtualDisk(disk, bytes(16), data_out=b"to the disk")
    members = {"Version1.CdbLength": 16, "Version1.DataTransferLength": 11}
    expect(double, disk, members, Cdb=bytes(16), Data=b"to the disk")


def test_data_from_the_disk(double: Recorder, disk: Handle) -> None:
    data = bytearray(513)
    address = ctypes.addressof(ctypes.c_char.from_buffer(data))
    _virtdisk.RawSCSIVirtualDisk(disk, bytes(range(255)), data_in=data)
    members = {
        "Version1.CdbLength": 255,
        "Version1.DataIn": 1,
        "Version1.DataTransferLength": 513,
    }
    expect(double, disk, members, Cdb=bytes(range(255)), DataBuffer=address)
    assert data == b"\x5a" * 513


def test_everything(double: Recorder, disk: Handle) -> None:
    answer = {
        "Version": 1,
        "Version1.ScsiStatus": 0x82,
        "Version1.SenseInfoLength": 200,
        "Version1.DataTransferLength": 0xFFFFFFFE,
    }
    double.answer("RawSCSIVirtualDisk", data=oracle.pack(RESPONSE, answer))
    result = _virtdisk.RawSCSIVirtualDisk(
        disk,
        b"\xff",
        sense_length=255,
        srb_flags=0xFEDCBA98,
        rsvd_handle=True,
        flags=0x80000001,
    )
    assert result == (0x82, b"\x6b" * 200, 0xFFFFFFFE)
    members = {
        "Version1.RSVDHandle": 1,
        "Version1.CdbLength": 1,
        "Version1.SenseInfoLength": 255,
        "Version1.SrbFlags": 0xFEDCBA98,
    }
    expect(
        double,
        disk,
        members,
        Cdb=b"\xff",
        Flags=0x80000001,
        DataBuffer=0,
        Answer=oracle.pack(RESPONSE, answer),
    )


def test_failed_call(double: Recorder, disk: Handle) -> None:
    double.answer("RawSCSIVirtualDisk", result=21)
    with pytest.raises(virtdisk.VirtualDiskError) as caught:
        _virtdisk.RawSCSIVirtualDisk(disk, b"\x00")
    assert caught.value.winerror == 21
    assert caught.value.filename == disk.path
