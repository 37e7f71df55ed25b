/*
 * The length of the served file (gate.h).  The lock is held to count, never
 * during I/O.
 */
#include "server/gate.h"

#include "base/cleanup.h"

void
vd_gate_init(struct vd_gate *gate, uint64_t length)
{
    *gate = (struct vd_gate){.users = 0};
    pthread_mutex_init(&gate->lock, NULL);
    pthread_cond_init(&gate->changed, NULL);
    atomic_init(&gate->bytes, length);
}

void
vd_gate_enter(struct vd_gate *gate)
{
    VD_SCOPED_LOCK(&gate->lock);
    while (gate->shut) {
        pthread_cond_wait(&gate->changed, &gate->lock);
    }
    gate->users++;
}

void
vd_gate_leave(struct vd_gate *gate)
{
    VD_SCOPED_LOCK(&gate->lock);
    gate->users--;
    if (gate->users == 0 && gate->shut) {
        pthread_cond_broadcast(&gate->changed);
    }
}

uint64_t
vd_gate_length(struct vd_gate *gate)
{
    return atomic_load(&gate->bytes);
}

void
vd_gate_shut(struct vd_gate *gate)
{
    VD_SCOPED_LOCK(&gate->lock);
    gate->shut = true;
    while (gate->users != 0) {
        pthread_cond_wait(&gate->changed, &gate->lock);
    }
}

void
vd_gate_open(struct vd_gate *gate, uint64_t length)
{
    VD_SCOPED_LOCK(&gate->lock);
    atomic_store(&gate->bytes, length);
    gate->shut = false;
    pthread_cond_broadcast(&gate->changed);
}
