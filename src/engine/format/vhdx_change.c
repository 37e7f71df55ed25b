/*
 * What a VHDX image says of itself, changed: its page 83 id, its physical
 * sector size, its parent; and the metadata items of its users.
 */
#include "format/vhdx_write.h"

#include <stdlib.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/trace.h"

static vd_error
invalid(const char *reason)
{
    vd_trace(VD_TRACE_FORMAT, "VHDX: cannot change: %s", reason);
    return ERROR_INVALID_PARAMETER;
}

/* ---- the image ---- */

static bool
changes_parent(const struct vd_image_change *change)
{
    return change->parent_identifier != NULL ||
           change->parent_relative_path != NULL ||
           change->parent_absolute_path != NULL ||
           change->other_parent_identifier != NULL;
}

static vd_error
check(const struct vhdx_image *vhdx, const struct vd_image_change *change)
{
    uint32_t physical = change->physical_sector_size;
    if (change->identifier != NULL) {
        vd_trace(VD_TRACE_FORMAT, "VHDX: there is no unique id");
        return ERROR_NOT_SUPPORTED;
    }
    if (physical != 0 && ((physical != 512 && physical != 4096) ||
                          physical < vhdx->metadata.logical_sector_size)) {
        return invalid("the physical sector size");
    }
    if (changes_parent(change) && !vhdx->metadata.has_parent) {
        vd_trace(VD_TRACE_FORMAT, "VHDX: there is no parent");
        return ERROR_VHD_INVALID_TYPE;
    }
    if (change->parent_identifier != NULL &&
        vd_guid_is_zero(change->parent_identifier)) {
        return invalid("a parent without identifier");
    }
    return ERROR_SUCCESS;
}

struct edit {
    struct vhdx_item_change items[3];
    size_t count;
    uint8_t physical[4];
    uint8_t *locator; /* VHDX_LOCATOR_MAX bytes */
    size_t locator_length;
};

static void
add_item(struct edit *edit, enum vhdx_item item, const void *data,
         size_t length)
{
    edit->items[edit->count++] = (struct vhdx_item_change){
        .id = vd_vhdx_item_guid(item),
        .data = data,
        .length = (uint32_t)length,
    };
}

static vd_error
edit_locator(struct vhdx_image *vhdx, const struct vd_image_change *change,
             struct edit *edit)
{
    const struct vhdx_locator_change parent = {
        .linkage = change->parent_identifier,
        .linkage2 = change->other_parent_identifier,
        .relative_path = change->parent_relative_path,
        .absolute_path = change->parent_absolute_path,
    };
    void *item = NULL;
    uint32_t length = 0;
    vd_error error =
        vd_vhdx_item_read(vhdx, vd_vhdx_item_guid(VHDX_ITEM_PARENT_LOCATOR),
                          false, &item, &length);
    VD_AUTO_FREE void *former = item;
    return error != ERROR_SUCCESS
               ? error
               : vd_vhdx_locator_edit(former, length, &parent, edit->locator,
                                      &edit->locator_length);
}

static vd_error
collect(struct vhdx_image *vhdx, const struct vd_image_change *change,
        struct edit *edit)
{
    if (change->virtual_disk_id != NULL) {
        add_item(edit, VHDX_ITEM_VIRTUAL_DISK_ID, change->virtual_disk_id,
                 VD_GUID_SIZE);
    }
    if (change->physical_sector_size != 0) {
        vd_put_le32(edit->physical, change->physical_sector_size);
        add_item(edit, VHDX_ITEM_PHYSICAL_SECTOR_SIZE, edit->physical,
                 sizeof(edit->physical));
    }
    if (!changes_parent(change)) {
        return ERROR_SUCCESS;
    }
    vd_error error = edit_locator(vhdx, change, edit);
    if (error == ERROR_SUCCESS) {
        add_item(edit, VHDX_ITEM_PARENT_LOCATOR, edit->locator,
                 edit->locator_length);
    }
    return error;
}

