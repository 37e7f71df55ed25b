/*
 * A VHDX image changed as a whole: its size, the places of what is in it, what
 * it says of itself.  Each change is cut off by a power cut after every write,
 * with random subsets of what was not durable, and meets a fault at every
 * write: the image is as before or as after, and nothing else.  (Payload under
 * all of this is the model's: test_vhdx_model.c.)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "check.h"
#include "crash_file.h"
#include "format/format.h"
#include "format/vhdx.h"
#include "format/vhdx_create.h"

#define MIB (1024u * 1024u)
#define GIB ((uint64_t)1 << 30)
#define SECTOR 512u

/* What an image is, as far as a scenario looks. */
enum state { OTHER, BEFORE, AFTER };

struct scenario {
    const char *name;
    uint64_t size_bytes;
    bool child;
    vd_error (*prepare)(struct vd_image *image); /* NULL: as created */
    vd_error (*act)(struct vd_image *image);
    enum state (*look)(struct vd_image *image);
    size_t step; /* events from one power cut to the next */
};

static vd_error
create(struct crash_file *file, uint64_t size_bytes, bool child)
{
    struct vhdx_create_request request = {
        .size_bytes = size_bytes,
        .block_size = MIB,
        .logical_sector_size = SECTOR,
        .physical_sector_size = 4096,
        .has_parent = child,
        .relative_path = child ? u".\\parent.vhdx" : NULL,
        .absolute_path = child ? u"C:\\parent.vhdx" : NULL,
    };
    memset(&request.virtual_disk_id, 1, VD_GUID_SIZE);
    memset(&request.file_write_guid, 2, VD_GUID_SIZE);
    memset(&request.data_write_guid, 3, VD_GUID_SIZE);
    memset(&request.parent_linkage, 4, VD_GUID_SIZE);
    return vd_vhdx_create(crash_file_of(file), &request);
}

static vd_error
open_file(struct crash_file *file, bool writable, struct vd_image **out)
{
    struct vd_open_request request = {.writable = writable};
    static uint8_t session;
    session++;
    memset(&request.session.file_write_guid, 0x40, VD_GUID_SIZE);
    memset(&request.session.data_write_guid, 0x50, VD_GUID_SIZE);
    memset(&request.session.log_guid, 0x60, VD_GUID_SIZE);
    request.session.log_guid.bytes[0] = session;
    request.session.log_sequence = 1000u + session;
    return vd_vhdx_format.open(crash_file_of(file), &request, out);
}

/* ---- running a scenario ---- */

static struct crash_file *
prepared(const struct scenario *scenario)
{
    struct crash_file *file = crash_file_new();
    struct vd_image *image = NULL;
    CHECK_OK(create(file, scenario->size_bytes, scenario->child));
    if (!CHECK_OK(open_file(file, true, &image))) {
        check_broken(scenario->name);
    }
    if (scenario->prepare != NULL) {
        CHECK_OK(scenario->prepare(image));
    }
    CHECK_OK(vd_vhdx_format.close(image));
    return file;
}

static enum state
look_at(const struct scenario *scenario, struct crash_file *file,
        bool writable)
{
    struct vd_image *image = NULL;
    enum state state = OTHER;
    if (CHECK_OK(open_file(file, writable, &image))) {
        state = scenario->look(image);
        CHECK_OK(vd_vhdx_format.close(image));
    }
    return state;
}

/* Read, and then mended by a writable open, it is the same. */
static enum state
check_medium(const struct scenario *scenario, struct crash_file *medium)
{
    enum state state = look_at(scenario, medium, false);
    CHECK(state != OTHER);
    CHECK_EQ(state, look_at(scenario, medium, true));
    return state;
}

static void
cut_power(const struct scenario *scenario, const struct crash_file *file,
          size_t first)
{
    size_t seen[3] = {0}, last = crash_file_events(file);
    bool good = true;
    for (size_t events = first; events <= last && good;
         events += events + scenario->step > last && events != last
                       ? last - events
                       : scenario->step) {
        for (uint64_t seed = 0; seed < 3 && good; seed++) {
            struct crash_file *medium =
                crash_file_image(file, events, seed * (events + 7919));
            enum state state = check_medium(scenario, medium);
            good = state != OTHER && (events != last || state == AFTER);
            seen[state]++;
            crash_file_free(medium);
        }
        if (!CHECK(good)) {
            fprintf(stderr, "  %s: after %zu events of %zu to %zu\n",
                    scenario->name, events, first, last);
        }
    }
    CHECK(seen[BEFORE] > 0 && seen[AFTER] > 0);
}

