"""CompactVirtualDisk on real images: detached, attached, interrupted.

Witnesses are QEMU (what a compacted image holds, and how small it can be) and
a plain array of bytes.  The order of things inside is tested in
tests/engine/test_compact.c, power cuts in test_whole_image.c.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Self

import pytest
from engine_build import Build, run
from images import GIB, MIB, Kind, Tool, running
from support import (
    LINUX,
    PYTHON,
    eventually,
    require_loop,
    require_root,
    require_tool,
)

import virtdisk
from virtdisk import VirtualDiskError, _virtdisk

pytestmark = pytest.mark.skipif(not LINUX, reason="the engine is for Linux")

NO_ZERO_SCAN, NO_BLOCK_MOVES = 1, 2
READ_ONLY, NO_LETTER, NO_LOCAL_HOST = 1, 2, 8
ALLOW_UNSAFE = 1
IS_4K_ALIGNED = 8  # of GET_VIRTUAL_DISK_INFO_VERSION
ACCESS_DENIED = 5
SHARING_VIOLATION = 32
ABORTED = 995
PENDING = 997
INVALID_STATE = 0xC03A001C
QEMU_FORMAT = {".vhd": "vpc", ".vhdx": "vhdx"}
RECORDS = pathlib.Path("/run/virtdisk")
LONG = bool(os.environ.get("VIRTDISK_LONG"))

KINDS = [
    Kind("vhdx-dynamic", MIB),
    Kind("vhdx-dynamic", 2 * MIB, 4096),
    Kind("vhd-dynamic", 2 * MIB),
    Kind("vhd-dynamic", 512 << 10),
]
BLOCKS = 24


@pytest.fixture
def tool(disk_build: Build) -> Iterator[Tool]:
    with running(disk_build.link_once("disk_tool")) as tool:
        yield tool


def size_of(kind: Kind) -> int:
    return BLOCKS * kind.block + 64 * 1024


def scatter(
    tool: Tool, path: pathlib.Path, kind: Kind, seed: int, *, zeros: float = 0.5
) -> bytes:
    """Fills the open disk's blocks in any order, and some with zeros again.

    Returns:
        What the disk holds then.
    """
    generator = random.Random(seed)
    size = tool.open(path, "write")["size"]
    content = bytearray(size)
    for block in generator.sample(range(BLOCKS), BLOCKS - 3):
        at = block * kind.block + generator.randrange(8) * 4096
        data = generator.randbytes(4 * 4096)
        content[at : at + len(data)] = data
        tool.write(at, data)
    for block in generator.sample(range(BLOCKS), int(BLOCKS * zeros)):
        at = block * kind.block
        content[at : at + kind.block] = bytes(kind.block)
        tool.write(at, bytes(kind.block))
    tool.close()
    return bytes(content)


def content_of(tool: Tool, path: pathlib.Path) -> bytes:
    size = tool.open(path)["size"]
    content = b"".join(tool.content(size))
    tool.close()
    return content


def opened(path: pathlib.Path, **keywords: int) -> _virtdisk.Handle:
    return _virtdisk.OpenVirtualDisk(str(path), version=2, **keywords)  # type: ignore[arg-type]


def compact(path: pathlib.Path, flags: int = 0) -> None:
    with opened(path) as handle:
        _virtdisk.CompactVirtualDisk(handle, flags=flags)


@contextlib.contextmanager
def refused(code: int) -> Iterator[None]:
    with pytest.raises(VirtualDiskError) as caught:
        yield
    assert caught.value.winerror == code


def qemu_compares(path: pathlib.Path, content: bytes) -> None:
    """QEMU reads that content, and would make no smaller file of it."""
    qemu_img = require_tool("qemu-img", package="qemu-utils")
    raw = path.with_suffix(".raw")
    raw.write_bytes(content)
    form = QEMU_FORMAT[path.suffix]
    run([qemu_img, "compare", "-f", form, "-F", "raw", str(path), str(raw)])


def qemu_size(path: pathlib.Path, block: int) -> int:
    """Of the same content in the same format by QEMU, in bytes."""
    qemu_img = require_tool("qemu-img", package="qemu-utils")
    form = QEMU_FORMAT[path.suffix]
    other = path.with_name("qemu" + path.suffix)
    options = {"vhdx": f"subformat=dynamic,block_size={block}", "vpc": "force_size"}
    raw = str(path.with_suffix(".raw"))
    command = [qemu_img, "convert", "-f", "raw", "-O", form, "-o", options[form]]
    run([*command, raw, str(other)])
    return other.stat().st_size


def is_4k_aligned(path: pathlib.Path) -> bool:
    with opened(path, get_info_only=True) as handle:
        return bool(_virtdisk.GetVirtualDiskInformation(handle, IS_4K_ALIGNED))


# Detached.


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_dynamic_image(kind: Kind, tool: Tool, tmp_path: pathlib.Path) -> None:
    """Smaller, no larger than QEMU's, and the same."""
    path = tool.create(kind, size_of(kind), tmp_path / f"disk{kind.suffix}")
    content = scatter(tool, path, kind, seed=1)
    before = path.stat().st_size
    blocks = sum(
        any(content[at : at + kind.block]) for at in range(0, len(content), kind.block)
    )
    compact(path)
    after = path.stat().st_size
    assert before - after >= (BLOCKS - 3 - blocks) * kind.block
    assert content_of(tool, path) == content
    compact(path)
    assert path.stat().st_size == after
    if kind.sector == 512 and kind.block != 512 << 10:  # what QEMU can make
        qemu_compares(path, content)
        # A VHD's payload stays on 4 KiB as Windows puts it (FORMATS 1.15), at
        # most so much further: that of each block, the BAT and the footer.
        padding = (4096 - 512) * (blocks + 2) if kind.suffix == ".vhd" else 0
        assert after <= qemu_size(path, kind.block) + padding
        assert is_4k_aligned(path)


