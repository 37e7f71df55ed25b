/*
 * What the kernel asks of the file, one function an operation.
 */
#ifndef VD_SERVER_FUSE_OPERATIONS_H
#define VD_SERVER_FUSE_OPERATIONS_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

#include "server/fuse.h"

struct vd_fuse_request {
    const uint8_t *payload; /* after the header */
    size_t payload_length;
    uint8_t *reply; /* VD_FUSE_TRANSFER bytes; may overlap the payload's end
                       unless that is the data of a write */
};

#define VD_FUSE_NO_ANSWER INT_MIN

/* How many bytes of reply there are, a negative errno value, or
 * VD_FUSE_NO_ANSWER. */
int vd_fuse_perform(const struct vd_fuse_file *file, uint32_t opcode,
                    const struct vd_fuse_request *request);

/* The errno value that a reader or writer of the device gets. */
int vd_fuse_errno(vd_error error);

#endif
