/*
 * Making a new image.  See create.h.
 */
#include "disk/create.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/trace.h"
#include "disk/disk_private.h"
#include "disk/parent_path.h"
#include "disk/random.h"

#define UNIX_TIME_OF_2000 946684800

vd_error
vd_create_format(uint32_t device_id, const struct vd_format **out)
{
    vd_error error = vd_format_find(NULL, device_id, out);
    if (error == ERROR_SUCCESS && (*out)->create == NULL) {
        vd_trace(VD_TRACE_DISK, "%s images are only read", (*out)->name);
        return ERROR_NOT_SUPPORTED;
    }
    return error;
}

/* ---- the request ---- */

/* What a VHDX child calls itself is its parent's id. */
static bool
inherits_id(const struct vd_layer *parent)
{
    return parent != NULL && parent->image->info.has_virtual_disk_id;
}

static vd_error
fill_in(const struct vd_layer *parent, struct vd_create_request *request)
{
    time_t now = time(NULL) - UNIX_TIME_OF_2000;
    request->time_stamp = (uint32_t)(now > 0 ? now : 0);
    vd_error error = vd_random_session(&request->session);
    if (error == ERROR_SUCCESS && vd_guid_is_zero(&request->identifier) &&
        !inherits_id(parent)) {
        error = vd_random_guid(&request->identifier);
    }
    return error;
}

static vd_error
path_of_directory(int directory, char path[PATH_MAX])
{
    char link[64];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", directory);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) {
        return vd_error_from_errno(errno);
    }
    path[length] = '\0';
    return ERROR_SUCCESS;
}

static vd_error
find_parent_path(const struct vd_new_file *file, const struct vd_layer *parent,
                 struct vd_create_request *request)
{
    char directory[PATH_MAX];
    char16_t *relative;
    vd_error error = path_of_directory(file->directory, directory);
    if (error == ERROR_SUCCESS) {
        error = vd_parent_path_between(directory, parent->path, &relative);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    request->parent = parent->image;
    request->parent_relative_path = relative;
    return ERROR_SUCCESS;
}

vd_error
vd_create_prepare(const struct vd_format *format,
                  const struct vd_new_file *file, const struct vd_disk *parent,
                  size_t layer, struct vd_create_request *request)
{
    const struct vd_layer *from =
        parent != NULL ? &parent->layers[layer] : NULL;
    vd_error error = fill_in(from, request);
    if (error == ERROR_SUCCESS && from != NULL) {
        error = find_parent_path(file, from, request);
    }
    if (error == ERROR_SUCCESS) {
        error = format->create_defaults(request);
    }
    if (error != ERROR_SUCCESS) {
        vd_create_clear(request);
    }
    return error;
}

void
vd_create_clear(struct vd_create_request *request)
{
    free((void *)(uintptr_t)request->parent_relative_path);
    request->parent_relative_path = NULL;
}

/* ---- the image ---- */

/* A disk layer's file over the one that is being made. */
static vd_error
file_of(const struct vd_new_file *file, bool sparse,
        struct vd_posix_file **out)
{
    VD_AUTO_CLOSE int fd = fcntl(file->fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0) {
        return vd_error_from_errno(errno);
    }
    vd_error error = vd_posix_file_adopt(fd, true, out);
    if (error == ERROR_SUCCESS) {
        (void)vd_take_fd(&fd);
        vd_posix_file_hold(*out, sparse);
    }
    return error;
}

vd_error
vd_create_write(const struct vd_new_file *file, const struct vd_format *format,
                bool sparse, const struct vd_create_request *request)
{
    struct vd_posix_file *posix_file;
    vd_error error = file_of(file, sparse, &posix_file);
    if (error == ERROR_SUCCESS) {
        error = format->create(&posix_file->file, request);
        vd_posix_file_close(posix_file);
    }
    return error;
}

static vd_error
open_layer(const struct vd_new_file *file, const struct vd_format *format,
           bool sparse, struct vd_layer *out)
{
    struct vd_posix_file *posix_file;
    vd_error error = file_of(file, sparse, &posix_file);
    if (error == ERROR_SUCCESS) {
        error = vd_layer_open(posix_file, format->device_id, true, out);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = vd_layer_find_path(out->file, NULL, &out->path);
    if (error != ERROR_SUCCESS) {
        (void)vd_layer_close(out);
    }
    return error;
}

vd_error
vd_create_fill(const struct vd_new_file *file, const struct vd_format *format,
               bool sparse, struct vd_disk **out)
{
    struct vd_layer layer;
    struct vd_disk *disk = vd_disk_new();
    if (disk == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    disk->writable = true;
    disk->live = true;
    vd_error error = open_layer(file, format, sparse, &layer);
    if (error == ERROR_SUCCESS) {
        error = vd_disk_push(disk, &layer);
    }
    if (error != ERROR_SUCCESS) {
        vd_disk_close(disk);
        return error;
    }
    *out = disk;
    return ERROR_SUCCESS;
}

/* ---- metadata ---- */

static vd_error
copy_item(struct vd_image *from, struct vd_image *to,
          const struct vd_guid *item)
{
    VD_AUTO_FREE void *data = NULL;
    size_t size;
    vd_error error = from->format->metadata_get(from, item, &data, &size);
    return error != ERROR_SUCCESS
               ? error
               : to->format->metadata_set(to, item, data, size);
}

vd_error
vd_create_copy_metadata(const struct vd_disk *source, struct vd_disk *target)
{
    struct vd_image *from = vd_disk_leaf(source);
    struct vd_image *to = vd_disk_leaf(target);
    VD_AUTO_FREE struct vd_guid *items = NULL;
    size_t count = 0;
    if (from->format->metadata_list == NULL) {
        return ERROR_SUCCESS;
    }
    vd_error error = from->format->metadata_list(from, &items, &count);
    if (error == ERROR_SUCCESS && count != 0) {
        error = to->format->begin(to, VD_CHANGE_LAYOUT);
    }
    for (size_t i = 0; i < count && error == ERROR_SUCCESS; i++) {
        error = copy_item(from, to, &items[i]);
    }
    return error;
}
