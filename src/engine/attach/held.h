/*
 * The attachments that this process holds: all that are not permanent.
 *
 * The one global of attach/.  It is needed because a forked child must not
 * keep its parent's devices, and because another process asks this one to
 * let go of a device by taking its record away: a watcher thread, which is
 * there while anything is held, sees that.
 */
#ifndef VD_ATTACH_HELD_H
#define VD_ATTACH_HELD_H

#include <stdbool.h>

#include "attach/attachment.h"
#include "base/error.h"

/* Around everything that has descriptors which a forked child must not
 * inherit: fork() waits until nobody is inside.  Not recursive. */
VD_MUST_CHECK
vd_error vd_held_enter(void);
void vd_held_leave(void);

/* Takes an attachment with its descriptors in.  Starts the watcher if there
 * is a record to be watched. */
VD_MUST_CHECK
vd_error vd_held_add(struct vd_attachment *attachment);

/* Closes its descriptors; with the last one the watcher is told to end.
 * Harmless for an attachment that was never taken in. */
void vd_held_remove(struct vd_attachment *attachment);

/* Looks at the record of this name (NULL: at all) and lets go of what it is
 * gone for, or takes up again what could not be detached after all. */
void vd_held_recheck(const char *name);

/* The same for one attachment, whatever its record says. */
void vd_held_let_go(struct vd_attachment *attachment);
void vd_held_take_up_again(struct vd_attachment *attachment);

bool vd_held_has_let_go(struct vd_attachment *attachment);

#endif
