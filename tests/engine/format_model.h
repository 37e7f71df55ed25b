/*
 * One format against a model: random writes, trims, zeroings, commits and
 * reopens, and changes of the image as a whole, each sector compared with what
 * a plain array holds; and, for every prefix of the recorded changes and
 * random subsets of what came after the last barrier, that the image opens
 * and holds what was committed.
 */
#ifndef VIRTDISK_TESTS_FORMAT_MODEL_H
#define VIRTDISK_TESTS_FORMAT_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "crash_file.h"
#include "format/format.h"

struct format_model {
    const struct vd_format *format;
    uint64_t size_bytes;
    uint32_t sector_size;
    uint32_t block_size;
    bool child; /* what is not here is the parent's pattern, else zeros */
    /* Makes the image in an empty file. */
    vd_error (*create)(struct vd_file *file, const struct format_model *model);
    /* 0: only the payload changes; else the image is also resized, up to
     * this, its blocks are forgotten and moved, and its file is cut. */
    uint64_t largest_bytes;
    bool only_grows; /* ... and never smaller, nor a child at all; what is
                        appended to the file and its length go together */
};

/* Random operations, compared as they go and after every reopen. */
void format_model_run(const struct format_model *model, uint64_t seed,
                      size_t operations);

/* The same, then a power cut after each recorded event: `subsets` images for
 * each, events taken in steps of `step`. */
void format_model_crash(const struct format_model *model, uint64_t seed,
                        size_t operations, size_t step, size_t subsets);

/* A power cut after each event of the creation: what is recognised as an image
 * opens, and holds nothing yet. */
void format_model_create(const struct format_model *model, size_t subsets);

/* The n-th change or barrier fails, for each n: an error, no damage. */
void format_model_fail(const struct format_model *model, uint64_t seed,
                       size_t operations);

#endif
