/*
 * RawSCSIVirtualDisk.
 */
#include "_virtdisk.h"

/* The data stays the caller's own, exported until the call has returned, so
 * that it can neither move nor shrink: it may be megabytes.  All else is
 * copied. */
struct scsi_request {
    HandleObject *handle; /* borrowed */
    UCHAR cdb[UINT8_MAX];
    UCHAR cdb_length;
    Py_buffer data; /* obj is NULL if there is none */
    bool data_in;
    bool rsvd_handle;
    DWORD sense_length;
    DWORD srb_flags;
    DWORD flags;
    UCHAR sense[UINT8_MAX];
    RAW_SCSI_VIRTUAL_DISK_RESPONSE response;
};

static int
convert_cdb(struct scsi_request *request, PyObject *object)
{
    Py_buffer view = {.obj = NULL};
    int result =
        virtdisk_convert_buffer(object, "cdb", PyBUF_SIMPLE, UINT8_MAX, &view);
    if (result == 0 && view.len > 0) {
        memcpy(request->cdb, view.buf, (size_t)view.len);
        request->cdb_length = (UCHAR)view.len;
    }
    PyBuffer_Release(&view);
    return result;
}

static int
convert_data(struct scsi_request *request, PyObject *data_in,
             PyObject *data_out)
{
    if (data_in != Py_None && data_out != Py_None) {
        PyErr_SetString(PyExc_ValueError,
                        "data goes one way: data_in or data_out");
        return -1;
    }
    if (data_in != Py_None) {
        request->data_in = true;
        return virtdisk_convert_buffer(data_in, "data_in", PyBUF_WRITABLE,
                                       UINT32_MAX, &request->data);
    }
    if (data_out != Py_None) {
        return virtdisk_convert_buffer(data_out, "data_out", PyBUF_SIMPLE,
                                       UINT32_MAX, &request->data);
    }
    return 0;
}

static int
convert_sense_length(PyObject *object, DWORD *out)
{
    unsigned long long value = 0;
    if (object == NULL) {
        return 0;
    }
    if (virtdisk_convert_unsigned(object, "sense_length", UINT8_MAX, &value) <
        0) {
        return -1;
    }
    *out = (DWORD)value;
    return 0;
}

/* Fills request, which is all zeros; its data is to be released also after a
 * failure. */
static int
parse_scsi(struct module_state *state, PyObject *args, PyObject *kwargs,
           struct scsi_request *request)
{
    static char *keywords[] = {
        "handle",    "cdb",         "data_in", "data_out", "sense_length",
        "srb_flags", "rsvd_handle", "version", "flags",    NULL};
    PyObject *handle = NULL, *cdb = NULL, *sense_length = NULL;
    PyObject *data_in = Py_None, *data_out = Py_None, *srb_flags = NULL;
    PyObject *version_object = NULL, *flags = NULL;
    DWORD version = RAW_SCSI_VIRTUAL_DISK_VERSION_1;
    int rsvd_handle = 0;
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "OO|$OOOOpOO:RawSCSIVirtualDisk", keywords, &handle,
            &cdb, &data_in, &data_out, &sense_length, &srb_flags, &rsvd_handle,
            &version_object, &flags)) {
        return -1;
    }
    request->rsvd_handle = rsvd_handle != 0;
    request->sense_length = 18;
    request->handle = virtdisk_as_handle(state, handle);
    if (request->handle == NULL ||
        convert_sense_length(sense_length, &request->sense_length) < 0 ||
        virtdisk_convert_dword(srb_flags, "srb_flags", &request->srb_flags) <
            0 ||
        virtdisk_convert_dword(flags, "flags", &request->flags) < 0) {
        return -1;
    }
    if (virtdisk_convert_version(
            version_object, RAW_SCSI_VIRTUAL_DISK_VERSION_1, &version) < 0) {
        return -1;
    }
    if (convert_cdb(request, cdb) < 0) {
        return -1;
    }
    return convert_data(request, data_in, data_out);
}

/* Needs no GIL. */
static DWORD
call_scsi(raw_scsi_function function, struct scsi_request *request,
          HANDLE value)
{
    RAW_SCSI_VIRTUAL_DISK_PARAMETERS parameters;
    memset(&parameters, 0, sizeof(parameters));
    parameters.Version = RAW_SCSI_VIRTUAL_DISK_VERSION_1;
    parameters.Version1.RSVDHandle = request->rsvd_handle;
    parameters.Version1.DataIn = request->data_in;
    parameters.Version1.CdbLength = request->cdb_length;
    parameters.Version1.SenseInfoLength = (UCHAR)request->sense_length;
    parameters.Version1.SrbFlags = request->srb_flags;
    parameters.Version1.DataTransferLength = (ULONG)request->data.len;
    parameters.Version1.DataBuffer = request->data.buf;
    parameters.Version1.SenseInfo = request->sense;
    parameters.Version1.Cdb = request->cdb;
    request->response.Version = RAW_SCSI_VIRTUAL_DISK_VERSION_1;
    return function(value, &parameters,
                    (RAW_SCSI_VIRTUAL_DISK_FLAG)request->flags,
                    &request->response);
}

