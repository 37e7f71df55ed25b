/*
 * Where a differencing VHD says its parent is: up to eight
 * locators, in any order, and the name in the header.
 *
 * A locator that points outside the file, is too long or no text is skipped:
 * the others may be good.  Not followed: the obsolete ANSI paths (Wi2r, Wi2k),
 * for the file does not say in which code page they are, and the header has
 * the name in UTF-16; aliases of the old Mac OS.
 */
#include "format/vhd.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/trace.h"
#include "base/utf16.h"

#define MAX_LENGTH (64u * 1024)

bool
vd_vhd_is_path(const char16_t *path)
{
    return path[0] != 0 && vd_vhd_units_of(path) * 2 <= MAX_LENGTH;
}

vd_error
vd_vhd_locator_write(struct vd_file *file,
                     const struct vd_vhd_locator *locator,
                     const char16_t *path)
{
    VD_AUTO_FREE uint8_t *bytes = malloc(locator->length);
    if (bytes == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    for (size_t i = 0; i < locator->length / 2; i++) {
        vd_put_le16(bytes + i * 2, path[i]);
    }
    return vd_file_pwrite(file, bytes, locator->length, locator->offset);
}

struct platform {
    uint32_t code;
    enum vd_parent_path_kind kind;
};

/* In the order in which paths are tried. */
static const struct platform platforms[] = {
    {VHD_PLATFORM_W2RU, VD_PARENT_PATH_RELATIVE},
    {VHD_PLATFORM_W2KU, VD_PARENT_PATH_ABSOLUTE},
    {VHD_PLATFORM_MACX, VD_PARENT_PATH_URL},
};

_Static_assert(VHD_LOCATORS + 1 <= VD_PARENT_PATH_MAX,
               "every locator and the name have a place");

void
vd_vhd_parent_paths_free(struct vd_parent_paths *paths)
{
    for (size_t i = 0; i < paths->count; i++) {
        free(paths->paths[i].text);
    }
    memset(paths, 0, sizeof(*paths));
}

static void
add_path(struct vd_parent_paths *paths, enum vd_parent_path_kind kind,
         char16_t *text)
{
    if (text[0] == 0) {
        free(text);
        return;
    }
    paths->paths[paths->count].kind = kind;
    paths->paths[paths->count].text = text;
    paths->count++;
}

/* UTF-16LE; should a NUL be in it, the text ends there. */
static vd_error
take_utf16(const uint8_t *bytes, size_t length, char16_t **out)
{
    char16_t *text = calloc(length / 2 + 1, sizeof(*text));
    if (text == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    for (size_t i = 0; i < length / 2; i++) {
        text[i] = vd_get_le16(bytes + i * 2);
    }
    *out = text;
    return ERROR_SUCCESS;
}

static bool
is_readable(const struct vd_vhd_image *vhd,
            const struct vd_vhd_locator *locator,
            enum vd_parent_path_kind kind)
{
    bool good = locator->length != 0 && locator->length <= MAX_LENGTH &&
                vd_range_within(locator->offset, locator->length,
                                atomic_load(&vhd->data_end)) &&
                (kind == VD_PARENT_PATH_URL || locator->length % 2 == 0);
    if (!good) {
        vd_trace(VD_TRACE_FORMAT, "VHD: locator of %u bytes at 0x%llX skipped",
                 locator->length, (unsigned long long)locator->offset);
    }
    return good;
}

static vd_error
add_locator(struct vd_vhd_image *vhd, const struct vd_vhd_locator *locator,
            enum vd_parent_path_kind kind, struct vd_parent_paths *paths)
{
    if (!is_readable(vhd, locator, kind)) {
        return ERROR_SUCCESS;
    }
    VD_AUTO_FREE uint8_t *bytes = calloc(1, (size_t)locator->length + 1);
    if (bytes == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    char16_t *text;
    vd_error error = vd_file_pread(vhd->image.file, bytes, locator->length,
                                   locator->offset);
    if (error == ERROR_SUCCESS) {
        error = kind == VD_PARENT_PATH_URL
                    ? vd_utf16_from_bytes((const char *)bytes, &text, NULL)
                    : take_utf16(bytes, locator->length, &text);
    }
    if (error == ERROR_SUCCESS) {
        add_path(paths, kind, text);
    }
    return error;
}

static vd_error
add_platform(struct vd_vhd_image *vhd, const struct platform *platform,
             struct vd_parent_paths *paths)
{
    vd_error error = ERROR_SUCCESS;
    for (size_t i = 0; i < VHD_LOCATORS && error == ERROR_SUCCESS; i++) {
        const struct vd_vhd_locator *locator = &vhd->header.locators[i];
        if (locator->platform == platform->code) {
            error = add_locator(vhd, locator, platform->kind, paths);
        }
    }
    return error;
}

static vd_error
add_name(const struct vd_vhd_image *vhd, struct vd_parent_paths *paths)
{
    char16_t *text = calloc(1, sizeof(vhd->header.parent_name));
    if (text == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    memcpy(text, vhd->header.parent_name, sizeof(vhd->header.parent_name));
    add_path(paths, VD_PARENT_PATH_NAME, text);
    return ERROR_SUCCESS;
}

vd_error
vd_vhd_parent_paths(struct vd_image *image, struct vd_parent_paths *out)
{
    struct vd_vhd_image *vhd = vd_vhd_of(image);
    struct vd_parent_paths paths = {.count = 0};
    vd_error error = ERROR_SUCCESS;
    size_t count = sizeof(platforms) / sizeof(platforms[0]);
    for (size_t i = 0; i < count && error == ERROR_SUCCESS; i++) {
        error = add_platform(vhd, &platforms[i], &paths);
    }
    if (error == ERROR_SUCCESS) {
        error = add_name(vhd, &paths);
    }
    if (error != ERROR_SUCCESS) {
        vd_vhd_parent_paths_free(&paths);
        return error;
    }
    *out = paths;
    return ERROR_SUCCESS;
}
