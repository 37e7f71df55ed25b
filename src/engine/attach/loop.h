/*
 * The kernel's loop devices (Linux 5.8 or later, for LOOP_CONFIGURE).
 *
 * A device is named "loop3".  Its sequence is the kernel's diskseq: another
 * number for every image it ever shows, so that a name that was given to
 * somebody else is noticed; 0 where the kernel (before 5.15) has none.
 */
#ifndef VD_ATTACH_LOOP_H
#define VD_ATTACH_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "disk/disk.h"

#define VD_LOOP_NAME_SIZE 16

struct vd_loop_options {
    int image_fd; /* the kernel keeps the open file, locks included */
    const char *image_path; /* only to be shown */
    uint64_t offset;        /* of the image file, bytes */
    uint64_t length;        /* 0: to its end, wherever that comes to be */
    uint32_t sector_size;
    bool read_only;
    bool direct_io; /* where the host's file system can */
    bool scan_partitions;
};

/* Which device, and whether it is still the same one. */
struct vd_loop {
    char name[VD_LOOP_NAME_SIZE];
    uint64_t sequence;
    struct vd_file_id file_id; /* of the image */
};

/* Whether this process may make devices at all; yes, if it cannot be told. */
bool vd_loop_permitted(void);

/*
 * Sets up a free device and opens it exclusively: nobody can mount it before
 * *claim_out is closed.  Autoclear is on, so closing is also the way to undo
 * it.  Errors: ERROR_PRIVILEGE_NOT_HELD; ERROR_NOT_SUPPORTED (no loop driver,
 * or one without LOOP_CONFIGURE); ERROR_DEV_NOT_EXIST (the kernel has the
 * device but /dev has no node for it, as in some containers);
 * ERROR_NO_SYSTEM_RESOURCES (no free device within five seconds);
 * ERROR_IO_DEVICE (the device is not as large as asked for).
 */
VD_MUST_CHECK
vd_error vd_loop_create(const struct vd_loop_options *options,
                        struct vd_loop *loop_out, int *claim_out);

/* Whether the device still shows the image; yes, if it cannot be told. */
bool vd_loop_bound(const struct vd_loop *loop);

/* Opens the device for as long as it is to live.  ERROR_NOT_READY if it shows
 * the image no more. */
VD_MUST_CHECK
vd_error vd_loop_hold(const struct vd_loop *loop, int *fd_out);

/* The same, to write to it. */
VD_MUST_CHECK
vd_error vd_loop_open_writable(const struct vd_loop *loop, int *fd_out);

/* Opens it exclusively: ERROR_BUSY if it is mounted or otherwise claimed, in
 * whatever mount namespace. */
VD_MUST_CHECK
vd_error vd_loop_claim(const struct vd_loop *loop, int *fd_out);

/* Opens it to change its size, which the kernel has said that it lets this
 * process do.  ERROR_ACCESS_DENIED if it does not; ERROR_NOT_READY. */
VD_MUST_CHECK
vd_error vd_loop_open_capacity(const struct vd_loop *loop, int *fd_out);

/* Makes the device as long as its file, which has been given so many bytes,
 * and brings nothing but that about: it is the caller's to know that the
 * kernel may ask for the file's length.  ERROR_IO_DEVICE if it comes to
 * another one. */
VD_MUST_CHECK
vd_error vd_loop_follow(int fd, uint64_t length);

/* What a device shows of its file: lo_offset and lo_sizelimit. */
struct vd_loop_range {
    uint64_t offset;
    uint64_t length;
};

/* As vd_loop_open_capacity, of a device that shows a part of its file. */
VD_MUST_CHECK
vd_error vd_loop_open_range(const struct vd_loop *loop, int *fd_out,
                            struct vd_loop_range *range_out);

/* Lets the device show so many bytes of its file, or as many as there are.
 * I/O under way has ended before.  ERROR_BUSY if the kernel does not do that
 * because of what is in the device's page cache (older ones, if a file system
 * is mounted that has the whole of it). */
VD_MUST_CHECK
vd_error vd_loop_limit(int fd, uint64_t length);

/* Brings what was written to the device to its file, and forgets what was
 * read, which others have changed or may. */
VD_MUST_CHECK
vd_error vd_loop_sync(int fd);

/* Whether the kernel is to free the device when the last opener closes it. */
VD_MUST_CHECK
vd_error vd_loop_autoclear(int fd, bool *autoclear_out);
VD_MUST_CHECK
vd_error vd_loop_set_autoclear(int fd, bool autoclear);

/* Frees the device when fd is closed, and says true, if fd is its only
 * opener; otherwise only turns autoclear on. */
VD_MUST_CHECK
vd_error vd_loop_clear(int fd, bool *cleared_out);

/* As vd_error_from_errno, for a device node: EACCES and EPERM mean a missing
 * privilege. */
vd_error vd_loop_error(int error_number);

#endif
