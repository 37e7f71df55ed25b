"""The Python face on top: versions, masks and flags for each kind of image."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import uuid
from collections.abc import Callable
from typing import Any

import oracle
import pytest
from recorder import Recorder, Value, handle_is_open

import virtdisk

MICROSOFT = uuid.UUID("ec984aec-a0f9-47e9-901f-71415a66345b").bytes_le
ID = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")
ISO, VHD, VHDX = 1, 2, 3


def make_iso(path: pathlib.Path) -> pathlib.Path:
    """What shows that a file is an ISO image."""
    path.write_bytes(bytes(32768) + b"\1CD001\1".ljust(4096, b"\0"))
    return path


def make_vhd(path: pathlib.Path) -> pathlib.Path:
    """What shows that a file is a VHD."""
    path.write_bytes(bytes(4096) + b"conectix".ljust(512, b"\0"))
    return path


def make_vhdx(path: pathlib.Path) -> pathlib.Path:
    """What shows that a file is a VHDX."""
    path.write_bytes(b"vhdxfile".ljust(65536, b"\0"))
    return path


KINDS: list[tuple[int, Callable[[pathlib.Path], pathlib.Path]]] = [
    (ISO, make_iso),
    (VHD, make_vhd),
    (VHDX, make_vhdx),
]
DISKS = KINDS[1:]


def open_parameters(call: dict[str, Any], **members: int) -> bytes:
    """OPEN_VIRTUAL_DISK_PARAMETERS of version 2 with a call's own GUID."""
    given = bytes.fromhex(call["Parameters"])
    resiliency = given[12:28]
    assert any(resiliency)
    return oracle.pack(
        "OPEN_VIRTUAL_DISK_PARAMETERS",
        {
            "Version": 2,
            "Version2.ResiliencyGuid": resiliency,
            **{f"Version2.{name}": value for name, value in members.items()},
        },
    )


def assert_open(
    double: Recorder, call: dict[str, Any], path: object, **expected: Value
) -> None:
    """A call of OpenVirtualDisk with all its arguments."""
    device = expected.pop("device", 0)
    assert isinstance(device, int)
    members: dict[str, int | bytes] = {"DeviceId": device}
    if device:
        members["VendorId"] = MICROSOFT
    double.assert_call(
        call,
        "OpenVirtualDisk",
        **{
            "VirtualStorageType": oracle.pack("VIRTUAL_STORAGE_TYPE", members),
            "Path": str(path),
            "VirtualDiskAccessMask": 0,
            "Flags": 0,
            "Handle": call["Handle"],
            **expected,
        },
    )


def assert_attach(
    double: Recorder,
    call: dict[str, Any],
    flags: int,
    **members: int,
) -> None:
    """A call of AttachVirtualDisk without a descriptor."""
    double.assert_call(
        call,
        "AttachVirtualDisk",
        VirtualDiskHandle=call["VirtualDiskHandle"],
        SecurityDescriptor=None,
        Flags=flags,
        ProviderSpecificFlags=0,
        Parameters=oracle.pack(
            "ATTACH_VIRTUAL_DISK_PARAMETERS",
            {
                "Version": 2 if members else 1,
                **{f"Version2.{key}": value for key, value in members.items()},
            },
        ),
        Overlapped=None,
    )


ISO_PARAMETERS = oracle.pack("OPEN_VIRTUAL_DISK_PARAMETERS", {"Version": 1})


@pytest.mark.parametrize("name", ["image.iso", "image.bin", "image.vhdx"])
def test_attach_iso(double: Recorder, tmp_path: pathlib.Path, name: str) -> None:
    path = make_iso(tmp_path / name)
    with virtdisk.attach(path):
        opened, attached = double.calls()
    assert_open(
        double,
        opened,
        path,
        device=ISO,
        VirtualDiskAccessMask=0xD0000,  # VIRTUAL_DISK_ACCESS_READ
        Parameters=ISO_PARAMETERS,
    )
    assert_attach(double, attached, 1)  # READ_ONLY without being asked


