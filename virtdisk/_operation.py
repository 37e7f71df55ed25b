"""Calls of virtdisk.h that take long: waiting, progress, interruption.

Every such call is made with an OVERLAPPED, also where the caller waits for
it, so that it can be watched and interrupted.  A ``Call`` says what is asked
of the system and what follows; ``run`` carries it out for a thread that
waits, ``virtdisk.aio`` for an event loop.

Source: OVERLAPPED, CancelIoEx, GetVirtualDiskOperationProgress.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, NamedTuple, Protocol, TypeVar

from virtdisk import _virtdisk
from virtdisk._errors import VirtualDiskError
from virtdisk._open import who_holds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    ProgressFunction = Callable[[int, int], object]

__all__ = [
    "Call",
    "Pending",
    "Progress",
    "check_progress",
    "give_up",
    "intervals",
    "run",
    "stop",
]

_SHARING_VIOLATION: Final = 32
_FIRST_INTERVAL: Final = 0.001
_LAST_INTERVAL: Final = 0.1

T_co = TypeVar("T_co", covariant=True)


class Progress(NamedTuple):
    """How far an operation is.

    Attributes:
        current: What is done; it never falls.
        completion: What there is to do, in the same unit, which is the
            system's own; 0 while that is not known.
    """

    current: int
    completion: int

    @property
    def fraction(self) -> float:
        """What is done of the whole: 0.0 to 1.0.  Raises nothing.

        Source: VIRTUAL_DISK_PROGRESS.
        """
        return min(self.current / self.completion, 1.0) if self.completion else 0.0


class Pending(Protocol):
    """What is under way: an Overlapped, or what behaves like one."""

    @property
    def pending(self) -> bool:
        """Whether it is not over yet."""

    def wait(self, timeout: float | None = None) -> bool:
        """Waits, at most so many seconds; whether it is over."""

    def result(self) -> None:
        """Raises what it has failed with."""

    def progress(self) -> tuple[int, int, int]:
        """Its status, what is done, and what there is to do."""

    def cancel(self) -> None:
        """Asks it to stop."""


class Call(Generic[T_co]):
    """One call with an OVERLAPPED, and what follows from its outcome.

    Attributes:
        path: The image, for the remedy of a sharing violation.
        endless: Whether it goes on until ``end`` is called, which is to be
            when its progress is complete.
    """

    endless: bool = False

    def __init__(self, path: str) -> None:
        self.path = path

    def begin(self) -> Pending:
        """Begins what is to be done.

        Returns:
            What is pending, or over already.

        Raises:
            VirtualDiskError: It did not begin.

        Source: OVERLAPPED.
        """
        overlapped = _virtdisk.Overlapped()
        try:
            self.start(overlapped)
        except BaseException:
            # Ctrl-C may come when the function has just returned.
            stop(overlapped)
            if _has_succeeded(overlapped):
                self.undo()
            raise
        return overlapped

    def start(self, overlapped: _virtdisk.Overlapped) -> None:
        """Makes the call.

        Args:
            overlapped: To be given to it.

        Raises:
            VirtualDiskError: It did not begin.

        Source: The function of virtdisk.h.
        """
        raise NotImplementedError

    def end(self) -> None:
        """Lets an endless call succeed.

        Raises:
            VirtualDiskError: What the system answers.

        Source: BreakMirrorVirtualDisk.
        """
        raise NotImplementedError

    def finish(self) -> T_co:
        """Is called after success.

        Returns:
            What the caller gets.

        Raises:
            VirtualDiskError: What asking the system for it answers.

        Source: The function of virtdisk.h.
        """
        raise NotImplementedError

    def undo(self) -> None:
        """Is called before ``fail`` if it succeeded all the same.

        Whoever interrupts it, or raises while its progress is reported, may
        come too late.  What it has made goes away again where that can be.
        Raises nothing.

        Source: CancelIoEx, which may find nothing to cancel.
        """

    def fail(self, error: BaseException) -> None:
        """Is called after anything else, when nothing is pending any more.

        Args:
            error: What is about to be raised; it may be given a better
                remedy.  Raises nothing.

        Source: The function of virtdisk.h.
        """
        if not isinstance(error, VirtualDiskError):
            return
        if error.winerror == _SHARING_VIOLATION:
            error.remedy = who_holds(self.path) or error.remedy


def check_progress(progress: object) -> None:
    """Checks that progress can be reported.

    Args:
        progress: A callable, or None.

    Raises:
        TypeError: Neither.

    Source: GetVirtualDiskOperationProgress.
    """
    if progress is not None and not callable(progress):
        kind = type(progress).__name__
        msg = f"progress must be callable with (current, completion), not {kind}"
        raise TypeError(msg)


def intervals() -> Iterator[float]:
    """How long to wait before asking again: short at first, then longer.

    Yields:
        Seconds.  Raises nothing.

    Source: GetVirtualDiskOperationProgress, which has to be polled.
    """
    seconds = _FIRST_INTERVAL
    while True:
        yield seconds
        seconds = min(seconds * 2, _LAST_INTERVAL)


def stop(operation: Pending) -> None:
    """Cancels what is pending and returns when it is over.

    Args:
        operation: Pending, or over already.

    Raises:
        KeyboardInterrupt: After Ctrl-C while it waits.

    Source: CancelIoEx, GetOverlappedResult.
    """
    if operation.pending:
        operation.cancel()
        operation.wait()


def _has_succeeded(operation: Pending) -> bool:
    """False also if it did not begin, or failed with whatever a thread raised."""
    try:
        operation.result()
    except Exception:
        return False
    return True


def give_up(
    call: Call[object], operation: Pending | None, error: BaseException
) -> None:
    """Leaves a call as one that has failed.

    Args:
        call: What was to be done.
        operation: It, over; None if it did not begin.
        error: What is about to be raised.  Raises nothing.

    Source: GetOverlappedResult.
    """
    if operation is not None and _has_succeeded(operation):
        call.undo()
    call.fail(error)


def _watch(
    call: Call[object],
    operation: Pending,
    progress: ProgressFunction | None,
) -> None:
    """Waits until a call is over, reports its progress, ends an endless one."""
    told = (0, 0)
    ended = not call.endless
    for interval in intervals():
        _, current, completion = operation.progress()
        if progress is not None and completion and (current, completion) != told:
            told = (current, completion)
            progress(current, completion)
        if not ended and operation.pending and current >= completion > 0:
            call.end()
            ended = True
        if operation.wait(interval):
            break
    operation.result()
    if progress is not None and (told[1] == 0 or told[0] != told[1]):
        whole = operation.progress()[2] or told[1] or 1
        progress(whole, whole)


def run(call: Call[T_co], progress: ProgressFunction | None = None) -> T_co:
    """Carries a call out and waits for it.

    Args:
        call: What to do.
        progress: Called now and then with what is done and what there is to
            do, in a unit of the system's own; at the end of a success with
            equal values.  What it raises cancels the operation.

    Returns:
        What the call gives.

    Raises:
        KeyboardInterrupt: After Ctrl-C; the operation was cancelled and is
            over.
        VirtualDiskError: Its failure.

    Source: GetOverlappedResult, CancelIoEx.
    """
    operation: Pending | None = None
    try:
        operation = call.begin()
        if progress is None and not call.endless:
            operation.wait()
            operation.result()
        else:
            _watch(call, operation, progress)
    except BaseException as error:
        if operation is not None:
            stop(operation)
        give_up(call, operation, error)
        raise
    return call.finish()
