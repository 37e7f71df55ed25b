/*
 * struct vd_file over a regular file of the host.
 */
#ifndef VD_BASE_POSIX_FILE_H
#define VD_BASE_POSIX_FILE_H

#include <stdbool.h>
#include <sys/stat.h>

#include "base/file.h"

struct vd_posix_file {
    struct vd_file file; /* first: a vd_posix_file is a vd_file */
    int fd;              /* O_CLOEXEC; owned */
    struct stat status;  /* as found when opened */
};

/*
 * Opens an existing regular file, relative to dirfd (AT_FDCWD).  Never blocks
 * on a FIFO and never opens a device, directory or socket:
 * ERROR_INVALID_PARAMETER.  Errors: ERROR_FILE_NOT_FOUND,
 * ERROR_PATH_NOT_FOUND, ERROR_ACCESS_DENIED, ERROR_WRITE_PROTECT (read-only
 * file system), ERROR_NOT_ENOUGH_MEMORY and others.  Close with
 * vd_posix_file_close, which accepts NULL.
 */
VD_MUST_CHECK
vd_error vd_posix_file_open(int dirfd, const char *path, bool writable,
                            struct vd_posix_file **out);

/* Takes over a descriptor that is open for reading, or for reading and writing
 * if `writable`; it stays the caller's on failure.  ERROR_INVALID_PARAMETER
 * for anything but a regular file. */
VD_MUST_CHECK
vd_error vd_posix_file_adopt(int fd, bool writable,
                             struct vd_posix_file **out);

/* For a new file that nobody sees yet, and that its maker will sync before
 * anybody does: from now on flush does nothing.  sparse: nor is space ever
 * allocated. */
void vd_posix_file_hold(struct vd_posix_file *posix_file, bool sparse);

/* Lets the system begin to write what is not durable yet; waits for nothing
 * and promises nothing. */
void vd_posix_file_hurry(struct vd_posix_file *posix_file);

void vd_posix_file_close(struct vd_posix_file *posix_file);

/* What is missing of a path that was not found: ERROR_PATH_NOT_FOUND if its
 * directory is, else ERROR_FILE_NOT_FOUND. */
vd_error vd_posix_file_missing(int dirfd, const char *path);

#endif
