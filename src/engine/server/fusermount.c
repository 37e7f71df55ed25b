/*
 * Calling fusermount3 (fusermount.h).
 *
 * Its side of the protocol: the environment variable _FUSE_COMMFD names one
 * end of a socket pair, through which one byte comes with the descriptor of
 * /dev/fuse; the options are those of mount.fuse3(8), -u unmounts, -z does so
 * lazily, -q keeps quiet (fusermount3(1)).
 *
 * The program is only taken from where systems install set-user-ID programs,
 * never from $PATH.
 */
#include "server/fusermount.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/trace.h"
#include "server/channel.h"
#include "server/fuse.h"
#include "server/spawn.h"

/* The kernel headers of older build systems lack what kernels have. */
#ifndef STATX_ATTR_MOUNT_ROOT
#define STATX_ATTR_MOUNT_ROOT 0x2000 /* Linux 5.8 */
#endif

static const char *const programs[] = {
    "/usr/bin/fusermount3", "/bin/fusermount3",
    "/usr/local/bin/fusermount3",   /* from its own sources */
    "/run/wrappers/bin/fusermount3" /* NixOS */
};

#define COMMUNICATION_FD 3
#define COMMUNICATION "_FUSE_COMMFD=3"

/* For the messages of the program, which the caller may want to see. */
#define UNTRANSLATED "LC_ALL=C"

const char *
vd_fusermount_program(void)
{
    for (size_t i = 0; i < sizeof(programs) / sizeof(programs[0]); i++) {
        if (access(programs[i], X_OK) == 0) {
            return programs[i];
        }
    }
    return NULL;
}

/* channel: -1 if the program is to send nothing. */
static vd_error
run(char *const arguments[], int channel)
{
    char *const environment[] = {UNTRANSLATED, COMMUNICATION, NULL};
    struct vd_spawn spawn = {
        .path = vd_fusermount_program(),
        .arguments = arguments,
        .environment = environment,
        .passed = channel,
        .passed_as = COMMUNICATION_FD,
        .silent = true,
    };
    if (spawn.path == NULL) {
        vd_trace(VD_TRACE_ATTACH, "fusermount3 is not installed");
        return ERROR_PRIVILEGE_NOT_HELD;
    }
    int error_number = vd_spawn_run(&spawn);
    if (error_number != 0) {
        vd_trace(VD_TRACE_ATTACH, "%s: %s", spawn.path,
                 strerror(error_number));
        return vd_error_from_errno(error_number);
    }
    return ERROR_SUCCESS;
}

static vd_error
run_mount(const char *path, bool read_only, int channel)
{
    char options[160];
    snprintf(options, sizeof(options),
             "%s,nosuid,nodev,noexec,default_permissions,max_read=%u,"
             "fsname=virtdisk,subtype=virtdisk",
             read_only ? "ro" : "rw", VD_FUSE_TRANSFER);
    char *const arguments[] = {
        "fusermount3", "-o", options, "--", (char *)path, NULL,
    };
    return run(arguments, channel);
}

static vd_error
make_channel(int *own_out, int *other_out)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        return vd_error_from_errno(errno);
    }
    VD_AUTO_CLOSE int own = pair[0];
    VD_AUTO_CLOSE int other = pair[1];
    int apart = fcntl(other, F_DUPFD_CLOEXEC, COMMUNICATION_FD + 1);
    if (apart < 0) {
        return vd_error_from_errno(errno);
    }
    *own_out = vd_take_fd(&own);
    *other_out = apart;
    return ERROR_SUCCESS;
}

vd_error
vd_fusermount_mount(const char *path, bool read_only, int *device_out)
{
    int own = -1;
    int other = -1;
    char mark;
    size_t count = 0;
    vd_error error = make_channel(&own, &other);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = run_mount(path, read_only, other);
    close(other);
    if (error == ERROR_SUCCESS) {
        error = vd_channel_receive(own, &mark, 1, device_out, 1, &count);
    }
    close(own);
    if (error == ERROR_BROKEN_PIPE || (error == ERROR_SUCCESS && count == 0)) {
        vd_trace(VD_TRACE_ATTACH, "fusermount3 has not mounted %s", path);
        return ERROR_PRIVILEGE_NOT_HELD;
    }
    return error;
}

void
vd_fusermount_unmount(const char *path, bool lazily)
{
    char *const quietly[] = {
        "fusermount3", "-u", "-q", "--", (char *)path, NULL,
    };
    char *const detaching[] = {
        "fusermount3", "-u", "-q", "-z", "--", (char *)path, NULL,
    };
    if (run(lazily ? detaching : quietly, -1) != ERROR_SUCCESS) {
        vd_trace(VD_TRACE_ATTACH, "%s stays mounted", path);
    }
}

/* A mount whose server is dead says ENOTCONN where it is not asked for
 * nothing, and from what the kernel remembers, as here. */
bool
vd_fusermount_mounted(const char *path)
{
    struct statx status;
    int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC;
    if (statx(AT_FDCWD, path, flags, 0, &status) < 0) {
        return errno == ENOTCONN;
    }
    return (status.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}
