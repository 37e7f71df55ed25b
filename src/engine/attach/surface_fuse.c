/*
 * The surface for disks whose payload is not one run of the image file: a
 * disk server shows the disk as a file, and a loop device stands on that
 * (DESIGN 5.1).
 *
 * The loop device always uses direct I/O, also where the host's page cache
 * is asked for: the server reads and writes the image through that anyway,
 * and a second copy of everything would be kept otherwise.
 */
#include "attach/surface.h"

#include <unistd.h>

#include "attach/locked_files.h"
#include "attach/server_client.h"

static vd_error
fuse_suits(struct vd_disk *disk, const struct vd_attach_request *request,
           bool *suits_out)
{
    (void)disk;
    *suits_out = request->local && vd_loop_permitted();
    return ERROR_SUCCESS;
}

static vd_error
create_device(const struct vd_disk *disk,
              const struct vd_attach_request *request, int file,
              struct vd_loop *loop_out, int *claim_out)
{
    struct vd_loop_options options = {
        .image_fd = file,
        .image_path = vd_disk_path(disk),
        .sector_size = vd_disk_sector_size(disk),
        .read_only = vd_request_is_read_only(disk, request),
        .direct_io = true,
        .scan_partitions = vd_request_has_partitions(disk, request),
    };
    return vd_loop_create(&options, loop_out, claim_out);
}

static vd_error
show_served(const struct vd_disk *disk,
            const struct vd_attach_request *request,
            const struct vd_server_options *options, struct vd_loop *loop_out,
            int *claim_out)
{
    struct vd_server_file served;
    vd_error error = vd_server_start(options, &served);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = create_device(disk, request, served.file, loop_out, claim_out);
    if (error != ERROR_SUCCESS) {
        vd_server_stop(&served);
        return error;
    }
    close(served.file); /* the loop driver has it */
    close(served.server);
    return ERROR_SUCCESS;
}

static vd_error
fuse_show(struct vd_disk *disk, const struct vd_attach_request *request,
          const struct vd_show_files *files, struct vd_record *record,
          int *claim_out)
{
    struct vd_disk_files layers;
    vd_error error = vd_locked_files_open(disk, files->image, &layers);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    struct vd_server_options options = {
        .files = &layers,
        .listener = files->listener,
        .read_only = vd_request_is_read_only(disk, request),
        .window_offset = request->window_offset,
        .window_length = request->window_length,
    };
    error = show_served(disk, request, &options, &record->loop, claim_out);
    vd_disk_files_close(&layers); /* the server has them */
    return error;
}

const struct vd_surface vd_fuse_surface = {
    .name = "fuse",
    .serves = true,
    .suits = fuse_suits,
    .show = fuse_show,
};
