/*
 * Resizing what the loop driver shows alone (resize_direct.h).
 *
 * The driver has one run of the image file and writes to nothing else; here
 * everything else is written, and of the run nothing: a partition table is
 * changed through the device, whose page cache knows of sectors, while the
 * image's own knows of pages only, in which others may be writing.  Both
 * sizes are whole blocks, so that no block is there in part.
 *
 * The image's locks are those of the driver's open file, and cannot be taken
 * besides.  That the device shows the image, and the lock of its record, say
 * that they are the attachment's, that it goes on, and that nobody else is
 * here.  What a crash leaves in the log is replayed by the next who opens the
 * image for writing; the run is not in it.
 *
 * What the device may show at most changes first: it is all that the kernel
 * can refuse.  A larger limit shows no more before the file has more.
 */
#include "attach/resize_direct.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "attach/loop.h"
#include "base/cleanup.h"
#include "base/trace.h"
#include "disk/compact.h"
#include "disk/gpt_backup.h"

struct direct {
    const struct vd_record *record;
    int device;
    int table; /* the device, to write to; -1: not needed */
    struct vd_disk *disk;
    bool whole;
    uint64_t payload; /* where in the image it begins */
    struct vd_loop_range range;
    uint64_t size_bytes; /* that the disk is to have */
};

bool
vd_direct_shows(const struct vd_record *record)
{
    return vd_record_has_device(record) &&
           record->loop.file_id.device == record->file_id.device &&
           record->loop.file_id.inode == record->file_id.inode;
}

/* ---- the image ---- */

static vd_error
open_disk(int fd, struct vd_disk **out)
{
    struct vd_disk *disk;
    VD_AUTO_CLOSE int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0) {
        return vd_error_from_errno(errno);
    }
    struct vd_disk_files files = {
        .count = 1,
        .fds = malloc(sizeof(*files.fds)),
    };
    if (files.fds == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    files.fds[0] = vd_take_fd(&own);
    vd_error error = vd_disk_open_files(&files, true, &disk);
    if (error != ERROR_SUCCESS) {
        vd_disk_files_close(&files);
        return error;
    }
    *out = disk;
    return ERROR_SUCCESS;
}

static vd_error
check_place(struct direct *direct)
{
    bool contiguous;
    vd_error error =
        vd_disk_contiguous(direct->disk, &contiguous, &direct->payload);
    if (error == ERROR_SUCCESS &&
        (!contiguous || !vd_disk_resizes_in_use(direct->disk) ||
         direct->range.offset < direct->payload)) {
        vd_trace(VD_TRACE_ATTACH, "the device shows something else");
        error = ERROR_VHD_INVALID_STATE;
    }
    return error;
}

static vd_error
plan(struct direct *direct, const struct vd_resize *resize)
{
    vd_error error = check_place(direct);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    struct vd_disk_window window = {
        .offset = direct->range.offset - direct->payload,
        .length = direct->range.length,
        .whole = direct->whole,
    };
    error = vd_disk_check_window(direct->disk, &window, resize);
    if (error == ERROR_SUCCESS) {
        error = vd_disk_plan_resize(direct->disk, resize, &direct->size_bytes);
    }
    return error;
}

/* What an earlier size has left behind the run would be in the way. */
static vd_error
make_way(const struct direct *direct)
{
    uint64_t now = vd_disk_size_bytes(direct->disk);
    if (direct->size_bytes == now) {
        return ERROR_SUCCESS;
    }
    vd_error error = direct->size_bytes > now ? vd_disk_shorten(direct->disk)
                                              : ERROR_SUCCESS;
    return error == ERROR_SUCCESS
               ? vd_disk_check_direct(direct->disk, direct->payload,
                                      direct->size_bytes)
               : error;
}

/* ---- the partition table, through the device ---- */

static vd_error
read_device(void *context, void *buffer, size_t length, uint64_t offset)
{
    const struct direct *direct = context;
    ssize_t got = pread(direct->table, buffer, length, (off_t)offset);
    return got < 0                 ? vd_error_from_errno(errno)
           : (size_t)got != length ? ERROR_IO_DEVICE
                                   : ERROR_SUCCESS;
}

static vd_error
write_device(void *context, const void *buffer, size_t length, uint64_t offset)
{
    const struct direct *direct = context;
    ssize_t put = pwrite(direct->table, buffer, length, (off_t)offset);
    return put < 0                 ? vd_error_from_errno(errno)
           : (size_t)put != length ? ERROR_IO_DEVICE
                                   : ERROR_SUCCESS;
}

