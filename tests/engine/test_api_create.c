/*
 * CreateVirtualDisk: misuse, what is made of the parameters, what is left
 * when it fails, and the asynchronous call.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sddl.h>
#include <virtdisk.h>

#include "api/handles.h"
#include "api/virtual_disk.h"
#include "api_support.h"
#include "check.h"
#include "disk/image_lock.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define MIB ((uint64_t)1 << 20)
#define SIZE (16 * MIB)

static const char *directory;

/* ---- calls ---- */

struct call {
    VIRTUAL_STORAGE_TYPE type;
    unsigned mask;
    unsigned flags;
    unsigned provider_flags;
    PSECURITY_DESCRIPTOR security;
    CREATE_VIRTUAL_DISK_PARAMETERS parameters;
    OVERLAPPED *overlapped;
    HANDLE handle;
};

/* A dynamic VHDX of SIZE, with version 2. */
static struct call
ordinary(void)
{
    struct call call = {
        .type = {.DeviceId = VIRTUAL_STORAGE_TYPE_DEVICE_VHDX},
        .parameters = {.Version = CREATE_VIRTUAL_DISK_VERSION_2},
    };
    call.parameters.Version2.MaximumSize = SIZE;
    return call;
}

static DWORD
create(struct call *call, const char *path)
{
    call->handle = NULL;
    return CreateVirtualDisk(&call->type, wide(path), call->mask,
                             call->security, call->flags, call->provider_flags,
                             &call->parameters, call->overlapped,
                             &call->handle);
}

static const char *
in_directory(const char *name)
{
    return check_path(directory, name);
}

static bool
exists(const char *path)
{
    struct stat status;
    return lstat(path, &status) == 0;
}

static unsigned
count_files(void)
{
    unsigned count = 0;
    DIR *listing = opendir(directory);
    if (listing == NULL) {
        check_broken("opendir");
    }
    while (readdir(listing) != NULL) {
        count++;
    }
    closedir(listing);
    return count;
}

/* A call that fails leaves no file, no handle and no descriptor. */
static void
refused(DWORD expected, struct call *call, const char *path)
{
    unsigned files = count_files();
    unsigned descriptors = count_descriptors();
    size_t handles = vd_handle_count();
    CHECK_EQ(expected, create(call, path));
    CHECK(call->handle == NULL);
    CHECK_EQ(files, count_files());
    CHECK(descriptors_become(descriptors));
    CHECK(handles_become(handles));
}

static GET_VIRTUAL_DISK_INFO
info_of(HANDLE handle, unsigned version)
{
    GET_VIRTUAL_DISK_INFO info = {.Version = version};
    ULONG size = sizeof(info);
    CHECK_OK(GetVirtualDiskInformation(handle, &size, &info, NULL));
    return info;
}

static void
made(struct call *call, const char *path)
{
    CHECK_OK(create(call, path));
    if (CHECK(call->handle != NULL)) {
        close_handle(call->handle);
    }
    CHECK(exists(path));
}

/* ---- misuse ---- */

static void
test_versions_and_masks(void)
{
    static const struct {
        unsigned version;
        unsigned mask;
    } rows[] = {
        {2, VIRTUAL_DISK_ACCESS_ALL},
        {3, VIRTUAL_DISK_ACCESS_GET_INFO},
        {4, VIRTUAL_DISK_ACCESS_CREATE},
        {1, 0x00400000},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct call call = ordinary();
        call.parameters.Version = rows[i].version;
        call.mask = rows[i].mask;
        refused(87, &call, in_directory("version.vhdx"));
    }
}

static void
test_flags(void)
{
    static const struct {
        unsigned flags;
        DWORD code;
    } rows[] = {
        {0x800, 87},
        {CREATE_VIRTUAL_DISK_FLAG_PREVENT_WRITES_TO_SOURCE_DISK, 87},
        {CREATE_VIRTUAL_DISK_FLAG_DO_NOT_COPY_METADATA_FROM_PARENT, 87},
        {CREATE_VIRTUAL_DISK_FLAG_SPARSE_FILE, 87},
        {CREATE_VIRTUAL_DISK_FLAG_CREATE_BACKING_STORAGE, 50},
        {CREATE_VIRTUAL_DISK_FLAG_USE_CHANGE_TRACKING_SOURCE_LIMIT, 50},
        {CREATE_VIRTUAL_DISK_FLAG_PRESERVE_PARENT_CHANGE_TRACKING_STATE, 50},
        {CREATE_VIRTUAL_DISK_FLAG_VHD_SET_USE_ORIGINAL_BACKING_STORAGE, 50},
        {CREATE_VIRTUAL_DISK_FLAG_PMEM_COMPATIBLE, 50},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct call call = ordinary();
        call.flags = rows[i].flags;
        refused(rows[i].code, &call, in_directory("flags.vhdx"));
    }
    struct call call = ordinary();
    call.provider_flags = 1;
    refused(87, &call, in_directory("flags.vhdx"));
}

