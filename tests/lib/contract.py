"""One table of use, misuse and outcome for virtdisk.h.

Each row names a function, the call, and the code that the documentation (or,
where it is silent, observation: API.md section 2) gives for it.  The same
table runs against the engine on Linux and against the real DLL on Windows.
Where the two are known to differ the row says so in ``windows``; codes of
which Microsoft documents none are marked "inferred".

Misuse that cannot be expressed through the binding (NULL pointers, small
buffers, invalid handles) is in tests/engine/test_api_contract.c.
"""

from __future__ import annotations

import contextlib
import pathlib
import struct
from collections.abc import Callable
from dataclasses import dataclass

from contract_kinds import Kind
from support import make_iso, make_vhd, vhd_checksum
from unprivileged import public_directory

from virtdisk import _virtdisk as api

OK = 0
FILE_NOT_FOUND = 2
PATH_NOT_FOUND = 3
ACCESS_DENIED = 5
NOT_READY = 21
SHARING_VIOLATION = 32
NOT_SUPPORTED = 50
DEV_NOT_EXIST = 55
FILE_EXISTS = 80
INVALID_PARAMETER = 87
ABORTED = 995
NOT_FOUND = 1168
PRIVILEGE_NOT_HELD = 1314
FILE_CORRUPT = 1392
FOOTER_MISSING = 0xC03A0001
FOOTER_CHECKSUM = 0xC03A0002
FOOTER_CORRUPT = 0xC03A0003
FORMAT_UNKNOWN = 0xC03A0004
UNSUPPORTED_VERSION = 0xC03A0005
ID_MISMATCH = 0xC03A000E
INVALID_SIZE = 0xC03A0012
INVALID_FILE_SIZE = 0xC03A0013
PROVIDER_NOT_FOUND = 0xC03A0014
NOT_VIRTUAL_DISK = 0xC03A0015
PARENT_ACCESS_DENIED = 0xC03A0016
INVALID_TYPE = 0xC03A001B
INVALID_STATE = 0xC03A001C
METADATA_FULL = 0xC03A0028
NO_MINIMUM_SIZE = 0xC03A0026

# What a code tells of where it is not said otherwise.  NOT_SUPPORTED can be
# anything, so there each row says it.
KIND_OF = {
    OK: Kind.SUCCESS,
    INVALID_PARAMETER: Kind.MISUSE,
    **dict.fromkeys((ACCESS_DENIED, PRIVILEGE_NOT_HELD), Kind.MISSING_PRIVILEGE),
    **dict.fromkeys(
        (
            FORMAT_UNKNOWN,
            UNSUPPORTED_VERSION,
            PROVIDER_NOT_FOUND,
            NOT_VIRTUAL_DISK,
            INVALID_TYPE,
        ),
        Kind.WRONG_TYPE,
    ),
    **dict.fromkeys(
        (
            FILE_NOT_FOUND,
            PATH_NOT_FOUND,
            NOT_READY,
            SHARING_VIOLATION,
            DEV_NOT_EXIST,
            FILE_EXISTS,
            ABORTED,
            NOT_FOUND,
            FILE_CORRUPT,
            FOOTER_MISSING,
            FOOTER_CHECKSUM,
            ID_MISMATCH,
            INVALID_SIZE,
            INVALID_FILE_SIZE,
            INVALID_STATE,
            NO_MINIMUM_SIZE,
        ),
        Kind.WRONG_STATE,
    ),
}

ISO, VHD, VHDX, VHDSET = 1, 2, 3, 4
MICROSOFT = bytes.fromhex("ec4a98ecf9a0e947901f71415a66345b")
OTHER_VENDOR = bytes(range(16))

MASK_READ = 0x000D0000
MASK_ALL = 0x003F0000
ATTACH_RO, ATTACH_RW, DETACH, GET_INFO = 0x10000, 0x20000, 0x40000, 0x80000
READ_ONLY, NO_LETTER, PERMANENT, NO_LOCAL_HOST = 1, 2, 4, 8
NO_SECURITY, BYPASS, NON_PNP, RESTRICTED = 0x10, 0x20, 0x40, 0x80
SINGLE_PARTITION, REGISTER_VOLUME, AT_BOOT = 0x100, 0x200, 0x400


