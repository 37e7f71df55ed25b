/*
 * Waiting until an image is closed (closing.h).
 *
 * When a device goes, the kernel gives up its file, and only then does the
 * disk server write what is still to be written and end.  That it has ended
 * shows in the image's locks, which any process can see, in whatever
 * namespaces it lives: the mark of this attachment is gone.
 */
#include "attach/closing.h"

#include <fcntl.h>

#include "attach/wait.h"
#include "base/posix_file.h"
#include "base/trace.h"
#include "disk/image_lock.h"

#define CLOSING_LIMIT_MS 30000

vd_error
vd_closing_mark(int image_fd, const struct vd_loop *loop)
{
    return vd_image_lock_mark(image_fd, loop->sequence);
}

/* The image, if it is where it was: a file of its own.  NULL if not. */
static struct vd_posix_file *
open_image(const struct vd_record *record)
{
    struct vd_posix_file *file;
    vd_error error =
        vd_posix_file_open(AT_FDCWD, record->image_path, false, &file);
    if (error != ERROR_SUCCESS) {
        vd_trace(VD_TRACE_ATTACH, "%s cannot be looked at: error %u",
                 record->image_path, error);
        return NULL;
    }
    if (file->status.st_dev == record->file_id.device &&
        file->status.st_ino == record->file_id.inode) {
        return file;
    }
    vd_trace(VD_TRACE_ATTACH, "%s is another file now", record->image_path);
    vd_posix_file_close(file);
    return NULL;
}

static void
wait_for_mark(const struct vd_record *record, int fd)
{
    struct vd_wait wait = vd_wait_begin(CLOSING_LIMIT_MS);
    while (vd_image_lock_marked(fd, record->loop.sequence) &&
           !vd_loop_bound(&record->loop)) {
        if (!vd_wait_more(&wait)) {
            vd_trace(VD_TRACE_ATTACH, "%s is still being written",
                     record->image_path);
            return;
        }
    }
}

void
vd_closing_wait(const struct vd_record *record)
{
    struct vd_posix_file *file =
        vd_record_has_device(record) ? open_image(record) : NULL;
    if (file != NULL) {
        wait_for_mark(record, file->fd);
        vd_posix_file_close(file);
    }
}
