/*
 * The MBR partition table: four entries in the first sector, and a chain of
 * such tables inside an extended partition, each holding one logical
 * partition and the place of the next.
 *
 * Sector numbers count logical sectors of the disk, whatever their size.
 * The first sector of a file system ends in the same two bytes, so the
 * entries have to make sense before there is a table at all.
 */
#include "disk/partition_scan.h"

#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/trace.h"

#define ENTRIES_AT 446
#define ENTRY_SIZE 16
#define ENTRY_COUNT 4
#define SIGNATURE_AT 510
#define FIRST_LOGICAL 5

/* More tables than this cannot be meant: there are no more numbers. */
#define MAX_CHAIN VD_PARTITION_MAX

/* How much of an extended partition Linux shows: enough for a boot loader,
 * too little to make a file system over the logical ones by mistake. */
#define EXTENDED_SHOWN_SECTORS 2

enum entry_field {
    ENTRY_BOOT = 0,
    ENTRY_TYPE = 4,
    ENTRY_FIRST = 8,
    ENTRY_SECTORS = 12,
};

enum mbr_type {
    TYPE_EMPTY = 0x00,
    TYPE_EXTENDED = 0x05,
    TYPE_EXTENDED_LBA = 0x0F,
    TYPE_WINDOWS_RECOVERY = 0x27,
    TYPE_EXTENDED_LINUX = 0x85,
    TYPE_GPT_PROTECTIVE = 0xEE,
    TYPE_EFI_SYSTEM = 0xEF,
};

struct mbr_entry {
    uint8_t boot;
    uint8_t type;
    struct vd_sector_range range;
};

static struct mbr_entry
decode_entry(const uint8_t *sector, unsigned index)
{
    const uint8_t *raw = sector + ENTRIES_AT + index * ENTRY_SIZE;
    return (struct mbr_entry){
        .boot = raw[ENTRY_BOOT],
        .type = raw[ENTRY_TYPE],
        .range =
            {
                .first = vd_get_le32(raw + ENTRY_FIRST),
                .count = vd_get_le32(raw + ENTRY_SECTORS),
            },
    };
}

static bool
is_empty(const struct mbr_entry *entry)
{
    return entry->type == TYPE_EMPTY || entry->range.count == 0;
}

static bool
is_extended(const struct mbr_entry *entry)
{
    return entry->type == TYPE_EXTENDED || entry->type == TYPE_EXTENDED_LBA ||
           entry->type == TYPE_EXTENDED_LINUX;
}

static bool
is_data(const struct mbr_entry *entry)
{
    return entry->type != TYPE_WINDOWS_RECOVERY &&
           entry->type != TYPE_GPT_PROTECTIVE &&
           entry->type != TYPE_EFI_SYSTEM && !is_extended(entry);
}

/* The first sector of FAT, exFAT or NTFS: a jump over its parameters, then
 * either a name or a plausible media descriptor and sector size. */
static bool
is_file_system_boot_sector(const uint8_t *sector)
{
    if (sector[0] != 0xE9 && !(sector[0] == 0xEB && sector[2] == 0x90)) {
        return false;
    }
    if (memcmp(sector + 3, "NTFS    ", 8) == 0 ||
        memcmp(sector + 3, "EXFAT   ", 8) == 0) {
        return true;
    }
    uint16_t bytes_per_sector = vd_get_le16(sector + 11);
    uint8_t fat_count = sector[16];
    uint8_t media = sector[21];
    return bytes_per_sector >= 512 && vd_is_power_of_two(bytes_per_sector) &&
           fat_count >= 1 && fat_count <= 2 &&
           (media == 0xF0 || media >= 0xF8);
}

/* Whether the entries are a table: each is marked bootable or not, and those
 * of a sector that may be a file system's lie on the disk. */
