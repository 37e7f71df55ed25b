/*
 * The metadata items of the user in a VHDX: EnumerateVirtualDiskMetadata,
 * GetVirtualDiskMetadata, SetVirtualDiskMetadata, DeleteVirtualDiskMetadata.
 */
#include "_virtdisk.h"

/* ------------------------------------------------------------------------
 * EnumerateVirtualDiskMetadata, GetVirtualDiskMetadata
 */

/* The function counts items, a query bytes. */
static DWORD
call_enumerate(const struct query *query, ULONG *size, void *buffer)
{
    ULONG count = *size / (ULONG)sizeof(GUID);
    DWORD code = EnumerateVirtualDiskMetadata(query->handle, &count, buffer);
    *size = count <= UINT32_MAX / sizeof(GUID) ? count * (ULONG)sizeof(GUID)
                                               : UINT32_MAX;
    return code;
}

static PyObject *
list_of_guids(const struct query *query)
{
    const GUID *items = query->buffer;
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list != NULL && i < query->filled / sizeof(GUID); i++) {
        PyObject *item = virtdisk_bytes_from_guid(&items[i]);
        if (item == NULL || PyList_Append(list, item) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
    }
    return list;
}

PyDoc_STRVAR(
    enumerate_doc,
    "EnumerateVirtualDiskMetadata($module, /, handle)\n--\n\n"
    "Return the ids of the metadata items that users have put into a disk.\n"
    "\n"
    "Args:\n"
    "    handle: A Handle of OpenVirtualDisk, opened with version 2; of a\n"
    "        VHDX.\n"
    "\n"
    "Returns:\n"
    "    The 16 bytes of each GUID, as in uuid.UUID.bytes_le, as a list.\n"
    "\n"
    "Raises:\n"
    "    TypeError, ValueError: Not a Handle, or a closed one.\n"
    "    VirtualDiskError: The code of the function, for example winerror 50\n"
    "        (not in this format).\n"
    "\n"
    "Source: EnumerateVirtualDiskMetadata.");

static PyObject *
enumerate_metadata(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"handle", NULL};
    struct query query = {.call = call_enumerate};
    PyObject *object = NULL, *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs,
                                     "O:EnumerateVirtualDiskMetadata",
                                     keywords, &object)) {
        return NULL;
    }
    struct module_state *state = virtdisk_module_state(module);
    HandleObject *handle = virtdisk_as_handle(state, object);
    if (handle != NULL &&
        virtdisk_query_disk(state, handle, "EnumerateVirtualDiskMetadata",
                            &query) == 0) {
        result = list_of_guids(&query);
    }
    free(query.buffer);
    return result;
}

static DWORD
call_get(const struct query *query, ULONG *size, void *buffer)
{
    return GetVirtualDiskMetadata(query->handle, &query->item, size, buffer);
}

PyDoc_STRVAR(
    get_doc,
    "GetVirtualDiskMetadata($module, /, handle, item)\n--\n\n"
    "Return the content of a metadata item.\n"
    "\n"
    "Args:\n"
    "    handle: A Handle of OpenVirtualDisk, opened with version 2; of a\n"
    "        VHDX.\n"
    "    item: The GUID of the item, 16 bytes as in uuid.UUID.bytes_le.\n"
    "\n"
    "Returns:\n"
    "    The content as bytes.\n"
    "\n"
    "Raises:\n"
    "    TypeError, ValueError: An argument does not fit or the handle is\n"
    "        closed.\n"
    "    VirtualDiskError: The code of the function, for example winerror\n"
    "        1168 (no such item) or 50 (not in this format).\n"
    "\n"
    "Source: GetVirtualDiskMetadata.");

static PyObject *
get_metadata(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"handle", "item", NULL};
    struct query query = {.call = call_get};
    PyObject *object = NULL, *item = NULL, *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:GetVirtualDiskMetadata",
                                     keywords, &object, &item)) {
        return NULL;
    }
    struct module_state *state = virtdisk_module_state(module);
    HandleObject *handle = virtdisk_as_handle(state, object);
    if (handle != NULL &&
        virtdisk_convert_guid(item, "item", &query.item) == 0 &&
        virtdisk_query_disk(state, handle, "GetVirtualDiskMetadata", &query) ==
            0) {
        result =
            PyBytes_FromStringAndSize(query.buffer, (Py_ssize_t)query.filled);
    }
    free(query.buffer);
    return result;
}

/* ------------------------------------------------------------------------
 * SetVirtualDiskMetadata, DeleteVirtualDiskMetadata
 */

struct metadata_call {
    struct call call;
    GUID item;
    const void *content; /* in memory; NULL if it is empty */
    ULONG size;
};

static int
audit_metadata(const struct metadata_call *metadata, const char *event)
{
    return virtdisk_audit(
        metadata->call.state,
        Py_BuildValue("sON", event, metadata->call.handle->path,
                      virtdisk_bytes_from_guid(&metadata->item)));
}

/* A copy: the buffer may change while the call runs. */
static int
convert_content(struct metadata_call *metadata, PyObject *object)
{
    Py_buffer view = {.obj = NULL};
    int result = virtdisk_convert_buffer(object, "metadata", PyBUF_SIMPLE,
                                         UINT32_MAX, &view);
    if (result == 0 && view.len > 0) {
        void *copy =
            virtdisk_memory_new(&metadata->call.memory, (size_t)view.len);
        if (copy != NULL) {
            memcpy(copy, view.buf, (size_t)view.len);
            metadata->content = copy;
            metadata->size = (ULONG)view.len;
        }
        result = copy != NULL ? 0 : -1;
    }
    PyBuffer_Release(&view);
    return result;
}

