/*
 * An opened virtual disk.  See disk.h.
 *
 * Everything is asked of the open descriptor, nothing of the path a second
 * time: a file that is renamed or replaced meanwhile stays the one that was
 * opened.  The path is for people.
 */
#include "disk/disk.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/posix_file.h"
#include "base/trace.h"
#include "disk/image_io.h"
#include "format/format.h"

struct vd_disk {
    struct vd_posix_file *file;
    struct vd_image *image;
    char *path;
    bool writable;
};

/* What the kernel appends to the name of a file that has none any more. */
#define DELETED_SUFFIX " (deleted)"

static bool
path_leads_to(const char *path, const struct stat *wanted)
{
    struct stat status;
    return stat(path, &status) == 0 && status.st_dev == wanted->st_dev &&
           status.st_ino == wanted->st_ino;
}

static void
strip_suffix(char *text, const char *suffix)
{
    size_t length = strlen(text);
    size_t suffix_length = strlen(suffix);
    if (length > suffix_length &&
        strcmp(text + length - suffix_length, suffix) == 0) {
        text[length - suffix_length] = '\0';
    }
}

/* The kernel's own name for what a descriptor has open, wherever it has been
 * moved; needs /proc. */
static vd_error
path_of_descriptor(const struct vd_posix_file *file, char **out)
{
    char link[64];
    char path[PATH_MAX];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", file->fd);
    ssize_t length = readlink(link, path, sizeof(path) - 1);
    if (length < 0) {
        return vd_error_from_errno(errno);
    }
    path[length] = '\0';
    if (!path_leads_to(path, &file->status)) {
        strip_suffix(path, DELETED_SUFFIX);
    }
    char *copy = strdup(path);
    if (copy == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    *out = copy;
    return ERROR_SUCCESS;
}

static vd_error
resolve_path(const struct vd_posix_file *file, const char *path, char **out)
{
    char *resolved = realpath(path, NULL);
    if (resolved != NULL && path_leads_to(resolved, &file->status)) {
        *out = resolved;
        return ERROR_SUCCESS;
    }
    free(resolved);
    return path_of_descriptor(file, out);
}

static vd_error
open_image(struct vd_disk *disk, uint32_t device_id)
{
    const struct vd_format *format;
    struct vd_file *file = &disk->file->file;
    vd_error error = vd_format_find(file, device_id, &format);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    return format->open(file, &disk->image);
}

static vd_error
open_all(struct vd_disk *disk, const char *path,
         const struct vd_disk_options *options)
{
    vd_error error =
        vd_posix_file_open(AT_FDCWD, path, options->writable, &disk->file);
    if (error == ERROR_SUCCESS) {
        error = resolve_path(disk->file, path, &disk->path);
    }
    if (error == ERROR_SUCCESS) {
        error = open_image(disk, options->device_id);
    }
    return error;
}

vd_error
vd_disk_open(const char *path, const struct vd_disk_options *options,
             struct vd_disk **out)
{
    struct vd_disk *disk = calloc(1, sizeof(*disk));
    if (disk == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    disk->writable = options->writable;
    vd_error error = open_all(disk, path, options);
    if (error != ERROR_SUCCESS) {
        vd_trace(VD_TRACE_DISK, "%s: not opened, error %u", path, error);
        vd_disk_close(disk);
        return error;
    }
    *out = disk;
    return ERROR_SUCCESS;
}

void
vd_disk_close(struct vd_disk *disk)
{
    if (disk == NULL) {
        return;
    }
    if (disk->image != NULL) {
        disk->image->format->close(disk->image);
    }
    vd_posix_file_close(disk->file);
    free(disk->path);
    free(disk);
}

const char *
vd_disk_path(const struct vd_disk *disk)
{
    return disk->path;
}

int
vd_disk_fd(const struct vd_disk *disk)
{
    return disk->file->fd;
}

struct vd_file_id
vd_disk_file_id(const struct vd_disk *disk)
{
    return (struct vd_file_id){
        .device = disk->file->status.st_dev,
        .inode = disk->file->status.st_ino,
    };
}

bool
vd_disk_writable(const struct vd_disk *disk)
{
    return disk->writable;
}

const struct vd_format *
vd_disk_format(const struct vd_disk *disk)
{
    return disk->image->format;
}

const struct vd_image_info *
vd_disk_info(const struct vd_disk *disk)
{
    return &disk->image->info;
}

uint64_t
vd_disk_size_bytes(const struct vd_disk *disk)
{
    return disk->image->info.size_bytes;
}

uint32_t
vd_disk_sector_size(const struct vd_disk *disk)
{
    return disk->image->info.sector_size;
}

bool
vd_disk_optical(const struct vd_disk *disk)
{
    return disk->image->info.optical;
}

vd_error
vd_disk_file_size(const struct vd_disk *disk, uint64_t *size_out)
{
    return vd_file_size(&disk->file->file, size_out);
}

vd_error
vd_disk_read(struct vd_disk *disk, void *buffer, size_t length,
             uint64_t offset)
{
    assert(vd_range_within(offset, length, vd_disk_size_bytes(disk)));
    return vd_image_read(disk->image, buffer, length, offset);
}

vd_error
vd_disk_contiguous(struct vd_disk *disk, bool *contiguous,
                   uint64_t *file_offset_out)
{
    return vd_image_contiguous(disk->image, contiguous, file_offset_out);
}
