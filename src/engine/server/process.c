/*
 * Becoming a process of its own (process.h).
 *
 * Signals: those of a terminal (SIGINT, SIGQUIT, SIGHUP) are for the program
 * that attached the disk, not for the disk.  SIGTERM is ignored as well: who
 * sends it to every process, as a shutdown does, has file systems on this
 * disk still to unmount, and their last writes must find it.  The server
 * ends by itself, in order, when its disk is detached; SIGKILL ends it at
 * once, as a power cut would.
 */
#include "server/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/trace.h"
#include "server/protocol.h"

/* The kernel headers of older build systems lack what kernels have. */
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

static void
ignore_signals(void)
{
    /* SIGPIPE, SIGXFSZ: their system calls fail as well. */
    static const int signals[] = {SIGINT,  SIGQUIT, SIGHUP,
                                  SIGTERM, SIGPIPE, SIGXFSZ};
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
        signal(signals[i], SIG_IGN);
    }
}

/* Only Linux 5.8 of all kernels with LOOP_CONFIGURE lacks close_range. */
void
vd_process_close_from(int first)
{
    if (syscall(SYS_close_range, first, ~0u, 0) == 0) {
        return;
    }
    long limit = sysconf(_SC_OPEN_MAX);
    for (int fd = first; fd < limit; fd++) {
        close(fd);
    }
}

static vd_error
become_child(void)
{
    pid_t child = fork();
    if (child < 0) {
        vd_trace(VD_TRACE_ATTACH, "server: fork: %s", strerror(errno));
        return vd_error_from_errno(errno);
    }
    if (child != 0) {
        _exit(EXIT_SUCCESS);
    }
    setsid(); /* a child of fork leads no group: it cannot fail */
    return ERROR_SUCCESS;
}

/* Every one of the three is open afterwards, so that no other file can come
 * to stand there. */
static vd_error
replace_standard_files(void)
{
    VD_AUTO_CLOSE int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0) {
        vd_trace(VD_TRACE_ATTACH, "server: /dev/null: %s", strerror(errno));
        return vd_error_from_errno(errno);
    }
    bool keep_errors =
        getenv("VIRTDISK_DEBUG") != NULL && fcntl(STDERR_FILENO, F_GETFD) >= 0;
    int last = keep_errors ? STDOUT_FILENO : STDERR_FILENO;
    for (int fd = STDIN_FILENO; fd <= last; fd++) {
        if (dup2(null, fd) < 0) {
            return vd_error_from_errno(errno);
        }
    }
    if (null <= STDERR_FILENO) {
        (void)vd_take_fd(&null); /* is itself one of the three */
    }
    return ERROR_SUCCESS;
}

vd_error
vd_process_leave(int *control_out)
{
    ignore_signals();
    /* Nothing of the attacher's may live as long as its disk. */
    vd_process_close_from(STDERR_FILENO + 1);
    vd_error error = become_child();
    if (error != ERROR_SUCCESS) {
        return error;
    }
    VD_AUTO_CLOSE int control =
        fcntl(VD_SERVER_CONTROL, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    if (control < 0 || chdir("/") < 0) {
        return vd_error_from_errno(errno);
    }
    error = replace_standard_files();
    if (error == ERROR_SUCCESS) {
        *control_out = vd_take_fd(&control);
    }
    return error;
}

static void
protect_from_oom(void)
{
    VD_AUTO_CLOSE int fd =
        open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "-1000", 5) != 5) {
        vd_trace(VD_TRACE_ATTACH, "server: memory shortage may end it: %s",
                 strerror(errno));
    }
}

static void
lift_limits(void)
{
    static const struct rlimit none = {RLIM_INFINITY, RLIM_INFINITY};
    setrlimit(RLIMIT_CPU, &none);
    setrlimit(RLIMIT_FSIZE, &none);
    setrlimit(RLIMIT_AS, &none);
    setrlimit(RLIMIT_DATA, &none);
}

void
vd_process_protect(void)
{
    protect_from_oom();
    lift_limits();
    if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) < 0) {
        vd_trace(VD_TRACE_ATTACH, "server: memory may wait for its disk: %s",
                 strerror(errno));
    }
}
