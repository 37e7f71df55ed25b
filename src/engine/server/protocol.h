/*
 * What the attaching process and the disk server say to each other, over one
 * connected SOCK_SEQPACKET socket, which the server finds as descriptor 0.
 *
 *     attacher -> server  struct vd_server_request
 *                         one byte with up to VD_CHANNEL_FDS descriptors, as
 *                         often as it takes for all layers, leaf first
 *     server -> attacher  struct vd_server_reply; with it, if there is no
 *                         error, a descriptor that leads to the file
 *                         (an O_PATH one: open it through /proc/self/fd)
 *     server -> attacher  struct vd_server_reply: confined, and serving
 *     the socket's end    the server has ended, and let go of the image
 *
 * Both are of one build, on one machine: integers are in its own order.
 */
#ifndef VD_SERVER_PROTOCOL_H
#define VD_SERVER_PROTOCOL_H

#include <stdint.h>

#include "base/error.h"

/* The executable, and what it is called as.  systemd spares a process whose
 * name begins so when, at the end of a shutdown, it kills what is left: the
 * disk can then still be unmounted in order
 * (systemd.io/ROOT_STORAGE_DAEMONS). */
#define VD_SERVER_PROGRAM "virtdisk-server"
#define VD_SERVER_ARGV0 "@" VD_SERVER_PROGRAM

#define VD_SERVER_CONTROL 0

/* Another number for every change of this file: a program may run on while
 * the package is replaced. */
#define VD_SERVER_PROTOCOL 0x76640001u

struct vd_server_request {
    uint32_t protocol;
    uint32_t device_id; /* which format, VD_DEVICE_* */
    uint32_t layers;
    uint32_t read_only;     /* 0 or 1 */
    uint64_t window_offset; /* the part of the disk that the file is */
    uint64_t window_length;
};

struct vd_server_reply {
    uint32_t protocol;
    vd_error error;
};

#endif
