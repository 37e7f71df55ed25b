/*
 * Running another program.
 */
#ifndef VD_SERVER_SPAWN_H
#define VD_SERVER_SPAWN_H

#include <stdbool.h>

struct vd_spawn {
    const char *path;         /* absolute */
    char *const *arguments;   /* with its own name; NULL at the end */
    char *const *environment; /* all of it; NULL at the end */
    int passed;               /* a descriptor that it gets, -1: none */
    int passed_as;            /* ... under this number, which it does not have
                                 here; with `silent` none of the three */
    bool silent;              /* without standard input, output and, unless
                                 VIRTDISK_DEBUG is set, error */
};

/* Runs it and waits until it has ended; how it ended is not told, because
 * the calling program may wait for all children itself.  Returns 0, or an
 * errno value if it was not started. */
int vd_spawn_run(const struct vd_spawn *spawn);

#endif
