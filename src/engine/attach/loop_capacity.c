/*
 * The size of a loop device whose file gets another one (loop.h).
 *
 * Older kernels take the size that they remember of the file, and only a look
 * at the file makes them ask for it; LOOP_GET_STATUS64 is such a look, for all
 * of them.  Of the device's page cache they forget nothing.
 *
 * Source: linux/loop.h, linux/fs.h; drivers/block/loop.c and fs/fuse for what
 * is asked when.
 */
#include "attach/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/fs.h>
#include <linux/loop.h>

#include "attach/wait.h"
#include "base/cleanup.h"
#include "base/trace.h"

#define FOLLOW_LIMIT_MS 5000

static vd_error
refused(const char *what)
{
    int error_number = errno;
    vd_trace(VD_TRACE_ATTACH, "%s: %s", what, strerror(error_number));
    return error_number == EPERM || error_number == EACCES
               ? ERROR_ACCESS_DENIED
               : vd_error_from_errno(error_number);
}

static vd_error
set_capacity(int fd)
{
    return ioctl(fd, LOOP_SET_CAPACITY, 0) < 0 ? refused("LOOP_SET_CAPACITY")
                                               : ERROR_SUCCESS;
}

/* ---- the right ---- */

/* What it is already. */
static vd_error
set_status(int fd)
{
    struct loop_info64 info;
    if (ioctl(fd, LOOP_GET_STATUS64, &info) < 0 ||
        ioctl(fd, LOOP_SET_STATUS64, &info) < 0) {
        return refused("LOOP_SET_STATUS64");
    }
    return ERROR_SUCCESS;
}

typedef vd_error opener(const struct vd_loop *loop, int *fd_out);
typedef vd_error attempt(int fd);

static vd_error
open_and_try(const struct vd_loop *loop, opener *open_it, attempt *try_it,
             int *fd_out)
{
    VD_AUTO_CLOSE int fd = -1;
    vd_error error = open_it(loop, &fd);
    if (error == ERROR_SUCCESS) {
        error = try_it(fd);
    }
    if (error == ERROR_SUCCESS) {
        *fd_out = vd_take_fd(&fd);
    }
    return error == ERROR_PRIVILEGE_NOT_HELD ? ERROR_ACCESS_DENIED : error;
}

/* Who may do all needs no device that is open for writing, whose closing
 * would make udev look at the disk anew. */
static vd_error
open_for(const struct vd_loop *loop, attempt *try_it, int *fd_out)
{
    vd_error error = open_and_try(loop, vd_loop_hold, try_it, fd_out);
    if (error == ERROR_ACCESS_DENIED) {
        error = open_and_try(loop, vd_loop_open_writable, try_it, fd_out);
    }
    return error;
}

vd_error
vd_loop_open_capacity(const struct vd_loop *loop, int *fd_out)
{
    return open_for(loop, set_capacity, fd_out);
}

vd_error
vd_loop_open_range(const struct vd_loop *loop, int *fd_out,
                   struct vd_loop_range *range_out)
{
    struct loop_info64 info;
    VD_AUTO_CLOSE int fd = -1;
    vd_error error = open_for(loop, set_status, &fd);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (ioctl(fd, LOOP_GET_STATUS64, &info) < 0) {
        return refused("LOOP_GET_STATUS64");
    }
    *range_out = (struct vd_loop_range){info.lo_offset, info.lo_sizelimit};
    *fd_out = vd_take_fd(&fd);
    return ERROR_SUCCESS;
}

/* ---- the size ---- */

static vd_error
follow_once(int fd, uint64_t *bytes_out)
{
    struct loop_info64 info;
    if (ioctl(fd, LOOP_GET_STATUS64, &info) < 0) {
        return refused("LOOP_GET_STATUS64");
    }
    vd_error error = set_capacity(fd);
    if (error == ERROR_SUCCESS && ioctl(fd, BLKGETSIZE64, bytes_out) < 0) {
        error = refused("BLKGETSIZE64");
    }
    return error;
}

/* The kernel drops an answer about the file's length if a write to the file
 * ends while it is on its way. */
vd_error
vd_loop_follow(int fd, uint64_t length)
{
    struct vd_wait wait = vd_wait_begin(FOLLOW_LIMIT_MS);
    uint64_t bytes = 0;
    do {
        vd_error error = follow_once(fd, &bytes);
        if (error != ERROR_SUCCESS || bytes == length) {
            return error;
        }
    } while (vd_wait_more(&wait));
    vd_trace(VD_TRACE_ATTACH, "the device has %llu bytes, its file %llu",
             (unsigned long long)bytes, (unsigned long long)length);
    return ERROR_IO_DEVICE;
}

/* EAGAIN: there are pages that the kernel could not forget; those of the
 * moment go. */
vd_error
vd_loop_limit(int fd, uint64_t length)
{
    struct vd_wait wait = vd_wait_begin(FOLLOW_LIMIT_MS);
    struct loop_info64 info;
    if (ioctl(fd, LOOP_GET_STATUS64, &info) < 0) {
        return refused("LOOP_GET_STATUS64");
    }
    if (info.lo_sizelimit == length) {
        return ERROR_SUCCESS;
    }
    info.lo_sizelimit = length;
    while (ioctl(fd, LOOP_SET_STATUS64, &info) < 0) {
        bool again = errno == EAGAIN || errno == EINTR;
        vd_error error = refused("LOOP_SET_STATUS64");
        if (!again) {
            return error;
        }
        if (!vd_wait_more(&wait)) {
            return ERROR_BUSY;
        }
    }
    return ERROR_SUCCESS;
}

/* ---- its page cache ---- */

vd_error
vd_loop_sync(int fd)
{
    if (fsync(fd) < 0) {
        return refused("flushing the device");
    }
    int error_number = posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    return vd_error_from_errno(error_number);
}
