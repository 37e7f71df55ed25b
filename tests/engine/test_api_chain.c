/*
 * Differencing chains through the API: the flags of OpenVirtualDisk about
 * parents, AddVirtualDiskParent, what GetVirtualDiskInformation tells of
 * parents, and looking at images that others write to.  Needs no privilege.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <virtdisk.h>

#include "api/handles.h"
#include "api_support.h"
#include "check.h"
#include "disk/image_lock.h"
#include "vhdx_images.h"

#define NO_HOST ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST
#define READ_ONLY ATTACH_VIRTUAL_DISK_FLAG_READ_ONLY
#define NO_PARENTS OPEN_VIRTUAL_DISK_FLAG_NO_PARENTS
#define CUSTOM OPEN_VIRTUAL_DISK_FLAG_CUSTOM_DIFF_CHAIN
#define NO_RELATIVE OPEN_VIRTUAL_DISK_FLAG_IGNORE_RELATIVE_PARENT_LOCATOR

static const char *directory;

static const char *
path_of(const char *name)
{
    return check_path(directory, name);
}

/* base <- middle <- leaf, and another without a child */
static void
make_chain(void)
{
    make_vhdx(path_of("base.vhdx"), NULL, NULL);
    make_vhdx(path_of("middle.vhdx"), path_of("base.vhdx"), u".\\base.vhdx");
    make_vhdx(path_of("leaf.vhdx"), path_of("middle.vhdx"), u".\\middle.vhdx");
    make_vhdx(path_of("other.vhdx"), NULL, NULL);
}

static DWORD
open_flags(const char *name, unsigned flags, bool read_only, HANDLE *out)
{
    VIRTUAL_STORAGE_TYPE type = {.DeviceId = 0};
    OPEN_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = OPEN_VIRTUAL_DISK_VERSION_2,
        .Version2 = {.ReadOnly = read_only},
    };
    return OpenVirtualDisk(&type, wide(path_of(name)),
                           VIRTUAL_DISK_ACCESS_NONE, flags, &parameters, out);
}

static HANDLE
opened(const char *name, unsigned flags)
{
    HANDLE handle = NULL;
    CHECK_OK(open_flags(name, flags, false, &handle));
    return handle;
}

static void
outcome(DWORD expected, const char *name, unsigned flags)
{
    HANDLE handle = NULL;
    DWORD error = open_flags(name, flags, true, &handle);
    CHECK_EQ(expected, error);
    if (error == 0) {
        close_handle(handle);
    }
}

static void
move(const char *from, const char *to)
{
    if (rename(path_of(from), path_of(to)) < 0) {
        check_broken("rename");
    }
}

static DWORD
add(HANDLE handle, const char *name)
{
    return AddVirtualDiskParent(handle, wide(path_of(name)));
}

static DWORD
get(HANDLE handle, ULONG number, GET_VIRTUAL_DISK_INFO *info)
{
    ULONG size = sizeof(*info);
    memset(info, 0xEE, sizeof(*info));
    info->Version = number;
    return GetVirtualDiskInformation(handle, &size, info, NULL);
}

/* ---- what is told of parents ---- */

/* One path, from a buffer of every size up to the one that is enough.  Not
 * resolved it is a list of one, which an empty string ends. */
static void
check_location(HANDLE handle, bool resolved, const char *expected)
{
    size_t text = strlen(expected) + 1;
    ULONG needed = 12 + (ULONG)(2 * (text + !resolved));
    for (ULONG length = 4; length <= needed; length++) {
        GET_VIRTUAL_DISK_INFO *info = calloc(1, length);
        ULONG size = length;
        ULONG used = 0;
        info->Version = GET_VIRTUAL_DISK_INFO_PARENT_LOCATION;
        DWORD error = GetVirtualDiskInformation(handle, &size, info, &used);
        CHECK_EQ(length < needed ? ERROR_INSUFFICIENT_BUFFER : 0, error);
        CHECK_EQ(needed, size);
        if (error == 0) {
            CHECK_EQ(needed, used);
            CHECK_EQ(resolved, info->ParentLocation.ParentResolved);
            CHECK_STR(expected,
                      narrow(info->ParentLocation.ParentLocationBuffer));
        }
        free(info);
    }
}

