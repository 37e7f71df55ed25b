"""The metadata items of users, against a dictionary.

Misuse is in tests/engine/test_api_set_info.c, power cuts in the C tests of
the format; here it is many items over many sessions.  QEMU and libvhdi must
find nothing wrong with the image.
"""

from __future__ import annotations

import pathlib
import random
import subprocess
import uuid

import pytest
from support import LINUX, require_tool

import virtdisk
from virtdisk import AttachFlag, VirtualDiskError

pytestmark = pytest.mark.skipif(not LINUX, reason="needs the Linux engine")

MIB = 1 << 20
METADATA_FULL = 0xC03A0028


def number(value: int) -> uuid.UUID:
    return uuid.UUID(int=value << 64 | 1)


def check_image(path: pathlib.Path) -> None:
    qemu_img = require_tool("qemu-img", package="qemu-utils")
    check = [qemu_img, "check", "-f", "vhdx", str(path)]
    subprocess.run(check, check=True, capture_output=True)


@pytest.fixture
def image(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "a.vhdx"
    virtdisk.create(path, 16 * MIB, block_size=MIB).close()
    return path


@pytest.mark.parametrize("seed", range(2))
def test_as_a_dictionary(seed: int, image: pathlib.Path) -> None:
    generator = random.Random(seed)
    model: dict[uuid.UUID, bytes] = {}
    for _ in range(3):
        with virtdisk.open(image) as disk:
            for _ in range(8):
                item = number(generator.randrange(12))
                if item in model and generator.random() < 0.4:
                    del disk.metadata[item]
                    del model[item]
                else:
                    size = generator.choice([1, 16, 4096, 70_000])
                    model[item] = generator.randbytes(size)
                    disk.metadata[item] = model[item]
            assert dict(disk.metadata) == model
        with virtdisk.open(image, info_only=True) as disk:
            assert dict(disk.metadata) == model
        check_image(image)


def test_what_is_missing_is_a_key_error(image: pathlib.Path) -> None:
    with virtdisk.open(image) as disk:
        assert list(disk.metadata) == []
        with pytest.raises(KeyError):
            disk.metadata[number(1)]
        with pytest.raises(KeyError):
            del disk.metadata[number(1)]


def test_large_items(image: pathlib.Path) -> None:
    """Of 1 MiB, the most there can be; what was given up is used again."""
    largest = bytes(range(256)) * 4096
    with virtdisk.open(image) as disk:
        with pytest.raises(VirtualDiskError) as caught:
            disk.metadata[number(0)] = largest + b"x"
        assert caught.value.winerror == METADATA_FULL
        for value in range(4):
            disk.metadata[number(value)] = largest
        size = image.stat().st_size
        for value in range(4):
            del disk.metadata[number(value)]
            disk.metadata[number(value + 10)] = largest
        assert image.stat().st_size <= size + 2 * MIB
    with virtdisk.open(image) as disk:
        assert dict(disk.metadata) == {number(n): largest for n in range(10, 14)}
    check_image(image)


def test_attached_it_can_be_read(image: pathlib.Path) -> None:
    with virtdisk.open(image) as disk:
        disk.metadata[number(1)] = b"one"
        disk.attach(flags=AttachFlag.NO_LOCAL_HOST)
        assert dict(disk.metadata) == {number(1): b"one"}
        with pytest.raises(VirtualDiskError):
            disk.metadata[number(2)] = b"two"
        with virtdisk.open(image, info_only=True) as other:
            assert dict(other.metadata) == {number(1): b"one"}
        disk.detach()
        disk.metadata[number(2)] = b"two"
        assert dict(disk.metadata) == {number(1): b"one", number(2): b"two"}


def test_content_stays(image: pathlib.Path) -> None:
    """And so do children: nothing that a guest sees has changed."""
    with (
        virtdisk.attach(image, flags=AttachFlag.NO_LOCAL_HOST) as disk,
        disk.raw("r+b") as file,
    ):
        file.write(b"x" * 4096)
    child = image.with_name("child.vhdx")
    virtdisk.create(child, parent=image).close()
    with virtdisk.open(image) as disk:
        disk.metadata[number(1)] = bytes(100_000)
    with (
        virtdisk.attach(child, read_only=True, flags=AttachFlag.NO_LOCAL_HOST) as disk,
        disk.raw() as file,
    ):
        assert file.read(4097) == b"x" * 4096 + b"\0"
