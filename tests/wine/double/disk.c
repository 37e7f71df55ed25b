/*
 * Handles and pending operations (disk.h).
 */
#include "disk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    DISKS = 256,
    MAX_PARAMETERS = 256,
    STATUS_PENDING_ = 0x103,
};

struct disk {
    HANDLE handle; /* the caller's end */
    HANDLE peer;   /* ours; NULL: the slot is free */
    OVERLAPPED *overlapped;
    DWORD final;
    const void *parameters;
    size_t size;
    unsigned char copy[MAX_PARAMETERS]; /* of them, from the start */
};

static SRWLOCK lock = SRWLOCK_INIT;
static struct disk disks[DISKS];
static unsigned serial;
static char read_byte;

static bool
is_closed(const struct disk *disk)
{
    return !PeekNamedPipe(disk->peer, NULL, 0, NULL, NULL, NULL);
}

/* A slot whose handle was closed is free again. */
static struct disk *
free_slot(void)
{
    struct disk *slot = NULL;

    for (size_t i = 0; i < DISKS; i++) {
        if (disks[i].peer != NULL && is_closed(&disks[i])) {
            CloseHandle(disks[i].peer);
            disks[i] = (struct disk){0};
        }
        if (slot == NULL && disks[i].peer == NULL) {
            slot = &disks[i];
        }
    }
    if (slot == NULL) {
        abort();
    }
    return slot;
}

static void
make_pipe(struct disk *disk)
{
    char name[64];

    snprintf(name, sizeof name, "\\\\.\\pipe\\virtdisk-double-%lu-%u",
             GetCurrentProcessId(), ++serial);
    disk->handle =
        CreateNamedPipeA(name, PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED,
                         PIPE_TYPE_BYTE, 1, 64, 64, 0, NULL);
    disk->peer = CreateFileA(name, GENERIC_READ | GENERIC_WRITE, 0, NULL,
                             OPEN_EXISTING, 0, NULL);
    if (disk->handle == INVALID_HANDLE_VALUE ||
        disk->peer == INVALID_HANDLE_VALUE) {
        abort();
    }
}

HANDLE
disk_create(void)
{
    AcquireSRWLockExclusive(&lock);
    struct disk *disk = free_slot();
    make_pipe(disk);
    HANDLE handle = disk->handle;
    ReleaseSRWLockExclusive(&lock);
    return handle;
}

static struct disk *
find(HANDLE handle)
{
    for (size_t i = 0; i < DISKS; i++) {
        if (disks[i].peer != NULL && disks[i].handle == handle &&
            !is_closed(&disks[i])) {
            return &disks[i];
        }
    }
    return NULL;
}

bool
disk_exists(HANDLE handle)
{
    AcquireSRWLockExclusive(&lock);
    bool exists = find(handle) != NULL;
    ReleaseSRWLockExclusive(&lock);
    return exists;
}

/* An event's lowest bit may be set: "no completion port". */
static HANDLE
event_of(const OVERLAPPED *overlapped)
{
    return (HANDLE)((uintptr_t)overlapped->hEvent & ~(uintptr_t)1);
}

static DWORD
start_read(HANDLE handle, OVERLAPPED *overlapped)
{
    if (ReadFile(handle, &read_byte, 1, NULL, overlapped)) {
        abort(); /* nobody has written yet */
    }
    return GetLastError();
}

DWORD
disk_start(HANDLE handle, OVERLAPPED *overlapped, DWORD final,
           const void *parameters, size_t size)
{
    AcquireSRWLockExclusive(&lock);
    struct disk *disk = find(handle);
    if (disk == NULL) {
        abort();
    }
    disk->overlapped = overlapped;
    disk->final = final;
    disk->parameters = parameters;
    disk->size = parameters != NULL ? size : 0;
    if (disk->size != 0) {
        memcpy(disk->copy, parameters, size);
    }
    ReleaseSRWLockExclusive(&lock);
    if (final == ERROR_SUCCESS) {
        return start_read(handle, overlapped);
    }
    overlapped->Internal = STATUS_PENDING_;
    overlapped->InternalHigh = 0;
    ResetEvent(event_of(overlapped));
    return ERROR_IO_PENDING;
}

/* Whether the system could still have read what the operation was given. */
static bool
is_intact(const struct disk *disk)
{
    return disk->size == 0 ||
           (record_is_readable(disk->parameters, disk->size) &&
            memcmp(disk->parameters, disk->copy, disk->size) == 0);
}

/* Ends the operation pending on a handle with the status of the script.
 * FALSE: what it was given had changed meanwhile. */
__declspec(dllexport) BOOL WINAPI
double_complete(HANDLE handle)
{
    DWORD written = 0;

    AcquireSRWLockExclusive(&lock);
    struct disk *disk = find(handle);
    if (disk == NULL || disk->overlapped == NULL) {
        abort();
    }
    BOOL intact = is_intact(disk);
    if (disk->final == ERROR_SUCCESS) {
        WriteFile(disk->peer, "!", 1, &written, NULL);
    }
    else {
        /* NTSTATUS_FROM_WIN32 */
        disk->overlapped->Internal = 0xC0070000u | disk->final;
        SetEvent(event_of(disk->overlapped));
    }
    disk->overlapped = NULL;
    ReleaseSRWLockExclusive(&lock);
    return intact;
}

/* Whether a read still waits on the handle: if so, it takes the byte. */
__declspec(dllexport) BOOL WINAPI
double_is_pending(HANDLE handle)
{
    DWORD count = 0;

    AcquireSRWLockExclusive(&lock);
    struct disk *disk = find(handle);
    if (disk == NULL || !WriteFile(disk->peer, "?", 1, &count, NULL) ||
        !PeekNamedPipe(handle, NULL, 0, NULL, &count, NULL)) {
        abort();
    }
    ReleaseSRWLockExclusive(&lock);
    return count == 0;
}

DWORD
disk_status(const OVERLAPPED *overlapped)
{
    ULONG status = (ULONG)overlapped->Internal;

    if (status == STATUS_PENDING_) {
        return ERROR_IO_PENDING;
    }
    if (status == 0) {
        return ERROR_SUCCESS;
    }
    if ((status & 0xFFFF0000u) == 0xC0070000u) {
        return status & 0xFFFF;
    }
    return ERROR_OPERATION_ABORTED;
}
