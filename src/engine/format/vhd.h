/*
 * The parts of the VHD format, among themselves ("Virtual Hard Disk
 * Image Format Specification" 1.0).
 *
 * One file a structure: vhd_footer.c, vhd_header.c, vhd_locator.c,
 * vhd_recover.c (which footer counts, mending what a crash left), vhd_page.c
 * (BAT and sector bitmaps in memory), vhd_bat.c (checking the BAT, lookup),
 * vhd_write.c (allocation, zeroing), vhd_space.c (free blocks), vhd_commit.c
 * (the order in which things become durable), vhd_batmap.c (XenServer's map of
 * full blocks), vhd_create.c and vhd_request.c (new images), vhd_table.c (the
 * BAT as a whole: more entries, another place), vhd_resize.c, vhd_compact.c,
 * vhd_change.c (identity, parent), vhd.c (the format).
 *
 * All integers of the file are big-endian; sizes are bytes.
 */
#ifndef VD_FORMAT_VHD_H
#define VD_FORMAT_VHD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "format/format.h"
#include "format/vhd_footer.h"
#include "format/vhd_header.h"

/* ---- block allocation table ---- */

#define VHD_UNUSED 0xFFFFFFFFu /* an entry without a block */

#define VHD_DATA_ALIGNMENT 4096u /* of blocks in files of Windows 8 and on */

/* ---- BAT and bitmaps in memory ---- */

#define VHD_WORDS_PER_SECTOR (VHD_SECTOR_SIZE / 4)
#define VHD_BAT_PAGE_SIZE 4096u
#define VHD_BAT_PAGE_ENTRIES (VHD_BAT_PAGE_SIZE / 4)
#define VHD_MAX_PAGE_SECTORS 128 /* the bitmap of a 256 MiB block */

struct vd_vhd_page;
typedef _Atomic(struct vd_vhd_page *) vd_vhd_page_slot;

/* Which blocks of a dynamic disk somebody has found present since it was
 * opened for writing, and may thus have written in place; and of which the
 * bitmap is known to be full.  One bit a block. */
struct vd_vhd_usage {
    _Atomic uint32_t found[VHD_BAT_PAGE_ENTRIES / 32];
    uint32_t full[VHD_BAT_PAGE_ENTRIES / 32]; /* mutator only */
};

/*
 * 4 KiB of the BAT, or the whole sector bitmap of one block, as 32-bit words.
 * Readers load words at any time; only the one mutator stores them.  A page
 * once published stays until the image is closed.
 */
struct vd_vhd_page {
    uint64_t file_offset;
    uint32_t sectors; /* 512 bytes each */

    /* Of a BAT page: the bitmaps of its blocks (differencing), or their use
     * (dynamic and writable). */
    vd_vhd_page_slot *bitmaps;
    struct vd_vhd_usage *usage;

    /* Mutator only. */
    struct vd_vhd_page *next_dirty;
    bool listed; /* on the dirty list */
    struct vd_vhd_page *next_retired;
    uint64_t born; /* bitmap: no BAT entry leads here before this commit */
    uint64_t dirty[VHD_MAX_PAGE_SECTORS / 64]; /* sectors to be written */

    _Atomic uint32_t words[];
};

/* The pages of the BAT.  When it grows there are new slots for the same pages
 * and more; the older ones stay until the image is closed. */
struct vd_vhd_slots {
    struct vd_vhd_slots *older;
    uint64_t count;
    vd_vhd_page_slot pages[];
};

/* ---- space ---- */

struct vd_vhd_range {
    uint64_t offset;
    uint64_t length;
};

/* Footer's copy, header, BAT, eight locators, batmap and its header. */
#define VHD_MAX_RANGES (3 + VHD_LOCATORS + 2)

struct vd_vhd_free_block {
    uint64_t place;  /* of its bitmap */
    uint64_t commit; /* usable once this commit is done and reclaimed */
    bool reclaimed;
    bool punched; /* the payload's place reads as zeros */
};

struct vd_vhd_space {
    struct vd_vhd_free_block *blocks;
    size_t count, capacity;
    size_t waiting; /* how many have not been reclaimed */
};

/* ---- footers in the file ---- */

