/*
 * The security descriptor that a call is given: SDDL text or the bytes of a
 * self-relative descriptor, checked and copied.
 */
#include "_virtdisk.h"

#include "_virtdisk_descriptor.h"

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

static int
convert_sddl(struct module_state *state, PyObject *object, PyObject *path,
             PSECURITY_DESCRIPTOR *out)
{
    struct memory memory = {{NULL}};
    PCWSTR text = NULL;
    DWORD code;
    if (virtdisk_convert_text(object, "security_descriptor", &memory, &text) <
        0) {
        return -1;
    }
    /* Names of accounts may be looked up somewhere on the network. */
    Py_BEGIN_ALLOW_THREADS
    code = descriptor_from_sddl(text, out);
    Py_END_ALLOW_THREADS
    virtdisk_memory_free(&memory);
    if (code != ERROR_SUCCESS) {
        virtdisk_raise_error(
            state, "ConvertStringSecurityDescriptorToSecurityDescriptorW",
            code, path);
        return -1;
    }
    return 0;
}

int
virtdisk_convert_descriptor(struct module_state *state, PyObject *object,
                            PyObject *path, struct memory *memory,
                            PSECURITY_DESCRIPTOR *out)
{
    int result;
    if (object == NULL || object == Py_None) {
        return 0;
    }
    if (PyObject_CheckBuffer(object)) {
        result = convert_descriptor_bytes(object, out);
    }
    else if (PyUnicode_Check(object)) {
        result = convert_sddl(state, object, path, out);
    }
    else {
        result = virtdisk_wrong_type(object, "security_descriptor",
                                     "str, a bytes-like object or None");
    }
    if (result == 0) {
        virtdisk_memory_keep(memory, *out);
    }
    return result;
}
