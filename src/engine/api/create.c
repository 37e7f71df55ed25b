/*
 * CreateVirtualDisk (virtdisk.h): argument checks, versions, flags, access
 * masks; the work is that of creation.h.
 *
 * A new image has its name when it is whole and durable, and never before.
 * Raw image files are not of virtdisk.h: as a source one is taken if its name
 * ends in .img or .raw and its storage type is UNKNOWN.  SUPPORT_COMPRESSED_
 * VOLUMES and SUPPORT_SPARSE_FILES_ANY_FS change nothing on Linux.
 */
#include <virtdisk.h>

#include <stdbool.h>
#include <string.h>
#include <strings.h>

#include "api/creation.h"
#include "api/open.h"
#include "api/operation.h"
#include "api/refuse.h"
#include "api/security.h"
#include "base/cleanup.h"
#include "base/utf16.h"

#define FLAGS_OF_VHD_SETS                                                     \
    (CREATE_VIRTUAL_DISK_FLAG_CREATE_BACKING_STORAGE |                        \
     CREATE_VIRTUAL_DISK_FLAG_VHD_SET_USE_ORIGINAL_BACKING_STORAGE)

#define FLAGS_OF_CHANGE_TRACKING                                              \
    (CREATE_VIRTUAL_DISK_FLAG_USE_CHANGE_TRACKING_SOURCE_LIMIT |              \
     CREATE_VIRTUAL_DISK_FLAG_PRESERVE_PARENT_CHANGE_TRACKING_STATE)

#define FLAGS_NOT_SUPPORTED                                                   \
    (FLAGS_OF_VHD_SETS | FLAGS_OF_CHANGE_TRACKING |                           \
     CREATE_VIRTUAL_DISK_FLAG_PMEM_COMPATIBLE)

#define FLAGS_KNOWN                                                           \
    (CREATE_VIRTUAL_DISK_FLAG_FULL_PHYSICAL_ALLOCATION |                      \
     CREATE_VIRTUAL_DISK_FLAG_PREVENT_WRITES_TO_SOURCE_DISK |                 \
     CREATE_VIRTUAL_DISK_FLAG_DO_NOT_COPY_METADATA_FROM_PARENT |              \
     CREATE_VIRTUAL_DISK_FLAG_SPARSE_FILE |                                   \
     CREATE_VIRTUAL_DISK_FLAG_SUPPORT_COMPRESSED_VOLUMES |                    \
     CREATE_VIRTUAL_DISK_FLAG_SUPPORT_SPARSE_FILES_ANY_FS |                   \
     FLAGS_NOT_SUPPORTED)

/* The arguments, whatever the version they came in. */
struct create_arguments {
    uint32_t version;    /* CREATE_VIRTUAL_DISK_VERSION */
    uint32_t mask;       /* VIRTUAL_DISK_ACCESS_MASK; version 1 only */
    uint32_t flags;      /* CREATE_VIRTUAL_DISK_FLAG */
    uint32_t open_flags; /* OPEN_VIRTUAL_DISK_FLAG; not version 1 */
    VIRTUAL_STORAGE_TYPE type;
    PCWSTR parent_path;
    VIRTUAL_STORAGE_TYPE parent_type;
    PCWSTR source_path;
    VIRTUAL_STORAGE_TYPE source_type;
    struct vd_create_request request;
};

static bool
has(const struct create_arguments *arguments, uint32_t flag)
{
    return (arguments->flags & flag) != 0;
}

/* ---- versions ---- */

static void
read_guid(const GUID *guid, struct vd_guid *out)
{
    _Static_assert(sizeof(*guid) == sizeof(*out), "a GUID is 16 bytes");
    memcpy(out, guid, sizeof(*out));
}

static void
read_version_1(const CREATE_VIRTUAL_DISK_PARAMETERS *parameters,
               struct create_arguments *arguments)
{
    read_guid(&parameters->Version1.UniqueId, &arguments->request.identifier);
    arguments->request.size_bytes = parameters->Version1.MaximumSize;
    arguments->request.block_size = parameters->Version1.BlockSizeInBytes;
    arguments->request.sector_size = parameters->Version1.SectorSizeInBytes;
    arguments->parent_path = parameters->Version1.ParentPath;
    arguments->source_path = parameters->Version1.SourcePath;
}

