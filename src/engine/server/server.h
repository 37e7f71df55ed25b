/*
 * The disk server: a process that serves one disk as one file, until nobody
 * uses the file any more.
 */
#ifndef VD_SERVER_SERVER_H
#define VD_SERVER_SERVER_H

#include "server/confine.h"

/* All of the program virtdisk-server; what it returns is the exit status.
 * Descriptor 0 is the socket of protocol.h.  The caller returns at once. */
int vd_server_main(enum vd_confinement confinement);

#endif
