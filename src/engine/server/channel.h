/*
 * Messages with descriptors over a SOCK_SEQPACKET socket.
 */
#ifndef VD_SERVER_CHANNEL_H
#define VD_SERVER_CHANNEL_H

#include <stddef.h>

#include "base/error.h"

/* With one message; the kernel's own limit is 253. */
#define VD_CHANNEL_FDS 64

/* ERROR_BROKEN_PIPE if nobody is at the other end (any more). */
VD_MUST_CHECK
vd_error vd_channel_send(int channel, const void *message, size_t length,
                         const int *fds, size_t count);

/*
 * Waits for a message of exactly this length.  Up to `room` descriptors come
 * with it, O_CLOEXEC.  ERROR_BROKEN_PIPE at the end; ERROR_INVALID_DATA for
 * another length or more descriptors; ERROR_TOO_MANY_OPEN_FILES if they could
 * not be taken in.
 */
VD_MUST_CHECK
vd_error vd_channel_receive(int channel, void *message, size_t length,
                            int *fds, size_t room, size_t *count_out);

#endif
