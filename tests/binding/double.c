/*
 * A double of the Virtual Disk API for tests of the binding.
 *
 * It is linked with src/_virtdisk.c in place of the engine, records what it
 * is given, and answers, blocks, completes or refuses as the test says
 * through the double_* functions (by ctypes).  It makes the moments happen
 * that a real engine passes through too quickly or not at all: a call that
 * is inside while the handle is closed, a list that grows from call to call,
 * an operation that cannot be cancelled.
 */
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <sddl.h>

#include "double.h"

EXPORT struct recorded double_recorded;
EXPORT struct given double_given;
EXPORT struct scsi_answer double_scsi;
EXPORT struct progress_answer double_progress;

/* What a HANDLE points to. */
struct object {
    bool is_event;
    bool set;
    int fd; /* of an event, readable while it is set */
};

pthread_mutex_t double_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
/* All below is guarded by double_lock. */
static uint32_t answers[FUNCTIONS];
static uint32_t calls[FUNCTIONS];
static int held = NO_FUNCTION; /* calls of this function do not return */
static uint32_t inside;        /* how many are held now */
uint8_t *double_data;
uint32_t double_data_size;
static uint32_t output_growth; /* added at every refusal of a buffer */
static uint32_t too_small;     /* the code of these refusals */
static bool cancellable = true;
static int allocations_left = -1;
static OVERLAPPED *pending;
static struct {
    const void *pointer;
    size_t size;
    uint8_t bytes[PARAMETER_BYTES];
} kept[TEXTS + 3]; /* what the last call was given by pointer, and its bytes */
static size_t kept_count;
static uint32_t disks_open;
static uint32_t events_open;
static _Thread_local DWORD last_error;

/* The module is linked so that its malloc() and calloc() are these. */
void *__real_calloc(size_t count, size_t size);
void *__real_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_malloc(size_t size);

static bool
may_allocate(void)
{
    pthread_mutex_lock(&double_lock);
    bool may = allocations_left != 0;
    if (allocations_left > 0) {
        allocations_left--;
    }
    pthread_mutex_unlock(&double_lock);
    return may;
}

void *
__wrap_malloc(size_t size)
{
    return may_allocate() ? __real_malloc(size) : NULL;
}

void *
__wrap_calloc(size_t count, size_t size)
{
    return may_allocate() ? __real_calloc(count, size) : NULL;
}

void *
double_allocate(size_t size)
{
    void *block = __real_calloc(1, size);
    if (block == NULL) {
        abort();
    }
    return block;
}

/* After so many allocations of the module all fail; never if negative. */
EXPORT void
double_allocations(int left)
{
    pthread_mutex_lock(&double_lock);
    allocations_left = left;
    pthread_mutex_unlock(&double_lock);
}

EXPORT void
double_reset(void)
{
    pthread_mutex_lock(&double_lock);
    memset(answers, 0, sizeof(answers));
    memset(calls, 0, sizeof(calls));
    memset(&double_recorded, 0, sizeof(double_recorded));
    memset(&double_given, 0, sizeof(double_given));
    memset(&double_scsi, 0, sizeof(double_scsi));
    double_progress = (struct progress_answer){3, 0x100000007};
    held = NO_FUNCTION;
    free(double_data);
    double_data = NULL;
    double_data_size = 0;
    output_growth = 0;
    too_small = ERROR_INSUFFICIENT_BUFFER;
    cancellable = true;
    allocations_left = -1;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&double_lock);
}

EXPORT void
double_answer(int function, uint32_t code)
{
    pthread_mutex_lock(&double_lock);
    answers[function] = code;
    pthread_mutex_unlock(&double_lock);
}

EXPORT uint32_t
double_calls(int function)
{
    pthread_mutex_lock(&double_lock);
    uint32_t count = calls[function];
    pthread_mutex_unlock(&double_lock);
    return count;
}

/* Calls of function (or of none) do not return from now on. */
EXPORT void
double_hold(int function)
{
    pthread_mutex_lock(&double_lock);
    held = function;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&double_lock);
}

EXPORT uint32_t
double_inside(void)
{
    pthread_mutex_lock(&double_lock);
    uint32_t count = inside;
    pthread_mutex_unlock(&double_lock);
    return count;
}

