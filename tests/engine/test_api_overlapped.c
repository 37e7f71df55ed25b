/*
 * Asynchronous AttachVirtualDisk: OVERLAPPED, GetOverlappedResult,
 * GetVirtualDiskOperationProgress and CancelIoEx, on real loop devices.
 *
 * An operation is kept pending by holding the lock that its work takes
 * first (virtual_disk.h), so what happens meanwhile is not left to chance.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/loop.h>

#include <virtdisk.h>

#include "api/handles.h"
#include "api/operation.h"
#include "api/overlapped.h"
#include "api/virtual_disk.h"
#include "api_support.h"
#include "attach/registry.h"
#include "check.h"
#include "disk/image_lock.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define NO_LETTER ATTACH_VIRTUAL_DISK_FLAG_NO_DRIVE_LETTER
#define THREADS 8

static const char *directory;
static const char *vhd;

/* A handle, an OVERLAPPED with a manual-reset event, and the object behind
 * the handle. */
struct call {
    HANDLE handle;
    OVERLAPPED overlapped;
    struct vd_virtual_disk *inside;
};

static void
begin_call(struct call *call)
{
    memset(call, 0, sizeof(*call));
    call->handle = open_all(vhd);
    call->overlapped.hEvent = CreateEventW(NULL, TRUE, FALSE, NULL);
    CHECK(call->overlapped.hEvent != NULL);
    CHECK_OK(vd_virtual_disk_acquire(call->handle, &call->inside));
}

static void
end_call(struct call *call)
{
    vd_virtual_disk_release(call->inside);
    close_handle(call->handle);
    close_handle(call->overlapped.hEvent);
}

static DWORD
attach_async(struct call *call, unsigned flags)
{
    return AttachVirtualDisk(call->handle, NULL, flags, 0, NULL,
                             &call->overlapped);
}

/* Keeps the work from going on. */
static void
hold(struct call *call)
{
    pthread_mutex_lock(&call->inside->lock);
}

static void
let_go(struct call *call)
{
    pthread_mutex_unlock(&call->inside->lock);
}

static void
check_progress(struct call *call, DWORD status, uint64_t current)
{
    VIRTUAL_DISK_PROGRESS progress;
    CHECK_OK(GetVirtualDiskOperationProgress(call->handle, &call->overlapped,
                                             &progress));
    CHECK_EQ(status, progress.OperationStatus);
    CHECK_EQ(current, progress.CurrentValue);
    CHECK_EQ(1, progress.CompletionValue);
}

/* Waits for the operation and checks every way of asking how it ended. */
static void
check_ends(struct call *call, DWORD code, uint32_t status)
{
    DWORD bytes = 99;
    CHECK_EQ(WAIT_OBJECT_0,
             WaitForSingleObject(call->overlapped.hEvent, INFINITE));
    CHECK(HasOverlappedIoCompleted(&call->overlapped));
    CHECK_EQ(status, call->overlapped.Internal);
    SetLastError(0);
    CHECK(GetOverlappedResult(call->handle, &call->overlapped, &bytes,
                              FALSE) == (code == 0));
    CHECK_EQ(code, GetLastError());
    CHECK_EQ(0, bytes);
    check_progress(call, code, code == 0);
    CHECK(is_loaded(call->handle) == (code == 0));
    SetLastError(0);
    CHECK(!CancelIoEx(call->handle, &call->overlapped));
    CHECK_EQ(ERROR_NOT_FOUND, GetLastError());
}

/* -- one operation -- */

static void
test_success(void)
{
    struct call call;
    begin_call(&call);
    SetEvent(call.overlapped.hEvent); /* is reset by the call */
    hold(&call);
    CHECK_EQ(ERROR_IO_PENDING, attach_async(&call, NO_LETTER));
    CHECK_EQ(STATUS_PENDING, call.overlapped.Internal);
    CHECK(!HasOverlappedIoCompleted(&call.overlapped));
    CHECK_EQ(WAIT_TIMEOUT, WaitForSingleObject(call.overlapped.hEvent, 0));
    check_progress(&call, ERROR_IO_PENDING, 0);
    DWORD bytes;
    CHECK(!GetOverlappedResult(call.handle, &call.overlapped, &bytes, FALSE));
    CHECK_EQ(ERROR_IO_INCOMPLETE, GetLastError());
    let_go(&call);
    check_ends(&call, ERROR_SUCCESS, 0);
    CHECK(strncmp(device_of(call.handle), "/dev/loop", 9) == 0);
    CHECK_OK(detach(call.handle));
    end_call(&call);
}

