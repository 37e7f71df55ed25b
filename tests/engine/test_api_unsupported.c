/*
 * Change tracking, VHD Sets and forks: arguments are checked, then refused.
 */
#include <virtdisk.h>

#include "api/handles.h"
#include "api_support.h"
#include "check.h"

static HANDLE disk;
static HANDLE closed;

/* ---- one good call of each, to be spoilt in one place ---- */

static TAKE_SNAPSHOT_VHDSET_PARAMETERS
take_parameters(void)
{
    return (TAKE_SNAPSHOT_VHDSET_PARAMETERS){
        .Version = TAKE_SNAPSHOT_VHDSET_VERSION_1,
    };
}

static void
test_take(void)
{
    TAKE_SNAPSHOT_VHDSET_PARAMETERS good = take_parameters();
    TAKE_SNAPSHOT_VHDSET_PARAMETERS bad = {.Version = 2};
    CHECK_EQ(ERROR_NOT_SUPPORTED, TakeSnapshotVhdSet(disk, &good, 0));
    CHECK_EQ(
        ERROR_NOT_SUPPORTED,
        TakeSnapshotVhdSet(disk, &good, TAKE_SNAPSHOT_VHDSET_FLAG_WRITEABLE));
    CHECK_EQ(ERROR_INVALID_PARAMETER, TakeSnapshotVhdSet(disk, NULL, 0));
    CHECK_EQ(ERROR_INVALID_PARAMETER, TakeSnapshotVhdSet(disk, &bad, 0));
    CHECK_EQ(ERROR_INVALID_PARAMETER, TakeSnapshotVhdSet(disk, &good, 2));
    CHECK_EQ(ERROR_INVALID_HANDLE, TakeSnapshotVhdSet(closed, &good, 0));
    CHECK_EQ(ERROR_INVALID_HANDLE, TakeSnapshotVhdSet(NULL, NULL, 2));
}

static void
test_delete(void)
{
    DELETE_SNAPSHOT_VHDSET_PARAMETERS good = {
        .Version = DELETE_SNAPSHOT_VHDSET_VERSION_1,
    };
    DELETE_SNAPSHOT_VHDSET_PARAMETERS bad = {.Version = 0};
    CHECK_EQ(ERROR_NOT_SUPPORTED, DeleteSnapshotVhdSet(disk, &good, 0));
    CHECK_EQ(ERROR_NOT_SUPPORTED,
             DeleteSnapshotVhdSet(disk, &good,
                                  DELETE_SNAPSHOT_VHDSET_FLAG_PERSIST_RCT));
    CHECK_EQ(ERROR_INVALID_PARAMETER, DeleteSnapshotVhdSet(disk, NULL, 0));
    CHECK_EQ(ERROR_INVALID_PARAMETER, DeleteSnapshotVhdSet(disk, &bad, 0));
    CHECK_EQ(ERROR_INVALID_PARAMETER, DeleteSnapshotVhdSet(disk, &good, 4));
    CHECK_EQ(ERROR_INVALID_HANDLE, DeleteSnapshotVhdSet(closed, &good, 0));
}

static DWORD
modify(MODIFY_VHDSET_VERSION version, PCWSTR path, unsigned flags)
{
    MODIFY_VHDSET_PARAMETERS parameters = {.Version = version};
    if (version == MODIFY_VHDSET_SNAPSHOT_PATH) {
        parameters.SnapshotPath.SnapshotFilePath = path;
    }
    else {
        parameters.DefaultFilePath = path;
    }
    return ModifyVhdSet(disk, &parameters, flags);
}

