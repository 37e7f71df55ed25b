/*
 * Who may use an image at once: open-file-description locks at the byte
 * offsets that QEMU uses (a shared lock on byte 100+p for each permission p
 * held and on 200+p for each permission not shared with others), so that a
 * running virtual machine and an attachment refuse each other, plus one byte
 * of our own that only one attachment may hold.
 *
 * The locks belong to the open file description: they live as long as
 * anybody, the loop driver included, holds that open file.
 */
#ifndef VD_DISK_IMAGE_LOCK_H
#define VD_DISK_IMAGE_LOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum vd_lock_mode {
    VD_LOCK_READ,   /* attach read-only: others may read */
    VD_LOCK_WRITE,  /* attach read-write: only those who read without minding
                       changes, as beside a running virtual machine */
    VD_LOCK_PARENT, /* the image stands below another: others may read it,
                       attach it read-only and have it as a parent too */
};

/* Takes the locks of an attachment on fd.  ERROR_SHARING_VIOLATION, with
 * nothing held, if another opener stands against it. */
VD_MUST_CHECK
vd_error vd_image_lock(int fd, enum vd_lock_mode mode);

/*
 * For an attachment that reads (VD_LOCK_READ on attached_fd) and wants to
 * write through another open file for a while: takes the locks of a writer on
 * writer_fd, in such an order that nobody can come between.
 * ERROR_SHARING_VIOLATION, with everything as before, if there are other
 * readers.
 */
VD_MUST_CHECK
vd_error vd_image_lock_lend(int attached_fd, int writer_fd);

/* The end of that: attached_fd has its locks again, writer_fd none.  An
 * error: the system had no room for them, and writers are not kept out. */
vd_error vd_image_lock_return(int attached_fd, int writer_fd);

/* Whether vd_image_lock would succeed now; takes nothing. */
VD_MUST_CHECK
vd_error vd_image_lock_test(int fd, enum vd_lock_mode mode);

/*
 * Marks an open file with a number: for as long as it is open anywhere, the
 * image has that mark.  So others can wait until an attachment, and no later
 * one, has let go of its image.
 */
VD_MUST_CHECK
vd_error vd_image_lock_mark(int fd, uint64_t number);

/* Whether another open file of the image has that mark. */
bool vd_image_lock_marked(int fd, uint64_t number);

/* Gives all locks of this open file back. */
void vd_image_unlock(int fd);

#endif
