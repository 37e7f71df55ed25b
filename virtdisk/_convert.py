"""Converting between raw, VHD and VHDX.

Into a VHD or VHDX the system itself copies (CreateVirtualDisk with a source).
A raw file, which virtdisk.h does not know, is written here, and read here
where the system does not take it for a source.

Source: CreateVirtualDisk, SourcePath; AttachVirtualDisk, NO_LOCAL_HOST;
RawSCSIVirtualDisk; open(2), O_TMPFILE.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from typing import TYPE_CHECKING, Any, Final, Literal

from virtdisk import _copy, _scsi
from virtdisk._arguments import WINDOWS, absolute_path
from virtdisk._create import create_call
from virtdisk._disk import VirtualDisk
from virtdisk._disk import open as open_image
from virtdisk._errors import VirtualDiskError, error_from_code
from virtdisk._flags import AttachFlag, CreateFlag, ProviderSubtype, StorageType
from virtdisk._geometry import SMALLEST
from virtdisk._operation import Call, Pending, check_progress, run
from virtdisk._storage import detect_storage_type

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterator

    from virtdisk._operation import ProgressFunction

    StrPath = str | os.PathLike[str]
    TargetType = Literal["raw", "fixed", "dynamic"] | ProviderSubtype

__all__ = ["convert", "convert_call"]

_RAW_SUFFIXES: Final = frozenset({".img", ".raw"})
_INVALID_SIZE: Final = 0xC03A0012
_TOO_SMALL: Final = frozenset({87, _INVALID_SIZE})  # the one or the other system's
_PROVIDER_NOT_FOUND: Final = 0xC03A0014
_RAW_REMEDY: Final = (
    "the source must be a VHD, VHDX or ISO image; if it is the content of a disk"
    " itself, say source_type='raw' or name it .img or .raw"
)
_SMALL_REMEDY: Final = (
    "the source is smaller than 3 MiB, which no VHD or VHDX is: create() with a"
    " size and a source makes an image that is larger than its source"
)
_FILL_REMEDY: Final = (
    "the source is smaller than 3 MiB, which no VHD or VHDX is: append zeros to a"
    " copy of it"
)
_SECTOR: Final = 512
_BINARY: Final = (
    getattr(os, "O_BINARY", 0)
    | getattr(os, "O_NOINHERIT", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NONBLOCK", 0)
)
# What an open() with O_TMPFILE answers where there is no such thing.
_NO_UNNAMED: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL})


def _has_raw_name(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in _RAW_SUFFIXES


def _is_device(path: str) -> bool:
    r"""Whether a path names a disk of the system (``\\.\…``, a block device)."""
    if WINDOWS:
        return path.startswith("\\\\.\\")
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return False


def _is_raw(path: str, source_type: str | None) -> bool:
    """Whether a source is no image, but the content of a disk itself."""
    if source_type == "raw":
        return True
    if detect_storage_type(path) is not StorageType.UNKNOWN:
        return False
    return _is_device(path) or _has_raw_name(path)


def _size(path: str) -> int:
    """Of a file in bytes; that of a sector if nobody can tell."""
    try:
        return os.stat(path).st_size
    except OSError:
        return _SECTOR


def _is_small(path: str) -> bool:
    """Whether a file is too small a source."""
    return os.path.isfile(path) and _size(path) < SMALLEST


def _is_raw_source(path: str) -> bool:
    """Whether the system takes it for a raw source.

    The engine takes whole sectors only; what is odd is filled up here.
    """
    if WINDOWS or _is_device(path):
        return _is_device(path)
    size = _size(path)
    return _is_raw(path, None) and size > 0 and size % _SECTOR == 0


def _check_kind(status: os.stat_result, path: str) -> None:
    """Refuses what has no end: a FIFO would wait, and a terminal too."""
    kind = status.st_mode
    if not (WINDOWS or stat.S_ISREG(kind) or stat.S_ISBLK(kind)):
        raise OSError(errno.EINVAL, "Neither a file nor a block device", path)


@contextlib.contextmanager
def _reading(path: str) -> Iterator[int]:
    """A descriptor of a raw source."""
    if not WINDOWS:
        _check_kind(os.stat(path), path)
    descriptor = os.open(path, os.O_RDONLY | _BINARY)
    try:
        _check_kind(os.fstat(descriptor), path)
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    """Failures name this path, not how it is reached."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error


