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

static PyMethodDef methods[] = {
    {"GetVirtualDiskInformation", WITH_KEYWORDS(get_information),
     information_doc},
    {NULL, NULL, 0, NULL},
};

int
virtdisk_add_information(PyObject *module)
{
    return PyModule_AddFunctions(module, methods);
}
