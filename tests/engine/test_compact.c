/*
 * Compacting (disk/compact.h) over a format of the test's own, which keeps
 * account of what it is asked: which blocks are given up and how, in what
 * order things become durable, and what is left after a failure or a
 * cancellation anywhere.  Real formats: tests/test_compact.py.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "crash_file.h"
#include "disk/compact.h"
#include "disk/disk_private.h"

#define BLOCK 8192u
#define SECTOR 512u
#define BLOCKS 8
#define TAIL 1024u /* of the last block, which is cut */
#define SIZE (BLOCK * (BLOCKS - 1) + TAIL)
#define NOWHERE UINT64_MAX

/* One image: where each block is in the file, in blocks; and for a child,
 * whether only the first sector of it is there. */
struct fake {
    struct vd_image image;
    enum vd_extent_state elsewhere; /* state of what is not in the file */
    uint64_t place[BLOCKS];
    bool partial[BLOCKS];
    bool used[2 * BLOCKS]; /* places */
    bool given_up[2 * BLOCKS];
    char calls[512];    /* what was called, a letter each */
    unsigned countdown; /* the call that fails; 0: none */
    unsigned until_cancel;
    struct vd_progress *progress;
    uint64_t last_current;
};

static struct fake *
fake_of(struct vd_image *image)
{
    return (struct fake *)image;
}

static vd_error
call(struct fake *fake, char letter)
{
    size_t length = strlen(fake->calls);
    if (length + 1 < sizeof(fake->calls)) {
        fake->calls[length] = letter;
    }
    if (fake->countdown != 0 && --fake->countdown == 0) {
        return ERROR_IO_DEVICE;
    }
    return ERROR_SUCCESS;
}

static void
watch(struct fake *fake)
{
    if (fake->progress == NULL) {
        return;
    }
    uint64_t current = atomic_load(&fake->progress->current);
    CHECK(current >= fake->last_current);
    CHECK(current <= atomic_load(&fake->progress->completion));
    fake->last_current = current;
    if (fake->until_cancel != 0 && --fake->until_cancel == 0) {
        vd_progress_cancel(fake->progress);
    }
}

static vd_error
fake_lookup(struct vd_image *image, uint64_t offset, uint64_t length,
            struct vd_extent *out)
{
    struct fake *fake = fake_of(image);
    uint64_t block = offset / BLOCK;
    uint64_t inside = offset % BLOCK;
    uint64_t rest = BLOCK - inside;
    bool present = fake->place[block] != NOWHERE;
    watch(fake);
    if (fake->partial[block]) {
        present = present && inside < SECTOR;
        rest = inside < SECTOR ? SECTOR - inside : rest;
    }
    *out = (struct vd_extent){
        .state = present ? VD_EXTENT_PRESENT : fake->elsewhere,
        .file_offset = present ? fake->place[block] * BLOCK + inside : 0,
        .length = rest < length ? rest : length,
    };
    return ERROR_SUCCESS;
}

static vd_error
fake_begin(struct vd_image *image, enum vd_change change)
{
    CHECK_EQ(VD_CHANGE_LAYOUT, change);
    return call(fake_of(image), 'b');
}

static vd_error
release(struct fake *fake, uint64_t offset, uint64_t length, char letter)
{
    uint64_t block = offset / BLOCK;
    CHECK_EQ(0, offset % BLOCK);
    CHECK_EQ(block == BLOCKS - 1 ? TAIL : BLOCK, length);
    CHECK(fake->place[block] != NOWHERE);
    vd_error error = call(fake, letter);
    if (error == ERROR_SUCCESS) {
        fake->given_up[fake->place[block]] = true;
        fake->place[block] = NOWHERE;
        fake->partial[block] = false;
    }
    return error;
}

static vd_error
fake_zero(struct vd_image *image, uint64_t offset, uint64_t length,
          bool may_free)
{
    CHECK(may_free);
    return release(fake_of(image), offset, length, 'z');
}

static vd_error
fake_forget(struct vd_image *image, uint64_t offset, uint64_t length)
{
    return release(fake_of(image), offset, length, 'f');
}

static vd_error
fake_commit(struct vd_image *image)
{
    return call(fake_of(image), 'c');
}

static uint64_t
fake_given_up(const struct vd_image *image)
{
    const struct fake *fake = (const struct fake *)image;
    uint64_t count = 0;
    for (size_t i = 0; i < 2 * BLOCKS; i++) {
        count += fake->given_up[i];
    }
    return count * BLOCK;
}