static void
test_open_flags(void)
{
    struct call call = ordinary();
    call.parameters.Version2.OpenFlags = 0x40000000;
    refused(87, &call, in_directory("open.vhdx"));
    call.parameters.Version2.OpenFlags = OPEN_VIRTUAL_DISK_FLAG_BLANK_FILE;
    refused(50, &call, in_directory("open.vhdx"));
}

static void
test_newer_versions(void)
{
    struct call call = ordinary();
    call.parameters.Version = CREATE_VIRTUAL_DISK_VERSION_3;
    call.parameters.Version3.SourceLimitPath = wide("x");
    refused(50, &call, in_directory("three.vhdx"));
    call.parameters.Version3.SourceLimitPath = NULL;
    call.parameters.Version3.BackingStorageType.DeviceId = 4;
    refused(50, &call, in_directory("three.vhdx"));
    call = ordinary();
    call.parameters.Version = CREATE_VIRTUAL_DISK_VERSION_4;
    call.parameters.Version4.DataAlignment = 4096;
    refused(50, &call, in_directory("four.vhdx"));
    call.parameters.Version4.DataAlignment = 0;
    call.parameters.Version4.PmemAddressAbstractionType.Data1 = 1;
    refused(50, &call, in_directory("four.vhdx"));
    call.parameters.Version4.PmemAddressAbstractionType.Data1 = 0;
    made(&call, in_directory("four.vhdx"));
}

static void
test_types(void)
{
    static const struct {
        unsigned device_id;
        const char *name;
        DWORD code;
    } rows[] = {
        {VIRTUAL_STORAGE_TYPE_DEVICE_ISO, "a.iso", 50},
        {VIRTUAL_STORAGE_TYPE_DEVICE_VHDSET, "a.vhds", 50},
        {5, "a.vhdx", 0xC03A0014},
        {0, "a.vhds", 50},
        {0, "a.iso", 50},
        {0, "a.raw", 0xC03A0014},
        {0, "none", 0xC03A0014},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct call call = ordinary();
        call.type.DeviceId = rows[i].device_id;
        refused(rows[i].code, &call, in_directory(rows[i].name));
    }
    struct call call = ordinary();
    call.type.VendorId.Data1 = 1;
    refused(0xC03A0014, &call, in_directory("vendor.vhdx"));
}

static void
test_sizes(void)
{
    static const struct {
        unsigned device_id;
        uint64_t size;
        unsigned block;
        unsigned sector;
        DWORD code;
    } rows[] = {
        {VIRTUAL_STORAGE_TYPE_DEVICE_VHDX, 0, 0, 0, 87},
        {VIRTUAL_STORAGE_TYPE_DEVICE_VHDX, 3 * MIB - 512, 0, 0, 87},
        {VIRTUAL_STORAGE_TYPE_DEVICE_VHDX, SIZE + 1, 0, 0, 87},
        {VIRTUAL_STORAGE_TYPE_DEVICE_VHDX, SIZE, 3 * MIB, 0, 87},
        {VIRTUAL_STORAGE_TYPE_DEVICE_VHDX, SIZE, 0, 2048, 87},
        {VIRTUAL_STORAGE_TYPE_DEVICE_VHD, 0, 0, 0, 87},
        {VIRTUAL_STORAGE_TYPE_DEVICE_VHD, 3 * MIB - 512, 0, 0, 87},
        {VIRTUAL_STORAGE_TYPE_DEVICE_VHD, SIZE, 0, 4096, 87},
        {VIRTUAL_STORAGE_TYPE_DEVICE_VHD, SIZE, 1 * MIB, 0, 87},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct call call = ordinary();
        call.type.DeviceId = rows[i].device_id;
        call.parameters.Version2.MaximumSize = rows[i].size;
        call.parameters.Version2.BlockSizeInBytes = rows[i].block;
        call.parameters.Version2.SectorSizeInBytes = rows[i].sector;
        refused(rows[i].code, &call, in_directory("size.img"));
    }
}

