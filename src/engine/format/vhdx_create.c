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
#define LOCATOR_MAX (64 * VHDX_KIB)
#define CREATOR_UNITS 256

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
        (request->fixed || request->relative_path == NULL)) {
        return refuse("a parent for a fixed disk, or without path");
    }
    return ERROR_SUCCESS;
}

static vd_error
plan(const struct vhdx_create_request *request, struct layout *layout)
{
    struct vhdx_metadata metadata = {
        .block_size = request->block_size,
        .size_bytes = request->size_bytes,
        .logical_sector_size = request->logical_sector_size,
        .has_parent = request->has_parent,
    };
    vd_error error = vd_vhdx_geometry_of(&metadata, &layout->geometry);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    /* At most 513 MiB and 64 TiB: far from overflow. */
    layout->bat_length = (layout->geometry.bat_entries * 8 + VHDX_MIB - 1) /
                         VHDX_MIB * VHDX_MIB;
    layout->payload_offset = BAT_OFFSET + layout->bat_length;
    layout->file_size = layout->payload_offset;
    if (request->fixed) {
        layout->file_size +=
            layout->geometry.payload_blocks * request->block_size;
    }
    return ERROR_SUCCESS;
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

/* ---- the parent locator ---- */

struct builder {
    uint8_t *item;
    size_t entries; /* written so far */
    size_t end;     /* of the strings so far */
};

static size_t
units_of(const char16_t *text)
{
    size_t units = 0;
    while (text[units] != 0) {
        units++;
    }
    return units;
}

static bool
put_string(struct builder *builder, const char16_t *text, size_t units,
           uint8_t *offset_field, uint8_t *length_field)
{
    if (builder->end + units * 2 > LOCATOR_MAX || units * 2 > UINT16_MAX) {
        return false;
    }
    vd_put_le32(offset_field, (uint32_t)builder->end);
    vd_put_le16(length_field, (uint16_t)(units * 2));
    for (size_t i = 0; i < units; i++) {
        vd_put_le16(builder->item + builder->end + i * 2, text[i]);
    }
    builder->end += units * 2;
    return true;
}

static bool
put_pair(struct builder *builder, const char16_t *key, const char16_t *value)
{
    uint8_t *entry = builder->item + 20 + builder->entries * 12;
    builder->entries++;
    return put_string(builder, key, units_of(key), entry, entry + 8) &&
           put_string(builder, value, units_of(value), entry + 4, entry + 10);
}

/* "{8-4-4-4-12}" in lower case. */
static void
format_guid(const struct vd_guid *guid, char16_t text[39])
{
    static const uint8_t order[VD_GUID_SIZE] = {3, 2, 1,  0,  5,  4,  7,  6,
                                                8, 9, 10, 11, 12, 13, 14, 15};
    static const char digits[] = "0123456789abcdef";
    size_t at = 0;
    text[at++] = u'{';
    for (size_t i = 0; i < VD_GUID_SIZE; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) {
            text[at++] = u'-';
        }
        text[at++] = (char16_t)digits[guid->bytes[order[i]] >> 4];
        text[at++] = (char16_t)digits[guid->bytes[order[i]] & 15];
    }
    text[at++] = u'}';
    text[at] = 0;
}

static vd_error
build_locator(const struct vhdx_create_request *request, uint8_t *item,
              size_t *length_out)
{
    char16_t linkage[39];
    size_t pairs = request->absolute_path != NULL ? 3 : 2;
    struct builder builder = {.item = item, .end = 20 + pairs * 12};
    format_guid(&request->parent_linkage, linkage);
    memcpy(item, vd_vhdx_locator_type.bytes, VD_GUID_SIZE);
    vd_put_le16(item + 18, (uint16_t)pairs);
    bool fits = put_pair(&builder, u"parent_linkage", linkage) &&
                put_pair(&builder, u"relative_path", request->relative_path);
    if (fits && request->absolute_path != NULL) {
        fits =
            put_pair(&builder, u"absolute_win32_path", request->absolute_path);
    }
    if (!fits) {
        return refuse("the parent's path is too long");
    }
    *length_out = builder.end;
    return ERROR_SUCCESS;
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
    size_t size = METADATA_TABLE_SIZE + LOCATOR_MAX + VHDX_PAGE_SIZE;
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
    VD_AUTO_FREE uint8_t *locator = calloc(1, LOCATOR_MAX);
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
        size_t length = 0;
        vd_error error = build_locator(request, locator, &length);
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
        error = plan(request, &layout);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_file_truncate(file, layout.file_size);
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
