"""AttachVirtualDisk with an OVERLAPPED, by the system's own asynchronous I/O.

The double's operations are pending reads with the caller's OVERLAPPED, so
completion, cancellation and the event are the operating system's.
"""

from __future__ import annotations

import _thread
import asyncio
import ctypes
import gc
import threading
from typing import TYPE_CHECKING, Any

import oracle
import pytest
from recorder import KERNEL32, Recorder, handle_is_open

import virtdisk
from virtdisk import _virtdisk

if TYPE_CHECKING:
    from virtdisk._virtdisk import Handle, Overlapped

SDDL = "D:P(A;;GA;;;WD)"
LONG = 60  # seconds; a bound for what ends at once


def start(
    double: Recorder, disk: Handle, *, final: int = 0, **arguments: Any
) -> Overlapped:
    """An attach that is pending until double.complete()."""
    double.answer("AttachVirtualDisk", pending=1, final=final)
    overlapped = _virtdisk.Overlapped()
    _virtdisk.AttachVirtualDisk(disk, overlapped=overlapped, **arguments)
    assert overlapped.pending
    return overlapped


def test_what_the_system_is_given(double: Recorder, disk: Handle) -> None:
    overlapped = start(double, disk, flags=1, security_descriptor=SDDL)
    (call,) = double.calls()
    double.assert_call(
        call,
        "AttachVirtualDisk",
        VirtualDiskHandle=disk.value,
        SecurityDescriptor=call["SecurityDescriptor"],
        IsValidSecurityDescriptor=True,
        Flags=1,
        ProviderSpecificFlags=0,
        Parameters=oracle.pack("ATTACH_VIRTUAL_DISK_PARAMETERS", {"Version": 1}),
        Overlapped=bytes(24),
        OverlappedAddress=call["OverlappedAddress"],
        hEvent=overlapped.event,
        result=997,
    )
    double.complete(disk.value)
    assert overlapped.wait(LONG)


def test_completes(double: Recorder, disk: Handle) -> None:
    overlapped = start(double, disk)
    assert not overlapped.wait(0)
    with pytest.raises(OSError) as caught:
        overlapped.result()
    assert caught.value.winerror == 996  # ERROR_IO_INCOMPLETE
    assert overlapped.progress() == (997, 0, 100)
    double.complete(disk.value)
    assert overlapped.wait(LONG)
    assert not overlapped.pending
    overlapped.result()
    assert overlapped.progress() == (0, 0, 100)


@pytest.mark.parametrize("code", [5, 32, 112, 1392])
def test_fails_later(double: Recorder, disk: Handle, code: int) -> None:
    overlapped = start(double, disk, final=code)
    double.complete(disk.value)
    assert overlapped.wait(LONG)
    for _ in range(2):
        with pytest.raises(virtdisk.VirtualDiskError) as caught:
            overlapped.result()
        assert caught.value.winerror == code
        assert caught.value.filename == disk.path
        assert caught.value.function == "AttachVirtualDisk"
    assert overlapped.progress()[0] == code


def test_fails_at_once(double: Recorder, disk: Handle) -> None:
    double.answer("AttachVirtualDisk", result=32)
    overlapped = _virtdisk.Overlapped()
    with pytest.raises(PermissionError):
        _virtdisk.AttachVirtualDisk(disk, overlapped=overlapped)
    assert not overlapped.pending
    with pytest.raises(ValueError, match="no operation"):
        overlapped.result()


def test_succeeds_at_once(double: Recorder, disk: Handle) -> None:
    overlapped = _virtdisk.Overlapped()
    _virtdisk.AttachVirtualDisk(disk, overlapped=overlapped)
    assert not overlapped.pending
    assert overlapped.wait()
    overlapped.result()


def test_pending_without_overlapped_is_an_error(double: Recorder, disk: Handle) -> None:
    double.answer("AttachVirtualDisk", result=997)
    with pytest.raises(OSError) as caught:
        _virtdisk.AttachVirtualDisk(disk)
    assert caught.value.winerror == 997


def test_cancelled(double: Recorder, disk: Handle) -> None:
    overlapped = start(double, disk)
    overlapped.cancel()
    assert overlapped.wait(LONG)
    with pytest.raises(OSError) as caught:
        overlapped.result()
    assert caught.value.winerror == 995  # ERROR_OPERATION_ABORTED
    assert not double.is_pending(disk.value)
    overlapped.cancel()  # over already: nothing happens


def test_cancel_that_comes_too_late(double: Recorder, disk: Handle) -> None:
    overlapped = start(double, disk)
    double.complete(disk.value)
    overlapped.cancel()
    assert overlapped.wait(LONG)
    overlapped.result()


def test_dropped_while_pending(double: Recorder, disk: Handle) -> None:
    overlapped = start(double, disk, security_descriptor=SDDL)
    event = overlapped.event
    assert handle_is_open(event)
    del overlapped
    gc.collect()
    assert not double.is_pending(disk.value)
    assert not handle_is_open(event)
    assert handle_is_open(disk.value)  # it is not the operation's to close


