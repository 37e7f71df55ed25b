"""Damaged and malicious images: refused or read, never more.

Every field of every structure is set to values that break readers, with its
checksum made good; further the log, random bytes, and cut files.  The tool
runs under AddressSanitizer and UndefinedBehaviorSanitizer with its memory
bounded: an access out of bounds, an overflow, much memory or a hang ends it
and fails the test.
"""

from __future__ import annotations

import os
import pathlib
import random
import struct
import tempfile
from collections.abc import Iterator

import pytest
from engine_build import Build
from hostile import (
    BAT,
    PAGE,
    Descriptor,
    Entry,
    Patch,
    Structure,
    log_patches,
    nasty_values,
    seal_crc,
    vhd_structures,
    vhdx_regions,
    vhdx_structures,
)
from images import GIB, MIB, TIB, EngineError, Kind, Tool
from support import LINUX, pattern

pytestmark = pytest.mark.skipif(not LINUX, reason="the engine is for Linux")

#: Seconds for one command.
PATIENCE = 10.0
#: MiB: the tool's own buffer is 64, the sanitizer keeps freed memory a while.
MEMORY = "hard_rss_limit_mb=500:quarantine_size_mb=16:max_allocation_size_mb=200"
FILE_CORRUPT = 1392
NOT_ENOUGH_MEMORY = (8, 14)
SIZE = 5 * MIB
WHOLE = 64 * MIB

KINDS = {
    "vhdx-dynamic": Kind("vhdx-dynamic", MIB, 512),
    "vhdx-fixed": Kind("vhdx-fixed", 2 * MIB, 4096),
    "vhdx-child": Kind("vhdx-dynamic", MIB, 512),
    "vhd-dynamic": Kind("vhd-dynamic", 512 << 10),
    "vhd-child": Kind("vhd-dynamic", 512 << 10),
}
VHDX_STRUCTURES = ["header", "regions", "metadata", "item", "locator", "bat"]
VHD_STRUCTURES = ["footers", "head", "tail", "dynamic header", "bat"]
CASES = [
    (name, structure)
    for name in KINDS
    for structure in (VHDX_STRUCTURES if name.startswith("vhdx") else VHD_STRUCTURES)
    if structure != "locator" or name.endswith("child")
]


