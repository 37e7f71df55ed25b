/*
 * NO_LOCAL_HOST and RawSCSIVirtualDisk: disks that are attached to their
 * caller alone, read and written through the handle.  Needs no privilege but
 * for the few tests with devices, which are left out without it.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <virtdisk.h>

#include "api/handles.h"
#include "api_support.h"
#include "check.h"
#include "disk/image_lock.h"
#include "random.h"
#include "vhdx_images.h"

#define NO_HOST ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST
#define READ_ONLY ATTACH_VIRTUAL_DISK_FLAG_READ_ONLY
#define RANGE ATTACH_VIRTUAL_DISK_FLAG_RESTRICTED_RANGE
#define SINGLE ATTACH_VIRTUAL_DISK_FLAG_SINGLE_PARTITION
#define THREADS 4

static const char *directory;

static const char *
path_of(const char *name)
{
    return check_path(directory, name);
}

/* ---- commands ---- */

static UCHAR status;
static UCHAR sense[18];
static ULONG transferred;

static DWORD
command(HANDLE handle, const uint8_t *cdb, uint8_t cdb_length, bool data_in,
        void *data, uint32_t length)
{
    RAW_SCSI_VIRTUAL_DISK_RESPONSE response = {.Version = 0};
    RAW_SCSI_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = RAW_SCSI_VIRTUAL_DISK_VERSION_1,
        .Version1 =
            {
                .DataIn = data_in,
                .CdbLength = cdb_length,
                .SenseInfoLength = sizeof(sense),
                .DataTransferLength = length,
                .DataBuffer = data,
                .SenseInfo = sense,
                .Cdb = (uint8_t *)(uintptr_t)cdb,
            },
    };
    DWORD error = RawSCSIVirtualDisk(
        handle, &parameters, RAW_SCSI_VIRTUAL_DISK_FLAG_NONE, &response);
    if (error == 0) {
        CHECK_EQ(RAW_SCSI_VIRTUAL_DISK_VERSION_1, response.Version);
        CHECK_EQ(response.Version1.ScsiStatus == 0 ? 0 : 18,
                 response.Version1.SenseInfoLength);
        status = response.Version1.ScsiStatus;
        transferred = response.Version1.DataTransferLength;
    }
    else {
        CHECK_EQ(0, response.Version); /* untouched */
    }
    return error;
}

static DWORD
move(HANDLE handle, bool write, uint64_t sector, void *data, uint32_t sectors)
{
    uint8_t cdb[16] = {write ? 0x8A : 0x88};
    vd_put_be64(cdb + 2, sector);
    vd_put_be32(cdb + 10, sectors);
    return command(handle, cdb, sizeof(cdb), !write, data, sectors * 512);
}

static bool
read_sectors(HANDLE handle, uint64_t sector, void *data, uint32_t sectors)
{
    return CHECK_OK(move(handle, false, sector, data, sectors)) &
           CHECK_EQ(0, status) & CHECK_EQ(sectors * 512, transferred);
}

static bool
write_sectors(HANDLE handle, uint64_t sector, void *data, uint32_t sectors)
{
    return CHECK_OK(move(handle, true, sector, data, sectors)) &
           CHECK_EQ(0, status) & CHECK_EQ(sectors * 512, transferred);
}

static uint64_t
capacity(HANDLE handle)
{
    static const uint8_t cdb[16] = {0x9E, 0x10, [13] = 32};
    uint8_t answer[32] = {0};
    CHECK_OK(command(handle, cdb, 16, true, answer, sizeof(answer)));
    CHECK_EQ(512, vd_get_be32(answer + 8));
    return (vd_get_be64(answer) + 1) * 512;
}

static DWORD
test_unit_ready(HANDLE handle)
{
    static const uint8_t cdb[6];
    return command(handle, cdb, 6, false, NULL, 0);
}

static void
fill(uint8_t *data, size_t length, uint8_t seed)
{
    for (size_t i = 0; i < length; i++) {
        data[i] = (uint8_t)(i * 13 + i / 512 + seed);
    }
}

