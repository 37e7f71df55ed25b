/*
 * SetVirtualDiskInformation (virtdisk.h): one table, class -> function.
 *
 * The image must not be attached.  A new parent is opened and looked at: it
 * must be the one that the child was made of, moved or copied.  PARENT_LOCATOR
 * gives the child another one, of the same kind, whose identifier the caller
 * has to say.  Only the relative path is written, and a handle that sees its
 * parents then sees the new ones.
 *
 * Depths count from the leaf, which is at 1.
 */
#include <virtdisk.h>

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "api/offline.h"
#include "api/operation.h"
#include "api/refuse.h"
#include "api/virtual_disk.h"
#include "base/cleanup.h"
#include "base/guid.h"
#include "base/utf16.h"
#include "disk/disk_change.h"
#include "disk/relink.h"
#include "format/format.h"

/* ---- the image itself ---- */

static vd_error
change_disk(struct vd_disk *disk, const void *arguments,
            struct vd_progress *progress)
{
    const struct vd_image_change *change = arguments;
    (void)progress; /* it is one step */
    return vd_disk_change(disk, change);
}

static vd_error
change_image(struct vd_virtual_disk *virtual_disk,
             const struct vd_image_change *change)
{
    struct vd_offline_work work = {
        .run = change_disk,
        .arguments = change,
        .layers = 1,
    };
    return vd_offline_run(virtual_disk, &work, NULL);
}

static vd_error
take_guid(const GUID *given, struct vd_guid *out)
{
    memcpy(out, given, sizeof(*out));
    if (vd_guid_is_zero(out)) {
        return vd_refuse(ERROR_INVALID_PARAMETER, "an identifier of zeros");
    }
    return ERROR_SUCCESS;
}

static vd_error
set_identifier(struct vd_virtual_disk *virtual_disk,
               const SET_VIRTUAL_DISK_INFO *info)
{
    struct vd_guid identifier;
    struct vd_image_change change = {.identifier = &identifier};
    vd_error error = take_guid(&info->UniqueIdentifier, &identifier);
    return error ? error : change_image(virtual_disk, &change);
}

static vd_error
set_virtual_disk_id(struct vd_virtual_disk *virtual_disk,
                    const SET_VIRTUAL_DISK_INFO *info)
{
    struct vd_guid identifier;
    struct vd_image_change change = {.virtual_disk_id = &identifier};
    vd_error error = take_guid(&info->VirtualDiskId, &identifier);
    return error ? error : change_image(virtual_disk, &change);
}

static vd_error
set_physical_sector_size(struct vd_virtual_disk *virtual_disk,
                         const SET_VIRTUAL_DISK_INFO *info)
{
    struct vd_image_change change = {
        .physical_sector_size = info->VhdPhysicalSectorSize,
    };
    if (change.physical_sector_size != 512 &&
        change.physical_sector_size != 4096) {
        return vd_refuse(ERROR_INVALID_PARAMETER, "sectors of %u bytes",
                         change.physical_sector_size);
    }
    return change_image(virtual_disk, &change);
}

static vd_error
set_change_tracking(struct vd_virtual_disk *virtual_disk,
                    const SET_VIRTUAL_DISK_INFO *info)
{
    (void)virtual_disk;
    (void)info;
    return vd_refuse(ERROR_NOT_SUPPORTED,
                     "the format of change tracking is not published");
}

/* ---- its parent ---- */

struct new_parent {
    size_t layer; /* of the child */
    const char *path;
    const struct vd_guid *identifier; /* NULL: what the child says */
};

static vd_error
set_parent_of_disk(struct vd_disk *disk, const void *arguments,
                   struct vd_progress *progress)
{
    const struct new_parent *parent = arguments;
    (void)progress; /* it is one step */
    return vd_disk_set_parent(disk, parent->layer, parent->path,
                              parent->identifier);
}

/* What the handle sees afterwards: if it saw all parents, the new ones. */
static vd_error
find_change(struct vd_virtual_disk *virtual_disk, size_t layer,
            struct vd_chain_change *out)
{
    pthread_rwlock_rdlock(&virtual_disk->disk_lock);
    const struct vd_disk *disk = virtual_disk->disk;
    size_t layers = vd_disk_layers(disk);
    bool complete = vd_disk_complete(disk);
    pthread_rwlock_unlock(&virtual_disk->disk_lock);
    if (layer >= layers) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "no depth of %zu in a chain of %zu", layer + 1,
                         layers);
    }
    *out = (struct vd_chain_change){
        .kept = layer + 1,
        .removed = layers - layer - 1,
        .search = complete && !virtual_disk->options.custom_chain,
    };
    return ERROR_SUCCESS;
}

