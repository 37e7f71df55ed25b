"""The Windows side: built for Windows and run there, under Wine.

The tests proper are in tests/wine/guest and run inside the CPython for
Windows; here their results are read, their completeness is checked, and the
sources are compiled for the Windows targets that cannot be run.
"""

from __future__ import annotations

import ast
import json
import pathlib
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import Any

import pytest
import wine_bench
from support import LINUX, ROOT

pytestmark = pytest.mark.tree
if not LINUX:
    pytest.skip("cross-builds on Linux", allow_module_level=True)

GUEST = ROOT / "tests/wine/guest"
# Whose virtdisk.dll each folder of guest tests runs against.
FOLDERS = {"recorded": "n", "stub": "b"}
GUEST_FILES = [
    f"{folder}/{file.name}"
    for folder in FOLDERS
    for file in sorted((GUEST / folder).glob("test_*.py"))
]

# The structures that each function is given or answers with.
STRUCTURES: dict[str, tuple[str, ...]] = {
    "OpenVirtualDisk": (
        "VIRTUAL_STORAGE_TYPE",
        "OPEN_VIRTUAL_DISK_PARAMETERS",
    ),
    "AttachVirtualDisk": ("ATTACH_VIRTUAL_DISK_PARAMETERS",),
    "DetachVirtualDisk": (),
    "GetVirtualDiskPhysicalPath": (),
    "GetAllAttachedVirtualDiskPhysicalPaths": (),
    "GetVirtualDiskInformation": ("GET_VIRTUAL_DISK_INFO",),
    "GetVirtualDiskOperationProgress": ("VIRTUAL_DISK_PROGRESS",),
    "AddVirtualDiskParent": (),
    "RawSCSIVirtualDisk": (
        "RAW_SCSI_VIRTUAL_DISK_PARAMETERS",
        "RAW_SCSI_VIRTUAL_DISK_RESPONSE",
    ),
}
# Functions that the module offers as a method.
METHODS = {("Overlapped", "progress"): "GetVirtualDiskOperationProgress"}
# "Must be zero" (API.md 1.3): there is no argument for it.
RESERVED = {("ATTACH_VIRTUAL_DISK_PARAMETERS", "Version1.Reserved")}

ZIG_TARGETS = [
    "x86-windows-gnu",
    "x86_64-windows-gnu",
    "aarch64-windows-gnu",
    "x86-windows-msvc",
    "x86_64-windows-msvc",
]
COMPILED = [
    *(f"src/{source.name}" for source in wine_bench.sources()),
    "tests/abi/virtdisk_abi.c",
]


@pytest.fixture(scope="module")
def cache() -> Iterator[pathlib.Path]:
    """The cache, for this session alone."""
    directory = wine_bench.cache_directory()
    with wine_bench.locked(directory):
        yield directory


@pytest.fixture(scope="module")
def bench(
    cache: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> wine_bench.Bench:
    """Everything built."""
    bench = wine_bench.Bench(cache, tmp_path_factory.mktemp("wine"))
    bench.build()
    return bench


Results = dict[str, list[ET.Element]]


@pytest.fixture(scope="module")
def results(bench: wine_bench.Bench) -> Results:
    """The results of the guest's tests, by file ("recorded/test_open")."""
    found: Results = {}
    for folder, dll in FOLDERS.items():
        done = bench.pytest(folder, dll)
        report = bench.work / f"{folder}.xml"
        ended = report.exists() and report.stat().st_size > 0
        if done.returncode not in {0, 1} or not ended:
            pytest.fail(f"pytest under Wine:\n{done.stdout}{done.stderr}")
        for case in ET.parse(report).iter("testcase"):
            module = case.get("classname", "").rpartition(".")[2]
            found.setdefault(f"{folder}/{module}", []).append(case)
    return found


@pytest.mark.parametrize("file", GUEST_FILES)
def test_guest(results: Results, file: str) -> None:
    cases = results.get(file.removesuffix(".py"), [])
    assert cases, f"no test of {file} ran"
    wrong = []
    for case in cases:
        for child in case:
            if child.tag in {"failure", "error", "skipped"}:
                text = child.text or child.get("message")
                wrong.append(f"{child.tag} {case.get('name')}\n{text}")
    assert not wrong, "\n".join(wrong)


# --- completeness ------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(bench: wine_bench.Bench, results: Results) -> dict[str, Any]:
    """The functions and members whose bits the guest has compared."""
    text = (bench.work / "compared.json").read_text("ascii")
    return dict(json.loads(text))


def bound_functions() -> set[str]:
    """The functions of virtdisk.h that the extension module offers."""
    path = ROOT / "virtdisk/_virtdisk.pyi"
    found = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            for member in node.body:
                name = str(getattr(member, "name", ""))
                if (node.name, name) in METHODS:
                    found.add(METHODS[node.name, name])
    return found


def test_every_bound_function_is_in_the_table() -> None:
    assert bound_functions() == STRUCTURES.keys()


def test_every_bound_function_is_compared(compared: dict[str, Any]) -> None:
    assert bound_functions() - set(compared["functions"]) == set()


def leaves(fields: dict[str, list[int]]) -> set[str]:
    """The members that have no members of their own."""
    inner = {name.rpartition(".")[0] for name in fields}
    return fields.keys() - inner


def test_every_member_had_a_value(compared: dict[str, Any]) -> None:
    text = (ROOT / "tests/abi/vhd_abi.json").read_text("ascii")
    structures = json.loads(text)["structs"]
    wanted = {
        (structure, member)
        for function in bound_functions()
        for structure in STRUCTURES[function]
        for member in leaves(structures[structure]["fields"])
    }
    had = {
        (structure, member)
        for structure, members in compared["members"].items()
        for member in members
    }
    assert wanted - had == RESERVED


# --- the binary, and the targets that cannot be run --------------------------


def test_imports_only_what_every_supported_windows_has(
    bench: wine_bench.Bench,
) -> None:
    assert bench.imported_libraries() == {
        "advapi32.dll",
        "kernel32.dll",
        "msvcrt.dll",
        "python3.dll",
        "virtdisk.dll",
    }


@pytest.fixture(scope="module")
def zig(
    cache: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> wine_bench.Zig:
    """The second compiler."""
    return wine_bench.Zig(cache, tmp_path_factory.mktemp("zig"))


@pytest.mark.parametrize("source", COMPILED)
@pytest.mark.parametrize("target", ZIG_TARGETS)
def test_compiles_without_a_warning(
    zig: wine_bench.Zig, target: str, source: str
) -> None:
    zig.compile(ROOT / source, target)


FAULTS = {
    "short cut(long wide); short cut(long wide) { return wide; }": (
        "implicit conversion"
    ),
    '_Static_assert(sizeof(OPEN_VIRTUAL_DISK_PARAMETERS) == 40, "");': (
        "static assertion failed"
    ),
    "int old_style();": "without a prototype",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("target", ZIG_TARGETS)
def test_a_fault_would_be_seen(
    zig: wine_bench.Zig, tmp_path: pathlib.Path, target: str, fault: str
) -> None:
    broken = tmp_path / "broken.c"
    broken.write_text(f"#include <windows.h>\n#include <virtdisk.h>\n{fault}\n")
    with pytest.raises(RuntimeError, match=FAULTS[fault]):
        zig.compile(broken, target)
