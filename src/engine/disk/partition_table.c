/*
 * The partition table of a disk.  See partition_table.h; the readers of the
 * two kinds are partition_mbr.c and partition_gpt.c.
 */
#include "disk/partition_table.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/trace.h"
#include "disk/partition_scan.h"

#define MBR_SIGNATURE_AT 510

uint64_t
vd_partition_source_sectors(const struct vd_partition_source *source)
{
    return source->size_bytes / source->sector_size;
}

vd_error
vd_partition_source_read(const struct vd_partition_source *source,
                         uint64_t sector, void *buffer, size_t length)
{
    uint64_t offset;
    if (!vd_mul_u64(sector, source->sector_size, &offset) ||
        !vd_range_within(offset, length, source->size_bytes)) {
        vd_trace(VD_TRACE_DISK, "partition table past the end of the disk");
        return ERROR_HANDLE_EOF;
    }
    return source->read(source->context, buffer, length, offset);
}

static bool
overlaps(const struct vd_partition *partition, uint64_t offset,
         uint64_t length)
{
    /* Neither sum overflows: both ranges lie inside the disk. */
    return offset < partition->offset_bytes + partition->length_bytes &&
           partition->offset_bytes < offset + length;
}

static const char *
reason_to_skip(const struct vd_partition_table *table,
               const struct vd_partition_source *source, uint32_t number,
               struct vd_sector_range range)
{
    if (number > VD_PARTITION_MAX || table->count >= VD_PARTITION_MAX) {
        return "too many partitions";
    }
    if (!vd_range_within(range.first, range.count,
                         vd_partition_source_sectors(source))) {
        return "it does not lie inside the disk";
    }
    for (size_t i = 0; i < table->count; i++) {
        if (overlaps(&table->partitions[i], range.first * source->sector_size,
                     range.count * source->sector_size)) {
            return "it overlaps another one";
        }
    }
    return NULL;
}

static void
insert_by_number(struct vd_partition_table *table,
                 const struct vd_partition *partition)
{
    size_t at = table->count;
    while (at > 0 && table->partitions[at - 1].number > partition->number) {
        table->partitions[at] = table->partitions[at - 1];
        at--;
    }
    table->partitions[at] = *partition;
    table->count++;
}

void
vd_partition_skip(struct vd_partition_table *table,
                  const struct vd_partition_source *source,
                  struct vd_sector_range range)
{
    uint64_t sectors = vd_partition_source_sectors(source);
    if (range.first < sectors && range.count != 0) {
        uint64_t rest = sectors - range.first;
        range.count = range.count < rest ? range.count : rest;
        vd_partition_extend(table, source, range);
    }
}

bool
vd_partition_add(struct vd_partition_table *table,
                 const struct vd_partition_source *source, uint32_t number,
                 struct vd_sector_range range, bool data)
{
    assert(range.count > 0);
    const char *reason = reason_to_skip(table, source, number, range);
    if (reason != NULL) {
        vd_trace(VD_TRACE_DISK, "partition %u is skipped: %s", number, reason);
        vd_partition_skip(table, source, range);
        return false;
    }
    struct vd_partition partition = {
        .number = number,
        .offset_bytes = range.first * source->sector_size,
        .length_bytes = range.count * source->sector_size,
        .data = data,
    };
    insert_by_number(table, &partition);
    vd_partition_extend(table, source, range);
    return true;
}

void
vd_partition_extend(struct vd_partition_table *table,
                    const struct vd_partition_source *source,
                    struct vd_sector_range range)
{
    uint64_t end = (range.first + range.count) * source->sector_size;
    if (end > table->end_bytes) {
        table->end_bytes = end;
    }
}

static vd_error
scan_into(const struct vd_partition_source *source,
          struct vd_partition_table *table)
{
    uint8_t mbr[VD_MBR_SIZE];
    bool protective = false;
    vd_error error = vd_partition_source_read(source, 0, mbr, sizeof(mbr));
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (mbr[MBR_SIGNATURE_AT] != 0x55 || mbr[MBR_SIGNATURE_AT + 1] != 0xAA) {
        return ERROR_SUCCESS;
    }
    error = vd_mbr_read(source, mbr, table, &protective);
    if (error == ERROR_SUCCESS && protective) {
        error = vd_gpt_read(source, table);
    }
    return error;
}

vd_error
vd_partition_scan(const struct vd_partition_source *source,
                  struct vd_partition_table *out)
{
    VD_AUTO_FREE struct vd_partition_table *table = calloc(1, sizeof(*table));
    if (table == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    vd_error error = ERROR_SUCCESS;
    if (source->size_bytes >= source->sector_size) {
        error = scan_into(source, table);
    }
    if (error == ERROR_SUCCESS) {
        *out = *table;
    }
    return error;
}

static vd_error
read_disk(void *context, void *buffer, size_t length, uint64_t offset)
{
    return vd_disk_read(context, buffer, length, offset);
}

struct vd_partition_source
vd_partition_source_of(struct vd_disk *disk)
{
    return (struct vd_partition_source){
        .read = read_disk,
        .context = disk,
        .size_bytes = vd_disk_size_bytes(disk),
        .sector_size = vd_disk_sector_size(disk),
    };
}

vd_error
vd_partition_table_read(struct vd_disk *disk, struct vd_partition_table *out)
{
    if (vd_disk_optical(disk)) {
        /* The table of a hybrid image counts other sectors than a disc's. */
        memset(out, 0, sizeof(*out));
        return ERROR_SUCCESS;
    }
    struct vd_partition_source source = vd_partition_source_of(disk);
    return vd_partition_scan(&source, out);
}
