/*
 * A new VHD as any format is asked for one: what it is if nobody says, as
 * Windows has it, and what it cannot be.  Writing it is vhd_create.c's.
 */
#include <string.h>

#include "base/trace.h"
#include "format/vhd_create.h"

#define MINIMUM_SIZE (3u * 1024 * 1024) /* of the Windows API */

/* As Windows 10: software that does not know a creator takes the disk for as
 * large as its geometry. */
#define CREATOR {'w', 'i', 'n', ' '}
#define CREATOR_VERSION 0x000A0000u

static vd_error
refuse(vd_error error, const char *reason)
{
    vd_trace(VD_TRACE_FORMAT, "VHD: cannot create: %s", reason);
    return error;
}

/* ---- the parent ---- */

static bool
is_block_size(uint32_t block_size)
{
    return block_size == VHD_LARGE_BLOCK_SIZE ||
           block_size == VHD_SMALL_BLOCK_SIZE;
}

/* A child is as large as its parent, to the byte. */
static vd_error
take_from_parent(struct vd_create_request *request)
{
    const struct vd_image *parent = request->parent;
    if (parent->format->device_id != VD_DEVICE_VHD) {
        return refuse(ERROR_VHD_INVALID_TYPE, "the parent is no VHD");
    }
    if (request->size_bytes == 0) {
        request->size_bytes = parent->info.size_bytes;
    }
    if (request->size_bytes != parent->info.size_bytes) {
        return refuse(ERROR_INVALID_PARAMETER, "not as large as the parent");
    }
    if (request->block_size == 0 && is_block_size(parent->info.block_size)) {
        request->block_size = parent->info.block_size;
    }
    return ERROR_SUCCESS;
}

/* ---- sizes ---- */

static vd_error
check_size(const struct vd_create_request *request)
{
    bool fixed = request->subtype == VD_SUBTYPE_FIXED;
    uint64_t most = fixed ? INT64_MAX - VHD_FOOTER_SIZE : VHD_MAX_DYNAMIC_SIZE;
    if (request->size_bytes > most) {
        return refuse(ERROR_VHD_INVALID_SIZE, "too large");
    }
    if (request->parent == NULL && request->size_bytes < MINIMUM_SIZE) {
        return refuse(ERROR_INVALID_PARAMETER, "less than 3 MiB");
    }
    return request->size_bytes % VHD_SECTOR_SIZE == 0
               ? ERROR_SUCCESS
               : refuse(ERROR_INVALID_PARAMETER, "no whole sectors");
}

static vd_error
default_block_size(struct vd_create_request *request)
{
    bool fixed = request->subtype == VD_SUBTYPE_FIXED;
    if (request->block_size == 0 && !fixed) {
        request->block_size = VHD_LARGE_BLOCK_SIZE;
    }
    return (fixed ? request->block_size == 0
                  : is_block_size(request->block_size))
               ? ERROR_SUCCESS
               : refuse(ERROR_VHD_INVALID_BLOCK_SIZE, "the block size");
}

static vd_error
default_sector_size(uint32_t *sector_size)
{
    if (*sector_size == 0) {
        *sector_size = VHD_SECTOR_SIZE;
    }
    return *sector_size == VHD_SECTOR_SIZE
               ? ERROR_SUCCESS
               : refuse(ERROR_INVALID_PARAMETER, "the sector size");
}

/* ---- all of it ---- */

static vd_error
check_kind(const struct vd_create_request *request)
{
    if (request->subtype != VD_SUBTYPE_FIXED &&
        request->subtype != VD_SUBTYPE_DYNAMIC &&
        request->subtype != VD_SUBTYPE_DIFFERENCING) {
        return refuse(ERROR_INVALID_PARAMETER, "the type");
    }
    if ((request->parent != NULL) !=
        (request->subtype == VD_SUBTYPE_DIFFERENCING)) {
        return refuse(ERROR_INVALID_PARAMETER,
                      "a child without a parent, or the reverse");
    }
    return vd_guid_is_zero(&request->identifier)
               ? refuse(ERROR_INVALID_PARAMETER, "no unique id")
               : ERROR_SUCCESS;
}

static struct vd_vhd_create_request
in_our_terms(const struct vd_create_request *request)
{
    struct vd_vhd_create_request ours = {
        .type = (enum vd_vhd_disk_type)request->subtype, /* the same */
        .size_bytes = request->size_bytes,
        .block_size = request->block_size,
        .unique_id = request->identifier,
        .time_stamp = request->time_stamp,
        .creator_application = CREATOR,
        .creator_version = CREATOR_VERSION,
        .allocate = true,
        .parent_time_stamp = request->parent_timestamp,
        .relative_path = request->parent_relative_path,
        .absolute_path = request->parent_absolute_path,
    };
    if (request->parent != NULL) {
        vd_vhd_create_child_of(request->parent, &ours);
    }
    return ours;
}

vd_error
vd_vhd_create_defaults(struct vd_create_request *request)
{
    vd_error error = check_kind(request);
    if (error == ERROR_SUCCESS && request->parent != NULL) {
        error = take_from_parent(request);
    }
    if (error == ERROR_SUCCESS) {
        error = check_size(request);
    }
    if (error == ERROR_SUCCESS) {
        error = default_block_size(request);
    }
    if (error == ERROR_SUCCESS) {
        error = default_sector_size(&request->sector_size);
    }
    if (error == ERROR_SUCCESS) {
        error = default_sector_size(&request->physical_sector_size);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    struct vd_vhd_create_request ours = in_our_terms(request);
    return vd_vhd_create_check(&ours);
}

vd_error
vd_vhd_create_image(struct vd_file *file,
                    const struct vd_create_request *request)
{
    struct vd_vhd_create_request ours = in_our_terms(request);
    return vd_vhd_create(file, &ours);
}
