/*
 * OpenVirtualDisk.
 */
#include "_virtdisk.h"

struct open_request {
    PCWSTR path; /* in memory */
    struct memory memory;
    VIRTUAL_STORAGE_TYPE storage_type;
    DWORD access_mask;
    DWORD flags;
    OPEN_VIRTUAL_DISK_PARAMETERS parameters; /* not passed if Version is 0 */
};

/* What differs between the versions of the parameters, as it was given. */
struct open_members {
    PyObject *version;
    PyObject *rw_depth;
    int get_info_only;
    int read_only;
    PyObject *resiliency_guid;
    PyObject *snapshot_id;
};

/* Fills the members that the version has; the others are checked as well
 * but not passed. */
static int
fill_open_parameters(OPEN_VIRTUAL_DISK_PARAMETERS *parameters,
                     const struct open_members *members)
{
    DWORD version = OPEN_VIRTUAL_DISK_VERSION_1;
    DWORD rw_depth = OPEN_VIRTUAL_DISK_RW_DEPTH_DEFAULT;
    GUID resiliency, snapshot;
    memset(&resiliency, 0, sizeof(resiliency));
    memset(&snapshot, 0, sizeof(snapshot));
    if ((members->version != NULL &&
         virtdisk_convert_optional_version(
             members->version, OPEN_VIRTUAL_DISK_VERSION_3, &version) < 0) ||
        virtdisk_convert_dword(members->rw_depth, "rw_depth", &rw_depth) < 0 ||
        virtdisk_convert_optional_guid(members->resiliency_guid,
                                       "resiliency_guid", &resiliency) < 0 ||
        virtdisk_convert_optional_guid(members->snapshot_id, "snapshot_id",
                                       &snapshot) < 0) {
        return -1;
    }
    parameters->Version = (OPEN_VIRTUAL_DISK_VERSION)version;
    if (version == OPEN_VIRTUAL_DISK_VERSION_1) {
        parameters->Version1.RWDepth = rw_depth;
    }
    else if (version == OPEN_VIRTUAL_DISK_VERSION_2) {
        parameters->Version2.GetInfoOnly = members->get_info_only;
        parameters->Version2.ReadOnly = members->read_only;
        parameters->Version2.ResiliencyGuid = resiliency;
    }
    else if (version == OPEN_VIRTUAL_DISK_VERSION_3) {
        parameters->Version3.GetInfoOnly = members->get_info_only;
        parameters->Version3.ReadOnly = members->read_only;
        parameters->Version3.ResiliencyGuid = resiliency;
        parameters->Version3.SnapshotId = snapshot;
    }
    return 0;
}

/* Fills request, which is all zeros, and borrows the path into *path_out. */
static int
parse_open(PyObject *args, PyObject *kwargs, struct open_request *request,
           PyObject **path_out)
{
    static char *keywords[] = {
        "path",      "device_id",       "vendor_id",   "access_mask",
        "flags",     "version",         "rw_depth",    "get_info_only",
        "read_only", "resiliency_guid", "snapshot_id", NULL};
    PyObject *device_id = NULL, *vendor_id = NULL;
    PyObject *access_mask = NULL, *flags = NULL;
    struct open_members members;
    memset(&members, 0, sizeof(members));
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "O|$OOOOOOppOO:OpenVirtualDisk", keywords, path_out,
            &device_id, &vendor_id, &access_mask, &flags, &members.version,
            &members.rw_depth, &members.get_info_only, &members.read_only,
            &members.resiliency_guid, &members.snapshot_id)) {
        return -1;
    }
    if (virtdisk_convert_dword(device_id, "device_id",
                               &request->storage_type.DeviceId) < 0 ||
        virtdisk_convert_optional_guid(vendor_id, "vendor_id",
                                       &request->storage_type.VendorId) < 0 ||
        virtdisk_convert_dword(access_mask, "access_mask",
                               &request->access_mask) < 0 ||
        virtdisk_convert_dword(flags, "flags", &request->flags) < 0 ||
        fill_open_parameters(&request->parameters, &members) < 0) {
        return -1;
    }
    return virtdisk_convert_text(*path_out, "path", &request->memory,
                                 &request->path);
}

