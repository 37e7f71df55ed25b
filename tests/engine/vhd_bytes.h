/*
 * The bytes of VHD footers, written field by field after the specification
 * ("Virtual Hard Disk Image Format Specification" 1.0), not with the code
 * under test.
 */
#ifndef VIRTDISK_TESTS_VHD_BYTES_H
#define VIRTDISK_TESTS_VHD_BYTES_H

#include <stdint.h>
#include <string.h>

#define FOOTER 512

static inline void
put_be(uint8_t *at, uint64_t value, unsigned size)
{
    for (unsigned i = size; i > 0; i--) {
        at[i - 1] = (uint8_t)value;
        value >>= 8;
    }
}

/* Sets the checksum to what it must be: the complement of the sum. */
static inline uint32_t
put_checksum(uint8_t *footer)
{
    uint32_t sum = 0;
    put_be(footer + 64, 0, 4);
    for (unsigned i = 0; i < FOOTER; i++) {
        sum += footer[i];
    }
    put_be(footer + 64, ~sum, 4);
    return ~sum;
}

struct footer_values {
    const char *creator;      /* four characters */
    uint32_t creator_version; /* major.minor 16.16 */
    uint32_t time_stamp;
    uint64_t size;
    uint32_t geometry; /* cylinders, heads, sectors as one number */
    uint32_t type;
    uint64_t data_offset;
    const uint8_t *id; /* 16 bytes */
};

static inline uint32_t
put_footer(uint8_t *footer, const struct footer_values *values)
{
    memset(footer, 0, FOOTER);
    memcpy(footer, "conectix", 8);
    put_be(footer + 8, 2, 4);
    put_be(footer + 12, 0x00010000, 4);
    put_be(footer + 16, values->data_offset, 8);
    put_be(footer + 24, values->time_stamp, 4);
    memcpy(footer + 28, values->creator, 4);
    put_be(footer + 32, values->creator_version, 4);
    memcpy(footer + 36, "Wi2k", 4);
    put_be(footer + 40, values->size, 8);
    put_be(footer + 48, values->size, 8);
    put_be(footer + 56, values->geometry, 4);
    put_be(footer + 60, values->type, 4);
    memcpy(footer + 68, values->id, 16);
    return put_checksum(footer);
}

static const uint8_t footer_id[16] = {0, 1, 2,  3,  4,  5,  6,  7,
                                      8, 9, 10, 11, 12, 13, 14, 15};

/* A footer of the given type over a disk of this size. */
static inline void
put_simple_footer(uint8_t *footer, uint64_t size, uint32_t type)
{
    struct footer_values values = {
        .creator = "win ",
        .creator_version = 0x000A0000,
        .size = size,
        .type = type,
        .data_offset = type == 2 ? UINT64_MAX : 512,
        .id = footer_id,
    };
    put_footer(footer, &values);
}

#endif
