/*
 * SetVirtualDiskInformation and the four functions for metadata.  Needs no
 * privilege.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <virtdisk.h>

#include "api/handles.h"
#include "api_support.h"
#include "check.h"
#include "vhdx_images.h"

#define VHD VIRTUAL_STORAGE_TYPE_DEVICE_VHD
#define VHDX VIRTUAL_STORAGE_TYPE_DEVICE_VHDX
#define NO_HOST ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST
#define SET(name) SET_VIRTUAL_DISK_INFO_##name
#define GET(name) GET_VIRTUAL_DISK_INFO_##name

static const GUID some_id = {0xA0A1A2A3, 0xB0B1, 0xC0C1, {1, 2, 3, 4}};
static const GUID other_id = {7, 8, 9, {10}};
static const GUID no_id;

static const char *directory;

static const char *
path_of(const char *name)
{
    return check_path(directory, name);
}

static DWORD
set_parent(HANDLE handle, const char *path)
{
    SET_VIRTUAL_DISK_INFO info = {
        .Version = SET(PARENT_PATH),
        .ParentFilePath = path != NULL ? wide(path) : NULL,
    };
    return SetVirtualDiskInformation(handle, &info);
}

static DWORD
set_parent_at(HANDLE handle, ULONG depth, const char *path)
{
    SET_VIRTUAL_DISK_INFO info = {
        .Version = SET(PARENT_PATH_WITH_DEPTH),
        .ParentPathWithDepthInfo =
            {
                .ChildDepth = depth,
                .ParentFilePath = path != NULL ? wide(path) : NULL,
            },
    };
    return SetVirtualDiskInformation(handle, &info);
}

static DWORD
set_locator(HANDLE handle, const void *linkage, const char *path)
{
    SET_VIRTUAL_DISK_INFO info = {
        .Version = SET(PARENT_LOCATOR),
        .ParentLocator = {.ParentFilePath = wide(path)},
    };
    memcpy(&info.ParentLocator.LinkageId, linkage, sizeof(GUID));
    return SetVirtualDiskInformation(handle, &info);
}

static DWORD
set_guid(HANDLE handle, unsigned version, const GUID *guid)
{
    SET_VIRTUAL_DISK_INFO info = {
        .Version = version,
        .UniqueIdentifier = *guid,
    };
    return SetVirtualDiskInformation(handle, &info);
}

static DWORD
set_sector_size(HANDLE handle, ULONG size)
{
    SET_VIRTUAL_DISK_INFO info = {
        .Version = SET(PHYSICAL_SECTOR_SIZE),
        .VhdPhysicalSectorSize = size,
    };
    return SetVirtualDiskInformation(handle, &info);
}

static GET_VIRTUAL_DISK_INFO
info_of(HANDLE handle, unsigned version)
{
    GET_VIRTUAL_DISK_INFO info = {.Version = version};
    ULONG size = sizeof(info);
    CHECK_OK(GetVirtualDiskInformation(handle, &size, &info, NULL));
    return info;
}

/* The parent as the handle sees it. */
static void
check_parent(HANDLE handle, const char *path)
{
    static uint64_t buffer[1024];
    char real[4096];
    GET_VIRTUAL_DISK_INFO *info = (GET_VIRTUAL_DISK_INFO *)buffer;
    ULONG size = sizeof(buffer);
    info->Version = GET(PARENT_LOCATION);
    CHECK_OK(GetVirtualDiskInformation(handle, &size, info, NULL));
    CHECK(info->ParentLocation.ParentResolved);
    CHECK(realpath(path, real) != NULL);
    CHECK_STR(real, narrow(info->ParentLocation.ParentLocationBuffer));
}

static HANDLE
open_alone(const char *path)
{
    VIRTUAL_STORAGE_TYPE type = {.DeviceId = 0};
    OPEN_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = OPEN_VIRTUAL_DISK_VERSION_2,
    };
    HANDLE handle = NULL;
    CHECK_OK(OpenVirtualDisk(&type, wide(path), 0,
                             OPEN_VIRTUAL_DISK_FLAG_NO_PARENTS, &parameters,
                             &handle));
    return handle;
}

/* ---- misuse ---- */

