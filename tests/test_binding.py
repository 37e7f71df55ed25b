"""The exact interface, virtdisk._virtdisk, with the real system behind it.

What needs a system that can be held, refused or scripted is in
test_binding_double.py.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import inspect
import json
import os
import pathlib
import re
import select
import struct
import subprocess
import sys
import textwrap
import threading
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from engine_build import TIMEOUT
from support import (
    LINUX,
    ROOT,
    eventually,
    let_go,
    loops_of,
    make_iso,
    make_vhd,
    open_descriptors,
    pattern,
    require_loop,
)

from virtdisk import _virtdisk as api
from virtdisk._errors import VirtualDiskError

ATTACH_RO, DETACH, GET_INFO, READ = 0x10000, 0x40000, 0x80000, 0xD0000
READ_ONLY, NO_DRIVE_LETTER = 1, 2
GUID = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff").bytes_le
IDLE = api.Overlapped()

FUNCTIONS: dict[str, tuple[str, dict[str, object]]] = {
    "OpenVirtualDisk": (
        "path",
        {
            "device_id": 0,
            "vendor_id": None,
            "access_mask": 0,
            "flags": 0,
            "version": 1,
            "rw_depth": 1,
            "get_info_only": False,
            "read_only": False,
            "resiliency_guid": None,
            "snapshot_id": None,
        },
    ),
    "CreateVirtualDisk": (
        "path",
        {
            "device_id": 0,
            "vendor_id": None,
            "access_mask": 0,
            "security_descriptor": None,
            "flags": 0,
            "provider_specific_flags": 0,
            "version": 2,
            "unique_id": None,
            "maximum_size": 0,
            "block_size_in_bytes": 0,
            "sector_size_in_bytes": 0,
            "physical_sector_size_in_bytes": 0,
            "parent_path": None,
            "source_path": None,
            "open_flags": 0,
            "parent_device_id": 0,
            "parent_vendor_id": None,
            "source_device_id": 0,
            "source_vendor_id": None,
            "resiliency_guid": None,
            "source_limit_path": None,
            "backing_device_id": 0,
            "backing_vendor_id": None,
            "pmem_address_abstraction_type": None,
            "data_alignment": 0,
            "overlapped": None,
        },
    ),
    "AttachVirtualDisk": (
        "handle",
        {
            "security_descriptor": None,
            "flags": 0,
            "provider_specific_flags": 0,
            "version": 1,
            "restricted_offset": 0,
            "restricted_length": 0,
            "overlapped": None,
        },
    ),
    "DetachVirtualDisk": ("handle", {"flags": 0, "provider_specific_flags": 0}),
    "GetVirtualDiskPhysicalPath": ("handle", {}),
    "GetAllAttachedVirtualDiskPhysicalPaths": ("", {}),
    "GetStorageDependencyInformation": ("path", {"flags": 0, "version": 2}),
    "GetVirtualDiskInformation": ("handle version", {}),
    "SetVirtualDiskInformation": (
        "handle version",
        {
            "parent_file_path": None,
            "unique_identifier": None,
            "child_depth": 1,
            "vhd_physical_sector_size": 0,
            "virtual_disk_id": None,
            "change_tracking_enabled": False,
            "linkage_id": None,
        },
    ),
    "EnumerateVirtualDiskMetadata": ("handle", {}),
    "GetVirtualDiskMetadata": ("handle item", {}),
    "SetVirtualDiskMetadata": ("handle item metadata", {}),
    "DeleteVirtualDiskMetadata": ("handle item", {}),
    "GetVirtualDiskOperationProgress": ("handle overlapped", {}),
    "CompactVirtualDisk": ("handle", {"flags": 0, "version": 1, "overlapped": None}),
    "MergeVirtualDisk": (
        "handle",
        {
            "flags": 0,
            "version": 1,
            "merge_depth": 1,
            "merge_source_depth": 1,
            "merge_target_depth": 2,
            "overlapped": None,
        },
    ),
    "ExpandVirtualDisk": (
        "handle new_size",
        {"flags": 0, "version": 1, "overlapped": None},
    ),
    "ResizeVirtualDisk": (
        "handle new_size",
        {"flags": 0, "version": 1, "overlapped": None},
    ),
    "MirrorVirtualDisk": ("handle path overlapped", {"flags": 0, "version": 1}),
    "BreakMirrorVirtualDisk": ("handle", {}),
    "AddVirtualDiskParent": ("handle path", {}),
    "QueryChangesVirtualDisk": (
        "handle change_tracking_id byte_offset byte_length",
        {"flags": 0, "range_count": 1024},
    ),
    "TakeSnapshotVhdSet": ("handle snapshot_id", {"flags": 0, "version": 1}),
    "DeleteSnapshotVhdSet": ("handle snapshot_id", {"flags": 0, "version": 1}),
    "ModifyVhdSet": (
        "handle version",
        {
            "flags": 0,
            "snapshot_id": None,
            "snapshot_file_path": None,
            "default_file_path": None,
        },
    ),
    "ApplySnapshotVhdSet": (
        "handle snapshot_id leaf_snapshot_id",
        {"flags": 0, "version": 1},
    ),
    "RawSCSIVirtualDisk": (
        "handle cdb",
        {
            "data_in": None,
            "data_out": None,
            "sense_length": 18,
            "srb_flags": 0,
            "rsvd_handle": False,
            "version": 1,
            "flags": 0,
        },
    ),
    "ForkVirtualDisk": ("handle path overlapped", {"flags": 0, "version": 1}),
    "CompleteForkVirtualDisk": ("handle", {}),
}
# What comes after the first argument where more must be given.
REST: dict[str, tuple[object, ...]] = {
    "GetVirtualDiskInformation": (1,),
    "SetVirtualDiskInformation": (6,),
    "GetVirtualDiskMetadata": (GUID,),
    "SetVirtualDiskMetadata": (GUID, b""),
    "DeleteVirtualDiskMetadata": (GUID,),
    "GetVirtualDiskOperationProgress": (IDLE,),
    "ExpandVirtualDisk": (1 << 30,),
    "ResizeVirtualDisk": (1 << 30,),
    "MirrorVirtualDisk": ("mirror", IDLE),
    "AddVirtualDiskParent": ("parent",),
    "QueryChangesVirtualDisk": ("id", 0, 1),
    "TakeSnapshotVhdSet": (GUID,),
    "DeleteSnapshotVhdSet": (GUID,),
    "ModifyVhdSet": (2,),
    "ApplySnapshotVhdSet": (GUID, GUID),
    "RawSCSIVirtualDisk": (bytes(6),),
    "ForkVirtualDisk": ("fork", IDLE),
}
# The keywords without which these arguments make no sense.
NEEDED: dict[str, dict[str, object]] = {"ModifyVhdSet": {"snapshot_id": GUID}}


@pytest.fixture
def image(tmp_path: pathlib.Path) -> str:
    return str(make_vhd(tmp_path / "image.vhd"))


@pytest.fixture
def handle(image: str) -> Iterator[api.Handle]:
    with api.OpenVirtualDisk(image, version=2) as opened:
        yield opened


def call(name: str, *positional: object, **keywords: object) -> Any:
    return getattr(api, name)(*positional, **{**NEEDED.get(name, {}), **keywords})


# Shape.


def public() -> dict[str, object]:
    return {n: getattr(api, n) for n in dir(api) if not n.startswith("_")}


def test_functions_are_all_known() -> None:
    functions = {n for n, value in public().items() if inspect.isbuiltin(value)}
    assert functions == set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signature(name: str) -> None:
    positional, defaults = FUNCTIONS[name]
    signature = inspect.signature(getattr(api, name))
    kinds = {n: p.kind for n, p in signature.parameters.items()}
    for parameter in positional.split():
        assert kinds.pop(parameter) == inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert set(kinds.values()) <= {inspect.Parameter.KEYWORD_ONLY}
    found = {n: signature.parameters[n].default for n in kinds}
    assert found == defaults


@pytest.mark.parametrize("name", ["wait", "result", "progress", "cancel", "fileno"])
def test_signature_of_methods(name: str) -> None:
    parameters = inspect.signature(getattr(api.Overlapped, name)).parameters
    assert list(parameters) == (["self", "timeout"] if name == "wait" else ["self"])


def documented() -> Iterator[tuple[str, str]]:
    """Everything callable that a caller may reach, with its docstring."""
    for name in FUNCTIONS:
        yield name, getattr(api, name).__doc__
    for owner in (api.Handle, api.Overlapped):
        for name in vars(owner):
            if inspect.ismethoddescriptor(vars(owner)[name]) and name[0] != "_":
                yield f"{owner.__name__}.{name}", getattr(owner, name).__doc__
    yield "Overlapped", api.Overlapped.__doc__ or ""


@pytest.mark.parametrize(("name", "text"), list(documented()))
def test_docstring(name: str, text: str) -> None:
    assert re.search(r"^Raises:$", text, re.MULTILINE), name
    assert "VirtualDiskError: The code of" in " ".join(text.split())
    assert re.search(r"^Source: \w+", text, re.MULTILINE), name
    returns = {
        *("OpenVirtualDisk", "CreateVirtualDisk", "GetVirtualDiskOperationProgress"),
        *("GetStorageDependencyInformation", "EnumerateVirtualDiskMetadata"),
        *("GetVirtualDiskMetadata", "QueryChangesVirtualDisk", "RawSCSIVirtualDisk"),
        *("Overlapped.wait", "Overlapped.progress"),
    }
    assert ("Returns:" in text) or name not in returns
    arguments = inspect.signature(eval(f"api.{name}")).parameters  # names of ours
    for argument in arguments:
        if argument != "self":
            assert re.search(rf"^    {argument}: [A-Z0-9]", text, re.MULTILINE)


def test_sizes_and_offsets_say_their_unit() -> None:
    for name in (
        *("CreateVirtualDisk", "AttachVirtualDisk", "GetVirtualDiskInformation"),
        *("SetVirtualDiskInformation", "ExpandVirtualDisk", "ResizeVirtualDisk"),
        *("QueryChangesVirtualDisk", "RawSCSIVirtualDisk"),
    ):
        assert "byte" in getattr(api, name).__doc__


def test_constants_are_those_of_the_api() -> None:
    """Microsoft's metadata, read by others, is the oracle."""
    oracle = json.loads((ROOT / "tests/abi/vhd_abi.json").read_text())["constants"]
    found = {n: value for n, value in public().items() if type(value) is int}
    assert {n: found.get(n) for n in oracle} == oracle
    aliases = {
        "CREATE_VIRTUAL_DISK_FLAG_USE_RCT_SOURCE_LIMIT": 0x10,
        "GET_STORAGE_DEPENDENCY_FLAG_PARENTS": 1,
    }
    assert {n: found[n] for n in set(found) - set(oracle)} == aliases


