"""virtdisk.aio on the proactor, whose waits are the system's own."""

from __future__ import annotations

import asyncio
import pathlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import oracle
import pytest
from recorder import Recorder, handle_is_open

import virtdisk
from virtdisk import aio

PROGRESS = "GetVirtualDiskOperationProgress"
Verb = Callable[[aio.VirtualDisk], "aio.Operation[Any]"]

# What begins each function, on a disk or beside it.
VERBS: dict[str, Verb] = {
    "AttachVirtualDisk": lambda disk: disk.attach(),
    "CompactVirtualDisk": lambda disk: disk.compact(),
    "ResizeVirtualDisk": lambda disk: disk.resize(1 << 40),
    "MergeVirtualDisk": lambda disk: disk.merge(),
    "CreateVirtualDisk": lambda disk: aio.create(f"{disk.path}.new.vhdx", 1 << 30),
}
every_verb = pytest.mark.parametrize(("function", "begin"), VERBS.items())


def run(
    double: Recorder,
    directory: pathlib.Path,
    use: Callable[[aio.VirtualDisk], Coroutine[Any, Any, None]],
    loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> None:
    """Runs a coroutine with an open disk; its opening is not among the calls."""
    image = directory / "disk.vhdx"
    image.write_bytes(b"vhdxfile".ljust(65536, b"\0"))

    async def main() -> None:
        with virtdisk.open(image) as disk:
            double.forget()
            await use(aio.VirtualDisk(disk))

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


async def begun(double: Recorder, function: str, count: int = 1) -> list[int]:
    """The handles of so many operations, when the system has been asked."""
    while True:
        calls = double.calls(function)
        if len(calls) >= count:
            return [call.get("Handle") or call["VirtualDiskHandle"] for call in calls]
        await asyncio.sleep(0.001)


@every_verb
@pytest.mark.parametrize("loop", [None, asyncio.SelectorEventLoop])
def test_completes(
    double: Recorder,
    tmp_path: pathlib.Path,
    function: str,
    begin: Verb,
    loop: Callable[[], asyncio.AbstractEventLoop] | None,
) -> None:
    async def use(disk: aio.VirtualDisk) -> None:
        double.answer(function, pending=1)
        operation = begin(disk)
        (handle,) = await begun(double, function)
        for _ in range(5):  # the loop is free meanwhile
            await asyncio.sleep(0.001)
            assert not operation.done()
        double.complete(handle)
        result = await operation
        assert operation.done()
        if isinstance(result, aio.VirtualDisk):
            await result.close()

    run(double, tmp_path, use, loop)


@every_verb
def test_fails_later(
    double: Recorder, tmp_path: pathlib.Path, function: str, begin: Verb
) -> None:
    async def use(disk: aio.VirtualDisk) -> None:
        double.answer(function, pending=1, final=112)
        operation = begin(disk)
        double.complete(*await begun(double, function))
        with pytest.raises(virtdisk.VirtualDiskError) as caught:
            await operation
        assert caught.value.winerror == 112
        assert caught.value.function == function

    run(double, tmp_path, use)


@every_verb
def test_a_cancelled_task_cancels_the_operation(
    double: Recorder, tmp_path: pathlib.Path, function: str, begin: Verb
) -> None:
    async def use(disk: aio.VirtualDisk) -> None:
        double.answer(function, pending=1)
        operation = begin(disk)

        async def wait() -> None:
            await operation

        task = asyncio.create_task(wait())
        (handle,) = await begun(double, function)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert operation.done()
        if function == "CreateVirtualDisk":
            assert not handle_is_open(handle)  # nothing is left of it
        else:
            assert not double.is_pending(handle)

    run(double, tmp_path, use)


def test_progress(double: Recorder, tmp_path: pathlib.Path) -> None:
    async def use(disk: aio.VirtualDisk) -> None:
        double.answer("CompactVirtualDisk", pending=1)
        for current in (10, 20, 20, 90):
            members = {
                "OperationStatus": 997,
                "CurrentValue": current,
                "CompletionValue": 100,
            }
            double.answer(PROGRESS, data=oracle.pack("VIRTUAL_DISK_PROGRESS", members))
        operation = disk.compact()
        seen = []
        async for progress in operation.progress(interval=0.001):
            seen.append(progress.fraction)
            if progress.fraction == 0.9:
                double.complete(*await begun(double, "CompactVirtualDisk"))
        await operation
        assert seen == [0.1, 0.2, 0.9, 1.0]

    run(double, tmp_path, use)


def test_mirror(double: Recorder, tmp_path: pathlib.Path) -> None:
    async def use(disk: aio.VirtualDisk) -> None:
        double.answer("MirrorVirtualDisk", pending=1)
        whole = {"OperationStatus": 997, "CurrentValue": 7, "CompletionValue": 7}
        data = oracle.pack("VIRTUAL_DISK_PROGRESS", whole)
        double.answer(PROGRESS, data=data)
        operation = disk.mirror(tmp_path / "mirror.vhdx")
        double.complete(*await begun(double, "BreakMirrorVirtualDisk"))
        await operation
        assert disk.path == str(tmp_path / "mirror.vhdx")

    run(double, tmp_path, use)


def test_many_at_once_need_no_threads(double: Recorder, tmp_path: pathlib.Path) -> None:
    # More than the 63 that one thread of the system's pool can wait for.
    count = 80

    async def use(disk: aio.VirtualDisk) -> None:
        double.answer("CompactVirtualDisk", pending=1)
        threads = threading.active_count()
        disks = [aio.VirtualDisk(virtdisk.open(disk.path)) for _ in range(count)]
        operations = [one.compact() for one in disks]
        handles = await begun(double, "CompactVirtualDisk", count)
        assert threading.active_count() == threads
        for handle in reversed(handles):
            double.complete(handle)
        await asyncio.gather(*operations)
        for one in disks:
            await one.close()

    run(double, tmp_path, use)
