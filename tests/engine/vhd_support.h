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

#endif
