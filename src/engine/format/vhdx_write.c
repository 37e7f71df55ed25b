/*
 * Changing the payload of a VHDX image: allocating blocks, writing parts of a
 * differencing block, zeroing and giving up blocks (FORMATS 4.1-4.4).
 *
 * Only one thread is in here at a time.  Order towards concurrent readers:
 * payload first, then the bitmap, then the BAT entry that leads to them.
 * Nothing is durable before vd_vhdx_commit, so nothing here waits for the disk
 * (except when the log has no room for more changed pages).
 */
#include "format/vhdx_write.h"

#include <stdlib.h>
#include <string.h>

#include "base/trace.h"

/* Whether a block in this state may have space without being present. */
static bool
is_anchor(unsigned state)
{
    return state == VHDX_UNDEFINED || state == VHDX_UNMAPPED ||
           state == VHDX_UNMAPPED_DRAFT;
}

/* ---- sector bitmaps ---- */

/* Sets or clears the bits of sectors, which lie in one chunk. */
static vd_error
mark(struct vhdx_image *vhdx, uint64_t sector, uint64_t count, bool present)
{
    uint64_t chunk = sector / VHDX_CHUNK_SECTORS;
    while (count != 0) {
        uint64_t bit = sector % VHDX_CHUNK_SECTORS;
        struct vhdx_page *page;
        vd_error error = vd_vhdx_bitmap_page(
            vhdx, chunk, (unsigned)(bit / (VHDX_PAGE_SIZE * 8)), &page);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        uint64_t run = 64 - bit % 64;
        if (run > count) {
            run = count;
        }
        uint64_t mask = (run == 64 ? UINT64_MAX : ((uint64_t)1 << run) - 1)
                        << bit % 64;
        unsigned word = (unsigned)(bit / 64 % VHDX_PAGE_WORDS);
        uint64_t old = atomic_load(&page->words[word]);
        error = vd_vhdx_page_store(vhdx, page, word,
                                   present ? old | mask : old & ~mask);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        sector += run;
        count -= run;
    }
    return ERROR_SUCCESS;
}

/* Gives a chunk its bitmap block if it has none yet. */
static vd_error
need_bitmap(struct vhdx_image *vhdx, uint64_t chunk)
{
    uint64_t index = vd_vhdx_bitmap_index(&vhdx->geometry, chunk), entry,
             offset;
    vd_error error = vd_vhdx_bat_entry(vhdx, index, &entry);
    if (error != ERROR_SUCCESS ||
        VHDX_ENTRY_STATE(entry) == VHDX_BITMAP_PRESENT) {
        return error;
    }
    error = vd_vhdx_space_take(vhdx, VHDX_BITMAP_SIZE, &offset);
    return error != ERROR_SUCCESS
               ? error
               : vd_vhdx_set_entry(vhdx, index, offset | VHDX_BITMAP_PRESENT);
}

/* ---- one block ---- */

struct block {
    uint64_t number;
    uint64_t index; /* of its BAT entry */
    uint64_t entry;
    uint64_t start;  /* on the virtual disk */
    uint64_t length; /* of it that lies on the disk */
};

static vd_error
block_at(struct vhdx_image *vhdx, uint64_t offset, struct block *out)
{
    const struct vhdx_geometry *geometry = &vhdx->geometry;
    uint64_t size = vhdx->metadata.size_bytes;
    out->number = offset / geometry->block_size;
    out->index = vd_vhdx_payload_index(geometry, out->number);
    out->start = out->number * geometry->block_size;
    out->length = geometry->block_size;
    if (out->length > size - out->start) {
        out->length = size - out->start;
    }
    return vd_vhdx_bat_entry(vhdx, out->index, &out->entry);
}

static uint64_t
space_of(const struct block *block)
{
    return VHDX_ENTRY_OFFSET(block->entry);
}

/* Payload; the file may end before it. */
static vd_error
write_payload(struct vhdx_image *vhdx, uint64_t file_offset,
              const void *buffer, size_t length)
{
    vd_error error =
        vd_file_pwrite(vhdx->image.file, buffer, length, file_offset);
    if (error == ERROR_SUCCESS &&
        file_offset + length > atomic_load(&vhdx->file_size)) {
        atomic_store(&vhdx->file_size, file_offset + length);
    }
    return error;
}

static vd_error
write_present(struct vhdx_image *vhdx, const struct block *block,
              const void *buffer, size_t length, uint64_t offset)
{
    return write_payload(vhdx, space_of(block) + offset - block->start, buffer,
                         length);
}

/* Space for a block that is in none of the present states: its own former
 * space if it kept that, made to read as zeros. */
static vd_error
block_space(struct vhdx_image *vhdx, const struct block *block,
            uint64_t *offset_out)
{
    unsigned state = VHDX_ENTRY_STATE(block->entry);
    if (!is_anchor(state) || space_of(block) == 0) {
        return vd_vhdx_space_take(vhdx, vhdx->geometry.block_size, offset_out);
    }
    *offset_out = space_of(block);
    return vd_file_punch(vhdx->image.file, *offset_out,
                         vhdx->geometry.block_size);
}

