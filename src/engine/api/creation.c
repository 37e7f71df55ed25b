/*
 * A disk that is being created.  See creation.h.
 *
 * The handle is there before the work is done, so that an asynchronous call
 * can return it: until then it looks at the image without a name.
 */
#include "api/creation.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "api/look.h"
#include "api/refuse.h"
#include "attach/held.h"
#include "attach/locked_files.h"
#include "base/cleanup.h"
#include "base/posix_file.h"
#include "disk/copy.h"
#include "disk/create.h"
#include "disk/new_file.h"
#include "disk/resize.h"
#include "disk/source.h"

struct vd_creation *
vd_creation_new(void)
{
    struct vd_creation *creation = calloc(1, sizeof(*creation));
    if (creation != NULL) {
        creation->file = (struct vd_new_file){.directory = -1, .fd = -1};
        creation->source.fd = -1;
    }
    return creation;
}

void
vd_creation_end(struct vd_creation *creation)
{
    if (creation == NULL) {
        return;
    }
    vd_source_close(&creation->source);
    vd_disk_close(creation->parent);
    vd_new_file_close(&creation->file);
    free(creation);
}

void
vd_creation_abandon(const struct vd_creation *creation)
{
    vd_source_abandon(&creation->source);
    if (creation->parent != NULL) {
        vd_disk_abandon(creation->parent);
    }
    if (creation->file.fd >= 0) {
        close(creation->file.fd);
        close(creation->file.directory);
    }
}

/* ---- parent and source ---- */

/* A disk to be read, with all its parents, under locks. */
static vd_error
open_disk(const char *path, uint32_t device_id, struct vd_disk **out)
{
    struct vd_disk_options options = {.device_id = device_id};
    struct vd_disk_files files;
    struct vd_disk *view;
    vd_error error = vd_look_open(path, &options, &view);
    if (error) {
        return error;
    }
    error = vd_locked_files_share(view, &files);
    vd_disk_close(view);
    if (error) {
        return error;
    }
    error = vd_disk_open_files(&files, false, out);
    if (error) {
        vd_disk_files_close(&files);
    }
    return error;
}

static bool
has_raw_name(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot != NULL &&
           (strcasecmp(dot, ".img") == 0 || strcasecmp(dot, ".raw") == 0);
}

/* A disc image is raw, whatever is on it. */
static vd_error
probe_both(struct vd_file *file, bool *recognised)
{
    static const uint32_t device_ids[] = {VD_DEVICE_VHD, VD_DEVICE_VHDX};
    *recognised = false;
    for (size_t i = 0; i < 2 && !*recognised; i++) {
        const struct vd_format *format;
        vd_error error = vd_format_find(NULL, device_ids[i], &format);
        if (!error) {
            error = format->probe(file, recognised);
        }
        if (error) {
            return error;
        }
    }
    return ERROR_SUCCESS;
}

/*
 * Whoever writes a raw disk, a virtual machine say, could make it look like
 * an image that refers to others.  So the name decides, and where it is
 * contradicted by the content the caller has to name the type.
 */
static vd_error
check_raw(const char *path)
{
    bool recognised = false;
    struct vd_posix_file *file;
    vd_error error = vd_posix_file_open(AT_FDCWD, path, false, &file);
    if (error) {
        return error;
    }
    error = probe_both(&file->file, &recognised);
    vd_posix_file_close(file);
    if (!error && recognised) {
        return vd_refuse(ERROR_VIRTDISK_PROVIDER_NOT_FOUND,
                         "%s: raw by its name, an image by its content", path);
    }
    return error;
}

static vd_error
open_source(const struct vd_creation_plan *plan, struct vd_source *out)
{
    const char *path = plan->source_path;
    if (plan->source_device_id == VD_DEVICE_UNKNOWN) {
        if (vd_source_is_device(path)) {
            return vd_source_open_raw(path, plan->exclusive_source, out);
        }
        if (has_raw_name(path)) {
            vd_error error = check_raw(path);
            return error ? error : vd_source_open_raw(path, false, out);
        }
    }
    struct vd_disk *disk;
    vd_error error = open_disk(path, plan->source_device_id, &disk);
    if (!error) {
        vd_source_of_disk(disk, out);
    }
    return error;
}

/* ---- what the image is to be ---- */

/* Sectors of the source where the caller does not say: who uses the disk
 * counts in them.  A disc is counted in its own on any disk. */
static vd_error
choose_sectors(const struct vd_source *source, uint32_t device_id,
               struct vd_create_request *request)
{
    if (request->sector_size != 0 || source->sector_size != 4096) {
        return ERROR_SUCCESS;
    }
    if (device_id != VD_DEVICE_VHDX) {
        return vd_refuse(ERROR_VIRTDISK_UNSUPPORTED_DISK_SECTOR_SIZE,
                         "the source has sectors of 4096 bytes");
    }
    request->sector_size = source->sector_size;
    return ERROR_SUCCESS;
}

