/*
 * The Virtual Disk API: everything that virtdisk.h of the Windows SDK
 * declares, under the SDK's names, with its values and its layout.
 *
 * On Linux it is the interface of the engine (api/), used with the windows.h
 * beside it.  With mingw-w64, whose own virtdisk.h lacks four functions and
 * 50 constants and, in version 10, has a CREATE_VIRTUAL_DISK_PARAMETERS of
 * the wrong layout, it stands in front of that one: mingw's windows.h
 * includes <virtdisk.h> by itself, so put a directory that holds this file
 * and winerror_vhd.h, but no windows.h, on the include path.  With the
 * Windows SDK it is not used.
 *
 * tests/abi/virtdisk_abi.c asserts every size, offset and value.
 *
 * What holds for the whole API:
 *
 * - Every function returns a Win32 error code; GetLastError() is not set.
 * - A structure called ..._PARAMETERS or ..._INFO starts with Version, which
 *   says what member of its union is meant.
 * - Sizes and offsets are bytes, buffer lengths of strings too; these count
 *   the final NUL.  ERROR_INSUFFICIENT_BUFFER comes with the length needed.
 * - Flags come after the structure in the calls on VHD Sets and in
 *   RawSCSIVirtualDisk, before it in all others.
 * - An OVERLAPPED that may be NULL makes the call asynchronous if given: it
 *   returns ERROR_IO_PENDING, and GetVirtualDiskOperationProgress tells how
 *   far it is.
 *
 * A Windows version in a comment is the first that knows something; what has
 * none is known to Windows 7.  "Windows 10 1809" is the version by which it
 * was known, "after 1903" one later than that of Windows 10: Microsoft has
 * not published which.
 */
#ifndef VIRT_DISK_API_DEF
#define VIRT_DISK_API_DEF

/* mingw's name for the same guard: keeps its file out after this one. */
#ifndef _INC_VIRTDISK
#define _INC_VIRTDISK
#endif

/* Does nothing when it is windows.h that includes this file. */
#include <windows.h>

#ifdef _WIN32
#include <sal.h>
#ifndef _Inout_updates_bytes_to_
#define _Inout_updates_bytes_to_(size, count) /* not in Wine's sal.h */
#endif

#include "winerror_vhd.h"
#endif

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Storage types.
 */

typedef struct _VIRTUAL_STORAGE_TYPE {
    ULONG DeviceId; /* VIRTUAL_STORAGE_TYPE_DEVICE_... */
    GUID VendorId;  /* VIRTUAL_STORAGE_TYPE_VENDOR_... */
} VIRTUAL_STORAGE_TYPE, *PVIRTUAL_STORAGE_TYPE;

/*
 * The SDK declares the vendors by DEFINE_GUID and leaves their definition
 * to whoever defines INITGUID.  A constant of each file's own can be used
 * in either case and collides with nothing.
 */

/* Together with device UNKNOWN: find the provider for this file. */
static const GUID VIRTUAL_STORAGE_TYPE_VENDOR_UNKNOWN = {
    0x00000000, 0x0000, 0x0000, {0, 0, 0, 0, 0, 0, 0, 0}};

/* {EC984AEC-A0F9-47E9-901F-71415A66345B} */
static const GUID VIRTUAL_STORAGE_TYPE_VENDOR_MICROSOFT = {
    0xEC984AEC,
    0xA0F9,
    0x47E9,
    {0x90, 0x1F, 0x71, 0x41, 0x5A, 0x66, 0x34, 0x5B}};

#define VIRTUAL_STORAGE_TYPE_DEVICE_UNKNOWN 0
#define VIRTUAL_STORAGE_TYPE_DEVICE_ISO 1 /* Windows 8: read-only */
#define VIRTUAL_STORAGE_TYPE_DEVICE_VHD 2
#define VIRTUAL_STORAGE_TYPE_DEVICE_VHDX 3   /* Windows 8 */
#define VIRTUAL_STORAGE_TYPE_DEVICE_VHDSET 4 /* Windows 10 */

/*
 * OpenVirtualDisk
 */

/* Write to the leaf of a differencing chain only. */
#define OPEN_VIRTUAL_DISK_RW_DEPTH_DEFAULT 1

typedef enum _OPEN_VIRTUAL_DISK_VERSION {
    OPEN_VIRTUAL_DISK_VERSION_UNSPECIFIED = 0,
    OPEN_VIRTUAL_DISK_VERSION_1 = 1,
    OPEN_VIRTUAL_DISK_VERSION_2 = 2, /* Windows 8 */
    OPEN_VIRTUAL_DISK_VERSION_3 = 3, /* Windows 10 */
} OPEN_VIRTUAL_DISK_VERSION;

/* From version 2 on the access mask must be VIRTUAL_DISK_ACCESS_NONE. */
typedef struct _OPEN_VIRTUAL_DISK_PARAMETERS {
    OPEN_VIRTUAL_DISK_VERSION Version;
    union {
        struct {
            /* Disks of the chain open for writing, from the leaf; 0: none. */
            ULONG RWDepth;
        } Version1;
        struct {
            BOOL GetInfoOnly; /* for GetVirtualDiskInformation alone */
            BOOL ReadOnly;    /* the backing file too */
            GUID ResiliencyGuid;
        } Version2;
        struct {
            BOOL GetInfoOnly;
            BOOL ReadOnly;
            GUID ResiliencyGuid;
            GUID SnapshotId; /* of a VHD Set */
        } Version3;
    };
} OPEN_VIRTUAL_DISK_PARAMETERS, *POPEN_VIRTUAL_DISK_PARAMETERS;

typedef enum _VIRTUAL_DISK_ACCESS_MASK {
    /* Windows 8: required with OPEN and CREATE parameters 2 and later. */
    VIRTUAL_DISK_ACCESS_NONE = 0x00000000,
    VIRTUAL_DISK_ACCESS_ATTACH_RO = 0x00010000,
    VIRTUAL_DISK_ACCESS_ATTACH_RW = 0x00020000,
    VIRTUAL_DISK_ACCESS_DETACH = 0x00040000,
    VIRTUAL_DISK_ACCESS_GET_INFO = 0x00080000,
    VIRTUAL_DISK_ACCESS_CREATE = 0x00100000,
    /* Compact, merge, expand, resize, set information. */
    VIRTUAL_DISK_ACCESS_METAOPS = 0x00200000,
    /* ATTACH_RO, DETACH and GET_INFO: all that an ISO can be opened for. */
    VIRTUAL_DISK_ACCESS_READ = 0x000D0000,
    VIRTUAL_DISK_ACCESS_ALL = 0x003F0000,
    /* To test a mask with: ATTACH_RW, CREATE and METAOPS. */
    VIRTUAL_DISK_ACCESS_WRITABLE = 0x00320000,
} VIRTUAL_DISK_ACCESS_MASK;

