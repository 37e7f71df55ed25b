/*
 * Reading and writing a virtual disk: payload here, allocation and metadata
 * in the format.  See disk.h for who may do what at once.
 */
#include "disk/disk.h"

#include <assert.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/trace.h"
#include "disk/disk_private.h"

/* So many bytes are worth a commit before the file grows instead. */
#define GIVEN_UP_MAX (64ULL * 1024 * 1024)

static vd_error
lookup(struct vd_image *image, uint64_t offset, uint64_t length,
       struct vd_extent *out)
{
    vd_error error = image->format->lookup(image, offset, length, out);
    assert(error != ERROR_SUCCESS ||
           (out->length > 0 && out->length <= length));
    return error;
}

/* ---- reading ---- */

/* What lies past the end of a file that was cut while it is in use is an
 * error of the device, not the end of the disk. */
static vd_error
read_present(struct vd_image *image, void *buffer, size_t length,
             uint64_t file_offset)
{
    vd_error error = vd_file_pread(image->file, buffer, length, file_offset);
    if (error == ERROR_HANDLE_EOF) {
        vd_trace(VD_TRACE_DISK, "the image file has become shorter");
        return ERROR_IO_DEVICE;
    }
    return error;
}

static vd_error read_layers(const struct vd_disk *disk, size_t layer,
                            uint8_t *buffer, uint64_t length, uint64_t offset);

/* From the layer below; a child may be larger than its parent. */
static vd_error
read_parent(const struct vd_disk *disk, size_t layer, uint8_t *buffer,
            uint64_t length, uint64_t offset)
{
    if (layer == disk->layer_count) {
        vd_trace(VD_TRACE_DISK, "the data is in a parent that is not open");
        return ERROR_VHD_PARENT_VHD_NOT_FOUND;
    }
    uint64_t size = disk->layers[layer].image->info.size_bytes;
    uint64_t have = 0;
    if (offset < size) {
        have = length < size - offset ? length : size - offset;
    }
    memset(buffer + have, 0, (size_t)(length - have));
    return have != 0 ? read_layers(disk, layer, buffer, have, offset)
                     : ERROR_SUCCESS;
}

static vd_error
read_extent(const struct vd_disk *disk, size_t layer,
            const struct vd_extent *extent, uint8_t *buffer, uint64_t offset)
{
    switch (extent->state) {
    case VD_EXTENT_PRESENT:
        return read_present(disk->layers[layer].image, buffer,
                            (size_t)extent->length, extent->file_offset);
    case VD_EXTENT_PARENT:
        return read_parent(disk, layer + 1, buffer, extent->length, offset);
    case VD_EXTENT_ZERO:
        break;
    }
    memset(buffer, 0, (size_t)extent->length);
    return ERROR_SUCCESS;
}

/* Recursion is bounded by VD_DISK_LAYERS_MAX. */
static vd_error
read_layers(const struct vd_disk *disk, size_t layer, uint8_t *buffer,
            uint64_t length, uint64_t offset)
{
    while (length != 0) {
        struct vd_extent extent;
        vd_error error =
            lookup(disk->layers[layer].image, offset, length, &extent);
        if (error == ERROR_SUCCESS) {
            error = read_extent(disk, layer, &extent, buffer, offset);
        }
        if (error != ERROR_SUCCESS) {
            return error;
        }
        buffer += extent.length;
        offset += extent.length;
        length -= extent.length;
    }
    return ERROR_SUCCESS;
}

vd_error
vd_disk_read(struct vd_disk *disk, void *buffer, size_t length,
             uint64_t offset)
{
    pthread_rwlock_rdlock(&disk->gate);
    assert(vd_range_within(offset, length, vd_disk_size_bytes(disk)));
    vd_error error = read_layers(disk, 0, buffer, length, offset);
    pthread_rwlock_unlock(&disk->gate);
    return error;
}

vd_error
vd_disk_read_below(struct vd_disk *disk, void *buffer, size_t length,
                   uint64_t offset)
{
    pthread_rwlock_rdlock(&disk->gate);
    vd_error error = read_parent(disk, 1, buffer, length, offset);
    pthread_rwlock_unlock(&disk->gate);
    return error;
}

/* ---- committing: with the mutator's lock ---- */

static uint64_t
given_up(const struct vd_disk *disk)
{
    const struct vd_image *image = vd_disk_leaf(disk);
    return image->format->given_up(image);
}

/* Space given up before this commit may be used again once all who looked
 * it up before are through with it: nobody finds it any more, so it is enough
 * that the gate was empty for a moment. */
static void
reclaim(struct vd_disk *disk)
{
    struct vd_image *image = vd_disk_leaf(disk);
    pthread_rwlock_wrlock(&disk->gate);
    pthread_rwlock_unlock(&disk->gate);
    image->format->reclaim(image);
}

