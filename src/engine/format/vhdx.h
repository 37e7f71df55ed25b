/*
 * The parts of the VHDX format, among themselves ([MS-VHDX] v20240423).
 *
 * One file a structure: vhdx_header.c, vhdx_region.c, vhdx_metadata.c,
 * vhdx_locator.c, vhdx_log.c (finding and replaying), vhdx_page.c (metadata
 * pages in memory), vhdx_bat.c (lookup), vd_vhdx_write.c (allocation,
 * zeroing), vhdx_journal.c (writing the log), vd_vhdx_create.c, vhdx.c (the
 * format).
 *
 * All integers of the file are little-endian; sizes are bytes.
 */
#ifndef VD_FORMAT_VHDX_H
#define VD_FORMAT_VHDX_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/guid.h"
#include "format/format.h"

#define VHDX_KIB 1024u
#define VHDX_MIB (1024u * 1024u)

/* File map, [MS-VHDX] 2.2 */
#define VHDX_IDENTIFIER_SIZE (64 * VHDX_KIB)
#define VHDX_HEADER_OFFSET(slot) ((uint64_t)(64 + 64 * (slot)) * VHDX_KIB)
#define VHDX_HEADER_SIZE (4 * VHDX_KIB)
#define VHDX_REGION_TABLE_OFFSET(copy)                                        \
    ((uint64_t)(192 + 64 * (copy)) * VHDX_KIB)
#define VHDX_REGION_TABLE_SIZE (64 * VHDX_KIB)
#define VHDX_FIRST_REGION VHDX_MIB /* nothing movable lies before */

#define VHDX_PAGE_SIZE 4096u /* the unit of the log and of our cache */
#define VHDX_PAGE_WORDS (VHDX_PAGE_SIZE / 8)

#define VHDX_MAX_SIZE ((uint64_t)64 << 40)
#define VHDX_MAX_LOG_LENGTH ((uint32_t)1 << 30)
#define VHDX_BITMAP_SIZE VHDX_MIB     /* one sector bitmap block */
#define VHDX_CHUNK_SECTORS (1u << 23) /* that it describes */

/* ---- header, 2.2.2 ---- */

struct vhdx_header {
    uint64_t sequence;
    struct vd_guid file_write_guid;
    struct vd_guid data_write_guid;
    struct vd_guid log_guid; /* zero: the log is empty */
    uint16_t log_version;
    uint16_t version;
    uint32_t log_length;
    uint64_t log_offset;
};

/* Reads both headers; *slot_out is the current one's. */
VD_MUST_CHECK
vd_error vd_vhdx_header_read(struct vd_file *file, struct vhdx_header *out,
                             unsigned *slot_out);

/* Writes the header to both slots, the non-current one first, each followed
 * by a barrier; advances header->sequence twice and flips nothing else. */
VD_MUST_CHECK
vd_error vd_vhdx_header_update(struct vd_file *file,
                               struct vhdx_header *header,
                               unsigned *current_slot);

/* The 4 KiB of a header as they stand in the file. */
void vd_vhdx_header_encode(const struct vhdx_header *header,
                           uint8_t buffer[VHDX_HEADER_SIZE]);

/* ---- the replayed log of a file that may not be written ---- */

struct vhdx_overlay_page {
    uint64_t file_offset;
    size_t order;  /* position in the log: later wins */
    uint8_t *data; /* VHDX_PAGE_SIZE bytes */
};

struct vhdx_overlay_zero {
    uint64_t file_offset;
    uint64_t length;
    size_t order;
};

struct vhdx_overlay {
    struct vhdx_overlay_page *pages; /* by file_offset, one each */
    size_t page_count;
    struct vhdx_overlay_zero *zeros; /* in log order */
    size_t zero_count;
};

void vd_vhdx_overlay_free(struct vhdx_overlay *overlay);

/* ---- regions, 2.2.3 ---- */

#define VHDX_REGIONS_MAX 2047

struct vhdx_region {
    uint64_t offset;
    uint32_t length;
};

struct vhdx_regions {
    struct vhdx_region bat;
    struct vhdx_region metadata;
    struct vhdx_region *all; /* the known two, unknown ones and the log */
    size_t count;
};

extern const struct vd_guid vd_vhdx_bat_region_guid;
extern const struct vd_guid vd_vhdx_metadata_region_guid;

/* ---- metadata, 2.6 ---- */

enum vhdx_item {
    VHDX_ITEM_FILE_PARAMETERS,
    VHDX_ITEM_VIRTUAL_DISK_SIZE,
    VHDX_ITEM_LOGICAL_SECTOR_SIZE,
    VHDX_ITEM_PHYSICAL_SECTOR_SIZE,
    VHDX_ITEM_VIRTUAL_DISK_ID,
    VHDX_ITEM_PARENT_LOCATOR,
    VHDX_ITEM_INCOMPLETE,
    VHDX_ITEM_COUNT,
};

