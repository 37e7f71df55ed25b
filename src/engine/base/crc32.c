/*
 * CRC-32, bit by bit: it runs over a partition table once per attach, so a
 * lookup table would cost more than it saves.
 */
#include "base/crc32.h"

#define POLYNOMIAL_REFLECTED 0xEDB88320u

uint32_t
vd_crc32(uint32_t crc, const uint8_t *data, size_t length)
{
    crc = ~crc;
    for (size_t i = 0; i < length; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ ((crc & 1) != 0 ? POLYNOMIAL_REFLECTED : 0);
        }
    }
    return ~crc;
}
