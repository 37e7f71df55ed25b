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

#include <windows.h>
#include <sddl.h>
#include <virtdisk.h>

#define EXPORT __attribute__((visibility("default")))

enum function {
    OPEN,
    ATTACH,
    DETACH,
    PHYSICAL_PATH,
    ALL_PATHS,
    INFORMATION,
    PROGRESS,
    CLOSE,
    CANCEL,
    CREATE_EVENT,
    WAIT,
    CONVERT,
    ADD_PARENT,
    RAW_SCSI,
    DESCRIPTOR,
    CREATE,
    COMPACT,
    MERGE,
    EXPAND,
    RESIZE,
    MIRROR,
    BREAK_MIRROR,
    SET_INFORMATION,
    ENUMERATE_METADATA,
    GET_METADATA,
    SET_METADATA,
    DELETE_METADATA,
    CREATE_FILE,
    DEPENDENCY,
    QUERY_CHANGES,
    TAKE_SNAPSHOT,
    DELETE_SNAPSHOT,
    MODIFY_SET,
    APPLY_SNAPSHOT,
    FORK,
    COMPLETE_FORK,
    FUNCTIONS,
};

enum {
    NO_FUNCTION = -1,
    CANCELLED = (int)0xC0000120, /* STATUS_CANCELLED */
    PATH_UNITS = 64,
    DESCRIPTOR_BYTES = 128,
    CDB_BYTES = 255,
    DATA_BYTES = 64,
    PARAMETER_BYTES = 184,
    TEXTS = 5,
};

/* What the last calls were given; mirrored in test_binding_double.py. */
struct recorded {
    uint32_t device_id;
    uint8_t vendor_id[16];
    uint32_t access_mask;
    uint32_t open_flags;
    uint32_t has_open_parameters;
    uint8_t open_parameters[44];
    uint16_t path[PATH_UNITS];
    uint32_t attach_flags;
    uint32_t provider_specific_flags;
    uint32_t has_attach_parameters;
    uint8_t attach_parameters[24];
    uint32_t has_descriptor;
    uint8_t descriptor[DESCRIPTOR_BYTES];
    uint32_t detach_flags;
    uint32_t detach_provider_flags;
    uint32_t descriptors_freed;
    uint32_t largest_query;
    uint32_t dependency_flags;
    uint32_t dependency_version;
    uint16_t parent_path[PATH_UNITS];
    uint32_t scsi_version;
    uint32_t rsvd_handle;
    uint32_t data_in;
    uint32_t cdb_length;
    uint32_t sense_length;
    uint32_t srb_flags;
    uint32_t data_length;
    uint32_t scsi_flags;
    uint8_t cdb[CDB_BYTES];
    uint8_t data[DATA_BYTES]; /* what came with a call that gives data */
};

EXPORT struct recorded double_recorded;

/* What the last call that changes something was given; mirrored likewise.  A
 * pointer to text in the parameters is replaced by the number, from 1, of the
 * text; NULL stays. */
struct given {
    uint64_t numbers[2];
    uint32_t flags;
    uint32_t provider_specific_flags;
    uint32_t access_mask;
    uint32_t overlapped;
    uint32_t parameters_size; /* 0: NULL */
    uint32_t has_descriptor;
    uint32_t texts_count;
    uint8_t storage_type[20];
    uint8_t parameters[PARAMETER_BYTES];
    uint8_t guid[16];
    uint8_t descriptor[DESCRIPTOR_BYTES];
    uint16_t texts[TEXTS][PATH_UNITS];
};

EXPORT struct given double_given;

/* What RawSCSIVirtualDisk answers; data that it gives is the output. */
struct scsi_answer {
    uint8_t status;
    uint8_t sense_length;
    uint8_t sense[255];
    uint8_t padding;
    uint32_t transferred;
};

EXPORT struct scsi_answer double_scsi;

/* What GetVirtualDiskOperationProgress answers. */
struct progress_answer {
    uint64_t current;
    uint64_t completion;
};

EXPORT struct progress_answer double_progress;

