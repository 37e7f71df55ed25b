/*
 * MirrorVirtualDisk and BreakMirrorVirtualDisk (virtdisk.h).
 *
 * A disk that is not attached, or attached to the caller alone
 * (NO_LOCAL_HOST): what is written to it meanwhile reaches both.  A disk with
 * a device is ERROR_NOT_SUPPORTED.  The operation is pending until it is
 * broken, cancelled, or its handle is closed.
 *
 * A new mirror has no name before BreakMirrorVirtualDisk; then the handle's
 * disk, and its attachment, go over to it.
 */
#include <virtdisk.h>

#include <stdlib.h>
#include <string.h>

#include "api/creation.h"
#include "api/look.h"
#include "api/operation.h"
#include "api/refuse.h"
#include "api/virtual_disk.h"
#include "attach/held.h"
#include "attach/locked_files.h"
#include "base/cleanup.h"
#include "base/utf16.h"
#include "disk/create.h"
#include "disk/mirror.h"
#include "disk/progress.h"
#include "disk/resize.h"

/* Hints for a network and for a scheduler that are not ours. */
#define FLAGS_WITHOUT_EFFECT                                                  \
    (MIRROR_VIRTUAL_DISK_FLAG_ENABLE_SMB_COMPRESSION |                        \
     MIRROR_VIRTUAL_DISK_FLAG_IS_LIVE_MIGRATION)

#define FLAGS_KNOWN                                                           \
    (MIRROR_VIRTUAL_DISK_FLAG_EXISTING_FILE |                                 \
     MIRROR_VIRTUAL_DISK_FLAG_SKIP_MIRROR_ACTIVATION | FLAGS_WITHOUT_EFFECT)

struct mirror_arguments {
    char *path; /* owned */
    bool existing;
};

/* A mirror that is being made; its files are the handle's. */
struct job {
    struct vd_virtual_disk *virtual_disk;
    const struct mirror_arguments *arguments;
    struct vd_progress *progress;
    struct vd_mirror mirror;
    struct vd_disk *existing; /* a look at the target, owned; NULL: it is
                                 the handle's creation */
};

/* ---- the disk that is mirrored ---- */

/* A disk that nobody has attached is read under locks for as long as it
 * takes. */
static vd_error
open_offline(struct vd_virtual_disk *virtual_disk)
{
    struct vd_disk_files files;
    vd_error error = vd_locked_files_share(virtual_disk->disk, &files);
    if (error) {
        return error;
    }
    error = vd_disk_open_files(&files, false, &virtual_disk->working);
    if (error) {
        vd_disk_files_close(&files);
    }
    return error;
}

/* The disk to be read; leave it again.  *live_out is NULL for one that nobody
 * has attached. */
static vd_error
enter(struct vd_virtual_disk *virtual_disk, struct vd_live **live_out,
      struct vd_disk **disk_out)
{
    *live_out = NULL;
    if (virtual_disk->working != NULL) {
        *disk_out = virtual_disk->working;
        return ERROR_SUCCESS;
    }
    vd_error error = vd_virtual_disk_enter(virtual_disk, live_out);
    if (!error) {
        *disk_out = vd_live_disk(*live_out);
    }
    return error;
}

static void
leave(struct vd_live *live)
{
    if (live != NULL) {
        vd_live_leave(live);
    }
}

static vd_error
open_source(struct vd_virtual_disk *virtual_disk)
{
    struct vd_live *live;
    vd_error error = vd_virtual_disk_enter(virtual_disk, &live);
    if (!error) {
        vd_live_leave(live);
    }
    return error == ERROR_NOT_READY ? open_offline(virtual_disk) : error;
}

/* ---- the mirror ---- */

