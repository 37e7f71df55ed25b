/*
 * The region table ([MS-VHDX] 2.2.3): where the BAT and the metadata are, and
 * that nothing overlaps.  Unknown regions that are not required are left
 * alone, but their space counts as used.
 */
#include "format/vhdx.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/crc32c.h"
#include "base/trace.h"

enum {
    TABLE_SIGNATURE = 0,
    TABLE_CHECKSUM = 4,
    TABLE_ENTRY_COUNT = 8,
    TABLE_ENTRIES = 16,
    ENTRY_GUID = 0,
    ENTRY_OFFSET = 16,
    ENTRY_LENGTH = 24,
    ENTRY_FLAGS = 28,
    ENTRY_SIZE = 32,
};

#define ENTRY_REQUIRED 1u

const struct vd_guid vd_vhdx_bat_region_guid = {
    {0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42, 0x9d, 0x64, 0x11, 0x5e,
     0x9b, 0xfd, 0x4a, 0x08}};
const struct vd_guid vd_vhdx_metadata_region_guid = {
    {0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b, 0xb8, 0xfe, 0x57, 0x5f,
     0x05, 0x0f, 0x88, 0x6e}};

static vd_error
corrupt(const char *reason)
{
    vd_trace(VD_TRACE_FORMAT, "VHDX: region table: %s", reason);
    return ERROR_VHD_SPARSE_HEADER_CORRUPT;
}

static bool
is_table(const uint8_t *table)
{
    return memcmp(table + TABLE_SIGNATURE, "regi", 4) == 0 &&
           vd_crc32c_skipping(table, VHDX_REGION_TABLE_SIZE, TABLE_CHECKSUM) ==
               vd_get_le32(table + TABLE_CHECKSUM);
}

/* The first good copy. */
static vd_error
read_table(struct vhdx_image *vhdx, uint8_t *table)
{
    for (unsigned copy = 0; copy < 2; copy++) {
        vd_error error =
            vd_vhdx_read_metadata(vhdx, table, VHDX_REGION_TABLE_SIZE,
                                  VHDX_REGION_TABLE_OFFSET(copy));
        if (error != ERROR_SUCCESS) {
            return error;
        }
        if (is_table(table)) {
            return ERROR_SUCCESS;
        }
        vd_trace(VD_TRACE_FORMAT, "VHDX: region table %u is damaged",
                 copy + 1);
    }
    return ERROR_VHD_SPARSE_HEADER_CHECKSUM_MISMATCH;
}

static bool
overlap(const struct vhdx_region *a, const struct vhdx_region *b)
{
    return a->offset < b->offset + b->length &&
           b->offset < a->offset + a->length;
}

/* Adds a region; refuses what is misplaced or meets another one. */
static vd_error
add_region(struct vhdx_regions *regions, struct vhdx_region region)
{
    uint64_t end;
    if (region.offset < VHDX_FIRST_REGION || region.offset % VHDX_MIB != 0 ||
        region.length == 0 || region.length % VHDX_MIB != 0 ||
        !vd_add_u64(region.offset, region.length, &end) || end > INT64_MAX) {
        return corrupt("a region is misplaced");
    }
    for (size_t i = 0; i < regions->count; i++) {
        if (overlap(&regions->all[i], &region)) {
            return corrupt("regions overlap");
        }
    }
    regions->all[regions->count++] = region;
    return ERROR_SUCCESS;
}

/* One table entry: known, ignored, or required and unknown. */
static vd_error
take_entry(struct vhdx_regions *regions, const uint8_t *entry)
{
    struct vhdx_region region = {
        .offset = vd_get_le64(entry + ENTRY_OFFSET),
        .length = vd_get_le32(entry + ENTRY_LENGTH),
    };
    struct vhdx_region *known = NULL;
    if (memcmp(entry + ENTRY_GUID, &vd_vhdx_bat_region_guid, VD_GUID_SIZE) ==
        0) {
        known = &regions->bat;
    }
    else if (memcmp(entry + ENTRY_GUID, &vd_vhdx_metadata_region_guid,
                    VD_GUID_SIZE) == 0) {
        known = &regions->metadata;
    }
    else if (vd_get_le32(entry + ENTRY_FLAGS) & ENTRY_REQUIRED) {
        vd_trace(VD_TRACE_FORMAT, "VHDX: unknown required region");
        return ERROR_VHD_SPARSE_HEADER_UNSUPPORTED_VERSION;
    }
    vd_error error = add_region(regions, region);
    if (error != ERROR_SUCCESS || known == NULL) {
        return error;
    }
    if (known->length != 0) {
        return corrupt("a region stands twice");
    }
    *known = region;
    return ERROR_SUCCESS;
}

/* A GUID may stand once; quadratic, but only over the table's own limit. */
static bool
has_duplicates(const uint8_t *entries, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t j = 0; j < i; j++) {
            if (memcmp(entries + i * ENTRY_SIZE, entries + j * ENTRY_SIZE,
                       VD_GUID_SIZE) == 0) {
                return true;
            }
        }
    }
    return false;
}

static vd_error
take_log(struct vhdx_image *vhdx)
{
    if (vhdx->header.log_length == 0) {
        return ERROR_SUCCESS;
    }
    struct vhdx_region log = {.offset = vhdx->header.log_offset,
                              .length = vhdx->header.log_length};
    return add_region(&vhdx->regions, log);
}

static vd_error
decode(struct vhdx_image *vhdx, const uint8_t *table)
{
    uint32_t count = vd_get_le32(table + TABLE_ENTRY_COUNT);
    if (count > VHDX_REGIONS_MAX ||
        has_duplicates(table + TABLE_ENTRIES, count)) {
        return corrupt("too many or doubled entries");
    }
    struct vhdx_regions *regions = &vhdx->regions;
    regions->all = calloc((size_t)count + 1, sizeof(*regions->all));
    if (regions->all == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    vd_error error = take_log(vhdx);
    for (uint32_t i = 0; i < count && error == ERROR_SUCCESS; i++) {
        error = take_entry(regions,
                           table + TABLE_ENTRIES + (size_t)i * ENTRY_SIZE);
    }
    if (error == ERROR_SUCCESS &&
        (regions->bat.length == 0 || regions->metadata.length == 0)) {
        error = corrupt("no BAT or no metadata region");
    }
    return error;
}

vd_error
vd_vhdx_regions_read(struct vhdx_image *vhdx)
{
    VD_AUTO_FREE uint8_t *table = malloc(VHDX_REGION_TABLE_SIZE);
    if (table == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    vd_error error = read_table(vhdx, table);
    return error != ERROR_SUCCESS ? error : decode(vhdx, table);
}
