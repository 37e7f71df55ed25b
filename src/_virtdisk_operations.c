/*
 * What changes an image as a whole and may take long: CompactVirtualDisk,
 * MergeVirtualDisk, ExpandVirtualDisk, ResizeVirtualDisk, and
 * GetVirtualDiskOperationProgress.
 */
#include "_virtdisk.h"

/* Audited with the path and flags, and NewSize where there is one. */
static PyObject *
run_operation(struct call *call,
              DWORD (*run)(const struct call *call, HANDLE value,
                           OVERLAPPED *overlapped),
              PyObject *event)
{
    if (virtdisk_audit(call->state, event) < 0) {
        return virtdisk_finish(call, -1);
    }
    return virtdisk_finish(call, virtdisk_call(call, run, NULL));
}

/* ------------------------------------------------------------------------
 * CompactVirtualDisk
 */

static int
make_compact_parameters(struct call *call, PyObject *version_object)
{
    DWORD version = COMPACT_VIRTUAL_DISK_VERSION_1;
    if (virtdisk_convert_optional_version(
            version_object, COMPACT_VIRTUAL_DISK_VERSION_1, &version) < 0) {
        return -1;
    }
    if (version == COMPACT_VIRTUAL_DISK_VERSION_UNSPECIFIED) {
        return 0;
    }
    COMPACT_VIRTUAL_DISK_PARAMETERS *parameters =
        virtdisk_memory_new(&call->memory, sizeof(*parameters));
    if (parameters == NULL) {
        return -1;
    }
    parameters->Version = COMPACT_VIRTUAL_DISK_VERSION_1;
    call->parameters = parameters;
    return 0;
}

static DWORD
run_compact(const struct call *call, HANDLE value, OVERLAPPED *overlapped)
{
    return CompactVirtualDisk(
        value, (COMPACT_VIRTUAL_DISK_FLAG)call->flags,
        (PCOMPACT_VIRTUAL_DISK_PARAMETERS)call->parameters, overlapped);
}

PyDoc_STRVAR(
    compact_doc,
    "CompactVirtualDisk($module, /, handle, *, flags=0, version=1,\n"
    "                   overlapped=None)\n--\n\n"
    "Make the file of a dynamic or differencing disk smaller.\n"
    "\n"
    "Args:\n"
    "    handle: A Handle of OpenVirtualDisk, of a disk that is not attached\n"
    "        or attached read-only.\n"
    "    flags: COMPACT_VIRTUAL_DISK_FLAG_* bits.\n"
    "    version: Of COMPACT_VIRTUAL_DISK_PARAMETERS, 1; None passes no\n"
    "        parameters.\n"
    "    overlapped: Return at once and let this Overlapped tell the end.\n"
    "\n"
    "Raises:\n"
    "    TypeError, ValueError, OverflowError: An argument does not fit, the\n"
    "        handle is closed or the Overlapped in use; nothing was called.\n"
    "    VirtualDiskError: The code of the function, for example winerror 5\n"
    "        (no rights), 32 (in use), 87 (refused arguments) or 0xC03A001B\n"
    "        (not for a disk of this type).\n"
    "\n"
    "Raises the audit event virtdisk.CompactVirtualDisk with the path and\n"
    "flags.\n"
    "\n"
    "Source: CompactVirtualDisk, COMPACT_VIRTUAL_DISK_PARAMETERS.");

static PyObject *
compact_virtual_disk(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"handle", "flags", "version", "overlapped",
                               NULL};
    PyObject *handle = NULL, *flags = NULL, *version = NULL;
    PyObject *overlapped = NULL;
    struct call call = {.state = virtdisk_module_state(module),
                        .function = "CompactVirtualDisk"};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$OOO:CompactVirtualDisk",
                                     keywords, &handle, &flags, &version,
                                     &overlapped) ||
        virtdisk_parse_call(&call, handle, flags, overlapped) < 0 ||
        make_compact_parameters(&call, version) < 0 ||
        !virtdisk_may_call(call.state, call.function)) {
        return virtdisk_finish(&call, -1);
    }
    return run_operation(&call, run_compact,
                         Py_BuildValue("sOk", "virtdisk.CompactVirtualDisk",
                                       call.handle->path,
                                       (unsigned long)call.flags));
}

