/*
 * What a disk image format is to the rest of the engine.
 *
 * A format is pure logic over struct vd_file: it knows no handles, flags,
 * threads, clock or random numbers, and never opens another file.  For a
 * range of the virtual disk it answers "present here", "zero" or "ask the
 * parent"; chains are disk/'s business.
 *
 * To add a format: one file with a `const struct vd_format`, one line in
 * formats.c.
 */
#ifndef VD_FORMAT_FORMAT_H
#define VD_FORMAT_FORMAT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/file.h"
#include "base/guid.h"

/* Values are those of GET_VIRTUAL_DISK_INFO_PROVIDER_SUBTYPE. */
enum vd_subtype {
    VD_SUBTYPE_NONE = 0,
    VD_SUBTYPE_FIXED = 2,
    VD_SUBTYPE_DYNAMIC = 3,
    VD_SUBTYPE_DIFFERENCING = 4,
};

struct vd_image_info {
    uint64_t size_bytes;           /* of the virtual disk */
    uint32_t sector_size;          /* logical: 512, 2048 or 4096 */
    uint32_t physical_sector_size; /* reported by the image */
    uint32_t block_size;           /* 0: the format has no blocks */
    enum vd_subtype subtype;
    bool optical;        /* an optical disc: read-only, no partitions */
    bool has_identifier; /* VHD: the footer's unique id */
    struct vd_guid identifier;
};

enum vd_extent_state {
    VD_EXTENT_PRESENT, /* in the file, at file_offset */
    VD_EXTENT_ZERO,
    VD_EXTENT_PARENT,
};

struct vd_extent {
    enum vd_extent_state state;
    uint64_t file_offset; /* if PRESENT */
    uint64_t length;      /* > 0; the answer holds for this many bytes */
};

struct vd_format;

/* An opened image.  Formats embed it first in a struct of their own. */
struct vd_image {
    const struct vd_format *format;
    struct vd_file *file; /* borrowed from the opener */
    struct vd_image_info info;
};

struct vd_format {
    const char *name;   /* for messages: "VHD" */
    uint32_t device_id; /* VIRTUAL_STORAGE_TYPE_DEVICE_* */

    /* Whether the file's content says that it is of this format, however
     * damaged the rest may be.  An I/O error is an error. */
    vd_error (*probe)(struct vd_file *file, bool *recognised);

    /* Validates everything it will later rely on.  ERROR_NOT_SUPPORTED for a
     * valid image of a kind that is not handled. */
    vd_error (*open)(struct vd_file *file, struct vd_image **out);

    /* The state of the range that starts at offset: as long a run as has one
     * answer, at most length.  The caller has checked the range. */
    vd_error (*map)(struct vd_image *image, uint64_t offset, uint64_t length,
                    struct vd_extent *out);

    void (*close)(struct vd_image *image);
};

extern const struct vd_format vd_iso_format;
extern const struct vd_format vd_vhd_format;

/* VIRTUAL_STORAGE_TYPE_DEVICE_*; UNKNOWN asks for the format to be found by
 * content. */
#define VD_DEVICE_UNKNOWN 0
#define VD_DEVICE_ISO 1
#define VD_DEVICE_VHD 2

/*
 * The format with this device id, or, for VD_DEVICE_UNKNOWN, the one that the
 * content shows.  ERROR_VIRTDISK_PROVIDER_NOT_FOUND if there is none, or if
 * two formats recognise the content (the caller must name one).
 */
VD_MUST_CHECK
vd_error vd_format_find(struct vd_file *file, uint32_t device_id,
                        const struct vd_format **out);

#endif
