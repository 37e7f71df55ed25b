/*
 * Merging, over files that lose power: all files of a chain together.  At
 * every moment of a merge, and whatever of the last writes has reached each
 * medium, the chain opened by its leaf reads the same.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/guid.h"
#include "check.h"
#include "crash_file.h"
#include "disk/disk_private.h"
#include "disk/merge.h"
#include "disk/progress.h"
#include "format/format.h"
#include "random.h"

#define LAYERS_MAX 5
#define MIB ((uint64_t)1 << 20)
#define SIZE_MAX_BYTES (8 * MIB)

/* What a chain is made like; its first layer is the leaf. */
struct plan {
    const struct vd_format *format;
    size_t layers;
    enum vd_subtype root; /* DYNAMIC or FIXED */
    uint32_t block_size;
    uint32_t sector_size;
    uint64_t sizes[LAYERS_MAX]; /* 0: as its parent */
};

struct chain {
    const struct plan *plan;
    struct crash_file *files[LAYERS_MAX];
};

static uint64_t guids = 1;

static struct vd_guid
new_guid(void)
{
    struct vd_guid guid;
    memset(guid.bytes, 0x40, sizeof(guid.bytes));
    guids++;
    memcpy(guid.bytes, &guids, sizeof(guids));
    return guid;
}

static struct vd_session
new_session(void)
{
    return (struct vd_session){
        .file_write_guid = new_guid(),
        .data_write_guid = new_guid(),
        .log_guid = new_guid(),
        .log_sequence = 1000 + guids,
    };
}

/* ---- images ---- */

static struct vd_image *
open_image(const struct plan *plan, struct crash_file *file,
           const struct vd_session *session)
{
    struct vd_open_request request = {.writable = session != NULL};
    struct vd_image *image = NULL;
    if (session != NULL) {
        request.session = *session;
    }
    return CHECK_OK(plan->format->open(crash_file_of(file), &request, &image))
               ? image
               : NULL;
}

static void
create_layer(struct chain *chain, size_t layer)
{
    const struct plan *plan = chain->plan;
    char16_t path[] = u".\\0.img";
    struct vd_image *parent = NULL;
    struct vd_create_request request = {
        .subtype = plan->root,
        .size_bytes = plan->sizes[layer],
        .block_size = plan->root == VD_SUBTYPE_FIXED ? 0 : plan->block_size,
        .sector_size = plan->sector_size,
        .identifier = new_guid(),
        .session = new_session(),
    };
    if (layer + 1 < plan->layers) {
        parent = open_image(plan, chain->files[layer + 1], NULL);
        path[2] = (char16_t)(u'0' + layer + 1);
        request.subtype = VD_SUBTYPE_DIFFERENCING;
        request.block_size = plan->block_size;
        request.parent = parent;
        request.parent_relative_path = path;
    }
    CHECK_OK(plan->format->create_defaults(&request));
    CHECK_OK(
        plan->format->create(crash_file_of(chain->files[layer]), &request));
    if (parent != NULL) {
        CHECK_OK(plan->format->close(parent));
    }
}

/* Some sectors, blocks and borders of blocks; with data or zeros. */
static void
fill_layer(struct chain *chain, size_t layer, struct random *random)
{
    static uint8_t data[128 * 1024];
    const struct plan *plan = chain->plan;
    struct vd_session session = new_session();
    struct vd_image *image = open_image(plan, chain->files[layer], &session);
    uint64_t sectors = image->info.size_bytes / plan->sector_size;
    CHECK_OK(plan->format->begin(image, VD_CHANGE_CONTENT));
    for (int i = 0; i < 12; i++) {
        uint64_t at = random_below(random, sectors) * plan->sector_size;
        uint64_t most = sizeof(data) / plan->sector_size;
        uint64_t length = (1 + random_below(random, most)) * plan->sector_size;
        uint64_t rest = image->info.size_bytes - at;
        length = length < rest ? length : rest;
        uint64_t tag = layer << 32 | (uint64_t)i << 8 | 1;
        for (size_t j = 0; j < sizeof(data); j += 8) {
            vd_put_le64(data + j, tag + (j / 512 << 40));
        }
        if (i % 4 == 3) {
            CHECK_OK(plan->format->zero(image, at, length, i % 8 == 3));
        }
        else if (i == 5) {
            memset(data, 0, sizeof(data)); /* zeros that are stored */
            CHECK_OK(plan->format->write(image, data, (size_t)length, at));
        }
        else {
            CHECK_OK(plan->format->write(image, data, (size_t)length, at));
        }
    }
    uint64_t block = (uint64_t)2 * plan->block_size;
    if (layer % 2 == 0 && block + plan->block_size < image->info.size_bytes) {
        CHECK_OK(plan->format->zero(image, block, plan->block_size, true));
    }
    CHECK_OK(plan->format->commit(image));
    CHECK_OK(plan->format->close(image));
}

