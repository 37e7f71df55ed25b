"""The verbs of virtdisk for asyncio.

    async with virtdisk.aio.attach("disk.vhd", read_only=True) as disk:
        print(disk.physical_path)

    operation = virtdisk.aio.convert("disk.img", "disk.vhdx")
    async for progress in operation.progress():
        print(f"{progress.fraction:.0%}")
    await operation

What takes long is an ``Operation``: under way as soon as it is made, to be
awaited, watched and cancelled.  Cancelling the task that awaits it cancels
the operation, and the ``CancelledError`` goes on when it is over.  No thread
waits for it: the event loop watches the event of its OVERLAPPED.  (Raw files
are copied by threads of our own, see ``virtdisk.convert``.)  What is quick but
may block (opening, detaching, closing) is done in the loop's executor.

Arguments, results and errors are those of the same names in ``virtdisk``.

Source: the functions of virtdisk.h that take an OVERLAPPED.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Generic, Literal, Self, TypeVar

from virtdisk import _convert, _create, _disk, _maintenance
from virtdisk._arguments import absolute_path
from virtdisk._flags import AttachFlag, CreateFlag, MirrorFlag, OpenFlag
from virtdisk._operation import Call, Pending, Progress, give_up, intervals, stop

if TYPE_CHECKING:
    import os
    import uuid
    from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
    from types import TracebackType

    from virtdisk._convert import TargetType
    from virtdisk._create import DiskType
    from virtdisk._disk import AttachedImage
    from virtdisk._flags import AccessMask, StorageType
    from virtdisk._info import VirtualDiskInfo
    from virtdisk._metadata import Metadata

    StrPath = str | os.PathLike[str]

__all__ = [
    "DiskOperation",
    "Operation",
    "VirtualDisk",
    "attach",
    "attached",
    "convert",
    "create",
    "detach",
    "open",
]

_INTERVAL: Final = 0.1

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


async def _until_done(future: asyncio.Future[Any]) -> bool:
    """Returns when it is done, however often this task is cancelled.

    Returns:
        Whether it was.
    """
    cancelled = False
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            cancelled = True
    return cancelled


async def _in_thread(
    function: Callable[[], T], dispose: Callable[[T], object] = lambda _: None
) -> T:
    """The result of a function that may block.

    A task that is cancelled meanwhile waits for its end, and disposes of what
    it gives.
    """
    loop = asyncio.get_running_loop()
    future = loop.run_in_executor(None, function)
    if await _until_done(future):
        if future.exception() is None:
            dispose(future.result())
        raise asyncio.CancelledError
    return future.result()


if sys.platform == "win32":

    @contextlib.contextmanager
    def _end_of(operation: Pending) -> Iterator[asyncio.Future[Any]]:
        """A future that is done when the operation is over."""
        loop = asyncio.get_running_loop()
        proactor = getattr(loop, "_proactor", None)
        event = getattr(operation, "event", 0)
        if proactor is not None and event:
            future = proactor.wait_for_handle(event)
        else:
            future = loop.run_in_executor(None, operation.wait)
        try:
            yield future
        finally:
            future.cancel()

else:

    def _set(future: asyncio.Future[None]) -> None:
        if not future.done():
            future.set_result(None)

    @contextlib.contextmanager
    def _end_of(operation: Any) -> Iterator[asyncio.Future[None]]:
        """A future that is done when the operation is over."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        descriptor = operation.fileno()
        loop.add_reader(descriptor, _set, future)
        try:
            yield future
        finally:
            loop.remove_reader(descriptor)


async def _catch_up(call: Call[object], operation: Pending) -> None:
    """Ends an endless call when it has nothing more to do."""
    with _end_of(operation) as over:
        for interval in intervals():
            await asyncio.wait([over], timeout=interval)
            if not operation.pending:
                return
            _, current, completion = operation.progress()
            if current >= completion > 0:
                break
    await _in_thread(call.end)


async def _finish(operation: Pending) -> None:
    """Returns when it is over; raises what it has failed with."""
    while operation.pending:
        with _end_of(operation) as over:
            await asyncio.wait([over])
    operation.result()


async def _stop(operation: Pending) -> None:
    """Cancels what is pending and returns when it is over."""
    while operation.pending:
        operation.cancel()
        with _end_of(operation) as over:
            await _until_done(over)


