"""Rows of the contract for the functions that change an image's size.

As contract.py: compacting, expanding, resizing.
"""

from __future__ import annotations

from collections.abc import Callable

from contract import (
    ACCESS_DENIED,
    ATTACH_RW,
    DETACH,
    GET_INFO,
    INVALID_PARAMETER,
    INVALID_SIZE,
    INVALID_STATE,
    INVALID_TYPE,
    MASK_READ,
    NO_LOCAL_HOST,
    NO_MINIMUM_SIZE,
    OK,
    Context,
    Row,
)

from virtdisk import _virtdisk as api


def _change(
    function: str,
    name: str,
    call: Callable[[api.Handle], object],
    *expect: int,
    image: str = "vhdx",
    attached: bool = False,
    source: str = "API.md 2.7",
    windows: tuple[int, ...] | None = None,
    **arguments: object,
) -> Row:
    def run(context: Context) -> None:
        handle = context.open(image, **{"version": 2, **arguments})
        if attached:
            context.attach(handle, flags=NO_LOCAL_HOST)
        call(handle)

    return Row(
        function=function,
        name=name,
        call=run,
        expect=expect,
        source=source,
        windows=windows,
    )


def _rights(function: str, call: Callable[[api.Handle], object]) -> list[Row]:
    """Every way of not being allowed to change an image."""
    return [
        _change(
            function,
            "information only",
            call,
            ACCESS_DENIED,
            source="API.md 1.4",
            get_info_only=True,
        ),
        _change(
            function,
            "opened read-only",
            call,
            ACCESS_DENIED,
            source="API.md 1.4",
            read_only=True,
        ),
        _change(
            function,
            "version 1 without METAOPS",
            call,
            ACCESS_DENIED,
            source="API.md 1.4",
            version=1,
            access_mask=GET_INFO | ATTACH_RW | DETACH,
        ),
        _change(
            function,
            "an iso",
            call,
            ACCESS_DENIED,
            image="iso",
            source="API.md 1.4",
            version=1,
            access_mask=MASK_READ,
            rw_depth=0,
        ),
    ]


MIB = 1 << 20


def _compact(**arguments: int | None) -> Callable[[api.Handle], object]:
    return lambda handle: api.CompactVirtualDisk(handle, **arguments)  # type: ignore[arg-type]


def _expand(size: int, **arguments: int) -> Callable[[api.Handle], object]:
    return lambda handle: api.ExpandVirtualDisk(handle, size, **arguments)  # type: ignore[arg-type]


def _resize(size: int, **arguments: int) -> Callable[[api.Handle], object]:
    return lambda handle: api.ResizeVirtualDisk(handle, size, **arguments)  # type: ignore[arg-type]


INFERRED = "disk/resize.h (inferred)"

COMPACT = [
    _change("CompactVirtualDisk", "a dynamic image", _compact(), OK),
    _change("CompactVirtualDisk", "no parameters", _compact(version=None), OK),
    _change("CompactVirtualDisk", "a child", _compact(), OK, image="vhdx child"),
    _change("CompactVirtualDisk", "both flags", _compact(flags=3), OK),
    _change(
        "CompactVirtualDisk",
        "an unknown flag",
        _compact(flags=4),
        INVALID_PARAMETER,
        source="API.md 1.4",
    ),
    _change(
        "CompactVirtualDisk",
        "a fixed image",
        _compact(),
        INVALID_TYPE,
        image="vhd",
        windows=(),
    ),
    _change(
        "CompactVirtualDisk",
        "attached for writing",
        _compact(),
        INVALID_STATE,
        attached=True,
        windows=(),
    ),
    *_rights("CompactVirtualDisk", _compact()),
]

