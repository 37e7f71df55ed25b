"""Every function that can be asynchronous, while its operation goes on.

What an Overlapped does in general is in test_overlapped.py; here it is that
every function is started the same way, and that nothing it was given is
freed too early.
"""

from __future__ import annotations

import _thread
import ctypes
import gc
import threading
from typing import TYPE_CHECKING

import oracle
import pytest
from calls import ASYNCHRONOUS, PROGRESS, STARTS, start
from recorder import Recorder, handle_is_open

import virtdisk
from virtdisk import _virtdisk

if TYPE_CHECKING:
    from virtdisk._virtdisk import Handle, Overlapped

LONG = 60  # seconds; a bound for what ends at once
# What calls.py gives them, by the double's name of the member.
PATHS = {
    "MirrorVirtualDisk": ("MirrorVirtualDiskPath", "C:\\mirror.vhdx"),
    "ForkVirtualDisk": ("ForkedVirtualDiskPath", "C:\\fork.vhdx"),
}
every_function = pytest.mark.parametrize("function", ASYNCHRONOUS)


def begin(
    double: Recorder, function: str, disk: Handle, final: int = 0
) -> tuple[Handle, Overlapped]:
    """An operation that is pending, and its handle."""
    double.answer(function, pending=1, final=final)
    overlapped = _virtdisk.Overlapped()
    handle = start(function, disk, overlapped)
    assert overlapped.pending
    return handle, overlapped


@every_function
def test_completes(double: Recorder, disk: Handle, function: str) -> None:
    handle, overlapped = begin(double, function, disk)
    (call,) = double.calls()
    assert (call["function"], call["result"]) == (function, 997)
    assert call["Overlapped"] == bytes(24).hex()
    assert call["hEvent"] == overlapped.event
    assert not overlapped.wait(0)
    double.complete(handle.value)
    assert overlapped.wait(LONG)
    assert not overlapped.pending
    overlapped.result()
    assert double.names() == [function]  # the system was asked once


@every_function
def test_fails_later(double: Recorder, disk: Handle, function: str) -> None:
    handle, overlapped = begin(double, function, disk, final=112)
    double.complete(handle.value)
    assert overlapped.wait(LONG)
    with pytest.raises(virtdisk.VirtualDiskError) as caught:
        overlapped.result()
    assert caught.value.winerror == 112
    assert caught.value.function == function


@every_function
def test_fails_at_once(double: Recorder, disk: Handle, function: str) -> None:
    double.answer(function, result=32)
    overlapped = _virtdisk.Overlapped()
    with pytest.raises(PermissionError):
        start(function, disk, overlapped)
    assert not overlapped.pending
    with pytest.raises(ValueError, match="no operation"):
        overlapped.result()


@every_function
def test_succeeds_at_once(double: Recorder, disk: Handle, function: str) -> None:
    overlapped = _virtdisk.Overlapped()
    handle = start(function, disk, overlapped)
    assert not overlapped.pending
    assert overlapped.wait()
    overlapped.result()
    assert handle_is_open(handle.value)


@every_function
def test_cancelled(double: Recorder, disk: Handle, function: str) -> None:
    handle, overlapped = begin(double, function, disk)
    overlapped.cancel()
    assert overlapped.wait(LONG)
    with pytest.raises(virtdisk.VirtualDiskError) as caught:
        overlapped.result()
    assert caught.value.winerror == 995  # ERROR_OPERATION_ABORTED
    assert not double.is_pending(handle.value)


@every_function
def test_dropped_while_pending(double: Recorder, disk: Handle, function: str) -> None:
    handle, overlapped = begin(double, function, disk)
    event = overlapped.event
    del overlapped
    gc.collect()
    assert not double.is_pending(handle.value)
    assert not handle_is_open(event)
    assert handle_is_open(handle.value)


@every_function
def test_the_handle_closed_while_pending(
    double: Recorder, disk: Handle, function: str
) -> None:
    handle, overlapped = begin(double, function, disk)
    value = handle.value
    handle.close()
    del handle
    assert handle_is_open(value)  # the operation still needs it
    double.complete(value)
    assert overlapped.wait(LONG)
    overlapped.result()
    assert not handle_is_open(value)


@every_function
def test_wait_gives_up_and_can_be_interrupted(
    double: Recorder, disk: Handle, function: str
) -> None:
    handle, overlapped = begin(double, function, disk)
    assert not overlapped.wait(0.01)
    interrupt = threading.Timer(0.05, _thread.interrupt_main)
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        overlapped.wait()
    interrupt.join()
    assert overlapped.pending
    double.complete(handle.value)
    assert overlapped.wait(LONG)
    overlapped.result()


