/*
 * The SCSI disk (disk/scsi.h) over a medium in memory: every command, every
 * refusal with its sense data, transfers of every length, and media that
 * fail.  Expected bytes are those of SPC-4 and SBC-3.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "check.h"
#include "disk/scsi.h"

#define BLOCKS 64
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- a medium ---- */

struct medium {
    uint8_t *bytes;
    size_t size;
    unsigned reads, writes, zeros, frees, flushes;
    vd_error fault; /* of the next call, and all after it */
};

static vd_error
medium_read(void *context, void *buffer, size_t length, uint64_t offset)
{
    struct medium *medium = context;
    medium->reads++;
    CHECK(length != 0 && offset + length <= medium->size);
    if (medium->fault == 0) {
        memcpy(buffer, medium->bytes + offset, length);
    }
    return medium->fault;
}

static vd_error
medium_write(void *context, const void *buffer, size_t length, uint64_t offset)
{
    struct medium *medium = context;
    medium->writes++;
    CHECK(length != 0 && offset + length <= medium->size);
    if (medium->fault == 0) {
        memcpy(medium->bytes + offset, buffer, length);
    }
    return medium->fault;
}

static vd_error
medium_zero(void *context, uint64_t offset, uint64_t length, bool may_free)
{
    struct medium *medium = context;
    medium->zeros++;
    medium->frees += may_free;
    CHECK(length != 0 && offset + length <= medium->size);
    if (medium->fault == 0) {
        memset(medium->bytes + offset, 0, length);
    }
    return medium->fault;
}

static vd_error
medium_flush(void *context)
{
    struct medium *medium = context;
    medium->flushes++;
    return medium->fault;
}

/* Blocks 2..6 have no data. */
static vd_error
medium_run(void *context, uint64_t offset, uint64_t length, bool *data_out,
           uint64_t *length_out)
{
    const struct medium *medium = context;
    uint64_t block = medium->size / BLOCKS;
    uint64_t end = medium->size;
    CHECK(length != 0 && offset + length <= medium->size);
    CHECK_EQ(0, offset % block);
    *data_out = offset < 2 * block || offset >= 7 * block;
    if (offset < 7 * block) {
        end = offset < 2 * block ? 2 * block : 7 * block;
    }
    *length_out = end - offset < length ? end - offset : length;
    return medium->fault;
}

static const struct vd_scsi_medium functions = {
    .read = medium_read,
    .write = medium_write,
    .zero = medium_zero,
    .flush = medium_flush,
    .run = medium_run,
};

static struct medium medium;
static struct vd_scsi_unit unit;

/* 00112233-4455-6677-8899-aabbccddeeff, as a GUID has it in memory. */
static const struct vd_guid id = {{0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77,
                                   0x66, 0x88, 0x99, 0xAA, 0xBB, 0xCC, 0xDD,
                                   0xEE, 0xFF}};

static void
new_unit(uint32_t block_size)
{
    free(medium.bytes);
    medium = (struct medium){.size = (size_t)BLOCKS * block_size};
    medium.bytes = malloc(medium.size);
    if (medium.bytes == NULL) {
        check_broken("memory");
    }
    for (size_t i = 0; i < medium.size; i++) {
        medium.bytes[i] = (uint8_t)(i / block_size + i * 7);
    }
    unit = (struct vd_scsi_unit){
        .medium = &functions,
        .context = &medium,
        .blocks = BLOCKS,
        .block_size = block_size,
        .physical_block_size = 4096,
        .unmap_granularity = 2 << 20,
        .thin = true,
        .id = id,
    };
}

/* ---- commands ---- */

static struct vd_scsi_result result;

static void
run(const uint8_t *cdb, size_t cdb_length, bool data_in, void *data,
    size_t length)
{
    struct vd_scsi_command command = {
        .cdb = cdb,
        .cdb_length = cdb_length,
        .data_in = data_in,
        .data = data,
        .length = length,
    };
    memset(&result, 0xEE, sizeof(result));
    vd_scsi_execute(&unit, &command, &result);
}

#define IN(data, length, ...)                                                 \
    run((const uint8_t[]){__VA_ARGS__},                                       \
        sizeof((const uint8_t[]){__VA_ARGS__}), true, (data), (length))
#define OUT(data, length, ...)                                                \
    run((const uint8_t[]){__VA_ARGS__},                                       \
        sizeof((const uint8_t[]){__VA_ARGS__}), false, (data), (length))

