"""The Win32 error codes of virtdisk.h: names, values, errno, texts.

A table and nothing else.  The names and values are those of winerror.h, the
texts are ours and used where the system offers none.

Source: winerror.h; facility 58 (FACILITY_USERMODE_VHD) holds the codes of
virtual disks, facility 92 those of shared ones.
"""

from __future__ import annotations

import errno as _errno
from typing import Final, NamedTuple

__all__ = ["ERROR_TABLE", "ErrorEntry"]


class ErrorEntry(NamedTuple):
    """What is known of one Win32 error code.

    Attributes:
        code: The unsigned 32-bit code.
        name: Its name in winerror.h.
        errno: The errno that says the same, or the nearest one.
        text: One sentence, used where the system offers no message.
    """

    code: int
    name: str
    errno: int
    text: str


_E = ErrorEntry

# winerror.h, the codes that the functions of virtdisk.h answer with or that
# an implementation of them meets on the way.
_WIN32: Final = (
    _E(0, "ERROR_SUCCESS", 0, "The operation completed successfully."),
    _E(1, "ERROR_INVALID_FUNCTION", _errno.ENOSYS, "Incorrect function."),
    _E(2, "ERROR_FILE_NOT_FOUND", _errno.ENOENT, "The file was not found."),
    _E(3, "ERROR_PATH_NOT_FOUND", _errno.ENOENT, "The path was not found."),
    _E(4, "ERROR_TOO_MANY_OPEN_FILES", _errno.EMFILE, "Too many open files."),
    _E(5, "ERROR_ACCESS_DENIED", _errno.EACCES, "Access is denied."),
    _E(6, "ERROR_INVALID_HANDLE", _errno.EBADF, "The handle is not valid."),
    _E(8, "ERROR_NOT_ENOUGH_MEMORY", _errno.ENOMEM, "Not enough memory."),
    _E(12, "ERROR_INVALID_ACCESS", _errno.EINVAL, "The access code is not valid."),
    _E(13, "ERROR_INVALID_DATA", _errno.EINVAL, "The data is not valid."),
    _E(14, "ERROR_OUTOFMEMORY", _errno.ENOMEM, "Out of memory."),
    _E(15, "ERROR_INVALID_DRIVE", _errno.ENODEV, "The drive was not found."),
    _E(
        17, "ERROR_NOT_SAME_DEVICE", _errno.EXDEV, "The files lie on different devices."
    ),
    _E(18, "ERROR_NO_MORE_FILES", _errno.ENODATA, "There are no more files."),
    _E(19, "ERROR_WRITE_PROTECT", _errno.EROFS, "The medium is write-protected."),
    _E(20, "ERROR_BAD_UNIT", _errno.ENODEV, "The device was not found."),
    _E(21, "ERROR_NOT_READY", _errno.ENXIO, "The disk is not attached."),
    _E(
        22,
        "ERROR_BAD_COMMAND",
        _errno.EIO,
        "The device does not recognize the command.",
    ),
    _E(23, "ERROR_CRC", _errno.EIO, "Data error (cyclic redundancy check)."),
    _E(
        24,
        "ERROR_BAD_LENGTH",
        _errno.EINVAL,
        "The length given with the command is not valid.",
    ),
    _E(25, "ERROR_SEEK", _errno.EIO, "The position cannot be reached."),
    _E(29, "ERROR_WRITE_FAULT", _errno.EIO, "Writing to the device failed."),
    _E(30, "ERROR_READ_FAULT", _errno.EIO, "Reading from the device failed."),
    _E(
        31,
        "ERROR_GEN_FAILURE",
        _errno.EIO,
        "A device attached to the system is not functioning.",
    ),
    _E(
        32,
        "ERROR_SHARING_VIOLATION",
        _errno.EACCES,
        "The image is in use or already attached.",
    ),
    _E(
        33,
        "ERROR_LOCK_VIOLATION",
        _errno.EACCES,
        "Another process has locked a part of the file.",
    ),
    _E(38, "ERROR_HANDLE_EOF", _errno.EIO, "The end of the file was reached."),
    _E(39, "ERROR_HANDLE_DISK_FULL", _errno.ENOSPC, "The disk is full."),
    _E(50, "ERROR_NOT_SUPPORTED", _errno.ENOTSUP, "The request is not supported."),
    _E(53, "ERROR_BAD_NETPATH", _errno.ENOENT, "The network path was not found."),
    _E(55, "ERROR_DEV_NOT_EXIST", _errno.ENODEV, "The disk is not attached."),
    _E(59, "ERROR_UNEXP_NET_ERR", _errno.EIO, "An unexpected network error occurred."),
    _E(64, "ERROR_NETNAME_DELETED", _errno.EIO, "The network connection was lost."),
    _E(65, "ERROR_NETWORK_ACCESS_DENIED", _errno.EACCES, "Network access is denied."),
    _E(80, "ERROR_FILE_EXISTS", _errno.EEXIST, "The file exists."),
    _E(87, "ERROR_INVALID_PARAMETER", _errno.EINVAL, "A parameter is not valid."),
    _E(89, "ERROR_NO_PROC_SLOTS", _errno.ENOMEM, "No other process can be started."),
    _E(
        108,
        "ERROR_DRIVE_LOCKED",
        _errno.EBUSY,
        "The disk is locked by another process.",
    ),
    _E(109, "ERROR_BROKEN_PIPE", _errno.EIO, "The pipe has ended."),
    _E(110, "ERROR_OPEN_FAILED", _errno.EIO, "The file or device cannot be opened."),
    _E(111, "ERROR_BUFFER_OVERFLOW", _errno.ENAMETOOLONG, "The file name is too long."),
    _E(112, "ERROR_DISK_FULL", _errno.ENOSPC, "There is no space left."),
    _E(
        120,
        "ERROR_CALL_NOT_IMPLEMENTED",
        _errno.ENOSYS,
        "This system does not implement the function.",
    ),
    _E(
        121, "ERROR_SEM_TIMEOUT", _errno.ETIMEDOUT, "The device did not answer in time."
    ),
    _E(
        122,
        "ERROR_INSUFFICIENT_BUFFER",
        _errno.EINVAL,
        "The buffer given to the system is too small.",
    ),
    _E(123, "ERROR_INVALID_NAME", _errno.EINVAL, "The name is not valid."),
    _E(
        124, "ERROR_INVALID_LEVEL", _errno.EINVAL, "The information class is not valid."
    ),
    _E(
        131,
        "ERROR_NEGATIVE_SEEK",
        _errno.EINVAL,
        "The position lies before the start of the file.",
    ),
    _E(
        132,
        "ERROR_SEEK_ON_DEVICE",
        _errno.ESPIPE,
        "The device has no position to move to.",
    ),
    _E(145, "ERROR_DIR_NOT_EMPTY", _errno.ENOTEMPTY, "The directory is not empty."),
    _E(158, "ERROR_NOT_LOCKED", _errno.EINVAL, "The range is not locked."),
    _E(161, "ERROR_BAD_PATHNAME", _errno.ENOENT, "The path is not valid."),
    _E(
        164, "ERROR_MAX_THRDS_REACHED", _errno.ENOMEM, "No more threads can be started."
    ),
    _E(167, "ERROR_LOCK_FAILED", _errno.EACCES, "A part of the file cannot be locked."),
    _E(170, "ERROR_BUSY", _errno.EBUSY, "The disk is in use."),
    _E(183, "ERROR_ALREADY_EXISTS", _errno.EEXIST, "It exists already."),
    _E(
        206,
        "ERROR_FILENAME_EXCED_RANGE",
        _errno.ENAMETOOLONG,
        "The file name or path is too long.",
    ),
    _E(223, "ERROR_FILE_TOO_LARGE", _errno.EFBIG, "The file is too large."),
    _E(234, "ERROR_MORE_DATA", _errno.EINVAL, "More data is available."),
    _E(258, "WAIT_TIMEOUT", _errno.ETIMEDOUT, "The wait timed out."),
    _E(259, "ERROR_NO_MORE_ITEMS", _errno.ENODATA, "There are no more items."),
    _E(267, "ERROR_DIRECTORY", _errno.EINVAL, "It is not a directory."),
    _E(
        534,
        "ERROR_ARITHMETIC_OVERFLOW",
        _errno.EOVERFLOW,
        "A number is too large for the calculation.",
    ),
    _E(
        618,
        "ERROR_UNSUPPORTED_COMPRESSION",
        _errno.ENOTSUP,
        "The image file must not be compressed.",
    ),
    _E(
        665,
        "ERROR_FILE_SYSTEM_LIMITATION",
        _errno.ENOTSUP,
        "The file system of the image cannot do what this needs.",
    ),
    _E(
        995, "ERROR_OPERATION_ABORTED", _errno.ECANCELED, "The operation was cancelled."
    ),
    _E(
        996,
        "ERROR_IO_INCOMPLETE",
        _errno.EAGAIN,
        "The operation has not completed yet.",
    ),
    _E(997, "ERROR_IO_PENDING", _errno.EINPROGRESS, "The operation is in progress."),
    _E(998, "ERROR_NOACCESS", _errno.EFAULT, "The memory is not accessible."),
    _E(1004, "ERROR_INVALID_FLAGS", _errno.EINVAL, "The flags are not valid."),
    _E(
        1006,
        "ERROR_FILE_INVALID",
        _errno.EIO,
        "The file was changed from outside while it was open.",
    ),
    _E(1110, "ERROR_MEDIA_CHANGED", _errno.EIO, "The medium was changed."),
    _E(
        1112,
        "ERROR_NO_MEDIA_IN_DRIVE",
        _errno.ENXIO,
        "There is no medium in the drive.",
    ),
    _E(1117, "ERROR_IO_DEVICE", _errno.EIO, "The device reported an I/O error."),
    _E(1142, "ERROR_TOO_MANY_LINKS", _errno.EMLINK, "The file has too many links."),
    _E(
        1150,
        "ERROR_OLD_WIN_VERSION",
        _errno.ENOTSUP,
        "A newer version of Windows is needed.",
    ),
    _E(
        1167,
        "ERROR_DEVICE_NOT_CONNECTED",
        _errno.ENODEV,
        "The device is not connected.",
    ),
    _E(1168, "ERROR_NOT_FOUND", _errno.ENXIO, "The element was not found."),
    _E(1223, "ERROR_CANCELLED", _errno.ECANCELED, "The user cancelled it."),
    _E(
        1224,
        "ERROR_USER_MAPPED_FILE",
        _errno.EACCES,
        "A mapped section of the file is open.",
    ),
    _E(
        1300, "ERROR_NOT_ALL_ASSIGNED", _errno.EPERM, "The account lacks the privilege."
    ),
    _E(1305, "ERROR_UNKNOWN_REVISION", _errno.EINVAL, "The revision is not known."),
    _E(
        1307,
        "ERROR_INVALID_OWNER",
        _errno.EINVAL,
        "This account cannot be the owner of the disk.",
    ),
    _E(
        1308,
        "ERROR_INVALID_PRIMARY_GROUP",
        _errno.EINVAL,
        "This account cannot be the group of the disk.",
    ),
    _E(
        1314,
        "ERROR_PRIVILEGE_NOT_HELD",
        _errno.EPERM,
        "A required privilege is not held.",
    ),
    _E(1332, "ERROR_NONE_MAPPED", _errno.EINVAL, "There is no account of that name."),
    _E(
        1336,
        "ERROR_INVALID_ACL",
        _errno.EINVAL,
        "The access control list is not valid.",
    ),
    _E(
        1337,
        "ERROR_INVALID_SID",
        _errno.EINVAL,
        "The security identifier is not valid.",
    ),
    _E(
        1338,
        "ERROR_INVALID_SECURITY_DESCR",
        _errno.EINVAL,
        "The security descriptor is not valid.",
    ),
    _E(1392, "ERROR_FILE_CORRUPT", _errno.EIO, "The image is corrupt and unreadable."),
    _E(
        1393,
        "ERROR_DISK_CORRUPT",
        _errno.EIO,
        "The structure of the disk is corrupt and unreadable.",
    ),
    _E(
        1450,
        "ERROR_NO_SYSTEM_RESOURCES",
        _errno.ENOMEM,
        "The system has no resources left for this.",
    ),
    _E(1455, "ERROR_COMMITMENT_LIMIT", _errno.ENOMEM, "The paging file is too small."),
    _E(1460, "ERROR_TIMEOUT", _errno.ETIMEDOUT, "The time is up."),
    _E(1816, "ERROR_NOT_ENOUGH_QUOTA", _errno.ENOMEM, "A quota is exhausted."),
    _E(
        1920,
        "ERROR_CANT_ACCESS_FILE",
        _errno.EACCES,
        "The system cannot access the file.",
    ),
    _E(
        1921,
        "ERROR_CANT_RESOLVE_FILENAME",
        _errno.ELOOP,
        "The file name cannot be resolved.",
    ),
    _E(
        4390,
        "ERROR_NOT_A_REPARSE_POINT",
        _errno.EINVAL,
        "The file is no reparse point.",
    ),
    _E(
        6002,
        "ERROR_FILE_ENCRYPTED",
        _errno.ENOTSUP,
        "The image file must not be encrypted.",
    ),
)

