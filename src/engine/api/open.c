/*
 * OpenVirtualDisk (virtdisk.h): argument checks, versions, flags, access
 * masks; the file itself is opened by disk/.
 *
 * The handle is to a look at the image: nothing is written and no lock is
 * taken before it is attached.  PARENT_CACHED_IO, NO_WRITE_HARDENING and the
 * SUPPORT flags are accepted and change nothing on Linux.
 */
#include <virtdisk.h>

#include <stdbool.h>
#include <stdlib.h>

#include "api/look.h"
#include "api/open.h"
#include "api/refuse.h"
#include "api/virtual_disk.h"
#include "base/cleanup.h"
#include "base/guid.h"
#include "base/utf16.h"
#include "disk/image_lock.h"

#define ACCESS_ATTACH                                                         \
    (VIRTUAL_DISK_ACCESS_ATTACH_RO | VIRTUAL_DISK_ACCESS_ATTACH_RW)

/* "Reserved" in Microsoft's documentation: for the kernel and the VHD
 * creator alone. */
#define FLAGS_RESERVED                                                        \
    (OPEN_VIRTUAL_DISK_FLAG_BLANK_FILE | OPEN_VIRTUAL_DISK_FLAG_BOOT_DRIVE)

/* What makes no sense for an ISO image, which has no parents. */
#define FLAGS_NOT_OPTICAL                                                     \
    (FLAGS_RESERVED | OPEN_VIRTUAL_DISK_FLAG_NO_PARENTS |                     \
     OPEN_VIRTUAL_DISK_FLAG_CUSTOM_DIFF_CHAIN)

#define FLAGS_KNOWN                                                           \
    (OPEN_VIRTUAL_DISK_FLAG_NO_PARENTS | FLAGS_RESERVED |                     \
     OPEN_VIRTUAL_DISK_FLAG_CACHED_IO |                                       \
     OPEN_VIRTUAL_DISK_FLAG_CUSTOM_DIFF_CHAIN |                               \
     OPEN_VIRTUAL_DISK_FLAG_PARENT_CACHED_IO |                                \
     OPEN_VIRTUAL_DISK_FLAG_VHDSET_FILE_ONLY |                                \
     OPEN_VIRTUAL_DISK_FLAG_IGNORE_RELATIVE_PARENT_LOCATOR |                  \
     OPEN_VIRTUAL_DISK_FLAG_NO_WRITE_HARDENING |                              \
     OPEN_VIRTUAL_DISK_FLAG_SUPPORT_COMPRESSED_VOLUMES |                      \
     OPEN_VIRTUAL_DISK_FLAG_SUPPORT_SPARSE_FILES_ANY_FS |                     \
     OPEN_VIRTUAL_DISK_FLAG_SUPPORT_ENCRYPTED_FILES)

/* The arguments that decide, whatever the version they came in. */
struct open_request {
    uint32_t device_id;
    uint32_t version; /* OPEN_VIRTUAL_DISK_VERSION */
    uint32_t mask;    /* VIRTUAL_DISK_ACCESS_MASK; version 1 only */
    uint32_t flags;   /* OPEN_VIRTUAL_DISK_FLAG */
    bool info_only;
    bool writable;     /* the image file is opened for writing */
    uint32_t rw_depth; /* version 1 only */
};

static bool
has(const struct open_request *request, uint32_t access)
{
    return (request->mask & access) != 0;
}

static bool
has_flag(const struct open_request *request, uint32_t flags)
{
    return (request->flags & flags) != 0;
}

static void
read_version_1(ULONG rw_depth, struct open_request *request)
{
    request->version = OPEN_VIRTUAL_DISK_VERSION_1;
    request->rw_depth = rw_depth;
    request->writable =
        has(request, VIRTUAL_DISK_ACCESS_WRITABLE) && rw_depth >= 1;
}

static void
read_version_2(BOOL info_only, BOOL read_only, struct open_request *request)
{
    request->info_only = info_only != FALSE;
    request->writable = !request->info_only && read_only == FALSE;
}

static vd_error
read_parameters(const OPEN_VIRTUAL_DISK_PARAMETERS *parameters,
                struct open_request *request)
{
    static const GUID no_snapshot;
    if (parameters == NULL) {
        read_version_1(OPEN_VIRTUAL_DISK_RW_DEPTH_DEFAULT, request);
        return ERROR_SUCCESS;
    }
    request->version = parameters->Version;
    switch (parameters->Version) {
    case OPEN_VIRTUAL_DISK_VERSION_1:
        read_version_1(parameters->Version1.RWDepth, request);
        return ERROR_SUCCESS;
    case OPEN_VIRTUAL_DISK_VERSION_2:
        read_version_2(parameters->Version2.GetInfoOnly,
                       parameters->Version2.ReadOnly, request);
        return ERROR_SUCCESS;
    case OPEN_VIRTUAL_DISK_VERSION_3:
        read_version_2(parameters->Version3.GetInfoOnly,
                       parameters->Version3.ReadOnly, request);
        if (!IsEqualGUID(&parameters->Version3.SnapshotId, &no_snapshot)) {
            return vd_refuse(ERROR_NOT_SUPPORTED,
                             "the format of VHD Sets is not published");
        }
        return ERROR_SUCCESS;
    default:
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "OPEN_VIRTUAL_DISK_PARAMETERS version %u",
                         request->version);
    }
}

