/*
 * What the files of the binding share.  Private to it.
 *
 * Every function that is given no struct module_state needs the GIL only as
 * far as it takes or makes Python objects.  What returns int answers -1, what
 * returns a pointer NULL, with an exception set.
 */
#ifndef VIRTDISK_BINDING_H
#define VIRTDISK_BINDING_H

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

/* ------------------------------------------------------------------------
 * Module state
 */

/* What came with Windows 10 is looked up in the DLL that the module is
 * linked with, so that the module can be loaded where it is missing. */
typedef DWORD(WINAPI *query_changes_function)(
    HANDLE, PCWSTR, ULONG64, ULONG64, QUERY_CHANGES_VIRTUAL_DISK_FLAG,
    PQUERY_CHANGES_VIRTUAL_DISK_RANGE, PULONG, PULONG64);
typedef DWORD(WINAPI *take_snapshot_function)(
    HANDLE, const PTAKE_SNAPSHOT_VHDSET_PARAMETERS, TAKE_SNAPSHOT_VHDSET_FLAG);
typedef DWORD(WINAPI *delete_snapshot_function)(
    HANDLE, const PDELETE_SNAPSHOT_VHDSET_PARAMETERS,
    DELETE_SNAPSHOT_VHDSET_FLAG);
typedef DWORD(WINAPI *modify_set_function)(HANDLE,
                                           const PMODIFY_VHDSET_PARAMETERS,
                                           MODIFY_VHDSET_FLAG);
typedef DWORD(WINAPI *apply_snapshot_function)(
    HANDLE, const PAPPLY_SNAPSHOT_VHDSET_PARAMETERS,
    APPLY_SNAPSHOT_VHDSET_FLAG);
typedef DWORD(WINAPI *raw_scsi_function)(
    HANDLE, const PRAW_SCSI_VIRTUAL_DISK_PARAMETERS,
    RAW_SCSI_VIRTUAL_DISK_FLAG, PRAW_SCSI_VIRTUAL_DISK_RESPONSE);
typedef DWORD(WINAPI *fork_function)(HANDLE, FORK_VIRTUAL_DISK_FLAG,
                                     const FORK_VIRTUAL_DISK_PARAMETERS *,
                                     LPOVERLAPPED);
typedef DWORD(WINAPI *complete_fork_function)(HANDLE);

/* NULL where the system lacks it. */
struct newer_functions {
    query_changes_function query_changes;
    take_snapshot_function take_snapshot;
    delete_snapshot_function delete_snapshot;
    modify_set_function modify_set;
    apply_snapshot_function apply_snapshot;
    raw_scsi_function raw_scsi;
    fork_function fork;
    complete_fork_function complete_fork;
};

struct module_state {
    PyTypeObject *handle_type;
    PyTypeObject *overlapped_type;
    PyObject *error_from_code; /* virtdisk._errors.error_from_code */
    PyObject *audit;           /* sys.audit, as it was at import */
    PyObject *monotonic;       /* time.monotonic */
    bool wine_stubs;           /* virtdisk.dll is the one of Wine */
    struct newer_functions newer;
};

struct module_state *virtdisk_module_state(PyObject *module);

/* No type of this module can be subclassed, so an object's type is the one
 * that knows the module. */
struct module_state *virtdisk_object_state(PyObject *self);

/* Each family of functions and each type adds itself to the module. */
int virtdisk_add_handle(PyObject *module);
int virtdisk_add_overlapped(PyObject *module);
int virtdisk_add_open(PyObject *module);
int virtdisk_add_create(PyObject *module);
int virtdisk_add_attach(PyObject *module);
int virtdisk_add_paths(PyObject *module);
int virtdisk_add_dependency(PyObject *module);
int virtdisk_add_information(PyObject *module);
int virtdisk_add_metadata(PyObject *module);
int virtdisk_add_operations(PyObject *module);
int virtdisk_add_mirror(PyObject *module);
int virtdisk_add_vhd_set(PyObject *module);
int virtdisk_add_scsi(PyObject *module);

/* A new reference to a type made from spec and added to the module. */
PyTypeObject *virtdisk_add_type(PyObject *module, PyType_Spec *spec);

/* What a PyMethodDef needs for a function that takes keywords. */
#define WITH_KEYWORDS(function)                                               \
    (PyCFunction)(void (*)(void))(function), METH_VARARGS | METH_KEYWORDS

/* ------------------------------------------------------------------------
 * Memory of a call
 *
 * What a call with an OVERLAPPED is given beyond numbers comes from malloc,
 * never from the stack: the system may read it after the call has returned,
 * even if this thread never runs again because the interpreter is being
 * ended.
 */

