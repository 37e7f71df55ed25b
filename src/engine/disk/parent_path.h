/*
 * From what a child says about its parent's place to names on this system
 * (FORMATS.md 6.2).  Works on text; opens nothing.
 *
 * A child's path is hostile: it leads to its own directory or below it, never
 * to an absolute place.  Of an absolute or upward path the file name is used,
 * in the child's directory; where an upward one leads counts only below a
 * root (parent_roots.h).
 */
#ifndef VD_DISK_PARENT_PATH_H
#define VD_DISK_PARENT_PATH_H

#include <uchar.h>

#include "base/error.h"
#include "format/format.h"

/* Relative to the child's directory, "base/parent.vhdx"; free with free().
 * ERROR_BAD_PATHNAME if nothing can be made of it. */
VD_MUST_CHECK
vd_error vd_parent_path_resolve(const struct vd_parent_path *path, char **out);

/* Where a relative path that goes up leads from the directory of a child,
 * whose path is absolute: absolute too, and free of ".."; free with free().
 * ERROR_FILE_NOT_FOUND if it does not go up, ERROR_BAD_PATHNAME if it goes
 * above the root directory. */
VD_MUST_CHECK
vd_error vd_parent_path_climb(const struct vd_parent_path *path,
                              const char *child, char **out);

/*
 * What a child in a directory says where its parent is, ".\\base.vhdx" or
 * "..\\base\\base.vhdx"; free with free().  Both paths are absolute, and
 * resolved.  ERROR_INVALID_NAME if a name on the way cannot be said: it has a
 * backslash or a control character, or is no text.
 */
VD_MUST_CHECK
vd_error vd_parent_path_between(const char *directory, const char *parent,
                                char16_t **out);

#endif