/* As the disk is, with the same identity and the same parents. */
static vd_error
make_image(struct vd_creation *creation, const struct vd_disk *disk)
{
    const struct vd_image_info *info = vd_disk_info(disk);
    bool child = info->subtype == VD_SUBTYPE_DIFFERENCING;
    struct vd_create_request request = {
        .subtype = info->subtype,
        .size_bytes = info->size_bytes,
        .block_size = info->block_size,
        .sector_size = info->sector_size,
        .physical_sector_size = info->physical_sector_size,
        .identifier = info->has_virtual_disk_id ? info->virtual_disk_id
                                                : info->identifier,
    };
    if (info->size_bytes < VD_DISK_SIZE_MIN && !child) {
        return vd_refuse(ERROR_VHD_INVALID_SIZE,
                         "the disk has less than 3 MiB");
    }
    vd_error error = vd_create_prepare(creation->format, &creation->file,
                                       child ? disk : NULL, 1, &request);
    if (error) {
        return error;
    }
    error =
        vd_create_write(&creation->file, creation->format, false, &request);
    vd_create_clear(&request);
    return error;
}

static vd_error
fill_image(struct vd_virtual_disk *virtual_disk, const struct vd_disk *disk)
{
    struct vd_creation *creation = virtual_disk->creation;
    vd_error error = make_image(creation, disk);
    if (!error) {
        error = vd_create_fill(&creation->file, creation->format, false,
                               &virtual_disk->mirror_target);
    }
    return error ? error
                 : vd_create_copy_metadata(disk, virtual_disk->mirror_target);
}

static vd_error
open_new(struct job *job)
{
    struct vd_virtual_disk *virtual_disk = job->virtual_disk;
    struct vd_creation *creation = vd_creation_new();
    struct vd_live *live;
    struct vd_disk *disk;
    if (creation == NULL) {
        return vd_refuse(ERROR_NOT_ENOUGH_MEMORY, "no memory for a mirror");
    }
    virtual_disk->creation = creation;
    creation->writable = vd_disk_writable(virtual_disk->disk);
    creation->chain = virtual_disk->disk;
    creation->first = 1;
    vd_error error = vd_create_format(
        vd_disk_format(virtual_disk->disk)->device_id, &creation->format);
    if (!error) {
        error = vd_new_file_open(job->arguments->path, &creation->file);
    }
    if (!error) {
        error = enter(virtual_disk, &live, &disk);
    }
    if (error) {
        return error;
    }
    error = fill_image(virtual_disk, disk);
    leave(live);
    return error;
}

/* An image that is as large, and in which nobody counts in other sectors. */
static vd_error
check_existing(const struct vd_disk *disk, const struct vd_disk *target)
{
    if (vd_disk_size_bytes(disk) != vd_disk_size_bytes(target) ||
        vd_disk_sector_size(disk) != vd_disk_sector_size(target)) {
        return vd_refuse(ERROR_VHD_INVALID_SIZE,
                         "the existing mirror has another size");
    }
    return ERROR_SUCCESS;
}

static vd_error
open_existing(struct job *job)
{
    static const struct vd_layer_set leaf = {.has = {true}};
    struct vd_disk_options options = {.writable = true};
    struct vd_disk_files files;
    vd_error error =
        vd_look_open(job->arguments->path, &options, &job->existing);
    if (!error) {
        error = check_existing(job->virtual_disk->disk, job->existing);
    }
    if (!error) {
        error = vd_locked_files_take(
            job->existing, vd_disk_layers(job->existing), &leaf, &files);
    }
    if (error) {
        return error;
    }
    error =
        vd_disk_open_files(&files, true, &job->virtual_disk->mirror_target);
    if (error) {
        vd_disk_files_close(&files);
    }
    return error;
}

static vd_error
open_all(struct job *job)
{
    vd_error error = open_source(job->virtual_disk);
    if (error) {
        return error;
    }
    return job->arguments->existing ? open_existing(job) : open_new(job);
}

/* What there is of the mirror's files, given up. */
static void
close_all(struct job *job)
{
    struct vd_virtual_disk *virtual_disk = job->virtual_disk;
    vd_error error = vd_held_enter();
    vd_disk_close(VD_TAKE(virtual_disk->mirror_target));
    vd_disk_close(VD_TAKE(virtual_disk->working));
    vd_disk_close(VD_TAKE(job->existing));
    vd_creation_end(VD_TAKE(virtual_disk->creation));
    if (!error) {
        vd_held_leave();
    }
}

/* ---- keeping equal ---- */

static void
tell(void *context)
{
    vd_virtual_disk_tell(context);
}

