/*
 * Dynamic and differencing VHDs: structures against bytes found in files of
 * Windows, where new blocks go, what becomes of their space, bitmaps.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "base/posix_file.h"
#include "check.h"
#include "format/vhd_header.h"
#include "vhd_support.h"

#define INVALID 87
#define NO_MEMORY 8
#define IO_DEVICE 1117
#define DISK_FULL 112
#define ALLOCATION_FAILURE 0xC03A0009

/* ---- structures ---- */

static void
set_name(char16_t *to, const char16_t *text)
{
    for (size_t i = 0; text[i] != 0; i++) {
        to[i] = text[i];
    }
}

/* A differencing disk made by Windows 10. */
static void
a_real_header_is_encoded(void)
{
    static const uint8_t parent[] = {0x5f, 0xa2, 0x1a, 0x55, 0xf3, 0x94,
                                     0xaa, 0x4d, 0x99, 0x58, 0x19, 0x51,
                                     0xa6, 0x7d, 0x55, 0x40};
    struct vd_vhd_header header = {
        .table_offset = 0x2000,
        .max_entries = 2,
        .block_size = 0x200000,
        .locators = {{VHD_PLATFORM_W2KU, 0x1000, 84, 0x1000},
                     {VHD_PLATFORM_W2RU, 0x10000, 32, 0x3000}},
    };
    struct vd_vhd_header decoded;
    uint8_t raw[1024];
    memcpy(header.parent_id.bytes, parent, sizeof(parent));
    set_name(header.parent_name,
             u"C:\\Projects\\dfvfs\\test_data\\fat-parent.vhd");
    vd_vhd_header_encode(&header, raw);
    CHECK_EQ(0xFFFFD951, vd_get_be32(raw + 36));
    CHECK_BYTES("\0C\0:\0\\\0P", raw + 64, 8);
    CHECK_BYTES("W2ku\0\0\x10\0\0\0\0\x54", raw + 576, 12);
    CHECK_OK(vd_vhd_header_decode(raw, &decoded));
    CHECK_EQ(0x2000, decoded.table_offset);
    CHECK_EQ(2, decoded.max_entries);
    CHECK_EQ(0x200000, decoded.block_size);
    CHECK_EQ(0, decoded.parent_time_stamp);
    CHECK_BYTES(parent, decoded.parent_id.bytes, 16);
    CHECK_BYTES(header.parent_name, decoded.parent_name,
                sizeof(header.parent_name));
    CHECK_EQ(0x57327275, decoded.locators[1].platform);
    CHECK_EQ(0x10000, decoded.locators[1].space);
    CHECK_EQ(32, decoded.locators[1].length);
    CHECK_EQ(0x3000, decoded.locators[1].offset);
    CHECK_EQ(0, decoded.locators[2].platform);
}

static void
dynamic_headers_are_encoded(void)
{
    static const struct {
        uint32_t entries;
        uint32_t checksum;
    } vectors[] = {
        {1, 0xFFFFF476},   {126, 0xFFFFF3F9},   {512, 0xFFFFF475},
        {513, 0xFFFFF474}, {65024, 0xFFFFF379},
    };
    for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
        struct vd_vhd_header header = {
            .table_offset = 0x600,
            .max_entries = vectors[i].entries,
            .block_size = 0x200000,
        };
        uint8_t raw[1024];
        vd_vhd_header_encode(&header, raw);
        CHECK_EQ(vectors[i].checksum, vd_get_be32(raw + 36));
    }
}

/* Two real footers and a computed one, from values to bytes. */
static void
footers_are_encoded(void)
{
    static const struct {
        struct footer_values values;
        uint8_t id[16];
        uint32_t checksum;
    } vectors[] = {
        {{"win ", 0x00060003, 509185783, 136365211648, 0xFEFE10FF, 3, 512,
          NULL},
         {0x6d, 0x2d, 0x5f, 0xc8, 0xee, 0xba, 0xde, 0x4c, 0x8c, 0xee, 0xde,
          0x3a, 0x12, 0xdb, 0x7c, 0x98},
         0xFFFFE9DB},
        {{"win ", 0x000A0000, 655986203, 4194304, 0x00780411, 4, 512, NULL},
         {0xf8, 0x4f, 0x16, 0x36, 0xcd, 0x9e, 0x90, 0x41, 0xa6, 0x9e, 0xdc,
          0xc2, 0x38, 0x0e, 0x41, 0x6a},
         0xFFFFF02C},
        {{"win ", 0x000A0000, 0, 1073741824, 0x0820103F, 2, UINT64_MAX, NULL},
         {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
         0xFFFFF061},
    };
    for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
        uint8_t expected[FOOTER], raw[FOOTER];
        struct vd_vhd_footer footer;
        struct footer_values values = vectors[i].values;
        values.id = vectors[i].id;
        CHECK_EQ(vectors[i].checksum, put_footer(expected, &values));
        CHECK_OK(vd_vhd_footer_decode(expected, &footer));
        vd_vhd_footer_encode(&footer, raw);
        CHECK_BYTES(expected, raw, FOOTER);
    }
}