const struct vd_guid *vd_vhdx_item_guid(enum vhdx_item item);

extern const struct vd_guid vd_vhdx_locator_type;

struct vhdx_locator {
    struct vd_guid linkage;
    struct vd_guid linkage2; /* zero: absent */
    struct vd_parent_paths paths;
};

struct vhdx_metadata {
    uint32_t block_size;
    bool leave_allocated; /* fixed */
    bool has_parent;      /* differencing */
    uint64_t size_bytes;
    uint32_t logical_sector_size;
    uint32_t physical_sector_size;
    struct vd_guid virtual_disk_id;
    struct vhdx_locator locator; /* if has_parent */
};

VD_MUST_CHECK
vd_error vd_vhdx_locator_decode(const uint8_t *item, size_t length,
                                struct vhdx_locator *out);
void vd_vhdx_parent_paths_free(struct vd_parent_paths *paths);

#define VHDX_LOCATOR_MAX (64 * VHDX_KIB) /* that we write */

/* What an item is to say; what is NULL stays as in the former item.  One path
 * replaces all of them. */
struct vhdx_locator_change {
    const struct vd_guid *linkage;
    const struct vd_guid *linkage2; /* zero: none */
    const char16_t *relative_path;
    const char16_t *absolute_path;
};

/* A new item from a former one (or none, of length 0) that decodes.
 * ERROR_INVALID_PARAMETER if it becomes too long. */
VD_MUST_CHECK
vd_error vd_vhdx_locator_edit(const uint8_t *former, size_t former_length,
                              const struct vhdx_locator_change *change,
                              uint8_t item[VHDX_LOCATOR_MAX],
                              size_t *length_out);

/* ---- block allocation table, 2.5 ---- */

enum vhdx_payload_state {
    VHDX_NOT_PRESENT = 0,
    VHDX_UNDEFINED = 1,
    VHDX_ZERO = 2,
    VHDX_UNMAPPED = 3,
    VHDX_UNMAPPED_DRAFT = 5, /* of the 0.95 draft: read as 3 */
    VHDX_FULLY_PRESENT = 6,
    VHDX_PARTIALLY_PRESENT = 7,
};

#define VHDX_BITMAP_NOT_PRESENT 0
#define VHDX_BITMAP_PRESENT 6

#define VHDX_ENTRY_STATE(entry) ((unsigned)((entry) & 7))
#define VHDX_ENTRY_OFFSET(entry) ((entry) & ~(uint64_t)(VHDX_MIB - 1))
#define VHDX_ENTRY_RESERVED(entry) ((entry) & 0xffff8)

struct vhdx_geometry {
    uint32_t block_size;
    uint32_t sector_size;
    uint64_t chunk_ratio; /* payload blocks a chunk */
    uint64_t payload_blocks;
    uint64_t chunks;
    uint64_t bat_entries;
};

VD_MUST_CHECK
vd_error vd_vhdx_geometry_of(const struct vhdx_metadata *metadata,
                             struct vhdx_geometry *out);

static inline uint64_t
vd_vhdx_payload_index(const struct vhdx_geometry *geometry, uint64_t block)
{
    return block + block / geometry->chunk_ratio;
}

static inline uint64_t
vd_vhdx_bitmap_index(const struct vhdx_geometry *geometry, uint64_t chunk)
{
    return chunk * (geometry->chunk_ratio + 1) + geometry->chunk_ratio;
}

/* ---- metadata pages in memory ---- */

/*
 * 4 KiB of the BAT or of a sector bitmap, as 512 words.  Readers load words
 * at any time; only the one mutator stores them.  A page once published
 * stays until the image is closed.
 */
struct vhdx_page {
    uint64_t file_offset;
    bool dirty;     /* mutator only: changed since the last log entry */
    bool allocated; /* mutator only: the file has space for it */
    struct vhdx_page *next_dirty;
    _Atomic uint64_t words[VHDX_PAGE_WORDS];
};

typedef _Atomic(struct vhdx_page *) vhdx_page_slot;

/* The pages of one chunk's sector bitmap. */
struct vhdx_bitmap {
    vhdx_page_slot pages[VHDX_BITMAP_SIZE / VHDX_PAGE_SIZE];
};

typedef _Atomic(struct vhdx_bitmap *) vhdx_bitmap_slot;

/* ---- space that a session gave up ---- */

struct vhdx_free_block {
    uint64_t file_offset;
    uint64_t commit; /* usable once this commit is done and reclaimed */
    bool reclaimed;
};

struct vhdx_space {
    struct vhdx_free_block *blocks;
    size_t count, capacity;
};

/* ---- the image ---- */