/* base <- child <- leaf */
static void
make_chain(void)
{
    make_vhdx(path_of("base.vhdx"), NULL, NULL);
    make_vhdx(path_of("child.vhdx"), path_of("base.vhdx"), u".\\base.vhdx");
    make_vhdx(path_of("leaf.vhdx"), path_of("child.vhdx"), u".\\child.vhdx");
}

static HANDLE
attached(const char *name, unsigned flags)
{
    HANDLE handle = open_all(path_of(name));
    CHECK_OK(attach(handle, NO_HOST | flags));
    return handle;
}

/* ---- arguments ---- */

static RAW_SCSI_VIRTUAL_DISK_PARAMETERS
good_parameters(void)
{
    static uint8_t cdb[16] = {0x12, 0, 0, 0, 36};
    static uint8_t data[64];
    return (RAW_SCSI_VIRTUAL_DISK_PARAMETERS){
        .Version = RAW_SCSI_VIRTUAL_DISK_VERSION_1,
        .Version1 =
            {
                .DataIn = 1,
                .CdbLength = 6,
                .SenseInfoLength = sizeof(sense),
                .DataTransferLength = sizeof(data),
                .DataBuffer = data,
                .SenseInfo = sense,
                .Cdb = cdb,
            },
    };
}

static DWORD
call(HANDLE handle, RAW_SCSI_VIRTUAL_DISK_PARAMETERS parameters)
{
    RAW_SCSI_VIRTUAL_DISK_RESPONSE response = {.Version = 77};
    DWORD error = RawSCSIVirtualDisk(
        handle, &parameters, RAW_SCSI_VIRTUAL_DISK_FLAG_NONE, &response);
    CHECK_EQ(error == 0 ? 1 : 77, response.Version);
    return error;
}

static void
test_arguments(void)
{
    HANDLE handle = attached("base.vhdx", 0);
    RAW_SCSI_VIRTUAL_DISK_PARAMETERS given = good_parameters();
    CHECK_OK(call(handle, given));
    given.Version1.RSVDHandle = TRUE;
    CHECK_EQ(ERROR_NOT_SUPPORTED, call(handle, given));
    given = good_parameters();
    given.Version1.CdbLength = 16; /* longer than INQUIRY is */
    CHECK_OK(call(handle, given));
    given.Version1.DataBuffer = NULL;
    CHECK_EQ(87, call(handle, given));
    given.Version1.DataTransferLength = 0;
    CHECK_OK(call(handle, given));
    given.Version1.SenseInfo = NULL;
    CHECK_EQ(87, call(handle, given));
    given.Version1.SenseInfoLength = 0;
    CHECK_OK(call(handle, given));
    given.Version1.SrbFlags = 0xFFFFFFFF;
    CHECK_OK(call(handle, given));
    close_handle(handle);
}

/* No more sense data than there is room for; the rest stays as it was. */
static void
test_short_sense(void)
{
    HANDLE handle = attached("base.vhdx", 0);
    for (UCHAR length = 0; length <= 32; length++) {
        static uint8_t unknown[6] = {0xFF};
        uint8_t *room = malloc(length + 1);
        RAW_SCSI_VIRTUAL_DISK_RESPONSE response = {.Version = 0};
        RAW_SCSI_VIRTUAL_DISK_PARAMETERS given = good_parameters();
        memset(room, 0xEE, length + 1);
        given.Version1.Cdb = unknown;
        given.Version1.SenseInfo = room;
        given.Version1.SenseInfoLength = length;
        CHECK_OK(RawSCSIVirtualDisk(handle, &given, 0, &response));
        CHECK_EQ(2, response.Version1.ScsiStatus);
        CHECK_EQ(length < 18 ? length : 18, response.Version1.SenseInfoLength);
        CHECK_EQ(0, response.Version1.DataTransferLength);
        CHECK_EQ(0xEE, room[length]);
        CHECK(length < 13 || (room[2] == 0x05 && room[12] == 0x20));
        CHECK(length < 19 || room[18] == 0xEE);
        free(room);
    }
    close_handle(handle);
}

