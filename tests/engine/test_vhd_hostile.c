/*
 * VHDs that are hostile, or as odd as other software makes them: every field
 * that must not be trusted, XenServer's extensions, parents.
 */
#include <string.h>

#include "check.h"
#include "vhd_support.h"

#define CORRUPT 0xC03A0003
#define HEADER_CHECKSUM 0xC03A0006
#define HEADER_VERSION 0xC03A0007
#define HEADER_CORRUPT 0xC03A0008
#define BAT_CORRUPT 0xC03A000A
#define BLOCK_SIZE 0xC03A000B
#define BITMAP_MISMATCH 0xC03A000C
#define ID_MISMATCH 0xC03A000E
#define SIZE_MISMATCH 0xC03A0017
#define INVALID_TYPE 0xC03A001B
#define NOT_SUPPORTED 50

static uint8_t buffer[4096];

/* ---- the header ---- */

static void
header_fields_are_validated(void)
{
    static const struct {
        unsigned at, size;
        uint64_t value;
        vd_error error;
    } cases[] = {
        {0, 8, 0x6378737061727365, 0}, /* as it is */
        {0, 8, 0x4378737061727365, HEADER_CORRUPT},
        {24, 4, 0x00020000, HEADER_VERSION},
        {24, 4, 0, HEADER_VERSION},
        {24, 4, 0x00010001, 0},
        {32, 4, 0, BLOCK_SIZE},
        {32, 4, 2048, BLOCK_SIZE},
        {32, 4, BLOCK + 512, BLOCK_SIZE},
        {32, 4, 0x20000000, BLOCK_SIZE},
        {32, 4, 0x80000000, BLOCK_SIZE},
        {28, 4, 3, HEADER_CORRUPT},
        {28, 4, 0, HEADER_CORRUPT},
        {28, 4, 5, 0},
        {28, 4, 0xFFFFFFFF, 0}, /* surplus entries are never looked at */
        {16, 8, 0, HEADER_CORRUPT},
        {16, 8, 512, HEADER_CORRUPT},
        {16, 8, 1024, HEADER_CORRUPT},
        {16, 8, 0x601, HEADER_CORRUPT},
        {16, 8, USUAL_END, HEADER_CORRUPT},
        {16, 8, UINT64_MAX, HEADER_CORRUPT},
        {16, 8, UINT64_MAX - 511, HEADER_CORRUPT},
        {8, 8, 0, 0},  /* not used */
        {60, 4, 1, 0}, /* reserved */
        {800, 4, 1, 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (int writable = 0; writable < 2; writable++) {
            struct crash_file *file = build_usual(&usual);
            set_header_field(file, cases[i].at, cases[i].value, cases[i].size);
            if (!CHECK_EQ(cases[i].error, open_error(file, writable))) {
                CHECK_EQ(UINT64_MAX, i); /* tells which */
            }
            crash_file_free(file);
        }
    }
    struct crash_file *file = build_usual(&usual);
    put_bytes(crash_file_of(file), BUILD_HEADER + 900, "x", 1);
    CHECK_EQ(HEADER_CHECKSUM, open_error(file, false));
    crash_file_free(file);
}

/* ---- the BAT ---- */

static void
entries_are_validated(void)
{
    static const struct {
        uint32_t block, sector;
        vd_error error;
    } cases[] = {
        {1, 0xFFFFFFFF, 0},
        {1, 0, BAT_CORRUPT}, /* the footer's copy */
        {1, 1, BAT_CORRUPT}, /* the header */
        {1, 3, BAT_CORRUPT}, /* the BAT */
        {1, 4, BAT_CORRUPT}, /* block 0 */
        {1, 5, BAT_CORRUPT}, /* most of block 0 */
        {1, 4 + STRIDE / 512 - 1, BAT_CORRUPT},
        {1, 4 + STRIDE / 512, BAT_CORRUPT},
        {1, 4 + 2 * STRIDE / 512, BAT_CORRUPT}, /* past the end */
        {1, 0xFFFFFFFE, BAT_CORRUPT},
        {1, 0x80000000, BAT_CORRUPT},
        {3, 4 + STRIDE / 512 + 1, BAT_CORRUPT},
        {0, 0xFFFFFFFF, 0},
        {2, 4 + STRIDE / 512 + 1, BAT_CORRUPT}, /* cut by the footer */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (int writable = 0; writable < 2; writable++) {
            struct crash_file *file = build_usual(&usual);
            build_entry(crash_file_of(file), cases[i].block, cases[i].sector);
            if (!CHECK_EQ(cases[i].error, open_error(file, writable))) {
                CHECK_EQ(UINT64_MAX, i);
            }
            crash_file_free(file);
        }
    }
}

/* Of a last block that the disk ends in, no more than that need be there;
 * it is made whole before anything comes after it. */
static void
a_last_block_may_be_cut(void)
{
    struct build build = usual;
    build.size = 2 * BLOCK + 1536;
    for (int missing = 0; missing < 2; missing++) {
        struct crash_file *file = crash_file_new();
        uint64_t end = 0x800 + STRIDE + 512 + 1536 - 512u * (unsigned)missing;
        build_image(crash_file_of(file), &build, end);
        build_entry(crash_file_of(file), 0, 4);
        build_entry(crash_file_of(file), 2, 4 + STRIDE / 512);
        CHECK_EQ(missing ? BAT_CORRUPT : 0, open_error(file, false));
        CHECK_EQ(missing ? BAT_CORRUPT : 0, open_error(file, true));
        CHECK_EQ(end + FOOTER, size_of(file));
        if (!missing) {
            struct vd_image *image = must_open(file, true);
            CHECK_OK(vd_vhd_format.write(image, buffer, 512, 2 * BLOCK));
            CHECK_EQ(USUAL_END + FOOTER, size_of(file));
            CHECK_EQ(0, get_u32(file, end)); /* the footer was here */
            CHECK_OK(vd_vhd_format.close(image));
            check_whole(file);
        }
        crash_file_free(file);
    }
}

/* The pages of a large BAT are checked when they are used; a writable open
 * looks at all. */
static void
large_tables_are_checked_on_demand(void)
{
    struct build build = {
        .size = 400000ull * 4096, .block_size = 4096, .type = 3};
    struct crash_file *file = crash_file_new();
    uint64_t end = build_bat_end(&build);
    build_image(crash_file_of(file), &build, end);
    build_entry(crash_file_of(file), 300000, 1);
    CHECK_EQ(BAT_CORRUPT, open_error(file, true));
    struct vd_image *image = must_open(file, false);
    struct vd_extent extent;
    check_extent(image, 0, MIB, VD_EXTENT_ZERO, 0, MIB);
    CHECK_EQ(BAT_CORRUPT,
             vd_vhd_format.lookup(image, 300000ull * 4096, 512, &extent));
    /* Up to the bad page there are answers. */
    check_extent(image, 0, 400000ull * 4096, VD_EXTENT_ZERO, 0,
                 300000ull / 1024 * 1024 * 4096);
    CHECK_OK(vd_vhd_format.close(image));
    crash_file_free(file);
}

/* More blocks than a file can hold are not even collected. */
static void
overlaps_are_found_early(void)
{
    struct build build = {
        .size = 100000ull * 4096, .block_size = 4096, .type = 3};
    struct crash_file *file = crash_file_new();
    uint64_t bat_end = build_bat_end(&build);
    build_image(crash_file_of(file), &build, bat_end + 8192);
    for (uint32_t i = 0; i < 100; i++) {
        build_entry(crash_file_of(file), i, (uint32_t)(bat_end / 512));
    }
    CHECK_EQ(BAT_CORRUPT, open_error(file, false));
    crash_file_free(file);
}

static void
surplus_entries_are_not_touched(void)
{
    struct build build = usual;
    build.max_entries = 128;
    struct crash_file *file = build_usual(&build);
    for (uint32_t i = 4; i < 128; i++) {
        build_entry(crash_file_of(file), i, 0x01020304);
    }
    struct vd_image *image = must_open(file, true);
    CHECK_OK(vd_vhd_format.write(image, buffer, 512, BLOCK));
    CHECK_OK(vd_vhd_format.close(image));
    CHECK_EQ(4 + 2 * STRIDE / 512, get_u32(file, BUILD_BAT + 4));
    for (uint32_t i = 4; i < 128; i++) {
        CHECK_EQ(0x01020304, get_u32(file, BUILD_BAT + 4 * i));
    }
    crash_file_free(file);
}

/* ---- parents ---- */

static void
put_locator(struct crash_file *file, unsigned slot, const char *code,
            uint32_t space, uint32_t length, uint64_t offset)
{
    uint32_t number = vd_get_be32((const uint8_t *)code);
    unsigned at = 576 + 24 * slot;
    set_header_field(file, at, number, 4);
    set_header_field(file, at + 4, space, 4);
    set_header_field(file, at + 8, length, 4);
    set_header_field(file, at + 16, offset, 8);
}

/* Slots in no order, some of them bad. */
static void
locators_are_read_in_the_order_of_trying(void)
{
    struct build build = usual;
    build.type = 4;
    struct crash_file *file = crash_file_new();
    struct vd_file *target = crash_file_of(file);
    struct vd_parent_paths paths;
    uint64_t end = 0x2000;
    build_image(target, &build, end);
    put_bytes(target, 0x800, "file://./a%20b.vhd", 18);
    put_bytes(target, 0xA00, "C\0:\0\\\0x\0", 8);
    put_bytes(target, 0xC00, ".\0\\\0y\0\0\0z\0", 10);
    put_locator(file, 7, "W2ru", 512, 10, 0xC00);
    put_locator(file, 4, "W2ku", 1, 8, 0xA00);
    put_locator(file, 0, "MacX", 0, 18, 0x800);
    put_locator(file, 1, "W2ru", 512, 9, 0xC00);          /* odd */
    put_locator(file, 2, "W2ru", 512, 8, UINT64_MAX - 3); /* outside */
    put_locator(file, 3, "W2ru", 512, 0, 0xC00);          /* empty */
    put_locator(file, 5, "Wi2k", 512, 8, 0xA00);          /* obsolete */
    put_locator(file, 6, "W2ku", 65536, 65538, 0x800);    /* too long */
    set_header_field(file, 64, 0x0070, 2);
    struct vd_image *image = must_open(file, true);
    CHECK_OK(vd_vhd_format.parent_paths(image, &paths));
    CHECK_EQ(4, paths.count);
    CHECK_EQ(VD_PARENT_PATH_RELATIVE, paths.paths[0].kind);
    CHECK_BYTES(u".\\y", paths.paths[0].text, 8);
    CHECK_EQ(VD_PARENT_PATH_ABSOLUTE, paths.paths[1].kind);
    CHECK_BYTES(u"C:\\x", paths.paths[1].text, 10);
    CHECK_EQ(VD_PARENT_PATH_URL, paths.paths[2].kind);
    CHECK_BYTES(u"file://./a%20b.vhd", paths.paths[2].text, 38);
    CHECK_EQ(VD_PARENT_PATH_NAME, paths.paths[3].kind);
    CHECK_BYTES(u"p", paths.paths[3].text, 4);
    vd_vhd_format.parent_paths_free(&paths);
    CHECK_OK(vd_vhd_format.write(image, buffer, 512, 0));
    check_extent(image, 0, 512, VD_EXTENT_PRESENT, 0x2000, 512);
    CHECK_OK(vd_vhd_format.close(image));
    crash_file_free(file);
}

/* No block may lie over a path, and none is put where one may grow. */
static void
locators_keep_their_place(void)
{
    struct build build = usual;
    build.type = 4;
    struct crash_file *file = build_usual(&build);
    put_locator(file, 0, "W2ru", 512, 8, 0x900);
    CHECK_EQ(BAT_CORRUPT, open_error(file, false));
    crash_file_free(file);
    file = crash_file_new();
    build_image(crash_file_of(file), &build, 0x20000);
    put_locator(file, 0, "W2ru", 0x10000, 8, 0x3000);
    put_locator(file, 1, "W2ku", 0xFFFFFE00, 8, 0x1000); /* absurd */
    struct vd_image *image = must_open(file, true);
    CHECK_OK(vd_vhd_format.write(image, buffer, 512, 0));
    check_extent(image, 0, 512, VD_EXTENT_PRESENT, 0x14000, 512);
    CHECK_OK(vd_vhd_format.close(image));
    crash_file_free(file);
}

static vd_error
accept(const uint8_t *parent_id, uint64_t child_size,
       const struct vd_image *parent)
{
    struct build build = usual;
    build.type = 4;
    build.size = child_size;
    build.parent_id = parent_id;
    struct crash_file *file = crash_file_new();
    build_image(crash_file_of(file), &build, 0x800);
    struct vd_image *image = must_open(file, false);
    vd_error error = vd_vhd_format.accept_parent(image, parent);
    CHECK_OK(vd_vhd_format.close(image));
    crash_file_free(file);
    return error;
}

static void
parents_are_recognised(void)
{
    static const uint8_t other[16] = {1};
    struct crash_file *file = build_usual(&usual);
    struct vd_image *parent = must_open(file, false);
    CHECK_OK(accept(footer_id, usual.size, parent));
    CHECK_EQ(ID_MISMATCH, accept(other, usual.size, parent));
    CHECK_EQ(SIZE_MISMATCH, accept(footer_id, usual.size + 512, parent));
    CHECK_OK(accept(NULL, usual.size, parent)); /* does not say which */
    CHECK_EQ(SIZE_MISMATCH, accept(NULL, usual.size - 512, parent));
    struct vd_image stranger = *parent;
    stranger.format = &vd_iso_format;
    CHECK_EQ(INVALID_TYPE, accept(footer_id, usual.size, &stranger));
    CHECK_OK(vd_vhd_format.close(parent));
    crash_file_free(file);
}

/* ---- XenServer ---- */

static void
disabled_disks_are_refused(void)
{
    for (unsigned which = 1; which < 4; which++) {
        struct crash_file *file = build_usual(&usual);
        bool recognised = false;
        if (which & 1) {
            set_footer_bytes(file, USUAL_END, 0, "v_poison", 8);
        }
        if (which & 2) {
            set_footer_bytes(file, 0, 0, "v_poison", 8);
        }
        CHECK_EQ(CORRUPT, open_error(file, true));
        CHECK_EQ(CORRUPT, open_error(file, false));
        CHECK_OK(vd_vhd_format.probe(crash_file_of(file), &recognised));
        CHECK(recognised);
        damage_footer(file, USUAL_END, GONE);
        CHECK_EQ(which & 2 ? CORRUPT : 0, open_error(file, false));
        crash_file_free(file);
    }
}

/* With the map of full blocks at 0x800 and 0xA00, blocks from 0xC00 on. */
static struct crash_file *
build_batmap(uint32_t type, uint8_t bits)
{
    struct build build = {.creator = "tap\0",
                          .creator_version = 0x00010003,
                          .size = 4 * BLOCK,
                          .block_size = BLOCK,
                          .type = type};
    struct crash_file *file = crash_file_new();
    struct vd_file *target = crash_file_of(file);
    uint8_t header[512] = "tdbatmap";
    build_image(target, &build, 0xC00 + STRIDE);
    build_entry(target, 0, 6);
    build_bitmap(target, &build, 6, 0xFF);
    put_be(header + 8, 0xA00, 8);
    put_be(header + 16, 1, 4);
    put_be(header + 20, 0x00010002, 4);
    put_bytes(target, 0x800, header, sizeof(header));
    put_bytes(target, 0xA00, &bits, 1);
    return file;
}

/* The map stays as it is and true. */
static void
batmaps_are_left_alone(void)
{
    for (uint32_t type = 3; type <= 4; type++) {
        struct crash_file *file = build_batmap(type, 0x80);
        uint8_t before[1024], after[1024];
        get_bytes(file, 0x800, before, sizeof(before));
        struct vd_image *image = must_open(file, true);
        CHECK_OK(vd_vhd_format.write(image, buffer, 512, BLOCK));
        CHECK_OK(vd_vhd_format.zero(image, 0, BLOCK, true));
        check_extent(image, 0, BLOCK, VD_EXTENT_PRESENT, 0xE00, BLOCK);
        check_extent(image, BLOCK, 512, VD_EXTENT_PRESENT, 0xE00 + STRIDE,
                     512);
        CHECK_OK(vd_vhd_format.close(image));
        get_bytes(file, 0x800, after, sizeof(after));
        CHECK_BYTES(before, after, sizeof(before));
        crash_file_free(file);
    }
    struct crash_file *file = build_batmap(3, 0xC0); /* block 1 is not there */
    CHECK_EQ(BITMAP_MISMATCH, open_error(file, true));
    CHECK_OK(open_error(file, false));
    build_entry(crash_file_of(file), 0, 5); /* over the map itself */
    CHECK_EQ(BAT_CORRUPT, open_error(file, false));
    crash_file_free(file);
}

static void
impossible_batmaps_are_not_written_around(void)
{
    static const struct {
        uint64_t offset;
        uint32_t sectors;
    } cases[] = {
        {UINT64_MAX, 1}, {0xA00, 0xFFFFFFFF}, {0xA00, 0}, {0x10000000, 1}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t fields[12];
        struct crash_file *file = build_batmap(3, 0x80);
        put_be(fields, cases[i].offset, 8);
        put_be(fields + 8, cases[i].sectors, 4);
        put_bytes(crash_file_of(file), 0x808, fields, sizeof(fields));
        CHECK_EQ(HEADER_CORRUPT, open_error(file, true));
        CHECK_OK(open_error(file, false));
        crash_file_free(file);
    }
}

static void
files_of_the_first_blktap_are_not_written(void)
{
    for (uint32_t type = 3; type <= 4; type++) {
        struct build build = usual;
        build.creator = "tap\0";
        build.creator_version = 1; /* 0.1 */
        build.type = type;
        struct crash_file *file = build_usual(&build);
        CHECK_EQ(NOT_SUPPORTED, open_error(file, true));
        CHECK_EQ(type == 3 ? 0 : NOT_SUPPORTED, open_error(file, false));
        crash_file_free(file);
    }
}

int
main(void)
{
    header_fields_are_validated();
    entries_are_validated();
    a_last_block_may_be_cut();
    large_tables_are_checked_on_demand();
    overlaps_are_found_early();
    surplus_entries_are_not_touched();
    locators_are_read_in_the_order_of_trying();
    locators_keep_their_place();
    parents_are_recognised();
    disabled_disks_are_refused();
    batmaps_are_left_alone();
    impossible_batmaps_are_not_written_around();
    files_of_the_first_blktap_are_not_written();
    return check_result();
}
