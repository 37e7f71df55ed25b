/*
 * The dynamic disk header ("Virtual Hard Disk Image Format Specification"
 * 1.0): of dynamic and differencing disks, decoding,
 * encoding, validation.
 *
 * Works on bytes that somebody else has read; knows no file.
 */
#ifndef VD_FORMAT_VHD_HEADER_H
#define VD_FORMAT_VHD_HEADER_H

#include <stddef.h>
#include <stdint.h>
#include <uchar.h>

#include "base/error.h"
#include "base/guid.h"
#include "format/vhd_footer.h"

#define VHD_MIN_BLOCK_SIZE (4u * 1024)
#define VHD_MAX_BLOCK_SIZE (256u * 1024 * 1024)

#define VHD_LOCATORS 8
#define VHD_PARENT_NAME_UNITS 256

/* Platform codes of parent locators. */
#define VHD_PLATFORM_NONE 0
#define VHD_PLATFORM_W2RU 0x57327275u /* Windows relative path, UTF-16LE */
#define VHD_PLATFORM_W2KU 0x57326B75u /* Windows absolute path, UTF-16LE */
#define VHD_PLATFORM_MACX 0x4D616358u /* file URL, UTF-8 */

struct vd_vhd_locator {
    uint32_t platform;
    uint32_t space;  /* reserved in the file: see vd_vhd_locator_reserve */
    uint32_t length; /* bytes used */
    uint64_t offset; /* in the file */
};

struct vd_vhd_header {
    uint64_t table_offset; /* of the BAT */
    uint32_t max_entries;  /* of the BAT; may be more than the disk needs */
    uint32_t block_size;   /* bytes, without the bitmap */
    struct vd_guid parent_id;
    uint32_t parent_time_stamp;
    char16_t parent_name[VHD_PARENT_NAME_UNITS + 1]; /* NUL-terminated */
    struct vd_vhd_locator locators[VHD_LOCATORS];
};

/*
 * Cookie, checksum and version, then the fields, unchecked.
 * ERROR_VHD_SPARSE_HEADER_CORRUPT (no cookie),
 * ERROR_VHD_SPARSE_HEADER_CHECKSUM_MISMATCH,
 * ERROR_VHD_SPARSE_HEADER_UNSUPPORTED_VERSION.
 */
VD_MUST_CHECK
vd_error vd_vhd_header_decode(const uint8_t raw[VHD_HEADER_SIZE],
                              struct vd_vhd_header *out);

/*
 * The fields against a footer that has been checked and a file of file_size
 * bytes.  ERROR_VHD_INVALID_BLOCK_SIZE, ERROR_VHD_SPARSE_HEADER_CORRUPT (too
 * few entries; a BAT that meets the footer's copy or the header, or does not
 * fit the file).
 */
VD_MUST_CHECK
vd_error vd_vhd_header_check(const struct vd_vhd_header *header,
                             const struct vd_vhd_footer *footer,
                             uint64_t file_size);

void vd_vhd_header_encode(const struct vd_vhd_header *header,
                          uint8_t raw[VHD_HEADER_SIZE]);

/* The same into a header that is there, whose other bytes stay. */
void vd_vhd_header_update(const struct vd_vhd_header *header,
                          uint8_t raw[VHD_HEADER_SIZE]);

/* The length of a text. */
size_t vd_vhd_units_of(const char16_t *text);

/* The parent's name: its whole path, or the file's name where that does not
 * fit or is not known.  One of the two at least. */
void vd_vhd_header_set_name(struct vd_vhd_header *header,
                            const char16_t *relative_path,
                            const char16_t *absolute_path);

/* How many BAT entries a disk needs, of blocks of this size. */
uint64_t vd_vhd_entries_needed(uint64_t size_bytes, uint32_t block_size);

/* The length of a block's sector bitmap in the file. */
uint32_t vd_vhd_bitmap_size(uint32_t block_size);

/* The bytes that a locator keeps for itself: software disagrees on whether
 * its space counts bytes or sectors. */
uint64_t vd_vhd_locator_reserve(const struct vd_vhd_locator *locator);

#endif
