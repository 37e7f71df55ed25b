/*
 * Whether a block device carries a mounted file system.
 */
#ifndef VD_DISK_MOUNTED_H
#define VD_DISK_MOUNTED_H

#include <stdbool.h>
#include <sys/types.h>

/* In this process's mount namespace; of a disk, its partitions included. */
bool vd_is_mounted(dev_t device);

#endif
