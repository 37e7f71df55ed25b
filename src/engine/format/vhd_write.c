/*
 * Changing a VHD: allocating blocks, writing parts of a differencing block,
 * zeroing and giving up space.
 *
 * Only one thread is in here at a time.  Order towards concurrent readers:
 * payload first, then the bitmap, then the BAT entry that leads to them.
 * Nothing is durable before vd_vhd_commit, and nothing here waits for the
 * disk, except when the footer must move ahead to make room.
 *
 * A new block is written whole before its entry is: where it goes the file
 * reads as zeros, but for the sector of its bitmap, where the footer may have
 * been.
 */
#include "format/vhd.h"

#include <string.h>

#include "base/trace.h"

#define ZEROS_SIZE (64u * 1024)

/* ---- space ---- */

static vd_error
allocate(struct vd_vhd_image *vhd, uint64_t *place_out)
{
    bool found = false;
    vd_error error = vd_vhd_space_take(vhd, place_out, &found);
    if (error != ERROR_SUCCESS || found) {
        return error;
    }
    uint64_t place = vd_vhd_block_place(vhd, vhd->next_free);
    if (place / VHD_SECTOR_SIZE >= VHD_UNUSED) {
        vd_trace(VD_TRACE_FORMAT, "VHD: the file has reached 2 TiB");
        return ERROR_VHD_BLOCK_ALLOCATION_FAILURE;
    }
    error = vd_vhd_reserve(vhd, place);
    if (error == ERROR_SUCCESS) {
        vhd->next_free = place + vhd->bitmap_size + vhd->header.block_size;
        *place_out = place;
    }
    return error;
}

/* ---- one block ---- */

struct block {
    uint64_t number;
    struct vd_vhd_page *page; /* of the BAT */
    unsigned index;           /* in it */
    uint32_t entry;
    uint64_t start;  /* on the virtual disk */
    uint64_t length; /* of it that lies on the disk */
};

/* Part of the disk that lies in one block. */
struct piece {
    const void *buffer; /* NULL: zeros, for space that reads as such */
    uint64_t offset;
    uint64_t length;
};

static vd_error
block_at(struct vd_vhd_image *vhd, uint64_t offset, struct block *out)
{
    uint64_t size = vhd->image.info.size_bytes;
    out->number = offset / vhd->header.block_size;
    out->index = (unsigned)(out->number % VHD_BAT_PAGE_ENTRIES);
    out->start = out->number * vhd->header.block_size;
    out->length = vhd->header.block_size;
    if (out->length > size - out->start) {
        out->length = size - out->start;
    }
    vd_error error = vd_vhd_bat_page(vhd, out->number, &out->page);
    if (error == ERROR_SUCCESS) {
        out->entry = atomic_load(&out->page->words[out->index]);
    }
    return error;
}

static uint64_t
place_of(const struct block *block)
{
    return (uint64_t)block->entry * VHD_SECTOR_SIZE;
}

/* Where the payload of a piece stands, of a block at `place`. */
static uint64_t
payload_offset(const struct vd_vhd_image *vhd, const struct block *block,
               uint64_t place, const struct piece *piece)
{
    return place + vhd->bitmap_size + piece->offset - block->start;
}

static vd_error
write_payload(struct vd_vhd_image *vhd, const struct block *block,
              uint64_t place, const struct piece *piece)
{
    if (piece->buffer == NULL) {
        return ERROR_SUCCESS;
    }
    return vd_file_pwrite(vhd->image.file, piece->buffer,
                          (size_t)piece->length,
                          payload_offset(vhd, block, place, piece));
}

/* Sets the bits of a piece, most significant first. */
static void
mark(struct vd_vhd_image *vhd, struct vd_vhd_page *bitmap,
     const struct block *block, const struct piece *piece)
{
    uint32_t sector =
        (uint32_t)((piece->offset - block->start) / VHD_SECTOR_SIZE);
    uint32_t end = sector + (uint32_t)(piece->length / VHD_SECTOR_SIZE);
    while (sector < end) {
        uint32_t run = 32 - sector % 32;
        if (run > end - sector) {
            run = end - sector;
        }
        uint32_t mask = UINT32_MAX << (32 - run) >> sector % 32;
        uint32_t word = sector / 32;
        vd_vhd_page_store(vhd, bitmap, word,
                          atomic_load(&bitmap->words[word]) | mask);
        sector += run;
    }
}

static void
set_entry(struct vd_vhd_image *vhd, struct block *block, uint32_t entry)
{
    vd_vhd_plan_drop(vhd);
    vd_vhd_page_store(vhd, block->page, block->index, entry);
    block->entry = entry;
}

/* ---- new blocks ---- */

/* All bits set: for those who ask the bitmap the block is as full as for
 * those who do not. */
