"""The rows of the contract for what changes whole images, or tells of them.

Merging, chains put together by the caller, what is set in an image, its
metadata, what lies on what, and the functions for which there is no published
format.  See contract.py.
"""

from __future__ import annotations

from collections.abc import Callable

from contract import (
    ACCESS_DENIED,
    FILE_NOT_FOUND,
    ID_MISMATCH,
    INVALID_PARAMETER,
    INVALID_STATE,
    INVALID_TYPE,
    MASK_ALL,
    METADATA_FULL,
    NO_LOCAL_HOST,
    NOT_FOUND,
    NOT_SUPPORTED,
    NOT_VIRTUAL_DISK,
    OK,
    Context,
    Row,
    make_row,
)
from contract_kinds import Kind

from virtdisk import _virtdisk as api

ITEM = bytes(range(1, 17))


def _merge_1(c: Context) -> None:
    handle = c.open("vhdx child", access_mask=MASK_ALL, rw_depth=2)
    api.MergeVirtualDisk(handle, version=1, merge_depth=1)


def _merge_shallow(c: Context) -> None:
    handle = c.open("vhdx child", access_mask=MASK_ALL, rw_depth=1)
    api.MergeVirtualDisk(handle, version=1, merge_depth=1)


def _merge_2_of_1(c: Context) -> None:
    handle = c.open("vhdx child", access_mask=MASK_ALL, rw_depth=2)
    api.MergeVirtualDisk(handle, version=2)


def _merge(
    name: str,
    opener: Callable[[Context], api.Handle],
    *expect: int,
    source: str = "API.md 2.7",
    windows: tuple[int, ...] | None = None,
    attaches: bool = False,
    **arguments: object,
) -> Row:
    return make_row(
        "MergeVirtualDisk",
        name,
        lambda c: api.MergeVirtualDisk(opener(c), **{"version": 2, **arguments}),  # type: ignore[arg-type]
        *expect,
        source=source,
        windows=windows,
        attaches=attaches,
    )


MERGE = [
    _merge("leaf into its parent", Context.child, OK),
    make_row("MergeVirtualDisk", "version 1", _merge_1, OK, source="API.md 2.7"),
    make_row(
        "MergeVirtualDisk",
        "RWDepth no more than MergeDepth",
        _merge_shallow,
        ACCESS_DENIED,
        source="API.md 2.7 (the code inferred)",
        windows=(),
    ),
    make_row(
        "MergeVirtualDisk",
        "version 2, handle of version 1",
        _merge_2_of_1,
        INVALID_PARAMETER,
        source="API.md 1.3 (the code inferred)",
        windows=(),
    ),
    _merge("flags", Context.child, INVALID_PARAMETER, source="API.md 1.4", flags=1),
    _merge(
        "deeper than the chain",
        Context.child,
        INVALID_PARAMETER,
        merge_target_depth=3,
        source="API.md 2.7 (inferred)",
        windows=(),
    ),
    _merge(
        "no child",
        Context.vhdx,
        INVALID_TYPE,
        source="API.md 2.8 (inferred)",
        windows=(),
    ),
    _merge(
        "attached",
        Context.attached_child,
        INVALID_STATE,
        source="API.md 2.7 (the code inferred)",
        windows=(),
        attaches=True,
    ),
]


def _add_twice(c: Context) -> None:
    handle = c.custom_chain()
    api.AddVirtualDiskParent(handle, c.path("vhdx"))
    api.AddVirtualDiskParent(handle, c.path("another vhdx"))


def _add_to_attached(c: Context) -> None:
    handle = c.custom_chain()
    api.AddVirtualDiskParent(handle, c.path("vhdx"))
    c.attach(handle, flags=NO_LOCAL_HOST)
    api.AddVirtualDiskParent(handle, c.path("another vhdx"))


def _add(
    name: str,
    parent: str,
    *expect: int,
    child: str = "vhdx child",
    source: str = "API.md 2.8 (inferred)",
    windows: tuple[int, ...] | None = (),
) -> Row:
    return make_row(
        "AddVirtualDiskParent",
        name,
        lambda c: api.AddVirtualDiskParent(
            c.open(child, version=2, flags=0x10), c.path(parent)
        ),
        *expect,
        source=source,
        windows=windows,
    )


