/*
 * Disks made of several images, on real files: chains of VHDX, their search
 * for parents, many threads at once, and what is left after a close.
 *
 * (VHD chains go through the same code; the formats have tests of their
 * own.)
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/posix_file.h"
#include "check.h"
#include "disk/disk.h"
#include "format/format.h"
#include "format/vhdx_create.h"
#include "random.h"

#define MIB (1024u * 1024u)
#define SIZE (24ull * MIB)
#define THREADS 8
#define SHARE (SIZE / THREADS)

static const char *directory;

static const char *
path_of(const char *name)
{
    return check_path(directory, name);
}

/* The DataWriteGuid of an image, from its greater header. */
static struct vd_guid
data_write_guid(const char *name)
{
    uint8_t headers[2][4096];
    struct vd_guid guid;
    int fd = open(path_of(name), O_RDONLY | O_CLOEXEC);
    if (fd < 0 || pread(fd, headers[0], 4096, 65536) != 4096 ||
        pread(fd, headers[1], 4096, 131072) != 4096) {
        check_broken("reading headers");
    }
    close(fd);
    unsigned slot = vd_get_le64(headers[1] + 8) > vd_get_le64(headers[0] + 8);
    memcpy(&guid, headers[slot] + 32, sizeof(guid));
    return guid;
}

/* Of the last image made; its identifiers follow from it. */
static uint8_t serial;

static void
make(const char *name, const char16_t *parent, const char *parent_name,
     uint32_t block_size)
{
    struct vhdx_create_request request = {
        .size_bytes = SIZE,
        .block_size = block_size,
        .logical_sector_size = 512,
        .physical_sector_size = 4096,
        .has_parent = parent != NULL,
        .relative_path = parent,
        .creator = u"virtdisk",
    };
    serial++;
    memset(&request.file_write_guid, serial, VD_GUID_SIZE);
    memset(&request.data_write_guid, 0x80 + serial, VD_GUID_SIZE);
    memset(&request.virtual_disk_id, 1, VD_GUID_SIZE);
    if (parent != NULL) {
        request.parent_linkage = data_write_guid(parent_name);
    }
    const char *path = path_of(name);
    unlink(path);
    check_write_file(path, "", 0);
    struct vd_posix_file *file;
    CHECK_OK(vd_posix_file_open(AT_FDCWD, path, true, &file));
    CHECK_OK(vd_vhdx_create(&file->file, &request));
    vd_posix_file_close(file);
}

static vd_error
look(const char *name, struct vd_disk **out)
{
    struct vd_disk_options options = {.writable = true};
    return vd_disk_open(path_of(name), &options, out);
}

static struct vd_disk *
open_live(const char *name, bool writable)
{
    struct vd_disk *view, *live = NULL;
    struct vd_disk_files files;
    if (!CHECK_OK(look(name, &view))) {
        exit(check_result());
    }
    CHECK_OK(vd_disk_reopen(view, writable, &files));
    CHECK_OK(vd_disk_open_files(&files, writable, &live));
    vd_disk_close(view);
    return live;
}

static void
write_all(const char *name, uint8_t *model, uint64_t seed, unsigned count)
{
    struct vd_disk *disk = open_live(name, true);
    struct random random = {seed};
    for (unsigned i = 0; i < count; i++) {
        uint64_t length = 512 * (1 + random_below(&random, 200));
        uint64_t offset = 512 * random_below(&random, (SIZE - length) / 512);
        if (random_below(&random, 4) == 0) {
            CHECK_OK(vd_disk_zero(disk, offset, length,
                                  random_below(&random, 2) == 0));
            memset(model + offset, 0, length);
            continue;
        }
        for (uint64_t at = 0; at < length; at += 8) {
            uint64_t value = random_next(&random);
            memcpy(model + offset + at, &value, 8);
        }
        CHECK_OK(vd_disk_write(disk, model + offset, length, offset));
        if (random_below(&random, 8) == 0) {
            CHECK_OK(vd_disk_flush(disk));
        }
    }
    vd_disk_close(disk);
}

