/*
 * The directory of records: who finds, writes, locks and sweeps it.
 *
 * root has /run/virtdisk; another user $XDG_RUNTIME_DIR/virtdisk, or, without
 * such a directory, no registry at all (his attachments are then known only
 * to the process that made them).  Everybody may read root's.
 *
 * A record is believed only as far as the kernel confirms it: one with a
 * device while that device shows that image, one with a file while that is
 * served, one with neither while its attacher lives, which is shown by a lock
 * on the record's file.  What is not
 * confirmed is removed by the next who may.
 *
 * Lock order: the lock of one record (vd_registry_lock_record), then the
 * registry's (vd_registry_lock), then those of held.h.
 */
#ifndef VD_ATTACH_REGISTRY_H
#define VD_ATTACH_REGISTRY_H

#include <stdbool.h>
#include <stddef.h>

#include "attach/record.h"
#include "base/error.h"

/* A record and its open file. */
struct vd_entry {
    struct vd_record record;
    int fd;
};

/* The directory for attachments of this user; free with free().
 * ERROR_NOT_FOUND if he has none. */
VD_MUST_CHECK
vd_error vd_registry_path(char **path_out);

/* $XDG_RUNTIME_DIR/virtdisk, also root's.  ERROR_NOT_FOUND if that variable
 * names no directory of the caller's own. */
VD_MUST_CHECK
vd_error vd_registry_user_path(char **path_out);

/* ERROR_NOT_FOUND if the directory is not there and is not to be made;
 * ERROR_ACCESS_DENIED if it is a symbolic link, or others may write to it. */
VD_MUST_CHECK
vd_error vd_registry_open(const char *path, bool create, int *dir_out);

/* Waits until nobody else changes the registry; close *lock_out to end it.
 * ERROR_PRIVILEGE_NOT_HELD if it is somebody else's. */
VD_MUST_CHECK
vd_error vd_registry_lock(int dir, int *lock_out);

/*
 * The confirmed records; free with vd_registry_free.  The unconfirmed ones
 * are removed, and their nodes' access restored, if sweep is set: the caller
 * then holds the lock.
 */
VD_MUST_CHECK
vd_error vd_registry_read(int dir, bool sweep, struct vd_record **out,
                          size_t *count_out);
void vd_registry_free(struct vd_record *records, size_t count);

/* Opens the record of this name, detaching or not.  ERROR_NOT_FOUND. */
VD_MUST_CHECK
vd_error vd_registry_find(int dir, const char *name, struct vd_entry *out);
void vd_entry_close(struct vd_entry *entry);

/*
 * Writes a record, in one step for all who read.  One without a device gets
 * its name here; an older one of the same device is swept.  *fd_out is the
 * record's file with the lock of a living attacher.  The caller holds the
 * lock.
 */
VD_MUST_CHECK
vd_error vd_registry_add(int dir, struct vd_record *record, int *fd_out);

/* Removes the record of this name if it is not confirmed (any more).  The
 * caller holds the lock. */
void vd_registry_sweep(int dir, const char *name);

/* Sweeps what an earlier attachment of a device, which its new owner knows to
 * be over, has left.  The caller holds the lock. */
void vd_registry_supersede(int dir, const char *name);

/* Takes the lock of a living attacher, without waiting. */
VD_MUST_CHECK
vd_error vd_registry_mark_alive(int record_fd);

void vd_registry_mark_dead(int record_fd);

/* Whether anybody else has that lock. */
bool vd_registry_alive(int record_fd);

/* Waits until nobody else is detaching this record; ends with the open
 * file. */
VD_MUST_CHECK
vd_error vd_registry_lock_record(int record_fd);

/* Whether record_fd is still the record of that name; *detaching_out says
 * which of its two names it has. */
bool vd_registry_current(int dir, const char *name, int record_fd,
                         bool *detaching_out);

/* Whether it is, and nobody is detaching it.  By path: it needs no further
 * descriptor, and a want of them must not look like an answer. */
bool vd_registry_undisturbed(const char *path, const char *name,
                             int record_fd);

/* Marks a record as being detached, or not. */
VD_MUST_CHECK
vd_error vd_registry_set_detaching(int dir, const char *name, bool detaching);

void vd_registry_remove(int dir, const char *name, bool detaching);

#endif
