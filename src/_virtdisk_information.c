/*
 * GetVirtualDiskInformation, SetVirtualDiskInformation.
 */
#include "_virtdisk.h"

/* ------------------------------------------------------------------------
 * GetVirtualDiskInformation
 */

static DWORD
call_information(const struct query *query, ULONG *size, void *buffer)
{
    GET_VIRTUAL_DISK_INFO *info = buffer;
    info->Version = (GET_VIRTUAL_DISK_INFO_VERSION)query->version;
    return GetVirtualDiskInformation(query->handle, size, info, NULL);
}

static PyObject *
size_information(const GET_VIRTUAL_DISK_INFO *info)
{
    return Py_BuildValue("KKkk", (unsigned long long)info->Size.VirtualSize,
                         (unsigned long long)info->Size.PhysicalSize,
                         (unsigned long)info->Size.BlockSize,
                         (unsigned long)info->Size.SectorSize);
}

static PyObject *
parent_location(const struct query *query)
{
    const GET_VIRTUAL_DISK_INFO *info = query->buffer;
    size_t units;
    const WCHAR *text = virtdisk_query_text(
        query,
        offsetof(GET_VIRTUAL_DISK_INFO, ParentLocation.ParentLocationBuffer),
        &units);
    PyObject *paths;
    if (info->ParentLocation.ParentResolved) {
        /* Documented to be one string then, not a list of them. */
        paths = Py_BuildValue("[N]", virtdisk_text_from_buffer(text, units));
    }
    else {
        paths = virtdisk_list_from_multi_sz(text, units);
    }
    if (paths == NULL) {
        return NULL;
    }
    return Py_BuildValue(
        "NN", PyBool_FromLong(info->ParentLocation.ParentResolved), paths);
}

static PyObject *
storage_type_information(const GET_VIRTUAL_DISK_INFO *info)
{
    return Py_BuildValue(
        "kN", (unsigned long)info->VirtualStorageType.DeviceId,
        virtdisk_bytes_from_guid(&info->VirtualStorageType.VendorId));
}

static PyObject *
physical_disk_information(const GET_VIRTUAL_DISK_INFO *info)
{
    return Py_BuildValue("kkN",
                         (unsigned long)info->PhysicalDisk.LogicalSectorSize,
                         (unsigned long)info->PhysicalDisk.PhysicalSectorSize,
                         PyBool_FromLong(info->PhysicalDisk.IsRemote));
}

static PyObject *
change_tracking(const struct query *query)
{
    const GET_VIRTUAL_DISK_INFO *info = query->buffer;
    size_t units;
    const WCHAR *text = virtdisk_query_text(
        query,
        offsetof(GET_VIRTUAL_DISK_INFO, ChangeTrackingState.MostRecentId),
        &units);
    return Py_BuildValue(
        "NNN", PyBool_FromLong(info->ChangeTrackingState.Enabled),
        PyBool_FromLong(info->ChangeTrackingState.NewerChanges),
        virtdisk_text_from_buffer(text, units));
}

