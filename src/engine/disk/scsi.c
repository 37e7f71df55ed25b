/*
 * Executing a SCSI command: the table of commands, and how they fail.  See
 * scsi.h.  What the unit tells about itself is in scsi_pages.c, what moves
 * blocks in scsi_blocks.c.
 */
#include "disk/scsi.h"

#include <string.h>

#include "base/bytes.h"
#include "base/trace.h"
#include "disk/scsi_private.h"

/* ---- sense data (SPC-4 4.5.3) ---- */

void
vd_scsi_fail(struct scsi_call *call, enum sense_key key, uint16_t asc)
{
    struct vd_scsi_result *result = call->result;
    vd_trace(VD_TRACE_DISK, "SCSI command %02x: sense %x/%02x/%02x",
             call->cdb[0], (unsigned)key, asc >> 8, asc & 0xFF);
    *result = (struct vd_scsi_result){
        .status = VD_SCSI_CHECK_CONDITION,
        .sense_length = VD_SCSI_SENSE_SIZE,
    };
    result->sense[0] = 0x70; /* current error, fixed format */
    result->sense[2] = (uint8_t)key;
    result->sense[7] = VD_SCSI_SENSE_SIZE - 8; /* bytes that follow */
    vd_put_be16(result->sense + 12, asc);
}

void
vd_scsi_bad_field(struct scsi_call *call, uint16_t byte)
{
    vd_scsi_fail(call, KEY_ILLEGAL_REQUEST, ASC_INVALID_FIELD_IN_CDB);
    call->result->sense[15] = 0xC0; /* a pointer follows, into the CDB */
    vd_put_be16(call->result->sense + 16, byte);
}

void
vd_scsi_out_of_range(struct scsi_call *call, uint64_t lba)
{
    vd_scsi_fail(call, KEY_ILLEGAL_REQUEST, ASC_LBA_OUT_OF_RANGE);
    if (lba <= UINT32_MAX) { /* else there is no room for it */
        call->result->sense[0] |= 0x80;
        vd_put_be32(call->result->sense + 3, (uint32_t)lba);
    }
}

bool
vd_scsi_failed_read(struct scsi_call *call, vd_error error)
{
    if (error == ERROR_NOT_ENOUGH_MEMORY) {
        vd_scsi_fail(call, KEY_ABORTED_COMMAND, ASC_INSUFFICIENT_RESOURCES);
    }
    else if (error != ERROR_SUCCESS) {
        vd_scsi_fail(call, KEY_MEDIUM_ERROR, ASC_UNRECOVERED_READ_ERROR);
    }
    return error != ERROR_SUCCESS;
}

bool
vd_scsi_failed_write(struct scsi_call *call, vd_error error)
{
    switch (error) {
    case ERROR_SUCCESS:
        return false;
    case ERROR_WRITE_PROTECT:
        vd_scsi_fail(call, KEY_DATA_PROTECT, ASC_WRITE_PROTECTED);
        return true;
    case ERROR_DISK_FULL:
    case ERROR_VHD_BLOCK_ALLOCATION_FAILURE:
        vd_scsi_fail(call, KEY_DATA_PROTECT, ASC_SPACE_ALLOCATION_FAILED);
        return true;
    case ERROR_NOT_ENOUGH_MEMORY:
        vd_scsi_fail(call, KEY_ABORTED_COMMAND, ASC_INSUFFICIENT_RESOURCES);
        return true;
    default:
        vd_scsi_fail(call, KEY_MEDIUM_ERROR, ASC_WRITE_ERROR);
        return true;
    }
}

/* ---- data ---- */

void
vd_scsi_give(struct scsi_call *call, const void *answer, size_t length,
             size_t allocation_length)
{
    if (length > allocation_length) {
        length = allocation_length;
    }
    if (length > call->length) {
        length = call->length;
    }
    if (length != 0) {
        memcpy(call->data, answer, length);
    }
    call->result->transferred = length;
}

/* ---- the table ---- */

