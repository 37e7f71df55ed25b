/*
 * Looking at an image that somebody else may be writing to.
 *
 * A look takes no lock.  What changes while it is read may seem damaged for a
 * moment; so as long as somebody has the image attached or open in a virtual
 * machine, such an error is looked at again for a second before it is
 * believed.
 */
#ifndef VD_API_LOOK_H
#define VD_API_LOOK_H

#include "base/error.h"
#include "disk/disk.h"

/* vd_disk_open. */
VD_MUST_CHECK
vd_error vd_look_open(const char *path, const struct vd_disk_options *options,
                      struct vd_disk **out);

/* The image of a disk as it is now; close it.  The other is not changed and
 * may be what many look at.  Without its parents, if leaf_only. */
VD_MUST_CHECK
vd_error vd_look_again(const struct vd_disk *disk, bool leaf_only,
                       struct vd_disk **out);

#endif