static void
meet_faults(const struct scenario *scenario, const struct crash_file *start,
            size_t first)
{
    vd_error error = ERROR_DISK_FULL;
    for (size_t n = 1; error != ERROR_SUCCESS; n += scenario->step) {
        struct crash_file *file = crash_file_image(start, first, 0);
        struct vd_image *image = NULL;
        CHECK_OK(open_file(file, true, &image));
        crash_file_fail(file, n, ERROR_DISK_FULL);
        error = scenario->act(image);
        crash_file_fail(file, 0, ERROR_SUCCESS);
        vd_error closed = vd_vhdx_format.close(image);
        CHECK(closed == ERROR_SUCCESS || error != ERROR_SUCCESS);
        enum state state = check_medium(scenario, file);
        CHECK(error != ERROR_SUCCESS || state == AFTER);
        crash_file_free(file);
    }
}

/* The same with memory. */
static void
run_out_of_memory(const struct scenario *scenario,
                  const struct crash_file *start, size_t first)
{
    bool failed = true;
    for (int n = 0; failed; n += (int)scenario->step) {
        struct crash_file *file = crash_file_image(start, first, 0);
        struct vd_image *image = NULL;
        CHECK_OK(open_file(file, true, &image));
        check_fail_allocation(n);
        vd_error error = scenario->act(image);
        failed = check_fail_allocation(-1);
        CHECK_EQ(failed ? ERROR_NOT_ENOUGH_MEMORY : ERROR_SUCCESS, error);
        CHECK(vd_vhdx_format.close(image) == ERROR_SUCCESS || failed);
        enum state state = check_medium(scenario, file);
        CHECK(failed || state == AFTER);
        crash_file_free(file);
    }
}

static void
run(const struct scenario *scenario)
{
    struct crash_file *file = prepared(scenario);
    struct vd_image *image = NULL;
    size_t first = crash_file_events(file);
    CHECK_EQ(BEFORE, look_at(scenario, file, false));
    CHECK_OK(open_file(file, true, &image));
    CHECK_OK(scenario->act(image));
    CHECK_EQ(AFTER, scenario->look(image));
    CHECK_OK(vd_vhdx_format.close(image));
    cut_power(scenario, file, first);
    meet_faults(scenario, file, first);
    run_out_of_memory(scenario, file, first);
    crash_file_free(file);
}

/* ---- payload ---- */

static vd_error
write_tag(struct vd_image *image, uint64_t offset, uint8_t tag)
{
    uint8_t sector[SECTOR];
    memset(sector, tag, sizeof(sector));
    vd_error error = vd_vhdx_format.begin(image, VD_CHANGE_CONTENT);
    return error != ERROR_SUCCESS
               ? error
               : vd_vhdx_format.write(image, sector, SECTOR, offset);
}

/* The tag of a sector; 0 zeros, 0x100 its parent's, 0x200 anything else. */
static unsigned
read_tag(struct vd_image *image, uint64_t offset)
{
    uint8_t sector[SECTOR] = {0};
    struct vd_extent extent;
    CHECK_OK(vd_vhdx_format.lookup(image, offset, SECTOR, &extent));
    CHECK_EQ(SECTOR, extent.length);
    if (extent.state == VD_EXTENT_PARENT) {
        return 0x100;
    }
    if (extent.state == VD_EXTENT_PRESENT) {
        CHECK_OK(
            vd_file_pread(image->file, sector, SECTOR, extent.file_offset));
    }
    return memcmp(sector, sector + 1, SECTOR - 1) == 0 ? sector[0] : 0x200;
}

static vd_error
commit(struct vd_image *image)
{
    vd_error error = vd_vhdx_format.commit(image);
    vd_vhdx_format.reclaim(image);
    return error;
}

/* ---- a larger table: 131,072 entries fit 1 MiB ---- */

#define SMALL_TABLE (127 * GIB + 512)
#define LARGE_TABLE (129 * GIB)

static vd_error
prepare_table(struct vd_image *image)
{
    vd_error error = write_tag(image, 0, 1);
    if (error == ERROR_SUCCESS) {
        error = write_tag(image, 5 * GIB, 2);
    }
    return error != ERROR_SUCCESS ? error : write_tag(image, 127 * GIB, 3);
}

static vd_error
grow_table(struct vd_image *image)
{
    vd_error error = vd_vhdx_format.begin(image, VD_CHANGE_CONTENT);
    return error != ERROR_SUCCESS ? error
                                  : vd_vhdx_format.resize(image, LARGE_TABLE);
}

