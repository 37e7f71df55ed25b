"""The verbs that make and change whole images: what they ask of the system.

A recorder stands in the place of the extension module;
tests/test_operations_real.py has the same verbs with real images.
"""

from __future__ import annotations

import itertools
import pathlib
import pickle
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from recorder import ABORTED, Recorder, install
from support import LINUX, make_vhd

import virtdisk
from virtdisk import (
    CreateFlag,
    MirrorFlag,
    ProviderSubtype,
    StorageType,
    VirtualDiskError,
    _chain,
    _create,
    _operation,
)

MICROSOFT = bytes.fromhex("ec4a98ecf9a0e947901f71415a66345b")
GUID = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")
GUID_IN_MEMORY = bytes.fromhex("33221100554477668899aabbccddeeff")


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return install(monkeypatch)


@pytest.fixture
def disk(api: Recorder, tmp_path: pathlib.Path) -> virtdisk.VirtualDisk:
    opened = virtdisk.open(make_vhd(tmp_path / "a.vhd"))
    api.calls.clear()
    return opened


@pytest.fixture(autouse=True)
def closed_at_the_end(api: Recorder) -> Any:
    yield
    for handle in api.handles:
        handle.close()


# --- create -----------------------------------------------------------------


def created(api: Recorder) -> dict[str, Any]:
    call = api.only("CreateVirtualDisk")
    assert len(call.pop("resiliency_guid")) == 16
    return call


DEFAULTS: dict[str, Any] = {
    "device_id": 3,
    "vendor_id": MICROSOFT,
    "security_descriptor": None,
    "flags": 0,
    "version": 2,
    "unique_id": None,
    "maximum_size": 64 << 30,
    "block_size_in_bytes": 0,
    "sector_size_in_bytes": 0,
    "physical_sector_size_in_bytes": 0,
}


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        ({}, {}),
        ({"type": "dynamic"}, {}),
        ({"type": ProviderSubtype.DYNAMIC}, {}),
        ({"type": "fixed"}, {"flags": 1}),
        ({"type": "fixed", "flags": CreateFlag.SPARSE_FILE}, {"flags": 0x81}),
        ({"block_size": 1 << 20}, {"block_size_in_bytes": 1 << 20}),
        ({"sector_size": 4096}, {"sector_size_in_bytes": 4096}),
        ({"physical_sector_size": 512}, {"physical_sector_size_in_bytes": 512}),
        ({"id": GUID}, {"unique_id": GUID_IN_MEMORY}),
        ({"security": "D:P(A;;GA;;;WD)"}, {"security_descriptor": "D:P(A;;GA;;;WD)"}),
        ({"storage_type": StorageType.VHD}, {"device_id": 2}),
        ({"storage_type": 0}, {"device_id": 0, "vendor_id": None}),
    ],
)
def test_create(
    arguments: dict[str, Any],
    changed: dict[str, Any],
    api: Recorder,
    tmp_path: pathlib.Path,
) -> None:
    path = tmp_path / "new.vhdx"
    with virtdisk.create(path, 64 * virtdisk.GiB, **arguments) as disk:
        assert disk.path == str(path)
    call = created(api)
    assert call == {"path": str(path), **DEFAULTS, **changed}
    for value in call.values():
        assert type(value) in (int, bytes, str, type(None))


@pytest.mark.parametrize(
    ("name", "device_id"),
    [("a.vhd", 2), ("a.AVHD", 2), ("a.vhdx", 3), ("a.avhdx", 3)],
)
def test_name_says_what_to_make(
    name: str, device_id: int, api: Recorder, tmp_path: pathlib.Path
) -> None:
    virtdisk.create(tmp_path / name, 1 << 30).close()
    assert created(api)["device_id"] == device_id


@pytest.mark.parametrize(
    ("which", "other"), [("parent", "source"), ("source", "parent")]
)
def test_parent_and_source_are_named_with_their_types(
    which: str, other: str, api: Recorder, tmp_path: pathlib.Path
) -> None:
    base = make_vhd(tmp_path / "base.image")
    options: dict[str, Any] = {which: base}
    virtdisk.create(tmp_path / "a.vhdx", **options).close()
    call = created(api)
    assert call["maximum_size"] == 0
    assert call["flags"] == 0
    assert call[f"{which}_path"] == str(base)
    assert call[f"{which}_device_id"] == 2
    assert call[f"{which}_vendor_id"] == MICROSOFT
    assert f"{other}_path" not in call


