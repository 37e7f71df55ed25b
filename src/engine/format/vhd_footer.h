/*
 * The footer of a VHD ("Virtual Hard Disk Image Format Specification" 1.0):
 * decoding, encoding, validation, geometry.
 *
 * Works on bytes that somebody else has read; knows no file.
 */
#ifndef VD_FORMAT_VHD_FOOTER_H
#define VD_FORMAT_VHD_FOOTER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/guid.h"

#define VHD_SECTOR_SIZE 512u
#define VHD_FOOTER_SIZE 512u
#define VHD_OLD_FOOTER_SIZE 511u /* before Virtual PC 2004 */
#define VHD_HEADER_SIZE 1024u    /* of a dynamic or differencing disk */

/* 2040 GiB: what Windows and the block table of a dynamic disk allow. */
#define VHD_MAX_DYNAMIC_SIZE 0x1FE00000000u

#define VHD_VERSION 0x00010000u /* of the format and of its header */

enum vd_vhd_disk_type {
    VHD_TYPE_FIXED = 2,
    VHD_TYPE_DYNAMIC = 3,
    VHD_TYPE_DIFFERENCING = 4,
};

struct vd_vhd_geometry {
    uint16_t cylinders;
    uint8_t heads;
    uint8_t sectors_per_track;
};

struct vd_vhd_footer {
    uint32_t version;     /* of the file format, major.minor 16.16 */
    uint64_t data_offset; /* of the dynamic header; fixed: all ones */
    uint32_t time_stamp;  /* seconds since 2000-01-01 00:00 UTC */
    uint8_t creator_application[4];
    uint32_t creator_version; /* major.minor 16.16 */
    uint64_t original_size;   /* bytes, when it was made */
    uint64_t current_size;    /* bytes */
    struct vd_vhd_geometry geometry;
    uint32_t disk_type; /* as found; enum vd_vhd_disk_type once checked */
    struct vd_guid unique_id;
};

/* raw holds VHD_FOOTER_SIZE bytes; an old footer is padded with a zero. */
bool vd_vhd_footer_has_cookie(const uint8_t *raw);

/* Whether XenServer has put its mark on the footer: do not use this disk. */
bool vd_vhd_footer_is_disabled(const uint8_t *raw);

/*
 * Cookie, checksum and version, then the fields, unchecked.
 * ERROR_VHD_DRIVE_FOOTER_MISSING, ERROR_VHD_DRIVE_FOOTER_CHECKSUM_MISMATCH,
 * ERROR_VHD_FORMAT_UNSUPPORTED_VERSION.
 */
VD_MUST_CHECK
vd_error vd_vhd_footer_decode(const uint8_t *raw, struct vd_vhd_footer *out);

/*
 * The fields against each other and against a file of file_size bytes, of
 * which the last footer_size are the footer.  ERROR_VHD_FORMAT_UNKNOWN (disk
 * type), ERROR_VHD_INVALID_SIZE, ERROR_VHD_INVALID_FILE_SIZE (a fixed disk's
 * file is cut short), ERROR_VHD_DRIVE_FOOTER_CORRUPT (data offset).
 */
VD_MUST_CHECK
vd_error vd_vhd_footer_check(const struct vd_vhd_footer *footer,
                             uint64_t file_size, uint64_t footer_size);

/* A footer of our own making: for Windows, saved state and reserved bytes 0,
 * checksum right. */
void vd_vhd_footer_encode(const struct vd_vhd_footer *footer,
                          uint8_t raw[VHD_FOOTER_SIZE]);

/* What may change in the life of a disk (data offset, current size, geometry,
 * unique id), into a footer that is there, whose other bytes stay. */
void vd_vhd_footer_update(const struct vd_vhd_footer *footer,
                          uint8_t raw[VHD_FOOTER_SIZE]);

/* Whether a virtual machine's saved state is over this disk. */
bool vd_vhd_footer_has_saved_state(const uint8_t *raw);

/* The complement of the sum of all bytes but the four at checksum_at. */
uint32_t vd_vhd_checksum(const uint8_t *data, size_t length,
                         size_t checksum_at);

/* The geometry that the specification's algorithm gives a disk. */
struct vd_vhd_geometry vd_vhd_geometry_of_size(uint64_t size_bytes);

uint64_t vd_vhd_geometry_size(struct vd_vhd_geometry geometry);

/*
 * The size that the software which made the image shows its guests: by
 * geometry for Virtual PC, Virtual Server and old QEMU, whose emulated disk
 * is the smaller one; the current size for all others, and where the
 * geometry is saturated or says nothing.  Never above the current size.
 * Windows attaches with the current size whatever this says.
 */
uint64_t vd_vhd_footer_creator_size(const struct vd_vhd_footer *footer);

#endif
