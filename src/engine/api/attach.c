/*
 * AttachVirtualDisk (virtdisk.h): argument checks, flags, versions, rights,
 * and what the disk is to look like; making it visible is attach/'s.
 *
 * Arguments are judged before anything happens, with an OVERLAPPED too: a
 * bad one is this call's error.  What depends on the state of the image, on
 * its content or on the system is found by the work itself.
 */
#include <virtdisk.h>

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "api/look.h"
#include "api/operation.h"
#include "api/refuse.h"
#include "api/security.h"
#include "api/virtual_disk.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "disk/partition_table.h"
#include "disk/progress.h"

#define FLAGS_KNOWN                                                           \
    (ATTACH_VIRTUAL_DISK_FLAG_READ_ONLY |                                     \
     ATTACH_VIRTUAL_DISK_FLAG_NO_DRIVE_LETTER |                               \
     ATTACH_VIRTUAL_DISK_FLAG_PERMANENT_LIFETIME |                            \
     ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST |                                 \
     ATTACH_VIRTUAL_DISK_FLAG_NO_SECURITY_DESCRIPTOR |                        \
     ATTACH_VIRTUAL_DISK_FLAG_BYPASS_DEFAULT_ENCRYPTION_POLICY |              \
     ATTACH_VIRTUAL_DISK_FLAG_NON_PNP |                                       \
     ATTACH_VIRTUAL_DISK_FLAG_RESTRICTED_RANGE |                              \
     ATTACH_VIRTUAL_DISK_FLAG_SINGLE_PARTITION |                              \
     ATTACH_VIRTUAL_DISK_FLAG_REGISTER_VOLUME |                               \
     ATTACH_VIRTUAL_DISK_FLAG_AT_BOOT)

/* The arguments, whatever the version they came in. */
struct attach_arguments {
    uint32_t flags; /* ATTACH_VIRTUAL_DISK_FLAG */
    uint64_t restricted_offset;
    uint64_t restricted_length;
};

/* What the work is given. */
struct attach_work {
    struct vd_attach_request request;
    bool single_partition; /* then the request's window is still to be found */
};

/* Combinations that contradict themselves: all of `with` and none of
 * `without` is ERROR_INVALID_PARAMETER. */
static const struct combination {
    uint32_t with;
    uint32_t without;
    const char *reason;
} refused_combinations[] = {
    {ATTACH_VIRTUAL_DISK_FLAG_REGISTER_VOLUME,
     ATTACH_VIRTUAL_DISK_FLAG_NON_PNP, "REGISTER_VOLUME is for NON_PNP disks"},
    {ATTACH_VIRTUAL_DISK_FLAG_SINGLE_PARTITION |
         ATTACH_VIRTUAL_DISK_FLAG_RESTRICTED_RANGE,
     0, "either SINGLE_PARTITION or RESTRICTED_RANGE"},
};

/* The same for an optical disc. */
static const struct combination refused_for_optical[] = {
    {0, ATTACH_VIRTUAL_DISK_FLAG_READ_ONLY,
     "an ISO image is attached READ_ONLY"},
    {ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST, 0,
     "an ISO image is attached to the system"},
    {ATTACH_VIRTUAL_DISK_FLAG_SINGLE_PARTITION, 0,
     "an ISO image has no partitions"},
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static bool
has(uint32_t flags, uint32_t flag)
{
    return (flags & flag) != 0;
}

static vd_error
check_combinations(uint32_t flags, const struct combination *table,
                   size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if ((flags & table[i].with) == table[i].with &&
            (flags & table[i].without) == 0) {
            return vd_refuse(ERROR_INVALID_PARAMETER, "attach flags %#x: %s",
                             flags, table[i].reason);
        }
    }
    return ERROR_SUCCESS;
}

/* Microsoft's provider defines no flags of its own (inferred: the page says
 * only that they are the provider's). */
