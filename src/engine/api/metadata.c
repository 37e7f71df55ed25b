/*
 * EnumerateVirtualDiskMetadata, GetVirtualDiskMetadata,
 * SetVirtualDiskMetadata and DeleteVirtualDiskMetadata (virtdisk.h): the items
 * that users keep in a VHDX image.  Of any other: ERROR_NOT_SUPPORTED.
 *
 * They are read from the image as it is now, attached or not; written only
 * while it is not attached.  A buffer too small is ERROR_INSUFFICIENT_BUFFER
 * and the size needed.
 */
#include <virtdisk.h>

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "api/look.h"
#include "api/offline.h"
#include "api/operation.h"
#include "api/refuse.h"
#include "api/virtual_disk.h"
#include "base/cleanup.h"
#include "disk/disk_change.h"

static vd_error
take_item(const GUID *given, struct vd_guid *out)
{
    if (given == NULL) {
        return vd_refuse(ERROR_INVALID_PARAMETER, "Item is NULL");
    }
    memcpy(out, given, sizeof(*out));
    if (vd_guid_is_zero(out)) {
        return vd_refuse(ERROR_INVALID_PARAMETER, "an item of zeros");
    }
    return ERROR_SUCCESS;
}

/* ---- reading ---- */

/* The image as it is now; close it. */
static vd_error
look_now(struct vd_virtual_disk *virtual_disk, struct vd_disk **out)
{
    if (!virtual_disk->rights.get_info) {
        return vd_refuse(ERROR_ACCESS_DENIED,
                         "the handle was not opened for information");
    }
    pthread_rwlock_rdlock(&virtual_disk->disk_lock);
    vd_error error = vd_look_again(virtual_disk->disk, true, out);
    pthread_rwlock_unlock(&virtual_disk->disk_lock);
    return error;
}

static vd_error
give(const void *found, size_t count, size_t unit, ULONG *count_inout,
     void *buffer)
{
    if (count > UINT32_MAX) {
        return vd_refuse(ERROR_NOT_ENOUGH_MEMORY, "more than fits");
    }
    vd_error error =
        *count_inout < count ? ERROR_INSUFFICIENT_BUFFER : ERROR_SUCCESS;
    if (!error && count != 0) {
        memcpy(buffer, found, count * unit);
    }
    *count_inout = (ULONG)count;
    return error;
}

static vd_error
enumerate(struct vd_virtual_disk *virtual_disk, ULONG *count, GUID *items)
{
    VD_AUTO_FREE struct vd_guid *found = NULL;
    size_t found_count = 0;
    struct vd_disk *disk;
    vd_error error = look_now(virtual_disk, &disk);
    if (error) {
        return error;
    }
    error = vd_disk_metadata_list(disk, &found, &found_count);
    vd_disk_close(disk);
    return error ? error
                 : give(found, found_count, sizeof(*found), count, items);
}

static vd_error
get(struct vd_virtual_disk *virtual_disk, const struct vd_guid *item,
    ULONG *size, void *buffer)
{
    VD_AUTO_FREE void *found = NULL;
    size_t found_size = 0;
    struct vd_disk *disk;
    vd_error error = look_now(virtual_disk, &disk);
    if (error) {
        return error;
    }
    error = vd_disk_metadata_get(disk, item, &found, &found_size);
    vd_disk_close(disk);
    return error ? error : give(found, found_size, 1, size, buffer);
}

static vd_error
check_buffer(const ULONG *size, const void *buffer)
{
    if (size == NULL || (buffer == NULL && *size != 0)) {
        return vd_refuse(ERROR_INVALID_PARAMETER, "a pointer is NULL");
    }
    return ERROR_SUCCESS;
}

DWORD WINAPI
EnumerateVirtualDiskMetadata(HANDLE VirtualDiskHandle, PULONG NumberOfItems,
                             GUID *Items)
{
    struct vd_virtual_disk *virtual_disk;
    vd_error error = vd_virtual_disk_acquire(VirtualDiskHandle, &virtual_disk);
    if (error) {
        return error;
    }
    error = check_buffer(NumberOfItems, Items);
    if (!error) {
        error = enumerate(virtual_disk, NumberOfItems, Items);
    }
    vd_virtual_disk_release(virtual_disk);
    return error;
}

/* ERROR_NOT_FOUND for an item that is not there. */
DWORD WINAPI
GetVirtualDiskMetadata(HANDLE VirtualDiskHandle, const GUID *Item,
                       PULONG MetaDataSize, PVOID MetaData)
{
    struct vd_guid item;
    struct vd_virtual_disk *virtual_disk;
    vd_error error = vd_virtual_disk_acquire(VirtualDiskHandle, &virtual_disk);
    if (error) {
        return error;
    }
    error = take_item(Item, &item);
    if (!error) {
        error = check_buffer(MetaDataSize, MetaData);
    }
    if (!error) {
        error = get(virtual_disk, &item, MetaDataSize, MetaData);
    }
    vd_virtual_disk_release(virtual_disk);
    return error;
}

/* ---- writing ---- */

struct new_item {
    struct vd_guid item;
    const void *data;
    size_t size;
};

static vd_error
set_in_disk(struct vd_disk *disk, const void *arguments,
            struct vd_progress *progress)
{
    const struct new_item *item = arguments;
    (void)progress; /* it is one step */
    return vd_disk_metadata_set(disk, &item->item, item->data, item->size);
}

static vd_error
delete_from_disk(struct vd_disk *disk, const void *arguments,
                 struct vd_progress *progress)
{
    const struct new_item *item = arguments;
    (void)progress; /* it is one step */
    return vd_disk_metadata_delete(disk, &item->item);
}

static vd_error
run(struct vd_virtual_disk *virtual_disk, const struct vd_offline_work *work)
{
    vd_error error = vd_operation_none_pending(virtual_disk);
    return error ? error : vd_offline_run(virtual_disk, work, NULL);
}

/* ERROR_VHD_METADATA_FULL if there is no room for it. */
DWORD WINAPI
SetVirtualDiskMetadata(HANDLE VirtualDiskHandle, const GUID *Item,
                       ULONG MetaDataSize, const void *MetaData)
{
    struct new_item item = {.data = MetaData, .size = MetaDataSize};
    struct vd_offline_work work = {
        .run = set_in_disk,
        .arguments = &item,
        .layers = 1,
    };
    struct vd_virtual_disk *virtual_disk;
    vd_error error = vd_virtual_disk_acquire(VirtualDiskHandle, &virtual_disk);
    if (error) {
        return error;
    }
    error = take_item(Item, &item.item);
    if (!error) {
        error = check_buffer(&MetaDataSize, MetaData);
    }
    if (!error) {
        error = run(virtual_disk, &work);
    }
    vd_virtual_disk_release(virtual_disk);
    return error;
}

/* ERROR_NOT_FOUND for an item that is not there. */
DWORD WINAPI
DeleteVirtualDiskMetadata(HANDLE VirtualDiskHandle, const GUID *Item)
{
    struct new_item item = {.size = 0};
    struct vd_offline_work work = {
        .run = delete_from_disk,
        .arguments = &item,
        .layers = 1,
    };
    struct vd_virtual_disk *virtual_disk;
    vd_error error = vd_virtual_disk_acquire(VirtualDiskHandle, &virtual_disk);
    if (error) {
        return error;
    }
    error = take_item(Item, &item.item);
    if (!error) {
        error = run(virtual_disk, &work);
    }
    vd_virtual_disk_release(virtual_disk);
    return error;
}