struct vd_vhd_footers {
    uint8_t raw[VHD_FOOTER_SIZE]; /* that counts, as it stands in the file */
    struct vd_vhd_footer footer;
    uint64_t file_size;
    uint64_t tail_offset;
    uint64_t tail_size; /* 512, 511, or 0: the one at the end is damaged */
    bool head_good;     /* the copy is the same */
};

/* ---- the image ---- */

struct vd_vhd_image {
    struct vd_image image; /* first */
    struct vd_vhd_footers footers;

    /* Dynamic and differencing. */
    struct vd_vhd_header header;
    bool child;
    uint32_t bitmap_size;
    uint64_t blocks;                            /* that the disk needs */
    struct vd_vhd_range ranges[VHD_MAX_RANGES]; /* no block may lie there */
    size_t range_count;
    uint64_t metadata_end; /* of all these and what they keep for growing */
    bool has_batmap;
    _Atomic(struct vd_vhd_slots *) bat_pages;
    _Atomic uint64_t data_end;     /* no block reaches further */
    _Atomic uint64_t found_blocks; /* how many bits of vhd_usage.found */

    /* The rest belongs to the mutator. */
    bool begun;
    bool failed;
    bool aligned;            /* data of blocks start on VHD_DATA_ALIGNMENT */
    uint64_t next_free;      /* everything in use ends before */
    uint64_t reserve_blocks; /* by how many the footer last moved ahead */
    uint64_t commits;
    uint64_t found_blocks_seen;
    uint64_t reclaims;
    struct vd_vhd_page *dirty;
    struct vd_vhd_page *retired; /* bitmaps of blocks that have gone */
    struct vd_vhd_space space;
    bool released;   /* the last block may be another than next_free says */
    bool space_lost; /* some of it has been given up and is not in there */
    struct vd_vhd_plan *plan; /* vhd_compact.c; NULL: none */
};

static inline struct vd_vhd_image *
vd_vhd_of(struct vd_image *image)
{
    return (struct vd_vhd_image *)image;
}

static inline bool
vd_vhd_is_fixed(const struct vd_vhd_image *vhd)
{
    return vhd->footers.footer.disk_type == VHD_TYPE_FIXED;
}

static inline vd_vhd_page_slot *
vd_vhd_bat_slot(struct vd_vhd_image *vhd, uint64_t number)
{
    return &atomic_load(&vhd->bat_pages)->pages[number];
}

/* ---- vhd_recover.c ---- */

/* Whether the file has a footer at its end or a copy at its head. */
VD_MUST_CHECK
vd_error vd_vhd_recognise(struct vd_file *file, bool *recognised);

VD_MUST_CHECK
vd_error vd_vhd_find_footers(struct vd_file *file, struct vd_vhd_footers *out);

/* On a writable open, after everything else has been checked: the footer
 * that is missing or differs is written again. */
VD_MUST_CHECK
vd_error vd_vhd_mend(struct vd_vhd_image *vhd);

/* Before the first change: a whole footer, right behind the last block, and
 * nothing after it. */
VD_MUST_CHECK
vd_error vd_vhd_settle(struct vd_vhd_image *vhd);

/* After the last change: the footer comes back from ahead. */
VD_MUST_CHECK
vd_error vd_vhd_withdraw(struct vd_vhd_image *vhd);

/* Writes the footer and makes it durable; whatever it was before, a dynamic or
 * differencing image opens at any moment of this, for the copy at the head is
 * whole. */
VD_MUST_CHECK
vd_error vd_vhd_put_tail(struct vd_vhd_image *vhd, uint64_t place);

/* The same with other content, then the copy at the head.  At any moment
 * either the old or the new footer counts. */
VD_MUST_CHECK
vd_error vd_vhd_store_footer(struct vd_vhd_image *vhd,
                             const struct vd_vhd_footer *footer);

/* ERROR_VHD_INVALID_STATE if a virtual machine's saved state is over this
 * disk: its layout and size have to stay. */
VD_MUST_CHECK
vd_error vd_vhd_check_state(const struct vd_vhd_image *vhd);

/* Where the footer belongs, and the next block's bitmap, if everything in use
 * ends before `end`. */
uint64_t vd_vhd_footer_place(const struct vd_vhd_image *vhd, uint64_t end);
uint64_t vd_vhd_block_place(const struct vd_vhd_image *vhd, uint64_t end);

/* ---- vhd_locator.c ---- */

