/*
 * AttachVirtualDisk, DetachVirtualDisk, AddVirtualDiskParent.
 */
#include "_virtdisk.h"

/* ------------------------------------------------------------------------
 * AttachVirtualDisk
 */

struct attach_call {
    struct call call;
    PSECURITY_DESCRIPTOR descriptor; /* in memory, or NULL */
    DWORD provider_specific_flags;
};

/* What differs between the versions of the parameters, as it was given. */
struct attach_members {
    PyObject *version;
    PyObject *restricted_offset;
    PyObject *restricted_length;
};

static int
make_attach_parameters(struct call *call, const struct attach_members *members)
{
    DWORD version = ATTACH_VIRTUAL_DISK_VERSION_1;
    ULONGLONG offset = 0, length = 0;
    if (virtdisk_convert_optional_version(
            members->version, ATTACH_VIRTUAL_DISK_VERSION_2, &version) < 0 ||
        virtdisk_convert_ulonglong(members->restricted_offset,
                                   "restricted_offset", &offset) < 0 ||
        virtdisk_convert_ulonglong(members->restricted_length,
                                   "restricted_length", &length) < 0) {
        return -1;
    }
    if (version == ATTACH_VIRTUAL_DISK_VERSION_UNSPECIFIED) {
        return 0;
    }
    ATTACH_VIRTUAL_DISK_PARAMETERS *parameters =
        virtdisk_memory_new(&call->memory, sizeof(*parameters));
    if (parameters == NULL) {
        return -1;
    }
    parameters->Version = (ATTACH_VIRTUAL_DISK_VERSION)version;
    if (version == ATTACH_VIRTUAL_DISK_VERSION_2) {
        parameters->Version2.RestrictedOffset = offset;
        parameters->Version2.RestrictedLength = length;
    }
    call->parameters = parameters;
    return 0;
}

static int
parse_attach(struct attach_call *attach, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"handle",
                               "security_descriptor",
                               "flags",
                               "provider_specific_flags",
                               "version",
                               "restricted_offset",
                               "restricted_length",
                               "overlapped",
                               NULL};
    struct call *call = &attach->call;
    struct attach_members members = {NULL, NULL, NULL};
    PyObject *handle = NULL, *descriptor = NULL, *flags = NULL;
    PyObject *provider = NULL, *overlapped = NULL;
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "O|$OOOOOOO:AttachVirtualDisk", keywords, &handle,
            &descriptor, &flags, &provider, &members.version,
            &members.restricted_offset, &members.restricted_length,
            &overlapped) ||
        virtdisk_parse_call(call, handle, flags, overlapped) < 0 ||
        virtdisk_convert_dword(provider, "provider_specific_flags",
                               &attach->provider_specific_flags) < 0 ||
        make_attach_parameters(call, &members) < 0) {
        return -1;
    }
    return virtdisk_convert_descriptor(call->state, descriptor,
                                       call->handle->path, &call->memory,
                                       &attach->descriptor);
}

static DWORD
run_attach(const struct call *call, HANDLE value, OVERLAPPED *overlapped)
{
    const struct attach_call *attach = (const struct attach_call *)call;
    return AttachVirtualDisk(
        value, attach->descriptor, (ATTACH_VIRTUAL_DISK_FLAG)call->flags,
        attach->provider_specific_flags,
        (PATTACH_VIRTUAL_DISK_PARAMETERS)call->parameters, overlapped);
}