static void
test_wait_without_event(void)
{
    HANDLE handle = open_all(vhd);
    OVERLAPPED overlapped = {.Internal = 0};
    DWORD bytes = 99;
    CHECK_EQ(ERROR_IO_PENDING,
             AttachVirtualDisk(handle, NULL, NO_LETTER, 0, NULL, &overlapped));
    CHECK(GetOverlappedResult(handle, &overlapped, &bytes, TRUE));
    CHECK_EQ(0, bytes);
    CHECK(is_loaded(handle));
    close_handle(handle);
}

/* An auto-reset event is left signalled by GetOverlappedResult. */
static void
test_auto_reset_event(void)
{
    HANDLE handle = open_all(vhd);
    OVERLAPPED overlapped = {.hEvent = CreateEventW(NULL, FALSE, FALSE, NULL)};
    DWORD bytes;
    CHECK_EQ(ERROR_IO_PENDING,
             AttachVirtualDisk(handle, NULL, NO_LETTER, 0, NULL, &overlapped));
    CHECK(GetOverlappedResult(handle, &overlapped, &bytes, TRUE));
    CHECK_EQ(WAIT_OBJECT_0, WaitForSingleObject(overlapped.hEvent, 0));
    CHECK_EQ(WAIT_TIMEOUT, WaitForSingleObject(overlapped.hEvent, 0));
    close_handle(overlapped.hEvent);
    close_handle(handle);
}

static void
test_failure(void)
{
    struct call call;
    int fd = open(vhd, O_RDWR | O_CLOEXEC);
    CHECK_OK(vd_image_lock(fd, VD_LOCK_WRITE));
    begin_call(&call);
    CHECK_EQ(ERROR_IO_PENDING, attach_async(&call, NO_LETTER));
    check_ends(&call, ERROR_SHARING_VIOLATION, 0xC0070020);
    vd_image_unlock(fd);
    close(fd);
    CHECK_EQ(ERROR_IO_PENDING, attach_async(&call, NO_LETTER));
    check_ends(&call, ERROR_SUCCESS, 0);
    CHECK_EQ(ERROR_IO_PENDING, attach_async(&call, NO_LETTER));
    CHECK_EQ(WAIT_OBJECT_0,
             WaitForSingleObject(call.overlapped.hEvent, INFINITE));
    check_progress(&call, ERROR_SHARING_VIOLATION, 0); /* attached already */
    end_call(&call);
}

/* The number in Internal for a code, and back. */
static void
test_status_word(void)
{
    static const struct {
        DWORD code;
        uint32_t status;
    } cases[] = {
        {0, 0},
        {997, 0x103},
        {1, 0xC0070001},
        {32, 0xC0070020},
        {995, 0xC00703E3},
        {0xFFFF, 0xC007FFFF},
        {0xC03A0014, 0xC03A0014},
        {0x803A0001, 0x803A0001},
        {0xC05CFF0A, 0xC05CFF0A},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        OVERLAPPED overlapped = {.Internal = 77, .InternalHigh = 77};
        vd_overlapped_set(&overlapped, cases[i].code);
        CHECK_EQ(cases[i].status, overlapped.Internal);
        CHECK_EQ(0, overlapped.InternalHigh);
        CHECK_EQ(cases[i].code, vd_overlapped_get(&overlapped));
    }
}

/* -- what is refused at once -- */

static void
check_untouched(const struct call *call)
{
    CHECK_EQ(0, call->overlapped.Internal);
    CHECK_EQ(WAIT_OBJECT_0, WaitForSingleObject(call->overlapped.hEvent, 0));
}

static void
test_bad_arguments(void)
{
    struct call call;
    uint8_t zeros[64] = {0};
    begin_call(&call);
    SetEvent(call.overlapped.hEvent);
    CHECK_EQ(87, attach_async(&call, 0x80000000));
    check_untouched(&call);
    CHECK_EQ(50, attach_async(&call, ATTACH_VIRTUAL_DISK_FLAG_AT_BOOT));
    check_untouched(&call);
    CHECK_EQ(
        ERROR_INVALID_SECURITY_DESCR,
        AttachVirtualDisk(call.handle, zeros, 0, 0, NULL, &call.overlapped));
    check_untouched(&call);
    CHECK_EQ(6, AttachVirtualDisk(NULL, NULL, 0, 0, NULL, &call.overlapped));
    check_untouched(&call);
    end_call(&call);
}