static vd_error
commit(struct vd_disk *disk)
{
    struct vd_image *image = vd_disk_leaf(disk);
    bool freed = given_up(disk) != 0;
    vd_error error = image->format->commit(image);
    if (error == ERROR_SUCCESS && freed) {
        reclaim(disk);
    }
    return error;
}

/* ---- writing ---- */

static vd_error
begin(struct vd_disk *disk)
{
    struct vd_image *image = vd_disk_leaf(disk);
    if (!disk->writable || !disk->live || image->format->write == NULL) {
        return ERROR_WRITE_PROTECT;
    }
    if (atomic_load(&disk->begun)) {
        return ERROR_SUCCESS;
    }
    VD_SCOPED_LOCK(&disk->mutator);
    vd_error error = image->format->begin(image, VD_CHANGE_CONTENT);
    if (error == ERROR_SUCCESS) {
        atomic_store(&disk->begun, true);
    }
    return error;
}

/* Into space that is there, as much as there is; *done_out bytes. */
static vd_error
write_present(struct vd_disk *disk, const uint8_t *buffer, uint64_t length,
              uint64_t offset, struct vd_extent *extent, bool *done_out)
{
    struct vd_image *image = vd_disk_leaf(disk);
    pthread_rwlock_rdlock(&disk->gate);
    vd_error error = lookup(image, offset, length, extent);
    *done_out = extent->state == VD_EXTENT_PRESENT;
    if (error == ERROR_SUCCESS && *done_out) {
        error = vd_file_pwrite(image->file, buffer, (size_t)extent->length,
                               extent->file_offset);
    }
    pthread_rwlock_unlock(&disk->gate);
    return error;
}

/* Whoever writes a disk anew that he has discarded need not flush between the
 * two; the file would become twice as long. */
static vd_error
allocate(struct vd_disk *disk, const uint8_t *buffer, uint64_t length,
         uint64_t offset)
{
    struct vd_image *image = vd_disk_leaf(disk);
    vd_error error = ERROR_SUCCESS;
    VD_SCOPED_LOCK(&disk->mutator);
    if (given_up(disk) >= GIVEN_UP_MAX) {
        error = commit(disk);
    }
    return error != ERROR_SUCCESS
               ? error
               : image->format->write(image, buffer, (size_t)length, offset);
}

static vd_error
write_some(struct vd_disk *disk, const uint8_t *buffer, uint64_t length,
           uint64_t offset, uint64_t *written_out)
{
    struct vd_extent extent = {.length = 0};
    bool done = false;
    vd_error error =
        write_present(disk, buffer, length, offset, &extent, &done);
    if (error == ERROR_SUCCESS && !done) {
        error = allocate(disk, buffer, extent.length, offset);
    }
    *written_out = extent.length;
    return error;
}

static vd_error
check_sectors(const struct vd_disk *disk, uint64_t offset, uint64_t length)
{
    uint32_t sector_size = vd_disk_sector_size(disk);
    assert(vd_range_within(offset, length, vd_disk_size_bytes(disk)));
    if (offset % sector_size != 0 || length % sector_size != 0) {
        vd_trace(VD_TRACE_DISK, "a change of less than a sector");
        return ERROR_INVALID_PARAMETER;
    }
    return ERROR_SUCCESS;
}

static vd_error
write_all(struct vd_disk *disk, const void *buffer, size_t length,
          uint64_t offset)
{
    const uint8_t *from = buffer;
    vd_error error = begin(disk);
    while (length != 0 && error == ERROR_SUCCESS) {
        uint64_t written = 0;
        error = write_some(disk, from, length, offset, &written);
        from += written;
        offset += written;
        length -= (size_t)written;
    }
    return error;
}

/* ---- zeroing ---- */

/* How much of a range, from its start on, is the parents' and reads as zeros
 * for want of data there (*zero_out), or is not. */
static vd_error
find_zeros(struct vd_disk *disk, uint64_t offset, uint64_t length,
           bool *zero_out, uint64_t *length_out)
{
    struct vd_extent extent;
    struct vd_disk_run run = {.data = true};
    vd_error error = lookup(vd_disk_leaf(disk), offset, length, &extent);
    if (error == ERROR_SUCCESS && extent.state == VD_EXTENT_PARENT) {
        error = vd_disk_run(disk, offset, extent.length,
                            vd_disk_sector_size(disk), &run);
        extent.length = run.length;
    }
    if (error == ERROR_SUCCESS) {
        *zero_out = !run.data;
        *length_out = extent.length;
    }
    return error;
}

/* Where a piece of a range ends, moved to the edge of a block (before or
 * behind) unless it is the end of the range: a format gives up whole blocks,
 * and has to be asked for them as such. */
