/*
 * The files of a disk under locks (locked_files.h).
 */
#include "attach/locked_files.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/trace.h"
#include "disk/image_lock.h"

/* The open file that has the locks takes the place of the new one. */
static vd_error
put_locked_file(struct vd_disk_files *files, int image_fd)
{
    int fd = fcntl(image_fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0) {
        return vd_error_from_errno(errno);
    }
    close(files->fds[0]);
    files->fds[0] = fd;
    return ERROR_SUCCESS;
}

/* Of the layers from `first` on. */
static vd_error
lock_for_reading(const struct vd_disk_files *files, size_t first)
{
    for (size_t i = first; i < files->count; i++) {
        vd_error error = vd_image_lock(files->fds[i], VD_LOCK_PARENT);
        if (error != ERROR_SUCCESS) {
            vd_trace(VD_TRACE_ATTACH, "layer %zu is in use", i);
            return error;
        }
    }
    return ERROR_SUCCESS;
}

vd_error
vd_locked_files_open(const struct vd_disk *view, int image_fd,
                     struct vd_disk_files *out)
{
    struct vd_disk_files files;
    vd_error error = vd_disk_reopen(view, false, &files);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = put_locked_file(&files, image_fd);
    if (error == ERROR_SUCCESS) {
        error = lock_for_reading(&files, 1);
    }
    if (error != ERROR_SUCCESS) {
        vd_disk_files_close(&files);
        return error;
    }
    *out = files;
    return ERROR_SUCCESS;
}

vd_error
vd_locked_files_take(const struct vd_disk *view, bool leaf_only,
                     struct vd_disk_files *out)
{
    struct vd_disk_files files;
    size_t layers = leaf_only ? 1 : vd_disk_layers(view);
    vd_error error = vd_disk_reopen_some(view, layers, true, &files);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = vd_image_lock(files.fds[0], VD_LOCK_WRITE);
    if (error == ERROR_SUCCESS) {
        error = lock_for_reading(&files, 1);
    }
    if (error != ERROR_SUCCESS) {
        vd_disk_files_close(&files);
        return error;
    }
    *out = files;
    return ERROR_SUCCESS;
}

vd_error
vd_locked_files_share(const struct vd_disk *view, struct vd_disk_files *out)
{
    struct vd_disk_files files;
    vd_error error = vd_disk_reopen(view, false, &files);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = lock_for_reading(&files, 0);
    if (error != ERROR_SUCCESS) {
        vd_disk_files_close(&files);
        return error;
    }
    *out = files;
    return ERROR_SUCCESS;
}
