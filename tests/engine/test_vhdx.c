/*
 * VHDX against fixed test vectors: checksums, headers, region tables, the
 * log of a real file entry by entry, and the arithmetic of the block
 * allocation table ([MS-VHDX] 2.2-2.5; FORMATS.md 9.1 and 9.4-9.7).
 */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "check.h"
#include "crash_file.h"
#include "format/format.h"
#include "format/vhdx.h"
#include "format/vhdx_create.h"

#define MIB (1024u * 1024u)
#define GIB ((uint64_t)1 << 30)
#define TIB ((uint64_t)1 << 40)
#define PAGE 4096u
#define LOG_OFFSET MIB
#define BAT_OFFSET (3 * MIB)
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- 9.1 ---- */

static void
check_text(uint32_t crc, const char *text)
{
    CHECK_EQ(crc, vd_crc32c(text, strlen(text)));
}

static void
check_run(uint32_t crc, int byte, size_t length)
{
    uint8_t *bytes = malloc(length);
    memset(bytes, byte, length);
    CHECK_EQ(crc, vd_crc32c(bytes, length));
    free(bytes);
}

static void
crc_is_castagnoli(void)
{
    /* RFC 3720 B.4: a SCSI Read (10) command PDU. */
    static const uint8_t pdu[48] = {
        0x01, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,    0, 0, 0, 0,
        0x14, 0,    0, 0, 0, 0, 4, 0, 0, 0, 0, 0x14, 0, 0, 0, 0x18,
        0x28, 0,    0, 0, 0, 0, 0, 0, 2, 0, 0, 0,    0, 0, 0, 0};
    uint8_t rising[32], falling[32];
    for (uint8_t i = 0; i < 32; i++) {
        rising[i] = i;
        falling[i] = (uint8_t)(31 - i);
    }
    check_text(0x00000000, "");
    check_text(0xC1D04330, "a");
    check_text(0xE3069283, "123456789");
    check_text(0x22620404, "The quick brown fox jumps over the lazy dog");
    check_run(0x8A9136AA, 0x00, 32);
    check_run(0x62A8AB43, 0xff, 32);
    check_run(0x98F94189, 0x00, 4096);
    check_run(0x72C0C4A4, 0x00, 65536);
    CHECK_EQ(0x46DD794E, vd_crc32c(rising, sizeof(rising)));
    CHECK_EQ(0x113FDB5C, vd_crc32c(falling, sizeof(falling)));
    CHECK_EQ(0xD9963A56, vd_crc32c(pdu, sizeof(pdu)));
}

static void
a_structure_is_summed_without_its_sum(void)
{
    uint8_t structure[64] = "head";
    uint32_t crc = vd_crc32c(structure, sizeof(structure));
    for (size_t at = 4; at <= 60; at += 28) {
        memset(structure + at, 0xa5, 4);
        CHECK_EQ(crc, vd_crc32c_skipping(structure, sizeof(structure), at));
        memset(structure + at, 0, 4);
    }
}

/* ---- 9.4 ---- */

/* "3743b891-5ce0-4c99-825b-3572b8b649f5" as it stands in the file. */
static struct vd_guid
guid(const char *text)
{
    static const unsigned order[16] = {3, 2, 1,  0,  5,  4,  7,  6,
                                       8, 9, 10, 11, 12, 13, 14, 15};
    struct vd_guid found;
    size_t at = 0;
    for (size_t i = 0; i < 16; i++, at += 2) {
        char byte[3] = "";
        at += text[at] == '-';
        memcpy(byte, text + at, 2);
        found.bytes[order[i]] = (uint8_t)strtoul(byte, NULL, 16);
    }
    return found;
}

#define LOG_GUID "e6fc743c-81ed-4fe8-bf54-698ed57ba0b8"

struct header_vector {
    uint64_t sequence;
    const char *file_write, *data_write, *log;
    uint32_t crc;
};

