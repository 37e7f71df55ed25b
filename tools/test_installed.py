#!/usr/bin/env python3
"""Runs the tests of the installed package, for machines without the tree.

cibuildwheel copies tests/, examples/, tools/ and pyproject.toml away from the
source tree; what reads C sources, builds or documents is left out there.
Further arguments go to pytest:

    python tools/test_installed.py -x
"""

from __future__ import annotations

import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

#: Modules and tests that need the source tree or a compiler.
NEED_TREE = (
    "tests/engine",
    "tests/test_abi.py",
    "tests/test_binding_calls.py",
    "tests/test_binding_double.py",
    "tests/test_binding_faults.py",
    "tests/test_binding_operations.py",
    "tests/test_chains.py",
    "tests/test_compact.py",
    "tests/test_convert.py",
    "tests/test_created_images.py",
    "tests/test_differences.py",
    "tests/test_disk_images.py",
    "tests/test_docs.py",
    "tests/test_engine.py",
    "tests/test_errors.py",
    "tests/test_file_systems.py",
    "tests/test_fio.py",
    "tests/test_hostile.py",
    "tests/test_large.py",
    "tests/test_layers.py",
    "tests/test_matrix.py",
    "tests/test_merge.py",
    "tests/test_model.py",
    "tests/test_packaging.py",
    "tests/test_resize.py",
    "tests/test_stock_kernel.py",
    "tests/test_typing.py",
    "tests/test_wine.py",
    "tests/test_workflows.py",
    "tests/wine",
)
NEED_TREE_TESTS = (
    "tests/test_binding.py::test_every_source_lies_where_the_build_looks",
    "tests/test_contract.py::test_every_function_fails_in_every_way",
)


def main(arguments: list[str]) -> int:
    """Returns pytest's exit code."""
    left_out = [f"--ignore={ROOT / name}" for name in NEED_TREE]
    left_out += [f"--deselect={name}" for name in NEED_TREE_TESTS]
    return pytest.main(
        [f"--rootdir={ROOT}", *left_out, *arguments, str(ROOT / "tests")]
    )


if __name__ == "__main__":
    # The folder of this script is no place to import from.
    sys.path.pop(0)
    sys.exit(main(sys.argv[1:]))
