/* The VHD format: footers, geometry, recovery, hostile fields. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "format/format.h"
#include "format/vhd_footer.h"
#include "memory_file.h"
#include "vhd_bytes.h"

#define MIB (1024ull * 1024)
#define GIB (1024 * MIB)
#define DATA 8192

#define MISSING 0xC03A0001
#define CHECKSUM 0xC03A0002
#define CORRUPT 0xC03A0003
#define UNKNOWN 0xC03A0004
#define VERSION 0xC03A0005
#define INVALID_SIZE 0xC03A0012
#define INVALID_FILE_SIZE 0xC03A0013
#define HEADER_CORRUPT 0xC03A0008

/* Footers found in images made by the named software, but for the last two,
 * which were computed with independent code. */
static void
real_footers_decode(void)
{
    static const struct {
        struct footer_values values;
        uint8_t id[16];
        uint32_t checksum;
        uint64_t creator_size;
    } vectors[] = {
        {{"win ", 0x00060003, 509185783, 136365211648, 0xFEFE10FF, 3, 512,
          NULL},
         {0x6d, 0x2d, 0x5f, 0xc8, 0xee, 0xba, 0xde, 0x4c, 0x8c, 0xee, 0xde,
          0x3a, 0x12, 0xdb, 0x7c, 0x98},
         0xFFFFE9DB,
         136365211648},
        {{"vpc ", 0x00010000, 509016516, 136365211648, 0xFEFE10FF, 3, 512,
          NULL},
         {0x33, 0xea, 0x00, 0x13, 0x61, 0x91, 0x4d, 0x02, 0xb9, 0x3f, 0x88,
          0xaf, 0x84, 0x29, 0x6f, 0x85},
         0xFFFFEC98,
         136363130880},
        {{"d2v\0", 0x00010000, 509734287, 263454720, 0xFFFF10FF, 3, 512, NULL},
         {0xe7, 0xb8, 0x29, 0xfd, 0xe6, 0x6d, 0xba, 0x49, 0xac, 0x19, 0x6e,
          0xbd, 0xab, 0x26, 0xce, 0xa3},
         0xFFFFEA55,
         263454720},
        {{"win ", 0x000A0000, 655986203, 4194304, 0x00780411, 4, 512, NULL},
         {0xf8, 0x4f, 0x16, 0x36, 0xcd, 0x9e, 0x90, 0x41, 0xa6, 0x9e, 0xdc,
          0xc2, 0x38, 0x0e, 0x41, 0x6a},
         0xFFFFF02C,
         4194304},
        {{"vpc ", 0x00010000, 421664240, 536870912, 0x0410103F, 4, 512, NULL},
         {0x40, 0xd5, 0x6d, 0x36, 0x9a, 0xb8, 0x4f, 0xe4, 0xa3, 0x1a, 0x12,
          0x1f, 0xe2, 0xbf, 0x15, 0xeb},
         0xFFFFF023,
         536739840},
        {{"win ", 0x000A0000, 0, 10485760, 0x012D0411, 2, UINT64_MAX, NULL},
         {0},
         0xFFFFF04D,
         10485760},
        {{"win ", 0x000A0000, 0, 1073741824, 0x0820103F, 2, UINT64_MAX, NULL},
         {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
         0xFFFFF061,
         1073741824},
    };
    for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
        uint8_t raw[FOOTER];
        struct vd_vhd_footer footer;
        struct footer_values values = vectors[i].values;
        values.id = vectors[i].id;
        CHECK_EQ(vectors[i].checksum, put_footer(raw, &values));
        CHECK_EQ(vectors[i].checksum, vd_vhd_checksum(raw, FOOTER, 64));
        CHECK_OK(vd_vhd_footer_decode(raw, &footer));
        CHECK_EQ(values.size, footer.current_size);
        CHECK_EQ(values.type, footer.disk_type);
        CHECK_EQ(values.data_offset, footer.data_offset);
        CHECK_EQ(values.geometry >> 16, footer.geometry.cylinders);
        CHECK_EQ(values.geometry >> 8 & 0xFF, footer.geometry.heads);
        CHECK_EQ(values.geometry & 0xFF, footer.geometry.sectors_per_track);
        CHECK_BYTES(values.creator, footer.creator_application, 4);
        CHECK_BYTES(vectors[i].id, footer.unique_id.bytes, 16);
        CHECK_EQ(vectors[i].creator_size, vd_vhd_footer_creator_size(&footer));
    }
}

