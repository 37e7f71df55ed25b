/*
 * A SCSI command that is being executed, as the files of scsi*.c share it.
 */
#ifndef VD_DISK_SCSI_PRIVATE_H
#define VD_DISK_SCSI_PRIVATE_H

#include "disk/scsi.h"

/* Additional sense code and qualifier, by their names in SPC-4 annex F. */
#define ASC_WRITE_ERROR 0x0C00
#define ASC_UNRECOVERED_READ_ERROR 0x1100
#define ASC_PARAMETER_LIST_LENGTH_ERROR 0x1A00
#define ASC_INVALID_OPERATION_CODE 0x2000
#define ASC_LBA_OUT_OF_RANGE 0x2100
#define ASC_INVALID_FIELD_IN_CDB 0x2400
#define ASC_INVALID_FIELD_IN_PARAMETERS 0x2600
#define ASC_WRITE_PROTECTED 0x2700
#define ASC_SPACE_ALLOCATION_FAILED 0x2707
#define ASC_CAPACITY_CHANGED 0x2A09
#define ASC_SAVING_NOT_SUPPORTED 0x3900
#define ASC_INSUFFICIENT_RESOURCES 0x5503

enum sense_key {
    KEY_NO_SENSE = 0x0,
    KEY_MEDIUM_ERROR = 0x3,
    KEY_ILLEGAL_REQUEST = 0x5,
    KEY_UNIT_ATTENTION = 0x6,
    KEY_DATA_PROTECT = 0x7,
    KEY_ABORTED_COMMAND = 0xB,
};

/* Limits that page B0 announces. */
#define SCSI_UNMAP_DESCRIPTORS_MAX 256
#define SCSI_WRITE_SAME_MAX ((uint64_t)1 << 30) /* bytes */
#define SCSI_OPTIMAL_TRANSFER ((uint32_t)1 << 20)

struct scsi_call {
    const struct vd_scsi_unit *unit;
    const uint8_t *cdb;
    uint8_t *data; /* in the direction that the command takes, */
    size_t length; /* 0 if the caller's is another */
    struct vd_scsi_result *result;
};

/* ---- how a command fails ---- */

void vd_scsi_fail(struct scsi_call *call, enum sense_key key, uint16_t asc);

/* A byte of the CDB that says what cannot be done. */
void vd_scsi_bad_field(struct scsi_call *call, uint16_t byte);

void vd_scsi_out_of_range(struct scsi_call *call, uint64_t lba);

/* What reading or writing the medium ended with; true if it failed. */
bool vd_scsi_failed_read(struct scsi_call *call, vd_error error);
bool vd_scsi_failed_write(struct scsi_call *call, vd_error error);

/* ---- how a command gives data ---- */

/* As much of the answer as the CDB allows (its allocation length) and the
 * caller's buffer holds. */
void vd_scsi_give(struct scsi_call *call, const void *answer, size_t length,
                  size_t allocation_length);

/* ---- the commands ---- */

void vd_scsi_request_sense(struct scsi_call *call);
void vd_scsi_inquiry(struct scsi_call *call);
void vd_scsi_mode_sense_6(struct scsi_call *call);
void vd_scsi_mode_sense_10(struct scsi_call *call);
void vd_scsi_report_luns(struct scsi_call *call);

void vd_scsi_read_capacity_10(struct scsi_call *call);
void vd_scsi_service_action_in_16(struct scsi_call *call);

void vd_scsi_read_6(struct scsi_call *call);
void vd_scsi_read_10(struct scsi_call *call);
void vd_scsi_read_12(struct scsi_call *call);
void vd_scsi_read_16(struct scsi_call *call);
void vd_scsi_write_6(struct scsi_call *call);
void vd_scsi_write_10(struct scsi_call *call);
void vd_scsi_write_12(struct scsi_call *call);
void vd_scsi_write_16(struct scsi_call *call);
void vd_scsi_synchronize_cache_10(struct scsi_call *call);
void vd_scsi_synchronize_cache_16(struct scsi_call *call);

void vd_scsi_get_lba_status(struct scsi_call *call);
void vd_scsi_unmap(struct scsi_call *call);
void vd_scsi_write_same_10(struct scsi_call *call);
void vd_scsi_write_same_16(struct scsi_call *call);

#endif
