/*
 * Who may ask for work on a disk that is attached, and compacting one that is
 * so for reading only: for as long as that takes the image is open for
 * writing, and nobody who reads notices.
 */
#ifndef VD_DISK_UPKEEP_H
#define VD_DISK_UPKEEP_H

#include "base/error.h"
#include "disk/compact.h"
#include "disk/disk.h"
#include "disk/progress.h"

/* Whether fd is the image of the disk, open for reading and writing: who has
 * that could change it himself.  ERROR_INVALID_PARAMETER. */
VD_MUST_CHECK
vd_error vd_disk_check_writer(const struct vd_disk *disk, int fd);

/*
 * Compacts a disk that vd_disk_open_files has opened for reading, whose image
 * file carries the locks of an attachment (VD_LOCK_READ).  fd: an open file
 * of the same image of its own, for reading and writing, without locks; it
 * stays the caller's.  One at a time; reading goes on.
 *
 * Errors: ERROR_INVALID_PARAMETER (fd is not that), ERROR_VHD_INVALID_STATE
 * (the disk is open for writing), ERROR_SHARING_VIOLATION (others read the
 * image too), and those of vd_disk_compact.
 */
VD_MUST_CHECK
vd_error vd_disk_compact_attached(struct vd_disk *disk, int fd,
                                  const struct vd_compact_options *options,
                                  struct vd_progress *progress);

#endif
