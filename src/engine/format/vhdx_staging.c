/*
 * Metadata pages, changed: in memory and on the list from which the next log
 * entry is made.  Nothing here is durable, or in its place in the file, before
 * that.
 */
#include "format/vhdx_write.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

/* ---- where a page is kept, and its way there ---- */

vd_error
vd_vhdx_page_offset(struct vhdx_image *vhdx, const struct vhdx_page *page,
                    uint64_t *out)
{
    uint64_t start = 0, entry;
    vd_error error = ERROR_SUCCESS;
    if (page->kind == VHDX_PAGE_BAT) {
        start = atomic_load(&vhdx->bat_offset);
    }
    else if (page->kind == VHDX_PAGE_BITMAP) {
        error = vd_vhdx_bat_entry(
            vhdx, vd_vhdx_bitmap_index(&vhdx->geometry, page->chunk), &entry);
        start = error == ERROR_SUCCESS ? VHDX_ENTRY_OFFSET(entry) : 0;
    }
    *out = start + page->number * VHDX_PAGE_SIZE;
    return error;
}

vd_error
vd_vhdx_page_apply(struct vhdx_image *vhdx, const struct vhdx_page *page)
{
    uint8_t bytes[VHDX_PAGE_SIZE];
    uint64_t offset;
    vd_error error = vd_vhdx_page_offset(vhdx, page, &offset);
    for (unsigned i = 0; i < VHDX_PAGE_WORDS; i++) {
        vd_put_le64(bytes + i * 8, atomic_load(&page->words[i]));
    }
    return error != ERROR_SUCCESS ? error
                                  : vd_file_pwrite(vhdx->image.file, bytes,
                                                   sizeof(bytes), offset);
}

/* ---- changed pages ---- */

vd_error
vd_vhdx_page_store(struct vhdx_image *vhdx, struct vhdx_page *page,
                   unsigned word, uint64_t value)
{
    if (atomic_load(&page->words[word]) == value) {
        return ERROR_SUCCESS;
    }
    if (!page->allocated) {
        vd_error error = vd_vhdx_page_apply(vhdx, page);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        page->allocated = true;
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

vd_error
vd_vhdx_set_entry(struct vhdx_image *vhdx, uint64_t index, uint64_t entry)
{
    struct vhdx_page *page;
    vd_error error = vd_vhdx_bat_page(vhdx, index, &page);
    return error != ERROR_SUCCESS
               ? error
               : vd_vhdx_page_store(
                     vhdx, page, (unsigned)(index % VHDX_PAGE_WORDS), entry);
}

static struct vhdx_page *
find_staged(const struct vhdx_image *vhdx, uint64_t number)
{
    struct vhdx_page *page = vhdx->dirty;
    while (page != NULL &&
           (page->kind != VHDX_PAGE_LOOSE || page->number != number)) {
        page = page->next_dirty;
    }
    return page;
}

/* Part of one page. */
static vd_error
stage_page(struct vhdx_image *vhdx, uint64_t file_offset, const uint8_t *bytes,
           size_t length)
{
    uint8_t whole[VHDX_PAGE_SIZE];
    uint64_t start = file_offset - file_offset % VHDX_PAGE_SIZE;
    struct vhdx_page *page = find_staged(vhdx, start / VHDX_PAGE_SIZE);
    vd_error error = ERROR_SUCCESS;
    if (page == NULL) {
        error = vd_vhdx_page_read(vhdx, start, &page);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    for (unsigned i = 0; i < VHDX_PAGE_WORDS; i++) {
        vd_put_le64(whole + i * 8, atomic_load(&page->words[i]));
    }
    memcpy(whole + file_offset % VHDX_PAGE_SIZE, bytes, length);
    for (unsigned i = 0; i < VHDX_PAGE_WORDS && error == ERROR_SUCCESS; i++) {
        error = vd_vhdx_page_store(vhdx, page, i, vd_get_le64(whole + i * 8));
    }
    if (!page->dirty) {
        free(page);
    }
    return error;
}

vd_error
vd_vhdx_stage(struct vhdx_image *vhdx, uint64_t file_offset, const void *bytes,
              size_t length)
{
    const uint8_t *from = bytes;
    vd_error error = ERROR_SUCCESS;
    while (length != 0 && error == ERROR_SUCCESS) {
        size_t piece = VHDX_PAGE_SIZE - (size_t)(file_offset % VHDX_PAGE_SIZE);
        if (piece > length) {
            piece = length;
        }
        error = stage_page(vhdx, file_offset, from, piece);
        from += piece;
        file_offset += piece;
        length -= piece;
    }
    return error;
}

void
vd_vhdx_unstage(struct vhdx_image *vhdx)
{
    struct vhdx_page **link = &vhdx->dirty;
    while (*link != NULL) {
        struct vhdx_page *page = *link;
        if (page->kind != VHDX_PAGE_LOOSE) {
            link = &page->next_dirty;
            continue;
        }
        *link = page->next_dirty;
        vhdx->dirty_count--;
        free(page);
    }
}