/* ---- places ---- */

static void
test_paths(void)
{
    struct call call = ordinary();
    made(&call, in_directory("there.vhdx"));
    refused(80, &call, in_directory("there.vhdx"));
    if (symlink("nowhere", in_directory("link.vhdx")) < 0) {
        check_broken("symlink");
    }
    refused(80, &call, in_directory("link.vhdx"));
    refused(80, &call, directory);
    refused(3, &call, in_directory("missing/a.vhdx"));
    refused(3, &call, in_directory("there.vhdx/a.vhdx"));
    refused(3, &call, in_directory("missing.vhdx/"));
    char name[400];
    memset(name, 'n', sizeof(name));
    memcpy(name + sizeof(name) - 6, ".vhdx", 6);
    refused(206, &call, in_directory(name));
}

/* The root may write everywhere; nobody else may here. */
static void
test_no_permission(void)
{
    const char *closed = in_directory("closed");
    if (mkdir(closed, 0500) < 0) {
        check_broken("mkdir");
    }
    if (getuid() == 0) {
        pid_t child = fork();
        if (child == 0) {
            struct call call = ordinary();
            bool dropped = chmod(directory, 0755) == 0 &&
                           chown(closed, 65534, 65534) == 0 &&
                           setgid(65534) == 0 && setuid(65534) == 0;
            _exit(dropped && create(&call, in_directory("closed/a.vhdx")) == 5
                      ? 0
                      : 1);
        }
        int status;
        CHECK_EQ(child, waitpid(child, &status, 0));
        CHECK_EQ(0, status);
        return;
    }
    struct call call = ordinary();
    refused(5, &call, in_directory("closed/a.vhdx"));
}

/* ---- what is made ---- */

static void
test_defaults(void)
{
    static const struct {
        unsigned device_id;
        unsigned flags;
        const char *name;
        uint32_t block;
        uint32_t subtype;
    } rows[] = {
        {VIRTUAL_STORAGE_TYPE_DEVICE_VHD, 0, "d.vhd", 2 << 20, 3},
        {VIRTUAL_STORAGE_TYPE_DEVICE_VHD, 1, "f.vhd", 0, 2},
        {VIRTUAL_STORAGE_TYPE_DEVICE_VHDX, 0, "d.vhdx", 32 << 20, 3},
        {0, 0, "u.vhd", 2 << 20, 3},
        {0, 0, "u.VHDX", 32 << 20, 3},
        {0, 0, "u.avhdx", 32 << 20, 3},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct call call = ordinary();
        call.type.DeviceId = rows[i].device_id;
        call.flags = rows[i].flags;
        CHECK_OK(create(&call, in_directory(rows[i].name)));
        GET_VIRTUAL_DISK_INFO info =
            info_of(call.handle, GET_VIRTUAL_DISK_INFO_SIZE);
        CHECK_EQ(SIZE, info.Size.VirtualSize);
        CHECK_EQ(rows[i].block, info.Size.BlockSize);
        CHECK_EQ(512, info.Size.SectorSize);
        info = info_of(call.handle, GET_VIRTUAL_DISK_INFO_PROVIDER_SUBTYPE);
        CHECK_EQ(rows[i].subtype, info.ProviderSubtype);
        close_handle(call.handle);
    }
}

static const GUID wanted_id = {
    0x11223344, 0x5566, 0x4788, {0x99, 0xAA, 1, 2, 3, 4, 5, 6}};

static void
test_identifiers(void)
{
    struct call call = ordinary();
    call.parameters.Version2.UniqueId = wanted_id;
    CHECK_OK(create(&call, in_directory("id.vhdx")));
    GET_VIRTUAL_DISK_INFO info =
        info_of(call.handle, GET_VIRTUAL_DISK_INFO_VIRTUAL_DISK_ID);
    CHECK_BYTES(&wanted_id, &info.VirtualDiskId, sizeof(GUID));
    close_handle(call.handle);
    call.type.DeviceId = VIRTUAL_STORAGE_TYPE_DEVICE_VHD;
    CHECK_OK(create(&call, in_directory("id.vhd")));
    info = info_of(call.handle, GET_VIRTUAL_DISK_INFO_IDENTIFIER);
    CHECK_BYTES(&wanted_id, &info.Identifier, sizeof(GUID));
    close_handle(call.handle);
}

