/*
 * VHDX: the format as the rest of the engine sees it ([MS-VHDX] v20240423).
 * Fixed, dynamic and differencing images, with the log.
 */
#include "format/vhdx_write.h"

#include <stdlib.h>
#include <string.h>

#include "base/trace.h"

static vd_error
probe(struct vd_file *file, bool *recognised)
{
    uint8_t signature[8];
    vd_error error = vd_file_pread(file, signature, sizeof(signature), 0);
    if (error == ERROR_HANDLE_EOF) {
        *recognised = false;
        return ERROR_SUCCESS;
    }
    if (error == ERROR_SUCCESS) {
        *recognised = memcmp(signature, "vhdxfile", 8) == 0;
    }
    return error;
}

static vd_error
check_identifier(struct vhdx_image *vhdx)
{
    bool recognised = false;
    vd_error error = probe(vhdx->image.file, &recognised);
    if (error == ERROR_SUCCESS && !recognised) {
        error = ERROR_VHD_DRIVE_FOOTER_MISSING;
    }
    if (error == ERROR_SUCCESS &&
        atomic_load(&vhdx->file_size) < VHDX_FIRST_REGION) {
        vd_trace(VD_TRACE_FORMAT, "VHDX: the file is shorter than 1 MiB");
        error = ERROR_VHD_INVALID_FILE_SIZE;
    }
    return error;
}

/* Whether the log can take what a writable session must write. */
static vd_error
check_writable(const struct vhdx_image *vhdx)
{
    uint64_t end = vhdx->header.log_offset + vhdx->header.log_length;
    if (vhdx->image.writable && (vhdx->header.log_length == 0 ||
                                 end > atomic_load(&vhdx->file_size))) {
        vd_trace(VD_TRACE_FORMAT, "VHDX: there is no log to write");
        return ERROR_FILE_CORRUPT;
    }
    return ERROR_SUCCESS;
}

void
vd_vhdx_fill_info(struct vhdx_image *vhdx)
{
    const struct vhdx_metadata *metadata = &vhdx->metadata;
    struct vd_image_info *info = &vhdx->image.info;
    info->size_bytes = metadata->size_bytes;
    info->sector_size = metadata->logical_sector_size;
    info->physical_sector_size = metadata->physical_sector_size;
    info->block_size = metadata->block_size;
    info->has_identifier = true;
    info->identifier = vhdx->header.data_write_guid;
    info->has_virtual_disk_id = true;
    info->virtual_disk_id = metadata->virtual_disk_id;
    info->subtype = VD_SUBTYPE_DYNAMIC;
    if (metadata->has_parent) {
        info->subtype = VD_SUBTYPE_DIFFERENCING;
        info->has_parent_identifier = true;
        info->parent_identifier = metadata->locator.linkage;
    }
    else if (metadata->leave_allocated) {
        info->subtype = VD_SUBTYPE_FIXED;
    }
}

/* FORMATS 12.1, in that order. */
static vd_error
load(struct vhdx_image *vhdx)
{
    vd_error error = check_identifier(vhdx);
    if (error == ERROR_SUCCESS) {
        error = vd_vhdx_header_read(vhdx->image.file, &vhdx->header,
                                    &vhdx->header_slot);
    }
    if (error == ERROR_SUCCESS) {
        error = check_writable(vhdx);
    }
    if (error == ERROR_SUCCESS && !vd_guid_is_zero(&vhdx->header.log_guid)) {
        error = vd_vhdx_log_replay(vhdx);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_vhdx_regions_read(vhdx);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_vhdx_metadata_read(vhdx);
    }
    if (error == ERROR_SUCCESS) {
        vd_vhdx_geometry_of(&vhdx->metadata, &vhdx->geometry);
        error = vd_vhdx_pages_create(vhdx);
    }
    return error != ERROR_SUCCESS ? error : vd_vhdx_bat_check(vhdx);
}

static void
free_image(struct vhdx_image *vhdx)
{
    vd_vhdx_pages_free(vhdx);
    vd_vhdx_overlay_free(&vhdx->overlay);
    vd_vhdx_parent_paths_free(&vhdx->metadata.locator.paths);
    vd_vhdx_regions_free(&vhdx->regions);
    free(vhdx->space.pieces);
    free(vhdx->layout.pieces);
    free(vhdx);
}