def _patched(path: pathlib.Path, at: int, value: bytes) -> None:
    """Changes the VHD footer and mends its checksum."""
    image = bytearray(path.read_bytes())
    footer = image[-512:]
    footer[at : at + len(value)] = value
    struct.pack_into(">I", footer, 64, vhd_checksum(footer, 64))
    path.write_bytes(bytes(image[:-512] + footer))


def _vhd_with(at: int, value: bytes) -> Callable[[pathlib.Path], None]:
    def make(path: pathlib.Path) -> None:
        make_vhd(path)
        _patched(path, at, value)

    return make


def _bad_checksum(path: pathlib.Path) -> None:
    make_vhd(path)
    image = bytearray(path.read_bytes())
    image[-1] ^= 1
    path.write_bytes(image)


def _iso_of(size: int) -> Callable[[pathlib.Path], None]:
    def make(path: pathlib.Path) -> None:
        make_iso(path)
        path.write_bytes(path.read_bytes()[:size])

    return make


def _iso_without_descriptors(path: pathlib.Path) -> None:
    path.write_bytes(bytes(64 * 2048))


def _iso_inside_vhd(path: pathlib.Path) -> None:
    make_iso(path)
    make_vhd(path, data=path.read_bytes())


def _vhdx(path: pathlib.Path) -> None:
    api.CreateVirtualDisk(
        str(path), device_id=VHDX, vendor_id=MICROSOFT, maximum_size=16 << 20
    ).close()


def _vhdx_child(path: pathlib.Path) -> None:
    parent = path.with_name("a.vhdx")
    if not parent.exists():
        _vhdx(parent)
    api.CreateVirtualDisk(
        str(path), device_id=VHDX, vendor_id=MICROSOFT, parent_path=str(parent)
    ).close()


IMAGES: dict[str, tuple[str, Callable[[pathlib.Path], object]]] = {
    "iso": ("a.iso", make_iso),
    "vhd": ("a.vhd", make_vhd),
    "vhdx": ("a.vhdx", _vhdx),
    "vhdx child": ("child.vhdx", _vhdx_child),
    "another vhdx": ("b.vhdx", _vhdx),
    "iso of odd length": ("odd.iso", _iso_of(64 * 2048 - 1)),
    "iso of 16 sectors": ("short.iso", _iso_of(16 * 2048)),
    "iso without descriptors": ("none.iso", _iso_without_descriptors),
    "vhd, checksum wrong": ("sum.vhd", _bad_checksum),
    "vhd, version 2": ("version.vhd", _vhd_with(12, b"\0\2\0\0")),
    "vhd, type 7": ("type.vhd", _vhd_with(60, b"\0\0\0\7")),
    "vhd, size 0": ("zero.vhd", _vhd_with(48, bytes(8))),
    "vhd, size odd": ("size.vhd", _vhd_with(48, (4 << 20 | 1).to_bytes(8))),
    "vhd, size past file": ("past.vhd", _vhd_with(48, (8 << 20).to_bytes(8))),
    "no image": ("none.vhd", lambda path: path.write_bytes(bytes(1 << 20))),
    "empty file": ("empty.vhd", lambda path: path.write_bytes(b"")),
    "no known content": ("data.bin", lambda path: path.write_bytes(b"x" * 9999)),
    "iso inside vhd": ("both.vhd", _iso_inside_vhd),
}


