/*
 * Checks for the C tests of the engine.  See check.h.
 *
 * The allocators are wrapped by the linker (--wrap), so that the sanitizer's
 * own stay underneath.
 */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define EXIT_SKIPPED 77

static unsigned long checks_run;
static unsigned long checks_failed;

static bool
note(bool passed)
{
    __atomic_fetch_add(&checks_run, 1, __ATOMIC_RELAXED);
    if (!passed) {
        __atomic_fetch_add(&checks_failed, 1, __ATOMIC_RELAXED);
    }
    return passed;
}

bool
check_true(bool condition, const char *what, const char *file, int line)
{
    if (!condition) {
        fprintf(stderr, "%s:%d: not true: %s\n", file, line, what);
    }
    return note(condition);
}

bool
check_equal(uint64_t expected, uint64_t actual, const char *what,
            const char *file, int line)
{
    if (expected != actual) {
        fprintf(stderr, "%s:%d: %s is %llu (0x%llX), expected %llu (0x%llX)\n",
                file, line, what, (unsigned long long)actual,
                (unsigned long long)actual, (unsigned long long)expected,
                (unsigned long long)expected);
    }
    return note(expected == actual);
}

bool
check_string(const char *expected, const char *actual, const char *what,
             const char *file, int line)
{
    bool same = actual != NULL && strcmp(expected, actual) == 0;
    if (!same) {
        fprintf(stderr, "%s:%d: %s is \"%s\", expected \"%s\"\n", file, line,
                what, actual == NULL ? "(NULL)" : actual, expected);
    }
    return note(same);
}

bool
check_bytes(const void *expected, const void *actual, size_t length,
            const char *what, const char *file, int line)
{
    const uint8_t *a = expected;
    const uint8_t *b = actual;
    for (size_t i = 0; i < length; i++) {
        if (a[i] != b[i]) {
            fprintf(stderr, "%s:%d: %s[%zu] is 0x%02X, expected 0x%02X\n",
                    file, line, what, i, b[i], a[i]);
            return note(false);
        }
    }
    return note(true);
}

int
check_result(void)
{
    printf("%lu checks, %lu failed\n", checks_run, checks_failed);
    return checks_run > 0 && checks_failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

_Noreturn void
check_skip(const char *reason)
{
    printf("%s\n", reason);
    exit(EXIT_SKIPPED);
}

_Noreturn void
check_broken(const char *what)
{
    perror(what);
    exit(EXIT_FAILURE);
}

const char *
check_path(const char *directory, const char *name)
{
    static char paths[4][4096];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof(paths[0]), "%s/%s", directory, name);
    return path;
}

void
check_write_file(const char *path, const void *content, size_t length)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, content, length) != (ssize_t)length ||
        close(fd) < 0) {
        check_broken(path);
    }
}

bool
check_eventually(bool (*condition)(void *context), void *context)
{
    const struct timespec pause = {0, 5000000};
    struct timespec begin, now;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    while (!condition(context)) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec > begin.tv_sec + 120) {
            return false;
        }
        nanosleep(&pause, NULL);
    }
    return true;
}

static bool
holds(const char *mount_point, const char *directory)
{
    size_t length = strlen(mount_point);
    return strcmp(mount_point, "/") == 0 ||
           (strncmp(mount_point, directory, length) == 0 &&
            (directory[length] == '/' || directory[length] == '\0'));
}

/* Whether there was one: the table changes with it. */
static bool
detach_one_on_loop(const char *directory)
{
    bool detached = false;
    const struct mntent *entry;
    FILE *table = setmntent("/proc/self/mounts", "re");
    while (table != NULL && !detached && (entry = getmntent(table)) != NULL) {
        detached = strncmp(entry->mnt_fsname, "/dev/loop", 9) == 0 &&
                   !holds(entry->mnt_dir, directory) &&
                   umount2(entry->mnt_dir, MNT_DETACH) == 0;
    }
    if (table != NULL) {
        endmntent(table);
    }
    return detached;
}

bool
check_own_mounts(const char *directory)
{
    if (unshare(CLONE_NEWNS) < 0 ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
        return false;
    }
    while (detach_one_on_loop(directory)) {
    }
    return true;
}

void
check_let_watcher_end(void)
{
    pid_t child = fork();
    if (child < 0) {
        check_broken("fork");
    }
    if (child == 0) {
        _exit(0);
    }
    waitpid(child, NULL, 0);
}

/* How many allocations go well before one fails; negative: all do. */
static _Thread_local int allocations_left = -1;
static _Thread_local bool allocation_failed;

bool
check_fail_allocation(int successes)
{
    bool failed = allocation_failed;
    allocation_failed = false;
    allocations_left = successes;
    return failed;
}

static bool
fails_now(void)
{
    if (allocations_left < 0 || allocations_left-- > 0) {
        return false;
    }
    allocation_failed = true;
    errno = ENOMEM;
    return true;
}

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *pointer, size_t size);
char *__real_strdup(const char *text);
char *__real_strndup(const char *text, size_t length);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *pointer, size_t size);
char *__wrap_strdup(const char *text);
char *__wrap_strndup(const char *text, size_t length);

void *
__wrap_malloc(size_t size)
{
    return fails_now() ? NULL : __real_malloc(size);
}

void *
__wrap_calloc(size_t count, size_t size)
{
    return fails_now() ? NULL : __real_calloc(count, size);
}

void *
__wrap_realloc(void *pointer, size_t size)
{
    return fails_now() ? NULL : __real_realloc(pointer, size);
}

char *
__wrap_strdup(const char *text)
{
    return fails_now() ? NULL : __real_strdup(text);
}

char *
__wrap_strndup(const char *text, size_t length)
{
    return fails_now() ? NULL : __real_strndup(text, length);
}