static PyObject *
scsi_result(const struct scsi_request *request)
{
    const RAW_SCSI_VIRTUAL_DISK_RESPONSE *response = &request->response;
    size_t sense = response->Version1.SenseInfoLength;
    if (sense > request->sense_length) {
        sense = request->sense_length;
    }
    return Py_BuildValue("ky#k", (unsigned long)response->Version1.ScsiStatus,
                         (const char *)request->sense, (Py_ssize_t)sense,
                         (unsigned long)response->Version1.DataTransferLength);
}

PyDoc_STRVAR(
    raw_scsi_doc,
    "RawSCSIVirtualDisk($module, /, handle, cdb, *, data_in=None,\n"
    "                   data_out=None, sense_length=18, srb_flags=0,\n"
    "                   rsvd_handle=False, version=1, flags=0)\n--\n\n"
    "Let an attached virtual disk execute a SCSI command.\n"
    "\n"
    "That the call succeeds says that the disk was given the command; the\n"
    "returned status says whether the command succeeded.\n"
    "\n"
    "Args:\n"
    "    handle: A Handle of OpenVirtualDisk through which the disk was\n"
    "        attached with ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST.\n"
    "    cdb: The command descriptor block, any bytes-like object.\n"
    "    data_in: A writable buffer for the data the disk gives, as large\n"
    "        as the command says.  It may change while the call runs.\n"
    "    data_out: The data for the disk, any bytes-like object.\n"
    "    sense_length: How many bytes of sense data to take, up to 255.\n"
    "    srb_flags: SRB_FLAGS_* bits of srb.h.\n"
    "    rsvd_handle: Whether the disk is reached by the RSVD protocol.\n"
    "    version: Of RAW_SCSI_VIRTUAL_DISK_PARAMETERS, 1.\n"
    "    flags: RAW_SCSI_VIRTUAL_DISK_FLAG_NONE.\n"
    "\n"
    "Returns:\n"
    "    ScsiStatus (0 is good, 2 check condition), the sense data as\n"
    "    bytes, and DataTransferLength, the bytes moved.\n"
    "\n"
    "Raises:\n"
    "    TypeError, ValueError, OverflowError: An argument does not fit or\n"
    "        the handle is closed; nothing was called.\n"
    "    NotImplementedError: The system is older than Windows 10 or\n"
    "        Windows Server 2016.\n"
    "    VirtualDiskError: The code of the function, for example winerror\n"
    "        21 (not attached), 50 (attached with a device) or 87 (refused\n"
    "        arguments).\n"
    "\n"
    "Raises the audit event virtdisk.RawSCSIVirtualDisk with the path and\n"
    "the CDB as bytes.\n"
    "\n"
    "Source: RawSCSIVirtualDisk, RAW_SCSI_VIRTUAL_DISK_PARAMETERS,\n"
    "RAW_SCSI_VIRTUAL_DISK_RESPONSE.");

static PyObject *
raw_scsi(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static const char function[] = "RawSCSIVirtualDisk";
    struct module_state *state = virtdisk_module_state(module);
    struct scsi_request request;
    PyObject *result = NULL;
    HANDLE value = NULL;
    DWORD code;

    if (!virtdisk_is_there(state->newer.raw_scsi != NULL, function,
                           "Windows 10 or Windows Server 2016")) {
        return NULL;
    }
    memset(&request, 0, sizeof(request));
    if (parse_scsi(state, args, kwargs, &request) < 0) {
        goto done;
    }
    if (virtdisk_audit(state,
                       Py_BuildValue("sOy#", "virtdisk.RawSCSIVirtualDisk",
                                     request.handle->path,
                                     (const char *)request.cdb,
                                     (Py_ssize_t)request.cdb_length)) < 0 ||
        virtdisk_handle_enter(request.handle, &value) < 0) {
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS
    code = call_scsi(state->newer.raw_scsi, &request, value);
    Py_END_ALLOW_THREADS
    virtdisk_handle_leave(request.handle);
    if (code != ERROR_SUCCESS) {
        virtdisk_raise_error(state, function, code, request.handle->path);
        goto done;
    }
    result = scsi_result(&request);
done:
    PyBuffer_Release(&request.data);
    return result;
}

static PyMethodDef methods[] = {
    {"RawSCSIVirtualDisk", WITH_KEYWORDS(raw_scsi), raw_scsi_doc},
    {NULL, NULL, 0, NULL},
};

int
virtdisk_add_scsi(PyObject *module)
{
    return PyModule_AddFunctions(module, methods);
}
