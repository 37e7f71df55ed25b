/*
 * What stands behind a HANDLE: a table of objects, found by index and
 * generation, never by address, so that a stale or invented handle is
 * ERROR_INVALID_HANDLE and not a crash.
 *
 * Objects are counted: the open handle is one reference, each call that runs
 * on the object another.  A handle closed during a call is invalid at once;
 * its object goes when the call returns.
 *
 * A forked child has no handles: as on Windows they are not inherited.  The
 * child's copies of the objects' descriptors are closed, so that it holds
 * neither an image nor its locks.
 */
#ifndef VD_API_HANDLES_H
#define VD_API_HANDLES_H

#include <stddef.h>

#include <windows.h>

#include "base/error.h"

struct vd_object;

struct vd_object_type {
    /* Ends the object when nobody refers to it any more, with no lock of
     * the table held. */
    void (*destroy)(struct vd_object *object);
    /* The handle is being closed; who runs on the object goes on.  NULL:
     * nothing to do. */
    void (*close)(struct vd_object *object);
    /* In a forked child: closes the descriptors.  May do nothing else: other
     * threads may have been anywhere inside the object, locks held. */
    void (*abandon)(const struct vd_object *object);
};

/* Objects embed it first in a struct of their own.  Its fields belong to
 * handles.c. */
struct vd_object {
    const struct vd_object_type *type;
    size_t index;      /* of its slot */
    size_t references; /* guarded by the table's lock */
};

/*
 * Enters an object into the table.  On success the table owns it and *out
 * refers to it; on failure it is still the caller's.  Errors:
 * ERROR_NO_SYSTEM_RESOURCES (65,536 objects), ERROR_NOT_ENOUGH_MEMORY.
 */
VD_MUST_CHECK
vd_error vd_handle_create(const struct vd_object_type *type,
                          struct vd_object *object, HANDLE *out);

/* What vd_handle_create does once for all objects.  Who enters where fork()
 * waits (attach/held.h) before there is any handle calls it first: fork()
 * takes the locks in the reverse order in which they were made known. */
VD_MUST_CHECK
vd_error vd_handle_prepare(void);

/* The object behind a handle, to be given back with vd_object_release.
 * ERROR_INVALID_HANDLE; of which type it is, is the caller's to look at. */
VD_MUST_CHECK
vd_error vd_handle_acquire(HANDLE handle, struct vd_object **out);

/* One more reference to an object that the caller has one to. */
void vd_object_retain(struct vd_object *object);
void vd_object_release(struct vd_object *object);

/* ERROR_INVALID_HANDLE. */
VD_MUST_CHECK
vd_error vd_handle_close(HANDLE handle);

/* How many objects there are, for tests that look for leaks. */
size_t vd_handle_count(void);

#endif
