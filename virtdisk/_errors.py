"""Errors: what a Win32 code means, and what would help.

The functions of virtdisk.h answer with a Win32 error code and nothing else.
This module turns such a code into one exception that carries everything a
program or a person may want: the unsigned code, its symbolic name, an errno,
the system's message and a line that says what would help.

It imports nothing of the package but the table of codes, so that the
extension module can import it while the package itself is being imported.
"""

from __future__ import annotations

import errno as _errno
import os
import sys
from typing import Any, Final

from virtdisk._winerror import ERROR_TABLE

__all__ = [
    "AccessDeniedError",
    "ImageCorruptError",
    "ImageExistsError",
    "ImageNotFoundError",
    "OperationIncompleteError",
    "OperationTimeoutError",
    "PrivilegeNotHeldError",
    "SharingViolationError",
    "VirtualDiskError",
    "error_from_code",
]


_DAMAGED: Final = (
    "the image was damaged, or its transfer was not complete: fetch or restore it again"
)
_RELINK: Final = (
    "put the right parent where the image expects it, or open the image alone"
    " with parents=False, and tell it by reconnect() where its parent is"
)
_IN_USE: Final = (
    "find out who holds the image: a virtual machine, a backup, or an earlier"
    " attachment (see virtdisk.attached())"
)
_SEE_CHAIN: Final = (
    "virtdisk.chain() follows its parents, and names the one that is at fault"
)
_NOT_ATTACHED: Final = "attach it first; virtdisk.attached() lists what is"

# What would help, by name; None where only the caller can know.
_REMEDIES: Final[dict[str, str]] = {
    "ERROR_TOO_MANY_OPEN_FILES": (
        "close what is no longer used, or raise the limit of open files"
    ),
    "ERROR_ACCESS_DENIED": (
        "use an account with rights on the image, or ask for less: open or"
        " attach it read-only"
    ),
    "ERROR_WRITE_PROTECT": "attach it read-only, or make its medium writable",
    "ERROR_NOT_READY": _NOT_ATTACHED,
    "ERROR_BAD_COMMAND": (
        "copy the image to a file system that supports file locks and direct I/O"
    ),
    "ERROR_SHARING_VIOLATION": _IN_USE,
    "ERROR_LOCK_VIOLATION": _IN_USE,
    "ERROR_DEV_NOT_EXIST": _NOT_ATTACHED,
    "ERROR_FILE_EXISTS": "choose another name, or remove the file first",
    "ERROR_DISK_FULL": "free some space where the image lies",
    "ERROR_HANDLE_DISK_FULL": "free some space where the image lies",
    "ERROR_BUSY": (
        "unmount its file systems and close every program that uses the disk"
    ),
    "ERROR_ALREADY_EXISTS": (
        "it is attached already (see virtdisk.attached()): detach it first"
    ),
    "ERROR_UNSUPPORTED_COMPRESSION": (
        "remove the compression attribute from the image file (compact /u)"
    ),
    "ERROR_FILE_SYSTEM_LIMITATION": (
        "copy the image to a local disk; loopback shares do not work"
    ),
    "ERROR_FILE_CORRUPT": _DAMAGED,
    "ERROR_DISK_CORRUPT": _DAMAGED,
    "ERROR_FILE_ENCRYPTED": (
        "remove the encryption attribute from the image file (cipher /d)"
    ),
    "ERROR_NONE_MAPPED": (
        "name an account of this system, or give its identifier (S-1-…)"
    ),
    "ERROR_VHD_DRIVE_FOOTER_MISSING": _DAMAGED,
    "ERROR_VHD_DRIVE_FOOTER_CHECKSUM_MISMATCH": _DAMAGED,
    "ERROR_VHD_DRIVE_FOOTER_CORRUPT": _DAMAGED,
    "ERROR_VHD_SPARSE_HEADER_CHECKSUM_MISMATCH": _DAMAGED,
    "ERROR_VHD_SPARSE_HEADER_CORRUPT": _DAMAGED,
    "ERROR_VHD_BLOCK_ALLOCATION_FAILURE": (
        "free some space where the image lies; a VHD whose file has reached 2 TiB"
        " can hold no more: convert it to VHDX"
    ),
    "ERROR_VHD_BLOCK_ALLOCATION_TABLE_CORRUPT": _DAMAGED,
    "ERROR_VHD_BITMAP_MISMATCH": _DAMAGED,
    "ERROR_VHD_INVALID_FILE_SIZE": _DAMAGED,
    "ERROR_VHD_PARENT_VHD_NOT_FOUND": _RELINK,
    "ERROR_VHD_CHILD_PARENT_ID_MISMATCH": _RELINK,
    "ERROR_VHD_CHILD_PARENT_TIMESTAMP_MISMATCH": _RELINK,
    "ERROR_VHD_CHILD_PARENT_SIZE_MISMATCH": _RELINK,
    "ERROR_VHD_PARENT_VHD_ACCESS_DENIED": (
        "use an account that may read the parent image"
    ),
    "ERROR_VHD_DIFFERENCING_CHAIN_CYCLE_DETECTED": _SEE_CHAIN,
    "ERROR_VHD_DIFFERENCING_CHAIN_ERROR_IN_PARENT": _SEE_CHAIN,
    "ERROR_VIRTDISK_PROVIDER_NOT_FOUND": (
        "check that the file is a VHD, VHDX or ISO image; name its type with"
        " storage_type= if its content does not show it"
    ),
    "ERROR_VIRTUAL_DISK_LIMITATION": (
        "the image file must not be compressed, encrypted or sparse, nor"
        " carry an integrity stream (ReFS): clear the attribute or copy it"
    ),
    "ERROR_OPERATION_ABORTED": "it was cancelled: do it again if that was not meant",
    "ERROR_VHD_INVALID_STATE": (
        "detach the disk first; if an operation is under way on it, wait for its end"
    ),
    "ERROR_VHD_INVALID_TYPE": (
        "fixed images cannot be compacted, VHDs cannot shrink, and only"
        " differencing images have a parent: convert the image"
    ),
    "ERROR_VHD_INVALID_SIZE": (
        "VHD holds up to 2040 GiB (dynamic, differencing), VHDX up to 64 TiB, in"
        " whole sectors and not less than 3 MiB"
    ),
    "ERROR_VHD_INVALID_BLOCK_SIZE": (
        "VHD has blocks of 512 KiB or 2 MiB, VHDX of 1 MiB to 256 MiB, a power of two"
    ),
    "ERROR_VHD_RESIZE_WOULD_TRUNCATE_DATA": (
        "make the last partition smaller first; info.smallest_safe_virtual_size"
        " says how far it goes, and allow_unsafe=True cuts off what is there"
    ),
    "ERROR_VHD_COULD_NOT_COMPUTE_MINIMUM_VIRTUAL_SIZE": (
        "there is no partition table that says what is in use: allow_unsafe=True"
        " makes the disk smaller all the same"
    ),
    "ERROR_VHD_ALREADY_AT_OR_BELOW_MINIMUM_VIRTUAL_SIZE": (
        "move or shrink the last partition, then it can be made smaller"
    ),
    "ERROR_VHD_METADATA_FULL": "delete items of its metadata that nobody needs",
}

