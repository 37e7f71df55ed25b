/*
 * The reason for an error, told on standard error.
 *
 * Reads VIRTDISK_DEBUG once, at the first trace.  A line is written by one
 * call, so that lines of several threads and processes do not mix.
 */
#include "base/trace.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TRACE_LINE_SIZE 1024

struct trace_word {
    const char *name;
    unsigned areas;
};

static const struct trace_word trace_words[] = {
    {"format", VD_TRACE_FORMAT},
    {"disk", VD_TRACE_DISK},
    {"attach", VD_TRACE_ATTACH},
    {"api", VD_TRACE_API},
    {"all", VD_TRACE_FORMAT | VD_TRACE_DISK | VD_TRACE_ATTACH | VD_TRACE_API},
};

/* Set beside the areas once the environment has been read. */
#define TRACE_MASK_READ (1u << 31)

static atomic_uint trace_mask;

static unsigned
word_areas(const char *word, size_t length)
{
    size_t count = sizeof(trace_words) / sizeof(trace_words[0]);
    for (size_t i = 0; i < count; i++) {
        const char *name = trace_words[i].name;
        if (strlen(name) == length && memcmp(name, word, length) == 0) {
            return trace_words[i].areas;
        }
    }
    return 0;
}

unsigned
vd_trace_parse(const char *list)
{
    unsigned areas = 0;
    while (*list != '\0') {
        size_t length = strcspn(list, ",");
        areas |= word_areas(list, length);
        list += length;
        list += *list == ',';
    }
    return areas;
}

static unsigned
current_mask(void)
{
    unsigned mask = atomic_load_explicit(&trace_mask, memory_order_relaxed);
    if (mask == 0) {
        /* A set-user-ID program does not talk because its caller says so. */
        const char *list = secure_getenv("VIRTDISK_DEBUG");
        mask = TRACE_MASK_READ | (list != NULL ? vd_trace_parse(list) : 0);
        atomic_store_explicit(&trace_mask, mask, memory_order_relaxed);
    }
    return mask;
}

static const char *
area_name(enum vd_trace_area area)
{
    for (size_t i = 0;; i++) {
        if ((trace_words[i].areas & (unsigned)area) != 0) {
            return trace_words[i].name;
        }
    }
}

/* Paths and image content must not steer the reader's terminal. */
static void
replace_control_characters(char *text)
{
    for (; *text != '\0'; text++) {
        unsigned char byte = (unsigned char)*text;
        if (byte < ' ' || byte == 0x7F) {
            *text = '?';
        }
    }
}

static void
write_line(enum vd_trace_area area, const char *format, va_list arguments)
{
    char reason[TRACE_LINE_SIZE];
    char line[TRACE_LINE_SIZE + 64];
    vsnprintf(reason, sizeof(reason), format, arguments);
    replace_control_characters(reason);
    int length = snprintf(line, sizeof(line), "virtdisk: %s: %s\n",
                          area_name(area), reason);
    ssize_t written = write(STDERR_FILENO, line, (size_t)length);
    (void)written; /* nowhere to complain to */
}

void
vd_trace(enum vd_trace_area area, const char *format, ...)
{
    if ((current_mask() & (unsigned)area) == 0) {
        return;
    }
    int saved = errno;
    va_list arguments;
    va_start(arguments, format);
    write_line(area, format, arguments);
    va_end(arguments);
    errno = saved;
}
