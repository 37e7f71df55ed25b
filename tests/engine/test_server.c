/* The disk server as its file shows it: content, refusals, confinement, and
 * that it goes when nobody uses the file any more. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/falloc.h>
#include <linux/fuse.h>

#include "attach/server_client.h"
#include "base/cleanup.h"
#include "check.h"
#include "disk/disk.h"
#include "random.h"
#include "server/channel.h"
#include "server/confine.h"
#include "server/fuse_operations.h"
#include "server_tools.h"
#include "vhd_bytes.h"

#define SIZE (1u << 20)
#define VHDX_SIZE (64u << 20)
#define VHDX_BLOCK (1u << 20)

static const char *scratch;

static uint8_t
pattern_byte(size_t i)
{
    return (uint8_t)(i / 512 * 7 + i * 3 + 5);
}

static const char *
make_fixed(const char *name)
{
    const char *path = check_path(scratch, name);
    uint8_t *content = malloc(SIZE + FOOTER);
    for (size_t i = 0; i < SIZE; i++) {
        content[i] = pattern_byte(i);
    }
    put_simple_footer(content + SIZE, SIZE, 2);
    check_write_file(path, content, SIZE + FOOTER);
    free(content);
    return path;
}

static const char *
make_dynamic(const char *name)
{
    const char *path = check_path(scratch, name);
    struct vhdx vhdx = {
        .size = VHDX_SIZE, .block_size = VHDX_BLOCK, .sector_size = 512};
    make_vhdx(path, &vhdx);
    return path;
}

/* Without the locks, which are the attachment's business. */
static vd_error
try_serve(const char *path, bool read_only, uint64_t offset, uint64_t length,
          struct vd_server_file *out)
{
    struct vd_disk_options options = {.writable = !read_only};
    struct vd_disk *disk;
    struct vd_disk_files files;
    vd_error error = vd_disk_open(path, &options, &disk);
    if (error != ERROR_SUCCESS) {
        check_broken(path);
    }
    CHECK_OK(vd_disk_reopen(disk, !read_only, &files));
    struct vd_server_options server = {
        .files = &files,
        .read_only = read_only,
        .window_offset = offset,
        .window_length = length != 0 ? length : vd_disk_size_bytes(disk),
    };
    error = vd_server_start(&server, out);
    vd_disk_files_close(&files);
    vd_disk_close(disk);
    return error;
}

static struct vd_server_file
serve(const char *path, bool read_only)
{
    struct vd_server_file served;
    vd_error error = try_serve(path, read_only, 0, 0, &served);
    if (error == ERROR_NOT_SUPPORTED || error == ERROR_PRIVILEGE_NOT_HELD) {
        check_skip("needs FUSE and CAP_SYS_ADMIN");
    }
    if (!CHECK_OK(error)) {
        check_broken("no server");
    }
    return served;
}

static size_t
count_fds(void)
{
    size_t count = 0;
    DIR *fds = opendir("/proc/self/fd");
    while (readdir(fds) != NULL) {
        count++;
    }
    closedir(fds);
    return count;
}

static bool
shows_pattern(int file, uint64_t offset, size_t length, size_t start)
{
    uint8_t *content = malloc(length);
    bool same = pread(file, content, length, (off_t)offset) == (ssize_t)length;
    for (size_t i = 0; same && i < length; i++) {
        same = content[i] == pattern_byte(start + i);
    }
    free(content);
    return same;
}

static bool
shows_zeros(int file, uint64_t offset, size_t length)
{
    uint8_t *content = malloc(length);
    bool same = pread(file, content, length, (off_t)offset) == (ssize_t)length;
    for (size_t i = 0; same && i < length; i++) {
        same = content[i] == 0;
    }
    free(content);
    return same;
}

/* -- content -- */

static void
check_size(int file, uint64_t size)
{
    struct stat status;
    struct statfs system;
    CHECK_EQ(0, fstat(file, &status));
    CHECK_EQ(size, status.st_size);
    CHECK(S_ISREG(status.st_mode));
    CHECK_EQ(0, fstatfs(file, &system));
    CHECK_EQ(4096, system.f_bsize);
}

