/*
 * virtdisk._virtdisk: the functions of virtdisk.h for Python.
 *
 * Each function takes flat arguments, makes exactly one call of the Virtual
 * Disk API and returns plain values; a Win32 code other than ERROR_SUCCESS
 * becomes an exception (raise_error).  What is convenient rather than exact
 * lives in the Python modules of the package.  There is no engine here: on
 * Windows the system's VirtDisk.dll is called, on Linux src/engine, through
 * the same header.
 *
 * Portable C11 without extensions; the limited API of Python 3.11.
 *
 * Beside it: _virtdisk_descriptor.c (the bytes of a security descriptor) and
 * _virtdisk_constants.h (the names of the constants).
 *
 * Map, from top to bottom:
 *   module state
 *   conversions in        integers, GUIDs, text, security descriptors
 *   conversions out       text, lists of text, GUIDs
 *   raise_error           the one way from a Win32 code to an exception
 *   Handle                a HANDLE that is never closed under a running call
 *   Overlapped            an OVERLAPPED that outlives the call it is for
 *   functions             in the order of virtdisk.h
 *   constants, methods, module
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
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pythread.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <windows.h>
#include <sddl.h>
#include <virtdisk.h>

#include "_virtdisk_descriptor.h"

/* ------------------------------------------------------------------------
 * Module state
 */

/* What every supported Windows has is linked; this came with Windows 10. */
typedef DWORD(WINAPI *raw_scsi_function)(
    HANDLE, const PRAW_SCSI_VIRTUAL_DISK_PARAMETERS,
    RAW_SCSI_VIRTUAL_DISK_FLAG, PRAW_SCSI_VIRTUAL_DISK_RESPONSE);

struct module_state {
    PyTypeObject *handle_type;
    PyTypeObject *overlapped_type;
    PyObject *error_from_code;  /* virtdisk._errors.error_from_code */
    PyObject *audit;            /* sys.audit, as it was at import */
    PyObject *monotonic;        /* time.monotonic */
    bool wine_stubs;            /* virtdisk.dll is the one of Wine */
    raw_scsi_function raw_scsi; /* NULL where the system lacks it */
};

static struct module_state *
module_state(PyObject *module)
{
    return PyModule_GetState(module);
}

/* No type of this module can be subclassed, so an object's type is the one
 * that knows the module. */
static struct module_state *
object_state(PyObject *self)
{
    return PyType_GetModuleState(Py_TYPE(self));
}

/* ------------------------------------------------------------------------
 * Conversions in
 *
 * Each sets an exception that names the argument and returns -1 if the
 * object does not fit.
 */

static int
wrong_type(PyObject *object, const char *name, const char *expected)
{
    PyObject *type = PyType_GetName(Py_TYPE(object));
    if (type != NULL) {
        PyErr_Format(PyExc_TypeError, "%s must be %s, not %U", name, expected,
                     type);
        Py_DECREF(type);
    }
    return -1;
}

static int
convert_unsigned(PyObject *object, const char *name, unsigned long long limit,
                 unsigned long long *out)
{
    if (!PyIndex_Check(object)) {
        return wrong_type(object, name, "int");
    }
    PyObject *number = PyNumber_Index(object);
    if (number == NULL) {
        return -1;
    }
    unsigned long long value = PyLong_AsUnsignedLongLong(number);
    Py_DECREF(number);
    bool failed = PyErr_Occurred() != NULL;
    if (failed && !PyErr_ExceptionMatches(PyExc_OverflowError)) {
        return -1;
    }
    if (failed || value > limit) {
        PyErr_Format(PyExc_OverflowError, "%s must be from 0 to %llu", name,
                     limit);
        return -1;
    }
    *out = value;
    return 0;
}

static int
convert_dword(PyObject *object, const char *name, DWORD *out)
{
    unsigned long long value = 0;
    if (object == NULL) {
        return 0; /* not given: the default stays */
    }
    if (convert_unsigned(object, name, UINT32_MAX, &value) < 0) {
        return -1;
    }
    *out = (DWORD)value;
    return 0;
}

static int
convert_ulonglong(PyObject *object, const char *name, ULONGLONG *out)
{
    unsigned long long value = 0;
    if (object == NULL) {
        return 0;
    }
    if (convert_unsigned(object, name, UINT64_MAX, &value) < 0) {
        return -1;
    }
    *out = value;
    return 0;
}

/* The version of a parameter structure: 1 to newest, or None, which is given
 * out as 0 and means that no structure is passed. */
static int
convert_version(PyObject *object, DWORD newest, DWORD *out)
{
    if (object == Py_None) {
        *out = 0;
        return 0;
    }
    if (convert_dword(object, "version", out) < 0) {
        return -1;
    }
    if (*out < 1 || *out > newest) {
        PyErr_Format(PyExc_ValueError,
                     "version must be None or from 1 to %lu, not %lu",
                     (unsigned long)newest, (unsigned long)*out);
        return -1;
    }
    return 0;
}

/* The 16 bytes of a GUID as they lie in memory (uuid.UUID.bytes_le); None
 * is the GUID of all zeros. */