static void
test_bad_pointers(void)
{
    struct call call;
    DWORD bytes;
    begin_call(&call);
    HANDLE handle = call.handle;
    OVERLAPPED *overlapped = &call.overlapped;
    CHECK(!GetOverlappedResult(handle, NULL, &bytes, FALSE));
    CHECK_EQ(87, GetLastError());
    SetLastError(0);
    CHECK(!GetOverlappedResult(handle, overlapped, NULL, FALSE));
    CHECK_EQ(87, GetLastError());
    SetLastError(0);
    overlapped->Internal = STATUS_PENDING; /* but nothing is */
    CHECK(!GetOverlappedResult(handle, overlapped, &bytes, TRUE));
    CHECK_EQ(87, GetLastError());
    end_call(&call);
}

/* One at a time on a handle. */
static void
test_second_operation(void)
{
    struct call call;
    OVERLAPPED other = {.Internal = 0};
    VIRTUAL_DISK_PROGRESS progress;
    begin_call(&call);
    hold(&call);
    CHECK_EQ(ERROR_IO_PENDING, attach_async(&call, NO_LETTER));
    CHECK_EQ(ERROR_VHD_INVALID_STATE,
             AttachVirtualDisk(call.handle, NULL, 0, 0, NULL, &other));
    CHECK_EQ(0, other.Internal);
    CHECK_EQ(ERROR_VHD_INVALID_STATE, attach_async(&call, NO_LETTER));
    CHECK_EQ(STATUS_PENDING, call.overlapped.Internal);
    CHECK_EQ(ERROR_VHD_INVALID_STATE, attach(call.handle, NO_LETTER));
    CHECK_EQ(ERROR_VHD_INVALID_STATE, detach(call.handle));
    CHECK_EQ(87,
             GetVirtualDiskOperationProgress(call.handle, &other, &progress));
    let_go(&call);
    check_ends(&call, ERROR_SUCCESS, 0);
    CHECK_OK(detach(call.handle));
    end_call(&call);
}

static void
test_no_thread(void)
{
    struct call call;
    pthread_attr_t usual;
    pthread_attr_t huge;
    begin_call(&call);
    SetEvent(call.overlapped.hEvent);
    pthread_getattr_default_np(&usual);
    pthread_attr_init(&huge);
    pthread_attr_setstacksize(&huge, (size_t)1 << 46);
    CHECK_EQ(0, pthread_setattr_default_np(&huge));
    DWORD error = attach_async(&call, NO_LETTER);
    CHECK_EQ(0, pthread_setattr_default_np(&usual));
    pthread_attr_destroy(&huge);
    pthread_attr_destroy(&usual);
    CHECK_EQ(ERROR_NO_SYSTEM_RESOURCES, error);
    CHECK(HasOverlappedIoCompleted(&call.overlapped));
    check_progress(&call, ERROR_NO_SYSTEM_RESOURCES, 0);
    CHECK(!is_loaded(call.handle));
    CHECK_OK(attach(call.handle, NO_LETTER)); /* nothing is pending */
    end_call(&call);
}

static void
test_out_of_memory(void)
{
    struct call call;
    size_t handles = vd_handle_count();
    begin_call(&call);
    for (int successes = 0; successes < 2; successes++) {
        check_fail_allocation(successes);
        DWORD error = attach_async(&call, NO_LETTER);
        CHECK(check_fail_allocation(-1));
        CHECK_EQ(ERROR_NOT_ENOUGH_MEMORY, error);
        CHECK_EQ(0, call.overlapped.Internal);
    }
    end_call(&call);
    CHECK(handles_become(handles));
}

/* -- cancelling -- */

