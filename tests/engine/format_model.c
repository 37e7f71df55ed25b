/*
 * See format_model.h.  A sector's content is one 64-bit tag repeated; 0 is
 * zeros.
 */
#include "format_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "random.h"

#define MAX_SECTOR 4096
#define MAX_RUN 96 /* sectors a small operation */

/* What a sector held from an event on. */
struct version {
    size_t event; /* the first that the change may have caused */
    size_t clock; /* orders changes and commits that caused none */
    uint64_t tag;
};

struct history {
    struct version *versions;
    size_t count;
};

struct run {
    const struct format_model *model;
    struct crash_file *file;
    struct vd_image *image;
    struct random random;
    uint64_t sectors;          /* of the disk as it is now */
    uint64_t largest;          /* that it may ever have */
    uint64_t *tags;            /* what each sector holds now */
    struct history *histories; /* what it held */
    struct history sizes;      /* of the disk, in sectors */
    size_t *commits;           /* events at which a commit was done */
    size_t *commit_clocks;     /* and its place among the changes */
    size_t commit_count;
    size_t clock;
    uint64_t next_tag;
    uint64_t guid;
};

static void *
must(void *memory)
{
    if (memory == NULL) {
        check_broken("out of memory");
    }
    return memory;
}

static uint64_t
parent_tag(const struct format_model *model, uint64_t sector)
{
    return model->child ? 0x5041524500000000 + sector : 0;
}

static void
fill(uint8_t *buffer, uint32_t sector_size, uint64_t tag)
{
    for (uint32_t i = 0; i < sector_size; i += 8) {
        memcpy(buffer + i, &tag, 8);
    }
}

/* The tag of a sector's content; a mixture is a tag nobody wrote. */
static uint64_t
tag_of(const uint8_t *buffer, uint32_t sector_size)
{
    uint64_t tag, other;
    memcpy(&tag, buffer, 8);
    for (uint32_t i = 8; i < sector_size; i += 8) {
        memcpy(&other, buffer + i, 8);
        if (other != tag) {
            return UINT64_MAX;
        }
    }
    return tag;
}

static struct vd_session
new_session(uint64_t *number)
{
    struct vd_session session = {.log_sequence = 1000 + *number};
    (*number)++;
    memset(&session.file_write_guid, 0x40, VD_GUID_SIZE);
    memset(&session.data_write_guid, 0x50, VD_GUID_SIZE);
    memset(&session.log_guid, 0x60, VD_GUID_SIZE);
    memcpy(session.file_write_guid.bytes, number, 8);
    memcpy(session.data_write_guid.bytes, number, 8);
    memcpy(session.log_guid.bytes, number, 8);
    return session;
}

static vd_error
open_image(const struct format_model *model, struct crash_file *file,
           bool writable, uint64_t *number, struct vd_image **out)
{
    struct vd_open_request request = {.writable = writable,
                                      .session = new_session(number)};
    return model->format->open(crash_file_of(file), &request, out);
}

/* ---- reading ---- */

static vd_error
read_bytes(const struct format_model *model, struct vd_image *image,
           uint64_t sector, uint8_t buffer[MAX_SECTOR])
{
    struct vd_extent extent;
    uint32_t size = model->sector_size, done = 0;
    while (done < size) {
        vd_error error = model->format->lookup(image, sector * size + done,
                                               size - done, &extent);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        if (extent.state == VD_EXTENT_PRESENT) {
            error = vd_file_pread(image->file, buffer + done,
                                  (size_t)extent.length, extent.file_offset);
        }
        else if (extent.state == VD_EXTENT_PARENT) {
            uint64_t tag = parent_tag(model, sector);
            uint8_t whole[MAX_SECTOR];
            fill(whole, size, tag);
            memcpy(buffer + done, whole + done, (size_t)extent.length);
        }
        else {
            memset(buffer + done, 0, (size_t)extent.length);
        }
        if (error != ERROR_SUCCESS) {
            return error;
        }
        done += (uint32_t)extent.length;
    }
    return ERROR_SUCCESS;
}

static vd_error
read_sector(const struct format_model *model, struct vd_image *image,
            uint64_t sector, uint64_t *tag_out)
{
    uint8_t buffer[MAX_SECTOR] = {0};
    vd_error error = read_bytes(model, image, sector, buffer);
    *tag_out = tag_of(buffer, model->sector_size);
    return error;
}

