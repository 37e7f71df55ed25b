/*
 * Metadata pages in memory: reading metadata through the overlay of a
 * replayed log, and the pages of the BAT and of the sector bitmaps, each read
 * when it is first needed.
 *
 * Any number of readers may ask for a page at once; the first to have read it
 * publishes it.  A published page stays until the image is closed, so memory
 * grows with what is touched, never with what the image claims.
 */
#include "format/vhdx_write.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/trace.h"

/* ---- reading metadata ---- */

static const struct vhdx_overlay_page *
overlay_page(const struct vhdx_overlay *overlay, uint64_t file_offset)
{
    size_t low = 0, high = overlay->page_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (overlay->pages[middle].file_offset < file_offset) {
            low = middle + 1;
        }
        else {
            high = middle;
        }
    }
    bool found = low < overlay->page_count &&
                 overlay->pages[low].file_offset == file_offset;
    return found ? &overlay->pages[low] : NULL;
}

/* Whether a zero descriptor that came after `order` covers the page; order
 * counts from 0, `none` means that no data descriptor did. */
static bool
zeroed_later(const struct vhdx_overlay *overlay, uint64_t file_offset,
             const struct vhdx_overlay_page *page)
{
    for (size_t i = 0; i < overlay->zero_count; i++) {
        const struct vhdx_overlay_zero *zero = &overlay->zeros[i];
        if (file_offset >= zero->file_offset &&
            file_offset - zero->file_offset < zero->length &&
            (page == NULL || zero->order > page->order)) {
            return true;
        }
    }
    return false;
}

/* Part of one page of the file; what is past its end reads as zeros. */
static vd_error
read_file(struct vhdx_image *vhdx, uint8_t *buffer, size_t length,
          uint64_t offset)
{
    uint64_t size = atomic_load(&vhdx->file_size);
    size_t have = length;
    if (offset >= size) {
        have = 0;
    }
    else if (length > size - offset) {
        have = (size_t)(size - offset);
    }
    memset(buffer + have, 0, length - have);
    return have != 0 ? vd_file_pread(vhdx->image.file, buffer, have, offset)
                     : ERROR_SUCCESS;
}

static vd_error
read_piece(struct vhdx_image *vhdx, uint8_t *buffer, size_t length,
           uint64_t offset)
{
    uint64_t page_offset = offset - offset % VHDX_PAGE_SIZE;
    const struct vhdx_overlay_page *page =
        overlay_page(&vhdx->overlay, page_offset);
    if (zeroed_later(&vhdx->overlay, page_offset, page)) {
        memset(buffer, 0, length);
        return ERROR_SUCCESS;
    }
    if (page != NULL) {
        memcpy(buffer, page->data + offset % VHDX_PAGE_SIZE, length);
        return ERROR_SUCCESS;
    }
    return read_file(vhdx, buffer, length, offset);
}

vd_error
vd_vhdx_read_metadata(struct vhdx_image *vhdx, void *buffer, size_t length,
                      uint64_t offset)
{
    if (vhdx->overlay.page_count == 0 && vhdx->overlay.zero_count == 0) {
        return read_file(vhdx, buffer, length, offset);
    }
    uint8_t *to = buffer;
    while (length != 0) {
        size_t piece = VHDX_PAGE_SIZE - (size_t)(offset % VHDX_PAGE_SIZE);
        if (piece > length) {
            piece = length;
        }
        vd_error error = read_piece(vhdx, to, piece, offset);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        to += piece;
        offset += piece;
        length -= piece;
    }
    return ERROR_SUCCESS;
}

/* ---- pages ---- */

/* Slots for the largest disk: memory that nobody touches is not there. */
static void
largest(const struct vhdx_image *vhdx, size_t *pages_out, size_t *chunks_out)
{
    struct vhdx_metadata metadata = vhdx->metadata;
    struct vhdx_geometry geometry;
    metadata.size_bytes = VHDX_MAX_SIZE;
    vd_vhdx_geometry_of(&metadata, &geometry);
    *pages_out = (size_t)((geometry.bat_entries + VHDX_PAGE_WORDS - 1) /
                          VHDX_PAGE_WORDS);
    *chunks_out = (size_t)geometry.chunks;
}

