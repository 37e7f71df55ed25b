/*
 * struct vd_disk, as the files of disk/ share it.
 */
#ifndef VD_DISK_DISK_PRIVATE_H
#define VD_DISK_DISK_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "disk/disk.h"
#include "disk/layer.h"
#include "disk/mirror.h"

/* One flush for all who wait. */
struct vd_disk_flush {
    pthread_mutex_t lock;
    pthread_cond_t done;
    uint64_t started; /* guarded by lock, as all of these */
    uint64_t finished;
    bool running;
    vd_error error; /* of the newest that is finished; lasting */
};

struct vd_disk {
    struct vd_layer *layers; /* leaf first */
    size_t layer_count;
    bool writable; /* the leaf's file is open for writing */
    bool live;     /* opened under locks: may be changed if writable */

    /* The leaf's own file while another has its place (upkeep.h), else NULL;
     * written by one thread, under the gate. */
    struct vd_posix_file *lent;

    pthread_mutex_t mutator; /* one thread in the changing functions */
    pthread_rwlock_t gate;   /* shared: payload is being transferred */
    atomic_bool begun;
    struct vd_disk_flush flush;

    pthread_rwlock_t mirror_lock; /* shared: a change is being made */
    struct vd_mirror *mirror;     /* guarded by mirror_lock; NULL: none */
};

static inline struct vd_image *
vd_disk_leaf(const struct vd_disk *disk)
{
    return disk->layers[0].image;
}

/* How a change that was made to the mirror too has ended there. */
void vd_mirror_note(struct vd_mirror *mirror, vd_error error);

/* The disk is being closed. */
void vd_mirror_end(struct vd_mirror *mirror);

/* An empty disk, or NULL. */
struct vd_disk *vd_disk_new(void);

/* Puts a layer under the last one.  Takes it over, also on failure. */
VD_MUST_CHECK
vd_error vd_disk_push(struct vd_disk *disk, struct vd_layer *layer);

/* Makes what was done so far durable, and frees what was given up. */
VD_MUST_CHECK
vd_error vd_disk_commit(struct vd_disk *disk);

/* Reads what lies below the leaf; beyond the end of a parent, zeros. */
VD_MUST_CHECK
vd_error vd_disk_read_below(struct vd_disk *disk, void *buffer, size_t length,
                            uint64_t offset);

/* Looks for the parents of the last layer and opens them (parent.c). */
VD_MUST_CHECK
vd_error vd_disk_find_parents(struct vd_disk *disk, bool no_relative);

/* Whether the last layer needs a parent that is not there. */
static inline bool
vd_disk_wants_parent(const struct vd_disk *disk)
{
    const struct vd_layer *last = &disk->layers[disk->layer_count - 1];
    return last->image->info.subtype == VD_SUBTYPE_DIFFERENCING;
}

#endif
