"""convert() of the facade: raw files, and what it asks of the system.

QEMU says whether two files hold the same disk.
"""

from __future__ import annotations

import errno
import os
import pathlib
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import recorder
from support import (
    LINUX,
    image_names,
    image_path,
    make_iso,
    make_vhd,
    manifest,
    open_descriptors,
    pattern,
    require_tool,
    sha256,
)

import virtdisk
from virtdisk import VirtualDiskError, _convert, _copy, _scsi, _virtdisk

MIB = 1 << 20
linux_only = pytest.mark.skipif(not LINUX, reason="needs the engine")


def qemu_img(*words: object) -> None:
    tool = require_tool("qemu-img", package="qemu-utils")
    subprocess.run([tool, *map(str, words)], check=True, capture_output=True)


def same_disk(one: pathlib.Path, other: pathlib.Path, kind: str) -> None:
    """The other one is raw."""
    qemu_img("compare", "-f", kind, "-F", "raw", one, other)


def sparse_content(path: pathlib.Path, size: int, seed: int = 1) -> pathlib.Path:
    """A raw file with data of all lengths, holes and stored zeros."""
    draw = random.Random(seed)
    with open(path, "wb") as out:
        out.truncate(size)
        for _ in range(40):
            length = draw.choice([512, 4096, 5 * 4096, 300_000, MIB + 512])
            out.seek(draw.randrange(0, size - length) // 512 * 512)
            out.write(bytes(length) if draw.random() < 0.3 else pattern(length, seed))
    return path


def allocated(path: pathlib.Path) -> int:
    return path.stat().st_blocks * 512


# --- To raw -----------------------------------------------------------------


@linux_only
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("vpc", "subformat=dynamic,force_size=on"),
        ("vpc", "subformat=fixed,force_size=on"),
        ("vhdx", "subformat=dynamic,block_size=1M"),
        ("vhdx", "subformat=fixed"),
    ],
)
def test_image_becomes_raw(kind: str, options: str, tmp_path: pathlib.Path) -> None:
    raw = sparse_content(tmp_path / "in.raw", 20 * MIB)
    image = tmp_path / "an.image"
    qemu_img("convert", "-f", "raw", "-O", kind, "-o", options, raw, image)
    before = sha256(image)
    told: list[tuple[int, int]] = []
    out = tmp_path / "out.raw"
    virtdisk.convert(image, out, progress=lambda *values: told.append(values))
    assert sha256(out) == sha256(raw)
    same_disk(image, out, kind)
    assert sha256(image) == before
    # No larger than what was written, grain by grain.
    assert allocated(out) <= allocated(raw) + 41 * 2 * 16384
    assert told[-1] == (20 * MIB, 20 * MIB)
    assert told == sorted(told)


CHAIN = "win8-child.vhd"
SECTORS_OF_4_KIB = [
    name for name in image_names("vhdx") if manifest()[name]["logical_sector"] == 4096
]


@linux_only
@pytest.mark.parametrize("name", [CHAIN, *SECTORS_OF_4_KIB])
def test_real_image_becomes_raw(name: str, tmp_path: pathlib.Path) -> None:
    image = image_path(name, tmp_path)
    if name == CHAIN:
        image_path("win8-dynamic-40M.vhd", tmp_path).rename(tmp_path / "win8.vhd")
    virtdisk.convert(image, tmp_path / "out.raw")
    assert sha256(tmp_path / "out.raw") == manifest()[name]["raw_sha256"]


@pytest.mark.parametrize("name", ["a.img", "a.RAW"])
def test_iso_and_raw_files_are_copied_as_they_are(
    name: str, tmp_path: pathlib.Path
) -> None:
    iso = make_iso(tmp_path / "a.iso", 600)
    virtdisk.convert(iso, tmp_path / "iso.raw")
    assert sha256(tmp_path / "iso.raw") == sha256(iso)
    raw = sparse_content(tmp_path / name, 8 * MIB)
    virtdisk.convert(raw, tmp_path / "copy.img")
    assert sha256(tmp_path / "copy.img") == sha256(raw)
    other = raw.rename(tmp_path / "disk.bin")
    virtdisk.convert(other, tmp_path / "other", source_type="raw", type="raw")
    assert sha256(tmp_path / "other") == sha256(other)


