"""The flags and kinds of virtdisk.h, as Python enumerations.

Each family stands for one enumeration of virtdisk.h and has its members and
values; the names lose the prefix (``ATTACH_VIRTUAL_DISK_FLAG_READ_ONLY`` is
``AttachFlag.READ_ONLY``).  Flags keep bits that they do not know, so a newer
system's flags can be passed as plain numbers.

Source: virtdisk.h.  The comments say which Windows came to know a member where
that is later than Windows 8; Microsoft documents few of these.
"""

from __future__ import annotations

import enum

__all__ = [
    "AccessMask",
    "AttachFlag",
    "CompactFlag",
    "CreateFlag",
    "DependentDiskFlag",
    "DetachFlag",
    "MirrorFlag",
    "OpenFlag",
    "ProviderSubtype",
    "ResizeFlag",
    "StorageType",
]


class AccessMask(enum.IntFlag, boundary=enum.KEEP):
    """What a handle of parameters version 1 may do (VIRTUAL_DISK_ACCESS_MASK).

    Handles of version 2, which ``virtdisk.open`` uses for VHD and VHDX unless
    it is given a mask, take no mask.
    """

    NONE = 0
    ATTACH_RO = 0x00010000
    ATTACH_RW = 0x00020000  # not for ISO
    DETACH = 0x00040000
    GET_INFO = 0x00080000
    CREATE = 0x00100000  # not for ISO
    METAOPS = 0x00200000  # not for ISO
    READ = 0x000D0000  # ATTACH_RO | DETACH | GET_INFO
    ALL = 0x003F0000
    WRITABLE = 0x00320000  # a test mask: ATTACH_RW | CREATE | METAOPS


class OpenFlag(enum.IntFlag, boundary=enum.KEEP):
    """How an image is opened (OPEN_VIRTUAL_DISK_FLAG)."""

    NONE = 0
    NO_PARENTS = 0x001
    BLANK_FILE = 0x002  # reserved
    BOOT_DRIVE = 0x004  # reserved
    CACHED_IO = 0x008
    CUSTOM_DIFF_CHAIN = 0x010
    PARENT_CACHED_IO = 0x020  # Windows 10
    VHDSET_FILE_ONLY = 0x040  # Windows 10
    IGNORE_RELATIVE_PARENT_LOCATOR = 0x080  # Windows 10
    NO_WRITE_HARDENING = 0x100  # Windows 10
    SUPPORT_COMPRESSED_VOLUMES = 0x200  # after Windows 10 1903
    SUPPORT_SPARSE_FILES_ANY_FS = 0x400  # after Windows 10 1903
    SUPPORT_ENCRYPTED_FILES = 0x800  # after Windows 10 1903


class AttachFlag(enum.IntFlag, boundary=enum.KEEP):
    """How a disk becomes visible (ATTACH_VIRTUAL_DISK_FLAG).

    ``READ_ONLY``, ``NO_DRIVE_LETTER``, ``PERMANENT_LIFETIME`` and
    ``RESTRICTED_RANGE`` also have arguments of their own in
    ``virtdisk.attach``.
    """

    NONE = 0
    READ_ONLY = 0x001
    NO_DRIVE_LETTER = 0x002
    PERMANENT_LIFETIME = 0x004
    NO_LOCAL_HOST = 0x008  # not for ISO
    NO_SECURITY_DESCRIPTOR = 0x010  # Windows 10
    BYPASS_DEFAULT_ENCRYPTION_POLICY = 0x020  # Windows 10
    NON_PNP = 0x040  # after Windows 10 1903
    RESTRICTED_RANGE = 0x080  # after Windows 10 1903
    SINGLE_PARTITION = 0x100  # after Windows 10 1903
    REGISTER_VOLUME = 0x200  # after Windows 10 1903
    AT_BOOT = 0x400  # after Windows 10 1903; not on Linux


