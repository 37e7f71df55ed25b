/*
 * The threads that answer the kernel (workers.h).
 *
 * Each has its own descriptor of the connection (FUSE_DEV_IOC_CLONE): a
 * request is answered where it was read, and the threads share no queue of
 * requests in progress.
 */
#include "server/workers.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/fuse.h>

#include "base/trace.h"

#define WORKERS_MIN 2
#define WORKERS_MAX 4

struct worker {
    pthread_t thread;
    int device; /* -1: none */
    const struct vd_fuse_file *file;
    struct vd_fuse_buffer buffer;
    sem_t *running;
};

struct vd_workers {
    sem_t running; /* counts those that are */
    struct worker workers[WORKERS_MAX];
    size_t count; /* of those that run */
};

/* One more than processors: one thread can wait for the host's disk. */
static size_t
worker_count(void)
{
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    long count = processors + 1;
    count = count < WORKERS_MIN ? WORKERS_MIN : count;
    return (size_t)(count > WORKERS_MAX ? WORKERS_MAX : count);
}

static vd_error
clone_device(int device, int *clone_out)
{
    uint32_t source = (uint32_t)device;
    int clone = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (clone >= 0 && ioctl(clone, FUSE_DEV_IOC_CLONE, &source) == 0) {
        *clone_out = clone;
        return ERROR_SUCCESS;
    }
    int error_number = errno;
    vd_trace(VD_TRACE_ATTACH, "server: a further connection: %s",
             strerror(error_number));
    if (clone >= 0) {
        close(clone);
    }
    return vd_error_from_errno(error_number);
}

static void *
work(void *argument)
{
    const struct worker *worker = argument;
    sem_post(worker->running);
    while (vd_fuse_serve(worker->device, worker->file, &worker->buffer)) {
    }
    return NULL;
}

static void
clear_worker(struct worker *worker)
{
    if (worker->device >= 0) {
        close(worker->device);
    }
    vd_fuse_buffer_free(&worker->buffer);
}

static vd_error
start_worker(struct worker *worker, int device,
             const struct vd_fuse_file *file, sem_t *running)
{
    *worker = (struct worker){.device = -1, .file = file, .running = running};
    vd_error error = vd_fuse_buffer_new(&worker->buffer);
    if (error == ERROR_SUCCESS) {
        error = clone_device(device, &worker->device);
    }
    if (error == ERROR_SUCCESS) {
        int error_number = pthread_create(&worker->thread, NULL, work, worker);
        error = vd_error_from_errno(error_number);
    }
    if (error != ERROR_SUCCESS) {
        clear_worker(worker);
    }
    return error;
}

static void
wait_until_running(struct vd_workers *workers)
{
    for (size_t i = 0; i < workers->count; i++) {
        while (sem_wait(&workers->running) < 0 && errno == EINTR) {
        }
    }
}

vd_error
vd_workers_start(int device, const struct vd_fuse_file *file,
                 struct vd_workers **out)
{
    struct vd_workers *workers = calloc(1, sizeof(*workers));
    if (workers == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    sem_init(&workers->running, 0, 0);
    for (size_t wanted = worker_count(); workers->count < wanted;
         workers->count++) {
        vd_error error = start_worker(&workers->workers[workers->count],
                                      device, file, &workers->running);
        if (error != ERROR_SUCCESS) {
            return error;
        }
    }
    wait_until_running(workers);
    *out = workers;
    return ERROR_SUCCESS;
}

void
vd_workers_join(struct vd_workers *workers)
{
    for (size_t i = 0; i < workers->count; i++) {
        pthread_join(workers->workers[i].thread, NULL);
        clear_worker(&workers->workers[i]);
    }
    sem_destroy(&workers->running);
    free(workers);
}