/* ------------------------------------------------------------------------
 * MergeVirtualDisk
 */

/* What differs between the versions of the parameters, as it was given. */
struct merge_members {
    PyObject *version;
    PyObject *merge_depth;
    PyObject *merge_source_depth;
    PyObject *merge_target_depth;
};

static int
make_merge_parameters(struct call *call, const struct merge_members *members)
{
    DWORD version = MERGE_VIRTUAL_DISK_VERSION_1;
    DWORD depth = MERGE_VIRTUAL_DISK_DEFAULT_MERGE_DEPTH;
    DWORD source = 1, target = 2;
    if (virtdisk_convert_version(members->version,
                                 MERGE_VIRTUAL_DISK_VERSION_2, &version) < 0 ||
        virtdisk_convert_dword(members->merge_depth, "merge_depth", &depth) <
            0 ||
        virtdisk_convert_dword(members->merge_source_depth,
                               "merge_source_depth", &source) < 0 ||
        virtdisk_convert_dword(members->merge_target_depth,
                               "merge_target_depth", &target) < 0) {
        return -1;
    }
    MERGE_VIRTUAL_DISK_PARAMETERS *parameters =
        virtdisk_memory_new(&call->memory, sizeof(*parameters));
    if (parameters == NULL) {
        return -1;
    }
    parameters->Version = (MERGE_VIRTUAL_DISK_VERSION)version;
    if (version == MERGE_VIRTUAL_DISK_VERSION_1) {
        parameters->Version1.MergeDepth = depth;
    }
    else {
        parameters->Version2.MergeSourceDepth = source;
        parameters->Version2.MergeTargetDepth = target;
    }
    call->parameters = parameters;
    return 0;
}

static DWORD
run_merge(const struct call *call, HANDLE value, OVERLAPPED *overlapped)
{
    return MergeVirtualDisk(value, (MERGE_VIRTUAL_DISK_FLAG)call->flags,
                            (PMERGE_VIRTUAL_DISK_PARAMETERS)call->parameters,
                            overlapped);
}

PyDoc_STRVAR(
    merge_doc,
    "MergeVirtualDisk($module, /, handle, *, flags=0, version=1,\n"
    "                 merge_depth=1, merge_source_depth=1,\n"
    "                 merge_target_depth=2, overlapped=None)\n--\n\n"
    "Write what differencing disks hold into a disk further up the chain.\n"
    "\n"
    "The merged files are not deleted, and are worth nothing afterwards.\n"
    "\n"
    "Args:\n"
    "    handle: A Handle of OpenVirtualDisk, of the leaf.\n"
    "    flags: MERGE_VIRTUAL_DISK_FLAG_NONE.\n"
    "    version: Of MERGE_VIRTUAL_DISK_PARAMETERS, 1 or 2.  Members that a\n"
    "        version lacks are not passed.\n"
    "    merge_depth: Version 1: how many disks up the chain the leaf is\n"
    "        merged; the handle was opened with a greater rw_depth.\n"
    "    merge_source_depth: Version 2: the lowest disk to merge, 1 the "
    "leaf.\n"
    "    merge_target_depth: Version 2: the disk that takes it all.\n"
    "    overlapped: Return at once and let this Overlapped tell the end.\n"
    "\n"
    "Raises:\n"
    "    TypeError, ValueError, OverflowError: An argument does not fit, the\n"
    "        handle is closed or the Overlapped in use; nothing was called.\n"
    "    VirtualDiskError: The code of the function, for example winerror 5\n"
    "        (no rights), 32 (in use), 87 (refused arguments) or 0xC03A001B\n"
    "        (not for a disk of this type).\n"
    "\n"
    "Raises the audit event virtdisk.MergeVirtualDisk with the path and\n"
    "flags.\n"
    "\n"
    "Source: MergeVirtualDisk, MERGE_VIRTUAL_DISK_PARAMETERS.");