ADD_PARENT = [
    _add("the parent", "vhdx", OK, source="API.md 2.7", windows=None),
    _add("the parent of another", "another vhdx", ID_MISMATCH),
    _add("a file that is not there", "missing.vhdx", FILE_NOT_FOUND),
    _add("of another format", "vhd", INVALID_TYPE),
    _add("of an image that has none", "another vhdx", INVALID_TYPE, child="vhdx"),
    make_row(
        "AddVirtualDiskParent",
        "when none is missing",
        _add_twice,
        INVALID_TYPE,
        source="API.md 2.8 (inferred)",
        windows=(),
        kind=Kind.WRONG_STATE,
    ),
    make_row(
        "AddVirtualDiskParent",
        "attached",
        _add_to_attached,
        INVALID_STATE,
        source="API.md 2.8 (inferred)",
        windows=(),
    ),
]


def _set(
    name: str,
    opener: Callable[[Context], api.Handle],
    number: int,
    *expect: int,
    source: str = "API.md 2.7",
    windows: tuple[int, ...] | None = None,
    attaches: bool = False,
    kind: Kind | None = None,
    **values: object,
) -> Row:
    return make_row(
        "SetVirtualDiskInformation",
        name,
        lambda c: api.SetVirtualDiskInformation(opener(c), number, **values),  # type: ignore[arg-type]
        *expect,
        source=source,
        windows=windows,
        attaches=attaches,
        kind=kind,
    )


def _set_parent(c: Context) -> None:
    handle = c.open("vhdx child", version=2, flags=1)
    api.SetVirtualDiskInformation(handle, 1, parent_file_path=c.path("vhdx"))


def _set_parent_with_depth(c: Context) -> None:
    handle = c.open("vhdx child", version=2, flags=1)
    api.SetVirtualDiskInformation(
        handle, 3, child_depth=1, parent_file_path=c.path("vhdx")
    )


def _set_wrong_locator(c: Context) -> None:
    handle = c.open("vhdx child", version=2, flags=1)
    api.SetVirtualDiskInformation(
        handle, 7, linkage_id=ITEM, parent_file_path=c.path("vhdx")
    )


def _set_no_parent(c: Context) -> None:
    api.SetVirtualDiskInformation(c.vhdx(), 1, parent_file_path=c.path("vhd"))


SET_INFORMATION = [
    make_row(
        "SetVirtualDiskInformation",
        "parent path",
        _set_parent,
        OK,
        source="API.md 2.7",
    ),
    make_row(
        "SetVirtualDiskInformation",
        "parent path with depth",
        _set_parent_with_depth,
        OK,
        source="API.md 2.7",
    ),
    make_row(
        "SetVirtualDiskInformation",
        "locator with the identifier of another",
        _set_wrong_locator,
        ID_MISMATCH,
        source="API.md 2.8 (inferred)",
        windows=(),
    ),
    make_row(
        "SetVirtualDiskInformation",
        "parent of an image without",
        _set_no_parent,
        INVALID_TYPE,
        source="API.md 2.8 (inferred)",
        windows=(),
    ),
    _set("virtual disk id", Context.vhdx, 5, OK, virtual_disk_id=ITEM),
    _set("512-byte sectors", Context.vhdx, 4, OK, vhd_physical_sector_size=512),
    _set("4096-byte sectors", Context.vhdx, 4, OK, vhd_physical_sector_size=4096),
    _set(
        "1024-byte sectors",
        Context.vhdx,
        4,
        INVALID_PARAMETER,
        source="API.md 1.3",
        vhd_physical_sector_size=1024,
    ),
    _set(
        "sectors of a VHD",
        Context.vhd,
        4,
        NOT_SUPPORTED,
        source="API.md 1.3: VHDX only (the code inferred)",
        windows=(),
        kind=Kind.WRONG_TYPE,
        vhd_physical_sector_size=4096,
    ),
    _set(
        "change tracking",
        Context.vhdx,
        6,
        NOT_SUPPORTED,
        source="no published format",
        windows=(),
        kind=Kind.WRONG_TYPE,
        change_tracking_enabled=True,
    ),
    _set(
        "attached",
        Context.attached_child,
        5,
        INVALID_STATE,
        source="API.md 2.7 (the code inferred)",
        windows=(),
        attaches=True,
        virtual_disk_id=ITEM,
    ),
]


