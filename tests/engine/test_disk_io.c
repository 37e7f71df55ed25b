/* Reading and writing a disk, with a format that answers as a script says. */
#include <string.h>

#include "check.h"
#include "memory_file.h"
#include "one_layer.h"

#define SIZE 4096

static uint8_t content[SIZE];

/* The script: where each extent ends, what it is and where it lies. */
struct piece {
    uint64_t end;
    enum vd_extent_state state;
    uint64_t file_offset;
};

struct scripted_image {
    struct vd_image image; /* first */
    const struct piece *pieces;
    vd_error error;
    uint64_t given_up;
    vd_error commit_error;
    char calls[8]; /* commit, reclaim, write: a letter each */
};

static vd_error
scripted_lookup(struct vd_image *image, uint64_t offset, uint64_t length,
                struct vd_extent *out)
{
    struct scripted_image *scripted = (struct scripted_image *)image;
    const struct piece *piece = scripted->pieces;
    uint64_t start = 0;
    if (scripted->error != 0) {
        return scripted->error;
    }
    while (piece->end <= offset) {
        start = piece->end;
        piece++;
    }
    uint64_t rest = piece->end - offset;
    *out = (struct vd_extent){
        .state = piece->state,
        .file_offset = piece->file_offset + (offset - start),
        .length = rest < length ? rest : length,
    };
    return 0;
}

static void
note(struct vd_image *image, const char *letter)
{
    struct scripted_image *scripted = (struct scripted_image *)image;
    strncat(scripted->calls, letter,
            sizeof(scripted->calls) - strlen(scripted->calls) - 1);
}

static vd_error
scripted_begin(struct vd_image *image, enum vd_change change)
{
    (void)image;
    CHECK_EQ(VD_CHANGE_CONTENT, change);
    return 0;
}

static vd_error
scripted_write(struct vd_image *image, const void *buffer, size_t length,
               uint64_t offset)
{
    (void)buffer;
    (void)length;
    (void)offset;
    note(image, "w");
    return 0;
}

static vd_error
scripted_commit(struct vd_image *image)
{
    note(image, "c");
    return ((struct scripted_image *)image)->commit_error;
}

static uint64_t
scripted_given_up(const struct vd_image *image)
{
    return ((const struct scripted_image *)image)->given_up;
}

static void
scripted_reclaim(struct vd_image *image)
{
    note(image, "r");
    ((struct scripted_image *)image)->given_up = 0;
}

static const struct vd_format scripted_format = {
    .lookup = scripted_lookup,
    .begin = scripted_begin,
    .write = scripted_write,
    .commit = scripted_commit,
    .given_up = scripted_given_up,
    .reclaim = scripted_reclaim,
};

static struct scripted_image
scripted(const struct piece *pieces, struct memory_file *memory)
{
    return (struct scripted_image){
        .image = {.format = &scripted_format,
                  .file = &memory->file,
                  .info = {.size_bytes = SIZE,
                           .sector_size = 512,
                           .subtype = VD_SUBTYPE_FIXED}},
        .pieces = pieces,
    };
}

static vd_error
read_disk(struct scripted_image *image, void *buffer, size_t length,
          uint64_t offset)
{
    struct vd_disk *disk = one_layer(&image->image);
    vd_error error = vd_disk_read(disk, buffer, length, offset);
    one_layer_drop(disk);
    return error;
}

static vd_error
ask_contiguous(struct scripted_image *image, bool *contiguous,
               uint64_t *offset)
{
    struct vd_disk *disk = one_layer(&image->image);
    vd_error error = vd_disk_contiguous(disk, contiguous, offset);
    one_layer_drop(disk);
    return error;
}

static const struct piece mixed[] = {
    {1000, VD_EXTENT_PRESENT, 2000},
    {1500, VD_EXTENT_ZERO, 0},
    {SIZE, VD_EXTENT_PRESENT, 0},
};

static void
reads_cross_extents(void)
{
    struct memory_file memory = memory_file_over(content, SIZE);
    struct scripted_image image = scripted(mixed, &memory);
    uint8_t expected[SIZE] = {0};
    uint8_t buffer[SIZE];
    memcpy(expected, content + 2000, 1000);
    memcpy(expected + 1500, content, SIZE - 1500);
    for (size_t offset = 0; offset < SIZE; offset += 333) {
        memset(buffer, 0xEE, sizeof(buffer));
        CHECK_OK(read_disk(&image, buffer, SIZE - offset, offset));
        CHECK_BYTES(expected + offset, buffer, SIZE - offset);
    }
    CHECK_OK(read_disk(&image, buffer, 0, SIZE));
    CHECK_OK(read_disk(&image, buffer, 1, SIZE - 1));
    CHECK_EQ(expected[SIZE - 1], buffer[0]);
}