static vd_error
check_flags(uint32_t flags, uint32_t provider_specific_flags)
{
    if ((flags & ~(uint32_t)FLAGS_KNOWN) != 0) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "attach flags %#x have unknown bits", flags);
    }
    if (provider_specific_flags != 0) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "provider-specific flags %#x",
                         provider_specific_flags);
    }
    if (has(flags, ATTACH_VIRTUAL_DISK_FLAG_AT_BOOT)) {
        return vd_refuse(ERROR_NOT_SUPPORTED,
                         "AT_BOOT: attach from a systemd unit instead");
    }
    return check_combinations(flags, refused_combinations,
                              COUNT(refused_combinations));
}

static vd_error
check_version_1(const ATTACH_VIRTUAL_DISK_PARAMETERS *parameters)
{
    if (parameters != NULL && parameters->Version1.Reserved != 0) {
        return vd_refuse(ERROR_INVALID_PARAMETER, "Reserved is not 0");
    }
    return ERROR_SUCCESS;
}

static vd_error
read_parameters(const ATTACH_VIRTUAL_DISK_PARAMETERS *parameters,
                struct attach_arguments *arguments)
{
    bool restricted =
        has(arguments->flags, ATTACH_VIRTUAL_DISK_FLAG_RESTRICTED_RANGE);
    if (parameters != NULL &&
        parameters->Version == ATTACH_VIRTUAL_DISK_VERSION_2) {
        arguments->restricted_offset = parameters->Version2.RestrictedOffset;
        arguments->restricted_length = parameters->Version2.RestrictedLength;
        if (!restricted && (arguments->restricted_offset != 0 ||
                            arguments->restricted_length != 0)) {
            return vd_refuse(ERROR_INVALID_PARAMETER,
                             "a range without RESTRICTED_RANGE");
        }
        return ERROR_SUCCESS;
    }
    if (parameters != NULL &&
        parameters->Version != ATTACH_VIRTUAL_DISK_VERSION_1) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "ATTACH_VIRTUAL_DISK_PARAMETERS version %u",
                         (unsigned)parameters->Version);
    }
    if (restricted) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "RESTRICTED_RANGE needs version 2 parameters");
    }
    return check_version_1(parameters);
}

static vd_error
check_rights(const struct vd_virtual_disk *virtual_disk, uint32_t flags)
{
    bool allowed = has(flags, ATTACH_VIRTUAL_DISK_FLAG_READ_ONLY)
                       ? virtual_disk->rights.attach_read_only
                       : virtual_disk->rights.attach_writable;
    if (!allowed) {
        return vd_refuse(ERROR_ACCESS_DENIED,
                         "the handle was not opened for this attachment");
    }
    return ERROR_SUCCESS;
}

static vd_error
check_disk(const struct vd_virtual_disk *virtual_disk, uint32_t flags)
{
    if (!vd_disk_optical(virtual_disk->disk)) {
        return ERROR_SUCCESS;
    }
    return check_combinations(flags, refused_for_optical,
                              COUNT(refused_for_optical));
}

/* The window of the request: the restricted range, or the whole disk. */
static vd_error
choose_window(const struct vd_disk *disk,
              const struct attach_arguments *arguments,
              struct vd_attach_request *request)
{
    uint64_t disk_size = vd_disk_size_bytes(disk);
    if (!has(arguments->flags, ATTACH_VIRTUAL_DISK_FLAG_RESTRICTED_RANGE)) {
        request->window_offset = 0;
        request->window_length = disk_size;
        return ERROR_SUCCESS;
    }
    uint64_t offset = arguments->restricted_offset;
    uint64_t length = arguments->restricted_length;
    uint32_t sector_size = vd_disk_sector_size(disk);
    if (length == 0 || offset % sector_size != 0 ||
        length % sector_size != 0 ||
        !vd_range_within(offset, length, disk_size)) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "range %llu+%llu is not whole sectors of the disk",
                         (unsigned long long)offset,
                         (unsigned long long)length);
    }
    request->window_offset = offset;
    request->window_length = length;
    return ERROR_SUCCESS;
}

