/*
 * Which parts of a disk have data (vd_disk_run of disk.h): the answer of the
 * formats down the chain, and then of the file system, for a block that an
 * image has may be a hole in its file.
 */
#include "disk/run.h"

#include <errno.h>
#include <unistd.h>

#include "base/checked.h"
#include "disk/disk_private.h"

/* So that one answer never takes long: how many lookups it may join. */
#define JOINED_MAX 64

/* ---- files ---- */

/* A range past the end is left to whoever reads it, who will be told. */
static bool
inside_file(int fd, uint64_t offset, uint64_t length)
{
    off_t end = lseek(fd, 0, SEEK_END);
    return end >= 0 && vd_range_within(offset, length, (uint64_t)end);
}

static void
answer(bool data, uint64_t end, uint64_t offset, uint64_t length,
       struct vd_disk_run *out)
{
    uint64_t found = end - offset;
    out->data = data;
    out->length = found < length ? found : length;
}

void
vd_run_of_file(int fd, uint64_t offset, uint64_t length,
               struct vd_disk_run *out)
{
    off_t data = lseek(fd, (off_t)offset, SEEK_DATA);
    if (data < 0) {
        bool hole = errno == ENXIO && inside_file(fd, offset, length);
        answer(!hole, offset + length, offset, length, out);
        return;
    }
    if ((uint64_t)data > offset) {
        answer(false, (uint64_t)data, offset, length, out);
        return;
    }
    off_t hole = lseek(fd, (off_t)offset, SEEK_HOLE);
    uint64_t end = hole > data ? (uint64_t)hole : offset + length;
    answer(true, end, offset, length, out);
}

/* ---- granules ---- */

/* As many runs of one kind as follow each other. */
static vd_error
join(vd_run_function *find, void *context, uint64_t offset, uint64_t length,
     struct vd_disk_run *out)
{
    vd_error error = find(context, offset, length, out);
    for (int i = 0; i < JOINED_MAX && error == ERROR_SUCCESS; i++) {
        struct vd_disk_run next;
        if (out->length == length) {
            break;
        }
        error =
            find(context, offset + out->length, length - out->length, &next);
        if (error == ERROR_SUCCESS) {
            if (next.data != out->data) {
                break;
            }
            out->length += next.length;
        }
    }
    return error;
}

vd_error
vd_run_in_granules(vd_run_function *find, void *context, uint64_t offset,
                   uint64_t length, uint32_t granule, struct vd_disk_run *out)
{
    struct vd_disk_run run;
    vd_error error = join(find, context, offset, length, &run);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    uint64_t beyond = run.length % granule;
    if (!run.data && run.length != length) {
        run.data = run.length < granule;
        run.length -= beyond;
        beyond = 0;
    }
    if (run.data && (beyond != 0 || run.length == 0)) {
        run.length += granule - beyond;
    }
    if (run.length > length) {
        run.length = length;
    }
    *out = run;
    return ERROR_SUCCESS;
}

/* ---- disks ---- */

static void
run_of_payload(const struct vd_layer *layer, const struct vd_extent *extent,
               struct vd_disk_run *out)
{
    *out = (struct vd_disk_run){.data = true, .length = extent->length};
    /* What is replayed in memory alone is not where the file is asked. */
    if (!layer->image->info.log_dirty) {
        vd_run_of_file(layer->file->fd, extent->file_offset, extent->length,
                       out);
    }
}

/* A child may be larger than its parent. */
static vd_error
run_of_chain(void *context, uint64_t offset, uint64_t length,
             struct vd_disk_run *out)
{
    const struct vd_disk *disk = context;
    for (size_t i = 0; i < disk->layer_count; i++) {
        const struct vd_layer *layer = &disk->layers[i];
        struct vd_image *image = layer->image;
        struct vd_extent extent;
        uint64_t size = image->info.size_bytes;
        if (offset >= size) {
            *out = (struct vd_disk_run){.data = false, .length = length};
            return ERROR_SUCCESS;
        }
        length = length < size - offset ? length : size - offset;
        vd_error error = image->format->lookup(image, offset, length, &extent);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        length = extent.length;
        if (extent.state == VD_EXTENT_PRESENT) {
            run_of_payload(layer, &extent, out);
            return ERROR_SUCCESS;
        }
        if (extent.state == VD_EXTENT_ZERO) {
            *out = (struct vd_disk_run){.data = false, .length = length};
            return ERROR_SUCCESS;
        }
    }
    return ERROR_VHD_PARENT_VHD_NOT_FOUND;
}

vd_error
vd_disk_run(struct vd_disk *disk, uint64_t offset, uint64_t length,
            uint32_t granule, struct vd_disk_run *out)
{
    pthread_rwlock_rdlock(&disk->gate);
    vd_error error =
        vd_run_in_granules(run_of_chain, disk, offset, length, granule, out);
    pthread_rwlock_unlock(&disk->gate);
    return error;
}
