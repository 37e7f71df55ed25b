#!/usr/bin/env python3
"""How long it takes to attach, read a sector and detach, beside losetup.

Both attach the same raw payload read-only, in turns, so that the machine's
mood is the same for both; the medians and their ratio are printed.  losetup
(util-linux) is what a script would use instead: it starts a process for each
step, locks nothing and keeps no record.  Needs root.

    python benchmarks/attach.py [--rounds 100] [--size MiB]
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import virtdisk

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "lib"))

from support import make_vhd  # noqa: E402

SECTOR = 512
MIB = 1 << 20


def with_virtdisk(image: pathlib.Path) -> bytes:
    """Attach, read, detach in this process."""
    with virtdisk.attach(image, read_only=True) as disk, disk.raw() as device:
        return device.read(SECTOR)


def with_losetup(image: pathlib.Path) -> bytes:
    """The same with two processes of losetup."""
    size = image.stat().st_size - SECTOR  # without the VHD's footer
    command = ["losetup", "--find", "--show", "--read-only", "--partscan"]
    limit = ["--sizelimit", str(size)]
    shown = subprocess.run(
        [*command, *limit, image], check=True, capture_output=True, text=True
    )
    device = shown.stdout.strip()
    try:
        with open(device, "rb") as file:
            return file.read(SECTOR)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def seconds(work: Callable[[pathlib.Path], bytes], image: pathlib.Path) -> float:
    """How long one round takes; ValueError if it reads something else."""
    with open(image, "rb") as file:
        expected = file.read(SECTOR)
    start = time.perf_counter()
    found = work(image)
    elapsed = time.perf_counter() - start
    if found != expected:
        raise ValueError("the device reads differently from the image")
    return elapsed


def main() -> int:
    """Prints a line for each way, and the ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--size", type=int, default=64, help="of the image, in MiB")
    arguments = parser.parse_args()
    ways = {"virtdisk": with_virtdisk, "losetup": with_losetup}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        image = make_vhd(pathlib.Path(folder, "image.vhd"), arguments.size * MIB)
        for _ in range(arguments.rounds):
            for name, work in ways.items():
                taken[name].append(seconds(work, image))
    medians = {name: statistics.median(values) for name, values in taken.items()}
    for name, median in medians.items():
        print(f"{name:10}{median * 1000:8.2f} ms")
    print(f"{'ratio':10}{medians['losetup'] / medians['virtdisk']:8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