class Context:
    """What a row's call works with: images on demand, handles closed after."""

    def __init__(self, directory: pathlib.Path, stack: contextlib.ExitStack):
        self.directory = directory
        self.stack = stack

    def public(self) -> Context:
        """The same, in a directory of nobody's."""
        return Context(self.stack.enter_context(public_directory()), self.stack)

    def path(self, image: str) -> str:
        name, make = IMAGES.get(image, (image, None))
        path = self.directory / name
        if make is not None and not path.exists():
            make(path)
        return str(path)

    def open(self, image: str, **arguments: object) -> api.Handle:
        handle = api.OpenVirtualDisk(self.path(image), **arguments)  # type: ignore[arg-type]
        return self.stack.enter_context(handle)

    def vhd(self, **arguments: object) -> api.Handle:
        return self.open("vhd", **{"version": 2, **arguments})

    def vhdx(self) -> api.Handle:
        return self.open("vhdx", version=2)

    def child(self) -> api.Handle:
        return self.open("vhdx child", version=2)

    def custom_chain(self) -> api.Handle:
        return self.open("vhdx child", version=2, flags=0x10)

    def attached_child(self) -> api.Handle:
        handle = self.child()
        self.attach(handle, flags=NO_LETTER)
        return handle

    def iso(self) -> api.Handle:
        return self.open("iso", access_mask=MASK_READ, rw_depth=0)

    def attach(self, handle: api.Handle, **arguments: object) -> None:
        """Attaches and sees to it that it is detached again."""
        flags = arguments.get("flags", 0)
        api.AttachVirtualDisk(handle, **arguments)  # type: ignore[arg-type]
        if isinstance(flags, int) and flags & PERMANENT:
            self.stack.callback(self.detach_by_path, handle.path)

    def attached_vhd(self, flags: int = NO_LETTER) -> api.Handle:
        handle = self.vhd()
        self.attach(handle, flags=flags)
        return handle

    def attached_iso(self) -> api.Handle:
        handle = self.iso()
        self.attach(handle, flags=READ_ONLY | NO_LETTER)
        return handle

    @staticmethod
    def detach_by_path(path: str) -> None:
        with (
            contextlib.suppress(OSError),
            api.OpenVirtualDisk(path, version=None, access_mask=DETACH) as handle,
        ):
            api.DetachVirtualDisk(handle)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One use or misuse and the codes it may end with, the engine's first."""

    function: str
    name: str
    call: Callable[[Context], object]
    expect: tuple[int, ...]
    source: str
    windows: tuple[int, ...] | None = None  # other codes there; () = not run
    attaches: bool = False
    needs_root: bool = False  # to be somebody else
    told_kind: Kind | None = None  # where KIND_OF does not know it

    @property
    def id(self) -> str:
        return f"{self.function}: {self.name}"

    @property
    def kind(self) -> Kind:
        return self.told_kind or KIND_OF[self.expect[0]]


def _open(
    name: str,
    image: str,
    *expect: int,
    source: str = "API.md 2.1",
    windows: tuple[int, ...] | None = None,
    kind: Kind | None = None,
    **arguments: object,
) -> Row:
    return Row(
        function="OpenVirtualDisk",
        name=name,
        call=lambda c: c.open(image, **arguments),
        expect=expect,
        source=source,
        windows=windows,
        told_kind=kind,
    )


