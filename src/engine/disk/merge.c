/*
 * Merging layers of a chain into a parent of theirs.  See merge.h.
 *
 * The order (FORMATS.md 1.16 and 4.7), each step durable before the next:
 *
 *  1. The child of the target accepts it by the identifier that it has and
 *     by the one that it is going to have.
 *  2. The target gets that, is made as large as the source, and all that the
 *     merged layers have, which hide whatever of it is there already.
 *  3. The target gets the size and the identity of the disk.
 *  4. What stood on the source gets the target as its parent.
 *
 * Nothing is written that would be the same: zeros stay zeros, without space
 * where the format can; holes in a file are zeros.
 */
#include "disk/merge.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/guid.h"
#include "base/trace.h"
#include "disk/disk_private.h"
#include "disk/progress.h"
#include "disk/relink.h"
#include "disk/run.h"

#define BUFFER_SIZE ((size_t)1 << 20)

/* What is changed is kept in memory until it is committed. */
#define COMMIT_BYTES ((uint64_t)256 << 20)

struct merging {
    struct vd_disk *disk;
    size_t source;
    size_t target;
    struct vd_image *into; /* the target's */
    uint64_t size;         /* of the source, bytes */
    uint8_t *buffer;       /* BUFFER_SIZE bytes */
    uint64_t uncommitted;  /* bytes */
};

/* ---- what can be merged ---- */

static vd_error
check_states(const struct vd_disk *disk, const struct vd_merge *merge)
{
    for (size_t i = 0; i <= merge->target; i++) {
        if (disk->layers[i].image->info.saved_state) {
            vd_trace(VD_TRACE_DISK, "a saved state is over layer %zu", i);
            return ERROR_VHD_INVALID_STATE;
        }
    }
    return ERROR_SUCCESS;
}

vd_error
vd_merge_check(const struct vd_disk *disk, const struct vd_merge *merge)
{
    const struct vd_format *format = vd_disk_format(disk);
    if (vd_disk_info(disk)->subtype != VD_SUBTYPE_DIFFERENCING) {
        vd_trace(VD_TRACE_DISK, "it has no parent to be merged into");
        return ERROR_VHD_INVALID_TYPE;
    }
    if (format->change == NULL || format->resize == NULL) {
        vd_trace(VD_TRACE_DISK, "a %s cannot be merged", format->name);
        return ERROR_NOT_SUPPORTED;
    }
    if (!vd_disk_complete(disk)) {
        vd_trace(VD_TRACE_DISK, "opened without its parents");
        return ERROR_VHD_PARENT_VHD_NOT_FOUND;
    }
    if (merge->source >= merge->target || merge->target >= disk->layer_count) {
        vd_trace(VD_TRACE_DISK, "no layers %zu to %zu in a chain of %zu",
                 merge->source, merge->target, disk->layer_count);
        return ERROR_INVALID_PARAMETER;
    }
    return check_states(disk, merge);
}

void
vd_merge_written(const struct vd_merge *merge, struct vd_layer_set *out)
{
    *out = (struct vd_layer_set){.has = {false}};
    out->has[0] = true; /* keeps everybody else from it */
    if (merge->source > 0) {
        out->has[merge->source - 1] = true;
    }
    out->has[merge->target - 1] = true;
    out->has[merge->target] = true;
}

static struct vd_image *
image_of(const struct merging *work, size_t layer)
{
    return work->disk->layers[layer].image;
}

/* What a child of the target has to call it, once it has been changed. */
static const struct vd_guid *
new_identifier(const struct merging *work)
{
    return work->into->format->renews_identifier
               ? &work->disk->layers[work->target].session.data_write_guid
               : &work->into->info.identifier;
}

/* ---- before ---- */

/* An interrupted merge has left a child that accepts its parent by the other
 * identifier; that place is needed now. */
static vd_error
accept_both(const struct merging *work)
{
    struct vd_image *child = image_of(work, work->target - 1);
    const struct vd_guid *now = &work->into->info.identifier;
    if (!child->format->renews_identifier) {
        return ERROR_SUCCESS;
    }
    struct vd_image_change change = {
        .other_parent_identifier = new_identifier(work),
    };
    if (!vd_guid_equal(now, &child->info.parent_identifier)) {
        change.parent_identifier = now;
    }
    vd_error error = child->format->begin(child, VD_CHANGE_LAYOUT);
    if (error == ERROR_SUCCESS) {
        error = child->format->change(child, &change);
    }
    return error == ERROR_SUCCESS ? child->format->commit(child) : error;
}

static vd_error
begin(const struct merging *work)
{
    vd_error error = accept_both(work);
    if (error == ERROR_SUCCESS) {
        error = work->into->format->begin(work->into, VD_CHANGE_CONTENT);
    }
    if (error == ERROR_SUCCESS && work->into->info.size_bytes < work->size) {
        error = work->into->format->resize(work->into, work->size);
    }
    return error;
}

