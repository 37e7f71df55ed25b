/*
 * Who the parent of an image is, written into the image.
 */
#ifndef VD_DISK_RELINK_H
#define VD_DISK_RELINK_H

#include <stddef.h>

#include "base/error.h"
#include "base/guid.h"
#include "disk/disk.h"
#include "disk/layer.h"

/*
 * Makes `parent` the one that the child, open for changes, is made of: its
 * identifier, no other one besides, and the path to it from the child's
 * directory.  Durable on return; after a power cut at any moment the child
 * has the old parent or the new one.  Whether the two fit is for the caller
 * to know.
 */
VD_MUST_CHECK
vd_error vd_relink_layer(struct vd_layer *child, const struct vd_layer *parent,
                         const struct vd_guid *identifier);

/*
 * The same for layer `layer` of a disk, open for changes, and the image at
 * path, which must be what the layer was made of; or, if `identifier` is not
 * NULL, an image that fits and has this identifier.
 * ERROR_VHD_INVALID_TYPE (the layer has no parent, or the image is of another
 * format), ERROR_VHD_CHILD_PARENT_ID_MISMATCH, _SIZE_MISMATCH,
 * ERROR_VHD_DIFFERENCING_CHAIN_CYCLE_DETECTED, ERROR_SHARING_VIOLATION
 * (somebody writes to it), and those of vd_disk_open.
 */
VD_MUST_CHECK
vd_error vd_disk_set_parent(struct vd_disk *disk, size_t layer,
                            const char *path,
                            const struct vd_guid *identifier);

#endif