static const struct header_vector header_vectors[] = {
    {18, "3743b891-5ce0-4c99-825b-3572b8b649f5",
     "f8f17a4f-f9cc-4303-86e8-50f9cf42c339", NULL, 0x2B003F87},
    {19, "3743b891-5ce0-4c99-825b-3572b8b649f5",
     "f8f17a4f-f9cc-4303-86e8-50f9cf42c339", NULL, 0xA9F8A3F0},
    {1, "81302b13-c7aa-47cd-8f27-96d4c46bf8ea",
     "fd03891c-29e5-4ad6-8ee1-7198d3b1e263", NULL, 0x0F5CF62B},
    {8, "b98791bc-45d8-445b-ade6-5cbe550f2290",
     "8fbc9db8-2cfd-45b8-9688-1c6fedbc7230", LOG_GUID, 0x6D6209C8},
    {9, "b98791bc-45d8-445b-ade6-5cbe550f2290",
     "8fbc9db8-2cfd-45b8-9688-1c6fedbc7230", LOG_GUID, 0xEF9A95BF},
};

static void
encode_header(const struct header_vector *vector, uint8_t buffer[PAGE])
{
    struct vhdx_header header = {
        .sequence = vector->sequence,
        .file_write_guid = guid(vector->file_write),
        .data_write_guid = guid(vector->data_write),
        .version = 1,
        .log_length = MIB,
        .log_offset = LOG_OFFSET,
    };
    if (vector->log != NULL) {
        header.log_guid = guid(vector->log);
    }
    vd_vhdx_header_encode(&header, buffer);
}

static void
headers_are_those_of_real_files(void)
{
    for (size_t i = 0; i < COUNT(header_vectors); i++) {
        uint8_t buffer[PAGE];
        encode_header(&header_vectors[i], buffer);
        CHECK_BYTES("head", buffer, 4);
        CHECK_EQ(header_vectors[i].crc, vd_get_le32(buffer + 4));
        CHECK_EQ(header_vectors[i].sequence, vd_get_le64(buffer + 8));
    }
}

static vd_error
create(struct crash_file *file, uint64_t size_bytes, uint32_t block_size)
{
    struct vhdx_create_request request = {
        .size_bytes = size_bytes,
        .block_size = block_size,
        .logical_sector_size = 512,
        .physical_sector_size = 4096,
    };
    return vd_vhdx_create(crash_file_of(file), &request);
}

/* A new image has the region tables that Windows writes. */
static void
new_region_tables_are_those_of_windows(void)
{
    struct crash_file *file = crash_file_new();
    CHECK_OK(create(file, GIB, 32 * MIB));
    for (unsigned copy = 0; copy < 2; copy++) {
        uint8_t head[8];
        CHECK_OK(vd_file_pread(crash_file_of(file), head, sizeof(head),
                               VHDX_REGION_TABLE_OFFSET(copy)));
        CHECK_BYTES("regi", head, 4);
        CHECK_EQ(0xC66B8CAE, vd_get_le32(head + 4));
    }
    crash_file_free(file);
}

/* ---- 9.6 ---- */

static void
guids_stand_in_the_file_as_in_memory(void)
{
    static const uint8_t parameters[] = {0x37, 0x67, 0xA1, 0xCA, 0x36, 0xFA,
                                         0x43, 0x4D, 0xB3, 0xB6, 0x33, 0xF0,
                                         0xAA, 0x44, 0xE7, 0x6B};
    static const uint8_t bat[] = {0x66, 0x77, 0xC2, 0x2D, 0x23, 0xF6,
                                  0x00, 0x42, 0x9D, 0x64, 0x11, 0x5E,
                                  0x9B, 0xFD, 0x4A, 0x08};
    static const uint8_t metadata[] = {0x06, 0xA2, 0x7C, 0x8B, 0x90, 0x47,
                                       0x9A, 0x4B, 0xB8, 0xFE, 0x57, 0x5F,
                                       0x05, 0x0F, 0x88, 0x6E};
    static const uint8_t locator[] = {0xB7, 0xEF, 0x4A, 0xB0, 0x9E, 0xD1,
                                      0x81, 0x4A, 0xB7, 0x89, 0x25, 0xB8,
                                      0xE9, 0x44, 0x59, 0x13};
    CHECK_BYTES(parameters, vd_vhdx_item_guid(VHDX_ITEM_FILE_PARAMETERS), 16);
    CHECK_BYTES(bat, &vd_vhdx_bat_region_guid, 16);
    CHECK_BYTES(metadata, &vd_vhdx_metadata_region_guid, 16);
    CHECK_BYTES(locator, &vd_vhdx_locator_type, 16);
}

