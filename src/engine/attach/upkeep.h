/*
 * Working on what is attached: finding it, and asking its disk server, as the
 * files of attach/ share it.
 */
#ifndef VD_ATTACH_UPKEEP_H
#define VD_ATTACH_UPKEEP_H

#include "attach/registry.h"
#include "base/error.h"
#include "disk/disk.h"
#include "server/protocol.h"

/* The record of an attached image, and the directory it is in: close both.
 * ERROR_NOT_FOUND.  Call inside vd_held_enter. */
VD_MUST_CHECK
vd_error vd_attached_open_entry(struct vd_file_id file_id, int *dir_out,
                                struct vd_entry *out);

/* Waits for the next report of a server.  ERROR_OPERATION_ABORTED if it is no
 * more, or will not do it; ERROR_INVALID_DATA if it is of another version. */
VD_MUST_CHECK
vd_error vd_upkeep_receive(int server, struct vd_upkeep_report *out);

#endif
