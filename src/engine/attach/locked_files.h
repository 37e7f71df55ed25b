/*
 * The files of a disk that is attached, for whoever is to use it.
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

#endif
