/*
 * A visible mount, and the process that sees to its end.
 *
 * A mount that a user has made without privilege stays when its server dies,
 * as a file that nobody can open, and only fusermount3 can remove it.  The
 * server cannot run that: it is confined, and may be killed.  So the keeper,
 * a second small process, mounts, waits and unmounts.
 */
#ifndef VD_SERVER_KEEPER_H
#define VD_SERVER_KEEPER_H

#include <stdbool.h>

#include "base/error.h"
#include "server/protocol.h"

struct vd_keeper_options {
    const struct vd_server_place *place;
    int place_file; /* the locked file that is mounted over */
    int control;    /* the attacher's socket */
    bool read_only;
};

/*
 * Starts the keeper, which mounts.  It ends, and the mount and the file below
 * it go, with this process, whose end it sees in *keeper_out (never to be
 * closed); at SIGTERM; and, unless the place is permanent, when the attacher
 * closes or shuts down its socket or dies.  Whoever has the file open then
 * can go on, and so can this process, until the last one closes it.
 * *device_out: as of vd_fusermount_mount, whose errors these are.
 */
VD_MUST_CHECK
vd_error vd_keeper_start(const struct vd_keeper_options *options,
                         int *device_out, int *keeper_out);

#endif