@pytest.mark.parametrize("name", ["image.vhd", "image.vhdx", "image.img"])
@pytest.mark.parametrize(("device", "make"), DISKS)
def test_attach_disk(
    double: Recorder,
    tmp_path: pathlib.Path,
    device: int,
    make: Callable[[pathlib.Path], pathlib.Path],
    name: str,
) -> None:
    path = make(tmp_path / name)
    with virtdisk.attach(path):
        opened, attached = double.calls()
    parameters = open_parameters(opened)
    assert_open(double, opened, path, device=device, Parameters=parameters)
    assert_attach(double, attached, 0)


@pytest.mark.parametrize(("device", "make"), DISKS)
def test_attach_read_only(
    double: Recorder,
    tmp_path: pathlib.Path,
    device: int,
    make: Callable[[pathlib.Path], pathlib.Path],
) -> None:
    path = make(tmp_path / "image")
    with virtdisk.attach(path, read_only=True):
        opened, attached = double.calls()
    parameters = open_parameters(opened, ReadOnly=1)
    assert_open(double, opened, path, device=device, Parameters=parameters)
    assert_attach(double, attached, 1)


def test_every_open_has_a_resiliency_guid_of_its_own(
    double: Recorder, tmp_path: pathlib.Path
) -> None:
    path = make_vhdx(tmp_path / "disk.vhdx")
    for _ in range(2):
        virtdisk.open(path).close()
    first, second = double.calls()
    assert first["Parameters"] != second["Parameters"]


@pytest.mark.parametrize(
    ("arguments", "flags", "members"),
    [
        ({"drive_letter": False}, 2, {}),
        ({"permanent": True}, 4, {}),
        ({"flags": virtdisk.AttachFlag.NO_SECURITY_DESCRIPTOR}, 0x10, {}),
        ({"flags": 0x80000000}, 0x80000000, {}),
        (
            {"restricted_range": (1 << 40, 512)},
            0x80,
            {"RestrictedOffset": 1 << 40, "RestrictedLength": 512},
        ),
        (
            {"read_only": True, "drive_letter": False, "permanent": True},
            7,
            {},
        ),
    ],
)
def test_attach_arguments(
    double: Recorder,
    tmp_path: pathlib.Path,
    arguments: dict[str, Any],
    flags: int,
    members: dict[str, int],
) -> None:
    path = make_vhd(tmp_path / "disk.vhd")
    with virtdisk.attach(path, **arguments):
        pass
    (attached,) = double.calls("AttachVirtualDisk")
    assert_attach(double, attached, flags, **members)


@pytest.mark.parametrize(("device", "make"), KINDS)
def test_open_for_information(
    double: Recorder,
    tmp_path: pathlib.Path,
    device: int,
    make: Callable[[pathlib.Path], pathlib.Path],
) -> None:
    path = make(tmp_path / "image")
    virtdisk.open(path, info_only=True).close()
    (opened,) = double.calls()
    if device == ISO:
        mask, parameters = 0x80000, ISO_PARAMETERS  # GET_INFO
    else:
        mask, parameters = 0, open_parameters(opened, GetInfoOnly=1)
    assert_open(
        double,
        opened,
        path,
        device=device,
        VirtualDiskAccessMask=mask,
        Parameters=parameters,
    )


def test_open_with_a_mask_uses_version_1(
    double: Recorder, tmp_path: pathlib.Path
) -> None:
    path = make_vhdx(tmp_path / "disk.vhdx")
    virtdisk.open(path, access=virtdisk.AccessMask.ALL, parents=False).close()
    (opened,) = double.calls()
    assert_open(
        double,
        opened,
        path,
        device=VHDX,
        VirtualDiskAccessMask=0x3F0000,
        Flags=1,  # NO_PARENTS
        Parameters=oracle.pack(
            "OPEN_VIRTUAL_DISK_PARAMETERS",
            {"Version": 1, "Version1.RWDepth": 1},
        ),
    )


