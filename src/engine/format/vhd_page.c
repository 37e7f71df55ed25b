/*
 * The BAT and the sector bitmaps in memory, each piece read when it is first
 * needed.
 *
 * Any number of readers may ask for a page at once; the first to have read it
 * publishes it.  A published page stays until the image is closed, so memory
 * grows with what is touched, never with what the image claims.
 */
#include "format/vhd.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"

#define WRITE_SECTORS 16u /* written at once */

static uint64_t
pages_for(uint64_t blocks)
{
    return (blocks + VHD_BAT_PAGE_ENTRIES - 1) / VHD_BAT_PAGE_ENTRIES;
}

/* Readers may be looking into the older slots, whose pages are all there. */
vd_error
vd_vhd_pages_create(struct vd_vhd_image *vhd, uint64_t blocks)
{
    struct vd_vhd_slots *older = atomic_load(&vhd->bat_pages);
    uint64_t count = pages_for(blocks);
    struct vd_vhd_slots *slots =
        calloc(1, sizeof(*slots) + (size_t)count * sizeof(slots->pages[0]));
    if (slots == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    slots->count = count;
    slots->older = older;
    for (uint64_t i = 0; older != NULL && i < older->count; i++) {
        atomic_init(&slots->pages[i], atomic_load(&older->pages[i]));
    }
    atomic_store(&vhd->bat_pages, slots);
    return ERROR_SUCCESS;
}

void
vd_vhd_page_free(struct vd_vhd_page *page)
{
    if (page == NULL) {
        return;
    }
    for (size_t i = 0; page->bitmaps != NULL && i < VHD_BAT_PAGE_ENTRIES;
         i++) {
        free(atomic_load(&page->bitmaps[i])); /* these have no own */
    }
    free(page->bitmaps);
    free(page->usage);
    free(page);
}

void
vd_vhd_pages_free(struct vd_vhd_image *vhd)
{
    struct vd_vhd_slots *slots = atomic_load(&vhd->bat_pages);
    for (uint64_t i = 0; slots != NULL && i < slots->count; i++) {
        vd_vhd_page_free(atomic_load(&slots->pages[i]));
    }
    while (vhd->retired != NULL) {
        struct vd_vhd_page *page = vhd->retired;
        vhd->retired = page->next_retired;
        free(page);
    }
    while (slots != NULL) {
        struct vd_vhd_slots *older = slots->older;
        free(slots);
        slots = older;
    }
    atomic_store(&vhd->bat_pages, NULL);
}

/* A page of zeros. */
static struct vd_vhd_page *
new_page(uint64_t file_offset, uint32_t sectors)
{
    uint32_t words = sectors * VHD_WORDS_PER_SECTOR;
    struct vd_vhd_page *page =
        calloc(1, sizeof(*page) + words * sizeof(page->words[0]));
    if (page != NULL) {
        page->file_offset = file_offset;
        page->sectors = sectors;
    }
    return page;
}

/* The first `present` of its sectors are in the file; the rest is ones. */
static vd_error
read_page(struct vd_vhd_image *vhd, uint64_t file_offset, uint32_t sectors,
          uint32_t present, struct vd_vhd_page **out)
{
    size_t length = (size_t)present * VHD_SECTOR_SIZE;
    VD_AUTO_FREE uint8_t *bytes = malloc((size_t)sectors * VHD_SECTOR_SIZE);
    VD_AUTO_FREE struct vd_vhd_page *page = new_page(file_offset, sectors);
    if (bytes == NULL || page == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    memset(bytes + length, 0xFF, (size_t)sectors * VHD_SECTOR_SIZE - length);
    vd_error error =
        vd_file_pread(vhd->image.file, bytes, length, file_offset);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    for (uint32_t i = 0; i < sectors * VHD_WORDS_PER_SECTOR; i++) {
        atomic_init(&page->words[i], vd_get_be32(bytes + i * 4));
    }
    *out = VD_TAKE(page);
    return ERROR_SUCCESS;
}

/* Puts a page in its slot unless another thread was faster; either way *page
 * is then the one that counts. */
static void
publish(vd_vhd_page_slot *slot, struct vd_vhd_page **page)
{
    struct vd_vhd_page *first = NULL;
    if (!atomic_compare_exchange_strong(slot, &first, *page)) {
        vd_vhd_page_free(*page);
        *page = first;
    }
}

/* ---- the BAT ---- */

static vd_error
check_bat_page(const struct vd_vhd_image *vhd, const struct vd_vhd_page *page,
               uint64_t first_block)
{
    for (unsigned i = 0; i < VHD_BAT_PAGE_ENTRIES; i++) {
        if (first_block + i >= vhd->blocks) {
            break; /* surplus entries may hold anything */
        }
        vd_error error = vd_vhd_check_entry(vhd, first_block + i,
                                            atomic_load(&page->words[i]));
        if (error != ERROR_SUCCESS) {
            return error;
        }
    }
    return ERROR_SUCCESS;
}

static vd_error
complete_bat_page(struct vd_vhd_image *vhd, struct vd_vhd_page *page)
{
    if (vhd->child) {
        page->bitmaps = calloc(VHD_BAT_PAGE_ENTRIES, sizeof(*page->bitmaps));
        return page->bitmaps != NULL ? ERROR_SUCCESS : ERROR_NOT_ENOUGH_MEMORY;
    }
    if (vhd->image.writable) {
        page->usage = calloc(1, sizeof(*page->usage));
        return page->usage != NULL ? ERROR_SUCCESS : ERROR_NOT_ENOUGH_MEMORY;
    }
    return ERROR_SUCCESS;
}

/* Of the last page only the sectors that hold entries of blocks are read. */
static vd_error
load_bat_page(struct vd_vhd_image *vhd, uint64_t number,
              struct vd_vhd_page **out)
{
    struct vd_vhd_page *page;
    uint64_t first = number * VHD_BAT_PAGE_ENTRIES;
    uint64_t entries = vhd->blocks - first;
    if (entries > VHD_BAT_PAGE_ENTRIES) {
        entries = VHD_BAT_PAGE_ENTRIES;
    }
    uint32_t sectors = (uint32_t)((entries + VHD_WORDS_PER_SECTOR - 1) /
                                  VHD_WORDS_PER_SECTOR);
    vd_error error =
        read_page(vhd, vhd->header.table_offset + number * VHD_BAT_PAGE_SIZE,
                  VHD_BAT_PAGE_SIZE / VHD_SECTOR_SIZE, sectors, &page);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = check_bat_page(vhd, page, first);
    if (error == ERROR_SUCCESS) {
        error = complete_bat_page(vhd, page);
    }
    if (error != ERROR_SUCCESS) {
        vd_vhd_page_free(page);
        return error;
    }
    *out = page;
    return ERROR_SUCCESS;
}

vd_error
vd_vhd_bat_page(struct vd_vhd_image *vhd, uint64_t block,
                struct vd_vhd_page **out)
{
    uint64_t number = block / VHD_BAT_PAGE_ENTRIES;
    vd_vhd_page_slot *slot = vd_vhd_bat_slot(vhd, number);
    struct vd_vhd_page *page = atomic_load(slot);
    if (page == NULL) {
        vd_error error = load_bat_page(vhd, number, &page);
        if (error != ERROR_SUCCESS) {
            page = atomic_load(slot); /* the table has moved meanwhile? */
        }
        else {
            publish(slot, &page);
        }
        if (page == NULL) {
            return error;
        }
    }
    *out = page;
    return ERROR_SUCCESS;
}

/* ---- sector bitmaps ---- */

vd_error
vd_vhd_bitmap(struct vd_vhd_image *vhd, struct vd_vhd_page *bat_page,
              uint64_t block, struct vd_vhd_page **out)
{
    size_t index = (size_t)(block % VHD_BAT_PAGE_ENTRIES);
    vd_vhd_page_slot *slot = &bat_page->bitmaps[index];
    struct vd_vhd_page *bitmap = atomic_load(slot);
    if (bitmap == NULL) {
        uint64_t entry = atomic_load(&bat_page->words[index]);
        uint32_t sectors = vhd->bitmap_size / VHD_SECTOR_SIZE;
        vd_error error =
            read_page(vhd, entry * VHD_SECTOR_SIZE, sectors, sectors, &bitmap);
        if (error != ERROR_SUCCESS) {
            bitmap = atomic_load(slot); /* the block has gone meanwhile? */
        }
        else {
            publish(slot, &bitmap);
        }
        if (bitmap == NULL) {
            return error;
        }
    }
    *out = bitmap;
    return ERROR_SUCCESS;
}

vd_error
vd_vhd_bitmap_new(struct vd_vhd_image *vhd, uint64_t place,
                  struct vd_vhd_page **out)
{
    struct vd_vhd_page *bitmap =
        new_page(place, vhd->bitmap_size / VHD_SECTOR_SIZE);
    if (bitmap == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    bitmap->born = vhd->commits + 1;
    *out = bitmap;
    return ERROR_SUCCESS;
}

/* Readers may be looking at the bitmap of an earlier block. */
void
vd_vhd_bitmap_publish(struct vd_vhd_image *vhd, struct vd_vhd_page *bat_page,
                      size_t index, struct vd_vhd_page *bitmap)
{
    struct vd_vhd_page *earlier =
        atomic_exchange(&bat_page->bitmaps[index], bitmap);
    if (earlier != NULL) {
        earlier->next_retired = vhd->retired;
        vhd->retired = earlier;
    }
}

/* ---- changing ---- */

void
vd_vhd_page_store(struct vd_vhd_image *vhd, struct vd_vhd_page *page,
                  uint32_t word, uint32_t value)
{
    if (atomic_load(&page->words[word]) == value) {
        return;
    }
    atomic_store(&page->words[word], value);
    uint32_t sector = word / VHD_WORDS_PER_SECTOR;
    page->dirty[sector / 64] |= (uint64_t)1 << sector % 64;
    if (!page->listed) {
        page->listed = true;
        page->next_dirty = vhd->dirty;
        vhd->dirty = page;
    }
}

/* At most WRITE_SECTORS of them. */
static vd_error
write_piece(struct vd_vhd_image *vhd, const struct vd_vhd_page *page,
            uint32_t first, uint32_t count)
{
    uint8_t bytes[WRITE_SECTORS * VHD_SECTOR_SIZE];
    uint32_t first_word = first * VHD_WORDS_PER_SECTOR;
    for (uint32_t i = 0; i < count * VHD_WORDS_PER_SECTOR; i++) {
        vd_put_be32(bytes + i * 4, atomic_load(&page->words[first_word + i]));
    }
    return vd_file_pwrite(
        vhd->image.file, bytes, (size_t)count * VHD_SECTOR_SIZE,
        page->file_offset + (uint64_t)first * VHD_SECTOR_SIZE);
}

static vd_error
write_sectors(struct vd_vhd_image *vhd, const struct vd_vhd_page *page,
              uint32_t first, uint32_t count)
{
    while (count != 0) {
        uint32_t piece = count < WRITE_SECTORS ? count : WRITE_SECTORS;
        vd_error error = write_piece(vhd, page, first, piece);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        first += piece;
        count -= piece;
    }
    return ERROR_SUCCESS;
}

vd_error
vd_vhd_page_write(struct vd_vhd_image *vhd, struct vd_vhd_page *page)
{
    return write_sectors(vhd, page, 0, page->sectors);
}

static bool
is_dirty(const struct vd_vhd_page *page, uint32_t sector)
{
    return page->dirty[sector / 64] >> sector % 64 & 1;
}

vd_error
vd_vhd_page_write_dirty(struct vd_vhd_image *vhd, struct vd_vhd_page *page)
{
    for (uint32_t first = 0; first < page->sectors;) {
        uint32_t end = first;
        while (end < page->sectors && is_dirty(page, end)) {
            end++;
        }
        if (end != first) {
            vd_error error = write_sectors(vhd, page, first, end - first);
            if (error != ERROR_SUCCESS) {
                return error;
            }
        }
        first = end + 1;
    }
    memset(page->dirty, 0, sizeof(page->dirty));
    return ERROR_SUCCESS;
}
