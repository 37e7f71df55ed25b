"""The exact calls of virtdisk.h: flat arguments in, plain values out.

Every function releases the GIL during the system call, raises the exception
made by ``virtdisk._errors.error_from_code`` when the call does not return
ERROR_SUCCESS, and ``ValueError`` for a closed handle.
"""

import sys
from typing import Final, Literal, final, overload

from typing_extensions import Buffer

@final
class Handle:
    """A HANDLE to a virtual disk, closed by close(), by the end of a ``with``
    block or when it is dropped.  A handle closed while another thread is
    inside a call is closed when that call returns."""

    @property
    def closed(self) -> bool: ...
    @property
    def path(self) -> str: ...
    @property
    def value(self) -> int: ...
    def close(self) -> None: ...
    def __enter__(self) -> Handle: ...
    def __exit__(self, *args: object) -> None: ...

@final
class Overlapped:
    """An OVERLAPPED with its event, for one asynchronous call at a time.

    Given to a function, it makes that return at once while the operation goes
    on.  All memory that the call was given is kept until the end.  Dropping a
    pending one cancels the operation and waits for its end."""

    def __new__(cls) -> Overlapped: ...
    @property
    def pending(self) -> bool: ...
    # The HANDLE of the manual-reset event, signalled when the operation is
    # over; on Windows a loop or a registered wait may wait for it.
    @property
    def event(self) -> int: ...
    # The event as a descriptor of Linux: readable, for select, poll and event
    # loops, when the operation is over.  Only to be waited for, never to be
    # read or closed, and no longer than this object lives.
    if sys.platform != "win32":
        def fileno(self) -> int: ...

    def wait(self, timeout: float | None = None) -> bool: ...
    def result(self) -> None: ...
    # OperationStatus, CurrentValue, CompletionValue; the fraction that the
    # last two are never decreases, and both are 0 while nothing is known.
    def progress(self) -> tuple[int, int, int]: ...
    def cancel(self) -> None: ...

def OpenVirtualDisk(
    path: str,
    *,
    device_id: int = 0,
    vendor_id: Buffer | None = None,
    access_mask: int = 0,
    flags: int = 0,
    version: int | None = 1,
    rw_depth: int = 1,
    get_info_only: bool = False,
    read_only: bool = False,
    resiliency_guid: Buffer | None = None,
    snapshot_id: Buffer | None = None,
) -> Handle: ...

# Members of CREATE_VIRTUAL_DISK_PARAMETERS that a version lacks are checked,
# but not passed.  From version 2 on the access mask must be 0.  With an
# overlapped the Handle is there at once, while the disk is being made; the
# functions that ask about the operation, and close(), are what it is for then.
def CreateVirtualDisk(
    path: str,
    *,
    device_id: int = 0,
    vendor_id: Buffer | None = None,
    access_mask: int = 0,
    security_descriptor: str | Buffer | None = None,
    flags: int = 0,
    provider_specific_flags: int = 0,
    version: int = 2,
    unique_id: Buffer | None = None,
    maximum_size: int = 0,
    block_size_in_bytes: int = 0,
    sector_size_in_bytes: int = 0,
    physical_sector_size_in_bytes: int = 0,
    parent_path: str | None = None,
    source_path: str | None = None,
    open_flags: int = 0,
    parent_device_id: int = 0,
    parent_vendor_id: Buffer | None = None,
    source_device_id: int = 0,
    source_vendor_id: Buffer | None = None,
    resiliency_guid: Buffer | None = None,
    source_limit_path: str | None = None,
    backing_device_id: int = 0,
    backing_vendor_id: Buffer | None = None,
    pmem_address_abstraction_type: Buffer | None = None,
    data_alignment: int = 0,
    overlapped: Overlapped | None = None,
) -> Handle: ...
def AttachVirtualDisk(
    handle: Handle,
    *,
    security_descriptor: str | Buffer | None = None,
    flags: int = 0,
    provider_specific_flags: int = 0,
    version: int | None = 1,
    restricted_offset: int = 0,
    restricted_length: int = 0,
    overlapped: Overlapped | None = None,
) -> None: ...
def DetachVirtualDisk(
    handle: Handle, *, flags: int = 0, provider_specific_flags: int = 0
) -> None: ...
def GetVirtualDiskPhysicalPath(handle: Handle) -> str: ...
def GetAllAttachedVirtualDiskPhysicalPaths() -> list[str]: ...