static void
compare(struct run *run, uint64_t first, uint64_t count)
{
    for (uint64_t i = first; i < first + count; i++) {
        uint64_t tag = UINT64_MAX;
        vd_error error = read_sector(run->model, run->image, i, &tag);
        if (error != ERROR_SUCCESS || tag != run->tags[i]) {
            CHECK_OK(error);
            CHECK_EQ(run->tags[i], tag);
            fprintf(stderr, "  sector %llu\n", (unsigned long long)i);
            return;
        }
    }
    CHECK(true);
}

/* ---- changing ---- */

static void
add_version(struct run *run, struct history *history, uint64_t value,
            size_t event)
{
    history->versions = must(realloc(
        history->versions, (history->count + 1) * sizeof(struct version)));
    history->versions[history->count++] =
        (struct version){event, run->clock, value};
}

static void
note(struct run *run, uint64_t sector, uint64_t tag, size_t event)
{
    add_version(run, &run->histories[sector], tag, event);
    run->tags[sector] = tag;
}

/* As the disk layer does it: in place where there is a place. */
static vd_error
write_range(struct run *run, const uint8_t *buffer, uint64_t length,
            uint64_t offset)
{
    const struct vd_format *format = run->model->format;
    vd_error error = format->begin(run->image, VD_CHANGE_CONTENT);
    while (length != 0 && error == ERROR_SUCCESS) {
        struct vd_extent extent;
        error = format->lookup(run->image, offset, length, &extent);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        if (extent.state == VD_EXTENT_PRESENT) {
            error = vd_file_pwrite(run->image->file, buffer,
                                   (size_t)extent.length, extent.file_offset);
        }
        else {
            error = format->write(run->image, buffer, (size_t)extent.length,
                                  offset);
        }
        buffer += extent.length;
        offset += extent.length;
        length -= extent.length;
    }
    return error;
}

static vd_error
do_write(struct run *run, uint64_t first, uint64_t count)
{
    uint32_t size = run->model->sector_size;
    uint8_t *buffer = must(malloc((size_t)count * size));
    size_t event = crash_file_events(run->file);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t tag = ++run->next_tag;
        fill(buffer + i * size, size, tag);
        note(run, first + i, tag, event);
    }
    vd_error error = write_range(run, buffer, count * size, first * size);
    free(buffer);
    return error;
}

static vd_error
do_zero(struct run *run, uint64_t first, uint64_t count)
{
    uint32_t size = run->model->sector_size;
    size_t event = crash_file_events(run->file);
    for (uint64_t i = 0; i < count; i++) {
        note(run, first + i, 0, event);
    }
    return run->model->format->zero(run->image, first * size, count * size,
                                    random_below(&run->random, 2) == 0);
}

static void
note_commit(struct run *run)
{
    size_t size = (run->commit_count + 1) * sizeof(size_t);
    run->commits = must(realloc(run->commits, size));
    run->commit_clocks = must(realloc(run->commit_clocks, size));
    run->commit_clocks[run->commit_count] = run->clock++;
    run->commits[run->commit_count++] = crash_file_events(run->file);
}

static vd_error
do_commit(struct run *run)
{
    vd_error error = run->model->format->commit(run->image);
    if (error == ERROR_SUCCESS) {
        note_commit(run);
        run->model->format->reclaim(run->image);
    }
    return error;
}

static vd_error
do_reopen(struct run *run)
{
    vd_error error = run->model->format->close(run->image);
    run->image = NULL;
    if (error == ERROR_SUCCESS) {
        note_commit(run);
        error =
            open_image(run->model, run->file, true, &run->guid, &run->image);
    }
    if (error == ERROR_SUCCESS) {
        compare(run, 0, run->sectors);
    }
    return error;
}

/* ---- changing the image as a whole ---- */

