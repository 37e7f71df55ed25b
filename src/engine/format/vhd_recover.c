/*
 * The footers of a VHD in its file: which one
 * counts, and putting them right.
 *
 * Opening only reads.  A writable open of a dynamic or differencing disk
 * writes again the footer at the end, or its copy, if that one is damaged:
 * while either is being written the other is whole.  Before the first change
 * (settle) the footer is made to stand right behind the last block with
 * nothing after it, so that new space always reads as zeros.
 *
 * A fixed disk has one footer only; it moves when the disk grows.
 */
#include "format/vhd.h"

#include <string.h>

#include "base/checked.h"
#include "base/trace.h"

/* ---- reading ---- */

/* A footer as it stands at one of its three places. */
struct raw_footer {
    uint8_t bytes[VHD_FOOTER_SIZE];
    uint64_t size; /* in the file: 512, 511, or 0 if there is no cookie */
};

static vd_error
read_footer_at(struct vd_file *file, uint64_t offset, size_t size,
               struct raw_footer *out)
{
    struct raw_footer raw = {.size = 0};
    vd_error error = vd_file_pread(file, raw.bytes, size, offset);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (vd_vhd_footer_has_cookie(raw.bytes) ||
        vd_vhd_footer_is_disabled(raw.bytes)) {
        raw.size = size;
    }
    *out = raw;
    return ERROR_SUCCESS;
}

/* The footer at the end of the file: nowhere else counts, for the guest's
 * data may hold other VHDs. */
static vd_error
read_tail(struct vd_file *file, uint64_t file_size, struct raw_footer *out)
{
    static const size_t sizes[] = {VHD_FOOTER_SIZE, VHD_OLD_FOOTER_SIZE};
    struct raw_footer raw = {.size = 0};
    for (size_t i = 0; i < 2 && raw.size == 0; i++) {
        if (file_size < sizes[i]) {
            continue;
        }
        vd_error error =
            read_footer_at(file, file_size - sizes[i], sizes[i], &raw);
        if (error != ERROR_SUCCESS) {
            return error;
        }
    }
    *out = raw;
    return ERROR_SUCCESS;
}

/* The copy at the head of a dynamic or differencing disk. */
static vd_error
read_head(struct vd_file *file, uint64_t file_size, struct raw_footer *out)
{
    if (file_size < VHD_FOOTER_SIZE) {
        *out = (struct raw_footer){.size = 0};
        return ERROR_SUCCESS;
    }
    return read_footer_at(file, 0, VHD_FOOTER_SIZE, out);
}

