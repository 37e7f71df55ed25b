/*
 * Two disks that are kept equal: what is written to the one reaches the other
 * too, while its content is copied piece by piece.
 *
 * While a disk has a mirror, its changes are made one at a time.  A change
 * that does not reach the mirror is a fault of the mirror alone: whoever wrote
 * to the disk is not told, and the mirror is not equal any more.
 */
#ifndef VD_DISK_MIRROR_H
#define VD_DISK_MIRROR_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "disk/disk.h"

struct vd_mirror {
    struct vd_disk *target; /* borrowed; live, writable, of the same size */
    bool whole;             /* copy what the parents have, too */
    /* There is news: see vd_mirror_state.  Called with locks of the disk
     * held; what it locks itself nobody holds while he uses a disk. */
    void (*notify)(void *context);
    void *context;

    pthread_mutex_t lock; /* one change, or one piece, at a time */
    uint8_t *buffer;
    _Atomic vd_error error; /* the first change that was lost */
    atomic_bool gone;       /* the disk has been closed */
};

/*
 * A blank target is given what the image of the disk itself has, and is to
 * have the same parents; any other, what the whole chain has.
 * ERROR_NOT_ENOUGH_MEMORY.
 */
VD_MUST_CHECK
vd_error vd_mirror_init(struct vd_mirror *mirror, struct vd_disk *target,
                        bool blank);
void vd_mirror_destroy(struct vd_mirror *mirror);

/* From here on until vd_mirror_stop, or the end of the disk, changes reach
 * both.  A disk has one mirror at a time. */
void vd_mirror_start(struct vd_mirror *mirror, struct vd_disk *disk);
void vd_mirror_stop(struct vd_disk *disk);

/* Copies the piece of the disk at offset; *length_out is how much it was. */
VD_MUST_CHECK
vd_error vd_mirror_piece(struct vd_mirror *mirror, struct vd_disk *disk,
                         uint64_t offset, uint64_t *length_out);

/* Why the mirror is not equal any more; ERROR_NOT_READY if it is, or was at
 * the end of the disk, which has been closed. */
VD_MUST_CHECK
vd_error vd_mirror_state(const struct vd_mirror *mirror);

/* Whether the disk has been closed, and refers to the mirror no more. */
bool vd_mirror_is_gone(const struct vd_mirror *mirror);

#endif
