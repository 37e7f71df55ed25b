/*
 * virtdisk._virtdisk: the functions of virtdisk.h for Python.
 *
 * Each function takes flat arguments, makes exactly one call of the Virtual
 * Disk API and returns plain values; a Win32 code other than ERROR_SUCCESS
 * becomes an exception (virtdisk_raise_error).  What is convenient rather than
 * exact lives in the Python modules of the package.  There is no engine here:
 * on Windows the system's VirtDisk.dll is called, on Linux src/engine, through
 * the same header.
 *
 * Portable C11 without extensions; the limited API of Python 3.11.
 *
 * This file is the module: its state, its constants, what the system has.
 * Beside it, with _virtdisk.h between them:
 *   _virtdisk_convert.c      integers, GUIDs, text, buffers
 *   _virtdisk_security.c     security descriptors, which
 *   _virtdisk_descriptor.c   checks byte by byte
 *   _virtdisk_error.c        codes to exceptions; audit events
 *   _virtdisk_handle.c       Handle
 *   _virtdisk_overlapped.c   Overlapped
 *   _virtdisk_call.c         the shape of a call
 * and the functions, a family in each file:
 *   _virtdisk_open.c  _virtdisk_create.c  _virtdisk_attach.c
 *   _virtdisk_paths.c  _virtdisk_dependency.c  _virtdisk_information.c
 *   _virtdisk_metadata.c  _virtdisk_operations.c  _virtdisk_mirror.c
 *   _virtdisk_vhd_set.c  _virtdisk_scsi.c
 * _virtdisk_constants.h holds the names of the constants.
 *
 * The shape of a wrapper: convert everything out of Python objects, raise
 * the audit event, hold the handle, release the GIL, make the call, take the
 * GIL, let go of the handle, convert the result.
 *
 * Threads: the mutable fields of Handle and Overlapped are guarded by the
 * lock in each.  A lock is held for a few instructions only, never while
 * Python code runs or the GIL is taken or released, and never together with
 * another one; so it is correct with and without a GIL.
 */
#include "_virtdisk.h"

struct module_state *
virtdisk_module_state(PyObject *module)
{
    return PyModule_GetState(module);
}

struct module_state *
virtdisk_object_state(PyObject *self)
{
    return PyType_GetModuleState(Py_TYPE(self));
}

/* ------------------------------------------------------------------------
 * Constants
 */

struct constant {
    const char *name;
    long value;
};

#define CONSTANT(name) {#name, (long)(name)}

static const struct constant constants[] = {
#include "_virtdisk_constants.h"
};

static int
add_constants(PyObject *module)
{
    const size_t count = sizeof(constants) / sizeof(constants[0]);
    for (size_t i = 0; i < count; i++) {
        if (PyModule_AddIntConstant(module, constants[i].name,
                                    constants[i].value) < 0) {
            return -1;
        }
    }
    return 0;
}

/* ------------------------------------------------------------------------
 * What the system has
 */

/* Whether the virtdisk.dll of this process is Wine's own: its builtin DLLs
 * say so in the image, after the DOS header. */
static bool
has_wine_stubs(void)
{
#ifdef _WIN32
    static const char mark[] = "Wine builtin DLL";
    HMODULE ntdll = GetModuleHandleW(L"ntdll.dll");
    HMODULE virtdisk = GetModuleHandleW(L"virtdisk.dll");
    return ntdll != NULL && virtdisk != NULL &&
           GetProcAddress(ntdll, "wine_get_version") != NULL &&
           memcmp((const char *)virtdisk + sizeof(IMAGE_DOS_HEADER), mark,
                  sizeof(mark) - 1) == 0;
#else
    return false;
#endif
}

/* Looked up in the DLL that the module is linked with. */
static void
find_newer(struct newer_functions *newer)
{
#ifdef _WIN32
    HMODULE virtdisk = GetModuleHandleW(L"virtdisk.dll");
    if (virtdisk == NULL) {
        return;
    }
#define FIND(type, name) (type)(void (*)(void)) GetProcAddress(virtdisk, #name)
#else
#define FIND(type, name) name
#endif
    newer->query_changes =
        FIND(query_changes_function, QueryChangesVirtualDisk);
    newer->take_snapshot = FIND(take_snapshot_function, TakeSnapshotVhdSet);
    newer->delete_snapshot =
        FIND(delete_snapshot_function, DeleteSnapshotVhdSet);
    newer->modify_set = FIND(modify_set_function, ModifyVhdSet);
    newer->apply_snapshot = FIND(apply_snapshot_function, ApplySnapshotVhdSet);
    newer->raw_scsi = FIND(raw_scsi_function, RawSCSIVirtualDisk);
    newer->fork = FIND(fork_function, ForkVirtualDisk);
    newer->complete_fork =
        FIND(complete_fork_function, CompleteForkVirtualDisk);
#undef FIND
}

