"""The Python face: what it asks of virtdisk.h, and what it makes of answers.

A recorder stands in the place of the extension module, so that every choice
of version, mask and flags can be seen, for images of every kind, on every
system.  tests/test_facade_real.py has the same face with real devices.
"""

from __future__ import annotations

import copy
import functools
import gc
import os
import pathlib
import pickle
import uuid
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from recorder import RecordedHandle, Recorder, install
from support import LINUX, make_iso, make_vhd

import virtdisk
from virtdisk import (
    AccessMask,
    AttachFlag,
    OpenFlag,
    StorageType,
    VirtualDiskError,
    _arguments,
    _disk,
    _info,
)

MICROSOFT = bytes.fromhex("ec4a98ecf9a0e947901f71415a66345b")


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return install(monkeypatch)


def make_vhdx(path: pathlib.Path) -> pathlib.Path:
    path.write_bytes(b"vhdxfile".ljust(1 << 20, b"\0"))
    return path


def make_nothing(path: pathlib.Path) -> pathlib.Path:
    path.write_bytes(bytes(1 << 20))
    return path


# --- Which parameters open an image -----------------------------------------


@pytest.mark.parametrize(
    ("make", "device_id"), [(make_vhd, 2), (make_vhdx, 3)], ids=["vhd", "vhdx"]
)
def test_vhd_and_vhdx_are_opened_with_version_2(
    make: Any, device_id: int, api: Recorder, tmp_path: pathlib.Path
) -> None:
    image = make(tmp_path / "an.image")  # the extension says nothing
    for _ in range(2):
        virtdisk.open(image).close()
    first, second = (arguments for _, arguments in api.calls)
    guids = {bytes(call.pop("resiliency_guid")) for call in (first, second)}
    assert len(guids) == 2  # a fresh one each time
    assert {len(guid) for guid in guids} == {16}
    assert first == second
    assert first == {
        "path": str(image),
        "device_id": device_id,
        "vendor_id": MICROSOFT,
        "flags": 0,
        "version": 2,
        "get_info_only": False,
        "read_only": False,
    }


def test_iso_is_opened_with_version_1_for_reading(
    api: Recorder, tmp_path: pathlib.Path
) -> None:
    image = make_iso(tmp_path / "an.image")
    virtdisk.open(image).close()
    assert api.only("OpenVirtualDisk") == {
        "path": str(image),
        "device_id": 1,
        "vendor_id": MICROSOFT,
        "access_mask": 0xD0000,
        "flags": 0,
        "version": 1,
        "rw_depth": 0,
    }


@pytest.mark.parametrize(
    ("name", "version"), [("a.iso", 1), ("a.ISO", 1), ("a.vhd", 2), ("a", 2)]
)
def test_unknown_content_leaves_the_type_to_the_system(
    name: str, version: int, api: Recorder, tmp_path: pathlib.Path
) -> None:
    virtdisk.open(make_nothing(tmp_path / name)).close()
    call = api.only("OpenVirtualDisk")
    assert (call["device_id"], call["vendor_id"]) == (0, None)
    assert call["version"] == version


def test_named_type_is_believed(api: Recorder, tmp_path: pathlib.Path) -> None:
    image = make_vhd(tmp_path / "a.vhd")
    virtdisk.open(image, storage_type=StorageType.ISO).close()
    call = api.only("OpenVirtualDisk")
    assert (call["device_id"], call["version"]) == (1, 1)


def test_read_only(api: Recorder, tmp_path: pathlib.Path) -> None:
    virtdisk.open(make_vhd(tmp_path / "a.vhd"), read_only=True).close()
    assert api.only("OpenVirtualDisk")["read_only"] is True


def test_info_only(api: Recorder, tmp_path: pathlib.Path) -> None:
    virtdisk.open(make_vhd(tmp_path / "a.vhd"), info_only=True).close()
    assert api.only("OpenVirtualDisk")["get_info_only"] is True


