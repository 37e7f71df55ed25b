/*
 * A recording virtdisk.dll for Windows x64: the life of a disk and what is
 * known about it.  The other functions are in operations.c, metadata.c and
 * windows10.c.
 */
#include "call.h"

#include <string.h>

enum {
    SIZE_OPEN_VIRTUAL_DISK_PARAMETERS = 44,
    SIZE_CREATE_VIRTUAL_DISK_PARAMETERS = 184,
    SIZE_ATTACH_VIRTUAL_DISK_PARAMETERS = 24,
    SIZE_GET_VIRTUAL_DISK_INFO = 32,
    SIZE_SET_VIRTUAL_DISK_INFO = 32,
    /* Of STORAGE_DEPENDENCY_INFO, what the caller fills. */
    SIZE_STORAGE_DEPENDENCY_INFO_HEAD = 8,
    SIZE_STORAGE_DEPENDENCY_INFO_TYPE_2 = 64,
};

/* ------------------------------------------------------ open and create */

/* A new handle; after a failure one that must be left alone. */
static void
give_handle(struct call *call, HANDLE *handle)
{
    bool success = call->answer.result == ERROR_SUCCESS;

    *handle = success ? disk_create() : call_decoy();
    record_number(&call->record, "Handle", (uint64_t)(uintptr_t)*handle);
}

EXPORT
OpenVirtualDisk(const void *type, const WCHAR *path, DWORD mask, DWORD flags,
                const void *parameters, HANDLE *handle)
{
    struct call call;

    call_begin_versioned(&call, "OpenVirtualDisk", parameters);
    record_bytes(&call.record, "VirtualStorageType", type,
                 SIZE_VIRTUAL_STORAGE_TYPE);
    record_text(&call.record, "Path", path);
    record_number(&call.record, "VirtualDiskAccessMask", mask);
    record_number(&call.record, "Flags", flags);
    record_bytes(&call.record, "Parameters", parameters,
                 SIZE_OPEN_VIRTUAL_DISK_PARAMETERS);
    give_handle(&call, handle);
    return call_end(&call, call.answer.result);
}

/* The paths of CREATE_VIRTUAL_DISK_PARAMETERS: version 2 put a member
 * before them, version 3 one more path behind. */
static void
record_create_paths(struct call *call, const void *parameters)
{
    DWORD version = 0;

    if (parameters == NULL ||
        !record_is_readable(parameters, SIZE_CREATE_VIRTUAL_DISK_PARAMETERS)) {
        return;
    }
    memcpy(&version, parameters, sizeof(version));
    bool first = version == 1;
    call_text_member(call, "ParentPath", parameters, first ? 40 : 48);
    call_text_member(call, "SourcePath", parameters, first ? 48 : 56);
    if (version >= 3) {
        call_text_member(call, "SourceLimitPath", parameters, 128);
    }
}

EXPORT
CreateVirtualDisk(const void *type, const WCHAR *path, DWORD mask,
                  void *descriptor, DWORD flags, ULONG provider_flags,
                  const void *parameters, OVERLAPPED *overlapped,
                  HANDLE *handle)
{
    struct call call;

    call_begin_versioned(&call, "CreateVirtualDisk", parameters);
    record_bytes(&call.record, "VirtualStorageType", type,
                 SIZE_VIRTUAL_STORAGE_TYPE);
    record_text(&call.record, "Path", path);
    record_number(&call.record, "VirtualDiskAccessMask", mask);
    call_descriptor(&call, descriptor);
    record_number(&call.record, "Flags", flags);
    record_number(&call.record, "ProviderSpecificFlags", provider_flags);
    record_bytes(&call.record, "Parameters", parameters,
                 SIZE_CREATE_VIRTUAL_DISK_PARAMETERS);
    record_create_paths(&call, parameters);
    call_overlapped(&call, overlapped);
    give_handle(&call, handle);
    DWORD result = call_go_on(&call, call.answer.result, *handle, overlapped,
                              parameters, SIZE_CREATE_VIRTUAL_DISK_PARAMETERS);
    return call_end(&call, result);
}

/* ------------------------------------------------------ attach and detach */

EXPORT
AttachVirtualDisk(HANDLE handle, void *descriptor, DWORD flags,
                  ULONG provider_flags, const void *parameters,
                  OVERLAPPED *overlapped)
{
    struct call call;

    call_begin_versioned(&call, "AttachVirtualDisk", parameters);
    DWORD result = call_handle(&call, handle);
    call_descriptor(&call, descriptor);
    record_number(&call.record, "Flags", flags);
    record_number(&call.record, "ProviderSpecificFlags", provider_flags);
    record_bytes(&call.record, "Parameters", parameters,
                 SIZE_ATTACH_VIRTUAL_DISK_PARAMETERS);
    call_overlapped(&call, overlapped);
    result = call_go_on(&call, result, handle, overlapped, parameters,
                        SIZE_ATTACH_VIRTUAL_DISK_PARAMETERS);
    return call_end(&call, result);
}

EXPORT
DetachVirtualDisk(HANDLE handle, DWORD flags, ULONG provider_flags)
{
    struct call call;

    call_begin(&call, "DetachVirtualDisk");
    DWORD result = call_handle(&call, handle);
    record_number(&call.record, "Flags", flags);
    record_number(&call.record, "ProviderSpecificFlags", provider_flags);
    return call_end(&call, result);
}

