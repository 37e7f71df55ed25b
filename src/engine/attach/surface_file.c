/*
 * The surface for those who may not use loop devices: a disk server shows the
 * disk as a regular file, mounted by fusermount3 in the user's runtime
 * directory (DESIGN 5.1).  Every kind of image is served so.
 *
 * Such a file has no partitions' nodes: what reads disks from files finds
 * them in it.  And nobody but its user gets at it, not even root, whatever
 * its mode: of a security descriptor only the owner's own rights can be
 * expressed.
 */
#include "attach/surface.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "attach/locked_files.h"
#include "attach/loop.h"
#include "attach/server_client.h"
#include "attach/shown.h"
#include "attach/text.h"
#include "base/cleanup.h"
#include "base/trace.h"
#include "disk/image_lock.h"

#define MODE_OWNER (S_IRUSR | S_IWUSR)

/* Last of those that show a disk to the system: if it cannot, the missing
 * privilege is the reason. */
static vd_error
file_suits(struct vd_disk *disk, const struct vd_attach_request *request,
           bool *suits_out)
{
    (void)disk;
    *suits_out = false;
    if (!request->local) {
        return ERROR_SUCCESS;
    }
    if (!vd_shown_possible()) {
        vd_trace(VD_TRACE_ATTACH, "neither loop devices nor a mount");
        return ERROR_PRIVILEGE_NOT_HELD;
    }
    *suits_out = true;
    return ERROR_SUCCESS;
}

/* Of an image's own access only the owner's part counts, and for another
 * owner's image that is whatever its user may do. */
static vd_error
choose_mode(const struct vd_disk *disk,
            const struct vd_attach_request *request, mode_t *mode_out)
{
    const struct vd_node_access *access = &request->access;
    mode_t all = vd_request_is_read_only(disk, request) ? S_IRUSR : MODE_OWNER;
    bool own = access->uid == geteuid();
    if (access->set && request->exact_access) {
        if (!own || access->gid != getegid() ||
            (access->mode & ~(mode_t)MODE_OWNER) != 0) {
            vd_trace(VD_TRACE_ATTACH, "only its user can use such a file");
            return ERROR_NOT_SUPPORTED;
        }
        *mode_out = access->mode;
        return ERROR_SUCCESS;
    }
    *mode_out = access->set && own ? access->mode & all : all;
    return ERROR_SUCCESS;
}

static vd_error
start_server(const struct vd_disk *disk,
             const struct vd_attach_request *request,
             const struct vd_show_files *files,
             const struct vd_server_visible *visible,
             struct vd_server_file *out)
{
    struct vd_disk_files layers;
    vd_error error = vd_locked_files_open(disk, files->image, &layers);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    struct vd_server_options options = {
        .files = &layers,
        .listener = files->listener,
        .read_only = vd_request_is_read_only(disk, request),
        .window_offset = request->window_offset,
        .window_length = request->window_length,
        .visible = visible,
    };
    error = vd_server_start(&options, out);
    vd_disk_files_close(&layers); /* the server has them */
    return error;
}

static vd_error
serve(const struct vd_disk *disk, const struct vd_attach_request *request,
      const struct vd_show_files *files, const struct vd_shown *shown,
      int file, int *server_out)
{
    struct vd_server_visible visible = {
        .path = shown->path,
        .file = file,
        .permanent = request->permanent,
    };
    struct vd_server_file served;
    vd_error error = choose_mode(disk, request, &visible.mode);
    if (error == ERROR_SUCCESS) {
        error = vd_image_lock_mark(files->image, shown->mark);
    }
    if (error == ERROR_SUCCESS) {
        error = start_server(disk, request, files, &visible, &served);
    }
    if (error == ERROR_SUCCESS) {
        *server_out = served.server;
    }
    return error;
}

/* *claim_out is the socket whose end tells the keeper to unmount. */
static vd_error
file_show(struct vd_disk *disk, const struct vd_attach_request *request,
          const struct vd_show_files *files, struct vd_record *record,
          int *claim_out)
{
    struct vd_shown shown;
    VD_AUTO_CLOSE int file = -1;
    vd_error error = vd_shown_new(&shown, &file);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = serve(disk, request, files, &shown, file, claim_out);
    if (error != ERROR_SUCCESS) {
        unlink(shown.path); /* ours still, by its lock, if it is there */
        vd_shown_clear(&shown);
        return error;
    }
    record->shown = shown;
    return ERROR_SUCCESS;
}

const struct vd_surface vd_file_surface = {
    .name = "file",
    .serves = true,
    .suits = file_suits,
    .show = file_show,
};