/* Versions 3 and 4 begin with the members of version 2. */
static void
read_version_2(const CREATE_VIRTUAL_DISK_PARAMETERS *parameters,
               struct create_arguments *arguments)
{
    read_guid(&parameters->Version2.UniqueId, &arguments->request.identifier);
    arguments->request.size_bytes = parameters->Version2.MaximumSize;
    arguments->request.block_size = parameters->Version2.BlockSizeInBytes;
    arguments->request.sector_size = parameters->Version2.SectorSizeInBytes;
    arguments->request.physical_sector_size =
        parameters->Version2.PhysicalSectorSizeInBytes;
    arguments->parent_path = parameters->Version2.ParentPath;
    arguments->source_path = parameters->Version2.SourcePath;
    arguments->open_flags = parameters->Version2.OpenFlags;
    arguments->parent_type = parameters->Version2.ParentVirtualStorageType;
    arguments->source_type = parameters->Version2.SourceVirtualStorageType;
}

static vd_error
check_version_3(const CREATE_VIRTUAL_DISK_PARAMETERS *parameters)
{
    if (parameters->Version3.SourceLimitPath != NULL) {
        return vd_refuse(ERROR_NOT_SUPPORTED,
                         "SourceLimitPath: only all of a source is copied");
    }
    if (parameters->Version3.BackingStorageType.DeviceId !=
        VIRTUAL_STORAGE_TYPE_DEVICE_UNKNOWN) {
        return vd_refuse(ERROR_NOT_SUPPORTED,
                         "the format of VHD Sets is not published");
    }
    return ERROR_SUCCESS;
}

static vd_error
check_version_4(const CREATE_VIRTUAL_DISK_PARAMETERS *parameters)
{
    static const GUID none;
    vd_error error = check_version_3(parameters);
    if (error) {
        return error;
    }
    if (!IsEqualGUID(&parameters->Version4.PmemAddressAbstractionType,
                     &none) ||
        parameters->Version4.DataAlignment != 0) {
        return vd_refuse(ERROR_NOT_SUPPORTED,
                         "images for persistent memory are not made here");
    }
    return ERROR_SUCCESS;
}

static vd_error
read_parameters(const CREATE_VIRTUAL_DISK_PARAMETERS *parameters,
                struct create_arguments *arguments)
{
    arguments->version = parameters->Version;
    switch (parameters->Version) {
    case CREATE_VIRTUAL_DISK_VERSION_1:
        read_version_1(parameters, arguments);
        return ERROR_SUCCESS;
    case CREATE_VIRTUAL_DISK_VERSION_2:
        read_version_2(parameters, arguments);
        return ERROR_SUCCESS;
    case CREATE_VIRTUAL_DISK_VERSION_3:
        read_version_2(parameters, arguments);
        return check_version_3(parameters);
    case CREATE_VIRTUAL_DISK_VERSION_4:
        read_version_2(parameters, arguments);
        return check_version_4(parameters);
    default:
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "CREATE_VIRTUAL_DISK_PARAMETERS version %u",
                         arguments->version);
    }
}

/* ---- flags ---- */

static vd_error
check_mask(const struct create_arguments *arguments)
{
    if ((arguments->mask & ~(uint32_t)VIRTUAL_DISK_ACCESS_ALL) != 0 ||
        (arguments->version > CREATE_VIRTUAL_DISK_VERSION_1 &&
         arguments->mask != VIRTUAL_DISK_ACCESS_NONE)) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "access mask %#x with version %u", arguments->mask,
                         arguments->version);
    }
    return ERROR_SUCCESS;
}

/* A flag that has nothing to say anything about is a mistake (inferred). */
static vd_error
check_combinations(const struct create_arguments *arguments)
{
    bool fixed =
        has(arguments, CREATE_VIRTUAL_DISK_FLAG_FULL_PHYSICAL_ALLOCATION);
    if (arguments->parent_path != NULL &&
        (arguments->source_path != NULL || fixed)) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "a parent, and a source or all space allocated");
    }
    if (has(arguments, CREATE_VIRTUAL_DISK_FLAG_SPARSE_FILE) && !fixed) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "SPARSE_FILE is for fixed disks");
    }
    if (has(arguments,
            CREATE_VIRTUAL_DISK_FLAG_PREVENT_WRITES_TO_SOURCE_DISK) &&
        arguments->source_path == NULL) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "PREVENT_WRITES_TO_SOURCE_DISK without a source");
    }
    if (has(arguments,
            CREATE_VIRTUAL_DISK_FLAG_DO_NOT_COPY_METADATA_FROM_PARENT) &&
        arguments->parent_path == NULL) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "DO_NOT_COPY_METADATA_FROM_PARENT without a parent");
    }
    return ERROR_SUCCESS;
}

