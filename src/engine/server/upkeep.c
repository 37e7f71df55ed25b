/*
 * Work on the image while it is served.  See upkeep.h.
 *
 * One client at a time.  What he may do is decided by the descriptor that he
 * sends: it is the image, open for writing, and he could have written to it
 * himself.  Beyond that only the server's own user and root are listened to.
 * Messages to him never wait: one who does not read does not hold anything
 * up.
 */
#include "server/upkeep.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/trace.h"
#include "server/channel.h"
#include "server/protocol.h"
#include "server/upkeep_work.h"

#define REQUEST_LIMIT_MS 5000
#define CUT_LIMIT_MS 30000 /* he tries for longer than five seconds */
#define REPORT_LIMIT_MS 5000

struct vd_upkeep {
    int listener;
    int device;
    int stopping; /* an eventfd: the server ends */
    uid_t uid;    /* of the server */
    const struct vd_fuse_file *file;
    pthread_t receiver;
    pthread_t worker;
    sem_t running; /* counts the threads that are */

    /* The work; handed over with `wanted`, and back with `done`. */
    vd_error (*perform)(struct vd_upkeep_work *work); /* NULL: no more */
    struct vd_upkeep_work work;
    vd_error result;
    sem_t wanted;
    int done; /* an eventfd */
};

static void
wait_for(sem_t *semaphore)
{
    while (sem_wait(semaphore) < 0 && errno == EINTR) {
    }
}

static void
notify(int event)
{
    eventfd_write(event, 1); /* cannot overflow */
}

/* ---- the worker ---- */

static void *
work(void *argument)
{
    struct vd_upkeep *upkeep = argument;
    sem_post(&upkeep->running);
    for (;;) {
        wait_for(&upkeep->wanted);
        if (upkeep->perform == NULL) {
            return NULL;
        }
        upkeep->result = upkeep->perform(&upkeep->work);
        notify(upkeep->done);
    }
}

/* ---- the receiver ---- */

static bool
stops(const struct vd_upkeep *upkeep)
{
    struct pollfd stopping = {.fd = upkeep->stopping, .events = POLLIN};
    return poll(&stopping, 1, 0) > 0;
}

/* Waits for an event of fd; false if it does not come, or the server ends. */
static bool
await(const struct vd_upkeep *upkeep, int fd, short events, int limit_ms)
{
    struct pollfd waited[] = {
        {.fd = fd, .events = events},
        {.fd = upkeep->stopping, .events = POLLIN},
    };
    int ready;
    do {
        ready = poll(waited, 2, limit_ms);
    } while (ready < 0 && errno == EINTR);
    return ready > 0 && waited[1].revents == 0;
}

