/*
 * CompactVirtualDisk (virtdisk.h).
 */
#include <virtdisk.h>

#include "api/offline.h"
#include "api/operation.h"
#include "api/refuse.h"
#include "api/virtual_disk.h"
#include "base/cleanup.h"
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
compact_offline(struct vd_virtual_disk *virtual_disk,
                const struct vd_compact_options *options,
                struct vd_progress *progress)
{
    struct vd_offline_work work = {
        .run = compact_disk,
        .arguments = options,
    };
    return vd_offline_run(virtual_disk, &work, progress);
}

/* Without a device, by this handle.  ERROR_NOT_FOUND if it is not. */
static vd_error
compact_live(struct vd_virtual_disk *virtual_disk, int fd,
             const struct vd_compact_options *options,
             struct vd_progress *progress)
{
    struct vd_live *live;
    if (vd_virtual_disk_enter(virtual_disk, &live) != ERROR_SUCCESS) {
        return ERROR_NOT_FOUND;
    }
    vd_error error = vd_live_compact(live, fd, options, progress);
    vd_live_leave(live);
    return error;
}

/* ERROR_NOT_FOUND if it is not attached for reading. */
static vd_error
compact_attached(struct vd_virtual_disk *virtual_disk,
                 const struct vd_compact_options *options,
                 struct vd_progress *progress)
{
    VD_AUTO_CLOSE int fd = -1;
    vd_error error = vd_virtual_disk_open_image(virtual_disk, &fd);
    if (error) {
        return error;
    }
    error = compact_live(virtual_disk, fd, options, progress);
    if (error == ERROR_NOT_FOUND) {
        error =
            vd_attached_compact(virtual_disk->file_id, fd, options, progress);
    }
    return error;
}

/* Attached for reading, it is compacted by whom it is used. */
static vd_error
compact(struct vd_virtual_disk *virtual_disk, const void *arguments,
        struct vd_progress *progress)
{
    vd_error error = compact_attached(virtual_disk, arguments, progress);
    if (error == ERROR_NOT_FOUND) {
        return compact_offline(virtual_disk, arguments, progress);
    }
    vd_offline_look_again(virtual_disk);
    return error;
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
        .background = true,
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
