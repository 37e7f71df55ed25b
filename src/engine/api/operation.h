/*
 * One asynchronous call on a virtual disk: the work, the thread that does
 * it, and the OVERLAPPED that the caller is told through.
 *
 * The operation holds a reference to the handle's object and to the event
 * while it runs, so either handle may be closed meanwhile.  It is over when
 * it has set OVERLAPPED.Internal and then the event: after that neither it
 * nor anybody else here touches the OVERLAPPED.
 */
#ifndef VD_API_OPERATION_H
#define VD_API_OPERATION_H

#include <stdbool.h>
#include <stddef.h>

#include <windows.h>

#include "base/error.h"

struct vd_progress;
struct vd_virtual_disk;
struct vd_operation;

/* What an operation does.  `progress` is NULL for a synchronous call. */
struct vd_work {
    vd_error (*run)(struct vd_virtual_disk *virtual_disk,
                    const void *arguments, struct vd_progress *progress);
    const void *arguments; /* copied by vd_operation_start */
    size_t arguments_size;
    /* Frees what the copy refers to (not the copy), run or not; NULL:
     * nothing.  Of a call that fails to start, it is not called. */
    void (*clear)(void *arguments);
    bool background; /* the disk may be read and written meanwhile */
};

/* Starts work as an overlapped call if `overlapped` is not NULL, else runs it
 * here and now. */
VD_MUST_CHECK
vd_error vd_operation_run(struct vd_virtual_disk *virtual_disk,
                          OVERLAPPED *overlapped, const struct vd_work *work);

/*
 * Starts work in a thread of its own.  ERROR_IO_PENDING: it will complete
 * through the OVERLAPPED.  Any other: it has not begun, and the OVERLAPPED
 * is not pending.  ERROR_VHD_INVALID_STATE (inferred: nobody documents it)
 * if the handle has a pending operation, ERROR_INVALID_HANDLE for a bad
 * hEvent, ERROR_NO_SYSTEM_RESOURCES for want of a thread.
 */
VD_MUST_CHECK
vd_error vd_operation_start(struct vd_virtual_disk *virtual_disk,
                            OVERLAPPED *overlapped,
                            const struct vd_work *work);

/* ERROR_VHD_INVALID_STATE while the handle has a pending operation, or if it
 * is of a disk that could not be created. */
VD_MUST_CHECK
vd_error vd_operation_none_pending(struct vd_virtual_disk *virtual_disk);

/* The same for reading and writing, which do not mind work in the
 * background. */
VD_MUST_CHECK
vd_error vd_operation_none_in_the_way(struct vd_virtual_disk *virtual_disk);

/* The handle's last operation, if it is this OVERLAPPED's, else NULL.
 * overlapped NULL: whichever it is.  Release it when done. */
struct vd_operation *vd_operation_find(struct vd_virtual_disk *virtual_disk,
                                       const OVERLAPPED *overlapped);

/* Accepts NULL. */
void vd_operation_release(struct vd_operation *operation);

/* Asks it to stop; false if it is over.  The caller has a reference to the
 * handle's object. */
bool vd_operation_cancel(struct vd_operation *operation);

bool vd_operation_in_background(const struct vd_operation *operation);

/* Returns when it is over. */
void vd_operation_wait(struct vd_operation *operation);

/* ERROR_IO_PENDING, or what it ended with. */
vd_error vd_operation_progress(struct vd_operation *operation,
                               uint64_t *current_out,
                               uint64_t *completion_out);

#endif