#define MEMORY_BLOCKS 6

struct memory {
    void *blocks[MEMORY_BLOCKS]; /* from malloc; NULL: free to use */
};

/* A block of zeros. */
void *virtdisk_memory_new(struct memory *memory, size_t size);

/* Takes over a block from malloc. */
void virtdisk_memory_keep(struct memory *memory, void *block);

void virtdisk_memory_free(struct memory *memory);

/* ------------------------------------------------------------------------
 * Conversions in
 *
 * Each names the argument in its exception.  An object that is NULL was not
 * given: *out keeps the default that it has.
 */

int virtdisk_wrong_type(PyObject *object, const char *name,
                        const char *expected);
int virtdisk_convert_unsigned(PyObject *object, const char *name,
                              unsigned long long limit,
                              unsigned long long *out);
int virtdisk_convert_dword(PyObject *object, const char *name, DWORD *out);
int virtdisk_convert_ulonglong(PyObject *object, const char *name,
                               ULONGLONG *out);

/* The version of a parameter structure, 1 to newest. */
int virtdisk_convert_version(PyObject *object, DWORD newest, DWORD *out);

/* The same, or None, which is given out as 0 and means that no structure is
 * passed. */
int virtdisk_convert_optional_version(PyObject *object, DWORD newest,
                                      DWORD *out);

/* The 16 bytes of a GUID as they lie in memory (uuid.UUID.bytes_le). */
int virtdisk_convert_guid(PyObject *object, const char *name, GUID *out);

/* The same, or None, which is the GUID of all zeros. */
int virtdisk_convert_optional_guid(PyObject *object, const char *name,
                                   GUID *out);

/* The text as NUL-terminated UTF-16.  Lone surrogates pass: on Windows a file
 * name may hold them, on Linux U+DC80..U+DCFF stand for bytes that are not
 * UTF-8 (surrogateescape). */
int virtdisk_convert_text(PyObject *object, const char *name,
                          struct memory *memory, PCWSTR *out);

/* The same, or None, which is NULL. */
int virtdisk_convert_optional_text(PyObject *object, const char *name,
                                   struct memory *memory, PCWSTR *out);

/* TypeError if the member of a version was not given. */
int virtdisk_require(PyObject *object, const char *name, DWORD version);

/* Exports the buffer of an object; its length is checked against what the
 * member for it can hold.  To be released also after a failure. */
int virtdisk_convert_buffer(PyObject *object, const char *name, int flags,
                            size_t limit, Py_buffer *out);

/* Text is SDDL, bytes are a self-relative descriptor, None is NULL.  path is
 * that of the image, for messages. */
int virtdisk_convert_descriptor(struct module_state *state, PyObject *object,
                                PyObject *path, struct memory *memory,
                                PSECURITY_DESCRIPTOR *out);

/* ------------------------------------------------------------------------
 * Conversions out
 */

PyObject *virtdisk_text_from_utf16(const WCHAR *text, size_t units);

/* NUL-terminated text in a buffer of limit units. */
PyObject *virtdisk_text_from_buffer(const WCHAR *text, size_t limit);

/* A MULTI_SZ: strings one after the other, ended by an empty one. */
PyObject *virtdisk_list_from_multi_sz(const WCHAR *text, size_t limit);

PyObject *virtdisk_bytes_from_guid(const GUID *guid);
PyObject *virtdisk_int_from_pointer(const void *pointer);

/* ------------------------------------------------------------------------
 * Errors
 */

/* Raises the exception for a code; always returns NULL.  path may be NULL. */
PyObject *virtdisk_raise_error(struct module_state *state,
                               const char *function, DWORD code,
                               PyObject *path);

/*
 * Wine's own virtdisk.dll exports most functions of Windows 8, but calling
 * one ends the process.  Sets NotImplementedError and returns false there.
 */
bool virtdisk_may_call(const struct module_state *state, const char *function);

/* Sets NotImplementedError and returns false if a function that came with a
 * version of Windows is missing. */
bool virtdisk_is_there(bool there, const char *function, const char *windows);

/* Raises the audit event whose name and values are in the tuple, which is
 * consumed; it may be NULL with an exception set. */
int virtdisk_audit(const struct module_state *state, PyObject *arguments);

/* ------------------------------------------------------------------------
 * Handle
 */

typedef struct {
    PyObject_HEAD
    PyThread_type_lock lock;
    PyObject *path;  /* as given to the function; never changes */
    HANDLE value;    /* guarded by lock; NULL once really closed */
    unsigned in_use; /* guarded by lock; calls that use value now */
    bool closed;     /* guarded by lock; no further call may use value */
} HandleObject;