static bool
is_table(const struct vd_partition_source *source, const uint8_t *sector)
{
    bool suspect = is_file_system_boot_sector(sector);
    bool any = false;
    for (unsigned i = 0; i < ENTRY_COUNT; i++) {
        struct mbr_entry entry = decode_entry(sector, i);
        if (entry.boot != 0x00 && entry.boot != 0x80) {
            return false;
        }
        if (is_empty(&entry)) {
            continue;
        }
        any = true;
        if (suspect &&
            (entry.range.first == 0 ||
             !vd_range_within(entry.range.first, entry.range.count,
                              vd_partition_source_sectors(source)))) {
            return false;
        }
    }
    return any || !suspect;
}

static bool
has_protective_entry(const uint8_t *sector)
{
    for (unsigned i = 0; i < ENTRY_COUNT; i++) {
        if (decode_entry(sector, i).type == TYPE_GPT_PROTECTIVE) {
            return true;
        }
    }
    return false;
}

/* An extended partition while its chain is followed. */
struct chain {
    const struct vd_partition_source *source;
    struct vd_partition_table *table;
    struct vd_sector_range extended; /* inside the disk */
    uint64_t table_at;               /* sector of the table being read */
    uint64_t next_at;                /* of the next one, 0 if none */
    uint32_t number;                 /* of the next logical partition */
    size_t visited_count;
    uint64_t visited[MAX_CHAIN]; /* sectors of the tables read so far */
};

/* A logical partition counts from its own table. */
static void
add_logical(struct chain *chain, const struct mbr_entry *entry)
{
    struct vd_sector_range range = {
        /* Sums of two 32-bit numbers. */
        .first = chain->table_at + entry->range.first,
        .count = entry->range.count,
    };
    uint64_t into = range.first - chain->extended.first;
    if (entry->range.first == 0 ||
        !vd_range_within(into, range.count, chain->extended.count)) {
        vd_trace(VD_TRACE_DISK,
                 "a logical partition outside the extended one is skipped");
        return;
    }
    if (vd_partition_add(chain->table, chain->source, chain->number, range,
                         is_data(entry))) {
        chain->number++;
    }
}

static bool
is_visited(const struct chain *chain, uint64_t sector)
{
    for (size_t i = 0; i < chain->visited_count; i++) {
        if (chain->visited[i] == sector) {
            return true;
        }
    }
    return false;
}

/* The next table counts from the start of the extended partition.  It may
 * lie before this one, where partitions were made out of order. */
static void
note_next(struct chain *chain, const struct mbr_entry *entry)
{
    uint64_t next = chain->extended.first + entry->range.first;
    if (entry->range.first >= chain->extended.count ||
        is_visited(chain, next)) {
        vd_trace(VD_TRACE_DISK,
                 "the chain of logical partitions leads astray");
        return;
    }
    chain->next_at = next;
}

static void
take_entry(struct chain *chain, const struct mbr_entry *entry)
{
    if (is_empty(entry)) {
        return;
    }
    if (is_extended(entry)) {
        if (chain->next_at == 0) {
            note_next(chain, entry);
        }
        return;
    }
    add_logical(chain, entry);
}

static vd_error
read_chain_table(struct chain *chain)
{
    uint8_t sector[VD_MBR_SIZE];
    vd_error error = vd_partition_source_read(chain->source, chain->table_at,
                                              sector, sizeof(sector));
    if (error != ERROR_SUCCESS) {
        return error;
    }
    chain->next_at = 0;
    if (sector[SIGNATURE_AT] != 0x55 || sector[SIGNATURE_AT + 1] != 0xAA) {
        vd_trace(VD_TRACE_DISK,
                 "the chain of logical partitions breaks at sector %llu",
                 (unsigned long long)chain->table_at);
        return ERROR_SUCCESS;
    }
    for (unsigned i = 0; i < ENTRY_COUNT; i++) {
        struct mbr_entry entry = decode_entry(sector, i);
        take_entry(chain, &entry);
    }
    return ERROR_SUCCESS;
}