/* A new reference to an attribute of a module; NULL with an exception. */
static PyObject *
import_attribute(const char *module_name, const char *name)
{
    PyObject *module = PyImport_ImportModule(module_name);
    if (module == NULL) {
        return NULL;
    }
    PyObject *attribute = PyObject_GetAttrString(module, name);
    Py_DECREF(module);
    return attribute;
}

PyTypeObject *
virtdisk_add_type(PyObject *module, PyType_Spec *spec)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    if (type != NULL && PyModule_AddType(module, (PyTypeObject *)type) < 0) {
        Py_CLEAR(type);
    }
    return (PyTypeObject *)type;
}

static int (*const parts[])(PyObject *module) = {
    virtdisk_add_handle,     virtdisk_add_overlapped,
    virtdisk_add_open,       virtdisk_add_create,
    virtdisk_add_attach,     virtdisk_add_paths,
    virtdisk_add_dependency, virtdisk_add_information,
    virtdisk_add_metadata,   virtdisk_add_operations,
    virtdisk_add_mirror,     virtdisk_add_vhd_set,
    virtdisk_add_scsi,       add_constants,
};

static int
module_exec(PyObject *module)
{
    struct module_state *state = virtdisk_module_state(module);
    state->wine_stubs = has_wine_stubs();
    find_newer(&state->newer);
    state->error_from_code =
        import_attribute("virtdisk._errors", "error_from_code");
    if (state->error_from_code == NULL) {
        return -1;
    }
    state->audit = import_attribute("sys", "audit");
    if (state->audit == NULL) {
        return -1;
    }
    state->monotonic = import_attribute("time", "monotonic");
    if (state->monotonic == NULL) {
        return -1;
    }
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        if (parts[i](module) < 0) {
            return -1;
        }
    }
    return 0;
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    struct module_state *state = virtdisk_module_state(module);
    Py_VISIT(state->handle_type);
    Py_VISIT(state->overlapped_type);
    Py_VISIT(state->error_from_code);
    Py_VISIT(state->audit);
    Py_VISIT(state->monotonic);
    return 0;
}

static int
module_clear(PyObject *module)
{
    struct module_state *state = virtdisk_module_state(module);
    Py_CLEAR(state->handle_type);
    Py_CLEAR(state->overlapped_type);
    Py_CLEAR(state->error_from_code);
    Py_CLEAR(state->audit);
    Py_CLEAR(state->monotonic);
    return 0;
}

static void
module_free(void *module)
{
    module_clear(module);
}

PyDoc_STRVAR(module_doc,
             "The functions of virtdisk.h, exactly.\n"
             "\n"
             "Flat arguments in, plain values out, under the names of the\n"
             "header; sizes and offsets are bytes.  Every function releases\n"
             "the GIL during the call, and raises the exception made by\n"
             "virtdisk._errors.error_from_code if the call does not return\n"
             "ERROR_SUCCESS.");

/*
 * Slots that Python 3.11 does not know make it refuse the module, and the
 * stable ABI of 3.11 is what one build for all versions is made with.  So
 * there are two definitions, and the running Python is told the one for it.
 * The numbers are part of the stable ABI of the version that brought them.
 */
#ifndef Py_mod_multiple_interpreters
#define Py_mod_multiple_interpreters 3 /* Python 3.12 */
#define Py_MOD_PER_INTERPRETER_GIL_SUPPORTED ((void *)2)
#endif

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static PyModuleDef_Slot slots_3_12[] = {
    {Py_mod_exec, module_exec},
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#ifdef Py_mod_gil /* only a free-threaded build asks for it */
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

#define MODULE_DEFINITION(module_slots)                                       \
    {                                                                         \
        .m_base = PyModuleDef_HEAD_INIT,                                      \
        .m_name = "_virtdisk",                                                \
        .m_doc = module_doc,                                                  \
        .m_size = sizeof(struct module_state),                                \
        .m_slots = module_slots,                                              \
        .m_traverse = module_traverse,                                        \
        .m_clear = module_clear,                                              \
        .m_free = module_free,                                                \
    }

static struct PyModuleDef definition = MODULE_DEFINITION(slots);
static struct PyModuleDef definition_3_12 = MODULE_DEFINITION(slots_3_12);

PyMODINIT_FUNC
PyInit__virtdisk(void)
{
    return PyModuleDef_Init(Py_Version < 0x030C0000 ? &definition
                                                    : &definition_3_12);
}
