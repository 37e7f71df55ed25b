/*
 * The table of surfaces, and what they ask of a request.
 */
#include "attach/surface.h"

#include <stddef.h>

#include "base/trace.h"

static const struct vd_surface *const surfaces[] = {
    &vd_loop_surface,
    &vd_fuse_surface,
    &vd_file_surface,
    &vd_handle_surface,
};

vd_error
vd_surface_find(struct vd_disk *disk, const struct vd_attach_request *request,
                const struct vd_surface **out)
{
    for (size_t i = 0; i < sizeof(surfaces) / sizeof(surfaces[0]); i++) {
        bool suits = false;
        vd_error error = surfaces[i]->suits(disk, request, &suits);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        if (suits) {
            *out = surfaces[i];
            return ERROR_SUCCESS;
        }
    }
    vd_trace(VD_TRACE_ATTACH, "no surface can show this disk");
    return ERROR_NOT_SUPPORTED;
}

bool
vd_request_is_whole(const struct vd_disk *disk,
                    const struct vd_attach_request *request)
{
    return request->window_offset == 0 &&
           request->window_length == vd_disk_size_bytes(disk);
}

bool
vd_request_is_read_only(const struct vd_disk *disk,
                        const struct vd_attach_request *request)
{
    return request->read_only || vd_disk_optical(disk);
}

bool
vd_request_has_partitions(const struct vd_disk *disk,
                          const struct vd_attach_request *request)
{
    return request->partition_nodes && !vd_disk_optical(disk);
}