static vd_error
choose_access(const struct vd_disk *disk, uint32_t flags,
              const void *security_descriptor, struct vd_node_access *out)
{
    if (has(flags, ATTACH_VIRTUAL_DISK_FLAG_NO_SECURITY_DESCRIPTOR)) {
        if (security_descriptor != NULL) {
            return vd_refuse(ERROR_INVALID_PARAMETER,
                             "a descriptor with NO_SECURITY_DESCRIPTOR");
        }
        out->set = false;
        return ERROR_SUCCESS;
    }
    struct stat image;
    if (fstat(vd_disk_fd(disk), &image) < 0) {
        return vd_refuse(vd_error_from_errno(errno), "fstat of the image");
    }
    return vd_security_access(security_descriptor, &image, out);
}

/* A non-PnP disk has no volumes unless they are registered. */
static bool
wants_volumes(uint32_t flags)
{
    return !has(flags, ATTACH_VIRTUAL_DISK_FLAG_NO_DRIVE_LETTER) &&
           (!has(flags, ATTACH_VIRTUAL_DISK_FLAG_NON_PNP) ||
            has(flags, ATTACH_VIRTUAL_DISK_FLAG_REGISTER_VOLUME));
}

static vd_error
plan(const struct vd_virtual_disk *virtual_disk,
     const struct attach_arguments *arguments, const void *security_descriptor,
     struct attach_work *out)
{
    uint32_t flags = arguments->flags;
    *out = (struct attach_work){
        .request =
            {
                .local = !has(flags, ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST),
                .read_only = has(flags, ATTACH_VIRTUAL_DISK_FLAG_READ_ONLY),
                .permanent =
                    has(flags, ATTACH_VIRTUAL_DISK_FLAG_PERMANENT_LIFETIME),
                .partition_nodes = wants_volumes(flags),
                .cached_io = virtual_disk->options.cached_io,
                .exact_access = security_descriptor != NULL,
            },
        .single_partition =
            has(flags, ATTACH_VIRTUAL_DISK_FLAG_SINGLE_PARTITION),
    };
    vd_error error =
        choose_window(virtual_disk->disk, arguments, &out->request);
    return error ? error
                 : choose_access(virtual_disk->disk, flags,
                                 security_descriptor, &out->request.access);
}

/* The one data partition.  None and several are both ERROR_NOT_FOUND
 * (inferred): there is no such thing as "the" data partition. */
static vd_error
find_single_partition(const struct vd_partition_table *table,
                      struct vd_attach_request *request)
{
    const struct vd_partition *single = NULL;
    for (size_t i = 0; i < table->count; i++) {
        if (!table->partitions[i].data) {
            continue;
        }
        if (single != NULL) {
            return vd_refuse(ERROR_NOT_FOUND, "several data partitions");
        }
        single = &table->partitions[i];
    }
    if (single == NULL) {
        return vd_refuse(ERROR_NOT_FOUND, "no data partition");
    }
    request->window_offset = single->offset_bytes;
    request->window_length = single->length_bytes;
    return ERROR_SUCCESS;
}

/* As the disk is now: it may have been partitioned since it was opened. */
static vd_error
choose_single_partition(const struct vd_disk *disk,
                        struct vd_attach_request *request)
{
    struct vd_disk *now;
    VD_AUTO_FREE struct vd_partition_table *table = malloc(sizeof(*table));
    if (table == NULL) {
        return vd_refuse(ERROR_NOT_ENOUGH_MEMORY,
                         "no memory for a partition table");
    }
    vd_error error = vd_look_again(disk, false, &now);
    if (error) {
        return error;
    }
    error = vd_partition_table_read(now, table);
    vd_disk_close(now);
    return error ? error : find_single_partition(table, request);
}

/* Undoes an attachment that was cancelled too late to stop it.  If somebody
 * uses the device by then, it stays, and the call is a success. */
static vd_error
undo(struct vd_virtual_disk *virtual_disk)
{
    vd_error error = vd_attachment_detach(virtual_disk->attachment);
    if (error && error != ERROR_NOT_READY) {
        return ERROR_SUCCESS;
    }
    vd_virtual_disk_drop_attachment(virtual_disk);
    return vd_refuse(ERROR_OPERATION_ABORTED, "cancelled");
}