static PyObject *
information_value(const struct query *query)
{
    const GET_VIRTUAL_DISK_INFO *info = query->buffer;
    switch (query->version) {
    case GET_VIRTUAL_DISK_INFO_SIZE:
        return size_information(info);
    case GET_VIRTUAL_DISK_INFO_IDENTIFIER:
        return virtdisk_bytes_from_guid(&info->Identifier);
    case GET_VIRTUAL_DISK_INFO_PARENT_LOCATION:
        return parent_location(query);
    case GET_VIRTUAL_DISK_INFO_PARENT_IDENTIFIER:
        return virtdisk_bytes_from_guid(&info->ParentIdentifier);
    case GET_VIRTUAL_DISK_INFO_PARENT_TIMESTAMP:
        return PyLong_FromUnsignedLong(info->ParentTimestamp);
    case GET_VIRTUAL_DISK_INFO_VIRTUAL_STORAGE_TYPE:
        return storage_type_information(info);
    case GET_VIRTUAL_DISK_INFO_PROVIDER_SUBTYPE:
        return PyLong_FromUnsignedLong(info->ProviderSubtype);
    case GET_VIRTUAL_DISK_INFO_IS_4K_ALIGNED:
        return PyBool_FromLong(info->Is4kAligned);
    case GET_VIRTUAL_DISK_INFO_PHYSICAL_DISK:
        return physical_disk_information(info);
    case GET_VIRTUAL_DISK_INFO_VHD_PHYSICAL_SECTOR_SIZE:
        return PyLong_FromUnsignedLong(info->VhdPhysicalSectorSize);
    case GET_VIRTUAL_DISK_INFO_SMALLEST_SAFE_VIRTUAL_SIZE:
        return PyLong_FromUnsignedLongLong(info->SmallestSafeVirtualSize);
    case GET_VIRTUAL_DISK_INFO_FRAGMENTATION:
        return PyLong_FromUnsignedLong(info->FragmentationPercentage);
    case GET_VIRTUAL_DISK_INFO_IS_LOADED:
        return PyBool_FromLong(info->IsLoaded);
    case GET_VIRTUAL_DISK_INFO_VIRTUAL_DISK_ID:
        return virtdisk_bytes_from_guid(&info->VirtualDiskId);
    case GET_VIRTUAL_DISK_INFO_CHANGE_TRACKING_STATE:
        return change_tracking(query);
    default:
        return PyErr_Format(PyExc_ValueError,
                            "version %lu of GET_VIRTUAL_DISK_INFO is not "
                            "known here, although the system knows it",
                            (unsigned long)query->version);
    }
}

PyDoc_STRVAR(
    information_doc,
    "GetVirtualDiskInformation($module, /, handle, version)\n--\n\n"
    "Return one kind of information about a virtual disk.\n"
    "\n"
    "Args:\n"
    "    handle: A Handle of OpenVirtualDisk.\n"
    "    version: Which information, GET_VIRTUAL_DISK_INFO_*.\n"
    "\n"
    "Returns:\n"
    "    SIZE: virtual, physical, block and sector size in bytes.\n"
    "    IDENTIFIER, PARENT_IDENTIFIER, VIRTUAL_DISK_ID: the 16 bytes of a\n"
    "    GUID, as in uuid.UUID.bytes_le.\n"
    "    PARENT_LOCATION: whether the parent was found, and its path or all\n"
    "    that were tried, as a list.\n"
    "    PARENT_TIMESTAMP: seconds since the start of the year 2000, UTC.\n"
    "    VIRTUAL_STORAGE_TYPE: device id, and vendor id as 16 bytes.\n"
    "    PROVIDER_SUBTYPE: 2 fixed, 3 dynamic, 4 differencing.\n"
    "    IS_4K_ALIGNED, IS_LOADED: bool.\n"
    "    PHYSICAL_DISK: logical and physical sector size in bytes of the\n"
    "    disk under the image, and whether that is remote.\n"
    "    VHD_PHYSICAL_SECTOR_SIZE, SMALLEST_SAFE_VIRTUAL_SIZE: bytes.\n"
    "    FRAGMENTATION: percent.\n"
    "    CHANGE_TRACKING_STATE: whether it is enabled, whether there are\n"
    "    newer changes, and the most recent id.\n"
    "\n"
    "Raises:\n"
    "    TypeError, ValueError, OverflowError: An argument does not fit or\n"
    "        the handle is closed.\n"
    "    VirtualDiskError: The code of the function, for example winerror 5\n"
    "        (no rights), 87 (no such information) or 0xC03A001B (not for\n"
    "        a disk of this type).\n"
    "\n"
    "Source: GetVirtualDiskInformation, GET_VIRTUAL_DISK_INFO.");

static PyObject *
get_information(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"handle", "version", NULL};
    struct module_state *state = virtdisk_module_state(module);
    struct query query = {.call = call_information};
    PyObject *object = NULL, *version = NULL, *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs,
                                     "OO:GetVirtualDiskInformation", keywords,
                                     &object, &version)) {
        return NULL;
    }
    HandleObject *handle = virtdisk_as_handle(state, object);
    if (handle != NULL &&
        virtdisk_convert_dword(version, "version", &query.version) == 0 &&
        virtdisk_query_disk(state, handle, "GetVirtualDiskInformation",
                            &query) == 0) {
        result = information_value(&query);
    }
    free(query.buffer);
    return result;
}

/* ------------------------------------------------------------------------
 * SetVirtualDiskInformation
 */

struct set_call {
    struct call call;
    SET_VIRTUAL_DISK_INFO info;
};

