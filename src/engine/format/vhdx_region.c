/*
 * The region table ([MS-VHDX] 2.2.3): where the BAT and the metadata are, and
 * that nothing overlaps.  Unknown regions that are not required are left
 * alone, but their space counts as used.  Both copies of the table are
 * changed in one log entry.
 */
#include "format/vhdx_write.h"

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

/* Both copies, one after the other; *good_out is the first good one. */
static vd_error
read_tables(struct vhdx_image *vhdx, uint8_t *tables, uint8_t **good_out)
{
    uint8_t *good = NULL;
    for (unsigned copy = 2; copy-- > 0;) {
        uint8_t *table = tables + copy * VHDX_REGION_TABLE_SIZE;
        vd_error error =
            vd_vhdx_read_metadata(vhdx, table, VHDX_REGION_TABLE_SIZE,
                                  VHDX_REGION_TABLE_OFFSET(copy));
        if (error != ERROR_SUCCESS) {
            return error;
        }
        if (is_table(table)) {
            good = table;
        }
        else {
            vd_trace(VD_TRACE_FORMAT, "VHDX: region table %u is damaged",
                     copy + 1);
        }
    }
    *good_out = good;
    return good != NULL ? ERROR_SUCCESS
                        : ERROR_VHD_SPARSE_HEADER_CHECKSUM_MISMATCH;
}

static bool
overlap(const struct vhdx_region *a, const struct vhdx_region *b)
{
    return a->offset < b->offset + b->length &&
           b->offset < a->offset + a->length;
}

/* Adds a region; refuses what is misplaced or meets another one. */
static vd_error
add_region(struct vhdx_region_set *set, struct vhdx_region region)
{
    uint64_t end;
    if (region.offset < VHDX_FIRST_REGION || region.offset % VHDX_MIB != 0 ||
        region.length == 0 || region.length % VHDX_MIB != 0 ||
        !vd_add_u64(region.offset, region.length, &end) || end > INT64_MAX) {
        return corrupt("a region is misplaced");
    }
    for (size_t i = 0; i < set->count; i++) {
        if (overlap(&set->all[i], &region)) {
            return corrupt("regions overlap");
        }
    }
    set->all[set->count++] = region;
    return ERROR_SUCCESS;
}

/* One table entry: known, ignored, or required and unknown. */
static vd_error
take_entry(struct vhdx_regions *regions, struct vhdx_region_set *set,
           const uint8_t *entry)
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
    vd_error error = add_region(set, region);
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
take_log(struct vhdx_image *vhdx, struct vhdx_region_set *set)
{
    if (vhdx->header.log_length == 0) {
        return ERROR_SUCCESS;
    }
    struct vhdx_region log = {.offset = vhdx->header.log_offset,
                              .length = vhdx->header.log_length};
    return add_region(set, log);
}

static struct vhdx_region_set *
new_set(size_t regions)
{
    return calloc(1, sizeof(struct vhdx_region_set) +
                         regions * sizeof(struct vhdx_region));
}

