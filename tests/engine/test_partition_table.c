/*
 * Partition tables: MBR with logical partitions, GPT with either copy, and
 * hostile ones.  The tables are written here field by field; test_engine.py
 * compares with sfdisk's.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "disk/partition_scan.h"

#define SECTORS 4096u

/* A disk of exactly its size on the heap, so that the sanitizer guards it. */
struct memory_disk {
    uint8_t *content;
    struct vd_partition_source source;
    unsigned reads;
    int reads_left; /* the one after these fails; negative: none */
};

static vd_error
read_memory(void *context, void *buffer, size_t length, uint64_t offset)
{
    struct memory_disk *disk = context;
    disk->reads++;
    if (disk->reads_left >= 0 && disk->reads_left-- == 0) {
        return ERROR_IO_DEVICE;
    }
    if (offset > disk->source.size_bytes ||
        length > disk->source.size_bytes - offset) {
        CHECK(!"a read past the end of the disk");
        return ERROR_HANDLE_EOF;
    }
    memcpy(buffer, disk->content + offset, length);
    return ERROR_SUCCESS;
}

static struct memory_disk *
new_disk(uint32_t sector_size, uint64_t sectors)
{
    struct memory_disk *disk = calloc(1, sizeof(*disk));
    uint64_t size = sectors * sector_size;
    disk->content = calloc(1, size + (size == 0));
    disk->reads_left = -1;
    disk->source = (struct vd_partition_source){
        .read = read_memory,
        .context = disk,
        .size_bytes = size,
        .sector_size = sector_size,
    };
    return disk;
}

static void
free_disk(struct memory_disk *disk)
{
    free(disk->content);
    free(disk);
}

