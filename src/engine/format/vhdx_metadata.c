/*
 * The metadata region ([MS-VHDX] 2.6): block size, virtual size, sector
 * sizes, identity, parent locator.  Every known item is copied out once and
 * checked; unknown ones are left alone unless they are required.
 */
#include "format/vhdx.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/trace.h"

enum {
    PARAMETER_LEAVE_ALLOCATED = 1,
    PARAMETER_HAS_PARENT = 2,
};

struct entry {
    const uint8_t *id;
    uint32_t offset;
    uint32_t length;
    uint32_t flags;
};

static vd_error
corrupt(const char *reason)
{
    vd_trace(VD_TRACE_FORMAT, "VHDX: metadata: %s", reason);
    return ERROR_VHD_METADATA_READ_FAILURE;
}

/* ---- the items we know: what is in them ---- */

static vd_error
take_parameters(struct vhdx_metadata *metadata, const uint8_t *item,
                size_t length)
{
    (void)length;
    uint32_t flags = vd_get_le32(item + 4);
    metadata->block_size = vd_get_le32(item);
    metadata->leave_allocated = flags & PARAMETER_LEAVE_ALLOCATED;
    metadata->has_parent = flags & PARAMETER_HAS_PARENT;
    if (!vd_is_power_of_two(metadata->block_size) ||
        metadata->block_size < VHDX_MIB ||
        metadata->block_size > 256 * VHDX_MIB) {
        vd_trace(VD_TRACE_FORMAT, "VHDX: block size %u", metadata->block_size);
        return ERROR_VHD_INVALID_BLOCK_SIZE;
    }
    return ERROR_SUCCESS;
}

static vd_error
take_size(struct vhdx_metadata *metadata, const uint8_t *item, size_t length)
{
    (void)length;
    metadata->size_bytes = vd_get_le64(item);
    return ERROR_SUCCESS;
}

static vd_error
take_sector_size(uint32_t *size, const uint8_t *item)
{
    *size = vd_get_le32(item);
    return *size == 512 || *size == 4096 ? ERROR_SUCCESS
                                         : corrupt("a sector size");
}

static vd_error
take_logical(struct vhdx_metadata *metadata, const uint8_t *item,
             size_t length)
{
    (void)length;
    return take_sector_size(&metadata->logical_sector_size, item);
}

static vd_error
take_physical(struct vhdx_metadata *metadata, const uint8_t *item,
              size_t length)
{
    (void)length;
    return take_sector_size(&metadata->physical_sector_size, item);
}

static vd_error
take_virtual_disk_id(struct vhdx_metadata *metadata, const uint8_t *item,
                     size_t length)
{
    (void)length;
    memcpy(&metadata->virtual_disk_id, item, VD_GUID_SIZE);
    return ERROR_SUCCESS;
}

static vd_error
take_locator(struct vhdx_metadata *metadata, const uint8_t *item,
             size_t length)
{
    return vd_vhdx_locator_decode(item, length, &metadata->locator);
}

/* FORMATS: written by openvmm while an image is being created. */
static vd_error
take_incomplete(struct vhdx_metadata *metadata, const uint8_t *item,
                size_t length)
{
    (void)metadata, (void)item, (void)length;
    return corrupt("the creation of this file was never finished");
}

struct known_item {
    struct vd_guid id;
    uint32_t length; /* 0: any */
    bool mandatory;
    vd_error (*take)(struct vhdx_metadata *metadata, const uint8_t *item,
                     size_t length);
};

