/*
 * What a handle from OpenVirtualDisk stands for: an opened disk, the rights
 * the handle was opened with, and the attachment made through it.
 *
 * Lock order: disk_lock, lock, operation_lock, the lock of an operation, that
 * of the handle table.  lock is held while the disk is attached or detached,
 * so whatever takes it waits for these; operation_lock never for long.
 * disk_lock is held for writing only to add a parent and to look again.
 */
#ifndef VD_API_VIRTUAL_DISK_H
#define VD_API_VIRTUAL_DISK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include <windows.h>

#include "api/handles.h"
#include "attach/attach.h"
#include "disk/disk.h"

struct vd_operation;
struct vd_creation;

/* Where a pending MirrorVirtualDisk is. */
enum vd_mirror_phase {
    VD_MIRROR_NONE, /* or still copying */
    VD_MIRROR_EQUAL,
    VD_MIRROR_BREAKING, /* BreakMirrorVirtualDisk has been called */
};

/* What a handle may be used for. */
struct vd_rights {
    bool get_info;
    bool detach;
    bool attach_read_only;
    bool attach_writable;
    bool change; /* METAOPS, or version 2: the operations on the image */
};

/* What the flags of OpenVirtualDisk ask for. */
struct vd_open_options {
    bool cached_io;    /* CACHED_IO */
    bool custom_chain; /* CUSTOM_DIFF_CHAIN: AddVirtualDiskParent may come */
    uint32_t version;  /* OPEN_VIRTUAL_DISK_VERSION */
    uint32_t rw_depth; /* version 1: how many layers may be written */
};

struct vd_virtual_disk {
    struct vd_object object; /* first: it is a vd_object */
    struct vd_disk *disk;    /* owned; guarded by disk_lock */
    struct vd_file_id file_id;
    struct vd_rights rights;
    struct vd_open_options options;

    pthread_rwlock_t disk_lock;

    pthread_mutex_t lock;
    struct vd_attachment *attachment; /* guarded by lock; NULL: none */
    struct vd_attach_request request; /* of it; guarded by lock */

    /* The disk as an operation has opened it (offline.h), which alone uses
     * it; set and cleared where fork() waits.  NULL: there is none. */
    struct vd_disk *working;

    /* What CreateVirtualDisk has still to do (creation.h); set and cleared
     * where fork() waits. */
    struct vd_creation *creation;
    struct vd_disk *mirror_target; /* likewise, of a mirror */

    pthread_mutex_t operation_lock;
    pthread_cond_t news;               /* vd_virtual_disk_tell */
    enum vd_mirror_phase mirror_phase; /* guarded by operation_lock */
    bool stillborn; /* guarded by operation_lock: could not be created */
    struct vd_operation *operation; /* guarded by operation_lock: the last
                                       overlapped one, may be over */
};

/* Makes a handle to an opened disk.  The disk is the handle's on success
 * only.  Errors: those of vd_handle_create. */
VD_MUST_CHECK
vd_error vd_virtual_disk_create(struct vd_disk *disk, struct vd_rights rights,
                                struct vd_open_options options, HANDLE *out);

/* ERROR_INVALID_HANDLE for none, ERROR_INVALID_PARAMETER for a handle to
 * something else. */
VD_MUST_CHECK
vd_error vd_virtual_disk_acquire(HANDLE handle, struct vd_virtual_disk **out);
void vd_virtual_disk_release(struct vd_virtual_disk *virtual_disk);

/* Wakes the operation that waits for news. */
void vd_virtual_disk_tell(struct vd_virtual_disk *virtual_disk);

/* The attachment made through this handle, NULL if there is none (any more):
 * one that somebody else has ended is let go.  Call with lock held. */
struct vd_attachment *
vd_virtual_disk_attachment(struct vd_virtual_disk *virtual_disk);

/*
 * The disk of the attachment without a device that was made through this
 * handle, to execute commands on; leave it with vd_live_leave.
 * ERROR_NOT_READY if there is no attachment, ERROR_NOT_SUPPORTED if it has a
 * device.
 */
VD_MUST_CHECK
vd_error vd_virtual_disk_enter(struct vd_virtual_disk *virtual_disk,
                               struct vd_live **out);

/* A new open file of the image, for reading and writing, without locks: by it
 * whoever uses the image sees that the caller may change it. */
VD_MUST_CHECK
vd_error vd_virtual_disk_open_image(struct vd_virtual_disk *virtual_disk,
                                    int *fd_out);

/* Ends this process's hold on the attachment.  Call with lock held. */
void vd_virtual_disk_drop_attachment(struct vd_virtual_disk *virtual_disk);

/*
 * Whether the image is attached, through this handle or by anybody else, and
 * to which device: *device_out (may be NULL) is the caller's to free, NULL
 * for an attachment without a device.
 */
VD_MUST_CHECK
vd_error vd_virtual_disk_locate(struct vd_virtual_disk *virtual_disk,
                                bool *attached_out, char **device_out);

#endif
