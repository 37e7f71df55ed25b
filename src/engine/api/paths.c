/*
 * GetVirtualDiskPhysicalPath and GetAllAttachedVirtualDiskPhysicalPaths
 * (virtdisk.h).
 *
 * Both take a buffer and its size in bytes, final NUL included.  Too small,
 * or NULL with size 0: ERROR_INSUFFICIENT_BUFFER and the size needed.
 */
#include <virtdisk.h>

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "api/multi_sz.h"
#include "api/refuse.h"
#include "api/virtual_disk.h"
#include "base/cleanup.h"

static vd_error
check_buffer(const ULONG *size, const WCHAR *buffer)
{
    if (size == NULL || (buffer == NULL && *size != 0)) {
        return vd_refuse(ERROR_INVALID_PARAMETER, "a pointer is NULL");
    }
    return ERROR_SUCCESS;
}

/* On success too *size is what the text takes. */
static vd_error
give(const struct vd_multi_sz *text, ULONG *size, WCHAR *buffer)
{
    size_t needed = text->count * sizeof(*text->units);
    if (needed > UINT32_MAX) {
        return vd_refuse(ERROR_NOT_ENOUGH_MEMORY, "more paths than fit");
    }
    bool fits = needed <= *size;
    *size = (ULONG)needed;
    if (!fits) {
        return ERROR_INSUFFICIENT_BUFFER;
    }
    memcpy(buffer, text->units, needed);
    return ERROR_SUCCESS;
}

/* Not attached, and attached without a device, are one: there is no path. */
static vd_error
find_device(struct vd_virtual_disk *virtual_disk, char **out)
{
    bool attached;
    VD_AUTO_FREE char *device = NULL;
    if (!virtual_disk->rights.get_info) {
        return vd_refuse(ERROR_ACCESS_DENIED,
                         "the handle was not opened for information");
    }
    vd_error error = vd_virtual_disk_locate(virtual_disk, &attached, &device);
    if (error) {
        return error;
    }
    if (device == NULL) {
        return vd_refuse(ERROR_DEV_NOT_EXIST, attached
                                                  ? "attached without a device"
                                                  : "not attached");
    }
    *out = VD_TAKE(device);
    return ERROR_SUCCESS;
}

static vd_error
give_physical_path(struct vd_virtual_disk *virtual_disk, ULONG *size,
                   WCHAR *buffer)
{
    VD_AUTO_FREE char *device = NULL;
    vd_error error = find_device(virtual_disk, &device);
    if (error) {
        return error;
    }
    struct vd_multi_sz text = {0};
    error = vd_multi_sz_append(&text, device);
    if (!error) {
        error = give(&text, size, buffer);
    }
    free(text.units);
    return error;
}

/* The device of the image, whoever attached it: /dev/loopN. */
DWORD WINAPI
GetVirtualDiskPhysicalPath(HANDLE VirtualDiskHandle,
                           PULONG DiskPathSizeInBytes, PWSTR DiskPath)
{
    vd_error error = check_buffer(DiskPathSizeInBytes, DiskPath);
    if (error) {
        return error;
    }
    struct vd_virtual_disk *virtual_disk;
    error = vd_virtual_disk_acquire(VirtualDiskHandle, &virtual_disk);
    if (error) {
        return error;
    }
    error = give_physical_path(virtual_disk, DiskPathSizeInBytes, DiskPath);
    vd_virtual_disk_release(virtual_disk);
    return error;
}

static vd_error
append_images(struct vd_multi_sz *text, const struct vd_attached *list,
              size_t count)
{
    for (size_t i = 0; i < count; i++) {
        vd_error error = vd_multi_sz_append(text, list[i].image_path);
        if (error) {
            return error;
        }
    }
    return vd_multi_sz_append(text, "");
}

static vd_error
collect_images(struct vd_multi_sz *text)
{
    VD_AUTO_FREE struct vd_attached *list = NULL;
    size_t count;
    vd_error error = vd_attached_list(&list, &count);
    if (error) {
        return error;
    }
    error = append_images(text, list, count);
    for (size_t i = 0; i < count; i++) {
        vd_attached_free(&list[i]);
    }
    return error;
}

/* Despite the name the paths are those of the image files, as on Windows: a
 * list of strings, each with its NUL, and one more NUL.  Nothing attached:
 * that NUL alone. */
DWORD WINAPI
GetAllAttachedVirtualDiskPhysicalPaths(PULONG PathsBufferSizeInBytes,
                                       PWSTR PathsBuffer)
{
    vd_error error = check_buffer(PathsBufferSizeInBytes, PathsBuffer);
    if (error) {
        return error;
    }
    struct vd_multi_sz text = {0};
    error = collect_images(&text);
    if (!error) {
        error = give(&text, PathsBufferSizeInBytes, PathsBuffer);
    }
    free(text.units);
    return error;
}
