/*
 * VHDs that grow: what they hold afterwards, where the BAT goes, and what a
 * power cut or a fault on the way leaves.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "random.h"
#include "vhd_support.h"

#define INVALID 87
#define DISK_FULL 112
#define NOT_SUPPORTED 50
#define INVALID_SIZE 0xC03A0012
#define INVALID_TYPE 0xC03A001B
#define INVALID_STATE 0xC03A001C

static const struct vd_format *const format = &vd_vhd_format;

/* ---- content ---- */

/* Every 4 KiB piece of the disk holds its number, in places. */
static void
fill(uint8_t bytes[4096], uint64_t offset)
{
    for (size_t i = 0; i < 4096; i += 8) {
        uint64_t value = offset + i + 1;
        memcpy(bytes + i, &value, 8);
    }
}

static void
read_at(struct vd_image *image, uint8_t bytes[4096], uint64_t offset)
{
    struct vd_extent extent = {.length = 0};
    memset(bytes, 0, 4096);
    CHECK_OK(format->lookup(image, offset, 4096, &extent));
    if (extent.state == VD_EXTENT_PRESENT) {
        CHECK_EQ(4096, extent.length);
        CHECK_OK(vd_file_pread(image->file, bytes, 4096, extent.file_offset));
    }
}

static void
write_at(struct vd_image *image, uint64_t offset)
{
    uint8_t bytes[4096];
    fill(bytes, offset);
    CHECK_OK(format->write(image, bytes, sizeof(bytes), offset));
}

/* What was written, and zeros from `end` to the end of the disk. */
static void
check_content(struct vd_image *image, const uint64_t *places, size_t count,
              uint64_t end)
{
    static const uint8_t zeros[4096];
    uint8_t expected[4096], found[4096];
    for (size_t i = 0; i < count; i++) {
        fill(expected, places[i]);
        read_at(image, found, places[i]);
        CHECK_BYTES(expected, found, sizeof(found));
    }
    while (end + 4096 <= image->info.size_bytes) {
        read_at(image, found, end);
        CHECK_BYTES(zeros, found, sizeof(found));
        end += end % (64 * KIB) == 0 ? 64 * KIB - 4096 : 4096;
    }
}

/* Both footers, as they stand in the file. */
static void
check_footers(struct crash_file *file, uint64_t size, bool fixed)
{
    uint8_t head[FOOTER], tail[FOOTER], whole[FOOTER];
    get_bytes(file, size_of(file) - FOOTER, tail, FOOTER);
    CHECK_EQ(size, vd_get_be64(tail + 48));
    memcpy(whole, tail, FOOTER);
    put_checksum(whole);
    CHECK_BYTES(whole, tail, FOOTER);
    if (!fixed) {
        get_bytes(file, 0, head, FOOTER);
        CHECK_BYTES(tail, head, FOOTER);
    }
}

/* ---- fixed ---- */

static void
a_fixed_disk_grows(void)
{
    static const uint64_t places[] = {0, 3 * MIB, 4 * MIB - 4096};
    struct vd_vhd_create_request request =
        create_request(VHD_TYPE_FIXED, 4 * MIB);
    struct crash_file *file = new_image(&request);
    struct vd_image *image = must_open(file, true);
    for (size_t i = 0; i < 3; i++) {
        write_at(image, places[i]);
    }
    CHECK_OK(format->begin(image, VD_CHANGE_LAYOUT));
    CHECK_OK(format->resize(image, 6 * MIB));
    CHECK_EQ(6 * MIB, image->info.size_bytes);
    check_content(image, places, 3, 4 * MIB);
    CHECK_OK(format->resize(image, 6 * MIB + 512));
    CHECK_OK(format->close(image));
    CHECK_EQ(6 * MIB + 512 + FOOTER, size_of(file));
    check_footers(file, 6 * MIB + 512, true);
    /* The disk of 4 MiB has 963/5/17 in FORMATS.md's terms of 40: here the
     * specification's steps for 12289 sectors: 722 tracks of 17, 4 heads. */
    CHECK_EQ(180u << 16 | 4 << 8 | 17, get_u32(file, 6 * MIB + 512 + 56));
    CHECK_EQ(4 * MIB, get_u32(file, 6 * MIB + 512 + 44)); /* original size */
    image = must_open(file, false);
    check_content(image, places, 3, 4 * MIB);
    CHECK_OK(format->close(image));
    crash_file_free(file);
}