/* A handle that has no value yet, so that nothing can fail between the
 * system's giving one and the object's owning it. */
HandleObject *virtdisk_handle_new(struct module_state *state, PyObject *path);

/* Gives a new handle its value. */
void virtdisk_handle_own(HandleObject *self, HANDLE value);

/* The handle that an argument is, borrowed; NULL with TypeError. */
HandleObject *virtdisk_as_handle(const struct module_state *state,
                                 PyObject *object);

/* Borrows the value for one call; sets ValueError if it is closed.  Each
 * success is paired with virtdisk_handle_leave. */
int virtdisk_handle_enter(HandleObject *self, HANDLE *out);

void virtdisk_handle_leave(HandleObject *self);

/* ------------------------------------------------------------------------
 * Overlapped
 */

typedef struct overlapped_object OverlappedObject;

/* The Overlapped that an argument is, borrowed; None is NULL. */
int virtdisk_convert_overlapped(const struct module_state *state,
                                PyObject *object, OverlappedObject **out);

/* The same without None. */
OverlappedObject *virtdisk_as_overlapped(const struct module_state *state,
                                         PyObject *object);

/* Makes the object ready for a call on the disk at path, and gives out what
 * to pass; ValueError while it is still used by another one.  Paired with
 * virtdisk_overlapped_end. */
int virtdisk_overlapped_begin(OverlappedObject *self, PyObject *path,
                              const char *function, OVERLAPPED **out);

/* Records what the call answered.  If that is ERROR_IO_PENDING, the operation
 * takes over the hold on handle, with value, and the memory. */
void virtdisk_overlapped_end(OverlappedObject *self, DWORD code,
                             HandleObject *handle, HANDLE value,
                             struct memory *memory);

/* Admits a call that passes the OVERLAPPED of an operation that was started,
 * over or not, so that it is not reused meanwhile; ValueError if there is
 * none.  Paired with virtdisk_overlapped_leave. */
int virtdisk_overlapped_borrow(OverlappedObject *self, OVERLAPPED **out);

void virtdisk_overlapped_leave(OverlappedObject *self);

/* ------------------------------------------------------------------------
 * Calls
 */

/* One call on a disk.  What a function needs beyond this stands in a
 * structure of its own that begins with it. */
struct call {
    struct module_state *state;
    const char *function;
    HandleObject *handle;         /* borrowed from the arguments */
    OverlappedObject *overlapped; /* likewise, or NULL */
    DWORD flags;
    const void *parameters; /* in memory, or NULL */
    struct memory memory;   /* the caller's to free */
};

/* Makes the call: `run` without the GIL, the handle held, the Overlapped, if
 * any, begun and ended.  A code other than ERROR_SUCCESS is raised, but not
 * ERROR_IO_PENDING with an Overlapped.  error_path: of the image at fault,
 * NULL for the handle's. */
int virtdisk_call(struct call *call,
                  DWORD (*run)(const struct call *call, HANDLE value,
                               OVERLAPPED *overlapped),
                  PyObject *error_path);

/* Parses handle and, if they are not NULL, flags and overlapped. */
int virtdisk_parse_call(struct call *call, PyObject *handle, PyObject *flags,
                        PyObject *overlapped);

/* None if result is 0, else NULL; frees the memory of the call. */
PyObject *virtdisk_finish(struct call *call, int result);

/* ------------------------------------------------------------------------
 * Calls that fill a buffer
 *
 * They answer ERROR_INSUFFICIENT_BUFFER and the size needed.  That may change
 * until the next call (another image is attached meanwhile), so they are
 * repeated, with at least twice the size each time and a bound, lest a
 * system that always asks for more is asked for ever.
 */

struct query {
    HANDLE handle;
    DWORD version; /* or class of what is asked for */
    DWORD flags;
    GUID item;
    DWORD (*call)(const struct query *query, ULONG *size, void *buffer);
    void *buffer;  /* from malloc: the answer, followed by two zero WCHARs */
    size_t size;   /* of the buffer in bytes, without those */
    size_t filled; /* what the last call said of the size */
};

/* Makes the calls; needs no GIL.  The buffer is the caller's to free. */
DWORD virtdisk_query_run(struct query *query);

/* Runs a query on a disk and raises what it answers. */
int virtdisk_query_disk(struct module_state *state, HandleObject *handle,
                        const char *function, struct query *query);

/* The text that starts offset bytes into the buffer. */
const WCHAR *virtdisk_query_text(const struct query *query, size_t offset,
                                 size_t *units_out);

#endif
