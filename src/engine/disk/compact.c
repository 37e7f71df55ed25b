/*
 * Compacting a disk.  See compact.h.
 *
 * Nothing is written to the payload by anybody, so what has been read stays
 * true until the metadata follows.  Space that is given up is used again only
 * after a commit and when no reader is on its way to it (vd_disk_commit), so
 * the work is done in batches with a commit behind each.
 *
 * Progress counts bytes of the virtual disk, once for the scan and once for
 * the moves: how many of these there will be shows only after the scan.
 */
#include "disk/compact.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/trace.h"
#include "disk/disk_private.h"

#define BUFFER_SIZE ((size_t)1 << 20)

/* Blocks for one commit; they wait for it to be free. */
#define SCAN_BATCH 256
#define MOVE_BATCH_BYTES ((uint64_t)64 << 20)

struct compaction {
    struct vd_disk *disk;
    struct vd_progress *progress;
    uint64_t size;        /* of the disk, bytes */
    uint64_t block_size;  /* bytes */
    uint8_t *buffer;      /* BUFFER_SIZE bytes; owned */
    unsigned uncommitted; /* blocks given up */
};

/* ---- looking for zeros ---- */

static bool
only_zeros(const uint8_t *buffer, size_t length)
{
    return buffer[0] == 0 && memcmp(buffer, buffer + 1, length - 1) == 0;
}

typedef vd_error read_function(struct vd_disk *disk, void *buffer,
                               size_t length, uint64_t offset);

static vd_error
reads_zeros(const struct compaction *work, read_function *read,
            uint64_t offset, uint64_t length, bool *zeros_out)
{
    *zeros_out = true;
    while (length != 0 && *zeros_out) {
        size_t piece = length < BUFFER_SIZE ? (size_t)length : BUFFER_SIZE;
        vd_error error = read(work->disk, work->buffer, piece, offset);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        *zeros_out = only_zeros(work->buffer, piece);
        offset += piece;
        length -= piece;
    }
    return ERROR_SUCCESS;
}

static vd_error
find_extent(const struct compaction *work, uint64_t offset,
            struct vd_extent *out)
{
    struct vd_image *image = vd_disk_leaf(work->disk);
    pthread_rwlock_rdlock(&work->disk->gate);
    vd_error error =
        image->format->lookup(image, offset, work->size - offset, out);
    pthread_rwlock_unlock(&work->disk->gate);
    return error;
}

/* ---- giving blocks up ---- */

static vd_error
give_up(struct compaction *work, uint64_t offset, uint64_t length,
        bool to_parent)
{
    struct vd_image *image = vd_disk_leaf(work->disk);
    VD_SCOPED_LOCK(&work->disk->mutator);
    work->uncommitted++;
    return to_parent ? image->format->forget(image, offset, length)
                     : image->format->zero(image, offset, length, true);
}

/* A block of a child can be given up without a word where the parents have
 * zeros too; a VHD has no such word. */
static vd_error
compact_block(struct compaction *work, uint64_t offset, uint64_t length)
{
    const struct vd_image *image = vd_disk_leaf(work->disk);
    bool zeros;
    bool below = false;
    vd_error error = reads_zeros(work, vd_disk_read, offset, length, &zeros);
    if (error != ERROR_SUCCESS || !zeros) {
        return error;
    }
    if (image->info.subtype == VD_SUBTYPE_DIFFERENCING) {
        error = reads_zeros(work, vd_disk_read_below, offset, length, &below);
    }
    return error != ERROR_SUCCESS ? error
                                  : give_up(work, offset, length, below);
}

static vd_error
commit_if(struct compaction *work, unsigned blocks)
{
    if (work->uncommitted < blocks) {
        return ERROR_SUCCESS;
    }
    work->uncommitted = 0;
    return vd_disk_commit(work->disk);
}

/* From offset to where the next step begins: a whole block if it has
 * anything in the file. */
static vd_error
scan_step(struct compaction *work, uint64_t offset, uint64_t *next_out)
{
    struct vd_extent extent;
    vd_error error = find_extent(work, offset, &extent);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (extent.state != VD_EXTENT_PRESENT) {
        *next_out = offset + extent.length;
        return ERROR_SUCCESS;
    }
    uint64_t start = offset - offset % work->block_size;
    uint64_t rest = work->size - start;
    uint64_t length = work->block_size < rest ? work->block_size : rest;
    *next_out = start + length;
    error = compact_block(work, start, length);
    return error != ERROR_SUCCESS ? error : commit_if(work, SCAN_BATCH);
}

static vd_error
scan(struct compaction *work)
{
    vd_error error = ERROR_SUCCESS;
    for (uint64_t offset = 0; offset < work->size && error == ERROR_SUCCESS;) {
        uint64_t next = offset;
        error = vd_progress_check(work->progress);
        if (error == ERROR_SUCCESS) {
            error = scan_step(work, offset, &next);
        }
        vd_progress_advance(work->progress, next - offset);
        offset = next;
    }
    return error;
}

/* ---- moving ---- */

static vd_error
move_one(struct compaction *work, bool *moved_out)
{
    struct vd_image *image = vd_disk_leaf(work->disk);
    VD_SCOPED_LOCK(&work->disk->mutator);
    return image->format->relocate(image, moved_out);
}

