"""Differencing chains and VHDX in the facade: what is known of them, the
flags about parents, and images that somebody is writing to meanwhile.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import pathlib
import struct
import subprocess
import uuid
from collections.abc import Iterator

import pytest
from engine_build import Build
from images import MIB, Kind, Tool, running, unpack
from support import (
    LINUX,
    PYTHON,
    image_names,
    image_path,
    make_vhd,
    manifest,
    missing,
    sha256,
)

import virtdisk
from virtdisk import (
    AttachFlag,
    OpenFlag,
    ProviderSubtype,
    StorageType,
    VirtualDiskError,
    _virtdisk,
)

pytestmark = pytest.mark.skipif(not LINUX, reason="needs the Linux engine")

PRIVATE = AttachFlag.NO_LOCAL_HOST
SIZE = 8 * MIB
NAMES = image_names("vhd", "vhdx")
CHILDREN = image_names("vhd", "vhdx", kind="differencing")
#: Bytes; larger disks are not read whole here (test_disk_images.py does).
LARGEST = 1 << 30
SUBTYPES = {
    "fixed": ProviderSubtype.FIXED,
    "dynamic": ProviderSubtype.DYNAMIC,
    "differencing": ProviderSubtype.DIFFERENCING,
}
TYPES = {"vhd": StorageType.VHD, "vhdx": StorageType.VHDX}

PARENT_NOT_FOUND = 0xC03A000D
ID_MISMATCH = 0xC03A000E
ERROR_IN_PARENT = 0xC03A0019
INVALID_TYPE = 0xC03A001B
INVALID_STATE = 0xC03A001C


@pytest.fixture
def tool(disk_build: Build) -> Iterator[Tool]:
    with running(disk_build.link_once("disk_tool")) as tool:
        yield tool


@pytest.fixture(params=["vhdx", "vhd"])
def chain(
    request: pytest.FixtureRequest, tool: Tool, tmp_path: pathlib.Path
) -> list[pathlib.Path]:
    """Base, middle and leaf."""
    suffix = request.param
    paths = [tmp_path / f"{name}.{suffix}" for name in ("base", "middle", "leaf")]
    tool.create(Kind(f"{suffix}-dynamic"), SIZE, paths[0])
    for parent, child in itertools.pairwise(paths):
        tool.create_child(parent, child)
    return paths


@contextlib.contextmanager
def refused(winerror: int) -> Iterator[None]:
    with pytest.raises(VirtualDiskError) as caught:
        yield
    assert caught.value.winerror == winerror


# Real images.


def test_there_are_real_images() -> None:
    if not manifest():
        missing("no real images found (set VIRTDISK_TEST_IMAGES)")
    assert len(NAMES) >= 18
    assert len(CHILDREN) == 2


def in_memory(digits: str) -> uuid.UUID:
    """The manifest has a VHD's bytes in their order; Windows writes a GUID
    as it has it in memory."""
    return uuid.UUID(bytes_le=uuid.UUID(digits).bytes)


@pytest.mark.parametrize("name", NAMES or ["win8-child.vhd"])
def test_what_is_known_of_real_images(name: str, tmp_path: pathlib.Path) -> None:
    path = unpack(name, tmp_path)
    facts = manifest()[name]
    before = sha256(path)
    with virtdisk.open(path, read_only=True) as disk:
        info = disk.info
    assert sha256(path) == before
    assert info.virtual_size == facts["virtual_size"]
    assert info.physical_size == facts["size"]
    assert info.block_size == (facts["block_size"] or 0)
    assert info.sector_size == facts["logical_sector"]
    assert info.physical_sector_size == facts["physical_sector"]
    assert info.storage_type == TYPES[facts["format"]]
    assert info.subtype == SUBTYPES[facts["kind"]]
    if facts["format"] == "vhd":
        assert info.identifier == in_memory(facts["uuid"])
        assert info.virtual_disk_id is None
    else:
        assert info.identifier == uuid.UUID(facts["data_write_guid"])
        assert info.virtual_disk_id == uuid.UUID(facts["virtual_disk_id"])
        assert info.is_4k_aligned
    assert info.fragmentation is not None
    if facts.get("blocks_in_order"):
        assert info.fragmentation == 0
    assert (info.parent is not None) == (name in CHILDREN)
    assert not info.is_loaded


@pytest.mark.parametrize("name", NAMES or ["win8-child.vhd"])
def test_real_images_attached_without_a_device(
    name: str, tmp_path: pathlib.Path
) -> None:
    """Every byte as other readers see it, and the files stay as they were."""
    path = unpack(name, tmp_path)
    facts = manifest()[name]
    before = {file: sha256(file) for file in tmp_path.iterdir()}
    disk = virtdisk.attach(path, read_only=True, flags=PRIVATE)
    with disk, disk.raw() as file:
        if facts["virtual_size"] <= LARGEST:
            digest = hashlib.sha256()
            while piece := file.read(4 * MIB):
                digest.update(piece)
            assert digest.hexdigest() == facts["raw_sha256"]
        else:
            assert file.seek(-512, os.SEEK_END) == facts["virtual_size"] - 512
            assert len(file.read()) == 512
    assert {file: sha256(file) for file in tmp_path.iterdir()} == before


def windows_name(path: str) -> str:
    return path.replace("\\", "/").rsplit("/", 1)[-1]


@pytest.mark.parametrize("name", CHILDREN or ["win8-child.vhd"])
def test_parent_of_a_real_image(name: str, tmp_path: pathlib.Path) -> None:
    path = unpack(name, tmp_path)
    facts = manifest()[name]
    with virtdisk.open(path, read_only=True) as disk:
        parent = disk.info.parent
    assert parent is not None
    assert parent.resolved
    if facts["format"] == "vhd":
        expected = windows_name(facts["parent"]["locators"][0]["value"])
        assert parent.identifier == in_memory(facts["parent"]["uuid"])
        assert parent.timestamp == facts["parent"]["timestamp"]
    else:
        expected = windows_name(facts["parent_locator"]["relative_path"])
        linkage = facts["parent_locator"]["parent_linkage"]
        assert parent.identifier == uuid.UUID(linkage)
        assert parent.timestamp is None
    assert parent.paths == (str(tmp_path / expected),)


@pytest.mark.parametrize("name", CHILDREN or ["win8-child.vhd"])
def test_real_image_without_its_parent(name: str, tmp_path: pathlib.Path) -> None:
    path = image_path(name, tmp_path)
    with refused(PARENT_NOT_FOUND):
        virtdisk.open(path, read_only=True)
    with refused(PARENT_NOT_FOUND):
        virtdisk.attach(path, read_only=True, flags=PRIVATE)
    with virtdisk.open(path, read_only=True, parents=False) as disk:
        info = disk.info
        with refused(PARENT_NOT_FOUND):
            disk.attach(flags=PRIVATE)
        with refused(PARENT_NOT_FOUND):
            disk.attach(read_only=True)
    assert info.virtual_size == manifest()[name]["virtual_size"]
    assert info.smallest_safe_virtual_size is None
    assert info.parent is not None
    assert not info.parent.resolved
    assert all(os.path.dirname(p) == str(tmp_path) for p in info.parent.paths)
    assert len(info.parent.paths) >= 2


# Chains of our own.


def test_each_names_its_parent(chain: list[pathlib.Path]) -> None:
    for parent, child in itertools.pairwise(chain):
        with virtdisk.open(parent) as disk:
            identifier = disk.info.identifier
        with virtdisk.open(child) as disk:
            info = disk.info
        assert info.subtype == ProviderSubtype.DIFFERENCING
        assert info.parent is not None
        assert info.parent.resolved
        assert info.parent.paths == (str(parent),)
        assert info.parent.identifier == identifier
    with virtdisk.open(chain[0]) as disk:
        assert disk.info.parent is None


@pytest.mark.parametrize("suffix", [".vhd", ".vhdx"])
@pytest.mark.parametrize(
    "name", ["a b ", "\xfc\U0001f600", "\udcff\udc80", "%41", "c:x", "-", "\xe9" * 120]
)
def test_parent_of_any_name(name: str, suffix: str, tmp_path: pathlib.Path) -> None:
    """What a child is made of is found again, of whatever bytes its name is."""
    parent, child = tmp_path / f"{name}{suffix}", tmp_path / f"child{suffix}"
    virtdisk.create(parent, 4 * MIB).close()
    virtdisk.create(child, parent=parent).close()
    assert [link.error for link in virtdisk.chain(child)] == [None, None]


@pytest.mark.parametrize("suffix", [".vhd", ".vhdx"])
@pytest.mark.parametrize("name", ["line\nline", "tab\t", "\x7f", "\x01", "back\\slash"])
def test_parent_whose_name_cannot_be_said(
    name: str, suffix: str, tmp_path: pathlib.Path
) -> None:
    """A child of it would lead nowhere, so none is made or led there."""
    parent, child = tmp_path / f"{name}{suffix}", tmp_path / f"child{suffix}"
    virtdisk.create(parent, 4 * MIB).close()
    with pytest.raises(VirtualDiskError) as caught:
        virtdisk.create(child, parent=parent)
    assert (caught.value.winerror, caught.value.filename) == (123, str(parent))
    assert not child.exists()
    plain = parent.rename(tmp_path / f"plain{suffix}")
    virtdisk.create(child, parent=plain).close()
    plain.rename(parent)
    with virtdisk.open(child, parents=False) as disk:
        with pytest.raises(VirtualDiskError) as caught:
            disk.reconnect(parent)
        assert caught.value.winerror == 123


def test_broken_links(chain: list[pathlib.Path]) -> None:
    base, middle, leaf = chain
    hidden = middle.with_suffix(".hidden")
    middle.rename(hidden)
    with refused(PARENT_NOT_FOUND):
        virtdisk.open(leaf)
    hidden.rename(middle)
    base.rename(hidden)
    with refused(PARENT_NOT_FOUND):
        virtdisk.open(middle)
    with refused(ERROR_IN_PARENT):
        virtdisk.open(leaf)
    hidden.rename(base)
    virtdisk.open(leaf).close()


def test_detaching_needs_no_parents(chain: list[pathlib.Path]) -> None:
    """A broken chain must not keep a disk attached."""
    with virtdisk.attach(chain[2], flags=PRIVATE):
        chain[1].rename(chain[1].with_suffix(".hidden"))
        assert str(chain[2]) in [image.path for image in virtdisk.attached()]
        virtdisk.detach(chain[2])
        assert str(chain[2]) not in [image.path for image in virtdisk.attached()]


def custom(path: pathlib.Path) -> _virtdisk.Handle:
    return _virtdisk.OpenVirtualDisk(
        str(path), version=2, flags=int(OpenFlag.CUSTOM_DIFF_CHAIN)
    )


def test_chain_put_together_by_hand(
    chain: list[pathlib.Path], tmp_path: pathlib.Path
) -> None:
    """Parents where the images do not look for them, under other names."""
    base, middle, leaf = chain
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    moved = elsewhere / "moved"
    middle.rename(moved)
    alien = make_vhd(tmp_path / "alien.vhd")
    with custom(leaf) as handle:
        with refused(PARENT_NOT_FOUND):
            _virtdisk.AttachVirtualDisk(handle, flags=int(PRIVATE))
        with refused(ID_MISMATCH):
            _virtdisk.AddVirtualDiskParent(handle, str(base))
        with pytest.raises(VirtualDiskError):
            _virtdisk.AddVirtualDiskParent(handle, str(alien))
        with refused(2):
            _virtdisk.AddVirtualDiskParent(handle, str(middle))
        _virtdisk.AddVirtualDiskParent(handle, str(moved))
        assert _virtdisk.GetVirtualDiskInformation(handle, 3) == (True, [str(moved)])
        _virtdisk.AddVirtualDiskParent(handle, str(base))
        with refused(INVALID_TYPE):
            _virtdisk.AddVirtualDiskParent(handle, str(base))
        _virtdisk.AttachVirtualDisk(handle, flags=int(PRIVATE))
        with refused(INVALID_STATE):
            _virtdisk.AddVirtualDiskParent(handle, str(base))
        data = bytearray(512)
        read = bytes.fromhex("28000000000000000100")
        assert _virtdisk.RawSCSIVirtualDisk(handle, read, data_in=data) == (
            0,
            b"",
            512,
        )
        _virtdisk.DetachVirtualDisk(handle)
    with custom(base) as handle, refused(INVALID_TYPE):
        _virtdisk.AddVirtualDiskParent(handle, str(alien))
    with _virtdisk.OpenVirtualDisk(str(base), version=2) as handle, refused(87):
        _virtdisk.AddVirtualDiskParent(handle, str(alien))


def test_ignored_relative_path(chain: list[pathlib.Path]) -> None:
    """Only other paths are tried; ours have none, or their parent's name."""
    flags = OpenFlag.IGNORE_RELATIVE_PARENT_LOCATOR
    with virtdisk.open(chain[1], parents=False) as disk:
        parent = disk.info.parent
    assert parent is not None
    if len(parent.paths) > 1:
        virtdisk.open(chain[1], flags=flags).close()
    else:
        with refused(PARENT_NOT_FOUND):
            virtdisk.open(chain[1], flags=flags)


