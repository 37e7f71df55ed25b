/*
 * Dynamic and differencing VHDs: their structures against bytes found in
 * files of Windows, and how new ones are laid out.
 */
#include <string.h>

#include "check.h"
#include "format/vhd_header.h"
#include "vhd_support.h"

#define INVALID 87

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

/* The sizes and places of files that Windows has made. */
static void
the_layout_is_that_of_windows(void)
{
    static const struct {
        uint64_t size, file_size;
    } cases[] = {
        {40 * MIB, 8192},
        {136365211648, 266240},
        {2040 * GIB, 0x3FE000}, /* no such file was at hand */
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

int
main(void)
{
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
    return check_result();
}
