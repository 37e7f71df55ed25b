/*
 * The contract of virtdisk.h for what the binding cannot express: handles
 * that are none, NULL pointers, unknown versions, events that are none, and
 * buffers that are too small.  The rest of the table is
 * tests/lib/contract*.py.
 *
 * With --rows instead of a directory the rows are told, not run: function,
 * kind and name of each, for tests/test_contract.py to see what is covered.
 * Codes for which API 2 names no source are inferred.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/handles.h"
#include "api_contract_support.h"
#include "api_support.h"
#include "check.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* The kinds of failure, by the names of contract.Kind. */
#define MISUSE "misuse"
#define WRONG_STATE "wrong state"
#define WRONG_TYPE "wrong type"
#define SMALL_BUFFER "small buffer"

static void
tell(const char *function, const char *kind, const char *name)
{
    printf("%s\t%s\t%s\n", function, kind, name);
}

static void
judge(const char *function, const char *name, DWORD expected, DWORD answer)
{
    if (!CHECK_EQ(expected, answer)) {
        fprintf(stderr, "    %s: %s\n", function, name);
    }
}

/* ---- one argument of a good call spoilt ---- */

/* What is done with each row: telling of it, or the call. */
typedef void visitor(const struct function *function, const char *name,
                     const struct given *given, DWORD expected);

static void
tell_spoilt(const struct function *function, const char *name,
            const struct given *given, DWORD expected)
{
    (void)given;
    (void)expected;
    tell(function->name, MISUSE, name);
}

static void
call_spoilt(const struct function *function, const char *name,
            const struct given *given, DWORD expected)
{
    judge(function->name, name, expected, function->call(given));
}

static struct given
good(const struct function *function)
{
    return (struct given){
        .handle = function->handle != NULL ? *function->handle : NULL,
        .version = function->version,
    };
}

static HANDLE
closed_handle(void)
{
    HANDLE event = CreateEventW(NULL, TRUE, FALSE, NULL);
    close_handle(event);
    return event;
}

/* One that was never open, or is no more, is an invalid handle; one to
 * something else an invalid parameter (API 2.2, 2.3). */
static void
spoil_handle(const struct function *function, visitor *visit)
{
    struct given given = good(function);
    if (function->handle == NULL) {
        return;
    }
    given.handle = NULL;
    visit(function, "no handle", &given, ERROR_INVALID_HANDLE);
    given.handle = INVALID_HANDLE_VALUE;
    visit(function, "INVALID_HANDLE_VALUE", &given, ERROR_INVALID_HANDLE);
    given.handle = closed_handle();
    visit(function, "a closed handle", &given, ERROR_INVALID_HANDLE);
    given.handle = CreateEventW(NULL, TRUE, FALSE, NULL);
    visit(function, "an event's handle", &given, ERROR_INVALID_PARAMETER);
    close_handle(given.handle);
}

static void
spoil_pointers(const struct function *function, visitor *visit)
{
    for (size_t i = 0; i < COUNT(function->pointers); i++) {
        char name[64];
        struct given given = good(function);
        given.missing = function->pointers[i];
        if (given.missing == NULL) {
            return;
        }
        snprintf(name, sizeof(name), "%s is NULL", given.missing);
        visit(function, name, &given, ERROR_INVALID_PARAMETER);
    }
}

static void
spoil_version(const struct function *function, visitor *visit)
{
    const unsigned unknown[] = {0, function->last_version + 1, UINT32_MAX};
    for (size_t i = 0; function->version != 0 && i < COUNT(unknown); i++) {
        char name[64];
        struct given given = good(function);
        given.version = unknown[i];
        snprintf(name, sizeof(name), "version %u", given.version);
        visit(function, name, &given, ERROR_INVALID_PARAMETER);
    }
}