def test_an_unknown_file_is_left_to_the_system(
    double: Recorder, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "missing.vhdx"
    double.answer("OpenVirtualDisk", result=2)
    with pytest.raises(virtdisk.ImageNotFoundError) as caught:
        virtdisk.open(path)
    assert caught.value.filename == str(path)
    (opened,) = double.calls()
    assert opened["VirtualStorageType"] == bytes(20).hex()


@pytest.mark.parametrize(("device", "make"), KINDS)
def test_detach_by_path(
    double: Recorder,
    tmp_path: pathlib.Path,
    device: int,
    make: Callable[[pathlib.Path], pathlib.Path],
) -> None:
    path = make(tmp_path / "image")
    virtdisk.detach(path)
    opened, detached = double.calls()
    # Version 2 with a mask would be refused by Windows (API.md 2.1).
    assert_open(
        double,
        opened,
        path,
        device=device,
        VirtualDiskAccessMask=0xC0000,  # DETACH, GET_INFO
        Flags=0 if device == ISO else 1,
        Parameters=None,
    )
    double.assert_call(
        detached,
        "DetachVirtualDisk",
        VirtualDiskHandle=detached["VirtualDiskHandle"],
        Flags=0,
        ProviderSpecificFlags=0,
    )
    assert not handle_is_open(detached["VirtualDiskHandle"])


def test_with_detaches_and_closes(double: Recorder, tmp_path: pathlib.Path) -> None:
    with virtdisk.attach(make_vhd(tmp_path / "disk.vhd")):
        pass
    assert double.names() == [
        "OpenVirtualDisk",
        "AttachVirtualDisk",
        "DetachVirtualDisk",
    ]
    assert not handle_is_open(double.calls()[-1]["VirtualDiskHandle"])


def test_a_permanent_disk_stays(double: Recorder, tmp_path: pathlib.Path) -> None:
    path = make_vhd(tmp_path / "disk.vhd")
    with virtdisk.attach(path, permanent=True):
        pass
    assert double.names() == ["OpenVirtualDisk", "AttachVirtualDisk"]
    assert not handle_is_open(double.calls()[-1]["VirtualDiskHandle"])


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1314, virtdisk.PrivilegeNotHeldError),
        (32, virtdisk.SharingViolationError),
        (183, virtdisk.ImageExistsError),
    ],
)
def test_a_failed_attach_leaves_no_handle(
    double: Recorder,
    tmp_path: pathlib.Path,
    code: int,
    kind: type[virtdisk.VirtualDiskError],
) -> None:
    double.answer("AttachVirtualDisk", result=code)
    with pytest.raises(kind) as caught:
        virtdisk.attach(make_vhd(tmp_path / "disk.vhd"))
    assert caught.value.remedy
    assert not handle_is_open(double.calls()[-1]["VirtualDiskHandle"])


def test_a_leaked_disk_warns_and_closes(
    double: Recorder, tmp_path: pathlib.Path
) -> None:
    disk = virtdisk.attach(make_vhd(tmp_path / "disk.vhd"))
    with pytest.warns(ResourceWarning, match=r"disk\.vhd"):
        del disk
    assert not handle_is_open(double.calls()[-1]["VirtualDiskHandle"])


def test_info_asks_every_class(double: Recorder, tmp_path: pathlib.Path) -> None:
    # Windows refuses the classes of parents for a disk without one.
    for version in (3, 4, 5):
        double.answer("GetVirtualDiskInformation", when=version, result=0xC03A001B)
    answers: dict[str, dict[str, int | bytes]] = {
        "SIZE": {
            "Size.VirtualSize": 1 << 40,
            "Size.PhysicalSize": 1 << 20,
            "Size.BlockSize": 1 << 25,
            "Size.SectorSize": 512,
        },
        "VIRTUAL_STORAGE_TYPE": {
            "VirtualStorageType.DeviceId": 3,
            "VirtualStorageType.VendorId": MICROSOFT,
        },
        "PROVIDER_SUBTYPE": {"ProviderSubtype": 3},
        "IS_LOADED": {"IsLoaded": 1},
        "VIRTUAL_DISK_ID": {"VirtualDiskId": ID.bytes_le},
    }
    for name, members in answers.items():
        version = oracle.CONSTANTS[f"GET_VIRTUAL_DISK_INFO_{name}"]
        data = oracle.pack("GET_VIRTUAL_DISK_INFO", {"Version": version, **members})
        double.answer("GetVirtualDiskInformation", when=version, data=data)
    double.answer("GetVirtualDiskInformation", result=50)
    with virtdisk.open(make_vhdx(tmp_path / "disk.vhdx")) as disk:
        info = disk.info
    known = {
        key: value
        for key, value in dataclasses.asdict(info).items()
        if value is not None
    }
    assert known == {
        "virtual_size": 1 << 40,
        "physical_size": 1 << 20,
        "block_size": 1 << 25,
        "sector_size": 512,
        "storage_type": virtdisk.StorageType.VHDX,
        "vendor_id": uuid.UUID(bytes_le=MICROSOFT),
        "subtype": virtdisk.ProviderSubtype.DYNAMIC,
        "is_loaded": True,
        "virtual_disk_id": ID,
    }