static struct chain
make_chain(const struct plan *plan, uint64_t seed)
{
    struct chain chain = {.plan = plan};
    struct random random = {seed};
    for (size_t i = 0; i < plan->layers; i++) {
        chain.files[i] = crash_file_new();
        crash_file_share_clock(chain.files[i], chain.files[0]);
    }
    for (size_t i = plan->layers; i-- > 0;) {
        create_layer(&chain, i);
        fill_layer(&chain, i, &random);
    }
    for (size_t i = 0; i < plan->layers; i++) {
        crash_file_settle(chain.files[i]);
    }
    return chain;
}

static void
free_chain(struct chain *chain)
{
    for (size_t i = 0; i < chain->plan->layers; i++) {
        crash_file_free(chain->files[i]);
    }
}

/* What may be on the media at that time. */
static struct chain
cut_power(const struct chain *chain, size_t time, uint64_t seed)
{
    struct chain cut = {.plan = chain->plan};
    for (size_t i = 0; i < chain->plan->layers; i++) {
        uint64_t own = seed == 0 ? 0 : seed * LAYERS_MAX + i;
        cut.files[i] = crash_file_image(
            chain->files[i], crash_file_events_before(chain->files[i], time),
            own);
        crash_file_share_clock(cut.files[i], cut.files[0]);
    }
    return cut;
}

/* ---- disks ---- */

/* As the engine's own layers, over no file of the system. */
static void
add_layer(struct vd_disk *disk, struct vd_image *image, size_t number,
          const struct vd_session *session)
{
    static const struct vd_session no_session;
    char path[32];
    snprintf(path, sizeof(path), "/chain/%zu.img", number);
    struct vd_layer *layers =
        realloc(disk->layers, (disk->layer_count + 1) * sizeof(*disk->layers));
    struct vd_posix_file *file = calloc(1, sizeof(*file));
    if (layers == NULL || file == NULL) {
        check_broken("out of memory");
    }
    file->fd = -1;
    disk->layers = layers;
    layers[disk->layer_count++] = (struct vd_layer){
        .file = file,
        .image = image,
        .path = strdup(path),
        .session = session != NULL ? *session : no_session,
    };
}

/* By the number in the path that the child says. */
static size_t
parent_number(struct vd_image *child)
{
    struct vd_parent_paths paths;
    size_t number = LAYERS_MAX;
    CHECK_OK(child->format->parent_paths(child, &paths));
    if (CHECK(paths.count >= 1) &&
        CHECK_EQ(VD_PARENT_PATH_RELATIVE, paths.paths[0].kind)) {
        number = (size_t)(paths.paths[0].text[2] - u'0');
    }
    child->format->parent_paths_free(&paths);
    return number;
}

/* From layer `first` on; written NULL: to be read.  A chain that does not
 * hold together is no disk. */
static struct vd_disk *
open_chain(const struct chain *chain, size_t first,
           const struct vd_layer_set *written)
{
    struct vd_disk *disk = vd_disk_new();
    disk->writable = written != NULL;
    disk->live = true;
    for (size_t at = first;;) {
        struct vd_session session = new_session();
        bool change = written != NULL && written->has[at];
        struct vd_image *image = open_image(chain->plan, chain->files[at],
                                            change ? &session : NULL);
        if (image == NULL) {
            break;
        }
        add_layer(disk, image, at, change ? &session : NULL);
        size_t last = disk->layer_count - 1;
        if (last > 0) {
            const struct vd_image *child = disk->layers[last - 1].image;
            if (!CHECK_OK(child->format->accept_parent(child, image))) {
                break;
            }
        }
        if (image->info.subtype != VD_SUBTYPE_DIFFERENCING) {
            return disk;
        }
        at = parent_number(image);
        if (!CHECK(at < chain->plan->layers)) {
            break;
        }
    }
    vd_disk_close(disk);
    return NULL;
}

