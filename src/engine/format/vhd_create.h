/*
 * Making a new VHD ("Virtual Hard Disk Image Format Specification" 1.0) in an
 * empty file.
 */
#ifndef VD_FORMAT_VHD_CREATE_H
#define VD_FORMAT_VHD_CREATE_H

#include <stdbool.h>
#include <stdint.h>
#include <uchar.h>

#include "base/error.h"
#include "base/file.h"
#include "base/guid.h"
#include "format/format.h"
#include "format/vhd_footer.h"

#define VHD_LARGE_BLOCK_SIZE (2u * 1024 * 1024) /* what Windows takes */
#define VHD_SMALL_BLOCK_SIZE (512u * 1024)

struct vd_vhd_create_request {
    enum vd_vhd_disk_type type;
    uint64_t size_bytes;             /* dynamic, differencing: <= 2040 GiB */
    uint32_t block_size;             /* one of the two above; fixed: 0 */
    struct vd_guid unique_id;        /* random */
    uint32_t time_stamp;             /* now, seconds since 2000-01-01 UTC */
    uint8_t creator_application[4];  /* "win " */
    uint32_t creator_version;        /* major.minor 16.16 */
    struct vd_vhd_geometry geometry; /* all 0: what the size gives */
    bool allocate; /* fixed: takes the payload's space from the host */

    /* Differencing only; one of the paths at least. */
    struct vd_guid parent_id;
    uint32_t parent_time_stamp;    /* of its last change; or 0, as Windows */
    const char16_t *relative_path; /* ".\parent.vhd"; NULL: none */
    const char16_t *absolute_path; /* NULL: none */
};

/* What a child takes over from its parent, an opened VHD: type, size,
 * geometry and the parent's id. */
void vd_vhd_create_child_of(const struct vd_image *parent,
                            struct vd_vhd_create_request *request);

/* ERROR_INVALID_PARAMETER for a request that breaks the rules above. */
VD_MUST_CHECK
vd_error vd_vhd_create_check(const struct vd_vhd_create_request *request);

/*
 * Writes the image; the file must be empty.  The footers come last, after a
 * barrier, so that an interrupted creation is never taken for an image.
 * Errors: those of vd_vhd_create_check, and the file's.
 */
VD_MUST_CHECK
vd_error vd_vhd_create(struct vd_file *file,
                       const struct vd_vhd_create_request *request);

/* ---- as any other format: vd_format.create_defaults and .create ---- */

VD_MUST_CHECK
vd_error vd_vhd_create_defaults(struct vd_create_request *request);
VD_MUST_CHECK
vd_error vd_vhd_create_image(struct vd_file *file,
                             const struct vd_create_request *request);

#endif
