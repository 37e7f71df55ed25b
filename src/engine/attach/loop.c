/*
 * Loop devices: finding a free one, setting it up, asking and freeing it.
 *
 * Other processes take and free devices at the same moment; the kernel then
 * answers EBUSY, ENXIO or EAGAIN, or the new device has no node yet, and all
 * that is tried again with another device.  Knows nothing of partitions
 * beyond the kernel's own scan, of records or of node access.
 *
 * Source: linux/loop.h; drivers/block/loop.c for what the calls mean.
 */
#include "attach/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <linux/fs.h>
#include <linux/loop.h>

#include "attach/paths.h"
#include "attach/text.h"
#include "attach/wait.h"
#include "base/cleanup.h"
#include "base/trace.h"

#define CREATE_LIMIT_MS 5000

#define LOOP_MAJOR_NUMBER 7 /* linux/major.h, LOOP_MAJOR */

/* The kernel headers of older build systems lack what kernels have. */
#ifndef LOOP_CONFIGURE
#define LOOP_CONFIGURE 0x4C0A
struct loop_config {
    __u32 fd;
    __u32 block_size;
    struct loop_info64 info;
    __u64 reserved[8];
};
#endif

_Static_assert(sizeof(struct loop_config) == 304, "the kernel's layout");

/* An attempt at one device: what it came to, and whether to try another. */
struct attempt {
    vd_error error;
    bool again;
};

static const struct attempt attempt_done = {ERROR_SUCCESS, false};

static struct attempt
give_up(vd_error error)
{
    return (struct attempt){error, false};
}

static struct attempt
try_again(vd_error error)
{
    return (struct attempt){error, true};
}

vd_error
vd_loop_error(int error_number)
{
    if (error_number == EACCES || error_number == EPERM) {
        return ERROR_PRIVILEGE_NOT_HELD;
    }
    return vd_error_from_errno(error_number);
}

static vd_error
open_control(int *control_out)
{
    int control = open(VD_PATH_LOOP_CONTROL, O_RDWR | O_CLOEXEC);
    if (control >= 0) {
        *control_out = control;
        return ERROR_SUCCESS;
    }
    int error_number = errno;
    vd_trace(VD_TRACE_ATTACH, "%s: %s", VD_PATH_LOOP_CONTROL,
             strerror(error_number));
    if (error_number == ENOENT || error_number == ENODEV ||
        error_number == ENXIO) {
        return ERROR_NOT_SUPPORTED;
    }
    return vd_loop_error(error_number);
}

bool
vd_loop_permitted(void)
{
    VD_AUTO_CLOSE int control = -1;
    return open_control(&control) != ERROR_PRIVILEGE_NOT_HELD;
}

/* Opens a loop device's node, and nothing else that has its name. */
static int
open_node(const char *name, int flags)
{
    char path[sizeof(VD_PATH_DEV) + VD_LOOP_NAME_SIZE];
    struct stat status;
    if (!vd_text_format(path, sizeof(path), VD_PATH_DEV "/%s", name)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    VD_AUTO_CLOSE int fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &status) < 0) {
        return -1;
    }
    if (!S_ISBLK(status.st_mode) ||
        major(status.st_rdev) != LOOP_MAJOR_NUMBER) {
        errno = ENODEV;
        return -1;
    }
    return vd_take_fd(&fd);
}

static struct attempt
open_free_device(const char *name, bool read_only, int *fd_out)
{
    int fd = open_node(name, (read_only ? O_RDONLY : O_RDWR) | O_EXCL);
    if (fd >= 0) {
        *fd_out = fd;
        return attempt_done;
    }
    int error_number = errno;
    vd_trace(VD_TRACE_ATTACH, "opening free %s: %s", name,
             strerror(error_number));
    switch (error_number) {
    case ENOENT: /* devtmpfs or udev makes it any moment, or nobody will */
        return try_again(ERROR_DEV_NOT_EXIST);
    case EBUSY:
    case ENXIO:
    case EAGAIN:
    case EINTR:
        return try_again(ERROR_NO_SYSTEM_RESOURCES);
    default:
        return give_up(vd_loop_error(error_number));
    }
}

