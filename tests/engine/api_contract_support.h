/*
 * One good call of each function of virtdisk.h, to be spoilt in one place.
 *
 * What is good about a call is known: what it answers when nothing is spoilt.
 * Without that a refusal would say nothing about its reason.
 */
#ifndef VIRTDISK_TESTS_API_CONTRACT_SUPPORT_H
#define VIRTDISK_TESTS_API_CONTRACT_SUPPORT_H

#include <stdbool.h>

#include <virtdisk.h>

/* A call's arguments, as far as they are ever spoilt. */
struct given {
    HANDLE handle;
    unsigned version;    /* of the parameters, or the information class */
    const char *missing; /* the pointer that is NULL, by its name; or none */
    OVERLAPPED *overlapped; /* NULL: what is usual for the function */
};

/* A function of virtdisk.h, as API 1.2 to 1.4 has it. */
struct function {
    const char *name;
    DWORD (*call)(const struct given *given);
    const HANDLE *handle;    /* a good one; NULL: it takes none */
    unsigned version;        /* a good one; 0: it has no versions */
    unsigned last_version;   /* the highest there is */
    const char *pointers[5]; /* that may not be NULL; the rest are NULL */
    bool takes_overlapped;   /* and begins an operation with it */
    DWORD answer;            /* of the good call */
};

#define FUNCTIONS 29
extern const struct function functions[FUNCTIONS];

/* What the calls work on. */
extern struct contract {
    const char *directory;
    HANDLE disk;         /* a VHDX, detached, with all rights */
    HANDLE child;        /* likewise, of a parent */
    HANDLE custom_chain; /* a child without its parent yet */
    HANDLE object;       /* a directory, by CreateFileW */
    OVERLAPPED finished; /* of an operation of `disk` that is over */
} contract;

/* The only metadata item of `disk` but for one that is there to be deleted,
 * and its content. */
extern const GUID contract_item;
#define CONTRACT_METADATA "value"
#define CONTRACT_ITEMS 2

void contract_begin(const char *directory);
void contract_end(void);

#endif
