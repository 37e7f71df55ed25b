/*
 * Who may use an image at once.  See image_lock.h.
 *
 * All locks are shared ones, because no other kind can be placed through a
 * descriptor that is open for reading only; so they never exclude each other
 * by themselves.  An opener first places all of its locks and then tests for
 * those of others that stand against it.  Two who come at the same moment
 * see each other: at most one wins, and both may lose.
 *
 * The byte numbers are QEMU's (docs: "image locking").  A file system that
 * has no such locks gives ERROR_FILE_SYSTEM_LIMITATION: to go on without
 * them could destroy an image that a virtual machine is writing to.
 */
#include "disk/image_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/trace.h"

enum {
    LOCK_HELD = 100,       /* plus a permission: is used by the opener */
    LOCK_UNSHARED = 200,   /* plus a permission: others must not use it */
    LOCK_ATTACHMENT = 300, /* ours alone: one attachment at a time */
};

/* Marks: far behind those, and all of them in a range of their own. */
#define LOCK_MARKS ((off_t)1 << 40)
#define LOCK_MARKS_COUNT ((uint64_t)1 << 40)

enum {
    PERMISSION_CONSISTENT_READ = 1 << 0,
    PERMISSION_WRITE = 1 << 1,
    PERMISSION_WRITE_UNCHANGED = 1 << 2,
    PERMISSION_RESIZE = 1 << 3,
    PERMISSION_GRAPH_CHANGE = 1 << 4,
    PERMISSION_COUNT = 5,
};

struct lock_needs {
    unsigned held;
    unsigned unshared;
    bool attachment; /* is one, of which there is one at a time */
};

/* While we read, nobody may change what is read. */
static const struct lock_needs read_needs = {
    .held = PERMISSION_CONSISTENT_READ,
    .unshared = PERMISSION_WRITE | PERMISSION_RESIZE,
    .attachment = true,
};

/* The same for a parent, which any number of children may read. */
static const struct lock_needs parent_needs = {
    .held = PERMISSION_CONSISTENT_READ,
    .unshared = PERMISSION_WRITE | PERMISSION_RESIZE,
};

/* A reader who needs the data to stand still does not share writing with
 * others, so that to hold it keeps him out.  QEMU's own disks are held so. */
static const struct lock_needs write_needs = {
    .held = PERMISSION_CONSISTENT_READ | PERMISSION_WRITE | PERMISSION_RESIZE,
    .unshared = PERMISSION_WRITE | PERMISSION_RESIZE,
    .attachment = true,
};

static const struct lock_needs *
needs_of_mode(enum vd_lock_mode mode)
{
    switch (mode) {
    case VD_LOCK_WRITE:
        return &write_needs;
    case VD_LOCK_PARENT:
        return &parent_needs;
    case VD_LOCK_READ:
        break;
    }
    return &read_needs;
}

static struct flock
lock_of_byte(short type, off_t byte)
{
    return (struct flock){
        .l_type = type,
        .l_whence = SEEK_SET,
        .l_start = byte,
        .l_len = 1,
    };
}

static vd_error
lock_error(int error_number)
{
    switch (error_number) {
    case EAGAIN:
    case EACCES:
        return ERROR_SHARING_VIOLATION; /* a foreign exclusive lock */
    case EINVAL:
    case ENOLCK:
    case ENOSYS:
    case EOPNOTSUPP:
        vd_trace(VD_TRACE_DISK, "the file system has no file locks");
        return ERROR_FILE_SYSTEM_LIMITATION;
    default:
        return vd_error_from_errno(error_number);
    }
}

static vd_error
place_byte(int fd, off_t byte)
{
    struct flock lock = lock_of_byte(F_RDLCK, byte);
    if (fcntl(fd, F_OFD_SETLK, &lock) < 0) {
        return lock_error(errno);
    }
    return ERROR_SUCCESS;
}

/* Whether another open file holds any lock on the byte: an exclusive lock is
 * asked for, but never taken. */
static vd_error
look_at_byte(int fd, off_t byte, bool *locked_out)
{
    struct flock lock = lock_of_byte(F_WRLCK, byte);
    if (fcntl(fd, F_OFD_GETLK, &lock) < 0) {
        return lock_error(errno);
    }
    *locked_out = lock.l_type != F_UNLCK;
    return ERROR_SUCCESS;
}

