"""Rows of the contract for the functions that make images.

As contract.py: creating and mirroring.
"""

from __future__ import annotations

from contract import (
    ABORTED,
    FILE_EXISTS,
    FILE_NOT_FOUND,
    INVALID_PARAMETER,
    INVALID_SIZE,
    INVALID_STATE,
    INVALID_TYPE,
    MASK_ALL,
    MASK_READ,
    NO_LOCAL_HOST,
    NOT_SUPPORTED,
    OK,
    PATH_NOT_FOUND,
    PROVIDER_NOT_FOUND,
    VHD,
    VHDX,
    Context,
    Row,
)
from contract_kinds import Kind

from virtdisk import _virtdisk as api

MIB = 1 << 20
SIZE = 8 * MIB
FIXED, PREVENT_WRITES, NO_METADATA, BACKING, SPARSE = 1, 2, 4, 8, 0x80


def _create(
    name: str,
    *expect: int,
    target: str = "new.vhdx",
    parent: str | None = None,
    copy_of: str | None = None,
    source: str = "API.md 2.5",
    windows: tuple[int, ...] | None = None,
    kind: Kind | None = None,
    **arguments: object,
) -> Row:
    def run(context: Context) -> None:
        paths = {
            keyword: context.path(image)
            for keyword, image in (("parent_path", parent), ("source_path", copy_of))
            if image is not None
        }
        size = {} if paths else {"maximum_size": SIZE}
        handle = api.CreateVirtualDisk(
            context.path(target),
            **{**size, **paths, **arguments},  # type: ignore[arg-type]
        )
        context.stack.enter_context(handle)

    return Row(
        function="CreateVirtualDisk",
        name=name,
        call=run,
        expect=expect,
        source=source,
        windows=windows,
        told_kind=kind,
    )


CREATE = [
    _create("a dynamic VHDX", OK),
    _create("a dynamic VHD", OK, target="new.vhd"),
    _create("a fixed VHD", OK, target="new.vhd", flags=FIXED),
    _create("version 1 with all rights", OK, version=1, access_mask=MASK_ALL),
    _create("version 3", OK, version=3),
    _create("version 4", OK, version=4),
    _create("sectors of 4096 bytes", OK, sector_size_in_bytes=4096),
    _create("a child", OK, parent="vhdx"),
    _create("a copy", OK, copy_of="vhd"),
    _create("a larger copy", OK, copy_of="vhdx", maximum_size=32 * MIB),
    _create("version 2 with a mask", INVALID_PARAMETER, access_mask=MASK_ALL),
    _create("an unknown flag", INVALID_PARAMETER, flags=0x800000),
    _create("no size", INVALID_PARAMETER, maximum_size=0),
    _create("less than 3 MiB", INVALID_PARAMETER, maximum_size=3 * MIB - 512),
    _create("a size between sectors", INVALID_PARAMETER, maximum_size=SIZE + 1),
    _create("blocks of 3 MiB", INVALID_PARAMETER, block_size_in_bytes=3 * MIB),
    _create(
        "a VHD in blocks of 1 MiB",
        INVALID_PARAMETER,
        target="new.vhd",
        block_size_in_bytes=MIB,
    ),
    _create("sectors of 1024 bytes", INVALID_PARAMETER, sector_size_in_bytes=1024),
    _create(
        "a VHD in sectors of 4096 bytes",
        INVALID_PARAMETER,
        target="new.vhd",
        sector_size_in_bytes=4096,
    ),
    _create("a file that exists", FILE_EXISTS, target="vhdx"),
    _create("no such folder", PATH_NOT_FOUND, target="missing/new.vhdx"),
    _create("no such parent", FILE_NOT_FOUND, parent="missing.vhdx"),
    _create("no such source", FILE_NOT_FOUND, copy_of="missing.vhdx"),
    _create("a parent of another format", INVALID_TYPE, parent="vhd", windows=()),
    _create(
        "a copy smaller than its source",
        INVALID_PARAMETER,
        copy_of="vhdx",
        maximum_size=4 * MIB,
    ),
    _create("parent and source", INVALID_PARAMETER, parent="vhdx", copy_of="vhd"),
    _create(
        "a fixed child",
        INVALID_PARAMETER,
        parent="vhdx",
        flags=FIXED,
        source="api/create.c (inferred)",
        windows=(),
    ),
    _create(
        "SPARSE_FILE of a dynamic disk",
        INVALID_PARAMETER,
        flags=SPARSE,
        source="api/create.c (inferred)",
        windows=(),
    ),
    _create(
        "PREVENT_WRITES_TO_SOURCE_DISK without a source",
        INVALID_PARAMETER,
        flags=PREVENT_WRITES,
        source="api/create.c (inferred)",
        windows=(),
    ),
    _create(
        "DO_NOT_COPY_METADATA_FROM_PARENT without a parent",
        INVALID_PARAMETER,
        flags=NO_METADATA,
        source="api/create.c (inferred)",
        windows=(),
    ),
    _create(
        "the storage of a VHD Set",
        NOT_SUPPORTED,
        flags=BACKING,
        windows=(),
        kind=Kind.WRONG_TYPE,
    ),
    _create(
        "an iso",
        NOT_SUPPORTED,
        target="new.iso",
        source="API.md 1.4: CREATE is not for ISO (the code inferred)",
        windows=(),
        kind=Kind.WRONG_TYPE,
    ),
    _create("a device nobody has", PROVIDER_NOT_FOUND, device_id=77),
    _create("a name of no type", PROVIDER_NOT_FOUND, target="new.bin"),
    _create("a VHDX by another name", OK, target="new.bin", device_id=VHDX),
    _create("a VHD by another name", OK, target="other.bin", device_id=VHD),
]


