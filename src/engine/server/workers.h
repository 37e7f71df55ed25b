/*
 * The threads that answer the kernel.
 */
#ifndef VD_SERVER_WORKERS_H
#define VD_SERVER_WORKERS_H

#include <stddef.h>

#include "base/error.h"
#include "server/fuse.h"

struct vd_workers;

/* As many as are worth it, each with a connection of its own, cloned from
 * device, which must have had its first request.  They are running when
 * this returns: to begin, a thread needs more of the system than to go on.
 * After a failure some may be, and the process is to end. */
VD_MUST_CHECK
vd_error vd_workers_start(int device, const struct vd_fuse_file *file,
                          struct vd_workers **out);

/* Returns when all have seen the connection's end, and frees. */
void vd_workers_join(struct vd_workers *workers);

#endif
