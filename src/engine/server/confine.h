/*
 * Giving up what serving a disk does not take.  The images are hostile: who
 * takes over the server through one shall be able to do no more than spoil
 * the image that he made.
 */
#ifndef VD_SERVER_CONFINE_H
#define VD_SERVER_CONFINE_H

#include "base/error.h"

/* All capabilities, for ever.  Of the calling thread and of those it starts
 * from now on. */
VD_MUST_CHECK
vd_error vd_confine_privileges(void);

/* What becomes of a system call that is not on the list. */
enum vd_confinement {
    VD_CONFINE_REFUSE, /* EPERM: a forgotten one costs no data */
    VD_CONFINE_KILL,   /* the process ends: for tests, which are to find it */
};

/*
 * All system calls but those of positioned I/O on open files, of memory that
 * is never executable, and of threads that are there.  In particular none
 * that opens, connects, executes, signals or inspects anything; descriptors
 * come in only from a client of upkeep.h.  Of all threads, for ever.
 * ERROR_NOT_SUPPORTED where the kernel has no filters, or for an architecture
 * without a list.
 */
VD_MUST_CHECK
vd_error vd_confine_system_calls(enum vd_confinement confinement);

#endif
