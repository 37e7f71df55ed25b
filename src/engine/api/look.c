/*
 * Looking at an image that somebody else may be writing to.  See look.h.
 */
#include "api/look.h"

#include <fcntl.h>
#include <stdio.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/posix_file.h"
#include "base/trace.h"
#include "disk/image_lock.h"
#include "format/format.h"

#define ATTEMPTS 25
#define PAUSE_MS 40

/* What is to be looked at, and how. */
struct look {
    vd_error (*open)(const struct look *look, struct vd_disk **out);
    const char *path;
    const struct vd_disk_options *options;
    const struct vd_disk *disk;
};

/* Damage, as opposed to what is missing, refused or does not fit. */
static bool
may_pass(vd_error error)
{
    switch (error) {
    case ERROR_FILE_CORRUPT:
    case ERROR_HANDLE_EOF:
    case ERROR_VHD_DRIVE_FOOTER_MISSING:
    case ERROR_VHD_DRIVE_FOOTER_CHECKSUM_MISMATCH:
    case ERROR_VHD_DRIVE_FOOTER_CORRUPT:
    case ERROR_VHD_SPARSE_HEADER_CHECKSUM_MISMATCH:
    case ERROR_VHD_SPARSE_HEADER_CORRUPT:
    case ERROR_VHD_BLOCK_ALLOCATION_TABLE_CORRUPT:
    case ERROR_VHD_BITMAP_MISMATCH:
    case ERROR_VHD_METADATA_READ_FAILURE:
    case ERROR_VHD_INVALID_FILE_SIZE:
    case ERROR_VIRTDISK_PROVIDER_NOT_FOUND:
        return true;
    default:
        return false;
    }
}

static bool
is_written_to(const char *path)
{
    struct vd_posix_file *file;
    if (vd_posix_file_open(AT_FDCWD, path, false, &file) != ERROR_SUCCESS) {
        return false;
    }
    bool in_use = vd_image_lock_test(file->fd, VD_LOCK_PARENT) ==
                  ERROR_SHARING_VIOLATION;
    vd_posix_file_close(file);
    return in_use;
}

static vd_error
look_patiently(const struct look *look, struct vd_disk **out)
{
    const struct timespec pause = {.tv_nsec = PAUSE_MS * 1000000L};
    vd_error error = look->open(look, out);
    for (int i = 0; i < ATTEMPTS && may_pass(error); i++) {
        if (!is_written_to(look->path)) {
            /* Perhaps only since the look. */
            return look->open(look, out);
        }
        vd_trace(VD_TRACE_API, "error %u while others write: once more",
                 error);
        nanosleep(&pause, NULL);
        error = look->open(look, out);
    }
    return error;
}

static vd_error
open_path(const struct look *look, struct vd_disk **out)
{
    return vd_disk_open(look->path, look->options, out);
}

static vd_error
open_files(const struct look *look, struct vd_disk **out)
{
    struct vd_disk_files files;
    vd_error error = vd_disk_reopen(look->disk, false, &files);
    if (error == ERROR_SUCCESS) {
        error = vd_disk_open_files(&files, false, out);
        if (error != ERROR_SUCCESS) {
            vd_disk_files_close(&files);
        }
    }
    return error;
}

vd_error
vd_look_open(const char *path, const struct vd_disk_options *options,
             struct vd_disk **out)
{
    struct look look = {.open = open_path, .path = path, .options = options};
    return look_patiently(&look, out);
}

vd_error
vd_look_again(const struct vd_disk *disk, bool leaf_only, struct vd_disk **out)
{
    char path[64];
    struct vd_disk_options options = {
        .device_id = vd_disk_format(disk)->device_id,
        .no_parents = true,
    };
    struct look look = {
        .open = leaf_only ? open_path : open_files,
        .path = path,
        .options = &options,
        .disk = disk,
    };
    snprintf(path, sizeof(path), "/proc/self/fd/%d", vd_disk_fd(disk));
    return look_patiently(&look, out);
}
