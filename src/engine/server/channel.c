/*
 * Messages with descriptors over a SOCK_SEQPACKET socket (unix(7)).
 */
#include "server/channel.h"

#include <assert.h>
#include <errno.h>
#include <stdalign.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/trace.h"

#define CONTROL_SIZE CMSG_SPACE(sizeof(int) * VD_CHANNEL_FDS)

static vd_error
channel_error(const char *what)
{
    int error_number = errno;
    vd_trace(VD_TRACE_ATTACH, "%s: %s", what, strerror(error_number));
    if (error_number == EPIPE || error_number == ECONNRESET) {
        return ERROR_BROKEN_PIPE;
    }
    return vd_error_from_errno(error_number);
}

static ssize_t
send_with_fds(int channel, const void *message, size_t length, const int *fds,
              size_t count)
{
    alignas(struct cmsghdr) char control[CONTROL_SIZE] = {0};
    struct iovec data = {(void *)message, length};
    struct msghdr header = {
        .msg_iov = &data,
        .msg_iovlen = 1,
        .msg_control = control,
        .msg_controllen = CMSG_SPACE(sizeof(int) * count),
    };
    struct cmsghdr *rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int) * count);
    memcpy(CMSG_DATA(rights), fds, sizeof(int) * count);
    return sendmsg(channel, &header, MSG_NOSIGNAL);
}

/* Without descriptors by the plainer call, the only one that the confined
 * server has. */
vd_error
vd_channel_send(int channel, const void *message, size_t length,
                const int *fds, size_t count)
{
    ssize_t sent;
    assert(count <= VD_CHANNEL_FDS);
    do {
        sent = count == 0
                   ? send(channel, message, length, MSG_NOSIGNAL)
                   : send_with_fds(channel, message, length, fds, count);
    } while (sent < 0 && errno == EINTR);
    return sent < 0 ? channel_error("sending to the other process")
                    : ERROR_SUCCESS;
}

/* Takes the descriptors over: none may be lost, else nobody closes it. */
static size_t
take_fds(struct msghdr *header, int fds[VD_CHANNEL_FDS])
{
    size_t count = 0;
    for (struct cmsghdr *part = CMSG_FIRSTHDR(header); part != NULL;
         part = CMSG_NXTHDR(header, part)) {
        if (part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_RIGHTS) {
            size_t here = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            assert(count + here <= VD_CHANNEL_FDS); /* the room given */
            memcpy(fds + count, CMSG_DATA(part), here * sizeof(int));
            count += here;
        }
    }
    return count;
}

static vd_error
check_message(const struct msghdr *header, size_t wanted, size_t length)
{
    if (length == 0 && wanted != 0) {
        return ERROR_BROKEN_PIPE;
    }
    if ((header->msg_flags & MSG_CTRUNC) != 0) {
        vd_trace(VD_TRACE_ATTACH, "no room for the descriptors that came");
        return ERROR_TOO_MANY_OPEN_FILES;
    }
    if (length != wanted || (header->msg_flags & MSG_TRUNC) != 0) {
        vd_trace(VD_TRACE_ATTACH, "a message of another length than agreed");
        return ERROR_INVALID_DATA;
    }
    return ERROR_SUCCESS;
}

static void
close_fds(const int *fds, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        close(fds[i]);
    }
}

vd_error
vd_channel_receive(int channel, void *message, size_t length, int *fds,
                   size_t room, size_t *count_out)
{
    alignas(struct cmsghdr) char control[CONTROL_SIZE];
    struct iovec data = {message, length};
    struct msghdr header = {
        .msg_iov = &data,
        .msg_iovlen = 1,
        .msg_control = control,
        .msg_controllen = sizeof(control),
    };
    int came[VD_CHANNEL_FDS];
    ssize_t received;
    do {
        received = recvmsg(channel, &header, MSG_CMSG_CLOEXEC);
    } while (received < 0 && errno == EINTR);
    if (received < 0) {
        return channel_error("receiving from the other process");
    }
    size_t count = take_fds(&header, came);
    vd_error error = check_message(&header, length, (size_t)received);
    if (error == ERROR_SUCCESS && count > room) {
        error = ERROR_INVALID_DATA;
    }
    if (error != ERROR_SUCCESS) {
        close_fds(came, count);
        return error;
    }
    if (count != 0) {
        memcpy(fds, came, count * sizeof(int));
    }
    *count_out = count;
    return ERROR_SUCCESS;
}
