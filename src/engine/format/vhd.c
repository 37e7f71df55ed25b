/*
 * VHD: the format as the rest of the engine sees it ("Virtual Hard Disk Image
 * Format Specification" 1.0).  Read and written: fixed, dynamic and
 * differencing disks.  The size of the disk is the footer's current size, as
 * on Windows.
 *
 * Not done here: disks split over several files.
 */
#include "format/vhd.h"

#include <stdlib.h>
#include <string.h>

#include "base/trace.h"
#include "format/vhd_create.h"

static void
trace_size(const struct vd_vhd_footer *footer)
{
    uint64_t creator_size = vd_vhd_footer_creator_size(footer);
    if (creator_size != footer->current_size) {
        vd_trace(VD_TRACE_FORMAT,
                 "VHD: its maker shows guests %llu of the %llu bytes",
                 (unsigned long long)creator_size,
                 (unsigned long long)footer->current_size);
    }
}

static void
fill_info(struct vd_vhd_image *vhd)
{
    const struct vd_vhd_footer *footer = &vhd->footers.footer;
    struct vd_image_info *info = &vhd->image.info;
    info->size_bytes = footer->current_size;
    info->sector_size = VHD_SECTOR_SIZE;
    info->physical_sector_size = VHD_SECTOR_SIZE;
    info->subtype = (enum vd_subtype)footer->disk_type; /* the same numbers */
    info->has_identifier = true;
    info->identifier = footer->unique_id;
    info->saved_state = vd_vhd_footer_has_saved_state(vhd->footers.raw);
    trace_size(footer);
}

static vd_error
read_header(struct vd_vhd_image *vhd)
{
    const struct vd_vhd_footers *footers = &vhd->footers;
    uint8_t raw[VHD_HEADER_SIZE];
    vd_error error = vd_file_pread(vhd->image.file, raw, sizeof(raw),
                                   footers->footer.data_offset);
    if (error == ERROR_SUCCESS) {
        error = vd_vhd_header_decode(raw, &vhd->header);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_vhd_header_check(&vhd->header, &footers->footer,
                                    footers->tail_offset);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    vhd->child = footers->footer.disk_type == VHD_TYPE_DIFFERENCING;
    vhd->bitmap_size = vd_vhd_bitmap_size(vhd->header.block_size);
    vhd->blocks = vd_vhd_entries_needed(footers->footer.current_size,
                                        vhd->header.block_size);
    vhd->image.info.block_size = vhd->header.block_size;
    if (vhd->child) {
        vhd->image.info.has_parent_identifier = true;
        vhd->image.info.parent_identifier = vhd->header.parent_id;
        vhd->image.info.parent_timestamp = vhd->header.parent_time_stamp;
    }
    return ERROR_SUCCESS;
}

static vd_error
load_blocks(struct vd_vhd_image *vhd)
{
    vd_error error = read_header(vhd);
    if (error == ERROR_SUCCESS) {
        vd_vhd_collect_ranges(vhd);
        error = vd_vhd_batmap_find(vhd);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_vhd_pages_create(vhd, vhd->blocks);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_vhd_bat_check(vhd);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_vhd_batmap_check(vhd);
    }
    if (error == ERROR_SUCCESS && vhd->image.writable) {
        error = vd_vhd_mend(vhd);
    }
    return error;
}

/* Nothing is relied on before it has been checked, nothing changed before
 * everything has. */
static vd_error
load(struct vd_vhd_image *vhd)
{
    vd_error error = vd_vhd_find_footers(vhd->image.file, &vhd->footers);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    atomic_init(&vhd->data_end, vhd->footers.tail_offset);
    fill_info(vhd);
    return vd_vhd_is_fixed(vhd) ? ERROR_SUCCESS : load_blocks(vhd);
}

static void
free_image(struct vd_vhd_image *vhd)
{
    vd_vhd_plan_drop(vhd);
    vd_vhd_pages_free(vhd);
    free(vhd->space.blocks);
    free(vhd);
}

static vd_error
open_image(struct vd_file *file, const struct vd_open_request *request,
           struct vd_image **out)
{
    struct vd_vhd_image *vhd = calloc(1, sizeof(*vhd));
    if (vhd == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    vhd->image.format = &vd_vhd_format;
    vhd->image.file = file;
    vhd->image.writable = request->writable;
    vd_error error = load(vhd);
    if (error != ERROR_SUCCESS) {
        free_image(vhd);
        return error;
    }
    *out = &vhd->image;
    return ERROR_SUCCESS;
}

static vd_error
close_image(struct vd_image *image)
{
    struct vd_vhd_image *vhd = vd_vhd_of(image);
    vd_error error = vd_vhd_end(vhd);
    free_image(vhd);
    return error;
}

/* The parent's time of modification, which the child stores,
 * proves nothing: copying a file changes it, and Windows 10 writes 0. */
static vd_error
accept_parent(const struct vd_image *child, const struct vd_image *parent)
{
    if (parent->format != &vd_vhd_format) {
        vd_trace(VD_TRACE_FORMAT, "VHD: the parent is a %s",
                 parent->format->name);
        return ERROR_VHD_INVALID_TYPE;
    }
    const struct vd_guid *wanted = &child->info.parent_identifier;
    if (vd_guid_is_zero(wanted)) {
        vd_trace(VD_TRACE_FORMAT, "VHD: the child does not say which parent "
                                  "it was made of");
    }
    else if (!vd_guid_equal(wanted, &parent->info.identifier)) {
        vd_trace(VD_TRACE_FORMAT, "VHD: the parent has another unique id");
        return ERROR_VHD_CHILD_PARENT_ID_MISMATCH;
    }
    if (child->info.size_bytes != parent->info.size_bytes) {
        vd_trace(VD_TRACE_FORMAT, "VHD: the parent has %llu bytes, not %llu",
                 (unsigned long long)parent->info.size_bytes,
                 (unsigned long long)child->info.size_bytes);
        return ERROR_VHD_CHILD_PARENT_SIZE_MISMATCH;
    }
    return ERROR_SUCCESS;
}

const struct vd_format vd_vhd_format = {
    .name = "VHD",
    .device_id = 2, /* VIRTUAL_STORAGE_TYPE_DEVICE_VHD */
    .probe = vd_vhd_recognise,
    .open = open_image,
    .lookup = vd_vhd_lookup,
    .begin = vd_vhd_begin,
    .write = vd_vhd_write,
    .zero = vd_vhd_zero,
    .commit = vd_vhd_commit,
    .given_up = vd_vhd_given_up,
    .reclaim = vd_vhd_reclaim,
    .resize = vd_vhd_resize,
    .forget = vd_vhd_forget,
    .relocate = vd_vhd_relocate,
    .occupied = vd_vhd_occupied,
    .shorten = vd_vhd_shorten,
    .change = vd_vhd_change,
    .create_defaults = vd_vhd_create_defaults,
    .create = vd_vhd_create_image,
    .parent_paths = vd_vhd_parent_paths,
    .parent_paths_free = vd_vhd_parent_paths_free,
    .accept_parent = accept_parent,
    .close = close_image,
};