static enum state
look_at_table(struct vd_image *image)
{
    bool child = image->info.subtype == VD_SUBTYPE_DIFFERENCING;
    CHECK_EQ(1, read_tag(image, 0));
    CHECK_EQ(2, read_tag(image, 5 * GIB));
    CHECK_EQ(3, read_tag(image, 127 * GIB));
    CHECK_EQ(child ? 0x100 : 0, read_tag(image, 126 * GIB));
    if (image->info.size_bytes == SMALL_TABLE) {
        return BEFORE;
    }
    CHECK_EQ(0, read_tag(image, SMALL_TABLE));
    CHECK_EQ(0, read_tag(image, 127 * GIB + MIB));
    CHECK_EQ(0, read_tag(image, LARGE_TABLE - SECTOR));
    return image->info.size_bytes == LARGE_TABLE ? AFTER : OTHER;
}

/* ---- a smaller disk loses chunks, and gets them back empty ---- */

static vd_error
prepare_chunks(struct vd_image *image)
{
    vd_error error = write_tag(image, GIB - SECTOR, 1);
    if (error == ERROR_SUCCESS) {
        error = write_tag(image, GIB, 2);
    }
    if (error == ERROR_SUCCESS) {
        error = write_tag(image, 5 * GIB + SECTOR, 3);
    }
    return error;
}

static vd_error
shrink_chunks(struct vd_image *image)
{
    vd_error error = vd_vhdx_format.begin(image, VD_CHANGE_CONTENT);
    return error != ERROR_SUCCESS
               ? error
               : vd_vhdx_format.resize(image, GIB + 2 * SECTOR);
}

static enum state
look_at_chunks(struct vd_image *image)
{
    CHECK_EQ(1, read_tag(image, GIB - SECTOR));
    CHECK_EQ(2, read_tag(image, GIB));
    CHECK_EQ(0x100, read_tag(image, GIB + SECTOR));
    if (image->info.size_bytes == 9 * GIB) {
        CHECK_EQ(3, read_tag(image, 5 * GIB + SECTOR));
        CHECK_EQ(0x100, read_tag(image, 5 * GIB));
        return BEFORE;
    }
    return image->info.size_bytes == GIB + 2 * SECTOR ? AFTER : OTHER;
}

static void
what_was_cut_off_is_gone(void)
{
    static const struct scenario chunks = {
        .name = "chunks",
        .size_bytes = 9 * GIB,
        .child = true,
        .prepare = prepare_chunks,
    };
    struct crash_file *file = prepared(&chunks);
    struct vd_image *image = NULL;
    CHECK_OK(open_file(file, true, &image));
    CHECK_OK(shrink_chunks(image));
    CHECK_OK(commit(image));
    CHECK_OK(vd_vhdx_format.resize(image, 9 * GIB));
    CHECK_EQ(2, read_tag(image, GIB));
    CHECK_EQ(0x100, read_tag(image, GIB + SECTOR));
    CHECK_EQ(0, read_tag(image, GIB + 2 * SECTOR));
    CHECK_EQ(0, read_tag(image, 5 * GIB));
    CHECK_OK(write_tag(image, 5 * GIB, 4));
    CHECK_EQ(0, read_tag(image, 5 * GIB + SECTOR));
    CHECK_OK(vd_vhdx_format.close(image));
    CHECK_OK(open_file(file, false, &image));
    CHECK_EQ(4, read_tag(image, 5 * GIB));
    CHECK_EQ(0, read_tag(image, 5 * GIB + SECTOR));
    CHECK_OK(vd_vhdx_format.close(image));
    crash_file_free(file);
}

static void
sizes_that_cannot_be(void)
{
    struct crash_file *file = crash_file_new();
    struct vd_image *image = NULL;
    CHECK_OK(create(file, GIB, false));
    CHECK_OK(open_file(file, true, &image));
    size_t events = crash_file_events(file);
    CHECK_EQ(ERROR_VHD_INVALID_SIZE,
             vd_vhdx_format.resize(image, 65536 * GIB + SECTOR));
    CHECK_EQ(ERROR_INVALID_PARAMETER, vd_vhdx_format.resize(image, GIB + 1));
    CHECK_EQ(ERROR_INVALID_PARAMETER, vd_vhdx_format.resize(image, 0));
    CHECK_OK(vd_vhdx_format.resize(image, GIB));
    CHECK_EQ(ERROR_VHD_INVALID_TYPE, vd_vhdx_format.forget(image, 0, MIB));
    CHECK_EQ(events, crash_file_events(file));
    CHECK_OK(vd_vhdx_format.close(image));
    crash_file_free(file);
}

