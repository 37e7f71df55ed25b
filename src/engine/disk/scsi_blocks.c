/*
 * SCSI commands that move blocks: READ, WRITE, SYNCHRONIZE CACHE, UNMAP and
 * WRITE SAME in their lengths (SBC-3 5).
 */
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "disk/scsi_private.h"

/* Bits of byte 1. */
#define PROTECTION 0xE0 /* of READ and WRITE: check protection information */
#define FUA 0x08        /* of READ and WRITE: not from or to a cache */
#define WRITE_SAME_UNMAP 0x08
#define WRITE_SAME_NO_DATA 0x01 /* WRITE SAME 16: zeros */
#define WRITE_SAME_REFUSED 0xF6 /* protection, anchor, obsolete */
#define UNMAP_ANCHOR 0x01

/* Blocks that a command is about, and the byte of the CDB that counts
 * them. */
struct range {
    uint64_t lba;
    uint64_t count;
    uint16_t count_byte;
};

static struct range
range_10(const struct scsi_call *call)
{
    return (struct range){vd_get_be32(call->cdb + 2),
                          vd_get_be16(call->cdb + 7), 7};
}

static struct range
range_16(const struct scsi_call *call)
{
    return (struct range){vd_get_be64(call->cdb + 2),
                          vd_get_be32(call->cdb + 10), 10};
}

static struct range
range_12(const struct scsi_call *call)
{
    return (struct range){vd_get_be32(call->cdb + 2),
                          vd_get_be32(call->cdb + 6), 6};
}

/* 21 bits of address; no blocks are 256 of them. */
static struct range
range_6(const struct scsi_call *call)
{
    const uint8_t *cdb = call->cdb;
    return (struct range){
        (uint64_t)(cdb[1] & 0x1F) << 16 | vd_get_be16(cdb + 2),
        cdb[4] != 0 ? cdb[4] : 256,
        4,
    };
}

/* False if the command has failed. */
static bool
check_range(struct scsi_call *call, const struct range *range)
{
    uint64_t blocks = call->unit->blocks;
    if (vd_range_within(range->lba, range->count, blocks)) {
        return true;
    }
    vd_scsi_out_of_range(call, range->lba < blocks ? blocks : range->lba);
    return false;
}

static bool
check_writable(struct scsi_call *call)
{
    if (call->unit->read_only) {
        vd_scsi_fail(call, KEY_DATA_PROTECT, ASC_WRITE_PROTECTED);
    }
    return !call->unit->read_only;
}

/* The bytes of a range that is to be transferred.  A buffer too small for it
 * is refused, not filled: half a transfer is nobody's intention. */
static bool
check_transfer(struct scsi_call *call, const struct range *range,
               size_t *length_out)
{
    uint64_t length = range->count * call->unit->block_size;
    if (!check_range(call, range)) {
        return false;
    }
    if (length > call->length) {
        vd_scsi_bad_field(call, range->count_byte);
        return false;
    }
    *length_out = (size_t)length;
    return true;
}

/* ---- READ (5.10 and its neighbours) ---- */

static void
read_blocks(struct scsi_call *call, struct range range, uint8_t options)
{
    const struct vd_scsi_unit *unit = call->unit;
    size_t length;
    if ((options & PROTECTION) != 0) {
        vd_scsi_bad_field(call, 1);
        return;
    }
    if (!check_transfer(call, &range, &length) || length == 0) {
        return;
    }
    vd_error error = unit->medium->read(unit->context, call->data, length,
                                        range.lba * unit->block_size);
    if (!vd_scsi_failed_read(call, error)) {
        call->result->transferred = length;
    }
}

void
vd_scsi_read_6(struct scsi_call *call)
{
    read_blocks(call, range_6(call), 0);
}

void
vd_scsi_read_10(struct scsi_call *call)
{
    read_blocks(call, range_10(call), call->cdb[1]);
}

void
vd_scsi_read_12(struct scsi_call *call)
{
    read_blocks(call, range_12(call), call->cdb[1]);
}

void
vd_scsi_read_16(struct scsi_call *call)
{
    read_blocks(call, range_16(call), call->cdb[1]);
}

/* ---- WRITE (5.35 and its neighbours) ---- */

static bool
flush(struct scsi_call *call)
{
    const struct vd_scsi_unit *unit = call->unit;
    return !vd_scsi_failed_write(call, unit->medium->flush(unit->context));
}

static void
write_blocks(struct scsi_call *call, struct range range, uint8_t options)
{
    const struct vd_scsi_unit *unit = call->unit;
    size_t length;
    if ((options & PROTECTION) != 0) {
        vd_scsi_bad_field(call, 1);
        return;
    }
    if (!check_writable(call) || !check_transfer(call, &range, &length) ||
        length == 0) {
        return;
    }
    vd_error error = unit->medium->write(unit->context, call->data, length,
                                         range.lba * unit->block_size);
    if (vd_scsi_failed_write(call, error)) {
        return;
    }
    if ((options & FUA) == 0 || flush(call)) {
        call->result->transferred = length;
    }
}