# path names a disk, a volume or a file; it is opened for the call alone.  For
# each entry, version 1: DependencyTypeFlags, ProviderSpecificFlags, DeviceId,
# VendorId; version 2, after those: AncestorLevel, DependencyDeviceName,
# HostVolumeName, DependentVolumeName, DependentVolumeRelativePath.
@overload
def GetStorageDependencyInformation(
    path: str, *, flags: int = 0, version: Literal[2] = 2
) -> list[
    tuple[int, int, int, bytes, int, str | None, str | None, str | None, str | None]
]: ...
@overload
def GetStorageDependencyInformation(
    path: str, *, flags: int = 0, version: Literal[1]
) -> list[tuple[int, int, int, bytes]]: ...

# By GET_VIRTUAL_DISK_INFO_VERSION: SIZE; the three GUIDs; PARENT_LOCATION;
# the numbers; VIRTUAL_STORAGE_TYPE; the truth values; PHYSICAL_DISK;
# CHANGE_TRACKING_STATE.
@overload
def GetVirtualDiskInformation(
    handle: Handle, version: Literal[1]
) -> tuple[int, int, int, int]: ...
@overload
def GetVirtualDiskInformation(handle: Handle, version: Literal[2, 4, 14]) -> bytes: ...
@overload
def GetVirtualDiskInformation(
    handle: Handle, version: Literal[3]
) -> tuple[bool, list[str]]: ...
@overload
def GetVirtualDiskInformation(
    handle: Handle, version: Literal[5, 7, 10, 11, 12]
) -> int: ...
@overload
def GetVirtualDiskInformation(
    handle: Handle, version: Literal[6]
) -> tuple[int, bytes]: ...
@overload
def GetVirtualDiskInformation(handle: Handle, version: Literal[8, 13]) -> bool: ...
@overload
def GetVirtualDiskInformation(
    handle: Handle, version: Literal[9]
) -> tuple[int, int, bool]: ...
@overload
def GetVirtualDiskInformation(
    handle: Handle, version: Literal[15]
) -> tuple[bool, bool, str]: ...
@overload
def GetVirtualDiskInformation(
    handle: Handle, version: int
) -> (
    int
    | bool
    | bytes
    | tuple[int, int, int, int]
    | tuple[bool, list[str]]
    | tuple[int, bytes]
    | tuple[int, int, bool]
    | tuple[bool, bool, str]
): ...

# By SET_VIRTUAL_DISK_INFO_VERSION: 1 takes parent_file_path, 2
# unique_identifier, 3 child_depth and parent_file_path, 4
# vhd_physical_sector_size, 5 virtual_disk_id, 6 change_tracking_enabled, 7
# linkage_id and parent_file_path.  A path or GUID that is needed and not given
# is a TypeError; what the version lacks is checked, but not passed.
def SetVirtualDiskInformation(
    handle: Handle,
    version: int,
    *,
    parent_file_path: str | None = None,
    unique_identifier: Buffer | None = None,
    child_depth: int = 1,
    vhd_physical_sector_size: int = 0,
    virtual_disk_id: Buffer | None = None,
    change_tracking_enabled: bool = False,
    linkage_id: Buffer | None = None,
) -> None: ...

# Items are the 16 bytes of a GUID, as in uuid.UUID.bytes_le.
def EnumerateVirtualDiskMetadata(handle: Handle) -> list[bytes]: ...
def GetVirtualDiskMetadata(handle: Handle, item: Buffer) -> bytes: ...
def SetVirtualDiskMetadata(handle: Handle, item: Buffer, metadata: Buffer) -> None: ...
def DeleteVirtualDiskMetadata(handle: Handle, item: Buffer) -> None: ...

