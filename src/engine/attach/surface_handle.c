/*
 * The surface without a device: attached to the caller alone, who reads and
 * writes through his handle.  All there is to it are the locks and the
 * record, which every attachment has.
 */
#include "attach/surface.h"

static vd_error
handle_suits(struct vd_disk *disk, const struct vd_attach_request *request,
             bool *suits_out)
{
    (void)disk;
    *suits_out = !request->local;
    return ERROR_SUCCESS;
}

static vd_error
handle_show(struct vd_disk *disk, const struct vd_attach_request *request,
            const struct vd_show_files *files, struct vd_record *record,
            int *claim_out)
{
    (void)disk;
    (void)request;
    (void)files;
    (void)record;
    *claim_out = -1;
    return ERROR_SUCCESS;
}

const struct vd_surface vd_handle_surface = {
    .name = "handle",
    .suits = handle_suits,
    .show = handle_show,
};
