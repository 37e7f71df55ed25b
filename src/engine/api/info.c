/*
 * GetVirtualDiskInformation (virtdisk.h): one table, class -> function.
 *
 * What an image is does not change while it is open.  What it contains does,
 * and how large it is, so those classes that ask for it look at the image once
 * more; what is only in the memory of another attachment they cannot see.
 *
 * A class that this image does not have fails with its own code whatever the
 * buffer's size; then a buffer too small is ERROR_INSUFFICIENT_BUFFER, and
 * *VirtualDiskInfoSize the size needed.  On success *VirtualDiskInfoSize is
 * left alone, so that a caller may use one variable for call after call.
 */
#include <virtdisk.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "api/look.h"
#include "api/multi_sz.h"
#include "api/refuse.h"
#include "api/virtual_disk.h"
#include "base/cleanup.h"
#include "disk/resize.h"
#include "disk/scsi.h"
#include "format/format.h"

/* What a class answers: the members of its arm and, in some, a text that
 * stands behind them. */
struct answer {
    GET_VIRTUAL_DISK_INFO info;
    struct vd_multi_sz text;
};

/* Others may have given it another one while it is attached.  What cannot be
 * looked at any more has the size that it had. */
static uint64_t
size_now(const struct vd_virtual_disk *virtual_disk)
{
    uint64_t size = vd_disk_size_bytes(virtual_disk->disk);
    struct vd_disk *now;
    if (vd_disk_resizes_in_use(virtual_disk->disk) &&
        vd_look_again(virtual_disk->disk, true, &now) == ERROR_SUCCESS) {
        size = vd_disk_size_bytes(now);
        vd_disk_close(now);
    }
    return size;
}

static vd_error
get_size(struct vd_virtual_disk *virtual_disk, struct answer *out)
{
    const struct vd_image_info *info = vd_disk_info(virtual_disk->disk);
    uint64_t file_size;
    vd_error error = vd_disk_file_size(virtual_disk->disk, &file_size);
    if (error) {
        return error;
    }
    out->info.Size.VirtualSize = size_now(virtual_disk);
    out->info.Size.PhysicalSize = file_size;
    out->info.Size.BlockSize = info->block_size;
    out->info.Size.SectorSize = info->sector_size;
    return ERROR_SUCCESS;
}

static vd_error
get_identifier(struct vd_virtual_disk *virtual_disk, struct answer *out)
{
    const struct vd_image_info *info = vd_disk_info(virtual_disk->disk);
    if (!info->has_identifier) {
        return vd_refuse(ERROR_NOT_SUPPORTED, "the image has no identifier");
    }
    _Static_assert(sizeof(out->info.Identifier) == sizeof(info->identifier),
                   "a GUID is 16 bytes in memory order on both sides");
    memcpy(&out->info.Identifier, &info->identifier,
           sizeof(out->info.Identifier));
    return ERROR_SUCCESS;
}

static vd_error
check_differencing(const struct vd_virtual_disk *virtual_disk)
{
    if (vd_disk_info(virtual_disk->disk)->subtype != VD_SUBTYPE_DIFFERENCING) {
        return vd_refuse(ERROR_VHD_INVALID_TYPE, "not a differencing disk");
    }
    return ERROR_SUCCESS;
}

static vd_error
append_all(struct vd_multi_sz *text, char *const *strings, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        vd_error error = vd_multi_sz_append(text, strings[i]);
        if (error) {
            return error;
        }
    }
    return vd_multi_sz_append(text, "");
}

/* Where the parent would be looked for, in that order. */
static vd_error
list_candidates(const struct vd_disk *disk, struct vd_multi_sz *text)
{
    char **paths;
    size_t count;
    vd_error error = vd_disk_parent_candidates(disk, &paths, &count);
    if (error) {
        return error;
    }
    error = append_all(text, paths, count);
    while (count > 0) {
        free(paths[--count]);
    }
    free(paths);
    return error;
}

static vd_error
get_parent_location(struct vd_virtual_disk *virtual_disk, struct answer *out)
{
    const struct vd_disk *disk = virtual_disk->disk;
    vd_error error = check_differencing(virtual_disk);
    if (error) {
        return error;
    }
    bool resolved = vd_disk_layers(disk) > 1;
    out->info.ParentLocation.ParentResolved = resolved;
    return resolved
               ? vd_multi_sz_append(&out->text, vd_disk_layer_path(disk, 1))
               : list_candidates(disk, &out->text);
}

