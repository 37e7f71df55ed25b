/*
 * Handles and events: CloseHandle, CreateEventW, SetEvent, ResetEvent,
 * WaitForSingleObject, GetEventDescriptor, and the table behind them.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <virtdisk.h>

#include "api/event.h"
#include "api/handles.h"
#include "api_support.h"
#include "check.h"

#define THREADS 8

static HANDLE
new_event(BOOL manual_reset, BOOL signalled)
{
    HANDLE event = CreateEventW(NULL, manual_reset, signalled, NULL);
    CHECK(event != NULL);
    return event;
}

static void
test_manual_reset(void)
{
    HANDLE event = new_event(TRUE, FALSE);
    CHECK_EQ(WAIT_TIMEOUT, WaitForSingleObject(event, 0));
    CHECK(SetEvent(event));
    CHECK_EQ(WAIT_OBJECT_0, WaitForSingleObject(event, 0));
    CHECK_EQ(WAIT_OBJECT_0, WaitForSingleObject(event, INFINITE));
    CHECK(ResetEvent(event));
    CHECK_EQ(WAIT_TIMEOUT, WaitForSingleObject(event, 1));
    CHECK(ResetEvent(event));
    CHECK(CloseHandle(event));
}

static void
test_auto_reset(void)
{
    HANDLE event = new_event(FALSE, TRUE);
    CHECK_EQ(WAIT_OBJECT_0, WaitForSingleObject(event, INFINITE));
    CHECK_EQ(WAIT_TIMEOUT, WaitForSingleObject(event, 0));
    CHECK(SetEvent(event));
    CHECK(SetEvent(event));
    CHECK_EQ(WAIT_OBJECT_0, WaitForSingleObject(event, 1000));
    CHECK_EQ(WAIT_TIMEOUT, WaitForSingleObject(event, 0));
    CHECK(CloseHandle(event));
}

static bool
is_readable(int fd)
{
    struct pollfd waited = {.fd = fd, .events = POLLIN};
    CHECK(poll(&waited, 1, 0) >= 0);
    return waited.revents == POLLIN;
}

/* The descriptor is readable as long as the event is signalled, and dies with
 * it. */
static void
test_event_descriptor(void)
{
    HANDLE event = new_event(TRUE, FALSE);
    int fd = GetEventDescriptor(event);
    CHECK(fd >= 0);
    CHECK_EQ(fd, GetEventDescriptor(event));
    CHECK_EQ(FD_CLOEXEC, fcntl(fd, F_GETFD));
    CHECK(!is_readable(fd));
    CHECK(SetEvent(event));
    CHECK(is_readable(fd));
    CHECK_EQ(WAIT_OBJECT_0, WaitForSingleObject(event, 0));
    CHECK(is_readable(fd));
    CHECK(ResetEvent(event));
    CHECK(!is_readable(fd));
    CHECK(CloseHandle(event));
    CHECK_EQ(-1, fcntl(fd, F_GETFD));
}

static void
test_unsupported_events(void)
{
    SECURITY_ATTRIBUTES attributes = {.nLength = sizeof(attributes)};
    SetLastError(0);
    CHECK(CreateEventW(&attributes, TRUE, FALSE, NULL) == NULL);
    CHECK_EQ(ERROR_NOT_SUPPORTED, GetLastError());
    SetLastError(0);
    CHECK(CreateEventW(NULL, TRUE, FALSE, u"named") == NULL);
    CHECK_EQ(ERROR_NOT_SUPPORTED, GetLastError());
}

/* Every function of windows.h that takes a handle says so of one that is
 * none; those of virtdisk.h: test_api_contract.c. */
