/*
 * struct vd_file over a regular file of the host.
 *
 * All transfers are positioned, so that threads may share the file; short
 * transfers are continued and interrupted ones repeated.  Knows nothing of
 * locks (disk/image_lock.h).
 */
#include "base/posix_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"

_Static_assert(sizeof(off_t) == 8, "file offsets must have 64 bits");

#define ZERO_CHUNK_SIZE 65536

static int
file_fd(const struct vd_file *file)
{
    return ((const struct vd_posix_file *)file)->fd;
}

/* The kernel's offsets are signed. */
static bool
range_is_addressable(uint64_t offset, uint64_t length)
{
    return vd_range_within(offset, length, INT64_MAX);
}

static vd_error
posix_pread(struct vd_file *file, void *buffer, size_t length, uint64_t offset)
{
    uint8_t *next = buffer;
    if (!range_is_addressable(offset, length)) {
        return ERROR_HANDLE_EOF;
    }
    while (length > 0) {
        ssize_t done = pread(file_fd(file), next, length, (off_t)offset);
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done < 0) {
            return vd_error_from_errno(errno);
        }
        if (done == 0) {
            return ERROR_HANDLE_EOF;
        }
        next += done;
        length -= (size_t)done;
        offset += (size_t)done;
    }
    return ERROR_SUCCESS;
}

static vd_error
posix_pwrite(struct vd_file *file, const void *buffer, size_t length,
             uint64_t offset)
{
    const uint8_t *next = buffer;
    if (!range_is_addressable(offset, length)) {
        return ERROR_FILE_TOO_LARGE;
    }
    while (length > 0) {
        ssize_t done = pwrite(file_fd(file), next, length, (off_t)offset);
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done < 0) {
            return vd_error_from_errno(errno);
        }
        if (done == 0) {
            return ERROR_WRITE_FAULT; /* would go on for ever */
        }
        next += done;
        length -= (size_t)done;
        offset += (size_t)done;
    }
    return ERROR_SUCCESS;
}

/* Never repeated: after a failure the kernel may have dropped the dirty
 * pages, and a second call would report success for lost data. */
static vd_error
posix_flush(struct vd_file *file)
{
    if (fdatasync(file_fd(file)) < 0) {
        return vd_error_from_errno(errno);
    }
    return ERROR_SUCCESS;
}

static vd_error
posix_size(struct vd_file *file, uint64_t *size_out)
{
    struct stat status;
    if (fstat(file_fd(file), &status) < 0) {
        return vd_error_from_errno(errno);
    }
    *size_out = (uint64_t)status.st_size;
    return ERROR_SUCCESS;
}

static vd_error
posix_truncate(struct vd_file *file, uint64_t size)
{
    if (!range_is_addressable(size, 0)) {
        return ERROR_FILE_TOO_LARGE;
    }
    while (ftruncate(file_fd(file), (off_t)size) < 0) {
        if (errno != EINTR) {
            return vd_error_from_errno(errno);
        }
    }
    return ERROR_SUCCESS;
}

