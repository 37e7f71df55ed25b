/*
 * Owner and mode of device nodes, and putting them back.
 */
#ifndef VD_ATTACH_NODE_H
#define VD_ATTACH_NODE_H

#include <stdbool.h>
#include <sys/types.h>

#include "attach/attach.h"
#include "base/error.h"

struct vd_node_state {
    uid_t uid;
    gid_t gid;
    mode_t mode; /* permission bits */
};

/* What was done to a node; a loop device's outlives the attachment. */
struct vd_node_change {
    bool changed;
    struct vd_node_state before;
    struct vd_node_state after;
};

/* What the access asked for will change; nothing if it is not set. */
VD_MUST_CHECK
vd_error vd_node_plan(const char *device, const struct vd_node_access *access,
                      struct vd_node_change *change_out);

/* Does it, to the node of the device and those of its partitions.  Restore
 * it when this fails.  ERROR_PRIVILEGE_NOT_HELD and others. */
VD_MUST_CHECK
vd_error vd_node_apply(const char *device,
                       const struct vd_node_change *change);

/* Gives the device's node its former state, unless somebody has changed it
 * since. */
void vd_node_restore(const char *device, const struct vd_node_change *change);

/* What undoes a restoration. */
struct vd_node_change vd_node_reversed(const struct vd_node_change *change);

#endif
