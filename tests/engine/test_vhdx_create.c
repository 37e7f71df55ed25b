/*
 * New VHDX images: what they are when nothing is asked for (FORMATS.md 2.9),
 * what is refused, and what a child has of its parent.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "crash_file.h"
#include "format/format.h"
#include "format/vhdx.h"

#define MIB (1024u * 1024u)
#define GIB ((uint64_t)1 << 30)
#define TIB ((uint64_t)1 << 40)

static struct vd_create_request
request_for(enum vd_subtype subtype, uint64_t size_bytes)
{
    struct vd_create_request request = {.subtype = subtype,
                                        .size_bytes = size_bytes};
    memset(&request.identifier, 1, VD_GUID_SIZE);
    memset(&request.session, 2, sizeof(request.session));
    memset(&request.session.data_write_guid, 3, VD_GUID_SIZE);
    return request;
}

static vd_error
create(struct crash_file *file, struct vd_create_request *request)
{
    vd_error error = vd_vhdx_format.create_defaults(request);
    return error != ERROR_SUCCESS
               ? error
               : vd_vhdx_format.create(crash_file_of(file), request);
}

static struct vd_image *
open_image(struct crash_file *file)
{
    struct vd_open_request request = {.writable = false};
    struct vd_image *image = NULL;
    if (vd_vhdx_format.open(crash_file_of(file), &request, &image) !=
        ERROR_SUCCESS) {
        check_broken("opening");
    }
    return image;
}

static void
check_info(const struct vd_image_info *info, enum vd_subtype subtype,
           uint64_t size_bytes, uint32_t block_size, uint32_t physical)
{
    CHECK_EQ(subtype, info->subtype);
    CHECK_EQ(size_bytes, info->size_bytes);
    CHECK_EQ(block_size, info->block_size);
    CHECK_EQ(512, info->sector_size);
    CHECK_EQ(physical, info->physical_sector_size);
}

/* FORMATS.md 2.9: 32 MiB, sectors of 512 and 4096, a file of 4 MiB. */
static void
a_dynamic_image_is_as_of_windows(void)
{
    struct crash_file *file = crash_file_new();
    struct vd_create_request request = request_for(VD_SUBTYPE_DYNAMIC, GIB);
    uint64_t size = 0;
    CHECK_OK(create(file, &request));
    CHECK_OK(vd_file_size(crash_file_of(file), &size));
    CHECK_EQ(4 * MIB, size);
    struct vd_image *image = open_image(file);
    check_info(&image->info, VD_SUBTYPE_DYNAMIC, GIB, 32 * MIB, 4096);
    CHECK_BYTES(&request.identifier, &image->info.virtual_disk_id,
                VD_GUID_SIZE);
    CHECK_BYTES(&request.session.data_write_guid, &image->info.identifier,
                VD_GUID_SIZE);
    CHECK_OK(vd_vhdx_format.close(image));
    crash_file_free(file);
}

/* All present, in one run, zeros. */
static void
a_fixed_image_has_its_space(vd_error allocation)
{
    struct crash_file *file = crash_file_new();
    struct vd_create_request request = request_for(VD_SUBTYPE_FIXED, 5 * MIB);
    struct vd_extent extent = {.length = 0};
    crash_file_fail(file, allocation != ERROR_SUCCESS, allocation);
    CHECK_OK(create(file, &request));
    struct vd_image *image = open_image(file);
    check_info(&image->info, VD_SUBTYPE_FIXED, 5 * MIB, 2 * MIB, 4096);
    CHECK_OK(vd_vhdx_format.lookup(image, 0, 5 * MIB, &extent));
    CHECK_EQ(VD_EXTENT_PRESENT, extent.state);
    CHECK_EQ(5 * MIB, extent.length);
    CHECK_OK(vd_vhdx_format.close(image));
    crash_file_free(file);
}

static void
a_full_host_is_reported(void)
{
    struct crash_file *file = crash_file_new();
    struct vd_create_request request = request_for(VD_SUBTYPE_FIXED, 5 * MIB);
    bool recognised = true;
    crash_file_fail(file, 1, ERROR_DISK_FULL);
    CHECK_EQ(ERROR_DISK_FULL, create(file, &request));
    CHECK_OK(vd_vhdx_format.probe(crash_file_of(file), &recognised));
    CHECK(!recognised);
    crash_file_free(file);
}