def test_info_only_of_an_iso(api: Recorder, tmp_path: pathlib.Path) -> None:
    virtdisk.open(make_iso(tmp_path / "a.iso"), info_only=True).close()
    call = api.only("OpenVirtualDisk")
    assert (call["version"], call["access_mask"]) == (1, 0x80000)


@pytest.mark.parametrize(("read_only", "depth"), [(False, 1), (True, 0)])
def test_mask_asks_for_version_1(
    read_only: bool, depth: int, api: Recorder, tmp_path: pathlib.Path
) -> None:
    image = make_vhd(tmp_path / "a.vhd")
    virtdisk.open(image, access=AccessMask.ALL, read_only=read_only).close()
    call = api.only("OpenVirtualDisk")
    assert call["version"] == 1
    assert (call["access_mask"], call["rw_depth"]) == (0x3F0000, depth)


def test_parents_and_flags(api: Recorder, tmp_path: pathlib.Path) -> None:
    image = make_vhd(tmp_path / "a.vhd")
    virtdisk.open(image, parents=False, flags=OpenFlag.CACHED_IO | 0x40000000).close()
    assert api.only("OpenVirtualDisk")["flags"] == 0x40000009


def test_iso_has_no_parents_to_leave_out(api: Recorder, tmp_path: pathlib.Path) -> None:
    virtdisk.open(make_iso(tmp_path / "a.iso"), parents=False).close()
    assert api.only("OpenVirtualDisk")["flags"] == 0


def test_plain_integers_reach_the_extension(
    api: Recorder, tmp_path: pathlib.Path
) -> None:
    """Enumerations stay on this side: the extension gets ints and bools."""
    with virtdisk.attach(make_vhd(tmp_path / "a.vhd"), flags=AttachFlag.NON_PNP):
        pass
    for _, arguments in api.calls:
        for value in arguments.values():
            assert type(value) in (int, bool, bytes, str, type(None))


# --- Which parameters attach it ---------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        ({}, 0),
        ({"read_only": True}, 1),
        ({"read_only": False}, 0),
        ({"drive_letter": False}, 2),
        ({"permanent": True}, 4),
        ({"flags": AttachFlag.BYPASS_DEFAULT_ENCRYPTION_POLICY}, 0x20),
        ({"flags": 0x40000000, "drive_letter": False}, 0x40000002),
        ({"read_only": True, "drive_letter": False, "permanent": True}, 7),
    ],
)
def test_attach_flags(
    arguments: dict[str, Any], flags: int, api: Recorder, tmp_path: pathlib.Path
) -> None:
    virtdisk.attach(make_vhd(tmp_path / "a.vhd"), **arguments).close()
    assert api.only("AttachVirtualDisk") == {
        "security_descriptor": None,
        "flags": flags,
        "version": 1,
        "restricted_offset": 0,
        "restricted_length": 0,
    }
    assert api.only("OpenVirtualDisk")["read_only"] is bool(flags & 1)


def test_iso_is_attached_read_only_unasked(
    api: Recorder, tmp_path: pathlib.Path
) -> None:
    virtdisk.attach(make_iso(tmp_path / "a.iso")).close()
    assert api.only("AttachVirtualDisk")["flags"] == 1


def test_flag_read_only_opens_the_file_for_reading(
    api: Recorder, tmp_path: pathlib.Path
) -> None:
    image = make_vhd(tmp_path / "a.vhd")
    virtdisk.attach(image, flags=AttachFlag.READ_ONLY).close()
    assert api.only("OpenVirtualDisk")["read_only"] is True
    assert api.only("AttachVirtualDisk")["flags"] == 1


def test_disk_opened_for_reading_is_attached_read_only(
    api: Recorder, tmp_path: pathlib.Path
) -> None:
    with virtdisk.open(make_vhd(tmp_path / "a.vhd"), read_only=True) as disk:
        disk.attach()
    assert api.only("AttachVirtualDisk")["flags"] == 1


