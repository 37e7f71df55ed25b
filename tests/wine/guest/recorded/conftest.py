"""Fixtures of the tests against the recording double."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator

import pytest
import recorder
from recorder import Recorder

from virtdisk import _virtdisk


@pytest.fixture
def double() -> Iterator[Recorder]:
    """The recording virtdisk.dll without answers and calls."""
    recorder = Recorder()
    yield recorder
    recorder.forget()


@pytest.fixture
def disk(double: Recorder) -> Iterator[_virtdisk.Handle]:
    """An open handle; its opening is not among the calls."""
    with _virtdisk.OpenVirtualDisk("C:\\disk.vhdx") as handle:
        double.forget()
        yield handle


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tells the host what was compared (the completeness tests)."""
    lines = "".join(f"{json.dumps(call)}\n" for call in recorder.compared)
    pathlib.Path("W:\\compared.jsonl").write_text(lines, "ascii")
