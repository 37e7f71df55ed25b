/*
 * AttachVirtualDisk, DetachVirtualDisk, GetVirtualDiskPhysicalPath and
 * GetAllAttachedVirtualDiskPhysicalPaths on real loop devices: the contract
 * of API 2.2 to 2.4 and 2.7, and DESIGN 5.7.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sddl.h>
#include <virtdisk.h>

#include "api/handles.h"
#include "api_support.h"
#include "check.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define READ_ONLY ATTACH_VIRTUAL_DISK_FLAG_READ_ONLY
#define NO_LETTER ATTACH_VIRTUAL_DISK_FLAG_NO_DRIVE_LETTER
#define PERMANENT ATTACH_VIRTUAL_DISK_FLAG_PERMANENT_LIFETIME
#define NO_HOST ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST
#define NO_SD ATTACH_VIRTUAL_DISK_FLAG_NO_SECURITY_DESCRIPTOR
#define BYPASS ATTACH_VIRTUAL_DISK_FLAG_BYPASS_DEFAULT_ENCRYPTION_POLICY
#define NON_PNP ATTACH_VIRTUAL_DISK_FLAG_NON_PNP
#define RANGE ATTACH_VIRTUAL_DISK_FLAG_RESTRICTED_RANGE
#define SINGLE ATTACH_VIRTUAL_DISK_FLAG_SINGLE_PARTITION
#define REGISTER ATTACH_VIRTUAL_DISK_FLAG_REGISTER_VOLUME
#define AT_BOOT ATTACH_VIRTUAL_DISK_FLAG_AT_BOOT

#define THREADS 8

static const char *directory;
static const char *vhd;
static const char *iso;

/* -- the contract -- */

enum handle_kind { VHD_ALL, VHD_READ, VHD_INFO, VHD_RO, VHD_RW, ISO_READ };

static HANDLE
open_kind(enum handle_kind kind)
{
    HANDLE handle = NULL;
    switch (kind) {
    case VHD_ALL:
        return open_all(vhd);
    case VHD_READ:
        CHECK_OK(open_2(vhd, false, true, &handle));
        return handle;
    case VHD_INFO:
        CHECK_OK(open_2(vhd, true, false, &handle));
        return handle;
    case VHD_RO:
        CHECK_OK(open_1(vhd, VIRTUAL_DISK_ACCESS_ATTACH_RO, 1, &handle));
        return handle;
    case VHD_RW:
        CHECK_OK(open_1(vhd, VIRTUAL_DISK_ACCESS_ATTACH_RW, 1, &handle));
        return handle;
    case ISO_READ:
        return open_iso(iso);
    }
    return handle;
}