static vd_error
get_parent_identifier(struct vd_virtual_disk *virtual_disk, struct answer *out)
{
    const struct vd_image_info *info = vd_disk_info(virtual_disk->disk);
    vd_error error = check_differencing(virtual_disk);
    if (!error) {
        memcpy(&out->info.ParentIdentifier, &info->parent_identifier,
               sizeof(out->info.ParentIdentifier));
    }
    return error;
}

/* A VHDX has none. */
static vd_error
get_parent_timestamp(struct vd_virtual_disk *virtual_disk, struct answer *out)
{
    vd_error error = check_differencing(virtual_disk);
    if (error) {
        return error;
    }
    if (vd_disk_format(virtual_disk->disk)->device_id != VD_DEVICE_VHD) {
        return vd_refuse(ERROR_NOT_SUPPORTED,
                         "the format has no parent timestamp");
    }
    out->info.ParentTimestamp =
        vd_disk_info(virtual_disk->disk)->parent_timestamp;
    return ERROR_SUCCESS;
}

static vd_error
get_storage_type(struct vd_virtual_disk *virtual_disk, struct answer *out)
{
    out->info.VirtualStorageType = (VIRTUAL_STORAGE_TYPE){
        .DeviceId = vd_disk_format(virtual_disk->disk)->device_id,
        .VendorId = VIRTUAL_STORAGE_TYPE_VENDOR_MICROSOFT,
    };
    return ERROR_SUCCESS;
}

static vd_error
get_subtype(struct vd_virtual_disk *virtual_disk, struct answer *out)
{
    enum vd_subtype subtype = vd_disk_info(virtual_disk->disk)->subtype;
    if (subtype == VD_SUBTYPE_NONE) {
        return vd_refuse(ERROR_NOT_SUPPORTED, "the format has no subtypes");
    }
    out->info.ProviderSubtype = subtype;
    return ERROR_SUCCESS;
}

/* ---- what changes: asked of the image as it is now ---- */

/* What was written through this handle is brought to the image first. */
static vd_error
look_now(struct vd_virtual_disk *virtual_disk, bool leaf_only,
         struct vd_disk **out)
{
    struct vd_live *live;
    if (vd_virtual_disk_enter(virtual_disk, &live) == ERROR_SUCCESS) {
        const struct vd_scsi_unit *unit = vd_live_unit(live);
        vd_error error = unit->medium->flush(unit->context);
        vd_live_leave(live);
        if (error) {
            return error;
        }
    }
    return vd_look_again(virtual_disk->disk, leaf_only, out);
}

static vd_error
survey(struct vd_virtual_disk *virtual_disk, struct vd_disk_layout *out)
{
    struct vd_disk *now;
    vd_error error = look_now(virtual_disk, true, &now);
    if (error) {
        return error;
    }
    error = vd_disk_survey(now, out);
    vd_disk_close(now);
    return error;
}

static vd_error
get_4k_alignment(struct vd_virtual_disk *virtual_disk, struct answer *out)
{
    struct vd_disk_layout layout;
    vd_error error = survey(virtual_disk, &layout);
    if (!error) {
        out->info.Is4kAligned = layout.aligned_4k;
    }
    return error;
}

/* The part of the blocks that do not follow the one before in the file; of a
 * very large image, of those at its start (vd_disk_survey). */
static vd_error
get_fragmentation(struct vd_virtual_disk *virtual_disk, struct answer *out)
{
    struct vd_disk_layout layout;
    vd_error error = survey(virtual_disk, &layout);
    if (!error && layout.blocks != 0) {
        out->info.FragmentationPercentage =
            (ULONG)(layout.displaced * 100 / layout.blocks);
    }
    return error;
}

static vd_error
get_physical_disk(struct vd_virtual_disk *virtual_disk, struct answer *out)
{
    struct vd_host_disk host;
    vd_error error = vd_disk_host(virtual_disk->disk, &host);
    if (error) {
        return error;
    }
    out->info.PhysicalDisk.LogicalSectorSize = host.sector_size;
    out->info.PhysicalDisk.PhysicalSectorSize = host.physical_sector_size;
    out->info.PhysicalDisk.IsRemote = host.remote;
    return ERROR_SUCCESS;
}

