/*
 * MirrorVirtualDisk and BreakMirrorVirtualDisk: on disks that nobody has
 * attached and on those that are attached to the caller alone, written to all
 * the while.  Needs no privilege.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <virtdisk.h>

#include "api/handles.h"
#include "api_support.h"
#include "base/bytes.h"
#include "check.h"

#define NO_HOST ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST
#define EXISTING MIRROR_VIRTUAL_DISK_FLAG_EXISTING_FILE
#define MIB ((uint64_t)1 << 20)
#define SIZE (24 * MIB)
#define SECTORS (SIZE / 512)
#define PIECE 128 /* sectors, of a transfer */

static const char *directory;

static const char *
path_of(const char *name)
{
    return check_path(directory, name);
}

static bool
exists(const char *name)
{
    struct stat status;
    return stat(path_of(name), &status) == 0;
}

/* Nothing is left but what is listed: no hidden file either. */
static unsigned
count_files(void)
{
    unsigned count = 0;
    DIR *listing = opendir(directory);
    if (listing == NULL) {
        check_broken("opendir");
    }
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
        count += entry->d_type == DT_REG;
    }
    closedir(listing);
    return count;
}

/* ---- disks ---- */

struct kind {
    unsigned device_id;
    unsigned flags;
    const char *extension;
};

static const struct kind kinds[] = {
    {VIRTUAL_STORAGE_TYPE_DEVICE_VHD, 1, "vhd"},
    {VIRTUAL_STORAGE_TYPE_DEVICE_VHD, 0, "vhd"},
    {VIRTUAL_STORAGE_TYPE_DEVICE_VHDX, 1, "vhdx"},
    {VIRTUAL_STORAGE_TYPE_DEVICE_VHDX, 0, "vhdx"},
};

static const char *
name_of(const char *stem, const struct kind *kind)
{
    static char names[4][64];
    static unsigned next;
    char *name = names[next++ % 4];
    snprintf(name, sizeof(names[0]), "%s%u.%s", stem, kind->flags,
             kind->extension);
    return name;
}

static HANDLE
create(const struct kind *kind, const char *name, const char *parent)
{
    VIRTUAL_STORAGE_TYPE type = {.DeviceId = kind->device_id};
    CREATE_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = CREATE_VIRTUAL_DISK_VERSION_2};
    HANDLE handle = NULL;
    parameters.Version2.MaximumSize = parent == NULL ? SIZE : 0;
    if (parent != NULL) {
        parameters.Version2.ParentPath = wide(path_of(parent));
    }
    CHECK_OK(CreateVirtualDisk(&type, wide(path_of(name)), 0, NULL,
                               kind->flags, 0, &parameters, NULL, &handle));
    return handle;
}

static bool
move(HANDLE handle, bool write, uint64_t sector, void *data)
{
    uint8_t cdb[16] = {write ? 0x8A : 0x88};
    uint8_t sense[18];
    RAW_SCSI_VIRTUAL_DISK_RESPONSE response = {.Version = 0};
    RAW_SCSI_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = RAW_SCSI_VIRTUAL_DISK_VERSION_1,
        .Version1 = {.DataIn = !write,
                     .CdbLength = sizeof(cdb),
                     .SenseInfoLength = sizeof(sense),
                     .DataTransferLength = PIECE * 512,
                     .DataBuffer = data,
                     .SenseInfo = sense,
                     .Cdb = cdb},
    };
    vd_put_be64(cdb + 2, sector);
    vd_put_be32(cdb + 10, PIECE);
    return CHECK_OK(RawSCSIVirtualDisk(handle, &parameters,
                                       RAW_SCSI_VIRTUAL_DISK_FLAG_NONE,
                                       &response)) &
           CHECK_EQ(0, response.Version1.ScsiStatus);
}

static void
fill(uint8_t *data, uint64_t sector, unsigned seed)
{
    for (size_t i = 0; i < PIECE * 512; i++) {
        data[i] = (uint8_t)(i * 31 + sector * 7 + seed);
    }
}

static void
write_piece(HANDLE handle, uint64_t sector, unsigned seed)
{
    uint8_t data[PIECE * 512];
    fill(data, sector, seed);
    move(handle, true, sector, data);
}