static vd_error
start(struct job *job)
{
    struct vd_live *live;
    struct vd_disk *disk;
    vd_error error = enter(job->virtual_disk, &live, &disk);
    if (!error) {
        vd_mirror_start(&job->mirror, disk);
        leave(live);
    }
    return error;
}

/* Where the disk cannot be entered it is being closed, and will say so. */
static void
stop(struct job *job)
{
    struct vd_virtual_disk *virtual_disk = job->virtual_disk;
    struct vd_live *live;
    struct vd_disk *disk;
    if (!enter(virtual_disk, &live, &disk)) {
        vd_mirror_stop(disk);
        leave(live);
        return;
    }
    VD_SCOPED_LOCK(&virtual_disk->operation_lock);
    while (!vd_mirror_is_gone(&job->mirror)) {
        pthread_cond_wait(&virtual_disk->news, &virtual_disk->operation_lock);
    }
}

static vd_error
copy_piece(struct job *job, uint64_t offset, uint64_t *length_out)
{
    struct vd_live *live;
    struct vd_disk *disk;
    vd_error error = enter(job->virtual_disk, &live, &disk);
    if (!error) {
        error = vd_mirror_piece(&job->mirror, disk, offset, length_out);
        leave(live);
    }
    return error;
}

static vd_error
copy_all(struct job *job)
{
    uint64_t size = vd_disk_size_bytes(job->virtual_disk->mirror_target);
    vd_progress_begin(job->progress, size);
    for (uint64_t offset = 0; offset < size;) {
        uint64_t length;
        vd_error error = vd_progress_check(job->progress);
        if (!error) {
            error = vd_mirror_state(&job->mirror);
        }
        if (!error) {
            error = copy_piece(job, offset, &length);
        }
        if (error) {
            return error;
        }
        offset += length;
        if (offset < size) { /* the last one is told in wait_for_break */
            vd_progress_advance(job->progress, length);
        }
    }
    return ERROR_SUCCESS;
}

/* Current is completion exactly when it may be broken. */
static vd_error
wait_for_break(struct job *job)
{
    struct vd_virtual_disk *virtual_disk = job->virtual_disk;
    VD_SCOPED_LOCK(&virtual_disk->operation_lock);
    virtual_disk->mirror_phase = VD_MIRROR_EQUAL;
    vd_progress_advance(job->progress, UINT64_MAX);
    while (virtual_disk->mirror_phase == VD_MIRROR_EQUAL) {
        vd_error error = vd_progress_check(job->progress);
        if (!error) {
            error = vd_mirror_state(&job->mirror);
        }
        if (error) {
            return error;
        }
        pthread_cond_wait(&virtual_disk->news, &virtual_disk->operation_lock);
    }
    return vd_mirror_state(&job->mirror);
}

/* ---- going over ---- */

/* Both files keep their content; the target's is whole and durable. */
static vd_error
finish_target(struct job *job)
{
    struct vd_virtual_disk *virtual_disk = job->virtual_disk;
    vd_error error = vd_held_enter();
    vd_error finished = vd_disk_finish(VD_TAKE(virtual_disk->mirror_target));
    vd_disk_close(VD_TAKE(virtual_disk->working));
    if (!error) {
        vd_held_leave();
    }
    if (!finished && virtual_disk->creation != NULL) {
        finished = vd_new_file_publish(&virtual_disk->creation->file);
    }
    return finished;
}

static vd_error
look_at_target(struct job *job, struct vd_disk **out)
{
    struct vd_disk_options options = {
        .writable = vd_disk_writable(job->virtual_disk->disk)};
    return job->existing != NULL
               ? vd_disk_open(job->arguments->path, &options, out)
               : vd_creation_look(job->virtual_disk->creation, out);
}

static vd_error
change_look(struct job *job)
{
    struct vd_virtual_disk *virtual_disk = job->virtual_disk;
    struct vd_disk *now;
    vd_error error = vd_held_enter();
    if (error) {
        return error;
    }
    error = look_at_target(job, &now);
    if (!error) {
        struct vd_disk *before = virtual_disk->disk;
        virtual_disk->disk = now;
        virtual_disk->file_id = vd_disk_file_id(now);
        vd_disk_close(before);
    }
    vd_held_leave();
    return error;
}