typedef enum _OPEN_VIRTUAL_DISK_FLAG {
    OPEN_VIRTUAL_DISK_FLAG_NONE = 0x00000000,
    /* Open the file alone, without the parents of a differencing disk. */
    OPEN_VIRTUAL_DISK_FLAG_NO_PARENTS = 0x00000001,
    /* The file is still empty: do not check it.  Reserved. */
    OPEN_VIRTUAL_DISK_FLAG_BLANK_FILE = 0x00000002,
    /* The disk the system starts from.  Reserved to the kernel. */
    OPEN_VIRTUAL_DISK_FLAG_BOOT_DRIVE = 0x00000004,
    /* Windows 8: use the host's file cache. */
    OPEN_VIRTUAL_DISK_FLAG_CACHED_IO = 0x00000008,
    /* Windows 8: AddVirtualDiskParent will build the chain. */
    OPEN_VIRTUAL_DISK_FLAG_CUSTOM_DIFF_CHAIN = 0x00000010,
    /* Windows 10 1809: use the host's file cache for the parents. */
    OPEN_VIRTUAL_DISK_FLAG_PARENT_CACHED_IO = 0x00000020,
    /* Windows 10: a VHD Set file without any of its disks. */
    OPEN_VIRTUAL_DISK_FLAG_VHDSET_FILE_ONLY = 0x00000040,
    /* Windows 10 1809: find parents by their absolute paths only. */
    OPEN_VIRTUAL_DISK_FLAG_IGNORE_RELATIVE_PARENT_LOCATOR = 0x00000080,
    /* Windows 10 1809: no flushes and no forced writes, for speed. */
    OPEN_VIRTUAL_DISK_FLAG_NO_WRITE_HARDENING = 0x00000100,
    /* After 1903: also if the backing file is compressed. */
    OPEN_VIRTUAL_DISK_FLAG_SUPPORT_COMPRESSED_VOLUMES = 0x00000200,
    /* After 1903: also if the backing file is sparse, on any file system. */
    OPEN_VIRTUAL_DISK_FLAG_SUPPORT_SPARSE_FILES_ANY_FS = 0x00000400,
    /* After 1903: also if the backing file is encrypted. */
    OPEN_VIRTUAL_DISK_FLAG_SUPPORT_ENCRYPTED_FILES = 0x00000800,
} OPEN_VIRTUAL_DISK_FLAG;

/* Parameters NULL means version 1 with its defaults.  *Handle is to be
 * closed by CloseHandle(); after a failure it is undefined. */
DWORD WINAPI OpenVirtualDisk(
    _In_ PVIRTUAL_STORAGE_TYPE VirtualStorageType, _In_ PCWSTR Path,
    _In_ VIRTUAL_DISK_ACCESS_MASK VirtualDiskAccessMask,
    _In_ OPEN_VIRTUAL_DISK_FLAG Flags,
    _In_opt_ POPEN_VIRTUAL_DISK_PARAMETERS Parameters, _Out_ PHANDLE Handle);

/*
 * CreateVirtualDisk
 */

/* 2 MiB for a dynamic VHD, 32 MiB for a dynamic VHDX; a differencing VHD
 * takes its parent's.  The only value for fixed disks. */
#define CREATE_VIRTUAL_DISK_PARAMETERS_DEFAULT_BLOCK_SIZE 0

/* 512 bytes. */
#define CREATE_VIRTUAL_DISK_PARAMETERS_DEFAULT_SECTOR_SIZE 0

typedef enum _CREATE_VIRTUAL_DISK_VERSION {
    CREATE_VIRTUAL_DISK_VERSION_UNSPECIFIED = 0,
    CREATE_VIRTUAL_DISK_VERSION_1 = 1,
    CREATE_VIRTUAL_DISK_VERSION_2 = 2, /* Windows 8 */
    CREATE_VIRTUAL_DISK_VERSION_3 = 3, /* Windows 10 */
    CREATE_VIRTUAL_DISK_VERSION_4 = 4, /* Windows 10 1809 */
} CREATE_VIRTUAL_DISK_VERSION;

/*
 * UniqueId zero: one is made.  MaximumSize is a multiple of the sector
 * size; 0 with ParentPath takes the parent's, with SourcePath the source's.
 * ParentPath makes a differencing disk, SourcePath (an image or a physical
 * disk) a copy; not both.  A storage type of zeros is found from the file.
 */
typedef struct _CREATE_VIRTUAL_DISK_PARAMETERS {
    CREATE_VIRTUAL_DISK_VERSION Version;
    union {
        struct {
            GUID UniqueId;
            DECLSPEC_ALIGN(8) ULONGLONG MaximumSize;
            ULONG BlockSizeInBytes;
            ULONG SectorSizeInBytes;
            PCWSTR ParentPath;
            PCWSTR SourcePath;
        } Version1;
        struct {
            GUID UniqueId;
            DECLSPEC_ALIGN(8) ULONGLONG MaximumSize;
            ULONG BlockSizeInBytes;
            ULONG SectorSizeInBytes;
            ULONG PhysicalSectorSizeInBytes;
            PCWSTR ParentPath;
            PCWSTR SourcePath;
            OPEN_VIRTUAL_DISK_FLAG OpenFlags;
            VIRTUAL_STORAGE_TYPE ParentVirtualStorageType;
            VIRTUAL_STORAGE_TYPE SourceVirtualStorageType;
            GUID ResiliencyGuid;
        } Version2;
        struct {
            GUID UniqueId;
            DECLSPEC_ALIGN(8) ULONGLONG MaximumSize;
            ULONG BlockSizeInBytes;
            ULONG SectorSizeInBytes;
            ULONG PhysicalSectorSizeInBytes;
            PCWSTR ParentPath;
            PCWSTR SourcePath;
            OPEN_VIRTUAL_DISK_FLAG OpenFlags;
            VIRTUAL_STORAGE_TYPE ParentVirtualStorageType;
            VIRTUAL_STORAGE_TYPE SourceVirtualStorageType;
            GUID ResiliencyGuid;
            /* Copy what is newer than this: a disk of the source's chain, or
             * a change tracking id, as the flags say. */
            PCWSTR SourceLimitPath;
            VIRTUAL_STORAGE_TYPE BackingStorageType;
        } Version3;
        struct {
            GUID UniqueId;
            DECLSPEC_ALIGN(8) ULONGLONG MaximumSize;
            ULONG BlockSizeInBytes;
            ULONG SectorSizeInBytes;
            ULONG PhysicalSectorSizeInBytes;
            PCWSTR ParentPath;
            PCWSTR SourcePath;
            OPEN_VIRTUAL_DISK_FLAG OpenFlags;
            VIRTUAL_STORAGE_TYPE ParentVirtualStorageType;
            VIRTUAL_STORAGE_TYPE SourceVirtualStorageType;
            GUID ResiliencyGuid;
            PCWSTR SourceLimitPath;
            VIRTUAL_STORAGE_TYPE BackingStorageType;
            GUID PmemAddressAbstractionType; /* persistent memory */
            DECLSPEC_ALIGN(8) ULONGLONG DataAlignment;
        } Version4;
    };
} CREATE_VIRTUAL_DISK_PARAMETERS, *PCREATE_VIRTUAL_DISK_PARAMETERS;

