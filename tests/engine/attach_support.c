/* For the tests of the attach layer.  See attach_support.h. */
#include "attach_support.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "vhd_bytes.h"

void
world_begin(const char *directory)
{
    if (geteuid() != 0) {
        check_skip("needs root");
    }
    if (access("/dev/loop-control", R_OK | W_OK) != 0) {
        check_skip("needs loop devices (/dev/loop-control)");
    }
    if (!check_own_mounts(directory)) {
        check_skip("needs CAP_SYS_ADMIN for a mount namespace");
    }
    if (mount("run", "/run", "tmpfs", 0, "mode=755") < 0) {
        check_broken("a /run of its own");
    }
}

uint8_t
pattern_byte(unsigned seed, size_t i)
{
    return (uint8_t)(i / 512 * 7 + i * 3 + seed * 41);
}

void
make_vhd(const char *path, size_t size, unsigned seed)
{
    uint8_t *content = malloc(size + FOOTER);
    for (size_t i = 0; i < size; i++) {
        content[i] = pattern_byte(seed, i);
    }
    put_simple_footer(content + size, size, 2);
    check_write_file(path, content, size + FOOTER);
    free(content);
}

void
make_iso(const char *path, size_t sectors)
{
    size_t size = sectors * 2048;
    uint8_t *content = malloc(size);
    for (size_t i = 0; i < size; i++) {
        content[i] = pattern_byte(1, i);
    }
    memset(content + 16 * 2048, 0, 2 * 2048);
    memcpy(content + 16 * 2048, "\1CD001\1", 7);
    content[16 * 2048 + 80] = (uint8_t)sectors; /* volume space size, LE */
    content[16 * 2048 + 81] = (uint8_t)(sectors >> 8);
    content[16 * 2048 + 86] = (uint8_t)(sectors >> 8); /* and BE */
    content[16 * 2048 + 87] = (uint8_t)sectors;
    content[16 * 2048 + 129] = 8; /* logical blocks of 2,048 bytes */
    content[16 * 2048 + 130] = 8;
    memcpy(content + 17 * 2048, "\377CD001\1", 7);
    check_write_file(path, content, size);
    free(content);
}

struct vd_disk *
open_disk(const char *path, bool writable)
{
    struct vd_disk_options options = {.writable = writable};
    struct vd_disk *disk = NULL;
    vd_error error = vd_disk_open(path, &options, &disk);
    if (error != ERROR_SUCCESS) {
        fprintf(stderr, "error %u\n", error);
        check_broken(path);
    }
    return disk;
}

struct vd_attach_request
plain_request(const struct vd_disk *disk)
{
    return (struct vd_attach_request){
        .local = true,
        .read_only = !vd_disk_writable(disk),
        .partition_nodes = true,
        .window_length = vd_disk_size_bytes(disk),
    };
}

struct vd_attachment *
attach_or_stop(struct vd_disk *disk, const struct vd_attach_request *request)
{
    struct vd_attachment *attachment = NULL;
    vd_error error = vd_attach(disk, request, &attachment);
    if (error != ERROR_SUCCESS) {
        fprintf(stderr, "vd_attach: error %u\n", error);
        check_broken(vd_disk_path(disk));
    }
    return attachment;
}

bool
shows_pattern(const char *path, uint64_t offset, size_t length, unsigned seed,
              size_t start)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    uint8_t *content = malloc(length);
    bool same = fd >= 0 &&
                pread(fd, content, length, (off_t)offset) == (ssize_t)length;
    for (size_t i = 0; same && i < length; i++) {
        same = content[i] == pattern_byte(seed, start + i);
    }
    free(content);
    if (fd >= 0) {
        close(fd);
    }
    return same;
}

const char *
first_line(const char *path)
{
    static char line[4096];
    FILE *file = fopen(path, "re");
    line[0] = '\0';
    if (file != NULL) {
        if (fgets(line, sizeof(line), file) == NULL) {
            line[0] = '\0';
        }
        fclose(file);
    }
    line[strcspn(line, "\n")] = '\0';
    return line;
}

size_t
count_devices(const char *directory, char *name)
{
    size_t count = 0;
    DIR *blocks = opendir("/sys/block");
    const struct dirent *entry;
    while (blocks != NULL && (entry = readdir(blocks)) != NULL) {
        char path[512];
        snprintf(path, sizeof(path), "/sys/block/%s/loop/backing_file",
                 entry->d_name);
        if (strncmp(first_line(path), directory, strlen(directory)) == 0) {
            count++;
            if (name != NULL) {
                snprintf(name, VD_LOOP_NAME_SIZE, "%.15s", entry->d_name);
            }
        }
    }
    if (blocks != NULL) {
        closedir(blocks);
    }
    return count;
}

size_t
count_entries(const char *directory)
{
    size_t count = 0;
    DIR *entries = opendir(directory);
    const struct dirent *entry;
    while (entries != NULL && (entry = readdir(entries)) != NULL) {
        count += strcmp(entry->d_name, ".") != 0 &&
                 strcmp(entry->d_name, "..") != 0;
    }
    if (entries != NULL) {
        closedir(entries);
    }
    return count;
}

/* Each belongs to a record. */
static size_t
count_sockets(const char *directory)
{
    size_t count = 0;
    DIR *entries = opendir(directory);
    const struct dirent *entry;
    while (entries != NULL && (entry = readdir(entries)) != NULL) {
        count += entry->d_type == DT_SOCK;
    }
    if (entries != NULL) {
        closedir(entries);
    }
    return count;
}

size_t
count_records(void)
{
    size_t entries = count_entries(RECORDS);
    entries -= count_sockets(RECORDS);
    return access(RECORDS "/lock", F_OK) == 0 ? entries - 1 : entries;
}

static bool
has_threads(void *expected)
{
    const size_t *count = expected;
    return count_entries("/proc/self/task") == *count;
}

bool
threads_become(size_t count)
{
    return check_eventually(has_threads, &count);
}

size_t
count_fds(void)
{
    check_let_watcher_end();
    return count_entries("/proc/self/fd"); /* and the one that reads it */
}

const char *
base_name(const char *device)
{
    return strrchr(device, '/') + 1;
}

pid_t
start_child(child_function *function, void *context)
{
    fflush(NULL);
    pid_t child = fork();
    if (child < 0) {
        check_broken("fork");
    }
    if (child == 0) {
        int status = function(context);
        fflush(NULL);
        _exit(status);
    }
    return child;
}

int
wait_child(pid_t child)
{
    int status;
    if (waitpid(child, &status, 0) < 0) {
        check_broken("waitpid");
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

struct signal_pipe
pipe_new(void)
{
    struct signal_pipe made;
    if (pipe2(made.fds, O_CLOEXEC) < 0) {
        check_broken("pipe2");
    }
    return made;
}

void
pipe_send(const struct signal_pipe *pipe, char value)
{
    if (write(pipe->fds[1], &value, 1) != 1) {
        check_broken("pipe write");
    }
}

char
pipe_receive(const struct signal_pipe *pipe)
{
    char value;
    if (read(pipe->fds[0], &value, 1) != 1) {
        check_broken("pipe read");
    }
    return value;
}

void
pipe_close(struct signal_pipe *pipe)
{
    close(pipe->fds[0]);
    close(pipe->fds[1]);
}
