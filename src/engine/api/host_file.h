/*
 * Handles from CreateFileW: something of this system, opened only to be asked
 * what it is and where it lies.
 */
#ifndef VD_API_HOST_FILE_H
#define VD_API_HOST_FILE_H

#include <windows.h>

#include "api/handles.h"

struct vd_host_file {
    struct vd_object object; /* first: a vd_host_file is a vd_object */
    int fd;
};

/* ERROR_INVALID_HANDLE for none, ERROR_INVALID_PARAMETER for a handle to
 * something else.  Release the object when done. */
VD_MUST_CHECK
vd_error vd_host_file_acquire(HANDLE handle, struct vd_host_file **out);
void vd_host_file_release(struct vd_host_file *file);

#endif
