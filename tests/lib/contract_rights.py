"""Rows of the contract for what somebody may not do.

As contract.py: handles without the right, and processes without privilege.
Microsoft names ERROR_ACCESS_DENIED for the rights of attaching, detaching and
information; for the other functions that code is inferred.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from contract import (
    ACCESS_DENIED,
    ATTACH_RW,
    DETACH,
    GET_INFO,
    NO_LETTER,
    OK,
    PARENT_ACCESS_DENIED,
    PRIVILEGE_NOT_HELD,
    Context,
    Row,
    make_row,
)
from contract_changes import ITEM, REFUSED_CALLS
from unprivileged import NOBODY, as_nobody

from virtdisk import _virtdisk as api

Call = Callable[[Context, api.Handle], object]


def _refused_call(function: str) -> Call:
    return lambda c, handle: REFUSED_CALLS[function](c, handle, 0)


#: What asks, and what changes.
_ASKING: dict[str, Call] = {
    "EnumerateVirtualDiskMetadata": lambda _, handle: api.EnumerateVirtualDiskMetadata(
        handle
    ),
    "GetVirtualDiskMetadata": lambda _, handle: api.GetVirtualDiskMetadata(
        handle, ITEM
    ),
    "QueryChangesVirtualDisk": _refused_call("QueryChangesVirtualDisk"),
}
_CHANGING: dict[str, Call] = {
    "SetVirtualDiskInformation": lambda _, handle: api.SetVirtualDiskInformation(
        handle, 5, virtual_disk_id=ITEM
    ),
    "SetVirtualDiskMetadata": lambda _, handle: api.SetVirtualDiskMetadata(
        handle, ITEM, b"x"
    ),
    "DeleteVirtualDiskMetadata": lambda _, handle: api.DeleteVirtualDiskMetadata(
        handle, ITEM
    ),
    "MergeVirtualDisk": lambda _, handle: api.MergeVirtualDisk(handle),
    "MirrorVirtualDisk": lambda c, handle: api.MirrorVirtualDisk(
        handle, c.path("mirror.vhdx"), api.Overlapped()
    ),
    **{
        function: _refused_call(function)
        for function in REFUSED_CALLS
        if function not in _ASKING
    },
}
_NEEDS_VERSION_2 = ("MirrorVirtualDisk",)


def _denied(
    function: str,
    name: str,
    call: Call,
    windows: tuple[int, ...] | None = (),
    **arguments: object,
) -> Row:
    return make_row(
        function,
        name,
        lambda c: call(c, c.open("vhdx child", **arguments)),
        ACCESS_DENIED,
        source="API.md 1.4",
        windows=windows,
    )


HANDLES = [
    *(
        _denied(function, "without GET_INFO", call, access_mask=ATTACH_RW | DETACH)
        for function, call in _ASKING.items()
    ),
    *(
        _denied(
            function,
            "without METAOPS",
            call,
            windows=None if function == "SetVirtualDiskInformation" else (),
            access_mask=GET_INFO | ATTACH_RW | DETACH,
            rw_depth=2,
        )
        for function, call in _CHANGING.items()
        if function not in _NEEDS_VERSION_2
    ),
    *(
        _denied(function, "opened read-only", call, version=2, read_only=True)
        for function, call in _CHANGING.items()
    ),
    *(
        _denied(function, "information only", call, version=2, get_info_only=True)
        for function, call in _CHANGING.items()
    ),
    _denied(
        "DetachVirtualDisk",
        "information only",
        lambda _, handle: api.DetachVirtualDisk(handle),
        version=2,
        get_info_only=True,
    ),
]


def _nobody(call: Callable[[], object]) -> None:
    """Does it as a user without privilege, whose error is the caller's."""

    def work() -> None:
        os.environ.pop("XDG_RUNTIME_DIR", None)  # where disks would be files
        call()

    answer = as_nobody(work)
    if isinstance(answer, BaseException):
        raise answer


def _open_closed_file(mode: int, **arguments: object) -> Callable[[Context], None]:
    def call(context: Context) -> None:
        c = context.public()
        os.chmod(c.path("vhd"), mode)
        _nobody(lambda: c.open("vhd", version=2, **arguments))

    return call


def _create_in_closed_folder(context: Context) -> None:
    c = context.public()
    os.chown(c.directory, 0, 0)
    os.chmod(c.directory, 0o755)
    _nobody(lambda: api.CreateVirtualDisk(c.path("new.vhdx"), maximum_size=8 << 20))


def _create_as_nobody(context: Context) -> None:
    c = context.public()
    _nobody(lambda: api.CreateVirtualDisk(c.path("new.vhdx"), maximum_size=8 << 20))


def _attach_as_nobody(context: Context) -> None:
    c = context.public()
    os.chown(c.path("vhd"), NOBODY, NOBODY)
    _nobody(lambda: c.attach(c.vhd(), flags=NO_LETTER))


def _detach_as_nobody(context: Context) -> None:
    c = context.public()
    c.attached_vhd()
    os.chmod(c.path("vhd"), 0o666)
    _nobody(lambda: api.DetachVirtualDisk(c.vhd()))


def _add_closed_parent(context: Context) -> None:
    c = context.public()
    os.chmod(c.path("vhdx child"), 0o666)
    os.chmod(c.path("vhdx"), 0o600)
    _nobody(lambda: api.AddVirtualDiskParent(c.custom_chain(), c.path("vhdx")))


def _as_nobody(
    function: str,
    name: str,
    call: Callable[[Context], object],
    *expect: int,
    source: str,
    attaches: bool = False,
) -> Row:
    return make_row(
        function,
        name,
        call,
        *expect,
        source=source,
        windows=(),
        attaches=attaches,
        needs_root=True,
    )


PROCESSES = [
    _as_nobody(
        "OpenVirtualDisk",
        "a file that may be read",
        _open_closed_file(0o644, read_only=True),
        OK,
        source="API.md 2.1",
    ),
    _as_nobody(
        "OpenVirtualDisk",
        "a file that may not be read",
        _open_closed_file(0o600, read_only=True),
        ACCESS_DENIED,
        source="API.md 2.1",
    ),
    _as_nobody(
        "OpenVirtualDisk",
        "a file that may not be written",
        _open_closed_file(0o644),
        ACCESS_DENIED,
        source="API.md 2.1",
    ),
    _as_nobody(
        "CreateVirtualDisk",
        "in a folder that may be written",
        _create_as_nobody,
        OK,
        source="API.md 2.5",
    ),
    _as_nobody(
        "CreateVirtualDisk",
        "in a folder that may not be written",
        _create_in_closed_folder,
        ACCESS_DENIED,
        source="API.md 2.1 (inferred for making a file)",
    ),
    _as_nobody(
        "AttachVirtualDisk",
        "without privilege",
        _attach_as_nobody,
        PRIVILEGE_NOT_HELD,
        source="API.md 2.2",
    ),
    _as_nobody(
        "DetachVirtualDisk",
        "without privilege",
        _detach_as_nobody,
        PRIVILEGE_NOT_HELD,
        source="API.md 2.3",
        attaches=True,
    ),
    _as_nobody(
        "AddVirtualDiskParent",
        "a parent that may not be read",
        _add_closed_parent,
        ACCESS_DENIED,
        PARENT_ACCESS_DENIED,
        source="API.md 2.1 (which of the two: inferred)",
    ),
]

ROWS = HANDLES + PROCESSES