static vd_error
get_physical_sector_size(struct vd_virtual_disk *virtual_disk,
                         struct answer *out)
{
    out->info.VhdPhysicalSectorSize =
        vd_disk_info(virtual_disk->disk)->physical_sector_size;
    return ERROR_SUCCESS;
}

static vd_error
get_smallest_safe_size(struct vd_virtual_disk *virtual_disk,
                       struct answer *out)
{
    struct vd_disk *now;
    uint64_t smallest;
    if (!vd_disk_complete(virtual_disk->disk)) {
        return vd_refuse(ERROR_VHD_COULD_NOT_COMPUTE_MINIMUM_VIRTUAL_SIZE,
                         "opened without its parents");
    }
    vd_error error = look_now(virtual_disk, false, &now);
    if (error) {
        return error;
    }
    error = vd_disk_smallest_safe_size(now, &smallest);
    vd_disk_close(now);
    if (!error) {
        out->info.SmallestSafeVirtualSize = smallest;
    }
    return error;
}

static vd_error
get_loaded(struct vd_virtual_disk *virtual_disk, struct answer *out)
{
    bool attached;
    vd_error error = vd_virtual_disk_locate(virtual_disk, &attached, NULL);
    if (!error) {
        out->info.IsLoaded = attached;
    }
    return error;
}

static vd_error
get_virtual_disk_id(struct vd_virtual_disk *virtual_disk, struct answer *out)
{
    const struct vd_image_info *info = vd_disk_info(virtual_disk->disk);
    if (!info->has_virtual_disk_id) {
        return vd_refuse(ERROR_NOT_SUPPORTED, "not a VHDX image");
    }
    memcpy(&out->info.VirtualDiskId, &info->virtual_disk_id,
           sizeof(out->info.VirtualDiskId));
    return ERROR_SUCCESS;
}

static vd_error
get_change_tracking(struct vd_virtual_disk *virtual_disk, struct answer *out)
{
    (void)virtual_disk;
    (void)out;
    return vd_refuse(ERROR_NOT_SUPPORTED,
                     "the format of change tracking is not published");
}

/* Bytes up to the end of a member of the union. */
#define END_OF(member)                                                        \
    (offsetof(GET_VIRTUAL_DISK_INFO, member) +                                \
     sizeof(((GET_VIRTUAL_DISK_INFO *)0)->member))

#define TEXT_AT(member) offsetof(GET_VIRTUAL_DISK_INFO, member)

static const struct info_class {
    vd_error (*get)(struct vd_virtual_disk *virtual_disk, struct answer *out);
    ULONG size; /* bytes, without a text */
} classes[] = {
    [GET_VIRTUAL_DISK_INFO_SIZE] = {get_size, END_OF(Size)},
    [GET_VIRTUAL_DISK_INFO_IDENTIFIER] = {get_identifier, END_OF(Identifier)},
    [GET_VIRTUAL_DISK_INFO_PARENT_LOCATION] =
        {get_parent_location, TEXT_AT(ParentLocation.ParentLocationBuffer)},
    [GET_VIRTUAL_DISK_INFO_PARENT_IDENTIFIER] = {get_parent_identifier,
                                                 END_OF(ParentIdentifier)},
    [GET_VIRTUAL_DISK_INFO_PARENT_TIMESTAMP] = {get_parent_timestamp,
                                                END_OF(ParentTimestamp)},
    [GET_VIRTUAL_DISK_INFO_VIRTUAL_STORAGE_TYPE] = {get_storage_type,
                                                    END_OF(
                                                        VirtualStorageType)},
    [GET_VIRTUAL_DISK_INFO_PROVIDER_SUBTYPE] = {get_subtype,
                                                END_OF(ProviderSubtype)},
    [GET_VIRTUAL_DISK_INFO_IS_4K_ALIGNED] = {get_4k_alignment,
                                             END_OF(Is4kAligned)},
    [GET_VIRTUAL_DISK_INFO_PHYSICAL_DISK] = {get_physical_disk,
                                             END_OF(PhysicalDisk)},
    [GET_VIRTUAL_DISK_INFO_VHD_PHYSICAL_SECTOR_SIZE] =
        {get_physical_sector_size, END_OF(VhdPhysicalSectorSize)},
    [GET_VIRTUAL_DISK_INFO_SMALLEST_SAFE_VIRTUAL_SIZE] =
        {get_smallest_safe_size, END_OF(SmallestSafeVirtualSize)},
    [GET_VIRTUAL_DISK_INFO_FRAGMENTATION] = {get_fragmentation,
                                             END_OF(FragmentationPercentage)},
    [GET_VIRTUAL_DISK_INFO_IS_LOADED] = {get_loaded, END_OF(IsLoaded)},
    [GET_VIRTUAL_DISK_INFO_VIRTUAL_DISK_ID] = {get_virtual_disk_id,
                                               END_OF(VirtualDiskId)},
    [GET_VIRTUAL_DISK_INFO_CHANGE_TRACKING_STATE] = {get_change_tracking,
                                                     END_OF(
                                                         ChangeTrackingState)},
};

