/*
 * Dynamic and differencing VHDs that are written: where new blocks go, what
 * becomes of their space and bitmaps, want of space and memory, readers
 * beside the mutator.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "base/posix_file.h"
#include "check.h"
#include "vhd_support.h"

#define NO_MEMORY 8
#define IO_DEVICE 1117
#define DISK_FULL 112
#define ALLOCATION_FAILURE 0xC03A0009

/* ---- blocks ---- */

static uint8_t buffer[4 * MIB];

/* Three blocks land where Windows 10 has put them in such a disk. */
static void
blocks_land_where_windows_puts_them(void)
{
    struct vd_vhd_create_request request =
        create_request(VHD_TYPE_DYNAMIC, 10 * MIB);
    struct crash_file *file = new_image(&request);
    struct vd_image *image = must_open(file, true);
    uint8_t ones[512], bitmap[512];
    memset(ones, 0xFF, sizeof(ones));
    memset(buffer, 0xAB, sizeof(buffer));
    CHECK_OK(vd_vhd_format.write(image, buffer, 512, 1024));
    CHECK_OK(vd_vhd_format.write(image, buffer, 1024, 6 * MIB));
    CHECK_OK(vd_vhd_format.write(image, buffer, MIB, 3 * MIB));
    check_extent(image, 0, 10 * MIB, VD_EXTENT_PRESENT, 0x2000, 2 * MIB);
    CHECK_OK(vd_vhd_format.close(image));
    CHECK_EQ(0x605000, size_of(file));
    CHECK_EQ(0x1E00 / 512, get_u32(file, 0x600));
    CHECK_EQ(0x403E00 / 512, get_u32(file, 0x604));
    CHECK_EQ(0xFFFFFFFF, get_u32(file, 0x608));
    CHECK_EQ(0x202E00 / 512, get_u32(file, 0x60C));
    CHECK_EQ(0x636F6E65, get_u32(file, 0x604E00)); /* "cone" */
    get_bytes(file, 0x202E00, bitmap, 512);
    CHECK_BYTES(ones, bitmap, 512);
    CHECK_EQ(0xABABABAB, get_u32(file, 0x2000 + 1024));
    CHECK_EQ(0, get_u32(file, 0x2000 + 1536));
    crash_file_free(file);
}

/* A block given up at the end is gone from the file when it is closed, and
 * one in the middle is used again, zeroed, once that is safe. */
static void
space_comes_back(void)
{
    struct vd_vhd_create_request request =
        create_request(VHD_TYPE_DYNAMIC, 10 * MIB);
    struct crash_file *file = new_image(&request);
    struct vd_image *image = must_open(file, true);
    const struct vd_format *format = &vd_vhd_format;
    CHECK_OK(format->write(image, buffer, 4 * MIB, 0));
    CHECK_OK(format->commit(image));
    CHECK_OK(format->zero(image, 0, 2 * MIB, true));
    check_extent(image, 0, 2 * MIB, VD_EXTENT_ZERO, 0, 2 * MIB);
    format->reclaim(image); /* too early: the release is not durable */
    CHECK_OK(format->write(image, buffer, 512, 4 * MIB));
    check_extent(image, 4 * MIB, 512, VD_EXTENT_PRESENT, 0x404000, 512);
    CHECK_OK(format->commit(image));
    CHECK_OK(format->write(image, buffer, 512, 6 * MIB)); /* not reclaimed */
    check_extent(image, 6 * MIB, 512, VD_EXTENT_PRESENT, 0x605000, 512);
    format->reclaim(image);
    CHECK_OK(format->write(image, buffer, 512, 8 * MIB));
    check_extent(image, 8 * MIB, 512, VD_EXTENT_PRESENT, 0x2000, 512);
    CHECK_EQ(0, get_u32(file, 0x2000 + 512)); /* was another block's */
    CHECK_OK(format->zero(image, 6 * MIB, 2 * MIB, true));
    CHECK_OK(format->close(image));
    CHECK_EQ(0x605000, size_of(file));
    image = must_open(file, true);
    CHECK_OK(format->zero(image, 2 * MIB, 2 * MIB, false));
    check_extent(image, 2 * MIB, 512, VD_EXTENT_PRESENT, 0x203000, 512);
    CHECK_OK(format->zero(image, 0, 10 * MIB, true));
    CHECK_OK(format->close(image));
    CHECK_EQ(8192, size_of(file)); /* as when it was new */
    crash_file_free(file);
}

