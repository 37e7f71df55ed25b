/*
 * Going over to another file while the disk is in use: MirrorVirtualDisk,
 * BreakMirrorVirtualDisk, ForkVirtualDisk, CompleteForkVirtualDisk.
 */
#include "_virtdisk.h"

static const char fork_windows[] = "Windows 10 1809 or Windows Server 2019";

/* The arguments of MirrorVirtualDisk and ForkVirtualDisk, which format names;
 * the path, borrowed and converted. */
struct other_file {
    PyObject *path;
    PCWSTR text; /* in memory */
};

static int
parse_other_file(struct call *call, PyObject *args, PyObject *kwargs,
                 const char *format, struct other_file *out)
{
    static char *keywords[] = {"handle", "path",    "overlapped",
                               "flags",  "version", NULL};
    PyObject *handle = NULL, *overlapped = NULL, *flags = NULL;
    PyObject *version_object = NULL;
    DWORD version = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, format, keywords, &handle,
                                     &out->path, &overlapped, &flags,
                                     &version_object) ||
        virtdisk_parse_call(call, handle, flags, NULL) < 0) {
        return -1;
    }
    call->overlapped = virtdisk_as_overlapped(call->state, overlapped);
    if (call->overlapped == NULL ||
        virtdisk_convert_version(version_object, 1, &version) < 0) {
        return -1;
    }
    return virtdisk_convert_text(out->path, "path", &call->memory, &out->text);
}

/* A call without arguments but the handle; format names it. */
static int
parse_handle(struct call *call, PyObject *args, PyObject *kwargs,
             const char *format)
{
    static char *keywords[] = {"handle", NULL};
    PyObject *handle = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, format, keywords,
                                     &handle)) {
        return -1;
    }
    return virtdisk_parse_call(call, handle, NULL, NULL);
}

/* ------------------------------------------------------------------------
 * MirrorVirtualDisk, BreakMirrorVirtualDisk
 */

static DWORD
run_mirror(const struct call *call, HANDLE value, OVERLAPPED *overlapped)
{
    return MirrorVirtualDisk(value, (MIRROR_VIRTUAL_DISK_FLAG)call->flags,
                             (PMIRROR_VIRTUAL_DISK_PARAMETERS)call->parameters,
                             overlapped);
}

PyDoc_STRVAR(
    mirror_doc,
    "MirrorVirtualDisk($module, /, handle, path, overlapped, *, flags=0,\n"
    "                  version=1)\n--\n\n"
    "Copy a disk to another file, and keep both equal from then on.\n"
    "\n"
    "The operation stays pending when the two are equal (CurrentValue is\n"
    "CompletionValue then): BreakMirrorVirtualDisk goes over to the new\n"
    "file, Overlapped.cancel() gives it up.\n"
    "\n"
    "Args:\n"
    "    handle: A Handle of OpenVirtualDisk, opened with version 2.\n"
    "    path: The other file.\n"
    "    overlapped: The Overlapped that tells of the operation.\n"
    "    flags: MIRROR_VIRTUAL_DISK_FLAG_* bits.\n"
    "    version: Of MIRROR_VIRTUAL_DISK_PARAMETERS, 1.\n"
    "\n"
    "Raises:\n"
    "    TypeError, ValueError, OverflowError: An argument does not fit, the\n"
    "        handle is closed or the Overlapped in use; nothing was called.\n"
    "    VirtualDiskError: The code of the function, for example winerror 5\n"
    "        (no rights), 80 (path exists) or 87 (refused arguments).\n"
    "\n"
    "Raises the audit event virtdisk.MirrorVirtualDisk with the path of the\n"
    "handle, flags and path.\n"
    "\n"
    "Source: MirrorVirtualDisk, MIRROR_VIRTUAL_DISK_PARAMETERS.");