/* ---- 9.5: the log of a file that Windows left dirty ---- */

struct word {
    unsigned index;
    uint64_t value;
};

struct log_vector {
    uint32_t offset, tail;
    uint64_t sequence;
    size_t words; /* 0: an entry without a page */
    struct word page[4];
    uint64_t flushed, last;
    uint32_t crc;
};

#define FIRST_SEQUENCE 80117443871106387u

static const struct log_vector log_vectors[] = {
    {0, 0, FIRST_SEQUENCE, 0, {{0, 0}}, 0x400000, 0x400000, 0xF08D8991},
    {0x1000,
     0x1000,
     FIRST_SEQUENCE + 1,
     1,
     {{0, 2}},
     0x400000,
     0x400000,
     0x8A4B81F5},
    {0x3000,
     0x1000,
     FIRST_SEQUENCE + 2,
     2,
     {{0, 2}, {31, 2}},
     0x400000,
     0x400000,
     0xE8F5F9BC},
    {0x5000,
     0x1000,
     FIRST_SEQUENCE + 3,
     2,
     {{0, 0x400006}, {31, 2}},
     0x400000,
     0x2400000,
     0x9ABDE529},
    {0x7000,
     0x5000,
     FIRST_SEQUENCE + 4,
     4,
     {{0, 0x400006}, {3, 2}, {9, 2}, {31, 2}},
     0x2400000,
     0x2400000,
     0xA967B19F},
};

#define HEAD (&log_vectors[COUNT(log_vectors) - 1])

static void
build_page(const struct log_vector *vector, uint8_t page[PAGE])
{
    memset(page, 0, PAGE);
    for (size_t i = 0; i < vector->words; i++) {
        vd_put_le64(page + 8 * vector->page[i].index, vector->page[i].value);
    }
}

/* Written from the specification, not with the engine's own writer. */
static size_t
build_entry(const struct log_vector *vector, uint64_t target,
            uint8_t entry[2 * PAGE])
{
    const struct vd_guid log_guid = guid(LOG_GUID);
    size_t length = vector->words != 0 ? 2 * PAGE : PAGE;
    uint8_t page[PAGE];
    memset(entry, 0, 2 * PAGE);
    memcpy(entry, "loge", 4);
    vd_put_le32(entry + 8, (uint32_t)length);
    vd_put_le32(entry + 12, vector->tail);
    vd_put_le64(entry + 16, vector->sequence);
    vd_put_le32(entry + 24, vector->words != 0);
    memcpy(entry + 32, &log_guid, 16);
    vd_put_le64(entry + 48, vector->flushed);
    vd_put_le64(entry + 56, vector->last);
    if (vector->words != 0) {
        build_page(vector, page);
        memcpy(entry + 64, "desc", 4);
        memcpy(entry + 68, page + PAGE - 4, 4);
        memcpy(entry + 72, page, 8);
        vd_put_le64(entry + 80, target);
        vd_put_le64(entry + 88, vector->sequence);
        memcpy(entry + PAGE, "data", 4);
        vd_put_le32(entry + PAGE + 4, (uint32_t)(vector->sequence >> 32));
        memcpy(entry + PAGE + 8, page + 8, PAGE - 12);
        vd_put_le32(entry + 2 * PAGE - 4, (uint32_t)vector->sequence);
    }
    vd_put_le32(entry + 4, vd_crc32c(entry, length));
    return length;
}

static void
log_entries_are_those_of_a_real_file(void)
{
    for (size_t i = 0; i < COUNT(log_vectors); i++) {
        uint8_t entry[2 * PAGE];
        build_entry(&log_vectors[i], BAT_OFFSET, entry);
        CHECK_EQ(log_vectors[i].crc, vd_get_le32(entry + 4));
    }
    uint8_t entry[2 * PAGE];
    build_entry(&log_vectors[3], BAT_OFFSET, entry);
    CHECK_EQ(0x011CA264, vd_get_le32(entry + PAGE + 4));
    CHECK_EQ(0x063FE556, vd_get_le32(entry + 2 * PAGE - 4));
}