_REMEDIES_WINDOWS: Final[dict[str, str]] = {
    "ERROR_PRIVILEGE_NOT_HELD": (
        "run elevated (as administrator), or give the account the right"
        " 'Perform volume maintenance tasks' (SeManageVolumePrivilege)"
    ),
    "ERROR_NOT_SUPPORTED": (
        "this version of Windows may be too old for the flags asked for"
    ),
    "ERROR_INVALID_FUNCTION": (
        "this version of Windows may not know a restricted range"
        " (attach parameters version 2)"
    ),
    "ERROR_GEN_FAILURE": (
        "the event log Microsoft-Windows-VHDMP/Operational has the reason"
    ),
}

_REMEDIES_LINUX: Final[dict[str, str]] = {
    "ERROR_VHD_PARENT_VHD_NOT_FOUND": (
        _RELINK + "; if it lies outside the image's directory, name a directory"
        " that holds it in VIRTDISK_PARENT_ROOTS"
    ),
    "ERROR_PRIVILEGE_NOT_HELD": (
        "run as root (sudo), who alone may set up loop devices; or install fuse3"
        " and set XDG_RUNTIME_DIR, and the disk appears as a file"
    ),
    "ERROR_NOT_SUPPORTED": (
        "set VIRTDISK_DEBUG=all to see the reason on standard error"
    ),
    "ERROR_NO_SYSTEM_RESOURCES": (
        "detach disks that are no longer needed; in a container, provide"
        " /dev/loop-control and loop devices"
    ),
    "ERROR_GEN_FAILURE": ("set VIRTDISK_DEBUG=all to see the reason on standard error"),
}

