/*
 * Operations on an image that nobody has attached.  See offline.h.
 */
#include "api/offline.h"

#include "api/refuse.h"
#include "attach/held.h"
#include "attach/locked_files.h"
#include "base/cleanup.h"

/* ---- the disk ---- */

static vd_error
open_files(const struct vd_disk *view, const struct vd_offline_work *work,
           struct vd_disk **out)
{
    static const struct vd_layer_set leaf = {.has = {true}};
    const struct vd_layer_set *written =
        work->written != NULL ? work->written : &leaf;
    size_t layers = work->layers != 0 ? work->layers : vd_disk_layers(view);
    struct vd_disk_files files;
    vd_error error = vd_locked_files_take(view, layers, written, &files);
    if (error) {
        return error;
    }
    error = work->layers != 0 ? vd_disk_open_first(&files, out)
                              : vd_disk_open_files(&files, true, out);
    if (error) {
        vd_disk_files_close(&files);
    }
    return error;
}

/* fork() waits meanwhile: the child closes what it finds in `working`. */
static vd_error
open_working(struct vd_virtual_disk *virtual_disk,
             const struct vd_offline_work *work)
{
    struct vd_disk *disk;
    vd_error error = vd_held_enter();
    if (error) {
        return error;
    }
    error = open_files(virtual_disk->disk, work, &disk);
    if (!error) {
        virtual_disk->working = disk;
    }
    vd_held_leave();
    return error;
}

static vd_error
close_working(struct vd_virtual_disk *virtual_disk)
{
    vd_error error = vd_held_enter();
    struct vd_disk *disk = VD_TAKE(virtual_disk->working);
    vd_error finished = vd_disk_finish(disk);
    if (!error) {
        vd_held_leave();
    }
    return finished;
}

static vd_error
begin(struct vd_virtual_disk *virtual_disk, const struct vd_offline_work *work)
{
    VD_SCOPED_LOCK(&virtual_disk->lock);
    if (vd_virtual_disk_attachment(virtual_disk) != NULL) {
        return vd_refuse(ERROR_VHD_INVALID_STATE,
                         "attached through this handle");
    }
    return open_working(virtual_disk, work);
}

static vd_error
check_and_begin(struct vd_virtual_disk *virtual_disk,
                const struct vd_offline_work *work)
{
    if (!virtual_disk->rights.change) {
        return vd_refuse(ERROR_ACCESS_DENIED,
                         "the handle may not change the image");
    }
    pthread_rwlock_rdlock(&virtual_disk->disk_lock);
    vd_error error = begin(virtual_disk, work);
    pthread_rwlock_unlock(&virtual_disk->disk_lock);
    return error;
}

/* ---- afterwards ---- */

/* An image that cannot be looked at any more keeps the old look: whatever is
 * wrong with it will be told to the next who uses it. */
static void
look_again(struct vd_virtual_disk *virtual_disk,
           const struct vd_chain_change *change)
{
    struct vd_disk *now;
    struct vd_disk *before = NULL;
    pthread_rwlock_wrlock(&virtual_disk->disk_lock);
    if (!vd_held_enter()) {
        if (!vd_disk_look_again(virtual_disk->disk, change, &now)) {
            before = virtual_disk->disk;
            virtual_disk->disk = now;
        }
        vd_disk_close(before);
        vd_held_leave();
    }
    pthread_rwlock_unlock(&virtual_disk->disk_lock);
}

void
vd_offline_look_again(struct vd_virtual_disk *virtual_disk)
{
    look_again(virtual_disk, NULL);
}

vd_error
vd_offline_run(struct vd_virtual_disk *virtual_disk,
               const struct vd_offline_work *work,
               struct vd_progress *progress)
{
    vd_error error = check_and_begin(virtual_disk, work);
    if (error) {
        return error;
    }
    error = work->run(virtual_disk->working, work->arguments, progress);
    vd_error closed = close_working(virtual_disk);
    look_again(virtual_disk, error ? NULL : work->change);
    return error ? error : closed;
}