typedef enum _CREATE_VIRTUAL_DISK_FLAG {
    /* A dynamic disk, or a differencing one if there is a ParentPath. */
    CREATE_VIRTUAL_DISK_FLAG_NONE = 0x0,
    /* A fixed disk: all space is allocated at once. */
    CREATE_VIRTUAL_DISK_FLAG_FULL_PHYSICAL_ALLOCATION = 0x1,
    /* Windows 8: own the physical source disk while copying; it must be
     * offline or read-only. */
    CREATE_VIRTUAL_DISK_FLAG_PREVENT_WRITES_TO_SOURCE_DISK = 0x2,
    /* Windows 8: the parent only stands in for one to be set later. */
    CREATE_VIRTUAL_DISK_FLAG_DO_NOT_COPY_METADATA_FROM_PARENT = 0x4,
    /* Windows 10 1809: the disk behind a VHD Set too. */
    CREATE_VIRTUAL_DISK_FLAG_CREATE_BACKING_STORAGE = 0x8,
    /* Windows 10 1809: SourceLimitPath is a change tracking id. */
    CREATE_VIRTUAL_DISK_FLAG_USE_CHANGE_TRACKING_SOURCE_LIMIT = 0x10,
    /* Windows 10 1809: the child goes on with the parent's tracking. */
    CREATE_VIRTUAL_DISK_FLAG_PRESERVE_PARENT_CHANGE_TRACKING_STATE = 0x20,
    /* Windows 10 1809: move the source into the VHD Set instead of copying. */
    CREATE_VIRTUAL_DISK_FLAG_VHD_SET_USE_ORIGINAL_BACKING_STORAGE = 0x40,
    /* Windows 10 1809: a fixed disk on a sparse file. */
    CREATE_VIRTUAL_DISK_FLAG_SPARSE_FILE = 0x80,
    /* Windows 10 1809: for virtual persistent memory. */
    CREATE_VIRTUAL_DISK_FLAG_PMEM_COMPATIBLE = 0x100,
    /* After 1903: also on a compressed volume. */
    CREATE_VIRTUAL_DISK_FLAG_SUPPORT_COMPRESSED_VOLUMES = 0x200,
    /* After 1903: with SPARSE_FILE, on any file system. */
    CREATE_VIRTUAL_DISK_FLAG_SUPPORT_SPARSE_FILES_ANY_FS = 0x400,
} CREATE_VIRTUAL_DISK_FLAG;

#define CREATE_VIRTUAL_DISK_FLAG_USE_RCT_SOURCE_LIMIT                         \
    CREATE_VIRTUAL_DISK_FLAG_USE_CHANGE_TRACKING_SOURCE_LIMIT

/* SecurityDescriptor NULL: the new file inherits the directory's. */
DWORD WINAPI CreateVirtualDisk(
    _In_ PVIRTUAL_STORAGE_TYPE VirtualStorageType, _In_ PCWSTR Path,
    _In_ VIRTUAL_DISK_ACCESS_MASK VirtualDiskAccessMask,
    _In_opt_ PSECURITY_DESCRIPTOR SecurityDescriptor,
    _In_ CREATE_VIRTUAL_DISK_FLAG Flags, _In_ ULONG ProviderSpecificFlags,
    _In_ PCREATE_VIRTUAL_DISK_PARAMETERS Parameters,
    _In_opt_ LPOVERLAPPED Overlapped, _Out_ PHANDLE Handle);

/*
 * AttachVirtualDisk
 */

typedef enum _ATTACH_VIRTUAL_DISK_VERSION {
    ATTACH_VIRTUAL_DISK_VERSION_UNSPECIFIED = 0,
    ATTACH_VIRTUAL_DISK_VERSION_1 = 1,
    ATTACH_VIRTUAL_DISK_VERSION_2 = 2, /* after 1903 */
} ATTACH_VIRTUAL_DISK_VERSION;

typedef struct _ATTACH_VIRTUAL_DISK_PARAMETERS {
    ATTACH_VIRTUAL_DISK_VERSION Version;
    union {
        struct {
            ULONG Reserved; /* 0 */
        } Version1;
        struct {
            /* With ATTACH_VIRTUAL_DISK_FLAG_RESTRICTED_RANGE. */
            DECLSPEC_ALIGN(8) ULONGLONG RestrictedOffset;
            DECLSPEC_ALIGN(8) ULONGLONG RestrictedLength;
        } Version2;
    };
} ATTACH_VIRTUAL_DISK_PARAMETERS, *PATTACH_VIRTUAL_DISK_PARAMETERS;

typedef enum _ATTACH_VIRTUAL_DISK_FLAG {
    ATTACH_VIRTUAL_DISK_FLAG_NONE = 0x00000000,
    /* Required for an ISO. */
    ATTACH_VIRTUAL_DISK_FLAG_READ_ONLY = 0x00000001,
    /* The volumes are not made accessible by themselves. */
    ATTACH_VIRTUAL_DISK_FLAG_NO_DRIVE_LETTER = 0x00000002,
    /* Attached until DetachVirtualDisk, not until the handle closes. */
    ATTACH_VIRTUAL_DISK_FLAG_PERMANENT_LIFETIME = 0x00000004,
    /* Attached to the caller alone, who reads and writes the handle. */
    ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST = 0x00000008,
    /* Windows 10 1809: the system's default security descriptor. */
    ATTACH_VIRTUAL_DISK_FLAG_NO_SECURITY_DESCRIPTOR = 0x00000010,
    /* Windows 10 1809: no policy on volume encryption applies. */
    ATTACH_VIRTUAL_DISK_FLAG_BYPASS_DEFAULT_ENCRYPTION_POLICY = 0x00000020,
    /* After 1903: not a plug and play device. */
    ATTACH_VIRTUAL_DISK_FLAG_NON_PNP = 0x00000040,
    /* After 1903: only RestrictedOffset and RestrictedLength are seen. */
    ATTACH_VIRTUAL_DISK_FLAG_RESTRICTED_RANGE = 0x00000080,
    /* After 1903: only the one data partition is seen. */
    ATTACH_VIRTUAL_DISK_FLAG_SINGLE_PARTITION = 0x00000100,
    /* After 1903: with NON_PNP, a volume for the mount manager. */
    ATTACH_VIRTUAL_DISK_FLAG_REGISTER_VOLUME = 0x00000200,
    /* After 1903: attach it again when the system starts. */
    ATTACH_VIRTUAL_DISK_FLAG_AT_BOOT = 0x00000400,
} ATTACH_VIRTUAL_DISK_FLAG;

/* SecurityDescriptor NULL: that of the image file. */
DWORD WINAPI AttachVirtualDisk(
    _In_ HANDLE VirtualDiskHandle,
    _In_opt_ PSECURITY_DESCRIPTOR SecurityDescriptor,
    _In_ ATTACH_VIRTUAL_DISK_FLAG Flags, _In_ ULONG ProviderSpecificFlags,
    _In_opt_ PATTACH_VIRTUAL_DISK_PARAMETERS Parameters,
    _In_opt_ LPOVERLAPPED Overlapped);

/*
 * DetachVirtualDisk
 */

typedef enum _DETACH_VIRTUAL_DISK_FLAG {
    DETACH_VIRTUAL_DISK_FLAG_NONE = 0x00000000,
} DETACH_VIRTUAL_DISK_FLAG;

DWORD WINAPI DetachVirtualDisk(_In_ HANDLE VirtualDiskHandle,
                               _In_ DETACH_VIRTUAL_DISK_FLAG Flags,
                               _In_ ULONG ProviderSpecificFlags);

/*
 * GetVirtualDiskPhysicalPath, GetAllAttachedVirtualDiskPhysicalPaths
 */

DWORD WINAPI GetVirtualDiskPhysicalPath(
    _In_ HANDLE VirtualDiskHandle, _Inout_ PULONG DiskPathSizeInBytes,
    _Out_writes_bytes_(*DiskPathSizeInBytes) PWSTR DiskPath);

/* In spite of the name the paths of the image files: strings one after the
 * other, each ended by a NUL, the list by one more. */
DWORD WINAPI GetAllAttachedVirtualDiskPhysicalPaths(
    _Inout_ PULONG PathsBufferSizeInBytes,
    _Out_writes_bytes_(*PathsBufferSizeInBytes) PWSTR PathsBuffer);

/*
 * GetStorageDependencyInformation
 */

