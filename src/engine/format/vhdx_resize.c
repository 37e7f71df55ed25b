/*
 * Another virtual size (FORMATS 4.5).
 *
 * The moment in which it has changed is the log entry with the new size item.
 * What a larger disk shows of the last block is zeroed before, and new entries
 * of the BAT are made before or, if the BAT has no room for them, in a copy of
 * it that the same log entry puts in place.  What a smaller disk no longer
 * shows is released after it.
 */
#include "format/vhdx_write.h"

#include "base/bytes.h"
#include "base/trace.h"

struct resizing {
    struct vhdx_image *vhdx;
    struct vhdx_geometry former, next;
    uint64_t space; /* of a fixed image: its new blocks */
};

/* Children refuse this parent from here on, and not before: a size that
 * cannot be must not cost them their parent. */
static vd_error
stage_size(struct vhdx_image *vhdx, uint64_t size_bytes)
{
    uint8_t item[8];
    vd_error error = vd_vhdx_begin(&vhdx->image, VD_CHANGE_CONTENT);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    vd_put_le64(item, size_bytes);
    return vd_vhdx_item_stage(vhdx, VHDX_ITEM_VIRTUAL_DISK_SIZE, item,
                              sizeof(item));
}

/* What is staged either happens now or not at all. */
static vd_error
commit_staged(struct vhdx_image *vhdx, vd_error error)
{
    if (error == ERROR_SUCCESS) {
        return vd_vhdx_commit(&vhdx->image);
    }
    vd_vhdx_unstage(vhdx);
    return error;
}

/* Only what has changed: others may be reading the rest. */
static void
publish(struct resizing *resizing, uint64_t size_bytes)
{
    struct vhdx_image *vhdx = resizing->vhdx;
    vhdx->metadata.size_bytes = size_bytes;
    vhdx->image.info.size_bytes = size_bytes;
    vhdx->geometry.payload_blocks = resizing->next.payload_blocks;
    vhdx->geometry.chunks = resizing->next.chunks;
    vhdx->geometry.bat_entries = resizing->next.bat_entries;
    atomic_store(&vhdx->bat_entries, resizing->next.bat_entries);
    vhdx->space.changes++;
}

/* ---- larger ---- */

static bool
is_fixed(const struct vhdx_image *vhdx)
{
    return vhdx->metadata.leave_allocated && !vhdx->metadata.has_parent;
}

/* The rest of the last block was never written, or was cut off once; and in
 * a child it would be its parent's. */
static vd_error
hide_tail(struct vhdx_image *vhdx, uint64_t size_bytes)
{
    uint64_t former = vhdx->metadata.size_bytes;
    uint64_t block_size = vhdx->geometry.block_size;
    uint64_t length = (block_size - former % block_size) % block_size;
    if (length > size_bytes - former) {
        length = size_bytes - former;
    }
    vhdx->metadata.size_bytes = size_bytes; /* for as long as this takes */
    vd_error error =
        vd_vhdx_zero(&vhdx->image, former, length, !is_fixed(vhdx));
    vhdx->metadata.size_bytes = former;
    return error;
}

/* Behind all that the file has, so that one run stays one. */
static vd_error
allocate_blocks(struct resizing *resizing)
{
    struct vhdx_image *vhdx = resizing->vhdx;
    uint64_t blocks =
        resizing->next.payload_blocks - resizing->former.payload_blocks;
    uint64_t length = blocks * resizing->next.block_size;
    uint64_t start = vhdx->space.end, end = start + length;
    if (!is_fixed(vhdx) || length == 0) {
        return ERROR_SUCCESS;
    }
    vd_error error = vd_file_allocate(vhdx->image.file, start, length);
    if (error == ERROR_NOT_SUPPORTED) {
        error = vd_file_truncate(vhdx->image.file, end);
    }
    if (error != ERROR_SUCCESS) {
        vd_trace(VD_TRACE_FORMAT, "VHDX: no space for a larger fixed image");
        if (vd_file_truncate(vhdx->image.file,
                             atomic_load(&vhdx->file_size)) != ERROR_SUCCESS) {
            vd_trace(VD_TRACE_FORMAT, "VHDX: the file stays longer");
        }
        return error;
    }
    atomic_store(&vhdx->file_size, end);
    vhdx->space.end = end;
    vhdx->space.changes++;
    resizing->space = start;
    return ERROR_SUCCESS;
}

/* A new block reads as zeros, in a child too. */
static uint64_t
new_payload(const struct resizing *resizing, uint64_t block)
{
    const struct vhdx_image *vhdx = resizing->vhdx;
    uint64_t number = block - resizing->former.payload_blocks;
    if (is_fixed(vhdx)) {
        return (resizing->space + number * resizing->next.block_size) |
               VHDX_FULLY_PRESENT;
    }
    return vhdx->metadata.has_parent ? VHDX_ZERO : VHDX_NOT_PRESENT;
}

/* The first entry behind that of the last block so far. */
static uint64_t
first_new_entry(const struct resizing *resizing)
{
    return vd_vhdx_payload_index(&resizing->former,
                                 resizing->former.payload_blocks - 1) +
           1;
}