static vd_error
run_set_parent(struct vd_virtual_disk *virtual_disk,
               const struct new_parent *parent)
{
    struct vd_layer_set written = {.has = {true}};
    struct vd_chain_change change;
    struct vd_offline_work work = {
        .run = set_parent_of_disk,
        .arguments = parent,
        .layers = parent->layer + 1,
        .written = &written,
        .change = &change,
    };
    vd_error error = find_change(virtual_disk, parent->layer, &change);
    if (error) {
        return error;
    }
    written.has[parent->layer] = true;
    return vd_offline_run(virtual_disk, &work, NULL);
}

static vd_error
set_parent(struct vd_virtual_disk *virtual_disk, ULONG depth, PCWSTR path,
           const struct vd_guid *identifier)
{
    VD_AUTO_FREE char *bytes = NULL;
    if (path == NULL || depth == 0) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "ParentFilePath is NULL or ChildDepth 0");
    }
    vd_error error = vd_utf16_to_bytes(path, &bytes);
    if (error) {
        return error;
    }
    struct new_parent parent = {
        .layer = depth - 1,
        .path = bytes,
        .identifier = identifier,
    };
    return run_set_parent(virtual_disk, &parent);
}

static vd_error
set_parent_path(struct vd_virtual_disk *virtual_disk,
                const SET_VIRTUAL_DISK_INFO *info)
{
    return set_parent(virtual_disk, 1, info->ParentFilePath, NULL);
}

static vd_error
set_parent_path_with_depth(struct vd_virtual_disk *virtual_disk,
                           const SET_VIRTUAL_DISK_INFO *info)
{
    return set_parent(virtual_disk, info->ParentPathWithDepthInfo.ChildDepth,
                      info->ParentPathWithDepthInfo.ParentFilePath, NULL);
}

static vd_error
set_parent_locator(struct vd_virtual_disk *virtual_disk,
                   const SET_VIRTUAL_DISK_INFO *info)
{
    struct vd_guid linkage;
    vd_error error = take_guid(&info->ParentLocator.LinkageId, &linkage);
    return error ? error
                 : set_parent(virtual_disk, 1,
                              info->ParentLocator.ParentFilePath, &linkage);
}

/* ---- the call ---- */

typedef vd_error set_function(struct vd_virtual_disk *virtual_disk,
                              const SET_VIRTUAL_DISK_INFO *info);

static set_function *const classes[] = {
    [SET_VIRTUAL_DISK_INFO_PARENT_PATH] = set_parent_path,
    [SET_VIRTUAL_DISK_INFO_IDENTIFIER] = set_identifier,
    [SET_VIRTUAL_DISK_INFO_PARENT_PATH_WITH_DEPTH] =
        set_parent_path_with_depth,
    [SET_VIRTUAL_DISK_INFO_PHYSICAL_SECTOR_SIZE] = set_physical_sector_size,
    [SET_VIRTUAL_DISK_INFO_VIRTUAL_DISK_ID] = set_virtual_disk_id,
    [SET_VIRTUAL_DISK_INFO_CHANGE_TRACKING_STATE] = set_change_tracking,
    [SET_VIRTUAL_DISK_INFO_PARENT_LOCATOR] = set_parent_locator,
};

static vd_error
set_information(struct vd_virtual_disk *virtual_disk,
                const SET_VIRTUAL_DISK_INFO *info)
{
    if (info == NULL) {
        return vd_refuse(ERROR_INVALID_PARAMETER, "VirtualDiskInfo is NULL");
    }
    size_t number = info->Version;
    if (number >= sizeof(classes) / sizeof(classes[0]) ||
        classes[number] == NULL) {
        return vd_refuse(ERROR_INVALID_PARAMETER, "information class %zu",
                         number);
    }
    if (!virtual_disk->rights.change) {
        return vd_refuse(ERROR_ACCESS_DENIED,
                         "the handle may not change the image");
    }
    vd_error error = vd_operation_none_pending(virtual_disk);
    return error ? error : classes[number](virtual_disk, info);
}

DWORD WINAPI
SetVirtualDiskInformation(HANDLE VirtualDiskHandle,
                          PSET_VIRTUAL_DISK_INFO VirtualDiskInfo)
{
    struct vd_virtual_disk *virtual_disk;
    vd_error error = vd_virtual_disk_acquire(VirtualDiskHandle, &virtual_disk);
    if (error) {
        return error;
    }
    error = set_information(virtual_disk, VirtualDiskInfo);
    vd_virtual_disk_release(virtual_disk);
    return error;
}