/* ---- the tables themselves are moved ---- */

/* Eight blocks, the larger table and a larger metadata region behind them;
 * then room before. */
static vd_error
prepare_regions(struct vd_image *image)
{
    struct vd_guid id = {{7}};
    uint8_t *item = calloc(1, MIB);
    vd_error error = ERROR_SUCCESS;
    for (uint8_t i = 0; i < 8 && error == ERROR_SUCCESS; i++) {
        error = write_tag(image, (uint64_t)i * MIB, (uint8_t)(i + 1));
    }
    if (error == ERROR_SUCCESS) {
        error = vd_vhdx_format.resize(image, LARGE_TABLE);
    }
    memset(item, 0x5a, MIB);
    if (error == ERROR_SUCCESS) {
        error = vd_vhdx_format.metadata_set(image, &id, item, MIB);
    }
    free(item);
    if (error == ERROR_SUCCESS) {
        error = vd_vhdx_format.zero(image, 0, 6 * MIB, true);
    }
    return error != ERROR_SUCCESS ? error : commit(image);
}

static vd_error
compact(struct vd_image *image)
{
    bool moved = true;
    vd_error error = vd_vhdx_format.begin(image, VD_CHANGE_LAYOUT);
    while (error == ERROR_SUCCESS && moved) {
        error = vd_vhdx_format.relocate(image, &moved);
    }
    if (error == ERROR_SUCCESS) {
        error = commit(image);
    }
    return error != ERROR_SUCCESS ? error : vd_vhdx_format.shorten(image);
}

/* After: as long as what is in it.  A cut on the way leaves something between;
 * all of that counts as before. */
static enum state
look_at_regions(struct vd_image *image)
{
    struct vd_guid id = {{7}};
    void *item = NULL;
    size_t length = 0;
    uint64_t size = 0, occupied = 0;
    CHECK_EQ(LARGE_TABLE, image->info.size_bytes);
    CHECK_EQ(0, read_tag(image, 5 * MIB));
    CHECK_EQ(7, read_tag(image, 6 * MIB));
    CHECK_EQ(8, read_tag(image, 7 * MIB));
    CHECK_OK(vd_vhdx_format.metadata_get(image, &id, &item, &length));
    CHECK_EQ(MIB, length);
    CHECK(item != NULL && ((uint8_t *)item)[MIB - 1] == 0x5a);
    free(item);
    CHECK_OK(vd_file_size(image->file, &size));
    CHECK_OK(vd_vhdx_format.occupied(image, &occupied));
    CHECK_EQ(8 * MIB, occupied); /* header, log, 2+2 of regions, 2 blocks */
    return size == 8 * MIB ? AFTER : BEFORE;
}

/* ---- a table that is longer than it must be ---- */

static vd_error
prepare_long_table(struct vd_image *image)
{
    vd_error error = prepare_table(image);
    if (error == ERROR_SUCCESS) {
        error = vd_vhdx_format.resize(image, LARGE_TABLE);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_vhdx_format.resize(image, SMALL_TABLE);
    }
    return error != ERROR_SUCCESS ? error : commit(image);
}

static enum state
look_at_long_table(struct vd_image *image)
{
    uint64_t size = 0, occupied = 0;
    CHECK_EQ(BEFORE, look_at_table(image)); /* the smaller disk */
    CHECK_OK(vd_file_size(image->file, &size));
    CHECK_OK(vd_vhdx_format.occupied(image, &occupied));
    CHECK_EQ(7 * MIB, occupied); /* header, log, 1+1 of regions, 3 blocks */
    return size == 7 * MIB ? AFTER : BEFORE;
}

/* ---- what the image says of itself ---- */

static const struct vd_guid new_parent = {{9, 9}};
static const struct vd_guid other_parent = {{8, 8}};
static const struct vd_guid new_id = {{5, 5}};

static vd_error
change_all(struct vd_image *image)
{
    struct vd_image_change change = {
        .virtual_disk_id = &new_id,
        .physical_sector_size = 512,
        .parent_identifier = &new_parent,
        .other_parent_identifier = &other_parent,
        .parent_relative_path = u"..\\elsewhere\\another parent.vhdx",
    };
    vd_error error = vd_vhdx_format.begin(image, VD_CHANGE_LAYOUT);
    return error != ERROR_SUCCESS ? error
                                  : vd_vhdx_format.change(image, &change);
}

