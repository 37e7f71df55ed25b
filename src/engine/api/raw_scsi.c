/*
 * RawSCSIVirtualDisk (virtdisk.h): a SCSI command for a disk that is attached
 * to the caller alone (NO_LOCAL_HOST), which the Windows function is for too.
 *
 * ERROR_SUCCESS says that the command reached the disk; ScsiStatus and the
 * sense data say what became of it.  Calls run side by side.  SrbFlags are
 * hints for a driver's queue and change nothing here.
 */
#include <virtdisk.h>

#include <string.h>

#include "api/operation.h"
#include "api/refuse.h"
#include "api/virtual_disk.h"
#include "disk/scsi.h"

static vd_error
check_buffers(const RAW_SCSI_VIRTUAL_DISK_PARAMETERS *parameters)
{
    if (parameters->Version1.Cdb == NULL ||
        parameters->Version1.CdbLength == 0 ||
        parameters->Version1.CdbLength > VD_SCSI_CDB_MAX) {
        return vd_refuse(ERROR_INVALID_PARAMETER, "a CDB of %u bytes",
                         parameters->Version1.CdbLength);
    }
    if (parameters->Version1.DataTransferLength != 0 &&
        parameters->Version1.DataBuffer == NULL) {
        return vd_refuse(ERROR_INVALID_PARAMETER, "DataBuffer is NULL");
    }
    if (parameters->Version1.SenseInfoLength != 0 &&
        parameters->Version1.SenseInfo == NULL) {
        return vd_refuse(ERROR_INVALID_PARAMETER, "SenseInfo is NULL");
    }
    return ERROR_SUCCESS;
}

static vd_error
check_arguments(const RAW_SCSI_VIRTUAL_DISK_PARAMETERS *parameters,
                RAW_SCSI_VIRTUAL_DISK_FLAG flags,
                const RAW_SCSI_VIRTUAL_DISK_RESPONSE *response)
{
    if (parameters == NULL || response == NULL) {
        return vd_refuse(ERROR_INVALID_PARAMETER, "a pointer is NULL");
    }
    if (parameters->Version != RAW_SCSI_VIRTUAL_DISK_VERSION_1) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "RAW_SCSI_VIRTUAL_DISK_PARAMETERS version %u",
                         (unsigned)parameters->Version);
    }
    if (flags != RAW_SCSI_VIRTUAL_DISK_FLAG_NONE) {
        return vd_refuse(ERROR_INVALID_PARAMETER, "flags %#x",
                         (unsigned)flags);
    }
    if (parameters->Version1.RSVDHandle != FALSE) {
        return vd_refuse(ERROR_NOT_SUPPORTED,
                         "there are no remote shared virtual disks here");
    }
    return check_buffers(parameters);
}

static void
answer(const RAW_SCSI_VIRTUAL_DISK_PARAMETERS *parameters,
       const struct vd_scsi_result *result,
       RAW_SCSI_VIRTUAL_DISK_RESPONSE *response)
{
    UCHAR sense_length = result->sense_length;
    if (sense_length > parameters->Version1.SenseInfoLength) {
        sense_length = parameters->Version1.SenseInfoLength;
    }
    if (sense_length != 0) {
        memcpy(parameters->Version1.SenseInfo, result->sense, sense_length);
    }
    response->Version = RAW_SCSI_VIRTUAL_DISK_VERSION_1;
    response->Version1.ScsiStatus = result->status;
    response->Version1.SenseInfoLength = sense_length;
    response->Version1.DataTransferLength = (ULONG)result->transferred;
}

static void
execute(struct vd_live *live,
        const RAW_SCSI_VIRTUAL_DISK_PARAMETERS *parameters,
        RAW_SCSI_VIRTUAL_DISK_RESPONSE *response)
{
    struct vd_scsi_command command = {
        .cdb = parameters->Version1.Cdb,
        .cdb_length = parameters->Version1.CdbLength,
        .data_in = parameters->Version1.DataIn != 0,
        .data = parameters->Version1.DataBuffer,
        .length = parameters->Version1.DataTransferLength,
    };
    struct vd_scsi_result result;
    vd_scsi_execute(vd_live_unit(live), &command, &result);
    answer(parameters, &result, response);
}

static vd_error
enter_and_execute(struct vd_virtual_disk *virtual_disk,
                  const RAW_SCSI_VIRTUAL_DISK_PARAMETERS *parameters,
                  RAW_SCSI_VIRTUAL_DISK_RESPONSE *response)
{
    struct vd_live *live;
    vd_error error = vd_operation_none_in_the_way(virtual_disk);
    if (!error) {
        error = vd_virtual_disk_enter(virtual_disk, &live);
    }
    if (error) {
        return error;
    }
    execute(live, parameters, response);
    vd_live_leave(live);
    return ERROR_SUCCESS;
}

/* Errors (inferred where Microsoft is silent): ERROR_NOT_READY if the disk is
 * not attached through this handle, ERROR_NOT_SUPPORTED if it is but with a
 * device. */
DWORD WINAPI
RawSCSIVirtualDisk(HANDLE VirtualDiskHandle,
                   const PRAW_SCSI_VIRTUAL_DISK_PARAMETERS Parameters,
                   RAW_SCSI_VIRTUAL_DISK_FLAG Flags,
                   PRAW_SCSI_VIRTUAL_DISK_RESPONSE Response)
{
    struct vd_virtual_disk *virtual_disk;
    vd_error error = vd_virtual_disk_acquire(VirtualDiskHandle, &virtual_disk);
    if (error) {
        return error;
    }
    error = check_arguments(Parameters, Flags, Response);
    if (!error) {
        error = enter_and_execute(virtual_disk, Parameters, Response);
    }
    vd_virtual_disk_release(virtual_disk);
    return error;
}
