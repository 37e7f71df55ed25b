/*
 * Becoming a process that belongs to no terminal, session or user's limits,
 * and that goes only with its disk.
 */
#ifndef VD_SERVER_PROCESS_H
#define VD_SERVER_PROCESS_H

#include "base/error.h"

/*
 * Leaves the process that started it: a child goes on (returns), the parent
 * exits at once.  The child keeps the control socket, which moves to
 * *control_out, and, if VIRTDISK_DEBUG is set, standard error; everything
 * else that was inherited is closed.
 */
VD_MUST_CHECK
vd_error vd_process_leave(int *control_out);

/* Closes this descriptor and all above it. */
void vd_process_close_from(int first);

/* What may be asked for while there are privileges: not to be chosen when
 * memory runs out, not to wait for the very disk it serves when memory has
 * to be freed, and no limits of the program that started it.  Goes without
 * what is refused. */
void vd_process_protect(void);

#endif
