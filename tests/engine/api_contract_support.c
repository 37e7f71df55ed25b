/*
 * One good call of each function of virtdisk.h.  See
 * api_contract_support.h.
 *
 * The calls check by themselves that a refusal leaves no output changed, and
 * undo or close what a success has made.
 */
#include "api_contract_support.h"

#include <string.h>
#include <unistd.h>

#include "api_support.h"
#include "check.h"

#define VHDX VIRTUAL_STORAGE_TYPE_DEVICE_VHDX
#define MIB ((uint64_t)1 << 20)
#define ROOM ((ULONG)1 << 16)
#define PLAIN 0 /* no flags */

struct contract contract;

const GUID contract_item = {.Data1 = 1};
static const GUID doomed_item = {.Data1 = 2};
static const GUID new_item = {.Data1 = 3};
static uint8_t room[ROOM];

static const char *
path_of(const char *name)
{
    return check_path(contract.directory, name);
}

/* The argument of that name, unless it is the one to be NULL. */
static void *
pointer(const struct given *given, const char *name, const void *good)
{
    bool missing = given->missing != NULL && strcmp(given->missing, name) == 0;
    return missing ? NULL : (void *)good;
}

/* ---- opening and making ---- */

#define UNTOUCHED ((HANDLE)(uintptr_t)0x77)

static DWORD
close_new(DWORD error, HANDLE handle)
{
    if (error == ERROR_SUCCESS) {
        close_handle(handle);
    }
    else {
        CHECK(handle == UNTOUCHED);
    }
    return error;
}

static DWORD
open_disk(const struct given *given)
{
    VIRTUAL_STORAGE_TYPE type = {.DeviceId = 0};
    OPEN_VIRTUAL_DISK_PARAMETERS parameters = {.Version = given->version};
    HANDLE handle = UNTOUCHED;
    DWORD error =
        OpenVirtualDisk(pointer(given, "VirtualStorageType", &type),
                        pointer(given, "Path", wide(path_of("disk.vhdx"))),
                        VIRTUAL_DISK_ACCESS_NONE, PLAIN, &parameters,
                        pointer(given, "Handle", &handle));
    return close_new(error, handle);
}

static DWORD
create_disk(const struct given *given)
{
    VIRTUAL_STORAGE_TYPE type = {.DeviceId = VHDX};
    CREATE_VIRTUAL_DISK_PARAMETERS parameters = {.Version = given->version};
    HANDLE handle = UNTOUCHED;
    parameters.Version2.MaximumSize = SMALL_BYTES;
    DWORD error = CreateVirtualDisk(
        pointer(given, "VirtualStorageType", &type),
        pointer(given, "Path", wide(path_of("new.vhdx"))),
        VIRTUAL_DISK_ACCESS_NONE, NULL, PLAIN, 0,
        pointer(given, "Parameters", &parameters), given->overlapped,
        pointer(given, "Handle", &handle));
    CHECK_EQ(error == 0 ? 0 : -1, access(path_of("new.vhdx"), F_OK));
    return close_new(error, handle);
}

/* ---- attaching ---- */

static DWORD
attach_disk(const struct given *given)
{
    ATTACH_VIRTUAL_DISK_PARAMETERS parameters = {.Version = given->version};
    DWORD error = AttachVirtualDisk(given->handle, NULL,
                                    ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST, 0,
                                    &parameters, given->overlapped);
    CHECK_EQ(error == 0, is_loaded(contract.disk));
    if (error == ERROR_SUCCESS) {
        CHECK_OK(detach(given->handle));
    }
    return error;
}

static DWORD
detach_disk(const struct given *given)
{
    return DetachVirtualDisk(given->handle, PLAIN, 0);
}

static DWORD
get_path(const struct given *given)
{
    ULONG size = ROOM;
    DWORD error = GetVirtualDiskPhysicalPath(
        given->handle, pointer(given, "DiskPathSizeInBytes", &size),
        pointer(given, "DiskPath", room));
    CHECK_EQ(ROOM, size);
    return error;
}

static DWORD
get_all_paths(const struct given *given)
{
    ULONG size = ROOM;
    return GetAllAttachedVirtualDiskPhysicalPaths(
        pointer(given, "PathsBufferSizeInBytes", &size),
        pointer(given, "PathsBuffer", room));
}

/* ---- information ---- */