static bool
accepts(const struct vd_image *image, const struct vd_guid *identifier)
{
    struct vhdx_image parent = {
        .image = {.format = &vd_vhdx_format, .info = {.sector_size = SECTOR}},
        .header = {.data_write_guid = *identifier},
    };
    return vd_vhdx_format.accept_parent(image, &parent.image) == ERROR_SUCCESS;
}

static enum state
look_at_words(struct vd_image *image)
{
    static const struct vd_guid zero;
    struct vd_guid first_id, first_parent;
    struct vd_parent_paths paths = {0};
    memset(&first_id, 1, VD_GUID_SIZE);
    memset(&first_parent, 4, VD_GUID_SIZE);
    CHECK_OK(vd_vhdx_format.parent_paths(image, &paths));
    size_t count = paths.count;
    vd_vhdx_format.parent_paths_free(&paths);
    bool before =
        vd_guid_equal(&image->info.virtual_disk_id, &first_id) &&
        image->info.physical_sector_size == 4096 &&
        vd_guid_equal(&image->info.parent_identifier, &first_parent) &&
        accepts(image, &first_parent) && count == 2;
    bool after = vd_guid_equal(&image->info.virtual_disk_id, &new_id) &&
                 image->info.physical_sector_size == 512 &&
                 vd_guid_equal(&image->info.parent_identifier, &new_parent) &&
                 accepts(image, &new_parent) &&
                 accepts(image, &other_parent) &&
                 !accepts(image, &first_parent) && count == 1;
    CHECK(!accepts(image, &zero));
    return before ? BEFORE : after ? AFTER : OTHER;
}

static void
what_is_not_named_stays(void)
{
    static const struct vd_guid zero;
    struct vd_image_change paths = {.parent_absolute_path = u"D:\\x.vhdx"};
    struct vd_image_change none = {.other_parent_identifier = &zero};
    struct vd_image_change nothing = {.parent_timestamp = 0};
    struct crash_file *file = crash_file_new();
    struct vd_image *image = NULL;
    struct vd_parent_paths found = {0};
    CHECK_OK(create(file, GIB, true));
    CHECK_OK(open_file(file, true, &image));
    CHECK_OK(change_all(image));
    CHECK_OK(vd_vhdx_format.change(image, &none));
    CHECK(!accepts(image, &other_parent));
    CHECK(accepts(image, &new_parent));
    CHECK_OK(vd_vhdx_format.change(image, &paths));
    CHECK_OK(vd_vhdx_format.change(image, &nothing));
    CHECK_OK(vd_vhdx_format.close(image));
    CHECK_OK(open_file(file, false, &image));
    CHECK(accepts(image, &new_parent));
    CHECK_OK(vd_vhdx_format.parent_paths(image, &found));
    CHECK_EQ(1, found.count);
    CHECK_EQ(VD_PARENT_PATH_ABSOLUTE, found.paths[0].kind);
    CHECK_BYTES(u"D:\\x.vhdx", found.paths[0].text, 20);
    vd_vhdx_format.parent_paths_free(&found);
    CHECK_EQ(512, image->info.physical_sector_size);
    CHECK_OK(vd_vhdx_format.close(image));
    crash_file_free(file);
}

static void
changes_that_cannot_be(void)
{
    static const struct vd_guid zero;
    struct vd_image_change identifier = {.identifier = &new_id};
    struct vd_image_change sector = {.physical_sector_size = 2048};
    struct vd_image_change parent = {.parent_identifier = &new_parent};
    struct vd_image_change nobody = {.parent_identifier = &zero};
    for (unsigned child = 0; child < 2; child++) {
        struct crash_file *file = crash_file_new();
        struct vd_image *image = NULL;
        CHECK_OK(create(file, GIB, child != 0));
        CHECK_OK(open_file(file, true, &image));
        size_t events = crash_file_events(file);
        CHECK_EQ(ERROR_NOT_SUPPORTED,
                 vd_vhdx_format.change(image, &identifier));
        CHECK_EQ(ERROR_INVALID_PARAMETER,
                 vd_vhdx_format.change(image, &sector));
        CHECK_EQ(child ? ERROR_INVALID_PARAMETER : ERROR_VHD_INVALID_TYPE,
                 vd_vhdx_format.change(image, &nobody));
        CHECK_EQ(events, crash_file_events(file));
        CHECK_EQ(child ? ERROR_SUCCESS : ERROR_VHD_INVALID_TYPE,
                 vd_vhdx_format.change(image, &parent));
        CHECK_OK(vd_vhdx_format.close(image));
        crash_file_free(file);
    }
}