/* Zeros of a child are kept, for its parent may have something there. */
static void
zeros_of_children_take_space(void)
{
    struct vd_vhd_create_request request =
        create_request(VHD_TYPE_DIFFERENCING, 10 * MIB);
    request.relative_path = u".\\p.vhd";
    struct crash_file *file = new_image(&request);
    struct vd_image *image = must_open(file, true);
    for (unsigned may_free = 0; may_free < 2; may_free++) {
        uint64_t at = may_free * 4 * MIB;
        CHECK_OK(vd_vhd_format.zero(image, at + MIB, 2 * MIB, may_free));
        check_extent(image, at, 4 * MIB, VD_EXTENT_PARENT, 0, MIB);
        check_extent(image, at + MIB, MIB, VD_EXTENT_PRESENT,
                     0x14000 + (2 * may_free) * (2 * MIB + 4096) + MIB, MIB);
        check_extent(image, at + 3 * MIB, MIB, VD_EXTENT_PARENT, 0, MIB);
    }
    CHECK_OK(vd_vhd_format.close(image));
    image = must_open(file, false);
    check_extent(image, 2 * MIB, 2 * MIB, VD_EXTENT_PRESENT,
                 0x14000 + 2 * MIB + 4096, MIB);
    CHECK_EQ(0, get_u32(file, 0x14000 + MIB));
    CHECK_OK(vd_vhd_format.close(image));
    crash_file_free(file);
}

/* Where software asks the bitmap, what is written in place must be in it. */
static void
bitmaps_of_dynamic_disks_become_full(void)
{
    struct build build = {.size = 6 * MIB, .block_size = 512 * KIB, .type = 3};
    uint64_t stride = 512 + 512 * KIB;
    struct crash_file *file = crash_file_new();
    build_image(crash_file_of(file), &build, 0x800 + 2 * stride);
    build_entry(crash_file_of(file), 0, 4);
    build_entry(crash_file_of(file), 1, (uint32_t)(4 + stride / 512));
    struct vd_image *image = must_open(file, true);
    struct vd_extent extent;
    size_t events = crash_file_events(file);
    CHECK_OK(vd_vhd_format.lookup(image, 0, 512, &extent));
    CHECK_OK(vd_vhd_format.commit(image));
    CHECK_EQ(events + 1, crash_file_events(file)); /* only the barrier */
    CHECK_OK(vd_vhd_format.begin(image, VD_CHANGE_CONTENT));
    CHECK_OK(vd_file_pwrite(image->file, buffer, 512, extent.file_offset));
    CHECK_OK(vd_vhd_format.commit(image));
    uint8_t bits[128], ones[128];
    memset(ones, 0xFF, sizeof(ones));
    get_bytes(file, 0x800, bits, sizeof(bits));
    CHECK_BYTES(ones, bits, sizeof(bits));
    CHECK_EQ(0, get_u32(file, 0x800 + 128));    /* no sector's */
    CHECK_EQ(0, get_u32(file, 0x800 + stride)); /* nobody was there */
    events = crash_file_events(file);
    CHECK_OK(vd_vhd_format.commit(image));
    CHECK_EQ(events + 1, crash_file_events(file));
    CHECK_OK(vd_vhd_format.close(image));
    crash_file_free(file);
}

/* Old files stay as they are laid out. */
static void
unaligned_files_stay_unaligned(void)
{
    struct build build = {.size = 6 * MIB, .block_size = 2 * MIB, .type = 3};
    struct crash_file *file = crash_file_new();
    uint64_t end = 0x800 + 512 + 2 * MIB;
    build_image(crash_file_of(file), &build, end);
    build_entry(crash_file_of(file), 0, 4);
    struct vd_image *image = must_open(file, true);
    CHECK_OK(vd_vhd_format.write(image, buffer, 512, 2 * MIB));
    check_extent(image, 2 * MIB, 512, VD_EXTENT_PRESENT, end + 512, 512);
    CHECK_OK(vd_vhd_format.close(image));
    CHECK_EQ(end + 512 + 2 * MIB + 512, size_of(file));
    crash_file_free(file);
}

/* ---- want of space, memory, disk ---- */

static void
a_full_host_damages_nothing(void)
{
    for (size_t n = 1; n <= 4; n++) {
        struct vd_vhd_create_request request =
            create_request(VHD_TYPE_DYNAMIC, 10 * MIB);
        struct crash_file *file = new_image(&request);
        struct vd_image *image = must_open(file, true);
        vd_error error;
        CHECK_OK(vd_vhd_format.write(image, buffer, 512, 0));
        CHECK_OK(vd_vhd_format.commit(image));
        crash_file_fail(file, n == 2 ? 0 : n, DISK_FULL);
        error = vd_vhd_format.write(image, buffer, 512, 2 * MIB);
        CHECK_EQ(n == 2 ? 0 : DISK_FULL, error);
        crash_file_fail(file, 0, 0);
        if (n != 2) {
            check_extent(image, 2 * MIB, 512, VD_EXTENT_ZERO, 0, 512);
            CHECK_OK(vd_vhd_format.write(image, buffer, 512, 2 * MIB));
        }
        check_extent(image, 2 * MIB, 512, VD_EXTENT_PRESENT, 0x203000, 512);
        CHECK_EQ(0, get_u32(file, 0x203000 + 512));
        CHECK_OK(vd_vhd_format.close(image));
        CHECK_EQ(0x404000, size_of(file));
        crash_file_free(file);
    }
}