/* ---- what the merged layers have ---- */

/* A piece of what is to be merged. */
struct piece {
    enum vd_extent_state state; /* PARENT: nothing, the target's stays */
    uint64_t offset;
    uint64_t length;
    size_t layer; /* if PRESENT: where it is */
    uint64_t file_offset;
};

/* A block that an image has may be a hole in its file. */
static void
look_for_holes(const struct merging *work, struct piece *piece)
{
    const struct vd_layer *layer = &work->disk->layers[piece->layer];
    struct vd_disk_run run;
    if (layer->image->info.log_dirty) {
        return; /* what is replayed in memory alone is not in the file */
    }
    vd_run_of_file(layer->file->fd, piece->file_offset, piece->length, &run);
    uint64_t length = run.length - run.length % layer->image->info.sector_size;
    if (length != 0) {
        piece->length = length;
        piece->state = run.data ? VD_EXTENT_PRESENT : VD_EXTENT_ZERO;
    }
}

/* The first of the merged layers that has anything decides; past the end of
 * one that is smaller than its child there are zeros. */
static vd_error
find_piece(const struct merging *work, uint64_t offset, struct piece *out)
{
    struct piece piece = {
        .state = VD_EXTENT_PARENT,
        .offset = offset,
        .length = work->size - offset,
    };
    for (size_t i = work->source; i < work->target; i++) {
        struct vd_image *image = image_of(work, i);
        struct vd_extent extent;
        if (offset >= image->info.size_bytes) {
            piece.state = VD_EXTENT_ZERO;
            break;
        }
        uint64_t rest = image->info.size_bytes - offset;
        vd_error error = image->format->lookup(
            image, offset, piece.length < rest ? piece.length : rest, &extent);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        piece.length = extent.length;
        piece.state = extent.state;
        piece.file_offset = extent.file_offset;
        piece.layer = i;
        if (extent.state != VD_EXTENT_PARENT) {
            break;
        }
    }
    if (piece.state == VD_EXTENT_PRESENT) {
        look_for_holes(work, &piece);
    }
    *out = piece;
    return ERROR_SUCCESS;
}

/* ---- into the target ---- */

static vd_error
commit(struct merging *work)
{
    work->uncommitted = 0;
    vd_error error = work->into->format->commit(work->into);
    if (error == ERROR_SUCCESS && work->into->format->reclaim != NULL) {
        work->into->format->reclaim(work->into);
    }
    return error;
}

static vd_error
count(struct merging *work, uint64_t length)
{
    work->uncommitted += length;
    return work->uncommitted < COMMIT_BYTES ? ERROR_SUCCESS : commit(work);
}

/* Where the target has a place it is written in place, which a format leaves
 * to its users. */
static vd_error
put_data(struct merging *work, const uint8_t *data, uint64_t length,
         uint64_t offset)
{
    while (length != 0) {
        struct vd_extent extent;
        struct vd_image *into = work->into;
        vd_error error = into->format->lookup(into, offset, length, &extent);
        if (error == ERROR_SUCCESS) {
            error =
                extent.state == VD_EXTENT_PRESENT
                    ? vd_file_pwrite(into->file, data, (size_t)extent.length,
                                     extent.file_offset)
                    : into->format->write(into, data, (size_t)extent.length,
                                          offset);
        }
        if (error != ERROR_SUCCESS) {
            return error;
        }
        data += extent.length;
        offset += extent.length;
        length -= extent.length;
    }
    return ERROR_SUCCESS;
}

/* A hole in a fixed image is as good as zeros; in another one the block need
 * not be there. */
static vd_error
zero_present(const struct merging *work, uint64_t offset,
             struct vd_extent *extent)
{
    const struct vd_layer *layer = &work->disk->layers[work->target];
    bool fixed = work->into->info.subtype == VD_SUBTYPE_FIXED;
    struct vd_disk_run run = {.data = true};
    if (fixed) {
        vd_run_of_file(layer->file->fd, extent->file_offset, extent->length,
                       &run);
        if (run.length % work->into->info.sector_size == 0) {
            extent->length = run.length;
        }
        else {
            run.data = true;
        }
    }
    if (!run.data) {
        return ERROR_SUCCESS;
    }
    return work->into->format->zero(work->into, offset, extent->length,
                                    !fixed);
}

