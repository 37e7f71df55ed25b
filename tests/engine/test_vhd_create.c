/*
 * New VHDs as any format is asked for them: what nobody says is as Windows
 * has it, what a VHD cannot be is refused, and a fixed one has its space.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/posix_file.h"
#include "check.h"
#include "vhd_support.h"

#define INVALID 87
#define DISK_FULL 112
#define NOT_SUPPORTED 50
#define INVALID_SIZE 0xC03A0012
#define INVALID_BLOCK_SIZE 0xC03A000B
#define INVALID_TYPE 0xC03A001B
#define LARGEST (2040 * GIB)

static struct vd_create_request
request_of(enum vd_subtype subtype, uint64_t size)
{
    struct vd_create_request request = {
        .subtype = subtype,
        .size_bytes = size,
        .time_stamp = 0x12345678,
    };
    memcpy(request.identifier.bytes, footer_id, sizeof(footer_id));
    return request;
}

static struct vd_create_request
child_request(const struct vd_image *parent)
{
    struct vd_create_request request = request_of(VD_SUBTYPE_DIFFERENCING, 0);
    request.parent = parent;
    request.identifier.bytes[0] = 0xCC;
    request.parent_relative_path = u".\\parent.vhd";
    return request;
}

/* ---- defaults and refusals ---- */

static void
what_nobody_says_is_as_windows_has_it(void)
{
    struct vd_create_request request = request_of(VD_SUBTYPE_DYNAMIC, 3 * MIB);
    CHECK_OK(vd_vhd_format.create_defaults(&request));
    CHECK_EQ(2 * MIB, request.block_size);
    CHECK_EQ(512, request.sector_size);
    CHECK_EQ(512, request.physical_sector_size);
    CHECK_EQ(3 * MIB, request.size_bytes);
    request = request_of(VD_SUBTYPE_DYNAMIC, LARGEST);
    request.block_size = 512 * KIB;
    request.sector_size = 512;
    request.physical_sector_size = 512;
    CHECK_OK(vd_vhd_format.create_defaults(&request));
    CHECK_EQ(512 * KIB, request.block_size);
    request = request_of(VD_SUBTYPE_FIXED, 4096 * GIB);
    CHECK_OK(vd_vhd_format.create_defaults(&request));
    CHECK_EQ(0, request.block_size);
}

static void
what_cannot_be_is_refused(void)
{
    static const struct {
        enum vd_subtype subtype;
        uint64_t size;
        uint32_t block, sector, physical;
        vd_error error;
    } rows[] = {
        {VD_SUBTYPE_DYNAMIC, 3 * MIB - 512, 0, 0, 0, INVALID},
        {VD_SUBTYPE_FIXED, 3 * MIB - 512, 0, 0, 0, INVALID},
        {VD_SUBTYPE_DYNAMIC, 0, 0, 0, 0, INVALID},
        {VD_SUBTYPE_DYNAMIC, 4 * MIB + 1, 0, 0, 0, INVALID},
        {VD_SUBTYPE_FIXED, 4 * MIB + 256, 0, 0, 0, INVALID},
        {VD_SUBTYPE_DYNAMIC, LARGEST + 512, 0, 0, 0, INVALID_SIZE},
        {VD_SUBTYPE_FIXED, UINT64_MAX - 511, 0, 0, 0, INVALID_SIZE},
        {VD_SUBTYPE_DYNAMIC, 4 * MIB, MIB, 0, 0, INVALID_BLOCK_SIZE},
        {VD_SUBTYPE_DYNAMIC, 4 * MIB, 4 * MIB, 0, 0, INVALID_BLOCK_SIZE},
        {VD_SUBTYPE_FIXED, 4 * MIB, 2 * MIB, 0, 0, INVALID_BLOCK_SIZE},
        {VD_SUBTYPE_DYNAMIC, 4 * MIB, 0, 4096, 0, INVALID},
        {VD_SUBTYPE_DYNAMIC, 4 * MIB, 0, 0, 4096, INVALID},
        {VD_SUBTYPE_NONE, 4 * MIB, 0, 0, 0, INVALID},
        {VD_SUBTYPE_DIFFERENCING, 4 * MIB, 0, 0, 0, INVALID}, /* of what? */
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct vd_create_request request =
            request_of(rows[i].subtype, rows[i].size);
        request.block_size = rows[i].block;
        request.sector_size = rows[i].sector;
        request.physical_sector_size = rows[i].physical;
        CHECK_EQ(rows[i].error, vd_vhd_format.create_defaults(&request));
    }
    struct vd_create_request request = request_of(VD_SUBTYPE_DYNAMIC, 4 * MIB);
    memset(&request.identifier, 0, sizeof(request.identifier));
    CHECK_EQ(INVALID, vd_vhd_format.create_defaults(&request));
    request = request_of(VD_SUBTYPE_DYNAMIC, 4 * MIB);
    request.parent_relative_path = u".\\parent.vhd";
    CHECK_EQ(INVALID, vd_vhd_format.create_defaults(&request));
}

