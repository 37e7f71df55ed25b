/*
 * CreateEventW, SetEvent, ResetEvent, WaitForSingleObject and
 * GetEventDescriptor.
 *
 * Only events can be waited for.  Events have no names and no security of
 * their own: asking for either is ERROR_NOT_SUPPORTED, not ignored.
 */
#include "api/event.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "api/refuse.h"
#include "base/cleanup.h"

#define NSEC_PER_SEC 1000000000L
#define NSEC_PER_MSEC 1000000L
#define MSEC_PER_SEC 1000

static void
destroy(struct vd_object *object)
{
    struct vd_event *event = (struct vd_event *)object;
    close(event->fd);
    free(event);
}

static void
abandon(const struct vd_object *object)
{
    close(((const struct vd_event *)object)->fd);
}

static const struct vd_object_type event_type = {
    .destroy = destroy,
    .abandon = abandon,
};

static vd_error
create_event(bool manual_reset, bool signalled, HANDLE *out)
{
    VD_AUTO_FREE struct vd_event *event = malloc(sizeof(*event));
    if (event == NULL) {
        return vd_refuse(ERROR_NOT_ENOUGH_MEMORY, "no memory for an event");
    }
    VD_AUTO_CLOSE int fd = eventfd(signalled, EFD_NONBLOCK | EFD_CLOEXEC);
    if (fd < 0) {
        return vd_refuse(vd_error_from_errno(errno), "eventfd failed");
    }
    event->manual_reset = manual_reset;
    event->fd = fd;
    atomic_init(&event->sets, 0);
    vd_error error = vd_handle_create(&event_type, &event->object, out);
    if (error) {
        return error;
    }
    (void)VD_TAKE(event);
    (void)vd_take_fd(&fd);
    return ERROR_SUCCESS;
}

vd_error
vd_event_acquire(HANDLE handle, struct vd_event **out)
{
    struct vd_object *object;
    vd_error error = vd_handle_acquire(handle, &object);
    if (error) {
        return error;
    }
    if (object->type != &event_type) {
        vd_object_release(object);
        return vd_refuse(ERROR_INVALID_HANDLE, "handle %p is not an event",
                         handle);
    }
    *out = (struct vd_event *)object;
    return ERROR_SUCCESS;
}

void
vd_event_release(struct vd_event *event)
{
    vd_object_release(&event->object);
}

/* Neither call can fail but with EAGAIN: the counter is at its maximum, so
 * the event is signalled, or at zero, so it is not. */
void
vd_event_set(struct vd_event *event)
{
    uint64_t one = 1;
    atomic_fetch_add_explicit(&event->sets, 1, memory_order_release);
    ssize_t written = write(event->fd, &one, sizeof(one));
    (void)written;
}

/* Whether it was signalled. */
static bool
take_signal(const struct vd_event *event)
{
    uint64_t count;
    return read(event->fd, &count, sizeof(count)) == sizeof(count);
}

void
vd_event_reset(struct vd_event *event)
{
    (void)take_signal(event);
}

static struct timespec
deadline_after(DWORD milliseconds)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += milliseconds / MSEC_PER_SEC;
    at.tv_nsec += (long)(milliseconds % MSEC_PER_SEC) * NSEC_PER_MSEC;
    if (at.tv_nsec >= NSEC_PER_SEC) {
        at.tv_nsec -= NSEC_PER_SEC;
        at.tv_sec++;
    }
    return at;
}

/* Zero once the deadline is over. */
static struct timespec
time_left(const struct timespec *deadline)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    struct timespec left = {
        .tv_sec = deadline->tv_sec - now.tv_sec,
        .tv_nsec = deadline->tv_nsec - now.tv_nsec,
    };
    if (left.tv_nsec < 0) {
        left.tv_nsec += NSEC_PER_SEC;
        left.tv_sec--;
    }
    return left.tv_sec < 0 ? (struct timespec){0} : left;
}

bool
vd_event_wait(struct vd_event *event, DWORD milliseconds)
{
    struct timespec deadline = deadline_after(milliseconds);
    struct pollfd poll_fd = {.fd = event->fd, .events = POLLIN};
    for (;;) {
        struct timespec left = time_left(&deadline);
        int ready =
            ppoll(&poll_fd, 1, milliseconds == INFINITE ? NULL : &left, NULL);
        /* Another waiter may have taken an auto-reset event's signal between
         * ppoll and read: then the wait goes on. */
        if (ready > 0 && (event->manual_reset || take_signal(event))) {
            (void)atomic_load_explicit(&event->sets, memory_order_acquire);
            return true;
        }
        if (ready == 0) {
            return false;
        }
    }
}

static vd_error
check_event_arguments(const SECURITY_ATTRIBUTES *attributes, PCWSTR name)
{
    if (attributes != NULL) {
        return vd_refuse(ERROR_NOT_SUPPORTED, "event with attributes");
    }
    if (name != NULL) {
        return vd_refuse(ERROR_NOT_SUPPORTED, "event with a name");
    }
    return ERROR_SUCCESS;
}

HANDLE WINAPI
CreateEventW(LPSECURITY_ATTRIBUTES lpEventAttributes, BOOL bManualReset,
             BOOL bInitialState, LPCWSTR lpName)
{
    HANDLE handle = NULL;
    vd_error error = check_event_arguments(lpEventAttributes, lpName);
    if (!error) {
        error = create_event(bManualReset != FALSE, bInitialState != FALSE,
                             &handle);
    }
    if (error) {
        SetLastError(error);
    }
    return handle;
}

static BOOL
with_event(HANDLE handle, void (*act)(struct vd_event *event))
{
    struct vd_event *event;
    vd_error error = vd_event_acquire(handle, &event);
    if (error) {
        SetLastError(error);
        return FALSE;
    }
    act(event);
    vd_event_release(event);
    return TRUE;
}

BOOL WINAPI
SetEvent(HANDLE hEvent)
{
    return with_event(hEvent, vd_event_set);
}

BOOL WINAPI
ResetEvent(HANDLE hEvent)
{
    return with_event(hEvent, vd_event_reset);
}

DWORD WINAPI
WaitForSingleObject(HANDLE hHandle, DWORD dwMilliseconds)
{
    struct vd_event *event;
    vd_error error = vd_event_acquire(hHandle, &event);
    if (error) {
        SetLastError(error);
        return WAIT_FAILED;
    }
    bool signalled = vd_event_wait(event, dwMilliseconds);
    vd_event_release(event);
    return signalled ? WAIT_OBJECT_0 : WAIT_TIMEOUT;
}

int
GetEventDescriptor(HANDLE hEvent)
{
    struct vd_event *event;
    vd_error error = vd_event_acquire(hEvent, &event);
    if (error) {
        SetLastError(error);
        return -1;
    }
    int fd = event->fd;
    vd_event_release(event);
    return fd;
}
