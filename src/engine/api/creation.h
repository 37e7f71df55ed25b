/*
 * A disk that is being created: what CreateVirtualDisk has decided, the files
 * it takes, and the work that is left when its handle exists already.
 */
#ifndef VD_API_CREATION_H
#define VD_API_CREATION_H

#include <stdbool.h>
#include <stdint.h>

#include <windows.h>

#include "api/virtual_disk.h"
#include "attach/attach.h"
#include "base/error.h"
#include "disk/new_file.h"
#include "disk/source.h"
#include "format/format.h"

struct vd_progress;

/* All of it is for creation.c and mirror.c alone. */
struct vd_creation {
    struct vd_new_file file;
    const struct vd_format *format;
    struct vd_disk *parent;  /* owned, NULL: none */
    struct vd_source source; /* owned */
    bool has_source;
    bool sparse;
    bool copy_metadata;
    bool writable;
    bool no_parents;

    /* The parents that the handle sees: layers of a disk that is owned
     * elsewhere, from the first on; NULL: none. */
    const struct vd_disk *chain;
    size_t first;
};

/* Paths are bytes, NULL where there is none; a device id of 0 means that the
 * content says what a file is. */
struct vd_creation_plan {
    const char *path;
    uint32_t device_id;
    const char *parent_path;
    uint32_t parent_device_id;
    const char *source_path;
    uint32_t source_device_id;
    bool exclusive_source; /* nobody may write to a device meanwhile */
    bool sparse;           /* a fixed image takes no space yet */
    bool copy_metadata;    /* from the parent */
    struct vd_create_request request;
    struct vd_node_access access; /* of the image file */

    /* Of the handle. */
    struct vd_rights rights;
    struct vd_open_options options;
    bool writable;
    bool no_parents; /* it does not see them */
};

/*
 * Opens parent or source, under locks, makes the empty image, which has no
 * name yet, and a handle to it.  All that is wrong with the plan comes to
 * light here.  Where fork() waits.
 */
VD_MUST_CHECK
vd_error vd_creation_begin(const struct vd_creation_plan *plan, HANDLE *out);

/* What is left, as the work of an operation: fills the image, makes it
 * durable, gives it its name.  A handle of which this fails is good for
 * nothing any more. */
VD_MUST_CHECK
vd_error vd_creation_run(struct vd_virtual_disk *virtual_disk,
                         const void *arguments, struct vd_progress *progress);

/* One that has nothing yet, or NULL. */
struct vd_creation *vd_creation_new(void);

/* A look at the image under its name. */
VD_MUST_CHECK
vd_error vd_creation_look(const struct vd_creation *creation,
                          struct vd_disk **out);

/* Ends and frees; what has no name is gone.  Accepts NULL. */
void vd_creation_end(struct vd_creation *creation);

/* In a forked child: closes the descriptors and no more. */
void vd_creation_abandon(const struct vd_creation *creation);

#endif
