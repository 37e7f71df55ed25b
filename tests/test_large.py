"""The largest disk costs about what a small one does.

What is compared are bytes and system calls, of the process that attaches and
of the disk server, for a disk of 64 TiB and one of 1 GiB; the times are in
benchmarks/.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
from collections.abc import Iterator

import pytest
from engine_build import Build
from images import GIB, MIB, TIB, Kind, Tool, running
from support import LINUX, PYTHON, require_loop

pytestmark = pytest.mark.skipif(not LINUX, reason="the engine is for Linux")

SERVER = "virtdisk-server"
ATTACH = """
import json, resource, sys, virtdisk
disk = virtdisk.attach(sys.argv[1], drive_letter=False)
usage = resource.getrusage(resource.RUSAGE_SELF)
io = dict(line.split(": ") for line in open("/proc/self/io").read().splitlines())
print(json.dumps([disk.physical_path, usage.ru_maxrss * 1024, int(io["syscr"])]))
sys.stdout.flush()
sys.stdin.readline()
disk.close()
"""


@dataclasses.dataclass
class Cost:
    """What an attachment takes.

    Attributes:
        opener: Most memory of the process that attached, in bytes.
        opener_reads: Its read system calls.
        server: Most memory of the disk server, in bytes.
        server_reads: Its read system calls.
        device: Size in bytes, as the kernel has it.
    """

    opener: int
    opener_reads: int
    server: int
    server_reads: int
    device: int


@pytest.fixture
def tool(disk_build: Build) -> Iterator[Tool]:
    require_loop()
    with running(disk_build.link_once("disk_tool")) as tool:
        yield tool


def server_of(path: pathlib.Path) -> pathlib.Path:
    """The /proc entry of the disk server that has an image open."""
    wanted = path.stat()
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if (process / "exe").readlink().name != SERVER:
                continue
            files = [entry.stat() for entry in (process / "fd").iterdir()]
        except OSError:
            continue
        if any(os.path.samestat(file, wanted) for file in files):
            return process
    raise AssertionError(f"no {SERVER} has {path}")


def status_bytes(process: pathlib.Path, name: str) -> int:
    for line in (process / "status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise AssertionError(name)


def read_calls(process: pathlib.Path) -> int:
    lines = (process / "io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["syscr"])


def use_ends(device: str) -> int:
    """Reads and writes the first and the last MiB; returns the size."""
    with open(device, "r+b", buffering=0) as file:
        size = file.seek(0, 2)
        for offset in (0, size // 2, size - MIB):
            file.seek(offset)
            assert file.read(MIB) == bytes(MIB)
            file.seek(offset)
            file.write(b"\x5a" * 4096)
    return size


def cost_of(path: pathlib.Path) -> Cost:
    with subprocess.Popen(
        [*PYTHON, "-c", ATTACH, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as opener:
        assert opener.stdin is not None
        assert opener.stdout is not None
        device, memory, reads = json.loads(opener.stdout.readline())
        size = use_ends(device)
        server = server_of(path)
        cost = Cost(
            memory, reads, status_bytes(server, "VmHWM"), read_calls(server), size
        )
        opener.stdin.write("\n")
        opener.stdin.flush()
        assert opener.wait() == 0
    return cost


@pytest.mark.parametrize("block", [32 * MIB, 256 * MIB, MIB], ids=["32M", "256M", "1M"])
def test_the_largest_disk_is_no_burden(
    block: int, tool: Tool, tmp_path: pathlib.Path
) -> None:
    kind = Kind("vhdx-dynamic", block, 512)
    large = tool.create(kind, 64 * TIB, tmp_path / "large.vhdx")
    small = tool.create(kind, GIB, tmp_path / "small.vhdx")
    assert large.stat().st_blocks * 512 < MIB
    one, other = cost_of(large), cost_of(small)
    assert (one.device, other.device) == (64 * TIB, GIB)
    assert one.opener < 2 * other.opener + 4 * MIB
    assert one.server < 2 * other.server + 4 * MIB
    assert one.opener_reads < 2 * other.opener_reads + 200
    assert one.server_reads < 2 * other.server_reads + 200