/* A file longer than its disk: what is behind the disk is nobody's, and does
 * not come to light.  Old footers become whole. */
static void
odd_fixed_disks_grow(void)
{
    static const struct {
        uint64_t tail, tail_size, size, end;
    } rows[] = {
        {MIB, 512, 2 * MIB, 2 * MIB},
        {MIB + 8192, 512, MIB + 4096, MIB + 8192},
        {MIB + 8192, 512, MIB + 8192, MIB + 8192},
        {MIB + 8192, 512, 2 * MIB, 2 * MIB},
        {MIB + 8192, 512, MIB + 8192 + 512, MIB + 8192 + 512},
        {MIB, 511, 2 * MIB, 2 * MIB},
        {MIB + 100, 512, 2 * MIB, 2 * MIB},
        {MIB + 100, 511, MIB + 512, MIB + 1024},
        {MIB + 100, 512, MIB + 512, MIB + 1024},
        {MIB + 8193, 511, MIB + 4096, MIB + 8704},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        static const uint64_t places[] = {0, MIB - 4096};
        struct crash_file *file = crash_file_new();
        uint8_t junk[MIB / 64], footer[FOOTER];
        memset(junk, 0xEE, sizeof(junk));
        put_bytes(crash_file_of(file), MIB, junk,
                  (size_t)(rows[i].tail - MIB));
        put_simple_footer(footer, MIB, 2);
        put_bytes(crash_file_of(file), rows[i].tail, footer,
                  (size_t)rows[i].tail_size);
        struct vd_image *image = must_open(file, true);
        write_at(image, places[0]);
        write_at(image, places[1]);
        CHECK_OK(format->resize(image, rows[i].size));
        check_content(image, places, 2, MIB);
        CHECK_OK(format->close(image));
        CHECK_EQ(rows[i].end + FOOTER, size_of(file));
        check_footers(file, rows[i].size, true);
        image = must_open(file, true);
        CHECK_EQ(rows[i].size, image->info.size_bytes);
        check_content(image, places, 2, MIB);
        CHECK_OK(format->close(image));
        crash_file_free(file);
    }
}

static vd_error
full_allocate(struct vd_file *file, uint64_t offset, uint64_t length)
{
    (void)file;
    return offset + length > 5 * MIB ? DISK_FULL : 0;
}

/* Without the space the disk is what it was. */
static void
a_full_host_lets_no_fixed_disk_grow(void)
{
    static const uint64_t places[] = {0, 3 * MIB};
    struct vd_vhd_create_request request =
        create_request(VHD_TYPE_FIXED, 4 * MIB);
    struct crash_file *file = new_image(&request);
    struct vd_file_ops ops = *crash_file_of(file)->ops;
    ops.allocate = full_allocate;
    crash_file_of(file)->ops = &ops;
    struct vd_image *image = must_open(file, true);
    write_at(image, places[0]);
    write_at(image, places[1]);
    CHECK_EQ(DISK_FULL, format->resize(image, 8 * MIB));
    CHECK_EQ(4 * MIB, image->info.size_bytes);
    CHECK_EQ(4 * MIB + FOOTER, size_of(file));
    check_footers(file, 4 * MIB, true);
    check_content(image, places, 2, 4 * MIB);
    CHECK_OK(format->resize(image, 5 * MIB));
    check_content(image, places, 2, 4 * MIB);
    CHECK_OK(format->close(image));
    check_footers(file, 5 * MIB, true);
    crash_file_free(file);
}

/* ---- dynamic ---- */

/* Within the last block, within the table's padding, and beyond, twice: then
 * the BAT has gone behind the block. */