# OperationStatus, CurrentValue, CompletionValue, as the system gives them.
def GetVirtualDiskOperationProgress(
    handle: Handle, overlapped: Overlapped
) -> tuple[int, int, int]: ...
def CompactVirtualDisk(
    handle: Handle,
    *,
    flags: int = 0,
    version: int | None = 1,
    overlapped: Overlapped | None = None,
) -> None: ...

# merge_depth is version 1's, the other two depths are version 2's.
def MergeVirtualDisk(
    handle: Handle,
    *,
    flags: int = 0,
    version: int = 1,
    merge_depth: int = 1,
    merge_source_depth: int = 1,
    merge_target_depth: int = 2,
    overlapped: Overlapped | None = None,
) -> None: ...
def ExpandVirtualDisk(
    handle: Handle,
    new_size: int,
    *,
    flags: int = 0,
    version: int = 1,
    overlapped: Overlapped | None = None,
) -> None: ...
def ResizeVirtualDisk(
    handle: Handle,
    new_size: int,
    *,
    flags: int = 0,
    version: int = 1,
    overlapped: Overlapped | None = None,
) -> None: ...
def MirrorVirtualDisk(
    handle: Handle,
    path: str,
    overlapped: Overlapped,
    *,
    flags: int = 0,
    version: int = 1,
) -> None: ...
def BreakMirrorVirtualDisk(handle: Handle) -> None: ...
def AddVirtualDiskParent(handle: Handle, path: str) -> None: ...

# These and all below raise NotImplementedError on a Windows that is too old.

# The changed ranges (offset and length in bytes), range_count at most, and how
# many bytes of the asked range they speak for.
def QueryChangesVirtualDisk(
    handle: Handle,
    change_tracking_id: str,
    byte_offset: int,
    byte_length: int,
    *,
    flags: int = 0,
    range_count: int = 1024,
) -> tuple[list[tuple[int, int]], int]: ...
def TakeSnapshotVhdSet(
    handle: Handle, snapshot_id: Buffer, *, flags: int = 0, version: int = 1
) -> None: ...
def DeleteSnapshotVhdSet(
    handle: Handle, snapshot_id: Buffer, *, flags: int = 0, version: int = 1
) -> None: ...

# By MODIFY_VHDSET_VERSION: 1 takes snapshot_id and snapshot_file_path, 2
# snapshot_id, 3 default_file_path; as with SetVirtualDiskInformation.
def ModifyVhdSet(
    handle: Handle,
    version: int,
    *,
    flags: int = 0,
    snapshot_id: Buffer | None = None,
    snapshot_file_path: str | None = None,
    default_file_path: str | None = None,
) -> None: ...
def ApplySnapshotVhdSet(
    handle: Handle,
    snapshot_id: Buffer,
    leaf_snapshot_id: Buffer,
    *,
    flags: int = 0,
    version: int = 1,
) -> None: ...
def RawSCSIVirtualDisk(
    handle: Handle,
    cdb: Buffer,
    *,
    data_in: Buffer | None = None,
    data_out: Buffer | None = None,
    sense_length: int = 18,
    srb_flags: int = 0,
    rsvd_handle: bool = False,
    version: int = 1,
    flags: int = 0,
) -> tuple[int, bytes, int]: ...
def ForkVirtualDisk(
    handle: Handle,
    path: str,
    overlapped: Overlapped,
    *,
    flags: int = 0,
    version: int = 1,
) -> None: ...
def CompleteForkVirtualDisk(handle: Handle) -> None: ...

