/*
 * Hostile images by the ten thousand: valid ones with bytes, fields and
 * lengths changed at random (the same every time), opened, mapped and read.
 * The sanitizers judge the code; the checks here, what it accepted.
 */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/crc32.h"
#include "check.h"
#include "disk/partition_scan.h"
#include "format/format.h"
#include "memory_file.h"
#include "one_layer.h"
#include "vhd_bytes.h"

#define IMAGE_ROUNDS 20000
#define TABLE_ROUNDS 20000
#define DATA 40960

static uint64_t state = 0x9E3779B97F4A7C15;

/* xorshift64*: no two runs differ. */
static uint32_t
next_random(void)
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (uint32_t)(state * 0x2545F4914F6CDD1D >> 32);
}

static size_t
random_below(size_t limit)
{
    return next_random() % limit;
}

/* Numbers that arithmetic fails on, and any others. */
static uint64_t
nasty_number(void)
{
    static const uint64_t numbers[] = {
        0,
        1,
        2,
        511,
        512,
        513,
        4095,
        0x7FFFFFFF,
        0x80000000,
        0xFFFFFFFF,
        0x100000000,
        INT64_MAX,
        UINT64_MAX,
        UINT64_MAX - 511,
        UINT64_MAX / 512,
        1ull << 55,
    };
    size_t count = sizeof(numbers) / sizeof(numbers[0]);
    size_t choice = random_below(count + 2);
    return choice < count ? numbers[choice]
                          : (uint64_t)next_random() << (choice % 2 * 32);
}

static void
put_nasty(uint8_t *content, size_t size, bool big_endian)
{
    static const unsigned widths[] = {1, 2, 4, 8};
    unsigned width = widths[random_below(4)];
    if (size < width) {
        return;
    }
    uint64_t value = nasty_number();
    uint8_t *at = content + random_below(size - width + 1);
    for (unsigned i = 0; i < width; i++) {
        unsigned shift = 8 * (big_endian ? width - 1 - i : i);
        at[i] = (uint8_t)(value >> shift);
    }
}

/* A fixed image promises all of its data; of others a part may turn out to be
 * damaged when it is looked at, which is an error like any. */
static bool
may_end_with(const struct vd_image *image, vd_error error)
{
    return error == 0 ||
           (image->info.subtype != VD_SUBTYPE_FIXED && !image->info.optical);
}

static void
use_image(struct vd_image *image)
{
    uint8_t buffer[4096];
    uint64_t size = image->info.size_bytes;
    struct vd_disk *disk = one_layer(image);
    CHECK(size > 0 && size % image->info.sector_size == 0);
    size_t length = random_below(size < 4096 ? (size_t)size : 4096);
    uint64_t from = random_below((size_t)(size - length) + 1);
    CHECK(may_end_with(image, vd_disk_read(disk, buffer, 1, 0)));
    CHECK(may_end_with(image, vd_disk_read(disk, buffer, 512, size - 512)));
    CHECK(may_end_with(image, vd_disk_read(disk, buffer, length, from)));
    one_layer_drop(disk);
}

static unsigned opened_images;

static const struct vd_open_request reading = {.writable = false};

static void
open_any(const uint8_t *content, size_t size)
{
    for (uint32_t device = 0; device <= 3; device++) {
        struct memory_file memory = memory_file_over(content, size);
        const struct vd_format *format = NULL;
        struct vd_image *image = NULL;
        if (vd_format_find(&memory.file, device, &format) != 0 ||
            format->open(&memory.file, &reading, &image) != 0) {
            CHECK(image == NULL);
            continue;
        }
        opened_images++;
        use_image(image);
        CHECK_OK(format->close(image));
    }
}

static void
put_descriptors(uint8_t *content)
{
    static const char *const names[] = {"CD001", "BEA01", "NSR02", "NSR03",
                                        "TEA01", "BOOT2", "CDROM"};
    for (unsigned sector = 16; sector < 20; sector++) {
        uint8_t *at = content + sector * 2048;
        at[0] = (uint8_t)random_below(4);
        memcpy(at + (random_below(8) == 0 ? 9 : 1), names[random_below(7)], 5);
    }
}

