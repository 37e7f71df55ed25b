/*
 * GetVirtualDiskInformation (virtdisk.h): one table, class -> function.
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

#include "api/refuse.h"
#include "api/virtual_disk.h"
#include "base/cleanup.h"
#include "disk/partition_table.h"
#include "format/format.h"

#define ALIGNMENT_4K 4096

static vd_error
get_size(struct vd_virtual_disk *virtual_disk, GET_VIRTUAL_DISK_INFO *out)
{
    const struct vd_image_info *info = vd_disk_info(virtual_disk->disk);
    uint64_t file_size;
    vd_error error = vd_disk_file_size(virtual_disk->disk, &file_size);
    if (error) {
        return error;
    }
    out->Size.VirtualSize = info->size_bytes;
    out->Size.PhysicalSize = file_size;
    out->Size.BlockSize = info->block_size;
    out->Size.SectorSize = info->sector_size;
    return ERROR_SUCCESS;
}

static vd_error
get_identifier(struct vd_virtual_disk *virtual_disk,
               GET_VIRTUAL_DISK_INFO *out)
{
    const struct vd_image_info *info = vd_disk_info(virtual_disk->disk);
    if (!info->has_identifier) {
        return vd_refuse(ERROR_NOT_SUPPORTED, "the image has no identifier");
    }
    _Static_assert(sizeof(out->Identifier) == sizeof(info->identifier),
                   "a GUID is 16 bytes in memory order on both sides");
    memcpy(&out->Identifier, &info->identifier, sizeof(out->Identifier));
    return ERROR_SUCCESS;
}

/* No format opens a differencing image yet, so that no disk has a parent. */
static vd_error
get_parent(struct vd_virtual_disk *virtual_disk, GET_VIRTUAL_DISK_INFO *out)
{
    (void)virtual_disk;
    (void)out;
    return vd_refuse(ERROR_VHD_INVALID_TYPE, "not a differencing disk");
}

static vd_error
get_storage_type(struct vd_virtual_disk *virtual_disk,
                 GET_VIRTUAL_DISK_INFO *out)
{
    out->VirtualStorageType = (VIRTUAL_STORAGE_TYPE){
        .DeviceId = vd_disk_format(virtual_disk->disk)->device_id,
        .VendorId = VIRTUAL_STORAGE_TYPE_VENDOR_MICROSOFT,
    };
    return ERROR_SUCCESS;
}

static vd_error
get_subtype(struct vd_virtual_disk *virtual_disk, GET_VIRTUAL_DISK_INFO *out)
{
    enum vd_subtype subtype = vd_disk_info(virtual_disk->disk)->subtype;
    if (subtype == VD_SUBTYPE_NONE) {
        return vd_refuse(ERROR_NOT_SUPPORTED, "the format has no subtypes");
    }
    out->ProviderSubtype = subtype;
    return ERROR_SUCCESS;
}

static vd_error
get_4k_alignment(struct vd_virtual_disk *virtual_disk,
                 GET_VIRTUAL_DISK_INFO *out)
{
    bool contiguous;
    uint64_t offset;
    vd_error error =
        vd_disk_contiguous(virtual_disk->disk, &contiguous, &offset);
    if (!error) {
        out->Is4kAligned = contiguous && offset % ALIGNMENT_4K == 0;
    }
    return error;
}

static vd_error
get_physical_disk(struct vd_virtual_disk *virtual_disk,
                  GET_VIRTUAL_DISK_INFO *out)
{
    struct vd_host_disk host;
    vd_error error = vd_disk_host(virtual_disk->disk, &host);
    if (error) {
        return error;
    }
    out->PhysicalDisk.LogicalSectorSize = host.sector_size;
    out->PhysicalDisk.PhysicalSectorSize = host.physical_sector_size;
    out->PhysicalDisk.IsRemote = host.remote;
    return ERROR_SUCCESS;
}

static vd_error
get_physical_sector_size(struct vd_virtual_disk *virtual_disk,
                         GET_VIRTUAL_DISK_INFO *out)
{
    out->VhdPhysicalSectorSize =
        vd_disk_info(virtual_disk->disk)->physical_sector_size;
    return ERROR_SUCCESS;
}

/* Where the partition table ends; without one nothing is known to be safe.
 * The table in a hybrid ISO image is not the disc's. */
