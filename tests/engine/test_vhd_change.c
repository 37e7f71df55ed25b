/*
 * VHDs that get another identity or another parent: what they say afterwards,
 * that their layout stays, and what a power cut or a fault leaves.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "vhd_support.h"

#define INVALID 87
#define DISK_FULL 112
#define NOT_SUPPORTED 50
#define INVALID_TYPE 0xC03A001B

static const struct vd_format *const format = &vd_vhd_format;

static const struct vd_guid one = {.bytes = {1, 1, 1, 1}};
static const struct vd_guid two = {.bytes = {2, 2, 2, 2}};
static const struct vd_guid three = {.bytes = {3, 3, 3, 3}};

/* ---- images ---- */

static struct crash_file *
new_child(const char16_t *relative, const char16_t *absolute)
{
    struct vd_vhd_create_request request =
        create_request(VHD_TYPE_DIFFERENCING, 3 * MIB);
    request.block_size = VHD_SMALL_BLOCK_SIZE;
    request.unique_id = one;
    request.parent_id = two;
    request.parent_time_stamp = 1234;
    request.relative_path = relative;
    request.absolute_path = absolute;
    return new_image(&request);
}

static void
write_sectors(struct vd_image *image)
{
    uint8_t bytes[4096];
    memset(bytes, 0x77, sizeof(bytes));
    CHECK_OK(format->write(image, bytes, sizeof(bytes), 512));
    CHECK_OK(format->write(image, bytes, sizeof(bytes), 2 * MIB));
    CHECK_OK(format->commit(image));
}

static void
check_sectors(struct vd_image *image)
{
    uint8_t expected[4096], found[4096];
    struct vd_extent extent = {.length = 0};
    memset(expected, 0x77, sizeof(expected));
    for (uint64_t at = 512; at <= 2 * MIB; at += 2 * MIB - 512) {
        memset(found, 0, sizeof(found));
        CHECK_OK(format->lookup(image, at, 4096, &extent));
        CHECK_EQ(VD_EXTENT_PRESENT, extent.state);
        CHECK_OK(vd_file_pread(image->file, found, 4096, extent.file_offset));
        CHECK_BYTES(expected, found, sizeof(found));
    }
    check_extent(image, 0, 512, VD_EXTENT_PARENT, 0, 512);
    check_extent(image, MIB, MIB, VD_EXTENT_PARENT, 0, MIB);
}

static bool
same_text(const char16_t *a, const char16_t *b)
{
    while (*a == *b && *a != 0) {
        a++;
        b++;
    }
    return *a == *b;
}

/* The paths in the order in which they are tried; NULL: none of that kind. */
static void
check_paths(struct vd_image *image, const char16_t *relative,
            const char16_t *absolute, const char16_t *name)
{
    const char16_t *expected[3];
    static const enum vd_parent_path_kind kinds[] = {
        VD_PARENT_PATH_RELATIVE, VD_PARENT_PATH_ABSOLUTE, VD_PARENT_PATH_NAME};
    enum vd_parent_path_kind expected_kinds[3];
    const char16_t *all[] = {relative, absolute, name};
    struct vd_parent_paths paths = {.count = 0};
    size_t count = 0;
    for (size_t i = 0; i < 3; i++) {
        if (all[i] != NULL) {
            expected_kinds[count] = kinds[i];
            expected[count++] = all[i];
        }
    }
    CHECK_OK(format->parent_paths(image, &paths));
    CHECK_EQ(count, paths.count);
    for (size_t i = 0; i < count && i < paths.count; i++) {
        CHECK_EQ(expected_kinds[i], paths.paths[i].kind);
        CHECK(same_text(expected[i], paths.paths[i].text));
    }
    format->parent_paths_free(&paths);
}

/* ---- identity ---- */

