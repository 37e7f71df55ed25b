/*
 * The one way from a Win32 code to an exception, the refusals where a
 * function is missing, and audit events.
 */
#include "_virtdisk.h"

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
        return virtdisk_text_from_utf16(text, units);
    }
#else
    (void)code;
#endif
    Py_RETURN_NONE;
}

PyObject *
virtdisk_raise_error(struct module_state *state, const char *function,
                     DWORD code, PyObject *path)
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

bool
virtdisk_may_call(const struct module_state *state, const char *function)
{
    if (state->wine_stubs) {
        PyErr_Format(PyExc_NotImplementedError,
                     "Wine's virtdisk.dll does not implement %s", function);
        return false;
    }
    return true;
}

bool
virtdisk_is_there(bool there, const char *function, const char *windows)
{
    if (!there) {
        PyErr_Format(PyExc_NotImplementedError, "%s needs %s", function,
                     windows);
    }
    return there;
}

int
virtdisk_audit(const struct module_state *state, PyObject *arguments)
{
    if (arguments == NULL) {
        return -1;
    }
    PyObject *done = PyObject_CallObject(state->audit, arguments);
    Py_DECREF(arguments);
    Py_XDECREF(done);
    return done != NULL ? 0 : -1;
}