static vd_error
attach(struct vd_virtual_disk *virtual_disk, const struct attach_work *work)
{
    struct vd_attach_request request = work->request;
    if (vd_virtual_disk_attachment(virtual_disk) != NULL) {
        return vd_refuse(ERROR_SHARING_VIOLATION,
                         "attached through this handle");
    }
    if (work->single_partition) {
        vd_error error = choose_single_partition(virtual_disk->disk, &request);
        if (error) {
            return error;
        }
    }
    virtual_disk->request = request;
    return vd_attach(virtual_disk->disk, &request, &virtual_disk->attachment);
}

static vd_error
attach_unless_cancelled(struct vd_virtual_disk *virtual_disk,
                        const struct attach_work *work,
                        struct vd_progress *progress)
{
    VD_SCOPED_LOCK(&virtual_disk->lock);
    vd_error error = vd_progress_check(progress);
    if (error) {
        return error;
    }
    error = attach(virtual_disk, work);
    if (!error && vd_progress_cancelled(progress)) {
        return undo(virtual_disk);
    }
    return error;
}

static vd_error
run(struct vd_virtual_disk *virtual_disk, const void *arguments,
    struct vd_progress *progress)
{
    pthread_rwlock_rdlock(&virtual_disk->disk_lock);
    vd_error error =
        attach_unless_cancelled(virtual_disk, arguments, progress);
    pthread_rwlock_unlock(&virtual_disk->disk_lock);
    return error;
}

static vd_error
check_and_plan(const struct vd_virtual_disk *virtual_disk,
               const struct attach_arguments *arguments,
               const void *security_descriptor, struct attach_work *out)
{
    vd_error error = check_disk(virtual_disk, arguments->flags);
    if (!error) {
        error = check_rights(virtual_disk, arguments->flags);
    }
    if (!error && !vd_disk_complete(virtual_disk->disk)) {
        error = vd_refuse(ERROR_VHD_PARENT_VHD_NOT_FOUND,
                          "opened without its parents");
    }
    return error ? error
                 : plan(virtual_disk, arguments, security_descriptor, out);
}

static vd_error
check_and_start(struct vd_virtual_disk *virtual_disk,
                const struct attach_arguments *arguments,
                const void *security_descriptor, OVERLAPPED *overlapped)
{
    struct attach_work work;
    pthread_rwlock_rdlock(&virtual_disk->disk_lock);
    vd_error error =
        check_and_plan(virtual_disk, arguments, security_descriptor, &work);
    pthread_rwlock_unlock(&virtual_disk->disk_lock);
    return error ? error
                 : vd_operation_run(virtual_disk, overlapped,
                                    &(struct vd_work){
                                        .run = run,
                                        .arguments = &work,
                                        .arguments_size = sizeof(work),
                                    });
}

/* An image is attached once: a second attempt, by anybody, is
 * ERROR_SHARING_VIOLATION.  Without PERMANENT_LIFETIME the disk goes when
 * the last handle to this opening of it is closed. */
DWORD WINAPI
AttachVirtualDisk(HANDLE VirtualDiskHandle,
                  PSECURITY_DESCRIPTOR SecurityDescriptor,
                  ATTACH_VIRTUAL_DISK_FLAG Flags, ULONG ProviderSpecificFlags,
                  PATTACH_VIRTUAL_DISK_PARAMETERS Parameters,
                  LPOVERLAPPED Overlapped)
{
    struct attach_arguments arguments = {.flags = Flags};
    struct vd_virtual_disk *virtual_disk;
    vd_error error = vd_virtual_disk_acquire(VirtualDiskHandle, &virtual_disk);
    if (error) {
        return error;
    }
    error = check_flags(arguments.flags, ProviderSpecificFlags);
    if (!error) {
        error = read_parameters(Parameters, &arguments);
    }
    if (!error) {
        error = check_and_start(virtual_disk, &arguments, SecurityDescriptor,
                                Overlapped);
    }
    vd_virtual_disk_release(virtual_disk);
    return error;
}
