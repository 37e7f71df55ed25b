/*
 * From a place on the virtual disk to its place in the file ([MS-VHDX] 2.5):
 * the block allocation table and, in a differencing image, the sector
 * bitmaps.
 */
#include "format/vhdx_write.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/trace.h"

/* The largest BAT that is checked whole at open: 1 MiB. */
#define WHOLE_CHECK_ENTRIES (VHDX_MIB / 8)

void
vd_vhdx_geometry_of(const struct vhdx_metadata *metadata,
                    struct vhdx_geometry *out)
{
    uint64_t block = metadata->block_size;
    struct vhdx_geometry geometry = {
        .block_size = metadata->block_size,
        .sector_size = metadata->logical_sector_size,
        .chunk_ratio = (uint64_t)VHDX_CHUNK_SECTORS *
                       metadata->logical_sector_size / block,
        .payload_blocks = (metadata->size_bytes + block - 1) / block,
    };
    /* size <= 64 TiB, so none of this comes near 64 bits. */
    geometry.chunks = (geometry.payload_blocks + geometry.chunk_ratio - 1) /
                      geometry.chunk_ratio;
    geometry.bat_entries =
        metadata->has_parent
            ? geometry.chunks * (geometry.chunk_ratio + 1)
            : geometry.payload_blocks +
                  (geometry.payload_blocks - 1) / geometry.chunk_ratio;
    *out = geometry;
}

vd_error
vd_vhdx_bat_entry(struct vhdx_image *vhdx, uint64_t index, uint64_t *out)
{
    struct vhdx_page *page;
    vd_error error = vd_vhdx_bat_page(vhdx, index, &page);
    if (error == ERROR_SUCCESS) {
        *out = atomic_load(&page->words[index % VHDX_PAGE_WORDS]);
    }
    return error;
}

/* ---- the check of the whole table ---- */

/* One bit a MiB of the file: taken or not. */
struct claims {
    uint64_t *bits;
    uint64_t count; /* MiB */
};

static bool
claim(struct claims *claims, uint64_t offset, uint64_t length)
{
    uint64_t first = offset / VHDX_MIB, end = first + length / VHDX_MIB;
    for (uint64_t i = first; i < end && i < claims->count; i++) {
        uint64_t bit = (uint64_t)1 << i % 64;
        if (claims->bits[i / 64] & bit) {
            return false;
        }
        claims->bits[i / 64] |= bit;
    }
    return true;
}

bool
vd_vhdx_owns_space(const struct vhdx_image *vhdx, uint64_t entry, bool bitmap)
{
    switch (VHDX_ENTRY_STATE(entry)) {
    case VHDX_NOT_PRESENT:
    case VHDX_ZERO:
        return false;
    default:
        return VHDX_ENTRY_OFFSET(entry) != 0 &&
               (!bitmap || vhdx->metadata.has_parent);
    }
}

static void
raise_space_end(struct vhdx_image *vhdx, uint64_t end)
{
    if (end > vhdx->space.end) {
        vhdx->space.end = end;
    }
}

/* The end of what the file and its regions reach, to the next MiB. */
static void
find_space_end(struct vhdx_image *vhdx)
{
    const struct vhdx_region_set *set = atomic_load(&vhdx->regions.set);
    uint64_t size = atomic_load(&vhdx->file_size);
    vhdx->space.end = (size + VHDX_MIB - 1) / VHDX_MIB * VHDX_MIB;
    for (size_t i = 0; i < set->count; i++) {
        raise_space_end(vhdx, set->all[i].offset + set->all[i].length);
    }
}

/* What an entry owns; a length of 0: nothing. */
static struct vhdx_piece
piece_of(const struct vhdx_image *vhdx, uint64_t index, uint64_t entry)
{
    bool bitmap = vd_vhdx_is_bitmap_index(&vhdx->geometry, index);
    struct vhdx_piece piece = {.offset = VHDX_ENTRY_OFFSET(entry),
                               .index = index};
    if (vd_vhdx_owns_space(vhdx, entry, bitmap)) {
        piece.length = bitmap ? VHDX_BITMAP_SIZE : vhdx->geometry.block_size;
    }
    return piece;
}

static vd_error
claim_piece(struct vhdx_image *vhdx, struct claims *claims,
            const struct vhdx_piece *piece)
{
    raise_space_end(vhdx, piece->offset + piece->length);
    if (!claim(claims, piece->offset, piece->length)) {
        vd_trace(VD_TRACE_FORMAT, "VHDX: BAT entry %llu overlaps another",
                 (unsigned long long)piece->index);
        return ERROR_VHD_BLOCK_ALLOCATION_TABLE_CORRUPT;
    }
    return ERROR_SUCCESS;
}