/* ---- children ---- */

static void
children_take_after_their_parent(void)
{
    struct vd_vhd_create_request small =
        create_request(VHD_TYPE_DYNAMIC, 2 * MIB + 512); /* of somebody */
    small.block_size = VHD_SMALL_BLOCK_SIZE;
    struct crash_file *file = new_image(&small);
    struct vd_image *parent = must_open(file, false);
    struct vd_create_request request = child_request(parent);
    CHECK_OK(vd_vhd_format.create_defaults(&request));
    CHECK_EQ(2 * MIB + 512, request.size_bytes);
    CHECK_EQ(512 * KIB, request.block_size);
    CHECK_EQ(512, request.sector_size);
    request = child_request(parent);
    request.block_size = 2 * MIB;
    CHECK_OK(vd_vhd_format.create_defaults(&request));
    CHECK_EQ(2 * MIB, request.block_size);
    request = child_request(parent);
    request.size_bytes = 4 * MIB;
    CHECK_EQ(INVALID, vd_vhd_format.create_defaults(&request));
    request = child_request(parent);
    request.subtype = VD_SUBTYPE_DYNAMIC;
    CHECK_EQ(INVALID, vd_vhd_format.create_defaults(&request));
    request = child_request(parent);
    request.parent_relative_path = NULL;
    CHECK_EQ(INVALID, vd_vhd_format.create_defaults(&request));
    request.parent_relative_path = u"";
    CHECK_EQ(INVALID, vd_vhd_format.create_defaults(&request));
    CHECK_OK(vd_vhd_format.close(parent));
    crash_file_free(file);
}

/* Blocks of a size that we read and never make; or none. */
static void
children_of_odd_parents_have_the_usual_blocks(void)
{
    struct build build = {.size = 9 * MIB, .block_size = 4 * MIB, .type = 3};
    struct crash_file *file = crash_file_new();
    build_image(crash_file_of(file), &build, 0x800);
    struct vd_image *parent = must_open(file, false);
    struct vd_create_request request = child_request(parent);
    CHECK_OK(vd_vhd_format.create_defaults(&request));
    CHECK_EQ(2 * MIB, request.block_size);
    CHECK_OK(vd_vhd_format.close(parent));
    crash_file_free(file);
    struct vd_vhd_create_request fixed =
        create_request(VHD_TYPE_FIXED, 4 * MIB);
    file = new_image(&fixed);
    parent = must_open(file, false);
    request = child_request(parent);
    CHECK_OK(vd_vhd_format.create_defaults(&request));
    CHECK_EQ(2 * MIB, request.block_size);
    struct vd_format other = {.name = "other", .device_id = VD_DEVICE_VHDX};
    struct vd_image stranger = {.format = &other, .info = parent->info};
    request = child_request(&stranger);
    CHECK_EQ(INVALID_TYPE, vd_vhd_format.create_defaults(&request));
    CHECK_OK(vd_vhd_format.close(parent));
    crash_file_free(file);
}

