/*
 * The GUID partition table (UEFI 2.10, 5.3): a header in sector 1 and a copy
 * in the last sector, each with an array of entries, all under CRC-32.
 *
 * The copy is used where the first header or its entries are damaged.  A
 * protective MBR without a valid header is a disk without a table: nobody
 * knows what is on it.  Repairs nothing.
 */
#include "disk/partition_scan.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/crc32.h"
#include "base/guid.h"
#include "base/trace.h"

#define PRIMARY_AT 1 /* sector */
#define HEADER_MIN_SIZE 92
#define ENTRY_MIN_SIZE 128
#define MAX_ENTRIES_SIZE (1u << 20) /* 64 times the usual array */
#define MAX_SECTOR_SIZE 4096

enum header_field {
    HEADER_SIGNATURE = 0,
    HEADER_SIZE = 12,
    HEADER_CRC = 16,
    HEADER_MY_SECTOR = 24,
    HEADER_ALTERNATE_SECTOR = 32,
    HEADER_FIRST_USABLE = 40,
    HEADER_LAST_USABLE = 48,
    HEADER_ENTRIES_SECTOR = 72,
    HEADER_ENTRY_COUNT = 80,
    HEADER_ENTRY_SIZE = 84,
    HEADER_ENTRIES_CRC = 88,
};

enum entry_field {
    ENTRY_TYPE = 0,
    ENTRY_FIRST = 32,
    ENTRY_LAST = 40,
};

struct gpt_header {
    uint64_t my_sector;
    uint64_t alternate_sector;
    uint64_t first_usable;
    uint64_t last_usable;
    uint64_t entries_sector;
    uint32_t entry_count;
    uint32_t entry_size;
    uint32_t entries_crc;
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
    uint32_t crc = vd_crc32(VD_CRC32_START, raw, HEADER_CRC);
    crc = vd_crc32(crc, zeros, sizeof(zeros));
    return vd_crc32(crc, raw + HEADER_CRC + sizeof(zeros),
                    size - HEADER_CRC - sizeof(zeros));
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
    return header_crc(raw, size) == vd_get_le32(raw + HEADER_CRC);
}

static struct gpt_header
decode_header(const uint8_t *raw)
{
    return (struct gpt_header){
        .my_sector = vd_get_le64(raw + HEADER_MY_SECTOR),
        .alternate_sector = vd_get_le64(raw + HEADER_ALTERNATE_SECTOR),
        .first_usable = vd_get_le64(raw + HEADER_FIRST_USABLE),
        .last_usable = vd_get_le64(raw + HEADER_LAST_USABLE),
        .entries_sector = vd_get_le64(raw + HEADER_ENTRIES_SECTOR),
        .entry_count = vd_get_le32(raw + HEADER_ENTRY_COUNT),
        .entry_size = vd_get_le32(raw + HEADER_ENTRY_SIZE),
        .entries_crc = vd_get_le32(raw + HEADER_ENTRIES_CRC),
    };
}

static uint64_t
entries_size(const struct gpt_header *header)
{
    return (uint64_t)header->entry_count * header->entry_size;
}

static bool
is_plausible(const struct gpt_header *header, uint64_t at, uint64_t sectors)
{
    return header->my_sector == at && header->first_usable > PRIMARY_AT &&
           header->first_usable <= header->last_usable &&
           header->last_usable < sectors && header->entries_sector > 0 &&
           header->entry_size >= ENTRY_MIN_SIZE &&
           vd_is_power_of_two(header->entry_size) && header->entry_count > 0 &&
           entries_size(header) <= MAX_ENTRIES_SIZE;
}

static vd_error
read_header(const struct vd_partition_source *source, uint64_t at, bool *valid,
            struct gpt_header *out)
{
    uint8_t raw[MAX_SECTOR_SIZE];
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
static vd_error
read_entries(const struct vd_partition_source *source,
             const struct gpt_header *header, bool *valid, uint8_t **out)
{
    size_t size = (size_t)entries_size(header); /* at most 1 MiB */
    VD_AUTO_FREE uint8_t *entries = malloc(size);
    if (entries == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    vd_error error = vd_partition_source_read(source, header->entries_sector,
                                              entries, size);
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

static void
add_entry(const struct vd_partition_source *source,
          const struct gpt_header *header, uint32_t number, const uint8_t *raw,
          struct vd_partition_table *table)
{
    struct vd_guid type;
    memcpy(type.bytes, raw + ENTRY_TYPE, VD_GUID_SIZE);
    if (vd_guid_is_zero(&type)) {
        return;
    }
    uint64_t first = vd_get_le64(raw + ENTRY_FIRST);
    uint64_t last = vd_get_le64(raw + ENTRY_LAST);
    if (first > last || first < header->first_usable ||
        last > header->last_usable) {
        vd_trace(VD_TRACE_DISK,
                 "partition %u is skipped: outside the usable sectors",
                 number);
        return;
    }
    struct vd_sector_range range = {first, last - first + 1};
    vd_partition_add(table, source, number, range, is_data(&type));
}

/* The two headers, of which one may lie where there is no disk any more. */
static void
extend_over_headers(const struct vd_partition_source *source,
                    const struct gpt_header *header,
                    struct vd_partition_table *table)
{
    uint64_t ends[] = {PRIMARY_AT, header->my_sector, header->alternate_sector,
                       header->last_usable};
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        if (ends[i] < vd_partition_source_sectors(source)) {
            vd_partition_extend(table, source,
                                (struct vd_sector_range){ends[i], 1});
        }
    }
}

static vd_error
read_copy(const struct vd_partition_source *source, uint64_t at, bool *valid,
          struct vd_partition_table *out)
{
    struct gpt_header header;
    VD_AUTO_FREE uint8_t *entries = NULL;
    vd_error error = read_header(source, at, valid, &header);
    if (error != ERROR_SUCCESS || !*valid) {
        return error;
    }
    error = read_entries(source, &header, valid, &entries);
    if (error != ERROR_SUCCESS || !*valid) {
        return error;
    }
    out->scheme = VD_PARTITION_GPT;
    extend_over_headers(source, &header, out);
    for (uint32_t i = 0; i < header.entry_count; i++) {
        add_entry(source, &header, i + 1,
                  entries + (size_t)i * header.entry_size, out);
    }
    return ERROR_SUCCESS;
}

vd_error
vd_gpt_read(const struct vd_partition_source *source,
            struct vd_partition_table *out)
{
    bool valid;
    uint64_t sectors = vd_partition_source_sectors(source);
    if (sectors <= PRIMARY_AT || source->sector_size > MAX_SECTOR_SIZE) {
        return ERROR_SUCCESS;
    }
    vd_error error = read_copy(source, PRIMARY_AT, &valid, out);
    if (error == ERROR_SUCCESS && !valid) {
        error = read_copy(source, sectors - 1, &valid, out);
    }
    return error;
}