@pytest.mark.parametrize("form", ["vpc", "vhdx"])
def test_an_image_of_qemu(form: str, tool: Tool, tmp_path: pathlib.Path) -> None:
    """No larger than what QEMU makes of it; what is unaligned stays so."""
    qemu_img = require_tool("qemu-img", package="qemu-utils")
    kind = Kind("vhd-dynamic" if form == "vpc" else "vhdx-dynamic", 2 * MIB)
    path = tmp_path / f"disk{kind.suffix}"
    options = {"vpc": "force_size", "vhdx": f"block_size={kind.block}"}[form]
    raw = tmp_path / "raw"
    with raw.open("wb") as file:  # QEMU puts one block where it wants it
        file.write(b"first")
        file.truncate(size_of(kind))
    command = [qemu_img, "convert", "-f", "raw", "-O", form, "-o", options]
    run([*command, str(raw), str(path)])
    content = scatter(tool, path, kind, seed=9)
    before = path.stat().st_size
    compact(path)
    assert path.stat().st_size < before - 2 * kind.block
    qemu_compares(path, content)
    assert path.stat().st_size <= qemu_size(path, kind.block)
    assert is_4k_aligned(path) == (form == "vhdx")


def test_a_disk_that_was_larger(tool: Tool, tmp_path: pathlib.Path) -> None:
    """The BAT of a VHDX is no longer than the disk needs."""
    kind = Kind("vhdx-dynamic", MIB)
    path = tool.create(kind, size_of(kind), tmp_path / "disk.vhdx")
    content = scatter(tool, path, kind, seed=10)
    for size in (1 << 40, len(content)):
        with opened(path) as handle:
            _virtdisk.ResizeVirtualDisk(handle, size, flags=ALLOW_UNSAFE)
    compact(path)
    qemu_compares(path, content)
    assert path.stat().st_size <= qemu_size(path, kind.block)


