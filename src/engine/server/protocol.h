/*
 * What the attaching process and the disk server say to each other, over one
 * connected SOCK_SEQPACKET socket, which the server finds as descriptor 0.
 *
 *     attacher -> server  struct vd_server_request
 *                         one byte with up to VD_CHANNEL_FDS descriptors, as
 *                         often as it takes for all layers, leaf first
 *                         if it is to be visible, struct vd_server_place with
 *                         the locked file of that path
 *                         if it has upkeep, one byte with the listening
 *                         socket for that
 *     server -> attacher  struct vd_server_reply; with it, if there is no
 *                         error, a descriptor that leads to the file
 *                         (an O_PATH one: open it through /proc/self/fd);
 *                         not of a visible file, which has a path
 *     server -> attacher  struct vd_server_reply: confined, and serving
 *     the socket's end    the server has ended, and let go of the image; and
 *                         the path of a visible file is gone
 *
 * Over the listening socket, to which others connect:
 *
 *     client -> server    struct vd_upkeep_request, with the image open for
 *                         writing
 *     server -> client    struct vd_upkeep_report, every now and then, and
 *                         once at the end
 *     client's shutdown   the work is to stop; a report at the end follows
 *
 * If the disk is to become smaller, and the file with it, the file does so
 * first: what stands on it is to be made as short before anything is cut off.
 *
 *     server -> client    struct vd_upkeep_report, VD_UPKEEP_SHORTENED
 *     client -> server    struct vd_upkeep_request, VD_UPKEEP_CUT, without a
 *                         descriptor; or the end, and the file is as it was
 *
 * All are of one build, on one machine: integers are in its own order.
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
#define VD_SERVER_PROTOCOL 0x76640004u

struct vd_server_request {
    uint32_t protocol;
    uint32_t device_id; /* which format, VD_DEVICE_* */
    uint32_t layers;
    uint8_t read_only;      /* 0 or 1 */
    uint8_t visible;        /* 0 or 1 */
    uint16_t upkeep;        /* 0 or 1 */
    uint64_t window_offset; /* the part of the disk that the file is */
    uint64_t window_length;
};

#define VD_SERVER_PATH_SIZE 4096

/* Where a visible file is to be, and for how long: a permanent one until it
 * is unmounted, another one no longer than the attacher has his socket. */
struct vd_server_place {
    uint32_t mode;                  /* of the file: read and write bits */
    uint32_t permanent;             /* 0 or 1 */
    char path[VD_SERVER_PATH_SIZE]; /* absolute */
};

struct vd_server_reply {
    uint32_t protocol;
    vd_error error;
};

enum vd_upkeep_operation {
    VD_UPKEEP_COMPACT = 1, /* an image that is attached for reading */
    VD_UPKEEP_RESIZE = 2,  /* one that is attached for writing */
    VD_UPKEEP_CUT = 3,
};

/* What an operation does not need is 0. */
struct vd_upkeep_request {
    uint32_t protocol;
    uint16_t operation;
    uint8_t no_zero_scan;   /* COMPACT: 0 or 1 */
    uint8_t no_block_moves; /* likewise */
    uint32_t resize_mode;   /* RESIZE: enum vd_resize_mode, but not GROW */
    uint32_t unused;
    uint64_t size_bytes; /* RESIZE: of the disk; 0 for SMALLEST alone */
};

#define VD_UPKEEP_REPORT_MS 100

enum vd_upkeep_state {
    VD_UPKEEP_WORKING = 0,
    VD_UPKEEP_OVER = 1,
    VD_UPKEEP_SHORTENED = 2,
};

struct vd_upkeep_report {
    uint32_t protocol;
    uint32_t state;
    vd_error error; /* if it is over */
    uint32_t unused;
    uint64_t current;
    uint64_t completion; /* 0: not known yet */
    uint64_t length;     /* of the file, in bytes */
};

#endif
