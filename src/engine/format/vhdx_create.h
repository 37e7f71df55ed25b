/*
 * Making a new VHDX image ([MS-VHDX] 2.1-2.6) in an empty file.
 */
#ifndef VD_FORMAT_VHDX_CREATE_H
#define VD_FORMAT_VHDX_CREATE_H

#include <stdbool.h>
#include <stdint.h>
#include <uchar.h>

#include "base/error.h"
#include "base/file.h"
#include "base/guid.h"

struct vhdx_create_request {
    uint64_t size_bytes;
    uint32_t block_size;           /* 1..256 MiB, a power of two */
    uint32_t logical_sector_size;  /* 512 or 4096 */
    uint32_t physical_sector_size; /* 512 or 4096, not below the logical */
    bool fixed;
    bool allocate; /* fixed: take the space from the host as well */
    struct vd_guid virtual_disk_id; /* a child has its parent's */
    struct vd_guid file_write_guid; /* random */
    struct vd_guid data_write_guid; /* random */
    const char16_t *creator;

    /* Differencing: the linkage and one path at least, else none. */
    bool has_parent;
    struct vd_guid parent_linkage; /* the parent's DataWriteGuid */
    const char16_t *relative_path; /* ".\parent.vhdx" */
    const char16_t *absolute_path;
};

/*
 * Writes the image; the file must be empty.  The identifier comes last,
 * after a barrier, so that an interrupted creation is never taken for an
 * image.  Errors: ERROR_INVALID_PARAMETER for a request that breaks the
 * rules above, and the file's.
 */
VD_MUST_CHECK
vd_error vd_vhdx_create(struct vd_file *file,
                        const struct vhdx_create_request *request);

#endif