static void
test_information(void)
{
    GET_VIRTUAL_DISK_INFO info;
    GET_VIRTUAL_DISK_INFO parent;
    struct vd_guid written = vhdx_data_write_guid(path_of("middle.vhdx"));
    HANDLE leaf = opened("leaf.vhdx", 0);
    HANDLE middle = opened("middle.vhdx", 0);
    check_location(leaf, true, path_of("middle.vhdx"));
    CHECK_OK(get(leaf, GET_VIRTUAL_DISK_INFO_PARENT_IDENTIFIER, &info));
    CHECK_BYTES(&written, &info.ParentIdentifier, 16);
    CHECK_OK(get(middle, GET_VIRTUAL_DISK_INFO_IDENTIFIER, &parent));
    CHECK_BYTES(&written, &parent.Identifier, 16);
    CHECK_EQ(ERROR_NOT_SUPPORTED,
             get(leaf, GET_VIRTUAL_DISK_INFO_PARENT_TIMESTAMP, &info));
    CHECK_OK(get(leaf, GET_VIRTUAL_DISK_INFO_PROVIDER_SUBTYPE, &info));
    CHECK_EQ(4, info.ProviderSubtype);
    CHECK_OK(get(leaf, GET_VIRTUAL_DISK_INFO_VIRTUAL_DISK_ID, &info));
    for (size_t i = 0; i < 16; i++) {
        CHECK_EQ(1, ((const uint8_t *)&info.VirtualDiskId)[i]);
    }
    CHECK_OK(get(leaf, GET_VIRTUAL_DISK_INFO_VIRTUAL_STORAGE_TYPE, &info));
    CHECK_EQ(3, info.VirtualStorageType.DeviceId);
    CHECK_OK(get(leaf, GET_VIRTUAL_DISK_INFO_SIZE, &info));
    CHECK_EQ(VHDX_BYTES, info.Size.VirtualSize);
    CHECK_EQ(VHDX_BLOCK, info.Size.BlockSize);
    CHECK_EQ(512, info.Size.SectorSize);
    CHECK_OK(get(leaf, GET_VIRTUAL_DISK_INFO_VHD_PHYSICAL_SECTOR_SIZE, &info));
    CHECK_EQ(4096, info.VhdPhysicalSectorSize);
    CHECK_OK(get(leaf, GET_VIRTUAL_DISK_INFO_IS_4K_ALIGNED, &info));
    CHECK_EQ(TRUE, info.Is4kAligned);
    CHECK_OK(get(leaf, GET_VIRTUAL_DISK_INFO_FRAGMENTATION, &info));
    CHECK_EQ(0, info.FragmentationPercentage);
    CHECK_EQ(ERROR_NOT_SUPPORTED,
             get(leaf, GET_VIRTUAL_DISK_INFO_CHANGE_TRACKING_STATE, &info));
    close_handle(middle);
    close_handle(leaf);
}

static void
test_no_parent_to_tell_of(void)
{
    GET_VIRTUAL_DISK_INFO info;
    HANDLE base = opened("base.vhdx", 0);
    CHECK_EQ(ERROR_VHD_INVALID_TYPE,
             get(base, GET_VIRTUAL_DISK_INFO_PARENT_LOCATION, &info));
    CHECK_EQ(ERROR_VHD_INVALID_TYPE,
             get(base, GET_VIRTUAL_DISK_INFO_PARENT_IDENTIFIER, &info));
    CHECK_EQ(ERROR_VHD_INVALID_TYPE,
             get(base, GET_VIRTUAL_DISK_INFO_PARENT_TIMESTAMP, &info));
    CHECK_OK(get(base, GET_VIRTUAL_DISK_INFO_PROVIDER_SUBTYPE, &info));
    CHECK_EQ(3, info.ProviderSubtype);
    close_handle(base);
}

