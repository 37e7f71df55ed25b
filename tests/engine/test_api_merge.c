/*
 * MergeVirtualDisk: misuse, who stands in the way, what becomes of the chain
 * and of the handle, and the asynchronous call.  Needs no privilege.
 *
 * A chain has four images, 0 the leaf; each has written its own number + 1 to
 * its own sector, and to sector 0.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <virtdisk.h>

#include "api/handles.h"
#include "api_support.h"
#include "check.h"

#define VHD VIRTUAL_STORAGE_TYPE_DEVICE_VHD
#define VHDX VIRTUAL_STORAGE_TYPE_DEVICE_VHDX
#define LAYERS 4
#define NO_HOST ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST

static const char *directory;

static const char *
layer_path(unsigned layer)
{
    char name[16];
    snprintf(name, sizeof(name), "%u.img", layer);
    return check_path(directory, name);
}

/* The sector of layer 2 lies in a block of its own, the others in one. */
static uint32_t
sector_of(unsigned layer)
{
    return layer == 2 ? 8192 : 8 * (layer + 1);
}

static void
make_chain(unsigned device_id)
{
    for (unsigned i = LAYERS; i-- > 0;) {
        make_image(layer_path(i), device_id,
                   i + 1 < LAYERS ? layer_path(i + 1) : NULL);
        write_byte(layer_path(i), sector_of(i), 1, (uint8_t)(i + 1));
        write_byte(layer_path(i), 0, 1, (uint8_t)(i + 1));
    }
}

/* Through an image: what it and those below have written. */
static void
check_content(unsigned image, unsigned first)
{
    const char *path = layer_path(image);
    CHECK_EQ(first + 1, read_byte(path, 0));
    for (unsigned i = 0; i < LAYERS; i++) {
        CHECK_EQ(i >= first ? i + 1 : 0, read_byte(path, sector_of(i)));
    }
}

static DWORD
merge_1(HANDLE handle, ULONG depth)
{
    MERGE_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = MERGE_VIRTUAL_DISK_VERSION_1,
        .Version1 = {.MergeDepth = depth},
    };
    return MergeVirtualDisk(handle, 0, &parameters, NULL);
}

static DWORD
merge_2(HANDLE handle, ULONG source, ULONG target, OVERLAPPED *overlapped)
{
    MERGE_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = MERGE_VIRTUAL_DISK_VERSION_2,
        .Version2 = {.MergeSourceDepth = source, .MergeTargetDepth = target},
    };
    return MergeVirtualDisk(handle, 0, &parameters, overlapped);
}

/* The parent as the handle sees it, "" if there is none. */
static const char *
parent_of(HANDLE handle)
{
    static uint64_t buffer[512];
    GET_VIRTUAL_DISK_INFO *info = (GET_VIRTUAL_DISK_INFO *)buffer;
    ULONG size = sizeof(buffer);
    info->Version = GET_VIRTUAL_DISK_INFO_PARENT_LOCATION;
    DWORD error = GetVirtualDiskInformation(handle, &size, info, NULL);
    if (error != 0) {
        CHECK_EQ(ERROR_VHD_INVALID_TYPE, error);
        return "";
    }
    CHECK(info->ParentLocation.ParentResolved);
    return narrow(info->ParentLocation.ParentLocationBuffer);
}

static void
check_parent(HANDLE handle, unsigned layer)
{
    char real[4096];
    CHECK(realpath(layer_path(layer), real) != NULL);
    CHECK_STR(real, parent_of(handle));
}

/* ---- misuse ---- */

static void
test_depths(void)
{
    HANDLE handle = open_all(layer_path(0));
    CHECK_EQ(ERROR_INVALID_PARAMETER, merge_1(handle, 0));
    CHECK_EQ(ERROR_INVALID_PARAMETER, merge_1(handle, LAYERS));
    CHECK_EQ(ERROR_INVALID_PARAMETER, merge_1(handle, UINT32_MAX));
    CHECK_EQ(ERROR_INVALID_PARAMETER, merge_2(handle, 0, 1, NULL));
    CHECK_EQ(ERROR_INVALID_PARAMETER, merge_2(handle, 2, 2, NULL));
    CHECK_EQ(ERROR_INVALID_PARAMETER, merge_2(handle, 3, 2, NULL));
    CHECK_EQ(ERROR_INVALID_PARAMETER, merge_2(handle, 1, LAYERS + 1, NULL));
    close_handle(handle);
}

static void
test_rights(void)
{
    HANDLE handle;
    CHECK_OK(open_2(layer_path(0), false, true, &handle));
    CHECK_EQ(ERROR_ACCESS_DENIED, merge_1(handle, 1));
    close_handle(handle);
    CHECK_OK(open_1(layer_path(0), VIRTUAL_DISK_ACCESS_ATTACH_RW, 2, &handle));
    CHECK_EQ(ERROR_ACCESS_DENIED, merge_1(handle, 1));
    close_handle(handle);
    /* RWDepth has to be more than MergeDepth. */
    CHECK_OK(open_1(layer_path(0), VIRTUAL_DISK_ACCESS_ALL, 2, &handle));
    CHECK_EQ(ERROR_ACCESS_DENIED, merge_1(handle, 2));
    CHECK_EQ(ERROR_INVALID_PARAMETER, merge_2(handle, 1, 2, NULL));
    close_handle(handle);
    handle = open_all(layer_path(LAYERS - 1));
    CHECK_EQ(ERROR_VHD_INVALID_TYPE, merge_1(handle, 1));
    close_handle(handle);
}

