/*
 * The functions of the double that came after opening and attaching: what
 * they are given is in double_given, text replaced by numbers.
 */
#include <stdlib.h>
#include <string.h>

#include "double.h"

/* Begins the record of a call.  The lock is held from here to answer(). */
static struct given *
given_locked(uint32_t flags, const void *parameters, size_t size)
{
    struct given *out = &double_given;
    pthread_mutex_lock(&double_lock);
    memset(out, 0, sizeof(*out));
    double_keep_nothing_locked();
    out->flags = flags;
    if (parameters != NULL) {
        out->parameters_size = (uint32_t)size;
        memcpy(out->parameters, parameters, size);
        double_keep_locked(parameters, size);
    }
    return out;
}

static void
give_text(struct given *out, PCWSTR text)
{
    uint16_t *copy = out->texts[out->texts_count];
    double_record_text(copy, text);
    out->texts_count++;
    size_t units = 0;
    while (units < PATH_UNITS && copy[units] != 0) {
        units++;
    }
    double_keep_locked(text, units * sizeof(*copy));
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
    DWORD code = double_enter_locked(function);
    double_pend_locked(overlapped, code);
    pthread_mutex_unlock(&double_lock);
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
    double_keep_locked(type, sizeof(*type));
    out->access_mask = (uint32_t)mask;
    out->provider_specific_flags = provider;
    out->has_descriptor = descriptor != NULL;
    if (descriptor != NULL) {
        memcpy(out->descriptor, descriptor,
               double_descriptor_size(descriptor));
        double_keep_locked(descriptor, double_descriptor_size(descriptor));
    }
    give_text(out, path);
    give_create_texts(out, parameters);
    out->overlapped = overlapped != NULL;
    DWORD code = double_enter_locked(CREATE);
    double_pend_locked(overlapped, code);
    if (code == ERROR_SUCCESS ||
        (overlapped != NULL && code == ERROR_IO_PENDING)) {
        *handle = double_new_object_locked(false);
    }
    pthread_mutex_unlock(&double_lock);
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
    return double_enter(BREAK_MIRROR);
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
    return double_enter(COMPLETE_FORK);
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
    DWORD code = double_query(ENUMERATE_METADATA, &size, items, 0);
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
    pthread_mutex_unlock(&double_lock);
    return double_query(GET_METADATA, size, content, 0);
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
    DWORD code = double_enter_locked(CREATE_FILE);
    HANDLE handle = double_as_bool(code) ? double_new_object_locked(false)
                                         : INVALID_HANDLE_VALUE;
    pthread_mutex_unlock(&double_lock);
    return handle;
}

/* Texts in entries of version 2 are offsets into the output, made pointers
 * here; greater numbers stay what they are. */
static void
relocate(STORAGE_DEPENDENCY_INFO *info)
{
    size_t given =
        (double_data_size - sizeof(ULONG)) / sizeof(*info->Version2Entries);
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
    pthread_mutex_lock(&double_lock);
    double_recorded.dependency_flags = (uint32_t)flags;
    double_recorded.dependency_version = version;
    pthread_mutex_unlock(&double_lock);
    ULONG moved = size;
    DWORD code = double_query(DEPENDENCY, &moved, info, sizeof(version));
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
    DWORD code = double_enter_locked(QUERY_CHANGES);
    uint32_t room = *count * (uint32_t)sizeof(*ranges);
    if (code == ERROR_SUCCESS && double_data_size > 0) {
        memcpy(ranges, double_data,
               double_data_size < room ? double_data_size : room);
    }
    *count = double_data_size / (uint32_t)sizeof(*ranges);
    *processed = double_progress.current;
    pthread_mutex_unlock(&double_lock);
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
