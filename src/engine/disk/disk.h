/*
 * An opened virtual disk: an image file, its format, and, for a differencing
 * image, the chain of its parents.
 *
 * A disk is opened to be looked at: nothing is written to the image and no
 * lock is taken, also if it is opened `writable` (which only makes sure that
 * the file may be written).  To be used it is opened once more, under locks,
 * from the files that vd_disk_reopen gives: by the attachment that has locked
 * them, or by the disk server.
 *
 * attach/ sees of this: path, file descriptor and identity of the image,
 * size, sector size, read-only, reading and writing, and whether the payload
 * is one contiguous run.  It knows no format.
 *
 * Lock order: mirror_lock, a mirror's lock, mutator, gate.  `gate` is held
 * shared around every transfer of payload and exclusively only for the moment
 * in which nobody else is inside, never during I/O; `mutator` admits one
 * thread to the changing functions of the format.  A read, or a write to space
 * that is there, never waits for it.
 */
#ifndef VD_DISK_DISK_H
#define VD_DISK_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

struct vd_disk;
struct vd_image_info;
struct vd_format;

/* More than any real chain; keeps descriptors and stack within bounds. */
#define VD_DISK_LAYERS_MAX 256

struct vd_disk_options {
    uint32_t device_id; /* VIRTUAL_STORAGE_TYPE_DEVICE_*, 0: by content */
    bool writable;      /* the image file must be open for writing */
    bool no_parents;    /* do not look for the parents */
    bool no_relative;   /* ... by their relative path */
};

/* Which file an image is, whatever its names. */
struct vd_file_id {
    dev_t device;
    ino_t inode;
};

/*
 * Opens path (bytes, relative to the working directory).  No lock is taken.
 * Errors: those of vd_posix_file_open, of vd_format_find and of the format;
 * for a parent ERROR_VHD_PARENT_VHD_NOT_FOUND, _PARENT_VHD_ACCESS_DENIED,
 * _CHILD_PARENT_ID_MISMATCH, _CHILD_PARENT_SIZE_MISMATCH, _INVALID_TYPE,
 * _DIFFERENCING_CHAIN_CYCLE_DETECTED, and further up
 * _DIFFERENCING_CHAIN_ERROR_IN_PARENT.
 */
VD_MUST_CHECK
vd_error vd_disk_open(const char *path, const struct vd_disk_options *options,
                      struct vd_disk **out);

/* Adds the parent of the last layer so far, by path, to a disk opened with
 * no_parents.  ERROR_VHD_INVALID_TYPE if that layer has no parent, or the file
 * is of another format. */
VD_MUST_CHECK
vd_error vd_disk_add_parent(struct vd_disk *disk, const char *path);

/* Closes a disk that has been written: ends the format's session, and says
 * whether all of it has reached the image.  The disk is gone in any case. */
VD_MUST_CHECK
vd_error vd_disk_finish(struct vd_disk *disk);

/* The same where nothing can be lost; accepts NULL. */
void vd_disk_close(struct vd_disk *disk);

/* In a forked child: closes the descriptors and does nothing else, for the
 * disk is its parent's, whose threads may have been anywhere inside. */
void vd_disk_abandon(const struct vd_disk *disk);

/* ---- the files of a disk, to be opened once more ---- */

struct vd_disk_files {
    uint32_t device_id;
    size_t count; /* leaf first */
    int *fds;     /* O_CLOEXEC, each with an open file of its own */
};

/* Some of the layers of a chain. */
struct vd_layer_set {
    bool has[VD_DISK_LAYERS_MAX];
};

/* New open files of all layers, the leaf's for writing if asked, or of the
 * first `layers`, those of `written` (NULL: none) for writing. */
VD_MUST_CHECK
vd_error vd_disk_reopen_some(const struct vd_disk *disk, size_t layers,
                             const struct vd_layer_set *written,
                             struct vd_disk_files *out);
VD_MUST_CHECK
vd_error vd_disk_reopen(const struct vd_disk *disk, bool writable,
                        struct vd_disk_files *out);
void vd_disk_files_close(struct vd_disk_files *files);

/*
 * A disk from its files, to be read and, if writable, changed: a log is
 * replayed, what a crash left is mended.  A parent's file that is open for
 * writing is one that is going to be changed too.  The caller holds the
 * locks.  The descriptors are the disk's on success only; `files` keeps
 * nothing then.
 */
VD_MUST_CHECK
vd_error vd_disk_open_files(struct vd_disk_files *files, bool writable,
                            struct vd_disk **out);

/* The same of the first layers of a chain, whose other files are not in
 * `files`: to change what only these images say of themselves. */
VD_MUST_CHECK
vd_error vd_disk_open_first(struct vd_disk_files *files, struct vd_disk **out);

/* How a chain is made up after an operation. */
struct vd_chain_change {
    size_t kept;    /* so many layers from the leaf on are as before; */
    size_t removed; /* then so many are gone; */
    bool search;    /* then the parents are to be looked for */
};

/* One more look at the files, as they are now; change NULL: at the same.  If
 * no parent is found where one was to be looked for, there is none. */
