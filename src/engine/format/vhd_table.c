/*
 * The block allocation table as a whole: giving it more entries, where it is
 * or at another place.
 *
 * Where it is and how long it is are told by the first sector of the dynamic
 * header, with the header's checksum: so one sector makes the change, and a
 * table at a new place is written and durable before.  It moves rather than
 * the blocks behind it: no payload is copied, and nothing that somebody may
 * be reading is overwritten.
 */
#include "format/vhd.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/trace.h"

#define PIECE_ENTRIES (16u * 1024) /* written at once */
#define SECTOR_ENTRIES (VHD_SECTOR_SIZE / sizeof(uint32_t))

static uint64_t
round_up(uint64_t value, uint64_t alignment)
{
    /* Places in a file of about 2 TiB. */
    return (value + alignment - 1) / alignment * alignment;
}

uint64_t
vd_vhd_table_place(const struct vd_vhd_image *vhd, uint64_t end)
{
    return round_up(end, vhd->aligned ? VHD_DATA_ALIGNMENT : VHD_SECTOR_SIZE);
}

uint64_t
vd_vhd_table_space(uint64_t place, uint64_t entries)
{
    uint64_t end = place + entries * sizeof(uint32_t);
    return round_up(end, VHD_DATA_ALIGNMENT) - place;
}

vd_error
vd_vhd_table_load(struct vd_vhd_image *vhd)
{
    vd_error error = ERROR_SUCCESS;
    for (uint64_t block = 0; block < vhd->blocks && error == ERROR_SUCCESS;
         block += VHD_BAT_PAGE_ENTRIES) {
        struct vd_vhd_page *page;
        error = vd_vhd_bat_page(vhd, block, &page);
    }
    return error;
}

/* ---- writing ---- */

/* Of a table that is in memory; what the disk does not need is unused. */
static uint32_t
entry_of(struct vd_vhd_image *vhd, uint64_t block)
{
    if (block >= vhd->blocks) {
        return VHD_UNUSED;
    }
    struct vd_vhd_page *page =
        atomic_load(vd_vhd_bat_slot(vhd, block / VHD_BAT_PAGE_ENTRIES));
    return atomic_load(&page->words[block % VHD_BAT_PAGE_ENTRIES]);
}