static vd_error
check_whole(struct vhdx_image *vhdx)
{
    struct claims claims = {.count =
                                atomic_load(&vhdx->file_size) / VHDX_MIB + 1};
    VD_AUTO_FREE uint64_t *bits = calloc(claims.count / 64 + 1, 8);
    if (bits == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    claims.bits = bits;
    for (uint64_t i = 0; i < vhdx->geometry.bat_entries; i++) {
        uint64_t entry;
        vd_error error = vd_vhdx_bat_entry(vhdx, i, &entry);
        if (error == ERROR_SUCCESS) {
            struct vhdx_piece piece = piece_of(vhdx, i, entry);
            error = claim_piece(vhdx, &claims, &piece);
        }
        if (error != ERROR_SUCCESS) {
            return error;
        }
    }
    return ERROR_SUCCESS;
}

vd_error
vd_vhdx_bat_scan(struct vhdx_image *vhdx, vhdx_visit *visit, void *context)
{
    uint64_t words[VHDX_PAGE_WORDS];
    for (uint64_t i = 0; i < vhdx->geometry.bat_entries; i++) {
        vd_error error = ERROR_SUCCESS;
        if (i % VHDX_PAGE_WORDS == 0) {
            error = vd_vhdx_bat_peek(vhdx, i / VHDX_PAGE_WORDS, words);
        }
        if (error != ERROR_SUCCESS) {
            return error;
        }
        struct vhdx_piece piece =
            piece_of(vhdx, i, words[i % VHDX_PAGE_WORDS]);
        if (piece.length != 0) {
            error = visit(context, &piece);
        }
        if (error != ERROR_SUCCESS) {
            return error;
        }
    }
    return ERROR_SUCCESS;
}

/*
 * Every entry of a table of ordinary size is checked at open, also against
 * the others.  The pages of a larger one (from 128 GiB in 1 MiB blocks, 4 TiB
 * in 32 MiB ones) are checked one by one when they are first used, so that a
 * claim of 64 TiB costs nothing.
 *
 * Leaves in space.end where new blocks may go.  A block starts inside the
 * file, but its end may have been cut off; what has not been looked at is
 * taken to end as far out as it could.
 */
vd_error
vd_vhdx_bat_check(struct vhdx_image *vhdx)
{
    if (vhdx->geometry.bat_entries * 8 > vhdx->regions.bat.length) {
        vd_trace(VD_TRACE_FORMAT, "VHDX: the BAT does not fit its region");
        return ERROR_VHD_BLOCK_ALLOCATION_TABLE_CORRUPT;
    }
    atomic_store(&vhdx->bat_entries, vhdx->geometry.bat_entries);
    find_space_end(vhdx);
    if (vhdx->geometry.bat_entries > WHOLE_CHECK_ENTRIES) {
        vhdx->space.end += vhdx->geometry.block_size - VHDX_MIB;
        return ERROR_SUCCESS;
    }
    return check_whole(vhdx);
}

/* ---- another place for the table ---- */

vd_error
vd_vhdx_bat_write(struct vhdx_image *vhdx,
                  const struct vhdx_geometry *geometry, uint64_t offset,
                  uint64_t first_new, vhdx_fill *fill, void *context)
{
    uint64_t words[VHDX_PAGE_WORDS];
    uint8_t bytes[VHDX_PAGE_SIZE];
    for (uint64_t i = 0; i < geometry->bat_entries; i += VHDX_PAGE_WORDS) {
        vd_error error = ERROR_SUCCESS;
        memset(words, 0, sizeof(words));
        if (i < first_new) {
            error = vd_vhdx_bat_peek(vhdx, i / VHDX_PAGE_WORDS, words);
        }
        for (unsigned k = 0; k < VHDX_PAGE_WORDS; k++) {
            if (i + k >= first_new) {
                words[k] =
                    i + k < geometry->bat_entries ? fill(context, i + k) : 0;
            }
            vd_put_le64(bytes + (size_t)k * 8, words[k]);
        }
        if (error == ERROR_SUCCESS) {
            error = vd_file_pwrite(vhdx->image.file, bytes, sizeof(bytes),
                                   offset + i * 8);
        }
        if (error != ERROR_SUCCESS) {
            return error;
        }
    }
    return ERROR_SUCCESS;
}

/* ---- lookup ---- */

/* The answer for a present block; what the file was cut off of is zero. */
static struct vd_extent
present(struct vhdx_image *vhdx, uint64_t file_offset, uint64_t length)
{
    uint64_t size = atomic_load(&vhdx->file_size);
    struct vd_extent extent = {.state = VD_EXTENT_PRESENT,
                               .file_offset = file_offset,
                               .length = length};
    if (file_offset >= size) {
        extent.state = VD_EXTENT_ZERO;
    }
    else if (length > size - file_offset) {
        extent.length = size - file_offset;
    }
    return extent;
}

static bool
bit_of(const struct vhdx_page *page, uint64_t sector)
{
    unsigned word = (unsigned)(sector / 64 % VHDX_PAGE_WORDS);
    return atomic_load(&page->words[word]) >> sector % 64 & 1;
}

/* How many sectors from `sector` on have the same bit, within its page. */
static uint64_t
run_of(const struct vhdx_page *page, uint64_t sector, uint64_t limit)
{
    const uint64_t page_sectors = (uint64_t)VHDX_PAGE_SIZE * 8;
    bool bit = bit_of(page, sector);
    uint64_t end = (sector / page_sectors + 1) * page_sectors;
    uint64_t run = 1;
    while (run < limit && sector + run < end &&
           bit_of(page, sector + run) == bit) {
        run++;
    }
    return run;
}

/* The answer for a partially present block: by the sector bitmap. */
static vd_error
partial(struct vhdx_image *vhdx, uint64_t file_offset, uint64_t offset,
        uint64_t length, struct vd_extent *out)
{
    uint32_t sector_size = vhdx->geometry.sector_size;
    uint64_t sector = offset / sector_size, page_sectors = VHDX_PAGE_SIZE * 8;
    uint64_t in_chunk = sector % VHDX_CHUNK_SECTORS;
    uint64_t skew = offset % sector_size;
    struct vhdx_page *page;
    vd_error error =
        vd_vhdx_bitmap_page(vhdx, sector / VHDX_CHUNK_SECTORS,
                            (unsigned)(in_chunk / page_sectors), &page);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    uint64_t limit = (skew + length + sector_size - 1) / sector_size;
    uint64_t run = run_of(page, in_chunk, limit) * sector_size - skew;
    if (run > length) {
        run = length;
    }
    if (bit_of(page, in_chunk)) {
        *out = present(vhdx, file_offset, run);
    }
    else {
        *out = (struct vd_extent){.state = VD_EXTENT_PARENT, .length = run};
    }
    return ERROR_SUCCESS;
}

/* The answer for a range inside one block. */
static vd_error
lookup_in_block(struct vhdx_image *vhdx, uint64_t offset, uint64_t length,
                struct vd_extent *out)
{
    uint64_t block = offset / vhdx->geometry.block_size, entry;
    vd_error error = vd_vhdx_bat_entry(
        vhdx, vd_vhdx_payload_index(&vhdx->geometry, block), &entry);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    uint64_t file_offset =
        VHDX_ENTRY_OFFSET(entry) + offset % vhdx->geometry.block_size;
    bool child = vhdx->metadata.has_parent;
    switch (VHDX_ENTRY_STATE(entry)) {
    case VHDX_PARTIALLY_PRESENT:
        if (child) {
            return partial(vhdx, file_offset, offset, length, out);
        }
        /* fall through - without a parent it can only be present */
    case VHDX_FULLY_PRESENT:
        *out = present(vhdx, file_offset, length);
        return ERROR_SUCCESS;
    case VHDX_NOT_PRESENT:
        *out = (struct vd_extent){.state = child ? VD_EXTENT_PARENT
                                                 : VD_EXTENT_ZERO,
                                  .length = length};
        return ERROR_SUCCESS;
    default:
        *out = (struct vd_extent){.state = VD_EXTENT_ZERO, .length = length};
        return ERROR_SUCCESS;
    }
}

static bool
continues(const struct vd_extent *extent, const struct vd_extent *next)
{
    return next->state == extent->state &&
           (next->state != VD_EXTENT_PRESENT ||
            next->file_offset == extent->file_offset + extent->length);
}

vd_error
vd_vhdx_lookup(struct vd_image *image, uint64_t offset, uint64_t length,
               struct vd_extent *out)
{
    struct vhdx_image *vhdx = vd_vhdx_of(image);
    uint32_t block_size = vhdx->geometry.block_size;
    struct vd_extent extent = {.length = 0};
    while (extent.length < length) {
        uint64_t at = offset + extent.length;
        uint64_t rest = length - extent.length;
        uint64_t in_block = block_size - at % block_size;
        struct vd_extent next;
        vd_error error = lookup_in_block(
            vhdx, at, rest < in_block ? rest : in_block, &next);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        if (extent.length != 0 && !continues(&extent, &next)) {
            break;
        }
        next.length += extent.length;
        next.file_offset -=
            next.state == VD_EXTENT_PRESENT ? extent.length : 0;
        extent = next;
    }
    *out = extent;
    return ERROR_SUCCESS;
}
