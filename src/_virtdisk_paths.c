/*
 * GetVirtualDiskPhysicalPath, GetAllAttachedVirtualDiskPhysicalPaths.
 */
#include "_virtdisk.h"

static DWORD
call_physical_path(const struct query *query, ULONG *size, void *buffer)
{
    return GetVirtualDiskPhysicalPath(query->handle, size, buffer);
}

PyDoc_STRVAR(
    physical_path_doc,
    "GetVirtualDiskPhysicalPath($module, /, handle)\n--\n\n"
    "Return the path of the device an attached disk appears as.\n"
    "\n"
    "Args:\n"
    "    handle: A Handle of OpenVirtualDisk.\n"
    "\n"
    "Returns:\n"
    "    For example \\\\\\\\.\\\\PhysicalDrive1, \\\\\\\\.\\\\CDROM0 or "
    "/dev/loop0.\n"
    "\n"
    "Raises:\n"
    "    TypeError, ValueError: Not a Handle, or a closed one.\n"
    "    VirtualDiskError: The code of the function, for example winerror 5\n"
    "        (no rights) or 55 (not attached).\n"
    "\n"
    "Source: GetVirtualDiskPhysicalPath.");

static PyObject *
get_physical_path(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"handle", NULL};
    struct module_state *state = virtdisk_module_state(module);
    struct query query = {.call = call_physical_path};
    PyObject *object = NULL, *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "O:GetVirtualDiskPhysicalPath", keywords, &object)) {
        return NULL;
    }
    HandleObject *handle = virtdisk_as_handle(state, object);
    if (handle != NULL &&
        virtdisk_query_disk(state, handle, "GetVirtualDiskPhysicalPath",
                            &query) == 0) {
        size_t units;
        const WCHAR *text = virtdisk_query_text(&query, 0, &units);
        result = virtdisk_text_from_buffer(text, units);
    }
    free(query.buffer);
    return result;
}

static DWORD
call_all_paths(const struct query *query, ULONG *size, void *buffer)
{
    (void)query;
    return GetAllAttachedVirtualDiskPhysicalPaths(size, buffer);
}

PyDoc_STRVAR(
    all_paths_doc,
    "GetAllAttachedVirtualDiskPhysicalPaths($module, /)\n--\n\n"
    "Return the image files of all attached disks, as a list.\n"
    "\n"
    "In spite of the name they are the paths of the images, not of the\n"
    "devices.\n"
    "\n"
    "Raises:\n"
    "    VirtualDiskError: The code of the function.\n"
    "\n"
    "Source: GetAllAttachedVirtualDiskPhysicalPaths.");

static PyObject *
get_all_paths(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    static const char function[] = "GetAllAttachedVirtualDiskPhysicalPaths";
    struct module_state *state = virtdisk_module_state(module);
    struct query query = {.call = call_all_paths};
    PyObject *result = NULL;
    DWORD code;
    if (!virtdisk_may_call(state, function)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    code = virtdisk_query_run(&query);
    Py_END_ALLOW_THREADS
    if (code != ERROR_SUCCESS) {
        return virtdisk_raise_error(state, function, code, NULL);
    }
    size_t units;
    const WCHAR *text = virtdisk_query_text(&query, 0, &units);
    result = virtdisk_list_from_multi_sz(text, units);
    free(query.buffer);
    return result;
}

static PyMethodDef methods[] = {
    {"GetVirtualDiskPhysicalPath", WITH_KEYWORDS(get_physical_path),
     physical_path_doc},
    {"GetAllAttachedVirtualDiskPhysicalPaths", get_all_paths, METH_NOARGS,
     all_paths_doc},
    {NULL, NULL, 0, NULL},
};

int
virtdisk_add_paths(PyObject *module)
{
    return PyModule_AddFunctions(module, methods);
}