EXPORT void
double_output(const void *data, uint32_t size, uint32_t growth)
{
    pthread_mutex_lock(&double_lock);
    free(double_data);
    double_data = double_allocate(size > 0 ? size : 1);
    memcpy(double_data, data, size);
    double_data_size = size;
    output_growth = growth;
    pthread_mutex_unlock(&double_lock);
}

EXPORT void
double_too_small(uint32_t code)
{
    pthread_mutex_lock(&double_lock);
    too_small = code;
    pthread_mutex_unlock(&double_lock);
}

EXPORT void
double_cancellable(int yes)
{
    pthread_mutex_lock(&double_lock);
    cancellable = yes != 0;
    pthread_mutex_unlock(&double_lock);
}

EXPORT uint32_t
double_disks_open(void)
{
    pthread_mutex_lock(&double_lock);
    uint32_t count = disks_open;
    pthread_mutex_unlock(&double_lock);
    return count;
}

EXPORT uint32_t
double_events_open(void)
{
    pthread_mutex_lock(&double_lock);
    uint32_t count = events_open;
    pthread_mutex_unlock(&double_lock);
    return count;
}

static void
change_event_locked(struct object *event, bool set)
{
    uint64_t count = 1;
    ssize_t moved = set ? write(event->fd, &count, sizeof(count))
                        : read(event->fd, &count, sizeof(count));
    (void)moved;
    event->set = set;
    pthread_cond_broadcast(&changed);
}

void
double_keep_locked(const void *pointer, size_t size)
{
    kept[kept_count].pointer = pointer;
    kept[kept_count].size = size;
    memcpy(kept[kept_count].bytes, pointer, size);
    kept_count++;
}

void
double_keep_nothing_locked(void)
{
    kept_count = 0;
}

/* Whether what a pending call was given is still there, as it was. */
EXPORT int
double_intact(void)
{
    pthread_mutex_lock(&double_lock);
    bool intact = kept_count > 0;
    for (size_t i = 0; i < kept_count; i++) {
        intact &= memcmp(kept[i].pointer, kept[i].bytes, kept[i].size) == 0;
    }
    pthread_mutex_unlock(&double_lock);
    return intact;
}

static void
complete_locked(uint32_t status)
{
    OVERLAPPED *overlapped = pending;
    if (overlapped != NULL) {
        pending = NULL;
        overlapped->Internal = status;
        change_event_locked(overlapped->hEvent, true);
    }
}

EXPORT void
double_complete(uint32_t status)
{
    pthread_mutex_lock(&double_lock);
    complete_locked(status);
    pthread_mutex_unlock(&double_lock);
}

/* Signals an event that nothing has completed. */
EXPORT void
double_signal(HANDLE event)
{
    SetEvent(event);
}

/* Takes one disk and one event that were leaked out of the counts. */
EXPORT void
double_forget(void)
{
    pthread_mutex_lock(&double_lock);
    disks_open--;
    events_open--;
    pthread_mutex_unlock(&double_lock);
}

static void
print_report(void)
{
    printf("{\"cancel\": %u, \"close\": %u, \"wait\": %u}\n", calls[CANCEL],
           calls[CLOSE], calls[WAIT]);
    fflush(stdout);
}

/* Prints what was called when the process ends, after the interpreter. */
EXPORT void
double_report(void)
{
    atexit(print_report);
}

DWORD
double_enter_locked(enum function function)
{
    calls[function]++;
    inside++;
    while (held == (int)function) {
        pthread_cond_wait(&changed, &double_lock);
    }
    inside--;
    return answers[function];
}

DWORD
double_enter(enum function function)
{
    pthread_mutex_lock(&double_lock);
    DWORD code = double_enter_locked(function);
    pthread_mutex_unlock(&double_lock);
    return code;
}

BOOL
double_as_bool(DWORD code)
{
    last_error = code;
    return code == ERROR_SUCCESS;
}

HANDLE
double_new_object_locked(bool is_event)
{
    struct object *object = double_allocate(sizeof(*object));
    object->is_event = is_event;
    object->fd = is_event ? eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC) : -1;
    *(is_event ? &events_open : &disks_open) += 1;
    return object;
}

void
double_record_text(uint16_t *out, PCWSTR text)
{
    for (size_t i = 0; i < PATH_UNITS && (i == 0 || text[i - 1]); i++) {
        out[i] = text[i];
    }
}