def test_restricted_range_is_version_2(api: Recorder, tmp_path: pathlib.Path) -> None:
    image = make_vhd(tmp_path / "a.vhd")
    virtdisk.attach(image, restricted_range=(1 << 20, 512)).close()
    call = api.only("AttachVirtualDisk")
    assert (call["version"], call["flags"]) == (2, 0x80)
    assert (call["restricted_offset"], call["restricted_length"]) == (1 << 20, 512)


@pytest.mark.parametrize("security", ["D:P(A;;GA;;;WD)", b"\x01\x00"])
def test_security_is_passed_on(
    security: str | bytes, api: Recorder, tmp_path: pathlib.Path
) -> None:
    virtdisk.attach(make_vhd(tmp_path / "a.vhd"), security=security).close()
    assert api.only("AttachVirtualDisk")["security_descriptor"] == security


def test_failed_attach_closes_the_handle(api: Recorder, tmp_path: pathlib.Path) -> None:
    api.fail["AttachVirtualDisk"] = 1314
    with pytest.raises(virtdisk.PrivilegeNotHeldError):
        virtdisk.attach(make_vhd(tmp_path / "a.vhd"))
    assert [handle.closed for handle in api.handles] == [True]


@pytest.mark.parametrize("windows", [False, True])
def test_at_boot_is_told_what_to_use_instead(
    windows: bool,
    api: Recorder,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_disk, "WINDOWS", windows)
    api.fail["AttachVirtualDisk"] = 50
    with pytest.raises(VirtualDiskError) as caught:
        virtdisk.attach(make_vhd(tmp_path / "a.vhd"), flags=AttachFlag.AT_BOOT)
    assert ("systemd" in (caught.value.remedy or "")) is not windows


def test_other_unsupported_flags_are_not_told_of_systemd(
    api: Recorder, tmp_path: pathlib.Path
) -> None:
    api.fail["AttachVirtualDisk"] = 50
    with pytest.raises(VirtualDiskError) as caught:
        virtdisk.attach(make_vhd(tmp_path / "a.vhd"))
    assert "systemd" not in (caught.value.remedy or "")


# --- Detaching --------------------------------------------------------------


@pytest.mark.parametrize(("make", "flags"), [(make_vhd, 1), (make_iso, 0)])
def test_detach_opens_with_default_parameters(
    make: Any, flags: int, api: Recorder, tmp_path: pathlib.Path
) -> None:
    image = make(tmp_path / "image")
    virtdisk.detach(image)
    call = api.only("OpenVirtualDisk")
    assert call["version"] is None
    assert call["access_mask"] == 0x40000 | 0x80000
    assert call["flags"] == flags
    assert api.only("DetachVirtualDisk") == {}
    assert [handle.closed for handle in api.handles] == [True]


@pytest.mark.parametrize("code", [21, 1168, 170, 5, 1314])
def test_detach_by_path_reports_every_failure(
    code: int, api: Recorder, tmp_path: pathlib.Path
) -> None:
    api.fail["DetachVirtualDisk"] = code
    with pytest.raises(VirtualDiskError) as caught:
        virtdisk.detach(make_vhd(tmp_path / "a.vhd"))
    assert caught.value.winerror == code
    assert [handle.closed for handle in api.handles] == [True]


@pytest.mark.parametrize("code", [21, 1168])
def test_disk_detached_by_somebody_else(
    code: int, api: Recorder, tmp_path: pathlib.Path
) -> None:
    api.fail["DetachVirtualDisk"] = code
    with virtdisk.attach(make_vhd(tmp_path / "a.vhd")) as disk:
        disk.detach()
        assert "attached" not in repr(disk)
        disk.detach()


