/*
 * CreateVirtualDisk.
 */
#include "_virtdisk.h"

/* All that the system is given by pointer, but for the texts, in one block of
 * the memory. */
struct create_arguments {
    VIRTUAL_STORAGE_TYPE storage_type;
    CREATE_VIRTUAL_DISK_PARAMETERS parameters;
};

struct create_call {
    struct module_state *state;
    struct memory memory;
    OverlappedObject *overlapped; /* borrowed, or NULL */
    PyObject *path_object;        /* borrowed */
    PCWSTR path;
    DWORD access_mask;
    PSECURITY_DESCRIPTOR descriptor; /* or NULL */
    DWORD flags;
    DWORD provider_specific_flags;
    struct create_arguments *arguments;
};

/* The members of all versions, converted. */
struct create_members {
    DWORD version;
    GUID unique_id;
    ULONGLONG maximum_size;
    DWORD block_size;
    DWORD sector_size;
    DWORD physical_sector_size;
    PCWSTR parent_path;
    PCWSTR source_path;
    DWORD open_flags;
    VIRTUAL_STORAGE_TYPE parent_type;
    VIRTUAL_STORAGE_TYPE source_type;
    GUID resiliency_guid;
    PCWSTR source_limit_path;
    VIRTUAL_STORAGE_TYPE backing_type;
    GUID pmem_type;
    ULONGLONG data_alignment;
};

/* What was given, in the order of the arguments after the path. */
enum create_argument {
    ARG_DEVICE_ID,
    ARG_VENDOR_ID,
    ARG_ACCESS_MASK,
    ARG_SECURITY_DESCRIPTOR,
    ARG_FLAGS,
    ARG_PROVIDER_SPECIFIC_FLAGS,
    ARG_VERSION,
    ARG_UNIQUE_ID,
    ARG_MAXIMUM_SIZE,
    ARG_BLOCK_SIZE,
    ARG_SECTOR_SIZE,
    ARG_PHYSICAL_SECTOR_SIZE,
    ARG_PARENT_PATH,
    ARG_SOURCE_PATH,
    ARG_OPEN_FLAGS,
    ARG_PARENT_DEVICE_ID,
    ARG_PARENT_VENDOR_ID,
    ARG_SOURCE_DEVICE_ID,
    ARG_SOURCE_VENDOR_ID,
    ARG_RESILIENCY_GUID,
    ARG_SOURCE_LIMIT_PATH,
    ARG_BACKING_DEVICE_ID,
    ARG_BACKING_VENDOR_ID,
    ARG_PMEM_TYPE,
    ARG_DATA_ALIGNMENT,
    ARG_OVERLAPPED,
    ARG_COUNT,
};

/* The names of the arguments, the path's first. */
static char *const keywords[] = {
    "path",
    "device_id",
    "vendor_id",
    "access_mask",
    "security_descriptor",
    "flags",
    "provider_specific_flags",
    "version",
    "unique_id",
    "maximum_size",
    "block_size_in_bytes",
    "sector_size_in_bytes",
    "physical_sector_size_in_bytes",
    "parent_path",
    "source_path",
    "open_flags",
    "parent_device_id",
    "parent_vendor_id",
    "source_device_id",
    "source_vendor_id",
    "resiliency_guid",
    "source_limit_path",
    "backing_device_id",
    "backing_vendor_id",
    "pmem_address_abstraction_type",
    "data_alignment",
    "overlapped",
    NULL,
};

/* Arguments as they were given. */
typedef PyObject *const given_arguments[ARG_COUNT];

static int
dword_of(given_arguments given, enum create_argument argument, DWORD *out)
{
    return virtdisk_convert_dword(given[argument], keywords[argument + 1],
                                  out);
}

static int
ulonglong_of(given_arguments given, enum create_argument argument,
             ULONGLONG *out)
{
    return virtdisk_convert_ulonglong(given[argument], keywords[argument + 1],
                                      out);
}

