/*
 * The log, read ([MS-VHDX] 2.3): finding the active sequence of entries and
 * replaying it.  A file that may be written is brought up to date; for one
 * that may not (a read-only open, a parent) the replayed pages stay in
 * memory, in an overlay through which all metadata is read.
 *
 * The log is hostile until proven: its size is bounded, an entry counts only
 * with all its checks, the work of checking is bounded, and no descriptor may
 * touch the headers, the log itself or space past the end it announces.
 */
#include "format/vhdx.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/crc32c.h"
#include "base/trace.h"

enum {
    ENTRY_CHECKSUM = 4,
    ENTRY_LENGTH = 8,
    ENTRY_TAIL = 12,
    ENTRY_SEQUENCE = 16,
    ENTRY_DESCRIPTOR_COUNT = 24,
    ENTRY_LOG_GUID = 32,
    ENTRY_FLUSHED = 48,
    ENTRY_LAST = 56,
    ENTRY_DESCRIPTORS = 64,
    DESCRIPTOR_SIZE = 32,
    DESCRIPTOR_TRAILING = 4,
    DESCRIPTOR_LEADING = 8, /* zero descriptor: its length */
    DESCRIPTOR_FILE_OFFSET = 16,
    DESCRIPTOR_SEQUENCE = 24,
    DATA_SEQUENCE_HIGH = 4,
    DATA_BYTES = 8,
    DATA_SEQUENCE_LOW = 4092,
};

#define LOWEST_TARGET VHDX_REGION_TABLE_OFFSET(0)
/* More than any VHDX needs: payload, bitmaps and tables of 64 TiB. */
#define MAX_FILE_SIZE (2 * VHDX_MAX_SIZE)
/* More separate ranges to zero than this stand in no log that anybody wrote;
 * as many fit one of 2 MiB. */
#define MAX_ZEROS 65536
/* How often over the log may be read and summed before it is refused. */
#define WORK_LIMIT 4

struct entry {
    uint32_t offset; /* in the log */
    uint32_t length;
    uint32_t tail;
    uint64_t sequence;
    uint32_t descriptors;
    uint64_t flushed;
    uint64_t last;
};

/* A run of entries, each following the one before. */
struct sequence {
    struct entry *entries;
    size_t count, capacity;
    uint64_t length;
};

struct log {
    struct vhdx_image *vhdx;
    uint64_t work; /* bytes read so far */
};

static vd_error
corrupt(const char *reason)
{
    vd_trace(VD_TRACE_FORMAT, "VHDX: log: %s", reason);
    return ERROR_FILE_CORRUPT;
}

/* ---- reading the ring ---- */

/* Part of a 4 KiB sector of the ring, at its start; sectors never wrap. */
static vd_error
read_sector(struct log *log, uint64_t offset, uint8_t *buffer, uint32_t length)
{
    const struct vhdx_header *header = &log->vhdx->header;
    log->work += length;
    return vd_file_pread(log->vhdx->image.file, buffer, length,
                         header->log_offset + offset % header->log_length);
}

/* ---- one entry ---- */

static uint32_t
descriptor_area(uint32_t descriptors)
{
    uint64_t bytes =
        ENTRY_DESCRIPTORS + (uint64_t)descriptors * DESCRIPTOR_SIZE;
    bytes = (bytes + VHDX_PAGE_SIZE - 1) / VHDX_PAGE_SIZE * VHDX_PAGE_SIZE;
    return bytes > UINT32_MAX ? UINT32_MAX : (uint32_t)bytes;
}

/* Each descriptor brings one sector of data at most. */
static bool
fits_descriptors(const struct entry *entry)
{
    uint64_t area = descriptor_area(entry->descriptors);
    return entry->length >= area &&
           entry->length <=
               area + (uint64_t)entry->descriptors * VHDX_PAGE_SIZE;
}