static int
convert_guid(PyObject *object, const char *name, GUID *out)
{
    if (object == NULL || object == Py_None) {
        return 0;
    }
    if (!PyObject_CheckBuffer(object)) {
        return wrong_type(object, name, "a bytes-like object or None");
    }
    Py_buffer view;
    if (PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    Py_ssize_t length = view.len;
    if (length == (Py_ssize_t)sizeof(*out)) {
        memcpy(out, view.buf, sizeof(*out));
    }
    PyBuffer_Release(&view);
    if (length != (Py_ssize_t)sizeof(*out)) {
        PyErr_Format(PyExc_ValueError, "%s must have 16 bytes, not %zd", name,
                     length);
        return -1;
    }
    return 0;
}

/* The text as NUL-terminated UTF-16, to be freed with free().  Lone
 * surrogates pass: on Windows a file name may hold them, on Linux
 * U+DC80..U+DCFF stand for bytes that are not UTF-8 (surrogateescape). */
static int
convert_text(PyObject *object, const char *name, WCHAR **out)
{
    if (!PyUnicode_Check(object)) {
        return wrong_type(object, name, "str");
    }
    PyObject *encoded =
        PyUnicode_AsEncodedString(object, "utf-16-le", "surrogatepass");
    if (encoded == NULL) {
        return -1;
    }
    size_t size = (size_t)PyBytes_Size(encoded);
    size_t units = size / sizeof(WCHAR);
    WCHAR *text = calloc(units + 1, sizeof(WCHAR));
    if (text == NULL) {
        Py_DECREF(encoded);
        PyErr_NoMemory();
        return -1;
    }
    memcpy(text, PyBytes_AsString(encoded), size);
    Py_DECREF(encoded);
    for (size_t i = 0; i < units; i++) {
        if (text[i] == 0) {
            free(text);
            PyErr_Format(PyExc_ValueError, "%s: embedded null character",
                         name);
            return -1;
        }
    }
    *out = text;
    return 0;
}

/* A checked copy of the descriptor in object, to be freed with free().  The
 * copy is checked, not the buffer: that may change meanwhile. */
static int
convert_descriptor_bytes(PyObject *object, PSECURITY_DESCRIPTOR *out)
{
    Py_buffer view;
    if (PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    size_t size = (size_t)view.len;
    uint8_t *copy = malloc(size > 0 ? size : 1);
    if (copy != NULL && size > 0) {
        memcpy(copy, view.buf, size);
    }
    PyBuffer_Release(&view);
    if (copy == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    const char *fault = virtdisk_descriptor_fault(copy, size);
    if (fault != NULL) {
        free(copy);
        PyErr_Format(PyExc_ValueError, "security_descriptor: %s", fault);
        return -1;
    }
    *out = copy;
    return 0;
}

/* The descriptor that SDDL text describes, to be freed with free(). */
static DWORD
descriptor_from_sddl(const WCHAR *text, PSECURITY_DESCRIPTOR *out)
{
    PSECURITY_DESCRIPTOR converted = NULL;
    ULONG size = 0;
    if (!ConvertStringSecurityDescriptorToSecurityDescriptorW(
            text, SDDL_REVISION_1, &converted, &size)) {
        return GetLastError();
    }
    /* All descriptors of this module are freed the same way. */
    void *copy = malloc(size);
    if (copy != NULL) {
        memcpy(copy, converted, size);
    }
    LocalFree(converted);
    if (copy == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    *out = copy;
    return ERROR_SUCCESS;
}

/* ------------------------------------------------------------------------
 * Conversions out
 */

static PyObject *
text_from_utf16(const WCHAR *text, size_t units)
{
    /* Little-endian, told explicitly: otherwise a leading U+FEFF would be
     * taken for a byte order mark and lost. */
    int order = -1;
    return PyUnicode_DecodeUTF16((const char *)text,
                                 (Py_ssize_t)(units * sizeof(WCHAR)),
                                 "surrogatepass", &order);
}

static size_t
length_utf16(const WCHAR *text, size_t limit)
{
    size_t units = 0;
    while (units < limit && text[units] != 0) {
        units++;
    }
    return units;
}

/* NUL-terminated text in a buffer of limit units. */
static PyObject *
text_from_buffer(const WCHAR *text, size_t limit)
{
    return text_from_utf16(text, length_utf16(text, limit));
}

/* A MULTI_SZ: strings one after the other, ended by an empty one. */
static PyObject *
list_from_multi_sz(const WCHAR *text, size_t limit)
{
    PyObject *list = PyList_New(0);
    while (list != NULL) {
        size_t units = length_utf16(text, limit);
        if (units == 0) {
            break;
        }
        PyObject *item = text_from_utf16(text, units);
        if (item == NULL || PyList_Append(list, item) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
        size_t used = units < limit ? units + 1 : limit;
        text += used;
        limit -= used;
    }
    return list;
}

static PyObject *
bytes_from_guid(const GUID *guid)
{
    return PyBytes_FromStringAndSize((const char *)guid, sizeof(*guid));
}

static PyObject *
int_from_pointer(const void *pointer)
{
    return PyLong_FromVoidPtr((void *)(uintptr_t)pointer);
}

/* ------------------------------------------------------------------------
 * Errors
 */

/* The system's text for a code, or None where it has none. */
static PyObject *
system_message(DWORD code)
{
#ifdef _WIN32
    WCHAR text[512];
    const DWORD capacity = (DWORD)(sizeof(text) / sizeof(text[0]));
    DWORD units = FormatMessageW(FORMAT_MESSAGE_FROM_SYSTEM |
                                     FORMAT_MESSAGE_IGNORE_INSERTS,
                                 NULL, code, 0, text, capacity, NULL);
    while (units > 0 && text[units - 1] <= L' ') {
        units--;
    }
    if (units > 0) {
        return text_from_utf16(text, units);
    }
#else
    (void)code;
#endif
    Py_RETURN_NONE;
}

/* Raises the exception for a code; always returns NULL.  path may be NULL. */
static PyObject *
raise_error(struct module_state *state, const char *function, DWORD code,
            PyObject *path)
{
    PyObject *message = system_message(code);
    if (message == NULL) {
        return NULL;
    }
    PyObject *error = PyObject_CallFunction(
        state->error_from_code, "ksOO", (unsigned long)code, function,
        path != NULL ? path : Py_None, message);
    Py_DECREF(message);
    if (error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
    return NULL;
}

/*
 * Wine's own virtdisk.dll exports these functions, but calling one ends the
 * process.  Sets NotImplementedError and returns false there.
 */
static bool
may_call(const struct module_state *state, const char *function)
{
    if (state->wine_stubs) {
        PyErr_Format(PyExc_NotImplementedError,
                     "Wine's virtdisk.dll does not implement %s", function);
        return false;
    }
    return true;
}

/* Raises the audit event whose name and values are in the tuple, which is
 * consumed; it may be NULL with an exception set. */
static int
raise_audit_event(const struct module_state *state, PyObject *arguments)
{
    if (arguments == NULL) {
        return -1;
    }
    PyObject *done = PyObject_CallObject(state->audit, arguments);
    Py_DECREF(arguments);
    Py_XDECREF(done);
    return done != NULL ? 0 : -1;
}

/* ------------------------------------------------------------------------
 * Handle
 */

typedef struct {
    PyObject_HEAD
    PyThread_type_lock lock;
    PyObject *path;  /* as given to OpenVirtualDisk; never changes */
    HANDLE value;    /* guarded by lock; NULL once really closed */
    unsigned in_use; /* guarded by lock; calls that use value now */
    bool closed;     /* guarded by lock; no further call may use value */
} HandleObject;

/* A handle that has no value yet, so that nothing can fail between the
 * system's giving one and the object's owning it. */
static HandleObject *
new_handle(struct module_state *state, PyObject *path)
{
    PyObject *self = PyType_GenericAlloc(state->handle_type, 0);
    if (self == NULL) {
        return NULL;
    }
    HandleObject *handle = (HandleObject *)self;
    handle->closed = true;
    handle->path = Py_NewRef(path);
    handle->lock = PyThread_allocate_lock();
    if (handle->lock == NULL) {
        Py_DECREF(self);
        PyErr_NoMemory();
        return NULL;
    }
    return handle;
}

/* The handle that an argument is, borrowed; NULL with TypeError. */
static HandleObject *
as_handle(const struct module_state *state, PyObject *object)
{
    if (!PyObject_TypeCheck(object, state->handle_type)) {
        wrong_type(object, "handle", "Handle");
        return NULL;
    }
    return (HandleObject *)object;
}

static bool
handle_is_closed(HandleObject *self)
{
    PyThread_acquire_lock(self->lock, WAIT_LOCK);
    bool closed = self->closed;
    PyThread_release_lock(self->lock);
    return closed;
}

/* Borrows the value for one call; sets ValueError if it is closed.  Each
 * success is paired with handle_leave. */
static int
handle_enter(HandleObject *self, HANDLE *out)
{
    PyThread_acquire_lock(self->lock, WAIT_LOCK);
    bool closed = self->closed;
    if (!closed) {
        self->in_use++;
        *out = self->value;
    }
    PyThread_release_lock(self->lock);
    if (closed) {
        PyErr_SetString(PyExc_ValueError,
                        "operation on a closed virtual disk handle");
        return -1;
    }
    return 0;
}

/* Takes the value out for closing if nobody uses it any more; the lock is
 * held by the caller. */
static HANDLE
take_unused(HandleObject *self)
{
    HANDLE value = NULL;
    if (self->closed && self->in_use == 0) {
        value = self->value;
        self->value = NULL;
    }
    return value;
}

/* Closes a value that was taken out; what CloseHandle answers, as a code. */
static DWORD
close_value(HANDLE value)
{
    DWORD code = ERROR_SUCCESS;
    if (value == NULL) {
        return code;
    }
    /* It may take time: the last handle of a disk detaches it. */
    Py_BEGIN_ALLOW_THREADS
    if (!CloseHandle(value)) {
        code = GetLastError();
    }
    Py_END_ALLOW_THREADS
    return code;
}

static void
handle_leave(HandleObject *self)
{
    PyThread_acquire_lock(self->lock, WAIT_LOCK);
    self->in_use--;
    HANDLE value = take_unused(self);
    PyThread_release_lock(self->lock);
    /* close() has returned long ago: there is nobody to tell. */
    (void)close_value(value);
}

static PyObject *
handle_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    HandleObject *self = (HandleObject *)op;
    PyThread_acquire_lock(self->lock, WAIT_LOCK);
    self->closed = true;
    HANDLE value = take_unused(self);
    PyThread_release_lock(self->lock);
    DWORD code = close_value(value);
    if (code != ERROR_SUCCESS) {
        return raise_error(object_state(op), "CloseHandle", code, self->path);
    }
    Py_RETURN_NONE;
}

static PyObject *
handle_enter_context(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (handle_is_closed((HandleObject *)op)) {
        PyErr_SetString(PyExc_ValueError,
                        "operation on a closed virtual disk handle");
        return NULL;
    }
    return Py_NewRef(op);
}

static PyObject *
handle_exit_context(PyObject *op, PyObject *Py_UNUSED(args))
{
    return handle_close(op, NULL);
}

static PyObject *
handle_get_closed(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(handle_is_closed((HandleObject *)op));
}

static PyObject *
handle_get_path(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_NewRef(((HandleObject *)op)->path);
}

static PyObject *
handle_get_value(PyObject *op, void *Py_UNUSED(closure))
{
    HandleObject *self = (HandleObject *)op;
    HANDLE value = NULL;
    if (handle_enter(self, &value) < 0) {
        return NULL;
    }
    handle_leave(self);
    return int_from_pointer(value);
}

static PyObject *
handle_repr(PyObject *op)
{
    HandleObject *self = (HandleObject *)op;
    return PyUnicode_FromFormat("<virtdisk._virtdisk.Handle %R%s>", self->path,
                                handle_is_closed(self) ? ", closed" : "");
}

static int
handle_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((HandleObject *)op)->path);
    return 0;
}

/* Every call holds a reference to the object, so none is running.  Nothing
 * here can set or clear an exception. */
static void
handle_dealloc(PyObject *op)
{
    HandleObject *self = (HandleObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)close_value(self->value);
    if (self->lock != NULL) {
        PyThread_free_lock(self->lock);
    }
    Py_XDECREF(self->path);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(handle_doc,
             "A HANDLE to a virtual disk, made by OpenVirtualDisk.\n"
             "\n"
             "It is closed by close(), at the end of a with block, or when\n"
             "the object is dropped.  The last handle of a disk that is not\n"
             "attached for good detaches it.  If another thread is inside a\n"
             "call with the handle, or an Overlapped is pending on it, it\n"
             "is closed when that is over; new calls raise ValueError.\n"
             "\n"
             "Source: the Handle of OpenVirtualDisk, CloseHandle.");

PyDoc_STRVAR(handle_close_doc,
             "close($self, /)\n--\n\n"
             "Close the handle.  Closing it again does nothing.\n"
             "\n"
             "Raises:\n"
             "    VirtualDiskError: The code of CloseHandle.\n"
             "\n"
             "Source: CloseHandle.");

static PyMethodDef handle_methods[] = {
    {"close", handle_close, METH_NOARGS, handle_close_doc},
    {"__enter__", handle_enter_context, METH_NOARGS,
     PyDoc_STR("__enter__($self, /)\n--\n\n"
               "Return the handle; ValueError if it is closed.")},
    {"__exit__", handle_exit_context, METH_VARARGS,
     PyDoc_STR("__exit__($self, /, *args)\n--\n\nClose the handle.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef handle_getset[] = {
    {"closed", handle_get_closed, NULL,
     PyDoc_STR("Whether close() was called; calls are refused then."), NULL},
    {"path", handle_get_path, NULL,
     PyDoc_STR("The path that was opened, as it was given."), NULL},
    {"value", handle_get_value, NULL,
     PyDoc_STR("The HANDLE as an int; ValueError if it is closed."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot handle_slots[] = {
    {Py_tp_doc, (void *)handle_doc},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_traverse, handle_traverse},
    {Py_tp_repr, handle_repr},
    {Py_tp_methods, handle_methods},
    {Py_tp_getset, handle_getset},
    {0, NULL},
};

static PyType_Spec handle_spec = {
    .name = "virtdisk._virtdisk.Handle",
    .basicsize = sizeof(HandleObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = handle_slots,
};

/* ------------------------------------------------------------------------
 * Overlapped
 *
 *            begin              997                 event signalled
 *   IDLE ----------> STARTING ---------> PENDING --------------------> DONE
 *     ^                 |  |                                          ^  |
 *     |     an error    |  |            success at once               |  |
 *     +-----------------+  +-----------------------------------------+  |
 *                          ^                    begin                    |
 *                          +---------------------------------------------+
 *
 * From STARTING to DONE the system may write to the OVERLAPPED and read what
 * was passed with it.  All that lives in an allocation of its own (struct
 * operation): if the end of the operation cannot be awaited it is leaked, not
 * freed.  The operation holds the Handle (handle_enter) until it is DONE.
 *
 * The truth about completion is the event: the system touches neither the
 * OVERLAPPED nor the event after signalling it.  That GetOverlappedResult
 * agrees is asked as well, because the event's value is given out and a
 * program might signal it by mistake.
 */

enum stage {
    STAGE_IDLE,
    STAGE_STARTING,
    STAGE_PENDING,
    STAGE_DONE,
};

struct operation {
    OVERLAPPED overlapped;
    HANDLE handle;    /* the disk's, while the operation holds it */
    void *parameters; /* what the call was given, from malloc, kept */
    void *descriptor; /* until the operation is done */
};

typedef struct {
    PyObject_HEAD
    PyThread_type_lock lock;
    struct operation *operation; /* the pointer never changes */
    /* All below is guarded by lock. */
    HandleObject *handle; /* of the running operation; NULL otherwise */
    PyObject *path;       /* of the image, for messages; NULL before the first
                             operation */
    const char *function; /* what was started last */
    enum stage stage;
    unsigned long serial; /* counts the operations */
    unsigned users;       /* calls that pass the OVERLAPPED right now */
    DWORD code;           /* how it ended; valid when DONE */
    ULONGLONG current;    /* what progress() was told last */
    ULONGLONG completion;
} OverlappedObject;

/* Whether the system is through with the operation, and with what code.
 * Does not block. */
static bool
operation_completed(struct operation *operation, DWORD *code_out)
{
    DWORD code = ERROR_SUCCESS;
    DWORD transferred = 0;
    OVERLAPPED *overlapped = &operation->overlapped;
    if (WaitForSingleObject(overlapped->hEvent, 0) != WAIT_OBJECT_0) {
        return false;
    }
    if (!GetOverlappedResult(operation->handle, overlapped, &transferred,
                             FALSE)) {
        code = GetLastError();
    }
    if (code == ERROR_IO_INCOMPLETE) {
        return false;
    }
    *code_out = code;
    return true;
}

static void
operation_release_memory(struct operation *operation)
{
    free(operation->parameters);
    operation->parameters = NULL;
    free(operation->descriptor);
    operation->descriptor = NULL;
}

/* Takes away the given number of users, takes notice of a completion and
 * gives the stage after it.  Lets go of the Handle as soon as the operation
 * is done and no call uses it. */
static enum stage
overlapped_settle(OverlappedObject *self, unsigned leaving)
{
    HandleObject *done = NULL;
    PyThread_acquire_lock(self->lock, WAIT_LOCK);
    self->users -= leaving;
    if (self->stage == STAGE_PENDING &&
        operation_completed(self->operation, &self->code)) {
        self->stage = STAGE_DONE;
    }
    enum stage stage = self->stage;
    if (stage == STAGE_DONE && self->users == 0) {
        operation_release_memory(self->operation);
        done = self->handle;
        self->handle = NULL;
    }
    PyThread_release_lock(self->lock);
    if (done != NULL) {
        handle_leave(done);
        Py_DECREF(done);
    }
    return stage;
}

static void
set_never_started(void)
{
    PyErr_SetString(PyExc_ValueError, "no operation was started with this "
                                      "Overlapped");
}

/* Makes the object ready for a call with handle; ValueError while it is
 * still used by another one.  Paired with overlapped_end. */
static int
overlapped_begin(OverlappedObject *self, HandleObject *handle,
                 const char *function)
{
    PyObject *old_path = NULL;
    overlapped_settle(self, 0);
    PyThread_acquire_lock(self->lock, WAIT_LOCK);
    bool free_to_use =
        (self->stage == STAGE_IDLE || self->stage == STAGE_DONE) &&
        self->users == 0;
    if (free_to_use) {
        OVERLAPPED *overlapped = &self->operation->overlapped;
        HANDLE event = overlapped->hEvent;
        memset(overlapped, 0, sizeof(*overlapped));
        overlapped->hEvent = event;
        ResetEvent(event);
        self->stage = STAGE_STARTING;
        self->function = function;
        self->serial++;
        self->current = 0;
        self->completion = 0;
        old_path = self->path;
        self->path = Py_NewRef(handle->path);
    }
    PyThread_release_lock(self->lock);
    Py_XDECREF(old_path);
    if (!free_to_use) {
        PyErr_SetString(PyExc_ValueError,
                        "the Overlapped is in use by another operation");
        return -1;
    }
    return 0;
}

/*
 * Records what the call answered.  If that is ERROR_IO_PENDING, the
 * operation takes over the hold on handle, with value, and the memory.
 */
static void
overlapped_end(OverlappedObject *self, DWORD code, HandleObject *handle,
               HANDLE value, void **parameters, void **descriptor)
{
    struct operation *operation = self->operation;
    PyThread_acquire_lock(self->lock, WAIT_LOCK);
    self->code = code;
    self->stage = STAGE_IDLE;
    if (code == ERROR_SUCCESS) {
        self->stage = STAGE_DONE;
        SetEvent(operation->overlapped.hEvent);
    }
    else if (code == ERROR_IO_PENDING) {
        self->stage = STAGE_PENDING;
        self->handle = (HandleObject *)Py_NewRef((PyObject *)handle);
        operation->handle = value;
        operation->parameters = *parameters;
        operation->descriptor = *descriptor;
        *parameters = NULL;
        *descriptor = NULL;
    }
    PyThread_release_lock(self->lock);
}

/* Admits a call that passes the OVERLAPPED to the system, so that it is not
 * reused meanwhile.  The stage is PENDING, otherwise there is nothing to
 * call for and overlapped_leave must not follow. */
static enum stage
overlapped_enter(OverlappedObject *self)
{
    PyThread_acquire_lock(self->lock, WAIT_LOCK);
    enum stage stage = self->stage;
    if (stage == STAGE_PENDING) {
        self->users++;
    }
    PyThread_release_lock(self->lock);
    return stage;
}

static void
overlapped_leave(OverlappedObject *self)
{
    overlapped_settle(self, 1);
}

/* A new reference to the path of the image, or to None. */
static PyObject *
overlapped_path(OverlappedObject *self)
{
    PyThread_acquire_lock(self->lock, WAIT_LOCK);
    PyObject *path = Py_NewRef(self->path != NULL ? self->path : Py_None);
    PyThread_release_lock(self->lock);
    return path;
}

static PyObject *
overlapped_raise(OverlappedObject *self, const char *function, DWORD code)
{
    PyObject *path = overlapped_path(self);
    raise_error(object_state((PyObject *)self), function, code, path);
    Py_DECREF(path);
    return NULL;
}

static PyObject *
overlapped_get_pending(PyObject *op, void *Py_UNUSED(closure))
{
    enum stage stage = overlapped_settle((OverlappedObject *)op, 0);
    return PyBool_FromLong(stage == STAGE_STARTING || stage == STAGE_PENDING);
}

static PyObject *
overlapped_get_event(PyObject *op, void *Py_UNUSED(closure))
{
    OverlappedObject *self = (OverlappedObject *)op;
    return int_from_pointer(self->operation->overlapped.hEvent);
}

/* Seconds on a clock that never goes back; negative with an exception. */
static double
now(const struct module_state *state)
{
    PyObject *seconds = PyObject_CallNoArgs(state->monotonic);
    if (seconds == NULL) {
        return -1.0;
    }
    double value = PyFloat_AsDouble(seconds);
    Py_DECREF(seconds);
    return value;
}

/* A wait is cut into slices, because a signal (Ctrl-C) that arrives while
 * the system waits is seen between two of them only. */
#define WAIT_SLICE_MS 50

static int
convert_timeout(PyObject *object, double *out)
{
    if (object == NULL || object == Py_None) {
        *out = -1.0; /* for ever */
        return 0;
    }
    double seconds = PyFloat_AsDouble(object);
    if (PyErr_Occurred()) {
        return -1;
    }
    if (seconds != seconds) {
        PyErr_SetString(PyExc_ValueError, "timeout must be a number");
        return -1;
    }
    *out = seconds > 0.0 ? seconds : 0.0;
    return 0;
}

/* The length of the next slice: up to the deadline (seconds; for ever if
 * negative), rounded up so that it is not waited for in a tight loop. */
static int
next_slice(const struct module_state *state, double deadline, DWORD *out)
{
    *out = WAIT_SLICE_MS;
    if (deadline < 0.0) {
        return 0;
    }
    double left = now(state);
    if (left < 0.0) {
        return -1;
    }
    left = deadline - left;
    if (left <= 0.0) {
        *out = 0;
    }
    else if (left * 1000.0 < WAIT_SLICE_MS) {
        *out = (DWORD)(left * 1000.0) + 1;
    }
    return 0;
}

/* Whether operation number serial is over. */
static bool
overlapped_is_over(OverlappedObject *self, unsigned long serial)
{
    overlapped_settle(self, 0);
    PyThread_acquire_lock(self->lock, WAIT_LOCK);
    bool over = self->serial != serial || self->stage == STAGE_DONE ||
                self->stage == STAGE_IDLE;
    PyThread_release_lock(self->lock);
    return over;
}

/* 1: over, 0: the deadline has passed, -1: an exception is set. */
static int
overlapped_wait_until(OverlappedObject *self, double deadline)
{
    struct module_state *state = object_state((PyObject *)self);
    HANDLE event = self->operation->overlapped.hEvent;
    PyThread_acquire_lock(self->lock, WAIT_LOCK);
    unsigned long serial = self->serial;
    PyThread_release_lock(self->lock);
    while (!overlapped_is_over(self, serial)) {
        DWORD slice, waited, code = ERROR_SUCCESS;
        if (next_slice(state, deadline, &slice) < 0) {
            return -1;
        }
        if (slice == 0) {
            return 0;
        }
        Py_BEGIN_ALLOW_THREADS
        waited = WaitForSingleObject(event, slice);
        if (waited == WAIT_FAILED) {
            code = GetLastError();
        }
        Py_END_ALLOW_THREADS
        if (code != ERROR_SUCCESS) {
            overlapped_raise(self, "WaitForSingleObject", code);
            return -1;
        }
        if (PyErr_CheckSignals() < 0) {
            return -1;
        }
    }
    return 1;
}

static PyObject *
overlapped_wait(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"timeout", NULL};
    OverlappedObject *self = (OverlappedObject *)op;
    PyObject *timeout = NULL;
    double seconds;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:wait", keywords,
                                     &timeout) ||
        convert_timeout(timeout, &seconds) < 0) {
        return NULL;
    }
    if (overlapped_settle(self, 0) == STAGE_IDLE) {
        set_never_started();
        return NULL;
    }
    if (seconds >= 0.0) {
        double start = now(object_state(op));
        if (start < 0.0) {
            return NULL;
        }
        seconds += start;
    }
    int over = overlapped_wait_until(self, seconds);
    return over < 0 ? NULL : PyBool_FromLong(over);
}

static PyObject *
overlapped_result(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    OverlappedObject *self = (OverlappedObject *)op;
    overlapped_settle(self, 0);
    PyThread_acquire_lock(self->lock, WAIT_LOCK);
    enum stage stage = self->stage;
    DWORD code = self->code;
    const char *function = self->function;
    PyThread_release_lock(self->lock);
    if (stage == STAGE_IDLE) {
        set_never_started();
        return NULL;
    }
    if (stage != STAGE_DONE) {
        return overlapped_raise(self, "GetOverlappedResult",
                                ERROR_IO_INCOMPLETE);
    }
    if (code != ERROR_SUCCESS) {
        return overlapped_raise(self, function, code);
    }
    Py_RETURN_NONE;
}

/* The values of progress() where there is no call to make. */
static PyObject *
known_progress(OverlappedObject *self)
{
    PyThread_acquire_lock(self->lock, WAIT_LOCK);
    unsigned long long current = self->current;
    unsigned long long completion = self->completion;
    DWORD code = self->stage == STAGE_DONE ? self->code : ERROR_IO_PENDING;
    PyThread_release_lock(self->lock);
    return Py_BuildValue("kKK", (unsigned long)code, current, completion);
}

static PyObject *
overlapped_progress(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    static const char function[] = "GetVirtualDiskOperationProgress";
    OverlappedObject *self = (OverlappedObject *)op;
    enum stage stage = overlapped_enter(self);
    if (stage == STAGE_IDLE) {
        set_never_started();
        return NULL;
    }
    if (stage != STAGE_PENDING) {
        return known_progress(self);
    }
    DWORD code;
    VIRTUAL_DISK_PROGRESS progress;
    memset(&progress, 0, sizeof(progress));
    Py_BEGIN_ALLOW_THREADS
    code = GetVirtualDiskOperationProgress(
        self->operation->handle, &self->operation->overlapped, &progress);
    Py_END_ALLOW_THREADS
    if (code == ERROR_SUCCESS) {
        PyThread_acquire_lock(self->lock, WAIT_LOCK);
        self->current = progress.CurrentValue;
        self->completion = progress.CompletionValue;
        PyThread_release_lock(self->lock);
    }
    overlapped_leave(self);
    if (code != ERROR_SUCCESS) {
        return overlapped_raise(self, function, code);
    }
    return Py_BuildValue("kKK", (unsigned long)progress.OperationStatus,
                         (unsigned long long)progress.CurrentValue,
                         (unsigned long long)progress.CompletionValue);
}

static PyObject *
overlapped_cancel(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    OverlappedObject *self = (OverlappedObject *)op;
    enum stage stage = overlapped_enter(self);
    if (stage == STAGE_IDLE) {
        set_never_started();
        return NULL;
    }
    if (stage == STAGE_STARTING) {
        PyErr_SetString(PyExc_ValueError,
                        "the operation is being started by another thread");
        return NULL;
    }
    if (stage == STAGE_DONE) {
        Py_RETURN_NONE;
    }
    DWORD code = ERROR_SUCCESS;
    Py_BEGIN_ALLOW_THREADS
    if (!CancelIoEx(self->operation->handle, &self->operation->overlapped)) {
        code = GetLastError();
    }
    Py_END_ALLOW_THREADS
    overlapped_leave(self);
    if (code != ERROR_SUCCESS && code != ERROR_NOT_FOUND) {
        return overlapped_raise(self, "CancelIoEx", code);
    }
    Py_RETURN_NONE;
}

static void
operation_free(struct operation *operation)
{
    if (operation->overlapped.hEvent != NULL) {
        CloseHandle(operation->overlapped.hEvent);
    }
    operation_release_memory(operation);
    free(operation);
}

/* Ends a pending operation that nobody can ask for any more.  False if its
 * end cannot be awaited. */
static bool
operation_abandon(struct operation *operation)
{
    bool over;
    OVERLAPPED *overlapped = &operation->overlapped;
    Py_BEGIN_ALLOW_THREADS
    /* If it cannot be cancelled it is awaited all the same. */
    CancelIoEx(operation->handle, overlapped);
    over =
        WaitForSingleObject(overlapped->hEvent, INFINITE) == WAIT_OBJECT_0 &&
        HasOverlappedIoCompleted(overlapped);
    Py_END_ALLOW_THREADS
    return over;
}

/* Calls hold a reference to the object, so none is running: the stage is not
 * STARTING and there are no users.  Nothing here can set or clear an
 * exception. */
static void
overlapped_dealloc(PyObject *op)
{
    OverlappedObject *self = (OverlappedObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    bool over =
        self->stage != STAGE_PENDING || operation_abandon(self->operation);
    /* Otherwise leaked, with the handle in use for ever: the system may
     * still write there. */
    if (over) {
        if (self->handle != NULL) {
            handle_leave(self->handle);
            Py_DECREF(self->handle);
        }
        if (self->operation != NULL) {
            operation_free(self->operation);
        }
    }
    if (self->lock != NULL) {
        PyThread_free_lock(self->lock);
    }
    Py_XDECREF(self->path);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

/* There is no tp_clear: a pending operation cannot let go of its handle, and
 * no cycle can be closed through one. */
static int
overlapped_traverse(PyObject *op, visitproc visit, void *arg)
{
    OverlappedObject *self = (OverlappedObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->handle);
    Py_VISIT(self->path);
    return 0;
}

static PyObject *
overlapped_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":Overlapped", keywords)) {
        return NULL;
    }
    PyObject *op = PyType_GenericAlloc(type, 0);
    if (op == NULL) {
        return NULL;
    }
    OverlappedObject *self = (OverlappedObject *)op;
    self->lock = PyThread_allocate_lock();
    self->operation = calloc(1, sizeof(*self->operation));
    if (self->lock == NULL || self->operation == NULL) {
        Py_DECREF(op);
        return PyErr_NoMemory();
    }
    /* Manual reset: any number of threads may wait for it. */
    HANDLE event = CreateEventW(NULL, TRUE, FALSE, NULL);
    if (event == NULL) {
        DWORD code = GetLastError();
        raise_error(object_state(op), "CreateEventW", code, NULL);
        Py_DECREF(op);
        return NULL;
    }
    self->operation->overlapped.hEvent = event;
    return op;
}

PyDoc_STRVAR(overlapped_doc,
             "Overlapped()\n--\n\n"
             "An OVERLAPPED with its event, for one asynchronous call at a\n"
             "time.\n"
             "\n"
             "Given to a function, it makes that return at once while the\n"
             "operation goes on.  It can be used again when the operation is\n"
             "over.  Dropping it cancels a pending operation and waits for\n"
             "its end.\n"
             "\n"
             "Raises:\n"
             "    VirtualDiskError: The code of CreateEventW.\n"
             "\n"
             "Source: OVERLAPPED, CreateEventW.");

PyDoc_STRVAR(overlapped_wait_doc,
             "wait($self, /, timeout=None)\n--\n\n"
             "Wait until the operation is over.  Ctrl-C interrupts it.\n"
             "\n"
             "Args:\n"
             "    timeout: Seconds; None waits for ever.\n"
             "\n"
             "Returns:\n"
             "    True if it is over, False if the time has passed.\n"
             "\n"
             "Raises:\n"
             "    ValueError: No operation was started.\n"
             "    VirtualDiskError: The code of WaitForSingleObject.\n"
             "\n"
             "Source: WaitForSingleObject.");

PyDoc_STRVAR(overlapped_result_doc,
             "result($self, /)\n--\n\n"
             "Return None if the operation has succeeded.\n"
             "\n"
             "Raises:\n"
             "    ValueError: No operation was started.\n"
             "    VirtualDiskError: The code of the operation, for example\n"
             "        winerror 995 if it was cancelled; 996 while it is\n"
             "        pending.\n"
             "\n"
             "Source: GetOverlappedResult.");

PyDoc_STRVAR(overlapped_progress_doc,
             "progress($self, /)\n--\n\n"
             "Ask how far the operation is.\n"
             "\n"
             "Returns:\n"
             "    OperationStatus (997 while it is pending, then the code it\n"
             "    ended with), CurrentValue and CompletionValue.  The values\n"
             "    have no unit, mean something only as a pair, and may be 0;\n"
             "    after the end they are those reported last.\n"
             "\n"
             "Raises:\n"
             "    ValueError: No operation was started.\n"
             "    VirtualDiskError: The code of the function.\n"
             "\n"
             "Source: GetVirtualDiskOperationProgress,\n"
             "VIRTUAL_DISK_PROGRESS.");

PyDoc_STRVAR(overlapped_cancel_doc,
             "cancel($self, /)\n--\n\n"
             "Ask for the operation to be cancelled; does not wait for that.\n"
             "\n"
             "It then ends with winerror 995, or otherwise if it was too\n"
             "late.  Cancelling what is over already does nothing.\n"
             "\n"
             "Raises:\n"
             "    ValueError: No operation was started, or another thread is\n"
             "        starting it right now.\n"
             "    VirtualDiskError: The code of CancelIoEx, other than 1168.\n"
             "\n"
             "Source: CancelIoEx.");

static PyMethodDef overlapped_methods[] = {
    {"wait", (PyCFunction)(void (*)(void))overlapped_wait,
     METH_VARARGS | METH_KEYWORDS, overlapped_wait_doc},
    {"result", overlapped_result, METH_NOARGS, overlapped_result_doc},
    {"progress", overlapped_progress, METH_NOARGS, overlapped_progress_doc},
    {"cancel", overlapped_cancel, METH_NOARGS, overlapped_cancel_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef overlapped_getset[] = {
    {"pending", overlapped_get_pending, NULL,
     PyDoc_STR("Whether an operation was started and is not over."), NULL},
    {"event", overlapped_get_event, NULL,
     PyDoc_STR("The HANDLE of the event, as an int, signalled when the\n"
               "operation is over; only to be waited for."),
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot overlapped_slots[] = {
    {Py_tp_doc, (void *)overlapped_doc},
    {Py_tp_new, overlapped_new},
    {Py_tp_dealloc, overlapped_dealloc},
    {Py_tp_traverse, overlapped_traverse},
    {Py_tp_methods, overlapped_methods},
    {Py_tp_getset, overlapped_getset},
    {0, NULL},
};

static PyType_Spec overlapped_spec = {
    .name = "virtdisk._virtdisk.Overlapped",
    .basicsize = sizeof(OverlappedObject),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = overlapped_slots,
};

/* ------------------------------------------------------------------------
 * OpenVirtualDisk
 */

struct open_request {
    WCHAR *path; /* from malloc */
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
         convert_version(members->version, OPEN_VIRTUAL_DISK_VERSION_3,
                         &version) < 0) ||
        convert_dword(members->rw_depth, "rw_depth", &rw_depth) < 0 ||
        convert_guid(members->resiliency_guid, "resiliency_guid",
                     &resiliency) < 0 ||
        convert_guid(members->snapshot_id, "snapshot_id", &snapshot) < 0) {
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
    if (convert_dword(device_id, "device_id",
                      &request->storage_type.DeviceId) < 0 ||
        convert_guid(vendor_id, "vendor_id", &request->storage_type.VendorId) <
            0 ||
        convert_dword(access_mask, "access_mask", &request->access_mask) < 0 ||
        convert_dword(flags, "flags", &request->flags) < 0 ||
        fill_open_parameters(&request->parameters, &members) < 0) {
        return -1;
    }
    return convert_text(*path_out, "path", &request->path);
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
    struct module_state *state = module_state(module);
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
    if (raise_audit_event(
            state, Py_BuildValue("sOkk", "virtdisk.OpenVirtualDisk", path,
                                 (unsigned long)request.access_mask,
                                 (unsigned long)request.flags)) < 0) {
        goto done;
    }
    handle = new_handle(state, path);
    if (handle == NULL) {
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS
    code = call_open(&request, &value);
    Py_END_ALLOW_THREADS
    if (code != ERROR_SUCCESS) {
        raise_error(state, "OpenVirtualDisk", code, path);
        goto done;
    }
    handle->value = value;
    handle->closed = false;
    result = Py_NewRef((PyObject *)handle);
done:
    Py_XDECREF((PyObject *)handle);
    free(request.path);
    return result;
}

/* ------------------------------------------------------------------------
 * AttachVirtualDisk
 */

/* Parameters and descriptor come from malloc, not from the stack: with an
 * OVERLAPPED the system may read them after the call has returned, even if
 * this thread never runs again because the interpreter is being ended. */
struct attach_request {
    HandleObject *handle;         /* borrowed */
    OverlappedObject *overlapped; /* borrowed, or NULL */
    void *descriptor;             /* from malloc, or NULL */
    void *parameters;             /* from malloc, or NULL */
    DWORD flags;
    DWORD provider_specific_flags;
};

/* *out stays NULL for version None. */
static int
make_attach_parameters(PyObject *version_object, PyObject *offset_object,
                       PyObject *length_object, void **out)
{
    DWORD version = ATTACH_VIRTUAL_DISK_VERSION_1;
    ULONGLONG offset = 0, length = 0;
    if ((version_object != NULL &&
         convert_version(version_object, ATTACH_VIRTUAL_DISK_VERSION_2,
                         &version) < 0) ||
        convert_ulonglong(offset_object, "restricted_offset", &offset) < 0 ||
        convert_ulonglong(length_object, "restricted_length", &length) < 0) {
        return -1;
    }
    if (version == ATTACH_VIRTUAL_DISK_VERSION_UNSPECIFIED) {
        return 0;
    }
    ATTACH_VIRTUAL_DISK_PARAMETERS *parameters =
        calloc(1, sizeof(*parameters));
    if (parameters == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    parameters->Version = (ATTACH_VIRTUAL_DISK_VERSION)version;
    if (version == ATTACH_VIRTUAL_DISK_VERSION_2) {
        parameters->Version2.RestrictedOffset = offset;
        parameters->Version2.RestrictedLength = length;
    }
    *out = parameters;
    return 0;
}

/* Text is SDDL, bytes are a self-relative descriptor, None is NULL. */
static int
convert_descriptor(const struct attach_request *request,
                   struct module_state *state, PyObject *object, void **out)
{
    if (object == NULL || object == Py_None) {
        return 0;
    }
    if (PyObject_CheckBuffer(object)) {
        return convert_descriptor_bytes(object, out);
    }
    if (!PyUnicode_Check(object)) {
        return wrong_type(object, "security_descriptor",
                          "str, a bytes-like object or None");
    }
    WCHAR *text = NULL;
    if (convert_text(object, "security_descriptor", &text) < 0) {
        return -1;
    }
    DWORD code;
    /* Names of accounts may be looked up somewhere on the network. */
    Py_BEGIN_ALLOW_THREADS
    code = descriptor_from_sddl(text, out);
    Py_END_ALLOW_THREADS
    free(text);
    if (code != ERROR_SUCCESS) {
        raise_error(state,
                    "ConvertStringSecurityDescriptorToSecurityDescriptorW",
                    code, request->handle->path);
        return -1;
    }
    return 0;
}

static int
convert_overlapped(const struct module_state *state, PyObject *object,
                   OverlappedObject **out)
{
    if (object == NULL || object == Py_None) {
        return 0;
    }
    if (!PyObject_TypeCheck(object, state->overlapped_type)) {
        return wrong_type(object, "overlapped", "Overlapped or None");
    }
    *out = (OverlappedObject *)object;
    return 0;
}

/* Fills request, which is all zeros. */
static int
parse_attach(struct module_state *state, PyObject *args, PyObject *kwargs,
             struct attach_request *request)
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
    PyObject *handle = NULL, *descriptor = NULL, *flags = NULL;
    PyObject *provider = NULL, *version = NULL, *offset = NULL;
    PyObject *length = NULL, *overlapped = NULL;
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "O|$OOOOOOO:AttachVirtualDisk", keywords, &handle,
            &descriptor, &flags, &provider, &version, &offset, &length,
            &overlapped)) {
        return -1;
    }
    request->handle = as_handle(state, handle);
    if (request->handle == NULL ||
        convert_overlapped(state, overlapped, &request->overlapped) < 0 ||
        convert_dword(flags, "flags", &request->flags) < 0 ||
        convert_dword(provider, "provider_specific_flags",
                      &request->provider_specific_flags) < 0 ||
        make_attach_parameters(version, offset, length, &request->parameters) <
            0) {
        return -1;
    }
    return convert_descriptor(request, state, descriptor,
                              &request->descriptor);
}

/* Makes the call; false with an exception. */
static bool
call_attach(struct module_state *state, struct attach_request *request)
{
    OverlappedObject *overlapped = request->overlapped;
    OVERLAPPED *pointer = NULL;
    HANDLE value = NULL;
    DWORD code;
    if (handle_enter(request->handle, &value) < 0) {
        return false;
    }
    if (overlapped != NULL) {
        if (overlapped_begin(overlapped, request->handle,
                             "AttachVirtualDisk") < 0) {
            handle_leave(request->handle);
            return false;
        }
        pointer = &overlapped->operation->overlapped;
    }
    Py_BEGIN_ALLOW_THREADS
    code = AttachVirtualDisk(
        value, request->descriptor, (ATTACH_VIRTUAL_DISK_FLAG)request->flags,
        request->provider_specific_flags, request->parameters, pointer);
    Py_END_ALLOW_THREADS
    bool pending = overlapped != NULL && code == ERROR_IO_PENDING;
    if (overlapped != NULL) {
        overlapped_end(overlapped, code, request->handle, value,
                       &request->parameters, &request->descriptor);
    }
    if (pending) {
        return true;
    }
    handle_leave(request->handle);
    if (code != ERROR_SUCCESS) {
        raise_error(state, "AttachVirtualDisk", code, request->handle->path);
    }
    return code == ERROR_SUCCESS;
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
    struct module_state *state = module_state(module);
    struct attach_request request;
    PyObject *result = NULL;

    memset(&request, 0, sizeof(request));
    if (parse_attach(state, args, kwargs, &request) < 0 ||
        !may_call(state, "AttachVirtualDisk")) {
        goto done;
    }
    if (raise_audit_event(state,
                          Py_BuildValue("sOk", "virtdisk.AttachVirtualDisk",
                                        request.handle->path,
                                        (unsigned long)request.flags)) < 0) {
        goto done;
    }
    if (call_attach(state, &request)) {
        result = Py_NewRef(Py_None);
    }
done:
    free(request.parameters);
    free(request.descriptor);
    return result;
}

/* ------------------------------------------------------------------------
 * DetachVirtualDisk
 */

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
    struct module_state *state = module_state(module);
    PyObject *object = NULL, *flags_object = NULL, *provider_object = NULL;
    DWORD flags = 0, provider = 0, code;
    HANDLE value = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$OO:DetachVirtualDisk",
                                     keywords, &object, &flags_object,
                                     &provider_object)) {
        return NULL;
    }
    HandleObject *handle = as_handle(state, object);
    if (handle == NULL || convert_dword(flags_object, "flags", &flags) < 0 ||
        convert_dword(provider_object, "provider_specific_flags", &provider) <
            0 ||
        raise_audit_event(
            state, Py_BuildValue("sOk", "virtdisk.DetachVirtualDisk",
                                 handle->path, (unsigned long)flags)) < 0 ||
        handle_enter(handle, &value) < 0) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    code = DetachVirtualDisk(value, (DETACH_VIRTUAL_DISK_FLAG)flags, provider);
    Py_END_ALLOW_THREADS
    handle_leave(handle);
    if (code != ERROR_SUCCESS) {
        return raise_error(state, "DetachVirtualDisk", code, handle->path);
    }
    Py_RETURN_NONE;
}

/* ------------------------------------------------------------------------
 * Calls that fill a buffer
 *
 * They answer ERROR_INSUFFICIENT_BUFFER and the size needed.  That may change
 * until the next call (another image is attached meanwhile), so they are
 * repeated, with at least twice the size each time and a bound, lest a
 * system that always asks for more is asked for ever.
 */

#define QUERY_FIRST_SIZE 128u
#define QUERY_LAST_SIZE (16u * 1024 * 1024)

struct query {
    HANDLE handle;
    DWORD info_class;
    DWORD (*call)(const struct query *query, ULONG *size, void *buffer);
    void *buffer; /* from malloc: the answer, followed by two zero WCHARs */
    size_t size;  /* of the buffer in bytes, without those */
};

/* Makes the calls; needs no GIL. */
static DWORD
run_query(struct query *query)
{
    ULONG capacity = QUERY_FIRST_SIZE;
    for (;;) {
        ULONG size = capacity;
        void *buffer = calloc(1, (size_t)capacity + 2 * sizeof(WCHAR));
        if (buffer == NULL) {
            return ERROR_NOT_ENOUGH_MEMORY;
        }
        DWORD code = query->call(query, &size, buffer);
        if (code == ERROR_SUCCESS) {
            query->buffer = buffer;
            query->size = capacity;
            return code;
        }
        free(buffer);
        if (code != ERROR_INSUFFICIENT_BUFFER || capacity >= QUERY_LAST_SIZE) {
            return code;
        }
        capacity = size > 2 * capacity ? size : 2 * capacity;
        if (capacity > QUERY_LAST_SIZE) {
            capacity = QUERY_LAST_SIZE;
        }
    }
}

/* The text that starts offset bytes into the buffer. */
static const WCHAR *
query_text(const struct query *query, size_t offset, size_t *units_out)
{
    *units_out = (query->size - offset) / sizeof(WCHAR);
    return (const WCHAR *)((const char *)query->buffer + offset);
}

/* Runs a query on a disk and raises what it answers; the buffer is the
 * caller's to free, also then. */
static int
query_disk(struct module_state *state, HandleObject *handle,
           const char *function, struct query *query)
{
    DWORD code;
    if (!may_call(state, function) ||
        handle_enter(handle, &query->handle) < 0) {
        return -1;
    }
    Py_BEGIN_ALLOW_THREADS
    code = run_query(query);
    Py_END_ALLOW_THREADS
    handle_leave(handle);
    if (code != ERROR_SUCCESS) {
        raise_error(state, function, code, handle->path);
        return -1;
    }
    return 0;
}

/* ------------------------------------------------------------------------
 * GetVirtualDiskPhysicalPath, GetAllAttachedVirtualDiskPhysicalPaths
 */

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
    struct module_state *state = module_state(module);
    struct query query = {NULL, 0, call_physical_path, NULL, 0};
    PyObject *object = NULL, *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "O:GetVirtualDiskPhysicalPath", keywords, &object)) {
        return NULL;
    }
    HandleObject *handle = as_handle(state, object);
    if (handle != NULL &&
        query_disk(state, handle, "GetVirtualDiskPhysicalPath", &query) == 0) {
        size_t units;
        const WCHAR *text = query_text(&query, 0, &units);
        result = text_from_buffer(text, units);
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
    struct module_state *state = module_state(module);
    struct query query = {NULL, 0, call_all_paths, NULL, 0};
    PyObject *result = NULL;
    DWORD code;
    if (!may_call(state, function)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    code = run_query(&query);
    Py_END_ALLOW_THREADS
    if (code != ERROR_SUCCESS) {
        return raise_error(state, function, code, NULL);
    }
    size_t units;
    const WCHAR *text = query_text(&query, 0, &units);
    result = list_from_multi_sz(text, units);
    free(query.buffer);
    return result;
}

/* ------------------------------------------------------------------------
 * GetVirtualDiskInformation
 */

static DWORD
call_information(const struct query *query, ULONG *size, void *buffer)
{
    GET_VIRTUAL_DISK_INFO *info = buffer;
    info->Version = (GET_VIRTUAL_DISK_INFO_VERSION)query->info_class;
    return GetVirtualDiskInformation(query->handle, size, info, NULL);
}

static PyObject *
size_information(const GET_VIRTUAL_DISK_INFO *info)
{
    return Py_BuildValue("KKkk", (unsigned long long)info->Size.VirtualSize,
                         (unsigned long long)info->Size.PhysicalSize,
                         (unsigned long)info->Size.BlockSize,
                         (unsigned long)info->Size.SectorSize);
}

static PyObject *
parent_location(const struct query *query)
{
    const GET_VIRTUAL_DISK_INFO *info = query->buffer;
    size_t units;
    const WCHAR *text = query_text(
        query,
        offsetof(GET_VIRTUAL_DISK_INFO, ParentLocation.ParentLocationBuffer),
        &units);
    PyObject *paths;
    if (info->ParentLocation.ParentResolved) {
        /* Documented to be one string then, not a list of them. */
        paths = Py_BuildValue("[N]", text_from_buffer(text, units));
    }
    else {
        paths = list_from_multi_sz(text, units);
    }
    if (paths == NULL) {
        return NULL;
    }
    return Py_BuildValue(
        "NN", PyBool_FromLong(info->ParentLocation.ParentResolved), paths);
}

static PyObject *
storage_type_information(const GET_VIRTUAL_DISK_INFO *info)
{
    return Py_BuildValue("kN",
                         (unsigned long)info->VirtualStorageType.DeviceId,
                         bytes_from_guid(&info->VirtualStorageType.VendorId));
}

static PyObject *
physical_disk_information(const GET_VIRTUAL_DISK_INFO *info)
{
    return Py_BuildValue("kkN",
                         (unsigned long)info->PhysicalDisk.LogicalSectorSize,
                         (unsigned long)info->PhysicalDisk.PhysicalSectorSize,
                         PyBool_FromLong(info->PhysicalDisk.IsRemote));
}

static PyObject *
change_tracking(const struct query *query)
{
    const GET_VIRTUAL_DISK_INFO *info = query->buffer;
    size_t units;
    const WCHAR *text = query_text(
        query,
        offsetof(GET_VIRTUAL_DISK_INFO, ChangeTrackingState.MostRecentId),
        &units);
    return Py_BuildValue(
        "NNN", PyBool_FromLong(info->ChangeTrackingState.Enabled),
        PyBool_FromLong(info->ChangeTrackingState.NewerChanges),
        text_from_buffer(text, units));
}

static PyObject *
information_value(const struct query *query)
{
    const GET_VIRTUAL_DISK_INFO *info = query->buffer;
    switch (query->info_class) {
    case GET_VIRTUAL_DISK_INFO_SIZE:
        return size_information(info);
    case GET_VIRTUAL_DISK_INFO_IDENTIFIER:
        return bytes_from_guid(&info->Identifier);
    case GET_VIRTUAL_DISK_INFO_PARENT_LOCATION:
        return parent_location(query);
    case GET_VIRTUAL_DISK_INFO_PARENT_IDENTIFIER:
        return bytes_from_guid(&info->ParentIdentifier);
    case GET_VIRTUAL_DISK_INFO_PARENT_TIMESTAMP:
        return PyLong_FromUnsignedLong(info->ParentTimestamp);
    case GET_VIRTUAL_DISK_INFO_VIRTUAL_STORAGE_TYPE:
        return storage_type_information(info);
    case GET_VIRTUAL_DISK_INFO_PROVIDER_SUBTYPE:
        return PyLong_FromUnsignedLong(info->ProviderSubtype);
    case GET_VIRTUAL_DISK_INFO_IS_4K_ALIGNED:
        return PyBool_FromLong(info->Is4kAligned);
    case GET_VIRTUAL_DISK_INFO_PHYSICAL_DISK:
        return physical_disk_information(info);
    case GET_VIRTUAL_DISK_INFO_VHD_PHYSICAL_SECTOR_SIZE:
        return PyLong_FromUnsignedLong(info->VhdPhysicalSectorSize);
    case GET_VIRTUAL_DISK_INFO_SMALLEST_SAFE_VIRTUAL_SIZE:
        return PyLong_FromUnsignedLongLong(info->SmallestSafeVirtualSize);
    case GET_VIRTUAL_DISK_INFO_FRAGMENTATION:
        return PyLong_FromUnsignedLong(info->FragmentationPercentage);
    case GET_VIRTUAL_DISK_INFO_IS_LOADED:
        return PyBool_FromLong(info->IsLoaded);
    case GET_VIRTUAL_DISK_INFO_VIRTUAL_DISK_ID:
        return bytes_from_guid(&info->VirtualDiskId);
    case GET_VIRTUAL_DISK_INFO_CHANGE_TRACKING_STATE:
        return change_tracking(query);
    default:
        return PyErr_Format(PyExc_ValueError,
                            "version %lu of GET_VIRTUAL_DISK_INFO is not "
                            "known here, although the system knows it",
                            (unsigned long)query->info_class);
    }
}

PyDoc_STRVAR(
    information_doc,
    "GetVirtualDiskInformation($module, /, handle, version)\n--\n\n"
    "Return one kind of information about a virtual disk.\n"
    "\n"
    "Args:\n"
    "    handle: A Handle of OpenVirtualDisk.\n"
    "    version: Which information, GET_VIRTUAL_DISK_INFO_*.\n"
    "\n"
    "Returns:\n"
    "    SIZE: virtual, physical, block and sector size in bytes.\n"
    "    IDENTIFIER, PARENT_IDENTIFIER, VIRTUAL_DISK_ID: the 16 bytes of a\n"
    "    GUID, as in uuid.UUID.bytes_le.\n"
    "    PARENT_LOCATION: whether the parent was found, and its path or all\n"
    "    that were tried, as a list.\n"
    "    PARENT_TIMESTAMP: seconds since the start of the year 2000, UTC.\n"
    "    VIRTUAL_STORAGE_TYPE: device id, and vendor id as 16 bytes.\n"
    "    PROVIDER_SUBTYPE: 2 fixed, 3 dynamic, 4 differencing.\n"
    "    IS_4K_ALIGNED, IS_LOADED: bool.\n"
    "    PHYSICAL_DISK: logical and physical sector size in bytes of the\n"
    "    disk under the image, and whether that is remote.\n"
    "    VHD_PHYSICAL_SECTOR_SIZE, SMALLEST_SAFE_VIRTUAL_SIZE: bytes.\n"
    "    FRAGMENTATION: percent.\n"
    "    CHANGE_TRACKING_STATE: whether it is enabled, whether there are\n"
    "    newer changes, and the most recent id.\n"
    "\n"
    "Raises:\n"
    "    TypeError, ValueError, OverflowError: An argument does not fit or\n"
    "        the handle is closed.\n"
    "    VirtualDiskError: The code of the function, for example winerror 5\n"
    "        (no rights), 87 (no such information) or 0xC03A001B (not for\n"
    "        a disk of this type).\n"
    "\n"
    "Source: GetVirtualDiskInformation, GET_VIRTUAL_DISK_INFO.");

static PyObject *
get_information(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"handle", "version", NULL};
    struct module_state *state = module_state(module);
    struct query query = {NULL, 0, call_information, NULL, 0};
    PyObject *object = NULL, *version = NULL, *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs,
                                     "OO:GetVirtualDiskInformation", keywords,
                                     &object, &version)) {
        return NULL;
    }
    HandleObject *handle = as_handle(state, object);
    if (handle != NULL &&
        convert_dword(version, "version", &query.info_class) == 0 &&
        query_disk(state, handle, "GetVirtualDiskInformation", &query) == 0) {
        result = information_value(&query);
    }
    free(query.buffer);
    return result;
}

