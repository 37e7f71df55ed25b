/*
 * The GUID partition table (UEFI 2.10, 5.3): a header in sector 1 and a copy
 * in the last sector, each with an array of entries, all under CRC-32.
 *
 * The copy is used where the first header or its entries are damaged.  A
 * protective MBR without a valid header is a disk without a table: nobody
 * knows what is on it.  Repairs nothing.
 */
#include "disk/gpt.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/crc32.h"
#include "base/guid.h"
#include "base/trace.h"

#define HEADER_MIN_SIZE 92
#define ENTRY_MIN_SIZE 128
#define MAX_ENTRIES_SIZE (1u << 20) /* 64 times the usual array */

/* The other fields are in gpt.h. */
enum header_field {
    HEADER_SIGNATURE = 0,
    HEADER_SIZE = 12,
    HEADER_FIRST_USABLE = 40,
    HEADER_ENTRY_COUNT = 80,
    HEADER_ENTRY_SIZE = 84,
    HEADER_ENTRIES_CRC = 88,
};

enum entry_field {
    ENTRY_TYPE = 0,
    ENTRY_FIRST = 32,
    ENTRY_LAST = 40,
};

/* Partitions that hold no user's file system, by type: Linux and Windows
 * mount none of them by themselves. */
static const struct vd_guid not_data_types[] = {
    {{0x28, 0x73, 0x2A, 0xC1, 0x1F, 0xF8, 0xD2, 0x11, /* EFI system */
      0xBA, 0x4B, 0x00, 0xA0, 0xC9, 0x3E, 0xC9, 0x3B}},
    {{0x16, 0xE3, 0xC9, 0xE3, 0x5C, 0x0B, 0xB8, 0x4D, /* MS reserved */
      0x81, 0x7D, 0xF9, 0x2D, 0xF0, 0x02, 0x15, 0xAE}},
    {{0xA4, 0xBB, 0x94, 0xDE, 0xD1, 0x06, 0x40, 0x4D, /* MS recovery */
      0xA1, 0x6A, 0xBF, 0xD5, 0x01, 0x79, 0xD6, 0xAC}},
    {{0x48, 0x61, 0x68, 0x21, 0x49, 0x64, 0x6F, 0x6E, /* BIOS boot */
      0x74, 0x4E, 0x65, 0x65, 0x64, 0x45, 0x46, 0x49}},
};

static bool
is_data(const struct vd_guid *type)
{
    size_t count = sizeof(not_data_types) / sizeof(not_data_types[0]);
    for (size_t i = 0; i < count; i++) {
        if (vd_guid_equal(type, &not_data_types[i])) {
            return false;
        }
    }
    return true;
}

/* The checksum covers the header with its own field as zeros. */
static uint32_t
header_crc(const uint8_t *raw, uint32_t size)
{
    static const uint8_t zeros[sizeof(uint32_t)];
    uint32_t crc = vd_crc32(VD_CRC32_START, raw, VD_GPT_CRC);
    crc = vd_crc32(crc, zeros, sizeof(zeros));
    return vd_crc32(crc, raw + VD_GPT_CRC + sizeof(zeros),
                    size - VD_GPT_CRC - sizeof(zeros));
}

static bool
is_intact(const uint8_t *raw, uint32_t sector_size)
{
    if (memcmp(raw + HEADER_SIGNATURE, "EFI PART", 8) != 0) {
        return false;
    }
    uint32_t size = vd_get_le32(raw + HEADER_SIZE);
    if (size < HEADER_MIN_SIZE || size > sector_size) {
        return false;
    }
    return header_crc(raw, size) == vd_get_le32(raw + VD_GPT_CRC);
}

static struct vd_gpt_header
decode_header(const uint8_t *raw)
{
    return (struct vd_gpt_header){
        .my_sector = vd_get_le64(raw + VD_GPT_MY_SECTOR),
        .alternate_sector = vd_get_le64(raw + VD_GPT_ALTERNATE_SECTOR),
        .first_usable = vd_get_le64(raw + HEADER_FIRST_USABLE),
        .last_usable = vd_get_le64(raw + VD_GPT_LAST_USABLE),
        .entries_sector = vd_get_le64(raw + VD_GPT_ENTRIES_SECTOR),
        .entry_count = vd_get_le32(raw + HEADER_ENTRY_COUNT),
        .entry_size = vd_get_le32(raw + HEADER_ENTRY_SIZE),
        .entries_crc = vd_get_le32(raw + HEADER_ENTRIES_CRC),
    };
}

static uint64_t
entries_size(const struct vd_gpt_header *header)
{
    return (uint64_t)header->entry_count * header->entry_size;
}

uint64_t
vd_gpt_entries_sectors(const struct vd_partition_source *source,
                       const struct vd_gpt_header *header)
{
    return (entries_size(header) + source->sector_size - 1) /
           source->sector_size;
}

static bool
is_plausible(const struct vd_gpt_header *header, uint64_t at, uint64_t sectors)
{
    return header->my_sector == at &&
           header->first_usable > VD_GPT_PRIMARY_AT &&
           header->first_usable <= header->last_usable &&
           header->last_usable < sectors && header->entries_sector > 0 &&
           header->entry_size >= ENTRY_MIN_SIZE &&
           vd_is_power_of_two(header->entry_size) && header->entry_count > 0 &&
           entries_size(header) <= MAX_ENTRIES_SIZE;
}