static int
guid_of(given_arguments given, enum create_argument argument, GUID *out)
{
    return virtdisk_convert_optional_guid(given[argument],
                                          keywords[argument + 1], out);
}

/* A storage type, whose vendor follows its device. */
static int
type_of(given_arguments given, enum create_argument device,
        VIRTUAL_STORAGE_TYPE *out)
{
    if (dword_of(given, device, &out->DeviceId) < 0) {
        return -1;
    }
    return guid_of(given, (enum create_argument)(device + 1), &out->VendorId);
}

static int
text_of(given_arguments given, enum create_argument argument,
        struct memory *memory, PCWSTR *out)
{
    return virtdisk_convert_optional_text(given[argument],
                                          keywords[argument + 1], memory, out);
}

/* All are checked, also those that the version lacks. */
static int
convert_members(given_arguments given, struct memory *memory,
                struct create_members *out)
{
    memset(out, 0, sizeof(*out));
    out->version = CREATE_VIRTUAL_DISK_VERSION_2;
    if (virtdisk_convert_version(given[ARG_VERSION],
                                 CREATE_VIRTUAL_DISK_VERSION_4,
                                 &out->version) < 0 ||
        guid_of(given, ARG_UNIQUE_ID, &out->unique_id) < 0 ||
        ulonglong_of(given, ARG_MAXIMUM_SIZE, &out->maximum_size) < 0 ||
        dword_of(given, ARG_BLOCK_SIZE, &out->block_size) < 0 ||
        dword_of(given, ARG_SECTOR_SIZE, &out->sector_size) < 0 ||
        dword_of(given, ARG_PHYSICAL_SECTOR_SIZE, &out->physical_sector_size) <
            0 ||
        text_of(given, ARG_PARENT_PATH, memory, &out->parent_path) < 0 ||
        text_of(given, ARG_SOURCE_PATH, memory, &out->source_path) < 0 ||
        dword_of(given, ARG_OPEN_FLAGS, &out->open_flags) < 0 ||
        type_of(given, ARG_PARENT_DEVICE_ID, &out->parent_type) < 0 ||
        type_of(given, ARG_SOURCE_DEVICE_ID, &out->source_type) < 0 ||
        guid_of(given, ARG_RESILIENCY_GUID, &out->resiliency_guid) < 0 ||
        text_of(given, ARG_SOURCE_LIMIT_PATH, memory,
                &out->source_limit_path) < 0 ||
        type_of(given, ARG_BACKING_DEVICE_ID, &out->backing_type) < 0 ||
        guid_of(given, ARG_PMEM_TYPE, &out->pmem_type) < 0) {
        return -1;
    }
    return ulonglong_of(given, ARG_DATA_ALIGNMENT, &out->data_alignment);
}

static void
fill_version_1(CREATE_VIRTUAL_DISK_PARAMETERS *parameters,
               const struct create_members *members)
{
    parameters->Version1.UniqueId = members->unique_id;
    parameters->Version1.MaximumSize = members->maximum_size;
    parameters->Version1.BlockSizeInBytes = members->block_size;
    parameters->Version1.SectorSizeInBytes = members->sector_size;
    parameters->Version1.ParentPath = members->parent_path;
    parameters->Version1.SourcePath = members->source_path;
}

/* Versions 3 and 4 begin as version 2 does, and go on. */
static void
fill_version_2(CREATE_VIRTUAL_DISK_PARAMETERS *parameters,
               const struct create_members *members)
{
    parameters->Version2.UniqueId = members->unique_id;
    parameters->Version2.MaximumSize = members->maximum_size;
    parameters->Version2.BlockSizeInBytes = members->block_size;
    parameters->Version2.SectorSizeInBytes = members->sector_size;
    parameters->Version2.PhysicalSectorSizeInBytes =
        members->physical_sector_size;
    parameters->Version2.ParentPath = members->parent_path;
    parameters->Version2.SourcePath = members->source_path;
    parameters->Version2.OpenFlags =
        (OPEN_VIRTUAL_DISK_FLAG)members->open_flags;
    parameters->Version2.ParentVirtualStorageType = members->parent_type;
    parameters->Version2.SourceVirtualStorageType = members->source_type;
    parameters->Version2.ResiliencyGuid = members->resiliency_guid;
}