def test_stub_is_that_of_the_module(tmp_path: pathlib.Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "mypy.stubtest", "virtdisk._virtdisk"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no issues" in done.stdout


# Arguments: refused before any call.

FLAGS = {"flags": 32}
INTEGERS = {
    "OpenVirtualDisk": {"device_id": 32, "access_mask": 32, **FLAGS, "rw_depth": 32},
    "CreateVirtualDisk": {
        "device_id": 32,
        "access_mask": 32,
        **FLAGS,
        "provider_specific_flags": 32,
        "maximum_size": 64,
        "block_size_in_bytes": 32,
        "sector_size_in_bytes": 32,
        "physical_sector_size_in_bytes": 32,
        "open_flags": 32,
        "parent_device_id": 32,
        "source_device_id": 32,
        "backing_device_id": 32,
        "data_alignment": 64,
    },
    "AttachVirtualDisk": {
        **FLAGS,
        "provider_specific_flags": 32,
        "restricted_offset": 64,
        "restricted_length": 64,
    },
    "DetachVirtualDisk": {**FLAGS, "provider_specific_flags": 32},
    "GetStorageDependencyInformation": FLAGS,
    "SetVirtualDiskInformation": {"child_depth": 32, "vhd_physical_sector_size": 32},
    "CompactVirtualDisk": FLAGS,
    "MergeVirtualDisk": {
        **FLAGS,
        "merge_depth": 32,
        "merge_source_depth": 32,
        "merge_target_depth": 32,
    },
    "ExpandVirtualDisk": FLAGS,
    "ResizeVirtualDisk": FLAGS,
    "MirrorVirtualDisk": FLAGS,
    "QueryChangesVirtualDisk": {**FLAGS, "range_count": 32},
    "TakeSnapshotVhdSet": FLAGS,
    "DeleteSnapshotVhdSet": FLAGS,
    "ModifyVhdSet": FLAGS,
    "ApplySnapshotVhdSet": FLAGS,
    "RawSCSIVirtualDisk": {"sense_length": 8, "srb_flags": 32, **FLAGS},
    "ForkVirtualDisk": FLAGS,
}
INTEGER_CASES = [
    (function, name, bits)
    for function, names in INTEGERS.items()
    for name, bits in names.items()
]


def subject(name: str, handle: api.Handle) -> object:
    by_path = FUNCTIONS[name][0].startswith("path")
    return f"{handle.path}.none" if by_path else handle


def subjects(name: str, handle: api.Handle) -> tuple[object, ...]:
    return subject(name, handle), *REST.get(name, ())


@pytest.mark.parametrize(("function", "name", "bits"), INTEGER_CASES)
def test_integer_out_of_range(
    handle: api.Handle, function: str, name: str, bits: int
) -> None:
    for value in (-1, 1 << bits, -(1 << 70), 1 << 70):
        with pytest.raises(OverflowError, match=f"{name} must be from 0 to"):
            call(function, *subjects(function, handle), **{name: value})


@pytest.mark.parametrize(("function", "name", "bits"), INTEGER_CASES)
@pytest.mark.parametrize("value", [None, "1", 1.0, b"1", [1]], ids=repr)
def test_integer_of_the_wrong_type(
    handle: api.Handle, function: str, name: str, bits: int, value: object
) -> None:
    kind = type(value).__name__
    with pytest.raises(TypeError, match=f"{name} must be int, not {kind}"):
        call(function, *subjects(function, handle), **{name: value})


def test_integer_whose_index_fails(handle: api.Handle) -> None:
    class Failing:
        def __index__(self) -> int:
            raise LookupError("no number")

    with pytest.raises(LookupError, match="no number"):
        call("DetachVirtualDisk", handle, flags=Failing())


@pytest.mark.parametrize(
    ("function", "newest"), [("OpenVirtualDisk", 3), ("AttachVirtualDisk", 2)]
)
def test_version(handle: api.Handle, function: str, newest: int) -> None:
    for value in (0, newest + 1, 0xFFFFFFFF):
        expected = f"version must be None or from 1 to {newest}, not {value}"
        with pytest.raises(ValueError, match=expected):
            call(function, subject(function, handle), version=value)
    with pytest.raises(OverflowError, match="version"):
        call(function, subject(function, handle), version=-1)
    with pytest.raises(TypeError, match="version must be int, not str"):
        call(function, subject(function, handle), version="1")


def test_information_version(handle: api.Handle) -> None:
    with pytest.raises(OverflowError, match="version"):
        api.GetVirtualDiskInformation(handle, -1)
    with pytest.raises(TypeError, match="version must be int, not NoneType"):
        call("GetVirtualDiskInformation", handle, None)


GUIDS = [
    ("OpenVirtualDisk", "vendor_id"),
    ("OpenVirtualDisk", "resiliency_guid"),
    ("OpenVirtualDisk", "snapshot_id"),
    ("CreateVirtualDisk", "vendor_id"),
    ("CreateVirtualDisk", "unique_id"),
    ("CreateVirtualDisk", "parent_vendor_id"),
    ("CreateVirtualDisk", "source_vendor_id"),
    ("CreateVirtualDisk", "resiliency_guid"),
    ("CreateVirtualDisk", "backing_vendor_id"),
    ("CreateVirtualDisk", "pmem_address_abstraction_type"),
    ("SetVirtualDiskInformation", "unique_identifier"),
    ("SetVirtualDiskInformation", "virtual_disk_id"),
    ("SetVirtualDiskInformation", "linkage_id"),
    ("ModifyVhdSet", "snapshot_id"),
]


@pytest.mark.parametrize(("function", "name"), GUIDS)
def test_guid(handle: api.Handle, function: str, name: str) -> None:
    arguments = subjects(function, handle)
    for buffer in (b"", bytes(15), bytes(17), memoryview(bytes(32))):
        with pytest.raises(ValueError, match=rf"{name} must have 16 bytes, not \d+"):
            call(function, *arguments, **{name: buffer})
    for value in (0, "0" * 16, uuid.UUID(int=0), [0] * 16):
        with pytest.raises(TypeError, match=f"{name} must be a bytes-like object"):
            call(function, *arguments, **{name: value})
    with pytest.raises(BufferError):
        call(function, *arguments, **{name: memoryview(bytes(32))[::2]})


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_guid_of_any_buffer(image: str, kind: Callable[[bytes], Any]) -> None:
    api.OpenVirtualDisk(image, version=2, resiliency_guid=kind(GUID)).close()


def test_path(image: str) -> None:
    for value in (None, os.fsencode(image), pathlib.Path(image), 1):
        with pytest.raises(TypeError, match="path must be str"):
            call("OpenVirtualDisk", value)
    for text in ("\0", f"{image}\0", f"\0{image}"):
        with pytest.raises(ValueError, match="path: embedded null character"):
            api.OpenVirtualDisk(text)


@pytest.mark.skipif(not LINUX, reason="names that are not UTF-8")
def test_path_that_is_not_utf8(tmp_path: pathlib.Path) -> None:
    raw = os.fsencode(tmp_path) + b"/\xff\xfe \xc3\xa9.vhd"
    os.rename(make_vhd(tmp_path / "plain.vhd"), raw)
    with api.OpenVirtualDisk(os.fsdecode(raw), version=2) as handle:
        assert os.fsencode(handle.path) == raw
        assert api.GetVirtualDiskInformation(handle, 1)[0] == 4 << 20


WITH_HANDLE = [f for f in FUNCTIONS if FUNCTIONS[f][0].startswith("handle")]


@pytest.mark.parametrize("function", WITH_HANDLE)
def test_handle_of_the_wrong_type(function: str) -> None:
    rest = REST.get(function, ())
    for value in (None, 0, "handle", api.Overlapped()):
        kind = type(value).__name__
        with pytest.raises(TypeError, match=f"handle must be Handle, not {kind}"):
            call(function, value, *rest)


TAKES_OVERLAPPED = [n for n, (_, names) in FUNCTIONS.items() if "overlapped" in names]


@pytest.mark.parametrize("function", TAKES_OVERLAPPED)
def test_overlapped_of_the_wrong_type(handle: api.Handle, function: str) -> None:
    with pytest.raises(TypeError, match="overlapped must be Overlapped or None"):
        call(function, *subjects(function, handle), overlapped=object())


@pytest.mark.parametrize("function", FUNCTIONS)
def test_arguments_in_number_and_name(handle: api.Handle, function: str) -> None:
    positional = FUNCTIONS[function][0].split()
    enough = [subject(function, handle), *REST.get(function, ())][: len(positional)]
    with pytest.raises(TypeError):
        call(function, *enough, 1)
    with pytest.raises(TypeError):
        call(function, *enough, unknown=1)
    if positional:
        with pytest.raises(TypeError):
            call(function)


def test_overlapped_takes_nothing() -> None:
    for arguments in ((1,), (None,)):
        with pytest.raises(TypeError):
            call("Overlapped", *arguments)
    with pytest.raises(TypeError):
        call("Overlapped", event=1)


# Security descriptors as bytes.

EVERYONE = struct.pack("<BB6sI", 1, 1, b"\0\0\0\0\0\1", 0)
SYSTEM = struct.pack("<BB6sI", 1, 1, b"\0\0\0\0\0\5", 18)


def ace(body: bytes, *, kind: int = 0, size: int | None = None) -> bytes:
    length = 8 + len(body) if size is None else size
    return struct.pack("<BBHI", kind, 0, length, 0x10000000) + body


def acl(*entries: bytes, revision: int = 2, **wrong: int) -> bytes:
    body = b"".join(entries)
    size, count = wrong.get("size", 8 + len(body)), wrong.get("count", len(entries))
    return struct.pack("<BBHHH", revision, 0, size, count, 0) + body


def descriptor(
    *,
    owner: bytes = b"",
    group: bytes = b"",
    sacl: bytes = b"",
    dacl: bytes = b"",
    revision: int = 1,
    control: int = 0x8000,
) -> bytes:
    offsets, body = [], b""
    for part in (owner, group, sacl, dacl):
        offsets.append(20 + len(body) if part else 0)
        body += part
    control |= 0x10 * bool(sacl) | 0x4 * bool(dacl)
    return struct.pack("<BBHIIII", revision, 0, control, *offsets) + body


def at(offset: int, field: int, source: bytes) -> bytes:
    """The descriptor with the offset in a field replaced."""
    changed = bytearray(source)
    struct.pack_into("<I", changed, field, offset)
    return bytes(changed)


FULL = descriptor(
    owner=SYSTEM, group=SYSTEM, sacl=acl(ace(EVERYONE, kind=2)), dacl=acl(ace(EVERYONE))
)
OWNED = descriptor(owner=SYSTEM)
OBJECT_FLAGS = {f: struct.pack("<I", f) + bytes(16 * f.bit_count()) for f in range(4)}

GOOD_DESCRIPTORS = {
    "nothing": descriptor(),
    "everything": FULL,
    "empty list": descriptor(dacl=acl()),
    "longer than needed": FULL + b"rest",
    "list longer than its entries": descriptor(
        dacl=acl(ace(EVERYONE) + bytes(8), count=1)
    ),
    "entry with data behind": descriptor(dacl=acl(ace(EVERYONE + b"data", kind=9))),
    "entry without a SID": descriptor(dacl=acl(ace(b"", kind=0x40))),
    "most sub-authorities": descriptor(owner=struct.pack("<BB6s60x", 1, 15, b"")),
} | {
    f"object entry {f}": descriptor(
        dacl=acl(ace(OBJECT_FLAGS[f] + EVERYONE, kind=5), revision=4)
    )
    for f in OBJECT_FLAGS
}

BAD_DESCRIPTORS = {
    "empty": (b"", "header"),
    "short": (descriptor()[:19], "header"),
    "revision": (descriptor(revision=2), "revision"),
    "absolute": (descriptor(control=0), "self-relative"),
    "owner in the header": (at(16, 4, OWNED), "owner"),
    "owner unaligned": (at(21, 4, OWNED + bytes(4)), "owner"),
    "owner at the end": (at(32, 4, OWNED), "owner"),
    "owner past the end": (at(36, 4, OWNED), "owner"),
    "owner far away": (at(0xFFFFFFFC, 4, OWNED), "owner"),
    "owner cut in its header": (OWNED[:27], "owner"),
    "owner cut": (OWNED[:-1], "owner"),
    "owner's revision": (descriptor(owner=b"\2" + SYSTEM[1:]), "owner"),
    "owner of 16 parts": (
        descriptor(owner=struct.pack("<BB6s64x", 1, 16, b"")),
        "owner",
    ),
    "group cut": (descriptor(group=SYSTEM)[:-4], "group"),
    "group far away": (at(0x80000000, 8, FULL), "group"),
    "SACL far away": (at(0x10000000, 12, FULL), "SACL"),
    "SACL's revision": (descriptor(sacl=acl(revision=1)), "SACL"),
    "DACL's revision": (descriptor(dacl=acl(revision=5)), "DACL"),
    "DACL cut in its header": (descriptor(dacl=acl())[:-1], "DACL"),
    "DACL smaller than its header": (descriptor(dacl=acl(size=7)), "DACL"),
    "DACL larger than the rest": (descriptor(dacl=acl(size=12)), "DACL"),
    "more entries than room": (descriptor(dacl=acl(ace(EVERYONE), count=2)), "DACL"),
    "most entries": (descriptor(dacl=acl(count=0xFFFF)), "DACL"),
    "entry of no size": (descriptor(dacl=acl(ace(EVERYONE, size=0))), "DACL"),
    "entry of an odd size": (descriptor(dacl=acl(ace(EVERYONE + b"\0\0"))), "DACL"),
    "entry larger than the list": (
        descriptor(dacl=acl(ace(EVERYONE, size=24))),
        "DACL",
    ),
    "entry's SID cut": (descriptor(dacl=acl(ace(EVERYONE[:8]))), "DACL"),
    "entry without room for a SID": (descriptor(dacl=acl(ace(b""))), "DACL"),
    "entry smaller than a mask": (
        descriptor(dacl=acl(struct.pack("<BBH", 0, 0, 4))),
        "DACL",
    ),
    "object entry without flags": (
        descriptor(dacl=acl(ace(b"", kind=5), revision=4)),
        "DACL",
    ),
    "object entry without its GUIDs": (
        descriptor(dacl=acl(ace(struct.pack("<I", 3) + EVERYONE, kind=5), revision=4)),
        "DACL",
    ),
}


@pytest.mark.parametrize("name", BAD_DESCRIPTORS)
def test_descriptor_refused(handle: api.Handle, name: str) -> None:
    data, fault = BAD_DESCRIPTORS[name]
    for value in (data, bytearray(data), memoryview(data)):
        with pytest.raises(ValueError, match=f"security_descriptor: .*{fault}"):
            call("AttachVirtualDisk", handle, security_descriptor=value, flags=1 << 31)


@pytest.mark.parametrize("name", GOOD_DESCRIPTORS)
def test_descriptor_passed_on(handle: api.Handle, name: str) -> None:
    """The unknown flag makes the system refuse the call as a whole."""
    with pytest.raises(VirtualDiskError) as caught:
        api.AttachVirtualDisk(
            handle, security_descriptor=GOOD_DESCRIPTORS[name], flags=1 << 31
        )
    assert caught.value.function == "AttachVirtualDisk"


def test_every_prefix_of_a_descriptor_is_refused(handle: api.Handle) -> None:
    for length in range(len(FULL)):
        with pytest.raises(ValueError, match="security_descriptor"):
            api.AttachVirtualDisk(handle, security_descriptor=FULL[:length])


@pytest.mark.parametrize("value", [1, 1.5, [], pathlib.Path("D:")], ids=repr)
def test_descriptor_of_the_wrong_type(handle: api.Handle, value: object) -> None:
    with pytest.raises(TypeError, match="security_descriptor must be str"):
        call("AttachVirtualDisk", handle, security_descriptor=value)


def test_sddl_with_a_null_character(handle: api.Handle) -> None:
    with pytest.raises(ValueError, match="security_descriptor: embedded null"):
        api.AttachVirtualDisk(handle, security_descriptor="D:\0")


def test_sddl_that_is_none(handle: api.Handle) -> None:
    with pytest.raises(VirtualDiskError) as caught:
        api.AttachVirtualDisk(handle, security_descriptor="not SDDL", flags=1 << 31)
    assert caught.value.function.startswith("ConvertStringSecurityDescriptor")
    assert caught.value.winerror in (87, 1305, 1336, 1337, 1338)


# Handle.


def test_handle(image: str) -> None:
    handle = api.OpenVirtualDisk(image, version=2)
    assert handle.path == image
    assert handle.closed is False
    assert handle.value > 0
    assert repr(handle) == f"<virtdisk._virtdisk.Handle {image!r}>"
    with handle as entered:
        assert entered is handle
    assert handle.closed is True
    assert handle.path == image
    assert repr(handle) == f"<virtdisk._virtdisk.Handle {image!r}, closed>"
    handle.close()
    with pytest.raises(ValueError, match="closed"):
        handle.value  # noqa: B018
    with pytest.raises(ValueError, match="closed"), handle:
        pass


def test_closed_handle_is_refused(image: str) -> None:
    handle = api.OpenVirtualDisk(image, version=2)
    handle.close()
    for function in WITH_HANDLE:
        rest = REST.get(function, ())
        with pytest.raises(ValueError, match="closed virtual disk handle"):
            call(function, handle, *rest)
    overlapped = api.Overlapped()
    with pytest.raises(ValueError, match="closed"):
        api.AttachVirtualDisk(handle, overlapped=overlapped)
    assert not overlapped.pending


def test_with_passes_exceptions_on(image: str) -> None:
    handle = api.OpenVirtualDisk(image, version=2)
    with pytest.raises(KeyError), handle:
        raise KeyError
    assert handle.closed


@pytest.mark.parametrize("kind", [api.Handle, api.Overlapped])
def test_types_are_final(kind: Any) -> None:
    with pytest.raises(TypeError, match="not an acceptable base type"):
        type("Derived", (kind,), {})
    with pytest.raises(TypeError, match="immutable type"):
        kind.new_attribute = 1
    assert kind.__module__ == "virtdisk._virtdisk"


def test_handle_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="cannot create"):
        call("Handle")
    with pytest.raises(TypeError):
        object.__new__(api.Handle)


