/*
 * Who the parent of an image is.  See relink.h.
 *
 * As for a new child, only the relative path is written: nobody but Windows
 * could say what an absolute one is.
 */
#include "disk/relink.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/trace.h"
#include "disk/disk_private.h"
#include "disk/image_lock.h"
#include "disk/parent_path.h"

static vd_error
find_path(const struct vd_layer *child, const struct vd_layer *parent,
          char16_t **out)
{
    const char *slash = strrchr(child->path, '/');
    size_t length = slash == child->path ? 1 : (size_t)(slash - child->path);
    VD_AUTO_FREE char *directory = strndup(child->path, length);
    if (directory == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    return vd_parent_path_between(directory, parent->path, out);
}

vd_error
vd_relink_layer(struct vd_layer *child, const struct vd_layer *parent,
                const struct vd_guid *identifier)
{
    static const struct vd_guid none;
    const struct vd_format *format = child->image->format;
    VD_AUTO_FREE char16_t *relative = NULL;
    vd_error error = find_path(child, parent, &relative);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    struct vd_image_change change = {
        .parent_identifier = identifier,
        .parent_relative_path = relative,
        .other_parent_identifier = format->renews_identifier ? &none : NULL,
    };
    error = format->begin(child->image, VD_CHANGE_LAYOUT);
    if (error == ERROR_SUCCESS) {
        error = format->change(child->image, &change);
    }
    return error == ERROR_SUCCESS ? format->commit(child->image) : error;
}

/* ---- another parent ---- */

static vd_error
check_kind(const struct vd_image *child, const struct vd_image *parent)
{
    if (parent->format != child->format) {
        vd_trace(VD_TRACE_DISK, "the parent is a %s", parent->format->name);
        return ERROR_VHD_INVALID_TYPE;
    }
    bool same_size = child->format->shrinks ||
                     child->info.size_bytes == parent->info.size_bytes;
    if (!same_size || child->info.sector_size != parent->info.sector_size) {
        vd_trace(VD_TRACE_DISK, "the parent is of another size");
        return ERROR_VHD_CHILD_PARENT_SIZE_MISMATCH;
    }
    return ERROR_SUCCESS;
}

static bool
has_layer(const struct vd_disk *disk, size_t count, struct vd_file_id id)
{
    for (size_t i = 0; i < count; i++) {
        struct vd_file_id other = vd_layer_file_id(&disk->layers[i]);
        if (other.device == id.device && other.inode == id.inode) {
            return true;
        }
    }
    return false;
}

/* layers: the child and what stands on it. */
static vd_error
check_chain(const struct vd_disk *disk, size_t layers,
            const struct vd_disk *parent)
{
    for (size_t i = 0; i < parent->layer_count; i++) {
        if (has_layer(disk, layers, vd_layer_file_id(&parent->layers[i]))) {
            vd_trace(VD_TRACE_DISK, "the image would be its own parent");
            return ERROR_VHD_DIFFERENCING_CHAIN_CYCLE_DETECTED;
        }
    }
    if (layers + parent->layer_count > VD_DISK_LAYERS_MAX) {
        vd_trace(VD_TRACE_DISK, "the chain would be too long");
        return ERROR_VHD_DIFFERENCING_CHAIN_ERROR_IN_PARENT;
    }
    return ERROR_SUCCESS;
}

/* The parent that the child was made of, or, if the caller says which one
 * that is by its identifier, one that fits. */
static vd_error
check_parent(const struct vd_image *child, const struct vd_image *parent,
             const struct vd_guid *identifier)
{
    if (identifier == NULL) {
        return child->format->accept_parent(child, parent);
    }
    vd_error error = check_kind(child, parent);
    if (error == ERROR_SUCCESS &&
        !vd_guid_equal(identifier, &parent->info.identifier)) {
        vd_trace(VD_TRACE_DISK, "the parent has another identifier");
        error = ERROR_VHD_CHILD_PARENT_ID_MISMATCH;
    }
    return error;
}

static vd_error
check_and_relink(struct vd_disk *disk, size_t layer,
                 const struct vd_disk *parent,
                 const struct vd_guid *identifier)
{
    struct vd_layer *child = &disk->layers[layer];
    const struct vd_image *image = vd_disk_leaf(parent);
    vd_error error = check_chain(disk, layer + 1, parent);
    if (error == ERROR_SUCCESS) {
        error = check_parent(child->image, image, identifier);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_image_lock_test(vd_disk_fd(parent), VD_LOCK_PARENT);
    }
    return error != ERROR_SUCCESS ? error
                                  : vd_relink_layer(child, &parent->layers[0],
                                                    &image->info.identifier);
}

vd_error
vd_disk_set_parent(struct vd_disk *disk, size_t layer, const char *path,
                   const struct vd_guid *identifier)
{
    struct vd_disk_options options = {.writable = false};
    struct vd_disk *parent;
    const struct vd_image *child = disk->layers[layer].image;
    if (child->info.subtype != VD_SUBTYPE_DIFFERENCING) {
        vd_trace(VD_TRACE_DISK, "the image is no child");
        return ERROR_VHD_INVALID_TYPE;
    }
    vd_error error = vd_disk_open(path, &options, &parent);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = check_and_relink(disk, layer, parent, identifier);
    vd_disk_close(parent);
    return error;
}
