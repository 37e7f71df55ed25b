/*
 * Moves the backup of a GUID partition table before a disk becomes smaller.
 */
#ifndef VD_DISK_GPT_BACKUP_H
#define VD_DISK_GPT_BACKUP_H

#include <stdint.h>

#include "base/error.h"
#include "disk/disk.h"
#include "disk/partition_scan.h"

/*
 * Makes the table one of a disk of size_bytes, not above the disk's size and
 * not below its vd_partition_table.end_bytes: writes the copy where such a
 * disk ends, then lets the first header say so.  Whatever happens meanwhile,
 * the first header and its entries are valid.  What is no GPT is left alone.
 * ERROR_VHD_COULD_NOT_COMPUTE_MINIMUM_VIRTUAL_SIZE if the first header is
 * damaged.
 */
VD_MUST_CHECK
vd_error vd_gpt_move_backup(struct vd_disk *disk, uint64_t size_bytes);

/* Where a table is that is to be changed; both get the source's context. */
struct vd_gpt_medium {
    struct vd_partition_source source;
    vd_error (*write)(void *context, const void *buffer, size_t length,
                      uint64_t offset);
    vd_error (*flush)(void *context);
};

/* The same of a disk that is seen otherwise. */
VD_MUST_CHECK
vd_error vd_gpt_move_backup_on(const struct vd_gpt_medium *medium,
                               uint64_t size_bytes);

#endif