/* The call itself says so, and nothing has begun. */
static void
spoil_event(const struct function *function, visitor *visit)
{
    OVERLAPPED overlapped = {.hEvent = INVALID_HANDLE_VALUE};
    struct given given = good(function);
    if (!function->takes_overlapped) {
        return;
    }
    given.overlapped = &overlapped;
    visit(function, "hEvent is INVALID_HANDLE_VALUE", &given,
          ERROR_INVALID_HANDLE);
    overlapped.hEvent = contract.disk;
    visit(function, "hEvent is a disk's handle", &given, ERROR_INVALID_HANDLE);
    CHECK_EQ(0, overlapped.Internal);
}

static void
spoil_all(visitor *visit)
{
    for (size_t i = 0; i < FUNCTIONS; i++) {
        spoil_handle(&functions[i], visit);
        spoil_pointers(&functions[i], visit);
        spoil_version(&functions[i], visit);
        spoil_event(&functions[i], visit);
    }
}

/* After all misuse: only what was spoilt can have been the reason. */
static void
call_good(void)
{
    for (size_t i = 0; i < FUNCTIONS; i++) {
        struct given given = good(&functions[i]);
        call_spoilt(&functions[i], "unspoilt", &given, functions[i].answer);
    }
}

/* ---- what a table says better ---- */

static const GUID no_id;
static uint8_t bytes[64];

static DWORD
attach_reserved(void)
{
    ATTACH_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = ATTACH_VIRTUAL_DISK_VERSION_1,
        .Version1 = {.Reserved = 1},
    };
    return AttachVirtualDisk(contract.disk, NULL,
                             ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST, 0,
                             &parameters, NULL);
}

static DWORD
attach_no_descriptor(void)
{
    return AttachVirtualDisk(contract.disk, bytes,
                             ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST, 0, NULL,
                             NULL);
}

static DWORD
compact_reserved(void)
{
    COMPACT_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = COMPACT_VIRTUAL_DISK_VERSION_1,
        .Version1 = {.Reserved = 1},
    };
    return CompactVirtualDisk(contract.disk, COMPACT_VIRTUAL_DISK_FLAG_NONE,
                              &parameters, NULL);
}

static DWORD
set_info(unsigned number, PCWSTR parent)
{
    SET_VIRTUAL_DISK_INFO info = {.Version = number};
    if (number == SET_VIRTUAL_DISK_INFO_PARENT_PATH) {
        info.ParentFilePath = parent;
    }
    else if (number == SET_VIRTUAL_DISK_INFO_PARENT_PATH_WITH_DEPTH) {
        info.ParentPathWithDepthInfo.ChildDepth = 1;
        info.ParentPathWithDepthInfo.ParentFilePath = parent;
    }
    else if (number == SET_VIRTUAL_DISK_INFO_PARENT_LOCATOR) {
        info.ParentLocator.LinkageId = contract_item;
        info.ParentLocator.ParentFilePath = parent;
    }
    return SetVirtualDiskInformation(contract.disk, &info);
}

static DWORD
set_no_parent_path(void)
{
    return set_info(SET_VIRTUAL_DISK_INFO_PARENT_PATH, NULL);
}

static DWORD
set_no_parent_path_with_depth(void)
{
    return set_info(SET_VIRTUAL_DISK_INFO_PARENT_PATH_WITH_DEPTH, NULL);
}

static DWORD
set_no_parent_locator(void)
{
    return set_info(SET_VIRTUAL_DISK_INFO_PARENT_LOCATOR, NULL);
}

static DWORD
modify_no_default_path(void)
{
    MODIFY_VHDSET_PARAMETERS parameters = {
        .Version = MODIFY_VHDSET_DEFAULT_SNAPSHOT_PATH,
    };
    return ModifyVhdSet(contract.disk, &parameters, MODIFY_VHDSET_FLAG_NONE);
}

static DWORD
query_empty_id(void)
{
    QUERY_CHANGES_VIRTUAL_DISK_RANGE ranges[1];
    ULONG count = 1;
    ULONG64 processed;
    return QueryChangesVirtualDisk(contract.disk, u"", 0, 512,
                                   QUERY_CHANGES_VIRTUAL_DISK_FLAG_NONE,
                                   ranges, &count, &processed);
}