_NOT_MINE: Final = (
    "use an account that may write to the new image's folder and read its parent"
    " or source"
)
_NOT_FOR_CHANGES: Final = (
    "open the image so that it can be changed, without read_only or info_only, and"
    " with an account that may write to it"
)
_CHANGES: Final = frozenset(
    {
        "CompactVirtualDisk",
        "DeleteVirtualDiskMetadata",
        "ExpandVirtualDisk",
        "MergeVirtualDisk",
        "MirrorVirtualDisk",
        "ResizeVirtualDisk",
        "SetVirtualDiskInformation",
        "SetVirtualDiskMetadata",
    }
)
_NO_SIZE: Final = (
    "a disk has whole sectors (info.sector_size says of how many bytes) and not less"
    " than 3 MiB"
)
_DIRTY_LOG: Final = (
    "use an account with rights on the image; a VHDX whose log holds"
    " unfinished writes (the last user crashed) must be opened writable once"
)
_DIRTY_LOG_WINDOWS: Final = (
    _DIRTY_LOG + ", see the event log Microsoft-Windows-VHDMP/Operational"
)


def _remedy_for(
    name: str, filename: str | None, function: str, platform: str
) -> str | None:
    """The line that says what would help, or None."""
    if name == "ERROR_ACCESS_DENIED" and function == "CreateVirtualDisk":
        return _NOT_MINE
    if name == "ERROR_ACCESS_DENIED" and function in _CHANGES:
        return _NOT_FOR_CHANGES
    if name == "ERROR_INVALID_PARAMETER" and function == "ResizeVirtualDisk":
        return _NO_SIZE
    windows = platform == "win32"
    suffix = os.path.splitext(filename or "")[1].lower()
    if name == "ERROR_ACCESS_DENIED" and suffix in {".vhdx", ".avhdx"}:
        return _DIRTY_LOG_WINDOWS if windows else _DIRTY_LOG
    system = _REMEDIES_WINDOWS if windows else _REMEDIES_LINUX
    return system.get(name) or _REMEDIES.get(name)


def format_code(code: int) -> str:
    """A code as people write it: decimal, or hexadecimal with a facility.

    Args:
        code: An unsigned Win32 code.

    Returns:
        ``"32"`` or ``"0xC03A0014"``.
    """
    return f"0x{code:08X}" if code & 0x80000000 else str(code)


class VirtualDiskError(OSError):
    """A function of virtdisk.h did not succeed.

    Every failure of the system arrives as this class or one derived from it;
    wrong arguments are ``TypeError`` and ``ValueError`` and come before any
    system call.  The object survives ``pickle`` and ``copy``.

    Attributes:
        winerror: The Win32 error code, unsigned, on every system.
        errno: The errno that says the same, or the nearest one
            (``errno.EIO`` for a code without one).
        name: The code's name in winerror.h (``"ERROR_SHARING_VIOLATION"``),
            or None if it is not known.
        message: The system's message, or ours where it has none.
        strerror: The same as ``message``.
        filename: The image, or None.
        function: The function of virtdisk.h that failed.
        remedy: One line that says what would help, or None.

    Source: winerror.h; the DWORD that each function of virtdisk.h returns.
    """

    winerror: int
    function: str
    name: str | None
    message: str
    remedy: str | None

    def __init__(
        self,
        code: int,
        function: str,
        filename: str | None = None,
        message: str | None = None,
    ) -> None:
        code &= 0xFFFFFFFF
        entry = ERROR_TABLE.get(code)
        if not message:
            message = entry.text if entry else f"Error {format_code(code)}."
        number = entry.errno if entry else _errno.EIO
        if filename is None:
            super().__init__(number, message)
        else:
            super().__init__(number, message, filename)
        self.winerror = code
        self.function = function
        self.name = entry.name if entry else None
        self.message = message
        self.remedy = (
            _remedy_for(entry.name, filename, function, sys.platform) if entry else None
        )

    def __str__(self) -> str:
        """One line, and a second one with the remedy if there is one."""
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """The error in one or two lines of plain text.

        Returns:
            What happened, and ``"remedy: …"`` if a remedy is known.
        """
        code = format_code(self.winerror)
        label = f"{self.name} {code}" if self.name else code
        text = f"[{label}] {self.function}: {self.message}"
        if self.filename is not None:
            text = f"{text.rstrip('.')}: {self.filename!r}"
        if self.remedy is None:
            return [text]
        return [text, f"remedy: {self.remedy}"]

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuilds from the constructor's arguments, then the attributes."""
        arguments = (self.winerror, self.function, self.filename, self.message)
        return type(self), arguments, self.__dict__.copy()


class ImageNotFoundError(VirtualDiskError, FileNotFoundError):
    """The image or a directory of its path does not exist."""


class ImageExistsError(VirtualDiskError, FileExistsError):
    """The image to be made exists, or the disk is attached already."""


