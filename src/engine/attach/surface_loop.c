/*
 * The loop surface: a payload that is one run of the image file, shown by the
 * kernel alone (DESIGN 5.1).  No process of ours is in the path of the data.
 */
#include "attach/surface.h"

#include "base/checked.h"

static vd_error
loop_suits(struct vd_disk *disk, const struct vd_attach_request *request,
           bool *suits_out)
{
    bool contiguous = false;
    uint64_t file_offset;
    if (request->local && vd_loop_permitted()) {
        vd_error error = vd_disk_contiguous(disk, &contiguous, &file_offset);
        if (error != ERROR_SUCCESS) {
            return error;
        }
    }
    *suits_out = contiguous;
    return ERROR_SUCCESS;
}

static vd_error
loop_show(struct vd_disk *disk, const struct vd_attach_request *request,
          const struct vd_show_files *files, struct vd_record *record,
          int *claim_out)
{
    bool contiguous;
    uint64_t file_offset;
    uint64_t offset;
    vd_error error = vd_disk_contiguous(disk, &contiguous, &file_offset);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (!contiguous ||
        !vd_add_u64(file_offset, request->window_offset, &offset)) {
        return ERROR_NOT_SUPPORTED;
    }
    if (!vd_request_is_read_only(disk, request)) {
        error = vd_disk_prepare_direct(disk, files->image);
        if (error != ERROR_SUCCESS) {
            return error;
        }
    }
    struct vd_loop_options options = {
        .image_fd = files->image,
        .image_path = vd_disk_path(disk),
        .offset = offset,
        .length = request->window_length,
        .sector_size = vd_disk_sector_size(disk),
        .read_only = vd_request_is_read_only(disk, request),
        .direct_io = !request->cached_io,
        .scan_partitions = vd_request_has_partitions(disk, request),
    };
    return vd_loop_create(&options, &record->loop, claim_out);
}

const struct vd_surface vd_loop_surface = {
    .name = "loop",
    .suits = loop_suits,
    .show = loop_show,
};
