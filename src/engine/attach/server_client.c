/*
 * Starting the disk server (server_client.h).
 *
 * By posix_spawn, which neither runs the program's fork handlers nor copies
 * what its other threads are doing.  The program that is started leaves a
 * child and ends at once; exactly that one process is waited for, so nothing
 * is left for the caller's own child handling.
 */
#include "attach/server_client.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "attach/paths.h"
#include "attach/text.h"
#include "base/cleanup.h"
#include "base/trace.h"
#include "server/channel.h"
#include "server/protocol.h"

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

/* No signal is blocked, ignored or handled there, whatever it is here. */
static int
set_signals(posix_spawnattr_t *attributes)
{
    sigset_t set;
    sigfillset(&set);
    int error_number = posix_spawnattr_setsigdefault(attributes, &set);
    sigemptyset(&set);
    if (error_number == 0) {
        error_number = posix_spawnattr_setsigmask(attributes, &set);
    }
    if (error_number == 0) {
        error_number = posix_spawnattr_setflags(
            attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    }
    return error_number;
}

/* Returns 0 or an errno value. */
static int
spawn_with(const char *path, int control, pid_t *pid_out,
           posix_spawn_file_actions_t *actions, posix_spawnattr_t *attributes)
{
    char *arguments[] = {VD_SERVER_ARGV0, NULL};
    struct environment environment;
    make_environment(&environment);
    int error_number = set_signals(attributes);
    if (error_number == 0) {
        error_number = posix_spawn_file_actions_adddup2(actions, control,
                                                        VD_SERVER_CONTROL);
    }
    return error_number != 0 ? error_number
                             : posix_spawn(pid_out, path, actions, attributes,
                                           arguments, environment.variables);
}

static int
spawn(const char *path, int control, pid_t *pid_out)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    int error_number = posix_spawn_file_actions_init(&actions);
    if (error_number != 0) {
        return error_number;
    }
    error_number = posix_spawnattr_init(&attributes);
    if (error_number == 0) {
        error_number =
            spawn_with(path, control, pid_out, &actions, &attributes);
        posix_spawnattr_destroy(&attributes);
    }
    posix_spawn_file_actions_destroy(&actions);
    return error_number;
}

/* ECHILD: somebody else waits for all children, or nobody for any. */
static void
reap(pid_t pid)
{
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
    }
}

static vd_error
run_program(int control)
{
    char path[PATH_MAX];
    pid_t pid;
    vd_error error = find_program(path);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    int error_number = spawn(path, control, &pid);
    if (error_number != 0) {
        vd_trace(VD_TRACE_ATTACH, "the disk server %s: %s", path,
                 strerror(error_number));
        return error_number == ENOENT || error_number == EACCES
                   ? ERROR_NOT_SUPPORTED
                   : vd_error_from_errno(error_number);
    }
    reap(pid);
    return ERROR_SUCCESS;
}

/* -- talking to it -- */

static vd_error
send_request(int server, const struct vd_server_options *options)
{
    const struct vd_disk_files *files = options->files;
    struct vd_server_request request = {
        .protocol = VD_SERVER_PROTOCOL,
        .device_id = files->device_id,
        .layers = (uint32_t)files->count,
        .read_only = options->read_only,
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
        error = obtain_file(served.server, options, &served.file);
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
