/*
 * Space in a VHDX file that nothing uses (FORMATS 4.3): what a session has
 * given up, what was found between blocks, and new space at the end.
 *
 * What is given up may be used again once the log entry that releases it is
 * durable and nobody reads there any more.  Until then it is left as it is:
 * after a power cut the former owner may have it back.  Free space goes back
 * to the host with the next commit, and what is taken reads as zeros.
 *
 * All of it belongs to the mutator.
 */
#include "format/vhdx_write.h"

#include <stdlib.h>

vd_error
vd_vhdx_space_reserve(struct vhdx_image *vhdx)
{
    struct vhdx_space *space = &vhdx->space;
    if (space->count < space->capacity) {
        return ERROR_SUCCESS;
    }
    size_t capacity = space->capacity * 2 + 16;
    struct vhdx_free_space *grown =
        realloc(space->pieces, capacity * sizeof(*grown));
    if (grown == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    space->pieces = grown;
    space->capacity = capacity;
    return ERROR_SUCCESS;
}

static void
add(struct vhdx_space *space, struct vhdx_free_space piece)
{
    space->changes++;
    space->pieces[space->count++] = piece;
}

void
vd_vhdx_space_give_up(struct vhdx_image *vhdx, uint64_t offset,
                      uint64_t length, uint64_t commit)
{
    vhdx->space.given_up += length;
    add(&vhdx->space, (struct vhdx_free_space){
                          .offset = offset,
                          .length = length,
                          .commit = commit,
                          .state = VHDX_SPACE_GIVEN_UP,
                      });
}

void
vd_vhdx_space_put_back(struct vhdx_image *vhdx, uint64_t offset,
                       uint64_t length)
{
    if (vd_vhdx_space_reserve(vhdx) != ERROR_SUCCESS) {
        return; /* found again when the image is compacted */
    }
    add(&vhdx->space, (struct vhdx_free_space){
                          .offset = offset,
                          .length = length,
                          .state = VHDX_SPACE_FREE,
                      });
}

uint64_t
vd_vhdx_given_up(const struct vd_image *image)
{
    return ((const struct vhdx_image *)image)->space.given_up;
}

void
vd_vhdx_reclaim(struct vd_image *image)
{
    struct vhdx_image *vhdx = vd_vhdx_of(image);
    for (size_t i = 0; i < vhdx->space.count; i++) {
        struct vhdx_free_space *piece = &vhdx->space.pieces[i];
        if (piece->state == VHDX_SPACE_GIVEN_UP &&
            piece->commit <= vhdx->commits) {
            piece->state = VHDX_SPACE_FREE;
            vhdx->space.given_up -= piece->length;
        }
    }
}

void
vd_vhdx_space_punch(struct vhdx_image *vhdx)
{
    for (size_t i = 0; i < vhdx->space.count; i++) {
        struct vhdx_free_space *piece = &vhdx->space.pieces[i];
        if (piece->state == VHDX_SPACE_FREE) {
            vd_error error =
                vd_file_punch(vhdx->image.file, piece->offset, piece->length);
            piece->state = error == ERROR_SUCCESS ? VHDX_SPACE_ZEROED
                                                  : VHDX_SPACE_REFUSED;
        }
    }
}

void
vd_vhdx_space_forget(struct vhdx_image *vhdx, uint64_t from)
{
    struct vhdx_space *space = &vhdx->space;
    size_t kept = 0;
    for (size_t i = 0; i < space->count; i++) {
        if (space->pieces[i].state == VHDX_SPACE_GIVEN_UP ||
            space->pieces[i].offset < from) {
            space->pieces[kept++] = space->pieces[i];
        }
    }
    space->count = kept;
    space->changes++;
}

/* ---- taking ---- */

/* The free piece of this length that is nearest the start of the file. */
static struct vhdx_free_space *
find_piece(const struct vhdx_space *space, uint64_t length)
{
    struct vhdx_free_space *best = NULL;
    for (size_t i = 0; i < space->count; i++) {
        struct vhdx_free_space *piece = &space->pieces[i];
        if (piece->state != VHDX_SPACE_GIVEN_UP && piece->length >= length &&
            (best == NULL || piece->offset < best->offset)) {
            best = piece;
        }
    }
    return best;
}

/* The start of a piece, made to read as zeros: it may hold the old data of
 * another block. */
static vd_error
take_piece(struct vhdx_image *vhdx, struct vhdx_free_space *piece,
           uint64_t length, uint64_t *offset_out)
{
    struct vhdx_space *space = &vhdx->space;
    if (piece->state != VHDX_SPACE_ZEROED) {
        vd_error error =
            vd_file_punch(vhdx->image.file, piece->offset, length);
        if (error != ERROR_SUCCESS) {
            return error;
        }
    }
    *offset_out = piece->offset;
    piece->offset += length;
    piece->length -= length;
    if (piece->length == 0) {
        *piece = space->pieces[--space->count];
    }
    space->changes++;
    return ERROR_SUCCESS;
}

/* New space at the end; it reads as zeros. */
static vd_error
extend(struct vhdx_image *vhdx, uint64_t length, uint64_t *offset_out)
{
    uint64_t offset = vhdx->space.end, end = offset + length;
    vd_error error = vd_file_truncate(vhdx->image.file, end);
    if (error == ERROR_SUCCESS) {
        atomic_store(&vhdx->file_size, end);
        vhdx->space.end = end;
        vhdx->space.changes++;
        *offset_out = offset;
    }
    return error;
}

vd_error
vd_vhdx_space_take(struct vhdx_image *vhdx, uint64_t length,
                   uint64_t *offset_out)
{
    struct vhdx_free_space *piece = find_piece(&vhdx->space, length);
    return piece != NULL ? take_piece(vhdx, piece, length, offset_out)
                         : extend(vhdx, length, offset_out);
}

vd_error
vd_vhdx_space_take_below(struct vhdx_image *vhdx, uint64_t length,
                         uint64_t limit, uint64_t *offset_out, bool *found_out)
{
    struct vhdx_free_space *piece = find_piece(&vhdx->space, length);
    *found_out = piece != NULL && piece->offset + length <= limit;
    return *found_out ? take_piece(vhdx, piece, length, offset_out)
                      : ERROR_SUCCESS;
}
