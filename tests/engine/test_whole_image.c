/*
 * Compacting and resizing whole disks (disk/compact.h, disk/resize.h) over
 * real formats, and a power cut after every change: the image opens, has the
 * old or the new size, holds the same content, keeps its partition table, and
 * what was interrupted can be done again.
 */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/crc32.h"
#include "check.h"
#include "crash_file.h"
#include "disk/compact.h"
#include "disk/disk_private.h"
#include "disk/gpt.h"
#include "disk/gpt_backup.h"
#include "disk/partition_table.h"
#include "disk/resize.h"
#include "one_layer.h"

#define KIB 1024u
#define MIB (1024u * KIB)
#define SUBSETS 3

struct kind {
    const struct vd_format *format;
    uint32_t sector_size;
    uint32_t block_size;
    enum vd_subtype subtype;
    bool in_order; /* what is written later is not on the medium earlier: a
                      fixed VHD is lost if its file is longer without the
                      footer at the end (vhd_resize.c) */
};

static const struct kind vhdx = {&vd_vhdx_format, 512, MIB, VD_SUBTYPE_DYNAMIC,
                                 false};
static const struct kind vhdx_4k = {&vd_vhdx_format, 4096, MIB,
                                    VD_SUBTYPE_DYNAMIC, false};
static const struct kind vhdx_fixed = {&vd_vhdx_format, 512, MIB,
                                       VD_SUBTYPE_FIXED, false};
static const struct kind vhd = {&vd_vhd_format, 512, 512 * KIB,
                                VD_SUBTYPE_DYNAMIC, false};
static const struct kind vhd_fixed = {&vd_vhd_format, 512, 0, VD_SUBTYPE_FIXED,
                                      true};

/* ---- disks ---- */

static struct vd_session
session(uint8_t seed)
{
    struct vd_session out = {.log_sequence = 1000 + seed};
    memset(&out.file_write_guid, seed, VD_GUID_SIZE);
    memset(&out.data_write_guid, seed + 1, VD_GUID_SIZE);
    memset(&out.log_guid, seed + 2, VD_GUID_SIZE);
    return out;
}

static struct vd_disk *
open_disk(struct crash_file *file, const struct kind *kind)
{
    struct vd_open_request request = {.writable = true,
                                      .session = session(40)};
    struct vd_image *image;
    if (!CHECK_OK(kind->format->open(crash_file_of(file), &request, &image))) {
        return NULL;
    }
    struct vd_disk *disk = one_layer(image);
    disk->writable = true;
    disk->live = true;
    return disk;
}

static void
close_disk(struct vd_disk *disk)
{
    struct vd_image *image = vd_disk_leaf(disk);
    one_layer_drop(disk);
    CHECK_OK(image->format->close(image));
}

static struct vd_disk *
new_disk(struct crash_file *file, const struct kind *kind, uint64_t size)
{
    struct vd_create_request request = {
        .subtype = kind->subtype,
        .size_bytes = size,
        .block_size = kind->block_size,
        .sector_size = kind->sector_size,
        .session = session(10),
    };
    memset(&request.identifier, 7, VD_GUID_SIZE);
    CHECK_OK(kind->format->create_defaults(&request));
    CHECK_OK(kind->format->create(crash_file_of(file), &request));
    return open_disk(file, kind);
}

/* Each sector tells where it is, and which of two writings it is of. */
static void
put(struct vd_disk *disk, uint64_t offset, size_t length, uint8_t mark)
{
    uint8_t *data = malloc(length);
    for (size_t i = 0; i < length; i++) {
        data[i] = (uint8_t)(mark + (offset + i) / 512 * 7 + i % 13);
    }
    CHECK_OK(vd_disk_write(disk, data, length, offset));
    free(data);
}

static uint8_t *
content_of(struct vd_disk *disk, uint64_t size)
{
    uint8_t *content = malloc((size_t)size);
    CHECK_OK(vd_disk_read(disk, content, (size_t)size, 0));
    return content;
}

static void
check_content(struct vd_disk *disk, const uint8_t *content, uint64_t size)
{
    uint8_t *now = content_of(disk, size);
    CHECK_BYTES(content, now, (size_t)size);
    free(now);
}

/* ---- power cuts ---- */

struct interrupted {
    const struct kind *kind;
    struct crash_file *file;
    size_t begun; /* the events before */
    size_t step;  /* not every event is worth it */
    /* Judges a disk after a power cut, at the event of this number. */
    void (*check)(struct vd_disk *disk, void *context);
    void *context;
};

