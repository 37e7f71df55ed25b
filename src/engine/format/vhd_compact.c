/*
 * Making the file of a dynamic or differencing VHD shorter: the last block
 * moves into the first hole, as long as there is one before it, and then the
 * file is cut.
 *
 * A block moves as a new one is written: payload and bitmap first, the entry
 * that leads to them with the next commit, and the old place stays as it is
 * until nobody reads there.  Holes are found once for many moves (the plan).
 */
#include "format/vhd.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/trace.h"

#define PIECE_SIZE (64u * 1024) /* copied at once */
#define NO_BLOCK UINT64_MAX
#define TABLE (UINT64_MAX - 1)
#define NOWHERE UINT64_MAX

/* ---- what the file is made of ---- */

/* Part of the file that is in use. */
struct used {
    uint64_t start, end;
    uint64_t block; /* NO_BLOCK: something else; TABLE: the BAT */
};

struct map {
    struct used *used; /* in the order of the file */
    size_t count;
};

/* The next hole for a block: `low` is the first in use that it has not been
 * looked for before, `at` where what lies before ends. */
struct cursor {
    size_t low;
    uint64_t at;
};

struct vd_vhd_plan {
    struct map map;
    struct cursor cursor;
    size_t high;       /* from here on all blocks have been moved */
    uint64_t reclaims; /* when it was made */
};

static uint64_t
block_length(const struct vd_vhd_image *vhd)
{
    return (uint64_t)vhd->bitmap_size + vhd->header.block_size;
}

static void
add(struct map *map, uint64_t start, uint64_t length, uint64_t block)
{
    map->used[map->count++] =
        (struct used){.start = start, .end = start + length, .block = block};
}

/* No claim beyond the file's end. */
static void
add_kept(const struct vd_vhd_image *vhd, struct map *map, uint64_t start,
         uint64_t length, uint64_t block)
{
    if (vd_range_within(start, length, atomic_load(&vhd->data_end))) {
        add(map, start, length, block);
    }
}

/* The table with what belongs to it. */
static void
add_table(const struct vd_vhd_image *vhd, struct map *map)
{
    uint64_t table = vhd->header.table_offset;
    add(map, table, vhd->blocks * sizeof(uint32_t), TABLE);
    add_kept(vhd, map, table,
             vd_vhd_table_space(table, vhd->header.max_entries), TABLE);
}

static void
add_metadata(const struct vd_vhd_image *vhd, struct map *map)
{
    for (size_t i = 0; i < vhd->range_count; i++) {
        if (vhd->ranges[i].offset != vhd->header.table_offset) {
            add(map, vhd->ranges[i].offset, vhd->ranges[i].length, NO_BLOCK);
        }
    }
    for (size_t i = 0; vhd->child && i < VHD_LOCATORS; i++) {
        const struct vd_vhd_locator *locator = &vhd->header.locators[i];
        if (locator->platform != VHD_PLATFORM_NONE) {
            add_kept(vhd, map, locator->offset,
                     vd_vhd_locator_reserve(locator), NO_BLOCK);
        }
    }
}

/* What was given up and may still be read is in use. */
static void
add_pending(const struct vd_vhd_image *vhd, struct map *map)
{
    for (size_t i = 0; i < vhd->space.count; i++) {
        if (!vhd->space.blocks[i].reclaimed) {
            add(map, vhd->space.blocks[i].place, block_length(vhd), NO_BLOCK);
        }
    }
}

static uint32_t
entry_of(struct vd_vhd_image *vhd, uint64_t block)
{
    struct vd_vhd_page *page =
        atomic_load(vd_vhd_bat_slot(vhd, block / VHD_BAT_PAGE_ENTRIES));
    return atomic_load(&page->words[block % VHD_BAT_PAGE_ENTRIES]);
}

static uint64_t
count_blocks(struct vd_vhd_image *vhd)
{
    uint64_t count = 0;
    for (uint64_t block = 0; block < vhd->blocks; block++) {
        count += entry_of(vhd, block) != VHD_UNUSED;
    }
    return count;
}

static void
add_blocks(struct vd_vhd_image *vhd, struct map *map)
{
    for (uint64_t block = 0; block < vhd->blocks; block++) {
        uint32_t entry = entry_of(vhd, block);
        if (entry != VHD_UNUSED) {
            add(map, (uint64_t)entry * VHD_SECTOR_SIZE, block_length(vhd),
                block);
        }
    }
}

