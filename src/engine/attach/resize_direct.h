/*
 * Resizing an image whose payload the loop driver shows alone: by the process
 * that asks, behind the driver's back.
 */
#ifndef VD_ATTACH_RESIZE_DIRECT_H
#define VD_ATTACH_RESIZE_DIRECT_H

#include <stdbool.h>

#include "attach/record.h"
#include "base/error.h"
#include "disk/resize.h"

/* Whether the device stands on the image itself. */
bool vd_direct_shows(const struct vd_record *record);

/*
 * As vd_attached_resize, for such a record, which the caller has locked.
 * ERROR_VHD_INVALID_STATE, with nothing changed, also where it can be done
 * only while the image is detached (vd_disk_check_direct); ERROR_BUSY, with
 * nothing changed, if the kernel does not let the device have another size.
 */
VD_MUST_CHECK
vd_error vd_direct_resize(const struct vd_record *record, int fd,
                          const struct vd_resize *resize);

#endif