enum direction { DATA_NONE, DATA_IN, DATA_OUT };

static void
test_unit_ready(struct scsi_call *call)
{
    (void)call;
}

static const struct operation {
    uint8_t code;
    uint8_t cdb_length; /* the control byte is its last */
    enum direction direction;
    void (*execute)(struct scsi_call *call);
} operations[] = {
    {0x00, 6, DATA_NONE, test_unit_ready},
    {0x03, 6, DATA_IN, vd_scsi_request_sense},
    {0x08, 6, DATA_IN, vd_scsi_read_6},
    {0x0A, 6, DATA_OUT, vd_scsi_write_6},
    {0x12, 6, DATA_IN, vd_scsi_inquiry},
    {0x1A, 6, DATA_IN, vd_scsi_mode_sense_6},
    {0x25, 10, DATA_IN, vd_scsi_read_capacity_10},
    {0x28, 10, DATA_IN, vd_scsi_read_10},
    {0x2A, 10, DATA_OUT, vd_scsi_write_10},
    {0x35, 10, DATA_NONE, vd_scsi_synchronize_cache_10},
    {0x41, 10, DATA_OUT, vd_scsi_write_same_10},
    {0x42, 10, DATA_OUT, vd_scsi_unmap},
    {0x5A, 10, DATA_IN, vd_scsi_mode_sense_10},
    {0x88, 16, DATA_IN, vd_scsi_read_16},
    {0x8A, 16, DATA_OUT, vd_scsi_write_16},
    {0x91, 16, DATA_NONE, vd_scsi_synchronize_cache_16},
    {0x93, 16, DATA_OUT, vd_scsi_write_same_16},
    {0x9E, 16, DATA_IN, vd_scsi_service_action_in_16},
    {0xA0, 12, DATA_IN, vd_scsi_report_luns},
    {0xA8, 12, DATA_IN, vd_scsi_read_12},
    {0xAA, 12, DATA_OUT, vd_scsi_write_12},
};

/* Commands that find out about a unit do not wait for its attention (SPC-4
 * 5.14). */
static bool
waits_for_attention(const struct operation *operation)
{
    return operation->code != 0x03 && operation->code != 0x12 &&
           operation->code != 0xA0;
}

static bool
takes_attention(const struct vd_scsi_unit *unit)
{
    return unit->capacity_changed != NULL &&
           atomic_exchange(unit->capacity_changed, false);
}

static const struct operation *
find_operation(uint8_t code)
{
    for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++) {
        if (operations[i].code == code) {
            return &operations[i];
        }
    }
    return NULL;
}

/* Of the control byte: keep a failure until it is cleared. */
#define CONTROL_NACA 0x04

void
vd_scsi_execute(const struct vd_scsi_unit *unit,
                const struct vd_scsi_command *command,
                struct vd_scsi_result *result)
{
    const struct operation *operation = find_operation(command->cdb[0]);
    struct scsi_call call = {
        .unit = unit,
        .cdb = command->cdb,
        .result = result,
    };
    *result = (struct vd_scsi_result){.status = VD_SCSI_GOOD};
    if (operation == NULL) {
        vd_scsi_fail(&call, KEY_ILLEGAL_REQUEST, ASC_INVALID_OPERATION_CODE);
        return;
    }
    if (command->cdb_length < operation->cdb_length) {
        vd_scsi_bad_field(&call, (uint16_t)command->cdb_length);
        return;
    }
    if ((command->cdb[operation->cdb_length - 1] & CONTROL_NACA) != 0) {
        vd_scsi_bad_field(&call, (uint16_t)(operation->cdb_length - 1));
        return;
    }
    if (waits_for_attention(operation) && takes_attention(unit)) {
        vd_scsi_fail(&call, KEY_UNIT_ATTENTION, ASC_CAPACITY_CHANGED);
        return;
    }
    if (operation->direction == (command->data_in ? DATA_IN : DATA_OUT)) {
        call.data = command->data;
        call.length = command->length;
    }
    operation->execute(&call);
}