def _set_and(act: Callable[[api.Handle], object]) -> Callable[[Context], object]:
    def call(c: Context) -> object:
        handle = c.vhdx()
        api.SetVirtualDiskMetadata(handle, ITEM, b"value")
        return act(handle)

    return call


_METADATA: list[tuple[str, Callable[[api.Handle], object]]] = [
    ("EnumerateVirtualDiskMetadata", lambda h: api.EnumerateVirtualDiskMetadata(h)),
    ("GetVirtualDiskMetadata", lambda h: api.GetVirtualDiskMetadata(h, ITEM)),
    ("SetVirtualDiskMetadata", lambda h: api.SetVirtualDiskMetadata(h, ITEM, b"x")),
    ("DeleteVirtualDiskMetadata", lambda h: api.DeleteVirtualDiskMetadata(h, ITEM)),
]


def _on(
    opener: Callable[[Context], api.Handle], act: Callable[[api.Handle], object]
) -> Callable[[Context], object]:
    return lambda c: act(opener(c))


METADATA = [
    *(
        make_row(name, "an item that is there", _set_and(act), OK, source="API.md 2.7")
        for name, act in _METADATA
    ),
    *(
        make_row(
            name,
            "of a VHD",
            _on(Context.vhd, act),
            NOT_SUPPORTED,
            source="API.md 2.7: VHDX only (the code inferred)",
            windows=(),
            kind=Kind.WRONG_TYPE,
        )
        for name, act in _METADATA
    ),
    *(
        make_row(
            name,
            "an item that is not there",
            _on(Context.vhdx, act),
            NOT_FOUND,
            source="API.md 2.7 (the code inferred)",
            windows=(),
        )
        for name, act in (_METADATA[1], _METADATA[3])
    ),
    *(
        make_row(
            name,
            "attached",
            _on(Context.attached_child, act),
            INVALID_STATE,
            source="API.md 2.7 (the code inferred)",
            windows=(),
            attaches=True,
        )
        for name, act in _METADATA[2:]
    ),
    make_row(
        "SetVirtualDiskMetadata",
        "more than 1 MiB",
        lambda c: api.SetVirtualDiskMetadata(c.vhdx(), ITEM, bytes((1 << 20) + 1)),
        METADATA_FULL,
        source="API.md 2.7 (the limit is [MS-VHDX] 2.6.1.2)",
        windows=(),
        kind=Kind.MISUSE,
    ),
]


def _dependency_of_device(c: Context) -> object:
    path = api.GetVirtualDiskPhysicalPath(c.attached_vhd())
    return api.GetStorageDependencyInformation(path, flags=3)


def _dependency_of_place(flags: int, version: int) -> Callable[[Context], object]:
    return lambda c: api.GetStorageDependencyInformation(
        str(c.directory),
        flags=flags,
        version=version,  # type: ignore[call-overload]
    )


DEPENDENCY = [
    make_row(
        "GetStorageDependencyInformation",
        "attached",
        _dependency_of_device,
        OK,
        source="API.md 2.7",
        attaches=True,
    ),
    make_row(
        "GetStorageDependencyInformation",
        "nothing virtual below",
        _dependency_of_place(1, 2),
        NOT_VIRTUAL_DISK,
        1,
        source="API.md 2.7 (which of the two: inferred)",
    ),
    make_row(
        "GetStorageDependencyInformation",
        "a directory as a disk",
        _dependency_of_place(3, 2),
        INVALID_PARAMETER,
        source="API.md 1.4 (the code inferred)",
        windows=(),
        kind=Kind.WRONG_TYPE,
    ),
    make_row(
        "GetStorageDependencyInformation",
        "unknown flag",
        _dependency_of_place(4, 2),
        INVALID_PARAMETER,
        source="API.md 1.4",
    ),
]


