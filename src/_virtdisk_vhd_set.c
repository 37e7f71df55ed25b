/*
 * Change tracking and the snapshots of a VHD Set: QueryChangesVirtualDisk,
 * TakeSnapshotVhdSet, DeleteSnapshotVhdSet, ModifyVhdSet,
 * ApplySnapshotVhdSet.
 */
#include "_virtdisk.h"

static const char windows[] = "Windows 10 or Windows Server 2016";

/* ------------------------------------------------------------------------
 * QueryChangesVirtualDisk
 */

struct changes_call {
    struct call call;
    PCWSTR change_tracking_id; /* in memory */
    ULONGLONG byte_offset;
    ULONGLONG byte_length;
    DWORD room;                               /* ranges that fit */
    QUERY_CHANGES_VIRTUAL_DISK_RANGE *ranges; /* in memory */
    /* Points to what the call gives out, in a block of its own: run_changes
     * is given the rest as it is. */
    struct changes_answer *answer;
};

struct changes_answer {
    ULONG count;
    ULONG64 processed;
};

static int
parse_changes(struct changes_call *changes, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {
        "handle", "change_tracking_id", "byte_offset", "byte_length",
        "flags",  "range_count",        NULL};
    struct call *call = &changes->call;
    PyObject *handle = NULL, *identifier = NULL, *offset = NULL;
    PyObject *length = NULL, *flags = NULL, *count = NULL;
    changes->room = 1024;
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "OOOO|$OO:QueryChangesVirtualDisk", keywords,
            &handle, &identifier, &offset, &length, &flags, &count) ||
        virtdisk_parse_call(call, handle, flags, NULL) < 0 ||
        virtdisk_convert_ulonglong(offset, "byte_offset",
                                   &changes->byte_offset) < 0 ||
        virtdisk_convert_ulonglong(length, "byte_length",
                                   &changes->byte_length) < 0 ||
        virtdisk_convert_dword(count, "range_count", &changes->room) < 0 ||
        virtdisk_convert_text(identifier, "change_tracking_id", &call->memory,
                              &changes->change_tracking_id) < 0) {
        return -1;
    }
    size_t room = changes->room > 0 ? changes->room : 1;
    if (room > SIZE_MAX / sizeof(*changes->ranges)) {
        PyErr_NoMemory();
        return -1;
    }
    changes->ranges =
        virtdisk_memory_new(&call->memory, room * sizeof(*changes->ranges));
    if (changes->ranges == NULL) {
        return -1;
    }
    changes->answer =
        virtdisk_memory_new(&call->memory, sizeof(*changes->answer));
    return changes->answer != NULL ? 0 : -1;
}

static DWORD
run_changes(const struct call *call, HANDLE value, OVERLAPPED *overlapped)
{
    const struct changes_call *changes = (const struct changes_call *)call;
    (void)overlapped;
    changes->answer->count = changes->room;
    return call->state->newer.query_changes(
        value, changes->change_tracking_id, changes->byte_offset,
        changes->byte_length, (QUERY_CHANGES_VIRTUAL_DISK_FLAG)call->flags,
        changes->ranges, &changes->answer->count, &changes->answer->processed);
}