/* Arguments, and the code they end with; success is undone by closing. */
static const struct attach_row {
    const char *name;
    enum handle_kind handle;
    uint32_t flags;
    DWORD error;
    uint32_t version; /* 0: Parameters is NULL */
    uint64_t offset;  /* of version 2 */
    uint64_t length;
    uint32_t provider_flags;
} rows[] = {
    {"no parameters", VHD_ALL, NO_LETTER, 0, 0, 0, 0, 0},
    {"version 1", VHD_ALL, NO_LETTER, 0, 1, 0, 0, 0},
    {"version 2", VHD_ALL, NO_LETTER, 0, 2, 0, 0, 0},
    {"provider flags", VHD_ALL, NO_LETTER, 87, 0, 0, 0, 1},
    {"unknown flag", VHD_ALL, 0x800, 87, 0, 0, 0, 0},
    {"highest flag", VHD_ALL, 0x80000000, 87, 0, 0, 0, 0},
    {"no flags", VHD_ALL, 0, 0, 0, 0, 0, 0},
    {"read-only", VHD_ALL, READ_ONLY, 0, 0, 0, 0, 0},
    {"no descriptor", VHD_ALL, NO_SD, 0, 0, 0, 0, 0},
    {"bypass", VHD_ALL, BYPASS, 0, 0, 0, 0, 0},
    {"non-PnP", VHD_ALL, NON_PNP, 0, 0, 0, 0, 0},
    {"non-PnP, registered", VHD_ALL, NON_PNP | REGISTER, 0, 0, 0, 0, 0},
    {"registered", VHD_ALL, REGISTER, 87, 0, 0, 0, 0},
    {"at boot", VHD_ALL, AT_BOOT, 50, 0, 0, 0, 0},
    {"at boot, permanent", VHD_ALL, AT_BOOT | PERMANENT, 50, 0, 0, 0, 0},
    {"no host", VHD_ALL, NO_HOST, 0, 0, 0, 0, 0},
    {"no host, permanent", VHD_ALL, NO_HOST | PERMANENT, 50, 0, 0, 0, 0},
    {"range", VHD_ALL, RANGE, 0, 2, 512, 1024, 0},
    {"range, all", VHD_ALL, RANGE, 0, 2, 0, VHD_BYTES, 0},
    {"range, last sector", VHD_ALL, RANGE, 0, 2, VHD_BYTES - 512, 512, 0},
    {"range, no parameters", VHD_ALL, RANGE, 87, 0, 0, 0, 0},
    {"range, version 1", VHD_ALL, RANGE, 87, 1, 0, 0, 0},
    {"range, empty", VHD_ALL, RANGE, 87, 2, 512, 0, 0},
    {"range, offset odd", VHD_ALL, RANGE, 87, 2, 513, 512, 0},
    {"range, length odd", VHD_ALL, RANGE, 87, 2, 512, 511, 0},
    {"range, too long", VHD_ALL, RANGE, 87, 2, 512, VHD_BYTES, 0},
    {"range, past end", VHD_ALL, RANGE, 87, 2, VHD_BYTES, 512, 0},
    {"range, wraps", VHD_ALL, RANGE, 87, 2, 512, 0 - (uint64_t)512, 0},
    {"range, no flag", VHD_ALL, 0, 87, 2, 512, 512, 0},
    {"range, length, no flag", VHD_ALL, 0, 87, 2, 0, 512, 0},
    {"range and partition", VHD_ALL, RANGE | SINGLE, 87, 2, 0, 512, 0},
    {"partition, none", VHD_ALL, SINGLE, 1168, 0, 0, 0, 0},
    {"handle to read", VHD_READ, 0, 5, 0, 0, 0, 0},
    {"handle to read, read-only", VHD_READ, READ_ONLY, 0, 0, 0, 0, 0},
    {"handle to look", VHD_INFO, READ_ONLY, 5, 0, 0, 0, 0},
    {"handle to look, writing", VHD_INFO, 0, 5, 0, 0, 0, 0},
    {"ATTACH_RO", VHD_RO, 0, 5, 0, 0, 0, 0},
    {"ATTACH_RO, read-only", VHD_RO, READ_ONLY, 0, 0, 0, 0, 0},
    {"ATTACH_RW", VHD_RW, 0, 0, 0, 0, 0, 0},
    {"ATTACH_RW, read-only", VHD_RW, READ_ONLY, 0, 0, 0, 0, 0},
    {"ISO", ISO_READ, READ_ONLY, 0, 0, 0, 0, 0},
    {"ISO, range", ISO_READ, READ_ONLY | RANGE, 0, 2, 2048, 4096, 0},
    {"ISO, half sectors", ISO_READ, READ_ONLY | RANGE, 87, 2, 2048, 512, 0},
    {"ISO, writing", ISO_READ, 0, 87, 0, 0, 0, 0},
    {"ISO, no host", ISO_READ, READ_ONLY | NO_HOST, 87, 0, 0, 0, 0},
    {"ISO, partition", ISO_READ, READ_ONLY | SINGLE, 87, 0, 0, 0, 0},
};

static DWORD
attach_row(HANDLE handle, const struct attach_row *row)
{
    ATTACH_VIRTUAL_DISK_PARAMETERS parameters = {.Version = row->version};
    if (row->version == 2) {
        parameters.Version2.RestrictedOffset = row->offset;
        parameters.Version2.RestrictedLength = row->length;
    }
    return AttachVirtualDisk(handle, NULL, row->flags, row->provider_flags,
                             row->version == 0 ? NULL : &parameters, NULL);
}

static void
test_rows(void)
{
    for (size_t i = 0; i < COUNT(rows); i++) {
        HANDLE handle = open_kind(rows[i].handle);
        bool good = CHECK_EQ(rows[i].error, attach_row(handle, &rows[i]));
        close_handle(handle);
        handle = open_all(vhd);
        good &= CHECK(!is_loaded(handle)); /* gone with its handle */
        close_handle(handle);
        if (!good) {
            fprintf(stderr, "    %s\n", rows[i].name);
        }
    }
}

/* -- what is attached -- */

static uint64_t
device_size(int fd)
{
    uint64_t size = 0;
    CHECK_EQ(0, ioctl(fd, BLKGETSIZE64, &size));
    return size;
}

/* The device shows [offset, offset + length) of the image file. */
static void
check_content(const char *device, const char *image, off_t offset,
              size_t length)
{
    uint8_t *expected = malloc(length);
    uint8_t *actual = malloc(length);
    int image_fd = open(image, O_RDONLY | O_CLOEXEC);
    int device_fd = open(device, O_RDONLY | O_CLOEXEC);
    CHECK(device_fd >= 0);
    CHECK_EQ(length, device_size(device_fd));
    CHECK_EQ(length, pread(image_fd, expected, length, offset));
    CHECK_EQ(length, pread(device_fd, actual, length, 0));
    CHECK_BYTES(expected, actual, length);
    close(device_fd);
    close(image_fd);
    free(actual);
    free(expected);
}

static int
ioctl_int(const char *device, unsigned long request)
{
    int value = -1;
    int fd = open(device, O_RDONLY | O_CLOEXEC);
    CHECK_EQ(0, ioctl(fd, request, &value));
    close(fd);
    return value;
}