static PyObject *
mirror_virtual_disk(PyObject *module, PyObject *args, PyObject *kwargs)
{
    struct other_file other = {NULL, NULL};
    struct call call = {.state = virtdisk_module_state(module),
                        .function = "MirrorVirtualDisk"};
    if (parse_other_file(&call, args, kwargs, "OOO|$OO:MirrorVirtualDisk",
                         &other) < 0 ||
        !virtdisk_may_call(call.state, call.function)) {
        return virtdisk_finish(&call, -1);
    }
    MIRROR_VIRTUAL_DISK_PARAMETERS *parameters =
        virtdisk_memory_new(&call.memory, sizeof(*parameters));
    if (parameters == NULL ||
        virtdisk_audit(call.state,
                       Py_BuildValue("sOkO", "virtdisk.MirrorVirtualDisk",
                                     call.handle->path,
                                     (unsigned long)call.flags, other.path)) <
            0) {
        return virtdisk_finish(&call, -1);
    }
    parameters->Version = MIRROR_VIRTUAL_DISK_VERSION_1;
    parameters->Version1.MirrorVirtualDiskPath = other.text;
    call.parameters = parameters;
    return virtdisk_finish(&call,
                           virtdisk_call(&call, run_mirror, other.path));
}

static DWORD
run_break_mirror(const struct call *call, HANDLE value, OVERLAPPED *overlapped)
{
    (void)call;
    (void)overlapped;
    return BreakMirrorVirtualDisk(value);
}

PyDoc_STRVAR(
    break_mirror_doc,
    "BreakMirrorVirtualDisk($module, /, handle)\n--\n\n"
    "Go over to the file that MirrorVirtualDisk has made.\n"
    "\n"
    "Args:\n"
    "    handle: The Handle given to MirrorVirtualDisk.\n"
    "\n"
    "Raises:\n"
    "    TypeError, ValueError: Not a Handle, or a closed one.\n"
    "    VirtualDiskError: The code of the function, for example winerror\n"
    "        0xC03A001C (there is no mirror, or it is not equal yet).\n"
    "\n"
    "Raises the audit event virtdisk.BreakMirrorVirtualDisk with the path.\n"
    "\n"
    "Source: BreakMirrorVirtualDisk.");

static PyObject *
break_mirror(PyObject *module, PyObject *args, PyObject *kwargs)
{
    struct call call = {.state = virtdisk_module_state(module),
                        .function = "BreakMirrorVirtualDisk"};
    if (parse_handle(&call, args, kwargs, "O:BreakMirrorVirtualDisk") < 0 ||
        !virtdisk_may_call(call.state, call.function) ||
        virtdisk_audit(call.state,
                       Py_BuildValue("sO", "virtdisk.BreakMirrorVirtualDisk",
                                     call.handle->path)) < 0) {
        return NULL;
    }
    return virtdisk_finish(&call,
                           virtdisk_call(&call, run_break_mirror, NULL));
}

/* ------------------------------------------------------------------------
 * ForkVirtualDisk, CompleteForkVirtualDisk
 */

static DWORD
run_fork(const struct call *call, HANDLE value, OVERLAPPED *overlapped)
{
    return call->state->newer.fork(value, (FORK_VIRTUAL_DISK_FLAG)call->flags,
                                   call->parameters, overlapped);
}

PyDoc_STRVAR(
    fork_doc,
    "ForkVirtualDisk($module, /, handle, path, overlapped, *, flags=0,\n"
    "                version=1)\n--\n\n"
    "Begin to fork a disk to another file.\n"
    "\n"
    "Microsoft has published the declaration of the function, and no more.\n"
    "\n"
    "Args:\n"
    "    handle: A Handle of OpenVirtualDisk.\n"
    "    path: The other file.\n"
    "    overlapped: The Overlapped that tells of the operation.\n"
    "    flags: FORK_VIRTUAL_DISK_FLAG_* bits.\n"
    "    version: Of FORK_VIRTUAL_DISK_PARAMETERS, 1.\n"
    "\n"
    "Raises:\n"
    "    TypeError, ValueError, OverflowError: An argument does not fit, the\n"
    "        handle is closed or the Overlapped in use; nothing was called.\n"
    "    NotImplementedError: The system is older than Windows 10 1809 or\n"
    "        Windows Server 2019.\n"
    "    VirtualDiskError: The code of the function, for example winerror 50\n"
    "        (the system has no forks).\n"
    "\n"
    "Raises the audit event virtdisk.ForkVirtualDisk with the path of the\n"
    "handle, flags and path.\n"
    "\n"
    "Source: ForkVirtualDisk, FORK_VIRTUAL_DISK_PARAMETERS.");