/* What is in memory follows what is in the file. */
static void
publish(struct vhdx_image *vhdx, const struct vd_image_change *change,
        struct vhdx_locator *locator)
{
    struct vhdx_metadata *metadata = &vhdx->metadata;
    if (change->virtual_disk_id != NULL) {
        metadata->virtual_disk_id = *change->virtual_disk_id;
    }
    if (change->physical_sector_size != 0) {
        metadata->physical_sector_size = change->physical_sector_size;
    }
    if (changes_parent(change)) {
        struct vhdx_locator former = metadata->locator;
        metadata->locator = *locator;
        *locator = former;
    }
    vd_vhdx_fill_info(vhdx);
}

static vd_error
apply(struct vhdx_image *vhdx, const struct vd_image_change *change,
      struct edit *edit)
{
    struct vhdx_locator locator = {0};
    vd_error error = collect(vhdx, change, edit);
    if (error == ERROR_SUCCESS && edit->locator_length != 0) {
        error = vd_vhdx_locator_decode(edit->locator, edit->locator_length,
                                       &locator);
    }
    if (error == ERROR_SUCCESS && edit->count != 0) {
        error = vd_vhdx_items_change(vhdx, edit->items, edit->count);
    }
    if (error == ERROR_SUCCESS) {
        publish(vhdx, change, &locator);
    }
    vd_vhdx_parent_paths_free(&locator.paths);
    return error;
}

vd_error
vd_vhdx_change(struct vd_image *image, const struct vd_image_change *change)
{
    struct vhdx_image *vhdx = vd_vhdx_of(image);
    VD_AUTO_FREE uint8_t *locator = malloc(VHDX_LOCATOR_MAX);
    struct edit edit = {.locator = locator};
    if (locator == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    vd_error error = check(vhdx, change);
    if (error == ERROR_SUCCESS) {
        error = vd_vhdx_begin(image, VD_CHANGE_LAYOUT);
    }
    return error != ERROR_SUCCESS ? error : apply(vhdx, change, &edit);
}

/* ---- the items of users ---- */

vd_error
vd_vhdx_metadata_list(struct vd_image *image, struct vd_guid **items,
                      size_t *count_out)
{
    VD_AUTO_FREE struct vd_guid *found = NULL;
    vd_error error = vd_vhdx_items_list(vd_vhdx_of(image), &found, count_out);
    if (error == ERROR_SUCCESS && items != NULL) {
        *items = VD_TAKE(found);
    }
    return error;
}

vd_error
vd_vhdx_metadata_get(struct vd_image *image, const struct vd_guid *item,
                     void **out, size_t *size_out)
{
    uint32_t length = 0;
    vd_error error =
        vd_vhdx_item_read(vd_vhdx_of(image), item, true, out, &length);
    if (error == ERROR_SUCCESS) {
        *size_out = length;
    }
    return error;
}

static vd_error
change_item(struct vd_image *image, const struct vd_guid *item,
            const void *data, uint32_t length)
{
    struct vhdx_item_change change = {
        .id = item, .user = true, .data = data, .length = length};
    vd_error error = vd_vhdx_begin(image, VD_CHANGE_LAYOUT);
    return error != ERROR_SUCCESS
               ? error
               : vd_vhdx_items_change(vd_vhdx_of(image), &change, 1);
}

vd_error
vd_vhdx_metadata_set(struct vd_image *image, const struct vd_guid *item,
                     const void *data, size_t size)
{
    if (vd_guid_is_zero(item)) {
        return invalid("an item without id");
    }
    if (size > VHDX_ITEM_LENGTH_MAX) {
        vd_trace(VD_TRACE_FORMAT, "VHDX: an item of more than 1 MiB");
        return ERROR_VHD_METADATA_FULL;
    }
    return change_item(image, item, size != 0 ? data : "", (uint32_t)size);
}

vd_error
vd_vhdx_metadata_delete(struct vd_image *image, const struct vd_guid *item)
{
    return change_item(image, item, NULL, 0);
}