static void
dynamic_headers_have_the_same_checksum(void)
{
    static const struct {
        uint32_t entries;
        uint32_t checksum;
    } vectors[] = {
        {1, 0xFFFFF476},   {126, 0xFFFFF3F9},   {512, 0xFFFFF475},
        {513, 0xFFFFF474}, {65024, 0xFFFFF379},
    };
    for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
        uint8_t header[1024] = "cxsparse";
        put_be(header + 8, UINT64_MAX, 8);
        put_be(header + 16, 0x600, 8);
        put_be(header + 24, 0x00010000, 4);
        put_be(header + 28, vectors[i].entries, 4);
        put_be(header + 32, 0x200000, 4);
        put_be(header + 36, 0x12345678, 4); /* must not count */
        CHECK_EQ(vectors[i].checksum, vd_vhd_checksum(header, 1024, 36));
    }
}

static void
check_geometry(uint64_t size, uint32_t cylinders, unsigned heads,
               unsigned sectors)
{
    struct vd_vhd_geometry geometry = vd_vhd_geometry_of_size(size);
    CHECK_EQ(cylinders, geometry.cylinders);
    CHECK_EQ(heads, geometry.heads);
    CHECK_EQ(sectors, geometry.sectors_per_track);
    CHECK_EQ((uint64_t)cylinders * heads * sectors * 512,
             vd_vhd_geometry_size(geometry));
}

static void
geometry_is_the_specification_s(void)
{
    check_geometry(3 * MIB, 90, 4, 17);
    check_geometry(10 * MIB, 301, 4, 17);
    check_geometry(40 * MIB, 963, 5, 17);
    check_geometry(64 * MIB, 963, 8, 17);
    check_geometry(100 * MIB, 1003, 12, 17);
    check_geometry(127 * MIB, 1019, 15, 17);
    check_geometry(136 * MIB, 561, 16, 31);
    check_geometry(200 * MIB, 825, 16, 31);
    check_geometry(248 * MIB, 503, 16, 63);
    check_geometry(256 * MIB, 520, 16, 63);
    check_geometry(504 * MIB, 1024, 16, 63);
    check_geometry(512 * MIB, 1040, 16, 63);
    check_geometry(1 * GIB, 2080, 16, 63);
    check_geometry(4 * GIB, 8322, 16, 63);
    check_geometry(10 * GIB, 20805, 16, 63);
    check_geometry(31 * GIB, 64495, 16, 63);
    check_geometry(32 * GIB, 16448, 16, 255);
    check_geometry(40 * GIB, 20560, 16, 255);
    check_geometry(127 * GIB, 65278, 16, 255);
    check_geometry(128 * GIB, 65535, 16, 255);
    check_geometry(2040 * GIB, 65535, 16, 255);
    check_geometry(69631ull * 512, 1023, 4, 17);
    check_geometry(69632ull * 512, 140, 16, 31);
    check_geometry(278527ull * 512, 1023, 16, 17);
    check_geometry(278528ull * 512, 561, 16, 31);
    check_geometry(507903ull * 512, 1023, 16, 31);
    check_geometry(507904ull * 512, 503, 16, 63);
    check_geometry(66059279ull * 512, 65534, 16, 63);
    check_geometry(66059280ull * 512, 16191, 16, 255);
    check_geometry(267382800ull * 512, 65535, 16, 255);
    check_geometry(UINT64_MAX, 65535, 16, 255);
    check_geometry(0, 0, 4, 17);
    check_geometry(67125248, 964, 8, 17); /* as QEMU rounds 64 MiB up */
}

static uint64_t
creator_size(const char *creator, uint64_t size,
             struct vd_vhd_geometry geometry)
{
    struct vd_vhd_footer footer = {.current_size = size, .geometry = geometry};
    memcpy(footer.creator_application, creator, 4);
    return vd_vhd_footer_creator_size(&footer);
}

