/*
 * Finding and opening the parents of a differencing image (FORMATS.md 6).
 *
 * A candidate counts only if its content proves that it is the parent; one
 * that is something else is passed over, and the most telling error of all
 * candidates is what the caller gets.  Files are opened below the child's
 * directory, or below a root of the caller's, without following symbolic
 * links, and checked on the open descriptor.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/trace.h"
#include "disk/disk_private.h"
#include "disk/parent_open.h"
#include "disk/parent_path.h"
#include "disk/parent_roots.h"

/* ---- is it the parent? ---- */

static const struct vd_layer *
last_child(const struct vd_disk *disk)
{
    return &disk->layers[disk->layer_count - 1];
}

#define VHD_EPOCH 946684800 /* 2000-01-01 00:00 UTC, in Unix time */

/* Copying a file changes its time, and so does summer time on some file
 * systems: as on Windows, another one is no reason to refuse the parent. */
static void
trace_time(const struct vd_layer *child, const struct vd_layer *parent)
{
    uint32_t stored = child->image->info.parent_timestamp;
    int64_t modified = parent->file->status.st_mtime - VHD_EPOCH;
    if (stored != 0 && modified != stored) {
        vd_trace(VD_TRACE_DISK,
                 "%s: changed %lld s after the child was made of it",
                 parent->path, (long long)(modified - stored));
    }
}

static vd_error
check_identity(const struct vd_disk *disk, const struct vd_layer *parent)
{
    const struct vd_layer *child = last_child(disk);
    vd_error error =
        child->image->format->accept_parent(child->image, parent->image);
    struct vd_file_id id = vd_layer_file_id(parent);
    for (size_t i = 0; i < disk->layer_count && error == ERROR_SUCCESS; i++) {
        struct vd_file_id other = vd_layer_file_id(&disk->layers[i]);
        if (id.device == other.device && id.inode == other.inode) {
            error = ERROR_VHD_DIFFERENCING_CHAIN_CYCLE_DETECTED;
        }
    }
    return error;
}

/* A child of one format has a parent of the same; a content that is not that
 * is not the parent. */
static vd_error
open_layer(const struct vd_disk *disk, struct vd_posix_file *file,
           const char *path, struct vd_layer *out)
{
    struct vd_layer layer;
    uint32_t device_id = vd_disk_format(disk)->device_id;
    vd_error error = vd_layer_open(file, device_id, false, &layer);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = check_identity(disk, &layer);
    if (error == ERROR_SUCCESS) {
        error = vd_layer_find_path(layer.file, path, &layer.path);
    }
    if (error != ERROR_SUCCESS) {
        (void)vd_layer_close(&layer);
        return error;
    }
    trace_time(last_child(disk), &layer);
    *out = layer;
    return ERROR_SUCCESS;
}