/* ---- opening without parents ---- */

static void
test_missing_parents(void)
{
    move("middle.vhdx", "gone.vhdx");
    outcome(ERROR_VHD_PARENT_VHD_NOT_FOUND, "leaf.vhdx", 0);
    outcome(0, "leaf.vhdx", NO_PARENTS);
    outcome(0, "leaf.vhdx", CUSTOM);
    outcome(0, "leaf.vhdx", NO_PARENTS | CUSTOM);
    move("gone.vhdx", "middle.vhdx");
    move("base.vhdx", "gone.vhdx");
    outcome(ERROR_VHD_DIFFERENCING_CHAIN_ERROR_IN_PARENT, "leaf.vhdx", 0);
    move("gone.vhdx", "base.vhdx");
    outcome(0, "leaf.vhdx", 0);
    outcome(ERROR_VHD_PARENT_VHD_NOT_FOUND, "leaf.vhdx", NO_RELATIVE);
    outcome(0, "base.vhdx", NO_RELATIVE);
    outcome(0, "base.vhdx", NO_PARENTS);
}

static void
test_no_parents(void)
{
    GET_VIRTUAL_DISK_INFO info;
    HANDLE leaf = opened("leaf.vhdx", NO_PARENTS);
    check_location(leaf, false, path_of("middle.vhdx"));
    CHECK_OK(get(leaf, GET_VIRTUAL_DISK_INFO_PARENT_IDENTIFIER, &info));
    CHECK_EQ(
        ERROR_VHD_COULD_NOT_COMPUTE_MINIMUM_VIRTUAL_SIZE,
        get(leaf, GET_VIRTUAL_DISK_INFO_SMALLEST_SAFE_VIRTUAL_SIZE, &info));
    CHECK_OK(get(leaf, GET_VIRTUAL_DISK_INFO_FRAGMENTATION, &info));
    CHECK_EQ(ERROR_VHD_PARENT_VHD_NOT_FOUND, attach(leaf, NO_HOST));
    CHECK_EQ(ERROR_VHD_PARENT_VHD_NOT_FOUND, attach(leaf, READ_ONLY));
    CHECK_EQ(87, attach(leaf, 0x80000000)); /* that is looked at first */
    CHECK_EQ(87, add(leaf, "middle.vhdx"));
    close_handle(leaf);
    /* An image without a parent has all it needs. */
    HANDLE base = opened("base.vhdx", NO_PARENTS);
    CHECK_OK(attach(base, NO_HOST));
    CHECK_OK(detach(base));
    close_handle(base);
}

static void
test_information_only(void)
{
    VIRTUAL_STORAGE_TYPE type = {.DeviceId = 3};
    OPEN_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = OPEN_VIRTUAL_DISK_VERSION_2,
        .Version2 = {.GetInfoOnly = TRUE},
    };
    HANDLE handle;
    CHECK_OK(OpenVirtualDisk(&type, wide(path_of("leaf.vhdx")), 0, NO_PARENTS,
                             &parameters, &handle));
    CHECK_EQ(ERROR_ACCESS_DENIED, attach(handle, NO_HOST));
    close_handle(handle);
}

/* ---- AddVirtualDiskParent ---- */