static bool
good(size_t transferred)
{
    return CHECK_EQ(VD_SCSI_GOOD, result.status) &
           CHECK_EQ(0, result.sense_length) &
           CHECK_EQ(transferred, result.transferred);
}

/* sense: key, code and qualifier in one number, 0x52400. */
static bool
sense(uint32_t expected)
{
    uint32_t found = (uint32_t)(result.sense[2] & 0xF) << 16 |
                     vd_get_be16(result.sense + 12);
    return CHECK_EQ(VD_SCSI_CHECK_CONDITION, result.status) &
           CHECK_EQ(VD_SCSI_SENSE_SIZE, result.sense_length) &
           CHECK_EQ(0x70, result.sense[0] & 0x7F) &
           CHECK_EQ(10, result.sense[7]) & CHECK_EQ(expected, found) &
           CHECK_EQ(0, result.transferred);
}

/* An invalid field of the CDB, told by its byte. */
static bool
bad_byte(unsigned byte)
{
    return sense(0x52400) & CHECK_EQ(0xC0, result.sense[15]) &
           CHECK_EQ(byte, vd_get_be16(result.sense + 16));
}

static bool
out_of_range(uint32_t lba)
{
    return sense(0x52100) & CHECK_EQ(0xF0, result.sense[0]) &
           CHECK_EQ(lba, vd_get_be32(result.sense + 3));
}

/* ---- the table ---- */

static void
test_operation_codes(void)
{
    static const uint8_t known[] = {0x00, 0x03, 0x08, 0x0A, 0x12, 0x1A, 0x25,
                                    0x28, 0x2A, 0x35, 0x41, 0x42, 0x5A, 0x88,
                                    0x8A, 0x91, 0x93, 0x9E, 0xA0, 0xA8, 0xAA};
    for (unsigned code = 0; code < 256; code++) {
        uint8_t cdb[16] = {(uint8_t)code};
        run(cdb, sizeof(cdb), true, NULL, 0);
        if (memchr(known, (int)code, sizeof(known)) == NULL) {
            sense(0x52000);
        }
        else {
            CHECK(vd_get_be16(result.sense + 12) != 0x2000);
        }
    }
}

/* A CDB that ends too early is never read past its end: each is allocated
 * exactly, for the sanitizer to see. */
static void
test_short_cdbs(void)
{
    static const struct {
        uint8_t code;
        uint8_t length;
    } rows[] = {{0x00, 6},  {0x12, 6},  {0x28, 10}, {0x2A, 10}, {0x42, 10},
                {0x88, 16}, {0x9E, 16}, {0xA0, 12}, {0xA8, 12}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        for (size_t length = 1; length < rows[i].length; length++) {
            uint8_t *cdb = calloc(1, length);
            cdb[0] = rows[i].code;
            run(cdb, length, true, NULL, 0);
            bad_byte((unsigned)length);
            free(cdb);
        }
    }
    /* One that is longer than it need be is taken for what it is. */
    uint8_t sector[512];
    uint8_t read[16] = {0x28, 0, 0, 0, 0, 3, 0, 0, 1};
    memset(read + 10, 0xFF, 6);
    run(read, sizeof(read), true, sector, sizeof(sector));
    good(512);
}

static void
test_control_byte(void)
{
    IN(NULL, 0, 0x00, 0, 0, 0, 0, 0x04);
    bad_byte(5);
    IN(NULL, 0, 0x00, 0, 0, 0, 0, 0xC0); /* the vendor's */
    good(0);
}

/* ---- what it tells about itself ---- */

static void
test_inquiry(void)
{
    static const char expected[] = "\x00\x00\x06\x02\x1F\x00\x00\x02"
                                   "virtdiskVirtual Disk    1.0 ";
    uint8_t data[64];
    IN(data, sizeof(data), 0x12, 0, 0, 0, 255, 0);
    good(36);
    CHECK_BYTES(expected, data, 36);
    IN(data, sizeof(data), 0x12, 0, 0, 0, 5, 0); /* what is allowed */
    good(5);
    IN(data, 7, 0x12, 0, 0, 0, 255, 0); /* what fits */
    good(7);
    IN(data, sizeof(data), 0x12, 0, 0, 1, 0, 0); /* 256 bytes */
    good(36);
    IN(NULL, 0, 0x12, 0, 0, 0, 0, 0);
    good(0);
    OUT(data, sizeof(data), 0x12, 0, 0, 0, 255, 0); /* the other way */
    good(0);
    IN(data, sizeof(data), 0x12, 0, 0x80, 0, 255, 0); /* page, no EVPD */
    bad_byte(2);
}