OPEN = [
    _open("vhd, version 2", "vhd", OK, version=2),
    _open("vhd, version 3", "vhd", OK, version=3),
    _open("vhd, no parameters", "vhd", OK, version=None, access_mask=MASK_ALL),
    _open("vhd, version 1, all", "vhd", OK, access_mask=MASK_ALL),
    _open("vhd, information only", "vhd", OK, version=2, get_info_only=True),
    _open("vhd, read-only", "vhd", OK, version=2, read_only=True),
    _open(
        "vhd, type and vendor", "vhd", OK, version=2, device_id=VHD, vendor_id=MICROSOFT
    ),
    _open("iso, version 1, read", "iso", OK, access_mask=MASK_READ, rw_depth=0),
    _open(
        "iso, type and vendor",
        "iso",
        OK,
        access_mask=MASK_READ,
        rw_depth=0,
        device_id=ISO,
        vendor_id=MICROSOFT,
    ),
    _open("file missing", "missing.vhd", FILE_NOT_FOUND, version=2),
    _open("directory missing", "no/such/directory.vhd", PATH_NOT_FOUND, version=2),
    _open("mask has an unknown bit", "vhd", INVALID_PARAMETER, access_mask=0x400000),
    _open("mask has a low bit", "vhd", INVALID_PARAMETER, access_mask=MASK_ALL | 1),
    _open(
        "version 2 with a mask",
        "vhd",
        INVALID_PARAMETER,
        version=2,
        access_mask=MASK_READ,
    ),
    _open(
        "version 3 with a mask",
        "vhd",
        INVALID_PARAMETER,
        version=3,
        access_mask=MASK_READ,
    ),
    _open(
        "flags have an unknown bit",
        "vhd",
        INVALID_PARAMETER,
        version=2,
        flags=0x80000000,
    ),
    _open(
        "custom chain, version 1",
        "vhd",
        INVALID_PARAMETER,
        access_mask=MASK_ALL,
        flags=0x10,
        source="API.md 1.4 (inferred)",
        windows=(),
    ),
    _open("no parents", "vhd", OK, version=2, flags=1),
    _open("cached I/O", "vhd", OK, version=2, flags=8),
    _open(
        "unknown vendor",
        "vhd",
        PROVIDER_NOT_FOUND,
        version=2,
        device_id=VHD,
        vendor_id=OTHER_VENDOR,
    ),
    _open("device id 5", "vhd", PROVIDER_NOT_FOUND, version=2, device_id=5),
    _open(
        "VHD Set",
        "vhd",
        NOT_SUPPORTED,
        version=2,
        device_id=VHDSET,
        vendor_id=MICROSOFT,
        source="DESIGN 5",
        windows=(),
        kind=Kind.WRONG_TYPE,
    ),
    _open("no known content", "no known content", PROVIDER_NOT_FOUND, version=2),
    _open(
        "two formats in one",
        "iso inside vhd",
        PROVIDER_NOT_FOUND,
        version=2,
        source="FORMATS.md 0",
        windows=(OK,),
    ),
    _open(
        "two formats, one named",
        "iso inside vhd",
        OK,
        version=2,
        device_id=VHD,
        vendor_id=MICROSOFT,
        source="FORMATS.md 0",
    ),
    _open(
        "iso, version 2",
        "iso",
        INVALID_PARAMETER,
        version=2,
        source="DESIGN 4",
        kind=Kind.WRONG_TYPE,
    ),
    _open(
        "iso, asked to write",
        "iso",
        INVALID_PARAMETER,
        ACCESS_DENIED,
        access_mask=ATTACH_RW,
        source="API.md 1.4",
        kind=Kind.WRONG_TYPE,
    ),
    _open(
        "iso, all access",
        "iso",
        INVALID_PARAMETER,
        ACCESS_DENIED,
        access_mask=MASK_ALL,
        source="API.md 1.4",
        kind=Kind.WRONG_TYPE,
    ),
    _open(
        "iso, no parents",
        "iso",
        INVALID_PARAMETER,
        access_mask=MASK_READ,
        rw_depth=0,
        flags=1,
        source="API.md 1.4",
        kind=Kind.WRONG_TYPE,
    ),
    _open(
        "iso of odd length",
        "iso of odd length",
        FILE_CORRUPT,
        access_mask=MASK_READ,
        rw_depth=0,
    ),
    _open(
        "iso of 16 sectors",
        "iso of 16 sectors",
        FILE_CORRUPT,
        access_mask=MASK_READ,
        rw_depth=0,
        device_id=ISO,
        vendor_id=MICROSOFT,
    ),
    _open(
        "iso without descriptors",
        "iso without descriptors",
        FILE_CORRUPT,
        access_mask=MASK_READ,
        rw_depth=0,
        device_id=ISO,
        vendor_id=MICROSOFT,
    ),
    _open(
        "vhd, checksum wrong",
        "vhd, checksum wrong",
        FOOTER_CHECKSUM,
        FILE_CORRUPT,
        version=2,
        source="API.md 2.8",
    ),
    _open(
        "vhd, version 2 of the format",
        "vhd, version 2",
        UNSUPPORTED_VERSION,
        FILE_CORRUPT,
        version=2,
        source="API.md 2.8",
    ),
    _open(
        "vhd, type 7",
        "vhd, type 7",
        FORMAT_UNKNOWN,
        FOOTER_CORRUPT,
        FILE_CORRUPT,
        version=2,
        source="FORMATS.md 7",
    ),
    _open(
        "vhd, size 0",
        "vhd, size 0",
        INVALID_SIZE,
        FOOTER_CORRUPT,
        FILE_CORRUPT,
        version=2,
        source="FORMATS.md 7",
    ),
    _open(
        "vhd, size odd",
        "vhd, size odd",
        INVALID_SIZE,
        FOOTER_CORRUPT,
        FILE_CORRUPT,
        version=2,
        source="FORMATS.md 7",
    ),
    _open(
        "vhd, size past file",
        "vhd, size past file",
        INVALID_FILE_SIZE,
        FILE_CORRUPT,
        version=2,
        source="FORMATS.md 1.10",
    ),
    _open(
        "named VHD, no footer",
        "no image",
        FOOTER_MISSING,
        FILE_CORRUPT,
        version=2,
        device_id=VHD,
        vendor_id=MICROSOFT,
        source="FORMATS.md 1.10",
    ),
    _open(
        "named VHD, empty file",
        "empty file",
        FOOTER_MISSING,
        FILE_CORRUPT,
        version=2,
        device_id=VHD,
        vendor_id=MICROSOFT,
        source="FORMATS.md 12.1",
    ),
]


