/*
 * XenServer's batmap: behind the BAT one bit a block, set
 * if all bits of the block's own bitmap are.
 *
 * A clear bit says nothing: the block's bitmap is asked.  So the map stays
 * true without being written as long as a block whose bit is set never loses
 * a bit of its bitmap; and none does, as blocks of such a file are never
 * given up.  A file that breaks this already is not written.
 */
#include "format/vhd.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/trace.h"

enum batmap_field {
    BATMAP_COOKIE = 0,
    BATMAP_OFFSET = 8,
    BATMAP_SECTORS = 16,
};

#define COOKIE "tdbatmap"
#define COOKIE_SIZE 8

/* blktap of this version wrote bitmaps in the byte order of the machine. */
#define FIRST_BLKTAP 1

static bool
is_made_by_blktap(const struct vd_vhd_footer *footer)
{
    return memcmp(footer->creator_application, "tap\0", 4) == 0;
}

static uint64_t
batmap_header_offset(const struct vd_vhd_image *vhd)
{
    uint64_t table = (uint64_t)vhd->header.max_entries * sizeof(uint32_t);
    return vhd->header.table_offset +
           (table + VHD_SECTOR_SIZE - 1) / VHD_SECTOR_SIZE * VHD_SECTOR_SIZE;
}

vd_error
vd_vhd_batmap_find(struct vd_vhd_image *vhd)
{
    uint8_t header[VHD_SECTOR_SIZE];
    uint64_t limit = atomic_load(&vhd->data_end);
    uint64_t at = batmap_header_offset(vhd);
    if (!is_made_by_blktap(&vhd->footers.footer) ||
        !vd_range_within(at, sizeof(header), limit)) {
        return ERROR_SUCCESS;
    }
    vd_error error =
        vd_file_pread(vhd->image.file, header, sizeof(header), at);
    if (error != ERROR_SUCCESS ||
        memcmp(header + BATMAP_COOKIE, COOKIE, COOKIE_SIZE) != 0) {
        return error;
    }
    uint64_t offset = vd_get_be64(header + BATMAP_OFFSET);
    uint64_t length =
        (uint64_t)vd_get_be32(header + BATMAP_SECTORS) * VHD_SECTOR_SIZE;
    vhd->has_batmap = true;
    vd_vhd_add_range(vhd, at, sizeof(header));
    if (vd_range_within(offset, length, limit) &&
        length >= (vhd->blocks + 7) / 8) {
        vd_vhd_add_range(vhd, offset, length);
        return ERROR_SUCCESS;
    }
    vd_trace(VD_TRACE_FORMAT, "VHD: a batmap of %llu bytes at 0x%llX",
             (unsigned long long)length, (unsigned long long)offset);
    return vhd->image.writable ? ERROR_VHD_SPARSE_HEADER_CORRUPT
                               : ERROR_SUCCESS;
}

static vd_error
check_block(struct vd_vhd_image *vhd, uint64_t block)
{
    struct vd_vhd_page *page;
    vd_error error = vd_vhd_bat_page(vhd, block, &page);
    if (error == ERROR_SUCCESS &&
        atomic_load(&page->words[block % VHD_BAT_PAGE_ENTRIES]) ==
            VHD_UNUSED) {
        vd_trace(VD_TRACE_FORMAT,
                 "VHD: block %llu is full by the batmap, but not there",
                 (unsigned long long)block);
        error = ERROR_VHD_BITMAP_MISMATCH;
    }
    return error;
}

static vd_error
check_bits(struct vd_vhd_image *vhd, const uint8_t *bits)
{
    for (uint64_t block = 0; block < vhd->blocks; block++) {
        if ((bits[block / 8] & 0x80 >> block % 8) == 0) {
            continue;
        }
        vd_error error = check_block(vhd, block);
        if (error != ERROR_SUCCESS) {
            return error;
        }
    }
    return ERROR_SUCCESS;
}

vd_error
vd_vhd_batmap_check(struct vd_vhd_image *vhd)
{
    const struct vd_vhd_footer *footer = &vhd->footers.footer;
    bool obsolete = is_made_by_blktap(footer) &&
                    footer->creator_version >> 16 < FIRST_BLKTAP;
    if (obsolete && (vhd->image.writable || vhd->child)) {
        vd_trace(VD_TRACE_FORMAT,
                 "VHD: made by blktap 0x%08X: its bitmaps "
                 "have another order",
                 footer->creator_version);
        return ERROR_NOT_SUPPORTED;
    }
    if (!vhd->has_batmap || !vhd->image.writable) {
        return ERROR_SUCCESS;
    }
    size_t length = (size_t)((vhd->blocks + 7) / 8);
    const struct vd_vhd_range *map = &vhd->ranges[vhd->range_count - 1];
    VD_AUTO_FREE uint8_t *bits = malloc(length);
    if (bits == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    vd_error error = vd_file_pread(vhd->image.file, bits, length, map->offset);
    return error != ERROR_SUCCESS ? error : check_bits(vhd, bits);
}