class Operation(Generic[T_co]):
    """Something that is under way: await it for its result.

    Made by the functions of this module and the methods of ``VirtualDisk``,
    in a running event loop.  Awaiting it may be done several times.

    Raises:
        asyncio.CancelledError: It, or the task that awaits it, was cancelled;
            it is over.
        VirtualDiskError: What it has failed with.

    Source: OVERLAPPED, GetOverlappedResult.
    """

    def __init__(
        self, call: Call[T_co] | Callable[[], Coroutine[Any, Any, Call[T_co]]]
    ) -> None:
        """Begins in the running loop.  Use the functions of this module.

        Args:
            call: What to do, or what gives that.
        """
        loop = asyncio.get_running_loop()
        self._operation: Pending | None = None
        self._task: asyncio.Task[T_co] = loop.create_task(self._run(call))

    async def _run(
        self, made: Call[T_co] | Callable[[], Coroutine[Any, Any, Call[T_co]]]
    ) -> T_co:
        """What ``virtdisk`` does by waiting."""
        call = made if isinstance(made, Call) else await made()
        try:
            self._operation = call.begin()
            if call.endless:
                await _catch_up(call, self._operation)
            await _finish(self._operation)
        except GeneratorExit as error:
            # The loop was closed: nobody is left to tell when it is over.
            if self._operation is not None:
                stop(self._operation)
            give_up(call, self._operation, error)
            raise
        except BaseException as error:
            if self._operation is not None:
                await _stop(self._operation)
            give_up(call, self._operation, error)
            raise
        return call.finish()

    def __await__(self) -> Generator[Any, None, T_co]:
        return self._task.__await__()

    def done(self) -> bool:
        """Whether it is over.  Raises nothing.

        Source: HasOverlappedIoCompleted.
        """
        return self._task.done()

    def cancel(self) -> bool:
        """Asks for it to be cancelled; awaiting it tells when it is over.

        Returns:
            False if it is over already.  Raises nothing.

        Source: CancelIoEx.
        """
        return self._task.cancel()

    def _now(self) -> Progress:
        if self._operation is None:
            return Progress(0, 0)
        return Progress(*self._operation.progress()[1:])

    def _succeeded(self) -> bool:
        task = self._task
        return task.done() and not task.cancelled() and task.exception() is None

    async def progress(self, interval: float = _INTERVAL) -> AsyncIterator[Progress]:
        """Tells how far it is, whenever that has changed, until it is over.

        After a success the last one is complete.  A failure is told by
        awaiting the operation.  Cancelling the task that waits for the next
        one cancels the operation, as if it were awaited.

        Args:
            interval: How often to ask, in seconds.

        Yields:
            What is done and what there is to do.

        Raises:
            asyncio.CancelledError: The task was cancelled; the operation is
                over.

        Source: GetVirtualDiskOperationProgress.
        """
        told = Progress(0, 0)
        while not self._task.done():
            now = self._now()
            if now.completion and now != told:
                told = now
                yield now
            try:
                await asyncio.wait([self._task], timeout=interval)
            except asyncio.CancelledError:
                self._task.cancel()
                await _until_done(self._task)
                raise
        if self._succeeded() and (told.fraction < 1.0):
            whole = self._now().completion or told.completion or 1
            yield Progress(whole, whole)


class _Opening(Call["VirtualDisk"]):
    """A call that gives a disk, turned into one that gives ours."""

    def __init__(self, call: Call[_disk.VirtualDisk]) -> None:
        super().__init__(call.path)
        self._call = call

    def begin(self) -> Pending:
        return self._call.begin()

    def finish(self) -> VirtualDisk:
        return VirtualDisk(self._call.finish())

    def undo(self) -> None:
        self._call.undo()

    def fail(self, error: BaseException) -> None:
        self._call.fail(error)


class _Attaching(Call["VirtualDisk"]):
    """An attachment that gives its disk, or closes it."""

    def __init__(self, disk: _disk.VirtualDisk, call: Call[None]) -> None:
        super().__init__(call.path)
        self._disk = disk
        self._call = call

    def begin(self) -> Pending:
        return self._call.begin()

    def finish(self) -> VirtualDisk:
        self._call.finish()
        return VirtualDisk(self._disk)

    def undo(self) -> None:
        self._call.undo()

    def fail(self, error: BaseException) -> None:
        self._call.fail(error)
        self._disk.close()


class DiskOperation(Operation["VirtualDisk"]):
    """An operation that gives a disk: ``await`` it, or ``async with`` it.

    Source: CreateVirtualDisk, AttachVirtualDisk.
    """

    async def __aenter__(self) -> VirtualDisk:
        self._disk = await self
        return await self._disk.__aenter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._disk.__aexit__(exc_type, exc_value, traceback)


