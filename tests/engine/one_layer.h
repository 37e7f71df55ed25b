/*
 * A disk of one image that the test has opened or made itself, to be read
 * through the disk layer.
 */
#ifndef VIRTDISK_TESTS_ONE_LAYER_H
#define VIRTDISK_TESTS_ONE_LAYER_H

#include <stdlib.h>

#include "check.h"
#include "disk/disk_private.h"

static inline struct vd_disk *
one_layer(struct vd_image *image)
{
    struct vd_disk *disk = vd_disk_new();
    if (disk == NULL) {
        check_broken("out of memory");
    }
    disk->layers = calloc(1, sizeof(*disk->layers));
    if (disk->layers == NULL) {
        check_broken("out of memory");
    }
    disk->layers[0].image = image;
    disk->layer_count = 1;
    return disk;
}

/* The image stays the test's. */
static inline void
one_layer_drop(struct vd_disk *disk)
{
    disk->layer_count = 0;
    vd_disk_close(disk);
}

#endif
