/*
 * Starting the disk server (server_client.h).
 *
 * The program that is started leaves a child and ends at once; exactly that
 * one process is waited for, so nothing is left for the caller's own child
 * handling.
 */
#include "attach/server_client.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "attach/paths.h"
#include "attach/text.h"
#include "base/cleanup.h"
#include "base/trace.h"
#include "server/channel.h"
#include "server/protocol.h"
#include "server/spawn.h"

#define STOP_LIMIT_MS 30000

#define DEBUG_SIZE 256

/* -- the program -- */

/* Beside the shared object that this code is in.  Tests name another one. */
static vd_error
find_program(char path[PATH_MAX])
{
    const char *given = secure_getenv("VIRTDISK_SERVER");
    Dl_info own;
    if (given != NULL && given[0] == '/') {
        return vd_text_format(path, PATH_MAX, "%s", given)
                   ? ERROR_SUCCESS
                   : ERROR_FILENAME_EXCED_RANGE;
    }
    if (dladdr(&vd_server_start, &own) == 0 || own.dli_fname == NULL) {
        vd_trace(VD_TRACE_ATTACH, "no file of this code");
        return ERROR_NOT_SUPPORTED;
    }
    const char *slash = strrchr(own.dli_fname, '/');
    int length = slash == NULL ? 0 : (int)(slash - own.dli_fname + 1);
    return vd_text_format(path, PATH_MAX, "%.*s" VD_SERVER_PROGRAM, length,
                          own.dli_fname)
               ? ERROR_SUCCESS
               : ERROR_FILENAME_EXCED_RANGE;
}

/* Nothing of the environment but the wish for traces. */
struct environment {
    char debug[DEBUG_SIZE];
    char *variables[2];
};

static void
make_environment(struct environment *environment)
{
    const char *debug = secure_getenv("VIRTDISK_DEBUG");
    *environment = (struct environment){.debug = ""};
    if (debug != NULL &&
        vd_text_format(environment->debug, sizeof(environment->debug),
                       "VIRTDISK_DEBUG=%s", debug)) {
        environment->variables[0] = environment->debug;
    }
}

static vd_error
run_program(int control)
{
    char path[PATH_MAX];
    char *const arguments[] = {VD_SERVER_ARGV0, NULL};
    struct environment environment;
    vd_error error = find_program(path);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    make_environment(&environment);
    int error_number = vd_spawn_run(&(struct vd_spawn){
        .path = path,
        .arguments = arguments,
        .environment = environment.variables,
        .passed = control,
        .passed_as = VD_SERVER_CONTROL,
    });
    if (error_number != 0) {
        vd_trace(VD_TRACE_ATTACH, "the disk server %s: %s", path,
                 strerror(error_number));
        return error_number == ENOENT || error_number == EACCES
                   ? ERROR_NOT_SUPPORTED
                   : vd_error_from_errno(error_number);
    }
    return ERROR_SUCCESS;
}

/* -- talking to it -- */

static vd_error
send_files(int server, const struct vd_server_options *options)
{
    const struct vd_disk_files *files = options->files;
    struct vd_server_request request = {
        .protocol = VD_SERVER_PROTOCOL,
        .device_id = files->device_id,
        .layers = (uint32_t)files->count,
        .read_only = options->read_only,
        .visible = options->visible != NULL,
        .upkeep = options->listener != NULL,
        .window_offset = options->window_offset,
        .window_length = options->window_length,
    };
    vd_error error =
        vd_channel_send(server, &request, sizeof(request), NULL, 0);
    for (size_t i = 0; i < files->count && error == ERROR_SUCCESS;
         i += VD_CHANNEL_FDS) {
        size_t left = files->count - i;
        error = vd_channel_send(server, "", 1, files->fds + i,
                                left < VD_CHANNEL_FDS ? left : VD_CHANNEL_FDS);
    }
    return error;
}

static vd_error
send_place(int server, const struct vd_server_visible *visible)
{
    struct vd_server_place place = {
        .mode = visible->mode,
        .permanent = visible->permanent,
    };
    if (!vd_text_format(place.path, sizeof(place.path), "%s", visible->path)) {
        return ERROR_FILENAME_EXCED_RANGE;
    }
    return vd_channel_send(server, &place, sizeof(place), &visible->file, 1);
}

