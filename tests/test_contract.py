"""The contract table against this system's implementation of virtdisk.h."""

from __future__ import annotations

import contextlib
import pathlib
from collections import Counter

import contract
import contract_changes
import contract_create
import contract_sizes
import pytest
from support import LINUX, require_loop

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
# There is no published format for what they do.
REFUSED = {
    "QueryChangesVirtualDisk",
    "TakeSnapshotVhdSet",
    "DeleteSnapshotVhdSet",
    "ModifyVhdSet",
    "ApplySnapshotVhdSet",
    "ForkVirtualDisk",
    "CompleteForkVirtualDisk",
}
BOUND -= REFUSED
ROWS = (
    contract.ROWS + contract_changes.ROWS + contract_create.ROWS + contract_sizes.ROWS
)


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


def test_every_bound_function_has_rows_of_success_and_failure() -> None:
    succeeds = {row.function for row in ROWS if row.expect[0] == 0}
    fails = {row.function for row in ROWS if row.expect[0] != 0}
    assert len(BOUND | REFUSED) == 29
    # Chains need images of their own: tests/test_chains.py.
    assert succeeds == BOUND - {"AddVirtualDiskParent"}
    # GetAllAttached... takes nothing that could be wrong.
    assert fails == (BOUND | REFUSED) - {"GetAllAttachedVirtualDiskPhysicalPaths"}
