/*
 * Makes the file of a dynamic or differencing image as small as its content
 * allows: gives blocks of zeros up, moves the last blocks into the gaps, and
 * cuts the file off behind them.
 */
#ifndef VD_DISK_COMPACT_H
#define VD_DISK_COMPACT_H

#include <stdbool.h>

#include "base/error.h"
#include "disk/disk.h"
#include "disk/progress.h"

struct vd_compact_options {
    bool no_zero_scan;   /* do not look for blocks of zeros */
    bool no_block_moves; /* do not move blocks */
};

/*
 * Compacts a disk that nobody writes to meanwhile; reading goes on.  What the
 * disk holds, and whether children fit it, does not change.  It may be
 * cancelled, fail or lose power at any moment: what was done is kept, and the
 * next time goes on from there.
 *
 * Errors: ERROR_VHD_INVALID_TYPE (a fixed image, a disc),
 * ERROR_NOT_SUPPORTED, ERROR_OPERATION_ABORTED, and those of the format.
 */
VD_MUST_CHECK
vd_error vd_disk_compact(struct vd_disk *disk,
                         const struct vd_compact_options *options,
                         struct vd_progress *progress);

/* Makes what was done durable, and cuts the image file off behind the last
 * that is in use, in a format that can be compacted. */
VD_MUST_CHECK
vd_error vd_disk_shorten(struct vd_disk *disk);

#endif
