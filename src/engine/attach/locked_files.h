/*
 * The files of a disk under locks, for whoever is to use it.
 */
#ifndef VD_ATTACH_LOCKED_FILES_H
#define VD_ATTACH_LOCKED_FILES_H

#include "base/error.h"
#include "disk/disk.h"

/*
 * All layers of the disk of which `view` is a look, under locks: the image as
 * the open file of image_fd, which carries the attachment's, the parents with
 * locks of their own.  Free with vd_disk_files_close.
 * ERROR_SHARING_VIOLATION if somebody writes to a parent.
 */
VD_MUST_CHECK
vd_error vd_locked_files_open(const struct vd_disk *view, int image_fd,
                              struct vd_disk_files *out);

/*
 * For an operation on images that nobody has attached: the first `layers`,
 * those of `written` writable and with the locks of a writer, the others
 * locked as parents.  ERROR_SHARING_VIOLATION if anybody else uses them.
 */
VD_MUST_CHECK
vd_error vd_locked_files_take(const struct vd_disk *view, size_t layers,
                              const struct vd_layer_set *written,
                              struct vd_disk_files *out);

/* For somebody who only reads, as from a parent: all layers, locked as such.
 * ERROR_SHARING_VIOLATION if somebody writes to one. */
VD_MUST_CHECK
vd_error vd_locked_files_share(const struct vd_disk *view,
                               struct vd_disk_files *out);

#endif
