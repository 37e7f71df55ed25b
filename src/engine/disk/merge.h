/*
 * Merging layers of a chain into a parent of theirs.
 */
#ifndef VD_DISK_MERGE_H
#define VD_DISK_MERGE_H

#include <stddef.h>

#include "base/error.h"
#include "disk/disk.h"

struct vd_progress;

/* Layers source to target - 1 go into layer target; 0 is the leaf. */
struct vd_merge {
    size_t source;
    size_t target;
};

/* Whether the disk has such layers.  ERROR_VHD_INVALID_TYPE if it is no
 * chain, ERROR_VHD_PARENT_VHD_NOT_FOUND without its parents,
 * ERROR_INVALID_PARAMETER, ERROR_VHD_INVALID_STATE (VHD: under a saved state),
 * ERROR_NOT_SUPPORTED (the format cannot). */
VD_MUST_CHECK
vd_error vd_merge_check(const struct vd_disk *disk,
                        const struct vd_merge *merge);

/* Which layers a merge writes to. */
void vd_merge_written(const struct vd_merge *merge, struct vd_layer_set *out);

/*
 * Merges, in a disk that nobody else uses, whose layers of vd_merge_written
 * are writable; durable on return.  Then the target reads as layer `source`
 * did, has its size and page 83 id, and is the parent of what stood on that
 * layer.  The files of the merged layers stay; they still read as before, but
 * only for as long as nobody writes to the target.  Other children of the
 * target are lost: a VHDX refuses them from then on.
 *
 * The disk reads the same at every moment, also after a power cut, a failure
 * or ERROR_OPERATION_ABORTED; a merge may then be begun again.
 */
VD_MUST_CHECK
vd_error vd_disk_merge(struct vd_disk *disk, const struct vd_merge *merge,
                       struct vd_progress *progress);

#endif