static void
bitmaps_have_whole_sectors(void)
{
    CHECK_EQ(512, vd_vhd_bitmap_size(4 * KIB));
    CHECK_EQ(512, vd_vhd_bitmap_size(512 * KIB));
    CHECK_EQ(512, vd_vhd_bitmap_size(2 * MIB));
    CHECK_EQ(1024, vd_vhd_bitmap_size(4 * MIB));
    CHECK_EQ(64 * KIB, vd_vhd_bitmap_size(256 * MIB));
    CHECK_EQ(1, vd_vhd_entries_needed(512, 2 * MIB));
    CHECK_EQ(1, vd_vhd_entries_needed(2 * MIB, 2 * MIB));
    CHECK_EQ(2, vd_vhd_entries_needed(2 * MIB + 512, 2 * MIB));
    CHECK_EQ(1044480, vd_vhd_entries_needed(2040 * GIB, 2 * MIB));
}

/* Space is counted in bytes by some and in sectors by others. */
static void
locators_keep_space(void)
{
    static const struct {
        uint32_t space, length;
        uint64_t reserve;
    } cases[] = {
        {1, 84, 512},    {8, 84, 4096},    {511, 84, 261632},
        {512, 84, 512},  {4096, 84, 4096}, {65536, 32, 65536},
        {0, 84, 512},    {600, 84, 512},   {512, 513, 1024},
        {0, 1024, 1024}, {0, 0, 0},        {0, UINT32_MAX, 1ull << 32},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct vd_vhd_locator locator = {.space = cases[i].space,
                                         .length = cases[i].length};
        CHECK_EQ(cases[i].reserve, vd_vhd_locator_reserve(&locator));
    }
}

/* ---- reading ---- */

/* The one block of a differencing disk that Windows 10 has written. */
static void
a_real_bitmap_is_read(void)
{
    static const uint8_t bits[] = {2, 1, 0, 0xFF, 0, 0, 0, 0xCB, 0xA8};
    static const uint16_t set[] = {134, 143, 152, 153, 154, 155,
                                   156, 157, 158, 159, 184, 185,
                                   188, 190, 191, 192, 194, 196};
    struct build build = {.size = 4 * MIB, .block_size = 2 * MIB, .type = 4};
    struct crash_file *file = crash_file_new();
    build_image(crash_file_of(file), &build, 0x214E00);
    build_entry(crash_file_of(file), 0, 159);
    put_bytes(crash_file_of(file), 0x13E00 + 16, bits, sizeof(bits));
    struct vd_image *image = must_open(file, false);
    size_t next = 0;
    for (uint64_t sector = 0; sector < 4096; sector++) {
        bool present =
            next < sizeof(set) / sizeof(set[0]) && set[next] == sector;
        next += present;
        check_extent(image, sector * 512, 512,
                     present ? VD_EXTENT_PRESENT : VD_EXTENT_PARENT,
                     0x14000 + sector * 512, 512);
    }
    check_extent(image, 0, 4 * MIB, VD_EXTENT_PARENT, 0, 134 * 512);
    check_extent(image, 152 * 512, 4 * MIB - 152 * 512, VD_EXTENT_PRESENT,
                 0x14000 + 152 * 512, 8 * 512);
    check_extent(image, 153 * 512 + 100, 1000, VD_EXTENT_PRESENT,
                 0x14000 + 153 * 512 + 100, 1000);
    check_extent(image, 159 * 512 + 100, 1000, VD_EXTENT_PRESENT,
                 0x14000 + 159 * 512 + 100, 412);
    check_extent(image, 197 * 512, 4 * MIB - 197 * 512, VD_EXTENT_PARENT, 0,
                 4 * MIB - 197 * 512); /* on into the block that is not */
    CHECK_OK(vd_vhd_format.close(image));
    crash_file_free(file);
}