static void
test_without_parents(void)
{
    VIRTUAL_STORAGE_TYPE type = {.DeviceId = 0};
    OPEN_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = OPEN_VIRTUAL_DISK_VERSION_2,
    };
    HANDLE handle;
    CHECK_OK(OpenVirtualDisk(&type, wide(layer_path(0)), 0,
                             OPEN_VIRTUAL_DISK_FLAG_NO_PARENTS, &parameters,
                             &handle));
    CHECK_EQ(ERROR_VHD_PARENT_VHD_NOT_FOUND, merge_1(handle, 1));
    close_handle(handle);
}

/* ---- a virtual machine's saved state (FORMATS.md 1.2, 1.16) ---- */

static void
patch_footer(FILE *file, long offset, int whence)
{
    uint8_t footer[512];
    CHECK(fseek(file, offset, whence) == 0 &&
          fread(footer, sizeof(footer), 1, file) == 1);
    CHECK_BYTES("conectix", footer, 8);
    footer[84] = 1;
    uint32_t sum = 0;
    for (size_t i = 0; i < sizeof(footer); i++) {
        sum += i >= 64 && i < 68 ? 0 : footer[i];
    }
    for (size_t i = 0; i < 4; i++) {
        footer[64 + i] = (uint8_t)(~sum >> (24 - 8 * i));
    }
    CHECK(fseek(file, offset, whence) == 0 &&
          fwrite(footer, sizeof(footer), 1, file) == 1);
}

static void
test_saved_state(void)
{
    make_chain(VHD);
    FILE *file = fopen(layer_path(1), "r+b");
    if (file == NULL) {
        check_broken("fopen");
    }
    patch_footer(file, 0, SEEK_SET);
    patch_footer(file, -512, SEEK_END);
    fclose(file);
    HANDLE handle = open_all(layer_path(0));
    CHECK_EQ(ERROR_VHD_INVALID_STATE, merge_1(handle, 1));
    CHECK_EQ(ERROR_VHD_INVALID_STATE, merge_2(handle, 2, 3, NULL));
    CHECK_EQ(ERROR_VHD_INVALID_STATE, merge_2(handle, 3, 4, NULL));
    close_handle(handle);
    handle = open_all(layer_path(2)); /* which does not stand on it */
    CHECK_OK(merge_1(handle, 1));
    close_handle(handle);
}

/* ---- who stands in the way ---- */

static void
test_in_use(void)
{
    HANDLE handle = open_all(layer_path(0));
    HANDLE other = open_all(layer_path(0));
    CHECK_OK(attach(handle, NO_HOST));
    CHECK_EQ(ERROR_VHD_INVALID_STATE, merge_1(handle, 1));
    CHECK_EQ(ERROR_SHARING_VIOLATION, merge_1(other, 1));
    CHECK_OK(detach(handle));
    close_handle(other);
    /* The target, only to be read, by somebody else. */
    CHECK_OK(open_2(layer_path(1), false, true, &other));
    CHECK_OK(attach(other, NO_HOST | ATTACH_VIRTUAL_DISK_FLAG_READ_ONLY));
    CHECK_EQ(ERROR_SHARING_VIOLATION, merge_1(handle, 1));
    CHECK_EQ(ERROR_SHARING_VIOLATION, merge_1(handle, 2));
    CHECK_OK(detach(other));
    close_handle(other);
    close_handle(handle);
    check_content(0, 0);
    check_content(1, 1);
}

/* ---- merging ---- */

static void
test_leaf(unsigned device_id)
{
    HANDLE handle;
    make_chain(device_id);
    CHECK_OK(open_1(layer_path(0), VIRTUAL_DISK_ACCESS_ALL, 2, &handle));
    CHECK_OK(merge_1(handle, 1));
    check_content(1, 0);
    /* The leaf has not been deleted, and reads as before. */
    check_content(0, 0);
    check_parent(handle, 1);
    close_handle(handle);
    handle = open_all(layer_path(1));
    check_parent(handle, 2);
    close_handle(handle);
    check_content(2, 2);
}

static void
test_all(unsigned device_id)
{
    make_chain(device_id);
    HANDLE handle = open_all(layer_path(0));
    CHECK_OK(merge_1(handle, LAYERS - 1));
    check_content(LAYERS - 1, 0);
    check_content(0, 0);
    close_handle(handle);
    /* Without those that are not needed any more. */
    for (unsigned i = 0; i + 1 < LAYERS; i++) {
        CHECK(unlink(layer_path(i)) == 0);
    }
    check_content(LAYERS - 1, 0);
}

