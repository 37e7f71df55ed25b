/*
 * Resizing what is attached: by the disk server that serves it, or else as
 * resize_direct.h has it.
 *
 * The order is that of server/protocol.h: a disk grows before its device, and
 * a device shrinks before its disk, so that it never offers what is not
 * there.  What the device's page cache holds is brought to the image before
 * the partition table is read there, and forgotten after the image has been
 * changed behind it.
 *
 * The record is locked: nobody detaches the disk meanwhile, and of two who
 * resize it one waits.  fork() waits too, since a child must not keep the
 * device.
 */
#include "attach/attach.h"

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "attach/resize_direct.h"
#include "attach/held.h"
#include "attach/loop.h"
#include "attach/upkeep.h"
#include "attach/upkeep_socket.h"
#include "base/cleanup.h"
#include "base/trace.h"
#include "server/channel.h"

struct resizing {
    const struct vd_record *record;
    int server;
    int device; /* -1: none, but a file */
};

/* ---- what shows the disk ---- */

/* A file is asked for its length by whoever uses it; the first look is ours,
 * for those who have it open already.  In another mount namespace it is not
 * to be seen. */
static vd_error
follow(const struct resizing *resizing, uint64_t length)
{
    struct stat status;
    if (resizing->device >= 0) {
        return vd_loop_follow(resizing->device, length);
    }
    if (stat(resizing->record->shown.path, &status) < 0) {
        vd_trace(VD_TRACE_ATTACH, "%s is not seen",
                 resizing->record->shown.path);
    }
    return ERROR_SUCCESS;
}

static vd_error
sync_device(const struct resizing *resizing)
{
    return resizing->device >= 0 ? vd_loop_sync(resizing->device)
                                 : ERROR_SUCCESS;
}

/* ---- the server ---- */

static vd_error
send_request(int server, int fd, const struct vd_resize *resize)
{
    struct vd_upkeep_request request = {
        .protocol = VD_SERVER_PROTOCOL,
        .operation = VD_UPKEEP_RESIZE,
        .resize_mode = (uint32_t)resize->mode,
        .size_bytes = resize->size_bytes,
    };
    return vd_channel_send(server, &request, sizeof(request), &fd, 1);
}

static vd_error
send_cut(int server)
{
    struct vd_upkeep_request request = {
        .protocol = VD_SERVER_PROTOCOL,
        .operation = VD_UPKEEP_CUT,
    };
    return vd_channel_send(server, &request, sizeof(request), NULL, 0);
}

/* The file is shorter, the disk not yet.  If the device cannot be made so,
 * the server hears of the end, and the file is what it was. */
static vd_error
shorten(const struct resizing *resizing, uint64_t length)
{
    vd_error error = follow(resizing, length);
    if (error == ERROR_SUCCESS) {
        error = sync_device(resizing); /* of what has no place any more */
    }
    if (error == ERROR_SUCCESS) {
        return send_cut(resizing->server);
    }
    shutdown(resizing->server, SHUT_WR);
    return error;
}

/* What is wrong first is what the caller is told; the device follows the
 * file in any case. */
static vd_error
await_end(const struct resizing *resizing)
{
    struct vd_upkeep_report report = {.state = VD_UPKEEP_WORKING};
    vd_error failed = ERROR_SUCCESS;
    while (report.state != VD_UPKEEP_OVER) {
        vd_error error = vd_upkeep_receive(resizing->server, &report);
        if (error != ERROR_SUCCESS) {
            return failed != ERROR_SUCCESS ? failed : error;
        }
        if (report.state == VD_UPKEEP_SHORTENED) {
            failed = shorten(resizing, report.length);
        }
    }
    if (failed == ERROR_SUCCESS) {
        failed = report.error;
    }
    vd_error error = follow(resizing, report.length);
    if (error == ERROR_SUCCESS) {
        error = sync_device(resizing);
    }
    return failed != ERROR_SUCCESS ? failed : error;
}

static vd_error
ask(const struct resizing *resizing, int fd, const struct vd_resize *resize)
{
    vd_error error = sync_device(resizing);
    if (error == ERROR_SUCCESS) {
        error = send_request(resizing->server, fd, resize);
    }
    return error == ERROR_SUCCESS ? await_end(resizing) : error;
}

/* ---- all of it ---- */

static vd_error
resize_served(int dir, const struct vd_record *record, int fd,
              const struct vd_resize *resize)
{
    VD_AUTO_CLOSE int server = -1;
    VD_AUTO_CLOSE int device = -1;
    vd_error error = vd_upkeep_socket_connect(dir, record->name, &server);
    if (error == ERROR_SUCCESS && vd_record_has_device(record)) {
        error = vd_loop_open_capacity(&record->loop, &device);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    struct resizing resizing = {record, server, device};
    return ask(&resizing, fd, resize);
}

static vd_error
resize_entry(int dir, struct vd_entry *entry, int fd,
             const struct vd_resize *resize)
{
    struct vd_record *record = &entry->record;
    if (!vd_record_has_device(record) && !vd_record_has_file(record)) {
        return ERROR_NOT_FOUND; /* its attacher's alone */
    }
    vd_error error = vd_registry_lock_record(entry->fd);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (!vd_registry_current(dir, record->name, entry->fd,
                             &record->detaching)) {
        return ERROR_NOT_FOUND; /* it was, until now */
    }
    if (record->read_only) {
        vd_trace(VD_TRACE_ATTACH, "attached for reading");
        return ERROR_WRITE_PROTECT;
    }
    return vd_direct_shows(record) ? vd_direct_resize(record, fd, resize)
                                   : resize_served(dir, record, fd, resize);
}

static vd_error
resize_attached(struct vd_file_id file_id, int fd,
                const struct vd_resize *resize)
{
    VD_AUTO_CLOSE int dir = -1;
    struct vd_entry entry;
    vd_error error = vd_attached_open_entry(file_id, &dir, &entry);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = resize_entry(dir, &entry, fd, resize);
    vd_entry_close(&entry);
    return error;
}

vd_error
vd_attached_resize(struct vd_file_id file_id, int fd,
                   const struct vd_resize *resize)
{
    vd_error error = vd_held_enter();
    if (error == ERROR_SUCCESS) {
        error = resize_attached(file_id, fd, resize);
        vd_held_leave();
    }
    return error;
}