def _mirror(
    name: str,
    *expect: int,
    image: str = "vhdx",
    target: str = "mirror.vhdx",
    ends: str = "break",
    source: str = "API.md 2.7",
    windows: tuple[int, ...] | None = None,
    kind: Kind | None = None,
    attached: bool = False,
    flags: int = 0,
    **arguments: object,
) -> Row:
    def run(context: Context) -> None:
        handle = context.open(image, **{"version": 2, **arguments})
        if attached:
            context.attach(handle, flags=NO_LOCAL_HOST)
        overlapped = api.Overlapped()
        path = context.path(target)
        api.MirrorVirtualDisk(handle, path, overlapped, flags=flags)
        while True:
            status, current, completion = overlapped.progress()
            if status != 997 or (completion and current == completion):
                break
            overlapped.wait(0.002)
        if ends == "break" and status == 997:
            api.BreakMirrorVirtualDisk(handle)
        elif status == 997:
            overlapped.cancel()
        overlapped.wait()
        overlapped.result()

    return Row(
        function="MirrorVirtualDisk",
        name=name,
        call=run,
        expect=expect,
        source=source,
        windows=windows,
        told_kind=kind,
    )


MIRROR = [
    _mirror("and broken", OK),
    _mirror("a fixed VHD", OK, image="vhd", target="mirror.vhd"),
    _mirror("a child", OK, image="vhdx child"),
    _mirror("attached to the caller", OK, attached=True, windows=()),
    _mirror("and cancelled", ABORTED, ends="cancel"),
    _mirror(
        "into an image of another size", INVALID_SIZE, target="vhd", flags=1, windows=()
    ),
    _mirror("over a file that exists", FILE_EXISTS, target="vhd"),
    _mirror("into a file that does not", FILE_NOT_FOUND, flags=1),
    _mirror("no such folder", PATH_NOT_FOUND, target="missing/mirror.vhdx"),
    _mirror("an unknown flag", INVALID_PARAMETER, flags=0x100),
    _mirror(
        "SKIP_MIRROR_ACTIVATION",
        NOT_SUPPORTED,
        flags=2,
        source="api/mirror.c (inferred)",
        windows=(),
        kind=Kind.MISUSE,
    ),
    _mirror(
        "an iso",
        INVALID_PARAMETER,
        image="iso",
        version=1,
        access_mask=MASK_READ,
        rw_depth=0,
        source="API.md 2.7: a handle of version 2, which no ISO has",
        windows=(),
        kind=Kind.WRONG_TYPE,
    ),
]


def _break_mirror(context: Context) -> None:
    handle = context.open("vhdx", version=2)
    overlapped = api.Overlapped()
    api.MirrorVirtualDisk(handle, context.path("mirror.vhdx"), overlapped)
    try:
        while True:
            _, current, completion = api.GetVirtualDiskOperationProgress(
                handle, overlapped
            )
            if completion and current == completion:
                break
            overlapped.wait(0.002)
        api.BreakMirrorVirtualDisk(handle)
    finally:
        overlapped.cancel()
        overlapped.wait()


def _finished(context: Context) -> tuple[api.Handle, api.Overlapped]:
    """A handle, and an operation on it that has succeeded."""
    handle = context.open("vhdx", version=2)
    overlapped = api.Overlapped()
    api.CompactVirtualDisk(handle, overlapped=overlapped)
    overlapped.wait()
    overlapped.result()
    return handle, overlapped


def _progress(context: Context) -> None:
    handle, overlapped = _finished(context)
    status, current, completion = api.GetVirtualDiskOperationProgress(
        handle, overlapped
    )
    assert (status, current) == (0, completion)


def _progress_of_another(context: Context) -> None:
    _, overlapped = _finished(context)
    other = context.open("vhd", version=2)
    api.GetVirtualDiskOperationProgress(other, overlapped)


PROGRESS = [
    Row(
        function="GetVirtualDiskOperationProgress",
        name="of what is over",
        call=_progress,
        expect=(OK,),
        source="API.md 2.7",
        windows=(),
    ),
    Row(
        function="GetVirtualDiskOperationProgress",
        name="of another handle's operation",
        call=_progress_of_another,
        expect=(INVALID_PARAMETER,),
        source="api/overlapped.c (inferred)",
        windows=(),
    ),
]

BREAK = [
    Row(
        function="BreakMirrorVirtualDisk",
        name="when all is copied",
        call=_break_mirror,
        expect=(OK,),
        source="API.md 2.7",
    ),
    Row(
        function="BreakMirrorVirtualDisk",
        name="no mirror",
        call=lambda context: api.BreakMirrorVirtualDisk(context.vhdx()),
        expect=(INVALID_STATE,),
        source="api/mirror.c (inferred)",
        windows=(),
    ),
]

ROWS = [*CREATE, *MIRROR, *BREAK, *PROGRESS]
