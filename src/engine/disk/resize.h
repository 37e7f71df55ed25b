/*
 * Another size for a virtual disk, and the smallest that loses nothing.
 */
#ifndef VD_DISK_RESIZE_H
#define VD_DISK_RESIZE_H

#include <stdbool.h>
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

/* Whether a disk of this format may get another size while it is attached. */
bool vd_disk_resizes_in_use(const struct vd_disk *disk);

/* What users of a disk see of it. */
struct vd_disk_window {
    uint64_t offset; /* bytes */
    uint64_t length;
    bool whole; /* it becomes larger and smaller with the disk */
};

/* Whether a disk that is used so can be resized: ERROR_WRITE_PROTECT if it
 * is read-only, ERROR_VHD_RESIZE_WOULD_TRUNCATE_DATA if a part of a disk that
 * is seen might not be there afterwards. */
VD_MUST_CHECK
vd_error vd_disk_check_window(const struct vd_disk *disk,
                              const struct vd_disk_window *window,
                              const struct vd_resize *resize);

/* The size that vd_disk_resize would give the disk as it is now.  Changes
 * nothing, and others may use the disk.  Errors: those of that function
 * before it writes. */
VD_MUST_CHECK
vd_error vd_disk_plan_resize(struct vd_disk *disk,
                             const struct vd_resize *resize,
                             uint64_t *size_out);

/*
 * Whether a disk whose payload is one run of its file (vd_disk_contiguous) at
 * this place can be resized under users that only the kernel knows: both
 * sizes are whole blocks, so that nothing between them is touched, and a
 * larger disk goes on behind the run, which is the last in the file.
 * ERROR_VHD_INVALID_STATE if not.
 */
VD_MUST_CHECK
vd_error vd_disk_check_direct(const struct vd_disk *disk, uint64_t file_offset,
                              uint64_t size_bytes);

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