void
double_pend_locked(OVERLAPPED *overlapped, DWORD code)
{
    if (overlapped != NULL && code == ERROR_IO_PENDING) {
        overlapped->Internal = STATUS_PENDING;
        change_event_locked(overlapped->hEvent, false);
        pending = overlapped;
    }
}

DWORD WINAPI
OpenVirtualDisk(PVIRTUAL_STORAGE_TYPE type, PCWSTR path,
                VIRTUAL_DISK_ACCESS_MASK mask, OPEN_VIRTUAL_DISK_FLAG flags,
                POPEN_VIRTUAL_DISK_PARAMETERS parameters, PHANDLE handle)
{
    pthread_mutex_lock(&double_lock);
    struct recorded *out = &double_recorded;
    out->device_id = type->DeviceId;
    memcpy(out->vendor_id, &type->VendorId, sizeof(out->vendor_id));
    out->access_mask = (uint32_t)mask;
    out->open_flags = (uint32_t)flags;
    out->has_open_parameters = parameters != NULL;
    if (parameters != NULL) {
        memcpy(out->open_parameters, parameters, sizeof(*parameters));
    }
    double_record_text(out->path, path);
    DWORD code = double_enter_locked(OPEN);
    if (code == ERROR_SUCCESS) {
        *handle = double_new_object_locked(false);
    }
    pthread_mutex_unlock(&double_lock);
    return code;
}

size_t
double_descriptor_size(const uint8_t *descriptor)
{
    uint32_t dacl;
    uint16_t size;
    memcpy(&dacl, descriptor + 16, sizeof(dacl));
    if (dacl == 0) {
        return 20;
    }
    memcpy(&size, descriptor + dacl + 2, sizeof(size));
    return dacl + size;
}

DWORD WINAPI
AttachVirtualDisk(HANDLE handle, PSECURITY_DESCRIPTOR descriptor,
                  ATTACH_VIRTUAL_DISK_FLAG flags, ULONG provider,
                  PATTACH_VIRTUAL_DISK_PARAMETERS parameters,
                  LPOVERLAPPED overlapped)
{
    (void)handle;
    pthread_mutex_lock(&double_lock);
    struct recorded *out = &double_recorded;
    out->attach_flags = (uint32_t)flags;
    out->provider_specific_flags = provider;
    out->has_attach_parameters = parameters != NULL;
    if (parameters != NULL) {
        memcpy(out->attach_parameters, parameters, sizeof(*parameters));
    }
    out->has_descriptor = descriptor != NULL;
    if (descriptor != NULL) {
        memcpy(out->descriptor, descriptor,
               double_descriptor_size(descriptor));
    }
    DWORD code = double_enter_locked(ATTACH);
    double_pend_locked(overlapped, code);
    pthread_mutex_unlock(&double_lock);
    return code;
}

DWORD WINAPI
DetachVirtualDisk(HANDLE handle, DETACH_VIRTUAL_DISK_FLAG flags,
                  ULONG provider)
{
    (void)handle;
    pthread_mutex_lock(&double_lock);
    double_recorded.detach_flags = (uint32_t)flags;
    double_recorded.detach_provider_flags = provider;
    DWORD code = double_enter_locked(DETACH);
    pthread_mutex_unlock(&double_lock);
    return code;
}

DWORD
double_query(enum function function, ULONG *size, void *buffer, size_t offset)
{
    pthread_mutex_lock(&double_lock);
    DWORD code = double_enter_locked(function);
    uint32_t needed = (uint32_t)(double_data_size + offset);
    if (*size > double_recorded.largest_query) {
        double_recorded.largest_query = *size;
    }
    if (code == ERROR_SUCCESS && *size < needed) {
        code = too_small;
        double_data_size += output_growth;
        double_data = realloc(double_data, double_data_size);
        if (double_data == NULL) {
            abort();
        }
        memset(double_data + needed - offset, 0, output_growth);
    }
    else if (code == ERROR_SUCCESS && double_data_size > 0) {
        memcpy((uint8_t *)buffer + offset, double_data, double_data_size);
    }
    *size = needed;
    pthread_mutex_unlock(&double_lock);
    return code;
}

DWORD WINAPI
GetVirtualDiskPhysicalPath(HANDLE handle, PULONG size, PWSTR path)
{
    (void)handle;
    return double_query(PHYSICAL_PATH, size, path, 0);
}

DWORD WINAPI
GetAllAttachedVirtualDiskPhysicalPaths(PULONG size, PWSTR paths)
{
    return double_query(ALL_PATHS, size, paths, 0);
}

