/*
 * The shape of a call: its memory, a call on a Handle, perhaps with an
 * Overlapped, and calls that fill a buffer of unknown size.
 */
#include "_virtdisk.h"

#include <assert.h>

/* ------------------------------------------------------------------------
 * Memory
 */

void
virtdisk_memory_keep(struct memory *memory, void *block)
{
    size_t used = 0;
    while (used < MEMORY_BLOCKS && memory->blocks[used] != NULL) {
        used++;
    }
    assert(used < MEMORY_BLOCKS);
    memory->blocks[used] = block;
}

void *
virtdisk_memory_new(struct memory *memory, size_t size)
{
    void *block = calloc(1, size);
    if (block == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    virtdisk_memory_keep(memory, block);
    return block;
}

void
virtdisk_memory_free(struct memory *memory)
{
    for (size_t i = 0; i < MEMORY_BLOCKS; i++) {
        free(memory->blocks[i]);
        memory->blocks[i] = NULL;
    }
}

/* ------------------------------------------------------------------------
 * A call on a Handle
 */

int
virtdisk_parse_call(struct call *call, PyObject *handle, PyObject *flags,
                    PyObject *overlapped)
{
    call->handle = virtdisk_as_handle(call->state, handle);
    if (call->handle == NULL ||
        virtdisk_convert_overlapped(call->state, overlapped,
                                    &call->overlapped) < 0) {
        return -1;
    }
    return virtdisk_convert_dword(flags, "flags", &call->flags);
}

int
virtdisk_call(struct call *call,
              DWORD (*run)(const struct call *call, HANDLE value,
                           OVERLAPPED *overlapped),
              PyObject *error_path)
{
    OVERLAPPED *overlapped = NULL;
    HANDLE value = NULL;
    DWORD code;
    if (virtdisk_handle_enter(call->handle, &value) < 0) {
        return -1;
    }
    if (call->overlapped != NULL &&
        virtdisk_overlapped_begin(call->overlapped, call->handle->path,
                                  call->function, &overlapped) < 0) {
        virtdisk_handle_leave(call->handle);
        return -1;
    }
    Py_BEGIN_ALLOW_THREADS
    code = run(call, value, overlapped);
    Py_END_ALLOW_THREADS
    if (overlapped != NULL) {
        virtdisk_overlapped_end(call->overlapped, code, call->handle, value,
                                &call->memory);
        if (code == ERROR_IO_PENDING) {
            return 0;
        }
    }
    virtdisk_handle_leave(call->handle);
    if (code != ERROR_SUCCESS) {
        virtdisk_raise_error(call->state, call->function, code,
                             error_path != NULL ? error_path
                                                : call->handle->path);
        return -1;
    }
    return 0;
}

PyObject *
virtdisk_finish(struct call *call, int result)
{
    virtdisk_memory_free(&call->memory);
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

/* ------------------------------------------------------------------------
 * Calls that fill a buffer
 */

#define QUERY_FIRST_SIZE 128u
#define QUERY_LAST_SIZE (16u * 1024 * 1024)

/* The functions on metadata answer the second, at least on Windows. */
static bool
is_too_small(DWORD code)
{
    return code == ERROR_INSUFFICIENT_BUFFER || code == ERROR_MORE_DATA;
}

DWORD
virtdisk_query_run(struct query *query)
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
            query->filled = size < capacity ? size : capacity;
            return code;
        }
        free(buffer);
        if (!is_too_small(code) || capacity >= QUERY_LAST_SIZE) {
            return code;
        }
        capacity = size > 2 * capacity ? size : 2 * capacity;
        if (capacity > QUERY_LAST_SIZE) {
            capacity = QUERY_LAST_SIZE;
        }
    }
}

const WCHAR *
virtdisk_query_text(const struct query *query, size_t offset,
                    size_t *units_out)
{
    *units_out = (query->size - offset) / sizeof(WCHAR);
    return (const WCHAR *)((const char *)query->buffer + offset);
}

int
virtdisk_query_disk(struct module_state *state, HandleObject *handle,
                    const char *function, struct query *query)
{
    DWORD code;
    if (!virtdisk_may_call(state, function) ||
        virtdisk_handle_enter(handle, &query->handle) < 0) {
        return -1;
    }
    Py_BEGIN_ALLOW_THREADS
    code = virtdisk_query_run(query);
    Py_END_ALLOW_THREADS
    virtdisk_handle_leave(handle);
    if (code != ERROR_SUCCESS) {
        virtdisk_raise_error(state, function, code, handle->path);
        return -1;
    }
    return 0;
}
