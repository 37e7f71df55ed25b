/*
 * A file that is being made.  See new_file.h.
 */
#include "disk/new_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/trace.h"
#include "disk/random.h"

#define MODE_OF_NEW_FILES 0666 /* less the umask */

/* ---- the place ---- */

static const char *
name_in(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

static vd_error
open_directory_at(const char *directory, int *out)
{
    int flags = O_DIRECTORY | O_CLOEXEC;
    int fd = open(directory, flags | O_RDONLY);
    if (fd < 0 && errno == EACCES) {
        fd = open(directory, flags | O_PATH); /* may be searched, not read */
    }
    if (fd < 0) {
        vd_trace(VD_TRACE_DISK, "%s: %s", directory, strerror(errno));
        return errno == ENOENT ? ERROR_PATH_NOT_FOUND
                               : vd_error_from_errno(errno);
    }
    *out = fd;
    return ERROR_SUCCESS;
}

static vd_error
open_directory_of(const char *path, int *out)
{
    size_t length = (size_t)(name_in(path) - path);
    if (length == 0) {
        return open_directory_at(".", out);
    }
    VD_AUTO_FREE char *directory = strndup(path, length);
    if (directory == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    return open_directory_at(directory, out);
}

/* A link that leads nowhere is something, too. */
static vd_error
check_free(const struct vd_new_file *file)
{
    struct stat status;
    if (file->name[0] == '\0') {
        vd_trace(VD_TRACE_DISK, "a path that ends with a slash");
        return ERROR_PATH_NOT_FOUND;
    }
    if (fstatat(file->directory, file->name, &status, AT_SYMLINK_NOFOLLOW) ==
        0) {
        vd_trace(VD_TRACE_DISK, "%s exists", file->name);
        return ERROR_FILE_EXISTS;
    }
    return errno == ENOENT ? ERROR_SUCCESS : vd_error_from_errno(errno);
}

/* ---- opening ---- */

static bool
has_no_unnamed_files(int error_number)
{
    return error_number == EOPNOTSUPP || error_number == EISDIR ||
           error_number == EINVAL || error_number == ENOENT;
}

static vd_error
open_named(struct vd_new_file *file)
{
    uint64_t number;
    vd_error error = vd_random_bytes(&number, sizeof(number));
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (asprintf(&file->temporary, ".virtdisk-%016" PRIx64, number) < 0) {
        file->temporary = NULL;
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    file->fd = openat(file->directory, file->temporary,
                      O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                      MODE_OF_NEW_FILES);
    if (file->fd < 0) {
        int saved = errno;
        free(VD_TAKE(file->temporary)); /* is not ours to remove */
        return vd_error_from_errno(saved);
    }
    return ERROR_SUCCESS;
}

static vd_error
open_unnamed(struct vd_new_file *file)
{
    file->fd = openat(file->directory, ".", O_TMPFILE | O_RDWR | O_CLOEXEC,
                      MODE_OF_NEW_FILES);
    if (file->fd >= 0) {
        return ERROR_SUCCESS;
    }
    return has_no_unnamed_files(errno) ? open_named(file)
                                       : vd_error_from_errno(errno);
}

vd_error
vd_new_file_open(const char *path, struct vd_new_file *out)
{
    struct vd_new_file file = {.directory = -1, .fd = -1};
    vd_error error = open_directory_of(path, &file.directory);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    file.name = strdup(name_in(path));
    error = file.name != NULL ? check_free(&file) : ERROR_NOT_ENOUGH_MEMORY;
    if (error == ERROR_SUCCESS) {
        error = open_unnamed(&file);
    }
    if (error != ERROR_SUCCESS) {
        vd_new_file_close(&file);
        return error;
    }
    *out = file;
    return ERROR_SUCCESS;
}

/* ---- what it is to others ---- */

vd_error
vd_new_file_set_access(const struct vd_new_file *file, uid_t uid, gid_t gid,
                       mode_t mode)
{
    if (fchown(file->fd, uid, gid) < 0 || fchmod(file->fd, mode) < 0) {
        vd_trace(VD_TRACE_DISK, "owner %u:%u, mode %o: %s", uid, gid, mode,
                 strerror(errno));
        return vd_error_from_errno(errno);
    }
    return ERROR_SUCCESS;
}

static int
link_unnamed(const struct vd_new_file *file)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", file->fd);
    return linkat(AT_FDCWD, path, file->directory, file->name,
                  AT_SYMLINK_FOLLOW);
}

static int
rename_named(struct vd_new_file *file)
{
    int failed = renameat2(file->directory, file->temporary, file->directory,
                           file->name, RENAME_NOREPLACE);
    if (failed && (errno == EINVAL || errno == ENOSYS)) {
        failed = linkat(file->directory, file->temporary, file->directory,
                        file->name, 0);
        if (!failed) {
            (void)unlinkat(file->directory, file->temporary, 0);
        }
    }
    if (!failed) {
        free(VD_TAKE(file->temporary));
    }
    return failed;
}

/* Some file systems have nothing to sync a directory for, and one that may
 * not be read cannot be asked to. */
static vd_error
sync_directory(const struct vd_new_file *file)
{
    if (fsync(file->directory) < 0 && errno != EINVAL && errno != EBADF) {
        return vd_error_from_errno(errno);
    }
    return ERROR_SUCCESS;
}

vd_error
vd_new_file_publish(struct vd_new_file *file)
{
    if (fsync(file->fd) < 0) {
        vd_trace(VD_TRACE_DISK, "%s: %s", file->name, strerror(errno));
        return vd_error_from_errno(errno);
    }
    int failed =
        file->temporary != NULL ? rename_named(file) : link_unnamed(file);
    if (failed) {
        vd_trace(VD_TRACE_DISK, "%s: %s", file->name, strerror(errno));
        return vd_error_from_errno(errno);
    }
    vd_error error = sync_directory(file);
    if (error != ERROR_SUCCESS) {
        vd_new_file_withdraw(file);
    }
    return error;
}

void
vd_new_file_withdraw(const struct vd_new_file *file)
{
    struct stat named, own;
    if (fstatat(file->directory, file->name, &named, AT_SYMLINK_NOFOLLOW) ==
            0 &&
        fstat(file->fd, &own) == 0 && named.st_dev == own.st_dev &&
        named.st_ino == own.st_ino) {
        (void)unlinkat(file->directory, file->name, 0);
    }
}

void
vd_new_file_close(struct vd_new_file *file)
{
    if (file->temporary != NULL) {
        (void)unlinkat(file->directory, file->temporary, 0);
    }
    if (file->fd >= 0) {
        close(file->fd);
    }
    if (file->directory >= 0) {
        close(file->directory);
    }
    free(file->temporary);
    free(file->name);
    *file = (struct vd_new_file){.directory = -1, .fd = -1};
}
