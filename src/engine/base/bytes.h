/*
 * Integers in byte buffers, by explicit byte order.  No packed structs, no
 * casts of buffers, no swapping in place.
 */
#ifndef VD_BASE_BYTES_H
#define VD_BASE_BYTES_H

#include <stdint.h>

static inline uint16_t
vd_get_le16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t
vd_get_le32(const uint8_t *p)
{
    return vd_get_le16(p) | (uint32_t)vd_get_le16(p + 2) << 16;
}

static inline uint64_t
vd_get_le64(const uint8_t *p)
{
    return vd_get_le32(p) | (uint64_t)vd_get_le32(p + 4) << 32;
}

static inline uint16_t
vd_get_be16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t
vd_get_be32(const uint8_t *p)
{
    return (uint32_t)vd_get_be16(p) << 16 | vd_get_be16(p + 2);
}

static inline uint64_t
vd_get_be64(const uint8_t *p)
{
    return (uint64_t)vd_get_be32(p) << 32 | vd_get_be32(p + 4);
}

static inline void
vd_put_le16(uint8_t *p, uint16_t value)
{
    p[0] = (uint8_t)value;
    p[1] = (uint8_t)(value >> 8);
}

static inline void
vd_put_le32(uint8_t *p, uint32_t value)
{
    vd_put_le16(p, (uint16_t)value);
    vd_put_le16(p + 2, (uint16_t)(value >> 16));
}

static inline void
vd_put_le64(uint8_t *p, uint64_t value)
{
    vd_put_le32(p, (uint32_t)value);
    vd_put_le32(p + 4, (uint32_t)(value >> 32));
}

static inline void
vd_put_be16(uint8_t *p, uint16_t value)
{
    p[0] = (uint8_t)(value >> 8);
    p[1] = (uint8_t)value;
}

static inline void
vd_put_be32(uint8_t *p, uint32_t value)
{
    vd_put_be16(p, (uint16_t)(value >> 16));
    vd_put_be16(p + 2, (uint16_t)value);
}

static inline void
vd_put_be64(uint8_t *p, uint64_t value)
{
    vd_put_be32(p, (uint32_t)(value >> 32));
    vd_put_be32(p + 4, (uint32_t)value);
}

#endif