/* What can be told from the first 64 bytes alone. */
static bool
decode_header(const struct vhdx_header *header, const uint8_t *bytes,
              uint32_t offset, struct entry *entry)
{
    entry->offset = offset;
    entry->length = vd_get_le32(bytes + ENTRY_LENGTH);
    entry->tail = vd_get_le32(bytes + ENTRY_TAIL);
    entry->sequence = vd_get_le64(bytes + ENTRY_SEQUENCE);
    entry->descriptors = vd_get_le32(bytes + ENTRY_DESCRIPTOR_COUNT);
    entry->flushed = vd_get_le64(bytes + ENTRY_FLUSHED);
    entry->last = vd_get_le64(bytes + ENTRY_LAST);
    return memcmp(bytes, "loge", 4) == 0 &&
           memcmp(bytes + ENTRY_LOG_GUID, &header->log_guid, VD_GUID_SIZE) ==
               0 &&
           entry->length != 0 && entry->length % VHDX_PAGE_SIZE == 0 &&
           entry->length <= header->log_length &&
           entry->tail % VHDX_PAGE_SIZE == 0 &&
           entry->tail < header->log_length && entry->sequence != 0 &&
           fits_descriptors(entry) && entry->flushed % VHDX_MIB == 0 &&
           entry->last % VHDX_MIB == 0 && entry->last <= MAX_FILE_SIZE;
}

static bool
is_data(const uint8_t *descriptor)
{
    return memcmp(descriptor, "desc", 4) == 0;
}

/* How many bytes of the file a descriptor changes. */
static uint64_t
target_length(const uint8_t *descriptor)
{
    return is_data(descriptor) ? VHDX_PAGE_SIZE
                               : vd_get_le64(descriptor + DESCRIPTOR_LEADING);
}

/* Whether a descriptor may be applied at all. */
static bool
check_target(const struct vhdx_image *vhdx, const struct entry *entry,
             const uint8_t *descriptor)
{
    uint64_t offset = vd_get_le64(descriptor + DESCRIPTOR_FILE_OFFSET);
    uint64_t length = target_length(descriptor), end;
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
    const struct entry *entry;
    uint32_t at; /* of the sector in the entry */
    uint32_t checksum;
    uint32_t crc;
    uint64_t pages; /* data descriptors so far */
};

/* The descriptors of a sector: none lies across two. */
static uint32_t
first_descriptor(uint32_t at)
{
    return at == 0 ? 0 : (at - ENTRY_DESCRIPTORS) / DESCRIPTOR_SIZE;
}

static bool
check_descriptors(struct check *check, const uint8_t *sector)
{
    const struct entry *entry = check->entry;
    uint32_t first = first_descriptor(check->at);
    uint32_t end = first_descriptor(check->at + VHDX_PAGE_SIZE);
    const uint8_t *descriptor =
        sector + (check->at == 0 ? ENTRY_DESCRIPTORS : 0);
    for (uint32_t i = first; i < end && i < entry->descriptors; i++) {
        if ((!is_data(descriptor) && memcmp(descriptor, "zero", 4) != 0) ||
            vd_get_le64(descriptor + DESCRIPTOR_SEQUENCE) != entry->sequence ||
            !check_target(check->vhdx, entry, descriptor)) {
            return false;
        }
        check->pages += is_data(descriptor);
        descriptor += DESCRIPTOR_SIZE;
    }
    return true;
}

static bool
check_data(const struct check *check, const uint8_t *sector)
{
    uint64_t sequence = (uint64_t)vd_get_le32(sector + DATA_SEQUENCE_HIGH)
                            << 32 |
                        vd_get_le32(sector + DATA_SEQUENCE_LOW);
    return memcmp(sector, "data", 4) == 0 &&
           sequence == check->entry->sequence;
}