def test_source_of_unknown_content(api: Recorder, tmp_path: pathlib.Path) -> None:
    raw = tmp_path / "disk.img"
    raw.write_bytes(bytes(1 << 20))
    virtdisk.create(tmp_path / "a.vhd", 8 << 20, type="fixed", source=raw).close()
    call = created(api)
    assert (call["source_device_id"], call["source_vendor_id"]) == (0, None)
    assert (call["maximum_size"], call["flags"]) == (8 << 20, 1)


@pytest.mark.parametrize(
    ("path", "arguments", "kind", "words"),
    [
        (b"a.vhd", {}, TypeError, "bytes"),
        ("a.img", {}, ValueError, "does not end in"),
        ("a.iso", {"storage_type": StorageType.ISO}, ValueError, "ISO"),
        ("a.vhd", {"storage_type": "vhd"}, TypeError, "storage_type"),
        ("a.vhd", {"storage_type": 9}, ValueError, "9 is not a valid"),
        ("a.vhd", {"size": None}, ValueError, "size is needed"),
        ("a.vhd", {"size": 0}, ValueError, "size is 0"),
        ("a.vhd", {"size": "64GiB"}, TypeError, "size must be an integer"),
        ("a.vhd", {"size": (3 << 20) - 512}, ValueError, "at least 3 MiB"),
        ("a.vhd", {"size": (3 << 20) + 1}, ValueError, "multiple of 512 bytes"),
        (
            "a.vhdx",
            {"size": (3 << 20) + 512, "sector_size": 4096},
            ValueError,
            "multiple of 4096 bytes",
        ),
        ("a.vhdx", {"size": (64 << 40) + 512}, ValueError, "at most 64 TiB"),
        ("a.vhd", {"size": 1 << 64}, ValueError, "64 bits"),
        ("a.vhd", {"size": -1}, ValueError, "64 bits"),
        ("a.vhd", {"type": "thin"}, ValueError, "type must be one of fixed"),
        ("a.vhd", {"type": 3}, ValueError, "type must be one of fixed"),
        ("a.vhd", {"type": "differencing"}, ValueError, "has a parent"),
        ("a.vhd", {"type": "fixed", "parent": "b.vhd"}, ValueError, "has a parent"),
        ("a.vhd", {"parent": "b", "source": "c"}, ValueError, "exclude"),
        ("a.vhd", {"parent": b"b"}, TypeError, "bytes"),
        ("a.vhd", {"block_size": 1.5}, TypeError, "block_size"),
        ("a.vhd", {"block_size": 1 << 32}, ValueError, "block_size does not fit"),
        ("a.vhd", {"block_size": 1 << 20}, ValueError, "524288, 2097152 "),
        ("a.vhdx", {"block_size": 3 << 20}, ValueError, "block_size is 3145728"),
        ("a.vhdx", {"block_size": 512 << 20}, ValueError, "268435456 "),
        ("a.vhd", {"sector_size": 4096}, ValueError, "must be one of 512 "),
        ("a.vhdx", {"sector_size": 1024}, ValueError, "one of 512, 4096 "),
        ("a.vhdx", {"physical_sector_size": 8192}, ValueError, "one of 512, 4096 "),
        ("a.vhd", {"sector_size": "4k"}, TypeError, "sector_size"),
        ("a.vhd", {"physical_sector_size": -1}, ValueError, "physical_sector_size"),
        ("a.vhd", {"id": str(GUID)}, TypeError, "id must be a uuid.UUID"),
        ("a.vhd", {"security": 5}, TypeError, "SDDL"),
        ("a.vhd", {"flags": 1 << 32}, ValueError, "32 bits"),
        ("a.vhd", {"progress": 5}, TypeError, "progress must be callable"),
    ],
)
def test_wrong_arguments_of_create(
    path: Any,
    arguments: dict[str, Any],
    kind: type[Exception],
    words: str,
    api: Recorder,
) -> None:
    with pytest.raises(kind, match=words):
        virtdisk.create(path, **{"size": 1 << 30, **arguments})
    assert api.calls == []


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("existed", [False, True])
def test_failed_create_leaves_nothing(
    windows: bool,
    existed: bool,
    api: Recorder,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Windows leaves a file to remove, but never one that was there before."""
    monkeypatch.setattr(_create, "WINDOWS", windows)
    path = tmp_path / "a.vhd"
    if existed:
        path.touch()
    api.outcome = 112

    def make(name: str, image: str, /, **arguments: Any) -> None:
        path.touch()
        arguments["overlapped"].start()

    monkeypatch.setattr(api, "_call", make)
    with pytest.raises(VirtualDiskError) as caught:
        virtdisk.create(path, 1 << 30)
    assert caught.value.winerror == 112
    assert [handle.closed for handle in api.handles] == [True]
    assert path.exists() == (existed or not windows)


def test_create_that_is_given_up_too_late_leaves_nothing(
    api: Recorder, tmp_path: pathlib.Path
) -> None:
    target = tmp_path / "new.vhd"
    api.steps = [(3, 7)]

    def make_and_raise(current: int, completion: int) -> None:
        target.write_bytes(b"whole")
        if current == completion:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        virtdisk.create(target, 1 << 30, progress=make_and_raise)
    assert not api.overlapped[0].cancelled
    assert api.handles[0].closed
    assert not target.exists()


@pytest.mark.parametrize("other", ["parent", "source"])
@pytest.mark.parametrize(
    ("code", "of_other"),
    [
        (32, True),
        (1392, True),
        (0xC03A0003, True),
        (0xC03A0014, True),
        (0xC03A0019, True),
        (5, False),
        (80, False),
        (112, False),
        (123, False),
        (0xC03A0012, False),
    ],
)
def test_failure_of_create_names_who_is_at_fault(
    code: int, of_other: bool, other: str, api: Recorder, tmp_path: pathlib.Path
) -> None:
    related, target = make_vhd(tmp_path / "other.vhd"), tmp_path / "new.vhd"
    api.fail["CreateVirtualDisk"] = code
    with pytest.raises(VirtualDiskError) as caught:
        virtdisk.create(
            target,
            parent=related if other == "parent" else None,
            source=related if other == "source" else None,
        )
    assert caught.value.winerror == code
    named = pathlib.Path(caught.value.filename).name
    assert (named == "other.vhd") is of_other


def test_create_that_does_not_begin(api: Recorder, tmp_path: pathlib.Path) -> None:
    api.fail["CreateVirtualDisk"] = 80
    with pytest.raises(virtdisk.ImageExistsError) as caught:
        virtdisk.create(tmp_path / "a.vhd", 1 << 30)
    assert caught.value.filename == str(tmp_path / "a.vhd")
    assert api.handles == []


# --- compact, resize, merge -------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        ({}, 0),
        ({"zero_scan": False}, 1),
        ({"block_moves": False}, 2),
        ({"zero_scan": False, "block_moves": False}, 3),
    ],
)
def test_compact(
    arguments: dict[str, Any], flags: int, api: Recorder, disk: virtdisk.VirtualDisk
) -> None:
    disk.compact(**arguments)
    assert api.calls == [("CompactVirtualDisk", {"flags": flags})]


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        ({"size": 1 << 30}, {"new_size": 1 << 30, "flags": 0}),
        ({"size": 0}, {"new_size": 0, "flags": 0}),
        ({"smallest": True}, {"new_size": 0, "flags": 2}),
        ({"size": 512, "allow_unsafe": True}, {"new_size": 512, "flags": 1}),
    ],
)
def test_resize(
    arguments: dict[str, Any],
    call: dict[str, int],
    api: Recorder,
    disk: virtdisk.VirtualDisk,
) -> None:
    disk.resize(**arguments)
    assert api.calls == [("ResizeVirtualDisk", call)]


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({}, ValueError, "either a size or smallest"),
        ({"size": 1, "smallest": True}, ValueError, "either a size or smallest"),
        ({"smallest": True, "allow_unsafe": True}, ValueError, "exclude"),
        ({"size": 1.5}, TypeError, "size must be an integer"),
        ({"size": True}, TypeError, "not bool"),
        ({"size": -1}, ValueError, "64 bits"),
        ({"size": 1, "progress": 1}, TypeError, "progress"),
    ],
)
def test_wrong_arguments_of_resize(
    arguments: dict[str, Any],
    kind: type[Exception],
    words: str,
    api: Recorder,
    disk: virtdisk.VirtualDisk,
) -> None:
    with pytest.raises(kind, match=words):
        disk.resize(**arguments)
    assert api.calls == []


@pytest.mark.parametrize(
    ("arguments", "source", "target"),
    [
        ({}, 1, 2),
        ({"target_depth": 4}, 1, 4),
        ({"source_depth": 2, "target_depth": 3}, 2, 3),
    ],
)
def test_merge(
    arguments: dict[str, Any],
    source: int,
    target: int,
    api: Recorder,
    disk: virtdisk.VirtualDisk,
) -> None:
    disk.merge(**arguments)
    depths = {"merge_source_depth": source, "merge_target_depth": target}
    assert api.calls == [("MergeVirtualDisk", {"version": 2, **depths})]


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"source_depth": 0}, ValueError),
        ({"source_depth": 2}, ValueError),
        ({"target_depth": 1}, ValueError),
        ({"target_depth": "2"}, TypeError),
        ({"source_depth": True}, TypeError),
        ({"progress": "print"}, TypeError),
    ],
)
def test_wrong_arguments_of_merge(
    arguments: dict[str, Any],
    kind: type[Exception],
    api: Recorder,
    disk: virtdisk.VirtualDisk,
) -> None:
    with pytest.raises(kind):
        disk.merge(**arguments)
    assert api.calls == []


# --- mirror -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        ({}, 0),
        ({"existing": True}, 1),
        ({"flags": MirrorFlag.ENABLE_SMB_COMPRESSION, "existing": True}, 5),
    ],
)
def test_mirror_is_broken_off_when_it_is_complete(
    arguments: dict[str, Any],
    flags: int,
    api: Recorder,
    disk: virtdisk.VirtualDisk,
    tmp_path: pathlib.Path,
) -> None:
    target = tmp_path / "copy.vhd"
    api.endless = True
    api.steps = [(0, 0), (0, 100), (50, 100), (100, 100), (100, 100)]
    disk.mirror(target, **arguments)
    assert api.calls == [
        ("MirrorVirtualDisk", {"path": str(target), "flags": flags}),
        ("BreakMirrorVirtualDisk", {}),
    ]
    assert disk.path == str(target)
    assert not api.overlapped[0].cancelled


def test_mirror_that_is_interrupted_is_given_up(
    api: Recorder, disk: virtdisk.VirtualDisk, tmp_path: pathlib.Path
) -> None:
    before = disk.path
    api.endless = True
    api.interrupt = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        disk.mirror(tmp_path / "copy.vhd")
    assert api.names() == ["MirrorVirtualDisk"]
    assert api.overlapped[0].cancelled
    assert disk.path == before


def test_mirror_that_is_interrupted_too_late_is_the_copy(
    api: Recorder, disk: virtdisk.VirtualDisk, tmp_path: pathlib.Path
) -> None:
    """The handle stands for the copy, and so does the path."""
    target = tmp_path / "copy.vhd"

    def interrupt_after(current: int, completion: int) -> None:
        if current == completion:
            api.interrupt = KeyboardInterrupt()

    api.endless, api.steps = True, [(0, 9), (9, 9), (9, 9)]
    with pytest.raises(KeyboardInterrupt):
        disk.mirror(target, progress=interrupt_after)
    assert api.names() == ["MirrorVirtualDisk", "BreakMirrorVirtualDisk"]
    assert not api.overlapped[0].cancelled
    assert disk.path == str(target)


@pytest.mark.parametrize("linkage_id", [None, GUID])
@pytest.mark.parametrize(
    ("code", "of_parent"),
    [(2, True), (3, True), (0xC03A0014, True), (0xC03A001B, False), (5, False)],
)
def test_failure_of_reconnect_names_who_is_at_fault(
    code: int,
    of_parent: bool,
    linkage_id: uuid.UUID | None,
    api: Recorder,
    disk: virtdisk.VirtualDisk,
    tmp_path: pathlib.Path,
) -> None:
    api.fail["SetVirtualDiskInformation"] = code
    with pytest.raises(VirtualDiskError) as caught:
        disk.reconnect(tmp_path / "other.vhd", linkage_id=linkage_id)
    assert caught.value.winerror == code
    named = pathlib.Path(caught.value.filename).name
    assert (named == "other.vhd") is of_parent


@pytest.mark.parametrize(
    ("code", "named"), [(80, "copy"), (112, "copy"), (3, "copy"), (50, "a"), (5, "a")]
)
def test_failure_of_a_mirror_names_who_is_at_fault(
    code: int,
    named: str,
    api: Recorder,
    disk: virtdisk.VirtualDisk,
    tmp_path: pathlib.Path,
) -> None:
    api.fail["MirrorVirtualDisk"] = code
    with pytest.raises(VirtualDiskError) as caught:
        disk.mirror(tmp_path / "copy.vhd")
    assert caught.value.winerror == code
    assert (pathlib.Path(caught.value.filename).stem == "copy") is (named == "copy")


def test_mirror_that_fails(
    api: Recorder, disk: virtdisk.VirtualDisk, tmp_path: pathlib.Path
) -> None:
    api.steps, api.outcome = [(1, 100)], 112
    with pytest.raises(VirtualDiskError) as caught:
        disk.mirror(tmp_path / "copy.vhd")
    assert caught.value.winerror == 112
    assert api.names() == ["MirrorVirtualDisk"]


def test_wrong_arguments_of_mirror(api: Recorder, disk: virtdisk.VirtualDisk) -> None:
    for target, arguments in (("", {}), (b"a", {}), ("a", {"flags": "1"})):
        with pytest.raises((TypeError, ValueError)):
            disk.mirror(target, **arguments)  # type: ignore[arg-type]
    assert api.calls == []


# --- Progress, interruption, failure ----------------------------------------

VERBS: list[Callable[..., None]] = [
    lambda disk, **options: disk.compact(**options),
    lambda disk, **options: disk.resize(1 << 20, **options),
    lambda disk, **options: disk.merge(**options),
    lambda disk, **options: virtdisk.create(
        disk.path + ".vhd", 1 << 30, **options
    ).close(),
]
NAMES = ["compact", "resize", "merge", "create"]
every_verb = pytest.mark.parametrize("verb", VERBS, ids=NAMES)


@every_verb
def test_progress(
    verb: Callable[..., None], api: Recorder, disk: virtdisk.VirtualDisk
) -> None:
    api.steps = [(0, 0), (0, 7), (3, 7), (3, 7), (7, 7)]
    told: list[tuple[int, int]] = []
    verb(disk, progress=lambda *values: told.append(values))
    assert told == [(0, 7), (3, 7), (7, 7)]


@every_verb
@pytest.mark.parametrize(
    ("steps", "last"), [([], (1, 1)), ([(0, 9)], (9, 9)), ([(0, 0)], (1, 1))]
)
def test_progress_of_what_is_over_at_once(
    verb: Callable[..., None],
    steps: list[tuple[int, int]],
    last: tuple[int, int],
    api: Recorder,
    disk: virtdisk.VirtualDisk,
) -> None:
    """The last word of a success is always that all is done."""
    api.steps = steps
    told: list[tuple[int, int]] = []
    verb(disk, progress=lambda *values: told.append(values))
    assert told[-1] == last


@every_verb
def test_failure_is_not_told_as_complete(
    verb: Callable[..., None], api: Recorder, disk: virtdisk.VirtualDisk
) -> None:
    api.steps, api.outcome = [(3, 7)], 112
    told: list[tuple[int, int]] = []
    with pytest.raises(VirtualDiskError) as caught:
        verb(disk, progress=lambda *values: told.append(values))
    assert caught.value.winerror == 112
    assert told == [(3, 7)]


@every_verb
@pytest.mark.parametrize("progress", [None, lambda *_: None])
def test_ctrl_c_cancels_and_waits(
    verb: Callable[..., None],
    progress: Any,
    api: Recorder,
    disk: virtdisk.VirtualDisk,
) -> None:
    api.endless = True
    api.interrupt = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        verb(disk, progress=progress)
    (overlapped,) = api.overlapped
    assert (overlapped.cancelled, overlapped.pending) == (True, False)
    assert overlapped.code == ABORTED


@every_verb
def test_ctrl_c_when_it_has_just_begun(
    verb: Callable[..., None], api: Recorder, disk: virtdisk.VirtualDisk
) -> None:
    """The interpreter raises it between the call's return and what follows."""
    api.endless = True
    api.interrupt_start = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        verb(disk)
    (overlapped,) = api.overlapped
    assert (overlapped.cancelled, overlapped.pending) == (True, False)


@every_verb
def test_progress_that_raises_cancels(
    verb: Callable[..., None], api: Recorder, disk: virtdisk.VirtualDisk
) -> None:
    api.endless, api.steps = True, [(1, 7), (2, 7)]
    with pytest.raises(ZeroDivisionError):
        verb(disk, progress=lambda current, _: 1 // (current - 1))
    (overlapped,) = api.overlapped
    assert (overlapped.cancelled, overlapped.pending) == (True, False)


@every_verb
def test_progress_print(
    verb: Callable[..., None],
    api: Recorder,
    disk: virtdisk.VirtualDisk,
    capsys: pytest.CaptureFixture[str],
) -> None:
    api.steps = [(0, 2), (1, 2)]
    verb(disk, progress=print)
    assert capsys.readouterr().out == "0 2\n1 2\n2 2\n"


@every_verb
def test_what_does_not_begin_is_not_cancelled(
    verb: Callable[..., None], api: Recorder, disk: virtdisk.VirtualDisk
) -> None:
    for name in ("Compact", "Resize", "Merge", "Create"):
        api.fail[f"{name}VirtualDisk"] = 5
    with pytest.raises(virtdisk.AccessDeniedError):
        verb(disk)
    (overlapped,) = api.overlapped
    assert not overlapped.cancelled


@pytest.mark.skipif(not LINUX, reason="looks into /proc")
def test_sharing_violation_names_the_device(
    api: Recorder, disk: virtdisk.VirtualDisk
) -> None:
    api.outcome = 32
    with pytest.raises(virtdisk.SharingViolationError) as caught:
        disk.compact()
    assert "attached as /dev/null" in (caught.value.remedy or "")


def test_intervals_grow_to_a_bound() -> None:
    told = list(itertools.islice(_operation.intervals(), 20))
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0.001, 0.1)


def test_progress_as_a_value() -> None:
    assert virtdisk.Progress(1, 4).fraction == 0.25
    assert virtdisk.Progress(0, 0).fraction == 0.0
    assert virtdisk.Progress(9, 4).fraction == 1.0
    assert pickle.loads(pickle.dumps(virtdisk.Progress(1, 4))) == (1, 4)


# --- reconnect and set_info -------------------------------------------------


def test_reconnect(
    api: Recorder, disk: virtdisk.VirtualDisk, tmp_path: pathlib.Path
) -> None:
    parent = str(tmp_path / "parent.vhd")
    disk.reconnect(parent)
    disk.reconnect(pathlib.Path(parent), depth=3)
    disk.reconnect(parent, linkage_id=GUID)
    name = "SetVirtualDiskInformation"
    assert api.calls == [
        (name, {"version": 3, "child_depth": 1, "parent_file_path": parent}),
        (name, {"version": 3, "child_depth": 3, "parent_file_path": parent}),
        (
            name,
            {"version": 7, "linkage_id": GUID_IN_MEMORY, "parent_file_path": parent},
        ),
    ]


@pytest.mark.parametrize(
    ("parent", "arguments", "kind"),
    [
        ("", {}, ValueError),
        (b"a", {}, TypeError),
        ("a", {"depth": 0}, ValueError),
        ("a", {"depth": "1"}, TypeError),
        ("a", {"depth": 2, "linkage_id": GUID}, ValueError),
        ("a", {"linkage_id": "x"}, TypeError),
    ],
)
def test_wrong_arguments_of_reconnect(
    parent: Any,
    arguments: dict[str, Any],
    kind: type[Exception],
    api: Recorder,
    disk: virtdisk.VirtualDisk,
) -> None:
    with pytest.raises(kind):
        disk.reconnect(parent, **arguments)
    assert api.calls == []


def test_set_info(api: Recorder, disk: virtdisk.VirtualDisk) -> None:
    disk.set_info(
        change_tracking=False,
        physical_sector_size=4096,
        virtual_disk_id=GUID,
        identifier=GUID,
    )
    assert [arguments for _, arguments in api.calls] == [
        {"version": 2, "unique_identifier": GUID_IN_MEMORY},
        {"version": 5, "virtual_disk_id": GUID_IN_MEMORY},
        {"version": 4, "vhd_physical_sector_size": 4096},
        {"version": 6, "change_tracking_enabled": False},
    ]
    assert set(api.names()) == {"SetVirtualDiskInformation"}


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({}, ValueError),
        ({"identifier": "x"}, TypeError),
        ({"identifier": GUID, "virtual_disk_id": b"x" * 16}, TypeError),
        ({"identifier": GUID, "physical_sector_size": 512.0}, TypeError),
        ({"identifier": GUID, "physical_sector_size": -1}, ValueError),
    ],
)
def test_wrong_arguments_of_set_info(
    arguments: dict[str, Any],
    kind: type[Exception],
    api: Recorder,
    disk: virtdisk.VirtualDisk,
) -> None:
    with pytest.raises(kind):
        disk.set_info(**arguments)
    assert api.calls == []


