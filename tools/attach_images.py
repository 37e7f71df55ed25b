#!/usr/bin/env python3
"""Attaches images of the named kinds, for real, and reads them back.

    python tools/attach_images.py iso vhd          # on Linux, as root
    python tools/attach_images.py iso vhd vhdx     # on Windows, elevated

ISO and VHD are built here; a VHDX is made by Windows itself (diskpart).  Each
image is attached for the process and permanently, its device is compared with
what was written, and it must be gone at the end.  Prints a line for each step
and exits 1 at the first that fails.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import virtdisk

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "tests" / "lib")]

from attach_image import iso_image  # noqa: E402
from support import make_vhd, pattern  # noqa: E402

MIB = 1 << 20
VHD_SIZE = 4 * MIB
VHDX_SIZE = 16 * MIB

DEVICE = {
    "win32": {
        "iso": re.compile(r"\\\\\.\\CDROM\d+", re.IGNORECASE),
        "vhd": re.compile(r"\\\\\.\\PhysicalDrive\d+", re.IGNORECASE),
        "vhdx": re.compile(r"\\\\\.\\PhysicalDrive\d+", re.IGNORECASE),
    },
    "linux": {
        "iso": re.compile(r"/dev/loop\d+"),
        "vhd": re.compile(r"/dev/loop\d+"),
    },
}


class CheckError(Exception):
    """Something is not as it must be."""


@dataclass(frozen=True)
class Image:
    """An image and what its disk must read as."""

    kind: str
    path: pathlib.Path
    sha256: str


def make_iso_image(path: pathlib.Path) -> bytes:
    """Writes an ISO image; its disk reads as the file."""
    path.write_bytes(iso_image(b"DATA.BIN;1", pattern(MIB), label=b"DATA"))
    return path.read_bytes()


def make_vhd_image(path: pathlib.Path) -> bytes:
    """Writes a fixed VHD of VHD_SIZE bytes without a partition table."""
    make_vhd(path, VHD_SIZE)
    return pattern(VHD_SIZE)


def make_vhdx_image(path: pathlib.Path) -> bytes:
    """Has Windows make a dynamic VHDX of VHDX_SIZE bytes, all zeros."""
    script = path.with_suffix(".diskpart")
    size = VHDX_SIZE // MIB
    script.write_text(f'create vdisk file="{path}" maximum={size} type=expandable\n')
    subprocess.run(["diskpart", "/s", str(script)], check=True)
    return bytes(VHDX_SIZE)


MAKERS: dict[str, Callable[[pathlib.Path], bytes]] = {
    "iso": make_iso_image,
    "vhd": make_vhd_image,
    "vhdx": make_vhdx_image,
}


def make(kind: str, folder: pathlib.Path) -> Image:
    """An image of a kind in a folder."""
    path = folder / f"image.{kind}"
    content = MAKERS[kind](path)
    return Image(kind, path, hashlib.sha256(content).hexdigest())


def require(condition: object, what: str) -> None:
    """CheckError with a sentence unless the condition holds."""
    if not condition:
        raise CheckError(what)
    print(f"  {what}: yes", flush=True)


def is_attached(image: Image) -> bool:
    """Whether the system lists the image."""
    paths = [entry.path for entry in virtdisk.attached()]
    return any(os.path.exists(path) and image.path.samefile(path) for path in paths)


def check_device(image: Image, disk: virtdisk.VirtualDisk) -> None:
    """The device's name and content."""
    name = disk.physical_path
    expected = DEVICE[sys.platform][image.kind]
    require(expected.fullmatch(name), f"{name} is a device of the right kind")
    digest = hashlib.sha256()
    with disk.raw() as device:
        while chunk := device.read(MIB):
            digest.update(chunk)
    require(digest.hexdigest() == image.sha256, "it reads as the image")


def check_for_process(image: Image) -> None:
    """Attached until the block ends."""
    with virtdisk.attach(image.path, read_only=True, drive_letter=False) as disk:
        require(is_attached(image), "attached")
        check_device(image, disk)
    require(not is_attached(image), "gone with the handle")


def check_permanent(image: Image) -> None:
    """Attached by one process, detached by path from another."""
    python = [sys.executable, "-P", "-c"]  # not the source tree's package
    call = "import sys, virtdisk; virtdisk.{}(sys.argv[1]{})"
    attach = call.format("attach", ", read_only=True, permanent=True")
    detach = call.format("detach", "")
    subprocess.run([*python, attach, image.path], check=True)
    try:
        require(is_attached(image), "permanent, it outlives its process")
    finally:
        subprocess.run([*python, detach, image.path], check=True)
    require(not is_attached(image), "detached by path from another process")


def main() -> int:
    """The command line: 0 all is well, 1 a check failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kinds", nargs="+", choices=sorted(DEVICE[sys.platform]))
    kinds = parser.parse_args().kinds
    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds:
            print(kind, flush=True)
            try:
                image = make(kind, pathlib.Path(folder).resolve())
                check_for_process(image)
                check_permanent(image)
            except (CheckError, OSError, subprocess.CalledProcessError) as error:
                print(f"  failed: {error}", file=sys.stderr)
                return 1
    print(f"{len(kinds)} kinds attached, read and detached")
    return 0


if __name__ == "__main__":
    sys.exit(main())
