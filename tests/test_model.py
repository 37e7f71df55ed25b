"""Random use of a disk against a plain array of bytes.

Hypothesis makes up the sequence: writes, zeroings, trims, flushes, reopens,
and, for a differencing disk, a further image on top.  Whatever the kind of
image, every read has to give what the array holds.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import tempfile

import hypothesis
import pytest
from devices import DeviceTool
from engine_build import Build
from hypothesis import strategies
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from images import MIB, Kind, Tool
from support import LINUX, pattern, require_loop

pytestmark = pytest.mark.skipif(not LINUX, reason="the engine is for Linux")

LONG = bool(os.environ.get("VIRTDISK_LONG"))
LAYERS = 3
#: Where a flush costs nothing, if there is such a place.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
KINDS = [
    Kind("vhd-fixed"),
    Kind("vhd-dynamic", 512 << 10),
    Kind("vhd-dynamic", 2 * MIB),
    Kind("vhdx-fixed", MIB, 512),
    Kind("vhdx-fixed", 2 * MIB, 4096),
    Kind("vhdx-dynamic", MIB, 512),
    Kind("vhdx-dynamic", MIB, 4096),
    Kind("vhdx-dynamic", 8 * MIB, 512),
]
GROWING = [kind for kind in KINDS if not kind.name.endswith("fixed")]
#: Blocks of a disk: few, so that operations meet, and the last one is short.
BLOCKS = 5


class Disk(RuleBasedStateMachine):
    """One disk, and what it has to hold.

    Attributes:
        program: The tool that uses the engine.
        kind: Of the image, or of all images of the chain.
        layers: How many images are made at the start.
    """

    program: pathlib.Path
    kind: Kind
    layers = 1
    make_tool: type[Tool | DeviceTool] = Tool

    def __init__(self) -> None:
        super().__init__()
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="virtdisk-", dir=MEMORY))
        self.tool = self.make_tool(self.program)
        self.serial = 0
        self.images: list[pathlib.Path] = []
        self.unit = self.kind.sector
        self.per_block = self.kind.block // self.unit
        self.units = BLOCKS * self.per_block - self.per_block // 3
        self.model = bytearray(self.units * self.unit)

    # ---- the chain ----

    @initialize(data=strategies.data())
    def make(self, data: strategies.DataObject) -> None:
        """The images, each written a little before the next is made."""
        path = self.directory / f"0{self.kind.suffix}"
        self.images = [self.tool.create(self.kind, len(self.model), path)]
        self.tool.open(path, "write")
        while len(self.images) < self.layers:
            for _ in range(data.draw(strategies.integers(0, 3))):
                self.write_somewhere(data.draw(self.ranges()))
            self.add_layer()

    def add_layer(self) -> None:
        self.tool.close()
        path = self.directory / f"{len(self.images)}{self.kind.suffix}"
        self.tool.create_child(self.images[-1], path, block=self.kind.block)
        self.images.append(path)
        assert self.tool.open(path, "write")["layers"] == len(self.images)

    # ---- ranges, in sectors ----

    def ranges(self) -> strategies.SearchStrategy[tuple[int, int]]:
        """Start and length; often at the edge of a block, or a whole one."""
        blocks = strategies.integers(0, BLOCKS - 1).map(lambda n: n * self.per_block)
        near = strategies.tuples(blocks, strategies.integers(-9, 9)).map(
            lambda pair: min(max(sum(pair), 0), self.units - 1)
        )
        starts = blocks | near | strategies.integers(0, self.units - 1)
        lengths = strategies.integers(1, 64) | strategies.sampled_from(
            [self.per_block, self.per_block - 1, 2 * self.per_block, self.units]
        )
        return strategies.tuples(starts, lengths).map(
            lambda pair: (pair[0], min(pair[1], self.units - pair[0]))
        )

    def bytes_of(self, place: tuple[int, int]) -> tuple[int, int]:
        return place[0] * self.unit, place[1] * self.unit

    # ---- operations ----

    def write_somewhere(self, place: tuple[int, int]) -> None:
        offset, length = self.bytes_of(place)
        self.serial += 1
        content = pattern(length, self.serial)
        self.tool.write(offset, content)
        self.model[offset : offset + length] = content

    @rule(data=strategies.data())
    def write(self, data: strategies.DataObject) -> None:
        self.write_somewhere(data.draw(self.ranges()))

    @rule(data=strategies.data(), free=strategies.booleans())
    def zero(self, data: strategies.DataObject, free: bool) -> None:
        offset, length = self.bytes_of(data.draw(self.ranges()))
        self.tool.zero(offset, length, free=free)
        self.model[offset : offset + length] = bytes(length)

    @rule(data=strategies.data())
    def read(self, data: strategies.DataObject) -> None:
        offset, length = self.bytes_of(data.draw(self.ranges()))
        self.check(offset, length)

    @precondition(lambda self: self.make_tool is Tool)
    @rule(skew=strategies.integers(1, 4095), data=strategies.data())
    def read_across_sectors(self, skew: int, data: strategies.DataObject) -> None:
        """Below the API reading, unlike writing, is not bound to sectors."""
        offset, length = self.bytes_of(data.draw(self.ranges()))
        offset = min(offset + skew, len(self.model) - 1)
        length = min(length, len(self.model) - offset)
        self.check(offset, length)

    @rule()
    def flush(self) -> None:
        self.tool.flush()

    @rule()
    def reopen(self) -> None:
        """After a close the image alone has to be enough."""
        self.tool.close()
        for mode in ("look", "read", "write"):
            self.tool.open(self.images[-1], mode)
            self.compare()

    @precondition(lambda self: self.layers > 1 and len(self.images) < self.layers + 2)
    @rule()
    def put_one_on_top(self) -> None:
        """What was written so far becomes the parent's."""
        self.add_layer()

    @invariant()
    def the_ends_are_right(self) -> None:
        """Cheap enough for every step; reopen compares all."""
        if self.images:
            size = len(self.model)
            for offset in (0, size - self.unit):
                self.check(offset, self.unit)

    def compare(self) -> None:
        self.check(0, len(self.model))

    def check(self, offset: int, length: int) -> None:
        """Reads, and says where it differs; pytest would compare for long."""
        found = self.tool.read(offset, length)
        expected = self.model[offset : offset + length]
        if found != expected:
            pairs = enumerate(zip(found, expected, strict=True))
            first = next(at for at, (one, other) in pairs if one != other)
            pytest.fail(f"byte {offset + first} of {len(self.model)} differs")

    def teardown(self) -> None:
        try:
            if self.images and self.tool.process.poll() is None:
                self.reopen()
                self.tool.close()
                self.tool.end()
        finally:
            with contextlib.suppress(ProcessLookupError):
                self.tool.kill()
            shutil.rmtree(self.directory)