static PyObject *
changes_result(const struct changes_call *changes)
{
    DWORD count = changes->answer->count;
    PyObject *list = PyList_New(0);
    if (count > changes->room) {
        count = changes->room;
    }
    for (DWORD i = 0; list != NULL && i < count; i++) {
        PyObject *range = Py_BuildValue(
            "KK", (unsigned long long)changes->ranges[i].ByteOffset,
            (unsigned long long)changes->ranges[i].ByteLength);
        if (range == NULL || PyList_Append(list, range) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(range);
    }
    if (list == NULL) {
        return NULL;
    }
    return Py_BuildValue("NK", list,
                         (unsigned long long)changes->answer->processed);
}

PyDoc_STRVAR(
    changes_doc,
    "QueryChangesVirtualDisk($module, /, handle, change_tracking_id,\n"
    "                        byte_offset, byte_length, *, flags=0,\n"
    "                        range_count=1024)\n--\n\n"
    "Return what has changed on a disk since a point in time.\n"
    "\n"
    "Ask again from byte_offset plus what was processed, until all is.\n"
    "\n"
    "Args:\n"
    "    handle: A Handle of OpenVirtualDisk.\n"
    "    change_tracking_id: The point in time, as\n"
    "        GET_VIRTUAL_DISK_INFO_CHANGE_TRACKING_STATE gave it then.\n"
    "    byte_offset: Where to begin, in bytes.\n"
    "    byte_length: How many bytes to look at.\n"
    "    flags: QUERY_CHANGES_VIRTUAL_DISK_FLAG_NONE.\n"
    "    range_count: How many ranges to take at most.\n"
    "\n"
    "Returns:\n"
    "    The changed ranges, offset and length in bytes, as a list; and how\n"
    "    many bytes from byte_offset on they speak for.\n"
    "\n"
    "Raises:\n"
    "    TypeError, ValueError, OverflowError: An argument does not fit or\n"
    "        the handle is closed; nothing was called.\n"
    "    NotImplementedError: The system is older than Windows 10 or Windows\n"
    "        Server 2016.\n"
    "    VirtualDiskError: The code of the function, for example winerror 50\n"
    "        (the system has no change tracking), 0xC03A0029 (no such id) or\n"
    "        0xC03A002A (changes are not tracked).\n"
    "\n"
    "Source: QueryChangesVirtualDisk, QUERY_CHANGES_VIRTUAL_DISK_RANGE.");

static PyObject *
query_changes(PyObject *module, PyObject *args, PyObject *kwargs)
{
    struct changes_call changes;
    struct call *call = &changes.call;
    PyObject *result = NULL;
    memset(&changes, 0, sizeof(changes));
    call->state = virtdisk_module_state(module);
    call->function = "QueryChangesVirtualDisk";
    if (parse_changes(&changes, args, kwargs) == 0 &&
        virtdisk_is_there(call->state->newer.query_changes != NULL,
                          call->function, windows) &&
        virtdisk_call(call, run_changes, NULL) == 0) {
        result = changes_result(&changes);
    }
    virtdisk_memory_free(&call->memory);
    return result;
}

/* ------------------------------------------------------------------------
 * TakeSnapshotVhdSet, DeleteSnapshotVhdSet
 *
 * Their parameters differ in nothing but the names of their types.
 */

/* The arguments of both; format names the function. */
static int
parse_snapshot(struct call *call, PyObject *args, PyObject *kwargs,
               const char *format, GUID *out)
{
    static char *keywords[] = {"handle", "snapshot_id", "flags", "version",
                               NULL};
    PyObject *handle = NULL, *snapshot = NULL, *flags = NULL;
    PyObject *version_object = NULL;
    DWORD version = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, format, keywords, &handle,
                                     &snapshot, &flags, &version_object) ||
        virtdisk_parse_call(call, handle, flags, NULL) < 0 ||
        virtdisk_convert_version(version_object, 1, &version) < 0) {
        return -1;
    }
    return virtdisk_convert_guid(snapshot, "snapshot_id", out);
}

static int
audit_snapshot(const struct call *call, const char *event,
               const GUID *snapshot)
{
    return virtdisk_audit(call->state,
                          Py_BuildValue("sOkN", event, call->handle->path,
                                        (unsigned long)call->flags,
                                        virtdisk_bytes_from_guid(snapshot)));
}

static DWORD
run_take(const struct call *call, HANDLE value, OVERLAPPED *overlapped)
{
    (void)overlapped;
    return call->state->newer.take_snapshot(
        value, (PTAKE_SNAPSHOT_VHDSET_PARAMETERS)call->parameters,
        (TAKE_SNAPSHOT_VHDSET_FLAG)call->flags);
}