@pytest.mark.parametrize("code", [21, 1168])
def test_disk_that_was_never_attached(
    code: int, api: Recorder, tmp_path: pathlib.Path
) -> None:
    api.fail["DetachVirtualDisk"] = code
    with virtdisk.open(make_vhd(tmp_path / "a.vhd")) as disk:
        for _ in range(2):
            with pytest.raises(VirtualDiskError):
                disk.detach()


def test_block_exit_detaches_and_closes(api: Recorder, tmp_path: pathlib.Path) -> None:
    with virtdisk.attach(make_vhd(tmp_path / "a.vhd")) as disk:
        pass
    assert disk.closed
    assert [name for name, _ in api.calls][-1] == "DetachVirtualDisk"


def test_block_exit_leaves_a_permanent_disk(
    api: Recorder, tmp_path: pathlib.Path
) -> None:
    with virtdisk.attach(make_vhd(tmp_path / "a.vhd"), permanent=True) as disk:
        assert "attached permanently" in repr(disk)
    assert disk.closed
    assert "DetachVirtualDisk" not in [name for name, _ in api.calls]


def test_block_exit_does_not_detach_what_others_attached(
    api: Recorder, tmp_path: pathlib.Path
) -> None:
    with virtdisk.open(make_vhd(tmp_path / "a.vhd")):
        pass
    assert "DetachVirtualDisk" not in [name for name, _ in api.calls]


def test_block_exit_closes_even_a_busy_disk(
    api: Recorder, tmp_path: pathlib.Path
) -> None:
    disk = virtdisk.attach(make_vhd(tmp_path / "a.vhd"))
    api.fail["DetachVirtualDisk"] = 170
    with pytest.raises(VirtualDiskError) as caught, disk:
        pass
    assert caught.value.winerror == 170
    assert disk.closed


def test_closed_inside_its_block(api: Recorder, tmp_path: pathlib.Path) -> None:
    with virtdisk.attach(make_vhd(tmp_path / "a.vhd")) as disk:
        disk.close()
    assert "DetachVirtualDisk" not in [name for name, _ in api.calls]


def test_closed_disk_cannot_be_entered(api: Recorder, tmp_path: pathlib.Path) -> None:
    disk = virtdisk.open(make_vhd(tmp_path / "a.vhd"))
    disk.close()
    with pytest.raises(ValueError, match="closed"), disk:
        pass


# --- Copied objects ---------------------------------------------------------


@pytest.mark.parametrize(
    "take",
    [copy.copy, copy.deepcopy, *(functools.partial(pickle.dumps, protocol=n)
                                 for n in range(pickle.HIGHEST_PROTOCOL + 1))],
)  # fmt: skip
def test_disk_is_not_copied(
    take: Callable[[object], object], api: Recorder, tmp_path: pathlib.Path
) -> None:
    """The end of a copy would be the end of the handle of both."""
    with virtdisk.open(make_vhd(tmp_path / "a.vhd")) as disk:
        with pytest.raises(TypeError, match="cannot copy or pickle 'VirtualDisk'"):
            take(disk)
        gc.collect()
        assert not disk.closed


# --- Dropped objects --------------------------------------------------------


@pytest.mark.parametrize(
    ("attach", "word"), [(False, "^open virtual"), (True, "^attached virtual")]
)
def test_dropped_disk_warns_and_closes(
    attach: bool, word: str, api: Recorder, tmp_path: pathlib.Path
) -> None:
    image = make_vhd(tmp_path / "dropped.vhd")
    disk = virtdisk.attach(image) if attach else virtdisk.open(image)
    with pytest.warns(ResourceWarning, match=word + r".*dropped\.vhd"):
        del disk
    assert [handle.closed for handle in api.handles] == [True]