static void
put_le(uint8_t *at, uint64_t value, unsigned size)
{
    for (unsigned i = 0; i < size; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

static void
put_signature(struct memory_disk *disk, uint64_t sector)
{
    uint8_t *at = disk->content + sector * disk->source.sector_size;
    at[510] = 0x55;
    at[511] = 0xAA;
}

static uint8_t *
mbr_entry(struct memory_disk *disk, uint64_t sector, unsigned index)
{
    return disk->content + sector * disk->source.sector_size + 446 +
           index * 16;
}

static void
put_mbr(struct memory_disk *disk, uint64_t sector, unsigned index,
        uint8_t type, uint32_t first, uint32_t count)
{
    uint8_t *entry = mbr_entry(disk, sector, index);
    put_signature(disk, sector);
    entry[4] = type;
    put_le(entry + 8, first, 4);
    put_le(entry + 12, count, 4);
}

static struct vd_partition_table
scan(struct memory_disk *disk)
{
    static struct vd_partition_table table;
    memset(&table, 0xEE, sizeof(table));
    CHECK_OK(vd_partition_scan(&disk->source, &table));
    return table;
}

/* number, first sector, sectors, data */
struct expected {
    uint32_t number;
    uint64_t first;
    uint64_t count;
    bool data;
};

static void
check_table(struct memory_disk *disk, enum vd_partition_scheme scheme,
            uint64_t end_sector, const struct expected *expected, size_t count)
{
    uint32_t sector_size = disk->source.sector_size;
    struct vd_partition_table table = scan(disk);
    CHECK_EQ(scheme, table.scheme);
    CHECK_EQ(end_sector * sector_size, table.end_bytes);
    if (!CHECK_EQ(count, table.count)) {
        return;
    }
    for (size_t i = 0; i < count; i++) {
        const struct vd_partition *found = &table.partitions[i];
        CHECK_EQ(expected[i].number, found->number);
        CHECK_EQ(expected[i].first * sector_size, found->offset_bytes);
        CHECK_EQ(expected[i].count * sector_size, found->length_bytes);
        CHECK_EQ(expected[i].data, found->data);
    }
}

static void
check_none(struct memory_disk *disk)
{
    check_table(disk, VD_PARTITION_NONE, 0, NULL, 0);
}

static void
a_disk_without_a_table_has_none(void)
{
    static const uint64_t sizes[] = {0, 1, 2, SECTORS};
    for (size_t i = 0; i < 4; i++) {
        struct memory_disk *disk = new_disk(512, sizes[i]);
        check_none(disk);
        free_disk(disk);
    }
    struct memory_disk *disk = new_disk(512, SECTORS);
    memset(disk->content, 0xFF, disk->source.size_bytes);
    check_none(disk);
    put_signature(disk, 0); /* with 0xFF for the boot flags */
    check_none(disk);
    free_disk(disk);
}

static void
an_empty_table_is_one(void)
{
    struct memory_disk *disk = new_disk(512, SECTORS);
    put_signature(disk, 0);
    check_table(disk, VD_PARTITION_MBR, 1, NULL, 0);
    free_disk(disk);
}

static void
primary_partitions(uint32_t sector_size)
{
    static const struct expected expected[] = {
        {1, 63, 100, true},
        {2, 200, 50, false},
        {4, 1000, 3096, true},
    };
    struct memory_disk *disk = new_disk(sector_size, SECTORS);
    put_mbr(disk, 0, 0, 0x07, 63, 100);
    put_mbr(disk, 0, 1, 0xEF, 200, 50);
    put_mbr(disk, 0, 3, 0x83, 1000, 3096);
    mbr_entry(disk, 0, 0)[0] = 0x80;
    check_table(disk, VD_PARTITION_MBR, SECTORS, expected, 3);
    free_disk(disk);
}

static void
neighbours_do_not_overlap(void)
{
    static const struct expected expected[] = {
        {1, 200, 100, true}, {2, 100, 100, true}, {3, 300, 1, true}};
    struct memory_disk *disk = new_disk(512, SECTORS);
    put_mbr(disk, 0, 0, 0x83, 200, 100);
    put_mbr(disk, 0, 1, 0x83, 100, 100);
    put_mbr(disk, 0, 2, 0x83, 300, 1);
    check_table(disk, VD_PARTITION_MBR, 301, expected, 3);
    free_disk(disk);
}

static void
types_tell_data(void)
{
    static const struct {
        uint8_t type;
        bool data;
    } cases[] = {
        {0x01, true}, {0x06, true},  {0x07, true},  {0x0B, true},
        {0x0C, true}, {0x82, true},  {0x83, true},  {0x8E, true},
        {0xFD, true}, {0x27, false}, {0xEF, false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct expected expected = {1, 8, 8, cases[i].data};
        struct memory_disk *disk = new_disk(512, SECTORS);
        put_mbr(disk, 0, 0, cases[i].type, 8, 8);
        check_table(disk, VD_PARTITION_MBR, 16, &expected, 1);
        free_disk(disk);
    }
}

static void
bad_primary_partitions_are_skipped(void)
{
    static const struct expected expected[] = {{2, 100, 100, true}};
    struct memory_disk *disk = new_disk(512, SECTORS);
    put_mbr(disk, 0, 1, 0x83, 100, 100);
    put_mbr(disk, 0, 2, 0x83, 199, 2); /* overlaps by one sector */
    /* first, count, and where the table ends: nothing on the disk that any
     * entry names may be cut off */
    static const uint32_t bad[][3] = {
        {0, 10, 201},
        {SECTORS, 1, 201},
        {SECTORS - 1, 2, SECTORS},
        {1, 0xFFFFFFFF, SECTORS},
        {0xFFFFFFFF, 1, 201},
        {0xFFFFFFFF, 0xFFFFFFFF, 201},
        {50, 51, 201},
        {150, 10, 201},
        {10, 4000, 4010},
        {100, 100, 201},
        {300, 0, 201},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        put_mbr(disk, 0, 3, 0x83, bad[i][0], bad[i][1]);
        check_table(disk, VD_PARTITION_MBR, bad[i][2], expected, 1);
    }
    put_mbr(disk, 0, 3, 0x00, 300, 100); /* type 0 is no partition */
    check_table(disk, VD_PARTITION_MBR, 201, expected, 1);
    free_disk(disk);
}

/* The first sector of a file system ends in the signature of an MBR. */
static void
file_systems_are_no_tables(void)
{
    static const struct {
        uint8_t jump[3];
        const char *name;
    } cases[] = {
        {{0xEB, 0x3C, 0x90}, "MSDOS5.0"},
        {{0xEB, 0x52, 0x90}, "NTFS    "},
        {{0xEB, 0x76, 0x90}, "EXFAT   "},
        {{0xE9, 0x00, 0x01}, "mkfs.fat"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct memory_disk *disk = new_disk(512, SECTORS);
        memcpy(disk->content, cases[i].jump, 3);
        memcpy(disk->content + 3, cases[i].name, 8);
        put_le(disk->content + 11, 512, 2); /* bytes per sector */
        disk->content[16] = 2;              /* FATs */
        disk->content[21] = 0xF8;           /* media */
        put_signature(disk, 0);
        check_none(disk);
        /* boot code or its messages in place of entries */
        put_mbr(disk, 0, 0, 'n', 0x20656C62, 0x64656D69);
        check_none(disk);
        put_mbr(disk, 0, 0, 'n', 0, 100);
        check_none(disk);
        mbr_entry(disk, 0, 2)[0] = 'x';
        check_none(disk);
        free_disk(disk);
    }
}

/* A boot loader's MBR may keep the parameters of FAT, and is a table. */
static void
a_table_may_look_like_a_file_system(void)
{
    static const struct expected expected[] = {{1, 2048, 100, true}};
    struct memory_disk *disk = new_disk(512, SECTORS);
    memcpy(disk->content, "\xEB\x3C\x90MSDOS5.0", 11);
    put_le(disk->content + 11, 512, 2);
    disk->content[16] = 2;
    disk->content[21] = 0xF8;
    put_mbr(disk, 0, 0, 0x0C, 2048, 100);
    check_table(disk, VD_PARTITION_MBR, 2148, expected, 1);
    free_disk(disk);
}

/* Table, logical partition and next table of a chain, relative as stored. */
static void
put_logical(struct memory_disk *disk, uint32_t at, uint32_t first,
            uint32_t count, uint32_t next)
{
    put_mbr(disk, at, 0, 0x83, first, count);
    if (next != 0) {
        put_mbr(disk, at, 1, 0x05, next, 100);
    }
}

static void
logical_partitions(uint8_t extended_type)
{
    static const struct expected expected[] = {
        {1, 63, 100, true},   {3, 1000, 2, false}, {5, 1063, 100, true},
        {6, 1510, 200, true}, {7, 2001, 99, true},
    };
    struct memory_disk *disk = new_disk(512, SECTORS);
    put_mbr(disk, 0, 0, 0x07, 63, 100);
    put_mbr(disk, 0, 2, extended_type, 1000, 3000);
    put_logical(disk, 1000, 63, 100, 500);
    put_logical(disk, 1500, 10, 200, 1000);
    put_logical(disk, 2000, 1, 99, 0);
    check_table(disk, VD_PARTITION_MBR, 4000, expected, 5);
    free_disk(disk);
}

/* The chain follows the order of making, not of place; a first table that
 * has lost its partition stays. */
static void
logical_partitions_out_of_order(void)
{
    static const struct expected expected[] = {
        {1, 1000, 2, false},
        {5, 2010, 50, true},
        {6, 1301, 100, true},
        {7, 1510, 50, true},
    };
    struct memory_disk *disk = new_disk(512, SECTORS);
    put_mbr(disk, 0, 0, 0x0F, 1000, 3000);
    put_mbr(disk, 1000, 1, 0x05, 1000, 100);
    put_logical(disk, 2000, 10, 50, 300);
    put_logical(disk, 1300, 1, 100, 500);
    put_logical(disk, 1500, 10, 50, 0);
    check_table(disk, VD_PARTITION_MBR, 4000, expected, 4);
    free_disk(disk);
}

/* Of the container only as much is listed as lies before the first. */
static void
a_container_gives_way(void)
{
    static const struct expected expected[] = {{1, 1000, 1, false},
                                               {5, 1001, 10, true}};
    struct memory_disk *disk = new_disk(512, SECTORS);
    put_mbr(disk, 0, 0, 0x0F, 1000, 3000);
    put_logical(disk, 1000, 1, 10, 0);
    check_table(disk, VD_PARTITION_MBR, 4000, expected, 2);
    free_disk(disk);
}

static void
chains_end(void)
{
    static const struct expected one[] = {{1, 1000, 2, false},
                                          {5, 1063, 100, true}};
    static const uint32_t astray[] = {
        0 /* itself */,
        3000 /* past the container */,
        0xFFFFFFFF,
        700 /* no signature there */,
    };
    for (size_t i = 0; i < sizeof(astray) / sizeof(astray[0]); i++) {
        struct memory_disk *disk = new_disk(512, SECTORS);
        put_mbr(disk, 0, 0, 0x05, 1000, 3000);
        put_logical(disk, 1000, 63, 100, 0);
        put_mbr(disk, 1000, 1, 0x05, astray[i], 100);
        check_table(disk, VD_PARTITION_MBR, 4000, one, 2);
        CHECK(disk->reads <= 3);
        free_disk(disk);
    }
    /* two tables that name each other */
    struct memory_disk *disk = new_disk(512, SECTORS);
    put_mbr(disk, 0, 0, 0x05, 1000, 3000);
    put_logical(disk, 1000, 63, 100, 500);
    put_mbr(disk, 1500, 1, 0x05, 700, 100);
    put_mbr(disk, 1700, 1, 0x05, 500, 100);
    check_table(disk, VD_PARTITION_MBR, 4000, one, 2);
    CHECK_EQ(4, disk->reads);
    free_disk(disk);
}

static void
bad_logical_partitions_are_skipped(void)
{
    static const struct expected expected[] = {{1, 1000, 2, false},
                                               {5, 1200, 10, true}};
    static const uint32_t bad[][2] = {
        {0, 10},         {3000, 1},       {2999, 2}, {1, 3000},
        {0xFFFFFFFF, 1}, {1, 0xFFFFFFFF}, {195, 10},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct memory_disk *disk = new_disk(512, SECTORS + 100);
        put_mbr(disk, 0, 0, 0x05, 1000, 3000);
        put_mbr(disk, 1000, 0, 0x83, 200, 10);
        put_mbr(disk, 1000, 2, 0x83, bad[i][0], bad[i][1]);
        check_table(disk, VD_PARTITION_MBR, 4000, expected, 2);
        free_disk(disk);
    }
}

static void
extended_partitions_must_lie_on_the_disk(void)
{
    static const struct expected expected[] = {{1, 10, 10, true}};
    static const uint32_t bad[][3] = {
        /* and where the table ends */
        {0, 10, 20},
        {SECTORS, 1, 20},
        {100, SECTORS, SECTORS},
        {0xFFFFFFFF, 0xFFFFFFFF, 20},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct memory_disk *disk = new_disk(512, SECTORS);
        put_mbr(disk, 0, 0, 0x83, 10, 10);
        put_mbr(disk, 0, 1, 0x0F, bad[i][0], bad[i][1]);
        check_table(disk, VD_PARTITION_MBR, bad[i][2], expected, 1);
        free_disk(disk);
    }
}

static void
numbers_are_bounded(void)
{
    struct memory_disk *disk = new_disk(512, SECTORS);
    put_mbr(disk, 0, 0, 0x05, 100, SECTORS - 100);
    for (uint32_t i = 0; i < 400; i++) {
        put_logical(disk, 100 + i * 3, 1, 1, (i + 1) * 3);
    }
    struct vd_partition_table table = scan(disk);
    /* 5..255 and the container */
    CHECK_EQ(252, table.count);
    CHECK_EQ(255, table.partitions[251].number);
    CHECK(disk->reads <= 256);
    free_disk(disk);
}

/* CRC-32 by the definition, bit by bit from the other end. */
static uint32_t
crc32_of(const uint8_t *data, size_t length)
{
    uint32_t crc = 0xFFFFFFFF;
    for (size_t i = 0; i < length * 8; i++) {
        uint32_t bit = (crc >> 31) ^ (data[i / 8] >> (i % 8) & 1);
        crc = crc << 1 ^ (bit != 0 ? 0x04C11DB7 : 0);
    }
    uint32_t reflected = 0;
    for (unsigned i = 0; i < 32; i++) {
        reflected |= (~crc >> i & 1) << (31 - i);
    }
    return reflected;
}

struct gpt {
    uint64_t my_sector;
    uint64_t alternate;
    uint64_t first_usable;
    uint64_t last_usable;
    uint64_t entries_sector;
    uint32_t entry_count;
    uint32_t entry_size;
};

static void
put_gpt_crc(struct memory_disk *disk, uint64_t sector)
{
    uint8_t *header = disk->content + sector * disk->source.sector_size;
    memset(header + 16, 0, 4);
    put_le(header + 16, crc32_of(header, 92), 4);
}

static void
put_gpt_header(struct memory_disk *disk, const struct gpt *gpt)
{
    uint32_t sector_size = disk->source.sector_size;
    uint8_t *header = disk->content + gpt->my_sector * sector_size;
    const uint8_t *entries = disk->content + gpt->entries_sector * sector_size;
    memset(header, 0, 92);
    memcpy(header, "EFI PART", 8);
    put_le(header + 8, 0x00010000, 4);
    put_le(header + 12, 92, 4);
    put_le(header + 24, gpt->my_sector, 8);
    put_le(header + 32, gpt->alternate, 8);
    put_le(header + 40, gpt->first_usable, 8);
    put_le(header + 48, gpt->last_usable, 8);
    put_le(header + 72, gpt->entries_sector, 8);
    put_le(header + 80, gpt->entry_count, 4);
    put_le(header + 84, gpt->entry_size, 4);
    put_le(header + 88,
           crc32_of(entries, (size_t)gpt->entry_count * gpt->entry_size), 4);
    put_gpt_crc(disk, gpt->my_sector);
}

/* As printed: 0FC63DAF-8483-4772-8E79-3D69D8477DE4 and so on. */
static const uint8_t linux_type[] = {0xAF, 0x3D, 0xC6, 0x0F, 0x83, 0x84,
                                     0x72, 0x47, 0x8E, 0x79, 0x3D, 0x69,
                                     0xD8, 0x47, 0x7D, 0xE4};

static void
put_gpt_entry(struct memory_disk *disk, const struct gpt *gpt, uint32_t index,
              const uint8_t *type, uint64_t first, uint64_t last)
{
    uint8_t *entry = disk->content +
                     gpt->entries_sector * disk->source.sector_size +
                     (size_t)index * gpt->entry_size;
    memcpy(entry, type, 16);
    put_le(entry + 32, first, 8);
    put_le(entry + 40, last, 8);
}

static struct gpt
primary_gpt(void)
{
    return (struct gpt){
        .my_sector = 1,
        .alternate = SECTORS - 1,
        .first_usable = 34,
        .last_usable = SECTORS - 34,
        .entries_sector = 2,
        .entry_count = 128,
        .entry_size = 128,
    };
}

static struct gpt
backup_gpt(void)
{
    struct gpt gpt = primary_gpt();
    gpt.my_sector = SECTORS - 1;
    gpt.alternate = 1;
    gpt.entries_sector = SECTORS - 33;
    return gpt;
}

static const struct expected gpt_expected[] = {{1, 40, 60, true},
                                               {3, 1000, 2000, true}};

/* Two partitions, in both copies. */
static struct memory_disk *
new_gpt_disk(uint32_t sector_size)
{
    struct memory_disk *disk = new_disk(sector_size, SECTORS);
    struct gpt copies[] = {primary_gpt(), backup_gpt()};
    put_mbr(disk, 0, 0, 0xEE, 1, 0xFFFFFFFF);
    for (unsigned i = 0; i < 2; i++) {
        put_gpt_entry(disk, &copies[i], 0, linux_type, 40, 99);
        put_gpt_entry(disk, &copies[i], 2, linux_type, 1000, 2999);
        put_gpt_header(disk, &copies[i]);
    }
    return disk;
}

/* Behind the last partition there must be room for 16 KiB of entries and a
 * header. */
static void
check_gpt(struct memory_disk *disk)
{
    uint64_t end = 3000 + 16384 / disk->source.sector_size + 1;
    check_table(disk, VD_PARTITION_GPT, end, gpt_expected, 2);
}

/* With the backup alone nothing can be cut off. */
static void
check_gpt_backup(struct memory_disk *disk)
{
    check_table(disk, VD_PARTITION_GPT, SECTORS, gpt_expected, 2);
}

static void
gpt_is_read(uint32_t sector_size)
{
    struct memory_disk *disk = new_gpt_disk(sector_size);
    check_gpt(disk);
    CHECK_EQ(3, disk->reads); /* MBR, header, entries: not the copy */
    free_disk(disk);
}

static uint8_t *
sector_of(struct memory_disk *disk, uint64_t sector)
{
    return disk->content + sector * disk->source.sector_size;
}

static void
the_backup_helps(uint32_t sector_size)
{
    struct memory_disk *disk = new_gpt_disk(sector_size);
    sector_of(disk, 1)[60] ^= 1; /* the header's checksum fails */
    check_gpt_backup(disk);
    sector_of(disk, 1)[60] ^= 1;
    sector_of(disk, 2)[200] ^= 1; /* the entries' checksum fails */
    check_gpt_backup(disk);
    memset(sector_of(disk, 1), 0, sector_size);
    check_gpt_backup(disk);
    sector_of(disk, SECTORS - 33)[0] ^= 1; /* and the backup's too */
    check_none(disk);
    sector_of(disk, SECTORS - 33)[0] ^= 1;
    sector_of(disk, SECTORS - 1)[0] ^= 1;
    check_none(disk);
    free_disk(disk);
}

static void
gpt_needs_a_protective_mbr(void)
{
    struct memory_disk *disk = new_gpt_disk(512);
    memset(disk->content, 0, 512);
    check_none(disk);
    put_mbr(disk, 0, 2, 0xEE, 1, 10); /* a hybrid: any entry will do */
    put_mbr(disk, 0, 0, 0x0C, 1000, 2000);
    check_gpt(disk);
    free_disk(disk);
}

static void
gpt_needs_room_for_a_header(void)
{
    struct memory_disk *disk = new_disk(512, 1);
    put_mbr(disk, 0, 0, 0xEE, 1, 1);
    check_none(disk);
    CHECK_EQ(1, disk->reads);
    free_disk(disk);
    disk = new_disk(8192, 8); /* no disk has such sectors */
    put_mbr(disk, 0, 0, 0xEE, 1, 7);
    check_none(disk);
    CHECK_EQ(1, disk->reads);
    free_disk(disk);
}

static void
gpt_types_tell_data(void)
{
    static const struct {
        uint8_t type[16];
        bool data;
    } cases[] = {
        {{0x28, 0x73, 0x2A, 0xC1, 0x1F, 0xF8, 0xD2, 0x11, 0xBA, 0x4B, 0x00,
          0xA0, 0xC9, 0x3E, 0xC9, 0x3B},
         false},
        {{0x16, 0xE3, 0xC9, 0xE3, 0x5C, 0x0B, 0xB8, 0x4D, 0x81, 0x7D, 0xF9,
          0x2D, 0xF0, 0x02, 0x15, 0xAE},
         false},
        {{0xA4, 0xBB, 0x94, 0xDE, 0xD1, 0x06, 0x40, 0x4D, 0xA1, 0x6A, 0xBF,
          0xD5, 0x01, 0x79, 0xD6, 0xAC},
         false},
        {"Hah!IdontNeedEFI", false},
        /* EBD0A0A2-B9E5-4433-87C0-68B6B72699C7: basic data */
        {{0xA2, 0xA0, 0xD0, 0xEB, 0xE5, 0xB9, 0x33, 0x44, 0x87, 0xC0, 0x68,
          0xB6, 0xB7, 0x26, 0x99, 0xC7},
         true},
        {{1}, true},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct memory_disk *disk = new_disk(512, SECTORS);
        struct gpt gpt = primary_gpt();
        struct expected expected = {1, 34, 1, cases[i].data};
        put_mbr(disk, 0, 0, 0xEE, 1, SECTORS - 1);
        put_gpt_entry(disk, &gpt, 0, cases[i].type, 34, 34);
        put_gpt_header(disk, &gpt);
        check_table(disk, VD_PARTITION_GPT, 35 + 33, &expected, 1);
        free_disk(disk);
    }
}

/* Each makes the primary header unusable, with a right checksum; without a
 * backup there is then no table. */
static void
hostile_headers_are_refused(void)
{
    static const struct {
        unsigned offset;
        unsigned size;
        uint64_t value;
    } cases[] = {
        {12, 4, 91},
        {12, 4, 513},
        {12, 4, 0xFFFFFFFF},
        {12, 4, 0},
        {40, 8, 1},
        {24, 8, 2},
        {24, 8, UINT64_MAX},
        {40, 8, SECTORS},
        {48, 8, SECTORS},
        {48, 8, UINT64_MAX},
        {48, 8, 33},
        {72, 8, 0},
        {72, 8, SECTORS - 31},
        {72, 8, UINT64_MAX},
        {72, 8, UINT64_MAX / 512},
        {72, 8, 1ull << 55},
        {80, 4, 0},
        {80, 4, 0xFFFFFFFF},
        {80, 4, 8193},
        {84, 4, 0},
        {84, 4, 64},
        {84, 4, 127},
        {84, 4, 192},
        {84, 4, 0x80000000},
        {88, 4, 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct memory_disk *disk = new_gpt_disk(512);
        memset(sector_of(disk, SECTORS - 1), 0, 512);
        check_gpt(disk);
        put_le(sector_of(disk, 1) + cases[i].offset, cases[i].value,
               cases[i].size);
        put_gpt_crc(disk, 1);
        struct vd_partition_table table = scan(disk);
        if (!CHECK_EQ(VD_PARTITION_NONE, table.scheme)) {
            CHECK_EQ(UINT64_MAX, i); /* tells which */
        }
        free_disk(disk);
    }
}

static void
an_alternate_off_the_disk_does_not_count(void)
{
    static const uint64_t alternates[] = {SECTORS, UINT64_MAX, 1ull << 55};
    for (size_t i = 0; i < 3; i++) {
        struct memory_disk *disk = new_gpt_disk(512);
        put_le(sector_of(disk, 1) + 32, alternates[i], 8);
        put_gpt_crc(disk, 1);
        check_gpt(disk);
        free_disk(disk);
    }
}

static void
bad_gpt_entries_are_skipped(void)
{
    /* first, last, and where the last sector that an entry names ends */
    static const uint64_t bad[][3] = {
        {33, 33, 3000},        {SECTORS - 33, SECTORS - 33, SECTORS - 33},
        {200, 199, 3000},      {1, UINT64_MAX, SECTORS - 33},
        {UINT64_MAX, 0, 3000}, {UINT64_MAX, UINT64_MAX, 3000},
        {99, 99, 3000},        {34, 40, 3000},
        {2999, 3000, 3001},    {35, 3500, 3501},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct memory_disk *disk = new_gpt_disk(512);
        struct gpt gpt = primary_gpt();
        put_gpt_entry(disk, &gpt, 100, linux_type, bad[i][0], bad[i][1]);
        put_gpt_header(disk, &gpt);
        check_table(disk, VD_PARTITION_GPT, bad[i][2] + 33, gpt_expected, 2);
        free_disk(disk);
    }
}

static void
gpt_entries_may_be_large_and_many(void)
{
    struct memory_disk *disk = new_disk(512, SECTORS);
    struct gpt gpt = primary_gpt();
    gpt.entry_size = 512;
    gpt.entry_count = 300;
    gpt.first_usable = 400;
    put_mbr(disk, 0, 0, 0xEE, 1, 0xFFFFFFFF);
    for (uint32_t i = 0; i < 300; i++) {
        put_gpt_entry(disk, &gpt, i, linux_type, 400 + i, 400 + i);
    }
    put_gpt_header(disk, &gpt);
    struct vd_partition_table table = scan(disk);
    CHECK_EQ(VD_PARTITION_GPT, table.scheme);
    CHECK_EQ(VD_PARTITION_MAX, table.count);
    CHECK_EQ(255, table.partitions[254].number);
    CHECK_EQ((400 + 254) * 512, table.partitions[254].offset_bytes);
    free_disk(disk);
}

static void
faults_are_reported(void)
{
    struct vd_partition_table table;
    struct memory_disk *disk = new_gpt_disk(512);
    memset(sector_of(disk, 1), 0, 512);
    for (int n = 0; n < 4; n++) { /* MBR, two headers, entries */
        table.count = 42;
        disk->reads_left = n;
        CHECK_EQ(1117, vd_partition_scan(&disk->source, &table));
        CHECK_EQ(42, table.count);
    }
    disk->reads_left = -1;
    for (int n = 0; n < 2; n++) {
        check_fail_allocation(n);
        CHECK_EQ(8, vd_partition_scan(&disk->source, &table));
        CHECK(check_fail_allocation(-1));
    }
    free_disk(disk);
    disk = new_disk(512, SECTORS);
    put_mbr(disk, 0, 0, 0x05, 1000, 3000);
    disk->reads_left = 1;
    CHECK_EQ(1117, vd_partition_scan(&disk->source, &table));
    free_disk(disk);
}

int
main(void)
{
    a_disk_without_a_table_has_none();
    an_empty_table_is_one();
    primary_partitions(512);
    primary_partitions(4096);
    neighbours_do_not_overlap();
    types_tell_data();
    bad_primary_partitions_are_skipped();
    file_systems_are_no_tables();
    a_table_may_look_like_a_file_system();
    logical_partitions(0x05);
    logical_partitions(0x0F);
    logical_partitions(0x85);
    logical_partitions_out_of_order();
    a_container_gives_way();
    chains_end();
    bad_logical_partitions_are_skipped();
    extended_partitions_must_lie_on_the_disk();
    numbers_are_bounded();
    gpt_is_read(512);
    gpt_is_read(4096);
    the_backup_helps(512);
    the_backup_helps(4096);
    gpt_needs_a_protective_mbr();
    gpt_needs_room_for_a_header();
    gpt_types_tell_data();
    hostile_headers_are_refused();
    an_alternate_off_the_disk_does_not_count();
    bad_gpt_entries_are_skipped();
    gpt_entries_may_be_large_and_many();
    faults_are_reported();
    return check_result();
}