class CreateFlag(enum.IntFlag, boundary=enum.KEEP):
    """How an image is made (CREATE_VIRTUAL_DISK_FLAG).

    ``FULL_PHYSICAL_ALLOCATION`` is what ``type="fixed"`` of
    ``virtdisk.create`` sets.
    """

    NONE = 0
    FULL_PHYSICAL_ALLOCATION = 0x001
    PREVENT_WRITES_TO_SOURCE_DISK = 0x002
    DO_NOT_COPY_METADATA_FROM_PARENT = 0x004
    CREATE_BACKING_STORAGE = 0x008  # Windows 10; VHD Sets
    USE_CHANGE_TRACKING_SOURCE_LIMIT = 0x010  # Windows 10
    PRESERVE_PARENT_CHANGE_TRACKING_STATE = 0x020  # Windows 10
    VHD_SET_USE_ORIGINAL_BACKING_STORAGE = 0x040  # Windows 10
    SPARSE_FILE = 0x080  # Windows 10
    PMEM_COMPATIBLE = 0x100  # Windows 10
    SUPPORT_COMPRESSED_VOLUMES = 0x200  # after Windows 10 1903
    SUPPORT_SPARSE_FILES_ANY_FS = 0x400  # after Windows 10 1903


class CompactFlag(enum.IntFlag, boundary=enum.KEEP):
    """What compacting leaves out (COMPACT_VIRTUAL_DISK_FLAG)."""

    NONE = 0
    NO_ZERO_SCAN = 1  # Windows 10
    NO_BLOCK_MOVES = 2  # Windows 10


class ResizeFlag(enum.IntFlag, boundary=enum.KEEP):
    """How a disk gets another size (RESIZE_VIRTUAL_DISK_FLAG)."""

    NONE = 0
    ALLOW_UNSAFE_VIRTUAL_SIZE = 1
    RESIZE_TO_SMALLEST_SAFE_VIRTUAL_SIZE = 2


class MirrorFlag(enum.IntFlag, boundary=enum.KEEP):
    """How a disk is mirrored (MIRROR_VIRTUAL_DISK_FLAG)."""

    NONE = 0
    EXISTING_FILE = 1
    SKIP_MIRROR_ACTIVATION = 2  # Windows 10
    ENABLE_SMB_COMPRESSION = 4  # after Windows 10 1903
    IS_LIVE_MIGRATION = 8  # after Windows 10 1903


class DependentDiskFlag(enum.IntFlag, boundary=enum.KEEP):
    """What is true of a disk that stands on a file (DEPENDENT_DISK_FLAG)."""

    NONE = 0
    MULT_BACKING_FILES = 0x0001
    FULLY_ALLOCATED = 0x0002
    READ_ONLY = 0x0004
    REMOTE = 0x0008
    SYSTEM_VOLUME = 0x0010
    SYSTEM_VOLUME_PARENT = 0x0020
    REMOVABLE = 0x0040
    NO_DRIVE_LETTER = 0x0080
    PARENT = 0x0100
    NO_HOST_DISK = 0x0200
    PERMANENT_LIFETIME = 0x0400
    SUPPORT_COMPRESSED_VOLUMES = 0x0800  # after Windows 10 1903
    ALWAYS_ALLOW_SPARSE = 0x1000  # after Windows 10 1903
    SUPPORT_ENCRYPTED_FILES = 0x2000  # after Windows 10 1903


class DetachFlag(enum.IntFlag, boundary=enum.KEEP):
    """How a disk is detached (DETACH_VIRTUAL_DISK_FLAG): there is no choice."""

    NONE = 0


class StorageType(enum.IntEnum):
    """The kind of an image (VIRTUAL_STORAGE_TYPE_DEVICE_*)."""

    UNKNOWN = 0
    ISO = 1
    VHD = 2
    VHDX = 3
    VHDSET = 4


class ProviderSubtype(enum.IntEnum):
    """How an image stores its disk (GET_VIRTUAL_DISK_INFO.ProviderSubtype)."""

    FIXED = 2
    DYNAMIC = 3
    DIFFERENCING = 4