/* A VHD, a disc, or both; then some of it changed and the end cut. */
static void
hostile_images(void)
{
    size_t full = DATA + FOOTER;
    for (unsigned round = 0; round < IMAGE_ROUNDS; round++) {
        size_t size = random_below(4) == 0 ? random_below(full + 1) : full;
        size -= random_below(4) == 0 ? random_below(size / 4 + 1) : 0;
        uint8_t *content = calloc(1, full);
        uint32_t type = (uint32_t)random_below(4) + 1;
        put_simple_footer(content + DATA, DATA, type);
        put_simple_footer(content, DATA, type);
        if (random_below(2) == 0) {
            put_descriptors(content);
        }
        for (size_t i = random_below(4); i > 0; i--) {
            put_nasty(content + DATA, FOOTER, true);
            put_nasty(content, FOOTER, true);
        }
        if (random_below(4) != 0) {
            put_checksum(content + DATA);
            put_checksum(content);
        }
        /* exactly its size, for the sanitizer; now and then the end moves */
        uint8_t *exact = malloc(size + (size == 0));
        size_t from = random_below(2) == 0 ? full - size : 0;
        memcpy(exact, content + from, size);
        open_any(exact, size);
        free(exact);
        free(content);
    }
    CHECK(opened_images > IMAGE_ROUNDS / 10); /* not all are refused */
}

struct hostile_disk {
    const uint8_t *content;
    uint64_t size;
    unsigned reads;
};

static vd_error
read_hostile(void *context, void *buffer, size_t length, uint64_t offset)
{
    struct hostile_disk *disk = context;
    disk->reads++;
    if (!vd_range_within(offset, length, disk->size)) {
        CHECK(!"a read past the end of the disk");
        return ERROR_HANDLE_EOF;
    }
    memcpy(buffer, disk->content + offset, length);
    return ERROR_SUCCESS;
}

/* Whatever the table said: on the disk, in order, apart, numbered. */
static void
check_partitions(const struct vd_partition_table *table, uint64_t size,
                 uint32_t sector_size)
{
    CHECK(table->count <= VD_PARTITION_MAX && table->end_bytes <= size);
    for (size_t i = 0; i < table->count; i++) {
        const struct vd_partition *a = &table->partitions[i];
        CHECK(a->number >= 1 && a->number <= VD_PARTITION_MAX);
        CHECK(a->length_bytes > 0 && a->offset_bytes > 0);
        CHECK(a->offset_bytes % sector_size == 0 &&
              a->length_bytes % sector_size == 0);
        CHECK(vd_range_within(a->offset_bytes, a->length_bytes,
                              table->end_bytes));
        for (size_t k = i + 1; k < table->count; k++) {
            const struct vd_partition *b = &table->partitions[k];
            CHECK(a->number < b->number);
            CHECK(a->offset_bytes + a->length_bytes <= b->offset_bytes ||
                  b->offset_bytes + b->length_bytes <= a->offset_bytes);
        }
    }
}