class VirtualDisk:
    """An open virtual disk image, for asyncio.

    Made by ``open``, ``attach`` and ``create`` of this module, or around a
    ``virtdisk.VirtualDisk``, whose lifetime rules it shares.  An ``async
    with`` block detaches and closes it at its end.

    Source: OpenVirtualDisk.
    """

    def __init__(self, disk: _disk.VirtualDisk) -> None:
        """Puts the methods of this class around a disk."""
        self._disk = disk

    @property
    def sync(self) -> _disk.VirtualDisk:
        """The same disk with methods that wait.  Raises nothing.

        Source: OpenVirtualDisk.
        """
        return self._disk

    @property
    def path(self) -> str:
        """The image's absolute path.  Raises nothing.

        Source: OpenVirtualDisk, Path.
        """
        return self._disk.path

    @property
    def closed(self) -> bool:
        """Whether it was closed.  Raises nothing.

        Source: CloseHandle.
        """
        return self._disk.closed

    @property
    def physical_path(self) -> str:
        """The device; see ``virtdisk.VirtualDisk.physical_path``.

        Raises:
            ValueError: The disk is closed.
            VirtualDiskError: winerror 55 if there is none.

        Source: GetVirtualDiskPhysicalPath.
        """
        return self._disk.physical_path

    @property
    def metadata(self) -> Metadata:
        """The user metadata; see ``virtdisk.VirtualDisk.metadata``.

        Raises nothing; its methods do, and they do not wait for anything but
        the disk.

        Source: EnumerateVirtualDiskMetadata and the three others.
        """
        return self._disk.metadata

    async def info(self) -> VirtualDiskInfo:
        """Asks the system; see ``virtdisk.VirtualDisk.info``.

        Returns:
            All that is known; sizes in bytes.

        Raises:
            ValueError: The disk is closed.
            VirtualDiskError: As ``virtdisk.VirtualDisk.info``.

        Source: GetVirtualDiskInformation.
        """
        return await _in_thread(lambda: self._disk.info)

    def attach(
        self,
        *,
        read_only: bool | None = None,
        drive_letter: bool = True,
        permanent: bool = False,
        security: str | bytes | None = None,
        restricted_range: tuple[int, int] | None = None,
        flags: AttachFlag | int = AttachFlag.NONE,
    ) -> Operation[None]:
        """Makes the disk visible; see ``virtdisk.VirtualDisk.attach``.

        Args:
            read_only: Whether it can only be read.
            drive_letter: Whether volumes get drive letters.
            permanent: Whether it stays attached.
            security: Who may use the device.
            restricted_range: Offset and length in bytes.
            flags: More of ``AttachFlag``.

        Returns:
            The operation.

        Raises:
            TypeError: An argument of a wrong type.
            ValueError: Arguments that contradict each other.

        Source: AttachVirtualDisk.
        """
        return Operation(
            _disk.attach_call(
                self._disk,
                read_only=read_only,
                drive_letter=drive_letter,
                permanent=permanent,
                security=security,
                restricted_range=restricted_range,
                flags=flags,
            )
        )

    def compact(
        self, *, zero_scan: bool = True, block_moves: bool = True
    ) -> Operation[None]:
        """Makes the file smaller; see ``virtdisk.VirtualDisk.compact``.

        Args:
            zero_scan: Whether to look for blocks of zeros.
            block_moves: Whether to move blocks.

        Returns:
            The operation.

        Source: CompactVirtualDisk.
        """
        return Operation(
            _maintenance.compact_call(
                self._disk, zero_scan=zero_scan, block_moves=block_moves
            )
        )

    def resize(
        self,
        size: int | None = None,
        *,
        smallest: bool = False,
        allow_unsafe: bool = False,
    ) -> Operation[None]:
        """Gives it another size; see ``virtdisk.VirtualDisk.resize``.

        Args:
            size: In bytes.
            smallest: Whether to make it as small as is safe.
            allow_unsafe: Whether content may be cut off.

        Returns:
            The operation.

        Raises:
            TypeError: size is no integer.
            ValueError: Arguments that contradict each other.

        Source: ResizeVirtualDisk.
        """
        return Operation(
            _maintenance.resize_call(
                self._disk, size, smallest=smallest, allow_unsafe=allow_unsafe
            )
        )

    def merge(self, *, source_depth: int = 1, target_depth: int = 2) -> Operation[None]:
        """Merges it into a parent; see ``virtdisk.VirtualDisk.merge``.

        Args:
            source_depth: Where to begin; 1 is this disk.
            target_depth: The image to write to.

        Returns:
            The operation.

        Raises:
            TypeError: A depth that is no integer.
            ValueError: The target does not lie below the source.

        Source: MergeVirtualDisk.
        """
        return Operation(
            _maintenance.merge_call(
                self._disk, source_depth=source_depth, target_depth=target_depth
            )
        )

    def mirror(
        self,
        target: StrPath,
        *,
        existing: bool = False,
        flags: MirrorFlag | int = MirrorFlag.NONE,
    ) -> Operation[None]:
        """Goes on with a copy; see ``virtdisk.VirtualDisk.mirror``.

        Args:
            target: The copy.
            existing: Whether it is there already.
            flags: More of ``MirrorFlag``.

        Returns:
            The operation.

        Raises:
            TypeError: An argument of a wrong type.
            ValueError: An empty path.

        Source: MirrorVirtualDisk, BreakMirrorVirtualDisk.
        """
        return Operation(
            _maintenance.mirror_call(self._disk, target, existing=existing, flags=flags)
        )

    async def detach(self) -> None:
        """Takes the disk away; see ``virtdisk.VirtualDisk.detach``.

        Raises:
            ValueError: The disk is closed.
            VirtualDiskError: As ``virtdisk.VirtualDisk.detach``.

        Source: DetachVirtualDisk.
        """
        await _in_thread(self._disk.detach)

    async def close(self) -> None:
        """Closes it; see ``virtdisk.VirtualDisk.close``.  Raises nothing.

        Source: CloseHandle.
        """
        await _in_thread(self._disk.close)

    def raw(self, mode: str = "rb") -> BinaryIO:
        """Opens the attached disk; see ``virtdisk.VirtualDisk.raw``.

        Args:
            mode: ``"rb"`` or ``"r+b"``.

        Returns:
            A file, whose methods wait.

        Raises:
            ValueError: Another mode, or the disk is closed.
            VirtualDiskError: winerror 55 if the disk is not attached.
            OSError: The device cannot be opened.

        Source: GetVirtualDiskPhysicalPath, CreateFile, RawSCSIVirtualDisk.
        """
        return self._disk.raw(mode)

    async def __aenter__(self) -> Self:
        self._disk.__enter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await _in_thread(
            functools.partial(self._disk.__exit__, exc_type, exc_value, traceback)
        )

    def __repr__(self) -> str:
        return f"<virtdisk.aio.VirtualDisk of {self._disk!r}>"