def _attach(
    name: str,
    handle: Callable[[Context], api.Handle],
    *expect: int,
    source: str = "API.md 2.2",
    windows: tuple[int, ...] | None = None,
    kind: Kind | None = None,
    **arguments: object,
) -> Row:
    return Row(
        function="AttachVirtualDisk",
        name=name,
        call=lambda c: c.attach(handle(c), **arguments),
        expect=expect,
        source=source,
        windows=windows,
        attaches=True,
        told_kind=kind,
    )


def _vhd_v1(mask: int) -> Callable[[Context], api.Handle]:
    return lambda c: c.open("vhd", access_mask=mask)


def _again(c: Context) -> api.Handle:
    c.attached_vhd()
    return c.vhd()


def _iso_again(c: Context) -> api.Handle:
    c.attached_iso()
    return c.iso()


def _same_handle(c: Context) -> api.Handle:
    return c.attached_vhd()


ATTACH = [
    _attach("vhd", Context.vhd, OK, flags=NO_LETTER),
    _attach("vhd, no parameters", Context.vhd, OK, flags=NO_LETTER, version=None),
    _attach("vhd, read-only", Context.vhd, OK, flags=READ_ONLY | NO_LETTER),
    _attach("vhd, permanent", Context.vhd, OK, flags=PERMANENT | NO_LETTER),
    _attach(
        "vhd, no security descriptor", Context.vhd, OK, flags=NO_LETTER | NO_SECURITY
    ),
    _attach("vhd, no encryption policy", Context.vhd, OK, flags=NO_LETTER | BYPASS),
    _attach("vhd, no local host", Context.vhd, OK, flags=NO_LOCAL_HOST),
    _attach(
        "vhd, everyone",
        Context.vhd,
        OK,
        flags=NO_LETTER,
        security_descriptor="D:P(A;;GA;;;WD)",
    ),
    _attach("iso", Context.iso, OK, flags=READ_ONLY | NO_LETTER),
    _attach(
        "iso without READ_ONLY",
        Context.iso,
        INVALID_PARAMETER,
        ACCESS_DENIED,
        flags=0,
        kind=Kind.WRONG_TYPE,
    ),
    _attach(
        "iso, no local host",
        Context.iso,
        INVALID_PARAMETER,
        NOT_SUPPORTED,
        flags=READ_ONLY | NO_LOCAL_HOST,
        kind=Kind.WRONG_TYPE,
    ),
    _attach("unknown flag", Context.vhd, INVALID_PARAMETER, flags=0x40000000),
    _attach(
        "range without version 2",
        Context.vhd,
        INVALID_PARAMETER,
        flags=NO_LETTER | RESTRICTED,
        source="API.md 1.3",
    ),
    _attach(
        "range not on sectors",
        Context.vhd,
        INVALID_PARAMETER,
        flags=NO_LETTER | RESTRICTED,
        version=2,
        restricted_offset=1,
        restricted_length=512,
        source="DESIGN 5.7",
    ),
    _attach(
        "range past the end",
        Context.vhd,
        INVALID_PARAMETER,
        flags=NO_LETTER | RESTRICTED,
        version=2,
        restricted_offset=4 << 20,
        restricted_length=512,
        source="DESIGN 5.7",
    ),
    _attach(
        "range wraps around",
        Context.vhd,
        INVALID_PARAMETER,
        flags=NO_LETTER | RESTRICTED,
        version=2,
        restricted_offset=512,
        restricted_length=2**64 - 512,
        source="DESIGN 5.7",
    ),
    _attach(
        "range empty",
        Context.vhd,
        INVALID_PARAMETER,
        flags=NO_LETTER | RESTRICTED,
        version=2,
        source="DESIGN 5.7",
    ),
    _attach(
        "range",
        Context.vhd,
        OK,
        flags=NO_LETTER | RESTRICTED,
        version=2,
        restricted_offset=1 << 20,
        restricted_length=1 << 20,
        source="DESIGN 5.7",
    ),
    _attach(
        "range without its flag",
        Context.vhd,
        INVALID_PARAMETER,
        flags=NO_LETTER,
        version=2,
        restricted_offset=512,
        restricted_length=512,
        source="API.md 1.3 (inferred)",
        windows=(),
    ),
    _attach(
        "single partition, none there",
        Context.vhd,
        NOT_FOUND,
        flags=NO_LETTER | SINGLE_PARTITION,
        source="DESIGN 5.7 (inferred)",
        windows=(),
    ),
    _attach(
        "volume without NON_PNP",
        Context.vhd,
        INVALID_PARAMETER,
        flags=REGISTER_VOLUME,
        source="API.md 1.4 (inferred)",
        windows=(),
    ),
    _attach(
        "at boot",
        Context.vhd,
        NOT_SUPPORTED,
        flags=AT_BOOT | PERMANENT,
        source="DESIGN 5.7",
        windows=(),
        kind=Kind.MISUSE,
    ),
    _attach(
        "read-only handle",
        lambda c: c.vhd(read_only=True),
        ACCESS_DENIED,
        flags=NO_LETTER,
    ),
    _attach(
        "read-only handle, READ_ONLY",
        lambda c: c.vhd(read_only=True),
        OK,
        flags=READ_ONLY | NO_LETTER,
    ),
    _attach(
        "information-only handle",
        lambda c: c.vhd(get_info_only=True),
        ACCESS_DENIED,
        flags=READ_ONLY | NO_LETTER,
    ),
    _attach(
        "mask ATTACH_RO, writing", _vhd_v1(ATTACH_RO), ACCESS_DENIED, flags=NO_LETTER
    ),
    _attach(
        "mask GET_INFO", _vhd_v1(GET_INFO), ACCESS_DENIED, flags=READ_ONLY | NO_LETTER
    ),
    _attach("mask ATTACH_RW", _vhd_v1(ATTACH_RW | DETACH), OK, flags=NO_LETTER),
    _attach("attached already", _again, SHARING_VIOLATION, 183, flags=NO_LETTER),
    _attach(
        "attached already, reading",
        _again,
        SHARING_VIOLATION,
        183,
        flags=READ_ONLY | NO_LETTER,
    ),
    _attach(
        "attached by this handle",
        _same_handle,
        SHARING_VIOLATION,
        183,
        22,
        flags=NO_LETTER,
    ),
    _attach(
        "iso attached already",
        _iso_again,
        SHARING_VIOLATION,
        flags=READ_ONLY | NO_LETTER,
        source="DESIGN 5.3",
        windows=(OK,),
    ),
    _attach(
        "descriptor of two kinds",
        Context.vhd,
        INVALID_PARAMETER,
        flags=NO_LETTER | NO_SECURITY,
        security_descriptor="D:P(A;;GA;;;WD)",
        source="API.md 1.4 (inferred)",
        windows=(),
    ),
    _attach(
        "unmappable descriptor",
        Context.vhd,
        NOT_SUPPORTED,
        flags=NO_LETTER,
        security_descriptor="D:P(A;;GA;;;AU)",
        source="DESIGN 5.6",
        windows=(OK,),
        kind=Kind.MISUSE,
    ),
    _attach(
        "malformed SDDL",
        Context.vhd,
        INVALID_PARAMETER,
        1336,
        1337,
        1338,
        flags=NO_LETTER,
        security_descriptor="D:(",
        source="sddl.h",
    ),
]