/* The real file's structures: 1 GiB in 32 MiB blocks, its BAT all zero.
 * Entries before the head's tail go to `early` instead of the BAT. */
static struct crash_file *
dirty_file(uint64_t early)
{
    struct crash_file *file = crash_file_new();
    struct vd_file *base = crash_file_of(file);
    CHECK_OK(create(file, GIB, 32 * MIB));
    for (unsigned slot = 0; slot < 2; slot++) {
        uint8_t header[PAGE];
        encode_header(&header_vectors[3 + slot], header);
        CHECK_OK(vd_file_pwrite(base, header, PAGE, VHDX_HEADER_OFFSET(slot)));
    }
    for (size_t i = 0; i < COUNT(log_vectors); i++) {
        const struct log_vector *vector = &log_vectors[i];
        uint8_t entry[2 * PAGE];
        uint64_t target = vector->offset < HEAD->tail ? early : BAT_OFFSET;
        size_t length = build_entry(vector, target, entry);
        CHECK_OK(
            vd_file_pwrite(base, entry, length, LOG_OFFSET + vector->offset));
    }
    return file;
}

/* What the head's page says of the disk. */
static void
check_replayed(struct vd_image *image, enum vd_extent_state first)
{
    struct vd_extent extent;
    CHECK(image->info.log_dirty);
    CHECK_OK(image->format->lookup(image, 4096, GIB - 4096, &extent));
    CHECK_EQ(first, extent.state);
    if (first == VD_EXTENT_PRESENT) {
        CHECK_EQ(0x400000 + 4096, extent.file_offset);
        CHECK_EQ(32 * MIB - 4096, extent.length);
    }
}

static void
check_word(struct crash_file *file, uint64_t offset, uint64_t value)
{
    uint8_t bytes[8];
    CHECK_OK(vd_file_pread(crash_file_of(file), bytes, sizeof(bytes), offset));
    CHECK_EQ(value, vd_get_le64(bytes));
}

/* In memory; the block's space, past the end of the file, reads as zeros. */
static void
a_reader_replays_in_memory(void)
{
    struct crash_file *file = dirty_file(BAT_OFFSET);
    struct vd_open_request request = {.writable = false};
    struct vd_image *image = NULL;
    size_t events;
    uint64_t size;
    /* FlushedFileOffset: the file had grown before the head was written. */
    CHECK_EQ(ERROR_FILE_CORRUPT,
             vd_vhdx_format.open(crash_file_of(file), &request, &image));
    CHECK_OK(vd_file_truncate(crash_file_of(file), HEAD->flushed));
    events = crash_file_events(file);
    if (CHECK_OK(vd_vhdx_format.open(crash_file_of(file), &request, &image))) {
        check_replayed(image, VD_EXTENT_PRESENT);
        CHECK_OK(vd_vhdx_format.close(image));
    }
    CHECK_EQ(events, crash_file_events(file));
    check_word(file, BAT_OFFSET, 0);
    CHECK_OK(vd_file_size(crash_file_of(file), &size));
    CHECK_EQ(HEAD->flushed, size);
    crash_file_free(file);
}

static void
open_for_writing(struct crash_file *file)
{
    struct vd_open_request request = {.writable = true};
    struct vd_image *image = NULL;
    memset(&request.session, 0x77, sizeof(request.session));
    if (CHECK_OK(vd_vhdx_format.open(crash_file_of(file), &request, &image))) {
        check_replayed(image, VD_EXTENT_PRESENT);
        CHECK_OK(vd_vhdx_format.close(image));
    }
}

static void
check_clean(struct crash_file *file)
{
    uint8_t page[PAGE], expected[PAGE];
    build_page(HEAD, expected);
    CHECK_OK(vd_file_pread(crash_file_of(file), page, PAGE, BAT_OFFSET));
    CHECK_BYTES(expected, page, PAGE);
    for (unsigned slot = 0; slot < 2; slot++) {
        check_word(file, VHDX_HEADER_OFFSET(slot) + 48, 0); /* LogGuid */
        check_word(file, VHDX_HEADER_OFFSET(slot) + 56, 0);
        check_word(file, VHDX_HEADER_OFFSET(slot) + 16, 0x7777777777777777);
    }
}