static void
a_fixed_image_is_shown(void)
{
    size_t fds = count_fds();
    struct vd_server_file served = serve(make_fixed("fixed.vhd"), true);
    char one;
    check_size(served.file, SIZE);
    CHECK(shows_pattern(served.file, 0, SIZE, 0));
    CHECK(shows_pattern(served.file, 12345, 999, 12345));
    CHECK_EQ(100, pread(served.file, (char[512]){0}, 512, SIZE - 100));
    CHECK_EQ(0, pread(served.file, &one, 1, SIZE));
    vd_server_stop(&served);
    CHECK_EQ(fds, count_fds());
    CHECK_EQ(-1, waitpid(-1, NULL, 0));
    CHECK_EQ(ECHILD, errno);
}

static void
a_window_is_all_there_is(void)
{
    struct vd_server_file served;
    const char *path = make_fixed("window.vhd");
    CHECK_OK(try_serve(path, false, 8192, 4096, &served));
    check_size(served.file, 4096);
    CHECK(shows_pattern(served.file, 0, 4096, 8192));
    CHECK_EQ(-1, pwrite(served.file, (char[512]){0}, 512, 4096));
    CHECK_EQ(EFBIG, errno);
    CHECK_EQ(-1, pwrite(served.file, (char[1024]){0}, 1024, 4096 - 512));
    CHECK_EQ(512, pwrite(served.file, (char[512]){0}, 512, 4096 - 512));
    vd_server_stop(&served);
    int image = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(shows_pattern(image, 8192, 3584, 8192));
    CHECK(shows_zeros(image, 8192 + 3584, 512));
    CHECK(shows_pattern(image, 12288, SIZE - 12288, 12288));
    close(image);
}

static void
read_only_is_read_only(void)
{
    const char *path = make_fixed("read-only.vhd");
    struct vd_server_file served = serve(path, true);
    char again[64];
    snprintf(again, sizeof(again), "/proc/self/fd/%d", served.file);
    CHECK_EQ(-1, open(again, O_RDWR | O_CLOEXEC));
    CHECK_EQ(EROFS, errno);
    vd_server_stop(&served);
}

static void
check_refusals(int file)
{
    static const int odd_modes[] = {
        0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_COLLAPSE_RANGE,
        FALLOC_FL_INSERT_RANGE,
        FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE | FALLOC_FL_ZERO_RANGE};
    CHECK_EQ(-1, ftruncate(file, 4096));
    CHECK_EQ(EPERM, errno);
    CHECK_EQ(0, ftruncate(file, VHDX_SIZE));
    CHECK_EQ(0, futimens(file, NULL));
    for (size_t i = 0; i < sizeof(odd_modes) / sizeof(odd_modes[0]); i++) {
        CHECK_EQ(-1, fallocate(file, odd_modes[i], 0, 4096));
        CHECK_EQ(EOPNOTSUPP, errno);
    }
    CHECK_EQ(-1, fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                           100, 4096));
    CHECK_EQ(EINVAL, errno);
    CHECK_EQ(-1, fallocate(file, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                           VHDX_SIZE, 4096));
}

static void
fill(int file, uint64_t offset, size_t length)
{
    uint8_t *content = malloc(length);
    for (size_t i = 0; i < length; i++) {
        content[i] = pattern_byte((size_t)offset + i);
    }
    CHECK_EQ(length, pwrite(file, content, length, (off_t)offset));
    free(content);
}

static void
parts_of_sectors_are_written(void)
{
    const char *path = make_fixed("parts.vhd");
    struct vd_server_file served = serve(path, false);
    fill(served.file, 0, 4096);
    CHECK_EQ(1, pwrite(served.file, "x", 1, 600));
    CHECK_EQ(1000, pwrite(served.file, (char[1000]){0}, 1000, 1500));
    CHECK(shows_pattern(served.file, 0, 600, 0));
    CHECK(shows_pattern(served.file, 601, 1500 - 601, 601));
    CHECK(shows_zeros(served.file, 1500, 1000));
    CHECK(shows_pattern(served.file, 2500, 4096, 2500));
    vd_server_stop(&served);
}