static vd_error
choose_size(const struct vd_source *source, struct vd_create_request *request)
{
    uint64_t sector = request->sector_size != 0 ? request->sector_size : 512;
    if (request->size_bytes == 0) {
        request->size_bytes =
            (source->size_bytes + sector - 1) / sector * sector;
        /* Inferred: no argument is wrong. */
        if (request->size_bytes < VD_DISK_SIZE_MIN) {
            return vd_refuse(ERROR_VHD_INVALID_SIZE,
                             "the source has less than 3 MiB");
        }
    }
    if (request->size_bytes < source->size_bytes) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "MaximumSize is less than the source's size");
    }
    return ERROR_SUCCESS;
}

static vd_error
choose(const struct vd_creation *creation, const struct vd_creation_plan *plan,
       struct vd_create_request *request)
{
    vd_error error = ERROR_SUCCESS;
    if (creation->has_source) {
        error = choose_sectors(&creation->source, plan->device_id, request);
        if (!error) {
            error = choose_size(&creation->source, request);
        }
    }
    if (!error) {
        error = vd_create_prepare(creation->format, &creation->file,
                                  creation->parent, 0, request);
    }
    /* The code for an image that has one; an argument is a parameter. */
    return error == ERROR_VHD_INVALID_BLOCK_SIZE ? ERROR_INVALID_PARAMETER
                                                 : error;
}

static vd_error
make_image(struct vd_creation *creation, const struct vd_creation_plan *plan)
{
    struct vd_create_request request = plan->request;
    vd_error error = choose(creation, plan, &request);
    if (error) {
        return error;
    }
    error = vd_create_write(&creation->file, creation->format,
                            creation->sparse, &request);
    vd_create_clear(&request);
    return error;
}

/* Whoever may not use the image must not see it grow either. */
static vd_error
open_file(const struct vd_creation_plan *plan, struct vd_new_file *file)
{
    const struct vd_node_access *access = &plan->access;
    vd_error error = vd_new_file_open(plan->path, file);
    return error || !access->set
               ? error
               : vd_new_file_set_access(file, access->uid, access->gid,
                                        access->mode);
}

static vd_error
open_all(struct vd_creation *creation, const struct vd_creation_plan *plan)
{
    vd_error error = vd_create_format(plan->device_id, &creation->format);
    if (!error) {
        error = open_file(plan, &creation->file);
    }
    if (!error && plan->parent_path != NULL) {
        error = open_disk(plan->parent_path, plan->parent_device_id,
                          &creation->parent);
        creation->chain = creation->parent;
    }
    if (!error && plan->source_path != NULL) {
        error = open_source(plan, &creation->source);
        creation->has_source = !error;
    }
    return error ? error : make_image(creation, plan);
}

/* ---- the handle's look ---- */

/* The parents are those that were named, wherever a search would lead. */
static vd_error
add_parents(const struct vd_creation *creation, struct vd_disk *disk)
{
    vd_error error = ERROR_SUCCESS;
    if (creation->chain == NULL || creation->no_parents) {
        return ERROR_SUCCESS;
    }
    size_t layers = vd_disk_layers(creation->chain);
    for (size_t i = creation->first; i < layers && !error; i++) {
        error =
            vd_disk_add_parent(disk, vd_disk_layer_path(creation->chain, i));
    }
    return error;
}

static vd_error
look_at(const struct vd_creation *creation, const char *path,
        struct vd_disk **out)
{
    struct vd_disk *disk;
    struct vd_disk_options options = {
        .device_id = creation->format->device_id,
        .writable = creation->writable,
        .no_parents = true,
    };
    vd_error error = vd_disk_open(path, &options, &disk);
    if (error) {
        return error;
    }
    error = add_parents(creation, disk);
    if (error) {
        vd_disk_close(disk);
        return error;
    }
    *out = disk;
    return ERROR_SUCCESS;
}

static vd_error
look_at_unnamed(const struct vd_creation *creation, struct vd_disk **out)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", creation->file.fd);
    return look_at(creation, path, out);
}

vd_error
vd_creation_look(const struct vd_creation *creation, struct vd_disk **out)
{
    VD_AUTO_FREE char *path = NULL;
    if (asprintf(&path, "/proc/self/fd/%d/%s", creation->file.directory,
                 creation->file.name) < 0) {
        path = NULL;
        return vd_refuse(ERROR_NOT_ENOUGH_MEMORY, "no memory for a path");
    }
    return look_at(creation, path, out);
}

/* ---- beginning ---- */

static vd_error
make_handle(struct vd_creation *creation, const struct vd_creation_plan *plan,
            HANDLE *out)
{
    struct vd_disk *disk;
    vd_error error = look_at_unnamed(creation, &disk);
    if (error) {
        return error;
    }
    error = vd_virtual_disk_create(disk, plan->rights, plan->options, out);
    if (error) {
        vd_disk_close(disk);
    }
    return error;
}

