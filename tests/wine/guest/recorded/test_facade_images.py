"""The Python face on top: making and changing images."""

from __future__ import annotations

import _thread
import pathlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import oracle
import pytest
from recorder import Recorder, handle_is_open

import virtdisk

MICROSOFT = uuid.UUID("ec984aec-a0f9-47e9-901f-71415a66345b").bytes_le
ID = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")
VHD, VHDX = 2, 3
PROGRESS = "GetVirtualDiskOperationProgress"
CREATE = "CREATE_VIRTUAL_DISK_PARAMETERS"


def make_image(path: pathlib.Path) -> pathlib.Path:
    """What shows that a file is a VHDX."""
    path.write_bytes(b"vhdxfile".ljust(65536, b"\0"))
    return path


@pytest.fixture
def opened(double: Recorder, tmp_path: pathlib.Path) -> Iterator[virtdisk.VirtualDisk]:
    """An open VHDX; its opening is not among the calls."""
    with virtdisk.open(make_image(tmp_path / "disk.vhdx")) as disk:
        double.forget()
        yield disk


def assert_operation(
    double: Recorder,
    function: str,
    structure: str | None,
    members: Mapping[str, int | bytes],
    flags: int = 0,
    **fields: Any,
) -> None:
    """The only call of a function, with an OVERLAPPED."""
    (call,) = double.calls(function)
    parameters = None if structure is None else oracle.pack(structure, members)
    double.assert_call(
        call,
        function,
        VirtualDiskHandle=call["VirtualDiskHandle"],
        Flags=flags,
        Parameters=parameters,
        Overlapped=bytes(24),
        OverlappedAddress=call["OverlappedAddress"],
        hEvent=call["hEvent"],
        **fields,
    )


def assert_created(
    double: Recorder,
    path: pathlib.Path,
    device: int,
    members: Mapping[str, int | bytes],
    flags: int = 0,
    paths: Mapping[str, pathlib.Path] | None = None,
) -> None:
    """The only call was CreateVirtualDisk, with a fresh resiliency GUID."""
    (call,) = double.calls("CreateVirtualDisk")
    resiliency = bytes.fromhex(call["Parameters"])[108:124]
    assert any(resiliency)
    packed: dict[str, int | bytes] = {
        "Version": 2,
        "Version2.ResiliencyGuid": resiliency,
        **{f"Version2.{name}": value for name, value in members.items()},
    }
    fields: dict[str, Any] = {}
    for name in ("ParentPath", "SourcePath"):
        packed[f"Version2.{name}"] = call[f"{name}Address"]
        text = (paths or {}).get(name)
        fields[f"{name}Address"] = call[f"{name}Address"]
        fields[name] = None if text is None else str(text)
    double.assert_call(
        call,
        "CreateVirtualDisk",
        VirtualStorageType=oracle.pack(
            "VIRTUAL_STORAGE_TYPE", {"DeviceId": device, "VendorId": MICROSOFT}
        ),
        Path=str(path),
        VirtualDiskAccessMask=0,  # version 2 allows no other
        SecurityDescriptor=None,
        Flags=flags,
        ProviderSpecificFlags=0,
        Parameters=oracle.pack(CREATE, packed),
        Overlapped=bytes(24),
        OverlappedAddress=call["OverlappedAddress"],
        hEvent=call["hEvent"],
        Handle=call["Handle"],
        **fields,
    )


@pytest.mark.parametrize(("name", "device"), [("a.vhd", VHD), ("a.VHDX", VHDX)])
@pytest.mark.parametrize(
    ("arguments", "flags"), [({}, 0), ({"type": "dynamic"}, 0), ({"type": "fixed"}, 1)]
)
def test_create(
    double: Recorder,
    tmp_path: pathlib.Path,
    name: str,
    device: int,
    arguments: dict[str, Any],
    flags: int,
) -> None:
    path = tmp_path / name
    with virtdisk.create(path, 64 << 30, **arguments) as disk:
        assert disk.path == str(path)
    assert_created(double, path, device, {"MaximumSize": 64 << 30}, flags)