static void
copy_label(const char *path, __u8 label[LO_NAME_SIZE])
{
    size_t length = strlen(path);
    size_t room = LO_NAME_SIZE - 1;
    if (length > room) { /* the end of a path tells more than its start */
        path += length - room;
        length = room;
    }
    memcpy(label, path, length);
}

static struct loop_config
configuration(const struct vd_loop_options *options, bool direct_io)
{
    struct loop_config config = {
        .fd = (__u32)options->image_fd,
        .block_size = options->sector_size,
    };
    config.info.lo_offset = options->offset;
    config.info.lo_sizelimit = options->length;
    config.info.lo_flags =
        (__u32)LO_FLAGS_AUTOCLEAR |
        (options->read_only ? (__u32)LO_FLAGS_READ_ONLY : 0) |
        (options->scan_partitions ? (__u32)LO_FLAGS_PARTSCAN : 0) |
        (direct_io ? (__u32)LO_FLAGS_DIRECT_IO : 0);
    copy_label(options->image_path, config.info.lo_file_name);
    return config;
}

/* Returns 0 or an errno value.  Kernels before 6.17 take the size that they
 * remember of the file, and of one that is served they remember none before
 * somebody has asked. */
static int
configure(int fd, const struct vd_loop_options *options)
{
    struct loop_config config = configuration(options, options->direct_io);
    struct stat status;
    if (fstat(options->image_fd, &status) < 0) {
        return errno;
    }
    if (ioctl(fd, LOOP_CONFIGURE, &config) == 0) {
        return 0;
    }
    if (errno != EINVAL || !options->direct_io) {
        return errno;
    }
    /* Most kernels quietly do without; be ready for one that refuses. */
    vd_trace(VD_TRACE_ATTACH, "direct I/O refused, going on without");
    config = configuration(options, false);
    return ioctl(fd, LOOP_CONFIGURE, &config) == 0 ? 0 : errno;
}

/* The kernel keeps this mark when a device is cleared: whoever used the number
 * before may have left it there. */
static void
clear_read_only(int fd)
{
    int read_only = 0;
    if (ioctl(fd, BLKROSET, &read_only) < 0) {
        vd_trace(VD_TRACE_ATTACH, "BLKROSET: %s", strerror(errno));
    }
}

static struct attempt
configure_device(int fd, const struct vd_loop_options *options)
{
    int error_number = configure(fd, options);
    if (error_number == 0) {
        if (!options->read_only) {
            clear_read_only(fd);
        }
        return attempt_done;
    }
    vd_trace(VD_TRACE_ATTACH, "LOOP_CONFIGURE: %s", strerror(error_number));
    switch (error_number) {
    case EBUSY:
    case ENXIO:
    case EAGAIN:
    case EINTR:
        return try_again(ERROR_NO_SYSTEM_RESOURCES);
    case EINVAL: /* also what kernels before 5.8 say to an unknown ioctl */
    case ENOTTY:
        return give_up(ERROR_NOT_SUPPORTED);
    default:
        return give_up(vd_loop_error(error_number));
    }
}

/* 0 if the kernel has none. */
static vd_error
read_sequence(const char *name, uint64_t *sequence_out)
{
    char path[64];
    char line[32];
    if (!vd_text_format(path, sizeof(path), VD_PATH_BLOCK "/%s/diskseq",
                        name)) {
        return ERROR_INVALID_NAME;
    }
    vd_error error = vd_text_read_line(path, line, sizeof(line));
    if (error == ERROR_FILE_NOT_FOUND) {
        *sequence_out = 0;
        return ERROR_SUCCESS;
    }
    if (error == ERROR_SUCCESS && !vd_text_number(line, sequence_out)) {
        error = ERROR_INVALID_DATA;
    }
    return error;
}

/* Of a file that has become shorter the kernel shows what there is. */
static vd_error
check_size(int fd, const struct vd_loop_options *options)
{
    struct stat status;
    uint64_t bytes;
    if (fstat(options->image_fd, &status) < 0 ||
        ioctl(fd, BLKGETSIZE64, &bytes) < 0) {
        return vd_error_from_errno(errno);
    }
    uint64_t wanted = options->length != 0
                          ? options->length
                          : (uint64_t)status.st_size - options->offset;
    if (bytes != wanted) {
        vd_trace(VD_TRACE_ATTACH, "a device of %llu bytes, not %llu",
                 (unsigned long long)bytes, (unsigned long long)wanted);
        return ERROR_IO_DEVICE;
    }
    return ERROR_SUCCESS;
}

