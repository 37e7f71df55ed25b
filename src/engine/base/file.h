/*
 * The one way in which formats touch a file: a small vtable, which is also
 * where tests inject faults and power cuts.
 *
 * Offsets and lengths are bytes.  All operations may be called from several
 * threads at once.
 */
#ifndef VD_BASE_FILE_H
#define VD_BASE_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct vd_file;

struct vd_file_ops {
    /* Reads exactly length bytes; ERROR_HANDLE_EOF if the file ends first. */
    vd_error (*pread)(struct vd_file *file, void *buffer, size_t length,
                      uint64_t offset);
    /* Writes exactly length bytes, extending the file if needed. */
    vd_error (*pwrite)(struct vd_file *file, const void *buffer, size_t length,
                       uint64_t offset);
    /* Returns when everything written before is durable. */
    vd_error (*flush)(struct vd_file *file);
    vd_error (*size)(struct vd_file *file, uint64_t *size_out);
    vd_error (*truncate)(struct vd_file *file, uint64_t size);
    /* Makes a range read as zeros, freeing its space where possible; the
     * size does not change. */
    vd_error (*punch)(struct vd_file *file, uint64_t offset, uint64_t length);
    /* Takes space for a range from the host, so that writing there cannot run
     * out of it, and extends the file if needed; content does not change, and
     * new space reads as zeros.  ERROR_NOT_SUPPORTED where the host cannot;
     * NULL: likewise. */
    vd_error (*allocate)(struct vd_file *file, uint64_t offset,
                         uint64_t length);
};

struct vd_file {
    const struct vd_file_ops *ops;
};

VD_MUST_CHECK
static inline vd_error
vd_file_pread(struct vd_file *file, void *buffer, size_t length,
              uint64_t offset)
{
    return file->ops->pread(file, buffer, length, offset);
}

VD_MUST_CHECK
static inline vd_error
vd_file_pwrite(struct vd_file *file, const void *buffer, size_t length,
               uint64_t offset)
{
    return file->ops->pwrite(file, buffer, length, offset);
}

VD_MUST_CHECK
static inline vd_error
vd_file_flush(struct vd_file *file)
{
    return file->ops->flush(file);
}

VD_MUST_CHECK
static inline vd_error
vd_file_size(struct vd_file *file, uint64_t *size_out)
{
    return file->ops->size(file, size_out);
}

VD_MUST_CHECK
static inline vd_error
vd_file_truncate(struct vd_file *file, uint64_t size)
{
    return file->ops->truncate(file, size);
}

VD_MUST_CHECK
static inline vd_error
vd_file_punch(struct vd_file *file, uint64_t offset, uint64_t length)
{
    return file->ops->punch(file, offset, length);
}

VD_MUST_CHECK
static inline vd_error
vd_file_allocate(struct vd_file *file, uint64_t offset, uint64_t length)
{
    return file->ops->allocate != NULL
               ? file->ops->allocate(file, offset, length)
               : ERROR_NOT_SUPPORTED;
}

#endif
