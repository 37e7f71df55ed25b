/*
 * CreateFileW and GetStorageDependencyInformation.  What needs devices is
 * left out without them; the file system in an image is mounted in a mount
 * namespace of this process alone.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <virtdisk.h>

#include "api/handles.h"
#include "api_support.h"
#include "check.h"

#define HOSTS GET_STORAGE_DEPENDENCY_FLAG_HOST_VOLUMES
#define DISK GET_STORAGE_DEPENDENCY_FLAG_DISK_HANDLE
#define ONE STORAGE_DEPENDENCY_INFO_VERSION_1
#define TWO STORAGE_DEPENDENCY_INFO_VERSION_2
#define BUFFER_SIZE (1u << 22)

static const char *directory;
static STORAGE_DEPENDENCY_INFO *info; /* BUFFER_SIZE bytes */

static const char *
path_of(const char *name)
{
    return check_path(directory, name);
}

static HANDLE
open_with(const char *path, DWORD access_rights, DWORD flags)
{
    return CreateFileW(wide(path), access_rights, FILE_SHARE_READ, NULL,
                       OPEN_EXISTING, flags, NULL);
}

static HANDLE
open_object(const char *path)
{
    HANDLE handle =
        open_with(path, GENERIC_READ,
                  FILE_ATTRIBUTE_NORMAL | FILE_FLAG_BACKUP_SEMANTICS);
    CHECK(handle != INVALID_HANDLE_VALUE);
    return handle;
}

static DWORD
ask(HANDLE handle, unsigned flags, unsigned version)
{
    info->Version = version;
    info->NumberEntries = 77;
    return GetStorageDependencyInformation(handle, flags, BUFFER_SIZE, info,
                                           NULL);
}

static DWORD
ask_path(const char *path, unsigned flags, unsigned version)
{
    HANDLE handle = open_object(path);
    DWORD error = ask(handle, flags, version);
    close_handle(handle);
    return error;
}

/* ---- arguments ---- */

static void
check_refused(DWORD expected, HANDLE handle)
{
    CHECK(handle == INVALID_HANDLE_VALUE);
    CHECK_EQ(expected, GetLastError());
}

static void
test_create_file(void)
{
    static SECURITY_ATTRIBUTES attributes;
    const char *file = path_of("a.vhd");
    const DWORD all = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;
    HANDLE handle = open_with(file, 0, 0);
    CHECK(handle != INVALID_HANDLE_VALUE);
    CHECK_EQ(1, vd_handle_count());
    /* It is neither a disk of ours nor an event. */
    CHECK_EQ(ERROR_INVALID_PARAMETER, DetachVirtualDisk(handle, 0, 0));
    CHECK(!SetEvent(handle));
    close_handle(handle);
    CHECK(handles_become(0));

    check_refused(ERROR_FILE_NOT_FOUND, open_with(path_of("none"), 0, 0));
    check_refused(ERROR_PATH_NOT_FOUND, open_with(path_of("no/a"), 0, 0));
    check_refused(ERROR_ACCESS_DENIED, open_with(directory, 0, 0));
    check_refused(ERROR_NOT_SUPPORTED, open_with(file, 0x40000000, 0));
    check_refused(ERROR_NOT_SUPPORTED, open_with(file, 0, 0x40000000));
    check_refused(ERROR_INVALID_PARAMETER,
                  CreateFileW(NULL, 0, all, NULL, OPEN_EXISTING, 0, NULL));
    check_refused(ERROR_INVALID_PARAMETER,
                  CreateFileW(wide(file), 0, 8, NULL, OPEN_EXISTING, 0, NULL));
    check_refused(ERROR_NOT_SUPPORTED,
                  CreateFileW(wide(file), 0, all, NULL, 1, 0, NULL));
    check_refused(
        ERROR_NOT_SUPPORTED,
        CreateFileW(wide(file), 0, all, &attributes, OPEN_EXISTING, 0, NULL));
    check_refused(ERROR_NOT_SUPPORTED, CreateFileW(wide(file), 0, all, NULL,
                                                   OPEN_EXISTING, 0, info));
    check_refused(ERROR_INVALID_NAME, CreateFileW(u"\xD800x", 0, all, NULL,
                                                  OPEN_EXISTING, 0, NULL));
}