/* What is cut off is zeros when it comes back, and was itself before. */
static vd_error
do_resize(struct run *run, uint64_t sectors)
{
    const struct vd_format *format = run->model->format;
    uint64_t former = run->sectors;
    vd_error error = format->begin(run->image, VD_CHANGE_CONTENT);
    add_version(run, &run->sizes, sectors, crash_file_events(run->file));
    if (error == ERROR_SUCCESS) {
        error = format->resize(run->image, sectors * run->model->sector_size);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    for (uint64_t i = sectors; i < former; i++) {
        note(run, i, 0, crash_file_events(run->file));
    }
    run->sectors = sectors;
    if (sectors != former) {
        note_commit(run);
    }
    CHECK_EQ(sectors * run->model->sector_size, run->image->info.size_bytes);
    format->reclaim(run->image);
    return ERROR_SUCCESS;
}

/* Whole blocks become the parent's again. */
static vd_error
do_forget(struct run *run)
{
    const struct format_model *model = run->model;
    uint64_t per_block = model->block_size / model->sector_size;
    uint64_t first =
        random_below(&run->random, run->sectors) / per_block * per_block;
    uint64_t count = per_block * (1 + random_below(&run->random, 2));
    size_t event = crash_file_events(run->file);
    if (count > run->sectors - first) {
        count = run->sectors - first;
    }
    for (uint64_t i = first; i < first + count; i++) {
        note(run, i, parent_tag(model, i), event);
    }
    return model->format->forget(run->image, first * model->sector_size,
                                 count * model->sector_size);
}

static vd_error
move_some(struct run *run, size_t blocks, bool *done_out)
{
    const struct vd_format *format = run->model->format;
    bool moved = true;
    vd_error error = format->begin(run->image, VD_CHANGE_LAYOUT);
    for (size_t i = 0; i < blocks && moved && error == ERROR_SUCCESS; i++) {
        error = format->relocate(run->image, &moved);
    }
    *done_out = !moved;
    return error;
}

/* What is left is what was in use: if all that moves is of one length. */
static void
check_shortest(struct run *run)
{
    uint64_t occupied = 0, size = 0;
    if (run->model->child && run->model->block_size > 1024 * 1024) {
        return;
    }
    CHECK_OK(run->model->format->occupied(run->image, &occupied));
    CHECK_OK(vd_file_size(run->image->file, &size));
    CHECK_EQ(occupied, size);
}

static vd_error
do_compact(struct run *run)
{
    const struct vd_format *format = run->model->format;
    size_t blocks = 1 + random_below(&run->random, 40);
    bool done = false;
    vd_error error = do_commit(run); /* what is given up becomes free */
    if (error == ERROR_SUCCESS) {
        error = move_some(run, blocks, &done);
    }
    if (error == ERROR_SUCCESS) {
        error = do_commit(run);
    }
    if (error == ERROR_SUCCESS) {
        error = format->shorten(run->image);
    }
    if (error == ERROR_SUCCESS && done) {
        check_shortest(run);
    }
    return error;
}

static uint64_t
pick_size(struct run *run)
{
    uint64_t per_block = run->model->block_size / run->model->sector_size;
    uint64_t sectors = 1 + random_below(&run->random, run->largest);
    if (run->model->only_grows) {
        return run->sectors +
               random_below(&run->random, run->largest - run->sectors + 1);
    }
    return random_below(&run->random, 3) == 0 && sectors > per_block
               ? sectors - sectors % per_block
               : sectors;
}

static vd_error
whole_step(struct run *run)
{
    vd_error error;
    switch (random_below(&run->random, 4)) {
    case 0:
        error = run->model->only_grows && run->model->child
                    ? do_commit(run)
                    : do_resize(run, pick_size(run));
        break;
    case 1:
        error = run->model->child ? do_forget(run) : do_commit(run);
        break;
    default:
        error = do_compact(run);
        break;
    }
    if (error == ERROR_SUCCESS) {
        compare(run, 0, run->sectors);
    }
    return error;
}

/* A range: mostly small, sometimes whole blocks. */
static void
pick_range(struct run *run, uint64_t *first, uint64_t *count)
{
    uint64_t per_block = run->model->block_size / run->model->sector_size;
    *first = random_below(&run->random, run->sectors);
    *count = 1 + random_below(&run->random, MAX_RUN);
    if (random_below(&run->random, 5) == 0) {
        *first -= *first % per_block;
        *count = per_block;
    }
    if (*count > run->sectors - *first) {
        *count = run->sectors - *first;
    }
}

static vd_error
step(struct run *run)
{
    uint64_t first, count;
    if (run->model->largest_bytes != 0 && random_below(&run->random, 5) == 0) {
        return whole_step(run);
    }
    pick_range(run, &first, &count);
    vd_error error;
    switch (random_below(&run->random, 12)) {
    case 0:
    case 1:
        return do_commit(run);
    case 2:
        return do_reopen(run);
    case 3:
    case 4:
        error = do_zero(run, first, count);
        break;
    default:
        error = do_write(run, first, count);
        break;
    }
    if (error == ERROR_SUCCESS) {
        compare(run, first, count);
    }
    return error;
}

/* ---- a run ---- */

static void
start(struct run *run, const struct format_model *model, uint64_t seed)
{
    *run = (struct run){.model = model, .random = {seed}};
    run->file = crash_file_new();
    run->sectors = model->size_bytes / model->sector_size;
    run->largest = model->largest_bytes / model->sector_size;
    if (run->largest < run->sectors) {
        run->largest = run->sectors;
    }
    run->tags = must(calloc((size_t)run->largest, sizeof(*run->tags)));
    run->histories =
        must(calloc((size_t)run->largest, sizeof(*run->histories)));
    CHECK_OK(model->create(crash_file_of(run->file), model));
    if (model->only_grows) {
        crash_file_order_appends(run->file);
    }
    for (uint64_t i = 0; i < run->largest; i++) {
        note(run, i, i < run->sectors ? parent_tag(model, i) : 0, 0);
    }
    add_version(run, &run->sizes, run->sectors, 0);
    note_commit(run);
    CHECK_OK(open_image(model, run->file, true, &run->guid, &run->image));
}

static void
finish(struct run *run)
{
    for (uint64_t i = 0; i < run->largest; i++) {
        free(run->histories[i].versions);
    }
    free(run->sizes.versions);
    free(run->histories);
    free(run->tags);
    free(run->commits);
    free(run->commit_clocks);
    crash_file_free(run->file);
}

void
format_model_run(const struct format_model *model, uint64_t seed,
                 size_t operations)
{
    struct run run;
    start(&run, model, seed);
    for (size_t i = 0; i < operations && run.image != NULL; i++) {
        if (!CHECK_OK(step(&run))) {
            break;
        }
    }
    if (run.image != NULL) {
        CHECK_OK(do_reopen(&run));
        CHECK_OK(model->format->close(run.image));
    }
    finish(&run);
}

/* ---- power cuts ---- */

/* The newest commit that was done by then. */
static size_t
committed_by(const struct run *run, size_t events)
{
    size_t newest = 0;
    for (size_t i = 0; i < run->commit_count; i++) {
        if (run->commits[i] <= events) {
            newest = i;
        }
    }
    return newest;
}

/* A sector may hold what it held at the newest commit, or anything written to
 * it since and before the cut; and so with the size. */
static bool
may_hold(const struct history *history, uint64_t tag, size_t commit_clock,
         size_t events)
{
    for (size_t i = history->count; i-- > 0;) {
        const struct version *version = &history->versions[i];
        if (version->event >= events && version->event != 0) {
            continue;
        }
        if (version->tag == tag) {
            return true;
        }
        if (version->clock <= commit_clock) {
            return false;
        }
    }
    return false;
}

/* Only 512 bytes are never torn, whatever the disk's sector size is. */
static bool
check_sector(const struct run *run, struct vd_image *image, uint64_t sector,
             size_t commit_clock, size_t events)
{
    uint8_t buffer[MAX_SECTOR] = {0};
    bool good = CHECK_OK(read_bytes(run->model, image, sector, buffer));
    for (uint32_t at = 0; at < run->model->sector_size && good; at += 512) {
        uint64_t tag = tag_of(buffer + at, 512);
        good = may_hold(&run->histories[sector], tag, commit_clock, events);
        if (!good) {
            fprintf(stderr, "  sector %llu holds %llx after %zu events\n",
                    (unsigned long long)sector, (unsigned long long)tag,
                    events);
        }
    }
    return CHECK(good);
}

static bool
check_image(const struct run *run, struct vd_image *image, size_t events)
{
    size_t commit = committed_by(run, events);
    uint64_t sectors = image->info.size_bytes / run->model->sector_size;
    if (!CHECK(may_hold(&run->sizes, sectors, run->commit_clocks[commit],
                        events))) {
        fprintf(stderr, "  %llu sectors after %zu events\n",
                (unsigned long long)sectors, events);
        return false;
    }
    for (uint64_t i = 0; i < sectors; i++) {
        if (!check_sector(run, image, i, run->commit_clocks[commit], events)) {
            return false;
        }
    }
    return true;
}

static bool
check_cut(struct run *run, size_t events, uint64_t seed)
{
    const struct vd_format *format = run->model->format;
    struct crash_file *medium = crash_file_image(run->file, events, seed);
    struct vd_image *image = NULL;
    bool good =
        CHECK_OK(open_image(run->model, medium, false, &run->guid, &image));
    if (good) {
        good = check_image(run, image, events);
        CHECK_OK(format->close(image));
    }
    good = good &&
           CHECK_OK(open_image(run->model, medium, true, &run->guid, &image));
    if (good) {
        good = check_image(run, image, events);
        CHECK_OK(format->close(image));
    }
    /* Once mended, a further open and close changes nothing. */
    size_t before = crash_file_events(medium);
    if (good &&
        CHECK_OK(open_image(run->model, medium, true, &run->guid, &image))) {
        CHECK_OK(format->close(image));
        good = CHECK_EQ(before, crash_file_events(medium));
    }
    crash_file_free(medium);
    return good;
}

void
format_model_crash(const struct format_model *model, uint64_t seed,
                   size_t operations, size_t step_size, size_t subsets)
{
    struct run run;
    start(&run, model, seed);
    size_t created = crash_file_events(run.file);
    for (size_t i = 0; i < operations && run.image != NULL; i++) {
        if (!CHECK_OK(step(&run))) {
            break;
        }
    }
    if (run.image != NULL) {
        CHECK_OK(model->format->close(run.image));
        note_commit(&run);
    }
    bool good = true;
    for (size_t events = created;
         events <= crash_file_events(run.file) && good; events += step_size) {
        for (size_t i = 0; i <= subsets && good; i++) {
            good = check_cut(&run, events, i * 7919 + events * (i != 0));
        }
        if (!good) {
            fprintf(stderr, "  seed %llu\n", (unsigned long long)seed);
        }
    }
    finish(&run);
}

static bool
holds_nothing(const struct format_model *model, struct vd_image *image)
{
    for (uint64_t i = 0; i < model->size_bytes / model->sector_size; i++) {
        uint64_t tag = UINT64_MAX;
        if (!CHECK_OK(read_sector(model, image, i, &tag)) ||
            !CHECK_EQ(parent_tag(model, i), tag)) {
            return false;
        }
    }
    return true;
}

static bool
check_created(const struct format_model *model, struct crash_file *medium)
{
    uint64_t number = 1;
    bool recognised = false;
    struct vd_image *image = NULL;
    CHECK_OK(model->format->probe(crash_file_of(medium), &recognised));
    if (!recognised) {
        return true;
    }
    bool good = CHECK_OK(open_image(model, medium, true, &number, &image));
    if (good) {
        good = holds_nothing(model, image);
        CHECK_OK(model->format->close(image));
    }
    return good;
}

void
format_model_create(const struct format_model *model, size_t subsets)
{
    struct crash_file *file = crash_file_new();
    bool good = CHECK_OK(model->create(crash_file_of(file), model));
    for (size_t events = 0; events <= crash_file_events(file) && good;
         events++) {
        for (size_t i = 0; i <= subsets && good; i++) {
            struct crash_file *medium =
                crash_file_image(file, events, i * 104729);
            good = check_created(model, medium);
            crash_file_free(medium);
        }
    }
    crash_file_free(file);
}

/* ---- faults ---- */

void
format_model_fail(const struct format_model *model, uint64_t seed,
                  size_t operations)
{
    for (size_t n = 1;; n++) {
        struct run run;
        start(&run, model, seed);
        size_t created = crash_file_events(run.file);
        crash_file_fail(run.file, n, ERROR_DISK_FULL);
        vd_error error = ERROR_SUCCESS;
        for (size_t i = 0;
             i < operations && run.image != NULL && error == ERROR_SUCCESS;
             i++) {
            error = step(&run);
        }
        bool reached = !crash_file_waits(run.file);
        crash_file_fail(run.file, 0, ERROR_SUCCESS);
        if (run.image != NULL) {
            vd_error closed = model->format->close(run.image);
            CHECK(closed == ERROR_SUCCESS || error != ERROR_SUCCESS);
        }
        CHECK(crash_file_events(run.file) >= created);
        bool good = check_cut(&run, crash_file_events(run.file), 0);
        finish(&run);
        if (!reached || !good) {
            CHECK(good && error == ERROR_SUCCESS);
            return;
        }
    }
}