/* Clear bits over data exist: a dynamic disk's are not asked. */
static void
bits_of_dynamic_disks_are_not_asked(void)
{
    struct build build = {.size = 4 * MIB, .block_size = 2 * MIB, .type = 3};
    struct crash_file *file = crash_file_new();
    build_image(crash_file_of(file), &build, 0x800 + 512 + 2 * MIB);
    build_entry(crash_file_of(file), 1, 4);
    struct vd_image *image = must_open(file, false);
    CHECK_EQ(VD_SUBTYPE_DYNAMIC, image->info.subtype);
    CHECK_EQ(2 * MIB, image->info.block_size);
    check_extent(image, 0, 4 * MIB, VD_EXTENT_ZERO, 0, 2 * MIB);
    check_extent(image, 3 * MIB, MIB, VD_EXTENT_PRESENT, 0xA00 + MIB, MIB);
    CHECK_OK(vd_vhd_format.close(image));
    crash_file_free(file);
}

/* ---- creating ---- */

static struct crash_file *
new_image(const struct vd_vhd_create_request *request)
{
    struct crash_file *file = crash_file_new();
    CHECK_OK(vd_vhd_create(crash_file_of(file), request));
    return file;
}

/* The sizes and places of files that Windows has made. */
static void
the_layout_is_that_of_windows(void)
{
    static const struct {
        uint64_t size, file_size;
    } cases[] = {
        {40 * MIB, 8192},
        {136365211648, 266240},
        {2040 * GIB, 0x600 + 4177920 + 0xA00},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t head[FOOTER], tail[FOOTER];
        struct vd_vhd_create_request request =
            create_request(VHD_TYPE_DYNAMIC, cases[i].size);
        struct crash_file *file = new_image(&request);
        CHECK_EQ(cases[i].file_size, size_of(file));
        get_bytes(file, 0, head, FOOTER);
        get_bytes(file, cases[i].file_size - FOOTER, tail, FOOTER);
        CHECK_BYTES(head, tail, FOOTER);
        CHECK_EQ(0xFFFFFFFF, get_u32(file, 0x600));
        CHECK_OK(open_error(file, true));
        crash_file_free(file);
    }
}

static void
a_child_is_laid_out_like_one_of_windows(void)
{
    struct vd_vhd_create_request request =
        create_request(VHD_TYPE_DYNAMIC, 40 * MIB);
    request.geometry = (struct vd_vhd_geometry){1, 2, 3};
    struct crash_file *parent_file = new_image(&request);
    struct vd_image *parent = must_open(parent_file, false);
    request = create_request(VHD_TYPE_FIXED, 1);
    request.block_size = VHD_LARGE_BLOCK_SIZE;
    request.relative_path = u".\\win8.vhd";
    request.absolute_path = u"C:\\Users\\sergi\\Downloads\\win8.vhd";
    memset(request.unique_id.bytes, 7, 16);
    vd_vhd_create_child_of(parent, &request);
    struct crash_file *file = new_image(&request);
    CHECK_EQ(81920, size_of(file));
    CHECK_EQ(0x2000, get_u32(file, 512 + 20));
    CHECK_EQ(20, get_u32(file, 512 + 28));
    CHECK_EQ(0x00010203, get_u32(file, 56));     /* the parent's geometry */
    CHECK_EQ(0xFFFFFFFF, get_u32(file, 0x2FFC)); /* padded to 4 KiB */
    uint8_t locators[48], name[8];
    get_bytes(file, 512 + 576, locators, 48);
    CHECK_BYTES("W2ku\0\0\x10\0\0\0\0\x42\0\0\0\0\0\0\0\0\0\0\x10\0"
                "W2ru\0\1\0\0\0\0\0\x14\0\0\0\0\0\0\0\0\0\0\x30\0",
                locators, 48);
    get_bytes(file, 0x3000, name, 8);
    CHECK_BYTES(".\0\\\0w\0i\0", name, 8);
    get_bytes(file, 512 + 64, name, 8);
    CHECK_BYTES("\0C\0:\0\\\0U", name, 8);
    struct vd_image *child = must_open(file, true);
    CHECK_EQ(VD_SUBTYPE_DIFFERENCING, child->info.subtype);
    CHECK_EQ(40 * MIB, child->info.size_bytes);
    CHECK(child->info.has_parent_identifier);
    CHECK_BYTES(footer_id, child->info.parent_identifier.bytes, 16);
    CHECK_OK(vd_vhd_format.accept_parent(child, parent));
    check_extent(child, 0, 40 * MIB, VD_EXTENT_PARENT, 0, 40 * MIB);
    CHECK_OK(vd_vhd_format.close(child));
    CHECK_OK(vd_vhd_format.close(parent));
    crash_file_free(file);
    crash_file_free(parent_file);
}

