"""The bytes of the structures of virtdisk.h, by Microsoft's metadata.

vhd_abi.json has every member's offset and size on x64.  It was written from
win32metadata, so it shares nothing with our header.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Final

_ABI: Final = json.loads(
    (pathlib.Path(__file__).parents[1] / "vhd_abi.json").read_text("ascii")
)
CONSTANTS: Final[Mapping[str, int]] = _ABI["constants"]
# Each function's parameters, in their order.
PARAMETERS: Final[Mapping[str, list[str]]] = _ABI["functions"]


def constants(prefix: str) -> dict[str, int]:
    """The constants whose names begin so, by name."""
    return {name: value for name, value in CONSTANTS.items() if name.startswith(prefix)}


def leaves(structure: str) -> set[str]:
    """The members of a structure that have no members of their own."""
    fields = _ABI["structs"][structure]["fields"]
    return set(fields) - {name.rpartition(".")[0] for name in fields}


def has_member(structure: str, member: str) -> bool:
    """Whether a structure has a member of this path."""
    return member in _ABI["structs"][structure]["fields"]


def flags(enumeration: str) -> list[tuple[str, int]]:
    """Every single-bit member of an enumeration of flags."""
    return sorted(
        (name, value)
        for name, value in constants(f"{enumeration}_").items()
        if value and value & (value - 1) == 0
    )


def pack(structure: str, members: Mapping[str, int | bytes]) -> bytes:
    """A structure of virtdisk.h as bytes; what is not given is zero.

    Args:
        structure: Its name.
        members: Values by member path ("Version2.ReadOnly"): numbers, or the
            bytes themselves.  Bytes for a member of variable length make the
            structure longer.

    Returns:
        At least sizeof(structure) bytes.
    """
    layout = _ABI["structs"][structure]
    image = bytearray(layout["size"])
    for member, value in members.items():
        offset, size = layout["fields"][member]
        if isinstance(value, int):
            value = value.to_bytes(size, "little")
        assert size in {0, len(value)}, f"{structure}.{member}"
        image.extend(bytes(max(0, offset + len(value) - len(image))))
        image[offset : offset + len(value)] = value
    return bytes(image)
