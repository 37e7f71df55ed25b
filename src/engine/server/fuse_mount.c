/*
 * The mount (fuse_mount.h), by the system calls of Linux 5.2: those that ask
 * for a mount point are not needed at all.  There is no older way beside it,
 * because the loop devices need a newer kernel anyway (attach/loop.h).
 */
#include "server/fuse_mount.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/trace.h"
#include "server/fuse.h"

#define FUSE_DEVICE "/dev/fuse"

/* linux/mount.h clashes with sys/mount.h, and older headers have no numbers
 * for the calls; these are the same on every architecture. */
#ifndef SYS_fsopen
#define SYS_fsopen 430
#define SYS_fsconfig 431
#define SYS_fsmount 432
#endif
enum {
    CONTEXT_CLOEXEC = 0x1,            /* FSOPEN_CLOEXEC */
    CONFIG_SET_STRING = 1,            /* FSCONFIG_SET_STRING */
    CONFIG_CREATE = 6,                /* FSCONFIG_CMD_CREATE */
    MOUNT_CLOEXEC = 0x1,              /* FSMOUNT_CLOEXEC */
    MOUNT_READ_ONLY = 0x1,            /* MOUNT_ATTR_RDONLY */
    MOUNT_HARMLESS = 0x2 | 0x4 | 0x8, /* ..._NOSUID, _NODEV, _NOEXEC */
};

static vd_error
mount_error(const char *what)
{
    int error_number = errno;
    vd_trace(VD_TRACE_ATTACH, "server: %s: %s", what, strerror(error_number));
    switch (error_number) {
    case ENOSYS:
    case ENODEV: /* the kernel has no such file system */
    case ENXIO:
    case ENOENT: /* no /dev/fuse */
        return ERROR_NOT_SUPPORTED;
    case EACCES:
    case EPERM:
        return ERROR_PRIVILEGE_NOT_HELD;
    default:
        return vd_error_from_errno(error_number);
    }
}

static vd_error
set_option(int context, const char *name, const char *value)
{
    if (syscall(SYS_fsconfig, context, CONFIG_SET_STRING, name, value, 0) <
        0) {
        return mount_error(name);
    }
    return ERROR_SUCCESS;
}

static vd_error
set_number(int context, const char *name, const char *format, unsigned value)
{
    char text[16];
    snprintf(text, sizeof(text), format, value);
    return set_option(context, name, text);
}

/* The root of the file system is the file itself. */
static vd_error
set_options(int context, int device)
{
    vd_error error = set_option(context, "source", "virtdisk");
    if (error == ERROR_SUCCESS) {
        error = set_number(context, "fd", "%u", (unsigned)device);
    }
    if (error == ERROR_SUCCESS) {
        error = set_number(context, "rootmode", "%o", S_IFREG | 0600);
    }
    if (error == ERROR_SUCCESS) {
        error = set_number(context, "user_id", "%u", geteuid());
    }
    if (error == ERROR_SUCCESS) {
        error = set_number(context, "group_id", "%u", getegid());
    }
    if (error == ERROR_SUCCESS) {
        error = set_number(context, "max_read", "%u", VD_FUSE_TRANSFER);
    }
    return error;
}

static vd_error
make_mount(int device, bool read_only, int *mount_out)
{
    VD_AUTO_CLOSE int context =
        (int)syscall(SYS_fsopen, "fuse", CONTEXT_CLOEXEC);
    if (context < 0) {
        return mount_error("fsopen");
    }
    vd_error error = set_options(context, device);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (syscall(SYS_fsconfig, context, CONFIG_CREATE, NULL, NULL, 0) < 0) {
        return mount_error("fsconfig");
    }
    int attributes = MOUNT_HARMLESS | (read_only ? MOUNT_READ_ONLY : 0);
    int mount = (int)syscall(SYS_fsmount, context, MOUNT_CLOEXEC, attributes);
    if (mount < 0) {
        return mount_error("fsmount");
    }
    *mount_out = mount;
    return ERROR_SUCCESS;
}

vd_error
vd_fuse_mount(bool read_only, int *device_out, int *mount_out)
{
    VD_AUTO_CLOSE int device = open(FUSE_DEVICE, O_RDWR | O_CLOEXEC);
    if (device < 0) {
        return mount_error(FUSE_DEVICE);
    }
    vd_error error = make_mount(device, read_only, mount_out);
    if (error == ERROR_SUCCESS) {
        *device_out = vd_take_fd(&device);
    }
    return error;
}