static void
check_invalid(HANDLE handle)
{
    BOOL (*const functions[])(HANDLE) = {CloseHandle, SetEvent, ResetEvent};
    for (size_t i = 0; i < 3; i++) {
        SetLastError(0);
        CHECK(!functions[i](handle));
        CHECK_EQ(ERROR_INVALID_HANDLE, GetLastError());
    }
    SetLastError(0);
    CHECK_EQ(WAIT_FAILED, WaitForSingleObject(handle, 0));
    CHECK_EQ(ERROR_INVALID_HANDLE, GetLastError());
    SetLastError(0);
    CHECK_EQ(-1, GetEventDescriptor(handle));
    CHECK_EQ(ERROR_INVALID_HANDLE, GetLastError());
    OVERLAPPED overlapped = {.Internal = 0};
    DWORD bytes;
    CHECK(!CancelIoEx(handle, NULL));
    CHECK_EQ(ERROR_INVALID_HANDLE, GetLastError());
    SetLastError(0);
    CHECK(!GetOverlappedResult(handle, &overlapped, &bytes, FALSE));
    CHECK_EQ(ERROR_INVALID_HANDLE, GetLastError());
    CHECK_EQ(ERROR_INVALID_HANDLE, detach(handle));
}

static void
test_invalid_handles(void)
{
    HANDLE event = new_event(TRUE, FALSE);
    uintptr_t value = (uintptr_t)event;
    CHECK_EQ(0, value % 4);
    check_invalid(NULL);
    check_invalid(INVALID_HANDLE_VALUE);
    check_invalid((HANDLE)(value + 1));
    check_invalid((HANDLE)(value + 4));
    check_invalid((HANDLE)(value + (4 << 16)));
    check_invalid((HANDLE)(uintptr_t)0xFFFC);
    CHECK(CloseHandle(event));
    check_invalid(event);
    HANDLE other = new_event(TRUE, FALSE);
    CHECK(other != event);
    check_invalid(event);
    CHECK(CloseHandle(other));
}

static void
test_event_is_no_disk(void)
{
    HANDLE event = new_event(TRUE, FALSE);
    CHECK(!CancelIoEx(event, NULL));
    CHECK_EQ(ERROR_INVALID_HANDLE, GetLastError());
    CHECK(CloseHandle(event));
}

static void
test_disk_is_no_event(const char *directory)
{
    const char *path = check_path(directory, "handles.vhd");
    make_vhd(path, NULL, 0);
    HANDLE disk = open_all(path);
    CHECK(!SetEvent(disk));
    CHECK_EQ(ERROR_INVALID_HANDLE, GetLastError());
    CHECK_EQ(WAIT_FAILED, WaitForSingleObject(disk, 0));
    CHECK_EQ(ERROR_INVALID_HANDLE, GetLastError());
    close_handle(disk);
    check_invalid(disk);
}

static void
test_closed_in_use(void)
{
    size_t before = vd_handle_count();
    HANDLE handle = new_event(TRUE, FALSE);
    struct vd_event *event;
    CHECK_OK(vd_event_acquire(handle, &event));
    CHECK(CloseHandle(handle));
    check_invalid(handle);
    CHECK_EQ(before + 1, vd_handle_count());
    vd_event_set(event); /* it still works for who is inside */
    CHECK(vd_event_wait(event, 0));
    vd_event_release(event);
    CHECK_EQ(before, vd_handle_count());
}

static void *
read_last_error(void *result)
{
    *(DWORD *)result = GetLastError();
    return NULL;
}

static void
test_last_error_is_per_thread(void)
{
    DWORD other = 99;
    pthread_t thread;
    SetLastError(0xC03A0014);
    pthread_create(&thread, NULL, read_last_error, &other);
    pthread_join(thread, NULL);
    CHECK_EQ(0, other);
    CHECK_EQ(0xC03A0014, GetLastError());
}

/* -- waiting -- */

static atomic_uint woken;

static void *
wait_for(void *event)
{
    CHECK_EQ(WAIT_OBJECT_0, WaitForSingleObject(event, INFINITE));
    atomic_fetch_add(&woken, 1);
    return NULL;
}

static void
start_waiters(pthread_t threads[THREADS], HANDLE event)
{
    atomic_store(&woken, 0);
    for (size_t i = 0; i < THREADS; i++) {
        pthread_create(&threads[i], NULL, wait_for, event);
    }
}

