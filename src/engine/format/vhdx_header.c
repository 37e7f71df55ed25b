/*
 * The two headers of a VHDX file ([MS-VHDX] 2.2.2): which one is current,
 * and how both are brought to a new state.
 */
#include "format/vhdx.h"

#include <string.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/trace.h"

enum {
    HEADER_SIGNATURE = 0,
    HEADER_CHECKSUM = 4,
    HEADER_SEQUENCE = 8,
    HEADER_FILE_WRITE_GUID = 16,
    HEADER_DATA_WRITE_GUID = 32,
    HEADER_LOG_GUID = 48,
    HEADER_LOG_VERSION = 64,
    HEADER_VERSION = 66,
    HEADER_LOG_LENGTH = 68,
    HEADER_LOG_OFFSET = 72,
};

static void
decode(const uint8_t *buffer, struct vhdx_header *header)
{
    header->sequence = vd_get_le64(buffer + HEADER_SEQUENCE);
    memcpy(&header->file_write_guid, buffer + HEADER_FILE_WRITE_GUID,
           VD_GUID_SIZE);
    memcpy(&header->data_write_guid, buffer + HEADER_DATA_WRITE_GUID,
           VD_GUID_SIZE);
    memcpy(&header->log_guid, buffer + HEADER_LOG_GUID, VD_GUID_SIZE);
    header->log_version = vd_get_le16(buffer + HEADER_LOG_VERSION);
    header->version = vd_get_le16(buffer + HEADER_VERSION);
    header->log_length = vd_get_le32(buffer + HEADER_LOG_LENGTH);
    header->log_offset = vd_get_le64(buffer + HEADER_LOG_OFFSET);
}

void
vd_vhdx_header_encode(const struct vhdx_header *header,
                      uint8_t buffer[VHDX_HEADER_SIZE])
{
    memset(buffer, 0, VHDX_HEADER_SIZE);
    memcpy(buffer + HEADER_SIGNATURE, "head", 4);
    vd_put_le64(buffer + HEADER_SEQUENCE, header->sequence);
    memcpy(buffer + HEADER_FILE_WRITE_GUID, &header->file_write_guid,
           VD_GUID_SIZE);
    memcpy(buffer + HEADER_DATA_WRITE_GUID, &header->data_write_guid,
           VD_GUID_SIZE);
    memcpy(buffer + HEADER_LOG_GUID, &header->log_guid, VD_GUID_SIZE);
    vd_put_le16(buffer + HEADER_LOG_VERSION, header->log_version);
    vd_put_le16(buffer + HEADER_VERSION, header->version);
    vd_put_le32(buffer + HEADER_LOG_LENGTH, header->log_length);
    vd_put_le64(buffer + HEADER_LOG_OFFSET, header->log_offset);
    vd_put_le32(buffer + HEADER_CHECKSUM, vd_crc32c(buffer, VHDX_HEADER_SIZE));
}

/* Signature and checksum: whether this slot holds a header at all. */
static bool
is_header(const uint8_t *buffer)
{
    return memcmp(buffer + HEADER_SIGNATURE, "head", 4) == 0 &&
           vd_crc32c_skipping(buffer, VHDX_HEADER_SIZE, HEADER_CHECKSUM) ==
               vd_get_le32(buffer + HEADER_CHECKSUM);
}

/*
 * The slot of the current header: the valid one, or of two valid ones the one
 * with the greater sequence number.  Disk2vhd writes the same header twice;
 * two different ones with one number are corrupt.
 */
static vd_error
choose(uint8_t buffers[2][VHDX_HEADER_SIZE], unsigned *slot_out)
{
    bool valid[2] = {is_header(buffers[0]), is_header(buffers[1])};
    uint64_t sequence[2] = {vd_get_le64(buffers[0] + HEADER_SEQUENCE),
                            vd_get_le64(buffers[1] + HEADER_SEQUENCE)};
    if (!valid[0] && !valid[1]) {
        vd_trace(VD_TRACE_FORMAT, "VHDX: no valid header");
        return ERROR_VHD_DRIVE_FOOTER_CHECKSUM_MISMATCH;
    }
    if (valid[0] && valid[1] && sequence[0] == sequence[1] &&
        memcmp(buffers[0], buffers[1], VHDX_HEADER_SIZE) != 0) {
        vd_trace(VD_TRACE_FORMAT,
                 "VHDX: two headers with one sequence number");
        return ERROR_VHD_DRIVE_FOOTER_CORRUPT;
    }
    *slot_out = valid[1] && (!valid[0] || sequence[1] > sequence[0]);
    return ERROR_SUCCESS;
}

/* The fields of the current header; [MS-VHDX] 2.2.2, 2.3. */
static vd_error
check(const struct vhdx_header *header)
{
    if (header->version != 1) {
        vd_trace(VD_TRACE_FORMAT, "VHDX: header version %u", header->version);
        return ERROR_VHD_FORMAT_UNSUPPORTED_VERSION;
    }
    bool dirty = !vd_guid_is_zero(&header->log_guid);
    if (dirty && header->log_version != 0) {
        vd_trace(VD_TRACE_FORMAT, "VHDX: log version %u", header->log_version);
        return ERROR_VHD_FORMAT_UNSUPPORTED_VERSION;
    }
    if (header->log_length % VHDX_MIB != 0 ||
        header->log_length > VHDX_MAX_LOG_LENGTH ||
        header->log_offset % VHDX_MIB != 0 ||
        (header->log_length == 0 && dirty) ||
        (header->log_length != 0 && header->log_offset < VHDX_FIRST_REGION)) {
        vd_trace(VD_TRACE_FORMAT, "VHDX: log of %u bytes at %llu",
                 header->log_length, (unsigned long long)header->log_offset);
        return ERROR_VHD_DRIVE_FOOTER_CORRUPT;
    }
    return ERROR_SUCCESS;
}

vd_error
vd_vhdx_header_read(struct vd_file *file, struct vhdx_header *out,
                    unsigned *slot_out)
{
    uint8_t buffers[2][VHDX_HEADER_SIZE];
    for (unsigned slot = 0; slot < 2; slot++) {
        vd_error error = vd_file_pread(file, buffers[slot], VHDX_HEADER_SIZE,
                                       VHDX_HEADER_OFFSET(slot));
        if (error != ERROR_SUCCESS) {
            return error;
        }
    }
    unsigned slot = 0;
    vd_error error = choose(buffers, &slot);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    struct vhdx_header header;
    decode(buffers[slot], &header);
    error = check(&header);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    *out = header;
    *slot_out = slot;
    return ERROR_SUCCESS;
}

static vd_error
write_slot(struct vd_file *file, const struct vhdx_header *header,
           unsigned slot)
{
    uint8_t buffer[VHDX_HEADER_SIZE];
    vd_vhdx_header_encode(header, buffer);
    vd_error error = vd_file_pwrite(file, buffer, VHDX_HEADER_SIZE,
                                    VHDX_HEADER_OFFSET(slot));
    return error != ERROR_SUCCESS ? error : vd_file_flush(file);
}

vd_error
vd_vhdx_header_update(struct vd_file *file, struct vhdx_header *header,
                      unsigned *current_slot)
{
    for (unsigned round = 0; round < 2; round++) {
        if (header->sequence == UINT64_MAX) {
            vd_trace(VD_TRACE_FORMAT, "VHDX: sequence number would wrap");
            return ERROR_VHD_DRIVE_FOOTER_CORRUPT;
        }
        header->sequence++;
        vd_error error = write_slot(file, header, 1 - *current_slot);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        *current_slot = 1 - *current_slot;
    }
    return ERROR_SUCCESS;
}
