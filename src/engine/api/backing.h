/*
 * The image behind an attached disk, as GetStorageDependencyInformation tells
 * of it: where it lies and what kind of disk it makes.
 */
#ifndef VD_API_BACKING_H
#define VD_API_BACKING_H

#include <stdint.h>
#include <sys/types.h>

#include "attach/attach.h"
#include "attach/volume.h"
#include "base/error.h"

struct vd_backing {
    const struct vd_attached *attached;
    struct vd_volume volume; /* on which the image lies */
    const char *path;        /* of the image, relative to volume.root, whole if
                                that is NULL */
};

/* One that has been moved away is on the same device still, but nobody can
 * say where.  Free the volume. */
VD_MUST_CHECK
vd_error vd_backing_find(const struct vd_attached *attached,
                         struct vd_backing *out);

/* Its DEPENDENT_DISK_FLAGs and its format's device id, 0 if the image cannot
 * be looked at.  system: the device that "/" is on, 0 for none. */
void vd_backing_describe(const struct vd_backing *backing, dev_t system,
                         uint32_t *flags_out, uint32_t *device_id_out);

#endif