static void
join_waiters(const pthread_t threads[THREADS])
{
    for (size_t i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK_EQ(THREADS, atomic_load(&woken));
}

static void
test_manual_event_wakes_all(void)
{
    pthread_t threads[THREADS];
    HANDLE event = new_event(TRUE, FALSE);
    start_waiters(threads, event);
    CHECK(SetEvent(event));
    join_waiters(threads);
    CHECK(CloseHandle(event));
}

static void
test_auto_event_wakes_one(void)
{
    pthread_t threads[THREADS];
    HANDLE event = new_event(FALSE, FALSE);
    start_waiters(threads, event);
    for (unsigned i = 1; i <= THREADS; i++) {
        CHECK_EQ(i - 1, atomic_load(&woken));
        CHECK(SetEvent(event));
        while (atomic_load(&woken) < i) {
            sched_yield();
        }
    }
    join_waiters(threads);
    CHECK(CloseHandle(event));
}

static atomic_uint signals_seen;

static void
on_signal(int number)
{
    (void)number;
    atomic_fetch_add(&signals_seen, 1);
}

/* A signal interrupts ppoll, not the wait. */
static void
test_signals_do_not_end_a_wait(void)
{
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &action, NULL);
    HANDLE event = new_event(TRUE, FALSE);
    pthread_t thread;
    atomic_store(&woken, 0);
    pthread_create(&thread, NULL, wait_for, event);
    for (unsigned i = 1; i <= 20; i++) {
        pthread_kill(thread, SIGUSR1);
        while (atomic_load(&signals_seen) < i) {
            sched_yield();
        }
    }
    CHECK_EQ(0, atomic_load(&woken));
    CHECK(SetEvent(event));
    pthread_join(thread, NULL);
    CHECK(CloseHandle(event));
}

/* -- limits -- */

static size_t destroyed;

static void
count_destroyed(struct vd_object *object)
{
    (void)object;
    destroyed++;
}

static void
count_abandoned(const struct vd_object *object)
{
    (void)object;
}

static void
test_table_is_bounded(const char *directory)
{
    const char *path = check_path(directory, "bounded.vhd");
    make_vhd(path, NULL, 0);
    static const struct vd_object_type type = {
        .destroy = count_destroyed,
        .abandon = count_abandoned,
    };
    enum { LIMIT = 65536 };
    size_t room = LIMIT - vd_handle_count();
    struct vd_object *objects = calloc(room + 1, sizeof(*objects));
    HANDLE *handles = calloc(room, sizeof(*handles));
    HANDLE none = NULL;
    for (size_t i = 0; i < room; i++) {
        if (vd_handle_create(&type, &objects[i], &handles[i])) {
            check_broken("the table is full too early");
        }
    }
    CHECK_EQ(ERROR_NO_SYSTEM_RESOURCES,
             vd_handle_create(&type, &objects[room], &none));
    CHECK(none == NULL);
    CHECK(CreateEventW(NULL, TRUE, FALSE, NULL) == NULL);
    CHECK_EQ(ERROR_NO_SYSTEM_RESOURCES, GetLastError());
    CHECK_EQ(ERROR_NO_SYSTEM_RESOURCES, open_2(path, false, false, &none));
    CHECK(none == NULL);
    destroyed = 0;
    for (size_t i = 0; i < room; i++) {
        if (vd_handle_close(handles[i])) {
            check_broken("a handle is lost");
        }
    }
    CHECK_EQ(room, destroyed);
    free(handles);
    free(objects);
}

/* The event, and the table when it has to grow. */
static void
test_out_of_memory(void)
{
    size_t before = vd_handle_count();
    for (int successes = 0; successes < 2; successes++) {
        check_fail_allocation(successes);
        CHECK(CreateEventW(NULL, TRUE, FALSE, NULL) == NULL);
        CHECK(check_fail_allocation(-1));
        CHECK_EQ(ERROR_NOT_ENOUGH_MEMORY, GetLastError());
        CHECK_EQ(before, vd_handle_count());
    }
}

