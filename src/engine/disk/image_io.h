/*
 * Reading an image through its map: what a format answers, turned into bytes.
 */
#ifndef VD_DISK_IMAGE_IO_H
#define VD_DISK_IMAGE_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "format/format.h"

/* The range must lie inside the disk.  ERROR_IO_DEVICE if the file has become
 * shorter than its map, ERROR_VHD_PARENT_VHD_NOT_FOUND if the map asks for a
 * parent. */
VD_MUST_CHECK
vd_error vd_image_read(struct vd_image *image, void *buffer, size_t length,
                       uint64_t offset);

/* Whether the whole disk is one run of the file, and where that starts; the
 * offset is set only if it is. */
VD_MUST_CHECK
vd_error vd_image_contiguous(struct vd_image *image, bool *contiguous,
                             uint64_t *file_offset_out);

#endif
