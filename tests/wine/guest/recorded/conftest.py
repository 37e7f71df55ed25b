"""Fixtures of the tests against the recording double."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator

import oracle
import pytest
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
    """Tells the host what was compared (the completeness test)."""
    report = {
        "functions": sorted(oracle.compared_functions),
        "members": {
            structure: sorted(members)
            for structure, members in oracle.compared_members.items()
        },
    }
    pathlib.Path("W:\\compared.json").write_text(json.dumps(report), "ascii")
