/*
 * Dynamic and differencing VHDs put together byte by byte after the
 * specification ("Virtual Hard Disk Image Format Specification" 1.0), not
 * with the code under test: other software's layouts, and damaged ones.
 */
#ifndef VIRTDISK_TESTS_VHD_BUILD_H
#define VIRTDISK_TESTS_VHD_BUILD_H

#include "base/file.h"
#include "check.h"
#include "vhd_bytes.h"

#define BUILD_HEADER 0x200
#define BUILD_BAT 0x600

struct build {
    const char *creator; /* four characters; NULL: "win " */
    uint32_t creator_version;
    uint64_t size;
    uint32_t block_size;
    uint32_t type;
    uint32_t max_entries; /* 0: as many as needed */
    const uint8_t *parent_id;
};

static inline void
put_bytes(struct vd_file *file, uint64_t offset, const void *bytes,
          size_t length)
{
    CHECK_OK(vd_file_pwrite(file, bytes, length, offset));
}

static inline void
build_footer(const struct build *build, uint8_t footer[FOOTER])
{
    struct footer_values values = {
        .creator = build->creator != NULL ? build->creator : "win ",
        .creator_version =
            build->creator != NULL ? build->creator_version : 0x000A0000,
        .size = build->size,
        .type = build->type,
        .data_offset = BUILD_HEADER,
        .id = footer_id,
    };
    put_footer(footer, &values);
}

/* Of a header: the checksum is at 36, over 1024 bytes. */
static inline void
put_header_checksum(uint8_t *header)
{
    uint32_t sum = 0;
    put_be(header + 36, 0, 4);
    for (unsigned i = 0; i < 1024; i++) {
        sum += header[i];
    }
    put_be(header + 36, ~sum, 4);
}

static inline uint32_t
build_entries(const struct build *build)
{
    uint64_t needed =
        (build->size + build->block_size - 1) / build->block_size;
    return build->max_entries != 0 ? build->max_entries : (uint32_t)needed;
}

static inline void
build_header(const struct build *build, uint8_t header[1024])
{
    memset(header, 0, 1024);
    memcpy(header, "cxsparse", 8);
    put_be(header + 8, UINT64_MAX, 8);
    put_be(header + 16, BUILD_BAT, 8);
    put_be(header + 24, 0x00010000, 4);
    put_be(header + 28, build_entries(build), 4);
    put_be(header + 32, build->block_size, 4);
    if (build->parent_id != NULL) {
        memcpy(header + 40, build->parent_id, 16);
    }
    put_header_checksum(header);
}

static inline uint32_t
build_bitmap_size(const struct build *build)
{
    return (build->block_size / 512 / 8 + 511) / 512 * 512;
}

/* Where the BAT ends, on a sector. */
static inline uint64_t
build_bat_end(const struct build *build)
{
    return BUILD_BAT + ((uint64_t)build_entries(build) * 4 + 511) / 512 * 512;
}

/* Footers, header and an empty BAT; the footer stands at `end`. */
static inline void
build_image(struct vd_file *file, const struct build *build, uint64_t end)
{
    uint8_t footer[FOOTER], header[1024], ones[512];
    build_footer(build, footer);
    build_header(build, header);
    memset(ones, 0xFF, sizeof(ones));
    put_bytes(file, 0, footer, FOOTER);
    put_bytes(file, BUILD_HEADER, header, sizeof(header));
    for (uint64_t at = BUILD_BAT; at < build_bat_end(build); at += 512) {
        put_bytes(file, at, ones, sizeof(ones));
    }
    put_bytes(file, end, footer, FOOTER);
}

static inline void
build_entry(struct vd_file *file, uint64_t block, uint32_t sector)
{
    uint8_t entry[4];
    put_be(entry, sector, 4);
    put_bytes(file, BUILD_BAT + block * 4, entry, 4);
}

/* Every byte of a block's bitmap. */
static inline void
build_bitmap(struct vd_file *file, const struct build *build, uint32_t sector,
             int value)
{
    uint8_t bits[512];
    memset(bits, value, sizeof(bits));
    for (uint32_t at = 0; at < build_bitmap_size(build); at += 512) {
        put_bytes(file, (uint64_t)sector * 512 + at, bits, sizeof(bits));
    }
}

#endif
