"""What can be done to an image as a whole: sizes, space, parents, identity.

Each verb is a method of ``VirtualDisk``.  Those that take long are made of a
``Call`` first, so that ``virtdisk.aio`` has the same ones.

Source: CompactVirtualDisk, ResizeVirtualDisk, MergeVirtualDisk,
MirrorVirtualDisk, BreakMirrorVirtualDisk and SetVirtualDiskInformation of
virtdisk.h.
"""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING, Any, Final

from virtdisk import _virtdisk
from virtdisk._arguments import absolute_path, check_flags, check_integer
from virtdisk._errors import VirtualDiskError
from virtdisk._flags import CompactFlag, MirrorFlag, ResizeFlag
from virtdisk._metadata import Metadata
from virtdisk._operation import Call, check_progress, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from virtdisk._operation import ProgressFunction

    StrPath = str | os.PathLike[str]

__all__ = [
    "Maintenance",
    "compact_call",
    "merge_call",
    "mirror_call",
    "resize_call",
]

# SET_VIRTUAL_DISK_INFO_VERSION.
_IDENTIFIER: Final = 2
_PARENT_PATH_WITH_DEPTH: Final = 3
_PHYSICAL_SECTOR_SIZE: Final = 4
_VIRTUAL_DISK_ID: Final = 5
_CHANGE_TRACKING_STATE: Final = 6
_PARENT_LOCATOR: Final = 7


# What cannot be the fault of the open image: that of a mirror's target, or of
# a new parent.
_OF_THE_OTHER: Final = frozenset(
    {
        2,  # ERROR_FILE_NOT_FOUND
        3,  # ERROR_PATH_NOT_FOUND
        80,  # ERROR_FILE_EXISTS
        112,  # ERROR_DISK_FULL
        206,  # ERROR_FILENAME_EXCED_RANGE
        0xC03A0012,  # ERROR_VHD_INVALID_SIZE
        0xC03A0014,  # ERROR_VIRTDISK_PROVIDER_NOT_FOUND
    }
)


class _HandleCall(Call[None]):
    """A call on an open image that gives nothing back."""

    def __init__(
        self, disk: Maintenance, begin: Callable[[_virtdisk.Overlapped], None]
    ) -> None:
        super().__init__(disk._path)
        self._begin = begin

    def start(self, overlapped: _virtdisk.Overlapped) -> None:
        self._begin(overlapped)

    def finish(self) -> None:
        return None


class _MirrorCall(_HandleCall):
    """A mirror, which is kept up to date until it is broken off."""

    endless = True

    def __init__(self, disk: Maintenance, target: str, flags: int) -> None:
        super().__init__(
            disk,
            lambda overlapped: _virtdisk.MirrorVirtualDisk(
                disk._handle, target, overlapped, flags=flags
            ),
        )
        self._disk = disk
        self._target = target

    def end(self) -> None:
        _virtdisk.BreakMirrorVirtualDisk(self._disk._handle)

    def finish(self) -> None:
        self._disk._path = self._target

    def undo(self) -> None:
        # It was broken off: the disk is the copy, and stays that.
        self.finish()

    def fail(self, error: BaseException) -> None:
        super().fail(error)
        if isinstance(error, VirtualDiskError) and error.winerror in _OF_THE_OTHER:
            error.filename = self._target


def compact_call(
    disk: Maintenance, *, zero_scan: bool, block_moves: bool
) -> Call[None]:
    """Makes a call that compacts an image.

    Args:
        disk: The open image.
        zero_scan: See ``VirtualDisk.compact``.
        block_moves: See ``VirtualDisk.compact``.

    Returns:
        The call, not yet made.  Raises nothing.

    Source: CompactVirtualDisk.
    """
    flags = CompactFlag.NONE
    if not zero_scan:
        flags |= CompactFlag.NO_ZERO_SCAN
    if not block_moves:
        flags |= CompactFlag.NO_BLOCK_MOVES
    return _HandleCall(
        disk,
        lambda overlapped: _virtdisk.CompactVirtualDisk(
            disk._handle, flags=int(flags), overlapped=overlapped
        ),
    )