# --- metadata ---------------------------------------------------------------


def test_metadata_is_a_mapping(api: Recorder, disk: virtdisk.VirtualDisk) -> None:
    items = disk.metadata
    assert (len(items), dict(items)) == (0, {})
    items[GUID] = b"value"
    assert api.items == {GUID_IN_MEMORY: b"value"}
    assert items[GUID] == b"value"
    assert list(items) == [GUID]
    assert GUID in items
    assert "GUID" not in items
    assert repr(items) == f"<metadata of {disk.path!r}, 1 items>"
    assert items.pop(GUID) == b"value"
    assert api.items == {}
    assert items.get(GUID) is None
    with pytest.raises(KeyError):
        del items[GUID]
    with pytest.raises(KeyError):
        items[GUID]
    disk.close()
    assert "closed" in repr(items)


def test_metadata_of_an_image_without_can_be_shown(
    api: Recorder, disk: virtdisk.VirtualDisk
) -> None:
    api.fail["EnumerateVirtualDiskMetadata"] = 50
    assert repr(disk.metadata) == f"<metadata of {disk.path!r}, not to be had>"


def test_metadata_of_the_wrong_types(api: Recorder, disk: virtdisk.VirtualDisk) -> None:
    items: Any = disk.metadata
    for use in (
        items.__getitem__,
        items.__delitem__,
        lambda key: items.update({key: b""}),
    ):
        with pytest.raises(TypeError, match=r"uuid\.UUID, not str"):
            use(str(GUID))
    assert api.calls == []