static DWORD
run_set(const struct call *call, HANDLE value, OVERLAPPED *overlapped)
{
    const struct metadata_call *metadata = (const struct metadata_call *)call;
    (void)overlapped;
    return SetVirtualDiskMetadata(value, &metadata->item, metadata->size,
                                  metadata->content);
}

PyDoc_STRVAR(
    set_doc,
    "SetVirtualDiskMetadata($module, /, handle, item, metadata)\n--\n\n"
    "Put a metadata item into a disk, in place of the one of that id.\n"
    "\n"
    "Args:\n"
    "    handle: A Handle of OpenVirtualDisk, opened with version 2; of a\n"
    "        VHDX.\n"
    "    item: The GUID of the item, 16 bytes as in uuid.UUID.bytes_le.\n"
    "    metadata: The content, any bytes-like object.\n"
    "\n"
    "Raises:\n"
    "    TypeError, ValueError: An argument does not fit or the handle is\n"
    "        closed; nothing was called.\n"
    "    VirtualDiskError: The code of the function, for example winerror 50\n"
    "        (not in this format) or 0xC03A0028 (no room for it).\n"
    "\n"
    "Raises the audit event virtdisk.SetVirtualDiskMetadata with the path\n"
    "and item.\n"
    "\n"
    "Source: SetVirtualDiskMetadata.");

static PyObject *
set_metadata(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"handle", "item", "metadata", NULL};
    PyObject *handle = NULL, *item = NULL, *content = NULL;
    struct metadata_call metadata = {
        .call = {.state = virtdisk_module_state(module),
                 .function = "SetVirtualDiskMetadata"}};
    struct call *call = &metadata.call;
    int result = -1;
    if (PyArg_ParseTupleAndKeywords(args, kwargs, "OOO:SetVirtualDiskMetadata",
                                    keywords, &handle, &item, &content) &&
        virtdisk_parse_call(call, handle, NULL, NULL) == 0 &&
        virtdisk_convert_guid(item, "item", &metadata.item) == 0 &&
        convert_content(&metadata, content) == 0 &&
        virtdisk_may_call(call->state, call->function) &&
        audit_metadata(&metadata, "virtdisk.SetVirtualDiskMetadata") == 0) {
        result = virtdisk_call(call, run_set, NULL);
    }
    return virtdisk_finish(call, result);
}

static DWORD
run_delete(const struct call *call, HANDLE value, OVERLAPPED *overlapped)
{
    (void)overlapped;
    return DeleteVirtualDiskMetadata(
        value, &((const struct metadata_call *)call)->item);
}

PyDoc_STRVAR(
    delete_doc,
    "DeleteVirtualDiskMetadata($module, /, handle, item)\n--\n\n"
    "Remove a metadata item from a disk.\n"
    "\n"
    "Args:\n"
    "    handle: A Handle of OpenVirtualDisk, opened with version 2; of a\n"
    "        VHDX.\n"
    "    item: The GUID of the item, 16 bytes as in uuid.UUID.bytes_le.\n"
    "\n"
    "Raises:\n"
    "    TypeError, ValueError: An argument does not fit or the handle is\n"
    "        closed; nothing was called.\n"
    "    VirtualDiskError: The code of the function, for example winerror\n"
    "        1168 (no such item) or 50 (not in this format).\n"
    "\n"
    "Raises the audit event virtdisk.DeleteVirtualDiskMetadata with the path\n"
    "and item.\n"
    "\n"
    "Source: DeleteVirtualDiskMetadata.");

static PyObject *
delete_metadata(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"handle", "item", NULL};
    PyObject *handle = NULL, *item = NULL;
    struct metadata_call metadata = {
        .call = {.state = virtdisk_module_state(module),
                 .function = "DeleteVirtualDiskMetadata"}};
    struct call *call = &metadata.call;
    int result = -1;
    if (PyArg_ParseTupleAndKeywords(args, kwargs,
                                    "OO:DeleteVirtualDiskMetadata", keywords,
                                    &handle, &item) &&
        virtdisk_parse_call(call, handle, NULL, NULL) == 0 &&
        virtdisk_convert_guid(item, "item", &metadata.item) == 0 &&
        virtdisk_may_call(call->state, call->function) &&
        audit_metadata(&metadata, "virtdisk.DeleteVirtualDiskMetadata") == 0) {
        result = virtdisk_call(call, run_delete, NULL);
    }
    return virtdisk_finish(call, result);
}

static PyMethodDef methods[] = {
    {"EnumerateVirtualDiskMetadata", WITH_KEYWORDS(enumerate_metadata),
     enumerate_doc},
    {"GetVirtualDiskMetadata", WITH_KEYWORDS(get_metadata), get_doc},
    {"SetVirtualDiskMetadata", WITH_KEYWORDS(set_metadata), set_doc},
    {"DeleteVirtualDiskMetadata", WITH_KEYWORDS(delete_metadata), delete_doc},
    {NULL, NULL, 0, NULL},
};

int
virtdisk_add_metadata(PyObject *module)
{
    return PyModule_AddFunctions(module, methods);
}
