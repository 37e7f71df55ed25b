/*
 * VHDs that are compacted: where blocks go, what is cut, what a child forgets,
 * what is refused, and readers beside all that.  (Power cuts and faults on the
 * way: test_vhd_model.c.)
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/posix_file.h"
#include "check.h"
#include "vhd_support.h"

#define NO_MEMORY 8
#define INVALID 87
#define NOT_SUPPORTED 50
#define INVALID_TYPE 0xC03A001B
#define INVALID_STATE 0xC03A001C

#define LENGTH (2 * MIB + 4096) /* of an aligned block with its bitmap */

static const struct vd_format *const format = &vd_vhd_format;
static uint8_t buffer[2 * MIB], found[2 * MIB];

static void
write_block(struct vd_image *image, uint64_t block, int value)
{
    memset(buffer, value, sizeof(buffer));
    CHECK_OK(format->write(image, buffer, sizeof(buffer), block * 2 * MIB));
}

static void
check_block(struct vd_image *image, uint64_t block, int value, uint64_t place)
{
    check_extent(image, block * 2 * MIB, 2 * MIB, VD_EXTENT_PRESENT, place,
                 2 * MIB);
    memset(buffer, value, sizeof(buffer));
    CHECK_OK(vd_file_pread(image->file, found, sizeof(found), place));
    CHECK_BYTES(buffer, found, sizeof(found));
}

static uint64_t
occupied(struct vd_image *image)
{
    uint64_t bytes = 0;
    CHECK_OK(format->occupied(image, &bytes));
    return bytes;
}

static unsigned
relocate_all(struct vd_image *image)
{
    bool moved = true;
    unsigned count = 0;
    while (moved && CHECK_OK(format->relocate(image, &moved))) {
        count += moved;
    }
    return count;
}

static void
commit(struct vd_image *image)
{
    CHECK_OK(format->commit(image));
    format->reclaim(image);
}

static struct crash_file *
new_of(enum vd_vhd_disk_type type, uint64_t size)
{
    struct vd_vhd_create_request request = create_request(type, size);
    request.relative_path = type == VHD_TYPE_DIFFERENCING ? u".\\p.vhd" : NULL;
    return new_image(&request);
}

/* Six blocks from 0x2000 on; the second and third go, and the last two take
 * their places. */
static void
the_last_blocks_fill_the_holes(void)
{
    struct crash_file *file = new_of(VHD_TYPE_DYNAMIC, 20 * MIB);
    struct vd_image *image = must_open(file, true);
    for (int i = 0; i < 6; i++) {
        write_block(image, (uint64_t)i, i + 1);
    }
    commit(image);
    CHECK_EQ(0x2000 + 6 * (uint64_t)LENGTH, occupied(image));
    CHECK_EQ(0, relocate_all(image));
    CHECK_OK(format->zero(image, 2 * MIB, 4 * MIB, true));
    CHECK_EQ(0x2000 + 4 * (uint64_t)LENGTH, occupied(image));
    CHECK_EQ(0, relocate_all(image)); /* the holes may still be looked at */
    commit(image);
    CHECK_EQ(2, relocate_all(image));
    check_block(image, 5, 6, 0x2000 + LENGTH);
    check_block(image, 4, 5, 0x2000 + 2 * LENGTH);
    commit(image);
    CHECK_OK(format->shorten(image));
    CHECK_EQ(0x2000 + 4 * (uint64_t)LENGTH, size_of(file));
    CHECK_EQ(size_of(file), occupied(image));
    CHECK_EQ(0, relocate_all(image));
    write_block(image, 8, 9); /* behind the others, where the file was cut */
    check_block(image, 8, 9, 0x2000 + 4 * LENGTH);
    CHECK_OK(format->close(image));
    CHECK_EQ(0x2000 + 5 * (uint64_t)LENGTH, size_of(file));
    image = must_open(file, false);
    check_block(image, 0, 1, 0x2000);
    check_block(image, 5, 6, 0x2000 + LENGTH);
    check_block(image, 4, 5, 0x2000 + 2 * LENGTH);
    check_block(image, 3, 4, 0x2000 + 3 * LENGTH);
    check_extent(image, 2 * MIB, 4 * MIB, VD_EXTENT_ZERO, 0, 4 * MIB);
    CHECK_OK(format->close(image));
    crash_file_free(file);
}