/* The output is what follows the version: the union. */
DWORD WINAPI
GetVirtualDiskInformation(HANDLE handle, PULONG size,
                          PGET_VIRTUAL_DISK_INFO info, PULONG used)
{
    (void)handle;
    (void)used;
    return double_query(INFORMATION, size, info, 8);
}

DWORD WINAPI
AddVirtualDiskParent(HANDLE handle, PCWSTR path)
{
    (void)handle;
    pthread_mutex_lock(&double_lock);
    double_record_text(double_recorded.parent_path, path);
    DWORD code = double_enter_locked(ADD_PARENT);
    pthread_mutex_unlock(&double_lock);
    return code;
}

static void
record_scsi(const RAW_SCSI_VIRTUAL_DISK_PARAMETERS *parameters)
{
    struct recorded *out = &double_recorded;
    size_t length = parameters->Version1.DataTransferLength;
    out->scsi_version = (uint32_t)parameters->Version;
    out->rsvd_handle = (uint32_t)parameters->Version1.RSVDHandle;
    out->data_in = parameters->Version1.DataIn;
    out->cdb_length = parameters->Version1.CdbLength;
    out->sense_length = parameters->Version1.SenseInfoLength;
    out->srb_flags = parameters->Version1.SrbFlags;
    out->data_length = (uint32_t)length;
    memcpy(out->cdb, parameters->Version1.Cdb, out->cdb_length);
    if (!out->data_in && length > 0) {
        memcpy(out->data, parameters->Version1.DataBuffer,
               length < DATA_BYTES ? length : DATA_BYTES);
    }
}

/* Data is given when the call ends, whatever became of it meanwhile. */
DWORD WINAPI
RawSCSIVirtualDisk(HANDLE handle,
                   const PRAW_SCSI_VIRTUAL_DISK_PARAMETERS parameters,
                   RAW_SCSI_VIRTUAL_DISK_FLAG flags,
                   PRAW_SCSI_VIRTUAL_DISK_RESPONSE response)
{
    (void)handle;
    pthread_mutex_lock(&double_lock);
    record_scsi(parameters);
    double_recorded.scsi_flags = (uint32_t)flags;
    DWORD code = double_enter_locked(RAW_SCSI);
    uint32_t length = parameters->Version1.DataTransferLength;
    if (code == ERROR_SUCCESS && parameters->Version1.DataIn &&
        double_data_size > 0) {
        memcpy(parameters->Version1.DataBuffer, double_data,
               double_data_size < length ? double_data_size : length);
    }
    if (code == ERROR_SUCCESS) {
        memcpy(parameters->Version1.SenseInfo, double_scsi.sense,
               parameters->Version1.SenseInfoLength);
        response->Version1.ScsiStatus = double_scsi.status;
        response->Version1.SenseInfoLength = double_scsi.sense_length;
        response->Version1.DataTransferLength = double_scsi.transferred;
    }
    pthread_mutex_unlock(&double_lock);
    return code;
}

DWORD WINAPI
GetVirtualDiskOperationProgress(HANDLE handle, LPOVERLAPPED overlapped,
                                PVIRTUAL_DISK_PROGRESS progress)
{
    (void)handle;
    DWORD code = double_enter(PROGRESS);
    pthread_mutex_lock(&double_lock);
    bool running = pending == overlapped;
    pthread_mutex_unlock(&double_lock);
    progress->OperationStatus = running ? ERROR_IO_PENDING : ERROR_SUCCESS;
    progress->CurrentValue = double_progress.current;
    progress->CompletionValue = double_progress.completion;
    return code;
}

BOOL WINAPI
CloseHandle(HANDLE handle)
{
    struct object *object = handle;
    pthread_mutex_lock(&double_lock);
    DWORD code = object->is_event ? ERROR_SUCCESS : double_enter_locked(CLOSE);
    *(object->is_event ? &events_open : &disks_open) -= 1;
    pthread_mutex_unlock(&double_lock);
    if (object->is_event) {
        close(object->fd);
    }
    free(object);
    return double_as_bool(code);
}

DWORD WINAPI
GetLastError(void)
{
    return last_error;
}

