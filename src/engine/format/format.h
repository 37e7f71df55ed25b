/*
 * What a disk image format is to the rest of the engine.
 *
 * A format is pure logic over struct vd_file: it knows no handles, flags,
 * threads, clock or random numbers (what it needs of those comes in as
 * struct vd_session), and never opens another file.  For a range of the
 * virtual disk it answers "present here", "zero" or "ask the parent"; chains
 * are disk/'s business, and so is reading and writing the payload that
 * `lookup` has found.
 *
 * Concurrency: `lookup` may be called by any number of threads at once, also
 * while one other thread is inside a changing function (write, zero, commit,
 * reclaim).  Formats keep what lookup reads in C11 atomics and publish a
 * change only when the payload it points to has been written.  The caller
 * lets only one thread into the changing functions at a time.
 *
 * Durability: nothing is durable until `commit` returns.  A power cut at any
 * moment leaves an image that opens and holds everything committed before;
 * what came after is, sector by sector, old or new.
 *
 * To add a format: one file with a `const struct vd_format`, one line in
 * formats.c.
 */
#ifndef VD_FORMAT_FORMAT_H
#define VD_FORMAT_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uchar.h>

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
    bool optical;              /* an optical disc: read-only, no partitions */
    bool has_identifier;       /* what a child calls its parent; VHD: the */
    struct vd_guid identifier; /* unique id, VHDX: its DataWriteGuid */
    bool has_virtual_disk_id;  /* VHDX: the page 83 id */
    struct vd_guid virtual_disk_id;
    bool has_parent_identifier; /* VHD: the parent's unique id; VHDX: its */
    struct vd_guid parent_identifier; /* DataWriteGuid (parent_linkage) */
    uint32_t parent_timestamp;        /* VHD: seconds since 2000; else 0 */
    bool log_dirty;                   /* VHDX: opened with a log to replay */
};

enum vd_extent_state {
    VD_EXTENT_PRESENT, /* in the file, at file_offset; may be overwritten in
                          place once begin has been called */
    VD_EXTENT_ZERO,
    VD_EXTENT_PARENT,
};

struct vd_extent {
    enum vd_extent_state state;
    uint64_t file_offset; /* if PRESENT */
    uint64_t length;      /* > 0; the answer holds for this many bytes */
};

/* What a format cannot make itself. */
struct vd_session {
    struct vd_guid file_write_guid; /* all random, version 4 */
    struct vd_guid data_write_guid;
    struct vd_guid log_guid;
    uint64_t log_sequence; /* random */
};

struct vd_open_request {
    bool writable; /* the file is open for writing and may be changed */
    struct vd_session session; /* used only if writable */
};

/* Where a child says its parent is, in the order in which to try. */
enum vd_parent_path_kind {
    VD_PARENT_PATH_RELATIVE, /* to the child's directory */
    VD_PARENT_PATH_ABSOLUTE, /* a Windows path */
    VD_PARENT_PATH_VOLUME,   /* \\?\Volume{...}\ */
    VD_PARENT_PATH_URL,      /* MacX: file:// URL, as given */
    VD_PARENT_PATH_NAME,     /* VHD header: the parent's name or path */
};

struct vd_parent_path {
    enum vd_parent_path_kind kind;
    char16_t *text; /* NUL-terminated */
};

#define VD_PARENT_PATH_MAX 16

struct vd_parent_paths {
    size_t count;
    struct vd_parent_path paths[VD_PARENT_PATH_MAX];
};

struct vd_format;

/* An opened image.  Formats embed it first in a struct of their own. */
struct vd_image {
    const struct vd_format *format;
    struct vd_file *file; /* borrowed from the opener */
    struct vd_image_info info;
    bool writable;
};

struct vd_format {
    const char *name;   /* for messages: "VHD" */
    uint32_t device_id; /* VIRTUAL_STORAGE_TYPE_DEVICE_* */

    /* Whether the file's content says that it is of this format, however
     * damaged the rest may be.  An I/O error is an error. */
    vd_error (*probe)(struct vd_file *file, bool *recognised);

    /* Validates everything it will later rely on.  A writable open replays a
     * VHDX log and mends what a crash left; but opening and closing an
     * undamaged image without a change leaves the file bit-identical. */
    vd_error (*open)(struct vd_file *file,
                     const struct vd_open_request *request,
                     struct vd_image **out);

    /* The state of the range that starts at offset: as long a run as has one
     * answer, at most length.  The caller has checked the range. */
    vd_error (*lookup)(struct vd_image *image, uint64_t offset,
                       uint64_t length, struct vd_extent *out);

    /* ---- changing functions: NULL in a read-only format ---- */

    /* Before the first change of what a guest can see, once (idempotent):
     * VHDX writes its new GUIDs and starts the log. */
    vd_error (*begin)(struct vd_image *image);

    /* Stores whole sectors wherever lookup does not say PRESENT (and where
     * it does): allocates, writes the payload, publishes it to lookup. */
    vd_error (*write)(struct vd_image *image, const void *buffer,
                      size_t length, uint64_t offset);

    /* Makes whole sectors read as zeros (never as the parent's data).
     * may_free: space may be given up (TRIM); otherwise a later write to the
     * range must not fail for want of space. */
    vd_error (*zero)(struct vd_image *image, uint64_t offset, uint64_t length,
                     bool may_free);

    /* Makes everything written so far durable, payload written in place
     * included.  After an error the image takes no further change. */
    vd_error (*commit)(struct vd_image *image);

    /* No lookup's answer given before is in use any more: space that zero
     * has given up (and whose release is committed) may be used again. */
    void (*reclaim)(struct vd_image *image);

    /* ---- differencing; NULL if the format has none ---- */

    vd_error (*parent_paths)(struct vd_image *image,
                             struct vd_parent_paths *out);
    void (*parent_paths_free)(struct vd_parent_paths *paths);

    /* Whether this image is the parent that child was made of:
     * ERROR_VHD_CHILD_PARENT_ID_MISMATCH, ..._SIZE_MISMATCH,
     * ERROR_VHD_INVALID_TYPE. */
    vd_error (*accept_parent)(const struct vd_image *child,
                              const struct vd_image *parent);

    /* Commits and ends the session (VHDX: empties the log; VHD: puts the
     * footer at its final place); frees in any case, also on error. */
    vd_error (*close)(struct vd_image *image);
};

extern const struct vd_format vd_iso_format;
extern const struct vd_format vd_vhd_format;
extern const struct vd_format vd_vhdx_format;

/* VIRTUAL_STORAGE_TYPE_DEVICE_* of virtdisk.h; UNKNOWN asks for the format to
 * be found by content. */
#define VD_DEVICE_UNKNOWN 0
#define VD_DEVICE_ISO 1
#define VD_DEVICE_VHD 2
#define VD_DEVICE_VHDX 3

/*
 * The format with this device id, or, for VD_DEVICE_UNKNOWN, the one that the
 * content shows.  ERROR_VIRTDISK_PROVIDER_NOT_FOUND if there is none, or if
 * two formats recognise the content (the caller must name one).
 */
VD_MUST_CHECK
vd_error vd_format_find(struct vd_file *file, uint32_t device_id,
                        const struct vd_format **out);

#endif
