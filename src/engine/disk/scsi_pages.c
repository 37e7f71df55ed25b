/*
 * What a SCSI disk tells about itself: INQUIRY with its vital product data
 * pages, MODE SENSE, READ CAPACITY, REPORT LUNS and REQUEST SENSE.  Section
 * numbers are those of SPC-4 unless SBC-3 is named.
 */
#include <string.h>

#include "base/bytes.h"
#include "disk/scsi_private.h"

/* Text in these pages is padded with spaces, not terminated. */
static void
put_text(uint8_t *at, const char *text, size_t size)
{
    size_t length = strlen(text);
    memset(at, ' ', size);
    memcpy(at, text, length < size ? length : size);
}

#define VENDOR "virtdisk"
#define VENDOR_SIZE 8

/* ---- the identity ---- */

/* RFC 4122 order: a GUID has its first three fields in little-endian. */
static void
put_uuid(uint8_t *at, const struct vd_guid *id)
{
    static const uint8_t order[VD_GUID_SIZE] = {3, 2, 1,  0,  5,  4,  7,  6,
                                                8, 9, 10, 11, 12, 13, 14, 15};
    for (size_t i = 0; i < VD_GUID_SIZE; i++) {
        at[i] = id->bytes[order[i]];
    }
}

#define SERIAL_SIZE (2 * VD_GUID_SIZE)

/* The UUID in hexadecimal digits. */
static void
put_serial(uint8_t *at, const struct vd_guid *id)
{
    static const char digits[] = "0123456789abcdef";
    uint8_t uuid[VD_GUID_SIZE];
    put_uuid(uuid, id);
    for (size_t i = 0; i < VD_GUID_SIZE; i++) {
        at[2 * i] = (uint8_t)digits[uuid[i] >> 4];
        at[2 * i + 1] = (uint8_t)digits[uuid[i] & 0xF];
    }
}

/* ---- INQUIRY (6.6) ---- */

#define INQUIRY_SIZE 36
#define PAGE_MAX 96
#define PAGE_HEADER 4

/* Each fills what follows the header and returns its length. */
static size_t put_page_list(const struct vd_scsi_unit *unit, uint8_t *body);

/* 7.8.15 */
static size_t
put_serial_page(const struct vd_scsi_unit *unit, uint8_t *body)
{
    put_serial(body, &unit->id);
    return SERIAL_SIZE;
}

/* 7.8.5; the second designator is that of SPC-5 7.7.6.11 */
static size_t
put_identification_page(const struct vd_scsi_unit *unit, uint8_t *body)
{
    uint8_t *second = body + 4 + VENDOR_SIZE + SERIAL_SIZE;
    body[0] = 2; /* ASCII */
    body[1] = 1; /* of the logical unit, T10 vendor id based */
    body[3] = VENDOR_SIZE + SERIAL_SIZE;
    put_text(body + 4, VENDOR, VENDOR_SIZE);
    put_serial(body + 4 + VENDOR_SIZE, &unit->id);
    second[0] = 1;   /* binary */
    second[1] = 0xA; /* of the logical unit, UUID */
    second[3] = 2 + VD_GUID_SIZE;
    second[4] = 0x10; /* an RFC 4122 UUID */
    put_uuid(second + 6, &unit->id);
    return (size_t)(second + 6 + VD_GUID_SIZE - body);
}

/* SBC-3 6.6.4 */
static size_t
put_limits_page(const struct vd_scsi_unit *unit, uint8_t *body)
{
    uint32_t size = unit->block_size;
    body[0] = 1; /* WRITE SAME wants a number of blocks */
    vd_put_be16(body + 2, (uint16_t)(unit->physical_block_size / size));
    vd_put_be32(body + 8, SCSI_OPTIMAL_TRANSFER / size);
    if (unit->thin && !unit->read_only) {
        uint32_t granularity = unit->unmap_granularity / size;
        vd_put_be32(body + 16, UINT32_MAX); /* blocks of one UNMAP */
        vd_put_be32(body + 20, SCSI_UNMAP_DESCRIPTORS_MAX);
        vd_put_be32(body + 24, granularity);
        vd_put_be32(body + 28, granularity != 0 ? 0x80000000 : 0);
    }
    vd_put_be64(body + 32, SCSI_WRITE_SAME_MAX / size);
    return 60;
}

/* SBC-3 6.6.3 */
static size_t
put_characteristics_page(const struct vd_scsi_unit *unit, uint8_t *body)
{
    (void)unit;
    vd_put_be16(body, 1); /* nothing rotates */
    return 60;
}

