/*
 * The parts of a call (call.h), and the gate that holds calls inside.
 */
#include "call.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GATE_TIMEOUT_MS = 20000 };

/* ------------------------------------------------------------------ gate */

static HANDLE
semaphore(HANDLE *place)
{
    if (*place == NULL) {
        HANDLE made = CreateSemaphoreW(NULL, 0, 1024, NULL);

        if (InterlockedCompareExchangePointer(place, made, NULL) != NULL) {
            CloseHandle(made);
        }
    }
    return *place;
}

static HANDLE entered;
static HANDLE leaving;

/* A call under the gate shows that other Python threads run meanwhile: if
 * the caller kept the GIL, nobody could let it out. */
static void
pass_gate(struct call *call)
{
    if (call->answer.gate == 0) {
        return;
    }
    ReleaseSemaphore(semaphore(&entered), 1, NULL);
    DWORD waited = WaitForSingleObject(semaphore(&leaving), GATE_TIMEOUT_MS);
    record_bool(&call->record, "left", waited == WAIT_OBJECT_0);
}

/* Waits until a call has come to the gate. */
__declspec(dllexport) BOOL WINAPI
double_wait_entered(void)
{
    return WaitForSingleObject(semaphore(&entered), GATE_TIMEOUT_MS) ==
           WAIT_OBJECT_0;
}

/* Lets one call out. */
__declspec(dllexport) void WINAPI
double_leave(void)
{
    ReleaseSemaphore(semaphore(&leaving), 1, NULL);
}

/* ------------------------------------------------------- parts of a call */

void
call_begin_versioned(struct call *call, const char *function,
                     const void *structure)
{
    DWORD version = 0;

    if (structure != NULL && record_is_readable(structure, sizeof version)) {
        memcpy(&version, structure, sizeof version);
    }
    call->answer = script_next(function, version);
    record_begin(&call->record, function);
}

void
call_begin(struct call *call, const char *function)
{
    call_begin_versioned(call, function, NULL);
}

DWORD
call_end(struct call *call, DWORD result)
{
    pass_gate(call);
    record_end(&call->record, result);
    free(call->answer.data);
    return result;
}

DWORD
call_handle(struct call *call, HANDLE handle)
{
    record_number(&call->record, "VirtualDiskHandle",
                  (uint64_t)(uintptr_t)handle);
    return disk_exists(handle) ? call->answer.result : ERROR_INVALID_HANDLE;
}

void
call_descriptor(struct call *call, void *descriptor)
{
    DWORD size = 0;

    if (descriptor != NULL) {
        size = GetSecurityDescriptorLength(descriptor);
        record_bool(&call->record, "IsValidSecurityDescriptor",
                    IsValidSecurityDescriptor(descriptor));
    }
    record_bytes(&call->record, "SecurityDescriptor", descriptor, size);
}

void
call_overlapped(struct call *call, const OVERLAPPED *overlapped)
{
    struct record *record = &call->record;

    record_bytes(record, "Overlapped", overlapped,
                 offsetof(OVERLAPPED, hEvent));
    if (overlapped != NULL) {
        record_number(record, "OverlappedAddress",
                      (uint64_t)(uintptr_t)overlapped);
        record_number(record, "hEvent",
                      (uint64_t)(uintptr_t)overlapped->hEvent);
    }
}

DWORD
call_go_on(struct call *call, DWORD result, HANDLE handle,
           OVERLAPPED *overlapped, const void *parameters, size_t size)
{
    if (result != ERROR_SUCCESS || overlapped == NULL ||
        call->answer.pending == 0) {
        return result;
    }
    return disk_start(handle, overlapped, call->answer.final, parameters,
                      size);
}

void
call_text_member(struct call *call, const char *name, const void *structure,
                 size_t offset)
{
    const char *place = (const char *)structure + offset;
    const WCHAR *text = NULL;
    char address[64];

    if (structure == NULL || !record_is_readable(place, sizeof(text))) {
        return;
    }
    memcpy(&text, place, sizeof(text));
    snprintf(address, sizeof address, "%sAddress", name);
    record_number(&call->record, address, (uint64_t)(uintptr_t)text);
    record_text(&call->record, name, text);
}

DWORD
call_fill(struct call *call, ULONG *size, void *buffer)
{
    const struct answer *answer = &call->answer;
    bool fits = buffer != NULL && *size >= answer->size;

    *size = answer->needed != 0 ? answer->needed : (ULONG)answer->size;
    if (answer->needed != 0 || !fits) {
        return ERROR_INSUFFICIENT_BUFFER;
    }
    if (answer->size != 0) {
        memcpy(buffer, answer->data, answer->size);
    }
    record_bytes(&call->record, "Answer", buffer, answer->size);
    return ERROR_SUCCESS;
}

bool
call_give(struct call *call, void *out, size_t size)
{
    if (call->answer.size != size) {
        return false;
    }
    memcpy(out, call->answer.data, size);
    record_bytes(&call->record, "Answer", out, size);
    return true;
}

HANDLE
call_decoy(void)
{
    static HANDLE decoy;

    return semaphore(&decoy);
}

__declspec(dllexport) HANDLE WINAPI
double_decoy(void)
{
    return call_decoy();
}