static vd_error
move_batch(struct compaction *work, uint64_t each, bool *more_out)
{
    vd_error error = ERROR_SUCCESS;
    uint64_t bytes = 0;
    bool moved = true;
    while (moved && bytes < MOVE_BATCH_BYTES && error == ERROR_SUCCESS) {
        error = vd_progress_check(work->progress);
        if (error == ERROR_SUCCESS) {
            error = move_one(work, &moved);
        }
        if (error == ERROR_SUCCESS && moved) {
            bytes += work->block_size;
            vd_progress_advance(work->progress, each);
        }
    }
    *more_out = moved;
    return error == ERROR_SUCCESS && bytes != 0 ? vd_disk_commit(work->disk)
                                                : error;
}

/* What a move is worth in bytes of progress: an estimate, for blocks may lie
 * apart from each other. */
static vd_error
weigh_move(const struct compaction *work, uint64_t *each_out)
{
    struct vd_image *image = vd_disk_leaf(work->disk);
    uint64_t occupied, size;
    vd_error error = image->format->occupied(image, &occupied);
    if (error == ERROR_SUCCESS) {
        error = vd_file_size(image->file, &size);
    }
    if (error == ERROR_SUCCESS) {
        uint64_t excess = size > occupied ? size - occupied : 0;
        *each_out = work->size / (excess / work->block_size + 1);
    }
    return error;
}

static vd_error
move(struct compaction *work)
{
    uint64_t each;
    bool more = true;
    vd_error error = weigh_move(work, &each);
    while (more && error == ERROR_SUCCESS) {
        error = move_batch(work, each, &more);
    }
    return error;
}

/* ---- all of it ---- */

static vd_error
check_kind(const struct vd_disk *disk)
{
    const struct vd_format *format = vd_disk_format(disk);
    enum vd_subtype subtype = vd_disk_info(disk)->subtype;
    if (subtype != VD_SUBTYPE_DYNAMIC && subtype != VD_SUBTYPE_DIFFERENCING) {
        vd_trace(VD_TRACE_DISK, "only dynamic images have space to give up");
        return ERROR_VHD_INVALID_TYPE;
    }
    if (format->relocate == NULL || format->occupied == NULL ||
        format->shorten == NULL || format->forget == NULL) {
        vd_trace(VD_TRACE_DISK, "a %s cannot be compacted", format->name);
        return ERROR_NOT_SUPPORTED;
    }
    return ERROR_SUCCESS;
}

/* A child stays valid: nothing changes that a guest can see. */
static vd_error
begin(struct vd_disk *disk)
{
    struct vd_image *image = vd_disk_leaf(disk);
    if (!disk->live || (!disk->writable && disk->lent == NULL)) {
        return ERROR_WRITE_PROTECT;
    }
    VD_SCOPED_LOCK(&disk->mutator);
    return image->format->begin(image, VD_CHANGE_LAYOUT);
}

vd_error
vd_disk_shorten(struct vd_disk *disk)
{
    struct vd_image *image = vd_disk_leaf(disk);
    vd_error error = vd_disk_commit(disk);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    VD_SCOPED_LOCK(&disk->mutator);
    return image->format->shorten(image);
}

/* Keeps what was done, whatever has ended it. */
static vd_error
finish(struct vd_disk *disk, vd_error error)
{
    bool sound = error == ERROR_SUCCESS || error == ERROR_OPERATION_ABORTED;
    vd_error finished = sound ? vd_disk_shorten(disk) : vd_disk_commit(disk);
    return error != ERROR_SUCCESS ? error : finished;
}

/* Scans and moves as far as it goes. */
static vd_error
run_steps(struct compaction *work, const struct vd_compact_options *options)
{
    uint64_t amount = options->no_zero_scan ? 0 : work->size;
    vd_error error = ERROR_SUCCESS;
    amount += options->no_block_moves ? 0 : work->size;
    vd_progress_begin(work->progress, amount != 0 ? amount : 1);
    if (!options->no_zero_scan) {
        error = scan(work);
    }
    if (error == ERROR_SUCCESS) {
        error = commit_if(work, 1);
    }
    if (error == ERROR_SUCCESS && !options->no_block_moves) {
        error = move(work);
    }
    return error;
}

vd_error
vd_disk_compact(struct vd_disk *disk, const struct vd_compact_options *options,
                struct vd_progress *progress)
{
    vd_error error = check_kind(disk);
    if (error == ERROR_SUCCESS) {
        error = begin(disk);
    }
    VD_AUTO_FREE uint8_t *buffer = malloc(BUFFER_SIZE);
    if (error == ERROR_SUCCESS && buffer == NULL) {
        error = ERROR_NOT_ENOUGH_MEMORY;
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    struct compaction work = {
        .disk = disk,
        .progress = progress,
        .size = vd_disk_size_bytes(disk),
        .block_size = vd_disk_info(disk)->block_size,
        .buffer = buffer,
    };
    error = finish(disk, run_steps(&work, options));
    if (error == ERROR_SUCCESS) {
        vd_progress_advance(progress, UINT64_MAX);
    }
    return error;
}
