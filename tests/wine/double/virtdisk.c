/*
 * virtdisk.dll, a recording test double: the functions bound so far.
 *
 * It implements nothing.  Every function writes down the exact bits it was
 * handed (record.h) and answers what the test told it to (script.h).
 * Structures are raw bytes of the sizes that Microsoft's metadata publishes
 * for x64; no virtdisk.h is included, so that a wrong header, structure or
 * calling convention in the code under test cannot cancel out.
 */
#include "disk.h"
#include "script.h"

#include <stdlib.h>
#include <string.h>

#define EXPORT __declspec(dllexport) DWORD WINAPI

enum {
    SIZE_VIRTUAL_STORAGE_TYPE = 20,
    SIZE_OPEN_VIRTUAL_DISK_PARAMETERS = 44,
    SIZE_ATTACH_VIRTUAL_DISK_PARAMETERS = 24,
    SIZE_GET_VIRTUAL_DISK_INFO = 32,
    SIZE_VIRTUAL_DISK_PROGRESS = 24,
    SIZE_RAW_SCSI_VIRTUAL_DISK_PARAMETERS = 48,
    SIZE_RAW_SCSI_VIRTUAL_DISK_RESPONSE = 12,
    /* What the double writes where data and sense data are asked for. */
    DATA_BYTE = 0x5A,
    SENSE_BYTE = 0x6B,
    GATE_TIMEOUT_MS = 20000,
};

struct call {
    struct record record;
    struct answer answer;
};

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

static void
begin_versioned(struct call *call, const char *function, const DWORD *version)
{
    bool known = version != NULL && record_is_readable(version, 4);

    call->answer = script_next(function, known ? *version : 0);
    record_begin(&call->record, function);
}

static void
begin(struct call *call, const char *function)
{
    begin_versioned(call, function, NULL);
}

static DWORD
end(struct call *call, DWORD result)
{
    pass_gate(call);
    record_end(&call->record, result);
    free(call->answer.data);
    return result;
}

static DWORD
use_handle(struct call *call, HANDLE handle)
{
    record_number(&call->record, "VirtualDiskHandle",
                  (uint64_t)(uintptr_t)handle);
    return disk_exists(handle) ? call->answer.result : ERROR_INVALID_HANDLE;
}

static void
record_overlapped(struct record *record, const OVERLAPPED *overlapped)
{
    record_bytes(record, "Overlapped", overlapped,
                 offsetof(OVERLAPPED, hEvent));
    if (overlapped != NULL) {
        record_number(record, "OverlappedAddress",
                      (uint64_t)(uintptr_t)overlapped);
        record_number(record, "hEvent",
                      (uint64_t)(uintptr_t)overlapped->hEvent);
    }
}

static void
record_descriptor(struct record *record, void *descriptor)
{
    DWORD size = 0;

    if (descriptor != NULL) {
        size = GetSecurityDescriptorLength(descriptor);
        record_bool(record, "IsValidSecurityDescriptor",
                    IsValidSecurityDescriptor(descriptor));
    }
    record_bytes(record, "SecurityDescriptor", descriptor, size);
}

/* The documented rule of functions that fill a buffer: too small a one is
 * ERROR_INSUFFICIENT_BUFFER and the size it must have. */
static DWORD
fill(const struct answer *answer, ULONG *size, void *buffer)
{
    ULONG given = *size;
    bool fits = buffer != NULL && given >= answer->size;

    *size = answer->needed != 0 ? answer->needed : (ULONG)answer->size;
    if (answer->needed != 0 || !fits) {
        return ERROR_INSUFFICIENT_BUFFER;
    }
    if (answer->size != 0) {
        memcpy(buffer, answer->data, answer->size);
    }
    return ERROR_SUCCESS;
}

/* ---------------------------------------------------------- the functions */

/* *Handle is undefined after a failure; here it is a handle that the caller
 * must not close. */
