/*
 * The log, written ([MS-VHDX] 2.3): every change of the BAT and of sector
 * bitmaps reaches the file through it.
 *
 * A session begins in an order that leaves no moment in which the header
 * names a log without a valid entry: new FileWriteGuid, an empty entry with
 * the new LogGuid, and only then the header that publishes it.
 *
 * A commit makes payload durable, then one entry with all changed pages, then
 * applies the pages in place.  The next commit begins with a barrier, which
 * makes those durable too; so each entry's Tail is the entry itself, and at
 * most two entries, each at most half the ring, exist at any time.
 */
#include "format/vhdx_write.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/crc32c.h"
#include "base/trace.h"
#include "format/vhdx_log.h"

#define MAX_ALLOCATED_LOG (4 * VHDX_MIB) /* Windows makes 1 MiB */
#define MAX_PAGES 1024 /* an entry: 4 MiB of memory while it is made */

static size_t
entry_length(size_t pages)
{
    size_t area = VHDX_LOG_DESCRIPTORS + pages * VHDX_DESCRIPTOR_SIZE;
    area = (area + VHDX_PAGE_SIZE - 1) / VHDX_PAGE_SIZE * VHDX_PAGE_SIZE;
    return area + pages * VHDX_PAGE_SIZE;
}

/* Two entries fit the ring with a page to spare, so full is not empty. */
size_t
vd_vhdx_log_capacity(const struct vhdx_image *vhdx)
{
    size_t half = vhdx->header.log_length / 2 - VHDX_PAGE_SIZE;
    size_t pages = MAX_PAGES;
    while (entry_length(pages) > half) {
        pages--;
    }
    return pages;
}

/* ---- building an entry ---- */

static void
put_header(struct vhdx_image *vhdx, uint8_t *entry, size_t pages)
{
    uint64_t size = atomic_load(&vhdx->file_size);
    memcpy(entry, "loge", 4);
    vd_put_le32(entry + VHDX_LOG_LENGTH, (uint32_t)entry_length(pages));
    vd_put_le32(entry + VHDX_LOG_TAIL, vhdx->log_head);
    vd_put_le64(entry + VHDX_LOG_SEQUENCE, vhdx->log_sequence);
    vd_put_le32(entry + VHDX_LOG_DESCRIPTOR_COUNT, (uint32_t)pages);
    memcpy(entry + VHDX_LOG_GUID, &vhdx->session.log_guid, VD_GUID_SIZE);
    vd_put_le64(entry + VHDX_LOG_FLUSHED, size / VHDX_MIB * VHDX_MIB);
    vd_put_le64(entry + VHDX_LOG_LAST,
                (size + VHDX_MIB - 1) / VHDX_MIB * VHDX_MIB);
}

static vd_error
put_page(struct vhdx_image *vhdx, uint8_t *descriptor, uint8_t *sector,
         const struct vhdx_page *page)
{
    uint8_t bytes[VHDX_PAGE_SIZE];
    uint64_t offset;
    vd_error error = vd_vhdx_page_offset(vhdx, page, &offset);
    for (unsigned i = 0; i < VHDX_PAGE_WORDS; i++) {
        vd_put_le64(bytes + i * 8, atomic_load(&page->words[i]));
    }
    memcpy(descriptor, "desc", 4);
    memcpy(descriptor + VHDX_DESCRIPTOR_TRAILING, bytes + VHDX_PAGE_SIZE - 4,
           4);
    memcpy(descriptor + VHDX_DESCRIPTOR_LEADING, bytes, 8);
    vd_put_le64(descriptor + VHDX_DESCRIPTOR_FILE_OFFSET, offset);
    vd_put_le64(descriptor + VHDX_DESCRIPTOR_SEQUENCE, vhdx->log_sequence);
    memcpy(sector, "data", 4);
    vd_put_le32(sector + VHDX_DATA_SEQUENCE_HIGH,
                (uint32_t)(vhdx->log_sequence >> 32));
    memcpy(sector + VHDX_DATA_BYTES, bytes + 8, VHDX_PAGE_SIZE - 12);
    vd_put_le32(sector + VHDX_DATA_SEQUENCE_LOW, (uint32_t)vhdx->log_sequence);
    return error;
}

/* ---- writing it ---- */