/* seed 0: zeros */
static void
check_piece(HANDLE handle, uint64_t sector, unsigned seed)
{
    uint8_t data[PIECE * 512], expected[PIECE * 512] = {0};
    if (seed != 0) {
        fill(expected, sector, seed);
    }
    memset(data, 0xEE, sizeof(data));
    if (move(handle, false, sector, data)) {
        CHECK_BYTES(expected, data, sizeof(data));
    }
}

/* ---- mirrors ---- */

struct call {
    HANDLE handle;
    OVERLAPPED overlapped;
};

static DWORD
mirror_with(struct call *call, const char *target, unsigned flags,
            HANDLE event)
{
    MIRROR_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = MIRROR_VIRTUAL_DISK_VERSION_1};
    parameters.Version1.MirrorVirtualDiskPath = wide(path_of(target));
    call->overlapped = (OVERLAPPED){.hEvent = event};
    return MirrorVirtualDisk(call->handle, flags, &parameters,
                             &call->overlapped);
}

static DWORD
mirror(struct call *call, const char *target, unsigned flags)
{
    return mirror_with(call, target, flags, NULL);
}

static VIRTUAL_DISK_PROGRESS
progress_of(struct call *call)
{
    VIRTUAL_DISK_PROGRESS progress = {0};
    CHECK_OK(GetVirtualDiskOperationProgress(call->handle, &call->overlapped,
                                             &progress));
    return progress;
}

/* Until both are equal; it never falls, and is pending all the while. */
static void
wait_equal(struct call *call)
{
    uint64_t before = 0;
    for (;;) {
        VIRTUAL_DISK_PROGRESS progress = progress_of(call);
        if (!CHECK_EQ(997, progress.OperationStatus)) {
            return;
        }
        CHECK(progress.CurrentValue >= before);
        CHECK(progress.CurrentValue <= progress.CompletionValue);
        before = progress.CurrentValue;
        if (before == SIZE) {
            CHECK_EQ(SIZE, progress.CompletionValue);
            return;
        }
        sched_yield();
    }
}

static DWORD
result_of(struct call *call)
{
    DWORD bytes;
    return GetOverlappedResult(call->handle, &call->overlapped, &bytes, TRUE)
               ? 0
               : GetLastError();
}

static void
begin_attached(struct call *call, const struct kind *kind, const char *name)
{
    *call = (struct call){.handle = create(kind, name, NULL)};
    CHECK_OK(attach(call->handle, NO_HOST));
    write_piece(call->handle, 0, 1);
    write_piece(call->handle, SECTORS - PIECE, 2);
    write_piece(call->handle, SECTORS / 2, 3);
}

/* What is read by somebody who opens the file anew. */
static void
check_file(const char *name, unsigned first, unsigned middle, unsigned last)
{
    HANDLE handle = open_all(path_of(name));
    CHECK_OK(attach(handle, NO_HOST | ATTACH_VIRTUAL_DISK_FLAG_READ_ONLY));
    check_piece(handle, 0, first);
    check_piece(handle, SECTORS / 4, 0);
    check_piece(handle, SECTORS / 2, middle);
    check_piece(handle, SECTORS - PIECE, last);
    close_handle(handle);
}

static const GUID *
identity(HANDLE handle, const struct kind *kind)
{
    static GET_VIRTUAL_DISK_INFO info;
    ULONG size = sizeof(info);
    bool vhd = kind->device_id == VIRTUAL_STORAGE_TYPE_DEVICE_VHD;
    info.Version = vhd ? GET_VIRTUAL_DISK_INFO_IDENTIFIER
                       : GET_VIRTUAL_DISK_INFO_VIRTUAL_DISK_ID;
    CHECK_OK(GetVirtualDiskInformation(handle, &size, &info, NULL));
    return vhd ? &info.Identifier : &info.VirtualDiskId;
}

/* ---- what it does ---- */