static void
fill_parameters(CREATE_VIRTUAL_DISK_PARAMETERS *parameters,
                const struct create_members *members)
{
    parameters->Version = (CREATE_VIRTUAL_DISK_VERSION)members->version;
    if (members->version == CREATE_VIRTUAL_DISK_VERSION_1) {
        fill_version_1(parameters, members);
        return;
    }
    fill_version_2(parameters, members);
    if (members->version >= CREATE_VIRTUAL_DISK_VERSION_3) {
        parameters->Version3.SourceLimitPath = members->source_limit_path;
        parameters->Version3.BackingStorageType = members->backing_type;
    }
    if (members->version >= CREATE_VIRTUAL_DISK_VERSION_4) {
        parameters->Version4.PmemAddressAbstractionType = members->pmem_type;
        parameters->Version4.DataAlignment = members->data_alignment;
    }
}

static int
convert_create(struct create_call *create, given_arguments given)
{
    struct create_members members;
    create->arguments =
        virtdisk_memory_new(&create->memory, sizeof(*create->arguments));
    if (create->arguments == NULL ||
        virtdisk_convert_overlapped(create->state, given[ARG_OVERLAPPED],
                                    &create->overlapped) < 0 ||
        type_of(given, ARG_DEVICE_ID, &create->arguments->storage_type) < 0 ||
        dword_of(given, ARG_ACCESS_MASK, &create->access_mask) < 0 ||
        dword_of(given, ARG_FLAGS, &create->flags) < 0 ||
        dword_of(given, ARG_PROVIDER_SPECIFIC_FLAGS,
                 &create->provider_specific_flags) < 0 ||
        convert_members(given, &create->memory, &members) < 0 ||
        virtdisk_convert_text(create->path_object, "path", &create->memory,
                              &create->path) < 0) {
        return -1;
    }
    fill_parameters(&create->arguments->parameters, &members);
    return virtdisk_convert_descriptor(
        create->state, given[ARG_SECURITY_DESCRIPTOR], create->path_object,
        &create->memory, &create->descriptor);
}

static int
parse_create(struct create_call *create, PyObject *args, PyObject *kwargs)
{
    PyObject *given[ARG_COUNT] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "O|$OOOOOOOOOOOOOOOOOOOOOOOOOO:CreateVirtualDisk",
            (char **)keywords, &create->path_object, &given[ARG_DEVICE_ID],
            &given[ARG_VENDOR_ID], &given[ARG_ACCESS_MASK],
            &given[ARG_SECURITY_DESCRIPTOR], &given[ARG_FLAGS],
            &given[ARG_PROVIDER_SPECIFIC_FLAGS], &given[ARG_VERSION],
            &given[ARG_UNIQUE_ID], &given[ARG_MAXIMUM_SIZE],
            &given[ARG_BLOCK_SIZE], &given[ARG_SECTOR_SIZE],
            &given[ARG_PHYSICAL_SECTOR_SIZE], &given[ARG_PARENT_PATH],
            &given[ARG_SOURCE_PATH], &given[ARG_OPEN_FLAGS],
            &given[ARG_PARENT_DEVICE_ID], &given[ARG_PARENT_VENDOR_ID],
            &given[ARG_SOURCE_DEVICE_ID], &given[ARG_SOURCE_VENDOR_ID],
            &given[ARG_RESILIENCY_GUID], &given[ARG_SOURCE_LIMIT_PATH],
            &given[ARG_BACKING_DEVICE_ID], &given[ARG_BACKING_VENDOR_ID],
            &given[ARG_PMEM_TYPE], &given[ARG_DATA_ALIGNMENT],
            &given[ARG_OVERLAPPED])) {
        return -1;
    }
    return convert_create(create, given);
}