@pytest.fixture(scope="module")
def program(disk_build: Build) -> pathlib.Path:
    return disk_build.link_once("disk_tool")


def try_disk(
    program: pathlib.Path,
    kind: Kind,
    layers: int,
    make_tool: type[Tool | DeviceTool] = Tool,
) -> None:
    """Lets hypothesis look for a sequence that goes wrong."""
    attributes = {
        "program": program,
        "kind": kind,
        "layers": layers,
        "make_tool": make_tool,
    }
    machine = type("DiskOfOneKind", (Disk,), attributes)
    run_state_machine_as_test(
        machine,
        settings=hypothesis.settings(
            max_examples=300 if LONG else 12,
            stateful_step_count=60 if LONG else 30,
            deadline=None,
            database=None,
            derandomize=not LONG,
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_disk_is_an_array(kind: Kind, program: pathlib.Path) -> None:
    try_disk(program, kind, 1)


@pytest.mark.parametrize("kind", GROWING, ids=str)
def test_a_chain_is_an_array(kind: Kind, program: pathlib.Path) -> None:
    try_disk(program, kind, LAYERS)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_an_attached_disk_is_an_array(kind: Kind, program: pathlib.Path) -> None:
    """Direct I/O, BLKDISCARD and BLKZEROOUT on the device."""
    require_loop()
    try_disk(program, kind, 1, DeviceTool)


@pytest.mark.parametrize("kind", GROWING, ids=str)
def test_an_attached_chain_is_an_array(kind: Kind, program: pathlib.Path) -> None:
    require_loop()
    try_disk(program, kind, LAYERS, DeviceTool)