/* Microsoft's provider defines no flags of its own (inferred). */
static vd_error
check_flags(const struct create_arguments *arguments, ULONG provider_flags)
{
    if ((arguments->flags & ~(uint32_t)FLAGS_KNOWN) != 0 ||
        provider_flags != 0) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "create flags %#x, provider-specific %#x",
                         arguments->flags, provider_flags);
    }
    vd_error error = check_combinations(arguments);
    if (error) {
        return error;
    }
    if (has(arguments, FLAGS_NOT_SUPPORTED)) {
        return vd_refuse(ERROR_NOT_SUPPORTED,
                         "create flags %#x: no published format",
                         arguments->flags);
    }
    return arguments->version == CREATE_VIRTUAL_DISK_VERSION_1
               ? ERROR_SUCCESS
               : vd_open_check_flags(arguments->open_flags, arguments->version,
                                     arguments->type.DeviceId);
}

/* ---- storage types ---- */

/* With nothing yet to be recognised, the type UNKNOWN is found as Windows
 * finds it: by the name. */
static vd_error
type_of_name(const char *path, uint32_t *device_id_out)
{
    static const struct {
        const char *extension;
        uint32_t device_id;
    } rows[] = {
        {".vhd", VIRTUAL_STORAGE_TYPE_DEVICE_VHD},
        {".avhd", VIRTUAL_STORAGE_TYPE_DEVICE_VHD},
        {".vhdx", VIRTUAL_STORAGE_TYPE_DEVICE_VHDX},
        {".avhdx", VIRTUAL_STORAGE_TYPE_DEVICE_VHDX},
        {".iso", VIRTUAL_STORAGE_TYPE_DEVICE_ISO},
    };
    const char *dot = strrchr(path, '.');
    if (dot != NULL && strcasecmp(dot, ".vhds") == 0) {
        return vd_refuse(ERROR_NOT_SUPPORTED,
                         "the format of VHD Sets is not published");
    }
    for (size_t i = 0; dot != NULL && i < sizeof(rows) / sizeof(rows[0]);
         i++) {
        if (strcasecmp(dot, rows[i].extension) == 0) {
            *device_id_out = rows[i].device_id;
            return ERROR_SUCCESS;
        }
    }
    return vd_refuse(ERROR_VIRTDISK_PROVIDER_NOT_FOUND,
                     "%s: which type of disk?", path);
}

static vd_error
check_types(const struct create_arguments *arguments)
{
    vd_error error = vd_open_check_storage_type(&arguments->type, 0);
    if (!error) {
        error = vd_open_check_storage_type(&arguments->parent_type, 0);
    }
    return error ? error
                 : vd_open_check_storage_type(&arguments->source_type, 0);
}

/* ---- planning and doing ---- */

static enum vd_subtype
subtype_of(const struct create_arguments *arguments)
{
    if (arguments->parent_path != NULL) {
        return VD_SUBTYPE_DIFFERENCING;
    }
    return has(arguments, CREATE_VIRTUAL_DISK_FLAG_FULL_PHYSICAL_ALLOCATION)
               ? VD_SUBTYPE_FIXED
               : VD_SUBTYPE_DYNAMIC;
}

static bool
is_writable(const struct create_arguments *arguments)
{
    return arguments->version > CREATE_VIRTUAL_DISK_VERSION_1 ||
           (arguments->mask & VIRTUAL_DISK_ACCESS_WRITABLE) != 0;
}

/* The handle is one as OpenVirtualDisk with the same version would give. */
static void
plan_handle(const struct create_arguments *arguments,
            struct vd_creation_plan *plan)
{
    uint32_t flags = arguments->open_flags;
    uint32_t version = arguments->version == CREATE_VIRTUAL_DISK_VERSION_1
                           ? OPEN_VIRTUAL_DISK_VERSION_1
                           : OPEN_VIRTUAL_DISK_VERSION_2;
    bool custom = (flags & OPEN_VIRTUAL_DISK_FLAG_CUSTOM_DIFF_CHAIN) != 0;
    plan->writable = is_writable(arguments);
    plan->rights =
        vd_open_rights(version, arguments->mask, false, plan->writable);
    plan->options = (struct vd_open_options){
        .cached_io = (flags & OPEN_VIRTUAL_DISK_FLAG_CACHED_IO) != 0,
        .custom_chain = custom,
        .version = version,
        .rw_depth = OPEN_VIRTUAL_DISK_RW_DEPTH_DEFAULT,
    };
    plan->no_parents =
        custom || (flags & OPEN_VIRTUAL_DISK_FLAG_NO_PARENTS) != 0;
}