def make_row(
    function: str,
    name: str,
    call: Callable[[Context], object],
    *expect: int,
    source: str,
    windows: tuple[int, ...] | None = None,
    attaches: bool = False,
    needs_root: bool = False,
    kind: Kind | None = None,
) -> Row:
    return Row(
        function=function,
        name=name,
        call=call,
        expect=expect,
        source=source,
        windows=windows,
        attaches=attaches,
        needs_root=needs_root,
        told_kind=kind,
    )


def _second_opener(c: Context) -> None:
    c.attached_vhd()
    api.DetachVirtualDisk(c.open("vhd", version=None, access_mask=DETACH))


def _twice(c: Context) -> None:
    handle = c.attached_vhd()
    api.DetachVirtualDisk(handle)
    api.DetachVirtualDisk(handle)


def _path_after_detach(c: Context) -> object:
    handle = c.attached_vhd()
    api.DetachVirtualDisk(handle)
    return api.GetVirtualDiskPhysicalPath(handle)


def _path_by_second(c: Context) -> object:
    c.attached_vhd()
    return api.GetVirtualDiskPhysicalPath(c.vhd(get_info_only=True))


OTHERS = [
    make_row(
        "DetachVirtualDisk",
        "attached",
        lambda c: api.DetachVirtualDisk(c.attached_vhd()),
        OK,
        source="API.md 2.3",
        attaches=True,
    ),
    make_row(
        "DetachVirtualDisk",
        "by a second opener",
        _second_opener,
        OK,
        source="API.md 2.3",
        attaches=True,
    ),
    make_row(
        "DetachVirtualDisk",
        "twice",
        _twice,
        NOT_READY,
        NOT_FOUND,
        source="API.md 2.3",
        attaches=True,
    ),
    make_row(
        "DetachVirtualDisk",
        "not attached",
        lambda c: api.DetachVirtualDisk(c.vhd()),
        NOT_READY,
        NOT_FOUND,
        source="API.md 2.3",
    ),
    make_row(
        "DetachVirtualDisk",
        "flags",
        lambda c: api.DetachVirtualDisk(c.vhd(), flags=1),
        INVALID_PARAMETER,
        source="API.md 2.3",
    ),
    make_row(
        "DetachVirtualDisk",
        "without DETACH",
        lambda c: api.DetachVirtualDisk(c.open("vhd", access_mask=GET_INFO)),
        ACCESS_DENIED,
        source="API.md 2.3",
    ),
    make_row(
        "GetVirtualDiskPhysicalPath",
        "attached",
        lambda c: api.GetVirtualDiskPhysicalPath(c.attached_vhd()),
        OK,
        source="API.md 2.4",
        attaches=True,
    ),
    make_row(
        "GetVirtualDiskPhysicalPath",
        "by a second opener",
        _path_by_second,
        OK,
        source="API.md 2.4",
        attaches=True,
    ),
    make_row(
        "GetVirtualDiskPhysicalPath",
        "not attached",
        lambda c: api.GetVirtualDiskPhysicalPath(c.vhd()),
        DEV_NOT_EXIST,
        NOT_READY,
        NOT_FOUND,
        source="API.md 2.4",
    ),
    make_row(
        "GetVirtualDiskPhysicalPath",
        "after detach",
        _path_after_detach,
        DEV_NOT_EXIST,
        NOT_READY,
        NOT_FOUND,
        source="API.md 2.4",
        attaches=True,
    ),
    make_row(
        "GetVirtualDiskPhysicalPath",
        "no local host",
        lambda c: api.GetVirtualDiskPhysicalPath(c.attached_vhd(NO_LOCAL_HOST)),
        DEV_NOT_EXIST,
        NOT_READY,
        NOT_FOUND,
        source="API.md 2.4",
        attaches=True,
    ),
    make_row(
        "GetVirtualDiskPhysicalPath",
        "without GET_INFO",
        lambda c: api.GetVirtualDiskPhysicalPath(c.open("vhd", access_mask=DETACH)),
        ACCESS_DENIED,
        source="API.md 2.4",
    ),
    make_row(
        "GetAllAttachedVirtualDiskPhysicalPaths",
        "any time",
        lambda _: api.GetAllAttachedVirtualDiskPhysicalPaths(),
        OK,
        source="API.md 2.7",
    ),
    make_row(
        "GetVirtualDiskInformation",
        "class 0",
        lambda c: api.GetVirtualDiskInformation(c.vhd(), 0),
        INVALID_PARAMETER,
        source="API.md 1.4",
    ),
    make_row(
        "GetVirtualDiskInformation",
        "without GET_INFO",
        lambda c: api.GetVirtualDiskInformation(c.open("vhd", access_mask=DETACH), 1),
        ACCESS_DENIED,
        source="API.md 2.6",
    ),
    make_row(
        "AddVirtualDiskParent",
        "without CUSTOM_DIFF_CHAIN",
        lambda c: api.AddVirtualDiskParent(c.vhd(), c.path("vhd")),
        INVALID_PARAMETER,
        source="API.md 1.4 (inferred)",
        windows=(),
    ),
    make_row(
        "RawSCSIVirtualDisk",
        "TEST UNIT READY",
        lambda c: api.RawSCSIVirtualDisk(c.attached_vhd(NO_LOCAL_HOST), bytes(6)),
        OK,
        source="API.md 2.7",
        windows=(),
        attaches=True,
    ),
    make_row(
        "RawSCSIVirtualDisk",
        "unknown command",
        lambda c: api.RawSCSIVirtualDisk(c.attached_vhd(NO_LOCAL_HOST), b"\xff" * 6),
        OK,
        source="API.md 2.7: the call succeeds, the command does not",
        windows=(),
        attaches=True,
    ),
    make_row(
        "RawSCSIVirtualDisk",
        "not attached",
        lambda c: api.RawSCSIVirtualDisk(c.vhd(), bytes(6)),
        NOT_READY,
        source="API.md 2.7 (inferred)",
        windows=(),
    ),
    make_row(
        "RawSCSIVirtualDisk",
        "flags",
        lambda c: api.RawSCSIVirtualDisk(
            c.attached_vhd(NO_LOCAL_HOST), bytes(6), flags=1
        ),
        INVALID_PARAMETER,
        source="API.md 1.4",
        windows=(),
        attaches=True,
    ),
]