static void
test_attach_vhd(void)
{
    HANDLE handle = open_all(vhd);
    HANDLE other = open_all(vhd);
    CHECK(!is_loaded(handle));
    CHECK_STR("", device_of(handle));
    CHECK_OK(attach(handle, NO_LETTER));
    const char *device = device_of(handle);
    CHECK(strncmp(device, "/dev/loop", 9) == 0);
    CHECK_STR(device, device_of(other));
    CHECK(is_loaded(handle));
    CHECK(is_loaded(other));
    check_content(device, vhd, 0, VHD_BYTES);
    CHECK_EQ(0, ioctl_int(device, BLKROGET));
    CHECK_EQ(512, ioctl_int(device, BLKSSZGET));
    CHECK_EQ(ERROR_SHARING_VIOLATION, attach(handle, NO_LETTER));
    CHECK_EQ(ERROR_SHARING_VIOLATION, attach(other, NO_LETTER));
    CHECK_EQ(ERROR_SHARING_VIOLATION, attach(other, READ_ONLY));
    close_handle(handle);
    CHECK(!is_loaded(other));
    CHECK_STR("", device_of(other));
    CHECK_OK(attach(other, NO_LETTER));
    close_handle(other);
}

static void
test_attach_iso(void)
{
    HANDLE handle = open_iso(iso);
    CHECK_OK(attach(handle, READ_ONLY));
    const char *device = device_of(handle);
    check_content(device, iso, 0, ISO_BYTES);
    CHECK_EQ(1, ioctl_int(device, BLKROGET));
    CHECK_EQ(2048, ioctl_int(device, BLKSSZGET));
    HANDLE other;
    CHECK_EQ(ERROR_SHARING_VIOLATION,
             open_1(iso, VIRTUAL_DISK_ACCESS_READ, 0, &other));
    CHECK_OK(open_1(iso, VIRTUAL_DISK_ACCESS_GET_INFO, 0, &other));
    CHECK_STR(device, device_of(other));
    close_handle(other);
    close_handle(handle);
}

static void
test_writes_reach_the_image(void)
{
    static const char text[512] = "written through the device";
    char back[512];
    const char *path = check_path(directory, "written.vhd");
    make_vhd(path, NULL, 0);
    HANDLE handle = open_all(path);
    CHECK_OK(attach(handle, NO_LETTER));
    int fd = open(device_of(handle), O_RDWR | O_CLOEXEC);
    CHECK_EQ(512, pwrite(fd, text, sizeof(text), 4096));
    close(fd);
    CHECK_OK(detach(handle));
    fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK_EQ(512, pread(fd, back, sizeof(back), 4096));
    CHECK_BYTES(text, back, sizeof(back));
    close(fd);
    close_handle(handle);
}

static DWORD
attach_range(HANDLE handle, uint64_t offset, uint64_t length)
{
    ATTACH_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = ATTACH_VIRTUAL_DISK_VERSION_2,
        .Version2 = {.RestrictedOffset = offset, .RestrictedLength = length},
    };
    return AttachVirtualDisk(handle, NULL, RANGE | NO_LETTER, 0, &parameters,
                             NULL);
}

static void
test_restricted_range(void)
{
    HANDLE handle = open_all(vhd);
    CHECK_OK(attach_range(handle, 3 * 512, 7 * 512));
    check_content(device_of(handle), vhd, 3 * 512, 7 * 512);
    close_handle(handle);
}

/* One data partition among others that are none, and two. */
static void
test_single_partition(void)
{
    static const struct mbr_entry one[4] = {
        {0xEF, 64, 100},
        {0x83, 2048, 4096},
        {0x27, 7000, 100},
    };
    static const struct mbr_entry two[4] = {
        {0x83, 64, 100},
        {0x07, 2048, 4096},
    };
    uint8_t sector[512];
    const char *path = check_path(directory, "single.vhd");
    make_mbr(sector, one);
    make_vhd(path, sector, sizeof(sector));
    HANDLE handle = open_all(path);
    CHECK_OK(attach(handle, SINGLE));
    check_content(device_of(handle), path, 2048 * 512, 4096 * 512);
    close_handle(handle);
    make_mbr(sector, two);
    make_vhd(path, sector, sizeof(sector));
    handle = open_all(path);
    CHECK_EQ(ERROR_NOT_FOUND, attach(handle, SINGLE));
    CHECK(!is_loaded(handle));
    close_handle(handle);
}

/* The name of the first partition's node; whether it is there. */
static bool
has_partition_node(HANDLE handle)
{
    char path[64];
    struct stat status;
    const char *name = strrchr(device_of(handle), '/') + 1;
    snprintf(path, sizeof(path), "/sys/block/%s/%sp1", name, name);
    return stat(path, &status) == 0;
}

