#!/usr/bin/env python3
"""How long a conversion takes, beside qemu-img convert, in all directions.

The source has data, holes, and zeros that are written.  Both convert the same
image in turns, so that the machine's mood is the same for both; the best of
each and their ratio (above 1: virtdisk is faster) are printed, for what others
do on the machine only ever adds.  What virtdisk makes is durable when it is
there, so qemu-img is followed by an fsync as well; --as-they-come leaves that
out.

qemu-img leaves holes in a fixed image, and has no preallocation for VHD and
VHDX.  So a fixed image is made twice, like with like: "sparse" is virtdisk with
SPARSE_FILE beside qemu-img as it is; "allocated" is virtdisk without a flag,
which has all of the space as on Windows, beside qemu-img -S 0, which gets the
space by writing the zeros.

    python benchmarks/convert.py [--size GiB] [--data GiB] [--rounds 5]
                                 [--folder PATH] [--as-they-come]
"""

from __future__ import annotations

import argparse
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, NamedTuple

import virtdisk
from virtdisk import CreateFlag

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
GIB = 1 << 30


class Kind(NamedTuple):
    """A kind of image, to both programs."""

    suffix: str
    qemu: str
    option: str
    fixed: bool


KINDS = {
    "raw": Kind(".img", "raw", "", fixed=False),
    "vhd fixed": Kind(".vhd", "vpc", "subformat=fixed,force_size=on", fixed=True),
    "vhd dynamic": Kind(".vhd", "vpc", "subformat=dynamic,force_size=on", fixed=False),
    "vhdx fixed": Kind(".vhdx", "vhdx", "subformat=fixed", fixed=True),
    "vhdx dynamic": Kind(".vhdx", "vhdx", "subformat=dynamic", fixed=False),
}


def make_source(path: pathlib.Path, size: int, data: int) -> None:
    """Data in pieces of up to 8 MiB with holes between, and written zeros."""
    generator = random.Random(1)
    with open(path, "wb") as file:
        file.truncate(size)
        written = 0
        while written < data:
            piece = int(2 ** generator.uniform(12, 23))
            file.seek(generator.randrange(0, size - piece, 4096))
            file.write(generator.randbytes(piece))
            file.write(bytes(piece // 8 if file.tell() + piece < size else 0))
            written += piece


class Direction(NamedTuple):
    """What becomes what, and whether a fixed image gets all of its space."""

    source: str
    target: str
    allocated: bool

    def __str__(self) -> str:
        space = ""
        if KINDS[self.target].fixed:
            space = "allocated" if self.allocated else "sparse"
        return f"{self.source:13}-> {self.target:13}{space:10}"


def directions() -> Iterator[Direction]:
    """All, and then those to fixed images once more."""
    pairs = [(one, other) for one in KINDS for other in KINDS if one != other]
    for one, other in pairs:
        yield Direction(one, other, allocated=False)
    for one, other in pairs:
        if KINDS[other].fixed:
            yield Direction(one, other, allocated=True)


def with_virtdisk(
    source: pathlib.Path, target: pathlib.Path, kind: Kind, *, allocated: bool = False
) -> None:
    """One call."""
    if kind.qemu == "raw":
        virtdisk.convert(source, target, type="raw")
        return
    sparse = kind.fixed and not allocated
    virtdisk.convert(
        source,
        target,
        type="fixed" if kind.fixed else "dynamic",
        flags=CreateFlag.SPARSE_FILE if sparse else CreateFlag.NONE,
    )


def with_qemu(
    source: pathlib.Path,
    target: pathlib.Path,
    direction: Direction,
    *,
    durable: bool,
) -> None:
    """One process."""
    of, kind = KINDS[direction.source], KINDS[direction.target]
    words = ["qemu-img", "convert", "-f", of.qemu, "-O", kind.qemu]
    options = ["-o", kind.option] if kind.option else []
    options += ["-S", "0"] if direction.allocated else []
    subprocess.run([*words, *options, str(source), str(target)], check=True)
    if durable:
        descriptor = os.open(target, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def check(target: pathlib.Path, kind: Kind, raw: pathlib.Path) -> None:
    """Both hold the same, or an exception."""
    words = ["qemu-img", "compare", "-q", "-f", kind.qemu, "-F", "raw"]
    subprocess.run([*words, str(target), str(raw)], check=True)


def measure(
    direction: Direction,
    sources: dict[str, pathlib.Path],
    *,
    rounds: int,
    durable: bool,
) -> tuple[float, float]:
    """The best time of virtdisk and that of qemu-img, in seconds."""
    taken: dict[str, list[float]] = {"virtdisk": [], "qemu-img": []}
    source, kind = sources[direction.source], KINDS[direction.target]
    target = source.parent / f"target{kind.suffix}"
    for turn in range(rounds):
        for way, times in taken.items():
            start = time.perf_counter()
            if way == "virtdisk":
                with_virtdisk(source, target, kind, allocated=direction.allocated)
            else:
                with_qemu(source, target, direction, durable=durable)
            times.append(time.perf_counter() - start)
            if turn == 0:
                check(target, kind, sources["raw"])
            target.unlink()
    return min(taken["virtdisk"]), min(taken["qemu-img"])


def main() -> int:
    """Prints a line for each direction."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", type=float, default=4, help="of the disk, in GiB")
    parser.add_argument("--data", type=float, default=1, help="on it, in GiB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=pathlib.Path, help="where to work")
    parser.add_argument("--as-they-come", action="store_true", help="no fsync")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = pathlib.Path(name)
        sources = {"raw": folder / "source.img"}
        size = int(arguments.size * GIB)
        make_source(sources["raw"], size, int(arguments.data * GIB))
        for kind in list(KINDS)[1:]:
            sources[kind] = folder / f"source {kind}{KINDS[kind].suffix}"
            with_virtdisk(sources["raw"], sources[kind], KINDS[kind])
        os.sync()
        for direction in directions():
            ours, theirs = measure(
                direction,
                sources,
                rounds=arguments.rounds,
                durable=not arguments.as_they_come,
            )
            print(
                f"{direction} virtdisk {ours:6.2f} s"
                f"   qemu-img {theirs:6.2f} s   ratio {theirs / ours:5.2f}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