void
vd_scsi_write_6(struct scsi_call *call)
{
    write_blocks(call, range_6(call), 0);
}

void
vd_scsi_write_10(struct scsi_call *call)
{
    write_blocks(call, range_10(call), call->cdb[1]);
}

void
vd_scsi_write_12(struct scsi_call *call)
{
    write_blocks(call, range_12(call), call->cdb[1]);
}

void
vd_scsi_write_16(struct scsi_call *call)
{
    write_blocks(call, range_16(call), call->cdb[1]);
}

/* ---- SYNCHRONIZE CACHE (5.22, 5.23) ---- */

/* The whole cache, whatever the range: durable is durable. */
static void
synchronize(struct scsi_call *call, struct range range)
{
    if (check_range(call, &range)) {
        (void)flush(call);
    }
}

void
vd_scsi_synchronize_cache_10(struct scsi_call *call)
{
    synchronize(call, range_10(call));
}

void
vd_scsi_synchronize_cache_16(struct scsi_call *call)
{
    synchronize(call, range_16(call));
}

/* ---- GET LBA STATUS (5.4) ---- */

#define STATUS_HEADER 8
#define STATUS_DESCRIPTOR 16
#define STATUS_DESCRIPTORS_MAX 256
#define STATUS_MAPPED 0
#define STATUS_DEALLOCATED 1

struct status_list {
    uint8_t bytes[STATUS_HEADER + STATUS_DESCRIPTORS_MAX * STATUS_DESCRIPTOR];
    size_t count;
};

static void
put_status(struct status_list *list, uint64_t lba, uint32_t blocks, bool data)
{
    uint8_t *at =
        list->bytes + STATUS_HEADER + list->count * STATUS_DESCRIPTOR;
    vd_put_be64(at, lba);
    vd_put_be32(at + 8, blocks);
    at[12] = data ? STATUS_MAPPED : STATUS_DEALLOCATED;
    list->count++;
}

static vd_error
collect_status(const struct vd_scsi_unit *unit, uint64_t lba, size_t most,
               struct status_list *list)
{
    uint64_t limit = (uint64_t)UINT32_MAX * unit->block_size;
    while (lba < unit->blocks && list->count < most) {
        uint64_t length = (unit->blocks - lba) * unit->block_size;
        bool data;
        vd_error error =
            unit->medium->run(unit->context, lba * unit->block_size,
                              length < limit ? length : limit, &data, &length);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        put_status(list, lba, (uint32_t)(length / unit->block_size), data);
        lba += length / unit->block_size;
    }
    return ERROR_SUCCESS;
}

/* What reads as zeros and has no space is deallocated, also in a unit that
 * is not thin. */
void
vd_scsi_get_lba_status(struct scsi_call *call)
{
    struct status_list list = {.count = 0};
    struct range range = {vd_get_be64(call->cdb + 2), 1, 2};
    size_t allocation_length = vd_get_be32(call->cdb + 10);
    size_t most = 1;
    if (!check_range(call, &range)) {
        return;
    }
    if (allocation_length >= STATUS_HEADER + 2 * STATUS_DESCRIPTOR) {
        most = (allocation_length - STATUS_HEADER) / STATUS_DESCRIPTOR;
    }
    if (most > STATUS_DESCRIPTORS_MAX) {
        most = STATUS_DESCRIPTORS_MAX;
    }
    vd_error error = collect_status(call->unit, range.lba, most, &list);
    if (vd_scsi_failed_read(call, error)) {
        return;
    }
    size_t length = STATUS_HEADER + list.count * STATUS_DESCRIPTOR;
    vd_put_be32(list.bytes, (uint32_t)(length - 4));
    vd_scsi_give(call, list.bytes, length, allocation_length);
}

/* ---- UNMAP (5.28) ---- */

#define UNMAP_HEADER 8
#define UNMAP_DESCRIPTOR 16

static struct range
descriptor(const uint8_t *list, size_t index)
{
    const uint8_t *at = list + UNMAP_HEADER + index * UNMAP_DESCRIPTOR;
    return (struct range){vd_get_be64(at), vd_get_be32(at + 8), 0};
}

/* How many whole descriptors a parameter list has. */
static size_t
count_descriptors(const uint8_t *list, size_t length)
{
    size_t told = vd_get_be16(list + 2);
    size_t there = length - UNMAP_HEADER;
    return (told < there ? told : there) / UNMAP_DESCRIPTOR;
}

