/*
 * Starting the disk server (server/protocol.h) from the attaching process.
 */
#ifndef VD_ATTACH_SERVER_CLIENT_H
#define VD_ATTACH_SERVER_CLIENT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "disk/disk.h"

/* Where everybody who may can find the file. */
struct vd_server_visible {
    const char *path; /* absolute */
    int file;         /* what is there, locked; stays the caller's */
    mode_t mode;
    bool permanent; /* outlives the socket */
};

struct vd_server_options {
    const struct vd_disk_files *files; /* locked; they stay the caller's */
    const int *listener;               /* for upkeep; NULL: none */
    bool read_only;
    uint64_t window_offset; /* the part of the disk to show, in bytes */
    uint64_t window_length;
    const struct vd_server_visible *visible; /* NULL: nowhere */
};

struct vd_server_file {
    int file;   /* the disk, open for reading and, unless read_only, writing;
                   -1 if it is visible */
    int server; /* a socket that ends when the server does; its closing is the
                   end of a visible file that is not permanent */
};

/*
 * Starts a server of its own for the disk.  It goes on while anybody has the
 * file open, whatever becomes of this process.  Errors: those of
 * vd_disk_open_files, vd_fuse_mount and vd_keeper_start; ERROR_NOT_SUPPORTED
 * if the program is not installed; ERROR_BROKEN_PIPE if it died.  After a
 * failure the server is gone.
 */
VD_MUST_CHECK
vd_error vd_server_start(const struct vd_server_options *options,
                         struct vd_server_file *out);

/* Closes the file and waits, for half a minute at most, until the server has
 * let go of the image. */
void vd_server_stop(struct vd_server_file *file);

#endif