static void
test_out_of_memory(void)
{
    HANDLE handle = INVALID_HANDLE_VALUE;
    unsigned descriptors = count_descriptors();
    int refusals = 0;
    char16_t *path = wide(path_of("a.vhd"));
    for (int n = 0; handle == INVALID_HANDLE_VALUE && n < 50; n++) {
        check_fail_allocation(n);
        handle = CreateFileW(path, 0, 0, NULL, OPEN_EXISTING, 0, NULL);
        check_fail_allocation(-1);
        if (handle == INVALID_HANDLE_VALUE) {
            refusals++;
            CHECK_EQ(ERROR_NOT_ENOUGH_MEMORY, GetLastError());
            CHECK(descriptors_become(descriptors));
        }
    }
    CHECK(refusals >= 2);
    close_handle(handle);
}

static void
test_arguments(void)
{
    HANDLE handle = open_object(path_of("a.vhd"));
    CHECK_EQ(ERROR_INVALID_PARAMETER, ask(handle, 4, ONE));
    CHECK_EQ(ERROR_INSUFFICIENT_BUFFER,
             GetStorageDependencyInformation(handle, 0, 7, info, NULL));
    CHECK_EQ(ERROR_INVALID_PARAMETER, ask(handle, DISK, ONE));
    CHECK_EQ(77, info->NumberEntries);
    close_handle(handle);
}

static void
test_not_virtual(void)
{
    CHECK_EQ(ERROR_VIRTDISK_NOT_VIRTUAL_DISK, ask_path("/proc", HOSTS, ONE));
    CHECK_OK(ask_path("/proc", 0, ONE));
    CHECK_EQ(0, info->NumberEntries);
    CHECK_OK(ask_path("/proc", 0, TWO));
    CHECK_EQ(0, info->NumberEntries);
}

/* ---- with devices ---- */

/* Where the file system of a path is mounted, by the change of st_dev on the
 * way up; with a final slash. */
static const char *
root_of(const char *path)
{
    static char root[4096];
    struct stat here;
    struct stat above;
    if (realpath(path, root) == NULL || stat(root, &here) < 0) {
        check_broken("realpath");
    }
    for (char *slash; (slash = strrchr(root, '/')) != root;) {
        *slash = '\0';
        if (stat(root, &above) < 0 || above.st_dev != here.st_dev) {
            *slash = '/';
            break;
        }
    }
    if (strrchr(root, '/') == root) {
        struct stat top;
        root[stat("/", &top) == 0 && top.st_dev == here.st_dev
                 ? 0
                 : strlen(root)] = '\0';
    }
    strcat(root, "/");
    return root;
}

/* The entry of an image by the end of its path; NULL if there is none. */
static const STORAGE_DEPENDENCY_INFO_TYPE_2 *
find_entry(const char *name)
{
    for (ULONG i = 0; i < info->NumberEntries; i++) {
        const char *path =
            narrow(info->Version2Entries[i].DependentVolumeRelativePath);
        size_t length = strlen(path);
        if (length >= strlen(name) &&
            strcmp(path + length - strlen(name), name) == 0) {
            return &info->Version2Entries[i];
        }
    }
    return NULL;
}

static void
check_type(unsigned device_id, const VIRTUAL_STORAGE_TYPE *type)
{
    CHECK_EQ(device_id, type->DeviceId);
    CHECK_BYTES(&VIRTUAL_STORAGE_TYPE_VENDOR_MICROSOFT, &type->VendorId,
                sizeof(GUID));
}

/* The flag of a host volume that happens to be that of the system. */
static unsigned
without_system(unsigned flags)
{
    return flags & ~(unsigned)DEPENDENT_DISK_FLAG_SYSTEM_VOLUME_PARENT;
}

