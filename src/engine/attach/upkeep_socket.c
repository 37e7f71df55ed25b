/*
 * The sockets of disk servers (upkeep_socket.h).
 *
 * The directory is reached by its descriptor: the name of a socket may have
 * no more than 107 bytes.
 */
#include "attach/upkeep_socket.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "attach/paths.h"
#include "attach/record.h"
#include "attach/text.h"
#include "base/cleanup.h"
#include "base/trace.h"

#define SUFFIX ".upkeep"
#define NEW_NAME "new" SUFFIX
#define NAME_SIZE (VD_RECORD_NAME_SIZE + sizeof(SUFFIX))
#define BACKLOG 4

static bool
make_address(int dir, const char *name, struct sockaddr_un *out)
{
    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    return vd_text_format(out->sun_path, sizeof(out->sun_path),
                          VD_PATH_OWN_FDS "/%d/%s", dir, name);
}

static bool
name_of(const char *record, char buffer[NAME_SIZE])
{
    return vd_text_format(buffer, NAME_SIZE, "%s" SUFFIX, record);
}

static vd_error
refused(const char *what)
{
    int error_number = errno;
    vd_trace(VD_TRACE_ATTACH, "%s: %s", what, strerror(error_number));
    return vd_error_from_errno(error_number);
}

/* Nobody can connect before it listens, so the mode is in time. */
static vd_error
bind_new(int dir, int listener)
{
    struct sockaddr_un address;
    if (!make_address(dir, NEW_NAME, &address)) {
        return ERROR_FILENAME_EXCED_RANGE;
    }
    vd_upkeep_socket_drop(dir); /* left by a crash */
    if (bind(listener, (const struct sockaddr *)&address, sizeof(address)) <
            0 ||
        fchmodat(dir, NEW_NAME, S_IRUSR | S_IWUSR, 0) < 0 ||
        listen(listener, BACKLOG) < 0) {
        return refused("a socket for upkeep");
    }
    return ERROR_SUCCESS;
}

vd_error
vd_upkeep_socket_listen(int dir, int *listener_out)
{
    VD_AUTO_CLOSE int listener =
        socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (listener < 0) {
        return refused("a socket for upkeep");
    }
    vd_error error = bind_new(dir, listener);
    if (error != ERROR_SUCCESS) {
        vd_upkeep_socket_drop(dir);
        return error;
    }
    *listener_out = vd_take_fd(&listener);
    return ERROR_SUCCESS;
}

vd_error
vd_upkeep_socket_name(int dir, const char *record)
{
    char name[NAME_SIZE];
    if (!name_of(record, name)) {
        return ERROR_INVALID_NAME;
    }
    return renameat(dir, NEW_NAME, dir, name) < 0
               ? refused("naming the socket for upkeep")
               : ERROR_SUCCESS;
}

static void
remove_name(int dir, const char *name)
{
    if (unlinkat(dir, name, 0) < 0 && errno != ENOENT) {
        (void)refused("removing a socket for upkeep");
    }
}

void
vd_upkeep_socket_drop(int dir)
{
    remove_name(dir, NEW_NAME);
}

void
vd_upkeep_socket_remove(int dir, const char *record)
{
    char name[NAME_SIZE];
    if (name_of(record, name)) {
        remove_name(dir, name);
    }
}

/* It is sent an open file: nobody gets one who could not have it anyway. */
static vd_error
check_peer(int connected)
{
    struct ucred peer;
    socklen_t length = sizeof(peer);
    if (getsockopt(connected, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0) {
        return refused("who listens");
    }
    if (peer.uid != 0 && peer.uid != geteuid()) {
        vd_trace(VD_TRACE_ATTACH, "a stranger listens");
        return ERROR_ACCESS_DENIED;
    }
    return ERROR_SUCCESS;
}

vd_error
vd_upkeep_socket_connect(int dir, const char *record, int *socket_out)
{
    char name[NAME_SIZE];
    struct sockaddr_un address;
    if (!name_of(record, name) || !make_address(dir, name, &address)) {
        return ERROR_NOT_FOUND;
    }
    VD_AUTO_CLOSE int connected =
        socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (connected < 0) {
        return refused("a socket for upkeep");
    }
    if (connect(connected, (const struct sockaddr *)&address,
                sizeof(address)) < 0) {
        bool absent = errno == ENOENT || errno == ECONNREFUSED;
        vd_error error = refused("the disk server's upkeep");
        return absent ? ERROR_NOT_FOUND : error;
    }
    vd_error error = check_peer(connected);
    if (error == ERROR_SUCCESS) {
        *socket_out = vd_take_fd(&connected);
    }
    return error;
}
