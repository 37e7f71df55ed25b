/*
 * The parts of the VHDX format, among themselves ([MS-VHDX] v20240423).
 *
 * One file a structure: vhdx_header.c, vhdx_region.c, vhdx_metadata.c,
 * vhdx_locator.c, vhdx_log.c (finding and replaying), vhdx_page.c (metadata
 * pages in memory), vhdx_bat.c (lookup), vhdx_journal.c (writing the log),
 * vhdx_space.c (the file's space), vhdx_write.c (payload); of the image as a
 * whole vhdx_create.c, vhdx_resize.c, vhdx_compact.c, vhdx_items.c (metadata
 * items, changed), vhdx_change.c; vhdx.c is the format.
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
    uint64_t end;     /* new space starts here, on a MiB */
    uint64_t changes; /* how often any of this has changed */
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

/* ---- changed pages; from here on all is the mutator's ---- */

/* Stores a word and puts its page on the dirty list.  The first time the page
 * is written back as it is, so that a host without space for it says so now,
 * to the writer, and not when the change is committed. */
VD_MUST_CHECK
vd_error vd_vhdx_page_store(struct vhdx_image *vhdx, struct vhdx_page *page,
                            unsigned word, uint64_t value);

/* Stores a BAT entry in that way. */
VD_MUST_CHECK
vd_error vd_vhdx_set_entry(struct vhdx_image *vhdx, uint64_t index,
                           uint64_t entry);

/* The same for bytes of a region table or of the metadata region. */
VD_MUST_CHECK
vd_error vd_vhdx_stage(struct vhdx_image *vhdx, uint64_t file_offset,
                       const void *bytes, size_t length);

/* Forgets what has been staged and not committed. */
void vd_vhdx_unstage(struct vhdx_image *vhdx);

/* The page's place in the file, now. */
VD_MUST_CHECK
vd_error vd_vhdx_page_offset(struct vhdx_image *vhdx,
                             const struct vhdx_page *page, uint64_t *out);

/* After a bitmap block has been moved or given up: the host may not have
 * space for its pages. */
void vd_vhdx_bitmap_moved(struct vhdx_image *vhdx, uint64_t chunk);

/* Writes a page to its place in the file. */
VD_MUST_CHECK
vd_error vd_vhdx_page_apply(struct vhdx_image *vhdx,
                            const struct vhdx_page *page);

/* Commits if the changes of one more block, or 64 KiB, might not fit one log
 * entry. */
VD_MUST_CHECK
vd_error vd_vhdx_make_room(struct vhdx_image *vhdx);

/* ---- space ---- */

/* Room to remember one more piece, before what it holds is given up. */
VD_MUST_CHECK
vd_error vd_vhdx_space_reserve(struct vhdx_image *vhdx);

/* Space that nothing uses any more once this commit is done; reserve has been
 * called. */
void vd_vhdx_space_give_up(struct vhdx_image *vhdx, uint64_t offset,
                           uint64_t length, uint64_t commit);

/* Space, free or new, that reads as zeros; a multiple of 1 MiB. */
VD_MUST_CHECK
vd_error vd_vhdx_space_take(struct vhdx_image *vhdx, uint64_t length,
                            uint64_t *offset_out);

/* The free space nearest the start of the file, if it ends by `limit`. */
VD_MUST_CHECK
vd_error vd_vhdx_space_take_below(struct vhdx_image *vhdx, uint64_t length,
                                  uint64_t limit, uint64_t *offset_out,
                                  bool *found_out);

/* Taken space that has not been put to use after all. */
void vd_vhdx_space_put_back(struct vhdx_image *vhdx, uint64_t offset,
                            uint64_t length);

/* Gives free space back to the host, as far as it goes. */
void vd_vhdx_space_punch(struct vhdx_image *vhdx);

/* Forgets all free space that is not waiting for its release. */
void vd_vhdx_space_forget(struct vhdx_image *vhdx, uint64_t from);

/* ---- tables ---- */

/* Makes the two region tables the same again if they are not: staged. */
VD_MUST_CHECK
vd_error vd_vhdx_regions_repair(struct vhdx_image *vhdx);

