/*
 * A struct vd_file in memory, for tests of formats: bounds are exact, so a
 * read past the end is an error and, to the sanitizer, a fault; and the n-th
 * operation can be made to fail.
 */
#ifndef VIRTDISK_TESTS_MEMORY_FILE_H
#define VIRTDISK_TESTS_MEMORY_FILE_H

#include <string.h>

#include "base/checked.h"
#include "base/file.h"

struct memory_file {
    struct vd_file file; /* first */
    const uint8_t *content;
    uint64_t size;
    int operations_left; /* the one after these fails; negative: none */
    unsigned reads;
};

static inline bool
memory_file_fails(struct memory_file *memory)
{
    return memory->operations_left >= 0 && memory->operations_left-- == 0;
}

static inline vd_error
memory_pread(struct vd_file *file, void *buffer, size_t length,
             uint64_t offset)
{
    struct memory_file *memory = (struct memory_file *)file;
    memory->reads++;
    if (memory_file_fails(memory)) {
        return ERROR_IO_DEVICE;
    }
    if (!vd_range_within(offset, length, memory->size)) {
        return ERROR_HANDLE_EOF;
    }
    memcpy(buffer, memory->content + offset, length);
    return ERROR_SUCCESS;
}

static inline vd_error
memory_size(struct vd_file *file, uint64_t *size_out)
{
    struct memory_file *memory = (struct memory_file *)file;
    if (memory_file_fails(memory)) {
        return ERROR_IO_DEVICE;
    }
    *size_out = memory->size;
    return ERROR_SUCCESS;
}

/* Reading only: a format that writes while it opens is found out. */
static const struct vd_file_ops memory_file_ops = {
    .pread = memory_pread,
    .size = memory_size,
};

static inline struct memory_file
memory_file_over(const uint8_t *content, uint64_t size)
{
    return (struct memory_file){
        .file = {.ops = &memory_file_ops},
        .content = content,
        .size = size,
        .operations_left = -1,
    };
}

#endif