static void
the_maker_tells_the_guest_s_size(void)
{
    static const char *const by_geometry[] = {"vpc ", "vs  ", "qemu"};
    static const char *const by_size[] = {"win ", "qem2",   "d2v\0", "tap\0",
                                          "CTXS", "wa\0\0", "vbox",  "    "};
    struct vd_vhd_geometry geometry = {963, 5, 17};
    uint64_t smaller = 963ull * 5 * 17 * 512;
    for (size_t i = 0; i < 3; i++) {
        CHECK_EQ(smaller, creator_size(by_geometry[i], 40 * MIB, geometry));
        CHECK_EQ(smaller - 512,
                 creator_size(by_geometry[i], smaller - 512, geometry));
        CHECK_EQ(200 * GIB,
                 creator_size(by_geometry[i], 200 * GIB,
                              (struct vd_vhd_geometry){65535, 16, 255}));
        CHECK_EQ(40 * MIB, creator_size(by_geometry[i], 40 * MIB,
                                        (struct vd_vhd_geometry){0, 0, 0}));
    }
    for (size_t i = 0; i < 8; i++) {
        CHECK_EQ(40 * MIB, creator_size(by_size[i], 40 * MIB, geometry));
    }
}

static const struct vd_open_request read_only = {.writable = false};

/* Files are of exact size on the heap, for the sanitizer to guard. */
struct test_file {
    uint8_t *content;
    size_t size;
};

static struct test_file
new_file(size_t size)
{
    struct test_file file = {calloc(1, size + (size == 0)), size};
    return file;
}

static bool
recognised(const struct test_file *file)
{
    bool found = false;
    struct memory_file memory = memory_file_over(file->content, file->size);
    CHECK_OK(vd_vhd_format.probe(&memory.file, &found));
    return found;
}

static vd_error
open_error(const struct test_file *file)
{
    struct vd_image *opened = NULL;
    struct memory_file memory = memory_file_over(file->content, file->size);
    vd_error error = vd_vhd_format.open(&memory.file, &read_only, &opened);
    if (error == 0) {
        CHECK_OK(opened->format->close(opened));
    }
    else {
        CHECK(opened == NULL);
    }
    return error;
}

static struct test_file
fixed_file(size_t footer_size)
{
    uint8_t footer[FOOTER];
    struct test_file file = new_file(DATA + footer_size);
    memset(file.content, 0xDA, DATA);
    put_simple_footer(footer, DATA, 2);
    memcpy(file.content + DATA, footer, footer_size);
    return file;
}

static void
fixed_disks_open(size_t footer_size)
{
    struct test_file file = fixed_file(footer_size);
    struct memory_file memory = memory_file_over(file.content, file.size);
    struct vd_image *image = NULL;
    struct vd_extent extent;
    CHECK(recognised(&file));
    CHECK_OK(vd_vhd_format.open(&memory.file, &read_only, &image));
    CHECK(image->format == &vd_vhd_format);
    CHECK(image->file == &memory.file);
    CHECK_EQ(DATA, image->info.size_bytes);
    CHECK_EQ(512, image->info.sector_size);
    CHECK_EQ(512, image->info.physical_sector_size);
    CHECK_EQ(0, image->info.block_size);
    CHECK_EQ(VD_SUBTYPE_FIXED, image->info.subtype);
    CHECK(!image->info.optical);
    CHECK(image->info.has_identifier);
    CHECK_BYTES(footer_id, image->info.identifier.bytes, 16);
    CHECK_OK(image->format->lookup(image, 100, DATA - 100, &extent));
    CHECK_EQ(VD_EXTENT_PRESENT, extent.state);
    CHECK_EQ(100, extent.file_offset);
    CHECK_EQ(DATA - 100, extent.length);
    CHECK_OK(image->format->close(image));
    free(file.content);
    CHECK_STR("VHD", vd_vhd_format.name);
    CHECK_EQ(2, vd_vhd_format.device_id);
}

/* Each: what is written into the footer of a good fixed disk, and the code
 * it then gives; with fix, the checksum is right again. */
