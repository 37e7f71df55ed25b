"""The Python face on top: what an image, a disk or a file stands on."""

from __future__ import annotations

import pathlib
import uuid
from typing import Any

import oracle
import pytest
from recorder import Recorder, handle_is_open

import virtdisk

ID = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")
INFO = "STORAGE_DEPENDENCY_INFO"
HEAD, ENTRY = 8, 64  # bytes
VOLUME = "\\\\?\\Volume{00112233-4455-6677-8899-aabbccddeeff}\\"


def utf16(*strings: str) -> bytes:
    """NUL-terminated strings, one after the other."""
    return "".join(f"{string}\0" for string in strings).encode("utf-16-le")


def make_answer(levels: list[int]) -> bytes:
    """Entries of version 2; places of texts count from the start."""
    text = HEAD + ENTRY * len(levels)
    path = text + len(utf16(VOLUME))
    entries = b"".join(
        oracle.pack(
            f"{INFO}_TYPE_2",
            {
                "DependencyTypeFlags": 0x404,
                "VirtualStorageType.DeviceId": 3,
                "VirtualStorageType.VendorId": ID.bytes_le,
                "AncestorLevel": level,
                "HostVolumeName": text,
                "DependentVolumeRelativePath": path,
            },
        )
        for level in levels
    )
    head = oracle.pack(INFO, {"Version": 2, "NumberEntries": len(levels)})[:HEAD]
    return head + entries + utf16(VOLUME, "\\images\\a.vhdx")


@pytest.mark.parametrize(
    ("path", "hosted", "flags"),
    [
        ("P:\\python.exe", False, 1),
        ("P:\\python.exe", True, 0),
        (r"\\.\PhysicalDrive0", False, 3),
        (r"\\.\PhysicalDrive0", True, 2),
    ],
)
def test_dependencies(double: Recorder, path: str, hosted: bool, flags: int) -> None:
    double.answer("GetStorageDependencyInformation", data=make_answer([2, 1]))
    first, second = virtdisk.dependencies(path, hosted=hosted)
    assert {call["Flags"] for call in double.calls()} == {flags}
    assert (first.level, second.level) == (1, 2)
    assert first.path == f"{VOLUME}images\\a.vhdx"
    assert first.storage_type is virtdisk.StorageType.VHDX
    assert first.vendor_id == ID
    assert int(first.flags) == 0x404
    assert (first.device, first.dependent_volume) == (None, None)


@pytest.mark.parametrize("code", [1, 0xC03A0015])
def test_what_stands_on_none(double: Recorder, code: int) -> None:
    double.answer("GetStorageDependencyInformation", result=code)
    assert virtdisk.dependencies("P:\\python.exe") == []


def describe(double: Recorder, parent: pathlib.Path | None) -> None:
    """What the system says of the next image that is asked about."""
    infos: dict[int, dict[str, Any]] = {
        1: {"Size.VirtualSize": 1 << 30, "Size.SectorSize": 512},
        6: {"VirtualStorageType.DeviceId": 3},
        7: {"ProviderSubtype": 3 if parent is None else 4},
    }
    if parent is not None:
        infos[3] = {
            "ParentLocation.ParentResolved": 1,
            "ParentLocation.ParentLocationBuffer": utf16(str(parent)),
        }
        infos[4] = {"ParentIdentifier": ID.bytes_le}
    for version in range(1, 16):
        if version in infos:
            members = {"Version": version, **infos[version]}
            data = oracle.pack("GET_VIRTUAL_DISK_INFO", members)
            double.answer("GetVirtualDiskInformation", when=version, data=data)
        else:
            double.answer("GetVirtualDiskInformation", when=version, result=0xC03A001B)


def test_chain(double: Recorder, tmp_path: pathlib.Path) -> None:
    child, parent = tmp_path / "child.vhdx", tmp_path / "parent.vhdx"
    for image in (child, parent):
        image.write_bytes(b"vhdxfile".ljust(65536, b"\0"))
    describe(double, parent)
    describe(double, None)
    links = virtdisk.chain(child)
    assert [link.path for link in links] == [str(child), str(parent)]
    assert [link.error for link in links] == [None, None]
    assert links[1].info.parent is None
    opened = double.calls("OpenVirtualDisk")
    for call in opened:
        # GetInfoOnly of version 2.
        assert bytes.fromhex(call["Parameters"])[:8] == b"\2\0\0\0\1\0\0\0"
        assert not handle_is_open(call["Handle"])
    assert [call["Path"] for call in opened] == [str(child), str(parent)]


def test_a_broken_chain(double: Recorder, tmp_path: pathlib.Path) -> None:
    child, parent = tmp_path / "child.vhdx", tmp_path / "gone.vhdx"
    child.write_bytes(b"vhdxfile".ljust(65536, b"\0"))
    double.answer("OpenVirtualDisk", result=0xC03A000D)
    double.answer("OpenVirtualDisk")
    describe(double, parent)
    (link,) = virtdisk.chain(child)
    assert link.error is not None
    assert link.error.winerror == 0xC03A000D
    assert [call["Flags"] for call in double.calls("OpenVirtualDisk")] == [0, 1]