static void
test_not_attached(void)
{
    HANDLE handle = open_all(path_of("base.vhdx"));
    CHECK_EQ(ERROR_NOT_READY, test_unit_ready(handle));
    HANDLE other = attached("base.vhdx", 0);
    CHECK_EQ(ERROR_NOT_READY, test_unit_ready(handle)); /* not through it */
    CHECK_OK(test_unit_ready(other));
    CHECK_OK(detach(other));
    CHECK_EQ(ERROR_NOT_READY, test_unit_ready(other));
    CHECK_OK(attach(other, NO_HOST));
    CHECK_OK(test_unit_ready(other));
    CHECK_EQ(ERROR_SHARING_VIOLATION, attach(handle, NO_HOST));
    CHECK_STR("", device_of(other));
    CHECK(is_loaded(handle));
    close_handle(other);
    CHECK(!is_loaded(handle));
    CHECK_OK(attach(handle, NO_HOST));
    close_handle(handle);
}

static void
test_with_a_device(void)
{
    if (geteuid() != 0 || access("/dev/loop-control", R_OK | W_OK) != 0) {
        return;
    }
    make_vhd(path_of("device.vhd"), NULL, 0);
    HANDLE handle = open_all(path_of("device.vhd"));
    CHECK_OK(attach(handle, ATTACH_VIRTUAL_DISK_FLAG_NO_DRIVE_LETTER));
    CHECK_EQ(ERROR_NOT_SUPPORTED, test_unit_ready(handle));
    CHECK_OK(detach(handle));
    close_handle(handle);
}

/* ---- content ---- */

static void
check_content(const char *name, const uint8_t *expected)
{
    uint8_t *data = malloc(VHDX_BYTES);
    HANDLE handle = attached(name, READ_ONLY);
    read_sectors(handle, 0, data, VHDX_BYTES / 512);
    CHECK_BYTES(expected, data, VHDX_BYTES);
    close_handle(handle);
    free(data);
}

/* What is written is there, in this attachment and the next, and in no other
 * image of the chain. */
static void
test_content(uint8_t *model)
{
    uint8_t data[512 * 9];
    memset(model, 0, VHDX_BYTES);
    HANDLE handle = attached("leaf.vhdx", 0);
    CHECK_EQ(VHDX_BYTES, capacity(handle));
    for (uint8_t i = 0; i < 40; i++) {
        uint64_t sector = 409u * i;
        fill(data, sizeof(data), i);
        memcpy(model + sector * 512, data, sizeof(data));
        write_sectors(handle, sector, data, 9);
    }
    read_sectors(handle, 409, data, 9);
    CHECK_BYTES(model + 409 * 512, data, sizeof(data));
    CHECK_OK(detach(handle));
    close_handle(handle);
    check_content("leaf.vhdx", model);
    uint8_t *zeros = calloc(1, VHDX_BYTES);
    check_content("child.vhdx", zeros);
    free(zeros);
}

/* Closing the handle brings everything to the image, as detaching does. */
static void
test_close_keeps(uint8_t *model)
{
    uint8_t data[512];
    HANDLE handle = attached("leaf.vhdx", 0);
    fill(data, sizeof(data), 99);
    memcpy(model + 77 * 512, data, sizeof(data));
    write_sectors(handle, 77, data, 1);
    close_handle(handle);
    check_content("leaf.vhdx", model);
}

static void
test_read_only(void)
{
    uint8_t data[512] = {0};
    HANDLE handle = attached("leaf.vhdx", READ_ONLY);
    CHECK_OK(move(handle, true, 0, data, 1));
    CHECK_EQ(2, status);
    CHECK_EQ(7, sense[2]);
    CHECK_EQ(0x2700, vd_get_be16(sense + 12));
    CHECK_EQ(0, transferred);
    close_handle(handle);
}

static DWORD
attach_range(HANDLE handle, uint64_t offset, uint64_t length)
{
    ATTACH_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = ATTACH_VIRTUAL_DISK_VERSION_2,
        .Version2 = {.RestrictedOffset = offset, .RestrictedLength = length},
    };
    return AttachVirtualDisk(handle, NULL, NO_HOST | RANGE, 0, &parameters,
                             NULL);
}

static void
test_window(const uint8_t *model)
{
    uint8_t data[512 * 4];
    HANDLE handle = open_all(path_of("leaf.vhdx"));
    CHECK_OK(attach_range(handle, 409 * 512, 4 * 512));
    CHECK_EQ(4 * 512, capacity(handle));
    read_sectors(handle, 0, data, 4);
    CHECK_BYTES(model + 409 * 512, data, sizeof(data));
    CHECK_OK(move(handle, false, 3, data, 2));
    CHECK_EQ(2, status);
    CHECK_EQ(0x2100, vd_get_be16(sense + 12));
    close_handle(handle);
}