/* ---- items of users ---- */

static struct vd_guid
item_id(unsigned number)
{
    struct vd_guid id = {{0}};
    id.bytes[0] = (uint8_t)number;
    id.bytes[1] = (uint8_t)(number >> 8);
    id.bytes[15] = 1;
    return id;
}

static vd_error
set_item(struct vd_image *image, unsigned number, uint8_t tag, size_t length)
{
    static uint8_t data[MIB + 1]; /* no memory that might be refused */
    const struct vd_guid id = item_id(number);
    memset(data, tag, length);
    return vd_vhdx_format.metadata_set(image, &id, data, length);
}

/* Its tag; 0: there is none; -1: not of one tag or of another length. */
static int
item_tag(struct vd_image *image, unsigned number, size_t length)
{
    const struct vd_guid id = item_id(number);
    void *data = NULL;
    size_t found = 0;
    vd_error error = vd_vhdx_format.metadata_get(image, &id, &data, &found);
    if (error == ERROR_NOT_FOUND) {
        return 0;
    }
    CHECK_OK(error);
    const uint8_t *bytes = data;
    int tag = -1;
    if (found == length &&
        (length == 0 || memcmp(bytes, bytes + 1, length - 1) == 0)) {
        tag = length == 0 ? 1 : bytes[0];
    }
    free(data);
    return tag;
}

static vd_error
prepare_items(struct vd_image *image)
{
    vd_error error = vd_vhdx_format.begin(image, VD_CHANGE_LAYOUT);
    if (error == ERROR_SUCCESS) {
        error = set_item(image, 1, 1, 100);
    }
    return error != ERROR_SUCCESS ? error : set_item(image, 2, 2, 5000);
}

#define ACT(name, call)                                                       \
    static vd_error name(struct vd_image *image)                              \
    {                                                                         \
        vd_error error = vd_vhdx_format.begin(image, VD_CHANGE_LAYOUT);       \
        return error != ERROR_SUCCESS ? error : (call);                       \
    }

#define LOOK(name, before, after)                                             \
    static enum state name(struct vd_image *image)                            \
    {                                                                         \
        return (before) ? BEFORE : (after) ? AFTER : OTHER;                   \
    }

ACT(replace_in_place, set_item(image, 1, 9, 100))
LOOK(look_in_place,
     item_tag(image, 1, 100) == 1 && item_tag(image, 2, 5000) == 2,
     item_tag(image, 1, 100) == 9 && item_tag(image, 2, 5000) == 2)
ACT(replace_elsewhere, set_item(image, 2, 9, 6000))
LOOK(look_elsewhere,
     item_tag(image, 1, 100) == 1 && item_tag(image, 2, 5000) == 2,
     item_tag(image, 1, 100) == 1 && item_tag(image, 2, 6000) == 9)
ACT(add_huge, set_item(image, 3, 9, MIB))
LOOK(look_huge,
     item_tag(image, 1, 100) == 1 && item_tag(image, 2, 5000) == 2 &&
         item_tag(image, 3, MIB) == 0,
     item_tag(image, 1, 100) == 1 && item_tag(image, 2, 5000) == 2 &&
         item_tag(image, 3, MIB) == 9)
ACT(add_large, set_item(image, 3, 9, 700000))
LOOK(look_large,
     item_tag(image, 2, 5000) == 2 && item_tag(image, 3, 700000) == 0,
     item_tag(image, 2, 5000) == 2 && item_tag(image, 3, 700000) == 9)
ACT(take_out,
    vd_vhdx_format.metadata_delete(image, &(struct vd_guid){{1, 0, 0, 0, 0, 0,
                                                             0, 0, 0, 0, 0, 0,
                                                             0, 0, 0, 1}}))
LOOK(look_taken_out,
     item_tag(image, 1, 100) == 1 && item_tag(image, 2, 5000) == 2,
     item_tag(image, 1, 100) == 0 && item_tag(image, 2, 5000) == 2)

