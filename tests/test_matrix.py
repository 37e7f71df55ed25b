"""A matrix of images that other software makes on the spot, read identically.

`make_matrix.py`, beside the real images, makes them with qemu-img, FATtools,
genisoimage, xorriso and mkudffs and says what each must read as, by a model
that is none of ours.  The small ones by default; VIRTDISK_MATRIX=full makes
all (350 MB, two minutes).
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from engine_build import Build
from images import EngineError, Tool, running
from support import IMAGES, LINUX, missing, sha256

pytestmark = pytest.mark.skipif(not LINUX, reason="the engine is for Linux")

SCRIPT = IMAGES.parent / "make_matrix.py"
WHOLE = os.environ.get("VIRTDISK_MATRIX") == "full"
PACKAGES = {
    "py:FATtools": "from PyPI",
    "genisoimage": "Debian package genisoimage",
    "xorriso": "Debian package xorriso",
    "mkudffs": "Debian package udftools",
    "mkntfs": "Debian package ntfs-3g",
    "mkfs.vfat": "Debian package dosfstools",
    "mkfs.ext4": "Debian package e2fsprogs",
    "sfdisk": "Debian package fdisk",
    "qemu-img": "Debian package qemu-utils",
    "qemu-io": "Debian package qemu-utils",
    "file:/usr/lib/ISOLINUX/isohdpfx.bin": "Debian package isolinux",
    "file:/usr/lib/ISOLINUX/isolinux.bin": "Debian package isolinux",
}
FILE_CORRUPT = 1392


def case_names() -> list[str]:
    """Of all cases that are to be made."""
    if not LINUX or not SCRIPT.exists():
        return []
    listing = subprocess.run(
        [sys.executable, SCRIPT, "--list"], capture_output=True, text=True, check=True
    ).stdout
    cases = (line.split() for line in listing.splitlines())
    return [words[0] for words in cases if WHOLE or words[1:2] == ["quick"]]


NAMES = case_names()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("matrix")


@pytest.fixture(scope="module")
def matrix(directory: pathlib.Path) -> dict[str, dict[str, Any]]:
    """The images, made, by name; and why some could not be."""
    command = [sys.executable, str(SCRIPT), str(directory)]
    done = subprocess.run(
        command if WHOLE else [*command, "--quick"],
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads((directory / "matrix.json").read_text())
    cases = {entry["name"]: entry for entry in found}
    for line in done.stdout.splitlines():
        words = line.split()
        if words[0] == "skip":
            cases[words[1]] = {"needs": words[3]}
        elif words[0] == "FAIL":
            cases[words[1]] = {"failed": line}
    return cases


@pytest.fixture(scope="module")
def tool(disk_build: Build) -> Iterator[Tool]:
    with running(disk_build.link_once("disk_tool")) as tool:
        yield tool


def case_of(name: str, matrix: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The facts about an image that could be made."""
    case = matrix[name]
    assert "failed" not in case, case
    if "needs" in case:
        missing(f"needs {case['needs']} ({PACKAGES[case['needs']]})")
    return case


def check_disc(tool: Tool, path: pathlib.Path, case: dict[str, Any]) -> None:
    if case["size"] % 2048 != 0:
        with pytest.raises(EngineError) as caught:
            tool.open(path)
        assert caught.value.code == FILE_CORRUPT
        return
    facts = tool.open(path, "read")
    assert (facts["format"], facts["sector"]) == ("ISO", 2048)
    assert tool.sha256(path, "read") == case["raw_sha256"]


def check_samples(tool: Tool, case: dict[str, Any]) -> None:
    """Of a disk too large to be read whole: the edges of what was written."""
    assert case["samples"]
    for offset, length, digest in case["samples"]:
        found = hashlib.sha256(tool.read(offset, length)).hexdigest()
        assert found == digest, f"{length} bytes at {offset}"


def check_disk(tool: Tool, path: pathlib.Path, case: dict[str, Any]) -> None:
    facts = tool.open(path, "read")
    assert facts["format"].lower() == case["format"]
    assert facts["size"] == case["virtual_size"]
    assert facts["sector"] == case["logical_sector"]
    assert facts["layers"] == 1 + len(case["parents"])
    if case["raw_sha256"] is None:
        check_samples(tool, case)
    else:
        assert tool.sha256(path, "read") == case["raw_sha256"]


def test_there_is_a_matrix() -> None:
    if not SCRIPT.exists():
        missing(f"{SCRIPT.name} not found (set VIRTDISK_TEST_IMAGES)")
    assert len(NAMES) >= (115 if WHOLE else 76)


@pytest.mark.parametrize("name", NAMES)
def test_reads_as_its_maker_wrote_it(
    name: str,
    matrix: dict[str, dict[str, Any]],
    directory: pathlib.Path,
    tool: Tool,
) -> None:
    case = case_of(name, matrix)
    path = directory / name
    before = sha256(path) if case["sha256"] else None
    if case["format"] == "iso":
        check_disc(tool, path, case)
    else:
        check_disk(tool, path, case)
    tool.close()
    assert before == (sha256(path) if case["sha256"] else None)
