/* Attachments that the disk server serves: what the device shows and takes,
 * and that at every end, in order or not, the image is closed and whole. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/fs.h>
#include <linux/loop.h>

#include "attach/registry.h"
#include "attach_support.h"
#include "check.h"
#include "disk/image_lock.h"
#include "random.h"
#include "server_tools.h"

#define MIB (1u << 20)
#define SIZE (64u * MIB)

static const char *scratch;

static const char *
make_disk(const char *name, uint64_t size, uint32_t sector_size)
{
    const char *path = check_path(scratch, name);
    struct vhdx vhdx = {
        .size = size, .block_size = MIB, .sector_size = sector_size};
    make_vhdx(path, &vhdx);
    return path;
}

static const char *
make_child(const char *name, const char *parent_path, const char16_t *parent)
{
    const char *path = check_path(scratch, name);
    struct vhdx vhdx = {
        .size = SIZE,
        .block_size = MIB,
        .sector_size = 512,
        .parent_path = parent_path,
        .parent = parent,
    };
    make_vhdx(path, &vhdx);
    return path;
}

/* One that is attached whole, and the disk it stands for. */
struct attached {
    struct vd_disk *disk;
    struct vd_attachment *attachment;
    const char *device;
};

static struct attached
attach(const char *path, bool writable)
{
    struct attached attached = {.disk = open_disk(path, writable)};
    struct vd_attach_request request = plain_request(attached.disk);
    vd_error error = vd_attach(attached.disk, &request, &attached.attachment);
    if (error == ERROR_NOT_SUPPORTED && access("/dev/fuse", F_OK) != 0) {
        check_skip("needs FUSE (/dev/fuse)");
    }
    if (!CHECK_OK(error)) {
        check_broken(path);
    }
    attached.device = vd_attachment_device(attached.attachment);
    return attached;
}

static vd_error
try_attach(const char *path, bool writable)
{
    struct vd_attachment *attachment;
    struct vd_disk *disk = open_disk(path, writable);
    struct vd_attach_request request = plain_request(disk);
    vd_error error = vd_attach(disk, &request, &attachment);
    if (error == ERROR_SUCCESS) {
        vd_attachment_release(attachment);
    }
    vd_disk_close(disk);
    return error;
}

/* The image is closed by then: its locks are free, at once. */
static void
check_closed(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK_OK(vd_image_lock(fd, VD_LOCK_WRITE));
    close(fd);
}

static void
detach_with(struct attached *attached, vd_error expected)
{
    char *path = strdup(vd_disk_path(attached->disk));
    CHECK_EQ(expected, vd_attachment_detach(attached->attachment));
    CHECK_EQ(ERROR_NOT_READY, vd_attachment_detach(attached->attachment));
    check_closed(path);
    vd_attachment_release(attached->attachment);
    vd_disk_close(attached->disk);
    free(path);
}

static void
detach(struct attached *attached)
{
    detach_with(attached, ERROR_SUCCESS);
}

static int
open_device(const char *device)
{
    int fd = open(device, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        check_broken(device);
    }
    return fd;
}

static void
fill(int device, uint64_t offset, size_t length, unsigned seed)
{
    uint8_t *content = malloc(length);
    for (size_t i = 0; i < length; i++) {
        content[i] = pattern_byte(seed, i);
    }
    CHECK_EQ(length, pwrite(device, content, length, (off_t)offset));
    free(content);
}

static bool
shows_zeros(const char *device, uint64_t offset, size_t length)
{
    uint8_t *content = malloc(length);
    int fd = open(device, O_RDONLY | O_CLOEXEC);
    bool same = pread(fd, content, length, (off_t)offset) == (ssize_t)length;
    for (size_t i = 0; same && i < length; i++) {
        same = content[i] == 0;
    }
    close(fd);
    free(content);
    return same;
}

/* -- what is shown -- */