static void
cut_power(const struct interrupted *run)
{
    size_t end = crash_file_events(run->file);
    CHECK(end > run->begun);
    for (size_t n = run->begun; n <= end; n += run->step) {
        uint64_t subsets = run->kind->in_order ? 0 : SUBSETS;
        for (uint64_t seed = 0; seed <= subsets; seed++) {
            struct crash_file *medium =
                crash_file_image(run->file, n, seed == 0 ? 0 : n * 31 + seed);
            struct vd_disk *disk = open_disk(medium, run->kind);
            if (disk != NULL) {
                run->check(disk, run->context);
                close_disk(disk);
            }
            crash_file_free(medium);
        }
    }
}

/* ---- compacting ---- */

struct compacted {
    uint64_t size;
    const uint8_t *content;
    uint64_t file_size; /* when all is done */
};

static uint64_t
file_size(struct vd_disk *disk)
{
    uint64_t size = 0;
    CHECK_OK(vd_file_size(vd_disk_leaf(disk)->file, &size));
    return size;
}

static void
compact(struct vd_disk *disk)
{
    static const struct vd_compact_options options = {.no_zero_scan = false};
    CHECK_OK(vd_disk_compact(disk, &options, NULL));
}

/* What is left is done the next time, and comes to the same. */
static void
check_compacted(struct vd_disk *disk, void *context)
{
    const struct compacted *expected = context;
    CHECK_EQ(expected->size, vd_disk_size_bytes(disk));
    check_content(disk, expected->content, expected->size);
    compact(disk);
    check_content(disk, expected->content, expected->size);
    CHECK_EQ(expected->file_size, file_size(disk));
}

/* Blocks in no order, of which every other is zeros in the end. */
static void
compacting(const struct kind *kind, size_t step)
{
    static const unsigned order[] = {6, 1, 4, 0, 7, 3};
    uint64_t size = 8 * (uint64_t)kind->block_size + 8 * KIB;
    struct interrupted run = {kind, crash_file_new(), 0,
                              step, check_compacted,  NULL};
    struct vd_disk *disk = new_disk(run.file, kind, size);
    for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
        put(disk, (uint64_t)order[i] * kind->block_size, 16 * KIB, 1);
    }
    put(disk, size - 4 * KIB, 4 * KIB, 2);
    CHECK_OK(
        vd_disk_zero(disk, 6 * (uint64_t)kind->block_size, 16 * KIB, false));
    CHECK_OK(
        vd_disk_zero(disk, 4 * (uint64_t)kind->block_size, 16 * KIB, false));
    CHECK_OK(vd_disk_flush(disk));
    uint8_t *content = content_of(disk, size);
    uint64_t before = file_size(disk);

    run.begun = crash_file_events(run.file);
    compact(disk);
    struct compacted expected = {size, content, file_size(disk)};
    CHECK(expected.file_size + 2 * kind->block_size <= before);
    check_content(disk, content, size);
    close_disk(disk);

    run.context = &expected;
    cut_power(&run);
    crash_file_free(run.file);
    free(content);
}

/* ---- growing and shrinking ---- */

struct resized {
    uint64_t before;
    uint64_t after;
    const uint8_t *content; /* of the smaller of them */
};

static void
check_resized(struct vd_disk *disk, void *context)
{
    const struct resized *expected = context;
    uint64_t size = vd_disk_size_bytes(disk);
    uint64_t both = expected->before < expected->after ? expected->before
                                                       : expected->after;
    CHECK(size == expected->before || size == expected->after);
    check_content(disk, expected->content, both);
    if (size == expected->after && size > both) {
        uint8_t *rest = malloc((size_t)(size - both));
        CHECK_OK(vd_disk_read(disk, rest, (size_t)(size - both), both));
        CHECK(rest[0] == 0 &&
              memcmp(rest, rest + 1, (size_t)(size - both) - 1) == 0);
        free(rest);
    }
}

static void
resizing(const struct kind *kind, uint64_t before, uint64_t after,
         enum vd_resize_mode mode)
{
    struct vd_resize resize = {mode, after};
    struct interrupted run = {kind, crash_file_new(), 0,
                              1,    check_resized,    NULL};
    struct vd_disk *disk = new_disk(run.file, kind, before);
    uint64_t both = before < after ? before : after;
    put(disk, 0, 64 * KIB, 1);
    put(disk, both - 64 * KIB, 64 * KIB, 2);
    if (before > after) { /* what must not come back */
        put(disk, before - 64 * KIB, 64 * KIB, 3);
    }
    CHECK_OK(vd_disk_flush(disk));
    uint8_t *content = content_of(disk, both);
    struct resized expected = {before, after, content};