static void
compare(const char *name, const uint8_t *model)
{
    struct vd_disk *disk = open_live(name, false);
    uint8_t *buffer = malloc(MIB);
    for (uint64_t at = 0; at < SIZE; at += MIB) {
        CHECK_OK(vd_disk_read(disk, buffer, MIB, at));
        if (!CHECK_BYTES(model + at, buffer, MIB)) {
            break;
        }
    }
    free(buffer);
    vd_disk_close(disk);
}

/* Three deep, other block sizes in each, every layer written in its turn. */
static void
test_three_deep(uint8_t *model)
{
    make("base.vhdx", NULL, NULL, MIB);
    memset(model, 0, SIZE);
    write_all("base.vhdx", model, 1, 300);
    compare("base.vhdx", model);
    make("middle.vhdx", u".\\base.vhdx", "base.vhdx", 2 * MIB);
    compare("middle.vhdx", model);
    write_all("middle.vhdx", model, 2, 200);
    compare("middle.vhdx", model);
    make("leaf.vhdx", u".\\MIDDLE.vhdx", "middle.vhdx", MIB);
    write_all("leaf.vhdx", model, 3, 200);
    compare("leaf.vhdx", model);
    write_all("leaf.vhdx", model, 4, 100);
    compare("leaf.vhdx", model);
}

static void
test_layers(void)
{
    struct vd_disk *disk;
    if (CHECK_OK(look("leaf.vhdx", &disk))) {
        CHECK_EQ(3, vd_disk_layers(disk));
        CHECK_STR(path_of("base.vhdx"), vd_disk_layer_path(disk, 2));
        CHECK(vd_disk_complete(disk));
        vd_disk_close(disk);
    }
}

/* ---- what is wrong with a chain ---- */

static vd_error
outcome(const char *name)
{
    struct vd_disk *disk;
    vd_error error = look(name, &disk);
    if (error == ERROR_SUCCESS) {
        vd_disk_close(disk);
    }
    return error;
}

static void
rename_file(const char *from, const char *to)
{
    if (rename(path_of(from), path_of(to)) < 0) {
        check_broken("rename");
    }
}

static void
test_broken_chains(void)
{
    rename_file("middle.vhdx", "gone.vhdx");
    CHECK_EQ(ERROR_VHD_PARENT_VHD_NOT_FOUND, outcome("leaf.vhdx"));
    rename_file("gone.vhdx", "middle.vhdx");
    rename_file("base.vhdx", "gone.vhdx");
    CHECK_EQ(ERROR_VHD_PARENT_VHD_NOT_FOUND, outcome("middle.vhdx"));
    CHECK_EQ(ERROR_VHD_DIFFERENCING_CHAIN_ERROR_IN_PARENT,
             outcome("leaf.vhdx"));
    /* A symbolic link is not followed. */
    if (symlink("gone.vhdx", path_of("base.vhdx")) < 0) {
        check_broken("symlink");
    }
    CHECK(outcome("middle.vhdx") != ERROR_SUCCESS);
    unlink(path_of("base.vhdx"));
    rename_file("gone.vhdx", "base.vhdx");
    CHECK_OK(outcome("leaf.vhdx"));
}

static void
test_changed_parent(void)
{
    uint8_t sector[512] = {1};
    make("other.vhdx", NULL, NULL, MIB);
    make("child.vhdx", u".\\other.vhdx", "other.vhdx", MIB);
    CHECK_OK(outcome("child.vhdx"));
    struct vd_disk *disk = open_live("other.vhdx", true);
    CHECK_OK(vd_disk_write(disk, sector, sizeof(sector), 0));
    vd_disk_close(disk);
    CHECK_EQ(ERROR_VHD_CHILD_PARENT_ID_MISMATCH, outcome("child.vhdx"));
}

static void
test_no_parents(void)
{
    struct vd_disk *disk;
    struct vd_disk_options options = {.no_parents = true};
    if (!CHECK_OK(vd_disk_open(path_of("leaf.vhdx"), &options, &disk))) {
        return;
    }
    uint8_t sector[512];
    CHECK(!vd_disk_complete(disk));
    CHECK_EQ(1, vd_disk_layers(disk));
    CHECK_EQ(ERROR_VHD_CHILD_PARENT_ID_MISMATCH,
             vd_disk_add_parent(disk, path_of("base.vhdx")));
    CHECK_OK(vd_disk_add_parent(disk, path_of("middle.vhdx")));
    CHECK_OK(vd_disk_add_parent(disk, path_of("base.vhdx")));
    CHECK_EQ(ERROR_VHD_INVALID_TYPE,
             vd_disk_add_parent(disk, path_of("base.vhdx")));
    CHECK_OK(vd_disk_read(disk, sector, sizeof(sector), 0));
    CHECK_EQ(ERROR_WRITE_PROTECT,
             vd_disk_write(disk, sector, sizeof(sector), 0));
    vd_disk_close(disk);
}