PyDoc_STRVAR(
    take_doc,
    "TakeSnapshotVhdSet($module, /, handle, snapshot_id, *, flags=0,\n"
    "                   version=1)\n--\n\n"
    "Take a snapshot of a VHD Set.\n"
    "\n"
    "Args:\n"
    "    handle: A Handle of OpenVirtualDisk, of a VHD Set.\n"
    "    snapshot_id: What it shall be known by, 16 bytes as in\n"
    "        uuid.UUID.bytes_le.\n"
    "    flags: TAKE_SNAPSHOT_VHDSET_FLAG_* bits.\n"
    "    version: Of TAKE_SNAPSHOT_VHDSET_PARAMETERS, 1.\n"
    "\n"
    "Raises:\n"
    "    TypeError, ValueError, OverflowError: An argument does not fit or\n"
    "        the handle is closed; nothing was called.\n"
    "    NotImplementedError: The system is older than Windows 10 or Windows\n"
    "        Server 2016.\n"
    "    VirtualDiskError: The code of the function, for example winerror 50\n"
    "        (the system has no VHD Sets).\n"
    "\n"
    "Raises the audit event virtdisk.TakeSnapshotVhdSet with the path, flags\n"
    "and snapshot_id.\n"
    "\n"
    "Source: TakeSnapshotVhdSet, TAKE_SNAPSHOT_VHDSET_PARAMETERS.");

static PyObject *
take_snapshot(PyObject *module, PyObject *args, PyObject *kwargs)
{
    TAKE_SNAPSHOT_VHDSET_PARAMETERS parameters;
    struct call call = {.state = virtdisk_module_state(module),
                        .function = "TakeSnapshotVhdSet",
                        .parameters = &parameters};
    memset(&parameters, 0, sizeof(parameters));
    parameters.Version = TAKE_SNAPSHOT_VHDSET_VERSION_1;
    if (parse_snapshot(&call, args, kwargs, "OO|$OO:TakeSnapshotVhdSet",
                       &parameters.Version1.SnapshotId) < 0 ||
        !virtdisk_is_there(call.state->newer.take_snapshot != NULL,
                           call.function, windows) ||
        audit_snapshot(&call, "virtdisk.TakeSnapshotVhdSet",
                       &parameters.Version1.SnapshotId) < 0) {
        return NULL;
    }
    return virtdisk_finish(&call, virtdisk_call(&call, run_take, NULL));
}

static DWORD
run_delete(const struct call *call, HANDLE value, OVERLAPPED *overlapped)
{
    (void)overlapped;
    return call->state->newer.delete_snapshot(
        value, (PDELETE_SNAPSHOT_VHDSET_PARAMETERS)call->parameters,
        (DELETE_SNAPSHOT_VHDSET_FLAG)call->flags);
}

PyDoc_STRVAR(
    delete_doc,
    "DeleteSnapshotVhdSet($module, /, handle, snapshot_id, *, flags=0,\n"
    "                     version=1)\n--\n\n"
    "Delete a snapshot of a VHD Set.\n"
    "\n"
    "Args:\n"
    "    handle: A Handle of OpenVirtualDisk, of a VHD Set.\n"
    "    snapshot_id: Which, 16 bytes as in uuid.UUID.bytes_le.\n"
    "    flags: DELETE_SNAPSHOT_VHDSET_FLAG_* bits.\n"
    "    version: Of DELETE_SNAPSHOT_VHDSET_PARAMETERS, 1.\n"
    "\n"
    "Raises:\n"
    "    TypeError, ValueError, OverflowError: An argument does not fit or\n"
    "        the handle is closed; nothing was called.\n"
    "    NotImplementedError: The system is older than Windows 10 or Windows\n"
    "        Server 2016.\n"
    "    VirtualDiskError: The code of the function, for example winerror 50\n"
    "        (the system has no VHD Sets).\n"
    "\n"
    "Raises the audit event virtdisk.DeleteSnapshotVhdSet with the path,\n"
    "flags and snapshot_id.\n"
    "\n"
    "Source: DeleteSnapshotVhdSet, DELETE_SNAPSHOT_VHDSET_PARAMETERS.");