/* Whether a locator may hold it: something, and no more than readers take. */
bool vd_vhd_is_path(const char16_t *path);

/* The text of a locator, in its place. */
VD_MUST_CHECK
vd_error vd_vhd_locator_write(struct vd_file *file,
                              const struct vd_vhd_locator *locator,
                              const char16_t *path);

VD_MUST_CHECK
vd_error vd_vhd_parent_paths(struct vd_image *image,
                             struct vd_parent_paths *out);
void vd_vhd_parent_paths_free(struct vd_parent_paths *paths);

/* ---- vhd_page.c ---- */

/* Slots for the BAT of so many blocks; again for more, once all pages that
 * there are have been loaded. */
VD_MUST_CHECK
vd_error vd_vhd_pages_create(struct vd_vhd_image *vhd, uint64_t blocks);
void vd_vhd_pages_free(struct vd_vhd_image *vhd);

/* The page that holds the entry of a block, loaded and checked. */
VD_MUST_CHECK
vd_error vd_vhd_bat_page(struct vd_vhd_image *vhd, uint64_t block,
                         struct vd_vhd_page **out);

/* The bitmap of an allocated block of a differencing disk. */
VD_MUST_CHECK
vd_error vd_vhd_bitmap(struct vd_vhd_image *vhd, struct vd_vhd_page *bat_page,
                       uint64_t block, struct vd_vhd_page **out);

/* A bitmap of zeros for a block that is yet to be published. */
VD_MUST_CHECK
vd_error vd_vhd_bitmap_new(struct vd_vhd_image *vhd, uint64_t place,
                           struct vd_vhd_page **out);
void vd_vhd_page_free(struct vd_vhd_page *page);

/* The bitmap of a block that is about to get an entry. */
void vd_vhd_bitmap_publish(struct vd_vhd_image *vhd,
                           struct vd_vhd_page *bat_page, size_t index,
                           struct vd_vhd_page *bitmap);

/* Mutator: stores a word and puts its page on the dirty list. */
void vd_vhd_page_store(struct vd_vhd_image *vhd, struct vd_vhd_page *page,
                       uint32_t word, uint32_t value);

/* Mutator: writes sectors of a page to the file: all, or the dirty ones,
 * which are then clean. */
VD_MUST_CHECK
vd_error vd_vhd_page_write(struct vd_vhd_image *vhd, struct vd_vhd_page *page);
VD_MUST_CHECK
vd_error vd_vhd_page_write_dirty(struct vd_vhd_image *vhd,
                                 struct vd_vhd_page *page);

/* ---- vhd_bat.c ---- */

/* Notes a piece of the file that is no block's. */
void vd_vhd_add_range(struct vd_vhd_image *vhd, uint64_t offset,
                      uint64_t length);

/* Notes where header, BAT and locators lie, and nothing else. */
void vd_vhd_collect_ranges(struct vd_vhd_image *vhd);

/* Whether an entry leads to a place where a block may be. */
VD_MUST_CHECK
vd_error vd_vhd_check_entry(const struct vd_vhd_image *vhd, uint64_t block,
                            uint32_t entry);

/* Reads the whole BAT from the file and checks its entries, also against
 * each other; sets next_free and aligned. */
VD_MUST_CHECK
vd_error vd_vhd_scan(struct vd_vhd_image *vhd);

/* What is checked at open: see there. */
VD_MUST_CHECK
vd_error vd_vhd_bat_check(struct vd_vhd_image *vhd);

VD_MUST_CHECK
vd_error vd_vhd_lookup(struct vd_image *image, uint64_t offset,
                       uint64_t length, struct vd_extent *out);

/* ---- vhd_batmap.c ---- */

/* Finds the map of full blocks, if the maker of the file knows such. */
VD_MUST_CHECK
vd_error vd_vhd_batmap_find(struct vd_vhd_image *vhd);

/* Whether the file may be changed while its batmap stays as it is. */
VD_MUST_CHECK
vd_error vd_vhd_batmap_check(struct vd_vhd_image *vhd);

/* ---- vhd_write.c ---- */

VD_MUST_CHECK
vd_error vd_vhd_write(struct vd_image *image, const void *buffer,
                      size_t length, uint64_t offset);
VD_MUST_CHECK
vd_error vd_vhd_zero(struct vd_image *image, uint64_t offset, uint64_t length,
                     bool may_free);