class Victim:
    """An image that is damaged again and again.

    Attributes:
        path: Where the damaged image is put.
        content: The undamaged one.
    """

    def __init__(self, program: pathlib.Path, path: pathlib.Path) -> None:
        self.program = program
        self.path = path
        self.content = path.read_bytes()
        self.tool = Tool(program, patience=PATIENCE)
        self.outcomes = {"refused": 0, "opened": 0}

    def put(self, patches: list[Patch], size: int | None = None) -> None:
        """The image with these changes, cut or extended to a size."""
        content = bytearray(self.content)
        for offset, data in patches:
            content[offset : offset + len(data)] = data
        with open(self.path, "wb") as file:
            for at in range(0, len(content), 64 << 10):
                chunk = content[at : at + (64 << 10)]
                if chunk.count(0) != len(chunk):
                    file.seek(at)
                    file.write(chunk)
            file.truncate(len(content) if size is None else size)

    def use(self, what: str) -> None:
        """Opens, reads, changes; the engine may refuse, but not break."""
        try:
            self.read()
            self.change()
            self.outcomes["opened"] += 1
        except EngineError as error:
            if error.code in NOT_ENOUGH_MEMORY:
                pytest.fail(f"{what}: wanted too much memory")
            self.outcomes["refused"] += 1
        except AssertionError:
            pytest.fail(f"{what}: the engine broke (see above)")

    def read(self) -> None:
        size = self.tool.open(self.path)["size"]
        self.tool.open(self.path, "read")
        if size <= WHOLE:
            for _ in self.tool.content(size):
                pass
        else:
            step = size // 32 // PAGE * PAGE
            for offset in (*range(0, size - 2 * MIB, step), size - 2 * MIB):
                self.tool.read(offset, 2 * MIB)

    def change(self) -> None:
        facts = self.tool.open(self.path, "write")
        unit, size = facts["sector"], facts["size"]
        for offset in (0, size // 2 // unit * unit, size - unit):
            self.tool.write(offset, pattern(unit, offset))
        self.tool.zero(0, min(size, 2 * MIB) // unit * unit, free=True)
        self.tool.write(0, pattern(unit))
        self.tool.flush()
        self.tool.close()


@pytest.fixture(scope="module")
def program(disk_build: Build) -> Iterator[pathlib.Path]:
    before = os.environ.get("ASAN_OPTIONS")
    options = [before] if before else []
    os.environ["ASAN_OPTIONS"] = ":".join([*options, MEMORY])
    yield disk_build.link_once("disk_tool")
    if before is None:
        del os.environ["ASAN_OPTIONS"]
    else:
        os.environ["ASAN_OPTIONS"] = before


def make_image(
    tool: Tool, kind: Kind, directory: pathlib.Path, *, child: bool
) -> pathlib.Path:
    """A small image with a little in it."""
    path = tool.create(kind, SIZE, directory / f"parent{kind.suffix}")
    if child:
        parent, path = path, directory / f"child{kind.suffix}"
        tool.create_child(parent, path, block=kind.block)
    tool.open(path, "write")
    tool.write(8192, pattern(16384))
    tool.write(2 * kind.block, pattern(kind.block // 2))
    tool.flush()
    tool.zero(2 * kind.block, kind.block // 4, free=False)
    tool.close()
    return path


@pytest.fixture
def memory_path(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A directory where a flush costs nothing, if there is one."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="virtdisk-") as directory:
        yield pathlib.Path(directory)


@pytest.fixture
def victim(
    request: pytest.FixtureRequest, program: pathlib.Path, memory_path: pathlib.Path
) -> Iterator[Victim]:
    """An image of the kind that the test is parametrized with."""
    name: str = request.getfixturevalue("name")
    tool = Tool(program)
    path = make_image(tool, KINDS[name], memory_path, child=name.endswith("child"))
    tool.end()
    victim = Victim(program, path)
    try:
        yield victim
        if victim.tool.process.poll() is None:
            victim.tool.end()
    finally:
        victim.tool.kill()
    assert sum(victim.outcomes.values()) > 0


def structures_of(name: str, image: bytes, wanted: str) -> list[Structure]:
    make = vhdx_structures if name.startswith("vhdx") else vhd_structures
    return [one for one in make(image) if one.name.rstrip("0123456789") == wanted]


@pytest.mark.parametrize(("name", "structure"), CASES)
def test_every_field(name: str, structure: str, victim: Victim) -> None:
    """One lie at a time."""
    structures = structures_of(name, victim.content, structure)
    assert structures
    for one in structures:
        for field in one.fields:
            old = one.value(victim.content, field)
            width = struct.calcsize(field.form)
            for value in nasty_values(old, width, len(victim.content)):
                victim.put(one.patches(victim.content, field, value))
                victim.use(f"{one.name} {field.name} = {value:#x}")


@pytest.mark.parametrize("name", KINDS)
def test_two_fields_at_once(name: str, victim: Victim) -> None:
    """Random pairs of lies, in a fixed order."""
    choose = random.Random(name)
    make = vhdx_structures if name.startswith("vhdx") else vhd_structures
    structures = list(make(victim.content))
    size = len(victim.content)
    for _ in range(250):
        patches: list[Patch] = []
        said = []
        for one in choose.sample(structures, 2):
            field = choose.choice(one.fields)
            old = one.value(victim.content, field)
            value = choose.choice(nasty_values(old, struct.calcsize(field.form), size))
            patches += one.patches(victim.content, field, value)
            said.append(f"{one.name} {field.name} = {value:#x}")
        victim.put(patches)
        victim.use(", ".join(said))


@pytest.mark.parametrize("name", KINDS)
def test_random_bytes(name: str, victim: Victim) -> None:
    """Noise in the structures, checksums wrong or right."""
    choose = random.Random(name)
    make = vhdx_structures if name.startswith("vhdx") else vhd_structures
    structures = list(make(victim.content))
    for number in range(250):
        one = choose.choice(structures)
        patches = []
        for copy in one.copies:
            content = bytearray(victim.content[copy : copy + one.length])
            for _ in range(choose.choice((1, 4, 32))):
                content[choose.randrange(min(one.length, 512))] = choose.randrange(256)
            if one.seal is not None and number % 4:
                one.seal(content)
            patches.append((copy, bytes(content)))
        victim.put(patches)
        victim.use(f"{one.name}, round {number}")


@pytest.mark.parametrize("name", KINDS)
def test_cut_files(name: str, victim: Victim) -> None:
    """Short of a byte, of a sector, of most."""
    size = len(victim.content)
    places = {0, 1, 511, 512, 1023, 1536, PAGE, 64 << 10, 192 << 10, 320 << 10}
    places |= {size - cut for cut in (1, 511, 512, 513, 1024, PAGE, MIB, MIB + 1)}
    places |= set(range(MIB, size, MIB)) | {size // 2, size // 3}
    for place in sorted(place for place in places if 0 <= place < size):
        victim.put([], size=place)
        victim.use(f"cut to {place} of {size} bytes")
    for more in (1, 511, 512, MIB, GIB, 4 * TIB):
        victim.put([], size=size + more)
        victim.use(f"{more} bytes longer")


# ---- the log ----


def bat_page(image: bytes) -> tuple[int, bytes]:
    at = vhdx_regions(image)[BAT]
    return at, image[at : at + PAGE]


def hostile_logs(image: bytes) -> Iterator[tuple[str, list[tuple[int, bytes]]]]:
    """Logs that a replay must survive, by what is wrong."""
    size = len(image)
    at, page = bat_page(image)
    good = Descriptor(at, data=page)
    ends = {"flushed": size, "last": size}
    log_offset = struct.unpack_from("<Q", image, (64 << 10) + 72)[0]

    def one(**changes: object) -> list[tuple[int, bytes]]:
        entry = Entry(7, [good], **ends)  # type: ignore[arg-type]
        for name, value in changes.items():
            setattr(entry, name, value)
        return [(0, entry.encode())]

    yield "good", one()
    for length in (
        0,
        1,
        PAGE - 1,
        PAGE,
        3 * PAGE,
        MIB,
        MIB + PAGE,
        0xFFFFF000,
        1 << 31,
    ):
        yield f"EntryLength {length:#x}", one(length=length)
    for count in (0, 2, 126, 127, 128, 1 << 16, 0x07FFFFFE, 0x7FFFFFFF, 0xFFFFFFFF):
        yield f"DescriptorCount {count:#x}", one(count=count)
    for tail in (1, PAGE, MIB - PAGE, MIB, 0xFFFFF000):
        yield f"Tail {tail:#x}", one(tail=tail)
    for sequence in (0, 1 << 63, (1 << 64) - 1):
        yield f"SequenceNumber {sequence:#x}", one(sequence=sequence)
    for offset in (1, MIB, size + MIB, 16 * TIB, 128 * TIB, 1 << 62, (1 << 64) - MIB):
        yield f"FlushedFileOffset {offset:#x}", one(flushed=offset)
        yield f"LastFileOffset {offset:#x}", one(last=offset)
    places = [0, PAGE, 64 << 10, 128 << 10, (192 << 10) - PAGE, 192 << 10, 1, 512]
    places += [log_offset, log_offset + MIB - PAGE, size, size - PAGE, 1 << 40, 1 << 63]
    places += [(1 << 64) - PAGE, (1 << 64) - 1]
    for place in places:
        yield f"data at {place:#x}", one(descriptors=[Descriptor(place, data=page)])
        for length in (0, 1, PAGE, MIB, size, TIB, 63 * TIB, 1 << 63, (1 << 64) - PAGE):
            zero = Descriptor(place, zero_length=length)
            yield f"{length:#x} zeros at {place:#x}", one(descriptors=[zero])
            far = {"descriptors": [zero], "last": 128 * TIB}
            yield f"{length:#x} zeros at {place:#x}, far", one(**far)
    yield "all zeros", one(descriptors=[Descriptor(192 << 10, zero_length=size)])
    yield "a signature", one(descriptors=[Descriptor(at, data=page, signature=b"none")])
    yield "a sequence", one(descriptors=[Descriptor(at, data=page, sequence=8)])
    yield (
        "many zeros",
        one(descriptors=[Descriptor(at, zero_length=PAGE) for _ in range(32000)]),
    )
    yield "no seal", one(sealed=False)
    yield "noise in the table", one(descriptors=[Descriptor(at, data=pattern(PAGE))])
    yield "BAT of ones", one(descriptors=[Descriptor(at, data=b"\xff" * PAGE)])


def overlapping_logs(image: bytes) -> Iterator[tuple[str, list[tuple[int, bytes]]]]:
    """Several entries, in each other's way."""
    size = len(image)
    at, page = bat_page(image)
    good = Descriptor(at, data=page)

    def entry(sequence: int, tail: int = 0, pages: int = 1) -> bytes:
        found = Entry(sequence, [good] * pages, tail=tail, flushed=size, last=size)
        return found.encode()

    chain = [(2 * PAGE * i, entry(5 + i)) for i in range(MIB // PAGE // 2)]
    yield "the whole ring", chain
    yield (
        "the whole ring, tail in it",
        [(offset, entry(5 + i, tail=offset)) for i, (offset, _) in enumerate(chain)],
    )
    yield "a wrapped entry", [(MIB - PAGE, entry(9, tail=MIB - PAGE))]
    yield (
        "a wrapped sequence",
        [
            (MIB - 3 * PAGE, entry(9, tail=MIB - 3 * PAGE)),
            (MIB - PAGE, entry(10, tail=MIB - 3 * PAGE)),
            (PAGE, entry(11, tail=MIB - PAGE)),
        ],
    )
    yield (
        "a sequence that meets itself",
        [
            (MIB - PAGE, entry(9, tail=MIB - PAGE)),
            (PAGE, entry(10, tail=PAGE, pages=253)),
        ],
    )
    yield "the same number twice", [(0, entry(9)), (2 * PAGE, entry(9, tail=2 * PAGE))]
    # Each 4 KiB starts an entry of almost the whole ring: quadratic work for
    # a reader that sums every one of them.
    lie = Entry(3, [], flushed=size, last=size, length=MIB - PAGE, sealed=False)
    yield "heads everywhere", [(PAGE * i, lie.encode()) for i in range(MIB // PAGE)]


LOGS = {"lies": hostile_logs, "overlaps": overlapping_logs}


@pytest.mark.parametrize("name", ["vhdx-dynamic", "vhdx-child"])
@pytest.mark.parametrize("logs", LOGS)
def test_hostile_logs(name: str, logs: str, victim: Victim) -> None:
    for what, entries in LOGS[logs](victim.content):
        victim.put(log_patches(victim.content, entries))
        victim.use(what)
        assert victim.path.stat().st_blocks * 512 < len(victim.content) + 64 * MIB
    assert victim.outcomes["opened"] > 0


@pytest.mark.parametrize("count", [0, 1 << 15, (1 << 25) - 2])
@pytest.mark.parametrize("name", ["vhdx-dynamic"])
def test_a_log_of_holes(name: str, count: int, victim: Victim) -> None:
    """One entry claims a log of 1 GiB that is not there: no memory for it."""
    size = len(victim.content)
    lie = Entry(7, [], flushed=size, last=size, length=GIB, count=count, sealed=False)
    patches: list[Patch] = [(size, lie.encode())]
    for at, header in log_patches(victim.content, []):
        moved = bytearray(header)
        struct.pack_into("<IQ", moved, 68, GIB, size)
        seal_crc(moved)
        patches.append((at, bytes(moved)))
    victim.put(patches, size=size + GIB)
    with pytest.raises(EngineError) as caught:
        victim.tool.open(victim.path)
    assert caught.value.code == FILE_CORRUPT
    victim.outcomes["refused"] += 1