@every_function
def test_progress(double: Recorder, disk: Handle, function: str) -> None:
    handle, overlapped = begin(double, function, disk)
    (call,) = double.calls()
    members = {"OperationStatus": 997, "CurrentValue": 3, "CompletionValue": 1 << 40}
    answer = oracle.pack("VIRTUAL_DISK_PROGRESS", members)
    double.answer(PROGRESS, data=answer)
    for progress in (
        overlapped.progress(),
        _virtdisk.GetVirtualDiskOperationProgress(handle, overlapped),
    ):
        assert progress == (997, 3, 1 << 40)
        double.assert_call(
            double.calls()[-1],
            PROGRESS,
            VirtualDiskHandle=handle.value,
            Overlapped=call["OverlappedAddress"],
            Progress=bytes(24),
            Answer=answer,
        )
    double.complete(handle.value)
    assert overlapped.wait(LONG)


@every_function
def test_one_operation_at_a_time(double: Recorder, disk: Handle, function: str) -> None:
    handle, overlapped = begin(double, function, disk)
    with pytest.raises(ValueError, match="in use"):
        start(function, disk, overlapped)
    assert double.names() == [function]
    double.complete(handle.value)
    assert overlapped.wait(LONG)
    again = start(function, disk, overlapped)
    assert overlapped.pending
    double.complete(again.value)
    assert overlapped.wait(LONG)
    overlapped.result()


@pytest.mark.parametrize("function", PATHS)
def test_the_path_is_kept(double: Recorder, disk: Handle, function: str) -> None:
    handle, overlapped = begin(double, function, disk)
    member, path = PATHS[function]
    address = double.calls()[0][f"{member}Address"]
    gc.collect()
    # Were the memory free, one of these would have it now.
    taken = [f"{number:016}" + path for number in range(1000)]
    assert ctypes.wstring_at(address) == path
    assert taken
    double.complete(handle.value)
    assert overlapped.wait(LONG)


def test_a_failed_creation_that_was_pending(double: Recorder, disk: Handle) -> None:
    handle, overlapped = begin(double, "CreateVirtualDisk", disk, final=5)
    value = handle.value
    double.complete(value)
    assert overlapped.wait(LONG)
    with pytest.raises(PermissionError) as caught:
        overlapped.result()
    assert caught.value.filename == "C:\\new.vhdx"
    handle.close()
    assert not handle_is_open(value)


def test_every_function_that_can_be_is_here() -> None:
    # API.md 1.2: the functions with an OVERLAPPED of their own.
    assert set(ASYNCHRONOUS) == {
        function
        for function, parameters in oracle.PARAMETERS.items()
        if "Overlapped" in parameters and function != PROGRESS
    }
    assert len(STARTS) == 7


# --- progress that users can trust -------------------------------------------


def test_progress_never_goes_back(double: Recorder, disk: Handle) -> None:
    # API.md 2.7: the pair may go back, and the end may be 0.
    handle, overlapped = begin(double, "CompactVirtualDisk", disk)
    pairs = [(0, 0), (10, 100), (5, 100), (0, 0), (60, 200), (40, 50), (199, 200)]
    for current, completion in pairs:
        members = {
            "OperationStatus": 997,
            "CurrentValue": current,
            "CompletionValue": completion,
        }
        double.answer(PROGRESS, data=oracle.pack("VIRTUAL_DISK_PROGRESS", members))
    seen = [overlapped.progress() for _ in pairs]
    assert seen[0] == (997, 0, 0)
    assert {status for status, _, _ in seen} == {997}
    fractions = [current / completion for _, current, completion in seen[1:]]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0.1
    assert fractions[-1] == 0.995
    double.complete(handle.value)
    assert overlapped.wait(LONG)


def test_progress_as_the_system_gives_it(double: Recorder, disk: Handle) -> None:
    handle, overlapped = begin(double, "CompactVirtualDisk", disk)
    pairs = [(10, 100), (5, 100), (0, 0)]
    for current, completion in pairs:
        members = {
            "OperationStatus": 997,
            "CurrentValue": current,
            "CompletionValue": completion,
        }
        double.answer(PROGRESS, data=oracle.pack("VIRTUAL_DISK_PROGRESS", members))
    seen = [
        _virtdisk.GetVirtualDiskOperationProgress(handle, overlapped) for _ in pairs
    ]
    assert seen == [(997, *pair) for pair in pairs]
    double.complete(handle.value)
    assert overlapped.wait(LONG)
