/*
 * The kernel's FUSE protocol (linux/fuse.h) for one regular file, which is
 * the root of its file system and shows a window of a disk.
 *
 * Reads and writes may start and end anywhere.  The loop device, the only
 * user there is, asks for whole sectors; but the kernel cuts a large request
 * wherever the pages of memory that one message may have are full, and that
 * can be in the middle of a sector.
 */
#ifndef VD_SERVER_FUSE_H
#define VD_SERVER_FUSE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "disk/disk.h"
#include "server/gate.h"

/* The most bytes that one request reads or writes. */
#define VD_FUSE_TRANSFER (1u << 20)

struct vd_fuse_file {
    struct vd_disk *disk;
    uint64_t offset;      /* where in the disk the file starts */
    struct vd_gate *gate; /* its length; whoever reads or writes is inside */
    bool whole;           /* it is as long as the disk, whatever that is */
    bool read_only;
    mode_t mode; /* read and write bits */
    uid_t uid;   /* of its owner */
    gid_t gid;
    pthread_mutex_t *partial; /* one at a time changes a part of a sector */
};

/* Room for one request and its answer.  One for each thread. */
struct vd_fuse_buffer {
    uint8_t *memory;
    size_t lead; /* of memory, before the page that payload starts on */
};

VD_MUST_CHECK
vd_error vd_fuse_buffer_new(struct vd_fuse_buffer *out);
void vd_fuse_buffer_free(struct vd_fuse_buffer *buffer);

/* Tells the kernel that the file has another length: it will ask for that
 * when somebody wants to know. */
void vd_fuse_tell_changed(int device);

/* Waits for one request on a connection and answers it; any number of
 * threads may do so.  False at the connection's end. */
bool vd_fuse_serve(int device, const struct vd_fuse_file *file,
                   const struct vd_fuse_buffer *buffer);

#endif