static void
items_are_listed(void)
{
    static const struct vd_guid zero;
    const struct vd_guid third = item_id(3);
    struct crash_file *file = crash_file_new();
    struct vd_image *image = NULL;
    struct vd_guid *ids = NULL;
    size_t count = 9;
    CHECK_OK(create(file, GIB, false));
    CHECK_OK(open_file(file, true, &image));
    CHECK_OK(vd_vhdx_format.metadata_list(image, NULL, &count));
    CHECK_EQ(0, count);
    CHECK_OK(prepare_items(image));
    CHECK_OK(set_item(image, 3, 1, 0));
    CHECK_EQ(1, item_tag(image, 3, 0));
    CHECK_OK(vd_vhdx_format.metadata_list(image, &ids, &count));
    CHECK_EQ(3, count);
    CHECK_BYTES(&third, &ids[2], VD_GUID_SIZE);
    free(ids);
    CHECK_OK(vd_vhdx_format.metadata_delete(image, &third));
    CHECK_EQ(ERROR_NOT_FOUND, vd_vhdx_format.metadata_delete(image, &third));
    CHECK_EQ(ERROR_VHD_METADATA_FULL, set_item(image, 3, 1, MIB + 1));
    CHECK_EQ(ERROR_INVALID_PARAMETER,
             vd_vhdx_format.metadata_set(image, &zero, "x", 1));
    CHECK_OK(vd_vhdx_format.metadata_list(image, NULL, &count));
    CHECK_EQ(2, count);
    CHECK_OK(vd_vhdx_format.close(image));
    crash_file_free(file);
}

/* [MS-VHDX] 2.6.1: no more than 1,024 user items. */
static void
there_may_be_so_many_items(void)
{
    struct crash_file *file = crash_file_new();
    struct vd_image *image = NULL;
    size_t count = 0;
    CHECK_OK(create(file, GIB, false));
    CHECK_OK(open_file(file, true, &image));
    for (unsigned i = 0; i < 1024; i++) {
        CHECK_OK(set_item(image, i, (uint8_t)(i % 255 + 1), 8));
    }
    CHECK_EQ(ERROR_VHD_METADATA_FULL, set_item(image, 1024, 1, 8));
    CHECK_OK(set_item(image, 500, 77, 16));
    CHECK_OK(vd_vhdx_format.close(image));
    CHECK_OK(open_file(file, false, &image));
    CHECK_OK(vd_vhdx_format.metadata_list(image, NULL, &count));
    CHECK_EQ(1024, count);
    CHECK_EQ(77, item_tag(image, 500, 16));
    CHECK_EQ(1023 % 255 + 1, item_tag(image, 1023, 8));
    CHECK_OK(vd_vhdx_format.close(image));
    crash_file_free(file);
}

/* A region that somebody filled: 41 items of 1 MiB and no room for one more.
 * It is not moved, for that would be more than anybody needs; what fits is
 * still put in. */
#define FULL_OFFSET (64 * MIB)
#define FULL_LENGTH (42 * MIB)

static void
move_metadata(struct crash_file *file)
{
    uint8_t *table = malloc(VHDX_REGION_TABLE_SIZE);
    struct vd_file *base = crash_file_of(file);
    CHECK_OK(vd_file_pread(base, table, VHDX_REGION_TABLE_SIZE,
                           VHDX_REGION_TABLE_OFFSET(0)));
    vd_put_le64(table + 48 + 16, FULL_OFFSET);
    vd_put_le32(table + 48 + 24, FULL_LENGTH);
    vd_put_le32(table + 4, 0);
    vd_put_le32(table + 4, vd_crc32c(table, VHDX_REGION_TABLE_SIZE));
    for (unsigned copy = 0; copy < 2; copy++) {
        CHECK_OK(vd_file_pwrite(base, table, VHDX_REGION_TABLE_SIZE,
                                VHDX_REGION_TABLE_OFFSET(copy)));
    }
    free(table);
}

static void
fill_metadata(struct crash_file *file)
{
    struct vd_file *base = crash_file_of(file);
    uint8_t *region = malloc(MIB);
    CHECK_OK(vd_file_truncate(base, FULL_OFFSET + FULL_LENGTH));
    CHECK_OK(vd_file_pread(base, region, MIB, 2 * MIB));
    for (unsigned i = 0; i < 41; i++) {
        struct vd_guid id = item_id(i);
        uint8_t *entry = region + 32 + (size_t)(5 + i) * 32;
        memcpy(entry, &id, VD_GUID_SIZE);
        vd_put_le32(entry + 16, 128 * 1024 + i * MIB);
        vd_put_le32(entry + 20, MIB);
        vd_put_le32(entry + 24, 1); /* IsUser */
    }
    vd_put_le16(region + 10, 5 + 41);
    CHECK_OK(vd_file_pwrite(base, region, 128 * 1024, FULL_OFFSET));
    free(region);
}

