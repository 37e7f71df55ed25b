/*
 * Reading, dispatching and answering requests (fuse.h); what each operation
 * does is in fuse_operations.c.
 */
#include "server/fuse.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/fuse.h>

#include "server/fuse_operations.h"
#include "server/log.h"

/* The headers before a write's data.  They end where a page begins, so that
 * data, which is most of what is copied, is aligned both ways. */
#define WRITE_HEADERS                                                         \
    (sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in))

static size_t
buffer_size(const struct vd_fuse_buffer *buffer)
{
    return buffer->lead + VD_FUSE_TRANSFER;
}

vd_error
vd_fuse_buffer_new(struct vd_fuse_buffer *out)
{
    struct vd_fuse_buffer buffer = {.lead = (size_t)sysconf(_SC_PAGESIZE)};
    void *memory = mmap(NULL, buffer_size(&buffer), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    buffer.memory = memory;
    *out = buffer;
    return ERROR_SUCCESS;
}

void
vd_fuse_buffer_free(struct vd_fuse_buffer *buffer)
{
    if (buffer->memory != NULL) {
        munmap(buffer->memory, buffer_size(buffer));
        buffer->memory = NULL;
    }
}

/* -- answering -- */

/* ENOENT: whoever asked has gone meanwhile.  ENODEV: everybody has. */
static void
send_answer(int device, uint64_t unique, int result, uint8_t *data)
{
    struct fuse_out_header header = {
        .len = (uint32_t)sizeof(header),
        .error = result < 0 ? result : 0,
        .unique = unique,
    };
    header.len += result > 0 ? (uint32_t)result : 0;
    uint8_t *start = data - sizeof(header);
    memcpy(start, &header, sizeof(header));
    if (write(device, start, header.len) < 0 && errno != ENOENT &&
        errno != ENODEV) {
        vd_log("an answer was not taken: %s", strerror(errno));
    }
}

static void
answer(int device, const struct vd_fuse_file *file, uint8_t *message,
       size_t length, uint8_t *data)
{
    struct fuse_in_header header;
    if (length < sizeof(header)) {
        vd_log("a request of %zu bytes", length);
        return;
    }
    memcpy(&header, message, sizeof(header));
    struct vd_fuse_request request = {
        .payload = message + sizeof(header),
        .payload_length = length - sizeof(header),
        .reply = data,
    };
    int result = vd_fuse_perform(file, header.opcode, &request);
    if (result != VD_FUSE_NO_ANSWER) {
        send_answer(device, header.unique, result, data);
    }
}

/* A message that answers nothing has no number, and its kind in place of the
 * error. */
void
vd_fuse_tell_changed(int device)
{
    struct {
        struct fuse_out_header header;
        struct fuse_notify_inval_inode_out what;
    } message = {
        .header = {.len = sizeof(message), .error = FUSE_NOTIFY_INVAL_INODE},
        .what = {.ino = FUSE_ROOT_ID, .off = -1}, /* its attributes alone */
    };
    if (write(device, &message, sizeof(message)) < 0) {
        vd_log("the file's length was not taken: %s", strerror(errno));
    }
}

/* -- reading -- */

/* ENOENT: the request was withdrawn while it was being read. */
static bool
is_passing(int error_number)
{
    return error_number == EINTR || error_number == ENOENT ||
           error_number == EAGAIN;
}

bool
vd_fuse_serve(int device, const struct vd_fuse_file *file,
              const struct vd_fuse_buffer *buffer)
{
    uint8_t *data = buffer->memory + buffer->lead;
    uint8_t *message = data - WRITE_HEADERS;
    ssize_t length = read(device, message, WRITE_HEADERS + VD_FUSE_TRANSFER);
    if (length < 0) {
        int error_number = errno;
        if (!is_passing(error_number) && error_number != ENODEV) {
            vd_log("no more requests: %s", strerror(error_number));
        }
        return is_passing(error_number);
    }
    answer(device, file, message, (size_t)length, data);
    return true;
}