/* A table written through the handle is seen at once, by questions and by
 * the next attachment. */
static void
test_partition_table(void)
{
    static const struct mbr_entry entries[4] = {{0x07, 64, 1000}};
    GET_VIRTUAL_DISK_INFO info;
    uint8_t sector[512];
    ULONG size = sizeof(info);
    HANDLE handle = attached("base.vhdx", 0);
    make_mbr(sector, entries);
    info.Version = GET_VIRTUAL_DISK_INFO_SMALLEST_SAFE_VIRTUAL_SIZE;
    CHECK_EQ(ERROR_VHD_COULD_NOT_COMPUTE_MINIMUM_VIRTUAL_SIZE,
             GetVirtualDiskInformation(handle, &size, &info, NULL));
    write_sectors(handle, 0, sector, 1);
    CHECK_OK(GetVirtualDiskInformation(handle, &size, &info, NULL));
    CHECK_EQ(1064 * 512, info.SmallestSafeVirtualSize);
    CHECK_OK(detach(handle));
    CHECK_OK(attach(handle, NO_HOST | SINGLE));
    CHECK_EQ(1000 * 512, capacity(handle));
    close_handle(handle);
}

static void
test_fragmentation(void)
{
    GET_VIRTUAL_DISK_INFO info = {.Version =
                                      GET_VIRTUAL_DISK_INFO_FRAGMENTATION};
    static const unsigned order[] = {7, 3, 1, 5};
    uint8_t sector[512] = {1};
    ULONG size = sizeof(info);
    make_vhdx(path_of("pieces.vhdx"), NULL, NULL);
    HANDLE handle = attached("pieces.vhdx", 0);
    for (unsigned i = 0; i < 4; i++) {
        write_sectors(handle, order[i] * VHDX_BLOCK / 512, sector, 1);
    }
    CHECK_OK(GetVirtualDiskInformation(handle, &size, &info, NULL));
    /* In the order of the disk they are the 3rd, 2nd, 4th and 1st in the
     * file: none stands behind the one before it. */
    CHECK_EQ(75, info.FragmentationPercentage);
    info.Version = GET_VIRTUAL_DISK_INFO_IS_4K_ALIGNED;
    CHECK_OK(GetVirtualDiskInformation(handle, &size, &info, NULL));
    CHECK_EQ(TRUE, info.Is4kAligned);
    close_handle(handle);
}

/* ---- who else may use the images ---- */

static void
outcome(DWORD expected, const char *name, unsigned flags)
{
    HANDLE handle = open_all(path_of(name));
    DWORD error = attach(handle, NO_HOST | flags);
    CHECK_EQ(expected, error);
    close_handle(handle);
}

static void
test_locks(void)
{
    make_vhdx(path_of("sister.vhdx"), path_of("child.vhdx"), u".\\child.vhdx");
    HANDLE leaf = attached("leaf.vhdx", 0);
    outcome(ERROR_SHARING_VIOLATION, "leaf.vhdx", 0);
    outcome(ERROR_SHARING_VIOLATION, "leaf.vhdx", READ_ONLY);
    outcome(ERROR_SHARING_VIOLATION, "child.vhdx", 0);
    outcome(ERROR_SHARING_VIOLATION, "base.vhdx", 0);
    outcome(0, "child.vhdx", READ_ONLY);
    outcome(0, "sister.vhdx", 0);
    close_handle(leaf);
    HANDLE base = attached("base.vhdx", 0);
    outcome(ERROR_SHARING_VIOLATION, "leaf.vhdx", READ_ONLY);
    close_handle(base);
    outcome(0, "leaf.vhdx", 0);
}

/* Another process detaches: whoever has the handle is told, and everything
 * is in the image by then. */
