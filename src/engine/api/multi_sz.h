/*
 * UTF-16 text for a caller's buffer: strings one behind the other, each with
 * its NUL (a MULTI_SZ ends with an empty one).
 */
#ifndef VD_API_MULTI_SZ_H
#define VD_API_MULTI_SZ_H

#include <stddef.h>
#include <uchar.h>

#include "base/error.h"

struct vd_multi_sz {
    char16_t *units; /* the owner's to free */
    size_t count;
};

/* Appends a string, from the bytes of a path, and its NUL.  On failure the
 * text is as it was. */
VD_MUST_CHECK
vd_error vd_multi_sz_append(struct vd_multi_sz *text, const char *bytes);

#endif