async def open(  # noqa: A001 - as virtdisk.open
    path: StrPath,
    *,
    access: AccessMask | int | None = None,
    read_only: bool = False,
    info_only: bool = False,
    storage_type: StorageType | int | None = None,
    parents: bool = True,
    flags: OpenFlag | int = OpenFlag.NONE,
) -> VirtualDisk:
    """Opens an image without attaching it; see ``virtdisk.open``.

    Args:
        path: The image.
        access: The rights of the handle.
        read_only: Whether the file is opened for reading only.
        info_only: Whether the handle shall only answer questions.
        storage_type: The image's type.
        parents: Whether parents are opened too.
        flags: More of ``OpenFlag``.

    Returns:
        The open disk.

    Raises:
        TypeError: An argument of a wrong type.
        ValueError: Arguments that contradict each other.
        VirtualDiskError: As ``virtdisk.open``.

    Source: OpenVirtualDisk.
    """
    opening = functools.partial(
        _disk.open,
        path,
        access=access,
        read_only=read_only,
        info_only=info_only,
        storage_type=storage_type,
        parents=parents,
        flags=flags,
    )
    return VirtualDisk(await _in_thread(opening, _disk.VirtualDisk.close))


def attach(
    path: StrPath,
    *,
    read_only: bool | None = None,
    drive_letter: bool = True,
    permanent: bool = False,
    security: str | bytes | None = None,
    restricted_range: tuple[int, int] | None = None,
    storage_type: StorageType | int | None = None,
    flags: AttachFlag | int = AttachFlag.NONE,
) -> DiskOperation:
    """Opens an image and attaches it; see ``virtdisk.attach``.

    Args:
        path: The image.
        read_only: Whether the disk can only be read.
        drive_letter: Whether volumes get drive letters.
        permanent: Whether it stays attached.
        security: Who may use the device.
        restricted_range: Offset and length in bytes.
        storage_type: The image's type.
        flags: More of ``AttachFlag``.

    Returns:
        The operation, which gives the disk, also to ``async with``.

    Raises:
        TypeError: An argument of a wrong type.
        ValueError: Arguments that contradict each other.

    Source: OpenVirtualDisk, AttachVirtualDisk.
    """
    name = absolute_path(path)
    reading = _disk.is_reading(read_only, flags, security, restricted_range)

    async def opened() -> Call[VirtualDisk]:
        opening = functools.partial(
            _disk.open, name, read_only=reading, storage_type=storage_type
        )
        disk = await _in_thread(opening, _disk.VirtualDisk.close)
        try:
            call = _disk.attach_call(
                disk,
                read_only=read_only,
                drive_letter=drive_letter,
                permanent=permanent,
                security=security,
                restricted_range=restricted_range,
                flags=flags,
            )
        except BaseException:
            disk.close()
            raise
        return _Attaching(disk, call)

    return DiskOperation(opened)


