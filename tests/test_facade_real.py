"""The Python face with real images and real devices."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import stat
import struct
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from support import (
    LINUX,
    let_go,
    loops_of,
    make_iso,
    make_vhd,
    open_descriptors,
    pattern,
    require_loop,
    require_tool,
    sha256,
)

import virtdisk
from virtdisk import (
    AttachFlag,
    StorageType,
    VirtualDiskError,
)


def make_zeros(path: pathlib.Path) -> pathlib.Path:
    path.write_bytes(bytes(1 << 20))
    return path


def test_info_of_a_real_vhd(tmp_path: pathlib.Path) -> None:
    image = make_vhd(tmp_path / "a.vhd", 4 << 20)
    with virtdisk.open(image) as disk:
        info = disk.info
    assert info.virtual_size == 4 << 20
    assert info.physical_size == (4 << 20) + 512
    assert (info.block_size, info.sector_size) == (0, 512)
    assert info.storage_type is StorageType.VHD
    assert info.subtype is virtdisk.ProviderSubtype.FIXED
    # FORMATS.md 1.4: Windows writes a GUID as it lies in memory.
    assert info.identifier == uuid.UUID("03020100-0504-0706-0809-0a0b0c0d0e0f")
    assert info.is_loaded is False
    assert info.virtual_disk_id is info.parent is info.change_tracking is None
    assert info.smallest_safe_virtual_size is None  # no partition table


def test_info_of_a_real_iso(tmp_path: pathlib.Path) -> None:
    with virtdisk.open(make_iso(tmp_path / "a.iso", 64)) as disk:
        info = disk.info
    assert info.virtual_size == info.physical_size == 64 * 2048
    assert info.sector_size == 2048
    assert info.storage_type is StorageType.ISO
    assert info.identifier is info.subtype is info.parent is None


def test_wrong_extension_does_not_matter(tmp_path: pathlib.Path) -> None:
    with virtdisk.open(make_iso(tmp_path / "iso.vhd")) as disk:
        assert disk.info.storage_type is StorageType.ISO
    with virtdisk.open(make_vhd(tmp_path / "vhd.iso")) as disk:
        assert disk.info.storage_type is StorageType.VHD


def test_file_that_is_no_image(tmp_path: pathlib.Path) -> None:
    with pytest.raises(VirtualDiskError) as caught:
        virtdisk.open(make_zeros(tmp_path / "a.bin"))
    assert caught.value.name == "ERROR_VIRTDISK_PROVIDER_NOT_FOUND"
    assert "storage_type" in (caught.value.remedy or "")


def test_corrupt_image(tmp_path: pathlib.Path) -> None:
    image = make_iso(tmp_path / "a.iso")
    image.write_bytes(image.read_bytes()[:-1])
    with pytest.raises(virtdisk.ImageCorruptError) as caught:
        virtdisk.open(image)
    assert caught.value.winerror == 1392


@pytest.mark.parametrize(("name", "code"), [("a.vhd", 2), ("no/a.vhd", 3)])
def test_missing_image(name: str, code: int, tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        virtdisk.open(tmp_path / name)
    assert isinstance(caught.value, VirtualDiskError)
    assert caught.value.winerror == code


def test_calls_after_close(tmp_path: pathlib.Path) -> None:
    disk = virtdisk.open(make_vhd(tmp_path / "a.vhd"))
    assert not disk.closed
    disk.close()
    disk.close()
    assert disk.closed
    calls = [
        lambda: disk.info,
        lambda: disk.physical_path,
        disk.attach,
        disk.detach,
        disk.raw,
        disk.__enter__,
    ]
    for call in calls:
        with pytest.raises(ValueError, match="closed"):
            call()
    assert disk.path == str(tmp_path / "a.vhd")
    assert repr(disk) == f"<virtdisk.VirtualDisk {disk.path!r} closed>"


def test_not_attached(tmp_path: pathlib.Path) -> None:
    image = make_vhd(tmp_path / "a.vhd")
    with virtdisk.open(image) as disk:
        with pytest.raises(VirtualDiskError) as caught:
            disk.raw()
        assert caught.value.winerror == 55
        with pytest.raises(VirtualDiskError) as caught:
            disk.detach()
        assert caught.value.winerror == 21
    with pytest.raises(VirtualDiskError) as caught:
        virtdisk.detach(image)
    assert caught.value.winerror == 21


def test_undecodable_and_unusual_names(tmp_path: pathlib.Path) -> None:
    names = ["ünï — 磁盘 💽.vhd", " a b ", "x" * 250]
    if LINUX:
        names += ["new\nline.vhd", "\udcff\udc80.vhd"]
    for name in names:
        with virtdisk.open(make_vhd(tmp_path / name)) as disk:
            assert disk.path == str(tmp_path / name)
            assert disk.info.virtual_size == 4 << 20


def test_open_leaves_no_descriptor(tmp_path: pathlib.Path) -> None:
    if not LINUX:
        pytest.skip("Linux only")
    image = make_vhd(tmp_path / "a.vhd")
    virtdisk.open(image).close()
    before = open_descriptors()
    for _ in range(50):
        virtdisk.open(image).close()
        with pytest.raises(FileNotFoundError):
            virtdisk.open(tmp_path / "missing.vhd")
    assert open_descriptors() == before


# --- Real devices -----------------------------------------------------------


@pytest.fixture
def vhd(tmp_path: pathlib.Path) -> pathlib.Path:
    require_loop()
    return make_vhd(tmp_path / "real.vhd", 4 << 20)


def test_attach_use_detach(vhd: pathlib.Path, tmp_path: pathlib.Path) -> None:
    disk = virtdisk.open(vhd)
    try:
        disk.attach(drive_letter=False)
        assert "attached" in repr(disk)
        assert stat.S_ISBLK(os.stat(disk.physical_path).st_mode)
        assert disk.info.is_loaded is True
        listed = {image.path: image.physical_path for image in virtdisk.attached()}
        assert listed[str(vhd)] == disk.physical_path
        disk.detach()
        assert disk.info.is_loaded is False
        assert let_go(tmp_path)
        disk.attach(read_only=True)  # again, with the same handle
        disk.detach()
    finally:
        disk.close()


def test_raw_reads_and_seeks(vhd: pathlib.Path) -> None:
    content = pattern(4 << 20)
    with virtdisk.attach(vhd, read_only=True) as disk, disk.raw() as raw:
        assert raw.seek(0, os.SEEK_END) == 4 << 20
        assert raw.seek(1000) == 1000
        assert raw.read(3000) == content[1000:4000]
        assert raw.tell() == 4000
        raw.seek(-10, os.SEEK_END)
        assert raw.read(100) == content[-10:]
        assert raw.read(1) == b""
        assert not raw.writable()
        assert os.get_inheritable(raw.fileno()) is False


def test_raw_writes_any_bytes(vhd: pathlib.Path) -> None:
    before = vhd.read_bytes()
    with virtdisk.attach(vhd) as disk, disk.raw("r+b") as raw:
        raw.seek(12345)
        raw.write(b"across a sector border" * 40)
        raw.seek(12345)
        assert raw.read(22) == b"across a sector border"
    written = b"across a sector border" * 40
    end = 12345 + len(written)
    assert vhd.read_bytes() == before[:12345] + written + before[end:]


def test_read_only_disk_refuses_writing(vhd: pathlib.Path) -> None:
    before = sha256(vhd)
    descriptors = open_descriptors()
    with virtdisk.attach(vhd, read_only=True) as disk:
        with pytest.raises(OSError, match=disk.physical_path) as caught:
            disk.raw("r+b")
        assert caught.value.errno == errno.EROFS
    assert open_descriptors() == descriptors
    assert sha256(vhd) == before


def written_after_a_mark(vhd: pathlib.Path) -> bool:
    """Whether it got the device again that was marked read-only, and wrote to it.

    It is the first number that is free, unless another program takes it first.
    """
    with virtdisk.attach(vhd) as disk:
        marked = disk.physical_path
        subprocess.run(["blockdev", "--setro", marked], check=True)
    with virtdisk.attach(vhd) as disk:
        if disk.physical_path != marked:
            return False
        with disk.raw("r+b") as file:
            file.write(b"here")
    return True


def test_read_only_mark_of_an_earlier_user_is_gone(vhd: pathlib.Path) -> None:
    assert any(written_after_a_mark(vhd) for _ in range(100))
    with virtdisk.attach(vhd, read_only=True) as disk, disk.raw() as file:
        assert file.read(4) == b"here"


def test_restricted_range_shows_that_part(vhd: pathlib.Path) -> None:
    content = pattern(4 << 20)
    part = (1 << 20, 64 << 10)
    with virtdisk.attach(vhd, restricted_range=part) as disk, disk.raw() as raw:
        assert raw.read() == content[part[0] : part[0] + part[1]]


def test_detach_by_device(vhd: pathlib.Path, tmp_path: pathlib.Path) -> None:
    disk = virtdisk.attach(vhd, permanent=True)
    device = disk.physical_path
    disk.close()
    link = tmp_path / "link to the device"
    link.symlink_to(device)
    virtdisk.detach(link)
    assert let_go(tmp_path)


def test_detach_of_a_foreign_device(tmp_path: pathlib.Path) -> None:
    require_loop()
    losetup = require_tool("losetup", package="mount")
    other = make_zeros(tmp_path / "other.img")
    device = subprocess.check_output([losetup, "--show", "-f", other], text=True)
    try:
        with pytest.raises(VirtualDiskError) as caught:
            virtdisk.detach(device.strip())
        assert caught.value.name == "ERROR_VIRTDISK_NOT_VIRTUAL_DISK"
        assert list(loops_of(tmp_path)) == [device.strip()]
    finally:
        subprocess.run([losetup, "-d", device.strip()], check=True)


def test_moved_image_is_still_listed(vhd: pathlib.Path, tmp_path: pathlib.Path) -> None:
    moved = tmp_path / "moved.vhd"
    with virtdisk.attach(vhd) as disk:
        device = disk.physical_path
        vhd.rename(moved)
        listed = {image.path: image.physical_path for image in virtdisk.attached()}
        assert listed[str(vhd)] is None
        with virtdisk.open(moved, info_only=True) as other:
            assert other.physical_path == device


def test_no_local_host_has_no_device(vhd: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with virtdisk.attach(vhd, flags=AttachFlag.NO_LOCAL_HOST) as disk:
        assert not list(loops_of(tmp_path))
        with pytest.raises(VirtualDiskError) as caught:
            disk.physical_path  # noqa: B018
        assert caught.value.winerror == 55


@pytest.mark.parametrize("make", [make_vhd, make_iso])
def test_attached_image_names_its_device(make: Any, tmp_path: pathlib.Path) -> None:
    require_loop()
    image = make(tmp_path / "image")
    with virtdisk.attach(image) as disk:
        device = disk.physical_path
        with pytest.raises(virtdisk.SharingViolationError) as caught:
            virtdisk.attach(image)
    assert f"attached as {device}:" in (caught.value.remedy or "")


def test_image_without_a_device_names_its_holder(vhd: pathlib.Path) -> None:
    code = (
        "import sys, virtdisk\n"
        "flags = virtdisk.AttachFlag.NO_LOCAL_HOST\n"
        "with virtdisk.attach(sys.argv[1], flags=flags): print(flush=True); input()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-P", "-c", code, vhd],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout
        assert holder.stdout.readline() == "\n"
        with pytest.raises(virtdisk.SharingViolationError) as caught:
            virtdisk.attach(vhd)
        assert f"({holder.pid})" in (caught.value.remedy or "")
    finally:
        holder.communicate("\n")
    assert holder.returncode == 0
    virtdisk.attach(vhd).close()


def test_busy_disk_names_the_reader(vhd: pathlib.Path) -> None:
    """A process that has the device open keeps it; the remedy names it."""
    code = "import sys; f = open(sys.argv[1], 'rb'); print('open', flush=True); input()"
    with virtdisk.attach(vhd) as disk:
        reader = subprocess.Popen(
            [sys.executable, "-c", code, disk.physical_path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert reader.stdout
            assert reader.stdout.readline() == "open\n"
            with pytest.raises(VirtualDiskError) as caught:
                disk.detach()
            assert caught.value.winerror == 170
            assert f"({reader.pid})" in (caught.value.remedy or "")
            assert disk.info.is_loaded is True
        finally:
            reader.communicate("\n")
        disk.detach()


def test_busy_disk_names_its_own_file(vhd: pathlib.Path) -> None:
    with virtdisk.attach(vhd) as disk:
        with disk.raw():
            with pytest.raises(VirtualDiskError) as caught:
                disk.detach()
            assert caught.value.winerror == 170
            assert "this process" in (caught.value.remedy or "")
        disk.detach()


def test_partition_mount_is_named(tmp_path: pathlib.Path) -> None:
    """A partition's mount point with a space in its name, from both calls."""
    require_loop()
    mkfs = require_tool("mkfs.ext4", package="e2fsprogs")
    mount = require_tool("mount", package="mount")
    umount = require_tool("umount", package="mount")
    table = bytearray(512)
    table[446:462] = struct.pack("<B3xB3xII", 0, 0x83, 2048, 28672)
    table[510:] = b"\x55\xaa"
    image = make_vhd(tmp_path / "parts.vhd", 16 << 20, data=bytes(table))
    target = tmp_path / "a mount point"
    target.mkdir()
    with virtdisk.attach(image) as disk:
        part = disk.physical_path + "p1"
        subprocess.run([mkfs, "-q", part], check=True)
        subprocess.run([mount, part, target], check=True)
        try:
            for detach in (disk.detach, lambda: virtdisk.detach(image)):
                with pytest.raises(VirtualDiskError) as caught:
                    detach()
                assert caught.value.winerror == 170
                assert f"unmount {target}" in (caught.value.remedy or "")
        finally:
            subprocess.run([umount, target], check=True)


