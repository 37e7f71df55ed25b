/*
 * GetVirtualDiskInformation: all classes, of a fixed VHD and an ISO image,
 * and the contract about sizes (API 2.6).  Needs no privilege.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <virtdisk.h>

#include "api/handles.h"
#include "api_support.h"
#include "check.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Per class: what a buffer needs (8 bytes and the member, API 1.3), and the
 * outcome for a VHD without partitions and for an ISO image. */
static const struct class_row {
    ULONG number;
    ULONG size;
    DWORD vhd_error;
    DWORD iso_error;
} class_rows[] = {
    {0, 0, 87, 87},
    {1, 32, 0, 0},
    {2, 24, 0, 50},
    {3, 0, 0xC03A001B, 0xC03A001B},
    {4, 0, 0xC03A001B, 0xC03A001B},
    {5, 0, 0xC03A001B, 0xC03A001B},
    {6, 28, 0, 0},
    {7, 12, 0, 50},
    {8, 12, 0, 0},
    {9, 20, 0, 0},
    {10, 12, 0, 0},
    {11, 16, 0xC03A0026, 0xC03A0026},
    {12, 12, 0, 0},
    {13, 12, 0, 0},
    {14, 0, 50, 50},
    {15, 0, 50, 50},
    {16, 0, 87, 87},
    {0x7FFFFFFF, 0, 87, 87},
    {0xFFFFFFFF, 0, 87, 87},
};

static DWORD
get(HANDLE handle, ULONG number, GET_VIRTUAL_DISK_INFO *info)
{
    ULONG size = sizeof(*info);
    ULONG used = 0;
    memset(info, 0xEE, sizeof(*info));
    info->Version = number;
    DWORD error = GetVirtualDiskInformation(handle, &size, info, &used);
    CHECK_EQ(sizeof(*info), size); /* left alone */
    CHECK_EQ(error == 0, used != 0);
    return error;
}

/* A buffer of every size up to the one needed, exactly that long. */
static void
check_sizes(HANDLE handle, ULONG number, ULONG needed)
{
    for (ULONG length = 4; length <= needed; length++) {
        GET_VIRTUAL_DISK_INFO *info = malloc(length);
        ULONG size = length;
        ULONG used = 99;
        memcpy(info, &number, sizeof(number));
        DWORD error = GetVirtualDiskInformation(handle, &size, info, &used);
        CHECK_EQ(length < needed ? ERROR_INSUFFICIENT_BUFFER : 0, error);
        CHECK_EQ(needed, size);
        CHECK_EQ(length < needed ? 99 : needed, used);
        free(info);
    }
}

static void
test_classes(HANDLE vhd, HANDLE iso)
{
    for (size_t i = 0; i < COUNT(class_rows); i++) {
        const struct class_row *row = &class_rows[i];
        GET_VIRTUAL_DISK_INFO info;
        bool good = CHECK_EQ(row->vhd_error, get(vhd, row->number, &info));
        good &= CHECK_EQ(row->iso_error, get(iso, row->number, &info));
        if (!good) {
            fprintf(stderr, "    class %u\n", row->number);
        }
        if (row->vhd_error == 0) {
            check_sizes(vhd, row->number, row->size);
        }
    }
}

static void
test_optional_size(HANDLE vhd)
{
    GET_VIRTUAL_DISK_INFO info = {.Version = GET_VIRTUAL_DISK_INFO_SIZE};
    ULONG size = sizeof(info);
    CHECK_OK(GetVirtualDiskInformation(vhd, &size, &info, NULL));
    /* A class that is none does not need a larger buffer. */
    size = 4;
    info.Version = GET_VIRTUAL_DISK_INFO_PARENT_LOCATION;
    CHECK_EQ(ERROR_VHD_INVALID_TYPE,
             GetVirtualDiskInformation(vhd, &size, &info, NULL));
    CHECK_EQ(4, size);
}

