/*
 * GetVirtualDiskOperationProgress, CancelIoEx and GetOverlappedResult.
 *
 * OVERLAPPED.Internal holds an NTSTATUS, as on Windows: STATUS_PENDING, 0,
 * or for a Win32 code below 0x10000 the NTSTATUS of facility NTWIN32
 * (0xC0070000 | code).  The VHD codes have the same number in both worlds.
 */
#include "api/overlapped.h"

#include <stdatomic.h>

#include <virtdisk.h>

#include "api/operation.h"
#include "api/refuse.h"
#include "api/virtual_disk.h"

#define STATUS_FACILITY_NTWIN32 0xC0070000U
#define STATUS_CODE_MASK 0x0000FFFFU

/* The public structure has a plain word where threads need an atomic one. */
_Static_assert(sizeof(_Atomic ULONG_PTR) == sizeof(ULONG_PTR) &&
                   _Alignof(_Atomic ULONG_PTR) == _Alignof(ULONG_PTR),
               "an atomic word must look like a plain one");

static uint32_t
status_of(vd_error code)
{
    if (code == ERROR_IO_PENDING) {
        return STATUS_PENDING;
    }
    return code == ERROR_SUCCESS || code > STATUS_CODE_MASK
               ? code
               : STATUS_FACILITY_NTWIN32 | code;
}

static vd_error
code_of(uint32_t status)
{
    if (status == STATUS_PENDING) {
        return ERROR_IO_PENDING;
    }
    return (status & ~STATUS_CODE_MASK) == STATUS_FACILITY_NTWIN32
               ? status & STATUS_CODE_MASK
               : status;
}

void
vd_overlapped_set(OVERLAPPED *overlapped, vd_error code)
{
    overlapped->InternalHigh = 0; /* no call here transfers bytes */
    atomic_store_explicit((_Atomic ULONG_PTR *)&overlapped->Internal,
                          status_of(code), memory_order_release);
}

vd_error
vd_overlapped_get(const OVERLAPPED *overlapped)
{
    ULONG_PTR status =
        atomic_load_explicit((const _Atomic ULONG_PTR *)&overlapped->Internal,
                             memory_order_acquire);
    return code_of((uint32_t)status);
}

/* As vd_virtual_disk_acquire, with the code of the Win32 calls for a handle
 * to something else. */
static vd_error
acquire(HANDLE handle, struct vd_virtual_disk **out)
{
    vd_error error = vd_virtual_disk_acquire(handle, out);
    return error == ERROR_INVALID_PARAMETER ? ERROR_INVALID_HANDLE : error;
}

static vd_error
report_progress(struct vd_virtual_disk *virtual_disk,
                const OVERLAPPED *overlapped, VIRTUAL_DISK_PROGRESS *out)
{
    struct vd_operation *operation =
        vd_operation_find(virtual_disk, overlapped);
    if (operation == NULL) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "no operation of this handle has that OVERLAPPED");
    }
    uint64_t current;
    uint64_t completion;
    out->OperationStatus =
        vd_operation_progress(operation, &current, &completion);
    out->CurrentValue = current;
    out->CompletionValue = completion;
    vd_operation_release(operation);
    return ERROR_SUCCESS;
}

/* Also after the operation is over, until the handle's next one begins. */
DWORD WINAPI
GetVirtualDiskOperationProgress(HANDLE VirtualDiskHandle,
                                LPOVERLAPPED Overlapped,
                                PVIRTUAL_DISK_PROGRESS Progress)
{
    if (Overlapped == NULL || Progress == NULL) {
        return vd_refuse(ERROR_INVALID_PARAMETER, "a pointer is NULL");
    }
    struct vd_virtual_disk *virtual_disk;
    vd_error error = vd_virtual_disk_acquire(VirtualDiskHandle, &virtual_disk);
    if (error) {
        return error;
    }
    error = report_progress(virtual_disk, Overlapped, Progress);
    vd_virtual_disk_release(virtual_disk);
    return error;
}

static vd_error
cancel(struct vd_virtual_disk *virtual_disk, const OVERLAPPED *overlapped)
{
    struct vd_operation *operation =
        vd_operation_find(virtual_disk, overlapped);
    bool asked = operation != NULL && vd_operation_cancel(operation);
    vd_operation_release(operation);
    if (!asked) {
        return vd_refuse(ERROR_NOT_FOUND, "nothing to cancel");
    }
    return ERROR_SUCCESS;
}

/* TRUE says that the operation has been asked to stop, not that it has: wait
 * for its completion, which may yet be a success. */
BOOL WINAPI
CancelIoEx(HANDLE hFile, LPOVERLAPPED lpOverlapped)
{
    struct vd_virtual_disk *virtual_disk;
    vd_error error = acquire(hFile, &virtual_disk);
    if (!error) {
        error = cancel(virtual_disk, lpOverlapped);
        vd_virtual_disk_release(virtual_disk);
    }
    if (error) {
        SetLastError(error);
        return FALSE;
    }
    return TRUE;
}

/* Returns when the OVERLAPPED is not pending any more. */
static vd_error
await(struct vd_virtual_disk *virtual_disk, const OVERLAPPED *overlapped)
{
    struct vd_operation *operation =
        vd_operation_find(virtual_disk, overlapped);
    if (operation == NULL) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "no operation of this handle has that OVERLAPPED");
    }
    vd_operation_wait(operation);
    vd_operation_release(operation);
    return ERROR_SUCCESS;
}

static vd_error
overlapped_result(struct vd_virtual_disk *virtual_disk,
                  const OVERLAPPED *overlapped, DWORD *bytes_out, bool wait)
{
    vd_error code = vd_overlapped_get(overlapped);
    if (code == ERROR_IO_PENDING) {
        if (!wait) {
            return ERROR_IO_INCOMPLETE;
        }
        vd_error error = await(virtual_disk, overlapped);
        if (error) {
            return error;
        }
        code = vd_overlapped_get(overlapped);
    }
    *bytes_out = (DWORD)overlapped->InternalHigh;
    return code;
}

/* Waits for the operation itself, not for hEvent, so it neither needs the
 * event nor takes an auto-reset event's signal from another waiter. */
BOOL WINAPI
GetOverlappedResult(HANDLE hFile, LPOVERLAPPED lpOverlapped,
                    LPDWORD lpNumberOfBytesTransferred, BOOL bWait)
{
    vd_error error = ERROR_INVALID_PARAMETER;
    if (lpOverlapped != NULL && lpNumberOfBytesTransferred != NULL) {
        struct vd_virtual_disk *virtual_disk;
        error = acquire(hFile, &virtual_disk);
        if (!error) {
            error =
                overlapped_result(virtual_disk, lpOverlapped,
                                  lpNumberOfBytesTransferred, bWait != FALSE);
            vd_virtual_disk_release(virtual_disk);
        }
    }
    if (error) {
        SetLastError(error);
        return FALSE;
    }
    return TRUE;
}
