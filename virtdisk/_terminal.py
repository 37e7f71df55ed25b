"""What the command line shows to people and to programs, and reads from them.

Source: IEC 80000-13, binary prefixes; RFC 8259.
"""

from __future__ import annotations

import argparse
import dataclasses
import enum
import fractions
import json
import re
import shutil
import sys
import uuid
from typing import TYPE_CHECKING, Final, TextIO

from virtdisk._errors import VirtualDiskError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = [
    "Bar",
    "error_object",
    "format_size",
    "parse_size",
    "plain",
    "print_json",
    "printable",
    "shown",
]

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_LETTERS: Final = "KMGTPE"
_SIZE: Final = re.compile(
    rf"(\d+(?:\.\d+)?) *(?:([{_LETTERS}])(iB|B)?|B)?", re.ASCII | re.IGNORECASE
)
_MAX_SIZE: Final = (1 << 64) - 1


def format_size(size: int) -> str:
    """A size for people.

    Args:
        size: In bytes.

    Returns:
        ``"64.0 GiB"``; whole bytes below 1 KiB.  Raises nothing.

    Source: IEC 80000-13, binary prefixes.
    """
    value, unit = float(size), _UNITS[0]
    for unit in _UNITS:  # noqa: B007 - used after the loop
        # What would be shown as 1024.0 is one of the next unit.
        if value < 1023.95:
            break
        value /= 1024
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"


def parse_size(text: str) -> int:
    """A size as people write it.

    Args:
        text: ``"512"`` bytes, ``"64GiB"``, ``"64G"`` (the same), ``"1.5 TiB"``,
            or with powers of ten ``"64GB"``; in any case of letters.

    Returns:
        Bytes.

    Raises:
        argparse.ArgumentTypeError: Something else, part of a byte, or more
            than 64 bits.

    Source: IEC 80000-13, binary and decimal prefixes.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        msg = f"{text!r} is no size such as 512, 64GiB or 1.5TiB"
        raise argparse.ArgumentTypeError(msg)
    number, letter, rest = match.groups()
    base = 1000 if (rest or "").lower() == "b" else 1024
    power = _LETTERS.index(letter.upper()) + 1 if letter else 0
    size = fractions.Fraction(number) * base**power
    if size.denominator != 1 or size > _MAX_SIZE:
        msg = f"{text!r} is not a whole number of bytes of 64 bits"
        raise argparse.ArgumentTypeError(msg)
    return int(size)


def error_object(error: Exception) -> dict[str, object]:
    """An error as JSON tells it.

    Args:
        error: What has happened.

    Returns:
        Its parts, null where there is none.  Raises nothing.

    Source: winerror.h.
    """
    known = error if isinstance(error, VirtualDiskError) else None
    system = error if isinstance(error, OSError) else None
    return {
        "error": known and known.name,
        "code": known and known.winerror,
        "function": known and known.function,
        "message": (system and system.strerror) or str(error),
        "path": system and system.filename,
        "remedy": known and known.remedy,
    }


def plain(value: object) -> object:
    """A value as JSON knows it.

    Args:
        value: Any result of the package.

    Returns:
        Dictionaries, lists, strings, numbers, null.  Raises nothing.

    Source: RFC 8259.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
        }
    if isinstance(value, OSError):
        return error_object(value)
    if isinstance(value, enum.Enum):
        return value.name.lower()
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def print_json(value: object) -> None:
    """Prints a value for programs.

    Args:
        value: Any result of the package.

    Raises:
        OSError: Standard output cannot be written.

    Source: RFC 8259.
    """
    print(json.dumps(plain(value), indent=2))


def printable(path: str | None) -> str:
    """A path for people: undecodable bytes and control characters escaped.

    Args:
        path: A path, or None.

    Returns:
        One line; ``"-"`` for None.  Raises nothing.

    Source: str.isprintable.
    """
    if path is None:
        return "-"
    return path if path.isprintable() else ascii(path)


def shown(value: object) -> str:
    """A value for people.

    Args:
        value: Of ``VirtualDiskInfo``.

    Returns:
        One word or number.  Raises nothing.

    Source: VirtualDiskInfo.
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, enum.Enum):
        return value.name.lower()
    return str(value)


class Bar:
    """A line on a terminal that shows how far something is.

    It goes away at the end of its ``with`` block.  Where the stream is no
    terminal nothing is shown.

    Source: ECMA-48, EL.
    """

    def __init__(self, *, hidden: bool = False, stream: TextIO | None = None) -> None:
        """A bar that shows nothing yet.

        Args:
            hidden: Whether it never shows anything.
            stream: Where to; None: standard error.
        """
        self._stream = sys.stderr if stream is None else stream
        self._visible = not hidden and self._stream.isatty()
        self._percent = -1

    def __call__(self, current: int, completion: int) -> None:
        """Shows that so much of a whole is done."""
        percent = current * 100 // completion if completion else 0
        if not self._visible or percent == self._percent:
            return
        self._percent = percent
        width = max(
            min(shutil.get_terminal_size().columns, 80) - len("[] 100 %") - 1, 1
        )
        filled = "#" * (width * min(percent, 100) // 100)
        self._stream.write(f"\r[{filled:{width}}] {percent:3} %")
        self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._percent >= 0:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