def test_parent_written_since(chain: list[pathlib.Path]) -> None:
    """A VHDX is another parent then; a VHD's identifier stays, as on Windows."""
    with virtdisk.attach(chain[0], flags=PRIVATE) as disk, disk.raw("r+b") as file:
        file.write(b"changed")
    if chain[0].suffix == ".vhdx":
        with refused(ID_MISMATCH):
            virtdisk.open(chain[1])
    else:
        virtdisk.open(chain[1]).close()


# A parent outside its child's directory.

ROOTS = "VIRTDISK_PARENT_ROOTS"


@pytest.fixture(params=[".vhd", ".vhdx"])
def beside(
    request: pytest.FixtureRequest,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[pathlib.Path, pathlib.Path]:
    """A parent and its child, in two directories of one."""
    monkeypatch.delenv(ROOTS, raising=False)
    parent = tmp_path / "parents" / f"base{request.param}"
    child = tmp_path / "children" / f"child{request.param}"
    for path in (parent, child):
        path.parent.mkdir()
    virtdisk.create(parent, SIZE).close()
    virtdisk.create(child, parent=parent).close()
    return parent, child


def test_parent_beside_needs_a_root(
    beside: tuple[pathlib.Path, pathlib.Path],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parent, child = beside
    with pytest.raises(VirtualDiskError) as caught:
        virtdisk.open(child)
    assert caught.value.winerror == PARENT_NOT_FOUND
    assert ROOTS in (caught.value.remedy or "")
    for wrong in ("", "parents", str(child.parent), f"{parent.parent}s"):
        monkeypatch.setenv(ROOTS, wrong)
        with refused(PARENT_NOT_FOUND):
            virtdisk.open(child)
    for right in (f"{parent.parent}/", f":none:/none:{tmp_path}"):
        monkeypatch.setenv(ROOTS, right)
        with virtdisk.open(child) as disk:
            found = disk.info.parent
        assert found is not None
        assert found.resolved
        assert found.paths == (str(parent),)
    with virtdisk.attach(child, flags=PRIVATE) as disk, disk.raw("r+b") as file:
        assert file.read(512) == bytes(512)


def test_where_a_parent_beside_would_be(
    beside: tuple[pathlib.Path, pathlib.Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is listed is what is tried."""
    parent, child = beside

    def candidates() -> tuple[str, ...]:
        with virtdisk.open(child, parents=False) as disk:
            found = disk.info.parent
        assert found is not None
        assert not found.resolved
        return found.paths

    without = candidates()
    assert {os.path.dirname(path) for path in without} == {str(child.parent)}
    monkeypatch.setenv(ROOTS, str(parent.parent))
    assert candidates() == (str(parent), *without)


def test_why_a_parent_was_not_followed(
    beside: tuple[pathlib.Path, pathlib.Path],
) -> None:
    parent, child = beside
    code = "import sys, virtdisk; virtdisk.open(sys.argv[1])"
    done = subprocess.run(
        [*PYTHON, "-c", code, child],
        capture_output=True,
        text=True,
        env={**os.environ, "VIRTDISK_DEBUG": "disk", ROOTS: "here:/none"},
        check=False,
    )
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert f'virtdisk: disk: {ROOTS}: "here" ignored: not absolute' in lines
    assert any(
        line.startswith("virtdisk: disk: ") and str(parent) in line and ROOTS in line
        for line in lines
    )


def test_hostile_upward_path(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A VHDX whose parent's relative path was replaced by another."""
    monkeypatch.delenv(ROOTS, raising=False)
    (tmp_path / "p").mkdir()
    (tmp_path / "c").mkdir()
    child = tmp_path / "c" / "child.vhdx"
    ups = len(child.parent.parts) - 1
    passwd = "..\\" * ups + "etc\\passwd"
    higher = "..\\" * (ups + 1) + "etc\\hosts"
    assert len(higher) >= len(passwd)
    passwd = passwd.replace("etc\\", "etc\\" + "\\" * (len(higher) - len(passwd)))
    stem = "x" * (len(higher) - len("..\\p\\.vhdx"))
    parent = tmp_path / "p" / f"{stem}.vhdx"
    virtdisk.create(parent, SIZE).close()
    virtdisk.create(child, parent=parent).close()
    whole = child.read_bytes()
    written = f"..\\p\\{stem}.vhdx".encode("utf-16-le")
    assert whole.count(written) == 1

    def tell(path: str) -> None:
        child.write_bytes(whole.replace(written, path.encode("utf-16-le")))

    tell(passwd)
    for roots in (None, str(tmp_path), "/none:etc:/et:/usr"):
        if roots is not None:
            monkeypatch.setenv(ROOTS, roots)
        with refused(PARENT_NOT_FOUND):
            virtdisk.open(child)
    monkeypatch.setenv(ROOTS, "/")  # allowed, and still no parent
    with refused(ERROR_IN_PARENT):
        virtdisk.open(child)
    tell(higher)
    with refused(PARENT_NOT_FOUND):
        virtdisk.open(child)


# Looking at an image that another process is writing to.

BUSY = """
import random, sys, virtdisk
flags = virtdisk.AttachFlag.NO_LOCAL_HOST
generator = random.Random(1)
with virtdisk.attach(sys.argv[1], flags=flags) as disk, disk.raw("r+b") as file:
    size = file.seek(0, 2)
    print("attached", flush=True)
    while True:
        file.seek(generator.randrange(size - 70000))
        file.write(generator.randbytes(generator.randrange(1, 70000)))
        file.flush()
"""


@pytest.mark.parametrize("name", ["vhdx-dynamic", "vhd-dynamic"])
def test_asking_while_another_process_writes(
    name: str, tool: Tool, tmp_path: pathlib.Path
) -> None:
    """Opened for information a hundred times: never taken for damaged."""
    kind = Kind(name, block=MIB if "vhdx" in name else 512 << 10)
    size = 256 * MIB
    path = tool.create(kind, size, tmp_path / f"disk{kind.suffix}")
    with subprocess.Popen(
        [*PYTHON, "-c", BUSY, path], stdout=subprocess.PIPE, text=True
    ) as writer:
        try:
            assert writer.stdout
            assert writer.stdout.readline() == "attached\n"
            for _ in range(100):
                with virtdisk.open(path, info_only=True) as disk:
                    info = disk.info
                assert info.is_loaded
                assert info.virtual_size == size
                with pytest.raises(virtdisk.SharingViolationError):
                    virtdisk.attach(path, flags=PRIVATE)
        finally:
            virtdisk.detach(path)
            writer.kill()
    with virtdisk.attach(path, flags=PRIVATE) as disk, disk.raw() as file:
        assert file.seek(0, os.SEEK_END) == size


def test_partition_table_is_read_through_the_chain(
    chain: list[pathlib.Path],
) -> None:
    """The smallest safe size of a leaf whose table is in its base."""
    sector = bytearray(512)
    struct.pack_into("<B3xB3xII", sector, 446, 0, 7, 2048, 4096)
    sector[510:] = b"\x55\xaa"
    before = [path.stat().st_size for path in chain]
    with virtdisk.open(chain[2]) as disk:
        assert disk.info.smallest_safe_virtual_size is None
        disk.attach(flags=PRIVATE)
        with disk.raw("r+b") as file:
            file.write(sector)
        assert disk.info.smallest_safe_virtual_size == (2048 + 4096) * 512
        disk.detach()
        assert disk.info.smallest_safe_virtual_size == (2048 + 4096) * 512
    assert [path.stat().st_size for path in chain][:2] == before[:2]