static PyObject *
merge_virtual_disk(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"handle",
                               "flags",
                               "version",
                               "merge_depth",
                               "merge_source_depth",
                               "merge_target_depth",
                               "overlapped",
                               NULL};
    struct merge_members members = {NULL, NULL, NULL, NULL};
    PyObject *handle = NULL, *flags = NULL, *overlapped = NULL;
    struct call call = {.state = virtdisk_module_state(module),
                        .function = "MergeVirtualDisk"};
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "O|$OOOOOO:MergeVirtualDisk", keywords, &handle,
            &flags, &members.version, &members.merge_depth,
            &members.merge_source_depth, &members.merge_target_depth,
            &overlapped) ||
        virtdisk_parse_call(&call, handle, flags, overlapped) < 0 ||
        make_merge_parameters(&call, &members) < 0 ||
        !virtdisk_may_call(call.state, call.function)) {
        return virtdisk_finish(&call, -1);
    }
    return run_operation(&call, run_merge,
                         Py_BuildValue("sOk", "virtdisk.MergeVirtualDisk",
                                       call.handle->path,
                                       (unsigned long)call.flags));
}

/* ------------------------------------------------------------------------
 * ExpandVirtualDisk, ResizeVirtualDisk
 *
 * Their parameters differ in nothing but the names of their types.
 */

struct new_size {
    DWORD version;
    ULONGLONG bytes;
};

/* The arguments of both; format names the function. */
static int
parse_new_size(struct call *call, PyObject *args, PyObject *kwargs,
               const char *format, struct new_size *out)
{
    static char *keywords[] = {"handle",  "new_size",   "flags",
                               "version", "overlapped", NULL};
    PyObject *handle = NULL, *new_size = NULL, *flags = NULL;
    PyObject *version = NULL, *overlapped = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, format, keywords, &handle,
                                     &new_size, &flags, &version,
                                     &overlapped) ||
        virtdisk_parse_call(call, handle, flags, overlapped) < 0 ||
        virtdisk_convert_ulonglong(new_size, "new_size", &out->bytes) < 0) {
        return -1;
    }
    out->version = 1;
    if (virtdisk_convert_version(version, 1, &out->version) < 0) {
        return -1;
    }
    return virtdisk_may_call(call->state, call->function) ? 0 : -1;
}

static DWORD
run_expand(const struct call *call, HANDLE value, OVERLAPPED *overlapped)
{
    return ExpandVirtualDisk(value, (EXPAND_VIRTUAL_DISK_FLAG)call->flags,
                             (PEXPAND_VIRTUAL_DISK_PARAMETERS)call->parameters,
                             overlapped);
}

PyDoc_STRVAR(
    expand_doc,
    "ExpandVirtualDisk($module, /, handle, new_size, *, flags=0,\n"
    "                  version=1, overlapped=None)\n--\n\n"
    "Make a fixed or dynamic disk larger.\n"
    "\n"
    "Args:\n"
    "    handle: A Handle of OpenVirtualDisk, of a disk that is not\n"
    "        attached.\n"
    "    new_size: The size it shall have, in bytes.\n"
    "    flags: EXPAND_VIRTUAL_DISK_FLAG_* bits.\n"
    "    version: Of EXPAND_VIRTUAL_DISK_PARAMETERS, 1.\n"
    "    overlapped: Return at once and let this Overlapped tell the end.\n"
    "\n"
    "Raises:\n"
    "    TypeError, ValueError, OverflowError: An argument does not fit, the\n"
    "        handle is closed or the Overlapped in use; nothing was called.\n"
    "    VirtualDiskError: The code of the function, for example winerror 5\n"
    "        (no rights), 32 (in use), 87 (refused arguments), 112 (no\n"
    "        space) or 0xC03A001B (not for a disk of this type).\n"
    "\n"
    "Raises the audit event virtdisk.ExpandVirtualDisk with the path, flags\n"
    "and new_size.\n"
    "\n"
    "Source: ExpandVirtualDisk, EXPAND_VIRTUAL_DISK_PARAMETERS.");

