/*
 * GetStorageDependencyInformation: what virtual disks a disk or volume stands
 * on, or what stands on it.
 *
 * The object is opened here, by its path, for as long as the call takes.
 */
#include "_virtdisk.h"

static DWORD
call_dependency(const struct query *query, ULONG *size, void *buffer)
{
    STORAGE_DEPENDENCY_INFO *info = buffer;
    ULONG used = 0;
    info->Version = (STORAGE_DEPENDENCY_INFO_VERSION)query->version;
    DWORD code = GetStorageDependencyInformation(
        query->handle, (GET_STORAGE_DEPENDENCY_FLAG)query->flags, *size, info,
        &used);
    *size = used;
    return code;
}

/* GENERIC_READ is what Microsoft's own callers ask for: with less a volume is
 * opened past its file system, which then cannot answer. */
static DWORD
open_object(PCWSTR path, HANDLE *out)
{
    HANDLE handle =
        CreateFileW(path, GENERIC_READ,
                    FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE,
                    NULL, OPEN_EXISTING,
                    FILE_ATTRIBUTE_NORMAL | FILE_FLAG_BACKUP_SEMANTICS, NULL);
    if (handle == INVALID_HANDLE_VALUE) {
        return GetLastError();
    }
    *out = handle;
    return ERROR_SUCCESS;
}

/* Needs no GIL. */
static DWORD
ask_dependency(PCWSTR path, struct query *query, const char **function)
{
    *function = "CreateFileW";
    DWORD code = open_object(path, &query->handle);
    if (code != ERROR_SUCCESS) {
        return code;
    }
    *function = "GetStorageDependencyInformation";
    code = virtdisk_query_run(query);
    /* Nothing was changed through it: there is nothing to lose. */
    (void)CloseHandle(query->handle);
    return code;
}

/* The text a member points to, which is None if it is NULL.  It must lie in
 * the buffer; NULL without an exception if it does not. */
static PyObject *
dependency_text(const struct query *query, PCWSTR text)
{
    if (text == NULL) {
        Py_RETURN_NONE;
    }
    uintptr_t start = (uintptr_t)query->buffer;
    uintptr_t at = (uintptr_t)text;
    if (at < start || at - start >= query->size ||
        (at - start) % sizeof(WCHAR) != 0) {
        return NULL;
    }
    size_t units;
    const WCHAR *inside =
        virtdisk_query_text(query, (size_t)(at - start), &units);
    return virtdisk_text_from_buffer(inside, units);
}

static PyObject *
type_1_entry(const struct query *query, ULONG index)
{
    const STORAGE_DEPENDENCY_INFO *info = query->buffer;
    const STORAGE_DEPENDENCY_INFO_TYPE_1 *entry =
        &info->Version1Entries[index];
    return Py_BuildValue(
        "kkkN", (unsigned long)entry->DependencyTypeFlags,
        (unsigned long)entry->ProviderSpecificFlags,
        (unsigned long)entry->VirtualStorageType.DeviceId,
        virtdisk_bytes_from_guid(&entry->VirtualStorageType.VendorId));
}

static PyObject *
type_2_entry(const struct query *query, ULONG index)
{
    const STORAGE_DEPENDENCY_INFO *info = query->buffer;
    const STORAGE_DEPENDENCY_INFO_TYPE_2 *entry =
        &info->Version2Entries[index];
    const PCWSTR members[] = {
        entry->DependencyDeviceName,
        entry->HostVolumeName,
        entry->DependentVolumeName,
        entry->DependentVolumeRelativePath,
    };
    PyObject *texts[] = {NULL, NULL, NULL, NULL};
    PyObject *result = NULL;
    size_t converted = 0;
    while (converted < 4) {
        texts[converted] = dependency_text(query, members[converted]);
        if (texts[converted] == NULL) {
            break;
        }
        converted++;
    }
    if (converted == 4) {
        result = Py_BuildValue(
            "kkkNkOOOO", (unsigned long)entry->DependencyTypeFlags,
            (unsigned long)entry->ProviderSpecificFlags,
            (unsigned long)entry->VirtualStorageType.DeviceId,
            virtdisk_bytes_from_guid(&entry->VirtualStorageType.VendorId),
            (unsigned long)entry->AncestorLevel, texts[0], texts[1], texts[2],
            texts[3]);
    }
    while (converted > 0) {
        converted--;
        Py_DECREF(texts[converted]);
    }
    return result;
}

/* The entries as a list; NULL without an exception if they are not all in the
 * buffer. */
