/*
 * Making the file smaller without changing what it holds (FORMATS 4.6): what
 * lies last moves into free space nearer the start, and the file is cut off.
 *
 * What is in use is known from the whole BAT, read once and kept, in order of
 * place, until something else changes the file's space.
 */
#include "format/vhdx_write.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/trace.h"

#define NOT_A_BLOCK UINT64_MAX /* index of a piece */
#define COPY_SIZE VHDX_MIB
#define ZERO_UNIT (64 * VHDX_KIB)

/* ---- what is in use ---- */

static vd_error
add_piece(void *context, const struct vhdx_piece *piece)
{
    struct vhdx_layout *layout = context;
    if (layout->count == layout->capacity) {
        size_t capacity = layout->capacity * 2 + 64;
        struct vhdx_piece *grown =
            realloc(layout->pieces, capacity * sizeof(*grown));
        if (grown == NULL) {
            return ERROR_NOT_ENOUGH_MEMORY;
        }
        layout->pieces = grown;
        layout->capacity = capacity;
    }
    layout->pieces[layout->count++] = *piece;
    return ERROR_SUCCESS;
}

static vd_error
add_other(struct vhdx_layout *layout, uint64_t offset, uint64_t length)
{
    struct vhdx_piece piece = {offset, length, NOT_A_BLOCK};
    return add_piece(layout, &piece);
}

/* Regions, the log, and what is given up but not released yet. */
static vd_error
add_others(struct vhdx_image *vhdx, struct vhdx_layout *layout)
{
    const struct vhdx_region_set *set = atomic_load(&vhdx->regions.set);
    vd_error error = add_other(layout, 0, VHDX_FIRST_REGION);
    for (size_t i = 0; i < set->count && error == ERROR_SUCCESS; i++) {
        error = add_other(layout, set->all[i].offset, set->all[i].length);
    }
    for (size_t i = 0; i < vhdx->space.count && error == ERROR_SUCCESS; i++) {
        const struct vhdx_free_space *space = &vhdx->space.pieces[i];
        if (space->state == VHDX_SPACE_GIVEN_UP) {
            error = add_other(layout, space->offset, space->length);
        }
    }
    return error;
}

static int
compare_pieces(const void *a, const void *b)
{
    const struct vhdx_piece *x = a, *y = b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* All space between the pieces becomes free space; that before the end of the
 * file alone, for what is behind is not there. */
static vd_error
find_holes(struct vhdx_image *vhdx, const struct vhdx_layout *layout)
{
    uint64_t end = 0;
    for (size_t i = 0; i < layout->count; i++) {
        const struct vhdx_piece *piece = &layout->pieces[i];
        if (piece->offset < end) {
            vd_trace(VD_TRACE_FORMAT, "VHDX: two uses of the space at %llu",
                     (unsigned long long)piece->offset);
            return ERROR_VHD_BLOCK_ALLOCATION_TABLE_CORRUPT;
        }
        if (piece->offset > end) {
            vd_error error = vd_vhdx_space_reserve(vhdx);
            if (error != ERROR_SUCCESS) {
                return error;
            }
            vd_vhdx_space_put_back(vhdx, end, piece->offset - end);
        }
        end = piece->offset + piece->length;
    }
    return ERROR_SUCCESS;
}

static vd_error
make_layout(struct vhdx_image *vhdx)
{
    struct vhdx_layout *layout = &vhdx->layout;
    if (layout->count != 0 && layout->changes == vhdx->space.changes) {
        return ERROR_SUCCESS;
    }
    layout->count = 0;
    vd_error error = add_others(vhdx, layout);
    if (error == ERROR_SUCCESS) {
        error = vd_vhdx_bat_scan(vhdx, add_piece, layout);
    }
    if (error == ERROR_SUCCESS) {
        qsort(layout->pieces, layout->count, sizeof(*layout->pieces),
              compare_pieces);
        vd_vhdx_space_forget(vhdx, 0);
        error = find_holes(vhdx, layout);
    }
    if (error != ERROR_SUCCESS) {
        layout->count = 0;
    }
    layout->changes = vhdx->space.changes;
    return error;
}

/* ---- moving ---- */

static bool
is_zero(const uint8_t *bytes, size_t length)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0;
}

/* Into space that reads as zeros; holes stay holes. */
static vd_error
copy_chunk(struct vhdx_image *vhdx, uint8_t *buffer, size_t length,
           uint64_t from, uint64_t to)
{
    vd_error error = vd_vhdx_read_metadata(vhdx, buffer, length, from);
    for (size_t at = 0; at < length && error == ERROR_SUCCESS;
         at += ZERO_UNIT) {
        if (!is_zero(buffer + at, ZERO_UNIT)) {
            error = vd_file_pwrite(vhdx->image.file, buffer + at, ZERO_UNIT,
                                   to + at);
        }
    }
    return error;
}