# Facility 58, FACILITY_USERMODE_VHD.
_VHD: Final = (
    _E(
        0x803A0001,
        "ERROR_QUERY_STORAGE_ERROR",
        _errno.EIO,
        "The virtualization storage subsystem reported an error.",
    ),
    _E(
        0xC03A0001,
        "ERROR_VHD_DRIVE_FOOTER_MISSING",
        _errno.EIO,
        "The image is corrupt: its footer is missing.",
    ),
    _E(
        0xC03A0002,
        "ERROR_VHD_DRIVE_FOOTER_CHECKSUM_MISMATCH",
        _errno.EIO,
        "The image is corrupt: the checksum of its footer is wrong.",
    ),
    _E(
        0xC03A0003,
        "ERROR_VHD_DRIVE_FOOTER_CORRUPT",
        _errno.EIO,
        "The image is corrupt: its footer makes no sense.",
    ),
    _E(
        0xC03A0004,
        "ERROR_VHD_FORMAT_UNKNOWN",
        _errno.EINVAL,
        "The format of the image is not known.",
    ),
    _E(
        0xC03A0005,
        "ERROR_VHD_FORMAT_UNSUPPORTED_VERSION",
        _errno.ENOTSUP,
        "This version of the image format is not supported.",
    ),
    _E(
        0xC03A0006,
        "ERROR_VHD_SPARSE_HEADER_CHECKSUM_MISMATCH",
        _errno.EIO,
        "The image is corrupt: the checksum of its sparse header is wrong.",
    ),
    _E(
        0xC03A0007,
        "ERROR_VHD_SPARSE_HEADER_UNSUPPORTED_VERSION",
        _errno.ENOTSUP,
        "This version of the sparse header is not supported.",
    ),
    _E(
        0xC03A0008,
        "ERROR_VHD_SPARSE_HEADER_CORRUPT",
        _errno.EIO,
        "The image is corrupt: its sparse header makes no sense.",
    ),
    _E(
        0xC03A0009,
        "ERROR_VHD_BLOCK_ALLOCATION_FAILURE",
        _errno.ENOSPC,
        "No new block could be allocated in the image.",
    ),
    _E(
        0xC03A000A,
        "ERROR_VHD_BLOCK_ALLOCATION_TABLE_CORRUPT",
        _errno.EIO,
        "The image is corrupt: its block allocation table makes no sense.",
    ),
    _E(
        0xC03A000B,
        "ERROR_VHD_INVALID_BLOCK_SIZE",
        _errno.EINVAL,
        "The block size is not valid for an image.",
    ),
    _E(
        0xC03A000C,
        "ERROR_VHD_BITMAP_MISMATCH",
        _errno.EIO,
        "The image is corrupt: a block bitmap contradicts its block.",
    ),
    _E(
        0xC03A000D,
        "ERROR_VHD_PARENT_VHD_NOT_FOUND",
        _errno.ENOENT,
        "The chain is broken: the parent image was not found.",
    ),
    _E(
        0xC03A000E,
        "ERROR_VHD_CHILD_PARENT_ID_MISMATCH",
        _errno.EINVAL,
        "The chain is broken: the parent has another identifier.",
    ),
    _E(
        0xC03A000F,
        "ERROR_VHD_CHILD_PARENT_TIMESTAMP_MISMATCH",
        _errno.EINVAL,
        "The chain is broken: the parent has another time stamp.",
    ),
    _E(
        0xC03A0010,
        "ERROR_VHD_METADATA_READ_FAILURE",
        _errno.EIO,
        "The metadata of the image could not be read.",
    ),
    _E(
        0xC03A0011,
        "ERROR_VHD_METADATA_WRITE_FAILURE",
        _errno.EIO,
        "The metadata of the image could not be written.",
    ),
    _E(
        0xC03A0012,
        "ERROR_VHD_INVALID_SIZE",
        _errno.EINVAL,
        "The size of the disk is not valid.",
    ),
    _E(
        0xC03A0013,
        "ERROR_VHD_INVALID_FILE_SIZE",
        _errno.EIO,
        "The size of the image file does not fit its content.",
    ),
    _E(
        0xC03A0014,
        "ERROR_VIRTDISK_PROVIDER_NOT_FOUND",
        _errno.ENOTSUP,
        "No provider knows this kind of image.",
    ),
    _E(
        0xC03A0015,
        "ERROR_VIRTDISK_NOT_VIRTUAL_DISK",
        _errno.EINVAL,
        "The disk is not a virtual disk.",
    ),
    _E(
        0xC03A0016,
        "ERROR_VHD_PARENT_VHD_ACCESS_DENIED",
        _errno.EACCES,
        "Access to the parent image is denied.",
    ),
    _E(
        0xC03A0017,
        "ERROR_VHD_CHILD_PARENT_SIZE_MISMATCH",
        _errno.EINVAL,
        "The chain is broken: the parent has another size.",
    ),
    _E(
        0xC03A0018,
        "ERROR_VHD_DIFFERENCING_CHAIN_CYCLE_DETECTED",
        _errno.ELOOP,
        "The chain is broken: an image is its own ancestor.",
    ),
    _E(
        0xC03A0019,
        "ERROR_VHD_DIFFERENCING_CHAIN_ERROR_IN_PARENT",
        _errno.EIO,
        "An image further up the chain could not be opened.",
    ),
    _E(
        0xC03A001A,
        "ERROR_VIRTUAL_DISK_LIMITATION",
        _errno.ENOTSUP,
        "The image file lies where a virtual disk must not lie.",
    ),
    _E(
        0xC03A001B,
        "ERROR_VHD_INVALID_TYPE",
        _errno.ENOTSUP,
        "Disks of this type do not have that.",
    ),
    _E(
        0xC03A001C,
        "ERROR_VHD_INVALID_STATE",
        _errno.EBUSY,
        "The present state of the disk does not allow this.",
    ),
    _E(
        0xC03A001D,
        "ERROR_VIRTDISK_UNSUPPORTED_DISK_SECTOR_SIZE",
        _errno.ENOTSUP,
        "The sector size of the physical disk is not supported.",
    ),
    _E(
        0xC03A001E,
        "ERROR_VIRTDISK_DISK_ALREADY_OWNED",
        _errno.EBUSY,
        "The disk already has another owner.",
    ),
    _E(
        0xC03A001F,
        "ERROR_VIRTDISK_DISK_ONLINE_AND_WRITABLE",
        _errno.EBUSY,
        "The disk must be offline or read-only.",
    ),
    _E(
        0xC03A0020,
        "ERROR_CTLOG_TRACKING_NOT_INITIALIZED",
        _errno.EINVAL,
        "Change tracking has not been set up.",
    ),
    _E(
        0xC03A0021,
        "ERROR_CTLOG_LOGFILE_SIZE_EXCEEDED_MAXSIZE",
        _errno.EFBIG,
        "The change tracking file has grown too large.",
    ),
    _E(
        0xC03A0022,
        "ERROR_CTLOG_VHD_CHANGED_OFFLINE",
        _errno.EINVAL,
        "The image was changed while its changes were not tracked.",
    ),
    _E(
        0xC03A0023,
        "ERROR_CTLOG_INVALID_TRACKING_STATE",
        _errno.EINVAL,
        "The state of change tracking does not allow this.",
    ),
    _E(
        0xC03A0024,
        "ERROR_CTLOG_INCONSISTENT_TRACKING_FILE",
        _errno.EIO,
        "The change tracking file is not valid.",
    ),
    _E(
        0xC03A0025,
        "ERROR_VHD_RESIZE_WOULD_TRUNCATE_DATA",
        _errno.EINVAL,
        "The new size might cut off data.",
    ),
    _E(
        0xC03A0026,
        "ERROR_VHD_COULD_NOT_COMPUTE_MINIMUM_VIRTUAL_SIZE",
        _errno.ENOTSUP,
        "The smallest safe size could not be found out.",
    ),
    _E(
        0xC03A0027,
        "ERROR_VHD_ALREADY_AT_OR_BELOW_MINIMUM_VIRTUAL_SIZE",
        _errno.EINVAL,
        "The disk cannot safely become any smaller.",
    ),
    _E(
        0xC03A0028,
        "ERROR_VHD_METADATA_FULL",
        _errno.ENOSPC,
        "There is no room for another metadata item.",
    ),
    _E(
        0xC03A0029,
        "ERROR_VHD_INVALID_CHANGE_TRACKING_ID",
        _errno.EINVAL,
        "The change tracking identifier is not valid.",
    ),
    _E(
        0xC03A002A,
        "ERROR_VHD_CHANGE_TRACKING_DISABLED",
        _errno.EINVAL,
        "Change tracking is switched off.",
    ),
    _E(
        0xC03A0030,
        "ERROR_VHD_MISSING_CHANGE_TRACKING_INFORMATION",
        _errno.ENODATA,
        "Nothing is recorded for this change tracking identifier.",
    ),
    _E(
        0xC03A0034,
        "ERROR_VHD_UNEXPECTED_ID",
        _errno.EINVAL,
        "The identifier of the image is not the expected one.",
    ),
)