vd_error
vd_vhdx_pages_create(struct vhdx_image *vhdx)
{
    size_t pages, chunks;
    largest(vhdx, &pages, &chunks);
    vhdx->bat_pages = calloc(pages, sizeof(*vhdx->bat_pages));
    if (vhdx->bat_pages == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    if (vhdx->metadata.has_parent) {
        vhdx->bitmaps = calloc(chunks, sizeof(*vhdx->bitmaps));
        if (vhdx->bitmaps == NULL) {
            return ERROR_NOT_ENOUGH_MEMORY;
        }
    }
    return ERROR_SUCCESS;
}

static void
free_bitmap(struct vhdx_bitmap *bitmap)
{
    size_t count = sizeof(bitmap->pages) / sizeof(bitmap->pages[0]);
    for (size_t i = 0; i < count; i++) {
        free(atomic_load(&bitmap->pages[i]));
    }
    free(bitmap);
}

void
vd_vhdx_pages_free(struct vhdx_image *vhdx)
{
    size_t pages = 0, chunks = 0;
    vd_vhdx_unstage(vhdx);
    if (vhdx->bat_pages != NULL) {
        largest(vhdx, &pages, &chunks);
    }
    for (size_t i = 0; i < pages; i++) {
        free(atomic_load(&vhdx->bat_pages[i]));
    }
    for (size_t i = 0; vhdx->bitmaps != NULL && i < chunks; i++) {
        struct vhdx_bitmap *bitmap = atomic_load(&vhdx->bitmaps[i]);
        if (bitmap != NULL) {
            free_bitmap(bitmap);
        }
    }
    free(vhdx->bat_pages);
    free(vhdx->bitmaps);
    vhdx->bat_pages = NULL;
    vhdx->bitmaps = NULL;
}

vd_error
vd_vhdx_page_read(struct vhdx_image *vhdx, uint64_t file_offset,
                  struct vhdx_page **out)
{
    uint8_t bytes[VHDX_PAGE_SIZE];
    vd_error error =
        vd_vhdx_read_metadata(vhdx, bytes, sizeof(bytes), file_offset);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    struct vhdx_page *page = malloc(sizeof(*page));
    if (page == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    memset(page, 0, offsetof(struct vhdx_page, words));
    page->kind = VHDX_PAGE_LOOSE;
    page->number = file_offset / VHDX_PAGE_SIZE;
    for (unsigned i = 0; i < VHDX_PAGE_WORDS; i++) {
        atomic_init(&page->words[i], vd_get_le64(bytes + i * 8));
    }
    *out = page;
    return ERROR_SUCCESS;
}

/* Puts a page in its slot unless another thread was faster; either way *page
 * is then the one that counts. */
static void
publish(vhdx_page_slot *slot, struct vhdx_page **page)
{
    struct vhdx_page *first = NULL;
    if (!atomic_compare_exchange_strong(slot, &first, *page)) {
        free(*page);
        *page = first;
    }
}

/* ---- checking a page of the BAT ---- */

static vd_error
corrupt(uint64_t index, uint64_t entry)
{
    vd_trace(VD_TRACE_FORMAT, "VHDX: BAT entry %llu is %#llx",
             (unsigned long long)index, (unsigned long long)entry);
    return ERROR_VHD_BLOCK_ALLOCATION_TABLE_CORRUPT;
}

/* Whether a piece of the file may belong to a block: it starts inside the
 * file and meets no region.  (Its end may be cut: FORMATS 2.1.) */
static bool
is_block_space(const struct vhdx_image *vhdx, uint64_t offset, uint64_t length)
{
    if (offset < VHDX_FIRST_REGION ||
        offset >= atomic_load(&vhdx->file_size)) {
        return false;
    }
    const struct vhdx_region_set *set = atomic_load(&vhdx->regions.set);
    for (size_t i = 0; i < set->count; i++) {
        const struct vhdx_region *region = &set->all[i];
        if (offset < region->offset + region->length &&
            region->offset < offset + length) {
            return false;
        }
    }
    return true;
}

static bool
check_payload(const struct vhdx_image *vhdx, uint64_t entry)
{
    uint64_t offset = VHDX_ENTRY_OFFSET(entry);
    switch (VHDX_ENTRY_STATE(entry)) {
    case VHDX_NOT_PRESENT:
    case VHDX_ZERO:
        return true; /* an offset means nothing: FORMATS 2.8 */
    case VHDX_UNDEFINED:
    case VHDX_UNMAPPED:
    case VHDX_UNMAPPED_DRAFT:
        return offset == 0 ||
               is_block_space(vhdx, offset, vhdx->geometry.block_size);
    case VHDX_FULLY_PRESENT:
    case VHDX_PARTIALLY_PRESENT:
        return is_block_space(vhdx, offset, vhdx->geometry.block_size);
    default:
        return false;
    }
}

static bool
check_bitmap(const struct vhdx_image *vhdx, uint64_t entry)
{
    if (!vhdx->metadata.has_parent) {
        return true; /* unused there */
    }
    switch (VHDX_ENTRY_STATE(entry)) {
    case VHDX_BITMAP_NOT_PRESENT:
        return true;
    case VHDX_BITMAP_PRESENT:
        return is_block_space(vhdx, VHDX_ENTRY_OFFSET(entry),
                              VHDX_BITMAP_SIZE);
    default:
        return false;
    }
}

static vd_error
check_bat_page(const struct vhdx_image *vhdx, const struct vhdx_page *page,
               uint64_t first_index)
{
    uint64_t entries = atomic_load(&vhdx->bat_entries);
    for (unsigned i = 0; i < VHDX_PAGE_WORDS; i++) {
        uint64_t index = first_index + i;
        if (index >= entries) {
            break; /* what follows is not ours to judge */
        }
        uint64_t entry = atomic_load(&page->words[i]);
        bool bitmap = vd_vhdx_is_bitmap_index(&vhdx->geometry, index);
        bool good =
            bitmap ? check_bitmap(vhdx, entry) : check_payload(vhdx, entry);
        if (!good || VHDX_ENTRY_RESERVED(entry) != 0) {
            return corrupt(index, entry);
        }
    }
    return ERROR_SUCCESS;
}

static vd_error
read_bat_page(struct vhdx_image *vhdx, uint64_t number, struct vhdx_page **out)
{
    struct vhdx_page *page;
    vd_error error = vd_vhdx_page_read(
        vhdx, atomic_load(&vhdx->bat_offset) + number * VHDX_PAGE_SIZE, &page);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    page->kind = VHDX_PAGE_BAT;
    page->number = number;
    error = check_bat_page(vhdx, page, number * VHDX_PAGE_WORDS);
    if (error != ERROR_SUCCESS) {
        free(page);
        return error;
    }
    *out = page;
    return ERROR_SUCCESS;
}

vd_error
vd_vhdx_bat_page(struct vhdx_image *vhdx, uint64_t index,
                 struct vhdx_page **out)
{
    uint64_t number = index / VHDX_PAGE_WORDS;
    vhdx_page_slot *slot = &vhdx->bat_pages[number];
    struct vhdx_page *page = atomic_load(slot);
    if (page == NULL) {
        vd_error error = read_bat_page(vhdx, number, &page);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        publish(slot, &page);
    }
    *out = page;
    return ERROR_SUCCESS;
}

vd_error
vd_vhdx_bat_peek(struct vhdx_image *vhdx, uint64_t number,
                 uint64_t words[VHDX_PAGE_WORDS])
{
    VD_AUTO_FREE struct vhdx_page *read = NULL;
    const struct vhdx_page *page = atomic_load(&vhdx->bat_pages[number]);
    if (page == NULL) {
        vd_error error = read_bat_page(vhdx, number, &read);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        page = read;
    }
    for (unsigned i = 0; i < VHDX_PAGE_WORDS; i++) {
        words[i] = atomic_load(&page->words[i]);
    }
    return ERROR_SUCCESS;
}

/* ---- sector bitmaps ---- */

static vd_error
bitmap_of(struct vhdx_image *vhdx, uint64_t chunk, struct vhdx_bitmap **out)
{
    vhdx_bitmap_slot *slot = &vhdx->bitmaps[chunk];
    struct vhdx_bitmap *bitmap = atomic_load(slot);
    if (bitmap == NULL) {
        bitmap = calloc(1, sizeof(*bitmap));
        if (bitmap == NULL) {
            return ERROR_NOT_ENOUGH_MEMORY;
        }
        struct vhdx_bitmap *first = NULL;
        if (!atomic_compare_exchange_strong(slot, &first, bitmap)) {
            free(bitmap);
            bitmap = first;
        }
    }
    *out = bitmap;
    return ERROR_SUCCESS;
}

vd_error
vd_vhdx_bitmap_page(struct vhdx_image *vhdx, uint64_t chunk, unsigned page,
                    struct vhdx_page **out)
{
    struct vhdx_bitmap *bitmap;
    vd_error error = bitmap_of(vhdx, chunk, &bitmap);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    vhdx_page_slot *slot = &bitmap->pages[page];
    struct vhdx_page *found = atomic_load(slot);
    if (found == NULL) {
        uint64_t entry;
        error = vd_vhdx_bat_entry(
            vhdx, vd_vhdx_bitmap_index(&vhdx->geometry, chunk), &entry);
        if (error == ERROR_SUCCESS &&
            VHDX_ENTRY_STATE(entry) != VHDX_BITMAP_PRESENT) {
            vd_trace(VD_TRACE_FORMAT, "VHDX: chunk %llu has no bitmap",
                     (unsigned long long)chunk);
            error = ERROR_VHD_BITMAP_MISMATCH;
        }
        if (error == ERROR_SUCCESS) {
            error = vd_vhdx_page_read(vhdx,
                                      VHDX_ENTRY_OFFSET(entry) +
                                          (uint64_t)page * VHDX_PAGE_SIZE,
                                      &found);
        }
        if (error != ERROR_SUCCESS) {
            return error;
        }
        found->kind = VHDX_PAGE_BITMAP;
        found->chunk = chunk;
        found->number = page;
        publish(slot, &found);
    }
    *out = found;
    return ERROR_SUCCESS;
}

void
vd_vhdx_bitmap_moved(struct vhdx_image *vhdx, uint64_t chunk)
{
    struct vhdx_bitmap *bitmap = atomic_load(&vhdx->bitmaps[chunk]);
    size_t count = sizeof(bitmap->pages) / sizeof(bitmap->pages[0]);
    for (size_t i = 0; bitmap != NULL && i < count; i++) {
        struct vhdx_page *page = atomic_load(&bitmap->pages[i]);
        if (page != NULL) {
            page->allocated = false;
        }
    }
}