typedef enum _DEPENDENT_DISK_FLAG {
    DEPENDENT_DISK_FLAG_NONE = 0x00000000,
    DEPENDENT_DISK_FLAG_MULT_BACKING_FILES = 0x00000001,
    DEPENDENT_DISK_FLAG_FULLY_ALLOCATED = 0x00000002,
    DEPENDENT_DISK_FLAG_READ_ONLY = 0x00000004,
    /* The backing file is on another machine. */
    DEPENDENT_DISK_FLAG_REMOTE = 0x00000008,
    DEPENDENT_DISK_FLAG_SYSTEM_VOLUME = 0x00000010,
    /* The backing file is on the system volume. */
    DEPENDENT_DISK_FLAG_SYSTEM_VOLUME_PARENT = 0x00000020,
    DEPENDENT_DISK_FLAG_REMOVABLE = 0x00000040,
    DEPENDENT_DISK_FLAG_NO_DRIVE_LETTER = 0x00000080,
    DEPENDENT_DISK_FLAG_PARENT = 0x00000100,
    /* Attached with NO_LOCAL_HOST. */
    DEPENDENT_DISK_FLAG_NO_HOST_DISK = 0x00000200,
    DEPENDENT_DISK_FLAG_PERMANENT_LIFETIME = 0x00000400,
    DEPENDENT_DISK_FLAG_SUPPORT_COMPRESSED_VOLUMES = 0x00000800,
    DEPENDENT_DISK_FLAG_ALWAYS_ALLOW_SPARSE = 0x00001000,
    DEPENDENT_DISK_FLAG_SUPPORT_ENCRYPTED_FILES = 0x00002000,
} DEPENDENT_DISK_FLAG;

typedef enum _STORAGE_DEPENDENCY_INFO_VERSION {
    STORAGE_DEPENDENCY_INFO_VERSION_UNSPECIFIED = 0,
    STORAGE_DEPENDENCY_INFO_VERSION_1 = 1,
    STORAGE_DEPENDENCY_INFO_VERSION_2 = 2,
} STORAGE_DEPENDENCY_INFO_VERSION;

typedef struct _STORAGE_DEPENDENCY_INFO_TYPE_1 {
    DEPENDENT_DISK_FLAG DependencyTypeFlags;
    ULONG ProviderSpecificFlags;
    VIRTUAL_STORAGE_TYPE VirtualStorageType;
} STORAGE_DEPENDENCY_INFO_TYPE_1, *PSTORAGE_DEPENDENCY_INFO_TYPE_1;

/* The strings lie in the same buffer, behind the entries. */
typedef struct _STORAGE_DEPENDENCY_INFO_TYPE_2 {
    DEPENDENT_DISK_FLAG DependencyTypeFlags;
    ULONG ProviderSpecificFlags;
    VIRTUAL_STORAGE_TYPE VirtualStorageType;
    ULONG AncestorLevel;
    PWSTR DependencyDeviceName;
    PWSTR HostVolumeName;
    PWSTR DependentVolumeName;
    PWSTR DependentVolumeRelativePath;
} STORAGE_DEPENDENCY_INFO_TYPE_2, *PSTORAGE_DEPENDENCY_INFO_TYPE_2;

/*
 * Compute the size of a buffer from offsetof and NumberEntries.  sizeof is 8,
 * the arrays not counted (more in Microsoft's ABI, and 72 or 56 in headers
 * that give the arrays one element).
 *
 * ISO C knows flexible arrays neither in unions nor in structures without
 * another member; hence an empty member before each.  In C++ and in
 * Microsoft's ABI that would take room, and arrays of length zero do.
 */
__extension__ typedef struct _STORAGE_DEPENDENCY_INFO {
    STORAGE_DEPENDENCY_INFO_VERSION Version;
    ULONG NumberEntries;
    union {
#if defined(__cplusplus) || defined(_MSC_VER)
        STORAGE_DEPENDENCY_INFO_TYPE_1 Version1Entries[0];
        STORAGE_DEPENDENCY_INFO_TYPE_2 Version2Entries[0];
#else
        struct {
            struct {
            } Version1;
            STORAGE_DEPENDENCY_INFO_TYPE_1 Version1Entries[];
        };
        struct {
            struct {
            } Version2;
            STORAGE_DEPENDENCY_INFO_TYPE_2 Version2Entries[];
        };
#endif
    };
} STORAGE_DEPENDENCY_INFO, *PSTORAGE_DEPENDENCY_INFO;

typedef enum _GET_STORAGE_DEPENDENCY_FLAG {
    GET_STORAGE_DEPENDENCY_FLAG_NONE = 0x00000000,
    /* What the object lies on; without it, what lies on the object. */
    GET_STORAGE_DEPENDENCY_FLAG_HOST_VOLUMES = 0x00000001,
    /* The handle is a disk's, not that of a volume or file. */
    GET_STORAGE_DEPENDENCY_FLAG_DISK_HANDLE = 0x00000002,
} GET_STORAGE_DEPENDENCY_FLAG;

#define GET_STORAGE_DEPENDENCY_FLAG_PARENTS                                   \
    GET_STORAGE_DEPENDENCY_FLAG_HOST_VOLUMES

DWORD WINAPI GetStorageDependencyInformation(
    _In_ HANDLE ObjectHandle, _In_ GET_STORAGE_DEPENDENCY_FLAG Flags,
    _In_ ULONG StorageDependencyInfoSize,
    _Inout_ PSTORAGE_DEPENDENCY_INFO StorageDependencyInfo,
    _Inout_opt_ PULONG SizeUsed);

/*
 * GetVirtualDiskInformation
 */

typedef enum _GET_VIRTUAL_DISK_INFO_VERSION {
    GET_VIRTUAL_DISK_INFO_UNSPECIFIED = 0,
    GET_VIRTUAL_DISK_INFO_SIZE = 1,
    GET_VIRTUAL_DISK_INFO_IDENTIFIER = 2,
    GET_VIRTUAL_DISK_INFO_PARENT_LOCATION = 3,
    GET_VIRTUAL_DISK_INFO_PARENT_IDENTIFIER = 4,
    GET_VIRTUAL_DISK_INFO_PARENT_TIMESTAMP = 5,
    GET_VIRTUAL_DISK_INFO_VIRTUAL_STORAGE_TYPE = 6,
    GET_VIRTUAL_DISK_INFO_PROVIDER_SUBTYPE = 7,
    /* Windows 8 from here. */
    GET_VIRTUAL_DISK_INFO_IS_4K_ALIGNED = 8,
    GET_VIRTUAL_DISK_INFO_PHYSICAL_DISK = 9,
    GET_VIRTUAL_DISK_INFO_VHD_PHYSICAL_SECTOR_SIZE = 10,
    GET_VIRTUAL_DISK_INFO_SMALLEST_SAFE_VIRTUAL_SIZE = 11,
    GET_VIRTUAL_DISK_INFO_FRAGMENTATION = 12,
    /* Windows 8.1 from here. */
    GET_VIRTUAL_DISK_INFO_IS_LOADED = 13,
    GET_VIRTUAL_DISK_INFO_VIRTUAL_DISK_ID = 14,
    /* Windows 10 from here. */
    GET_VIRTUAL_DISK_INFO_CHANGE_TRACKING_STATE = 15,
} GET_VIRTUAL_DISK_INFO_VERSION;

/* Two members end in text that goes on past the structure: ask with a
 * larger buffer after ERROR_INSUFFICIENT_BUFFER. */
