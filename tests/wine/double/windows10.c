/*
 * What came with Windows 10: change tracking, VHD Sets, and with its version
 * 1809 forks.  A double without this file and windows10_scsi.c is that of an
 * older system.
 */
#include "operations.h"

#include <string.h>

/* -------------------------------------------------------- change tracking */

struct range {
    ULONGLONG offset;
    ULONGLONG length;
    ULONGLONG reserved;
};

/* The script's data is the length processed, then the ranges.  Those for
 * which there is no room are left to the next call. */
static void
answer_ranges(struct call *call, ULONGLONG start, struct range *ranges,
              ULONG *count, ULONGLONG *processed)
{
    const struct answer *answer = &call->answer;
    size_t room = *count;

    *count = 0;
    *processed = 0;
    if (answer->size < sizeof(*processed)) {
        return;
    }
    size_t found = (answer->size - sizeof(*processed)) / sizeof(*ranges);
    *count = (ULONG)(found < room ? found : room);
    memcpy(processed, answer->data, sizeof(*processed));
    memcpy(ranges, answer->data + sizeof(*processed),
           *count * sizeof(*ranges));
    if (*count != 0 && found > room) {
        struct range last = ranges[*count - 1];
        *processed = last.offset + last.length - start;
    }
    record_bytes(&call->record, "Answer", answer->data, answer->size);
}

EXPORT
QueryChangesVirtualDisk(HANDLE handle, const WCHAR *id, ULONGLONG offset,
                        ULONGLONG length, DWORD flags, struct range *ranges,
                        ULONG *count, ULONGLONG *processed)
{
    struct call call;

    call_begin(&call, "QueryChangesVirtualDisk");
    DWORD result = call_handle(&call, handle);
    record_text(&call.record, "ChangeTrackingId", id);
    record_number(&call.record, "ByteOffset", offset);
    record_number(&call.record, "ByteLength", length);
    record_number(&call.record, "Flags", flags);
    record_bool(&call.record, "Ranges", ranges != NULL);
    record_number(&call.record, "RangeCount", *count);
    record_bool(&call.record, "ProcessedLength", processed != NULL);
    if (result == ERROR_SUCCESS) {
        answer_ranges(&call, offset, ranges, count, processed);
    }
    return call_end(&call, result);
}

/* --------------------------------------------------------------- VHD Sets */

/* The functions (HANDLE, Parameters, Flags), begun; and ended by the
 * caller. */
static DWORD
begin_snapshot(struct call *call, const char *function, HANDLE handle,
               const void *parameters, size_t size, DWORD flags)
{
    call_begin_versioned(call, function, parameters);
    DWORD result = call_handle(call, handle);
    record_bytes(&call->record, "Parameters", parameters, size);
    record_number(&call->record, "Flags", flags);
    return result;
}

EXPORT
TakeSnapshotVhdSet(HANDLE handle, const void *parameters, DWORD flags)
{
    struct call call;

    return call_end(&call, begin_snapshot(&call, "TakeSnapshotVhdSet", handle,
                                          parameters, 20, flags));
}

EXPORT
DeleteSnapshotVhdSet(HANDLE handle, const void *parameters, DWORD flags)
{
    struct call call;

    return call_end(&call, begin_snapshot(&call, "DeleteSnapshotVhdSet",
                                          handle, parameters, 20, flags));
}

EXPORT
ApplySnapshotVhdSet(HANDLE handle, const void *parameters, DWORD flags)
{
    struct call call;

    return call_end(&call, begin_snapshot(&call, "ApplySnapshotVhdSet", handle,
                                          parameters, 36, flags));
}

EXPORT
ModifyVhdSet(HANDLE handle, const void *parameters, DWORD flags)
{
    enum { SIZE_MODIFY_VHDSET_PARAMETERS = 32 };
    DWORD version = 0;
    struct call call;

    DWORD result = begin_snapshot(&call, "ModifyVhdSet", handle, parameters,
                                  SIZE_MODIFY_VHDSET_PARAMETERS, flags);
    if (parameters != NULL &&
        record_is_readable(parameters, SIZE_MODIFY_VHDSET_PARAMETERS)) {
        memcpy(&version, parameters, sizeof(version));
    }
    if (version == 1) {
        call_text_member(&call, "SnapshotFilePath", parameters, 24);
    }
    if (version == 3) {
        call_text_member(&call, "DefaultFilePath", parameters, 8);
    }
    return call_end(&call, result);
}

/* ------------------------------------------------------------------ forks */

EXPORT
ForkVirtualDisk(HANDLE handle, DWORD flags, const void *parameters,
                OVERLAPPED *overlapped)
{
    static const struct operation_kind kind = {
        .function = "ForkVirtualDisk",
        .size = 16,
        .path = "ForkedVirtualDiskPath",
        .path_offset = 8,
    };

    return operation_start(&kind, handle, flags, parameters, overlapped);
}

EXPORT
CompleteForkVirtualDisk(HANDLE handle)
{
    struct call call;

    call_begin(&call, "CompleteForkVirtualDisk");
    return call_end(&call, call_handle(&call, handle));
}
