/*
 * ExpandVirtualDisk and ResizeVirtualDisk (virtdisk.h).
 *
 * Where Microsoft documents no code, those of disk/resize.h are inferred from
 * their texts.  EXPAND_VIRTUAL_DISK_FLAG_NOTIFY_CHANGE asks for nothing here:
 * a disk that is expanded is not attached, so there is nobody to notify.
 */
#include <virtdisk.h>

#include "api/offline.h"
#include "api/operation.h"
#include "api/refuse.h"
#include "api/virtual_disk.h"
#include "base/cleanup.h"
#include "disk/resize.h"

#define RESIZE_FLAGS                                                          \
    (RESIZE_VIRTUAL_DISK_FLAG_ALLOW_UNSAFE_VIRTUAL_SIZE |                     \
     RESIZE_VIRTUAL_DISK_FLAG_RESIZE_TO_SMALLEST_SAFE_VIRTUAL_SIZE)

/* ---- the work ---- */

static vd_error
resize_disk(struct vd_disk *disk, const void *arguments,
            struct vd_progress *progress)
{
    (void)progress; /* it is one step */
    return vd_disk_resize(disk, arguments);
}

/* Windows resizes what is attached only if it is a VHDX, and never expands
 * it. */
static bool
may_be_attached(struct vd_virtual_disk *virtual_disk,
                const struct vd_resize *resize)
{
    pthread_rwlock_rdlock(&virtual_disk->disk_lock);
    bool resizes = vd_disk_resizes_in_use(virtual_disk->disk);
    pthread_rwlock_unlock(&virtual_disk->disk_lock);
    return resize->mode != VD_RESIZE_GROW && resizes;
}

static vd_error
resize_live(struct vd_live *live, const struct vd_resize *resize)
{
    vd_error error = vd_live_resize(live, resize);
    vd_live_leave(live);
    return error;
}

/* ERROR_NOT_FOUND if it is not attached, or to another handle alone. */
static vd_error
resize_attached(struct vd_virtual_disk *virtual_disk,
                const struct vd_resize *resize)
{
    struct vd_live *live;
    VD_AUTO_CLOSE int fd = -1;
    if (vd_virtual_disk_enter(virtual_disk, &live) == ERROR_SUCCESS) {
        return resize_live(live, resize);
    }
    vd_error error = vd_virtual_disk_open_image(virtual_disk, &fd);
    return error ? error
                 : vd_attached_resize(virtual_disk->file_id, fd, resize);
}

static vd_error
resize(struct vd_virtual_disk *virtual_disk, const void *arguments,
       struct vd_progress *progress)
{
    struct vd_offline_work work = {
        .run = resize_disk,
        .arguments = arguments,
    };
    vd_error error = may_be_attached(virtual_disk, arguments)
                         ? resize_attached(virtual_disk, arguments)
                         : ERROR_NOT_FOUND;
    if (error == ERROR_NOT_FOUND) {
        return vd_offline_run(virtual_disk, &work, progress);
    }
    vd_offline_look_again(virtual_disk);
    return error;
}

static vd_error
start(struct vd_virtual_disk *virtual_disk, const struct vd_resize *wanted,
      OVERLAPPED *overlapped)
{
    struct vd_work work = {
        .run = resize,
        .arguments = wanted,
        .arguments_size = sizeof(*wanted),
        .background = true,
    };
    if (!virtual_disk->rights.change) {
        return vd_refuse(ERROR_ACCESS_DENIED,
                         "the handle may not change the image");
    }
    return vd_operation_run(virtual_disk, overlapped, &work);
}

/* ---- ExpandVirtualDisk ---- */

static vd_error
check_expand(EXPAND_VIRTUAL_DISK_FLAG flags,
             const EXPAND_VIRTUAL_DISK_PARAMETERS *parameters)
{
    if (((ULONG)flags & ~(ULONG)EXPAND_VIRTUAL_DISK_FLAG_NOTIFY_CHANGE) != 0) {
        return vd_refuse(ERROR_INVALID_PARAMETER, "flags %#x",
                         (unsigned)flags);
    }
    if (parameters == NULL ||
        parameters->Version != EXPAND_VIRTUAL_DISK_VERSION_1) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "EXPAND_VIRTUAL_DISK_PARAMETERS: no known version");
    }
    return ERROR_SUCCESS;
}

DWORD WINAPI
ExpandVirtualDisk(HANDLE VirtualDiskHandle, EXPAND_VIRTUAL_DISK_FLAG Flags,
                  PEXPAND_VIRTUAL_DISK_PARAMETERS Parameters,
                  LPOVERLAPPED Overlapped)
{
    struct vd_resize wanted = {.mode = VD_RESIZE_GROW};
    struct vd_virtual_disk *virtual_disk;
    vd_error error = vd_virtual_disk_acquire(VirtualDiskHandle, &virtual_disk);
    if (error) {
        return error;
    }
    error = check_expand(Flags, Parameters);
    if (!error) {
        wanted.size_bytes = Parameters->Version1.NewSize;
        error = start(virtual_disk, &wanted, Overlapped);
    }
    vd_virtual_disk_release(virtual_disk);
    return error;
}

/* ---- ResizeVirtualDisk ---- */

static vd_error
check_resize(RESIZE_VIRTUAL_DISK_FLAG flags,
             const RESIZE_VIRTUAL_DISK_PARAMETERS *parameters)
{
    bool smallest =
        (flags &
         RESIZE_VIRTUAL_DISK_FLAG_RESIZE_TO_SMALLEST_SAFE_VIRTUAL_SIZE) != 0;
    if (((ULONG)flags & ~(ULONG)RESIZE_FLAGS) != 0 || flags == RESIZE_FLAGS) {
        return vd_refuse(ERROR_INVALID_PARAMETER, "flags %#x",
                         (unsigned)flags);
    }
    if (parameters == NULL ||
        parameters->Version != RESIZE_VIRTUAL_DISK_VERSION_1) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "RESIZE_VIRTUAL_DISK_PARAMETERS: no known version");
    }
    if (smallest != (parameters->Version1.NewSize == 0)) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "NewSize must be 0 for the smallest size, and no "
                         "other");
    }
    return ERROR_SUCCESS;
}

static enum vd_resize_mode
mode_of(RESIZE_VIRTUAL_DISK_FLAG flags)
{
    if ((flags & RESIZE_VIRTUAL_DISK_FLAG_ALLOW_UNSAFE_VIRTUAL_SIZE) != 0) {
        return VD_RESIZE_UNSAFE;
    }
    return flags != RESIZE_VIRTUAL_DISK_FLAG_NONE ? VD_RESIZE_SMALLEST
                                                  : VD_RESIZE_SAFE;
}

DWORD WINAPI
ResizeVirtualDisk(HANDLE VirtualDiskHandle, RESIZE_VIRTUAL_DISK_FLAG Flags,
                  PRESIZE_VIRTUAL_DISK_PARAMETERS Parameters,
                  LPOVERLAPPED Overlapped)
{
    struct vd_resize wanted = {.mode = mode_of(Flags)};
    struct vd_virtual_disk *virtual_disk;
    vd_error error = vd_virtual_disk_acquire(VirtualDiskHandle, &virtual_disk);
    if (error) {
        return error;
    }
    error = check_resize(Flags, Parameters);
    if (!error) {
        wanted.size_bytes = Parameters->Version1.NewSize;
        error = start(virtual_disk, &wanted, Overlapped);
    }
    vd_virtual_disk_release(virtual_disk);
    return error;
}
