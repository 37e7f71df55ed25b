/*
 * A file that is being made: nobody sees it under its name before it is whole
 * and durable, and a process that dies leaves nothing under that name.
 *
 * It has no name at all (O_TMPFILE) or, where the file system cannot do that,
 * a hidden one beside the final name.
 */
#ifndef VD_DISK_NEW_FILE_H
#define VD_DISK_NEW_FILE_H

#include <sys/types.h>

#include "base/error.h"

struct vd_new_file {
    int directory;   /* owned */
    char *name;      /* owned; the final one, in directory */
    char *temporary; /* owned; NULL: it has none */
    int fd;          /* owned; open for reading and writing */
};

/* ERROR_FILE_EXISTS if something has that name, ERROR_PATH_NOT_FOUND if there
 * is no such directory, and others.  End it with vd_new_file_close. */
VD_MUST_CHECK
vd_error vd_new_file_open(const char *path, struct vd_new_file *out);

/* Owner, group and mode; by default those that any new file there gets. */
VD_MUST_CHECK
vd_error vd_new_file_set_access(const struct vd_new_file *file, uid_t uid,
                                gid_t gid, mode_t mode);

/* Makes it durable and gives it its name.  Nothing is ever replaced:
 * ERROR_FILE_EXISTS. */
VD_MUST_CHECK
vd_error vd_new_file_publish(struct vd_new_file *file);

/* Takes the name away again, if it is still this file's. */
void vd_new_file_withdraw(const struct vd_new_file *file);

/* What has not been published is gone. */
void vd_new_file_close(struct vd_new_file *file);

#endif