static vd_error
write_ring(struct vhdx_image *vhdx, const uint8_t *entry, size_t length)
{
    const struct vhdx_header *header = &vhdx->header;
    size_t first = header->log_length - vhdx->log_head;
    if (first > length) {
        first = length;
    }
    vd_error error = vd_file_pwrite(vhdx->image.file, entry, first,
                                    header->log_offset + vhdx->log_head);
    if (error == ERROR_SUCCESS && first < length) {
        error = vd_file_pwrite(vhdx->image.file, entry + first, length - first,
                               header->log_offset);
    }
    return error;
}

/* Writes an entry of the dirty pages (or an empty one) and makes it
 * durable: the moment in which its changes have happened. */
static vd_error
write_entry(struct vhdx_image *vhdx)
{
    size_t pages = vhdx->dirty_count, length = entry_length(pages);
    VD_AUTO_FREE uint8_t *entry = calloc(1, length);
    if (entry == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    vhdx->log_sequence++;
    put_header(vhdx, entry, pages);
    uint8_t *descriptor = entry + VHDX_LOG_DESCRIPTORS;
    uint8_t *sector = entry + length - pages * VHDX_PAGE_SIZE;
    vd_error error = ERROR_SUCCESS;
    for (struct vhdx_page *page = vhdx->dirty;
         page != NULL && error == ERROR_SUCCESS; page = page->next_dirty) {
        error = put_page(vhdx, descriptor, sector, page);
        descriptor += VHDX_DESCRIPTOR_SIZE;
        sector += VHDX_PAGE_SIZE;
    }
    vd_put_le32(entry + VHDX_LOG_CHECKSUM, vd_crc32c(entry, length));
    if (error == ERROR_SUCCESS) {
        error = write_ring(vhdx, entry, length);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_file_flush(vhdx->image.file);
    }
    if (error == ERROR_SUCCESS) {
        vhdx->log_head =
            (uint32_t)((vhdx->log_head + length) % vhdx->header.log_length);
    }
    return error;
}

/* Writes the logged pages to their places and takes them off the list. */
static vd_error
apply_pages(struct vhdx_image *vhdx)
{
    while (vhdx->dirty != NULL) {
        struct vhdx_page *page = vhdx->dirty;
        vd_error error = vd_vhdx_page_apply(vhdx, page);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        vhdx->dirty = page->next_dirty;
        vhdx->dirty_count--;
        page->dirty = false;
        page->next_dirty = NULL;
        if (page->kind == VHDX_PAGE_LOOSE) {
            free(page);
        }
    }
    return ERROR_SUCCESS;
}

static vd_error
commit_pages(struct vhdx_image *vhdx)
{
    vd_vhdx_space_punch(vhdx);
    vd_error error = vd_file_flush(vhdx->image.file);
    if (error != ERROR_SUCCESS || vhdx->dirty == NULL) {
        return error;
    }
    error = write_entry(vhdx);
    if (error == ERROR_SUCCESS) {
        vhdx->commits++;
        error = apply_pages(vhdx);
    }
    return error;
}

/* After a failed barrier nothing is known of what is on the medium, so
 * nothing more is written (FORMATS 0). */
static vd_error
remember(struct vhdx_image *vhdx, vd_error error)
{
    if (error != ERROR_SUCCESS) {
        vd_trace(VD_TRACE_FORMAT, "VHDX: writing metadata failed: %u", error);
        vhdx->failed = true;
    }
    return error;
}

vd_error
vd_vhdx_commit(struct vd_image *image)
{
    struct vhdx_image *vhdx = vd_vhdx_of(image);
    if (vhdx->failed) {
        return ERROR_IO_DEVICE;
    }
    return remember(vhdx, commit_pages(vhdx));
}

/* No change of one block touches more pages than this: two of the BAT, and
 * the bitmap of a 256 MiB block in 512-byte sectors. */
#define PAGES_OF_ONE_CHANGE 20

vd_error
vd_vhdx_make_room(struct vhdx_image *vhdx)
{
    return vhdx->dirty_count + PAGES_OF_ONE_CHANGE <=
                   vd_vhdx_log_capacity(vhdx)
               ? ERROR_SUCCESS
               : vd_vhdx_commit(&vhdx->image);
}

/* The entries before may announce a longer file; what they changed is made
 * durable, and this one takes their place. */
vd_error
vd_vhdx_log_settle(struct vhdx_image *vhdx)
{
    vd_error error = vd_file_flush(vhdx->image.file);
    if (error == ERROR_SUCCESS) {
        error = write_entry(vhdx);
    }
    return remember(vhdx, error);
}

/* ---- the session ---- */

/* Gives the empty log its space in the file, which may be a hole so far, so
 * that a full host fails the first write and not a commit.  A log that is
 * larger than anybody makes it is left as it is. */
static vd_error
allocate_log(struct vhdx_image *vhdx)
{
    const struct vhdx_header *header = &vhdx->header;
    if (header->log_length > MAX_ALLOCATED_LOG) {
        return ERROR_SUCCESS;
    }
    VD_AUTO_FREE uint8_t *zeros = calloc(1, header->log_length);
    if (zeros == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    return vd_file_pwrite(vhdx->image.file, zeros, header->log_length,
                          header->log_offset);
}

static vd_error
begin_session(struct vhdx_image *vhdx, enum vd_change change)
{
    struct vd_file *file = vhdx->image.file;
    vhdx->header.file_write_guid = vhdx->session.file_write_guid;
    vd_error error =
        vd_vhdx_header_update(file, &vhdx->header, &vhdx->header_slot);
    if (error == ERROR_SUCCESS) {
        vhdx->log_head = 0;
        vhdx->log_sequence = vhdx->session.log_sequence;
        error = write_entry(vhdx);
    }
    if (error == ERROR_SUCCESS) {
        vhdx->header.log_guid = vhdx->session.log_guid;
        if (change == VD_CHANGE_CONTENT) {
            vhdx->header.data_write_guid = vhdx->session.data_write_guid;
        }
        error = vd_vhdx_header_update(file, &vhdx->header, &vhdx->header_slot);
    }
    return error;
}

static vd_error
begin(struct vhdx_image *vhdx, enum vd_change change)
{
    vd_error error = allocate_log(vhdx);
    if (error != ERROR_SUCCESS) {
        return error; /* nothing has changed */
    }
    error = remember(vhdx, begin_session(vhdx, change));
    vhdx->begun = error == ERROR_SUCCESS;
    return error != ERROR_SUCCESS ? error : vd_vhdx_regions_repair(vhdx);
}

/* A session that has only changed the layout comes to change the content:
 * children made of the former content refuse this parent from here on. */
static vd_error
begin_content(struct vhdx_image *vhdx)
{
    vhdx->header.data_write_guid = vhdx->session.data_write_guid;
    return remember(vhdx,
                    vd_vhdx_header_update(vhdx->image.file, &vhdx->header,
                                          &vhdx->header_slot));
}

vd_error
vd_vhdx_begin(struct vd_image *image, enum vd_change change)
{
    struct vhdx_image *vhdx = vd_vhdx_of(image);
    vd_error error = ERROR_SUCCESS;
    if (vhdx->failed) {
        return ERROR_IO_DEVICE;
    }
    if (!vhdx->begun) {
        error = begin(vhdx, change);
    }
    else if (change == VD_CHANGE_CONTENT && !vhdx->content_begun) {
        error = begin_content(vhdx);
    }
    if (error == ERROR_SUCCESS && change == VD_CHANGE_CONTENT) {
        vhdx->content_begun = true;
        image->info.identifier = vhdx->header.data_write_guid;
    }
    return error;
}

vd_error
vd_vhdx_end(struct vhdx_image *vhdx)
{
    if (!vhdx->begun) {
        return ERROR_SUCCESS;
    }
    vd_error error = vd_vhdx_commit(&vhdx->image);
    if (error == ERROR_SUCCESS) {
        vd_vhdx_reclaim(&vhdx->image); /* nobody looks up any more */
        vd_vhdx_space_punch(vhdx);
        error = vd_file_flush(vhdx->image.file);
    }
    if (error == ERROR_SUCCESS) {
        memset(&vhdx->header.log_guid, 0, VD_GUID_SIZE);
        error = vd_vhdx_header_update(vhdx->image.file, &vhdx->header,
                                      &vhdx->header_slot);
    }
    return error;
}
