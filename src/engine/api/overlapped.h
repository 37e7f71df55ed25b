/*
 * The status word of an OVERLAPPED.
 */
#ifndef VD_API_OVERLAPPED_H
#define VD_API_OVERLAPPED_H

#include <windows.h>

#include "base/error.h"

/* Publishes a code, ERROR_IO_PENDING included: whoever reads it also sees
 * what was written before. */
void vd_overlapped_set(OVERLAPPED *overlapped, vd_error code);

/* The code last set. */
vd_error vd_overlapped_get(const OVERLAPPED *overlapped);

#endif