static void
what_is_written_is_there(void)
{
    const char *path = make_dynamic("written.vhdx");
    struct vd_server_file served = serve(path, false);
    CHECK(shows_zeros(served.file, 0, 3 * VHDX_BLOCK));
    check_refusals(served.file);
    fill(served.file, 512, 5 * VHDX_BLOCK); /* more than one request */
    CHECK_EQ(0, fsync(served.file));
    CHECK_EQ(0,
             fallocate(served.file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                       VHDX_BLOCK, VHDX_BLOCK));
    CHECK_EQ(0,
             fallocate(served.file, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                       3 * VHDX_BLOCK + 512, 1024));
    for (int again = 0; again < 2; again++) {
        CHECK(shows_zeros(served.file, 0, 512));
        CHECK(shows_pattern(served.file, 512, VHDX_BLOCK - 512, 512));
        CHECK(shows_zeros(served.file, VHDX_BLOCK, VHDX_BLOCK));
        CHECK(shows_zeros(served.file, 3 * VHDX_BLOCK + 512, 1024));
        CHECK(shows_pattern(served.file, 4 * VHDX_BLOCK, VHDX_BLOCK,
                            4 * VHDX_BLOCK));
        vd_server_stop(&served);
        if (again == 0) {
            served = serve(path, true);
        }
    }
}

static bool
same_content(const char *path, const uint8_t *content, size_t length)
{
    uint8_t *now = malloc(length + 1);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool same = read(fd, now, length + 1) == (ssize_t)length &&
                memcmp(now, content, length) == 0;
    close(fd);
    free(now);
    return same;
}

static void
nothing_written_changes_nothing(void)
{
    const char *path = make_dynamic("untouched.vhdx");
    struct stat status;
    CHECK_EQ(0, stat(path, &status));
    uint8_t *before = malloc((size_t)status.st_size);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK_EQ(status.st_size, read(fd, before, (size_t)status.st_size));
    close(fd);
    struct vd_server_file served = serve(path, false);
    CHECK(shows_zeros(served.file, 0, VHDX_BLOCK));
    CHECK_EQ(0, fsync(served.file));
    vd_server_stop(&served);
    CHECK(same_content(path, before, (size_t)status.st_size));
    free(before);
}

/* -- many at once -- */

#define THREADS 8
#define SHARE (VHDX_SIZE / THREADS)

static int shared_file;

/* Its own part of the disk, against a model of it. */
static void *
hammer(void *argument)
{
    size_t number = (size_t)(uintptr_t)argument;
    struct random random = {number};
    uint8_t *model = calloc(1, SHARE);
    uint8_t *buffer = malloc(256 * 512);
    uintptr_t wrong = 0;
    for (int i = 0; i < 400; i++) {
        size_t length = 512 * (1 + (size_t)random_below(&random, 256));
        size_t at =
            512 * (size_t)random_below(&random, (SHARE - length) / 512);
        off_t offset = (off_t)(number * SHARE + at);
        uint64_t kind = random_below(&random, 8);
        if (kind < 4) {
            memset(model + at, (int)random_below(&random, 256), length);
            wrong += pwrite(shared_file, model + at, length, offset) !=
                     (ssize_t)length;
        }
        else if (kind < 5) {
            memset(model + at, 0, length);
            wrong += fallocate(shared_file,
                               FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                               offset, (off_t)length) != 0;
        }
        else {
            wrong += pread(shared_file, buffer, length, offset) !=
                         (ssize_t)length ||
                     memcmp(model + at, buffer, length) != 0;
        }
        wrong += i % 100 == 99 && fsync(shared_file) != 0;
    }
    free(buffer);
    free(model);
    return (void *)wrong;
}

static void
many_threads_do_not_meet(void)
{
    const char *path = make_dynamic("threads.vhdx");
    struct vd_server_file served = serve(path, false);
    pthread_t threads[THREADS];
    shared_file = served.file;
    for (size_t i = 0; i < THREADS; i++) {
        CHECK_EQ(0, pthread_create(&threads[i], NULL, hammer,
                                   (void *)(uintptr_t)i));
    }
    for (size_t i = 0; i < THREADS; i++) {
        void *wrong;
        pthread_join(threads[i], &wrong);
        CHECK_EQ(0, (uintptr_t)wrong);
    }
    vd_server_stop(&served);
}

/* -- what cannot be served -- */