/* ------------------------------------------------------------------------
 * AddVirtualDiskParent
 */

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
    struct module_state *state = module_state(module);
    PyObject *object = NULL, *path = NULL, *result = NULL;
    WCHAR *text = NULL;
    HANDLE value = NULL;
    DWORD code;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:AddVirtualDiskParent",
                                     keywords, &object, &path)) {
        return NULL;
    }
    HandleObject *handle = as_handle(state, object);
    if (handle == NULL || convert_text(path, "path", &text) < 0) {
        return NULL;
    }
    if (!may_call(state, "AddVirtualDiskParent") ||
        raise_audit_event(state,
                          Py_BuildValue("sOO", "virtdisk.AddVirtualDiskParent",
                                        handle->path, path)) < 0 ||
        handle_enter(handle, &value) < 0) {
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS
    code = AddVirtualDiskParent(value, text);
    Py_END_ALLOW_THREADS
    handle_leave(handle);
    if (code != ERROR_SUCCESS) {
        raise_error(state, "AddVirtualDiskParent", code, path);
        goto done;
    }
    result = Py_NewRef(Py_None);
done:
    free(text);
    return result;
}

/* ------------------------------------------------------------------------
 * RawSCSIVirtualDisk
 */

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

/* Its length is checked against what the member for it can hold. */
static int
convert_buffer(PyObject *object, const char *name, int flags, size_t limit,
               Py_buffer *out)
{
    if (!PyObject_CheckBuffer(object)) {
        return wrong_type(object, name, "a bytes-like object");
    }
    if (PyObject_GetBuffer(object, out, flags) < 0) {
        return -1;
    }
    if ((size_t)out->len > limit) {
        PyErr_Format(PyExc_ValueError, "%s must have at most %zu bytes", name,
                     limit);
        return -1;
    }
    return 0;
}