/* No operation of this handle has that OVERLAPPED. */
static DWORD
progress_of_nothing(void)
{
    OVERLAPPED overlapped = {.Internal = 0};
    VIRTUAL_DISK_PROGRESS progress;
    return GetVirtualDiskOperationProgress(contract.disk, &overlapped,
                                           &progress);
}

static DWORD
raw_scsi(UCHAR cdb_length)
{
    static uint8_t cdb[17];
    RAW_SCSI_VIRTUAL_DISK_RESPONSE response;
    RAW_SCSI_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = RAW_SCSI_VIRTUAL_DISK_VERSION_1,
        .Version1 = {.CdbLength = cdb_length, .Cdb = cdb},
    };
    return RawSCSIVirtualDisk(contract.disk, &parameters,
                              RAW_SCSI_VIRTUAL_DISK_FLAG_NONE, &response);
}

static DWORD
raw_scsi_no_cdb(void)
{
    return raw_scsi(0);
}

static DWORD
raw_scsi_long_cdb(void)
{
    return raw_scsi(17);
}

/* ---- metadata ---- */

static DWORD
get_zero_item(void)
{
    ULONG size = sizeof(bytes);
    return GetVirtualDiskMetadata(contract.disk, &no_id, &size, bytes);
}

static DWORD
set_zero_item(void)
{
    return SetVirtualDiskMetadata(contract.disk, &no_id, 1, bytes);
}

static DWORD
delete_zero_item(void)
{
    return DeleteVirtualDiskMetadata(contract.disk, &no_id);
}

static DWORD
enumerate_into(ULONG count, GUID *items)
{
    DWORD error = EnumerateVirtualDiskMetadata(contract.disk, &count, items);
    CHECK_EQ(CONTRACT_ITEMS, count);
    return error;
}

static DWORD
enumerate_nowhere(void)
{
    return enumerate_into(0, NULL);
}

static DWORD
enumerate_one_too_few(void)
{
    GUID items[CONTRACT_ITEMS] = {{.Data1 = 77}};
    DWORD error = enumerate_into(CONTRACT_ITEMS - 1, items);
    CHECK_EQ(77, items[0].Data1);
    return error;
}

static DWORD
get_metadata_into(ULONG size, void *buffer)
{
    DWORD error =
        GetVirtualDiskMetadata(contract.disk, &contract_item, &size, buffer);
    CHECK_EQ(strlen(CONTRACT_METADATA), size);
    return error;
}

static DWORD
get_metadata_nowhere(void)
{
    return get_metadata_into(0, NULL);
}

static DWORD
get_metadata_one_too_few(void)
{
    char text[8] = "";
    DWORD error = get_metadata_into(strlen(CONTRACT_METADATA) - 1, text);
    CHECK_STR("", text);
    return error;
}

/* ---- information ---- */

/* GET_VIRTUAL_DISK_INFO up to the end of its member Size (API 1.3). */
#define SIZE_OF_SIZE 32

/* In memory of just that length. */
static DWORD
get_size_into(ULONG length)
{
    GET_VIRTUAL_DISK_INFO *info = malloc(length);
    unsigned number = GET_VIRTUAL_DISK_INFO_SIZE;
    ULONG size = length;
    ULONG used = 77;
    memcpy(info, &number, length < sizeof(number) ? length : sizeof(number));
    DWORD error = GetVirtualDiskInformation(contract.disk, &size, info, &used);
    CHECK_EQ(SIZE_OF_SIZE, size);
    CHECK_EQ(77, used);
    free(info);
    return error;
}

static DWORD
get_size_without_version(void)
{
    return get_size_into(3);
}

static DWORD
get_size_with_version(void)
{
    return get_size_into(4);
}

static DWORD
get_size_one_too_few(void)
{
    return get_size_into(SIZE_OF_SIZE - 1);
}

/* ---- dependencies ---- */

#define SIZE_OF_NO_ENTRIES 8

