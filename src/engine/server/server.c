/*
 * The life of the disk server.
 *
 * Started by the process that attaches a disk no loop device can show by
 * itself, it takes over the open and locked files of the disk, opens the
 * disk, makes it a file and gives that away, or, without privilege, makes it
 * a visible one (keeper.h).  The attacher puts a loop device on the file that
 * he was given (fuse_mount.h) and goes his own way.  From then on the
 * server depends on the file alone: with the last user of the device goes
 * the device, with it the file's last opener, with him the mount and the
 * connection (a visible file must have been unmounted besides); the threads
 * then see its end, everything is committed, and the server ends and with it
 * the locks.
 *
 * Before it answers any request of the file it has given up its privileges
 * and nearly all system calls (confine.h); it has opened all that it ever
 * opens.
 */
#include "server/server.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/trace.h"
#include "disk/disk.h"
#include "server/channel.h"
#include "server/fuse.h"
#include "server/fuse_mount.h"
#include "server/keeper.h"
#include "server/log.h"
#include "server/process.h"
#include "server/protocol.h"
#include "server/request.h"
#include "server/upkeep.h"
#include "server/workers.h"

struct server {
    int control;
    int device; /* the connection; -1: none yet */
    struct vd_fuse_file file;
    struct vd_gate gate;
    struct vd_server_place place;
    int place_file;           /* -1: not visible */
    int keeper;               /* tells him by its end of ours */
    int listener;             /* -1: no upkeep */
    struct vd_upkeep *upkeep; /* likewise NULL */
    struct vd_workers *workers;
};

/* -- the disk -- */

static vd_error
check_window(const struct vd_fuse_file *file)
{
    uint64_t length = vd_gate_length(file->gate);
    uint32_t sector_size = vd_disk_sector_size(file->disk);
    if (length == 0 || file->offset % sector_size != 0 ||
        length % sector_size != 0 ||
        !vd_range_within(file->offset, length,
                         vd_disk_size_bytes(file->disk))) {
        vd_trace(VD_TRACE_ATTACH, "server: a window outside the disk");
        return ERROR_INVALID_PARAMETER;
    }
    return ERROR_SUCCESS;
}

static vd_error
receive_more(struct server *server, const struct vd_server_request *request)
{
    vd_error error = ERROR_SUCCESS;
    if (request->visible != 0) {
        error = vd_request_receive_place(server->control, &server->place,
                                         &server->place_file);
    }
    if (error == ERROR_SUCCESS && request->upkeep != 0) {
        error = vd_request_receive_upkeep(server->control, &server->listener);
    }
    return error;
}

static vd_error
receive(struct server *server, struct vd_server_request *request,
        struct vd_disk_files *files)
{
    vd_error error = vd_request_receive(server->control, request, files);
    if (error == ERROR_SUCCESS) {
        error = receive_more(server, request);
        if (error != ERROR_SUCCESS) {
            vd_disk_files_close(files);
        }
    }
    return error;
}

static void
describe_file(struct server *server, const struct vd_server_request *request)
{
    bool read_only = request->read_only != 0;
    server->file.offset = request->window_offset;
    server->file.gate = &server->gate;
    server->file.whole =
        request->window_offset == 0 &&
        request->window_length == vd_disk_size_bytes(server->file.disk);
    vd_gate_init(&server->gate, request->window_length);
    server->file.read_only = read_only;
    server->file.mode = server->place_file >= 0 ? server->place.mode
                        : read_only             ? S_IRUSR
                                                : S_IRUSR | S_IWUSR;
    server->file.uid = geteuid();
    server->file.gid = getegid();
}

static vd_error
open_disk(struct server *server)
{
    struct vd_server_request request;
    struct vd_disk_files files;
    vd_error error = receive(server, &request, &files);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error =
        vd_disk_open_files(&files, request.read_only == 0, &server->file.disk);
    if (error != ERROR_SUCCESS) {
        vd_disk_files_close(&files);
        return error;
    }
    describe_file(server, &request);
    return check_window(&server->file);
}

/* What could not be written is told to whoever reads logs: the device, and
 * all who could be answered, are gone. */
