#!/usr/bin/env python3
"""How long it takes to attach a dynamic VHDX of 64 TiB, beside one of 1 GiB.

In turns, so that the machine's mood is the same for both; the medians and
their ratio are printed.  Needs root and gcc (the images are made by the
engine's test tool).

    python benchmarks/attach_large.py [--rounds 30] [--block MiB]
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import sys
import tempfile
import time

import virtdisk

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "lib"))

from engine_build import LOWER_LAYERS, Build  # noqa: E402
from images import GIB, MIB, TIB, Kind, running  # noqa: E402


def attach_seconds(path: pathlib.Path) -> float:
    """Attach, read the last sector, detach."""
    start = time.perf_counter()
    with virtdisk.attach(path, drive_letter=False) as disk, disk.raw() as device:
        device.seek(-512, 2)
        device.read(512)
    return time.perf_counter() - start


def main() -> None:
    """Prints milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--block", type=int, default=32, help="block size in MiB")
    arguments = parser.parse_args()
    kind = Kind("vhdx-dynamic", arguments.block * MIB, 512)
    sizes = {"64 TiB": 64 * TIB, "1 GiB": GIB}
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        build = Build("gcc", directory, "address,undefined")
        build.make_archive(LOWER_LAYERS)
        with running(build.link("disk_tool")) as tool:
            images = {
                title: tool.create(kind, size, directory / f"{size}.vhdx")
                for title, size in sizes.items()
            }
        times: dict[str, list[float]] = {title: [] for title in sizes}
        for _ in range(arguments.rounds):
            for title, image in images.items():
                times[title].append(attach_seconds(image))
    medians = {title: statistics.median(found) for title, found in times.items()}
    for title, median in medians.items():
        print(f"{title}: {median * 1000:.1f} ms")
    print(f"ratio: {medians['64 TiB'] / medians['1 GiB']:.2f}")


if __name__ == "__main__":
    main()