/* Attached: what is written before, while and after, and where it goes. */
static void
test_attached(const struct kind *kind)
{
    struct call call;
    const char *source = name_of("source", kind);
    const char *target = name_of("target", kind);
    begin_attached(&call, kind, source);
    GUID before = *identity(call.handle, kind);
    unsigned files = count_files();
    CHECK_EQ(997, mirror(&call, target, 0));
    wait_equal(&call);
    write_piece(call.handle, SECTORS / 2, 4);
    CHECK_EQ(files, count_files()); /* it has no name yet */
    CHECK_OK(BreakMirrorVirtualDisk(call.handle));
    CHECK_OK(result_of(&call));
    CHECK_OK(progress_of(&call).OperationStatus);
    CHECK_EQ(files + 1, count_files());
    check_piece(call.handle, 0, 1);
    check_piece(call.handle, SECTORS / 2, 4);
    write_piece(call.handle, 0, 5); /* to the mirror alone */
    CHECK_OK(detach(call.handle));
    GUID after = *identity(call.handle, kind);
    CHECK_BYTES(&before, &after, sizeof(GUID));
    close_handle(call.handle);
    check_file(source, 1, 4, 2);
    check_file(target, 5, 4, 2);
}

/* Nobody has it attached: the disk is locked as long as it takes. */
static void
test_detached(const struct kind *kind)
{
    struct call call;
    const char *source = name_of("still", kind);
    const char *target = name_of("copy", kind);
    begin_attached(&call, kind, source);
    CHECK_OK(detach(call.handle));
    CHECK_EQ(997, mirror(&call, target, 0));
    wait_equal(&call);
    HANDLE other = open_all(path_of(source));
    CHECK_EQ(32, attach(other, NO_HOST));
    CHECK_EQ(0xC03A001C, attach(call.handle, NO_HOST));
    CHECK_OK(BreakMirrorVirtualDisk(call.handle));
    CHECK_OK(attach(other, NO_HOST));
    close_handle(other);
    CHECK_OK(attach(call.handle, NO_HOST));
    write_piece(call.handle, SECTORS / 2, 6);
    close_handle(call.handle);
    check_file(source, 1, 3, 2);
    check_file(target, 1, 6, 2);
}

/* The mirror of a child is one of the same parent. */
static void
test_child(const struct kind *kind)
{
    struct call call = {.handle = NULL};
    uint8_t zeros[PIECE * 512] = {0};
    const char *parent = name_of("parent", kind);
    begin_attached(&call, kind, parent);
    close_handle(call.handle);
    const char *child = name_of("child", kind);
    const char *target = name_of("sibling", kind);
    call.handle = create(kind, child, parent);
    CHECK_OK(attach(call.handle, NO_HOST));
    write_piece(call.handle, SECTORS / 2, 7);
    move(call.handle, true, SECTORS - PIECE, zeros);
    CHECK_EQ(997, mirror(&call, target, 0));
    wait_equal(&call);
    CHECK_OK(BreakMirrorVirtualDisk(call.handle));
    check_piece(call.handle, 0, 1);
    close_handle(call.handle);
    check_file(target, 1, 7, 0);
    check_file(child, 1, 7, 0);
    check_file(parent, 1, 3, 2);
    struct stat status;
    CHECK_EQ(0, stat(path_of(target), &status));
    CHECK((uint64_t)status.st_blocks * 512 < SIZE / 2); /* not all of it */
}

/* Into a file that is there, and has something else in it. */
static void
test_existing(const struct kind *kind)
{
    struct call call, other;
    const char *source = name_of("from", kind);
    const char *target = name_of("into", kind);
    begin_attached(&other, &kinds[3], target);
    write_piece(other.handle, SECTORS / 4, 8);
    close_handle(other.handle);
    begin_attached(&call, kind, source);
    CHECK_EQ(997, mirror(&call, target, EXISTING));
    wait_equal(&call);
    write_piece(call.handle, SECTORS / 2, 9);
    CHECK_OK(BreakMirrorVirtualDisk(call.handle));
    check_piece(call.handle, SECTORS / 4, 0);
    close_handle(call.handle);
    check_file(target, 1, 9, 2);
    check_file(source, 1, 9, 2);
}

static void
test_refused_existing(void)
{
    struct call call;
    const struct kind *kind = &kinds[3];
    begin_attached(&call, kind, "one.vhdx");
    CHECK_EQ(997, mirror(&call, "nothing.vhdx", EXISTING));
    CHECK_EQ(2, result_of(&call));
    CHECK_EQ(997, mirror(&call, "one.vhdx", EXISTING)); /* itself */
    CHECK_EQ(32, result_of(&call));
    make_vhd(path_of("small.vhd"), NULL, 0);
    CHECK_EQ(997, mirror(&call, "small.vhd", EXISTING));
    CHECK_EQ(0xC03A0012, result_of(&call));
    check_piece(call.handle, 0, 1);
    close_handle(call.handle);
}