static DWORD
get_dependency(const struct given *given)
{
    STORAGE_DEPENDENCY_INFO *info = (STORAGE_DEPENDENCY_INFO *)(void *)room;
    ULONG used = 77;
    info->Version = given->version;
    DWORD error = GetStorageDependencyInformation(
        given->handle, GET_STORAGE_DEPENDENCY_FLAG_NONE, ROOM,
        pointer(given, "StorageDependencyInfo", info), &used);
    CHECK((error == 0) == (used != 77));
    return error;
}

static DWORD
get_information(const struct given *given)
{
    GET_VIRTUAL_DISK_INFO info = {.Version = given->version};
    ULONG size = sizeof(info);
    ULONG used = 77;
    DWORD error = GetVirtualDiskInformation(
        given->handle, pointer(given, "VirtualDiskInfoSize", &size),
        pointer(given, "VirtualDiskInfo", &info), &used);
    CHECK_EQ(sizeof(info), size);
    CHECK((error == 0) == (used != 77));
    return error;
}

static DWORD
set_information(const struct given *given)
{
    SET_VIRTUAL_DISK_INFO info = {.Version = given->version};
    info.VirtualDiskId = new_item;
    return SetVirtualDiskInformation(given->handle,
                                     pointer(given, "VirtualDiskInfo", &info));
}

/* ---- metadata ---- */

static DWORD
enumerate_metadata(const struct given *given)
{
    GUID items[8] = {{.Data1 = 77}};
    ULONG count = 8;
    DWORD error = EnumerateVirtualDiskMetadata(
        given->handle, pointer(given, "NumberOfItems", &count),
        pointer(given, "Items", items));
    CHECK_EQ(error == 0 ? CONTRACT_ITEMS : 8, count);
    CHECK((error == 0) == (items[0].Data1 != 77));
    return error;
}

static DWORD
get_metadata(const struct given *given)
{
    char text[32] = "";
    ULONG size = sizeof(text);
    DWORD error = GetVirtualDiskMetadata(
        given->handle, pointer(given, "Item", &contract_item),
        pointer(given, "MetaDataSize", &size),
        pointer(given, "MetaData", text));
    CHECK_STR(error == 0 ? CONTRACT_METADATA : "", text);
    CHECK_EQ(error == 0 ? strlen(CONTRACT_METADATA) : sizeof(text), size);
    return error;
}

static DWORD
set_metadata(const struct given *given)
{
    return SetVirtualDiskMetadata(given->handle,
                                  pointer(given, "Item", &new_item), 3,
                                  pointer(given, "MetaData", "new"));
}

static DWORD
delete_metadata(const struct given *given)
{
    return DeleteVirtualDiskMetadata(given->handle,
                                     pointer(given, "Item", &doomed_item));
}

/* ---- operations ---- */

static DWORD
get_progress(const struct given *given)
{
    VIRTUAL_DISK_PROGRESS progress = {.OperationStatus = 77};
    DWORD error = GetVirtualDiskOperationProgress(
        given->handle, pointer(given, "Overlapped", &contract.finished),
        pointer(given, "Progress", &progress));
    CHECK_EQ(error == 0 ? 0 : 77, progress.OperationStatus);
    return error;
}

static DWORD
compact_disk(const struct given *given)
{
    COMPACT_VIRTUAL_DISK_PARAMETERS parameters = {.Version = given->version};
    return CompactVirtualDisk(given->handle, PLAIN, &parameters,
                              given->overlapped);
}

static DWORD
merge_disk(const struct given *given)
{
    MERGE_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = given->version,
        .Version2 = {.MergeSourceDepth = 1, .MergeTargetDepth = 2},
    };
    return MergeVirtualDisk(given->handle, PLAIN,
                            pointer(given, "Parameters", &parameters),
                            given->overlapped);
}

static DWORD
expand_disk(const struct given *given)
{
    EXPAND_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = given->version,
        .Version1 = {.NewSize = 16 * MIB},
    };
    return ExpandVirtualDisk(given->handle, PLAIN,
                             pointer(given, "Parameters", &parameters),
                             given->overlapped);
}

static DWORD
resize_disk(const struct given *given)
{
    RESIZE_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = given->version,
        .Version1 = {.NewSize = 32 * MIB},
    };
    return ResizeVirtualDisk(given->handle, PLAIN,
                             pointer(given, "Parameters", &parameters),
                             given->overlapped);
}

