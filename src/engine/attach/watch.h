/*
 * A thread that sees files of a directory go and come.
 */
#ifndef VD_ATTACH_WATCH_H
#define VD_ATTACH_WATCH_H

#include "base/error.h"

struct vd_watch;

/* What is called on the thread. */
struct vd_watcher {
    /* With a file's name, or with NULL if anything may have happened. */
    void (*changed)(const char *name);
    /* All descriptors are closed; nothing is called after this. */
    void (*ended)(void);
};

/* watcher must outlive the thread. */
VD_MUST_CHECK
vd_error vd_watch_start(const struct vd_watcher *watcher,
                        struct vd_watch **out);

/* Watching a directory twice is watching it once. */
VD_MUST_CHECK
vd_error vd_watch_directory(struct vd_watch *watch, const char *path);

/* Tells the thread to end, and does not wait for it: watcher's functions may
 * still be called, until `ended` is.  The watch is the thread's from here. */
void vd_watch_stop(struct vd_watch *watch);

/* In a forked child, which has no such thread.  Accepts NULL. */
void vd_watch_abandon(struct vd_watch *watch);

#endif