static uint64_t
end_at_block(const struct vd_image *image, uint64_t offset, uint64_t piece,
             uint64_t end, bool behind)
{
    uint64_t at = offset + piece;
    uint64_t inside = at % image->info.block_size;
    if (at == end || inside == 0) {
        return at;
    }
    at += behind ? image->info.block_size - inside : 0;
    at -= behind ? 0 : inside;
    return at < end ? at : end;
}

/* Zeros that hide a parent's data take space in a VHD, which knows no other
 * kind; so nothing is hidden where there is nothing. */
static vd_error
zero_child(struct vd_disk *disk, uint64_t offset, uint64_t end, bool may_free)
{
    struct vd_image *image = vd_disk_leaf(disk);
    while (offset < end) {
        bool zero = false;
        uint64_t piece = 0;
        vd_error error = find_zeros(disk, offset, end - offset, &zero, &piece);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        uint64_t next = end_at_block(image, offset, piece, end, !zero);
        if (!zero || next <= offset) {
            next = end_at_block(image, offset, piece, end, true);
            error =
                image->format->zero(image, offset, next - offset, may_free);
        }
        if (error != ERROR_SUCCESS) {
            return error;
        }
        offset = next;
    }
    return ERROR_SUCCESS;
}

static vd_error
zero_all(struct vd_disk *disk, uint64_t offset, uint64_t length, bool may_free)
{
    struct vd_image *image = vd_disk_leaf(disk);
    vd_error error = begin(disk);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    VD_SCOPED_LOCK(&disk->mutator);
    return disk->layer_count > 1
               ? zero_child(disk, offset, offset + length, may_free)
               : image->format->zero(image, offset, length, may_free);
}

/* ---- changes, of the mirror too if there is one ---- */

static vd_error
write_both(struct vd_disk *disk, const void *buffer, size_t length,
           uint64_t offset)
{
    struct vd_mirror *mirror = disk->mirror;
    if (mirror == NULL) {
        return write_all(disk, buffer, length, offset);
    }
    VD_SCOPED_LOCK(&mirror->lock);
    vd_error error = write_all(disk, buffer, length, offset);
    vd_mirror_note(mirror,
                   error != ERROR_SUCCESS
                       ? error /* who knows how far it got */
                       : write_all(mirror->target, buffer, length, offset));
    return error;
}

vd_error
vd_disk_write(struct vd_disk *disk, const void *buffer, size_t length,
              uint64_t offset)
{
    vd_error error = check_sectors(disk, offset, length);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    pthread_rwlock_rdlock(&disk->mirror_lock);
    error = write_both(disk, buffer, length, offset);
    pthread_rwlock_unlock(&disk->mirror_lock);
    return error;
}

static vd_error
zero_both(struct vd_disk *disk, uint64_t offset, uint64_t length,
          bool may_free)
{
    struct vd_mirror *mirror = disk->mirror;
    if (mirror == NULL) {
        return zero_all(disk, offset, length, may_free);
    }
    VD_SCOPED_LOCK(&mirror->lock);
    vd_error error = zero_all(disk, offset, length, may_free);
    vd_mirror_note(mirror,
                   error != ERROR_SUCCESS
                       ? error
                       : zero_all(mirror->target, offset, length, may_free));
    return error;
}

vd_error
vd_disk_zero(struct vd_disk *disk, uint64_t offset, uint64_t length,
             bool may_free)
{
    vd_error error = check_sectors(disk, offset, length);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    pthread_rwlock_rdlock(&disk->mirror_lock);
    error = zero_both(disk, offset, length, may_free);
    pthread_rwlock_unlock(&disk->mirror_lock);
    return error;
}

/* ---- flushing ---- */

vd_error
vd_disk_commit(struct vd_disk *disk)
{
    VD_SCOPED_LOCK(&disk->mutator);
    return commit(disk);
}

/* Runs one flush for everybody; called and left with the lock held. */
static void
run_flush(struct vd_disk *disk)
{
    struct vd_disk_flush *flush = &disk->flush;
    flush->running = true;
    uint64_t number = ++flush->started;
    pthread_mutex_unlock(&flush->lock);
    vd_error error = vd_disk_commit(disk);
    pthread_mutex_lock(&flush->lock);
    flush->running = false;
    flush->finished = number;
    if (error != ERROR_SUCCESS) {
        flush->error = error;
    }
    pthread_cond_broadcast(&flush->done);
}

/* A flush that is already running may have begun too early for what this
 * caller has written; the next one has not. */
vd_error
vd_disk_flush(struct vd_disk *disk)
{
    struct vd_disk_flush *flush = &disk->flush;
    if (!atomic_load(&disk->begun)) {
        return ERROR_SUCCESS; /* nothing has been changed */
    }
    VD_SCOPED_LOCK(&flush->lock);
    uint64_t wanted = flush->started + 1;
    while (flush->finished < wanted) {
        if (!flush->running) {
            run_flush(disk);
        }
        else {
            pthread_cond_wait(&flush->done, &flush->lock);
        }
    }
    return flush->error;
}
