/*
 * How many bytes the served file has, and who is at work in them: that
 * changes only while nobody is.
 */
#ifndef VD_SERVER_GATE_H
#define VD_SERVER_GATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* Lives as long as the server. */
struct vd_gate {
    pthread_mutex_t lock;
    pthread_cond_t changed;     /* users is 0, or shut false */
    unsigned users;             /* guarded by lock */
    bool shut;                  /* likewise: nobody may come in */
    atomic_uint_fast64_t bytes; /* written while it is shut */
};

void vd_gate_init(struct vd_gate *gate, uint64_t length);

/* Waits while it is shut.  The length stays what it is until leave. */
void vd_gate_enter(struct vd_gate *gate);
void vd_gate_leave(struct vd_gate *gate);

/* Never waits. */
uint64_t vd_gate_length(struct vd_gate *gate);

/* Waits until nobody is inside.  By one thread at a time, and not by one that
 * is inside. */
void vd_gate_shut(struct vd_gate *gate);
void vd_gate_open(struct vd_gate *gate, uint64_t length);

#endif
