/*
 * The log, read ([MS-VHDX] 2.3): finding the active sequence of entries.
 *
 * The log is hostile until proven: its size is bounded, an entry counts only
 * with all its checks, the work of checking is bounded, and no descriptor may
 * touch the headers, the log itself or space past the end it announces.
 */
#include "format/vhdx_log.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/crc32c.h"
#include "base/trace.h"

#define LOWEST_TARGET VHDX_REGION_TABLE_OFFSET(0)
/* More than any VHDX needs: payload, bitmaps and tables of 64 TiB. */
#define MAX_FILE_SIZE (2 * VHDX_MAX_SIZE)
/* How often over the log may be read and summed before it is refused. */
#define WORK_LIMIT 4

vd_error
vd_vhdx_log_corrupt(const char *reason)
{
    vd_trace(VD_TRACE_FORMAT, "VHDX: log: %s", reason);
    return ERROR_FILE_CORRUPT;
}

/* ---- reading the ring ---- */

vd_error
vd_vhdx_log_read_sector(struct vhdx_log *log, uint64_t offset, uint8_t *buffer,
                        uint32_t length)
{
    const struct vhdx_header *header = &log->vhdx->header;
    log->work += length;
    return vd_file_pread(log->vhdx->image.file, buffer, length,
                         header->log_offset + offset % header->log_length);
}

/* ---- one entry ---- */

/* Each descriptor brings one sector of data at most. */
static bool
fits_descriptors(const struct vhdx_log_entry *entry)
{
    uint64_t area = vd_vhdx_log_descriptor_area(entry->descriptors);
    return entry->length >= area &&
           entry->length <=
               area + (uint64_t)entry->descriptors * VHDX_PAGE_SIZE;
}

/* What can be told from the first 64 bytes alone. */
static bool
decode_header(const struct vhdx_header *header, const uint8_t *bytes,
              uint32_t offset, struct vhdx_log_entry *entry)
{
    entry->offset = offset;
    entry->length = vd_get_le32(bytes + VHDX_LOG_LENGTH);
    entry->tail = vd_get_le32(bytes + VHDX_LOG_TAIL);
    entry->sequence = vd_get_le64(bytes + VHDX_LOG_SEQUENCE);
    entry->descriptors = vd_get_le32(bytes + VHDX_LOG_DESCRIPTOR_COUNT);
    entry->flushed = vd_get_le64(bytes + VHDX_LOG_FLUSHED);
    entry->last = vd_get_le64(bytes + VHDX_LOG_LAST);
    return memcmp(bytes, "loge", 4) == 0 &&
           memcmp(bytes + VHDX_LOG_GUID, &header->log_guid, VD_GUID_SIZE) ==
               0 &&
           entry->length != 0 && entry->length % VHDX_PAGE_SIZE == 0 &&
           entry->length <= header->log_length &&
           entry->tail % VHDX_PAGE_SIZE == 0 &&
           entry->tail < header->log_length && entry->sequence != 0 &&
           fits_descriptors(entry) && entry->flushed % VHDX_MIB == 0 &&
           entry->last % VHDX_MIB == 0 && entry->last <= MAX_FILE_SIZE;
}

/* Whether a descriptor may be applied at all. */
static bool
check_target(const struct vhdx_image *vhdx, const struct vhdx_log_entry *entry,
             const uint8_t *descriptor)
{
    uint64_t offset = vd_get_le64(descriptor + VHDX_DESCRIPTOR_FILE_OFFSET);
    uint64_t length = vd_vhdx_log_target_length(descriptor), end;
    uint64_t log_start = vhdx->header.log_offset;
    uint64_t log_end = log_start + vhdx->header.log_length;
    uint64_t limit = atomic_load(&vhdx->file_size);
    if (entry->last > limit) {
        limit = entry->last;
    }
    return offset % VHDX_PAGE_SIZE == 0 && length % VHDX_PAGE_SIZE == 0 &&
           offset >= LOWEST_TARGET && vd_add_u64(offset, length, &end) &&
           end <= limit && (end <= log_start || offset >= log_end);
}

/* ---- checking an entry, sector by sector ---- */