static vd_error
check_mask(const struct open_request *request)
{
    uint32_t unknown = request->mask & ~(uint32_t)VIRTUAL_DISK_ACCESS_ALL;
    if (unknown != 0) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "access mask %#x has unknown bits", request->mask);
    }
    if (request->version > OPEN_VIRTUAL_DISK_VERSION_1 &&
        request->mask != VIRTUAL_DISK_ACCESS_NONE) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "version %u takes access mask NONE, not %#x",
                         request->version, request->mask);
    }
    return ERROR_SUCCESS;
}

vd_error
vd_open_check_flags(uint32_t flags, uint32_t version, uint32_t device_id)
{
    if ((flags & ~(uint32_t)FLAGS_KNOWN) != 0) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "open flags %#x have unknown bits", flags);
    }
    if ((flags & OPEN_VIRTUAL_DISK_FLAG_CUSTOM_DIFF_CHAIN) != 0 &&
        version == OPEN_VIRTUAL_DISK_VERSION_1) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "CUSTOM_DIFF_CHAIN needs version 2 parameters");
    }
    if ((flags & FLAGS_NOT_OPTICAL) != 0 &&
        device_id == VIRTUAL_STORAGE_TYPE_DEVICE_ISO) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "open flags %#x are not for ISO images", flags);
    }
    if ((flags & FLAGS_RESERVED) != 0) {
        return vd_refuse(ERROR_NOT_SUPPORTED, "open flags %#x are reserved",
                         flags);
    }
    return ERROR_SUCCESS;
}

vd_error
vd_open_check_storage_type(const VIRTUAL_STORAGE_TYPE *type, uint32_t flags)
{
    const GUID *vendor = &type->VendorId;
    if (type->DeviceId > VIRTUAL_STORAGE_TYPE_DEVICE_VHDSET ||
        (!IsEqualGUID(vendor, &VIRTUAL_STORAGE_TYPE_VENDOR_UNKNOWN) &&
         !IsEqualGUID(vendor, &VIRTUAL_STORAGE_TYPE_VENDOR_MICROSOFT))) {
        return vd_refuse(ERROR_VIRTDISK_PROVIDER_NOT_FOUND,
                         "no provider for device id %u of that vendor",
                         type->DeviceId);
    }
    if (type->DeviceId == VIRTUAL_STORAGE_TYPE_DEVICE_VHDSET ||
        (flags & OPEN_VIRTUAL_DISK_FLAG_VHDSET_FILE_ONLY) != 0) {
        return vd_refuse(ERROR_NOT_SUPPORTED,
                         "the format of VHD Sets is not published");
    }
    return ERROR_SUCCESS;
}

static vd_error
check_request(const VIRTUAL_STORAGE_TYPE *type,
              const OPEN_VIRTUAL_DISK_PARAMETERS *parameters,
              struct open_request *request)
{
    vd_error error = read_parameters(parameters, request);
    if (!error) {
        error = check_mask(request);
    }
    if (!error) {
        error = vd_open_check_flags(request->flags, request->version,
                                    request->device_id);
    }
    return error ? error : vd_open_check_storage_type(type, request->flags);
}

/* What holds for ISO images can only be looked at once the content has said
 * that it is one. */
static vd_error
check_optical(const struct open_request *request)
{
    if (request->version != OPEN_VIRTUAL_DISK_VERSION_1) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "an ISO image takes version 1 parameters");
    }
    if (has(request, VIRTUAL_DISK_ACCESS_WRITABLE)) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "access mask %#x would write to an ISO image",
                         request->mask);
    }
    if ((request->flags & FLAGS_NOT_OPTICAL) != 0) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "open flags %#x are not for ISO images",
                         request->flags);
    }
    return ERROR_SUCCESS;
}

/* "The mask must include DETACH and must not ask for write access if the
 * disk was first opened read-only" is documented for an image attached with
 * PERMANENT_LIFETIME: such an opener may come although the image is in use. */
static bool
may_join(const struct vd_disk *disk, const struct open_request *request)
{
    struct vd_attached attached;
    if (!has(request, VIRTUAL_DISK_ACCESS_DETACH) ||
        vd_attached_find(vd_disk_file_id(disk), &attached)) {
        return false;
    }
    bool joins =
        attached.permanent && !(attached.read_only && request->writable);
    vd_attached_free(&attached);
    return joins;
}

