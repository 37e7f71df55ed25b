/*
 * What the tests of the VHD format share: images in a crash_file.
 */
#ifndef VIRTDISK_TESTS_VHD_SUPPORT_H
#define VIRTDISK_TESTS_VHD_SUPPORT_H

#include <stdlib.h>

#include "base/bytes.h"
#include "crash_file.h"
#include "format/format.h"
#include "format/vhd_create.h"
#include "vhd_build.h"

#define KIB 1024u
#define MIB (1024u * 1024)
#define GIB (1024ull * 1024 * 1024)

static inline vd_error
open_as(struct vd_file *file, bool writable, struct vd_image **out)
{
    struct vd_open_request request = {.writable = writable};
    *out = NULL;
    return vd_vhd_format.open(file, &request, out);
}

/* Opens, closes at once, and returns what opening said. */
static inline vd_error
open_error(struct crash_file *file, bool writable)
{
    struct vd_image *image;
    vd_error error = open_as(crash_file_of(file), writable, &image);
    if (error == ERROR_SUCCESS) {
        CHECK_OK(vd_vhd_format.close(image));
    }
    return error;
}

static inline struct vd_image *
must_open(struct crash_file *file, bool writable)
{
    struct vd_image *image;
    if (!CHECK_OK(open_as(crash_file_of(file), writable, &image))) {
        check_broken("the image does not open");
    }
    return image;
}

static inline uint64_t
size_of(struct crash_file *file)
{
    uint64_t size = 0;
    CHECK_OK(vd_file_size(crash_file_of(file), &size));
    return size;
}

static inline void
get_bytes(struct crash_file *file, uint64_t offset, void *bytes, size_t length)
{
    CHECK_OK(vd_file_pread(crash_file_of(file), bytes, length, offset));
}

static inline uint32_t
get_u32(struct crash_file *file, uint64_t offset)
{
    uint8_t bytes[4] = {0};
    get_bytes(file, offset, bytes, sizeof(bytes));
    return vd_get_be32(bytes);
}

/* Overwrites a field of a structure of which the checksum is set anew. */
static inline void
set_header_field(struct crash_file *file, unsigned at, uint64_t value,
                 unsigned size)
{
    uint8_t header[1024];
    get_bytes(file, BUILD_HEADER, header, sizeof(header));
    put_be(header + at, value, size);
    put_header_checksum(header);
    put_bytes(crash_file_of(file), BUILD_HEADER, header, sizeof(header));
}

static inline void
set_footer_bytes(struct crash_file *file, uint64_t footer_at, unsigned at,
                 const void *bytes, size_t length)
{
    uint8_t footer[FOOTER];
    get_bytes(file, footer_at, footer, FOOTER);
    memcpy(footer + at, bytes, length);
    put_checksum(footer);
    put_bytes(crash_file_of(file), footer_at, footer, FOOTER);
}

static inline void
check_extent(struct vd_image *image, uint64_t offset, uint64_t length,
             enum vd_extent_state state, uint64_t file_offset,
             uint64_t extent_length)
{
    struct vd_extent extent = {.length = 0};
    CHECK_OK(vd_vhd_format.lookup(image, offset, length, &extent));
    CHECK_EQ(state, extent.state);
    CHECK_EQ(extent_length, extent.length);
    if (state == VD_EXTENT_PRESENT) {
        CHECK_EQ(file_offset, extent.file_offset);
    }
}

static inline struct vd_vhd_create_request
create_request(enum vd_vhd_disk_type type, uint64_t size)
{
    struct vd_vhd_create_request request = {
        .type = type,
        .size_bytes = size,
        .block_size = type == VHD_TYPE_FIXED ? 0 : VHD_LARGE_BLOCK_SIZE,
        .time_stamp = 509185783,
        .creator_application = "win ",
        .creator_version = 0x000A0000,
    };
    memcpy(request.unique_id.bytes, footer_id, sizeof(footer_id));
    return request;
}

static inline struct crash_file *
new_image(const struct vd_vhd_create_request *request)
{
    struct crash_file *file = crash_file_new();
    CHECK_OK(vd_vhd_create(crash_file_of(file), request));
    return file;
}

#define BLOCK 0x200000u
#define STRIDE (BLOCK + 512)

/* A disk of four blocks, of which 0 and 2 are there: at 0x800, one behind the
 * other, and then the footer. */
static const struct build usual = {
    .size = 4 * BLOCK, .block_size = BLOCK, .type = 3};
#define USUAL_END (0x800 + 2 * STRIDE)

static inline struct crash_file *
build_usual(const struct build *build)
{
    struct crash_file *file = crash_file_new();
    build_image(crash_file_of(file), build, USUAL_END);
    build_entry(crash_file_of(file), 0, 4);
    build_entry(crash_file_of(file), 2, 4 + STRIDE / 512);
    build_bitmap(crash_file_of(file), build, 4, 0xFF);
    build_bitmap(crash_file_of(file), build, 4 + STRIDE / 512, 0xFF);
    return file;
}

enum damage { WHOLE, GONE, TORN, ASTRAY, OTHER };

static inline void
damage_footer(struct crash_file *file, uint64_t at, enum damage damage)
{
    uint8_t zeros[FOOTER] = {0}, one = 1, offset[8];
    put_be(offset, 513, 8);
    if (damage == GONE) {
        put_bytes(crash_file_of(file), at, zeros, FOOTER);
    }
    if (damage == TORN) {
        put_bytes(crash_file_of(file), at + 300, &one, 1);
    }
    if (damage == ASTRAY) {
        set_footer_bytes(file, at, 16, offset, 8);
    }
    if (damage == OTHER) {
        set_footer_bytes(file, at, 68, "another disk's id", 16);
    }
}

/* Two equal footers, the second right behind the two blocks. */
static inline void
check_whole(struct crash_file *file)
{
    uint8_t head[FOOTER], tail[FOOTER];
    CHECK_EQ(USUAL_END + FOOTER, size_of(file));
    get_bytes(file, 0, head, FOOTER);
    get_bytes(file, USUAL_END, tail, FOOTER);
    CHECK_BYTES(head, tail, FOOTER);
}

#endif
