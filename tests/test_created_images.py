"""Images that this engine makes and writes, read by other software.

The witnesses are QEMU (not for differencing images, nor for 4096-byte
sectors), libvhdi and 7-Zip.  None replays a log or repairs anything here: what
they read is what stands in the file after a close.

libvhdi 20260901 misreads three things, which 7-Zip reads right: of a VHD that
has grown, the size, for which it takes the original one; of a
differencing VHD, eight sectors of which some are the parent's; and of a
differencing VHDX, a block that is zero, for which it shows the file's header.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import pathlib
import random
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from engine_build import Build, run
from images import GIB, MIB, TIB, Kind, Tool, running
from support import LINUX, missing, pattern, require_tool, sha256

pytestmark = pytest.mark.skipif(not LINUX, reason="the engine is for Linux")

KINDS = [
    Kind("vhd-fixed"),
    Kind("vhd-dynamic", 512 << 10),
    Kind("vhd-dynamic", 2 * MIB),
    *(
        Kind(name, block * MIB, sector)
        for name in ("vhdx-fixed", "vhdx-dynamic")
        for block, sector in ((1, 512), (2, 4096), (32, 512), (256, 512), (256, 4096))
    ),
]
CHAINS = [
    Kind("vhd-dynamic", 2 * MIB),
    Kind("vhdx-dynamic", MIB, 512),
    Kind("vhdx-dynamic", 4 * MIB, 4096),
]
QEMU_FORMAT = {".vhd": "vpc", ".vhdx": "vhdx"}
SIZE = 42 * MIB  # no multiple of most block sizes
STEPS = 120


@pytest.fixture
def tool(disk_build: Build) -> Iterator[Tool]:
    with running(disk_build.link_once("disk_tool")) as tool:
        yield tool


def libvhdi() -> Any:
    try:
        return importlib.import_module("pyvhdi")
    except ImportError:
        missing("libvhdi-python is not installed (from PyPI)")


def change(
    tool: Tool, kind: Kind, model: bytearray, seed: int, *, plain: bool = False
) -> None:
    """Random writes, zeroings and trims, many at the edges of blocks.

    Args:
        plain: Only writes, of whole eights of sectors.
    """
    choose = random.Random(seed)
    unit = kind.sector * (8 if plain else 1)
    units = len(model) // unit
    for step in range(STEPS):
        count = choose.choice((1, 3, 8, 200, kind.block // unit))
        first = choose.randrange(units)
        if choose.random() < 0.5:
            block = choose.randrange(-(-len(model) // kind.block))
            first = max(0, block * kind.block // unit - choose.randrange(4))
        offset = first * unit
        length = min(count, 4 * MIB // unit, units - first) * unit
        if not plain and choose.random() < 0.25:
            tool.zero(offset, length, free=choose.random() < 0.5)
            model[offset : offset + length] = bytes(length)
        else:
            data = pattern(length, seed * 1000 + step)
            tool.write(offset, data)
            model[offset : offset + length] = data
        if step % 40 == 39:
            tool.flush()


def libvhdi_sha256(paths: list[pathlib.Path], size: int) -> str:
    """Of the disk, leaf first."""
    module = libvhdi()
    chain = []
    for path in paths:
        file = module.file()
        file.open(str(path))
        chain.append(file)
    for child, parent in itertools.pairwise(chain):
        child.set_parent(parent)
    assert chain[0].get_media_size() == size
    digest = hashlib.sha256()
    for offset in range(0, size, MIB):
        digest.update(chain[0].read_buffer_at_offset(min(MIB, size - offset), offset))
    for file in chain:
        file.close()
    return digest.hexdigest()


def check_with_qemu(path: pathlib.Path) -> str:
    """`qemu-img check` finds nothing; the digest of what QEMU reads."""
    qemu_img = require_tool("qemu-img", package="qemu-utils")
    form = QEMU_FORMAT[path.suffix]
    if form == "vhdx":  # of VHD it can check nothing
        assert "No errors" in run([qemu_img, "check", "-f", form, str(path)]).stdout
    raw = path.with_suffix(".raw")
    run([qemu_img, "convert", "-f", form, "-O", "raw", str(path), str(raw)])
    return sha256(raw)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_others_read_what_was_written(
    kind: Kind, tool: Tool, tmp_path: pathlib.Path
) -> None:
    path = tool.create(kind, SIZE, tmp_path / f"image{kind.suffix}")
    model = bytearray(SIZE)
    for session in (1, 2):
        facts = tool.open(path, "write")
        assert (facts["size"], facts["sector"]) == (SIZE, kind.sector)
        change(tool, kind, model, session)
        tool.close()
    expected = hashlib.sha256(model).hexdigest()
    assert tool.sha256(path, "read") == expected
    assert libvhdi_sha256([path], SIZE) == expected
    if kind.sector == 512:
        assert check_with_qemu(path) == expected


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_others_read_a_new_image(
    kind: Kind, tool: Tool, tmp_path: pathlib.Path
) -> None:
    path = tool.create(kind, SIZE, tmp_path / f"image{kind.suffix}")
    expected = hashlib.sha256(bytes(SIZE)).hexdigest()
    assert libvhdi_sha256([path], SIZE) == expected
    if kind.sector == 512:
        assert check_with_qemu(path) == expected


def resize(tool: Tool, model: bytearray, size: int) -> None:
    """The disk and its model; new space is zeros."""
    tool.resize(size)
    model[:] = model[:size].ljust(size, b"\0")


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.suffix == ".vhdx"], ids=str
)
def test_others_read_what_was_resized_and_compacted(
    kind: Kind, tool: Tool, tmp_path: pathlib.Path
) -> None:
    """Written, made smaller, larger, written again, compacted."""
    path = tool.create(kind, SIZE, tmp_path / "image.vhdx")
    model = bytearray(SIZE)
    tool.open(path, "write")
    change(tool, kind, model, 1)
    for size in (SIZE - 11 * MIB - kind.sector, 5 * MIB, SIZE + 9 * MIB):
        resize(tool, model, size)
    change(tool, kind, model, 2)
    tool.zero(0, 8 * MIB, free=True)
    model[: 8 * MIB] = bytes(8 * MIB)
    tool.flush()
    if kind.name == "vhdx-dynamic":
        tool.compact()
    tool.close()
    expected = hashlib.sha256(model).hexdigest()
    assert tool.open(path, "read")["size"] == len(model)
    tool.close()
    assert tool.sha256(path, "read") == expected
    assert libvhdi_sha256([path], len(model)) == expected
    if kind.sector == 512:
        assert check_with_qemu(path) == expected


LARGER_TABLE = [(1, 512, 127 * GIB, 300 * GIB), (1, 4096, 120 * GIB, 64 * TIB)]


@pytest.mark.parametrize(("block", "sector", "size", "larger"), LARGER_TABLE)
def test_others_read_a_moved_table(
    block: int, sector: int, size: int, larger: int, tool: Tool, tmp_path: pathlib.Path
) -> None:
    """A disk so much larger that its block allocation table has to move."""
    kind = Kind("vhdx-dynamic", block * MIB, sector)
    path = tool.create(kind, size, tmp_path / "image.vhdx")
    places = {0: 1, 5 * GIB: 2, size - 4096: 3, size: 4, larger - 4096: 5}
    tool.open(path, "write")
    for place, value in places.items():
        if place == size:
            tool.resize(larger)
        tool.write(place, bytes([value]) * 4096)
    tool.close()
    file = libvhdi().file()
    file.open(str(path))
    assert file.get_media_size() == larger
    for place, value in places.items():
        data = file.read_buffer_at_offset(4096, place)
        assert data == bytes([value]) * 4096
    assert file.read_buffer_at_offset(4096, size + 4096) == bytes(4096)
    file.close()


def seven_zip_sha256(path: pathlib.Path) -> str:
    """Of the disk; the parents are found beside the image."""
    seven_zip = require_tool("7z", package="p7zip-full")
    form = path.suffix.removeprefix(".").upper()
    command = [seven_zip, "e", "-so", "-bd", f"-t{form}", path.name]
    done = subprocess.run(command, cwd=path.parent, capture_output=True, check=True)
    return hashlib.sha256(done.stdout).hexdigest()


@pytest.mark.parametrize("kind", CHAINS, ids=str)
@pytest.mark.parametrize("plain", [False, True], ids=["all", "plain"])
def test_others_read_a_chain(
    kind: Kind, plain: bool, tool: Tool, tmp_path: pathlib.Path
) -> None:
    """Three deep, every image written before the next is made of it."""
    path = tool.create(kind, SIZE, tmp_path / f"0{kind.suffix}")
    model = bytearray(SIZE)
    paths: list[pathlib.Path] = []
    for depth in range(3):
        if depth:
            path = tmp_path / f"{depth}{kind.suffix}"
            block = 2 * MIB if path.suffix == ".vhd" else (1 << depth) * MIB
            tool.create_child(paths[0], path, block=block)
        paths.insert(0, path)
        tool.open(path, "write")
        change(tool, kind, model, depth, plain=plain)
        tool.close()
        expected = hashlib.sha256(model).hexdigest()
        assert tool.sha256(path, "read") == expected
        assert seven_zip_sha256(path) == expected
        if plain:
            assert libvhdi_sha256(paths, SIZE) == expected


# ---- disks too large to be read whole ----

LARGE = [
    (Kind("vhd-dynamic", 2 * MIB), 2040 * GIB),
    (Kind("vhdx-dynamic", MIB, 512), 5 * GIB + MIB),
    (Kind("vhdx-dynamic", MIB, 512), 64 * TIB),
    (Kind("vhdx-dynamic", 256 * MIB, 512), 64 * TIB),
    (Kind("vhdx-fixed", 8 * MIB, 512), 9 * GIB),
]


def far_places(kind: Kind, size: int) -> list[int]:
    """Both ends, block and chunk edges, all over the disk."""
    chunk = (1 << 23) * kind.sector
    edges = {0, size, kind.block, size // kind.block * kind.block}
    edges |= set(range(0, size, max(chunk, size // 16 // chunk * chunk)))
    places = {edge + shift for edge in edges for shift in (-8192, 0, 4096)}
    return sorted(place for place in places if 0 <= place <= size - 4096)


@pytest.mark.parametrize(
    ("kind", "size"), LARGE, ids=[f"{kind}-{size // GIB}G" for kind, size in LARGE]
)
def test_others_find_what_was_written_far_out(
    kind: Kind, size: int, tool: Tool, tmp_path: pathlib.Path
) -> None:
    """4 KiB at every edge, each with a byte of its own."""
    qemu_io = require_tool("qemu-io", package="qemu-utils")
    path = tool.create(kind, size, tmp_path / f"image{kind.suffix}")
    places = far_places(kind, size)
    values = {place: number % 255 + 1 for number, place in enumerate(places)}
    tool.open(path, "write")
    for place, value in values.items():
        tool.write(place, bytes([value]) * 4096)
    tool.close()
    tool.open(path, "read")
    for place, value in values.items():
        assert tool.read(place, 4096) == bytes([value]) * 4096
    tool.close()
    command = [qemu_io, "-r", "-f", QEMU_FORMAT[kind.suffix]]
    for place, value in values.items():
        command += ["-c", f"read -P {value} {place} 4096"]
    done = subprocess.run(
        [*command, str(path)], capture_output=True, text=True, check=False
    )
    assert len(re.findall("^read 4096/4096", done.stdout, re.MULTILINE)) == len(places)
    assert "failed" not in done.stdout + done.stderr


# ---- images changed as a whole ----

CHANGED = [
    Kind("vhd-fixed"),
    Kind("vhd-dynamic", 512 << 10),
    Kind("vhd-dynamic", 2 * MIB),
    Kind("vhdx-fixed", 2 * MIB, 512),
    Kind("vhdx-dynamic", MIB, 512),
    Kind("vhdx-dynamic", 32 * MIB, 512),
]


def grown_sha256(model: bytearray, size: int) -> str:
    """Of the disk with zeros behind what it held."""
    digest = hashlib.sha256(model)
    for offset in range(len(model), size, MIB):
        digest.update(bytes(min(MIB, size - offset)))
    return digest.hexdigest()


@pytest.mark.parametrize("kind", CHANGED, ids=str)
def test_others_read_what_has_grown(
    kind: Kind, tool: Tool, tmp_path: pathlib.Path
) -> None:
    """By a sector, and by so many blocks that the BAT of a VHD has to move."""
    path = tool.create(kind, SIZE, tmp_path / f"image{kind.suffix}")
    model = bytearray(SIZE)
    many = 64 * MIB if kind.name.endswith("fixed") else 700 * kind.block
    for seed, size in enumerate((SIZE + 4096, SIZE + min(many, 1500 * MIB))):
        tool.open(path, "write")
        change(tool, kind, model, seed)
        tool.resize(size)
        assert tool.read(len(model), 4096) == bytes(4096)
        change(tool, kind, model, seed + 10)
        tool.close()
        assert tool.open(path)["size"] == size
        tool.close()
        expected = grown_sha256(model, size)
        assert check_with_qemu(path) == expected
        if kind.suffix == ".vhdx":
            assert libvhdi_sha256([path], size) == expected
        else:
            assert seven_zip_sha256(path) == expected


@pytest.mark.parametrize("kind", CHANGED[1:3] + CHANGED[4:], ids=str)
def test_others_read_what_was_compacted(
    kind: Kind, tool: Tool, tmp_path: pathlib.Path
) -> None:
    """And of a VHD the file is as long as its blocks, one behind the other."""
    path = tool.create(kind, SIZE, tmp_path / f"image{kind.suffix}")
    model = bytearray(SIZE)
    tool.open(path, "write")
    change(tool, kind, model, 1)
    block = kind.block
    for first in range(0, SIZE, 3 * block):
        length = min(block, SIZE - first)
        tool.write(first, bytes(length))
        model[first : first + length] = bytes(length)
    tool.flush()
    before = path.stat().st_size
    tool.compact()
    tool.close()
    assert path.stat().st_size < before
    if kind.suffix == ".vhd":
        used = sum(any(model[at : at + block]) for at in range(0, SIZE, block))
        assert path.stat().st_size == 0x2000 + used * (block + 4096)
    expected = hashlib.sha256(model).hexdigest()
    assert tool.sha256(path, "read") == expected
    assert check_with_qemu(path) == expected
    assert libvhdi_sha256([path], SIZE) == expected
