/*
 * An opened virtual disk: an image file, its format, and the locks that say
 * who may use it.  (Parent chains will live here.)
 *
 * attach/ sees of this: path, file descriptor and identity of the image,
 * size, sector size, read-only, read, and whether the payload is one
 * contiguous run.  It knows no format.
 */
#ifndef VD_DISK_DISK_H
#define VD_DISK_DISK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

struct vd_disk;
struct vd_image_info;
struct vd_format;

struct vd_disk_options {
    uint32_t device_id; /* VIRTUAL_STORAGE_TYPE_DEVICE_*, 0: by content */
    bool writable;      /* open the image file for writing */
};

/* Which file an image is, whatever its names. */
struct vd_file_id {
    dev_t device;
    ino_t inode;
};

/*
 * Opens path (bytes, relative to the working directory).  No lock is taken.
 * Errors: those of vd_posix_file_open, of vd_format_find and of the format.
 */
VD_MUST_CHECK
vd_error vd_disk_open(const char *path, const struct vd_disk_options *options,
                      struct vd_disk **out);

/* Accepts NULL. */
void vd_disk_close(struct vd_disk *disk);

/* Absolute, symbolic links resolved; as it was when opened. */
const char *vd_disk_path(const struct vd_disk *disk);
int vd_disk_fd(const struct vd_disk *disk);
struct vd_file_id vd_disk_file_id(const struct vd_disk *disk);
bool vd_disk_writable(const struct vd_disk *disk);

const struct vd_format *vd_disk_format(const struct vd_disk *disk);
const struct vd_image_info *vd_disk_info(const struct vd_disk *disk);
uint64_t vd_disk_size_bytes(const struct vd_disk *disk);
uint32_t vd_disk_sector_size(const struct vd_disk *disk);
bool vd_disk_optical(const struct vd_disk *disk);

/* Size of the image file now, in bytes. */
VD_MUST_CHECK
vd_error vd_disk_file_size(const struct vd_disk *disk, uint64_t *size_out);

/* The range must lie inside the disk; it need not be sector-aligned. */
VD_MUST_CHECK
vd_error vd_disk_read(struct vd_disk *disk, void *buffer, size_t length,
                      uint64_t offset);

/* Whether the whole payload is one run of the file, and where it starts. */
VD_MUST_CHECK
vd_error vd_disk_contiguous(struct vd_disk *disk, bool *contiguous,
                            uint64_t *file_offset_out);

struct vd_host_disk {
    uint32_t sector_size; /* logical, of the disk under the file */
    uint32_t physical_sector_size;
    bool remote; /* the file is on a network file system */
};

/* What the image file itself lies on. */
VD_MUST_CHECK
vd_error vd_disk_host(const struct vd_disk *disk, struct vd_host_disk *out);

#endif