typedef struct _GET_VIRTUAL_DISK_INFO {
    GET_VIRTUAL_DISK_INFO_VERSION Version;
    union {
        struct {
            DECLSPEC_ALIGN(8) ULONGLONG VirtualSize;
            DECLSPEC_ALIGN(8) ULONGLONG PhysicalSize; /* of the file */
            ULONG BlockSize;
            ULONG SectorSize;
        } Size;
        GUID Identifier;
        struct {
            /* TRUE: the buffer is the parent's path; FALSE: a list of the
             * places where it may be. */
            BOOL ParentResolved;
            WCHAR ParentLocationBuffer[1];
        } ParentLocation;
        GUID ParentIdentifier;
        ULONG ParentTimestamp;
        VIRTUAL_STORAGE_TYPE VirtualStorageType;
        ULONG ProviderSubtype; /* 2 fixed, 3 dynamic, 4 differencing */
        BOOL Is4kAligned;
        BOOL IsLoaded; /* attached */
        struct {
            ULONG LogicalSectorSize;
            ULONG PhysicalSectorSize;
            BOOL IsRemote;
        } PhysicalDisk;
        ULONG VhdPhysicalSectorSize;
        DECLSPEC_ALIGN(8) ULONGLONG SmallestSafeVirtualSize;
        ULONG FragmentationPercentage;
        GUID VirtualDiskId; /* of a VHDX; stays the same when it is copied */
        struct {
            BOOL Enabled;
            BOOL NewerChanges;
            WCHAR MostRecentId[1];
        } ChangeTrackingState;
    };
} GET_VIRTUAL_DISK_INFO, *PGET_VIRTUAL_DISK_INFO;

/* In characters. */
#define VIRTUAL_DISK_MAXIMUM_CHANGE_TRACKING_ID_LENGTH 256

/* Set VirtualDiskInfo->Version to what is asked for. */
DWORD WINAPI GetVirtualDiskInformation(
    _In_ HANDLE VirtualDiskHandle, _Inout_ PULONG VirtualDiskInfoSize,
    _Inout_updates_bytes_to_(*VirtualDiskInfoSize, *VirtualDiskInfoSize)
        PGET_VIRTUAL_DISK_INFO VirtualDiskInfo,
    _Out_opt_ PULONG SizeUsed);

/*
 * SetVirtualDiskInformation
 */

typedef enum _SET_VIRTUAL_DISK_INFO_VERSION {
    SET_VIRTUAL_DISK_INFO_UNSPECIFIED = 0,
    SET_VIRTUAL_DISK_INFO_PARENT_PATH = 1,
    SET_VIRTUAL_DISK_INFO_IDENTIFIER = 2,
    SET_VIRTUAL_DISK_INFO_PARENT_PATH_WITH_DEPTH = 3, /* Windows 8 */
    SET_VIRTUAL_DISK_INFO_PHYSICAL_SECTOR_SIZE = 4,   /* Windows 8 */
    SET_VIRTUAL_DISK_INFO_VIRTUAL_DISK_ID = 5,        /* Windows 8.1 */
    SET_VIRTUAL_DISK_INFO_CHANGE_TRACKING_STATE = 6,  /* Windows 10 */
    SET_VIRTUAL_DISK_INFO_PARENT_LOCATOR = 7,         /* Windows 10 */
} SET_VIRTUAL_DISK_INFO_VERSION;

typedef struct _SET_VIRTUAL_DISK_INFO {
    SET_VIRTUAL_DISK_INFO_VERSION Version;
    union {
        PCWSTR ParentFilePath;
        GUID UniqueIdentifier;
        struct {
            ULONG ChildDepth; /* of the disk to change, 1: the leaf */
            PCWSTR ParentFilePath;
        } ParentPathWithDepthInfo;
        ULONG VhdPhysicalSectorSize; /* 512 or 4096; VHDX only */
        GUID VirtualDiskId;
        BOOL ChangeTrackingEnabled;
        struct {
            GUID LinkageId;
            PCWSTR ParentFilePath;
        } ParentLocator;
    };
} SET_VIRTUAL_DISK_INFO, *PSET_VIRTUAL_DISK_INFO;

DWORD WINAPI
SetVirtualDiskInformation(_In_ HANDLE VirtualDiskHandle,
                          _In_ PSET_VIRTUAL_DISK_INFO VirtualDiskInfo);

/*
 * The metadata items of the user in a VHDX.  Windows 8.
 */

DWORD WINAPI EnumerateVirtualDiskMetadata(_In_ HANDLE VirtualDiskHandle,
                                          _Inout_ PULONG NumberOfItems,
                                          _Out_writes_(*NumberOfItems)
                                              GUID *Items);

DWORD WINAPI GetVirtualDiskMetadata(_In_ HANDLE VirtualDiskHandle,
                                    _In_ const GUID *Item,
                                    _Inout_ PULONG MetaDataSize,
                                    _Out_writes_bytes_(*MetaDataSize)
                                        PVOID MetaData);

DWORD WINAPI SetVirtualDiskMetadata(_In_ HANDLE VirtualDiskHandle,
                                    _In_ const GUID *Item,
                                    _In_ ULONG MetaDataSize,
                                    _In_reads_bytes_(MetaDataSize)
                                        const void *MetaData);

DWORD WINAPI DeleteVirtualDiskMetadata(_In_ HANDLE VirtualDiskHandle,
                                       _In_ const GUID *Item);

/*
 * GetVirtualDiskOperationProgress
 */

/* OperationStatus is ERROR_IO_PENDING while the call runs, then its result.
 * The two values mean something only in proportion to each other;
 * CompletionValue may be 0. */
typedef struct _VIRTUAL_DISK_PROGRESS {
    DWORD OperationStatus;
    DECLSPEC_ALIGN(8) ULONGLONG CurrentValue;
    DECLSPEC_ALIGN(8) ULONGLONG CompletionValue;
} VIRTUAL_DISK_PROGRESS, *PVIRTUAL_DISK_PROGRESS;

DWORD WINAPI GetVirtualDiskOperationProgress(
    _In_ HANDLE VirtualDiskHandle, _In_ LPOVERLAPPED Overlapped,
    _Out_ PVIRTUAL_DISK_PROGRESS Progress);

/*
 * CompactVirtualDisk
 */

typedef enum _COMPACT_VIRTUAL_DISK_VERSION {
    COMPACT_VIRTUAL_DISK_VERSION_UNSPECIFIED = 0,
    COMPACT_VIRTUAL_DISK_VERSION_1 = 1,
} COMPACT_VIRTUAL_DISK_VERSION;

typedef struct _COMPACT_VIRTUAL_DISK_PARAMETERS {
    COMPACT_VIRTUAL_DISK_VERSION Version;
    union {
        struct {
            ULONG Reserved; /* 0 */
        } Version1;
    };
} COMPACT_VIRTUAL_DISK_PARAMETERS, *PCOMPACT_VIRTUAL_DISK_PARAMETERS;

typedef enum _COMPACT_VIRTUAL_DISK_FLAG {
    COMPACT_VIRTUAL_DISK_FLAG_NONE = 0x00000000,
    /* Windows 10 1809: do not look for blocks full of zeros. */
    COMPACT_VIRTUAL_DISK_FLAG_NO_ZERO_SCAN = 0x00000001,
    /* Windows 10 1809: do not move blocks to shorten the file. */
    COMPACT_VIRTUAL_DISK_FLAG_NO_BLOCK_MOVES = 0x00000002,
} COMPACT_VIRTUAL_DISK_FLAG;

DWORD WINAPI CompactVirtualDisk(
    _In_ HANDLE VirtualDiskHandle, _In_ COMPACT_VIRTUAL_DISK_FLAG Flags,
    _In_opt_ PCOMPACT_VIRTUAL_DISK_PARAMETERS Parameters,
    _In_opt_ LPOVERLAPPED Overlapped);