void
vd_vhdx_regions_free(struct vhdx_regions *regions)
{
    struct vhdx_region_set *set = atomic_load(&regions->set);
    while (set != NULL) {
        struct vhdx_region_set *former = set->former;
        free(set);
        set = former;
    }
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
    struct vhdx_region_set *set = new_set((size_t)count + 1);
    if (set == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    atomic_store(&regions->set, set);
    vd_error error = take_log(vhdx, set);
    for (uint32_t i = 0; i < count && error == ERROR_SUCCESS; i++) {
        error = take_entry(regions, set,
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
    VD_AUTO_FREE uint8_t *tables = malloc(2 * VHDX_REGION_TABLE_SIZE);
    uint8_t *good;
    if (tables == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    vd_error error = read_tables(vhdx, tables, &good);
    if (error == ERROR_SUCCESS) {
        error = decode(vhdx, good);
    }
    if (error == ERROR_SUCCESS) {
        vhdx->regions.copies_differ =
            memcmp(tables, tables + VHDX_REGION_TABLE_SIZE,
                   VHDX_REGION_TABLE_SIZE) != 0;
        atomic_store(&vhdx->bat_offset, vhdx->regions.bat.offset);
    }
    return error;
}

/* ---- changing ---- */

static vd_error
stage_tables(struct vhdx_image *vhdx, const uint8_t *table)
{
    vd_error error = ERROR_SUCCESS;
    for (unsigned copy = 0; copy < 2 && error == ERROR_SUCCESS; copy++) {
        error = vd_vhdx_stage(vhdx, VHDX_REGION_TABLE_OFFSET(copy), table,
                              VHDX_REGION_TABLE_SIZE);
    }
    return error;
}

vd_error
vd_vhdx_regions_repair(struct vhdx_image *vhdx)
{
    if (!vhdx->regions.copies_differ) {
        return ERROR_SUCCESS;
    }
    VD_AUTO_FREE uint8_t *tables = malloc(2 * VHDX_REGION_TABLE_SIZE);
    uint8_t *good;
    if (tables == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    vd_error error = read_tables(vhdx, tables, &good);
    if (error == ERROR_SUCCESS) {
        error = stage_tables(vhdx, good);
    }
    vhdx->regions.copies_differ = error != ERROR_SUCCESS;
    return error;
}

/* The table with a region at its new place. */
static void
edit_table(uint8_t *table, const struct vhdx_region *from,
           const struct vhdx_region *to)
{
    uint32_t count = vd_get_le32(table + TABLE_ENTRY_COUNT);
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *entry = table + TABLE_ENTRIES + (size_t)i * ENTRY_SIZE;
        if (vd_get_le64(entry + ENTRY_OFFSET) == from->offset) {
            vd_put_le64(entry + ENTRY_OFFSET, to->offset);
            vd_put_le32(entry + ENTRY_LENGTH, to->length);
        }
    }
    memset(table + TABLE_CHECKSUM, 0, 4);
    vd_put_le32(table + TABLE_CHECKSUM,
                vd_crc32c(table, VHDX_REGION_TABLE_SIZE));
}

static vd_error
stage_move(struct vhdx_image *vhdx, const struct vhdx_region *from,
           const struct vhdx_region *to)
{
    VD_AUTO_FREE uint8_t *tables = malloc(2 * VHDX_REGION_TABLE_SIZE);
    uint8_t *good;
    if (tables == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    vd_error error = read_tables(vhdx, tables, &good);
    if (error == ERROR_SUCCESS) {
        edit_table(good, from, to);
        error = stage_tables(vhdx, good);
    }
    return error;
}

static void
publish_move(struct vhdx_image *vhdx, struct vhdx_region_set *next,
             struct vhdx_region *known, struct vhdx_region to)
{
    struct vhdx_region_set *former = atomic_load(&vhdx->regions.set);
    next->former = former;
    next->count = former->count;
    for (size_t i = 0; i < former->count; i++) {
        bool moved = former->all[i].offset == known->offset;
        next->all[i] = moved ? to : former->all[i];
    }
    *known = to;
    atomic_store(&vhdx->regions.set, next);
    atomic_store(&vhdx->bat_offset, vhdx->regions.bat.offset);
}

static vd_error
change_region(struct vhdx_image *vhdx, struct vhdx_region *known,
              struct vhdx_region to)
{
    VD_AUTO_FREE struct vhdx_region_set *next =
        new_set(atomic_load(&vhdx->regions.set)->count);
    vd_error error =
        next != NULL ? vd_vhdx_space_reserve(vhdx) : ERROR_NOT_ENOUGH_MEMORY;
    if (error == ERROR_SUCCESS) {
        error = stage_move(vhdx, known, &to);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_vhdx_commit(&vhdx->image);
    }
    if (error == ERROR_SUCCESS) {
        publish_move(vhdx, VD_TAKE(next), known, to);
    }
    return error;
}

vd_error
vd_vhdx_region_move(struct vhdx_image *vhdx, struct vhdx_region *known,
                    struct vhdx_region to)
{
    struct vhdx_region from = *known;
    vd_error error = change_region(vhdx, known, to);
    if (error == ERROR_SUCCESS) {
        vd_vhdx_space_give_up(vhdx, from.offset, from.length, vhdx->commits);
    }
    return error;
}

vd_error
vd_vhdx_region_trim(struct vhdx_image *vhdx, struct vhdx_region *known,
                    uint32_t length)
{
    struct vhdx_region from = *known;
    struct vhdx_region to = {.offset = from.offset, .length = length};
    vd_error error = change_region(vhdx, known, to);
    if (error == ERROR_SUCCESS) {
        vd_vhdx_space_put_back(vhdx, from.offset + length,
                               from.length - length);
    }
    return error;
}
