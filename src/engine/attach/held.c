/*
 * What this process holds, the watcher over it, and fork (held.h).
 *
 * fork() waits until nobody is between vd_held_enter and vd_held_leave and no
 * watcher is ending, and then keeps held.lock, so a child finds the list whole
 * and no descriptor outside it.
 */
#include "attach/held.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "attach/loop.h"
#include "attach/registry.h"
#include "attach/watch.h"
#include "base/cleanup.h"
#include "base/trace.h"

#define CHILD_LIMIT_MS 1000

/* A user has 128 inotify instances, and one counts until it is closed. */
#define MOST_ENDING 16

static struct {
    pthread_once_t once;
    int atfork_error;       /* of the registration with pthread_atfork */
    pthread_mutex_t lock;   /* guards what follows; below it only
                               that of a live disk */
    pthread_cond_t changed; /* of the next three */
    unsigned inside;        /* between vd_held_enter and vd_held_leave */
    unsigned ending;        /* watchers that have not closed everything */
    unsigned forks;         /* waiting for both to be 0; they go first */
    struct vd_attachment *first;
    struct vd_watch *watch;
    int child_holds[2]; /* during a fork: a pipe, see before_fork */
} held = {
    .once = PTHREAD_ONCE_INIT,
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .changed = PTHREAD_COND_INITIALIZER,
    .child_holds = {-1, -1},
};

