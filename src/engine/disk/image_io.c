/*
 * Reading an image through its map.  See image_io.h.
 */
#include "disk/image_io.h"

#include <assert.h>
#include <string.h>

#include "base/checked.h"
#include "base/trace.h"

static vd_error
map_extent(struct vd_image *image, uint64_t offset, uint64_t length,
           struct vd_extent *out)
{
    struct vd_extent extent;
    vd_error error = image->format->map(image, offset, length, &extent);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    assert(extent.length > 0 && extent.length <= length);
    *out = extent;
    return ERROR_SUCCESS;
}

/* The map was checked against the file when the image was opened. */
static vd_error
read_present(struct vd_image *image, void *buffer, size_t length,
             uint64_t file_offset)
{
    vd_error error = vd_file_pread(image->file, buffer, length, file_offset);
    if (error == ERROR_HANDLE_EOF) {
        vd_trace(VD_TRACE_DISK, "the image file has become shorter");
        return ERROR_IO_DEVICE;
    }
    return error;
}

static vd_error
read_extent(struct vd_image *image, const struct vd_extent *extent,
            void *buffer)
{
    size_t length = (size_t)extent->length; /* at most what was asked for */
    switch (extent->state) {
    case VD_EXTENT_PRESENT:
        return read_present(image, buffer, length, extent->file_offset);
    case VD_EXTENT_ZERO:
        memset(buffer, 0, length);
        return ERROR_SUCCESS;
    case VD_EXTENT_PARENT:
        break;
    }
    vd_trace(VD_TRACE_DISK, "the data is in a parent, and there is none");
    return ERROR_VHD_PARENT_VHD_NOT_FOUND;
}

vd_error
vd_image_read(struct vd_image *image, void *buffer, size_t length,
              uint64_t offset)
{
    uint8_t *next = buffer;
    assert(vd_range_within(offset, length, image->info.size_bytes));
    while (length > 0) {
        struct vd_extent extent;
        vd_error error = map_extent(image, offset, length, &extent);
        if (error == ERROR_SUCCESS) {
            error = read_extent(image, &extent, next);
        }
        if (error != ERROR_SUCCESS) {
            return error;
        }
        next += extent.length;
        offset += extent.length;
        length -= (size_t)extent.length;
    }
    return ERROR_SUCCESS;
}

vd_error
vd_image_contiguous(struct vd_image *image, bool *contiguous,
                    uint64_t *file_offset_out)
{
    uint64_t size = image->info.size_bytes;
    uint64_t start = 0;
    uint64_t offset = 0;
    while (offset < size) {
        struct vd_extent extent;
        vd_error error = map_extent(image, offset, size - offset, &extent);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        if (offset == 0) {
            start = extent.file_offset;
        }
        if (extent.state != VD_EXTENT_PRESENT ||
            extent.file_offset != start + offset) {
            *contiguous = false;
            return ERROR_SUCCESS;
        }
        offset += extent.length;
    }
    *contiguous = true;
    *file_offset_out = start;
    return ERROR_SUCCESS;
}
