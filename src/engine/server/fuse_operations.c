/*
 * The operations on the file (fuse_operations.h).
 *
 * The file is opened for direct I/O, with writes in parallel: nothing of it
 * is in the page cache twice, the loop driver's own direct I/O passes
 * straight through, and its requests do not wait for each other.
 *
 * What is not in the table is ENOSYS, which the kernel remembers for most
 * operations and then does without: extended attributes, locks, ACCESS,
 * LSEEK, INTERRUPT (a request is never abandoned halfway) and so on.
 */
#include "server/fuse_operations.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/falloc.h>
#include <linux/fuse.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "server/log.h"

/* The kernel headers of older build systems lack what kernels have. */
#ifndef FUSE_MAX_PAGES
#define FUSE_MAX_PAGES (1 << 22)
#endif
#ifndef FOPEN_PARALLEL_DIRECT_WRITES
#define FOPEN_PARALLEL_DIRECT_WRITES (1 << 6)
#endif

/* struct fuse_init_out as it is since 7.28. */
struct init_reply {
    uint32_t major;
    uint32_t minor;
    uint32_t max_readahead;
    uint32_t flags;
    uint16_t max_background;
    uint16_t congestion_threshold;
    uint32_t max_write;
    uint32_t time_gran;
    uint16_t max_pages;
    uint16_t unused[17];
};
_Static_assert(sizeof(struct init_reply) == sizeof(struct fuse_init_out),
               "the kernel's layout");

/* Linux 5.8 speaks 7.31. */
#define PROTOCOL_MAJOR 7
#define PROTOCOL_MINOR 31

/* Asynchronous requests of the loop driver are "background" to FUSE. */
#define BACKGROUND_REQUESTS 64

/* The block size by which the loop driver makes its discards. */
#define FILE_BLOCK_SIZE 4096
#define STAT_BLOCK_SIZE 512

#define SECTOR_SIZE_MAX 4096 /* of all formats that can be written */

#define FILE_NODE 1 /* FUSE_ROOT_ID */

/* Until the kernel is told otherwise (vd_fuse_tell_changed).  A device whose
 * server has died can be asked what it is, and be detached, only because
 * nobody is asked. */
#define VALID_SECONDS 3600

#define LOGGED_ERRORS_MAX 16

/* -- errors -- */

static const struct {
    vd_error error;
    int error_number;
} error_numbers[] = {
    {ERROR_DISK_FULL, ENOSPC},         {ERROR_HANDLE_DISK_FULL, ENOSPC},
    {ERROR_WRITE_PROTECT, EROFS},      {ERROR_INVALID_PARAMETER, EINVAL},
    {ERROR_NOT_ENOUGH_MEMORY, ENOMEM}, {ERROR_NOT_SUPPORTED, EOPNOTSUPP},
    {ERROR_FILE_TOO_LARGE, EFBIG},
};

int
vd_fuse_errno(vd_error error)
{
    for (size_t i = 0; i < sizeof(error_numbers) / sizeof(error_numbers[0]);
         i++) {
        if (error_numbers[i].error == error) {
            return error_numbers[i].error_number;
        }
    }
    return EIO;
}

/* A log that a broken disk fills helps nobody. */
static int
failed(const char *what, vd_error error, uint64_t offset, uint64_t length)
{
    static atomic_uint count;
    if (atomic_load(&count) < LOGGED_ERRORS_MAX) {
        atomic_fetch_add(&count, 1);
        vd_log("%s %llu bytes at %llu: error %u", what,
               (unsigned long long)length, (unsigned long long)offset, error);
    }
    return -vd_fuse_errno(error);
}

/* -- the file -- */

static int
reply_bytes(const struct vd_fuse_request *request, const void *data,
            size_t length)
{
    memcpy(request->reply, data, length);
    return (int)length;
}

static int
init(const struct vd_fuse_file *file, const struct vd_fuse_request *request)
{
    struct fuse_init_in in = {.major = 0};
    (void)file;
    memcpy(&in, request->payload, 4 * sizeof(uint32_t));
    if (in.major != PROTOCOL_MAJOR || in.minor < PROTOCOL_MINOR) {
        vd_log("FUSE %u.%u is too old", in.major, in.minor);
        return -EPROTO;
    }
    struct init_reply out = {
        .major = PROTOCOL_MAJOR,
        .minor = PROTOCOL_MINOR,
        .max_readahead = in.max_readahead,
        .flags = in.flags & (FUSE_ASYNC_READ | FUSE_BIG_WRITES |
                             FUSE_ASYNC_DIO | FUSE_MAX_PAGES),
        .max_background = BACKGROUND_REQUESTS,
        .congestion_threshold = BACKGROUND_REQUESTS * 3 / 4,
        .max_write = VD_FUSE_TRANSFER,
        .time_gran = 1,
        .max_pages = (uint16_t)(VD_FUSE_TRANSFER / sysconf(_SC_PAGESIZE)),
    };
    return reply_bytes(request, &out, sizeof(out));
}