static int
convert_cdb(struct scsi_request *request, PyObject *object)
{
    Py_buffer view = {.obj = NULL};
    int result = convert_buffer(object, "cdb", PyBUF_SIMPLE, UINT8_MAX, &view);
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
        return convert_buffer(data_in, "data_in", PyBUF_WRITABLE, UINT32_MAX,
                              &request->data);
    }
    if (data_out != Py_None) {
        return convert_buffer(data_out, "data_out", PyBUF_SIMPLE, UINT32_MAX,
                              &request->data);
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
    if (convert_unsigned(object, "sense_length", UINT8_MAX, &value) < 0) {
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
    request->handle = as_handle(state, handle);
    if (request->handle == NULL ||
        convert_sense_length(sense_length, &request->sense_length) < 0 ||
        convert_dword(srb_flags, "srb_flags", &request->srb_flags) < 0 ||
        convert_dword(flags, "flags", &request->flags) < 0) {
        return -1;
    }
    if (version_object != NULL &&
        (convert_version(version_object, RAW_SCSI_VIRTUAL_DISK_VERSION_1,
                         &version) < 0)) {
        return -1;
    }
    if (version == RAW_SCSI_VIRTUAL_DISK_VERSION_UNSPECIFIED) {
        PyErr_SetString(PyExc_ValueError, "version must be 1, not None");
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
    struct module_state *state = module_state(module);
    struct scsi_request request;
    PyObject *result = NULL;
    HANDLE value = NULL;
    DWORD code;

    if (state->raw_scsi == NULL) {
        return PyErr_Format(PyExc_NotImplementedError,
                            "%s needs Windows 10 or Windows Server 2016",
                            function);
    }
    memset(&request, 0, sizeof(request));
    if (parse_scsi(state, args, kwargs, &request) < 0) {
        goto done;
    }
    if (raise_audit_event(state,
                          Py_BuildValue("sOy#", "virtdisk.RawSCSIVirtualDisk",
                                        request.handle->path,
                                        (const char *)request.cdb,
                                        (Py_ssize_t)request.cdb_length)) < 0 ||
        handle_enter(request.handle, &value) < 0) {
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS
    code = call_scsi(state->raw_scsi, &request, value);
    Py_END_ALLOW_THREADS
    handle_leave(request.handle);
    if (code != ERROR_SUCCESS) {
        raise_error(state, function, code, request.handle->path);
        goto done;
    }
    result = scsi_result(&request);
done:
    PyBuffer_Release(&request.data);
    return result;
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
 * Module
 */

static PyMethodDef module_methods[] = {
    {"OpenVirtualDisk", (PyCFunction)(void (*)(void))open_virtual_disk,
     METH_VARARGS | METH_KEYWORDS, open_doc},
    {"AttachVirtualDisk", (PyCFunction)(void (*)(void))attach_virtual_disk,
     METH_VARARGS | METH_KEYWORDS, attach_doc},
    {"DetachVirtualDisk", (PyCFunction)(void (*)(void))detach_virtual_disk,
     METH_VARARGS | METH_KEYWORDS, detach_doc},
    {"GetVirtualDiskPhysicalPath",
     (PyCFunction)(void (*)(void))get_physical_path,
     METH_VARARGS | METH_KEYWORDS, physical_path_doc},
    {"GetAllAttachedVirtualDiskPhysicalPaths", get_all_paths, METH_NOARGS,
     all_paths_doc},
    {"GetVirtualDiskInformation", (PyCFunction)(void (*)(void))get_information,
     METH_VARARGS | METH_KEYWORDS, information_doc},
    {"AddVirtualDiskParent", (PyCFunction)(void (*)(void))add_parent,
     METH_VARARGS | METH_KEYWORDS, add_parent_doc},
    {"RawSCSIVirtualDisk", (PyCFunction)(void (*)(void))raw_scsi,
     METH_VARARGS | METH_KEYWORDS, raw_scsi_doc},
    {NULL, NULL, 0, NULL},
};

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

/* Looked up in the DLL that the module is linked with, so that the module
 * can be loaded where it is missing. */
static raw_scsi_function
find_raw_scsi(void)
{
#ifdef _WIN32
    HMODULE virtdisk = GetModuleHandleW(L"virtdisk.dll");
    if (virtdisk == NULL) {
        return NULL;
    }
    return (raw_scsi_function)(void (*)(void))GetProcAddress(
        virtdisk, "RawSCSIVirtualDisk");
#else
    return RawSCSIVirtualDisk;
#endif
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

/* A new reference to a type made from spec and added to the module. */
static PyTypeObject *
add_type(PyObject *module, PyType_Spec *spec)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    if (type != NULL && PyModule_AddType(module, (PyTypeObject *)type) < 0) {
        Py_CLEAR(type);
    }
    return (PyTypeObject *)type;
}

static int
module_exec(PyObject *module)
{
    struct module_state *state = module_state(module);
    state->wine_stubs = has_wine_stubs();
    state->raw_scsi = find_raw_scsi();
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
    state->handle_type = add_type(module, &handle_spec);
    if (state->handle_type == NULL) {
        return -1;
    }
    state->overlapped_type = add_type(module, &overlapped_spec);
    if (state->overlapped_type == NULL) {
        return -1;
    }
    return add_constants(module);
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    struct module_state *state = module_state(module);
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
    struct module_state *state = module_state(module);
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
        .m_methods = module_methods,                                          \
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