EXPAND = [
    _change("ExpandVirtualDisk", "a dynamic image", _expand(32 * MIB), OK),
    _change("ExpandVirtualDisk", "a fixed image", _expand(8 * MIB), OK, image="vhd"),
    _change(
        "ExpandVirtualDisk",
        "NOTIFY_CHANGE",
        _expand(32 * MIB, flags=1),
        OK,
        source="API.md 1.4",
    ),
    _change(
        "ExpandVirtualDisk",
        "a child",
        _expand(32 * MIB),
        INVALID_TYPE,
        image="vhdx child",
        windows=(),
    ),
    _change(
        "ExpandVirtualDisk",
        "no larger",
        _expand(16 * MIB),
        INVALID_PARAMETER,
        source=INFERRED,
        windows=(),
    ),
    _change(
        "ExpandVirtualDisk",
        "smaller",
        _expand(8 * MIB),
        INVALID_PARAMETER,
        source=INFERRED,
        windows=(),
    ),
    _change(
        "ExpandVirtualDisk",
        "half a sector",
        _expand(32 * MIB + 256),
        INVALID_PARAMETER,
        source=INFERRED,
        windows=(),
    ),
    _change(
        "ExpandVirtualDisk",
        "more than a VHDX can be",
        _expand((64 << 40) + 4096),
        INVALID_SIZE,
        source="FORMATS.md 2.9",
        windows=(),
    ),
    _change(
        "ExpandVirtualDisk",
        "an unknown flag",
        _expand(32 * MIB, flags=2),
        INVALID_PARAMETER,
        source="API.md 1.4",
    ),
    _change(
        "ExpandVirtualDisk",
        "attached",
        _expand(32 * MIB),
        INVALID_STATE,
        attached=True,
        windows=(),
    ),
    *_rights("ExpandVirtualDisk", _expand(32 * MIB)),
]

RESIZE = [
    _change("ResizeVirtualDisk", "larger", _resize(32 * MIB), OK),
    _change("ResizeVirtualDisk", "the same", _resize(16 * MIB), OK),
    _change("ResizeVirtualDisk", "a fixed VHD", _resize(8 * MIB), OK, image="vhd"),
    _change(
        "ResizeVirtualDisk",
        "attached without a device",
        _resize(32 * MIB),
        OK,
        attached=True,
    ),
    _change("ResizeVirtualDisk", "smaller, unsafe", _resize(8 * MIB, flags=1), OK),
    _change(
        "ResizeVirtualDisk",
        "smaller, no partition table",
        _resize(8 * MIB),
        NO_MINIMUM_SIZE,
    ),
    _change(
        "ResizeVirtualDisk",
        "smallest, no partition table",
        _resize(0, flags=2),
        NO_MINIMUM_SIZE,
    ),
    _change(
        "ResizeVirtualDisk",
        "smallest, with a size",
        _resize(8 * MIB, flags=2),
        INVALID_PARAMETER,
        source="API.md 1.3",
    ),
    _change(
        "ResizeVirtualDisk",
        "size 0",
        _resize(0),
        INVALID_PARAMETER,
        source=INFERRED,
        windows=(),
    ),
    _change(
        "ResizeVirtualDisk",
        "less than 3 MiB",
        _resize(3 * MIB - 512, flags=1),
        INVALID_PARAMETER,
        source=INFERRED,
        windows=(),
    ),
    _change(
        "ResizeVirtualDisk",
        "a smaller VHD",
        _resize(3 * MIB, flags=1),
        INVALID_TYPE,
        image="vhd",
        windows=(),
    ),
    _change(
        "ResizeVirtualDisk",
        "an unknown flag",
        _resize(32 * MIB, flags=4),
        INVALID_PARAMETER,
        source="API.md 1.4",
    ),
    _change(
        "ResizeVirtualDisk",
        "flags that exclude each other",
        _resize(0, flags=3),
        INVALID_PARAMETER,
        source=INFERRED,
        windows=(),
    ),
    *_rights("ResizeVirtualDisk", _resize(32 * MIB)),
]

ROWS = COMPACT + EXPAND + RESIZE