def test_a_full_image_stays(tool: Tool, tmp_path: pathlib.Path) -> None:
    kind = Kind("vhdx-dynamic", MIB)
    path = tool.create(kind, size_of(kind), tmp_path / "disk.vhdx")
    content = scatter(tool, path, kind, seed=2, zeros=0)
    before = path.stat().st_size
    compact(path)
    assert path.stat().st_size == before
    assert content_of(tool, path) == content


def test_flags(tool: Tool, tmp_path: pathlib.Path) -> None:
    """Without the scan zeros stay; without moves the last block does."""
    kind = Kind("vhdx-dynamic", MIB)
    path = tool.create(kind, 8 * MIB, tmp_path / "disk.vhdx")
    tool.open(path, "write")
    for block in range(6):
        tool.write(block * MIB, b"data" * 1024)
    tool.write(MIB, bytes(MIB))
    tool.zero(2 * MIB, MIB, free=True)
    tool.close()
    before = path.stat().st_size
    compact(path, NO_ZERO_SCAN | NO_BLOCK_MOVES)
    assert path.stat().st_size == before
    compact(path, NO_BLOCK_MOVES)
    assert path.stat().st_size == before
    compact(path, NO_ZERO_SCAN)
    assert path.stat().st_size == before - 2 * MIB
    compact(path)
    assert path.stat().st_size == before - 2 * MIB


@pytest.mark.parametrize(
    "kind", [Kind("vhdx-dynamic", MIB), Kind("vhd-dynamic", 2 * MIB)], ids=str
)
def test_a_chain(kind: Kind, tool: Tool, tmp_path: pathlib.Path) -> None:
    """A child is compacted, and stays valid when its parent is."""
    parent = tool.create(kind, size_of(kind), tmp_path / f"parent{kind.suffix}")
    scatter(tool, parent, kind, seed=3)
    child = tmp_path / f"child{kind.suffix}"
    tool.create_child(parent, child, block=kind.block)
    scatter(tool, child, kind, seed=4)
    content = content_of(tool, child)  # zeros in the child hide the parent
    before = child.stat().st_size, parent.stat().st_size
    compact(child)
    assert child.stat().st_size < before[0]
    assert content_of(tool, child) == content
    compact(parent)
    assert parent.stat().st_size < before[1]
    assert content_of(tool, child) == content


def test_a_large_empty_image(tool: Tool, tmp_path: pathlib.Path) -> None:
    """What is not there costs nothing."""
    path = tool.create(Kind("vhdx-dynamic", 32 * MIB), 4096 * GIB, tmp_path / "l.vhdx")
    tool.open(path, "write")
    tool.write(4000 * GIB, b"here" * 1024)
    tool.close()
    compact(path)
    tool.open(path)
    assert tool.read(4000 * GIB, 4096) == b"here" * 1024
    tool.close()


# Asynchronously.


def large(tool: Tool, path: pathlib.Path) -> bytes:
    """An image that takes a while: 96 MiB, two thirds of them zeros."""
    kind = Kind("vhdx-dynamic", MIB)
    tool.create(kind, 100 * MIB, path)
    tool.open(path, "write")
    for block in range(96):
        tool.write(block * MIB, bytes(MIB) if block % 3 else bytes([block]) * MIB)
    tool.close()
    return content_of(tool, path)


def test_progress(tool: Tool, tmp_path: pathlib.Path) -> None:
    """Never back, to the end, and then the work has been done."""
    path = tmp_path / "disk.vhdx"
    content = large(tool, path)
    before = path.stat().st_size
    overlapped = _virtdisk.Overlapped()
    with opened(path) as handle:
        _virtdisk.CompactVirtualDisk(handle, overlapped=overlapped)
        seen = [overlapped.progress()]
        while not overlapped.wait(0.005):
            seen.append(overlapped.progress())
        overlapped.result()
        status, current, completion = _virtdisk.GetVirtualDiskOperationProgress(
            handle, overlapped
        )
    assert (status, current) == (0, completion)
    assert overlapped.progress()[0] == 0
    assert completion > 0
    assert all(entry[0] in {0, PENDING} for entry in seen)
    parts = [now / of if of else 0 for _, now, of in seen]
    assert parts == sorted(parts)
    assert path.stat().st_size <= before - 60 * MIB
    assert content_of(tool, path) == content