/* Makes the call.  With ERROR_SUCCESS and ERROR_IO_PENDING the system has
 * given a handle; the second keeps it in use until the operation is done. */
static int
call_create(struct create_call *create, HandleObject *handle)
{
    static const char function[] = "CreateVirtualDisk";
    struct create_arguments *arguments = create->arguments;
    OVERLAPPED *overlapped = NULL;
    HANDLE value = NULL;
    DWORD code;
    if (create->overlapped != NULL &&
        virtdisk_overlapped_begin(create->overlapped, create->path_object,
                                  function, &overlapped) < 0) {
        return -1;
    }
    Py_BEGIN_ALLOW_THREADS
    code = CreateVirtualDisk(&arguments->storage_type, create->path,
                             (VIRTUAL_DISK_ACCESS_MASK)create->access_mask,
                             create->descriptor,
                             (CREATE_VIRTUAL_DISK_FLAG)create->flags,
                             create->provider_specific_flags,
                             &arguments->parameters, overlapped, &value);
    Py_END_ALLOW_THREADS
    bool pending = overlapped != NULL && code == ERROR_IO_PENDING;
    if (code == ERROR_SUCCESS || pending) {
        virtdisk_handle_own(handle, value);
    }
    if (pending && virtdisk_handle_enter(handle, &value) < 0) {
        return -1; /* nobody else has the handle: it is not closed */
    }
    if (overlapped != NULL) {
        virtdisk_overlapped_end(create->overlapped, code, handle, value,
                                &create->memory);
    }
    if (code != ERROR_SUCCESS && !pending) {
        virtdisk_raise_error(create->state, function, code,
                             create->path_object);
        return -1;
    }
    return 0;
}