    run.begun = crash_file_events(run.file);
    CHECK_OK(vd_disk_resize(disk, &resize));
    CHECK_EQ(after, vd_disk_size_bytes(disk));
    check_resized(disk, &expected);
    close_disk(disk);

    run.context = &expected;
    cut_power(&run);
    crash_file_free(run.file);
    free(content);
}

/* ---- a GPT ---- */

#define GPT_SIZE ((uint64_t)12 * MIB)
#define FIRST_USABLE 34

/* Where it is, and its one partition's end. */
struct gpt {
    uint32_t sector_size;
    uint64_t sectors;
    uint64_t last; /* of the partition */
};

static uint64_t
entries_sectors(const struct gpt *gpt)
{
    return 128 * 128 / gpt->sector_size;
}

static void
put_header(struct vd_disk *disk, const struct gpt *gpt, uint64_t my,
           uint64_t alternate, uint64_t entries_at, uint32_t entries_crc)
{
    uint8_t raw[4096] = "EFI PART\0\0\1\0\x5c";
    vd_put_le64(raw + 24, my);
    vd_put_le64(raw + 32, alternate);
    vd_put_le64(raw + 40, FIRST_USABLE);
    vd_put_le64(raw + 48, gpt->sectors - entries_sectors(gpt) - 2);
    vd_put_le64(raw + 72, entries_at);
    vd_put_le32(raw + 80, 128);
    vd_put_le32(raw + 84, 128);
    vd_put_le32(raw + 88, entries_crc);
    vd_put_le32(raw + 16, vd_crc32(VD_CRC32_START, raw, 92));
    CHECK_OK(
        vd_disk_write(disk, raw, gpt->sector_size, my * gpt->sector_size));
}

static void
put_gpt(struct vd_disk *disk, const struct gpt *gpt)
{
    static uint8_t entries[128 * 128];
    uint8_t mbr[4096] = {0};
    uint64_t end = gpt->sectors - 1;
    mbr[446 + 4] = 0xEE;
    vd_put_le32(mbr + 446 + 8, 1);
    vd_put_le32(mbr + 446 + 12, (uint32_t)end);
    mbr[510] = 0x55;
    mbr[511] = 0xAA;
    CHECK_OK(vd_disk_write(disk, mbr, gpt->sector_size, 0));
    memset(entries, 0xA5, 32); /* type, id */
    vd_put_le64(entries + 32, FIRST_USABLE);
    vd_put_le64(entries + 40, gpt->last);
    uint32_t crc = vd_crc32(VD_CRC32_START, entries, sizeof(entries));
    uint64_t at = end - entries_sectors(gpt);
    CHECK_OK(vd_disk_write(disk, entries, sizeof(entries),
                           (uint64_t)2 * gpt->sector_size));
    CHECK_OK(
        vd_disk_write(disk, entries, sizeof(entries), at * gpt->sector_size));
    put_header(disk, gpt, 1, end, 2, crc);
    put_header(disk, gpt, end, 1, at, crc);
    CHECK_OK(vd_disk_flush(disk));
}

/* The partition, from the first header; *copy_out: whether a valid copy is
 * where that says. */
static void
check_gpt(struct vd_disk *disk, const struct gpt *gpt, bool *copy_out)
{
    uint8_t raw[VD_GPT_MAX_SECTOR_SIZE];
    struct vd_gpt_header header = {0}, copy;
    struct vd_partition_source source = vd_partition_source_of(disk);
    struct vd_partition_table *table = malloc(sizeof(*table));
    bool valid = false;
    CHECK_OK(vd_partition_table_read(disk, table));
    CHECK_EQ(VD_PARTITION_GPT, table->scheme);
    CHECK_EQ(1, table->count);
    CHECK_EQ((gpt->last - FIRST_USABLE + 1) * gpt->sector_size,
             table->partitions[0].length_bytes);
    free(table);
    CHECK_OK(vd_gpt_read_header(&source, 1, raw, &valid, &header));
    CHECK(valid);
    *copy_out = false;
    if (valid &&
        header.alternate_sector < vd_partition_source_sectors(&source)) {
        CHECK_OK(vd_gpt_read_header(&source, header.alternate_sector, raw,
                                    copy_out, &copy));
    }
}

struct moved {
    struct gpt gpt;
    uint64_t after; /* bytes */
};

/* First the copy moves, then the disk becomes smaller: at no time is there no
 * copy at the place that the first header names, but for the moment in which
 * a new one that overlaps it is written. */