static int
get_attributes(const struct vd_fuse_file *file,
               const struct vd_fuse_request *request)
{
    uint64_t length = vd_gate_length(file->gate);
    struct fuse_attr_out out = {
        .attr_valid = VALID_SECONDS,
        .attr =
            {
                .ino = FILE_NODE,
                .size = length,
                .blocks = length / STAT_BLOCK_SIZE,
                .mode = S_IFREG | file->mode,
                .nlink = 1,
                .uid = file->uid,
                .gid = file->gid,
                .blksize = FILE_BLOCK_SIZE,
            },
    };
    return reply_bytes(request, &out, sizeof(out));
}

/* There is nothing to be set but the size, and the disk has one.  The kernel
 * sets it too, to what it takes for the old one, after a write behind the
 * end. */
static int
set_attributes(const struct vd_fuse_file *file,
               const struct vd_fuse_request *request)
{
    struct fuse_setattr_in in;
    memcpy(&in, request->payload, sizeof(in));
    if ((in.valid & FATTR_SIZE) != 0 &&
        in.size != vd_gate_length(file->gate)) {
        return -EPERM;
    }
    return get_attributes(file, request);
}

static int
open_file(const struct vd_fuse_file *file,
          const struct vd_fuse_request *request)
{
    struct fuse_open_in in;
    struct fuse_open_out out = {
        .open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES,
    };
    memcpy(&in, request->payload, sizeof(in));
    if (file->read_only && (in.flags & O_ACCMODE) != O_RDONLY) {
        return -EROFS;
    }
    return reply_bytes(request, &out, sizeof(out));
}

static int
file_system_status(const struct vd_fuse_file *file,
                   const struct vd_fuse_request *request)
{
    struct fuse_statfs_out out = {
        .st =
            {
                .blocks = vd_gate_length(file->gate) / FILE_BLOCK_SIZE,
                .files = 1,
                .bsize = FILE_BLOCK_SIZE,
                .frsize = FILE_BLOCK_SIZE,
                .namelen = NAME_MAX,
            },
    };
    return reply_bytes(request, &out, sizeof(out));
}

static int
agree(const struct vd_fuse_file *file, const struct vd_fuse_request *request)
{
    (void)file;
    (void)request;
    return 0;
}

static int
forget(const struct vd_fuse_file *file, const struct vd_fuse_request *request)
{
    (void)file;
    (void)request;
    return VD_FUSE_NO_ANSWER;
}

/* -- its content -- */

static int
read_inside(const struct vd_fuse_file *file,
            const struct vd_fuse_request *request)
{
    struct fuse_read_in in;
    memcpy(&in, request->payload, sizeof(in));
    if (in.size > VD_FUSE_TRANSFER) {
        return -EINVAL;
    }
    uint64_t end = vd_gate_length(file->gate);
    if (in.offset >= end) {
        return 0;
    }
    uint64_t left = end - in.offset;
    size_t length = in.size < left ? in.size : (size_t)left;
    vd_error error = vd_disk_read(file->disk, request->reply, length,
                                  file->offset + in.offset);
    if (error != ERROR_SUCCESS) {
        return failed("reading", error, in.offset, length);
    }
    return (int)length;
}

/* Returns 0 or a negative errno value. */
static int
check_change(const struct vd_fuse_file *file, uint64_t offset, uint64_t length)
{
    if (file->read_only) {
        return -EROFS;
    }
    return vd_range_within(offset, length, vd_gate_length(file->gate))
               ? 0
               : -EFBIG;
}

/* Less than a sector, inside one.  The other part of the sector may be on its
 * way in another thread. */
static vd_error
write_partial(const struct vd_fuse_file *file, const uint8_t *data,
              size_t length, uint64_t disk_offset)
{
    uint8_t sector[SECTOR_SIZE_MAX];
    uint32_t sector_size = vd_disk_sector_size(file->disk);
    uint64_t skip = disk_offset % sector_size;
    assert(sector_size <= sizeof(sector) && skip + length <= sector_size);
    VD_SCOPED_LOCK(file->partial);
    vd_error error =
        vd_disk_read(file->disk, sector, sector_size, disk_offset - skip);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    memcpy(sector + skip, data, length);
    return vd_disk_write(file->disk, sector, sector_size, disk_offset - skip);
}

/* How much of the range can be written in one go: up to the next sector, or
 * all whole sectors. */
static size_t
next_piece(uint32_t sector_size, size_t length, uint64_t disk_offset)
{
    size_t skip = (size_t)(disk_offset % sector_size);
    if (skip != 0 || length < sector_size) {
        size_t rest = sector_size - skip;
        return length < rest ? length : rest;
    }
    return length - length % sector_size;
}