# --- Nothing is left of a failure -------------------------------------------


@linux_only
def test_target_that_exists(tmp_path: pathlib.Path) -> None:
    image = make_vhd(tmp_path / "a.vhd")
    out = tmp_path / "out.raw"
    out.write_bytes(b"precious")
    with pytest.raises(FileExistsError) as caught:
        virtdisk.convert(image, out)
    assert caught.value.filename == str(out)
    assert out.read_bytes() == b"precious"


@linux_only
@pytest.mark.parametrize(
    ("source", "target", "code"),
    [("none.vhd", "out.raw", 2), ("zeros.bin", "out.raw", 0xC03A0014)],
)
def test_source_that_cannot_be_read(
    source: str, target: str, code: int, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "zeros.bin").write_bytes(bytes(MIB))
    with pytest.raises(VirtualDiskError) as caught:
        virtdisk.convert(tmp_path / source, tmp_path / target)
    assert caught.value.winerror == code
    assert not (tmp_path / target).exists()


@linux_only
def test_folder_that_does_not_exist(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError):
        virtdisk.convert(make_vhd(tmp_path / "a.vhd"), tmp_path / "no" / "out.raw")


@linux_only
def test_folder_that_must_not_be_written(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failure names the target, and not how its folder was reached."""

    def refuse(_: int) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", ".")

    monkeypatch.setattr(_convert, "_open_unnamed", refuse)
    out = tmp_path / "out.raw"
    with pytest.raises(PermissionError) as caught:
        virtdisk.convert(make_vhd(tmp_path / "a.vhd"), out)
    assert caught.value.filename == str(out)
    assert os.listdir(tmp_path) == ["a.vhd"]


@linux_only
@pytest.mark.parametrize("unnamed", [True, False])
@pytest.mark.parametrize(
    ("target", "number"),
    [
        ("x" * 260, errno.ENAMETOOLONG),
        ("a.vhd/out", errno.ENOTDIR),
        ("out/", errno.EISDIR),
        ("..", errno.EEXIST),
        ("dangling", errno.EEXIST),
    ],
)
def test_target_that_cannot_be(
    target: str,
    number: int,
    unnamed: bool,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is told before anything is read, and names the target."""
    if not unnamed:
        monkeypatch.setattr(_convert, "_open_unnamed", lambda _: None)
    image = make_vhd(tmp_path / "a.vhd", 5 * MIB)
    (tmp_path / "dangling").symlink_to("nothing")
    monkeypatch.setattr(_convert, "_source_medium", None)
    with pytest.raises(OSError) as caught:
        virtdisk.convert(image, f"{tmp_path}/{target}", type="raw")
    assert caught.value.errno == number
    assert caught.value.filename == f"{tmp_path}/{target}"
    assert caught.value.filename2 is None
    assert sorted(os.listdir(tmp_path)) == ["a.vhd", "dangling"]


@linux_only
def test_target_that_appears_meanwhile(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, out = make_vhd(tmp_path / "a.vhd", 5 * MIB), tmp_path / "out.raw"
    before = _copy.copy

    def copy(*arguments: Any) -> None:
        before(*arguments)
        out.write_bytes(b"precious")

    monkeypatch.setattr(_copy, "copy", copy)
    with pytest.raises(FileExistsError) as caught:
        virtdisk.convert(image, out)
    assert (caught.value.filename, caught.value.filename2) == (str(out), None)
    assert out.read_bytes() == b"precious"


@linux_only
@pytest.mark.parametrize("source", ["in.vhd", "in.bin"])
@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("target", ["out.raw", "out.vhdx"])
def test_failure_in_the_middle_names_the_side(
    target: str,
    side: str,
    source: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who reads of an input/output error has to know which disk is dying."""

    def fail(*_: object, **__: object) -> int:
        raise OSError(errno.EIO, "dying")

    image, out = make_vhd(tmp_path / source, 5 * MIB), tmp_path / target
    if target == "out.vhdx" and source == "in.vhd":
        image = image.rename(tmp_path / "in.bin")  # copied by the system otherwise
    by_scsi = (target != "out.raw") if side == "target" else (image.suffix == ".vhd")
    place, names = (
        (_scsi, ["read_into", "write"])
        if by_scsi
        else (
            _copy,
            ["_pread", "_pwrite"],
        )
    )
    monkeypatch.setattr(place, names[side == "target"], fail)
    with pytest.raises(OSError, match="dying") as caught:
        virtdisk.convert(
            image, out, source_type="raw" if image.suffix == ".bin" else None
        )
    assert caught.value.filename == str(image if side == "source" else out)
    assert os.listdir(tmp_path) == [image.name]


@linux_only
@pytest.mark.parametrize("target", ["out.raw", "out.vhd", "out.vhdx"])
@pytest.mark.parametrize("kind", ["fifo", "folder", "/dev/zero", "/dev/null"])
def test_raw_source_without_an_end(
    kind: str, target: str, tmp_path: pathlib.Path
) -> None:
    """A FIFO would wait for ever, the others have no content of their own."""
    source = tmp_path / "source"
    if kind == "fifo":
        os.mkfifo(source)
    elif kind == "folder":
        source.mkdir()
    else:
        source = pathlib.Path(kind)
    with pytest.raises(OSError, match="Neither a file") as caught:
        virtdisk.convert(source, tmp_path / target, source_type="raw")
    assert caught.value.filename == str(source)
    assert not (tmp_path / target).exists()


@linux_only
@pytest.mark.parametrize("size", [3 * MIB + 1, 5 * MIB - 100, 5 * MIB + 512])
@pytest.mark.parametrize("target", ["out.vhd", "out.vhdx"])
@pytest.mark.parametrize("name", ["in.img", "in.bin"])
@pytest.mark.parametrize("sector", [None, 4096])
def test_odd_end_of_a_raw_file(
    sector: int | None, name: str, target: str, size: int, tmp_path: pathlib.Path
) -> None:
    """It is filled up with zeros, however it is told to be raw."""
    if sector and target == "out.vhd":
        sector = 512
    source, out, back = (tmp_path / each for each in (name, target, "back.raw"))
    source.write_bytes(pattern(size))
    raw: Any = None if name == "in.img" else "raw"
    unit = sector or 512
    virtdisk.convert(source, out, source_type=raw, sector_size=sector)
    kind = "vpc" if target == "out.vhd" else "vhdx"
    # QEMU knows no other sectors.
    if unit == 512:
        qemu_img("convert", "-f", kind, "-O", "raw", out, back)
    else:
        virtdisk.convert(out, back)
    content = back.read_bytes()
    assert content[:size] == source.read_bytes()
    assert set(content[size:]) <= {0}
    with virtdisk.open(out, info_only=True) as disk:
        assert disk.info.virtual_size == size + -size % unit
        assert disk.info.sector_size == unit


@linux_only
@pytest.mark.parametrize("size", [0, 1, 512, 3 * MIB - 512, 3 * MIB - 1])
@pytest.mark.parametrize("target", ["out.vhd", "out.vhdx"])
@pytest.mark.parametrize("name", ["in.img", "in.bin"])
def test_raw_source_that_is_too_small(
    name: str, target: str, size: int, tmp_path: pathlib.Path
) -> None:
    """3 MiB is the least; the failure says so."""
    source = tmp_path / name
    source.write_bytes(bytes(size))
    raw: Any = None if name == "in.img" else "raw"
    if size == 3 * MIB - 1:  # of which whole sectors are made
        virtdisk.convert(source, tmp_path / target, source_type=raw)
        return
    with pytest.raises(VirtualDiskError) as caught:
        virtdisk.convert(source, tmp_path / target, source_type=raw)
    assert caught.value.winerror in {87, 0xC03A0012}
    remedy = caught.value.remedy or ""
    assert "smaller than 3 MiB" in remedy
    assert os.listdir(tmp_path) == [name]
    # What it says, helps.
    if "create()" in remedy:
        virtdisk.create(tmp_path / target, 3 * MIB, source=source).close()
    else:
        os.truncate(source, 3 * MIB)
        virtdisk.convert(source, tmp_path / target, source_type=raw)


class Stopping:
    """A progress function that raises once it is under way."""

    def __call__(self, current: int, completion: int) -> None:
        raise KeyboardInterrupt


@linux_only
@pytest.mark.parametrize("unnamed", [True, False])
def test_interrupted_copy_leaves_nothing(
    unnamed: bool, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not unnamed:
        monkeypatch.setattr(_convert, "_open_unnamed", lambda _: None)
    image = make_vhd(tmp_path / "a.vhd", 32 * MIB)
    slow = _scsi.read_into

    def read_into(*arguments: Any, **options: Any) -> None:
        time.sleep(0.01)
        slow(*arguments, **options)

    monkeypatch.setattr(_scsi, "read_into", read_into)
    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        virtdisk.convert(image, tmp_path / "out.raw", progress=Stopping())
    assert os.listdir(tmp_path) == ["a.vhd"]
    assert [name for name in open_descriptors() if str(tmp_path) in name] == []
    assert threading.active_count() <= threads
    monkeypatch.undo()
    virtdisk.convert(image, tmp_path / "out.raw")  # nothing holds it


@linux_only
@pytest.mark.parametrize("target", ["out.raw", "out.vhd", "out.vhdx"])
@pytest.mark.parametrize("source", ["in.vhd", "in.bin"])
def test_copy_that_is_given_up_at_its_end_leaves_nothing(
    source: str, target: str, tmp_path: pathlib.Path
) -> None:
    """Whether it was too late, because it was over already, or not."""
    image = make_vhd(tmp_path / source, 5 * MIB)

    def refuse_the_last(current: int, completion: int) -> None:
        if current == completion:
            raise ZeroDivisionError

    for _ in range(5):
        with pytest.raises(ZeroDivisionError):
            virtdisk.convert(
                image,
                tmp_path / target,
                source_type="raw" if source == "in.bin" else None,
                progress=refuse_the_last,
            )
        assert os.listdir(tmp_path) == [source]


@linux_only
@pytest.mark.parametrize("unnamed", [True, False])
def test_copy_without_names(
    unnamed: bool, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways to make a file give the same one, with the usual mode."""
    if not unnamed:
        monkeypatch.setattr(_convert, "_open_unnamed", lambda _: None)
    image = make_vhd(tmp_path / "a.vhd", 5 * MIB)
    out = tmp_path / "out.raw"
    mask = os.umask(0o027)
    try:
        virtdisk.convert(image, out)
    finally:
        os.umask(mask)
    assert out.read_bytes() == image.read_bytes()[:-512]
    assert out.stat().st_mode & 0o777 == 0o640
    assert out.stat().st_nlink == 1


# --- The copier -------------------------------------------------------------


class Memory:
    """A medium in memory, with extents and faults as told."""

    def __init__(self, content: bytes, parts: list[tuple[int, int, bool]]) -> None:
        self.content = bytearray(content)
        self.size = len(content)
        self.parts = parts
        self.read: list[tuple[int, int]] = []
        self.written: list[tuple[int, int]] = []
        self.fault: BaseException | None = None

    def extents(self) -> Iterator[tuple[int, int, bool]]:
        yield from self.parts

    def read_into(self, data: memoryview, offset: int) -> None:
        self.read.append((offset, len(data)))
        data[:] = self.content[offset : offset + len(data)]

    def write(self, data: memoryview, offset: int) -> None:
        if self.fault:
            raise self.fault
        self.written.append((offset, len(data)))
        self.content[offset : offset + len(data)] = data


def test_only_data_is_read_and_only_what_is_not_zero_written() -> None:
    content = bytearray(5 * MIB)
    content[100:101] = b"x"
    content[3 * MIB : 3 * MIB + 20000] = pattern(20000)
    parts = [(0, 2 * MIB, True), (2 * MIB, MIB, False), (3 * MIB, 2 * MIB, True)]
    source = Memory(bytes(content), parts)
    target = Memory(bytes(5 * MIB), [])
    meter = _copy.Meter()
    _copy.copy(source, target, meter)
    assert target.content == content
    half = MIB // 2
    data = [*range(0, 2 * MIB, half), *range(3 * MIB, 5 * MIB, half)]
    assert sorted(source.read) == [(at, half) for at in data]
    assert sorted(target.written) == [(0, 16384), (3 * MIB, 32768)]
    assert (meter.current, meter.completion) == (5 * MIB, 5 * MIB)


@pytest.mark.parametrize("length", [1, 16383, 16384, 16385, 40000])
def test_last_grain_may_be_short(length: int) -> None:
    content = pattern(length + 512)[512:]
    target = Memory(bytes(length), [])
    _copy.copy(Memory(content, [(0, length, True)]), target, _copy.Meter())
    assert bytes(target.content) == content


def test_first_failure_of_any_thread_ends_the_copy() -> None:
    source = Memory(pattern(64 * MIB), [(0, 64 * MIB, True)])
    target = Memory(bytes(64 * MIB), [])
    target.fault = OSError(errno.ENOSPC, "full")
    before = threading.active_count()
    with pytest.raises(OSError, match="full"):
        _copy.copy(source, target, _copy.Meter())
    assert threading.active_count() <= before
    assert len(source.read) < 64


def test_cancelled_copy_says_so() -> None:
    source = Memory(pattern(MIB), [(0, MIB, True)])
    meter = _copy.Meter()
    meter.cancelled = True
    with pytest.raises(VirtualDiskError) as caught:
        _copy.copy(source, Memory(bytes(MIB), []), meter)
    assert caught.value.winerror == recorder.ABORTED


def test_work_is_awaited_as_an_overlapped() -> None:
    go = threading.Event()

    def wait(_: _copy.Meter) -> None:
        go.wait(60)

    work = _copy.Work(wait)
    assert work.pending
    assert not work.wait(0)
    go.set()
    assert work.wait(60)
    assert not work.pending
    work.result()


def test_work_that_fails() -> None:
    def fail(_: _copy.Meter) -> None:
        raise ZeroDivisionError

    work = _copy.Work(fail)
    assert work.wait(60)
    with pytest.raises(ZeroDivisionError):
        work.result()


class Refusing:
    """A disk that does not know GET LBA STATUS, or fails at it."""

    path = "a.vhd"

    def __init__(self, sense: bytes) -> None:
        self.sense = sense

    def execute(self, handle: object, cdb: bytes, **options: Any) -> Any:
        data = options["data_in"]
        if cdb[:2] == b"\x9e\x10":
            data[:12] = (2047).to_bytes(8, "big") + (512).to_bytes(4, "big")
            return 0, b"", 32
        return 2, self.sense, 0


def sense(key: int, code: int) -> bytes:
    """SPC-4 4.5.3, fixed format."""
    return bytes([0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, code, 0, 0, 0, 0, 0])


def test_system_without_lba_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the disk may be data then; another failure is one."""
    disk: Any = Refusing(sense(5, 0x20))
    monkeypatch.setattr(_virtdisk, "RawSCSIVirtualDisk", disk.execute)
    assert list(_copy.ScsiMedium(disk).extents()) == [(0, MIB, True)]
    disk.sense = sense(3, 0x11)
    with pytest.raises(OSError) as caught:
        list(_copy.ScsiMedium(disk).extents())
    assert caught.value.errno == errno.EIO


@linux_only
def test_extents_of_a_raw_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.raw"
    with open(path, "wb") as out:
        out.truncate(8 * MIB + 100)
        out.seek(MIB)
        out.write(pattern(MIB))
        out.seek(8 * MIB)
        out.write(b"x" * 100)
    with open(path, "rb") as file:
        medium = _copy.FileMedium(file.fileno(), size=8 * MIB + 512)
        assert list(medium.extents()) == [
            (0, MIB, False),
            (MIB, MIB, True),
            (2 * MIB, 6 * MIB, False),
            (8 * MIB, 512, True),
        ]
        data = bytearray(b"?" * 512)
        medium.read_into(memoryview(data), 8 * MIB)
    assert data == b"x" * 100 + bytes(412)


# --- What is asked of the system --------------------------------------------


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> recorder.Recorder:
    return recorder.install(monkeypatch)


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        ({}, {}),
        ({"type": "dynamic"}, {}),
        ({"type": "fixed"}, {"flags": 1}),
        ({"block_size": MIB}, {"block_size_in_bytes": MIB}),
        ({"sector_size": 4096}, {"sector_size_in_bytes": 4096}),
        ({"storage_type": virtdisk.StorageType.VHD}, {"device_id": 2}),
    ],
)
def test_images_are_converted_by_the_system(
    arguments: dict[str, Any],
    changed: dict[str, int],
    api: recorder.Recorder,
    tmp_path: pathlib.Path,
) -> None:
    source = make_vhd(tmp_path / "a.vhd")
    virtdisk.convert(source, tmp_path / "b.vhdx", **arguments)
    call = api.only("CreateVirtualDisk")
    expected = {"device_id": 3, "flags": 0, "block_size_in_bytes": 0}
    expected |= {"sector_size_in_bytes": 0, "maximum_size": 0, **changed}
    assert {name: call[name] for name in expected} == expected
    assert (call["source_path"], call["source_device_id"]) == (str(source), 2)
    assert [handle.closed for handle in api.handles] == [True]


@linux_only
@pytest.mark.parametrize("name", ["a.img", "a.raw"])
def test_raw_source_by_its_name(
    name: str, api: recorder.Recorder, tmp_path: pathlib.Path
) -> None:
    source = sparse_content(tmp_path / name, 4 * MIB)
    virtdisk.convert(source, tmp_path / "b.vhd")
    call = api.only("CreateVirtualDisk")
    assert (call["source_path"], call["source_device_id"]) == (str(source), 0)


@pytest.mark.parametrize(
    ("target", "arguments", "kind", "words"),
    [
        ("", {}, ValueError, "empty"),
        ("b", {}, ValueError, "does not end in"),
        ("b.raw", {"type": "fixed"}, ValueError, "does not end in"),
        ("b.raw", {"block_size": 1}, ValueError, "a raw file has no block_size"),
        ("b.vhd", {"type": "raw", "sector_size": 512}, ValueError, "no sector_size"),
        ("b.vhd", {"type": "qcow2"}, ValueError, "type must be one of"),
        ("b.vhd", {"type": "differencing"}, ValueError, "has a parent"),
        ("b.vhd", {"source_type": "vhd"}, ValueError, "source_type"),
        ("b.vhd", {"source_type": "raw", "type": "thin"}, ValueError, "type must"),
        ("b.vhd", {"progress": 1}, TypeError, "progress"),
    ],
)
def test_wrong_arguments(
    target: str,
    arguments: dict[str, Any],
    kind: type[Exception],
    words: str,
    api: recorder.Recorder,
    tmp_path: pathlib.Path,
) -> None:
    source = make_vhd(tmp_path / "a.vhd")
    with pytest.raises(kind, match=words):
        virtdisk.convert(source, target and tmp_path / target, **arguments)
    assert api.calls == []
    assert os.listdir(tmp_path) == ["a.vhd"]


def test_failure_of_the_system(api: recorder.Recorder, tmp_path: pathlib.Path) -> None:
    api.outcome = 112
    with pytest.raises(VirtualDiskError) as caught:
        virtdisk.convert(make_vhd(tmp_path / "a.vhd"), tmp_path / "b.vhdx")
    assert caught.value.winerror == 112
    assert [handle.closed for handle in api.handles] == [True]