static void
test_cancel_in_time(void)
{
    struct call call;
    OVERLAPPED other = {.Internal = 0};
    for (int all = 0; all < 2; all++) {
        begin_call(&call);
        SetLastError(0);
        CHECK(!CancelIoEx(call.handle, NULL));
        CHECK_EQ(ERROR_NOT_FOUND, GetLastError());
        hold(&call);
        CHECK_EQ(ERROR_IO_PENDING, attach_async(&call, NO_LETTER));
        SetLastError(0);
        CHECK(!CancelIoEx(call.handle, &other));
        CHECK_EQ(ERROR_NOT_FOUND, GetLastError());
        CHECK(CancelIoEx(call.handle, all ? NULL : &call.overlapped));
        CHECK(CancelIoEx(call.handle, &call.overlapped)); /* again */
        check_progress(&call, ERROR_IO_PENDING, 0);
        let_go(&call);
        check_ends(&call, ERROR_OPERATION_ABORTED, 0xC00703E3);
        CHECK_OK(attach(call.handle, NO_LETTER));
        end_call(&call);
    }
}

/* Waits until the work has begun: it holds the lock. */
static void
await_work(struct call *call)
{
    while (pthread_mutex_trylock(&call->inside->lock) == 0) {
        pthread_mutex_unlock(&call->inside->lock);
        sched_yield();
    }
}

/* The registry's lock stops the work in the midst of attaching. */
static void
stop_attaching(int *dir, int *lock)
{
    char *path = NULL;
    CHECK_OK(vd_registry_path(&path));
    CHECK_OK(vd_registry_open(path, true, dir));
    CHECK_OK(vd_registry_lock(*dir, lock));
    free(path);
}

/* Cancelled when the disk is already being attached: it is undone. */
static void
test_cancel_late(void)
{
    struct call call;
    int dir = -1;
    int lock = -1;
    begin_call(&call);
    stop_attaching(&dir, &lock);
    CHECK_EQ(ERROR_IO_PENDING, attach_async(&call, NO_LETTER));
    await_work(&call);
    usleep(20000); /* so that the work is past its first look; either way
                      the outcome is the same */
    CHECK(CancelIoEx(call.handle, &call.overlapped));
    close(lock);
    close(dir);
    check_ends(&call, ERROR_OPERATION_ABORTED, 0xC00703E3);
    CHECK_STR("", device_of(call.handle));
    CHECK_OK(attach(call.handle, NO_LETTER));
    end_call(&call);
}

/* Opens the device that is the next to be used, unless another program takes
 * it first. */
static int
open_next_device(void)
{
    char path[64];
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    snprintf(path, sizeof(path), "/dev/loop%d",
             ioctl(control, LOOP_CTL_GET_FREE));
    close(control);
    return open(path, O_RDONLY | O_CLOEXEC);
}

/* One attempt to be in the way of undoing; whether it was. */
static bool
obstruct_undoing(struct call *call)
{
    int dir = -1;
    int lock = -1;
    stop_attaching(&dir, &lock);
    CHECK_EQ(ERROR_IO_PENDING, attach_async(call, NO_LETTER));
    await_work(call);
    usleep(20000); /* as above */
    CHECK(CancelIoEx(call->handle, NULL));
    int fd = open_next_device();
    close(lock);
    close(dir);
    DWORD bytes;
    bool kept = GetOverlappedResult(call->handle, &call->overlapped, &bytes,
                                    TRUE) != FALSE;
    CHECK(kept || GetLastError() == ERROR_OPERATION_ABORTED);
    CHECK(is_loaded(call->handle) == kept);
    close(fd);
    CHECK_EQ(kept ? 0 : ERROR_NOT_READY, detach(call->handle));
    return kept;
}

/* Somebody uses the device when it is to be undone: it stays, and that is
 * what the call says. */
static void
test_cancel_too_late(void)
{
    struct call call;
    bool kept = false;
    begin_call(&call);
    for (int i = 0; i < 50 && !kept; i++) {
        kept = obstruct_undoing(&call);
    }
    CHECK(kept);
    end_call(&call);
}

/* At any moment: aborted and not attached, or attached. */
static void
test_cancel_race(void)
{
    struct call call;
    begin_call(&call);
    for (unsigned i = 0; i < 60; i++) {
        DWORD bytes;
        CHECK_EQ(ERROR_IO_PENDING, attach_async(&call, NO_LETTER));
        usleep(i * 100);
        BOOL asked = CancelIoEx(call.handle, NULL);
        BOOL attached =
            GetOverlappedResult(call.handle, &call.overlapped, &bytes, TRUE);
        CHECK(asked || attached);
        CHECK(attached || GetLastError() == ERROR_OPERATION_ABORTED);
        CHECK(is_loaded(call.handle) == (attached != FALSE));
        CHECK_EQ(attached ? 0 : ERROR_NOT_READY, detach(call.handle));
    }
    end_call(&call);
}

