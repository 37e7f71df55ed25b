/*
 * Owner and mode of device nodes.
 *
 * Works on the node through O_PATH: nothing is opened (to open a device has
 * effects), and no symbolic link is followed.  The udev rule that keeps
 * udevd from undoing it is udev.c's business.
 */
#include "attach/node.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "attach/loop.h"
#include "attach/partitions.h"
#include "attach/paths.h"
#include "attach/text.h"
#include "base/cleanup.h"
#include "base/trace.h"

#define PERMISSION_BITS 07777u

static vd_error
open_path(const char *name, int *fd_out, struct vd_node_state *state_out)
{
    char path[64];
    struct stat status;
    if (!vd_text_format(path, sizeof(path), VD_PATH_DEV "/%s", name)) {
        return ERROR_INVALID_NAME;
    }
    VD_AUTO_CLOSE int fd = open(path, O_PATH | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &status) < 0) {
        return vd_loop_error(errno);
    }
    if (!S_ISBLK(status.st_mode)) {
        vd_trace(VD_TRACE_ATTACH, "%s is no block device", path);
        return ERROR_DEV_NOT_EXIST;
    }
    *state_out = (struct vd_node_state){status.st_uid, status.st_gid,
                                        status.st_mode & PERMISSION_BITS};
    *fd_out = vd_take_fd(&fd);
    return ERROR_SUCCESS;
}

/* chmod refuses O_PATH descriptors themselves (before Linux 6.6). */
static int
change_mode(int fd, mode_t mode)
{
    char path[sizeof(VD_PATH_OWN_FDS) + 16];
    if (!vd_text_format(path, sizeof(path), VD_PATH_OWN_FDS "/%d", fd)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    return chmod(path, mode);
}

/* Mode 0 in between: neither the old nor the new owner may do at any moment
 * what he may do neither before nor after. */
static vd_error
set_state(int fd, const struct vd_node_state *state)
{
    if (change_mode(fd, 0) < 0 ||
        fchownat(fd, "", state->uid, state->gid, AT_EMPTY_PATH) < 0 ||
        change_mode(fd, state->mode) < 0) {
        vd_trace(VD_TRACE_ATTACH, "access of the device node: %s",
                 strerror(errno));
        return vd_loop_error(errno);
    }
    return ERROR_SUCCESS;
}

static bool
same_state(const struct vd_node_state *a, const struct vd_node_state *b)
{
    return a->uid == b->uid && a->gid == b->gid && a->mode == b->mode;
}

vd_error
vd_node_plan(const char *device, const struct vd_node_access *access,
             struct vd_node_change *change_out)
{
    VD_AUTO_CLOSE int fd = -1;
    struct vd_node_state before = {0};
    if (!access->set) {
        *change_out = (struct vd_node_change){.changed = false};
        return ERROR_SUCCESS;
    }
    vd_error error = open_path(device, &fd, &before);
    if (error == ERROR_SUCCESS) {
        struct vd_node_state after = {access->uid, access->gid, access->mode};
        *change_out = (struct vd_node_change){true, before, after};
    }
    return error;
}

static vd_error
apply(const char *node, void *context)
{
    const struct vd_node_change *change = context;
    VD_AUTO_CLOSE int fd = -1;
    struct vd_node_state now = {0};
    vd_error error = open_path(node, &fd, &now);
    if (error != ERROR_SUCCESS || same_state(&now, &change->after)) {
        return error; /* nothing to do, which needs no privilege */
    }
    return set_state(fd, &change->after);
}

vd_error
vd_node_apply(const char *device, const struct vd_node_change *change)
{
    struct vd_node_change wanted = *change;
    if (!wanted.changed) {
        return ERROR_SUCCESS;
    }
    vd_error error = apply(device, &wanted);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    return vd_partitions_each(device, apply, &wanted);
}

void
vd_node_restore(const char *device, const struct vd_node_change *change)
{
    VD_AUTO_CLOSE int fd = -1;
    struct vd_node_state now = {0};
    if (!change->changed || open_path(device, &fd, &now) != ERROR_SUCCESS) {
        return;
    }
    /* Another program may have this device by now, and its own wishes. */
    if (!same_state(&now, &change->after)) {
        vd_trace(VD_TRACE_ATTACH, "access of %s has been changed by others",
                 device);
        return;
    }
    if (set_state(fd, &change->before) != ERROR_SUCCESS) {
        vd_trace(VD_TRACE_ATTACH, "%s keeps its access", device);
    }
}

struct vd_node_change
vd_node_reversed(const struct vd_node_change *change)
{
    return (struct vd_node_change){change->changed, change->after,
                                   change->before};
}