static void
a_full_region_stays_where_it_is(void)
{
    struct crash_file *file = crash_file_new();
    struct vd_image *image = NULL;
    uint64_t size = 0;
    CHECK_OK(create(file, GIB, false));
    fill_metadata(file);
    move_metadata(file);
    CHECK_OK(open_file(file, true, &image));
    CHECK_EQ(ERROR_VHD_METADATA_FULL, set_item(image, 50, 1, MIB));
    CHECK_EQ(ERROR_VHD_METADATA_FULL, set_item(image, 7, 1, MIB - 1));
    CHECK_EQ(0, item_tag(image, 50, MIB));
    CHECK_OK(set_item(image, 50, 1, 60000));
    CHECK_OK(write_tag(image, MIB, 3));
    CHECK_OK(vd_vhdx_format.close(image));
    CHECK_OK(vd_file_size(crash_file_of(file), &size));
    CHECK_EQ(FULL_OFFSET + FULL_LENGTH + MIB, size);
    CHECK_OK(open_file(file, true, &image));
    CHECK_EQ(1, item_tag(image, 50, 60000));
    CHECK_EQ(0, item_tag(image, 7, MIB));
    CHECK_EQ(3, read_tag(image, MIB));
    CHECK_OK(compact(image));
    CHECK_EQ(3, read_tag(image, MIB));
    CHECK_EQ(1, item_tag(image, 50, 60000));
    CHECK_OK(vd_vhdx_format.close(image));
    CHECK_OK(vd_file_size(crash_file_of(file), &size));
    /* Header, log, BAT, the block, and the region at the end of them. */
    CHECK_EQ((1 + 1 + 1 + 1 + 42) * MIB, size);
    crash_file_free(file);
}

/* Two blocks in one place: found before anything is moved. */
static void
an_overlap_is_not_compacted(void)
{
    struct crash_file *file = crash_file_new();
    struct vd_image *image = NULL;
    bool moved = true;
    uint8_t entry[8];
    vd_put_le64(entry, 4 * MIB | VHDX_FULLY_PRESENT);
    CHECK_OK(create(file, 200 * GIB, false)); /* too large to be checked */
    CHECK_OK(vd_file_truncate(crash_file_of(file), 8 * MIB));
    for (unsigned i = 0; i < 2; i++) {
        CHECK_OK(vd_file_pwrite(crash_file_of(file), entry, 8,
                                3 * MIB + i * 512 * 1024));
    }
    CHECK_OK(open_file(file, true, &image));
    CHECK_EQ(ERROR_VHD_BLOCK_ALLOCATION_TABLE_CORRUPT,
             vd_vhdx_format.relocate(image, &moved));
    CHECK(!moved);
    CHECK_OK(vd_vhdx_format.close(image));
    crash_file_free(file);
}

/* ---- */

static const struct scenario scenarios[] = {
    {"a larger table", SMALL_TABLE, false, prepare_table, grow_table,
     look_at_table, 31},
    {"a child's larger table", SMALL_TABLE, true, prepare_table, grow_table,
     look_at_table, 31},
    {"fewer chunks", 9 * GIB, true, prepare_chunks, shrink_chunks,
     look_at_chunks, 2},
    {"regions moved", SMALL_TABLE, false, prepare_regions, compact,
     look_at_regions, 37},
    {"a shorter table", SMALL_TABLE, false, prepare_long_table, compact,
     look_at_long_table, 31},
    {"words", GIB, true, NULL, change_all, look_at_words, 1},
    {"in place", GIB, false, prepare_items, replace_in_place, look_in_place,
     1},
    {"elsewhere", GIB, false, prepare_items, replace_elsewhere, look_elsewhere,
     1},
    {"a new region", GIB, true, prepare_items, add_huge, look_huge, 1},
    {"a large item", GIB, false, prepare_items, add_large, look_large, 11},
    {"taken out", GIB, false, prepare_items, take_out, look_taken_out, 1},
};

/* With a second argument, at every single event. */
int
main(int argc, char **argv)
{
    (void)argv;
    for (size_t i = 0; i < sizeof(scenarios) / sizeof(scenarios[0]); i++) {
        struct scenario scenario = scenarios[i];
        scenario.step = argc > 2 ? 1 : scenario.step;
        run(&scenario);
    }
    what_was_cut_off_is_gone();
    sizes_that_cannot_be();
    what_is_not_named_stays();
    changes_that_cannot_be();
    items_are_listed();
    there_may_be_so_many_items();
    a_full_region_stays_where_it_is();
    an_overlap_is_not_compacted();
    return check_result();
}