static void
test_detached_from_elsewhere(uint8_t *model)
{
    uint8_t data[512];
    HANDLE handle = attached("leaf.vhdx", 0);
    fill(data, sizeof(data), 55);
    memcpy(model + 33 * 512, data, sizeof(data));
    write_sectors(handle, 33, data, 1);
    pid_t child = fork();
    if (child == 0) {
        HANDLE other = open_all(path_of("leaf.vhdx"));
        DWORD error = detach(other);
        close_handle(other);
        HANDLE again = attached("leaf.vhdx", READ_ONLY);
        read_sectors(again, 33, data, 1);
        close_handle(again);
        bool same = memcmp(data, model + 33 * 512, 512) == 0;
        _exit(error == 0 && same ? 0 : 1);
    }
    int result = -1;
    CHECK_EQ(child, waitpid(child, &result, 0));
    CHECK_EQ(0, result);
    CHECK_EQ(ERROR_NOT_READY, test_unit_ready(handle));
    CHECK_EQ(ERROR_NOT_READY, detach(handle));
    CHECK_OK(attach(handle, NO_HOST | READ_ONLY));
    CHECK_OK(test_unit_ready(handle));
    close_handle(handle);
    check_content("leaf.vhdx", model);
}

/* A child holds neither the files nor the locks, and changes nothing when it
 * ends. */
static void
test_fork(unsigned descriptors, uint8_t *model)
{
    int ends[2];
    uint8_t data[512];
    HANDLE handle = attached("leaf.vhdx", 0);
    fill(data, sizeof(data), 66);
    memcpy(model + 34 * 512, data, sizeof(data));
    write_sectors(handle, 34, data, 1);
    if (pipe(ends) < 0) {
        check_broken("pipe");
    }
    pid_t child = fork();
    if (child == 0) {
        bool none = count_descriptors() == descriptors + 2 &&
                    test_unit_ready(handle) == ERROR_INVALID_HANDLE;
        close(ends[1]);
        char byte;
        ssize_t got = read(ends[0], &byte, 1); /* until the parent is done */
        _exit(none && got == 0 ? 0 : 1);
    }
    close(ends[0]);
    write_sectors(handle, 35, data, 1);
    memcpy(model + 35 * 512, data, sizeof(data));
    CHECK_OK(detach(handle));
    CHECK_OK(attach(handle, NO_HOST)); /* the child has no lock on it */
    close_handle(handle);
    close(ends[1]);
    int result = -1;
    CHECK_EQ(child, waitpid(child, &result, 0));
    CHECK_EQ(0, result);
    check_content("leaf.vhdx", model);
}

/* ---- many threads ---- */

struct worker {
    pthread_t thread;
    HANDLE handle;
    uint8_t *model; /* of its own quarter of the disk */
    uint64_t first;
    struct random random;
    atomic_uint done;
    DWORD ended;
    bool good;
};

static bool
do_one(struct worker *worker, uint8_t *buffer)
{
    uint32_t sectors = 1 + (uint32_t)random_below(&worker->random, 16);
    uint64_t offset = random_below(&worker->random, 4096 - sectors);
    bool write = random_below(&worker->random, 2) == 0;
    uint8_t cdb[16] = {write ? 0x8A : 0x88};
    RAW_SCSI_VIRTUAL_DISK_RESPONSE response;
    RAW_SCSI_VIRTUAL_DISK_PARAMETERS parameters = good_parameters();
    uint8_t own_sense[18];
    vd_put_be64(cdb + 2, worker->first + offset);
    vd_put_be32(cdb + 10, sectors);
    fill(buffer, 512 * sectors, (uint8_t)worker->done);
    parameters.Version1.DataIn = !write;
    parameters.Version1.CdbLength = 16;
    parameters.Version1.Cdb = cdb;
    parameters.Version1.DataBuffer = buffer;
    parameters.Version1.DataTransferLength = 512 * sectors;
    parameters.Version1.SenseInfo = own_sense;
    worker->ended =
        RawSCSIVirtualDisk(worker->handle, &parameters, 0, &response);
    if (worker->ended != 0) {
        return false;
    }
    uint8_t *model = worker->model + 512 * offset;
    worker->good = worker->good && response.Version1.ScsiStatus == 0;
    if (write) {
        memcpy(model, buffer, 512 * sectors);
    }
    else {
        worker->good =
            worker->good && memcmp(model, buffer, 512 * sectors) == 0;
    }
    worker->done++;
    return true;
}