static void
fields_are_validated(void)
{
    static const struct {
        unsigned offset;
        unsigned size;
        uint64_t value;
        bool fix;
        vd_error error;
    } cases[] = {
        {0, 8, 0x436F6E6563746978, true, MISSING}, /* "Conectix" */
        {200, 1, 1, false, CHECKSUM},
        {64, 4, 0, false, CHECKSUM},
        {12, 4, 0x00020000, true, VERSION},
        {12, 4, 0, true, VERSION},
        {12, 4, 0x00010001, true, 0}, /* another minor version */
        {60, 4, 0, true, UNKNOWN},
        {60, 4, 1, true, UNKNOWN},
        {60, 4, 5, true, UNKNOWN},
        {60, 4, 6, true, UNKNOWN},
        {60, 4, 0xFFFFFFFF, true, UNKNOWN},
        {60, 4, 0x01000002, true, UNKNOWN},
        {48, 8, 0, true, INVALID_SIZE},
        {48, 8, 511, true, INVALID_SIZE},
        {48, 8, DATA - 1, true, INVALID_SIZE},
        {48, 8, DATA - 512, true, 0}, /* a longer file is tolerated */
        {48, 8, DATA + 512, true, INVALID_FILE_SIZE},
        {48, 8, UINT64_MAX - 511, true, INVALID_FILE_SIZE},
        {48, 8, 1ull << 63, true, INVALID_FILE_SIZE},
        /* not required: */
        {8, 4, 0, true, 0},           /* the reserved feature bit */
        {16, 8, 512, true, 0},        /* the data offset of a fixed disk */
        {40, 8, 1, true, 0},          /* the original size */
        {56, 4, 0, true, 0},          /* a geometry */
        {85, 1, 1, true, 0},          /* zeros in reserved space */
        {28, 4, 0x78787878, true, 0}, /* a known creator */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct test_file file = fixed_file(FOOTER);
        uint8_t *footer = file.content + DATA;
        put_be(footer + cases[i].offset, cases[i].value, cases[i].size);
        if (cases[i].fix) {
            put_checksum(footer);
        }
        if (!CHECK_EQ(cases[i].error, open_error(&file))) {
            CHECK_EQ(UINT64_MAX, i); /* tells which */
        }
        CHECK_EQ(cases[i].error != MISSING, recognised(&file));
        free(file.content);
    }
}

/* Windows takes the current size, whoever made the image. */
static void
the_geometry_makes_no_disk_smaller(void)
{
    struct test_file file = fixed_file(FOOTER);
    struct memory_file memory = memory_file_over(file.content, file.size);
    struct vd_image *image = NULL;
    uint8_t *footer = file.content + DATA;
    memcpy(footer + 28, "vpc ", 4);
    put_be(footer + 56, 0x00010302, 4); /* 1 * 3 * 2 sectors */
    put_checksum(footer);
    CHECK_OK(vd_vhd_format.open(&memory.file, &read_only, &image));
    CHECK_EQ(DATA, image->info.size_bytes);
    CHECK_OK(image->format->close(image));
    free(file.content);
}

static void
only_the_exact_end_counts(void)
{
    struct test_file file = fixed_file(FOOTER);
    struct test_file longer = new_file(file.size + 512);
    memcpy(longer.content, file.content, file.size);
    CHECK(!recognised(&longer));
    CHECK_EQ(MISSING, open_error(&longer));
    for (size_t size = 0; size < 1100; size += 1 + (size % 97)) {
        struct test_file zeros = new_file(size);
        CHECK(!recognised(&zeros));
        CHECK_EQ(MISSING, open_error(&zeros));
        free(zeros.content);
    }
    free(longer.content);
    free(file.content);
}

/* Fixed disks whose guest data begins with another VHD. */
static void
the_guest_s_own_images_do_not_count(void)
{
    struct test_file file = fixed_file(FOOTER);
    put_simple_footer(file.content, 40 * MIB, 3);
    CHECK_OK(open_error(&file));
    put_simple_footer(file.content, 512, 2);
    file.content[DATA + 100] = 1; /* and a torn footer of their own */
    CHECK_EQ(CHECKSUM, open_error(&file));
    CHECK(recognised(&file));
    free(file.content);
}

static struct test_file
dynamic_file(uint32_t type)
{
    struct test_file file = new_file(512 + 1024 + 512 + FOOTER);
    put_simple_footer(file.content, 40 * MIB, type);
    memcpy(file.content + file.size - FOOTER, file.content, FOOTER);
    return file;
}

static void
other_kinds_need_a_header(void)
{
    for (uint32_t type = 3; type <= 4; type++) {
        struct test_file file = dynamic_file(type);
        CHECK(recognised(&file));
        CHECK_EQ(HEADER_CORRUPT, open_error(&file));
        free(file.content);
    }
}