/* A fixed disk has its space; a sparse one not. */
static void
test_allocation(void)
{
    struct call call = ordinary();
    struct stat status;
    call.flags = CREATE_VIRTUAL_DISK_FLAG_FULL_PHYSICAL_ALLOCATION;
    made(&call, in_directory("full.vhdx"));
    CHECK_EQ(0, stat(in_directory("full.vhdx"), &status));
    CHECK((uint64_t)status.st_blocks * 512 >= SIZE);
    call.flags |= CREATE_VIRTUAL_DISK_FLAG_SPARSE_FILE;
    made(&call, in_directory("sparse.vhdx"));
    CHECK_EQ(0, stat(in_directory("sparse.vhdx"), &status));
    CHECK((uint64_t)status.st_blocks * 512 < SIZE / 2);
    CHECK((uint64_t)status.st_size > SIZE);
}

static void
test_security(void)
{
    struct call call = ordinary();
    struct stat status;
    CHECK(ConvertStringSecurityDescriptorToSecurityDescriptorW(
        wide("D:P(A;;GR;;;WD)"), 1, &call.security, NULL));
    made(&call, in_directory("everyone.vhdx"));
    CHECK_EQ(0, stat(in_directory("everyone.vhdx"), &status));
    CHECK_EQ(0444, status.st_mode & 0777);
    LocalFree(call.security);
    CHECK(ConvertStringSecurityDescriptorToSecurityDescriptorW(
        wide("D:P(A;;GA;;;S-1-5-21-1-2-3-4)"), 1, &call.security, NULL));
    refused(50, &call, in_directory("stranger.vhdx"));
    LocalFree(call.security);
    call.security = NULL;
    mode_t before = umask(027);
    made(&call, in_directory("masked.vhdx"));
    umask(before);
    CHECK_EQ(0, stat(in_directory("masked.vhdx"), &status));
    CHECK_EQ(0640, status.st_mode & 0777);
}

/* ---- the handle ---- */

/* With version 1 the mask decides, as when a disk is opened. */
static void
test_rights(void)
{
    struct call call = ordinary();
    GET_VIRTUAL_DISK_INFO info = {.Version = GET_VIRTUAL_DISK_INFO_SIZE};
    ULONG size = sizeof(info);
    call.parameters = (CREATE_VIRTUAL_DISK_PARAMETERS){
        .Version = CREATE_VIRTUAL_DISK_VERSION_1};
    call.parameters.Version1.MaximumSize = SIZE;
    call.mask = VIRTUAL_DISK_ACCESS_CREATE;
    CHECK_OK(create(&call, in_directory("rights.vhdx")));
    CHECK_EQ(5, GetVirtualDiskInformation(call.handle, &size, &info, NULL));
    CHECK_EQ(5, attach(call.handle, ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST));
    close_handle(call.handle);
    call.mask = VIRTUAL_DISK_ACCESS_ALL;
    CHECK_OK(create(&call, in_directory("all.vhdx")));
    CHECK_OK(attach(call.handle, ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST));
    CHECK_OK(detach(call.handle));
    close_handle(call.handle);
}

/* ---- children ---- */

static void
test_child(unsigned device_id, const char *parent, const char *child)
{
    struct call call = ordinary();
    char path[512];
    snprintf(path, sizeof(path), "%s", in_directory(parent));
    call.type.DeviceId = device_id;
    made(&call, path);
    call.parameters.Version2.MaximumSize = 0;
    call.parameters.Version2.ParentPath = wide(path);
    CHECK_OK(create(&call, in_directory(child)));
    GET_VIRTUAL_DISK_INFO info =
        info_of(call.handle, GET_VIRTUAL_DISK_INFO_PROVIDER_SUBTYPE);
    CHECK_EQ(4, info.ProviderSubtype);
    info = info_of(call.handle, GET_VIRTUAL_DISK_INFO_SIZE);
    CHECK_EQ(SIZE, info.Size.VirtualSize);
    CHECK_OK(attach(call.handle, ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST));
    close_handle(call.handle);
    /* Found again by whoever opens it. */
    HANDLE handle = open_all(in_directory(child));
    CHECK_OK(attach(handle, ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST));
    close_handle(handle);
}