static void
check_path_of(const STORAGE_DEPENDENCY_INFO_TYPE_2 *entry, const char *path)
{
    char whole[8192];
    char real[4096];
    snprintf(whole, sizeof(whole), "%s%s", narrow(entry->HostVolumeName),
             narrow(entry->DependentVolumeRelativePath));
    CHECK(realpath(path, real) != NULL);
    CHECK_STR(real, whole);
}

static void
test_one_disk(void)
{
    HANDLE disk = open_all(path_of("a.vhd"));
    CHECK_OK(attach(disk, ATTACH_VIRTUAL_DISK_FLAG_NO_DRIVE_LETTER |
                              ATTACH_VIRTUAL_DISK_FLAG_READ_ONLY));
    CHECK_OK(ask_path(device_of(disk), HOSTS | DISK, ONE));
    CHECK_EQ(1, info->NumberEntries);
    const STORAGE_DEPENDENCY_INFO_TYPE_1 *one = info->Version1Entries;
    CHECK_EQ(DEPENDENT_DISK_FLAG_FULLY_ALLOCATED |
                 DEPENDENT_DISK_FLAG_READ_ONLY |
                 DEPENDENT_DISK_FLAG_NO_DRIVE_LETTER,
             without_system(one->DependencyTypeFlags));
    CHECK_EQ(0, one->ProviderSpecificFlags);
    check_type(VIRTUAL_STORAGE_TYPE_DEVICE_VHD, &one->VirtualStorageType);

    CHECK_OK(ask_path(device_of(disk), HOSTS, TWO));
    CHECK_EQ(1, info->NumberEntries);
    const STORAGE_DEPENDENCY_INFO_TYPE_2 *two = info->Version2Entries;
    CHECK_EQ(1, two->AncestorLevel);
    CHECK_STR(device_of(disk), narrow(two->DependencyDeviceName));
    CHECK_STR(root_of(directory), narrow(two->HostVolumeName));
    CHECK_STR("", narrow(two->DependentVolumeName));
    check_path_of(two, path_of("a.vhd"));
    check_type(VIRTUAL_STORAGE_TYPE_DEVICE_VHD, &two->VirtualStorageType);

    /* Nothing lies on it; it is no image to itself. */
    CHECK_OK(ask_path(device_of(disk), DISK, TWO));
    CHECK_EQ(0, info->NumberEntries);
    close_handle(disk);
}

/* Every size short of what is needed is refused and writes nothing. */
static void
check_sizes(HANDLE object, unsigned version, ULONG entries)
{
    ULONG needed = 0;
    info->Version = version;
    CHECK_EQ(ERROR_INSUFFICIENT_BUFFER,
             GetStorageDependencyInformation(object, HOSTS, 8, info, &needed));
    if (version == ONE) {
        CHECK_EQ(8 + 28 * entries, needed);
    }
    else {
        CHECK(needed > 8 + sizeof(STORAGE_DEPENDENCY_INFO_TYPE_2) * entries);
    }
    for (ULONG size = 8; size <= needed; size++) {
        STORAGE_DEPENDENCY_INFO *exact = malloc(size);
        ULONG used = 0;
        exact->Version = version;
        exact->NumberEntries = 77;
        DWORD error =
            GetStorageDependencyInformation(object, HOSTS, size, exact, &used);
        CHECK_EQ(size == needed ? 0 : ERROR_INSUFFICIENT_BUFFER, error);
        CHECK_EQ(size == needed ? entries : 77, exact->NumberEntries);
        CHECK_EQ(needed, used);
        free(exact);
    }
}

static void
test_sizes(void)
{
    HANDLE disk = open_all(path_of("a.vhd"));
    CHECK_OK(attach(disk, ATTACH_VIRTUAL_DISK_FLAG_NONE));
    HANDLE object = open_object(device_of(disk));
    check_sizes(object, ONE, 1);
    check_sizes(object, TWO, 1);
    close_handle(object);
    close_handle(disk);
}