static void
names_that_do_not_fit_are_shortened(void)
{
    static char16_t path[40000], huge[40000];
    struct vd_vhd_create_request request =
        create_request(VHD_TYPE_DIFFERENCING, 4 * MIB);
    for (size_t i = 0; i < 39999; i++) {
        huge[i] = u'x';
    }
    memcpy(path, huge, 5000 * sizeof(*path));
    memcpy(path + 3000, u"\\a.vhd", 7 * sizeof(*path));
    request.relative_path = u"..\\b\\c.vhd";
    request.absolute_path = path;
    struct crash_file *file = new_image(&request);
    struct vd_image *image = must_open(file, false);
    struct vd_parent_paths paths;
    CHECK_OK(vd_vhd_format.parent_paths(image, &paths));
    CHECK_EQ(3, paths.count);
    CHECK_EQ(VD_PARENT_PATH_RELATIVE, paths.paths[0].kind);
    CHECK_BYTES(u"..\\b\\c.vhd", paths.paths[0].text, 22);
    CHECK_EQ(VD_PARENT_PATH_ABSOLUTE, paths.paths[1].kind);
    CHECK_BYTES(path, paths.paths[1].text, 3007 * 2);
    CHECK_EQ(VD_PARENT_PATH_NAME, paths.paths[2].kind);
    CHECK_BYTES(u"a.vhd", paths.paths[2].text, 12);
    vd_vhd_format.parent_paths_free(&paths);
    CHECK_EQ(0, paths.count);
    CHECK_OK(vd_vhd_format.close(image));
    crash_file_free(file);
    request.absolute_path = huge;
    file = crash_file_new();
    CHECK_EQ(INVALID, vd_vhd_create(crash_file_of(file), &request));
    request.absolute_path = NULL;
    CHECK_OK(vd_vhd_create(crash_file_of(file), &request));
    image = must_open(file, false);
    CHECK_OK(vd_vhd_format.parent_paths(image, &paths));
    CHECK_EQ(2, paths.count);
    CHECK_BYTES(u"c.vhd", paths.paths[1].text, 12);
    vd_vhd_format.parent_paths_free(&paths);
    CHECK_OK(vd_vhd_format.close(image));
    crash_file_free(file);
}

static void
bad_requests_are_refused(void)
{
    for (unsigned i = 0; i < 12; i++) {
        struct crash_file *file = crash_file_new();
        struct vd_vhd_create_request request = create_request(
            i < 8 ? VHD_TYPE_DYNAMIC : VHD_TYPE_DIFFERENCING, 4 * MIB);
        request.relative_path = i < 9 ? NULL : u"a";
        switch (i) {
        case 0:
            request.size_bytes = 0;
            break;
        case 1:
            request.size_bytes = 513;
            break;
        case 2:
            request.size_bytes = 2040 * GIB + 512;
            break;
        case 3:
            request.block_size = 0;
            break;
        case 4:
            request.block_size = MIB;
            break;
        case 5:
            request.type = (enum vd_vhd_disk_type)1;
            break;
        case 6:
            request.type = VHD_TYPE_FIXED;
            break; /* with blocks */
        case 7:
            request.relative_path = u"a";
            break; /* without being one */
        case 8:
            break; /* no path */
        case 9:
            request.relative_path = u"";
            break;
        case 10:
            request.absolute_path = u"";
            break;
        case 11:
            request.type = (enum vd_vhd_disk_type)5;
            break;
        }
        CHECK_EQ(INVALID, vd_vhd_create(crash_file_of(file), &request));
        CHECK_EQ(0, size_of(file));
        crash_file_free(file);
    }
}

/* ---- blocks ---- */

static uint8_t buffer[4 * MIB];