struct content {
    uint64_t size;
    uint8_t bytes[SIZE_MAX_BYTES];
};

static bool
read_chain(const struct chain *chain, size_t first, struct content *out)
{
    struct vd_disk *disk = open_chain(chain, first, NULL);
    if (disk == NULL) {
        return false;
    }
    out->size = vd_disk_size_bytes(disk);
    bool good = CHECK_OK(vd_disk_read(disk, out->bytes, (size_t)out->size, 0));
    return CHECK_OK(vd_disk_finish(disk)) && good;
}

static struct content *
content_of(const struct chain *chain, size_t first)
{
    struct content *content = malloc(sizeof(*content));
    if (content == NULL || !read_chain(chain, first, content)) {
        check_broken("a chain to begin with");
    }
    return content;
}

static bool
reads_as(const struct chain *chain, size_t first,
         const struct content *expected)
{
    static struct content now;
    return read_chain(chain, first, &now) &&
           CHECK_EQ(expected->size, now.size) &&
           CHECK(memcmp(expected->bytes, now.bytes, (size_t)now.size) == 0);
}

/* ---- merging ---- */

static vd_error
merge_chain(const struct chain *chain, const struct vd_merge *merge,
            struct vd_progress *progress)
{
    struct vd_layer_set written;
    vd_merge_written(merge, &written);
    struct vd_disk *disk = open_chain(chain, 0, &written);
    if (disk == NULL) {
        return ERROR_GEN_FAILURE;
    }
    vd_error error = vd_disk_merge(disk, merge, progress);
    vd_error closed = vd_disk_finish(disk);
    return error != ERROR_SUCCESS ? error : closed;
}

/* Whether what stood on the source stands on the target. */
static bool
is_relinked(const struct chain *chain, const struct vd_merge *merge)
{
    if (merge->source == 0) {
        return false;
    }
    struct vd_image *image =
        open_image(chain->plan, chain->files[merge->source - 1], NULL);
    size_t parent = parent_number(image);
    CHECK_OK(image->format->close(image));
    CHECK(parent == merge->source || parent == merge->target);
    return parent == merge->target;
}

struct expectation {
    struct content *leaf;   /* what the chain reads as */
    struct content *source; /* what the target is to read as */
};

static bool
check_merged(const struct chain *chain, const struct vd_merge *merge,
             const struct expectation *expected)
{
    return CHECK(merge->source == 0 || is_relinked(chain, merge)) &
           reads_as(chain, merge->target, expected->source) &
           reads_as(chain, 0, expected->leaf);
}

/* The media after a power cut: the chain reads the same; and the merge can be
 * begun again. */
static bool
check_cut(const struct chain *chain, const struct vd_merge *merge,
          const struct expectation *expected, size_t time, uint64_t seed,
          bool again)
{
    struct chain cut = cut_power(chain, time, seed);
    bool good = reads_as(&cut, 0, expected->leaf);
    if (good && is_relinked(&cut, merge)) {
        good = reads_as(&cut, merge->target, expected->source);
    }
    else if (good && again) {
        good = CHECK_OK(merge_chain(&cut, merge, NULL)) &&
               check_merged(&cut, merge, expected);
    }
    free_chain(&cut);
    if (!good) {
        printf("%s: layers %zu to %zu, event %zu, seed %llu\n",
               chain->plan->format->name, merge->source, merge->target, time,
               (unsigned long long)seed);
    }
    return good;
}

static bool
is_long(void)
{
    const char *text = getenv("VIRTDISK_LONG");
    return text != NULL && strcmp(text, "1") == 0;
}

static void
check_cuts(const struct chain *chain, const struct vd_merge *merge,
           const struct expectation *expected, size_t cuts)
{
    size_t end = crash_file_clock(chain->files[0]);
    size_t step = is_long() || end < cuts ? 1 : end / cuts;
    uint64_t subsets = is_long() ? 6 : 1;
    for (size_t time = 0; time <= end; time += step) {
        for (uint64_t seed = 0; seed <= subsets; seed++) {
            bool again = (time / step + seed) % 3 == 0;
            if (!check_cut(chain, merge, expected, time, seed, again)) {
                return;
            }
        }
    }
}

static struct expectation
expect(const struct chain *chain, const struct vd_merge *merge)
{
    return (struct expectation){
        .leaf = content_of(chain, 0),
        .source = content_of(chain, merge->source),
    };
}