/* A disk that has grown has its BAT behind its first blocks, and a block may
 * stand where it was: it comes back as far as it can. */
static void
the_table_comes_back(void)
{
    struct crash_file *file = new_of(VHD_TYPE_DYNAMIC, 20 * MIB);
    struct vd_image *image = must_open(file, true);
    for (int i = 0; i < 4; i++) {
        write_block(image, (uint64_t)i, i + 1);
    }
    CHECK_OK(format->resize(image, 8 * GIB)); /* 4096 entries */
    CHECK_EQ(0x2000 + 4 * LENGTH - 4096, get_u32(file, 0x200 + 20));
    CHECK_OK(format->zero(image, 0, 2 * MIB, true));
    commit(image);
    CHECK_EQ(1, relocate_all(image));
    check_block(image, 3, 4, 0x1000);
    commit(image);
    uint64_t expected = occupied(image);
    CHECK_OK(format->shorten(image));
    CHECK_EQ(0x2000 + 3 * LENGTH - 4096, get_u32(file, 0x200 + 20));
    CHECK_EQ(expected, size_of(file));
    CHECK_EQ(0x2000 + 3 * LENGTH - 4096 + 4096 * 4 + 4096, size_of(file));
    write_block(image, 4095, 7);
    CHECK_OK(format->close(image));
    image = must_open(file, true);
    check_block(image, 1, 2, 0x2000 + LENGTH);
    check_block(image, 2, 3, 0x2000 + 2 * LENGTH);
    check_block(image, 3, 4, 0x1000);
    check_block(image, 4095, 7, 0x2000 + 3 * LENGTH + 4096 * 4);
    CHECK_OK(format->close(image));
    crash_file_free(file);
}

/* Without any block the table goes to the front and the file is as short as a
 * new one of that size. */
static void
an_empty_disk_is_as_short_as_a_new_one(void)
{
    struct crash_file *file = new_of(VHD_TYPE_DYNAMIC, 20 * MIB);
    struct vd_image *image = must_open(file, true);
    write_block(image, 0, 1);
    CHECK_OK(format->resize(image, 40 * GIB));
    CHECK_OK(format->zero(image, 0, 2 * MIB, true));
    commit(image);
    CHECK_OK(format->shorten(image));
    CHECK_OK(format->close(image));
    struct crash_file *fresh = new_of(VHD_TYPE_DYNAMIC, 40 * GIB);
    CHECK(size_of(file) <= size_of(fresh) + 4096);
    crash_file_free(fresh);
    crash_file_free(file);
}

/* ---- children ---- */

