/*
 * What a new disk is copied from: a virtual disk, or what is a disk as it is,
 * a raw image file or a block device.
 */
#ifndef VD_DISK_SOURCE_H
#define VD_DISK_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "disk/disk.h"

struct vd_source {
    struct vd_disk *disk; /* owned; NULL: fd is read as it is */
    int fd;               /* owned, -1: none */
    uint64_t size_bytes;
    uint32_t sector_size;          /* logical; 512 for a raw image file */
    uint32_t physical_sector_size; /* 0: not known */
};

/* Takes the disk over, which the caller has opened under locks. */
void vd_source_of_disk(struct vd_disk *disk, struct vd_source *out);

/*
 * A regular file or a block device; locked as a parent is.
 * `exclusive`: of a device that can be written to, nobody else may be a user.
 * Errors: ERROR_VHD_INVALID_FILE_SIZE for a file that is not whole sectors,
 * ERROR_VIRTDISK_UNSUPPORTED_DISK_SECTOR_SIZE, ERROR_SHARING_VIOLATION,
 * ERROR_VIRTDISK_DISK_ONLINE_AND_WRITABLE for a mounted device and
 * ERROR_VIRTDISK_DISK_ALREADY_OWNED for one that something else has claimed.
 */
VD_MUST_CHECK
vd_error vd_source_open_raw(const char *path, bool exclusive,
                            struct vd_source *out);

/* Whether the path leads to a block device. */
bool vd_source_is_device(const char *path);

/* As vd_disk_read and vd_disk_run.  Any number of threads at once. */
VD_MUST_CHECK
vd_error vd_source_read(const struct vd_source *source, void *buffer,
                        size_t length, uint64_t offset);
VD_MUST_CHECK
vd_error vd_source_run(const struct vd_source *source, uint64_t offset,
                       uint64_t length, uint32_t granule,
                       struct vd_disk_run *out);

/* Accepts one that is all zero but for fd, -1. */
void vd_source_close(struct vd_source *source);

/* In a forked child: closes the descriptors and no more. */
void vd_source_abandon(const struct vd_source *source);

#endif