static void
a_dynamic_disk_grows(void)
{
    static const uint64_t places[] = {0, 2 * MIB, 4 * MIB};
    static const uint64_t sizes[] = {5 * MIB + 512, 6 * MIB,  10 * MIB,
                                     4 * GIB,       40 * GIB, 2040 * GIB};
    struct vd_vhd_create_request request =
        create_request(VHD_TYPE_DYNAMIC, 5 * MIB);
    struct crash_file *file = new_image(&request);
    struct vd_image *image = must_open(file, true);
    for (size_t i = 0; i < 3; i++) {
        write_at(image, places[i]);
    }
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        uint64_t last = sizes[i] / 4096 * 4096 - 4096;
        uint64_t all[] = {0, 2 * MIB, 4 * MIB, last};
        CHECK_OK(format->resize(image, sizes[i]));
        CHECK_EQ(sizes[i], image->info.size_bytes);
        uint64_t most = sizes[i] < GIB ? 5 * MIB : sizes[i] - 8 * MIB;
        if (i > 0) {
            check_content(image, places, 3, most);
        }
        write_at(image, last);
        check_content(image, all, 4, sizes[i]);
        CHECK_OK(format->zero(image, last, 4096, false));
        if (i % 2 == 1) {
            CHECK_OK(format->close(image));
            check_footers(file, sizes[i], false);
            image = must_open(file, true);
            check_content(image, places, 3, most);
        }
    }
    CHECK_OK(format->close(image));
    check_footers(file, 2040 * GIB, false);
    CHECK_EQ(1044480, get_u32(file, 0x200 + 28));
    CHECK_EQ(0,
             get_u32(file, 0x200 + 16)); /* the table's offset: far behind */
    CHECK(get_u32(file, 0x200 + 20) >= 3 * (2 * MIB + 4096));
    CHECK_EQ(0, get_u32(file, 0x200 + 20) % 4096);
    crash_file_free(file);
}

/* One without blocks keeps its table where it is; the footer makes room. */
static void
an_empty_disk_keeps_its_layout(void)
{
    struct vd_vhd_create_request request =
        create_request(VHD_TYPE_DYNAMIC, 5 * MIB);
    struct crash_file *file = new_image(&request);
    struct vd_image *image = must_open(file, true);
    CHECK_OK(format->resize(image, 2040 * GIB));
    write_at(image, 2040 * GIB - 4096);
    CHECK_OK(format->close(image));
    CHECK_EQ(0x600, get_u32(file, 0x200 + 20));
    /* The table of 1044480 entries ends, padded, at 0x3FD000: data of the
     * first block start 4 KiB behind, and its bitmap a sector before them. */
    CHECK_EQ(0x3FDE00 / 512, get_u32(file, 0x600 + 1044479 * 4));
    crash_file_free(file);
}

/* Other software's table is longer than it need be and ends in anything; its
 * last block too. */
static void
what_others_left_does_not_come_to_light(void)
{
    struct build build = {.size = 3 * BLOCK - 8192,
                          .block_size = BLOCK,
                          .type = 3,
                          .max_entries = 128};
    static const uint64_t places[] = {0};
    struct crash_file *file = crash_file_new();
    uint8_t junk[8192 + 64];
    build_image(crash_file_of(file), &build, 0x800 + 2 * STRIDE);
    build_entry(crash_file_of(file), 0, 4);
    build_entry(crash_file_of(file), 2, 4 + STRIDE / 512);
    build_entry(crash_file_of(file), 3, 5);
    build_entry(crash_file_of(file), 100, 0x12345678);
    build_bitmap(crash_file_of(file), &build, 4, 0xFF);
    build_bitmap(crash_file_of(file), &build, 4 + STRIDE / 512, 0xFF);
    memset(junk, 0xEE, sizeof(junk));
    put_bytes(crash_file_of(file), 0x800 + 2 * STRIDE - 8192, junk, 8192);
    struct vd_image *image = must_open(file, true);
    write_at(image, 0);
    CHECK_OK(format->resize(image, 128 * (uint64_t)BLOCK));
    check_content(image, places, 1, 3 * BLOCK - 8192);
    CHECK_OK(format->close(image));
    CHECK_EQ(BUILD_BAT, get_u32(file, 0x200 + 20));
    image = must_open(file, true);
    check_content(image, places, 1, 3 * BLOCK - 8192);
    CHECK_OK(format->close(image));
    crash_file_free(file);
}

