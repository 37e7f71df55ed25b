/*
 * The order in which the changes of a dynamic or differencing VHD become
 * durable.
 *
 * Space: the footer is written further ahead, by several blocks, and made
 * durable there, before any of them is written; so the file ends in a footer
 * whatever happens to the block that takes the old one's place.
 *
 * Commit, with its two barriers:
 *   1. the bitmaps of new blocks, which have been written with their payload,
 *      as far as they have changed since;
 *   2. a barrier: payload, and the bitmaps of new blocks;
 *   3. BAT sectors, which let the new blocks be seen, and the bitmaps of
 *      blocks that are seen already, whose new bits hide the parent's data;
 *   4. a barrier.
 * A power cut before 4 leaves of 3 some sectors, each of which says only what
 * is true since 2.
 *
 * Close: the footer comes back behind the last block, is made durable there,
 * and then the file is cut.
 */
#include "format/vhd.h"

#include <stdlib.h>
#include <string.h>

#include "base/trace.h"

/* By how much at most the footer moves ahead. */
#define MAX_RESERVE (64u * 1024 * 1024)

/* After a failed barrier nothing is known of what is on the medium, so
 * nothing more is written. */
vd_error
vd_vhd_remember(struct vd_vhd_image *vhd, vd_error error)
{
    if (error != ERROR_SUCCESS) {
        vd_trace(VD_TRACE_FORMAT, "VHD: writing metadata failed: %u", error);
        vhd->failed = true;
    }
    return error;
}

/* A VHD tells its children nothing of a change. */
vd_error
vd_vhd_begin(struct vd_image *image, enum vd_change change)
{
    struct vd_vhd_image *vhd = vd_vhd_of(image);
    (void)change;
    if (vhd->failed) {
        return ERROR_IO_DEVICE;
    }
    if (vhd->begun) {
        return ERROR_SUCCESS;
    }
    vd_error error = vd_vhd_remember(vhd, vd_vhd_settle(vhd));
    vhd->begun = error == ERROR_SUCCESS;
    return error;
}

/* ---- space ---- */

/* The end of the last of so many new blocks, the first one at `place`. */
static uint64_t
end_of_blocks(const struct vd_vhd_image *vhd, uint64_t place, uint64_t count)
{
    uint64_t length = (uint64_t)vhd->bitmap_size + vhd->header.block_size;
    uint64_t stride = vd_vhd_block_place(vhd, place + length) - place;
    return place + (count - 1) * stride + length;
}

static uint64_t
next_reserve(const struct vd_vhd_image *vhd)
{
    uint64_t most = MAX_RESERVE / vhd->header.block_size;
    uint64_t count = vhd->reserve_blocks * 2;
    count = count > most ? most : count;
    return count != 0 ? count : 1;
}

/* Footer not written: the file, if it is longer now, gets its old end. */
static void
undo_reserve(struct vd_vhd_image *vhd)
{
    vd_error error = vd_file_truncate(vhd->image.file, vhd->footers.file_size);
    if (error != ERROR_SUCCESS) {
        vd_trace(VD_TRACE_FORMAT, "VHD: the file keeps an end without footer");
    }
}

static vd_error
move_footer_ahead(struct vd_vhd_image *vhd, uint64_t place)
{
    struct vd_vhd_footers *footers = &vhd->footers;
    vd_error error = vd_file_pwrite(vhd->image.file, footers->raw,
                                    sizeof(footers->raw), place);
    if (error != ERROR_SUCCESS) {
        undo_reserve(vhd);
        return error;
    }
    error = vd_vhd_remember(vhd, vd_file_flush(vhd->image.file));
    if (error == ERROR_SUCCESS) {
        footers->tail_offset = place;
        footers->file_size = place + sizeof(footers->raw);
        atomic_store(&vhd->data_end, place);
    }
    return error;
}

vd_error
vd_vhd_reserve(struct vd_vhd_image *vhd, uint64_t place)
{
    if (end_of_blocks(vhd, place, 1) <= vhd->footers.tail_offset) {
        return ERROR_SUCCESS;
    }
    uint64_t count = next_reserve(vhd);
    uint64_t end = end_of_blocks(vhd, place, count);
    vd_error error = move_footer_ahead(vhd, vd_vhd_footer_place(vhd, end));
    if (error == ERROR_SUCCESS) {
        vhd->reserve_blocks = count;
    }
    return error;
}

vd_error
vd_vhd_reserve_end(struct vd_vhd_image *vhd, uint64_t end)
{
    if (end <= vhd->footers.tail_offset) {
        return ERROR_SUCCESS;
    }
    return move_footer_ahead(vhd, vd_vhd_footer_place(vhd, end));
}

/* ---- bitmaps of dynamic disks ---- */

static bool
is_full(const uint8_t *bits, uint32_t length)
{
    for (uint32_t i = 0; i < length; i++) {
        if (bits[i] != 0xFF) {
            return false;
        }
    }
    return true;
}