static void
fake_reclaim(struct vd_image *image)
{
    struct fake *fake = fake_of(image);
    (void)call(fake, 'r');
    for (size_t i = 0; i < 2 * BLOCKS; i++) {
        fake->used[i] &= !fake->given_up[i];
        fake->given_up[i] = false;
    }
}

/* The block that lies last, into the first gap before it. */
static vd_error
fake_relocate(struct vd_image *image, bool *moved_out)
{
    struct fake *fake = fake_of(image);
    uint8_t payload[BLOCK];
    size_t last = BLOCKS, gap = 0;
    watch(fake);
    for (size_t i = 0; i < BLOCKS; i++) {
        if (fake->place[i] != NOWHERE &&
            (last == BLOCKS || fake->place[i] > fake->place[last])) {
            last = i;
        }
    }
    while (last < BLOCKS && gap < fake->place[last] && fake->used[gap]) {
        gap++;
    }
    *moved_out = last < BLOCKS && gap < fake->place[last];
    vd_error error = call(fake, *moved_out ? 'm' : '-');
    if (error != ERROR_SUCCESS || !*moved_out) {
        return error;
    }
    CHECK_OK(
        vd_file_pread(image->file, payload, BLOCK, fake->place[last] * BLOCK));
    CHECK_OK(vd_file_pwrite(image->file, payload, BLOCK, gap * BLOCK));
    fake->given_up[fake->place[last]] = true;
    fake->place[last] = gap;
    fake->used[gap] = true;
    return ERROR_SUCCESS;
}

static uint64_t
count_blocks(const struct fake *fake)
{
    uint64_t count = 0;
    for (size_t i = 0; i < BLOCKS; i++) {
        count += fake->place[i] != NOWHERE;
    }
    return count;
}

static vd_error
fake_occupied(struct vd_image *image, uint64_t *bytes_out)
{
    *bytes_out = count_blocks(fake_of(image)) * BLOCK;
    return call(fake_of(image), 'o');
}

static vd_error
fake_shorten(struct vd_image *image)
{
    struct fake *fake = fake_of(image);
    uint64_t end = 0;
    for (size_t i = 0; i < 2 * BLOCKS; i++) {
        CHECK(!fake->given_up[i]); /* and not yet reclaimed */
        end = fake->used[i] ? i + 1 : end;
    }
    vd_error error = call(fake, 's');
    return error != ERROR_SUCCESS ? error
                                  : vd_file_truncate(image->file, end * BLOCK);
}

static const struct vd_format fake_format = {
    .name = "fake",
    .lookup = fake_lookup,
    .begin = fake_begin,
    .zero = fake_zero,
    .commit = fake_commit,
    .given_up = fake_given_up,
    .reclaim = fake_reclaim,
    .forget = fake_forget,
    .relocate = fake_relocate,
    .occupied = fake_occupied,
    .shorten = fake_shorten,
};

/* ---- disks ---- */

struct chain {
    struct fake fakes[2]; /* leaf first */
    struct crash_file *files[2];
    struct vd_disk *disk;
    struct vd_progress progress;
    uint8_t content[SIZE];
};

/* Blocks of the leaf in the order of their places; '0' is one of zeros, '1'
 * of data, 'p' with a sector of zeros alone, '.' a gap. */
static void
fill(struct fake *fake, struct vd_file *file, const char *layout,
     const unsigned *blocks)
{
    uint8_t payload[BLOCK];
    for (size_t at = 0; layout[at] != '\0'; at++) {
        memset(payload, layout[at] == '1' ? (int)at + 1 : 0, BLOCK);
        if (layout[at] == 'p') { /* what is not said to be there */
            memset(payload + SECTOR, 0xee, BLOCK - SECTOR);
        }
        CHECK_OK(vd_file_pwrite(file, payload, BLOCK, at * BLOCK));
        if (layout[at] != '.') {
            unsigned block = *blocks++;
            fake->place[block] = at;
            fake->used[at] = true;
            fake->partial[block] = layout[at] == 'p';
        }
    }
}

static void
make_fake(struct chain *chain, size_t layer, enum vd_subtype subtype,
          const char *layout, const unsigned *blocks)
{
    struct fake *fake = &chain->fakes[layer];
    chain->files[layer] = crash_file_new();
    fake->image.format = &fake_format;
    fake->image.file = crash_file_of(chain->files[layer]);
    fake->image.info = (struct vd_image_info){
        .size_bytes = SIZE,
        .sector_size = SECTOR,
        .block_size = BLOCK,
        .subtype = subtype,
    };
    fake->elsewhere =
        subtype == VD_SUBTYPE_DIFFERENCING ? VD_EXTENT_PARENT : VD_EXTENT_ZERO;
    memset(fake->place, 0xff, sizeof(fake->place));
    fill(fake, fake->image.file, layout, blocks);
    chain->disk->layers[layer].image = &fake->image;
    chain->disk->layer_count = layer + 1;
}