/* -- handles closed, threads, fork -- */

/* The operation goes on; when it is over, so is what it did. */
static void
test_handle_closed_while_pending(void)
{
    struct call call;
    DWORD bytes;
    begin_call(&call);
    HANDLE other = open_all(vhd);
    hold(&call);
    CHECK_EQ(ERROR_IO_PENDING, attach_async(&call, NO_LETTER));
    close_handle(call.handle);
    SetLastError(0);
    CHECK(!GetOverlappedResult(call.handle, &call.overlapped, &bytes, TRUE));
    CHECK_EQ(ERROR_INVALID_HANDLE, GetLastError());
    CHECK_EQ(STATUS_PENDING, call.overlapped.Internal);
    let_go(&call);
    vd_virtual_disk_release(call.inside);
    CHECK_EQ(WAIT_OBJECT_0,
             WaitForSingleObject(call.overlapped.hEvent, INFINITE));
    CHECK_EQ(0, call.overlapped.Internal);
    CHECK(!is_loaded(other));
    close_handle(other);
    close_handle(call.overlapped.hEvent);
}

static void
test_event_closed_while_pending(void)
{
    struct call call;
    DWORD bytes;
    begin_call(&call);
    hold(&call);
    CHECK_EQ(ERROR_IO_PENDING, attach_async(&call, NO_LETTER));
    close_handle(call.overlapped.hEvent);
    let_go(&call);
    CHECK(GetOverlappedResult(call.handle, &call.overlapped, &bytes, TRUE));
    call.overlapped.hEvent = CreateEventW(NULL, TRUE, FALSE, NULL);
    end_call(&call);
}

/* A close after the event is the last one: the device is gone then. */
static void
test_close_after_completion(void)
{
    HANDLE other = open_all(vhd);
    for (int i = 0; i < 50; i++) {
        HANDLE handle = open_all(vhd);
        OVERLAPPED overlapped = {.hEvent =
                                     CreateEventW(NULL, TRUE, FALSE, NULL)};
        CHECK_EQ(ERROR_IO_PENDING, AttachVirtualDisk(handle, NULL, NO_LETTER,
                                                     0, NULL, &overlapped));
        CHECK_EQ(WAIT_OBJECT_0,
                 WaitForSingleObject(overlapped.hEvent, INFINITE));
        memset(&overlapped.Internal, 0xEE, sizeof(overlapped.Internal));
        close_handle(handle);
        CHECK(!is_loaded(other));
        close_handle(overlapped.hEvent);
    }
    close_handle(other);
}

/* Whether all signals but those that cannot be are blocked in a thread. */
static bool
blocks_signals(const char *thread)
{
    char path[64];
    char line[256];
    bool told = false;
    unsigned long long blocked = 0;
    snprintf(path, sizeof(path), "/proc/self/task/%.20s/status", thread);
    FILE *status = fopen(path, "re");
    while (status != NULL && fgets(line, sizeof(line), status) != NULL) {
        told |= sscanf(line, "SigBlk: %llx", &blocked) == 1;
    }
    if (status != NULL) {
        fclose(status);
    }
    if (!told) {
        return true; /* it has just ended */
    }
    unsigned long long wanted = 1ULL << (SIGINT - 1) | 1ULL << (SIGTERM - 1) |
                                1ULL << (SIGCHLD - 1) | 1ULL << (SIGUSR1 - 1);
    return (blocked & wanted) == wanted;
}

static void
test_signals_are_for_the_caller(void)
{
    struct call call;
    unsigned others = 0;
    sigset_t mask;
    begin_call(&call);
    hold(&call);
    CHECK_EQ(ERROR_IO_PENDING, attach_async(&call, NO_LETTER));
    DIR *tasks = opendir("/proc/self/task");
    for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
        if (task->d_name[0] != '.' && atoi(task->d_name) != getpid()) {
            CHECK(blocks_signals(task->d_name));
            others++;
        }
    }
    closedir(tasks);
    CHECK(others >= 1);
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    CHECK(!sigismember(&mask, SIGUSR1)); /* ours is as it was */
    let_go(&call);
    check_ends(&call, ERROR_SUCCESS, 0);
    end_call(&call);
}