/* The good call begins; that the file exists is the operation's error. */
static DWORD
mirror_disk(const struct given *given)
{
    OVERLAPPED usual = {.Internal = 0};
    OVERLAPPED *overlapped =
        given->overlapped != NULL ? given->overlapped : &usual;
    const char16_t *path = wide(path_of("disk.vhdx"));
    DWORD bytes;
    MIRROR_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = given->version,
        .Version1 = {.MirrorVirtualDiskPath =
                         pointer(given, "MirrorVirtualDiskPath", path)},
    };
    DWORD error = MirrorVirtualDisk(given->handle, PLAIN,
                                    pointer(given, "Parameters", &parameters),
                                    pointer(given, "Overlapped", overlapped));
    if (error == ERROR_IO_PENDING) {
        CHECK(!GetOverlappedResult(given->handle, &usual, &bytes, TRUE));
        CHECK_EQ(ERROR_FILE_EXISTS, GetLastError());
    }
    return error;
}

static DWORD
break_mirror(const struct given *given)
{
    return BreakMirrorVirtualDisk(given->handle);
}

static DWORD
add_parent(const struct given *given)
{
    return AddVirtualDiskParent(
        given->handle,
        pointer(given, "ParentPath", wide(path_of("parent.vhdx"))));
}

static DWORD
raw_scsi(const struct given *given)
{
    static uint8_t cdb[6]; /* TEST UNIT READY */
    static uint8_t sense[18];
    RAW_SCSI_VIRTUAL_DISK_RESPONSE response = {.Version = 77};
    RAW_SCSI_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = given->version,
        .Version1 =
            {
                .CdbLength = sizeof(cdb),
                .SenseInfoLength = sizeof(sense),
                .DataTransferLength = ROOM,
                .DataBuffer = pointer(given, "DataBuffer", room),
                .SenseInfo = pointer(given, "SenseInfo", sense),
                .Cdb = pointer(given, "Cdb", cdb),
            },
    };
    DWORD error = RawSCSIVirtualDisk(
        given->handle, pointer(given, "Parameters", &parameters), PLAIN,
        pointer(given, "Response", &response));
    CHECK_EQ(77, response.Version);
    return error;
}

/* ---- what has no published format ---- */

static DWORD
query_changes(const struct given *given)
{
    QUERY_CHANGES_VIRTUAL_DISK_RANGE ranges[1];
    ULONG count = 1;
    ULONG64 processed = 77;
    DWORD error = QueryChangesVirtualDisk(
        given->handle, pointer(given, "ChangeTrackingId", u"rctX:1"), 0, 512,
        PLAIN, pointer(given, "Ranges", ranges),
        pointer(given, "RangeCount", &count),
        pointer(given, "ProcessedLength", &processed));
    CHECK_EQ(1, count);
    CHECK_EQ(77, processed);
    return error;
}

static DWORD
take_snapshot(const struct given *given)
{
    TAKE_SNAPSHOT_VHDSET_PARAMETERS parameters = {.Version = given->version};
    return TakeSnapshotVhdSet(
        given->handle, pointer(given, "Parameters", &parameters), PLAIN);
}

static DWORD
delete_snapshot(const struct given *given)
{
    DELETE_SNAPSHOT_VHDSET_PARAMETERS parameters = {.Version = given->version};
    return DeleteSnapshotVhdSet(
        given->handle, pointer(given, "Parameters", &parameters), PLAIN);
}

static DWORD
modify_set(const struct given *given)
{
    MODIFY_VHDSET_PARAMETERS parameters = {
        .Version = given->version,
        .SnapshotPath = {.SnapshotFilePath =
                             pointer(given, "SnapshotFilePath", u"a.avhdx")},
    };
    return ModifyVhdSet(given->handle,
                        pointer(given, "Parameters", &parameters), PLAIN);
}

static DWORD
apply_snapshot(const struct given *given)
{
    APPLY_SNAPSHOT_VHDSET_PARAMETERS parameters = {.Version = given->version};
    return ApplySnapshotVhdSet(
        given->handle, pointer(given, "Parameters", &parameters), PLAIN);
}

static DWORD
fork_disk(const struct given *given)
{
    OVERLAPPED overlapped = {.Internal = 0};
    FORK_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = given->version,
        .Version1 = {.ForkedVirtualDiskPath = pointer(
                         given, "ForkedVirtualDiskPath", u"fork.vhdx")},
    };
    DWORD error = ForkVirtualDisk(given->handle, PLAIN,
                                  pointer(given, "Parameters", &parameters),
                                  pointer(given, "Overlapped", &overlapped));
    CHECK(HasOverlappedIoCompleted(&overlapped));
    return error;
}

