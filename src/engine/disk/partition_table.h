/*
 * Reads the MBR (with extended partitions) or GPT of a disk.  Every number is
 * hostile until checked: loops, overlaps and ranges past the end are refused
 * or skipped.  Writes nothing; knows no file systems.
 */
#ifndef VD_DISK_PARTITION_TABLE_H
#define VD_DISK_PARTITION_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "disk/disk.h"

enum vd_partition_scheme {
    VD_PARTITION_NONE,
    VD_PARTITION_MBR,
    VD_PARTITION_GPT,
};

#define VD_PARTITION_MAX 255 /* minors of one device */

struct vd_partition {
    uint32_t number;       /* as Linux counts: 1..; logical from 5 */
    uint64_t offset_bytes; /* from the start of the disk */
    uint64_t length_bytes;
    bool data; /* a data partition: not EFI system, Microsoft reserved,
                  recovery, BIOS boot or an extended container */
};

/*
 * The partitions do not overlap: of an extended one, only what lies before
 * its first logical one is listed, two sectors at most, as Linux shows it.
 */
struct vd_partition_table {
    enum vd_partition_scheme scheme;
    uint64_t end_bytes; /* smallest disk size that holds all of it, with room
                           for the backup of a GPT behind the last partition;
                           0 if there is no table */
    size_t count;
    struct vd_partition partitions[VD_PARTITION_MAX]; /* by number */
};

VD_MUST_CHECK
vd_error vd_partition_table_read(struct vd_disk *disk,
                                 struct vd_partition_table *out);

#endif
