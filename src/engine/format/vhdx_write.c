/*
 * Changing a VHDX image: allocating blocks, writing parts of a differencing
 * block, zeroing and giving up space (FORMATS 4.1-4.4).
 *
 * Only one thread is in here at a time.  Order towards concurrent readers:
 * payload first, then the bitmap, then the BAT entry that leads to them.
 * Nothing is durable before vd_vhdx_commit, so nothing here waits for the disk
 * (except when the log has no room for more changed pages).
 */
#include "format/vhdx.h"

#include <stdlib.h>
#include <string.h>

#include "base/trace.h"

/* No change of one block touches more pages than this: two of the BAT, and
 * the bitmap of a 256 MiB block in 512-byte sectors. */
#define PAGES_OF_ONE_CHANGE 20

/* ---- changed pages ---- */

static vd_error
allocate_page(struct vhdx_image *vhdx, struct vhdx_page *page)
{
    if (page->allocated) {
        return ERROR_SUCCESS;
    }
    vd_error error = vd_vhdx_page_apply(vhdx, page);
    page->allocated = error == ERROR_SUCCESS;
    return error;
}

vd_error
vd_vhdx_page_store(struct vhdx_image *vhdx, struct vhdx_page *page,
                   unsigned word, uint64_t value)
{
    if (atomic_load(&page->words[word]) == value) {
        return ERROR_SUCCESS;
    }
    vd_error error = allocate_page(vhdx, page);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    atomic_store(&page->words[word], value);
    if (!page->dirty) {
        page->dirty = true;
        page->next_dirty = vhdx->dirty;
        vhdx->dirty = page;
        vhdx->dirty_count++;
    }
    return ERROR_SUCCESS;
}

static vd_error
set_entry(struct vhdx_image *vhdx, uint64_t index, uint64_t entry)
{
    struct vhdx_page *page;
    vd_error error = vd_vhdx_bat_page(vhdx, index, &page);
    return error != ERROR_SUCCESS
               ? error
               : vd_vhdx_page_store(
                     vhdx, page, (unsigned)(index % VHDX_PAGE_WORDS), entry);
}

static vd_error
make_room(struct vhdx_image *vhdx)
{
    if (vhdx->dirty_count + PAGES_OF_ONE_CHANGE <=
        vd_vhdx_log_capacity(vhdx)) {
        return ERROR_SUCCESS;
    }
    return vd_vhdx_commit(&vhdx->image);
}

/* ---- space ---- */

/* Space given up earlier that may be used again: zeroed, for it holds
 * another block's old data. */
static vd_error
take_free(struct vhdx_image *vhdx, uint64_t *offset_out, bool *found_out)
{
    struct vhdx_space *space = &vhdx->space;
    for (size_t i = 0; i < space->count; i++) {
        if (!space->blocks[i].reclaimed) {
            continue;
        }
        uint64_t offset = space->blocks[i].file_offset;
        vd_error error =
            vd_file_punch(vhdx->image.file, offset, vhdx->geometry.block_size);
        if (error == ERROR_SUCCESS) {
            space->blocks[i] = space->blocks[--space->count];
            *offset_out = offset;
            *found_out = true;
        }
        return error;
    }
    *found_out = false;
    return ERROR_SUCCESS;
}

/* New space at the end; it reads as zeros. */
static vd_error
extend(struct vhdx_image *vhdx, uint64_t length, uint64_t *offset_out)
{
    uint64_t offset = vhdx->space_end, end = offset + length;
    vd_error error = vd_file_truncate(vhdx->image.file, end);
    if (error == ERROR_SUCCESS) {
        atomic_store(&vhdx->file_size, end);
        vhdx->space_end = end;
        *offset_out = offset;
    }
    return error;
}

static vd_error
allocate_block(struct vhdx_image *vhdx, uint64_t *offset_out)
{
    bool found = false;
    vd_error error = take_free(vhdx, offset_out, &found);
    if (error != ERROR_SUCCESS || found) {
        return error;
    }
    return extend(vhdx, vhdx->geometry.block_size, offset_out);
}

/* Remembers space that the block no longer uses.  Without memory for that it
 * is merely lost until the image is compacted. */
