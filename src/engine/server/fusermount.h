/*
 * Mounting and unmounting without privilege, by the set-user-ID program
 * fusermount3.
 *
 * How a call of it ended is seen in what is mounted afterwards, not in its
 * exit status, which the calling program's own child handling may have taken.
 */
#ifndef VD_SERVER_FUSERMOUNT_H
#define VD_SERVER_FUSERMOUNT_H

#include <stdbool.h>

#include "base/error.h"

/* Where the program is; NULL if it is not installed. */
const char *vd_fusermount_program(void);

/*
 * Mounts a file system whose root is a regular file over the regular file of
 * that path, for this user alone; who may do what is decided by the mode that
 * the server tells.  *device_out is the connection (/dev/fuse), on which the
 * kernel's first request waits.  ERROR_PRIVILEGE_NOT_HELD if the program is
 * not there or refuses.
 */
VD_MUST_CHECK
vd_error vd_fusermount_mount(const char *path, bool read_only,
                             int *device_out);

/* Unmounts it.  Not lazily: only while nobody has the file open.  Lazily: the
 * path is free at once, and the rest goes with the last who has it open. */
void vd_fusermount_unmount(const char *path, bool lazily);

/* Whether something is mounted on a file of that path, in the caller's mount
 * namespace; asks no server. */
bool vd_fusermount_mounted(const char *path);

#endif