vd_error
vd_gpt_read_header(const struct vd_partition_source *source, uint64_t at,
                   uint8_t *raw, bool *valid, struct vd_gpt_header *out)
{
    vd_error error =
        vd_partition_source_read(source, at, raw, source->sector_size);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    *out = decode_header(raw);
    *valid = is_intact(raw, source->sector_size) &&
             is_plausible(out, at, vd_partition_source_sectors(source));
    if (!*valid) {
        vd_trace(VD_TRACE_DISK, "no valid GPT header in sector %llu",
                 (unsigned long long)at);
    }
    return ERROR_SUCCESS;
}

/* Entries that do not lie inside the disk are as bad as damaged ones. */
vd_error
vd_gpt_read_entries(const struct vd_partition_source *source,
                    const struct vd_gpt_header *header, bool *valid,
                    uint8_t **out)
{
    size_t size = (size_t)entries_size(header); /* at most 1 MiB */
    size_t sectors = (size_t)vd_gpt_entries_sectors(source, header);
    VD_AUTO_FREE uint8_t *entries = calloc(sectors, source->sector_size);
    if (entries == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    vd_error error =
        vd_partition_source_read(source, header->entries_sector, entries,
                                 sectors * source->sector_size);
    if (error != ERROR_SUCCESS && error != ERROR_HANDLE_EOF) {
        return error;
    }
    *valid = error == ERROR_SUCCESS &&
             vd_crc32(VD_CRC32_START, entries, size) == header->entries_crc;
    if (!*valid) {
        vd_trace(VD_TRACE_DISK, "damaged GPT entries in sector %llu",
                 (unsigned long long)header->entries_sector);
        return ERROR_SUCCESS;
    }
    *out = VD_TAKE(entries);
    return ERROR_SUCCESS;
}

void
vd_gpt_seal(uint8_t *raw)
{
    vd_put_le32(raw + VD_GPT_CRC,
                header_crc(raw, vd_get_le32(raw + HEADER_SIZE)));
}

static void
add_entry(const struct vd_partition_source *source,
          const struct vd_gpt_header *header, uint32_t number,
          const uint8_t *raw, struct vd_partition_table *table)
{
    struct vd_guid type;
    memcpy(type.bytes, raw + ENTRY_TYPE, VD_GUID_SIZE);
    if (vd_guid_is_zero(&type)) {
        return;
    }
    uint64_t first = vd_get_le64(raw + ENTRY_FIRST);
    uint64_t last = vd_get_le64(raw + ENTRY_LAST);
    struct vd_sector_range range = {first, last - first + 1};
    if (first > last || first < header->first_usable ||
        last > header->last_usable) {
        vd_trace(VD_TRACE_DISK,
                 "partition %u is skipped: outside the usable sectors",
                 number);
        if (first <= last) {
            vd_partition_skip(table, source, range);
        }
        return;
    }
    vd_partition_add(table, source, number, range, is_data(&type));
}

/* What must stay besides the partitions: the header, the entries, and one
 * usable sector.  All of it lies inside the disk. */
static void
extend_over_table(const struct vd_partition_source *source,
                  const struct vd_gpt_header *header,
                  struct vd_partition_table *table)
{
    uint64_t entries = vd_gpt_entries_sectors(source, header);
    struct vd_sector_range parts[] = {
        {VD_GPT_PRIMARY_AT, 1},
        {header->entries_sector, entries},
        {header->first_usable, 1},
    };
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        vd_partition_extend(table, source, parts[i]);
    }
}

/* Room for the copy, which can be moved there (gpt_backup.h).  A disk that
 * has only the copy left stays as large as it is. */
static void
extend_over_backup(const struct vd_partition_source *source,
                   const struct vd_gpt_header *header,
                   struct vd_partition_table *table)
{
    uint64_t sectors = vd_partition_source_sectors(source);
    uint64_t used = table->end_bytes / source->sector_size;
    uint64_t room = vd_gpt_entries_sectors(source, header) + 1;
    uint64_t end = room < sectors - used ? used + room : sectors;
    if (header->my_sector != VD_GPT_PRIMARY_AT) {
        end = sectors;
    }
    vd_partition_extend(table, source, (struct vd_sector_range){end - 1, 1});
}

static vd_error
read_copy(const struct vd_partition_source *source, uint64_t at, bool *valid,
          struct vd_partition_table *out)
{
    uint8_t raw[VD_GPT_MAX_SECTOR_SIZE];
    struct vd_gpt_header header;
    VD_AUTO_FREE uint8_t *entries = NULL;
    vd_error error = vd_gpt_read_header(source, at, raw, valid, &header);
    if (error != ERROR_SUCCESS || !*valid) {
        return error;
    }
    error = vd_gpt_read_entries(source, &header, valid, &entries);
    if (error != ERROR_SUCCESS || !*valid) {
        return error;
    }
    out->scheme = VD_PARTITION_GPT;
    extend_over_table(source, &header, out);
    for (uint32_t i = 0; i < header.entry_count; i++) {
        add_entry(source, &header, i + 1,
                  entries + (size_t)i * header.entry_size, out);
    }
    extend_over_backup(source, &header, out);
    return ERROR_SUCCESS;
}

vd_error
vd_gpt_read(const struct vd_partition_source *source,
            struct vd_partition_table *out)
{
    bool valid;
    uint64_t sectors = vd_partition_source_sectors(source);
    if (sectors <= VD_GPT_PRIMARY_AT ||
        source->sector_size > VD_GPT_MAX_SECTOR_SIZE) {
        return ERROR_SUCCESS;
    }
    vd_error error = read_copy(source, VD_GPT_PRIMARY_AT, &valid, out);
    if (error == ERROR_SUCCESS && !valid) {
        error = read_copy(source, sectors - 1, &valid, out);
    }
    return error;
}