def test_cancelled_at_any_time(tool: Tool, tmp_path: pathlib.Path) -> None:
    """What was done stays done; the rest follows the next time."""
    path = tmp_path / "disk.vhdx"
    content = large(tool, path)
    before = path.stat().st_size
    for delay in (0, 0.01, 0.03, 0.1):
        overlapped = _virtdisk.Overlapped()
        with opened(path) as handle:
            _virtdisk.CompactVirtualDisk(handle, overlapped=overlapped)
            overlapped.wait(delay)
            overlapped.cancel()
            assert overlapped.wait(60)
            assert overlapped.progress()[0] in {0, ABORTED}
        assert path.stat().st_size <= before
        before = path.stat().st_size
        assert content_of(tool, path) == content
    compact(path)
    assert path.stat().st_size <= 40 * MIB


# Attached for reading.


@pytest.fixture
def device() -> None:
    require_root()
    require_loop()


@pytest.fixture(params=["vhdx-dynamic", "vhd-dynamic"])
def served(
    request: pytest.FixtureRequest, tool: Tool, tmp_path: pathlib.Path
) -> tuple[pathlib.Path, bytes]:
    """An image to be attached, and its content."""
    kind = Kind(request.param, 2 * MIB)
    path = tool.create(kind, size_of(kind), tmp_path / f"disk{kind.suffix}")
    return path, scatter(tool, path, kind, seed=5)


class Reader:
    """Reads a disk at random until it is told to stop."""

    def __init__(self, disk: virtdisk.VirtualDisk, content: bytes) -> None:
        self.disk, self.content = disk, content
        self.wrong: list[int] = []
        self.count = 0
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        generator = random.Random(6)
        with self.disk.raw() as file:
            while not self.stopping.is_set():
                at = generator.randrange(len(self.content) - 65536)
                file.seek(at)
                if file.read(65536) != self.content[at : at + 65536]:
                    self.wrong.append(at)
                self.count += 1

    def __enter__(self) -> Self:
        self.thread.start()
        assert eventually(lambda: self.count > 3)
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.thread.join()


@pytest.mark.usefixtures("device")
def test_under_readers(served: tuple[pathlib.Path, bytes]) -> None:
    """The server compacts what it serves; readers see no difference."""
    path, content = served
    before = path.stat().st_size
    with virtdisk.attach(path, read_only=True, drive_letter=False) as disk:
        with Reader(disk, content) as reader:
            compact(path)
            compact(path, NO_ZERO_SCAN)
        assert reader.wrong == []
        assert path.stat().st_size < before - 4 * MIB
        with disk.raw() as file:
            assert file.read() == content
        sockets = {entry.name for entry in RECORDS.glob("*.upkeep")}
        assert disk.physical_path is not None
        name = pathlib.Path(disk.physical_path).name
        assert f"{name}.upkeep" in sockets
        mode = (RECORDS / f"{name}.upkeep").stat().st_mode
        assert mode & 0o777 == 0o600
    assert not (RECORDS / f"{name}.upkeep").exists()
    with virtdisk.attach(path, drive_letter=False) as disk, disk.raw() as file:
        assert file.read() == content


def test_without_a_device(served: tuple[pathlib.Path, bytes]) -> None:
    """The same through the handle that it is attached by, and no other."""
    path, content = served
    before = path.stat().st_size
    with virtdisk.open(path) as disk:
        disk.attach(read_only=True, flags=NO_LOCAL_HOST)
        with virtdisk.open(path) as other, refused(SHARING_VIOLATION):
            other.compact()
        with Reader(disk, content) as reader:
            disk.compact()
        assert reader.wrong == []
        assert path.stat().st_size < before - 4 * MIB
        with disk.raw() as file:
            assert file.read() == content
        disk.detach()
    with virtdisk.attach(path, flags=NO_LOCAL_HOST) as disk, disk.raw() as file:
        assert file.read() == content