static vd_error
attach_to_handle(struct vd_creation *creation, HANDLE handle)
{
    struct vd_virtual_disk *virtual_disk;
    vd_error error = vd_virtual_disk_acquire(handle, &virtual_disk);
    if (!error) {
        virtual_disk->creation = creation;
        vd_virtual_disk_release(virtual_disk);
    }
    return error;
}

static vd_error
begin(const struct vd_creation_plan *plan, HANDLE *out)
{
    struct vd_creation *creation = vd_creation_new();
    if (creation == NULL) {
        return vd_refuse(ERROR_NOT_ENOUGH_MEMORY, "no memory to create with");
    }
    creation->sparse = plan->sparse;
    creation->copy_metadata = plan->copy_metadata;
    creation->writable = plan->writable;
    creation->no_parents = plan->no_parents;
    vd_error error = open_all(creation, plan);
    if (!error) {
        error = make_handle(creation, plan, out);
    }
    if (!error) {
        error = attach_to_handle(creation, *out);
    }
    if (error) {
        vd_creation_end(creation);
    }
    return error;
}

vd_error
vd_creation_begin(const struct vd_creation_plan *plan, HANDLE *out)
{
    vd_error error = vd_handle_prepare();
    if (!error) {
        error = vd_held_enter();
    }
    if (error) {
        return error;
    }
    error = begin(plan, out);
    vd_held_leave();
    return error;
}

/* ---- the work ---- */

static vd_error
open_target(struct vd_virtual_disk *virtual_disk)
{
    const struct vd_creation *creation = virtual_disk->creation;
    vd_error error = vd_held_enter();
    if (error) {
        return error;
    }
    error = vd_create_fill(&creation->file, creation->format, creation->sparse,
                           &virtual_disk->working);
    vd_held_leave();
    return error;
}

static vd_error
close_target(struct vd_virtual_disk *virtual_disk)
{
    vd_error error = vd_held_enter();
    vd_error finished = vd_disk_finish(VD_TAKE(virtual_disk->working));
    if (!error) {
        vd_held_leave();
    }
    return finished;
}

static vd_error
fill(struct vd_virtual_disk *virtual_disk, struct vd_progress *progress)
{
    const struct vd_creation *creation = virtual_disk->creation;
    bool metadata = creation->parent != NULL && creation->copy_metadata;
    if (!creation->has_source && !metadata) {
        return vd_progress_check(progress);
    }
    vd_error error = open_target(virtual_disk);
    if (error) {
        return error;
    }
    if (creation->has_source) {
        error = vd_copy(&creation->source, virtual_disk->working, progress);
    }
    else {
        error =
            vd_create_copy_metadata(creation->parent, virtual_disk->working);
    }
    vd_error closed = close_target(virtual_disk);
    return error ? error : closed;
}

static vd_error
publish(struct vd_creation *creation, struct vd_progress *progress)
{
    vd_error error = vd_progress_check(progress);
    return error ? error : vd_new_file_publish(&creation->file);
}

/* The handle's look is from here on one at the image under its name. */
static vd_error
look_at_result(struct vd_virtual_disk *virtual_disk)
{
    struct vd_creation *creation = virtual_disk->creation;
    struct vd_disk *now;
    vd_error error = vd_held_enter();
    if (error) {
        return error;
    }
    error = vd_creation_look(creation, &now);
    if (!error) {
        struct vd_disk *before = virtual_disk->disk;
        virtual_disk->disk = now;
        vd_disk_close(before);
    }
    vd_held_leave();
    return error;
}

static vd_error
create(struct vd_virtual_disk *virtual_disk, struct vd_progress *progress)
{
    struct vd_creation *creation = virtual_disk->creation;
    vd_error error = fill(virtual_disk, progress);
    if (!error) {
        error = publish(creation, progress);
    }
    if (error) {
        return error;
    }
    pthread_rwlock_wrlock(&virtual_disk->disk_lock);
    error = look_at_result(virtual_disk);
    pthread_rwlock_unlock(&virtual_disk->disk_lock);
    if (error) {
        vd_new_file_withdraw(&creation->file);
    }
    return error;
}

static void
finish(struct vd_virtual_disk *virtual_disk, bool stillborn)
{
    vd_error error = vd_held_enter();
    vd_creation_end(VD_TAKE(virtual_disk->creation));
    if (!error) {
        vd_held_leave();
    }
    VD_SCOPED_LOCK(&virtual_disk->operation_lock);
    virtual_disk->stillborn = stillborn;
}

vd_error
vd_creation_run(struct vd_virtual_disk *virtual_disk, const void *arguments,
                struct vd_progress *progress)
{
    (void)arguments; /* all is in the handle's creation */
    vd_error error = create(virtual_disk, progress);
    finish(virtual_disk, error != ERROR_SUCCESS);
    return error;
}