static struct chain *
new_chain(const char *layout, const unsigned *blocks, const char *below,
          const unsigned *blocks_below)
{
    struct chain *chain = calloc(1, sizeof(*chain));
    chain->disk = vd_disk_new();
    chain->disk->layers = calloc(2, sizeof(*chain->disk->layers));
    chain->disk->writable = true;
    chain->disk->live = true;
    make_fake(chain, 0,
              below != NULL ? VD_SUBTYPE_DIFFERENCING : VD_SUBTYPE_DYNAMIC,
              layout, blocks);
    if (below != NULL) {
        make_fake(chain, 1, VD_SUBTYPE_DYNAMIC, below, blocks_below);
    }
    CHECK_OK(vd_disk_read(chain->disk, chain->content, SIZE, 0));
    chain->fakes[0].progress = &chain->progress;
    return chain;
}

static void
check_content(struct chain *chain)
{
    static uint8_t now[SIZE];
    chain->fakes[0].progress = NULL;
    CHECK_OK(vd_disk_read(chain->disk, now, SIZE, 0));
    CHECK_BYTES(chain->content, now, SIZE);
}

static void
free_chain(struct chain *chain)
{
    size_t layers = chain->disk->layer_count;
    chain->disk->layer_count = 0;
    vd_disk_close(chain->disk);
    for (size_t i = 0; i < layers; i++) {
        crash_file_free(chain->files[i]);
    }
    free(chain);
}

static uint64_t
file_size(const struct chain *chain)
{
    uint64_t size = 0;
    CHECK_OK(vd_file_size(chain->fakes[0].image.file, &size));
    return size;
}

static vd_error
compact(struct chain *chain, bool no_zero_scan, bool no_block_moves)
{
    struct vd_compact_options options = {no_zero_scan, no_block_moves};
    return vd_disk_compact(chain->disk, &options, &chain->progress);
}

static void
check_progress(const struct chain *chain)
{
    uint64_t completion = atomic_load(&chain->progress.completion);
    CHECK(completion > 0);
    CHECK_EQ(completion, atomic_load(&chain->progress.current));
}

/* ---- dynamic images ---- */

static const unsigned order[BLOCKS] = {7, 2, 0, 5, 4, 1, 6, 3};

static void
zeros_go_and_the_rest_moves_up(void)
{
    struct chain *chain = new_chain("01.001", order, NULL, NULL);
    CHECK_OK(compact(chain, false, false));
    /* Both zero scans' blocks in one commit; one data block moves. */
    CHECK_STR("bzzzcrom-crcs", chain->fakes[0].calls);
    CHECK_EQ(2 * BLOCK, file_size(chain));
    check_progress(chain);
    check_content(chain);
    free_chain(chain);
}

static void
flags_leave_steps_out(void)
{
    struct chain *chain = new_chain("01.001", order, NULL, NULL);
    CHECK_OK(compact(chain, true, false));
    CHECK(strchr(chain->fakes[0].calls, 'z') == NULL);
    CHECK_EQ(5 * BLOCK, file_size(chain)); /* the gap is filled */
    check_progress(chain);
    check_content(chain);
    free_chain(chain);

    chain = new_chain("01.001", order, NULL, NULL);
    CHECK_OK(compact(chain, false, true));
    CHECK(strchr(chain->fakes[0].calls, 'm') == NULL);
    CHECK_EQ(6 * BLOCK, file_size(chain)); /* the last one is of data */
    check_progress(chain);
    check_content(chain);
    free_chain(chain);

    chain = new_chain("01.10", order, NULL, NULL);
    CHECK_OK(compact(chain, true, true));
    CHECK_STR("bcs", chain->fakes[0].calls);
    CHECK_EQ(5 * BLOCK, file_size(chain));
    check_progress(chain);
    free_chain(chain);
}

static void
nothing_to_do_is_done(void)
{
    struct chain *chain = new_chain("111", order, NULL, NULL);
    CHECK_OK(compact(chain, false, false));
    CHECK_STR("bo-cs", chain->fakes[0].calls);
    CHECK_EQ(3 * BLOCK, file_size(chain));
    check_progress(chain);
    free_chain(chain);
    chain = new_chain("", order, NULL, NULL);
    CHECK_OK(compact(chain, false, false));
    check_progress(chain);
    free_chain(chain);
}

