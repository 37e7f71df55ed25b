#!/usr/bin/env python3
"""Compiles the assertions on virtdisk.h with this interpreter's own compiler.

On Windows that is cl.exe with the SDK's virtdisk.h, for the processor that
this Python was built for; elsewhere the engine's headers are used.  Nothing
is linked or run: that tests/abi/virtdisk_abi.c compiles is the answer.

    python tools/check_abi.py [--include FOLDER]
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import sysconfig
import tempfile

import setuptools  # noqa: F401 - makes distutils importable on every Python

from distutils.ccompiler import new_compiler  # isort: skip
from distutils.errors import CompileError  # isort: skip
from distutils.sysconfig import customize_compiler  # isort: skip

ROOT = pathlib.Path(__file__).resolve().parents[1]
SOURCE = ROOT / "tests" / "abi" / "virtdisk_abi.c"


def compile_source(source: pathlib.Path, includes: list[pathlib.Path]) -> None:
    """Compiles one C file, warnings being errors; CompileError if it fails."""
    compiler = new_compiler()
    if sys.platform == "win32":
        options = ["/std:c11", "/W3", "/WX"]
    else:
        customize_compiler(compiler)
        options = ["-std=c11", "-Wall", "-Wextra", "-Werror"]
    with tempfile.TemporaryDirectory() as folder:
        compiler.compile(
            [str(source)],
            output_dir=folder,
            include_dirs=[str(include) for include in includes],
            extra_postargs=options,
        )


def main() -> int:
    """The command line: 0 it compiles, 1 it does not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--include", type=pathlib.Path, help="where virtdisk.h lies")
    include = parser.parse_args().include
    if include is None and sys.platform != "win32":
        include = ROOT / "src" / "engine" / "include"
    headers = include or "the SDK"
    try:
        compile_source(SOURCE, [include] if include else [])
    except CompileError as error:
        print(f"virtdisk.h of {headers}: {error}", file=sys.stderr)
        return 1
    print(f"virtdisk.h of {headers} is as documented ({sysconfig.get_platform()})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