static void
test_hosted(void)
{
    HANDLE disk = open_all(path_of("a.vhd"));
    CHECK_OK(attach(disk, ATTACH_VIRTUAL_DISK_FLAG_PERMANENT_LIFETIME));
    struct stat status;
    CHECK(stat(directory, &status) == 0);
    if (major(status.st_dev) != 0) {
        CHECK_OK(ask_path(directory, 0, TWO));
        const STORAGE_DEPENDENCY_INFO_TYPE_2 *entry = find_entry("/a.vhd");
        CHECK(entry != NULL);
        CHECK_EQ(1, entry->AncestorLevel);
        CHECK_STR(device_of(disk), narrow(entry->DependencyDeviceName));
        CHECK_EQ(DEPENDENT_DISK_FLAG_FULLY_ALLOCATED |
                     DEPENDENT_DISK_FLAG_PERMANENT_LIFETIME,
                 without_system(entry->DependencyTypeFlags));
    }
    CHECK_OK(detach(disk));
    CHECK_OK(attach(disk, ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST));
    if (major(status.st_dev) != 0) {
        CHECK_OK(ask_path(directory, 0, TWO));
        const STORAGE_DEPENDENCY_INFO_TYPE_2 *entry = find_entry("/a.vhd");
        CHECK(entry != NULL);
        CHECK_STR("", narrow(entry->DependencyDeviceName));
        CHECK_EQ(DEPENDENT_DISK_FLAG_FULLY_ALLOCATED |
                     DEPENDENT_DISK_FLAG_NO_HOST_DISK,
                 without_system(entry->DependencyTypeFlags));
    }
    close_handle(disk);
}

/* An image that nobody can find any more: its device is still its own. */
static void
test_moved(void)
{
    make_vhd(path_of("gone.vhd"), NULL, 0);
    HANDLE disk = open_all(path_of("gone.vhd"));
    CHECK_OK(attach(disk, ATTACH_VIRTUAL_DISK_FLAG_NONE));
    CHECK(rename(path_of("gone.vhd"), path_of("moved.vhd")) == 0);
    make_vhd(path_of("gone.vhd"), NULL, 0); /* another file of that name */
    CHECK_OK(ask_path(device_of(disk), HOSTS | DISK, TWO));
    CHECK_EQ(1, info->NumberEntries);
    const STORAGE_DEPENDENCY_INFO_TYPE_2 *entry = info->Version2Entries;
    CHECK_EQ(VIRTUAL_STORAGE_TYPE_DEVICE_UNKNOWN,
             entry->VirtualStorageType.DeviceId);
    CHECK_EQ(0, without_system(entry->DependencyTypeFlags));
    CHECK_STR("", narrow(entry->HostVolumeName));
    check_path_of(entry, path_of("gone.vhd"));
    close_handle(disk);
    CHECK(unlink(path_of("gone.vhd")) == 0);
    CHECK(unlink(path_of("moved.vhd")) == 0);
}

/* ---- an image on a partition of an image ---- */