/* ---- a parent below the child's directory ---- */

static void
check_below(const char *parent)
{
    struct vd_disk *disk;
    if (CHECK_OK(look("above.vhdx", &disk))) {
        CHECK_STR(path_of(parent), vd_disk_layer_path(disk, 1));
        vd_disk_close(disk);
    }
}

/* The child was made where case makes no difference, in no component; an
 * exact name comes before others, and others count only if there is one. */
static void
test_parent_below_the_child(void)
{
    mkdir(path_of("down"), 0700);
    mkdir(path_of("down/deeper"), 0700);
    make("down/deeper/base.vhdx", NULL, NULL, MIB);
    make("above.vhdx", u".\\Down\\.\\DEEPER\\\\Base.VHDX",
         "down/deeper/base.vhdx", MIB);
    check_below("down/deeper/base.vhdx");
    mkdir(path_of("DOWN"), 0700);
    CHECK_EQ(ERROR_VHD_PARENT_VHD_NOT_FOUND, outcome("above.vhdx"));
    rename_file("down", "Down");
    check_below("Down/deeper/base.vhdx");
    rename_file("Down/deeper", "moved");
    CHECK_EQ(ERROR_VHD_PARENT_VHD_NOT_FOUND, outcome("above.vhdx"));
    if (symlink("../moved", path_of("Down/deeper")) < 0) {
        check_broken("symlink");
    }
    CHECK_EQ(ERROR_VHD_DIFFERENCING_CHAIN_ERROR_IN_PARENT,
             outcome("above.vhdx"));
}

/* ---- a parent outside the child's directory ---- */

static void
set_root(const char *name)
{
    if (setenv("VIRTDISK_PARENT_ROOTS", path_of(name), 1) < 0) {
        check_broken("setenv");
    }
}

static void
check_parent(const char *root, const char *child, const char *parent)
{
    struct vd_disk *disk;
    set_root(root);
    if (CHECK_OK(look(child, &disk))) {
        CHECK_EQ(2, vd_disk_layers(disk));
        CHECK_STR(path_of(parent), vd_disk_layer_path(disk, 1));
        vd_disk_close(disk);
    }
    unsetenv("VIRTDISK_PARENT_ROOTS");
}

static vd_error
outcome_below(const char *root, const char *child)
{
    set_root(root);
    vd_error error = outcome(child);
    unsetenv("VIRTDISK_PARENT_ROOTS");
    return error;
}

static void
make_two_directories(void)
{
    mkdir(path_of("parents"), 0700);
    mkdir(path_of("parents/sub"), 0700);
    mkdir(path_of("children"), 0700);
    make("parents/up.vhdx", NULL, NULL, MIB);
    make("parents/sub/deep.vhdx", NULL, NULL, MIB);
    make("children/one.vhdx", u"..\\parents\\up.vhdx", "parents/up.vhdx", MIB);
    make("children/case.vhdx", u"..\\parents\\sub\\DEEP.VHDX",
         "parents/sub/deep.vhdx", MIB);
}

static void
test_parent_below_a_root(void)
{
    unsetenv("VIRTDISK_PARENT_ROOTS");
    CHECK_EQ(ERROR_VHD_PARENT_VHD_NOT_FOUND, outcome("children/one.vhdx"));
    CHECK_EQ(ERROR_VHD_PARENT_VHD_NOT_FOUND, outcome("children/case.vhdx"));
    CHECK_EQ(ERROR_VHD_PARENT_VHD_NOT_FOUND,
             outcome_below("children", "children/case.vhdx"));
    check_parent("parents", "children/one.vhdx", "parents/up.vhdx");
    check_parent(".", "children/one.vhdx", "parents/up.vhdx");
    check_parent("parents", "children/case.vhdx", "parents/sub/deep.vhdx");
    check_parent("parents/sub/", "children/case.vhdx",
                 "parents/sub/deep.vhdx");
}