static vd_error
put_zeros(struct merging *work, uint64_t length, uint64_t offset)
{
    struct vd_image *into = work->into;
    while (length != 0) {
        struct vd_extent extent;
        vd_error error = into->format->lookup(into, offset, length, &extent);
        if (error == ERROR_SUCCESS && extent.state == VD_EXTENT_PRESENT) {
            error = zero_present(work, offset, &extent);
        }
        else if (error == ERROR_SUCCESS && extent.state == VD_EXTENT_PARENT) {
            error = into->format->zero(into, offset, extent.length, true);
        }
        if (error != ERROR_SUCCESS) {
            return error;
        }
        offset += extent.length;
        length -= extent.length;
    }
    return ERROR_SUCCESS;
}

static bool
only_zeros(const uint8_t *buffer, size_t length)
{
    return buffer[0] == 0 && memcmp(buffer, buffer + 1, length - 1) == 0;
}

/* At most a buffer full; *length_out bytes are done. */
static vd_error
copy_data(struct merging *work, const struct piece *piece,
          uint64_t *length_out)
{
    size_t length =
        piece->length < BUFFER_SIZE ? (size_t)piece->length : BUFFER_SIZE;
    vd_error error = vd_file_pread(image_of(work, piece->layer)->file,
                                   work->buffer, length, piece->file_offset);
    if (error == ERROR_HANDLE_EOF) {
        vd_trace(VD_TRACE_DISK, "an image file has become shorter");
        return ERROR_IO_DEVICE;
    }
    if (error == ERROR_SUCCESS) {
        error = only_zeros(work->buffer, length)
                    ? put_zeros(work, length, piece->offset)
                    : put_data(work, work->buffer, length, piece->offset);
    }
    *length_out = length;
    return error != ERROR_SUCCESS ? error : count(work, length);
}

static vd_error
copy_piece(struct merging *work, uint64_t offset, uint64_t *length_out)
{
    struct piece piece;
    vd_error error = find_piece(work, offset, &piece);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    *length_out = piece.length;
    switch (piece.state) {
    case VD_EXTENT_PRESENT:
        return copy_data(work, &piece, length_out);
    case VD_EXTENT_ZERO:
        error = put_zeros(work, piece.length, offset);
        return error != ERROR_SUCCESS ? error : count(work, 0);
    case VD_EXTENT_PARENT:
        break;
    }
    return ERROR_SUCCESS;
}

static vd_error
copy(struct merging *work, struct vd_progress *progress)
{
    vd_error error = ERROR_SUCCESS;
    for (uint64_t offset = 0; offset < work->size && error == ERROR_SUCCESS;) {
        uint64_t length = 0;
        error = vd_progress_check(progress);
        if (error == ERROR_SUCCESS) {
            error = copy_piece(work, offset, &length);
        }
        vd_progress_advance(progress, length);
        offset += length;
    }
    return error != ERROR_SUCCESS ? error : commit(work);
}

/* ---- afterwards ---- */

/* What belongs to the disk, not to the file. */
static vd_error
copy_identity(const struct merging *work)
{
    const struct vd_image_info *from = &image_of(work, work->source)->info;
    const struct vd_image_info *to = &work->into->info;
    struct vd_image_change change = {.identifier = NULL};
    if (from->has_virtual_disk_id &&
        !vd_guid_equal(&from->virtual_disk_id, &to->virtual_disk_id)) {
        change.virtual_disk_id = &from->virtual_disk_id;
    }
    if (from->has_virtual_disk_id &&
        from->physical_sector_size != to->physical_sector_size) {
        change.physical_sector_size = from->physical_sector_size;
    }
    if (change.virtual_disk_id == NULL && change.physical_sector_size == 0) {
        return ERROR_SUCCESS;
    }
    return work->into->format->change(work->into, &change);
}

static vd_error
finish(struct merging *work)
{
    vd_error error = copy_identity(work);
    if (error == ERROR_SUCCESS && work->into->info.size_bytes > work->size) {
        error = work->into->format->resize(work->into, work->size);
    }
    if (error == ERROR_SUCCESS) {
        error = commit(work);
    }
    if (error != ERROR_SUCCESS || work->source == 0) {
        return error;
    }
    return vd_relink_layer(&work->disk->layers[work->source - 1],
                           &work->disk->layers[work->target],
                           new_identifier(work));
}

vd_error
vd_disk_merge(struct vd_disk *disk, const struct vd_merge *merge,
              struct vd_progress *progress)
{
    vd_error error = vd_merge_check(disk, merge);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    VD_AUTO_FREE uint8_t *buffer = malloc(BUFFER_SIZE);
    if (buffer == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    struct merging work = {
        .disk = disk,
        .source = merge->source,
        .target = merge->target,
        .into = disk->layers[merge->target].image,
        .size = disk->layers[merge->source].image->info.size_bytes,
        .buffer = buffer,
    };
    vd_progress_begin(progress, work.size);
    error = begin(&work);
    if (error == ERROR_SUCCESS) {
        error = copy(&work, progress);
    }
    return error != ERROR_SUCCESS ? error : finish(&work);
}