def test_dropped_permanent_disk_is_meant(api: Recorder, tmp_path: pathlib.Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        virtdisk.attach(make_vhd(tmp_path / "a.vhd"), permanent=True)
        gc.collect()
    assert [handle.closed for handle in api.handles] == [True]


def test_half_made_disk_can_be_dropped() -> None:
    disk = virtdisk.VirtualDisk.__new__(virtdisk.VirtualDisk)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del disk
        gc.collect()


# --- Misuse -----------------------------------------------------------------


@pytest.mark.parametrize("call", [virtdisk.open, virtdisk.attach, virtdisk.detach])
@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        (b"a.vhd", TypeError, "bytes"),
        (7, TypeError, "PathLike"),
        (None, TypeError, "PathLike"),
        ("", ValueError, "empty"),
        ("a\0b", ValueError, "null character"),
    ],
)
def test_wrong_paths(
    call: Any, path: Any, kind: type[Exception], words: str, api: Recorder
) -> None:
    with pytest.raises(kind, match=words):
        call(path)
    assert api.calls == []


class BytesPath:
    def __fspath__(self) -> bytes:
        return b"a.vhd"


def test_path_like_of_bytes(api: Recorder) -> None:
    with pytest.raises(TypeError, match="bytes"):
        virtdisk.open(BytesPath())  # type: ignore[arg-type]
    assert api.calls == []


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"flags": "1"}, TypeError, "flags must be an integer, not str"),
        ({"flags": True}, TypeError, "not bool"),
        ({"flags": -1}, ValueError, "32 bits"),
        ({"flags": 1 << 32}, ValueError, "32 bits"),
        ({"access": 1.5}, TypeError, "access must be an integer"),
        ({"access": 1 << 32}, ValueError, "access does not fit"),
        ({"access": AccessMask.READ, "info_only": True}, ValueError, "exclude"),
        ({"storage_type": 9}, ValueError, "9 is not a valid StorageType"),
        ({"storage_type": "vhd"}, TypeError, "storage_type"),
        ({"storage_type": True}, TypeError, "storage_type"),
    ],
)
def test_wrong_arguments_of_open(
    arguments: dict[str, Any],
    kind: type[Exception],
    words: str,
    api: Recorder,
    tmp_path: pathlib.Path,
) -> None:
    with pytest.raises(kind, match=words):
        virtdisk.open(make_vhd(tmp_path / "a.vhd"), **arguments)
    assert api.calls == []


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"flags": "1"}, TypeError, "flags"),
        ({"flags": 1 << 32}, ValueError, "32 bits"),
        ({"security": 5}, TypeError, "SDDL text or bytes, not int"),
        ({"security": ""}, ValueError, "empty"),
        ({"security": b""}, ValueError, "empty"),
        ({"restricted_range": 5}, TypeError, r"\(offset, length\)"),
        ({"restricted_range": (1, 2, 3)}, TypeError, r"\(offset, length\)"),
        ({"restricted_range": ("0", 512)}, TypeError, "offset"),
        ({"restricted_range": (0, True)}, TypeError, "length"),
        ({"restricted_range": (-1, 512)}, ValueError, "64 bits"),
        ({"restricted_range": (0, 1 << 64)}, ValueError, "64 bits"),
        ({"restricted_range": (0, 0)}, ValueError, "empty"),
        ({"flags": AttachFlag.RESTRICTED_RANGE}, ValueError, "restricted_range"),
    ],
)
def test_wrong_arguments_of_attach(
    arguments: dict[str, Any],
    kind: type[Exception],
    words: str,
    api: Recorder,
    tmp_path: pathlib.Path,
) -> None:
    image = make_vhd(tmp_path / "a.vhd")
    with pytest.raises(kind, match=words):
        virtdisk.attach(image, **arguments)
    assert api.calls == []
    with virtdisk.open(image) as disk, pytest.raises(kind, match=words):
        disk.attach(**arguments)
    assert [name for name, _ in api.calls] == ["OpenVirtualDisk"]


