"""Real VHD and VHDX images by many makers, read to the last byte.

Below the API, by the disk layer alone, and as an attached device.  What each
must read as is in the manifest, where several independent readers agreed.
"""

from __future__ import annotations

import os
import pathlib
import struct
import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from engine_build import Build, run
from images import MIB, EngineError, Tool, running, unpack
from support import (
    LINUX,
    image_names,
    image_path,
    manifest,
    require_loop,
    require_tool,
    sha256,
)

import virtdisk

pytestmark = pytest.mark.skipif(not LINUX, reason="the engine is for Linux")

NAMES = image_names("vhd", "vhdx")
DIRTY = [name for name in NAMES if manifest()[name]["log_dirty"]]
CHILDREN = image_names("vhd", "vhdx", kind="differencing")
#: Bytes; larger disks are not read whole.
LARGEST = 16 << 30
PARENT_NOT_FOUND = 0xC03A000D
SUBTYPES = {"fixed": 2, "dynamic": 3, "differencing": 4}
PAGE = 4096
HEADERS = (64 << 10, 128 << 10)


@pytest.fixture
def tool(disk_build: Build) -> Iterator[Tool]:
    with running(disk_build.link_once("disk_tool")) as tool:
        yield tool


def disk_sha256(tool: Tool, path: pathlib.Path) -> str:
    """Of the whole disk; of a very large one, that it is blank."""
    facts = tool.open(path, "read")
    if facts["size"] <= LARGEST:
        return tool.sha256(path, "read")
    for offset in (0, facts["size"] // 2, facts["size"] - MIB):
        assert tool.read(offset, MIB) == bytes(MIB)
    return "blank"


def expected_sha256(facts: dict[str, Any]) -> str:
    if facts["virtual_size"] <= LARGEST:
        digest: str = facts["raw_sha256"]
        return digest
    assert "no block is allocated" in facts["notes"]
    return "blank"


@pytest.mark.parametrize("name", NAMES)
def test_reads_as_the_manifest_says(
    name: str, tool: Tool, tmp_path: pathlib.Path
) -> None:
    """Every byte; and reading changes nothing, a dirty log included."""
    path = unpack(name, tmp_path)
    expected = manifest()[name]
    before = {file: sha256(file) for file in tmp_path.iterdir()}
    assert before[path] == expected["sha256"]
    facts = tool.open(path)
    assert tool.open(path, "read") == facts
    assert facts["size"] == expected["virtual_size"]
    assert facts["format"].lower() == expected["format"]
    assert facts["subtype"] == SUBTYPES[expected["kind"]]
    assert facts["sector"] == expected["logical_sector"]
    assert facts["block"] == (expected["block_size"] or 0)
    assert facts["log_dirty"] == expected["log_dirty"]
    assert facts["complete"]
    assert facts["layers"] == (2 if name in CHILDREN else 1)
    assert disk_sha256(tool, path) == expected_sha256(expected)
    tool.close()
    assert {file: sha256(file) for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", [name for name in NAMES if name not in DIRTY])
def test_opening_for_writing_changes_nothing(
    name: str, tool: Tool, tmp_path: pathlib.Path
) -> None:
    """Open, read, flush, close: nobody has written, so nothing is."""
    path = unpack(name, tmp_path)
    before = {file: sha256(file) for file in tmp_path.iterdir()}
    facts = tool.open(path, "write")
    tool.read(0, min(facts["size"], MIB))
    tool.flush()
    tool.close()
    assert {file: sha256(file) for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", CHILDREN)
def test_a_child_without_its_parent(
    name: str, tool: Tool, tmp_path: pathlib.Path
) -> None:
    path = image_path(name, tmp_path)
    for mode in ("look", "read", "write"):
        with pytest.raises(EngineError) as caught:
            tool.open(path, mode)
        assert caught.value.code == PARENT_NOT_FOUND
    assert sha256(path) == manifest()[name]["sha256"]


# ---- as a device ----


def device_sha256(device: str) -> str:
    """Of the whole device; of a very large one, that it is blank."""
    with open(device, "rb", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size <= LARGEST:
            return sha256(device)
        for offset in (0, size // 2, size - MIB):
            file.seek(offset)
            assert file.read(MIB) == bytes(MIB)
    return "blank"


@pytest.mark.parametrize("name", NAMES)
def test_an_attached_device_reads_the_same(name: str, tmp_path: pathlib.Path) -> None:
    """Read-only: neither the image nor its parents change by a bit."""
    require_loop()
    path = unpack(name, tmp_path)
    expected = manifest()[name]
    before = {file: sha256(file) for file in tmp_path.iterdir()}
    with virtdisk.attach(path, read_only=True, drive_letter=False) as disk:
        with disk.raw() as raw:
            assert raw.seek(0, os.SEEK_END) == expected["virtual_size"]
        assert device_sha256(disk.physical_path) == expected_sha256(expected)
    assert {file: sha256(file) for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", [name for name in NAMES if name not in DIRTY])
def test_attaching_for_writing_changes_nothing(
    name: str, tmp_path: pathlib.Path
) -> None:
    require_loop()
    path = unpack(name, tmp_path)
    before = {file: sha256(file) for file in tmp_path.iterdir()}
    with (
        virtdisk.attach(path, drive_letter=False) as disk,
        open(disk.physical_path, "r+b", buffering=0) as device,
    ):
        device.read(MIB)
        os.fsync(device)
    assert {file: sha256(file) for file in tmp_path.iterdir()} == before


# ---- a log to be replayed ----


def regions(image: bytes) -> dict[str, range]:
    """Where BAT and log of a VHDX are ([MS-VHDX] 2.2.2, 2.2.3)."""
    bat = uuid.UUID("2DC27766-F623-4200-9D64-115E9BFD4A08").bytes_le
    entry = image.index(bat, 192 << 10)
    offset, length = struct.unpack_from("<QI", image, entry + 16)
    found = {"bat": range(offset, offset + length)}
    length, offset = struct.unpack_from("<IQ", image, HEADERS[0] + 68)
    found["log"] = range(offset, offset + length)
    return found


def guids(image: bytes, header: int) -> tuple[bytes, bytes, bytes]:
    """FileWriteGuid, DataWriteGuid and LogGuid of a header."""
    found: tuple[bytes, bytes, bytes] = struct.unpack_from(
        "16s16s16s", image, header + 16
    )
    return found


def current_guids(image: bytes) -> tuple[bytes, bytes, bytes]:
    """Of the header with the greater sequence number."""
    newest = max(HEADERS, key=lambda at: struct.unpack_from("<Q", image, at + 8))
    return guids(image, newest)


def changed_pages(before: bytes, after: bytes) -> list[int]:
    """Offsets of the 4 KiB pages that differ, in a file that only grew."""
    assert len(after) >= len(before)
    before = before.ljust(len(after), b"\0")
    return [
        at
        for at in range(0, len(after), PAGE)
        if before[at : at + PAGE] != after[at : at + PAGE]
    ]


@pytest.mark.parametrize("name", DIRTY)
@pytest.mark.parametrize("way", ["opened", "attached"])
def test_replay_changes_the_headers_and_the_table(
    name: str, way: str, tool: Tool, tmp_path: pathlib.Path
) -> None:
    """For writing the log is replayed, and nothing else is touched."""
    path = unpack(name, tmp_path)
    before = path.read_bytes()
    if way == "opened":
        assert tool.open(path, "write")["log_dirty"]
        tool.close()
    else:
        require_loop()
        virtdisk.attach(path, drive_letter=False).close()
    after = path.read_bytes()
    where = regions(before)
    changed = changed_pages(before, after)
    assert set(HEADERS) <= set(changed)
    rest = [page for page in changed if page not in HEADERS]
    assert rest, "the log held a change of the BAT"
    assert all(page in where["bat"] for page in rest)
    file_write, data_write, _ = current_guids(before)
    for header in HEADERS:
        # FileWriteGuid is new; what a guest sees is as it was; LogGuid is gone.
        now = guids(after, header)
        assert now[0] != file_write
        assert now[1:] == (data_write, bytes(16))
    assert not tool.open(path, "write")["log_dirty"]
    tool.close()
    assert path.read_bytes() == after


@pytest.mark.parametrize("name", DIRTY)
def test_qemu_reads_what_was_replayed(
    name: str, tool: Tool, tmp_path: pathlib.Path
) -> None:
    qemu_img = require_tool("qemu-img", package="qemu-utils")
    path = unpack(name, tmp_path)
    check = [qemu_img, "check", "-f", "vhdx", str(path)]
    assert subprocess.run(check, capture_output=True, check=False).returncode != 0
    tool.open(path, "write")
    tool.close()
    run(check)
    raw = tmp_path / "raw"
    run([qemu_img, "convert", "-f", "vhdx", "-O", "raw", str(path), str(raw)])
    assert sha256(raw) == manifest()[name]["raw_sha256"]
