/*
 * The dynamic disk header of a VHD.  See vhd_header.h.
 *
 * Not required, because software in the field does not keep to it: zeros in
 * reserved space, an unused data offset of all ones, a parent's name.
 */
#include "format/vhd_header.h"

#include <stddef.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/trace.h"

enum header_field {
    HEADER_COOKIE = 0,
    HEADER_DATA_OFFSET = 8,
    HEADER_TABLE_OFFSET = 16,
    HEADER_VERSION = 24,
    HEADER_MAX_ENTRIES = 28,
    HEADER_BLOCK_SIZE = 32,
    HEADER_CHECKSUM = 36,
    HEADER_PARENT_ID = 40,
    HEADER_PARENT_TIME_STAMP = 56,
    HEADER_PARENT_NAME = 64,
    HEADER_LOCATORS = 576,
};

enum locator_field {
    LOCATOR_PLATFORM = 0,
    LOCATOR_SPACE = 4,
    LOCATOR_LENGTH = 8,
    LOCATOR_OFFSET = 16,
    LOCATOR_SIZE = 24,
};

#define COOKIE "cxsparse"
#define COOKIE_SIZE 8
#define BITS_PER_BITMAP_SECTOR (8 * VHD_SECTOR_SIZE)

uint64_t
vd_vhd_entries_needed(uint64_t size_bytes, uint32_t block_size)
{
    return size_bytes / block_size + (size_bytes % block_size != 0);
}

uint32_t
vd_vhd_bitmap_size(uint32_t block_size)
{
    uint32_t sectors = block_size / VHD_SECTOR_SIZE;
    return (sectors + BITS_PER_BITMAP_SECTOR - 1) / BITS_PER_BITMAP_SECTOR *
           VHD_SECTOR_SIZE;
}

uint64_t
vd_vhd_locator_reserve(const struct vd_vhd_locator *locator)
{
    if (locator->space != 0 && locator->space < VHD_SECTOR_SIZE) {
        return (uint64_t)locator->space * VHD_SECTOR_SIZE;
    }
    if (locator->space % VHD_SECTOR_SIZE == 0 &&
        locator->space >= locator->length) {
        return locator->space;
    }
    return ((uint64_t)locator->length + VHD_SECTOR_SIZE - 1) /
           VHD_SECTOR_SIZE * VHD_SECTOR_SIZE;
}

static struct vd_vhd_locator
decode_locator(const uint8_t *raw)
{
    return (struct vd_vhd_locator){
        .platform = vd_get_be32(raw + LOCATOR_PLATFORM),
        .space = vd_get_be32(raw + LOCATOR_SPACE),
        .length = vd_get_be32(raw + LOCATOR_LENGTH),
        .offset = vd_get_be64(raw + LOCATOR_OFFSET),
    };
}

static void
decode_fields(const uint8_t *raw, struct vd_vhd_header *header)
{
    header->table_offset = vd_get_be64(raw + HEADER_TABLE_OFFSET);
    header->max_entries = vd_get_be32(raw + HEADER_MAX_ENTRIES);
    header->block_size = vd_get_be32(raw + HEADER_BLOCK_SIZE);
    memcpy(header->parent_id.bytes, raw + HEADER_PARENT_ID, VD_GUID_SIZE);
    header->parent_time_stamp = vd_get_be32(raw + HEADER_PARENT_TIME_STAMP);
    for (size_t i = 0; i < VHD_PARENT_NAME_UNITS; i++) {
        header->parent_name[i] = vd_get_be16(raw + HEADER_PARENT_NAME + i * 2);
    }
    header->parent_name[VHD_PARENT_NAME_UNITS] = 0;
    for (size_t i = 0; i < VHD_LOCATORS; i++) {
        header->locators[i] =
            decode_locator(raw + HEADER_LOCATORS + i * LOCATOR_SIZE);
    }
}

vd_error
vd_vhd_header_decode(const uint8_t raw[VHD_HEADER_SIZE],
                     struct vd_vhd_header *out)
{
    if (memcmp(raw + HEADER_COOKIE, COOKIE, COOKIE_SIZE) != 0) {
        vd_trace(VD_TRACE_FORMAT, "VHD: no dynamic header where it should be");
        return ERROR_VHD_SPARSE_HEADER_CORRUPT;
    }
    uint32_t stored = vd_get_be32(raw + HEADER_CHECKSUM);
    uint32_t computed = vd_vhd_checksum(raw, VHD_HEADER_SIZE, HEADER_CHECKSUM);
    if (stored != computed) {
        vd_trace(VD_TRACE_FORMAT,
                 "VHD: dynamic header checksum is 0x%08X, should be 0x%08X",
                 stored, computed);
        return ERROR_VHD_SPARSE_HEADER_CHECKSUM_MISMATCH;
    }
    uint32_t version = vd_get_be32(raw + HEADER_VERSION);
    if (version >> 16 != VHD_VERSION >> 16) {
        vd_trace(VD_TRACE_FORMAT, "VHD: dynamic header version 0x%08X",
                 version);
        return ERROR_VHD_SPARSE_HEADER_UNSUPPORTED_VERSION;
    }
    decode_fields(raw, out);
    return ERROR_SUCCESS;
}

