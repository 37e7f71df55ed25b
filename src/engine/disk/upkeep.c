/*
 * Compacting a disk that is attached for reading only.  See upkeep.h.
 *
 * The leaf's image and file give their place to ones that are open for
 * writing, and get it back.  Both see the same content at any time, so a
 * reader may come before or after the change; the gate lets him in to one or
 * the other, whole.  The old file, which has the attachment's locks, stays
 * open all the time.
 */
#include "disk/upkeep.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/trace.h"
#include "disk/disk_private.h"
#include "disk/image_lock.h"

/* ---- the files ---- */

vd_error
vd_disk_check_writer(const struct vd_disk *disk, int fd)
{
    struct vd_file_id own = vd_disk_file_id(disk);
    struct stat status;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || (flags & O_ACCMODE) != O_RDWR || fstat(fd, &status) < 0 ||
        status.st_dev != own.device || status.st_ino != own.inode) {
        vd_trace(VD_TRACE_DISK, "not the image, or not open for writing");
        return ERROR_INVALID_PARAMETER;
    }
    return ERROR_SUCCESS;
}

static vd_error
adopt(const struct vd_disk *disk, int fd, struct vd_posix_file **out)
{
    vd_error error = vd_disk_check_writer(disk, fd);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    VD_AUTO_CLOSE int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0) {
        return vd_error_from_errno(errno);
    }
    error = vd_posix_file_adopt(own, true, out);
    if (error == ERROR_SUCCESS) {
        (void)vd_take_fd(&own);
    }
    return error;
}

static vd_error
check_state(const struct vd_disk *disk)
{
    if (disk->writable || !disk->live || disk->lent != NULL) {
        vd_trace(VD_TRACE_DISK, "the disk is open for writing");
        return ERROR_VHD_INVALID_STATE;
    }
    return ERROR_SUCCESS;
}

/* ---- the leaf ---- */

/* Puts image and file in the leaf's place; returns the image that was there,
 * which nobody uses any more. */
static struct vd_image *
exchange(struct vd_disk *disk, struct vd_image *image,
         struct vd_posix_file *file, struct vd_posix_file *lent)
{
    struct vd_layer *leaf = &disk->layers[0];
    pthread_rwlock_wrlock(&disk->gate);
    struct vd_image *before = leaf->image;
    leaf->image = image;
    leaf->file = file;
    disk->lent = lent;
    pthread_rwlock_unlock(&disk->gate);
    return before;
}

static vd_error
close_image(struct vd_image *image)
{
    return image->format->close(image);
}

static vd_error
begin(struct vd_disk *disk, struct vd_posix_file *file)
{
    struct vd_posix_file *own = disk->layers[0].file;
    struct vd_image *image;
    vd_error error = vd_image_lock_lend(own->fd, file->fd);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = vd_layer_open_image(file, vd_disk_format(disk)->device_id, true,
                                &image);
    if (error != ERROR_SUCCESS) {
        (void)vd_image_lock_return(own->fd, file->fd);
        return error;
    }
    (void)close_image(exchange(disk, image, file, own)); /* only a look */
    return ERROR_SUCCESS;
}

/* Puts a look at the image as it is now in the leaf's place. */
static vd_error
look(struct vd_disk *disk, struct vd_posix_file *own,
     struct vd_image **before_out)
{
    struct vd_image *image;
    vd_error error = vd_layer_open_image(own, vd_disk_format(disk)->device_id,
                                         false, &image);
    if (error == ERROR_SUCCESS) {
        *before_out = exchange(disk, image, own, NULL);
    }
    return error;
}

/* There is always an image to read from: all is committed, so what is open
 * for writing is closed behind a look, which a further one follows if it has
 * found a log in use.  If there can be none, that for writing stays, with its
 * locks, to the end of the disk. */
static vd_error
end(struct vd_disk *disk, struct vd_posix_file *file)
{
    struct vd_posix_file *own = disk->lent;
    struct vd_image *before;
    vd_error error = look(disk, own, &before);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = close_image(before);
    if (vd_disk_info(disk)->log_dirty &&
        look(disk, own, &before) == ERROR_SUCCESS) {
        (void)close_image(before);
    }
    vd_error returned = vd_image_lock_return(own->fd, file->fd);
    vd_posix_file_close(file);
    return error != ERROR_SUCCESS ? error : returned;
}

vd_error
vd_disk_compact_attached(struct vd_disk *disk, int fd,
                         const struct vd_compact_options *options,
                         struct vd_progress *progress)
{
    struct vd_posix_file *file = NULL;
    vd_error error = adopt(disk, fd, &file);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = check_state(disk);
    if (error == ERROR_SUCCESS) {
        error = begin(disk, file);
    }
    if (error != ERROR_SUCCESS) {
        vd_posix_file_close(file);
        return error;
    }
    error = vd_disk_compact(disk, options, progress);
    vd_error ended = end(disk, file);
    return error != ERROR_SUCCESS ? error : ended;
}