static vd_error
open_image(struct vd_file *file, const struct vd_open_request *request,
           struct vd_image **out)
{
    uint64_t size;
    vd_error error = vd_file_size(file, &size);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    struct vhdx_image *vhdx = calloc(1, sizeof(*vhdx));
    if (vhdx == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    vhdx->image.format = &vd_vhdx_format;
    vhdx->image.file = file;
    vhdx->image.writable = request->writable;
    vhdx->session = request->session;
    atomic_init(&vhdx->file_size, size);
    error = load(vhdx);
    if (error != ERROR_SUCCESS) {
        free_image(vhdx);
        return error;
    }
    vd_vhdx_fill_info(vhdx);
    *out = &vhdx->image;
    return ERROR_SUCCESS;
}

static vd_error
close_image(struct vd_image *image)
{
    struct vhdx_image *vhdx = vd_vhdx_of(image);
    vd_error error = vd_vhdx_end(vhdx);
    free_image(vhdx);
    return error;
}

static vd_error
parent_paths(struct vd_image *image, struct vd_parent_paths *out)
{
    const struct vd_parent_paths *paths =
        &vd_vhdx_of(image)->metadata.locator.paths;
    struct vd_parent_paths copy = {0};
    for (size_t i = 0; i < paths->count; i++) {
        size_t units = 0;
        while (paths->paths[i].text[units] != 0) {
            units++;
        }
        char16_t *text = calloc(units + 1, sizeof(*text));
        if (text == NULL) {
            vd_vhdx_parent_paths_free(&copy);
            return ERROR_NOT_ENOUGH_MEMORY;
        }
        memcpy(text, paths->paths[i].text, units * sizeof(*text));
        copy.paths[i].kind = paths->paths[i].kind;
        copy.paths[i].text = text;
        copy.count++;
    }
    *out = copy;
    return ERROR_SUCCESS;
}

vd_error
vd_vhdx_check_parent(const struct vd_image *parent)
{
    if (parent->format != &vd_vhdx_format) {
        vd_trace(VD_TRACE_FORMAT, "VHDX: the parent is a %s",
                 parent->format->name);
        return ERROR_VHD_INVALID_TYPE;
    }
    return ERROR_SUCCESS;
}

/* FORMATS 6.1: the linkage, or the second one while a merge is under way;
 * sizes may differ, sector sizes may not. */
static vd_error
accept_parent(const struct vd_image *child, const struct vd_image *parent)
{
    vd_error error = vd_vhdx_check_parent(parent);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    const struct vhdx_image *vhdx = (const struct vhdx_image *)child;
    const struct vd_guid *written =
        &((const struct vhdx_image *)parent)->header.data_write_guid;
    const struct vhdx_locator *locator = &vhdx->metadata.locator;
    if (!vd_guid_equal(&locator->linkage, written) &&
        (vd_guid_is_zero(&locator->linkage2) ||
         !vd_guid_equal(&locator->linkage2, written))) {
        vd_trace(VD_TRACE_FORMAT,
                 "VHDX: the parent has been written since the child");
        return ERROR_VHD_CHILD_PARENT_ID_MISMATCH;
    }
    if (child->info.sector_size != parent->info.sector_size) {
        vd_trace(VD_TRACE_FORMAT, "VHDX: the parent's sectors differ");
        return ERROR_VHD_CHILD_PARENT_SIZE_MISMATCH;
    }
    return ERROR_SUCCESS;
}

const struct vd_format vd_vhdx_format = {
    .name = "VHDX",
    .device_id = 3,
    .renews_identifier = true,
    .shrinks = true,
    .resizes_in_use = true,
    .probe = probe,
    .open = open_image,
    .lookup = vd_vhdx_lookup,
    .begin = vd_vhdx_begin,
    .write = vd_vhdx_write,
    .zero = vd_vhdx_zero,
    .commit = vd_vhdx_commit,
    .given_up = vd_vhdx_given_up,
    .reclaim = vd_vhdx_reclaim,
    .resize = vd_vhdx_resize,
    .forget = vd_vhdx_forget,
    .relocate = vd_vhdx_relocate,
    .occupied = vd_vhdx_occupied,
    .shorten = vd_vhdx_shorten,
    .change = vd_vhdx_change,
    .metadata_list = vd_vhdx_metadata_list,
    .metadata_get = vd_vhdx_metadata_get,
    .metadata_set = vd_vhdx_metadata_set,
    .metadata_delete = vd_vhdx_metadata_delete,
    .create_defaults = vd_vhdx_create_defaults,
    .create = vd_vhdx_create_image,
    .parent_paths = parent_paths,
    .parent_paths_free = vd_vhdx_parent_paths_free,
    .accept_parent = accept_parent,
    .close = close_image,
};
