/*
 * AddVirtualDiskParent (virtdisk.h): a differencing chain put together by
 * the caller, whatever the images say about where their parents are.
 */
#include <virtdisk.h>

#include "api/operation.h"
#include "api/refuse.h"
#include "api/virtual_disk.h"
#include "attach/held.h"
#include "base/cleanup.h"
#include "base/utf16.h"

/* fork() waits meanwhile: the child closes the files that the list of layers
 * names, and must find it whole. */
static vd_error
add_layer(struct vd_virtual_disk *virtual_disk, const char *path)
{
    vd_error error = vd_held_enter();
    if (error) {
        return error;
    }
    error = vd_disk_add_parent(virtual_disk->disk, path);
    vd_held_leave();
    return error;
}

static vd_error
add_unless_attached(struct vd_virtual_disk *virtual_disk, const char *path)
{
    VD_SCOPED_LOCK(&virtual_disk->lock);
    if (vd_virtual_disk_attachment(virtual_disk) != NULL) {
        return vd_refuse(ERROR_VHD_INVALID_STATE,
                         "attached through this handle");
    }
    return add_layer(virtual_disk, path);
}

static vd_error
add_parent(struct vd_virtual_disk *virtual_disk, const char *path)
{
    vd_error error = vd_operation_none_pending(virtual_disk);
    if (error) {
        return error;
    }
    pthread_rwlock_wrlock(&virtual_disk->disk_lock);
    error = add_unless_attached(virtual_disk, path);
    pthread_rwlock_unlock(&virtual_disk->disk_lock);
    return error;
}

static vd_error
check_and_add(struct vd_virtual_disk *virtual_disk, PCWSTR parent_path)
{
    VD_AUTO_FREE char *path = NULL;
    if (parent_path == NULL) {
        return vd_refuse(ERROR_INVALID_PARAMETER, "ParentPath is NULL");
    }
    if (!virtual_disk->options.custom_chain) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "the handle was opened without CUSTOM_DIFF_CHAIN");
    }
    vd_error error = vd_utf16_to_bytes(parent_path, &path);
    return error ? error : add_parent(virtual_disk, path);
}

/* From the leaf to the root, one call for each parent.  Errors (inferred
 * where Microsoft is silent): ERROR_INVALID_PARAMETER without
 * CUSTOM_DIFF_CHAIN, ERROR_VHD_INVALID_STATE when attached,
 * ERROR_VHD_INVALID_TYPE if no parent is missing or the file is of another
 * format, and those of vd_disk_add_parent. */
DWORD WINAPI
AddVirtualDiskParent(HANDLE VirtualDiskHandle, PCWSTR ParentPath)
{
    struct vd_virtual_disk *virtual_disk;
    vd_error error = vd_virtual_disk_acquire(VirtualDiskHandle, &virtual_disk);
    if (error) {
        return error;
    }
    error = check_and_add(virtual_disk, ParentPath);
    vd_virtual_disk_release(virtual_disk);
    return error;
}