static void
test_arguments(void)
{
    SET_VIRTUAL_DISK_INFO info = {.Version = SET(CHANGE_TRACKING_STATE)};
    make_image(path_of("a.vhdx"), VHDX, NULL);
    HANDLE handle = open_all(path_of("a.vhdx"));
    CHECK_EQ(ERROR_NOT_SUPPORTED, SetVirtualDiskInformation(handle, &info));
    CHECK_EQ(ERROR_INVALID_PARAMETER,
             set_guid(handle, SET(VIRTUAL_DISK_ID), &no_id));
    CHECK_EQ(ERROR_INVALID_PARAMETER,
             set_guid(handle, SET(IDENTIFIER), &no_id));
    CHECK_EQ(ERROR_NOT_SUPPORTED, set_guid(handle, SET(IDENTIFIER), &some_id));
    CHECK_EQ(ERROR_INVALID_PARAMETER, set_sector_size(handle, 0));
    CHECK_EQ(ERROR_INVALID_PARAMETER, set_sector_size(handle, 1024));
    CHECK_EQ(ERROR_INVALID_PARAMETER,
             set_parent_at(handle, 0, path_of("a.vhdx")));
    CHECK_EQ(ERROR_INVALID_PARAMETER,
             set_parent_at(handle, 2, path_of("a.vhdx")));
    CHECK_EQ(ERROR_INVALID_PARAMETER,
             set_locator(handle, &no_id, path_of("a.vhdx")));
    CHECK_EQ(ERROR_VHD_INVALID_TYPE, set_parent(handle, path_of("a.vhdx")));
    close_handle(handle);
}

static void
test_state(void)
{
    HANDLE handle;
    CHECK_OK(open_2(path_of("a.vhdx"), false, true, &handle));
    CHECK_EQ(ERROR_ACCESS_DENIED, set_sector_size(handle, 512));
    close_handle(handle);
    CHECK_OK(open_1(path_of("a.vhdx"), VIRTUAL_DISK_ACCESS_READ, 1, &handle));
    CHECK_EQ(ERROR_ACCESS_DENIED, set_sector_size(handle, 512));
    close_handle(handle);
    handle = open_all(path_of("a.vhdx"));
    HANDLE other = open_all(path_of("a.vhdx"));
    CHECK_OK(attach(handle, NO_HOST));
    CHECK_EQ(ERROR_VHD_INVALID_STATE, set_sector_size(handle, 512));
    CHECK_EQ(ERROR_SHARING_VIOLATION, set_sector_size(other, 512));
    CHECK_OK(detach(handle));
    close_handle(other);
    CHECK_EQ(
        4096,
        info_of(handle, GET(VHD_PHYSICAL_SECTOR_SIZE)).VhdPhysicalSectorSize);
    close_handle(handle);
}

/* ---- the image itself ---- */

static void
test_vhdx(void)
{
    HANDLE handle = open_all(path_of("a.vhdx"));
    CHECK_OK(set_sector_size(handle, 512));
    CHECK_OK(set_guid(handle, SET(VIRTUAL_DISK_ID), &some_id));
    /* The same handle sees it, and so does another. */
    for (int i = 0; i < 2; i++) {
        GUID id = info_of(handle, GET(VIRTUAL_DISK_ID)).VirtualDiskId;
        CHECK_BYTES(&some_id, &id, sizeof(id));
        CHECK_EQ(512, info_of(handle, GET(VHD_PHYSICAL_SECTOR_SIZE))
                          .VhdPhysicalSectorSize);
        close_handle(handle);
        handle = open_all(path_of("a.vhdx"));
    }
    close_handle(handle);
}

static void
test_vhd(void)
{
    make_image(path_of("a.vhd"), VHD, NULL);
    HANDLE handle = open_all(path_of("a.vhd"));
    CHECK_OK(set_guid(handle, SET(IDENTIFIER), &some_id));
    GUID id = info_of(handle, GET(IDENTIFIER)).Identifier;
    CHECK_BYTES(&some_id, &id, sizeof(id));
    CHECK_EQ(ERROR_NOT_SUPPORTED,
             set_guid(handle, SET(VIRTUAL_DISK_ID), &some_id));
    CHECK_EQ(ERROR_NOT_SUPPORTED, set_sector_size(handle, 4096));
    close_handle(handle);
    /* At 68 of the footer, the last sector and the first; as Windows writes
     * it, in the order of memory, its first three fields little-endian. */
    uint8_t footers[2][512];
    FILE *file = fopen(path_of("a.vhd"), "rb");
    CHECK(file != NULL && fread(footers[0], 512, 1, file) == 1 &&
          fseek(file, -512, SEEK_END) == 0 &&
          fread(footers[1], 512, 1, file) == 1);
    fclose(file);
    CHECK_BYTES(footers[0], footers[1], 512);
    static const uint8_t on_disk[16] = {0xA3, 0xA2, 0xA1, 0xA0, 0xB1, 0xB0,
                                        0xC1, 0xC0, 1,    2,    3,    4};
    CHECK_BYTES(on_disk, footers[0] + 68, 16);
}