/* A child: its parent's size, sectors and page 83 id, 2 MiB blocks. */
static void
a_child_is_made_of_its_parent(const char16_t *relative,
                              const char16_t *absolute)
{
    struct crash_file *parent_file = crash_file_new();
    struct crash_file *file = crash_file_new();
    struct vd_create_request request =
        request_for(VD_SUBTYPE_DYNAMIC, 7 * MIB);
    struct vd_parent_paths paths;
    request.physical_sector_size = 512;
    CHECK_OK(create(parent_file, &request));
    struct vd_image *parent = open_image(parent_file);
    request = (struct vd_create_request){
        .subtype = VD_SUBTYPE_DIFFERENCING,
        .parent = parent,
        .parent_relative_path = relative,
        .parent_absolute_path = absolute,
    };
    CHECK_OK(create(file, &request));
    struct vd_image *image = open_image(file);
    check_info(&image->info, VD_SUBTYPE_DIFFERENCING, 7 * MIB, 2 * MIB, 512);
    CHECK_BYTES(&parent->info.virtual_disk_id, &image->info.virtual_disk_id,
                VD_GUID_SIZE);
    CHECK_OK(vd_vhdx_format.accept_parent(image, parent));
    CHECK_OK(vd_vhdx_format.parent_paths(image, &paths));
    CHECK_EQ((relative != NULL) + (absolute != NULL), paths.count);
    vd_vhdx_format.parent_paths_free(&paths);
    CHECK_OK(vd_vhdx_format.close(image));
    CHECK_OK(vd_vhdx_format.close(parent));
    crash_file_free(parent_file);
    crash_file_free(file);
}

static void
check_refused(vd_error expected, struct vd_create_request request)
{
    CHECK_EQ(expected, vd_vhdx_format.create_defaults(&request));
}

#define CHANGED(field, value)                                                 \
    ({                                                                        \
        struct vd_create_request changed =                                    \
            request_for(VD_SUBTYPE_DYNAMIC, GIB);                             \
        changed.field = (value);                                              \
        changed;                                                              \
    })

static void
what_cannot_be_is_refused(void)
{
    static const vd_error invalid = ERROR_INVALID_PARAMETER;
    struct vhdx_image stranger = {.image = {.format = &vd_iso_format}};
    check_refused(ERROR_SUCCESS, CHANGED(size_bytes, 64 * TIB));
    check_refused(ERROR_VHD_INVALID_SIZE, CHANGED(size_bytes, 64 * TIB + 512));
    check_refused(ERROR_SUCCESS, CHANGED(size_bytes, 3 * MIB));
    check_refused(invalid, CHANGED(size_bytes, 3 * MIB - 512));
    check_refused(invalid, CHANGED(size_bytes, 0));
    check_refused(invalid, CHANGED(size_bytes, GIB + 256));
    check_refused(ERROR_SUCCESS, CHANGED(block_size, 256 * MIB));
    check_refused(invalid, CHANGED(block_size, 512 * MIB));
    check_refused(invalid, CHANGED(block_size, 3 * MIB));
    check_refused(invalid, CHANGED(block_size, MIB / 2));
    check_refused(ERROR_SUCCESS, CHANGED(sector_size, 4096));
    check_refused(invalid, CHANGED(sector_size, 2048));
    check_refused(invalid, CHANGED(physical_sector_size, 1024));
    check_refused(invalid, CHANGED(subtype, VD_SUBTYPE_NONE));
    check_refused(invalid, CHANGED(subtype, VD_SUBTYPE_DIFFERENCING));
    check_refused(invalid, CHANGED(parent, &stranger.image));
    struct vd_create_request request =
        request_for(VD_SUBTYPE_DIFFERENCING, GIB);
    request.parent = &stranger.image;
    check_refused(ERROR_VHD_INVALID_TYPE, request);
    stranger.image.format = &vd_vhdx_format;
    stranger.image.info.sector_size = 4096;
    stranger.image.info.physical_sector_size = 4096;
    check_refused(invalid, request); /* no path */
    request.parent_absolute_path = u"C:\\parent.vhdx";
    check_refused(ERROR_SUCCESS, request);
    request.sector_size = 512;
    check_refused(invalid, request);
}

/* A value of a locator has 16 bits for its length. */
static void
a_path_may_be_too_long(void)
{
    struct crash_file *file = crash_file_new();
    struct vhdx_image parent = {.image = {.format = &vd_vhdx_format}};
    parent.image.info.sector_size = 512;
    struct vd_create_request request =
        request_for(VD_SUBTYPE_DIFFERENCING, GIB);
    char16_t *path = calloc(32769, sizeof(*path));
    for (size_t i = 0; i < 32768; i++) {
        path[i] = u'x';
    }
    request.parent = &parent.image;
    request.parent_relative_path = path;
    CHECK_EQ(ERROR_INVALID_PARAMETER, create(file, &request));
    free(path);
    crash_file_free(file);
}

int
main(void)
{
    a_dynamic_image_is_as_of_windows();
    a_fixed_image_has_its_space(ERROR_SUCCESS);
    a_fixed_image_has_its_space(ERROR_NOT_SUPPORTED);
    a_full_host_is_reported();
    a_child_is_made_of_its_parent(u".\\parent.vhdx", NULL);
    a_child_is_made_of_its_parent(NULL, u"C:\\parent.vhdx");
    a_child_is_made_of_its_parent(u".\\parent.vhdx", u"C:\\parent.vhdx");
    what_cannot_be_is_refused();
    a_path_may_be_too_long();
    return check_result();
}