static int
compare_used(const void *left, const void *right)
{
    const struct used *a = left, *b = right;
    return (a->start > b->start) - (a->start < b->start);
}

/* The whole table is in memory.  pending: with what is not yet reclaimed. */
static vd_error
make_map(struct vd_vhd_image *vhd, bool pending, struct map *out)
{
    struct map map = {.count = 0};
    size_t most = VHD_MAX_RANGES + VHD_LOCATORS + 2 + vhd->space.count +
                  (size_t)count_blocks(vhd);
    map.used = calloc(most, sizeof(*map.used));
    if (map.used == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    add_metadata(vhd, &map);
    add_table(vhd, &map);
    add_blocks(vhd, &map);
    if (pending) {
        add_pending(vhd, &map);
    }
    qsort(map.used, map.count, sizeof(*map.used), compare_used);
    *out = map;
    return ERROR_SUCCESS;
}

/* Where everything ends, but for the table. */
static uint64_t
end_of(const struct map *map)
{
    uint64_t end = 0;
    for (size_t i = 0; i < map->count; i++) {
        if (map->used[i].block != TABLE && map->used[i].end > end) {
            end = map->used[i].end;
        }
    }
    return end;
}

/* The first hole for a block at the cursor or after it, or the place behind
 * everything. */
static uint64_t
find_place(const struct vd_vhd_image *vhd, const struct map *map,
           struct cursor *cursor)
{
    for (; cursor->low < map->count; cursor->low++) {
        const struct used *next = &map->used[cursor->low];
        if (vd_vhd_block_place(vhd, cursor->at) + block_length(vhd) <=
            next->start) {
            break;
        }
        if (next->end > cursor->at) {
            cursor->at = next->end;
        }
    }
    return vd_vhd_block_place(vhd, cursor->at);
}

/* ---- moving a block ---- */

static bool
is_zero(const uint8_t *bytes, size_t length)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0;
}