def _check_absent(path: str) -> None:
    """Refuses a target that is there, or cannot be, before anything is read."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        if os.path.basename(path):
            return
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path) from None
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)


@contextlib.contextmanager
def _private(disk: VirtualDisk) -> Iterator[_copy.ScsiMedium]:
    """A disk attached to this process alone."""
    disk.attach(flags=AttachFlag.NO_LOCAL_HOST)
    try:
        yield _copy.ScsiMedium(disk._handle)
    finally:
        disk.detach()


@contextlib.contextmanager
def _source_medium(path: str, *, raw: bool) -> Iterator[_copy.Medium]:
    """What to read."""
    if raw or detect_storage_type(path) is StorageType.ISO:
        with _reading(path) as descriptor:
            yield _copy.FileMedium(descriptor, path=path)
        return
    with open_image(path, read_only=True) as disk, _private(disk) as medium:
        yield medium


@contextlib.contextmanager
def _named_file(path: str) -> Iterator[int]:
    """A new file, which is removed again after a failure."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY
    descriptor = os.open(path, flags, 0o666)
    try:
        yield descriptor
        with _naming(path):
            os.fsync(descriptor)
    except BaseException:
        os.remove(path)
        raise
    finally:
        os.close(descriptor)


if sys.platform == "win32":
    _new_file = _named_file

else:

    @contextlib.contextmanager
    def _open_folder(path: str) -> Iterator[int]:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _BINARY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _open_unnamed(folder: int) -> int | None:
        """A file without a name; None: the file system has no such thing."""
        flags = os.O_TMPFILE | os.O_RDWR | _BINARY
        try:
            return os.open(".", flags, 0o666, dir_fd=folder)
        except OSError as error:
            if error.errno not in _NO_UNNAMED:
                raise
            return None

    @contextlib.contextmanager
    def _unnamed_file(descriptor: int, folder: int, path: str) -> Iterator[int]:
        """A file that gets its name when it is complete."""
        try:
            yield descriptor
            with _naming(path):
                os.fsync(descriptor)
                # With a folder, because only then links are followed.
                os.link(
                    f"/proc/self/fd/{descriptor}",
                    os.path.basename(path),
                    src_dir_fd=folder,
                    dst_dir_fd=folder,
                    follow_symlinks=True,
                )
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _new_file(path: str) -> Iterator[int]:
        """A new file, of which nothing is left after a failure."""
        with _open_folder(os.path.dirname(path)) as folder:
            with _naming(path):
                descriptor = _open_unnamed(folder)
            file = (
                _named_file(path)
                if descriptor is None
                else _unnamed_file(descriptor, folder, path)
            )
            with file as opened:
                yield opened
            os.fsync(folder)


class _SystemCall(Call[None]):
    """CreateVirtualDisk with a source; the new image is closed."""

    def __init__(self, source: str, creation: Call[VirtualDisk]) -> None:
        super().__init__(source)
        self._creation = creation

    def begin(self) -> Pending:
        return self._creation.begin()

    def finish(self) -> None:
        self._creation.finish().close()

    def undo(self) -> None:
        self._creation.undo()

    def fail(self, error: BaseException) -> None:
        self._creation.fail(error)
        if not isinstance(error, VirtualDiskError):
            return
        if error.winerror == _PROVIDER_NOT_FOUND:
            error.remedy = _RAW_REMEDY
        elif error.winerror in _TOO_SMALL and _is_small(self.path):
            error.remedy = _SMALL_REMEDY


class _CopyCall(Call[None]):
    """A copy made here, in threads."""

    def __init__(self, source: str, target: str) -> None:
        super().__init__(source)
        self._target = target

    def begin(self) -> Pending:
        return _copy.Work(self.copy)

    def copy(self, meter: _copy.Meter) -> None:
        """Does it."""
        raise NotImplementedError

    def finish(self) -> None:
        return None

    def undo(self) -> None:
        with contextlib.suppress(OSError):
            os.remove(self._target)


class _ToRawCall(_CopyCall):
    """A raw file made of anything."""

    def __init__(self, source: str, target: str, *, raw: bool) -> None:
        super().__init__(source, target)
        self._raw = raw

    def copy(self, meter: _copy.Meter) -> None:
        _check_absent(self._target)
        with (
            _source_medium(self.path, raw=self._raw) as source,
            _new_file(self._target) as descriptor,
        ):
            with _naming(self._target):
                os.ftruncate(descriptor, source.size)
            target = _copy.FileMedium(descriptor, size=source.size, path=self._target)
            _copy.copy(source, target, meter)