@pytest.mark.usefixtures("device")
def test_not_while_written_to(served: tuple[pathlib.Path, bytes]) -> None:
    path, _ = served
    with virtdisk.attach(path, drive_letter=False) as disk:
        with refused(SHARING_VIOLATION):
            compact(path)
        with refused(INVALID_STATE):
            disk.compact()
    with virtdisk.attach(path, flags=NO_LOCAL_HOST) as disk, refused(INVALID_STATE):
        disk.compact()


@pytest.mark.usefixtures("device")
def test_not_under_a_child(tool: Tool, tmp_path: pathlib.Path) -> None:
    """A parent in use is not moved about under those who read it."""
    kind = Kind("vhdx-dynamic", MIB)
    parent = tool.create(kind, size_of(kind), tmp_path / "parent.vhdx")
    scatter(tool, parent, kind, seed=7)
    child = tool.create_child(parent, tmp_path / "child.vhdx")
    content = content_of(tool, child)
    before = parent.stat().st_size
    with virtdisk.attach(parent, read_only=True, drive_letter=False):
        with virtdisk.attach(child, read_only=True, drive_letter=False) as disk:
            with refused(SHARING_VIOLATION):
                compact(parent)
            with disk.raw() as file:
                assert file.read() == content
        assert parent.stat().st_size == before
        assert eventually(lambda: _try_compact(parent))
    assert parent.stat().st_size < before


def _try_compact(path: pathlib.Path) -> bool:
    """Whether nobody is in the way (any more)."""
    try:
        compact(path)
    except VirtualDiskError as error:
        if error.winerror != SHARING_VIOLATION:
            raise
        return False
    return True


WATCH = """
import sys, time
from virtdisk import _virtdisk
handle = _virtdisk.OpenVirtualDisk(sys.argv[1], version=2)
overlapped = _virtdisk.Overlapped()
_virtdisk.CompactVirtualDisk(handle, overlapped=overlapped)
print("begun", flush=True)
overlapped.wait()
"""


@pytest.mark.usefixtures("device")
def test_a_client_that_dies(tool: Tool, tmp_path: pathlib.Path) -> None:
    """It stops, the attachment has its locks again, and serves on."""
    path = tmp_path / "disk.vhdx"
    content = large(tool, path)
    with virtdisk.attach(path, read_only=True, drive_letter=False) as disk:
        for delay in (0, 0.05, 0.2):
            client = subprocess.Popen(
                [*PYTHON, "-c", WATCH, path], stdout=subprocess.PIPE
            )
            with client:
                assert client.stdout is not None
                assert client.stdout.readline() == b"begun\n"
                time.sleep(delay)
                client.kill()
        assert eventually(lambda: _try_compact(path))
        assert path.stat().st_size <= 40 * MIB
        with refused(SHARING_VIOLATION):
            virtdisk.attach(path, flags=NO_LOCAL_HOST)
        with disk.raw() as file:
            assert file.read() == content


@pytest.mark.usefixtures("device")
def test_detached_meanwhile(tool: Tool, tmp_path: pathlib.Path) -> None:
    """The end of the attachment is the end of the work."""
    path = tmp_path / "disk.vhdx"
    content = large(tool, path)
    for delay in (0, 0.03, 0.1):
        disk = virtdisk.attach(path, read_only=True, drive_letter=False)
        overlapped = _virtdisk.Overlapped()
        with opened(path) as handle:
            _virtdisk.CompactVirtualDisk(handle, overlapped=overlapped)
            overlapped.wait(delay)
            disk.detach()
            disk.close()
            assert overlapped.wait(60)
            # In use: it was on its way out already, with its locks.
            assert overlapped.progress()[0] in {0, ABORTED, SHARING_VIOLATION}
        assert content_of(tool, path) == content