static void
test_custom_chain(bool read_only)
{
    HANDLE leaf = NULL;
    CHECK_OK(open_flags("leaf.vhdx", CUSTOM, read_only, &leaf));
    check_location(leaf, false, path_of("middle.vhdx"));
    unsigned flags = NO_HOST | (read_only ? READ_ONLY : 0);
    CHECK_EQ(ERROR_VHD_PARENT_VHD_NOT_FOUND, attach(leaf, flags));
    CHECK_EQ(ERROR_VHD_CHILD_PARENT_ID_MISMATCH, add(leaf, "other.vhdx"));
    CHECK_EQ(ERROR_FILE_NOT_FOUND, add(leaf, "nowhere.vhdx"));
    CHECK_EQ(87, add(leaf, "."));
    CHECK_EQ(87, AddVirtualDiskParent(leaf, NULL));
    CHECK_EQ(ERROR_VHD_CHILD_PARENT_ID_MISMATCH, add(leaf, "leaf.vhdx"));
    CHECK_OK(add(leaf, "elsewhere.vhdx"));
    check_location(leaf, true, path_of("elsewhere.vhdx"));
    CHECK_EQ(ERROR_VHD_PARENT_VHD_NOT_FOUND, attach(leaf, flags));
    CHECK_EQ(ERROR_VHD_CHILD_PARENT_ID_MISMATCH, add(leaf, "other.vhdx"));
    CHECK_OK(add(leaf, "base.vhdx"));
    CHECK_EQ(ERROR_VHD_INVALID_TYPE, add(leaf, "base.vhdx"));
    CHECK_OK(attach(leaf, flags));
    CHECK_EQ(ERROR_VHD_INVALID_STATE, add(leaf, "base.vhdx"));
    CHECK_OK(detach(leaf));
    CHECK_EQ(ERROR_VHD_INVALID_TYPE, add(leaf, "base.vhdx"));
    close_handle(leaf);
}

/* Where the image does not look for its parent. */
static void
test_custom_chains(void)
{
    move("middle.vhdx", "elsewhere.vhdx");
    outcome(ERROR_VHD_PARENT_VHD_NOT_FOUND, "leaf.vhdx", 0);
    test_custom_chain(true);
    test_custom_chain(false);
    move("elsewhere.vhdx", "middle.vhdx");
}

static void
test_misuse(void)
{
    HANDLE base = opened("base.vhdx", CUSTOM);
    HANDLE leaf = opened("leaf.vhdx", 0);
    CHECK_EQ(ERROR_VHD_INVALID_TYPE, add(base, "other.vhdx"));
    CHECK_EQ(87, add(leaf, "middle.vhdx"));
    close_handle(leaf);
    close_handle(base);
    /* Of another format. */
    make_vhd(path_of("fixed.vhd"), NULL, 0);
    leaf = opened("leaf.vhdx", CUSTOM);
    CHECK_EQ(ERROR_VHD_INVALID_TYPE, add(leaf, "fixed.vhd"));
    CHECK_OK(add(leaf, "middle.vhdx"));
    close_handle(leaf);
}

static void
test_out_of_memory(void)
{
    int failures = 0;
    for (bool again = true; again; failures++) {
        HANDLE leaf = opened("leaf.vhdx", CUSTOM);
        check_fail_allocation(failures);
        DWORD error = add(leaf, "middle.vhdx");
        again = check_fail_allocation(-1);
        CHECK_EQ(again ? ERROR_NOT_ENOUGH_MEMORY : 0, error);
        if (again) {
            CHECK_OK(add(leaf, "middle.vhdx"));
        }
        close_handle(leaf);
    }
    CHECK(failures > 3);
}

/* Information is asked for by other threads while parents come. */
static void *
ask(void *argument)
{
    HANDLE leaf = argument;
    GET_VIRTUAL_DISK_INFO info;
    unsigned good = 0;
    for (unsigned i = 0; i < 200; i++) {
        ULONG class = 1 + i % 14;
        ULONG size = sizeof(info);
        info.Version = class;
        DWORD error = GetVirtualDiskInformation(leaf, &size, &info, NULL);
        good +=
            error == 0 || error == 50 || error == 122 || error == 0xC03A0026;
    }
    return (void *)(uintptr_t)good;
}

