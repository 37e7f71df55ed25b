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
    bool saved_state; /* VHD: that of a virtual machine is over this disk,
                         which has to stay as it is */
};

/* What a session is going to change; each includes those before it. */
enum vd_change {
    VD_CHANGE_LAYOUT,  /* where things are in the file, and what the image
                          says of itself: children stay valid */
    VD_CHANGE_CONTENT, /* what a guest can see */
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

/* What an image says of itself, to be changed: what is NULL or 0 stays. */
struct vd_image_change {
    const struct vd_guid *identifier;      /* VHD: the unique id */
    const struct vd_guid *virtual_disk_id; /* VHDX: the page 83 id */
    uint32_t physical_sector_size;         /* VHDX: 512 or 4096 */

    /* The parent, of a differencing image: all three paths are replaced. */
    const struct vd_guid *parent_identifier;
    const char16_t *parent_relative_path; /* ".\\parent.vhdx" */
    const char16_t *parent_absolute_path;
    uint32_t parent_timestamp; /* VHD: with parent_identifier; 0: none */

    /* One more identifier by which the parent is accepted, while it is being
     * changed (VHDX: parent_linkage2).  Zero: none any more. */
    const struct vd_guid *other_parent_identifier;
};

/* What a new image is to be; vd_format.create_defaults fills in the zeros. */
struct vd_create_request {
    enum vd_subtype subtype;       /* FIXED, DYNAMIC or DIFFERENCING */
    uint64_t size_bytes;           /* 0: the parent's */
    uint32_t block_size;           /* 0: the default */
    uint32_t sector_size;          /* logical; 0: 512, or the parent's */
    uint32_t physical_sector_size; /* 0: the default, or the parent's */
    struct vd_guid identifier;     /* VHD: unique id; VHDX: page 83 id, of a
                                      child its parent's if this is zero */
    struct vd_session session;     /* VHDX */
    uint32_t time_stamp;           /* VHD: now, seconds since 2000 UTC */

    const struct vd_image *parent;        /* DIFFERENCING, else NULL */
    const char16_t *parent_relative_path; /* ".\\parent.vhdx" */
    const char16_t *parent_absolute_path; /* NULL: none */
    uint32_t parent_timestamp; /* VHD: of its last change; 0: as Windows */
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
    const char *name;    /* for messages: "VHD" */
    uint32_t device_id;  /* VIRTUAL_STORAGE_TYPE_DEVICE_* */
    bool shrinks;        /* resize makes smaller too, and a child another size
                            than its parent's */
    bool resizes_in_use; /* also while others read and write the disk */
    bool renews_identifier; /* info.identifier is that of the content: another
                               (session.data_write_guid) once begin has been
                               called for CONTENT */

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

    /* Before the first change of that kind, once (idempotent): VHDX writes
     * its new GUIDs and starts the log. */
    vd_error (*begin)(struct vd_image *image, enum vd_change change);

    /* Stores whole sectors wherever lookup does not say PRESENT (and where
     * it does): allocates, writes the payload, publishes it to lookup. */
    vd_error (*write)(struct vd_image *image, const void *buffer,
                      size_t length, uint64_t offset);

    /* Makes whole sectors read as zeros (never as the parent's data).
     * may_free: space may be given up (TRIM); otherwise what the range has
     * is kept. */
    vd_error (*zero)(struct vd_image *image, uint64_t offset, uint64_t length,
                     bool may_free);

    /* Makes everything written so far durable, payload written in place
     * included.  After an error the image takes no further change. */
    vd_error (*commit)(struct vd_image *image);

    /* How many bytes have been given up and not been reclaimed. */
    uint64_t (*given_up)(const struct vd_image *image);

    /* No lookup's answer given before is in use any more: space that zero
     * has given up (and whose release is committed) may be used again, and
     * is given back to the file system as far as that can be done. */
    void (*reclaim)(struct vd_image *image);

    /* ---- the image as a whole; NULL: ERROR_NOT_SUPPORTED.  Each wants
     * begin first, and is durable, or has not happened, after a power cut at
     * any moment ---- */

    /* Another virtual size.  New space reads as zeros, in a child too; of a
     * fixed image it is allocated.  What lies past a smaller size is lost.
     * lookup may run meanwhile, for ranges inside both sizes.  Begun for
     * LAYOUT, it begins for CONTENT itself when nothing can be refused any
     * more.  Errors:
     * ERROR_VHD_INVALID_SIZE (more than the format can hold),
     * ERROR_VHD_INVALID_TYPE (VHD: shrink, or a child),
     * ERROR_VHD_INVALID_STATE (VHD: saved state), ERROR_DISK_FULL. */
    vd_error (*resize)(struct vd_image *image, uint64_t size_bytes);

    /* Makes whole blocks of a child read as the parent's data again and
     * gives their space up. */
    vd_error (*forget)(struct vd_image *image, uint64_t offset,
                       uint64_t length);

    /* Moves what lies last in the file into free space nearer the start, one
     * block at a time; false: there is nothing to move, or nowhere.  Lookup
     * may run meanwhile, but nobody may write to the payload.  The old place
     * is given up as by zero: commit, then reclaim. */
    vd_error (*relocate)(struct vd_image *image, bool *moved_out);

    /* How many bytes of the file hold something, and would be left by
     * relocate and shorten. */
    vd_error (*occupied)(struct vd_image *image, uint64_t *bytes_out);

    /* Cuts the file off behind the last thing in use.  Nothing may be given
     * up and not yet reclaimed. */
    vd_error (*shorten)(struct vd_image *image);

    /* ERROR_NOT_SUPPORTED for what the format does not have,
     * ERROR_VHD_INVALID_TYPE for a parent where there is none,
     * ERROR_INVALID_PARAMETER for a value that cannot be. */
    vd_error (*change)(struct vd_image *image,
                       const struct vd_image_change *change);

    /* User metadata items ([MS-VHDX] 2.6.1.2).  `items` NULL: the count only;
     * free it.  get: ERROR_NOT_FOUND; *out is the caller's to free.  set:
     * ERROR_VHD_METADATA_FULL.  No begin for the first two. */
    vd_error (*metadata_list)(struct vd_image *image, struct vd_guid **items,
                              size_t *count_out);
    vd_error (*metadata_get)(struct vd_image *image,
                             const struct vd_guid *item, void **out,
                             size_t *size_out);
    vd_error (*metadata_set)(struct vd_image *image,
                             const struct vd_guid *item, const void *data,
                             size_t size);
    vd_error (*metadata_delete)(struct vd_image *image,
                                const struct vd_guid *item);

    /* Puts the defaults in and checks the request: ERROR_INVALID_PARAMETER
     * for what the format cannot be, ERROR_VHD_INVALID_SIZE,
     * ERROR_VHD_INVALID_BLOCK_SIZE. */
    vd_error (*create_defaults)(struct vd_create_request *request);

    /* Writes a new image into an empty file, from a request that
     * create_defaults has passed; interrupted, it is never taken for one.
     * A fixed image's payload reads as zeros, and its space is allocated. */
    vd_error (*create)(struct vd_file *file,
                       const struct vd_create_request *request);

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
