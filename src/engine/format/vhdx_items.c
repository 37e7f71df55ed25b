/*
 * Metadata items, changed ([MS-VHDX] 2.6; FORMATS 2.6).
 *
 * A change of the same length, of a page at most, is made in place.  All other
 * content goes where no item is, and one log entry puts the new table in
 * place, together with what changes in place.  A region without room for that
 * is written anew, packed, somewhere else in the file.
 */
#include "format/vhdx_write.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/trace.h"

#define MAX_IN_PLACE VHDX_PAGE_SIZE
#define MAX_CONTENT (40 * VHDX_MIB) /* of all items of a region we write */
#define STAGED_AT_ONCE (64 * VHDX_KIB)

struct editing {
    struct vhdx_image *vhdx;
    const struct vhdx_item_change *changes;
    size_t count;
    uint8_t *former; /* the table as it is in the file */
    uint8_t *table;  /* as it is to be; of new items, offset 0 */
};

static vd_error
full(const char *reason)
{
    vd_trace(VD_TRACE_FORMAT, "VHDX: no room for metadata: %s", reason);
    return ERROR_VHD_METADATA_FULL;
}

/* ---- a table in memory ---- */

static unsigned
count_of(const uint8_t *table)
{
    return vd_get_le16(table + VHDX_METADATA_COUNT);
}

static uint8_t *
entry_at(const uint8_t *table, unsigned index)
{
    return (uint8_t *)(uintptr_t)table + VHDX_METADATA_ENTRIES +
           (size_t)index * VHDX_ITEM_ENTRY_SIZE;
}

static bool
is_user(const uint8_t *entry)
{
    return vd_get_le32(entry + VHDX_ITEM_FLAGS) & VHDX_ITEM_IS_USER;
}

static uint8_t *
find_entry(const uint8_t *table, const struct vd_guid *id, bool user)
{
    for (unsigned i = 0; i < count_of(table); i++) {
        uint8_t *entry = entry_at(table, i);
        if (memcmp(entry + VHDX_ITEM_ID, id, VD_GUID_SIZE) == 0 &&
            is_user(entry) == user) {
            return entry;
        }
    }
    return NULL;
}

