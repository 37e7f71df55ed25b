/*
 * Compacting and resizing what is served (upkeep_work.h).  Requests of the
 * kernel wait while the length of the file or the size of the disk changes,
 * and only then.
 */
#include "server/upkeep_work.h"

#include "base/trace.h"
#include "disk/upkeep.h"

vd_error
vd_upkeep_compact(struct vd_upkeep_work *work)
{
    return vd_disk_compact_attached(work->file->disk, work->fd, &work->options,
                                    &work->progress);
}

/* The whole disk is as long as that, a part of it is what it was. */
static uint64_t
length_for(const struct vd_fuse_file *file, uint64_t disk_size)
{
    return file->whole ? disk_size : vd_gate_length(file->gate);
}

static void
open_gate(const struct vd_upkeep_work *work, uint64_t length)
{
    bool changed = length != vd_gate_length(work->file->gate);
    vd_gate_open(work->file->gate, length);
    if (changed) {
        vd_fuse_tell_changed(work->device);
    }
}

static vd_error
check(const struct vd_upkeep_work *work)
{
    const struct vd_fuse_file *file = work->file;
    struct vd_disk_window window = {
        .offset = file->offset,
        .length = vd_gate_length(file->gate),
        .whole = file->whole,
    };
    vd_error error = vd_disk_check_writer(file->disk, work->fd);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (!vd_disk_resizes_in_use(file->disk)) {
        vd_trace(VD_TRACE_ATTACH, "server: the format keeps its size");
        return ERROR_NOT_SUPPORTED;
    }
    return vd_disk_check_window(file->disk, &window, &work->resize);
}

vd_error
vd_upkeep_prepare(struct vd_upkeep_work *work)
{
    const struct vd_fuse_file *file = work->file;
    vd_error error = check(work);
    if (error == ERROR_SUCCESS) {
        error = vd_disk_plan_resize(file->disk, &work->resize,
                                    &work->resize.size_bytes);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (work->resize.mode == VD_RESIZE_SMALLEST) {
        work->resize.mode = VD_RESIZE_SAFE;
    }
    uint64_t length = length_for(file, work->resize.size_bytes);
    if (length < vd_gate_length(file->gate)) {
        vd_gate_shut(file->gate);
        open_gate(work, length);
        work->shortened = true;
    }
    return ERROR_SUCCESS;
}

vd_error
vd_upkeep_resize(struct vd_upkeep_work *work)
{
    const struct vd_fuse_file *file = work->file;
    vd_gate_shut(file->gate);
    vd_error error = vd_disk_resize(file->disk, &work->resize);
    open_gate(work, length_for(file, vd_disk_size_bytes(file->disk)));
    return error;
}

void
vd_upkeep_restore(struct vd_upkeep_work *work)
{
    const struct vd_fuse_file *file = work->file;
    vd_gate_shut(file->gate);
    open_gate(work, length_for(file, vd_disk_size_bytes(file->disk)));
}
