/*
 * Work on the image while it is served: who may write to the image can have
 * it compacted or resized (protocol.h), since only the server knows where its
 * readers and writers are.
 */
#ifndef VD_SERVER_UPKEEP_H
#define VD_SERVER_UPKEEP_H

#include "base/error.h"
#include "server/fuse.h"

struct vd_upkeep;

/*
 * Listens on a socket, which is taken over on success; device: the connection
 * over which the file is served.  Two threads: one answers, one works; both
 * are running when this returns, and need none of what confine.h takes away.
 */
VD_MUST_CHECK
vd_error vd_upkeep_start(int listener, int device,
                         const struct vd_fuse_file *file,
                         struct vd_upkeep **out);

/* Cancels what is going on, and frees.  Accepts NULL. */
void vd_upkeep_stop(struct vd_upkeep *upkeep);

#endif
