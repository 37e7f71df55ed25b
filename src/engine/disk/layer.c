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
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/trace.h"

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

static vd_error
random_bytes(void *buffer, size_t length)
{
    if (getrandom(buffer, length, 0) != (ssize_t)length) {
        return vd_error_from_errno(errno);
    }
    return ERROR_SUCCESS;
}

/* RFC 4122 version 4; in a GUID's memory order the version is in byte 7. */
static vd_error
random_guid(struct vd_guid *guid)
{
    vd_error error = random_bytes(guid->bytes, sizeof(guid->bytes));
    guid->bytes[7] = (uint8_t)((guid->bytes[7] & 0x0f) | 0x40);
    guid->bytes[8] = (uint8_t)((guid->bytes[8] & 0x3f) | 0x80);
    return error;
}

static vd_error
new_session(struct vd_session *session)
{
    vd_error error = random_guid(&session->file_write_guid);
    if (error == ERROR_SUCCESS) {
        error = random_guid(&session->data_write_guid);
    }
    if (error == ERROR_SUCCESS) {
        error = random_guid(&session->log_guid);
    }
    if (error == ERROR_SUCCESS) {
        error = random_bytes(&session->log_sequence,
                             sizeof(session->log_sequence));
        session->log_sequence >>= 2; /* never near the end of the numbers */
    }
    return error;
}

static vd_error
open_image(struct vd_posix_file *file, uint32_t device_id, bool writable,
           struct vd_image **out)
{
    struct vd_open_request request = {.writable = writable};
    const struct vd_format *format;
    vd_error error = vd_format_find(&file->file, device_id, &format);
    if (error == ERROR_SUCCESS && writable) {
        error = new_session(&request.session);
    }
    return error != ERROR_SUCCESS ? error
                                  : format->open(&file->file, &request, out);
}

vd_error
vd_layer_open(struct vd_posix_file *file, uint32_t device_id, bool writable,
              struct vd_layer *out)
{
    struct vd_layer layer = {.file = file};
    vd_error error = open_image(file, device_id, writable, &layer.image);
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
