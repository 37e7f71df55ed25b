/*
 * Making a new VHDX image, laid out as Windows does it: log at 1 MiB,
 * metadata at 2 MiB, BAT at 3 MiB, payload after the BAT.
 */
#include "format/vhdx_create.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/crc32c.h"
#include "base/trace.h"
#include "format/vhdx.h"

#define LOG_OFFSET VHDX_MIB
#define LOG_LENGTH VHDX_MIB
#define METADATA_OFFSET (2 * VHDX_MIB)
#define METADATA_LENGTH VHDX_MIB
#define BAT_OFFSET (3 * VHDX_MIB)

#define METADATA_TABLE_SIZE (64 * VHDX_KIB)
#define CREATOR_UNITS 256

/* FORMATS 2.9; Windows makes fixed images of either size of block, and the
 * smaller one wastes less at the end. */
#define DEFAULT_DYNAMIC_BLOCK (32 * VHDX_MIB)
#define DEFAULT_OTHER_BLOCK (2 * VHDX_MIB)
#define MINIMUM_SIZE (3 * VHDX_MIB) /* of the Windows API */

struct layout {
    struct vhdx_geometry geometry;
    uint64_t bat_length;
    uint64_t payload_offset;
    uint64_t file_size;
};

static vd_error
refuse(const char *reason)
{
    vd_trace(VD_TRACE_FORMAT, "VHDX: cannot create: %s", reason);
    return ERROR_INVALID_PARAMETER;
}

static bool
is_sector_size(uint32_t size)
{
    return size == 512 || size == 4096;
}

static vd_error
check(const struct vhdx_create_request *request)
{
    if (!vd_is_power_of_two(request->block_size) ||
        request->block_size < VHDX_MIB ||
        request->block_size > 256 * VHDX_MIB) {
        return refuse("the block size");
    }
    if (!is_sector_size(request->logical_sector_size) ||
        !is_sector_size(request->physical_sector_size) ||
        request->physical_sector_size < request->logical_sector_size) {
        return refuse("a sector size");
    }
    if (request->size_bytes == 0 || request->size_bytes > VHDX_MAX_SIZE ||
        request->size_bytes % request->logical_sector_size != 0) {
        return refuse("the size");
    }
    if (request->has_parent &&
        (request->fixed ||
         (request->relative_path == NULL && request->absolute_path == NULL))) {
        return refuse("a parent for a fixed disk, or without path");
    }
    return ERROR_SUCCESS;
}

static void
plan(const struct vhdx_create_request *request, struct layout *layout)
{
    struct vhdx_metadata metadata = {
        .block_size = request->block_size,
        .size_bytes = request->size_bytes,
        .logical_sector_size = request->logical_sector_size,
        .has_parent = request->has_parent,
    };
    vd_vhdx_geometry_of(&metadata, &layout->geometry);
    /* At most 513 MiB and 64 TiB: far from overflow. */
    layout->bat_length = (layout->geometry.bat_entries * 8 + VHDX_MIB - 1) /
                         VHDX_MIB * VHDX_MIB;
    layout->payload_offset = BAT_OFFSET + layout->bat_length;
    layout->file_size = layout->payload_offset;
    if (request->fixed) {
        layout->file_size +=
            layout->geometry.payload_blocks * request->block_size;
    }
}

/* ---- headers and region tables ---- */

static vd_error
write_headers(struct vd_file *file, const struct vhdx_create_request *request)
{
    struct vhdx_header header = {
        .file_write_guid = request->file_write_guid,
        .data_write_guid = request->data_write_guid,
        .version = 1,
        .log_length = LOG_LENGTH,
        .log_offset = LOG_OFFSET,
    };
    vd_error error = ERROR_SUCCESS;
    for (unsigned slot = 0; slot < 2 && error == ERROR_SUCCESS; slot++) {
        uint8_t buffer[VHDX_HEADER_SIZE];
        header.sequence = slot;
        vd_vhdx_header_encode(&header, buffer);
        error = vd_file_pwrite(file, buffer, sizeof(buffer),
                               VHDX_HEADER_OFFSET(slot));
    }
    return error;
}

static void
put_region(uint8_t *entry, const uint8_t guid[VD_GUID_SIZE], uint64_t offset,
           uint64_t length)
{
    memcpy(entry, guid, VD_GUID_SIZE);
    vd_put_le64(entry + 16, offset);
    vd_put_le32(entry + 24, (uint32_t)length);
    vd_put_le32(entry + 28, 1); /* Required */
}

