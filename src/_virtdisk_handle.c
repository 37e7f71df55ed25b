/*
 * Handle: a HANDLE that is never closed under a running call.
 */
#include "_virtdisk.h"

HandleObject *
virtdisk_handle_new(struct module_state *state, PyObject *path)
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

void
virtdisk_handle_own(HandleObject *self, HANDLE value)
{
    PyThread_acquire_lock(self->lock, WAIT_LOCK);
    self->value = value;
    self->closed = false;
    PyThread_release_lock(self->lock);
}

HandleObject *
virtdisk_as_handle(const struct module_state *state, PyObject *object)
{
    if (!PyObject_TypeCheck(object, state->handle_type)) {
        virtdisk_wrong_type(object, "handle", "Handle");
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

int
virtdisk_handle_enter(HandleObject *self, HANDLE *out)
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

void
virtdisk_handle_leave(HandleObject *self)
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
        return virtdisk_raise_error(virtdisk_object_state(op), "CloseHandle",
                                    code, self->path);
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
    if (virtdisk_handle_enter(self, &value) < 0) {
        return NULL;
    }
    virtdisk_handle_leave(self);
    return virtdisk_int_from_pointer(value);
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
             "A HANDLE to a virtual disk, made by OpenVirtualDisk or\n"
             "CreateVirtualDisk.\n"
             "\n"
             "It is closed by close(), at the end of a with block, or when\n"
             "the object is dropped.  The last handle of a disk that is not\n"
             "attached for good detaches it.  If another thread is inside a\n"
             "call with the handle, or an Overlapped is pending on it, it\n"
             "is closed when that is over; new calls raise ValueError.\n"
             "\n"
             "Source: the Handle of OpenVirtualDisk and CreateVirtualDisk,\n"
             "CloseHandle.");

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
     PyDoc_STR("The path of the image, as it was given."), NULL},
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

int
virtdisk_add_handle(PyObject *module)
{
    struct module_state *state = virtdisk_module_state(module);
    state->handle_type = virtdisk_add_type(module, &handle_spec);
    return state->handle_type != NULL ? 0 : -1;
}
