/*
 * VHDs whose footers are damaged, old or not where they belong: which one
 * counts, what a read-only open leaves alone, a writable one mends, and the
 * first change puts right.
 */
#include <string.h>

#include "check.h"
#include "vhd_support.h"

#define MISSING 0xC03A0001
#define CHECKSUM 0xC03A0002
#define CORRUPT 0xC03A0003
#define BAT_CORRUPT 0xC03A000A

static uint8_t buffer[4096];

struct footers_case {
    enum damage tail;
    enum damage head;
    vd_error error;
};

static void
check_footers(const struct footers_case *row, uint32_t type)
{
    struct build build = usual;
    build.type = type;
    struct crash_file *file = build_usual(&build);
    damage_footer(file, USUAL_END, row->tail);
    damage_footer(file, 0, row->head);
    bool recognised = false;
    CHECK_OK(vd_vhd_format.probe(crash_file_of(file), &recognised));
    CHECK_EQ(row->error != MISSING, recognised);
    size_t events = crash_file_events(file);
    CHECK_EQ(row->error, open_error(file, false));
    CHECK_EQ(events, crash_file_events(file));
    CHECK_EQ(row->error, open_error(file, true));
    bool mended = row->error == 0 && (row->tail | row->head) != WHOLE;
    CHECK_EQ(mended, crash_file_events(file) != events);
    if (row->error == 0) {
        check_whole(file);
        events = crash_file_events(file);
        CHECK_OK(open_error(file, true));
        CHECK_EQ(events, crash_file_events(file));
    }
    crash_file_free(file);
}

/* Which of two footers counts, what is said if none does, and that both are
 * whole after a writable open. */
static void
the_copy_at_the_head_helps(void)
{
    static const struct footers_case rows[] = {
        {WHOLE, WHOLE, 0},       {WHOLE, GONE, 0},
        {WHOLE, TORN, 0},        {WHOLE, ASTRAY, 0},
        {WHOLE, OTHER, 0},       {GONE, WHOLE, 0},
        {TORN, WHOLE, 0},        {GONE, GONE, MISSING},
        {GONE, TORN, CHECKSUM},  {TORN, GONE, CHECKSUM},
        {TORN, TORN, CHECKSUM},  {GONE, ASTRAY, CORRUPT},
        {TORN, ASTRAY, CORRUPT}, {ASTRAY, WHOLE, CORRUPT},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        check_footers(&rows[i], 3);
        check_footers(&rows[i], 4);
    }
}

/* What a power cut leaves: the file longer, or cut at the old footer. */
static void
the_end_is_found_from_the_blocks(void)
{
    static const int64_t changes[] = {-512, -511, -2, 1, 511, 512, 5000000};
    for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
        struct crash_file *file = build_usual(&usual);
        uint64_t size = (uint64_t)(USUAL_END + FOOTER + changes[i]);
        CHECK_OK(vd_file_truncate(crash_file_of(file), size));
        CHECK_OK(open_error(file, false));
        CHECK_EQ(size, size_of(file));
        CHECK_OK(open_error(file, true));
        check_whole(file);
        crash_file_free(file);
    }
    struct crash_file *file = build_usual(&usual);
    CHECK_OK(vd_file_truncate(crash_file_of(file), USUAL_END - 512));
    CHECK_EQ(BAT_CORRUPT, open_error(file, false)); /* data are lost */
    CHECK_EQ(BAT_CORRUPT, open_error(file, true));
    CHECK_EQ(USUAL_END - 512, size_of(file));
    crash_file_free(file);
}

/* Space behind the last block is nobody's: gone with the first change. */
static void
leaked_space_goes_with_the_first_change(void)
{
    uint8_t footer[FOOTER];
    struct crash_file *file = build_usual(&usual);
    memset(buffer, 0xEE, sizeof(buffer));
    put_bytes(crash_file_of(file), USUAL_END, buffer, sizeof(buffer));
    build_footer(&usual, footer);
    put_bytes(crash_file_of(file), USUAL_END + 3 * STRIDE, footer, FOOTER);
    size_t events = crash_file_events(file);
    CHECK_OK(open_error(file, true));
    CHECK_EQ(events, crash_file_events(file));
    struct vd_image *image = must_open(file, true);
    CHECK_OK(vd_vhd_format.begin(image, VD_CHANGE_CONTENT));
    check_whole(file);
    CHECK_OK(vd_vhd_format.write(image, buffer, 512, BLOCK));
    CHECK_EQ(0, get_u32(file, USUAL_END + 1024));
    CHECK_OK(vd_vhd_format.close(image));
    crash_file_free(file);
}