/* Who opens for attaching (version 1) is told here that somebody else holds
 * the image; with version 2, which does not say what for, by
 * AttachVirtualDisk. */
static vd_error
check_in_use(const struct vd_disk *disk, const struct open_request *request)
{
    if (!has(request, ACCESS_ATTACH)) {
        return ERROR_SUCCESS;
    }
    vd_error error = vd_image_lock_test(
        vd_disk_fd(disk), request->writable ? VD_LOCK_WRITE : VD_LOCK_READ);
    if (error == ERROR_SHARING_VIOLATION && may_join(disk, request)) {
        return ERROR_SUCCESS;
    }
    return error;
}

static vd_error
check_disk(const struct vd_disk *disk, const struct open_request *request)
{
    if (vd_disk_optical(disk)) {
        vd_error error = check_optical(request);
        if (error) {
            return error;
        }
    }
    return check_in_use(disk, request);
}

struct vd_rights
vd_open_rights(uint32_t version, uint32_t mask, bool info_only, bool writable)
{
    if (version == OPEN_VIRTUAL_DISK_VERSION_1) {
        return (struct vd_rights){
            .get_info = (mask & VIRTUAL_DISK_ACCESS_GET_INFO) != 0,
            .detach = (mask & VIRTUAL_DISK_ACCESS_DETACH) != 0,
            .attach_read_only = (mask & ACCESS_ATTACH) != 0,
            .attach_writable =
                (mask & VIRTUAL_DISK_ACCESS_ATTACH_RW) != 0 && writable,
            .change = (mask & VIRTUAL_DISK_ACCESS_METAOPS) != 0 && writable,
        };
    }
    return (struct vd_rights){
        .get_info = true,
        .detach = !info_only,
        .attach_read_only = !info_only,
        .attach_writable = writable,
        .change = writable,
    };
}

static vd_error
make_handle(struct vd_disk *disk, const struct open_request *request,
            HANDLE *out)
{
    struct vd_open_options options = {
        .cached_io = has_flag(request, OPEN_VIRTUAL_DISK_FLAG_CACHED_IO),
        .custom_chain =
            has_flag(request, OPEN_VIRTUAL_DISK_FLAG_CUSTOM_DIFF_CHAIN),
        .version = request->version,
        .rw_depth = request->rw_depth,
    };
    vd_error error = check_disk(disk, request);
    return error ? error
                 : vd_virtual_disk_create(
                       disk,
                       vd_open_rights(request->version, request->mask,
                                      request->info_only, request->writable),
                       options, out);
}

static vd_error
open_path(PCWSTR path, const struct open_request *request, HANDLE *out)
{
    VD_AUTO_FREE char *bytes = NULL;
    vd_error error = vd_utf16_to_bytes(path, &bytes);
    if (error) {
        return error;
    }
    struct vd_disk_options options = {
        .device_id = request->device_id,
        .writable = request->writable,
        .no_parents =
            has_flag(request, OPEN_VIRTUAL_DISK_FLAG_NO_PARENTS |
                                  OPEN_VIRTUAL_DISK_FLAG_CUSTOM_DIFF_CHAIN),
        .no_relative = has_flag(
            request, OPEN_VIRTUAL_DISK_FLAG_IGNORE_RELATIVE_PARENT_LOCATOR),
    };
    struct vd_disk *disk;
    error = vd_look_open(bytes, &options, &disk);
    if (error) {
        return error;
    }
    error = make_handle(disk, request, out);
    if (error) {
        vd_disk_close(disk);
    }
    return error;
}

/* *Handle is set on success only.  The access mask of version 1 and the
 * version 2 members become the handle's rights (api/virtual_disk.h). */
DWORD WINAPI
OpenVirtualDisk(PVIRTUAL_STORAGE_TYPE VirtualStorageType, PCWSTR Path,
                VIRTUAL_DISK_ACCESS_MASK VirtualDiskAccessMask,
                OPEN_VIRTUAL_DISK_FLAG Flags,
                POPEN_VIRTUAL_DISK_PARAMETERS Parameters, PHANDLE Handle)
{
    if (VirtualStorageType == NULL || Path == NULL || Handle == NULL) {
        return vd_refuse(ERROR_INVALID_PARAMETER, "a pointer is NULL");
    }
    struct open_request request = {
        .device_id = VirtualStorageType->DeviceId,
        .mask = VirtualDiskAccessMask,
        .flags = Flags,
    };
    vd_error error = check_request(VirtualStorageType, Parameters, &request);
    return error ? error : open_path(Path, &request, Handle);
}