/* ---- parents ---- */

/* a is the leaf, b its parent, c that one's. */
static void
make_three(unsigned device_id)
{
    make_image(path_of("c.img"), device_id, NULL);
    write_byte(path_of("c.img"), 16, 1, 3);
    make_image(path_of("b.img"), device_id, path_of("c.img"));
    write_byte(path_of("b.img"), 8, 1, 2);
    make_image(path_of("a.img"), device_id, path_of("b.img"));
    write_byte(path_of("a.img"), 0, 1, 1);
}

static void
check_three(void)
{
    CHECK_EQ(1, read_byte(path_of("a.img"), 0));
    CHECK_EQ(2, read_byte(path_of("a.img"), 8));
    CHECK_EQ(3, read_byte(path_of("a.img"), 16));
}

/* A parent that has been moved, found again. */
static void
test_moved(unsigned device_id)
{
    HANDLE handle;
    make_three(device_id);
    CHECK(mkdir(path_of("sub"), 0700) == 0);
    CHECK(rename(path_of("c.img"), path_of("sub/c.img")) == 0);
    CHECK_EQ(ERROR_VHD_DIFFERENCING_CHAIN_ERROR_IN_PARENT,
             open_2(path_of("a.img"), false, false, &handle));
    handle = open_alone(path_of("b.img"));
    CHECK_EQ(ERROR_FILE_NOT_FOUND, set_parent(handle, path_of("c.img")));
    CHECK_OK(set_parent(handle, path_of("sub/c.img")));
    close_handle(handle);
    check_three();
    /* And back, through the whole chain. */
    handle = open_all(path_of("a.img"));
    CHECK(link(path_of("sub/c.img"), path_of("d.img")) == 0);
    CHECK_OK(set_parent_at(handle, 2, path_of("d.img")));
    CHECK(unlink(path_of("sub/c.img")) == 0);
    check_parent(handle, path_of("b.img"));
    CHECK_OK(attach(handle, NO_HOST));
    close_handle(handle);
    check_three();
    handle = open_all(path_of("b.img"));
    check_parent(handle, path_of("d.img"));
    close_handle(handle);
    CHECK(rmdir(path_of("sub")) == 0);
    CHECK(unlink(path_of("d.img")) == 0);
}

static void
test_wrong_parents(unsigned device_id, unsigned other_device)
{
    make_three(device_id);
    make_image(path_of("other.img"), other_device, NULL);
    make_image(path_of("same.img"), device_id, NULL);
    HANDLE handle = open_all(path_of("b.img"));
    CHECK_EQ(ERROR_VHD_INVALID_TYPE, set_parent(handle, path_of("other.img")));
    CHECK_EQ(ERROR_VHD_CHILD_PARENT_ID_MISMATCH,
             set_parent(handle, path_of("same.img")));
    CHECK_EQ(ERROR_VHD_DIFFERENCING_CHAIN_CYCLE_DETECTED,
             set_parent(handle, path_of("b.img")));
    CHECK_EQ(ERROR_VHD_DIFFERENCING_CHAIN_CYCLE_DETECTED,
             set_parent(handle, path_of("a.img")));
    CHECK_EQ(ERROR_VHD_CHILD_PARENT_ID_MISMATCH,
             set_locator(handle, &other_id, path_of("c.img")));
    CHECK_EQ(ERROR_VHD_INVALID_TYPE,
             set_locator(handle, &other_id, path_of("other.img")));
    check_parent(handle, path_of("c.img"));
    close_handle(handle);
    check_three();
    CHECK(unlink(path_of("other.img")) == 0);
    CHECK(unlink(path_of("same.img")) == 0);
}

static void
test_parent_in_use(unsigned device_id)
{
    make_three(device_id);
    HANDLE handle = open_all(path_of("b.img"));
    HANDLE parent = open_all(path_of("c.img"));
    CHECK_OK(attach(parent, NO_HOST));
    CHECK_EQ(ERROR_SHARING_VIOLATION, set_parent(handle, path_of("c.img")));
    CHECK_OK(detach(parent));
    CHECK_OK(set_parent(handle, path_of("c.img")));
    close_handle(parent);
    close_handle(handle);
    check_three();
}

