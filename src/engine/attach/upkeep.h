/*
 * Asking disk servers for work on their images, as the files of attach/ share
 * it.
 */
#ifndef VD_ATTACH_UPKEEP_H
#define VD_ATTACH_UPKEEP_H

#include "base/error.h"
#include "disk/disk.h"

/* A connection to the server of an attached image.  ERROR_NOT_FOUND if there
 * is none that can be asked.  Call inside vd_held_enter. */
VD_MUST_CHECK
vd_error vd_attached_connect(struct vd_file_id file_id, int *server_out);

#endif