/* Nothing is known of the medium any more, so nothing is written. */
static void
a_failed_barrier_ends_it(void)
{
    struct vd_vhd_create_request request =
        create_request(VHD_TYPE_DYNAMIC, 10 * MIB);
    struct crash_file *file = new_image(&request);
    struct vd_image *image = must_open(file, true);
    CHECK_OK(vd_vhd_format.write(image, buffer, 512, 0));
    crash_file_fail(file, 1, IO_DEVICE);
    CHECK_EQ(IO_DEVICE, vd_vhd_format.commit(image));
    size_t events = crash_file_events(file);
    CHECK_EQ(IO_DEVICE, vd_vhd_format.commit(image));
    CHECK_EQ(IO_DEVICE, vd_vhd_format.begin(image, VD_CHANGE_CONTENT));
    CHECK_EQ(IO_DEVICE, vd_vhd_format.write(image, buffer, 512, 0));
    CHECK_EQ(IO_DEVICE, vd_vhd_format.zero(image, 0, 512, true));
    CHECK_EQ(IO_DEVICE, vd_vhd_format.close(image));
    CHECK_EQ(events, crash_file_events(file));
    CHECK_OK(open_error(file, true));
    crash_file_free(file);
}

/* Through a file of the host: the one in memory needs memory itself. */
static vd_error
use_child(const char *path)
{
    struct vd_posix_file *file;
    struct vd_image *image;
    struct vd_parent_paths paths = {.count = 0};
    vd_error error = vd_posix_file_open(AT_FDCWD, path, true, &file);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = open_as(&file->file, true, &image);
    if (error == ERROR_SUCCESS) {
        error = vd_vhd_format.parent_paths(image, &paths);
        vd_vhd_format.parent_paths_free(&paths);
        if (error == ERROR_SUCCESS) {
            error = vd_vhd_format.write(image, buffer, 512, 512);
        }
        vd_error closed = vd_vhd_format.close(image);
        error = error != ERROR_SUCCESS ? error : closed;
    }
    vd_posix_file_close(file);
    return error;
}

static void
make_on_host(const char *path, const struct vd_vhd_create_request *request)
{
    struct vd_posix_file *file;
    check_write_file(path, "", 0);
    CHECK_OK(vd_posix_file_open(AT_FDCWD, path, true, &file));
    CHECK_OK(vd_vhd_create(&file->file, request));
    vd_posix_file_close(file);
}

static void
want_of_memory_is_reported(const char *directory)
{
    const char *path = check_path(directory, "memory.vhd");
    struct vd_vhd_create_request request =
        create_request(VHD_TYPE_DIFFERENCING, 10 * MIB);
    request.relative_path = u".\\p.vhd";
    request.absolute_path = u"C:\\p.vhd";
    vd_error error = NO_MEMORY;
    for (int n = 0; error != ERROR_SUCCESS && n < 100; n++) {
        make_on_host(path, &request);
        check_fail_allocation(n);
        error = use_child(path);
        bool failed = check_fail_allocation(-1);
        CHECK_EQ(failed ? NO_MEMORY : 0, error);
        CHECK(failed || n > 8);
        CHECK_OK(use_child(path));
    }
    CHECK_OK(error);
}