static void
errors_are_told_apart(void)
{
    static const struct piece orphan[] = {{100, VD_EXTENT_ZERO, 0},
                                          {SIZE, VD_EXTENT_PARENT, 0}};
    struct memory_file memory = memory_file_over(content, SIZE);
    struct scripted_image image = scripted(orphan, &memory);
    uint8_t buffer[SIZE];
    CHECK_OK(read_disk(&image, buffer, 100, 0));
    CHECK_EQ(0xC03A000D, read_disk(&image, buffer, 101, 0));
    image.error = 1392;
    CHECK_EQ(1392, read_disk(&image, buffer, 1, 0));
    image = scripted(mixed, &memory);
    memory.operations_left = 1;
    CHECK_EQ(1117, read_disk(&image, buffer, SIZE, 0));
    memory = memory_file_over(content, 2500); /* cut while open */
    image = scripted(mixed, &memory);
    CHECK_EQ(1117, read_disk(&image, buffer, SIZE, 0));
}

static void
one_run_is_contiguous(void)
{
    static const struct piece one[] = {{SIZE, VD_EXTENT_PRESENT, 700}};
    static const struct piece zero_end[] = {{SIZE - 1, VD_EXTENT_PRESENT, 0},
                                            {SIZE, VD_EXTENT_ZERO, 4095}};
    static const struct piece jump[] = {{512, VD_EXTENT_PRESENT, 700},
                                        {SIZE, VD_EXTENT_PRESENT, 1213}};
    static const struct piece zero[] = {{SIZE, VD_EXTENT_ZERO, 0}};
    static const struct piece parent[] = {{SIZE, VD_EXTENT_PARENT, 0}};
    static const struct {
        const struct piece *pieces;
        bool contiguous;
        uint64_t offset;
    } cases[] = {
        {one, true, 700},  {mixed, false, 42}, {zero_end, false, 42},
        {zero, false, 42}, {jump, false, 42},  {parent, false, 42},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct memory_file memory = memory_file_over(content, SIZE);
        struct scripted_image image = scripted(cases[i].pieces, &memory);
        bool contiguous = !cases[i].contiguous;
        uint64_t offset = 42;
        CHECK_OK(ask_contiguous(&image, &contiguous, &offset));
        CHECK_EQ(cases[i].contiguous, contiguous);
        CHECK_EQ(cases[i].offset, offset);
        CHECK_EQ(0, memory.reads);
        image.error = 1117;
        CHECK_EQ(1117, ask_contiguous(&image, &contiguous, &offset));
    }
}

/* Two writes to where there is nothing, with that much given up before. */
static vd_error
write_twice(struct scripted_image *image, uint64_t given_up)
{
    struct vd_disk *disk = one_layer(&image->image);
    disk->writable = disk->live = true;
    image->given_up = given_up;
    image->calls[0] = 0;
    vd_error error = vd_disk_write(disk, content, 512, 0);
    if (error == 0) {
        error = vd_disk_write(disk, content, 512, 1024);
    }
    one_layer_drop(disk);
    return error;
}

static void
much_that_is_given_up_is_used_again(void)
{
    static const struct piece nothing[] = {{SIZE, VD_EXTENT_ZERO, 0}};
    const uint64_t much = 64ULL * 1024 * 1024;
    struct memory_file memory = memory_file_over(content, SIZE);
    struct scripted_image image = scripted(nothing, &memory);
    CHECK_OK(write_twice(&image, much - 1));
    CHECK_STR("ww", image.calls);
    CHECK_OK(write_twice(&image, much));
    CHECK_STR("crww", image.calls);
    image.commit_error = 1117;
    CHECK_EQ(1117, write_twice(&image, much));
    CHECK_STR("c", image.calls); /* neither reclaimed nor written */
}

int
main(void)
{
    for (size_t i = 0; i < SIZE; i++) {
        content[i] = (uint8_t)(i % 251 + 1);
    }
    reads_cross_extents();
    errors_are_told_apart();
    one_run_is_contiguous();
    much_that_is_given_up_is_used_again();
    return check_result();
}
