/*
 * Copying what a source holds into a new disk.
 */
#ifndef VD_DISK_COPY_H
#define VD_DISK_COPY_H

#include <stdint.h>

#include "base/error.h"
#include "disk/disk.h"
#include "disk/progress.h"
#include "disk/source.h"

/*
 * Copies all of the source to the start of target, which is live, reads as
 * zeros so far and is not smaller.  What is zeros takes no space there.  Some
 * threads work at once; progress counts bytes of the source.
 * ERROR_OPERATION_ABORTED if it was cancelled.
 */
VD_MUST_CHECK
vd_error vd_copy(const struct vd_source *source, struct vd_disk *target,
                 struct vd_progress *progress);

/* Writes whole sectors, leaving out what is zeros, in pieces large enough to
 * be worth a hole. */
VD_MUST_CHECK
vd_error vd_copy_write(struct vd_disk *target, const uint8_t *buffer,
                       size_t length, uint64_t offset);

#endif
