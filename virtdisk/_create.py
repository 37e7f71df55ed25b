"""Making images.

The kind is told by the name of the new file or by ``storage_type``; parameters
version 2 carry all that VHD and VHDX have.  What is not said is left to the
system, whose defaults are Windows' on both systems.

Source: CreateVirtualDisk, CREATE_VIRTUAL_DISK_PARAMETERS.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from typing import TYPE_CHECKING, Any, Final, Literal

from virtdisk import _virtdisk
from virtdisk._arguments import (
    WINDOWS,
    absolute_path,
    check_flags,
    check_integer,
    check_security,
)
from virtdisk._disk import VirtualDisk
from virtdisk._errors import ImageCorruptError, VirtualDiskError
from virtdisk._flags import CreateFlag, ProviderSubtype, StorageType
from virtdisk._geometry import check_geometry
from virtdisk._open import vendor_of
from virtdisk._operation import Call, check_progress, run
from virtdisk._storage import storage_type_of

if TYPE_CHECKING:
    from virtdisk._operation import ProgressFunction

    StrPath = str | os.PathLike[str]
    DiskType = Literal["fixed", "dynamic", "differencing"] | ProviderSubtype

__all__ = ["create", "create_call"]

_INVALID_NAME: Final = 123
# What can only be said of an image that is there: the parent or source.
_OF_RELATED: Final = frozenset(
    {
        32,  # ERROR_SHARING_VIOLATION
        0xC03A000D,  # ERROR_VHD_PARENT_VHD_NOT_FOUND
        0xC03A000E,  # ERROR_VHD_CHILD_PARENT_ID_MISMATCH
        0xC03A0014,  # ERROR_VIRTDISK_PROVIDER_NOT_FOUND
        0xC03A0016,  # ERROR_VHD_PARENT_VHD_ACCESS_DENIED
        0xC03A0018,  # ERROR_VHD_DIFFERENCING_CHAIN_CYCLE_DETECTED
        0xC03A0019,  # ERROR_VHD_DIFFERENCING_CHAIN_ERROR_IN_PARENT
    }
)
_BY_SUFFIX: Final = {
    ".vhd": StorageType.VHD,
    ".avhd": StorageType.VHD,
    ".vhdx": StorageType.VHDX,
    ".avhdx": StorageType.VHDX,
}


class _CreateCall(Call[VirtualDisk]):
    """CreateVirtualDisk, and what it leaves behind."""

    def __init__(self, target: str, related: str, arguments: dict[str, Any]) -> None:
        super().__init__(related)
        self._target = target
        self._arguments = arguments
        self._handle: _virtdisk.Handle | None = None
        self._existed = False

    def start(self, overlapped: _virtdisk.Overlapped) -> None:
        self._existed = os.path.lexists(self._target)
        self._handle = _virtdisk.CreateVirtualDisk(
            self._target, overlapped=overlapped, **self._arguments
        )

    def finish(self) -> VirtualDisk:
        assert self._handle is not None
        return VirtualDisk(
            self._handle, path=self._target, optical=False, read_only=False
        )

    def _is_of_related(self, error: VirtualDiskError) -> bool:
        """Whether the parent or source is at fault, and not the target."""
        if error.winerror in _OF_RELATED or isinstance(error, ImageCorruptError):
            return True
        if error.winerror == _INVALID_NAME:  # that a child cannot carry
            return "\\" in self.path or not self.path.isprintable()
        return isinstance(error, FileNotFoundError) and not os.path.lexists(self.path)

    def undo(self) -> None:
        if self._handle is not None:
            self._handle.close()
        with contextlib.suppress(OSError):
            os.remove(self._target)

    def fail(self, error: BaseException) -> None:
        super().fail(error)
        if isinstance(error, VirtualDiskError) and self._is_of_related(error):
            error.filename = self.path
        if self._handle is None:
            return
        self._handle.close()
        # Windows leaves what it has made so far; the engine does not.
        if WINDOWS and not self._existed:
            with contextlib.suppress(OSError):
                os.remove(self._target)


def _new_storage_type(path: str, storage_type: StorageType | int | None) -> StorageType:
    """The type of an image that is to be made."""
    if storage_type is not None:
        kind = StorageType(check_integer(storage_type, "storage_type", 32))
        if kind is StorageType.ISO:
            msg = "an ISO image cannot be made"
            raise ValueError(msg)
        return kind
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in _BY_SUFFIX:
        msg = (
            f"{path!r} does not end in .vhd or .vhdx: storage_type must say what it is"
        )
        raise ValueError(msg)
    return _BY_SUFFIX[suffix]


def _new_subtype(disk_type: object, *, has_parent: bool) -> ProviderSubtype:
    """Fixed, dynamic or differencing."""
    if disk_type is None:
        differencing = ProviderSubtype.DIFFERENCING
        return differencing if has_parent else ProviderSubtype.DYNAMIC
    names = {kind.name.lower(): kind for kind in ProviderSubtype}
    if isinstance(disk_type, ProviderSubtype):
        subtype = disk_type
    elif isinstance(disk_type, str) and disk_type in names:
        subtype = names[disk_type]
    else:
        msg = f"type must be one of {', '.join(names)}, not {disk_type!r}"
        raise ValueError(msg)
    if (subtype is ProviderSubtype.DIFFERENCING) != has_parent:
        msg = "a differencing image, and no other, has a parent"
        raise ValueError(msg)
    return subtype


def _other_image(name: str, path: StrPath | None) -> tuple[str | None, dict[str, Any]]:
    """The path of a parent or source, and the arguments that name it."""
    if path is None:
        return None, {}
    other = absolute_path(path)
    device_id = storage_type_of(other, None)
    return other, {
        f"{name}_path": other,
        f"{name}_device_id": device_id,
        f"{name}_vendor_id": vendor_of(device_id),
    }


def _unique_id(value: object) -> bytes | None:
    """An identifier as it lies in memory."""
    if value is None:
        return None
    if not isinstance(value, uuid.UUID):
        msg = f"id must be a uuid.UUID, not {type(value).__name__}"
        raise TypeError(msg)
    return value.bytes_le


def create_call(
    path: StrPath,
    size: int | None,
    *,
    type: DiskType | None,  # noqa: A002 - the word for it
    parent: StrPath | None,
    source: StrPath | None,
    block_size: int | None,
    sector_size: int | None,
    physical_sector_size: int | None,
    id: uuid.UUID | None,  # noqa: A002 - the word for it
    storage_type: StorageType | int | None,
    security: str | bytes | None,
    flags: CreateFlag | int,
) -> Call[VirtualDisk]:
    """Makes a call that makes an image; all arguments as of ``create``.

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
        The call, not yet made.

    Raises:
        TypeError: An argument of a wrong type.
        ValueError: Arguments that contradict each other.

    Source: CreateVirtualDisk.
    """
    name = absolute_path(path)
    if parent is not None and source is not None:
        msg = "parent and source exclude each other"
        raise ValueError(msg)
    check_security(security)
    bits = check_flags(flags)
    if _new_subtype(type, has_parent=parent is not None) is ProviderSubtype.FIXED:
        bits |= CreateFlag.FULL_PHYSICAL_ALLOCATION
    kind = _new_storage_type(name, storage_type)
    device_id = int(kind)
    if size is None and parent is None and source is None:
        msg = "size is needed: there is no parent or source to take it from"
        raise ValueError(msg)
    arguments: dict[str, Any] = {
        "device_id": device_id,
        "vendor_id": vendor_of(device_id),
        "security_descriptor": security,
        "flags": int(bits),
        "version": 2,
        "unique_id": _unique_id(id),
        "resiliency_guid": uuid.uuid4().bytes_le,
        **check_geometry(kind, size, block_size, sector_size, physical_sector_size),
    }
    parent_path, members = _other_image("parent", parent)
    arguments.update(members)
    source_path, members = _other_image("source", source)
    arguments.update(members)
    return _CreateCall(name, parent_path or source_path or name, arguments)


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
    progress: ProgressFunction | None = None,
) -> VirtualDisk:
    """Makes a VHD or VHDX and opens it.

    A file that exists is never overwritten.  After a failure, or Ctrl-C,
    there is none.

    Args:
        path: The new image.
        size: Of the disk in bytes, in whole sectors, at least 3 MiB.  None:
            that of the parent or source.
        type: ``"fixed"``, ``"dynamic"``, ``"differencing"`` or a
            ``ProviderSubtype``.  None: dynamic, or with a parent
            differencing.
        parent: The image that a differencing one is a child of.  It must not
            be changed any more.
        source: What the disk shall hold: an image of any kind, or a block
            device.  On Linux also a raw file (see ``convert``).
        block_size: The unit of allocation in bytes.  VHD: 512 KiB or 2 MiB.
            VHDX: 1 MiB to 256 MiB, a power of two.  None: 2 MiB for VHD and
            children, 32 MiB for VHDX.
        sector_size: Logical, in bytes.  VHD: 512; VHDX: 512 or 4096.  None:
            512, or the parent's.
        physical_sector_size: That the disk reports, in bytes.  VHDX only:
            512 or 4096, which it is by default.
        id: The identifier of the VHD, or of the VHDX's disk.  None: a new
            one.
        storage_type: VHD or VHDX.  None: as the file's name ends.
        security: Who may use the file: SDDL text or the bytes of a
            self-relative security descriptor.  None: as for any new file.
        flags: More of ``CreateFlag``.
        progress: Called now and then with what is done and what there is to
            do, in a unit of the system's own.

    Returns:
        The open disk, to be attached, closed or used in a ``with`` statement.

    Raises:
        TypeError: An argument of a wrong type.
        ValueError: Arguments that contradict each other, a size, block size or
            sector size that the format does not have, or a name that does not
            say what to make.
        KeyboardInterrupt: After Ctrl-C, when the operation is over and
            nothing is left of the image.
        VirtualDiskError: winerror 80 if the file exists, 2 or 3 if its folder,
            parent or source does not, 87 for a size below the source's,
            0xC03A0012 without one if the source has less than 3 MiB, 112
            without space for a fixed one, 32 if the parent or source is being
            written to, a code of 0xC03A… if it is damaged.

    Source: CreateVirtualDisk, parameters version 2.
    """
    check_progress(progress)
    call = create_call(
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
    return run(call, progress)
