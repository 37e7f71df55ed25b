"""The GIL is released in every call, and close() waits its turn.

The double holds a call inside until another Python thread lets it out.  Were
the GIL kept, that thread could not run: the call would leave by a timeout,
which its record says ("left").
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from calls import CALLS, FREE, STARTS, Call
from recorder import Recorder, handle_is_open

from virtdisk import _virtdisk

if TYPE_CHECKING:
    from virtdisk._virtdisk import Handle

WITH_HANDLE: list[tuple[str, Call]] = [
    *CALLS.items(),
    *(
        (function, lambda disk, start=start: start(disk, _virtdisk.Overlapped()))
        for function, start in STARTS.items()
    ),
]
# What the free functions open is not the disk's.
EVERY: list[tuple[str, Call]] = [
    *WITH_HANDLE,
    *((function, lambda disk, call=call: call()) for function, call in FREE.items()),
]


def hold(double: Recorder, function: str) -> None:
    """Makes the next call of a function stay inside; later ones do not."""
    data = bytes(64) if function.startswith(("Get", "Query")) else None
    double.answer(function, gate=1, data=data)
    double.answer(function, data=data)


@pytest.mark.parametrize(("function", "call"), EVERY)
def test_other_threads_run_during_a_call(
    double: Recorder, disk: Handle, function: str, call: Call
) -> None:
    hold(double, function)
    counted = 0

    def count() -> None:
        nonlocal counted
        double.wait_entered()
        for _ in range(1000):
            counted += 1
        double.leave()

    other = threading.Thread(target=count)
    other.start()
    call(disk)
    other.join()
    assert counted == 1000
    assert double.calls(function)[0]["left"] is True


def test_other_threads_run_while_progress_is_asked(
    double: Recorder, disk: Handle
) -> None:
    double.answer("AttachVirtualDisk", pending=1)
    double.answer("GetVirtualDiskOperationProgress", gate=1)
    overlapped = _virtdisk.Overlapped()
    _virtdisk.AttachVirtualDisk(disk, overlapped=overlapped)

    def let_out() -> None:
        double.wait_entered()
        double.leave()

    other = threading.Thread(target=let_out)
    other.start()
    assert overlapped.progress() == (997, 0, 100)
    other.join()
    (call,) = double.calls("GetVirtualDiskOperationProgress")
    assert call["left"] is True


@pytest.mark.parametrize(("function", "call"), WITH_HANDLE)
def test_close_during_a_call_is_deferred(
    double: Recorder, disk: Handle, function: str, call: Call
) -> None:
    hold(double, function)
    value = disk.value
    inside = threading.Thread(target=call, args=(disk,))
    inside.start()
    double.wait_entered()
    disk.close()
    assert disk.closed
    assert handle_is_open(value)
    with pytest.raises(ValueError, match="closed"):
        call(disk)
    double.leave()
    inside.join()
    assert not handle_is_open(value)
    (call_made,) = double.calls(function)  # the refused one was not made
    assert call_made["result"] == 0


def test_two_calls_at_once_on_one_handle(double: Recorder, disk: Handle) -> None:
    double.answer("GetVirtualDiskPhysicalPath", gate=1, data=b"p\0\0\0")
    results: list[str] = []

    def ask() -> None:
        results.append(_virtdisk.GetVirtualDiskPhysicalPath(disk))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in threads:  # both are inside before either is let out
        double.wait_entered()
    for _ in threads:
        double.leave()
    for thread in threads:
        thread.join()
    assert results == ["p", "p"]
    assert [call["left"] for call in double.calls()] == [True, True]
