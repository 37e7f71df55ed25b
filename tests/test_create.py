"""CreateVirtualDisk: what the engine makes, and what it leaves when it fails.

Misuse, rights and the asynchronous call are in tests/engine/test_api_create.c,
copies of a source in test_convert.py.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import stat
import subprocess
from collections.abc import Iterator

import pytest
from support import (
    LINUX,
    missing,
    pattern,
    require_loop,
    require_root,
    require_tool,
    small_file_system,
)
from witness import check_same, qemu_img

from virtdisk import _virtdisk as api

pytestmark = pytest.mark.skipif(not LINUX, reason="the engine's behaviour")

MIB = 1 << 20
SIZE = 40 * MIB
FIXED, PREVENT_WRITES, NO_METADATA, SPARSE = 1, 2, 4, 0x80
DISK_FULL = 112
UNSUPPORTED_SECTOR_SIZE = 0xC03A001D
ALREADY_OWNED = 0xC03A001E
ONLINE_AND_WRITABLE = 0xC03A001F
INVALID_PARAMETER = 87
INVALID_SIZE = 0xC03A0012
INVALID_FILE_SIZE = 0xC03A0013
GUID = bytes.fromhex("00112233445566778899aabbccddeeff")


def code_of(path: pathlib.Path, **arguments: object) -> int:
    """The code that a call ends with, 0 for success."""
    try:
        api.CreateVirtualDisk(str(path), **arguments).close()  # type: ignore[arg-type]
    except OSError as error:
        return int(error.winerror)  # type: ignore[attr-defined]
    return 0


def make(path: pathlib.Path, **arguments: object) -> pathlib.Path:
    assert code_of(path, **{"maximum_size": SIZE, **arguments}) == 0
    return path


@pytest.mark.parametrize("suffix", [".vhd", ".vhdx"])
@pytest.mark.parametrize("flags", [0, FIXED, FIXED | SPARSE])
def test_new_disk_reads_as_zeros(
    suffix: str, flags: int, tmp_path: pathlib.Path
) -> None:
    image = make(tmp_path / f"new{suffix}", flags=flags)
    raw = tmp_path / "zeros.img"
    raw.touch()
    os.truncate(raw, SIZE)
    check_same(image, raw)
    assert sorted(os.listdir(tmp_path)) == ["new" + suffix, "zeros.img"]


@pytest.mark.parametrize("suffix", [".vhd", ".vhdx"])
def test_child_of_child(suffix: str, tmp_path: pathlib.Path) -> None:
    """A chain is found again through the paths that were written."""
    names = [tmp_path / f"{name}{suffix}" for name in ("a", "b", "c")]
    make(names[0])
    for parent, child in itertools.pairwise(names):
        make(child, maximum_size=0, parent_path=str(parent))
    with api.OpenVirtualDisk(str(names[2]), version=2) as handle:
        api.AttachVirtualDisk(handle, flags=8)


def test_child_below_and_beside_its_parent(tmp_path: pathlib.Path) -> None:
    """Beside it a search does not find it, which goes up only to a root; the
    handle sees the parent that was named all the same."""
    (tmp_path / "below").mkdir()
    base = make(tmp_path / "below" / "base.vhdx")
    above = make(tmp_path / "above.vhdx", maximum_size=0, parent_path=str(base))
    with api.OpenVirtualDisk(str(above), version=2):
        pass
    other = tmp_path / "other"
    other.mkdir()
    with api.CreateVirtualDisk(
        str(other / "child.vhdx"), version=2, parent_path=str(base)
    ) as handle:
        api.AttachVirtualDisk(handle, flags=8)


@pytest.mark.parametrize("suffix", [".vhd", ".vhdx"])
def test_source_of_less_than_3_mib(suffix: str, tmp_path: pathlib.Path) -> None:
    """No image is that small, but the caller has said nothing wrong."""
    raw = tmp_path / "floppy.img"
    raw.write_bytes(pattern(1440 << 10))
    image = tmp_path / f"new{suffix}"
    assert code_of(image, source_path=str(raw)) == INVALID_SIZE
    assert not image.exists()
    make(image, source_path=str(raw), maximum_size=3 * MIB)
    os.truncate(raw, 3 * MIB)
    check_same(image, raw)


@pytest.mark.parametrize("suffix", [".vhd", ".vhdx"])
def test_parent_of_less_than_3_mib(suffix: str, tmp_path: pathlib.Path) -> None:
    """Other software makes such images; a child is as large as its parent."""
    parent, child = tmp_path / f"parent{suffix}", tmp_path / f"child{suffix}"
    kind = "vpc" if suffix == ".vhd" else "vhdx"
    options = "force_size=on" if suffix == ".vhd" else "block_size=1M"
    qemu_img("create", "-q", "-f", kind, "-o", options, parent, str(MIB))
    assert code_of(child, parent_path=str(parent), maximum_size=2 * MIB) == (
        INVALID_PARAMETER
    )
    make(child, parent_path=str(parent), maximum_size=0)
    with api.OpenVirtualDisk(str(child), version=2) as handle:
        size = api.GetVirtualDiskInformation(handle, 1)
    assert size[0] == MIB


@pytest.mark.parametrize("flags", [0, NO_METADATA])
def test_metadata_of_the_parent(flags: int, tmp_path: pathlib.Path) -> None:
    base = make(tmp_path / "base.vhdx")
    with api.OpenVirtualDisk(str(base), version=2) as handle:
        api.SetVirtualDiskMetadata(handle, GUID, b"of the parent")
    child = make(
        tmp_path / "child.vhdx", maximum_size=0, parent_path=str(base), flags=flags
    )
    with api.OpenVirtualDisk(str(child), version=2) as handle:
        items = api.EnumerateVirtualDiskMetadata(handle)
        assert [bytes(item) for item in items] == ([] if flags else [GUID])
        if not flags:
            assert bytes(api.GetVirtualDiskMetadata(handle, GUID)) == b"of the parent"


# --- where it cannot be -----------------------------------------------------


def modes_of_unnamed_files() -> dict[int, int]:
    """By inode, of what this process has open and has no name."""
    modes = {}
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            status = os.fstat(int(descriptor))
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 0:
                modes[status.st_ino] = stat.S_IMODE(status.st_mode)
    return modes


@pytest.mark.parametrize("suffix", [".vhd", ".vhdx"])
def test_nobody_else_sees_it_grow(suffix: str, tmp_path: pathlib.Path) -> None:
    """The descriptor holds from before the first byte on."""
    raw = tmp_path / "raw.img"
    raw.write_bytes(pattern(64 * MIB))
    image = tmp_path / f"new{suffix}"
    before = modes_of_unnamed_files()
    overlapped = api.Overlapped()
    api.CreateVirtualDisk(
        str(image),
        source_path=str(raw),
        security_descriptor=f"O:S-1-22-1-{os.getuid()}D:P(A;;GA;;;OW)",
        overlapped=overlapped,
    ).close()
    now = modes_of_unnamed_files()
    modes = {mode for inode, mode in now.items() if inode not in before}
    assert modes == {0o600} or (not modes and image.exists())
    overlapped.wait()
    overlapped.result()
    assert stat.S_IMODE(image.stat().st_mode) == 0o600


@contextlib.contextmanager
def mounted(directory: pathlib.Path, *words: str) -> Iterator[pathlib.Path]:
    """A file system, for as long as it is needed."""
    require_root()
    directory.mkdir()
    done = subprocess.run(
        ["mount", *words, str(directory)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        missing(f"mount {words}: {done.stderr}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@pytest.mark.parametrize("suffix", [".vhd", ".vhdx"])
@pytest.mark.parametrize("flags", [0, FIXED])
def test_no_space(suffix: str, flags: int, tmp_path: pathlib.Path) -> None:
    """Also where only the copy, not the empty image, is too much."""
    source = tmp_path / "source.img"
    source.write_bytes(pattern(24 * MIB))
    size = (16 if flags else 20) * MIB
    with small_file_system(tmp_path / "small", size) as small:
        target = small / f"new{suffix}"
        code = code_of(target, source_path=str(source), flags=flags)
        assert code == DISK_FULL
        assert os.listdir(small) == []
        assert os.statvfs(small).f_bfree == os.statvfs(small).f_blocks


# --- block devices ----------------------------------------------------------


@contextlib.contextmanager
def loop_device(path: pathlib.Path, *words: str) -> Iterator[str]:
    require_loop()
    command = ["losetup", "--find", "--show", *words, str(path)]
    device = subprocess.check_output(command, text=True).strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.fixture
def raw(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "raw.img"
    path.write_bytes(pattern(5 * MIB))
    os.truncate(path, 20 * MIB)
    return path


@pytest.mark.parametrize("flags", [0, PREVENT_WRITES])
def test_copy_of_a_device(flags: int, raw: pathlib.Path) -> None:
    target = raw.with_name("copy.vhdx")
    with loop_device(raw) as device:
        assert code_of(target, source_path=device, flags=flags) == 0
    check_same(target, raw)


def test_device_with_sectors_of_4096_bytes(raw: pathlib.Path) -> None:
    """Who uses the disk counts in its sectors."""
    target = raw.with_name("copy.vhdx")
    with loop_device(raw, "--sector-size", "4096") as device:
        vhd = raw.with_name("copy.vhd")
        assert code_of(vhd, source_path=device) == UNSUPPORTED_SECTOR_SIZE
        assert code_of(target, source_path=device) == 0
        assert code_of(vhd, source_path=device, sector_size_in_bytes=512) == 0
    with api.OpenVirtualDisk(str(target), version=2) as handle:
        _, _, _, sector = api.GetVirtualDiskInformation(handle, 1)
        assert sector == 4096
    check_same(vhd, raw)


def test_device_with_other_sectors(raw: pathlib.Path) -> None:
    target = raw.with_name("copy.vhdx")
    with loop_device(raw, "--sector-size", "1024") as device:
        assert code_of(target, source_path=device) == UNSUPPORTED_SECTOR_SIZE


def test_device_in_use(tmp_path: pathlib.Path) -> None:
    """Nobody may write to it meanwhile, if that was asked for."""
    disk = tmp_path / "disk.img"
    disk.touch()
    os.truncate(disk, 16 * MIB)
    mkfs = require_tool("mkfs.ext4", package="e2fsprogs")
    subprocess.run([mkfs, "-q", str(disk)], check=True)
    target = tmp_path / "copy.vhdx"

    def copy() -> int:
        return code_of(target, source_path=device, flags=PREVENT_WRITES)

    with loop_device(disk) as device:
        with mounted(tmp_path / "mounted", device):
            assert copy() == ONLINE_AND_WRITABLE
            assert not target.exists()
        claim = os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
        try:
            assert copy() == ALREADY_OWNED
        finally:
            os.close(claim)
    with (
        loop_device(disk, "--read-only") as device,
        mounted(tmp_path / "read-only", "-o", "ro,noload", device),
    ):
        assert copy() == 0


def test_device_that_is_locked(raw: pathlib.Path) -> None:
    """QEMU, say, has the raw image open for writing."""
    qemu_io = require_tool("qemu-io", package="qemu-utils")
    with subprocess.Popen(
        [qemu_io, "-f", "raw", str(raw)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"length\n")
        process.stdin.flush()
        process.stdout.readline()
        assert code_of(raw.with_name("x.vhdx"), source_path=str(raw)) == 32
        process.stdin.close()


def test_qemu_tells_the_same_size(tmp_path: pathlib.Path) -> None:
    """A VHD whose size its geometry does not give exactly."""
    size = 127 * MIB + 512
    image = make(tmp_path / "odd.vhd", maximum_size=size)
    assert f'"virtual-size": {size}' in qemu_img(
        "info", "-f", "vpc", "--output=json", image
    )
