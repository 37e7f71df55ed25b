"""The verbs that make and change whole images, with the engine.

QEMU and arithmetic say what is right.
"""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from support import (
    LINUX,
    let_go,
    make_iso,
    make_vhd,
    pattern,
    require_loop,
    require_tool,
    sha256,
)

import virtdisk
from virtdisk import AttachFlag, ProviderSubtype, StorageType, VirtualDiskError

pytestmark = pytest.mark.skipif(not LINUX, reason="the engine's behaviour")

MIB = 1 << 20
GUID = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")


def qemu_info(image: pathlib.Path, kind: str) -> dict[str, Any]:
    tool = require_tool("qemu-img", package="qemu-utils")
    words = [tool, "info", "-f", kind, "--output=json", str(image)]
    out = subprocess.check_output(words)
    answer: dict[str, Any] = json.loads(out)
    return answer


def qemu_same(image: pathlib.Path, raw: pathlib.Path, kind: str) -> None:
    tool = require_tool("qemu-img", package="qemu-utils")
    words = [tool, "compare", "-f", kind, "-F", "raw", str(image), str(raw)]
    subprocess.run(words, check=True, capture_output=True)


def put(disk: virtdisk.VirtualDisk, offset: int, data: bytes) -> None:
    """Writes to a disk that is not attached."""
    disk.attach(flags=AttachFlag.NO_LOCAL_HOST)
    with disk.raw("r+b") as file:
        file.seek(offset)
        file.write(data)
    disk.detach()


def get(path: pathlib.Path) -> bytes:
    """All that a disk holds."""
    with virtdisk.attach(path, read_only=True, flags=AttachFlag.NO_LOCAL_HOST) as disk:
        return disk.raw().read()


# --- create -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "subtype", "block", "sectors"),
    [
        ("a.vhd", {}, ProviderSubtype.DYNAMIC, 2 * MIB, (512, 512)),
        ("a.vhd", {"type": "fixed"}, ProviderSubtype.FIXED, 0, (512, 512)),
        ("a.vhdx", {}, ProviderSubtype.DYNAMIC, 32 * MIB, (512, 4096)),
        (
            "a.vhdx",
            {"block_size": MIB, "sector_size": 4096},
            ProviderSubtype.DYNAMIC,
            MIB,
            (4096, 4096),
        ),
        (
            "a.vhdx",
            {"physical_sector_size": 512},
            ProviderSubtype.DYNAMIC,
            32 * MIB,
            (512, 512),
        ),
    ],
)
def test_create(
    name: str,
    options: dict[str, Any],
    subtype: ProviderSubtype,
    block: int,
    sectors: tuple[int, int],
    tmp_path: pathlib.Path,
) -> None:
    path = tmp_path / name
    with virtdisk.create(path, 64 * MIB, id=GUID, **options) as disk:
        info = disk.info
    assert info.virtual_size == 64 * MIB
    assert info.subtype is subtype
    assert info.block_size == block
    assert (info.sector_size, info.physical_sector_size) == sectors
    is_vhd = info.storage_type is StorageType.VHD
    assert is_vhd == name.endswith(".vhd")
    assert (info.identifier if is_vhd else info.virtual_disk_id) == GUID
    if sectors[0] == 512:
        said = qemu_info(path, "vpc" if is_vhd else "vhdx")
        assert said["virtual-size"] == 64 * MIB