@pytest.mark.skipif(not LINUX, reason="descriptors")
def test_dropped_handle_is_closed(image: str) -> None:
    before = open_descriptors()
    handle = api.OpenVirtualDisk(image, version=2)
    assert open_descriptors() != before
    del handle
    gc.collect()
    assert open_descriptors() == before


@pytest.mark.skipif(not LINUX, reason="descriptors")
def test_handle_in_a_cycle_is_closed(image: str) -> None:
    before = open_descriptors()
    cycle: list[object] = [api.OpenVirtualDisk(image, version=2), api.Overlapped()]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert open_descriptors() == before


@pytest.mark.skipif(not LINUX, reason="descriptors")
def test_failed_open_leaves_nothing(tmp_path: pathlib.Path) -> None:
    junk = tmp_path / "junk.vhd"
    junk.write_bytes(pattern(1 << 16))
    before = open_descriptors()
    for path in (tmp_path / "none.vhd", junk, tmp_path):
        with pytest.raises(VirtualDiskError) as caught:
            api.OpenVirtualDisk(str(path), version=2)
        assert caught.value.filename == str(path)
    assert open_descriptors() == before


# Audit events.

AUDIT = """
import sys
events = []
sys.addaudithook(lambda name, args: events.append((name, args)))
from virtdisk import _virtdisk as api
image, guid = {image!r}, bytes(range(16))
handle = api.OpenVirtualDisk(image, version=1, access_mask=0xD0000, flags=1)
idle = api.Overlapped()
calls = (
    lambda: api.OpenVirtualDisk(image + ".none", flags=3),
    lambda: api.CreateVirtualDisk(image, version=1, access_mask=1 << 20, flags=1 << 31),
    lambda: api.AttachVirtualDisk(handle, flags=1 << 31),
    lambda: api.DetachVirtualDisk(handle, flags=7),
    lambda: api.GetStorageDependencyInformation("/none", flags=2),
    lambda: api.SetVirtualDiskInformation(handle, 6),
    lambda: api.SetVirtualDiskMetadata(handle, bytearray(guid), b""),
    lambda: api.DeleteVirtualDiskMetadata(handle, guid),
    lambda: api.CompactVirtualDisk(handle, flags=1 << 31),
    lambda: api.MergeVirtualDisk(handle, flags=1 << 31),
    lambda: api.ExpandVirtualDisk(handle, 1 << 63, flags=1 << 31),
    lambda: api.ResizeVirtualDisk(handle, 0, flags=1 << 31),
    lambda: api.MirrorVirtualDisk(handle, "mirror", idle, flags=1 << 31),
    lambda: api.BreakMirrorVirtualDisk(handle),
    lambda: api.AddVirtualDiskParent(handle, "parent"),
    lambda: api.TakeSnapshotVhdSet(handle, guid, flags=1),
    lambda: api.DeleteSnapshotVhdSet(handle, guid, flags=2),
    lambda: api.ModifyVhdSet(handle, 2, snapshot_id=guid, flags=3),
    lambda: api.ApplySnapshotVhdSet(handle, guid, bytes(16), flags=4),
    lambda: api.RawSCSIVirtualDisk(handle, bytearray(6)),
    lambda: api.ForkVirtualDisk(handle, "fork", idle, flags=5),
    lambda: api.CompleteForkVirtualDisk(handle),
)
del events[:]
for call in calls:
    try:
        call()
    except OSError:
        pass
print([event for event in events if event[0].startswith("virtdisk.")])
refused = []
class Refused(Exception): pass
def refuse(name, args):
    if name.startswith("virtdisk."):
        raise Refused(name)
sys.addaudithook(refuse)
for call in calls:
    try:
        call()
    except Refused as error:
        refused.append(str(error))
print(refused)
sys.audit = None
try:
    api.OpenVirtualDisk(image + ".none")
except Refused:
    print("still")
"""


