"""The module as a whole: audit events, subinterpreters, constants."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import oracle
import pytest
from calls import ASYNCHRONOUS, CALLS, FREE, Call, Free
from recorder import Recorder, handle_is_open

from virtdisk import _virtdisk

if TYPE_CHECKING:
    from virtdisk._virtdisk import Handle

_events: list[tuple[object, ...]] = []
_listening = False
_forbidding = False

# What only asks about a disk that is open anyway is not audited.
SILENT = {
    "EnumerateVirtualDiskMetadata",
    "GetAllAttachedVirtualDiskPhysicalPaths",
    "GetVirtualDiskInformation",
    "GetVirtualDiskMetadata",
    "GetVirtualDiskPhysicalPath",
    "QueryChangesVirtualDisk",
}


def ignoring_the_disk(call: Free) -> Call:
    """A function without a disk, as one of a disk."""
    return lambda disk: call()


# Every function but that of an operation, each as of a disk.
EVERY: dict[str, Call] = {
    **CALLS,
    **{name: ignoring_the_disk(call) for name, call in FREE.items()},
}


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if not (_listening and event.startswith("virtdisk.")):
        return
    _events.append((event, *arguments))
    if _forbidding:
        raise RuntimeError(event)


sys.addaudithook(_hook)


@pytest.fixture
def events() -> Iterator[list[tuple[object, ...]]]:
    """The audit events during the test."""
    global _listening
    _events.clear()
    _listening = True
    yield _events
    _listening = False


def test_audit_events(
    double: Recorder, disk: Handle, events: list[tuple[object, ...]]
) -> None:
    path = "C:\\other.vhd"
    _virtdisk.OpenVirtualDisk(path, access_mask=0x80000, flags=0xFFFFFFFF).close()
    _virtdisk.AttachVirtualDisk(disk, flags=5)
    _virtdisk.DetachVirtualDisk(disk, flags=1)
    _virtdisk.AddVirtualDiskParent(disk, path)
    _virtdisk.RawSCSIVirtualDisk(disk, bytearray(b"\x12\x34"))
    assert events == [
        ("virtdisk.OpenVirtualDisk", path, 0x80000, 0xFFFFFFFF),
        ("virtdisk.AttachVirtualDisk", disk.path, 5),
        ("virtdisk.DetachVirtualDisk", disk.path, 1),
        ("virtdisk.AddVirtualDiskParent", disk.path, path),
        ("virtdisk.RawSCSIVirtualDisk", disk.path, b"\x12\x34"),
    ]


@pytest.mark.parametrize(("function", "call"), EVERY.items())
def test_every_function_that_acts_is_audited(
    double: Recorder,
    disk: Handle,
    events: list[tuple[object, ...]],
    function: str,
    call: Call,
) -> None:
    double.answer(function, result=5)
    with pytest.raises(PermissionError):
        call(disk)
    names = [event[0] for event in events]
    assert names == ([] if function in SILENT else [f"virtdisk.{function}"])
    if function in CALLS and function not in SILENT:
        assert events[0][1] == disk.path


@pytest.mark.parametrize("function", sorted(EVERY.keys() - SILENT))
def test_a_hook_may_forbid_every_one(
    double: Recorder,
    disk: Handle,
    events: list[tuple[object, ...]],
    monkeypatch: pytest.MonkeyPatch,
    function: str,
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "_forbidding", True)
    with pytest.raises(RuntimeError, match=function):
        EVERY[function](disk)
    assert double.calls() == []


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


def count_handles() -> int:
    """How many handles are open; Wine's GetProcessHandleCount says 0."""
    return sum(handle_is_open(value) for value in range(4, 0x4000, 4))


def fail_and_succeed(double: Recorder) -> None:
    """Every way of ending a call that has handles in play."""
    for name in ("OpenVirtualDisk", "AttachVirtualDisk"):
        double.answer(name, result=5)
        double.answer(name)
    with pytest.raises(PermissionError):
        _virtdisk.OpenVirtualDisk("disk")
    with _virtdisk.OpenVirtualDisk("disk") as disk:
        overlapped = _virtdisk.Overlapped()
        with pytest.raises(PermissionError):
            _virtdisk.AttachVirtualDisk(disk, overlapped=overlapped)
        double.answer("AttachVirtualDisk", pending=1)
        _virtdisk.AttachVirtualDisk(disk, overlapped=overlapped)
        _virtdisk.AttachVirtualDisk(disk, overlapped=_virtdisk.Overlapped())
        overlapped.cancel()
        assert overlapped.wait(60)
    double.forget()


def test_no_handle_is_left_behind(double: Recorder) -> None:
    fail_and_succeed(double)
    before = count_handles()
    with _virtdisk.OpenVirtualDisk("disk"):
        assert count_handles() > before  # a handle left open would be seen
    for _ in range(50):
        fail_and_succeed(double)
    # The double's own end of a pipe goes when the next one is opened.
    assert count_handles() - before <= 2


def test_the_process_may_end_while_an_operation_is_pending(
    double: Recorder,
) -> None:
    program = (
        "import sys\n"
        "sys.path.append('P:/tests')\n"
        "from calls import ASYNCHRONOUS, start\n"
        "from virtdisk import _virtdisk\n"
        "disk = _virtdisk.OpenVirtualDisk('disk')\n"
        "pending = []\n"
        "for function in ASYNCHRONOUS:\n"
        "    pending.append(_virtdisk.Overlapped())\n"
        "    start(function, disk, pending[-1])\n"
        "print(*(overlapped.pending for overlapped in pending))\n"
    )
    for function in ASYNCHRONOUS:
        double.answer(function, pending=1)
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program],
        env={**os.environ, "DOUBLE_SCRIPT": double.script},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    expected = " ".join(["True"] * len(ASYNCHRONOUS)) + "\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")


def test_constants_are_those_of_microsoft() -> None:
    for name, value in oracle.CONSTANTS.items():
        assert getattr(_virtdisk, name) == value & 0xFFFFFFFF, name