static void
test_modify(void)
{
    MODIFY_VHDSET_PARAMETERS good = {
        .Version = MODIFY_VHDSET_REMOVE_SNAPSHOT,
    };
    CHECK_EQ(ERROR_NOT_SUPPORTED, ModifyVhdSet(disk, &good, 0));
    CHECK_EQ(ERROR_NOT_SUPPORTED,
             modify(MODIFY_VHDSET_SNAPSHOT_PATH, u"a.avhdx",
                    MODIFY_VHDSET_FLAG_WRITEABLE_SNAPSHOT));
    CHECK_EQ(ERROR_NOT_SUPPORTED,
             modify(MODIFY_VHDSET_DEFAULT_SNAPSHOT_PATH, u"a.avhdx", 0));
    CHECK_EQ(ERROR_INVALID_PARAMETER,
             modify(MODIFY_VHDSET_SNAPSHOT_PATH, NULL, 0));
    CHECK_EQ(ERROR_INVALID_PARAMETER,
             modify(MODIFY_VHDSET_DEFAULT_SNAPSHOT_PATH, NULL, 0));
    CHECK_EQ(ERROR_INVALID_PARAMETER,
             modify(MODIFY_VHDSET_UNSPECIFIED, u"a.avhdx", 0));
    CHECK_EQ(ERROR_INVALID_PARAMETER,
             modify(MODIFY_VHDSET_DEFAULT_SNAPSHOT_PATH + 1, u"a.avhdx", 0));
    CHECK_EQ(ERROR_INVALID_PARAMETER, ModifyVhdSet(disk, &good, 2));
    CHECK_EQ(ERROR_INVALID_PARAMETER, ModifyVhdSet(disk, NULL, 0));
    CHECK_EQ(ERROR_INVALID_HANDLE, ModifyVhdSet(closed, &good, 0));
}

static void
test_apply(void)
{
    APPLY_SNAPSHOT_VHDSET_PARAMETERS good = {
        .Version = APPLY_SNAPSHOT_VHDSET_VERSION_1,
    };
    APPLY_SNAPSHOT_VHDSET_PARAMETERS bad = {.Version = 2};
    CHECK_EQ(ERROR_NOT_SUPPORTED, ApplySnapshotVhdSet(disk, &good, 0));
    CHECK_EQ(ERROR_NOT_SUPPORTED,
             ApplySnapshotVhdSet(disk, &good,
                                 APPLY_SNAPSHOT_VHDSET_FLAG_WRITEABLE));
    CHECK_EQ(ERROR_INVALID_PARAMETER, ApplySnapshotVhdSet(disk, NULL, 0));
    CHECK_EQ(ERROR_INVALID_PARAMETER, ApplySnapshotVhdSet(disk, &bad, 0));
    CHECK_EQ(ERROR_INVALID_PARAMETER, ApplySnapshotVhdSet(disk, &good, 2));
    CHECK_EQ(ERROR_INVALID_HANDLE, ApplySnapshotVhdSet(closed, &good, 0));
}

/* ---- change tracking ---- */

static QUERY_CHANGES_VIRTUAL_DISK_RANGE ranges[1];
static ULONG count = 1;
static ULONG64 processed = 77;

static DWORD
query(PCWSTR tracking_id, unsigned flags)
{
    return QueryChangesVirtualDisk(disk, tracking_id, 0, 512, flags, ranges,
                                   &count, &processed);
}

static void
test_query(void)
{
    char16_t text[258];
    for (size_t i = 0; i < 257; i++) {
        text[i] = u'a';
    }
    text[257] = 0;
    CHECK_EQ(ERROR_NOT_SUPPORTED, query(u"rctX:1", 0));
    CHECK_EQ(ERROR_NOT_SUPPORTED, query(text + 1, 0)); /* 256 characters */
    CHECK_EQ(ERROR_INVALID_PARAMETER, query(text, 0));
    CHECK_EQ(ERROR_INVALID_PARAMETER, query(u"", 0));
    CHECK_EQ(ERROR_INVALID_PARAMETER, query(NULL, 0));
    CHECK_EQ(ERROR_INVALID_PARAMETER, query(u"rctX:1", 1));
    CHECK_EQ(ERROR_INVALID_PARAMETER,
             QueryChangesVirtualDisk(disk, u"rctX:1", 0, 512, 0, NULL, &count,
                                     &processed));
    CHECK_EQ(ERROR_INVALID_PARAMETER,
             QueryChangesVirtualDisk(disk, u"rctX:1", 0, 512, 0, ranges, NULL,
                                     &processed));
    CHECK_EQ(ERROR_INVALID_PARAMETER,
             QueryChangesVirtualDisk(disk, u"rctX:1", 0, 512, 0, ranges,
                                     &count, NULL));
    CHECK_EQ(ERROR_INVALID_HANDLE,
             QueryChangesVirtualDisk(closed, u"rctX:1", 0, 512, 0, ranges,
                                     &count, &processed));
    CHECK_EQ(1, count);
    CHECK_EQ(77, processed);
}

