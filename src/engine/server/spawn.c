/*
 * Running another program (spawn.h), by posix_spawn: it runs none of the
 * calling program's fork handlers, and what its other threads are doing does
 * not matter.
 */
#include "server/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

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

/* After the passed descriptor has its number: it may be one of the three. */
static int
silence(posix_spawn_file_actions_t *actions)
{
    int last = secure_getenv("VIRTDISK_DEBUG") != NULL ? STDOUT_FILENO
                                                       : STDERR_FILENO;
    int error_number = 0;
    for (int fd = STDIN_FILENO; fd <= last && error_number == 0; fd++) {
        error_number = posix_spawn_file_actions_addopen(
            actions, fd, "/dev/null", O_RDWR, 0);
    }
    return error_number;
}

static int
set_files(const struct vd_spawn *spawn, posix_spawn_file_actions_t *actions)
{
    int error_number = 0;
    if (spawn->passed >= 0) {
        error_number = posix_spawn_file_actions_adddup2(actions, spawn->passed,
                                                        spawn->passed_as);
    }
    if (error_number == 0 && spawn->silent) {
        error_number = silence(actions);
    }
    return error_number;
}

static int
start_with(const struct vd_spawn *spawn, pid_t *pid_out,
           posix_spawn_file_actions_t *actions, posix_spawnattr_t *attributes)
{
    int error_number = set_signals(attributes);
    if (error_number == 0) {
        error_number = set_files(spawn, actions);
    }
    return error_number != 0
               ? error_number
               : posix_spawn(pid_out, spawn->path, actions, attributes,
                             spawn->arguments, spawn->environment);
}

static int
start(const struct vd_spawn *spawn, pid_t *pid_out)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    int error_number = posix_spawn_file_actions_init(&actions);
    if (error_number != 0) {
        return error_number;
    }
    error_number = posix_spawnattr_init(&attributes);
    if (error_number == 0) {
        error_number = start_with(spawn, pid_out, &actions, &attributes);
        posix_spawnattr_destroy(&attributes);
    }
    posix_spawn_file_actions_destroy(&actions);
    return error_number;
}

int
vd_spawn_run(const struct vd_spawn *spawn)
{
    pid_t pid;
    int error_number = start(spawn, &pid);
    if (error_number != 0) {
        return error_number;
    }
    /* ECHILD: somebody else waits for all children, or nobody for any; the
     * latter also returns only when it has ended. */
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
    }
    return 0;
}