/* SBC-3 6.6.5 */
static size_t
put_provisioning_page(const struct vd_scsi_unit *unit, uint8_t *body)
{
    if (unit->thin) {
        body[1] = 0x80 | 0x40 | 0x20 /* UNMAP, WRITE SAME 16, 10 */
                  | 0x04;            /* what is unmapped reads as zeros */
        body[2] = 2;                 /* thin */
    }
    return 4;
}

static const struct page {
    uint8_t code;
    size_t (*put)(const struct vd_scsi_unit *unit, uint8_t *body);
} pages[] = {
    {0x00, put_page_list},
    {0x80, put_serial_page},
    {0x83, put_identification_page},
    {0xB0, put_limits_page},
    {0xB1, put_characteristics_page},
    {0xB2, put_provisioning_page},
};

#define PAGE_COUNT (sizeof(pages) / sizeof(pages[0]))

/* 7.8.13 */
static size_t
put_page_list(const struct vd_scsi_unit *unit, uint8_t *body)
{
    (void)unit;
    for (size_t i = 0; i < PAGE_COUNT; i++) {
        body[i] = pages[i].code;
    }
    return PAGE_COUNT;
}

static void
give_page(struct scsi_call *call, size_t allocation_length)
{
    uint8_t answer[PAGE_HEADER + PAGE_MAX] = {0};
    for (size_t i = 0; i < PAGE_COUNT; i++) {
        if (pages[i].code == call->cdb[2]) {
            size_t length = pages[i].put(call->unit, answer + PAGE_HEADER);
            answer[1] = pages[i].code;
            vd_put_be16(answer + 2, (uint16_t)length);
            vd_scsi_give(call, answer, PAGE_HEADER + length,
                         allocation_length);
            return;
        }
    }
    vd_scsi_bad_field(call, 2);
}

void
vd_scsi_inquiry(struct scsi_call *call)
{
    uint8_t answer[INQUIRY_SIZE] = {0};
    size_t allocation_length = vd_get_be16(call->cdb + 3);
    if ((call->cdb[1] & 1) != 0) {
        give_page(call, allocation_length);
        return;
    }
    if (call->cdb[2] != 0) {
        vd_scsi_bad_field(call, 2);
        return;
    }
    answer[2] = 6; /* SPC-4 */
    answer[3] = 2;
    answer[4] = INQUIRY_SIZE - 5;
    answer[7] = 0x02; /* several commands at a time */
    put_text(answer + 8, VENDOR, VENDOR_SIZE);
    put_text(answer + 16, "Virtual Disk", 16);
    put_text(answer + 32, "1.0", 4);
    vd_scsi_give(call, answer, sizeof(answer), allocation_length);
}

/* ---- MODE SENSE (6.13, 6.14) ---- */

#define MODE_PAGES_SIZE (20 + 12)
#define PAGE_ALL 0x3F
#define SUBPAGE_ALL 0xFF

enum page_control { CURRENT, CHANGEABLE, DEFAULT, SAVED };

/* Nothing can be changed, which is what zeros say. */
static size_t
put_mode_pages(uint8_t *at, uint8_t wanted, enum page_control control)
{
    uint8_t *next = at;
    if (wanted == 0x08 || wanted == PAGE_ALL) { /* caching, SBC-3 6.5.5 */
        next[0] = 0x08;
        next[1] = 0x12;
        next[2] = control == CHANGEABLE ? 0 : 0x04; /* a write cache */
        next += 20;
    }
    if (wanted == 0x0A || wanted == PAGE_ALL) { /* control, 7.5.8 */
        next[0] = 0x0A;
        next[1] = 0x0A;
        next[3] = control == CHANGEABLE ? 0 : 0x10; /* reorders freely */
        next += 12;
    }
    return (size_t)(next - at);
}

static uint8_t
device_specific(const struct vd_scsi_unit *unit)
{
    return (uint8_t)((unit->read_only ? 0x80 : 0) | 0x10 /* FUA */);
}

/* The pages that the CDB asks for, behind a header of this size; the length
 * of both, or 0 if the command has failed. */