static vd_error
test_byte(int fd, off_t byte)
{
    bool locked = false;
    vd_error error = look_at_byte(fd, byte, &locked);
    if (error == ERROR_SUCCESS && locked) {
        vd_trace(VD_TRACE_DISK, "the image is in use: byte %lld is locked",
                 (long long)byte);
        return ERROR_SHARING_VIOLATION;
    }
    return error;
}

typedef vd_error byte_function(int fd, off_t byte);

static vd_error
for_each_permission(int fd, unsigned permissions, int base,
                    byte_function *function)
{
    for (int p = 0; p < PERMISSION_COUNT; p++) {
        if ((permissions & 1u << p) == 0) {
            continue;
        }
        vd_error error = function(fd, base + p);
        if (error != ERROR_SUCCESS) {
            return error;
        }
    }
    return ERROR_SUCCESS;
}

static vd_error
place_all(int fd, const struct lock_needs *needs)
{
    vd_error error =
        for_each_permission(fd, needs->held, LOCK_HELD, place_byte);
    if (error == ERROR_SUCCESS) {
        error = for_each_permission(fd, needs->unshared, LOCK_UNSHARED,
                                    place_byte);
    }
    if (error == ERROR_SUCCESS && needs->attachment) {
        error = place_byte(fd, LOCK_ATTACHMENT);
    }
    return error;
}

/* Nobody may refuse what is held, nor hold what is refused. */
static vd_error
test_all(int fd, const struct lock_needs *needs)
{
    vd_error error = ERROR_SUCCESS;
    if (needs->attachment) {
        error = test_byte(fd, LOCK_ATTACHMENT);
    }
    if (error == ERROR_SUCCESS) {
        error = for_each_permission(fd, needs->held, LOCK_UNSHARED, test_byte);
    }
    if (error == ERROR_SUCCESS) {
        error = for_each_permission(fd, needs->unshared, LOCK_HELD, test_byte);
    }
    return error;
}

vd_error
vd_image_lock(int fd, enum vd_lock_mode mode)
{
    const struct lock_needs *needs = needs_of_mode(mode);
    vd_error error = place_all(fd, needs);
    if (error == ERROR_SUCCESS) {
        error = test_all(fd, needs);
    }
    if (error != ERROR_SUCCESS) {
        vd_image_unlock(fd);
    }
    return error;
}

vd_error
vd_image_lock_test(int fd, enum vd_lock_mode mode)
{
    return test_all(fd, needs_of_mode(mode));
}

static vd_error
release_byte(int fd, off_t byte)
{
    struct flock lock = lock_of_byte(F_UNLCK, byte);
    if (fcntl(fd, F_OFD_SETLK, &lock) < 0) {
        return lock_error(errno);
    }
    return ERROR_SUCCESS;
}

/* What the reader holds against writers, when the writer holds the same. */
static vd_error
release_against_writers(int fd)
{
    vd_error error = for_each_permission(fd, read_needs.unshared,
                                         LOCK_UNSHARED, release_byte);
    return error != ERROR_SUCCESS ? error : release_byte(fd, LOCK_ATTACHMENT);
}

vd_error
vd_image_lock_lend(int attached_fd, int writer_fd)
{
    vd_error error = place_all(writer_fd, &write_needs);
    if (error == ERROR_SUCCESS) {
        error = release_against_writers(attached_fd);
    }
    if (error == ERROR_SUCCESS) {
        error = test_all(writer_fd, &write_needs);
    }
    if (error != ERROR_SUCCESS) {
        (void)vd_image_lock_return(attached_fd, writer_fd);
    }
    return error;
}

vd_error
vd_image_lock_return(int attached_fd, int writer_fd)
{
    vd_error error = place_all(attached_fd, &read_needs);
    vd_image_unlock(writer_fd);
    return error;
}

static off_t
byte_of_mark(uint64_t number)
{
    return LOCK_MARKS + (off_t)(number % LOCK_MARKS_COUNT);
}

vd_error
vd_image_lock_mark(int fd, uint64_t number)
{
    return place_byte(fd, byte_of_mark(number));
}

bool
vd_image_lock_marked(int fd, uint64_t number)
{
    bool locked = false;
    return look_at_byte(fd, byte_of_mark(number), &locked) == ERROR_SUCCESS &&
           locked;
}

void
vd_image_unlock(int fd)
{
    struct flock lock = lock_of_byte(F_UNLCK, 0);
    lock.l_len = 0; /* to the end, however far */
    (void)fcntl(fd, F_OFD_SETLK, &lock);
}