static void
test_vhd_values(HANDLE vhd)
{
    GET_VIRTUAL_DISK_INFO info;
    CHECK_OK(get(vhd, GET_VIRTUAL_DISK_INFO_SIZE, &info));
    CHECK_EQ(VHD_BYTES, info.Size.VirtualSize);
    CHECK_EQ(VHD_BYTES + 512, info.Size.PhysicalSize);
    CHECK_EQ(0, info.Size.BlockSize);
    CHECK_EQ(512, info.Size.SectorSize);
    CHECK_OK(get(vhd, GET_VIRTUAL_DISK_INFO_IDENTIFIER, &info));
    CHECK_BYTES(vhd_identifier, &info.Identifier, 16);
    CHECK_OK(get(vhd, GET_VIRTUAL_DISK_INFO_VIRTUAL_STORAGE_TYPE, &info));
    CHECK_EQ(VIRTUAL_STORAGE_TYPE_DEVICE_VHD,
             info.VirtualStorageType.DeviceId);
    CHECK_BYTES(&VIRTUAL_STORAGE_TYPE_VENDOR_MICROSOFT,
                &info.VirtualStorageType.VendorId, sizeof(GUID));
    CHECK_OK(get(vhd, GET_VIRTUAL_DISK_INFO_PROVIDER_SUBTYPE, &info));
    CHECK_EQ(2, info.ProviderSubtype);
    CHECK_OK(get(vhd, GET_VIRTUAL_DISK_INFO_IS_4K_ALIGNED, &info));
    CHECK_EQ(TRUE, info.Is4kAligned);
    CHECK_OK(get(vhd, GET_VIRTUAL_DISK_INFO_VHD_PHYSICAL_SECTOR_SIZE, &info));
    CHECK_EQ(512, info.VhdPhysicalSectorSize);
    CHECK_OK(get(vhd, GET_VIRTUAL_DISK_INFO_FRAGMENTATION, &info));
    CHECK_EQ(0, info.FragmentationPercentage);
    CHECK_OK(get(vhd, GET_VIRTUAL_DISK_INFO_IS_LOADED, &info));
    CHECK_EQ(FALSE, info.IsLoaded);
}

static void
test_iso_values(HANDLE iso)
{
    GET_VIRTUAL_DISK_INFO info;
    CHECK_OK(get(iso, GET_VIRTUAL_DISK_INFO_SIZE, &info));
    CHECK_EQ(ISO_BYTES, info.Size.VirtualSize);
    CHECK_EQ(ISO_BYTES, info.Size.PhysicalSize);
    CHECK_EQ(0, info.Size.BlockSize);
    CHECK_EQ(2048, info.Size.SectorSize);
    CHECK_OK(get(iso, GET_VIRTUAL_DISK_INFO_VIRTUAL_STORAGE_TYPE, &info));
    CHECK_EQ(VIRTUAL_STORAGE_TYPE_DEVICE_ISO,
             info.VirtualStorageType.DeviceId);
    CHECK_OK(get(iso, GET_VIRTUAL_DISK_INFO_IS_4K_ALIGNED, &info));
    CHECK_EQ(TRUE, info.Is4kAligned);
    CHECK_OK(get(iso, GET_VIRTUAL_DISK_INFO_VHD_PHYSICAL_SECTOR_SIZE, &info));
    CHECK_EQ(2048, info.VhdPhysicalSectorSize);
}

/* A power of two between the least and the largest that a kernel has. */
static void
test_physical_disk(HANDLE vhd)
{
    GET_VIRTUAL_DISK_INFO info;
    CHECK_OK(get(vhd, GET_VIRTUAL_DISK_INFO_PHYSICAL_DISK, &info));
    ULONG logical = info.PhysicalDisk.LogicalSectorSize;
    ULONG physical = info.PhysicalDisk.PhysicalSectorSize;
    CHECK(logical >= 512 && logical <= 65536);
    CHECK_EQ(0, logical & (logical - 1));
    CHECK(physical >= logical);
    CHECK(info.PhysicalDisk.IsRemote == FALSE ||
          info.PhysicalDisk.IsRemote == TRUE);
}