/* A node may have been made with another device's number. */
static struct attempt
check_device(int fd, unsigned number, const struct vd_loop_options *options,
             struct vd_loop *loop)
{
    struct loop_info64 info;
    if (ioctl(fd, LOOP_GET_STATUS64, &info) < 0) {
        return give_up(vd_loop_error(errno));
    }
    if (info.lo_number != number) {
        vd_trace(VD_TRACE_ATTACH, "node %s is of loop%u", loop->name,
                 info.lo_number);
        return give_up(ERROR_DEV_NOT_EXIST);
    }
    if (options->direct_io && (info.lo_flags & LO_FLAGS_DIRECT_IO) == 0) {
        vd_trace(VD_TRACE_ATTACH, "%s: no direct I/O on this file system",
                 loop->name);
    }
    loop->file_id = (struct vd_file_id){info.lo_device, info.lo_inode};
    vd_error error = check_size(fd, options);
    return give_up(error != ERROR_SUCCESS
                       ? error
                       : read_sequence(loop->name, &loop->sequence));
}

static struct attempt
create_once(int control, const struct vd_loop_options *options,
            struct vd_loop *loop_out, int *claim_out)
{
    struct vd_loop loop = {.sequence = 0};
    VD_AUTO_CLOSE int fd = -1;
    int number = ioctl(control, LOOP_CTL_GET_FREE);
    if (number < 0) {
        vd_trace(VD_TRACE_ATTACH, "LOOP_CTL_GET_FREE: %s", strerror(errno));
        return errno == EACCES || errno == EPERM
                   ? give_up(ERROR_PRIVILEGE_NOT_HELD)
                   : give_up(ERROR_NO_SYSTEM_RESOURCES);
    }
    if (!vd_text_format(loop.name, sizeof(loop.name), "loop%d", number)) {
        return give_up(ERROR_NO_SYSTEM_RESOURCES);
    }
    struct attempt attempt =
        open_free_device(loop.name, options->read_only, &fd);
    if (attempt.error == ERROR_SUCCESS) {
        attempt = configure_device(fd, options);
    }
    if (attempt.error == ERROR_SUCCESS) {
        attempt = check_device(fd, (unsigned)number, options, &loop);
    }
    if (attempt.error == ERROR_SUCCESS) {
        *loop_out = loop;
        *claim_out = vd_take_fd(&fd);
    }
    return attempt; /* autoclear: closing fd undoes what was done */
}

vd_error
vd_loop_create(const struct vd_loop_options *options, struct vd_loop *loop_out,
               int *claim_out)
{
    VD_AUTO_CLOSE int control = -1;
    vd_error error = open_control(&control);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    struct vd_wait wait = vd_wait_begin(CREATE_LIMIT_MS);
    for (;;) {
        struct attempt attempt =
            create_once(control, options, loop_out, claim_out);
        if (!attempt.again || !vd_wait_more(&wait)) {
            return attempt.error;
        }
    }
}

/* Whether an open device shows this image; only the kernel is asked. */
static bool
shows_image(int fd, struct vd_file_id file_id)
{
    struct loop_info64 info;
    return ioctl(fd, LOOP_GET_STATUS64, &info) == 0 &&
           info.lo_device == file_id.device && info.lo_inode == file_id.inode;
}

/* For kernels without diskseq, and where there is no /sys. */
static vd_error
check_by_status(const struct vd_loop *loop, bool *bound_out)
{
    VD_AUTO_CLOSE int fd = open_node(loop->name, O_RDONLY);
    if (fd < 0 && errno != ENXIO) {
        return vd_loop_error(errno);
    }
    *bound_out = fd >= 0 && shows_image(fd, loop->file_id);
    return ERROR_SUCCESS;
}

/* Whether the kernel has any image in the device. */
static vd_error
check_in_use(const struct vd_loop *loop, bool *used_out)
{
    char path[64];
    if (!vd_text_format(path, sizeof(path), VD_PATH_BLOCK "/%s/loop",
                        loop->name)) {
        return ERROR_INVALID_NAME;
    }
    *used_out = access(path, F_OK) == 0;
    return *used_out || errno == ENOENT ? ERROR_SUCCESS
                                        : vd_error_from_errno(errno);
}

