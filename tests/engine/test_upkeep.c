/*
 * Compacting a disk that is attached for reading (disk/upkeep.h): readers go
 * on, the locks are there all the time, and what is not the image, or cannot
 * be written, is refused.  Run under ThreadSanitizer too.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/posix_file.h"
#include "check.h"
#include "disk/image_lock.h"
#include "disk/upkeep.h"
#include "format/format.h"
#include "random.h"

#define MIB ((uint64_t)1 << 20)
#define SIZE (24 * MIB)
#define PIECE ((size_t)65536)
#define READERS 3

static const char *directory;
static uint8_t *content;

static const struct vd_compact_options all = {.no_zero_scan = false};

/* ---- images ---- */

static struct vd_disk *
open_disk(const char *path, bool writable)
{
    struct vd_disk_options options = {.writable = writable};
    struct vd_disk_files files;
    struct vd_disk *view, *disk;
    if (!CHECK_OK(vd_disk_open(path, &options, &view)) ||
        !CHECK_OK(vd_disk_reopen(view, writable, &files)) ||
        !CHECK_OK(vd_image_lock(files.fds[0],
                                writable ? VD_LOCK_WRITE : VD_LOCK_READ)) ||
        !CHECK_OK(vd_disk_open_files(&files, writable, &disk))) {
        check_broken(path);
    }
    vd_disk_close(view);
    return disk;
}

static void
create(const char *path, const struct vd_format *format)
{
    struct vd_create_request request = {
        .subtype = VD_SUBTYPE_DYNAMIC,
        .size_bytes = SIZE,
        .block_size = format == &vd_vhd_format ? 512 * 1024 : (uint32_t)MIB,
    };
    struct vd_posix_file *file;
    memset(&request.identifier, 1, VD_GUID_SIZE);
    memset(&request.session, 2, sizeof(request.session));
    request.session.log_sequence = 7;
    check_write_file(path, "", 0);
    if (!CHECK_OK(vd_posix_file_open(AT_FDCWD, path, true, &file)) ||
        !CHECK_OK(format->create_defaults(&request)) ||
        !CHECK_OK(format->create(&file->file, &request))) {
        check_broken(path);
    }
    vd_posix_file_close(file);
}

/* Data everywhere, and then zeros over all but every third MiB. */
static const char *
make_image(const char *name, const struct vd_format *format)
{
    const char *path = check_path(directory, name);
    create(path, format);
    struct vd_disk *disk = open_disk(path, true);
    for (uint64_t at = 0; at < SIZE; at += MIB) {
        memset(content + at, (int)(at / MIB) + 1, (size_t)MIB);
        CHECK_OK(vd_disk_write(disk, content + at, (size_t)MIB, at));
    }
    for (uint64_t at = 0; at < SIZE; at += MIB) {
        if (at / MIB % 3 != 0) {
            memset(content + at, 0, (size_t)MIB);
            CHECK_OK(vd_disk_write(disk, content + at, (size_t)MIB, at));
        }
    }
    CHECK_OK(vd_disk_finish(disk));
    return path;
}

static uint64_t
size_of(struct vd_disk *disk)
{
    uint64_t size = 0;
    CHECK_OK(vd_disk_file_size(disk, &size));
    return size;
}

static void
check_content(struct vd_disk *disk)
{
    uint8_t *now = malloc((size_t)SIZE);
    CHECK_OK(vd_disk_read(disk, now, (size_t)SIZE, 0));
    CHECK_BYTES(content, now, (size_t)SIZE);
    free(now);
}

static int
open_image(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC);
    if (fd < 0) {
        check_broken(path);
    }
    return fd;
}

/* ---- readers ---- */

struct reader {
    pthread_t thread;
    struct vd_disk *disk;
    uint64_t seed;
    atomic_bool *stop;
    unsigned wrong;
};

static void *
read_on(void *argument)
{
    struct reader *reader = argument;
    struct random random = {reader->seed};
    uint8_t *piece = malloc(PIECE);
    while (!atomic_load(reader->stop)) {
        uint64_t at = random_below(&random, SIZE - PIECE);
        if (vd_disk_read(reader->disk, piece, PIECE, at) != ERROR_SUCCESS ||
            memcmp(piece, content + at, PIECE) != 0) {
            reader->wrong++;
        }
    }
    free(piece);
    return NULL;
}

