"""Damage to images: fields set to what breaks readers, checksums made good.

Everything here is written from the specifications, so that a mistake in the
engine's own decoding is not repeated: [MS-VHDX] v20240423 and the "Virtual
Hard Disk Image Format Specification" 1.0.
"""

from __future__ import annotations

import dataclasses
import struct
import uuid
from collections.abc import Callable, Iterator

KIB = 1 << 10
MIB = 1 << 20
PAGE = 4096

BAT = uuid.UUID("2DC27766-F623-4200-9D64-115E9BFD4A08").bytes_le
METADATA = uuid.UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E").bytes_le
LOCATOR = uuid.UUID("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C").bytes_le
HEADERS = (64 * KIB, 128 * KIB)
TABLES = (192 * KIB, 256 * KIB)

Patch = tuple[int, bytes]


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


CRC_TABLE = _crc_table()


def crc32c(data: bytes | bytearray) -> int:
    """Castagnoli, as every structure of a VHDX has it."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ CRC_TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def seal_crc(structure: bytearray) -> None:
    """Puts the right CRC-32C at byte 4."""
    structure[4:8] = bytes(4)
    structure[4:8] = struct.pack("<I", crc32c(structure))


def seal_sum(at: int) -> Callable[[bytearray], None]:
    """Puts the right VHD checksum at this byte."""

    def seal(structure: bytearray) -> None:
        structure[at : at + 4] = bytes(4)
        structure[at : at + 4] = struct.pack(">I", ~sum(structure) & 0xFFFFFFFF)

    return seal


@dataclasses.dataclass(frozen=True)
class Field:
    """An integer of a structure; `form` is a struct format with byte order."""

    name: str
    at: int
    form: str


@dataclasses.dataclass(frozen=True)
class Structure:
    """Something in an image whose fields can be changed.

    Attributes:
        name: For messages.
        copies: Where it stands; each copy is changed in the same way.
        length: Bytes.
        fields: That are worth changing.
        seal: Makes its checksum right again; None if it has none.
    """

    name: str
    copies: tuple[int, ...]
    length: int
    fields: tuple[Field, ...]
    seal: Callable[[bytearray], None] | None = None

    def patches(self, image: bytes, field: Field, value: int) -> list[Patch]:
        """What to write over an image so that the field has this value."""
        found = []
        for copy in self.copies:
            structure = bytearray(image[copy : copy + self.length])
            struct.pack_into(field.form, structure, field.at, value)
            if self.seal is not None:
                self.seal(structure)
            found.append((copy, bytes(structure)))
        return found

    def value(self, image: bytes, field: Field) -> int:
        (value,) = struct.unpack_from(field.form, image, self.copies[0] + field.at)
        return int(value)


def nasty_values(old: int, width: int, file_size: int) -> list[int]:
    """For a field of `width` bytes: edges of every kind."""
    top = (1 << 8 * width) - 1
    values = {0, 1, 2, 3, 7, 511, 512, PAGE, MIB, MIB + 1, 1 << 28, 1 << 31, 1 << 40}
    values |= {top, top - 1, top >> 1, (top >> 1) + 1, top & ~0xFFFFF, top & ~0xFFF}
    values |= {old - 1, old + 1, old * 2, old // 2, old ^ 4, old ^ 1 << 8 * width - 1}
    values |= {file_size, file_size - MIB, file_size // 512, file_size + MIB}
    return sorted(value for value in values if 0 <= value <= top and value != old)


def repeated(
    prefix: str, count: int, size: int, first: int, fields: str
) -> tuple[Field, ...]:
    """The fields of each entry of a table; `fields` is "name@offset:form ..."."""
    found = []
    for index in range(count):
        for text in fields.split():
            name, _, rest = text.partition("@")
            at, _, form = rest.partition(":")
            place = first + index * size + int(at)
            found.append(Field(f"{prefix}[{index}].{name}", place, form))
    return tuple(found)


# ---- VHDX ----


def vhdx_regions(image: bytes) -> dict[bytes, int]:
    """Offset of each region by its GUID."""
    (count,) = struct.unpack_from("<I", image, TABLES[0] + 8)
    entries = (TABLES[0] + 16 + 32 * index for index in range(count))
    return {
        image[at : at + 16]: struct.unpack_from("<Q", image, at + 16)[0]
        for at in entries
    }


def vhdx_structures(image: bytes, *, bat_entries: int = 6) -> Iterator[Structure]:
    """Everything that a VHDX says of itself outside of its log."""
    yield Structure(
        "header",
        HEADERS,
        PAGE,
        (
            Field("signature", 0, "<I"),
            Field("SequenceNumber", 8, "<Q"),
            Field("LogGuid", 48, "<Q"),
            Field("LogVersion", 64, "<H"),
            Field("Version", 66, "<H"),
            Field("LogLength", 68, "<I"),
            Field("LogOffset", 72, "<Q"),
        ),
        seal_crc,
    )
    (count,) = struct.unpack_from("<I", image, TABLES[0] + 8)
    fields = "Guid@0:<Q FileOffset@16:<Q Length@24:<I flags@28:<I"
    yield Structure(
        "regions",
        TABLES,
        64 * KIB,
        (
            Field("signature", 0, "<I"),
            Field("EntryCount", 8, "<I"),
            *repeated("region", count, 32, 16, fields),
        ),
        seal_crc,
    )
    found = vhdx_regions(image)
    yield from metadata_structures(image, found[METADATA])
    entries = repeated("entry", bat_entries, 8, 0, "value@0:<Q")
    yield Structure("bat", (found[BAT],), 8 * bat_entries, entries)


def metadata_structures(image: bytes, at: int) -> Iterator[Structure]:
    """The table of metadata and every item."""
    (count,) = struct.unpack_from("<H", image, at + 10)
    fields = "ItemId@0:<Q Offset@16:<I Length@20:<I flags@24:<I"
    yield Structure(
        "metadata",
        (at,),
        64 * KIB,
        (
            Field("signature", 0, "<Q"),
            Field("EntryCount", 10, "<H"),
            *repeated("item", count, 32, 32, fields),
        ),
    )
    for index in range(count):
        entry = at + 32 + 32 * index
        offset, length = struct.unpack_from("<II", image, entry + 16)
        if image[entry : entry + 16] == LOCATOR:
            (pairs,) = struct.unpack_from("<H", image, at + offset + 18)
            fields = "KeyOffset@0:<I ValueOffset@4:<I KeyLength@8:<H ValueLength@10:<H"
            yield Structure(
                "locator",
                (at + offset,),
                length,
                (
                    Field("LocatorType", 0, "<Q"),
                    Field("KeyValueCount", 18, "<H"),
                    *repeated(
                        "pair", pairs, 12, 20, "Key@0:<I Value@4:<I KL@8:<H VL@10:<H"
                    ),
                ),
            )
        else:
            words = repeated("word", length // 4, 4, 0, "value@0:<I")
            yield Structure(f"item{index}", (at + offset,), length, words)


@dataclasses.dataclass
class Descriptor:
    """A change of the file in a log entry: 4 KiB of data, or zeros."""

    file_offset: int
    data: bytes | None = None
    zero_length: int = 0
    signature: bytes = b""
    sequence: int | None = None

    def encode(self, sequence: int) -> bytes:
        own = sequence if self.sequence is None else self.sequence
        if self.data is None:
            return struct.pack(
                "<4sIQQQ",
                self.signature or b"zero",
                0,
                self.zero_length,
                self.file_offset,
                own,
            )
        head = self.signature or b"desc"
        return struct.pack(
            "<4s4s8sQQ", head, self.data[-4:], self.data[:8], self.file_offset, own
        )


@dataclasses.dataclass
class Entry:
    """An entry of the log; every field can be a lie."""

    sequence: int
    descriptors: list[Descriptor] = dataclasses.field(default_factory=list)
    tail: int = 0
    flushed: int = 0
    last: int = 0
    guid: bytes = b"\x11" * 16
    length: int | None = None
    count: int | None = None
    sealed: bool = True

    def encode(self) -> bytes:
        body = b"".join(one.encode(self.sequence) for one in self.descriptors)
        area = -(-(64 + len(body)) // PAGE) * PAGE
        sectors = [
            struct.pack("<4sI", b"data", self.sequence >> 32)
            + one.data[8:-4]
            + struct.pack("<I", self.sequence & 0xFFFFFFFF)
            for one in self.descriptors
            if one.data is not None
        ]
        length = area + PAGE * len(sectors)
        head = struct.pack(
            "<4sIIIQII16sQQ",
            b"loge",
            0,
            length if self.length is None else self.length,
            self.tail,
            self.sequence,
            len(self.descriptors) if self.count is None else self.count,
            0,
            self.guid,
            self.flushed,
            self.last,
        )
        entry = bytearray((head + body).ljust(area, b"\0") + b"".join(sectors))
        if self.sealed:
            seal_crc(entry)
        return bytes(entry)


def log_patches(image: bytes, entries: list[tuple[int, bytes]]) -> list[Patch]:
    """Entries at offsets of the log, which the headers say is in use."""
    log_length, log_offset = struct.unpack_from("<IQ", image, HEADERS[0] + 68)
    patches: list[Patch] = []
    for copy in HEADERS:
        header = bytearray(image[copy : copy + PAGE])
        header[48:64] = Entry(1).guid
        seal_crc(header)
        patches.append((copy, bytes(header)))
    for offset, content in entries:
        first = content[: log_length - offset]
        patches.append((log_offset + offset, first))
        if len(first) < len(content):
            patches.append((log_offset, content[len(first) :]))
    return patches


# ---- VHD ----


def vhd_structures(image: bytes, *, bat_entries: int = 4) -> Iterator[Structure]:
    """Footer, header, table and locators of a dynamic or differencing VHD."""
    footer = (
        Field("cookie", 0, ">Q"),
        Field("features", 8, ">I"),
        Field("version", 12, ">I"),
        Field("data offset", 16, ">Q"),
        Field("original size", 40, ">Q"),
        Field("current size", 48, ">Q"),
        Field("geometry", 56, ">I"),
        Field("disk type", 60, ">I"),
        Field("saved state", 84, ">B"),
    )
    copies = (0, len(image) - 512)
    yield Structure("footers", copies, 512, footer, seal_sum(64))
    yield Structure("head", copies[:1], 512, footer, seal_sum(64))
    yield Structure("tail", copies[1:], 512, footer, seal_sum(64))
    (at,) = struct.unpack_from(">Q", image, 16)
    (table,) = struct.unpack_from(">Q", image, at + 16)
    fields = "code@0:>I space@4:>I length@8:>I offset@16:>Q"
    yield Structure(
        "dynamic header",
        (at,),
        1024,
        (
            Field("cookie", 0, ">Q"),
            Field("table offset", 16, ">Q"),
            Field("version", 24, ">I"),
            Field("max table entries", 28, ">I"),
            Field("block size", 32, ">I"),
            Field("parent id", 40, ">Q"),
            *repeated("locator", 8, 24, 576, fields),
        ),
        seal_sum(36),
    )
    entries = repeated("entry", bat_entries, 4, 0, "value@0:>I")
    yield Structure("bat", (table,), 4 * bat_entries, entries)