# The outcome of every class for a fixed VHD and an ISO, detached.
_CLASSES: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {
    1: ((OK,), (OK,)),
    2: ((OK,), (NOT_SUPPORTED,)),
    3: ((INVALID_TYPE,), (INVALID_TYPE,)),
    4: ((INVALID_TYPE,), (INVALID_TYPE,)),
    5: ((INVALID_TYPE,), (INVALID_TYPE,)),
    6: ((OK,), (OK,)),
    7: ((OK,), (NOT_SUPPORTED,)),
    8: ((OK,), (OK,)),
    9: ((OK,), (OK,)),
    10: ((OK,), (OK,)),
    11: ((NO_MINIMUM_SIZE,), (NO_MINIMUM_SIZE,)),
    12: ((OK,), (OK,)),
    13: ((OK,), (OK,)),
    14: ((NOT_SUPPORTED,), (NOT_SUPPORTED,)),
    15: ((NOT_SUPPORTED,), (NOT_SUPPORTED,)),
}
# What Windows answers for these is not documented: any of them is recorded.
_UNDOCUMENTED = (OK, 1, NOT_SUPPORTED, INVALID_PARAMETER, INVALID_TYPE, 0xC03A001C)


def _information(kind: str, number: int, expect: tuple[int, ...]) -> Row:
    opener = Context.vhd if kind == "vhd" else Context.iso
    sure = kind == "vhd" and number in (1, 2, 3, 4, 5, 6, 7, 9, 13)
    return Row(
        function="GetVirtualDiskInformation",
        name=f"{kind}, class {number}",
        call=lambda c: api.GetVirtualDiskInformation(opener(c), number),
        expect=expect,
        source="API.md 2.6",
        windows=None if sure else expect + _UNDOCUMENTED,
        told_kind=Kind.WRONG_TYPE if expect == (NOT_SUPPORTED,) else None,
    )


INFORMATION = [
    _information(kind, number, pair[column])
    for number, pair in _CLASSES.items()
    for column, kind in enumerate(("vhd", "iso"))
]

ROWS = OPEN + ATTACH + OTHERS + INFORMATION