/* What a HANDLE points to. */
struct object {
    bool is_event;
    bool set;
    int fd; /* of an event, readable while it is set */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
/* All below is guarded by lock. */
static uint32_t answers[FUNCTIONS];
static uint32_t calls[FUNCTIONS];
static int held = NO_FUNCTION; /* calls of this function do not return */
static uint32_t inside;        /* how many are held now */
static uint8_t *output;
static uint32_t output_size;
static uint32_t output_growth; /* added at every refusal of a buffer */
static uint32_t too_small;     /* the code of these refusals */
static bool cancellable = true;
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

EXPORT void
double_reset(void)
{
    pthread_mutex_lock(&lock);
    memset(answers, 0, sizeof(answers));
    memset(calls, 0, sizeof(calls));
    memset(&double_recorded, 0, sizeof(double_recorded));
    memset(&double_given, 0, sizeof(double_given));
    memset(&double_scsi, 0, sizeof(double_scsi));
    double_progress = (struct progress_answer){3, 0x100000007};
    held = NO_FUNCTION;
    free(output);
    output = NULL;
    output_size = 0;
    output_growth = 0;
    too_small = ERROR_INSUFFICIENT_BUFFER;
    cancellable = true;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

EXPORT void
double_answer(int function, uint32_t code)
{
    pthread_mutex_lock(&lock);
    answers[function] = code;
    pthread_mutex_unlock(&lock);
}

EXPORT uint32_t
double_calls(int function)
{
    pthread_mutex_lock(&lock);
    uint32_t count = calls[function];
    pthread_mutex_unlock(&lock);
    return count;
}

/* Calls of function (or of none) do not return from now on. */
EXPORT void
double_hold(int function)
{
    pthread_mutex_lock(&lock);
    held = function;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

EXPORT uint32_t
double_inside(void)
{
    pthread_mutex_lock(&lock);
    uint32_t count = inside;
    pthread_mutex_unlock(&lock);
    return count;
}

EXPORT void
double_output(const void *data, uint32_t size, uint32_t growth)
{
    pthread_mutex_lock(&lock);
    free(output);
    output = malloc(size > 0 ? size : 1);
    if (output == NULL) {
        abort();
    }
    memcpy(output, data, size);
    output_size = size;
    output_growth = growth;
    pthread_mutex_unlock(&lock);
}

EXPORT void
double_too_small(uint32_t code)
{
    pthread_mutex_lock(&lock);
    too_small = code;
    pthread_mutex_unlock(&lock);
}

EXPORT void
double_cancellable(int yes)
{
    pthread_mutex_lock(&lock);
    cancellable = yes != 0;
    pthread_mutex_unlock(&lock);
}

EXPORT uint32_t
double_disks_open(void)
{
    pthread_mutex_lock(&lock);
    uint32_t count = disks_open;
    pthread_mutex_unlock(&lock);
    return count;
}

EXPORT uint32_t
double_events_open(void)
{
    pthread_mutex_lock(&lock);
    uint32_t count = events_open;
    pthread_mutex_unlock(&lock);
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

static void
keep_locked(const void *pointer, size_t size)
{
    kept[kept_count].pointer = pointer;
    kept[kept_count].size = size;
    memcpy(kept[kept_count].bytes, pointer, size);
    kept_count++;
}

/* Whether what a pending call was given is still there, as it was. */
EXPORT int
double_intact(void)
{
    pthread_mutex_lock(&lock);
    bool intact = kept_count > 0;
    for (size_t i = 0; i < kept_count; i++) {
        intact &= memcmp(kept[i].pointer, kept[i].bytes, kept[i].size) == 0;
    }
    pthread_mutex_unlock(&lock);
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
    pthread_mutex_lock(&lock);
    complete_locked(status);
    pthread_mutex_unlock(&lock);
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
    pthread_mutex_lock(&lock);
    disks_open--;
    events_open--;
    pthread_mutex_unlock(&lock);
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

/* Every call comes through here: counted, held, answered. */
static DWORD
enter_locked(enum function function)
{
    calls[function]++;
    inside++;
    while (held == (int)function) {
        pthread_cond_wait(&changed, &lock);
    }
    inside--;
    return answers[function];
}

static DWORD
enter(enum function function)
{
    pthread_mutex_lock(&lock);
    DWORD code = enter_locked(function);
    pthread_mutex_unlock(&lock);
    return code;
}

static BOOL
as_bool(DWORD code)
{
    last_error = code;
    return code == ERROR_SUCCESS;
}

static HANDLE
new_object_locked(bool is_event)
{
    struct object *object = calloc(1, sizeof(*object));
    if (object == NULL) {
        abort();
    }
    object->is_event = is_event;
    object->fd = is_event ? eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC) : -1;
    *(is_event ? &events_open : &disks_open) += 1;
    return object;
}

static void
record_text(uint16_t *out, PCWSTR text)
{
    for (size_t i = 0; i < PATH_UNITS && (i == 0 || text[i - 1]); i++) {
        out[i] = text[i];
    }
}

static void
pend_locked(OVERLAPPED *overlapped, DWORD code)
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
    pthread_mutex_lock(&lock);
    struct recorded *out = &double_recorded;
    out->device_id = type->DeviceId;
    memcpy(out->vendor_id, &type->VendorId, sizeof(out->vendor_id));
    out->access_mask = (uint32_t)mask;
    out->open_flags = (uint32_t)flags;
    out->has_open_parameters = parameters != NULL;
    if (parameters != NULL) {
        memcpy(out->open_parameters, parameters, sizeof(*parameters));
    }
    record_text(out->path, path);
    DWORD code = enter_locked(OPEN);
    if (code == ERROR_SUCCESS) {
        *handle = new_object_locked(false);
    }
    pthread_mutex_unlock(&lock);
    return code;
}

/* The length of the self-relative descriptors of the tests: they end with
 * their DACL. */
static size_t
descriptor_size(const uint8_t *descriptor)
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
    pthread_mutex_lock(&lock);
    struct recorded *out = &double_recorded;
    out->attach_flags = (uint32_t)flags;
    out->provider_specific_flags = provider;
    out->has_attach_parameters = parameters != NULL;
    if (parameters != NULL) {
        memcpy(out->attach_parameters, parameters, sizeof(*parameters));
    }
    out->has_descriptor = descriptor != NULL;
    if (descriptor != NULL) {
        memcpy(out->descriptor, descriptor, descriptor_size(descriptor));
    }
    DWORD code = enter_locked(ATTACH);
    pend_locked(overlapped, code);
    pthread_mutex_unlock(&lock);
    return code;
}

DWORD WINAPI
DetachVirtualDisk(HANDLE handle, DETACH_VIRTUAL_DISK_FLAG flags,
                  ULONG provider)
{
    (void)handle;
    pthread_mutex_lock(&lock);
    double_recorded.detach_flags = (uint32_t)flags;
    double_recorded.detach_provider_flags = provider;
    DWORD code = enter_locked(DETACH);
    pthread_mutex_unlock(&lock);
    return code;
}

/* Gives out the output, or the size it has by now. */
static DWORD
query(enum function function, ULONG *size, void *buffer, size_t offset)
{
    pthread_mutex_lock(&lock);
    DWORD code = enter_locked(function);
    uint32_t needed = (uint32_t)(output_size + offset);
    if (*size > double_recorded.largest_query) {
        double_recorded.largest_query = *size;
    }
    if (code == ERROR_SUCCESS && *size < needed) {
        code = too_small;
        output_size += output_growth;
        output = realloc(output, output_size);
        if (output == NULL) {
            abort();
        }
        memset(output + needed - offset, 0, output_growth);
    }
    else if (code == ERROR_SUCCESS && output_size > 0) {
        memcpy((uint8_t *)buffer + offset, output, output_size);
    }
    *size = needed;
    pthread_mutex_unlock(&lock);
    return code;
}

DWORD WINAPI
GetVirtualDiskPhysicalPath(HANDLE handle, PULONG size, PWSTR path)
{
    (void)handle;
    return query(PHYSICAL_PATH, size, path, 0);
}

DWORD WINAPI
GetAllAttachedVirtualDiskPhysicalPaths(PULONG size, PWSTR paths)
{
    return query(ALL_PATHS, size, paths, 0);
}

/* The output is what follows the version: the union. */
DWORD WINAPI
GetVirtualDiskInformation(HANDLE handle, PULONG size,
                          PGET_VIRTUAL_DISK_INFO info, PULONG used)
{
    (void)handle;
    (void)used;
    return query(INFORMATION, size, info, 8);
}

DWORD WINAPI
AddVirtualDiskParent(HANDLE handle, PCWSTR path)
{
    (void)handle;
    pthread_mutex_lock(&lock);
    record_text(double_recorded.parent_path, path);
    DWORD code = enter_locked(ADD_PARENT);
    pthread_mutex_unlock(&lock);
    return code;
}

/* Begins the record of a call.  The lock is held from here to answer(). */
static struct given *
given_locked(uint32_t flags, const void *parameters, size_t size)
{
    struct given *out = &double_given;
    pthread_mutex_lock(&lock);
    memset(out, 0, sizeof(*out));
    kept_count = 0;
    out->flags = flags;
    if (parameters != NULL) {
        out->parameters_size = (uint32_t)size;
        memcpy(out->parameters, parameters, size);
        keep_locked(parameters, size);
    }
    return out;
}

static void
give_text(struct given *out, PCWSTR text)
{
    uint16_t *copy = out->texts[out->texts_count];
    record_text(copy, text);
    out->texts_count++;
    size_t units = 0;
    while (units < PATH_UNITS && copy[units] != 0) {
        units++;
    }
    keep_locked(text, units * sizeof(*copy));
}

/* Replaces the pointer at an offset into the parameters by its number. */
static void
give_member(struct given *out, size_t offset)
{
    PCWSTR text;
    memcpy(&text, out->parameters + offset, sizeof(text));
    if (text != NULL) {
        give_text(out, text);
        uintptr_t number = out->texts_count;
        memcpy(out->parameters + offset, &number, sizeof(number));
    }
}

/* The end of a call whose record was begun. */
static DWORD
answer(enum function function, struct given *out, OVERLAPPED *overlapped)
{
    out->overlapped = overlapped != NULL;
    DWORD code = enter_locked(function);
    pend_locked(overlapped, code);
    pthread_mutex_unlock(&lock);
    return code;
}

static void
give_create_texts(struct given *out,
                  const CREATE_VIRTUAL_DISK_PARAMETERS *parameters)
{
    typedef CREATE_VIRTUAL_DISK_PARAMETERS type;
    if (parameters->Version == CREATE_VIRTUAL_DISK_VERSION_1) {
        give_member(out, offsetof(type, Version1.ParentPath));
        give_member(out, offsetof(type, Version1.SourcePath));
        return;
    }
    give_member(out, offsetof(type, Version2.ParentPath));
    give_member(out, offsetof(type, Version2.SourcePath));
    if (parameters->Version >= CREATE_VIRTUAL_DISK_VERSION_3) {
        give_member(out, offsetof(type, Version3.SourceLimitPath));
    }
}

DWORD WINAPI
CreateVirtualDisk(PVIRTUAL_STORAGE_TYPE type, PCWSTR path,
                  VIRTUAL_DISK_ACCESS_MASK mask,
                  PSECURITY_DESCRIPTOR descriptor,
                  CREATE_VIRTUAL_DISK_FLAG flags, ULONG provider,
                  PCREATE_VIRTUAL_DISK_PARAMETERS parameters,
                  LPOVERLAPPED overlapped, PHANDLE handle)
{
    struct given *out =
        given_locked((uint32_t)flags, parameters, sizeof(*parameters));
    memcpy(out->storage_type, type, sizeof(*type));
    keep_locked(type, sizeof(*type));
    out->access_mask = (uint32_t)mask;
    out->provider_specific_flags = provider;
    out->has_descriptor = descriptor != NULL;
    if (descriptor != NULL) {
        memcpy(out->descriptor, descriptor, descriptor_size(descriptor));
        keep_locked(descriptor, descriptor_size(descriptor));
    }
    give_text(out, path);
    give_create_texts(out, parameters);
    out->overlapped = overlapped != NULL;
    DWORD code = enter_locked(CREATE);
    pend_locked(overlapped, code);
    if (code == ERROR_SUCCESS ||
        (overlapped != NULL && code == ERROR_IO_PENDING)) {
        *handle = new_object_locked(false);
    }
    pthread_mutex_unlock(&lock);
    return code;
}

DWORD WINAPI
CompactVirtualDisk(HANDLE handle, COMPACT_VIRTUAL_DISK_FLAG flags,
                   PCOMPACT_VIRTUAL_DISK_PARAMETERS parameters,
                   LPOVERLAPPED overlapped)
{
    (void)handle;
    return answer(
        COMPACT,
        given_locked((uint32_t)flags, parameters, sizeof(*parameters)),
        overlapped);
}

DWORD WINAPI
MergeVirtualDisk(HANDLE handle, MERGE_VIRTUAL_DISK_FLAG flags,
                 PMERGE_VIRTUAL_DISK_PARAMETERS parameters,
                 LPOVERLAPPED overlapped)
{
    (void)handle;
    return answer(
        MERGE, given_locked((uint32_t)flags, parameters, sizeof(*parameters)),
        overlapped);
}

DWORD WINAPI
ExpandVirtualDisk(HANDLE handle, EXPAND_VIRTUAL_DISK_FLAG flags,
                  PEXPAND_VIRTUAL_DISK_PARAMETERS parameters,
                  LPOVERLAPPED overlapped)
{
    (void)handle;
    return answer(
        EXPAND, given_locked((uint32_t)flags, parameters, sizeof(*parameters)),
        overlapped);
}

DWORD WINAPI
ResizeVirtualDisk(HANDLE handle, RESIZE_VIRTUAL_DISK_FLAG flags,
                  PRESIZE_VIRTUAL_DISK_PARAMETERS parameters,
                  LPOVERLAPPED overlapped)
{
    (void)handle;
    return answer(
        RESIZE, given_locked((uint32_t)flags, parameters, sizeof(*parameters)),
        overlapped);
}

DWORD WINAPI
MirrorVirtualDisk(HANDLE handle, MIRROR_VIRTUAL_DISK_FLAG flags,
                  PMIRROR_VIRTUAL_DISK_PARAMETERS parameters,
                  LPOVERLAPPED overlapped)
{
    (void)handle;
    struct given *out =
        given_locked((uint32_t)flags, parameters, sizeof(*parameters));
    give_member(out, offsetof(MIRROR_VIRTUAL_DISK_PARAMETERS,
                              Version1.MirrorVirtualDiskPath));
    return answer(MIRROR, out, overlapped);
}

DWORD WINAPI
BreakMirrorVirtualDisk(HANDLE handle)
{
    (void)handle;
    return enter(BREAK_MIRROR);
}

DWORD WINAPI
ForkVirtualDisk(HANDLE handle, FORK_VIRTUAL_DISK_FLAG flags,
                const FORK_VIRTUAL_DISK_PARAMETERS *parameters,
                LPOVERLAPPED overlapped)
{
    (void)handle;
    struct given *out =
        given_locked((uint32_t)flags, parameters, sizeof(*parameters));
    give_member(out, offsetof(FORK_VIRTUAL_DISK_PARAMETERS,
                              Version1.ForkedVirtualDiskPath));
    return answer(FORK, out, overlapped);
}

DWORD WINAPI
CompleteForkVirtualDisk(HANDLE handle)
{
    (void)handle;
    return enter(COMPLETE_FORK);
}

DWORD WINAPI
SetVirtualDiskInformation(HANDLE handle, PSET_VIRTUAL_DISK_INFO info)
{
    (void)handle;
    struct given *out = given_locked(0, info, sizeof(*info));
    if (info->Version == SET_VIRTUAL_DISK_INFO_PARENT_PATH) {
        give_member(out, offsetof(SET_VIRTUAL_DISK_INFO, ParentFilePath));
    }
    else if (info->Version == SET_VIRTUAL_DISK_INFO_PARENT_PATH_WITH_DEPTH) {
        give_member(out, offsetof(SET_VIRTUAL_DISK_INFO,
                                  ParentPathWithDepthInfo.ParentFilePath));
    }
    else if (info->Version == SET_VIRTUAL_DISK_INFO_PARENT_LOCATOR) {
        give_member(out, offsetof(SET_VIRTUAL_DISK_INFO,
                                  ParentLocator.ParentFilePath));
    }
    return answer(SET_INFORMATION, out, NULL);
}

/* The output is the items. */
DWORD WINAPI
EnumerateVirtualDiskMetadata(HANDLE handle, PULONG count, GUID *items)
{
    (void)handle;
    ULONG size = *count * (ULONG)sizeof(GUID);
    DWORD code = query(ENUMERATE_METADATA, &size, items, 0);
    *count = size / (ULONG)sizeof(GUID);
    return code;
}

DWORD WINAPI
GetVirtualDiskMetadata(HANDLE handle, const GUID *item, PULONG size,
                       PVOID content)
{
    (void)handle;
    struct given *out = given_locked(0, NULL, 0);
    memcpy(out->guid, item, sizeof(*item));
    pthread_mutex_unlock(&lock);
    return query(GET_METADATA, size, content, 0);
}

/* The content is recorded as the parameters are. */
DWORD WINAPI
SetVirtualDiskMetadata(HANDLE handle, const GUID *item, ULONG size,
                       const void *content)
{
    (void)handle;
    size_t shown = size < PARAMETER_BYTES ? size : PARAMETER_BYTES;
    struct given *out = given_locked(0, content, shown);
    memcpy(out->guid, item, sizeof(*item));
    out->numbers[0] = size;
    return answer(SET_METADATA, out, NULL);
}

DWORD WINAPI
DeleteVirtualDiskMetadata(HANDLE handle, const GUID *item)
{
    (void)handle;
    struct given *out = given_locked(0, NULL, 0);
    memcpy(out->guid, item, sizeof(*item));
    return answer(DELETE_METADATA, out, NULL);
}

HANDLE WINAPI
CreateFileW(LPCWSTR path, DWORD access, DWORD share,
            LPSECURITY_ATTRIBUTES attributes, DWORD disposition,
            DWORD flags_and_attributes, HANDLE template)
{
    struct given *out = given_locked(flags_and_attributes, NULL, 0);
    out->access_mask = access;
    out->numbers[0] = share;
    out->numbers[1] = disposition;
    out->has_descriptor = attributes != NULL || template != NULL;
    give_text(out, path);
    DWORD code = enter_locked(CREATE_FILE);
    HANDLE handle =
        as_bool(code) ? new_object_locked(false) : INVALID_HANDLE_VALUE;
    pthread_mutex_unlock(&lock);
    return handle;
}

/* Texts in entries of version 2 are offsets into the output, made pointers
 * here; greater numbers stay what they are. */
static void
relocate(STORAGE_DEPENDENCY_INFO *info)
{
    size_t given =
        (output_size - sizeof(ULONG)) / sizeof(*info->Version2Entries);
    for (ULONG i = 0; i < info->NumberEntries && i < given; i++) {
        PWSTR *texts = &info->Version2Entries[i].DependencyDeviceName;
        for (size_t k = 0; k < 4; k++) {
            uintptr_t offset = (uintptr_t)texts[k];
            if (offset != 0 && offset < 1u << 20) {
                texts[k] = (PWSTR)(void *)((char *)info + offset);
            }
        }
    }
}

/* The output is what follows the version. */
DWORD WINAPI
GetStorageDependencyInformation(HANDLE handle,
                                GET_STORAGE_DEPENDENCY_FLAG flags, ULONG size,
                                PSTORAGE_DEPENDENCY_INFO info, PULONG used)
{
    (void)handle;
    uint32_t version = (uint32_t)info->Version;
    pthread_mutex_lock(&lock);
    double_recorded.dependency_flags = (uint32_t)flags;
    double_recorded.dependency_version = version;
    pthread_mutex_unlock(&lock);
    ULONG moved = size;
    DWORD code = query(DEPENDENCY, &moved, info, sizeof(version));
    *used = moved;
    if (code == ERROR_SUCCESS && version == 2) {
        relocate(info);
    }
    return code;
}

/* The output is the ranges, more of them than fit included in the count. */
DWORD WINAPI
QueryChangesVirtualDisk(HANDLE handle, PCWSTR identifier, ULONG64 offset,
                        ULONG64 length, QUERY_CHANGES_VIRTUAL_DISK_FLAG flags,
                        PQUERY_CHANGES_VIRTUAL_DISK_RANGE ranges, PULONG count,
                        PULONG64 processed)
{
    (void)handle;
    struct given *out = given_locked((uint32_t)flags, NULL, 0);
    out->numbers[0] = offset;
    out->numbers[1] = length;
    out->parameters_size = *count;
    give_text(out, identifier);
    DWORD code = enter_locked(QUERY_CHANGES);
    uint32_t room = *count * (uint32_t)sizeof(*ranges);
    if (code == ERROR_SUCCESS && output_size > 0) {
        memcpy(ranges, output, output_size < room ? output_size : room);
    }
    *count = output_size / (uint32_t)sizeof(*ranges);
    *processed = double_progress.current;
    pthread_mutex_unlock(&lock);
    return code;
}

DWORD WINAPI
TakeSnapshotVhdSet(HANDLE handle,
                   const PTAKE_SNAPSHOT_VHDSET_PARAMETERS parameters,
                   TAKE_SNAPSHOT_VHDSET_FLAG flags)
{
    (void)handle;
    return answer(
        TAKE_SNAPSHOT,
        given_locked((uint32_t)flags, parameters, sizeof(*parameters)), NULL);
}

DWORD WINAPI
DeleteSnapshotVhdSet(HANDLE handle,
                     const PDELETE_SNAPSHOT_VHDSET_PARAMETERS parameters,
                     DELETE_SNAPSHOT_VHDSET_FLAG flags)
{
    (void)handle;
    return answer(
        DELETE_SNAPSHOT,
        given_locked((uint32_t)flags, parameters, sizeof(*parameters)), NULL);
}

DWORD WINAPI
ModifyVhdSet(HANDLE handle, const PMODIFY_VHDSET_PARAMETERS parameters,
             MODIFY_VHDSET_FLAG flags)
{
    (void)handle;
    struct given *out =
        given_locked((uint32_t)flags, parameters, sizeof(*parameters));
    if (parameters->Version == MODIFY_VHDSET_SNAPSHOT_PATH) {
        give_member(out, offsetof(MODIFY_VHDSET_PARAMETERS,
                                  SnapshotPath.SnapshotFilePath));
    }
    else if (parameters->Version == MODIFY_VHDSET_DEFAULT_SNAPSHOT_PATH) {
        give_member(out, offsetof(MODIFY_VHDSET_PARAMETERS, DefaultFilePath));
    }
    return answer(MODIFY_SET, out, NULL);
}

DWORD WINAPI
ApplySnapshotVhdSet(HANDLE handle,
                    const PAPPLY_SNAPSHOT_VHDSET_PARAMETERS parameters,
                    APPLY_SNAPSHOT_VHDSET_FLAG flags)
{
    (void)handle;
    return answer(
        APPLY_SNAPSHOT,
        given_locked((uint32_t)flags, parameters, sizeof(*parameters)), NULL);
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
    pthread_mutex_lock(&lock);
    record_scsi(parameters);
    double_recorded.scsi_flags = (uint32_t)flags;
    DWORD code = enter_locked(RAW_SCSI);
    uint32_t length = parameters->Version1.DataTransferLength;
    if (code == ERROR_SUCCESS && parameters->Version1.DataIn &&
        output_size > 0) {
        memcpy(parameters->Version1.DataBuffer, output,
               output_size < length ? output_size : length);
    }
    if (code == ERROR_SUCCESS) {
        memcpy(parameters->Version1.SenseInfo, double_scsi.sense,
               parameters->Version1.SenseInfoLength);
        response->Version1.ScsiStatus = double_scsi.status;
        response->Version1.SenseInfoLength = double_scsi.sense_length;
        response->Version1.DataTransferLength = double_scsi.transferred;
    }
    pthread_mutex_unlock(&lock);
    return code;
}

DWORD WINAPI
GetVirtualDiskOperationProgress(HANDLE handle, LPOVERLAPPED overlapped,
                                PVIRTUAL_DISK_PROGRESS progress)
{
    (void)handle;
    DWORD code = enter(PROGRESS);
    pthread_mutex_lock(&lock);
    bool running = pending == overlapped;
    pthread_mutex_unlock(&lock);
    progress->OperationStatus = running ? ERROR_IO_PENDING : ERROR_SUCCESS;
    progress->CurrentValue = double_progress.current;
    progress->CompletionValue = double_progress.completion;
    return code;
}

BOOL WINAPI
CloseHandle(HANDLE handle)
{
    struct object *object = handle;
    pthread_mutex_lock(&lock);
    DWORD code = object->is_event ? ERROR_SUCCESS : enter_locked(CLOSE);
    *(object->is_event ? &events_open : &disks_open) -= 1;
    pthread_mutex_unlock(&lock);
    if (object->is_event) {
        close(object->fd);
    }
    free(object);
    return as_bool(code);
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
    pthread_mutex_lock(&lock);
    DWORD code = enter_locked(CREATE_EVENT);
    if (as_bool(code)) {
        event = new_object_locked(true);
    }
    pthread_mutex_unlock(&lock);
    return event;
}

static BOOL
change_event(HANDLE handle, bool set)
{
    pthread_mutex_lock(&lock);
    change_event_locked(handle, set);
    pthread_mutex_unlock(&lock);
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
    return as_bool(enter(DESCRIPTOR)) ? ((struct object *)handle)->fd : -1;
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
    pthread_mutex_lock(&lock);
    DWORD code = length > 0 ? enter_locked(WAIT) : ERROR_SUCCESS;
    while (code == ERROR_SUCCESS && !event->set && length > 0 &&
           pthread_cond_timedwait(&changed, &lock, &until) != ETIMEDOUT) {
    }
    bool set = event->set;
    pthread_mutex_unlock(&lock);
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
    pthread_mutex_lock(&lock);
    DWORD code = enter_locked(CANCEL);
    if (code == ERROR_SUCCESS && pending != overlapped) {
        code = ERROR_NOT_FOUND;
    }
    else if (code == ERROR_SUCCESS && cancellable) {
        complete_locked((uint32_t)CANCELLED);
    }
    pthread_mutex_unlock(&lock);
    return as_bool(code);
}

/* Of the NTSTATUS values only those that the tests use. */
BOOL WINAPI
GetOverlappedResult(HANDLE handle, LPOVERLAPPED overlapped, LPDWORD count,
                    BOOL wait)
{
    (void)handle;
    (void)wait;
    *count = 0;
    pthread_mutex_lock(&lock);
    uint32_t status = (uint32_t)overlapped->Internal;
    pthread_mutex_unlock(&lock);
    if (status == STATUS_PENDING) {
        return as_bool(ERROR_IO_INCOMPLETE);
    }
    if (status == (uint32_t)CANCELLED) {
        return as_bool(ERROR_OPERATION_ABORTED);
    }
    return as_bool(status);
}

/* "D:" is a descriptor without anything; other text is refused. */
BOOL WINAPI
ConvertStringSecurityDescriptorToSecurityDescriptorW(
    LPCWSTR text, DWORD revision, PSECURITY_DESCRIPTOR *descriptor,
    PULONG size)
{
    DWORD code = enter(CONVERT);
    if (code == ERROR_SUCCESS &&
        (revision != SDDL_REVISION_1 || text[0] != 'D' || text[1] != ':')) {
        code = ERROR_INVALID_PARAMETER;
    }
    if (code == ERROR_SUCCESS) {
        uint8_t *bytes = calloc(1, 20);
        if (bytes == NULL) {
            abort();
        }
        bytes[0] = 1;
        bytes[3] = 0x80;
        *descriptor = bytes;
        *size = 20;
    }
    return as_bool(code);
}

HLOCAL WINAPI
LocalFree(HLOCAL memory)
{
    pthread_mutex_lock(&lock);
    double_recorded.descriptors_freed++;
    pthread_mutex_unlock(&lock);
    free(memory);
    return NULL;
}
