/*
 * Operations on whole images: the functions (HANDLE, Flags, Parameters,
 * Overlapped), which differ in their structure alone.
 */
#ifndef DOUBLE_OPERATIONS_H
#define DOUBLE_OPERATIONS_H

#include "call.h"

struct operation_kind {
    const char *function;
    size_t size;      /* of its parameters */
    const char *path; /* the member that is a path, or NULL */
    size_t path_offset;
};

DWORD operation_start(const struct operation_kind *kind, HANDLE handle,
                      DWORD flags, const void *parameters,
                      OVERLAPPED *overlapped);

#endif
