/*
 * The partitions of a loop device as the kernel has them.
 */
#ifndef VD_ATTACH_PARTITIONS_H
#define VD_ATTACH_PARTITIONS_H

#include "base/error.h"
#include "disk/disk.h"

/* Adds the partitions of the disk's table that the kernel has not found by
 * itself.  fd is the whole device, which must show the whole disk.  They go
 * when the device is freed, if it scans for partitions (loop.h).
 * ERROR_PRIVILEGE_NOT_HELD without CAP_SYS_ADMIN. */
VD_MUST_CHECK
vd_error vd_partitions_add(int fd, const char *device, struct vd_disk *disk);

/* Calls visit with the name ("loop3p1") of each; ends at the first error. */
VD_MUST_CHECK
vd_error vd_partitions_each(const char *device,
                            vd_error (*visit)(const char *partition,
                                              void *context),
                            void *context);

#endif
