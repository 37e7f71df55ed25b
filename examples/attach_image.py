"""Attaches an image, reads it through its device, detaches it again.

    python examples/attach_image.py             # builds a small ISO image
    python examples/attach_image.py disk.vhd    # or takes one
    python examples/attach_image.py --output small.iso

The image is attached read-only.  What the device says is compared with what
the image file holds, and at the end nothing is left behind.  Attaching a disk
needs root on Linux and, except for ISO, an administrator on Windows.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pathlib
import struct
import sys
import tempfile

import virtdisk

SECTOR = 2048
ROOT_SECTOR, FILE_SECTOR = 20, 21
PATH_TABLE_LSB, PATH_TABLE_MSB = 18, 19
GREETING = b"This file lies in an ISO 9660 image that a few lines of Python wrote.\n"


def both16(number: int) -> bytes:
    """A number as ECMA-119 7.2.3 writes it: little-endian, then big-endian."""
    return struct.pack("<H", number) + struct.pack(">H", number)


def both32(number: int) -> bytes:
    """The same with 32 bits (ECMA-119 7.3.3)."""
    return struct.pack("<I", number) + struct.pack(">I", number)


def directory_record(name: bytes, sector: int, size: int, *, directory: bool) -> bytes:
    """ECMA-119 9.1; the date is left unspecified (zeros)."""
    record = (
        bytes(1)  # extended attributes
        + both32(sector)
        + both32(size)
        + bytes(7)  # date
        + bytes([2 if directory else 0, 0, 0])  # flags, interleaving
        + both16(1)  # volume in the set
        + bytes([len(name)])
        + name
    )
    record += bytes((len(record) + 1) % 2)  # of even length, which counts itself
    return bytes([len(record) + 1]) + record


def primary_descriptor(label: bytes, sectors: int, root: bytes) -> bytes:
    """ECMA-119 8.4."""
    descriptor = bytearray(SECTOR)
    descriptor[0:7] = b"\x01CD001\x01"
    descriptor[8:40] = b" " * 32
    descriptor[40:72] = label.ljust(32)
    descriptor[80:88] = both32(sectors)
    descriptor[120:132] = both16(1) + both16(1) + both16(SECTOR)
    descriptor[132:140] = both32(len(path_table("<")))
    descriptor[140:144] = struct.pack("<I", PATH_TABLE_LSB)
    descriptor[148:152] = struct.pack(">I", PATH_TABLE_MSB)
    descriptor[156 : 156 + len(root)] = root
    descriptor[190:813] = b" " * 623  # set, publisher, preparer, file names
    for date in (813, 830, 847, 864):
        descriptor[date : date + 17] = b"0" * 16 + b"\0"
    descriptor[881] = 1
    return bytes(descriptor)


def path_table(order: str) -> bytes:
    """ECMA-119 9.4: the root directory alone."""
    return struct.pack(f"{order}BBIH", 1, 0, ROOT_SECTOR, 1) + bytes(2)


def iso_image(name: bytes, content: bytes, *, label: bytes) -> bytes:
    """An ISO 9660 image that holds one file."""
    file_sectors = -(-len(content) // SECTOR)
    root = directory_record(b"\0", ROOT_SECTOR, SECTOR, directory=True)
    parent = directory_record(b"\1", ROOT_SECTOR, SECTOR, directory=True)
    entry = directory_record(name, FILE_SECTOR, len(content), directory=False)
    parts = [
        *[b""] * 16,  # the system area
        primary_descriptor(label, FILE_SECTOR + file_sectors, root),
        b"\xffCD001\x01",  # the end of the descriptors
        path_table("<"),
        path_table(">"),
        root + parent + entry,
    ]
    padded = b"".join(part.ljust(SECTOR, b"\0") for part in parts)
    return padded + content.ljust(file_sectors * SECTOR, b"\0")


def sha256_of(path: str | pathlib.Path, size: int) -> str:
    """Of the first bytes of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while size and (chunk := file.read(min(size, 1 << 20))):
            digest.update(chunk)
            size -= len(chunk)
    return digest.hexdigest()


def is_plain(info: virtdisk.VirtualDiskInfo) -> bool:
    """Whether the image file begins with the disk's content, byte by byte."""
    fixed = info.subtype == virtdisk.ProviderSubtype.FIXED
    vhd = info.storage_type == virtdisk.StorageType.VHD
    return info.storage_type == virtdisk.StorageType.ISO or (vhd and fixed)


def is_of(entry: virtdisk.AttachedImage, image: pathlib.Path) -> bool:
    """Whether an attached image is this one."""
    return os.path.normcase(entry.path) == os.path.normcase(image.absolute())


def attach_and_compare(image: pathlib.Path) -> bool:
    """The whole tour; False if the device and the image differ."""
    with virtdisk.attach(image, read_only=True) as disk:
        info = disk.info
        print(f"attached  {disk.path}")
        print(f"as        {disk.physical_path}  ({info.virtual_size} bytes)")
        digest = hashlib.sha256()
        with disk.raw() as device:
            while chunk := device.read(1 << 20):
                digest.update(chunk)
        print(f"sha256    {digest.hexdigest()}  (device)")
        same = True
        if is_plain(info):
            expected = sha256_of(image, info.virtual_size)
            print(f"sha256    {expected}  (image)")
            same = expected == digest.hexdigest()
    print("detached")
    return same


def main() -> int:
    """Returns the exit code: 0 if all went well."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("image", nargs="?", type=pathlib.Path)
    parser.add_argument(
        "--output", type=pathlib.Path, help="where to keep the image built here"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        image = arguments.image
        if image is None:
            image = arguments.output or pathlib.Path(directory, "small.iso")
            image.write_bytes(iso_image(b"HELLO.TXT;1", GREETING, label=b"HELLO"))
        try:
            same = attach_and_compare(image)
        except virtdisk.VirtualDiskError as error:
            print(error, file=sys.stderr)
            return 1
        left = [entry for entry in virtdisk.attached() if is_of(entry, image)]
    if left:
        print(f"still attached: {left[0]}", file=sys.stderr)
    elif not same:
        print("the device and the image differ", file=sys.stderr)
    else:
        print("nothing is left attached")
    return 1 if left or not same else 0


if __name__ == "__main__":
    sys.exit(main())
