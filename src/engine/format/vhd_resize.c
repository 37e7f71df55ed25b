/*
 * Another virtual size.  As on Windows a VHD only grows, and a differencing
 * one not even that: whoever opens it refuses a parent of another size.
 *
 * What shows the new size is one sector, the footer at the end of the file;
 * before it is written everything else is durable.  A dynamic disk needs more
 * entries in its BAT for that, nothing else.  Of a fixed disk the footer, as
 * it was, is first appended at the new end (the disk is the first bytes of the
 * file, however long that is), then its old place is zeroed; a power cut that
 * leaves the longer file without the footer in it would be fatal, for there
 * is no copy, but file systems make a new length durable no sooner than what
 * was appended.
 */
#include "format/vhd.h"

#include "base/checked.h"
#include "base/trace.h"

#define ZEROS_SIZE (64u * 1024)

static vd_error
refuse(vd_error error, const char *reason)
{
    vd_trace(VD_TRACE_FORMAT, "VHD: cannot resize: %s", reason);
    return error;
}

static vd_error
write_zeros(struct vd_vhd_image *vhd, uint64_t offset, uint64_t end)
{
    static const uint8_t zeros[ZEROS_SIZE];
    vd_error error = ERROR_SUCCESS;
    while (offset < end && error == ERROR_SUCCESS) {
        size_t piece =
            end - offset < ZEROS_SIZE ? (size_t)(end - offset) : ZEROS_SIZE;
        error = vd_file_pwrite(vhd->image.file, zeros, piece, offset);
        offset += piece;
    }
    return error;
}

/* Everything but the footer's content is done. */
static vd_error
show_size(struct vd_vhd_image *vhd, uint64_t size)
{
    struct vd_vhd_footer footer = vhd->footers.footer;
    footer.current_size = size;
    footer.geometry = vd_vhd_geometry_of_size(size);
    vd_error error = vd_file_flush(vhd->image.file);
    if (error == ERROR_SUCCESS) {
        error = vd_vhd_store_footer(vhd, &footer);
    }
    error = vd_vhd_remember(vhd, error);
    if (error == ERROR_SUCCESS) {
        vhd->image.info.size_bytes = size;
    }
    return error;
}

/* ---- fixed ---- */

/* Where the footer goes: behind the disk, and not over itself. */
static uint64_t
new_footer_place(const struct vd_vhd_footers *footers, uint64_t size)
{
    uint64_t end = footers->tail_offset + footers->tail_size;
    if (size <= footers->tail_offset &&
        footers->tail_offset % VHD_SECTOR_SIZE == 0 &&
        footers->tail_size == VHD_FOOTER_SIZE) {
        return footers->tail_offset; /* the file is longer than the disk */
    }
    end = (end + VHD_SECTOR_SIZE - 1) / VHD_SECTOR_SIZE * VHD_SECTOR_SIZE;
    return size > end ? size : end;
}

/* The footer stays where it was. */
static vd_error
undo(struct vd_vhd_image *vhd, const struct vd_vhd_footers *before,
     vd_error reason)
{
    vd_error error = vd_file_truncate(vhd->image.file, before->file_size);
    if (error == ERROR_SUCCESS) {
        error = vd_file_flush(vhd->image.file);
    }
    vhd->footers = *before;
    error = vd_vhd_remember(vhd, error);
    return error != ERROR_SUCCESS ? error : reason;
}

vd_error
vd_vhd_extend(struct vd_vhd_image *vhd, uint64_t size_bytes)
{
    struct vd_vhd_footers before = vhd->footers;
    uint64_t place = new_footer_place(&before, size_bytes);
    if (place == before.tail_offset) {
        return ERROR_SUCCESS;
    }
    vd_error error = vd_vhd_put_tail(vhd, place);
    if (error == ERROR_SUCCESS && size_bytes > before.file_size) {
        error = vd_file_allocate(vhd->image.file, before.file_size,
                                 size_bytes - before.file_size);
        error = error == ERROR_NOT_SUPPORTED ? ERROR_SUCCESS : error;
    }
    return error != ERROR_SUCCESS ? undo(vhd, &before, error) : error;
}

