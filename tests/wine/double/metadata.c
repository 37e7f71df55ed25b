/*
 * The four functions of user metadata.
 */
#include "call.h"

EXPORT
EnumerateVirtualDiskMetadata(HANDLE handle, ULONG *count, void *items)
{
    struct call call;

    call_begin(&call, "EnumerateVirtualDiskMetadata");
    DWORD result = call_handle(&call, handle);
    record_number(&call.record, "NumberOfItems", *count);
    record_bool(&call.record, "Items", items != NULL);
    if (result == ERROR_SUCCESS) {
        ULONG size = *count * SIZE_GUID;
        result = call_fill(&call, &size, items);
        *count = size / SIZE_GUID;
    }
    return call_end(&call, result);
}

EXPORT
GetVirtualDiskMetadata(HANDLE handle, const void *item, ULONG *size,
                       void *data)
{
    struct call call;

    call_begin(&call, "GetVirtualDiskMetadata");
    DWORD result = call_handle(&call, handle);
    record_bytes(&call.record, "Item", item, SIZE_GUID);
    record_number(&call.record, "MetaDataSize", *size);
    record_bool(&call.record, "MetaData", data != NULL);
    if (result == ERROR_SUCCESS) {
        result = call_fill(&call, size, data);
    }
    return call_end(&call, result);
}

EXPORT
SetVirtualDiskMetadata(HANDLE handle, const void *item, ULONG size,
                       const void *data)
{
    struct call call;

    call_begin(&call, "SetVirtualDiskMetadata");
    DWORD result = call_handle(&call, handle);
    record_bytes(&call.record, "Item", item, SIZE_GUID);
    record_number(&call.record, "MetaDataSize", size);
    record_bytes(&call.record, "MetaData", data, size);
    return call_end(&call, result);
}

EXPORT
DeleteVirtualDiskMetadata(HANDLE handle, const void *item)
{
    struct call call;

    call_begin(&call, "DeleteVirtualDiskMetadata");
    DWORD result = call_handle(&call, handle);
    record_bytes(&call.record, "Item", item, SIZE_GUID);
    return call_end(&call, result);
}