static void
every_kind_has_an_identity(void)
{
    for (enum vd_vhd_disk_type type = VHD_TYPE_FIXED;
         type <= VHD_TYPE_DIFFERENCING; type++) {
        struct vd_vhd_create_request request = create_request(type, 4 * MIB);
        struct vd_image_change change = {.identifier = &three};
        uint8_t before[FOOTER], after[FOOTER];
        request.relative_path =
            type == VHD_TYPE_DIFFERENCING ? u".\\p.vhd" : NULL;
        struct crash_file *file = new_image(&request);
        uint64_t size = size_of(file);
        get_bytes(file, size - FOOTER, before, FOOTER);
        struct vd_image *image = must_open(file, true);
        CHECK_OK(format->begin(image, VD_CHANGE_LAYOUT));
        CHECK_OK(format->change(image, &change));
        CHECK_BYTES(three.bytes, image->info.identifier.bytes, 16);
        CHECK_OK(format->close(image));
        CHECK_EQ(size, size_of(file));
        memcpy(before + 68, three.bytes, 16);
        put_checksum(before);
        get_bytes(file, size - FOOTER, after, FOOTER);
        CHECK_BYTES(before, after, FOOTER);
        if (type != VHD_TYPE_FIXED) {
            get_bytes(file, 0, after, FOOTER);
            CHECK_BYTES(before, after, FOOTER);
        }
        crash_file_free(file);
    }
}

/* An old footer over two sectors cannot be changed where it is. */
static void
an_old_fixed_disk_gets_a_whole_footer(void)
{
    uint8_t footer[FOOTER];
    struct vd_image_change change = {.identifier = &three};
    struct crash_file *file = crash_file_new();
    put_simple_footer(footer, 8192, 2);
    put_bytes(crash_file_of(file), 8192 + 100, footer, 511);
    struct vd_image *image = must_open(file, true);
    CHECK_OK(format->change(image, &change));
    CHECK_OK(format->close(image));
    CHECK_EQ(8192 + 1024 + FOOTER, size_of(file));
    image = must_open(file, false);
    CHECK_BYTES(three.bytes, image->info.identifier.bytes, 16);
    CHECK_EQ(8192, image->info.size_bytes);
    CHECK_OK(format->close(image));
    crash_file_free(file);
}

/* ---- the parent ---- */

/* Header and paths are where they were, and the file is as long. */
static void
another_parent_leaves_the_layout(void)
{
    struct crash_file *file =
        new_child(u".\\parent.vhd", u"C:\\images\\parent.vhd");
    struct vd_image *image = must_open(file, true);
    struct vd_image_change change = {
        .identifier = &three,
        .parent_identifier = &one,
        .parent_relative_path = u"..\\other.vhd",
        .parent_absolute_path = u"D:\\other.vhd",
        .parent_timestamp = 99,
    };
    uint8_t text[] = "D\0:\0\\\0o";
    write_sectors(image);
    CHECK_OK(format->close(image));
    uint64_t size = size_of(file);
    image = must_open(file, true);
    CHECK_OK(format->change(image, &change));
    CHECK_BYTES(one.bytes, image->info.parent_identifier.bytes, 16);
    CHECK_EQ(99, image->info.parent_timestamp);
    check_sectors(image);
    CHECK_OK(format->close(image));
    CHECK_EQ(size, size_of(file));
    CHECK_EQ(0x200, get_u32(file, 20)); /* data offset */
    CHECK_EQ(0x200, get_u32(file, size - FOOTER + 20));
    uint8_t found[sizeof(text)];
    get_bytes(file, 0x1000, found, sizeof(text));
    CHECK_BYTES(text, found, sizeof(text) - 1);
    image = must_open(file, true);
    CHECK_BYTES(three.bytes, image->info.identifier.bytes, 16);
    CHECK_BYTES(one.bytes, image->info.parent_identifier.bytes, 16);
    check_paths(image, u"..\\other.vhd", u"D:\\other.vhd", u"D:\\other.vhd");
    check_sectors(image);
    /* The space behind the blocks is as fresh as before. */
    uint8_t sector[512] = {1};
    CHECK_OK(format->write(image, sector, sizeof(sector), MIB));
    struct vd_extent extent = {.length = 0};
    CHECK_OK(format->lookup(image, MIB, 512, &extent));
    for (uint64_t at = 512; at < 512 * KIB; at += 512) {
        CHECK_EQ(0, get_u32(file, extent.file_offset + at));
    }
    CHECK_OK(format->close(image));
    crash_file_free(file);
}

