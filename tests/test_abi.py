"""The headers in src/engine/include have the ABI of the Windows SDK.

tests/abi/virtdisk_abi.c asserts it, and compiles for Linux (64-bit, 32-bit)
and with mingw-w64, our virtdisk.h in front of mingw's.  tests/test_wine.py
compiles it for the other Windows targets, tools/check_abi.py with the SDK.

Since a list of assertions can lose a row unnoticed, it is compared with a
second source that knows nothing of it, the names and 64-bit numbers of
Microsoft's win32metadata (tests/abi/vhd_abi.json), and with the headers; and
since an assertion can be vacuous, headers with one fault each must fail.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import uuid
from typing import Any

import pytest
from support import ROOT, missing, require_tool

INCLUDE = ROOT / "src/engine/include"
HEADERS = ("sddl.h", "virtdisk.h", "windows.h", "winerror.h", "winerror_vhd.h")
SOURCE = ROOT / "tests/abi/virtdisk_abi.c"
METADATA: dict[str, Any] = json.loads((ROOT / "tests/abi/vhd_abi.json").read_text())

pytestmark = [
    pytest.mark.skipif(
        sys.platform == "win32", reason="on Windows the SDK has these headers"
    ),
    pytest.mark.skipif(not INCLUDE.is_dir(), reason="needs the source tree"),
]

# Our headers that are for Windows too; the others would hide the compiler's.
WINDOWS_HEADERS = ("virtdisk.h", "winerror_vhd.h")
WARNINGS = (
    *("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow"),
    *("-Wstrict-prototypes", "-Werror"),
)
CXX_WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror")


@dataclasses.dataclass(frozen=True)
class Target:
    """A compiler and what it compiles for."""

    compiler: str
    package: str
    flags: tuple[str, ...] = ("-std=c11",)
    warnings: tuple[str, ...] = WARNINGS
    windows: bool = False

    def include(self, directory: pathlib.Path) -> pathlib.Path:
        """A copy of those of our headers that this target uses."""
        include = directory / "include"
        include.mkdir()
        for header in WINDOWS_HEADERS if self.windows else HEADERS:
            shutil.copy(INCLUDE / header, include)
        return include

    def compile(
        self, source: pathlib.Path, include: pathlib.Path, *flags: str
    ) -> subprocess.CompletedProcess[str]:
        """Compiles one file to nothing."""
        program = require_tool(self.compiler, package=self.package)
        return subprocess.run(
            [
                *(program, *self.flags, *self.warnings, *flags),
                *("-fmax-errors=0", "-I", include, "-fsyntax-only", source),
            ],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"LC_ALL": "C"},
        )

    def faults(self, source: pathlib.Path, include: pathlib.Path) -> list[str]:
        """What the compiler complains about."""
        done = self.compile(source, include)
        faults = [line for line in done.stderr.splitlines() if ": error:" in line]
        assert bool(faults) == (done.returncode != 0), done.stderr
        return faults


LINUX_64 = Target("gcc", "gcc")
LINUX_32 = Target("gcc", "gcc-multilib", ("-std=c11", "-m32"))
LINUX_CXX = Target("g++", "g++", ("-x", "c++", "-std=c++17"), warnings=CXX_WARNINGS)
WINDOWS_64 = Target(
    "x86_64-w64-mingw32-gcc", "gcc-mingw-w64-x86-64-win32", windows=True
)
C_TARGETS = {"linux": LINUX_64, "linux-32": LINUX_32, "windows": WINDOWS_64}


def require_target(target: Target, directory: pathlib.Path) -> None:
    """Skips where the compiler is missing or knows no 32-bit code."""
    require_tool(target.compiler, package=target.package)
    if target is LINUX_32:
        if platform.machine() not in {"x86_64", "AMD64"}:
            pytest.skip("32-bit Linux is checked on x86-64")
        probe = directory / "probe.c"
        probe.write_text("#include <stdint.h>\n")
        if target.compile(probe, directory).returncode != 0:
            missing(f"no headers for gcc -m32 (Debian package {target.package})")


# --- the assertions ----------------------------------------------------------


@pytest.mark.parametrize("name", C_TARGETS)
def test_every_assertion_holds(name: str, tmp_path: pathlib.Path) -> None:
    target = C_TARGETS[name]
    require_target(target, tmp_path)
    assert target.faults(SOURCE, target.include(tmp_path)) == []


@dataclasses.dataclass(frozen=True)
class Fault:
    """What goes wrong in a header, and the assertion that must notice."""

    header: str
    right: str
    wrong: str
    assertion: str
    target: str = "linux"


FAULTS = {
    "member moved": Fault(
        "virtdisk.h",
        "BOOL GetInfoOnly; BOOL ReadOnly; GUID ResiliencyGuid; GUID",
        "BOOL ReadOnly; BOOL GetInfoOnly; GUID ResiliencyGuid; GUID",
        "offset of OPEN_VIRTUAL_DISK_PARAMETERS.Version3.ReadOnly",
    ),
    "member missing": Fault(
        "virtdisk.h",
        "ULONG PhysicalSectorSizeInBytes;",
        "",
        "offset of CREATE_VIRTUAL_DISK_PARAMETERS.Version4.ParentPath",
    ),
    "member of another type": Fault(
        "virtdisk.h",
        "BOOL IsLoaded;",
        "ULONG IsLoaded;",
        "type of GET_VIRTUAL_DISK_INFO.IsLoaded",
    ),
    "member too long": Fault(
        "virtdisk.h",
        "UCHAR DataIn;",
        "ULONG DataIn;",
        "size of RAW_SCSI_VIRTUAL_DISK_PARAMETERS.Version1.DataIn",
    ),
    "structure too long": Fault(
        "virtdisk.h",
        "} FORK_VIRTUAL_DISK_PARAMETERS,",
        "ULONG64 More; } FORK_VIRTUAL_DISK_PARAMETERS,",
        "sizeof FORK_VIRTUAL_DISK_PARAMETERS",
        "windows",
    ),
    "flag of another value": Fault(
        "virtdisk.h",
        "FLAG_AT_BOOT = 0x00000400",
        "FLAG_AT_BOOT = 0x00000800",
        "ATTACH_VIRTUAL_DISK_FLAG_AT_BOOT",
    ),
    "alias of another flag": Fault(
        "virtdisk.h",
        "_PARENTS GET_STORAGE_DEPENDENCY_FLAG_HOST_VOLUMES",
        "_PARENTS GET_STORAGE_DEPENDENCY_FLAG_NONE",
        "GET_STORAGE_DEPENDENCY_FLAG_PARENTS",
        "windows",
    ),
    "arguments in another order": Fault(
        "virtdisk.h",
        "const PMODIFY_VHDSET_PARAMETERS Parameters, _In_ MODIFY_VHDSET_FLAG Flags",
        "MODIFY_VHDSET_FLAG Flags, _In_ const PMODIFY_VHDSET_PARAMETERS Parameters",
        "ModifyVhdSet",
    ),
    # To gcc an enumeration is an unsigned int, as ULONG is on Linux alone.
    "ULONG for flags": Fault(
        "virtdisk.h",
        "_In_ DETACH_VIRTUAL_DISK_FLAG Flags",
        "_In_ ULONG Flags",
        "DetachVirtualDisk",
        "windows",
    ),
    "flags of another function": Fault(
        "virtdisk.h",
        "_In_ COMPACT_VIRTUAL_DISK_FLAG Flags,",
        "_In_ OPEN_VIRTUAL_DISK_FLAG Flags,",
        "CompactVirtualDisk",
    ),
    "pointer to something writable": Fault(
        "virtdisk.h",
        "_In_ const FORK_VIRTUAL_DISK_PARAMETERS *Parameters",
        "_In_ FORK_VIRTUAL_DISK_PARAMETERS *Parameters",
        "ForkVirtualDisk",
        "windows",
    ),
    "wide characters of Linux": Fault(
        "windows.h", "typedef char16_t WCHAR;", "typedef uint32_t WCHAR;", "WCHAR"
    ),
    "DWORD as long as long": Fault(
        "windows.h",
        "typedef uint32_t DWORD;",
        "typedef unsigned long DWORD;",
        "DWORD",
    ),
    "error code of another value": Fault(
        "winerror_vhd.h",
        "_NOT_FOUND 0xC03A0014U",
        "_NOT_FOUND 0xC03A0015U",
        "ERROR_VIRTDISK_PROVIDER_NOT_FOUND",
        "windows",
    ),
    "Win32 code of another value": Fault(
        "winerror.h",
        "PRIVILEGE_NOT_HELD 1314",
        "PRIVILEGE_NOT_HELD 1341",
        "ERROR_PRIVILEGE_NOT_HELD",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_a_header_is_found(name: str, tmp_path: pathlib.Path) -> None:
    fault = FAULTS[name]
    target = C_TARGETS[fault.target]
    require_target(target, tmp_path)
    include = target.include(tmp_path)
    path = include / fault.header
    # However the lines are broken.
    right = r"[\s\\]+".join(map(re.escape, fault.right.split()))
    text, count = re.subn(right, fault.wrong, path.read_text())
    assert count > 0
    path.write_text(text)
    failed = f'static assertion failed: "{fault.assertion}"'
    assert any(failed in line for line in target.faults(SOURCE, include))


def test_alignment_shows_in_32_bit_code_alone(tmp_path: pathlib.Path) -> None:
    # Why linux-32 is compiled at all: 64-bit code never misses DECLSPEC_ALIGN.
    require_target(LINUX_32, tmp_path)
    include = LINUX_64.include(tmp_path)
    path = include / "windows.h"
    path.write_text(path.read_text().replace("_Alignas(bytes)", ""))
    assert LINUX_64.faults(SOURCE, include) == []
    failed = "\n".join(LINUX_32.faults(SOURCE, include))
    shifted = set(re.findall(r'"offset of (\w+)\.', failed))
    assert shifted == {
        "ATTACH_VIRTUAL_DISK_PARAMETERS",
        "CREATE_VIRTUAL_DISK_PARAMETERS",
        "EXPAND_VIRTUAL_DISK_PARAMETERS",
        "GET_VIRTUAL_DISK_INFO",
        "RESIZE_VIRTUAL_DISK_PARAMETERS",
        "VIRTUAL_DISK_PROGRESS",
    }


# --- Microsoft's metadata ----------------------------------------------------

# What the metadata cannot say: it gives arrays without a length one element,
# or none, and so another size to what ends in one.
VARIABLE = {
    "STORAGE_DEPENDENCY_INFO": {"", "Version1Entries", "Version2Entries"},
    "GET_VIRTUAL_DISK_INFO": {
        "ParentLocation",
        "ParentLocation.ParentLocationBuffer",
        "ChangeTrackingState",
        "ChangeTrackingState.MostRecentId",
    },
}


def metadata_assertions() -> list[str]:
    """One C condition for each fact in the metadata."""
    facts = []
    for struct, layout in METADATA["structs"].items():
        variable = VARIABLE.get(struct, set())
        if "" not in variable:
            facts.append(f"sizeof({struct}) == {layout['size']}")
        for member, (offset, size) in layout["fields"].items():
            facts.append(f"offsetof({struct}, {member}) == {offset}")
            if member not in variable:
                facts.append(f"sizeof((({struct} *)0)->{member}) == {size}")
    for name, value in METADATA["constants"].items():
        facts.append(f"(DWORD)({name}) == {value}u")
    return facts


METADATA_TARGETS = {"linux": LINUX_64, "windows": WINDOWS_64, "c++": LINUX_CXX}


@pytest.mark.skipif(sys.maxsize < 2**32, reason="the metadata is of 64-bit Windows")
@pytest.mark.parametrize("name", METADATA_TARGETS)
def test_the_headers_agree_with_the_metadata(name: str, tmp_path: pathlib.Path) -> None:
    target = METADATA_TARGETS[name]
    require_target(target, tmp_path)
    check = "static_assert" if target is LINUX_CXX else "_Static_assert"
    facts = metadata_assertions()
    assert len(facts) > 500
    source = tmp_path / "metadata.c"
    source.write_text(
        "#include <stddef.h>\n#include <windows.h>\n#include <virtdisk.h>\n"
        + "".join(f'{check}({fact}, "{fact}");\n' for fact in facts)
    )
    include = target.include(tmp_path)
    assert target.faults(source, include) == []
    # And each of them can fail.
    source.write_text(source.read_text().replace(" == ", " != "))
    assert len(target.faults(source, include)) == len(facts)


# --- nothing is missing ------------------------------------------------------


@functools.cache
def rows(*words: str) -> dict[str, list[str]]:
    """The rows of SOURCE that start with one of these words: their columns.

    The key is what the row is about: the name of a constant, a function, a
    structure, or "STRUCT.member".
    """
    found: dict[str, list[str]] = {}
    struct = ""
    row = r"^#define STRUCT (\w+)$|^([A-Z0-9_]+)\((.*?)\);$"
    for match in re.finditer(row, SOURCE.read_text(), re.MULTILINE | re.DOTALL):
        struct = match[1] or struct
        word = match[2]
        if word not in words:
            continue
        columns = " ".join(match[3].split()).split(", ")
        key = columns[1 if word == "WIN32_FUNCTION" else 0]
        if word == "SIZE":
            key = struct
        elif word in {"MEMBER", "ARRAY"}:
            key = f"{struct}.{key}"
        assert key not in found, f"{key} stands twice in {SOURCE.name}"
        found[key] = columns
    return found


WIN32_STRUCTURES = {"GUID", "OVERLAPPED", "SECURITY_ATTRIBUTES"}


def test_structures_are_those_of_the_metadata() -> None:
    sizes = {
        name: int(columns[0])
        for name, columns in rows("SIZE").items()
        if name not in WIN32_STRUCTURES
    }
    assert sizes == {
        name: 8 if name == "STORAGE_DEPENDENCY_INFO" else layout["size"]
        for name, layout in METADATA["structs"].items()
    }


def test_members_are_those_of_the_metadata() -> None:
    ours = {
        name: int(columns[2])
        for name, columns in rows("MEMBER", "ARRAY").items()
        if name.partition(".")[0] not in WIN32_STRUCTURES
    }
    theirs = {}
    for struct, layout in METADATA["structs"].items():
        members = layout["fields"]
        for member, (offset, _) in members.items():
            inside = [other for other in members if other.startswith(f"{member}.")]
            # The metadata also has the parts of each VIRTUAL_STORAGE_TYPE, and
            # the structures without a name of their own as a whole.
            storage_type = {f"{member}.DeviceId", f"{member}.VendorId"} == set(inside)
            part = member.endswith((".DeviceId", ".VendorId"))
            if not part and (storage_type or not inside):
                theirs[f"{struct}.{member}"] = offset
    assert len(theirs) > 100
    assert ours == theirs


def test_constants_are_those_of_the_metadata() -> None:
    ours = {
        name: int(columns[1], 0) for name, columns in rows("VALUE", "MACRO").items()
    }
    assert ours == METADATA["constants"]


def test_functions_are_those_of_the_metadata() -> None:
    deprecated = {"SurfaceVirtualDisk", "UnsurfaceVirtualDisk"}
    ours = {
        name: len(columns) - 1
        for name, columns in rows("FUNCTION").items()
        if name not in deprecated
    }
    assert ours == {
        name: len(parameters) for name, parameters in METADATA["functions"].items()
    }


def preprocess(header: str, *flags: str) -> str:
    """A header of ours as the compiler sees it."""
    program = require_tool("gcc", package="gcc")
    done = subprocess.run(
        [program, "-std=c11", "-E", "-P", *flags, "-I", INCLUDE, "-"],
        input=f"#include <{header}>\n" if header else "",
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def macros(header: str, *, without: str = "") -> dict[str, str]:
    """The macros that a header defines, and their text."""
    define = re.compile(r"^#define (\w+)(?:\([^)]*\))? ?(.*)$", re.MULTILINE)
    found = dict(define.findall(preprocess(header, "-dM")))
    for name in dict(define.findall(preprocess(without, "-dM"))):
        del found[name]
    return found


def test_every_macro_of_virtdisk_h_has_its_row() -> None:
    guards = {"VIRT_DISK_API_DEF", "_INC_VIRTDISK"}
    text = SOURCE.read_text()
    names = set(macros("virtdisk.h", without="windows.h")) - guards
    assert len(names) > 30
    assert {name for name in names if not re.search(rf"\b{name}\b", text)} == set()


def test_every_error_code_has_its_row() -> None:
    codes = macros("winerror.h")
    for name in ("_WINERROR_", "WAIT_TIMEOUT", *macros("")):
        codes.pop(name, None)
    assert len(codes) > 140
    assert {name: int(text.rstrip("U"), 0) for name, text in codes.items()} == {
        name: int(columns[1], 0) for name, columns in rows("CODE").items()
    }


def test_every_enumerator_of_virtdisk_h_has_its_row() -> None:
    enums = re.findall(
        r"typedef enum _(\w+) \{(.*?)\} (\w+)",
        preprocess("virtdisk.h"),
        re.DOTALL,
    )
    assert all(tag == name for tag, _, name in enums)
    assert {name for _, _, name in enums} == set(rows("ENUM"))
    assert len(enums) == 36
    ours = {
        name: int(value, 0)
        for _, body, _ in enums
        for name, value in re.findall(r"(\w+) = (\w+)", body)
    }
    assert ours == {name: int(row[1], 0) for name, row in rows("VALUE").items()}


def test_every_function_of_virtdisk_h_has_its_row() -> None:
    before = preprocess("windows.h")
    declared = preprocess("virtdisk.h").replace(before, "")
    names = re.findall(r"^DWORD\s+(\w+)\(", declared, re.MULTILINE)
    assert sorted(names) == sorted(METADATA["functions"])


def test_everything_of_windows_h_has_its_row() -> None:
    text = (INCLUDE / "windows.h").read_text() + (INCLUDE / "sddl.h").read_text()
    functions = re.findall(r"WINAPI\s+(\w+)\(", text)
    assert sorted(functions) == sorted(rows("WIN32_FUNCTION"))
    names = re.findall(r"^typedef [^;{}]*?\b(\w+);", text, re.MULTILINE)
    names += re.findall(r"^\} (\w+)", text, re.MULTILINE)
    names += re.findall(r"\*(L?P[A-Z_]+)[,;]", text)
    names += re.findall(r"^#define ([A-Za-z]\w+)", text, re.MULTILINE)
    assert len(names) > 50
    tested = set(re.findall(r"\w+", SOURCE.read_text() + PROGRAM))
    # Not part of the ABI, and in use everywhere else.
    assert set(names) - tested == {"DECLSPEC_ALIGN"}


# --- the headers in use ------------------------------------------------------


@pytest.mark.parametrize("target", [LINUX_64, LINUX_CXX], ids=["c", "c++"])
@pytest.mark.parametrize("header", HEADERS)
def test_each_header_stands_alone_and_twice(
    header: str, target: Target, tmp_path: pathlib.Path
) -> None:
    require_target(target, tmp_path)
    source = tmp_path / "alone.c"
    include = f"#include <{header}>\n"
    source.write_text(f"{include}{include}extern int nothing;\n")
    assert target.faults(source, INCLUDE) == []


@pytest.mark.parametrize(
    "order",
    [("windows.h",), ("windows.h", "virtdisk.h"), ("virtdisk.h", "windows.h")],
    ids=" ".join,
)
def test_mingw_takes_our_virtdisk_h(
    order: tuple[str, ...], tmp_path: pathlib.Path
) -> None:
    require_target(WINDOWS_64, tmp_path)
    include = WINDOWS_64.include(tmp_path)
    source = tmp_path / "order.c"
    source.write_text(
        "".join(f"#include <{header}>\n" for header in order) + "DWORD end(HANDLE h);\n"
        "DWORD end(HANDLE h) { return CompleteForkVirtualDisk(h)"
        " ? ERROR_VHD_SHARED : ERROR_SUCCESS; }\n"
    )
    assert WINDOWS_64.faults(source, include) == []
    used = WINDOWS_64.compile(source, include, "-M").stdout.split()
    taken = [path for path in used if path.endswith("/virtdisk.h")]
    assert taken == [f"{include}/virtdisk.h"]


PROGRAM = """
#include <stdio.h>
#include <virtdisk.h>

