/*
 * What is attached, whoever did it, and detaching it.
 */
#include "attach/attach.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "attach/attachment.h"
#include "attach/detach.h"
#include "attach/held.h"
#include "attach/paths.h"
#include "attach/registry.h"
#include "attach/upkeep.h"
#include "base/cleanup.h"
#include "base/trace.h"

/* The registries that this user sees: his own and root's. */
struct registries {
    char *paths[2];
    size_t count;
};

static void
free_registries(struct registries *registries)
{
    for (size_t i = 0; i < registries->count; i++) {
        free(registries->paths[i]);
    }
}

static vd_error
find_registries(struct registries *registries)
{
    *registries = (struct registries){.count = 0};
    vd_error error = vd_registry_path(&registries->paths[0]);
    if (error == ERROR_SUCCESS) {
        registries->count = 1;
    }
    else if (error != ERROR_NOT_FOUND) {
        return error;
    }
    if (geteuid() == 0) {
        return ERROR_SUCCESS;
    }
    char *path = strdup(VD_PATH_RECORDS);
    if (path == NULL) {
        free_registries(registries);
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    registries->paths[registries->count++] = path;
    return ERROR_SUCCESS;
}

/* Sweeps where it may; reads anyway where it may not. */
static vd_error
read_directory(int dir, struct vd_record **records, size_t *count)
{
    struct stat status;
    VD_AUTO_CLOSE int lock = -1;
    bool sweep = fstat(dir, &status) == 0 && status.st_uid == geteuid() &&
                 vd_registry_lock(dir, &lock) == ERROR_SUCCESS;
    return vd_registry_read(dir, sweep, records, count);
}

/* -- looking -- */

void
vd_attached_free(struct vd_attached *attached)
{
    free(attached->image_path);
    free(attached->device);
    *attached = (struct vd_attached){.image_path = NULL};
}

static vd_error
describe(const struct vd_record *record, struct vd_attached *out)
{
    VD_AUTO_FREE char *image_path = strdup(record->image_path);
    VD_AUTO_FREE char *device = NULL;
    vd_error error = vd_record_location(record, &device);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (image_path == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    *out = (struct vd_attached){
        .image_path = VD_TAKE(image_path),
        .device = VD_TAKE(device),
        .file_id = record->file_id,
        .read_only = record->read_only,
        .permanent = record->permanent,
    };
    return ERROR_SUCCESS;
}

static void
free_all(struct vd_attached *all, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        vd_attached_free(&all[i]);
    }
    free(all);
}

static vd_error
append(const struct vd_record *records, size_t count, struct vd_attached **all,
       size_t *total)
{
    struct vd_attached *larger =
        reallocarray(*all, *total + count + 1, sizeof(*larger));
    if (larger == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    *all = larger;
    for (size_t i = 0; i < count; i++) {
        vd_error error = describe(&records[i], &larger[*total]);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        *total += 1;
    }
    return ERROR_SUCCESS;
}

static vd_error
append_registry(const char *path, struct vd_attached **all, size_t *total)
{
    VD_AUTO_CLOSE int dir = -1;
    struct vd_record *records = NULL;
    size_t count = 0;
    vd_error error = vd_registry_open(path, false, &dir);
    if (error == ERROR_NOT_FOUND) {
        return ERROR_SUCCESS;
    }
    if (error == ERROR_SUCCESS) {
        error = read_directory(dir, &records, &count);
    }
    if (error == ERROR_SUCCESS) {
        error = append(records, count, all, total);
        vd_registry_free(records, count);
    }
    return error;
}

static vd_error
list(struct vd_attached **out, size_t *count_out)
{
    struct registries registries;
    struct vd_attached *all = NULL;
    size_t total = 0;
    vd_error error = find_registries(&registries);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    for (size_t i = 0; i < registries.count && error == ERROR_SUCCESS; i++) {
        error = append_registry(registries.paths[i], &all, &total);
    }
    free_registries(&registries);
    if (error != ERROR_SUCCESS) {
        free_all(all, total);
        return error;
    }
    *out = all;
    *count_out = total;
    return ERROR_SUCCESS;
}

vd_error
vd_attached_list(struct vd_attached **out, size_t *count_out)
{
    vd_error error = vd_held_enter();
    if (error == ERROR_SUCCESS) {
        error = list(out, count_out);
        vd_held_leave();
    }
    return error;
}

static bool
same_file(struct vd_file_id a, struct vd_file_id b)
{
    return a.device == b.device && a.inode == b.inode;
}

vd_error
vd_attached_find(struct vd_file_id file_id, struct vd_attached *out)
{
    struct vd_attached *all = NULL;
    size_t count = 0;
    vd_error error = vd_attached_list(&all, &count);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = ERROR_NOT_FOUND;
    for (size_t i = 0; i < count && error != ERROR_SUCCESS; i++) {
        if (same_file(all[i].file_id, file_id)) {
            *out = all[i];
            all[i] = (struct vd_attached){.image_path = NULL};
            error = ERROR_SUCCESS;
        }
    }
    free_all(all, count);
    return error;
}

/* -- finding -- */

/* The entry of an image; ERROR_NOT_FOUND. */
static vd_error
find_entry(int dir, struct vd_file_id file_id, struct vd_entry *out)
{
    struct vd_record *records = NULL;
    size_t count = 0;
    vd_error error = read_directory(dir, &records, &count);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = ERROR_NOT_FOUND;
    for (size_t i = 0; i < count; i++) {
        if (same_file(records[i].file_id, file_id)) {
            error = vd_registry_find(dir, records[i].name, out);
            break;
        }
    }
    vd_registry_free(records, count);
    return error;
}

static vd_error
open_entry_in(const char *path, struct vd_file_id file_id, int *dir_out,
              struct vd_entry *out)
{
    VD_AUTO_CLOSE int dir = -1;
    vd_error error = vd_registry_open(path, false, &dir);
    if (error == ERROR_SUCCESS) {
        error = find_entry(dir, file_id, out);
    }
    if (error == ERROR_SUCCESS) {
        *dir_out = vd_take_fd(&dir);
    }
    return error;
}

vd_error
vd_attached_open_entry(struct vd_file_id file_id, int *dir_out,
                       struct vd_entry *out)
{
    struct registries registries;
    vd_error error = find_registries(&registries);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = ERROR_NOT_FOUND;
    for (size_t i = 0; i < registries.count && error == ERROR_NOT_FOUND; i++) {
        error = open_entry_in(registries.paths[i], file_id, dir_out, out);
    }
    free_registries(&registries);
    return error;
}

/* -- detaching -- */

static vd_error
detach_file(struct vd_file_id file_id)
{
    VD_AUTO_CLOSE int dir = -1;
    struct vd_entry entry;
    vd_error error = vd_attached_open_entry(file_id, &dir, &entry);
    if (error != ERROR_SUCCESS) {
        return error == ERROR_NOT_FOUND ? ERROR_NOT_READY : error;
    }
    error = vd_detach_entry(dir, &entry);
    vd_entry_close(&entry);
    return error;
}

vd_error
vd_attached_detach(struct vd_file_id file_id)
{
    vd_error error = vd_held_enter();
    if (error == ERROR_SUCCESS) {
        error = detach_file(file_id);
        vd_held_leave();
    }
    return error;
}

/* -- detaching, by its owner -- */

/* Whether an entry tells of this attachment and not of a later one. */
static bool
is_of(int dir, const struct vd_entry *entry,
      const struct vd_attachment *attachment)
{
    bool detaching;
    if (!attachment->record.permanent) {
        return vd_registry_current(dir, attachment->record.name,
                                   attachment->record_fd, &detaching);
    }
    return same_file(entry->record.file_id, attachment->record.file_id) &&
           entry->record.loop.sequence == attachment->record.loop.sequence &&
           entry->record.shown.mark == attachment->record.shown.mark;
}

/* Nobody knows of it but its owner. */
static vd_error
detach_unrecorded(struct vd_attachment *attachment)
{
    struct vd_detach target = {
        .dir = -1,
        .record = &attachment->record,
        .record_fd = -1,
        .own = attachment,
    };
    if (vd_attachment_gone(attachment)) {
        return ERROR_NOT_READY;
    }
    return vd_detach(&target);
}

static vd_error
detach_recorded(struct vd_attachment *attachment)
{
    VD_AUTO_CLOSE int dir = -1;
    struct vd_entry entry;
    vd_error error = vd_registry_open(attachment->registry, false, &dir);
    if (error == ERROR_SUCCESS) {
        error = vd_registry_find(dir, attachment->record.name, &entry);
    }
    if (error == ERROR_NOT_FOUND || error == ERROR_INVALID_DATA) {
        return detach_unrecorded(attachment);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = is_of(dir, &entry, attachment) ? vd_detach_entry(dir, &entry)
                                           : ERROR_NOT_READY;
    vd_entry_close(&entry);
    return error;
}

/* As a device is flushed before it goes: what cannot be brought to the image
 * is told, and the disk stays. */
static vd_error
flush_live(const struct vd_attachment *attachment)
{
    return attachment->live != NULL ? vd_live_flush(attachment->live)
                                    : ERROR_SUCCESS;
}

vd_error
vd_attachment_detach(struct vd_attachment *attachment)
{
    vd_error error = flush_live(attachment);
    if (error == ERROR_SUCCESS) {
        error = vd_held_enter();
    }
    if (error == ERROR_SUCCESS) {
        error = attachment->registry == NULL ? detach_unrecorded(attachment)
                                             : detach_recorded(attachment);
        vd_held_leave();
    }
    return error;
}
