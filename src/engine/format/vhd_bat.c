/*
 * From a place on the virtual disk to its place in the file: the block
 * allocation table and, in a differencing disk, the sector bitmaps.
 *
 * The bitmaps of a dynamic disk are not asked: there are files in the field
 * whose bits are clear over data, and where they are right the data are zero.
 */
#include "format/vhd.h"

#include <stdlib.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/trace.h"

/* The largest BAT that is checked whole at a read-only open: 1 MiB. */
#define WHOLE_CHECK_ENTRIES (256u * 1024)

#define SCAN_ENTRIES (16u * 1024) /* read at once */

/* ---- what is no block's ---- */

static void
raise_metadata_end(struct vd_vhd_image *vhd, uint64_t end)
{
    /* end <= the file's size */
    end = (end + VHD_SECTOR_SIZE - 1) / VHD_SECTOR_SIZE * VHD_SECTOR_SIZE;
    if (end > vhd->metadata_end) {
        vhd->metadata_end = end;
    }
}

void
vd_vhd_add_range(struct vd_vhd_image *vhd, uint64_t offset, uint64_t length)
{
    vhd->ranges[vhd->range_count++] =
        (struct vd_vhd_range){.offset = offset, .length = length};
    raise_metadata_end(vhd, offset + length);
}

/* Space that something keeps for itself.  No block of ours goes there, but
 * one of others may, and the claim may be absurd. */
static void
keep_clear(struct vd_vhd_image *vhd, uint64_t offset, uint64_t length)
{
    uint64_t limit = atomic_load(&vhd->data_end);
    if (vd_range_within(offset, length, limit)) {
        raise_metadata_end(vhd, offset + length);
    }
}

static void
add_locator(struct vd_vhd_image *vhd, const struct vd_vhd_locator *locator)
{
    if (locator->platform == VHD_PLATFORM_NONE || locator->length == 0 ||
        !vd_range_within(locator->offset, locator->length,
                         atomic_load(&vhd->data_end))) {
        return;
    }
    vd_vhd_add_range(vhd, locator->offset, locator->length);
    keep_clear(vhd, locator->offset, vd_vhd_locator_reserve(locator));
}

void
vd_vhd_collect_ranges(struct vd_vhd_image *vhd)
{
    const struct vd_vhd_header *header = &vhd->header;
    vhd->range_count = 0;
    vhd->metadata_end = 0;
    vd_vhd_add_range(vhd, 0, VHD_FOOTER_SIZE);
    vd_vhd_add_range(vhd, vhd->footers.footer.data_offset, VHD_HEADER_SIZE);
    vd_vhd_add_range(vhd, header->table_offset,
                     vhd->blocks * sizeof(uint32_t));
    keep_clear(vhd, header->table_offset,
               vd_vhd_table_space(header->table_offset, header->max_entries));
    for (size_t i = 0; vhd->child && i < VHD_LOCATORS; i++) {
        add_locator(vhd, &header->locators[i]);
    }
}

/* ---- checking entries ---- */

static vd_error
corrupt(uint64_t block, uint32_t entry, const char *reason)
{
    vd_trace(VD_TRACE_FORMAT, "VHD: BAT entry %llu is 0x%08X: %s",
             (unsigned long long)block, entry, reason);
    return ERROR_VHD_BLOCK_ALLOCATION_TABLE_CORRUPT;
}

/* How much of a block must be there: of the last one no more than the disk
 * reaches into it. */
static uint64_t
needed_length(const struct vd_vhd_image *vhd, uint64_t block)
{
    uint64_t rest =
        vhd->image.info.size_bytes - block * vhd->header.block_size;
    if (rest > vhd->header.block_size) {
        rest = vhd->header.block_size;
    }
    return vhd->bitmap_size + rest;
}

vd_error
vd_vhd_check_entry(const struct vd_vhd_image *vhd, uint64_t block,
                   uint32_t entry)
{
    if (entry == VHD_UNUSED) {
        return ERROR_SUCCESS;
    }
    uint64_t offset = (uint64_t)entry * VHD_SECTOR_SIZE;
    uint64_t length = needed_length(vhd, block);
    if (!vd_range_within(offset, length, atomic_load(&vhd->data_end))) {
        return corrupt(block, entry, "past the end of the data");
    }
    for (size_t i = 0; i < vhd->range_count; i++) {
        const struct vd_vhd_range *range = &vhd->ranges[i];
        if (offset < range->offset + range->length &&
            range->offset < offset + length) {
            return corrupt(block, entry, "over the file's metadata");
        }
    }
    return ERROR_SUCCESS;
}

/* ---- the whole table ---- */

struct scan {
    uint32_t *entries; /* that are used */
    size_t count, capacity;
    size_t limit; /* more cannot be without overlap */
    uint64_t end; /* of the last one in the file */
    bool aligned;
};