static DWORD
call_open(struct open_request *request, HANDLE *out)
{
    OPEN_VIRTUAL_DISK_PARAMETERS *parameters = NULL;
    if (request->parameters.Version != OPEN_VIRTUAL_DISK_VERSION_UNSPECIFIED) {
        parameters = &request->parameters;
    }
    return OpenVirtualDisk(&request->storage_type, request->path,
                           (VIRTUAL_DISK_ACCESS_MASK)request->access_mask,
                           (OPEN_VIRTUAL_DISK_FLAG)request->flags, parameters,
                           out);
}

PyDoc_STRVAR(
    open_doc,
    "OpenVirtualDisk($module, /, path, *, device_id=0, vendor_id=None,\n"
    "                access_mask=0, flags=0, version=1, rw_depth=1,\n"
    "                get_info_only=False, read_only=False,\n"
    "                resiliency_guid=None, snapshot_id=None)\n--\n\n"
    "Open a virtual disk.\n"
    "\n"
    "Args:\n"
    "    path: The image file.\n"
    "    device_id: VirtualStorageType.DeviceId,\n"
    "        VIRTUAL_STORAGE_TYPE_DEVICE_*; 0 lets the system find out.\n"
    "    vendor_id: VirtualStorageType.VendorId, 16 bytes as in\n"
    "        uuid.UUID.bytes_le; None is "
    "VIRTUAL_STORAGE_TYPE_VENDOR_UNKNOWN.\n"
    "    access_mask: VIRTUAL_DISK_ACCESS_* bits.\n"
    "    flags: OPEN_VIRTUAL_DISK_FLAG_* bits.\n"
    "    version: Of OPEN_VIRTUAL_DISK_PARAMETERS, 1 to 3; None passes no\n"
    "        parameters.  Members that a version lacks are not passed.\n"
    "    rw_depth: Version 1: how many disks of the chain, from the leaf\n"
    "        up, are opened for writing.\n"
    "    get_info_only: Versions 2 and 3.\n"
    "    read_only: Versions 2 and 3.\n"
    "    resiliency_guid: Versions 2 and 3, 16 bytes; None is all zeros.\n"
    "    snapshot_id: Version 3, 16 bytes; None is all zeros.\n"
    "\n"
    "Returns:\n"
    "    The open Handle.\n"
    "\n"
    "Raises:\n"
    "    TypeError, ValueError, OverflowError: An argument does not fit;\n"
    "        nothing was called.\n"
    "    VirtualDiskError: The code of the function, for example winerror 2\n"
    "        (no such file), 5 (no rights), 32 (in use), 87 (refused\n"
    "        arguments), 1392 (damaged) or 0xC03A0014 (no virtual disk).\n"
    "\n"
    "Raises the audit event virtdisk.OpenVirtualDisk with path, access_mask\n"
    "and flags.\n"
    "\n"
    "Source: OpenVirtualDisk, OPEN_VIRTUAL_DISK_PARAMETERS.");

static PyObject *
open_virtual_disk(PyObject *module, PyObject *args, PyObject *kwargs)
{
    struct module_state *state = virtdisk_module_state(module);
    struct open_request request;
    PyObject *path = NULL;
    HandleObject *handle = NULL;
    HANDLE value = NULL;
    DWORD code = ERROR_SUCCESS;
    PyObject *result = NULL;

    memset(&request, 0, sizeof(request));
    if (parse_open(args, kwargs, &request, &path) < 0) {
        goto done;
    }
    if (virtdisk_audit(state,
                       Py_BuildValue("sOkk", "virtdisk.OpenVirtualDisk", path,
                                     (unsigned long)request.access_mask,
                                     (unsigned long)request.flags)) < 0) {
        goto done;
    }
    handle = virtdisk_handle_new(state, path);
    if (handle == NULL) {
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS
    code = call_open(&request, &value);
    Py_END_ALLOW_THREADS
    if (code != ERROR_SUCCESS) {
        virtdisk_raise_error(state, "OpenVirtualDisk", code, path);
        goto done;
    }
    virtdisk_handle_own(handle, value);
    result = Py_NewRef((PyObject *)handle);
done:
    Py_XDECREF((PyObject *)handle);
    virtdisk_memory_free(&request.memory);
    return result;
}

static PyMethodDef methods[] = {
    {"OpenVirtualDisk", WITH_KEYWORDS(open_virtual_disk), open_doc},
    {NULL, NULL, 0, NULL},
};

int
virtdisk_add_open(PyObject *module)
{
    return PyModule_AddFunctions(module, methods);
}