static vd_error
write_disk(const struct vd_fuse_file *file, const uint8_t *data, size_t length,
           uint64_t disk_offset)
{
    uint32_t sector_size = vd_disk_sector_size(file->disk);
    while (length != 0) {
        size_t piece = next_piece(sector_size, length, disk_offset);
        vd_error error =
            piece % sector_size != 0
                ? write_partial(file, data, piece, disk_offset)
                : vd_disk_write(file->disk, data, piece, disk_offset);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        data += piece;
        disk_offset += piece;
        length -= piece;
    }
    return ERROR_SUCCESS;
}

static int
write_inside(const struct vd_fuse_file *file,
             const struct vd_fuse_request *request)
{
    struct fuse_write_in in;
    memcpy(&in, request->payload, sizeof(in));
    if (in.size != request->payload_length - sizeof(in)) {
        return -EINVAL;
    }
    int refusal = check_change(file, in.offset, in.size);
    if (refusal != 0) {
        return refusal;
    }
    vd_error error = write_disk(file, request->payload + sizeof(in), in.size,
                                file->offset + in.offset);
    if (error != ERROR_SUCCESS) {
        return failed("writing", error, in.offset, in.size);
    }
    struct fuse_write_out out = {.size = in.size};
    return reply_bytes(request, &out, sizeof(out));
}

static int
flush_inside(const struct vd_fuse_file *file,
             const struct vd_fuse_request *request)
{
    (void)request;
    vd_error error = vd_disk_flush(file->disk);
    return error != ERROR_SUCCESS ? failed("flushing all", error, 0, 0) : 0;
}

/* The loop driver's discard is PUNCH_HOLE and its write-zeroes ZERO_RANGE, or
 * PUNCH_HOLE where the space may go as well; KEEP_SIZE is no wish but a fact
 * here.  These are never cut: parts of sectors are an error. */
static int
allocate_inside(const struct vd_fuse_file *file,
                const struct vd_fuse_request *request)
{
    struct fuse_fallocate_in in;
    uint32_t sector_size = vd_disk_sector_size(file->disk);
    memcpy(&in, request->payload, sizeof(in));
    uint32_t mode = in.mode & ~(uint32_t)FALLOC_FL_KEEP_SIZE;
    if (mode != FALLOC_FL_PUNCH_HOLE && mode != FALLOC_FL_ZERO_RANGE) {
        return -EOPNOTSUPP;
    }
    int refusal = check_change(file, in.offset, in.length);
    if (refusal != 0) {
        return refusal;
    }
    if (in.offset % sector_size != 0 || in.length % sector_size != 0) {
        return -EINVAL;
    }
    vd_error error = vd_disk_zero(file->disk, file->offset + in.offset,
                                  in.length, mode == FALLOC_FL_PUNCH_HOLE);
    return error != ERROR_SUCCESS
               ? failed("zeroing", error, in.offset, in.length)
               : 0;
}

/* -- the table -- */

/* The file keeps its length meanwhile. */
static int
perform_inside(const struct vd_fuse_file *file,
               const struct vd_fuse_request *request,
               int (*perform)(const struct vd_fuse_file *file,
                              const struct vd_fuse_request *request))
{
    vd_gate_enter(file->gate);
    int result = perform(file, request);
    vd_gate_leave(file->gate);
    return result;
}

static const struct operation {
    size_t payload_length; /* at least */
    bool inside;           /* uses the disk */
    int (*perform)(const struct vd_fuse_file *file,
                   const struct vd_fuse_request *request);
} operations[] = {
    [FUSE_INIT] = {4 * sizeof(uint32_t), false, init},
    [FUSE_GETATTR] = {0, false, get_attributes},
    [FUSE_SETATTR] = {sizeof(struct fuse_setattr_in), false, set_attributes},
    [FUSE_OPEN] = {sizeof(struct fuse_open_in), false, open_file},
    [FUSE_READ] = {sizeof(struct fuse_read_in), true, read_inside},
    [FUSE_WRITE] = {sizeof(struct fuse_write_in), true, write_inside},
    [FUSE_FSYNC] = {0, true, flush_inside},
    [FUSE_FALLOCATE] = {sizeof(struct fuse_fallocate_in), true,
                        allocate_inside},
    [FUSE_STATFS] = {0, false, file_system_status},
    [FUSE_FLUSH] = {0, false, agree}, /* at every close; FSYNC counts */
    [FUSE_RELEASE] = {0, false, agree},
    [FUSE_DESTROY] = {0, false, agree},
    [FUSE_FORGET] = {0, false, forget},
    [FUSE_BATCH_FORGET] = {0, false, forget},
};

int
vd_fuse_perform(const struct vd_fuse_file *file, uint32_t opcode,
                const struct vd_fuse_request *request)
{
    if (opcode >= sizeof(operations) / sizeof(operations[0]) ||
        operations[opcode].perform == NULL) {
        return -ENOSYS;
    }
    if (request->payload_length < operations[opcode].payload_length) {
        return -EINVAL;
    }
    return operations[opcode].inside
               ? perform_inside(file, request, operations[opcode].perform)
               : operations[opcode].perform(file, request);
}