static DWORD
complete_fork(const struct given *given)
{
    return CompleteForkVirtualDisk(given->handle);
}

/* ---- all of them ---- */

#define DISK (&contract.disk)

const struct function functions[FUNCTIONS] = {
    {.name = "OpenVirtualDisk",
     .call = open_disk,
     .version = 2,
     .last_version = 3,
     .pointers = {"VirtualStorageType", "Path", "Handle"}},
    {.name = "CreateVirtualDisk",
     .call = create_disk,
     .version = 2,
     .last_version = 4,
     .pointers = {"VirtualStorageType", "Path", "Parameters", "Handle"},
     .takes_overlapped = true},
    {.name = "AttachVirtualDisk",
     .call = attach_disk,
     .handle = DISK,
     .version = 1,
     .last_version = 2,
     .takes_overlapped = true},
    {.name = "DetachVirtualDisk",
     .call = detach_disk,
     .handle = DISK,
     .answer = ERROR_NOT_READY},
    {.name = "GetVirtualDiskPhysicalPath",
     .call = get_path,
     .handle = DISK,
     .pointers = {"DiskPathSizeInBytes", "DiskPath"},
     .answer = ERROR_DEV_NOT_EXIST},
    {.name = "GetAllAttachedVirtualDiskPhysicalPaths",
     .call = get_all_paths,
     .pointers = {"PathsBufferSizeInBytes", "PathsBuffer"}},
    {.name = "GetStorageDependencyInformation",
     .call = get_dependency,
     .handle = &contract.object,
     .version = 2,
     .last_version = 2,
     .pointers = {"StorageDependencyInfo"}},
    {.name = "GetVirtualDiskInformation",
     .call = get_information,
     .handle = DISK,
     .version = 1,
     .last_version = 15,
     .pointers = {"VirtualDiskInfoSize", "VirtualDiskInfo"}},
    {.name = "SetVirtualDiskInformation",
     .call = set_information,
     .handle = DISK,
     .version = 5,
     .last_version = 7,
     .pointers = {"VirtualDiskInfo"}},
    {.name = "EnumerateVirtualDiskMetadata",
     .call = enumerate_metadata,
     .handle = DISK,
     .pointers = {"NumberOfItems", "Items"}},
    {.name = "GetVirtualDiskMetadata",
     .call = get_metadata,
     .handle = DISK,
     .pointers = {"Item", "MetaDataSize", "MetaData"}},
    {.name = "SetVirtualDiskMetadata",
     .call = set_metadata,
     .handle = DISK,
     .pointers = {"Item", "MetaData"}},
    {.name = "DeleteVirtualDiskMetadata",
     .call = delete_metadata,
     .handle = DISK,
     .pointers = {"Item"}},
    {.name = "GetVirtualDiskOperationProgress",
     .call = get_progress,
     .handle = DISK,
     .pointers = {"Overlapped", "Progress"}},
    {.name = "CompactVirtualDisk",
     .call = compact_disk,
     .handle = DISK,
     .version = 1,
     .last_version = 1,
     .takes_overlapped = true},
    {.name = "MergeVirtualDisk",
     .call = merge_disk,
     .handle = &contract.child,
     .version = 2,
     .last_version = 2,
     .pointers = {"Parameters"},
     .takes_overlapped = true},
    {.name = "ExpandVirtualDisk",
     .call = expand_disk,
     .handle = DISK,
     .version = 1,
     .last_version = 1,
     .pointers = {"Parameters"},
     .takes_overlapped = true},
    {.name = "ResizeVirtualDisk",
     .call = resize_disk,
     .handle = DISK,
     .version = 1,
     .last_version = 1,
     .pointers = {"Parameters"},
     .takes_overlapped = true},
    {.name = "MirrorVirtualDisk",
     .call = mirror_disk,
     .handle = DISK,
     .version = 1,
     .last_version = 1,
     .pointers = {"Parameters", "MirrorVirtualDiskPath", "Overlapped"},
     .takes_overlapped = true,
     .answer = ERROR_IO_PENDING},
    {.name = "BreakMirrorVirtualDisk",
     .call = break_mirror,
     .handle = DISK,
     .answer = ERROR_VHD_INVALID_STATE},
    {.name = "AddVirtualDiskParent",
     .call = add_parent,
     .handle = &contract.custom_chain,
     .pointers = {"ParentPath"}},
    {.name = "QueryChangesVirtualDisk",
     .call = query_changes,
     .handle = DISK,
     .pointers = {"ChangeTrackingId", "Ranges", "RangeCount",
                  "ProcessedLength"},
     .answer = ERROR_NOT_SUPPORTED},
    {.name = "TakeSnapshotVhdSet",
     .call = take_snapshot,
     .handle = DISK,
     .version = 1,
     .last_version = 1,
     .pointers = {"Parameters"},
     .answer = ERROR_NOT_SUPPORTED},
    {.name = "DeleteSnapshotVhdSet",
     .call = delete_snapshot,
     .handle = DISK,
     .version = 1,
     .last_version = 1,
     .pointers = {"Parameters"},
     .answer = ERROR_NOT_SUPPORTED},
    {.name = "ModifyVhdSet",
     .call = modify_set,
     .handle = DISK,
     .version = 1,
     .last_version = 3,
     .pointers = {"Parameters", "SnapshotFilePath"},
     .answer = ERROR_NOT_SUPPORTED},
    {.name = "ApplySnapshotVhdSet",
     .call = apply_snapshot,
     .handle = DISK,
     .version = 1,
     .last_version = 1,
     .pointers = {"Parameters"},
     .answer = ERROR_NOT_SUPPORTED},
    {.name = "RawSCSIVirtualDisk",
     .call = raw_scsi,
     .handle = DISK,
     .version = 1,
     .last_version = 1,
     .pointers = {"Parameters", "Cdb", "DataBuffer", "SenseInfo", "Response"},
     .answer = ERROR_NOT_READY},
    {.name = "ForkVirtualDisk",
     .call = fork_disk,
     .handle = DISK,
     .version = 1,
     .last_version = 1,
     .pointers = {"Parameters", "ForkedVirtualDiskPath", "Overlapped"},
     .answer = ERROR_NOT_SUPPORTED},
    {.name = "CompleteForkVirtualDisk",
     .call = complete_fork,
     .handle = DISK,
     .answer = ERROR_NOT_SUPPORTED},
};

