/*
 * Operations on whole images (operations.h), their progress, and the end of
 * a mirror.
 */
#include "operations.h"

#include <string.h>

enum { SIZE_VIRTUAL_DISK_PROGRESS = 24 };

DWORD
operation_start(const struct operation_kind *kind, HANDLE handle, DWORD flags,
                const void *parameters, OVERLAPPED *overlapped)
{
    struct call call;

    call_begin_versioned(&call, kind->function, parameters);
    DWORD result = call_handle(&call, handle);
    record_number(&call.record, "Flags", flags);
    record_bytes(&call.record, "Parameters", parameters, kind->size);
    if (kind->path != NULL) {
        call_text_member(&call, kind->path, parameters, kind->path_offset);
    }
    call_overlapped(&call, overlapped);
    result =
        call_go_on(&call, result, handle, overlapped, parameters, kind->size);
    return call_end(&call, result);
}

EXPORT
CompactVirtualDisk(HANDLE handle, DWORD flags, const void *parameters,
                   OVERLAPPED *overlapped)
{
    static const struct operation_kind kind = {
        .function = "CompactVirtualDisk",
        .size = 8,
    };

    return operation_start(&kind, handle, flags, parameters, overlapped);
}

EXPORT
MergeVirtualDisk(HANDLE handle, DWORD flags, const void *parameters,
                 OVERLAPPED *overlapped)
{
    static const struct operation_kind kind = {
        .function = "MergeVirtualDisk",
        .size = 12,
    };

    return operation_start(&kind, handle, flags, parameters, overlapped);
}

EXPORT
ExpandVirtualDisk(HANDLE handle, DWORD flags, const void *parameters,
                  OVERLAPPED *overlapped)
{
    static const struct operation_kind kind = {
        .function = "ExpandVirtualDisk",
        .size = 16,
    };

    return operation_start(&kind, handle, flags, parameters, overlapped);
}

EXPORT
ResizeVirtualDisk(HANDLE handle, DWORD flags, const void *parameters,
                  OVERLAPPED *overlapped)
{
    static const struct operation_kind kind = {
        .function = "ResizeVirtualDisk",
        .size = 16,
    };

    return operation_start(&kind, handle, flags, parameters, overlapped);
}

EXPORT
MirrorVirtualDisk(HANDLE handle, DWORD flags, const void *parameters,
                  OVERLAPPED *overlapped)
{
    static const struct operation_kind kind = {
        .function = "MirrorVirtualDisk",
        .size = 16,
        .path = "MirrorVirtualDiskPath",
        .path_offset = 8,
    };

    return operation_start(&kind, handle, flags, parameters, overlapped);
}

EXPORT
BreakMirrorVirtualDisk(HANDLE handle)
{
    struct call call;

    call_begin(&call, "BreakMirrorVirtualDisk");
    return call_end(&call, call_handle(&call, handle));
}

EXPORT
GetVirtualDiskOperationProgress(HANDLE handle, const OVERLAPPED *overlapped,
                                void *progress)
{
    struct {
        ULONG status;
        ULONGLONG current;
        ULONGLONG completion;
    } now = {disk_status(overlapped), 0, 100};
    struct call call;

    call_begin(&call, "GetVirtualDiskOperationProgress");
    DWORD result = call_handle(&call, handle);
    record_number(&call.record, "Overlapped", (uint64_t)(uintptr_t)overlapped);
    record_bytes(&call.record, "Progress", progress,
                 SIZE_VIRTUAL_DISK_PROGRESS);
    if (result == ERROR_SUCCESS && !call_give(&call, progress, sizeof(now))) {
        memcpy(progress, &now, sizeof(now));
    }
    return call_end(&call, result);
}
