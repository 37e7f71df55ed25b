/*
 * Asynchronous calls: see operation.h.
 *
 * Order at the end of an operation: the handle's object is given back first,
 * so that a CloseHandle after the event really is the last; then, under the
 * operation's lock, `over`, Internal, the event.  A new operation with the
 * same OVERLAPPED takes that lock before it resets the event, so it cannot
 * be overtaken by the old one's signal.
 */
#include "api/operation.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "api/event.h"
#include "api/overlapped.h"
#include "api/refuse.h"
#include "api/virtual_disk.h"
#include "base/cleanup.h"
#include "disk/progress.h"

struct vd_operation {
    atomic_uint references;
    struct vd_virtual_disk *virtual_disk; /* a reference until it is over */
    struct vd_event *event;               /* likewise; NULL: none */
    OVERLAPPED *overlapped;               /* the caller's */
    vd_error (*run)(struct vd_virtual_disk *virtual_disk,
                    const void *arguments, struct vd_progress *progress);
    void (*clear)(void *arguments);
    void *arguments; /* owned */
    bool background;
    struct vd_progress progress;

    pthread_mutex_t lock;
    pthread_cond_t over_changed;
    bool over;       /* guarded by lock */
    vd_error result; /* guarded by lock */
};

void
vd_operation_release(struct vd_operation *operation)
{
    if (operation == NULL || atomic_fetch_sub(&operation->references, 1) > 1) {
        return;
    }
    pthread_cond_destroy(&operation->over_changed);
    pthread_mutex_destroy(&operation->lock);
    free(operation->arguments);
    free(operation);
}

static struct vd_operation *
retain(struct vd_operation *operation)
{
    atomic_fetch_add(&operation->references, 1);
    return operation;
}

static void
release_event(struct vd_event *event)
{
    if (event != NULL) {
        vd_event_release(event);
    }
}

/* The end of an operation: from here on the OVERLAPPED is the caller's.
 * event NULL: nobody is to be told. */
static void
settle(struct vd_operation *operation, vd_error result, struct vd_event *event)
{
    VD_SCOPED_LOCK(&operation->lock);
    operation->over = true;
    operation->result = result;
    vd_overlapped_set(operation->overlapped, result);
    if (event != NULL) {
        vd_event_set(event);
    }
    pthread_cond_broadcast(&operation->over_changed);
}

static void *
run_thread(void *argument)
{
    struct vd_operation *operation = argument;
    struct vd_event *event = operation->event;
    vd_error result = operation->run(
        operation->virtual_disk, operation->arguments, &operation->progress);
    if (operation->clear != NULL) {
        operation->clear(operation->arguments);
    }
    vd_virtual_disk_release(operation->virtual_disk);
    settle(operation, result, event);
    release_event(event);
    vd_operation_release(operation);
    return NULL;
}

static bool
is_over(struct vd_operation *operation)
{
    VD_SCOPED_LOCK(&operation->lock);
    return operation->over;
}

/* Whether the handle's operation still runs.  With operation_lock held. */
static bool
busy(const struct vd_virtual_disk *virtual_disk)
{
    return virtual_disk->operation != NULL &&
           !is_over(virtual_disk->operation);
}

/* Whether an operation may begin.  With operation_lock held. */
static vd_error
check_ready(const struct vd_virtual_disk *virtual_disk)
{
    if (busy(virtual_disk)) {
        return vd_refuse(ERROR_VHD_INVALID_STATE,
                         "the handle has a pending operation");
    }
    if (virtual_disk->stillborn) {
        return vd_refuse(ERROR_VHD_INVALID_STATE,
                         "the disk could not be created");
    }
    return ERROR_SUCCESS;
}

vd_error
vd_operation_none_pending(struct vd_virtual_disk *virtual_disk)
{
    VD_SCOPED_LOCK(&virtual_disk->operation_lock);
    return check_ready(virtual_disk);
}

vd_error
vd_operation_none_in_the_way(struct vd_virtual_disk *virtual_disk)
{
    VD_SCOPED_LOCK(&virtual_disk->operation_lock);
    if (busy(virtual_disk) && virtual_disk->operation->background) {
        return ERROR_SUCCESS;
    }
    return check_ready(virtual_disk);
}

static vd_error
new_operation(const struct vd_work *work, struct vd_operation **out)
{
    VD_AUTO_FREE struct vd_operation *operation =
        calloc(1, sizeof(*operation));
    VD_AUTO_FREE void *arguments = malloc(work->arguments_size);
    if (operation == NULL || arguments == NULL) {
        return vd_refuse(ERROR_NOT_ENOUGH_MEMORY, "no memory to work with");
    }
    memcpy(arguments, work->arguments, work->arguments_size);
    atomic_init(&operation->references, 1);
    operation->run = work->run;
    operation->clear = work->clear;
    operation->background = work->background;
    operation->arguments = VD_TAKE(arguments);
    /* With default attributes these two cannot fail on Linux. */
    pthread_mutex_init(&operation->lock, NULL);
    pthread_cond_init(&operation->over_changed, NULL);
    *out = VD_TAKE(operation);
    return ERROR_SUCCESS;
}