static void
test_out_of_descriptors(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    struct rlimit none = limit;
    none.rlim_cur = 0;
    setrlimit(RLIMIT_NOFILE, &none);
    HANDLE event = CreateEventW(NULL, TRUE, FALSE, NULL);
    DWORD error = GetLastError();
    setrlimit(RLIMIT_NOFILE, &limit);
    CHECK(event == NULL);
    CHECK_EQ(ERROR_TOO_MANY_OPEN_FILES, error);
}

/* -- threads and fork -- */

static atomic_bool stop;

static void *
open_and_close(void *argument)
{
    (void)argument;
    while (!atomic_load(&stop)) {
        HANDLE event = new_event(TRUE, FALSE);
        CHECK(SetEvent(event));
        CHECK_EQ(WAIT_OBJECT_0, WaitForSingleObject(event, 0));
        CHECK(CloseHandle(event));
        CHECK(!SetEvent(event));
    }
    return NULL;
}

/* In the child: 0 if it has nothing of its parent's and can go on. */
static int
look_around(HANDLE inherited, int inherited_fd)
{
    if (vd_handle_count() != 0 || SetEvent(inherited) ||
        GetLastError() != ERROR_INVALID_HANDLE) {
        return 1;
    }
    HANDLE event = CreateEventW(NULL, TRUE, TRUE, NULL);
    struct vd_event *inside;
    if (event == NULL || vd_event_acquire(event, &inside) ||
        inside->fd > inherited_fd) {
        return 2; /* its number was not free: the parent's is still open */
    }
    vd_event_release(inside);
    return WaitForSingleObject(event, 0) == WAIT_OBJECT_0 && CloseHandle(event)
               ? 0
               : 3;
}

static void
test_forked_child_has_no_handles(void)
{
    HANDLE event = new_event(TRUE, FALSE);
    struct vd_event *inside;
    pthread_t thread;
    CHECK_OK(vd_event_acquire(event, &inside));
    atomic_store(&stop, false);
    pthread_create(&thread, NULL, open_and_close, NULL);
    for (int i = 0; i < 100; i++) {
        pid_t child = fork();
        if (child == 0) {
            _exit(look_around(event, inside->fd));
        }
        int status = -1;
        waitpid(child, &status, 0);
        CHECK_EQ(0, status);
    }
    atomic_store(&stop, true);
    pthread_join(thread, NULL);
    vd_event_release(inside);
    CHECK(SetEvent(event));
    CHECK(CloseHandle(event));
}

static void
test_many_threads(void)
{
    pthread_t threads[THREADS];
    atomic_store(&stop, false);
    for (size_t i = 0; i < THREADS; i++) {
        pthread_create(&threads[i], NULL, open_and_close, NULL);
    }
    HANDLE event = new_event(TRUE, FALSE);
    for (int i = 0; i < 20000; i++) {
        CHECK(SetEvent(event));
    }
    CHECK(CloseHandle(event));
    atomic_store(&stop, true);
    for (size_t i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
}

int
main(int argc, char **argv)
{
    (void)argc;
    unsigned descriptors = count_descriptors();
    test_out_of_memory(); /* first: the table itself is not there yet */
    test_manual_reset();
    test_auto_reset();
    test_event_descriptor();
    test_unsupported_events();
    test_invalid_handles();
    test_event_is_no_disk();
    test_disk_is_no_event(argv[1]);
    test_closed_in_use();
    test_last_error_is_per_thread();
    test_manual_event_wakes_all();
    test_auto_event_wakes_one();
    test_signals_do_not_end_a_wait();
    test_out_of_descriptors();
    test_many_threads();
    test_forked_child_has_no_handles();
    test_table_is_bounded(argv[1]);
    CHECK_EQ(0, vd_handle_count());
    CHECK(descriptors_become(descriptors));
    return check_result();
}
