/*
 * The footer of a VHD.  See vhd_footer.h.
 *
 * Not required, because software in the field does not keep to it: the
 * reserved feature bit, zeros in reserved space, a plausible geometry, the
 * data offset of a fixed disk.
 */
#include "format/vhd_footer.h"

#include <stddef.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/trace.h"

enum footer_field {
    FOOTER_COOKIE = 0,
    FOOTER_FEATURES = 8,
    FOOTER_VERSION = 12,
    FOOTER_DATA_OFFSET = 16,
    FOOTER_TIME_STAMP = 24,
    FOOTER_CREATOR_APPLICATION = 28,
    FOOTER_CREATOR_VERSION = 32,
    FOOTER_CREATOR_HOST = 36,
    FOOTER_ORIGINAL_SIZE = 40,
    FOOTER_CURRENT_SIZE = 48,
    FOOTER_CYLINDERS = 56,
    FOOTER_HEADS = 58,
    FOOTER_SECTORS_PER_TRACK = 59,
    FOOTER_DISK_TYPE = 60,
    FOOTER_CHECKSUM = 64,
    FOOTER_UNIQUE_ID = 68,
    FOOTER_SAVED_STATE = 84,
};

#define COOKIE_SIZE 8
#define FEATURE_RESERVED 2 /* always set */
#define VERSION_MAJOR 1
#define MAX_GEOMETRY_SECTORS (65535u * 16 * 255)
#define MAX_SHORT_TRACK_SECTORS (65535u * 16 * 63)

bool
vd_vhd_footer_has_cookie(const uint8_t *raw)
{
    return memcmp(raw + FOOTER_COOKIE, "conectix", COOKIE_SIZE) == 0;
}

bool
vd_vhd_footer_is_disabled(const uint8_t *raw)
{
    return memcmp(raw + FOOTER_COOKIE, "v_poison", COOKIE_SIZE) == 0;
}

uint32_t
vd_vhd_checksum(const uint8_t *data, size_t length, size_t checksum_at)
{
    uint32_t sum = 0;
    for (size_t i = 0; i < length; i++) {
        if (i < checksum_at || i >= checksum_at + sizeof(uint32_t)) {
            sum += data[i];
        }
    }
    return ~sum;
}

static struct vd_vhd_footer
decode_fields(const uint8_t *raw)
{
    struct vd_vhd_footer footer = {
        .version = vd_get_be32(raw + FOOTER_VERSION),
        .data_offset = vd_get_be64(raw + FOOTER_DATA_OFFSET),
        .time_stamp = vd_get_be32(raw + FOOTER_TIME_STAMP),
        .creator_version = vd_get_be32(raw + FOOTER_CREATOR_VERSION),
        .original_size = vd_get_be64(raw + FOOTER_ORIGINAL_SIZE),
        .current_size = vd_get_be64(raw + FOOTER_CURRENT_SIZE),
        .geometry =
            {
                .cylinders = vd_get_be16(raw + FOOTER_CYLINDERS),
                .heads = raw[FOOTER_HEADS],
                .sectors_per_track = raw[FOOTER_SECTORS_PER_TRACK],
            },
        .disk_type = vd_get_be32(raw + FOOTER_DISK_TYPE),
    };
    memcpy(footer.creator_application, raw + FOOTER_CREATOR_APPLICATION,
           sizeof(footer.creator_application));
    memcpy(footer.unique_id.bytes, raw + FOOTER_UNIQUE_ID, VD_GUID_SIZE);
    return footer;
}

vd_error
vd_vhd_footer_decode(const uint8_t *raw, struct vd_vhd_footer *out)
{
    if (!vd_vhd_footer_has_cookie(raw)) {
        vd_trace(VD_TRACE_FORMAT, "VHD: no footer where it should be");
        return ERROR_VHD_DRIVE_FOOTER_MISSING;
    }
    uint32_t stored = vd_get_be32(raw + FOOTER_CHECKSUM);
    uint32_t computed = vd_vhd_checksum(raw, VHD_FOOTER_SIZE, FOOTER_CHECKSUM);
    if (stored != computed) {
        vd_trace(VD_TRACE_FORMAT,
                 "VHD: footer checksum is 0x%08X, should be 0x%08X", stored,
                 computed);
        return ERROR_VHD_DRIVE_FOOTER_CHECKSUM_MISMATCH;
    }
    struct vd_vhd_footer footer = decode_fields(raw);
    if (footer.version >> 16 != VERSION_MAJOR) {
        vd_trace(VD_TRACE_FORMAT, "VHD: file format version 0x%08X",
                 footer.version);
        return ERROR_VHD_FORMAT_UNSUPPORTED_VERSION;
    }
    *out = footer;
    return ERROR_SUCCESS;
}

