/*
 * Making a new VHD, laid out as Windows 8 and later do it: the BAT padded up
 * to the next 4 KiB, and the footer so that the data of the first block, whose
 * bitmap will take the footer's place, start on 4 KiB.
 *
 *     dynamic        0x0000 footer's copy   0x0200 header   0x0600 BAT
 *     differencing   0x0000 footer's copy   0x0200 header
 *                    0x1000 absolute path   0x2000 BAT      after it, in
 *                    64 KiB, the relative path
 */
#include "format/vhd_create.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/trace.h"
#include "format/vhd.h"
#include "format/vhd_header.h"

#define HEADER_OFFSET 512u
#define BAT_OFFSET 0x600u /* dynamic */
#define BAT_OFFSET_CHILD 0x2000u
#define ABSOLUTE_OFFSET 0x1000u
#define ALIGNMENT 4096u
#define RELATIVE_SPACE (64u * 1024)
#define BAT_PIECE (64u * 1024)

struct layout {
    struct vd_vhd_header header;
    uint64_t table_length;
    uint64_t end; /* where the footer goes */
};

static vd_error
refuse(const char *reason)
{
    vd_trace(VD_TRACE_FORMAT, "VHD: cannot create: %s", reason);
    return ERROR_INVALID_PARAMETER;
}

static vd_error
check_child(const struct vd_vhd_create_request *request)
{
    if (request->type != VHD_TYPE_DIFFERENCING) {
        bool parent =
            request->relative_path != NULL || request->absolute_path != NULL;
        return parent ? refuse("a parent, but not differencing")
                      : ERROR_SUCCESS;
    }
    if (request->relative_path == NULL && request->absolute_path == NULL) {
        return refuse("no path to the parent");
    }
    if (request->relative_path != NULL &&
        !vd_vhd_is_path(request->relative_path)) {
        return refuse("the parent's relative path");
    }
    if (request->absolute_path != NULL &&
        !vd_vhd_is_path(request->absolute_path)) {
        return refuse("the parent's absolute path");
    }
    return ERROR_SUCCESS;
}

vd_error
vd_vhd_create_check(const struct vd_vhd_create_request *request)
{
    bool fixed = request->type == VHD_TYPE_FIXED;
    if (request->type < VHD_TYPE_FIXED ||
        request->type > VHD_TYPE_DIFFERENCING) {
        return refuse("the type");
    }
    if (request->size_bytes == 0 || request->size_bytes % VHD_SECTOR_SIZE ||
        request->size_bytes >
            (fixed ? INT64_MAX - VHD_FOOTER_SIZE : VHD_MAX_DYNAMIC_SIZE)) {
        return refuse("the size");
    }
    if (fixed ? request->block_size != 0
              : request->block_size != VHD_LARGE_BLOCK_SIZE &&
                    request->block_size != VHD_SMALL_BLOCK_SIZE) {
        return refuse("the block size");
    }
    return check_child(request);
}

/* ---- layout ---- */

static uint64_t
round_up(uint64_t value, uint64_t alignment)
{
    /* Far from overflow: paths, a BAT of at most 16 MiB. */
    return (value + alignment - 1) / alignment * alignment;
}

static void
plan_locator(struct vd_vhd_locator *locator, uint32_t platform,
             uint64_t offset, uint64_t space, const char16_t *path)
{
    *locator = (struct vd_vhd_locator){
        .platform = platform,
        .space = (uint32_t)space,
        .length = (uint32_t)(vd_vhd_units_of(path) * 2),
        .offset = offset,
    };
}

static void
plan_table(struct layout *layout, uint64_t offset)
{
    uint64_t length = (uint64_t)layout->header.max_entries * sizeof(uint32_t);
    layout->header.table_offset = offset;
    layout->table_length = round_up(offset + length, ALIGNMENT) - offset;
}

/* Locators and BAT in the order of Windows 10; slots too. */
static void
plan_child(const struct vd_vhd_create_request *request, struct layout *layout)
{
    struct vd_vhd_header *header = &layout->header;
    uint64_t at = BAT_OFFSET_CHILD;
    unsigned slot = 0;
    if (request->absolute_path != NULL) {
        uint64_t space =
            round_up(vd_vhd_units_of(request->absolute_path) * 2, ALIGNMENT);
        plan_locator(&header->locators[slot++], VHD_PLATFORM_W2KU,
                     ABSOLUTE_OFFSET, space, request->absolute_path);
        at = ABSOLUTE_OFFSET + space;
    }
    plan_table(layout, at);
    layout->end = at + layout->table_length;
    if (request->relative_path != NULL) {
        plan_locator(&header->locators[slot], VHD_PLATFORM_W2RU, layout->end,
                     RELATIVE_SPACE, request->relative_path);
        layout->end += RELATIVE_SPACE;
    }
    header->parent_id = request->parent_id;
    header->parent_time_stamp = request->parent_time_stamp;
    vd_vhd_header_set_name(header, request->relative_path,
                           request->absolute_path);
}