static const struct info_class *
find_class(GET_VIRTUAL_DISK_INFO_VERSION version)
{
    size_t number = version;
    if (number >= sizeof(classes) / sizeof(classes[0]) ||
        classes[number].get == NULL) {
        return NULL;
    }
    return &classes[number];
}

static vd_error
give_answer(const struct answer *answer, const struct info_class *wanted,
            ULONG *size, GET_VIRTUAL_DISK_INFO *buffer, ULONG *size_used)
{
    size_t text = answer->text.count * sizeof(*answer->text.units);
    size_t needed = wanted->size + text;
    if (needed > UINT32_MAX) {
        return vd_refuse(ERROR_NOT_ENOUGH_MEMORY, "more text than fits");
    }
    if (*size < needed) {
        *size = (ULONG)needed;
        return ERROR_INSUFFICIENT_BUFFER;
    }
    memcpy(buffer, &answer->info, wanted->size);
    if (text != 0) {
        memcpy((char *)buffer + wanted->size, answer->text.units, text);
    }
    if (size_used != NULL) {
        *size_used = (ULONG)needed;
    }
    return ERROR_SUCCESS;
}

static vd_error
give_information(struct vd_virtual_disk *virtual_disk,
                 const struct info_class *wanted, ULONG *size,
                 GET_VIRTUAL_DISK_INFO *buffer, ULONG *size_used)
{
    struct answer answer = {.info = {.Version = buffer->Version}};
    if (!virtual_disk->rights.get_info) {
        return vd_refuse(ERROR_ACCESS_DENIED,
                         "the handle was not opened for information");
    }
    pthread_rwlock_rdlock(&virtual_disk->disk_lock);
    vd_error error = wanted->get(virtual_disk, &answer);
    pthread_rwlock_unlock(&virtual_disk->disk_lock);
    if (!error) {
        error = give_answer(&answer, wanted, size, buffer, size_used);
    }
    free(answer.text.units);
    return error;
}

/* A buffer too small for its own Version member cannot say what it is for,
 * so it is asked to be large enough for any class. */
static vd_error
check_buffer(ULONG *size, const GET_VIRTUAL_DISK_INFO *buffer)
{
    if (size == NULL || buffer == NULL) {
        return vd_refuse(ERROR_INVALID_PARAMETER, "a pointer is NULL");
    }
    if (*size < sizeof(buffer->Version)) {
        *size = sizeof(*buffer);
        return ERROR_INSUFFICIENT_BUFFER;
    }
    return ERROR_SUCCESS;
}

DWORD WINAPI
GetVirtualDiskInformation(HANDLE VirtualDiskHandle, PULONG VirtualDiskInfoSize,
                          PGET_VIRTUAL_DISK_INFO VirtualDiskInfo,
                          PULONG SizeUsed)
{
    vd_error error = check_buffer(VirtualDiskInfoSize, VirtualDiskInfo);
    if (error) {
        return error;
    }
    struct vd_virtual_disk *virtual_disk;
    error = vd_virtual_disk_acquire(VirtualDiskHandle, &virtual_disk);
    if (error) {
        return error;
    }
    const struct info_class *wanted = find_class(VirtualDiskInfo->Version);
    if (wanted == NULL) {
        error = vd_refuse(ERROR_INVALID_PARAMETER, "information class %u",
                          (unsigned)VirtualDiskInfo->Version);
    }
    else {
        error = give_information(virtual_disk, wanted, VirtualDiskInfoSize,
                                 VirtualDiskInfo, SizeUsed);
    }
    vd_virtual_disk_release(virtual_disk);
    return error;
}