def utf16(*strings: str) -> bytes:
    """NUL-terminated strings."""
    return "".join(f"{text}\0" for text in strings).encode("utf-16-le")


def script_two_attached(double: Recorder, directory: pathlib.Path) -> None:
    """Two images attached, one of which cannot be opened."""
    paths = (str(make_vhd(directory / "one.vhd")), r"C:\gone.vhd")
    double.answer("GetAllAttachedVirtualDiskPhysicalPaths", data=utf16(*paths, ""))
    double.answer("OpenVirtualDisk")
    double.answer("OpenVirtualDisk", result=2)
    double.answer("GetVirtualDiskPhysicalPath", data=utf16(r"\\.\PhysicalDrive7"))


def test_attached(double: Recorder, tmp_path: pathlib.Path) -> None:
    script_two_attached(double, tmp_path)
    assert virtdisk.attached() == [
        virtdisk.AttachedImage(
            path=str(tmp_path / "one.vhd"),
            physical_path=r"\\.\PhysicalDrive7",
        ),
        virtdisk.AttachedImage(path=r"C:\gone.vhd", physical_path=None),
    ]


def test_detach_by_device(double: Recorder, tmp_path: pathlib.Path) -> None:
    script_two_attached(double, tmp_path)
    with pytest.raises(virtdisk.ImageNotFoundError):
        virtdisk.detach(r"\\.\PhysicalDrive7")  # found, but gone meanwhile
    assert double.calls()[-1]["Path"] == str(tmp_path / "one.vhd")


def run_command(double: Recorder, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m virtdisk` in a process of its own, with the same script."""
    return subprocess.run(
        [sys.executable, "-m", "virtdisk", *arguments],
        env={**os.environ, "DOUBLE_SCRIPT": double.script},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_command_list_json(double: Recorder, tmp_path: pathlib.Path) -> None:
    script_two_attached(double, tmp_path)
    done = run_command(double, "list", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == [
        {
            "path": str(tmp_path / "one.vhd"),
            "physical_path": r"\\.\PhysicalDrive7",
        },
        {"path": r"C:\gone.vhd", "physical_path": None},
    ]


def test_command_attach_then_detach(double: Recorder, tmp_path: pathlib.Path) -> None:
    path = make_iso(tmp_path / "image.iso")
    double.answer("GetVirtualDiskPhysicalPath", data=utf16(r"\\.\CDROM0"))
    done = run_command(double, "attach", str(path))
    assert (done.returncode, done.stdout) == (0, "\\\\.\\CDROM0\n")
    done = run_command(double, "detach", str(path))
    assert (done.returncode, done.stdout) == (0, "")
    (attached,) = double.calls("AttachVirtualDisk")
    assert_attach(double, attached, 5)  # READ_ONLY, PERMANENT_LIFETIME
    assert double.names()[-2:] == ["OpenVirtualDisk", "DetachVirtualDisk"]


def test_command_that_fails(double: Recorder, tmp_path: pathlib.Path) -> None:
    path = make_vhd(tmp_path / "disk.vhd")
    double.answer("AttachVirtualDisk", result=1314)
    done = run_command(double, "attach", str(path))
    assert done.returncode == 1
    assert done.stdout == ""
    assert "ERROR_PRIVILEGE_NOT_HELD" in done.stderr
    assert "remedy: " in done.stderr
    assert "Traceback" not in done.stderr
