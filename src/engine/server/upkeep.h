/*
 * Work on the image while it is served: who may write to the image can have
 * it compacted (protocol.h), since only the server knows where its readers
 * are.
 */
#ifndef VD_SERVER_UPKEEP_H
#define VD_SERVER_UPKEEP_H

#include "base/error.h"
#include "disk/disk.h"

struct vd_upkeep;

/*
 * Listens on a socket, which is taken over on success.  Two threads: one
 * answers, one works; both are running when this returns, and need none of
 * what confine.h takes away.
 */
VD_MUST_CHECK
vd_error vd_upkeep_start(int listener, struct vd_disk *disk,
                         struct vd_upkeep **out);

/* Cancels what is going on, and frees.  Accepts NULL. */
void vd_upkeep_stop(struct vd_upkeep *upkeep);

#endif