static vd_error
resized(struct crash_file *file, uint64_t size)
{
    struct vd_image *image = must_open(file, true);
    uint64_t before = image->info.size_bytes;
    size_t events = crash_file_events(file);
    vd_error error = format->resize(image, size);
    CHECK_EQ(error == 0 ? size : before, image->info.size_bytes);
    CHECK(error == 0 || events == crash_file_events(file));
    CHECK_OK(format->close(image));
    return error;
}

static void
what_cannot_be_is_refused(void)
{
    struct vd_vhd_create_request request =
        create_request(VHD_TYPE_DYNAMIC, 5 * MIB);
    struct crash_file *file = new_image(&request);
    CHECK_EQ(INVALID_TYPE, resized(file, 4 * MIB));
    CHECK_EQ(INVALID_SIZE, resized(file, 2040 * GIB + 512));
    CHECK_EQ(INVALID, resized(file, 6 * MIB + 1));
    CHECK_OK(resized(file, 5 * MIB));
    set_footer_bytes(file, size_of(file) - FOOTER, 84, "\1", 1);
    set_footer_bytes(file, 0, 84, "\1", 1);
    CHECK_EQ(INVALID_STATE, resized(file, 6 * MIB));
    crash_file_free(file);
    request = create_request(VHD_TYPE_FIXED, 4 * MIB);
    file = new_image(&request);
    CHECK_EQ(INVALID_TYPE, resized(file, 3 * MIB));
    CHECK_EQ(INVALID_SIZE, resized(file, UINT64_MAX - 511));
    crash_file_free(file);
    request = create_request(VHD_TYPE_DIFFERENCING, 4 * MIB);
    request.relative_path = u".\\p.vhd";
    file = new_image(&request);
    CHECK_EQ(INVALID_TYPE, resized(file, 5 * MIB));
    crash_file_free(file);
}

/* ---- power cuts and faults ---- */

struct way {
    const char *name;
    enum vd_vhd_disk_type type;
    uint32_t block_size; /* below 512 KiB: of other software, unaligned */
    uint64_t from, to;
    unsigned blocks; /* written before, every other one */
};

static const struct way ways[] = {
    {"fixed", VHD_TYPE_FIXED, 0, 64 * KIB, 128 * KIB, 0},
    {"fixed by a sector", VHD_TYPE_FIXED, 0, 64 * KIB, 64 * KIB + 512, 0},
    {"in the last block", VHD_TYPE_DYNAMIC, 512 * KIB, MIB + 512, MIB + 8192,
     4},
    {"in the table's padding", VHD_TYPE_DYNAMIC, 512 * KIB, MIB, 4 * MIB, 3},
    {"empty", VHD_TYPE_DYNAMIC, 512 * KIB, MIB, 9 * GIB, 0},
    {"with another table", VHD_TYPE_DYNAMIC, 512 * KIB, MIB + 512, 9 * GIB, 5},
    {"the same, unaligned", VHD_TYPE_DYNAMIC, 4 * KIB, 60 * KIB + 512, 8 * MIB,
     10},
};

static struct crash_file *
make(const struct way *way)
{
    if (way->block_size == 0 || way->block_size >= 512 * KIB) {
        struct vd_vhd_create_request request =
            create_request(way->type, way->from);
        request.block_size = way->block_size;
        return new_image(&request);
    }
    struct build build = {
        .size = way->from, .block_size = way->block_size, .type = 3};
    struct crash_file *file = crash_file_new();
    build_image(crash_file_of(file), &build, build_bat_end(&build));
    CHECK_OK(vd_file_flush(crash_file_of(file)));
    return file;
}

