/*
 * Space of blocks that nothing refers to any more, until it is used again: not
 * before the release is durable, and nobody reads there.
 *
 * Known are the blocks given up since the image was opened; holes that were
 * there before are found by compacting (vhd_compact.c).
 */
#include "format/vhd.h"

#include <stdlib.h>

#include "base/trace.h"

/* Remembers space that nothing refers to (any more).  Without memory for
 * that it is merely lost until the image is compacted. */
void
vd_vhd_space_give_up(struct vd_vhd_image *vhd, uint64_t place, bool reclaimed)
{
    struct vd_vhd_space *space = &vhd->space;
    vhd->released = true;
    if (space->count == space->capacity) {
        size_t capacity = space->capacity * 2 + 16;
        struct vd_vhd_free_block *grown =
            realloc(space->blocks, capacity * sizeof(*grown));
        if (grown == NULL) {
            vhd->space_lost = true;
            return;
        }
        space->blocks = grown;
        space->capacity = capacity;
    }
    space->blocks[space->count++] = (struct vd_vhd_free_block){
        .place = place,
        .commit = vhd->commits + 1,
        .reclaimed = reclaimed,
    };
    space->waiting += reclaimed ? 0 : 1;
}

uint64_t
vd_vhd_given_up(const struct vd_image *image)
{
    const struct vd_vhd_image *vhd = (const struct vd_vhd_image *)image;
    return (uint64_t)vhd->space.waiting * vhd->header.block_size;
}

/* The file system gets the space back, and it reads as zeros. */
static vd_error
punch(struct vd_vhd_image *vhd, struct vd_vhd_free_block *block)
{
    if (block->punched) {
        return ERROR_SUCCESS;
    }
    vd_error error =
        vd_file_punch(vhd->image.file, block->place + vhd->bitmap_size,
                      vhd->header.block_size);
    block->punched = error == ERROR_SUCCESS;
    return error;
}

void
vd_vhd_space_drop_reclaimed(struct vd_vhd_image *vhd)
{
    struct vd_vhd_space *space = &vhd->space;
    size_t kept = 0;
    for (size_t i = 0; i < space->count; i++) {
        if (!space->blocks[i].reclaimed) {
            space->blocks[kept++] = space->blocks[i];
        }
    }
    space->count = kept;
}

/* What cannot be given back to the file system is zeroed when it is used
 * again.  Blocks behind the footer, after a close, have gone with the file's
 * end. */
void
vd_vhd_reclaim(struct vd_image *image)
{
    struct vd_vhd_image *vhd = vd_vhd_of(image);
    vhd->reclaims++;
    for (size_t i = 0; i < vhd->space.count; i++) {
        struct vd_vhd_free_block *block = &vhd->space.blocks[i];
        if (!block->reclaimed && block->commit <= vhd->commits) {
            block->reclaimed = true;
            vhd->space.waiting--;
        }
        if (block->reclaimed && block->place < atomic_load(&vhd->data_end) &&
            punch(vhd, block) != ERROR_SUCCESS) {
            vd_trace(VD_TRACE_FORMAT, "VHD: free space keeps its data");
        }
    }
    if (vhd->plan != NULL) {
        vd_vhd_space_drop_reclaimed(vhd);
    }
}

/* Space given up earlier that may be used again: zeroed, for it holds
 * another block's old data. */
vd_error
vd_vhd_space_take(struct vd_vhd_image *vhd, uint64_t *place_out,
                  bool *found_out)
{
    struct vd_vhd_space *space = &vhd->space;
    for (size_t i = 0; i < space->count; i++) {
        if (!space->blocks[i].reclaimed) {
            continue;
        }
        vd_error error = punch(vhd, &space->blocks[i]);
        if (error == ERROR_SUCCESS) {
            *place_out = space->blocks[i].place;
            *found_out = true;
            space->blocks[i] = space->blocks[--space->count];
        }
        return error;
    }
    *found_out = false;
    return ERROR_SUCCESS;
}