static bool
run(const char *program, const char *argument)
{
    pid_t child = fork();
    if (child == 0) {
        if (freopen("/dev/null", "w", stdout) == NULL ||
            freopen("/dev/null", "w", stderr) == NULL) {
            _exit(126);
        }
        execlp(program, program, "-q", "-O", "^has_journal", argument, NULL);
        _exit(127);
    }
    int status = 0;
    return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

static void
check_inner(const STORAGE_DEPENDENCY_INFO_TYPE_2 *entry, HANDLE inner,
            const char *mounted, ULONG level)
{
    CHECK(entry != NULL);
    CHECK_EQ(level, entry->AncestorLevel);
    CHECK_EQ(DEPENDENT_DISK_FLAG_READ_ONLY, entry->DependencyTypeFlags);
    check_type(VIRTUAL_STORAGE_TYPE_DEVICE_ISO, &entry->VirtualStorageType);
    CHECK_STR(device_of(inner), narrow(entry->DependencyDeviceName));
    CHECK_STR(mounted, narrow(entry->HostVolumeName));
    CHECK_STR("in it.iso", narrow(entry->DependentVolumeRelativePath));
}

static void
check_nesting(HANDLE outer, const char *partition, HANDLE inner,
              const char *mounted)
{
    CHECK_OK(ask_path(device_of(inner), HOSTS | DISK, TWO));
    CHECK_EQ(2, info->NumberEntries);
    check_inner(info->Version2Entries, inner, mounted, 1);
    const STORAGE_DEPENDENCY_INFO_TYPE_2 *second = info->Version2Entries + 1;
    CHECK_EQ(2, second->AncestorLevel);
    CHECK_STR(device_of(outer), narrow(second->DependencyDeviceName));
    CHECK_STR(mounted, narrow(second->DependentVolumeName));
    check_path_of(second, path_of("outer.vhd"));

    /* From what is mounted, and from the partition: only the outer one. */
    CHECK_OK(ask_path(mounted, HOSTS, TWO));
    CHECK_EQ(1, info->NumberEntries);
    CHECK_STR(mounted, narrow(info->Version2Entries[0].DependentVolumeName));
    CHECK_OK(ask_path(partition, HOSTS, TWO));
    CHECK_EQ(1, info->NumberEntries);
    CHECK_STR(mounted, narrow(info->Version2Entries[0].DependentVolumeName));
    CHECK_EQ(ERROR_INVALID_PARAMETER, ask_path(partition, HOSTS | DISK, TWO));

    /* And down. */
    CHECK_OK(ask_path(partition, 0, TWO));
    CHECK_EQ(1, info->NumberEntries);
    check_inner(info->Version2Entries, inner, mounted, 1);
    CHECK_OK(ask_path(device_of(outer), DISK, TWO));
    CHECK_EQ(1, info->NumberEntries);
    check_inner(info->Version2Entries, inner, mounted, 1);
    struct stat status;
    CHECK(stat(directory, &status) == 0);
    if (major(status.st_dev) != 0) {
        CHECK_OK(ask_path(directory, 0, TWO));
        check_inner(find_entry("in it.iso"), inner, mounted, 2);
    }
}

static void
test_nested(void)
{
    static const struct mbr_entry entries[4] = {{0x83, 64, 8000}};
    uint8_t head[512];
    char mounted[4096];
    char partition[64];
    make_mbr(head, entries);
    make_vhd(path_of("outer.vhd"), head, sizeof(head));
    HANDLE outer = open_all(path_of("outer.vhd"));
    CHECK_OK(attach(outer, ATTACH_VIRTUAL_DISK_FLAG_NONE));
    snprintf(partition, sizeof(partition), "%sp1", device_of(outer));
    /* The blank is for the table of mounts, which escapes it. */
    CHECK(realpath(directory, mounted) != NULL);
    strcat(mounted, "/a b");
    CHECK(mkdir(mounted, 0700) == 0);
    if (run("mkfs.ext4", partition) &&
        CHECK(mount(partition, mounted, "ext4", 0, NULL) == 0)) {
        char path[4200];
        snprintf(path, sizeof(path), "%s/in it.iso", mounted);
        make_iso(path);
        HANDLE inner = open_iso(path);
        CHECK_OK(attach(inner, ATTACH_VIRTUAL_DISK_FLAG_READ_ONLY));
        strcat(mounted, "/");
        check_nesting(outer, partition, inner, mounted);
        CHECK_OK(detach(inner));
        close_handle(inner);
        CHECK(umount(mounted) == 0);
    }
    CHECK_OK(detach(outer));
    close_handle(outer);
}

static bool
have_devices(void)
{
    return geteuid() == 0 && access("/dev/loop-control", R_OK | W_OK) == 0 &&
           check_own_mounts(directory);
}

int
main(int argc, char **argv)
{
    (void)argc;
    unsigned descriptors = count_descriptors();
    directory = argv[1];
    info = malloc(BUFFER_SIZE);
    if (info == NULL) {
        check_broken("memory");
    }
    make_vhd(path_of("a.vhd"), NULL, 0);
    test_create_file();
    test_out_of_memory();
    test_arguments();
    test_not_virtual();
    if (have_devices()) {
        test_one_disk();
        test_sizes();
        test_hosted();
        test_moved();
        test_nested();
    }
    free(info);
    CHECK(handles_become(0));
    CHECK(descriptors_become(descriptors));
    return check_result();
}