/* A child of a process with a pending operation: no handles, no hang. */
static void
test_fork_while_pending(void)
{
    struct call call;
    begin_call(&call);
    hold(&call);
    CHECK_EQ(ERROR_IO_PENDING, attach_async(&call, NO_LETTER));
    pid_t child = fork();
    if (child == 0) {
        DWORD bytes;
        BOOL done =
            GetOverlappedResult(call.handle, &call.overlapped, &bytes, TRUE);
        bool invalid = !done && GetLastError() == ERROR_INVALID_HANDLE &&
                       detach(call.handle) == ERROR_INVALID_HANDLE;
        HANDLE handle;
        _exit(invalid && open_2(vhd, true, false, &handle) == 0 &&
                      CloseHandle(handle)
                  ? 0
                  : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK_EQ(0, status);
    let_go(&call);
    check_ends(&call, ERROR_SUCCESS, 0);
    end_call(&call);
}

/* An image of its own for each thread, the same OVERLAPPED again and again. */
static void *
attach_again_and_again(void *path)
{
    OVERLAPPED overlapped = {.hEvent = CreateEventW(NULL, TRUE, FALSE, NULL)};
    HANDLE handle = open_all(path);
    for (int i = 0; i < 10; i++) {
        DWORD bytes;
        CHECK_EQ(ERROR_IO_PENDING, AttachVirtualDisk(handle, NULL, NO_LETTER,
                                                     0, NULL, &overlapped));
        CHECK_EQ(WAIT_OBJECT_0,
                 WaitForSingleObject(overlapped.hEvent, INFINITE));
        CHECK(GetOverlappedResult(handle, &overlapped, &bytes, FALSE));
        CHECK_OK(detach(handle));
    }
    close_handle(handle);
    close_handle(overlapped.hEvent);
    return NULL;
}

static void
test_many_at_once(void)
{
    pthread_t threads[THREADS];
    static char paths[THREADS][4096];
    for (size_t i = 0; i < THREADS; i++) {
        snprintf(paths[i], sizeof(paths[i]), "%s/%zu.vhd", directory, i);
        make_vhd(paths[i], NULL, 0);
        pthread_create(&threads[i], NULL, attach_again_and_again, paths[i]);
    }
    for (size_t i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
}

static atomic_uint waited;

static void *
wait_for_result(void *argument)
{
    struct call *call = argument;
    DWORD bytes;
    CHECK(GetOverlappedResult(call->handle, &call->overlapped, &bytes, TRUE));
    atomic_fetch_add(&waited, 1);
    return NULL;
}

static void
test_many_waiters(void)
{
    struct call call;
    pthread_t threads[THREADS];
    begin_call(&call);
    hold(&call);
    CHECK_EQ(ERROR_IO_PENDING, attach_async(&call, NO_LETTER));
    for (size_t i = 0; i < THREADS; i++) {
        pthread_create(&threads[i], NULL, wait_for_result, &call);
    }
    CHECK_EQ(0, atomic_load(&waited));
    let_go(&call);
    for (size_t i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK_EQ(THREADS, atomic_load(&waited));
    end_call(&call);
}

static void
run_tests(void)
{
    test_success();
    test_wait_without_event();
    test_auto_reset_event();
    test_failure();
    test_status_word();
    test_bad_arguments();
    test_bad_pointers();
    test_second_operation();
    test_no_thread();
    test_out_of_memory();
    test_cancel_in_time();
    test_cancel_late();
    test_cancel_too_late();
    test_cancel_race();
    test_handle_closed_while_pending();
    test_event_closed_while_pending();
    test_close_after_completion();
    test_signals_are_for_the_caller();
    test_fork_while_pending();
    test_many_at_once();
    test_many_waiters();
}

int
main(int argc, char **argv)
{
    (void)argc;
    need_loop();
    char path[4096];
    unsigned descriptors = count_descriptors();
    directory = argv[1];
    snprintf(path, sizeof(path), "%s/overlapped.vhd", directory);
    vhd = path;
    make_vhd(vhd, NULL, 0);
    run_tests();
    CHECK(handles_become(0));
    CHECK(descriptors_become(descriptors));
    return check_result();
}
