/*
 * Moving the backup of a GUID partition table.  See gpt_backup.h.
 *
 * The order is what keeps the table: the copy is durable in its new place
 * before the first header names that, and the first header, one sector, is
 * durable before the protective MBR follows.  The old copy may be overwritten
 * by the new one; it is not needed while the first one is whole.
 */
#include "disk/gpt_backup.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/trace.h"
#include "disk/gpt.h"
#include "disk/partition_table.h"

#define MBR_ENTRIES_AT 446
#define MBR_ENTRY_SIZE 16
#define MBR_ENTRY_COUNT 4
#define MBR_TYPE_PROTECTIVE 0xEE

enum mbr_entry_field {
    MBR_TYPE = 4,
    MBR_FIRST = 8,
    MBR_COUNT = 12,
};

struct move {
    const struct vd_gpt_medium *medium;
    struct vd_partition_source source; /* of it */
    uint64_t last;                     /* sector, of the new size */
    uint64_t entries_at;               /* sector, of the copy */
    struct vd_gpt_header header;
    uint8_t raw[VD_GPT_MAX_SECTOR_SIZE]; /* the first header */
    uint8_t *entries;                    /* owned */
};

static vd_error
write_sectors(const struct move *move, const void *buffer, uint64_t count,
              uint64_t sector)
{
    uint64_t size = move->source.sector_size;
    return move->medium->write(move->source.context, buffer,
                               (size_t)(count * size), sector * size);
}

static vd_error
flush(const struct move *move)
{
    return move->medium->flush(move->source.context);
}

static vd_error
write_backup(const struct move *move)
{
    uint8_t raw[VD_GPT_MAX_SECTOR_SIZE];
    memcpy(raw, move->raw, sizeof(raw));
    vd_put_le64(raw + VD_GPT_MY_SECTOR, move->last);
    vd_put_le64(raw + VD_GPT_ALTERNATE_SECTOR, VD_GPT_PRIMARY_AT);
    vd_put_le64(raw + VD_GPT_LAST_USABLE, move->entries_at - 1);
    vd_put_le64(raw + VD_GPT_ENTRIES_SECTOR, move->entries_at);
    vd_gpt_seal(raw);
    vd_error error =
        write_sectors(move, move->entries,
                      vd_gpt_entries_sectors(&move->source, &move->header),
                      move->entries_at);
    if (error == ERROR_SUCCESS) {
        error = write_sectors(move, raw, 1, move->last);
    }
    return error != ERROR_SUCCESS ? error : flush(move);
}

static vd_error
write_primary(const struct move *move)
{
    uint8_t raw[VD_GPT_MAX_SECTOR_SIZE];
    memcpy(raw, move->raw, sizeof(raw));
    vd_put_le64(raw + VD_GPT_ALTERNATE_SECTOR, move->last);
    vd_put_le64(raw + VD_GPT_LAST_USABLE, move->entries_at - 1);
    vd_gpt_seal(raw);
    vd_error error = write_sectors(move, raw, 1, VD_GPT_PRIMARY_AT);
    return error != ERROR_SUCCESS ? error : flush(move);
}

/* Makes the entry that protects the whole disk end with it. */
static bool
shorten_protection(uint8_t *entry, uint64_t last)
{
    uint64_t first = vd_get_le32(entry + MBR_FIRST);
    uint64_t count = vd_get_le32(entry + MBR_COUNT);
    if (entry[MBR_TYPE] != MBR_TYPE_PROTECTIVE || first > last ||
        count <= last - first + 1) {
        return false;
    }
    vd_put_le32(entry + MBR_COUNT, (uint32_t)(last - first + 1));
    return true;
}

static vd_error
write_protective_mbr(const struct move *move)
{
    uint8_t mbr[VD_GPT_MAX_SECTOR_SIZE];
    bool changed = false;
    vd_error error = vd_partition_source_read(&move->source, 0, mbr,
                                              move->source.sector_size);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    for (size_t i = 0; i < MBR_ENTRY_COUNT; i++) {
        uint8_t *entry = mbr + MBR_ENTRIES_AT + i * MBR_ENTRY_SIZE;
        changed = shorten_protection(entry, move->last) || changed;
    }
    if (!changed) {
        return ERROR_SUCCESS;
    }
    error = write_sectors(move, mbr, 1, 0);
    return error != ERROR_SUCCESS ? error : flush(move);
}

/* The first header and its entries, of which the copy is made. */
static vd_error
read_primary(struct move *move)
{
    bool valid = false;
    vd_error error = vd_gpt_read_header(&move->source, VD_GPT_PRIMARY_AT,
                                        move->raw, &valid, &move->header);
    if (error == ERROR_SUCCESS && valid) {
        error = vd_gpt_read_entries(&move->source, &move->header, &valid,
                                    &move->entries);
    }
    if (error == ERROR_SUCCESS && !valid) {
        vd_trace(VD_TRACE_DISK, "the first copy of the GPT is damaged");
        error = ERROR_VHD_COULD_NOT_COMPUTE_MINIMUM_VIRTUAL_SIZE;
    }
    return error;
}

static vd_error
write_all(struct move *move, uint64_t sectors)
{
    move->last = sectors - 1;
    move->entries_at =
        move->last - vd_gpt_entries_sectors(&move->source, &move->header);
    vd_error error = ERROR_SUCCESS;
    /* Else there was a power cut after the move. */
    if (move->header.alternate_sector != move->last) {
        error = write_backup(move);
        if (error == ERROR_SUCCESS) {
            error = write_primary(move);
        }
    }
    return error != ERROR_SUCCESS ? error : write_protective_mbr(move);
}

static vd_error
is_gpt(const struct vd_partition_source *source, bool *gpt_out)
{
    VD_AUTO_FREE struct vd_partition_table *table = malloc(sizeof(*table));
    if (table == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    vd_error error = vd_partition_scan(source, table);
    if (error == ERROR_SUCCESS) {
        *gpt_out = table->scheme == VD_PARTITION_GPT;
    }
    return error;
}

vd_error
vd_gpt_move_backup_on(const struct vd_gpt_medium *medium, uint64_t size_bytes)
{
    struct move move = {.medium = medium, .source = medium->source};
    bool gpt;
    vd_error error = is_gpt(&move.source, &gpt);
    if (error != ERROR_SUCCESS || !gpt) {
        return error;
    }
    error = read_primary(&move);
    if (error == ERROR_SUCCESS) {
        error = write_all(&move, size_bytes / move.source.sector_size);
    }
    free(move.entries);
    return error;
}

static vd_error
write_disk(void *context, const void *buffer, size_t length, uint64_t offset)
{
    return vd_disk_write(context, buffer, length, offset);
}

static vd_error
flush_disk(void *context)
{
    return vd_disk_flush(context);
}

vd_error
vd_gpt_move_backup(struct vd_disk *disk, uint64_t size_bytes)
{
    struct vd_gpt_medium medium = {
        .source = vd_partition_source_of(disk),
        .write = write_disk,
        .flush = flush_disk,
    };
    return vd_gpt_move_backup_on(&medium, size_bytes);
}