/* Writes places, 4 KiB each; a fixed disk's at both ends. */
static size_t
write_places(struct vd_image *image, const struct way *way, uint64_t *places)
{
    size_t count = 0;
    uint64_t last = (way->from - 4096) / 4096 * 4096;
    uint64_t step = 2 * (uint64_t)way->block_size;
    for (uint64_t at = 0; count + 1 < way->blocks && at < last; at += step) {
        places[count++] = at;
    }
    if (way->blocks != 0 || way->type == VHD_TYPE_FIXED) {
        places[count++] = last;
    }
    for (size_t i = 0; i < count; i++) {
        write_at(image, places[i]);
    }
    CHECK_OK(format->commit(image));
    return count;
}

/* Old or new size, all that was written, and zeros where nothing was. */
static bool
check_medium(struct crash_file *medium, const struct way *way,
             const uint64_t *places, size_t count, bool *new_out)
{
    struct vd_image *image = NULL;
    for (unsigned writable = 0; writable < 2; writable++) {
        if (!CHECK_OK(open_as(crash_file_of(medium), writable != 0, &image))) {
            return false;
        }
        *new_out = image->info.size_bytes == way->to;
        CHECK(*new_out || image->info.size_bytes == way->from);
        uint64_t end = (way->from + 4095) / 4096 * 4096;
        check_content(image, places, count,
                      way->to > 16 * MIB && *new_out ? way->to - MIB : end);
        CHECK_OK(format->close(image));
    }
    return true;
}

static void
cut_everywhere(const struct way *way, uint64_t seeds)
{
    uint64_t places[16];
    struct crash_file *file = make(way);
    crash_file_order_appends(file);
    struct vd_image *image = must_open(file, true);
    size_t count = write_places(image, way, places);
    size_t first = crash_file_events(file);
    CHECK_OK(format->resize(image, way->to));
    size_t done = crash_file_events(file);
    CHECK_OK(format->close(image));
    bool is_new = false, good = true;
    for (size_t events = first; events <= crash_file_events(file) && good;
         events++) {
        for (uint64_t seed = 0; seed < seeds && good; seed++) {
            struct crash_file *medium =
                crash_file_image(file, events, seed * (events + 1) * 7919);
            good = check_medium(medium, way, places, count, &is_new) &&
                   CHECK(is_new || events < done);
            crash_file_free(medium);
        }
    }
    if (!good) {
        fprintf(stderr, "  %s\n", way->name);
    }
    crash_file_free(file);
}

/* A fault anywhere is an error and no damage, and what is there stays. */
static void
fail_everywhere(const struct way *way, vd_error fault)
{
    for (size_t n = 1, reached = 1; reached != 0; n++) {
        uint64_t places[16];
        struct crash_file *file = make(way);
        struct vd_image *image = must_open(file, true);
        size_t count = write_places(image, way, places);
        bool is_new = false;
        crash_file_fail(file, n, fault);
        vd_error error = format->resize(image, way->to);
        reached = !crash_file_waits(file);
        crash_file_fail(file, 0, 0);
        CHECK_EQ(reached ? fault : 0, error);
        CHECK_EQ(error == 0 ? way->to : way->from, image->info.size_bytes);
        if (error == 0) {
            CHECK_OK(format->close(image));
        }
        else {
            (void)format->close(image);
        }
        CHECK(check_medium(file, way, places, count, &is_new));
        CHECK(reached || is_new);
        crash_file_free(file);
    }
}

int
main(int argc, char **argv)
{
    uint64_t seeds = argc > 2 ? strtoull(argv[2], NULL, 10) : 6;
    a_fixed_disk_grows();
    odd_fixed_disks_grow();
    a_full_host_lets_no_fixed_disk_grow();
    a_dynamic_disk_grows();
    an_empty_disk_keeps_its_layout();
    what_others_left_does_not_come_to_light();
    what_cannot_be_is_refused();
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        cut_everywhere(&ways[i], seeds);
        fail_everywhere(&ways[i], DISK_FULL);
    }
    return check_result();
}
