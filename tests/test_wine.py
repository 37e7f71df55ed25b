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

import pytest
import wine_bench
from support import LINUX, ROOT
from wine_coverage import (
    ARMS,
    METADATA,
    PLACES,
    STRUCTURES,
    UNEXERCISED,
    Coverage,
    leaves,
    missing_names,
    place_of,
)

pytestmark = pytest.mark.tree
if not LINUX:
    pytest.skip("cross-builds on Linux", allow_module_level=True)

GUEST = ROOT / "tests/wine/guest"
# Each folder of guest tests runs against a virtdisk.dll of its own.
FOLDERS = ("recorded", "old", "stub")
GUEST_FILES = [
    f"{folder}/{file.name}"
    for folder in FOLDERS
    for file in sorted((GUEST / folder).glob("test_*.py"))
]

ZIG_TARGETS = [
    "x86-windows-gnu",
    "x86_64-windows-gnu",
    "aarch64-windows-gnu",
    "x86-windows-msvc",
    "x86_64-windows-msvc",
]
COMPILED = [*wine_bench.sources(), ROOT / "tests/abi/virtdisk_abi.c"]


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
    for folder in FOLDERS:
        done = bench.pytest(folder)
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
def coverage(bench: wine_bench.Bench, results: Results) -> Coverage:
    """What the calls exercised that the guest has compared."""
    text = (bench.work / "compared.jsonl").read_text("ascii")
    return Coverage(json.loads(line) for line in text.splitlines())


def bound_functions() -> set[str]:
    """The functions that the extension module offers."""
    path = ROOT / "virtdisk/_virtdisk.pyi"
    body = ast.parse(path.read_text("utf-8")).body
    return {node.name for node in body if isinstance(node, ast.FunctionDef)}


def test_every_function_of_virtdisk_h_is_bound() -> None:
    assert bound_functions() == METADATA["functions"].keys()


def test_every_name_of_virtdisk_h_is_exercised(coverage: Coverage) -> None:
    """Functions, parameters, members and constants, as the recordings show."""
    assert set(missing_names(coverage)) == UNEXERCISED.keys()


def test_the_tables_fit_the_metadata() -> None:
    """What says how recordings are read knows every name, and no other."""
    structures = set(STRUCTURES.values())
    entries = {f"STORAGE_DEPENDENCY_INFO_TYPE_{version}" for version in (1, 2)}
    assert structures | entries == METADATA["structs"].keys()
    for structure, arms in ARMS.items():
        members = {name.partition(".")[0] for name in leaves(structure)}
        assert {"Version", *arms.values()} == members
    used = {place_of(constant) for constant in METADATA["constants"]}
    assert used == set(PLACES.values())


def test_nothing_recorded_is_nothing_exercised() -> None:
    """An empty run misses every name: none is taken for granted."""
    names = set(missing_names(Coverage([])))
    assert METADATA["functions"].keys() <= names
    assert METADATA["constants"].keys() <= names
    assert {
        f"{structure}.{member}"
        for structure in METADATA["structs"]
        for member in leaves(structure)
    } <= names


def test_a_member_counts_for_its_version_alone() -> None:
    """RWDepth and GetInfoOnly share their place; the version decides."""
    image = bytes.fromhex("0200000001000000") + bytes(36)
    call = {"function": "OpenVirtualDisk", "Parameters": image.hex()}
    seen = Coverage([call])
    structure = "OPEN_VIRTUAL_DISK_PARAMETERS"
    assert seen.had_a_value(f"{structure}.Version2.GetInfoOnly")
    assert not seen.had_a_value(f"{structure}.Version1.RWDepth")
    assert not seen.had_a_value(f"{structure}.Version3.GetInfoOnly")
    assert seen.appeared("OPEN_VIRTUAL_DISK_VERSION_2")
    assert not seen.appeared("OPEN_VIRTUAL_DISK_VERSION_3")


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


@pytest.mark.parametrize("target", ZIG_TARGETS)
def test_compiles_without_a_warning(zig: wine_bench.Zig, target: str) -> None:
    zig.compile(COMPILED, target)


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
        zig.compile([broken], target)