/*
 * MergeVirtualDisk
 */

/* The leaf into its parent. */
#define MERGE_VIRTUAL_DISK_DEFAULT_MERGE_DEPTH 1

typedef enum _MERGE_VIRTUAL_DISK_VERSION {
    MERGE_VIRTUAL_DISK_VERSION_UNSPECIFIED = 0,
    MERGE_VIRTUAL_DISK_VERSION_1 = 1,
    MERGE_VIRTUAL_DISK_VERSION_2 = 2, /* Windows 8 */
} MERGE_VIRTUAL_DISK_VERSION;

/* The disk must have been opened with an RWDepth above MergeDepth, or, for
 * version 2, with version 2 of the OPEN parameters. */
typedef struct _MERGE_VIRTUAL_DISK_PARAMETERS {
    MERGE_VIRTUAL_DISK_VERSION Version;
    union {
        struct {
            ULONG MergeDepth;
        } Version1;
        struct {
            ULONG MergeSourceDepth; /* 1: the leaf */
            ULONG MergeTargetDepth;
        } Version2;
    };
} MERGE_VIRTUAL_DISK_PARAMETERS, *PMERGE_VIRTUAL_DISK_PARAMETERS;

typedef enum _MERGE_VIRTUAL_DISK_FLAG {
    MERGE_VIRTUAL_DISK_FLAG_NONE = 0x00000000,
} MERGE_VIRTUAL_DISK_FLAG;

DWORD WINAPI MergeVirtualDisk(_In_ HANDLE VirtualDiskHandle,
                              _In_ MERGE_VIRTUAL_DISK_FLAG Flags,
                              _In_ PMERGE_VIRTUAL_DISK_PARAMETERS Parameters,
                              _In_opt_ LPOVERLAPPED Overlapped);

/*
 * ExpandVirtualDisk
 */

typedef enum _EXPAND_VIRTUAL_DISK_VERSION {
    EXPAND_VIRTUAL_DISK_VERSION_UNSPECIFIED = 0,
    EXPAND_VIRTUAL_DISK_VERSION_1 = 1,
} EXPAND_VIRTUAL_DISK_VERSION;

typedef struct _EXPAND_VIRTUAL_DISK_PARAMETERS {
    EXPAND_VIRTUAL_DISK_VERSION Version;
    union {
        struct {
            DECLSPEC_ALIGN(8) ULONGLONG NewSize;
        } Version1;
    };
} EXPAND_VIRTUAL_DISK_PARAMETERS, *PEXPAND_VIRTUAL_DISK_PARAMETERS;

typedef enum _EXPAND_VIRTUAL_DISK_FLAG {
    EXPAND_VIRTUAL_DISK_FLAG_NONE = 0x00000000,
    EXPAND_VIRTUAL_DISK_FLAG_NOTIFY_CHANGE = 0x00000001, /* after 1903 */
} EXPAND_VIRTUAL_DISK_FLAG;

DWORD WINAPI ExpandVirtualDisk(_In_ HANDLE VirtualDiskHandle,
                               _In_ EXPAND_VIRTUAL_DISK_FLAG Flags,
                               _In_ PEXPAND_VIRTUAL_DISK_PARAMETERS Parameters,
                               _In_opt_ LPOVERLAPPED Overlapped);

/*
 * ResizeVirtualDisk.  Windows 8.
 */

typedef enum _RESIZE_VIRTUAL_DISK_VERSION {
    RESIZE_VIRTUAL_DISK_VERSION_UNSPECIFIED = 0,
    RESIZE_VIRTUAL_DISK_VERSION_1 = 1,
} RESIZE_VIRTUAL_DISK_VERSION;

typedef struct _RESIZE_VIRTUAL_DISK_PARAMETERS {
    RESIZE_VIRTUAL_DISK_VERSION Version;
    union {
        struct {
            DECLSPEC_ALIGN(8) ULONGLONG NewSize;
        } Version1;
    };
} RESIZE_VIRTUAL_DISK_PARAMETERS, *PRESIZE_VIRTUAL_DISK_PARAMETERS;

typedef enum _RESIZE_VIRTUAL_DISK_FLAG {
    RESIZE_VIRTUAL_DISK_FLAG_NONE = 0x0,
    /* Cut off partitions too.  Loses data. */
    RESIZE_VIRTUAL_DISK_FLAG_ALLOW_UNSAFE_VIRTUAL_SIZE = 0x1,
    /* As far as the partitions allow; NewSize must be 0. */
    RESIZE_VIRTUAL_DISK_FLAG_RESIZE_TO_SMALLEST_SAFE_VIRTUAL_SIZE = 0x2,
} RESIZE_VIRTUAL_DISK_FLAG;

DWORD WINAPI ResizeVirtualDisk(_In_ HANDLE VirtualDiskHandle,
                               _In_ RESIZE_VIRTUAL_DISK_FLAG Flags,
                               _In_ PRESIZE_VIRTUAL_DISK_PARAMETERS Parameters,
                               _In_opt_ LPOVERLAPPED Overlapped);

/*
 * MirrorVirtualDisk, BreakMirrorVirtualDisk.  Windows 8.
 */

typedef enum _MIRROR_VIRTUAL_DISK_VERSION {
    MIRROR_VIRTUAL_DISK_VERSION_UNSPECIFIED = 0,
    MIRROR_VIRTUAL_DISK_VERSION_1 = 1,
} MIRROR_VIRTUAL_DISK_VERSION;

typedef struct _MIRROR_VIRTUAL_DISK_PARAMETERS {
    MIRROR_VIRTUAL_DISK_VERSION Version;
    union {
        struct {
            PCWSTR MirrorVirtualDiskPath;
        } Version1;
    };
} MIRROR_VIRTUAL_DISK_PARAMETERS, *PMIRROR_VIRTUAL_DISK_PARAMETERS;

typedef enum _MIRROR_VIRTUAL_DISK_FLAG {
    MIRROR_VIRTUAL_DISK_FLAG_NONE = 0x00000000,
    MIRROR_VIRTUAL_DISK_FLAG_EXISTING_FILE = 0x00000001,
    /* Windows 10 1809. */
    MIRROR_VIRTUAL_DISK_FLAG_SKIP_MIRROR_ACTIVATION = 0x00000002,
    /* After 1903 from here. */
    MIRROR_VIRTUAL_DISK_FLAG_ENABLE_SMB_COMPRESSION = 0x00000004,
    MIRROR_VIRTUAL_DISK_FLAG_IS_LIVE_MIGRATION = 0x00000008,
} MIRROR_VIRTUAL_DISK_FLAG;

/* Stays pending when both sides are equal, until BreakMirrorVirtualDisk goes
 * over to the mirror or CancelIoEx gives it up. */
DWORD WINAPI MirrorVirtualDisk(_In_ HANDLE VirtualDiskHandle,
                               _In_ MIRROR_VIRTUAL_DISK_FLAG Flags,
                               _In_ PMIRROR_VIRTUAL_DISK_PARAMETERS Parameters,
                               _In_ LPOVERLAPPED Overlapped);

DWORD WINAPI BreakMirrorVirtualDisk(_In_ HANDLE VirtualDiskHandle);

/*
 * AddVirtualDiskParent.  Windows 8.  For a disk opened with
 * OPEN_VIRTUAL_DISK_FLAG_CUSTOM_DIFF_CHAIN; once per parent, leaf first.
 */

DWORD WINAPI AddVirtualDiskParent(_In_ HANDLE VirtualDiskHandle,
                                  _In_ PCWSTR ParentPath);