static void
test_concurrently(void)
{
    for (unsigned round = 0; round < 5; round++) {
        pthread_t threads[3];
        HANDLE leaf = opened("leaf.vhdx", CUSTOM);
        for (unsigned i = 0; i < 3; i++) {
            pthread_create(&threads[i], NULL, ask, leaf);
        }
        CHECK_OK(add(leaf, "middle.vhdx"));
        pid_t child = fork();
        if (child == 0) {
            _exit(0);
        }
        CHECK_OK(add(leaf, "base.vhdx"));
        for (unsigned i = 0; i < 3; i++) {
            void *good;
            pthread_join(threads[i], &good);
            CHECK_EQ(200, (uintptr_t)good);
        }
        CHECK_EQ(child, waitpid(child, NULL, 0));
        close_handle(leaf);
    }
}

/* A child has none of the files of a chain. */
static void
test_fork(unsigned descriptors)
{
    HANDLE leaf = opened("leaf.vhdx", 0);
    pid_t child = fork();
    if (child == 0) {
        _exit(count_descriptors() == descriptors ? 0 : 1);
    }
    int status = -1;
    CHECK_EQ(child, waitpid(child, &status, 0));
    CHECK_EQ(0, status);
    close_handle(leaf);
}

/* ---- an image that somebody is writing to ---- */

static int
open_for_writing(const char *name)
{
    int fd = open(path_of(name), O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        check_broken("open");
    }
    return fd;
}

/* No header with a checksum that fits. */
#define DAMAGED ERROR_VHD_DRIVE_FOOTER_CHECKSUM_MISMATCH

struct repair {
    int fd;
    uint8_t bytes[131072]; /* from 64 KiB on: both headers */
};

static void *
repair(void *argument)
{
    const struct repair *job = argument;
    usleep(100000);
    ssize_t done = pwrite(job->fd, job->bytes, sizeof(job->bytes), 65536);
    return (void *)(uintptr_t)(done == (ssize_t)sizeof(job->bytes));
}

static const uint8_t no_headers[sizeof(((struct repair *)0)->bytes)];

static void
remove_headers(const struct repair *job)
{
    CHECK_EQ(sizeof(no_headers),
             pwrite(job->fd, no_headers, sizeof(no_headers), 65536));
}

/* What is said of an image whose headers are gone for a tenth of a second: a
 * state that no write of ours leads to, but one that nobody could take for a
 * whole image. */
static DWORD
open_while_repaired(struct repair *job)
{
    HANDLE handle = NULL;
    pthread_t thread;
    void *repaired;
    remove_headers(job);
    pthread_create(&thread, NULL, repair, job);
    DWORD error = open_flags("other.vhdx", 0, true, &handle);
    if (error == 0) {
        close_handle(handle);
    }
    pthread_join(thread, &repaired);
    CHECK(repaired != NULL);
    return error;
}

static void
test_passing_damage(void)
{
    static struct repair job;
    DWORD error = DAMAGED;
    job.fd = open_for_writing("other.vhdx");
    CHECK_EQ(sizeof(job.bytes),
             pread(job.fd, job.bytes, sizeof(job.bytes), 65536));
    CHECK_OK(vd_image_lock(job.fd, VD_LOCK_WRITE));
    /* Patience has an end, before which that thread may not have run. */
    for (int i = 0; i < 20 && error == DAMAGED; i++) {
        error = open_while_repaired(&job);
    }
    CHECK_OK(error);
    /* Lasting damage is told in the end, and at once if nobody writes. */
    remove_headers(&job);
    outcome(DAMAGED, "other.vhdx", 0);
    vd_image_unlock(job.fd);
    outcome(DAMAGED, "other.vhdx", 0);
    repair(&job);
    outcome(0, "other.vhdx", 0);
    close(job.fd);
}

int
main(int argc, char **argv)
{
    (void)argc;
    unsigned descriptors = count_descriptors();
    directory = argv[1];
    make_chain();
    test_information();
    test_no_parent_to_tell_of();
    test_missing_parents();
    test_no_parents();
    test_information_only();
    test_custom_chains();
    test_misuse();
    test_out_of_memory();
    test_concurrently();
    test_fork(descriptors);
    test_passing_damage();
    CHECK(handles_become(0));
    CHECK(descriptors_become(descriptors));
    return check_result();
}
