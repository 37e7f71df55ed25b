"""Real images made by other software, attached and read to the last byte.

The expected hashes come from the manifest, where several independent readers
agreed on them.
"""

from __future__ import annotations

import os
import pathlib
import stat

import pytest
from support import (
    image_names,
    image_path,
    let_go,
    loops_of,
    manifest,
    missing,
    require_loop,
    sha256,
)

import virtdisk

REFUSED = {"malformed-size.iso": 1392}  # not a multiple of 2048 bytes
ATTACHABLE = [
    name
    for name in image_names("iso") + image_names("vhd", kind="fixed")
    if name not in REFUSED
]


def test_there_are_real_images() -> None:
    if not manifest():
        missing("no real images found (set VIRTDISK_TEST_IMAGES)")
    assert len(ATTACHABLE) >= 13
    assert set(REFUSED) <= set(image_names("iso"))


@pytest.mark.parametrize("name", ATTACHABLE)
def test_attached_device_reads_as_the_image(name: str, tmp_path: pathlib.Path) -> None:
    require_loop()
    image = image_path(name, tmp_path)
    facts = manifest()[name]
    assert sha256(image) == facts["sha256"]
    with virtdisk.attach(image, read_only=True) as disk:
        device = disk.physical_path
        assert stat.S_ISBLK(os.stat(device).st_mode)
        assert device in set(loops_of(tmp_path))
        assert sha256(device) == facts["raw_sha256"]
        with disk.raw() as raw:
            assert raw.seek(0, os.SEEK_END) == facts["virtual_size"]
        sector = pathlib.Path(
            f"/sys/block/{os.path.basename(device)}/queue/logical_block_size"
        )
        expected = 2048 if facts["format"] == "iso" else 512
        assert int(sector.read_text()) == expected
    assert let_go(tmp_path)
    assert sha256(image) == facts["sha256"]


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_malformed_image_is_refused(name: str, tmp_path: pathlib.Path) -> None:
    image = image_path(name, tmp_path)
    with pytest.raises(virtdisk.VirtualDiskError) as caught:
        virtdisk.attach(image)
    assert caught.value.winerror == REFUSED[name]
    assert caught.value.name == "ERROR_FILE_CORRUPT"


@pytest.mark.parametrize("name", image_names("vhd", kind="fixed"))
def test_partitions_of_a_real_image_get_nodes(
    name: str, tmp_path: pathlib.Path
) -> None:
    """The offsets and lengths, in sectors, are those the manifest names."""
    require_loop()
    image = image_path(name, tmp_path)
    listed = [
        tuple(int(number) for number in part.split()[1].split("+"))
        for part in manifest()[name]["filesystem"].split("; ")
        if part.startswith("partition ")
    ]
    with virtdisk.attach(image, read_only=True) as disk:
        loop = pathlib.Path("/sys/block") / os.path.basename(disk.physical_path)
        found = sorted(
            (int((p / "start").read_text()), int((p / "size").read_text()))
            for p in loop.glob(f"{loop.name}p*")
        )
        assert found == listed
        for number in range(1, len(listed) + 1):
            node = f"{disk.physical_path}p{number}"
            assert stat.S_ISBLK(os.stat(node).st_mode)


def test_what_is_written_to_the_device_is_in_the_image(
    tmp_path: pathlib.Path,
) -> None:
    require_loop()
    name = "qemu-fixed-1M-gpt.vhd"
    image = image_path(name, tmp_path)
    before = image.read_bytes()
    with virtdisk.attach(image, drive_letter=False) as disk, disk.raw("r+b") as raw:
        raw.seek(512 * 100)
        raw.write(b"virtdisk" * 64)
    after = image.read_bytes()
    assert after[512 * 100 : 512 * 101] == b"virtdisk" * 64
    assert after[: 512 * 100] == before[: 512 * 100]
    assert after[512 * 101 :] == before[512 * 101 :]