#: What has no published format: a good call of each, with these flags.
REFUSED_CALLS: dict[str, Callable[[Context, api.Handle, int], object]] = {
    "QueryChangesVirtualDisk": lambda _, handle, flags: api.QueryChangesVirtualDisk(
        handle, "rctX:1", 0, 1 << 20, flags=flags
    ),
    "TakeSnapshotVhdSet": lambda _, handle, flags: api.TakeSnapshotVhdSet(
        handle, ITEM, flags=flags
    ),
    "DeleteSnapshotVhdSet": lambda _, handle, flags: api.DeleteSnapshotVhdSet(
        handle, ITEM, flags=flags
    ),
    "ModifyVhdSet": lambda _, handle, flags: api.ModifyVhdSet(
        handle, 2, snapshot_id=ITEM, flags=flags
    ),
    "ApplySnapshotVhdSet": lambda _, handle, flags: api.ApplySnapshotVhdSet(
        handle, ITEM, ITEM, flags=flags
    ),
    "ForkVirtualDisk": lambda c, handle, flags: api.ForkVirtualDisk(
        handle, c.path("fork.vhdx"), api.Overlapped(), flags=flags
    ),
    "CompleteForkVirtualDisk": lambda _, handle, flags: api.CompleteForkVirtualDisk(
        handle
    ),
}
#: The flags that they have (API.md 1.4); CompleteForkVirtualDisk takes none.
_FLAGS = {
    "QueryChangesVirtualDisk": 0,
    "TakeSnapshotVhdSet": 1,
    "DeleteSnapshotVhdSet": 1,
    "ModifyVhdSet": 1,
    "ApplySnapshotVhdSet": 1,
    "ForkVirtualDisk": 1,
}


def _refused(
    function: str,
    name: str,
    call: Callable[[Context], object],
    *,
    well_formed: bool = True,
    source: str = "no published format",
) -> Row:
    return make_row(
        function,
        name,
        call,
        NOT_SUPPORTED if well_formed else INVALID_PARAMETER,
        source=source,
        windows=(),
        kind=Kind.WRONG_TYPE if well_formed else Kind.MISUSE,
    )


def _refused_flags(function: str, flags: int) -> Callable[[Context], object]:
    return lambda c: REFUSED_CALLS[function](c, c.vhdx(), flags)


REFUSED = [
    *(
        _refused(function, "of a VHDX", _refused_flags(function, 0))
        for function in REFUSED_CALLS
    ),
    *(
        _refused(function, "with all its flags", _refused_flags(function, flags))
        for function, flags in _FLAGS.items()
        if flags
    ),
    *(
        _refused(
            function,
            "an unknown flag",
            _refused_flags(function, flags + 1),
            well_formed=False,
            source="API.md 1.4",
        )
        for function, flags in _FLAGS.items()
    ),
    _refused(
        "ModifyVhdSet",
        "the path of a snapshot",
        lambda c: api.ModifyVhdSet(
            c.vhdx(), 1, snapshot_id=ITEM, snapshot_file_path=c.path("a.avhdx")
        ),
    ),
    _refused(
        "ModifyVhdSet",
        "the path of snapshots",
        lambda c: api.ModifyVhdSet(c.vhdx(), 3, default_file_path=str(c.directory)),
    ),
    _refused(
        "QueryChangesVirtualDisk",
        "an identifier of 256 characters",
        lambda c: api.QueryChangesVirtualDisk(c.vhdx(), "x" * 256, 0, 512),
        source="API.md 1.3",
    ),
    _refused(
        "QueryChangesVirtualDisk",
        "an identifier of 257 characters",
        lambda c: api.QueryChangesVirtualDisk(c.vhdx(), "x" * 257, 0, 512),
        well_formed=False,
        source="API.md 1.3",
    ),
]

ROWS = MERGE + ADD_PARENT + SET_INFORMATION + METADATA + DEPENDENCY + REFUSED