static vd_error
read_chain(struct chain *chain)
{
    while (chain->visited_count < MAX_CHAIN) {
        chain->visited[chain->visited_count++] = chain->table_at;
        vd_error error = read_chain_table(chain);
        if (error != ERROR_SUCCESS || chain->next_at == 0) {
            return error;
        }
        chain->table_at = chain->next_at;
    }
    vd_trace(VD_TRACE_DISK, "too many logical partitions");
    return ERROR_SUCCESS;
}

/* The extended partition itself is listed only up to its first logical one,
 * so that the partitions of the list never overlap. */
static void
add_extended(struct vd_partition_table *table,
             const struct vd_partition_source *source, uint32_t number,
             struct vd_sector_range extended)
{
    uint64_t start = extended.first * source->sector_size;
    struct vd_sector_range shown = extended;
    if (shown.count > EXTENDED_SHOWN_SECTORS) {
        shown.count = EXTENDED_SHOWN_SECTORS;
    }
    for (size_t i = 0; i < table->count; i++) {
        uint64_t offset = table->partitions[i].offset_bytes;
        uint64_t gap = (offset - start) / source->sector_size;
        if (offset > start && gap < shown.count) {
            shown.count = gap;
        }
    }
    if (vd_partition_add(table, source, number, shown, false)) {
        vd_partition_extend(table, source, extended);
    }
}

static vd_error
read_extended(const struct vd_partition_source *source,
              struct vd_partition_table *table, uint32_t number,
              struct vd_sector_range extended)
{
    if (extended.first == 0 ||
        !vd_range_within(extended.first, extended.count,
                         vd_partition_source_sectors(source))) {
        vd_trace(VD_TRACE_DISK,
                 "extended partition %u does not lie inside the disk", number);
        vd_partition_skip(table, source, extended);
        return ERROR_SUCCESS;
    }
    struct chain chain = {
        .source = source,
        .table = table,
        .extended = extended,
        .table_at = extended.first,
        .number = FIRST_LOGICAL,
    };
    vd_error error = read_chain(&chain);
    if (error == ERROR_SUCCESS) {
        add_extended(table, source, number, extended);
    }
    return error;
}

static void
add_primary(const struct vd_partition_source *source, const uint8_t *mbr,
            struct vd_partition_table *table)
{
    for (unsigned i = 0; i < ENTRY_COUNT; i++) {
        struct mbr_entry entry = decode_entry(mbr, i);
        if (is_empty(&entry) || is_extended(&entry)) {
            continue;
        }
        if (entry.range.first == 0) {
            vd_trace(VD_TRACE_DISK, "partition %u starts at the table", i + 1);
            vd_partition_skip(table, source, entry.range);
            continue;
        }
        vd_partition_add(table, source, i + 1, entry.range, is_data(&entry));
    }
}

/* Only the first extended partition counts: there is one series of numbers
 * for logical ones. */
static vd_error
add_first_extended(const struct vd_partition_source *source,
                   const uint8_t *mbr, struct vd_partition_table *table)
{
    for (unsigned i = 0; i < ENTRY_COUNT; i++) {
        struct mbr_entry entry = decode_entry(mbr, i);
        if (!is_empty(&entry) && is_extended(&entry)) {
            return read_extended(source, table, i + 1, entry.range);
        }
    }
    return ERROR_SUCCESS;
}

vd_error
vd_mbr_read(const struct vd_partition_source *source, const uint8_t *mbr,
            struct vd_partition_table *out, bool *protective)
{
    if (!is_table(source, mbr)) {
        vd_trace(VD_TRACE_DISK, "a boot sector, but no partition table");
        return ERROR_SUCCESS;
    }
    if (has_protective_entry(mbr)) {
        *protective = true;
        return ERROR_SUCCESS;
    }
    out->scheme = VD_PARTITION_MBR;
    vd_partition_extend(out, source, (struct vd_sector_range){0, 1});
    add_primary(source, mbr, out);
    return add_first_extended(source, mbr, out);
}
