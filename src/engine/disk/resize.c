/*
 * Another size for a virtual disk.  See resize.h.
 *
 * The format changes the size; here is what must be known of the content:
 * what the partition table allows, and where the backup of a GPT goes.
 */
#include "disk/resize.h"

#include <stdlib.h>

#include "base/cleanup.h"
#include "base/trace.h"
#include "disk/disk_private.h"
#include "disk/gpt_backup.h"
#include "disk/partition_table.h"

/* ---- what is safe ---- */

vd_error
vd_disk_smallest_safe_size(struct vd_disk *disk, uint64_t *size_out)
{
    VD_AUTO_FREE struct vd_partition_table *table = calloc(1, sizeof(*table));
    if (table == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    if (!vd_disk_complete(disk)) {
        vd_trace(VD_TRACE_DISK, "opened without its parents");
        return ERROR_VHD_COULD_NOT_COMPUTE_MINIMUM_VIRTUAL_SIZE;
    }
    vd_error error = vd_partition_table_read(disk, table);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (table->end_bytes == 0) {
        vd_trace(VD_TRACE_DISK, "no partition table");
        return ERROR_VHD_COULD_NOT_COMPUTE_MINIMUM_VIRTUAL_SIZE;
    }
    *size_out = table->end_bytes;
    return ERROR_SUCCESS;
}

static vd_error
check_safe(struct vd_disk *disk, uint64_t size_bytes)
{
    uint64_t smallest;
    vd_error error = vd_disk_smallest_safe_size(disk, &smallest);
    if (error == ERROR_SUCCESS && size_bytes < smallest) {
        vd_trace(VD_TRACE_DISK, "partitions need %llu bytes",
                 (unsigned long long)smallest);
        error = ERROR_VHD_RESIZE_WOULD_TRUNCATE_DATA;
    }
    return error;
}

static vd_error
find_smallest(struct vd_disk *disk, uint64_t *size_out)
{
    uint64_t smallest;
    vd_error error = vd_disk_smallest_safe_size(disk, &smallest);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (smallest < VD_DISK_SIZE_MIN) {
        smallest = VD_DISK_SIZE_MIN;
    }
    if (smallest >= vd_disk_size_bytes(disk)) {
        vd_trace(VD_TRACE_DISK, "the disk is as small as it can be");
        return ERROR_VHD_ALREADY_AT_OR_BELOW_MINIMUM_VIRTUAL_SIZE;
    }
    *size_out = smallest;
    return ERROR_SUCCESS;
}

/* ---- what is possible ---- */

static vd_error
check_size(const struct vd_disk *disk, const struct vd_resize *resize)
{
    uint64_t size = resize->size_bytes;
    if (resize->mode == VD_RESIZE_SMALLEST) {
        return ERROR_SUCCESS;
    }
    if (size < VD_DISK_SIZE_MIN || size % vd_disk_sector_size(disk) != 0) {
        vd_trace(VD_TRACE_DISK, "no disk has %llu bytes",
                 (unsigned long long)size);
        return ERROR_INVALID_PARAMETER;
    }
    if (resize->mode == VD_RESIZE_GROW && size <= vd_disk_size_bytes(disk)) {
        vd_trace(VD_TRACE_DISK, "not larger than the disk is");
        return ERROR_INVALID_PARAMETER;
    }
    return ERROR_SUCCESS;
}

static vd_error
check_kind(const struct vd_disk *disk, const struct vd_resize *resize)
{
    const struct vd_format *format = vd_disk_format(disk);
    bool child = vd_disk_info(disk)->subtype == VD_SUBTYPE_DIFFERENCING;
    bool smaller = resize->mode == VD_RESIZE_SMALLEST ||
                   (resize->mode != VD_RESIZE_GROW &&
                    resize->size_bytes < vd_disk_size_bytes(disk));
    if (!disk->writable || !disk->live) {
        return ERROR_WRITE_PROTECT;
    }
    if (format->resize == NULL) {
        vd_trace(VD_TRACE_DISK, "a %s keeps its size", format->name);
        return ERROR_NOT_SUPPORTED;
    }
    if (child && (resize->mode == VD_RESIZE_GROW || !format->shrinks)) {
        vd_trace(VD_TRACE_DISK, "a child keeps its size");
        return ERROR_VHD_INVALID_TYPE;
    }
    if (smaller && !format->shrinks) {
        vd_trace(VD_TRACE_DISK, "a %s cannot be made smaller", format->name);
        return ERROR_VHD_INVALID_TYPE;
    }
    return ERROR_SUCCESS;
}

/* ---- doing it ---- */

/* A format that has to tell children of the new size does so itself, when it
 * is sure of it. */
static vd_error
change_size(struct vd_disk *disk, uint64_t size_bytes)
{
    struct vd_image *image = vd_disk_leaf(disk);
    VD_SCOPED_LOCK(&disk->mutator);
    vd_error error = image->format->begin(image, VD_CHANGE_LAYOUT);
    if (error == ERROR_SUCCESS) {
        error = image->format->resize(image, size_bytes);
    }
    return error;
}

static vd_error
shrink(struct vd_disk *disk, uint64_t size_bytes, enum vd_resize_mode mode)
{
    vd_error error = mode != VD_RESIZE_UNSAFE
                         ? vd_gpt_move_backup(disk, size_bytes)
                         : ERROR_SUCCESS;
    return error != ERROR_SUCCESS ? error : change_size(disk, size_bytes);
}

static vd_error
run(struct vd_disk *disk, uint64_t size_bytes, enum vd_resize_mode mode)
{
    uint64_t now = vd_disk_size_bytes(disk);
    if (size_bytes == now) {
        return ERROR_SUCCESS;
    }
    return size_bytes < now ? shrink(disk, size_bytes, mode)
                            : change_size(disk, size_bytes);
}

vd_error
vd_disk_plan_resize(struct vd_disk *disk, const struct vd_resize *resize,
                    uint64_t *size_out)
{
    vd_error error = check_kind(disk, resize);
    if (error == ERROR_SUCCESS) {
        error = check_size(disk, resize);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (resize->mode == VD_RESIZE_SMALLEST) {
        return find_smallest(disk, size_out);
    }
    if (resize->mode != VD_RESIZE_UNSAFE &&
        resize->size_bytes < vd_disk_size_bytes(disk)) {
        error = check_safe(disk, resize->size_bytes);
    }
    if (error == ERROR_SUCCESS) {
        *size_out = resize->size_bytes;
    }
    return error;
}

vd_error
vd_disk_resize(struct vd_disk *disk, const struct vd_resize *resize)
{
    uint64_t size_bytes;
    vd_error error = vd_disk_plan_resize(disk, resize, &size_bytes);
    return error != ERROR_SUCCESS ? error
                                  : run(disk, size_bytes, resize->mode);
}

/* ---- while it is used ---- */

bool
vd_disk_resizes_in_use(const struct vd_disk *disk)
{
    return vd_disk_format(disk)->resizes_in_use;
}

vd_error
vd_disk_check_window(const struct vd_disk *disk,
                     const struct vd_disk_window *window,
                     const struct vd_resize *resize)
{
    if (!vd_disk_writable(disk)) {
        vd_trace(VD_TRACE_DISK, "attached for reading");
        return ERROR_WRITE_PROTECT;
    }
    if (!window->whole &&
        (resize->mode == VD_RESIZE_SMALLEST ||
         resize->size_bytes < window->offset ||
         resize->size_bytes - window->offset < window->length)) {
        vd_trace(VD_TRACE_DISK, "what is shown would not be there");
        return ERROR_VHD_RESIZE_WOULD_TRUNCATE_DATA;
    }
    return ERROR_SUCCESS;
}

vd_error
vd_disk_check_direct(const struct vd_disk *disk, uint64_t file_offset,
                     uint64_t size_bytes)
{
    uint32_t block_size = vd_disk_info(disk)->block_size;
    uint64_t now = vd_disk_size_bytes(disk);
    uint64_t file_size;
    if (now % block_size != 0 || size_bytes % block_size != 0) {
        vd_trace(VD_TRACE_DISK, "detach it first: a size in part of a block");
        return ERROR_VHD_INVALID_STATE;
    }
    vd_error error = vd_disk_file_size(disk, &file_size);
    if (error == ERROR_SUCCESS && size_bytes > now &&
        file_offset + now != file_size) {
        vd_trace(VD_TRACE_DISK, "detach it first: its data is not the last");
        error = ERROR_VHD_INVALID_STATE;
    }
    return error;
}