static void
test_partition_nodes(void)
{
    static const struct mbr_entry entries[4] = {{0x83, 2048, 4096}};
    static const struct {
        unsigned flags;
        bool nodes;
    } cases[] = {
        {0, true},
        {READ_ONLY, true},
        {NO_LETTER, false},
        {NON_PNP, false},
        {NON_PNP | REGISTER, true},
        {NON_PNP | REGISTER | NO_LETTER, false},
        {SINGLE, false},
    };
    uint8_t sector[512];
    const char *path = check_path(directory, "nodes.vhd");
    make_mbr(sector, entries);
    make_vhd(path, sector, sizeof(sector));
    for (size_t i = 0; i < COUNT(cases); i++) {
        HANDLE handle = open_all(path);
        CHECK_OK(attach(handle, cases[i].flags));
        if (!CHECK(cases[i].nodes == has_partition_node(handle))) {
            fprintf(stderr, "    flags %#x\n", cases[i].flags);
        }
        close_handle(handle);
    }
}

static void
test_cached_io(void)
{
    VIRTUAL_STORAGE_TYPE type = {.DeviceId = 0};
    char path[64];
    char direct = '?';
    HANDLE handle;
    CHECK_OK(OpenVirtualDisk(&type, wide(vhd), VIRTUAL_DISK_ACCESS_ALL,
                             OPEN_VIRTUAL_DISK_FLAG_CACHED_IO, NULL, &handle));
    CHECK_OK(attach(handle, NO_LETTER));
    snprintf(path, sizeof(path), "/sys/block/%s/loop/dio",
             strrchr(device_of(handle), '/') + 1);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK_EQ(1, read(fd, &direct, 1));
    CHECK_EQ('0', direct);
    close(fd);
    close_handle(handle);
}

/* -- security -- */

static void
check_node(const char *image, unsigned flags, const char *sddl, uid_t uid,
           gid_t gid, mode_t mode)
{
    PSECURITY_DESCRIPTOR descriptor = NULL;
    struct stat node;
    if (sddl != NULL) {
        CHECK(ConvertStringSecurityDescriptorToSecurityDescriptorW(
            wide(sddl), SDDL_REVISION_1, &descriptor, NULL));
    }
    HANDLE handle = open_all(image);
    CHECK_OK(AttachVirtualDisk(handle, descriptor, flags, 0, NULL, NULL));
    LocalFree(descriptor); /* is needed during the call only */
    CHECK_EQ(0, stat(device_of(handle), &node));
    CHECK_EQ(uid, node.st_uid);
    CHECK_EQ(gid, node.st_gid);
    CHECK_EQ(mode, node.st_mode & 07777);
    close_handle(handle);
}

static void
test_node_access(void)
{
    const char *path = check_path(directory, "owned.vhd");
    make_vhd(path, NULL, 0);
    CHECK_EQ(0, chown(path, 1234, 2345));
    CHECK_EQ(0, chmod(path, 0751));
    check_node(path, NO_LETTER, NULL, 1234, 2345, 0640);
    check_node(path, NO_LETTER, "D:P(A;;GA;;;WD)", 0, 0, 0666);
    check_node(path, NO_LETTER, "D:P(A;;GA;;;BA)", 0, 0, 0000);
    check_node(path, NO_LETTER,
               "O:S-1-22-1-33G:S-1-22-2-44D:(A;;GA;;;OW)(A;;GR;;;CG)", 33, 44,
               0640);
}

static void
write_group(FILE *file, const char *name, unsigned id, size_t members)
{
    fprintf(file, "%s:x:%u:m", name, id);
    for (size_t i = 1; i < members; i++) {
        fprintf(file, ",member%zu", i);
    }
    fprintf(file, "\n");
}

/* In a namespace of its own, with groups whose entries need large buffers:
 * one that is found, and one that nobody's buffer is for. */
static int
look_up_large_groups(const char *path)
{
    PSECURITY_DESCRIPTOR descriptor = NULL;
    FILE *file = fopen(path, "we");
    if (file == NULL) {
        return 1;
    }
    write_group(file, "large", 70001, 5000);
    write_group(file, "huge", 70002, 200000);
    fclose(file);
    if (!check_own_mounts(directory) ||
        mount(path, "/etc/group", NULL, MS_BIND, NULL) < 0) {
        return 2;
    }
    if (!ConvertStringSecurityDescriptorToSecurityDescriptorW(
            u"G:large", SDDL_REVISION_1, &descriptor, NULL)) {
        return 3;
    }
    LocalFree(descriptor);
    bool found = ConvertStringSecurityDescriptorToSecurityDescriptorW(
        u"G:huge", SDDL_REVISION_1, &descriptor, NULL);
    return found || GetLastError() != ERROR_NONE_MAPPED ? 4 : 0;
}