static void
what_is_not_named_stays(void)
{
    struct crash_file *file =
        new_child(u".\\parent.vhd", u"C:\\images\\parent.vhd");
    struct vd_image *image = must_open(file, true);
    struct vd_image_change change = {.parent_identifier = &three};
    CHECK_OK(format->change(image, &change));
    CHECK_EQ(0, image->info.parent_timestamp);
    check_paths(image, u".\\parent.vhd", u"C:\\images\\parent.vhd",
                u"C:\\images\\parent.vhd");
    change = (struct vd_image_change){.parent_relative_path = u".\\x.vhd"};
    CHECK_OK(format->change(image, &change));
    CHECK_OK(format->close(image));
    image = must_open(file, false);
    CHECK_BYTES(one.bytes, image->info.identifier.bytes, 16);
    CHECK_BYTES(three.bytes, image->info.parent_identifier.bytes, 16);
    check_paths(image, u".\\x.vhd", NULL, u"x.vhd");
    CHECK_OK(format->close(image));
    crash_file_free(file);
}

/* A path that fits nowhere stands behind the blocks, and blocks behind it.  In
 * the header there is no room for its name. */
static void
long_paths_find_a_place(void)
{
    static char16_t longest[32 * KIB + 1];
    for (size_t i = 0; i < 32 * KIB; i++) {
        longest[i] = (char16_t)(u'a' + i % 26);
    }
    struct crash_file *file = new_child(u".\\parent.vhd", NULL);
    struct vd_image *image = must_open(file, true);
    struct vd_image_change change = {.parent_relative_path = u".\\y.vhd",
                                     .parent_absolute_path = longest};
    write_sectors(image);
    CHECK_OK(format->change(image, &change));
    check_paths(image, u".\\y.vhd", longest, NULL);
    uint8_t sector[512] = {1};
    CHECK_OK(format->write(image, sector, sizeof(sector), MIB));
    CHECK_OK(format->close(image));
    image = must_open(file, true);
    check_extent(image, 512, 4096, VD_EXTENT_PRESENT, 0x14000 + 512, 4096);
    check_paths(image, u".\\y.vhd", longest, NULL);
    CHECK_OK(format->close(image));
    crash_file_free(file);
}

/* ---- what is refused ---- */

static void
check_refused(struct crash_file *file, vd_error error,
              const struct vd_image_change *change)
{
    struct vd_image *image = must_open(file, true);
    size_t events = crash_file_events(file);
    CHECK_EQ(error, format->change(image, change));
    CHECK_EQ(events, crash_file_events(file));
    CHECK_OK(format->close(image));
}

static void
what_cannot_be_is_refused(void)
{
    static const struct vd_guid none;
    static char16_t too_long[32 * KIB + 2];
    static const struct {
        vd_error error;
        struct vd_image_change change;
    } rows[] = {
        {NOT_SUPPORTED, {.virtual_disk_id = &one}},
        {NOT_SUPPORTED, {.physical_sector_size = 4096}},
        {NOT_SUPPORTED, {.other_parent_identifier = &one}},
        {INVALID, {.identifier = &none}},
        {INVALID, {.parent_identifier = &none}},
        {INVALID, {.parent_relative_path = u""}},
        {INVALID, {.parent_absolute_path = u""}},
        {INVALID, {.parent_absolute_path = too_long}},
    };
    for (size_t i = 0; i < 32 * KIB + 1; i++) {
        too_long[i] = u'x';
    }
    struct crash_file *file = new_child(u".\\parent.vhd", NULL);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        check_refused(file, rows[i].error, &rows[i].change);
    }
    crash_file_free(file);
    struct vd_vhd_create_request request =
        create_request(VHD_TYPE_DYNAMIC, 4 * MIB);
    struct vd_image_change change = {.parent_identifier = &one};
    file = new_image(&request);
    check_refused(file, INVALID_TYPE, &change);
    change =
        (struct vd_image_change){.parent_relative_path = u".\\parent.vhd"};
    check_refused(file, INVALID_TYPE, &change);
    crash_file_free(file);
}