static void
a_window_outside_the_disk_is_refused(void)
{
    struct vd_server_file served;
    const char *path = make_fixed("outside.vhd");
    CHECK_EQ(ERROR_INVALID_PARAMETER,
             try_serve(path, true, 512, SIZE, &served));
    CHECK_EQ(ERROR_INVALID_PARAMETER,
             try_serve(path, true, 100, 512, &served));
    CHECK_EQ(0, find_server(path));
}

static vd_error
serve_descriptor(int fd, struct vd_server_file *out)
{
    struct vd_disk_files files = {.count = 1, .fds = &fd};
    struct vd_server_options server = {
        .files = &files, .read_only = true, .window_length = 512};
    return vd_server_start(&server, out);
}

static void
what_is_no_image_is_refused(void)
{
    struct vd_server_file served;
    size_t fds = count_fds();
    const char *path = check_path(scratch, "none.img");
    char zeros[4096] = {0};
    check_write_file(path, zeros, sizeof(zeros));
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK_EQ(ERROR_VIRTDISK_PROVIDER_NOT_FOUND, serve_descriptor(fd, &served));
    close(fd);
    fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    CHECK_EQ(ERROR_INVALID_PARAMETER, serve_descriptor(fd, &served));
    close(fd);
    CHECK_EQ(fds, count_fds());
}

static void
a_program_that_is_no_server(void)
{
    struct vd_server_file served;
    const char *path = make_fixed("no-server.vhd");
    size_t fds = count_fds();
    char *before = strdup(getenv("VIRTDISK_SERVER"));
    setenv("VIRTDISK_SERVER", "/nowhere/virtdisk-server", 1);
    CHECK_EQ(ERROR_NOT_SUPPORTED, try_serve(path, true, 0, 0, &served));
    setenv("VIRTDISK_SERVER", scratch, 1); /* a directory */
    CHECK_EQ(ERROR_NOT_SUPPORTED, try_serve(path, true, 0, 0, &served));
    setenv("VIRTDISK_SERVER", "/bin/true", 1);
    CHECK_EQ(ERROR_BROKEN_PIPE, try_serve(path, true, 0, 0, &served));
    /* One that talks, but not of this: cat gives back what it is sent. */
    setenv("VIRTDISK_SERVER", before, 1);
    free(before);
    CHECK_EQ(fds, count_fds());
}