/* A parent that has been written since: the one way to go on with it. */
static void
test_locator(void)
{
    HANDLE handle;
    make_three(VHDX);
    write_byte(path_of("c.img"), 24, 1, 33);
    CHECK_EQ(ERROR_VHD_CHILD_PARENT_ID_MISMATCH,
             open_2(path_of("b.img"), false, false, &handle));
    handle = open_alone(path_of("b.img"));
    CHECK_EQ(ERROR_VHD_CHILD_PARENT_ID_MISMATCH,
             set_parent(handle, path_of("c.img")));
    struct vd_guid linkage = vhdx_data_write_guid(path_of("c.img"));
    CHECK_OK(set_locator(handle, &linkage, path_of("c.img")));
    close_handle(handle);
    check_three();
    CHECK_EQ(33, read_byte(path_of("a.img"), 24));
}

static void
test_size(void)
{
    VIRTUAL_STORAGE_TYPE type = {.DeviceId = VHD};
    CREATE_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = CREATE_VIRTUAL_DISK_VERSION_2,
        .Version2 = {.UniqueId = other_id, .MaximumSize = 2 * SMALL_BYTES},
    };
    HANDLE handle = NULL;
    make_three(VHD);
    CHECK_OK(CreateVirtualDisk(&type, wide(path_of("large.vhd")), 0, NULL, 0,
                               0, &parameters, NULL, &handle));
    close_handle(handle);
    handle = open_all(path_of("b.img"));
    CHECK_EQ(ERROR_VHD_CHILD_PARENT_SIZE_MISMATCH,
             set_locator(handle, &other_id, path_of("large.vhd")));
    close_handle(handle);
    CHECK(unlink(path_of("large.vhd")) == 0);
}

/* ---- metadata ---- */

static void
test_metadata(void)
{
    GUID items[4];
    ULONG count = 4;
    char text[8] = "";
    ULONG size = 0;
    HANDLE handle = open_all(path_of("a.vhdx"));
    CHECK_OK(EnumerateVirtualDiskMetadata(handle, &count, items));
    CHECK_EQ(0, count);
    CHECK_EQ(ERROR_NOT_FOUND,
             GetVirtualDiskMetadata(handle, &some_id, &size, NULL));
    CHECK_EQ(ERROR_NOT_FOUND, DeleteVirtualDiskMetadata(handle, &some_id));
    CHECK_OK(SetVirtualDiskMetadata(handle, &some_id, 6, "first"));
    CHECK_OK(SetVirtualDiskMetadata(handle, &other_id, 7, "second"));
    CHECK_OK(SetVirtualDiskMetadata(handle, &some_id, 4, "new"));
    close_handle(handle);

    handle = open_all(path_of("a.vhdx"));
    count = 0;
    CHECK_EQ(ERROR_INSUFFICIENT_BUFFER,
             EnumerateVirtualDiskMetadata(handle, &count, NULL));
    CHECK_EQ(2, count);
    memset(items, 0xEE, sizeof(items));
    count = 1;
    CHECK_EQ(ERROR_INSUFFICIENT_BUFFER,
             EnumerateVirtualDiskMetadata(handle, &count, items));
    CHECK_EQ(2, count);
    CHECK_EQ(0xEE, items[0].Data4[7]);
    CHECK_OK(EnumerateVirtualDiskMetadata(handle, &count, items));
    CHECK(IsEqualGUID(&items[0], &some_id) +
              IsEqualGUID(&items[1], &some_id) ==
          1);
    CHECK_EQ(0xEE, items[2].Data4[7]);
    CHECK_EQ(ERROR_INSUFFICIENT_BUFFER,
             GetVirtualDiskMetadata(handle, &some_id, &size, NULL));
    CHECK_EQ(4, size);
    size = 3;
    CHECK_EQ(ERROR_INSUFFICIENT_BUFFER,
             GetVirtualDiskMetadata(handle, &some_id, &size, text));
    CHECK_STR("", text);
    size = sizeof(text);
    CHECK_OK(GetVirtualDiskMetadata(handle, &some_id, &size, text));
    CHECK_EQ(4, size);
    CHECK_STR("new", text);
    CHECK_OK(DeleteVirtualDiskMetadata(handle, &some_id));
    CHECK_EQ(ERROR_NOT_FOUND,
             GetVirtualDiskMetadata(handle, &some_id, &size, text));
    close_handle(handle);
}

static void
test_metadata_full(void)
{
    static char large[(1 << 20) + 1];
    HANDLE handle = open_all(path_of("a.vhdx"));
    CHECK_EQ(ERROR_VHD_METADATA_FULL,
             SetVirtualDiskMetadata(handle, &some_id, sizeof(large), large));
    close_handle(handle);
}

