/*
 * Waiting until an image that was attached is closed.
 */
#ifndef VD_ATTACH_CLOSING_H
#define VD_ATTACH_CLOSING_H

#include "attach/record.h"
#include "base/error.h"

/* Marks the open file that is about to serve the device, so that others can
 * wait for its end. */
VD_MUST_CHECK
vd_error vd_closing_mark(int image_fd, const struct vd_loop *loop);

/*
 * Returns when whoever served the device has let go of the image: everything
 * is in the file then, and its locks are free.  At once if the device is
 * still there or there was none; after half a minute, or if the image cannot
 * be found by its path any more, in any case.
 */
void vd_closing_wait(const struct vd_record *record);

#endif