static void
check_paths(struct vd_image *child, const char16_t *relative,
            const char16_t *absolute)
{
    struct vd_parent_paths paths = {.count = 0};
    size_t at = 0;
    CHECK_OK(vd_vhd_format.parent_paths(child, &paths));
    if (relative != NULL) {
        CHECK_EQ(VD_PARENT_PATH_RELATIVE, paths.paths[at].kind);
        CHECK_EQ(relative[2], paths.paths[at].text[2]);
        at++;
    }
    if (absolute != NULL) {
        CHECK_EQ(VD_PARENT_PATH_ABSOLUTE, paths.paths[at].kind);
        CHECK_EQ(absolute[0], paths.paths[at].text[0]);
        at++;
    }
    CHECK_EQ(at + 1, paths.count); /* and the name in the header */
    vd_vhd_format.parent_paths_free(&paths);
}

static void
check_child(struct vd_image *parent, const char16_t *relative,
            const char16_t *absolute)
{
    struct crash_file *file = crash_file_new();
    struct vd_create_request request = child_request(parent);
    request.parent_relative_path = relative;
    request.parent_absolute_path = absolute;
    request.parent_timestamp = 77;
    CHECK_OK(vd_vhd_format.create_defaults(&request));
    CHECK_OK(vd_vhd_format.create(crash_file_of(file), &request));
    struct vd_image *child = must_open(file, true);
    CHECK_EQ(VD_SUBTYPE_DIFFERENCING, child->info.subtype);
    CHECK_BYTES(footer_id, child->info.parent_identifier.bytes, 16);
    CHECK_EQ(0xCC, child->info.identifier.bytes[0]);
    CHECK_EQ(77, child->info.parent_timestamp);
    CHECK_OK(vd_vhd_format.accept_parent(child, parent));
    check_extent(child, 0, 10 * MIB, VD_EXTENT_PARENT, 0, 10 * MIB);
    check_paths(child, relative, absolute);
    CHECK_OK(vd_vhd_format.close(child));
    crash_file_free(file);
}

/* On another volume there is no relative path. */
static void
children_know_their_parent_by_either_path(void)
{
    struct vd_vhd_create_request wanted =
        create_request(VHD_TYPE_DYNAMIC, 10 * MIB);
    struct crash_file *file = new_image(&wanted);
    struct vd_image *parent = must_open(file, false);
    check_child(parent, u".\\parent.vhd", NULL);
    check_child(parent, NULL, u"C:\\parent.vhd");
    check_child(parent, u".\\parent.vhd", u"C:\\parent.vhd");
    CHECK_OK(vd_vhd_format.close(parent));
    crash_file_free(file);
}

/* ---- what is written ---- */

/* Against a footer put together by hand. */
static void
the_footer_says_what_was_asked_for(void)
{
    struct crash_file *file = crash_file_new();
    struct vd_create_request request = request_of(VD_SUBTYPE_DYNAMIC, 1 * GIB);
    uint8_t expected[FOOTER], raw[FOOTER];
    struct footer_values values = {
        .creator = "win ",
        .creator_version = 0x000A0000,
        .time_stamp = 0x12345678,
        .size = 1 * GIB,
        .geometry = 0x0820103F, /* 2080, 16, 63: FORMATS.md 9.3 */
        .type = 3,
        .data_offset = 512,
        .id = footer_id,
    };
    put_footer(expected, &values);
    CHECK_OK(vd_vhd_format.create_defaults(&request));
    CHECK_OK(vd_vhd_format.create(crash_file_of(file), &request));
    get_bytes(file, 0, raw, FOOTER);
    CHECK_BYTES(expected, raw, FOOTER);
    get_bytes(file, size_of(file) - FOOTER, raw, FOOTER);
    CHECK_BYTES(expected, raw, FOOTER);
    CHECK_EQ(0, size_of(file) % 4096);
    crash_file_free(file);
}