/* Three blocks land where Windows 10 has put them in such a disk. */
static void
blocks_land_where_windows_puts_them(void)
{
    struct vd_vhd_create_request request =
        create_request(VHD_TYPE_DYNAMIC, 10 * MIB);
    struct crash_file *file = new_image(&request);
    struct vd_image *image = must_open(file, true);
    uint8_t ones[512], bitmap[512];
    memset(ones, 0xFF, sizeof(ones));
    memset(buffer, 0xAB, sizeof(buffer));
    CHECK_OK(vd_vhd_format.write(image, buffer, 512, 1024));
    CHECK_OK(vd_vhd_format.write(image, buffer, 1024, 6 * MIB));
    CHECK_OK(vd_vhd_format.write(image, buffer, MIB, 3 * MIB));
    check_extent(image, 0, 10 * MIB, VD_EXTENT_PRESENT, 0x2000, 2 * MIB);
    CHECK_OK(vd_vhd_format.close(image));
    CHECK_EQ(0x605000, size_of(file));
    CHECK_EQ(0x1E00 / 512, get_u32(file, 0x600));
    CHECK_EQ(0x403E00 / 512, get_u32(file, 0x604));
    CHECK_EQ(0xFFFFFFFF, get_u32(file, 0x608));
    CHECK_EQ(0x202E00 / 512, get_u32(file, 0x60C));
    CHECK_EQ(0x636F6E65, get_u32(file, 0x604E00)); /* "cone" */
    get_bytes(file, 0x202E00, bitmap, 512);
    CHECK_BYTES(ones, bitmap, 512);
    CHECK_EQ(0xABABABAB, get_u32(file, 0x2000 + 1024));
    CHECK_EQ(0, get_u32(file, 0x2000 + 1536));
    crash_file_free(file);
}

/* A block given up at the end is gone from the file when it is closed, and
 * one in the middle is used again, zeroed, once that is safe. */
static void
space_comes_back(void)
{
    struct vd_vhd_create_request request =
        create_request(VHD_TYPE_DYNAMIC, 10 * MIB);
    struct crash_file *file = new_image(&request);
    struct vd_image *image = must_open(file, true);
    const struct vd_format *format = &vd_vhd_format;
    CHECK_OK(format->write(image, buffer, 4 * MIB, 0));
    CHECK_OK(format->commit(image));
    CHECK_OK(format->zero(image, 0, 2 * MIB, true));
    check_extent(image, 0, 2 * MIB, VD_EXTENT_ZERO, 0, 2 * MIB);
    format->reclaim(image); /* too early: the release is not durable */
    CHECK_OK(format->write(image, buffer, 512, 4 * MIB));
    check_extent(image, 4 * MIB, 512, VD_EXTENT_PRESENT, 0x404000, 512);
    CHECK_OK(format->commit(image));
    CHECK_OK(format->write(image, buffer, 512, 6 * MIB)); /* not reclaimed */
    check_extent(image, 6 * MIB, 512, VD_EXTENT_PRESENT, 0x605000, 512);
    format->reclaim(image);
    CHECK_OK(format->write(image, buffer, 512, 8 * MIB));
    check_extent(image, 8 * MIB, 512, VD_EXTENT_PRESENT, 0x2000, 512);
    CHECK_EQ(0, get_u32(file, 0x2000 + 512)); /* was another block's */
    CHECK_OK(format->zero(image, 6 * MIB, 2 * MIB, true));
    CHECK_OK(format->close(image));
    CHECK_EQ(0x605000, size_of(file));
    image = must_open(file, true);
    CHECK_OK(format->zero(image, 2 * MIB, 2 * MIB, false));
    check_extent(image, 2 * MIB, 512, VD_EXTENT_PRESENT, 0x203000, 512);
    CHECK_OK(format->zero(image, 0, 10 * MIB, true));
    CHECK_OK(format->close(image));
    CHECK_EQ(8192, size_of(file)); /* as when it was new */
    crash_file_free(file);
}

/* Zeros of a child are kept, for its parent may have something there. */
static void
zeros_of_children_take_space(void)
{
    struct vd_vhd_create_request request =
        create_request(VHD_TYPE_DIFFERENCING, 10 * MIB);
    request.relative_path = u".\\p.vhd";
    struct crash_file *file = new_image(&request);
    struct vd_image *image = must_open(file, true);
    for (unsigned may_free = 0; may_free < 2; may_free++) {
        uint64_t at = may_free * 4 * MIB;
        CHECK_OK(vd_vhd_format.zero(image, at + MIB, 2 * MIB, may_free));
        check_extent(image, at, 4 * MIB, VD_EXTENT_PARENT, 0, MIB);
        check_extent(image, at + MIB, MIB, VD_EXTENT_PRESENT,
                     0x14000 + (2 * may_free) * (2 * MIB + 4096) + MIB, MIB);
        check_extent(image, at + 3 * MIB, MIB, VD_EXTENT_PARENT, 0, MIB);
    }
    CHECK_OK(vd_vhd_format.close(image));
    image = must_open(file, false);
    check_extent(image, 2 * MIB, 2 * MIB, VD_EXTENT_PRESENT,
                 0x14000 + 2 * MIB + 4096, MIB);
    CHECK_EQ(0, get_u32(file, 0x14000 + MIB));
    CHECK_OK(vd_vhd_format.close(image));
    crash_file_free(file);
}