static vd_error
flush_device(void *context)
{
    const struct direct *direct = context;
    return fsync(direct->table) < 0 ? vd_error_from_errno(errno)
                                    : ERROR_SUCCESS;
}

/* As large as the disk still is: it is the device that has become smaller. */
static vd_error
move_backup(struct direct *direct)
{
    struct vd_gpt_medium medium = {
        .source =
            {
                .read = read_device,
                .context = direct,
                .size_bytes = vd_disk_size_bytes(direct->disk),
                .sector_size = vd_disk_sector_size(direct->disk),
            },
        .write = write_device,
        .flush = flush_device,
    };
    return direct->table < 0
               ? ERROR_SUCCESS
               : vd_gpt_move_backup_on(&medium, direct->size_bytes);
}

/* ---- doing it ---- */

/* What the device may show of a disk of this size. */
static vd_error
limit(const struct direct *direct, uint64_t size_bytes)
{
    return direct->whole ? vd_loop_limit(direct->device, size_bytes)
                         : ERROR_SUCCESS;
}

static vd_error
change(struct direct *direct)
{
    struct vd_resize exact = {VD_RESIZE_UNSAFE, direct->size_bytes};
    vd_error error = ERROR_SUCCESS;
    bool smaller = direct->size_bytes < vd_disk_size_bytes(direct->disk);
    if (smaller) {
        error = vd_loop_sync(direct->device);
    }
    if (error == ERROR_SUCCESS && smaller) {
        error = move_backup(direct);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_disk_resize(direct->disk, &exact);
    }
    return error == ERROR_SUCCESS && smaller ? vd_disk_shorten(direct->disk)
                                             : error;
}

/* The device follows the disk, whatever has become of that. */
static vd_error
follow(const struct direct *direct)
{
    uint64_t size_bytes = vd_disk_size_bytes(direct->disk);
    vd_error error = limit(direct, size_bytes);
    if (error == ERROR_SUCCESS && direct->whole) {
        error = vd_loop_follow(direct->device, size_bytes);
    }
    return error == ERROR_SUCCESS ? vd_loop_sync(direct->device) : error;
}

static vd_error
open_table(struct direct *direct, const struct vd_resize *resize)
{
    bool smaller = direct->size_bytes < vd_disk_size_bytes(direct->disk);
    return smaller && resize->mode != VD_RESIZE_UNSAFE
               ? vd_loop_open_writable(&direct->record->loop, &direct->table)
               : ERROR_SUCCESS;
}

static vd_error
resize_disk(struct direct *direct, const struct vd_resize *resize)
{
    vd_error error = plan(direct, resize);
    if (error == ERROR_SUCCESS) {
        error = make_way(direct);
    }
    if (error == ERROR_SUCCESS) {
        error = open_table(direct, resize);
    }
    if (error == ERROR_SUCCESS) {
        error = limit(direct, direct->size_bytes);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = change(direct);
    vd_error followed = follow(direct);
    return error != ERROR_SUCCESS ? error : followed;
}

static vd_error
resize_open(struct direct *direct, int fd, const struct vd_resize *resize)
{
    vd_error error = vd_loop_sync(direct->device);
    if (error == ERROR_SUCCESS) {
        error = open_disk(fd, &direct->disk);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = resize_disk(direct, resize);
    vd_error finished = vd_disk_finish(direct->disk);
    return error != ERROR_SUCCESS ? error : finished;
}

static vd_error
check_writer(const struct vd_record *record, int fd)
{
    struct stat status;
    if (fstat(fd, &status) < 0 || status.st_dev != record->file_id.device ||
        status.st_ino != record->file_id.inode) {
        vd_trace(VD_TRACE_ATTACH, "not the image");
        return ERROR_INVALID_PARAMETER;
    }
    return ERROR_SUCCESS;
}

vd_error
vd_direct_resize(const struct vd_record *record, int fd,
                 const struct vd_resize *resize)
{
    VD_AUTO_CLOSE int device = -1;
    VD_AUTO_CLOSE int table = -1;
    struct direct direct = {
        .record = record,
        .table = -1,
        .whole = record->whole,
    };
    vd_error error = check_writer(record, fd);
    if (error == ERROR_SUCCESS) {
        error = vd_loop_open_range(&record->loop, &device, &direct.range);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    direct.device = device;
    error = resize_open(&direct, fd, resize);
    table = direct.table;
    return error;
}
