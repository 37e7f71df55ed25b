/*
 * A file system that consists of one regular file, served by this process
 * and visible to nobody.
 */
#ifndef VD_SERVER_FUSE_MOUNT_H
#define VD_SERVER_FUSE_MOUNT_H

#include <stdbool.h>

#include "base/error.h"

/*
 * *device_out is the connection to the kernel (/dev/fuse), on which its first
 * request waits; *mount_out an O_PATH descriptor of the file, which can be
 * opened through /proc/self/fd while the requests are being answered.  The
 * mount has no place in any namespace: it ends with the last descriptor and
 * open file of it.  ERROR_NOT_SUPPORTED (no FUSE, or Linux before 5.2),
 * ERROR_PRIVILEGE_NOT_HELD.
 */
VD_MUST_CHECK
vd_error vd_fuse_mount(bool read_only, int *device_out, int *mount_out);

#endif
