/*
 * See parent_roots.h.
 *
 * A program that has more rights than its caller has no roots: the caller's
 * environment does not decide for it (secure_getenv).
 */
#include "disk/parent_roots.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/trace.h"

#define VARIABLE "VIRTDISK_PARENT_ROOTS"

/* What of a path is below a directory, NULL if nothing is. */
static const char *
part_below(const char *path, const char *directory)
{
    size_t length = strcmp(directory, "/") != 0 ? strlen(directory) : 0;
    bool is_below = strncmp(path, directory, length) == 0 &&
                    path[length] == '/' && path[length + 1] != '\0';
    return is_below ? path + length + 1 : NULL;
}

/* Opened first: the path is that of what is open, links or not. */
static vd_error
open_root(const char *root, int *fd_out, char **path_out)
{
    char link[64];
    VD_AUTO_CLOSE int fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return vd_error_from_errno(errno);
    }
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    *path_out = realpath(link, NULL);
    if (*path_out == NULL) {
        return vd_error_from_errno(errno);
    }
    *fd_out = vd_take_fd(&fd);
    return ERROR_SUCCESS;
}

static vd_error
try_root(const char *root, const char *path, int *root_out,
         const char **below_out)
{
    VD_AUTO_CLOSE int fd = -1;
    VD_AUTO_FREE char *directory = NULL;
    vd_error error =
        root[0] == '/' ? open_root(root, &fd, &directory) : ERROR_BAD_PATHNAME;
    if (error != ERROR_SUCCESS) {
        vd_trace(VD_TRACE_DISK, VARIABLE ": \"%s\" ignored: %s", root,
                 root[0] == '/' ? strerror(errno) : "not absolute");
        return error == ERROR_NOT_ENOUGH_MEMORY ? error : ERROR_FILE_NOT_FOUND;
    }
    const char *below = part_below(path, directory);
    if (below == NULL) {
        return ERROR_FILE_NOT_FOUND;
    }
    *root_out = vd_take_fd(&fd);
    *below_out = below;
    return ERROR_SUCCESS;
}

vd_error
vd_parent_roots_find(const char *path, int *root_out, const char **below_out)
{
    const char *list = secure_getenv(VARIABLE);
    while (list != NULL) {
        size_t length = strcspn(list, ":");
        VD_AUTO_FREE char *root = strndup(list, length);
        if (root == NULL) {
            return ERROR_NOT_ENOUGH_MEMORY;
        }
        vd_error error = try_root(root, path, root_out, below_out);
        if (error != ERROR_FILE_NOT_FOUND) {
            return error;
        }
        list = list[length] == ':' ? list + length + 1 : NULL;
    }
    vd_trace(VD_TRACE_DISK,
             "parent candidate %s: outside the child's directory, and in no "
             "directory of " VARIABLE,
             path);
    return ERROR_FILE_NOT_FOUND;
}
