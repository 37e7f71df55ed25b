/*
 * The object behind a virtual disk handle: made by OpenVirtualDisk, ended by
 * the last CloseHandle, which also ends an attachment that is not permanent.
 */
#include "api/virtual_disk.h"

#include <stdlib.h>
#include <string.h>

#include "api/creation.h"
#include "api/operation.h"
#include "api/refuse.h"
#include "base/cleanup.h"

static void
destroy(struct vd_object *object)
{
    struct vd_virtual_disk *virtual_disk = (struct vd_virtual_disk *)object;
    vd_virtual_disk_drop_attachment(virtual_disk);
    vd_creation_end(virtual_disk->creation);
    vd_disk_close(virtual_disk->disk);
    vd_operation_release(virtual_disk->operation);
    pthread_cond_destroy(&virtual_disk->news);
    pthread_mutex_destroy(&virtual_disk->operation_lock);
    pthread_mutex_destroy(&virtual_disk->lock);
    pthread_rwlock_destroy(&virtual_disk->disk_lock);
    free(virtual_disk);
}

void
vd_virtual_disk_tell(struct vd_virtual_disk *virtual_disk)
{
    VD_SCOPED_LOCK(&virtual_disk->operation_lock);
    pthread_cond_broadcast(&virtual_disk->news);
}

/* A mirror ends when it is told to, and nobody could tell it any more. */
static void
close_virtual_disk(struct vd_object *object)
{
    struct vd_virtual_disk *virtual_disk = (struct vd_virtual_disk *)object;
    struct vd_operation *operation = vd_operation_find(virtual_disk, NULL);
    if (operation != NULL && vd_operation_in_background(operation)) {
        (void)vd_operation_cancel(operation);
    }
    vd_operation_release(operation);
}

/* The attachments are attach/'s own to abandon. */
static void
abandon(const struct vd_object *object)
{
    const struct vd_virtual_disk *virtual_disk =
        (const struct vd_virtual_disk *)object;
    vd_disk_abandon(virtual_disk->disk);
    if (virtual_disk->working != NULL) {
        vd_disk_abandon(virtual_disk->working);
    }
    if (virtual_disk->mirror_target != NULL) {
        vd_disk_abandon(virtual_disk->mirror_target);
    }
    if (virtual_disk->creation != NULL) {
        vd_creation_abandon(virtual_disk->creation);
    }
}

static const struct vd_object_type virtual_disk_type = {
    .destroy = destroy,
    .close = close_virtual_disk,
    .abandon = abandon,
};

vd_error
vd_virtual_disk_create(struct vd_disk *disk, struct vd_rights rights,
                       struct vd_open_options options, HANDLE *out)
{
    VD_AUTO_FREE struct vd_virtual_disk *virtual_disk =
        calloc(1, sizeof(*virtual_disk));
    if (virtual_disk == NULL) {
        return vd_refuse(ERROR_NOT_ENOUGH_MEMORY, "no memory for a handle");
    }
    virtual_disk->disk = disk;
    virtual_disk->rights = rights;
    virtual_disk->file_id = vd_disk_file_id(disk);
    virtual_disk->options = options;
    /* With default attributes these cannot fail on Linux. */
    pthread_rwlock_init(&virtual_disk->disk_lock, NULL);
    pthread_mutex_init(&virtual_disk->lock, NULL);
    pthread_mutex_init(&virtual_disk->operation_lock, NULL);
    pthread_cond_init(&virtual_disk->news, NULL);
    vd_error error =
        vd_handle_create(&virtual_disk_type, &virtual_disk->object, out);
    if (error) {
        return error;
    }
    (void)VD_TAKE(virtual_disk);
    return ERROR_SUCCESS;
}

vd_error
vd_virtual_disk_acquire(HANDLE handle, struct vd_virtual_disk **out)
{
    struct vd_object *object;
    vd_error error = vd_handle_acquire(handle, &object);
    if (error) {
        return error;
    }
    if (object->type != &virtual_disk_type) {
        vd_object_release(object);
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "handle %p is not a virtual disk", handle);
    }
    *out = (struct vd_virtual_disk *)object;
    return ERROR_SUCCESS;
}

