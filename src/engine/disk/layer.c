/*
 * One image of a chain.  See layer.h.
 *
 * Everything is asked of the open descriptor, nothing of the path a second
 * time: a file that is renamed or replaced meanwhile stays the one that was
 * opened.  The path is for people.
 */
#include "disk/layer.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/trace.h"
#include "disk/random.h"

/* What the kernel appends to the name of a file that has none any more. */
#define DELETED_SUFFIX " (deleted)"

/* ---- the path ---- */

static bool
path_leads_to(const char *path, const struct stat *wanted)
{
    struct stat status;
    return stat(path, &status) == 0 && status.st_dev == wanted->st_dev &&
           status.st_ino == wanted->st_ino;
}

static void
strip_suffix(char *text, const char *suffix)
{
    size_t length = strlen(text);
    size_t suffix_length = strlen(suffix);
    if (length > suffix_length &&
        strcmp(text + length - suffix_length, suffix) == 0) {
        text[length - suffix_length] = '\0';
    }
}

/* Needs /proc. */
static vd_error
path_of_descriptor(const struct vd_posix_file *file, char **out)
{
    char link[64];
    char path[PATH_MAX];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", file->fd);
    ssize_t length = readlink(link, path, sizeof(path) - 1);
    if (length < 0) {
        return vd_error_from_errno(errno);
    }
    path[length] = '\0';
    if (!path_leads_to(path, &file->status)) {
        strip_suffix(path, DELETED_SUFFIX);
    }
    char *copy = strdup(path);
    if (copy == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    *out = copy;
    return ERROR_SUCCESS;
}

vd_error
vd_layer_find_path(const struct vd_posix_file *file, const char *path,
                   char **out)
{
    char *resolved = path != NULL ? realpath(path, NULL) : NULL;
    if (resolved != NULL && path_leads_to(resolved, &file->status)) {
        *out = resolved;
        return ERROR_SUCCESS;
    }
    free(resolved);
    return path_of_descriptor(file, out);
}

/* ---- the image ---- */

/* session: of an image that is going to be changed, made here; else NULL. */
static vd_error
open_image(struct vd_posix_file *file, uint32_t device_id,
           struct vd_session *session, struct vd_image **out)
{
    struct vd_open_request request = {.writable = session != NULL};
    const struct vd_format *format;
    vd_error error = vd_format_find(&file->file, device_id, &format);
    if (error == ERROR_SUCCESS && session != NULL) {
        error = vd_random_session(session);
        request.session = *session;
    }
    return error != ERROR_SUCCESS ? error
                                  : format->open(&file->file, &request, out);
}

vd_error
vd_layer_open_image(struct vd_posix_file *file, uint32_t device_id,
                    bool writable, struct vd_image **out)
{
    struct vd_session session = {.log_sequence = 0};
    return open_image(file, device_id, writable ? &session : NULL, out);
}

vd_error
vd_layer_open(struct vd_posix_file *file, uint32_t device_id, bool writable,
              struct vd_layer *out)
{
    struct vd_layer layer = {.file = file};
    vd_error error = open_image(
        file, device_id, writable ? &layer.session : NULL, &layer.image);
    if (error != ERROR_SUCCESS) {
        vd_posix_file_close(file);
        return error;
    }
    *out = layer;
    return ERROR_SUCCESS;
}

vd_error
vd_layer_close(struct vd_layer *layer)
{
    vd_error error = ERROR_SUCCESS;
    if (layer->image != NULL) {
        error = layer->image->format->close(layer->image);
    }
    vd_posix_file_close(layer->file);
    free(layer->path);
    memset(layer, 0, sizeof(*layer));
    return error;
}