static void
make_plan(const struct create_arguments *arguments,
          struct vd_creation_plan *plan)
{
    plan->parent_device_id = arguments->parent_type.DeviceId;
    plan->source_device_id = arguments->source_type.DeviceId;
    plan->exclusive_source =
        has(arguments, CREATE_VIRTUAL_DISK_FLAG_PREVENT_WRITES_TO_SOURCE_DISK);
    plan->sparse = has(arguments, CREATE_VIRTUAL_DISK_FLAG_SPARSE_FILE);
    plan->copy_metadata = !has(
        arguments, CREATE_VIRTUAL_DISK_FLAG_DO_NOT_COPY_METADATA_FROM_PARENT);
    plan->request = arguments->request;
    plan->request.subtype = subtype_of(arguments);
    plan_handle(arguments, plan);
}

static vd_error
begin_and_run(const struct vd_creation_plan *plan, OVERLAPPED *overlapped,
              HANDLE *out)
{
    static const char nothing;
    struct vd_virtual_disk *virtual_disk;
    HANDLE handle;
    vd_error error = vd_creation_begin(plan, &handle);
    if (error) {
        return error;
    }
    error = vd_virtual_disk_acquire(handle, &virtual_disk);
    if (!error) {
        error = vd_operation_run(virtual_disk, overlapped,
                                 &(struct vd_work){
                                     .run = vd_creation_run,
                                     .arguments = &nothing,
                                     .arguments_size = sizeof(nothing),
                                 });
        vd_virtual_disk_release(virtual_disk);
    }
    if (error && error != ERROR_IO_PENDING) {
        vd_error closed = vd_handle_close(handle);
        return closed ? closed : error;
    }
    *out = handle;
    return error;
}

static vd_error
read_path(PCWSTR text, char **out)
{
    return text != NULL ? vd_utf16_to_bytes(text, out) : ERROR_SUCCESS;
}

static vd_error
create(PCWSTR path, const struct create_arguments *arguments,
       struct vd_creation_plan *plan, OVERLAPPED *overlapped, HANDLE *out)
{
    VD_AUTO_FREE char *image = NULL;
    VD_AUTO_FREE char *parent = NULL;
    VD_AUTO_FREE char *source = NULL;
    vd_error error = read_path(path, &image);
    if (!error) {
        error = read_path(arguments->parent_path, &parent);
    }
    if (!error) {
        error = read_path(arguments->source_path, &source);
    }
    plan->device_id = arguments->type.DeviceId;
    if (!error && plan->device_id == VIRTUAL_STORAGE_TYPE_DEVICE_UNKNOWN) {
        error = type_of_name(image, &plan->device_id);
    }
    if (error) {
        return error;
    }
    plan->path = image;
    plan->parent_path = parent;
    plan->source_path = source;
    make_plan(arguments, plan);
    return begin_and_run(plan, overlapped, out);
}

static vd_error
check_arguments(const CREATE_VIRTUAL_DISK_PARAMETERS *parameters,
                ULONG provider_flags, struct create_arguments *arguments)
{
    vd_error error = read_parameters(parameters, arguments);
    if (!error) {
        error = check_mask(arguments);
    }
    if (!error) {
        error = check_flags(arguments, provider_flags);
    }
    return error ? error : check_types(arguments);
}

/* NULL leaves the file what any new file in that directory gets. */
static vd_error
choose_access(const void *descriptor, struct vd_node_access *out)
{
    return descriptor != NULL ? vd_security_access(descriptor, NULL, out)
                              : ERROR_SUCCESS;
}

/* *Handle is set on success and with ERROR_IO_PENDING.  Of a call that fails
 * later nothing is left but the handle, which can only be closed. */
DWORD WINAPI
CreateVirtualDisk(PVIRTUAL_STORAGE_TYPE VirtualStorageType, PCWSTR Path,
                  VIRTUAL_DISK_ACCESS_MASK VirtualDiskAccessMask,
                  PSECURITY_DESCRIPTOR SecurityDescriptor,
                  CREATE_VIRTUAL_DISK_FLAG Flags, ULONG ProviderSpecificFlags,
                  PCREATE_VIRTUAL_DISK_PARAMETERS Parameters,
                  LPOVERLAPPED Overlapped, PHANDLE Handle)
{
    if (VirtualStorageType == NULL || Path == NULL || Parameters == NULL ||
        Handle == NULL) {
        return vd_refuse(ERROR_INVALID_PARAMETER, "a pointer is NULL");
    }
    struct vd_creation_plan plan = {0};
    struct create_arguments arguments = {
        .mask = VirtualDiskAccessMask,
        .flags = Flags,
        .type = *VirtualStorageType,
    };
    vd_error error =
        check_arguments(Parameters, ProviderSpecificFlags, &arguments);
    if (!error) {
        error = choose_access(SecurityDescriptor, &plan.access);
    }
    return error ? error : create(Path, &arguments, &plan, Overlapped, Handle);
}