vd_error
vd_vhd_recognise(struct vd_file *file, bool *recognised)
{
    uint64_t file_size;
    struct raw_footer raw;
    vd_error error = vd_file_size(file, &file_size);
    if (error == ERROR_SUCCESS) {
        error = read_tail(file, file_size, &raw);
    }
    if (error == ERROR_SUCCESS && raw.size == 0) {
        error = read_head(file, file_size, &raw);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    *recognised = raw.size != 0;
    return ERROR_SUCCESS;
}

/* ---- which one counts ---- */

static vd_error
validate(const struct raw_footer *raw, uint64_t file_size,
         struct vd_vhd_footer *out)
{
    struct vd_vhd_footer footer;
    if (vd_vhd_footer_is_disabled(raw->bytes)) {
        vd_trace(VD_TRACE_FORMAT, "VHD: disabled by XenServer (v_poison)");
        return ERROR_VHD_DRIVE_FOOTER_CORRUPT;
    }
    vd_error error = vd_vhd_footer_decode(raw->bytes, &footer);
    if (error == ERROR_SUCCESS) {
        error = vd_vhd_footer_check(&footer, file_size, raw->size);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    *out = footer;
    return ERROR_SUCCESS;
}

/* The tail is whole: what of the copy?  A fixed disk has none: what is found
 * there is its guest's and says nothing. */
static vd_error
compare_head(struct vd_file *file, struct vd_vhd_footers *found)
{
    struct raw_footer raw;
    found->head_good = true;
    if (found->footer.disk_type == VHD_TYPE_FIXED) {
        return ERROR_SUCCESS;
    }
    vd_error error = read_head(file, found->file_size, &raw);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (vd_vhd_footer_is_disabled(raw.bytes)) {
        return validate(&raw, found->file_size, &found->footer);
    }
    found->head_good = memcmp(raw.bytes, found->raw, sizeof(found->raw)) == 0;
    if (!found->head_good) {
        vd_trace(VD_TRACE_FORMAT, "VHD: the footer's copy differs from it");
    }
    return ERROR_SUCCESS;
}

/* The copy at the head where the footer at the end is missing or torn, which
 * is tail_error. */
static vd_error
recover_from_head(struct vd_file *file, vd_error tail_error,
                  struct vd_vhd_footers *found)
{
    struct raw_footer raw;
    struct vd_vhd_footer footer;
    vd_error error = read_head(file, found->file_size, &raw);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (raw.size == 0 ||
        (vd_vhd_footer_decode(raw.bytes, &footer) == ERROR_SUCCESS &&
         footer.disk_type == VHD_TYPE_FIXED)) {
        return tail_error;
    }
    error = validate(&raw, found->file_size, &found->footer);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    vd_trace(VD_TRACE_FORMAT, "VHD: the footer's copy at the head is used");
    memcpy(found->raw, raw.bytes, sizeof(found->raw));
    found->tail_size = 0;
    found->tail_offset = found->file_size;
    found->head_good = true;
    return ERROR_SUCCESS;
}

/* A footer whose bytes are whole decides, even if what it says is
 * impossible; only a missing or torn one is made up for by its copy. */
static bool
is_recoverable(vd_error error)
{
    return error == ERROR_VHD_DRIVE_FOOTER_MISSING ||
           error == ERROR_VHD_DRIVE_FOOTER_CHECKSUM_MISMATCH;
}

vd_error
vd_vhd_find_footers(struct vd_file *file, struct vd_vhd_footers *out)
{
    struct vd_vhd_footers found = {.tail_size = 0};
    struct raw_footer raw;
    vd_error error = vd_file_size(file, &found.file_size);
    if (error == ERROR_SUCCESS) {
        error = read_tail(file, found.file_size, &raw);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = validate(&raw, found.file_size, &found.footer);
    if (error == ERROR_SUCCESS) {
        memcpy(found.raw, raw.bytes, sizeof(found.raw));
        found.tail_size = raw.size;
        found.tail_offset = found.file_size - raw.size;
        error = compare_head(file, &found);
    }
    else if (is_recoverable(error)) {
        error = recover_from_head(file, error, &found);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    *out = found;
    return ERROR_SUCCESS;
}

vd_error
vd_vhd_check_state(const struct vd_vhd_image *vhd)
{
    if (vd_vhd_footer_has_saved_state(vhd->footers.raw)) {
        vd_trace(VD_TRACE_FORMAT, "VHD: a saved state is over this disk");
        return ERROR_VHD_INVALID_STATE;
    }
    return ERROR_SUCCESS;
}

/* ---- places ---- */

static uint64_t
round_up(uint64_t value, uint64_t alignment)
{
    /* value <= 2 TiB and a block, or the size of a file. */
    return (value + alignment - 1) / alignment * alignment;
}

/* In an aligned file the footer takes the place before the alignment where
 * the next block's bitmap will stand, as Windows has it. */
uint64_t
vd_vhd_footer_place(const struct vd_vhd_image *vhd, uint64_t end)
{
    if (!vhd->aligned) {
        return end;
    }
    return round_up(end + VHD_FOOTER_SIZE, VHD_DATA_ALIGNMENT) -
           VHD_FOOTER_SIZE;
}

uint64_t
vd_vhd_block_place(const struct vd_vhd_image *vhd, uint64_t end)
{
    if (!vhd->aligned) {
        return end;
    }
    return round_up(end + vhd->bitmap_size, VHD_DATA_ALIGNMENT) -
           vhd->bitmap_size;
}

/* ---- writing ---- */

/* Writes the footer and makes it durable; whatever it was before, the image
 * opens at any moment of this, for the copy at the head is whole. */
vd_error
vd_vhd_put_tail(struct vd_vhd_image *vhd, uint64_t place)
{
    struct vd_vhd_footers *footers = &vhd->footers;
    vd_error error = vd_file_pwrite(vhd->image.file, footers->raw,
                                    sizeof(footers->raw), place);
    if (error == ERROR_SUCCESS) {
        error = vd_file_flush(vhd->image.file);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    footers->tail_offset = place;
    footers->tail_size = sizeof(footers->raw);
    if (footers->file_size < place + sizeof(footers->raw)) {
        footers->file_size = place + sizeof(footers->raw);
    }
    atomic_store(&vhd->data_end, place);
    return ERROR_SUCCESS;
}

vd_error
vd_vhd_store_footer(struct vd_vhd_image *vhd,
                    const struct vd_vhd_footer *footer)
{
    struct vd_vhd_footers *footers = &vhd->footers;
    footers->footer = *footer;
    vd_vhd_footer_update(footer, footers->raw);
    vd_error error = vd_vhd_put_tail(vhd, footers->tail_offset);
    if (error == ERROR_SUCCESS && !vd_vhd_is_fixed(vhd)) {
        error = vd_file_pwrite(vhd->image.file, footers->raw,
                               sizeof(footers->raw), 0);
        if (error == ERROR_SUCCESS) {
            error = vd_file_flush(vhd->image.file);
        }
    }
    return error;
}

/* Ends the file behind its footer. */
static vd_error
cut_after_tail(struct vd_vhd_image *vhd)
{
    struct vd_vhd_footers *footers = &vhd->footers;
    uint64_t end = footers->tail_offset + footers->tail_size;
    if (footers->file_size == end) {
        return ERROR_SUCCESS;
    }
    vd_error error = vd_file_truncate(vhd->image.file, end);
    if (error == ERROR_SUCCESS) {
        error = vd_file_flush(vhd->image.file);
    }
    if (error == ERROR_SUCCESS) {
        footers->file_size = end;
    }
    return error;
}

vd_error
vd_vhd_mend(struct vd_vhd_image *vhd)
{
    struct vd_vhd_footers *footers = &vhd->footers;
    if (footers->tail_size == 0) {
        vd_error error =
            vd_vhd_put_tail(vhd, vd_vhd_footer_place(vhd, vhd->next_free));
        return error != ERROR_SUCCESS ? error : cut_after_tail(vhd);
    }
    if (footers->head_good) {
        return ERROR_SUCCESS;
    }
    vd_error error =
        vd_file_pwrite(vhd->image.file, footers->raw, sizeof(footers->raw), 0);
    if (error == ERROR_SUCCESS) {
        error = vd_file_flush(vhd->image.file);
    }
    footers->head_good = error == ERROR_SUCCESS;
    return error;
}

/* An old footer gets its last byte; the others of its sector stay the same.
 * One that does not stand on a sector could only be moved through a moment
 * without any: it stays. */
static vd_error
settle_fixed(struct vd_vhd_image *vhd)
{
    struct vd_vhd_footers *footers = &vhd->footers;
    if (footers->tail_size == VHD_FOOTER_SIZE ||
        footers->tail_offset % VHD_SECTOR_SIZE != 0) {
        return ERROR_SUCCESS;
    }
    return vd_vhd_put_tail(vhd, footers->tail_offset);
}

/* Where the footer is to stand while nothing is allocated: right behind the
 * last block is as good as the place that Windows would choose. */
static uint64_t
settled_place(const struct vd_vhd_image *vhd)
{
    uint64_t at = vhd->footers.tail_offset;
    return at == vhd->next_free ? at
                                : vd_vhd_footer_place(vhd, vhd->next_free);
}

static bool
is_settled(const struct vd_vhd_image *vhd)
{
    return vhd->footers.tail_size == VHD_FOOTER_SIZE &&
           vhd->footers.tail_offset == settled_place(vhd);
}

/* A last block that was cut at the end of the disk is whole now: what the
 * footer has left in it must not show if the disk grows. */
static vd_error
wipe(struct vd_vhd_image *vhd, uint64_t offset, uint64_t length)
{
    static const uint8_t zeros[VHD_FOOTER_SIZE];
    if (offset >= vhd->next_free) {
        return ERROR_SUCCESS;
    }
    if (length > vhd->next_free - offset) {
        length = vhd->next_free - offset;
    }
    return vd_file_pwrite(vhd->image.file, zeros, (size_t)length, offset);
}

vd_error
vd_vhd_settle(struct vd_vhd_image *vhd)
{
    if (vd_vhd_is_fixed(vhd)) {
        return settle_fixed(vhd);
    }
    if (is_settled(vhd)) {
        return ERROR_SUCCESS;
    }
    uint64_t old_offset = vhd->footers.tail_offset;
    uint64_t old_size = vhd->footers.tail_size;
    vd_error error = vd_vhd_put_tail(vhd, settled_place(vhd));
    if (error == ERROR_SUCCESS) {
        error = wipe(vhd, old_offset, old_size);
    }
    return error != ERROR_SUCCESS ? error : cut_after_tail(vhd);
}

vd_error
vd_vhd_withdraw(struct vd_vhd_image *vhd)
{
    if (is_settled(vhd)) {
        return ERROR_SUCCESS;
    }
    vd_error error = vd_vhd_put_tail(vhd, settled_place(vhd));
    return error != ERROR_SUCCESS ? error : cut_after_tail(vhd);
}