static void
dynamic_fields_are_validated(void)
{
    static const struct {
        unsigned offset;
        uint64_t value;
        vd_error error;
    } cases[] = {
        {16, 0, CORRUPT},
        {16, 511, CORRUPT},
        {16, 513, CORRUPT},
        {16, 1024, HEADER_CORRUPT}, /* its last possible place */
        {16, 1536, CORRUPT},
        {16, UINT64_MAX, CORRUPT},
        {16, UINT64_MAX - 511, CORRUPT},
        {48, 0x1FE00000000, HEADER_CORRUPT},
        {48, 0x1FE00000200, INVALID_SIZE},
        {48, 0, INVALID_SIZE},
        {48, 100, INVALID_SIZE},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct test_file file = dynamic_file(3);
        uint8_t *tail = file.content + file.size - FOOTER;
        put_be(tail + cases[i].offset, cases[i].value, 8);
        put_checksum(tail);
        CHECK_EQ(cases[i].error, open_error(&file));
        free(file.content);
    }
}

enum damage { WHOLE, GONE, TORN, ASTRAY };

static void
damage_footer(uint8_t *footer, enum damage damage)
{
    if (damage == GONE) {
        memset(footer, 0, FOOTER);
    }
    if (damage == TORN) {
        footer[300] ^= 1;
    }
    if (damage == ASTRAY) {
        put_be(footer + 16, 513, 8); /* data offset */
        put_checksum(footer);
    }
}

/* Which of two footers counts, and what is said if none. */
static void
the_copy_at_the_head_helps(void)
{
    static const struct {
        enum damage tail;
        enum damage head;
        vd_error error;
    } cases[] = {
        {WHOLE, WHOLE, HEADER_CORRUPT}, {WHOLE, GONE, HEADER_CORRUPT},
        {WHOLE, TORN, HEADER_CORRUPT},  {WHOLE, ASTRAY, HEADER_CORRUPT},
        {GONE, WHOLE, HEADER_CORRUPT},  {TORN, WHOLE, HEADER_CORRUPT},
        {GONE, GONE, MISSING},          {GONE, TORN, CHECKSUM},
        {TORN, GONE, CHECKSUM},         {TORN, TORN, CHECKSUM},
        {GONE, ASTRAY, CORRUPT},        {TORN, ASTRAY, CORRUPT},
        {ASTRAY, WHOLE, CORRUPT}, /* what it says, it says */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct test_file file = dynamic_file(3 + i % 2);
        damage_footer(file.content + file.size - FOOTER, cases[i].tail);
        damage_footer(file.content, cases[i].head);
        CHECK_EQ(cases[i].error, open_error(&file));
        CHECK_EQ(cases[i].error != MISSING, recognised(&file));
        free(file.content);
    }
}

static void
the_footer_may_be_cut_off(void)
{
    struct test_file file = dynamic_file(3);
    file.size -= FOOTER;
    CHECK(recognised(&file));
    CHECK_EQ(HEADER_CORRUPT, open_error(&file));
    file.size = FOOTER; /* the head is then the tail, of no header */
    CHECK(recognised(&file));
    CHECK_EQ(CORRUPT, open_error(&file));
    free(file.content);
}

static void
faults_are_reported(void)
{
    struct test_file file = dynamic_file(3);
    file.content[file.size - 1] = 1; /* so that the head is read too */
    bool found = true;
    struct vd_image *opened = NULL;
    struct memory_file memory = memory_file_over(file.content, file.size);
    for (int n = 0; n < 4; n++) {
        memory.operations_left = n;
        CHECK_EQ(1117, vd_vhd_format.open(&memory.file, &read_only, &opened));
    }
    memory.operations_left = 4;
    CHECK_EQ(HEADER_CORRUPT,
             vd_vhd_format.open(&memory.file, &read_only, &opened));
    memset(file.content + file.size - FOOTER, 0, FOOTER);
    for (int n = 0; n < 4; n++) {
        memory.operations_left = n;
        CHECK_EQ(1117, vd_vhd_format.probe(&memory.file, &found));
    }
    free(file.content);
    file = fixed_file(FOOTER);
    check_fail_allocation(0);
    CHECK_EQ(8, open_error(&file));
    CHECK(check_fail_allocation(-1));
    CHECK(found && opened == NULL);
    free(file.content);
}

int
main(void)
{
    real_footers_decode();
    dynamic_headers_have_the_same_checksum();
    geometry_is_the_specification_s();
    the_maker_tells_the_guest_s_size();
    fixed_disks_open(512);
    fixed_disks_open(511);
    fields_are_validated();
    the_geometry_makes_no_disk_smaller();
    only_the_exact_end_counts();
    the_guest_s_own_images_do_not_count();
    other_kinds_need_a_header();
    dynamic_fields_are_validated();
    the_copy_at_the_head_helps();
    the_footer_may_be_cut_off();
    faults_are_reported();
    return check_result();
}