static vd_error
get_smallest_safe_size(struct vd_virtual_disk *virtual_disk,
                       GET_VIRTUAL_DISK_INFO *out)
{
    VD_AUTO_FREE struct vd_partition_table *table = calloc(1, sizeof(*table));
    if (table == NULL) {
        return vd_refuse(ERROR_NOT_ENOUGH_MEMORY,
                         "no memory for a partition table");
    }
    if (!vd_disk_optical(virtual_disk->disk)) {
        vd_error error = vd_partition_table_read(virtual_disk->disk, table);
        if (error) {
            return error;
        }
    }
    if (table->end_bytes == 0) {
        return vd_refuse(ERROR_VHD_COULD_NOT_COMPUTE_MINIMUM_VIRTUAL_SIZE,
                         "no partition table");
    }
    out->SmallestSafeVirtualSize = table->end_bytes;
    return ERROR_SUCCESS;
}

/* How far the blocks of the disk are from being in order in the file. */
static vd_error
get_fragmentation(struct vd_virtual_disk *virtual_disk,
                  GET_VIRTUAL_DISK_INFO *out)
{
    bool contiguous;
    uint64_t offset;
    vd_error error =
        vd_disk_contiguous(virtual_disk->disk, &contiguous, &offset);
    if (error) {
        return error;
    }
    if (!contiguous) {
        return vd_refuse(ERROR_NOT_SUPPORTED, "the image has blocks");
    }
    out->FragmentationPercentage = 0;
    return ERROR_SUCCESS;
}

static vd_error
get_loaded(struct vd_virtual_disk *virtual_disk, GET_VIRTUAL_DISK_INFO *out)
{
    bool attached;
    vd_error error = vd_virtual_disk_locate(virtual_disk, &attached, NULL);
    if (!error) {
        out->IsLoaded = attached;
    }
    return error;
}

/* Of VHDX, which no format reads yet; and change tracking has no published
 * format. */
static vd_error
get_vhdx_only(struct vd_virtual_disk *virtual_disk, GET_VIRTUAL_DISK_INFO *out)
{
    (void)virtual_disk;
    (void)out;
    return vd_refuse(ERROR_NOT_SUPPORTED, "not a VHDX image");
}

/* Bytes up to the end of a member of the union. */
#define END_OF(member)                                                        \
    (offsetof(GET_VIRTUAL_DISK_INFO, member) +                                \
     sizeof(((GET_VIRTUAL_DISK_INFO *)0)->member))

static const struct info_class {
    vd_error (*get)(struct vd_virtual_disk *virtual_disk,
                    GET_VIRTUAL_DISK_INFO *out);
    ULONG size;
} classes[] = {
    [GET_VIRTUAL_DISK_INFO_SIZE] = {get_size, END_OF(Size)},
    [GET_VIRTUAL_DISK_INFO_IDENTIFIER] = {get_identifier, END_OF(Identifier)},
    [GET_VIRTUAL_DISK_INFO_PARENT_LOCATION] = {get_parent,
                                               END_OF(ParentLocation)},
    [GET_VIRTUAL_DISK_INFO_PARENT_IDENTIFIER] = {get_parent,
                                                 END_OF(ParentIdentifier)},
    [GET_VIRTUAL_DISK_INFO_PARENT_TIMESTAMP] = {get_parent,
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
    [GET_VIRTUAL_DISK_INFO_VIRTUAL_DISK_ID] = {get_vhdx_only,
                                               END_OF(VirtualDiskId)},
    [GET_VIRTUAL_DISK_INFO_CHANGE_TRACKING_STATE] = {get_vhdx_only,
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
give_information(struct vd_virtual_disk *virtual_disk,
                 const struct info_class *wanted, ULONG *size,
                 GET_VIRTUAL_DISK_INFO *buffer, ULONG *size_used)
{
    GET_VIRTUAL_DISK_INFO info = {.Version = buffer->Version};
    if (!virtual_disk->rights.get_info) {
        return vd_refuse(ERROR_ACCESS_DENIED,
                         "the handle was not opened for information");
    }
    vd_error error = wanted->get(virtual_disk, &info);
    if (error) {
        return error;
    }
    if (*size < wanted->size) {
        *size = wanted->size;
        return ERROR_INSUFFICIENT_BUFFER;
    }
    memcpy(buffer, &info, wanted->size);
    if (size_used != NULL) {
        *size_used = wanted->size;
    }
    return ERROR_SUCCESS;
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
