/*
 * Changing what a VHD says of itself: its unique id, and of a differencing one
 * its parent.
 *
 * The id is in the footer, one sector.  The parent is told by the dynamic
 * header, two sectors under one checksum and without a copy, and by the paths
 * that it points to.  So a second header with its paths is written behind the
 * last block; the footer, which says where the header is, is turned to it;
 * now the first one is free to be written anew, and the footer is turned back.
 * Each turn is one sector, and what it points to is durable before.
 */
#include "format/vhd.h"

#include <string.h>

#include "base/checked.h"
#include "base/trace.h"

#define HEADER_OFFSET 512u /* where everybody has it */
#define PATHS 2

/* The new paths: relative, absolute.  NULL: none. */
struct paths {
    const char16_t *texts[PATHS];
    uint32_t platforms[PATHS];
};

static vd_error
refuse(vd_error error, const char *reason)
{
    vd_trace(VD_TRACE_FORMAT, "VHD: cannot change: %s", reason);
    return error;
}

/* ---- the request ---- */

static bool
is_bad_path(const char16_t *path)
{
    return path != NULL && !vd_vhd_is_path(path);
}

static bool
is_bad_identifier(const struct vd_guid *identifier)
{
    return identifier != NULL && vd_guid_is_zero(identifier);
}

static bool
changes_paths(const struct vd_image_change *change)
{
    return change->parent_relative_path != NULL ||
           change->parent_absolute_path != NULL;
}

static bool
changes_parent(const struct vd_image_change *change)
{
    return change->parent_identifier != NULL || changes_paths(change);
}

static vd_error
check(const struct vd_vhd_image *vhd, const struct vd_image_change *change)
{
    if (change->virtual_disk_id != NULL || change->physical_sector_size != 0 ||
        change->other_parent_identifier != NULL) {
        return refuse(ERROR_NOT_SUPPORTED, "a VHD does not have that");
    }
    if (is_bad_identifier(change->identifier) ||
        is_bad_identifier(change->parent_identifier)) {
        return refuse(ERROR_INVALID_PARAMETER, "an identifier of zeros");
    }
    if (!changes_parent(change)) {
        return ERROR_SUCCESS;
    }
    if (!vhd->child) {
        return refuse(ERROR_VHD_INVALID_TYPE, "it has no parent");
    }
    if (is_bad_path(change->parent_relative_path) ||
        is_bad_path(change->parent_absolute_path)) {
        return refuse(ERROR_INVALID_PARAMETER, "the parent's path");
    }
    return vhd->has_batmap ? refuse(ERROR_NOT_SUPPORTED, "it has a batmap")
                           : ERROR_SUCCESS;
}

/* ---- headers ---- */

/* All but the place of the paths. */
static struct vd_vhd_header
new_header(const struct vd_vhd_image *vhd,
           const struct vd_image_change *change)
{
    struct vd_vhd_header header = vhd->header;
    if (change->parent_identifier != NULL) {
        header.parent_id = *change->parent_identifier;
        header.parent_time_stamp = change->parent_timestamp;
    }
    if (changes_paths(change)) {
        memset(header.locators, 0, sizeof(header.locators));
        vd_vhd_header_set_name(&header, change->parent_relative_path,
                               change->parent_absolute_path);
    }
    return header;
}

/* At `place`, with what other software keeps in the present one. */
static vd_error
write_header(struct vd_vhd_image *vhd, const struct vd_vhd_header *header,
             uint64_t place)
{
    uint8_t raw[VHD_HEADER_SIZE];
    vd_error error = vd_file_pread(vhd->image.file, raw, sizeof(raw),
                                   vhd->footers.footer.data_offset);
    if (error == ERROR_SUCCESS) {
        vd_vhd_header_update(header, raw);
        error = vd_file_pwrite(vhd->image.file, raw, sizeof(raw), place);
    }
    return error;
}

static vd_error
write_paths(struct vd_vhd_image *vhd, const struct vd_vhd_header *header,
            const struct paths *paths)
{
    vd_error error = ERROR_SUCCESS;
    for (size_t i = 0; i < PATHS && error == ERROR_SUCCESS; i++) {
        if (paths->texts[i] != NULL) {
            error = vd_vhd_locator_write(vhd->image.file, &header->locators[i],
                                         paths->texts[i]);
        }
    }
    return error;
}

