/*
 * The engine's one error type: a Win32 error code, 0 is success.
 *
 * Every function of the engine that can fail returns one.  On failure its
 * outputs are untouched.  errno becomes a code where the system call failed
 * (vd_error_from_errno) and travels no further.
 */
#ifndef VD_BASE_ERROR_H
#define VD_BASE_ERROR_H

#include <stdint.h>

#include <winerror.h>

typedef uint32_t vd_error;

#define VD_MUST_CHECK __attribute__((warn_unused_result))

/* The Win32 code for an errno value; ERROR_GEN_FAILURE if there is none. */
vd_error vd_error_from_errno(int error_number);

#endif
