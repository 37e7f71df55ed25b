/*
 * What CreateVirtualDisk and others have in common with OpenVirtualDisk, as
 * open.c checks it.
 */
#ifndef VD_API_OPEN_H
#define VD_API_OPEN_H

#include <stdbool.h>
#include <stdint.h>

#include <virtdisk.h>

#include "api/virtual_disk.h"
#include "base/error.h"

/* OPEN_VIRTUAL_DISK_FLAG, with parameters of this version. */
VD_MUST_CHECK
vd_error vd_open_check_flags(uint32_t flags, uint32_t version,
                             uint32_t device_id);

/* ERROR_VIRTDISK_PROVIDER_NOT_FOUND for a type that nobody has,
 * ERROR_NOT_SUPPORTED for a VHD Set. */
VD_MUST_CHECK
vd_error vd_open_check_storage_type(const VIRTUAL_STORAGE_TYPE *type,
                                    uint32_t flags);

/* What a handle may be used for that is opened so. */
struct vd_rights vd_open_rights(uint32_t version, uint32_t mask,
                                bool info_only, bool writable);

#endif
