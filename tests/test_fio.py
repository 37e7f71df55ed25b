"""fio writes to an attached disk for a while and finds all of it again.

One minute over all kinds; VIRTDISK_LONG=1 makes it ten.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Iterator

import pytest
from engine_build import Build
from images import MIB, Kind, Tool, running
from support import LINUX, let_go, require_loop, require_tool

import virtdisk

pytestmark = pytest.mark.skipif(not LINUX, reason="the engine is for Linux")

#: Kind, and how deep the chain is.
DISKS = [
    (Kind("vhd-dynamic", 2 * MIB), 1),
    (Kind("vhdx-dynamic", 2 * MIB, 512), 1),
    (Kind("vhdx-dynamic", MIB, 4096), 1),
    (Kind("vhdx-fixed", 32 * MIB, 512), 1),
    (Kind("vhd-dynamic", 2 * MIB), 3),
    (Kind("vhdx-dynamic", 2 * MIB, 512), 3),
]
SECONDS = (600 if os.environ.get("VIRTDISK_LONG") else 60) // len(DISKS)
SIZE = 512 * MIB
JOB = [
    "--name=verify",
    "--direct=1",
    "--ioengine=libaio",
    "--iodepth=16",
    "--verify=crc32c",
    "--verify_fatal=1",
    # Two writes under way to one place may end in any order.
    "--serialize_overlap=1",
    "--randrepeat=1",
    "--output-format=terse",
]


@pytest.fixture
def tool(disk_build: Build) -> Iterator[Tool]:
    require_loop()
    with running(disk_build.link_once("disk_tool")) as tool:
        yield tool


def fio(device: str, directory: pathlib.Path, *options: str) -> None:
    """Runs a job; where it stopped verifying it notes in the directory."""
    program = require_tool("fio", package="fio")
    done = subprocess.run(
        [program, *JOB, f"--filename={device}", *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=directory,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def make_chain(
    tool: Tool, kind: Kind, depth: int, directory: pathlib.Path
) -> pathlib.Path:
    """The leaf of a chain whose parents hold something everywhere."""
    path = tool.create(kind, SIZE, directory / f"0{kind.suffix}")
    for level in range(1, depth):
        tool.open(path, "write")
        for offset in range(level * MIB, SIZE, 8 * MIB):
            tool.write(offset, bytes([level]) * 64 * 1024)
        tool.close()
        parent, path = path, directory / f"{level}{kind.suffix}"
        tool.create_child(parent, path, block=kind.block)
    return path


@pytest.mark.parametrize(
    ("kind", "depth"), DISKS, ids=[f"{kind}-{depth}" for kind, depth in DISKS]
)
def test_fio_finds_what_it_wrote(
    kind: Kind, depth: int, tool: Tool, tmp_path: pathlib.Path
) -> None:
    path = make_chain(tool, kind, depth, tmp_path)
    mixed = [
        "--rw=randwrite",
        "--bsrange=4k-256k",
        "--verify_backlog=512",
        "--fsync=128",
        f"--runtime={SECONDS}",
        "--time_based",
        f"--size={SIZE}",
    ]
    # The same job writes here and only verifies after the next attach.
    lasting = ["--rw=randwrite", "--bs=64k", f"--size={SIZE // 2}"]
    with virtdisk.attach(path, drive_letter=False) as disk:
        fio(disk.physical_path, tmp_path, *mixed)
        fio(disk.physical_path, tmp_path, *lasting, "--do_verify=0", "--end_fsync=1")
    with virtdisk.attach(path, drive_letter=False) as disk:
        fio(disk.physical_path, tmp_path, *lasting, "--verify_only")
    assert let_go(tmp_path)