static PyObject *
dependency_list(const struct query *query)
{
    const STORAGE_DEPENDENCY_INFO *info = query->buffer;
    bool second = query->version == STORAGE_DEPENDENCY_INFO_VERSION_2;
    size_t offset = second
                        ? offsetof(STORAGE_DEPENDENCY_INFO, Version2Entries)
                        : offsetof(STORAGE_DEPENDENCY_INFO, Version1Entries);
    size_t size = second ? sizeof(STORAGE_DEPENDENCY_INFO_TYPE_2)
                         : sizeof(STORAGE_DEPENDENCY_INFO_TYPE_1);
    if (info->NumberEntries > (query->size - offset) / size) {
        return NULL;
    }
    PyObject *list = PyList_New(0);
    for (ULONG i = 0; list != NULL && i < info->NumberEntries; i++) {
        PyObject *entry =
            second ? type_2_entry(query, i) : type_1_entry(query, i);
        if (entry == NULL || PyList_Append(list, entry) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(entry);
    }
    return list;
}

struct dependency_request {
    PyObject *path; /* borrowed */
    PCWSTR text;    /* in memory */
    struct memory memory;
    struct query query;
};

static int
parse_dependency(PyObject *args, PyObject *kwargs,
                 struct dependency_request *request)
{
    static char *keywords[] = {"path", "flags", "version", NULL};
    PyObject *flags = NULL, *version = NULL;
    request->query.call = call_dependency;
    request->query.version = STORAGE_DEPENDENCY_INFO_VERSION_2;
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "O|$OO:GetStorageDependencyInformation", keywords,
            &request->path, &flags, &version) ||
        virtdisk_convert_dword(flags, "flags", &request->query.flags) < 0 ||
        virtdisk_convert_version(version, STORAGE_DEPENDENCY_INFO_VERSION_2,
                                 &request->query.version) < 0) {
        return -1;
    }
    return virtdisk_convert_text(request->path, "path", &request->memory,
                                 &request->text);
}

PyDoc_STRVAR(
    dependency_doc,
    "GetStorageDependencyInformation($module, /, path, *, flags=0,\n"
    "                                version=2)\n--\n\n"
    "Return what virtual disks a disk or volume stands on, or hosts.\n"
    "\n"
    "Args:\n"
    "    path: The disk, the volume, or the root directory of a volume; it "
    "is\n"
    "        opened for reading for as long as the call takes.\n"
    "    flags: GET_STORAGE_DEPENDENCY_FLAG_* bits: HOST_VOLUMES for what it\n"
    "        stands on, DISK_HANDLE if path is a disk.\n"
    "    version: Of STORAGE_DEPENDENCY_INFO, 1 or 2.\n"
    "\n"
    "Returns:\n"
    "    A tuple for each dependency, in a list.  Version 1:\n"
    "    DependencyTypeFlags (DEPENDENT_DISK_FLAG_* bits),\n"
    "    ProviderSpecificFlags, the DeviceId and the VendorId (16 bytes) of\n"
    "    the storage type.  Version 2, after these: AncestorLevel,\n"
    "    DependencyDeviceName, HostVolumeName, DependentVolumeName and\n"
    "    DependentVolumeRelativePath, each text or None.\n"
    "\n"
    "Raises:\n"
    "    TypeError, ValueError, OverflowError: An argument does not fit;\n"
    "        nothing was called.\n"
    "    VirtualDiskError: The code of the function or of CreateFileW, for\n"
    "        example winerror 2 (no such path), 5 (no rights), 1 or\n"
    "        0xC03A0015 (not a virtual disk); 13 if the answer points "
    "outside\n"
    "        itself.\n"
    "\n"
    "Raises the audit event virtdisk.GetStorageDependencyInformation with\n"
    "path and flags.\n"
    "\n"
    "Source: GetStorageDependencyInformation, STORAGE_DEPENDENCY_INFO,\n"
    "CreateFileW.");

static PyObject *
get_dependency(PyObject *module, PyObject *args, PyObject *kwargs)
{
    struct module_state *state = virtdisk_module_state(module);
    const char *function = NULL;
    PyObject *result = NULL;
    DWORD code;
    struct dependency_request request;
    memset(&request, 0, sizeof(request));
    if (parse_dependency(args, kwargs, &request) < 0 ||
        virtdisk_audit(
            state,
            Py_BuildValue("sOk", "virtdisk.GetStorageDependencyInformation",
                          request.path, (unsigned long)request.query.flags)) <
            0) {
        virtdisk_memory_free(&request.memory);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    code = ask_dependency(request.text, &request.query, &function);
    Py_END_ALLOW_THREADS
    virtdisk_memory_free(&request.memory);
    if (code == ERROR_SUCCESS) {
        result = dependency_list(&request.query);
        if (result == NULL && !PyErr_Occurred()) {
            code = ERROR_INVALID_DATA;
        }
    }
    free(request.query.buffer);
    if (code != ERROR_SUCCESS) {
        virtdisk_raise_error(state, function, code, request.path);
    }
    return result;
}

static PyMethodDef methods[] = {
    {"GetStorageDependencyInformation", WITH_KEYWORDS(get_dependency),
     dependency_doc},
    {NULL, NULL, 0, NULL},
};

int
virtdisk_add_dependency(PyObject *module)
{
    return PyModule_AddFunctions(module, methods);
}