/* It was checked when the image was opened. */
static vd_error
read_table(struct vhdx_image *vhdx, uint8_t **out)
{
    VD_AUTO_FREE uint8_t *table = malloc(VHDX_METADATA_TABLE_SIZE);
    if (table == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    vd_error error = vd_vhdx_read_metadata(
        vhdx, table, VHDX_METADATA_TABLE_SIZE, vhdx->regions.metadata.offset);
    if (error == ERROR_SUCCESS && count_of(table) > VHDX_ITEMS_MAX) {
        error = ERROR_VHD_METADATA_READ_FAILURE;
    }
    if (error == ERROR_SUCCESS) {
        *out = VD_TAKE(table);
    }
    return error;
}

static void
remove_entry(uint8_t *table, uint8_t *entry)
{
    unsigned last = count_of(table) - 1;
    memmove(entry, entry_at(table, last), VHDX_ITEM_ENTRY_SIZE);
    memset(entry_at(table, last), 0, VHDX_ITEM_ENTRY_SIZE);
    vd_put_le16(table + VHDX_METADATA_COUNT, (uint16_t)last);
}

static vd_error
add_entry(uint8_t *table, const struct vhdx_item_change *change, uint8_t **out)
{
    unsigned count = count_of(table), users = 0;
    for (unsigned i = 0; i < count; i++) {
        users += is_user(entry_at(table, i));
    }
    if (count == VHDX_ITEMS_MAX ||
        (change->user && users >= VHDX_USER_ITEMS_MAX)) {
        return full("too many items");
    }
    uint8_t *entry = entry_at(table, count);
    memset(entry, 0, VHDX_ITEM_ENTRY_SIZE);
    memcpy(entry + VHDX_ITEM_ID, change->id, VD_GUID_SIZE);
    vd_put_le32(entry + VHDX_ITEM_FLAGS, change->user ? VHDX_ITEM_IS_USER : 0);
    vd_put_le16(table + VHDX_METADATA_COUNT, (uint16_t)(count + 1));
    *out = entry;
    return ERROR_SUCCESS;
}

static bool
in_place(const uint8_t *entry, const struct vhdx_item_change *change)
{
    return change->length <= MAX_IN_PLACE && change->length != 0 &&
           vd_get_le32(entry + VHDX_ITEM_LENGTH) == change->length;
}

/* The table as it is to be; what needs a new place has none yet. */
static vd_error
edit_table(struct editing *editing, const struct vhdx_item_change *change)
{
    uint8_t *entry = find_entry(editing->table, change->id, change->user);
    if (change->data == NULL) {
        if (entry == NULL) {
            return ERROR_NOT_FOUND;
        }
        remove_entry(editing->table, entry);
        return ERROR_SUCCESS;
    }
    if (change->length > VHDX_ITEM_LENGTH_MAX) {
        return full("an item of more than 1 MiB");
    }
    if (entry == NULL) {
        vd_error error = add_entry(editing->table, change, &entry);
        if (error != ERROR_SUCCESS) {
            return error;
        }
    }
    if (!in_place(entry, change)) {
        vd_put_le32(entry + VHDX_ITEM_OFFSET, 0);
        vd_put_le32(entry + VHDX_ITEM_LENGTH, change->length);
    }
    return ERROR_SUCCESS;
}

/* ---- room in the region ---- */

/* The end of an item that meets the range; 0: none does. */
static uint64_t
end_of_obstacle(const uint8_t *table, uint64_t offset, uint64_t length)
{
    for (unsigned i = 0; i < count_of(table); i++) {
        const uint8_t *entry = entry_at(table, i);
        uint64_t start = vd_get_le32(entry + VHDX_ITEM_OFFSET);
        uint64_t end = start + vd_get_le32(entry + VHDX_ITEM_LENGTH);
        if (start != 0 && start < offset + length && offset < end) {
            return end;
        }
    }
    return 0;
}

/* The first place that neither the former nor the new table uses. */
static bool
find_place(const struct editing *editing, uint32_t length,
           uint32_t *offset_out)
{
    uint64_t offset = VHDX_METADATA_TABLE_SIZE, end = 0;
    do {
        end = end_of_obstacle(editing->former, offset, length);
        if (end == 0) {
            end = end_of_obstacle(editing->table, offset, length);
        }
        offset = end != 0 ? end : offset;
    } while (end != 0);
    *offset_out = (uint32_t)offset;
    return offset + length <= editing->vhdx->regions.metadata.length;
}

/* Whether a change has a place of its own to come to. */
static bool
is_new(const struct editing *editing, const struct vhdx_item_change *change)
{
    if (change->data == NULL || change->length == 0) {
        return false;
    }
    const uint8_t *former =
        find_entry(editing->former, change->id, change->user);
    return former == NULL || !in_place(former, change);
}

static bool
place_all(struct editing *editing)
{
    for (size_t i = 0; i < editing->count; i++) {
        const struct vhdx_item_change *change = &editing->changes[i];
        uint32_t offset;
        if (!is_new(editing, change)) {
            continue;
        }
        if (!find_place(editing, change->length, &offset)) {
            return false;
        }
        vd_put_le32(find_entry(editing->table, change->id, change->user) +
                        VHDX_ITEM_OFFSET,
                    offset);
    }
    return true;
}

/* ---- in the region as it is ---- */

static uint64_t
place_of(const struct editing *editing, const struct vhdx_item_change *change)
{
    const uint8_t *entry =
        find_entry(editing->table, change->id, change->user);
    return editing->vhdx->regions.metadata.offset +
           vd_get_le32(entry + VHDX_ITEM_OFFSET);
}

/* In as many log entries as it takes: nothing leads there yet. */
static vd_error
write_new(struct editing *editing, const struct vhdx_item_change *change)
{
    const uint8_t *from = change->data;
    uint64_t to = place_of(editing, change);
    uint32_t left = change->length;
    vd_error error = ERROR_SUCCESS;
    while (left != 0 && error == ERROR_SUCCESS) {
        uint32_t piece = left < STAGED_AT_ONCE ? left : STAGED_AT_ONCE;
        error = vd_vhdx_make_room(editing->vhdx);
        if (error == ERROR_SUCCESS) {
            error = vd_vhdx_stage(editing->vhdx, to, from, piece);
        }
        from += piece;
        to += piece;
        left -= piece;
    }
    return error;
}

static vd_error
write_all_new(struct editing *editing)
{
    vd_error error = ERROR_SUCCESS;
    for (size_t i = 0; i < editing->count && error == ERROR_SUCCESS; i++) {
        if (is_new(editing, &editing->changes[i])) {
            error = write_new(editing, &editing->changes[i]);
        }
    }
    return error != ERROR_SUCCESS ? error
                                  : vd_vhdx_commit(&editing->vhdx->image);
}

/* One log entry: the table, and what changes in place. */
static vd_error
stage_all(struct editing *editing)
{
    struct vhdx_image *vhdx = editing->vhdx;
    vd_error error = vd_vhdx_stage(vhdx, vhdx->regions.metadata.offset,
                                   editing->table, VHDX_METADATA_TABLE_SIZE);
    for (size_t i = 0; i < editing->count && error == ERROR_SUCCESS; i++) {
        const struct vhdx_item_change *change = &editing->changes[i];
        if (change->data != NULL && change->length != 0 &&
            !is_new(editing, change)) {
            error = vd_vhdx_stage(vhdx, place_of(editing, change),
                                  change->data, change->length);
        }
    }
    return error;
}

static vd_error
change_here(struct editing *editing)
{
    vd_error error = write_all_new(editing);
    if (error == ERROR_SUCCESS) {
        error = stage_all(editing);
    }
    return error != ERROR_SUCCESS ? error
                                  : vd_vhdx_commit(&editing->vhdx->image);
}

/* ---- in a new region ---- */

static const struct vhdx_item_change *
change_of(const struct editing *editing, const uint8_t *entry)
{
    for (size_t i = 0; i < editing->count; i++) {
        const struct vhdx_item_change *change = &editing->changes[i];
        if (memcmp(entry + VHDX_ITEM_ID, change->id, VD_GUID_SIZE) == 0 &&
            is_user(entry) == change->user) {
            return change;
        }
    }
    return NULL;
}

static uint64_t
content_length(const uint8_t *table)
{
    uint64_t length = 0;
    for (unsigned i = 0; i < count_of(table); i++) {
        length += vd_get_le32(entry_at(table, i) + VHDX_ITEM_LENGTH);
    }
    return length;
}

/* All items, one behind the other; the entries follow them. */
static vd_error
pack(struct editing *editing, uint8_t *region)
{
    struct vhdx_image *vhdx = editing->vhdx;
    uint32_t at = VHDX_METADATA_TABLE_SIZE;
    vd_error error = ERROR_SUCCESS;
    for (unsigned i = 0;
         i < count_of(editing->table) && error == ERROR_SUCCESS; i++) {
        uint8_t *entry = entry_at(editing->table, i);
        uint32_t length = vd_get_le32(entry + VHDX_ITEM_LENGTH);
        const struct vhdx_item_change *change = change_of(editing, entry);
        if (length == 0) {
            continue;
        }
        if (change != NULL) {
            memcpy(region + at, change->data, length);
        }
        else {
            error = vd_vhdx_read_metadata(
                vhdx, region + at, length,
                vhdx->regions.metadata.offset +
                    vd_get_le32(entry + VHDX_ITEM_OFFSET));
        }
        vd_put_le32(entry + VHDX_ITEM_OFFSET, at);
        at += length;
    }
    memcpy(region, editing->table, VHDX_METADATA_TABLE_SIZE);
    return error;
}

static vd_error
write_region(struct editing *editing, const uint8_t *region, uint32_t length)
{
    struct vhdx_image *vhdx = editing->vhdx;
    struct vhdx_region to = {.length = length};
    vd_error error = vd_vhdx_space_take(vhdx, length, &to.offset);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = vd_file_pwrite(vhdx->image.file, region, length, to.offset);
    if (error == ERROR_SUCCESS) {
        error = vd_vhdx_region_move(vhdx, &vhdx->regions.metadata, to);
    }
    if (error != ERROR_SUCCESS) {
        vd_vhdx_space_put_back(vhdx, to.offset, length);
    }
    return error;
}

static vd_error
change_elsewhere(struct editing *editing)
{
    uint64_t content = content_length(editing->table);
    uint64_t length = VHDX_METADATA_TABLE_SIZE + content;
    if (content > MAX_CONTENT) {
        return full("more than 40 MiB");
    }
    length = (length + VHDX_MIB - 1) / VHDX_MIB * VHDX_MIB;
    VD_AUTO_FREE uint8_t *region = calloc(1, (size_t)length);
    if (region == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    vd_error error = pack(editing, region);
    return error != ERROR_SUCCESS
               ? error
               : write_region(editing, region, (uint32_t)length);
}

/* ---- */

static vd_error
change_items(struct editing *editing)
{
    vd_error error = ERROR_SUCCESS;
    memcpy(editing->table, editing->former, VHDX_METADATA_TABLE_SIZE);
    for (size_t i = 0; i < editing->count && error == ERROR_SUCCESS; i++) {
        error = edit_table(editing, &editing->changes[i]);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error =
        place_all(editing) ? change_here(editing) : change_elsewhere(editing);
    vd_vhdx_unstage(editing->vhdx);
    return error;
}

vd_error
vd_vhdx_items_change(struct vhdx_image *vhdx,
                     const struct vhdx_item_change *changes, size_t count)
{
    VD_AUTO_FREE uint8_t *former = NULL;
    VD_AUTO_FREE uint8_t *table = malloc(VHDX_METADATA_TABLE_SIZE);
    if (table == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    vd_error error = vd_vhdx_commit(&vhdx->image);
    if (error == ERROR_SUCCESS) {
        error = read_table(vhdx, &former);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    struct editing editing = {.vhdx = vhdx,
                              .changes = changes,
                              .count = count,
                              .former = former,
                              .table = table};
    return change_items(&editing);
}

vd_error
vd_vhdx_item_stage(struct vhdx_image *vhdx, enum vhdx_item item,
                   const void *bytes, uint32_t length)
{
    VD_AUTO_FREE uint8_t *table = NULL;
    vd_error error = read_table(vhdx, &table);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    const uint8_t *entry = find_entry(table, vd_vhdx_item_guid(item), false);
    if (entry == NULL || vd_get_le32(entry + VHDX_ITEM_LENGTH) != length) {
        return ERROR_VHD_METADATA_READ_FAILURE;
    }
    return vd_vhdx_stage(vhdx,
                         vhdx->regions.metadata.offset +
                             vd_get_le32(entry + VHDX_ITEM_OFFSET),
                         bytes, length);
}

/* ---- reading ---- */

vd_error
vd_vhdx_item_read(struct vhdx_image *vhdx, const struct vd_guid *id, bool user,
                  void **out, uint32_t *length_out)
{
    VD_AUTO_FREE uint8_t *table = NULL;
    vd_error error = read_table(vhdx, &table);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    const uint8_t *entry = find_entry(table, id, user);
    if (entry == NULL) {
        return ERROR_NOT_FOUND;
    }
    uint32_t length = vd_get_le32(entry + VHDX_ITEM_LENGTH);
    VD_AUTO_FREE uint8_t *item = malloc((size_t)length + 1);
    if (item == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    error = vd_vhdx_read_metadata(vhdx, item, length,
                                  vhdx->regions.metadata.offset +
                                      vd_get_le32(entry + VHDX_ITEM_OFFSET));
    if (error == ERROR_SUCCESS) {
        *out = VD_TAKE(item);
        *length_out = length;
    }
    return error;
}

vd_error
vd_vhdx_items_list(struct vhdx_image *vhdx, struct vd_guid **out,
                   size_t *count_out)
{
    VD_AUTO_FREE uint8_t *table = NULL;
    vd_error error = read_table(vhdx, &table);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    VD_AUTO_FREE struct vd_guid *ids =
        calloc(count_of(table) + 1u, sizeof(*ids));
    size_t count = 0;
    if (ids == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    for (unsigned i = 0; i < count_of(table); i++) {
        const uint8_t *entry = entry_at(table, i);
        if (is_user(entry)) {
            memcpy(&ids[count++], entry + VHDX_ITEM_ID, VD_GUID_SIZE);
        }
    }
    *out = VD_TAKE(ids);
    *count_out = count;
    return ERROR_SUCCESS;
}
