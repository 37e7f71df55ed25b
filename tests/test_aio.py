"""virtdisk.aio: what is awaited, watched and cancelled.

First with a recorder in the place of the extension module, whose operations
end when a test says so; then with the engine.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import hashlib
import os
import pathlib
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from recorder import Recorder, install
from support import (
    LINUX,
    let_go,
    loops_of,
    make_iso,
    make_vhd,
    pattern,
    require_loop,
    sha256,
)

import virtdisk
from virtdisk import VirtualDiskError, _scsi, aio

MIB = 1 << 20
linux_only = pytest.mark.skipif(not LINUX, reason="needs the engine")


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Any:
    recorder = install(monkeypatch)
    yield recorder
    for handle in recorder.handles:
        handle.close()


Verb = Callable[[aio.VirtualDisk], aio.Operation[Any]]

VERBS: dict[str, Verb] = {
    "attach": lambda disk: disk.attach(),
    "compact": lambda disk: disk.compact(),
    "resize": lambda disk: disk.resize(1 << 30),
    "merge": lambda disk: disk.merge(),
    "create": lambda disk: aio.create(disk.path + ".vhd", 1 << 30),
    "convert": lambda disk: aio.convert(disk.path, disk.path + ".vhdx"),
}
every_verb = pytest.mark.parametrize("name", VERBS)


def run(
    use: Callable[[aio.VirtualDisk], Coroutine[Any, Any, None]], path: pathlib.Path
) -> None:
    """Runs a coroutine with an open disk, in a loop of its own.

    Its executor has one thread, whenever that is idle again.
    """

    async def main() -> None:
        executor = concurrent.futures.ThreadPoolExecutor(1)
        asyncio.get_running_loop().set_default_executor(executor)
        async with await aio.open(make_vhd(path / "a.vhd")) as disk:
            await use(disk)

    asyncio.run(main())


async def begun(operation: aio.Operation[Any], api: Recorder) -> None:
    """Returns when the system has been asked."""
    while not (api.overlapped and api.overlapped[-1].pending):
        assert not operation.done()
        await asyncio.sleep(0)


# --- Operations -------------------------------------------------------------


@every_verb
def test_operation_is_awaited(name: str, api: Recorder, tmp_path: pathlib.Path) -> None:
    async def use(disk: aio.VirtualDisk) -> None:
        threads = threading.active_count()
        operation = VERBS[name](disk)
        await begun(operation, api)
        assert not operation.done()
        assert threading.active_count() == threads
        api.overlapped[-1].finish()
        first = await operation
        assert await operation is first
        assert operation.done()
        assert not operation.cancel()
        assert (first is None) == (name != "create")
        if first is not None:
            assert first.path == disk.path + ".vhd"
            await first.close()
            assert first.closed

    run(use, tmp_path)


@every_verb
def test_failure(name: str, api: Recorder, tmp_path: pathlib.Path) -> None:
    async def use(disk: aio.VirtualDisk) -> None:
        operation = VERBS[name](disk)
        await begun(operation, api)
        api.overlapped[-1].finish(112)
        with pytest.raises(VirtualDiskError) as caught:
            await operation
        assert caught.value.winerror == 112
        assert not api.overlapped[-1].cancelled

    run(use, tmp_path)


@every_verb
def test_what_does_not_begin(name: str, api: Recorder, tmp_path: pathlib.Path) -> None:
    async def use(disk: aio.VirtualDisk) -> None:
        for verb in ("Attach", "Compact", "Resize", "Merge", "Create"):
            api.fail[f"{verb}VirtualDisk"] = 5
        with pytest.raises(virtdisk.AccessDeniedError):
            await VERBS[name](disk)

    run(use, tmp_path)


@every_verb
@pytest.mark.parametrize("how", ["task", "operation", "timeout", "progress"])
def test_cancellation_waits_for_the_end(
    name: str,
    how: str,
    api: Recorder,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def watch(operation: aio.Operation[Any]) -> None:
        async for _ in operation.progress(0.001):
            pass

    async def wait(operation: aio.Operation[Any]) -> None:
        await operation

    async def use(disk: aio.VirtualDisk) -> None:
        operation = VERBS[name](disk)
        await begun(operation, api)
        overlapped = api.overlapped[-1]
        asked, enough = asyncio.Event(), asyncio.Event()
        monkeypatch.setattr(overlapped, "cancel", asked.set)

        async def give_up() -> None:
            """The system takes its time."""
            await asked.wait()
            await enough.wait()
            overlapped.finish(995)

        system = asyncio.create_task(give_up())
        loop = asyncio.get_running_loop()
        if how == "timeout":
            loop.call_later(0.05, enough.set)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(operation, 0.001)
        elif how == "operation":
            loop.call_later(0.05, enough.set)
            assert operation.cancel()
            with pytest.raises(asyncio.CancelledError):
                await operation
        else:
            task = asyncio.create_task(
                (watch if how == "progress" else wait)(operation)
            )
            await asyncio.sleep(0.01)
            for _ in range(3):  # impatience changes nothing
                task.cancel()
                await asyncio.sleep(0.001)
                assert overlapped.pending
                assert not task.done()
            enough.set()
            with pytest.raises(asyncio.CancelledError):
                await task
        await system
        assert not overlapped.pending
        assert operation.done()

    run(use, tmp_path)


def test_cancelled_before_it_began(api: Recorder, tmp_path: pathlib.Path) -> None:
    async def use(disk: aio.VirtualDisk) -> None:
        operation = disk.compact()
        operation.cancel()
        with pytest.raises(asyncio.CancelledError):
            await operation
        assert api.overlapped == []

    run(use, tmp_path)


def test_end_of_the_loop_cancels(api: Recorder, tmp_path: pathlib.Path) -> None:
    operations = []

    async def main() -> None:
        disk = await aio.open(make_vhd(tmp_path / "a.vhd"))
        operations.append(disk.compact())
        await begun(operations[0], api)

    asyncio.run(main())
    assert api.overlapped[-1].cancelled
    assert not api.overlapped[-1].pending


@linux_only
def test_loop_that_is_closed_too_early_cancels(
    api: Recorder, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its task is destroyed, of which asyncio complains, and nothing else."""
    ignored: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    loop = asyncio.new_event_loop()

    async def begin() -> aio.DiskOperation:
        operation = aio.create(tmp_path / "a.vhd", 1 << 30)
        await begun(operation, api)
        return operation

    operation = loop.run_until_complete(begin())
    loop.close()
    del operation
    gc.collect()
    assert api.overlapped[-1].cancelled
    assert api.handles[-1].closed
    assert ignored == []