/* Makes the bitmap of a block full, for software that asks it. */
static vd_error
fill_bitmap(struct vd_vhd_image *vhd, uint32_t entry)
{
    uint64_t place = (uint64_t)entry * VHD_SECTOR_SIZE;
    uint32_t rest = vhd->header.block_size / VHD_SECTOR_SIZE / 8;
    for (uint32_t at = 0; at < vhd->bitmap_size; at += VHD_SECTOR_SIZE) {
        uint8_t bits[VHD_SECTOR_SIZE];
        uint32_t used = rest < VHD_SECTOR_SIZE ? rest : VHD_SECTOR_SIZE;
        vd_error error =
            vd_file_pread(vhd->image.file, bits, sizeof(bits), place + at);
        if (error == ERROR_SUCCESS && !is_full(bits, used)) {
            memset(bits, 0xFF, used);
            error = vd_file_pwrite(vhd->image.file, bits, sizeof(bits),
                                   place + at);
        }
        if (error != ERROR_SUCCESS) {
            return error;
        }
        rest -= used;
    }
    return ERROR_SUCCESS;
}

/* The blocks of one BAT page that may have been written in place. */
static vd_error
fill_found(struct vd_vhd_image *vhd, struct vd_vhd_page *page)
{
    for (unsigned i = 0; i < VHD_BAT_PAGE_ENTRIES; i++) {
        uint32_t bit = 1u << i % 32;
        uint32_t found = atomic_load(&page->usage->found[i / 32]);
        uint32_t entry;
        if ((found & ~page->usage->full[i / 32] & bit) == 0) {
            continue;
        }
        entry = atomic_load(&page->words[i]);
        if (entry == VHD_UNUSED) {
            continue;
        }
        vd_error error = fill_bitmap(vhd, entry);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        page->usage->full[i / 32] |= bit;
    }
    return ERROR_SUCCESS;
}

static vd_error
fill_bitmaps(struct vd_vhd_image *vhd)
{
    uint64_t found = atomic_load(&vhd->found_blocks);
    if (vhd->child || found == vhd->found_blocks_seen) {
        return ERROR_SUCCESS;
    }
    for (uint64_t first = 0; first < vhd->blocks;
         first += VHD_BAT_PAGE_ENTRIES) {
        struct vd_vhd_page *page =
            atomic_load(vd_vhd_bat_slot(vhd, first / VHD_BAT_PAGE_ENTRIES));
        vd_error error = page != NULL ? fill_found(vhd, page) : ERROR_SUCCESS;
        if (error != ERROR_SUCCESS) {
            return error;
        }
    }
    vhd->found_blocks_seen = found;
    return ERROR_SUCCESS;
}

/* ---- commit ---- */

static bool
is_of_new_block(const struct vd_vhd_image *vhd, const struct vd_vhd_page *page)
{
    return page->born > vhd->commits;
}

/* Writes the pages of the list that are of new blocks, or all others too. */
static vd_error
write_pages(struct vd_vhd_image *vhd, bool all)
{
    for (struct vd_vhd_page *page = vhd->dirty; page != NULL;
         page = page->next_dirty) {
        if (!all && !is_of_new_block(vhd, page)) {
            continue;
        }
        vd_error error = vd_vhd_page_write_dirty(vhd, page);
        if (error != ERROR_SUCCESS) {
            return error;
        }
    }
    return ERROR_SUCCESS;
}

static void
clear_list(struct vd_vhd_image *vhd)
{
    while (vhd->dirty != NULL) {
        struct vd_vhd_page *page = vhd->dirty;
        vhd->dirty = page->next_dirty;
        page->next_dirty = NULL;
        page->listed = false;
    }
}

static vd_error
commit_changes(struct vd_vhd_image *vhd)
{
    vd_error error = ERROR_SUCCESS;
    if (!vd_vhd_is_fixed(vhd) && vhd->begun) {
        error = fill_bitmaps(vhd);
    }
    if (error == ERROR_SUCCESS) {
        error = write_pages(vhd, false);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_file_flush(vhd->image.file);
    }
    if (error == ERROR_SUCCESS && vhd->dirty != NULL) {
        error = write_pages(vhd, true);
        if (error == ERROR_SUCCESS) {
            error = vd_file_flush(vhd->image.file);
        }
    }
    if (error == ERROR_SUCCESS) {
        clear_list(vhd);
        vhd->commits++;
    }
    return error;
}

vd_error
vd_vhd_commit(struct vd_image *image)
{
    struct vd_vhd_image *vhd = vd_vhd_of(image);
    if (vhd->failed) {
        return ERROR_IO_DEVICE;
    }
    return vd_vhd_remember(vhd, commit_changes(vhd));
}

/* ---- close ---- */

static vd_error
end_changes(struct vd_vhd_image *vhd)
{
    vd_error error = vd_vhd_commit(&vhd->image);
    if (error != ERROR_SUCCESS || vd_vhd_is_fixed(vhd)) {
        return error;
    }
    if (vhd->released) {
        error = vd_vhd_scan(vhd);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_vhd_withdraw(vhd);
    }
    if (error == ERROR_SUCCESS) {
        vd_vhd_reclaim(&vhd->image); /* nobody reads any more */
    }
    return error;
}

vd_error
vd_vhd_end(struct vd_vhd_image *vhd)
{
    if (!vhd->begun) {
        return ERROR_SUCCESS;
    }
    return vhd->failed ? ERROR_IO_DEVICE
                       : vd_vhd_remember(vhd, end_changes(vhd));
}
