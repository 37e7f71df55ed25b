/*
 * The log, replayed ([MS-VHDX] 2.3.3).  A file that may be written is brought
 * up to date; for one that may not (a read-only open, a parent) the replayed
 * pages stay in memory, in an overlay through which all metadata is read.
 */
#include "format/vhdx_log.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

/* More separate ranges to zero than this stand in no log that anybody wrote;
 * as many fit one of 2 MiB. */
#define MAX_ZEROS 65536

/* The page of a data descriptor, put together again. */
static void
restore_page(const uint8_t *descriptor, const uint8_t *sector,
             uint8_t page[VHDX_PAGE_SIZE])
{
    memcpy(page, descriptor + VHDX_DESCRIPTOR_LEADING, 8);
    memcpy(page + 8, sector + VHDX_DATA_BYTES, VHDX_PAGE_SIZE - 12);
    memcpy(page + VHDX_PAGE_SIZE - 4, descriptor + VHDX_DESCRIPTOR_TRAILING,
           4);
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
apply_data(struct vhdx_log *log, uint64_t sector_offset,
           const uint8_t *descriptor, struct sink *sink)
{
    uint8_t sector[VHDX_PAGE_SIZE], page[VHDX_PAGE_SIZE];
    vd_error error = end_zero(sink);
    if (error == ERROR_SUCCESS && sink->page != NULL) {
        error = vd_vhdx_log_read_sector(log, sector_offset, sector,
                                        sizeof(sector));
    }
    if (error != ERROR_SUCCESS || sink->page == NULL) {
        return error;
    }
    restore_page(descriptor, sector, page);
    return sink->page(
        sink, vd_get_le64(descriptor + VHDX_DESCRIPTOR_FILE_OFFSET), page);
}

static vd_error
apply_entry(struct vhdx_log *log, const struct vhdx_log_entry *entry,
            struct sink *sink)
{
    uint8_t sector[VHDX_PAGE_SIZE];
    uint64_t data = (uint64_t)entry->offset +
                    vd_vhdx_log_descriptor_area(entry->descriptors);
    vd_error error = ERROR_SUCCESS;
    for (uint32_t i = 0; i < entry->descriptors && error == ERROR_SUCCESS;
         i++) {
        uint32_t at = VHDX_LOG_DESCRIPTORS + i * VHDX_DESCRIPTOR_SIZE;
        const uint8_t *descriptor = sector + at % VHDX_PAGE_SIZE;
        if (i == 0 || at % VHDX_PAGE_SIZE == 0) {
            error = vd_vhdx_log_read_sector(
                log, (uint64_t)entry->offset + at - at % VHDX_PAGE_SIZE,
                sector, sizeof(sector));
        }
        if (error == ERROR_SUCCESS && vd_vhdx_log_is_data(descriptor)) {
            error = apply_data(log, data, descriptor, sink);
            data += VHDX_PAGE_SIZE;
        }
        else if (error == ERROR_SUCCESS) {
            error = apply_zero(
                sink, vd_get_le64(descriptor + VHDX_DESCRIPTOR_FILE_OFFSET),
                vd_vhdx_log_target_length(descriptor));
        }
        sink->order++;
    }
    return error;
}

/* From the entry at the head's Tail up to the head; what is before is in
 * the file already and may be older. */
static vd_error
apply(struct vhdx_log *log, const struct vhdx_log_sequence *sequence,
      struct sink *sink)
{
    const struct vhdx_log_entry *entry = vd_vhdx_log_tail(sequence);
    const struct vhdx_log_entry *head = vd_vhdx_log_head(sequence);
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
    return sink->zeros <= MAX_ZEROS
               ? ERROR_SUCCESS
               : vd_vhdx_log_corrupt("zeroing without end");
}

/* Each costs a call of the host, or a look by every read of metadata: who has
 * too many is refused before anything has been changed. */
static vd_error
check_zeros(struct vhdx_log *log, const struct vhdx_log_sequence *sequence)
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
replay_into_file(struct vhdx_log *log,
                 const struct vhdx_log_sequence *sequence)
{
    struct vhdx_image *vhdx = log->vhdx;
    struct sink sink = {
        .vhdx = vhdx, .page = page_into_file, .zero = zero_into_file};
    vhdx->header.file_write_guid = vhdx->session.file_write_guid;
    vd_error error = vd_vhdx_header_update(vhdx->image.file, &vhdx->header,
                                           &vhdx->header_slot);
    if (error == ERROR_SUCCESS) {
        error = extend_to(vhdx, vd_vhdx_log_head(sequence)->last);
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
replay_into_overlay(struct vhdx_log *log,
                    const struct vhdx_log_sequence *sequence)
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
replay(struct vhdx_log *log, const struct vhdx_log_sequence *sequence)
{
    struct vhdx_image *vhdx = log->vhdx;
    if (atomic_load(&vhdx->file_size) < vd_vhdx_log_head(sequence)->flushed) {
        return vd_vhdx_log_corrupt(
            "the file is shorter than when the log was written");
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
    struct vhdx_log log = {.vhdx = vhdx};
    struct vhdx_log_sequence active;
    vd_error error = vd_vhdx_log_find(&log, &active);
    if (error == ERROR_SUCCESS) {
        error = replay(&log, &active);
        free(active.entries);
    }
    return error;
}