static size_t
read_page(uint8_t page, uint8_t *data)
{
    memset(data, 0xEE, 128);
    IN(data, 128, 0x12, 1, page, 0, 128, 0);
    size_t length = 4 + (size_t)vd_get_be16(data + 2);
    good(length);
    CHECK_EQ(0, data[0]);
    CHECK_EQ(page, data[1]);
    return length;
}

static void
test_identity_pages(void)
{
    static const char digits[] = "00112233445566778899aabbccddeeff";
    static const uint8_t list[] = {0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2};
    static const uint8_t uuid[] = {0x00, 0x11, 0x22, 0x33, 0x44, 0x55,
                                   0x66, 0x77, 0x88, 0x99, 0xAA, 0xBB,
                                   0xCC, 0xDD, 0xEE, 0xFF};
    uint8_t data[128];
    CHECK_EQ(10, read_page(0x00, data));
    CHECK_BYTES(list, data + 4, sizeof(list));
    CHECK_EQ(36, read_page(0x80, data));
    CHECK_BYTES(digits, data + 4, 32);
    CHECK_EQ(4 + 44 + 22, read_page(0x83, data));
    CHECK_BYTES("\x02\x01\x00\x28virtdisk", data + 4, 12);
    CHECK_BYTES(digits, data + 16, 32);
    CHECK_BYTES("\x01\x0A\x00\x12\x10\x00", data + 48, 6);
    CHECK_BYTES(uuid, data + 54, 16);
    IN(data, sizeof(data), 0x12, 1, 0x82, 0, 128, 0);
    bad_byte(2);
}

static void
test_capability_pages(void)
{
    uint8_t data[128];
    CHECK_EQ(64, read_page(0xB0, data));
    CHECK_EQ(1, data[4]);                         /* WSNZ */
    CHECK_EQ(4096 / 512, vd_get_be16(data + 6));  /* granularity */
    CHECK_EQ(0, vd_get_be32(data + 8));           /* no largest transfer */
    CHECK_EQ(2048, vd_get_be32(data + 12));       /* 1 MiB is good */
    CHECK_EQ(0xFFFFFFFF, vd_get_be32(data + 20)); /* UNMAP: blocks */
    CHECK_EQ(256, vd_get_be32(data + 24));        /* UNMAP: descriptors */
    CHECK_EQ(4096, vd_get_be32(data + 28));       /* 2 MiB at a time */
    CHECK_EQ(0x80000000, vd_get_be32(data + 32)); /* from 0 */
    CHECK_EQ((1 << 30) / 512, vd_get_be64(data + 36)); /* WRITE SAME */
    CHECK_EQ(64, read_page(0xB1, data));
    CHECK_EQ(1, vd_get_be16(data + 4)); /* non-rotating */
    CHECK_EQ(8, read_page(0xB2, data));
    CHECK_BYTES("\x00\xE4\x02\x00", data + 4, 4);
    unit.thin = false;
    CHECK_EQ(64, read_page(0xB0, data));
    CHECK_EQ(0, vd_get_be32(data + 20));
    CHECK_EQ(8, read_page(0xB2, data));
    CHECK_BYTES("\x00\x00\x00\x00", data + 4, 4);
    unit.thin = true;
}