PyDoc_STRVAR(
    attach_doc,
    "AttachVirtualDisk($module, /, handle, *, security_descriptor=None,\n"
    "                  flags=0, provider_specific_flags=0, version=1,\n"
    "                  restricted_offset=0, restricted_length=0,\n"
    "                  overlapped=None)\n--\n\n"
    "Attach a virtual disk.\n"
    "\n"
    "Args:\n"
    "    handle: A Handle of OpenVirtualDisk.\n"
    "    security_descriptor: Who may use the disk: SDDL text, the bytes of\n"
    "        a self-relative SECURITY_DESCRIPTOR, or None for that of the\n"
    "        image file.\n"
    "    flags: ATTACH_VIRTUAL_DISK_FLAG_* bits.\n"
    "    provider_specific_flags: 0 for the formats of Microsoft.\n"
    "    version: Of ATTACH_VIRTUAL_DISK_PARAMETERS, 1 or 2; None passes no\n"
    "        parameters.  Members that a version lacks are not passed.\n"
    "    restricted_offset: Version 2: first byte of the disk to show.\n"
    "    restricted_length: Version 2: how many bytes to show.\n"
    "    overlapped: Return at once and let this Overlapped tell the end.\n"
    "\n"
    "Raises:\n"
    "    TypeError, ValueError, OverflowError: An argument does not fit, the\n"
    "        handle is closed or the Overlapped in use; nothing was called.\n"
    "    VirtualDiskError: The code of the function, for example winerror 5\n"
    "        (no rights), 32 (attached already), 87 (refused arguments) or\n"
    "        1314 (no privilege); or of the conversion of SDDL text.\n"
    "\n"
    "Raises the audit event virtdisk.AttachVirtualDisk with the path and\n"
    "flags.\n"
    "\n"
    "Source: AttachVirtualDisk, ATTACH_VIRTUAL_DISK_PARAMETERS,\n"
    "ConvertStringSecurityDescriptorToSecurityDescriptorW.");

static PyObject *
attach_virtual_disk(PyObject *module, PyObject *args, PyObject *kwargs)
{
    struct attach_call attach;
    struct call *call = &attach.call;
    memset(&attach, 0, sizeof(attach));
    call->state = virtdisk_module_state(module);
    call->function = "AttachVirtualDisk";
    int result = -1;
    if (parse_attach(&attach, args, kwargs) == 0 &&
        virtdisk_may_call(call->state, call->function) &&
        virtdisk_audit(call->state,
                       Py_BuildValue("sOk", "virtdisk.AttachVirtualDisk",
                                     call->handle->path,
                                     (unsigned long)call->flags)) == 0) {
        result = virtdisk_call(call, run_attach, NULL);
    }
    return virtdisk_finish(call, result);
}

/* ------------------------------------------------------------------------
 * DetachVirtualDisk
 */

struct detach_call {
    struct call call;
    DWORD provider_specific_flags;
};

static DWORD
run_detach(const struct call *call, HANDLE value, OVERLAPPED *overlapped)
{
    (void)overlapped;
    return DetachVirtualDisk(
        value, (DETACH_VIRTUAL_DISK_FLAG)call->flags,
        ((const struct detach_call *)call)->provider_specific_flags);
}

PyDoc_STRVAR(
    detach_doc,
    "DetachVirtualDisk($module, /, handle, *, flags=0,\n"
    "                  provider_specific_flags=0)\n--\n\n"
    "Detach a virtual disk, whoever attached it.\n"
    "\n"
    "Args:\n"
    "    handle: A Handle of OpenVirtualDisk.\n"
    "    flags: DETACH_VIRTUAL_DISK_FLAG_NONE.\n"
    "    provider_specific_flags: 0 for the formats of Microsoft.\n"
    "\n"
    "Raises:\n"
    "    TypeError, ValueError, OverflowError: An argument does not fit or\n"
    "        the handle is closed; nothing was called.\n"
    "    VirtualDiskError: The code of the function, for example winerror 5\n"
    "        (no rights), 21 (not attached), 87 (refused arguments) or 170\n"
    "        (in use).\n"
    "\n"
    "Raises the audit event virtdisk.DetachVirtualDisk with the path and\n"
    "flags.\n"
    "\n"
    "Source: DetachVirtualDisk.");

