"""The engine's C tests, and the engine against independent witnesses.

Every `tests/engine/test_*.c` is one test case here: linked with all engine
sources under the address and undefined-behaviour sanitizers, run with a
scratch directory, skipped if it exits with 77 (its last line says why).
`engine_tool.c` lets Python compare the layers below the API with real images,
QEMU, sfdisk and Python's own codecs.
"""

from __future__ import annotations

import concurrent.futures
import functools
import os
import pathlib
import subprocess

import pytest
from support import LINUX, ROOT, missing, require_tool

ENGINE = ROOT / "src" / "engine"
C_TESTS = ROOT / "tests" / "engine"
PROGRAMS = sorted(path.stem for path in C_TESTS.glob("test_*.c"))
SUPPORT = sorted(
    path
    for path in C_TESTS.glob("*.c")
    if not path.name.startswith("test_") and path.stem != "engine_tool"
)
FLAGS = [
    "-std=c11",
    "-D_GNU_SOURCE",
    f"-I{ENGINE / 'include'}",
    f"-I{ENGINE}",
    f"-I{C_TESTS}",
    "-g",
    "-O1",
    "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-pthread",
    "-Wall",
    "-Wextra",
    "-Wconversion",
    "-Wshadow",
    "-Wstrict-prototypes",
    "-Werror",
]
WRAPPED = ["malloc", "calloc", "realloc", "strdup", "strndup"]
SKIPPED = 77
TIMEOUT = 600  # seconds; only a hang is that slow

pytestmark = pytest.mark.skipif(not LINUX, reason="the engine is for Linux")


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs a tool that has to succeed; its output is the failure's text."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done


def compile_object(
    compiler: str, directory: pathlib.Path, source: pathlib.Path
) -> pathlib.Path:
    """One source, as an object whose name keeps its folders apart."""
    name = "-".join(source.relative_to(ROOT).with_suffix(".o").parts)
    target = directory / name
    run([compiler, *FLAGS, "-c", "-o", str(target), str(source)])
    return target


@pytest.fixture(scope="session")
def compiler() -> str:
    """A C compiler with its sanitizers."""
    return require_tool("gcc", package="gcc")


@pytest.fixture(scope="session")
def engine_library(
    compiler: str, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """All of the engine and of the tests' support, as an archive."""
    directory = tmp_path_factory.mktemp("engine")
    sources = [*sorted(ENGINE.glob("*/*.c")), *SUPPORT]
    build = functools.partial(compile_object, compiler, directory)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(build, sources))
    archive = directory / "libengine.a"
    run(["ar", "rcs", str(archive), *map(str, objects)])
    return archive


def link(compiler: str, archive: pathlib.Path, name: str) -> pathlib.Path:
    """Links a program of tests/engine."""
    target = archive.parent / name
    wraps = [f"-Wl,--wrap={function}" for function in WRAPPED]
    source = C_TESTS / f"{name}.c"
    run(
        [compiler, *FLAGS, *wraps, "-o", str(target), str(source), str(archive)]
    )
    return target


@pytest.mark.parametrize("name", PROGRAMS)
def test_c(
    name: str,
    compiler: str,
    engine_library: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    """A C test program passes and the sanitizers find nothing."""
    program = link(compiler, engine_library, name)
    environment = {
        key: value
        for key, value in os.environ.items()
        if key != "VIRTDISK_DEBUG"
    }
    done = subprocess.run(
        [program, tmp_path],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TIMEOUT,
        env=environment,
        check=False,
    )
    if done.returncode == SKIPPED:
        missing(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, f"{name}\n{done.stdout}{done.stderr}"