/*
 * Makes a region, `known` of vhdx->regions, begin elsewhere, together with
 * all that is staged: commits.  Its content is there already; what it leaves
 * is given up.
 */
VD_MUST_CHECK
vd_error vd_vhdx_region_move(struct vhdx_image *vhdx,
                             struct vhdx_region *known, struct vhdx_region to);

/* Stages the new content of an item that is there and has this length. */
VD_MUST_CHECK
vd_error vd_vhdx_item_stage(struct vhdx_image *vhdx, enum vhdx_item item,
                            const void *bytes, uint32_t length);

/* One item to be put in, replaced, or (data NULL) taken out. */
struct vhdx_item_change {
    const struct vd_guid *id;
    bool user;
    const void *data;
    uint32_t length;
};

/* All of them or none, durably.  The region moves if there is no room in
 * it.  ERROR_VHD_METADATA_FULL, ERROR_NOT_FOUND for what is not there. */
VD_MUST_CHECK
vd_error vd_vhdx_items_change(struct vhdx_image *vhdx,
                              const struct vhdx_item_change *changes,
                              size_t count);

/* A copy of an item's content. */
VD_MUST_CHECK
vd_error vd_vhdx_item_read(struct vhdx_image *vhdx, const struct vd_guid *id,
                           bool user, void **out, uint32_t *length_out);

/* The ids of all user items. */
VD_MUST_CHECK
vd_error vd_vhdx_items_list(struct vhdx_image *vhdx, struct vd_guid **out,
                            size_t *count_out);

/* Writes the BAT, as long as `geometry` says, to another place; entries that
 * were not there before are as `fill` says. */
typedef uint64_t vhdx_fill(void *context, uint64_t index);

VD_MUST_CHECK
vd_error vd_vhdx_bat_write(struct vhdx_image *vhdx,
                           const struct vhdx_geometry *geometry,
                           uint64_t offset, uint64_t first_new,
                           vhdx_fill *fill, void *context);

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

/* An empty log entry that says of the file what atomic file_size says. */
VD_MUST_CHECK
vd_error vd_vhdx_log_settle(struct vhdx_image *vhdx);

/* Zeros in space that a block has. */
VD_MUST_CHECK
vd_error vd_vhdx_store_zeros(struct vhdx_image *vhdx, uint64_t file_offset,
                             uint64_t length, bool may_free);

VD_MUST_CHECK
vd_error vd_vhdx_forget(struct vd_image *image, uint64_t offset,
                        uint64_t length);
VD_MUST_CHECK
vd_error vd_vhdx_resize(struct vd_image *image, uint64_t size_bytes);
VD_MUST_CHECK
vd_error vd_vhdx_relocate(struct vd_image *image, bool *moved_out);
VD_MUST_CHECK
vd_error vd_vhdx_occupied(struct vd_image *image, uint64_t *bytes_out);
VD_MUST_CHECK
vd_error vd_vhdx_shorten(struct vd_image *image);
VD_MUST_CHECK
vd_error vd_vhdx_change(struct vd_image *image,
                        const struct vd_image_change *change);
VD_MUST_CHECK
vd_error vd_vhdx_metadata_list(struct vd_image *image, struct vd_guid **items,
                               size_t *count_out);
VD_MUST_CHECK
vd_error vd_vhdx_metadata_get(struct vd_image *image,
                              const struct vd_guid *item, void **out,
                              size_t *size_out);
VD_MUST_CHECK
vd_error vd_vhdx_metadata_set(struct vd_image *image,
                              const struct vd_guid *item, const void *data,
                              size_t size);
VD_MUST_CHECK
vd_error vd_vhdx_metadata_delete(struct vd_image *image,
                                 const struct vd_guid *item);

/* What the rest of the engine sees of the metadata. */
void vd_vhdx_fill_info(struct vhdx_image *vhdx);

/* How many dirty pages one log entry can take. */
size_t vd_vhdx_log_capacity(const struct vhdx_image *vhdx);

#endif