void
vd_virtual_disk_release(struct vd_virtual_disk *virtual_disk)
{
    vd_object_release(&virtual_disk->object);
}

void
vd_virtual_disk_drop_attachment(struct vd_virtual_disk *virtual_disk)
{
    vd_attachment_release(virtual_disk->attachment);
    virtual_disk->attachment = NULL;
}

struct vd_attachment *
vd_virtual_disk_attachment(struct vd_virtual_disk *virtual_disk)
{
    if (virtual_disk->attachment != NULL &&
        vd_attachment_gone(virtual_disk->attachment)) {
        vd_virtual_disk_drop_attachment(virtual_disk);
    }
    return virtual_disk->attachment;
}

vd_error
vd_virtual_disk_enter(struct vd_virtual_disk *virtual_disk,
                      struct vd_live **out)
{
    VD_SCOPED_LOCK(&virtual_disk->lock);
    struct vd_attachment *attachment =
        vd_virtual_disk_attachment(virtual_disk);
    if (attachment == NULL) {
        return vd_refuse(ERROR_NOT_READY, "not attached through this handle");
    }
    struct vd_live *live = vd_attachment_live(attachment);
    if (live == NULL) {
        return vd_refuse(ERROR_NOT_SUPPORTED,
                         "attached as %s: use that, or attach NO_LOCAL_HOST",
                         vd_attachment_device(attachment));
    }
    vd_error error = vd_live_enter(live);
    if (!error) {
        *out = live;
    }
    return error;
}

static vd_error
copy_device(const char *device, char **out)
{
    char *copy = NULL;
    if (device != NULL) {
        copy = strdup(device);
        if (copy == NULL) {
            return vd_refuse(ERROR_NOT_ENOUGH_MEMORY, "no memory for a path");
        }
    }
    *out = copy;
    return ERROR_SUCCESS;
}

static vd_error
locate_elsewhere(const struct vd_virtual_disk *virtual_disk,
                 bool *attached_out, char **device_out)
{
    struct vd_attached attached;
    vd_error error = vd_attached_find(virtual_disk->file_id, &attached);
    if (error == ERROR_NOT_FOUND) {
        *attached_out = false;
        *device_out = NULL;
        return ERROR_SUCCESS;
    }
    if (error) {
        return error;
    }
    *attached_out = true;
    *device_out = VD_TAKE(attached.device);
    vd_attached_free(&attached);
    return ERROR_SUCCESS;
}

static vd_error
locate(struct vd_virtual_disk *virtual_disk, bool *attached_out,
       char **device_out)
{
    VD_SCOPED_LOCK(&virtual_disk->lock);
    struct vd_attachment *attachment =
        vd_virtual_disk_attachment(virtual_disk);
    if (attachment == NULL) {
        return locate_elsewhere(virtual_disk, attached_out, device_out);
    }
    vd_error error = copy_device(vd_attachment_device(attachment), device_out);
    if (!error) {
        *attached_out = true;
    }
    return error;
}

vd_error
vd_virtual_disk_locate(struct vd_virtual_disk *virtual_disk,
                       bool *attached_out, char **device_out)
{
    VD_AUTO_FREE char *device = NULL;
    vd_error error = locate(virtual_disk, attached_out, &device);
    if (!error && device_out != NULL) {
        *device_out = VD_TAKE(device);
    }
    return error;
}

vd_error
vd_virtual_disk_open_image(struct vd_virtual_disk *virtual_disk, int *fd_out)
{
    struct vd_layer_set leaf = {.has = {true}};
    struct vd_disk_files files;
    pthread_rwlock_rdlock(&virtual_disk->disk_lock);
    vd_error error = vd_disk_reopen_some(virtual_disk->disk, 1, &leaf, &files);
    pthread_rwlock_unlock(&virtual_disk->disk_lock);
    if (!error) {
        *fd_out = vd_take_fd(&files.fds[0]);
        vd_disk_files_close(&files);
    }
    return error;
}