void
vd_vhd_footer_encode(const struct vd_vhd_footer *footer,
                     uint8_t raw[VHD_FOOTER_SIZE])
{
    memset(raw, 0, VHD_FOOTER_SIZE);
    memcpy(raw + FOOTER_COOKIE, "conectix", COOKIE_SIZE);
    vd_put_be32(raw + FOOTER_FEATURES, FEATURE_RESERVED);
    vd_put_be32(raw + FOOTER_VERSION, footer->version);
    vd_put_be32(raw + FOOTER_TIME_STAMP, footer->time_stamp);
    memcpy(raw + FOOTER_CREATOR_APPLICATION, footer->creator_application,
           sizeof(footer->creator_application));
    vd_put_be32(raw + FOOTER_CREATOR_VERSION, footer->creator_version);
    memcpy(raw + FOOTER_CREATOR_HOST, "Wi2k", 4);
    vd_put_be64(raw + FOOTER_ORIGINAL_SIZE, footer->original_size);
    vd_put_be32(raw + FOOTER_DISK_TYPE, footer->disk_type);
    vd_vhd_footer_update(footer, raw);
}

void
vd_vhd_footer_update(const struct vd_vhd_footer *footer,
                     uint8_t raw[VHD_FOOTER_SIZE])
{
    vd_put_be64(raw + FOOTER_DATA_OFFSET, footer->data_offset);
    vd_put_be64(raw + FOOTER_CURRENT_SIZE, footer->current_size);
    vd_put_be16(raw + FOOTER_CYLINDERS, footer->geometry.cylinders);
    raw[FOOTER_HEADS] = footer->geometry.heads;
    raw[FOOTER_SECTORS_PER_TRACK] = footer->geometry.sectors_per_track;
    memcpy(raw + FOOTER_UNIQUE_ID, footer->unique_id.bytes, VD_GUID_SIZE);
    vd_put_be32(raw + FOOTER_CHECKSUM,
                vd_vhd_checksum(raw, VHD_FOOTER_SIZE, FOOTER_CHECKSUM));
}

bool
vd_vhd_footer_has_saved_state(const uint8_t *raw)
{
    return raw[FOOTER_SAVED_STATE] != 0;
}

static vd_error
check_fixed(const struct vd_vhd_footer *footer, uint64_t file_size,
            uint64_t footer_size)
{
    /* A longer file is tolerated: the disk is the first current_size bytes. */
    if (!vd_range_within(footer->current_size, footer_size, file_size)) {
        vd_trace(VD_TRACE_FORMAT,
                 "VHD: a fixed disk of %llu bytes in a file of %llu",
                 (unsigned long long)footer->current_size,
                 (unsigned long long)file_size);
        return ERROR_VHD_INVALID_FILE_SIZE;
    }
    return ERROR_SUCCESS;
}

/* Behind the dynamic header comes at least its block table, a sector, even
 * where the footer at the end is cut off. */
static vd_error
check_dynamic(const struct vd_vhd_footer *footer, uint64_t file_size)
{
    if (footer->current_size > VHD_MAX_DYNAMIC_SIZE) {
        vd_trace(VD_TRACE_FORMAT, "VHD: a dynamic disk of %llu bytes",
                 (unsigned long long)footer->current_size);
        return ERROR_VHD_INVALID_SIZE;
    }
    if (footer->data_offset < VHD_FOOTER_SIZE ||
        footer->data_offset % VHD_SECTOR_SIZE != 0 ||
        !vd_range_within(footer->data_offset,
                         VHD_HEADER_SIZE + VHD_SECTOR_SIZE, file_size)) {
        vd_trace(VD_TRACE_FORMAT,
                 "VHD: dynamic header at 0x%llX in a file of %llu bytes",
                 (unsigned long long)footer->data_offset,
                 (unsigned long long)file_size);
        return ERROR_VHD_DRIVE_FOOTER_CORRUPT;
    }
    return ERROR_SUCCESS;
}