static PyObject *
fork_virtual_disk(PyObject *module, PyObject *args, PyObject *kwargs)
{
    struct other_file other = {NULL, NULL};
    struct call call = {.state = virtdisk_module_state(module),
                        .function = "ForkVirtualDisk"};
    if (parse_other_file(&call, args, kwargs, "OOO|$OO:ForkVirtualDisk",
                         &other) < 0 ||
        !virtdisk_is_there(call.state->newer.fork != NULL, call.function,
                           fork_windows)) {
        return virtdisk_finish(&call, -1);
    }
    FORK_VIRTUAL_DISK_PARAMETERS *parameters =
        virtdisk_memory_new(&call.memory, sizeof(*parameters));
    if (parameters == NULL ||
        virtdisk_audit(call.state,
                       Py_BuildValue("sOkO", "virtdisk.ForkVirtualDisk",
                                     call.handle->path,
                                     (unsigned long)call.flags, other.path)) <
            0) {
        return virtdisk_finish(&call, -1);
    }
    parameters->Version = FORK_VIRTUAL_DISK_VERSION_1;
    parameters->Version1.ForkedVirtualDiskPath = other.text;
    call.parameters = parameters;
    return virtdisk_finish(&call, virtdisk_call(&call, run_fork, other.path));
}

static DWORD
run_complete_fork(const struct call *call, HANDLE value,
                  OVERLAPPED *overlapped)
{
    (void)overlapped;
    return call->state->newer.complete_fork(value);
}

PyDoc_STRVAR(
    complete_fork_doc,
    "CompleteForkVirtualDisk($module, /, handle)\n--\n\n"
    "Complete what ForkVirtualDisk has begun.\n"
    "\n"
    "Args:\n"
    "    handle: The Handle given to ForkVirtualDisk.\n"
    "\n"
    "Raises:\n"
    "    TypeError, ValueError: Not a Handle, or a closed one.\n"
    "    NotImplementedError: The system is older than Windows 10 1809 or\n"
    "        Windows Server 2019.\n"
    "    VirtualDiskError: The code of the function, for example winerror 50\n"
    "        (the system has no forks).\n"
    "\n"
    "Raises the audit event virtdisk.CompleteForkVirtualDisk with the path.\n"
    "\n"
    "Source: CompleteForkVirtualDisk.");

static PyObject *
complete_fork(PyObject *module, PyObject *args, PyObject *kwargs)
{
    struct call call = {.state = virtdisk_module_state(module),
                        .function = "CompleteForkVirtualDisk"};
    if (parse_handle(&call, args, kwargs, "O:CompleteForkVirtualDisk") < 0 ||
        !virtdisk_is_there(call.state->newer.complete_fork != NULL,
                           call.function, fork_windows) ||
        virtdisk_audit(call.state,
                       Py_BuildValue("sO", "virtdisk.CompleteForkVirtualDisk",
                                     call.handle->path)) < 0) {
        return NULL;
    }
    return virtdisk_finish(&call,
                           virtdisk_call(&call, run_complete_fork, NULL));
}

static PyMethodDef methods[] = {
    {"MirrorVirtualDisk", WITH_KEYWORDS(mirror_virtual_disk), mirror_doc},
    {"BreakMirrorVirtualDisk", WITH_KEYWORDS(break_mirror), break_mirror_doc},
    {"ForkVirtualDisk", WITH_KEYWORDS(fork_virtual_disk), fork_doc},
    {"CompleteForkVirtualDisk", WITH_KEYWORDS(complete_fork),
     complete_fork_doc},
    {NULL, NULL, 0, NULL},
};

int
virtdisk_add_mirror(PyObject *module)
{
    return PyModule_AddFunctions(module, methods);
}