static void
a_writer_replays_into_the_file(void)
{
    struct crash_file *file = dirty_file(BAT_OFFSET);
    CHECK_OK(vd_file_truncate(crash_file_of(file), HEAD->flushed));
    open_for_writing(file);
    check_clean(file);
    crash_file_free(file);
}

/* What is before the head's tail is in the file already, or older than what
 * is: it must not be applied again. */
static void
replay_begins_at_the_tail(void)
{
    struct crash_file *file = dirty_file(BAT_OFFSET + PAGE);
    CHECK_OK(vd_file_truncate(crash_file_of(file), HEAD->flushed));
    open_for_writing(file);
    check_clean(file);
    check_word(file, BAT_OFFSET + PAGE, 0);
    check_word(file, BAT_OFFSET + PAGE + 31 * 8, 0);
    crash_file_free(file);
}

/* A torn head does not count: its predecessor is the head, and grows the
 * file to its LastFileOffset. */
static void
a_torn_head_is_left_out(void)
{
    static const uint8_t noise[512] = {1};
    struct crash_file *file = dirty_file(BAT_OFFSET);
    struct vd_file *base = crash_file_of(file);
    uint64_t size;
    CHECK_OK(vd_file_pwrite(base, noise, sizeof(noise),
                            LOG_OFFSET + HEAD->offset + PAGE + 512));
    open_for_writing(file);
    check_word(file, BAT_OFFSET, 0x400006);
    check_word(file, BAT_OFFSET + 8 * 3, 0);
    check_word(file, BAT_OFFSET + 8 * 31, 2);
    CHECK_OK(vd_file_size(base, &size));
    CHECK_EQ(0x2400000, size);
    crash_file_free(file);
}

/* ---- 9.7 ---- */

struct bat_vector {
    uint64_t size;
    uint32_t block, sector;
    uint64_t blocks, ratio, chunks, entries, entries_of_child;
    uint32_t region; /* MiB */
};

static const struct bat_vector bat_vectors[] = {
    {3 * MIB, 2 * MIB, 512, 2, 2048, 1, 2, 2049, 1},
    {4 * GIB, MIB, 512, 4096, 4096, 1, 4096, 4097, 1},
    {4 * GIB + MIB, MIB, 512, 4097, 4096, 2, 4098, 8194, 1},
    {10 * GIB, 32 * MIB, 512, 320, 128, 3, 322, 387, 1},
    {127 * GIB, 2 * MIB, 512, 65024, 2048, 32, 65055, 65568, 1},
    {TIB, 32 * MIB, 4096, 32768, 1024, 32, 32799, 32800, 1},
    {64 * TIB, 32 * MIB, 512, 2097152, 128, 16384, 2113535, 2113536, 17},
    {64 * TIB, 256 * MIB, 512, 262144, 16, 16384, 278527, 278528, 3},
    {64 * TIB, MIB, 512, 67108864, 4096, 16384, 67125247, 67125248, 513},
};

static struct vhdx_geometry
geometry_of(const struct bat_vector *vector, bool child)
{
    struct vhdx_metadata metadata = {
        .size_bytes = vector->size,
        .block_size = vector->block,
        .logical_sector_size = vector->sector,
        .physical_sector_size = 4096,
        .has_parent = child,
    };
    struct vhdx_geometry geometry = {0};
    vd_vhdx_geometry_of(&metadata, &geometry);
    return geometry;
}

static void
the_table_is_as_long_as_it_must_be(void)
{
    for (size_t i = 0; i < COUNT(bat_vectors); i++) {
        const struct bat_vector *vector = &bat_vectors[i];
        struct vhdx_geometry flat = geometry_of(vector, false);
        struct vhdx_geometry child = geometry_of(vector, true);
        CHECK_EQ(vector->blocks, flat.payload_blocks);
        CHECK_EQ(vector->ratio, flat.chunk_ratio);
        CHECK_EQ(vector->chunks, flat.chunks);
        CHECK_EQ(vector->entries, flat.bat_entries);
        CHECK_EQ(vector->entries_of_child, child.bat_entries);
        CHECK_EQ(vector->entries - 1,
                 vd_vhdx_payload_index(&flat, vector->blocks - 1));
        CHECK_EQ(vector->entries_of_child - 1,
                 vd_vhdx_bitmap_index(&child, vector->chunks - 1));
    }
}

