/*
 * Overlapped: an OVERLAPPED that outlives the call it is for.
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
#include "_virtdisk.h"

enum stage {
    STAGE_IDLE,
    STAGE_STARTING,
    STAGE_PENDING,
    STAGE_DONE,
};

struct operation {
    OVERLAPPED overlapped;
    HANDLE handle;        /* the disk's, while the operation holds it */
    struct memory memory; /* of the call, until the operation is done */
};

struct overlapped_object {
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
    ULONGLONG current;    /* the greatest fraction that progress() was told */
    ULONGLONG completion; /* 0: none yet */
};

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
        virtdisk_memory_free(&self->operation->memory);
        done = self->handle;
        self->handle = NULL;
    }
    PyThread_release_lock(self->lock);
    if (done != NULL) {
        virtdisk_handle_leave(done);
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

/* Whether a new operation may begin.  With the lock held. */
static bool
overlapped_is_free(const OverlappedObject *self)
{
    return (self->stage == STAGE_IDLE || self->stage == STAGE_DONE) &&
           self->users == 0;
}

/* Gives back the path of the operation before.  With the lock held. */
static PyObject *
overlapped_reset(OverlappedObject *self, PyObject *path, const char *function)
{
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
    PyObject *old_path = self->path;
    self->path = Py_NewRef(path);
    return old_path;
}

int
virtdisk_overlapped_begin(OverlappedObject *self, PyObject *path,
                          const char *function, OVERLAPPED **out)
{
    PyObject *old_path = NULL;
    overlapped_settle(self, 0);
    PyThread_acquire_lock(self->lock, WAIT_LOCK);
    bool free_to_use = overlapped_is_free(self);
    if (free_to_use) {
        old_path = overlapped_reset(self, path, function);
    }
    PyThread_release_lock(self->lock);
    Py_XDECREF(old_path);
    if (!free_to_use) {
        PyErr_SetString(PyExc_ValueError,
                        "the Overlapped is in use by another operation");
        return -1;
    }
    *out = &self->operation->overlapped;
    return 0;
}

void
virtdisk_overlapped_end(OverlappedObject *self, DWORD code,
                        HandleObject *handle, HANDLE value,
                        struct memory *memory)
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
        operation->memory = *memory;
        memset(memory, 0, sizeof(*memory));
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

void
virtdisk_overlapped_leave(OverlappedObject *self)
{
    overlapped_settle(self, 1);
}

static void
set_being_started(void)
{
    PyErr_SetString(PyExc_ValueError,
                    "the operation is being started by another thread");
}

int
virtdisk_overlapped_borrow(OverlappedObject *self, OVERLAPPED **out)
{
    PyThread_acquire_lock(self->lock, WAIT_LOCK);
    enum stage stage = self->stage;
    if (stage == STAGE_PENDING || stage == STAGE_DONE) {
        self->users++;
    }
    PyThread_release_lock(self->lock);
    if (stage == STAGE_IDLE) {
        set_never_started();
        return -1;
    }
    if (stage == STAGE_STARTING) {
        set_being_started();
        return -1;
    }
    *out = &self->operation->overlapped;
    return 0;
}

int
virtdisk_convert_overlapped(const struct module_state *state, PyObject *object,
                            OverlappedObject **out)
{
    if (object == NULL || object == Py_None) {
        return 0;
    }
    if (!PyObject_TypeCheck(object, state->overlapped_type)) {
        return virtdisk_wrong_type(object, "overlapped", "Overlapped or None");
    }
    *out = (OverlappedObject *)object;
    return 0;
}

OverlappedObject *
virtdisk_as_overlapped(const struct module_state *state, PyObject *object)
{
    if (!PyObject_TypeCheck(object, state->overlapped_type)) {
        virtdisk_wrong_type(object, "overlapped", "Overlapped");
        return NULL;
    }
    return (OverlappedObject *)object;
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
    virtdisk_raise_error(virtdisk_object_state((PyObject *)self), function,
                         code, path);
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
    return virtdisk_int_from_pointer(self->operation->overlapped.hEvent);
}

#ifndef _WIN32
static PyObject *
overlapped_fileno(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    OverlappedObject *self = (OverlappedObject *)op;
    int descriptor = GetEventDescriptor(self->operation->overlapped.hEvent);
    if (descriptor < 0) {
        return overlapped_raise(self, "GetEventDescriptor", GetLastError());
    }
    return PyLong_FromLong(descriptor);
}

PyDoc_STRVAR(overlapped_fileno_doc,
             "fileno($self, /)\n--\n\n"
             "Return the descriptor of the event, for select, poll and event\n"
             "loops: it is readable when the operation is over.\n"
             "\n"
             "It is only to be waited for, never to be read or closed, and\n"
             "no longer than the Overlapped lives.  Only on Linux.\n"
             "\n"
             "Raises:\n"
             "    VirtualDiskError: The code of GetEventDescriptor.\n"
             "\n"
             "Source: GetEventDescriptor of the engine's windows.h.");
#endif

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
    struct module_state *state = virtdisk_object_state((PyObject *)self);
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
        double start = now(virtdisk_object_state(op));
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

/* Whether current / completion is less than other / other_completion; neither
 * completion is 0.  Exact: as fractions are compared by hand, whole parts
 * first, then the reciprocals of what is left. */
static bool
is_less(ULONGLONG current, ULONGLONG completion, ULONGLONG other,
        ULONGLONG other_completion)
{
    while (current / completion == other / other_completion) {
        ULONGLONG rest = current % completion;
        ULONGLONG other_rest = other % other_completion;
        if (rest == 0 || other_rest == 0) {
            return rest == 0 && other_rest != 0;
        }
        current = other_completion;
        other_completion = rest;
        other = completion;
        completion = other_rest;
    }
    return current / completion < other / other_completion;
}

/* Takes notice of what the system said, unless that would be a step back. */
static void
overlapped_advance(OverlappedObject *self,
                   const VIRTUAL_DISK_PROGRESS *progress)
{
    PyThread_acquire_lock(self->lock, WAIT_LOCK);
    if (progress->CompletionValue != 0 &&
        (self->completion == 0 ||
         !is_less(progress->CurrentValue, progress->CompletionValue,
                  self->current, self->completion))) {
        self->current = progress->CurrentValue;
        self->completion = progress->CompletionValue;
    }
    PyThread_release_lock(self->lock);
}

static PyObject *
known_progress(OverlappedObject *self, DWORD status)
{
    PyThread_acquire_lock(self->lock, WAIT_LOCK);
    unsigned long long current = self->current;
    unsigned long long completion = self->completion;
    if (self->stage == STAGE_DONE) {
        status = self->code;
    }
    PyThread_release_lock(self->lock);
    return Py_BuildValue("kKK", (unsigned long)status, current, completion);
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
        return known_progress(self, ERROR_IO_PENDING);
    }
    DWORD code;
    VIRTUAL_DISK_PROGRESS progress;
    memset(&progress, 0, sizeof(progress));
    Py_BEGIN_ALLOW_THREADS
    code = GetVirtualDiskOperationProgress(
        self->operation->handle, &self->operation->overlapped, &progress);
    Py_END_ALLOW_THREADS
    if (code == ERROR_SUCCESS) {
        overlapped_advance(self, &progress);
    }
    /* A system may have forgotten an operation that is over. */
    stage = overlapped_settle(self, 1);
    if (code != ERROR_SUCCESS && stage != STAGE_DONE) {
        return overlapped_raise(self, function, code);
    }
    return known_progress(self, progress.OperationStatus);
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
        set_being_started();
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
    virtdisk_overlapped_leave(self);
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
    virtdisk_memory_free(&operation->memory);
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
            virtdisk_handle_leave(self->handle);
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
        virtdisk_raise_error(virtdisk_object_state(op), "CreateEventW", code,
                             NULL);
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
             "    have no unit.  The fraction that they are never decreases;\n"
             "    both are 0 until the system has told one.  After the end\n"
             "    they are those told last.\n"
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
#ifndef _WIN32
    {"fileno", overlapped_fileno, METH_NOARGS, overlapped_fileno_doc},
#endif
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

int
virtdisk_add_overlapped(PyObject *module)
{
    struct module_state *state = virtdisk_module_state(module);
    state->overlapped_type = virtdisk_add_type(module, &overlapped_spec);
    return state->overlapped_type != NULL ? 0 : -1;
}