static void
test_large_groups(void)
{
    pid_t child = fork();
    if (child == 0) {
        _exit(look_up_large_groups(check_path(directory, "group")));
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK_EQ(0, status);
}

static DWORD
attach_with_descriptor(unsigned flags, void *descriptor)
{
    HANDLE handle = open_all(vhd);
    DWORD error = AttachVirtualDisk(handle, descriptor, flags, 0, NULL, NULL);
    close_handle(handle);
    return error;
}

static void
test_refused_descriptors(void)
{
    PSECURITY_DESCRIPTOR everyone = NULL;
    PSECURITY_DESCRIPTOR authenticated = NULL;
    uint8_t zeros[64] = {0};
    CHECK(ConvertStringSecurityDescriptorToSecurityDescriptorW(
        u"D:(A;;GA;;;WD)", SDDL_REVISION_1, &everyone, NULL));
    CHECK(ConvertStringSecurityDescriptorToSecurityDescriptorW(
        u"D:(A;;GA;;;AU)", SDDL_REVISION_1, &authenticated, NULL));
    CHECK_EQ(ERROR_INVALID_PARAMETER, attach_with_descriptor(NO_SD, everyone));
    CHECK_EQ(ERROR_NOT_SUPPORTED, attach_with_descriptor(0, authenticated));
    CHECK_EQ(ERROR_INVALID_SECURITY_DESCR, attach_with_descriptor(0, zeros));
    LocalFree(everyone);
    LocalFree(authenticated);
}

/* -- detaching -- */

static void
test_detach(void)
{
    HANDLE handle = open_all(vhd);
    CHECK_EQ(ERROR_NOT_READY, detach(handle));
    CHECK_OK(attach(handle, NO_LETTER));
    CHECK_EQ(ERROR_INVALID_PARAMETER, DetachVirtualDisk(handle, 1, 0));
    CHECK_EQ(ERROR_INVALID_PARAMETER, DetachVirtualDisk(handle, 0, 1));
    CHECK(is_loaded(handle));
    CHECK_OK(detach(handle));
    CHECK(!is_loaded(handle));
    CHECK_EQ(ERROR_NOT_READY, detach(handle));
    CHECK_OK(attach(handle, READ_ONLY));
    CHECK_OK(detach(handle));
    close_handle(handle);
}

static void
test_detach_needs_the_right(void)
{
    HANDLE owner = open_all(vhd);
    HANDLE looker;
    CHECK_OK(attach(owner, NO_LETTER));
    CHECK_OK(open_2(vhd, true, false, &looker));
    CHECK_EQ(ERROR_ACCESS_DENIED, detach(looker));
    close_handle(looker);
    CHECK_OK(open_1(vhd, VIRTUAL_DISK_ACCESS_GET_INFO, 1, &looker));
    CHECK_EQ(ERROR_ACCESS_DENIED, detach(looker));
    close_handle(looker);
    CHECK(is_loaded(owner));
    close_handle(owner);
}

static void
test_detach_by_another_handle(void)
{
    HANDLE owner = open_all(vhd);
    HANDLE other;
    CHECK_OK(attach(owner, NO_LETTER));
    CHECK_OK(open_1(vhd, VIRTUAL_DISK_ACCESS_DETACH, 1, &other));
    CHECK_OK(detach(other));
    CHECK(!is_loaded(owner));
    CHECK_STR("", device_of(owner));
    CHECK_EQ(ERROR_NOT_READY, detach(owner));
    CHECK_OK(attach(owner, NO_LETTER)); /* the handle is as new */
    CHECK_OK(detach(other));
    close_handle(other);
    close_handle(owner);
}

static void
test_detach_by_another_process(void)
{
    HANDLE owner = open_all(vhd);
    CHECK_OK(attach(owner, NO_LETTER));
    pid_t child = fork();
    if (child == 0) {
        HANDLE handle;
        DWORD error = open_1(vhd, VIRTUAL_DISK_ACCESS_DETACH, 1, &handle);
        _exit(error ? 1 : detach(handle) != 0);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK_EQ(0, status);
    CHECK(!is_loaded(owner));
    CHECK_EQ(ERROR_NOT_READY, detach(owner));
    close_handle(owner);
}

/* What a mounted file system does: an exclusive claim on the device. */
static void
test_detach_while_in_use(void)
{
    HANDLE handle = open_all(vhd);
    HANDLE other = open_all(vhd);
    CHECK_OK(attach(handle, NO_LETTER));
    char device[64];
    snprintf(device, sizeof(device), "%s", device_of(handle));
    int fd = open(device, O_RDONLY | O_EXCL | O_CLOEXEC);
    CHECK(fd >= 0);
    CHECK_EQ(ERROR_BUSY, detach(handle));
    CHECK_EQ(ERROR_BUSY, detach(other));
    CHECK_STR(device, device_of(handle));
    check_content(device, vhd, 0, VHD_BYTES);
    close(fd);
    CHECK_OK(detach(handle));
    close_handle(other);
    close_handle(handle);
}

/* A forked child has its parent's attachment neither to keep nor to end. */
static void
test_fork(void)
{
    HANDLE handle = open_all(vhd);
    HANDLE other = open_all(vhd);
    int gate[2];
    CHECK_OK(attach(handle, NO_LETTER));
    CHECK_EQ(0, pipe2(gate, O_CLOEXEC));
    pid_t child = fork();
    if (child == 0) {
        char byte;
        close(gate[1]);
        bool invalid = !CloseHandle(handle) && detach(handle) == 6;
        _exit(read(gate[0], &byte, 1) == 0 && invalid ? 0 : 1);
    }
    CHECK(is_loaded(handle));
    close_handle(handle);
    CHECK(!is_loaded(other));           /* although the child still lives */
    CHECK_OK(attach(other, NO_LETTER)); /* nor has it the locks */
    close(gate[1]);
    close(gate[0]);
    int status = -1;
    waitpid(child, &status, 0);
    CHECK_EQ(0, status);
    close_handle(other);
}

/* -- lifetime -- */

static DWORD
try_open(unsigned mask, unsigned depth)
{
    HANDLE handle;
    DWORD error = open_1(vhd, mask, depth, &handle);
    if (error == 0) {
        close_handle(handle);
    }
    return error;
}

/* API 2.1: who opens a permanently attached disk must ask for DETACH, and
 * not for writing if it is attached read-only. */
static void
test_permanent(unsigned flags, DWORD writing)
{
    HANDLE handle = open_all(vhd);
    CHECK_OK(attach(handle, PERMANENT | flags));
    close_handle(handle);
    CHECK_OK(try_open(VIRTUAL_DISK_ACCESS_READ, 0));
    CHECK_OK(try_open(VIRTUAL_DISK_ACCESS_GET_INFO, 0));
    CHECK_EQ(32, try_open(VIRTUAL_DISK_ACCESS_ATTACH_RO, 0));
    CHECK_EQ(32, try_open(VIRTUAL_DISK_ACCESS_ATTACH_RW, 1));
    CHECK_EQ(writing, try_open(VIRTUAL_DISK_ACCESS_ALL, 1));
    CHECK_OK(try_open(VIRTUAL_DISK_ACCESS_ALL, 0));
    handle = open_all(vhd);
    CHECK(is_loaded(handle));
    check_content(device_of(handle), vhd, 0, VHD_BYTES);
    CHECK_EQ(ERROR_SHARING_VIOLATION, attach(handle, flags));
    CHECK_OK(detach(handle));
    CHECK(!is_loaded(handle));
    close_handle(handle);
}

/* The same through the handle that attached it. */
static void
test_permanent_and_own_handle(void)
{
    HANDLE handle = open_all(vhd);
    CHECK_OK(attach(handle, PERMANENT | NO_LETTER));
    CHECK_EQ(ERROR_SHARING_VIOLATION, attach(handle, NO_LETTER));
    CHECK_OK(detach(handle));
    CHECK_EQ(ERROR_NOT_READY, detach(handle));
    close_handle(handle);
}

static void
test_no_local_host(void)
{
    HANDLE handle = open_all(vhd);
    HANDLE other = open_all(vhd);
    CHECK_OK(attach(handle, NO_HOST));
    CHECK(is_loaded(handle));
    CHECK(is_loaded(other));
    CHECK_STR("", device_of(handle));
    CHECK_STR("", device_of(other));
    CHECK_EQ(ERROR_SHARING_VIOLATION, attach(other, NO_HOST));
    CHECK_EQ(ERROR_SHARING_VIOLATION, attach(other, READ_ONLY));
    close_handle(handle);
    CHECK(!is_loaded(other));
    CHECK_OK(attach(other, NO_HOST));
    CHECK_OK(detach(other));
    close_handle(other);
}

/* -- paths -- */

static void
test_physical_path_sizes(void)
{
    HANDLE handle = open_all(vhd);
    CHECK_OK(attach(handle, NO_LETTER));
    ULONG needed = 0;
    CHECK_EQ(ERROR_INSUFFICIENT_BUFFER,
             GetVirtualDiskPhysicalPath(handle, &needed, NULL));
    CHECK_EQ(2 * (strlen(device_of(handle)) + 1), needed);
    for (ULONG size = 0; size <= needed; size++) {
        char16_t *path = malloc(size + 1);
        ULONG used = size;
        CHECK_EQ(size < needed ? ERROR_INSUFFICIENT_BUFFER : 0,
                 GetVirtualDiskPhysicalPath(handle, &used, path));
        CHECK_EQ(needed, used);
        free(path);
    }
    close_handle(handle);
}

/* All images that are attached, in a buffer of exactly their size; other
 * programs may attach meanwhile. */
static char16_t *
all_images(ULONG *size)
{
    for (*size = 0;;) {
        char16_t *paths = malloc(*size + 1);
        ULONG had = *size;
        DWORD error = GetAllAttachedVirtualDiskPhysicalPaths(size, paths);
        if (error == 0) {
            CHECK(*size <= had);
            return paths;
        }
        CHECK_EQ(ERROR_INSUFFICIENT_BUFFER, error);
        CHECK(*size > had);
        free(paths);
    }
}

static unsigned
count_in_list(const char16_t *paths, ULONG size, const char16_t *wanted)
{
    unsigned count = 0;
    const char16_t *at = paths;
    while (*at != 0) {
        size_t length = 0;
        while (at[length] != 0) {
            length++;
        }
        count += memcmp(at, wanted, (length + 1) * sizeof(*at)) == 0;
        at += length + 1;
    }
    CHECK_EQ((at + 1 - paths) * 2, size); /* nothing behind the last NUL */
    return count;
}

static unsigned
times_listed(const char16_t *wanted)
{
    ULONG size;
    char16_t *paths = all_images(&size);
    unsigned count = count_in_list(paths, size, wanted);
    free(paths);
    return count;
}

static void
test_all_paths(void)
{
    char16_t *wide_vhd = wide(vhd);
    char16_t *wide_iso = wide(iso);
    HANDLE first = open_all(vhd);
    HANDLE second = open_iso(iso);
    CHECK_EQ(0, times_listed(wide_vhd));
    CHECK_OK(attach(first, NO_HOST));
    CHECK_OK(attach(second, READ_ONLY));
    CHECK_EQ(1, times_listed(wide_vhd));
    CHECK_EQ(1, times_listed(wide_iso));
    close_handle(first);
    CHECK_EQ(0, times_listed(wide_vhd));
    CHECK_EQ(1, times_listed(wide_iso));
    close_handle(second);
}

/* In a namespace of its own, where nothing is attached. */
static int
list_nothing(void)
{
    char16_t paths[2] = {7, 7};
    ULONG size = 0;
    if (!check_own_mounts(directory) ||
        mount("none", "/run/virtdisk", "tmpfs", 0, "mode=755") < 0) {
        return 77;
    }
    DWORD asked = GetAllAttachedVirtualDiskPhysicalPaths(&size, NULL);
    if (asked != ERROR_INSUFFICIENT_BUFFER || size != 2) {
        return 1;
    }
    return GetAllAttachedVirtualDiskPhysicalPaths(&size, paths) == 0 &&
                   size == 2 && paths[0] == 0 && paths[1] == 7
               ? 0
               : 2;
}

static void
test_nothing_attached(void)
{
    pid_t child = fork();
    if (child == 0) {
        _exit(list_nothing());
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(WIFEXITED(status));
    CHECK_EQ(0, WEXITSTATUS(status));
}

/* A name that is not ASCII and one that is not even UTF-8: "caf\u00E9" and
 * the byte FF, which the interface shows as U+DCFF. */
static void
test_odd_names(void)
{
    VIRTUAL_STORAGE_TYPE type = {.DeviceId = 0};
    static const char16_t tail[] = {'c', 'a', 'f', 0xE9, 0xDCFF,
                                    '.', 'v', 'h', 'd',  0};
    char16_t *name = wide(check_path(directory, ""));
    size_t length = strlen(check_path(directory, ""));
    memcpy(name + length, tail, sizeof(tail));
    make_vhd(check_path(directory, "caf\xC3\xA9\xFF.vhd"), NULL, 0);
    HANDLE handle;
    CHECK_OK(OpenVirtualDisk(&type, name, VIRTUAL_DISK_ACCESS_ALL, 0, NULL,
                             &handle));
    CHECK_OK(attach(handle, NO_LETTER));
    CHECK_EQ(1, times_listed(name));
    close_handle(handle);
}

/* -- threads, and want of memory -- */

static void
check_one_of(DWORD error, DWORD other)
{
    CHECK(error == 0 || error == other);
}

/* All calls on one handle, in any order. */
static void *
use_handle(void *handle)
{
    for (int i = 0; i < 20; i++) {
        char16_t path[64];
        ULONG size = sizeof(path);
        check_one_of(attach(handle, NO_LETTER), ERROR_SHARING_VIOLATION);
        check_one_of(GetVirtualDiskPhysicalPath(handle, &size, path),
                     ERROR_DEV_NOT_EXIST);
        (void)is_loaded(handle);
        check_one_of(detach(handle), ERROR_NOT_READY);
    }
    return NULL;
}

static void
test_threads_on_one_handle(void)
{
    pthread_t threads[THREADS];
    HANDLE handle = open_all(vhd);
    for (size_t i = 0; i < THREADS; i++) {
        pthread_create(&threads[i], NULL, use_handle, handle);
    }
    for (size_t i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK(!is_loaded(handle));
    close_handle(handle);
}

/* Calls until the handle is closed under them. */
static void *
use_until_closed(void *handle)
{
    GET_VIRTUAL_DISK_INFO info = {.Version = GET_VIRTUAL_DISK_INFO_IS_LOADED};
    ULONG size = sizeof(info);
    DWORD error;
    do {
        error = GetVirtualDiskInformation(handle, &size, &info, NULL);
    } while (error == 0);
    CHECK_EQ(ERROR_INVALID_HANDLE, error);
    return NULL;
}

static void
test_closed_under_calls(void)
{
    HANDLE other = open_all(vhd);
    for (int i = 0; i < 10; i++) {
        pthread_t threads[2];
        HANDLE handle = open_all(vhd);
        CHECK_OK(attach(handle, NO_LETTER));
        for (size_t j = 0; j < 2; j++) {
            pthread_create(&threads[j], NULL, use_until_closed, handle);
        }
        close_handle(handle);
        CHECK(!CloseHandle(handle));
        for (size_t j = 0; j < 2; j++) {
            pthread_join(threads[j], NULL);
        }
        CHECK(!is_loaded(other));
    }
    close_handle(other);
}

/* Each allocation failing in turn: an error, and nothing left behind. */
static void
test_out_of_memory(void)
{
    HANDLE handle = open_all(vhd);
    unsigned descriptors = count_descriptors();
    bool failed = true;
    for (int successes = 0; failed; successes++) {
        check_fail_allocation(successes);
        DWORD error = attach(handle, NO_LETTER);
        failed = check_fail_allocation(-1);
        if (error != 0) {
            CHECK_EQ(ERROR_NOT_ENOUGH_MEMORY, error);
            CHECK(failed);
            CHECK(!is_loaded(handle));
        }
        else {
            CHECK(is_loaded(handle));
            CHECK_OK(detach(handle));
        }
        CHECK(descriptors_become(descriptors));
    }
    close_handle(handle);
}

static void
test_single_partition_out_of_memory(void)
{
    HANDLE handle = open_all(vhd);
    check_fail_allocation(0);
    DWORD error = attach(handle, SINGLE);
    CHECK(check_fail_allocation(-1));
    CHECK_EQ(ERROR_NOT_ENOUGH_MEMORY, error);
    CHECK(!is_loaded(handle));
    close_handle(handle);
}

static void
test_look_out_of_memory(void)
{
    HANDLE handle = open_all(vhd);
    bool failed = true;
    for (int successes = 0; failed; successes++) {
        GET_VIRTUAL_DISK_INFO info = {.Version =
                                          GET_VIRTUAL_DISK_INFO_IS_LOADED};
        ULONG size = sizeof(info);
        check_fail_allocation(successes);
        DWORD error = GetVirtualDiskInformation(handle, &size, &info, NULL);
        failed = check_fail_allocation(-1);
        /* Tidying up the records may be skipped for want of memory. */
        CHECK(error == 0 || (failed && error == ERROR_NOT_ENOUGH_MEMORY));
        CHECK(successes > 0 || error == ERROR_NOT_ENOUGH_MEMORY);
    }
    close_handle(handle);
}

static void
test_paths_out_of_memory(void)
{
    HANDLE handle = open_all(vhd);
    CHECK_OK(attach(handle, NO_LETTER));
    bool failed = true;
    for (int successes = 0; failed; successes++) {
        char16_t path[64];
        ULONG size = sizeof(path);
        check_fail_allocation(successes);
        DWORD error = GetVirtualDiskPhysicalPath(handle, &size, path);
        failed = check_fail_allocation(-1);
        CHECK_EQ(failed ? ERROR_NOT_ENOUGH_MEMORY : 0, error);
    }
    failed = true;
    for (int successes = 0; failed; successes++) {
        ULONG size = 0;
        check_fail_allocation(successes);
        DWORD error = GetAllAttachedVirtualDiskPhysicalPaths(&size, NULL);
        failed = check_fail_allocation(-1);
        /* Tidying up the records may be skipped for want of memory. */
        CHECK(error == ERROR_INSUFFICIENT_BUFFER ||
              (failed && error == ERROR_NOT_ENOUGH_MEMORY));
    }
    close_handle(handle);
}

static void
run_tests(void)
{
    test_rows();
    test_attach_vhd();
    test_attach_iso();
    test_writes_reach_the_image();
    test_restricted_range();
    test_single_partition();
    test_partition_nodes();
    test_cached_io();
    test_node_access();
    test_refused_descriptors();
    test_large_groups();
    test_detach();
    test_detach_needs_the_right();
    test_detach_by_another_handle();
    test_detach_by_another_process();
    test_detach_while_in_use();
    test_fork();
    test_permanent(NO_LETTER, ERROR_SUCCESS);
    test_permanent(NO_LETTER | READ_ONLY, ERROR_SHARING_VIOLATION);
    test_permanent_and_own_handle();
    test_no_local_host();
    test_physical_path_sizes();
    test_all_paths();
    test_nothing_attached();
    test_odd_names();
    test_threads_on_one_handle();
    test_closed_under_calls();
    test_out_of_memory();
    test_single_partition_out_of_memory();
    test_look_out_of_memory();
    test_paths_out_of_memory();
}

int
main(int argc, char **argv)
{
    (void)argc;
    need_loop();
    char vhd_path[4096];
    char iso_path[4096];
    unsigned descriptors = count_descriptors();
    directory = argv[1];
    snprintf(vhd_path, sizeof(vhd_path), "%s/attach.vhd", directory);
    snprintf(iso_path, sizeof(iso_path), "%s/attach.iso", directory);
    vhd = vhd_path;
    iso = iso_path;
    make_vhd(vhd, NULL, 0);
    make_iso(iso);
    run_tests();
    CHECK(handles_become(0));
    CHECK(descriptors_become(descriptors));
    return check_result();
}