/* What an entry from there on is to be; a child may have a bitmap there. */
static uint64_t
new_entry(void *context, uint64_t index)
{
    struct resizing *resizing = context;
    struct vhdx_image *vhdx = resizing->vhdx;
    const struct vhdx_geometry *next = &resizing->next;
    uint64_t chunk = index / (next->chunk_ratio + 1), block = index - chunk;
    uint64_t entry = VHDX_BITMAP_NOT_PRESENT;
    if (!vd_vhdx_is_bitmap_index(next, index)) {
        return block < next->payload_blocks ? new_payload(resizing, block) : 0;
    }
    if (!vhdx->metadata.has_parent || chunk >= resizing->former.chunks ||
        vd_vhdx_bat_entry(vhdx, index, &entry) != ERROR_SUCCESS) {
        return VHDX_BITMAP_NOT_PRESENT;
    }
    return entry;
}

static vd_error
fill_in_place(struct resizing *resizing)
{
    struct vhdx_image *vhdx = resizing->vhdx;
    uint64_t index = first_new_entry(resizing);
    vd_error error = ERROR_SUCCESS;
    for (; index < resizing->next.bat_entries && error == ERROR_SUCCESS;
         index++) {
        error = vd_vhdx_make_room(vhdx);
        if (error == ERROR_SUCCESS) {
            error = vd_vhdx_set_entry(vhdx, index, new_entry(resizing, index));
        }
    }
    return error;
}

static vd_error
grow_in_place(struct resizing *resizing, uint64_t size_bytes)
{
    struct vhdx_image *vhdx = resizing->vhdx;
    vd_error error = fill_in_place(resizing);
    if (error == ERROR_SUCCESS) {
        error = vd_vhdx_commit(&vhdx->image);
    }
    return error != ERROR_SUCCESS
               ? error
               : commit_staged(vhdx, stage_size(vhdx, size_bytes));
}

/* Pages that hold entries of both sizes: a reader that loads one from the
 * former place, later, must find it loaded already. */
static vd_error
load_boundary(struct resizing *resizing)
{
    uint64_t index = first_new_entry(resizing) - 1;
    vd_error error = ERROR_SUCCESS;
    for (; index < resizing->former.bat_entries && error == ERROR_SUCCESS;
         index++) {
        struct vhdx_page *page;
        error = vd_vhdx_bat_page(resizing->vhdx, index, &page);
    }
    return error;
}

/* The copy is in place: what is in memory of the table becomes the same. */
static void
fill_memory(struct resizing *resizing)
{
    struct vhdx_image *vhdx = resizing->vhdx;
    for (uint64_t i = first_new_entry(resizing);
         i < resizing->next.bat_entries; i++) {
        struct vhdx_page *page =
            atomic_load(&vhdx->bat_pages[i / VHDX_PAGE_WORDS]);
        if (page != NULL) {
            atomic_store(&page->words[i % VHDX_PAGE_WORDS],
                         new_entry(resizing, i));
        }
    }
}

static vd_error
move_table(struct resizing *resizing, struct vhdx_region to,
           uint64_t size_bytes)
{
    struct vhdx_image *vhdx = resizing->vhdx;
    vd_error error =
        vd_vhdx_bat_write(vhdx, &resizing->next, to.offset,
                          first_new_entry(resizing), new_entry, resizing);
    if (error == ERROR_SUCCESS) {
        error = vd_vhdx_commit(&vhdx->image);
    }
    if (error == ERROR_SUCCESS) {
        error = stage_size(vhdx, size_bytes);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_vhdx_region_move(vhdx, &vhdx->regions.bat, to);
    }
    vd_vhdx_unstage(vhdx);
    return error;
}