/* What lies at the place counts, not what has its name beside the child; but
 * that is still found if there is nothing better. */
static void
test_place_before_name(void)
{
    make("children/up.vhdx", NULL, NULL, MIB);
    check_parent("parents", "children/one.vhdx", "parents/up.vhdx");
    CHECK_EQ(ERROR_VHD_CHILD_PARENT_ID_MISMATCH, outcome("children/one.vhdx"));
    rename_file("parents/up.vhdx", "children/up.vhdx");
    check_parent("parents", "children/one.vhdx", "children/up.vhdx");
    rename_file("children/up.vhdx", "parents/up.vhdx");
}

static void
test_roots_follow_no_links(void)
{
    rename_file("parents/sub", "parents/moved");
    if (symlink("moved", path_of("parents/sub")) < 0) {
        check_broken("symlink");
    }
    CHECK_EQ(ERROR_VHD_DIFFERENCING_CHAIN_ERROR_IN_PARENT,
             outcome_below("parents", "children/case.vhdx"));
    unlink(path_of("parents/sub"));
    rename_file("parents/moved", "parents/sub");
    rename_file("parents/sub/deep.vhdx", "parents/moved.vhdx");
    if (symlink("../moved.vhdx", path_of("parents/sub/DEEP.VHDX")) < 0) {
        check_broken("symlink");
    }
    CHECK_EQ(ERROR_VHD_DIFFERENCING_CHAIN_ERROR_IN_PARENT,
             outcome_below("parents", "children/case.vhdx"));
    unlink(path_of("parents/sub/DEEP.VHDX"));
    rename_file("parents/moved.vhdx", "parents/sub/deep.vhdx");
    check_parent("parents", "children/case.vhdx", "parents/sub/deep.vhdx");
    if (symlink("parents", path_of("link")) < 0) {
        check_broken("symlink");
    }
    check_parent("link", "children/case.vhdx", "parents/sub/deep.vhdx");
}

/* The same checks as beside the child. */
static void
test_roots_hold_no_parent(void)
{
    make("children/seed.vhdx", NULL, NULL, MIB);
    serial--; /* what the next one expects of its parent is its own */
    make("children/loop.vhdx", u"..\\children\\loop.vhdx",
         "children/seed.vhdx", MIB);
    make("children/fifo.vhdx", u"..\\children\\pipe", "base.vhdx", MIB);
    make("children/other.vhdx", u"..\\parents\\up.vhdx", "base.vhdx", MIB);
    unlink(path_of("children/up.vhdx"));
    if (mkfifo(path_of("children/pipe"), 0600) < 0) {
        check_broken("mkfifo");
    }
    CHECK_EQ(ERROR_VHD_DIFFERENCING_CHAIN_CYCLE_DETECTED,
             outcome_below(".", "children/loop.vhdx"));
    CHECK_EQ(ERROR_VHD_DIFFERENCING_CHAIN_ERROR_IN_PARENT,
             outcome_below(".", "children/fifo.vhdx"));
    CHECK_EQ(ERROR_VHD_CHILD_PARENT_ID_MISMATCH,
             outcome_below(".", "children/other.vhdx"));
    rename_file("parents/up.vhdx", "parents/gone.vhdx");
    CHECK_EQ(ERROR_VHD_PARENT_VHD_NOT_FOUND,
             outcome_below(".", "children/one.vhdx"));
    rename_file("parents/gone.vhdx", "parents/up.vhdx");
}

/* ---- where it would be looked for ---- */

static void
check_candidates(const char *root, size_t expected, const char *const *names)
{
    struct vd_disk *disk;
    struct vd_disk_options options = {.no_parents = true};
    char **found = NULL;
    size_t count = 0;
    set_root(root);
    if (!CHECK_OK(
            vd_disk_open(path_of("children/one.vhdx"), &options, &disk))) {
        return;
    }
    CHECK_OK(vd_disk_parent_candidates(disk, &found, &count));
    if (CHECK_EQ(expected, count)) {
        for (size_t i = 0; i < count; i++) {
            CHECK_STR(path_of(names[i]), found[i]);
        }
    }
    while (count > 0) {
        free(found[--count]);
    }
    free(found);
    vd_disk_close(disk);
    unsetenv("VIRTDISK_PARENT_ROOTS");
}