@pytest.mark.usefixtures("device")
def test_strangers_are_not_served(
    served: tuple[pathlib.Path, bytes], tmp_path: pathlib.Path
) -> None:
    """Neither what is no request, nor another file, nor one for reading."""
    path, content = served
    other = tmp_path / "other"
    other.write_bytes(bytes(4096))
    with virtdisk.attach(path, read_only=True, drive_letter=False) as disk:
        assert disk.physical_path is not None
        name = pathlib.Path(disk.physical_path).name
        address = str(RECORDS / f"{name}.upkeep")
        request = struct.pack("=IHBBIIQ", 0x76640004, 1, 0, 0, 0, 0, 0)
        for data, file, flags in (
            (b"x", None, 0),
            (b"x" * 500, None, 0),
            (request, None, 0),
            (b"\0" * len(request), path, os.O_RDWR),
            (request, path, os.O_RDONLY),
            (request, other, os.O_RDWR),
        ):
            answer = ask(address, data, file, flags)
            assert answer is None or answer == 87
        assert _try_compact(path)
        with disk.raw() as raw:
            assert raw.read() == content


def ask(address: str, data: bytes, file: pathlib.Path | None, flags: int) -> int | None:
    """The code that a server answers with; None if it hangs up."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(address)
        fds = [] if file is None else [os.open(file, flags)]
        socket.send_fds(client, [data], fds)
        for fd in fds:
            os.close(fd)
        client.settimeout(30)
        while answer := client.recv(64):
            over, code = struct.unpack_from("=4xII", answer)
            if over:
                return int(code)
    return None


# Killed.


@pytest.mark.parametrize("name", ["vhdx-dynamic", "vhd-dynamic"])
def test_killed(name: str, disk_build: Build, tmp_path: pathlib.Path) -> None:
    """At random moments, again and again; VIRTDISK_LONG: 200 of them."""
    kind = Kind(name, MIB if name == "vhdx-dynamic" else 2 * MIB)
    generator = random.Random(8)
    program = disk_build.link_once("disk_tool")
    path = tmp_path / f"disk{kind.suffix}"
    with running(program) as tool:
        tool.create(kind, size_of(kind), path)
        content = bytearray(scatter(tool, path, kind, seed=8))
        longest = timed_compact(tool, path)
    for _ in range(100 if LONG else 4):
        with running(program) as tool:
            disturb(tool, path, kind, content, generator)
        kill_while_compacting(program, path, generator.uniform(0, longest))
        with running(program) as tool:
            assert content_of(tool, path) == content
    with running(program) as tool:
        timed_compact(tool, path)
        assert content_of(tool, path) == content


def timed_compact(tool: Tool, path: pathlib.Path) -> float:
    tool.open(path, "write")
    begun = time.monotonic()
    tool.compact()
    tool.close()
    return time.monotonic() - begun


def disturb(
    tool: Tool,
    path: pathlib.Path,
    kind: Kind,
    content: bytearray,
    generator: random.Random,
) -> None:
    """Makes work: some blocks of data, some of zeros."""
    tool.open(path, "write")
    for block in generator.sample(range(BLOCKS), 12):
        at = block * kind.block
        data = generator.randbytes(8192) if generator.random() < 0.5 else b""
        data = data.ljust(kind.block, b"\0")
        tool.write(at, data)
        content[at : at + kind.block] = data
    tool.close()


def kill_while_compacting(
    program: pathlib.Path, path: pathlib.Path, delay: float
) -> None:
    tool = Tool(program)
    tool.open(path, "write")
    timer = threading.Timer(delay, tool.process.kill)
    timer.start()
    with contextlib.suppress(AssertionError):  # it is gone
        tool.compact()
    timer.join()
    tool.kill()