__declspec(dllexport) HANDLE WINAPI
double_decoy(void)
{
    static HANDLE decoy;

    return semaphore(&decoy);
}

EXPORT
OpenVirtualDisk(const void *type, const WCHAR *path, DWORD mask, DWORD flags,
                const void *parameters, HANDLE *handle)
{
    struct call call;

    begin_versioned(&call, "OpenVirtualDisk", parameters);
    record_bytes(&call.record, "VirtualStorageType", type,
                 SIZE_VIRTUAL_STORAGE_TYPE);
    record_text(&call.record, "Path", path);
    record_number(&call.record, "VirtualDiskAccessMask", mask);
    record_number(&call.record, "Flags", flags);
    record_bytes(&call.record, "Parameters", parameters,
                 SIZE_OPEN_VIRTUAL_DISK_PARAMETERS);
    *handle =
        call.answer.result == ERROR_SUCCESS ? disk_create() : double_decoy();
    return end(&call, call.answer.result);
}

EXPORT
AttachVirtualDisk(HANDLE handle, void *descriptor, DWORD flags,
                  ULONG provider_flags, const void *parameters,
                  OVERLAPPED *overlapped)
{
    struct call call;

    begin_versioned(&call, "AttachVirtualDisk", parameters);
    DWORD result = use_handle(&call, handle);
    record_descriptor(&call.record, descriptor);
    record_number(&call.record, "Flags", flags);
    record_number(&call.record, "ProviderSpecificFlags", provider_flags);
    record_bytes(&call.record, "Parameters", parameters,
                 SIZE_ATTACH_VIRTUAL_DISK_PARAMETERS);
    record_overlapped(&call.record, overlapped);
    if (result == ERROR_SUCCESS && overlapped != NULL &&
        call.answer.pending != 0) {
        result = disk_start(handle, overlapped, call.answer.final);
    }
    return end(&call, result);
}

EXPORT
DetachVirtualDisk(HANDLE handle, DWORD flags, ULONG provider_flags)
{
    struct call call;

    begin(&call, "DetachVirtualDisk");
    DWORD result = use_handle(&call, handle);
    record_number(&call.record, "Flags", flags);
    record_number(&call.record, "ProviderSpecificFlags", provider_flags);
    return end(&call, result);
}

EXPORT
GetVirtualDiskPhysicalPath(HANDLE handle, ULONG *size, WCHAR *buffer)
{
    struct call call;

    begin(&call, "GetVirtualDiskPhysicalPath");
    DWORD result = use_handle(&call, handle);
    record_number(&call.record, "DiskPathSizeInBytes", *size);
    record_bool(&call.record, "DiskPath", buffer != NULL);
    if (result == ERROR_SUCCESS) {
        result = fill(&call.answer, size, buffer);
    }
    return end(&call, result);
}

EXPORT
GetAllAttachedVirtualDiskPhysicalPaths(ULONG *size, WCHAR *buffer)
{
    struct call call;

    begin(&call, "GetAllAttachedVirtualDiskPhysicalPaths");
    DWORD result = call.answer.result;
    record_number(&call.record, "PathsBufferSizeInBytes", *size);
    record_bool(&call.record, "PathsBuffer", buffer != NULL);
    if (result == ERROR_SUCCESS) {
        result = fill(&call.answer, size, buffer);
    }
    return end(&call, result);
}

EXPORT
GetVirtualDiskInformation(HANDLE handle, ULONG *size, void *info, ULONG *used)
{
    struct call call;

    begin_versioned(&call, "GetVirtualDiskInformation", info);
    DWORD result = use_handle(&call, handle);
    record_number(&call.record, "VirtualDiskInfoSize", *size);
    record_bytes(&call.record, "VirtualDiskInfo", info,
                 SIZE_GET_VIRTUAL_DISK_INFO);
    if (result == ERROR_SUCCESS) {
        result = fill(&call.answer, size, info);
    }
    if (used != NULL) {
        *used = *size;
    }
    return end(&call, result);
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

    begin(&call, "GetVirtualDiskOperationProgress");
    DWORD result = use_handle(&call, handle);
    record_number(&call.record, "OverlappedAddress",
                  (uint64_t)(uintptr_t)overlapped);
    record_bytes(&call.record, "Progress", progress,
                 SIZE_VIRTUAL_DISK_PROGRESS);
    if (result == ERROR_SUCCESS && call.answer.size == sizeof now) {
        memcpy(progress, call.answer.data, sizeof now);
    }
    else if (result == ERROR_SUCCESS) {
        memcpy(progress, &now, sizeof now);
    }
    return end(&call, result);
}