static void *
work(void *argument)
{
    struct worker *worker = argument;
    uint8_t *buffer = malloc(512 * 16);
    while (worker->done < 1000000 && do_one(worker, buffer)) {
    }
    free(buffer);
    return NULL;
}

static bool
all_have_begun(void *context)
{
    const struct worker *workers = context;
    unsigned begun = 0;
    for (unsigned i = 0; i < THREADS; i++) {
        begun += atomic_load(&workers[i].done) >= 100;
    }
    return begun == THREADS;
}

/* Until the disk is taken away under them. */
static void
test_threads(uint8_t *model)
{
    struct worker workers[THREADS];
    HANDLE handle = attached("leaf.vhdx", 0);
    HANDLE other = open_all(path_of("leaf.vhdx"));
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){
            .handle = handle,
            .model = model + (size_t)i * 4096 * 512,
            .first = (uint64_t)i * 4096,
            .random = {i + 1},
            .good = true,
        };
        pthread_create(&workers[i].thread, NULL, work, &workers[i]);
    }
    CHECK(check_eventually(all_have_begun, workers));
    CHECK_OK(detach(other)); /* by another handle */
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(workers[i].thread, NULL);
        CHECK(workers[i].good);
        CHECK_EQ(ERROR_NOT_READY, workers[i].ended);
    }
    close_handle(other);
    close_handle(handle);
    check_content("leaf.vhdx", model);
}

/* ---- failures ---- */

/* From here on this thread sees no record of other processes: what is wrong
 * with one of those does not keep anybody from attaching, a failed allocation
 * included. */
static void
hide_other_records(void)
{
    if (geteuid() == 0) {
        CHECK(check_own_mounts(directory));
        CHECK(mkdir("/run/virtdisk", 0755) == 0 || errno == EEXIST);
        CHECK(mount("records", "/run/virtdisk", "tmpfs", MS_NOSUID | MS_NODEV,
                    "mode=755") == 0);
    }
}

static void
test_out_of_memory(void)
{
    hide_other_records();
    unsigned descriptors = count_descriptors();
    HANDLE handle = open_all(path_of("leaf.vhdx"));
    int failures = 0;
    for (bool again = true; again; failures++) {
        check_fail_allocation(failures);
        DWORD error = attach(handle, NO_HOST);
        again = check_fail_allocation(-1);
        CHECK_EQ(again ? ERROR_NOT_ENOUGH_MEMORY : 0, error);
        if (again) {
            CHECK(!is_loaded(handle));
        }
    }
    CHECK(failures > 10);
    close_handle(handle);
    CHECK(descriptors_become(descriptors));
}

/* The parent is another image by the time it is attached. */
static void
test_parent_changed_meanwhile(void)
{
    uint8_t sector[512] = {1};
    make_vhdx(path_of("old.vhdx"), NULL, NULL);
    make_vhdx(path_of("young.vhdx"), path_of("old.vhdx"), u".\\old.vhdx");
    HANDLE young = open_all(path_of("young.vhdx"));
    HANDLE old = attached("old.vhdx", 0);
    write_sectors(old, 0, sector, 1);
    close_handle(old);
    CHECK_EQ(ERROR_VHD_CHILD_PARENT_ID_MISMATCH, attach(young, NO_HOST));
    CHECK_EQ(ERROR_NOT_READY, test_unit_ready(young));
    close_handle(young);
}

int
main(int argc, char **argv)
{
    (void)argc;
    unsigned descriptors = count_descriptors();
    uint8_t *model = malloc(VHDX_BYTES);
    directory = argv[1];
    make_chain();
    test_arguments();
    test_short_sense();
    test_not_attached();
    test_with_a_device();
    test_content(model);
    test_close_keeps(model);
    test_read_only();
    test_window(model);
    test_locks();
    test_detached_from_elsewhere(model);
    test_fork(descriptors, model);
    test_threads(model);
    test_out_of_memory();
    test_parent_changed_meanwhile();
    test_fragmentation();
    make_vhdx(path_of("base.vhdx"), NULL, NULL);
    test_partition_table();
    free(model);
    CHECK(handles_become(0));
    CHECK(descriptors_become(descriptors));
    return check_result();
}
