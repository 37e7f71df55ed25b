/*
 * The handles the double gives out, and operations pending on them.
 *
 * A handle is the overlapped end of a named pipe and a pending operation a
 * pending read with the caller's OVERLAPPED: events, GetOverlappedResult,
 * CancelIoEx and CloseHandle are the operating system's own.
 */
#ifndef DOUBLE_DISK_H
#define DOUBLE_DISK_H

#include "record.h"

HANDLE disk_create(void);
bool disk_exists(HANDLE handle);

/* Starts an operation that ends with this status; ERROR_IO_PENDING if it
 * did start.  Its parameters must stay as they are until then. */
DWORD disk_start(HANDLE handle, OVERLAPPED *overlapped, DWORD final,
                 const void *parameters, size_t size);

/* The status of an operation as a Win32 code, pending or ended. */
DWORD disk_status(const OVERLAPPED *overlapped);

#endif