def create(
    path: StrPath,
    size: int | None = None,
    *,
    type: DiskType | None = None,  # noqa: A002 - the word for it
    parent: StrPath | None = None,
    source: StrPath | None = None,
    block_size: int | None = None,
    sector_size: int | None = None,
    physical_sector_size: int | None = None,
    id: uuid.UUID | None = None,  # noqa: A002 - the word for it
    storage_type: StorageType | int | None = None,
    security: str | bytes | None = None,
    flags: CreateFlag | int = CreateFlag.NONE,
) -> DiskOperation:
    """Makes a VHD or VHDX and opens it; see ``virtdisk.create``.

    Args:
        path: The new image.
        size: Of the disk, in bytes.
        type: Fixed, dynamic or differencing.
        parent: Of a differencing image.
        source: What to fill it with.
        block_size: In bytes.
        sector_size: In bytes.
        physical_sector_size: In bytes.
        id: The identifier.
        storage_type: VHD or VHDX.
        security: Who may use the file.
        flags: More of ``CreateFlag``.

    Returns:
        The operation, which gives the disk, also to ``async with``.

    Raises:
        TypeError: An argument of a wrong type.
        ValueError: Arguments that contradict each other.

    Source: CreateVirtualDisk.
    """
    return DiskOperation(
        _Opening(
            _create.create_call(
                path,
                size,
                type=type,
                parent=parent,
                source=source,
                block_size=block_size,
                sector_size=sector_size,
                physical_sector_size=physical_sector_size,
                id=id,
                storage_type=storage_type,
                security=security,
                flags=flags,
            )
        )
    )


def convert(
    source: StrPath,
    target: StrPath,
    *,
    type: TargetType | None = None,  # noqa: A002 - the word for it
    source_type: Literal["raw"] | None = None,
    block_size: int | None = None,
    sector_size: int | None = None,
    physical_sector_size: int | None = None,
    id: uuid.UUID | None = None,  # noqa: A002 - the word for it
    storage_type: StorageType | int | None = None,
    flags: CreateFlag | int = CreateFlag.NONE,
) -> Operation[None]:
    """Copies a disk into another kind of file; see ``virtdisk.convert``.

    Args:
        source: What to read.
        target: The new file.
        type: Raw, fixed or dynamic.
        source_type: Raw, or as its content says.
        block_size: In bytes.
        sector_size: In bytes.
        physical_sector_size: In bytes.
        id: The identifier.
        storage_type: VHD or VHDX.
        flags: More of ``CreateFlag``.

    Returns:
        The operation.

    Raises:
        TypeError: An argument of a wrong type.
        ValueError: Arguments that contradict each other.

    Source: CreateVirtualDisk; RawSCSIVirtualDisk.
    """
    return Operation(
        _convert.convert_call(
            source,
            target,
            type=type,
            source_type=source_type,
            block_size=block_size,
            sector_size=sector_size,
            physical_sector_size=physical_sector_size,
            id=id,
            storage_type=storage_type,
            flags=flags,
        )
    )


async def detach(path: StrPath) -> None:
    """Detaches an image, whoever attached it; see ``virtdisk.detach``.

    Args:
        path: The image, or its device.

    Raises:
        TypeError: bytes are no path.
        ValueError: An empty path.
        VirtualDiskError: As ``virtdisk.detach``.

    Source: DetachVirtualDisk.
    """
    await _in_thread(functools.partial(_disk.detach, path))


async def attached() -> list[AttachedImage]:
    """Every image attached on this system; see ``virtdisk.attached``.

    Returns:
        The images in the system's order.

    Raises:
        VirtualDiskError: The system cannot tell.

    Source: GetAllAttachedVirtualDiskPhysicalPaths.
    """
    return await _in_thread(_disk.attached)