static vd_error
write_zeros(struct vd_file *file, uint64_t offset, uint64_t length)
{
    VD_AUTO_FREE void *zeros = calloc(1, ZERO_CHUNK_SIZE);
    if (zeros == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    while (length > 0) {
        size_t chunk =
            length < ZERO_CHUNK_SIZE ? (size_t)length : ZERO_CHUNK_SIZE;
        vd_error error = posix_pwrite(file, zeros, chunk, offset);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        offset += chunk;
        length -= chunk;
    }
    return ERROR_SUCCESS;
}

/* Returns 0 or an errno value. */
static int
punch_hole(int fd, uint64_t offset, uint64_t length)
{
    int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    while (fallocate(fd, mode, (off_t)offset, (off_t)length) < 0) {
        if (errno != EINTR) {
            return errno;
        }
    }
    return 0;
}

static vd_error
posix_punch(struct vd_file *file, uint64_t offset, uint64_t length)
{
    uint64_t size;
    vd_error error = posix_size(file, &size);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (offset >= size || length == 0) {
        return ERROR_SUCCESS; /* nothing there that could read as data */
    }
    if (length > size - offset) {
        length = size - offset;
    }
    int error_number = punch_hole(file_fd(file), offset, length);
    if (error_number == EOPNOTSUPP || error_number == ENOSYS) {
        return write_zeros(file, offset, length);
    }
    return vd_error_from_errno(error_number);
}

static vd_error
posix_allocate(struct vd_file *file, uint64_t offset, uint64_t length)
{
    if (!range_is_addressable(offset, length)) {
        return ERROR_FILE_TOO_LARGE;
    }
    if (length == 0) {
        return ERROR_SUCCESS;
    }
    while (fallocate(file_fd(file), 0, (off_t)offset, (off_t)length) < 0) {
        if (errno != EINTR) {
            return errno == ENOSYS ? ERROR_NOT_SUPPORTED
                                   : vd_error_from_errno(errno);
        }
    }
    return ERROR_SUCCESS;
}

static const struct vd_file_ops posix_file_ops = {
    .pread = posix_pread,
    .pwrite = posix_pwrite,
    .flush = posix_flush,
    .size = posix_size,
    .truncate = posix_truncate,
    .punch = posix_punch,
    .allocate = posix_allocate,
};

static vd_error
held_flush(struct vd_file *file)
{
    (void)file;
    return ERROR_SUCCESS;
}

static const struct vd_file_ops held_file_ops = {
    .pread = posix_pread,
    .pwrite = posix_pwrite,
    .flush = held_flush,
    .size = posix_size,
    .truncate = posix_truncate,
    .punch = posix_punch,
    .allocate = posix_allocate,
};

static const struct vd_file_ops sparse_file_ops = {
    .pread = posix_pread,
    .pwrite = posix_pwrite,
    .flush = held_flush,
    .size = posix_size,
    .truncate = posix_truncate,
    .punch = posix_punch,
};

void
vd_posix_file_hold(struct vd_posix_file *posix_file, bool sparse)
{
    posix_file->file.ops = sparse ? &sparse_file_ops : &held_file_ops;
}

void
vd_posix_file_hurry(struct vd_posix_file *posix_file)
{
    (void)sync_file_range(posix_file->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
}

/* Whether the directory part of a path leads to nothing, so that it is the
 * path that is missing and not the file. */
static bool
directory_is_missing(int dirfd, const char *path)
{
    size_t length = strlen(path);
    while (length > 0 && path[length - 1] == '/') {
        length--;
    }
    while (length > 0 && path[length - 1] != '/') {
        length--;
    }
    if (length == 0) {
        return path[0] == '\0';
    }
    VD_AUTO_FREE char *directory = strndup(path, length);
    struct stat status;
    return directory != NULL && fstatat(dirfd, directory, &status, 0) < 0;
}

vd_error
vd_posix_file_missing(int dirfd, const char *path)
{
    if (directory_is_missing(dirfd, path)) {
        return ERROR_PATH_NOT_FOUND;
    }
    return ERROR_FILE_NOT_FOUND;
}

/* Looks before opening: to open a device may start something.  The result
 * is tested once more on the descriptor, so a file that is replaced in
 * between gains nothing. */
static vd_error
check_regular(int dirfd, const char *path)
{
    struct stat status;
    if (fstatat(dirfd, path, &status, 0) < 0) {
        return errno == ENOENT ? vd_posix_file_missing(dirfd, path)
                               : vd_error_from_errno(errno);
    }
    return S_ISREG(status.st_mode) ? ERROR_SUCCESS : ERROR_INVALID_PARAMETER;
}

static vd_error
open_descriptor(int dirfd, const char *path, bool writable, int *fd_out)
{
    int flags =
        (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
    int fd;
    do {
        fd = openat(dirfd, path, flags);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) {
        return errno == ENOENT ? vd_posix_file_missing(dirfd, path)
                               : vd_error_from_errno(errno);
    }
    *fd_out = fd;
    return ERROR_SUCCESS;
}

/* O_NONBLOCK has done its work; whoever borrows the open file description
 * should find an ordinary one. */
static vd_error
check_descriptor(int fd, bool writable, struct stat *status_out)
{
    if (fstat(fd, status_out) < 0) {
        return vd_error_from_errno(errno);
    }
    if (!S_ISREG(status_out->st_mode)) {
        return ERROR_INVALID_PARAMETER;
    }
    if (fcntl(fd, F_SETFL, writable ? O_RDWR : O_RDONLY) < 0) {
        return vd_error_from_errno(errno);
    }
    return ERROR_SUCCESS;
}

vd_error
vd_posix_file_adopt(int fd, bool writable, struct vd_posix_file **out)
{
    VD_AUTO_FREE struct vd_posix_file *posix_file =
        calloc(1, sizeof(*posix_file));
    if (posix_file == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    vd_error error = check_descriptor(fd, writable, &posix_file->status);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    posix_file->file.ops = &posix_file_ops;
    posix_file->fd = fd;
    *out = VD_TAKE(posix_file);
    return ERROR_SUCCESS;
}

vd_error
vd_posix_file_open(int dirfd, const char *path, bool writable,
                   struct vd_posix_file **out)
{
    VD_AUTO_CLOSE int fd = -1;
    vd_error error = check_regular(dirfd, path);
    if (error == ERROR_SUCCESS) {
        error = open_descriptor(dirfd, path, writable, &fd);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_posix_file_adopt(fd, writable, out);
    }
    if (error == ERROR_SUCCESS) {
        (void)vd_take_fd(&fd);
    }
    return error;
}

void
vd_posix_file_close(struct vd_posix_file *posix_file)
{
    if (posix_file == NULL) {
        return;
    }
    close(posix_file->fd);
    free(posix_file);
}