VD_MUST_CHECK
vd_error vd_vhd_forget(struct vd_image *image, uint64_t offset,
                       uint64_t length);

/* ---- vhd_space.c ---- */

/* Remembers space that nothing refers to (any more).  Without memory for
 * that it is merely lost until the image is opened again. */
void vd_vhd_space_give_up(struct vd_vhd_image *vhd, uint64_t place,
                          bool reclaimed);

/* Space given up earlier that may be used again: its payload reads as zeros.
 * *found_out: whether there is any. */
VD_MUST_CHECK
vd_error vd_vhd_space_take(struct vd_vhd_image *vhd, uint64_t *place_out,
                           bool *found_out);

uint64_t vd_vhd_given_up(const struct vd_image *image);
void vd_vhd_reclaim(struct vd_image *image);

/* What may be used again is left to compacting. */
void vd_vhd_space_drop_reclaimed(struct vd_vhd_image *vhd);

/* ---- vhd_compact.c ---- */

VD_MUST_CHECK
vd_error vd_vhd_relocate(struct vd_image *image, bool *moved_out);
VD_MUST_CHECK
vd_error vd_vhd_occupied(struct vd_image *image, uint64_t *bytes_out);
VD_MUST_CHECK
vd_error vd_vhd_shorten(struct vd_image *image);

/* Blocks have come or gone: what relocate was going to do is void. */
void vd_vhd_plan_drop(struct vd_vhd_image *vhd);

/* ---- vhd_commit.c ---- */

VD_MUST_CHECK
vd_error vd_vhd_begin(struct vd_image *image, enum vd_change change);

/* Moves the footer ahead, so that a block at `place` fits before it. */
VD_MUST_CHECK
vd_error vd_vhd_reserve(struct vd_vhd_image *vhd, uint64_t place);

/* The same, so that the footer stands at `end` or behind. */
VD_MUST_CHECK
vd_error vd_vhd_reserve_end(struct vd_vhd_image *vhd, uint64_t end);

/* Ends the session if it is an error: no change after that. */
VD_MUST_CHECK
vd_error vd_vhd_remember(struct vd_vhd_image *vhd, vd_error error);

VD_MUST_CHECK
vd_error vd_vhd_commit(struct vd_image *image);
VD_MUST_CHECK
vd_error vd_vhd_end(struct vd_vhd_image *vhd);

/* ---- vhd_table.c ---- */

/* Where the table stands in a file laid out as this one, if anything before
 * it ends at `end`. */
uint64_t vd_vhd_table_place(const struct vd_vhd_image *vhd, uint64_t end);

/* What a table of so many entries takes: as Windows does it, up to the next
 * 4 KiB of the file. */
uint64_t vd_vhd_table_space(uint64_t place, uint64_t entries);

/* Brings the whole BAT into memory, so that no reader needs the file's. */
VD_MUST_CHECK
vd_error vd_vhd_table_load(struct vd_vhd_image *vhd);

/* Whether nothing is in a part of the file, or may still be read there; what
 * starts at `but` does not count.  The BAT is in memory. */
bool vd_vhd_is_free(struct vd_vhd_image *vhd, uint64_t start, uint64_t end,
                    uint64_t but);

/* Gives the BAT so many entries, the new ones unused: durable.  The image
 * keeps its size and number of blocks.  Both: after a commit. */
VD_MUST_CHECK
vd_error vd_vhd_table_grow(struct vd_vhd_image *vhd, uint64_t entries);

/* Moves the BAT to free space before the footer: durable. */
VD_MUST_CHECK
vd_error vd_vhd_table_move(struct vd_vhd_image *vhd, uint64_t place,
                           uint64_t entries);

/* ---- vhd_resize.c ---- */

VD_MUST_CHECK
vd_error vd_vhd_resize(struct vd_image *image, uint64_t size_bytes);

/* The footer of a fixed disk goes behind its first size_bytes, and to the
 * start of a sector, where one write changes it; its content stays. */
VD_MUST_CHECK
vd_error vd_vhd_extend(struct vd_vhd_image *vhd, uint64_t size_bytes);

/* ---- vhd_change.c ---- */

VD_MUST_CHECK
vd_error vd_vhd_change(struct vd_image *image,
                       const struct vd_image_change *change);

#endif
