"""A recorder in the place of the extension module.

It notes every call and answers as it is told, so that every choice of version,
mask and flags can be seen, for images of every kind, on every system.  Its
asynchronous calls go through the steps that a test has written down.
"""

from __future__ import annotations

import os
import sys
import types
from typing import Any, Self

import pytest

from virtdisk import (
    _chain,
    _create,
    _disk,
    _info,
    _maintenance,
    _metadata,
    _open,
    _operation,
    error_from_code,
)

ABORTED = 995
PENDING = 997
NOT_FOUND = 1168
FAILURES = {5, 50, 87, 0xC03A0010, 0xC03A001B, 0xC03A0026}
MODULES: list[types.ModuleType] = [
    _chain,
    _create,
    _disk,
    _info,
    _maintenance,
    _metadata,
    _open,
    _operation,
]


class RecordedHandle:
    """Stands in for a Handle."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.closed = False

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RecordedOverlapped:
    """Stands in for an Overlapped: takes one step of the script a wait."""

    def __init__(self, recorder: Recorder) -> None:
        recorder.overlapped.append(self)
        self._recorder = recorder
        self._steps = list(recorder.steps)
        self._told = (0, 0)
        self.started = False
        self.pending = False
        self.cancelled = False
        self.code = recorder.outcome
        self.event = 0
        if sys.platform != "win32":
            self.event = os.eventfd(0, os.EFD_CLOEXEC)

    def __del__(self) -> None:
        if self.event:
            os.close(self.event)

    def fileno(self) -> int:
        return self.event

    def start(self) -> None:
        self.started = self.pending = True

    def finish(self, code: int | None = None) -> None:
        """The system says that it is over."""
        self.pending = False
        if code is not None:
            self.code = code
        if self.event:
            os.eventfd_write(self.event, 1)

    def wait(self, timeout: float | None = None) -> bool:
        if self._recorder.interrupt is not None:
            error, self._recorder.interrupt = self._recorder.interrupt, None
            raise error
        while self.pending:
            if self._steps:
                self._steps.pop(0)
            if not self._steps and not self._recorder.endless:
                self.finish()
            elif timeout is not None:
                break
            elif self._recorder.endless:
                raise AssertionError("would wait for ever")
        return not self.pending

    def progress(self) -> tuple[int, int, int]:
        if self._steps:
            self._told = self._steps[0]
        if self._recorder.asking_advances and self.pending:
            self._steps = self._steps[1:]
            if not self._steps and not self._recorder.endless:
                self.finish()
        return (PENDING if self.pending else self.code, *self._told)

    def cancel(self) -> None:
        self.cancelled = True
        if self.pending:
            self.finish(ABORTED)

    def result(self) -> None:
        assert not self.pending
        if not self.started:
            raise ValueError("no operation was started with this Overlapped")
        if self.code:
            raise error_from_code(self.code, "GetOverlappedResult", "/image")


class Recorder:
    """Stands in for the extension module."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.handles: list[RecordedHandle] = []
        self.overlapped: list[RecordedOverlapped] = []
        self.fail: dict[str, int] = {}
        self.classes: dict[int, object] = {}
        self.attached: list[str] = []
        self.items: dict[bytes, bytes] = {}
        self.dependencies: list[tuple[Any, ...]] = []
        # What asynchronous calls go through, and how they end.
        self.steps: list[tuple[int, int]] = []
        self.outcome = 0
        self.asking_advances = False  # by a step each time; otherwise waiting does
        self.endless = False  # until cancelled, or a mirror is broken off
        self.interrupt: BaseException | None = None  # raised by the first wait
        self.interrupt_start: BaseException | None = None  # when one has begun

    def _call(self, name: str, path: str | None, /, **arguments: Any) -> None:
        overlapped = arguments.pop("overlapped", None)
        self.calls.append((name, arguments))
        if name in self.fail:
            raise error_from_code(self.fail[name], name, path)
        if overlapped is not None:
            overlapped.start()
            if self.interrupt_start is not None:
                raise self.interrupt_start

    def only(self, name: str) -> dict[str, Any]:
        """The arguments of the only call of a function."""
        found = [arguments for called, arguments in self.calls if called == name]
        assert len(found) == 1
        return found[0]

    def names(self) -> list[str]:
        """The functions that were called, in order."""
        return [name for name, _ in self.calls]

    def Overlapped(self) -> RecordedOverlapped:
        return RecordedOverlapped(self)

    def OpenVirtualDisk(self, path: str, **arguments: Any) -> RecordedHandle:
        self._call("OpenVirtualDisk", path, path=path, **arguments)
        self.handles.append(RecordedHandle(path))
        return self.handles[-1]

    def CreateVirtualDisk(self, path: str, **arguments: Any) -> RecordedHandle:
        self._call("CreateVirtualDisk", path, path=path, **arguments)
        self.handles.append(RecordedHandle(path))
        return self.handles[-1]

    def AttachVirtualDisk(self, handle: RecordedHandle, **arguments: Any) -> None:
        self._call("AttachVirtualDisk", handle.path, **arguments)

    def DetachVirtualDisk(self, handle: RecordedHandle, **arguments: Any) -> None:
        self._call("DetachVirtualDisk", handle.path, **arguments)

    def GetVirtualDiskPhysicalPath(self, handle: RecordedHandle) -> str:
        self._call("GetVirtualDiskPhysicalPath", handle.path)
        return "/dev/null"

    def GetAllAttachedVirtualDiskPhysicalPaths(self) -> list[str]:
        self._call("GetAllAttachedVirtualDiskPhysicalPaths", None)
        return self.attached

    def GetStorageDependencyInformation(
        self, path: str, **arguments: Any
    ) -> list[tuple[Any, ...]]:
        self._call("GetStorageDependencyInformation", path, path=path, **arguments)
        return self.dependencies

    def GetVirtualDiskInformation(self, handle: RecordedHandle, number: int) -> object:
        answer = self.classes[number]
        if isinstance(answer, int) and answer in FAILURES:
            raise error_from_code(answer, "GetVirtualDiskInformation", handle.path)
        return answer

    def SetVirtualDiskInformation(
        self, handle: RecordedHandle, version: int, **arguments: Any
    ) -> None:
        name = "SetVirtualDiskInformation"
        self._call(name, handle.path, version=version, **arguments)

    def CompactVirtualDisk(self, handle: RecordedHandle, **arguments: Any) -> None:
        self._call("CompactVirtualDisk", handle.path, **arguments)

    def MergeVirtualDisk(self, handle: RecordedHandle, **arguments: Any) -> None:
        self._call("MergeVirtualDisk", handle.path, **arguments)

    def ResizeVirtualDisk(
        self, handle: RecordedHandle, new_size: int, **arguments: Any
    ) -> None:
        self._call("ResizeVirtualDisk", handle.path, new_size=new_size, **arguments)

    def MirrorVirtualDisk(
        self,
        handle: RecordedHandle,
        path: str,
        overlapped: RecordedOverlapped,
        **arguments: Any,
    ) -> None:
        name = "MirrorVirtualDisk"
        self._call(name, handle.path, path=path, overlapped=overlapped, **arguments)

    def BreakMirrorVirtualDisk(self, handle: RecordedHandle) -> None:
        self._call("BreakMirrorVirtualDisk", handle.path)
        self.overlapped[-1].finish()

    def EnumerateVirtualDiskMetadata(self, handle: RecordedHandle) -> list[bytes]:
        self._call("EnumerateVirtualDiskMetadata", handle.path)
        return list(self.items)

    def GetVirtualDiskMetadata(self, handle: RecordedHandle, item: bytes) -> bytes:
        self._call("GetVirtualDiskMetadata", handle.path, item=item)
        if item not in self.items:
            raise error_from_code(NOT_FOUND, "GetVirtualDiskMetadata", handle.path)
        return self.items[item]

    def SetVirtualDiskMetadata(
        self, handle: RecordedHandle, item: bytes, metadata: bytes
    ) -> None:
        self._call("SetVirtualDiskMetadata", handle.path, item=item)
        self.items[item] = metadata

    def DeleteVirtualDiskMetadata(self, handle: RecordedHandle, item: bytes) -> None:
        self._call("DeleteVirtualDiskMetadata", handle.path, item=item)
        if item not in self.items:
            raise error_from_code(NOT_FOUND, "DeleteVirtualDiskMetadata", handle.path)
        del self.items[item]


def install(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Puts a recorder in the place of the extension module."""
    recorder = Recorder()
    for module in MODULES:
        monkeypatch.setattr(module, "_virtdisk", recorder)
    return recorder