static PyObject *
delete_snapshot(PyObject *module, PyObject *args, PyObject *kwargs)
{
    DELETE_SNAPSHOT_VHDSET_PARAMETERS parameters;
    struct call call = {.state = virtdisk_module_state(module),
                        .function = "DeleteSnapshotVhdSet",
                        .parameters = &parameters};
    memset(&parameters, 0, sizeof(parameters));
    parameters.Version = DELETE_SNAPSHOT_VHDSET_VERSION_1;
    if (parse_snapshot(&call, args, kwargs, "OO|$OO:DeleteSnapshotVhdSet",
                       &parameters.Version1.SnapshotId) < 0 ||
        !virtdisk_is_there(call.state->newer.delete_snapshot != NULL,
                           call.function, windows) ||
        audit_snapshot(&call, "virtdisk.DeleteSnapshotVhdSet",
                       &parameters.Version1.SnapshotId) < 0) {
        return NULL;
    }
    return virtdisk_finish(&call, virtdisk_call(&call, run_delete, NULL));
}

/* ------------------------------------------------------------------------
 * ModifyVhdSet
 */

/* What differs between the versions of the parameters, as it was given. */
struct modify_members {
    PyObject *version;
    PyObject *snapshot_id;
    PyObject *snapshot_file_path;
    PyObject *default_file_path;
};

/* All are converted; those that the version needs must be there. */
static int
fill_modify(struct call *call, MODIFY_VHDSET_PARAMETERS *parameters,
            const struct modify_members *members)
{
    DWORD version = 0;
    GUID snapshot;
    PCWSTR file = NULL, default_file = NULL;
    memset(&snapshot, 0, sizeof(snapshot));
    if (virtdisk_convert_version(members->version,
                                 MODIFY_VHDSET_DEFAULT_SNAPSHOT_PATH,
                                 &version) < 0 ||
        virtdisk_convert_optional_guid(members->snapshot_id, "snapshot_id",
                                       &snapshot) < 0 ||
        virtdisk_convert_optional_text(members->snapshot_file_path,
                                       "snapshot_file_path", &call->memory,
                                       &file) < 0 ||
        virtdisk_convert_optional_text(members->default_file_path,
                                       "default_file_path", &call->memory,
                                       &default_file) < 0) {
        return -1;
    }
    parameters->Version = (MODIFY_VHDSET_VERSION)version;
    if (version == MODIFY_VHDSET_SNAPSHOT_PATH) {
        parameters->SnapshotPath.SnapshotId = snapshot;
        parameters->SnapshotPath.SnapshotFilePath = file;
        if (virtdisk_require(members->snapshot_id, "snapshot_id", version) <
            0) {
            return -1;
        }
        return virtdisk_require(members->snapshot_file_path,
                                "snapshot_file_path", version);
    }
    if (version == MODIFY_VHDSET_REMOVE_SNAPSHOT) {
        parameters->SnapshotId = snapshot;
        return virtdisk_require(members->snapshot_id, "snapshot_id", version);
    }
    parameters->DefaultFilePath = default_file;
    return virtdisk_require(members->default_file_path, "default_file_path",
                            version);
}

static DWORD
run_modify(const struct call *call, HANDLE value, OVERLAPPED *overlapped)
{
    (void)overlapped;
    return call->state->newer.modify_set(
        value, (PMODIFY_VHDSET_PARAMETERS)call->parameters,
        (MODIFY_VHDSET_FLAG)call->flags);
}