/* The physical size is the file's now, not that of when it was opened. */
static void
test_file_grows(const char *path)
{
    GET_VIRTUAL_DISK_INFO info;
    make_iso(path);
    HANDLE iso = open_iso(path);
    CHECK_EQ(0, truncate(path, ISO_BYTES + 2048));
    CHECK_OK(get(iso, GET_VIRTUAL_DISK_INFO_SIZE, &info));
    CHECK_EQ(ISO_BYTES, info.Size.VirtualSize);
    CHECK_EQ(ISO_BYTES + 2048, info.Size.PhysicalSize);
    close_handle(iso);
}

/* An image that has become shorter under the handle. */
static void
test_file_shrinks(const char *path)
{
    GET_VIRTUAL_DISK_INFO info;
    make_vhd(path, NULL, 0);
    HANDLE vhd = open_all(path);
    CHECK_EQ(0, truncate(path, 100));
    CHECK_OK(get(vhd, GET_VIRTUAL_DISK_INFO_SIZE, &info));
    CHECK_EQ(VHD_BYTES, info.Size.VirtualSize);
    CHECK_EQ(100, info.Size.PhysicalSize);
    CHECK_EQ(
        ERROR_VHD_DRIVE_FOOTER_MISSING,
        get(vhd, GET_VIRTUAL_DISK_INFO_SMALLEST_SAFE_VIRTUAL_SIZE, &info));
    close_handle(vhd);
}

static void
test_smallest_size(const char *path)
{
    static const struct mbr_entry entries[4] = {
        {0x07, 64, 1000},
        {0x83, 2048, 4096},
    };
    uint8_t sector[512];
    GET_VIRTUAL_DISK_INFO info;
    make_mbr(sector, entries);
    make_vhd(path, sector, sizeof(sector));
    HANDLE vhd = open_all(path);
    CHECK_OK(
        get(vhd, GET_VIRTUAL_DISK_INFO_SMALLEST_SAFE_VIRTUAL_SIZE, &info));
    CHECK_EQ((2048 + 4096) * 512, info.SmallestSafeVirtualSize);
    check_sizes(vhd, GET_VIRTUAL_DISK_INFO_SMALLEST_SAFE_VIRTUAL_SIZE, 16);
    close_handle(vhd);
}

static void
test_out_of_memory(HANDLE vhd)
{
    GET_VIRTUAL_DISK_INFO info;
    check_fail_allocation(0);
    DWORD error =
        get(vhd, GET_VIRTUAL_DISK_INFO_SMALLEST_SAFE_VIRTUAL_SIZE, &info);
    CHECK(check_fail_allocation(-1));
    CHECK_EQ(ERROR_NOT_ENOUGH_MEMORY, error);
}

int
main(int argc, char **argv)
{
    (void)argc;
    unsigned descriptors = count_descriptors();
    const char *vhd_path = check_path(argv[1], "info.vhd");
    const char *iso_path = check_path(argv[1], "info.iso");
    make_vhd(vhd_path, NULL, 0);
    make_iso(iso_path);
    HANDLE vhd = open_all(vhd_path);
    HANDLE iso = open_iso(iso_path);
    test_classes(vhd, iso);
    test_optional_size(vhd);
    test_vhd_values(vhd);
    test_iso_values(iso);
    test_physical_disk(vhd);
    test_out_of_memory(vhd);
    close_handle(vhd);
    close_handle(iso);
    test_file_grows(check_path(argv[1], "grows.iso"));
    test_file_shrinks(check_path(argv[1], "shrinks.vhd"));
    test_smallest_size(check_path(argv[1], "parts.vhd"));
    CHECK(handles_become(0));
    CHECK(descriptors_become(descriptors));
    return check_result();
}