@pytest.mark.parametrize("how", ["attach", "open"])
def test_attachment_that_is_cancelled_too_late_is_undone(
    how: str, api: Recorder, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a permanent one, which closing would leave."""

    async def use(disk: aio.VirtualDisk) -> None:
        operation: aio.Operation[Any] = (
            disk.attach(permanent=True)
            if how == "open"
            else aio.attach(disk.path, permanent=True)
        )
        await begun(operation, api)
        overlapped = api.overlapped[-1]
        monkeypatch.setattr(overlapped, "cancel", lambda: overlapped.finish(0))
        operation.cancel()
        with pytest.raises(asyncio.CancelledError):
            await operation
        assert api.names()[-2:] == ["AttachVirtualDisk", "DetachVirtualDisk"]
        assert "permanently" not in repr(disk)

    run(use, tmp_path)


def test_new_image_that_is_cancelled_too_late_is_removed(
    api: Recorder, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = tmp_path / "new.vhd"

    async def main() -> None:
        operation = aio.create(new, 1 << 30)
        await begun(operation, api)
        new.write_bytes(b"whole")
        overlapped = api.overlapped[-1]
        monkeypatch.setattr(overlapped, "cancel", lambda: overlapped.finish(0))
        operation.cancel()
        with pytest.raises(asyncio.CancelledError):
            await operation

    asyncio.run(main())
    assert api.handles[-1].closed
    assert not new.exists()


def test_outside_of_a_loop(api: Recorder, tmp_path: pathlib.Path) -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        aio.create(tmp_path / "a.vhd", 1 << 30)
    assert api.calls == []


# --- Progress ---------------------------------------------------------------


@every_verb
def test_progress(name: str, api: Recorder, tmp_path: pathlib.Path) -> None:
    async def use(disk: aio.VirtualDisk) -> None:
        api.asking_advances = True
        api.steps = [(0, 0), (0, 7), (3, 7), (3, 7), (7, 7), (7, 7)]
        operation = VERBS[name](disk)
        told = [progress async for progress in operation.progress(0.001)]
        assert told == [(0, 7), (3, 7), (7, 7)]
        assert [progress.fraction for progress in told] == [0.0, 3 / 7, 1.0]
        done = await operation
        if done is not None:
            await done.close()

    run(use, tmp_path)


def test_progress_of_what_is_over_at_once(
    api: Recorder, tmp_path: pathlib.Path
) -> None:
    async def use(disk: aio.VirtualDisk) -> None:
        operation = disk.compact()
        await begun(operation, api)
        api.overlapped[-1].finish()
        assert [p async for p in operation.progress()] == [(1, 1)]
        await operation
        assert [p async for p in operation.progress()] == [(1, 1)]

    run(use, tmp_path)


def test_progress_of_a_failure_just_ends(api: Recorder, tmp_path: pathlib.Path) -> None:
    async def use(disk: aio.VirtualDisk) -> None:
        operation = disk.compact()
        await begun(operation, api)
        api.overlapped[-1].finish(112)
        assert [p async for p in operation.progress()] == []
        with pytest.raises(VirtualDiskError):
            await operation

    run(use, tmp_path)


# --- mirror -----------------------------------------------------------------


def test_mirror(api: Recorder, tmp_path: pathlib.Path) -> None:
    async def use(disk: aio.VirtualDisk) -> None:
        api.endless = api.asking_advances = True
        api.steps = [(0, 0), (5, 9), (9, 9)]
        await disk.mirror(tmp_path / "b.vhd")
        assert disk.path == str(tmp_path / "b.vhd")
        assert api.names()[1:] == ["MirrorVirtualDisk", "BreakMirrorVirtualDisk"]

    run(use, tmp_path)


def test_mirror_that_fails(api: Recorder, tmp_path: pathlib.Path) -> None:
    async def use(disk: aio.VirtualDisk) -> None:
        before = disk.path
        operation = disk.mirror(tmp_path / "b.vhd")
        await begun(operation, api)
        api.overlapped[-1].finish(112)
        with pytest.raises(VirtualDiskError):
            await operation
        assert disk.path == before
        assert api.names()[1:] == ["MirrorVirtualDisk"]

    run(use, tmp_path)


# --- Disks ------------------------------------------------------------------


def test_same_arguments_as_virtdisk(api: Recorder, tmp_path: pathlib.Path) -> None:
    """Each verb asks the system for exactly what the waiting one asks."""
    image = make_vhd(tmp_path / "a.vhd")
    api.attached = [str(image)]

    def plain() -> list[tuple[str, Any]]:
        calls = list(api.calls)
        api.calls.clear()
        for _, arguments in calls:
            arguments.pop("resiliency_guid", None)
        return calls

    options: dict[str, Any] = {"read_only": True, "drive_letter": False}
    with virtdisk.attach(image, permanent=True, **options) as disk:
        disk.detach()
    virtdisk.create(tmp_path / "b.vhdx", 1 << 30, sector_size=4096).close()
    virtdisk.convert(image, tmp_path / "c.vhdx", type="fixed")
    virtdisk.open(image, info_only=True, parents=False).close()
    virtdisk.detach(image)
    virtdisk.attached()
    expected = plain()

    async def main() -> None:
        api.asking_advances = True
        async with aio.attach(image, permanent=True, **options) as disk:
            await disk.detach()
        made = await aio.create(tmp_path / "b.vhdx", 1 << 30, sector_size=4096)
        await made.close()
        await aio.convert(image, tmp_path / "c.vhdx", type="fixed")
        await (await aio.open(image, info_only=True, parents=False)).close()
        await aio.detach(image)
        await aio.attached()

    async def ending(pending: set[Any]) -> None:
        while pending:
            for overlapped in api.overlapped:
                if overlapped.pending:
                    overlapped.finish()
            await asyncio.sleep(0.001)

    async def both() -> None:
        work = asyncio.create_task(main())
        pending: set[Any] = {work}
        work.add_done_callback(pending.discard)
        await asyncio.gather(work, ending(pending))

    asyncio.run(both())
    assert plain() == expected


def test_wrong_arguments_are_told_at_once(
    api: Recorder, tmp_path: pathlib.Path
) -> None:
    async def use(disk: aio.VirtualDisk) -> None:
        api.calls.clear()
        wrong: list[Callable[[], object]] = [
            lambda: aio.attach(b"a"),  # type: ignore[arg-type]
            lambda: aio.attach("a", security=""),
            lambda: aio.create("a.img", 1),
            lambda: aio.convert("", "b.vhd"),
            lambda: disk.resize(),
            lambda: disk.merge(target_depth=1),
            lambda: disk.mirror(""),
            lambda: disk.attach(flags=-1),
        ]
        for call in wrong:
            with pytest.raises((TypeError, ValueError)):
                call()
        assert api.calls == []

    run(use, tmp_path)


def test_attachment_that_contradicts_the_image_closes_it(
    api: Recorder, tmp_path: pathlib.Path
) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="ISO"):
            await aio.attach(make_iso(tmp_path / "a.iso"), read_only=False)

    asyncio.run(main())
    assert [handle.closed for handle in api.handles] == [True]


def test_opening_that_is_cancelled_closes(
    api: Recorder, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    open_disk = api.OpenVirtualDisk
    tell: list[Callable[[], object]] = []

    def slowly(*arguments: Any, **options: Any) -> Any:
        tell[0]()
        go.wait(60)
        return open_disk(*arguments, **options)

    monkeypatch.setattr(api, "OpenVirtualDisk", slowly)

    async def main() -> None:
        loop, opening = asyncio.get_running_loop(), asyncio.Event()
        tell.append(lambda: loop.call_soon_threadsafe(opening.set))
        task = asyncio.create_task(aio.open(make_vhd(tmp_path / "a.vhd")))
        await opening.wait()
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert [handle.closed for handle in api.handles] == [True]


def test_disk_wraps_the_waiting_one(api: Recorder, tmp_path: pathlib.Path) -> None:
    async def use(disk: aio.VirtualDisk) -> None:
        assert isinstance(disk.sync, virtdisk.VirtualDisk)
        assert repr(disk) == f"<virtdisk.aio.VirtualDisk of {disk.sync!r}>"
        assert disk.physical_path == "/dev/null"
        assert len(disk.metadata) == 0
        assert not disk.closed

    run(use, tmp_path)
    assert api.handles[0].closed


def test_is_imported_when_it_is_used() -> None:
    code = (
        "import sys, virtdisk; assert 'asyncio' not in sys.modules;"
        "virtdisk.aio.open; assert 'asyncio' in sys.modules"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        virtdisk.nothing  # type: ignore[attr-defined]  # noqa: B018


# --- How Windows is waited for ----------------------------------------------


class Proactor:
    """The part of asyncio's own that is used."""

    def __init__(self) -> None:
        self.handles: list[int] = []
        self.asked_again = asyncio.Event()

    def wait_for_handle(self, handle: int) -> asyncio.Future[None]:
        if self.handles:
            self.asked_again.set()
        self.handles.append(handle)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()
        loop.call_later(0.001, future.set_result, None)
        return future


@pytest.mark.skipif(sys.platform == "win32", reason="replaces what it has there")
@pytest.mark.parametrize("with_proactor", [True, False])
def test_windows(
    with_proactor: bool, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other branch of the module, executed here with a proactor of ours."""
    source = pathlib.Path(aio.__file__).read_text()
    assert source.count('sys.platform == "win32"') == 1
    module: dict[str, Any] = {"__name__": "virtdisk.aio_windows"}
    code = source.replace('sys.platform == "win32"', "True")
    exec(compile(code, "aio_windows.py", "exec"), module)
    recorder = install(monkeypatch)
    proactor = Proactor()

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        if with_proactor:
            loop._proactor = proactor
        disk = await module["open"](make_vhd(tmp_path / "a.vhd"))
        operation = disk.compact()
        if with_proactor:
            await begun(operation, recorder)
            # Awoken for nothing, it waits again.
            await asyncio.wait_for(proactor.asked_again.wait(), 60)
            assert not operation.done()
            recorder.overlapped[-1].finish()
        await operation
        await disk.close()

    asyncio.run(main())
    assert set(proactor.handles) <= {recorder.overlapped[-1].event}
    assert not recorder.overlapped[-1].cancelled


# --- The engine -------------------------------------------------------------


@linux_only
def test_attach_a_device(tmp_path: pathlib.Path) -> None:
    require_loop()
    image = make_vhd(tmp_path / "a.vhd")

    async def main() -> None:
        async with aio.attach(image, read_only=True) as disk:
            assert list(loops_of(tmp_path)) == [disk.physical_path]
            assert str(image) in [entry.path for entry in await aio.attached()]
            with disk.raw() as file:
                assert file.read(512) == pattern(512)
            assert (await disk.info()).is_loaded
            with pytest.raises(virtdisk.SharingViolationError):
                await aio.attach(image)
        assert disk.closed
        kept = await aio.attach(image, permanent=True)
        await kept.close()
        await aio.detach(image)

    asyncio.run(main())
    assert let_go(tmp_path)


@linux_only
def test_many_at_once_without_threads(tmp_path: pathlib.Path) -> None:
    """Fifty images are made, and nothing in Python waits for one."""

    async def main() -> None:
        threads = threading.active_count()
        operations = [
            aio.create(tmp_path / f"{number}.vhdx", 64 * MIB) for number in range(50)
        ]
        await asyncio.sleep(0)
        assert threading.active_count() == threads
        disks = await asyncio.gather(*operations)
        assert threading.active_count() == threads
        for disk in disks:
            await disk.close()

    asyncio.run(main())
    assert len(os.listdir(tmp_path)) == 50


@linux_only
@pytest.mark.parametrize("target", ["out.vhdx", "out.vhd", "out.raw"])
def test_conversion(target: str, tmp_path: pathlib.Path) -> None:
    raw = tmp_path / "in.img"
    raw.write_bytes(pattern(9 * MIB))

    async def main() -> None:
        operation = aio.convert(raw, tmp_path / target)
        told = [progress async for progress in operation.progress(0.001)]
        assert told == sorted(told)
        assert told[-1].fraction == 1.0
        await operation
        await aio.convert(tmp_path / target, tmp_path / "again.raw")

    asyncio.run(main())
    assert sha256(tmp_path / "again.raw") == sha256(raw)


@linux_only
@pytest.mark.parametrize("target", ["out.vhdx", "out.raw"])
def test_cancelled_conversion(target: str, tmp_path: pathlib.Path) -> None:
    """Nothing is left, or it was too late and all is there."""
    image = make_vhd(tmp_path / "in.vhd", 32 * MIB)
    out = tmp_path / target

    async def main() -> bool:
        operation = aio.convert(image, out)
        await asyncio.sleep(0)
        operation.cancel()
        try:
            await operation
        except asyncio.CancelledError:
            return True
        return False

    if asyncio.run(main()):
        assert os.listdir(tmp_path) == ["in.vhd"]
    else:
        virtdisk.convert(out, tmp_path / "all.img")
        assert (
            sha256(tmp_path / "all.img")
            == hashlib.sha256(pattern(32 * MIB)).hexdigest()
        )


@linux_only
def test_a_copy_of_ours_says_what_went_wrong(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "broken")

    monkeypatch.setattr(_scsi, "read_into", fail)

    async def main() -> None:
        with pytest.raises(OSError, match="broken"):
            await aio.convert(make_vhd(tmp_path / "in.vhd"), tmp_path / "out.raw")

    asyncio.run(main())
    assert os.listdir(tmp_path) == ["in.vhd"]
