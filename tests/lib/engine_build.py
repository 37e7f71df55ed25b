"""The engine's sources, compiled for tests: an archive and what links to it.

Every part of `src/engine` and the helpers of `tests/engine` are compiled once
a session under sanitizers; test programs and tools are linked from that.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import pathlib
import subprocess

import pytest
from support import ROOT, require_tool

ENGINE = ROOT / "src" / "engine"
C_TESTS = ROOT / "tests" / "engine"
HELPERS = ["check.c", "crash_file.c", "format_model.c"]
FLAGS = [
    "-std=c11",
    "-D_GNU_SOURCE",
    f"-I{ENGINE / 'include'}",
    f"-I{ENGINE}",
    f"-I{C_TESTS}",
    "-g",
    "-O1",
    "-fno-omit-frame-pointer",
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
#: Layers that may be tested without the rest of the engine.
LOWER_LAYERS = ["base", "format", "disk"]
TIMEOUT = 600  # seconds; only a hang is that slow


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs a tool that has to succeed; its output is the failure's text."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done


@dataclasses.dataclass(frozen=True)
class Build:
    """Sources compiled in one way.

    Attributes:
        compiler: The C compiler's path.
        directory: Where objects and programs go.
        sanitizers: What `-fsanitize=` names.
    """

    compiler: str
    directory: pathlib.Path
    sanitizers: str

    @property
    def flags(self) -> list[str]:
        return [*FLAGS, f"-fsanitize={self.sanitizers}"]

    @property
    def archive(self) -> pathlib.Path:
        return self.directory / "libengine.a"

    def compile(self, source: pathlib.Path) -> pathlib.Path:
        """One source, as an object whose name keeps its folders apart."""
        name = "-".join(source.relative_to(ROOT).with_suffix(".o").parts)
        target = self.directory / name
        run([self.compiler, *self.flags, "-c", "-o", str(target), str(source)])
        return target

    def make_archive(self, parts: list[str]) -> None:
        """These files, all of these layers, and the helpers of the tests."""
        sources = [
            path
            for part in parts
            for path in sorted(ENGINE.glob(part if "." in part else f"{part}/*.c"))
        ]
        sources += [C_TESTS / name for name in HELPERS]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(self.compile, sources))
        run(["ar", "rcs", str(self.archive), *map(str, objects)])

    def link_once(self, name: str) -> pathlib.Path:
        """The same program for all who ask."""
        target = self.directory / name
        return target if target.exists() else self.link(name)

    def link(self, name: str) -> pathlib.Path:
        """A program of tests/engine: test_x* with x_support.c."""
        target = self.directory / name
        support = [
            path
            for path in sorted(C_TESTS.glob("*_support.c"))
            if name.startswith(f"test_{path.stem.removesuffix('_support')}")
        ]
        sources = [C_TESTS / f"{name}.c", *support]
        wraps = [f"-Wl,--wrap={function}" for function in WRAPPED]
        inputs = [*map(str, sources), str(self.archive)]
        run([self.compiler, *self.flags, *wraps, "-o", str(target), *inputs])
        return target


def compiled(
    factory: pytest.TempPathFactory, parts: list[str], sanitizers: str
) -> Build:
    """These layers and files, ready to be linked."""
    build = Build(
        compiler=require_tool("gcc", package="gcc"),
        directory=factory.mktemp("build"),
        sanitizers=sanitizers,
    )
    build.make_archive(parts)
    return build


@pytest.fixture(scope="session")
def engine_build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The whole engine with AddressSanitizer and UndefinedBehaviorSanitizer."""
    layers = [path.name for path in sorted(ENGINE.iterdir())]
    return compiled(tmp_path_factory, layers, "address,undefined")


@pytest.fixture(scope="session")
def disk_build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Formats and disks alone, with the same."""
    return compiled(tmp_path_factory, LOWER_LAYERS, "address,undefined")


@pytest.fixture(scope="session")
def thread_build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Formats and disks, and how they are served, with ThreadSanitizer."""
    parts = [*LOWER_LAYERS, "server/gate.c"]
    return compiled(tmp_path_factory, parts, "thread")
