/*
 * Taking a disk away from whoever has attached it.
 */
#ifndef VD_ATTACH_DETACH_H
#define VD_ATTACH_DETACH_H

#include "attach/attachment.h"
#include "attach/registry.h"
#include "base/error.h"

struct vd_detach {
    const struct vd_record *record;
    int dir;                   /* of the registry it is in, -1: in none */
    int record_fd;             /* its file, opened for this; with dir */
    struct vd_attachment *own; /* without dir: the attachment itself */
};

/*
 * ERROR_BUSY if the device is mounted, claimed, or still open elsewhere after
 * five seconds, or if its attacher does not react; ERROR_NOT_READY if it
 * shows the image no more; ERROR_PRIVILEGE_NOT_HELD.  On these failures
 * nothing has changed.  ERROR_IO_DEVICE, ERROR_DISK_FULL and the like: it is
 * detached, but its last writes are lost.  No lock of the registry may be
 * held; nobody else may be detaching it.
 */
VD_MUST_CHECK
vd_error vd_detach(const struct vd_detach *target);

/* The same for an entry of the registry, after those who are detaching it
 * already: ERROR_NOT_READY if one of them has done so. */
VD_MUST_CHECK
vd_error vd_detach_entry(int dir, struct vd_entry *entry);

#endif