/* ---- what they work on ---- */

static HANDLE
open_custom_chain(const char *path)
{
    VIRTUAL_STORAGE_TYPE type = {.DeviceId = VHDX};
    OPEN_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = OPEN_VIRTUAL_DISK_VERSION_2,
    };
    HANDLE handle = NULL;
    CHECK_OK(OpenVirtualDisk(&type, wide(path), VIRTUAL_DISK_ACCESS_NONE,
                             OPEN_VIRTUAL_DISK_FLAG_CUSTOM_DIFF_CHAIN,
                             &parameters, &handle));
    return handle;
}

static void
finish_an_operation(void)
{
    DWORD bytes;
    CHECK_EQ(ERROR_IO_PENDING, CompactVirtualDisk(contract.disk, PLAIN, NULL,
                                                  &contract.finished));
    CHECK(
        GetOverlappedResult(contract.disk, &contract.finished, &bytes, TRUE));
}

static void
open_all_of_them(void)
{
    contract.disk = open_all(path_of("disk.vhdx"));
    contract.child = open_all(path_of("child.vhdx"));
    contract.custom_chain = open_custom_chain(path_of("custom.vhdx"));
    contract.object =
        CreateFileW(wide(contract.directory), 0, FILE_SHARE_READ, NULL,
                    OPEN_EXISTING, FILE_FLAG_BACKUP_SEMANTICS, NULL);
    CHECK(contract.object != INVALID_HANDLE_VALUE);
}

void
contract_begin(const char *directory)
{
    contract.directory = directory;
    make_image(path_of("disk.vhdx"), VHDX, NULL);
    make_image(path_of("merged.vhdx"), VHDX, NULL);
    make_image(path_of("parent.vhdx"), VHDX, NULL);
    make_image(path_of("child.vhdx"), VHDX, path_of("merged.vhdx"));
    make_image(path_of("custom.vhdx"), VHDX, path_of("parent.vhdx"));
    open_all_of_them();
    CHECK_OK(SetVirtualDiskMetadata(contract.disk, &contract_item,
                                    sizeof(CONTRACT_METADATA) - 1,
                                    CONTRACT_METADATA));
    CHECK_OK(SetVirtualDiskMetadata(contract.disk, &doomed_item, 6, "doomed"));
    finish_an_operation();
}

void
contract_end(void)
{
    close_handle(contract.object);
    close_handle(contract.custom_chain);
    close_handle(contract.child);
    close_handle(contract.disk);
}