/* What is now true.  Readers look at the header too, but at no such field. */
static void
take_header(struct vd_vhd_image *vhd, const struct vd_vhd_header *header)
{
    vhd->header.parent_id = header->parent_id;
    vhd->header.parent_time_stamp = header->parent_time_stamp;
    memcpy(vhd->header.parent_name, header->parent_name,
           sizeof(header->parent_name));
    memcpy(vhd->header.locators, header->locators, sizeof(header->locators));
    vhd->image.info.parent_identifier = header->parent_id;
    vhd->image.info.parent_timestamp = header->parent_time_stamp;
    vd_vhd_plan_drop(vhd);
    vd_vhd_collect_ranges(vhd);
}

/* Everything at `place` and what it points to has been written. */
static vd_error
turn_to(struct vd_vhd_image *vhd, const struct vd_vhd_header *header,
        uint64_t place, const struct vd_guid *identifier)
{
    struct vd_vhd_footer footer = vhd->footers.footer;
    footer.data_offset = place;
    footer.unique_id = *identifier;
    vd_error error = vd_file_flush(vhd->image.file);
    if (error == ERROR_SUCCESS) {
        error = vd_vhd_store_footer(vhd, &footer);
    }
    error = vd_vhd_remember(vhd, error);
    if (error == ERROR_SUCCESS) {
        take_header(vhd, header);
    }
    return error;
}

/* ---- the second header ---- */

static uint64_t
round_up(uint64_t value)
{
    return (value + VHD_DATA_ALIGNMENT - 1) / VHD_DATA_ALIGNMENT *
           VHD_DATA_ALIGNMENT;
}

/* Puts the paths behind each other from `at` on; returns their end. */
static uint64_t
place_paths(struct vd_vhd_header *header, const struct paths *paths,
            uint64_t at)
{
    for (size_t i = 0; i < PATHS; i++) {
        if (paths->texts[i] == NULL) {
            continue;
        }
        uint64_t length = vd_vhd_units_of(paths->texts[i]) * 2;
        uint64_t space = round_up(length);
        header->locators[i] = (struct vd_vhd_locator){
            .platform = paths->platforms[i],
            .space = (uint32_t)space, /* at most 64 KiB */
            .length = (uint32_t)length,
            .offset = at,
        };
        at += space;
    }
    return at;
}

/* A failure leaves free space as it was. */
static vd_error
write_second(struct vd_vhd_image *vhd, const struct vd_vhd_header *header,
             const struct paths *paths, uint64_t place, uint64_t end)
{
    vd_error error = vd_vhd_reserve_end(vhd, end);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = write_header(vhd, header, place);
    if (error == ERROR_SUCCESS) {
        error = write_paths(vhd, header, paths);
    }
    if (error != ERROR_SUCCESS &&
        vd_file_punch(vhd->image.file, place, end - place) != ERROR_SUCCESS) {
        return vd_vhd_remember(vhd, error);
    }
    return error;
}

/* ---- back to the first ---- */

static bool
fits(struct vd_vhd_image *vhd, const struct vd_vhd_locator *home,
     uint32_t length)
{
    uint64_t space = vd_vhd_locator_reserve(home);
    return home->platform != VHD_PLATFORM_NONE && space >= length &&
           vd_range_within(home->offset, space, atomic_load(&vhd->data_end)) &&
           vd_vhd_is_free(vhd, home->offset, home->offset + space, UINT64_MAX);
}

/* One of the places of the former paths, each given away once: that of the
 * same platform if it can be. */
static bool
find_home(struct vd_vhd_image *vhd, struct vd_vhd_header *former,
          struct vd_vhd_locator *locator)
{
    for (size_t i = 0; i < (size_t)2 * VHD_LOCATORS; i++) {
        struct vd_vhd_locator *home = &former->locators[i % VHD_LOCATORS];
        bool wanted = i >= VHD_LOCATORS || home->platform == locator->platform;
        if (wanted && fits(vhd, home, locator->length)) {
            locator->offset = home->offset;
            locator->space = (uint32_t)vd_vhd_locator_reserve(home);
            home->platform = VHD_PLATFORM_NONE;
            return true;
        }
    }
    return false;
}