/* Nobody uses the disk while it is exchanged: who comes waits for the lock,
 * and who is there is waited for. */
static vd_error
exchange(struct job *job)
{
    struct vd_virtual_disk *virtual_disk = job->virtual_disk;
    bool attached = virtual_disk->working == NULL;
    vd_virtual_disk_drop_attachment(virtual_disk);
    vd_error error = vd_mirror_state(&job->mirror);
    if (!error || (attached && error == ERROR_NOT_READY)) {
        error = finish_target(job);
    }
    if (!error) {
        error = change_look(job);
    }
    if (!attached) {
        return error;
    }
    vd_error again = vd_attach(virtual_disk->disk, &virtual_disk->request,
                               &virtual_disk->attachment);
    return error ? error : again;
}

static vd_error
go_over(struct job *job)
{
    struct vd_virtual_disk *virtual_disk = job->virtual_disk;
    pthread_rwlock_wrlock(&virtual_disk->disk_lock);
    pthread_mutex_lock(&virtual_disk->lock);
    vd_error error = exchange(job);
    pthread_mutex_unlock(&virtual_disk->lock);
    pthread_rwlock_unlock(&virtual_disk->disk_lock);
    return error;
}

/* ---- the operation ---- */

static vd_error
mirror(struct job *job)
{
    vd_error error = start(job);
    if (error) {
        return error;
    }
    error = copy_all(job);
    if (!error) {
        error = wait_for_break(job);
    }
    if (error) {
        stop(job);
        return error;
    }
    return go_over(job);
}

static vd_error
open_and_mirror(struct job *job)
{
    vd_error error = vd_held_enter();
    if (error) {
        return error;
    }
    error = open_all(job);
    vd_held_leave();
    if (!error) {
        error = vd_mirror_init(&job->mirror, job->virtual_disk->mirror_target,
                               !job->arguments->existing);
    }
    if (error) {
        return error;
    }
    job->mirror.notify = tell;
    job->mirror.context = job->virtual_disk;
    error = mirror(job);
    vd_mirror_destroy(&job->mirror);
    return error;
}

static vd_error
run(struct vd_virtual_disk *virtual_disk, const void *arguments,
    struct vd_progress *progress)
{
    struct job job = {
        .virtual_disk = virtual_disk,
        .arguments = arguments,
        .progress = progress,
    };
    vd_error error = open_and_mirror(&job);
    close_all(&job);
    VD_SCOPED_LOCK(&virtual_disk->operation_lock);
    virtual_disk->mirror_phase = VD_MIRROR_NONE;
    return error;
}

static void
clear(void *arguments)
{
    free(((struct mirror_arguments *)arguments)->path);
}

/* ---- MirrorVirtualDisk ---- */

static vd_error
check_flags(uint32_t flags)
{
    if ((flags & ~(uint32_t)FLAGS_KNOWN) != 0) {
        return vd_refuse(ERROR_INVALID_PARAMETER, "mirror flags %#x", flags);
    }
    if ((flags & MIRROR_VIRTUAL_DISK_FLAG_SKIP_MIRROR_ACTIVATION) != 0) {
        return vd_refuse(ERROR_NOT_SUPPORTED,
                         "SKIP_MIRROR_ACTIVATION: nobody says what it means");
    }
    return ERROR_SUCCESS;
}

static vd_error
check_arguments(uint32_t flags,
                const MIRROR_VIRTUAL_DISK_PARAMETERS *parameters,
                const OVERLAPPED *overlapped)
{
    if (parameters == NULL || overlapped == NULL) {
        return vd_refuse(ERROR_INVALID_PARAMETER, "a pointer is NULL");
    }
    if (parameters->Version != MIRROR_VIRTUAL_DISK_VERSION_1 ||
        parameters->Version1.MirrorVirtualDiskPath == NULL) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "MIRROR_VIRTUAL_DISK_PARAMETERS version %u",
                         (unsigned)parameters->Version);
    }
    return check_flags(flags);
}

static vd_error
check_handle(struct vd_virtual_disk *virtual_disk)
{
    if (virtual_disk->options.version < OPEN_VIRTUAL_DISK_VERSION_2) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "a handle of version 1 cannot be mirrored");
    }
    if (!virtual_disk->rights.change) {
        return vd_refuse(ERROR_ACCESS_DENIED,
                         "the handle may not change the image");
    }
    return ERROR_SUCCESS;
}