PyDoc_STRVAR(
    modify_doc,
    "ModifyVhdSet($module, /, handle, version, *, flags=0,\n"
    "             snapshot_id=None, snapshot_file_path=None,\n"
    "             default_file_path=None)\n--\n\n"
    "Change what a VHD Set says of its snapshots.\n"
    "\n"
    "Args:\n"
    "    handle: A Handle of OpenVirtualDisk, of a VHD Set.\n"
    "    version: What to do: MODIFY_VHDSET_SNAPSHOT_PATH,\n"
    "        MODIFY_VHDSET_REMOVE_SNAPSHOT or\n"
    "        MODIFY_VHDSET_DEFAULT_SNAPSHOT_PATH.\n"
    "    flags: MODIFY_VHDSET_FLAG_* bits.\n"
    "    snapshot_id: The snapshot, 16 bytes as in uuid.UUID.bytes_le; not\n"
    "        for the default path.\n"
    "    snapshot_file_path: Its file, for the snapshot path.\n"
    "    default_file_path: For the default path.\n"
    "\n"
    "Raises:\n"
    "    TypeError, ValueError, OverflowError: An argument does not fit or "
    "is\n"
    "        missing, or the handle is closed; nothing was called.\n"
    "    NotImplementedError: The system is older than Windows 10 or Windows\n"
    "        Server 2016.\n"
    "    VirtualDiskError: The code of the function, for example winerror 50\n"
    "        (the system has no VHD Sets).\n"
    "\n"
    "Raises the audit event virtdisk.ModifyVhdSet with the path, flags and\n"
    "version.\n"
    "\n"
    "Source: ModifyVhdSet, MODIFY_VHDSET_PARAMETERS.");

static PyObject *
modify_set(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"handle",
                               "version",
                               "flags",
                               "snapshot_id",
                               "snapshot_file_path",
                               "default_file_path",
                               NULL};
    struct modify_members members = {NULL, NULL, NULL, NULL};
    MODIFY_VHDSET_PARAMETERS parameters;
    PyObject *handle = NULL, *flags = NULL;
    struct call call = {.state = virtdisk_module_state(module),
                        .function = "ModifyVhdSet",
                        .parameters = &parameters};
    memset(&parameters, 0, sizeof(parameters));
    int result = -1;
    if (PyArg_ParseTupleAndKeywords(
            args, kwargs, "OO|$OOOO:ModifyVhdSet", keywords, &handle,
            &members.version, &flags, &members.snapshot_id,
            &members.snapshot_file_path, &members.default_file_path) &&
        virtdisk_parse_call(&call, handle, flags, NULL) == 0 &&
        fill_modify(&call, &parameters, &members) == 0 &&
        virtdisk_is_there(call.state->newer.modify_set != NULL, call.function,
                          windows) &&
        virtdisk_audit(
            call.state,
            Py_BuildValue("sOkk", "virtdisk.ModifyVhdSet", call.handle->path,
                          (unsigned long)call.flags,
                          (unsigned long)parameters.Version)) == 0) {
        result = virtdisk_call(&call, run_modify, NULL);
    }
    return virtdisk_finish(&call, result);
}

/* ------------------------------------------------------------------------
 * ApplySnapshotVhdSet
 */

static DWORD
run_apply(const struct call *call, HANDLE value, OVERLAPPED *overlapped)
{
    (void)overlapped;
    return call->state->newer.apply_snapshot(
        value, (PAPPLY_SNAPSHOT_VHDSET_PARAMETERS)call->parameters,
        (APPLY_SNAPSHOT_VHDSET_FLAG)call->flags);
}