/* ---- how it ends ---- */

static void
test_cancel(void)
{
    struct call call;
    begin_attached(&call, &kinds[3], "cancel.vhdx");
    unsigned files = count_files();
    unsigned descriptors = count_descriptors();
    CHECK_EQ(997, mirror(&call, "never.vhdx", 0));
    wait_equal(&call);
    CHECK(CancelIoEx(call.handle, &call.overlapped));
    CHECK_EQ(995, result_of(&call));
    CHECK_EQ(files, count_files());
    CHECK(descriptors_become(descriptors));
    write_piece(call.handle, 0, 9);
    check_piece(call.handle, 0, 9);
    CHECK_EQ(997, mirror(&call, "never.vhdx", 0));
    CHECK(CancelIoEx(call.handle, NULL)); /* at whatever moment */
    CHECK_EQ(995, result_of(&call));
    CHECK_EQ(files, count_files());
    close_handle(call.handle);
}

/* With its handle gone nobody could ever end it. */
static void
test_closed_handle(void)
{
    struct call call;
    unsigned descriptors = count_descriptors();
    HANDLE event = CreateEventW(NULL, TRUE, FALSE, NULL);
    begin_attached(&call, &kinds[1], "closed.vhd");
    CHECK_EQ(997, mirror_with(&call, "unborn.vhd", 0, event));
    wait_equal(&call);
    close_handle(call.handle);
    CHECK_EQ(0, WaitForSingleObject(event, INFINITE));
    close_handle(event);
    while (count_descriptors() > descriptors) {
        sched_yield(); /* the operation's thread lets go of the event */
    }
    CHECK(handles_become(0));
    CHECK(!exists("unborn.vhd"));
    check_file("closed.vhd", 1, 3, 2);
}

/* Somebody else detaches the disk. */
static void
test_detached_meanwhile(void)
{
    struct call call;
    begin_attached(&call, &kinds[3], "gone.vhdx");
    CHECK_EQ(997, mirror(&call, "left.vhdx", 0));
    wait_equal(&call);
    CHECK_EQ(0xC03A001C, detach(call.handle));
    HANDLE other = open_all(path_of("gone.vhdx"));
    DWORD code = detach(other);
    if (code == 0) {
        CHECK_EQ(21, result_of(&call));
    }
    else {
        CHECK_EQ(21, code); /* no registry to find it in */
        CHECK(CancelIoEx(call.handle, &call.overlapped));
        CHECK_EQ(995, result_of(&call));
    }
    CHECK(!exists("left.vhdx"));
    close_handle(other);
    close_handle(call.handle);
}

/* Somebody takes the name in the meantime: the disk stays what it was. */
static void
test_taken_name(bool attached)
{
    struct call call;
    const char *source = attached ? "stays.vhdx" : "stays-too.vhdx";
    begin_attached(&call, &kinds[3], source);
    if (!attached) {
        CHECK_OK(detach(call.handle));
    }
    CHECK_EQ(997, mirror(&call, "taken.vhdx", 0));
    wait_equal(&call);
    check_write_file(path_of("taken.vhdx"), "mine", 4);
    CHECK_EQ(80, BreakMirrorVirtualDisk(call.handle));
    CHECK_EQ(80, result_of(&call));
    if (!attached) {
        CHECK_OK(attach(call.handle, NO_HOST));
    }
    write_piece(call.handle, 0, 10);
    CHECK_OK(detach(call.handle));
    close_handle(call.handle);
    check_file(source, 10, 3, 2);
    CHECK_EQ(0, unlink(path_of("taken.vhdx")));
}

