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

/* The CRC of a structure with its own 4-byte checksum field, at
 * field_offset, taken as zero. */
uint32_t vd_crc32c_skipping(const uint8_t *structure, size_t length,
                            size_t field_offset);

#endif
