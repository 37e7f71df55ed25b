/*
 * A thread that sees files of a directory go and come.
 */
#ifndef VD_ATTACH_WATCH_H
#define VD_ATTACH_WATCH_H

#include "base/error.h"

struct vd_watch;

/* changed is called on the thread with a file's name, or with NULL if
 * anything may have happened. */
VD_MUST_CHECK
vd_error vd_watch_start(void (*changed)(const char *name),
                        struct vd_watch **out);

/* Watching a directory twice is watching it once. */
VD_MUST_CHECK
vd_error vd_watch_directory(struct vd_watch *watch, const char *path);

/* Returns when the thread has ended.  Not to be called on it.  Accepts
 * NULL. */
void vd_watch_stop(struct vd_watch *watch);

/* In a forked child, which has no such thread.  Accepts NULL. */
void vd_watch_abandon(struct vd_watch *watch);

#endif
