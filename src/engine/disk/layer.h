/*
 * One image of a chain: its file, its path, and the format's view of it.
 */
#ifndef VD_DISK_LAYER_H
#define VD_DISK_LAYER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/posix_file.h"
#include "disk/disk.h"
#include "format/format.h"

struct vd_layer {
    struct vd_posix_file *file; /* owned */
    struct vd_image *image;     /* owned; over file */
    char *path;                 /* owned; absolute */
    struct vd_session session;  /* of an image that is going to be changed */
};

/* Takes over the file, also on failure.  writable: the image is going to be
 * changed.  device_id: 0 by content. */
VD_MUST_CHECK
vd_error vd_layer_open(struct vd_posix_file *file, uint32_t device_id,
                       bool writable, struct vd_layer *out);

/* The image alone, over a file that stays the caller's. */
VD_MUST_CHECK
vd_error vd_layer_open_image(struct vd_posix_file *file, uint32_t device_id,
                             bool writable, struct vd_image **out);

/* Ends the format's session and closes the file; what cannot be written any
 * more is the returned error. */
vd_error vd_layer_close(struct vd_layer *layer);

static inline struct vd_file_id
vd_layer_file_id(const struct vd_layer *layer)
{
    return (struct vd_file_id){
        .device = layer->file->status.st_dev,
        .inode = layer->file->status.st_ino,
    };
}

/* The kernel's own name for what a descriptor has open, wherever it has been
 * moved, or `path` resolved if that still leads to it.  path may be NULL. */
VD_MUST_CHECK
vd_error vd_layer_find_path(const struct vd_posix_file *file, const char *path,
                            char **out);

#endif
