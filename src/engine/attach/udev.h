/*
 * Telling udevd, where it runs, how the nodes of an attachment are to be.
 */
#ifndef VD_ATTACH_UDEV_H
#define VD_ATTACH_UDEV_H

#include <stdbool.h>
#include <stddef.h>

#include "attach/attach.h"
#include "attach/loop.h"
#include "base/error.h"

/* Writes a rule for this device, as long as it shows this image, and asks
 * udevd to apply it.  Does nothing where no udevd runs, or when the system's
 * defaults are all that is wanted. */
VD_MUST_CHECK
vd_error vd_udev_add(const struct vd_loop *loop,
                     const struct vd_node_access *access, bool hidden);

/* Asks udevd to look at the device and its partitions again. */
void vd_udev_announce(const char *device);

/* Removes the rule of this device and image, if there is one. */
void vd_udev_remove(const struct vd_loop *loop);

/* The rule; hidden: automounters are to leave the device alone.  False if
 * it does not fit. */
bool vd_udev_rule(const struct vd_loop *loop,
                  const struct vd_node_access *access, bool hidden,
                  char *buffer, size_t size)
    __attribute__((warn_unused_result));

#endif