/* An error if it cannot be told. */
static vd_error
check_bound(const struct vd_loop *loop, bool *bound_out)
{
    uint64_t sequence;
    bool used;
    if (access(VD_PATH_BLOCK, F_OK) != 0) {
        return check_by_status(loop, bound_out);
    }
    vd_error error = check_in_use(loop, &used);
    if (error == ERROR_SUCCESS && !used) {
        *bound_out = false;
        return ERROR_SUCCESS;
    }
    if (error == ERROR_SUCCESS) {
        error = read_sequence(loop->name, &sequence);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (sequence == 0 || loop->sequence == 0) {
        return check_by_status(loop, bound_out);
    }
    *bound_out = sequence == loop->sequence;
    return ERROR_SUCCESS;
}

bool
vd_loop_bound(const struct vd_loop *loop)
{
    bool bound;
    vd_error error = check_bound(loop, &bound);
    if (error != ERROR_SUCCESS) {
        vd_trace(VD_TRACE_ATTACH, "cannot tell what %s shows: error %u",
                 loop->name, error);
        return true;
    }
    return bound;
}

/* While fd is open the device cannot become another, so that what is checked
 * afterwards stays true. */
static vd_error
open_bound(const struct vd_loop *loop, int flags, int *fd_out)
{
    VD_AUTO_CLOSE int fd = open_node(loop->name, flags);
    if (fd < 0) {
        int error_number = errno;
        vd_trace(VD_TRACE_ATTACH, "opening %s: %s", loop->name,
                 strerror(error_number));
        return error_number == ENXIO ? ERROR_NOT_READY
                                     : vd_loop_error(error_number);
    }
    bool bound = false;
    vd_error error = check_bound(loop, &bound);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (!bound || !shows_image(fd, loop->file_id)) {
        vd_trace(VD_TRACE_ATTACH, "%s shows another image", loop->name);
        return ERROR_NOT_READY;
    }
    *fd_out = vd_take_fd(&fd);
    return ERROR_SUCCESS;
}

vd_error
vd_loop_hold(const struct vd_loop *loop, int *fd_out)
{
    return open_bound(loop, O_RDONLY, fd_out);
}

vd_error
vd_loop_open_writable(const struct vd_loop *loop, int *fd_out)
{
    return open_bound(loop, O_RDWR, fd_out);
}

vd_error
vd_loop_claim(const struct vd_loop *loop, int *fd_out)
{
    return open_bound(loop, O_RDONLY | O_EXCL, fd_out);
}

vd_error
vd_loop_autoclear(int fd, bool *autoclear_out)
{
    struct loop_info64 info;
    if (ioctl(fd, LOOP_GET_STATUS64, &info) < 0) {
        return vd_loop_error(errno);
    }
    *autoclear_out = (info.lo_flags & LO_FLAGS_AUTOCLEAR) != 0;
    return ERROR_SUCCESS;
}

vd_error
vd_loop_set_autoclear(int fd, bool autoclear)
{
    struct loop_info64 info;
    if (ioctl(fd, LOOP_GET_STATUS64, &info) < 0) {
        return vd_loop_error(errno);
    }
    info.lo_flags &= ~(__u32)LO_FLAGS_AUTOCLEAR;
    info.lo_flags |= autoclear ? (__u32)LO_FLAGS_AUTOCLEAR : 0;
    if (ioctl(fd, LOOP_SET_STATUS64, &info) < 0) {
        vd_trace(VD_TRACE_ATTACH, "LOOP_SET_STATUS64: %s", strerror(errno));
        return vd_loop_error(errno);
    }
    return ERROR_SUCCESS;
}

vd_error
vd_loop_clear(int fd, bool *cleared_out)
{
    struct loop_info64 info;
    if (ioctl(fd, LOOP_CLR_FD) < 0 && errno != ENXIO) {
        vd_trace(VD_TRACE_ATTACH, "LOOP_CLR_FD: %s", strerror(errno));
        return vd_loop_error(errno);
    }
    /* A device that is only waiting for other openers still has a status. */
    *cleared_out = ioctl(fd, LOOP_GET_STATUS64, &info) < 0 && errno == ENXIO;
    return ERROR_SUCCESS;
}