/* The server's own view of a request that is none. */
static void
a_request_that_is_none_is_refused(void)
{
    struct vd_server_request request = {.protocol = VD_SERVER_PROTOCOL + 1,
                                        .layers = 1};
    static const size_t lengths[] = {sizeof(request), 1, 0};
    for (size_t i = 0; i < 3; i++) {
        struct vd_server_reply reply = {0};
        int pair[2], fd;
        size_t count;
        CHECK_EQ(0,
                 socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
        pid_t child = fork();
        if (child == 0) {
            dup2(pair[1], VD_SERVER_CONTROL);
            _exit(vd_server_main(VD_CONFINE_REFUSE));
        }
        close(pair[1]);
        waitpid(child, NULL, 0);
        if (lengths[i] != 0) {
            CHECK_OK(vd_channel_send(pair[0], &request, lengths[i], NULL, 0));
            CHECK_OK(vd_channel_receive(pair[0], &reply, sizeof(reply), &fd, 1,
                                        &count));
            CHECK_EQ(ERROR_INVALID_DATA, reply.error);
            CHECK_EQ(0, count);
        }
        else { /* the attacher dies */
            CHECK_EQ(0, shutdown(pair[0], SHUT_WR));
            CHECK_OK(vd_channel_receive(pair[0], &reply, sizeof(reply), &fd, 1,
                                        &count));
            CHECK_EQ(ERROR_BROKEN_PIPE, reply.error);
        }
        CHECK_EQ(ERROR_BROKEN_PIPE,
                 vd_channel_receive(pair[0], &reply, sizeof(reply), &fd, 1,
                                    &count));
        close(pair[0]);
    }
}

/* -- life and death -- */

static void
check_status_line(pid_t pid, const char *name, const char *value)
{
    char path[64], line[256];
    bool found = false;
    snprintf(path, sizeof(path), "/proc/%d/status", pid);
    FILE *status = fopen(path, "re");
    while (status != NULL && fgets(line, sizeof(line), status) != NULL) {
        if (strncmp(line, name, strlen(name)) == 0 &&
            line[strlen(name)] == ':') {
            line[strcspn(line, "\n")] = '\0';
            CHECK_STR(value, line + strlen(name) + 2);
            found = true;
        }
    }
    CHECK(found);
    fclose(status);
}

static void
check_server_fds(pid_t pid, const char *image_path)
{
    char directory[64];
    snprintf(directory, sizeof(directory), "/proc/%d/fd", pid);
    DIR *fds = opendir(directory);
    const struct dirent *entry;
    size_t images = 0;
    while ((entry = readdir(fds)) != NULL) {
        char target[4096] = "";
        if (entry->d_name[0] == '.' ||
            readlinkat(dirfd(fds), entry->d_name, target, sizeof(target) - 1) <
                0) {
            continue;
        }
        images += strcmp(target, image_path) == 0;
        CHECK(strcmp(target, image_path) == 0 ||
              strcmp(target, "/dev/null") == 0 ||
              strcmp(target, "/dev/fuse") == 0 ||
              strncmp(target, "socket:", 7) == 0);
    }
    closedir(fds);
    CHECK_EQ(1, images);
}

static void
it_is_alone_and_powerless(void)
{
    const char *path = make_fixed("alone.vhd");
    int inherited = open("/etc/passwd", O_RDONLY); /* not O_CLOEXEC */
    struct vd_server_file served = serve(path, false);
    pid_t pid = find_server(path);
    CHECK(pid != 0);
    check_status_line(pid, "CapPrm", "0000000000000000");
    check_status_line(pid, "CapEff", "0000000000000000");
    check_status_line(pid, "CapBnd", "0000000000000000");
    check_status_line(pid, "NoNewPrivs", "1");
    check_status_line(pid, "Seccomp", "2");
    check_server_fds(pid, path);
    CHECK_EQ(pid, getsid(pid));
    close(inherited);
    vd_server_stop(&served);
    CHECK_EQ(0, find_server(path));
}

/* A program that has closed what others take for granted. */
static void
without_standard_files_it_is_served(void)
{
    const char *path = make_fixed("closed.vhd");
    pid_t child = fork();
    if (child == 0) {
        struct vd_server_file served;
        for (int fd = 0; fd < 3; fd++) {
            close(fd);
        }
        vd_error error = try_serve(path, true, 0, 0, &served);
        bool same =
            error == ERROR_SUCCESS && shows_pattern(served.file, 0, SIZE, 0);
        if (error == ERROR_SUCCESS) {
            vd_server_stop(&served);
        }
        _exit(same ? 0 : 1);
    }
    int status = -1;
    CHECK_EQ(child, waitpid(child, &status, 0));
    CHECK_EQ(0, status);
}

static void
signals_do_not_end_it(void)
{
    static const int signals[] = {SIGINT, SIGQUIT, SIGHUP, SIGTERM, SIGPIPE};
    const char *path = make_fixed("signals.vhd");
    struct vd_server_file served = serve(path, false);
    pid_t pid = find_server(path);
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
        CHECK_EQ(0, kill(pid, signals[i]));
    }
    CHECK(shows_pattern(served.file, 0, SIZE, 0));
    CHECK_EQ(pid, find_server(path));
    vd_server_stop(&served);
}

static void
a_killed_one_makes_errors(void)
{
    const char *path = make_fixed("killed.vhd");
    struct vd_server_file served = serve(path, false);
    char sector[512];
    struct pollfd end = {.fd = served.server};
    CHECK_EQ(0, kill(find_server(path), SIGKILL));
    CHECK_EQ(1, poll(&end, 1, 120000));
    CHECK_EQ(-1, pread(served.file, sector, sizeof(sector), 0));
    CHECK_EQ(-1, pwrite(served.file, sector, sizeof(sector), 0));
    CHECK_EQ(-1, fsync(served.file));
    vd_server_stop(&served);
}

static bool
is_served_no_more(void *path)
{
    return find_server(path) == 0;
}