/* As a new image's region table says. */
static void
the_region_holds_the_table(void)
{
    for (size_t i = 0; i < COUNT(bat_vectors); i++) {
        const struct bat_vector *vector = &bat_vectors[i];
        struct crash_file *file = crash_file_new();
        uint8_t length[4];
        if (vector->region < 200 && vector->sector == 512) {
            CHECK_OK(create(file, vector->size, vector->block));
            CHECK_OK(vd_file_pread(crash_file_of(file), length, 4,
                                   VHDX_REGION_TABLE_OFFSET(0) + 40));
            CHECK_EQ(vector->region * MIB, vd_get_le32(length));
        }
        crash_file_free(file);
    }
}

static void
the_worked_example(void)
{
    static const struct bat_vector disk = {
        .size = 10 * GIB, .block = 32 * MIB, .sector = 512};
    struct vhdx_geometry geometry = geometry_of(&disk, true);
    CHECK_EQ(161, vd_vhdx_payload_index(&geometry, 160));
    CHECK_EQ(128, vd_vhdx_bitmap_index(&geometry, 0));
    CHECK_EQ(257, vd_vhdx_bitmap_index(&geometry, 1));
    CHECK_EQ(VHDX_FULLY_PRESENT, VHDX_ENTRY_STATE(0x0000000002400006));
    CHECK_EQ(36 * MIB, VHDX_ENTRY_OFFSET(0x0000000002400006));
}

/* The example's bit: sector 8 of block 160 is bit 0 of byte 262145. */
static void
the_worked_example_in_a_file(void)
{
    struct vhdx_create_request request = {
        .size_bytes = 10 * GIB,
        .block_size = 32 * MIB,
        .logical_sector_size = 512,
        .physical_sector_size = 4096,
        .has_parent = true,
        .relative_path = u".\\parent.vhdx",
    };
    struct crash_file *file = crash_file_new();
    struct vd_open_request open = {.writable = true};
    struct vd_image *image = NULL;
    uint8_t sector[512] = {1}, entry[8], bits[2];
    memset(&request.parent_linkage, 1, VD_GUID_SIZE);
    memset(&open.session, 0x77, sizeof(open.session));
    CHECK_OK(vd_vhdx_create(crash_file_of(file), &request));
    if (CHECK_OK(vd_vhdx_format.open(crash_file_of(file), &open, &image))) {
        CHECK_OK(vd_vhdx_format.write(image, sector, sizeof(sector),
                                      5 * GIB + 4096));
        CHECK_OK(vd_vhdx_format.close(image));
    }
    CHECK_OK(
        vd_file_pread(crash_file_of(file), entry, 8, BAT_OFFSET + 161 * 8));
    CHECK_EQ(VHDX_PARTIALLY_PRESENT, VHDX_ENTRY_STATE(vd_get_le64(entry)));
    CHECK_OK(
        vd_file_pread(crash_file_of(file), entry, 8, BAT_OFFSET + 257 * 8));
    CHECK_EQ(VHDX_BITMAP_PRESENT, VHDX_ENTRY_STATE(vd_get_le64(entry)));
    CHECK_OK(vd_file_pread(crash_file_of(file), bits, 2,
                           VHDX_ENTRY_OFFSET(vd_get_le64(entry)) + 262144));
    CHECK_EQ(0x00, bits[0]);
    CHECK_EQ(0x01, bits[1]);
    crash_file_free(file);
}

int
main(void)
{
    crc_is_castagnoli();
    a_structure_is_summed_without_its_sum();
    headers_are_those_of_real_files();
    new_region_tables_are_those_of_windows();
    guids_stand_in_the_file_as_in_memory();
    log_entries_are_those_of_a_real_file();
    a_reader_replays_in_memory();
    a_writer_replays_into_the_file();
    replay_begins_at_the_tail();
    a_torn_head_is_left_out();
    the_table_is_as_long_as_it_must_be();
    the_region_holds_the_table();
    the_worked_example();
    the_worked_example_in_a_file();
    return check_result();
}