static void
test_refused_children(void)
{
    struct call call = ordinary();
    call.parameters.Version2.MaximumSize = 0;
    call.parameters.Version2.ParentPath = wide(in_directory("gone.vhdx"));
    refused(2, &call, in_directory("orphan.vhdx"));
    call.parameters.Version2.ParentPath = wide(in_directory("p.vhd"));
    refused(0xC03A001B, &call, in_directory("mixed.vhdx"));
    call.parameters.Version2.ParentPath = wide(in_directory("p.vhdx"));
    call.flags = CREATE_VIRTUAL_DISK_FLAG_FULL_PHYSICAL_ALLOCATION;
    refused(87, &call, in_directory("fixed.vhdx"));
    call.flags = 0;
    call.parameters.Version2.SourcePath = wide(in_directory("p.vhdx"));
    refused(87, &call, in_directory("both.vhdx"));
}

/* Somebody writes to the parent. */
static void
test_busy_parent(void)
{
    struct call call = ordinary();
    HANDLE handle = open_all(in_directory("p.vhdx"));
    CHECK_OK(attach(handle, ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST));
    call.parameters.Version2.MaximumSize = 0;
    call.parameters.Version2.ParentPath = wide(in_directory("p.vhdx"));
    refused(32, &call, in_directory("busy.vhdx"));
    call.parameters.Version2.ParentPath = NULL;
    call.parameters.Version2.SourcePath = wide(in_directory("p.vhdx"));
    refused(32, &call, in_directory("busy.vhdx"));
    CHECK_OK(detach(handle));
    CHECK_OK(attach(handle, ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST |
                                ATTACH_VIRTUAL_DISK_FLAG_READ_ONLY));
    made(&call, in_directory("copy.vhdx"));
    close_handle(handle);
}

/* ---- raw sources ---- */

static void
make_raw(const char *path, uint64_t size, const char *end)
{
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    off_t at = (off_t)(size - strlen(end));
    if (fd < 0 || ftruncate(fd, (off_t)size) < 0 ||
        pwrite(fd, end, strlen(end), at) != (ssize_t)strlen(end) ||
        pwrite(fd, "begin", 5, 0) != 5) {
        check_broken("a raw image");
    }
    close(fd);
}

static DWORD
convert(const char *source, const char *target, uint64_t size)
{
    struct call call = ordinary();
    call.parameters.Version2.MaximumSize = size;
    call.parameters.Version2.SourcePath = wide(in_directory(source));
    DWORD code = create(&call, in_directory(target));
    if (code == ERROR_SUCCESS) {
        close_handle(call.handle);
    }
    else {
        CHECK(!exists(in_directory(target)));
    }
    return code;
}

static void
test_raw_names(void)
{
    char footer[513];
    memset(footer, 'x', 512);
    footer[512] = '\0';
    memcpy(footer, "conectix", 8);
    make_raw(in_directory("plain.img"), SIZE, "end");
    make_raw(in_directory("plain.RAW"), SIZE, "end");
    make_raw(in_directory("plain.bin"), SIZE, "end");
    make_raw(in_directory("odd.img"), SIZE + 3, "end");
    make_raw(in_directory("guest.img"), SIZE, footer);
    CHECK_OK(convert("plain.img", "one.vhdx", 0));
    CHECK_OK(convert("plain.RAW", "two.vhdx", 2 * SIZE));
    CHECK_EQ(0xC03A0014, convert("plain.bin", "no.vhdx", 0));
    CHECK_EQ(0xC03A0013, convert("odd.img", "no.vhdx", 0));
    CHECK_EQ(0xC03A0014, convert("guest.img", "no.vhdx", 0));
    CHECK_EQ(87, convert("plain.img", "no.vhdx", SIZE - 512));
    CHECK_EQ(2, convert("missing.img", "no.vhdx", 0));
    if (mkfifo(in_directory("pipe.img"), 0600) < 0) {
        check_broken("mkfifo");
    }
    CHECK_EQ(87, convert("pipe.img", "no.vhdx", 0));
}

/* Someone writes to the raw image. */
static void
test_locked_raw(void)
{
    int fd = open(in_directory("plain.img"), O_RDWR | O_CLOEXEC);
    CHECK_OK(vd_image_lock(fd, VD_LOCK_WRITE));
    CHECK_EQ(32, convert("plain.img", "no.vhdx", 0));
    close(fd);
}

/* ---- asynchronous ---- */