static void
put_le32(uint8_t *at, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

static void
put_table_sector(uint8_t *sector, uint32_t sectors)
{
    static const uint8_t types[] = {0x07, 0x83, 0x05, 0x0F, 0x85, 0xEF, 0};
    for (unsigned i = 0; i < 4; i++) {
        uint8_t *entry = sector + 446 + i * 16;
        uint32_t first = (uint32_t)random_below(sectors);
        uint32_t count = (uint32_t)random_below(sectors / 4) + 1;
        entry[0] = random_below(20) == 0 ? 1 : 0x80;
        entry[4] = types[random_below(sizeof(types))];
        put_le32(entry + 8, first);
        put_le32(entry + 12, count);
    }
    sector[510] = 0x55;
    sector[511] = 0xAA;
}

/* Every sector is a table, so that chains lead everywhere. */
static void
hostile_mbrs(void)
{
    unsigned partitions = 0;
    unsigned logical = 0;
    for (unsigned round = 0; round < TABLE_ROUNDS / 10; round++) {
        uint32_t sectors = (uint32_t)random_below(64) + 4;
        size_t size = (size_t)sectors * 512;
        uint8_t *content = calloc(1, size);
        for (uint32_t i = 0; i < sectors; i++) {
            put_table_sector(content + (size_t)i * 512, sectors);
        }
        if (random_below(2) == 0) { /* one container over all the rest */
            memset(content + 446, 0, 64);
            content[446 + 4] = 0x05;
            put_le32(content + 446 + 8, 1);
            put_le32(content + 446 + 12, sectors - 1);
        }
        for (size_t i = random_below(3); i > 0; i--) {
            put_nasty(content + 446, 64, false);
        }
        struct hostile_disk disk = {content, size, 0};
        struct vd_partition_source source = {read_hostile, &disk, size, 512};
        struct vd_partition_table table;
        CHECK_OK(vd_partition_scan(&source, &table));
        CHECK(disk.reads <= 1 + VD_PARTITION_MAX);
        check_partitions(&table, size, 512);
        partitions += (unsigned)table.count;
        logical +=
            table.count > 0 && table.partitions[table.count - 1].number >= 5;
        free(content);
    }
    CHECK(partitions > 1000); /* not all are refused */
    CHECK(logical > 100);
}

/* GPT headers and entries with right checksums over wrong numbers.  The
 * checksum is of the code under test: test_partition_table.c checks that. */

static void
put_hostile_gpt(uint8_t *content, uint32_t sectors, uint32_t at)
{
    uint8_t *header = content + (size_t)at * 512;
    uint8_t *entries = content + 2 * 512;
    memset(header, 0, 512);
    memcpy(header, "EFI PART", 8);
    put_le32(header + 12, 92);
    put_le32(header + 24, at);
    put_le32(header + 32, at == 1 ? sectors - 1 : 1);
    put_le32(header + 40, 10);
    put_le32(header + 48, sectors - 2);
    put_le32(header + 72, 2);
    put_le32(header + 80, 16);
    put_le32(header + 84, 128);
    for (size_t i = random_below(4) + 1; i > 1; i--) {
        put_nasty(header + 12, 76, false);
    }
    put_le32(header + 88, vd_crc32(VD_CRC32_START, entries, 16 * 128));
    put_le32(header + 16, 0);
    put_le32(header + 16, vd_crc32(VD_CRC32_START, header, 92));
}

static void
hostile_gpts(void)
{
    unsigned partitions = 0;
    for (unsigned round = 0; round < TABLE_ROUNDS; round++) {
        uint32_t sectors = (uint32_t)random_below(64) + 12;
        size_t size = (size_t)sectors * 512;
        uint8_t *content = calloc(1, size);
        content[446 + 4] = 0xEE;
        content[510] = 0x55;
        content[511] = 0xAA;
        for (unsigned i = 0; i < 16; i++) {
            uint8_t *entry = content + 2 * 512 + i * 128;
            uint32_t first = (uint32_t)random_below(sectors + 4);
            entry[0] = (uint8_t)random_below(3);
            put_le32(entry + 32, first);
            put_le32(entry + 40, first + (uint32_t)random_below(20) - 2);
        }
        put_nasty(content + 2 * 512, 16 * 128, false);
        put_hostile_gpt(content, sectors, sectors - 1);
        put_hostile_gpt(content, sectors, 1);
        struct hostile_disk disk = {content, size, 0};
        struct vd_partition_source source = {read_hostile, &disk, size, 512};
        struct vd_partition_table table;
        CHECK_OK(vd_partition_scan(&source, &table));
        check_partitions(&table, size, 512);
        partitions += (unsigned)table.count;
        free(content);
    }
    CHECK(partitions > 1000);
}

int
main(void)
{
    hostile_images();
    hostile_mbrs();
    hostile_gpts();
    return check_result();
}
