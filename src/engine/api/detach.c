/*
 * DetachVirtualDisk (virtdisk.h).
 *
 * Whoever may open the image with DETACH access may detach it, also what
 * another handle or process attached.  A disk in use (mounted, say) is
 * ERROR_BUSY and stays: there is no surprise removal here.
 */
#include <virtdisk.h>

#include "api/operation.h"
#include "api/refuse.h"
#include "api/virtual_disk.h"
#include "base/cleanup.h"

static vd_error
detach(struct vd_virtual_disk *virtual_disk)
{
    VD_SCOPED_LOCK(&virtual_disk->lock);
    struct vd_attachment *attachment =
        vd_virtual_disk_attachment(virtual_disk);
    if (attachment == NULL) {
        return vd_attached_detach(virtual_disk->file_id);
    }
    vd_error error = vd_attachment_detach(attachment);
    /* NOT_READY: somebody else was faster, and the hold is void. */
    if (error == ERROR_SUCCESS || error == ERROR_NOT_READY) {
        vd_virtual_disk_drop_attachment(virtual_disk);
    }
    return error;
}

static vd_error
check_and_detach(struct vd_virtual_disk *virtual_disk)
{
    if (!virtual_disk->rights.detach) {
        return vd_refuse(ERROR_ACCESS_DENIED,
                         "the handle was not opened for detaching");
    }
    vd_error error = vd_operation_none_pending(virtual_disk);
    return error ? error : detach(virtual_disk);
}

/* ERROR_NOT_READY if the image is not attached. */
DWORD WINAPI
DetachVirtualDisk(HANDLE VirtualDiskHandle, DETACH_VIRTUAL_DISK_FLAG Flags,
                  ULONG ProviderSpecificFlags)
{
    struct vd_virtual_disk *virtual_disk;
    vd_error error = vd_virtual_disk_acquire(VirtualDiskHandle, &virtual_disk);
    if (error) {
        return error;
    }
    if (Flags != DETACH_VIRTUAL_DISK_FLAG_NONE || ProviderSpecificFlags != 0) {
        error = vd_refuse(ERROR_INVALID_PARAMETER,
                          "detach flags %#x, provider-specific %#x",
                          (unsigned)Flags, ProviderSpecificFlags);
    }
    else {
        error = check_and_detach(virtual_disk);
    }
    vd_virtual_disk_release(virtual_disk);
    return error;
}