static void
check_moved(struct vd_disk *disk, void *context)
{
    const struct moved *expected = context;
    struct vd_resize again = {VD_RESIZE_SMALLEST, 0};
    bool copy;
    uint64_t size = vd_disk_size_bytes(disk);
    CHECK(size == GPT_SIZE || size == expected->after);
    check_gpt(disk, &expected->gpt, &copy);
    CHECK(copy);
    if (size != expected->after) {
        CHECK_OK(vd_disk_resize(disk, &again));
    }
    CHECK_EQ(expected->after, vd_disk_size_bytes(disk));
    check_gpt(disk, &expected->gpt, &copy);
    CHECK(copy);
    CHECK_EQ(ERROR_VHD_ALREADY_AT_OR_BELOW_MINIMUM_VIRTUAL_SIZE,
             vd_disk_resize(disk, &again));
}

/* The last header, and what protects the table from old programs, say where
 * the disk ends now. */
static void
check_ends(struct vd_disk *disk, const struct gpt *gpt)
{
    uint8_t raw[4096];
    uint64_t last = vd_disk_size_bytes(disk) / gpt->sector_size - 1;
    CHECK_OK(
        vd_disk_read(disk, raw, gpt->sector_size, last * gpt->sector_size));
    CHECK_BYTES("EFI PART", raw, 8);
    CHECK_EQ(last, vd_get_le64(raw + 24));
    CHECK_EQ(1, vd_get_le64(raw + 32));
    CHECK_EQ(last - entries_sectors(gpt) - 1, vd_get_le64(raw + 48));
    CHECK_EQ(last - entries_sectors(gpt), vd_get_le64(raw + 72));
    CHECK_OK(vd_disk_read(disk, raw, 512, 446));
    CHECK_EQ(last, vd_get_le32(raw + 12));
}

static void
shrinking_a_gpt(const struct kind *kind)
{
    struct vd_resize smallest = {VD_RESIZE_SMALLEST, 0};
    struct gpt gpt = {
        .sector_size = kind->sector_size,
        .sectors = GPT_SIZE / kind->sector_size,
        .last = 5 * MIB / kind->sector_size - 1,
    };
    struct moved expected = {
        gpt,
        5 * MIB + 128 * 128 + kind->sector_size,
    };
    struct interrupted run = {kind, crash_file_new(), 0,
                              1,    check_moved,      &expected};
    struct vd_disk *disk = new_disk(run.file, kind, GPT_SIZE);
    put_gpt(disk, &gpt);
    run.begun = crash_file_events(run.file);
    CHECK_OK(vd_disk_resize(disk, &smallest));
    check_moved(disk, &expected);
    check_ends(disk, &gpt);
    close_disk(disk);
    cut_power(&run);
    crash_file_free(run.file);
}

/* The new copy may lie over the old one; and one sector less is too little. */
static void
shrinking_by_little(void)
{
    struct gpt gpt = {512, GPT_SIZE / 512, GPT_SIZE / 512 - 50};
    struct crash_file *file = crash_file_new();
    struct vd_disk *disk = new_disk(file, &vhdx, GPT_SIZE);
    struct vd_resize resize = {VD_RESIZE_SAFE, GPT_SIZE - 10 * 512};
    bool copy;
    put_gpt(disk, &gpt);
    CHECK_OK(vd_disk_resize(disk, &resize));
    check_gpt(disk, &gpt, &copy);
    CHECK(copy);
    check_ends(disk, &gpt);
    resize.size_bytes = (gpt.last + 1 + 33 - 1) * 512;
    CHECK_EQ(ERROR_VHD_RESIZE_WOULD_TRUNCATE_DATA,
             vd_disk_resize(disk, &resize));
    resize.size_bytes += 512;
    CHECK_OK(vd_disk_resize(disk, &resize));
    check_gpt(disk, &gpt, &copy);
    CHECK(copy);
    check_ends(disk, &gpt);
    close_disk(disk);
    crash_file_free(file);
}

/* A first header that is damaged is nothing to build on. */
static void
a_damaged_gpt_stays(void)
{
    struct gpt gpt = {512, GPT_SIZE / 512, 10000};
    struct crash_file *file = crash_file_new();
    struct vd_disk *disk = new_disk(file, &vhdx, GPT_SIZE);
    struct vd_resize resize = {VD_RESIZE_SAFE, GPT_SIZE - MIB};
    uint8_t zeros[512] = {0};
    put_gpt(disk, &gpt);
    CHECK_OK(vd_disk_write(disk, zeros, sizeof(zeros), 512));
    CHECK_EQ(ERROR_VHD_RESIZE_WOULD_TRUNCATE_DATA,
             vd_disk_resize(disk, &resize));
    CHECK_EQ(ERROR_VHD_COULD_NOT_COMPUTE_MINIMUM_VIRTUAL_SIZE,
             vd_gpt_move_backup(disk, GPT_SIZE - MIB));
    resize.mode = VD_RESIZE_SMALLEST;
    CHECK_EQ(ERROR_VHD_ALREADY_AT_OR_BELOW_MINIMUM_VIRTUAL_SIZE,
             vd_disk_resize(disk, &resize));
    resize.mode = VD_RESIZE_UNSAFE;
    CHECK_OK(vd_disk_resize(disk, &resize));
    close_disk(disk);
    crash_file_free(file);
}