static vd_error
write_full_bitmap(struct vd_vhd_image *vhd, uint64_t place)
{
    uint8_t ones[VHD_SECTOR_SIZE];
    memset(ones, 0xFF, sizeof(ones));
    vd_error error = ERROR_SUCCESS;
    for (uint32_t at = 0; at < vhd->bitmap_size && error == ERROR_SUCCESS;
         at += VHD_SECTOR_SIZE) {
        error =
            vd_file_pwrite(vhd->image.file, ones, sizeof(ones), place + at);
    }
    return error;
}

static vd_error
fill_dynamic(struct vd_vhd_image *vhd, const struct block *block,
             uint64_t place, const struct piece *piece)
{
    vd_error error = write_full_bitmap(vhd, place);
    if (error == ERROR_SUCCESS) {
        error = write_payload(vhd, block, place, piece);
    }
    if (error == ERROR_SUCCESS) {
        block->page->usage->full[block->index / 32] |= 1u << block->index % 32;
    }
    return error;
}

/* The bitmap has only the bits of what is written: all else is still the
 * parent's. */
static vd_error
fill_child(struct vd_vhd_image *vhd, const struct block *block, uint64_t place,
           const struct piece *piece)
{
    struct vd_vhd_page *bitmap;
    vd_error error = vd_vhd_bitmap_new(vhd, place, &bitmap);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    bitmap->listed = true; /* not yet: it is written whole */
    mark(vhd, bitmap, block, piece);
    memset(bitmap->dirty, 0, sizeof(bitmap->dirty));
    bitmap->listed = false;
    error = vd_vhd_page_write(vhd, bitmap);
    if (error == ERROR_SUCCESS) {
        error = write_payload(vhd, block, place, piece);
    }
    if (error != ERROR_SUCCESS) {
        vd_vhd_page_free(bitmap);
        return error;
    }
    vd_vhd_bitmap_publish(vhd, block->page, block->index, bitmap);
    return ERROR_SUCCESS;
}

static vd_error
write_new(struct vd_vhd_image *vhd, struct block *block,
          const struct piece *piece)
{
    uint64_t place;
    vd_error error = allocate(vhd, &place);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = vhd->child ? fill_child(vhd, block, place, piece)
                       : fill_dynamic(vhd, block, place, piece);
    if (error != ERROR_SUCCESS) {
        vd_vhd_space_give_up(vhd, place, true);
        return error;
    }
    set_entry(vhd, block, (uint32_t)(place / VHD_SECTOR_SIZE));
    return ERROR_SUCCESS;
}

/* ---- giving blocks up ---- */

static void
release(struct vd_vhd_image *vhd, struct block *block)
{
    vd_vhd_space_give_up(vhd, place_of(block), false);
    set_entry(vhd, block, VHD_UNUSED);
}

/* The bitmap stays in memory for readers that are on their way to it; new
 * bits of it are of no use to anybody. */
static vd_error
forget_block(struct vd_vhd_image *vhd, uint64_t offset)
{
    struct block block;
    struct vd_vhd_page *bitmap;
    vd_error error = block_at(vhd, offset, &block);
    if (error != ERROR_SUCCESS || block.entry == VHD_UNUSED) {
        return error;
    }
    error = vd_vhd_bitmap(vhd, block.page, block.number, &bitmap);
    if (error == ERROR_SUCCESS) {
        memset(bitmap->dirty, 0, sizeof(bitmap->dirty));
        release(vhd, &block);
    }
    return error;
}

static vd_error
check_forget(const struct vd_vhd_image *vhd, uint64_t offset, uint64_t end)
{
    if (!vhd->child) {
        vd_trace(VD_TRACE_FORMAT, "VHD: no parent to fall back to");
        return ERROR_VHD_INVALID_TYPE;
    }
    if (vhd->has_batmap) {
        vd_trace(VD_TRACE_FORMAT, "VHD: it has a batmap");
        return ERROR_NOT_SUPPORTED;
    }
    if (offset % vhd->header.block_size != 0 ||
        (end % vhd->header.block_size != 0 &&
         end != vhd->image.info.size_bytes)) {
        vd_trace(VD_TRACE_FORMAT, "VHD: no whole blocks");
        return ERROR_INVALID_PARAMETER;
    }
    return vd_vhd_check_state(vhd);
}

vd_error
vd_vhd_forget(struct vd_image *image, uint64_t offset, uint64_t length)
{
    struct vd_vhd_image *vhd = vd_vhd_of(image);
    uint64_t end = offset + length;
    vd_error error = check_forget(vhd, offset, end);
    if (error == ERROR_SUCCESS) {
        error = vd_vhd_begin(image, VD_CHANGE_LAYOUT);
    }
    while (offset < end && error == ERROR_SUCCESS) {
        error = forget_block(vhd, offset);
        offset += vhd->header.block_size;
    }
    return error;
}

/* ---- writing ---- */