/*
 * QueryChangesVirtualDisk.  Windows 10.
 */

typedef struct _QUERY_CHANGES_VIRTUAL_DISK_RANGE {
    DECLSPEC_ALIGN(8) ULONG64 ByteOffset;
    DECLSPEC_ALIGN(8) ULONG64 ByteLength;
    DECLSPEC_ALIGN(8) ULONG64 Reserved;
} QUERY_CHANGES_VIRTUAL_DISK_RANGE, *PQUERY_CHANGES_VIRTUAL_DISK_RANGE;

typedef enum _QUERY_CHANGES_VIRTUAL_DISK_FLAG {
    QUERY_CHANGES_VIRTUAL_DISK_FLAG_NONE = 0x00000000,
} QUERY_CHANGES_VIRTUAL_DISK_FLAG;

/* Ask again from ByteOffset + *ProcessedLength until all is processed. */
DWORD WINAPI QueryChangesVirtualDisk(
    _In_ HANDLE VirtualDiskHandle, _In_ PCWSTR ChangeTrackingId,
    _In_ ULONG64 ByteOffset, _In_ ULONG64 ByteLength,
    _In_ QUERY_CHANGES_VIRTUAL_DISK_FLAG Flags,
    _Out_writes_to_(*RangeCount, *RangeCount)
        PQUERY_CHANGES_VIRTUAL_DISK_RANGE Ranges,
    _Inout_ PULONG RangeCount, _Out_ PULONG64 ProcessedLength);

/*
 * The snapshots of a VHD Set.  Windows 10.
 */

typedef enum _TAKE_SNAPSHOT_VHDSET_FLAG {
    TAKE_SNAPSHOT_VHDSET_FLAG_NONE = 0x00000000,
    TAKE_SNAPSHOT_VHDSET_FLAG_WRITEABLE = 0x00000001, /* Windows 10 1809 */
} TAKE_SNAPSHOT_VHDSET_FLAG,
    *PTAKE_SNAPSHOT_VHDSET_FLAG;

typedef enum _TAKE_SNAPSHOT_VHDSET_VERSION {
    TAKE_SNAPSHOT_VHDSET_VERSION_UNSPECIFIED = 0,
    TAKE_SNAPSHOT_VHDSET_VERSION_1 = 1,
} TAKE_SNAPSHOT_VHDSET_VERSION;

typedef struct _TAKE_SNAPSHOT_VHDSET_PARAMETERS {
    TAKE_SNAPSHOT_VHDSET_VERSION Version;
    union {
        struct {
            GUID SnapshotId;
        } Version1;
    };
} TAKE_SNAPSHOT_VHDSET_PARAMETERS, *PTAKE_SNAPSHOT_VHDSET_PARAMETERS;

typedef enum _DELETE_SNAPSHOT_VHDSET_FLAG {
    DELETE_SNAPSHOT_VHDSET_FLAG_NONE = 0x00000000,
    /* Keep it as a point to query changes from. */
    DELETE_SNAPSHOT_VHDSET_FLAG_PERSIST_RCT = 0x00000001,
} DELETE_SNAPSHOT_VHDSET_FLAG,
    *PDELETE_SNAPSHOT_VHDSET_FLAG;

typedef enum _DELETE_SNAPSHOT_VHDSET_VERSION {
    DELETE_SNAPSHOT_VHDSET_VERSION_UNSPECIFIED = 0,
    DELETE_SNAPSHOT_VHDSET_VERSION_1 = 1,
} DELETE_SNAPSHOT_VHDSET_VERSION;

typedef struct _DELETE_SNAPSHOT_VHDSET_PARAMETERS {
    DELETE_SNAPSHOT_VHDSET_VERSION Version;
    union {
        struct {
            GUID SnapshotId;
        } Version1;
    };
} DELETE_SNAPSHOT_VHDSET_PARAMETERS, *PDELETE_SNAPSHOT_VHDSET_PARAMETERS;

/* Chooses the operation as well as the member of the union. */
typedef enum _MODIFY_VHDSET_VERSION {
    MODIFY_VHDSET_UNSPECIFIED = 0,
    MODIFY_VHDSET_SNAPSHOT_PATH = 1,
    MODIFY_VHDSET_REMOVE_SNAPSHOT = 2,
    MODIFY_VHDSET_DEFAULT_SNAPSHOT_PATH = 3,
} MODIFY_VHDSET_VERSION,
    *PMODIFY_VHDSET_VERSION;

typedef enum _MODIFY_VHDSET_FLAG {
    MODIFY_VHDSET_FLAG_NONE = 0x00000000,
    MODIFY_VHDSET_FLAG_WRITEABLE_SNAPSHOT = 0x00000001, /* Windows 10 1809 */
} MODIFY_VHDSET_FLAG,
    *PMODIFY_VHDSET_FLAG;

typedef struct _MODIFY_VHDSET_PARAMETERS {
    MODIFY_VHDSET_VERSION Version;
    union {
        struct {
            GUID SnapshotId;
            PCWSTR SnapshotFilePath;
        } SnapshotPath;
        GUID SnapshotId; /* MODIFY_VHDSET_REMOVE_SNAPSHOT */
        PCWSTR DefaultFilePath;
    };
} MODIFY_VHDSET_PARAMETERS, *PMODIFY_VHDSET_PARAMETERS;

typedef enum _APPLY_SNAPSHOT_VHDSET_FLAG {
    APPLY_SNAPSHOT_VHDSET_FLAG_NONE = 0x00000000,
    APPLY_SNAPSHOT_VHDSET_FLAG_WRITEABLE = 0x00000001,
} APPLY_SNAPSHOT_VHDSET_FLAG,
    *PAPPLY_SNAPSHOT_VHDSET_FLAG;

typedef enum _APPLY_SNAPSHOT_VHDSET_VERSION {
    APPLY_SNAPSHOT_VHDSET_VERSION_UNSPECIFIED = 0,
    APPLY_SNAPSHOT_VHDSET_VERSION_1 = 1,
} APPLY_SNAPSHOT_VHDSET_VERSION;

typedef struct _APPLY_SNAPSHOT_VHDSET_PARAMETERS {
    APPLY_SNAPSHOT_VHDSET_VERSION Version;
    union {
        struct {
            GUID SnapshotId;
            GUID LeafSnapshotId;
        } Version1;
    };
} APPLY_SNAPSHOT_VHDSET_PARAMETERS, *PAPPLY_SNAPSHOT_VHDSET_PARAMETERS;

DWORD WINAPI
TakeSnapshotVhdSet(_In_ HANDLE VirtualDiskHandle,
                   _In_ const PTAKE_SNAPSHOT_VHDSET_PARAMETERS Parameters,
                   _In_ TAKE_SNAPSHOT_VHDSET_FLAG Flags);

DWORD WINAPI
DeleteSnapshotVhdSet(_In_ HANDLE VirtualDiskHandle,
                     _In_ const PDELETE_SNAPSHOT_VHDSET_PARAMETERS Parameters,
                     _In_ DELETE_SNAPSHOT_VHDSET_FLAG Flags);

DWORD WINAPI ModifyVhdSet(_In_ HANDLE VirtualDiskHandle,
                          _In_ const PMODIFY_VHDSET_PARAMETERS Parameters,
                          _In_ MODIFY_VHDSET_FLAG Flags);

DWORD WINAPI
ApplySnapshotVhdSet(_In_ HANDLE VirtualDiskHandle,
                    _In_ const PAPPLY_SNAPSHOT_VHDSET_PARAMETERS Parameters,
                    _In_ APPLY_SNAPSHOT_VHDSET_FLAG Flags);

