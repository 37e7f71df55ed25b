/*
 * The watcher thread: blocked in poll(2) on inotify and an eventfd, woken by
 * the kernel only.  Takes no signals.  Knows nothing of what it watches.
 *
 * Closing an inotify descriptor takes about 10 ms, for the kernel waits until
 * nobody can be looking at its marks.  Whoever stops the watcher need not
 * wait for that: the thread closes what it used, and ends by itself.
 */
#include "attach/watch.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdalign.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/trace.h"

#define EVENTS_SIZE 4096

_Static_assert(EVENTS_SIZE >= sizeof(struct inotify_event) + NAME_MAX + 1,
               "room for one event at least");

struct vd_watch {
    const struct vd_watcher *watcher;
    int inotify;
    int stop; /* eventfd: readable when the thread is to end */
};

static void
tell(const struct vd_watch *watch, const char *buffer, size_t length)
{
    while (length > 0) {
        struct inotify_event event;
        memcpy(&event, buffer, sizeof(event));
        const char *name = buffer + sizeof(event);
        watch->watcher->changed(
            (event.mask & IN_Q_OVERFLOW) != 0 || event.len == 0 ? NULL : name);
        buffer += sizeof(event) + event.len;
        length -= sizeof(event) + event.len;
    }
}

static void
read_events(const struct vd_watch *watch)
{
    char buffer[EVENTS_SIZE];
    ssize_t length = read(watch->inotify, buffer, sizeof(buffer));
    if (length > 0) {
        tell(watch, buffer, (size_t)length);
    }
}

static void
close_all(struct vd_watch *watch)
{
    if (watch->inotify >= 0) {
        close(watch->inotify);
    }
    if (watch->stop >= 0) {
        close(watch->stop);
    }
    free(watch);
}

static void
wait_for_events(const struct vd_watch *watch)
{
    struct pollfd waits[] = {
        {.fd = watch->stop, .events = POLLIN},
        {.fd = watch->inotify, .events = POLLIN},
    };
    while (poll(waits, 2, -1) >= 0 || errno == EINTR) {
        if ((waits[0].revents & POLLIN) != 0) {
            break;
        }
        if ((waits[1].revents & POLLIN) != 0) {
            read_events(watch);
        }
    }
}

static void *
run(void *argument)
{
    struct vd_watch *watch = argument;
    void (*ended)(void) = watch->watcher->ended;
    wait_for_events(watch);
    close_all(watch);
    ended();
    return NULL;
}

/* The program's signals are for the program's threads. */
static int
start_thread(struct vd_watch *watch)
{
    pthread_t thread;
    sigset_t all;
    sigset_t former;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &former);
    int error_number = pthread_create(&thread, NULL, run, watch);
    pthread_sigmask(SIG_SETMASK, &former, NULL);
    if (error_number == 0) {
        pthread_detach(thread);
    }
    return error_number;
}

vd_error
vd_watch_start(const struct vd_watcher *watcher, struct vd_watch **out)
{
    struct vd_watch *watch = calloc(1, sizeof(*watch));
    if (watch == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    watch->watcher = watcher;
    watch->inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    watch->stop = eventfd(0, EFD_CLOEXEC);
    int error_number =
        watch->inotify < 0 || watch->stop < 0 ? errno : start_thread(watch);
    if (error_number != 0) {
        vd_trace(VD_TRACE_ATTACH, "watcher thread: %s",
                 strerror(error_number));
        close_all(watch);
        return error_number == EAGAIN ? ERROR_NO_SYSTEM_RESOURCES
                                      : vd_error_from_errno(error_number);
    }
    *out = watch;
    return ERROR_SUCCESS;
}

vd_error
vd_watch_directory(struct vd_watch *watch, const char *path)
{
    uint32_t events =
        IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ONLYDIR | IN_DONT_FOLLOW;
    if (inotify_add_watch(watch->inotify, path, events) < 0) {
        vd_trace(VD_TRACE_ATTACH, "watching %s: %s", path, strerror(errno));
        return errno == ENOSPC ? ERROR_NO_SYSTEM_RESOURCES
                               : vd_error_from_errno(errno);
    }
    return ERROR_SUCCESS;
}

void
vd_watch_stop(struct vd_watch *watch)
{
    static const uint64_t one = 1;
    while (write(watch->stop, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
}

void
vd_watch_abandon(struct vd_watch *watch)
{
    if (watch != NULL) {
        close_all(watch);
    }
}