/* Bits and payload go with a block, also bits that no commit has written. */
static void
a_child_keeps_its_sectors(void)
{
    struct crash_file *file = new_of(VHD_TYPE_DIFFERENCING, 20 * MIB);
    struct vd_image *image = must_open(file, true);
    write_block(image, 0, 1);
    write_block(image, 1, 2);
    memset(buffer, 3, 512);
    CHECK_OK(format->write(image, buffer, 512, 4 * MIB + 1024));
    commit(image);
    CHECK_OK(format->write(image, buffer, 512, 4 * MIB + 2048));
    CHECK_OK(format->forget(image, 0, 2 * MIB));
    check_extent(image, 0, 2 * MIB, VD_EXTENT_PARENT, 0, 2 * MIB);
    commit(image);
    CHECK_EQ(1, relocate_all(image));
    check_extent(image, 4 * MIB, MIB, VD_EXTENT_PARENT, 0, 1024);
    check_extent(image, 4 * MIB + 1024, MIB, VD_EXTENT_PRESENT, 0x14000 + 1024,
                 512);
    check_extent(image, 4 * MIB + 2048, MIB, VD_EXTENT_PRESENT, 0x14000 + 2048,
                 512);
    CHECK_OK(format->write(image, buffer, 512, 4 * MIB + 4096));
    commit(image);
    CHECK_OK(format->shorten(image));
    CHECK_EQ(0x14000 + 2 * (uint64_t)LENGTH, size_of(file));
    write_block(image, 0, 4); /* has a bitmap of its own again */
    CHECK_OK(format->forget(image, 0, 2 * MIB));
    memset(buffer, 5, 512);
    CHECK_OK(format->write(image, buffer, 512, 512));
    CHECK_OK(format->close(image));
    image = must_open(file, false);
    check_extent(image, 0, MIB, VD_EXTENT_PARENT, 0, 512);
    check_extent(image, 1024, MIB, VD_EXTENT_PARENT, 0, MIB);
    check_block(image, 1, 2, 0x14000 + LENGTH);
    for (uint64_t at = 1024; at <= 4096; at *= 2) {
        check_extent(image, 4 * MIB + at, MIB, VD_EXTENT_PRESENT, 0x14000 + at,
                     512);
        CHECK_EQ(0x03030303, get_u32(file, 0x14000 + at));
    }
    CHECK_OK(format->close(image));
    crash_file_free(file);
}

/* The last block ends where the disk does. */
static void
only_whole_blocks_are_forgotten(void)
{
    struct crash_file *file = new_of(VHD_TYPE_DIFFERENCING, 5 * MIB);
    struct vd_image *image = must_open(file, true);
    memset(buffer, 1, sizeof(buffer));
    for (uint64_t at = 0; at < 5 * MIB; at += MIB) {
        CHECK_OK(format->write(image, buffer, MIB, at));
    }
    commit(image);
    size_t events = crash_file_events(file);
    CHECK_EQ(INVALID, format->forget(image, 512, 2 * MIB));
    CHECK_EQ(INVALID, format->forget(image, 0, 2 * MIB - 512));
    CHECK_EQ(INVALID, format->forget(image, 4 * MIB, 512));
    CHECK_EQ(events, crash_file_events(file));
    CHECK_OK(format->forget(image, 4 * MIB, MIB));
    check_extent(image, 4 * MIB, MIB, VD_EXTENT_PARENT, 0, MIB);
    CHECK_OK(format->forget(image, 4 * MIB, MIB)); /* nothing there */
    CHECK_OK(format->forget(image, 0, 5 * MIB));
    CHECK_OK(format->close(image));
    CHECK_EQ(0x14000, size_of(file)); /* as when it was new */
    crash_file_free(file);
}

/* ---- what is refused ---- */

static void
other_kinds_have_nothing_to_move(void)
{
    struct crash_file *file = new_of(VHD_TYPE_FIXED, 4 * MIB);
    struct vd_image *image = must_open(file, true);
    bool moved = true;
    CHECK_OK(format->relocate(image, &moved));
    CHECK(!moved);
    CHECK_OK(format->shorten(image));
    CHECK_EQ(4 * MIB + 512, occupied(image));
    CHECK_EQ(INVALID_TYPE, format->forget(image, 0, 2 * MIB));
    CHECK_OK(format->close(image));
    CHECK_EQ(4 * MIB + 512, size_of(file));
    crash_file_free(file);
    file = new_of(VHD_TYPE_DYNAMIC, 4 * MIB);
    image = must_open(file, true);
    CHECK_EQ(INVALID_TYPE, format->forget(image, 0, 2 * MIB));
    CHECK_OK(format->close(image));
    crash_file_free(file);
}