/* ---- power cuts and faults ---- */

static const struct vd_image_change whole_change = {
    .identifier = &three,
    .parent_identifier = &one,
    .parent_relative_path = u"..\\other.vhd",
    .parent_absolute_path = u"D:\\other.vhd",
};

/* All of the old, or all of the new. */
static bool
check_medium(struct crash_file *medium, bool *new_out)
{
    struct vd_image *image = NULL;
    for (unsigned writable = 0; writable < 2; writable++) {
        if (!CHECK_OK(open_as(crash_file_of(medium), writable != 0, &image))) {
            return false;
        }
        bool is_new = image->info.identifier.bytes[0] == 3;
        CHECK_EQ(is_new ? 3 : 1, image->info.identifier.bytes[0]);
        CHECK_EQ(is_new ? 1 : 2, image->info.parent_identifier.bytes[0]);
        CHECK_EQ(is_new ? 0 : 1234, image->info.parent_timestamp);
        check_paths(image, is_new ? u"..\\other.vhd" : u".\\parent.vhd",
                    is_new ? u"D:\\other.vhd" : u"C:\\parent.vhd",
                    is_new ? u"D:\\other.vhd" : u"C:\\parent.vhd");
        check_sectors(image);
        CHECK_OK(format->close(image));
        *new_out = is_new;
    }
    return true;
}

/* Whatever a cut has left can be changed again, and then all is in order. */
static void
check_again(struct crash_file *medium)
{
    bool is_new = false;
    struct vd_image *image = must_open(medium, true);
    CHECK_OK(format->change(image, &whole_change));
    CHECK_OK(format->close(image));
    CHECK(check_medium(medium, &is_new) && is_new);
    CHECK_EQ(0x200, get_u32(medium, 20));
}

static void
cut_everywhere(uint64_t seeds)
{
    struct crash_file *file = new_child(u".\\parent.vhd", u"C:\\parent.vhd");
    struct vd_image *image = must_open(file, true);
    write_sectors(image);
    size_t first = crash_file_events(file);
    CHECK_OK(format->change(image, &whole_change));
    size_t done = crash_file_events(file);
    CHECK_OK(format->close(image));
    bool is_new = false, good = true;
    for (size_t events = first; events <= crash_file_events(file) && good;
         events++) {
        for (uint64_t seed = 0; seed < seeds && good; seed++) {
            struct crash_file *medium =
                crash_file_image(file, events, seed * (events + 1) * 7919);
            good = check_medium(medium, &is_new) &&
                   CHECK(is_new || events < done);
            check_again(medium);
            crash_file_free(medium);
        }
    }
    crash_file_free(file);
}

/* Once the second header counts the change is made, and that the first could
 * not be written is no error. */
static void
fail_everywhere(void)
{
    bool reached = true;
    for (size_t n = 1; reached; n++) {
        struct crash_file *file =
            new_child(u".\\parent.vhd", u"C:\\parent.vhd");
        struct vd_image *image = must_open(file, true);
        bool is_new = false;
        write_sectors(image);
        crash_file_fail(file, n, DISK_FULL);
        vd_error error = format->change(image, &whole_change);
        reached = !crash_file_waits(file);
        crash_file_fail(file, 0, 0);
        CHECK(error == 0 || (reached && error == DISK_FULL));
        vd_error closed = format->close(image);
        CHECK(closed == 0 || error != 0);
        CHECK(check_medium(file, &is_new));
        CHECK(is_new || error != 0);
        check_again(file);
        crash_file_free(file);
    }
}

int
main(int argc, char **argv)
{
    every_kind_has_an_identity();
    an_old_fixed_disk_gets_a_whole_footer();
    another_parent_leaves_the_layout();
    what_is_not_named_stays();
    long_paths_find_a_place();
    what_cannot_be_is_refused();
    cut_everywhere(argc > 2 ? strtoull(argv[2], NULL, 10) : 8);
    fail_everywhere();
    return check_result();
}