static PyObject *
expand_virtual_disk(PyObject *module, PyObject *args, PyObject *kwargs)
{
    struct new_size new_size = {0, 0};
    struct call call = {.state = virtdisk_module_state(module),
                        .function = "ExpandVirtualDisk"};
    if (parse_new_size(&call, args, kwargs, "OO|$OOO:ExpandVirtualDisk",
                       &new_size) < 0) {
        return virtdisk_finish(&call, -1);
    }
    EXPAND_VIRTUAL_DISK_PARAMETERS *parameters =
        virtdisk_memory_new(&call.memory, sizeof(*parameters));
    if (parameters == NULL) {
        return NULL;
    }
    parameters->Version = (EXPAND_VIRTUAL_DISK_VERSION)new_size.version;
    parameters->Version1.NewSize = new_size.bytes;
    call.parameters = parameters;
    return run_operation(&call, run_expand,
                         Py_BuildValue("sOkK", "virtdisk.ExpandVirtualDisk",
                                       call.handle->path,
                                       (unsigned long)call.flags,
                                       (unsigned long long)new_size.bytes));
}

static DWORD
run_resize(const struct call *call, HANDLE value, OVERLAPPED *overlapped)
{
    return ResizeVirtualDisk(value, (RESIZE_VIRTUAL_DISK_FLAG)call->flags,
                             (PRESIZE_VIRTUAL_DISK_PARAMETERS)call->parameters,
                             overlapped);
}

PyDoc_STRVAR(
    resize_doc,
    "ResizeVirtualDisk($module, /, handle, new_size, *, flags=0,\n"
    "                  version=1, overlapped=None)\n--\n\n"
    "Make a disk larger or smaller.\n"
    "\n"
    "Args:\n"
    "    handle: A Handle of OpenVirtualDisk.\n"
    "    new_size: The size it shall have, in bytes; 0 with\n"
    "        RESIZE_VIRTUAL_DISK_FLAG_RESIZE_TO_SMALLEST_SAFE_VIRTUAL_SIZE.\n"
    "    flags: RESIZE_VIRTUAL_DISK_FLAG_* bits.\n"
    "    version: Of RESIZE_VIRTUAL_DISK_PARAMETERS, 1.\n"
    "    overlapped: Return at once and let this Overlapped tell the end.\n"
    "\n"
    "Raises:\n"
    "    TypeError, ValueError, OverflowError: An argument does not fit, the\n"
    "        handle is closed or the Overlapped in use; nothing was called.\n"
    "    VirtualDiskError: The code of the function, for example winerror 5\n"
    "        (no rights), 32 (in use), 87 (refused arguments), 112 (no\n"
    "        space) or 0xC03A0025 (a partition would be cut off).\n"
    "\n"
    "Raises the audit event virtdisk.ResizeVirtualDisk with the path, flags\n"
    "and new_size.\n"
    "\n"
    "Source: ResizeVirtualDisk, RESIZE_VIRTUAL_DISK_PARAMETERS.");

static PyObject *
resize_virtual_disk(PyObject *module, PyObject *args, PyObject *kwargs)
{
    struct new_size new_size = {0, 0};
    struct call call = {.state = virtdisk_module_state(module),
                        .function = "ResizeVirtualDisk"};
    if (parse_new_size(&call, args, kwargs, "OO|$OOO:ResizeVirtualDisk",
                       &new_size) < 0) {
        return virtdisk_finish(&call, -1);
    }
    RESIZE_VIRTUAL_DISK_PARAMETERS *parameters =
        virtdisk_memory_new(&call.memory, sizeof(*parameters));
    if (parameters == NULL) {
        return NULL;
    }
    parameters->Version = (RESIZE_VIRTUAL_DISK_VERSION)new_size.version;
    parameters->Version1.NewSize = new_size.bytes;
    call.parameters = parameters;
    return run_operation(&call, run_resize,
                         Py_BuildValue("sOkK", "virtdisk.ResizeVirtualDisk",
                                       call.handle->path,
                                       (unsigned long)call.flags,
                                       (unsigned long long)new_size.bytes));
}