static void
a_fixed_disk_has_its_space(const char *directory)
{
    const char *path = check_path(directory, "fixed.vhd");
    struct vd_create_request request = request_of(VD_SUBTYPE_FIXED, 8 * MIB);
    struct vd_posix_file *file;
    struct stat status;
    static uint8_t content[8 * MIB], zeros[8 * MIB];
    check_write_file(path, "", 0);
    CHECK_OK(vd_posix_file_open(AT_FDCWD, path, true, &file));
    CHECK_OK(vd_vhd_format.create_defaults(&request));
    CHECK_OK(vd_vhd_format.create(&file->file, &request));
    CHECK_EQ(0, stat(path, &status));
    CHECK_EQ(8 * MIB + 512, status.st_size);
    CHECK((uint64_t)status.st_blocks * 512 >= 8 * MIB);
    CHECK_OK(vd_file_pread(&file->file, content, sizeof(content), 0));
    CHECK_BYTES(zeros, content, sizeof(content));
    vd_posix_file_close(file);
}

/* Where the host takes no space in advance, or has none. */
struct stingy_file {
    struct vd_file file; /* first */
    struct vd_file_ops ops;
    struct crash_file *under;
    vd_error error;
    uint64_t asked;
};

static vd_error
stingy_allocate(struct vd_file *base, uint64_t offset, uint64_t length)
{
    struct stingy_file *file = (struct stingy_file *)base;
    file->asked = offset + length;
    return file->error;
}

static vd_error
stingy_pwrite(struct vd_file *base, const void *bytes, size_t length,
              uint64_t offset)
{
    struct stingy_file *file = (struct stingy_file *)base;
    return vd_file_pwrite(crash_file_of(file->under), bytes, length, offset);
}

static vd_error
stingy_truncate(struct vd_file *base, uint64_t size)
{
    struct stingy_file *file = (struct stingy_file *)base;
    return vd_file_truncate(crash_file_of(file->under), size);
}

static vd_error
stingy_flush(struct vd_file *base)
{
    struct stingy_file *file = (struct stingy_file *)base;
    return vd_file_flush(crash_file_of(file->under));
}

static void
space_may_be_refused(void)
{
    static const vd_error errors[] = {NOT_SUPPORTED, DISK_FULL};
    for (size_t i = 0; i < 2; i++) {
        struct stingy_file file = {
            .file = {.ops = &file.ops},
            .ops = {.pwrite = stingy_pwrite,
                    .truncate = stingy_truncate,
                    .flush = stingy_flush,
                    .allocate = stingy_allocate},
            .under = crash_file_new(),
            .error = errors[i],
        };
        bool full = errors[i] == DISK_FULL;
        struct vd_create_request request =
            request_of(VD_SUBTYPE_FIXED, 8 * MIB);
        CHECK_OK(vd_vhd_format.create_defaults(&request));
        CHECK_EQ(full ? DISK_FULL : 0,
                 vd_vhd_format.create(&file.file, &request));
        CHECK_EQ(8 * MIB + 512, file.asked);
        CHECK_EQ(full ? 0 : 8 * MIB + 512, size_of(file.under));
        crash_file_free(file.under);
    }
}

int
main(int argc, char **argv)
{
    what_nobody_says_is_as_windows_has_it();
    what_cannot_be_is_refused();
    children_take_after_their_parent();
    children_of_odd_parents_have_the_usual_blocks();
    children_know_their_parent_by_either_path();
    the_footer_says_what_was_asked_for();
    a_fixed_disk_has_its_space(argc > 1 ? argv[1] : ".");
    space_may_be_refused();
    return check_result();
}
