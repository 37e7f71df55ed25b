"""Copying a disk where the system does not: from and to raw files.

virtdisk.h copies into a VHD or VHDX (CreateVirtualDisk with a source).  It
cannot make a raw file, and on Windows it reads none.  Here a disk that is
attached to this process alone is read and written by SCSI commands, a raw
file by its descriptor, by several threads that wait for the system most of
the time.  What has no space and what holds only zeros is not written.

Source: RawSCSIVirtualDisk; lseek(2), SEEK_DATA.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from typing import TYPE_CHECKING, Final, Protocol

from virtdisk import _scsi
from virtdisk._errors import error_from_code

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from virtdisk._virtdisk import Handle

__all__ = ["FileMedium", "Medium", "Meter", "ScsiMedium", "Work", "copy"]

_ABORTED: Final = 995  # ERROR_OPERATION_ABORTED
_PENDING: Final = 997  # ERROR_IO_PENDING
_CHUNK: Final = 512 << 10
_GRAIN: Final = 16 << 10  # as much must be zero to be left out
_ZEROS: Final = bytes(_GRAIN)
_ALIGNMENT: Final = 4096
_WORKERS: Final = 4


class Meter:
    """How far a copy is, and whether it shall stop; for several threads."""

    def __init__(self) -> None:
        """Nothing done of nothing known."""
        self._lock = threading.Lock()
        self.current = 0
        self.completion = 0
        self.cancelled = False

    def advance(self, amount: int) -> None:
        """Notes so many bytes more.

        Args:
            amount: In bytes.

        Raises:
            VirtualDiskError: winerror 995 if the copy shall stop.

        Source: CancelIoEx.
        """
        self.check()
        with self._lock:
            self.current += amount

    def check(self) -> None:
        """Stops a copy that shall stop.

        Raises:
            VirtualDiskError: winerror 995.

        Source: CancelIoEx.
        """
        if self.cancelled:
            raise error_from_code(_ABORTED, "convert")


@contextlib.contextmanager
def _naming(path: str | None) -> Iterator[None]:
    """Failures say on which side of the copy they are."""
    try:
        yield
    except OSError as error:
        if error.filename is None and path is not None:
            error.filename = path
        raise


class Medium(Protocol):
    """What can be copied from and to; safe for several threads."""

    size: int

    def extents(self) -> Iterator[tuple[int, int, bool]]:
        """Offset and length of all parts, and whether there may be data."""

    def read_into(self, data: memoryview, offset: int) -> None:
        """Fills memory with what stands at a byte."""

    def write(self, data: memoryview, offset: int) -> None:
        """Puts memory at a byte."""


class ScsiMedium:
    """A disk attached with NO_LOCAL_HOST, by its handle, which is borrowed."""

    def __init__(self, handle: Handle) -> None:
        """Asks for its size."""
        self._handle = handle
        self.size, self._sector = _scsi.read_capacity(handle)

    def extents(self) -> Iterator[tuple[int, int, bool]]:
        """Offset and length of all parts, and whether there may be data.

        A system that does not know the command has data everywhere.
        """
        at = 0
        while at < self.size:
            try:
                parts = _scsi.lba_status(self._handle, at, sector_size=self._sector)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                parts = []
            for start, length, data in parts or [(at, self.size - at, True)]:
                yield start, length, data
                at = start + length

    def read_into(self, data: memoryview, offset: int) -> None:
        """Fills memory with whole sectors."""
        with _naming(self._handle.path):
            _scsi.read_into(self._handle, offset, data, sector_size=self._sector)

    def write(self, data: memoryview, offset: int) -> None:
        """Writes whole sectors."""
        with _naming(self._handle.path):
            _scsi.write(self._handle, offset, data, sector_size=self._sector)


class FileMedium:
    """A raw file or a block device, by its descriptor, which is borrowed."""

    def __init__(
        self, descriptor: int, *, size: int | None = None, path: str | None = None
    ) -> None:
        """Takes the size of the file, or is given it.

        Args:
            descriptor: Of the file.
            size: In bytes, which may lie beyond the end of the file.
            path: Its name, for failures.
        """
        self._descriptor = descriptor
        self._path = path
        self.size = os.lseek(descriptor, 0, os.SEEK_END) if size is None else size

    def extents(self) -> Iterator[tuple[int, int, bool]]:
        """Offset and length of all parts, and whether there may be data."""
        at = 0
        while at < self.size:
            start, end = _next_data(self._descriptor, at, self.size)
            if start > at:
                yield at, start - at, False
            if end > start:
                yield start, end - start, True
            at = end

    def read_into(self, data: memoryview, offset: int) -> None:
        """Fills memory; with zeros beyond the end."""
        done = 0
        while done < len(data):
            with _naming(self._path):
                count = _pread(self._descriptor, data[done:], offset + done)
            if count == 0:
                data[done:] = bytes(len(data) - done)
                return
            done += count

    def write(self, data: memoryview, offset: int) -> None:
        """Writes all of it."""
        done = 0
        while done < len(data):
            with _naming(self._path):
                done += _pwrite(self._descriptor, data[done:], offset + done)
        _begin_writeback(self._descriptor, offset, len(data))


if sys.platform == "win32":
    _position = threading.Lock()

    def _next_data(_descriptor: int, at: int, size: int) -> tuple[int, int]:
        """All of it, because nobody can tell."""
        return at, size

    def _pread(descriptor: int, data: memoryview, offset: int) -> int:
        """Reads at a position; how much."""
        with _position:
            os.lseek(descriptor, offset, os.SEEK_SET)
            part = os.read(descriptor, len(data))
        data[: len(part)] = part
        return len(part)

    def _pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        """Writes at a position; how much."""
        with _position:
            os.lseek(descriptor, offset, os.SEEK_SET)
            return os.write(descriptor, data)

    def _begin_writeback(_descriptor: int, _offset: int, _length: int) -> None:
        """Windows begins by itself."""

else:

    def _next_data(descriptor: int, at: int, size: int) -> tuple[int, int]:
        """Where the next data begins and ends, in whole sectors of any size."""
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
        except OSError as error:
            # ENXIO: no data any more.  Devices do not know of holes.
            return (size if error.errno == errno.ENXIO else at), size
        start -= start % _ALIGNMENT
        end += -end % _ALIGNMENT
        return min(start, size), min(end, size)

    def _pread(descriptor: int, data: memoryview, offset: int) -> int:
        """Reads at a position; how much."""
        return os.preadv(descriptor, [data], offset)

    def _pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        """Writes at a position; how much."""
        return os.pwrite(descriptor, data, offset)

    def _begin_writeback(descriptor: int, offset: int, length: int) -> None:
        """Lets the medium work while we do, so that fsync has less to wait for.

        Linux begins to write what is dirty before it forgets what is clean
        (mm/fadvise.c); os has no sync_file_range.
        """
        os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_DONTNEED)


def _runs(buffer: bytearray, length: int) -> Iterator[tuple[int, int]]:
    """The parts of a buffer that are not all zero, in grains."""
    begin: int | None = None
    for at in range(0, length, _GRAIN):
        end = min(at + _GRAIN, length)
        zero = buffer.startswith(_ZEROS[: end - at], at, end)
        if zero and begin is not None:
            yield begin, at
            begin = None
        elif not zero and begin is None:
            begin = at
    if begin is not None:
        yield begin, length


def _jobs(source: Medium, meter: Meter) -> Iterator[tuple[int, int]]:
    """What there is to read, in chunks; the rest is noted as done."""
    for start, length, data in source.extents():
        if not data:
            meter.advance(length)
            continue
        for at in range(start, start + length, _CHUNK):
            yield at, min(_CHUNK, start + length - at)


class _Copy:
    """One copy, carried out by several threads."""

    def __init__(self, source: Medium, target: Medium, meter: Meter) -> None:
        self._source = source
        self._target = target
        self._meter = meter
        self._jobs = _jobs(source, meter)
        self._lock = threading.Lock()
        self._errors: list[BaseException] = []

    def _next(self) -> tuple[int, int] | None:
        """The next chunk; None at the end and after a failure."""
        with self._lock:
            return None if self._errors else next(self._jobs, None)

    def _work(self) -> None:
        """Copies chunks until there are no more."""
        buffer = bytearray(_CHUNK)
        view = memoryview(buffer)
        while (job := self._next()) is not None:
            offset, length = job
            self._source.read_into(view[:length], offset)
            for begin, end in _runs(buffer, length):
                self._target.write(view[begin:end], offset + begin)
            self._meter.advance(length)

    def _thread(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._errors.append(error)

    def run(self) -> None:
        """Returns when all threads have ended; raises the first failure."""
        threads: list[threading.Thread] = []
        with contextlib.suppress(RuntimeError):  # fewer than wanted will do
            for _ in range(_WORKERS - 1):
                thread = threading.Thread(target=self._thread)
                thread.start()
                threads.append(thread)
        self._thread()
        for thread in threads:
            thread.join()
        if self._errors:
            raise self._errors[0]


def copy(source: Medium, target: Medium, meter: Meter) -> None:
    """Copies what a disk holds to one that reads as zeros.

    Args:
        source: What to read.
        target: What to write, at least as large.
        meter: Told how many bytes are done.

    Raises:
        OSError: Reading or writing failed.
        VirtualDiskError: winerror 995 after ``meter.cancelled``.

    Source: RawSCSIVirtualDisk.
    """
    meter.completion = source.size
    _Copy(source, target, meter).run()


class Work:
    """Work in a thread, to be awaited as an Overlapped is."""

    def __init__(self, function: Callable[[Meter], None]) -> None:
        """Begins.

        Args:
            function: What to do; it checks the meter now and then.
        """
        self._function = function
        self._meter = Meter()
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._descriptor = -1
        if sys.platform != "win32":
            self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="virtdisk-copy")
        try:
            self._thread.start()
        except BaseException:
            self.cancel()  # Ctrl-C may come when it has just begun
            raise

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            os.close(self._descriptor)

    def _run(self) -> None:
        try:
            self._function(self._meter)
        except BaseException as error:
            self._error = error
        self._over.set()
        if sys.platform != "win32":
            os.eventfd_write(self._descriptor, 1)

    def fileno(self) -> int:
        """A descriptor that is readable when it is over; Linux only."""
        return self._descriptor

    @property
    def pending(self) -> bool:
        """Whether it is not over yet."""
        return not self._over.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits, at most so many seconds; whether it is over."""
        over = self._over.wait(timeout)
        if over:
            self._thread.join()
        return over

    def result(self) -> None:
        """Raises what it has failed with."""
        if self._error is not None:
            raise self._error

    def progress(self) -> tuple[int, int, int]:
        """Its status, what is done, and what there is to do, in bytes."""
        return (
            _PENDING if self.pending else 0,
            self._meter.current,
            self._meter.completion,
        )

    def cancel(self) -> None:
        """Asks it to stop."""
        self._meter.cancelled = True