/* ------------------------------------------------------------------------
 * GetVirtualDiskOperationProgress
 */

PyDoc_STRVAR(
    progress_doc,
    "GetVirtualDiskOperationProgress($module, /, handle, overlapped)\n--\n\n"
    "Ask how far an operation is, as the system says it.\n"
    "\n"
    "Overlapped.progress() asks the same and evens out the answers.\n"
    "\n"
    "Args:\n"
    "    handle: The Handle that the operation works on.\n"
    "    overlapped: The Overlapped that it was started with.\n"
    "\n"
    "Returns:\n"
    "    OperationStatus (997 while it is pending, then the code it ended\n"
    "    with), CurrentValue and CompletionValue.  The values have no unit\n"
    "    and mean something only as a pair; each may be 0, and they may\n"
    "    decrease.\n"
    "\n"
    "Raises:\n"
    "    TypeError, ValueError: An argument does not fit, the handle is\n"
    "        closed or no operation was started; nothing was called.\n"
    "    VirtualDiskError: The code of the function, for example winerror 87\n"
    "        (not an operation of this handle).\n"
    "\n"
    "Source: GetVirtualDiskOperationProgress, VIRTUAL_DISK_PROGRESS.");

static PyObject *
get_progress(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static const char function[] = "GetVirtualDiskOperationProgress";
    static char *keywords[] = {"handle", "overlapped", NULL};
    struct module_state *state = virtdisk_module_state(module);
    PyObject *handle_object = NULL, *overlapped_object = NULL;
    OVERLAPPED *overlapped = NULL;
    VIRTUAL_DISK_PROGRESS progress;
    HANDLE value = NULL;
    DWORD code;
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "OO:GetVirtualDiskOperationProgress", keywords,
            &handle_object, &overlapped_object)) {
        return NULL;
    }
    HandleObject *handle = virtdisk_as_handle(state, handle_object);
    if (handle == NULL) {
        return NULL;
    }
    OverlappedObject *object =
        virtdisk_as_overlapped(state, overlapped_object);
    if (object == NULL || !virtdisk_may_call(state, function) ||
        virtdisk_handle_enter(handle, &value) < 0) {
        return NULL;
    }
    if (virtdisk_overlapped_borrow(object, &overlapped) < 0) {
        virtdisk_handle_leave(handle);
        return NULL;
    }
    memset(&progress, 0, sizeof(progress));
    Py_BEGIN_ALLOW_THREADS
    code = GetVirtualDiskOperationProgress(value, overlapped, &progress);
    Py_END_ALLOW_THREADS
    virtdisk_overlapped_leave(object);
    virtdisk_handle_leave(handle);
    if (code != ERROR_SUCCESS) {
        return virtdisk_raise_error(state, function, code, handle->path);
    }
    return Py_BuildValue("kKK", (unsigned long)progress.OperationStatus,
                         (unsigned long long)progress.CurrentValue,
                         (unsigned long long)progress.CompletionValue);
}

static PyMethodDef methods[] = {
    {"GetVirtualDiskOperationProgress", WITH_KEYWORDS(get_progress),
     progress_doc},
    {"CompactVirtualDisk", WITH_KEYWORDS(compact_virtual_disk), compact_doc},
    {"MergeVirtualDisk", WITH_KEYWORDS(merge_virtual_disk), merge_doc},
    {"ExpandVirtualDisk", WITH_KEYWORDS(expand_virtual_disk), expand_doc},
    {"ResizeVirtualDisk", WITH_KEYWORDS(resize_virtual_disk), resize_doc},
    {NULL, NULL, 0, NULL},
};

int
virtdisk_add_operations(PyObject *module)
{
    return PyModule_AddFunctions(module, methods);
}
