/*
 * One attachment of this process, as the files of attach/ share it.
 */
#ifndef VD_ATTACH_ATTACHMENT_H
#define VD_ATTACH_ATTACHMENT_H

#include <stdbool.h>

#include "attach/live.h"
#include "attach/record.h"

struct vd_attachment {
    char *registry; /* directory of its record; NULL: it has none */
    char *device;   /* "/dev/loop3"; NULL: it has none */
    struct vd_record record;

    /* Guarded by the lock of held.c once vd_held_add has taken it in. */
    int device_fd;        /* keeps the device; -1: not ours to keep */
    int image_fd;         /* keeps the image's locks, if no device does */
    struct vd_live *live; /* the disk, if no device shows it */
    int record_fd;        /* keeps the lock that says the attacher lives */
    bool let_go; /* somebody has detached it, or this is a forked child */
    struct vd_attachment *next;
};

#endif
