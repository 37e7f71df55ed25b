/*
 * Win32 events as eventfds: manual- and auto-reset.
 *
 * The descriptor is readable while the event is signalled, so that it can
 * also stand in an event loop.
 */
#ifndef VD_API_EVENT_H
#define VD_API_EVENT_H

#include <stdatomic.h>
#include <stdbool.h>

#include <windows.h>

#include "api/handles.h"

struct vd_event {
    struct vd_object object; /* first: a vd_event is a vd_object */
    int fd;                  /* readable: signalled */
    bool manual_reset;
    /* Counts vd_event_set.  Who has seen the descriptor readable reads it,
     * and so sees what was written before the event was set: that the kernel
     * orders this too is written nowhere. */
    atomic_uint sets;
};

/* ERROR_INVALID_HANDLE, also for a handle to something else.  Release the
 * object when done. */
VD_MUST_CHECK
vd_error vd_event_acquire(HANDLE handle, struct vd_event **out);
void vd_event_release(struct vd_event *event);

void vd_event_set(struct vd_event *event);
void vd_event_reset(struct vd_event *event);

/* Whether it was signalled before `milliseconds` (INFINITE: no limit) were
 * over.  An auto-reset event is reset by that, for one waiter only. */
bool vd_event_wait(struct vd_event *event, DWORD milliseconds);

#endif