class AccessDeniedError(VirtualDiskError, PermissionError):
    """The account, or the handle, has no right to do this."""


class PrivilegeNotHeldError(VirtualDiskError, PermissionError):
    """The process lacks the privilege to attach or detach disks."""


class SharingViolationError(VirtualDiskError, PermissionError):
    """Somebody else uses the image, or it is attached already.

    ``PermissionError`` is what Python makes of this code on Windows, for any
    file.
    """


class OperationIncompleteError(VirtualDiskError, BlockingIOError):
    """An overlapped operation has not completed yet."""


class OperationTimeoutError(VirtualDiskError, TimeoutError):
    """The time allowed for an operation has passed."""


class ImageCorruptError(VirtualDiskError):
    """The content of the image contradicts its format."""


_CLASSES: Final[dict[str, type[VirtualDiskError]]] = {
    "ERROR_FILE_NOT_FOUND": ImageNotFoundError,
    "ERROR_PATH_NOT_FOUND": ImageNotFoundError,
    "ERROR_BAD_PATHNAME": ImageNotFoundError,
    "ERROR_BAD_NETPATH": ImageNotFoundError,
    "ERROR_VHD_PARENT_VHD_NOT_FOUND": ImageNotFoundError,
    "ERROR_VHDSET_BACKING_STORAGE_NOT_FOUND": ImageNotFoundError,
    "ERROR_FILE_EXISTS": ImageExistsError,
    "ERROR_ALREADY_EXISTS": ImageExistsError,
    "ERROR_ACCESS_DENIED": AccessDeniedError,
    "ERROR_NETWORK_ACCESS_DENIED": AccessDeniedError,
    "ERROR_CANT_ACCESS_FILE": AccessDeniedError,
    "ERROR_VHD_PARENT_VHD_ACCESS_DENIED": AccessDeniedError,
    "ERROR_PRIVILEGE_NOT_HELD": PrivilegeNotHeldError,
    "ERROR_NOT_ALL_ASSIGNED": PrivilegeNotHeldError,
    "ERROR_SHARING_VIOLATION": SharingViolationError,
    "ERROR_LOCK_VIOLATION": SharingViolationError,
    "ERROR_LOCK_FAILED": SharingViolationError,
    "ERROR_USER_MAPPED_FILE": SharingViolationError,
    "ERROR_IO_INCOMPLETE": OperationIncompleteError,
    "ERROR_IO_PENDING": OperationIncompleteError,
    "ERROR_TIMEOUT": OperationTimeoutError,
    "ERROR_SEM_TIMEOUT": OperationTimeoutError,
    "WAIT_TIMEOUT": OperationTimeoutError,
    "ERROR_FILE_CORRUPT": ImageCorruptError,
    "ERROR_DISK_CORRUPT": ImageCorruptError,
    "ERROR_VHD_DRIVE_FOOTER_MISSING": ImageCorruptError,
    "ERROR_VHD_DRIVE_FOOTER_CHECKSUM_MISMATCH": ImageCorruptError,
    "ERROR_VHD_DRIVE_FOOTER_CORRUPT": ImageCorruptError,
    "ERROR_VHD_SPARSE_HEADER_CHECKSUM_MISMATCH": ImageCorruptError,
    "ERROR_VHD_SPARSE_HEADER_CORRUPT": ImageCorruptError,
    "ERROR_VHD_BLOCK_ALLOCATION_TABLE_CORRUPT": ImageCorruptError,
    "ERROR_VHD_BITMAP_MISMATCH": ImageCorruptError,
    "ERROR_VHD_INVALID_FILE_SIZE": ImageCorruptError,
}


def error_from_code(
    code: int,
    function: str,
    filename: str | None = None,
    message: str | None = None,
) -> VirtualDiskError:
    """Makes the exception for a Win32 error code.  Raises nothing itself.

    Args:
        code: The code as the system returned it; a negative number is taken
            for the unsigned one with the same bits.
        function: The function of virtdisk.h that returned it.
        filename: The image, if there is one.
        message: The system's text for the code; ours if None or empty.

    Returns:
        A ``VirtualDiskError``, of a derived class where one fits.

    Source: winerror.h.
    """
    entry = ERROR_TABLE.get(code & 0xFFFFFFFF)
    kind = _CLASSES.get(entry.name, VirtualDiskError) if entry else None
    return (kind or VirtualDiskError)(code, function, filename, message)


# Tracebacks and pickles name the classes where users find them.
for _class in {VirtualDiskError, *_CLASSES.values()}:
    _class.__module__ = "virtdisk"
del _class