def audited(image: str) -> list[tuple[str, tuple[object, ...]]]:
    """The events of AUDIT."""
    top, guid = 1 << 31, bytes(range(16))
    return [
        ("virtdisk.OpenVirtualDisk", (f"{image}.none", 0, 3)),
        ("virtdisk.CreateVirtualDisk", (image, 1 << 20, top)),
        ("virtdisk.AttachVirtualDisk", (image, top)),
        ("virtdisk.DetachVirtualDisk", (image, 7)),
        ("virtdisk.GetStorageDependencyInformation", ("/none", 2)),
        ("virtdisk.SetVirtualDiskInformation", (image, 6)),
        ("virtdisk.SetVirtualDiskMetadata", (image, guid)),
        ("virtdisk.DeleteVirtualDiskMetadata", (image, guid)),
        ("virtdisk.CompactVirtualDisk", (image, top)),
        ("virtdisk.MergeVirtualDisk", (image, top)),
        ("virtdisk.ExpandVirtualDisk", (image, top, 1 << 63)),
        ("virtdisk.ResizeVirtualDisk", (image, top, 0)),
        ("virtdisk.MirrorVirtualDisk", (image, top, "mirror")),
        ("virtdisk.BreakMirrorVirtualDisk", (image,)),
        ("virtdisk.AddVirtualDiskParent", (image, "parent")),
        ("virtdisk.TakeSnapshotVhdSet", (image, 1, guid)),
        ("virtdisk.DeleteSnapshotVhdSet", (image, 2, guid)),
        ("virtdisk.ModifyVhdSet", (image, 3, 2)),
        ("virtdisk.ApplySnapshotVhdSet", (image, 4, guid)),
        ("virtdisk.RawSCSIVirtualDisk", (image, bytes(6))),
        ("virtdisk.ForkVirtualDisk", (image, 5, "fork")),
        ("virtdisk.CompleteForkVirtualDisk", (image,)),
    ]