/* Where there are zeros, the copy has a hole. */
static vd_error
copy_payload(struct vd_vhd_image *vhd, uint64_t from, uint64_t to)
{
    uint64_t length = vhd->header.block_size;
    VD_AUTO_FREE uint8_t *bytes = malloc(PIECE_SIZE);
    if (bytes == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    vd_error error = vd_file_punch(vhd->image.file, to, length);
    for (uint64_t at = 0; at < length && error == ERROR_SUCCESS;) {
        size_t piece =
            length - at < PIECE_SIZE ? (size_t)(length - at) : PIECE_SIZE;
        error = vd_file_pread(vhd->image.file, bytes, piece, from + at);
        if (error == ERROR_SUCCESS && !is_zero(bytes, piece)) {
            error = vd_file_pwrite(vhd->image.file, bytes, piece, to + at);
        }
        at += piece;
    }
    return error;
}

/* Of a dynamic disk: it is not in memory. */
static vd_error
copy_bitmap(struct vd_vhd_image *vhd, uint64_t from, uint64_t to)
{
    vd_error error = ERROR_SUCCESS;
    for (uint32_t at = 0; at < vhd->bitmap_size && error == ERROR_SUCCESS;
         at += VHD_SECTOR_SIZE) {
        uint8_t bits[VHD_SECTOR_SIZE];
        error = vd_file_pread(vhd->image.file, bits, sizeof(bits), from + at);
        if (error == ERROR_SUCCESS) {
            error =
                vd_file_pwrite(vhd->image.file, bits, sizeof(bits), to + at);
        }
    }
    return error;
}

/* As that of a new block: all of it is durable before its entry is. */
static vd_error
move_bitmap(struct vd_vhd_image *vhd, struct vd_vhd_page *bitmap, uint64_t to)
{
    uint64_t from = bitmap->file_offset;
    bitmap->file_offset = to;
    vd_error error = vd_vhd_page_write(vhd, bitmap);
    if (error != ERROR_SUCCESS) {
        bitmap->file_offset = from;
        return error;
    }
    memset(bitmap->dirty, 0, sizeof(bitmap->dirty));
    bitmap->born = vhd->commits + 1;
    return ERROR_SUCCESS;
}

static vd_error
move_block(struct vd_vhd_image *vhd, const struct used *used, uint64_t to)
{
    unsigned index = (unsigned)(used->block % VHD_BAT_PAGE_ENTRIES);
    struct vd_vhd_page *page =
        atomic_load(vd_vhd_bat_slot(vhd, used->block / VHD_BAT_PAGE_ENTRIES));
    struct vd_vhd_page *bitmap = NULL;
    vd_error error = copy_payload(vhd, used->start + vhd->bitmap_size,
                                  to + vhd->bitmap_size);
    if (error == ERROR_SUCCESS && vhd->child) {
        error = vd_vhd_bitmap(vhd, page, used->block, &bitmap);
    }
    if (error == ERROR_SUCCESS) {
        error = vhd->child ? move_bitmap(vhd, bitmap, to)
                           : copy_bitmap(vhd, used->start, to);
    }
    if (error == ERROR_SUCCESS) {
        vd_vhd_page_store(vhd, page, index, (uint32_t)(to / VHD_SECTOR_SIZE));
        vd_vhd_space_give_up(vhd, used->start, false);
    }
    return error;
}

/* ---- the plan ---- */

void
vd_vhd_plan_drop(struct vd_vhd_image *vhd)
{
    if (vhd->plan != NULL) {
        free(vhd->plan->map.used);
        free(vhd->plan);
        vhd->plan = NULL;
    }
}

/* All holes are the plan's: none is to be given to a new block beside it. */
static vd_error
make_plan(struct vd_vhd_image *vhd)
{
    vd_vhd_plan_drop(vhd);
    if (vhd->space_lost) {
        return ERROR_NOT_ENOUGH_MEMORY; /* holes may still be read */
    }
    vd_error error = vd_vhd_table_load(vhd);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    VD_AUTO_FREE struct vd_vhd_plan *plan = calloc(1, sizeof(*plan));
    if (plan == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    error = make_map(vhd, true, &plan->map);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    vd_vhd_space_drop_reclaimed(vhd);
    plan->high = plan->map.count;
    plan->reclaims = vhd->reclaims;
    vhd->plan = VD_TAKE(plan);
    return ERROR_SUCCESS;
}

/* The last block that has not been moved, and where it can go: false if
 * there is none, or no place before it. */
static bool
next_move(const struct vd_vhd_image *vhd, struct vd_vhd_plan *plan,
          uint64_t *to_out)
{
    while (plan->high > 0 && plan->map.used[plan->high - 1].block >= TABLE) {
        plan->high--;
    }
    if (plan->high == 0) {
        return false;
    }
    *to_out = find_place(vhd, &plan->map, &plan->cursor);
    return *to_out < plan->map.used[plan->high - 1].start;
}

static void
note_move(const struct vd_vhd_image *vhd, struct vd_vhd_plan *plan,
          uint64_t to)
{
    plan->cursor.at = to + block_length(vhd);
    plan->high--;
}

static vd_error
follow_plan(struct vd_vhd_image *vhd, bool *moved_out)
{
    struct vd_vhd_plan *plan = vhd->plan;
    uint64_t to;
    *moved_out = false;
    if (!next_move(vhd, plan, &to)) {
        return ERROR_SUCCESS;
    }
    vd_error error = move_block(vhd, &plan->map.used[plan->high - 1], to);
    if (error == ERROR_SUCCESS) {
        note_move(vhd, plan, to);
        *moved_out = true;
    }
    return error;
}

vd_error
vd_vhd_relocate(struct vd_image *image, bool *moved_out)
{
    struct vd_vhd_image *vhd = vd_vhd_of(image);
    *moved_out = false;
    if (vd_vhd_is_fixed(vhd)) {
        return ERROR_SUCCESS;
    }
    vd_error error = vd_vhd_check_state(vhd);
    if (error == ERROR_SUCCESS) {
        error = vd_vhd_begin(image, VD_CHANGE_LAYOUT);
    }
    while (error == ERROR_SUCCESS) {
        bool old = vhd->plan != NULL && vhd->plan->reclaims != vhd->reclaims;
        if (vhd->plan == NULL) {
            error = make_plan(vhd);
        }
        if (error == ERROR_SUCCESS) {
            error = follow_plan(vhd, moved_out);
        }
        if (error != ERROR_SUCCESS || *moved_out || !old) {
            break;
        }
        vd_vhd_plan_drop(vhd); /* there are new holes */
    }
    return error;
}

/* ---- the table ---- */

/* Where the table fits before the place where it is, if that is behind
 * everything else. */
static uint64_t
find_table_place(const struct vd_vhd_image *vhd, const struct map *map)
{
    uint64_t now = vhd->header.table_offset;
    uint64_t at = 0;
    if (now < end_of(map) || vhd->has_batmap || vhd->space_lost) {
        return NOWHERE; /* a batmap would have to move with it */
    }
    for (size_t i = 0; i <= map->count; i++) {
        bool last = i == map->count;
        if (!last && map->used[i].block == TABLE) {
            continue;
        }
        uint64_t place = vd_vhd_table_place(vhd, at);
        uint64_t end =
            place + vd_vhd_table_space(place, vhd->header.max_entries);
        if (end <= (last ? now : map->used[i].start)) {
            return place;
        }
        if (!last && map->used[i].end > at) {
            at = map->used[i].end;
        }
    }
    return NOWHERE;
}

/* ---- how short it can be ---- */

/* What the map will be when all that can has moved. */
static void
foresee(const struct vd_vhd_image *vhd, struct map *map)
{
    struct vd_vhd_plan plan = {.map = *map, .high = map->count};
    uint64_t to;
    while (next_move(vhd, &plan, &to)) {
        map->used[plan.high - 1].start = to;
        map->used[plan.high - 1].end = to + block_length(vhd);
        note_move(vhd, &plan, to);
    }
    qsort(map->used, map->count, sizeof(*map->used), compare_used);
}

static uint64_t
foresee_end(const struct vd_vhd_image *vhd, struct map *map)
{
    foresee(vhd, map);
    uint64_t end = end_of(map);
    uint64_t table = find_table_place(vhd, map);
    if (table == NOWHERE) {
        table = vhd->header.table_offset;
    }
    uint64_t table_end =
        table + vd_vhd_table_space(table, vhd->header.max_entries);
    return vd_vhd_footer_place(vhd, end > table_end ? end : table_end);
}

vd_error
vd_vhd_occupied(struct vd_image *image, uint64_t *bytes_out)
{
    struct vd_vhd_image *vhd = vd_vhd_of(image);
    struct map map;
    if (vd_vhd_is_fixed(vhd)) {
        *bytes_out = vhd->footers.file_size;
        return ERROR_SUCCESS;
    }
    vd_error error = vd_vhd_table_load(vhd);
    if (error == ERROR_SUCCESS) {
        error = make_map(vhd, false, &map);
    }
    if (error == ERROR_SUCCESS) {
        *bytes_out = foresee_end(vhd, &map) + VHD_FOOTER_SIZE;
        free(map.used);
    }
    return error;
}

/* ---- cutting ---- */

/* After a disk has grown, its table may lie behind the blocks. */
static vd_error
draw_table_back(struct vd_vhd_image *vhd)
{
    struct map map;
    vd_error error = make_map(vhd, true, &map);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    uint64_t place = find_table_place(vhd, &map);
    free(map.used);
    return place != NOWHERE
               ? vd_vhd_table_move(vhd, place, vhd->header.max_entries)
               : ERROR_SUCCESS;
}

static vd_error
cut(struct vd_vhd_image *vhd)
{
    vd_error error = vd_vhd_scan(vhd);
    if (error == ERROR_SUCCESS) {
        error = vd_vhd_remember(vhd, vd_vhd_withdraw(vhd));
    }
    if (error == ERROR_SUCCESS) {
        vhd->space.count = 0;
        vhd->reserve_blocks = 0;
    }
    return error;
}

vd_error
vd_vhd_shorten(struct vd_image *image)
{
    struct vd_vhd_image *vhd = vd_vhd_of(image);
    if (vd_vhd_is_fixed(vhd)) {
        return ERROR_SUCCESS;
    }
    vd_error error = vd_vhd_check_state(vhd);
    if (error == ERROR_SUCCESS) {
        error = vd_vhd_begin(image, VD_CHANGE_LAYOUT);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_vhd_commit(image);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_vhd_table_load(vhd);
    }
    vd_vhd_plan_drop(vhd);
    vd_vhd_space_drop_reclaimed(vhd);
    if (error == ERROR_SUCCESS) {
        error = draw_table_back(vhd);
    }
    return error != ERROR_SUCCESS ? error : cut(vhd);
}
