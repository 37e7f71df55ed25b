/*
 * Asking disk servers to compact their images (server/protocol.h).
 */
#include "attach/upkeep.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "attach/attach.h"
#include "attach/held.h"
#include "attach/upkeep_socket.h"
#include "base/cleanup.h"
#include "base/trace.h"
#include "disk/progress.h"
#include "server/channel.h"
#include "server/protocol.h"

static vd_error
send_request(int server, int fd, const struct vd_compact_options *options)
{
    struct vd_upkeep_request request = {
        .protocol = VD_SERVER_PROTOCOL,
        .operation = VD_UPKEEP_COMPACT,
        .no_zero_scan = options->no_zero_scan,
        .no_block_moves = options->no_block_moves,
    };
    return vd_channel_send(server, &request, sizeof(request), &fd, 1);
}

/* What is attached for writing is compacted by nobody. */
static vd_error
connect_to(struct vd_file_id file_id, int *server_out)
{
    VD_AUTO_CLOSE int dir = -1;
    struct vd_entry entry;
    vd_error error = vd_attached_open_entry(file_id, &dir, &entry);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = entry.record.read_only
                ? vd_upkeep_socket_connect(dir, entry.record.name, server_out)
                : ERROR_NOT_FOUND;
    vd_entry_close(&entry);
    return error;
}

static vd_error
begin(struct vd_file_id file_id, int fd,
      const struct vd_compact_options *options, int *server_out)
{
    VD_AUTO_CLOSE int server = -1;
    vd_error error = connect_to(file_id, &server);
    if (error == ERROR_SUCCESS) {
        error = send_request(server, fd, options);
    }
    if (error == ERROR_SUCCESS) {
        *server_out = vd_take_fd(&server);
    }
    return error;
}

static void
note_progress(struct vd_progress *progress,
              const struct vd_upkeep_report *report)
{
    if (progress == NULL || report->completion == 0) {
        return;
    }
    uint64_t before = atomic_load(&progress->current);
    if (atomic_load(&progress->completion) == 0) {
        vd_progress_begin(progress, report->completion);
    }
    if (report->current > before) {
        vd_progress_advance(progress, report->current - before);
    }
}

vd_error
vd_upkeep_receive(int server, struct vd_upkeep_report *out)
{
    size_t none;
    vd_error error =
        vd_channel_receive(server, out, sizeof(*out), NULL, 0, &none);
    if (error == ERROR_SUCCESS && out->protocol != VD_SERVER_PROTOCOL) {
        vd_trace(VD_TRACE_ATTACH, "a disk server of another version");
        error = ERROR_INVALID_DATA;
    }
    if (error == ERROR_BROKEN_PIPE) {
        vd_trace(VD_TRACE_ATTACH, "detached meanwhile");
        error = ERROR_OPERATION_ABORTED;
    }
    return error;
}

/* One report, or none for a while. */
static vd_error
follow(int server, struct vd_progress *progress,
       struct vd_upkeep_report *report)
{
    struct pollfd waited = {.fd = server, .events = POLLIN};
    if (vd_progress_cancelled(progress)) {
        shutdown(server, SHUT_WR); /* again and again does no harm */
    }
    if (poll(&waited, 1, VD_UPKEEP_REPORT_MS) <= 0) {
        return ERROR_SUCCESS;
    }
    vd_error error = vd_upkeep_receive(server, report);
    if (error == ERROR_SUCCESS) {
        note_progress(progress, report);
    }
    return error;
}

vd_error
vd_attached_compact(struct vd_file_id file_id, int fd,
                    const struct vd_compact_options *options,
                    struct vd_progress *progress)
{
    VD_AUTO_CLOSE int server = -1;
    struct vd_upkeep_report report = {.state = VD_UPKEEP_WORKING};
    vd_error error = vd_held_enter();
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = begin(file_id, fd, options, &server);
    vd_held_leave();
    while (error == ERROR_SUCCESS && report.state != VD_UPKEEP_OVER) {
        error = follow(server, progress, &report);
    }
    return error != ERROR_SUCCESS ? error : report.error;
}
