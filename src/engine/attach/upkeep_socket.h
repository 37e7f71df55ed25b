/*
 * The sockets over which a disk server is asked for work on its image
 * (server/upkeep.h): one beside the record of an attachment, and gone with
 * it.  Only its owner and root may connect.
 */
#ifndef VD_ATTACH_UPKEEP_SOCKET_H
#define VD_ATTACH_UPKEEP_SOCKET_H

#include "base/error.h"

/* A listening socket in the registry `dir`, without its name yet.  The caller
 * holds the registry's lock until that is given or taken away. */
VD_MUST_CHECK
vd_error vd_upkeep_socket_listen(int dir, int *listener_out);

/* Gives it that of the record. */
VD_MUST_CHECK
vd_error vd_upkeep_socket_name(int dir, const char *record);

/* Takes away what has no name yet; nothing else. */
void vd_upkeep_socket_drop(int dir);

/* Takes it away with the record.  Accepts a record that has none. */
void vd_upkeep_socket_remove(int dir, const char *record);

/* ERROR_NOT_FOUND if there is none, or nobody listens (any more);
 * ERROR_ACCESS_DENIED for others than its owner and root, and for one that
 * belongs to neither root nor the caller. */
VD_MUST_CHECK
vd_error vd_upkeep_socket_connect(int dir, const char *record,
                                  int *socket_out);

#endif
