/*
 * Small texts: composing paths and names into fixed buffers, and reading
 * one-line attributes of /sys and /proc.
 */
#ifndef VD_ATTACH_TEXT_H
#define VD_ATTACH_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* snprintf that says whether all of it fitted. */
bool vd_text_format(char *buffer, size_t size, const char *format, ...)
    __attribute__((format(printf, 3, 4), warn_unused_result));

/* Decimal digits and nothing else, at most 2^64 - 1. */
bool vd_text_number(const char *text, uint64_t *out)
    __attribute__((warn_unused_result));

/* The first line of a small file, without its end.  ERROR_FILE_NOT_FOUND;
 * ERROR_INVALID_DATA if it does not fit. */
VD_MUST_CHECK
vd_error vd_text_read_line(const char *path, char *buffer, size_t size);

#endif
