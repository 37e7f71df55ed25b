/*
 * Between the UTF-16 of the Win32 interface and the byte strings of Linux
 * paths.
 *
 * A lone surrogate U+DC80..U+DCFF stands for the single byte 0x80..0xFF, as
 * Python's surrogateescape has it, so every Linux path survives the way
 * there and back.  Any other lone surrogate is ERROR_INVALID_NAME.
 */
#ifndef VD_BASE_UTF16_H
#define VD_BASE_UTF16_H

#include <stddef.h>
#include <uchar.h>

#include "base/error.h"

/* NUL-terminated UTF-16 -> NUL-terminated bytes (UTF-8).  Free with free(). */
VD_MUST_CHECK
vd_error vd_utf16_to_bytes(const char16_t *text, char **out);

/* NUL-terminated bytes -> NUL-terminated UTF-16.  *units_out (may be NULL)
 * does not count the terminator.  Bytes that are not UTF-8 become lone
 * surrogates U+DC80..U+DCFF.  Free with free(). */
VD_MUST_CHECK
vd_error vd_utf16_from_bytes(const char *bytes, char16_t **out,
                             size_t *units_out);

#endif
