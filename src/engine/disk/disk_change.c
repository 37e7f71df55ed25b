/*
 * What an image says of itself.  See disk_change.h.
 */
#include "disk/disk_change.h"

#include "base/cleanup.h"
#include "base/trace.h"
#include "disk/disk_private.h"

static vd_error
refuse(const struct vd_image *image)
{
    vd_trace(VD_TRACE_DISK, "a %s has no such thing", image->format->name);
    return ERROR_NOT_SUPPORTED;
}

static vd_error
begin(struct vd_image *image)
{
    return image->format->begin(image, VD_CHANGE_LAYOUT);
}

static vd_error
commit(struct vd_image *image, vd_error error)
{
    return error != ERROR_SUCCESS ? error : image->format->commit(image);
}

vd_error
vd_disk_change(struct vd_disk *disk, const struct vd_image_change *change)
{
    struct vd_image *image = vd_disk_leaf(disk);
    if (image->format->change == NULL) {
        return refuse(image);
    }
    VD_SCOPED_LOCK(&disk->mutator);
    vd_error error = begin(image);
    if (error == ERROR_SUCCESS) {
        error = image->format->change(image, change);
    }
    return commit(image, error);
}

vd_error
vd_disk_metadata_list(struct vd_disk *disk, struct vd_guid **items,
                      size_t *count_out)
{
    struct vd_image *image = vd_disk_leaf(disk);
    if (image->format->metadata_list == NULL) {
        return refuse(image);
    }
    VD_SCOPED_LOCK(&disk->mutator);
    return image->format->metadata_list(image, items, count_out);
}

vd_error
vd_disk_metadata_get(struct vd_disk *disk, const struct vd_guid *item,
                     void **out, size_t *size_out)
{
    struct vd_image *image = vd_disk_leaf(disk);
    if (image->format->metadata_get == NULL) {
        return refuse(image);
    }
    VD_SCOPED_LOCK(&disk->mutator);
    return image->format->metadata_get(image, item, out, size_out);
}

vd_error
vd_disk_metadata_set(struct vd_disk *disk, const struct vd_guid *item,
                     const void *data, size_t size)
{
    struct vd_image *image = vd_disk_leaf(disk);
    if (image->format->metadata_set == NULL) {
        return refuse(image);
    }
    VD_SCOPED_LOCK(&disk->mutator);
    vd_error error = begin(image);
    if (error == ERROR_SUCCESS) {
        error = image->format->metadata_set(image, item, data, size);
    }
    return commit(image, error);
}

vd_error
vd_disk_metadata_delete(struct vd_disk *disk, const struct vd_guid *item)
{
    struct vd_image *image = vd_disk_leaf(disk);
    if (image->format->metadata_delete == NULL) {
        return refuse(image);
    }
    VD_SCOPED_LOCK(&disk->mutator);
    vd_error error = begin(image);
    if (error == ERROR_SUCCESS) {
        error = image->format->metadata_delete(image, item);
    }
    return commit(image, error);
}
