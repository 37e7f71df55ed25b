/*
 * MergeVirtualDisk (virtdisk.h).
 *
 * The whole chain must be detached, also for version 2, which on Windows may
 * merge parents of a disk that is in use.  Nothing is deleted.  The handle
 * stays one to the leaf: if that has been merged away it can still be read
 * through it, for as long as nobody writes to the target; if layers below it
 * have been, the handle sees the chain without them.
 *
 * Where Microsoft documents no code, those of disk/merge.h are inferred.
 */
#include <virtdisk.h>

#include "api/offline.h"
#include "api/operation.h"
#include "api/refuse.h"
#include "api/virtual_disk.h"
#include "disk/merge.h"

/* ---- the work ---- */

static vd_error
merge_disk(struct vd_disk *disk, const void *arguments,
           struct vd_progress *progress)
{
    const struct vd_merge *merge = arguments;
    return vd_disk_merge(disk, merge, progress);
}

static vd_error
check_chain(struct vd_virtual_disk *virtual_disk, const struct vd_merge *merge)
{
    pthread_rwlock_rdlock(&virtual_disk->disk_lock);
    vd_error error = vd_merge_check(virtual_disk->disk, merge);
    pthread_rwlock_unlock(&virtual_disk->disk_lock);
    return error;
}

static vd_error
merge_offline(struct vd_virtual_disk *virtual_disk, const void *arguments,
              struct vd_progress *progress)
{
    const struct vd_merge *merge = arguments;
    struct vd_layer_set written;
    struct vd_chain_change change = {
        .kept = merge->source,
        .removed = merge->target - merge->source,
    };
    struct vd_offline_work work = {
        .run = merge_disk,
        .arguments = merge,
        .written = &written,
        .change = merge->source != 0 ? &change : NULL,
    };
    vd_error error = check_chain(virtual_disk, merge);
    if (error) {
        return error;
    }
    vd_merge_written(merge, &written);
    return vd_offline_run(virtual_disk, &work, progress);
}

static vd_error
start(struct vd_virtual_disk *virtual_disk, const struct vd_merge *merge,
      OVERLAPPED *overlapped)
{
    struct vd_work work = {
        .run = merge_offline,
        .arguments = merge,
        .arguments_size = sizeof(*merge),
    };
    vd_error error = check_chain(virtual_disk, merge);
    return error ? error : vd_operation_run(virtual_disk, overlapped, &work);
}

/* ---- the arguments ---- */

/* Version 1 merges the leaf, and what is between, that many layers up. */
static vd_error
read_version_1(const struct vd_virtual_disk *virtual_disk, ULONG depth,
               struct vd_merge *out)
{
    if (depth == 0) {
        return vd_refuse(ERROR_INVALID_PARAMETER, "MergeDepth is 0");
    }
    if (virtual_disk->options.version == OPEN_VIRTUAL_DISK_VERSION_1 &&
        virtual_disk->options.rw_depth <= depth) {
        return vd_refuse(ERROR_ACCESS_DENIED,
                         "RWDepth %u lets no more than %u layers be written",
                         virtual_disk->options.rw_depth,
                         virtual_disk->options.rw_depth);
    }
    *out = (struct vd_merge){.source = 0, .target = depth};
    return ERROR_SUCCESS;
}

/* In version 2 the leaf is at depth 1. */
static vd_error
read_version_2(const struct vd_virtual_disk *virtual_disk, ULONG source,
               ULONG target, struct vd_merge *out)
{
    if (virtual_disk->options.version == OPEN_VIRTUAL_DISK_VERSION_1) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "version 2 needs a handle of version 2");
    }
    if (source == 0 || target <= source) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "MergeSourceDepth %u, MergeTargetDepth %u", source,
                         target);
    }
    *out = (struct vd_merge){
        .source = source - 1,
        .target = target - 1,
    };
    return ERROR_SUCCESS;
}

static vd_error
read_parameters(const struct vd_virtual_disk *virtual_disk,
                const MERGE_VIRTUAL_DISK_PARAMETERS *parameters,
                struct vd_merge *out)
{
    switch (parameters->Version) {
    case MERGE_VIRTUAL_DISK_VERSION_1:
        return read_version_1(virtual_disk, parameters->Version1.MergeDepth,
                              out);
    case MERGE_VIRTUAL_DISK_VERSION_2:
        return read_version_2(virtual_disk,
                              parameters->Version2.MergeSourceDepth,
                              parameters->Version2.MergeTargetDepth, out);
    default:
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "MERGE_VIRTUAL_DISK_PARAMETERS version %u",
                         (unsigned)parameters->Version);
    }
}

static vd_error
check_and_start(struct vd_virtual_disk *virtual_disk,
                MERGE_VIRTUAL_DISK_FLAG flags,
                const MERGE_VIRTUAL_DISK_PARAMETERS *parameters,
                OVERLAPPED *overlapped)
{
    struct vd_merge merge;
    if (flags != MERGE_VIRTUAL_DISK_FLAG_NONE || parameters == NULL) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "flags %#x, or no parameters", (unsigned)flags);
    }
    if (!virtual_disk->rights.change) {
        return vd_refuse(ERROR_ACCESS_DENIED,
                         "the handle may not change the image");
    }
    vd_error error = read_parameters(virtual_disk, parameters, &merge);
    return error ? error : start(virtual_disk, &merge, overlapped);
}

DWORD WINAPI
MergeVirtualDisk(HANDLE VirtualDiskHandle, MERGE_VIRTUAL_DISK_FLAG Flags,
                 PMERGE_VIRTUAL_DISK_PARAMETERS Parameters,
                 LPOVERLAPPED Overlapped)
{
    struct vd_virtual_disk *virtual_disk;
    vd_error error = vd_virtual_disk_acquire(VirtualDiskHandle, &virtual_disk);
    if (error) {
        return error;
    }
    error = check_and_start(virtual_disk, Flags, Parameters, Overlapped);
    vd_virtual_disk_release(virtual_disk);
    return error;
}