static vd_error
check_disk(struct vd_virtual_disk *virtual_disk)
{
    pthread_rwlock_rdlock(&virtual_disk->disk_lock);
    bool complete = vd_disk_complete(virtual_disk->disk);
    pthread_rwlock_unlock(&virtual_disk->disk_lock);
    if (!complete) {
        return vd_refuse(ERROR_VHD_PARENT_VHD_NOT_FOUND,
                         "opened without its parents");
    }
    return ERROR_SUCCESS;
}

static vd_error
start_operation(struct vd_virtual_disk *virtual_disk, uint32_t flags,
                PCWSTR path, OVERLAPPED *overlapped)
{
    struct mirror_arguments arguments = {
        .existing = (flags & MIRROR_VIRTUAL_DISK_FLAG_EXISTING_FILE) != 0,
    };
    vd_error error = vd_utf16_to_bytes(path, &arguments.path);
    if (error) {
        return error;
    }
    error = vd_operation_start(virtual_disk, overlapped,
                               &(struct vd_work){
                                   .run = run,
                                   .arguments = &arguments,
                                   .arguments_size = sizeof(arguments),
                                   .clear = clear,
                                   .background = true,
                               });
    if (error != ERROR_IO_PENDING) {
        free(arguments.path);
    }
    return error;
}

/* Errors of the work, the existence of the mirror's file among them, are
 * those of the operation.  ERROR_NOT_READY: the disk was detached. */
DWORD WINAPI
MirrorVirtualDisk(HANDLE VirtualDiskHandle, MIRROR_VIRTUAL_DISK_FLAG Flags,
                  PMIRROR_VIRTUAL_DISK_PARAMETERS Parameters,
                  LPOVERLAPPED Overlapped)
{
    struct vd_virtual_disk *virtual_disk;
    vd_error error = vd_virtual_disk_acquire(VirtualDiskHandle, &virtual_disk);
    if (error) {
        return error;
    }
    error = check_arguments(Flags, Parameters, Overlapped);
    if (!error) {
        error = check_handle(virtual_disk);
    }
    if (!error) {
        error = check_disk(virtual_disk);
    }
    if (!error) {
        error = start_operation(virtual_disk, Flags,
                                Parameters->Version1.MirrorVirtualDiskPath,
                                Overlapped);
    }
    vd_virtual_disk_release(virtual_disk);
    return error;
}

/* ---- BreakMirrorVirtualDisk ---- */

static vd_error
ask_to_break(struct vd_virtual_disk *virtual_disk)
{
    VD_SCOPED_LOCK(&virtual_disk->operation_lock);
    if (virtual_disk->mirror_phase != VD_MIRROR_EQUAL) {
        return vd_refuse(ERROR_VHD_INVALID_STATE,
                         "there is no mirror that is equal");
    }
    virtual_disk->mirror_phase = VD_MIRROR_BREAKING;
    pthread_cond_broadcast(&virtual_disk->news);
    return ERROR_SUCCESS;
}

static vd_error
break_and_wait(struct vd_virtual_disk *virtual_disk)
{
    uint64_t current;
    uint64_t completion;
    struct vd_operation *operation = vd_operation_find(virtual_disk, NULL);
    vd_error error = ask_to_break(virtual_disk);
    if (!error) {
        vd_operation_wait(operation);
        error = vd_operation_progress(operation, &current, &completion);
    }
    vd_operation_release(operation);
    return error;
}

/* Returns when the disk is the mirror, or why it could not be; then it is
 * what it was.  ERROR_VHD_INVALID_STATE (inferred) if there is no mirror, or
 * it is not equal yet. */
DWORD WINAPI
BreakMirrorVirtualDisk(HANDLE VirtualDiskHandle)
{
    struct vd_virtual_disk *virtual_disk;
    vd_error error = vd_virtual_disk_acquire(VirtualDiskHandle, &virtual_disk);
    if (error) {
        return error;
    }
    error = break_and_wait(virtual_disk);
    vd_virtual_disk_release(virtual_disk);
    return error;
}