static bool
check_sector(struct check *check, uint8_t sector[VHDX_PAGE_SIZE])
{
    bool good = check->at < descriptor_area(check->entry->descriptors)
                    ? check_descriptors(check, sector)
                    : check_data(check, sector);
    if (check->at == 0) {
        check->checksum = vd_get_le32(sector + ENTRY_CHECKSUM);
        memset(sector + ENTRY_CHECKSUM, 0, 4);
    }
    check->crc = vd_crc32c_add(check->crc, sector, VHDX_PAGE_SIZE);
    return good;
}

static bool
check_whole(const struct check *check)
{
    const struct entry *entry = check->entry;
    return entry->length == descriptor_area(entry->descriptors) +
                                check->pages * VHDX_PAGE_SIZE &&
           vd_crc32c_end(check->crc) == check->checksum;
}

/* Ends with the first sector that is wrong, so a large claim costs nothing. */
static vd_error
check_entry(struct log *log, const struct entry *entry, bool *valid_out)
{
    struct check check = {
        .vhdx = log->vhdx, .entry = entry, .crc = VD_CRC32C_START};
    *valid_out = false;
    for (; check.at < entry->length; check.at += VHDX_PAGE_SIZE) {
        uint8_t sector[VHDX_PAGE_SIZE];
        vd_error error = read_sector(log, (uint64_t)entry->offset + check.at,
                                     sector, sizeof(sector));
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
find_entry(struct log *log, uint32_t offset, struct entry *entry,
           bool *valid_out)
{
    uint8_t header[ENTRY_DESCRIPTORS];
    vd_error error = read_sector(log, offset, header, sizeof(header));
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (!decode_header(&log->vhdx->header, header, offset, entry)) {
        *valid_out = false;
        return ERROR_SUCCESS;
    }
    if (log->work >
        (uint64_t)log->vhdx->header.log_length * WORK_LIMIT + VHDX_MIB) {
        return corrupt("entries that overlap without end");
    }
    return check_entry(log, entry, valid_out);
}

/* ---- the active sequence, FORMATS 3.3 ---- */

static vd_error
append(struct sequence *sequence, const struct entry *entry)
{
    if (sequence->count == sequence->capacity) {
        size_t capacity = sequence->capacity * 2 + 16;
        struct entry *grown =
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

static const struct entry *
head_of(const struct sequence *sequence)
{
    return &sequence->entries[sequence->count - 1];
}

/* The entry that the head's Tail names; NULL if it is not in the sequence. */
static const struct entry *
tail_of(const struct sequence *sequence)
{
    uint32_t tail = head_of(sequence)->tail;
    for (size_t i = 0; i < sequence->count; i++) {
        if (sequence->entries[i].offset == tail) {
            return &sequence->entries[i];
        }
    }
    return NULL;
}

/* The longest run of entries from a place on. */
static vd_error
collect(struct log *log, uint32_t start, struct sequence *out,
        uint32_t *end_out)
{
    uint32_t log_length = log->vhdx->header.log_length, at = start;
    out->count = 0;
    out->length = 0;
    for (;;) {
        struct entry entry;
        bool valid = false;
        vd_error error = find_entry(log, at, &entry, &valid);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        if (!valid ||
            (out->count != 0 &&
             entry.sequence != head_of(out)->sequence + 1) ||
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
swap(struct sequence *a, struct sequence *b)
{
    struct sequence kept = *a;
    *a = *b;
    *b = kept;
}

/* Of all usable sequences the one with the newest head. */
static vd_error
find_active(struct log *log, struct sequence *best, struct sequence *current)
{
    uint32_t log_length = log->vhdx->header.log_length, start = 0;
    for (;;) {
        uint32_t end = 0;
        vd_error error = collect(log, start, current, &end);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        bool usable = current->count != 0 && tail_of(current) != NULL;
        if (usable && (best->count == 0 ||
                       head_of(current)->sequence > head_of(best)->sequence)) {
            swap(best, current);
        }
        uint32_t next = usable ? end : start + VHDX_PAGE_SIZE;
        if (next >= log_length || next <= start) {
            break;
        }
        start = next;
    }
    return best->count != 0 ? ERROR_SUCCESS : corrupt("no valid entry");
}

/* ---- applying, FORMATS 3.4 ---- */

/* The page of a data descriptor, put together again. */
static void
restore_page(const uint8_t *descriptor, const uint8_t *sector,
             uint8_t page[VHDX_PAGE_SIZE])
{
    memcpy(page, descriptor + DESCRIPTOR_LEADING, 8);
    memcpy(page + 8, sector + DATA_BYTES, VHDX_PAGE_SIZE - 12);
    memcpy(page + VHDX_PAGE_SIZE - 4, descriptor + DESCRIPTOR_TRAILING, 4);
}

/* What is done with each change of a replayed entry. */
struct sink {
    struct vhdx_image *vhdx;
    vd_error (*page)(struct sink *sink, uint64_t file_offset,
                     const uint8_t page[VHDX_PAGE_SIZE]); /* NULL: nothing */
    vd_error (*zero)(struct sink *sink, uint64_t file_offset, uint64_t length);
    size_t order;
    /* Put off, in case the next one goes on with it. */
    uint64_t zero_offset, zero_length;
    size_t zeros; /* so far */
};

static vd_error
end_zero(struct sink *sink)
{
    uint64_t length = sink->zero_length;
    sink->zero_length = 0;
    sink->zeros += length != 0;
    return length != 0 ? sink->zero(sink, sink->zero_offset, length)
                       : ERROR_SUCCESS;
}

/* Ranges that meet, with no page in between, become one. */
static vd_error
apply_zero(struct sink *sink, uint64_t offset, uint64_t length)
{
    uint64_t start = sink->zero_offset, end = start + sink->zero_length;
    vd_error error = ERROR_SUCCESS;
    if (length == 0) {
        return ERROR_SUCCESS;
    }
    if (sink->zero_length == 0 || offset > end || offset + length < start) {
        error = end_zero(sink);
        start = offset;
        end = offset;
    }
    sink->zero_offset = offset < start ? offset : start;
    if (offset + length > end) {
        end = offset + length;
    }
    sink->zero_length = end - sink->zero_offset;
    return error;
}

static vd_error
apply_data(struct log *log, uint64_t sector_offset, const uint8_t *descriptor,
           struct sink *sink)
{
    uint8_t sector[VHDX_PAGE_SIZE], page[VHDX_PAGE_SIZE];
    vd_error error = end_zero(sink);
    if (error == ERROR_SUCCESS && sink->page != NULL) {
        error = read_sector(log, sector_offset, sector, sizeof(sector));
    }
    if (error != ERROR_SUCCESS || sink->page == NULL) {
        return error;
    }
    restore_page(descriptor, sector, page);
    return sink->page(sink, vd_get_le64(descriptor + DESCRIPTOR_FILE_OFFSET),
                      page);
}

static vd_error
apply_entry(struct log *log, const struct entry *entry, struct sink *sink)
{
    uint8_t sector[VHDX_PAGE_SIZE];
    uint64_t data =
        (uint64_t)entry->offset + descriptor_area(entry->descriptors);
    vd_error error = ERROR_SUCCESS;
    for (uint32_t i = 0; i < entry->descriptors && error == ERROR_SUCCESS;
         i++) {
        uint32_t at = ENTRY_DESCRIPTORS + i * DESCRIPTOR_SIZE;
        const uint8_t *descriptor = sector + at % VHDX_PAGE_SIZE;
        if (i == 0 || at % VHDX_PAGE_SIZE == 0) {
            error = read_sector(
                log, (uint64_t)entry->offset + at - at % VHDX_PAGE_SIZE,
                sector, sizeof(sector));
        }
        if (error == ERROR_SUCCESS && is_data(descriptor)) {
            error = apply_data(log, data, descriptor, sink);
            data += VHDX_PAGE_SIZE;
        }
        else if (error == ERROR_SUCCESS) {
            error = apply_zero(
                sink, vd_get_le64(descriptor + DESCRIPTOR_FILE_OFFSET),
                target_length(descriptor));
        }
        sink->order++;
    }
    return error;
}

/* From the entry at the head's Tail up to the head; what is before is in
 * the file already and may be older. */
static vd_error
apply(struct log *log, const struct sequence *sequence, struct sink *sink)
{
    const struct entry *entry = tail_of(sequence);
    const struct entry *head = head_of(sequence);
    for (; entry <= head; entry++) {
        vd_error error = apply_entry(log, entry, sink);
        if (error != ERROR_SUCCESS) {
            return error;
        }
    }
    return end_zero(sink);
}

static vd_error
count_zero(struct sink *sink, uint64_t file_offset, uint64_t length)
{
    (void)file_offset, (void)length;
    return sink->zeros <= MAX_ZEROS ? ERROR_SUCCESS
                                    : corrupt("zeroing without end");
}

/* Each costs a call of the host, or a look by every read of metadata: who has
 * too many is refused before anything has been changed. */
static vd_error
check_zeros(struct log *log, const struct sequence *sequence)
{
    struct sink sink = {.vhdx = log->vhdx, .zero = count_zero};
    return apply(log, sequence, &sink);
}

/* ---- into the file ---- */

static vd_error
page_into_file(struct sink *sink, uint64_t file_offset,
               const uint8_t page[VHDX_PAGE_SIZE])
{
    return vd_file_pwrite(sink->vhdx->image.file, page, VHDX_PAGE_SIZE,
                          file_offset);
}

static vd_error
zero_into_file(struct sink *sink, uint64_t file_offset, uint64_t length)
{
    return vd_file_punch(sink->vhdx->image.file, file_offset, length);
}

static vd_error
extend_to(struct vhdx_image *vhdx, uint64_t size)
{
    if (size <= atomic_load(&vhdx->file_size)) {
        return ERROR_SUCCESS;
    }
    vd_error error = vd_file_truncate(vhdx->image.file, size);
    if (error == ERROR_SUCCESS) {
        atomic_store(&vhdx->file_size, size);
    }
    return error;
}

static vd_error
replay_into_file(struct log *log, const struct sequence *sequence)
{
    struct vhdx_image *vhdx = log->vhdx;
    struct sink sink = {
        .vhdx = vhdx, .page = page_into_file, .zero = zero_into_file};
    vhdx->header.file_write_guid = vhdx->session.file_write_guid;
    vd_error error = vd_vhdx_header_update(vhdx->image.file, &vhdx->header,
                                           &vhdx->header_slot);
    if (error == ERROR_SUCCESS) {
        error = extend_to(vhdx, head_of(sequence)->last);
    }
    if (error == ERROR_SUCCESS) {
        error = apply(log, sequence, &sink);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_file_flush(vhdx->image.file);
    }
    if (error == ERROR_SUCCESS) {
        memset(&vhdx->header.log_guid, 0, VD_GUID_SIZE);
        error = vd_vhdx_header_update(vhdx->image.file, &vhdx->header,
                                      &vhdx->header_slot);
    }
    return error;
}

/* ---- into memory ---- */

/* An array with room for one more element; its size is a power of two. */
static void *
grow(void *array, size_t count, size_t element_size)
{
    if ((count & (count - 1)) != 0) {
        return array;
    }
    return realloc(array, (count == 0 ? 1 : count * 2) * element_size);
}

static vd_error
page_into_overlay(struct sink *sink, uint64_t file_offset,
                  const uint8_t page[VHDX_PAGE_SIZE])
{
    struct vhdx_overlay *overlay = &sink->vhdx->overlay;
    uint8_t *copy = malloc(VHDX_PAGE_SIZE);
    struct vhdx_overlay_page *grown =
        grow(overlay->pages, overlay->page_count, sizeof(*grown));
    if (grown != NULL) {
        overlay->pages = grown;
    }
    if (copy == NULL || grown == NULL) {
        free(copy);
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    memcpy(copy, page, VHDX_PAGE_SIZE);
    grown[overlay->page_count++] = (struct vhdx_overlay_page){
        .file_offset = file_offset, .order = sink->order, .data = copy};
    return ERROR_SUCCESS;
}

static vd_error
zero_into_overlay(struct sink *sink, uint64_t file_offset, uint64_t length)
{
    struct vhdx_overlay *overlay = &sink->vhdx->overlay;
    struct vhdx_overlay_zero *grown =
        grow(overlay->zeros, overlay->zero_count, sizeof(*grown));
    if (grown == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    overlay->zeros = grown;
    grown[overlay->zero_count++] = (struct vhdx_overlay_zero){
        .file_offset = file_offset, .length = length, .order = sink->order};
    return ERROR_SUCCESS;
}

/* By place, the newest first. */
static int
compare_pages(const void *a, const void *b)
{
    const struct vhdx_overlay_page *x = a, *y = b;
    if (x->file_offset != y->file_offset) {
        return x->file_offset < y->file_offset ? -1 : 1;
    }
    return (x->order < y->order) - (x->order > y->order);
}

/* Sorts, and keeps the newest page of each place. */
static void
settle(struct vhdx_overlay *overlay)
{
    size_t kept = 0;
    if (overlay->page_count != 0) {
        qsort(overlay->pages, overlay->page_count, sizeof(*overlay->pages),
              compare_pages);
    }
    for (size_t i = 0; i < overlay->page_count; i++) {
        if (kept != 0 && overlay->pages[kept - 1].file_offset ==
                             overlay->pages[i].file_offset) {
            free(overlay->pages[i].data);
            continue;
        }
        overlay->pages[kept++] = overlay->pages[i];
    }
    overlay->page_count = kept;
}

static vd_error
replay_into_overlay(struct log *log, const struct sequence *sequence)
{
    struct vhdx_image *vhdx = log->vhdx;
    struct sink sink = {
        .vhdx = vhdx, .page = page_into_overlay, .zero = zero_into_overlay};
    vd_error error = apply(log, sequence, &sink);
    settle(&vhdx->overlay);
    return error;
}

void
vd_vhdx_overlay_free(struct vhdx_overlay *overlay)
{
    for (size_t i = 0; i < overlay->page_count; i++) {
        free(overlay->pages[i].data);
    }
    free(overlay->pages);
    free(overlay->zeros);
    memset(overlay, 0, sizeof(*overlay));
}

/* ---- */

static vd_error
replay(struct log *log, const struct sequence *sequence)
{
    struct vhdx_image *vhdx = log->vhdx;
    if (atomic_load(&vhdx->file_size) < head_of(sequence)->flushed) {
        return corrupt("the file is shorter than when the log was written");
    }
    vd_error error = check_zeros(log, sequence);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    vhdx->image.info.log_dirty = true;
    return vhdx->image.writable ? replay_into_file(log, sequence)
                                : replay_into_overlay(log, sequence);
}

vd_error
vd_vhdx_log_replay(struct vhdx_image *vhdx)
{
    struct log log = {.vhdx = vhdx};
    struct sequence best = {0}, current = {0};
    uint64_t end;
    if (!vd_add_u64(vhdx->header.log_offset, vhdx->header.log_length, &end) ||
        end > atomic_load(&vhdx->file_size)) {
        return corrupt("it lies past the end of the file");
    }
    vd_error error = find_active(&log, &best, &current);
    if (error == ERROR_SUCCESS) {
        error = replay(&log, &best);
    }
    free(best.entries);
    free(current.entries);
    return error;
}