static void
test_overlapped(void)
{
    OVERLAPPED overlapped = {.hEvent = CreateEventW(NULL, TRUE, FALSE, NULL)};
    VIRTUAL_DISK_PROGRESS progress;
    struct call call = ordinary();
    DWORD bytes;
    call.overlapped = &overlapped;
    call.parameters.Version2.MaximumSize = 0;
    call.parameters.Version2.SourcePath = wide(in_directory("plain.img"));
    CHECK_EQ(997, create(&call, in_directory("async.vhdx")));
    CHECK(call.handle != NULL);
    CHECK_EQ(0, WaitForSingleObject(overlapped.hEvent, INFINITE));
    CHECK(GetOverlappedResult(call.handle, &overlapped, &bytes, TRUE));
    CHECK_OK(
        GetVirtualDiskOperationProgress(call.handle, &overlapped, &progress));
    CHECK_EQ(0, progress.OperationStatus);
    CHECK_EQ(SIZE, progress.CurrentValue);
    CHECK_EQ(SIZE, progress.CompletionValue);
    CHECK(exists(in_directory("async.vhdx")));
    CHECK_OK(attach(call.handle, ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST));
    close_handle(call.handle);
    close_handle(overlapped.hEvent);
}

static bool
holds_name(const char *name, const char *instead)
{
    return link(instead, name) == 0;
}

/* The name is taken while the disk is being made: the last step fails, and
 * the handle is good for nothing but to be closed. */
static void
test_stillborn(void)
{
    OVERLAPPED overlapped = {0};
    struct call call = ordinary();
    struct vd_virtual_disk *inside;
    DWORD bytes;
    CHECK_OK(convert("plain.img", "other.vhdx", 0));
    call.overlapped = &overlapped;
    call.parameters.Version2.MaximumSize = 0;
    call.parameters.Version2.SourcePath = wide(in_directory("plain.img"));
    CHECK_EQ(997, create(&call, in_directory("late.vhdx")));
    bool first =
        holds_name(in_directory("late.vhdx"), in_directory("other.vhdx"));
    CHECK_OK(vd_virtual_disk_acquire(call.handle, &inside));
    CHECK_EQ(!first,
             GetOverlappedResult(call.handle, &overlapped, &bytes, TRUE));
    if (first) {
        CHECK_EQ(80, GetLastError());
        CHECK_EQ(0xC03A001C,
                 attach(call.handle, ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST));
        CHECK_EQ(0xC03A001C, detach(call.handle));
        CHECK(exists(in_directory("other.vhdx")));
    }
    vd_virtual_disk_release(inside);
    close_handle(call.handle);
}

/* Neither a lock nor a descriptor is left to a forked child. */
static void
test_fork(void)
{
    OVERLAPPED overlapped = {0};
    struct call call = ordinary();
    DWORD bytes;
    unsigned descriptors = count_descriptors();
    call.overlapped = &overlapped;
    call.parameters.Version2.MaximumSize = 0;
    call.parameters.Version2.SourcePath = wide(in_directory("plain.img"));
    CHECK_EQ(997, create(&call, in_directory("forked.vhdx")));
    pid_t child = fork();
    if (child == 0) {
        _exit(count_descriptors() == descriptors ? 0 : 1);
    }
    int status;
    CHECK_EQ(child, waitpid(child, &status, 0));
    CHECK_EQ(0, status);
    CHECK(GetOverlappedResult(call.handle, &overlapped, &bytes, TRUE));
    close_handle(call.handle);
    CHECK(descriptors_become(descriptors));
}

int
main(int argc, char **argv)
{
    if (argc != 2) {
        check_broken("usage: test_api_create DIRECTORY");
    }
    directory = argv[1];
    test_versions_and_masks();
    test_flags();
    test_open_flags();
    test_newer_versions();
    test_types();
    test_sizes();
    test_paths();
    test_no_permission();
    test_defaults();
    test_identifiers();
    test_allocation();
    test_security();
    test_rights();
    test_child(VIRTUAL_STORAGE_TYPE_DEVICE_VHD, "p.vhd", "c.vhd");
    test_child(VIRTUAL_STORAGE_TYPE_DEVICE_VHDX, "p.vhdx", "c.vhdx");
    test_refused_children();
    test_busy_parent();
    test_raw_names();
    test_locked_raw();
    test_overlapped();
    test_stillborn();
    test_fork();
    return check_result();
}
