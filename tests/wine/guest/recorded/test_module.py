"""The module as a whole: audit events, subinterpreters, constants."""

from __future__ import annotations

import importlib
import subprocess
import sys
from typing import TYPE_CHECKING

import oracle
import pytest
from recorder import Recorder

from virtdisk import _virtdisk

if TYPE_CHECKING:
    from virtdisk._virtdisk import Handle

_events: list[tuple[object, ...]] = []
_listening = False


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _listening and event.startswith("virtdisk."):
        _events.append((event, *arguments))


sys.addaudithook(_hook)


@pytest.fixture
def events() -> list[tuple[object, ...]]:
    """The audit events from here on."""
    global _listening
    _events.clear()
    _listening = True
    return _events


def test_audit_events(
    double: Recorder, disk: Handle, events: list[tuple[object, ...]]
) -> None:
    _virtdisk.OpenVirtualDisk("C:\\other.vhd", access_mask=0x80000, flags=1).close()
    _virtdisk.AttachVirtualDisk(disk, flags=5)
    _virtdisk.DetachVirtualDisk(disk)
    names = [event[0] for event in events]
    assert names[:3] == [
        "virtdisk.OpenVirtualDisk",
        "virtdisk.AttachVirtualDisk",
        "virtdisk.DetachVirtualDisk",
    ]
    assert events[0][1] == "C:\\other.vhd"
    assert events[1][1:3] == (disk.path, 5)
    assert events[2][1] == disk.path


def test_an_audit_hook_may_forbid(double: Recorder) -> None:
    program = (
        "import sys\n"
        "from virtdisk import _virtdisk\n"
        "def hook(event, arguments):\n"
        "    if event == 'virtdisk.OpenVirtualDisk':\n"
        "        raise RuntimeError('forbidden')\n"
        "sys.addaudithook(hook)\n"
        "try:\n"
        "    _virtdisk.OpenVirtualDisk('disk')\n"
        "except RuntimeError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["forbidden"]
    assert double.calls() == []


def test_subinterpreters(double: Recorder) -> None:
    new = sys.version_info >= (3, 13)
    name = "_interpreters" if new else "_xxsubinterpreters"
    interpreters = importlib.import_module(name)
    program = (
        "from virtdisk import _virtdisk\n"
        "with _virtdisk.OpenVirtualDisk('C:\\\\in another.vhd') as disk:\n"
        "    _virtdisk.AttachVirtualDisk(disk)\n"
    )
    for _ in range(2):
        interpreter = interpreters.create()
        try:
            failure = interpreters.run_string(interpreter, program)
        finally:
            interpreters.destroy(interpreter)
        assert failure is None
    assert double.names() == ["OpenVirtualDisk", "AttachVirtualDisk"] * 2
    assert double.calls()[0]["Path"] == "C:\\in another.vhd"


def test_constants_are_those_of_microsoft() -> None:
    for name, value in oracle.CONSTANTS.items():
        assert getattr(_virtdisk, name) == value & 0xFFFFFFFF, name