static void
test_fork(void)
{
    struct call call;
    unsigned descriptors = count_descriptors();
    begin_attached(&call, &kinds[3], "forked.vhdx");
    CHECK_EQ(997, mirror(&call, "fork-of.vhdx", 0));
    wait_equal(&call);
    pid_t child = fork();
    if (child == 0) {
        _exit(count_descriptors() == descriptors ? 0 : 1);
    }
    int status;
    CHECK_EQ(child, waitpid(child, &status, 0));
    CHECK_EQ(0, status);
    CHECK_OK(BreakMirrorVirtualDisk(call.handle));
    close_handle(call.handle);
    CHECK(descriptors_become(descriptors));
}

/* ---- written to all the while ---- */

struct writer {
    HANDLE handle;
    atomic_bool stop;
    unsigned last[8]; /* seed of each piece */
};

static void *
write_always(void *argument)
{
    struct writer *writer = argument;
    for (unsigned i = 0; !atomic_load(&writer->stop); i++) {
        unsigned piece = i % 8;
        writer->last[piece] = 20 + i % 200;
        write_piece(writer->handle, piece * (SECTORS / 8),
                    writer->last[piece]);
    }
    return NULL;
}

/* Not one write is lost, whenever it comes: before, while or after. */
static void
test_writes_meanwhile(const struct kind *kind)
{
    struct call call;
    pthread_t thread;
    begin_attached(&call, kind, name_of("busy", kind));
    struct writer writer = {.handle = call.handle};
    CHECK_EQ(0, pthread_create(&thread, NULL, write_always, &writer));
    for (int i = 0; i < 3; i++) {
        char name[64];
        snprintf(name, sizeof(name), "turn%d-%s", i, name_of("", kind));
        CHECK_EQ(997, mirror(&call, name, 0));
        wait_equal(&call);
        CHECK_OK(BreakMirrorVirtualDisk(call.handle));
    }
    atomic_store(&writer.stop, true);
    pthread_join(thread, NULL);
    for (unsigned i = 0; i < 8; i++) {
        check_piece(call.handle, i * (SECTORS / 8), writer.last[i]);
    }
    close_handle(call.handle);
}

/* ---- misuse ---- */

static void
test_misuse(void)
{
    struct call call;
    begin_attached(&call, &kinds[3], "misuse.vhdx");
    CHECK_EQ(87, mirror(&call, "m.vhdx", 0x10));
    CHECK_EQ(50, mirror(&call, "m.vhdx", 2));
    CHECK_EQ(0xC03A001C, BreakMirrorVirtualDisk(call.handle));
    CHECK_EQ(997, mirror(&call, "misuse.vhdx", 0));
    CHECK_EQ(80, result_of(&call));
    CHECK_EQ(997, mirror(&call, "missing/m.vhdx", 0));
    CHECK_EQ(3, result_of(&call));
    CHECK_EQ(997, mirror(&call, "m.vhdx", 12)); /* hints */
    wait_equal(&call);
    struct call second = {.handle = call.handle};
    CHECK_EQ(0xC03A001C, mirror(&second, "n.vhdx", 0));
    CHECK(CancelIoEx(call.handle, &call.overlapped));
    CHECK_EQ(995, result_of(&call));
    CHECK_EQ(0xC03A001C, BreakMirrorVirtualDisk(call.handle));
    close_handle(call.handle);
    CHECK_OK(open_1(path_of("misuse.vhdx"), VIRTUAL_DISK_ACCESS_ALL, 1,
                    &call.handle));
    CHECK_EQ(87, mirror(&call, "m.vhdx", 0));
    close_handle(call.handle);
    CHECK_OK(open_2(path_of("misuse.vhdx"), false, true, &call.handle));
    CHECK_EQ(5, mirror(&call, "m.vhdx", 0));
    close_handle(call.handle);
}

int
main(int argc, char **argv)
{
    if (argc != 2) {
        check_broken("usage: test_api_mirror DIRECTORY");
    }
    directory = argv[1];
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        test_attached(&kinds[i]);
        test_detached(&kinds[i]);
        test_existing(&kinds[i]);
    }
    test_child(&kinds[1]);
    test_child(&kinds[3]);
    test_refused_existing();
    test_misuse();
    test_cancel();
    test_closed_handle();
    test_detached_meanwhile();
    test_taken_name(true);
    test_taken_name(false);
    test_fork();
    test_writes_meanwhile(&kinds[1]);
    test_writes_meanwhile(&kinds[3]);
    return check_result();
}