static vd_error
note_entry(const struct vd_vhd_image *vhd, struct scan *scan, uint64_t block,
           uint32_t entry)
{
    vd_error error = vd_vhd_check_entry(vhd, block, entry);
    if (error != ERROR_SUCCESS || entry == VHD_UNUSED) {
        return error;
    }
    if (scan->count == scan->limit) {
        return corrupt(block, entry, "more blocks than the file can hold");
    }
    if (scan->count == scan->capacity) {
        size_t capacity = scan->capacity * 2 + 1024;
        uint32_t *grown =
            realloc(scan->entries, capacity * sizeof(*scan->entries));
        if (grown == NULL) {
            return ERROR_NOT_ENOUGH_MEMORY;
        }
        scan->entries = grown;
        scan->capacity = capacity;
    }
    scan->entries[scan->count++] = entry;
    uint64_t data = (uint64_t)entry * VHD_SECTOR_SIZE + vhd->bitmap_size;
    uint64_t end = data + vhd->header.block_size;
    scan->end = end > scan->end ? end : scan->end;
    scan->aligned = scan->aligned && data % VHD_DATA_ALIGNMENT == 0;
    return ERROR_SUCCESS;
}

static vd_error
collect_entries(const struct vd_vhd_image *vhd, struct scan *scan)
{
    VD_AUTO_FREE uint8_t *bytes = malloc(SCAN_ENTRIES * sizeof(uint32_t));
    if (bytes == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    for (uint64_t first = 0; first < vhd->blocks; first += SCAN_ENTRIES) {
        uint64_t count = vhd->blocks - first;
        if (count > SCAN_ENTRIES) {
            count = SCAN_ENTRIES;
        }
        vd_error error = vd_file_pread(
            vhd->image.file, bytes, (size_t)count * sizeof(uint32_t),
            vhd->header.table_offset + first * sizeof(uint32_t));
        for (uint64_t i = 0; i < count && error == ERROR_SUCCESS; i++) {
            error = note_entry(vhd, scan, first + i,
                               vd_get_be32(bytes + i * sizeof(uint32_t)));
        }
        if (error != ERROR_SUCCESS) {
            return error;
        }
    }
    return ERROR_SUCCESS;
}

static int
compare_entries(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

static vd_error
check_overlap(const struct vd_vhd_image *vhd, struct scan *scan)
{
    uint32_t sectors =
        (vhd->bitmap_size + vhd->header.block_size) / VHD_SECTOR_SIZE;
    if (scan->count != 0) {
        qsort(scan->entries, scan->count, sizeof(*scan->entries),
              compare_entries);
    }
    for (size_t i = 1; i < scan->count; i++) {
        if (scan->entries[i] - scan->entries[i - 1] < sectors) {
            vd_trace(VD_TRACE_FORMAT,
                     "VHD: blocks at sectors 0x%X and 0x%X overlap",
                     scan->entries[i - 1], scan->entries[i]);
            return ERROR_VHD_BLOCK_ALLOCATION_TABLE_CORRUPT;
        }
    }
    return ERROR_SUCCESS;
}

vd_error
vd_vhd_scan(struct vd_vhd_image *vhd)
{
    struct scan scan = {
        .limit =
            (size_t)(atomic_load(&vhd->data_end) / vhd->header.block_size) + 1,
        .end = vhd->metadata_end,
        .aligned = true,
    };
    vd_error error = collect_entries(vhd, &scan);
    if (error == ERROR_SUCCESS) {
        error = check_overlap(vhd, &scan);
    }
    free(scan.entries);
    if (error == ERROR_SUCCESS) {
        vhd->next_free = scan.end;
        vhd->aligned = scan.aligned;
    }
    return error;
}

/*
 * A writable open checks every entry, also against the others, for a block
 * written over another one's is lost.  A read-only open does so for a BAT of
 * ordinary size (512 GiB in 2 MiB blocks); the pages of a larger one are
 * checked one by one when they are first used.
 */
vd_error
vd_vhd_bat_check(struct vd_vhd_image *vhd)
{
    if (!vhd->image.writable && vhd->blocks > WHOLE_CHECK_ENTRIES) {
        return ERROR_SUCCESS;
    }
    return vd_vhd_scan(vhd);
}

/* ---- lookup ---- */

static bool
bit_of(const struct vd_vhd_page *bitmap, uint32_t sector)
{
    uint32_t word = atomic_load(&bitmap->words[sector / 32]);
    return word << sector % 32 >> 31; /* most significant bit first */
}

/* How many sectors from `sector` on have the same bit, at most limit. */
static uint32_t
run_of(const struct vd_vhd_page *bitmap, uint32_t sector, uint32_t limit)
{
    bool bit = bit_of(bitmap, sector);
    uint32_t same = bit ? UINT32_MAX : 0;
    uint32_t run = 1;
    while (run < limit) {
        uint32_t next = sector + run;
        if (next % 32 == 0 && atomic_load(&bitmap->words[next / 32]) == same) {
            run += 32;
        }
        else if (bit_of(bitmap, next) == bit) {
            run++;
        }
        else {
            break;
        }
    }
    return run < limit ? run : limit;
}

/* The answer for an allocated block of a differencing disk. */
static vd_error
lookup_bitmap(struct vd_vhd_image *vhd, struct vd_vhd_page *bat_page,
              uint64_t offset, uint64_t length, struct vd_extent *extent)
{
    struct vd_vhd_page *bitmap;
    uint64_t in_block = offset % vhd->header.block_size;
    uint64_t skew = offset % VHD_SECTOR_SIZE;
    vd_error error =
        vd_vhd_bitmap(vhd, bat_page, offset / vhd->header.block_size, &bitmap);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    uint32_t sector = (uint32_t)(in_block / VHD_SECTOR_SIZE);
    uint32_t limit =
        (uint32_t)((skew + length + VHD_SECTOR_SIZE - 1) / VHD_SECTOR_SIZE);
    uint64_t run =
        (uint64_t)run_of(bitmap, sector, limit) * VHD_SECTOR_SIZE - skew;
    extent->length = run < length ? run : length;
    if (!bit_of(bitmap, sector)) {
        extent->state = VD_EXTENT_PARENT;
    }
    return ERROR_SUCCESS;
}

/* The caller may write in place what it has found: the bitmap must then be
 * full when that is committed, for those who ask it. */
static void
note_found(struct vd_vhd_image *vhd, struct vd_vhd_page *bat_page,
           unsigned index)
{
    if (bat_page->usage == NULL) {
        return;
    }
    _Atomic uint32_t *found = &bat_page->usage->found[index / 32];
    uint32_t bit = 1u << index % 32;
    if ((atomic_load(found) & bit) == 0 &&
        (atomic_fetch_or(found, bit) & bit) == 0) {
        atomic_fetch_add(&vhd->found_blocks, 1);
    }
}

/* The answer for a range inside one block, if this is its entry. */
static vd_error
lookup_entry(struct vd_vhd_image *vhd, struct vd_vhd_page *page,
             uint32_t entry, uint64_t offset, struct vd_extent *extent)
{
    if (entry == VHD_UNUSED) {
        extent->state = vhd->child ? VD_EXTENT_PARENT : VD_EXTENT_ZERO;
        return ERROR_SUCCESS;
    }
    extent->state = VD_EXTENT_PRESENT;
    extent->file_offset = (uint64_t)entry * VHD_SECTOR_SIZE +
                          vhd->bitmap_size + offset % vhd->header.block_size;
    return vhd->child
               ? lookup_bitmap(vhd, page, offset, extent->length, extent)
               : ERROR_SUCCESS;
}

/* A child's block may get another place, or go and come back, between the
 * look at its entry and the one at its bitmap: then both are looked at again.
 */
static vd_error
lookup_in_block(struct vd_vhd_image *vhd, uint64_t offset, uint64_t length,
                struct vd_extent *out)
{
    uint64_t block = offset / vhd->header.block_size;
    unsigned index = (unsigned)(block % VHD_BAT_PAGE_ENTRIES);
    struct vd_vhd_page *page;
    struct vd_extent extent;
    uint32_t entry;
    vd_error error = vd_vhd_bat_page(vhd, block, &page);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    do {
        extent = (struct vd_extent){.length = length};
        entry = atomic_load(&page->words[index]);
        error = lookup_entry(vhd, page, entry, offset, &extent);
    } while (vhd->child && entry != atomic_load(&page->words[index]));
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (entry != VHD_UNUSED) {
        note_found(vhd, page, index);
    }
    *out = extent;
    return ERROR_SUCCESS;
}

static bool
continues(const struct vd_extent *extent, const struct vd_extent *next)
{
    return next->state == extent->state &&
           (next->state != VD_EXTENT_PRESENT ||
            next->file_offset == extent->file_offset + extent->length);
}

static vd_error
lookup_blocks(struct vd_vhd_image *vhd, uint64_t offset, uint64_t length,
              struct vd_extent *out)
{
    uint32_t block_size = vhd->header.block_size;
    struct vd_extent extent = {.length = 0};
    while (extent.length < length) {
        uint64_t at = offset + extent.length;
        uint64_t rest = length - extent.length;
        uint64_t in_block = block_size - at % block_size;
        struct vd_extent next;
        vd_error error =
            lookup_in_block(vhd, at, rest < in_block ? rest : in_block, &next);
        if (error != ERROR_SUCCESS && extent.length == 0) {
            return error;
        }
        if (error != ERROR_SUCCESS) {
            break; /* told to who asks for what comes now */
        }
        if (extent.length == 0) {
            extent = next;
        }
        else if (continues(&extent, &next)) {
            extent.length += next.length;
        }
        else {
            break;
        }
    }
    *out = extent;
    return ERROR_SUCCESS;
}

vd_error
vd_vhd_lookup(struct vd_image *image, uint64_t offset, uint64_t length,
              struct vd_extent *out)
{
    struct vd_vhd_image *vhd = vd_vhd_of(image);
    if (!vd_vhd_is_fixed(vhd)) {
        return lookup_blocks(vhd, offset, length, out);
    }
    *out = (struct vd_extent){
        /* data start where the file does */
        .state = VD_EXTENT_PRESENT,
        .file_offset = offset,
        .length = length,
    };
    return ERROR_SUCCESS;
}
