/*
 * From Python objects to what the API takes, and back.
 *
 * Everything that a call needs is copied out of the objects before it: they
 * may change while it runs.
 */
#include "_virtdisk.h"

int
virtdisk_wrong_type(PyObject *object, const char *name, const char *expected)
{
    PyObject *type = PyType_GetName(Py_TYPE(object));
    if (type != NULL) {
        PyErr_Format(PyExc_TypeError, "%s must be %s, not %U", name, expected,
                     type);
        Py_DECREF(type);
    }
    return -1;
}

int
virtdisk_convert_unsigned(PyObject *object, const char *name,
                          unsigned long long limit, unsigned long long *out)
{
    if (!PyIndex_Check(object)) {
        return virtdisk_wrong_type(object, name, "int");
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

int
virtdisk_convert_dword(PyObject *object, const char *name, DWORD *out)
{
    unsigned long long value = 0;
    if (object == NULL) {
        return 0; /* not given: the default stays */
    }
    if (virtdisk_convert_unsigned(object, name, UINT32_MAX, &value) < 0) {
        return -1;
    }
    *out = (DWORD)value;
    return 0;
}

int
virtdisk_convert_ulonglong(PyObject *object, const char *name, ULONGLONG *out)
{
    unsigned long long value = 0;
    if (object == NULL) {
        return 0;
    }
    if (virtdisk_convert_unsigned(object, name, UINT64_MAX, &value) < 0) {
        return -1;
    }
    *out = value;
    return 0;
}

static int
version_out_of_range(DWORD newest, const char *none, PyObject *object)
{
    if (newest == 1) {
        PyErr_Format(PyExc_ValueError, "version must be %s1, not %S", none,
                     object);
    }
    else {
        PyErr_Format(PyExc_ValueError,
                     "version must be %sfrom 1 to %lu, not %S", none,
                     (unsigned long)newest, object);
    }
    return -1;
}

static int
convert_version(PyObject *object, DWORD newest, const char *none, DWORD *out)
{
    if (virtdisk_convert_dword(object, "version", out) < 0) {
        return -1;
    }
    if (*out < 1 || *out > newest) {
        return version_out_of_range(newest, none, object);
    }
    return 0;
}

int
virtdisk_convert_version(PyObject *object, DWORD newest, DWORD *out)
{
    if (object == Py_None) {
        return version_out_of_range(newest, "", object);
    }
    return object == NULL ? 0 : convert_version(object, newest, "", out);
}

int
virtdisk_convert_optional_version(PyObject *object, DWORD newest, DWORD *out)
{
    if (object == Py_None) {
        *out = 0;
        return 0;
    }
    return object == NULL ? 0
                          : convert_version(object, newest, "None or ", out);
}

static int
convert_guid(PyObject *object, const char *name, const char *expected,
             GUID *out)
{
    if (!PyObject_CheckBuffer(object)) {
        return virtdisk_wrong_type(object, name, expected);
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

int
virtdisk_convert_guid(PyObject *object, const char *name, GUID *out)
{
    return convert_guid(object, name, "a bytes-like object", out);
}

int
virtdisk_convert_optional_guid(PyObject *object, const char *name, GUID *out)
{
    if (object == NULL || object == Py_None) {
        return 0;
    }
    return convert_guid(object, name, "a bytes-like object or None", out);
}

/* From malloc. */
static int
encode_text(PyObject *object, const char *name, WCHAR **out)
{
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

static int
keep_text(PyObject *object, const char *name, struct memory *memory,
          PCWSTR *out)
{
    WCHAR *text = NULL;
    if (encode_text(object, name, &text) < 0) {
        return -1;
    }
    virtdisk_memory_keep(memory, text);
    *out = text;
    return 0;
}

int
virtdisk_convert_text(PyObject *object, const char *name,
                      struct memory *memory, PCWSTR *out)
{
    if (!PyUnicode_Check(object)) {
        return virtdisk_wrong_type(object, name, "str");
    }
    return keep_text(object, name, memory, out);
}

int
virtdisk_convert_optional_text(PyObject *object, const char *name,
                               struct memory *memory, PCWSTR *out)
{
    if (object == NULL || object == Py_None) {
        return 0;
    }
    if (!PyUnicode_Check(object)) {
        return virtdisk_wrong_type(object, name, "str or None");
    }
    return keep_text(object, name, memory, out);
}

int
virtdisk_require(PyObject *object, const char *name, DWORD version)
{
    if (object == NULL || object == Py_None) {
        PyErr_Format(PyExc_TypeError, "version %lu needs %s",
                     (unsigned long)version, name);
        return -1;
    }
    return 0;
}

int
virtdisk_convert_buffer(PyObject *object, const char *name, int flags,
                        size_t limit, Py_buffer *out)
{
    if (!PyObject_CheckBuffer(object)) {
        return virtdisk_wrong_type(object, name, "a bytes-like object");
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

/* ------------------------------------------------------------------------
 * Out
 */

PyObject *
virtdisk_text_from_utf16(const WCHAR *text, size_t units)
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

PyObject *
virtdisk_text_from_buffer(const WCHAR *text, size_t limit)
{
    return virtdisk_text_from_utf16(text, length_utf16(text, limit));
}

PyObject *
virtdisk_list_from_multi_sz(const WCHAR *text, size_t limit)
{
    PyObject *list = PyList_New(0);
    while (list != NULL) {
        size_t units = length_utf16(text, limit);
        if (units == 0) {
            break;
        }
        PyObject *item = virtdisk_text_from_utf16(text, units);
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

PyObject *
virtdisk_bytes_from_guid(const GUID *guid)
{
    return PyBytes_FromStringAndSize((const char *)guid, sizeof(*guid));
}

PyObject *
virtdisk_int_from_pointer(const void *pointer)
{
    return PyLong_FromVoidPtr((void *)(uintptr_t)pointer);
}
