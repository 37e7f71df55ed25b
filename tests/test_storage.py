"""The look at an image's content: every format's marks, wherever they stand."""

from __future__ import annotations

import os
import pathlib
import threading

import pytest
from support import (
    LINUX,
    image_names,
    image_path,
    make_iso,
    make_vhd,
    manifest,
    missing,
)

from virtdisk import StorageType
from virtdisk._storage import detect_storage_type

EXPECTED = {"iso": StorageType.ISO, "vhd": StorageType.VHD, "vhdx": StorageType.VHDX}


@pytest.mark.parametrize("name", image_names("iso", "vhd", "vhdx"))
def test_real_images(name: str, tmp_path: pathlib.Path) -> None:
    image = image_path(name, tmp_path).rename(tmp_path / "image")
    assert detect_storage_type(str(image)) is EXPECTED[manifest()[name]["format"]]


def test_there_are_real_images_of_each_format() -> None:
    if not manifest():
        missing("no real images found (set VIRTDISK_TEST_IMAGES)")
    assert all(image_names(name) for name in EXPECTED)


def iso_with(*descriptors: bytes) -> bytes:
    """A file with these descriptors from sector 16 on."""
    padded = [descriptor.ljust(2048, b"\0") for descriptor in descriptors]
    return bytes(16 * 2048) + b"".join(padded)


PRIMARY, BOOT, END = b"\1CD001\1", b"\0CD001\1", b"\xffCD001\1"
BEA, NSR2, NSR3, TEA = b"\0BEA01\1", b"\0NSR02\1", b"\0NSR03\1", b"\0TEA01\1"

CONTENTS = {
    "empty": (b"", StorageType.UNKNOWN),
    "short": (b"vhdx", StorageType.UNKNOWN),
    "zeros": (bytes(1 << 20), StorageType.UNKNOWN),
    "vhdx": (b"vhdxfile" + bytes(65536), StorageType.VHDX),
    "vhdx signature elsewhere": (b"x" + b"vhdxfile" + bytes(9999), StorageType.UNKNOWN),
    "vhd footer": (bytes(4096) + b"conectix" + bytes(504), StorageType.VHD),
    "vhd footer of 511 bytes": (
        bytes(4096) + b"conectix" + bytes(503),
        StorageType.VHD,
    ),
    "vhd footer of 510 bytes": (
        bytes(4096) + b"conectix" + bytes(502),
        StorageType.UNKNOWN,
    ),
    "vhd, copy of the footer only": (b"conectix" + bytes(9999), StorageType.VHD),
    "iso": (iso_with(PRIMARY, END), StorageType.ISO),
    "iso, primary after boot": (iso_with(BOOT, PRIMARY, END), StorageType.ISO),
    "iso without primary": (iso_with(BOOT, END), StorageType.UNKNOWN),
    "udf 1": (iso_with(BEA, NSR2, TEA), StorageType.ISO),
    "udf 2": (iso_with(BEA, NSR3, TEA), StorageType.ISO),
    "udf without nsr": (iso_with(BEA, TEA), StorageType.UNKNOWN),
    "iso and udf": (iso_with(PRIMARY, END, BEA, NSR2, TEA), StorageType.ISO),
    "endless descriptors": (iso_with(*[BOOT] * 99), StorageType.UNKNOWN),
    "descriptors after a gap": (iso_with(b"", PRIMARY), StorageType.UNKNOWN),
    "iso inside vhd": (
        iso_with(PRIMARY, END) + b"conectix" + bytes(504),
        StorageType.UNKNOWN,
    ),
    "vhdx and vhd": (b"vhdxfile" + bytes(999) + b"conectix" + bytes(504), None),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_content(name: str, tmp_path: pathlib.Path) -> None:
    content, expected = CONTENTS[name]
    image = tmp_path / "image"
    image.write_bytes(content)
    assert detect_storage_type(str(image)) is (expected or StorageType.UNKNOWN)


def test_missing_file(tmp_path: pathlib.Path) -> None:
    assert detect_storage_type(str(tmp_path / "none")) is StorageType.UNKNOWN


def test_directory(tmp_path: pathlib.Path) -> None:
    assert detect_storage_type(str(tmp_path)) is StorageType.UNKNOWN


@pytest.mark.skipif(not LINUX, reason="no FIFOs")
def test_fifo_does_not_block(tmp_path: pathlib.Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    answers: list[StorageType] = []
    look = threading.Thread(
        target=lambda: answers.append(detect_storage_type(str(fifo))), daemon=True
    )
    look.start()
    look.join(timeout=60)
    assert answers == [StorageType.UNKNOWN]


def test_vhd_set_is_left_to_the_system(tmp_path: pathlib.Path) -> None:
    image = tmp_path / "a.VHDS"
    image.write_bytes(b"vhdxfile" + bytes(65536))
    assert detect_storage_type(str(image)) is StorageType.UNKNOWN


def test_unreadable_content(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file locked on Windows opens but cannot be read."""
    image = make_vhd(tmp_path / "a.vhd")
    closed: list[int] = []
    close = os.close

    def fail(*_: object) -> bytes:
        raise OSError

    def note(descriptor: int) -> None:
        closed.append(descriptor)
        close(descriptor)

    monkeypatch.setattr(os, "read", fail)
    monkeypatch.setattr(os, "close", note)
    assert detect_storage_type(str(image)) is StorageType.UNKNOWN
    assert len(closed) == 1


def test_helpers_of_the_suite_make_what_they_say(tmp_path: pathlib.Path) -> None:
    assert detect_storage_type(str(make_iso(tmp_path / "i"))) is StorageType.ISO
    assert detect_storage_type(str(make_vhd(tmp_path / "v"))) is StorageType.VHD