def test_iso_cannot_be_writable(api: Recorder, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        virtdisk.attach(make_iso(tmp_path / "a.iso"), read_only=False)
    assert "AttachVirtualDisk" not in [name for name, _ in api.calls]
    assert all(handle.closed for handle in api.handles)


@pytest.mark.parametrize("mode", ["r", "wb", "ab", "xb", "w+b", "rt", "", "r+"])
def test_wrong_mode_of_raw(mode: str, api: Recorder, tmp_path: pathlib.Path) -> None:
    disk = virtdisk.attach(make_vhd(tmp_path / "a.vhd"))
    with disk, pytest.raises(ValueError, match="'rb' or 'r\\+b'"):
        disk.raw(mode)


# --- Paths ------------------------------------------------------------------


def test_relative_path_is_made_absolute(
    api: Recorder, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_vhd(tmp_path / "a.vhd")
    monkeypatch.chdir(tmp_path)
    with virtdisk.open("a.vhd") as disk:
        monkeypatch.chdir("/")
        assert pathlib.Path(disk.path) == tmp_path / "a.vhd"
    assert api.only("OpenVirtualDisk")["path"] == disk.path


@pytest.mark.skipif(not LINUX, reason="Windows resolves .. itself")
def test_dots_behind_a_link_are_not_folded(
    api: Recorder, tmp_path: pathlib.Path
) -> None:
    """link/../a.vhd is beside the link's target, not beside the link."""
    (tmp_path / "far" / "target").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "target")
    make_vhd(tmp_path / "far" / "a.vhd")
    path = os.path.join(tmp_path, "link", "..", "a.vhd")
    with virtdisk.open(path) as disk:
        assert disk.path == path
        assert os.path.samefile(disk.path, tmp_path / "far" / "a.vhd")
    assert api.only("OpenVirtualDisk")["device_id"] == StorageType.VHD


def test_windows_paths_are_normalised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_arguments, "WINDOWS", True)
    monkeypatch.setattr(os.path, "abspath", lambda name: f"C:\\{name}")
    assert _arguments.absolute_path("a.vhd") == "C:\\a.vhd"


# --- What is attached -------------------------------------------------------


def test_attached_opens_for_information_only(
    api: Recorder, tmp_path: pathlib.Path
) -> None:
    image = make_vhd(tmp_path / "a.vhd")
    api.attached = [str(image)]
    assert virtdisk.attached() == [
        virtdisk.AttachedImage(path=str(image), physical_path="/dev/null")
    ]
    assert api.only("OpenVirtualDisk")["get_info_only"] is True
    assert [handle.closed for handle in api.handles] == [True]


@pytest.mark.parametrize("function", ["OpenVirtualDisk", "GetVirtualDiskPhysicalPath"])
def test_attached_lists_what_cannot_be_opened(
    function: str, api: Recorder, tmp_path: pathlib.Path
) -> None:
    api.attached = [str(tmp_path / "gone.vhd")]
    api.fail[function] = 2
    assert virtdisk.attached() == [
        virtdisk.AttachedImage(path=str(tmp_path / "gone.vhd"), physical_path=None)
    ]


def test_attached_reports_its_own_failure(api: Recorder) -> None:
    api.fail["GetAllAttachedVirtualDiskPhysicalPaths"] = 5
    with pytest.raises(virtdisk.AccessDeniedError):
        virtdisk.attached()


# --- Information ------------------------------------------------------------

ANSWERS: dict[int, object] = {
    1: (64 << 20, 5 << 20, 2 << 20, 512),
    2: bytes(range(16)),
    3: (False, ["/a/base.vhd", "/b/base.vhd"]),
    4: bytes(range(16, 32)),
    5: 123456789,
    6: (2, MICROSOFT),
    7: 4,
    8: True,
    9: (512, 4096, True),
    10: 4096,
    11: 3 << 20,
    12: 17,
    13: True,
    14: bytes(range(32, 48)),
    15: (True, False, "rctX:1"),
}


def query(api: Recorder, answers: dict[int, object]) -> virtdisk.VirtualDiskInfo:
    api.classes = answers
    handle: Any = RecordedHandle("a.vhd")
    return _info.query(handle)