def test_other_failures_of_metadata_are_told(
    api: Recorder, disk: virtdisk.VirtualDisk
) -> None:
    api.fail = {"GetVirtualDiskMetadata": 50, "DeleteVirtualDiskMetadata": 5}
    with pytest.raises(VirtualDiskError) as caught:
        disk.metadata[GUID]
    assert caught.value.winerror == 50
    with pytest.raises(virtdisk.AccessDeniedError):
        del disk.metadata[GUID]


# --- dependencies -----------------------------------------------------------

ENTRIES = [
    (0x21, 0, 3, MICROSOFT, 2, r"\\.\PhysicalDrive2", "", None, ""),
    (0x04, 0, 9, bytes(16), 1, "disk", "volume", "dependent", "folder/a.vhd"),
]


@pytest.mark.parametrize("windows", [False, True])
def test_dependencies(
    windows: bool,
    api: Recorder,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_chain, "WINDOWS", windows)
    api.dependencies = ENTRIES
    near, far = virtdisk.dependencies(tmp_path)
    assert api.calls == [
        ("GetStorageDependencyInformation", {"path": str(tmp_path), "flags": 1})
    ]
    assert (near.level, near.storage_type) == (1, 9)
    assert near.flags is virtdisk.DependentDiskFlag.READ_ONLY
    assert near.path == ("volume\\folder/a.vhd" if windows else "volume/folder/a.vhd")
    assert (near.device, near.dependent_volume) == ("disk", "dependent")
    assert (far.level, far.storage_type) == (2, StorageType.VHDX)
    assert far.vendor_id.bytes_le == MICROSOFT
    assert far.host_volume is far.relative_path is far.dependent_volume is None
    assert far.path is None


@pytest.mark.parametrize("code", [1, 0xC03A0015])
def test_what_stands_on_no_image(
    code: int, api: Recorder, tmp_path: pathlib.Path
) -> None:
    api.fail["GetStorageDependencyInformation"] = code
    assert virtdisk.dependencies(tmp_path) == []


def test_other_failures_of_dependencies(api: Recorder, tmp_path: pathlib.Path) -> None:
    api.fail["GetStorageDependencyInformation"] = 5
    with pytest.raises(virtdisk.AccessDeniedError):
        virtdisk.dependencies(tmp_path, hosted=True)
    assert api.only("GetStorageDependencyInformation")["flags"] == 0
