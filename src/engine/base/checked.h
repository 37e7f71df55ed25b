/*
 * Checked 64-bit arithmetic for numbers that come out of a file: each
 * function returns true and stores the result, or returns false on overflow
 * and leaves the result alone.
 */
#ifndef VD_BASE_CHECKED_H
#define VD_BASE_CHECKED_H

#include <stdbool.h>
#include <stdint.h>

#define VD_MUST_TEST __attribute__((warn_unused_result))

VD_MUST_TEST static inline bool
vd_add_u64(uint64_t a, uint64_t b, uint64_t *result)
{
    uint64_t sum;
    if (__builtin_add_overflow(a, b, &sum)) {
        return false;
    }
    *result = sum;
    return true;
}

VD_MUST_TEST static inline bool
vd_sub_u64(uint64_t a, uint64_t b, uint64_t *result)
{
    if (b > a) {
        return false;
    }
    *result = a - b;
    return true;
}

VD_MUST_TEST static inline bool
vd_mul_u64(uint64_t a, uint64_t b, uint64_t *result)
{
    uint64_t product;
    if (__builtin_mul_overflow(a, b, &product)) {
        return false;
    }
    *result = product;
    return true;
}

/* Rounds up to a multiple of a power of two. */
VD_MUST_TEST static inline bool
vd_round_up_u64(uint64_t value, uint64_t alignment, uint64_t *result)
{
    uint64_t sum;
    if (!vd_add_u64(value, alignment - 1, &sum)) {
        return false;
    }
    *result = sum & ~(alignment - 1);
    return true;
}

/* Whether [offset, offset + length) lies inside [0, limit). */
static inline bool
vd_range_within(uint64_t offset, uint64_t length, uint64_t limit)
{
    return offset <= limit && length <= limit - offset;
}

static inline bool
vd_is_power_of_two(uint64_t value)
{
    return value != 0 && (value & (value - 1)) == 0;
}

#endif
