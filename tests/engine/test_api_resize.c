/*
 * The arguments of CompactVirtualDisk, ExpandVirtualDisk and
 * ResizeVirtualDisk that the binding cannot express, and what becomes of a
 * call without memory.  The rest: tests/test_compact.py, test_resize.py.
 */
#include <string.h>
#include <unistd.h>

#include "api_support.h"
#include "check.h"

#define MIB (1024u * 1024u)

static const char *directory;

static const char *
path_of(const char *name)
{
    return check_path(directory, name);
}

static DWORD
expand(HANDLE handle, unsigned version, uint64_t size)
{
    EXPAND_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = (EXPAND_VIRTUAL_DISK_VERSION)version,
        .Version1.NewSize = size,
    };
    return ExpandVirtualDisk(handle, EXPAND_VIRTUAL_DISK_FLAG_NONE,
                             &parameters, NULL);
}

static DWORD
resize(HANDLE handle, unsigned version, uint64_t size)
{
    RESIZE_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = (RESIZE_VIRTUAL_DISK_VERSION)version,
        .Version1.NewSize = size,
    };
    return ResizeVirtualDisk(handle, RESIZE_VIRTUAL_DISK_FLAG_NONE,
                             &parameters, NULL);
}

static DWORD
compact(HANDLE handle, unsigned version, ULONG reserved)
{
    COMPACT_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = (COMPACT_VIRTUAL_DISK_VERSION)version,
        .Version1.Reserved = reserved,
    };
    return CompactVirtualDisk(handle, COMPACT_VIRTUAL_DISK_FLAG_NONE,
                              &parameters, NULL);
}

static void
test_versions(void)
{
    HANDLE vhd = open_all(path_of("disk.vhd"));
    for (unsigned version = 0; version < 4; version += 2) {
        CHECK_EQ(ERROR_INVALID_PARAMETER, expand(vhd, version, 8 * MIB));
        CHECK_EQ(ERROR_INVALID_PARAMETER, resize(vhd, version, 8 * MIB));
        CHECK_EQ(ERROR_INVALID_PARAMETER, compact(vhd, version, 0));
    }
    CHECK_EQ(ERROR_INVALID_PARAMETER, compact(vhd, 1, 1));
    CHECK_EQ(
        ERROR_INVALID_PARAMETER,
        ExpandVirtualDisk(vhd, EXPAND_VIRTUAL_DISK_FLAG_NONE, NULL, NULL));
    CHECK_EQ(
        ERROR_INVALID_PARAMETER,
        ResizeVirtualDisk(vhd, RESIZE_VIRTUAL_DISK_FLAG_NONE, NULL, NULL));
    /* A fixed disk: past the arguments. */
    CHECK_EQ(ERROR_VHD_INVALID_TYPE, compact(vhd, 1, 0));
    CHECK_EQ(
        ERROR_VHD_INVALID_TYPE,
        CompactVirtualDisk(vhd, COMPACT_VIRTUAL_DISK_FLAG_NONE, NULL, NULL));
    close_handle(vhd);
}

static void
test_handles(void)
{
    HANDLE event = CreateEventW(NULL, TRUE, FALSE, NULL);
    CHECK_EQ(ERROR_INVALID_HANDLE, expand(NULL, 1, 8 * MIB));
    CHECK_EQ(ERROR_INVALID_HANDLE, resize(NULL, 1, 8 * MIB));
    CHECK_EQ(ERROR_INVALID_HANDLE, compact(NULL, 1, 0));
    CHECK_EQ(ERROR_INVALID_PARAMETER, expand(event, 1, 8 * MIB));
    CHECK_EQ(ERROR_INVALID_PARAMETER, resize(event, 1, 8 * MIB));
    CHECK_EQ(ERROR_INVALID_PARAMETER, compact(event, 1, 0));
    close_handle(event);
}

/* The image stays what it was, and usable. */
static void
test_out_of_memory(void)
{
    unsigned descriptors = count_descriptors();
    HANDLE vhd = open_all(path_of("disk.vhd"));
    GET_VIRTUAL_DISK_INFO info = {.Version = GET_VIRTUAL_DISK_INFO_SIZE};
    ULONG size = sizeof(info);
    bool again = true;
    int failures = 0;
    for (; again; failures++) {
        check_fail_allocation(failures);
        DWORD error = expand(vhd, 1, 8 * MIB);
        again = check_fail_allocation(-1);
        /* One may fail after all is done, when the handle looks again. */
        CHECK(error == ERROR_SUCCESS ||
              (again && error == ERROR_NOT_ENOUGH_MEMORY));
        again = again && error != ERROR_SUCCESS;
    }
    CHECK(failures > 3);
    close_handle(vhd);
    vhd = open_all(path_of("disk.vhd"));
    CHECK_OK(GetVirtualDiskInformation(vhd, &size, &info, NULL));
    CHECK_EQ(8 * MIB, info.Size.VirtualSize);
    close_handle(vhd);
    CHECK_EQ(descriptors, count_descriptors());
}

int
main(int argc, char **argv)
{
    if (argc < 2) {
        check_broken("needs a directory");
    }
    directory = argv[1];
    make_vhd(path_of("disk.vhd"), NULL, 0);
    test_versions();
    test_handles();
    test_out_of_memory();
    return check_result();
}
