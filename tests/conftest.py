"""Fixtures of the whole suite."""

from __future__ import annotations

import importlib.util
import pathlib
import signal
from collections.abc import Iterator

import pytest
from binding_double import built, double
from engine_build import disk_build, engine_build, thread_build
from support import LINUX, ROOT, let_go, loops_of

# Fixtures are found in here.
__all__ = ["built", "disk_build", "double", "engine_build", "thread_build"]


def pytest_configure(config: pytest.Config) -> None:
    """Says what is wrong when the source tree shadows the installed package."""
    spec = importlib.util.find_spec("virtdisk")
    origin = pathlib.Path(spec.origin) if spec and spec.origin else None
    if origin is None:
        raise pytest.UsageError("virtdisk is not installed: pip install .")
    in_tree = origin.parent == ROOT / "virtdisk"
    if in_tree and not list(origin.parent.glob("_virtdisk*.so")):
        raise pytest.UsageError(
            "this imports the source tree, which has no compiled module: "
            "run `pytest`, not `python -m pytest`"
        )
    # Started in the background by a shell, this process ignores Ctrl-C, and so
    # would every program that the tests start and interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def nothing_left_attached(tmp_path: pathlib.Path) -> Iterator[None]:
    """Fails a test that leaves a loop device over one of its own images."""
    yield
    if LINUX:
        assert let_go(tmp_path), f"still attached: {list(loops_of(tmp_path))}"