static vd_error
grow_fixed(struct vd_vhd_image *vhd, uint64_t size)
{
    uint64_t old_size = vhd->footers.footer.current_size;
    uint64_t old_end = vhd->footers.file_size;
    vd_error error = vd_vhd_extend(vhd, size);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = write_zeros(vhd, old_size, size < old_end ? size : old_end);
    error = vd_vhd_remember(vhd, error);
    return error != ERROR_SUCCESS ? error : show_size(vhd, size);
}

/* ---- dynamic ---- */

/* The last block may reach beyond the disk, and hold anything there. */
static vd_error
clear_last_block(struct vd_vhd_image *vhd, uint64_t size)
{
    uint64_t block_size = vhd->header.block_size;
    uint64_t start = vhd->image.info.size_bytes;
    uint64_t last = vhd->blocks - 1;
    uint64_t end = vhd->blocks * block_size;
    struct vd_vhd_page *page;
    vd_error error = vd_vhd_bat_page(vhd, last, &page);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    uint64_t entry = atomic_load(&page->words[last % VHD_BAT_PAGE_ENTRIES]);
    if (entry == VHD_UNUSED) {
        return ERROR_SUCCESS;
    }
    uint64_t shift =
        entry * VHD_SECTOR_SIZE + vhd->bitmap_size - last * block_size;
    end = size < end ? size : end;
    return write_zeros(vhd, start + shift, end + shift);
}

static vd_error
grow_dynamic(struct vd_vhd_image *vhd, uint64_t size)
{
    uint64_t blocks = vd_vhd_entries_needed(size, vhd->header.block_size);
    vd_error error = ERROR_SUCCESS;
    if (blocks > vhd->blocks) {
        error = vd_vhd_table_grow(vhd, blocks);
    }
    if (error == ERROR_SUCCESS) {
        error = clear_last_block(vhd, size);
    }
    if (error == ERROR_SUCCESS) {
        error = show_size(vhd, size);
    }
    if (error == ERROR_SUCCESS) {
        vhd->blocks = blocks;
        vd_vhd_collect_ranges(vhd);
    }
    return error;
}

/* ---- both ---- */

static vd_error
check(const struct vd_vhd_image *vhd, uint64_t size)
{
    bool fixed = vd_vhd_is_fixed(vhd);
    if (vhd->child) {
        return refuse(ERROR_VHD_INVALID_TYPE, "it has a parent");
    }
    if (size < vhd->image.info.size_bytes) {
        return refuse(ERROR_VHD_INVALID_TYPE, "VHDs do not shrink");
    }
    if (size > (fixed ? INT64_MAX - VHD_FOOTER_SIZE : VHD_MAX_DYNAMIC_SIZE)) {
        return refuse(ERROR_VHD_INVALID_SIZE, "too large");
    }
    if (size % VHD_SECTOR_SIZE != 0) {
        return refuse(ERROR_INVALID_PARAMETER, "no whole sectors");
    }
    return vhd->has_batmap ? refuse(ERROR_NOT_SUPPORTED, "it has a batmap")
                           : vd_vhd_check_state(vhd);
}

vd_error
vd_vhd_resize(struct vd_image *image, uint64_t size_bytes)
{
    struct vd_vhd_image *vhd = vd_vhd_of(image);
    vd_error error = check(vhd, size_bytes);
    if (error != ERROR_SUCCESS || size_bytes == image->info.size_bytes) {
        return error;
    }
    error = vd_vhd_begin(image, VD_CHANGE_LAYOUT);
    if (error == ERROR_SUCCESS) {
        error = vd_vhd_commit(image); /* memory is what the file is */
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    return vd_vhd_is_fixed(vhd) ? grow_fixed(vhd, size_bytes)
                                : grow_dynamic(vhd, size_bytes);
}