def run(program: str) -> str:
    """What a program prints in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_audit_events(image: str) -> None:
    first, second, third = run(AUDIT.format(image=image)).splitlines()
    expected = audited(image)
    assert eval(first) == expected
    assert eval(second) == [name for name, _ in expected]
    assert third == "still"
    only_asks = [
        name for name in FUNCTIONS if name.startswith(("Get", "Enumerate", "Query"))
    ]
    only_asks.remove("GetStorageDependencyInformation")  # opens a path
    names = {name.removeprefix("virtdisk.") for name, _ in expected}
    assert names == set(FUNCTIONS) - set(only_asks)


# Other interpreters.

IN_INTERPRETER = """
import sys
sys.path[:] = {path!r}
from virtdisk import _virtdisk as api
with api.OpenVirtualDisk({image!r}, version=2) as handle:
    assert api.GetVirtualDiskInformation(handle, 1)[0] == 4 << 20
try:
    api.OpenVirtualDisk({image!r} + ".none", version=2)
except FileNotFoundError as error:
    assert error.winerror in (2, 3)
else:
    raise AssertionError
left_open = api.OpenVirtualDisk({image!r}, version=2)
idle = api.Overlapped()
left_pending = api.Overlapped()
made = api.CreateVirtualDisk(
    {image!r} + ".new", device_id=2, maximum_size=64 << 20, flags=1,
    overlapped=left_pending,
)
"""

INTERPRETERS = """
import pathlib, sys
program = {program!r}
from virtdisk import _virtdisk as own
for _ in range(3):
    if sys.version_info >= (3, 13):
        import _interpreters as interpreters
        identity = interpreters.create("isolated")
        failure = interpreters.exec(identity, program)
        assert failure is None, failure
    else:
        import _xxsubinterpreters as interpreters
        identity = interpreters.create()
        interpreters.run_string(identity, program)
    interpreters.destroy(identity)
    pathlib.Path({image!r} + ".new").unlink(missing_ok=True)
