/*
 * The parts of partition_table.c: a source of sectors, and the list of
 * partitions that the readers of MBR and GPT fill.
 */
#ifndef VD_DISK_PARTITION_SCAN_H
#define VD_DISK_PARTITION_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "disk/partition_table.h"

#define VD_MBR_SIZE 512

/* What is scanned.  read gets ranges inside size_bytes only. */
struct vd_partition_source {
    vd_error (*read)(void *context, void *buffer, size_t length,
                     uint64_t offset);
    void *context;
    uint64_t size_bytes;
    uint32_t sector_size; /* logical: 512 or more, a power of two */
};

struct vd_partition_source vd_partition_source_of(struct vd_disk *disk);

/* As vd_partition_table_read, of any source. */
VD_MUST_CHECK
vd_error vd_partition_scan(const struct vd_partition_source *source,
                           struct vd_partition_table *out);

/* A range of whole sectors as a table names it. */
struct vd_sector_range {
    uint64_t first;
    uint64_t count;
};

/* Whole sectors of the source: what a table can number. */
uint64_t vd_partition_source_sectors(const struct vd_partition_source *source);

/* ERROR_HANDLE_EOF if the sector or its first length bytes lie outside. */
VD_MUST_CHECK
vd_error vd_partition_source_read(const struct vd_partition_source *source,
                                  uint64_t sector, void *buffer,
                                  size_t length);

/*
 * Adds a partition of one sector or more, or skips it, telling why: past the
 * end of the disk, over another one, or with a number that Linux has no minor
 * for.  Returns whether it was added.
 */
bool vd_partition_add(struct vd_partition_table *table,
                      const struct vd_partition_source *source,
                      uint32_t number, struct vd_sector_range range,
                      bool data);

/* Raises end_bytes to hold the range, which must lie inside the source. */
void vd_partition_extend(struct vd_partition_table *table,
                         const struct vd_partition_source *source,
                         struct vd_sector_range range);

/* For a partition that is not to be used: what it has of the disk is not to
 * be cut off either. */
void vd_partition_skip(struct vd_partition_table *table,
                       const struct vd_partition_source *source,
                       struct vd_sector_range range);

/* The table of an MBR sector that is known to carry the 0x55AA signature;
 * sets *protective, and nothing else, if it only protects a GPT. */
VD_MUST_CHECK
vd_error vd_mbr_read(const struct vd_partition_source *source,
                     const uint8_t *mbr, struct vd_partition_table *out,
                     bool *protective);

VD_MUST_CHECK
vd_error vd_gpt_read(const struct vd_partition_source *source,
                     struct vd_partition_table *out);

#endif