static DWORD
get_dependency_into(ULONG length, HANDLE object)
{
    STORAGE_DEPENDENCY_INFO *info = malloc(length + 1);
    ULONG used = 77;
    unsigned number = STORAGE_DEPENDENCY_INFO_VERSION_1;
    memcpy(info, &number, length < sizeof(number) ? length : sizeof(number));
    DWORD error = GetStorageDependencyInformation(
        object, GET_STORAGE_DEPENDENCY_FLAG_NONE, length, info, &used);
    CHECK_EQ(error == ERROR_INSUFFICIENT_BUFFER ? SIZE_OF_NO_ENTRIES : 77,
             used);
    free(info);
    return error;
}

static DWORD
get_dependency_no_room(void)
{
    return get_dependency_into(0, contract.object);
}

static DWORD
get_dependency_one_too_few(void)
{
    return get_dependency_into(SIZE_OF_NO_ENTRIES - 1, contract.object);
}

static DWORD
get_dependency_of_virtual_disk(void)
{
    return get_dependency_into(SIZE_OF_NO_ENTRIES, contract.disk);
}

/* ---- paths ---- */

/* Others may attach meanwhile, but it is never less than the last NUL. */
static DWORD
get_all_into(ULONG size, PWSTR buffer)
{
    DWORD error = GetAllAttachedVirtualDiskPhysicalPaths(&size, buffer);
    CHECK(size >= sizeof(WCHAR));
    return error;
}

static DWORD
get_all_nowhere(void)
{
    return get_all_into(0, NULL);
}

static DWORD
get_all_half_a_character(void)
{
    WCHAR character = 77;
    DWORD error = get_all_into(1, &character);
    CHECK_EQ(77, character);
    return error;
}

static DWORD
get_path_into(ULONG size, PWSTR buffer)
{
    ULONG needed = size;
    const char *device;
    CHECK_OK(attach(contract.disk, ATTACH_VIRTUAL_DISK_FLAG_NO_DRIVE_LETTER));
    DWORD error = GetVirtualDiskPhysicalPath(contract.disk, &needed, buffer);
    device = device_of(contract.disk);
    CHECK_EQ((strlen(device) + 1) * sizeof(WCHAR), needed);
    CHECK_OK(detach(contract.disk));
    return error;
}

static DWORD
get_path_nowhere(void)
{
    return get_path_into(0, NULL);
}

/* "/dev/loopN" is longer. */
static DWORD
get_path_too_short(void)
{
    WCHAR text[10] = {77};
    DWORD error = get_path_into(sizeof(text), text);
    CHECK_EQ(77, text[0]);
    return error;
}

/* ---- the table ---- */

struct row {
    const char *function;
    const char *kind;
    const char *name;
    DWORD (*call)(void);
    DWORD expected;
};