/* Makes it the handle's operation, unless there is a pending one. */
static vd_error
enter(struct vd_operation *operation, struct vd_virtual_disk *virtual_disk)
{
    VD_SCOPED_LOCK(&virtual_disk->operation_lock);
    vd_error error = check_ready(virtual_disk);
    if (error) {
        return error;
    }
    vd_operation_release(virtual_disk->operation);
    virtual_disk->operation = retain(operation);
    vd_object_retain(&virtual_disk->object);
    operation->virtual_disk = virtual_disk;
    return ERROR_SUCCESS;
}

/* The end of an operation that has entered but not begun.  The call itself
 * returns the error, so the event stays as it is. */
static void
leave(struct vd_operation *operation, vd_error error)
{
    vd_virtual_disk_release(operation->virtual_disk);
    settle(operation, error, NULL);
    vd_operation_release(operation);
}

/* A detached thread in which no signal is ever delivered: those are for the
 * caller's threads. */
static vd_error
launch(struct vd_operation *operation)
{
    sigset_t all;
    sigset_t before;
    pthread_attr_t attributes;
    pthread_t thread;
    sigfillset(&all);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&thread, &attributes, run_thread, operation);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (failed) {
        return vd_refuse(ERROR_NO_SYSTEM_RESOURCES, "no thread: %s",
                         strerror(failed));
    }
    return ERROR_IO_PENDING;
}

/* Takes over one reference to the operation; its event, if it fails, stays
 * the caller's to release. */
static vd_error
begin(struct vd_operation *operation, struct vd_virtual_disk *virtual_disk)
{
    vd_error error = enter(operation, virtual_disk);
    if (error) {
        vd_operation_release(operation);
        return error;
    }
    vd_overlapped_set(operation->overlapped, ERROR_IO_PENDING);
    if (operation->event != NULL) {
        vd_event_reset(operation->event);
    }
    error = launch(operation);
    if (error != ERROR_IO_PENDING) {
        leave(operation, error);
    }
    return error;
}

static vd_error
acquire_event(HANDLE handle, struct vd_event **out)
{
    if (handle == NULL) {
        *out = NULL;
        return ERROR_SUCCESS;
    }
    return vd_event_acquire(handle, out);
}

vd_error
vd_operation_start(struct vd_virtual_disk *virtual_disk,
                   OVERLAPPED *overlapped, const struct vd_work *work)
{
    struct vd_event *event;
    vd_error error = acquire_event(overlapped->hEvent, &event);
    if (error) {
        return error;
    }
    struct vd_operation *operation;
    error = new_operation(work, &operation);
    if (!error) {
        operation->overlapped = overlapped;
        operation->event = event;
        error = begin(operation, virtual_disk);
    }
    if (error != ERROR_IO_PENDING) {
        release_event(event);
    }
    return error;
}

vd_error
vd_operation_run(struct vd_virtual_disk *virtual_disk, OVERLAPPED *overlapped,
                 const struct vd_work *work)
{
    if (overlapped != NULL) {
        return vd_operation_start(virtual_disk, overlapped, work);
    }
    vd_error error = vd_operation_none_pending(virtual_disk);
    return error ? error : work->run(virtual_disk, work->arguments, NULL);
}

struct vd_operation *
vd_operation_find(struct vd_virtual_disk *virtual_disk,
                  const OVERLAPPED *overlapped)
{
    VD_SCOPED_LOCK(&virtual_disk->operation_lock);
    struct vd_operation *operation = virtual_disk->operation;
    if (operation == NULL ||
        (overlapped != NULL && operation->overlapped != overlapped)) {
        return NULL;
    }
    return retain(operation);
}

static bool
ask_to_stop(struct vd_operation *operation)
{
    VD_SCOPED_LOCK(&operation->lock);
    if (!operation->over) {
        vd_progress_cancel(&operation->progress);
    }
    return !operation->over;
}

/* Wakes it up, too, if it waits for something to happen. */
bool
vd_operation_cancel(struct vd_operation *operation)
{
    bool asked = ask_to_stop(operation);
    if (asked) {
        vd_virtual_disk_tell(operation->virtual_disk);
    }
    return asked;
}

bool
vd_operation_in_background(const struct vd_operation *operation)
{
    return operation->background;
}

void
vd_operation_wait(struct vd_operation *operation)
{
    VD_SCOPED_LOCK(&operation->lock);
    while (!operation->over) {
        pthread_cond_wait(&operation->over_changed, &operation->lock);
    }
}

/* Work that does not count is one step: nothing, or all of it. */
vd_error
vd_operation_progress(struct vd_operation *operation, uint64_t *current_out,
                      uint64_t *completion_out)
{
    VD_SCOPED_LOCK(&operation->lock);
    bool done = operation->over && operation->result == ERROR_SUCCESS;
    uint64_t completion = atomic_load(&operation->progress.completion);
    *completion_out = completion != 0 ? completion : 1;
    *current_out =
        done ? *completion_out : atomic_load(&operation->progress.current);
    return operation->over ? operation->result : ERROR_IO_PENDING;
}
