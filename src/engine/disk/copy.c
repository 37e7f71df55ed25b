/*
 * Copying a source into a new disk.  See copy.h.
 *
 * Each thread takes the next piece that has data, reads it and writes it; so
 * one reads while another writes.  A file takes one write at a time, and more
 * threads would only wait for it.  A piece is small enough to be in the
 * processor's cache still when it is searched for zeros and written.
 */
#include "disk/copy.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/trace.h"
#include "disk/disk_private.h"

#define PIECE_SIZE ((size_t)256 << 10)
#define GRANULE ((uint32_t)64 << 10) /* of holes in the source */
#define ZERO_UNIT ((size_t)32 << 10) /* of those made in the target */
#define ALIGNMENT 4096
#define THREADS_MAX 2
#define HURRY_STEP ((uint64_t)32 << 20)

struct copy {
    const struct vd_source *source;
    struct vd_disk *target;
    struct vd_progress *progress;
    pthread_mutex_t lock;
    uint64_t next;     /* guarded by lock, as what follows */
    uint64_t data_end; /* of the run that next is in, if it is in one */
    uint64_t moved;    /* since the system was told to write */
    vd_error error;    /* the first */
};

struct piece {
    uint64_t offset;
    size_t length;
};

/* ---- which pieces ---- */

static size_t
piece_at(uint64_t offset, uint64_t length)
{
    size_t rest = PIECE_SIZE - (size_t)(offset % PIECE_SIZE);
    return length < rest ? (size_t)length : rest;
}

/* Goes on to the next data, or to the end.  With the lock held. */
static vd_error
find_data(struct copy *copy)
{
    uint64_t size = copy->source->size_bytes;
    while (copy->next >= copy->data_end && copy->next < size) {
        struct vd_disk_run run;
        vd_error error = vd_source_run(copy->source, copy->next,
                                       size - copy->next, GRANULE, &run);
        if (error == ERROR_SUCCESS) {
            error = vd_progress_check(copy->progress);
        }
        if (error != ERROR_SUCCESS) {
            return error;
        }
        if (run.data) {
            copy->data_end = copy->next + run.length;
        }
        else {
            copy->next += run.length;
            vd_progress_advance(copy->progress, run.length);
        }
    }
    return ERROR_SUCCESS;
}

/* The next piece with data; false after the last one.  With the lock held. */
static vd_error
find_piece(struct copy *copy, struct piece *out, bool *found_out)
{
    vd_error error = vd_progress_check(copy->progress);
    if (error == ERROR_SUCCESS) {
        error = find_data(copy);
    }
    *found_out = error == ERROR_SUCCESS && copy->next < copy->data_end;
    if (*found_out) {
        uint64_t length = copy->data_end - copy->next;
        *out = (struct piece){copy->next, piece_at(copy->next, length)};
        copy->next += out->length;
    }
    return error;
}

static bool
take_piece(struct copy *copy, struct piece *out)
{
    bool found = false;
    VD_SCOPED_LOCK(&copy->lock);
    if (copy->error == ERROR_SUCCESS) {
        copy->error = find_piece(copy, out, &found);
    }
    return found && copy->error == ERROR_SUCCESS;
}

/* True: it is time to let the system write what there is, so that not all of
 * it is left to the end. */
static bool
note_piece(struct copy *copy, const struct piece *piece, vd_error error)
{
    VD_SCOPED_LOCK(&copy->lock);
    if (error != ERROR_SUCCESS) {
        copy->error = copy->error != ERROR_SUCCESS ? copy->error : error;
        return false;
    }
    vd_progress_advance(copy->progress, piece->length);
    copy->moved += piece->length;
    if (copy->moved < HURRY_STEP) {
        return false;
    }
    copy->moved = 0;
    return true;
}

static void
finish_piece(struct copy *copy, const struct piece *piece, vd_error error)
{
    if (note_piece(copy, piece, error)) {
        vd_posix_file_hurry(copy->target->layers[0].file);
    }
}

/* ---- one piece ---- */

static bool
is_zero(const uint8_t *data, size_t length)
{
    return data[0] == 0 && memcmp(data, data + 1, length - 1) == 0;
}

static size_t
unit_at(size_t at, size_t length)
{
    return length - at < ZERO_UNIT ? length - at : ZERO_UNIT;
}

/* How far from `at` on the units are zeros, or are not. */
static size_t
same_kind(const uint8_t *buffer, size_t at, size_t length, bool zero)
{
    size_t end = at + unit_at(at, length);
    while (end < length &&
           is_zero(buffer + end, unit_at(end, length)) == zero) {
        end += unit_at(end, length);
    }
    return end - at;
}

vd_error
vd_copy_write(struct vd_disk *target, const uint8_t *buffer, size_t length,
              uint64_t offset)
{
    size_t at = 0;
    while (at < length) {
        bool zero = is_zero(buffer + at, unit_at(at, length));
        size_t run = same_kind(buffer, at, length, zero);
        vd_error error =
            zero ? ERROR_SUCCESS
                 : vd_disk_write(target, buffer + at, run, offset + at);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        at += run;
    }
    return ERROR_SUCCESS;
}

/* The source may end in the middle of a sector of the target. */
static vd_error
move_piece(const struct copy *copy, const struct piece *piece, uint8_t *buffer)
{
    size_t sector = vd_disk_sector_size(copy->target);
    size_t whole = (piece->length + sector - 1) / sector * sector;
    vd_error error =
        vd_source_read(copy->source, buffer, piece->length, piece->offset);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    memset(buffer + piece->length, 0, whole - piece->length);
    return vd_copy_write(copy->target, buffer, whole, piece->offset);
}

/* ---- threads ---- */

static void
fail(struct copy *copy, vd_error error)
{
    static const struct piece nothing = {0};
    finish_piece(copy, &nothing, error);
}

static void *
work(void *argument)
{
    struct copy *copy = argument;
    struct piece piece;
    VD_AUTO_FREE uint8_t *buffer = aligned_alloc(ALIGNMENT, PIECE_SIZE);
    if (buffer == NULL) {
        fail(copy, ERROR_NOT_ENOUGH_MEMORY);
        return NULL;
    }
    while (take_piece(copy, &piece)) {
        finish_piece(copy, &piece, move_piece(copy, &piece, buffer));
    }
    return NULL;
}

/* The caller's thread works too, so that none at all will do.  Signals are
 * for the caller's threads. */
static void
work_together(struct copy *copy)
{
    sigset_t all;
    sigset_t before;
    pthread_t threads[THREADS_MAX - 1];
    size_t count = 0;
    uint64_t pieces = copy->source->size_bytes / PIECE_SIZE;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (count < THREADS_MAX - 1 && count < pieces &&
           pthread_create(&threads[count], NULL, work, copy) == 0) {
        count++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    work(copy);
    while (count > 0) {
        pthread_join(threads[--count], NULL);
    }
}

vd_error
vd_copy(const struct vd_source *source, struct vd_disk *target,
        struct vd_progress *progress)
{
    struct copy copy = {
        .source = source,
        .target = target,
        .progress = progress,
    };
    vd_progress_begin(progress, source->size_bytes);
    pthread_mutex_init(&copy.lock, NULL);
    work_together(&copy);
    pthread_mutex_destroy(&copy.lock);
    if (copy.error != ERROR_SUCCESS) {
        vd_trace(VD_TRACE_DISK, "copying: error %u", copy.error);
    }
    return copy.error;
}
