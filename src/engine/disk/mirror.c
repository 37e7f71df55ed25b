/*
 * Two disks that are kept equal.  See mirror.h; what a change of a disk with
 * a mirror does is in disk_io.c.
 */
#include "disk/mirror.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/trace.h"
#include "disk/copy.h"
#include "disk/disk_private.h"

#define PIECE_SIZE ((size_t)1 << 20)
#define ZEROS_SIZE ((uint64_t)1 << 30) /* in one step */

vd_error
vd_mirror_init(struct vd_mirror *mirror, struct vd_disk *target, bool blank)
{
    *mirror = (struct vd_mirror){
        .target = target,
        .whole = !blank,
        .buffer = malloc(PIECE_SIZE),
    };
    if (mirror->buffer == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    pthread_mutex_init(&mirror->lock, NULL);
    return ERROR_SUCCESS;
}

void
vd_mirror_destroy(struct vd_mirror *mirror)
{
    pthread_mutex_destroy(&mirror->lock);
    free(mirror->buffer);
}

void
vd_mirror_start(struct vd_mirror *mirror, struct vd_disk *disk)
{
    pthread_rwlock_wrlock(&disk->mirror_lock);
    disk->mirror = mirror;
    pthread_rwlock_unlock(&disk->mirror_lock);
}

void
vd_mirror_stop(struct vd_disk *disk)
{
    pthread_rwlock_wrlock(&disk->mirror_lock);
    disk->mirror = NULL;
    pthread_rwlock_unlock(&disk->mirror_lock);
}

vd_error
vd_mirror_state(const struct vd_mirror *mirror)
{
    vd_error error = atomic_load(&mirror->error);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    return vd_mirror_is_gone(mirror) ? ERROR_NOT_READY : ERROR_SUCCESS;
}

bool
vd_mirror_is_gone(const struct vd_mirror *mirror)
{
    return atomic_load(&mirror->gone);
}

/* ---- news ---- */

void
vd_mirror_note(struct vd_mirror *mirror, vd_error error)
{
    vd_error none = ERROR_SUCCESS;
    if (error != ERROR_SUCCESS &&
        atomic_compare_exchange_strong(&mirror->error, &none, error)) {
        vd_trace(VD_TRACE_DISK, "the mirror was lost: error %u", error);
        mirror->notify(mirror->context);
    }
}

/* The mirror belongs to somebody who may free it as soon as he sees that. */
void
vd_mirror_end(struct vd_mirror *mirror)
{
    void (*notify)(void *context) = mirror->notify;
    void *context = mirror->context;
    atomic_store(&mirror->gone, true);
    notify(context);
}

/* ---- pieces ---- */

static uint64_t
at_most(uint64_t length, uint64_t limit)
{
    return length < limit ? length : limit;
}

/* What the whole chain has. */
static vd_error
copy_whole(struct vd_mirror *mirror, struct vd_disk *disk, uint64_t offset,
           uint64_t length, uint64_t *length_out)
{
    struct vd_disk_run run;
    vd_error error =
        vd_disk_run(disk, offset, length, vd_disk_sector_size(disk), &run);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (!run.data) {
        *length_out = at_most(run.length, ZEROS_SIZE);
        return vd_disk_zero(mirror->target, offset, *length_out, true);
    }
    run.length = at_most(run.length, PIECE_SIZE);
    *length_out = run.length;
    error = vd_disk_read(disk, mirror->buffer, (size_t)run.length, offset);
    return error != ERROR_SUCCESS
               ? error
               : vd_disk_write(mirror->target, mirror->buffer,
                               (size_t)run.length, offset);
}

/* What the image has itself, read before anybody can give its space up. */
static vd_error
read_own(struct vd_mirror *mirror, struct vd_disk *disk, uint64_t offset,
         uint64_t length, struct vd_extent *out)
{
    struct vd_image *image = vd_disk_leaf(disk);
    pthread_rwlock_rdlock(&disk->gate);
    vd_error error = image->format->lookup(image, offset, length, out);
    if (error == ERROR_SUCCESS && out->state == VD_EXTENT_PRESENT) {
        out->length = at_most(out->length, PIECE_SIZE);
        error = vd_file_pread(image->file, mirror->buffer, (size_t)out->length,
                              out->file_offset);
    }
    pthread_rwlock_unlock(&disk->gate);
    return error == ERROR_HANDLE_EOF ? ERROR_IO_DEVICE : error;
}

/* Zeros hide what a parent has; where there is none, they are there. */
static vd_error
copy_own(struct vd_mirror *mirror, struct vd_disk *disk, uint64_t offset,
         uint64_t length, uint64_t *length_out)
{
    bool child = vd_disk_info(disk)->subtype == VD_SUBTYPE_DIFFERENCING;
    struct vd_extent extent;
    vd_error error = read_own(mirror, disk, offset, length, &extent);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    *length_out = extent.length;
    switch (extent.state) {
    case VD_EXTENT_PRESENT:
        return child ? vd_disk_write(mirror->target, mirror->buffer,
                                     (size_t)extent.length, offset)
                     : vd_copy_write(mirror->target, mirror->buffer,
                                     (size_t)extent.length, offset);
    case VD_EXTENT_ZERO:
        return child
                   ? vd_disk_zero(mirror->target, offset, extent.length, true)
                   : ERROR_SUCCESS;
    case VD_EXTENT_PARENT:
        break;
    }
    return ERROR_SUCCESS;
}

vd_error
vd_mirror_piece(struct vd_mirror *mirror, struct vd_disk *disk,
                uint64_t offset, uint64_t *length_out)
{
    VD_SCOPED_LOCK(&mirror->lock);
    uint64_t length = vd_disk_size_bytes(disk) - offset;
    return mirror->whole ? copy_whole(mirror, disk, offset, length, length_out)
                         : copy_own(mirror, disk, offset, length, length_out);
}