/* What differs between the versions, as it was given. */
struct set_members {
    PyObject *version;
    PyObject *parent_file_path;
    PyObject *unique_identifier;
    PyObject *child_depth;
    PyObject *vhd_physical_sector_size;
    PyObject *virtual_disk_id;
    int change_tracking_enabled;
    PyObject *linkage_id;
};

/* The same, converted. */
struct set_values {
    PCWSTR parent_file_path;
    GUID unique_identifier;
    DWORD child_depth;
    DWORD vhd_physical_sector_size;
    GUID virtual_disk_id;
    GUID linkage_id;
};

/* All are checked, also those that the version lacks. */
static int
convert_set(const struct set_members *members, struct memory *memory,
            struct set_values *out)
{
    memset(out, 0, sizeof(*out));
    out->child_depth = 1;
    if (virtdisk_convert_optional_text(members->parent_file_path,
                                       "parent_file_path", memory,
                                       &out->parent_file_path) < 0 ||
        virtdisk_convert_optional_guid(members->unique_identifier,
                                       "unique_identifier",
                                       &out->unique_identifier) < 0 ||
        virtdisk_convert_dword(members->child_depth, "child_depth",
                               &out->child_depth) < 0 ||
        virtdisk_convert_dword(members->vhd_physical_sector_size,
                               "vhd_physical_sector_size",
                               &out->vhd_physical_sector_size) < 0 ||
        virtdisk_convert_optional_guid(members->virtual_disk_id,
                                       "virtual_disk_id",
                                       &out->virtual_disk_id) < 0) {
        return -1;
    }
    return virtdisk_convert_optional_guid(members->linkage_id, "linkage_id",
                                          &out->linkage_id);
}

static int
require_path(const struct set_members *members, DWORD version)
{
    return virtdisk_require(members->parent_file_path, "parent_file_path",
                            version);
}

/* Fills the member of the version; what it needs must have been given. */
static int
fill_set(SET_VIRTUAL_DISK_INFO *info, const struct set_members *members,
         const struct set_values *values)
{
    DWORD version = (DWORD)info->Version;

    switch (info->Version) {
    case SET_VIRTUAL_DISK_INFO_PARENT_PATH:
        info->ParentFilePath = values->parent_file_path;
        return require_path(members, version);
    case SET_VIRTUAL_DISK_INFO_IDENTIFIER:
        info->UniqueIdentifier = values->unique_identifier;
        return virtdisk_require(members->unique_identifier,
                                "unique_identifier", version);
    case SET_VIRTUAL_DISK_INFO_PARENT_PATH_WITH_DEPTH:
        info->ParentPathWithDepthInfo.ChildDepth = values->child_depth;
        info->ParentPathWithDepthInfo.ParentFilePath =
            values->parent_file_path;
        return require_path(members, version);
    case SET_VIRTUAL_DISK_INFO_PHYSICAL_SECTOR_SIZE:
        info->VhdPhysicalSectorSize = values->vhd_physical_sector_size;
        return 0;
    case SET_VIRTUAL_DISK_INFO_VIRTUAL_DISK_ID:
        info->VirtualDiskId = values->virtual_disk_id;
        return virtdisk_require(members->virtual_disk_id, "virtual_disk_id",
                                version);
    case SET_VIRTUAL_DISK_INFO_CHANGE_TRACKING_STATE:
        info->ChangeTrackingEnabled = members->change_tracking_enabled;
        return 0;
    default:
        info->ParentLocator.LinkageId = values->linkage_id;
        info->ParentLocator.ParentFilePath = values->parent_file_path;
        if (require_path(members, version) < 0) {
            return -1;
        }
        return virtdisk_require(members->linkage_id, "linkage_id", version);
    }
}