static void
test_candidates(void)
{
    static const char *const names[] = {"parents/up.vhdx", "children/up.vhdx"};
    check_candidates("parents", 2, names);
    check_candidates("children", 1, names + 1);
}

/* ---- nothing changes that nobody writes ---- */

static uint64_t
digest(const char *name)
{
    uint64_t hash = 14695981039346656037u;
    static uint8_t buffer[MIB];
    int fd = open(path_of(name), O_RDONLY | O_CLOEXEC);
    ssize_t got;
    while ((got = read(fd, buffer, sizeof(buffer))) > 0) {
        for (ssize_t i = 0; i < got; i++) {
            hash = (hash ^ buffer[i]) * 1099511628211u;
        }
    }
    close(fd);
    return hash;
}

static void
test_unmodified_stays(void)
{
    uint64_t before = digest("leaf.vhdx");
    uint8_t sector[512];
    struct vd_disk *disk = open_live("leaf.vhdx", true);
    CHECK_OK(vd_disk_read(disk, sector, sizeof(sector), 4096));
    CHECK_OK(vd_disk_flush(disk));
    vd_disk_close(disk);
    CHECK_EQ(before, digest("leaf.vhdx"));
}

/* ---- many threads ---- */

struct worker {
    pthread_t thread;
    struct vd_disk *disk;
    uint8_t *model;
    uint64_t start;
    uint64_t seed;
    bool good;
};

static void *
work(void *argument)
{
    struct worker *worker = argument;
    struct random random = {worker->seed};
    uint8_t *buffer = malloc(256 * 512);
    worker->good = true;
    for (unsigned i = 0; i < 400 && worker->good; i++) {
        uint64_t length = 512 * (1 + random_below(&random, 255));
        uint64_t offset = worker->start +
                          512 * random_below(&random, (SHARE - length) / 512);
        vd_error error;
        switch (random_below(&random, 10)) {
        case 0:
            error = vd_disk_flush(worker->disk);
            break;
        case 1:
        case 2:
            error = vd_disk_zero(worker->disk, offset, length, true);
            memset(worker->model + offset, 0, length);
            break;
        case 3:
        case 4:
        case 5:
            error = vd_disk_read(worker->disk, buffer, length, offset);
            worker->good = memcmp(buffer, worker->model + offset, length) == 0;
            break;
        default:
            for (uint64_t at = 0; at < length; at += 8) {
                uint64_t value = random_next(&random);
                memcpy(worker->model + offset + at, &value, 8);
            }
            error = vd_disk_write(worker->disk, worker->model + offset, length,
                                  offset);
        }
        worker->good = worker->good && error == ERROR_SUCCESS;
    }
    free(buffer);
    return NULL;
}

static void
test_threads(const char *name, uint8_t *model)
{
    struct worker workers[THREADS];
    struct vd_disk *disk = open_live(name, true);
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.disk = disk,
                                     .model = model,
                                     .start = i * SHARE,
                                     .seed = 1000 + i};
        pthread_create(&workers[i].thread, NULL, work, &workers[i]);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(workers[i].thread, NULL);
        CHECK(workers[i].good);
    }
    vd_disk_close(disk);
    compare(name, model);
}

int
main(int argc, char **argv)
{
    uint8_t *model = malloc(SIZE);
    if (argc < 2 || model == NULL) {
        check_broken("no scratch directory");
    }
    directory = argv[1];
    test_three_deep(model);
    test_layers();
    test_broken_chains();
    test_changed_parent();
    test_parent_below_the_child();
    test_no_parents();
    make_two_directories();
    test_parent_below_a_root();
    test_place_before_name();
    test_roots_follow_no_links();
    test_roots_hold_no_parent();
    test_candidates();
    test_unmodified_stays();
    test_threads("leaf.vhdx", model);
    make("flat.vhdx", NULL, NULL, MIB);
    memset(model, 0, SIZE);
    test_threads("flat.vhdx", model);
    free(model);
    return check_result();
}
