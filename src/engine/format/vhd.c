/*
 * VHD images ("Virtual Hard Disk Image Format Specification" 1.0): fixed
 * disks, with the 512-byte footer or the 511-byte one of old software.
 *
 * Dynamic and differencing disks are recognised and their footer is
 * validated, also where only its copy at the head of the file is left; they
 * are then refused with ERROR_NOT_SUPPORTED.  The size of the disk is the
 * footer's current size, as on Windows.  Writes no footer: the data of a
 * fixed disk starts at offset 0 and ends before it.
 */
#include "format/format.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/trace.h"
#include "format/vhd_footer.h"

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
    if (vd_vhd_footer_has_cookie(raw.bytes)) {
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

static vd_error
vhd_probe(struct vd_file *file, bool *recognised)
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

static vd_error
validate(const struct raw_footer *raw, uint64_t file_size,
         struct vd_vhd_footer *out)
{
    struct vd_vhd_footer footer;
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

/*
 * The copy at the head where the footer at the end is missing or torn, which
 * is tail_error.  A fixed disk has no copy: one that is found there is its
 * guest's and says nothing.
 */
static vd_error
recover_from_head(struct vd_file *file, uint64_t file_size,
                  vd_error tail_error, struct vd_vhd_footer *out)
{
    struct raw_footer raw;
    struct vd_vhd_footer footer;
    vd_error error = read_head(file, file_size, &raw);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (raw.size == 0) {
        return tail_error;
    }
    error = vd_vhd_footer_decode(raw.bytes, &footer);
    if (error == ERROR_SUCCESS && footer.disk_type == VHD_TYPE_FIXED) {
        return tail_error;
    }
    if (error == ERROR_SUCCESS) {
        error = vd_vhd_footer_check(&footer, file_size, raw.size);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    vd_trace(VD_TRACE_FORMAT, "VHD: the footer's copy at the head is used");
    *out = footer;
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

static vd_error
find_footer(struct vd_file *file, struct vd_vhd_footer *out)
{
    uint64_t file_size;
    struct raw_footer raw;
    vd_error error = vd_file_size(file, &file_size);
    if (error == ERROR_SUCCESS) {
        error = read_tail(file, file_size, &raw);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = validate(&raw, file_size, out);
    if (is_recoverable(error)) {
        return recover_from_head(file, file_size, error, out);
    }
    return error;
}

static void
trace_size(const struct vd_vhd_footer *footer)
{
    uint64_t creator_size = vd_vhd_footer_creator_size(footer);
    if (creator_size != footer->current_size) {
        vd_trace(VD_TRACE_FORMAT,
                 "VHD: its maker shows guests %llu of the %llu bytes",
                 (unsigned long long)creator_size,
                 (unsigned long long)footer->current_size);
    }
}

static vd_error
new_image(struct vd_file *file, const struct vd_vhd_footer *footer,
          struct vd_image **out)
{
    struct vd_image *image = calloc(1, sizeof(*image));
    if (image == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    image->format = &vd_vhd_format;
    image->file = file;
    image->info = (struct vd_image_info){
        .size_bytes = footer->current_size,
        .sector_size = VHD_SECTOR_SIZE,
        .physical_sector_size = VHD_SECTOR_SIZE,
        .subtype = VD_SUBTYPE_FIXED,
        .has_identifier = true,
        .identifier = footer->unique_id,
    };
    *out = image;
    return ERROR_SUCCESS;
}

static vd_error
vhd_open(struct vd_file *file, struct vd_image **out)
{
    struct vd_vhd_footer footer;
    vd_error error = find_footer(file, &footer);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (footer.disk_type != VHD_TYPE_FIXED) {
        vd_trace(VD_TRACE_FORMAT,
                 "VHD: dynamic and differencing disks are not handled yet");
        return ERROR_NOT_SUPPORTED;
    }
    trace_size(&footer);
    return new_image(file, &footer, out);
}

/* Data starts where the file does. */
static vd_error
vhd_map(struct vd_image *image, uint64_t offset, uint64_t length,
        struct vd_extent *out)
{
    (void)image;
    *out = (struct vd_extent){
        .state = VD_EXTENT_PRESENT,
        .file_offset = offset,
        .length = length,
    };
    return ERROR_SUCCESS;
}

static void
vhd_close(struct vd_image *image)
{
    free(image);
}

const struct vd_format vd_vhd_format = {
    .name = "VHD",
    .device_id = VD_DEVICE_VHD,
    .probe = vhd_probe,
    .open = vhd_open,
    .map = vhd_map,
    .close = vhd_close,
};
