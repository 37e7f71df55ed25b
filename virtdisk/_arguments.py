"""Argument checks: misuse is TypeError or ValueError before any system call.

Source: the parameter types of virtdisk.h (ULONG flags, ULONGLONG ranges).
"""

from __future__ import annotations

import os
from typing import Final

__all__ = [
    "WINDOWS",
    "absolute_path",
    "check_flags",
    "check_integer",
    "check_range",
    "check_security",
]

WINDOWS: Final[bool] = os.name == "nt"


def absolute_path(path: str | os.PathLike[str]) -> str:
    """Checks a path and makes it absolute.

    Links are not resolved.  ``..`` is kept, because ``link/..`` is not the
    link's own directory; Windows' GetFullPathName removes it, as it always
    does there.

    Args:
        path: Of an image or a device.

    Returns:
        The absolute path.

    Raises:
        TypeError: No str and no os.PathLike of str; bytes are neither.
        ValueError: Empty, or with a null character.

    Source: OpenVirtualDisk, Path (a PCWSTR).
    """
    name: object = os.fspath(path)
    if not isinstance(name, str):
        msg = "path must be a str or an os.PathLike of str, not bytes"
        raise TypeError(msg)
    if not name:
        msg = "path is empty"
        raise ValueError(msg)
    if "\0" in name:
        msg = f"path contains a null character: {name!r}"
        raise ValueError(msg)
    if WINDOWS:
        return os.path.abspath(name)
    return name if os.path.isabs(name) else os.path.join(os.getcwd(), name)


def check_integer(value: object, name: str, bits: int) -> int:
    """Checks an unsigned number.

    Args:
        value: An int or IntFlag, but no bool.
        name: Of the argument, for the message.
        bits: Its width in the C structure.

    Returns:
        The number as a plain int.

    Raises:
        TypeError: No integer.
        ValueError: Negative, or wider than its field.

    Source: ULONG is 32 bits wide, ULONGLONG 64.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        msg = f"{name} must be an integer, not {type(value).__name__}"
        raise TypeError(msg)
    if not 0 <= value < 1 << bits:
        msg = f"{name} does not fit into {bits} bits: {int(value)}"
        raise ValueError(msg)
    return int(value)


def check_flags(value: object, name: str = "flags") -> int:
    """Checks flags or a mask; as ``check_integer`` with 32 bits.

    Args:
        value: An int or IntFlag.
        name: Of the argument, for the message.

    Returns:
        The flags as a plain int; unknown bits are the system's to judge.

    Raises:
        TypeError: No integer.
        ValueError: Negative, or wider than 32 bits.

    Source: the flag parameters of virtdisk.h are ULONGs.
    """
    return check_integer(value, name, 32)


def check_range(restricted_range: object) -> tuple[int, int]:
    """Checks the part of a disk to show.

    Args:
        restricted_range: A pair of offset and length in bytes, or None.

    Returns:
        Offset and length; 0 and 0 for None.

    Raises:
        TypeError: No pair of integers.
        ValueError: Out of range, or empty.

    Source: ATTACH_VIRTUAL_DISK_PARAMETERS.Version2.
    """
    if restricted_range is None:
        return 0, 0
    if not isinstance(restricted_range, tuple) or len(restricted_range) != 2:
        msg = "restricted_range must be a tuple (offset, length), in bytes"
        raise TypeError(msg)
    offset = check_integer(restricted_range[0], "the offset of restricted_range", 64)
    length = check_integer(restricted_range[1], "the length of restricted_range", 64)
    if length == 0:
        msg = "restricted_range is empty"
        raise ValueError(msg)
    return offset, length


def check_security(security: object) -> None:
    """Checks the kind of a security descriptor; its content is the system's.

    Args:
        security: SDDL text, the bytes of a self-relative descriptor, or None.

    Raises:
        TypeError: Something else.
        ValueError: Empty; None asks for the image's own.

    Source: AttachVirtualDisk, SecurityDescriptor.
    """
    if security is None:
        return
    if not isinstance(security, (str, bytes)):
        kind = type(security).__name__
        msg = f"security must be SDDL text or bytes, not {kind}"
        raise TypeError(msg)
    if not security:
        msg = "security is empty; None asks for that of the image file"
        raise ValueError(msg)