/* A block that so far had nothing here becomes present; what is not written
 * reads as zeros. */
static vd_error
write_new(struct vhdx_image *vhdx, const struct block *block,
          const void *buffer, size_t length, uint64_t offset)
{
    const struct vhdx_geometry *geometry = &vhdx->geometry;
    uint64_t space;
    vd_error error = block_space(vhdx, block, &space);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = write_payload(vhdx, space + offset - block->start, buffer, length);
    if (error == ERROR_SUCCESS) {
        error =
            vd_vhdx_set_entry(vhdx, block->index, space | VHDX_FULLY_PRESENT);
    }
    if (error != ERROR_SUCCESS && space != space_of(block)) {
        vd_vhdx_space_put_back(vhdx, space, geometry->block_size);
    }
    return error;
}

/* The bits of a block that was all its parent's: those of what is written,
 * and no others, for they meant nothing so far. */
static vd_error
mark_new(struct vhdx_image *vhdx, const struct block *block, size_t length,
         uint64_t offset)
{
    const struct vhdx_geometry *geometry = &vhdx->geometry;
    uint32_t sector_size = geometry->sector_size;
    vd_error error = need_bitmap(vhdx, block->number / geometry->chunk_ratio);
    if (error == ERROR_SUCCESS) {
        error = mark(vhdx, block->start / sector_size,
                     geometry->block_size / sector_size, false);
    }
    return error != ERROR_SUCCESS
               ? error
               : mark(vhdx, offset / sector_size, length / sector_size, true);
}

/* A differencing block of which only a part is written. */
static vd_error
write_new_partial(struct vhdx_image *vhdx, const struct block *block,
                  const void *buffer, size_t length, uint64_t offset)
{
    uint32_t block_size = vhdx->geometry.block_size;
    uint64_t space;
    vd_error error = vd_vhdx_space_take(vhdx, block_size, &space);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = write_payload(vhdx, space + offset - block->start, buffer, length);
    if (error == ERROR_SUCCESS) {
        error = mark_new(vhdx, block, length, offset);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_vhdx_set_entry(vhdx, block->index,
                                  space | VHDX_PARTIALLY_PRESENT);
    }
    if (error != ERROR_SUCCESS) {
        vd_vhdx_space_put_back(vhdx, space, block_size);
    }
    return error;
}

static vd_error
write_partial(struct vhdx_image *vhdx, const struct block *block,
              const void *buffer, size_t length, uint64_t offset)
{
    uint32_t sector_size = vhdx->geometry.sector_size;
    vd_error error = write_present(vhdx, block, buffer, length, offset);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (length == block->length) {
        return vd_vhdx_set_entry(vhdx, block->index,
                                 space_of(block) | VHDX_FULLY_PRESENT);
    }
    return mark(vhdx, offset / sector_size, length / sector_size, true);
}