/* The attacher dies with the file open. */
static void
it_ends_with_its_last_user(void)
{
    const char *path = make_dynamic("orphan.vhdx");
    int ready[2];
    char byte;
    CHECK_EQ(0, pipe2(ready, O_CLOEXEC));
    pid_t child = fork();
    if (child == 0) {
        struct vd_server_file served = serve(path, false);
        fill(served.file, 0, VHDX_BLOCK);
        (void)!write(ready[1], "r", 1);
        pause();
    }
    close(ready[1]);
    CHECK_EQ(1, read(ready[0], &byte, 1));
    close(ready[0]);
    CHECK(find_server(path) != 0);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    CHECK(check_eventually(is_served_no_more, (void *)path));
    struct vd_server_file served = serve(path, true);
    CHECK(shows_pattern(served.file, 0, VHDX_BLOCK, 0));
    vd_server_stop(&served);
}

/* Counted page by page: statm is behind by some for each processor. */
static uint64_t
resident_bytes(pid_t pid)
{
    char path[64], line[256];
    unsigned long long resident = 0;
    snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", pid);
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        check_broken(path); /* the server is gone */
    }
    while (fgets(line, sizeof(line), file) != NULL) {
        (void)sscanf(line, "Rss: %llu kB", &resident);
    }
    fclose(file);
    CHECK(resident != 0);
    return resident * 1024;
}

static void
memory_stays_flat(void)
{
    const char *path = make_dynamic("memory.vhdx");
    struct vd_server_file served = serve(path, false);
    pid_t pid = find_server(path);
    uint64_t after_one = 0;
    for (int round = 0; round < 6; round++) {
        fill(served.file, 0, VHDX_SIZE);
        CHECK(shows_pattern(served.file, 0, VHDX_SIZE, 0));
        CHECK_EQ(0, fallocate(served.file,
                              FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                              VHDX_SIZE));
        CHECK_EQ(0, fsync(served.file));
        if (round == 1) {
            after_one = resident_bytes(pid);
        }
    }
    /* Each of four threads may touch all of its buffer only now. */
    CHECK(resident_bytes(pid) < after_one + (5u << 20));
    vd_server_stop(&served);
}

/* -- confinement -- */

#define MUST_REFUSE(call)                                                     \
    do {                                                                      \
        errno = 0;                                                            \
        if ((call) != -1 || errno != EPERM) {                                 \
            return __LINE__ % 200 + 1;                                        \
        }                                                                     \
    } while (0)

#define MUST_ALLOW(call)                                                      \
    do {                                                                      \
        if ((call) == -1) {                                                   \
            return __LINE__ % 200 + 1;                                        \
        }                                                                     \
    } while (0)

static void *
idle(void *argument)
{
    const int *socket_end = argument;
    char byte = 'r';
    (void)!write(*socket_end, &byte, 1);
    (void)!read(*socket_end, &byte, 1);
    errno = 0;
    return (void *)(intptr_t)(open("/", O_PATH | O_CLOEXEC) == -1 &&
                              errno == EPERM);
}