def device_or_code(disk: virtdisk.VirtualDisk) -> str | int:
    try:
        return disk.physical_path
    except VirtualDiskError as error:
        return error.winerror


def test_threads_share_a_disk(vhd: pathlib.Path) -> None:
    """Eight threads ask while the disk is attached and detached."""
    failures: list[BaseException] = []
    answers: set[str | int] = set()
    stop = threading.Event()

    def ask(disk: virtdisk.VirtualDisk) -> None:
        try:
            while not stop.is_set():
                assert disk.info.virtual_size == 4 << 20
                answers.add(device_or_code(disk))
        except BaseException as error:
            failures.append(error)

    with virtdisk.open(vhd) as disk:
        workers = [threading.Thread(target=ask, args=(disk,)) for _ in range(8)]
        for worker in workers:
            worker.start()
        try:
            for _ in range(20):
                disk.attach(drive_letter=False)
                disk.detach()
        finally:
            stop.set()
            for worker in workers:
                worker.join()
    assert failures == []
    assert all(str(answer) == "55" or "/dev/loop" in str(answer) for answer in answers)


@pytest.fixture
def permanent(vhd: pathlib.Path) -> Iterator[pathlib.Path]:
    virtdisk.attach(vhd, permanent=True).close()
    yield vhd
    with contextlib.suppress(VirtualDiskError):  # the test may have done it
        virtdisk.detach(vhd)


def test_permanent_outlives_its_object(permanent: pathlib.Path) -> None:
    with virtdisk.open(permanent, info_only=True) as disk:
        assert disk.info.is_loaded is True
        assert sha256(disk.physical_path)
    virtdisk.detach(permanent)
    with pytest.raises(VirtualDiskError) as caught:
        virtdisk.detach(permanent)
    assert caught.value.winerror == 21


def test_exception_in_the_block_detaches(
    vhd: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(KeyError), virtdisk.attach(vhd):
        raise KeyError
    assert let_go(tmp_path)