/* Block numbers are those of sectors, in 32 bits. */
static void
the_table_reaches_two_tebibytes(const char *directory)
{
    const char *path = check_path(directory, "large.vhd");
    uint32_t last = 0xFFFFFFFE - 4097 * 2;
    struct build build = {.size = 10 * MIB, .block_size = 2 * MIB, .type = 3};
    struct vd_posix_file *file;
    struct vd_image *image;
    check_write_file(path, "", 0);
    CHECK_OK(vd_posix_file_open(AT_FDCWD, path, true, &file));
    if (vd_file_truncate(&file->file, 3ull << 40) != ERROR_SUCCESS) {
        check_skip("the file system has no files of 3 TiB");
    }
    CHECK_OK(vd_file_truncate(&file->file, 0));
    build_image(&file->file, &build, (last + 4097ull) * 512);
    build_entry(&file->file, 4, last);
    CHECK_OK(open_as(&file->file, true, &image));
    check_extent(image, 8 * MIB, 512, VD_EXTENT_PRESENT, last * 512ull + 512,
                 512);
    CHECK_OK(vd_vhd_format.write(image, buffer, 512, 0));
    check_extent(image, 0, 512, VD_EXTENT_PRESENT, (last + 4098ull) * 512,
                 512);
    CHECK_OK(vd_vhd_format.write(image, buffer, 512, 2 * MIB));
    CHECK_EQ(ALLOCATION_FAILURE,
             vd_vhd_format.write(image, buffer, 512, 4 * MIB));
    CHECK_OK(vd_vhd_format.zero(image, 4 * MIB, 2 * MIB, false));
    CHECK_OK(vd_vhd_format.close(image));
    CHECK_OK(open_as(&file->file, false, &image));
    check_extent(image, 2 * MIB, 512, VD_EXTENT_PRESENT,
                 0xFFFFFFFEull * 512 + 512, 512);
    CHECK_OK(vd_vhd_format.close(image));
    vd_posix_file_close(file);
    CHECK_EQ(0, unlink(path));
}

/* ---- many readers, one mutator ---- */

#define THREAD_BLOCKS 64

struct shared {
    struct vd_image *image;
    _Atomic bool done;
};

/* Whatever is present holds what has been written there: the block's number
 * in all bytes. */
static void *
read_all(void *argument)
{
    struct shared *shared = argument;
    while (!atomic_load(&shared->done)) {
        for (uint64_t sector = 0; sector < THREAD_BLOCKS * 1024; sector += 7) {
            struct vd_extent extent;
            uint8_t found[512];
            vd_error error = vd_vhd_format.lookup(shared->image, sector * 512,
                                                  512, &extent);
            if (error == ERROR_SUCCESS && extent.state == VD_EXTENT_PRESENT) {
                error = vd_file_pread(shared->image->file, found, 512,
                                      extent.file_offset);
                if (found[0] != sector / 1024 + 1 || found[511] != found[0]) {
                    CHECK_EQ(sector / 1024 + 1, found[0]);
                }
            }
            if (error != ERROR_SUCCESS) {
                CHECK_OK(error);
            }
        }
    }
    return NULL;
}

static void
write_blocks(struct vd_image *image)
{
    uint8_t sectors[24 * 512];
    for (uint64_t i = 0; i < THREAD_BLOCKS * 40; i++) {
        uint64_t block = i * 29 % THREAD_BLOCKS;
        memset(sectors, (int)block + 1, sizeof(sectors));
        CHECK_OK(vd_vhd_format.write(image, sectors, sizeof(sectors),
                                     block * 512 * KIB +
                                         i / THREAD_BLOCKS * 25 * 512));
        if (i % 97 == 0) {
            CHECK_OK(vd_vhd_format.commit(image));
        }
    }
}

static void
readers_need_no_lock(const char *directory)
{
    const char *path = check_path(directory, "threads.vhd");
    struct vd_vhd_create_request request =
        create_request(VHD_TYPE_DIFFERENCING, THREAD_BLOCKS * 512 * KIB);
    request.block_size = VHD_SMALL_BLOCK_SIZE;
    request.relative_path = u".\\p.vhd";
    struct vd_posix_file *file;
    struct shared shared = {.done = false};
    pthread_t threads[3];
    make_on_host(path, &request);
    CHECK_OK(vd_posix_file_open(AT_FDCWD, path, true, &file));
    CHECK_OK(open_as(&file->file, true, &shared.image));
    for (size_t i = 0; i < 3; i++) {
        CHECK_EQ(0, pthread_create(&threads[i], NULL, read_all, &shared));
    }
    write_blocks(shared.image);
    atomic_store(&shared.done, true);
    for (size_t i = 0; i < 3; i++) {
        CHECK_EQ(0, pthread_join(threads[i], NULL));
    }
    CHECK_OK(vd_vhd_format.close(shared.image));
    vd_posix_file_close(file);
}

int
main(int argc, char **argv)
{
    const char *directory = argc > 1 ? argv[1] : ".";
    memset(buffer, 0xAB, sizeof(buffer));
    blocks_land_where_windows_puts_them();
    space_comes_back();
    zeros_of_children_take_space();
    bitmaps_of_dynamic_disks_become_full();
    unaligned_files_stay_unaligned();
    a_full_host_damages_nothing();
    a_failed_barrier_ends_it();
    want_of_memory_is_reported(directory);
    readers_need_no_lock(directory);
    the_table_reaches_two_tebibytes(directory);
    return check_result();
}
