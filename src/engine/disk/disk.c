/*
 * Opening and describing a virtual disk.  See disk.h; reading and writing is
 * in disk_io.c, the search for parents in parent.c.
 */
#include "disk/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/trace.h"
#include "disk/disk_private.h"

/* ---- layers ---- */

/* Readers come without end while a disk is busy; who waits to hand back
 * space, for an instant, must not wait for the last of them. */
static void
init_gate(pthread_rwlock_t *gate)
{
    pthread_rwlockattr_t attributes;
    pthread_rwlockattr_init(&attributes);
#ifdef __GLIBC__
    pthread_rwlockattr_setkind_np(
        &attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
#endif
    pthread_rwlock_init(gate, &attributes);
    pthread_rwlockattr_destroy(&attributes);
}

struct vd_disk *
vd_disk_new(void)
{
    struct vd_disk *disk = calloc(1, sizeof(*disk));
    if (disk != NULL) {
        pthread_mutex_init(&disk->mutator, NULL);
        init_gate(&disk->gate);
        init_gate(&disk->mirror_lock);
        pthread_mutex_init(&disk->flush.lock, NULL);
        pthread_cond_init(&disk->flush.done, NULL);
    }
    return disk;
}

static bool
has_file(const struct vd_disk *disk, struct vd_file_id id)
{
    for (size_t i = 0; i < disk->layer_count; i++) {
        struct vd_file_id other = vd_layer_file_id(&disk->layers[i]);
        if (other.device == id.device && other.inode == id.inode) {
            return true;
        }
    }
    return false;
}

static vd_error
check_push(const struct vd_disk *disk, const struct vd_layer *layer)
{
    if (has_file(disk, vd_layer_file_id(layer))) {
        vd_trace(VD_TRACE_DISK, "the image is in its own chain");
        return ERROR_VHD_DIFFERENCING_CHAIN_CYCLE_DETECTED;
    }
    if (disk->layer_count == VD_DISK_LAYERS_MAX) {
        vd_trace(VD_TRACE_DISK, "the chain is too long");
        return ERROR_VHD_DIFFERENCING_CHAIN_ERROR_IN_PARENT;
    }
    return ERROR_SUCCESS;
}

vd_error
vd_disk_push(struct vd_disk *disk, struct vd_layer *layer)
{
    vd_error error = check_push(disk, layer);
    if (error == ERROR_SUCCESS) {
        struct vd_layer *grown =
            realloc(disk->layers, (disk->layer_count + 1) * sizeof(*grown));
        if (grown != NULL) {
            disk->layers = grown;
            disk->layers[disk->layer_count++] = *layer;
            return ERROR_SUCCESS;
        }
        error = ERROR_NOT_ENOUGH_MEMORY;
    }
    (void)vd_layer_close(layer);
    return error;
}

/* ---- opening by path ---- */

static vd_error
open_leaf(struct vd_disk *disk, const char *path,
          const struct vd_disk_options *options)
{
    struct vd_posix_file *file;
    struct vd_layer layer;
    vd_error error =
        vd_posix_file_open(AT_FDCWD, path, options->writable, &file);
    if (error == ERROR_SUCCESS) {
        error = vd_layer_open(file, options->device_id, false, &layer);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = vd_layer_find_path(layer.file, path, &layer.path);
    if (error != ERROR_SUCCESS) {
        (void)vd_layer_close(&layer);
        return error;
    }
    return vd_disk_push(disk, &layer);
}

static vd_error
open_all(struct vd_disk *disk, const char *path,
         const struct vd_disk_options *options)
{
    vd_error error = open_leaf(disk, path, options);
    if (error == ERROR_SUCCESS && !options->no_parents) {
        error = vd_disk_find_parents(disk, options->no_relative);
    }
    return error;
}

vd_error
vd_disk_open(const char *path, const struct vd_disk_options *options,
             struct vd_disk **out)
{
    struct vd_disk *disk = vd_disk_new();
    if (disk == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    disk->writable = options->writable;
    vd_error error = open_all(disk, path, options);
    if (error != ERROR_SUCCESS) {
        vd_trace(VD_TRACE_DISK, "%s: not opened, error %u", path, error);
        vd_disk_close(disk);
        return error;
    }
    *out = disk;
    return ERROR_SUCCESS;
}

vd_error
vd_disk_finish(struct vd_disk *disk)
{
    vd_error first = ERROR_SUCCESS;
    if (disk->mirror != NULL) {
        vd_mirror_end(disk->mirror);
    }
    for (size_t i = 0; i < disk->layer_count; i++) {
        vd_error error = vd_layer_close(&disk->layers[i]);
        if (error != ERROR_SUCCESS) {
            vd_trace(VD_TRACE_DISK, "closing layer %zu: error %u", i, error);
        }
        first = first != ERROR_SUCCESS ? first : error;
    }
    vd_posix_file_close(disk->lent);
    free(disk->layers);
    pthread_cond_destroy(&disk->flush.done);
    pthread_mutex_destroy(&disk->flush.lock);
    pthread_rwlock_destroy(&disk->mirror_lock);
    pthread_rwlock_destroy(&disk->gate);
    pthread_mutex_destroy(&disk->mutator);
    free(disk);
    return first;
}

void
vd_disk_close(struct vd_disk *disk)
{
    if (disk != NULL && vd_disk_finish(disk) != ERROR_SUCCESS) {
        vd_trace(VD_TRACE_DISK, "nobody is told of that");
    }
}

void
vd_disk_abandon(const struct vd_disk *disk)
{
    for (size_t i = 0; i < disk->layer_count; i++) {
        close(disk->layers[i].file->fd);
    }
    if (disk->lent != NULL) {
        close(disk->lent->fd);
    }
}

/* ---- opening by files ---- */

void
vd_disk_files_close(struct vd_disk_files *files)
{
    for (size_t i = 0; i < files->count; i++) {
        if (files->fds[i] >= 0) {
            close(files->fds[i]);
        }
    }
    free(files->fds);
    memset(files, 0, sizeof(*files));
}

/* The same inode with a new open file, whatever its path is by now. */
static vd_error
reopen(int fd, bool writable, int *fd_out)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int again = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    if (again < 0) {
        vd_trace(VD_TRACE_DISK, "opening the image again: %s",
                 strerror(errno));
        return vd_error_from_errno(errno);
    }
    *fd_out = again;
    return ERROR_SUCCESS;
}

vd_error
vd_disk_reopen_some(const struct vd_disk *disk, size_t layers,
                    const struct vd_layer_set *written,
                    struct vd_disk_files *out)
{
    struct vd_disk_files files = {
        .device_id = vd_disk_format(disk)->device_id,
        .fds = calloc(layers, sizeof(*files.fds)),
    };
    if (files.fds == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    for (size_t i = 0; i < layers; i++) {
        bool writable = written != NULL && written->has[i];
        vd_error error =
            reopen(disk->layers[i].file->fd, writable, &files.fds[i]);
        if (error != ERROR_SUCCESS) {
            vd_disk_files_close(&files);
            return error;
        }
        files.count++;
    }
    *out = files;
    return ERROR_SUCCESS;
}

vd_error
vd_disk_reopen(const struct vd_disk *disk, bool writable,
               struct vd_disk_files *out)
{
    struct vd_layer_set leaf = {.has = {writable}};
    return vd_disk_reopen_some(disk, disk->layer_count, &leaf, out);
}

/* One layer from its descriptor, which is the layer's on success only.
 * writable: the file is open for writing; change: it is going to be. */
static vd_error
push_file(struct vd_disk *disk, const struct vd_disk_files *files,
          size_t index, bool writable, bool change)
{
    VD_AUTO_CLOSE int fd = fcntl(files->fds[index], F_DUPFD_CLOEXEC, 0);
    struct vd_posix_file *file;
    struct vd_layer layer;
    if (fd < 0) {
        return vd_error_from_errno(errno);
    }
    vd_error error = vd_posix_file_adopt(fd, writable, &file);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    (void)vd_take_fd(&fd);
    error = vd_layer_open(file, files->device_id, change, &layer);
    if (error == ERROR_SUCCESS) {
        error = vd_layer_find_path(layer.file, NULL, &layer.path);
        if (error == ERROR_SUCCESS) {
            return vd_disk_push(disk, &layer);
        }
        (void)vd_layer_close(&layer);
    }
    return error;
}

/* The parent may have been changed since it was last looked at. */
static vd_error
check_parent(const struct vd_disk *disk, size_t parent)
{
    const struct vd_image *child = disk->layers[parent - 1].image;
    if (child->format->accept_parent == NULL) {
        return ERROR_VHD_INVALID_TYPE;
    }
    return child->format->accept_parent(child, disk->layers[parent].image);
}

static bool
is_open_for_writing(int fd)
{
    return (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR;
}

static vd_error
push_files(struct vd_disk *disk, const struct vd_disk_files *files)
{
    for (size_t i = 0; i < files->count; i++) {
        bool writable =
            disk->writable && (i == 0 || is_open_for_writing(files->fds[i]));
        vd_error error =
            push_file(disk, files, i, writable, writable && disk->live);
        if (error == ERROR_SUCCESS && i > 0) {
            error = check_parent(disk, i);
        }
        if (error != ERROR_SUCCESS) {
            return error;
        }
    }
    return ERROR_SUCCESS;
}

static vd_error
open_files(struct vd_disk_files *files, bool live, bool writable,
           struct vd_disk **out)
{
    struct vd_disk *disk = vd_disk_new();
    if (disk == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    disk->writable = writable;
    disk->live = live;
    vd_error error = push_files(disk, files);
    if (error != ERROR_SUCCESS) {
        vd_disk_close(disk);
        return error;
    }
    *out = disk;
    return ERROR_SUCCESS;
}

vd_error
vd_disk_open_files(struct vd_disk_files *files, bool writable,
                   struct vd_disk **out)
{
    struct vd_disk *disk;
    vd_error error = open_files(files, true, writable, &disk);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (!vd_disk_complete(disk)) {
        vd_disk_close(disk);
        return ERROR_VHD_PARENT_VHD_NOT_FOUND;
    }
    vd_disk_files_close(files);
    *out = disk;
    return ERROR_SUCCESS;
}

vd_error
vd_disk_open_first(struct vd_disk_files *files, struct vd_disk **out)
{
    vd_error error = open_files(files, true, true, out);
    if (error == ERROR_SUCCESS) {
        vd_disk_files_close(files);
    }
    return error;
}

static void
remove_files(struct vd_disk_files *files, const struct vd_chain_change *change)
{
    size_t end = change->kept + change->removed;
    for (size_t i = change->kept; i < end; i++) {
        close(files->fds[i]);
    }
    memmove(files->fds + change->kept, files->fds + end,
            (files->count - end) * sizeof(*files->fds));
    files->count -= change->removed;
}

vd_error
vd_disk_look_again(const struct vd_disk *disk,
                   const struct vd_chain_change *change, struct vd_disk **out)
{
    struct vd_disk_files files;
    vd_error error = vd_disk_reopen(disk, disk->writable, &files);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (change != NULL) {
        remove_files(&files, change);
    }
    error = open_files(&files, false, disk->writable, out);
    vd_disk_files_close(&files);
    if (error == ERROR_SUCCESS && change != NULL && change->search &&
        vd_disk_find_parents(*out, false) != ERROR_SUCCESS) {
        vd_trace(VD_TRACE_DISK, "seen without its parents from now on");
    }
    return error;
}

/* Through the very open file that holds the locks: one more of the same
 * process would not be told apart from another user's. */
static vd_error
own_file(const struct vd_disk *disk, int image_fd, struct vd_disk_files *out)
{
    struct vd_disk_files files = {
        .device_id = vd_disk_format(disk)->device_id,
        .count = 1,
        .fds = malloc(sizeof(*files.fds)),
    };
    if (files.fds == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    files.fds[0] = fcntl(image_fd, F_DUPFD_CLOEXEC, 0);
    if (files.fds[0] < 0) {
        vd_error error = vd_error_from_errno(errno);
        free(files.fds);
        return error;
    }
    *out = files;
    return ERROR_SUCCESS;
}

vd_error
vd_disk_prepare_direct(const struct vd_disk *disk, int image_fd)
{
    struct vd_disk_files files = {0};
    struct vd_disk *live;
    vd_error error = own_file(disk, image_fd, &files);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = vd_disk_open_files(&files, true, &live);
    if (error != ERROR_SUCCESS) {
        vd_disk_files_close(&files);
        return error;
    }
    struct vd_image *image = vd_disk_leaf(live);
    if (image->format->begin != NULL) {
        error = image->format->begin(image, VD_CHANGE_CONTENT);
    }
    vd_error closed = vd_disk_finish(live);
    return error != ERROR_SUCCESS ? error : closed;
}

/* ---- what it is ---- */

const char *
vd_disk_path(const struct vd_disk *disk)
{
    return disk->layers[0].path;
}

int
vd_disk_fd(const struct vd_disk *disk)
{
    return disk->layers[0].file->fd;
}

struct vd_file_id
vd_disk_file_id(const struct vd_disk *disk)
{
    return vd_layer_file_id(&disk->layers[0]);
}

bool
vd_disk_writable(const struct vd_disk *disk)
{
    return disk->writable;
}

const struct vd_format *
vd_disk_format(const struct vd_disk *disk)
{
    return vd_disk_leaf(disk)->format;
}

const struct vd_image_info *
vd_disk_info(const struct vd_disk *disk)
{
    return &vd_disk_leaf(disk)->info;
}

uint64_t
vd_disk_size_bytes(const struct vd_disk *disk)
{
    return vd_disk_info(disk)->size_bytes;
}

uint32_t
vd_disk_sector_size(const struct vd_disk *disk)
{
    return vd_disk_info(disk)->sector_size;
}

uint32_t
vd_disk_physical_sector_size(const struct vd_disk *disk)
{
    return vd_disk_info(disk)->physical_sector_size;
}

bool
vd_disk_optical(const struct vd_disk *disk)
{
    return vd_disk_info(disk)->optical;
}

size_t
vd_disk_layers(const struct vd_disk *disk)
{
    return disk->layer_count;
}

const char *
vd_disk_layer_path(const struct vd_disk *disk, size_t layer)
{
    return disk->layers[layer].path;
}

bool
vd_disk_complete(const struct vd_disk *disk)
{
    return !vd_disk_wants_parent(disk);
}

vd_error
vd_disk_file_size(const struct vd_disk *disk, uint64_t *size_out)
{
    return vd_file_size(&disk->layers[0].file->file, size_out);
}

/* Only a fixed image or a disc can be one run, and only they are asked: the
 * answer for a large dynamic one would be long in coming. */
vd_error
vd_disk_contiguous(struct vd_disk *disk, bool *contiguous,
                   uint64_t *file_offset_out)
{
    struct vd_image *image = vd_disk_leaf(disk);
    uint64_t size = image->info.size_bytes;
    struct vd_extent extent;
    if (image->info.subtype != VD_SUBTYPE_FIXED && !image->info.optical) {
        *contiguous = false;
        return ERROR_SUCCESS;
    }
    vd_error error = image->format->lookup(image, 0, size, &extent);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    *contiguous = extent.state == VD_EXTENT_PRESENT && extent.length == size;
    if (*contiguous) {
        *file_offset_out = extent.file_offset;
    }
    return ERROR_SUCCESS;
}