VD_MUST_CHECK
vd_error vd_disk_look_again(const struct vd_disk *disk,
                            const struct vd_chain_change *change,
                            struct vd_disk **out);

/*
 * Before the payload of a contiguous image is handed to the kernel, which
 * will write to it without telling: replays a log and does what the format
 * does before a first change (a VHDX gets new GUIDs, so that children made of
 * its former content refuse it).  image_fd is an open file of the image with
 * the locks of an attachment, for writing.
 */
VD_MUST_CHECK
vd_error vd_disk_prepare_direct(const struct vd_disk *disk, int image_fd);

/* ---- what it is ---- */

/* Absolute, symbolic links resolved; as it was when opened. */
const char *vd_disk_path(const struct vd_disk *disk);
int vd_disk_fd(const struct vd_disk *disk);
struct vd_file_id vd_disk_file_id(const struct vd_disk *disk);
bool vd_disk_writable(const struct vd_disk *disk);

const struct vd_format *vd_disk_format(const struct vd_disk *disk);
const struct vd_image_info *vd_disk_info(const struct vd_disk *disk);
uint64_t vd_disk_size_bytes(const struct vd_disk *disk);
uint32_t vd_disk_sector_size(const struct vd_disk *disk);
uint32_t vd_disk_physical_sector_size(const struct vd_disk *disk);
bool vd_disk_optical(const struct vd_disk *disk);

/* How many images it is made of, and where each is; 0 is the leaf. */
size_t vd_disk_layers(const struct vd_disk *disk);
const char *vd_disk_layer_path(const struct vd_disk *disk, size_t layer);

/* Whether no parent is missing. */
bool vd_disk_complete(const struct vd_disk *disk);

/* Where the leaf says that its parent is, as paths of this system where they
 * can be that: the candidates in the order of lookup.  Free each, then the
 * array.  ERROR_VHD_INVALID_TYPE if it has none. */
VD_MUST_CHECK
vd_error vd_disk_parent_candidates(const struct vd_disk *disk, char ***out,
                                   size_t *count_out);

/* Size of the image file now, in bytes. */
VD_MUST_CHECK
vd_error vd_disk_file_size(const struct vd_disk *disk, uint64_t *size_out);

struct vd_host_disk {
    uint32_t sector_size; /* logical, of the disk under the file */
    uint32_t physical_sector_size;
    bool remote; /* the file is on a network file system */
};

/* What the image file itself lies on. */
VD_MUST_CHECK
vd_error vd_disk_host(const struct vd_disk *disk, struct vd_host_disk *out);

/* Whether the whole payload is one run of the file, and where it starts. */
VD_MUST_CHECK
vd_error vd_disk_contiguous(struct vd_disk *disk, bool *contiguous,
                            uint64_t *file_offset_out);

struct vd_disk_layout {
    uint64_t blocks;    /* of the image that are in its file; a run counts
                           as one in a format without blocks */
    uint64_t displaced; /* of them, not behind the one before */
    bool aligned_4k;    /* all at places that 4 KiB divide */
};

/* How the image (not its parents) lies in its file; of one with more than
 * 262,144 blocks, how those at its start do. */
VD_MUST_CHECK
vd_error vd_disk_survey(const struct vd_disk *disk,
                        struct vd_disk_layout *out);

/* ---- using it: any number of threads at once ---- */

/* The range must lie inside the disk; it need not be sector-aligned. */
VD_MUST_CHECK
vd_error vd_disk_read(struct vd_disk *disk, void *buffer, size_t length,
                      uint64_t offset);

struct vd_disk_run {
    bool data;       /* false: reads as zeros, and nothing is stored for it */
    uint64_t length; /* bytes, > 0 */
};

/*
 * What the range that starts at offset is; the next run may be of the same
 * kind.  The answer is in whole `granule`s (bytes, a power of two) from an
 * offset that is a multiple of it: what is data in part is data.  A hole in
 * the image file is no data either.
 */
VD_MUST_CHECK
vd_error vd_disk_run(struct vd_disk *disk, uint64_t offset, uint64_t length,
                     uint32_t granule, struct vd_disk_run *out);

/* Whole sectors inside the disk.  ERROR_WRITE_PROTECT if it is read-only,
 * ERROR_IO_DEVICE once a flush has failed, ERROR_DISK_FULL and others. */
VD_MUST_CHECK
vd_error vd_disk_write(struct vd_disk *disk, const void *buffer, size_t length,
                       uint64_t offset);

/* Makes whole sectors read as zeros; may_free: their space may be given up
 * (TRIM).  That is what a discard promises too, for the kernel's comes as the
 * same request as its write of zeros.  Nothing is stored where all layers are
 * empty. */
VD_MUST_CHECK
vd_error vd_disk_zero(struct vd_disk *disk, uint64_t offset, uint64_t length,
                      bool may_free);

/* Returns when everything written before the call is durable.  One flush
 * serves all who wait for it. */
VD_MUST_CHECK
vd_error vd_disk_flush(struct vd_disk *disk);

#endif