def test_every_class_has_its_place(api: Recorder) -> None:
    assert query(api, ANSWERS) == virtdisk.VirtualDiskInfo(
        virtual_size=64 << 20,
        physical_size=5 << 20,
        block_size=2 << 20,
        sector_size=512,
        storage_type=StorageType.VHD,
        vendor_id=uuid.UUID("ec984aec-a0f9-47e9-901f-71415a66345b"),
        subtype=virtdisk.ProviderSubtype.DIFFERENCING,
        identifier=uuid.UUID("03020100-0504-0706-0809-0a0b0c0d0e0f"),
        virtual_disk_id=uuid.UUID("23222120-2524-2726-2829-2a2b2c2d2e2f"),
        is_4k_aligned=True,
        physical_disk=virtdisk.PhysicalDiskInfo(
            logical_sector_size=512, physical_sector_size=4096, is_remote=True
        ),
        physical_sector_size=4096,
        smallest_safe_virtual_size=3 << 20,
        fragmentation=17,
        is_loaded=True,
        parent=virtdisk.ParentInfo(
            resolved=False,
            paths=("/a/base.vhd", "/b/base.vhd"),
            identifier=uuid.UUID("13121110-1514-1716-1819-1a1b1c1d1e1f"),
            timestamp=123456789,
        ),
        change_tracking=virtdisk.ChangeTrackingInfo(
            enabled=True, newer_changes=False, most_recent_id="rctX:1"
        ),
    )


FIELDS = {
    2: "identifier",
    3: "parent",
    7: "subtype",
    8: "is_4k_aligned",
    9: "physical_disk",
    10: "physical_sector_size",
    11: "smallest_safe_virtual_size",
    12: "fragmentation",
    13: "is_loaded",
    14: "virtual_disk_id",
    15: "change_tracking",
}


@pytest.mark.parametrize("code", [50, 87, 0xC03A001B])
@pytest.mark.parametrize("number", FIELDS)
def test_absent_class_is_none(number: int, code: int, api: Recorder) -> None:
    info = query(api, {**ANSWERS, number: code})
    none = [name for name in info.__slots__ if getattr(info, name) is None]
    assert none == [FIELDS[number]]


@pytest.mark.parametrize(("number", "field"), [(4, "identifier"), (5, "timestamp")])
def test_parent_without_a_detail(number: int, field: str, api: Recorder) -> None:
    parent = query(api, {**ANSWERS, number: 0xC03A001B}).parent
    assert parent is not None
    assert getattr(parent, field) is None


@pytest.mark.parametrize("code", [5, 0xC03A0010])
@pytest.mark.parametrize("number", ANSWERS)
def test_real_failure_is_raised(number: int, code: int, api: Recorder) -> None:
    with pytest.raises(VirtualDiskError) as caught:
        query(api, {**ANSWERS, number: code})
    assert caught.value.winerror == code


def test_incomputable_size_is_none(api: Recorder) -> None:
    assert query(api, {**ANSWERS, 11: 0xC03A0026}).smallest_safe_virtual_size is None


@pytest.mark.parametrize("number", [2, 7, 9, 13])
def test_that_code_means_nothing_elsewhere(number: int, api: Recorder) -> None:
    with pytest.raises(VirtualDiskError):
        query(api, {**ANSWERS, number: 0xC03A0026})


def test_kinds_of_a_newer_system_stay_numbers(api: Recorder) -> None:
    info = query(api, {**ANSWERS, 6: (77, MICROSOFT), 7: 99})
    assert (info.storage_type, info.subtype) == (77, 99)


def test_results_cannot_be_changed(api: Recorder) -> None:
    info = query(api, ANSWERS)
    with pytest.raises(AttributeError):
        info.virtual_size = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        virtdisk.AttachedImage("a.vhd", None)  # type: ignore[call-arg]