static vd_error
copy_space(struct vhdx_image *vhdx, uint64_t from, uint64_t to,
           uint64_t length)
{
    VD_AUTO_FREE uint8_t *buffer = malloc(COPY_SIZE);
    vd_error error = buffer != NULL ? ERROR_SUCCESS : ERROR_NOT_ENOUGH_MEMORY;
    for (uint64_t at = 0; at < length && error == ERROR_SUCCESS;
         at += COPY_SIZE) {
        error = copy_chunk(vhdx, buffer, COPY_SIZE, from + at, to + at);
    }
    return error;
}

static vd_error
move_entry(struct vhdx_image *vhdx, const struct vhdx_piece *piece,
           uint64_t to)
{
    uint64_t entry;
    vd_error error = vd_vhdx_bat_entry(vhdx, piece->index, &entry);
    if (error == ERROR_SUCCESS) {
        error = vd_vhdx_set_entry(vhdx, piece->index,
                                  to | (entry & (VHDX_MIB - 1)));
    }
    return error;
}

/* The block reads the same all the time; its old place stays as it is until
 * the move is durable. */
static vd_error
move_block(struct vhdx_image *vhdx, const struct vhdx_piece *piece,
           uint64_t to)
{
    bool bitmap = vd_vhdx_is_bitmap_index(&vhdx->geometry, piece->index);
    vd_error error = vd_vhdx_space_reserve(vhdx);
    if (error == ERROR_SUCCESS) {
        error = copy_space(vhdx, piece->offset, to, piece->length);
    }
    if (error == ERROR_SUCCESS) {
        error = move_entry(vhdx, piece, to);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (bitmap) {
        vd_vhdx_bitmap_moved(vhdx,
                             piece->index / (vhdx->geometry.chunk_ratio + 1));
    }
    vd_vhdx_space_give_up(vhdx, piece->offset, piece->length,
                          vhdx->commits + 1);
    return ERROR_SUCCESS;
}

/* Of a bitmap, the pages that the log has not brought there yet. */
static vd_error
settle_bitmap(struct vhdx_image *vhdx, const struct vhdx_piece *piece)
{
    return vd_vhdx_is_bitmap_index(&vhdx->geometry, piece->index) &&
                   vhdx->dirty != NULL
               ? vd_vhdx_commit(&vhdx->image)
               : ERROR_SUCCESS;
}

static uint64_t
unused_entry(void *context, uint64_t index)
{
    (void)context, (void)index;
    return 0;
}

/* The BAT or the metadata, as they are. */
static vd_error
move_region(struct vhdx_image *vhdx, struct vhdx_region *known, uint64_t to)
{
    struct vhdx_region moved = {.offset = to, .length = known->length};
    vd_error error = vd_vhdx_commit(&vhdx->image);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (known == &vhdx->regions.bat) {
        error =
            vd_vhdx_bat_write(vhdx, &vhdx->geometry, to,
                              vhdx->geometry.bat_entries, unused_entry, NULL);
    }
    else {
        error = copy_space(vhdx, known->offset, to, known->length);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_vhdx_region_move(vhdx, known, moved);
    }
    vd_vhdx_unstage(vhdx);
    return error;
}

/* As long as the BAT must be, in whole MiB. */
static uint32_t
table_length(const struct vhdx_image *vhdx)
{
    uint64_t bytes = vhdx->geometry.bat_entries * sizeof(uint64_t);
    return (uint32_t)((bytes + VHDX_MIB - 1) / VHDX_MIB * VHDX_MIB);
}

/* After a disk has shrunk its table may be longer than it must be. */
static vd_error
trim_table(struct vhdx_image *vhdx)
{
    uint32_t length = table_length(vhdx);
    if (vhdx->regions.bat.length <= length) {
        return ERROR_SUCCESS;
    }
    vd_error error = vd_vhdx_commit(&vhdx->image);
    if (error == ERROR_SUCCESS) {
        error = vd_vhdx_region_trim(vhdx, &vhdx->regions.bat, length);
    }
    vd_vhdx_unstage(vhdx);
    return error;
}

/* Which of our regions a piece is; NULL: what cannot be moved. */
static struct vhdx_region *
region_of(struct vhdx_image *vhdx, const struct vhdx_piece *piece)
{
    if (piece->offset == vhdx->regions.bat.offset) {
        return &vhdx->regions.bat;
    }
    return piece->offset == vhdx->regions.metadata.offset
               ? &vhdx->regions.metadata
               : NULL;
}

static vd_error
move_piece(struct vhdx_image *vhdx, const struct vhdx_piece *piece,
           bool *moved_out)
{
    struct vhdx_region *region = NULL;
    uint64_t to;
    if (piece->index == NOT_A_BLOCK) {
        region = region_of(vhdx, piece);
        if (region == NULL) {
            *moved_out = false;
            return ERROR_SUCCESS;
        }
    }
    vd_error error = vd_vhdx_space_take_below(vhdx, piece->length,
                                              piece->offset, &to, moved_out);
    if (error != ERROR_SUCCESS || !*moved_out) {
        return error;
    }
    error = region != NULL ? move_region(vhdx, region, to)
                           : move_block(vhdx, piece, to);
    if (error != ERROR_SUCCESS) {
        vd_vhdx_space_put_back(vhdx, to, piece->length);
    }
    return error;
}

/* What lies last, but for what is being given up. */
static const struct vhdx_piece *
last_piece(struct vhdx_image *vhdx)
{
    struct vhdx_layout *layout = &vhdx->layout;
    while (layout->count > 1) {
        const struct vhdx_piece *piece = &layout->pieces[layout->count - 1];
        bool given_up = false;
        for (size_t i = 0;
             piece->index == NOT_A_BLOCK && i < vhdx->space.count; i++) {
            given_up |= vhdx->space.pieces[i].offset == piece->offset;
        }
        if (!given_up) {
            return piece;
        }
        layout->count--;
    }
    return &layout->pieces[0];
}

vd_error
vd_vhdx_relocate(struct vd_image *image, bool *moved_out)
{
    struct vhdx_image *vhdx = vd_vhdx_of(image);
    *moved_out = false;
    vd_error error = vd_vhdx_begin(image, VD_CHANGE_LAYOUT);
    if (error == ERROR_SUCCESS) {
        error = vd_vhdx_make_room(vhdx);
    }
    if (error == ERROR_SUCCESS) {
        error = trim_table(vhdx);
    }
    if (error == ERROR_SUCCESS) {
        error = make_layout(vhdx);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    struct vhdx_piece piece = *last_piece(vhdx);
    if (piece.index != NOT_A_BLOCK) {
        error = settle_bitmap(vhdx, &piece);
    }
    if (error == ERROR_SUCCESS) {
        error = move_piece(vhdx, &piece, moved_out);
    }
    if (error == ERROR_SUCCESS && *moved_out) {
        vhdx->layout.count--;
        vhdx->layout.changes = vhdx->space.changes;
    }
    return error;
}

/* ---- the end of the file ---- */

struct extent {
    uint64_t occupied;
    uint64_t end;
};

static vd_error
measure(void *context, const struct vhdx_piece *piece)
{
    struct extent *extent = context;
    uint64_t end = piece->offset + piece->length;
    extent->occupied += piece->length;
    if (end > extent->end) {
        extent->end = end;
    }
    return ERROR_SUCCESS;
}

static vd_error
measure_all(struct vhdx_image *vhdx, struct extent *out)
{
    struct vhdx_layout others = {0};
    struct extent extent = {0};
    vd_error error = add_others(vhdx, &others);
    for (size_t i = 0; i < others.count && error == ERROR_SUCCESS; i++) {
        error = measure(&extent, &others.pieces[i]);
    }
    free(others.pieces);
    if (error == ERROR_SUCCESS) {
        error = vd_vhdx_bat_scan(vhdx, measure, &extent);
    }
    *out = extent;
    return error;
}

vd_error
vd_vhdx_occupied(struct vd_image *image, uint64_t *bytes_out)
{
    struct vhdx_image *vhdx = vd_vhdx_of(image);
    struct extent extent;
    vd_error error = measure_all(vhdx, &extent);
    for (size_t i = 0; i < vhdx->space.count; i++) {
        const struct vhdx_free_space *space = &vhdx->space.pieces[i];
        extent.occupied -=
            space->state == VHDX_SPACE_GIVEN_UP ? space->length : 0;
    }
    if (vhdx->regions.bat.length > table_length(vhdx)) {
        extent.occupied -= vhdx->regions.bat.length - table_length(vhdx);
    }
    if (error == ERROR_SUCCESS) {
        *bytes_out = extent.occupied;
    }
    return error;
}

/* A log entry that still announced the longer file would make the shorter
 * one corrupt. */
static vd_error
cut_off(struct vhdx_image *vhdx, uint64_t end)
{
    uint64_t former = atomic_load(&vhdx->file_size);
    atomic_store(&vhdx->file_size, end);
    vd_error error = vd_vhdx_log_settle(vhdx);
    if (error == ERROR_SUCCESS) {
        error = vd_file_truncate(vhdx->image.file, end);
    }
    if (error != ERROR_SUCCESS) {
        atomic_store(&vhdx->file_size, former);
        return error;
    }
    vd_vhdx_space_forget(vhdx, end);
    vhdx->space.end = end;
    return vd_vhdx_commit(&vhdx->image);
}

vd_error
vd_vhdx_shorten(struct vd_image *image)
{
    struct vhdx_image *vhdx = vd_vhdx_of(image);
    struct extent extent;
    vd_error error = vd_vhdx_begin(image, VD_CHANGE_LAYOUT);
    if (error == ERROR_SUCCESS) {
        error = vd_vhdx_commit(image);
    }
    if (error == ERROR_SUCCESS) {
        error = measure_all(vhdx, &extent);
    }
    if (error != ERROR_SUCCESS ||
        extent.end >= atomic_load(&vhdx->file_size)) {
        return error;
    }
    return cut_off(vhdx, extent.end);
}
