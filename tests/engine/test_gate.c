/*
 * The length of the served file (server/gate.h): it changes while nobody is
 * inside, and nobody is kept out for ever.  Run under ThreadSanitizer too.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "check.h"
#include "server/gate.h"

#define USERS 4
#define CHANGES 2000

struct user {
    pthread_t thread;
    struct vd_gate *gate;
    atomic_bool *stop;
    uint64_t visits;
    uint64_t wrong; /* the length was another one on the way out */
};

static void *
visit(void *argument)
{
    struct user *user = argument;
    while (!atomic_load(user->stop)) {
        vd_gate_enter(user->gate);
        uint64_t length = vd_gate_length(user->gate);
        for (unsigned i = 0; i < 50; i++) {
            user->wrong += vd_gate_length(user->gate) != length;
        }
        vd_gate_leave(user->gate);
        user->visits++;
    }
    return NULL;
}

/* Written without any other lock: ThreadSanitizer would find a visitor. */
static void
change_often(struct vd_gate *gate)
{
    for (uint64_t i = 1; i <= CHANGES; i++) {
        vd_gate_shut(gate);
        CHECK_EQ(0, gate->users);
        vd_gate_open(gate, i);
        CHECK_EQ(i, vd_gate_length(gate));
    }
}

static void
nobody_sees_a_change_from_inside(void)
{
    struct vd_gate gate;
    struct user users[USERS];
    atomic_bool stop = false;
    vd_gate_init(&gate, 77);
    CHECK_EQ(77, vd_gate_length(&gate));
    for (unsigned i = 0; i < USERS; i++) {
        users[i] = (struct user){.gate = &gate, .stop = &stop};
        CHECK_EQ(0, pthread_create(&users[i].thread, NULL, visit, &users[i]));
    }
    change_often(&gate);
    atomic_store(&stop, true);
    for (unsigned i = 0; i < USERS; i++) {
        pthread_join(users[i].thread, NULL);
        CHECK_EQ(0, users[i].wrong);
    }
    CHECK_EQ(CHANGES, vd_gate_length(&gate));
}

static void *
enter_once(void *argument)
{
    struct vd_gate *gate = argument;
    vd_gate_enter(gate);
    uint64_t length = vd_gate_length(gate);
    vd_gate_leave(gate);
    return (void *)(uintptr_t)length;
}

static void
who_comes_meanwhile_waits(void)
{
    struct vd_gate gate;
    pthread_t thread;
    void *seen;
    vd_gate_init(&gate, 1);
    vd_gate_shut(&gate);
    CHECK_EQ(0, pthread_create(&thread, NULL, enter_once, &gate));
    CHECK_EQ(1, vd_gate_length(&gate)); /* who only asks does not */
    vd_gate_open(&gate, 2);
    pthread_join(thread, &seen);
    CHECK_EQ(2, (uintptr_t)seen);
}

int
main(void)
{
    nobody_sees_a_change_from_inside();
    who_comes_meanwhile_waits();
    return check_result();
}
