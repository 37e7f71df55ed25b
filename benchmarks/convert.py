#!/usr/bin/env python3
"""How long a conversion takes, beside qemu-img convert, in all directions.

The source has data, holes, and zeros that are written.  Both convert the same
image in turns, so that the machine's mood is the same for both; the medians
and their ratio (above 1: virtdisk is faster) are printed.  What virtdisk makes
is durable when it is there, so qemu-img is followed by an fsync as well;
--as-they-come leaves that out.  A fixed image is made sparse, as qemu-img
makes it.

    python benchmarks/convert.py [--size GiB] [--data GiB] [--rounds 5]
                                 [--folder PATH] [--as-they-come]
"""

from __future__ import annotations

import argparse
import itertools
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import virtdisk
from virtdisk import CreateFlag

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


def with_virtdisk(source: pathlib.Path, target: pathlib.Path, kind: Kind) -> None:
    """One call."""
    if kind.qemu == "raw":
        virtdisk.convert(source, target, type="raw")
        return
    flags = CreateFlag.SPARSE_FILE if kind.fixed else CreateFlag.NONE
    virtdisk.convert(
        source, target, type="fixed" if kind.fixed else "dynamic", flags=flags
    )


def with_qemu(
    source: pathlib.Path, target: pathlib.Path, kind: Kind, of: Kind, *, durable: bool
) -> None:
    """One process."""
    words = ["qemu-img", "convert", "-f", of.qemu, "-O", kind.qemu]
    options = ["-o", kind.option] if kind.option else []
    subprocess.run([*words, *options, str(source), str(target)], check=True)
    if durable:
        descriptor = os.open(target, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def check(target: pathlib.Path, kind: Kind, raw: pathlib.Path) -> None:
    """Both hold the same, or an exception."""
    words = ["qemu-img", "compare", "-q", "-f", kind.qemu, "-F", "raw"]
    subprocess.run([*words, str(target), str(raw)], check=True)


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
        for one, other in itertools.product(KINDS, KINDS):
            if one == other:
                continue
            taken: dict[str, list[float]] = {"virtdisk": [], "qemu-img": []}
            for turn in range(arguments.rounds):
                for way, times in taken.items():
                    target = folder / f"target{KINDS[other].suffix}"
                    start = time.perf_counter()
                    if way == "virtdisk":
                        with_virtdisk(sources[one], target, KINDS[other])
                    else:
                        with_qemu(
                            sources[one],
                            target,
                            KINDS[other],
                            KINDS[one],
                            durable=not arguments.as_they_come,
                        )
                    times.append(time.perf_counter() - start)
                    if turn == 0:
                        check(target, KINDS[other], sources["raw"])
                    target.unlink()
            ours, theirs = (statistics.median(times) for times in taken.values())
            print(
                f"{one:13} -> {other:13} virtdisk {ours:6.2f} s"
                f"   qemu-img {theirs:6.2f} s   ratio {theirs / ours:5.2f}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
