/*
 * What can be done to an image while it is served, and to its file with it.
 * One thing at a time; the descriptor that came with the request decides
 * whether it is done.
 */
#ifndef VD_SERVER_UPKEEP_WORK_H
#define VD_SERVER_UPKEEP_WORK_H

#include <stdbool.h>

#include "base/error.h"
#include "disk/compact.h"
#include "disk/progress.h"
#include "disk/resize.h"
#include "server/fuse.h"

struct vd_upkeep_work {
    const struct vd_fuse_file *file;
    int device; /* the connection over which the kernel is told */
    int fd;     /* the image, for writing; the requester's */
    struct vd_compact_options options;
    struct vd_resize resize;
    struct vd_progress progress;
    bool shortened; /* the file is as short as the disk is to be */
};

/* Compacts the image.  Errors: those of vd_disk_compact_attached. */
VD_MUST_CHECK
vd_error vd_upkeep_compact(struct vd_upkeep_work *work);

/*
 * Decides on the size, and makes the file that short if it is to become
 * shorter: what is behind that cannot be read or written any more, and is
 * still in the disk.  Errors: ERROR_INVALID_PARAMETER (the descriptor),
 * ERROR_NOT_SUPPORTED (the format has no such thing), those of
 * vd_disk_check_window and vd_disk_plan_resize; nothing has changed then.
 */
VD_MUST_CHECK
vd_error vd_upkeep_prepare(struct vd_upkeep_work *work);

/* Resizes the disk after that; the file is as long as the disk is then, also
 * if it failed.  Errors: those of vd_disk_resize. */
VD_MUST_CHECK
vd_error vd_upkeep_resize(struct vd_upkeep_work *work);

/* Instead: the file is as long as the disk again. */
void vd_upkeep_restore(struct vd_upkeep_work *work);

#endif