with own.OpenVirtualDisk({image!r}, version=2) as handle:
    print(own.GetVirtualDiskInformation(handle, 1)[0])
"""


def test_subinterpreters(image: str) -> None:
    """From 3.13 on with a GIL of their own; each has its own state and types.

    What is pending when one is destroyed is cancelled, or done, before it is.
    """
    path = [entry for entry in sys.path if entry]
    program = IN_INTERPRETER.format(path=path, image=image)
    assert run(INTERPRETERS.format(program=program, image=image)) == f"{4 << 20}\n"


def test_import_again() -> None:
    """A second module object has types of its own, and both work."""
    run(
        """
        import gc, sys
        from virtdisk import _virtdisk as first
        overlapped = first.Overlapped()
        del sys.modules["virtdisk._virtdisk"]
        import importlib
        second = importlib.import_module("virtdisk._virtdisk")
        assert second.Handle is not first.Handle
        try:
            second.GetVirtualDiskPhysicalPath(overlapped)
        except TypeError:
            pass
        del first, second, sys.modules["virtdisk._virtdisk"]
        gc.collect()
        assert not overlapped.pending
        """
    )


def test_import_without_the_errors_fails_cleanly() -> None:
    run(
        """
        import sys
        import virtdisk._errors
        del sys.modules["virtdisk._virtdisk"]
        errors = sys.modules["virtdisk._errors"]
        sys.modules["virtdisk._errors"] = None
        import importlib
        try:
            importlib.import_module("virtdisk._virtdisk")
        except ImportError:
            sys.modules["virtdisk._errors"] = errors
            importlib.import_module("virtdisk._virtdisk")
        else:
            raise AssertionError
        """
    )


# Leaks: every function, when it succeeds and when it does not.


def leak_cases(handle: api.Handle) -> dict[str, Callable[[], object]]:
    path = handle.path
    return {
        "open": lambda: api.OpenVirtualDisk(
            path, version=3, vendor_id=bytes(16)
        ).close(),
        "open, fails": lambda: api.OpenVirtualDisk(path + "x", version=2),
        "open, refused": lambda: api.OpenVirtualDisk(path, snapshot_id=b""),
        "attach, fails": lambda: api.AttachVirtualDisk(
            handle, version=2, flags=1 << 31, security_descriptor=FULL
        ),
        "attach, bad SDDL": lambda: api.AttachVirtualDisk(
            handle, security_descriptor="?"
        ),
        "attach, refused": lambda: api.AttachVirtualDisk(
            handle, security_descriptor=FULL[:-1]
        ),
        "attach, overlapped, fails": lambda: api.AttachVirtualDisk(
            handle, flags=1 << 31, overlapped=api.Overlapped()
        ),
        "detach, fails": lambda: api.DetachVirtualDisk(handle, flags=1),
        "path, fails": lambda: api.GetVirtualDiskPhysicalPath(handle),
        "all paths": api.GetAllAttachedVirtualDiskPhysicalPaths,
        "information": lambda: [
            api.GetVirtualDiskInformation(handle, n) for n in (1, 2, 6, 9, 13)
        ],
        "information, fails": lambda: api.GetVirtualDiskInformation(handle, 3),
        "parent, fails": lambda: api.AddVirtualDiskParent(handle, path),
        "SCSI, fails": lambda: api.RawSCSIVirtualDisk(
            handle, bytearray(6), data_in=bytearray(512)
        ),
        "SCSI, refused": lambda: api.RawSCSIVirtualDisk(
            handle, bytearray(6), data_out=bytearray(512), version=2
        ),
        "create, fails": lambda: api.CreateVirtualDisk(
            path, maximum_size=4 << 20, security_descriptor=FULL
        ),
        "create, refused": lambda: api.CreateVirtualDisk(
            path, parent_path="p", source_path="s", version=5
        ),
        "create, overlapped, fails": lambda: api.CreateVirtualDisk(
            path, maximum_size=4 << 20, overlapped=api.Overlapped()
        ),
        "dependency": lambda: api.GetStorageDependencyInformation("/"),
        "dependency, fails": lambda: api.GetStorageDependencyInformation(path + "x"),
        "metadata, fails": lambda: api.EnumerateVirtualDiskMetadata(handle),
        "resize, fails": lambda: api.ResizeVirtualDisk(handle, 1, flags=1 << 31),
        "Overlapped": lambda: api.Overlapped().event,
        "Overlapped, refused": lambda: api.Overlapped().result(),
    }


LEAK_NAMES = [
    "open", "open, fails", "open, refused", "attach, fails", "attach, bad SDDL",
    "attach, refused", "attach, overlapped, fails", "detach, fails", "path, fails",
    "all paths", "information", "information, fails", "parent, fails",
    "SCSI, fails", "SCSI, refused", "create, fails", "create, refused",
    "create, overlapped, fails", "dependency", "dependency, fails", "metadata, fails",
    "resize, fails", "Overlapped", "Overlapped, refused",
]  # fmt: skip


def resident_kib() -> int:
    status = pathlib.Path("/proc/self/status").read_text()
    found = re.search(r"VmData:\s+(\d+)", status)
    assert found is not None
    return int(found[1])


@pytest.mark.skipif(not LINUX, reason="/proc")
@pytest.mark.parametrize("name", LEAK_NAMES)
def test_no_leak(handle: api.Handle, name: str) -> None:
    cases = leak_cases(handle)
    assert list(cases) == LEAK_NAMES

    def repeat(count: int) -> None:
        for _ in range(count):
            with contextlib.suppress(OSError, ValueError):
                cases[name]()
        gc.collect()

    repeat(200)
    descriptors, data = open_descriptors(), resident_kib()
    tracemalloc.start()
    repeat(200)
    before = tracemalloc.get_traced_memory()[0]
    repeat(2000)
    growth = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert growth < 2000  # less than one byte a call
    assert resident_kib() - data < 1024
    assert open_descriptors() == descriptors


# Attached for real.


@pytest.fixture
def attachable(image: str) -> Iterator[api.Handle]:
    require_loop()
    with api.OpenVirtualDisk(image, version=2) as opened:
        yield opened


def content(device: str, length: int = 4 << 20) -> bytes:
    with open(device, "rb", buffering=0) as disk:
        return disk.read(length)


def test_attach_and_detach(attachable: api.Handle) -> None:
    api.AttachVirtualDisk(attachable, flags=NO_DRIVE_LETTER)
    device = api.GetVirtualDiskPhysicalPath(attachable)
    assert content(device) == pattern(4 << 20)
    assert attachable.path in api.GetAllAttachedVirtualDiskPhysicalPaths()
    assert api.GetVirtualDiskInformation(attachable, 13) is True
    api.DetachVirtualDisk(attachable)
    assert attachable.path not in api.GetAllAttachedVirtualDiskPhysicalPaths()
    assert api.GetVirtualDiskInformation(attachable, 13) is False


def test_long_list_of_attached(tmp_path: pathlib.Path) -> None:
    """Longer than the first buffer."""
    require_loop()
    with contextlib.ExitStack() as stack:
        paths = []
        for number in range(4):
            path = str(make_vhd(tmp_path / f"{'long' * 40}{number}.vhd"))
            handle = stack.enter_context(api.OpenVirtualDisk(path, version=2))
            api.AttachVirtualDisk(handle, flags=NO_DRIVE_LETTER)
            paths.append(path)
        assert set(paths) <= set(api.GetAllAttachedVirtualDiskPhysicalPaths())


def test_close_detaches(attachable: api.Handle, tmp_path: pathlib.Path) -> None:
    api.AttachVirtualDisk(attachable, flags=NO_DRIVE_LETTER)
    assert list(loops_of(tmp_path))
    attachable.close()
    assert let_go(tmp_path)


def test_restricted_range(attachable: api.Handle) -> None:
    api.AttachVirtualDisk(
        attachable,
        flags=NO_DRIVE_LETTER | api.ATTACH_VIRTUAL_DISK_FLAG_RESTRICTED_RANGE,
        version=2,
        restricted_offset=1 << 20,
        restricted_length=1 << 19,
    )
    device = api.GetVirtualDiskPhysicalPath(attachable)
    assert content(device) == pattern(4 << 20)[1 << 20 : (1 << 20) + (1 << 19)]


def test_iso(tmp_path: pathlib.Path) -> None:
    require_loop()
    path = make_iso(tmp_path / "image.iso")
    with api.OpenVirtualDisk(str(path), access_mask=READ, rw_depth=0) as handle:
        api.AttachVirtualDisk(handle, flags=READ_ONLY)
        device = api.GetVirtualDiskPhysicalPath(handle)
        assert content(device) == path.read_bytes()


@pytest.mark.parametrize("mode", ["D:(A;;GA;;;WD)", "D:(A;;GR;;;WD)"])
def test_sddl_reaches_the_node(attachable: api.Handle, mode: str) -> None:
    api.AttachVirtualDisk(attachable, flags=NO_DRIVE_LETTER, security_descriptor=mode)
    device = api.GetVirtualDiskPhysicalPath(attachable)
    expected = 0o666 if "GA" in mode else 0o444
    assert os.stat(device).st_mode & 0o777 == expected


def test_descriptor_bytes_reach_the_node(attachable: api.Handle) -> None:
    api.AttachVirtualDisk(
        attachable,
        flags=NO_DRIVE_LETTER,
        security_descriptor=descriptor(dacl=acl(ace(EVERYONE))),
    )
    device = api.GetVirtualDiskPhysicalPath(attachable)
    assert os.stat(device).st_mode & 0o777 == 0o666


def test_overlapped_attach(attachable: api.Handle) -> None:
    overlapped = api.Overlapped()
    api.AttachVirtualDisk(attachable, flags=NO_DRIVE_LETTER, overlapped=overlapped)
    assert overlapped.wait(30)
    assert not overlapped.pending
    overlapped.result()
    assert overlapped.progress()[0] == 0
    device = api.GetVirtualDiskPhysicalPath(attachable)
    assert content(device) == pattern(4 << 20)


def test_overlapped_attach_with_descriptor(attachable: api.Handle) -> None:
    overlapped = api.Overlapped()
    api.AttachVirtualDisk(
        attachable,
        flags=NO_DRIVE_LETTER,
        security_descriptor="D:(A;;GA;;;WD)",
        overlapped=overlapped,
    )
    gc.collect()
    assert overlapped.wait(30)
    overlapped.result()
    device = api.GetVirtualDiskPhysicalPath(attachable)
    assert os.stat(device).st_mode & 0o777 == 0o666


def attach_and_wait(handle: api.Handle) -> None:
    overlapped = api.Overlapped()
    api.AttachVirtualDisk(handle, flags=NO_DRIVE_LETTER, overlapped=overlapped)
    assert overlapped.wait(30)
    overlapped.result()


def test_overlapped_attach_fails(attachable: api.Handle) -> None:
    api.AttachVirtualDisk(attachable, flags=NO_DRIVE_LETTER)
    with api.OpenVirtualDisk(attachable.path, version=2) as second:
        with pytest.raises(VirtualDiskError) as caught:
            attach_and_wait(second)
        assert caught.value.winerror == 32
        assert caught.value.filename == attachable.path


def test_overlapped_reused(attachable: api.Handle) -> None:
    overlapped = api.Overlapped()
    for _ in range(5):
        api.AttachVirtualDisk(attachable, flags=NO_DRIVE_LETTER, overlapped=overlapped)
        assert overlapped.wait(30)
        overlapped.result()
        api.DetachVirtualDisk(attachable)


def code_of(overlapped: api.Overlapped) -> int:
    try:
        overlapped.result()
    except VirtualDiskError as error:
        return error.winerror
    return 0


def test_overlapped_cancelled(attachable: api.Handle, tmp_path: pathlib.Path) -> None:
    """Cancelled and undone, or too late: never anything in between."""
    for _ in range(20):
        overlapped = api.Overlapped()
        api.AttachVirtualDisk(attachable, flags=NO_DRIVE_LETTER, overlapped=overlapped)
        overlapped.cancel()
        assert overlapped.wait(30)
        code = code_of(overlapped)
        assert code in (0, 995)
        if code == 0:
            assert list(loops_of(tmp_path))
            api.DetachVirtualDisk(attachable)
        assert let_go(tmp_path)


def test_overlapped_dropped(image: str, tmp_path: pathlib.Path) -> None:
    """Nothing is left after both are dropped, pending or not."""
    require_loop()
    for _ in range(20):
        handle = api.OpenVirtualDisk(image, version=2)
        overlapped = api.Overlapped()
        api.AttachVirtualDisk(handle, flags=NO_DRIVE_LETTER, overlapped=overlapped)
        del handle, overlapped
        gc.collect()
        assert let_go(tmp_path)


def test_exit_with_an_operation_under_way(image: str, tmp_path: pathlib.Path) -> None:
    require_loop()
    run(
        f"""
        from virtdisk import _virtdisk as api
        handle = api.OpenVirtualDisk({image!r}, version=2)
        overlapped = api.Overlapped()
        api.AttachVirtualDisk(handle, flags=2, overlapped=overlapped)
        """
    )
    assert let_go(tmp_path)


def test_many_threads(tmp_path: pathlib.Path) -> None:
    """Attached and detached at once, each by its own handle."""
    require_loop()
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            path = str(make_vhd(tmp_path / f"{number}.vhd"))
            with api.OpenVirtualDisk(path, version=2) as handle:
                overlapped = api.Overlapped()
                api.AttachVirtualDisk(
                    handle, flags=NO_DRIVE_LETTER, overlapped=overlapped
                )
                assert overlapped.wait(60)
                overlapped.result()
                assert api.GetVirtualDiskInformation(handle, 13) is True
                api.DetachVirtualDisk(handle)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []
    assert let_go(tmp_path)


# Operations on whole images, as the real engine does them.


def write_blocks(handle: api.Handle, first: int, count: int, content: bytes) -> None:
    """Writes MiB after MiB of an attached disk by SCSI, WRITE (10)."""
    for n in range(first, first + count):
        cdb = struct.pack(">BBIBHB", 0x2A, 0, n * 2048, 0, 2048, 0)
        status, _, moved = api.RawSCSIVirtualDisk(handle, cdb, data_out=content)
        assert (status, moved) == (0, 1 << 20)


def read_disk(handle: api.Handle, size: int) -> bytes:
    """The content of an attached disk by SCSI, READ (10)."""
    found = bytearray(size)
    for n in range(size >> 20):
        cdb = struct.pack(">BBIBHB", 0x28, 0, n * 2048, 0, 2048, 0)
        data = memoryview(found)[n << 20 : (n + 1) << 20]
        assert api.RawSCSIVirtualDisk(handle, cdb, data_in=data)[0] == 0
    return bytes(found)


@pytest.mark.skipif(not LINUX, reason="SCSI by NO_LOCAL_HOST without privilege")
def test_a_compact_that_is_awaited_has_been_done(tmp_path: pathlib.Path) -> None:
    """The file is smaller when the operation says that it is over; none of
    the progress on the way was the end before the end."""
    path = tmp_path / "disk.vhdx"
    size, some = 32 << 20, os.urandom(1 << 20)
    with api.CreateVirtualDisk(
        str(path), device_id=3, maximum_size=size, block_size_in_bytes=1 << 20
    ) as handle:
        api.AttachVirtualDisk(handle, flags=8)
        write_blocks(handle, 0, 32, some)
        write_blocks(handle, 4, 24, bytes(1 << 20))
        before = read_disk(handle, size)
    full = path.stat().st_size
    assert full > size
    with api.OpenVirtualDisk(str(path), version=2) as handle:
        overlapped = api.Overlapped()
        api.CompactVirtualDisk(handle, overlapped=overlapped)
        told = []
        while not overlapped.wait(0):
            status, current, completion = overlapped.progress()
            told.append(current / completion if completion else 0.0)
            if status != 997:
                break
        assert overlapped.wait(60)
        overlapped.result()
        assert told == sorted(told)
        assert path.stat().st_size <= full - (20 << 20)
    with api.OpenVirtualDisk(str(path), version=2) as handle:
        api.AttachVirtualDisk(handle, flags=8)
        assert read_disk(handle, size) == before


def test_progress_after_the_next_operation(tmp_path: pathlib.Path) -> None:
    """The engine remembers the last one of a handle; each tells its own."""
    with api.CreateVirtualDisk(
        str(tmp_path / "disk.vhdx"), device_id=3, maximum_size=4 << 20
    ) as handle:
        first, second = api.Overlapped(), api.Overlapped()
        for overlapped in (first, second):
            api.CompactVirtualDisk(handle, overlapped=overlapped)
            select.select([overlapped], [], [], 30)
        assert first.progress() == (0, 0, 0)
        assert second.progress()[0] == 0


def test_an_overlapped_create_by_its_descriptor(tmp_path: pathlib.Path) -> None:
    """A loop that watches the descriptor learns of the end, and all is there."""
    path = tmp_path / "disk.vhd"
    overlapped = api.Overlapped()
    handle = api.CreateVirtualDisk(
        str(path), device_id=2, maximum_size=16 << 20, flags=1, overlapped=overlapped
    )
    assert select.select([overlapped], [], [], 60) == ([overlapped], [], [])
    overlapped.result()
    assert path.stat().st_size == (16 << 20) + 512
    assert api.GetVirtualDiskInformation(handle, 1)[0] == 16 << 20
    handle.close()


def test_a_create_that_is_cancelled_leaves_no_descriptor(
    tmp_path: pathlib.Path,
) -> None:
    before = open_descriptors()
    for n in range(5):
        overlapped = api.Overlapped()
        handle = api.CreateVirtualDisk(
            str(tmp_path / f"{n}.vhd"),
            device_id=2,
            maximum_size=256 << 20,
            flags=1,
            overlapped=overlapped,
        )
        overlapped.cancel()
        handle.close()
        del handle, overlapped
    gc.collect()
    # The engine's thread closes the last ones just after the event.
    assert eventually(lambda: open_descriptors() == before)


# The build.


def test_every_source_lies_where_the_build_looks() -> None:
    text = (ROOT / "setup.py").read_text()
    layers = re.search(r"^LAYERS = (\[.*\])$", text, re.MULTILINE)
    assert layers is not None
    folders = {"server", *eval(layers[1])}  # a list of literals of ours
    sources = [*(ROOT / "src/engine").rglob("*.c")]
    assert len(sources) > 20
    assert [s.name for s in sources if s.parent.name not in folders] == []


def test_error_carries_errno(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        api.OpenVirtualDisk(str(tmp_path / "none.vhd"), version=2)
    assert caught.value.errno == errno.ENOENT
