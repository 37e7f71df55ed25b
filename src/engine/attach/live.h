/*
 * The disk of an attachment without a device: opened under the attachment's
 * locks, and read and written by threads of this process until the
 * attachment ends.
 */
#ifndef VD_ATTACH_LIVE_H
#define VD_ATTACH_LIVE_H

#include "attach/attach.h"
#include "base/error.h"
#include "disk/disk.h"
#include "disk/scsi.h"

struct vd_live;

/*
 * Opens the disk of which `view` is a look: the image through image_fd, which
 * carries the attachment's locks, the parents with locks of their own.
 * ERROR_SHARING_VIOLATION if somebody writes to a parent; and those of
 * vd_disk_open_files.
 */
VD_MUST_CHECK
vd_error vd_live_open(const struct vd_disk *view,
                      const struct vd_attach_request *request, int image_fd,
                      struct vd_live **out);

/* Returns when everything written is durable. */
VD_MUST_CHECK
vd_error vd_live_flush(struct vd_live *live);

/* Waits for those who use the disk and closes it; no lock goes before that.
 * Harmless if it was called before.  Accepts NULL. */
void vd_live_end(struct vd_live *live);

/* In a forked child: closes the descriptors and no more.  Accepts NULL. */
void vd_live_abandon(struct vd_live *live);

/* After vd_live_end, when nobody can come any more.  Accepts NULL. */
void vd_live_free(struct vd_live *live);

#endif
