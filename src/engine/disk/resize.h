/*
 * Another size for a virtual disk, and the smallest that loses nothing.
 */
#ifndef VD_DISK_RESIZE_H
#define VD_DISK_RESIZE_H

#include <stdint.h>

#include "base/error.h"
#include "disk/disk.h"

/* No disk is made smaller than that, as none is created so. */
#define VD_DISK_SIZE_MIN ((uint64_t)3 << 20)

enum vd_resize_mode {
    VD_RESIZE_GROW,     /* only larger, and only what is no child */
    VD_RESIZE_SAFE,     /* not smaller than the partitions allow */
    VD_RESIZE_UNSAFE,   /* partitions are not looked at */
    VD_RESIZE_SMALLEST, /* as small as the partitions allow */
};

struct vd_resize {
    enum vd_resize_mode mode;
    uint64_t size_bytes; /* 0 if SMALLEST */
};

/*
 * Where the partition table, and what it names, ends; a GPT's backup would
 * follow there.  ERROR_VHD_COULD_NOT_COMPUTE_MINIMUM_VIRTUAL_SIZE without a
 * table, without the parents, and for a disc.
 */
VD_MUST_CHECK
vd_error vd_disk_smallest_safe_size(struct vd_disk *disk, uint64_t *size_out);

/*
 * Changes the size of a disk that nobody else uses meanwhile; durable on
 * return.  After a power cut at any moment the disk has the old or the new
 * size and all that lies inside both.  A safe one that makes the disk smaller
 * moves the backup of a GPT to the new end; one that makes it larger leaves
 * it where it is, as Windows does.
 *
 * Errors: ERROR_INVALID_PARAMETER (not whole sectors, or less than
 * VD_DISK_SIZE_MIN; GROW: not larger),
 * ERROR_VHD_INVALID_TYPE (VHD: smaller, or a child; GROW: a child),
 * ERROR_NOT_SUPPORTED (the format has no such thing),
 * ERROR_VHD_COULD_NOT_COMPUTE_MINIMUM_VIRTUAL_SIZE (no partition table),
 * ERROR_VHD_RESIZE_WOULD_TRUNCATE_DATA,
 * ERROR_VHD_ALREADY_AT_OR_BELOW_MINIMUM_VIRTUAL_SIZE (SMALLEST), those of
 * vd_format.resize, and of reading and writing.
 */
VD_MUST_CHECK
vd_error vd_disk_resize(struct vd_disk *disk, const struct vd_resize *resize);

#endif