static void
old_footers_are_completed(uint32_t type)
{
    uint8_t footer[FOOTER];
    struct crash_file *file = crash_file_new();
    struct build build = usual;
    build.type = type;
    if (type == 2) {
        put_simple_footer(footer, 8192, 2);
        put_bytes(crash_file_of(file), 8192, footer, 511);
    }
    else {
        build_image(crash_file_of(file), &build, 0x800);
        CHECK_OK(vd_file_truncate(crash_file_of(file), 0x800 + 511));
    }
    uint64_t size = size_of(file);
    size_t events = crash_file_events(file);
    CHECK_OK(open_error(file, true));
    CHECK_EQ(events, crash_file_events(file));
    struct vd_image *image = must_open(file, true);
    CHECK_OK(vd_vhd_format.begin(image, VD_CHANGE_CONTENT));
    CHECK_EQ(size + 1, size_of(file));
    CHECK_OK(vd_vhd_format.close(image));
    CHECK_EQ(size + 1, size_of(file));
    CHECK_OK(open_error(file, true));
    crash_file_free(file);
}

/* What other software keeps in the footer goes with it when it moves. */
static void
the_footer_s_other_bytes_are_kept(void)
{
    struct crash_file *file = build_usual(&usual);
    uint8_t before[FOOTER], after[FOOTER];
    set_footer_bytes(file, 0, 84, "\1\1hidden", 8);
    set_footer_bytes(file, USUAL_END, 84, "\1\1hidden", 8);
    get_bytes(file, 0, before, FOOTER);
    struct vd_image *image = must_open(file, true);
    CHECK_OK(vd_vhd_format.write(image, buffer, 512, BLOCK));
    CHECK_OK(vd_vhd_format.close(image));
    CHECK_EQ(USUAL_END + STRIDE + FOOTER, size_of(file));
    get_bytes(file, USUAL_END + STRIDE, after, FOOTER);
    CHECK_BYTES(before, after, FOOTER);
    crash_file_free(file);
}

/* While the footer comes back at close there is always one at the end: the
 * copy at the head is not needed. */
static void
closing_keeps_a_footer_at_the_end(void)
{
    struct crash_file *file = build_usual(&usual);
    CHECK_OK(vd_file_flush(crash_file_of(file)));
    struct vd_image *image = must_open(file, true);
    CHECK_OK(vd_vhd_format.write(image, buffer, 512, BLOCK));
    CHECK_OK(vd_vhd_format.write(image, buffer, 512, 3 * BLOCK));
    CHECK_OK(vd_vhd_format.zero(image, 3 * BLOCK, BLOCK, true));
    CHECK_OK(vd_vhd_format.commit(image));
    size_t first = crash_file_events(file);
    CHECK_OK(vd_vhd_format.close(image));
    CHECK_EQ(first + 5, crash_file_events(file));
    for (size_t events = first; events <= first + 5; events++) {
        for (uint64_t seed = 0; seed < 20; seed++) {
            struct crash_file *cut = crash_file_image(file, events, seed);
            damage_footer(cut, 0, GONE);
            CHECK_OK(open_error(cut, false));
            crash_file_free(cut);
        }
    }
    crash_file_free(file);
}

int
main(void)
{
    closing_keeps_a_footer_at_the_end();
    the_copy_at_the_head_helps();
    the_end_is_found_from_the_blocks();
    leaked_space_goes_with_the_first_change();
    for (uint32_t type = 2; type <= 4; type++) {
        old_footers_are_completed(type);
    }
    the_footer_s_other_bytes_are_kept();
    return check_result();
}