# Facility 92, shared virtual disks.
_SVHDX: Final = (
    _E(
        0xC05C0000,
        "ERROR_SVHDX_ERROR_STORED",
        _errno.EIO,
        "The error of the shared disk is stored for later retrieval.",
    ),
    _E(
        0xC05CFF00,
        "ERROR_SVHDX_ERROR_NOT_AVAILABLE",
        _errno.EIO,
        "The error of the shared disk is no longer available.",
    ),
    _E(
        0xC05CFF01,
        "ERROR_SVHDX_UNIT_ATTENTION_AVAILABLE",
        _errno.EIO,
        "A unit attention of the shared disk is waiting.",
    ),
    _E(
        0xC05CFF02,
        "ERROR_SVHDX_UNIT_ATTENTION_CAPACITY_DATA_CHANGED",
        _errno.EIO,
        "The capacity of the shared disk has changed.",
    ),
    _E(
        0xC05CFF03,
        "ERROR_SVHDX_UNIT_ATTENTION_RESERVATIONS_PREEMPTED",
        _errno.EIO,
        "Reservations of the shared disk were preempted.",
    ),
    _E(
        0xC05CFF04,
        "ERROR_SVHDX_UNIT_ATTENTION_RESERVATIONS_RELEASED",
        _errno.EIO,
        "Reservations of the shared disk were released.",
    ),
    _E(
        0xC05CFF05,
        "ERROR_SVHDX_UNIT_ATTENTION_REGISTRATIONS_PREEMPTED",
        _errno.EIO,
        "Registrations of the shared disk were preempted.",
    ),
    _E(
        0xC05CFF06,
        "ERROR_SVHDX_UNIT_ATTENTION_OPERATING_DEFINITION_CHANGED",
        _errno.EIO,
        "The data storage format of the shared disk has changed.",
    ),
    _E(
        0xC05CFF07,
        "ERROR_SVHDX_RESERVATION_CONFLICT",
        _errno.EBUSY,
        "Another initiator has reserved the shared disk.",
    ),
    _E(
        0xC05CFF08,
        "ERROR_SVHDX_WRONG_FILE_TYPE",
        _errno.EINVAL,
        "This kind of file cannot be a shared disk.",
    ),
    _E(
        0xC05CFF09,
        "ERROR_SVHDX_VERSION_MISMATCH",
        _errno.ENOTSUP,
        "The versions of the shared disk protocol do not match.",
    ),
    _E(
        0xC05CFF0A,
        "ERROR_VHD_SHARED",
        _errno.EBUSY,
        "The disk is shared with others, which forbids this.",
    ),
    _E(
        0xC05CFF0B,
        "ERROR_SVHDX_NO_INITIATOR",
        _errno.EINVAL,
        "No initiator is registered for the shared disk.",
    ),
    _E(
        0xC05CFF0C,
        "ERROR_VHDSET_BACKING_STORAGE_NOT_FOUND",
        _errno.ENOENT,
        "The storage behind the VHD Set was not found.",
    ),
)

ERROR_TABLE: Final[dict[int, ErrorEntry]] = {
    entry.code: entry for entry in (*_WIN32, *_VHD, *_SVHDX)
}