static void
test_capacity(void)
{
    uint8_t data[64];
    IN(data, sizeof(data), 0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    good(8);
    CHECK_EQ(BLOCKS - 1, vd_get_be32(data));
    CHECK_EQ(512, vd_get_be32(data + 4));
    IN(data, sizeof(data), 0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0,
       0);
    good(32);
    CHECK_EQ(BLOCKS - 1, vd_get_be64(data));
    CHECK_EQ(512, vd_get_be32(data + 8));
    CHECK_EQ(3, data[13]); /* 8 blocks are a physical one */
    CHECK_EQ(0xC0, data[14]);
    IN(data, sizeof(data), 0x9E, 0x11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0,
       0);
    bad_byte(1);
    unit.blocks = UINT64_C(1) << 33;
    IN(data, sizeof(data), 0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    good(8);
    CHECK_EQ(0xFFFFFFFF, vd_get_be32(data));
    unit.blocks = (UINT64_C(1) << 32); /* its last address is 0xFFFFFFFF */
    IN(data, sizeof(data), 0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    CHECK_EQ(0xFFFFFFFF, vd_get_be32(data));
    unit.blocks = BLOCKS;
}

static void
test_mode_sense(void)
{
    static const uint8_t all[] = {
        35,   0,    0x10, 0,                   /* header */
        0x08, 0x12, 0x04, 0, 0, 0, 0, 0, 0, 0, /* caching */
        0,    0,    0,    0, 0, 0, 0, 0, 0, 0, 0x0A,
        0x0A, 0,    0x10, 0, 0, 0, 0, 0, 0, 0, 0, /* control */
    };
    uint8_t data[64];
    IN(data, sizeof(data), 0x1A, 0, 0x3F, 0, 255, 0);
    good(sizeof(all));
    CHECK_BYTES(all, data, sizeof(all));
    IN(data, sizeof(data), 0x1A, 0, 0x3F, 0xFF, 255, 0);
    good(sizeof(all));
    IN(data, sizeof(data), 0x5A, 0, 0x08, 0, 0, 0, 0, 1, 0, 0);
    good(28);
    CHECK_EQ(26, vd_get_be16(data));
    CHECK_BYTES(all + 4, data + 8, 20);
    IN(data, sizeof(data), 0x5A, 0, 0x4A, 0, 0, 0, 0, 1, 0, 0);
    good(20);
    CHECK_BYTES("\x0A\x0A\0\0\0\0\0\0\0\0\0\0", data + 8, 12);
    unit.read_only = true;
    IN(data, sizeof(data), 0x1A, 0, 0x3F, 0, 4, 0);
    good(4);
    CHECK_EQ(0x90, data[2]); /* write protected */
    IN(data, sizeof(data), 0x5A, 0, 0x3F, 0, 0, 0, 0, 0, 8, 0);
    good(8);
    CHECK_EQ(0x90, data[3]);
    unit.read_only = false;
    IN(data, sizeof(data), 0x1A, 0, 0xFF, 0, 255, 0);
    sense(0x53900);
    IN(data, sizeof(data), 0x1A, 0, 0x01, 0, 255, 0);
    bad_byte(2);
    IN(data, sizeof(data), 0x5A, 0, 0x08, 1, 0, 0, 0, 1, 0, 0);
    bad_byte(3);
}

static void
test_luns_and_sense(void)
{
    uint8_t data[64] = {0};
    IN(data, sizeof(data), 0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0);
    good(16);
    CHECK_BYTES("\0\0\0\x08\0\0\0\0\0\0\0\0\0\0\0\0", data, 16);
    IN(data, sizeof(data), 0xA0, 0, 1, 0, 0, 0, 0, 0, 0, 16, 0, 0);
    good(8);
    CHECK_BYTES("\0\0\0\0\0\0\0\0", data, 8);
    IN(data, sizeof(data), 0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 15, 0, 0);
    bad_byte(6);
    IN(data, sizeof(data), 0xA0, 0, 3, 0, 0, 0, 0, 0, 0, 16, 0, 0);
    bad_byte(2);
    IN(data, sizeof(data), 0x03, 0, 0, 0, 252, 0);
    good(18);
    CHECK_EQ(0x70, data[0]);
    CHECK_EQ(0, data[2]);
    IN(data, sizeof(data), 0x03, 1, 0, 0, 252, 0);
    bad_byte(1);
}

/* ---- reading and writing ---- */

/* The same in every length of the command. */
static size_t
make_cdb(uint8_t *cdb, unsigned length, bool write, uint64_t lba,
         uint32_t blocks)
{
    memset(cdb, 0, 16);
    switch (length) {
    case 6:
        cdb[0] = write ? 0x0A : 0x08;
        cdb[1] = (uint8_t)(lba >> 16);
        vd_put_be16(cdb + 2, (uint16_t)lba);
        cdb[4] = (uint8_t)blocks;
        break;
    case 10:
        cdb[0] = write ? 0x2A : 0x28;
        vd_put_be32(cdb + 2, (uint32_t)lba);
        vd_put_be16(cdb + 7, (uint16_t)blocks);
        break;
    case 12:
        cdb[0] = write ? 0xAA : 0xA8;
        vd_put_be32(cdb + 2, (uint32_t)lba);
        vd_put_be32(cdb + 6, blocks);
        break;
    default:
        cdb[0] = write ? 0x8A : 0x88;
        vd_put_be64(cdb + 2, lba);
        vd_put_be32(cdb + 10, blocks);
    }
    return length;
}

static const unsigned lengths[] = {6, 10, 12, 16};
static const unsigned count_bytes[] = {4, 7, 6, 10};

static void
test_transfers(void)
{
    size_t size = unit.block_size;
    uint8_t *data = malloc(4 * size);
    uint8_t cdb[16];
    for (size_t i = 0; i < COUNT(lengths); i++) {
        size_t length = make_cdb(cdb, lengths[i], false, 5, 3);
        run(cdb, length, true, data, 3 * size);
        good(3 * size);
        CHECK_BYTES(medium.bytes + 5 * size, data, 3 * size);
        run(cdb, length, true, data, 4 * size); /* room to spare */
        good(3 * size);
        run(cdb, length, true, data, 3 * size - 1);
        bad_byte(count_bytes[i]);
        run(cdb, length, false, data, 3 * size); /* the other way */
        bad_byte(count_bytes[i]);
        memset(data, 0xA0 + (int)i, 4 * size);
        length = make_cdb(cdb, lengths[i], true, 20 + i, 1);
        run(cdb, length, false, data, size);
        good(size);
        CHECK_BYTES(data, medium.bytes + (20 + i) * size, size);
        length = make_cdb(cdb, lengths[i], true, BLOCKS - 1, 1);
        run(cdb, length, false, data, size);
        good(size);
        length = make_cdb(cdb, lengths[i], true, BLOCKS - 1, 2);
        run(cdb, length, false, data, 2 * size);
        out_of_range(BLOCKS);
        length = make_cdb(cdb, lengths[i], false, BLOCKS + 7, 1);
        run(cdb, length, true, data, size);
        out_of_range(BLOCKS + 7);
    }
    free(data);
}

static void
test_odd_transfers(void)
{
    uint8_t cdb[16];
    unsigned calls = medium.reads + medium.writes;
    for (size_t i = 1; i < COUNT(lengths); i++) { /* nothing, anywhere */
        size_t length = make_cdb(cdb, lengths[i], false, BLOCKS, 0);
        run(cdb, length, true, NULL, 0);
        good(0);
        cdb[1] = 0x20; /* protection information */
        run(cdb, length, true, NULL, 0);
        bad_byte(1);
        length = make_cdb(cdb, lengths[i], true, 0, 0);
        run(cdb, length, false, NULL, 0);
        good(0);
        cdb[1] = 0x80;
        run(cdb, length, false, NULL, 0);
        bad_byte(1);
    }
    size_t length = make_cdb(cdb, 6, false, 0, 0); /* 256 blocks, here */
    run(cdb, length, true, NULL, 0);
    out_of_range(BLOCKS);
    length = make_cdb(cdb, 16, false, UINT64_MAX, 1);
    run(cdb, length, true, NULL, 0);
    sense(0x52100);
    CHECK_EQ(0x70, result.sense[0]); /* no room for such an address */
    length = make_cdb(cdb, 16, false, 1, UINT32_MAX);
    run(cdb, length, true, NULL, 0);
    out_of_range(BLOCKS);
    CHECK_EQ(calls, medium.reads + medium.writes);
}

static void
test_flushes(void)
{
    uint8_t sector[512] = {1};
    unsigned before = medium.flushes;
    OUT(sector, 512, 0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0);
    CHECK_EQ(before, medium.flushes);
    OUT(sector, 512, 0x2A, 0x08, 0, 0, 0, 0, 0, 0, 1, 0); /* FUA */
    good(512);
    CHECK_EQ(before + 1, medium.flushes);
    OUT(NULL, 0, 0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    good(0);
    OUT(NULL, 0, 0x91, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0);
    good(0);
    CHECK_EQ(before + 3, medium.flushes);
    OUT(NULL, 0, 0x35, 0, 0, 0, 0, BLOCKS, 0, 0, 1, 0);
    out_of_range(BLOCKS);
    CHECK_EQ(before + 3, medium.flushes);
}

/* ---- GET LBA STATUS ---- */

static void
status(uint8_t lba, uint16_t allocation_length, void *data, size_t length)
{
    IN(data, length, 0x9E, 0x12, 0, 0, 0, 0, 0, 0, 0, lba, 0, 0,
       (uint8_t)(allocation_length >> 8), (uint8_t)allocation_length, 0, 0);
}

static void
check_descriptor(const uint8_t *list, size_t index, uint64_t lba,
                 uint32_t blocks, uint8_t provisioning)
{
    const uint8_t *at = list + 8 + 16 * index;
    CHECK_EQ(lba, vd_get_be64(at));
    CHECK_EQ(blocks, vd_get_be32(at + 8));
    CHECK_EQ(provisioning, at[12]);
}

/* SBC-3 5.4: what has no data is deallocated (1). */
static void
test_lba_status(void)
{
    uint8_t list[512];
    status(0, sizeof(list), list, sizeof(list));
    good(8 + 3 * 16);
    CHECK_EQ(4 + 3 * 16, vd_get_be32(list));
    check_descriptor(list, 0, 0, 2, 0);
    check_descriptor(list, 1, 2, 5, 1);
    check_descriptor(list, 2, 7, BLOCKS - 7, 0);
    status(4, sizeof(list), list, sizeof(list));
    good(8 + 2 * 16);
    check_descriptor(list, 0, 4, 3, 1);
    check_descriptor(list, 1, 7, BLOCKS - 7, 0);
    status(0, 8 + 16 + 15, list, sizeof(list)); /* room for one */
    good(8 + 16);
    CHECK_EQ(4 + 16, vd_get_be32(list));
    check_descriptor(list, 0, 0, 2, 0);
    status(0, 8, list, sizeof(list));
    good(8);
    CHECK_EQ(4 + 16, vd_get_be32(list));
    status(BLOCKS - 1, sizeof(list), list, sizeof(list));
    good(8 + 16);
    check_descriptor(list, 0, BLOCKS - 1, 1, 0);
    status(BLOCKS, sizeof(list), list, sizeof(list));
    out_of_range(BLOCKS);
    medium.fault = ERROR_IO_DEVICE;
    status(0, sizeof(list), list, sizeof(list));
    sense(0x31100);
    medium.fault = 0;
}

/* ---- UNMAP ---- */

#define LIST_MAX (8 + 16 * 300)

static size_t
make_list(uint8_t *list, const uint32_t (*ranges)[2], size_t count)
{
    memset(list, 0, LIST_MAX);
    vd_put_be16(list, (uint16_t)(6 + 16 * count));
    vd_put_be16(list + 2, (uint16_t)(16 * count));
    for (size_t i = 0; i < count; i++) {
        vd_put_be64(list + 8 + 16 * i, ranges[i][0]);
        vd_put_be32(list + 16 + 16 * i, ranges[i][1]);
    }
    return 8 + 16 * count;
}

static void
unmap(uint8_t *list, size_t length, size_t told)
{
    uint8_t cdb[10] = {0x42};
    vd_put_be16(cdb + 7, (uint16_t)told);
    run(cdb, sizeof(cdb), false, list, length);
}

static void
test_unmap(void)
{
    static const uint32_t two[][2] = {{2, 3}, {10, 1}};
    static const uint32_t bad[][2] = {{2, 3}, {BLOCKS, 1}};
    static const uint32_t empty[][2] = {{BLOCKS, 0}};
    static const uint32_t many[300][2];
    static const uint8_t zeros[4096 * 3];
    uint8_t *list = malloc(LIST_MAX);
    size_t size = unit.block_size;
    size_t length = make_list(list, two, 2);
    memset(medium.bytes, 0x55, medium.size);
    unmap(list, length, length);
    good(length);
    CHECK_BYTES(zeros, medium.bytes + 2 * size, 3 * size);
    CHECK_BYTES(zeros, medium.bytes + 10 * size, size);
    CHECK_EQ(0x55, medium.bytes[2 * size - 1]);
    CHECK_EQ(0x55, medium.bytes[5 * size]);
    CHECK_EQ(2, medium.frees);
    /* Nothing is unmapped unless all of it can be. */
    memset(medium.bytes, 0x55, medium.size);
    length = make_list(list, bad, 2);
    unmap(list, length, length);
    out_of_range(BLOCKS);
    CHECK_EQ(0x55, medium.bytes[2 * size]);
    /* A list cut short, in its CDB or in itself: the whole descriptors. */
    length = make_list(list, two, 2);
    unmap(list, length, length - 1);
    good(length - 1);
    CHECK_EQ(0, medium.bytes[2 * size]);
    CHECK_EQ(0x55, medium.bytes[10 * size]);
    vd_put_be16(list + 2, 15);
    unmap(list, length, length);
    good(length);
    CHECK_EQ(3, medium.frees);
    unmap(list, 7, 7);
    sense(0x51A00);
    unmap(list, length - 1, length);
    sense(0x51A00);
    unmap(NULL, 0, 0);
    good(0);
    length = make_list(list, empty, 1);
    unmap(list, length, length);
    good(length);
    length = make_list(list, many, 256);
    unmap(list, length, length);
    good(length);
    length = make_list(list, many, 257);
    unmap(list, length, length);
    sense(0x52600);
    CHECK_EQ(3, medium.frees);
    OUT(list, length, 0x42, 1, 0, 0, 0, 0, 0, 0, 24, 0); /* anchor */
    bad_byte(1);
    unit.thin = false;
    unmap(list, length, length);
    sense(0x52000);
    unit.thin = true;
    free(list);
}

/* ---- WRITE SAME ---- */

static void
same(uint8_t code, uint8_t options, uint64_t lba, uint32_t blocks,
     uint8_t *block, size_t length)
{
    uint8_t cdb[16] = {code, options};
    if (code == 0x41) {
        vd_put_be32(cdb + 2, (uint32_t)lba);
        vd_put_be16(cdb + 7, (uint16_t)blocks);
    }
    else {
        vd_put_be64(cdb + 2, lba);
        vd_put_be32(cdb + 10, blocks);
    }
    run(cdb, code == 0x41 ? 10 : 16, false, block, length);
}

static void
test_write_same_data(uint8_t code)
{
    size_t size = unit.block_size;
    uint8_t *block = malloc(size);
    for (size_t i = 0; i < size; i++) {
        block[i] = (uint8_t)(i * 3 + code);
    }
    memset(medium.bytes, 0x55, medium.size);
    medium.zeros = 0;
    same(code, 0, 1, BLOCKS - 2, block, size);
    good(size);
    CHECK_EQ(0, medium.zeros);
    for (size_t i = 1; i < BLOCKS - 1; i++) {
        CHECK_BYTES(block, medium.bytes + i * size, size);
    }
    CHECK_EQ(0x55, medium.bytes[size - 1]);
    CHECK_EQ(0x55, medium.bytes[(BLOCKS - 1) * size]);
    /* Unmapping is an offer: what is not zeros is written all the same. */
    same(code, 0x08, 0, 1, block, size);
    good(size);
    CHECK_BYTES(block, medium.bytes, size);
    memset(block, 0, size);
    medium.frees = 0;
    same(code, 0, 3, 2, block, size);
    good(size);
    CHECK_EQ(1, medium.zeros);
    CHECK_EQ(0, medium.frees);
    same(code, 0x08, 5, 2, block, size);
    good(size);
    CHECK_EQ(1, medium.frees);
    CHECK_EQ(0, medium.bytes[3 * size]);
    CHECK_EQ(0, medium.bytes[7 * size - 1]);
    CHECK(medium.bytes[7 * size] != 0 || medium.bytes[7 * size + 1] != 0);
    free(block);
}

static void
test_write_same_refusals(uint8_t code, unsigned count_byte)
{
    uint8_t block[4096] = {0};
    size_t size = unit.block_size;
    same(code, 0, 0, 0, block, size); /* not "to the end" */
    bad_byte(count_byte);
    same(code, 0, 0, 1, block, size - 1);
    bad_byte(count_byte);
    same(code, 0, BLOCKS - 1, 2, block, size);
    out_of_range(BLOCKS);
    for (unsigned bit = 1; bit < 8; bit++) {
        if (bit != 3) {
            same(code, (uint8_t)(1u << bit), 0, 1, block, size);
            bad_byte(1);
        }
    }
    unit.thin = false;
    same(code, 0x08, 0, 1, block, size);
    bad_byte(1);
    unit.thin = true;
}

static void
test_write_same(void)
{
    test_write_same_data(0x41);
    test_write_same_data(0x93);
    test_write_same_refusals(0x41, 7);
    test_write_same_refusals(0x93, 10);
    same(0x41, 0x01, 0, 1, NULL, 0);
    bad_byte(1);
    medium.bytes[0] = 0x55;
    same(0x93, 0x01, 0, 1, NULL, 0); /* zeros without a block of them */
    good(0);
    CHECK_EQ(0, medium.bytes[0]);
    unit.blocks = UINT64_C(1) << 40;
    same(0x93, 0x01, 0, (1u << 30) / unit.block_size + 1, NULL, 0);
    bad_byte(10);
    unit.blocks = BLOCKS;
}

/* ---- what goes wrong ---- */

static void
test_write_protection(void)
{
    uint8_t block[4096] = {0};
    uint8_t list[24] = {0, 22, 0, 16};
    unsigned changes = medium.writes + medium.zeros;
    unit.read_only = true;
    uint8_t cdb[16];
    for (size_t i = 0; i < COUNT(lengths); i++) {
        size_t length = make_cdb(cdb, lengths[i], true, 0, 1);
        run(cdb, length, false, block, sizeof(block));
        sense(0x72700);
    }
    unmap(list, sizeof(list), sizeof(list));
    sense(0x72700);
    same(0x41, 0, 0, 1, block, sizeof(block));
    sense(0x72700);
    same(0x93, 0x01, 0, 1, NULL, 0);
    sense(0x72700);
    unit.read_only = false;
    CHECK_EQ(changes, medium.writes + medium.zeros);
}

static void
test_faults(void)
{
    static const struct {
        vd_error error;
        uint32_t read_sense;
        uint32_t write_sense;
    } rows[] = {
        {ERROR_IO_DEVICE, 0x31100, 0x30C00},
        {ERROR_CRC, 0x31100, 0x30C00},
        {ERROR_DISK_FULL, 0x31100, 0x72707},
        {ERROR_VHD_BLOCK_ALLOCATION_FAILURE, 0x31100, 0x72707},
        {ERROR_WRITE_PROTECT, 0x31100, 0x72700},
        {ERROR_NOT_ENOUGH_MEMORY, 0xB5503, 0xB5503},
        {ERROR_FILE_CORRUPT, 0x31100, 0x30C00},
    };
    uint8_t block[4096] = {1};
    uint8_t list[24] = {0, 22, 0, 16, [19] = 1};
    for (size_t i = 0; i < COUNT(rows); i++) {
        medium.fault = rows[i].error;
        IN(block, sizeof(block), 0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0);
        sense(rows[i].read_sense);
        OUT(block, sizeof(block), 0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0);
        sense(rows[i].write_sense);
        OUT(NULL, 0, 0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0);
        sense(rows[i].write_sense);
        unmap(list, sizeof(list), sizeof(list));
        sense(rows[i].write_sense);
        same(0x41, 0, 0, 1, block, sizeof(block));
        sense(rows[i].write_sense);
        same(0x93, 0x01, 0, 1, NULL, 0);
        sense(rows[i].write_sense);
        medium.fault = 0;
    }
}

static vd_error
write_and_break(void *context, const void *buffer, size_t length,
                uint64_t offset)
{
    vd_error error = medium_write(context, buffer, length, offset);
    ((struct medium *)context)->fault = ERROR_IO_DEVICE;
    return error;
}

/* The write that FUA asks to be durable, and the flush fails. */
static void
test_failed_flush(void)
{
    struct vd_scsi_medium breaking = functions;
    uint8_t sector[4096] = {1};
    breaking.write = write_and_break;
    unit.medium = &breaking;
    OUT(sector, sizeof(sector), 0x2A, 0x08, 0, 0, 0, 0, 0, 0, 1, 0);
    sense(0x30C00);
    unit.medium = &functions;
    medium.fault = 0;
}

static void
test_all(uint32_t block_size)
{
    new_unit(block_size);
    test_transfers();
    test_lba_status();
    test_unmap();
    test_write_same();
    test_write_protection();
    test_faults();
    test_failed_flush();
}

int
main(void)
{
    new_unit(512);
    test_operation_codes();
    test_short_cdbs();
    test_control_byte();
    test_inquiry();
    test_identity_pages();
    test_capability_pages();
    test_capacity();
    test_mode_sense();
    test_luns_and_sense();
    test_odd_transfers();
    test_flushes();
    test_all(512);
    test_all(4096);
    free(medium.bytes);
    return check_result();
}
