/*
 * What lies on what: the file system of a file, the block device of a file
 * system, the devices that one is made of.
 *
 * Device numbers are the kernel's; a file system that is on no block device,
 * or on several without a number of its own that sysfs knows, lies on nothing.
 */
#ifndef VD_ATTACH_VOLUME_H
#define VD_ATTACH_VOLUME_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"

struct vd_volume {
    dev_t device; /* 0: on none */
    char *root;   /* where it is mounted; NULL: nowhere that we see */
};

/* Of an open file or directory the volume it lies on; of a block device node
 * that device.  Free with vd_volume_free. */
VD_MUST_CHECK
vd_error vd_volume_of(int fd, struct vd_volume *out);
void vd_volume_free(struct vd_volume *volume);

#define VD_DEVICE_STACK_MAX 64

/* A device and all that it stands on: the disk of a partition, what device
 * mapper and md put together. */
struct vd_device_stack {
    dev_t devices[VD_DEVICE_STACK_MAX];
    size_t count;
};

/* What is further down than there is room for is left out. */
void vd_device_stack_of(dev_t device, struct vd_device_stack *out);

bool vd_device_stack_has(const struct vd_device_stack *stack, dev_t device);

/* Whether the medium of any of them can be taken out. */
bool vd_device_stack_removable(const struct vd_device_stack *stack);

bool vd_device_is_partition(dev_t device);

/* Of "/dev/loop3": its number, 0 if there is none; whether the kernel looks
 * for partitions on it. */
dev_t vd_device_number(const char *device);
bool vd_device_scans_partitions(const char *device);

#endif