static void
a_saved_state_keeps_its_disk_as_it_is(void)
{
    struct crash_file *file = new_of(VHD_TYPE_DIFFERENCING, 4 * MIB);
    set_footer_bytes(file, 0, 84, "\1", 1);
    set_footer_bytes(file, size_of(file) - FOOTER, 84, "\1", 1);
    struct vd_image *image = must_open(file, true);
    size_t events = crash_file_events(file);
    bool moved = true;
    CHECK_EQ(INVALID_STATE, format->relocate(image, &moved));
    CHECK(!moved);
    CHECK_EQ(INVALID_STATE, format->shorten(image));
    CHECK_EQ(INVALID_STATE, format->forget(image, 0, 2 * MIB));
    CHECK_OK(format->close(image));
    CHECK_EQ(events, crash_file_events(file));
    crash_file_free(file);
}

/* ---- want of memory ---- */

static vd_error
compact(struct vd_image *image)
{
    bool moved = true;
    vd_error error = ERROR_SUCCESS;
    while (moved && error == ERROR_SUCCESS) {
        error = format->relocate(image, &moved);
    }
    if (error == ERROR_SUCCESS) {
        error = format->commit(image);
    }
    if (error == ERROR_SUCCESS) {
        format->reclaim(image);
        error = format->shorten(image);
    }
    return error;
}

static vd_error
make_and_compact(const char *path, int successes, bool *failed_out)
{
    struct vd_vhd_create_request request =
        create_request(VHD_TYPE_DIFFERENCING, 20 * MIB);
    struct vd_posix_file *file;
    struct vd_image *image;
    request.relative_path = u".\\p.vhd";
    check_write_file(path, "", 0);
    CHECK_OK(vd_posix_file_open(AT_FDCWD, path, true, &file));
    CHECK_OK(vd_vhd_create(&file->file, &request));
    CHECK_OK(open_as(&file->file, true, &image));
    for (int i = 0; i < 4; i++) {
        write_block(image, (uint64_t)i, i + 1);
    }
    CHECK_OK(format->commit(image));
    CHECK_OK(format->forget(image, 0, 2 * MIB));
    CHECK_OK(format->commit(image));
    format->reclaim(image);
    check_fail_allocation(successes);
    vd_error error = compact(image);
    *failed_out = check_fail_allocation(-1);
    CHECK_OK(format->close(image));
    CHECK_OK(open_as(&file->file, false, &image));
    for (uint64_t i = 1; i < 4; i++) {
        struct vd_extent extent;
        CHECK_OK(format->lookup(image, i * 2 * MIB, 2 * MIB, &extent));
        check_block(image, i, (int)i + 1, extent.file_offset);
    }
    CHECK_OK(format->close(image));
    vd_posix_file_close(file);
    return error;
}

static void
want_of_memory_is_reported(const char *directory)
{
    const char *path = check_path(directory, "memory.vhd");
    bool failed = true;
    for (int n = 0; failed && n < 100; n++) {
        vd_error error = make_and_compact(path, n, &failed);
        CHECK(error == (failed ? NO_MEMORY : 0));
        CHECK(failed || n > 3);
    }
    CHECK(!failed);
}

/* ---- readers ---- */

#define BLOCKS 12

struct shared {
    struct vd_image *image;
    pthread_rwlock_t gate; /* as the disk layer has it */
    _Atomic bool done;
};

/* Whatever is present holds its block's number; a block that has been
 * forgotten is the parent's, whole or in part. */