/* Where software asks the bitmap, what is written in place must be in it. */
static void
bitmaps_of_dynamic_disks_become_full(void)
{
    struct build build = {.size = 6 * MIB, .block_size = 512 * KIB, .type = 3};
    uint64_t stride = 512 + 512 * KIB;
    struct crash_file *file = crash_file_new();
    build_image(crash_file_of(file), &build, 0x800 + 2 * stride);
    build_entry(crash_file_of(file), 0, 4);
    build_entry(crash_file_of(file), 1, (uint32_t)(4 + stride / 512));
    struct vd_image *image = must_open(file, true);
    struct vd_extent extent;
    size_t events = crash_file_events(file);
    CHECK_OK(vd_vhd_format.lookup(image, 0, 512, &extent));
    CHECK_OK(vd_vhd_format.commit(image));
    CHECK_EQ(events + 1, crash_file_events(file)); /* only the barrier */
    CHECK_OK(vd_vhd_format.begin(image));
    CHECK_OK(vd_file_pwrite(image->file, buffer, 512, extent.file_offset));
    CHECK_OK(vd_vhd_format.commit(image));
    uint8_t bits[128], ones[128];
    memset(ones, 0xFF, sizeof(ones));
    get_bytes(file, 0x800, bits, sizeof(bits));
    CHECK_BYTES(ones, bits, sizeof(bits));
    CHECK_EQ(0, get_u32(file, 0x800 + 128));    /* no sector's */
    CHECK_EQ(0, get_u32(file, 0x800 + stride)); /* nobody was there */
    events = crash_file_events(file);
    CHECK_OK(vd_vhd_format.commit(image));
    CHECK_EQ(events + 1, crash_file_events(file));
    CHECK_OK(vd_vhd_format.close(image));
    crash_file_free(file);
}

/* Old files stay as they are laid out. */
static void
unaligned_files_stay_unaligned(void)
{
    struct build build = {.size = 6 * MIB, .block_size = 2 * MIB, .type = 3};
    struct crash_file *file = crash_file_new();
    uint64_t end = 0x800 + 512 + 2 * MIB;
    build_image(crash_file_of(file), &build, end);
    build_entry(crash_file_of(file), 0, 4);
    struct vd_image *image = must_open(file, true);
    CHECK_OK(vd_vhd_format.write(image, buffer, 512, 2 * MIB));
    check_extent(image, 2 * MIB, 512, VD_EXTENT_PRESENT, end + 512, 512);
    CHECK_OK(vd_vhd_format.close(image));
    CHECK_EQ(end + 512 + 2 * MIB + 512, size_of(file));
    crash_file_free(file);
}

/* ---- want of space, memory, disk ---- */

static void
a_full_host_damages_nothing(void)
{
    for (size_t n = 1; n <= 4; n++) {
        struct vd_vhd_create_request request =
            create_request(VHD_TYPE_DYNAMIC, 10 * MIB);
        struct crash_file *file = new_image(&request);
        struct vd_image *image = must_open(file, true);
        vd_error error;
        CHECK_OK(vd_vhd_format.write(image, buffer, 512, 0));
        CHECK_OK(vd_vhd_format.commit(image));
        crash_file_fail(file, n == 2 ? 0 : n, DISK_FULL);
        error = vd_vhd_format.write(image, buffer, 512, 2 * MIB);
        CHECK_EQ(n == 2 ? 0 : DISK_FULL, error);
        crash_file_fail(file, 0, 0);
        if (n != 2) {
            check_extent(image, 2 * MIB, 512, VD_EXTENT_ZERO, 0, 512);
            CHECK_OK(vd_vhd_format.write(image, buffer, 512, 2 * MIB));
        }
        check_extent(image, 2 * MIB, 512, VD_EXTENT_PRESENT, 0x203000, 512);
        CHECK_EQ(0, get_u32(file, 0x203000 + 512));
        CHECK_OK(vd_vhd_format.close(image));
        CHECK_EQ(0x404000, size_of(file));
        crash_file_free(file);
    }
}