static void
close_one(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

/* The record's lock last: when it is free, everything is. */
static void
close_all(struct vd_attachment *attachment)
{
    close_one(&attachment->device_fd);
    close_one(&attachment->image_fd);
    close_one(&attachment->record_fd);
}

/* -- fork -- */

/* A child is born with copies of our descriptors and closes them at once.
 * Until then the devices are not ours alone to free, so fork() returns in the
 * parent when the child has closed them, and with them its end of the pipe;
 * or after a second, if somebody has stopped the child. */
static void
make_pipe(void)
{
    if (held.first != NULL && pipe2(held.child_holds, O_CLOEXEC) < 0) {
        vd_trace(VD_TRACE_ATTACH, "fork: %s", strerror(errno));
        held.child_holds[0] = -1;
        held.child_holds[1] = -1;
    }
}

static void
wait_for_child(void)
{
    struct pollfd closed = {.fd = held.child_holds[0], .events = POLLIN};
    close_one(&held.child_holds[1]);
    if (held.child_holds[0] >= 0) {
        while (poll(&closed, 1, CHILD_LIMIT_MS) < 0 && errno == EINTR) {
        }
    }
    close_one(&held.child_holds[0]);
}

static void
before_fork(void)
{
    pthread_mutex_lock(&held.lock);
    held.forks++;
    while (held.inside > 0 || held.ending > 0) {
        pthread_cond_wait(&held.changed, &held.lock);
    }
    held.forks--; /* the lock is kept until it is over */
    make_pipe();
}

static void
after_fork_in_parent(void)
{
    wait_for_child();
    pthread_cond_broadcast(&held.changed);
    pthread_mutex_unlock(&held.lock);
}

static void
after_fork_in_child(void)
{
    struct vd_attachment *attachment = held.first;
    while (attachment != NULL) {
        struct vd_attachment *next = attachment->next;
        vd_live_abandon(attachment->live);
        close_all(attachment);
        attachment->let_go = true;
        attachment->next = NULL;
        attachment = next;
    }
    held.first = NULL;
    vd_watch_abandon(held.watch);
    held.watch = NULL;
    close_one(&held.child_holds[0]);
    close_one(&held.child_holds[1]);
    /* Whoever waits, waits in the parent. */
    held.forks = 0;
    pthread_cond_init(&held.changed, NULL);
    pthread_mutex_unlock(&held.lock);
}

static void
register_fork_handlers(void)
{
    held.atfork_error =
        pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

vd_error
vd_held_enter(void)
{
    pthread_once(&held.once, register_fork_handlers);
    if (held.atfork_error != 0) {
        return vd_error_from_errno(held.atfork_error);
    }
    VD_SCOPED_LOCK(&held.lock);
    while (held.forks > 0) {
        pthread_cond_wait(&held.changed, &held.lock);
    }
    held.inside++;
    return ERROR_SUCCESS;
}

void
vd_held_leave(void)
{
    VD_SCOPED_LOCK(&held.lock);
    held.inside--;
    if (held.inside == 0) {
        pthread_cond_broadcast(&held.changed);
    }
}

/* -- letting go and taking up again; held.lock is held -- */

static void
let_go(struct vd_attachment *attachment)
{
    vd_trace(VD_TRACE_ATTACH, "letting go of %s", attachment->record.name);
    attachment->let_go = true;
    vd_live_end(attachment->live);
    close_one(&attachment->device_fd);
    close_one(&attachment->image_fd);
    /* The file stays open: it is how the record is known again. */
    if (attachment->record_fd >= 0) {
        vd_registry_mark_dead(attachment->record_fd);
    }
}

/* Without a device there is nothing to take up: the image's locks went. */
static void
take_up_again(struct vd_attachment *attachment)
{
    if (attachment->record.permanent) {
        attachment->let_go = false; /* it never held more than this */
        return;
    }
    if (!vd_record_has_device(&attachment->record)) {
        return;
    }
    vd_error error =
        vd_loop_hold(&attachment->record.loop, &attachment->device_fd);
    if (error == ERROR_SUCCESS && attachment->record_fd >= 0) {
        error = vd_registry_mark_alive(attachment->record_fd);
    }
    vd_trace(VD_TRACE_ATTACH, "taking up %s again: error %u",
             attachment->record.name, error);
    attachment->let_go = error != ERROR_SUCCESS;
    if (attachment->let_go) {
        close_one(&attachment->device_fd);
    }
}

static void
recheck(struct vd_attachment *attachment)
{
    if (attachment->registry == NULL) {
        return;
    }
    bool there = vd_registry_undisturbed(
        attachment->registry, attachment->record.name, attachment->record_fd);
    if (!there && !attachment->let_go) {
        let_go(attachment);
    }
    else if (there && attachment->let_go) {
        take_up_again(attachment);
    }
}

void
vd_held_recheck(const char *name)
{
    VD_SCOPED_LOCK(&held.lock);
    for (struct vd_attachment *attachment = held.first; attachment != NULL;
         attachment = attachment->next) {
        if (name == NULL || strcmp(name, attachment->record.name) == 0) {
            recheck(attachment);
        }
    }
}

void
vd_held_let_go(struct vd_attachment *attachment)
{
    VD_SCOPED_LOCK(&held.lock);
    let_go(attachment);
}

void
vd_held_take_up_again(struct vd_attachment *attachment)
{
    VD_SCOPED_LOCK(&held.lock);
    take_up_again(attachment);
}

bool
vd_held_has_let_go(struct vd_attachment *attachment)
{
    VD_SCOPED_LOCK(&held.lock);
    return attachment->let_go;
}

/* -- the list -- */

static void
watcher_ended(void)
{
    VD_SCOPED_LOCK(&held.lock);
    held.ending--;
    pthread_cond_broadcast(&held.changed);
}

static const struct vd_watcher watcher = {
    .changed = vd_held_recheck,
    .ended = watcher_ended,
};

/* held.lock is held. */
static vd_error
start_watch(void)
{
    while (held.watch == NULL && held.ending >= MOST_ENDING) {
        pthread_cond_wait(&held.changed, &held.lock);
    }
    return held.watch == NULL ? vd_watch_start(&watcher, &held.watch)
                              : ERROR_SUCCESS;
}

/* held.lock is held. */
static vd_error
watch_record(const struct vd_attachment *attachment)
{
    if (attachment->registry == NULL) {
        return ERROR_SUCCESS;
    }
    vd_error error = start_watch();
    return error != ERROR_SUCCESS
               ? error
               : vd_watch_directory(held.watch, attachment->registry);
}

/* held.lock is held.  A child born before the watcher has closed its
 * descriptors would inherit them. */
static void
stop_unneeded_watch(void)
{
    if (held.first == NULL && held.watch != NULL) {
        held.ending++;
        vd_watch_stop(VD_TAKE(held.watch));
    }
}

vd_error
vd_held_add(struct vd_attachment *attachment)
{
    VD_SCOPED_LOCK(&held.lock);
    vd_error error = watch_record(attachment);
    if (error != ERROR_SUCCESS) {
        stop_unneeded_watch();
        return error;
    }
    attachment->next = held.first;
    held.first = attachment;
    return ERROR_SUCCESS;
}

void
vd_held_remove(struct vd_attachment *attachment)
{
    VD_SCOPED_LOCK(&held.lock);
    struct vd_attachment **link = &held.first;
    while (*link != NULL && *link != attachment) {
        link = &(*link)->next;
    }
    if (*link == attachment) {
        *link = attachment->next;
        attachment->next = NULL;
    }
    vd_live_end(attachment->live);
    close_all(attachment);
    stop_unneeded_watch();
}