static bool
is_permitted(const struct vd_upkeep *upkeep, int client)
{
    struct ucred peer;
    socklen_t length = sizeof(peer);
    if (getsockopt(client, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0 ||
        (peer.uid != 0 && peer.uid != upkeep->uid)) {
        vd_trace(VD_TRACE_ATTACH, "server: a stranger asks");
        return false;
    }
    return true;
}

static bool
is_sound_compact(const struct vd_upkeep_request *request)
{
    return request->no_zero_scan <= 1 && request->no_block_moves <= 1 &&
           request->resize_mode == 0 && request->size_bytes == 0;
}

static bool
is_sound_resize(const struct vd_upkeep_request *request)
{
    bool smallest = request->resize_mode == VD_RESIZE_SMALLEST;
    return (smallest || request->resize_mode == VD_RESIZE_SAFE ||
            request->resize_mode == VD_RESIZE_UNSAFE) &&
           smallest == (request->size_bytes == 0) &&
           request->no_zero_scan == 0 && request->no_block_moves == 0;
}

static bool
is_sound(const struct vd_upkeep_request *request)
{
    if (request->protocol != VD_SERVER_PROTOCOL || request->unused != 0) {
        return false;
    }
    switch (request->operation) {
    case VD_UPKEEP_COMPACT:
        return is_sound_compact(request);
    case VD_UPKEEP_RESIZE:
        return is_sound_resize(request);
    default:
        return false;
    }
}

/* The file is the caller's on success. */
static vd_error
receive(const struct vd_upkeep *upkeep, int client,
        struct vd_upkeep_request *out, int *fd_out)
{
    size_t count = 0;
    if (!await(upkeep, client, POLLIN, REQUEST_LIMIT_MS)) {
        return ERROR_TIMEOUT;
    }
    vd_error error =
        vd_channel_receive(client, out, sizeof(*out), fd_out, 1, &count);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (count != 1 || !is_sound(out)) {
        vd_trace(VD_TRACE_ATTACH, "server: a request that is none");
        if (count == 1) {
            close(*fd_out);
        }
        return ERROR_INVALID_DATA;
    }
    return ERROR_SUCCESS;
}

static void
report(const struct vd_upkeep *upkeep, int client, enum vd_upkeep_state state)
{
    struct vd_upkeep_report message = {
        .protocol = VD_SERVER_PROTOCOL,
        .state = (uint32_t)state,
        .error = state == VD_UPKEEP_OVER ? upkeep->result : ERROR_SUCCESS,
        .current = atomic_load(&upkeep->work.progress.current),
        .completion = atomic_load(&upkeep->work.progress.completion),
        .length = vd_gate_length(upkeep->file->gate),
    };
    if (state != VD_UPKEEP_WORKING) {
        (void)await(upkeep, client, POLLOUT, REPORT_LIMIT_MS);
    }
    if (send(client, &message, sizeof(message), MSG_NOSIGNAL | MSG_DONTWAIT) <
        0) {
        vd_trace(VD_TRACE_ATTACH, "server: nobody reads: %s", strerror(errno));
    }
}

/* Whether the work is done, after a while.  The client's end of the socket
 * says that he wants it to stop, or is no more. */
static bool
follow(struct vd_upkeep *upkeep, int client)
{
    bool cancelled = vd_progress_cancelled(&upkeep->work.progress);
    struct pollfd waited[] = {
        {.fd = upkeep->done, .events = POLLIN},
        {.fd = cancelled ? -1 : client, .events = POLLRDHUP},
        {.fd = cancelled ? -1 : upkeep->stopping, .events = POLLIN},
    };
    int ready = poll(waited, 3, VD_UPKEEP_REPORT_MS);
    if (ready > 0 && (waited[1].revents != 0 || waited[2].revents != 0)) {
        vd_progress_cancel(&upkeep->work.progress);
    }
    return ready > 0 && waited[0].revents != 0;
}

/* Lets the worker do one thing, and tells the client how far it is. */
static void
perform(struct vd_upkeep *upkeep, int client,
        vd_error (*wanted)(struct vd_upkeep_work *work))
{
    eventfd_t count;
    upkeep->perform = wanted;
    sem_post(&upkeep->wanted);
    while (!follow(upkeep, client)) {
        report(upkeep, client, VD_UPKEEP_WORKING);
    }
    eventfd_read(upkeep->done, &count);
}

/* Whether the client has made what stands on the file as short as that. */
static bool
may_cut(const struct vd_upkeep *upkeep, int client)
{
    struct vd_upkeep_request request;
    size_t none;
    report(upkeep, client, VD_UPKEEP_SHORTENED);
    return await(upkeep, client, POLLIN, CUT_LIMIT_MS) &&
           vd_channel_receive(client, &request, sizeof(request), NULL, 0,
                              &none) == ERROR_SUCCESS &&
           request.protocol == VD_SERVER_PROTOCOL &&
           request.operation == VD_UPKEEP_CUT;
}

static void
resize(struct vd_upkeep *upkeep, int client)
{
    perform(upkeep, client, vd_upkeep_prepare);
    if (upkeep->result != ERROR_SUCCESS) {
        return;
    }
    if (upkeep->work.shortened && !may_cut(upkeep, client)) {
        vd_trace(VD_TRACE_ATTACH, "server: nothing is cut off after all");
        vd_upkeep_restore(&upkeep->work);
        upkeep->result = ERROR_OPERATION_ABORTED;
        return;
    }
    perform(upkeep, client, vd_upkeep_resize);
}

static void
run(struct vd_upkeep *upkeep, int client,
    const struct vd_upkeep_request *request, int fd)
{
    upkeep->work = (struct vd_upkeep_work){
        .file = upkeep->file,
        .device = upkeep->device,
        .fd = fd,
        .options =
            {
                .no_zero_scan = request->no_zero_scan != 0,
                .no_block_moves = request->no_block_moves != 0,
            },
        .resize =
            {
                .mode = (enum vd_resize_mode)request->resize_mode,
                .size_bytes = request->size_bytes,
            },
    };
    if (request->operation == VD_UPKEEP_RESIZE) {
        resize(upkeep, client);
    }
    else {
        perform(upkeep, client, vd_upkeep_compact);
    }
    close(fd);
    report(upkeep, client, VD_UPKEEP_OVER);
}

static void
attend(struct vd_upkeep *upkeep, int client)
{
    struct vd_upkeep_request request;
    int fd;
    if (is_permitted(upkeep, client) &&
        receive(upkeep, client, &request, &fd) == ERROR_SUCCESS) {
        run(upkeep, client, &request, fd);
    }
}

static void *
listen_on(void *argument)
{
    struct vd_upkeep *upkeep = argument;
    sem_post(&upkeep->running);
    while (!stops(upkeep)) {
        if (!await(upkeep, upkeep->listener, POLLIN, -1)) {
            continue;
        }
        VD_AUTO_CLOSE int client =
            accept4(upkeep->listener, NULL, NULL, SOCK_CLOEXEC);
        if (client >= 0) {
            attend(upkeep, client);
        }
    }
    upkeep->perform = NULL;
    sem_post(&upkeep->wanted);
    return NULL;
}

/* ---- life ---- */

static void
destroy(struct vd_upkeep *upkeep)
{
    if (upkeep->stopping >= 0) {
        close(upkeep->stopping);
    }
    if (upkeep->done >= 0) {
        close(upkeep->done);
    }
    sem_destroy(&upkeep->wanted);
    sem_destroy(&upkeep->running);
    free(upkeep);
}

static vd_error
make(const struct vd_fuse_file *file, struct vd_upkeep **out)
{
    struct vd_upkeep *upkeep = calloc(1, sizeof(*upkeep));
    if (upkeep == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    upkeep->file = file;
    upkeep->uid = geteuid();
    upkeep->listener = -1;
    upkeep->stopping = eventfd(0, EFD_CLOEXEC);
    upkeep->done = eventfd(0, EFD_CLOEXEC);
    sem_init(&upkeep->wanted, 0, 0);
    sem_init(&upkeep->running, 0, 0);
    if (upkeep->stopping < 0 || upkeep->done < 0) {
        vd_error error = vd_error_from_errno(errno);
        destroy(upkeep);
        return error;
    }
    *out = upkeep;
    return ERROR_SUCCESS;
}

/* The worker alone waits for nothing but to be sent away. */
static vd_error
start_threads(struct vd_upkeep *upkeep)
{
    int error_number = pthread_create(&upkeep->worker, NULL, work, upkeep);
    if (error_number != 0) {
        return vd_error_from_errno(error_number);
    }
    error_number = pthread_create(&upkeep->receiver, NULL, listen_on, upkeep);
    if (error_number != 0) {
        sem_post(&upkeep->wanted);
        pthread_join(upkeep->worker, NULL);
        return vd_error_from_errno(error_number);
    }
    wait_for(&upkeep->running);
    wait_for(&upkeep->running);
    return ERROR_SUCCESS;
}

vd_error
vd_upkeep_start(int listener, int device, const struct vd_fuse_file *file,
                struct vd_upkeep **out)
{
    struct vd_upkeep *upkeep = NULL;
    vd_error error = make(file, &upkeep);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    upkeep->listener = listener;
    upkeep->device = device;
    error = start_threads(upkeep);
    if (error != ERROR_SUCCESS) {
        destroy(upkeep);
        return error;
    }
    *out = upkeep;
    return ERROR_SUCCESS;
}

void
vd_upkeep_stop(struct vd_upkeep *upkeep)
{
    if (upkeep == NULL) {
        return;
    }
    notify(upkeep->stopping);
    pthread_join(upkeep->receiver, NULL);
    pthread_join(upkeep->worker, NULL);
    close(upkeep->listener);
    destroy(upkeep);
}
