/*
 * Where a parent may lie outside its child's directory: below the directories
 * that VIRTDISK_PARENT_ROOTS names, separated by colons (FORMATS.md 6.2).
 *
 * A child's path is hostile, but the environment is its opener's own: a path
 * that goes up is followed only to where he said that parents are.
 */
#ifndef VD_DISK_PARENT_ROOTS_H
#define VD_DISK_PARENT_ROOTS_H

#include "base/error.h"

/* The root that an absolute path lies in, open for paths only (O_PATH), and
 * the part of `path` that is below it.  Goes by the text: links on the way
 * are the business of who opens.  ERROR_FILE_NOT_FOUND if it is in none. */
VD_MUST_CHECK
vd_error vd_parent_roots_find(const char *path, int *root_out,
                              const char **below_out);

#endif
