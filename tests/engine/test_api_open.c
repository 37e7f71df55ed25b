/*
 * OpenVirtualDisk: the contract of virtdisk.h (API 2.1), and which rights a
 * handle has.  Needs no privilege.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <virtdisk.h>

#include "api/handles.h"
#include "api/virtual_disk.h"
#include "api_support.h"
#include "check.h"
#include "disk/image_lock.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define READ VIRTUAL_DISK_ACCESS_READ
#define ALL VIRTUAL_DISK_ACCESS_ALL
#define RO VIRTUAL_DISK_ACCESS_ATTACH_RO
#define RW VIRTUAL_DISK_ACCESS_ATTACH_RW
#define DETACH VIRTUAL_DISK_ACCESS_DETACH
#define GET_INFO VIRTUAL_DISK_ACCESS_GET_INFO

static const char *vhd;
static const char *iso;

enum image { VHD, ISO };

/* Arguments, and the code they end with. */
static const struct open_row {
    const char *name;
    enum image image;
    uint32_t version; /* 0: Parameters is NULL */
    uint32_t mask;
    uint32_t flags;
    uint32_t device_id;
    DWORD error;
    uint32_t rw_depth;
} rows[] = {
    {"no parameters", VHD, 0, ALL, 0, 0, 0, 0},
    {"no parameters, no access", VHD, 0, 0, 0, 0, 0, 0},
    {"version 1", VHD, 1, ALL, 0, 0, 0, 1},
    {"version 1, read", VHD, 1, READ, 0, 0, 0, 0},
    {"version 2", VHD, 2, 0, 0, 0, 0, 0},
    {"version 3", VHD, 3, 0, 0, 0, 0, 0},
    {"version 2, mask", VHD, 2, GET_INFO, 0, 0, 87, 0},
    {"version 3, mask", VHD, 3, READ, 0, 0, 87, 0},
    {"mask too high", VHD, 1, 0x400000, 0, 0, 87, 1},
    {"mask too low", VHD, 1, 0x8000, 0, 0, 87, 1},
    {"mask of 24 bits", VHD, 1, 0xFFFFFF, 0, 0, 87, 1},
    {"flags, highest", VHD, 2, 0, 0x80000000, 0, 87, 0},
    {"flags, first unknown", VHD, 2, 0, 0x1000, 0, 87, 0},
    {"NO_PARENTS", VHD, 2, 0, 0x1, 0, 0, 0},
    {"BLANK_FILE", VHD, 2, 0, 0x2, 0, 50, 0},
    {"BOOT_DRIVE", VHD, 2, 0, 0x4, 0, 50, 0},
    {"CACHED_IO", VHD, 2, 0, 0x8, 0, 0, 0},
    {"CUSTOM_DIFF_CHAIN", VHD, 2, 0, 0x10, 0, 0, 0},
    {"CUSTOM_DIFF_CHAIN, version 3", VHD, 3, 0, 0x10, 0, 0, 0},
    {"CUSTOM_DIFF_CHAIN, version 1", VHD, 1, ALL, 0x10, 0, 87, 1},
    {"CUSTOM_DIFF_CHAIN, none", VHD, 0, ALL, 0x10, 0, 87, 0},
    {"PARENT_CACHED_IO", VHD, 2, 0, 0x20, 0, 0, 0},
    {"VHDSET_FILE_ONLY", VHD, 2, 0, 0x40, 0, 50, 0},
    {"IGNORE_RELATIVE_PARENT_LOCATOR", VHD, 2, 0, 0x80, 0, 0, 0},
    {"NO_WRITE_HARDENING", VHD, 2, 0, 0x100, 0, 0, 0},
    {"SUPPORT_COMPRESSED_VOLUMES", VHD, 2, 0, 0x200, 0, 0, 0},
    {"SUPPORT_SPARSE_FILES_ANY_FS", VHD, 2, 0, 0x400, 0, 0, 0},
    {"SUPPORT_ENCRYPTED_FILES", VHD, 2, 0, 0x800, 0, 0, 0},
    {"device VHD", VHD, 2, 0, 0, 2, 0, 0},
    {"device VHDSET", VHD, 2, 0, 0, 4, 50, 0},
    {"device 5", VHD, 2, 0, 0, 5, 0xC03A0014, 0},
    {"device far away", VHD, 2, 0, 0, 0xFFFFFFFF, 0xC03A0014, 0},
    {"ISO", ISO, 1, READ, 0, 0, 0, 0},
    {"ISO, depth ignored", ISO, 1, READ, 0, 0, 0, 1},
    {"ISO, no parameters", ISO, 0, READ, 0, 1, 0, 0},
    {"ISO, device", ISO, 1, READ, 0, 1, 0, 0},
    {"ISO, version 2", ISO, 2, 0, 0, 0, 87, 0},
    {"ISO, version 3", ISO, 3, 0, 0, 1, 87, 0},
    {"ISO, ATTACH_RW", ISO, 1, RW, 0, 0, 87, 0},
    {"ISO, CREATE", ISO, 1, VIRTUAL_DISK_ACCESS_CREATE, 0, 0, 87, 0},
    {"ISO, METAOPS", ISO, 1, VIRTUAL_DISK_ACCESS_METAOPS, 0, 0, 87, 0},
    {"ISO, ALL", ISO, 1, ALL, 0, 0, 87, 1},
    {"ISO, NO_PARENTS", ISO, 1, READ, 0x1, 0, 87, 0},
    {"ISO, BLANK_FILE", ISO, 1, READ, 0x2, 1, 87, 0},
    {"ISO, BOOT_DRIVE", ISO, 1, READ, 0x4, 1, 87, 0},
    {"ISO, CUSTOM_DIFF_CHAIN", ISO, 1, READ, 0x10, 0, 87, 0},
    {"ISO, CACHED_IO", ISO, 1, READ, 0x8, 0, 0, 0},
};

