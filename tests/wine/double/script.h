/*
 * What the double answers, as the test told it.
 *
 * A script has a line for each answer: a function's name, then key=value
 * pairs.  A function's answers are used in their order, the last one again
 * and again; without any, a call succeeds.
 *
 *     result=N    the return code
 *     when=N      only for calls whose structure has Version N
 *     data=HEX    the output, given by the documented rules for sizes
 *     needed=N    the size the call says is needed, whatever the data
 *     gate=1      the call waits inside until double_leave()
 *     pending=1   a call with an OVERLAPPED returns ERROR_IO_PENDING, and
 *                 goes on until double_complete() or CancelIoEx()
 *     final=N     the status of such an operation; one that is to fail
 *                 cannot be cancelled, since no I/O of the system's fails
 *                 on demand
 */
#ifndef DOUBLE_SCRIPT_H
#define DOUBLE_SCRIPT_H

#include "record.h"

struct answer {
    char function[64];
    DWORD when;
    DWORD result;
    DWORD needed;
    DWORD gate;
    DWORD pending;
    DWORD final;
    unsigned char *data;
    size_t size;
    bool used;
};

/* A copy of the next answer; answer.data is the caller's to free.  version
 * is 0 for a call without a versioned structure. */
struct answer script_next(const char *function, DWORD version);

#endif
