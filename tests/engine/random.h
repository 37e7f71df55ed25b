/* Reproducible random numbers for tests (xorshift64*). */
#ifndef VIRTDISK_TESTS_RANDOM_H
#define VIRTDISK_TESTS_RANDOM_H

#include <stdint.h>

struct random {
    uint64_t state; /* any number */
};

static inline uint64_t
random_next(struct random *random)
{
    uint64_t x = random->state + 0x9e3779b97f4a7c15;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    random->state = x;
    return x * 0x2545f4914f6cdd1d;
}

static inline uint64_t
random_below(struct random *random, uint64_t limit)
{
    return (random_next(random) >> 16) % limit;
}

#endif
