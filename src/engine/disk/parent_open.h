/*
 * Opening what may be a parent (FORMATS.md 6.2, steps 3 and 5).
 */
#ifndef VD_DISK_PARENT_OPEN_H
#define VD_DISK_PARENT_OPEN_H

#include "base/error.h"

/* A file below a directory, for reading; path has '/' between its components
 * and none that leads up.  Symbolic links are not followed.  Where no name is
 * exactly the one wanted, the only one that differs in case is it. */
VD_MUST_CHECK
vd_error vd_parent_open(int directory, const char *path, int *fd_out);

#endif