static size_t
put_wanted_pages(struct scsi_call *call, uint8_t *answer, size_t header)
{
    uint8_t wanted = call->cdb[2] & 0x3F;
    uint8_t subpage = call->cdb[3];
    enum page_control control = call->cdb[2] >> 6;
    if (control == SAVED) {
        vd_scsi_fail(call, KEY_ILLEGAL_REQUEST, ASC_SAVING_NOT_SUPPORTED);
        return 0;
    }
    if (subpage != 0 && !(wanted == PAGE_ALL && subpage == SUBPAGE_ALL)) {
        vd_scsi_bad_field(call, 3);
        return 0;
    }
    size_t length = put_mode_pages(answer + header, wanted, control);
    if (length == 0) {
        vd_scsi_bad_field(call, 2);
        return 0;
    }
    return header + length;
}

void
vd_scsi_mode_sense_6(struct scsi_call *call)
{
    uint8_t answer[4 + MODE_PAGES_SIZE] = {0};
    size_t length = put_wanted_pages(call, answer, 4);
    if (length == 0) {
        return;
    }
    answer[0] = (uint8_t)(length - 1);
    answer[2] = device_specific(call->unit);
    vd_scsi_give(call, answer, length, call->cdb[4]);
}

void
vd_scsi_mode_sense_10(struct scsi_call *call)
{
    uint8_t answer[8 + MODE_PAGES_SIZE] = {0};
    size_t length = put_wanted_pages(call, answer, 8);
    if (length == 0) {
        return;
    }
    vd_put_be16(answer, (uint16_t)(length - 2));
    answer[3] = device_specific(call->unit);
    vd_scsi_give(call, answer, length, vd_get_be16(call->cdb + 7));
}

/* ---- READ CAPACITY (SBC-3 5.12, 5.13) ---- */

void
vd_scsi_read_capacity_10(struct scsi_call *call)
{
    uint8_t answer[8];
    uint64_t last = call->unit->blocks - 1;
    vd_put_be32(answer, last < UINT32_MAX ? (uint32_t)last : UINT32_MAX);
    vd_put_be32(answer + 4, call->unit->block_size);
    vd_scsi_give(call, answer, sizeof(answer), sizeof(answer));
}

static uint8_t
physical_exponent(const struct vd_scsi_unit *unit)
{
    uint8_t exponent = 0;
    while ((uint64_t)unit->block_size << exponent <
           unit->physical_block_size) {
        exponent++;
    }
    return exponent;
}

static void
read_capacity_16(struct scsi_call *call)
{
    uint8_t answer[32] = {0};
    vd_put_be64(answer, call->unit->blocks - 1);
    vd_put_be32(answer + 8, call->unit->block_size);
    answer[13] = physical_exponent(call->unit);
    answer[14] = call->unit->thin ? 0xC0 : 0; /* can be unmapped, to zeros */
    vd_scsi_give(call, answer, sizeof(answer), vd_get_be32(call->cdb + 10));
}

#define SERVICE_READ_CAPACITY_16 0x10
#define SERVICE_GET_LBA_STATUS 0x12

void
vd_scsi_service_action_in_16(struct scsi_call *call)
{
    switch (call->cdb[1] & 0x1F) {
    case SERVICE_READ_CAPACITY_16:
        read_capacity_16(call);
        break;
    case SERVICE_GET_LBA_STATUS:
        vd_scsi_get_lba_status(call);
        break;
    default:
        vd_scsi_bad_field(call, 1);
    }
}

/* ---- REPORT LUNS (6.33), REQUEST SENSE (6.39) ---- */

void
vd_scsi_report_luns(struct scsi_call *call)
{
    static const uint8_t only_lun_0[16] = {0, 0, 0, 8};
    static const uint8_t none[8];
    size_t allocation_length = vd_get_be32(call->cdb + 6);
    if (allocation_length < sizeof(only_lun_0)) {
        vd_scsi_bad_field(call, 6);
        return;
    }
    switch (call->cdb[2]) {
    case 0: /* those that have a number */
    case 2: /* all */
        vd_scsi_give(call, only_lun_0, sizeof(only_lun_0), allocation_length);
        break;
    case 1: /* those for well-known purposes */
        vd_scsi_give(call, none, sizeof(none), allocation_length);
        break;
    default:
        vd_scsi_bad_field(call, 2);
    }
}

/* Each command has brought its own sense data with it. */
void
vd_scsi_request_sense(struct scsi_call *call)
{
    static const uint8_t no_sense[VD_SCSI_SENSE_SIZE] = {
        0x70, 0, KEY_NO_SENSE, 0, 0, 0, 0, VD_SCSI_SENSE_SIZE - 8};
    if ((call->cdb[1] & 1) != 0) { /* in descriptor format */
        vd_scsi_bad_field(call, 1);
        return;
    }
    vd_scsi_give(call, no_sense, sizeof(no_sense), call->cdb[4]);
}