EXPORT
AddVirtualDiskParent(HANDLE handle, const WCHAR *path)
{
    struct call call;

    begin(&call, "AddVirtualDiskParent");
    DWORD result = use_handle(&call, handle);
    record_text(&call.record, "ParentPath", path);
    return end(&call, result);
}

/* The members of RAW_SCSI_VIRTUAL_DISK_PARAMETERS that the double follows,
 * from their published places. */
struct scsi {
    bool data_in;
    unsigned char cdb_length;
    unsigned char sense_length;
    DWORD data_length;
    void *data;
    void *sense;
    void *cdb;
};

static struct scsi
read_scsi(const unsigned char *parameters)
{
    struct scsi scsi = {
        .data_in = parameters[12] != 0,
        .cdb_length = parameters[13],
        .sense_length = parameters[14],
    };

    memcpy(&scsi.data_length, parameters + 20, sizeof scsi.data_length);
    memcpy(&scsi.data, parameters + 24, sizeof scsi.data);
    memcpy(&scsi.sense, parameters + 32, sizeof scsi.sense);
    memcpy(&scsi.cdb, parameters + 40, sizeof scsi.cdb);
    return scsi;
}

/* The addresses, and what is there. */
static void
record_scsi(struct record *record, const struct scsi *scsi)
{
    record_number(record, "DataBuffer", (uint64_t)(uintptr_t)scsi->data);
    record_number(record, "SenseInfo", (uint64_t)(uintptr_t)scsi->sense);
    record_number(record, "CdbAddress", (uint64_t)(uintptr_t)scsi->cdb);
    record_bytes(record, "Cdb", scsi->cdb, scsi->cdb_length);
    record_bytes(record, "Data", scsi->data_in ? NULL : scsi->data,
                 scsi->data_length);
}

static void
answer_scsi(const struct answer *answer, const struct scsi *scsi,
            void *response)
{
    if (scsi->data_in && scsi->data_length != 0) {
        memset(scsi->data, DATA_BYTE, scsi->data_length);
    }
    if (scsi->sense_length != 0) {
        memset(scsi->sense, SENSE_BYTE, scsi->sense_length);
    }
    if (answer->size == SIZE_RAW_SCSI_VIRTUAL_DISK_RESPONSE) {
        memcpy(response, answer->data, answer->size);
    }
}

EXPORT
RawSCSIVirtualDisk(HANDLE handle, const void *parameters, DWORD flags,
                   void *response)
{
    struct call call;

    begin_versioned(&call, "RawSCSIVirtualDisk", parameters);
    DWORD result = use_handle(&call, handle);
    record_bytes(&call.record, "Parameters", parameters,
                 SIZE_RAW_SCSI_VIRTUAL_DISK_PARAMETERS);
    record_number(&call.record, "Flags", flags);
    record_bytes(&call.record, "Response", response,
                 SIZE_RAW_SCSI_VIRTUAL_DISK_RESPONSE);
    if (record_is_readable(parameters,
                           SIZE_RAW_SCSI_VIRTUAL_DISK_PARAMETERS)) {
        struct scsi scsi = read_scsi(parameters);
        record_scsi(&call.record, &scsi);
        if (result == ERROR_SUCCESS) {
            answer_scsi(&call.answer, &scsi, response);
        }
    }
    return end(&call, result);
}