static void
free_expectation(struct expectation *expected)
{
    free(expected->leaf);
    free(expected->source);
}

/* The same chain, of which nothing is known but what it is. */
static struct chain
copy_chain(const struct chain *made)
{
    struct chain chain = cut_power(made, SIZE_MAX, 0);
    for (size_t i = 0; i < chain.plan->layers; i++) {
        crash_file_settle(chain.files[i]);
    }
    return chain;
}

static void
run_merge(const struct plan *plan, size_t source, size_t target, uint64_t seed,
          size_t cuts)
{
    struct vd_merge merge = {.source = source, .target = target};
    struct vd_progress progress = {0};
    struct chain made = make_chain(plan, seed);
    struct chain chain = copy_chain(&made);
    struct expectation expected = expect(&chain, &merge);
    if (CHECK_OK(merge_chain(&chain, &merge, &progress)) &&
        check_merged(&chain, &merge, &expected)) {
        CHECK_EQ(expected.source->size, progress.completion);
        CHECK_EQ(expected.source->size, progress.current);
        check_cuts(&chain, &merge, &expected, cuts);
    }
    free_expectation(&expected);
    free_chain(&chain);
    free_chain(&made);
}

/* ---- failures ---- */

/* How many merges have failed. */
static size_t failures;

/* The n-th change of a file fails: the error is told and nothing is lost.
 * Space that cannot be given back to the host is no error.  Whether it came
 * to that. */
static bool
fail_once(const struct chain *made, const struct vd_merge *merge,
          const struct expectation *expected, size_t layer, size_t countdown)
{
    struct chain chain = copy_chain(made);
    crash_file_fail(chain.files[layer], countdown, ERROR_DISK_FULL);
    vd_error error = merge_chain(&chain, merge, NULL);
    bool reached = !crash_file_waits(chain.files[layer]);
    crash_file_fail(chain.files[layer], 0, ERROR_SUCCESS);
    if (error == ERROR_SUCCESS) {
        CHECK(check_merged(&chain, merge, expected));
    }
    else {
        CHECK(reached);
        CHECK(error == ERROR_DISK_FULL || error == ERROR_IO_DEVICE);
        CHECK(check_cut(&chain, merge, expected, SIZE_MAX, 0, true));
        failures++;
    }
    free_chain(&chain);
    return reached;
}

static void
test_failures(const struct plan *plan, size_t step)
{
    struct vd_merge merge = {.source = 1, .target = 2};
    struct chain made = make_chain(plan, 7);
    struct expectation expected = expect(&made, &merge);
    size_t before = failures;
    for (size_t layer = 0; layer < 3; layer++) {
        size_t n = 1;
        while (fail_once(&made, &merge, &expected, layer, n)) {
            n += is_long() ? 1 : step;
        }
    }
    CHECK(failures - before >= 3);
    free_expectation(&expected);
    free_chain(&made);
}

static void
test_cancelled(const struct plan *plan)
{
    struct vd_merge merge = {.source = 0, .target = 1};
    struct vd_progress progress = {.cancelled = true};
    struct chain chain = make_chain(plan, 3);
    struct expectation expected = expect(&chain, &merge);
    CHECK_EQ(ERROR_OPERATION_ABORTED, merge_chain(&chain, &merge, &progress));
    CHECK_EQ(0, progress.current);
    CHECK(reads_as(&chain, 0, expected.leaf));
    CHECK_OK(merge_chain(&chain, &merge, NULL));
    CHECK(check_merged(&chain, &merge, &expected));
    free_expectation(&expected);
    free_chain(&chain);
}

/* ---- what can be merged at all ---- */

static vd_error
check_depths(const struct chain *chain, size_t first, size_t source,
             size_t target)
{
    struct vd_merge merge = {.source = source, .target = target};
    struct vd_disk *disk = open_chain(chain, first, NULL);
    vd_error error = vd_merge_check(disk, &merge);
    vd_disk_close(disk);
    return error;
}

static void
test_depths(const struct plan *plan)
{
    struct chain chain = make_chain(plan, 1);
    size_t root = plan->layers - 1;
    CHECK_OK(check_depths(&chain, 0, 0, root));
    CHECK_OK(check_depths(&chain, 0, root - 1, root));
    CHECK_EQ(ERROR_INVALID_PARAMETER, check_depths(&chain, 0, 0, root + 1));
    CHECK_EQ(ERROR_INVALID_PARAMETER, check_depths(&chain, 0, 1, 1));
    CHECK_EQ(ERROR_INVALID_PARAMETER, check_depths(&chain, 0, 2, 1));
    CHECK_EQ(ERROR_VHD_INVALID_TYPE, check_depths(&chain, root, 0, 1));
    free_chain(&chain);
}