/* Nothing is known of the medium any more, so nothing is written. */
static void
a_failed_barrier_ends_it(void)
{
    struct vd_vhd_create_request request =
        create_request(VHD_TYPE_DYNAMIC, 10 * MIB);
    struct crash_file *file = new_image(&request);
    struct vd_image *image = must_open(file, true);
    CHECK_OK(vd_vhd_format.write(image, buffer, 512, 0));
    crash_file_fail(file, 1, IO_DEVICE);
    CHECK_EQ(IO_DEVICE, vd_vhd_format.commit(image));
    size_t events = crash_file_events(file);
    CHECK_EQ(IO_DEVICE, vd_vhd_format.commit(image));
    CHECK_EQ(IO_DEVICE, vd_vhd_format.begin(image));
    CHECK_EQ(IO_DEVICE, vd_vhd_format.write(image, buffer, 512, 0));
    CHECK_EQ(IO_DEVICE, vd_vhd_format.zero(image, 0, 512, true));
    CHECK_EQ(IO_DEVICE, vd_vhd_format.close(image));
    CHECK_EQ(events, crash_file_events(file));
    CHECK_OK(open_error(file, true));
    crash_file_free(file);
}

/* Through a file of the host: the one in memory needs memory itself. */
static vd_error
use_child(const char *path)
{
    struct vd_posix_file *file;
    struct vd_image *image;
    struct vd_parent_paths paths = {.count = 0};
    vd_error error = vd_posix_file_open(AT_FDCWD, path, true, &file);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = open_as(&file->file, true, &image);
    if (error == ERROR_SUCCESS) {
        error = vd_vhd_format.parent_paths(image, &paths);
        vd_vhd_format.parent_paths_free(&paths);
        if (error == ERROR_SUCCESS) {
            error = vd_vhd_format.write(image, buffer, 512, 512);
        }
        vd_error closed = vd_vhd_format.close(image);
        error = error != ERROR_SUCCESS ? error : closed;
    }
    vd_posix_file_close(file);
    return error;
}

static void
make_on_host(const char *path, const struct vd_vhd_create_request *request)
{
    struct vd_posix_file *file;
    check_write_file(path, "", 0);
    CHECK_OK(vd_posix_file_open(AT_FDCWD, path, true, &file));
    CHECK_OK(vd_vhd_create(&file->file, request));
    vd_posix_file_close(file);
}

static void
want_of_memory_is_reported(const char *directory)
{
    const char *path = check_path(directory, "memory.vhd");
    struct vd_vhd_create_request request =
        create_request(VHD_TYPE_DIFFERENCING, 10 * MIB);
    request.relative_path = u".\\p.vhd";
    request.absolute_path = u"C:\\p.vhd";
    vd_error error = NO_MEMORY;
    for (int n = 0; error != ERROR_SUCCESS && n < 100; n++) {
        make_on_host(path, &request);
        check_fail_allocation(n);
        error = use_child(path);
        bool failed = check_fail_allocation(-1);
        CHECK_EQ(failed ? NO_MEMORY : 0, error);
        CHECK(failed || n > 8);
        CHECK_OK(use_child(path));
    }
    CHECK_OK(error);
}

/* Block numbers are those of sectors, in 32 bits. */
static void
the_table_reaches_two_tebibytes(const char *directory)
{
    const char *path = check_path(directory, "large.vhd");
    uint32_t last = 0xFFFFFFFE - 4097 * 2;
    struct build build = {.size = 10 * MIB, .block_size = 2 * MIB, .type = 3};
    struct vd_posix_file *file;
    struct vd_image *image;
    check_write_file(path, "", 0);
    CHECK_OK(vd_posix_file_open(AT_FDCWD, path, true, &file));
    if (vd_file_truncate(&file->file, 3ull << 40) != ERROR_SUCCESS) {
        check_skip("the file system has no files of 3 TiB");
    }
    CHECK_OK(vd_file_truncate(&file->file, 0));
    build_image(&file->file, &build, (last + 4097ull) * 512);
    build_entry(&file->file, 4, last);
    CHECK_OK(open_as(&file->file, true, &image));
    check_extent(image, 8 * MIB, 512, VD_EXTENT_PRESENT, last * 512ull + 512,
                 512);
    CHECK_OK(vd_vhd_format.write(image, buffer, 512, 0));
    check_extent(image, 0, 512, VD_EXTENT_PRESENT, (last + 4098ull) * 512,
                 512);
    CHECK_OK(vd_vhd_format.write(image, buffer, 512, 2 * MIB));
    CHECK_EQ(ALLOCATION_FAILURE,
             vd_vhd_format.write(image, buffer, 512, 4 * MIB));
    CHECK_OK(vd_vhd_format.zero(image, 4 * MIB, 2 * MIB, false));
    CHECK_OK(vd_vhd_format.close(image));
    CHECK_OK(open_as(&file->file, false, &image));
    check_extent(image, 2 * MIB, 512, VD_EXTENT_PRESENT,
                 0xFFFFFFFEull * 512 + 512, 512);
    CHECK_OK(vd_vhd_format.close(image));
    vd_posix_file_close(file);
    CHECK_EQ(0, unlink(path));
}

