"""Opening, attaching and detaching virtual disks.

The names here say what a user wants; which flags of virtdisk.h that takes is
decided here, and by which parameters an image is opened in _open.py.  ISO is
attached read-only unasked.

Paths are made absolute, so that an object keeps naming its image when the
working directory changes (_arguments.py).

Source: OpenVirtualDisk, AttachVirtualDisk, DetachVirtualDisk,
GetVirtualDiskInformation, GetVirtualDiskPhysicalPath and
GetAllAttachedVirtualDiskPhysicalPaths of virtdisk.h.
"""

from __future__ import annotations

import contextlib
import os
import stat
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NoReturn, Self

from virtdisk import _info, _virtdisk, _volumes
from virtdisk._arguments import (
    WINDOWS,
    absolute_path,
    check_flags,
    check_range,
    check_security,
)
from virtdisk._errors import VirtualDiskError, error_from_code
from virtdisk._flags import AccessMask, AttachFlag, OpenFlag, StorageType
from virtdisk._maintenance import Maintenance
from virtdisk._open import (
    device_of,
    open_for_detach,
    open_handle,
    who_holds,
)
from virtdisk._operation import Call
from virtdisk._raw import check_mode, open_raw, open_scsi, open_sectors
from virtdisk._storage import is_optical, storage_type_of

if TYPE_CHECKING:
    from types import TracebackType

    from virtdisk._info import VirtualDiskInfo

    StrPath = str | os.PathLike[str]

__all__ = ["AttachedImage", "VirtualDisk", "attach", "attached", "detach", "open"]

_NOT_SUPPORTED: Final = 50
_BUSY: Final = 170
_NO_DEVICE: Final = frozenset({_NOT_SUPPORTED, 1314})  # ERROR_PRIVILEGE_NOT_HELD
_SHARING_VIOLATION: Final = 32
_NOT_ATTACHED: Final = frozenset({21, 1168})  # ERROR_NOT_READY, _NOT_FOUND
_NOT_VIRTUAL_DISK: Final = 0xC03A0015

_AT_BOOT_REMEDY: Final = (
    "use a systemd unit instead: Type=oneshot, RemainAfterExit=yes,"
    " ExecStart=virtdisk attach IMAGE, ExecStop=virtdisk detach IMAGE"
)