/* ---- forks ---- */

static DWORD
fork_to(PCWSTR path, unsigned version, unsigned flags, OVERLAPPED *overlapped)
{
    FORK_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = version,
        .Version1 = {.ForkedVirtualDiskPath = path},
    };
    return ForkVirtualDisk(disk, flags, &parameters, overlapped);
}

static void
test_fork(void)
{
    OVERLAPPED overlapped = {.Internal = 0};
    FORK_VIRTUAL_DISK_PARAMETERS good = {
        .Version = FORK_VIRTUAL_DISK_VERSION_1,
        .Version1 = {.ForkedVirtualDiskPath = u"b.vhdx"},
    };
    CHECK_EQ(ERROR_NOT_SUPPORTED, fork_to(u"b.vhdx", 1, 0, &overlapped));
    CHECK_EQ(ERROR_NOT_SUPPORTED,
             fork_to(u"b.vhdx", 1, FORK_VIRTUAL_DISK_FLAG_EXISTING_FILE,
                     &overlapped));
    CHECK(HasOverlappedIoCompleted(&overlapped));
    CHECK_EQ(ERROR_INVALID_PARAMETER, fork_to(NULL, 1, 0, &overlapped));
    CHECK_EQ(ERROR_INVALID_PARAMETER, fork_to(u"b.vhdx", 2, 0, &overlapped));
    CHECK_EQ(ERROR_INVALID_PARAMETER, fork_to(u"b.vhdx", 1, 2, &overlapped));
    CHECK_EQ(ERROR_INVALID_PARAMETER, fork_to(u"b.vhdx", 1, 0, NULL));
    CHECK_EQ(ERROR_INVALID_PARAMETER,
             ForkVirtualDisk(disk, 0, NULL, &overlapped));
    CHECK_EQ(ERROR_INVALID_HANDLE,
             ForkVirtualDisk(closed, 0, &good, &overlapped));
    CHECK_EQ(ERROR_NOT_SUPPORTED, CompleteForkVirtualDisk(disk));
    CHECK_EQ(ERROR_INVALID_HANDLE, CompleteForkVirtualDisk(closed));
}

/* ---- a handle, but to an event ---- */

static void
test_event(void)
{
    TAKE_SNAPSHOT_VHDSET_PARAMETERS good = take_parameters();
    HANDLE event = CreateEventW(NULL, TRUE, FALSE, NULL);
    CHECK_EQ(ERROR_INVALID_PARAMETER, TakeSnapshotVhdSet(event, &good, 0));
    CHECK_EQ(ERROR_INVALID_PARAMETER, CompleteForkVirtualDisk(event));
    close_handle(event);
}

int
main(int argc, char **argv)
{
    (void)argc;
    const char *path = check_path(argv[1], "a.vhd");
    make_vhd(path, NULL, 0);
    disk = open_all(path);
    closed = open_all(path);
    close_handle(closed);
    test_take();
    test_delete();
    test_modify();
    test_apply();
    test_query();
    test_fork();
    test_event();
    close_handle(disk);
    CHECK_EQ(0, vd_handle_count());
    return check_result();
}