/* ---- differencing images ---- */

/* Zeros over zeros are forgotten, zeros over data are kept as such. */
static void
a_child_asks_its_parent(void)
{
    static const unsigned mine[] = {0, 1, 2, 3};
    static const unsigned below[] = {1, 2};
    struct chain *chain = new_chain("0001", mine, "10", below);
    CHECK_OK(compact(chain, false, true));
    CHECK_STR("bfzfcrcs", chain->fakes[0].calls);
    free_chain(chain);
}

/* What the child does not have of a block counts as well. */
static void
a_part_of_a_block_is_not_all_of_it(void)
{
    static const unsigned mine[] = {0, 1, 2};
    static const unsigned below[] = {1, 2};
    struct chain *chain = new_chain("ppp", mine, "10", below);
    CHECK_OK(compact(chain, false, true));
    CHECK_STR("bffcrcs", chain->fakes[0].calls);
    CHECK(chain->fakes[0].place[1] != NOWHERE); /* data shows through */
    check_content(chain);
    free_chain(chain);
}

/* ---- what it cannot be ---- */

static void
only_what_grows_shrinks(void)
{
    struct chain *chain = new_chain("10", order, NULL, NULL);
    struct vd_format without = fake_format;
    chain->fakes[0].image.info.subtype = VD_SUBTYPE_FIXED;
    CHECK_EQ(ERROR_VHD_INVALID_TYPE, compact(chain, false, false));
    chain->fakes[0].image.info.subtype = VD_SUBTYPE_NONE; /* a disc */
    CHECK_EQ(ERROR_VHD_INVALID_TYPE, compact(chain, false, false));
    chain->fakes[0].image.info.subtype = VD_SUBTYPE_DYNAMIC;
    without.relocate = NULL;
    chain->fakes[0].image.format = &without;
    CHECK_EQ(ERROR_NOT_SUPPORTED, compact(chain, false, false));
    chain->fakes[0].image.format = &fake_format;
    chain->disk->writable = false;
    CHECK_EQ(ERROR_WRITE_PROTECT, compact(chain, false, false));
    CHECK_STR("", chain->fakes[0].calls);
    free_chain(chain);
}

/* ---- interrupted ---- */

/* Whatever was given up is committed, or nothing more is. */
static void
failures_end_it(void)
{
    for (unsigned n = 1;; n++) {
        struct chain *chain = new_chain("01.001", order, NULL, NULL);
        chain->fakes[0].countdown = n;
        vd_error error = compact(chain, false, false);
        bool failed = chain->fakes[0].countdown == 0 &&
                      chain->fakes[0].calls[n - 1] != 'r';
        CHECK_EQ(failed ? ERROR_IO_DEVICE : 0, error);
        if (failed) {
            CHECK(strlen(chain->fakes[0].calls) <= n + 2); /* c, r */
            CHECK(atomic_load(&chain->progress.current) <=
                  atomic_load(&chain->progress.completion));
        }
        check_content(chain);
        bool more = chain->fakes[0].countdown == 0;
        free_chain(chain);
        if (!more) {
            CHECK(n > 10);
            return;
        }
    }
}

static void
it_stops_when_it_is_told(void)
{
    bool cancelled = true;
    for (unsigned n = 1; cancelled; n++) {
        struct chain *chain = new_chain("01.001", order, NULL, NULL);
        chain->fakes[0].until_cancel = n;
        vd_error error = compact(chain, false, false);
        cancelled = error == ERROR_OPERATION_ABORTED;
        CHECK(cancelled || error == ERROR_SUCCESS);
        size_t length = strlen(chain->fakes[0].calls);
        CHECK_EQ('s', chain->fakes[0].calls[length - 1]);
        check_content(chain);
        /* What is left is done the next time. */
        memset(&chain->progress, 0, sizeof(chain->progress));
        CHECK_OK(compact(chain, false, false));
        CHECK_EQ(2 * BLOCK, file_size(chain));
        check_content(chain);
        free_chain(chain);
        CHECK(cancelled || n > 5);
    }
}

int
main(void)
{
    zeros_go_and_the_rest_moves_up();
    flags_leave_steps_out();
    nothing_to_do_is_done();
    a_child_asks_its_parent();
    a_part_of_a_block_is_not_all_of_it();
    only_what_grows_shrinks();
    failures_end_it();
    it_stops_when_it_is_told();
    return check_result();
}