def test_handle_closed_while_pending(double: Recorder, disk: Handle) -> None:
    value = disk.value
    overlapped = start(double, disk)
    disk.close()
    assert disk.closed
    assert handle_is_open(value)  # the operation still needs it
    double.complete(value)
    assert overlapped.wait(LONG)
    overlapped.result()
    assert not handle_is_open(value)


def test_progress_is_decoded_whole(double: Recorder, disk: Handle) -> None:
    members = {
        "OperationStatus": 997,
        "CurrentValue": 0xFEDCBA9876543210,
        "CompletionValue": 0xFFFFFFFFFFFFFFFE,
    }
    overlapped = start(double, disk)
    address = double.calls()[0]["OverlappedAddress"]
    double.answer(
        "GetVirtualDiskOperationProgress",
        data=oracle.pack("VIRTUAL_DISK_PROGRESS", members),
    )
    assert overlapped.progress() == tuple(members.values())
    double.assert_call(
        double.calls()[-1],
        "GetVirtualDiskOperationProgress",
        VirtualDiskHandle=disk.value,
        Overlapped=address,
        Progress=bytes(24),
        Answer=oracle.pack("VIRTUAL_DISK_PROGRESS", members),
    )
    overlapped.cancel()
    assert overlapped.wait(LONG)


def test_progress_that_fails(double: Recorder, disk: Handle) -> None:
    overlapped = start(double, disk)
    double.answer("GetVirtualDiskOperationProgress", result=87)
    with pytest.raises(OSError) as caught:
        overlapped.progress()
    assert caught.value.winerror == 87
    assert overlapped.pending
    overlapped.cancel()
    assert overlapped.wait(LONG)


def test_used_again_after_the_end(double: Recorder, disk: Handle) -> None:
    overlapped = start(double, disk)
    with pytest.raises(ValueError, match="in use"):
        _virtdisk.AttachVirtualDisk(disk, overlapped=overlapped)
    double.complete(disk.value)
    assert overlapped.wait(LONG)
    for _ in range(3):
        _virtdisk.AttachVirtualDisk(disk, overlapped=overlapped)
        assert overlapped.pending
        double.complete(disk.value)
        assert overlapped.wait(LONG)
        overlapped.result()
    given = double.calls("AttachVirtualDisk")
    assert [call["Overlapped"] for call in given] == 4 * [bytes(24).hex()]


@pytest.mark.parametrize("method", ["wait", "result", "progress", "cancel"])
def test_never_started(double: Recorder, method: str) -> None:
    with pytest.raises(ValueError, match="no operation"):
        getattr(_virtdisk.Overlapped(), method)()


def test_the_event_is_the_system_s(double: Recorder, disk: Handle) -> None:
    overlapped = start(double, disk)
    wait = KERNEL32.WaitForSingleObject
    wait.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    assert wait(overlapped.event, 0) == 258  # WAIT_TIMEOUT
    double.complete(disk.value)
    assert wait(overlapped.event, 1000 * LONG) == 0  # WAIT_OBJECT_0
    assert not overlapped.pending


def test_wait_lets_other_threads_run(double: Recorder, disk: Handle) -> None:
    overlapped = start(double, disk)
    ended = threading.Timer(0.2, double.complete, [disk.value])
    ended.start()
    assert overlapped.wait(LONG)
    ended.join()


def test_wait_gives_up(double: Recorder, disk: Handle) -> None:
    overlapped = start(double, disk)
    assert not overlapped.wait(0.01)
    assert not overlapped.wait(timeout=-1)
    assert overlapped.pending
    overlapped.cancel()
    assert overlapped.wait(LONG)


def test_wait_can_be_interrupted(double: Recorder, disk: Handle) -> None:
    overlapped = start(double, disk)
    interrupt = threading.Timer(0.2, _thread.interrupt_main)
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        overlapped.wait()
    interrupt.join()
    assert overlapped.pending
    double.complete(disk.value)
    assert overlapped.wait(LONG)


def test_two_threads_wait(double: Recorder, disk: Handle) -> None:
    overlapped = start(double, disk)
    over: list[bool] = []
    waiters = [
        threading.Thread(target=lambda: over.append(overlapped.wait(LONG)))
        for _ in range(2)
    ]
    for waiter in waiters:
        waiter.start()
    double.complete(disk.value)
    for waiter in waiters:
        waiter.join()
    assert over == [True, True]
    overlapped.result()


def test_two_operations_on_one_handle(double: Recorder, disk: Handle) -> None:
    first, second = start(double, disk), start(double, disk)
    first.cancel()
    assert first.wait(LONG)
    assert second.pending  # only the one that was meant is cancelled
    second.cancel()
    assert second.wait(LONG)


def test_asyncio_can_wait_for_the_event(double: Recorder, disk: Handle) -> None:
    overlapped = start(double, disk)

    async def main() -> bool:
        loop = asyncio.get_running_loop()
        loop.call_later(0.05, double.complete, disk.value)
        # What virtdisk.aio may build on: the proactor waits for any handle.
        proactor = vars(loop)["_proactor"]
        return bool(await proactor.wait_for_handle(overlapped.event, LONG))

    assert asyncio.run(main())
    overlapped.result()
