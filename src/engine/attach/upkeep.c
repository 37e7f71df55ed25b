/*
 * Asking disk servers for work on their images (server/protocol.h).
 */
#include "attach/upkeep.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "attach/attach.h"
#include "attach/held.h"
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
        .no_zero_scan = options->no_zero_scan,
        .no_block_moves = options->no_block_moves,
    };
    return vd_channel_send(server, &request, sizeof(request), &fd, 1);
}

static vd_error
begin(struct vd_file_id file_id, int fd,
      const struct vd_compact_options *options, int *server_out)
{
    VD_AUTO_CLOSE int server = -1;
    vd_error error = vd_attached_connect(file_id, &server);
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

static vd_error
receive(int server, struct vd_upkeep_report *out)
{
    size_t none;
    vd_error error =
        vd_channel_receive(server, out, sizeof(*out), NULL, 0, &none);
    if (error == ERROR_SUCCESS && out->protocol != VD_SERVER_PROTOCOL) {
        vd_trace(VD_TRACE_ATTACH, "a disk server of another version");
        error = ERROR_INVALID_DATA;
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
    vd_error error = receive(server, report);
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
    struct vd_upkeep_report report = {.over = 0};
    vd_error error = vd_held_enter();
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = begin(file_id, fd, options, &server);
    vd_held_leave();
    while (error == ERROR_SUCCESS && report.over == 0) {
        error = follow(server, progress, &report);
    }
    if (error == ERROR_BROKEN_PIPE) {
        vd_trace(VD_TRACE_ATTACH, "detached meanwhile");
        error = ERROR_OPERATION_ABORTED;
    }
    return error != ERROR_SUCCESS ? error : report.error;
}
