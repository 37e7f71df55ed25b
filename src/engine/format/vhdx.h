/*
 * The parts of the VHDX format, among themselves ([MS-VHDX] v20240423).
 *
 * One file a structure: vhdx_header.c, vhdx_region.c, vhdx_metadata.c,
 * vhdx_locator.c, vhdx_log.c and vhdx_replay.c, vhdx_page.c (metadata pages in
 * memory), vhdx_bat.c (lookup).  What changes an image is in vhdx_write.h.
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

/* What is no block: the known two regions, unknown ones and the log. */
struct vhdx_region_set {
    struct vhdx_region_set *former; /* a reader may still be in it */
    size_t count;
    struct vhdx_region all[];
};

struct vhdx_regions {
    struct vhdx_region bat;
    struct vhdx_region metadata;
    bool copies_differ; /* one table is damaged, or older */
    _Atomic(struct vhdx_region_set *) set;
};

extern const struct vd_guid vd_vhdx_bat_region_guid;
extern const struct vd_guid vd_vhdx_metadata_region_guid;

/* ---- metadata, 2.6 ---- */

enum {
    VHDX_METADATA_SIGNATURE = 0,
    VHDX_METADATA_COUNT = 10,
    VHDX_METADATA_ENTRIES = 32,
    VHDX_METADATA_TABLE_SIZE = 64 * 1024,
    VHDX_ITEM_ID = 0,
    VHDX_ITEM_OFFSET = 16, /* in the region */
    VHDX_ITEM_LENGTH = 20,
    VHDX_ITEM_FLAGS = 24,
    VHDX_ITEM_ENTRY_SIZE = 32,
};

enum {
    VHDX_ITEM_IS_USER = 1,
    VHDX_ITEM_IS_REQUIRED = 4,
};

#define VHDX_ITEMS_MAX 2047
#define VHDX_USER_ITEMS_MAX 1024
#define VHDX_ITEM_LENGTH_MAX VHDX_MIB

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

void vd_vhdx_geometry_of(const struct vhdx_metadata *metadata,
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

enum vhdx_page_kind {
    VHDX_PAGE_BAT,
    VHDX_PAGE_BITMAP,
    VHDX_PAGE_LOOSE, /* of a table or an item; lives until it is applied */
};

/*
 * 4 KiB of metadata, as 512 words.  Readers load words at any time; only the
 * one mutator stores them.  A page of the BAT or of a bitmap, once published,
 * stays until the image is closed; its place in the file may change.
 */
struct vhdx_page {
    enum vhdx_page_kind kind;
    uint64_t chunk;  /* BITMAP: whose */
    uint64_t number; /* in the BAT, in the bitmap block, in the file */
    bool dirty;      /* mutator only: changed since the last log entry */
    bool allocated;  /* mutator only: the file has space for it */
    struct vhdx_page *next_dirty;
    _Atomic uint64_t words[VHDX_PAGE_WORDS];
};

typedef _Atomic(struct vhdx_page *) vhdx_page_slot;

/* The pages of one chunk's sector bitmap. */
struct vhdx_bitmap {
    vhdx_page_slot pages[VHDX_BITMAP_SIZE / VHDX_PAGE_SIZE];
};

typedef _Atomic(struct vhdx_bitmap *) vhdx_bitmap_slot;

/* ---- space in the file that nothing uses ---- */

enum vhdx_free_state {
    VHDX_SPACE_GIVEN_UP, /* until its release is committed and reclaimed */
    VHDX_SPACE_FREE,
    VHDX_SPACE_ZEROED,  /* free, and reads as zeros */
    VHDX_SPACE_REFUSED, /* free; the host would not take it back */
};

struct vhdx_free_space {
    uint64_t offset;
    uint64_t length;
    uint64_t commit; /* GIVEN_UP: the commit that releases it */
    enum vhdx_free_state state;
};

struct vhdx_space {
    struct vhdx_free_space *pieces;
    size_t count, capacity;
    uint64_t given_up; /* bytes in that state */
    uint64_t end;      /* new space starts here, on a MiB */
    uint64_t changes;  /* how often any of this has changed */
};

/* What is in use, by place: see vhdx_compact.c. */
struct vhdx_piece {
    uint64_t offset;
    uint64_t length;
    uint64_t index; /* of the BAT entry, if it is a block */
};

struct vhdx_layout {
    struct vhdx_piece *pieces;
    size_t count, capacity;
    uint64_t changes; /* of the space it belongs to */
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

    /* Changed by the mutator only; the tables have slots for the largest
     * disk in blocks of this size. */
    _Atomic uint64_t file_size;
    _Atomic uint64_t bat_offset;
    _Atomic uint64_t bat_entries;
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
    struct vhdx_space space;
    struct vhdx_layout layout;
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

/* ERROR_VHD_INVALID_TYPE for a parent of another format. */
VD_MUST_CHECK
vd_error vd_vhdx_check_parent(const struct vd_image *parent);

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
void vd_vhdx_regions_free(struct vhdx_regions *regions);
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

/* A page of the file, in no slot; the caller frees it. */
VD_MUST_CHECK
vd_error vd_vhdx_page_read(struct vhdx_image *vhdx, uint64_t file_offset,
                           struct vhdx_page **out);

/* The words of BAT page `number` as they are now, checked; unlike
 * vd_vhdx_bat_page this keeps nothing. */
VD_MUST_CHECK
vd_error vd_vhdx_bat_peek(struct vhdx_image *vhdx, uint64_t number,
                          uint64_t words[VHDX_PAGE_WORDS]);

/* Called for each entry that owns space, with what it owns. */
typedef vd_error vhdx_visit(void *context, const struct vhdx_piece *piece);

VD_MUST_CHECK
vd_error vd_vhdx_bat_scan(struct vhdx_image *vhdx, vhdx_visit *visit,
                          void *context);

/* Whether an index is that of a sector bitmap. */
static inline bool
vd_vhdx_is_bitmap_index(const struct vhdx_geometry *geometry, uint64_t index)
{
    return index % (geometry->chunk_ratio + 1) == geometry->chunk_ratio;
}

/* Whether an entry owns space: present, or kept as an anchor. */
bool vd_vhdx_owns_space(const struct vhdx_image *vhdx, uint64_t entry,
                        bool bitmap);

#endif