def test_fixed_image_has_its_space(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.vhdx"
    virtdisk.create(path, 16 * MIB, type="fixed").close()
    assert path.stat().st_blocks * 512 >= 16 * MIB


def test_created_disk_is_used_at_once(tmp_path: pathlib.Path) -> None:
    require_loop()
    with virtdisk.create(tmp_path / "a.vhdx", 64 * MIB) as disk:
        disk.attach()
        with disk.raw("r+b") as file:
            file.write(pattern(MIB))
        disk.detach()
    assert get(tmp_path / "a.vhdx") == pattern(MIB) + bytes(63 * MIB)
    assert let_go(tmp_path)


@pytest.mark.parametrize(
    ("name", "size", "options", "code"),
    [
        ("no/a.vhd", 64 * MIB, {}, 3),
        ("there.vhd", 64 * MIB, {}, 80),
        ("a.vhd", None, {"parent": "none.vhd"}, 2),
        ("a.vhdx", None, {"source": "no.image"}, 2),
    ],
)
def test_create_that_is_refused(
    name: str,
    size: int | None,
    options: dict[str, Any],
    code: int,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    pathlib.Path("there.vhd").write_bytes(b"precious")
    with pytest.raises(VirtualDiskError) as caught:
        virtdisk.create(name, size, **options)
    assert caught.value.winerror == code
    assert os.listdir() == ["there.vhd"]
    assert pathlib.Path("there.vhd").read_bytes() == b"precious"


def test_ctrl_c_while_an_image_is_made(tmp_path: pathlib.Path) -> None:
    """The process gets SIGINT in the middle; no file is left."""
    source = make_vhd(tmp_path / "in.vhd", 128 * MIB)
    code = (
        "import os, signal, sys, virtdisk\n"
        "def interrupt(current, completion):\n"
        "    if current < completion: os.kill(os.getpid(), signal.SIGINT)\n"
        "for _ in range(100):\n"
        "    try:\n"
        "        virtdisk.convert(sys.argv[1], sys.argv[2], progress=interrupt)\n"
        "        os.remove(sys.argv[2])  # done before anybody looked\n"
        "    except KeyboardInterrupt:\n"
        "        print('interrupted')\n"
        "        break\n"
    )
    words = [sys.executable, "-P", "-c", code, str(source), str(tmp_path / "out.vhdx")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")
    assert os.listdir(tmp_path) == ["in.vhd"]


def interrupted_after(function: str, verb: Callable[[], object]) -> list[Any]:
    """Ctrl-C at the moment that a function of the binding returns.

    Returns:
        The Overlapped that the traceback still holds.
    """

    def interrupt(_: object, event: str, what: object) -> None:
        if event == "c_return" and getattr(what, "__name__", "") == function:
            sys.setprofile(None)
            raise KeyboardInterrupt

    try:
        sys.setprofile(interrupt)
        with pytest.raises(KeyboardInterrupt) as caught:
            verb()
    finally:
        sys.setprofile(None)
    frames = [entry.frame.f_locals for entry in caught.traceback]
    return [names["overlapped"] for names in frames if "overlapped" in names]


def test_ctrl_c_when_a_call_returns(tmp_path: pathlib.Path) -> None:
    """Nothing goes on behind the back of whoever catches it."""
    with virtdisk.create(tmp_path / "a.vhdx", 64 * MIB) as disk:
        begun = interrupted_after("CompactVirtualDisk", disk.compact)
        assert begun
        assert not any(overlapped.pending for overlapped in begun)


def test_ctrl_c_when_creating_returns(tmp_path: pathlib.Path) -> None:
    begun = interrupted_after(
        "CreateVirtualDisk",
        lambda: virtdisk.create(tmp_path / "a.vhd", 256 * MIB, type="fixed"),
    )
    assert begun
    assert not any(overlapped.pending for overlapped in begun)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        *itertools.product(["create"], ["a.vhd", "a.vhdx"]),
        *itertools.product(["convert", "convert raw"], ["a.vhd", "a.vhdx", "a.img"]),
    ],
)
def test_progress_that_raises_at_the_end(
    verb: str, name: str, tmp_path: pathlib.Path
) -> None:
    """It is too late to cancel: the finished file is removed."""
    source = tmp_path / ("in.img" if verb == "convert raw" else "in.vhd")
    make_vhd(tmp_path / "in.vhd", 4 * MIB)
    (tmp_path / "in.img").write_bytes(b"x" * 4 * MIB)

    def refuse(current: int, completion: int) -> None:
        if current < completion:
            return
        deadline = time.monotonic() + 30
        while not (tmp_path / name).exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        raise ZeroDivisionError

    target = tmp_path / name
    make: dict[str, Callable[[], object]] = {
        "create": lambda: virtdisk.create(target, 4 * MIB, progress=refuse),
        "convert": lambda: virtdisk.convert(source, target, progress=refuse),
        "convert raw": lambda: virtdisk.convert(source, target, progress=refuse),
    }
    with pytest.raises(ZeroDivisionError):
        make[verb]()
    assert sorted(os.listdir(tmp_path)) == ["in.img", "in.vhd"]


def test_copy_with_fewer_threads(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no more can be had, none is left reading what is closed."""
    data = pattern(24 * MIB)
    (tmp_path / "in.img").write_bytes(data)
    start = threading.Thread.start
    asked: list[threading.Thread] = []

    def start_two(thread: threading.Thread) -> None:
        asked.append(thread)
        if len(asked) > 2:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_two)
    virtdisk.convert(tmp_path / "in.img", tmp_path / "out.img", source_type="raw")
    assert len(asked) == 3
    assert not any(thread.is_alive() for thread in asked)
    assert (tmp_path / "out.img").read_bytes() == data


# --- convert ----------------------------------------------------------------


@pytest.mark.parametrize(
    "targets",
    [
        ["b.vhd", "c.vhdx", "d.img"],
        ["b.vhdx", "c.vhd", "d.raw"],
        ["b.vhd", "c.raw", "d.vhdx"],
    ],
)
@pytest.mark.parametrize("kind", ["dynamic", "fixed"])
def test_round_trip(targets: list[str], kind: Any, tmp_path: pathlib.Path) -> None:
    raw = tmp_path / "a.img"
    raw.write_bytes(pattern(3 * MIB) + bytes(7 * MIB) + pattern(2 * MIB, 2))
    last = raw
    for name in targets:
        path = tmp_path / name
        is_raw = path.suffix in (".img", ".raw")
        virtdisk.convert(last, path, type=None if is_raw else kind)
        form = {".vhd": "vpc", ".vhdx": "vhdx"}.get(path.suffix, "raw")
        qemu_same(path, raw, form)
        last = path
    virtdisk.convert(last, tmp_path / "z.raw")
    assert sha256(tmp_path / "z.raw") == sha256(raw)


def test_raw_file_of_any_name(tmp_path: pathlib.Path) -> None:
    raw = tmp_path / "disk.bin"
    raw.write_bytes(pattern(4 * MIB + 100))
    with pytest.raises(VirtualDiskError) as caught:
        virtdisk.convert(raw, tmp_path / "a.vhdx")
    assert caught.value.winerror == 0xC03A0014
    assert "source_type='raw'" in (caught.value.remedy or "")
    virtdisk.convert(raw, tmp_path / "a.vhdx", source_type="raw", block_size=MIB)
    assert get(tmp_path / "a.vhdx") == raw.read_bytes().ljust(4 * MIB + 512, b"\0")
    with virtdisk.open(tmp_path / "a.vhdx") as disk:
        assert disk.info.block_size == MIB


def test_image_taken_for_what_it_is_said_to_be(tmp_path: pathlib.Path) -> None:
    """A whole VHD file as the content of a disk."""
    image = make_vhd(tmp_path / "in.img")
    virtdisk.convert(image, tmp_path / "out.vhdx", source_type="raw")
    assert get(tmp_path / "out.vhdx") == image.read_bytes()


def test_failed_copy_of_ours_leaves_nothing(tmp_path: pathlib.Path) -> None:
    raw = tmp_path / "disk.bin"
    raw.write_bytes(pattern(4 * MIB))
    (tmp_path / "there.vhdx").write_bytes(b"precious")
    with pytest.raises(virtdisk.ImageExistsError):
        virtdisk.convert(raw, tmp_path / "there.vhdx", source_type="raw")
    assert (tmp_path / "there.vhdx").read_bytes() == b"precious"
    with pytest.raises(VirtualDiskError):
        virtdisk.convert(raw, tmp_path / "a.vhdx", source_type="raw", flags=1 << 20)
    with pytest.raises(FileNotFoundError):
        virtdisk.convert(tmp_path / "none.img", tmp_path / "b.raw")
    assert sorted(os.listdir(tmp_path)) == ["disk.bin", "there.vhdx"]


def test_error_names_the_file_that_is_not_there(tmp_path: pathlib.Path) -> None:
    target, missing = tmp_path / "a.vhdx", tmp_path / "none.vhdx"
    with pytest.raises(FileNotFoundError) as caught:
        virtdisk.create(target, parent=missing)
    assert caught.value.filename == str(missing)
    with pytest.raises(FileNotFoundError) as caught:
        virtdisk.create(target, source=missing)
    assert caught.value.filename == str(missing)
    with pytest.raises(FileNotFoundError) as caught:
        virtdisk.create(tmp_path / "no" / "a.vhdx", 64 * MIB)
    assert caught.value.filename == str(tmp_path / "no" / "a.vhdx")


def test_error_names_the_source_that_is_in_use(tmp_path: pathlib.Path) -> None:
    require_loop()
    source = make_vhd(tmp_path / "a.vhd")
    with virtdisk.attach(source) as disk:
        device = disk.physical_path
        with pytest.raises(VirtualDiskError) as caught:
            virtdisk.convert(source, tmp_path / "b.vhdx")
    assert (caught.value.winerror, caught.value.filename) == (32, str(source))
    assert device in (caught.value.remedy or "")


def test_block_device_becomes_an_image(tmp_path: pathlib.Path) -> None:
    require_loop()
    image = make_vhd(tmp_path / "a.vhd")
    with virtdisk.attach(image, read_only=True) as disk:
        virtdisk.convert(disk.physical_path, tmp_path / "b.vhdx")
        virtdisk.convert(disk.physical_path, tmp_path / "c.raw")
    assert get(tmp_path / "b.vhdx") == pattern(4 * MIB)
    assert (tmp_path / "c.raw").read_bytes() == pattern(4 * MIB)


# --- chain and dependencies -------------------------------------------------


def make_chain(folder: pathlib.Path, suffix: str) -> list[pathlib.Path]:
    """Three images, the leaf first."""
    paths = [folder / f"{name}{suffix}" for name in ("leaf", "middle", "base")]
    virtdisk.create(paths[2], 16 * MIB).close()
    virtdisk.create(paths[1], parent=paths[2]).close()
    virtdisk.create(paths[0], parent=paths[1]).close()
    return paths


@pytest.mark.parametrize("suffix", [".vhd", ".vhdx"])
def test_chain(suffix: str, tmp_path: pathlib.Path) -> None:
    paths = make_chain(tmp_path, suffix)
    links = virtdisk.chain(paths[0])
    assert [link.path for link in links] == [str(path) for path in paths]
    assert [link.error for link in links] == [None] * 3
    subtypes = [link.info.subtype for link in links]
    assert subtypes == [ProviderSubtype.DIFFERENCING] * 2 + [ProviderSubtype.DYNAMIC]
    assert links[2].info.parent is None
    for child, parent in itertools.pairwise(links):
        assert child.info.parent is not None
        assert child.info.parent.resolved
        assert child.info.parent.identifier == parent.info.identifier


@pytest.mark.parametrize("suffix", [".vhd", ".vhdx"])
def test_broken_chain(suffix: str, tmp_path: pathlib.Path) -> None:
    paths = make_chain(tmp_path, suffix)
    paths[2].rename(tmp_path / "elsewhere")
    links = virtdisk.chain(paths[0])
    assert [link.path for link in links] == [str(path) for path in paths[:2]]
    codes = [link.error.winerror for link in links if link.error]
    assert codes == [0xC03A0019, 0xC03A000D]
    parent = links[1].info.parent
    assert parent is not None
    assert not parent.resolved
    assert str(paths[2]) in parent.paths


def test_chain_of_one(tmp_path: pathlib.Path) -> None:
    for make, name in ((make_vhd, "a.vhd"), (make_iso, "a.iso")):
        (link,) = virtdisk.chain(make(tmp_path / name))
        assert (link.info.parent, link.error) == (None, None)
    with pytest.raises(FileNotFoundError):
        virtdisk.chain(tmp_path / "none.vhd")
    (tmp_path / "bad.iso").write_bytes((tmp_path / "a.iso").read_bytes()[:-1])
    with pytest.raises(virtdisk.ImageCorruptError):
        virtdisk.chain(tmp_path / "bad.iso")


def test_dependencies(tmp_path: pathlib.Path) -> None:
    require_loop()
    image = make_vhd(tmp_path / "a.vhd")
    assert virtdisk.dependencies(tmp_path) == []
    with virtdisk.attach(image, read_only=True) as disk:
        (entry,) = virtdisk.dependencies(disk.physical_path)
        assert entry.path == str(image)
        assert entry.device == disk.physical_path
        assert (entry.level, entry.storage_type) == (1, StorageType.VHD)
        assert entry.flags & virtdisk.DependentDiskFlag.READ_ONLY
        assert entry.flags & virtdisk.DependentDiskFlag.FULLY_ALLOCATED
        assert str(entry.vendor_id) == "ec984aec-a0f9-47e9-901f-71415a66345b"
        hosted = virtdisk.dependencies(tmp_path, hosted=True)
        assert str(image) in [one.path for one in hosted]
    with pytest.raises(FileNotFoundError):
        virtdisk.dependencies(tmp_path / "none")


# --- resize and compact -----------------------------------------------------


def test_resize(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.vhdx"
    with virtdisk.create(path, 64 * MIB) as disk:
        put(disk, 0, pattern(MIB))
        told: list[tuple[int, int]] = []
        disk.resize(96 * MIB, progress=lambda *values: told.append(values))
        assert disk.info.virtual_size == 96 * MIB
        assert told[-1][0] == told[-1][1] > 0
        with pytest.raises(VirtualDiskError) as caught:
            disk.resize(32 * MIB)
        assert caught.value.winerror == 0xC03A0026  # there is no partition table
        assert "allow_unsafe" in (caught.value.remedy or "")
        disk.resize(32 * MIB, allow_unsafe=True)
        assert disk.info.virtual_size == 32 * MIB
    assert get(path) == pattern(MIB) + bytes(31 * MIB)
    assert qemu_info(path, "vhdx")["virtual-size"] == 32 * MIB


@pytest.mark.parametrize("name", ["a.vhd", "a.vhdx"])
def test_compact(name: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / name
    with virtdisk.create(path, 64 * MIB, block_size=2 * MIB) as disk:
        put(disk, 0, pattern(16 * MIB))
        put(disk, 32 * MIB, pattern(MIB, 2))
        put(disk, 0, bytes(16 * MIB))
        before = path.stat().st_size
        told: list[tuple[int, int]] = []
        disk.compact(progress=lambda *values: told.append(values))
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] > 0
    assert path.stat().st_size <= before - 14 * MIB
    raw = bytes(32 * MIB) + pattern(MIB, 2) + bytes(31 * MIB)
    assert get(path) == raw


# --- merge and mirror -------------------------------------------------------

SUFFIXES = [".vhd", ".vhdx"]
by_suffix = pytest.mark.parametrize("suffix", SUFFIXES)


@by_suffix
@pytest.mark.parametrize(
    ("source", "target", "gone"), [(1, 2, [0]), (1, 3, [0, 1]), (2, 3, [1])]
)
def test_merge(
    suffix: str, source: int, target: int, gone: list[int], tmp_path: pathlib.Path
) -> None:
    paths = make_chain(tmp_path, suffix)
    for number, path in reversed(list(enumerate(paths))):
        with virtdisk.open(path) as disk:
            put(disk, number * MIB, pattern(2 * MIB, number))
        if number:  # a child of what its parent holds now
            child = paths[number - 1]
            child.unlink()
            virtdisk.create(child, parent=path).close()
    expected = get(paths[0])
    assert expected[: 2 * MIB] == pattern(2 * MIB, 0)
    told: list[tuple[int, int]] = []
    with virtdisk.open(paths[0]) as disk:
        disk.merge(
            source_depth=source,
            target_depth=target,
            progress=lambda *values: told.append(values),
        )
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] > 0
    left = [path for number, path in enumerate(paths) if number not in gone]
    links = virtdisk.chain(left[0])
    assert [link.path for link in links] == [str(path) for path in left]
    assert get(left[0]) == expected
    for path in paths:
        assert path.exists()  # nothing is deleted


@by_suffix
@pytest.mark.parametrize("attached", [False, True])
def test_mirror(suffix: str, attached: bool, tmp_path: pathlib.Path) -> None:
    first, second = tmp_path / f"first{suffix}", tmp_path / f"second{suffix}"
    with virtdisk.create(first, 16 * MIB) as disk:
        put(disk, 0, pattern(8 * MIB))
        if attached:
            disk.attach(flags=AttachFlag.NO_LOCAL_HOST)
        told: list[tuple[int, int]] = []
        disk.mirror(second, progress=lambda *values: told.append(values))
        assert disk.path == str(second)
        if attached:
            with disk.raw("r+b") as file:
                file.write(b"of the second")
    assert told[-1][0] == told[-1][1] > 0
    assert get(first) == pattern(8 * MIB) + bytes(8 * MIB)
    mirrored = bytearray(get(first))
    if attached:
        mirrored[:13] = b"of the second"
    assert get(second) == mirrored


@by_suffix
def test_mirror_that_is_there_already(suffix: str, tmp_path: pathlib.Path) -> None:
    first, second = tmp_path / f"first{suffix}", tmp_path / f"second{suffix}"
    virtdisk.create(second, 16 * MIB).close()
    with virtdisk.create(first, 16 * MIB) as disk:
        put(disk, 0, pattern(MIB))
        with pytest.raises(virtdisk.ImageExistsError):
            disk.mirror(second)
        assert disk.path == str(first)
        disk.mirror(second, existing=True)
    assert get(second) == get(first)


@by_suffix
def test_mirror_given_up(suffix: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / f"first{suffix}"

    def interrupt(current: int, completion: int) -> None:
        raise KeyboardInterrupt

    with virtdisk.create(path, 16 * MIB) as disk:
        put(disk, 0, pattern(8 * MIB))
        with pytest.raises(KeyboardInterrupt):
            disk.mirror(tmp_path / f"second{suffix}", progress=interrupt)
        assert disk.path == str(path)
        assert disk.info.virtual_size == 16 * MIB
    assert os.listdir(tmp_path) == [path.name]


# --- What an image says of itself -------------------------------------------


def test_metadata(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.vhdx"
    with virtdisk.create(path, 64 * MIB) as disk:
        assert dict(disk.metadata) == {}
        disk.metadata[GUID] = b"first"
        disk.metadata[GUID] = pattern(70000)
        disk.metadata[uuid.UUID(int=7)] = b"other"
    with virtdisk.open(path) as disk:
        items = dict(disk.metadata)
        assert items == {GUID: pattern(70000), uuid.UUID(int=7): b"other"}
        del disk.metadata[GUID]
        with pytest.raises(KeyError):
            disk.metadata[GUID]
        with pytest.raises(KeyError):
            del disk.metadata[GUID]
        with pytest.raises(VirtualDiskError) as caught:
            disk.metadata[GUID] = bytes(MIB + 1)  # [MS-VHDX] 2.6.1.2
        assert caught.value.winerror in (87, 0xC03A0028)
        disk.attach(flags=AttachFlag.NO_LOCAL_HOST)
        assert list(disk.metadata) == [uuid.UUID(int=7)]
        with pytest.raises(VirtualDiskError):
            disk.metadata[GUID] = b"while it is attached"
        disk.detach()
        disk.metadata.clear()
        assert len(disk.metadata) == 0


def test_a_vhd_has_no_metadata(tmp_path: pathlib.Path) -> None:
    disk = virtdisk.open(make_vhd(tmp_path / "a.vhd"))
    with disk, pytest.raises(VirtualDiskError) as caught:
        len(disk.metadata)
    assert caught.value.winerror in (50, 0xC03A001B)


def test_set_info_of_a_vhdx(tmp_path: pathlib.Path) -> None:
    with virtdisk.create(tmp_path / "a.vhdx", 64 * MIB) as disk:
        disk.set_info(virtual_disk_id=GUID, physical_sector_size=512)
        assert disk.info.virtual_disk_id == GUID
        assert disk.info.physical_sector_size == 512
        for options, code in (
            ({"change_tracking": True}, 50),
            ({"physical_sector_size": 1024}, 87),
        ):
            changes: dict[str, Any] = options
            with pytest.raises(VirtualDiskError) as caught:
                disk.set_info(**changes)
            assert caught.value.winerror == code


@by_suffix
def test_reconnect(suffix: str, tmp_path: pathlib.Path) -> None:
    paths = make_chain(tmp_path, suffix)
    moved, base = tmp_path / f"moved{suffix}", tmp_path / "sub" / f"base{suffix}"
    base.parent.mkdir()
    paths[1].rename(moved)
    paths[2].rename(base)
    with pytest.raises(FileNotFoundError) as caught:
        virtdisk.open(paths[0])
    assert "reconnect" in str(caught.value)
    with virtdisk.open(moved, parents=False) as disk:
        disk.reconnect(base)
    with virtdisk.open(paths[0], parents=False) as disk:
        with pytest.raises(VirtualDiskError) as refused:
            disk.reconnect(base)  # another one
        assert refused.value.winerror == 0xC03A000E
        disk.reconnect(moved)
    links = virtdisk.chain(paths[0])
    assert [link.path for link in links] == [str(p) for p in (paths[0], moved, base)]


# --- The order of events ----------------------------------------------------


def test_sigint_reaches_a_waiting_thread_of_python(tmp_path: pathlib.Path) -> None:
    """Without progress the wait itself is interrupted."""
    source = make_vhd(tmp_path / "in.vhd", 128 * MIB)
    code = (
        "import sys, virtdisk\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    virtdisk.convert(sys.argv[1], sys.argv[2])\n"
        "    __import__('os').remove(sys.argv[2])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", code, source, tmp_path / "out.vhdx"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")
    left = set(os.listdir(tmp_path)) - {"in.vhd"}
    assert left <= {"out.vhdx"}  # if it was complete just then
    for name in left:
        assert get(tmp_path / name) == pattern(128 * MIB)
