/*
 * A GUID as 16 bytes, in the order in which it stands in memory on Windows
 * and in a VHDX file: the first three fields little-endian, the last eight
 * bytes as printed ([MS-DTYP] 2.3.4.2).
 */
#ifndef VD_BASE_GUID_H
#define VD_BASE_GUID_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define VD_GUID_SIZE 16

struct vd_guid {
    uint8_t bytes[VD_GUID_SIZE];
};

static inline bool
vd_guid_equal(const struct vd_guid *a, const struct vd_guid *b)
{
    return memcmp(a->bytes, b->bytes, VD_GUID_SIZE) == 0;
}

static inline bool
vd_guid_is_zero(const struct vd_guid *guid)
{
    static const struct vd_guid zero;
    return vd_guid_equal(guid, &zero);
}

#endif