static int
close_disk(struct server *server)
{
    if (server->file.disk == NULL) {
        return EXIT_FAILURE;
    }
    VD_AUTO_FREE char *path = strdup(vd_disk_path(server->file.disk));
    vd_error error = vd_disk_finish(server->file.disk);
    if (error != ERROR_SUCCESS) {
        vd_log("%s: its last changes are lost: error %u",
               path != NULL ? path : "a disk", error);
    }
    return error == ERROR_SUCCESS ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* -- the file -- */

/* The kernel's first request, INIT, waits already; the connection cannot be
 * cloned before. */
static vd_error
serve_first(const struct server *server)
{
    struct vd_fuse_buffer buffer;
    vd_error error = vd_fuse_buffer_new(&buffer);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (!vd_fuse_serve(server->device, &server->file, &buffer)) {
        error = ERROR_GEN_FAILURE;
    }
    vd_fuse_buffer_free(&buffer);
    return error;
}

static vd_error
send_reply(const struct server *server, vd_error error, int mount)
{
    struct vd_server_reply reply = {VD_SERVER_PROTOCOL, error};
    return vd_channel_send(server->control, &reply, sizeof(reply), &mount,
                           mount >= 0 ? 1 : 0);
}

static vd_error
make_hidden_file(struct server *server)
{
    VD_AUTO_CLOSE int mount = -1;
    vd_error error =
        vd_fuse_mount(server->file.read_only, &server->device, &mount);
    if (error == ERROR_SUCCESS) {
        error = serve_first(server);
    }
    if (error == ERROR_SUCCESS) {
        error = send_reply(server, ERROR_SUCCESS, mount);
    }
    return error;
}

/* Those who see it at once wait for their answers until there are threads. */
static vd_error
make_visible_file(struct server *server)
{
    struct vd_keeper_options options = {
        .place = &server->place,
        .place_file = server->place_file,
        .control = server->control,
        .read_only = server->file.read_only,
    };
    vd_error error =
        vd_keeper_start(&options, &server->device, &server->keeper);
    close(server->place_file); /* its lock is the keeper's */
    return error == ERROR_SUCCESS ? serve_first(server) : error;
}

static vd_error
make_file(struct server *server)
{
    return server->place_file >= 0 ? make_visible_file(server)
                                   : make_hidden_file(server);
}

/* -- serving -- */

/* malloc would look for the number of processors in /sys, later. */
static void
settle_malloc(void)
{
#ifdef __GLIBC__
    mallopt(M_ARENA_MAX, 2);
#endif
}

static vd_error
confine(enum vd_confinement confinement)
{
    vd_error error = vd_confine_system_calls(confinement);
    if (error == ERROR_NOT_SUPPORTED) {
        vd_log("this kernel does not filter system calls");
        return ERROR_SUCCESS;
    }
    return error;
}

static vd_error
start(struct server *server, enum vd_confinement confinement)
{
    settle_malloc();
    vd_error error = vd_confine_privileges();
    if (error == ERROR_SUCCESS) {
        error =
            vd_workers_start(server->device, &server->file, &server->workers);
    }
    if (error == ERROR_SUCCESS && server->listener >= 0) {
        error = vd_upkeep_start(server->listener, server->device,
                                &server->file, &server->upkeep);
    }
    return error == ERROR_SUCCESS ? confine(confinement) : error;
}

static vd_error
set_up(struct server *server, enum vd_confinement confinement)
{
    vd_error error = open_disk(server);
    if (error == ERROR_SUCCESS) {
        error = make_file(server);
    }
    if (error == ERROR_SUCCESS) {
        error = start(server, confinement);
    }
    return error;
}

/* Also after a failure the attacher waits for the end of the socket, and so
 * finds the image closed and its locks free. */
static int
serve(int control, enum vd_confinement confinement)
{
    static pthread_mutex_t partial = PTHREAD_MUTEX_INITIALIZER;
    struct server server = {
        .control = control,
        .device = -1,
        .place_file = -1,
        .keeper = -1,
        .listener = -1,
        .file = {.partial = &partial},
    };
    vd_error error = set_up(&server, confinement);
    vd_error unheard = send_reply(&server, error, -1);
    if (error != ERROR_SUCCESS || unheard != ERROR_SUCCESS) {
        (void)close_disk(&server);
        return EXIT_FAILURE; /* whatever threads there are end with us */
    }
    vd_workers_join(server.workers);
    vd_upkeep_stop(server.upkeep);
    return close_disk(&server);
}

int
vd_server_main(enum vd_confinement confinement)
{
    int control;
    if (vd_process_leave(&control) != ERROR_SUCCESS) {
        return EXIT_FAILURE; /* told by the end of the socket */
    }
    vd_log_open();
    vd_process_protect();
    return serve(control, confinement);
}