static DWORD
open_row(const struct open_row *row, HANDLE *out)
{
    VIRTUAL_STORAGE_TYPE type = {.DeviceId = row->device_id};
    OPEN_VIRTUAL_DISK_PARAMETERS parameters = {.Version = row->version};
    if (row->version == 1) {
        parameters.Version1.RWDepth = row->rw_depth;
    }
    return OpenVirtualDisk(&type, wide(row->image == VHD ? vhd : iso),
                           row->mask, row->flags,
                           row->version == 0 ? NULL : &parameters, out);
}

static void
test_rows(void)
{
    HANDLE untouched = (HANDLE)(uintptr_t)0x1111;
    for (size_t i = 0; i < COUNT(rows); i++) {
        HANDLE handle = untouched;
        bool good = CHECK_EQ(rows[i].error, open_row(&rows[i], &handle));
        good &= CHECK((handle == untouched) == (rows[i].error != 0));
        if (!good) {
            fprintf(stderr, "    %s\n", rows[i].name);
        }
        if (handle != untouched) {
            close_handle(handle);
        }
    }
}

static void
check_vendor(GUID vendor, DWORD expected)
{
    VIRTUAL_STORAGE_TYPE type = {.DeviceId = VIRTUAL_STORAGE_TYPE_DEVICE_VHD,
                                 .VendorId = vendor};
    HANDLE handle;
    if (CHECK_EQ(expected,
                 OpenVirtualDisk(&type, wide(vhd), ALL, 0, NULL, &handle)) &&
        expected == 0) {
        close_handle(handle);
    }
}

static void
test_vendors(void)
{
    GUID other = VIRTUAL_STORAGE_TYPE_VENDOR_MICROSOFT;
    other.Data4[7] ^= 1;
    check_vendor(VIRTUAL_STORAGE_TYPE_VENDOR_UNKNOWN, 0);
    check_vendor(VIRTUAL_STORAGE_TYPE_VENDOR_MICROSOFT, 0);
    check_vendor(other, ERROR_VIRTDISK_PROVIDER_NOT_FOUND);
}

static void
test_guids_of_parameters(void)
{
    VIRTUAL_STORAGE_TYPE type = {.DeviceId = 0};
    HANDLE handle;
    OPEN_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = OPEN_VIRTUAL_DISK_VERSION_3,
        .Version3 = {.ResiliencyGuid = {.Data1 = 7}},
    };
    CHECK_OK(OpenVirtualDisk(&type, wide(vhd), 0, 0, &parameters, &handle));
    close_handle(handle);
    parameters.Version3.SnapshotId.Data4[7] = 1;
    CHECK_EQ(ERROR_NOT_SUPPORTED,
             OpenVirtualDisk(&type, wide(vhd), 0, 0, &parameters, &handle));
}

