/*
 * What a new disk is copied from.  See source.h.
 */
#include "disk/source.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/trace.h"
#include "disk/image_lock.h"
#include "disk/mounted.h"
#include "disk/run.h"

#define SECTOR_SIZE 512

void
vd_source_of_disk(struct vd_disk *disk, struct vd_source *out)
{
    *out = (struct vd_source){
        .disk = disk,
        .fd = -1,
        .size_bytes = vd_disk_size_bytes(disk),
        .sector_size = vd_disk_sector_size(disk),
        .physical_sector_size = vd_disk_physical_sector_size(disk),
    };
}

/* ---- opening ---- */

bool
vd_source_is_device(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISBLK(status.st_mode);
}

static bool
is_read_only(int fd)
{
    int read_only = 0;
    return ioctl(fd, BLKROGET, &read_only) == 0 && read_only != 0;
}

/* Why a device cannot be had alone. */
static vd_error
told_as_busy(const struct stat *status)
{
    bool mounted = vd_is_mounted(status->st_rdev);
    vd_trace(VD_TRACE_DISK, "the device is %s",
             mounted ? "mounted" : "in use");
    return mounted ? ERROR_VIRTDISK_DISK_ONLINE_AND_WRITABLE
                   : ERROR_VIRTDISK_DISK_ALREADY_OWNED;
}

/* A claim on the device, by the kernel's rules, beside the open file. */
static vd_error
claim(int *fd, const struct stat *status)
{
    char path[64];
    if (is_read_only(*fd)) {
        return ERROR_SUCCESS; /* nobody can write to it */
    }
    snprintf(path, sizeof(path), "/proc/self/fd/%d", *fd);
    int claimed = open(path, O_RDONLY | O_EXCL | O_CLOEXEC | O_NONBLOCK);
    if (claimed < 0) {
        return errno == EBUSY ? told_as_busy(status)
                              : vd_error_from_errno(errno);
    }
    close(*fd);
    *fd = claimed;
    return ERROR_SUCCESS;
}

static vd_error
describe_device(int fd, struct vd_source *source)
{
    uint64_t size;
    int logical;
    unsigned physical;
    if (ioctl(fd, BLKGETSIZE64, &size) < 0 ||
        ioctl(fd, BLKSSZGET, &logical) < 0) {
        return vd_error_from_errno(errno);
    }
    if (logical != 512 && logical != 4096) {
        vd_trace(VD_TRACE_DISK, "a device with sectors of %d bytes", logical);
        return ERROR_VIRTDISK_UNSUPPORTED_DISK_SECTOR_SIZE;
    }
    source->size_bytes = size;
    source->sector_size = (uint32_t)logical;
    if (ioctl(fd, BLKPBSZGET, &physical) == 0) {
        source->physical_sector_size = physical;
    }
    return ERROR_SUCCESS;
}

static vd_error
describe_file(const struct stat *status, struct vd_source *source)
{
    uint64_t size = (uint64_t)status->st_size;
    if (size == 0 || size % SECTOR_SIZE != 0) {
        vd_trace(VD_TRACE_DISK, "a raw image of %llu bytes",
                 (unsigned long long)size);
        return ERROR_VHD_INVALID_FILE_SIZE;
    }
    source->size_bytes = size;
    source->sector_size = SECTOR_SIZE;
    return ERROR_SUCCESS;
}

/* Neither a FIFO, which would wait, nor any other device is ever opened. */
static vd_error
open_checked(const char *path, int *fd_out, struct stat *status)
{
    if (stat(path, status) < 0) {
        return vd_error_from_errno(errno);
    }
    if (!S_ISREG(status->st_mode) && !S_ISBLK(status->st_mode)) {
        return ERROR_INVALID_PARAMETER;
    }
    VD_AUTO_CLOSE int fd =
        open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || fstat(fd, status) < 0) {
        return vd_error_from_errno(errno);
    }
    if (!S_ISREG(status->st_mode) && !S_ISBLK(status->st_mode)) {
        return ERROR_INVALID_PARAMETER; /* it has been replaced */
    }
    *fd_out = vd_take_fd(&fd);
    return ERROR_SUCCESS;
}

vd_error
vd_source_open_raw(const char *path, bool exclusive, struct vd_source *out)
{
    struct stat status;
    struct vd_source source = {.fd = -1};
    VD_AUTO_CLOSE int fd = -1;
    vd_error error = open_checked(path, &fd, &status);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    bool device = S_ISBLK(status.st_mode);
    if (device && exclusive) {
        error = claim(&fd, &status);
    }
    if (error == ERROR_SUCCESS) {
        error = device ? describe_device(fd, &source)
                       : describe_file(&status, &source);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_image_lock(fd, VD_LOCK_PARENT);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    source.fd = vd_take_fd(&fd);
    *out = source;
    return ERROR_SUCCESS;
}

/* ---- using ---- */

static vd_error
read_raw(int fd, uint8_t *buffer, size_t length, uint64_t offset)
{
    while (length != 0) {
        ssize_t done = pread(fd, buffer, length, (off_t)offset);
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done < 0) {
            return vd_error_from_errno(errno);
        }
        if (done == 0) {
            vd_trace(VD_TRACE_DISK, "the source has become shorter");
            return ERROR_IO_DEVICE;
        }
        buffer += done;
        offset += (size_t)done;
        length -= (size_t)done;
    }
    return ERROR_SUCCESS;
}

vd_error
vd_source_read(const struct vd_source *source, void *buffer, size_t length,
               uint64_t offset)
{
    return source->disk != NULL
               ? vd_disk_read(source->disk, buffer, length, offset)
               : read_raw(source->fd, buffer, length, offset);
}

static vd_error
run_of_raw(void *context, uint64_t offset, uint64_t length,
           struct vd_disk_run *out)
{
    const struct vd_source *source = context;
    vd_run_of_file(source->fd, offset, length, out);
    return ERROR_SUCCESS;
}

vd_error
vd_source_run(const struct vd_source *source, uint64_t offset, uint64_t length,
              uint32_t granule, struct vd_disk_run *out)
{
    struct vd_source copy = *source;
    return source->disk != NULL
               ? vd_disk_run(source->disk, offset, length, granule, out)
               : vd_run_in_granules(run_of_raw, &copy, offset, length, granule,
                                    out);
}

void
vd_source_close(struct vd_source *source)
{
    vd_disk_close(source->disk);
    if (source->fd >= 0) {
        close(source->fd);
    }
    *source = (struct vd_source){.fd = -1};
}

void
vd_source_abandon(const struct vd_source *source)
{
    if (source->disk != NULL) {
        vd_disk_abandon(source->disk);
    }
    if (source->fd >= 0) {
        close(source->fd);
    }
}
