/*
 * CRC-32C (Castagnoli), the checksum of every VHDX structure that has one
 * ([MS-VHDX] 2.2.2): reflected polynomial 0x82F63B78, initial value and final
 * XOR 0xFFFFFFFF.
 */
#ifndef VD_BASE_CRC32C_H
#define VD_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* The CRC of a whole buffer. */
uint32_t vd_crc32c(const void *buffer, size_t length);

/* The same piece by piece: start with VD_CRC32C_START, hand the result of one
 * piece to the next, and the last one to vd_crc32c_end. */
#define VD_CRC32C_START UINT32_MAX
uint32_t vd_crc32c_add(uint32_t state, const void *buffer, size_t length);

static inline uint32_t
vd_crc32c_end(uint32_t state)
{
    return ~state;
}

/* The CRC of a structure with its own 4-byte checksum field, at
 * field_offset, taken as zero. */
uint32_t vd_crc32c_skipping(const uint8_t *structure, size_t length,
                            size_t field_offset);

#endif