static void *
read_all(void *argument)
{
    struct shared *shared = argument;
    while (!atomic_load(&shared->done)) {
        for (uint64_t sector = 0; sector < BLOCKS * 1024; sector += 37) {
            struct vd_extent extent = {.length = 0};
            uint8_t bytes[512] = {0};
            pthread_rwlock_rdlock(&shared->gate);
            vd_error error =
                format->lookup(shared->image, sector * 512, 512, &extent);
            bool present =
                error == ERROR_SUCCESS && extent.state == VD_EXTENT_PRESENT;
            if (present) {
                error = vd_file_pread(shared->image->file, bytes, 512,
                                      extent.file_offset);
            }
            pthread_rwlock_unlock(&shared->gate);
            if (error != ERROR_SUCCESS ||
                (present &&
                 (bytes[0] != sector / 1024 + 1 || bytes[511] != bytes[0]))) {
                CHECK_OK(error);
                CHECK_EQ(sector / 1024 + 1, bytes[0]);
            }
        }
    }
    return NULL;
}

static void
commit_beside(struct shared *shared)
{
    CHECK_OK(format->commit(shared->image));
    pthread_rwlock_wrlock(&shared->gate);
    pthread_rwlock_unlock(&shared->gate);
    format->reclaim(shared->image);
}

static void
change_beside(struct shared *shared)
{
    for (uint64_t round = 0; round < 8; round++) {
        for (uint64_t i = 0; i < BLOCKS; i += 1 + round % 3) {
            memset(buffer, (int)i + 1, 512 * KIB);
            CHECK_OK(format->write(shared->image, buffer,
                                   512 * KIB - (size_t)round * 512,
                                   i * 512 * KIB));
        }
        commit_beside(shared);
        for (uint64_t i = round % 5; i < BLOCKS; i += 3) {
            CHECK_OK(format->forget(shared->image, i * 512 * KIB, 512 * KIB));
        }
        commit_beside(shared);
        (void)relocate_all(shared->image);
        commit_beside(shared);
        CHECK_OK(format->shorten(shared->image));
    }
}

/* Who waits for the readers does not wait for new ones. */
static void
init_gate(pthread_rwlock_t *gate)
{
    pthread_rwlockattr_t attributes;
    CHECK_EQ(0, pthread_rwlockattr_init(&attributes));
    CHECK_EQ(0,
             pthread_rwlockattr_setkind_np(
                 &attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP));
    CHECK_EQ(0, pthread_rwlock_init(gate, &attributes));
    pthread_rwlockattr_destroy(&attributes);
}

static void
readers_go_on(const char *directory)
{
    const char *path = check_path(directory, "readers.vhd");
    struct vd_vhd_create_request request =
        create_request(VHD_TYPE_DIFFERENCING, BLOCKS * 512 * KIB);
    struct vd_posix_file *file;
    struct shared shared = {.done = false};
    pthread_t threads[3];
    request.block_size = VHD_SMALL_BLOCK_SIZE;
    request.relative_path = u".\\p.vhd";
    check_write_file(path, "", 0);
    CHECK_OK(vd_posix_file_open(AT_FDCWD, path, true, &file));
    CHECK_OK(vd_vhd_create(&file->file, &request));
    CHECK_OK(open_as(&file->file, true, &shared.image));
    init_gate(&shared.gate);
    for (size_t i = 0; i < 3; i++) {
        CHECK_EQ(0, pthread_create(&threads[i], NULL, read_all, &shared));
    }
    change_beside(&shared);
    atomic_store(&shared.done, true);
    for (size_t i = 0; i < 3; i++) {
        CHECK_EQ(0, pthread_join(threads[i], NULL));
    }
    pthread_rwlock_destroy(&shared.gate);
    CHECK_OK(format->close(shared.image));
    vd_posix_file_close(file);
}

int
main(int argc, char **argv)
{
    const char *directory = argc > 1 ? argv[1] : ".";
    the_last_blocks_fill_the_holes();
    the_table_comes_back();
    an_empty_disk_is_as_short_as_a_new_one();
    a_child_keeps_its_sectors();
    only_whole_blocks_are_forgotten();
    other_kinds_have_nothing_to_move();
    a_saved_state_keeps_its_disk_as_it_is();
    want_of_memory_is_reported(directory);
    readers_go_on(directory);
    return check_result();
}
