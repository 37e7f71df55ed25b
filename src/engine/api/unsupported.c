/*
 * What virtdisk.h has and no published format can carry: change tracking,
 * VHD Sets and forks.
 *
 * Handle, arguments and rights are checked as everywhere; then the answer is
 * ERROR_NOT_SUPPORTED, with the reason in the trace.  Which right a function
 * needs is inferred: GET_INFO to ask, METAOPS to change.
 */
#include <virtdisk.h>

#include <stdbool.h>

#include "api/refuse.h"
#include "api/virtual_disk.h"

#define NO_VHD_SETS "the format of VHD Sets is not published"
#define NO_CHANGE_TRACKING "the format of change tracking is not published"
#define NO_FORKS "what a fork writes is not published"

static vd_error
refuse(bool well_formed, bool allowed, const char *reason)
{
    if (!well_formed) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "a pointer is NULL, or a version or flag unknown");
    }
    if (!allowed) {
        return vd_refuse(ERROR_ACCESS_DENIED,
                         "the handle was not opened for that");
    }
    return vd_refuse(ERROR_NOT_SUPPORTED, "%s", reason);
}

static vd_error
answer(HANDLE handle, bool well_formed, bool to_change, const char *reason)
{
    struct vd_virtual_disk *virtual_disk;
    vd_error error = vd_virtual_disk_acquire(handle, &virtual_disk);
    if (error) {
        return error;
    }
    bool allowed = to_change ? virtual_disk->rights.change
                             : virtual_disk->rights.get_info;
    vd_virtual_disk_release(virtual_disk);
    return refuse(well_formed, allowed, reason);
}

static vd_error
refuse_to_tell(HANDLE handle, bool well_formed, const char *reason)
{
    return answer(handle, well_formed, false, reason);
}

static vd_error
refuse_to_change(HANDLE handle, bool well_formed, const char *reason)
{
    return answer(handle, well_formed, true, reason);
}

static bool
has_other_flags(unsigned flags, unsigned known)
{
    return (flags & ~known) != 0;
}

static bool
is_tracking_id(PCWSTR text)
{
    for (size_t i = 0; i <= VIRTUAL_DISK_MAXIMUM_CHANGE_TRACKING_ID_LENGTH;
         i++) {
        if (text[i] == 0) {
            return i != 0;
        }
    }
    return false;
}

DWORD WINAPI
QueryChangesVirtualDisk(HANDLE VirtualDiskHandle, PCWSTR ChangeTrackingId,
                        ULONG64 ByteOffset, ULONG64 ByteLength,
                        QUERY_CHANGES_VIRTUAL_DISK_FLAG Flags,
                        PQUERY_CHANGES_VIRTUAL_DISK_RANGE Ranges,
                        PULONG RangeCount, PULONG64 ProcessedLength)
{
    (void)ByteOffset;
    (void)ByteLength;
    bool well_formed =
        ChangeTrackingId != NULL && Ranges != NULL && RangeCount != NULL &&
        ProcessedLength != NULL &&
        !has_other_flags(Flags, QUERY_CHANGES_VIRTUAL_DISK_FLAG_NONE) &&
        is_tracking_id(ChangeTrackingId);
    return refuse_to_tell(VirtualDiskHandle, well_formed, NO_CHANGE_TRACKING);
}

DWORD WINAPI
TakeSnapshotVhdSet(HANDLE VirtualDiskHandle,
                   const PTAKE_SNAPSHOT_VHDSET_PARAMETERS Parameters,
                   TAKE_SNAPSHOT_VHDSET_FLAG Flags)
{
    bool well_formed =
        Parameters != NULL &&
        Parameters->Version == TAKE_SNAPSHOT_VHDSET_VERSION_1 &&
        !has_other_flags(Flags, TAKE_SNAPSHOT_VHDSET_FLAG_WRITEABLE);
    return refuse_to_change(VirtualDiskHandle, well_formed, NO_VHD_SETS);
}

DWORD WINAPI
DeleteSnapshotVhdSet(HANDLE VirtualDiskHandle,
                     const PDELETE_SNAPSHOT_VHDSET_PARAMETERS Parameters,
                     DELETE_SNAPSHOT_VHDSET_FLAG Flags)
{
    bool well_formed =
        Parameters != NULL &&
        Parameters->Version == DELETE_SNAPSHOT_VHDSET_VERSION_1 &&
        !has_other_flags(Flags, DELETE_SNAPSHOT_VHDSET_FLAG_PERSIST_RCT);
    return refuse_to_change(VirtualDiskHandle, well_formed, NO_VHD_SETS);
}

/* The version says which member of the union there is. */
static bool
is_modification(const MODIFY_VHDSET_PARAMETERS *parameters)
{
    switch (parameters->Version) {
    case MODIFY_VHDSET_SNAPSHOT_PATH:
        return parameters->SnapshotPath.SnapshotFilePath != NULL;
    case MODIFY_VHDSET_REMOVE_SNAPSHOT:
        return true;
    case MODIFY_VHDSET_DEFAULT_SNAPSHOT_PATH:
        return parameters->DefaultFilePath != NULL;
    default:
        return false;
    }
}

DWORD WINAPI
ModifyVhdSet(HANDLE VirtualDiskHandle,
             const PMODIFY_VHDSET_PARAMETERS Parameters,
             MODIFY_VHDSET_FLAG Flags)
{
    bool well_formed =
        Parameters != NULL && is_modification(Parameters) &&
        !has_other_flags(Flags, MODIFY_VHDSET_FLAG_WRITEABLE_SNAPSHOT);
    return refuse_to_change(VirtualDiskHandle, well_formed, NO_VHD_SETS);
}

DWORD WINAPI
ApplySnapshotVhdSet(HANDLE VirtualDiskHandle,
                    const PAPPLY_SNAPSHOT_VHDSET_PARAMETERS Parameters,
                    APPLY_SNAPSHOT_VHDSET_FLAG Flags)
{
    bool well_formed =
        Parameters != NULL &&
        Parameters->Version == APPLY_SNAPSHOT_VHDSET_VERSION_1 &&
        !has_other_flags(Flags, APPLY_SNAPSHOT_VHDSET_FLAG_WRITEABLE);
    return refuse_to_change(VirtualDiskHandle, well_formed, NO_VHD_SETS);
}

DWORD WINAPI
ForkVirtualDisk(HANDLE VirtualDiskHandle, FORK_VIRTUAL_DISK_FLAG Flags,
                const FORK_VIRTUAL_DISK_PARAMETERS *Parameters,
                LPOVERLAPPED Overlapped)
{
    bool well_formed =
        Parameters != NULL && Overlapped != NULL &&
        Parameters->Version == FORK_VIRTUAL_DISK_VERSION_1 &&
        Parameters->Version1.ForkedVirtualDiskPath != NULL &&
        !has_other_flags(Flags, FORK_VIRTUAL_DISK_FLAG_EXISTING_FILE);
    return refuse_to_change(VirtualDiskHandle, well_formed, NO_FORKS);
}

DWORD WINAPI
CompleteForkVirtualDisk(HANDLE VirtualDiskHandle)
{
    return refuse_to_change(VirtualDiskHandle, true, NO_FORKS);
}
