/*
 * How the blocks of an image lie in its file.  See disk.h.
 */
#include "disk/disk_private.h"

/* So that the answer for a 64 TiB image takes no longer than that for one of
 * 512 GiB with 2 MiB blocks. */
#define LOOKUPS_MAX 262144

/* What may lie between a block and the next: the bitmap of a VHD's block of
 * 256 MiB, and less in all others. */
#define GAP_MAX 65536

#define ALIGNMENT 4096

struct survey {
    struct vd_disk_layout layout;
    uint64_t block_size;
    uint64_t next; /* where in the file the next block would follow */
};

/* A run of the file that begins in a block not seen before. */
static void
note(struct survey *survey, const struct vd_extent *extent, uint64_t offset)
{
    uint64_t inside = offset % survey->block_size;
    uint64_t start = extent->file_offset - inside;
    uint64_t blocks = (inside + extent->length + survey->block_size - 1) /
                      survey->block_size;
    bool follows = start >= survey->next && start - survey->next <= GAP_MAX;
    if (survey->layout.blocks != 0 && !follows) {
        survey->layout.displaced++;
    }
    if ((extent->file_offset - offset) % ALIGNMENT != 0) {
        survey->layout.aligned_4k = false;
    }
    survey->layout.blocks += blocks;
    survey->next = start + blocks * survey->block_size;
}

/* The end of a run, or of the block it ends in if the block is part of the
 * file. */
static uint64_t
end_of(const struct survey *survey, const struct vd_extent *extent,
       uint64_t offset, uint64_t size)
{
    uint64_t end = offset + extent->length;
    uint64_t rest = end % survey->block_size;
    if (extent->state == VD_EXTENT_PRESENT && rest != 0) {
        end += survey->block_size - rest;
    }
    return end < size ? end : size;
}

vd_error
vd_disk_survey(const struct vd_disk *disk, struct vd_disk_layout *out)
{
    struct vd_image *image = vd_disk_leaf(disk);
    uint64_t size = image->info.size_bytes;
    struct survey survey = {
        .layout = {.aligned_4k = true},
        .block_size = image->info.block_size,
    };
    if (survey.block_size == 0) {
        survey.block_size = size;
    }
    uint64_t offset = 0;
    for (unsigned i = 0; i < LOOKUPS_MAX && offset < size; i++) {
        struct vd_extent extent;
        vd_error error =
            image->format->lookup(image, offset, size - offset, &extent);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        if (extent.state == VD_EXTENT_PRESENT) {
            note(&survey, &extent, offset);
        }
        offset = end_of(&survey, &extent, offset, size);
    }
    *out = survey.layout;
    return ERROR_SUCCESS;
}