static void
check_device(const char *device, int sector_size)
{
    struct loop_info64 info = {.lo_flags = 0};
    uint64_t size = 0;
    int sector = 0;
    char path[128];
    int fd = open_device(device);
    CHECK_EQ(0, ioctl(fd, BLKGETSIZE64, &size));
    CHECK_EQ(0, ioctl(fd, BLKSSZGET, &sector));
    CHECK_EQ(0, ioctl(fd, LOOP_GET_STATUS64, &info));
    CHECK_EQ(SIZE, size);
    CHECK_EQ(sector_size, sector);
    CHECK((info.lo_flags & LO_FLAGS_DIRECT_IO) != 0);
    CHECK((info.lo_flags & LO_FLAGS_AUTOCLEAR) != 0);
    snprintf(path, sizeof(path), "/sys/block/%s/queue/discard_granularity",
             base_name(device));
    CHECK_STR("4096", first_line(path));
    close(fd);
}

static void
a_dynamic_disk_is_written(uint32_t sector_size)
{
    const char *path = make_disk("dynamic.vhdx", SIZE, sector_size);
    size_t fds = count_fds();
    struct attached attached = attach(path, true);
    check_device(attached.device, (int)sector_size);
    CHECK(shows_zeros(attached.device, 0, 4 * MIB));
    int device = open_device(attached.device);
    fill(device, 3 * MIB, 5 * MIB, 7);
    CHECK_EQ(0, fsync(device));
    close(device);
    detach(&attached);
    CHECK_EQ(0, count_records());
    CHECK_EQ(fds, count_fds());
    attached = attach(path, false);
    CHECK(shows_zeros(attached.device, 0, 3 * MIB));
    CHECK(shows_pattern(attached.device, 3 * MIB, 5 * MIB, 7, 0));
    detach(&attached);
}

/* What the kernel cuts in the middle of a 4 KiB sector: large requests, which
 * it makes of large pages. */
static void
memory_at_any_address_is_written(void)
{
    const char *path = make_disk("address.vhdx", SIZE, 4096);
    struct attached attached = attach(path, true);
    int device = open(attached.device, O_RDWR | O_DIRECT | O_CLOEXEC);
    size_t length = 4 * MIB;
    uint8_t *memory = aligned_alloc(2 * MIB, length + 2 * MIB);
    madvise(memory, length + 2 * MIB, MADV_HUGEPAGE);
    for (size_t i = 0; i < length; i++) {
        memory[512 + i] = pattern_byte(3, i);
    }
    CHECK_EQ(length, pwrite(device, memory + 512, length, 8192));
    memset(memory, 0, length + 4096);
    CHECK_EQ(length, pread(device, memory + 512, length, 8192));
    bool same = true;
    for (size_t i = 0; i < length; i++) {
        same = same && memory[512 + i] == pattern_byte(3, i);
    }
    CHECK(same);
    free(memory);
    close(device);
    detach(&attached);
}

static void
space_is_freed_and_zeroed(void)
{
    const char *path = make_disk("trim.vhdx", SIZE, 512);
    struct attached attached = attach(path, true);
    int device = open_device(attached.device);
    uint64_t trim[2] = {MIB, 2 * MIB};
    uint64_t zero[2] = {4 * MIB + 512, 1024};
    fill(device, 0, 8 * MIB, 5);
    CHECK_EQ(0, fsync(device));
    CHECK_EQ(0, ioctl(device, BLKDISCARD, trim));
    CHECK_EQ(0, ioctl(device, BLKZEROOUT, zero));
    CHECK_EQ(0, ioctl(device, BLKFLSBUF, 0));
    for (int again = 0; again < 2; again++) {
        CHECK(shows_pattern(attached.device, 0, MIB, 5, 0));
        CHECK(shows_zeros(attached.device, MIB, 2 * MIB));
        CHECK(shows_pattern(attached.device, 3 * MIB, MIB + 512, 5, 3 * MIB));
        CHECK(shows_zeros(attached.device, 4 * MIB + 512, 1024));
        CHECK(shows_pattern(attached.device, 4 * MIB + 1536, MIB, 5,
                            4 * MIB + 1536));
        close(device);
        detach(&attached);
        if (again == 0) {
            attached = attach(path, true);
            device = open_device(attached.device);
        }
    }
}