static void
give_up(struct vhdx_image *vhdx, uint64_t file_offset)
{
    struct vhdx_space *space = &vhdx->space;
    if (space->count == space->capacity) {
        size_t capacity = space->capacity * 2 + 16;
        struct vhdx_free_block *grown =
            realloc(space->blocks, capacity * sizeof(*grown));
        if (grown == NULL) {
            return;
        }
        space->blocks = grown;
        space->capacity = capacity;
    }
    space->blocks[space->count++] = (struct vhdx_free_block){
        .file_offset = file_offset, .commit = vhdx->commits + 1};
}

void
vd_vhdx_reclaim(struct vd_image *image)
{
    struct vhdx_image *vhdx = vd_vhdx_of(image);
    for (size_t i = 0; i < vhdx->space.count; i++) {
        struct vhdx_free_block *block = &vhdx->space.blocks[i];
        block->reclaimed |= block->commit <= vhdx->commits;
    }
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
    error = extend(vhdx, VHDX_BITMAP_SIZE, &offset);
    return error != ERROR_SUCCESS
               ? error
               : set_entry(vhdx, index, offset | VHDX_BITMAP_PRESENT);
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
    bool anchored = state == VHDX_UNDEFINED || state == VHDX_UNMAPPED ||
                    state == VHDX_UNMAPPED_DRAFT;
    if (!anchored || space_of(block) == 0) {
        return allocate_block(vhdx, offset_out);
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
    uint64_t space;
    vd_error error = block_space(vhdx, block, &space);
    if (error == ERROR_SUCCESS) {
        error =
            write_payload(vhdx, space + offset - block->start, buffer, length);
    }
    return error != ERROR_SUCCESS
               ? error
               : set_entry(vhdx, block->index, space | VHDX_FULLY_PRESENT);
}

/* A differencing block of which only a part is written: the bits of all
 * others are cleared, for they meant nothing so far. */
static vd_error
write_new_partial(struct vhdx_image *vhdx, const struct block *block,
                  const void *buffer, size_t length, uint64_t offset)
{
    const struct vhdx_geometry *geometry = &vhdx->geometry;
    uint32_t sector_size = geometry->sector_size;
    uint64_t space;
    vd_error error = allocate_block(vhdx, &space);
    if (error == ERROR_SUCCESS) {
        error =
            write_payload(vhdx, space + offset - block->start, buffer, length);
    }
    if (error == ERROR_SUCCESS) {
        error = need_bitmap(vhdx, block->number / geometry->chunk_ratio);
    }
    if (error == ERROR_SUCCESS) {
        error = mark(vhdx, block->start / sector_size,
                     geometry->block_size / sector_size, false);
    }
    if (error == ERROR_SUCCESS) {
        error = mark(vhdx, offset / sector_size, length / sector_size, true);
    }
    return error != ERROR_SUCCESS
               ? error
               : set_entry(vhdx, block->index, space | VHDX_PARTIALLY_PRESENT);
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
        return set_entry(vhdx, block->index,
                         space_of(block) | VHDX_FULLY_PRESENT);
    }
    return mark(vhdx, offset / sector_size, length / sector_size, true);
}

static vd_error
write_block(struct vhdx_image *vhdx, const void *buffer, size_t length,
            uint64_t offset)
{
    struct block block;
    vd_error error = make_room(vhdx);
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
static vd_error
store_zeros(struct vhdx_image *vhdx, uint64_t file_offset, uint64_t length,
            bool may_free)
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

/* A whole block becomes ZERO and loses its space. */
static vd_error
zero_whole(struct vhdx_image *vhdx, const struct block *block)
{
    vd_error error = set_entry(vhdx, block->index, VHDX_ZERO);
    unsigned state = VHDX_ENTRY_STATE(block->entry);
    if (error == ERROR_SUCCESS && space_of(block) != 0 &&
        (state == VHDX_FULLY_PRESENT || state == VHDX_PARTIALLY_PRESENT)) {
        give_up(vhdx, space_of(block));
    }
    return error;
}

/* A present block: part of it, or all of it while its space is kept. */
static vd_error
zero_present(struct vhdx_image *vhdx, const struct block *block,
             uint64_t offset, uint64_t length, bool may_free)
{
    vd_error error = store_zeros(vhdx, space_of(block) + offset - block->start,
                                 length, may_free);
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
    vd_error error = make_room(vhdx);
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
                   ? zero_whole(vhdx, &block)
                   : zero_present(vhdx, &block, offset, length, may_free);
    case VHDX_NOT_PRESENT:
        if (!vhdx->metadata.has_parent) {
            return ERROR_SUCCESS; /* reads as zeros already */
        }
        return whole ? zero_whole(vhdx, &block)
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