static int
parse_set(struct set_call *set, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"handle",           "version",
                               "parent_file_path", "unique_identifier",
                               "child_depth",      "vhd_physical_sector_size",
                               "virtual_disk_id",  "change_tracking_enabled",
                               "linkage_id",       NULL};
    struct set_members members;
    struct set_values values;
    PyObject *handle = NULL;
    DWORD version = 0;
    memset(&members, 0, sizeof(members));
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "OO|$OOOOOpO:SetVirtualDiskInformation", keywords,
            &handle, &members.version, &members.parent_file_path,
            &members.unique_identifier, &members.child_depth,
            &members.vhd_physical_sector_size, &members.virtual_disk_id,
            &members.change_tracking_enabled, &members.linkage_id) ||
        virtdisk_parse_call(&set->call, handle, NULL, NULL) < 0 ||
        virtdisk_convert_version(members.version,
                                 SET_VIRTUAL_DISK_INFO_PARENT_LOCATOR,
                                 &version) < 0 ||
        convert_set(&members, &set->call.memory, &values) < 0) {
        return -1;
    }
    set->info.Version = (SET_VIRTUAL_DISK_INFO_VERSION)version;
    return fill_set(&set->info, &members, &values);
}

static DWORD
run_set(const struct call *call, HANDLE value, OVERLAPPED *overlapped)
{
    SET_VIRTUAL_DISK_INFO info = ((const struct set_call *)call)->info;
    (void)overlapped;
    return SetVirtualDiskInformation(value, &info);
}

PyDoc_STRVAR(
    set_doc,
    "SetVirtualDiskInformation($module, /, handle, version, *,\n"
    "                          parent_file_path=None,\n"
    "                          unique_identifier=None, child_depth=1,\n"
    "                          vhd_physical_sector_size=0,\n"
    "                          virtual_disk_id=None,\n"
    "                          change_tracking_enabled=False,\n"
    "                          linkage_id=None)\n--\n\n"
    "Set one kind of information about a virtual disk.\n"
    "\n"
    "Args:\n"
    "    handle: A Handle of OpenVirtualDisk.\n"
    "    version: Which information, SET_VIRTUAL_DISK_INFO_*.  Members that\n"
    "        it lacks are not passed.\n"
    "    parent_file_path: PARENT_PATH, PARENT_PATH_WITH_DEPTH and\n"
    "        PARENT_LOCATOR: where the parent is.\n"
    "    unique_identifier: IDENTIFIER, 16 bytes as in uuid.UUID.bytes_le.\n"
    "    child_depth: PARENT_PATH_WITH_DEPTH: the disk of the chain to set\n"
    "        it for, 1 the leaf.\n"
    "    vhd_physical_sector_size: PHYSICAL_SECTOR_SIZE, in bytes.\n"
    "    virtual_disk_id: VIRTUAL_DISK_ID, 16 bytes.\n"
    "    change_tracking_enabled: CHANGE_TRACKING_STATE.\n"
    "    linkage_id: PARENT_LOCATOR, 16 bytes.\n"
    "\n"
    "Raises:\n"
    "    TypeError, ValueError, OverflowError: An argument does not fit or "
    "is\n"
    "        missing, or the handle is closed; nothing was called.\n"
    "    VirtualDiskError: The code of the function, for example winerror 5\n"
    "        (no rights), 32 (in use), 50 (not in this format), 87 (refused\n"
    "        arguments) or 0xC03A001B (not for a disk of this type).\n"
    "\n"
    "Raises the audit event virtdisk.SetVirtualDiskInformation with the path\n"
    "and version.\n"
    "\n"
    "Source: SetVirtualDiskInformation, SET_VIRTUAL_DISK_INFO.");

static PyObject *
set_information(PyObject *module, PyObject *args, PyObject *kwargs)
{
    struct set_call set = {.call = {.state = virtdisk_module_state(module),
                                    .function = "SetVirtualDiskInformation"}};
    struct call *call = &set.call;
    int result = -1;
    if (parse_set(&set, args, kwargs) == 0 &&
        virtdisk_may_call(call->state, call->function) &&
        virtdisk_audit(call->state,
                       Py_BuildValue("sOk",
                                     "virtdisk.SetVirtualDiskInformation",
                                     call->handle->path,
                                     (unsigned long)set.info.Version)) == 0) {
        result = virtdisk_call(call, run_set, NULL);
    }
    return virtdisk_finish(call, result);
}

static PyMethodDef methods[] = {
    {"SetVirtualDiskInformation", WITH_KEYWORDS(set_information), set_doc},
    {"GetVirtualDiskInformation", WITH_KEYWORDS(get_information),
     information_doc},
    {NULL, NULL, 0, NULL},
};

int
virtdisk_add_information(PyObject *module)
{
    return PyModule_AddFunctions(module, methods);
}