class _FromRawCall(_CopyCall):
    """An image made of a raw file that the system does not take."""

    def __init__(self, source: str, target: str, arguments: dict[str, Any]) -> None:
        super().__init__(source, target)
        self._arguments = arguments

    def copy(self, meter: _copy.Meter) -> None:
        with _reading(self.path) as descriptor:
            size = os.lseek(descriptor, 0, os.SEEK_END)
            size += -size % (self._arguments["sector_size"] or _SECTOR)
            if size < SMALLEST:
                error = error_from_code(_INVALID_SIZE, "CreateVirtualDisk", self.path)
                error.remedy = _FILL_REMEDY
                raise error
            source = _copy.FileMedium(descriptor, size=size, path=self.path)
            disk = run(create_call(self._target, source.size, **self._arguments))
            try:
                with disk, _private(disk) as target:
                    _copy.copy(source, target, meter)
                    _scsi.synchronize(disk._handle)
            except BaseException:
                os.remove(self._target)
                raise


def _check_raw_target(arguments: dict[str, Any]) -> None:
    """A raw file has a content and nothing else."""
    given = [name for name, value in arguments.items() if value]
    if given:
        msg = f"a raw file has no {given[0]}"
        raise ValueError(msg)


def convert_call(
    source: StrPath,
    target: StrPath,
    *,
    type: TargetType | None,  # noqa: A002 - the word for it
    source_type: Literal["raw"] | None,
    **arguments: Any,
) -> Call[None]:
    """Makes a call that converts; all arguments as of ``convert``.

    Args:
        source: What to read.
        target: The new image or raw file.
        type: Raw, fixed or dynamic.
        source_type: Raw, or as the content says.
        **arguments: Of ``create``.

    Returns:
        The call, not yet made.

    Raises:
        TypeError: An argument of a wrong type.
        ValueError: Arguments that contradict each other.

    Source: CreateVirtualDisk.
    """
    old, new = absolute_path(source), absolute_path(target)
    if source_type not in {None, "raw"}:
        msg = f"source_type must be 'raw' or None, not {source_type!r}"
        raise ValueError(msg)
    raw = _is_raw(old, source_type)
    named = type is not None or arguments["storage_type"] is not None
    if type == "raw" or (_has_raw_name(new) and not named):
        _check_raw_target(arguments)
        return _ToRawCall(old, new, raw=raw)
    arguments |= {"type": type, "parent": None, "security": None}
    if raw and not _is_raw_source(old):
        # Checks the arguments, without the source.
        create_call(new, SMALLEST, source=None, **arguments)
        return _FromRawCall(old, new, {"source": None, **arguments})
    return _SystemCall(old, create_call(new, None, source=old, **arguments))


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
    progress: ProgressFunction | None = None,
) -> None:
    """Copies a disk into an image or file of another kind.

    A chain of differencing images becomes one image.  What holds only zeros
    takes no space in a dynamic image or raw file.  A raw source that is no
    whole number of sectors is filled up with zeros.  A file that exists is
    never overwritten, and after a failure, or Ctrl-C, there is none.

    Args:
        source: A VHD, VHDX or ISO image, a raw file (by the name ``.img`` or
            ``.raw``, or by ``source_type``), or a block device.
        target: The new file.  Its name says what it becomes: ``.vhd``,
            ``.vhdx``, or raw: ``.img``, ``.raw``.
        type: ``"raw"``, ``"fixed"`` or ``"dynamic"``.  None: raw by the name,
            otherwise dynamic.
        source_type: ``"raw"`` if the source is raw, whatever its name and
            content.
        block_size: As of ``create``, in bytes.
        sector_size: As of ``create``, in bytes.
        physical_sector_size: As of ``create``, in bytes.
        id: The identifier of the new image.
        storage_type: VHD or VHDX, if the target's name does not say it.
        flags: More of ``CreateFlag``.
        progress: Called now and then with what is done and what there is to
            do.

    Raises:
        TypeError: An argument of a wrong type.
        ValueError: Arguments that contradict each other, or a name that does
            not say what to make.
        KeyboardInterrupt: After Ctrl-C, when the operation is over.
        VirtualDiskError: As ``create`` and, of the source, as ``open``;
            0xC03A0012 (or 87, Windows') for a source below 3 MiB; 32 for a raw target
            while the source is attached, also if that is read-only.
        OSError: A raw file cannot be read or written; FileExistsError if it
            is there already.

    Source: CreateVirtualDisk; RawSCSIVirtualDisk.
    """
    check_progress(progress)
    call = convert_call(
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
    run(call, progress)
