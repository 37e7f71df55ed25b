/*
 * From what a child says about its parent's place to names on this system
 * (FORMATS.md 6.2).  Works on text; opens nothing.
 *
 * A child's path is hostile: it leads to its own directory or below it, never
 * up, never to an absolute place.  Of an absolute or upward path only the
 * file name is used, in the child's directory.
 */
#ifndef VD_DISK_PARENT_PATH_H
#define VD_DISK_PARENT_PATH_H

#include "base/error.h"
#include "format/format.h"

/* Relative to the child's directory, "base/parent.vhdx"; free with free().
 * ERROR_BAD_PATHNAME if nothing can be made of it. */
VD_MUST_CHECK
vd_error vd_parent_path_resolve(const struct vd_parent_path *path, char **out);

#endif