static const struct known_item known_items[VHDX_ITEM_COUNT] = {
    [VHDX_ITEM_FILE_PARAMETERS] = {{{0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43,
                                     0x4d, 0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44,
                                     0xe7, 0x6b}},
                                   8,
                                   true,
                                   take_parameters},
    [VHDX_ITEM_VIRTUAL_DISK_SIZE] = {{{0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd,
                                       0x76, 0x48, 0xb2, 0x11, 0x5d, 0xbe,
                                       0xd8, 0x3b, 0xf4, 0xb8}},
                                     8,
                                     true,
                                     take_size},
    [VHDX_ITEM_LOGICAL_SECTOR_SIZE] = {{{0x1d, 0xbf, 0x41, 0x81, 0x6f, 0xa9,
                                         0x09, 0x47, 0xba, 0x47, 0xf2, 0x33,
                                         0xa8, 0xfa, 0xab, 0x5f}},
                                       4,
                                       true,
                                       take_logical},
    [VHDX_ITEM_PHYSICAL_SECTOR_SIZE] = {{{0xc7, 0x48, 0xa3, 0xcd, 0x5d, 0x44,
                                          0x71, 0x44, 0x9c, 0xc9, 0xe9, 0x88,
                                          0x52, 0x51, 0xc5, 0x56}},
                                        4,
                                        true,
                                        take_physical},
    [VHDX_ITEM_VIRTUAL_DISK_ID] = {{{0xab, 0x12, 0xca, 0xbe, 0xe6, 0xb2, 0x23,
                                     0x45, 0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00,
                                     0xc7, 0x46}},
                                   16,
                                   true,
                                   take_virtual_disk_id},
    [VHDX_ITEM_PARENT_LOCATOR] = {{{0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d,
                                    0x45, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34,
                                    0xab, 0x0c}},
                                  0,
                                  false,
                                  take_locator},
    [VHDX_ITEM_INCOMPLETE] = {{{0xf0, 0x85, 0xcc, 0x71, 0x69, 0x1b, 0x28, 0x4e,
                                0x95, 0x58, 0xc3, 0xbf, 0x83, 0xae, 0x75,
                                0xd3}},
                              0,
                              false,
                              take_incomplete},
};

const struct vd_guid *
vd_vhdx_item_guid(enum vhdx_item item)
{
    return &known_items[item].id;
}

/* ---- the table ---- */

static struct entry
entry_at(const uint8_t *table, unsigned index)
{
    const uint8_t *at =
        table + VHDX_METADATA_ENTRIES + (size_t)index * VHDX_ITEM_ENTRY_SIZE;
    return (struct entry){
        .id = at + VHDX_ITEM_ID,
        .offset = vd_get_le32(at + VHDX_ITEM_OFFSET),
        .length = vd_get_le32(at + VHDX_ITEM_LENGTH),
        .flags = vd_get_le32(at + VHDX_ITEM_FLAGS),
    };
}

static vd_error
check_entry(const struct entry *entry, uint32_t region_length)
{
    static const struct vd_guid zero;
    bool user = entry->flags & VHDX_ITEM_IS_USER;
    if (memcmp(entry->id, &zero, VD_GUID_SIZE) == 0 ||
        (user && (entry->flags & VHDX_ITEM_IS_REQUIRED))) {
        return corrupt("an item without id, or a required user item");
    }
    if (entry->length == 0) {
        return entry->offset == 0 ? ERROR_SUCCESS
                                  : corrupt("an empty item with an offset");
    }
    if (entry->length > VHDX_ITEM_LENGTH_MAX ||
        entry->offset < VHDX_METADATA_TABLE_SIZE ||
        !vd_range_within(entry->offset, entry->length, region_length)) {
        return corrupt("an item outside the region");
    }
    return ERROR_SUCCESS;
}

static bool
items_collide(const struct entry *a, const struct entry *b)
{
    bool same =
        memcmp(a->id, b->id, VD_GUID_SIZE) == 0 &&
        (a->flags & VHDX_ITEM_IS_USER) == (b->flags & VHDX_ITEM_IS_USER);
    bool overlap = a->length != 0 && b->length != 0 &&
                   a->offset < (uint64_t)b->offset + b->length &&
                   b->offset < (uint64_t)a->offset + a->length;
    return same || overlap;
}

static vd_error
check_table(const uint8_t *table, unsigned count, uint32_t region_length)
{
    unsigned users = 0;
    for (unsigned i = 0; i < count; i++) {
        struct entry entry = entry_at(table, i);
        vd_error error = check_entry(&entry, region_length);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        users += entry.flags & VHDX_ITEM_IS_USER;
        for (unsigned j = 0; j < i; j++) {
            struct entry other = entry_at(table, j);
            if (items_collide(&entry, &other)) {
                return corrupt("items overlap or stand twice");
            }
        }
    }
    return users <= VHDX_USER_ITEMS_MAX ? ERROR_SUCCESS
                                        : corrupt("too many user items");
}