/* Where the BAT lies: in the file, and apart from the header. */
static bool
table_fits(const struct vd_vhd_header *header,
           const struct vd_vhd_footer *footer, uint64_t file_size)
{
    uint64_t length =
        vd_vhd_entries_needed(footer->current_size, header->block_size) *
        sizeof(uint32_t);
    uint64_t padded; /* length is at most 2040 GiB / 4 KiB * 4 */
    if (!vd_round_up_u64(length, VHD_SECTOR_SIZE, &padded) ||
        header->table_offset % VHD_SECTOR_SIZE != 0 ||
        header->table_offset < VHD_FOOTER_SIZE ||
        !vd_range_within(header->table_offset, padded, file_size)) {
        return false;
    }
    return header->table_offset + padded <= footer->data_offset ||
           footer->data_offset + VHD_HEADER_SIZE <= header->table_offset;
}

vd_error
vd_vhd_header_check(const struct vd_vhd_header *header,
                    const struct vd_vhd_footer *footer, uint64_t file_size)
{
    if (!vd_is_power_of_two(header->block_size) ||
        header->block_size < VHD_MIN_BLOCK_SIZE ||
        header->block_size > VHD_MAX_BLOCK_SIZE) {
        vd_trace(VD_TRACE_FORMAT, "VHD: blocks of %u bytes",
                 header->block_size);
        return ERROR_VHD_INVALID_BLOCK_SIZE;
    }
    uint64_t needed =
        vd_vhd_entries_needed(footer->current_size, header->block_size);
    if (header->max_entries < needed) {
        vd_trace(VD_TRACE_FORMAT, "VHD: a BAT of %u entries for %llu blocks",
                 header->max_entries, (unsigned long long)needed);
        return ERROR_VHD_SPARSE_HEADER_CORRUPT;
    }
    if (!table_fits(header, footer, file_size)) {
        vd_trace(VD_TRACE_FORMAT, "VHD: a BAT at 0x%llX in a file of %llu",
                 (unsigned long long)header->table_offset,
                 (unsigned long long)file_size);
        return ERROR_VHD_SPARSE_HEADER_CORRUPT;
    }
    return ERROR_SUCCESS;
}

size_t
vd_vhd_units_of(const char16_t *text)
{
    size_t units = 0;
    while (text[units] != 0) {
        units++;
    }
    return units;
}

void
vd_vhd_header_set_name(struct vd_vhd_header *header,
                       const char16_t *relative_path,
                       const char16_t *absolute_path)
{
    const char16_t *name =
        absolute_path != NULL ? absolute_path : relative_path;
    size_t units = vd_vhd_units_of(name);
    if (units > VHD_PARENT_NAME_UNITS || absolute_path == NULL) {
        const char16_t *end = name + units;
        while (end != name && end[-1] != u'\\' && end[-1] != u'/') {
            end--;
        }
        units -= (size_t)(end - name);
        name = end;
    }
    if (units > VHD_PARENT_NAME_UNITS) {
        units = 0; /* no file system has such a name */
    }
    memset(header->parent_name, 0, sizeof(header->parent_name));
    memcpy(header->parent_name, name, units * sizeof(*name));
}

static void
encode_locator(const struct vd_vhd_locator *locator, uint8_t *raw)
{
    vd_put_be32(raw + LOCATOR_PLATFORM, locator->platform);
    vd_put_be32(raw + LOCATOR_SPACE, locator->space);
    vd_put_be32(raw + LOCATOR_LENGTH, locator->length);
    vd_put_be64(raw + LOCATOR_OFFSET, locator->offset);
}

void
vd_vhd_header_encode(const struct vd_vhd_header *header,
                     uint8_t raw[VHD_HEADER_SIZE])
{
    memset(raw, 0, VHD_HEADER_SIZE);
    memcpy(raw + HEADER_COOKIE, COOKIE, COOKIE_SIZE);
    vd_put_be64(raw + HEADER_DATA_OFFSET, UINT64_MAX);
    vd_put_be32(raw + HEADER_VERSION, VHD_VERSION);
    vd_vhd_header_update(header, raw);
}

void
vd_vhd_header_update(const struct vd_vhd_header *header,
                     uint8_t raw[VHD_HEADER_SIZE])
{
    vd_put_be64(raw + HEADER_TABLE_OFFSET, header->table_offset);
    vd_put_be32(raw + HEADER_MAX_ENTRIES, header->max_entries);
    vd_put_be32(raw + HEADER_BLOCK_SIZE, header->block_size);
    memcpy(raw + HEADER_PARENT_ID, header->parent_id.bytes, VD_GUID_SIZE);
    vd_put_be32(raw + HEADER_PARENT_TIME_STAMP, header->parent_time_stamp);
    for (size_t i = 0; i < VHD_PARENT_NAME_UNITS; i++) {
        vd_put_be16(raw + HEADER_PARENT_NAME + i * 2, header->parent_name[i]);
    }
    for (size_t i = 0; i < VHD_LOCATORS; i++) {
        encode_locator(&header->locators[i],
                       raw + HEADER_LOCATORS + i * LOCATOR_SIZE);
    }
    vd_put_be32(raw + HEADER_CHECKSUM,
                vd_vhd_checksum(raw, VHD_HEADER_SIZE, HEADER_CHECKSUM));
}