/* Returns 0, or the line of the call that did not go as it should. */
static int
try_system_calls(int file, int sockets[2])
{
    char text[] = "text";
    struct stat status;
    struct sockaddr_storage address = {.ss_family = AF_UNIX};
    MUST_ALLOW(pwrite(file, text, 4, 0));
    MUST_ALLOW(pread(file, text, 4, 0));
    MUST_ALLOW(fdatasync(file));
    MUST_ALLOW(fstat(file, &status));
    MUST_ALLOW(fallocate(file, 0, 0, 4096));
    MUST_ALLOW(ftruncate(file, 4));
    MUST_ALLOW(send(sockets[0], text, 4, 0));
    MUST_REFUSE(sendto(sockets[0], text, 4, 0, (struct sockaddr *)&address,
                       sizeof(address)));
    MUST_REFUSE(sendmsg(sockets[0], &(struct msghdr){0}, 0));
    MUST_REFUSE(open("/etc/passwd", O_RDONLY | O_CLOEXEC));
    MUST_REFUSE(stat("/etc/passwd", &status));
    MUST_REFUSE(unlink("/nowhere/file"));
    MUST_REFUSE(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    MUST_REFUSE(kill(getppid(), 0));
    MUST_REFUSE(ptrace(PTRACE_ATTACH, getppid(), NULL, NULL));
    MUST_REFUSE(execl("/bin/true", "true", NULL));
    MUST_REFUSE(ioctl(file, 0, 0));
    MUST_REFUSE(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST_ALLOW(page == MAP_FAILED ? -1 : 0);
    MUST_REFUSE(mprotect(page, 4096, PROT_READ | PROT_EXEC));
    MUST_REFUSE(mmap(NULL, 4096, PROT_READ | PROT_EXEC,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED
                    ? -1
                    : 0);
    MUST_ALLOW(munmap(page, 4096));
    return 0;
}

static int
confined_child(int file, int sockets[2])
{
    pthread_t thread;
    int wake[2];
    void *refused;
    char byte;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, wake) < 0 ||
        pthread_create(&thread, NULL, idle, &wake[0]) != 0 ||
        read(wake[1], &byte, 1) != 1 ||
        vd_confine_privileges() != ERROR_SUCCESS ||
        vd_confine_system_calls(VD_CONFINE_REFUSE) != ERROR_SUCCESS) {
        return 255;
    }
    int result = try_system_calls(file, sockets);
    (void)!write(wake[1], "w", 1);
    pthread_join(thread, &refused);
    return result == 0 && refused == NULL ? 254 : result;
}

static int
wait_status(pid_t child)
{
    int status = -1;
    CHECK_EQ(child, waitpid(child, &status, 0));
    return status;
}

static void
a_forbidden_call_is_refused(void)
{
    int sockets[2];
    const char *path = check_path(scratch, "confined");
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK_EQ(0, socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, sockets));
    pid_t child = fork();
    if (child == 0) {
        _exit(confined_child(file, sockets));
    }
    int status = wait_status(child);
    CHECK(WIFEXITED(status));
    CHECK_EQ(0, WEXITSTATUS(status)); /* else a line of try_system_calls */
    close(file);
    close(sockets[0]);
    close(sockets[1]);
}

static void
a_forbidden_call_kills_in_tests(void)
{
    pid_t child = fork();
    if (child == 0) {
        if (vd_confine_privileges() != ERROR_SUCCESS ||
            vd_confine_system_calls(VD_CONFINE_KILL) != ERROR_SUCCESS) {
            _exit(255);
        }
        open("/etc/passwd", O_RDONLY | O_CLOEXEC);
        _exit(0);
    }
    int status = wait_status(child);
    CHECK(WIFSIGNALED(status));
    CHECK_EQ(SIGSYS, WTERMSIG(status));
}

/* -- the protocol -- */

static int
perform(uint32_t opcode, const void *payload, size_t length)
{
    static uint8_t reply[4096];
    struct vd_gate gate;
    struct vd_fuse_file file = {.gate = &gate, .read_only = true};
    vd_gate_init(&gate, 4096);
    struct vd_fuse_request request = {payload, length, reply};
    return vd_fuse_perform(&file, opcode, &request);
}

static void
odd_requests_are_refused(void)
{
    struct fuse_init_in init = {.major = 7, .minor = 31};
    struct fuse_open_in open_in = {.flags = O_RDWR};
    struct fuse_read_in read_in = {.size = VD_FUSE_TRANSFER + 1};
    struct fuse_write_in write_in = {.size = 512};
    CHECK_EQ(sizeof(struct fuse_init_out),
             perform(FUSE_INIT, &init, sizeof(init)));
    CHECK_EQ(sizeof(struct fuse_init_out), perform(FUSE_INIT, &init, 16));
    CHECK_EQ(-EINVAL, perform(FUSE_INIT, &init, 15));
    init.minor = 30;
    CHECK_EQ(-EPROTO, perform(FUSE_INIT, &init, sizeof(init)));
    init = (struct fuse_init_in){.major = 8, .minor = 31};
    CHECK_EQ(-EPROTO, perform(FUSE_INIT, &init, sizeof(init)));
    CHECK_EQ(-ENOSYS, perform(FUSE_GETXATTR, NULL, 0));
    CHECK_EQ(-ENOSYS, perform(FUSE_INTERRUPT, NULL, 0));
    CHECK_EQ(-ENOSYS, perform(0, NULL, 0));
    CHECK_EQ(-ENOSYS, perform(UINT32_MAX, NULL, 0));
    CHECK_EQ(VD_FUSE_NO_ANSWER, perform(FUSE_FORGET, NULL, 0));
    CHECK_EQ(VD_FUSE_NO_ANSWER, perform(FUSE_BATCH_FORGET, NULL, 0));
    CHECK_EQ(0, perform(FUSE_DESTROY, NULL, 0));
    CHECK_EQ(-EROFS, perform(FUSE_OPEN, &open_in, sizeof(open_in)));
    CHECK_EQ(-EINVAL, perform(FUSE_READ, &read_in, sizeof(read_in)));
    CHECK_EQ(-EINVAL, perform(FUSE_READ, &read_in, sizeof(read_in) - 1));
    CHECK_EQ(-EINVAL, perform(FUSE_WRITE, &write_in, sizeof(write_in)));
}

