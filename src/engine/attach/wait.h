/*
 * Waiting for what other processes or the kernel are about to do, with an
 * end: sleeps of 1 ms, doubling up to 20 ms.
 */
#ifndef VD_ATTACH_WAIT_H
#define VD_ATTACH_WAIT_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#define VD_WAIT_LONGEST_MS 20

struct vd_wait {
    int64_t deadline_ms; /* CLOCK_MONOTONIC */
    unsigned delay_ms;
};

static inline int64_t
vd_wait_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static inline struct vd_wait
vd_wait_begin(unsigned limit_ms)
{
    return (struct vd_wait){vd_wait_now() + limit_ms, 1};
}

/* Sleeps; false, at once, if the time is over. */
static inline bool
vd_wait_more(struct vd_wait *wait)
{
    if (vd_wait_now() >= wait->deadline_ms) {
        return false;
    }
    struct timespec pause = {0, (long)wait->delay_ms * 1000000};
    nanosleep(&pause, NULL); /* a signal only shortens it */
    wait->delay_ms *= 2;
    if (wait->delay_ms > VD_WAIT_LONGEST_MS) {
        wait->delay_ms = VD_WAIT_LONGEST_MS;
    }
    return true;
}

#endif