static vd_error
try_candidate(const struct vd_disk *disk, int directory, const char *name,
              struct vd_layer *out)
{
    VD_AUTO_CLOSE int fd = -1;
    struct vd_posix_file *file;
    vd_error error = vd_parent_open(directory, name, &fd);
    if (error == ERROR_SUCCESS) {
        error = vd_posix_file_adopt(fd, false, &file);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    (void)vd_take_fd(&fd);
    return open_layer(disk, file, NULL, out);
}

/* How much an error says about why there is no parent. */
static int
weight(vd_error error)
{
    switch (error) {
    case ERROR_VHD_DIFFERENCING_CHAIN_CYCLE_DETECTED:
        return 5;
    case ERROR_VHD_CHILD_PARENT_ID_MISMATCH:
    case ERROR_VHD_CHILD_PARENT_SIZE_MISMATCH:
    case ERROR_VHD_INVALID_TYPE:
        return 4;
    case ERROR_ACCESS_DENIED:
        return 3;
    case ERROR_FILE_NOT_FOUND:
    case ERROR_PATH_NOT_FOUND:
    case ERROR_BAD_PATHNAME:
    case ERROR_INVALID_NAME:
        return 1;
    default:
        return 2; /* it is there, and damaged or something else */
    }
}

static vd_error
told_as(vd_error error)
{
    switch (weight(error)) {
    case 1:
        return ERROR_VHD_PARENT_VHD_NOT_FOUND;
    case 3:
        return ERROR_VHD_PARENT_VHD_ACCESS_DENIED;
    case 2:
        return ERROR_VHD_DIFFERENCING_CHAIN_ERROR_IN_PARENT;
    default:
        return error;
    }
}

/* ---- the search ---- */

static int
open_directory_of(const char *path)
{
    VD_AUTO_FREE char *directory = strdup(path);
    char *slash = directory != NULL ? strrchr(directory, '/') : NULL;
    if (slash == NULL) {
        return -1;
    }
    slash[slash == directory] = '\0'; /* "/" stays */
    return open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

static bool
skipped(const struct vd_parent_path *path, bool no_relative)
{
    return no_relative && path->kind == VD_PARENT_PATH_RELATIVE;
}

static vd_error
try_upward(const struct vd_disk *disk, const struct vd_parent_path *path,
           struct vd_layer *out)
{
    VD_AUTO_FREE char *place = NULL;
    VD_AUTO_CLOSE int root = -1;
    const char *below;
    vd_error error =
        vd_parent_path_climb(path, last_child(disk)->path, &place);
    if (error == ERROR_SUCCESS) {
        error = vd_parent_roots_find(place, &root, &below);
    }
    return error == ERROR_SUCCESS ? try_candidate(disk, root, below, out)
                                  : error;
}

/* Nothing else is to be tried. */
static bool
decided(vd_error error)
{
    return error == ERROR_SUCCESS || error == ERROR_NOT_ENOUGH_MEMORY;
}

static vd_error
heavier(vd_error one, vd_error other)
{
    return weight(other) > weight(one) ? other : one;
}

/* Where it leads, before what only has the same name. */
static vd_error
try_path(const struct vd_disk *disk, int directory,
         const struct vd_parent_path *path, struct vd_layer *out)
{
    VD_AUTO_FREE char *name = NULL;
    vd_error error = vd_parent_path_resolve(path, &name);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    vd_error upward = try_upward(disk, path, out);
    if (decided(upward)) {
        return upward;
    }
    error = try_candidate(disk, directory, name, out);
    return decided(error) ? error : heavier(upward, error);
}

static vd_error
try_all(const struct vd_disk *disk, int directory,
        const struct vd_parent_paths *paths, bool no_relative,
        struct vd_layer *out)
{
    vd_error best = ERROR_FILE_NOT_FOUND;
    for (size_t i = 0; i < paths->count; i++) {
        if (skipped(&paths->paths[i], no_relative)) {
            continue;
        }
        vd_error error = try_path(disk, directory, &paths->paths[i], out);
        if (decided(error)) {
            return error;
        }
        best = heavier(best, error);
    }
    return told_as(best);
}

static vd_error
find_parent(const struct vd_disk *disk, bool no_relative, struct vd_layer *out)
{
    const struct vd_layer *child = last_child(disk);
    const struct vd_format *format = child->image->format;
    struct vd_parent_paths paths;
    VD_AUTO_CLOSE int directory = open_directory_of(child->path);
    if (directory < 0) {
        return ERROR_VHD_PARENT_VHD_NOT_FOUND;
    }
    vd_error error = format->parent_paths(child->image, &paths);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = try_all(disk, directory, &paths, no_relative, out);
    format->parent_paths_free(&paths);
    return error;
}

vd_error
vd_disk_find_parents(struct vd_disk *disk, bool no_relative)
{
    while (vd_disk_wants_parent(disk)) {
        struct vd_layer parent;
        vd_error error = find_parent(disk, no_relative, &parent);
        if (error == ERROR_SUCCESS) {
            error = vd_disk_push(disk, &parent);
        }
        if (error == ERROR_SUCCESS) {
            continue;
        }
        bool further_up = disk->layer_count > 1 &&
                          error != ERROR_NOT_ENOUGH_MEMORY &&
                          error != ERROR_VHD_DIFFERENCING_CHAIN_CYCLE_DETECTED;
        return further_up ? ERROR_VHD_DIFFERENCING_CHAIN_ERROR_IN_PARENT
                          : error;
    }
    return ERROR_SUCCESS;
}

/* What is wrong with a file that is of no format, or of several, is told by
 * opening it as one of the child's. */
static vd_error
check_format(const struct vd_disk *disk, struct vd_posix_file *file)
{
    const struct vd_format *found;
    vd_error error = vd_format_find(&file->file, VD_DEVICE_UNKNOWN, &found);
    if (error != ERROR_SUCCESS) {
        return error == ERROR_VIRTDISK_PROVIDER_NOT_FOUND ? ERROR_SUCCESS
                                                          : error;
    }
    if (found != vd_disk_format(disk)) {
        vd_trace(VD_TRACE_DISK, "the parent is of another format: %s",
                 found->name);
        return ERROR_VHD_INVALID_TYPE;
    }
    return ERROR_SUCCESS;
}

static vd_error
open_named(const struct vd_disk *disk, const char *path, struct vd_layer *out)
{
    struct vd_posix_file *file;
    vd_error error = vd_posix_file_open(AT_FDCWD, path, false, &file);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = check_format(disk, file);
    if (error != ERROR_SUCCESS) {
        vd_posix_file_close(file);
        return error;
    }
    return open_layer(disk, file, path, out);
}

vd_error
vd_disk_add_parent(struct vd_disk *disk, const char *path)
{
    struct vd_layer layer;
    if (!vd_disk_wants_parent(disk)) {
        return ERROR_VHD_INVALID_TYPE;
    }
    vd_error error = open_named(disk, path, &layer);
    return error != ERROR_SUCCESS ? error : vd_disk_push(disk, &layer);
}

/* ---- telling where it would be looked for ---- */

static vd_error
add_name(char ***names, size_t *count, char *name)
{
    char **grown = realloc(*names, (*count + 1) * sizeof(*grown));
    if (grown == NULL) {
        free(name);
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    grown[(*count)++] = name;
    *names = grown;
    return ERROR_SUCCESS;
}

static vd_error
absolute(const struct vd_disk *disk, const char *name, char **out)
{
    const char *child = vd_disk_path(disk);
    size_t directory = (size_t)(strrchr(child, '/') + 1 - child);
    char *path = malloc(directory + strlen(name) + 1);
    if (path == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    memcpy(path, child, directory);
    memcpy(path + directory, name, strlen(name) + 1);
    *out = path;
    return ERROR_SUCCESS;
}

static vd_error
list_upward(const struct vd_disk *disk, const struct vd_parent_path *path,
            char ***names, size_t *count)
{
    VD_AUTO_FREE char *place = NULL;
    VD_AUTO_CLOSE int root = -1;
    const char *below;
    vd_error error = vd_parent_path_climb(path, vd_disk_path(disk), &place);
    if (error == ERROR_SUCCESS) {
        error = vd_parent_roots_find(place, &root, &below);
    }
    return error == ERROR_SUCCESS ? add_name(names, count, VD_TAKE(place))
                                  : error;
}

static vd_error
list_path(const struct vd_disk *disk, const struct vd_parent_path *path,
          char ***names, size_t *count)
{
    VD_AUTO_FREE char *name = NULL;
    char *place = NULL;
    vd_error error = vd_parent_path_resolve(path, &name);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = list_upward(disk, path, names, count);
    if (error == ERROR_NOT_ENOUGH_MEMORY) {
        return error;
    }
    error = absolute(disk, name, &place);
    return error == ERROR_SUCCESS ? add_name(names, count, place) : error;
}

static vd_error
list_candidates(const struct vd_disk *disk,
                const struct vd_parent_paths *paths, char ***names,
                size_t *count)
{
    for (size_t i = 0; i < paths->count; i++) {
        vd_error error = list_path(disk, &paths->paths[i], names, count);
        if (error == ERROR_NOT_ENOUGH_MEMORY) {
            return error;
        }
    }
    return ERROR_SUCCESS;
}

vd_error
vd_disk_parent_candidates(const struct vd_disk *disk, char ***out,
                          size_t *count_out)
{
    struct vd_image *leaf = vd_disk_leaf(disk);
    struct vd_parent_paths paths;
    char **names = NULL;
    size_t count = 0;
    if (leaf->info.subtype != VD_SUBTYPE_DIFFERENCING) {
        return ERROR_VHD_INVALID_TYPE;
    }
    vd_error error = leaf->format->parent_paths(leaf, &paths);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = list_candidates(disk, &paths, &names, &count);
    leaf->format->parent_paths_free(&paths);
    if (error != ERROR_SUCCESS) {
        while (count > 0) {
            free(names[--count]);
        }
        free(names);
        return error;
    }
    *out = names;
    *count_out = count;
    return ERROR_SUCCESS;
}
