/*
 * CompactVirtualDisk (virtdisk.h).
 */
#include <virtdisk.h>

#include "api/offline.h"
#include "api/operation.h"
#include "api/refuse.h"
#include "api/virtual_disk.h"
#include "disk/compact.h"

#define COMPACT_FLAGS                                                         \
    (COMPACT_VIRTUAL_DISK_FLAG_NO_ZERO_SCAN |                                 \
     COMPACT_VIRTUAL_DISK_FLAG_NO_BLOCK_MOVES)

static vd_error
check_arguments(COMPACT_VIRTUAL_DISK_FLAG flags,
                const COMPACT_VIRTUAL_DISK_PARAMETERS *parameters)
{
    if (((ULONG)flags & ~(ULONG)COMPACT_FLAGS) != 0) {
        return vd_refuse(ERROR_INVALID_PARAMETER, "flags %#x",
                         (unsigned)flags);
    }
    if (parameters == NULL) {
        return ERROR_SUCCESS;
    }
    if (parameters->Version != COMPACT_VIRTUAL_DISK_VERSION_1) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "COMPACT_VIRTUAL_DISK_PARAMETERS version %u",
                         (unsigned)parameters->Version);
    }
    if (parameters->Version1.Reserved != 0) {
        return vd_refuse(ERROR_INVALID_PARAMETER, "Reserved is not 0");
    }
    return ERROR_SUCCESS;
}

static vd_error
compact_disk(struct vd_disk *disk, const void *arguments,
             struct vd_progress *progress)
{
    return vd_disk_compact(disk, arguments, progress);
}

static vd_error
compact(struct vd_virtual_disk *virtual_disk, const void *arguments,
        struct vd_progress *progress)
{
    struct vd_offline_work work = {
        .run = compact_disk,
        .arguments = arguments,
    };
    return vd_offline_run(virtual_disk, &work, progress);
}

static vd_error
start(struct vd_virtual_disk *virtual_disk, COMPACT_VIRTUAL_DISK_FLAG flags,
      OVERLAPPED *overlapped)
{
    struct vd_compact_options options = {
        .no_zero_scan = (flags & COMPACT_VIRTUAL_DISK_FLAG_NO_ZERO_SCAN) != 0,
        .no_block_moves =
            (flags & COMPACT_VIRTUAL_DISK_FLAG_NO_BLOCK_MOVES) != 0,
    };
    struct vd_work work = {
        .run = compact,
        .arguments = &options,
        .arguments_size = sizeof(options),
    };
    if (!virtual_disk->rights.change) {
        return vd_refuse(ERROR_ACCESS_DENIED,
                         "the handle may not change the image");
    }
    return vd_operation_run(virtual_disk, overlapped, &work);
}

DWORD WINAPI
CompactVirtualDisk(HANDLE VirtualDiskHandle, COMPACT_VIRTUAL_DISK_FLAG Flags,
                   PCOMPACT_VIRTUAL_DISK_PARAMETERS Parameters,
                   LPOVERLAPPED Overlapped)
{
    struct vd_virtual_disk *virtual_disk;
    vd_error error = vd_virtual_disk_acquire(VirtualDiskHandle, &virtual_disk);
    if (error) {
        return error;
    }
    error = check_arguments(Flags, Parameters);
    if (!error) {
        error = start(virtual_disk, Flags, Overlapped);
    }
    vd_virtual_disk_release(virtual_disk);
    return error;
}
