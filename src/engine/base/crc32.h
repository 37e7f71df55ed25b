/*
 * The CRC-32 of Ethernet, zip and GPT: polynomial 0x04C11DB7 reflected, all
 * ones before, inverted after (UEFI 2.10, 5.3.2).  VHDX uses another one.
 */
#ifndef VD_BASE_CRC32_H
#define VD_BASE_CRC32_H

#include <stddef.h>
#include <stdint.h>

#define VD_CRC32_START 0u

/* Continues crc over more data; begin with VD_CRC32_START. */
uint32_t vd_crc32(uint32_t crc, const uint8_t *data, size_t length);

#endif