def resize_call(
    disk: Maintenance, size: int | None, *, smallest: bool, allow_unsafe: bool
) -> Call[None]:
    """Makes a call that gives a disk another size.

    Args:
        disk: The open image.
        size: See ``VirtualDisk.resize``.
        smallest: See ``VirtualDisk.resize``.
        allow_unsafe: See ``VirtualDisk.resize``.

    Returns:
        The call, not yet made.

    Raises:
        TypeError: size is no integer.
        ValueError: Not exactly one of size and smallest, or smallest and
            unsafe.

    Source: ResizeVirtualDisk.
    """
    if smallest == (size is not None):
        msg = "resize needs either a size or smallest=True"
        raise ValueError(msg)
    if smallest and allow_unsafe:
        msg = "smallest and allow_unsafe exclude each other"
        raise ValueError(msg)
    new_size = 0 if size is None else check_integer(size, "size", 64)
    flags = ResizeFlag.NONE
    if smallest:
        flags = ResizeFlag.RESIZE_TO_SMALLEST_SAFE_VIRTUAL_SIZE
    elif allow_unsafe:
        flags = ResizeFlag.ALLOW_UNSAFE_VIRTUAL_SIZE
    return _HandleCall(
        disk,
        lambda overlapped: _virtdisk.ResizeVirtualDisk(
            disk._handle, new_size, flags=int(flags), overlapped=overlapped
        ),
    )


def merge_call(
    disk: Maintenance, *, source_depth: int, target_depth: int
) -> Call[None]:
    """Makes a call that merges images of a chain.

    Args:
        disk: The open leaf of the chain.
        source_depth: See ``VirtualDisk.merge``.
        target_depth: See ``VirtualDisk.merge``.

    Returns:
        The call, not yet made.

    Raises:
        TypeError: A depth that is no integer.
        ValueError: The target does not lie below the source.

    Source: MergeVirtualDisk, parameters version 2.
    """
    source = check_integer(source_depth, "source_depth", 32)
    target = check_integer(target_depth, "target_depth", 32)
    if not 1 <= source < target:
        msg = "depths count from 1, the leaf, and target_depth is the larger one"
        raise ValueError(msg)
    return _HandleCall(
        disk,
        lambda overlapped: _virtdisk.MergeVirtualDisk(
            disk._handle,
            version=2,
            merge_source_depth=source,
            merge_target_depth=target,
            overlapped=overlapped,
        ),
    )


def mirror_call(
    disk: Maintenance, target: StrPath, *, existing: bool, flags: MirrorFlag | int
) -> Call[None]:
    """Makes a call that copies an image and goes on with the copy.

    Args:
        disk: The open image.
        target: See ``VirtualDisk.mirror``.
        existing: See ``VirtualDisk.mirror``.
        flags: See ``VirtualDisk.mirror``.

    Returns:
        The call, not yet made; endless.

    Raises:
        TypeError: An argument of a wrong type.
        ValueError: An empty path.

    Source: MirrorVirtualDisk, BreakMirrorVirtualDisk.
    """
    name = absolute_path(target)
    bits = check_flags(flags)
    if existing:
        bits |= MirrorFlag.EXISTING_FILE
    return _MirrorCall(disk, name, int(bits))


def _guid(value: object, name: str) -> bytes:
    """A UUID as it lies in memory."""
    if not isinstance(value, uuid.UUID):
        msg = f"{name} must be a uuid.UUID, not {type(value).__name__}"
        raise TypeError(msg)
    return value.bytes_le


