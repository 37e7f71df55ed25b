"""The contract table against this system's implementation of virtdisk.h."""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
from collections import Counter

import contract
import contract_changes
import contract_create
import contract_rights
import contract_sizes
import pytest
from contract_kinds import NOT_APPLICABLE, REFUSED, Kind
from engine_build import TIMEOUT, Build
from support import LINUX, require_loop, require_root

import virtdisk
from virtdisk import _virtdisk

# All that virtdisk.h has and the engine can do.
BOUND = {
    name
    for name in vars(_virtdisk)
    if name.endswith(
        ("VirtualDisk", "VirtualDiskInformation", "VirtualDiskMetadata", "VhdSet")
    )
    or name.startswith(("GetVirtualDisk", "GetAllAttached", "GetStorage", "AddVirtual"))
}
BOUND -= REFUSED
ROWS = [
    *contract.ROWS,
    *contract_changes.ROWS,
    *contract_create.ROWS,
    *contract_rights.ROWS,
    *contract_sizes.ROWS,
]


def outcome(row: contract.Row, directory: pathlib.Path) -> int:
    """The code the row's call ends with; 0 for success."""
    with contextlib.ExitStack() as stack:
        try:
            row.call(contract.Context(directory, stack))
        except virtdisk.VirtualDiskError as error:
            return error.winerror
    return 0


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_row(row: contract.Row, tmp_path: pathlib.Path) -> None:
    if LINUX and row.attaches:
        require_loop()
    if LINUX and row.needs_root:
        require_root()
    expect = row.expect[:1]
    if not LINUX:
        expect = row.expect if row.windows is None else row.windows
        if not expect:
            pytest.skip("says nothing about Windows")
    code = outcome(row, tmp_path)
    assert code in expect, f"{code:#x}, expected {expect} ({row.source})"


def test_every_row_has_its_own_name() -> None:
    names = Counter(row.id for row in ROWS)
    assert [name for name, count in names.items() if count > 1] == []


def test_every_bound_function_has_a_row_of_success() -> None:
    assert len(BOUND | REFUSED) == 29
    assert {row.function for row in ROWS if row.kind is Kind.SUCCESS} == BOUND


def test_kinds_agree_with_codes() -> None:
    """A success is one by its code, and a privilege is missing by its code."""
    privilege = {contract.ACCESS_DENIED, contract.PRIVILEGE_NOT_HELD}
    for row in ROWS:
        assert (row.kind is Kind.SUCCESS) == (row.expect[0] == 0), row.id
        missing = row.kind is Kind.MISSING_PRIVILEGE
        assert missing == (row.expect[0] in privilege), row.id


def c_rows(build: Build) -> list[tuple[str, Kind, str]]:
    """Function, kind and name of the rows of tests/engine/test_api_contract.c."""
    done = subprocess.run(
        [build.link_once("test_api_contract"), "--rows"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=True,
    )
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    return [(function, Kind(kind), name) for function, kind, name in rows]


@pytest.mark.skipif(not LINUX, reason="the C table is the engine's")
def test_every_function_fails_in_every_way(engine_build: Build) -> None:
    """Each function has a row of each kind, or a reason why it cannot."""
    in_c = c_rows(engine_build)
    assert len(in_c) == len(set(in_c))
    covered = {(function, kind) for function, kind, _ in in_c}
    covered |= {(row.function, row.kind) for row in ROWS}
    every = {
        (function, kind)
        for function in BOUND | REFUSED
        for kind in Kind
        if kind is not Kind.SUCCESS
    }
    assert {pair for pair in covered if pair[1] is not Kind.SUCCESS} <= every
    assert every - covered == NOT_APPLICABLE.keys()
    assert all(NOT_APPLICABLE.values())
