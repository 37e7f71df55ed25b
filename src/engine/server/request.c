/*
 * Receiving the request, with the descriptors of all layers (protocol.h).
 */
#include "server/request.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/trace.h"
#include "server/channel.h"

static bool
is_sound(const struct vd_server_request *request)
{
    return request->protocol == VD_SERVER_PROTOCOL && request->layers != 0 &&
           request->layers <= VD_DISK_LAYERS_MAX && request->read_only <= 1 &&
           request->visible <= 1 && request->upkeep <= 1;
}

static vd_error
receive_some(int control, size_t wanted, struct vd_disk_files *files)
{
    char mark;
    size_t count = 0;
    vd_error error =
        vd_channel_receive(control, &mark, sizeof(mark),
                           files->fds + files->count, wanted, &count);
    if (error == ERROR_SUCCESS && count == 0) {
        error = ERROR_INVALID_DATA; /* would go on for ever */
    }
    files->count += count;
    return error;
}

static vd_error
receive_files(int control, const struct vd_server_request *request,
              struct vd_disk_files *out)
{
    struct vd_disk_files files = {
        .device_id = request->device_id,
        .fds = calloc(request->layers, sizeof(*files.fds)),
    };
    if (files.fds == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    while (files.count < request->layers) {
        vd_error error =
            receive_some(control, request->layers - files.count, &files);
        if (error != ERROR_SUCCESS) {
            vd_disk_files_close(&files);
            return error;
        }
    }
    *out = files;
    return ERROR_SUCCESS;
}

vd_error
vd_request_receive(int control, struct vd_server_request *request_out,
                   struct vd_disk_files *files_out)
{
    struct vd_server_request request;
    size_t none;
    vd_error error =
        vd_channel_receive(control, &request, sizeof(request), NULL, 0, &none);
    if (error == ERROR_SUCCESS && !is_sound(&request)) {
        vd_trace(VD_TRACE_ATTACH, "server: a request that is none");
        error = ERROR_INVALID_DATA;
    }
    if (error == ERROR_SUCCESS) {
        error = receive_files(control, &request, files_out);
    }
    if (error == ERROR_SUCCESS) {
        *request_out = request;
    }
    return error;
}

vd_error
vd_request_receive_upkeep(int control, int *listener_out)
{
    char mark;
    size_t count = 0;
    vd_error error = vd_channel_receive(control, &mark, sizeof(mark),
                                        listener_out, 1, &count);
    if (error == ERROR_SUCCESS && count != 1) {
        vd_trace(VD_TRACE_ATTACH, "server: no socket to listen on");
        error = ERROR_INVALID_DATA;
    }
    return error;
}

static bool
is_sound_place(const struct vd_server_place *place)
{
    return (place->mode & ~0666u) == 0 && place->permanent <= 1 &&
           place->path[0] == '/' &&
           memchr(place->path, '\0', sizeof(place->path)) != NULL;
}

vd_error
vd_request_receive_place(int control, struct vd_server_place *place_out,
                         int *file_out)
{
    size_t count = 0;
    int file;
    vd_error error = vd_channel_receive(control, place_out, sizeof(*place_out),
                                        &file, 1, &count);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (count != 1 || !is_sound_place(place_out)) {
        vd_trace(VD_TRACE_ATTACH, "server: a place that is none");
        if (count == 1) {
            close(file);
        }
        return ERROR_INVALID_DATA;
    }
    *file_out = file;
    return ERROR_SUCCESS;
}