HANDLE WINAPI
CreateEventW(LPSECURITY_ATTRIBUTES attributes, BOOL manual, BOOL initial,
             LPCWSTR name)
{
    (void)attributes;
    (void)manual;
    (void)initial;
    (void)name;
    HANDLE event = NULL;
    pthread_mutex_lock(&double_lock);
    DWORD code = double_enter_locked(CREATE_EVENT);
    if (double_as_bool(code)) {
        event = double_new_object_locked(true);
    }
    pthread_mutex_unlock(&double_lock);
    return event;
}

static BOOL
change_event(HANDLE handle, bool set)
{
    pthread_mutex_lock(&double_lock);
    change_event_locked(handle, set);
    pthread_mutex_unlock(&double_lock);
    return TRUE;
}

BOOL WINAPI
SetEvent(HANDLE handle)
{
    return change_event(handle, true);
}

BOOL WINAPI
ResetEvent(HANDLE handle)
{
    return change_event(handle, false);
}

int
GetEventDescriptor(HANDLE handle)
{
    return double_as_bool(double_enter(DESCRIPTOR))
               ? ((struct object *)handle)->fd
               : -1;
}

/* An infinite wait ends after a while all the same, so that a test fails
 * rather than hangs. */
DWORD WINAPI
WaitForSingleObject(HANDLE handle, DWORD milliseconds)
{
    struct object *event = handle;
    struct timespec until;
    uint32_t length = milliseconds == INFINITE ? 30000 : milliseconds;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += (long)(length % 1000) * 1000000;
    until.tv_sec += length / 1000 + until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&double_lock);
    DWORD code = length > 0 ? double_enter_locked(WAIT) : ERROR_SUCCESS;
    while (code == ERROR_SUCCESS && !event->set && length > 0 &&
           pthread_cond_timedwait(&changed, &double_lock, &until) !=
               ETIMEDOUT) {
    }
    bool set = event->set;
    pthread_mutex_unlock(&double_lock);
    if (code != ERROR_SUCCESS) {
        last_error = code;
        return WAIT_FAILED;
    }
    return set ? WAIT_OBJECT_0 : WAIT_TIMEOUT;
}

BOOL WINAPI
CancelIoEx(HANDLE handle, LPOVERLAPPED overlapped)
{
    (void)handle;
    pthread_mutex_lock(&double_lock);
    DWORD code = double_enter_locked(CANCEL);
    if (code == ERROR_SUCCESS && pending != overlapped) {
        code = ERROR_NOT_FOUND;
    }
    else if (code == ERROR_SUCCESS && cancellable) {
        complete_locked((uint32_t)CANCELLED);
    }
    pthread_mutex_unlock(&double_lock);
    return double_as_bool(code);
}

/* Of the NTSTATUS values only those that the tests use. */
BOOL WINAPI
GetOverlappedResult(HANDLE handle, LPOVERLAPPED overlapped, LPDWORD count,
                    BOOL wait)
{
    (void)handle;
    (void)wait;
    *count = 0;
    pthread_mutex_lock(&double_lock);
    uint32_t status = (uint32_t)overlapped->Internal;
    pthread_mutex_unlock(&double_lock);
    if (status == STATUS_PENDING) {
        return double_as_bool(ERROR_IO_INCOMPLETE);
    }
    if (status == (uint32_t)CANCELLED) {
        return double_as_bool(ERROR_OPERATION_ABORTED);
    }
    return double_as_bool(status);
}

/* "D:" is a descriptor without anything; other text is refused. */
BOOL WINAPI
ConvertStringSecurityDescriptorToSecurityDescriptorW(
    LPCWSTR text, DWORD revision, PSECURITY_DESCRIPTOR *descriptor,
    PULONG size)
{
    DWORD code = double_enter(CONVERT);
    if (code == ERROR_SUCCESS &&
        (revision != SDDL_REVISION_1 || text[0] != 'D' || text[1] != ':')) {
        code = ERROR_INVALID_PARAMETER;
    }
    if (code == ERROR_SUCCESS) {
        uint8_t *bytes = double_allocate(20);
        bytes[0] = 1;
        bytes[3] = 0x80;
        *descriptor = bytes;
        *size = 20;
    }
    return double_as_bool(code);
}

HLOCAL WINAPI
LocalFree(HLOCAL memory)
{
    pthread_mutex_lock(&double_lock);
    double_recorded.descriptors_freed++;
    pthread_mutex_unlock(&double_lock);
    free(memory);
    return NULL;
}