vd_error
vd_vhd_footer_check(const struct vd_vhd_footer *footer, uint64_t file_size,
                    uint64_t footer_size)
{
    if (footer->disk_type < VHD_TYPE_FIXED ||
        footer->disk_type > VHD_TYPE_DIFFERENCING) {
        vd_trace(VD_TRACE_FORMAT, "VHD: disk type %u", footer->disk_type);
        return ERROR_VHD_FORMAT_UNKNOWN;
    }
    if (footer->current_size == 0 ||
        footer->current_size % VHD_SECTOR_SIZE != 0) {
        vd_trace(VD_TRACE_FORMAT, "VHD: a disk of %llu bytes",
                 (unsigned long long)footer->current_size);
        return ERROR_VHD_INVALID_SIZE;
    }
    if (footer->disk_type == VHD_TYPE_FIXED) {
        return check_fixed(footer, file_size, footer_size);
    }
    return check_dynamic(footer, file_size);
}

/* The specification's steps for disks of less than 65535 * 16 * 63 sectors:
 * the shortest track that needs at most 1023 cylinders of 16 heads. */
static struct vd_vhd_geometry
short_track_geometry(uint32_t sectors)
{
    uint32_t track = 17;
    uint32_t tracks = sectors / track;
    uint32_t heads = (tracks + 1023) / 1024;
    if (heads < 4) {
        heads = 4;
    }
    if (tracks >= heads * 1024 || heads > 16) {
        track = 31;
        heads = 16;
        tracks = sectors / track;
    }
    if (tracks >= heads * 1024) {
        track = 63;
        heads = 16;
        tracks = sectors / track;
    }
    /* tracks / heads < 65536: sectors are below 65535 * 16 * 63. */
    return (struct vd_vhd_geometry){
        .cylinders = (uint16_t)(tracks / heads),
        .heads = (uint8_t)heads,
        .sectors_per_track = (uint8_t)track,
    };
}

struct vd_vhd_geometry
vd_vhd_geometry_of_size(uint64_t size_bytes)
{
    uint64_t sectors = size_bytes / VHD_SECTOR_SIZE;
    if (sectors > MAX_GEOMETRY_SECTORS) {
        sectors = MAX_GEOMETRY_SECTORS;
    }
    if (sectors < MAX_SHORT_TRACK_SECTORS) {
        return short_track_geometry((uint32_t)sectors);
    }
    return (struct vd_vhd_geometry){
        .cylinders = (uint16_t)(sectors / 255 / 16),
        .heads = 16,
        .sectors_per_track = 255,
    };
}

uint64_t
vd_vhd_geometry_size(struct vd_vhd_geometry geometry)
{
    return (uint64_t)geometry.cylinders * geometry.heads *
           geometry.sectors_per_track * VHD_SECTOR_SIZE;
}

static bool
creator_counts_by_geometry(const struct vd_vhd_footer *footer)
{
    static const char creators[][5] = {"vpc ", "vs  ", "qemu"};
    for (size_t i = 0; i < sizeof(creators) / sizeof(creators[0]); i++) {
        if (memcmp(footer->creator_application, creators[i],
                   sizeof(footer->creator_application)) == 0) {
            return true;
        }
    }
    return false;
}

uint64_t
vd_vhd_footer_creator_size(const struct vd_vhd_footer *footer)
{
    uint64_t by_geometry = vd_vhd_geometry_size(footer->geometry);
    bool saturated =
        by_geometry == (uint64_t)MAX_GEOMETRY_SECTORS * VHD_SECTOR_SIZE;
    if (!creator_counts_by_geometry(footer) || saturated || by_geometry == 0 ||
        by_geometry > footer->current_size) {
        return footer->current_size;
    }
    return by_geometry;
}