static const struct known_item *
find_known(const struct entry *entry)
{
    for (size_t i = 0; i < VHDX_ITEM_COUNT; i++) {
        if (memcmp(entry->id, &known_items[i].id, VD_GUID_SIZE) == 0 &&
            !(entry->flags & VHDX_ITEM_IS_USER)) {
            return &known_items[i];
        }
    }
    return NULL;
}

static vd_error
take_item(struct vhdx_image *vhdx, const struct entry *entry,
          const struct known_item *known)
{
    if (known->length != 0 && entry->length != known->length) {
        return corrupt("a known item has another length");
    }
    VD_AUTO_FREE uint8_t *item = malloc(entry->length + 1);
    if (item == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    vd_error error =
        vd_vhdx_read_metadata(vhdx, item, entry->length,
                              vhdx->regions.metadata.offset + entry->offset);
    return error != ERROR_SUCCESS
               ? error
               : known->take(&vhdx->metadata, item, entry->length);
}

static vd_error
take_items(struct vhdx_image *vhdx, const uint8_t *table, unsigned count,
           bool found[VHDX_ITEM_COUNT])
{
    for (unsigned i = 0; i < count; i++) {
        struct entry entry = entry_at(table, i);
        const struct known_item *known = find_known(&entry);
        if (known == NULL) {
            if (entry.flags & VHDX_ITEM_IS_REQUIRED) {
                vd_trace(VD_TRACE_FORMAT,
                         "VHDX: unknown required metadata item");
                return ERROR_VHD_FORMAT_UNSUPPORTED_VERSION;
            }
            continue;
        }
        vd_error error = take_item(vhdx, &entry, known);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        found[known - known_items] = true;
    }
    return ERROR_SUCCESS;
}

/* What the items must be to each other. */
static vd_error
check_items(struct vhdx_metadata *metadata, const bool found[VHDX_ITEM_COUNT])
{
    for (size_t i = 0; i < VHDX_ITEM_COUNT; i++) {
        if (known_items[i].mandatory && !found[i]) {
            return corrupt("a mandatory item is missing");
        }
    }
    if (metadata->has_parent != found[VHDX_ITEM_PARENT_LOCATOR]) {
        return corrupt("a parent locator without parent, or the reverse");
    }
    if (metadata->size_bytes == 0 || metadata->size_bytes > VHDX_MAX_SIZE ||
        metadata->size_bytes % metadata->logical_sector_size != 0) {
        vd_trace(VD_TRACE_FORMAT, "VHDX: virtual size %llu",
                 (unsigned long long)metadata->size_bytes);
        return ERROR_VHD_INVALID_SIZE;
    }
    if (metadata->physical_sector_size < metadata->logical_sector_size) {
        metadata->physical_sector_size = metadata->logical_sector_size;
    }
    return ERROR_SUCCESS;
}

vd_error
vd_vhdx_metadata_read(struct vhdx_image *vhdx)
{
    VD_AUTO_FREE uint8_t *table = malloc(VHDX_METADATA_TABLE_SIZE);
    if (table == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    vd_error error = vd_vhdx_read_metadata(
        vhdx, table, VHDX_METADATA_TABLE_SIZE, vhdx->regions.metadata.offset);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    unsigned count = vd_get_le16(table + VHDX_METADATA_COUNT);
    if (memcmp(table + VHDX_METADATA_SIGNATURE, "metadata", 8) != 0 ||
        count > VHDX_ITEMS_MAX) {
        return corrupt("no table, or too many entries");
    }
    error = check_table(table, count, vhdx->regions.metadata.length);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    bool found[VHDX_ITEM_COUNT] = {false};
    error = take_items(vhdx, table, count, found);
    return error != ERROR_SUCCESS ? error
                                  : check_items(&vhdx->metadata, found);
}
