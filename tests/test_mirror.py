"""MirrorVirtualDisk and BreakMirrorVirtualDisk, from Python, beside QEMU.

Everything else about them is in tests/engine/test_api_mirror.c.
"""

from __future__ import annotations

import os
import pathlib

import pytest
from support import LINUX, pattern, require_loop
from witness import check_same, qemu_img

from virtdisk import _virtdisk as api

pytestmark = pytest.mark.skipif(not LINUX, reason="the engine's behaviour")

MIB = 1 << 20
NO_LOCAL_HOST = 8
NOT_SUPPORTED = 50
INVALID_SIZE = 0xC03A0012


def wait_equal(overlapped: api.Overlapped) -> None:
    """Until the mirror may be broken; it is pending all the while."""
    while True:
        status, current, completion = overlapped.progress()
        assert status == 997, status
        if completion and current == completion:
            return
        assert not overlapped.wait(0.002)


@pytest.fixture
def source(tmp_path: pathlib.Path) -> pathlib.Path:
    raw = tmp_path / "raw.img"
    raw.write_bytes(pattern(9 * MIB))
    os.truncate(raw, 64 * MIB)
    return raw


@pytest.mark.parametrize("suffix", [".vhd", ".vhdx"])
@pytest.mark.parametrize("flags", [0, 1])
@pytest.mark.parametrize("attached", [False, True])
def test_mirror_is_the_same_disk(
    suffix: str, flags: int, attached: bool, source: pathlib.Path
) -> None:
    image = source.with_name(f"image{suffix}")
    mirror = source.with_name(f"mirror{suffix}")
    with api.CreateVirtualDisk(
        str(image), source_path=str(source), flags=flags
    ) as handle:
        if attached:
            api.AttachVirtualDisk(handle, flags=NO_LOCAL_HOST)
        overlapped = api.Overlapped()
        api.MirrorVirtualDisk(handle, str(mirror), overlapped)
        wait_equal(overlapped)
        api.BreakMirrorVirtualDisk(handle)
        overlapped.result()
    check_same(image, source)
    check_same(mirror, source)
    assert sorted(os.listdir(source.parent)) == sorted(
        [image.name, mirror.name, source.name]
    )


def test_disk_with_a_device(source: pathlib.Path) -> None:
    """What the kernel writes cannot be seen here."""
    require_loop()
    image = source.with_name("image.vhdx")
    with api.CreateVirtualDisk(str(image), source_path=str(source)) as handle:
        api.AttachVirtualDisk(handle)
        overlapped = api.Overlapped()
        api.MirrorVirtualDisk(handle, str(source.with_name("x.vhdx")), overlapped)
        overlapped.wait()
        with pytest.raises(OSError) as refused:
            overlapped.result()
        assert refused.value.winerror == NOT_SUPPORTED  # type: ignore[attr-defined]
        api.DetachVirtualDisk(handle)
    assert not source.with_name("x.vhdx").exists()


def test_disk_of_less_than_3_mib(tmp_path: pathlib.Path) -> None:
    """Other software makes such images."""
    image, mirror = tmp_path / "image.vhd", tmp_path / "mirror.vhd"
    options = "subformat=fixed,force_size=on"
    qemu_img("create", "-q", "-f", "vpc", "-o", options, image, str(MIB))
    with api.OpenVirtualDisk(str(image), version=2) as handle:
        overlapped = api.Overlapped()
        api.MirrorVirtualDisk(handle, str(mirror), overlapped)
        overlapped.wait()
        with pytest.raises(OSError) as refused:
            overlapped.result()
    assert refused.value.winerror == INVALID_SIZE  # type: ignore[attr-defined]
    assert not mirror.exists()


def test_dropped_operation(source: pathlib.Path) -> None:
    """Nobody is left to break it: it is cancelled, and leaves nothing."""
    image = source.with_name("image.vhdx")
    with api.CreateVirtualDisk(str(image), source_path=str(source)) as handle:
        overlapped = api.Overlapped()
        api.MirrorVirtualDisk(handle, str(source.with_name("x.vhdx")), overlapped)
        wait_equal(overlapped)
        del overlapped
        api.AttachVirtualDisk(handle, flags=NO_LOCAL_HOST)
    assert not source.with_name("x.vhdx").exists()
