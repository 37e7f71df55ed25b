/*
 * The header of a GUID partition table (UEFI 2.10, 5.3.2), as its reader
 * (partition_gpt.c) and the one that moves its copy (gpt_backup.c) see it.
 */
#ifndef VD_DISK_GPT_H
#define VD_DISK_GPT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "disk/partition_scan.h"

#define VD_GPT_PRIMARY_AT 1 /* sector */
#define VD_GPT_MAX_SECTOR_SIZE 4096

/* Offsets of what is changed when a copy moves. */
enum vd_gpt_field {
    VD_GPT_CRC = 16,
    VD_GPT_MY_SECTOR = 24,
    VD_GPT_ALTERNATE_SECTOR = 32,
    VD_GPT_LAST_USABLE = 48,
    VD_GPT_ENTRIES_SECTOR = 72,
};

struct vd_gpt_header {
    uint64_t my_sector;
    uint64_t alternate_sector;
    uint64_t first_usable;
    uint64_t last_usable;
    uint64_t entries_sector;
    uint32_t entry_count;
    uint32_t entry_size;
    uint32_t entries_crc;
};

/* Reads and checks the header in a sector; raw, of VD_GPT_MAX_SECTOR_SIZE,
 * gets the sector.  *out is to be used only if *valid. */
VD_MUST_CHECK
vd_error vd_gpt_read_header(const struct vd_partition_source *source,
                            uint64_t at, uint8_t *raw, bool *valid,
                            struct vd_gpt_header *out);

/* The entries in whole sectors, free them; *out is set only if *valid. */
VD_MUST_CHECK
vd_error vd_gpt_read_entries(const struct vd_partition_source *source,
                             const struct vd_gpt_header *header, bool *valid,
                             uint8_t **out);

/* How many sectors the entries take. */
uint64_t vd_gpt_entries_sectors(const struct vd_partition_source *source,
                                const struct vd_gpt_header *header);

/* Puts the checksum of a valid header right that has been changed. */
void vd_gpt_seal(uint8_t *raw);

#endif