static vd_error
write_region_tables(struct vd_file *file, const struct layout *layout)
{
    VD_AUTO_FREE uint8_t *table = calloc(1, VHDX_REGION_TABLE_SIZE);
    if (table == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    memcpy(table, "regi", 4);
    vd_put_le32(table + 8, 2);
    put_region(table + 16, vd_vhdx_bat_region_guid.bytes, BAT_OFFSET,
               layout->bat_length);
    put_region(table + 48, vd_vhdx_metadata_region_guid.bytes, METADATA_OFFSET,
               METADATA_LENGTH);
    vd_put_le32(table + 4, vd_crc32c(table, VHDX_REGION_TABLE_SIZE));
    vd_error error = ERROR_SUCCESS;
    for (unsigned copy = 0; copy < 2 && error == ERROR_SUCCESS; copy++) {
        error = vd_file_pwrite(file, table, VHDX_REGION_TABLE_SIZE,
                               VHDX_REGION_TABLE_OFFSET(copy));
    }
    return error;
}

/* ---- metadata ---- */

struct item {
    enum vhdx_item id;
    uint32_t flags; /* IsVirtualDisk 2, IsRequired 4 */
    uint32_t length;
    const uint8_t *bytes;
};

static void
put_item(uint8_t *region, unsigned index, uint32_t offset,
         const struct item *item)
{
    uint8_t *entry = region + 32 + index * 32;
    memcpy(entry, vd_vhdx_item_guid(item->id)->bytes, VD_GUID_SIZE);
    vd_put_le32(entry + 16, offset);
    vd_put_le32(entry + 20, item->length);
    vd_put_le32(entry + 24, item->flags);
    memcpy(region + offset, item->bytes, item->length);
}

static vd_error
write_items(struct vd_file *file, const struct item *items, unsigned count)
{
    size_t size = METADATA_TABLE_SIZE + VHDX_LOCATOR_MAX + VHDX_PAGE_SIZE;
    VD_AUTO_FREE uint8_t *region = calloc(1, size);
    if (region == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    uint32_t offset = METADATA_TABLE_SIZE;
    memcpy(region, "metadata", 8);
    vd_put_le16(region + 10, (uint16_t)count);
    for (unsigned i = 0; i < count; i++) {
        put_item(region, i, offset, &items[i]);
        offset += items[i].length;
    }
    return vd_file_pwrite(file, region, size, METADATA_OFFSET);
}

static vd_error
write_metadata(struct vd_file *file, const struct vhdx_create_request *request)
{
    uint8_t parameters[8], size[8], logical[4], physical[4];
    VD_AUTO_FREE uint8_t *locator = calloc(1, VHDX_LOCATOR_MAX);
    if (locator == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    vd_put_le32(parameters, request->block_size);
    vd_put_le32(parameters + 4,
                (request->fixed ? 1u : 0) | (request->has_parent ? 2u : 0));
    vd_put_le64(size, request->size_bytes);
    vd_put_le32(logical, request->logical_sector_size);
    vd_put_le32(physical, request->physical_sector_size);
    struct item items[] = {
        {VHDX_ITEM_FILE_PARAMETERS, 4, 8, parameters},
        {VHDX_ITEM_VIRTUAL_DISK_SIZE, 6, 8, size},
        {VHDX_ITEM_LOGICAL_SECTOR_SIZE, 6, 4, logical},
        {VHDX_ITEM_PHYSICAL_SECTOR_SIZE, 6, 4, physical},
        {VHDX_ITEM_VIRTUAL_DISK_ID, 6, 16, request->virtual_disk_id.bytes},
        {VHDX_ITEM_PARENT_LOCATOR, 4, 0, locator},
    };
    if (request->has_parent) {
        struct vhdx_locator_change parent = {
            .linkage = &request->parent_linkage,
            .relative_path = request->relative_path,
            .absolute_path = request->absolute_path,
        };
        size_t length = 0;
        vd_error error =
            vd_vhdx_locator_edit(NULL, 0, &parent, locator, &length);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        items[5].length = (uint32_t)length;
    }
    return write_items(file, items, request->has_parent ? 6 : 5);
}

/* ---- BAT and payload space ---- */

/* Fixed: every block present, one after the other. */
static vd_error
write_bat(struct vd_file *file, const struct layout *layout)
{
    const struct vhdx_geometry *geometry = &layout->geometry;
    uint8_t page[VHDX_PAGE_SIZE];
    uint64_t block = 0, index = 0;
    for (uint64_t at = 0; at < layout->bat_length; at += sizeof(page)) {
        memset(page, 0, sizeof(page));
        for (unsigned i = 0; i < VHDX_PAGE_WORDS; i++, index++) {
            bool bitmap =
                index % (geometry->chunk_ratio + 1) == geometry->chunk_ratio;
            if (bitmap || block == geometry->payload_blocks) {
                continue;
            }
            uint64_t offset =
                layout->payload_offset + block * geometry->block_size;
            vd_put_le64(page + i * 8, offset | VHDX_FULLY_PRESENT);
            block++;
        }
        vd_error error =
            vd_file_pwrite(file, page, sizeof(page), BAT_OFFSET + at);
        if (error != ERROR_SUCCESS) {
            return error;
        }
    }
    return ERROR_SUCCESS;
}

/* The file's length; where its host can, the payload's space as well. */
static vd_error
make_space(struct vd_file *file, const struct vhdx_create_request *request,
           const struct layout *layout)
{
    if (request->fixed && request->allocate) {
        vd_error error =
            vd_file_allocate(file, layout->payload_offset,
                             layout->file_size - layout->payload_offset);
        if (error != ERROR_NOT_SUPPORTED) {
            return error;
        }
    }
    return vd_file_truncate(file, layout->file_size);
}

static vd_error
write_identifier(struct vd_file *file,
                 const struct vhdx_create_request *request)
{
    uint8_t identifier[8 + CREATOR_UNITS * 2] = "vhdxfile";
    for (size_t i = 0; request->creator != NULL && i < CREATOR_UNITS - 1 &&
                       request->creator[i] != 0;
         i++) {
        vd_put_le16(identifier + 8 + i * 2, request->creator[i]);
    }
    return vd_file_pwrite(file, identifier, sizeof(identifier), 0);
}

vd_error
vd_vhdx_create(struct vd_file *file, const struct vhdx_create_request *request)
{
    struct layout layout;
    vd_error error = check(request);
    if (error == ERROR_SUCCESS) {
        plan(request, &layout);
        error = make_space(file, request, &layout);
    }
    if (error == ERROR_SUCCESS) {
        error = write_headers(file, request);
    }
    if (error == ERROR_SUCCESS) {
        error = write_region_tables(file, &layout);
    }
    if (error == ERROR_SUCCESS) {
        error = write_metadata(file, request);
    }
    if (error == ERROR_SUCCESS && request->fixed) {
        error = write_bat(file, &layout);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_file_flush(file);
    }
    if (error == ERROR_SUCCESS) {
        error = write_identifier(file, request);
    }
    return error != ERROR_SUCCESS ? error : vd_file_flush(file);
}

/* ---- as any other format ---- */

static vd_error
default_parent(struct vd_create_request *request)
{
    const struct vd_image *parent = request->parent;
    if ((parent != NULL) != (request->subtype == VD_SUBTYPE_DIFFERENCING)) {
        return refuse("a child without a parent, or the reverse");
    }
    if (parent == NULL) {
        return ERROR_SUCCESS;
    }
    vd_error error = vd_vhdx_check_parent(parent);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (request->size_bytes == 0) {
        request->size_bytes = parent->info.size_bytes;
    }
    if (request->sector_size == 0) {
        request->sector_size = parent->info.sector_size;
    }
    if (request->physical_sector_size == 0) {
        request->physical_sector_size = parent->info.physical_sector_size;
    }
    if (vd_guid_is_zero(&request->identifier)) {
        request->identifier = parent->info.virtual_disk_id;
    }
    return request->sector_size == parent->info.sector_size
               ? ERROR_SUCCESS
               : refuse("the sector size is not the parent's");
}

static void
default_sizes(struct vd_create_request *request)
{
    if (request->block_size == 0) {
        request->block_size = request->subtype == VD_SUBTYPE_DYNAMIC
                                  ? DEFAULT_DYNAMIC_BLOCK
                                  : DEFAULT_OTHER_BLOCK;
    }
    if (request->sector_size == 0) {
        request->sector_size = 512;
    }
    if (request->physical_sector_size == 0) {
        request->physical_sector_size = 4096;
    }
}

static struct vhdx_create_request
in_our_terms(const struct vd_create_request *request)
{
    struct vhdx_create_request ours = {
        .size_bytes = request->size_bytes,
        .block_size = request->block_size,
        .logical_sector_size = request->sector_size,
        .physical_sector_size = request->physical_sector_size,
        .fixed = request->subtype == VD_SUBTYPE_FIXED,
        .allocate = true,
        .virtual_disk_id = request->identifier,
        .file_write_guid = request->session.file_write_guid,
        .data_write_guid = request->session.data_write_guid,
        .creator = u"virtdisk",
        .has_parent = request->parent != NULL,
        .relative_path = request->parent_relative_path,
        .absolute_path = request->parent_absolute_path,
    };
    if (request->parent != NULL) {
        ours.parent_linkage = vd_vhdx_data_write_guid(request->parent);
    }
    return ours;
}

vd_error
vd_vhdx_create_defaults(struct vd_create_request *request)
{
    if (request->subtype != VD_SUBTYPE_FIXED &&
        request->subtype != VD_SUBTYPE_DYNAMIC &&
        request->subtype != VD_SUBTYPE_DIFFERENCING) {
        return refuse("the type");
    }
    vd_error error = default_parent(request);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    default_sizes(request);
    if (request->size_bytes > VHDX_MAX_SIZE) {
        vd_trace(VD_TRACE_FORMAT, "VHDX: more than 64 TiB");
        return ERROR_VHD_INVALID_SIZE;
    }
    /* A parent that somebody else has made may be smaller. */
    bool as_parent = request->parent != NULL &&
                     request->size_bytes == request->parent->info.size_bytes;
    if (request->size_bytes < MINIMUM_SIZE && !as_parent) {
        return refuse("less than 3 MiB");
    }
    struct vhdx_create_request ours = in_our_terms(request);
    return check(&ours);
}

vd_error
vd_vhdx_create_image(struct vd_file *file,
                     const struct vd_create_request *request)
{
    struct vhdx_create_request ours = in_our_terms(request);
    return vd_vhdx_create(file, &ours);
}