static void
a_part_is_shown(void)
{
    const char *path = make_disk("part.vhdx", SIZE, 512);
    struct attached attached = attach(path, true);
    int device = open_device(attached.device);
    fill(device, 0, 4 * MIB, 9);
    close(device);
    detach(&attached);
    attached.disk = open_disk(path, true);
    struct vd_attach_request request = plain_request(attached.disk);
    request.window_offset = MIB + 512;
    request.window_length = MIB;
    attached.attachment = attach_or_stop(attached.disk, &request);
    attached.device = vd_attachment_device(attached.attachment);
    uint64_t size = 0;
    device = open_device(attached.device);
    CHECK_EQ(0, ioctl(device, BLKGETSIZE64, &size));
    CHECK_EQ(MIB, size);
    close(device);
    CHECK(shows_pattern(attached.device, 0, MIB, 9, MIB + 512));
    detach(&attached);
}

static void
reading_changes_nothing(void)
{
    const char *path = make_disk("same.vhdx", SIZE, 512);
    struct stat before, after;
    CHECK_EQ(0, stat(path, &before));
    struct attached attached = attach(path, false);
    int device = open(attached.device, O_RDWR | O_CLOEXEC);
    CHECK_EQ(-1, device < 0 ? -1 : pwrite(device, (char[512]){0}, 512, 0));
    if (device >= 0) {
        close(device);
    }
    CHECK(shows_zeros(attached.device, 0, MIB));
    detach(&attached);
    CHECK_EQ(0, stat(path, &after));
    CHECK_EQ(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
    CHECK_EQ(before.st_mtim.tv_sec, after.st_mtim.tv_sec);
}

/* -- a file system -- */

static int
run(const char *command, const char *device)
{
    char line[512];
    snprintf(line, sizeof(line), command, device);
    int status = system(line);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void
write_tree(const char *directory)
{
    for (int i = 0; i < 200; i++) {
        char path[512], content[3000];
        snprintf(path, sizeof(path), "%s/file%d", directory, i);
        memset(content, i, sizeof(content));
        check_write_file(path, content, sizeof(content));
    }
}

static bool
tree_is_there(const char *directory)
{
    bool same = true;
    for (int i = 0; i < 200; i++) {
        char path[512], content[3000], expected[3000];
        snprintf(path, sizeof(path), "%s/file%d", directory, i);
        memset(expected, i, sizeof(expected));
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        same = same && read(fd, content, sizeof(content)) == 3000 &&
               memcmp(content, expected, sizeof(content)) == 0;
        if (fd >= 0) {
            close(fd);
        }
    }
    return same;
}

static void
a_file_system_lives_on_it(uint32_t sector_size)
{
    const char *path = make_disk("ext4.vhdx", SIZE, sector_size);
    const char *directory = check_path(scratch, "mounted");
    if (access("/sbin/mkfs.ext4", X_OK) != 0) {
        printf("no mkfs.ext4 (e2fsprogs): not tested with a file system\n");
        return;
    }
    mkdir(directory, 0700);
    struct attached attached = attach(path, true);
    CHECK_EQ(0, run("mkfs.ext4 -q -F %s", attached.device));
    CHECK_EQ(0, mount(attached.device, directory, "ext4", 0, "discard"));
    write_tree(directory);
    CHECK_EQ(ERROR_BUSY, vd_attachment_detach(attached.attachment));
    CHECK_EQ(0, umount(directory));
    detach(&attached);
    attached = attach(path, true);
    CHECK_EQ(0, run("e2fsck -fn %s >/dev/null 2>&1", attached.device));
    CHECK_EQ(0, mount(attached.device, directory, "ext4", MS_RDONLY, NULL));
    CHECK(tree_is_there(directory));
    CHECK_EQ(0, umount(directory));
    detach(&attached);
}

/* -- many at once -- */

#define THREADS 8
#define SHARE (SIZE / THREADS)

static const char *shared_device;

static void *
hammer(void *argument)
{
    size_t number = (size_t)(uintptr_t)argument;
    struct random random = {number + 100};
    uint8_t *model = aligned_alloc(4096, SHARE);
    uint8_t *buffer = aligned_alloc(4096, MIB);
    int fd = open(shared_device, O_RDWR | O_DIRECT | O_CLOEXEC);
    uintptr_t wrong = fd < 0;
    memset(model, 0, SHARE);
    for (int i = 0; i < 300; i++) {
        size_t length = 512 * (1 + (size_t)random_below(&random, 300));
        size_t at =
            512 * (size_t)random_below(&random, (SHARE - length) / 512);
        off_t offset = (off_t)(number * SHARE + at);
        if (random_below(&random, 2) == 0) {
            memset(buffer, (int)random_below(&random, 256), length);
            memcpy(model + at, buffer, length);
            wrong += pwrite(fd, buffer, length, offset) != (ssize_t)length;
        }
        else {
            wrong += pread(fd, buffer, length, offset) != (ssize_t)length ||
                     memcmp(model + at, buffer, length) != 0;
        }
        wrong += i % 50 == 49 && fsync(fd) != 0;
    }
    close(fd);
    free(buffer);
    free(model);
    return (void *)wrong;
}

static void
many_threads_do_not_meet(void)
{
    struct attached attached =
        attach(make_disk("threads.vhdx", SIZE, 512), true);
    struct attached other = attach(make_disk("other.vhdx", SIZE, 512), true);
    pthread_t threads[THREADS];
    shared_device = attached.device;
    for (size_t i = 0; i < THREADS; i++) {
        CHECK_EQ(0, pthread_create(&threads[i], NULL, hammer,
                                   (void *)(uintptr_t)i));
    }
    int device = open_device(other.device);
    fill(device, 0, 16 * MIB, 2);
    close(device);
    for (size_t i = 0; i < THREADS; i++) {
        void *wrong;
        pthread_join(threads[i], &wrong);
        CHECK_EQ(0, (uintptr_t)wrong);
    }
    CHECK_EQ(2, count_records());
    detach(&attached);
    CHECK(shows_pattern(other.device, 0, 16 * MIB, 2, 0));
    detach(&other);
}

static void
again_and_again_leaks_nothing(void)
{
    const char *path = make_disk("again.vhdx", SIZE, 512);
    size_t fds = count_fds();
    for (int i = 0; i < 30; i++) {
        struct attached attached = attach(path, i % 3 != 0);
        if (i % 2 == 0) {
            detach(&attached);
            continue;
        }
        vd_attachment_release(attached.attachment);
        check_closed(path);
        vd_disk_close(attached.disk);
    }
    CHECK_EQ(fds, count_fds());
    CHECK_EQ(0, count_records());
    CHECK(threads_become(1));
    CHECK_EQ(0, find_server(path));
    CHECK_EQ(-1, waitpid(-1, NULL, 0));
    CHECK_EQ(ECHILD, errno);
}

/* -- who may use it -- */

static void
it_is_attached_once(void)
{
    const char *path = make_disk("once.vhdx", SIZE, 512);
    struct attached attached = attach(path, false);
    CHECK_EQ(ERROR_SHARING_VIOLATION, try_attach(path, false));
    CHECK_EQ(ERROR_SHARING_VIOLATION, try_attach(path, true));
    int fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK_EQ(ERROR_SHARING_VIOLATION, vd_image_lock(fd, VD_LOCK_WRITE));
    close(fd);
    detach(&attached);
}

static void
parents_stand_still(void)
{
    const char *base = make_disk("base.vhdx", SIZE, 512);
    struct attached attached = attach(base, true);
    int device = open_device(attached.device);
    fill(device, 0, 4 * MIB, 4);
    close(device);
    detach(&attached);
    const char *one = make_child("one.vhdx", base, u".\\base.vhdx");
    const char *two = make_child("two.vhdx", base, u".\\base.vhdx");
    struct attached first = attach(one, true);
    struct attached second = attach(two, true);
    CHECK_EQ(ERROR_SHARING_VIOLATION, try_attach(base, true));
    CHECK_OK(try_attach(base, false));
    device = open_device(first.device);
    fill(device, MIB, MIB, 6);
    close(device);
    CHECK(shows_pattern(first.device, 0, MIB, 4, 0));
    CHECK(shows_pattern(first.device, MIB, MIB, 6, 0));
    CHECK(shows_pattern(second.device, 0, 4 * MIB, 4, 0));
    detach(&first);
    detach(&second);
    attached = attach(base, true);
    CHECK(shows_pattern(attached.device, 0, 4 * MIB, 4, 0));
    CHECK_EQ(ERROR_SHARING_VIOLATION, try_attach(one, true));
    CHECK_EQ(ERROR_SHARING_VIOLATION, try_attach(one, false));
    detach(&attached);
    CHECK_OK(try_attach(one, false));
}

/* -- other ends -- */

static int
detach_by_path(void *context)
{
    struct vd_disk *disk = open_disk(context, false);
    vd_error error = vd_attached_detach(vd_disk_file_id(disk));
    vd_disk_close(disk);
    return error == ERROR_SUCCESS ? 0 : 1;
}

static int
attach_for_ever(void *context)
{
    struct vd_disk *disk = open_disk(context, true);
    struct vd_attach_request request = plain_request(disk);
    request.permanent = true;
    struct vd_attachment *attachment = attach_or_stop(disk, &request);
    int device = open_device(vd_attachment_device(attachment));
    fill(device, 0, MIB, 8);
    close(device);
    vd_attachment_release(attachment);
    vd_disk_close(disk);
    return 0;
}

static void
a_permanent_one_stays(void)
{
    char *path = strdup(make_disk("permanent.vhdx", SIZE, 512));
    struct vd_attached found = {.device = NULL};
    CHECK_EQ(0, wait_child(start_child(attach_for_ever, path)));
    struct vd_disk *disk = open_disk(path, false);
    CHECK_OK(vd_attached_find(vd_disk_file_id(disk), &found));
    CHECK(found.permanent);
    CHECK_STR(path, found.image_path);
    CHECK(shows_pattern(found.device, 0, MIB, 8, 0));
    vd_attached_free(&found);
    vd_disk_close(disk);
    CHECK_EQ(0, wait_child(start_child(detach_by_path, path)));
    check_closed(path);
    CHECK_EQ(0, count_records());
    free(path);
}

static void
another_process_detaches(void)
{
    char *path = strdup(make_disk("elsewhere.vhdx", SIZE, 512));
    struct attached attached = attach(path, true);
    int device = open_device(attached.device);
    fill(device, 0, MIB, 8);
    close(device);
    CHECK_EQ(0, wait_child(start_child(detach_by_path, path)));
    check_closed(path);
    CHECK(vd_attachment_gone(attached.attachment));
    CHECK_EQ(ERROR_NOT_READY, vd_attachment_detach(attached.attachment));
    vd_attachment_release(attached.attachment);
    vd_disk_close(attached.disk);
    free(path);
}

struct doomed {
    char *path;
    struct signal_pipe pipe;
};

static bool
is_there(void *path)
{
    return access(path, F_OK) == 0;
}

/* What the next attachment of the same device does with the records: removes
 * the old one, and has a socket of that name.  When the device is free, the
 * one who detaches it is only kept from them by their lock. */
static void
take_the_name(const char *name, int reader)
{
    char detaching[64], socket_path[64];
    int dir = -1;
    int lock = -1;
    snprintf(detaching, sizeof(detaching), RECORDS "/%s.detaching", name);
    snprintf(socket_path, sizeof(socket_path), RECORDS "/%s.upkeep", name);
    CHECK(check_eventually(is_there, detaching));
    CHECK_OK(vd_registry_open(RECORDS, false, &dir));
    CHECK_OK(vd_registry_lock(dir, &lock));
    close(reader); /* for which he waits */
    unlink(detaching);
    unlink(socket_path);
    check_write_file(socket_path, "", 0);
    close(lock);
    close(dir);
}

static int
detach_when_told(void *context)
{
    struct doomed *doomed = context;
    pipe_receive(&doomed->pipe);
    return detach_by_path(doomed->path);
}

static void
a_late_detacher_leaves_the_next_one_alone(void)
{
    struct doomed doomed = {strdup(make_disk("late.vhdx", SIZE, 512)),
                            pipe_new()};
    struct attached attached = attach(doomed.path, false);
    char name[VD_LOOP_NAME_SIZE], socket_path[64];
    snprintf(name, sizeof(name), "%s", base_name(attached.device));
    snprintf(socket_path, sizeof(socket_path), RECORDS "/%s.upkeep", name);
    CHECK(is_there(socket_path));
    pid_t child = start_child(detach_when_told, &doomed);
    int reader = open(attached.device, O_RDONLY | O_CLOEXEC);
    pipe_send(&doomed.pipe, 'd');
    take_the_name(name, reader);
    CHECK_EQ(0, wait_child(child));
    CHECK(is_there(socket_path));
    CHECK_EQ(0, unlink(socket_path));
    CHECK_EQ(0, count_records());
    vd_attachment_release(attached.attachment);
    vd_disk_close(attached.disk);
    pipe_close(&doomed.pipe);
    free(doomed.path);
}

static int
attach_and_wait(void *context)
{
    struct doomed *doomed = context;
    struct attached attached = attach(doomed->path, true);
    int device = open_device(attached.device);
    fill(device, MIB, MIB, 1);
    fsync(device);
    pipe_send(&doomed->pipe, 'r');
    pause();
    return 0;
}

static bool
is_served_no_more(void *context)
{
    return find_server(context) == 0;
}

static void
a_killed_attacher_leaves_nothing(void)
{
    struct doomed doomed = {strdup(make_disk("doomed.vhdx", SIZE, 512)),
                            pipe_new()};
    pid_t child = start_child(attach_and_wait, &doomed);
    CHECK_EQ('r', pipe_receive(&doomed.pipe));
    CHECK(find_server(doomed.path) != 0);
    CHECK_EQ(0, kill(child, SIGKILL));
    CHECK_EQ(-1, wait_child(child));
    CHECK(check_eventually(is_served_no_more, doomed.path));
    check_closed(doomed.path);
    struct attached attached = attach(doomed.path, false);
    CHECK(shows_pattern(attached.device, MIB, MIB, 1, 0));
    CHECK_EQ(1, count_records()); /* its own only */
    detach(&attached);
    pipe_close(&doomed.pipe);
    free(doomed.path);
}

static int
interrupt_group(void *context)
{
    struct doomed *doomed = context;
    setpgid(0, 0);
    signal(SIGINT, SIG_IGN);
    struct attached attached = attach(doomed->path, true);
    kill(0, SIGINT); /* as the terminal sends Ctrl-C */
    bool same = shows_zeros(attached.device, 0, MIB);
    return same && vd_attachment_detach(attached.attachment) == 0 ? 0 : 1;
}

static void
the_terminal_does_not_end_it(void)
{
    struct doomed doomed = {.path =
                                strdup(make_disk("ctrl-c.vhdx", SIZE, 512))};
    CHECK_EQ(0, wait_child(start_child(interrupt_group, &doomed)));
    free(doomed.path);
}

static void
a_killed_server_makes_errors(void)
{
    const char *path = make_disk("killed.vhdx", SIZE, 512);
    struct attached attached = attach(path, true);
    int device = open(attached.device, O_RDWR | O_DIRECT | O_CLOEXEC);
    void *sector = aligned_alloc(4096, 4096);
    memset(sector, 1, 4096);
    CHECK_EQ(4096, pwrite(device, sector, 4096, 0));
    CHECK_EQ(0, kill(find_server(path), SIGKILL));
    char *own_path = strdup(path);
    CHECK(check_eventually(is_served_no_more, own_path));
    CHECK_EQ(-1, pread(device, sector, 4096, 4096));
    CHECK_EQ(EIO, errno);
    CHECK_EQ(-1, pwrite(device, sector, 4096, 4096));
    CHECK_EQ(EIO, errno);
    CHECK_EQ(-1, fsync(device));
    close(device);
    detach_with(&attached, ERROR_IO_DEVICE);
    CHECK_EQ(0, count_records());
    attached = attach(path, true); /* whatever it was doing, it opens */
    detach(&attached);
    free(own_path);
    free(sector);
}

/* -- when it cannot be done -- */

#define FULL_BYTE 0x5A

static bool
is_full_bytes(const char *device, uint64_t length)
{
    uint8_t *content = malloc(length);
    int fd = open(device, O_RDONLY | O_CLOEXEC);
    bool same = pread(fd, content, length, 0) == (ssize_t)length;
    for (uint64_t i = 0; same && i < length; i++) {
        same = content[i] == FULL_BYTE;
    }
    close(fd);
    free(content);
    return same;
}

/* Writes until there is no room; returns how much was written. */
static uint64_t
write_until_full(int device, uint64_t flush_at)
{
    uint64_t written = 0;
    uint8_t *block = aligned_alloc(4096, MIB);
    memset(block, FULL_BYTE, MIB);
    while (written < SIZE &&
           pwrite(device, block, MIB, (off_t)written) == (ssize_t)MIB) {
        written += MIB;
        if (written == flush_at) {
            CHECK_EQ(0, fsync(device));
        }
    }
    CHECK_EQ(ENOSPC, errno);
    free(block);
    return written;
}

/* The host's file system is full: the writer is told, and what was flushed
 * before is whole. */
static void
a_full_host_loses_nothing(void)
{
    const char *directory = check_path(scratch, "full");
    mkdir(directory, 0700);
    CHECK_EQ(0, mount("full", directory, "tmpfs", 0, "size=24m"));
    char *path = strdup(make_disk("full/disk.vhdx", SIZE, 512));
    struct attached attached = attach(path, true);
    int device = open(attached.device, O_RDWR | O_DIRECT | O_CLOEXEC);
    uint64_t written = write_until_full(device, 8 * MIB);
    CHECK(written > 8 * MIB && written < 24 * MIB);
    CHECK(is_full_bytes(attached.device, written));
    bool flushed = fsync(device) == 0;
    close(device);
    detach_with(&attached, flushed ? ERROR_SUCCESS : ERROR_IO_DEVICE);
    attached = attach(path, false);
    CHECK(is_full_bytes(attached.device, flushed ? written : 8 * MIB));
    detach(&attached);
    CHECK_EQ(0, umount(directory));
    free(path);
}

static void
without_a_server_nothing_is_left(void)
{
    const char *path = make_disk("none.vhdx", SIZE, 512);
    char *before = strdup(getenv("VIRTDISK_SERVER"));
    size_t fds = count_fds();
    setenv("VIRTDISK_SERVER", "/nowhere/virtdisk-server", 1);
    CHECK_EQ(ERROR_NOT_SUPPORTED, try_attach(path, true));
    setenv("VIRTDISK_SERVER", "/bin/true", 1);
    CHECK_EQ(ERROR_BROKEN_PIPE, try_attach(path, true));
    setenv("VIRTDISK_SERVER", before, 1);
    check_closed(path);
    CHECK_EQ(fds, count_fds());
    CHECK_EQ(0, count_records());
    CHECK_OK(try_attach(path, true));
    free(before);
}

/* As many as there are on the way: every step fails once. */
static void
without_descriptors_nothing_is_left(void)
{
    const char *path = make_disk("scarce.vhdx", SIZE, 512);
    struct rlimit before;
    size_t fds = count_fds();
    unsigned failures = 0;
    vd_error error;
    CHECK_EQ(0, getrlimit(RLIMIT_NOFILE, &before));
    struct vd_disk *disk = open_disk(path, true);
    struct vd_attach_request request = plain_request(disk);
    for (rlim_t room = 1; room < 40; room++) {
        struct vd_attachment *attachment;
        struct rlimit few = {fds + room, before.rlim_max};
        setrlimit(RLIMIT_NOFILE, &few);
        error = vd_attach(disk, &request, &attachment);
        setrlimit(RLIMIT_NOFILE, &before);
        if (error == ERROR_SUCCESS) {
            vd_attachment_release(attachment);
            break;
        }
        failures++;
        check_closed(path);
        CHECK_EQ(0, count_records());
        CHECK_EQ(fds + 1, count_fds()); /* the disk's */
    }
    CHECK_OK(error);
    CHECK(failures > 5);
    vd_disk_close(disk);
}

int
main(int argc, char **argv)
{
    be_server_if_asked(argv);
    scratch = argc > 1 ? argv[1] : "/tmp";
    world_begin(scratch);
    a_dynamic_disk_is_written(512);
    a_dynamic_disk_is_written(4096);
    memory_at_any_address_is_written();
    space_is_freed_and_zeroed();
    a_part_is_shown();
    reading_changes_nothing();
    a_file_system_lives_on_it(512);
    a_file_system_lives_on_it(4096);
    many_threads_do_not_meet();
    again_and_again_leaks_nothing();
    it_is_attached_once();
    parents_stand_still();
    a_permanent_one_stays();
    another_process_detaches();
    a_late_detacher_leaves_the_next_one_alone();
    a_killed_attacher_leaves_nothing();
    the_terminal_does_not_end_it();
    a_killed_server_makes_errors();
    a_full_host_loses_nothing();
    without_a_server_nothing_is_left();
    without_descriptors_nothing_is_left();
    return check_result();
}