struct check {
    const struct vhdx_image *vhdx;
    const struct vhdx_log_entry *entry;
    uint32_t at; /* of the sector in the entry */
    uint32_t checksum;
    uint32_t crc;
    uint64_t pages; /* data descriptors so far */
};

/* The descriptors of a sector: none lies across two. */
static uint32_t
first_descriptor(uint32_t at)
{
    return at == 0 ? 0 : (at - VHDX_LOG_DESCRIPTORS) / VHDX_DESCRIPTOR_SIZE;
}

static bool
check_descriptors(struct check *check, const uint8_t *sector)
{
    const struct vhdx_log_entry *entry = check->entry;
    uint32_t first = first_descriptor(check->at);
    uint32_t end = first_descriptor(check->at + VHDX_PAGE_SIZE);
    const uint8_t *descriptor =
        sector + (check->at == 0 ? VHDX_LOG_DESCRIPTORS : 0);
    for (uint32_t i = first; i < end && i < entry->descriptors; i++) {
        if ((!vd_vhdx_log_is_data(descriptor) &&
             memcmp(descriptor, "zero", 4) != 0) ||
            vd_get_le64(descriptor + VHDX_DESCRIPTOR_SEQUENCE) !=
                entry->sequence ||
            !check_target(check->vhdx, entry, descriptor)) {
            return false;
        }
        check->pages += vd_vhdx_log_is_data(descriptor);
        descriptor += VHDX_DESCRIPTOR_SIZE;
    }
    return true;
}

static bool
check_data(const struct check *check, const uint8_t *sector)
{
    uint64_t sequence = (uint64_t)vd_get_le32(sector + VHDX_DATA_SEQUENCE_HIGH)
                            << 32 |
                        vd_get_le32(sector + VHDX_DATA_SEQUENCE_LOW);
    return memcmp(sector, "data", 4) == 0 &&
           sequence == check->entry->sequence;
}

static bool
check_sector(struct check *check, uint8_t sector[VHDX_PAGE_SIZE])
{
    bool good =
        check->at < vd_vhdx_log_descriptor_area(check->entry->descriptors)
            ? check_descriptors(check, sector)
            : check_data(check, sector);
    if (check->at == 0) {
        check->checksum = vd_get_le32(sector + VHDX_LOG_CHECKSUM);
        memset(sector + VHDX_LOG_CHECKSUM, 0, 4);
    }
    check->crc = vd_crc32c_add(check->crc, sector, VHDX_PAGE_SIZE);
    return good;
}

static bool
check_whole(const struct check *check)
{
    const struct vhdx_log_entry *entry = check->entry;
    return entry->length == vd_vhdx_log_descriptor_area(entry->descriptors) +
                                check->pages * VHDX_PAGE_SIZE &&
           vd_crc32c_end(check->crc) == check->checksum;
}

/* Ends with the first sector that is wrong, so a large claim costs nothing. */
static vd_error
check_entry(struct vhdx_log *log, const struct vhdx_log_entry *entry,
            bool *valid_out)
{
    struct check check = {
        .vhdx = log->vhdx, .entry = entry, .crc = VD_CRC32C_START};
    *valid_out = false;
    for (; check.at < entry->length; check.at += VHDX_PAGE_SIZE) {
        uint8_t sector[VHDX_PAGE_SIZE];
        vd_error error = vd_vhdx_log_read_sector(
            log, (uint64_t)entry->offset + check.at, sector, sizeof(sector));
        if (error != ERROR_SUCCESS) {
            return error;
        }
        if (!check_sector(&check, sector)) {
            return ERROR_SUCCESS;
        }
    }
    *valid_out = check_whole(&check);
    return ERROR_SUCCESS;
}

/* Whether a valid entry starts at this place of the ring. */
static vd_error
find_entry(struct vhdx_log *log, uint32_t offset, struct vhdx_log_entry *entry,
           bool *valid_out)
{
    uint8_t header[VHDX_LOG_DESCRIPTORS];
    vd_error error =
        vd_vhdx_log_read_sector(log, offset, header, sizeof(header));
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (!decode_header(&log->vhdx->header, header, offset, entry)) {
        *valid_out = false;
        return ERROR_SUCCESS;
    }
    if (log->work >
        (uint64_t)log->vhdx->header.log_length * WORK_LIMIT + VHDX_MIB) {
        return vd_vhdx_log_corrupt("entries that overlap without end");
    }
    return check_entry(log, entry, valid_out);
}

