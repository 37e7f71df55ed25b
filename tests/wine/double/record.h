/*
 * One call as one line of JSON: the bits a function was handed, by the
 * parameter names of virtdisk.h.  Structures are raw bytes in hexadecimal;
 * a pointer that cannot be read is reported, not followed.
 */
#ifndef DOUBLE_RECORD_H
#define DOUBLE_RECORD_H

/* mingw-w64's <windows.h> includes its own virtdisk.h: keep it out. */
#define _INC_VIRTDISK 1
#define WIN32_LEAN_AND_MEAN 1
#include <windows.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct record {
    char *text;
    size_t length;
    size_t capacity;
};

bool record_is_readable(const void *pointer, size_t size);

void record_begin(struct record *record, const char *function);
void record_null(struct record *record, const char *name);
void record_bool(struct record *record, const char *name, bool value);
void record_number(struct record *record, const char *name, uint64_t value);
void record_bytes(struct record *record, const char *name, const void *bytes,
                  size_t size);
void record_text(struct record *record, const char *name, const WCHAR *text);

/* Appends the record to the file that %DOUBLE_LOG% names and frees it. */
void record_end(struct record *record, DWORD result);

#endif