struct vhdx_image {
    struct vd_image image; /* first */
    struct vhdx_header header;
    unsigned header_slot;
    struct vhdx_overlay overlay;
    struct vhdx_regions regions;
    struct vhdx_metadata metadata;
    struct vhdx_geometry geometry;

    _Atomic uint64_t file_size; /* changed by the mutator only */
    vhdx_page_slot *bat_pages;
    vhdx_bitmap_slot *bitmaps; /* by chunk; NULL unless differencing */

    /* The rest belongs to the mutator. */
    struct vd_session session;
    bool begun;
    bool content_begun; /* ... for VD_CHANGE_CONTENT */
    bool failed;
    uint64_t log_sequence; /* of the newest entry */
    uint32_t log_head;     /* where the next entry goes */
    uint32_t log_used;     /* length of the newest entry */
    struct vhdx_page *dirty;
    size_t dirty_count;
    uint64_t commits;
    uint64_t space_end; /* new space starts here, on a MiB */
    struct vhdx_space space;
};

static inline struct vhdx_image *
vd_vhdx_of(struct vd_image *image)
{
    return (struct vhdx_image *)image;
}

/* What a child calls this image. */
static inline struct vd_guid
vd_vhdx_data_write_guid(const struct vd_image *image)
{
    return ((const struct vhdx_image *)image)->header.data_write_guid;
}

VD_MUST_CHECK
vd_error vd_vhdx_create_defaults(struct vd_create_request *request);
VD_MUST_CHECK
vd_error vd_vhdx_create_image(struct vd_file *file,
                              const struct vd_create_request *request);

/* Reads metadata, the overlay included; past the end of the file it reads as
 * zeros. */
VD_MUST_CHECK
vd_error vd_vhdx_read_metadata(struct vhdx_image *vhdx, void *buffer,
                               size_t length, uint64_t offset);

VD_MUST_CHECK
vd_error vd_vhdx_regions_read(struct vhdx_image *vhdx);
VD_MUST_CHECK
vd_error vd_vhdx_metadata_read(struct vhdx_image *vhdx);

/* Replays the log: into the file if the image is writable, else into the
 * overlay.  Only called with a non-zero LogGuid. */
VD_MUST_CHECK
vd_error vd_vhdx_log_replay(struct vhdx_image *vhdx);

VD_MUST_CHECK
vd_error vd_vhdx_pages_create(struct vhdx_image *vhdx);
void vd_vhdx_pages_free(struct vhdx_image *vhdx);

/* The page that holds BAT entry `index`, loaded and checked. */
VD_MUST_CHECK
vd_error vd_vhdx_bat_page(struct vhdx_image *vhdx, uint64_t index,
                          struct vhdx_page **out);

/* Page `page` of the sector bitmap of a chunk, which must be present. */
VD_MUST_CHECK
vd_error vd_vhdx_bitmap_page(struct vhdx_image *vhdx, uint64_t chunk,
                             unsigned page, struct vhdx_page **out);

VD_MUST_CHECK
vd_error vd_vhdx_bat_entry(struct vhdx_image *vhdx, uint64_t index,
                           uint64_t *out);
VD_MUST_CHECK
vd_error vd_vhdx_bat_check(struct vhdx_image *vhdx);
VD_MUST_CHECK
vd_error vd_vhdx_lookup(struct vd_image *image, uint64_t offset,
                        uint64_t length, struct vd_extent *out);

/* Mutator: stores a word and puts its page on the dirty list.  The first time
 * the page is written back as it is, so that a host without space for it says
 * so now, to the writer, and not when the change is committed. */
VD_MUST_CHECK
vd_error vd_vhdx_page_store(struct vhdx_image *vhdx, struct vhdx_page *page,
                            unsigned word, uint64_t value);

/* Writes a page to its place in the file. */
VD_MUST_CHECK
vd_error vd_vhdx_page_apply(struct vhdx_image *vhdx,
                            const struct vhdx_page *page);

VD_MUST_CHECK
vd_error vd_vhdx_begin(struct vd_image *image, enum vd_change change);
VD_MUST_CHECK
vd_error vd_vhdx_write(struct vd_image *image, const void *buffer,
                       size_t length, uint64_t offset);
VD_MUST_CHECK
vd_error vd_vhdx_zero(struct vd_image *image, uint64_t offset, uint64_t length,
                      bool may_free);
VD_MUST_CHECK
vd_error vd_vhdx_commit(struct vd_image *image);
VD_MUST_CHECK
vd_error vd_vhdx_end(struct vhdx_image *vhdx);
void vd_vhdx_reclaim(struct vd_image *image);

/* How many dirty pages one log entry can take. */
size_t vd_vhdx_log_capacity(const struct vhdx_image *vhdx);

#endif
