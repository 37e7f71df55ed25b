"""The rows of the contract for what changes whole images, or tells of them.

Merging, what is set in an image, its metadata, what lies on what, and the
functions for which there is no published format.  See contract.py.
"""

from __future__ import annotations

from collections.abc import Callable

from contract import (
    ACCESS_DENIED,
    ID_MISMATCH,
    INVALID_PARAMETER,
    INVALID_STATE,
    INVALID_TYPE,
    MASK_ALL,
    MASK_READ,
    METADATA_FULL,
    NOT_FOUND,
    NOT_SUPPORTED,
    NOT_VIRTUAL_DISK,
    OK,
    Context,
    Row,
    make_row,
)

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
    _merge(
        "handle for information",
        lambda c: c.open("vhdx child", version=2, get_info_only=True),
        ACCESS_DENIED,
        source="API.md 2.7 (the code inferred)",
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
        vhd_physical_sector_size=4096,
    ),
    _set(
        "change tracking",
        Context.vhdx,
        6,
        NOT_SUPPORTED,
        source="no published format",
        windows=(),
        change_tracking_enabled=True,
    ),
    _set(
        "without METAOPS",
        lambda c: c.open("vhdx", access_mask=MASK_READ),
        5,
        ACCESS_DENIED,
        virtual_disk_id=ITEM,
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
    ),
    make_row(
        "GetStorageDependencyInformation",
        "unknown flag",
        _dependency_of_place(4, 2),
        INVALID_PARAMETER,
        source="API.md 1.4",
    ),
]


_REFUSED: list[tuple[str, Callable[[Context], object]]] = [
    (
        "QueryChangesVirtualDisk",
        lambda c: api.QueryChangesVirtualDisk(c.vhdx(), "rctX:1", 0, 1 << 20),
    ),
    ("TakeSnapshotVhdSet", lambda c: api.TakeSnapshotVhdSet(c.vhdx(), ITEM)),
    ("DeleteSnapshotVhdSet", lambda c: api.DeleteSnapshotVhdSet(c.vhdx(), ITEM)),
    ("ModifyVhdSet", lambda c: api.ModifyVhdSet(c.vhdx(), 2, snapshot_id=ITEM)),
    ("ApplySnapshotVhdSet", lambda c: api.ApplySnapshotVhdSet(c.vhdx(), ITEM, ITEM)),
    (
        "ForkVirtualDisk",
        lambda c: api.ForkVirtualDisk(c.vhdx(), c.path("fork.vhdx"), api.Overlapped()),
    ),
    ("CompleteForkVirtualDisk", lambda c: api.CompleteForkVirtualDisk(c.vhdx())),
]

#: What has no published format.
REFUSED = [
    *(
        make_row(
            name,
            "any use",
            call,
            NOT_SUPPORTED,
            source="no published format",
            windows=(),
        )
        for name, call in _REFUSED
    ),
    make_row(
        "DeleteSnapshotVhdSet",
        "flags",
        lambda c: api.DeleteSnapshotVhdSet(c.vhdx(), ITEM, flags=2),
        INVALID_PARAMETER,
        source="API.md 1.4",
        windows=(),
    ),
    make_row(
        "QueryChangesVirtualDisk",
        "an identifier of 257 characters",
        lambda c: api.QueryChangesVirtualDisk(c.vhdx(), "x" * 257, 0, 512),
        INVALID_PARAMETER,
        source="API.md 1.3",
        windows=(),
    ),
]

ROWS = MERGE + SET_INFORMATION + METADATA + DEPENDENCY + REFUSED
