/*
 * Writing down a call (record.h).
 *
 * Includes no virtdisk.h: a wrong header in the code under test must show in
 * the record instead of being shared by it.
 */
#include "record.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static SRWLOCK log_lock = SRWLOCK_INIT;

static void
reserve(struct record *record, size_t more)
{
    if (record->length + more < record->capacity) {
        return;
    }
    record->capacity = 2 * (record->length + more) + 256;
    record->text = realloc(record->text, record->capacity);
    if (record->text == NULL) {
        abort();
    }
}

static void
append(struct record *record, const char *format, ...)
{
    char text[128];
    va_list arguments;

    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= sizeof text) {
        abort();
    }
    reserve(record, (size_t)length + 1);
    memcpy(record->text + record->length, text, (size_t)length + 1);
    record->length += (size_t)length;
}

bool
record_is_readable(const void *pointer, size_t size)
{
    const char *at = pointer;
    const char *end = at + size;

    while (at < end) {
        MEMORY_BASIC_INFORMATION region;

        if (VirtualQuery(at, &region, sizeof region) == 0 ||
            region.State != MEM_COMMIT ||
            (region.Protect & (PAGE_NOACCESS | PAGE_GUARD)) != 0) {
            return false;
        }
        at = (const char *)region.BaseAddress + region.RegionSize;
    }
    return true;
}

/* NULL and wild pointers have a form of their own. */
static bool
follow(struct record *record, const char *name, const void *pointer,
       size_t size)
{
    if (pointer == NULL) {
        record_null(record, name);
        return false;
    }
    if (!record_is_readable(pointer, size)) {
        append(record, ",\"%s\":\"BAD POINTER 0x%llx\"", name,
               (unsigned long long)(uintptr_t)pointer);
        return false;
    }
    return true;
}

void
record_begin(struct record *record, const char *function)
{
    *record = (struct record){0};
    append(record, "{\"function\":\"%s\"", function);
}

void
record_null(struct record *record, const char *name)
{
    append(record, ",\"%s\":null", name);
}

void
record_bool(struct record *record, const char *name, bool value)
{
    append(record, ",\"%s\":%s", name, value ? "true" : "false");
}

void
record_number(struct record *record, const char *name, uint64_t value)
{
    append(record, ",\"%s\":%llu", name, (unsigned long long)value);
}

void
record_bytes(struct record *record, const char *name, const void *bytes,
             size_t size)
{
    const unsigned char *byte = bytes;

    if (!follow(record, name, bytes, size)) {
        return;
    }
    append(record, ",\"%s\":\"", name);
    for (size_t i = 0; i < size; i++) {
        append(record, "%02x", byte[i]);
    }
    append(record, "\"");
}

/* Every code unit as \uXXXX, so that surrogates stay visible. */
void
record_text(struct record *record, const char *name, const WCHAR *text)
{
    if (!follow(record, name, text, sizeof *text)) {
        return;
    }
    append(record, ",\"%s\":\"", name);
    for (; *text != 0; text++) {
        append(record, "\\u%04x", (unsigned)*text);
    }
    append(record, "\"");
}

void
record_end(struct record *record, DWORD result)
{
    WCHAR path[MAX_PATH];
    DWORD written = 0;

    append(record, ",\"result\":%lu}\n", result);
    if (GetEnvironmentVariableW(L"DOUBLE_LOG", path, MAX_PATH) != 0) {
        AcquireSRWLockExclusive(&log_lock);
        HANDLE log = CreateFileW(path, FILE_APPEND_DATA,
                                 FILE_SHARE_READ | FILE_SHARE_WRITE, NULL,
                                 OPEN_ALWAYS, 0, NULL);
        if (log == INVALID_HANDLE_VALUE ||
            !WriteFile(log, record->text, (DWORD)record->length, &written,
                       NULL)) {
            abort();
        }
        CloseHandle(log);
        ReleaseSRWLockExclusive(&log_lock);
    }
    free(record->text);
}