static void
plan(const struct vd_vhd_create_request *request, struct layout *layout)
{
    uint64_t entries =
        vd_vhd_entries_needed(request->size_bytes, request->block_size);
    memset(layout, 0, sizeof(*layout));
    layout->header.max_entries = (uint32_t)entries; /* <= 4177920 */
    layout->header.block_size = request->block_size;
    if (request->type == VHD_TYPE_DIFFERENCING) {
        plan_child(request, layout);
    }
    else {
        plan_table(layout, BAT_OFFSET);
        layout->end = BAT_OFFSET + layout->table_length;
    }
    layout->end =
        round_up(layout->end + VHD_FOOTER_SIZE, ALIGNMENT) - VHD_FOOTER_SIZE;
}

/* ---- writing ---- */

static void
encode_footer(const struct vd_vhd_create_request *request,
              uint8_t raw[VHD_FOOTER_SIZE])
{
    struct vd_vhd_footer footer = {
        .version = VHD_VERSION,
        .data_offset =
            request->type == VHD_TYPE_FIXED ? UINT64_MAX : HEADER_OFFSET,
        .time_stamp = request->time_stamp,
        .creator_version = request->creator_version,
        .original_size = request->size_bytes,
        .current_size = request->size_bytes,
        .geometry = request->geometry,
        .disk_type = request->type,
        .unique_id = request->unique_id,
    };
    if (vd_vhd_geometry_size(footer.geometry) == 0) {
        footer.geometry = vd_vhd_geometry_of_size(request->size_bytes);
    }
    memcpy(footer.creator_application, request->creator_application,
           sizeof(footer.creator_application));
    vd_vhd_footer_encode(&footer, raw);
}

static vd_error
write_paths(struct vd_file *file, const struct vd_vhd_create_request *request,
            const struct vd_vhd_header *header)
{
    for (size_t i = 0; i < VHD_LOCATORS; i++) {
        const struct vd_vhd_locator *locator = &header->locators[i];
        vd_error error = ERROR_SUCCESS;
        if (locator->platform == VHD_PLATFORM_W2KU) {
            error =
                vd_vhd_locator_write(file, locator, request->absolute_path);
        }
        if (locator->platform == VHD_PLATFORM_W2RU) {
            error =
                vd_vhd_locator_write(file, locator, request->relative_path);
        }
        if (error != ERROR_SUCCESS) {
            return error;
        }
    }
    return ERROR_SUCCESS;
}

static vd_error
write_table(struct vd_file *file, const struct layout *layout)
{
    VD_AUTO_FREE uint8_t *ones = malloc(BAT_PIECE);
    if (ones == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    memset(ones, 0xFF, BAT_PIECE);
    for (uint64_t at = 0; at < layout->table_length; at += BAT_PIECE) {
        uint64_t rest = layout->table_length - at;
        size_t piece = rest < BAT_PIECE ? (size_t)rest : BAT_PIECE;
        vd_error error = vd_file_pwrite(file, ones, piece,
                                        layout->header.table_offset + at);
        if (error != ERROR_SUCCESS) {
            return error;
        }
    }
    return ERROR_SUCCESS;
}

/* Everything but the footers. */
static vd_error
write_structures(struct vd_file *file,
                 const struct vd_vhd_create_request *request,
                 const struct layout *layout)
{
    uint8_t raw[VHD_HEADER_SIZE];
    vd_vhd_header_encode(&layout->header, raw);
    vd_error error = vd_file_truncate(file, layout->end);
    if (error == ERROR_SUCCESS) {
        error = vd_file_pwrite(file, raw, sizeof(raw), HEADER_OFFSET);
    }
    if (error == ERROR_SUCCESS) {
        error = write_paths(file, request, &layout->header);
    }
    return error != ERROR_SUCCESS ? error : write_table(file, layout);
}

/* Of a fixed disk: where the host can, its space as well as its length. */
static vd_error
make_payload(struct vd_file *file, const struct vd_vhd_create_request *request)
{
    if (request->allocate) {
        vd_error error =
            vd_file_allocate(file, 0, request->size_bytes + VHD_FOOTER_SIZE);
        if (error != ERROR_NOT_SUPPORTED) {
            return error;
        }
    }
    return vd_file_truncate(file, request->size_bytes);
}

vd_error
vd_vhd_create(struct vd_file *file,
              const struct vd_vhd_create_request *request)
{
    struct layout layout = {.end = request->size_bytes};
    uint8_t raw[VHD_FOOTER_SIZE];
    bool fixed = request->type == VHD_TYPE_FIXED;
    vd_error error = vd_vhd_create_check(request);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    encode_footer(request, raw);
    if (fixed) {
        error = make_payload(file, request);
    }
    else {
        plan(request, &layout);
        error = write_structures(file, request, &layout);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_file_flush(file);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_file_pwrite(file, raw, sizeof(raw), layout.end);
    }
    if (error == ERROR_SUCCESS && !fixed) {
        error = vd_file_pwrite(file, raw, sizeof(raw), 0);
    }
    return error != ERROR_SUCCESS ? error : vd_file_flush(file);
}

void
vd_vhd_create_child_of(const struct vd_image *parent,
                       struct vd_vhd_create_request *request)
{
    const struct vd_vhd_footer *footer =
        &((const struct vd_vhd_image *)parent)->footers.footer;
    request->type = VHD_TYPE_DIFFERENCING;
    request->size_bytes = footer->current_size;
    request->geometry = footer->geometry;
    request->parent_id = footer->unique_id;
}