static vd_error
write_block(struct vhdx_image *vhdx, const void *buffer, size_t length,
            uint64_t offset)
{
    struct block block;
    vd_error error = vd_vhdx_make_room(vhdx);
    if (error == ERROR_SUCCESS) {
        error = block_at(vhdx, offset, &block);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    bool child = vhdx->metadata.has_parent;
    switch (VHDX_ENTRY_STATE(block.entry)) {
    case VHDX_PARTIALLY_PRESENT:
        if (child) {
            return write_partial(vhdx, &block, buffer, length, offset);
        }
        /* fall through - without a parent it can only be present */
    case VHDX_FULLY_PRESENT:
        return write_present(vhdx, &block, buffer, length, offset);
    case VHDX_NOT_PRESENT:
        if (child && length != block.length) {
            return write_new_partial(vhdx, &block, buffer, length, offset);
        }
        return write_new(vhdx, &block, buffer, length, offset);
    default:
        return write_new(vhdx, &block, buffer, length, offset);
    }
}

/* How much of a range lies in the block of its start. */
static uint64_t
piece_of(const struct vhdx_image *vhdx, uint64_t offset, uint64_t length)
{
    uint64_t rest =
        vhdx->geometry.block_size - offset % vhdx->geometry.block_size;
    return length < rest ? length : rest;
}

vd_error
vd_vhdx_write(struct vd_image *image, const void *buffer, size_t length,
              uint64_t offset)
{
    struct vhdx_image *vhdx = vd_vhdx_of(image);
    const uint8_t *from = buffer;
    vd_error error = vd_vhdx_begin(image, VD_CHANGE_CONTENT);
    while (length != 0 && error == ERROR_SUCCESS) {
        size_t piece = (size_t)piece_of(vhdx, offset, length);
        error = write_block(vhdx, from, piece, offset);
        from += piece;
        offset += piece;
        length -= piece;
    }
    return error;
}

/* ---- zeroing ---- */

/* Zeros stored as data, where the block has space for them. */
vd_error
vd_vhdx_store_zeros(struct vhdx_image *vhdx, uint64_t file_offset,
                    uint64_t length, bool may_free)
{
    static const uint8_t zeros[64 * 1024];
    if (may_free) {
        return vd_file_punch(vhdx->image.file, file_offset, length);
    }
    while (length != 0) {
        size_t piece = length < sizeof(zeros) ? (size_t)length : sizeof(zeros);
        vd_error error = write_payload(vhdx, file_offset, zeros, piece);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        file_offset += piece;
        length -= piece;
    }
    return ERROR_SUCCESS;
}

/* Zeros written like any other data: where the parent must be hidden. */
static vd_error
write_zeros(struct vhdx_image *vhdx, uint64_t offset, uint64_t length)
{
    static const uint8_t zeros[64 * 1024];
    while (length != 0) {
        size_t piece = length < sizeof(zeros) ? (size_t)length : sizeof(zeros);
        vd_error error = write_block(vhdx, zeros, piece, offset);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        offset += piece;
        length -= piece;
    }
    return ERROR_SUCCESS;
}

/* A whole block becomes what needs no space, and loses what it has. */
static vd_error
empty_whole(struct vhdx_image *vhdx, const struct block *block,
            enum vhdx_payload_state state)
{
    bool owner = vd_vhdx_owns_space(vhdx, block->entry, false);
    vd_error error = owner ? vd_vhdx_space_reserve(vhdx) : ERROR_SUCCESS;
    if (error == ERROR_SUCCESS) {
        error = vd_vhdx_set_entry(vhdx, block->index, state);
    }
    if (error == ERROR_SUCCESS && owner) {
        vd_vhdx_space_give_up(vhdx, space_of(block), vhdx->geometry.block_size,
                              vhdx->commits + 1);
    }
    return error;
}

/* A present block: part of it, or all of it while its space is kept. */
static vd_error
zero_present(struct vhdx_image *vhdx, const struct block *block,
             uint64_t offset, uint64_t length, bool may_free)
{
    vd_error error = vd_vhdx_store_zeros(
        vhdx, space_of(block) + offset - block->start, length, may_free);
    if (error != ERROR_SUCCESS || !vhdx->metadata.has_parent ||
        VHDX_ENTRY_STATE(block->entry) != VHDX_PARTIALLY_PRESENT) {
        return error;
    }
    uint32_t sector_size = vhdx->geometry.sector_size;
    return mark(vhdx, offset / sector_size, length / sector_size, true);
}

static vd_error
zero_block(struct vhdx_image *vhdx, uint64_t offset, uint64_t length,
           bool may_free)
{
    struct block block;
    vd_error error = vd_vhdx_make_room(vhdx);
    if (error == ERROR_SUCCESS) {
        error = block_at(vhdx, offset, &block);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    bool whole = length == block.length;
    bool keeps_space = vhdx->metadata.leave_allocated || !may_free;
    switch (VHDX_ENTRY_STATE(block.entry)) {
    case VHDX_FULLY_PRESENT:
    case VHDX_PARTIALLY_PRESENT:
        return whole && !keeps_space
                   ? empty_whole(vhdx, &block, VHDX_ZERO)
                   : zero_present(vhdx, &block, offset, length, may_free);
    case VHDX_NOT_PRESENT:
        if (!vhdx->metadata.has_parent) {
            return ERROR_SUCCESS; /* reads as zeros already */
        }
        return whole ? empty_whole(vhdx, &block, VHDX_ZERO)
                     : write_zeros(vhdx, offset, length);
    default:
        return ERROR_SUCCESS;
    }
}

vd_error
vd_vhdx_zero(struct vd_image *image, uint64_t offset, uint64_t length,
             bool may_free)
{
    struct vhdx_image *vhdx = vd_vhdx_of(image);
    vd_error error = vd_vhdx_begin(image, VD_CHANGE_LAYOUT);
    while (length != 0 && error == ERROR_SUCCESS) {
        uint64_t piece = piece_of(vhdx, offset, length);
        error = zero_block(vhdx, offset, piece, may_free);
        offset += piece;
        length -= piece;
    }
    return error;
}

/* ---- asking the parent again ---- */

vd_error
vd_vhdx_forget(struct vd_image *image, uint64_t offset, uint64_t length)
{
    struct vhdx_image *vhdx = vd_vhdx_of(image);
    if (!vhdx->metadata.has_parent) {
        vd_trace(VD_TRACE_FORMAT, "VHDX: there is no parent to ask");
        return ERROR_VHD_INVALID_TYPE;
    }
    vd_error error = vd_vhdx_begin(image, VD_CHANGE_LAYOUT);
    while (length != 0 && error == ERROR_SUCCESS) {
        uint64_t piece = piece_of(vhdx, offset, length);
        struct block block;
        error = vd_vhdx_make_room(vhdx);
        if (error == ERROR_SUCCESS) {
            error = block_at(vhdx, offset, &block);
        }
        if (error == ERROR_SUCCESS && piece == block.length) {
            error = empty_whole(vhdx, &block, VHDX_NOT_PRESENT);
        }
        offset += piece;
        length -= piece;
    }
    return error;
}
