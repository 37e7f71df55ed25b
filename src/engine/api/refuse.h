/*
 * How the exported functions say no.
 *
 *     return vd_refuse(ERROR_INVALID_PARAMETER, "mask %#x has ...", mask);
 *
 * tells the reason (base/trace.h) and is the code.
 */
#ifndef VD_API_REFUSE_H
#define VD_API_REFUSE_H

#include "base/error.h"
#include "base/trace.h"

#define vd_refuse(code, ...)                                                  \
    (vd_trace(VD_TRACE_API, __VA_ARGS__), (vd_error)(code))

#endif
