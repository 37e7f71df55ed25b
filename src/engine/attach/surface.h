/*
 * A way of making a disk visible.
 *
 * What a surface shows is a loop device, a file, or nothing; from there on all
 * attachments of one kind are alike.
 */
#ifndef VD_ATTACH_SURFACE_H
#define VD_ATTACH_SURFACE_H

#include <stdbool.h>

#include "attach/attach.h"
#include "attach/record.h"
#include "base/error.h"
#include "disk/disk.h"

/* The open files that a surface is given. */
struct vd_show_files {
    int image;           /* of the image, with the attachment's locks */
    const int *listener; /* for a server's upkeep; NULL: there is none */
};

struct vd_surface {
    const char *name; /* for traces: "loop" */
    bool serves;      /* by a disk server */

    /* Whether it can show this disk as asked.  Changes nothing. */
    vd_error (*suits)(struct vd_disk *disk,
                      const struct vd_attach_request *request,
                      bool *suits_out);

    /* Shows it.  A device, with autoclear on: record->loop, and *claim_out, by
     * which it is open exclusively (as from vd_loop_create).  A file:
     * record->shown, and *claim_out, with which it goes unless it is to be
     * permanent.  Nothing: neither.  Whoever serves the disk keeps the
     * files. */
    vd_error (*show)(struct vd_disk *disk,
                     const struct vd_attach_request *request,
                     const struct vd_show_files *files,
                     struct vd_record *record, int *claim_out);
};

extern const struct vd_surface vd_loop_surface;
extern const struct vd_surface vd_fuse_surface;
extern const struct vd_surface vd_file_surface;
extern const struct vd_surface vd_handle_surface;

/* The first that suits; ERROR_NOT_SUPPORTED if none does. */
VD_MUST_CHECK
vd_error vd_surface_find(struct vd_disk *disk,
                         const struct vd_attach_request *request,
                         const struct vd_surface **out);

/* Whether the request shows the disk from its first to its last sector. */
bool vd_request_is_whole(const struct vd_disk *disk,
                         const struct vd_attach_request *request);

/* Whether the disk is to be read only: asked for, or a disc. */
bool vd_request_is_read_only(const struct vd_disk *disk,
                             const struct vd_attach_request *request);

/* Whether partitions are to be looked for. */
bool vd_request_has_partitions(const struct vd_disk *disk,
                               const struct vd_attach_request *request);

#endif
