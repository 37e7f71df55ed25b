/*
 * What becomes of a call without memory.  The rest: tests/test_compact.py,
 * test_resize.py, and test_api_contract.c for misuse.
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
expand(HANDLE handle, uint64_t size)
{
    EXPAND_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = EXPAND_VIRTUAL_DISK_VERSION_1,
        .Version1.NewSize = size,
    };
    return ExpandVirtualDisk(handle, EXPAND_VIRTUAL_DISK_FLAG_NONE,
                             &parameters, NULL);
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
        DWORD error = expand(vhd, 8 * MIB);
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
    CHECK(descriptors_become(descriptors));
}

int
main(int argc, char **argv)
{
    if (argc < 2) {
        check_broken("needs a directory");
    }
    directory = argv[1];
    make_vhd(path_of("disk.vhd"), NULL, 0);
    test_out_of_memory();
    return check_result();
}