/* ------------------------------------------------------------------ paths */

EXPORT
GetVirtualDiskPhysicalPath(HANDLE handle, ULONG *size, WCHAR *buffer)
{
    struct call call;

    call_begin(&call, "GetVirtualDiskPhysicalPath");
    DWORD result = call_handle(&call, handle);
    record_number(&call.record, "DiskPathSizeInBytes", *size);
    record_bool(&call.record, "DiskPath", buffer != NULL);
    if (result == ERROR_SUCCESS) {
        result = call_fill(&call, size, buffer);
    }
    return call_end(&call, result);
}

EXPORT
GetAllAttachedVirtualDiskPhysicalPaths(ULONG *size, WCHAR *buffer)
{
    struct call call;

    call_begin(&call, "GetAllAttachedVirtualDiskPhysicalPaths");
    DWORD result = call.answer.result;
    record_number(&call.record, "PathsBufferSizeInBytes", *size);
    record_bool(&call.record, "PathsBuffer", buffer != NULL);
    if (result == ERROR_SUCCESS) {
        result = call_fill(&call, size, buffer);
    }
    return call_end(&call, result);
}

/* ------------------------------------------------------------ information */

EXPORT
GetVirtualDiskInformation(HANDLE handle, ULONG *size, void *info, ULONG *used)
{
    struct call call;

    call_begin_versioned(&call, "GetVirtualDiskInformation", info);
    DWORD result = call_handle(&call, handle);
    record_number(&call.record, "VirtualDiskInfoSize", *size);
    record_bytes(&call.record, "VirtualDiskInfo", info,
                 SIZE_GET_VIRTUAL_DISK_INFO);
    record_bool(&call.record, "SizeUsed", used != NULL);
    if (result == ERROR_SUCCESS) {
        result = call_fill(&call, size, info);
    }
    if (used != NULL) {
        *used = *size;
    }
    return call_end(&call, result);
}

/* The classes of SET_VIRTUAL_DISK_INFO_VERSION that hold a path, and where. */
static void
record_info_path(struct call *call, const void *info)
{
    DWORD version = 0;

    if (info == NULL ||
        !record_is_readable(info, SIZE_SET_VIRTUAL_DISK_INFO)) {
        return;
    }
    memcpy(&version, info, sizeof(version));
    size_t offset = version == 1 ? 8 : version == 3 ? 16 : 24;
    if (version == 1 || version == 3 || version == 7) {
        call_text_member(call, "ParentFilePath", info, offset);
    }
}

EXPORT
SetVirtualDiskInformation(HANDLE handle, const void *info)
{
    struct call call;

    call_begin_versioned(&call, "SetVirtualDiskInformation", info);
    DWORD result = call_handle(&call, handle);
    record_bytes(&call.record, "VirtualDiskInfo", info,
                 SIZE_SET_VIRTUAL_DISK_INFO);
    record_info_path(&call, info);
    return call_end(&call, result);
}

/* Entries of version 2 hold four pointers each; in the script they are
 * offsets from the structure's start. */
static void
relocate_entries(unsigned char *info, size_t size)
{
    DWORD head[2];

    memcpy(head, info, sizeof(head));
    for (DWORD i = 0; head[0] == 2 && i < head[1]; i++) {
        for (size_t member = 32; member < 64; member += sizeof(void *)) {
            size_t place = SIZE_STORAGE_DEPENDENCY_INFO_HEAD +
                           i * SIZE_STORAGE_DEPENDENCY_INFO_TYPE_2 + member;
            uintptr_t offset;

            if (place + sizeof offset > size) {
                return;
            }
            memcpy(&offset, info + place, sizeof(offset));
            offset = offset != 0 ? (uintptr_t)info + offset : 0;
            memcpy(info + place, &offset, sizeof(offset));
        }
    }
}

EXPORT
GetStorageDependencyInformation(HANDLE object, DWORD flags, ULONG size,
                                void *info, ULONG *used)
{
    DWORD information;
    struct call call;

    call_begin_versioned(&call, "GetStorageDependencyInformation", info);
    DWORD result = call.answer.result;
    record_number(&call.record, "ObjectHandle", (uint64_t)(uintptr_t)object);
    record_bool(&call.record, "ObjectHandleIsOpen",
                GetHandleInformation(object, &information));
    record_number(&call.record, "Flags", flags);
    record_number(&call.record, "StorageDependencyInfoSize", size);
    record_bytes(&call.record, "StorageDependencyInfo", info,
                 SIZE_STORAGE_DEPENDENCY_INFO_HEAD);
    record_bool(&call.record, "SizeUsed", used != NULL);
    if (result == ERROR_SUCCESS) {
        result = call_fill(&call, &size, info);
    }
    if (result == ERROR_SUCCESS && size >= SIZE_STORAGE_DEPENDENCY_INFO_HEAD) {
        relocate_entries(info, size);
    }
    if (used != NULL) {
        *used = size;
    }
    return call_end(&call, result);
}

/* ---------------------------------------------------------------- parents */

EXPORT
AddVirtualDiskParent(HANDLE handle, const WCHAR *path)
{
    struct call call;

    call_begin(&call, "AddVirtualDiskParent");
    DWORD result = call_handle(&call, handle);
    record_text(&call.record, "ParentPath", path);
    return call_end(&call, result);
}
