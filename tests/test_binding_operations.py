"""Operations: every function that takes an OVERLAPPED, over the double."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import gc
import select
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from binding_calls import (
    ABI,
    EVERY_MEMBER,
    MIRROR_CASES,
    STARTED,
    Case,
    ident,
    make,
    started,
)
from binding_double import (
    ATTACH,
    CANCEL,
    CLOSE,
    CREATE,
    PENDING,
    PROGRESS,
    SUCCESS,
    WAIT,
    Double,
    start,
)
from support import LINUX

from virtdisk._errors import VirtualDiskError

pytestmark = pytest.mark.skipif(not LINUX, reason="the double is for Linux")


def create(double: Double, **more: object) -> tuple[Any, Any]:
    """One that is pending."""
    overlapped = double.api.Overlapped()
    double.answer(CREATE, PENDING)
    handle = double.api.CreateVirtualDisk("new", overlapped=overlapped, **more)
    double.answer(CREATE, SUCCESS)
    return handle, overlapped


def test_create_pending(double: Double) -> None:
    """The handle is there at once; the operation is asked for through both."""
    handle, overlapped = create(double, version=4, **EVERY_MEMBER)
    assert overlapped.pending
    assert not handle.closed
    assert double.api.GetVirtualDiskOperationProgress(handle, overlapped) == (
        (PENDING, 3, 0x100000007)
    )
    double.complete(SUCCESS)
    assert overlapped.wait(30)
    assert overlapped.result() is None
    handle.close()
    assert double.calls(CLOSE) == 1


def test_create_fails_later(double: Double) -> None:
    handle, overlapped = create(double)
    double.complete(112)
    with pytest.raises(VirtualDiskError) as caught:
        overlapped.result()
    assert caught.value.winerror == 112
    assert caught.value.function == "CreateVirtualDisk"
    assert caught.value.filename == "new"
    assert not handle.closed
    handle.close()
    assert double.calls(CLOSE) == 1


def test_create_fails_at_once(double: Double) -> None:
    overlapped = double.api.Overlapped()
    double.answer(CREATE, 87)
    with pytest.raises(VirtualDiskError) as caught:
        double.api.CreateVirtualDisk("new", overlapped=overlapped)
    assert caught.value.winerror == 87
    with pytest.raises(ValueError, match="started"):
        overlapped.result()


def test_create_done_at_once(double: Double) -> None:
    overlapped = double.api.Overlapped()
    handle = double.api.CreateVirtualDisk("new", overlapped=overlapped)
    assert overlapped.result() is None
    handle.close()
    assert double.calls(CLOSE) == 1


def test_create_closed_while_pending(double: Double) -> None:
    handle, overlapped = create(double)
    handle.close()
    assert double.calls(CLOSE) == 0
    del handle
    gc.collect()
    assert double.calls(CLOSE) == 0
    overlapped.cancel()
    assert overlapped.wait(30)
    assert double.calls(CLOSE) == 1


def test_create_dropped_while_pending(double: Double) -> None:
    handle, overlapped = create(double)
    del overlapped
    gc.collect()
    assert double.calls(CANCEL) == 1
    assert double.calls(CLOSE) == 0
    handle.close()
    assert double.calls(CLOSE) == 1


def test_create_all_dropped_while_pending(double: Double) -> None:
    pair = [*create(double)]
    pair.clear()
    gc.collect()
    assert (double.calls(CANCEL), double.calls(CLOSE)) == (1, 1)


def test_create_with_an_overlapped_in_use(double: Double) -> None:
    _, overlapped = create(double)
    with pytest.raises(ValueError, match="in use"):
        double.api.CreateVirtualDisk("other", overlapped=overlapped)
    assert double.calls(CREATE) == 1
    double.complete(SUCCESS)


def test_create_pending_without_overlapped_is_an_error(double: Double) -> None:
    double.answer(CREATE, PENDING)
    with pytest.raises(VirtualDiskError) as caught:
        double.api.CreateVirtualDisk("new")
    assert caught.value.winerror == PENDING


# Every function that takes an Overlapped.


def test_these_are_all_that_take_one() -> None:
    takes = {n for n, names in ABI["functions"].items() if "Overlapped" in names}
    tested = {c.name for c in STARTED} | {"AttachVirtualDisk"}
    assert takes == tested | {"GetVirtualDiskOperationProgress"}


@pytest.mark.parametrize("case", STARTED, ids=ident)
def test_operation(double: Double, case: Case) -> None:
    overlapped = started(double, case)
    assert double.given.overlapped == 1
    assert overlapped.pending
    assert overlapped.wait(0) is False
    assert overlapped.progress() == (PENDING, 3, 0x100000007)
    assert select.select([overlapped], [], [], 0) == ([], [], [])
    double.complete(SUCCESS)
    assert select.select([overlapped], [], [], 30) == ([overlapped], [], [])
    assert overlapped.result() is None


@pytest.mark.parametrize("case", STARTED, ids=ident)
def test_operation_is_cancelled(double: Double, case: Case) -> None:
    overlapped = started(double, case)
    overlapped.cancel()
    assert overlapped.wait(30)
    with pytest.raises(VirtualDiskError) as caught:
        overlapped.result()
    assert (caught.value.winerror, caught.value.function) == (995, case.name)


@pytest.mark.parametrize("case", STARTED, ids=ident)
def test_operation_is_dropped(double: Double, case: Case) -> None:
    box = [started(double, case)]
    waits = double.calls(WAIT)
    box.clear()
    assert double.calls(CANCEL) == 1
    assert double.calls(WAIT) == waits + 1


@pytest.mark.parametrize("case", STARTED, ids=ident)
def test_operation_fails_at_once(double: Double, case: Case) -> None:
    overlapped = double.api.Overlapped()
    double.answer(case.number, 5)
    with pytest.raises(PermissionError) as caught:
        make(double, case, overlapped=overlapped)
    assert getattr(caught.value, "function", None) == case.name
    assert not overlapped.pending


@pytest.mark.parametrize("case", STARTED, ids=ident)
def test_what_an_operation_was_given_is_kept(double: Double, case: Case) -> None:
    """Also after its objects are gone and others have taken their place."""
    overlapped = started(double, case)
    gc.collect()
    noise = [ctypes.create_string_buffer(b"\xaa" * n, n) for n in range(1, 400)]
    assert double.intact()
    del noise
    assert double.intact()
    double.complete(SUCCESS)
    assert overlapped.result() is None


def test_create_keeps_its_descriptor(double: Double) -> None:
    _, overlapped = create(double, security_descriptor="D:", **EVERY_MEMBER)
    noise = [ctypes.create_string_buffer(b"\xaa" * n, n) for n in range(1, 400)]
    assert len(noise) == 399
    assert double.intact()
    overlapped.cancel()
    assert overlapped.wait(30)


@pytest.mark.parametrize("case", MIRROR_CASES, ids=ident)
def test_overlapped_is_needed(double: Double, case: Case) -> None:
    handle = double.api.OpenVirtualDisk("x")
    function = getattr(double.api, case.name)
    for value in (None, 1, handle):
        with pytest.raises(TypeError, match="overlapped must be Overlapped, not"):
            function(handle, "path", value)
    with pytest.raises(TypeError, match="overlapped"):
        function(handle, "path")
    assert double.calls(case.number) == 0


@pytest.mark.parametrize("case", MIRROR_CASES, ids=ident)
def test_error_names_the_other_file(double: Double, case: Case) -> None:
    double.answer(case.number, 80)
    with pytest.raises(FileExistsError) as caught:
        make(double, case)
    assert caught.value.filename == case.texts[0]


# GetVirtualDiskOperationProgress.


def test_progress_is_what_the_system_says(double: Double) -> None:
    """It may go back, and be of nothing."""
    handle, overlapped = start(double)
    progress = double.api.GetVirtualDiskOperationProgress
    for told in ((5, 8), (2**64 - 1, 2**64 - 1), (1, 8), (3, 0), (0, 0)):
        double.progress.current, double.progress.completion = told
        assert progress(handle, overlapped) == (PENDING, *told)
    double.complete(SUCCESS)
    assert progress(handle, overlapped) == (SUCCESS, 0, 0)
    assert not overlapped.pending
    assert progress(handle, overlapped=overlapped) == (SUCCESS, 0, 0)
    double.answer(PROGRESS, 87)
    with pytest.raises(VirtualDiskError) as caught:
        progress(handle, overlapped)
    assert caught.value.winerror == 87
    assert caught.value.function == "GetVirtualDiskOperationProgress"
    assert caught.value.filename == "the image"


def test_progress_of_nothing(double: Double) -> None:
    handle = double.api.OpenVirtualDisk("x")
    progress = double.api.GetVirtualDiskOperationProgress
    with pytest.raises(ValueError, match="no operation was started"):
        progress(handle, double.api.Overlapped())
    for value in (None, handle):
        with pytest.raises(TypeError, match="overlapped must be Overlapped, not"):
            progress(handle, value)
    _, overlapped = start(double)
    handle.close()
    with pytest.raises(ValueError, match="closed"):
        progress(handle, overlapped)
    double.complete(SUCCESS)
    assert double.calls(PROGRESS) == 0


def test_progress_while_it_is_being_started(double: Double) -> None:
    handle = double.api.OpenVirtualDisk("x")
    overlapped = double.api.Overlapped()

    def attach() -> None:
        double.api.AttachVirtualDisk(handle, overlapped=overlapped)

    with (
        double.inside_of(ATTACH, attach) as raised,
        pytest.raises(ValueError, match="being started"),
    ):
        double.api.GetVirtualDiskOperationProgress(handle, overlapped)
    assert raised == []


def test_no_reuse_while_its_progress_is_asked(double: Double) -> None:
    handle, overlapped = start(double)
    double.complete(SUCCESS)
    assert overlapped.wait(30)

    def ask() -> None:
        double.api.GetVirtualDiskOperationProgress(handle, overlapped)

    with (
        double.inside_of(PROGRESS, ask) as raised,
        pytest.raises(ValueError, match="in use"),
    ):
        double.api.AttachVirtualDisk(handle, overlapped=overlapped)
    assert raised == []
    double.api.AttachVirtualDisk(handle, overlapped=overlapped)


# Many threads.


def test_threads_share_an_overlapped(double: Double) -> None:
    """Everything at once, while operations come and go."""
    handle = double.api.OpenVirtualDisk("x")
    overlapped = double.api.Overlapped()
    over = threading.Event()
    wrong: list[BaseException] = []
    asked = collections.Counter[int]()

    def ask(number: int) -> None:
        calls: list[Callable[[], object]] = [
            overlapped.progress,
            lambda: overlapped.wait(0),
            lambda: overlapped.wait(0.001),
            overlapped.fileno,
            lambda: double.api.GetVirtualDiskOperationProgress(handle, overlapped),
            overlapped.result,
            overlapped.cancel,
            lambda: overlapped.pending,
        ]
        while not over.is_set():
            try:
                calls[number]()
            except (ValueError, VirtualDiskError):
                pass  # being started, pending, or cancelled
            except BaseException as error:
                wrong.append(error)
            asked[number] += 1
            time.sleep(0.0005)  # a moment in which nobody asks is needed to start

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for other in threads:
        other.start()
    started_here = 0
    while started_here < 50 or min(asked[n] for n in range(8)) < 50:
        double.answer(ATTACH, PENDING)
        with contextlib.suppress(ValueError):  # another thread is asking
            double.api.AttachVirtualDisk(handle, overlapped=overlapped)
            started_here += 1
        double.complete(SUCCESS)
    over.set()
    for other in threads:
        other.join(30)
    assert wrong == []
    assert not overlapped.pending
    handle.close()
    assert double.calls(CLOSE) == 1
