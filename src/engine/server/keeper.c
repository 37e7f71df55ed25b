/*
 * The keeper of a visible mount (keeper.h).
 *
 * It is forked off before the server is confined and has threads.  It holds
 * three descriptors: its end of a socket pair whose other end is the
 * server's, the attacher's socket, and the file below the mount, whose lock
 * says that the path is taken until the keeper has removed it.  It reads
 * nothing that the server could send.
 *
 * If somebody kills the keeper itself, the disk stays until it is detached.
 */
#include "server/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/trace.h"
#include "server/channel.h"
#include "server/fusermount.h"
#include "server/process.h"

/* Where the keeper has what it keeps. */
enum {
    SERVER_FD = STDERR_FILENO + 1,
    PLACE_FD,
    CONTROL_FD,
    FREE_FD, /* the first that is to be closed */
};

/* What the keeper has to say, once, with the descriptor if it is 0. */
struct news {
    vd_error error;
};

/* -- in the keeper -- */

/* Two steps: a descriptor may already have the number that another one is to
 * get. */
static bool
keep_only(int server, const struct vd_keeper_options *options)
{
    const int kept[] = {server, options->place_file, options->control};
    int apart[sizeof(kept) / sizeof(kept[0])];
    for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++) {
        apart[i] = fcntl(kept[i], F_DUPFD_CLOEXEC, FREE_FD);
        if (apart[i] < 0) {
            return false;
        }
    }
    for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++) {
        if (dup3(apart[i], SERVER_FD + (int)i, O_CLOEXEC) < 0) {
            return false;
        }
    }
    vd_process_close_from(options->place->permanent ? CONTROL_FD : FREE_FD);
    return true;
}

/* SIGTERM is how a session ends: then the disk goes with it.  The other
 * signals of the server's start stay ignored. */
static int
open_signals(void)
{
    sigset_t ending;
    sigemptyset(&ending);
    sigaddset(&ending, SIGTERM);
    signal(SIGCHLD, SIG_DFL);
    sigprocmask(SIG_BLOCK, &ending, NULL);
    signal(SIGTERM, SIG_DFL);
    return signalfd(-1, &ending, SFD_CLOEXEC);
}

static vd_error
mount_for_server(const struct vd_keeper_options *options)
{
    int device;
    struct news news = {
        vd_fusermount_mount(options->place->path, options->read_only, &device),
    };
    bool mounted = news.error == ERROR_SUCCESS;
    vd_error unheard = vd_channel_send(SERVER_FD, &news, sizeof(news), &device,
                                       mounted ? 1 : 0);
    if (mounted) {
        close(device); /* else the connection would not end with the server */
    }
    return mounted ? unheard : news.error;
}

static void
wait_for_end(int signals, bool permanent)
{
    struct pollfd ends[] = {
        {.fd = SERVER_FD, .events = 0}, /* POLLHUP is implied */
        {.fd = permanent ? -1 : CONTROL_FD, .events = POLLRDHUP},
        {.fd = signals, .events = POLLIN},
    };
    while (poll(ends, sizeof(ends) / sizeof(ends[0]), -1) < 0 &&
           errno == EINTR) {
    }
}

static void
remove_place(const char *path)
{
    struct stat there;
    struct stat ours;
    if (vd_fusermount_mounted(path)) {
        vd_fusermount_unmount(path, true);
    }
    if (!vd_fusermount_mounted(path) && lstat(path, &there) == 0 &&
        fstat(PLACE_FD, &ours) == 0 && there.st_ino == ours.st_ino &&
        there.st_dev == ours.st_dev) {
        unlink(path);
    }
}

static int
keep(int server, const struct vd_keeper_options *options)
{
    int status = EXIT_FAILURE;
    (void)prctl(PR_SET_NAME, "virtdisk-keeper");
    if (!keep_only(server, options)) {
        return status;
    }
    int signals = open_signals();
    if (signals >= 0 && mount_for_server(options) == ERROR_SUCCESS) {
        wait_for_end(signals, options->place->permanent != 0);
        status = EXIT_SUCCESS;
    }
    remove_place(options->place->path);
    return status;
}

/* -- in the server -- */

static vd_error
start(int pair[2], const struct vd_keeper_options *options)
{
    signal(SIGCHLD, SIG_IGN); /* nobody waits for it */
    pid_t child = fork();
    if (child < 0) {
        vd_trace(VD_TRACE_ATTACH, "server: fork: %s", strerror(errno));
        return vd_error_from_errno(errno);
    }
    if (child == 0) {
        close(pair[0]);
        _exit(keep(pair[1], options));
    }
    return ERROR_SUCCESS;
}

static vd_error
receive(int keeper, int *device_out)
{
    struct news news;
    size_t count = 0;
    vd_error error =
        vd_channel_receive(keeper, &news, sizeof(news), device_out, 1, &count);
    if (error != ERROR_SUCCESS || news.error != ERROR_SUCCESS) {
        return error != ERROR_SUCCESS ? error : news.error;
    }
    return count == 1 ? ERROR_SUCCESS : ERROR_INVALID_DATA;
}

vd_error
vd_keeper_start(const struct vd_keeper_options *options, int *device_out,
                int *keeper_out)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        return vd_error_from_errno(errno);
    }
    vd_error error = start(pair, options);
    close(pair[1]);
    if (error == ERROR_SUCCESS) {
        error = receive(pair[0], device_out);
    }
    if (error != ERROR_SUCCESS) {
        close(pair[0]);
        return error;
    }
    *keeper_out = pair[0];
    return ERROR_SUCCESS;
}