static vd_error
grow_with_table(struct resizing *resizing, uint64_t size_bytes)
{
    struct vhdx_image *vhdx = resizing->vhdx;
    uint64_t length =
        (resizing->next.bat_entries * 8 + VHDX_MIB - 1) / VHDX_MIB * VHDX_MIB;
    struct vhdx_region to = {.length = (uint32_t)length};
    vd_error error = load_boundary(resizing);
    if (error == ERROR_SUCCESS) {
        error = vd_vhdx_space_take(vhdx, length, &to.offset);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = move_table(resizing, to, size_bytes);
    if (error != ERROR_SUCCESS) {
        vd_vhdx_space_put_back(vhdx, to.offset, length);
        return error;
    }
    fill_memory(resizing);
    return ERROR_SUCCESS;
}

static vd_error
grow(struct resizing *resizing, uint64_t size_bytes)
{
    struct vhdx_image *vhdx = resizing->vhdx;
    bool fits = resizing->next.bat_entries * 8 <= vhdx->regions.bat.length;
    vd_error error = hide_tail(vhdx, size_bytes);
    if (error == ERROR_SUCCESS) {
        error = vd_vhdx_commit(&vhdx->image);
    }
    if (error == ERROR_SUCCESS) {
        error = allocate_blocks(resizing);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = fits ? grow_in_place(resizing, size_bytes)
                 : grow_with_table(resizing, size_bytes);
    if (error == ERROR_SUCCESS) {
        publish(resizing, size_bytes);
    }
    else if (resizing->space != 0) {
        vd_vhdx_space_put_back(vhdx, resizing->space,
                               vhdx->space.end - resizing->space);
    }
    return error;
}

/* ---- smaller ---- */

static vd_error
release(struct vhdx_image *vhdx, uint64_t index, uint64_t length)
{
    uint64_t entry = 0;
    vd_error error = vd_vhdx_make_room(vhdx);
    if (error == ERROR_SUCCESS) {
        error = vd_vhdx_space_reserve(vhdx);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_vhdx_bat_entry(vhdx, index, &entry);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_vhdx_set_entry(vhdx, index, 0);
    }
    if (error == ERROR_SUCCESS &&
        vd_vhdx_owns_space(vhdx, entry,
                           vd_vhdx_is_bitmap_index(&vhdx->geometry, index))) {
        vd_vhdx_space_give_up(vhdx, VHDX_ENTRY_OFFSET(entry), length,
                              vhdx->commits + 1);
    }
    return error;
}

static vd_error
release_blocks(struct resizing *resizing)
{
    struct vhdx_image *vhdx = resizing->vhdx;
    const struct vhdx_geometry *former = &resizing->former;
    vd_error error = ERROR_SUCCESS;
    for (uint64_t i = resizing->next.payload_blocks;
         i < former->payload_blocks && error == ERROR_SUCCESS; i++) {
        error = release(vhdx, vd_vhdx_payload_index(former, i),
                        former->block_size);
    }
    if (!vhdx->metadata.has_parent) {
        return error;
    }
    for (uint64_t i = resizing->next.chunks;
         i < former->chunks && error == ERROR_SUCCESS; i++) {
        error =
            release(vhdx, vd_vhdx_bitmap_index(former, i), VHDX_BITMAP_SIZE);
        vd_vhdx_bitmap_moved(vhdx, i);
    }
    return error;
}

/* What the last block still holds of what is cut off. */
static vd_error
zero_tail(struct resizing *resizing, uint64_t size_bytes)
{
    struct vhdx_image *vhdx = resizing->vhdx;
    uint64_t block_size = resizing->next.block_size, entry = 0;
    uint64_t used = size_bytes % block_size;
    vd_error error = vd_vhdx_bat_entry(
        vhdx,
        vd_vhdx_payload_index(&resizing->next,
                              resizing->next.payload_blocks - 1),
        &entry);
    unsigned state = VHDX_ENTRY_STATE(entry);
    if (error != ERROR_SUCCESS || used == 0 ||
        (state != VHDX_FULLY_PRESENT && state != VHDX_PARTIALLY_PRESENT)) {
        return error;
    }
    return vd_vhdx_store_zeros(vhdx, VHDX_ENTRY_OFFSET(entry) + used,
                               block_size - used, !is_fixed(vhdx));
}

static vd_error
shrink(struct resizing *resizing, uint64_t size_bytes)
{
    struct vhdx_image *vhdx = resizing->vhdx;
    vd_error error = vd_vhdx_commit(&vhdx->image);
    if (error == ERROR_SUCCESS) {
        error = commit_staged(vhdx, stage_size(vhdx, size_bytes));
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = release_blocks(resizing);
    if (error == ERROR_SUCCESS) {
        error = zero_tail(resizing, size_bytes);
    }
    publish(resizing, size_bytes);
    return error != ERROR_SUCCESS ? error : vd_vhdx_commit(&vhdx->image);
}

/* ---- */

static vd_error
check_size(const struct vhdx_image *vhdx, uint64_t size_bytes)
{
    if (size_bytes > VHDX_MAX_SIZE) {
        vd_trace(VD_TRACE_FORMAT, "VHDX: more than 64 TiB");
        return ERROR_VHD_INVALID_SIZE;
    }
    if (size_bytes == 0 || size_bytes % vhdx->geometry.sector_size != 0) {
        vd_trace(VD_TRACE_FORMAT, "VHDX: a size that is not whole sectors");
        return ERROR_INVALID_PARAMETER;
    }
    return ERROR_SUCCESS;
}

vd_error
vd_vhdx_resize(struct vd_image *image, uint64_t size_bytes)
{
    struct vhdx_image *vhdx = vd_vhdx_of(image);
    struct vhdx_metadata metadata = vhdx->metadata;
    struct resizing resizing = {.vhdx = vhdx, .former = vhdx->geometry};
    vd_error error = check_size(vhdx, size_bytes);
    if (error != ERROR_SUCCESS || size_bytes == metadata.size_bytes) {
        return error;
    }
    metadata.size_bytes = size_bytes;
    vd_vhdx_geometry_of(&metadata, &resizing.next);
    error = vd_vhdx_begin(image, VD_CHANGE_LAYOUT);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    return size_bytes > vhdx->metadata.size_bytes
               ? grow(&resizing, size_bytes)
               : shrink(&resizing, size_bytes);
}