static void
test_metadata_rights(void)
{
    ULONG count = 1;
    GUID item;
    char text[8];
    ULONG size = sizeof(text);
    HANDLE handle;
    CHECK_OK(
        open_1(path_of("a.vhdx"), VIRTUAL_DISK_ACCESS_METAOPS, 1, &handle));
    CHECK_EQ(ERROR_ACCESS_DENIED,
             EnumerateVirtualDiskMetadata(handle, &count, &item));
    CHECK_EQ(ERROR_ACCESS_DENIED,
             GetVirtualDiskMetadata(handle, &other_id, &size, text));
    close_handle(handle);
    CHECK_OK(open_2(path_of("a.vhdx"), true, false, &handle));
    CHECK_OK(EnumerateVirtualDiskMetadata(handle, &count, &item));
    CHECK(IsEqualGUID(&item, &other_id));
    CHECK_EQ(ERROR_ACCESS_DENIED,
             SetVirtualDiskMetadata(handle, &some_id, 1, text));
    CHECK_EQ(ERROR_ACCESS_DENIED,
             DeleteVirtualDiskMetadata(handle, &other_id));
    close_handle(handle);
}

/* Attached, it is read all the same. */
static void
test_metadata_attached(void)
{
    char text[8] = "";
    ULONG size = sizeof(text);
    HANDLE handle = open_all(path_of("a.vhdx"));
    CHECK_OK(attach(handle, NO_HOST));
    CHECK_OK(GetVirtualDiskMetadata(handle, &other_id, &size, text));
    CHECK_STR("second", text);
    CHECK_EQ(ERROR_VHD_INVALID_STATE,
             SetVirtualDiskMetadata(handle, &some_id, 1, text));
    CHECK_EQ(ERROR_VHD_INVALID_STATE,
             DeleteVirtualDiskMetadata(handle, &other_id));
    close_handle(handle);
}

static void
test_metadata_of_others(void)
{
    ULONG count = 1;
    GUID item;
    make_vhd(path_of("fixed.vhd"), NULL, 0);
    HANDLE handle = open_all(path_of("fixed.vhd"));
    CHECK_EQ(ERROR_NOT_SUPPORTED,
             EnumerateVirtualDiskMetadata(handle, &count, &item));
    CHECK_EQ(ERROR_NOT_SUPPORTED,
             GetVirtualDiskMetadata(handle, &some_id, &count, &item));
    CHECK_EQ(ERROR_NOT_SUPPORTED,
             SetVirtualDiskMetadata(handle, &some_id, 1, &item));
    CHECK_EQ(ERROR_NOT_SUPPORTED, DeleteVirtualDiskMetadata(handle, &some_id));
    CHECK_EQ(1, count);
    close_handle(handle);
}

static void
test_out_of_memory(void)
{
    DWORD error = ERROR_NOT_ENOUGH_MEMORY;
    int refusals = 0;
    make_three(VHDX);
    HANDLE handle = open_all(path_of("a.img"));
    unsigned descriptors = count_descriptors();
    for (int n = 0; error != 0 && n < 2000; n++) {
        check_fail_allocation(n);
        error = set_parent_at(handle, 2, path_of("c.img"));
        refusals += check_fail_allocation(-1);
        CHECK(error == 0 || error == ERROR_NOT_ENOUGH_MEMORY ||
              error == ERROR_VHD_PARENT_VHD_NOT_FOUND ||
              error == ERROR_VHD_DIFFERENCING_CHAIN_ERROR_IN_PARENT);
        CHECK(descriptors_become(descriptors));
    }
    CHECK_OK(error);
    CHECK(refusals >= 10);
    close_handle(handle);
    check_three();
}

int
main(int argc, char **argv)
{
    (void)argc;
    unsigned descriptors = count_descriptors();
    directory = argv[1];
    test_arguments();
    test_state();
    test_vhdx();
    test_moved(VHDX);
    test_wrong_parents(VHDX, VHD);
    test_parent_in_use(VHDX);
    test_locator();
    test_vhd();
    test_moved(VHD);
    test_wrong_parents(VHD, VHDX);
    test_parent_in_use(VHD);
    test_size();
    test_metadata();
    test_metadata_full();
    test_metadata_rights();
    test_metadata_attached();
    test_metadata_of_others();
    test_out_of_memory();
    CHECK(handles_become(0));
    CHECK(descriptors_become(descriptors));
    return check_result();
}