const GUID *vendor_elsewhere(void);

static void
print(const GUID *guid)
{
    const unsigned char *byte = (const unsigned char *)guid;
    for (size_t i = 0; i < sizeof(*guid); i++) {
        printf("%02x", byte[i]);
    }
    printf("\\n");
}

int
main(void)
{
    OVERLAPPED overlapped = {.Internal = STATUS_PENDING};
    int was_complete = HasOverlappedIoCompleted(&overlapped);
    overlapped.Internal = 0;
    print(&VIRTUAL_STORAGE_TYPE_VENDOR_UNKNOWN);
    print(&VIRTUAL_STORAGE_TYPE_VENDOR_MICROSOFT);
    printf("%d %d %d %d %d\\n",
           IsEqualGUID(vendor_elsewhere(),
                       &VIRTUAL_STORAGE_TYPE_VENDOR_MICROSOFT),
           IsEqualGUID(vendor_elsewhere(),
                       &VIRTUAL_STORAGE_TYPE_VENDOR_UNKNOWN),
           was_complete, HasOverlappedIoCompleted(&overlapped),
           (LONG_PTR)INVALID_HANDLE_VALUE == -1);
    return 0;
}
"""

ELSEWHERE = """
#include <virtdisk.h>

const GUID *vendor_elsewhere(void);

const GUID *
vendor_elsewhere(void)
{
    return &VIRTUAL_STORAGE_TYPE_VENDOR_MICROSOFT;
}
"""


def test_vendors_in_several_files(tmp_path: pathlib.Path) -> None:
    gcc = require_tool("gcc", package="gcc")
    sources = {"main.c": PROGRAM, "elsewhere.c": ELSEWHERE}
    for name, text in sources.items():
        (tmp_path / name).write_text(text)
    program = tmp_path / "vendors"
    subprocess.run(
        [
            *(gcc, "-std=c11", *WARNINGS, "-I", INCLUDE, "-o", program),
            *(tmp_path / name for name in sources),
        ],
        check=True,
    )
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    microsoft = uuid.UUID("EC984AEC-A0F9-47E9-901F-71415A66345B")
    assert done.stdout.splitlines() == [
        bytes(16).hex(),
        microsoft.bytes_le.hex(),
        "1 0 0 1 1",
    ]
