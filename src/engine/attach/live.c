/*
 * The disk of an attachment without a device.  See live.h.
 *
 * Whoever uses the disk counts as a user; ending it waits until there is
 * none.  The lock is held to count, never during I/O.
 */
#include "attach/live.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "attach/locked_files.h"
#include "attach/surface.h"
#include "base/cleanup.h"
#include "base/trace.h"
#include "disk/scsi_disk.h"

struct vd_live {
    pthread_mutex_t lock;
    pthread_cond_t unused; /* users is 0 */
    unsigned users;        /* guarded by lock, as is what follows */
    bool ending;
    struct vd_disk *disk; /* NULL once it is closed */
    struct vd_scsi_disk scsi;
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
    pthread_cond_init(&live->unused, NULL);
    vd_scsi_disk_init(&live->scsi, live->disk, request->window_offset,
                      request->window_length, read_only);
    *out = live;
    return ERROR_SUCCESS;
}

/* ---- using ---- */

vd_error
vd_live_enter(struct vd_live *live)
{
    VD_SCOPED_LOCK(&live->lock);
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
    if (--live->users == 0) {
        pthread_cond_broadcast(&live->unused);
    }
}

const struct vd_scsi_unit *
vd_live_unit(const struct vd_live *live)
{
    return &live->scsi.unit;
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

/* ---- ending ---- */

void
vd_live_end(struct vd_live *live)
{
    if (live == NULL) {
        return;
    }
    VD_SCOPED_LOCK(&live->lock);
    live->ending = true;
    while (live->users != 0) {
        pthread_cond_wait(&live->unused, &live->lock);
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
        pthread_cond_destroy(&live->unused);
        pthread_mutex_destroy(&live->lock);
        free(live);
    }
}