/* Other children of the target are told by a VHDX that it is not any more
 * what they were made of. */
static void
test_sibling(const struct plan *plan)
{
    struct vd_merge merge = {.source = 0, .target = 1};
    struct chain chain = make_chain(plan, 2);
    struct chain other = cut_power(&chain, SIZE_MAX, 0); /* of the leaf */
    CHECK_OK(merge_chain(&chain, &merge, NULL));
    struct vd_image *child = open_image(plan, other.files[0], NULL);
    struct vd_image *parent = open_image(plan, chain.files[1], NULL);
    CHECK_EQ(plan->format->renews_identifier
                 ? ERROR_VHD_CHILD_PARENT_ID_MISMATCH
                 : 0,
             plan->format->accept_parent(child, parent));
    CHECK_OK(plan->format->close(child));
    CHECK_OK(plan->format->close(parent));
    free_chain(&other);
    free_chain(&chain);
}

static const struct plan vhd = {
    .format = &vd_vhd_format,
    .layers = 4,
    .root = VD_SUBTYPE_DYNAMIC,
    .block_size = 512 * 1024,
    .sector_size = 512,
    .sizes = {0, 0, 0, 4 * MIB},
};

static const struct plan vhd_fixed = {
    .format = &vd_vhd_format,
    .layers = 3,
    .root = VD_SUBTYPE_FIXED,
    .block_size = 512 * 1024,
    .sector_size = 512,
    .sizes = {0, 0, 4 * MIB},
};

static const struct plan vhdx = {
    .format = &vd_vhdx_format,
    .layers = 4,
    .root = VD_SUBTYPE_DYNAMIC,
    .block_size = 1 * MIB,
    .sector_size = 512,
    .sizes = {0, 0, 0, 5 * MIB},
};

static const struct plan vhdx_4k = {
    .format = &vd_vhdx_format,
    .layers = 3,
    .root = VD_SUBTYPE_FIXED,
    .block_size = 1 * MIB,
    .sector_size = 4096,
    .sizes = {0, 0, 4 * MIB},
};

/* Each layer of another size: the source has more than the target, and what
 * is between has less. */
static const struct plan vhdx_sizes = {
    .format = &vd_vhdx_format,
    .layers = 4,
    .root = VD_SUBTYPE_DYNAMIC,
    .block_size = 1 * MIB,
    .sector_size = 512,
    .sizes = {8 * MIB, 7 * MIB, 3 * MIB, 5 * MIB},
};

static const struct plan vhdx_smaller = {
    .format = &vd_vhdx_format,
    .layers = 3,
    .root = VD_SUBTYPE_DYNAMIC,
    .block_size = 1 * MIB,
    .sector_size = 512,
    .sizes = {6 * MIB, 4 * MIB, 8 * MIB},
};

static void
test_vhd(void)
{
    run_merge(&vhd, 0, 1, 11, 10);
    run_merge(&vhd, 0, 3, 12, 10);
    run_merge(&vhd, 1, 2, 13, 10);
    run_merge(&vhd, 2, 3, 14, 10);
    run_merge(&vhd_fixed, 1, 2, 15, 10);
    test_failures(&vhd, 17);
    test_cancelled(&vhd);
    test_depths(&vhd);
    test_sibling(&vhd);
}

static void
test_vhdx(void)
{
    run_merge(&vhdx, 0, 1, 21, 10);
    run_merge(&vhdx, 0, 3, 22, 10);
    run_merge(&vhdx, 1, 2, 23, 10);
    run_merge(&vhdx, 2, 3, 24, 10);
    run_merge(&vhdx_4k, 0, 2, 25, 10);
    run_merge(&vhdx_sizes, 1, 3, 26, 10);
    run_merge(&vhdx_sizes, 0, 3, 27, 10);
    run_merge(&vhdx_smaller, 1, 2, 28, 10);
    test_failures(&vhdx, 17);
    test_cancelled(&vhdx);
    test_depths(&vhdx);
    test_sibling(&vhdx);
}

int
main(void)
{
    test_vhd();
    test_vhdx();
    return check_result();
}
