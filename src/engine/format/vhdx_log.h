/*
 * The log of a VHDX ([MS-VHDX] 2.3), among those who read, replay and write
 * it.
 */
#ifndef VD_FORMAT_VHDX_LOG_H
#define VD_FORMAT_VHDX_LOG_H

#include <string.h>

#include "base/bytes.h"
#include "format/vhdx.h"

/* Offsets in an entry, in a descriptor, in a data sector. */
enum {
    VHDX_LOG_CHECKSUM = 4,
    VHDX_LOG_LENGTH = 8,
    VHDX_LOG_TAIL = 12,
    VHDX_LOG_SEQUENCE = 16,
    VHDX_LOG_DESCRIPTOR_COUNT = 24,
    VHDX_LOG_GUID = 32,
    VHDX_LOG_FLUSHED = 48,
    VHDX_LOG_LAST = 56,
    VHDX_LOG_DESCRIPTORS = 64,
    VHDX_DESCRIPTOR_SIZE = 32,
    VHDX_DESCRIPTOR_TRAILING = 4,
    VHDX_DESCRIPTOR_LEADING = 8, /* zero descriptor: its length */
    VHDX_DESCRIPTOR_FILE_OFFSET = 16,
    VHDX_DESCRIPTOR_SEQUENCE = 24,
    VHDX_DATA_SEQUENCE_HIGH = 4,
    VHDX_DATA_BYTES = 8,
    VHDX_DATA_SEQUENCE_LOW = 4092,
};

struct vhdx_log_entry {
    uint32_t offset; /* in the log */
    uint32_t length;
    uint32_t tail;
    uint64_t sequence;
    uint32_t descriptors;
    uint64_t flushed;
    uint64_t last;
};

/* A run of entries, each following the one before. */
struct vhdx_log_sequence {
    struct vhdx_log_entry *entries;
    size_t count, capacity;
    uint64_t length;
};

struct vhdx_log {
    struct vhdx_image *vhdx;
    uint64_t work; /* bytes read so far */
};

static inline uint32_t
vd_vhdx_log_descriptor_area(uint32_t descriptors)
{
    uint64_t bytes =
        VHDX_LOG_DESCRIPTORS + (uint64_t)descriptors * VHDX_DESCRIPTOR_SIZE;
    bytes = (bytes + VHDX_PAGE_SIZE - 1) / VHDX_PAGE_SIZE * VHDX_PAGE_SIZE;
    return bytes > UINT32_MAX ? UINT32_MAX : (uint32_t)bytes;
}

static inline bool
vd_vhdx_log_is_data(const uint8_t *descriptor)
{
    return memcmp(descriptor, "desc", 4) == 0;
}

/* How many bytes of the file a descriptor changes. */
static inline uint64_t
vd_vhdx_log_target_length(const uint8_t *descriptor)
{
    return vd_vhdx_log_is_data(descriptor)
               ? VHDX_PAGE_SIZE
               : vd_get_le64(descriptor + VHDX_DESCRIPTOR_LEADING);
}

static inline const struct vhdx_log_entry *
vd_vhdx_log_head(const struct vhdx_log_sequence *sequence)
{
    return &sequence->entries[sequence->count - 1];
}

VD_MUST_CHECK
vd_error vd_vhdx_log_corrupt(const char *reason);

/* Part of a 4 KiB sector of the ring, at its start; sectors never wrap. */
VD_MUST_CHECK
vd_error vd_vhdx_log_read_sector(struct vhdx_log *log, uint64_t offset,
                                 uint8_t *buffer, uint32_t length);

/* The entry that the head's Tail names; NULL if it is not in the sequence. */
const struct vhdx_log_entry *
vd_vhdx_log_tail(const struct vhdx_log_sequence *sequence);

/* The active sequence, checked; the caller frees its entries. */
VD_MUST_CHECK
vd_error vd_vhdx_log_find(struct vhdx_log *log, struct vhdx_log_sequence *out);

#endif
