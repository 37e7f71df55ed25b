/*
 * Making a new image, of any format that can be made.
 */
#ifndef VD_DISK_CREATE_H
#define VD_DISK_CREATE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "disk/disk.h"
#include "disk/new_file.h"
#include "format/format.h"

/* The format with this device id; ERROR_NOT_SUPPORTED if its images are only
 * read. */
VD_MUST_CHECK
vd_error vd_create_format(uint32_t device_id, const struct vd_format **out);

/*
 * Makes the request complete: what is random, what time it is, the path to
 * the parent from where the image will be, the format's defaults.  `parent`
 * is NULL, or the disk of which `layer` is what a child is made of, and stays
 * open as long as the request is used.  Free what it has taken with
 * vd_create_clear.
 */
VD_MUST_CHECK
vd_error vd_create_prepare(const struct vd_format *format,
                           const struct vd_new_file *file,
                           const struct vd_disk *parent, size_t layer,
                           struct vd_create_request *request);
void vd_create_clear(struct vd_create_request *request);

/* Writes the image.  sparse: also a fixed one takes no space yet. */
VD_MUST_CHECK
vd_error vd_create_write(const struct vd_new_file *file,
                         const struct vd_format *format, bool sparse,
                         const struct vd_create_request *request);

/* The disk of an image that vd_create_write has made, to be filled: without
 * parents, and not durable before the file is published. */
VD_MUST_CHECK
vd_error vd_create_fill(const struct vd_new_file *file,
                        const struct vd_format *format, bool sparse,
                        struct vd_disk **out);

/* Gives an image the user metadata of another: of its parent, or of what it
 * is a copy of. */
VD_MUST_CHECK
vd_error vd_create_copy_metadata(const struct vd_disk *source,
                                 struct vd_disk *target);

#endif
