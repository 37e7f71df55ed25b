/*
 * The file that a disk is shown as where no device can be made: in
 * $XDG_RUNTIME_DIR/virtdisk, "disk-1", "disk-2" and so on, each a mount of
 * its own over an empty file of that name (server/keeper.h).
 *
 * It lives while its server has the image open and marked.  The mount alone
 * tells less: in another mount namespace it is not seen.
 */
#ifndef VD_ATTACH_SHOWN_H
#define VD_ATTACH_SHOWN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct vd_shown {
    char *path;      /* owned; NULL: not shown as a file */
    uint64_t number; /* in its name */
    uint64_t mark;   /* on the image, of this attachment alone */
};

struct vd_record;

/* Whether this user can have such files at all. */
bool vd_shown_possible(void);

/*
 * Chooses a name and makes the empty file.  Its lock, an flock of *file_out,
 * keeps the name; the keeper takes it over.  Free with vd_shown_clear.  The
 * caller holds the registry's lock.  ERROR_ACCESS_DENIED if the directory is
 * open to others.
 */
VD_MUST_CHECK
vd_error vd_shown_new(struct vd_shown *out, int *file_out);
void vd_shown_clear(struct vd_shown *shown);

/* Whether the record's file is still being served. */
bool vd_shown_alive(const struct vd_record *record);

/* Brings what was written to the image. */
VD_MUST_CHECK
vd_error vd_shown_flush(const struct vd_shown *shown);

/* Unmounts it; false if it is still open somewhere after that time. */
bool vd_shown_end(const struct vd_record *record, unsigned limit_ms);

/* Waits until the server has let go of the image and the keeper of the path;
 * half a minute at most. */
void vd_shown_wait(const struct vd_record *record);

/* Removes what is there of a file that is over, or is to be, whoever has it
 * open; not what its keeper is about to remove himself. */
void vd_shown_remove(const struct vd_shown *shown);

#endif
