/*
 * The parts of VHDX that change an image, among themselves: vhdx_staging.c
 * (changed pages), vhdx_journal.c (the log, written), vhdx_space.c,
 * vhdx_write.c (payload), vhdx_items.c (metadata items); of the image as a
 * whole vhdx_resize.c, vhdx_compact.c, vhdx_change.c.  All of this is the
 * mutator's: one thread at a time.
 */
#ifndef VD_FORMAT_VHDX_WRITE_H
#define VD_FORMAT_VHDX_WRITE_H

#include "format/vhdx.h"

/* ---- changed pages ---- */

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

/* Makes a region end earlier: commits.  Nobody reads what it loses; that is
 * free. */
VD_MUST_CHECK
vd_error vd_vhdx_region_trim(struct vhdx_image *vhdx,
                             struct vhdx_region *known, uint32_t length);

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
uint64_t vd_vhdx_given_up(const struct vd_image *image);
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
