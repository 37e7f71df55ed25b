/*
 * The disk of an attachment without a device.  See live.h.
 *
 * Whoever uses the disk counts as a user; ending it waits until there is
 * none, and so does, until there is no other, who gives it another size.  The
 * lock is held to count, never during I/O.
 */
#include "attach/live.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "attach/locked_files.h"
#include "attach/surface.h"
#include "base/cleanup.h"
#include "base/trace.h"
#include "disk/progress.h"
#include "disk/scsi_disk.h"
#include "disk/upkeep.h"

struct vd_live {
    pthread_mutex_t lock;
    pthread_cond_t changed; /* users has become less, resizing false */
    unsigned users;         /* guarded by lock, as is what follows */
    bool ending;
    bool resizing;            /* nobody may come in */
    struct vd_progress *work; /* what is going on; NULL: nothing */
    struct vd_disk *disk;     /* NULL once it is closed */
    struct vd_scsi_disk scsi; /* the same as long as there are users */
    bool whole;               /* it shows the disk to its end */
    atomic_bool capacity_changed;
};

/* ---- opening ---- */

static vd_error
open_locked(const struct vd_disk *view, int image_fd, bool writable,
            struct vd_disk **out)
{
    struct vd_disk_files files;
    vd_error error = vd_locked_files_open(view, image_fd, &files);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = vd_disk_open_files(&files, writable, out);
    if (error != ERROR_SUCCESS) {
        vd_disk_files_close(&files);
    }
    return error;
}

static void
show(struct vd_live *live, uint64_t offset, uint64_t length, bool read_only)
{
    vd_scsi_disk_init(&live->scsi, live->disk, offset, length, read_only);
    live->scsi.unit.capacity_changed = &live->capacity_changed;
}

vd_error
vd_live_open(const struct vd_disk *view,
             const struct vd_attach_request *request, int image_fd,
             struct vd_live **out)
{
    bool read_only = vd_request_is_read_only(view, request);
    struct vd_live *live = calloc(1, sizeof(*live));
    if (live == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    vd_error error = open_locked(view, image_fd, !read_only, &live->disk);
    if (error != ERROR_SUCCESS) {
        free(live);
        return error;
    }
    pthread_mutex_init(&live->lock, NULL);
    pthread_cond_init(&live->changed, NULL);
    live->whole = vd_request_is_whole(view, request);
    show(live, request->window_offset, request->window_length, read_only);
    *out = live;
    return ERROR_SUCCESS;
}

/* ---- using ---- */

vd_error
vd_live_enter(struct vd_live *live)
{
    VD_SCOPED_LOCK(&live->lock);
    while (live->resizing && !live->ending) {
        pthread_cond_wait(&live->changed, &live->lock);
    }
    if (live->ending) {
        vd_trace(VD_TRACE_ATTACH, "the attachment has ended");
        return ERROR_NOT_READY;
    }
    live->users++;
    return ERROR_SUCCESS;
}

void
vd_live_leave(struct vd_live *live)
{
    VD_SCOPED_LOCK(&live->lock);
    live->users--;
    pthread_cond_broadcast(&live->changed);
}

const struct vd_scsi_unit *
vd_live_unit(const struct vd_live *live)
{
    return &live->scsi.unit;
}

struct vd_disk *
vd_live_disk(const struct vd_live *live)
{
    return live->disk;
}

vd_error
vd_live_flush(struct vd_live *live)
{
    vd_error error = vd_live_enter(live);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = vd_disk_flush(live->disk);
    vd_live_leave(live);
    return error;
}

/* ---- work on the image ---- */

static vd_error
begin_work(struct vd_live *live, struct vd_progress *progress)
{
    VD_SCOPED_LOCK(&live->lock);
    if (live->work != NULL) {
        vd_trace(VD_TRACE_ATTACH, "there is work going on");
        return ERROR_VHD_INVALID_STATE;
    }
    live->work = progress;
    if (live->ending) {
        vd_progress_cancel(progress);
    }
    return ERROR_SUCCESS;
}

static void
end_work(struct vd_live *live)
{
    VD_SCOPED_LOCK(&live->lock);
    live->work = NULL;
}

vd_error
vd_live_compact(struct vd_live *live, int fd,
                const struct vd_compact_options *options,
                struct vd_progress *progress)
{
    struct vd_progress unwatched = {.current = 0};
    struct vd_progress *own = progress != NULL ? progress : &unwatched;
    vd_error error = begin_work(live, own);
    if (error == ERROR_SUCCESS) {
        error = vd_disk_compact_attached(live->disk, fd, options, own);
        end_work(live);
    }
    return error;
}

/* Until nobody else is in. */
static void
shut(struct vd_live *live)
{
    VD_SCOPED_LOCK(&live->lock);
    live->resizing = true;
    while (live->users > 1) {
        pthread_cond_wait(&live->changed, &live->lock);
    }
}

static void
reopen(struct vd_live *live)
{
    VD_SCOPED_LOCK(&live->lock);
    live->resizing = false;
    pthread_cond_broadcast(&live->changed);
}

static struct vd_disk_window
window_of(const struct vd_live *live)
{
    const struct vd_scsi_unit *unit = &live->scsi.unit;
    return (struct vd_disk_window){
        .offset = live->scsi.offset,
        .length = unit->blocks * unit->block_size,
        .whole = live->whole,
    };
}

static vd_error
resize_shut(struct vd_live *live, const struct vd_resize *resize)
{
    uint64_t before = vd_disk_size_bytes(live->disk);
    struct vd_disk_window window = window_of(live);
    vd_error error = vd_disk_check_window(live->disk, &window, resize);
    if (error == ERROR_SUCCESS) {
        error = vd_disk_resize(live->disk, resize);
    }
    uint64_t now = vd_disk_size_bytes(live->disk);
    if (now != before && live->whole) {
        show(live, live->scsi.offset, now - live->scsi.offset, false);
        atomic_store(&live->capacity_changed, true);
    }
    return error;
}

vd_error
vd_live_resize(struct vd_live *live, const struct vd_resize *resize)
{
    struct vd_progress unwatched = {.current = 0};
    vd_error error = begin_work(live, &unwatched);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    shut(live);
    error = resize_shut(live, resize);
    reopen(live);
    end_work(live);
    return error;
}

/* ---- ending ---- */

void
vd_live_end(struct vd_live *live)
{
    if (live == NULL) {
        return;
    }
    VD_SCOPED_LOCK(&live->lock);
    live->ending = true;
    vd_progress_cancel(live->work);
    pthread_cond_broadcast(&live->changed);
    while (live->users != 0) {
        pthread_cond_wait(&live->changed, &live->lock);
    }
    vd_disk_close(VD_TAKE(live->disk));
}

void
vd_live_abandon(struct vd_live *live)
{
    if (live != NULL && live->disk != NULL) {
        vd_disk_abandon(live->disk);
    }
}

void
vd_live_free(struct vd_live *live)
{
    if (live != NULL) {
        pthread_cond_destroy(&live->changed);
        pthread_mutex_destroy(&live->lock);
        free(live);
    }
}
