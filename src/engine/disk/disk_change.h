/*
 * What an image says of itself, and the metadata items that users keep in it.
 *
 * The disk is of the image alone, or live and used by nobody else; parents
 * are not touched.  ERROR_NOT_SUPPORTED for a format that has no such thing.
 */
#ifndef VD_DISK_DISK_CHANGE_H
#define VD_DISK_DISK_CHANGE_H

#include <stddef.h>

#include "base/error.h"
#include "base/guid.h"
#include "disk/disk.h"

struct vd_image_change;

/* vd_format.change; durable on return. */
VD_MUST_CHECK
vd_error vd_disk_change(struct vd_disk *disk,
                        const struct vd_image_change *change);

/* vd_format.metadata_*; the last two are durable on return. */
VD_MUST_CHECK
vd_error vd_disk_metadata_list(struct vd_disk *disk, struct vd_guid **items,
                               size_t *count_out);
VD_MUST_CHECK
vd_error vd_disk_metadata_get(struct vd_disk *disk, const struct vd_guid *item,
                              void **out, size_t *size_out);
VD_MUST_CHECK
vd_error vd_disk_metadata_set(struct vd_disk *disk, const struct vd_guid *item,
                              const void *data, size_t size);
VD_MUST_CHECK
vd_error vd_disk_metadata_delete(struct vd_disk *disk,
                                 const struct vd_guid *item);

#endif
