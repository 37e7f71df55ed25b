"""What tests share: requirements, real images, small images of our own.

A requirement that is not met skips the test with the reason and the Debian
package that would help; with VIRTDISK_REQUIRE=all it fails instead, so that
no test is silently missing in CI.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import json
import lzma
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
IMAGES = pathlib.Path(
    os.environ.get("VIRTDISK_TEST_IMAGES") or ROOT.parent / "shared" / "images"
)
LINUX = sys.platform.startswith("linux")
# -P: the source tree, where tests are run, has no compiled module.
PYTHON = [sys.executable, "-P"]
CHUNK = 1 << 20


def missing(reason: str) -> NoReturn:
    """Skips the running test, or fails it where nothing may be missing."""
    if os.environ.get("VIRTDISK_REQUIRE") == "all":
        pytest.fail(f"required here: {reason}")
    pytest.skip(reason)


def require_tool(name: str, *, package: str) -> str:
    """The path of a program, by name or absolute."""
    sbin = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=sbin)
    if found is None:
        missing(f"{name} is not installed (Debian package {package})")
    return found


def require_root() -> None:
    """Attaching needs CAP_SYS_ADMIN."""
    if not LINUX:
        pytest.skip("Linux only")
    if os.geteuid() != 0:
        missing("needs root")


def require_loop() -> None:
    """Root and a loop driver."""
    require_root()
    if not os.path.exists("/dev/loop-control"):
        missing("needs loop devices (/dev/loop-control)")


@contextlib.contextmanager
def small_file_system(directory: pathlib.Path, size: int) -> Iterator[pathlib.Path]:
    """A file system of so many bytes that nobody else needs."""
    require_root()
    directory.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={size}", "none"]
    subprocess.run(["mount", *options, str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@functools.cache
def manifest() -> dict[str, dict[str, Any]]:
    """The facts about the real images, by image name; empty without them."""
    path = IMAGES / "MANIFEST.json"
    if not path.exists():
        return {}
    return {entry["name"]: entry for entry in json.loads(path.read_text())}


def image_names(*formats: str, kind: str | None = None) -> list[str]:
    """Names of the real images of these formats."""
    return [
        name
        for name, entry in manifest().items()
        if entry["format"] in formats and kind in (None, entry["kind"])
    ]


def image_path(name: str, directory: pathlib.Path) -> pathlib.Path:
    """Unpacks a real image into a directory, holes kept."""
    if name not in manifest():
        missing(f"real image {name} not found (set VIRTDISK_TEST_IMAGES)")
    target = directory / name
    with lzma.open(IMAGES / f"{name}.xz") as source, open(target, "wb") as out:
        while chunk := source.read(CHUNK):
            if chunk.count(0) == len(chunk):
                out.seek(len(chunk), os.SEEK_CUR)
            else:
                out.write(chunk)
        out.truncate(out.tell())
    return target


def sha256(path: str | os.PathLike[str]) -> str:
    """Of a file's or device's whole content."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as source:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def pattern(size: int, seed: int = 1) -> bytes:
    """Bytes that differ from sector to sector and from seed to seed."""
    sectors = (
        struct.pack("<QQ", seed, number) * 32 for number in range((size + 511) // 512)
    )
    return b"".join(sectors)[:size]


def vhd_checksum(structure: bytes | bytearray, at: int) -> int:
    """FORMATS.md 1.3: the complement of the sum of all other bytes."""
    return ~(sum(structure) - sum(structure[at : at + 4])) & 0xFFFFFFFF


def vhd_footer(size: int, *, unique_id: bytes = bytes(range(16))) -> bytes:
    """The 512-byte footer of a fixed VHD (FORMATS.md 1.2)."""
    footer = bytearray(512)
    struct.pack_into(
        ">8sIIQI4sI4sQQIII",
        footer,
        0,
        b"conectix",
        2,
        0x00010000,
        0xFFFFFFFFFFFFFFFF,
        0,
        b"win ",
        0x000A0000,
        b"Wi2k",
        size,
        size,
        0,
        2,
        0,
    )
    footer[68:84] = unique_id
    struct.pack_into(">I", footer, 64, vhd_checksum(footer, 64))
    return bytes(footer)


def make_vhd(
    path: pathlib.Path, size: int = 4 << 20, *, data: bytes | None = None
) -> pathlib.Path:
    """A fixed VHD; its data is pattern(size) unless given."""
    content = pattern(size) if data is None else data.ljust(size, b"\0")
    with open(path, "wb") as out:
        out.write(content)
        out.write(vhd_footer(size))
    return path


def make_iso(
    path: pathlib.Path, sectors: int = 64, *, label: bytes = b"VIRTDISK"
) -> pathlib.Path:
    """The volume descriptors of an ISO 9660 image over a pattern."""
    image = bytearray(pattern(sectors * 2048, seed=sectors))
    primary = bytearray(2048)
    primary[0:7] = b"\x01CD001\x01"
    primary[40:72] = label.ljust(32)
    struct.pack_into("<I", primary, 80, sectors)
    struct.pack_into(">I", primary, 84, sectors)
    struct.pack_into("<H", primary, 128, 2048)
    struct.pack_into(">H", primary, 130, 2048)
    image[16 * 2048 : 17 * 2048] = primary
    image[17 * 2048 : 18 * 2048] = b"\xffCD001\x01".ljust(2048, b"\0")
    path.write_bytes(image)
    return path


def eventually(condition: Callable[[], bool], seconds: float = 120) -> bool:
    """Whether a condition comes true; the kernel takes its time to let go."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def loops_of(directory: str | os.PathLike[str]) -> Iterator[str]:
    """Loop devices whose image lies below a directory, from the kernel."""
    prefix = os.path.join(os.path.realpath(directory), "")
    for entry in pathlib.Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            backing = os.fsdecode(entry.read_bytes()).rstrip("\n")
        except OSError:
            continue
        if backing.startswith(prefix):
            yield f"/dev/{entry.parent.parent.name}"


def let_go(directory: str | os.PathLike[str]) -> bool:
    """Whether no loop device has an image below a directory any more.

    One that another program has open just then, udev or whoever looks for a
    free one, goes when it is closed there.  (That otherwise it goes at once,
    tests/engine/test_attach.c shows.)
    """
    return eventually(lambda: not list(loops_of(directory)))


def let_watcher_end() -> None:
    """Waits until the engine's watcher, if it is ending, has closed all it has.

    fork() does so.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there are threads
        child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def open_descriptors() -> set[str]:
    """What this process has open, as `number -> target`; no garbage."""
    gc.collect()  # of earlier tests, too
    let_watcher_end()
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{number} -> {os.readlink(f'/proc/self/fd/{number}')}")
        except OSError:
            continue
    return {entry for entry in found if "/proc/" not in entry}