static PyObject *
detach_virtual_disk(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"handle", "flags", "provider_specific_flags",
                               NULL};
    PyObject *handle = NULL, *flags = NULL, *provider = NULL;
    struct detach_call detach;
    struct call *call = &detach.call;
    memset(&detach, 0, sizeof(detach));
    call->state = virtdisk_module_state(module);
    call->function = "DetachVirtualDisk";
    int result = -1;
    if (PyArg_ParseTupleAndKeywords(args, kwargs, "O|$OO:DetachVirtualDisk",
                                    keywords, &handle, &flags, &provider) &&
        virtdisk_parse_call(call, handle, flags, NULL) == 0 &&
        virtdisk_convert_dword(provider, "provider_specific_flags",
                               &detach.provider_specific_flags) == 0 &&
        virtdisk_audit(call->state,
                       Py_BuildValue("sOk", "virtdisk.DetachVirtualDisk",
                                     call->handle->path,
                                     (unsigned long)call->flags)) == 0) {
        result = virtdisk_call(call, run_detach, NULL);
    }
    return virtdisk_finish(call, result);
}

/* ------------------------------------------------------------------------
 * AddVirtualDiskParent
 */

static DWORD
run_add_parent(const struct call *call, HANDLE value, OVERLAPPED *overlapped)
{
    (void)overlapped;
    return AddVirtualDiskParent(value, call->parameters);
}

PyDoc_STRVAR(
    add_parent_doc,
    "AddVirtualDiskParent($module, /, handle, path)\n--\n\n"
    "Add the next parent to a differencing chain.\n"
    "\n"
    "For a Handle opened with OPEN_VIRTUAL_DISK_FLAG_CUSTOM_DIFF_CHAIN; once\n"
    "for each parent, the leaf's first.\n"
    "\n"
    "Args:\n"
    "    handle: A Handle of OpenVirtualDisk.\n"
    "    path: The parent's image file.\n"
    "\n"
    "Raises:\n"
    "    TypeError, ValueError: An argument does not fit or the handle is\n"
    "        closed; nothing was called.\n"
    "    VirtualDiskError: The code of the function, for example winerror 2\n"
    "        (no such file), 87 (opened without the flag), 0xC03A000E (not\n"
    "        its parent) or 0xC03A001B (no parent is missing).\n"
    "\n"
    "Raises the audit event virtdisk.AddVirtualDiskParent with the path of\n"
    "the handle and path.\n"
    "\n"
    "Source: AddVirtualDiskParent.");

static PyObject *
add_parent(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"handle", "path", NULL};
    PyObject *handle = NULL, *path = NULL;
    PCWSTR text = NULL;
    struct call call;
    memset(&call, 0, sizeof(call));
    call.state = virtdisk_module_state(module);
    call.function = "AddVirtualDiskParent";
    int result = -1;
    if (PyArg_ParseTupleAndKeywords(args, kwargs, "OO:AddVirtualDiskParent",
                                    keywords, &handle, &path) &&
        virtdisk_parse_call(&call, handle, NULL, NULL) == 0 &&
        virtdisk_convert_text(path, "path", &call.memory, &text) == 0 &&
        virtdisk_may_call(call.state, call.function) &&
        virtdisk_audit(call.state,
                       Py_BuildValue("sOO", "virtdisk.AddVirtualDiskParent",
                                     call.handle->path, path)) == 0) {
        call.parameters = text;
        result = virtdisk_call(&call, run_add_parent, path);
    }
    return virtdisk_finish(&call, result);
}

static PyMethodDef methods[] = {
    {"AttachVirtualDisk", WITH_KEYWORDS(attach_virtual_disk), attach_doc},
    {"DetachVirtualDisk", WITH_KEYWORDS(detach_virtual_disk), detach_doc},
    {"AddVirtualDiskParent", WITH_KEYWORDS(add_parent), add_parent_doc},
    {NULL, NULL, 0, NULL},
};

int
virtdisk_add_attach(PyObject *module)
{
    return PyModule_AddFunctions(module, methods);
}
