/*
 * A virtual disk, or a part of one, as a SCSI disk.
 */
#ifndef VD_DISK_SCSI_DISK_H
#define VD_DISK_SCSI_DISK_H

#include <stdbool.h>
#include <stdint.h>

#include "disk/disk.h"
#include "disk/scsi.h"

struct vd_scsi_disk {
    struct vd_scsi_unit unit; /* its context is this struct */
    struct vd_disk *disk;     /* borrowed */
    uint64_t offset;          /* of the part, in bytes */
};

/* offset and length are bytes, in whole sectors inside the disk; length is
 * not 0.  out stays where it is as long as the unit is used. */
void vd_scsi_disk_init(struct vd_scsi_disk *out, struct vd_disk *disk,
                       uint64_t offset, uint64_t length, bool read_only);

#endif