/* Whether all paths have found a place; the others stay where they are. */
static bool
bring_paths_home(struct vd_vhd_image *vhd, struct vd_vhd_header *former,
                 const struct paths *paths, struct vd_vhd_header *header)
{
    bool all = true;
    for (size_t i = 0; i < PATHS; i++) {
        if (paths->texts[i] != NULL) {
            all = find_home(vhd, former, &header->locators[i]) && all;
        }
    }
    return all;
}

/* The first place again; that of everybody, if a crash has left another. */
static uint64_t
home_of_header(struct vd_vhd_image *vhd, uint64_t former_place)
{
    uint64_t end = HEADER_OFFSET + VHD_HEADER_SIZE;
    return vd_vhd_is_free(vhd, HEADER_OFFSET, end, UINT64_MAX) ? HEADER_OFFSET
                                                               : former_place;
}

/* The change is made: if this cannot be written, the second header stays. */
static vd_error
turn_back(struct vd_vhd_image *vhd, struct vd_vhd_header *former,
          uint64_t former_place, const struct paths *paths)
{
    struct vd_vhd_header header = vhd->header;
    uint64_t second = vhd->footers.footer.data_offset;
    uint64_t end = vhd->metadata_end;
    bool all_home = bring_paths_home(vhd, former, paths, &header);
    uint64_t place = home_of_header(vhd, former_place);
    vd_error error = write_paths(vhd, &header, paths);
    if (error == ERROR_SUCCESS) {
        error = write_header(vhd, &header, place);
    }
    if (error != ERROR_SUCCESS) {
        vd_trace(VD_TRACE_FORMAT, "VHD: the header stays behind the blocks");
        vhd->next_free = end;
        return ERROR_SUCCESS;
    }
    error = turn_to(vhd, &header, place, &vhd->footers.footer.unique_id);
    if (error == ERROR_SUCCESS && all_home) {
        return vd_vhd_remember(
            vhd, vd_file_punch(vhd->image.file, second, end - second));
    }
    vhd->next_free = end;
    return error;
}

/* ---- all of it ---- */

static vd_error
change_parent(struct vd_vhd_image *vhd, const struct vd_image_change *change,
              const struct vd_guid *identifier)
{
    struct paths paths = {
        .texts = {change->parent_relative_path, change->parent_absolute_path},
        .platforms = {VHD_PLATFORM_W2RU, VHD_PLATFORM_W2KU},
    };
    struct vd_vhd_header former = vhd->header;
    struct vd_vhd_header header = new_header(vhd, change);
    uint64_t former_place = vhd->footers.footer.data_offset;
    uint64_t place = round_up(vhd->next_free);
    uint64_t end = place_paths(&header, &paths, place + VHD_DATA_ALIGNMENT);
    vd_error error = vd_vhd_table_load(vhd);
    if (error == ERROR_SUCCESS) {
        error = write_second(vhd, &header, &paths, place, end);
    }
    if (error == ERROR_SUCCESS) {
        error = turn_to(vhd, &header, place, identifier);
    }
    return error != ERROR_SUCCESS
               ? error
               : turn_back(vhd, &former, former_place, &paths);
}

static vd_error
change_identifier(struct vd_vhd_image *vhd, const struct vd_guid *identifier)
{
    struct vd_vhd_footer footer = vhd->footers.footer;
    footer.unique_id = *identifier;
    vd_error error = ERROR_SUCCESS;
    if (vd_vhd_is_fixed(vhd)) {
        error = vd_vhd_extend(vhd, footer.current_size);
    }
    return error != ERROR_SUCCESS
               ? error
               : vd_vhd_remember(vhd, vd_vhd_store_footer(vhd, &footer));
}

vd_error
vd_vhd_change(struct vd_image *image, const struct vd_image_change *change)
{
    struct vd_vhd_image *vhd = vd_vhd_of(image);
    struct vd_guid identifier = image->info.identifier;
    vd_error error = check(vhd, change);
    if (error == ERROR_SUCCESS) {
        error = vd_vhd_begin(image, VD_CHANGE_LAYOUT);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_vhd_commit(image);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (change->identifier != NULL) {
        identifier = *change->identifier;
    }
    if (changes_parent(change)) {
        error = change_parent(vhd, change, &identifier);
    }
    else if (change->identifier != NULL) {
        error = change_identifier(vhd, &identifier);
    }
    if (error == ERROR_SUCCESS) {
        image->info.identifier = identifier;
    }
    return error;
}
