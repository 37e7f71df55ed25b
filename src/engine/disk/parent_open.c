/*
 * See parent_open.h.  One component after the other, so that case makes no
 * difference in any.
 */
#include "disk/parent_open.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/trace.h"

#define DIRECTORY_FLAGS (O_PATH | O_DIRECTORY | O_CLOEXEC)
#define FILE_FLAGS (O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)

static int
open_below(int directory, const char *name, uint64_t flags)
{
    struct open_how how = {
        .flags = flags,
        .resolve =
            RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS,
    };
    return (int)syscall(SYS_openat2, directory, name, &how, sizeof(how));
}

/* The only name in the directory that is the wanted one but for case: the
 * child was made where case makes no difference. */
static vd_error
find_other_case(int directory, const char *name, char **out)
{
    VD_AUTO_FREE char *found = NULL;
    int again = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *listing = again >= 0 ? fdopendir(again) : NULL;
    if (listing == NULL) {
        if (again >= 0) {
            close(again);
        }
        return ERROR_FILE_NOT_FOUND;
    }
    size_t matches = 0;
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
        if (strcasecmp(entry->d_name, name) == 0) {
            matches++;
            free(found);
            found = strdup(entry->d_name);
        }
    }
    closedir(listing);
    if (matches != 1 || found == NULL) {
        return ERROR_FILE_NOT_FOUND;
    }
    *out = VD_TAKE(found);
    return ERROR_SUCCESS;
}

static vd_error
tell_errno(const char *name)
{
    vd_trace(VD_TRACE_DISK, "parent candidate %s: %s", name, strerror(errno));
    return vd_error_from_errno(errno);
}

static vd_error
open_any_case(int directory, const char *name, uint64_t flags, int *fd_out)
{
    int fd = open_below(directory, name, flags);
    if (fd < 0 && errno == ENOENT) {
        VD_AUTO_FREE char *other = NULL;
        vd_error error = find_other_case(directory, name, &other);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        fd = open_below(directory, other, flags);
    }
    if (fd < 0) {
        return tell_errno(name);
    }
    *fd_out = fd;
    return ERROR_SUCCESS;
}

vd_error
vd_parent_open(int directory, const char *path, int *fd_out)
{
    VD_AUTO_CLOSE int inside = -1;
    VD_AUTO_FREE char *copy = strdup(path);
    char *name = copy;
    if (copy == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    for (char *slash; (slash = strchr(name, '/')) != NULL; name = slash + 1) {
        int next = -1;
        *slash = '\0';
        if (slash == name) {
            continue;
        }
        vd_error error = open_any_case(inside >= 0 ? inside : directory, name,
                                       DIRECTORY_FLAGS, &next);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        vd_cleanup_close(&inside);
        inside = next;
    }
    return open_any_case(inside >= 0 ? inside : directory, name, FILE_FLAGS,
                         fd_out);
}
