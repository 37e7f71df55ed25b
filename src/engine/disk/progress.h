/*
 * How far a long operation is, and whether somebody wants it to stop: shared
 * by the thread that works and those who ask.
 *
 * All functions accept NULL, for work that nobody watches.
 */
#ifndef VD_DISK_PROGRESS_H
#define VD_DISK_PROGRESS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/trace.h"

/* All zero: nothing done of nothing known yet. */
struct vd_progress {
    _Atomic uint64_t current;    /* never falls, never above completion */
    _Atomic uint64_t completion; /* 0: not known yet; never changes after */
    atomic_bool cancelled;
};

/* How much there is to do, in whatever unit: once, before any advance. */
static inline void
vd_progress_begin(struct vd_progress *progress, uint64_t completion)
{
    if (progress != NULL) {
        atomic_store(&progress->completion, completion);
    }
}

/* `amount` more of it is done.  By one thread at a time. */
static inline void
vd_progress_advance(struct vd_progress *progress, uint64_t amount)
{
    if (progress == NULL) {
        return;
    }
    uint64_t current = atomic_load(&progress->current);
    uint64_t left = atomic_load(&progress->completion) - current;
    atomic_store(&progress->current,
                 current + (amount < left ? amount : left));
}

static inline void
vd_progress_cancel(struct vd_progress *progress)
{
    if (progress != NULL) {
        atomic_store(&progress->cancelled, true);
    }
}

static inline bool
vd_progress_cancelled(const struct vd_progress *progress)
{
    return progress != NULL && atomic_load(&progress->cancelled);
}

/* For the work, wherever it can stop: ERROR_OPERATION_ABORTED if it shall. */
VD_MUST_CHECK
static inline vd_error
vd_progress_check(const struct vd_progress *progress)
{
    if (vd_progress_cancelled(progress)) {
        vd_trace(VD_TRACE_DISK, "cancelled");
        return ERROR_OPERATION_ABORTED;
    }
    return ERROR_SUCCESS;
}

#endif