/* What is wrong with the file is the lower layers' to say; it arrives. */
static void
test_files(const char *directory)
{
    static const uint8_t noise[4096] = {1, 2, 3};
    HANDLE handle;
    const char *other = check_path(directory, "noise");
    check_write_file(other, noise, sizeof(noise));
    CHECK_EQ(ERROR_VIRTDISK_PROVIDER_NOT_FOUND,
             open_2(other, false, false, &handle));
    CHECK_EQ(ERROR_FILE_NOT_FOUND,
             open_2(check_path(directory, "none.vhd"), false, false, &handle));
    CHECK_EQ(ERROR_PATH_NOT_FOUND, open_2(check_path(directory, "none/a.vhd"),
                                          true, false, &handle));
    CHECK_EQ(ERROR_INVALID_PARAMETER,
             open_2("/dev/null", true, false, &handle));
    VIRTUAL_STORAGE_TYPE type = {.DeviceId = 0};
    static const char16_t lone_surrogate[] = {'/', 0xD800, 0};
    CHECK_EQ(ERROR_INVALID_NAME,
             OpenVirtualDisk(&type, lone_surrogate, 0, 0, NULL, &handle));
}

/* How the file is opened: for writing only if the arguments ask for it. */
static const struct writable_row {
    uint32_t version;
    uint32_t mask;
    uint32_t rw_depth;
    bool info_only;
    bool read_only;
    bool writable;
} writable_rows[] = {
    {1, ALL, 1, false, false, true},
    {1, ALL, 2, false, false, true},
    {1, ALL, 0, false, false, false},
    {1, READ, 1, false, false, false},
    {1, RW, 1, false, false, true},
    {1, VIRTUAL_DISK_ACCESS_METAOPS, 1, false, false, true},
    {1, VIRTUAL_DISK_ACCESS_CREATE, 1, false, false, true},
    {1, DETACH | GET_INFO, 1, false, false, false},
    {2, 0, 0, false, false, true},
    {2, 0, 0, true, false, false},
    {2, 0, 0, false, true, false},
    {2, 0, 0, true, true, false},
    {3, 0, 0, false, false, true},
    {3, 0, 0, true, false, false},
    {3, 0, 0, false, true, false},
};

static HANDLE
open_writable_row(const struct writable_row *row)
{
    VIRTUAL_STORAGE_TYPE type = {.DeviceId = 0};
    OPEN_VIRTUAL_DISK_PARAMETERS parameters = {.Version = row->version};
    HANDLE handle = NULL;
    if (row->version == 1) {
        parameters.Version1.RWDepth = row->rw_depth;
    }
    else {
        /* Version 3 begins as version 2 does. */
        parameters.Version2.GetInfoOnly = row->info_only ? 42 : FALSE;
        parameters.Version2.ReadOnly = row->read_only ? 42 : FALSE;
    }
    CHECK_OK(
        OpenVirtualDisk(&type, wide(vhd), row->mask, 0, &parameters, &handle));
    return handle;
}

static void
test_how_the_file_is_opened(void)
{
    for (size_t i = 0; i < COUNT(writable_rows); i++) {
        HANDLE handle = open_writable_row(&writable_rows[i]);
        struct vd_virtual_disk *disk;
        CHECK_OK(vd_virtual_disk_acquire(handle, &disk));
        int flags = fcntl(vd_disk_fd(disk->disk), F_GETFL);
        if (!CHECK_EQ(writable_rows[i].writable ? O_RDWR : O_RDONLY,
                      flags & O_ACCMODE)) {
            fprintf(stderr, "    row %zu\n", i);
        }
        CHECK_EQ(FD_CLOEXEC,
                 fcntl(vd_disk_fd(disk->disk), F_GETFD) & FD_CLOEXEC);
        vd_virtual_disk_release(disk);
        close_handle(handle);
    }
}

/* What a handle may be used for, asked without needing a device: an attempt
 * that is allowed fails later, with another code. */