static const struct row rows[] = {
    {"AttachVirtualDisk", MISUSE, "Reserved is not 0", attach_reserved, 87},
    {"AttachVirtualDisk", MISUSE, "a descriptor of zeros",
     attach_no_descriptor, ERROR_INVALID_SECURITY_DESCR},
    {"CompactVirtualDisk", MISUSE, "Reserved is not 0", compact_reserved, 87},
    {"SetVirtualDiskInformation", MISUSE, "PARENT_PATH without a path",
     set_no_parent_path, 87},
    {"SetVirtualDiskInformation", MISUSE,
     "PARENT_PATH_WITH_DEPTH without a path", set_no_parent_path_with_depth,
     87},
    {"SetVirtualDiskInformation", MISUSE, "PARENT_LOCATOR without a path",
     set_no_parent_locator, 87},
    {"ModifyVhdSet", MISUSE, "DEFAULT_SNAPSHOT_PATH without a path",
     modify_no_default_path, 87},
    {"QueryChangesVirtualDisk", MISUSE, "an empty identifier", query_empty_id,
     87},
    {"GetVirtualDiskOperationProgress", WRONG_STATE,
     "no operation has that OVERLAPPED", progress_of_nothing, 87},
    {"RawSCSIVirtualDisk", MISUSE, "a CDB of 0 bytes", raw_scsi_no_cdb, 87},
    {"RawSCSIVirtualDisk", MISUSE, "a CDB of 17 bytes", raw_scsi_long_cdb, 87},
    {"GetVirtualDiskMetadata", MISUSE, "an item of zeros", get_zero_item, 87},
    {"SetVirtualDiskMetadata", MISUSE, "an item of zeros", set_zero_item, 87},
    {"DeleteVirtualDiskMetadata", MISUSE, "an item of zeros", delete_zero_item,
     87},
    {"EnumerateVirtualDiskMetadata", SMALL_BUFFER, "of no items",
     enumerate_nowhere, 122},
    {"EnumerateVirtualDiskMetadata", SMALL_BUFFER, "an item too short",
     enumerate_one_too_few, 122},
    {"GetVirtualDiskMetadata", SMALL_BUFFER, "of no bytes",
     get_metadata_nowhere, 122},
    {"GetVirtualDiskMetadata", SMALL_BUFFER, "a byte too short",
     get_metadata_one_too_few, 122},
    {"GetVirtualDiskInformation", SMALL_BUFFER, "no room for the class",
     get_size_without_version, 122},
    {"GetVirtualDiskInformation", SMALL_BUFFER, "room for the class alone",
     get_size_with_version, 122},
    {"GetVirtualDiskInformation", SMALL_BUFFER, "a byte too short",
     get_size_one_too_few, 122},
    {"GetStorageDependencyInformation", MISUSE, "of no bytes",
     get_dependency_no_room, 87},
    {"GetStorageDependencyInformation", SMALL_BUFFER, "a byte too short",
     get_dependency_one_too_few, 122},
    {"GetStorageDependencyInformation", WRONG_TYPE, "a virtual disk's handle",
     get_dependency_of_virtual_disk, 87},
    {"GetAllAttachedVirtualDiskPhysicalPaths", SMALL_BUFFER, "of no bytes",
     get_all_nowhere, 122},
    {"GetAllAttachedVirtualDiskPhysicalPaths", SMALL_BUFFER,
     "half a character", get_all_half_a_character, 122},
};

/* These need an attached device. */
static const struct row device_rows[] = {
    {"GetVirtualDiskPhysicalPath", SMALL_BUFFER, "of no bytes",
     get_path_nowhere, 122},
    {"GetVirtualDiskPhysicalPath", SMALL_BUFFER, "too short",
     get_path_too_short, 122},
};

static void
run_rows(const struct row *first, size_t count)
{
    for (const struct row *row = first; row < first + count; row++) {
        judge(row->function, row->name, row->expected, row->call());
    }
}

static void
tell_rows(const struct row *first, size_t count)
{
    for (const struct row *row = first; row < first + count; row++) {
        tell(row->function, row->kind, row->name);
    }
}

static int
tell_all(void)
{
    spoil_all(tell_spoilt);
    tell_rows(rows, COUNT(rows));
    tell_rows(device_rows, COUNT(device_rows));
    return 0;
}

static void
run_all(const char *directory)
{
    contract_begin(directory);
    run_rows(rows, COUNT(rows));
    spoil_all(call_spoilt);
    call_good();
    contract_end();
}

static void
run_device_rows(void)
{
    const char *path = check_path(contract.directory, "device.vhd");
    make_vhd(path, NULL, 0);
    contract.disk = open_all(path);
    run_rows(device_rows, COUNT(device_rows));
    close_handle(contract.disk);
}

int
main(int argc, char **argv)
{
    if (argc != 2) {
        check_broken("usage: test_api_contract DIRECTORY | --rows");
    }
    if (strcmp(argv[1], "--rows") == 0) {
        return tell_all();
    }
    unsigned descriptors = count_descriptors();
    run_all(argv[1]);
    CHECK(handles_become(0));
    CHECK(descriptors_become(descriptors));
    if (check_result() != 0) {
        return 1;
    }
    need_loop();
    run_device_rows();
    CHECK(handles_become(0));
    return check_result();
}