/*
 * RawSCSIVirtualDisk.  Windows 10.
 */

typedef enum _RAW_SCSI_VIRTUAL_DISK_FLAG {
    RAW_SCSI_VIRTUAL_DISK_FLAG_NONE = 0x00000000,
} RAW_SCSI_VIRTUAL_DISK_FLAG,
    *PRAW_SCSI_VIRTUAL_DISK_FLAG;

typedef enum _RAW_SCSI_VIRTUAL_DISK_VERSION {
    RAW_SCSI_VIRTUAL_DISK_VERSION_UNSPECIFIED = 0,
    RAW_SCSI_VIRTUAL_DISK_VERSION_1 = 1,
} RAW_SCSI_VIRTUAL_DISK_VERSION;

typedef struct _RAW_SCSI_VIRTUAL_DISK_PARAMETERS {
    RAW_SCSI_VIRTUAL_DISK_VERSION Version;
    union {
        struct {
            BOOL RSVDHandle; /* opened as a shared virtual disk */
            UCHAR DataIn;    /* the data goes to the caller */
            UCHAR CdbLength;
            UCHAR SenseInfoLength;
            ULONG SrbFlags;
            ULONG DataTransferLength;
            PVOID DataBuffer;
            UCHAR *SenseInfo;
            UCHAR *Cdb;
        } Version1;
    };
} RAW_SCSI_VIRTUAL_DISK_PARAMETERS, *PRAW_SCSI_VIRTUAL_DISK_PARAMETERS;

typedef struct _RAW_SCSI_VIRTUAL_DISK_RESPONSE {
    RAW_SCSI_VIRTUAL_DISK_VERSION Version;
    union {
        struct {
            UCHAR ScsiStatus;
            UCHAR SenseInfoLength;    /* written to SenseInfo */
            ULONG DataTransferLength; /* moved to or from DataBuffer */
        } Version1;
    };
} RAW_SCSI_VIRTUAL_DISK_RESPONSE, *PRAW_SCSI_VIRTUAL_DISK_RESPONSE;

/* ERROR_SUCCESS says that the command was carried out, ScsiStatus with what
 * success. */
DWORD WINAPI
RawSCSIVirtualDisk(_In_ HANDLE VirtualDiskHandle,
                   _In_ const PRAW_SCSI_VIRTUAL_DISK_PARAMETERS Parameters,
                   _In_ RAW_SCSI_VIRTUAL_DISK_FLAG Flags,
                   _Out_ PRAW_SCSI_VIRTUAL_DISK_RESPONSE Response);

/*
 * ForkVirtualDisk, CompleteForkVirtualDisk.  Windows 10 1809; not described
 * by Microsoft beyond their declarations.
 */

typedef enum _FORK_VIRTUAL_DISK_VERSION {
    FORK_VIRTUAL_DISK_VERSION_UNSPECIFIED = 0,
    FORK_VIRTUAL_DISK_VERSION_1 = 1,
} FORK_VIRTUAL_DISK_VERSION;

typedef struct _FORK_VIRTUAL_DISK_PARAMETERS {
    FORK_VIRTUAL_DISK_VERSION Version;
    union {
        struct {
            PCWSTR ForkedVirtualDiskPath;
        } Version1;
    };
} FORK_VIRTUAL_DISK_PARAMETERS, *PFORK_VIRTUAL_DISK_PARAMETERS;

typedef enum _FORK_VIRTUAL_DISK_FLAG {
    FORK_VIRTUAL_DISK_FLAG_NONE = 0x00000000,
    FORK_VIRTUAL_DISK_FLAG_EXISTING_FILE = 0x00000001,
} FORK_VIRTUAL_DISK_FLAG;

DWORD WINAPI ForkVirtualDisk(
    _In_ HANDLE VirtualDiskHandle, _In_ FORK_VIRTUAL_DISK_FLAG Flags,
    _In_ const FORK_VIRTUAL_DISK_PARAMETERS *Parameters,
    _Inout_ LPOVERLAPPED Overlapped);

DWORD WINAPI CompleteForkVirtualDisk(_In_ HANDLE VirtualDiskHandle);

/*
 * The names of the Windows 7 beta, deprecated since.
 */

#define SurfaceVirtualDisk AttachVirtualDisk
#define UnsurfaceVirtualDisk DetachVirtualDisk

#define VIRTUAL_DISK_ACCESS_SURFACE_RO VIRTUAL_DISK_ACCESS_ATTACH_RO
#define VIRTUAL_DISK_ACCESS_SURFACE_RW VIRTUAL_DISK_ACCESS_ATTACH_RW
#define VIRTUAL_DISK_ACCESS_UNSURFACE VIRTUAL_DISK_ACCESS_DETACH

#define SURFACE_VIRTUAL_DISK_VERSION ATTACH_VIRTUAL_DISK_VERSION
#define _SURFACE_VIRTUAL_DISK_VERSION _ATTACH_VIRTUAL_DISK_VERSION
#define SURFACE_VIRTUAL_DISK_VERSION_UNSPECIFIED                              \
    ATTACH_VIRTUAL_DISK_VERSION_UNSPECIFIED
#define SURFACE_VIRTUAL_DISK_VERSION_1 ATTACH_VIRTUAL_DISK_VERSION_1

#define SURFACE_VIRTUAL_DISK_PARAMETERS ATTACH_VIRTUAL_DISK_PARAMETERS
#define _SURFACE_VIRTUAL_DISK_PARAMETERS _ATTACH_VIRTUAL_DISK_PARAMETERS
#define PSURFACE_VIRTUAL_DISK_PARAMETERS PATTACH_VIRTUAL_DISK_PARAMETERS

#define SURFACE_VIRTUAL_DISK_FLAG ATTACH_VIRTUAL_DISK_FLAG
#define _SURFACE_VIRTUAL_DISK_FLAG _ATTACH_VIRTUAL_DISK_FLAG
#define SURFACE_VIRTUAL_DISK_FLAG_NONE ATTACH_VIRTUAL_DISK_FLAG_NONE
#define SURFACE_VIRTUAL_DISK_FLAG_READ_ONLY ATTACH_VIRTUAL_DISK_FLAG_READ_ONLY
#define SURFACE_VIRTUAL_DISK_FLAG_NO_DRIVE_LETTER                             \
    ATTACH_VIRTUAL_DISK_FLAG_NO_DRIVE_LETTER
#define SURFACE_VIRTUAL_DISK_FLAG_PERMANENT_LIFETIME                          \
    ATTACH_VIRTUAL_DISK_FLAG_PERMANENT_LIFETIME
#define SURFACE_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST                               \
    ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST
#define SURFACE_VIRTUAL_DISK_FLAG_NO_SECURITY_DESCRIPTOR                      \
    ATTACH_VIRTUAL_DISK_FLAG_NO_SECURITY_DESCRIPTOR
#define SURFACE_VIRTUAL_DISK_FLAG_BYPASS_DEFAULT_ENCRYPTION_POLICY            \
    ATTACH_VIRTUAL_DISK_FLAG_BYPASS_DEFAULT_ENCRYPTION_POLICY

#define UNSURFACE_VIRTUAL_DISK_FLAG DETACH_VIRTUAL_DISK_FLAG
#define _UNSURFACE_VIRTUAL_DISK_FLAG _DETACH_VIRTUAL_DISK_FLAG
#define UNSURFACE_VIRTUAL_DISK_FLAG_NONE DETACH_VIRTUAL_DISK_FLAG_NONE

#ifdef __cplusplus
}
#endif

#endif