/* ---- what is refused ---- */

static vd_error
try_resize(struct vd_disk *disk, enum vd_resize_mode mode, uint64_t size)
{
    struct vd_resize resize = {mode, size};
    return vd_disk_resize(disk, &resize);
}

static void
sizes_are_judged(void)
{
    struct crash_file *file = crash_file_new();
    struct vd_disk *disk = new_disk(file, &vhdx_4k, 8 * MIB);
    CHECK_EQ(ERROR_INVALID_PARAMETER,
             try_resize(disk, VD_RESIZE_GROW, 8 * MIB));
    CHECK_EQ(ERROR_INVALID_PARAMETER,
             try_resize(disk, VD_RESIZE_GROW, 7 * MIB));
    CHECK_EQ(ERROR_INVALID_PARAMETER,
             try_resize(disk, VD_RESIZE_SAFE, 9 * MIB + 512));
    CHECK_EQ(ERROR_INVALID_PARAMETER,
             try_resize(disk, VD_RESIZE_UNSAFE, 3 * MIB - 4096));
    CHECK_EQ(ERROR_VHD_INVALID_SIZE,
             try_resize(disk, VD_RESIZE_SAFE, ((uint64_t)64 << 40) + 4096));
    CHECK_EQ(ERROR_VHD_COULD_NOT_COMPUTE_MINIMUM_VIRTUAL_SIZE,
             try_resize(disk, VD_RESIZE_SAFE, 7 * MIB));
    CHECK_EQ(ERROR_VHD_COULD_NOT_COMPUTE_MINIMUM_VIRTUAL_SIZE,
             try_resize(disk, VD_RESIZE_SMALLEST, 0));
    CHECK_OK(try_resize(disk, VD_RESIZE_SAFE, 8 * MIB)); /* as it is */
    CHECK_EQ(8 * MIB, vd_disk_size_bytes(disk));
    disk->writable = false;
    CHECK_EQ(ERROR_WRITE_PROTECT, try_resize(disk, VD_RESIZE_SAFE, 9 * MIB));
    disk->writable = true;
    close_disk(disk);
    crash_file_free(file);
}

static void
a_vhd_only_grows(const struct kind *kind)
{
    struct crash_file *file = crash_file_new();
    struct vd_disk *disk = new_disk(file, kind, 8 * MIB);
    size_t events = crash_file_events(file);
    CHECK_EQ(ERROR_VHD_INVALID_TYPE,
             try_resize(disk, VD_RESIZE_UNSAFE, 7 * MIB));
    CHECK_EQ(ERROR_VHD_INVALID_TYPE, try_resize(disk, VD_RESIZE_SMALLEST, 0));
    CHECK_EQ(events, crash_file_events(file));
    CHECK_OK(try_resize(disk, VD_RESIZE_SAFE, 9 * MIB));
    close_disk(disk);
    crash_file_free(file);
}

int
main(void)
{
    compacting(&vhdx, 2);
    if (vd_vhd_format.relocate != NULL) {
        compacting(&vhd, 2);
    }
    resizing(&vhdx, 5 * MIB + 512, 9 * MIB, VD_RESIZE_GROW);
    resizing(&vhdx, 9 * MIB, 5 * MIB + 512, VD_RESIZE_UNSAFE);
    resizing(&vhdx_4k, 5 * MIB + 4096, 8 * MIB, VD_RESIZE_SAFE);
    resizing(&vhdx_fixed, 4 * MIB, 6 * MIB, VD_RESIZE_GROW);
    resizing(&vhdx_fixed, 6 * MIB, 4 * MIB, VD_RESIZE_UNSAFE);
    resizing(&vhd, 5 * MIB, 9 * MIB + 512, VD_RESIZE_GROW);
    resizing(&vhd_fixed, 4 * MIB, 6 * MIB, VD_RESIZE_GROW);
    shrinking_a_gpt(&vhdx);
    shrinking_a_gpt(&vhdx_4k);
    shrinking_by_little();
    a_damaged_gpt_stays();
    sizes_are_judged();
    a_vhd_only_grows(&vhd);
    a_vhd_only_grows(&vhd_fixed);
    return check_result();
}
