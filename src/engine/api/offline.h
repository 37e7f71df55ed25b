/*
 * Operations that change an image which nobody has attached: the disk is
 * opened once more under the locks of a writer for as long as one takes.
 */
#ifndef VD_API_OFFLINE_H
#define VD_API_OFFLINE_H

#include "api/virtual_disk.h"
#include "base/error.h"

struct vd_progress;

struct vd_offline_work {
    /* disk: live, the layers of `written` writable. */
    vd_error (*run)(struct vd_disk *disk, const void *arguments,
                    struct vd_progress *progress);
    const void *arguments;
    size_t layers; /* how many are needed, the leaf first; 0: all, and then
                      no parent may be missing */
    const struct vd_layer_set *written;   /* NULL: the leaf */
    const struct vd_chain_change *change; /* of the chain, if it succeeds;
                                             NULL: none */
};

/*
 * Runs work, ends the format's session, and lets the handle look at the image
 * as it is then.  ERROR_ACCESS_DENIED without vd_rights.change,
 * ERROR_VHD_INVALID_STATE if it is attached through this handle,
 * ERROR_SHARING_VIOLATION if somebody else uses it,
 * ERROR_VHD_PARENT_VHD_NOT_FOUND if a parent is missing, and those of the
 * work; what could not be written at the end is an error too.
 */
VD_MUST_CHECK
vd_error vd_offline_run(struct vd_virtual_disk *virtual_disk,
                        const struct vd_offline_work *work,
                        struct vd_progress *progress);

/* Lets the handle look at the image as it is now. */
void vd_offline_look_again(struct vd_virtual_disk *virtual_disk);

#endif
