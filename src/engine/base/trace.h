/*
 * Reasons, told where an error is born: VIRTDISK_DEBUG=format,attach (or
 * "all") in the environment sends them to standard error.  Always compiled
 * in; costs one test of a mask when off.
 */
#ifndef VD_BASE_TRACE_H
#define VD_BASE_TRACE_H

enum vd_trace_area {
    VD_TRACE_FORMAT = 1 << 0,
    VD_TRACE_DISK = 1 << 1,
    VD_TRACE_ATTACH = 1 << 2,
    VD_TRACE_API = 1 << 3,
};

/* The areas in the comma-separated list; unknown words are skipped. */
unsigned vd_trace_parse(const char *list);

void vd_trace(enum vd_trace_area area, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
