/*
 * RawSCSIVirtualDisk, which came with Windows 10 as well.
 */
#include "call.h"

#include <string.h>

enum {
    SIZE_RAW_SCSI_VIRTUAL_DISK_PARAMETERS = 48,
    SIZE_RAW_SCSI_VIRTUAL_DISK_RESPONSE = 12,
    /* What the double writes where data and sense data are asked for. */
    DATA_BYTE = 0x5A,
    SENSE_BYTE = 0x6B,
};

/* The members of RAW_SCSI_VIRTUAL_DISK_PARAMETERS that the double follows,
 * from their published places. */
struct scsi {
    bool data_in;
    unsigned char cdb_length;
    unsigned char sense_length;
    DWORD data_length;
    void *data;
    void *sense;
    void *cdb;
};

static struct scsi
read_scsi(const unsigned char *parameters)
{
    struct scsi scsi = {
        .data_in = parameters[12] != 0,
        .cdb_length = parameters[13],
        .sense_length = parameters[14],
    };

    memcpy(&scsi.data_length, parameters + 20, sizeof scsi.data_length);
    memcpy(&scsi.data, parameters + 24, sizeof scsi.data);
    memcpy(&scsi.sense, parameters + 32, sizeof scsi.sense);
    memcpy(&scsi.cdb, parameters + 40, sizeof scsi.cdb);
    return scsi;
}

/* The addresses, and what is there. */
static void
record_scsi(struct record *record, const struct scsi *scsi)
{
    record_number(record, "DataBuffer", (uint64_t)(uintptr_t)scsi->data);
    record_number(record, "SenseInfo", (uint64_t)(uintptr_t)scsi->sense);
    record_number(record, "CdbAddress", (uint64_t)(uintptr_t)scsi->cdb);
    record_bytes(record, "Cdb", scsi->cdb, scsi->cdb_length);
    record_bytes(record, "Data", scsi->data_in ? NULL : scsi->data,
                 scsi->data_length);
}

static void
answer_scsi(struct call *call, const struct scsi *scsi, void *response)
{
    if (scsi->data_in && scsi->data_length != 0) {
        memset(scsi->data, DATA_BYTE, scsi->data_length);
    }
    if (scsi->sense_length != 0) {
        memset(scsi->sense, SENSE_BYTE, scsi->sense_length);
    }
    call_give(call, response, SIZE_RAW_SCSI_VIRTUAL_DISK_RESPONSE);
}

EXPORT
RawSCSIVirtualDisk(HANDLE handle, const void *parameters, DWORD flags,
                   void *response)
{
    struct call call;

    call_begin_versioned(&call, "RawSCSIVirtualDisk", parameters);
    DWORD result = call_handle(&call, handle);
    record_bytes(&call.record, "Parameters", parameters,
                 SIZE_RAW_SCSI_VIRTUAL_DISK_PARAMETERS);
    record_number(&call.record, "Flags", flags);
    record_bytes(&call.record, "Response", response,
                 SIZE_RAW_SCSI_VIRTUAL_DISK_RESPONSE);
    if (record_is_readable(parameters,
                           SIZE_RAW_SCSI_VIRTUAL_DISK_PARAMETERS)) {
        struct scsi scsi = read_scsi(parameters);
        record_scsi(&call.record, &scsi);
        if (result == ERROR_SUCCESS) {
            answer_scsi(&call, &scsi, response);
        }
    }
    return call_end(&call, result);
}