static void
check_rights(HANDLE handle, bool get_info, bool detaches)
{
    GET_VIRTUAL_DISK_INFO info = {.Version = GET_VIRTUAL_DISK_INFO_SIZE};
    ULONG size = sizeof(info);
    ULONG path_size = 0;
    CHECK_EQ(get_info ? 0 : ERROR_ACCESS_DENIED,
             GetVirtualDiskInformation(handle, &size, &info, NULL));
    CHECK_EQ(get_info ? ERROR_DEV_NOT_EXIST : ERROR_ACCESS_DENIED,
             GetVirtualDiskPhysicalPath(handle, &path_size, NULL));
    CHECK_EQ(detaches ? ERROR_NOT_READY : ERROR_ACCESS_DENIED, detach(handle));
    close_handle(handle);
}

static void
test_rights(void)
{
    HANDLE handle;
    CHECK_OK(open_1(vhd, ALL, 1, &handle));
    check_rights(handle, true, true);
    CHECK_OK(open_1(vhd, GET_INFO, 1, &handle));
    check_rights(handle, true, false);
    CHECK_OK(open_1(vhd, DETACH, 1, &handle));
    check_rights(handle, false, true);
    CHECK_OK(open_1(vhd, RO | RW, 1, &handle));
    check_rights(handle, false, false);
    CHECK_OK(open_2(vhd, false, false, &handle));
    check_rights(handle, true, true);
    CHECK_OK(open_2(vhd, false, true, &handle));
    check_rights(handle, true, true);
    CHECK_OK(open_2(vhd, true, false, &handle));
    check_rights(handle, true, false);
}

/* Who says that it opens for attaching is refused while another program
 * holds the image; who does not, is not. */
static void
test_image_in_use(void)
{
    HANDLE handle;
    int fd = open(vhd, O_RDWR | O_CLOEXEC);
    CHECK_OK(vd_image_lock(fd, VD_LOCK_WRITE));
    CHECK_EQ(ERROR_SHARING_VIOLATION, open_1(vhd, RW, 1, &handle));
    CHECK_EQ(ERROR_SHARING_VIOLATION, open_1(vhd, RO, 1, &handle));
    CHECK_EQ(ERROR_SHARING_VIOLATION, open_1(vhd, READ, 0, &handle));
    CHECK_EQ(ERROR_SHARING_VIOLATION, open_1(vhd, ALL, 1, &handle));
    CHECK_OK(open_1(vhd, DETACH | GET_INFO, 1, &handle));
    close_handle(handle);
    CHECK_OK(open_2(vhd, false, false, &handle));
    close_handle(handle);
    vd_image_unlock(fd);
    CHECK_OK(open_1(vhd, ALL, 1, &handle));
    close_handle(handle);
    close(fd);
}

/* Each allocation failing in turn: an error, and nothing left behind. */
static void
test_out_of_memory(void)
{
    unsigned descriptors = count_descriptors();
    size_t handles = vd_handle_count();
    bool failed = true;
    for (int successes = 0; failed; successes++) {
        HANDLE handle = NULL;
        check_fail_allocation(successes);
        DWORD error = open_2(vhd, false, false, &handle);
        failed = check_fail_allocation(-1);
        CHECK_EQ(failed ? ERROR_NOT_ENOUGH_MEMORY : 0, error);
        if (error == 0) {
            close_handle(handle);
        }
        CHECK(descriptors_become(descriptors));
        CHECK(handles_become(handles));
    }
}

/* An image is not touched by being opened and closed. */
static void
test_unchanged(void)
{
    struct stat before;
    struct stat after;
    stat(vhd, &before);
    HANDLE handle = open_all(vhd);
    close_handle(handle);
    stat(vhd, &after);
    CHECK_EQ(before.st_mtim.tv_sec, after.st_mtim.tv_sec);
    CHECK_EQ(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
    CHECK_EQ(before.st_size, after.st_size);
}

int
main(int argc, char **argv)
{
    (void)argc;
    unsigned descriptors = count_descriptors();
    char vhd_path[4096];
    char iso_path[4096];
    snprintf(vhd_path, sizeof(vhd_path), "%s/open.vhd", argv[1]);
    snprintf(iso_path, sizeof(iso_path), "%s/open.iso", argv[1]);
    vhd = vhd_path;
    iso = iso_path;
    make_vhd(vhd, NULL, 0);
    make_iso(iso);
    test_rows();
    test_vendors();
    test_guids_of_parameters();
    test_files(argv[1]);
    test_how_the_file_is_opened();
    test_rights();
    test_image_in_use();
    test_out_of_memory();
    test_unchanged();
    CHECK(handles_become(0));
    CHECK(descriptors_become(descriptors));
    return check_result();
}