# Every enumerator and numeric macro of virtdisk.h, in its order, without the
# deprecated SURFACE names.
VIRTUAL_STORAGE_TYPE_DEVICE_UNKNOWN: Final[int]
VIRTUAL_STORAGE_TYPE_DEVICE_ISO: Final[int]
VIRTUAL_STORAGE_TYPE_DEVICE_VHD: Final[int]
VIRTUAL_STORAGE_TYPE_DEVICE_VHDX: Final[int]
VIRTUAL_STORAGE_TYPE_DEVICE_VHDSET: Final[int]
OPEN_VIRTUAL_DISK_RW_DEPTH_DEFAULT: Final[int]
OPEN_VIRTUAL_DISK_VERSION_UNSPECIFIED: Final[int]
OPEN_VIRTUAL_DISK_VERSION_1: Final[int]
OPEN_VIRTUAL_DISK_VERSION_2: Final[int]
OPEN_VIRTUAL_DISK_VERSION_3: Final[int]
VIRTUAL_DISK_ACCESS_NONE: Final[int]
VIRTUAL_DISK_ACCESS_ATTACH_RO: Final[int]
VIRTUAL_DISK_ACCESS_ATTACH_RW: Final[int]
VIRTUAL_DISK_ACCESS_DETACH: Final[int]
VIRTUAL_DISK_ACCESS_GET_INFO: Final[int]
VIRTUAL_DISK_ACCESS_CREATE: Final[int]
VIRTUAL_DISK_ACCESS_METAOPS: Final[int]
VIRTUAL_DISK_ACCESS_READ: Final[int]
VIRTUAL_DISK_ACCESS_ALL: Final[int]
VIRTUAL_DISK_ACCESS_WRITABLE: Final[int]
OPEN_VIRTUAL_DISK_FLAG_NONE: Final[int]
OPEN_VIRTUAL_DISK_FLAG_NO_PARENTS: Final[int]
OPEN_VIRTUAL_DISK_FLAG_BLANK_FILE: Final[int]
OPEN_VIRTUAL_DISK_FLAG_BOOT_DRIVE: Final[int]
OPEN_VIRTUAL_DISK_FLAG_CACHED_IO: Final[int]
OPEN_VIRTUAL_DISK_FLAG_CUSTOM_DIFF_CHAIN: Final[int]
OPEN_VIRTUAL_DISK_FLAG_PARENT_CACHED_IO: Final[int]
OPEN_VIRTUAL_DISK_FLAG_VHDSET_FILE_ONLY: Final[int]
OPEN_VIRTUAL_DISK_FLAG_IGNORE_RELATIVE_PARENT_LOCATOR: Final[int]
OPEN_VIRTUAL_DISK_FLAG_NO_WRITE_HARDENING: Final[int]
OPEN_VIRTUAL_DISK_FLAG_SUPPORT_COMPRESSED_VOLUMES: Final[int]
OPEN_VIRTUAL_DISK_FLAG_SUPPORT_SPARSE_FILES_ANY_FS: Final[int]
OPEN_VIRTUAL_DISK_FLAG_SUPPORT_ENCRYPTED_FILES: Final[int]
CREATE_VIRTUAL_DISK_PARAMETERS_DEFAULT_BLOCK_SIZE: Final[int]
CREATE_VIRTUAL_DISK_PARAMETERS_DEFAULT_SECTOR_SIZE: Final[int]
CREATE_VIRTUAL_DISK_VERSION_UNSPECIFIED: Final[int]
CREATE_VIRTUAL_DISK_VERSION_1: Final[int]
CREATE_VIRTUAL_DISK_VERSION_2: Final[int]
CREATE_VIRTUAL_DISK_VERSION_3: Final[int]
CREATE_VIRTUAL_DISK_VERSION_4: Final[int]
CREATE_VIRTUAL_DISK_FLAG_NONE: Final[int]
CREATE_VIRTUAL_DISK_FLAG_FULL_PHYSICAL_ALLOCATION: Final[int]
CREATE_VIRTUAL_DISK_FLAG_PREVENT_WRITES_TO_SOURCE_DISK: Final[int]
CREATE_VIRTUAL_DISK_FLAG_DO_NOT_COPY_METADATA_FROM_PARENT: Final[int]
CREATE_VIRTUAL_DISK_FLAG_CREATE_BACKING_STORAGE: Final[int]
CREATE_VIRTUAL_DISK_FLAG_USE_CHANGE_TRACKING_SOURCE_LIMIT: Final[int]
CREATE_VIRTUAL_DISK_FLAG_PRESERVE_PARENT_CHANGE_TRACKING_STATE: Final[int]
CREATE_VIRTUAL_DISK_FLAG_VHD_SET_USE_ORIGINAL_BACKING_STORAGE: Final[int]
CREATE_VIRTUAL_DISK_FLAG_SPARSE_FILE: Final[int]
CREATE_VIRTUAL_DISK_FLAG_PMEM_COMPATIBLE: Final[int]
CREATE_VIRTUAL_DISK_FLAG_SUPPORT_COMPRESSED_VOLUMES: Final[int]
CREATE_VIRTUAL_DISK_FLAG_SUPPORT_SPARSE_FILES_ANY_FS: Final[int]
CREATE_VIRTUAL_DISK_FLAG_USE_RCT_SOURCE_LIMIT: Final[int]
ATTACH_VIRTUAL_DISK_VERSION_UNSPECIFIED: Final[int]
ATTACH_VIRTUAL_DISK_VERSION_1: Final[int]
ATTACH_VIRTUAL_DISK_VERSION_2: Final[int]
ATTACH_VIRTUAL_DISK_FLAG_NONE: Final[int]
ATTACH_VIRTUAL_DISK_FLAG_READ_ONLY: Final[int]
ATTACH_VIRTUAL_DISK_FLAG_NO_DRIVE_LETTER: Final[int]
ATTACH_VIRTUAL_DISK_FLAG_PERMANENT_LIFETIME: Final[int]
ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST: Final[int]
ATTACH_VIRTUAL_DISK_FLAG_NO_SECURITY_DESCRIPTOR: Final[int]
ATTACH_VIRTUAL_DISK_FLAG_BYPASS_DEFAULT_ENCRYPTION_POLICY: Final[int]
ATTACH_VIRTUAL_DISK_FLAG_NON_PNP: Final[int]
ATTACH_VIRTUAL_DISK_FLAG_RESTRICTED_RANGE: Final[int]
ATTACH_VIRTUAL_DISK_FLAG_SINGLE_PARTITION: Final[int]
ATTACH_VIRTUAL_DISK_FLAG_REGISTER_VOLUME: Final[int]
ATTACH_VIRTUAL_DISK_FLAG_AT_BOOT: Final[int]
DETACH_VIRTUAL_DISK_FLAG_NONE: Final[int]
DEPENDENT_DISK_FLAG_NONE: Final[int]
DEPENDENT_DISK_FLAG_MULT_BACKING_FILES: Final[int]
DEPENDENT_DISK_FLAG_FULLY_ALLOCATED: Final[int]
DEPENDENT_DISK_FLAG_READ_ONLY: Final[int]
DEPENDENT_DISK_FLAG_REMOTE: Final[int]
DEPENDENT_DISK_FLAG_SYSTEM_VOLUME: Final[int]
DEPENDENT_DISK_FLAG_SYSTEM_VOLUME_PARENT: Final[int]
DEPENDENT_DISK_FLAG_REMOVABLE: Final[int]
DEPENDENT_DISK_FLAG_NO_DRIVE_LETTER: Final[int]
DEPENDENT_DISK_FLAG_PARENT: Final[int]
DEPENDENT_DISK_FLAG_NO_HOST_DISK: Final[int]
DEPENDENT_DISK_FLAG_PERMANENT_LIFETIME: Final[int]
DEPENDENT_DISK_FLAG_SUPPORT_COMPRESSED_VOLUMES: Final[int]
DEPENDENT_DISK_FLAG_ALWAYS_ALLOW_SPARSE: Final[int]
DEPENDENT_DISK_FLAG_SUPPORT_ENCRYPTED_FILES: Final[int]
STORAGE_DEPENDENCY_INFO_VERSION_UNSPECIFIED: Final[int]
STORAGE_DEPENDENCY_INFO_VERSION_1: Final[int]
STORAGE_DEPENDENCY_INFO_VERSION_2: Final[int]
GET_STORAGE_DEPENDENCY_FLAG_NONE: Final[int]
GET_STORAGE_DEPENDENCY_FLAG_HOST_VOLUMES: Final[int]
GET_STORAGE_DEPENDENCY_FLAG_DISK_HANDLE: Final[int]
GET_STORAGE_DEPENDENCY_FLAG_PARENTS: Final[int]
GET_VIRTUAL_DISK_INFO_UNSPECIFIED: Final[int]
GET_VIRTUAL_DISK_INFO_SIZE: Final[int]
GET_VIRTUAL_DISK_INFO_IDENTIFIER: Final[int]
GET_VIRTUAL_DISK_INFO_PARENT_LOCATION: Final[int]
GET_VIRTUAL_DISK_INFO_PARENT_IDENTIFIER: Final[int]
GET_VIRTUAL_DISK_INFO_PARENT_TIMESTAMP: Final[int]
GET_VIRTUAL_DISK_INFO_VIRTUAL_STORAGE_TYPE: Final[int]
GET_VIRTUAL_DISK_INFO_PROVIDER_SUBTYPE: Final[int]
GET_VIRTUAL_DISK_INFO_IS_4K_ALIGNED: Final[int]
GET_VIRTUAL_DISK_INFO_PHYSICAL_DISK: Final[int]
GET_VIRTUAL_DISK_INFO_VHD_PHYSICAL_SECTOR_SIZE: Final[int]
GET_VIRTUAL_DISK_INFO_SMALLEST_SAFE_VIRTUAL_SIZE: Final[int]
GET_VIRTUAL_DISK_INFO_FRAGMENTATION: Final[int]
GET_VIRTUAL_DISK_INFO_IS_LOADED: Final[int]
GET_VIRTUAL_DISK_INFO_VIRTUAL_DISK_ID: Final[int]
GET_VIRTUAL_DISK_INFO_CHANGE_TRACKING_STATE: Final[int]
VIRTUAL_DISK_MAXIMUM_CHANGE_TRACKING_ID_LENGTH: Final[int]
SET_VIRTUAL_DISK_INFO_UNSPECIFIED: Final[int]
SET_VIRTUAL_DISK_INFO_PARENT_PATH: Final[int]
SET_VIRTUAL_DISK_INFO_IDENTIFIER: Final[int]
SET_VIRTUAL_DISK_INFO_PARENT_PATH_WITH_DEPTH: Final[int]
SET_VIRTUAL_DISK_INFO_PHYSICAL_SECTOR_SIZE: Final[int]
SET_VIRTUAL_DISK_INFO_VIRTUAL_DISK_ID: Final[int]
SET_VIRTUAL_DISK_INFO_CHANGE_TRACKING_STATE: Final[int]
SET_VIRTUAL_DISK_INFO_PARENT_LOCATOR: Final[int]
COMPACT_VIRTUAL_DISK_VERSION_UNSPECIFIED: Final[int]
COMPACT_VIRTUAL_DISK_VERSION_1: Final[int]
COMPACT_VIRTUAL_DISK_FLAG_NONE: Final[int]
COMPACT_VIRTUAL_DISK_FLAG_NO_ZERO_SCAN: Final[int]
COMPACT_VIRTUAL_DISK_FLAG_NO_BLOCK_MOVES: Final[int]
MERGE_VIRTUAL_DISK_DEFAULT_MERGE_DEPTH: Final[int]
MERGE_VIRTUAL_DISK_VERSION_UNSPECIFIED: Final[int]
MERGE_VIRTUAL_DISK_VERSION_1: Final[int]
MERGE_VIRTUAL_DISK_VERSION_2: Final[int]
MERGE_VIRTUAL_DISK_FLAG_NONE: Final[int]
EXPAND_VIRTUAL_DISK_VERSION_UNSPECIFIED: Final[int]
EXPAND_VIRTUAL_DISK_VERSION_1: Final[int]
EXPAND_VIRTUAL_DISK_FLAG_NONE: Final[int]
EXPAND_VIRTUAL_DISK_FLAG_NOTIFY_CHANGE: Final[int]
RESIZE_VIRTUAL_DISK_VERSION_UNSPECIFIED: Final[int]
RESIZE_VIRTUAL_DISK_VERSION_1: Final[int]
RESIZE_VIRTUAL_DISK_FLAG_NONE: Final[int]
RESIZE_VIRTUAL_DISK_FLAG_ALLOW_UNSAFE_VIRTUAL_SIZE: Final[int]
RESIZE_VIRTUAL_DISK_FLAG_RESIZE_TO_SMALLEST_SAFE_VIRTUAL_SIZE: Final[int]
MIRROR_VIRTUAL_DISK_VERSION_UNSPECIFIED: Final[int]
MIRROR_VIRTUAL_DISK_VERSION_1: Final[int]
MIRROR_VIRTUAL_DISK_FLAG_NONE: Final[int]
MIRROR_VIRTUAL_DISK_FLAG_EXISTING_FILE: Final[int]
MIRROR_VIRTUAL_DISK_FLAG_SKIP_MIRROR_ACTIVATION: Final[int]
MIRROR_VIRTUAL_DISK_FLAG_ENABLE_SMB_COMPRESSION: Final[int]
MIRROR_VIRTUAL_DISK_FLAG_IS_LIVE_MIGRATION: Final[int]
QUERY_CHANGES_VIRTUAL_DISK_FLAG_NONE: Final[int]
TAKE_SNAPSHOT_VHDSET_FLAG_NONE: Final[int]
TAKE_SNAPSHOT_VHDSET_FLAG_WRITEABLE: Final[int]
TAKE_SNAPSHOT_VHDSET_VERSION_UNSPECIFIED: Final[int]
TAKE_SNAPSHOT_VHDSET_VERSION_1: Final[int]
DELETE_SNAPSHOT_VHDSET_FLAG_NONE: Final[int]
DELETE_SNAPSHOT_VHDSET_FLAG_PERSIST_RCT: Final[int]
DELETE_SNAPSHOT_VHDSET_VERSION_UNSPECIFIED: Final[int]
DELETE_SNAPSHOT_VHDSET_VERSION_1: Final[int]
MODIFY_VHDSET_UNSPECIFIED: Final[int]
MODIFY_VHDSET_SNAPSHOT_PATH: Final[int]
MODIFY_VHDSET_REMOVE_SNAPSHOT: Final[int]
MODIFY_VHDSET_DEFAULT_SNAPSHOT_PATH: Final[int]
MODIFY_VHDSET_FLAG_NONE: Final[int]
MODIFY_VHDSET_FLAG_WRITEABLE_SNAPSHOT: Final[int]
APPLY_SNAPSHOT_VHDSET_FLAG_NONE: Final[int]
APPLY_SNAPSHOT_VHDSET_FLAG_WRITEABLE: Final[int]
APPLY_SNAPSHOT_VHDSET_VERSION_UNSPECIFIED: Final[int]
APPLY_SNAPSHOT_VHDSET_VERSION_1: Final[int]
RAW_SCSI_VIRTUAL_DISK_FLAG_NONE: Final[int]
RAW_SCSI_VIRTUAL_DISK_VERSION_UNSPECIFIED: Final[int]
RAW_SCSI_VIRTUAL_DISK_VERSION_1: Final[int]
FORK_VIRTUAL_DISK_VERSION_UNSPECIFIED: Final[int]
FORK_VIRTUAL_DISK_VERSION_1: Final[int]
FORK_VIRTUAL_DISK_FLAG_NONE: Final[int]
FORK_VIRTUAL_DISK_FLAG_EXISTING_FILE: Final[int]
