/*
 * Attaching and releasing: the life of an attachment in the process that
 * made it.  How it ends from elsewhere is in detach.c, what others see of it
 * in attached.c.
 *
 * The image is opened once more for the attachment (the same inode, through
 * /proc/self/fd): that open file carries the locks and is what the loop
 * driver or the disk server keeps, so they live exactly as long as the device,
 * and neither the caller's own descriptor nor a forked child's copy of it
 * prolongs them.
 *
 * Everything is set up with autoclear on and the device opened exclusively.
 * A permanent attachment loses autoclear in the last step, so whoever is
 * killed in between leaves no device behind.
 */
#include "attach/attach.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "attach/attachment.h"
#include "attach/closing.h"
#include "attach/held.h"
#include "attach/partitions.h"
#include "attach/paths.h"
#include "attach/registry.h"
#include "attach/surface.h"
#include "attach/text.h"
#include "attach/udev.h"
#include "attach/upkeep_socket.h"
#include "attach/wait.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/trace.h"
#include "disk/image_lock.h"

#define RELEASE_LIMIT_MS 1000

#define LEAVING_LIMIT_MS 100

/* An attachment that is being made, and the descriptors needed only for
 * that. */
struct building {
    struct vd_disk *disk;
    const struct vd_attach_request *request;
    struct vd_attachment *attachment;
    int dir;      /* of the registry, -1: none; locked */
    int claim;    /* the device, exclusively; -1: none */
    int listener; /* for a server's upkeep, without its name; -1: none */
};

/* -- preparation -- */

static vd_error
check_request(const struct vd_disk *disk,
              const struct vd_attach_request *request)
{
    uint64_t sector_size = vd_disk_sector_size(disk);
    if (request->window_length == 0 ||
        request->window_offset % sector_size != 0 ||
        request->window_length % sector_size != 0 ||
        !vd_range_within(request->window_offset, request->window_length,
                         vd_disk_size_bytes(disk))) {
        vd_trace(VD_TRACE_ATTACH, "window not on sectors or not in the disk");
        return ERROR_INVALID_PARAMETER;
    }
    if (request->permanent && !request->local) {
        vd_trace(VD_TRACE_ATTACH, "nothing is left of a handle for ever");
        return ERROR_NOT_SUPPORTED;
    }
    if (!vd_request_is_read_only(disk, request) && !vd_disk_writable(disk)) {
        vd_trace(VD_TRACE_ATTACH, "the image is not open for writing");
        return ERROR_ACCESS_DENIED;
    }
    return ERROR_SUCCESS;
}

static void
free_attachment(struct vd_attachment *attachment)
{
    free(attachment->registry);
    free(attachment->device);
    vd_live_free(attachment->live);
    vd_record_clear(&attachment->record);
    free(attachment);
}