static void
unmap_all(struct scsi_call *call, size_t count)
{
    const struct vd_scsi_unit *unit = call->unit;
    for (size_t i = 0; i < count; i++) {
        struct range range = descriptor(call->data, i);
        if (!check_range(call, &range)) {
            return; /* before anything is changed */
        }
    }
    for (size_t i = 0; i < count; i++) {
        struct range range = descriptor(call->data, i);
        vd_error error = ERROR_SUCCESS;
        if (range.count != 0) {
            error =
                unit->medium->zero(unit->context, range.lba * unit->block_size,
                                   range.count * unit->block_size, true);
        }
        if (vd_scsi_failed_write(call, error)) {
            return;
        }
    }
}

void
vd_scsi_unmap(struct scsi_call *call)
{
    size_t length = vd_get_be16(call->cdb + 7);
    if (!call->unit->thin) {
        vd_scsi_fail(call, KEY_ILLEGAL_REQUEST, ASC_INVALID_OPERATION_CODE);
        return;
    }
    if ((call->cdb[1] & UNMAP_ANCHOR) != 0) {
        vd_scsi_bad_field(call, 1);
        return;
    }
    if (!check_writable(call) || length == 0) {
        return;
    }
    if (length < UNMAP_HEADER || length > call->length) {
        vd_scsi_fail(call, KEY_ILLEGAL_REQUEST,
                     ASC_PARAMETER_LIST_LENGTH_ERROR);
        return;
    }
    size_t count = count_descriptors(call->data, length);
    if (count > SCSI_UNMAP_DESCRIPTORS_MAX) {
        vd_scsi_fail(call, KEY_ILLEGAL_REQUEST,
                     ASC_INVALID_FIELD_IN_PARAMETERS);
        return;
    }
    unmap_all(call, count);
    if (call->result->status == VD_SCSI_GOOD) {
        call->result->transferred = length;
    }
}

/* ---- WRITE SAME (5.42, 5.43) ---- */

#define SAME_CHUNK 16384

static bool
all_zero(const uint8_t *data, size_t length)
{
    return data[0] == 0 && memcmp(data, data + 1, length - 1) == 0;
}

static vd_error
write_same_data(const struct vd_scsi_unit *unit, const uint8_t *block,
                const struct range *range)
{
    uint8_t chunk[SAME_CHUNK];
    uint64_t offset = range->lba * unit->block_size;
    uint64_t left = range->count * unit->block_size;
    for (size_t at = 0; at < sizeof(chunk); at += unit->block_size) {
        memcpy(chunk + at, block, unit->block_size);
    }
    while (left != 0) {
        size_t length = left < sizeof(chunk) ? (size_t)left : sizeof(chunk);
        vd_error error =
            unit->medium->write(unit->context, chunk, length, offset);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        offset += length;
        left -= length;
    }
    return ERROR_SUCCESS;
}

/* block NULL: zeros */
static vd_error
write_same_blocks(const struct vd_scsi_unit *unit, const uint8_t *block,
                  const struct range *range, bool may_free)
{
    if (block != NULL && !all_zero(block, unit->block_size)) {
        return write_same_data(unit, block, range);
    }
    return unit->medium->zero(unit->context, range->lba * unit->block_size,
                              range->count * unit->block_size, may_free);
}

static bool
check_same_range(struct scsi_call *call, const struct range *range)
{
    uint64_t limit = SCSI_WRITE_SAME_MAX / call->unit->block_size;
    if (!check_writable(call)) {
        return false;
    }
    if (range->count == 0 || range->count > limit) {
        vd_scsi_bad_field(call, range->count_byte);
        return false;
    }
    return check_range(call, range);
}

static void
write_same(struct scsi_call *call, struct range range, bool no_data)
{
    const struct vd_scsi_unit *unit = call->unit;
    bool unmap = (call->cdb[1] & WRITE_SAME_UNMAP) != 0;
    size_t length = no_data ? 0 : unit->block_size;
    if ((call->cdb[1] & WRITE_SAME_REFUSED) != 0 || (unmap && !unit->thin)) {
        vd_scsi_bad_field(call, 1);
        return;
    }
    if (!check_same_range(call, &range)) {
        return;
    }
    if (call->length < length) {
        vd_scsi_bad_field(call, range.count_byte);
        return;
    }
    vd_error error =
        write_same_blocks(unit, no_data ? NULL : call->data, &range, unmap);
    if (!vd_scsi_failed_write(call, error)) {
        call->result->transferred = length;
    }
}

void
vd_scsi_write_same_10(struct scsi_call *call)
{
    if ((call->cdb[1] & WRITE_SAME_NO_DATA) != 0) {
        vd_scsi_bad_field(call, 1); /* obsolete in this length */
        return;
    }
    write_same(call, range_10(call), false);
}

void
vd_scsi_write_same_16(struct scsi_call *call)
{
    write_same(call, range_16(call), (call->cdb[1] & WRITE_SAME_NO_DATA) != 0);
}