def test_create_with_everything(double: Recorder, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "image"
    virtdisk.create(
        path,
        1 << 40,
        storage_type=VHDX,
        block_size=1 << 20,
        sector_size=4096,
        physical_sector_size=4096,
        id=ID,
        flags=0x80,
    ).close()
    members: dict[str, int | bytes] = {
        "MaximumSize": 1 << 40,
        "BlockSizeInBytes": 1 << 20,
        "SectorSizeInBytes": 4096,
        "PhysicalSectorSizeInBytes": 4096,
        "UniqueId": ID.bytes_le,
    }
    assert_created(double, path, VHDX, members, 0x80)


@pytest.mark.parametrize(
    ("argument", "member"), [("parent", "Parent"), ("source", "Source")]
)
def test_create_from_another(
    double: Recorder, tmp_path: pathlib.Path, argument: str, member: str
) -> None:
    other = make_image(tmp_path / "other.img")  # its content says what it is
    path = tmp_path / "new.vhd"
    arguments: dict[str, Any] = {argument: other}
    virtdisk.create(path, **arguments).close()
    members: dict[str, int | bytes] = {
        f"{member}VirtualStorageType.DeviceId": VHDX,
        f"{member}VirtualStorageType.VendorId": MICROSOFT,
    }
    assert_created(double, path, VHD, members, paths={f"{member}Path": other})


def complete_later(
    double: Recorder, function: str, before: Callable[[], object] = lambda: None
) -> threading.Thread:
    """Ends the pending operation of a function once it was called."""

    def run() -> None:
        deadline = time.monotonic() + 120
        while not double.calls(function):
            assert time.monotonic() < deadline, f"{function} was never called"
            time.sleep(0.005)
        before()
        call = double.calls(function)[0]
        double.complete(
            call["Handle"] if "Handle" in call else call["VirtualDiskHandle"]
        )

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("existed", [False, True])
def test_a_failed_creation_leaves_nothing_of_its_own(
    double: Recorder, tmp_path: pathlib.Path, existed: bool
) -> None:
    path = tmp_path / "new.vhdx"
    if existed:
        path.write_bytes(b"another's")
    double.answer("CreateVirtualDisk", pending=1, final=112)
    ender = complete_later(
        double, "CreateVirtualDisk", lambda: path.write_bytes(b"half")
    )
    with pytest.raises(virtdisk.VirtualDiskError) as caught:
        virtdisk.create(path, 1 << 30)
    ender.join()
    assert caught.value.winerror == 112
    assert path.exists() == existed
    (call,) = double.calls("CreateVirtualDisk")
    assert not handle_is_open(call["Handle"])


def test_compact(double: Recorder, opened: virtdisk.VirtualDisk) -> None:
    opened.compact(block_moves=False)
    members = {"Version": 1}
    structure = "COMPACT_VIRTUAL_DISK_PARAMETERS"
    assert_operation(double, "CompactVirtualDisk", structure, members, 2)
    double.forget()
    opened.compact(zero_scan=False)
    assert_operation(double, "CompactVirtualDisk", structure, members, 1)


@pytest.mark.parametrize(
    ("arguments", "size", "flags"),
    [
        ({"size": 1 << 40}, 1 << 40, 0),
        ({"size": 1 << 30, "allow_unsafe": True}, 1 << 30, 1),
        ({"smallest": True}, 0, 2),
    ],
)
def test_resize(
    double: Recorder,
    opened: virtdisk.VirtualDisk,
    arguments: dict[str, Any],
    size: int,
    flags: int,
) -> None:
    opened.resize(**arguments)
    members = {"Version": 1, "Version1.NewSize": size}
    structure = "RESIZE_VIRTUAL_DISK_PARAMETERS"
    assert_operation(double, "ResizeVirtualDisk", structure, members, flags)


def test_merge(double: Recorder, opened: virtdisk.VirtualDisk) -> None:
    opened.merge(source_depth=2, target_depth=5)
    members = {
        "Version": 2,
        "Version2.MergeSourceDepth": 2,
        "Version2.MergeTargetDepth": 5,
    }
    structure = "MERGE_VIRTUAL_DISK_PARAMETERS"
    assert_operation(double, "MergeVirtualDisk", structure, members)


def test_an_operation_is_waited_for(
    double: Recorder, opened: virtdisk.VirtualDisk
) -> None:
    # The trap: to be told 100 %, and nothing is done.
    double.answer("CompactVirtualDisk", pending=1)
    whole = {"OperationStatus": 997, "CurrentValue": 100, "CompletionValue": 100}
    data = oracle.pack("VIRTUAL_DISK_PROGRESS", whole)
    double.answer(PROGRESS, data=data)
    over: list[bool] = []

    def work() -> None:
        time.sleep(0.05)
        over.append(True)

    ender = complete_later(double, PROGRESS, work)
    seen: list[tuple[int, int]] = []
    opened.compact(progress=lambda *pair: seen.append(pair))
    assert over == [True]
    ender.join()
    assert seen[-1] == (100, 100)


def test_an_operation_that_fails(
    double: Recorder, opened: virtdisk.VirtualDisk
) -> None:
    double.answer("ResizeVirtualDisk", pending=1, final=112)
    ender = complete_later(double, "ResizeVirtualDisk")
    with pytest.raises(virtdisk.VirtualDiskError) as caught:
        opened.resize(1 << 40)
    ender.join()
    assert caught.value.winerror == 112
    assert caught.value.function == "ResizeVirtualDisk"


def test_ctrl_c_cancels_and_waits(
    double: Recorder, opened: virtdisk.VirtualDisk
) -> None:
    double.answer("CompactVirtualDisk", pending=1)
    interrupt = threading.Timer(0.1, _thread.interrupt_main)
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        opened.compact()
    interrupt.join()
    (call,) = double.calls("CompactVirtualDisk")
    assert not double.is_pending(call["VirtualDiskHandle"])
    assert handle_is_open(call["VirtualDiskHandle"])


def test_mirror(
    double: Recorder, opened: virtdisk.VirtualDisk, tmp_path: pathlib.Path
) -> None:
    target = tmp_path / "mirror.vhdx"
    double.answer("MirrorVirtualDisk", pending=1)
    for current in (50, 100):
        members = {
            "OperationStatus": 997,
            "CurrentValue": current,
            "CompletionValue": 100,
        }
        double.answer(PROGRESS, data=oracle.pack("VIRTUAL_DISK_PROGRESS", members))
    ender = complete_later(double, "BreakMirrorVirtualDisk")
    seen: list[tuple[int, int]] = []
    opened.mirror(target, existing=True, progress=lambda *pair: seen.append(pair))
    ender.join()
    assert seen == [(50, 100), (100, 100)]
    assert opened.path == str(target)
    (call,) = double.calls("MirrorVirtualDisk")
    address = call["MirrorVirtualDiskPathAddress"]
    assert_operation(
        double,
        "MirrorVirtualDisk",
        "MIRROR_VIRTUAL_DISK_PARAMETERS",
        {"Version": 1, "Version1.MirrorVirtualDiskPath": address},
        1,
        MirrorVirtualDiskPath=str(target),
        MirrorVirtualDiskPathAddress=address,
        result=997,
    )


# --- what the image says of itself -------------------------------------------


def assert_set(
    double: Recorder,
    members: Mapping[str, int | bytes],
    member: str | None = None,
    path: pathlib.Path | None = None,
) -> None:
    """The last call was SetVirtualDiskInformation."""
    call = double.calls()[-1]
    fields: dict[str, Any] = {}
    packed = {**members}
    if member is not None:
        packed[member] = call["ParentFilePathAddress"]
        fields = {
            "ParentFilePath": str(path),
            "ParentFilePathAddress": call["ParentFilePathAddress"],
        }
    double.assert_call(
        call,
        "SetVirtualDiskInformation",
        VirtualDiskHandle=call["VirtualDiskHandle"],
        VirtualDiskInfo=oracle.pack("SET_VIRTUAL_DISK_INFO", packed),
        **fields,
    )


def test_reconnect(
    double: Recorder, opened: virtdisk.VirtualDisk, tmp_path: pathlib.Path
) -> None:
    parent = tmp_path / "parent.vhdx"
    opened.reconnect(parent, depth=3)
    assert_set(
        double,
        {"Version": 3, "ParentPathWithDepthInfo.ChildDepth": 3},
        "ParentPathWithDepthInfo.ParentFilePath",
        parent,
    )
    opened.reconnect(parent, linkage_id=ID)
    assert_set(
        double,
        {"Version": 7, "ParentLocator.LinkageId": ID.bytes_le},
        "ParentLocator.ParentFilePath",
        parent,
    )


@pytest.mark.parametrize(
    ("arguments", "members"),
    [
        ({"identifier": ID}, {"Version": 2, "UniqueIdentifier": ID.bytes_le}),
        ({"virtual_disk_id": ID}, {"Version": 5, "VirtualDiskId": ID.bytes_le}),
        (
            {"physical_sector_size": 4096},
            {"Version": 4, "VhdPhysicalSectorSize": 4096},
        ),
        ({"change_tracking": True}, {"Version": 6, "ChangeTrackingEnabled": 1}),
        ({"change_tracking": False}, {"Version": 6}),
    ],
)
def test_set_info(
    double: Recorder,
    opened: virtdisk.VirtualDisk,
    arguments: dict[str, Any],
    members: Mapping[str, int | bytes],
) -> None:
    opened.set_info(**arguments)
    assert double.names() == ["SetVirtualDiskInformation"]
    assert_set(double, members)


def test_metadata(double: Recorder, opened: virtdisk.VirtualDisk) -> None:
    double.answer("EnumerateVirtualDiskMetadata", data=ID.bytes_le)
    double.answer("GetVirtualDiskMetadata", data=b"value")
    assert dict(opened.metadata) == {ID: b"value"}
    double.forget()
    opened.metadata[ID] = b"other"
    del opened.metadata[ID]
    stored, deleted = double.calls()
    handle = stored["VirtualDiskHandle"]
    double.assert_call(
        stored,
        "SetVirtualDiskMetadata",
        VirtualDiskHandle=handle,
        Item=ID.bytes_le,
        MetaDataSize=5,
        MetaData=b"other",
    )
    double.assert_call(
        deleted,
        "DeleteVirtualDiskMetadata",
        VirtualDiskHandle=handle,
        Item=ID.bytes_le,
    )


@pytest.mark.parametrize("code", [2, 1168])
def test_metadata_that_is_not_there(
    double: Recorder, opened: virtdisk.VirtualDisk, code: int
) -> None:
    double.answer("GetVirtualDiskMetadata", result=code)
    with pytest.raises(KeyError):
        _ = opened.metadata[ID]


def test_convert(double: Recorder, tmp_path: pathlib.Path) -> None:
    source = make_image(tmp_path / "source.img.old")
    target = tmp_path / "target.vhd"
    virtdisk.convert(source, target, type="fixed")
    members: dict[str, int | bytes] = {
        "SourceVirtualStorageType.DeviceId": VHDX,
        "SourceVirtualStorageType.VendorId": MICROSOFT,
    }
    assert_created(double, target, VHD, members, 1, paths={"SourcePath": source})
    (call,) = double.calls("CreateVirtualDisk")
    assert not handle_is_open(call["Handle"])