class Maintenance:
    """The verbs of ``VirtualDisk`` that change an image as a whole."""

    _handle: _virtdisk.Handle
    _path: str

    @property
    def metadata(self) -> Metadata:
        """The user metadata of a VHDX, a mapping of UUIDs to bytes.

        Raises nothing; its methods do.

        Source: EnumerateVirtualDiskMetadata and the three others.
        """
        return Metadata(self._handle)

    def compact(
        self,
        *,
        zero_scan: bool = True,
        block_moves: bool = True,
        progress: ProgressFunction | None = None,
    ) -> None:
        """Makes the file of a dynamic or differencing image smaller.

        The disk must be detached, or attached read-only; on Linux with
        ``AttachFlag.NO_LOCAL_HOST`` by this object.  It must not have been
        opened ``read_only`` itself, as ``virtdisk.attach(read_only=True)``
        does.  Ctrl-C stops it; what is done until then stays done.

        Args:
            zero_scan: Whether to look for blocks that hold only zeros.
            block_moves: Whether to move blocks so that the file can be cut
                off; without it only what lies at the end is given back.
            progress: Called now and then with what is done and what there is
                to do, in a unit of the system's own.

        Raises:
            TypeError: progress cannot be called.
            ValueError: The disk is closed.
            VirtualDiskError: winerror 0xC03A001B for a fixed image, 32 or
                0xC03A001C while it is attached for writing, 5 if it was
                opened for reading only, 112 without space.

        Source: CompactVirtualDisk.
        """
        check_progress(progress)
        run(
            compact_call(self, zero_scan=zero_scan, block_moves=block_moves),
            progress,
        )

    def resize(
        self,
        size: int | None = None,
        *,
        smallest: bool = False,
        allow_unsafe: bool = False,
        progress: ProgressFunction | None = None,
    ) -> None:
        """Gives the disk another size.

        A disk is made smaller only as far as its last partition reaches,
        unless told otherwise.  Partitions and file systems keep their sizes.
        A VHDX that is attached for writing can be resized; on Linux a fixed
        one with a device only from whole blocks to whole blocks.

        Args:
            size: The new size in bytes, in whole sectors.
            smallest: Instead: the smallest size that cuts nothing off.
            allow_unsafe: Whether a smaller size may cut off what is there.
            progress: See ``compact``.

        Raises:
            TypeError: size is no integer, or progress cannot be called.
            ValueError: The disk is closed; not exactly one of size and
                smallest, or smallest together with allow_unsafe.
            VirtualDiskError: winerror 0xC03A0025 if partitions would be cut,
                0xC03A0026 if nobody can tell because there is no partition
                table, 0xC03A0027 if it is at the smallest size already,
                0xC03A001B for a VHD that shall shrink, 0xC03A0012 for a size
                that the format cannot hold, 87 for part of a sector, 19 while
                it is attached for reading, 32 or 0xC03A001C while it is
                attached in another way that does not allow it, 5 without the
                right to its device, 112 without space.

        Source: ResizeVirtualDisk.
        """
        check_progress(progress)
        call = resize_call(self, size, smallest=smallest, allow_unsafe=allow_unsafe)
        run(call, progress)

    def merge(
        self,
        *,
        source_depth: int = 1,
        target_depth: int = 2,
        progress: ProgressFunction | None = None,
    ) -> None:
        """Writes what differencing images hold into one of their parents.

        Depths count from the leaf, which is this disk: 1.  ``merge()`` puts
        it into its parent, ``merge(target_depth=3)`` it and its parent into
        the parent's parent, ``merge(source_depth=2, target_depth=3)`` the
        parent alone, while this disk stays a child of the merged one.

        The images from the source down to before the target have no use
        afterwards.  They are not removed.  If this disk is one of them it
        is to be closed.  Ctrl-C stops the merge; the chain stays readable,
        and it can be done again.

        Args:
            source_depth: Where to begin.
            target_depth: The image to write to.
            progress: See ``compact``.

        Raises:
            TypeError: A depth that is no integer, or progress cannot be
                called.
            ValueError: The disk is closed, or the target does not lie below
                the source.
            VirtualDiskError: winerror 0xC03A001B if it has no parent, 87 for
                a depth beyond the chain, 32 or 0xC03A001C while it is
                attached, 112 without space.

        Source: MergeVirtualDisk, parameters version 2.
        """
        check_progress(progress)
        call = merge_call(self, source_depth=source_depth, target_depth=target_depth)
        run(call, progress)

    def mirror(
        self,
        target: StrPath,
        *,
        existing: bool = False,
        flags: MirrorFlag | int = MirrorFlag.NONE,
        progress: ProgressFunction | None = None,
    ) -> None:
        """Copies the image while it may be in use, and goes on with the copy.

        On Linux the disk is detached, or attached with
        ``AttachFlag.NO_LOCAL_HOST``.

        When everything is copied the mirror is broken off: this object then
        stands for the copy, also its ``path``.  The first image stays as it
        is.  Ctrl-C before that gives the mirror up, and this object stays what
        it was.

        Args:
            target: The copy.
            existing: Whether it is there already, an image of the same kind
                and size that is overwritten.
            flags: More of ``MirrorFlag``.
            progress: See ``compact``.

        Raises:
            TypeError: An argument of a wrong type.
            ValueError: The disk is closed, or an empty path.
            VirtualDiskError: winerror 80 if the copy is there already, 2 or
                3 if it shall be and is not, 112 without space, 50 on Linux
                if it is attached with a device, 32 if somebody else uses
                either image, 5 if this one was opened for reading only.

        Source: MirrorVirtualDisk, BreakMirrorVirtualDisk.
        """
        check_progress(progress)
        run(mirror_call(self, target, existing=existing, flags=flags), progress)

    def reconnect(
        self,
        parent: StrPath,
        *,
        depth: int = 1,
        linkage_id: uuid.UUID | None = None,
    ) -> None:
        """Tells a differencing image where its parent is.

        For a parent that was moved.  Open the child with ``parents=False``,
        because the old place leads nowhere.

        Args:
            parent: The parent.
            depth: Which image of the chain gets it: 1 this one, 2 its
                parent, and so on.
            linkage_id: The identifier to expect of the parent from now on,
                which replaces the check of what the parent has.  For depth 1.

        Raises:
            TypeError: An argument of a wrong type.
            ValueError: The disk is closed, an empty path, a depth of 0, or a
                linkage_id with another depth than 1.
            VirtualDiskError: winerror 0xC03A001B if it is no differencing
                image, 0xC03A000E if the parent is another one, 0xC03A000D or
                2 if it is not there, 0xC03A001C or 32 while it is attached.

        Source: SetVirtualDiskInformation, PARENT_PATH_WITH_DEPTH and
        PARENT_LOCATOR.
        """
        name = absolute_path(parent)
        if check_integer(depth, "depth", 32) == 0:
            msg = "depth counts from 1, this image"
            raise ValueError(msg)
        if linkage_id is not None and depth != 1:
            msg = "linkage_id is for depth 1"
            raise ValueError(msg)
        members: dict[str, Any] = {"child_depth": depth}
        if linkage_id is not None:
            members = {"linkage_id": _guid(linkage_id, "linkage_id")}
        try:
            _virtdisk.SetVirtualDiskInformation(
                self._handle,
                _PARENT_PATH_WITH_DEPTH if linkage_id is None else _PARENT_LOCATOR,
                parent_file_path=name,
                **members,
            )
        except VirtualDiskError as error:
            if error.winerror in _OF_THE_OTHER:
                error.filename = name
            raise

    def set_info(
        self,
        *,
        identifier: uuid.UUID | None = None,
        virtual_disk_id: uuid.UUID | None = None,
        physical_sector_size: int | None = None,
        change_tracking: bool | None = None,
    ) -> None:
        """Changes what the image says of itself; None leaves it as it is.

        Several changes are made one after the other, in the order of the
        arguments; one that fails leaves those before it done.

        Args:
            identifier: The unique identifier of a VHD.  Its children do not
                accept it any more.
            virtual_disk_id: The identifier of a VHDX's disk.
            physical_sector_size: That a VHDX reports, in bytes: 512 or 4096.
            change_tracking: Whether changes are tracked; not on Linux.

        Raises:
            TypeError: An argument of a wrong type.
            ValueError: The disk is closed, or nothing is to be changed.
            VirtualDiskError: winerror 50 for what this kind of image or
                system does not have, 87 for another sector size, 0xC03A001C
                or 32 while it is attached, 5 if it was opened for reading
                only.

        Source: SetVirtualDiskInformation.
        """
        changes: list[tuple[int, dict[str, Any]]] = []
        if identifier is not None:
            guid = _guid(identifier, "identifier")
            changes.append((_IDENTIFIER, {"unique_identifier": guid}))
        if virtual_disk_id is not None:
            guid = _guid(virtual_disk_id, "virtual_disk_id")
            changes.append((_VIRTUAL_DISK_ID, {"virtual_disk_id": guid}))
        if physical_sector_size is not None:
            size = check_integer(physical_sector_size, "physical_sector_size", 32)
            changes.append((_PHYSICAL_SECTOR_SIZE, {"vhd_physical_sector_size": size}))
        if change_tracking is not None:
            tracking = {"change_tracking_enabled": bool(change_tracking)}
            changes.append((_CHANGE_TRACKING_STATE, tracking))
        if not changes:
            msg = "set_info needs something to change"
            raise ValueError(msg)
        for version, members in changes:
            _virtdisk.SetVirtualDiskInformation(self._handle, version, **members)