/* The payload of an allocated block has changed. */
static vd_error
note_written(struct vd_vhd_image *vhd, const struct block *block,
             const struct piece *piece)
{
    if (!vhd->child) {
        struct vd_extent extent; /* as whoever writes in place does */
        return vd_vhd_lookup(&vhd->image, piece->offset, piece->length,
                             &extent);
    }
    struct vd_vhd_page *bitmap;
    vd_error error = vd_vhd_bitmap(vhd, block->page, block->number, &bitmap);
    if (error == ERROR_SUCCESS) {
        mark(vhd, bitmap, block, piece);
    }
    return error;
}

static vd_error
write_block(struct vd_vhd_image *vhd, const struct piece *piece)
{
    struct block block;
    vd_error error = block_at(vhd, piece->offset, &block);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (block.entry == VHD_UNUSED) {
        return write_new(vhd, &block, piece);
    }
    error = write_payload(vhd, &block, place_of(&block), piece);
    return error != ERROR_SUCCESS ? error : note_written(vhd, &block, piece);
}

/* How much of a range lies in the block of its start. */
static uint64_t
length_in_block(const struct vd_vhd_image *vhd, uint64_t offset,
                uint64_t length)
{
    uint64_t rest = vhd->header.block_size - offset % vhd->header.block_size;
    return length < rest ? length : rest;
}

vd_error
vd_vhd_write(struct vd_image *image, const void *buffer, size_t length,
             uint64_t offset)
{
    struct vd_vhd_image *vhd = vd_vhd_of(image);
    const uint8_t *from = buffer;
    vd_error error = vd_vhd_begin(image, VD_CHANGE_CONTENT);
    if (error == ERROR_SUCCESS && vd_vhd_is_fixed(vhd)) {
        return vd_file_pwrite(image->file, buffer, length, offset);
    }
    while (length != 0 && error == ERROR_SUCCESS) {
        struct piece piece = {
            .buffer = from,
            .offset = offset,
            .length = length_in_block(vhd, offset, length),
        };
        error = write_block(vhd, &piece);
        from += piece.length;
        offset += piece.length;
        length -= (size_t)piece.length;
    }
    return error;
}

/* ---- zeroing ---- */

/* Zeros where there is space for them. */
static vd_error
store_zeros(struct vd_vhd_image *vhd, uint64_t file_offset, uint64_t length,
            bool may_free)
{
    static const uint8_t zeros[ZEROS_SIZE];
    if (may_free) {
        return vd_file_punch(vhd->image.file, file_offset, length);
    }
    while (length != 0) {
        size_t piece = length < ZEROS_SIZE ? (size_t)length : ZEROS_SIZE;
        vd_error error =
            vd_file_pwrite(vhd->image.file, zeros, piece, file_offset);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        file_offset += piece;
        length -= piece;
    }
    return ERROR_SUCCESS;
}

/* An allocated block reads as zeros here; the format has no other word for
 * that than zeros that are there. */
static vd_error
zero_present(struct vd_vhd_image *vhd, const struct block *block,
             const struct piece *piece, bool may_free)
{
    vd_error error =
        store_zeros(vhd, payload_offset(vhd, block, place_of(block), piece),
                    piece->length, may_free);
    return error != ERROR_SUCCESS ? error : note_written(vhd, block, piece);
}

/* What a differencing disk has not, its parent may have: zeros take space. */
static vd_error
zero_new(struct vd_vhd_image *vhd, struct block *block,
         const struct piece *piece, bool may_free)
{
    vd_error error = write_new(vhd, block, piece);
    if (error == ERROR_SUCCESS && !may_free) {
        error = zero_present(vhd, block, piece, false);
    }
    return error;
}

static vd_error
zero_block(struct vd_vhd_image *vhd, const struct piece *piece, bool may_free)
{
    struct block block;
    vd_error error = block_at(vhd, piece->offset, &block);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (block.entry == VHD_UNUSED) {
        return vhd->child ? zero_new(vhd, &block, piece, may_free)
                          : ERROR_SUCCESS;
    }
    bool keep = !may_free || vhd->child || vhd->has_batmap;
    if (keep || piece->length != block.length) {
        return zero_present(vhd, &block, piece, may_free);
    }
    release(vhd, &block);
    return ERROR_SUCCESS;
}

vd_error
vd_vhd_zero(struct vd_image *image, uint64_t offset, uint64_t length,
            bool may_free)
{
    struct vd_vhd_image *vhd = vd_vhd_of(image);
    vd_error error = vd_vhd_begin(image, VD_CHANGE_LAYOUT);
    if (error == ERROR_SUCCESS && vd_vhd_is_fixed(vhd)) {
        return store_zeros(vhd, offset, length, may_free);
    }
    while (length != 0 && error == ERROR_SUCCESS) {
        struct piece piece = {
            .offset = offset,
            .length = length_in_block(vhd, offset, length),
        };
        error = zero_block(vhd, &piece, may_free);
        offset += piece.length;
        length -= piece.length;
    }
    return error;
}