static vd_error
send_request(int server, const struct vd_server_options *options)
{
    vd_error error = send_files(server, options);
    if (error == ERROR_SUCCESS && options->visible != NULL) {
        error = send_place(server, options->visible);
    }
    if (error == ERROR_SUCCESS && options->listener != NULL) {
        error = vd_channel_send(server, "", 1, options->listener, 1);
    }
    return error;
}

/* mount_out: NULL if no descriptor is to come. */
static vd_error
receive_reply(int server, int *mount_out)
{
    struct vd_server_reply reply;
    size_t count;
    vd_error error =
        vd_channel_receive(server, &reply, sizeof(reply), mount_out,
                           mount_out != NULL ? 1 : 0, &count);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (reply.protocol != VD_SERVER_PROTOCOL ||
        (reply.error == ERROR_SUCCESS && mount_out != NULL && count == 0)) {
        vd_trace(VD_TRACE_ATTACH, "a disk server of another version");
        return ERROR_INVALID_DATA;
    }
    return reply.error;
}

static vd_error
open_mounted(int mount, bool read_only, int *file_out)
{
    char path[sizeof(VD_PATH_OWN_FDS) + 16];
    if (!vd_text_format(path, sizeof(path), VD_PATH_OWN_FDS "/%d", mount)) {
        return ERROR_INVALID_HANDLE;
    }
    int file = open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
    if (file < 0) {
        vd_trace(VD_TRACE_ATTACH, "opening the served disk: %s",
                 strerror(errno));
        return vd_error_from_errno(errno);
    }
    *file_out = file;
    return ERROR_SUCCESS;
}

static vd_error
obtain_file(int server, const struct vd_server_options *options, int *file_out)
{
    VD_AUTO_CLOSE int mount = -1;
    vd_error error = send_request(server, options);
    if (error == ERROR_SUCCESS) {
        error = receive_reply(server, &mount);
    }
    if (error == ERROR_SUCCESS) {
        error = receive_reply(server, NULL);
    }
    if (error == ERROR_SUCCESS) {
        error = open_mounted(mount, options->read_only, file_out);
    }
    return error;
}

/* It has its place, and is not opened here. */
static vd_error
obtain_visible_file(int server, const struct vd_server_options *options)
{
    vd_error error = send_request(server, options);
    return error == ERROR_SUCCESS ? receive_reply(server, NULL) : error;
}

/* -- all of it -- */

/* The server's end is never the descriptor that it is to become: older C
 * libraries would leave it to be closed. */
static vd_error
make_channel(int *own_out, int *control_out)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        return vd_error_from_errno(errno);
    }
    VD_AUTO_CLOSE int own = pair[0];
    VD_AUTO_CLOSE int other = pair[1];
    int control = fcntl(other, F_DUPFD_CLOEXEC, VD_SERVER_CONTROL + 1);
    if (control < 0) {
        return vd_error_from_errno(errno);
    }
    *own_out = vd_take_fd(&own);
    *control_out = control;
    return ERROR_SUCCESS;
}

vd_error
vd_server_start(const struct vd_server_options *options,
                struct vd_server_file *out)
{
    struct vd_server_file served = {-1, -1};
    int control = -1;
    vd_error error = make_channel(&served.server, &control);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = run_program(control);
    close(control);
    if (error == ERROR_SUCCESS) {
        error = options->visible != NULL
                    ? obtain_visible_file(served.server, options)
                    : obtain_file(served.server, options, &served.file);
    }
    if (error != ERROR_SUCCESS) {
        vd_server_stop(&served);
        return error;
    }
    *out = served;
    return ERROR_SUCCESS;
}

/* Answers that nobody has read may still be in the way of the end; the
 * server sends no more than two. */
static void
wait_for_end(int server)
{
    struct pollfd end = {.fd = server, .events = 0}; /* POLLHUP is implied */
    int ready;
    do {
        ready = poll(&end, 1, STOP_LIMIT_MS);
    } while (ready < 0 && errno == EINTR);
    if (ready == 0) {
        vd_trace(VD_TRACE_ATTACH, "the disk server does not end");
    }
}

void
vd_server_stop(struct vd_server_file *file)
{
    if (file->file >= 0) {
        close(file->file);
    }
    wait_for_end(file->server);
    close(file->server);
    *file = (struct vd_server_file){-1, -1};
}