static vd_error
new_attachment(const struct vd_disk *disk,
               const struct vd_attach_request *request,
               struct vd_attachment **out)
{
    struct vd_attachment *attachment = calloc(1, sizeof(*attachment));
    char *image_path = strdup(vd_disk_path(disk));
    if (attachment == NULL || image_path == NULL) {
        free(attachment);
        free(image_path);
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    attachment->record = (struct vd_record){
        .image_path = image_path,
        .file_id = vd_disk_file_id(disk),
        .pid = (uint64_t)getpid(),
        .read_only = vd_request_is_read_only(disk, request),
        .permanent = request->permanent,
        .whole = vd_request_is_whole(disk, request),
    };
    attachment->device_fd = -1;
    attachment->image_fd = -1;
    attachment->record_fd = -1;
    *out = attachment;
    return ERROR_SUCCESS;
}

/* A user without a directory for records attaches without one. */
static vd_error
open_registry(struct vd_attachment *attachment, int *dir_out, int *lock_out)
{
    vd_error error = vd_registry_path(&attachment->registry);
    if (error == ERROR_NOT_FOUND) {
        return ERROR_SUCCESS;
    }
    if (error == ERROR_SUCCESS) {
        error = vd_registry_open(attachment->registry, true, dir_out);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_registry_lock(*dir_out, lock_out);
    }
    return error;
}

static bool
same_file(struct vd_file_id a, struct vd_file_id b)
{
    return a.device == b.device && a.inode == b.inode;
}

static vd_error
check_not_attached(const struct building *building)
{
    struct vd_record *records = NULL;
    size_t count = 0;
    if (building->dir < 0) {
        return ERROR_SUCCESS;
    }
    vd_error error = vd_registry_read(building->dir, true, &records, &count);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    struct vd_file_id wanted = building->attachment->record.file_id;
    for (size_t i = 0; i < count && error == ERROR_SUCCESS; i++) {
        if (same_file(records[i].file_id, wanted)) {
            vd_trace(VD_TRACE_ATTACH, "%s is attached already: %s",
                     records[i].image_path, records[i].name);
            error = ERROR_SHARING_VIOLATION;
        }
    }
    vd_registry_free(records, count);
    return error;
}

/* No record says that the image is attached; an attachment that has just
 * ended may still be on its way out, with its locks, in another process. */
static vd_error
lock_patiently(int fd, enum vd_lock_mode mode)
{
    struct vd_wait wait = vd_wait_begin(LEAVING_LIMIT_MS);
    vd_error error;
    do {
        error = vd_image_lock(fd, mode);
    } while (error == ERROR_SHARING_VIOLATION && vd_wait_more(&wait));
    return error;
}

static vd_error
lock_image(const struct building *building)
{
    struct vd_attachment *attachment = building->attachment;
    bool read_only = attachment->record.read_only;
    char path[sizeof(VD_PATH_OWN_FDS) + 16];
    if (!vd_text_format(path, sizeof(path), VD_PATH_OWN_FDS "/%d",
                        vd_disk_fd(building->disk))) {
        return ERROR_INVALID_HANDLE;
    }
    attachment->image_fd =
        open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
    if (attachment->image_fd < 0) {
        vd_trace(VD_TRACE_ATTACH, "opening the image again: %s",
                 strerror(errno));
        return vd_error_from_errno(errno);
    }
    return lock_patiently(attachment->image_fd,
                          read_only ? VD_LOCK_READ : VD_LOCK_WRITE);
}

/* -- the device -- */

/* What is only read can be compacted, the rest be resized or not. */
static vd_error
listen_for_upkeep(struct building *building, const struct vd_surface *surface)
{
    if (!surface->serves || building->dir < 0 ||
        (!building->attachment->record.read_only &&
         !vd_disk_resizes_in_use(building->disk))) {
        return ERROR_SUCCESS;
    }
    return vd_upkeep_socket_listen(building->dir, &building->listener);
}

static vd_error
show_by(struct building *building, const struct vd_surface *surface)
{
    struct vd_attachment *attachment = building->attachment;
    vd_error error = listen_for_upkeep(building, surface);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    struct vd_show_files files = {
        .image = attachment->image_fd,
        .listener = building->listener >= 0 ? &building->listener : NULL,
    };
    return surface->show(building->disk, building->request, &files,
                         &attachment->record, &building->claim);
}

static vd_error
show(struct building *building)
{
    const struct vd_surface *surface;
    struct vd_attachment *attachment = building->attachment;
    struct vd_loop *loop = &attachment->record.loop;
    vd_error error =
        vd_surface_find(building->disk, building->request, &surface);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = show_by(building, surface);
    if (error == ERROR_SUCCESS) {
        error = vd_record_location(&attachment->record, &attachment->device);
    }
    if (error != ERROR_SUCCESS || !vd_record_has_device(&attachment->record)) {
        return error;
    }
    if (building->dir >= 0) {
        vd_registry_supersede(building->dir, loop->name);
    }
    return vd_closing_mark(attachment->image_fd, loop);
}

/* Only of a whole disk: a part of one is left to the kernel's own scan. */
static vd_error
add_partitions(const struct building *building)
{
    if (!vd_request_has_partitions(building->disk, building->request) ||
        !vd_request_is_whole(building->disk, building->request)) {
        return ERROR_SUCCESS;
    }
    return vd_partitions_add(building->claim,
                             building->attachment->record.loop.name,
                             building->disk);
}

/* The record tells how to undo what comes after it. */
static vd_error
publish(const struct building *building)
{
    struct vd_attachment *attachment = building->attachment;
    if (building->dir < 0) {
        return ERROR_SUCCESS;
    }
    vd_error error = vd_registry_add(building->dir, &attachment->record,
                                     &attachment->record_fd);
    if (error == ERROR_SUCCESS && building->listener >= 0) {
        error = vd_upkeep_socket_name(building->dir, attachment->record.name);
    }
    return error;
}

static vd_error
equip_device(const struct building *building)
{
    struct vd_record *record = &building->attachment->record;
    const struct vd_attach_request *request = building->request;
    vd_error error = vd_udev_add(&record->loop, &request->access,
                                 !request->partition_nodes);
    if (error == ERROR_SUCCESS) {
        error = add_partitions(building);
    }
    if (error == ERROR_SUCCESS) {
        error =
            vd_node_plan(record->loop.name, &request->access, &record->node);
    }
    if (error == ERROR_SUCCESS) {
        error = publish(building);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_node_apply(record->loop.name, &record->node);
    }
    return error;
}

static void
close_one(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

/* Keeps the device as long as this process does. */
static vd_error
hold_device(struct vd_attachment *attachment)
{
    vd_error error =
        vd_loop_hold(&attachment->record.loop, &attachment->device_fd);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    close_one(&attachment->image_fd); /* the driver has it */
    return vd_held_add(attachment);
}

/* Without autoclear nobody needs to hold it. */
static vd_error
leave_device(const struct building *building)
{
    struct vd_attachment *attachment = building->attachment;
    vd_error error = vd_loop_set_autoclear(building->claim, false);
    if (error == ERROR_SUCCESS) {
        close_one(&attachment->image_fd);
        close_one(&attachment->record_fd);
    }
    return error;
}

/* -- putting it together -- */

static vd_error
build_with_device(const struct building *building)
{
    struct vd_attachment *attachment = building->attachment;
    vd_error error = equip_device(building);
    if (error == ERROR_SUCCESS) {
        error = attachment->record.permanent ? leave_device(building)
                                             : hold_device(attachment);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    vd_udev_announce(attachment->record.loop.name);
    return ERROR_SUCCESS;
}

static vd_error
build_without_device(const struct building *building)
{
    struct vd_attachment *attachment = building->attachment;
    vd_error error = vd_live_open(building->disk, building->request,
                                  attachment->image_fd, &attachment->live);
    if (error == ERROR_SUCCESS) {
        error = publish(building);
    }
    return error == ERROR_SUCCESS ? vd_held_add(attachment) : error;
}

/* Unless it is permanent, the file goes with the claim. */
static vd_error
build_with_file(struct building *building)
{
    struct vd_attachment *attachment = building->attachment;
    vd_error error = publish(building);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    close_one(&attachment->image_fd); /* the server has it */
    if (attachment->record.permanent) {
        close_one(&building->claim);
        close_one(&attachment->record_fd);
        return ERROR_SUCCESS;
    }
    attachment->device_fd = vd_take_fd(&building->claim);
    return vd_held_add(attachment);
}

static vd_error
build(struct building *building)
{
    vd_error error = check_not_attached(building);
    if (error == ERROR_SUCCESS) {
        error = lock_image(building);
    }
    if (error == ERROR_SUCCESS) {
        error = show(building);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    const struct vd_record *record = &building->attachment->record;
    return vd_record_has_device(record) ? build_with_device(building)
           : vd_record_has_file(record) ? build_with_file(building)
                                        : build_without_device(building);
}

/* Undoes whatever was done.  The device goes with its claim. */
static void
tear_down(struct building *building)
{
    struct vd_attachment *attachment = building->attachment;
    const struct vd_record *record = &attachment->record;
    vd_held_remove(attachment);
    if (vd_record_has_device(record)) {
        vd_udev_remove(&record->loop);
        vd_node_restore(record->loop.name, &record->node);
    }
    if (record->name[0] != '\0') {
        vd_registry_remove(building->dir, record->name, false);
    }
    if (building->listener >= 0) {
        vd_upkeep_socket_drop(building->dir);
    }
    if (vd_record_has_file(record)) {
        vd_shown_remove(&record->shown);
    }
    close_one(&building->claim);
    vd_closing_wait(record);
    free_attachment(attachment);
}

static vd_error
attach(struct vd_disk *disk, const struct vd_attach_request *request,
       struct vd_attachment **out)
{
    struct vd_attachment *attachment;
    vd_error error = new_attachment(disk, request, &attachment);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    /* Closed from the last to the first: nobody else may look at the records
     * before the device is gone, or free to be opened. */
    VD_AUTO_CLOSE int dir = -1;
    VD_AUTO_CLOSE int lock = -1;
    VD_AUTO_CLOSE int claim = -1;
    VD_AUTO_CLOSE int listener = -1; /* the server has it */
    struct building building = {disk, request, attachment, -1, -1, -1};
    error = open_registry(attachment, &dir, &lock);
    if (error == ERROR_SUCCESS) {
        building.dir = dir;
        error = build(&building);
        listener = building.listener;
    }
    if (error != ERROR_SUCCESS) {
        tear_down(&building);
        return error;
    }
    claim = building.claim;
    *out = attachment;
    return ERROR_SUCCESS;
}

vd_error
vd_attach(struct vd_disk *disk, const struct vd_attach_request *request,
          struct vd_attachment **out)
{
    vd_error error = check_request(disk, request);
    if (error == ERROR_SUCCESS) {
        error = vd_held_enter();
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = attach(disk, request, out);
    vd_held_leave();
    return error;
}

/* -- afterwards -- */

const char *
vd_attachment_device(const struct vd_attachment *attachment)
{
    return attachment->device;
}

struct vd_live *
vd_attachment_live(const struct vd_attachment *attachment)
{
    return attachment->live;
}

bool
vd_attachment_gone(struct vd_attachment *attachment)
{
    if (vd_held_has_let_go(attachment)) {
        return true;
    }
    const struct vd_record *record = &attachment->record;
    return vd_record_has_device(record)
               ? !vd_loop_bound(&record->loop)
               : vd_record_has_file(record) && !vd_shown_alive(record);
}

/* Somebody may have it open for a moment: whoever looks for free devices, or
 * udevd, which looks at each new one.  Waits for them, so that the image can
 * be attached again at once; but not for a mounted file system. */
static void
wait_until_free(const struct vd_loop *loop)
{
    VD_AUTO_CLOSE int claim = -1;
    struct vd_wait wait = vd_wait_begin(RELEASE_LIMIT_MS);
    bool cleared = false;
    if (!vd_loop_bound(loop) || vd_loop_claim(loop, &claim) != ERROR_SUCCESS) {
        return;
    }
    while (vd_loop_clear(claim, &cleared) == ERROR_SUCCESS && !cleared &&
           vd_wait_more(&wait)) {
    }
}

/* The same for a file: whoever has it open keeps it, but at no path. */
static void
end_file(const struct vd_record *record)
{
    if (vd_shown_end(record, RELEASE_LIMIT_MS)) {
        vd_shown_wait(record);
    }
}

/* Removes what is left; nothing, if somebody still uses the device. */
static void
tidy_up(const struct vd_attachment *attachment)
{
    const struct vd_record *record = &attachment->record;
    VD_AUTO_CLOSE int dir = -1;
    VD_AUTO_CLOSE int lock = -1;
    if (vd_record_has_device(record)) {
        wait_until_free(&record->loop);
    }
    if (attachment->registry != NULL) {
        if (vd_registry_open(attachment->registry, false, &dir) ==
                ERROR_SUCCESS &&
            vd_registry_lock(dir, &lock) == ERROR_SUCCESS) {
            vd_registry_sweep(dir, record->name);
        }
    }
    else if (vd_record_has_device(record) && !vd_loop_bound(&record->loop)) {
        vd_udev_remove(&record->loop);
        vd_node_restore(record->loop.name, &record->node);
    }
}

void
vd_attachment_release(struct vd_attachment *attachment)
{
    if (attachment == NULL) {
        return;
    }
    if (attachment->record.permanent) {
        free_attachment(attachment); /* it lives on without us */
        return;
    }
    bool ours = !vd_held_has_let_go(attachment);
    vd_error error = vd_held_enter();
    if (ours && vd_record_has_file(&attachment->record)) {
        end_file(&attachment->record);
    }
    vd_held_remove(attachment);
    if (ours) {
        tidy_up(attachment);
    }
    if (error == ERROR_SUCCESS) {
        vd_held_leave();
    }
    if (ours) {
        vd_closing_wait(&attachment->record);
    }
    free_attachment(attachment);
}