/* The leaf stands on what was two below. */
static void
test_middle(unsigned device_id)
{
    make_chain(device_id);
    HANDLE handle = open_all(layer_path(0));
    check_parent(handle, 1);
    CHECK_OK(merge_2(handle, 2, 3, NULL));
    check_parent(handle, 2);
    /* The handle is as good as a new one: it goes on with what there is. */
    CHECK(unlink(layer_path(1)) == 0);
    check_content(0, 0);
    CHECK_OK(attach(handle, NO_HOST));
    CHECK_OK(detach(handle));
    CHECK_OK(merge_2(handle, 2, 3, NULL));
    check_parent(handle, 3);
    CHECK(unlink(layer_path(2)) == 0);
    check_content(0, 0);
    check_content(3, 1);
    CHECK_EQ(ERROR_INVALID_PARAMETER, merge_2(handle, 2, 3, NULL));
    close_handle(handle);
}

/* ---- what belongs to the disk ---- */

static GUID
virtual_disk_id(const char *path)
{
    GET_VIRTUAL_DISK_INFO info = {
        .Version = GET_VIRTUAL_DISK_INFO_VIRTUAL_DISK_ID,
    };
    ULONG size = sizeof(info);
    HANDLE handle = open_all(path);
    CHECK_OK(GetVirtualDiskInformation(handle, &size, &info, NULL));
    close_handle(handle);
    return info.VirtualDiskId;
}

static void
test_identity(void)
{
    SET_VIRTUAL_DISK_INFO set = {
        .Version = SET_VIRTUAL_DISK_INFO_VIRTUAL_DISK_ID,
        .VirtualDiskId = {1, 2, 3, {4}},
    };
    make_chain(VHDX);
    HANDLE handle = open_all(layer_path(0));
    CHECK_OK(SetVirtualDiskInformation(handle, &set));
    GUID now = virtual_disk_id(layer_path(1));
    CHECK(!IsEqualGUID(&set.VirtualDiskId, &now));
    CHECK_OK(merge_1(handle, 1));
    close_handle(handle);
    now = virtual_disk_id(layer_path(1));
    CHECK(IsEqualGUID(&set.VirtualDiskId, &now));
    now = virtual_disk_id(layer_path(2));
    CHECK(!IsEqualGUID(&set.VirtualDiskId, &now));
}

/* ---- asynchronous ---- */

static void
test_overlapped(void)
{
    OVERLAPPED overlapped = {
        .hEvent = CreateEventW(NULL, TRUE, FALSE, NULL),
    };
    VIRTUAL_DISK_PROGRESS progress;
    DWORD transferred;
    make_chain(VHDX);
    HANDLE handle = open_all(layer_path(0));
    /* What can be seen at once is an answer of the call itself. */
    CHECK_EQ(ERROR_INVALID_PARAMETER, merge_2(handle, 1, 9, &overlapped));
    CHECK_EQ(ERROR_IO_PENDING, merge_2(handle, 1, 3, &overlapped));
    CHECK(GetOverlappedResult(handle, &overlapped, &transferred, TRUE));
    CHECK_OK(GetVirtualDiskOperationProgress(handle, &overlapped, &progress));
    CHECK_EQ(0, progress.OperationStatus);
    CHECK_EQ(SMALL_BYTES, progress.CompletionValue);
    CHECK_EQ(SMALL_BYTES, progress.CurrentValue);
    CHECK_EQ(WAIT_OBJECT_0, WaitForSingleObject(overlapped.hEvent, 0));
    close_handle(overlapped.hEvent);
    close_handle(handle);
    check_content(2, 0);
}

static void
test_out_of_memory(void)
{
    DWORD error = ERROR_NOT_ENOUGH_MEMORY;
    int refusals = 0;
    make_chain(VHDX);
    HANDLE handle = open_all(layer_path(0));
    unsigned descriptors = count_descriptors();
    for (int n = 0; error != 0 && n < 4000; n++) {
        check_fail_allocation(n);
        error = merge_2(handle, 2, 3, NULL);
        if (check_fail_allocation(-1)) {
            refusals++;
        }
        CHECK(error == 0 || error == ERROR_NOT_ENOUGH_MEMORY);
        CHECK(descriptors_become(descriptors));
    }
    CHECK_OK(error);
    CHECK(refusals >= 10);
    close_handle(handle);
    check_content(0, 0);
    check_content(2, 1);
}

static void
test_format(unsigned device_id)
{
    make_chain(device_id);
    test_depths();
    test_rights();
    test_without_parents();
    test_in_use();
    test_leaf(device_id);
    test_all(device_id);
    test_middle(device_id);
}

int
main(int argc, char **argv)
{
    (void)argc;
    unsigned descriptors = count_descriptors();
    directory = argv[1];
    test_format(VHDX);
    test_format(VHD);
    test_saved_state();
    test_identity();
    test_overlapped();
    test_out_of_memory();
    CHECK(handles_become(0));
    CHECK(descriptors_become(descriptors));
    return check_result();
}