/* ---- many readers, one mutator ---- */

#define THREAD_BLOCKS 64

struct shared {
    struct vd_image *image;
    _Atomic bool done;
};

/* Whatever is present holds what has been written there: the block's number
 * in all bytes. */
static void *
read_all(void *argument)
{
    struct shared *shared = argument;
    while (!atomic_load(&shared->done)) {
        for (uint64_t sector = 0; sector < THREAD_BLOCKS * 1024; sector += 7) {
            struct vd_extent extent;
            uint8_t found[512];
            vd_error error = vd_vhd_format.lookup(shared->image, sector * 512,
                                                  512, &extent);
            if (error == ERROR_SUCCESS && extent.state == VD_EXTENT_PRESENT) {
                error = vd_file_pread(shared->image->file, found, 512,
                                      extent.file_offset);
                if (found[0] != sector / 1024 + 1 || found[511] != found[0]) {
                    CHECK_EQ(sector / 1024 + 1, found[0]);
                }
            }
            if (error != ERROR_SUCCESS) {
                CHECK_OK(error);
            }
        }
    }
    return NULL;
}

static void
write_blocks(struct vd_image *image)
{
    uint8_t sectors[24 * 512];
    for (uint64_t i = 0; i < THREAD_BLOCKS * 40; i++) {
        uint64_t block = i * 29 % THREAD_BLOCKS;
        memset(sectors, (int)block + 1, sizeof(sectors));
        CHECK_OK(vd_vhd_format.write(image, sectors, sizeof(sectors),
                                     block * 512 * KIB +
                                         i / THREAD_BLOCKS * 25 * 512));
        if (i % 97 == 0) {
            CHECK_OK(vd_vhd_format.commit(image));
        }
    }
}

static void
readers_need_no_lock(const char *directory)
{
    const char *path = check_path(directory, "threads.vhd");
    struct vd_vhd_create_request request =
        create_request(VHD_TYPE_DIFFERENCING, THREAD_BLOCKS * 512 * KIB);
    request.block_size = VHD_SMALL_BLOCK_SIZE;
    request.relative_path = u".\\p.vhd";
    struct vd_posix_file *file;
    struct shared shared = {.done = false};
    pthread_t threads[3];
    make_on_host(path, &request);
    CHECK_OK(vd_posix_file_open(AT_FDCWD, path, true, &file));
    CHECK_OK(open_as(&file->file, true, &shared.image));
    for (size_t i = 0; i < 3; i++) {
        CHECK_EQ(0, pthread_create(&threads[i], NULL, read_all, &shared));
    }
    write_blocks(shared.image);
    atomic_store(&shared.done, true);
    for (size_t i = 0; i < 3; i++) {
        CHECK_EQ(0, pthread_join(threads[i], NULL));
    }
    CHECK_OK(vd_vhd_format.close(shared.image));
    vd_posix_file_close(file);
}

int
main(int argc, char **argv)
{
    const char *directory = argc > 1 ? argv[1] : ".";
    memset(buffer, 0xAB, sizeof(buffer));
    a_real_header_is_encoded();
    dynamic_headers_are_encoded();
    footers_are_encoded();
    bitmaps_have_whole_sectors();
    locators_keep_space();
    a_real_bitmap_is_read();
    bits_of_dynamic_disks_are_not_asked();
    the_layout_is_that_of_windows();
    a_child_is_laid_out_like_one_of_windows();
    names_that_do_not_fit_are_shortened();
    bad_requests_are_refused();
    blocks_land_where_windows_puts_them();
    space_comes_back();
    zeros_of_children_take_space();
    bitmaps_of_dynamic_disks_become_full();
    unaligned_files_stay_unaligned();
    a_full_host_damages_nothing();
    a_failed_barrier_ends_it();
    want_of_memory_is_reported(directory);
    readers_need_no_lock(directory);
    the_table_reaches_two_tebibytes(directory);
    return check_result();
}
