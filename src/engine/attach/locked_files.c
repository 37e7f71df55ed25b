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

/* From layer `first` on; NULL: nothing is written. */
static vd_error
lock_layers(const struct vd_disk_files *files, size_t first,
            const struct vd_layer_set *written)
{
    for (size_t i = first; i < files->count; i++) {
        bool writer = written != NULL && written->has[i];
        vd_error error = vd_image_lock(files->fds[i], writer ? VD_LOCK_WRITE
                                                             : VD_LOCK_PARENT);
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
        error = lock_layers(&files, 1, NULL);
    }
    if (error != ERROR_SUCCESS) {
        vd_disk_files_close(&files);
        return error;
    }
    *out = files;
    return ERROR_SUCCESS;
}

vd_error
vd_locked_files_take(const struct vd_disk *view, size_t layers,
                     const struct vd_layer_set *written,
                     struct vd_disk_files *out)
{
    struct vd_disk_files files;
    vd_error error = vd_disk_reopen_some(view, layers, written, &files);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = lock_layers(&files, 0, written);
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
    error = lock_layers(&files, 0, NULL);
    if (error != ERROR_SUCCESS) {
        vd_disk_files_close(&files);
        return error;
    }
    *out = files;
    return ERROR_SUCCESS;
}