static void
readers_notice_nothing(const char *name, const struct vd_format *format)
{
    const char *path = make_image(name, format);
    struct vd_disk *disk = open_disk(path, false);
    struct reader readers[READERS];
    atomic_bool stop = false;
    uint64_t before = size_of(disk);
    int fd = open_image(path, O_RDWR);
    int other = open_image(path, O_RDWR);
    for (unsigned i = 0; i < READERS; i++) {
        readers[i] = (struct reader){
            .disk = disk, .seed = i + 1, .stop = &stop, .wrong = 0};
        pthread_create(&readers[i].thread, NULL, read_on, &readers[i]);
    }
    for (unsigned n = 0; n < 3; n++) { /* the later ones have little to do */
        struct vd_progress progress = {.current = 0};
        CHECK_OK(vd_disk_compact_attached(disk, fd, &all, &progress));
        CHECK_EQ(atomic_load(&progress.completion),
                 atomic_load(&progress.current));
        CHECK_EQ(ERROR_SHARING_VIOLATION, vd_image_lock(other, VD_LOCK_WRITE));
    }
    atomic_store(&stop, true);
    for (unsigned i = 0; i < READERS; i++) {
        pthread_join(readers[i].thread, NULL);
        CHECK_EQ(0, readers[i].wrong);
    }
    CHECK(size_of(disk) + 15 * MIB <= before);
    CHECK(!vd_disk_info(disk)->log_dirty);
    check_content(disk);
    CHECK_OK(vd_disk_finish(disk));
    CHECK_OK(vd_image_lock(other, VD_LOCK_WRITE)); /* nothing is left */
    close(other);
    close(fd);
    disk = open_disk(path, true);
    check_content(disk);
    CHECK_OK(vd_disk_finish(disk));
}

/* ---- what is refused ---- */

static void
only_the_image_open_for_writing(void)
{
    const char *path = make_image("refused.vhdx", &vd_vhdx_format);
    struct vd_disk *disk = open_disk(path, false);
    uint64_t before = size_of(disk);
    int fd = open_image(path, O_RDONLY);
    CHECK_EQ(ERROR_INVALID_PARAMETER,
             vd_disk_compact_attached(disk, fd, &all, NULL));
    close(fd);
    check_write_file(check_path(directory, "other"), "other", 5);
    fd = open_image(check_path(directory, "other"), O_RDWR);
    CHECK_EQ(ERROR_INVALID_PARAMETER,
             vd_disk_compact_attached(disk, fd, &all, NULL));
    close(fd);
    fd = open_image(directory, O_RDONLY);
    CHECK_EQ(ERROR_INVALID_PARAMETER,
             vd_disk_compact_attached(disk, fd, &all, NULL));
    close(fd);
    fd = open_image(path, O_RDWR);
    int child = open_image(path, O_RDONLY); /* of another disk */
    CHECK_OK(vd_image_lock(child, VD_LOCK_PARENT));
    CHECK_EQ(ERROR_SHARING_VIOLATION,
             vd_disk_compact_attached(disk, fd, &all, NULL));
    close(child);
    CHECK_EQ(before, size_of(disk));
    check_content(disk);
    CHECK_OK(vd_disk_finish(disk));
    disk = open_disk(path, true);
    CHECK_EQ(ERROR_VHD_INVALID_STATE,
             vd_disk_compact_attached(disk, fd, &all, NULL));
    CHECK_OK(vd_disk_finish(disk));
    close(fd);
}

/* Without memory it does not begin, or goes on to the end; the disk can be
 * read in any case. */
static void
want_of_memory_harms_nobody(void)
{
    const char *path = make_image("memory.vhdx", &vd_vhdx_format);
    struct vd_disk *disk = open_disk(path, false);
    bool failed = true;
    for (int n = 0; failed; n++) {
        int fd = open_image(path, O_RDWR);
        check_fail_allocation(n);
        vd_error error = vd_disk_compact_attached(disk, fd, &all, NULL);
        failed = check_fail_allocation(-1);
        close(fd);
        CHECK(error == ERROR_SUCCESS ||
              (failed && error == ERROR_NOT_ENOUGH_MEMORY));
        check_content(disk);
        /* One that could not look again afterwards is opened anew. */
        CHECK_OK(vd_disk_finish(disk));
        disk = open_disk(path, false);
        CHECK(failed || n > 3);
    }
    check_content(disk);
    CHECK_OK(vd_disk_finish(disk));
}

int
main(int argc, char **argv)
{
    if (argc != 2) {
        return 2;
    }
    directory = argv[1];
    content = malloc((size_t)SIZE);
    readers_notice_nothing("read.vhdx", &vd_vhdx_format);
    readers_notice_nothing("read.vhd", &vd_vhd_format);
    only_the_image_open_for_writing();
    want_of_memory_harms_nobody();
    free(content);
    return check_result();
}