_PRIVATE_REMEDY: Final = (
    "or attach with flags=AttachFlag.NO_LOCAL_HOST, which needs no privilege, and"
    " use the disk through its raw()"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachedImage:
    """An image that is attached somewhere on this system.

    Attributes:
        path: The image, as it was named when it was attached.
        physical_path: The device, or None where it cannot be learned: the
            image cannot be opened any more, or it was attached without one.
    """

    path: str
    physical_path: str | None


def _detach_handle(handle: _virtdisk.Handle) -> None:
    """DetachVirtualDisk; a busy disk's error names its users."""
    try:
        _virtdisk.DetachVirtualDisk(handle)
    except VirtualDiskError as error:
        if error.winerror == _BUSY and not WINDOWS:
            error.remedy = _users_of(handle) or error.remedy
        raise


def _users_of(handle: _virtdisk.Handle) -> str | None:
    """Who uses the disk, if its device can be learned."""
    try:
        return _volumes.describe_users(_virtdisk.GetVirtualDiskPhysicalPath(handle))
    except VirtualDiskError:
        return None


def _check_attach(
    flags: AttachFlag | int,
    security: str | bytes | None,
    restricted_range: tuple[int, int] | None,
) -> tuple[int, int, int]:
    """The flags, and the offset and length of the part to show."""
    bits = check_flags(flags)
    check_security(security)
    offset, length = check_range(restricted_range)
    if length:
        bits |= int(AttachFlag.RESTRICTED_RANGE)
    elif bits & AttachFlag.RESTRICTED_RANGE:
        msg = "AttachFlag.RESTRICTED_RANGE needs restricted_range"
        raise ValueError(msg)
    return bits, offset, length


def is_reading(
    read_only: bool | None,
    flags: AttachFlag | int,
    security: str | bytes | None,
    restricted_range: tuple[int, int] | None,
) -> bool:
    """Checks how an image shall be attached, before it is opened.

    Args:
        read_only: See ``VirtualDisk.attach``, as for all others.
        flags: More of ``AttachFlag``.
        security: Who may use the device.
        restricted_range: The part to show, in bytes.

    Returns:
        Whether it need only be opened for reading.

    Raises:
        TypeError: An argument of a wrong type.
        ValueError: Arguments that contradict each other.

    Source: OPEN_VIRTUAL_DISK_PARAMETERS, ReadOnly.
    """
    bits, _, _ = _check_attach(flags, security, restricted_range)
    return bool(read_only) or bool(bits & AttachFlag.READ_ONLY)


class _AttachCall(Call[None]):
    """AttachVirtualDisk, and what follows from it for the disk's object."""

    def __init__(
        self,
        disk: VirtualDisk,
        flags: int,
        security: str | bytes | None,
        restricted_range: tuple[int, int],
    ) -> None:
        super().__init__(disk.path)
        self._disk = disk
        self._flags = flags
        self._security = security
        self._offset, self._length = restricted_range

    def start(self, overlapped: _virtdisk.Overlapped | None) -> None:
        pending: dict[str, Any] = (
            {} if overlapped is None else {"overlapped": overlapped}
        )
        _virtdisk.AttachVirtualDisk(
            self._disk._handle,
            security_descriptor=self._security,
            flags=self._flags,
            version=2 if self._length else 1,
            restricted_offset=self._offset,
            restricted_length=self._length,
            **pending,
        )

    def finish(self) -> None:
        self._disk._note_attached(self._flags, self._length)

    def undo(self) -> None:
        self.finish()
        with contextlib.suppress(VirtualDiskError):
            self._disk.detach()

    def fail(self, error: BaseException) -> None:
        super().fail(error)
        if not isinstance(error, VirtualDiskError):
            return
        refused = error.winerror == _NOT_SUPPORTED
        if refused and self._flags & AttachFlag.AT_BOOT and not WINDOWS:
            error.remedy = _AT_BOOT_REMEDY
        if error.winerror in _NO_DEVICE and self._could_be_private():
            error.remedy = f"{error.remedy}; {_PRIVATE_REMEDY}"

    def _could_be_private(self) -> bool:
        """Whether NO_LOCAL_HOST would help where there is no device to be had."""
        other = AttachFlag.NO_LOCAL_HOST | AttachFlag.AT_BOOT
        other |= AttachFlag.PERMANENT_LIFETIME
        return not (WINDOWS or self._disk._optical or self._flags & other)


def attach_call(
    disk: VirtualDisk,
    *,
    read_only: bool | None,
    drive_letter: bool,
    permanent: bool,
    security: str | bytes | None,
    restricted_range: tuple[int, int] | None,
    flags: AttachFlag | int,
) -> _AttachCall:
    """Makes a call that attaches an open disk.

    Args:
        disk: The disk.
        read_only: See ``VirtualDisk.attach``, as for all others.
        drive_letter: Whether volumes get drive letters.
        permanent: Whether it stays attached.
        security: Who may use the device.
        restricted_range: The part to show, in bytes.
        flags: More of ``AttachFlag``.

    Returns:
        The call, not yet made.

    Raises:
        TypeError: An argument of a wrong type.
        ValueError: Arguments that contradict each other or the image's kind.

    Source: AttachVirtualDisk.
    """
    bits, offset, length = _check_attach(flags, security, restricted_range)
    if disk._optical and read_only is False:
        msg = "an ISO image can only be attached read-only"
        raise ValueError(msg)
    if disk._read_only if read_only is None else read_only:
        bits |= AttachFlag.READ_ONLY
    if not drive_letter:
        bits |= AttachFlag.NO_DRIVE_LETTER
    if permanent:
        bits |= AttachFlag.PERMANENT_LIFETIME
    return _AttachCall(disk, int(bits), security, (offset, length))


class VirtualDisk(Maintenance):
    """An open virtual disk image: VHD, VHDX or ISO.

    Made by ``virtdisk.open``, ``attach`` and ``create``.  The object owns a
    handle to the image.  A disk attached through it lives as long as the
    handle, unless it is attached permanently: it goes when the object is
    closed, when a ``with`` block ends, or when the process ends, however it
    ends.  An object that is dropped without being closed warns
    (``ResourceWarning``) and closes.

    Calls may come from several threads.  After ``close`` every call raises
    ``ValueError``.

    Source: OpenVirtualDisk; the lifetime rules of AttachVirtualDisk.
    """

    def __init__(
        self, handle: _virtdisk.Handle, *, path: str, optical: bool, read_only: bool
    ) -> None:
        """Takes over a handle.  Use ``virtdisk.open`` instead."""
        self._handle = handle
        self._path = path
        self._optical = optical
        self._read_only = read_only
        self._permanent = False
        self._attached = False  # by us, and not detached by us since
        self._was_attached = False
        self._size: int | None = None  # of a restricted range
        self._local = True  # attached with a device

    @property
    def path(self) -> str:
        """The image's absolute path.  Raises nothing.

        Source: OpenVirtualDisk, Path.
        """
        return self._path

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called.  Raises nothing.

        Source: CloseHandle.
        """
        return self._handle.closed

    @property
    def info(self) -> VirtualDiskInfo:
        """What the system knows about the disk, asked anew each time.

        Sizes are bytes.  What this kind of image does not have is None.

        Raises:
            ValueError: The disk is closed.
            VirtualDiskError: winerror 5 if the handle has no right to ask,
                or a code of a damaged image.

        Source: GetVirtualDiskInformation, all its classes.
        """
        return _info.query(self._handle)

    @property
    def physical_path(self) -> str:
        r"""The device: ``/dev/loop3``, ``\\.\PhysicalDrive3``, ``\\.\CDROM0``.

        Also if another process attached the image.

        Raises:
            ValueError: The disk is closed.
            VirtualDiskError: winerror 55 if the disk is not attached, or is
                attached without a device (``AttachFlag.NO_LOCAL_HOST``).

        Source: GetVirtualDiskPhysicalPath.
        """
        return _virtdisk.GetVirtualDiskPhysicalPath(self._handle)

    def attach(
        self,
        *,
        read_only: bool | None = None,
        drive_letter: bool = True,
        permanent: bool = False,
        security: str | bytes | None = None,
        restricted_range: tuple[int, int] | None = None,
        flags: AttachFlag | int = AttachFlag.NONE,
    ) -> None:
        """Makes the disk visible to the system.

        Args:
            read_only: Whether it can only be read.  None: as it was opened;
                ISO always.
            drive_letter: Whether the system shall give its volumes drive
                letters; on Linux, whether partitions get device nodes and
                desktops may mount them.
            permanent: Whether it stays attached until it is detached
                explicitly, instead of going when this object is closed.
            security: Who may use the device: SDDL text, or the bytes of a
                self-relative security descriptor.  None: who may use the
                image file.
            restricted_range: Offset and length in bytes of the only part to
                show, in whole sectors.
            flags: More of ``AttachFlag``.

        Raises:
            TypeError: An argument of a wrong type.
            ValueError: The disk is closed, or arguments that contradict each
                other or the image's kind.
            VirtualDiskError: winerror 1314 without privilege, 32 if the image
                is in use or attached, 5 if it was opened for reading only,
                87 if the system refuses a flag or the range, 50 if it cannot
                do what was asked.

        Source: AttachVirtualDisk.
        """
        call = attach_call(
            self,
            read_only=read_only,
            drive_letter=drive_letter,
            permanent=permanent,
            security=security,
            restricted_range=restricted_range,
            flags=flags,
        )
        try:
            call.start(None)
        except VirtualDiskError as error:
            call.fail(error)
            raise
        call.finish()

    def _note_attached(self, flags: int, length: int) -> None:
        """What follows from an attachment made by this object."""
        self._local = not flags & AttachFlag.NO_LOCAL_HOST
        self._permanent = bool(flags & AttachFlag.PERMANENT_LIFETIME)
        self._size = length or None
        self._attached = self._was_attached = True

    def detach(self) -> None:
        """Takes the disk away from the system.

        Works for any attached image, whoever attached it.  If this object
        attached it and somebody else has detached it since, nothing happens.

        Raises:
            ValueError: The disk is closed.
            VirtualDiskError: winerror 170 while it is in use (the remedy names
                mount points), 21 if it is not attached, 5 or 1314 without
                the right or privilege.

        Source: DetachVirtualDisk.
        """
        try:
            _detach_handle(self._handle)
        except VirtualDiskError as error:
            if not (self._was_attached and error.winerror in _NOT_ATTACHED):
                raise
        self._attached, self._was_attached = False, True

    def raw(self, mode: str = "rb") -> BinaryIO:
        """Opens the attached disk as a seekable binary file.

        The file is buffered and not tied to this object: close it before the
        disk is detached.  Positions are bytes; the end is the disk's size.
        On Windows whole sectors are transferred, and writing to a part that
        holds a mounted volume is refused by the system.

        A disk attached with ``AttachFlag.NO_LOCAL_HOST`` has no device.  The
        file then reads and writes it through this object, needs no privilege,
        and has no ``fileno``; its ``flush`` makes durable what was written.

        Args:
            mode: ``"rb"`` or ``"r+b"``.

        Returns:
            An ``io.BufferedReader`` or ``io.BufferedRandom``.

        Raises:
            ValueError: Another mode, or the disk is closed.
            VirtualDiskError: winerror 55 if the disk is not attached; 21 if
                it was, without a device, and somebody else has detached it.
            OSError: The device cannot be opened: no rights, or a read-only
                disk in mode ``"r+b"``.

        Source: GetVirtualDiskPhysicalPath, CreateFile, RawSCSIVirtualDisk.
        """
        mode = check_mode(mode)
        if self._attached and not self._local:
            return open_scsi(self._handle, mode)
        device = self.physical_path
        if not WINDOWS:
            return open_raw(device, mode)
        info = self.info
        size = self._size or info.virtual_size
        return open_sectors(device, mode, size=size, sector_size=info.sector_size)

    def close(self) -> None:
        """Closes the handle; a second call does nothing.

        A disk attached through this object goes when nobody uses it any
        more, unless it is permanent.  To be told whether it went, ``detach``
        first.  Raises nothing.

        Source: CloseHandle.
        """
        self._handle.close()

    def __enter__(self) -> Self:
        if self.closed:
            msg = f"operation on a closed disk: {self._path!r}"
            raise ValueError(msg)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Detaches what was attached here and is not permanent; closes."""
        try:
            if self._attached and not self._permanent and not self.closed:
                self.detach()
        finally:
            self.close()

    def __reduce__(self) -> NoReturn:
        # A copy would close the handle of both.
        msg = f"cannot copy or pickle {type(self).__name__!r} object"
        raise TypeError(msg)

    def __del__(self) -> None:
        handle: _virtdisk.Handle | None = getattr(self, "_handle", None)
        if handle is None or handle.closed:
            return
        # A permanent attachment is meant to be left behind.
        if not (self._attached and self._permanent):
            state = "attached" if self._attached else "open"
            warnings.warn(
                f"{state} virtual disk was not closed: {self._path!r}",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
        handle.close()

    def __repr__(self) -> str:
        if self.closed:
            state = "closed"
        elif not self._attached:
            state = "open"
        else:
            state = "attached permanently" if self._permanent else "attached"
        return f"<virtdisk.VirtualDisk {self._path!r} {state}>"


def open(  # noqa: A001 - virtdisk.open, as gzip.open
    path: StrPath,
    *,
    access: AccessMask | int | None = None,
    read_only: bool = False,
    info_only: bool = False,
    storage_type: StorageType | int | None = None,
    parents: bool = True,
    flags: OpenFlag | int = OpenFlag.NONE,
) -> VirtualDisk:
    """Opens an image without attaching it.

    Args:
        path: The image.
        access: The rights of the handle, which asks for parameters version 1.
            None: all that suits the image.
        read_only: Whether the image file is opened for reading only.  ISO
            always is.
        info_only: Whether the handle shall only answer questions; such a
            handle can be had of an image that is in use.
        storage_type: The image's type; None: judged by its content.
        parents: Whether the parents of a differencing image are opened too.
        flags: More of ``OpenFlag``.

    Returns:
        The open disk, to be closed or used in a ``with`` statement.

    Raises:
        TypeError: An argument of a wrong type; bytes are no path.
        ValueError: An empty path, an unknown type, or arguments that
            contradict each other.
        VirtualDiskError: winerror 2 or 3 if there is no such file, 5 without
            rights on it, 32 if it is in use, 0xC03A0014 if it is no image,
            87 if it is no file (a folder, on Linux also a device), 1392 or
            another of 0xC03A… if it is damaged.

    Source: OpenVirtualDisk.
    """
    name = absolute_path(path)
    bits = check_flags(flags)
    mask = None if access is None else check_flags(access, "access")
    if mask is not None and info_only:
        msg = "access and info_only exclude each other"
        raise ValueError(msg)
    device_id = storage_type_of(name, storage_type)
    optical = is_optical(name, device_id)
    if not parents and not optical:  # an ISO image has none
        bits |= OpenFlag.NO_PARENTS
    try:
        handle = open_handle(
            name,
            device_id,
            access=mask,
            read_only=read_only,
            info_only=info_only,
            flags=bits,
        )
    except VirtualDiskError as error:
        if error.winerror == _SHARING_VIOLATION:
            error.remedy = who_holds(name) or error.remedy
        raise
    return VirtualDisk(
        handle, path=name, optical=optical, read_only=read_only or optical
    )


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
) -> VirtualDisk:
    """Opens an image and attaches it.

    Args:
        path: The image.
        read_only: Whether the disk can only be read, and the image file is
            opened for reading only.  None: ISO yes, others no.
        drive_letter: See ``VirtualDisk.attach``.
        permanent: Whether the disk stays attached when the returned object
            is closed and when the process ends.
        security: See ``VirtualDisk.attach``.
        restricted_range: Offset and length in bytes; see
            ``VirtualDisk.attach``.
        storage_type: The image's type; None: judged by its content.
        flags: More of ``AttachFlag``.

    Returns:
        The attached disk.  Use it in a ``with`` statement, or close it; both
        detach it unless it is permanent.

    Raises:
        TypeError: An argument of a wrong type; bytes are no path.
        ValueError: Arguments that contradict each other or the image's kind.
        VirtualDiskError: As ``virtdisk.open`` and ``VirtualDisk.attach``.

    Source: OpenVirtualDisk, AttachVirtualDisk.
    """
    # Before the image is opened: misuse is told before any system call.
    reading = is_reading(read_only, flags, security, restricted_range)
    disk = open(path, read_only=reading, storage_type=storage_type)
    try:
        disk.attach(
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
    return disk


def _is_device(path: str) -> bool:
    r"""Whether a path names a device (``\\.\…``, a block device)."""
    if WINDOWS:
        return path.startswith("\\\\.\\")
    try:
        return stat.S_ISBLK(os.stat(path).st_mode) or _is_shown_file(path)
    except OSError:
        return False


def _is_shown_file(path: str) -> bool:
    """Whether a file is where disks are shown as files."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    directory = os.path.join(os.path.realpath(runtime), "virtdisk")
    return bool(runtime) and os.path.dirname(os.path.realpath(path)) == directory


def _image_behind(device: str) -> str:
    """The image that is attached as a device."""
    wanted = os.path.normcase(os.path.realpath(device))
    for image in attached():
        if image.physical_path is None:
            continue
        if os.path.normcase(os.path.realpath(image.physical_path)) == wanted:
            return image.path
    raise error_from_code(_NOT_VIRTUAL_DISK, "DetachVirtualDisk", device)


def detach(path: StrPath) -> None:
    r"""Detaches an image, whichever process attached it.

    Args:
        path: The image, or its device (``/dev/loop3``,
            ``\\.\PhysicalDrive3``).

    Raises:
        TypeError: bytes are no path.
        ValueError: An empty path.
        VirtualDiskError: winerror 21 if it is not attached, 170 while it is in
            use (the remedy names mount points), 1314 without privilege,
            0xC03A0015 for a device that is no virtual disk.

    Source: DetachVirtualDisk.
    """
    name = absolute_path(path)
    if _is_device(name):
        name = _image_behind(name)
    with open_for_detach(name) as handle:
        _detach_handle(handle)


def attached() -> list[AttachedImage]:
    """Every image attached on this system, by any process.

    Images that cannot be opened any more (moved, removed, no rights) are in
    the list without their device.

    Returns:
        The images in the system's order.

    Raises:
        VirtualDiskError: The system cannot tell.

    Source: GetAllAttachedVirtualDiskPhysicalPaths, which despite its name
    returns the paths of the images; GetVirtualDiskPhysicalPath.
    """
    paths = _virtdisk.GetAllAttachedVirtualDiskPhysicalPaths()
    return [AttachedImage(path=path, physical_path=device_of(path)) for path in paths]
