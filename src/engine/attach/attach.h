/*
 * How a disk becomes visible to the operating system.
 *
 * attach/ sees a disk through disk/disk.h and knows no format, no handle and
 * no Win32 flag.  To add a surface: one file with a
 * `const struct vd_surface`, one line in surfaces.c.
 *
 * Lifetime: an attachment that is not permanent ends when its process ends,
 * however it ends (the kernel's autoclear, DESIGN 5.2).  A forked child does
 * not hold its parent's attachments.
 */
#ifndef VD_ATTACH_ATTACH_H
#define VD_ATTACH_ATTACH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "disk/compact.h"
#include "disk/disk.h"
#include "disk/resize.h"

/* Who may open the device node. */
struct vd_node_access {
    bool set; /* false: leave the system's default */
    uid_t uid;
    gid_t gid;
    mode_t mode; /* read and write bits only */
};

struct vd_attach_request {
    bool local; /* false: no device, for the caller alone */
    bool read_only;
    bool permanent;         /* outlives the process */
    bool partition_nodes;   /* false: none, and automounters stay away */
    bool cached_io;         /* through the host's page cache */
    uint64_t window_offset; /* the part of the disk to show, in bytes; */
    uint64_t window_length; /* sector-aligned and inside the disk */
    struct vd_node_access access;
    bool exact_access; /* asked for, not only taken over from the image */
};

struct vd_attachment;
struct vd_live;
struct vd_scsi_unit;

/*
 * Locks the image and makes the disk visible.  The disk must stay open until
 * the attachment is detached or released.  Errors: ERROR_SHARING_VIOLATION
 * (in use or attached), ERROR_PRIVILEGE_NOT_HELD, ERROR_NOT_SUPPORTED (no
 * surface can do it), ERROR_NO_SYSTEM_RESOURCES (no free device) and others.
 */
VD_MUST_CHECK
vd_error vd_attach(struct vd_disk *disk,
                   const struct vd_attach_request *request,
                   struct vd_attachment **out);

/* The device node ("/dev/loop3"), or the file that the disk is shown as where
 * there can be no device; NULL if there is neither. */
const char *vd_attachment_device(const struct vd_attachment *attachment);

/* The disk of an attachment without a device; NULL if there is a device. */
struct vd_live *vd_attachment_live(const struct vd_attachment *attachment);

/* To execute commands on its unit, or use its disk, by any number of
 * threads.  The attachment
 * does not end before everybody has left; ERROR_NOT_READY if it has ended. */
VD_MUST_CHECK
vd_error vd_live_enter(struct vd_live *live);
void vd_live_leave(struct vd_live *live);
const struct vd_scsi_unit *vd_live_unit(const struct vd_live *live);
struct vd_disk *vd_live_disk(const struct vd_live *live);

/*
 * Work on the disk while it is attached; between vd_live_enter and leave, one
 * at a time (ERROR_VHD_INVALID_STATE).  The end of the attachment cancels
 * it.
 *
 * Compacts a disk attached for reading; fd is its image, as
 * vd_disk_compact_attached wants it, and stays the caller's.  Errors: those
 * of that function.
 */
VD_MUST_CHECK
vd_error vd_live_compact(struct vd_live *live, int fd,
                         const struct vd_compact_options *options,
                         struct vd_progress *progress);

/* Resizes a disk attached for writing: waits for the commands that are under
 * way; the next one is told.  ERROR_WRITE_PROTECT, and those of
 * vd_disk_resize; ERROR_VHD_RESIZE_WOULD_TRUNCATE_DATA also if the attachment
 * shows a part of the disk that would not be all there. */
VD_MUST_CHECK
vd_error vd_live_resize(struct vd_live *live, const struct vd_resize *resize);

/* Flushes and removes the device; ERROR_BUSY if it is mounted or claimed, or
 * still open elsewhere after five seconds, and then nothing has changed.
 * ERROR_NOT_READY if somebody else has detached it already.  ERROR_IO_DEVICE,
 * ERROR_DISK_FULL and the like: it is detached, but its last writes are lost.
 * Frees nothing: release it afterwards. */
VD_MUST_CHECK
vd_error vd_attachment_detach(struct vd_attachment *attachment);

/* Gives up this process's hold and frees: the device goes unless it is
 * permanent or still in use.  Accepts NULL. */
void vd_attachment_release(struct vd_attachment *attachment);

/* Whether somebody else has detached it meanwhile. */
bool vd_attachment_gone(struct vd_attachment *attachment);

/* An attached image of this system, whoever attached it. */
struct vd_attached {
    char *image_path; /* as it was when attached */
    char *device;     /* or file; NULL: attached without one */
    struct vd_file_id file_id;
    bool read_only;
    bool permanent;
};

void vd_attached_free(struct vd_attached *attached);

/* ERROR_NOT_FOUND if the image is not attached. */
VD_MUST_CHECK
vd_error vd_attached_find(struct vd_file_id file_id, struct vd_attached *out);

/* All of them; free each with vd_attached_free, then the array with free. */
VD_MUST_CHECK
vd_error vd_attached_list(struct vd_attached **out, size_t *count_out);

/*
 * Compacts an image that any process has attached for reading, by the disk
 * server that serves it; fd is the image, as vd_disk_compact_attached wants
 * it, and stays the caller's.  ERROR_NOT_FOUND if no server serves it so,
 * ERROR_ACCESS_DENIED if it is somebody else's, ERROR_OPERATION_ABORTED if it
 * is detached meanwhile, and those of vd_disk_compact_attached.
 */
VD_MUST_CHECK
vd_error vd_attached_compact(struct vd_file_id file_id, int fd,
                             const struct vd_compact_options *options,
                             struct vd_progress *progress);

/*
 * Resizes an image that any process has attached for writing, with a device or
 * as a file; fd is the image, open for reading and writing, and stays the
 * caller's.  The device has the new size on return.  If it cannot be given to
 * it in the end, or nobody is left to do so, the disk is as large as it was or
 * is to be, and the same call again lets the device follow.
 *
 * ERROR_NOT_FOUND if it is not attached so; ERROR_ACCESS_DENIED if it is
 * somebody else's, or without the right to the device: nothing has changed
 * then; ERROR_OPERATION_ABORTED if it is detached meanwhile;
 * ERROR_VHD_INVALID_STATE if it can be done only while it is detached;
 * ERROR_WRITE_PROTECT; ERROR_VHD_RESIZE_WOULD_TRUNCATE_DATA also if a part of
 * the disk that is shown would not be all there; those of vd_disk_resize.
 */
VD_MUST_CHECK
vd_error vd_attached_resize(struct vd_file_id file_id, int fd,
                            const struct vd_resize *resize);

/* Detaches an image that any process attached.  As vd_attachment_detach;
 * ERROR_NOT_READY if it is not attached. */
VD_MUST_CHECK
vd_error vd_attached_detach(struct vd_file_id file_id);

#endif