/* ---- the active sequence, FORMATS 3.3 ---- */

static vd_error
append(struct vhdx_log_sequence *sequence, const struct vhdx_log_entry *entry)
{
    if (sequence->count == sequence->capacity) {
        size_t capacity = sequence->capacity * 2 + 16;
        struct vhdx_log_entry *grown =
            realloc(sequence->entries, capacity * sizeof(*grown));
        if (grown == NULL) {
            return ERROR_NOT_ENOUGH_MEMORY;
        }
        sequence->entries = grown;
        sequence->capacity = capacity;
    }
    sequence->entries[sequence->count++] = *entry;
    sequence->length += entry->length;
    return ERROR_SUCCESS;
}

const struct vhdx_log_entry *
vd_vhdx_log_tail(const struct vhdx_log_sequence *sequence)
{
    uint32_t tail = vd_vhdx_log_head(sequence)->tail;
    for (size_t i = 0; i < sequence->count; i++) {
        if (sequence->entries[i].offset == tail) {
            return &sequence->entries[i];
        }
    }
    return NULL;
}

/* The longest run of entries from a place on. */
static vd_error
collect(struct vhdx_log *log, uint32_t start, struct vhdx_log_sequence *out,
        uint32_t *end_out)
{
    uint32_t log_length = log->vhdx->header.log_length, at = start;
    out->count = 0;
    out->length = 0;
    for (;;) {
        struct vhdx_log_entry entry;
        bool valid = false;
        vd_error error = find_entry(log, at, &entry, &valid);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        if (!valid ||
            (out->count != 0 &&
             entry.sequence != vd_vhdx_log_head(out)->sequence + 1) ||
            out->length + entry.length > log_length) {
            break;
        }
        error = append(out, &entry);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        at = (uint32_t)(((uint64_t)at + entry.length) % log_length);
    }
    *end_out = at;
    return ERROR_SUCCESS;
}

static void
swap(struct vhdx_log_sequence *a, struct vhdx_log_sequence *b)
{
    struct vhdx_log_sequence kept = *a;
    *a = *b;
    *b = kept;
}

/* Of all usable sequences the one with the newest head. */
static vd_error
find_active(struct vhdx_log *log, struct vhdx_log_sequence *best,
            struct vhdx_log_sequence *current)
{
    uint32_t log_length = log->vhdx->header.log_length, start = 0;
    for (;;) {
        uint32_t end = 0;
        vd_error error = collect(log, start, current, &end);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        bool usable = current->count != 0 && vd_vhdx_log_tail(current) != NULL;
        if (usable &&
            (best->count == 0 || vd_vhdx_log_head(current)->sequence >
                                     vd_vhdx_log_head(best)->sequence)) {
            swap(best, current);
        }
        uint32_t next = usable ? end : start + VHDX_PAGE_SIZE;
        if (next >= log_length || next <= start) {
            break;
        }
        start = next;
    }
    return best->count != 0 ? ERROR_SUCCESS
                            : vd_vhdx_log_corrupt("no valid entry");
}

vd_error
vd_vhdx_log_find(struct vhdx_log *log, struct vhdx_log_sequence *out)
{
    const struct vhdx_header *header = &log->vhdx->header;
    struct vhdx_log_sequence best = {0}, current = {0};
    uint64_t end;
    if (!vd_add_u64(header->log_offset, header->log_length, &end) ||
        end > atomic_load(&log->vhdx->file_size)) {
        return vd_vhdx_log_corrupt("it lies past the end of the file");
    }
    vd_error error = find_active(log, &best, &current);
    free(current.entries);
    if (error != ERROR_SUCCESS) {
        free(best.entries);
        return error;
    }
    *out = best;
    return ERROR_SUCCESS;
}