static void
errors_have_their_numbers(void)
{
    CHECK_EQ(ENOSPC, vd_fuse_errno(ERROR_DISK_FULL));
    CHECK_EQ(EROFS, vd_fuse_errno(ERROR_WRITE_PROTECT));
    CHECK_EQ(EIO, vd_fuse_errno(ERROR_IO_DEVICE));
    CHECK_EQ(EIO, vd_fuse_errno(ERROR_FILE_CORRUPT));
    CHECK_EQ(EIO, vd_fuse_errno(ERROR_HANDLE_EOF));
    CHECK_EQ(EFBIG, vd_fuse_errno(ERROR_FILE_TOO_LARGE));
}

static void
descriptors_come_in_any_number(void)
{
    int pair[2], sent[VD_CHANNEL_FDS], came[VD_CHANNEL_FDS];
    size_t fds = count_fds(), count = 0;
    char mark;
    CHECK_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
    for (size_t i = 0; i < VD_CHANNEL_FDS; i++) {
        sent[i] = pair[0];
    }
    CHECK_OK(vd_channel_send(pair[0], "x", 1, sent, VD_CHANNEL_FDS));
    CHECK_OK(
        vd_channel_receive(pair[1], &mark, 1, came, VD_CHANNEL_FDS, &count));
    CHECK_EQ(VD_CHANNEL_FDS, count);
    for (size_t i = 0; i < count; i++) {
        CHECK_EQ(FD_CLOEXEC, fcntl(came[i], F_GETFD));
        close(came[i]);
    }
    CHECK_OK(vd_channel_send(pair[0], "x", 1, sent, 2));
    CHECK_EQ(ERROR_INVALID_DATA,
             vd_channel_receive(pair[1], &mark, 1, came, 1, &count));
    CHECK_OK(vd_channel_send(pair[0], "xy", 2, sent, 1));
    CHECK_EQ(ERROR_INVALID_DATA,
             vd_channel_receive(pair[1], &mark, 1, came, 1, &count));
    close(pair[0]);
    CHECK_EQ(ERROR_BROKEN_PIPE,
             vd_channel_receive(pair[1], &mark, 1, came, 1, &count));
    CHECK_EQ(ERROR_BROKEN_PIPE, vd_channel_send(pair[1], "x", 1, NULL, 0));
    close(pair[1]);
    CHECK_EQ(fds, count_fds());
}

int
main(int argc, char **argv)
{
    be_server_if_asked(argv);
    scratch = argc > 1 ? argv[1] : "/tmp";
    descriptors_come_in_any_number();
    odd_requests_are_refused();
    errors_have_their_numbers();
    a_forbidden_call_is_refused();
    a_forbidden_call_kills_in_tests();
    a_fixed_image_is_shown();
    a_window_is_all_there_is();
    read_only_is_read_only();
    parts_of_sectors_are_written();
    what_is_written_is_there();
    nothing_written_changes_nothing();
    many_threads_do_not_meet();
    a_window_outside_the_disk_is_refused();
    what_is_no_image_is_refused();
    a_program_that_is_no_server();
    a_request_that_is_none_is_refused();
    it_is_alone_and_powerless();
    without_standard_files_it_is_served();
    signals_do_not_end_it();
    a_killed_one_makes_errors();
    it_ends_with_its_last_user();
    memory_stays_flat();
    return check_result();
}