/* Entries from `first` to the end of a table at `place`. */
static vd_error
write_entries(struct vd_vhd_image *vhd, uint64_t place, uint64_t first,
              uint64_t end)
{
    VD_AUTO_FREE uint8_t *bytes = malloc(PIECE_ENTRIES * sizeof(uint32_t));
    if (bytes == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    while (first < end) {
        uint64_t count = end - first;
        if (count > PIECE_ENTRIES) {
            count = PIECE_ENTRIES;
        }
        for (uint64_t i = 0; i < count; i++) {
            vd_put_be32(bytes + i * sizeof(uint32_t),
                        entry_of(vhd, first + i));
        }
        vd_error error = vd_file_pwrite(vhd->image.file, bytes,
                                        (size_t)count * sizeof(uint32_t),
                                        place + first * sizeof(uint32_t));
        if (error != ERROR_SUCCESS) {
            return error;
        }
        first += count;
    }
    return ERROR_SUCCESS;
}

static vd_error
put_header(struct vd_vhd_image *vhd, const struct vd_vhd_header *header)
{
    uint8_t raw[VHD_HEADER_SIZE];
    uint64_t place = vhd->footers.footer.data_offset;
    vd_error error = vd_file_pread(vhd->image.file, raw, sizeof(raw), place);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    vd_vhd_header_update(header, raw);
    error = vd_file_pwrite(vhd->image.file, raw, VHD_SECTOR_SIZE, place);
    return error != ERROR_SUCCESS ? error : vd_file_flush(vhd->image.file);
}

/* The table at `place` is durable: from now on it is the one. */
static vd_error
switch_to(struct vd_vhd_image *vhd, uint64_t place, uint64_t entries)
{
    struct vd_vhd_header header = vhd->header;
    header.table_offset = place;
    if (entries > header.max_entries) {
        header.max_entries = (uint32_t)entries; /* <= 2040 GiB / 4 KiB */
    }
    vd_error error = vd_vhd_remember(vhd, put_header(vhd, &header));
    if (error != ERROR_SUCCESS) {
        return error;
    }
    vd_vhd_plan_drop(vhd);
    vhd->header = header;
    for (uint64_t i = 0; i * VHD_BAT_PAGE_ENTRIES < vhd->blocks; i++) {
        atomic_load(vd_vhd_bat_slot(vhd, i))->file_offset =
            place + i * VHD_BAT_PAGE_SIZE;
    }
    vd_vhd_collect_ranges(vhd);
    if (vhd->next_free < vhd->metadata_end) {
        vhd->next_free = vhd->metadata_end;
    }
    return ERROR_SUCCESS;
}

/* ---- at another place ---- */

vd_error
vd_vhd_table_move(struct vd_vhd_image *vhd, uint64_t place, uint64_t entries)
{
    uint64_t space = vd_vhd_table_space(place, entries);
    vd_error error = write_entries(vhd, place, 0, space / sizeof(uint32_t));
    if (error != ERROR_SUCCESS) {
        if (vd_file_punch(vhd->image.file, place, space) != ERROR_SUCCESS) {
            return vd_vhd_remember(vhd, error); /* not as blocks expect it */
        }
        return error;
    }
    error = vd_vhd_remember(vhd, vd_file_flush(vhd->image.file));
    return error != ERROR_SUCCESS ? error : switch_to(vhd, place, entries);
}

/* ---- where it is ---- */

static bool
meets(const struct vd_vhd_range *range, uint64_t offset, uint64_t end)
{
    return range->offset < end && offset < range->offset + range->length;
}

bool
vd_vhd_is_free(struct vd_vhd_image *vhd, uint64_t start, uint64_t end,
               uint64_t but)
{
    uint64_t length = (uint64_t)vhd->bitmap_size + vhd->header.block_size;
    for (size_t i = 0; i < vhd->range_count; i++) {
        if (vhd->ranges[i].offset != but &&
            meets(&vhd->ranges[i], start, end)) {
            return false;
        }
    }
    for (size_t i = 0; i < vhd->space.count; i++) {
        struct vd_vhd_range range = {vhd->space.blocks[i].place, length};
        if (meets(&range, start, end)) {
            return false; /* a new block may go there */
        }
    }
    for (uint64_t block = 0; block < vhd->blocks; block++) {
        uint32_t entry = entry_of(vhd, block);
        struct vd_vhd_range range = {(uint64_t)entry * VHD_SECTOR_SIZE,
                                     length};
        if (entry != VHD_UNUSED && meets(&range, start, end)) {
            return false;
        }
    }
    return true;
}

/* What other software left behind its last entry means nothing yet. */
static vd_error
grow_in_place(struct vd_vhd_image *vhd, uint64_t entries)
{
    uint64_t first = vhd->blocks / SECTOR_ENTRIES * SECTOR_ENTRIES;
    uint64_t end = round_up(entries, SECTOR_ENTRIES);
    uint64_t table = vhd->header.table_offset;
    vd_error error = write_entries(vhd, table, first, end);
    if (error == ERROR_SUCCESS) {
        error = vd_vhd_remember(vhd, vd_file_flush(vhd->image.file));
    }
    return error != ERROR_SUCCESS ? error : switch_to(vhd, table, entries);
}

/* The entries behind the last block's, which share its page. */
static void
clear_surplus(struct vd_vhd_image *vhd)
{
    uint64_t last = vhd->blocks - 1;
    struct vd_vhd_page *page =
        atomic_load(vd_vhd_bat_slot(vhd, last / VHD_BAT_PAGE_ENTRIES));
    for (uint64_t i = last % VHD_BAT_PAGE_ENTRIES + 1;
         i < VHD_BAT_PAGE_ENTRIES; i++) {
        atomic_store(&page->words[i], VHD_UNUSED);
    }
}

vd_error
vd_vhd_table_grow(struct vd_vhd_image *vhd, uint64_t entries)
{
    vd_error error = vd_vhd_table_load(vhd);
    if (error == ERROR_SUCCESS) {
        error = vd_vhd_pages_create(vhd, entries);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    clear_surplus(vhd);
    uint64_t place = vhd->header.table_offset;
    bool fits = vd_vhd_is_free(
        vhd, place,
        round_up(place + entries * sizeof(uint32_t), VHD_SECTOR_SIZE), place);
    if (!fits) {
        place = vd_vhd_table_place(vhd, vhd->next_free);
    }
    error =
        vd_vhd_reserve_end(vhd, place + vd_vhd_table_space(place, entries));
    if (error != ERROR_SUCCESS) {
        return error;
    }
    return fits ? grow_in_place(vhd, entries)
                : vd_vhd_table_move(vhd, place, entries);
}