static int
parse_apply(struct call *call, PyObject *args, PyObject *kwargs,
            APPLY_SNAPSHOT_VHDSET_PARAMETERS *out)
{
    static char *keywords[] = {"handle", "snapshot_id", "leaf_snapshot_id",
                               "flags",  "version",     NULL};
    PyObject *handle = NULL, *snapshot = NULL, *leaf = NULL, *flags = NULL;
    PyObject *version_object = NULL;
    DWORD version = APPLY_SNAPSHOT_VHDSET_VERSION_1;
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "OOO|$OO:ApplySnapshotVhdSet", keywords, &handle,
            &snapshot, &leaf, &flags, &version_object) ||
        virtdisk_parse_call(call, handle, flags, NULL) < 0 ||
        virtdisk_convert_version(
            version_object, APPLY_SNAPSHOT_VHDSET_VERSION_1, &version) < 0 ||
        virtdisk_convert_guid(snapshot, "snapshot_id",
                              &out->Version1.SnapshotId) < 0) {
        return -1;
    }
    out->Version = (APPLY_SNAPSHOT_VHDSET_VERSION)version;
    return virtdisk_convert_guid(leaf, "leaf_snapshot_id",
                                 &out->Version1.LeafSnapshotId);
}

PyDoc_STRVAR(
    apply_doc,
    "ApplySnapshotVhdSet($module, /, handle, snapshot_id,\n"
    "                    leaf_snapshot_id, *, flags=0, version=1)\n--\n\n"
    "Go back to a snapshot of a VHD Set.\n"
    "\n"
    "Args:\n"
    "    handle: A Handle of OpenVirtualDisk, of a VHD Set.\n"
    "    snapshot_id: Which, 16 bytes as in uuid.UUID.bytes_le.\n"
    "    leaf_snapshot_id: What the present state shall be known by, 16\n"
    "        bytes.\n"
    "    flags: APPLY_SNAPSHOT_VHDSET_FLAG_* bits.\n"
    "    version: Of APPLY_SNAPSHOT_VHDSET_PARAMETERS, 1.\n"
    "\n"
    "Raises:\n"
    "    TypeError, ValueError, OverflowError: An argument does not fit or\n"
    "        the handle is closed; nothing was called.\n"
    "    NotImplementedError: The system is older than Windows 10 or Windows\n"
    "        Server 2016.\n"
    "    VirtualDiskError: The code of the function, for example winerror 50\n"
    "        (the system has no VHD Sets).\n"
    "\n"
    "Raises the audit event virtdisk.ApplySnapshotVhdSet with the path,\n"
    "flags and snapshot_id.\n"
    "\n"
    "Source: ApplySnapshotVhdSet, APPLY_SNAPSHOT_VHDSET_PARAMETERS.");

static PyObject *
apply_snapshot(PyObject *module, PyObject *args, PyObject *kwargs)
{
    APPLY_SNAPSHOT_VHDSET_PARAMETERS parameters;
    struct call call = {.state = virtdisk_module_state(module),
                        .function = "ApplySnapshotVhdSet",
                        .parameters = &parameters};
    memset(&parameters, 0, sizeof(parameters));
    if (parse_apply(&call, args, kwargs, &parameters) < 0 ||
        !virtdisk_is_there(call.state->newer.apply_snapshot != NULL,
                           call.function, windows) ||
        audit_snapshot(&call, "virtdisk.ApplySnapshotVhdSet",
                       &parameters.Version1.SnapshotId) < 0) {
        return NULL;
    }
    return virtdisk_finish(&call, virtdisk_call(&call, run_apply, NULL));
}

static PyMethodDef methods[] = {
    {"QueryChangesVirtualDisk", WITH_KEYWORDS(query_changes), changes_doc},
    {"TakeSnapshotVhdSet", WITH_KEYWORDS(take_snapshot), take_doc},
    {"DeleteSnapshotVhdSet", WITH_KEYWORDS(delete_snapshot), delete_doc},
    {"ModifyVhdSet", WITH_KEYWORDS(modify_set), modify_doc},
    {"ApplySnapshotVhdSet", WITH_KEYWORDS(apply_snapshot), apply_doc},
    {NULL, NULL, 0, NULL},
};

int
virtdisk_add_vhd_set(PyObject *module)
{
    return PyModule_AddFunctions(module, methods);
}