PyDoc_STRVAR(
    create_doc,
    "CreateVirtualDisk($module, /, path, *, device_id=0, vendor_id=None,\n"
    "                  access_mask=0, security_descriptor=None, flags=0,\n"
    "                  provider_specific_flags=0, version=2,\n"
    "                  unique_id=None, maximum_size=0,\n"
    "                  block_size_in_bytes=0, sector_size_in_bytes=0,\n"
    "                  physical_sector_size_in_bytes=0, parent_path=None,\n"
    "                  source_path=None, open_flags=0, parent_device_id=0,\n"
    "                  parent_vendor_id=None, source_device_id=0,\n"
    "                  source_vendor_id=None, resiliency_guid=None,\n"
    "                  source_limit_path=None, backing_device_id=0,\n"
    "                  backing_vendor_id=None,\n"
    "                  pmem_address_abstraction_type=None,\n"
    "                  data_alignment=0, overlapped=None)\n--\n\n"
    "Create a virtual disk and open it.\n"
    "\n"
    "Args:\n"
    "    path: The image file to make.\n"
    "    device_id: VirtualStorageType.DeviceId,\n"
    "        VIRTUAL_STORAGE_TYPE_DEVICE_*; 0 goes by the name of the file.\n"
    "    vendor_id: VirtualStorageType.VendorId, 16 bytes as in\n"
    "        uuid.UUID.bytes_le; None is "
    "VIRTUAL_STORAGE_TYPE_VENDOR_UNKNOWN.\n"
    "    access_mask: VIRTUAL_DISK_ACCESS_* bits; 0 from version 2 on.\n"
    "    security_descriptor: Who may use the file: SDDL text, the bytes of\n"
    "        a self-relative SECURITY_DESCRIPTOR, or None for what the\n"
    "        directory says.\n"
    "    flags: CREATE_VIRTUAL_DISK_FLAG_* bits.\n"
    "    provider_specific_flags: 0 for the formats of Microsoft.\n"
    "    version: Of CREATE_VIRTUAL_DISK_PARAMETERS, 1 to 4.  Members that a\n"
    "        version lacks are not passed.\n"
    "    unique_id: The id of the disk, 16 bytes; None lets the system make\n"
    "        one.\n"
    "    maximum_size: The size of the disk in bytes; 0 takes that of the\n"
    "        parent or source.\n"
    "    block_size_in_bytes: 0 for the default of the format.\n"
    "    sector_size_in_bytes: 0 for the default of the format.\n"
    "    physical_sector_size_in_bytes: From version 2 on; 0 for the default\n"
    "        of the format.\n"
    "    parent_path: The parent of a differencing disk.\n"
    "    source_path: An image or a disk to copy.\n"
    "    open_flags: From version 2 on: OPEN_VIRTUAL_DISK_FLAG_* bits.\n"
    "    parent_device_id: From version 2 on, of the parent.\n"
    "    parent_vendor_id: From version 2 on, of the parent, 16 bytes.\n"
    "    source_device_id: From version 2 on, of the source.\n"
    "    source_vendor_id: From version 2 on, of the source, 16 bytes.\n"
    "    resiliency_guid: From version 2 on, 16 bytes; None is all zeros.\n"
    "    source_limit_path: From version 3 on: copy what is newer than this,\n"
    "        a disk of the source's chain or a change tracking id.\n"
    "    backing_device_id: From version 3 on, of a VHD Set's storage.\n"
    "    backing_vendor_id: From version 3 on, of that, 16 bytes.\n"
    "    pmem_address_abstraction_type: Version 4, 16 bytes; None is all\n"
    "        zeros.\n"
    "    data_alignment: Version 4, in bytes.\n"
    "    overlapped: Return at once and let this Overlapped tell the end.\n"
    "\n"
    "Returns:\n"
    "    The open Handle.  While the operation is pending, and if it fails,\n"
    "    it serves to close it.\n"
    "\n"
    "Raises:\n"
    "    TypeError, ValueError, OverflowError: An argument does not fit or\n"
    "        the Overlapped is in use; nothing was called.\n"
    "    VirtualDiskError: The code of the function, for example winerror 3\n"
    "        (no such directory), 5 (no rights), 80 (the file exists), 87\n"
    "        (refused arguments) or 112 (no space); or of the conversion of\n"
    "        SDDL text.\n"
    "\n"
    "Raises the audit event virtdisk.CreateVirtualDisk with path,\n"
    "access_mask and flags.\n"
    "\n"
    "Source: CreateVirtualDisk, CREATE_VIRTUAL_DISK_PARAMETERS.");

static PyObject *
create_virtual_disk(PyObject *module, PyObject *args, PyObject *kwargs)
{
    HandleObject *handle = NULL;
    struct create_call create = {.state = virtdisk_module_state(module)};
    if (parse_create(&create, args, kwargs) == 0 &&
        virtdisk_may_call(create.state, "CreateVirtualDisk") &&
        virtdisk_audit(create.state,
                       Py_BuildValue("sOkk", "virtdisk.CreateVirtualDisk",
                                     create.path_object,
                                     (unsigned long)create.access_mask,
                                     (unsigned long)create.flags)) == 0) {
        handle = virtdisk_handle_new(create.state, create.path_object);
    }
    if (handle != NULL && call_create(&create, handle) < 0) {
        Py_DECREF((PyObject *)handle);
        handle = NULL;
    }
    virtdisk_memory_free(&create.memory);
    return (PyObject *)handle;
}

static PyMethodDef methods[] = {
    {"CreateVirtualDisk", WITH_KEYWORDS(create_virtual_disk), create_doc},
    {NULL, NULL, 0, NULL},
};

int
virtdisk_add_create(PyObject *module)
{
    return PyModule_AddFunctions(module, methods);
}
