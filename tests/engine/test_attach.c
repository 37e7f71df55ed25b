/* One process and its attachments: what the device shows, who may use it,
 * what is written down, and that all of it goes again. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/fs.h>
#include <linux/loop.h>

#include "attach_support.h"
#include "check.h"
#include "vhd_bytes.h"

#define SIZE (1u << 20)

static const char *scratch;

static uint64_t
device_size(int fd)
{
    uint64_t size = 0;
    CHECK_EQ(0, ioctl(fd, BLKGETSIZE64, &size));
    return size;
}

static int
device_sector_size(int fd)
{
    int size = 0;
    CHECK_EQ(0, ioctl(fd, BLKSSZGET, &size));
    return size;
}

static bool
device_read_only(int fd)
{
    int read_only = -1;
    CHECK_EQ(0, ioctl(fd, BLKROGET, &read_only));
    return read_only == 1;
}

static uint32_t
loop_flags(const char *device)
{
    struct loop_info64 info = {.lo_flags = 0};
    int fd = open(device, O_RDONLY | O_CLOEXEC);
    CHECK_EQ(0, ioctl(fd, LOOP_GET_STATUS64, &info));
    close(fd);
    return info.lo_flags;
}

/* -- what is shown -- */

static void
check_shown_vhd(const char *device)
{
    int fd = open(device, O_RDWR | O_CLOEXEC);
    CHECK_EQ(SIZE, device_size(fd));
    CHECK_EQ(512, device_sector_size(fd));
    CHECK(!device_read_only(fd));
    close(fd);
    CHECK(shows_pattern(device, 0, SIZE, 3, 0));
}

static void
a_vhd_is_shown_and_goes(void)
{
    const char *path = check_path(scratch, "plain.vhd");
    make_vhd(path, SIZE, 3);
    struct vd_disk *disk = open_disk(path, true);
    struct vd_attach_request request = plain_request(disk);
    size_t fds = count_fds();
    struct vd_attachment *attachment = attach_or_stop(disk, &request);
    check_shown_vhd(vd_attachment_device(attachment));
    CHECK(!vd_attachment_gone(attachment));
    CHECK_EQ(1, count_devices(scratch, NULL));
    CHECK_EQ(1, count_records());
    vd_attachment_release(attachment);
    CHECK_EQ(0, count_devices(scratch, NULL));
    CHECK_EQ(0, count_records());
    CHECK_EQ(fds, count_fds());
    CHECK(threads_become(1));
    vd_disk_close(disk);
}

static void
what_is_written_reaches_the_image(void)
{
    const char *path = check_path(scratch, "written.vhd");
    uint8_t *sector = aligned_alloc(4096, 4096);
    uint8_t back[4096];
    make_vhd(path, SIZE, 3);
    struct vd_disk *disk = open_disk(path, true);
    struct vd_attach_request request = plain_request(disk);
    struct vd_attachment *attachment = attach_or_stop(disk, &request);
    int fd = open(vd_attachment_device(attachment), O_WRONLY | O_CLOEXEC);
    memset(sector, 0xA5, 4096);
    CHECK_EQ(4096, pwrite(fd, sector, 4096, 8192)); /* no fsync */
    close(fd);
    CHECK_OK(vd_attachment_detach(attachment));
    vd_attachment_release(attachment);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK_EQ(4096, pread(fd, back, 4096, 8192));
    CHECK_BYTES(sector, back, 4096);
    CHECK(shows_pattern(path, 0, 8192, 3, 0));
    close(fd);
    free(sector);
    vd_disk_close(disk);
}

/* The kernel would make a device of what is there. */
static void
a_file_that_is_too_short_is_no_device(void)
{
    const char *path = check_path(scratch, "short.img");
    struct vd_loop_options options = {
        .image_path = path,
        .length = SIZE,
        .sector_size = 512,
    };
    struct vd_loop loop;
    int claim = -1;
    options.image_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK_EQ(0, ftruncate(options.image_fd, SIZE - 512));
    CHECK_EQ(1117, vd_loop_create(&options, &loop, &claim));
    CHECK_EQ(-1, claim);
    CHECK_EQ(0, count_devices(scratch, NULL));
    options.length = 0; /* all of it */
    CHECK_OK(vd_loop_create(&options, &loop, &claim));
    CHECK_EQ(SIZE - 512, device_size(claim));
    close(claim);
    close(options.image_fd);
}

static void
a_disc_is_read_only_with_large_sectors(void)
{
    const char *path = check_path(scratch, "disc.iso");
    make_iso(path, 64);
    struct vd_disk *disk = open_disk(path, false);
    struct vd_attach_request request = plain_request(disk);
    request.read_only = false; /* a disc is, asked for or not */
    struct vd_attachment *attachment = attach_or_stop(disk, &request);
    const char *device = vd_attachment_device(attachment);
    int fd = open(device, O_RDONLY | O_CLOEXEC);
    CHECK_EQ(64 * 2048, device_size(fd));
    CHECK_EQ(2048, device_sector_size(fd));
    CHECK(device_read_only(fd));
    close(fd);
    CHECK(shows_pattern(device, 0, 16 * 2048, 1, 0));
    CHECK(shows_pattern(device, 18 * 2048, 46 * 2048, 1, 18 * 2048));
    CHECK_EQ(0, loop_flags(device) & LO_FLAGS_PARTSCAN);
    vd_attachment_release(attachment);
    vd_disk_close(disk);
}

static void
read_only_leaves_the_image_alone(void)
{
    const char *path = check_path(scratch, "readonly.vhd");
    make_vhd(path, SIZE, 4);
    struct vd_disk *disk = open_disk(path, true);
    struct vd_attach_request request = plain_request(disk);
    request.read_only = true;
    struct vd_attachment *attachment = attach_or_stop(disk, &request);
    const char *device = vd_attachment_device(attachment);
    int fd = open(device, O_RDONLY | O_CLOEXEC);
    int writer = open(device, O_RDWR | O_CLOEXEC); /* if the kernel lets us */
    CHECK(device_read_only(fd));
    CHECK_EQ(-1, write(writer, device, 1));
    close(fd);
    if (writer >= 0) {
        close(writer);
    }
    CHECK(shows_pattern(device, 0, SIZE, 4, 0));
    vd_attachment_release(attachment);
    CHECK(shows_pattern(path, 0, SIZE, 4, 0));
    vd_disk_close(disk);
}

static void
a_window_shows_a_part(void)
{
    const char *path = check_path(scratch, "window.vhd");
    make_vhd(path, SIZE, 5);
    struct vd_disk *disk = open_disk(path, true);
    struct vd_attach_request request = plain_request(disk);
    request.window_offset = 512 * 9;
    request.window_length = 512 * 21;
    struct vd_attachment *attachment = attach_or_stop(disk, &request);
    const char *device = vd_attachment_device(attachment);
    int fd = open(device, O_RDONLY | O_CLOEXEC);
    CHECK_EQ(512 * 21, device_size(fd));
    close(fd);
    CHECK(shows_pattern(device, 0, 512 * 21, 5, 512 * 9));
    vd_attachment_release(attachment);
    vd_disk_close(disk);
}

static void
a_window_outside_is_refused(void)
{
    static const uint64_t windows[][2] = {
        {0, 0},          {1, 512},    {512, 1},
        {0, SIZE + 512}, {SIZE, 512}, {512, UINT64_MAX - 511},
    };
    struct vd_disk *disk = open_disk(check_path(scratch, "window.vhd"), true);
    struct vd_attachment *attachment = NULL;
    for (size_t i = 0; i < sizeof(windows) / sizeof(windows[0]); i++) {
        struct vd_attach_request request = plain_request(disk);
        request.window_offset = windows[i][0];
        request.window_length = windows[i][1];
        CHECK_EQ(ERROR_INVALID_PARAMETER,
                 vd_attach(disk, &request, &attachment));
    }
    CHECK(attachment == NULL);
    vd_disk_close(disk);
}

static void
writing_needs_a_writable_image(void)
{
    struct vd_disk *disk = open_disk(check_path(scratch, "window.vhd"), false);
    struct vd_attach_request request = plain_request(disk);
    struct vd_attachment *attachment = NULL;
    request.read_only = false;
    CHECK_EQ(ERROR_ACCESS_DENIED, vd_attach(disk, &request, &attachment));
    CHECK_EQ(0, count_devices(scratch, NULL));
    vd_disk_close(disk);
}

/* -- direct I/O -- */

static bool
direct_io_works_in(const char *directory)
{
    const char *path = check_path(directory, "direct");
    check_write_file(path, "", 0);
    int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (fd >= 0) {
        close(fd);
    }
    unlink(path);
    return fd >= 0;
}

static bool
uses_direct_io(const char *path, bool cached)
{
    make_vhd(path, SIZE, 6);
    struct vd_disk *disk = open_disk(path, true);
    struct vd_attach_request request = plain_request(disk);
    request.cached_io = cached;
    struct vd_attachment *attachment = attach_or_stop(disk, &request);
    const char *device = vd_attachment_device(attachment);
    bool direct = (loop_flags(device) & LO_FLAGS_DIRECT_IO) != 0;
    CHECK(shows_pattern(device, 0, SIZE, 6, 0));
    vd_attachment_release(attachment);
    vd_disk_close(disk);
    unlink(path);
    return direct;
}

static void
direct_io_where_the_host_can(void)
{
    if (direct_io_works_in(scratch)) {
        CHECK(uses_direct_io(check_path(scratch, "direct.vhd"), false));
    }
    CHECK(!uses_direct_io(check_path(scratch, "cached.vhd"), true));
}

/* ramfs has no direct I/O at all. */
static void
without_direct_io_it_still_works(void)
{
    const char *directory = check_path(scratch, "ramfs");
    if (mkdir(directory, 0700) < 0 ||
        mount("none", directory, "ramfs", 0, NULL) < 0) {
        check_broken("ramfs");
    }
    CHECK(!direct_io_works_in(directory));
    CHECK(!uses_direct_io("/run/ramfs.vhd", true));
    CHECK(!uses_direct_io(check_path(directory, "x.vhd"), false));
    CHECK_EQ(0, umount(directory));
}

/* -- who may use an image at once -- */

static vd_error
try_attach(const char *path, bool read_only)
{
    struct vd_disk *disk = open_disk(path, !read_only);
    struct vd_attach_request request = plain_request(disk);
    struct vd_attachment *attachment = NULL;
    vd_error error = vd_attach(disk, &request, &attachment);
    vd_attachment_release(attachment);
    vd_disk_close(disk);
    return error;
}

static void
an_attached_image_is_not_attached_again(bool read_only)
{
    const char *path = check_path(scratch, "once.vhd");
    const char *other = check_path(scratch, "link.vhd");
    make_vhd(path, SIZE, 7);
    CHECK_EQ(0, link(path, other));
    struct vd_disk *disk = open_disk(path, !read_only);
    struct vd_attach_request request = plain_request(disk);
    struct vd_attachment *attachment = attach_or_stop(disk, &request);
    CHECK_EQ(ERROR_SHARING_VIOLATION, try_attach(path, true));
    CHECK_EQ(ERROR_SHARING_VIOLATION, try_attach(path, false));
    CHECK_EQ(ERROR_SHARING_VIOLATION, try_attach(other, true));
    CHECK_EQ(1, count_devices(scratch, NULL));
    vd_attachment_release(attachment);
    vd_disk_close(disk);
    CHECK_OK(try_attach(other, false));
    unlink(other);
}

/* The records are gone, the locks are not: they live with the device. */
static void
locks_hold_without_records(void)
{
    const char *path = check_path(scratch, "once.vhd");
    struct vd_disk *disk = open_disk(path, true);
    struct vd_attach_request request = plain_request(disk);
    char record[64];
    request.permanent = true;
    struct vd_attachment *attachment = attach_or_stop(disk, &request);
    snprintf(record, sizeof(record), RECORDS "/%s",
             base_name(vd_attachment_device(attachment)));
    vd_disk_close(disk); /* no descriptor of ours is needed */
    CHECK_EQ(0, unlink(record));
    CHECK_EQ(ERROR_SHARING_VIOLATION, try_attach(path, true));
    CHECK(!vd_attachment_gone(attachment));
    CHECK_OK(vd_attachment_detach(attachment));
    CHECK(vd_attachment_gone(attachment));
    CHECK_OK(try_attach(path, true));
    vd_attachment_release(attachment);
}

/* -- without a device -- */

static void
for_the_caller_alone(void)
{
    const char *path = check_path(scratch, "alone.vhd");
    make_vhd(path, SIZE, 8);
    struct vd_disk *disk = open_disk(path, true);
    struct vd_attach_request request = plain_request(disk);
    request.local = false;
    size_t fds = count_fds();
    struct vd_attachment *attachment = attach_or_stop(disk, &request);
    struct vd_attached found;
    CHECK(vd_attachment_device(attachment) == NULL);
    CHECK_EQ(0, count_devices(scratch, NULL));
    CHECK_EQ(ERROR_SHARING_VIOLATION, try_attach(path, true));
    CHECK_OK(vd_attached_find(vd_disk_file_id(disk), &found));
    CHECK_STR(path, found.image_path);
    CHECK(found.device == NULL);
    CHECK(!found.read_only);
    vd_attached_free(&found);
    CHECK_OK(vd_attachment_detach(attachment));
    CHECK(vd_attachment_gone(attachment));
    CHECK_EQ(ERROR_NOT_READY, vd_attachment_detach(attachment));
    CHECK_OK(try_attach(path, false));
    vd_attachment_release(attachment);
    CHECK_EQ(0, count_records());
    CHECK_EQ(fds, count_fds());
    vd_disk_close(disk);
}

static void
a_handle_is_not_for_ever(void)
{
    struct vd_disk *disk = open_disk(check_path(scratch, "alone.vhd"), true);
    struct vd_attach_request request = plain_request(disk);
    struct vd_attachment *attachment = NULL;
    request.local = false;
    request.permanent = true;
    CHECK_EQ(ERROR_NOT_SUPPORTED, vd_attach(disk, &request, &attachment));
    vd_disk_close(disk);
}

/* -- what is known of it -- */

static void
it_is_listed_as_it_was_attached(void)
{
    /* A name with a blank, a line's end, a percent sign and no UTF-8. */
    const char *path = check_path(scratch, "a b\n%\xFF.vhd");
    make_vhd(path, SIZE, 9);
    struct vd_disk *disk = open_disk(path, true);
    struct vd_attach_request request = plain_request(disk);
    struct vd_attached *all = NULL;
    size_t count = 0;
    request.permanent = true;
    request.read_only = true;
    struct vd_attachment *attachment = attach_or_stop(disk, &request);
    CHECK_OK(vd_attached_list(&all, &count));
    if (CHECK_EQ(1, count)) {
        CHECK_STR(path, all[0].image_path);
        CHECK_STR(vd_attachment_device(attachment), all[0].device);
        CHECK_EQ(vd_disk_file_id(disk).inode, all[0].file_id.inode);
        CHECK_EQ(vd_disk_file_id(disk).device, all[0].file_id.device);
        CHECK(all[0].read_only);
        CHECK(all[0].permanent);
        vd_attached_free(&all[0]);
    }
    free(all);
    CHECK_OK(vd_attached_detach(vd_disk_file_id(disk)));
    CHECK_EQ(ERROR_NOT_READY, vd_attached_detach(vd_disk_file_id(disk)));
    CHECK_EQ(ERROR_NOT_READY, vd_attachment_detach(attachment));
    vd_attachment_release(attachment);
    vd_disk_close(disk);
}

static void
nothing_attached_is_nothing_found(void)
{
    struct vd_attached *all = NULL;
    struct vd_attached found;
    size_t count = 42;
    struct vd_file_id nobody = {1, 1};
    CHECK_OK(vd_attached_list(&all, &count));
    CHECK_EQ(0, count);
    free(all);
    CHECK_EQ(ERROR_NOT_FOUND, vd_attached_find(nobody, &found));
    CHECK_EQ(ERROR_NOT_READY, vd_attached_detach(nobody));
    vd_attachment_release(NULL);
}

/* -- permanent -- */

static void
permanent_outlives_its_handle(void)
{
    const char *path = check_path(scratch, "permanent.vhd");
    make_vhd(path, SIZE, 10);
    struct vd_disk *disk = open_disk(path, true);
    struct vd_attach_request request = plain_request(disk);
    size_t fds = count_fds();
    request.permanent = true;
    struct vd_attachment *attachment = attach_or_stop(disk, &request);
    char device[32];
    snprintf(device, sizeof(device), "%s", vd_attachment_device(attachment));
    CHECK_EQ(0, loop_flags(device) & LO_FLAGS_AUTOCLEAR);
    CHECK_EQ(fds, count_fds());
    vd_attachment_release(attachment);
    CHECK_EQ(1, count_devices(scratch, NULL));
    CHECK(shows_pattern(device, 0, SIZE, 10, 0));
    CHECK_OK(vd_attached_detach(vd_disk_file_id(disk)));
    CHECK_EQ(0, count_devices(scratch, NULL));
    CHECK_EQ(0, count_records());
    vd_disk_close(disk);
}

/* -- in use -- */

static void
a_claimed_device_is_busy(bool permanent)
{
    const char *path = check_path(scratch, "claimed.vhd");
    make_vhd(path, SIZE, 11);
    struct vd_disk *disk = open_disk(path, true);
    struct vd_attach_request request = plain_request(disk);
    request.permanent = permanent;
    struct vd_attachment *attachment = attach_or_stop(disk, &request);
    const char *device = vd_attachment_device(attachment);
    uint32_t flags = loop_flags(device);
    int claim = open(device, O_RDONLY | O_EXCL | O_CLOEXEC); /* as mount */
    CHECK_EQ(ERROR_BUSY, vd_attachment_detach(attachment));
    CHECK_EQ(ERROR_BUSY, vd_attached_detach(vd_disk_file_id(disk)));
    CHECK(!vd_attachment_gone(attachment));
    CHECK_EQ(flags, loop_flags(device));
    CHECK(shows_pattern(device, 0, SIZE, 11, 0));
    close(claim);
    CHECK_OK(vd_attachment_detach(attachment));
    CHECK_EQ(0, count_devices(scratch, NULL));
    vd_attachment_release(attachment);
    vd_disk_close(disk);
}

/* Whoever only reads is waited for, and then all is as it was. */
static void
an_open_device_is_busy_and_unchanged(bool permanent)
{
    const char *path = check_path(scratch, "open.vhd");
    make_vhd(path, SIZE, 12);
    struct vd_disk *disk = open_disk(path, true);
    struct vd_attach_request request = plain_request(disk);
    request.permanent = permanent;
    request.access = (struct vd_node_access){true, 12, 34, 0640};
    struct vd_attachment *attachment = attach_or_stop(disk, &request);
    const char *device = vd_attachment_device(attachment);
    struct stat status;
    uint32_t flags = loop_flags(device);
    int reader = open(device, O_RDONLY | O_CLOEXEC);
    CHECK_EQ(ERROR_BUSY, vd_attachment_detach(attachment));
    CHECK_EQ(flags, loop_flags(device));
    CHECK_EQ(1, count_records());
    CHECK(!vd_attachment_gone(attachment));
    CHECK_EQ(0, stat(device, &status));
    CHECK_EQ(12, status.st_uid);
    CHECK_EQ(34, status.st_gid);
    CHECK_EQ(0640, status.st_mode & 07777);
    close(reader);
    CHECK_EQ(1, count_devices(scratch, NULL)); /* we hold it again */
    CHECK_OK(vd_attachment_detach(attachment));
    vd_attachment_release(attachment);
    CHECK_EQ(0, count_devices(scratch, NULL));
    vd_disk_close(disk);
}

/* Released while somebody reads: it goes with the reader. */
static void
a_reader_outlives_the_attachment(void)
{
    struct vd_disk *disk = open_disk(check_path(scratch, "open.vhd"), true);
    struct vd_attach_request request = plain_request(disk);
    struct vd_attached found;
    struct vd_attachment *attachment = attach_or_stop(disk, &request);
    int reader = open(vd_attachment_device(attachment), O_RDONLY | O_CLOEXEC);
    vd_attachment_release(attachment);
    CHECK_EQ(1, count_devices(scratch, NULL));
    CHECK_OK(vd_attached_find(vd_disk_file_id(disk), &found));
    vd_attached_free(&found);
    CHECK_EQ(ERROR_SHARING_VIOLATION,
             try_attach(check_path(scratch, "open.vhd"), true));
    close(reader);
    CHECK_EQ(0, count_devices(scratch, NULL));
    CHECK_EQ(ERROR_NOT_FOUND, vd_attached_find(vd_disk_file_id(disk), &found));
    CHECK_EQ(0, count_records());
    vd_disk_close(disk);
}

/* -- the node -- */

/* A node, and what it is when nobody has the device.  Another program may
 * take that as soon as it is free, and give it the access that it wants. */
struct free_node {
    const char *device;
    struct stat expected;
};

static bool
is_free_as_expected(void *context)
{
    const struct free_node *node = context;
    struct stat status;
    return stat(node->device, &status) == 0 &&
           status.st_uid == node->expected.st_uid &&
           status.st_gid == node->expected.st_gid &&
           status.st_mode == node->expected.st_mode;
}

/* First with the access that its device has, then with one of its own.  That
 * is the same device, the first that is free, unless others are quicker. */
static struct vd_attachment *
attach_twice(struct vd_disk *disk, struct stat *before)
{
    struct vd_attach_request request = plain_request(disk);
    struct vd_attachment *attachment = NULL;
    char device[32] = "";
    bool same = false;
    for (int i = 0; i < 100 && !same; i++) {
        vd_attachment_release(attachment);
        request.access = (struct vd_node_access){.set = false};
        attachment = attach_or_stop(disk, &request);
        snprintf(device, sizeof(device), "%s",
                 vd_attachment_device(attachment));
        CHECK_EQ(0, stat(device, before));
        vd_attachment_release(attachment);
        request.access = (struct vd_node_access){true, 1234, 4321, 0604};
        attachment = attach_or_stop(disk, &request);
        same = strcmp(device, vd_attachment_device(attachment)) == 0;
    }
    CHECK(same);
    return attachment;
}

static void
the_node_gets_its_access_and_loses_it(void)
{
    const char *path = check_path(scratch, "access.vhd");
    make_vhd(path, SIZE, 13);
    struct vd_disk *disk = open_disk(path, true);
    char device[32];
    struct free_node node = {.device = device};
    struct stat during;
    struct vd_attachment *attachment = attach_twice(disk, &node.expected);
    snprintf(device, sizeof(device), "%s", vd_attachment_device(attachment));
    CHECK_EQ(0, stat(device, &during));
    CHECK_EQ(1234, during.st_uid);
    CHECK_EQ(4321, during.st_gid);
    CHECK_EQ(0604, during.st_mode & 07777);
    CHECK_OK(vd_attachment_detach(attachment));
    vd_attachment_release(attachment);
    CHECK(check_eventually(is_free_as_expected, &node));
    vd_disk_close(disk);
}

/* Somebody's later chmod is not ours to undo. */
static void
a_node_changed_by_others_is_left(void)
{
    struct vd_disk *disk = open_disk(check_path(scratch, "access.vhd"), true);
    struct vd_attach_request request = plain_request(disk);
    struct free_node node;
    char device[32];
    request.access = (struct vd_node_access){true, 0, 0, 0600};
    struct vd_attachment *attachment = attach_or_stop(disk, &request);
    snprintf(device, sizeof(device), "%s", vd_attachment_device(attachment));
    CHECK_EQ(0, chmod(device, 0644));
    node.device = device;
    CHECK_EQ(0, stat(device, &node.expected));
    vd_attachment_release(attachment);
    CHECK(check_eventually(is_free_as_expected, &node));
    CHECK_EQ(0, chmod(device, 0600));
    vd_disk_close(disk);
}

/* -- partitions -- */

static void
put_le32(uint8_t *at, uint32_t value)
{
    for (int i = 0; i < 4; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

/* Partitions 1 at sector 64 and 3 at sector 256; an MBR by hand. */
static void
make_partitioned(const char *path)
{
    uint8_t sector[512] = {0};
    uint8_t *first = sector + 446;
    uint8_t *third = sector + 446 + 32;
    first[4] = 0x83;
    put_le32(first + 8, 64);
    put_le32(first + 12, 128);
    third[4] = 0x07;
    put_le32(third + 8, 256);
    put_le32(third + 12, 512);
    sector[510] = 0x55;
    sector[511] = 0xAA;
    make_vhd(path, SIZE, 14);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (pwrite(fd, sector, 512, 0) != 512) {
        check_broken(path);
    }
    close(fd);
}

static void
check_partitions(const char *device)
{
    char path[128];
    struct stat status;
    snprintf(path, sizeof(path), "%sp1", device);
    CHECK(shows_pattern(path, 0, 128 * 512, 14, 64 * 512));
    CHECK_EQ(0, stat(path, &status));
    CHECK_EQ(77, status.st_uid);
    CHECK_EQ(0660, status.st_mode & 07777);
    snprintf(path, sizeof(path), "%sp3", device);
    CHECK(shows_pattern(path, 0, 512 * 512, 14, 256 * 512));
    snprintf(path, sizeof(path), "/sys/block/%s/%sp3/size", base_name(device),
             base_name(device));
    CHECK_STR("512", first_line(path));
    snprintf(path, sizeof(path), "%sp2", device);
    CHECK_EQ(-1, access(path, F_OK));
}

/* Unless another program, just now, has the device and partitions on it. */
static bool
is_missing(void *path)
{
    return access(path, F_OK) != 0;
}

static void
partitions_come_and_go(void)
{
    const char *path = check_path(scratch, "parts.vhd");
    make_partitioned(path);
    struct vd_disk *disk = open_disk(path, true);
    struct vd_attach_request request = plain_request(disk);
    char node[64];
    request.access = (struct vd_node_access){true, 77, 88, 0660};
    struct vd_attachment *attachment = attach_or_stop(disk, &request);
    check_partitions(vd_attachment_device(attachment));
    snprintf(node, sizeof(node), "%sp1", vd_attachment_device(attachment));
    int claim = open(node, O_RDONLY | O_EXCL | O_CLOEXEC);
    CHECK_EQ(ERROR_BUSY, vd_attachment_detach(attachment));
    close(claim);
    CHECK_EQ(0, access(node, F_OK));
    CHECK_OK(vd_attachment_detach(attachment));
    CHECK(check_eventually(is_missing, node));
    vd_attachment_release(attachment);
    vd_disk_close(disk);
}

static bool
has_partition_node(struct vd_disk *disk,
                   const struct vd_attach_request *request)
{
    char node[64];
    struct vd_attachment *attachment = attach_or_stop(disk, request);
    snprintf(node, sizeof(node), "%sp1", vd_attachment_device(attachment));
    bool there = access(node, F_OK) == 0;
    vd_attachment_release(attachment);
    CHECK(check_eventually(is_missing, node)); /* autoclear dropped it */
    return there;
}

static void
partitions_only_when_asked_for(void)
{
    struct vd_disk *disk = open_disk(check_path(scratch, "parts.vhd"), true);
    struct vd_attach_request request = plain_request(disk);
    CHECK(has_partition_node(disk, &request));
    request.read_only = true;
    CHECK(has_partition_node(disk, &request));
    request.partition_nodes = false;
    CHECK(!has_partition_node(disk, &request));
    vd_disk_close(disk);
}

/* -- kernels that tell less -- */

static void
make_bare_block_directory(void)
{
    CHECK_EQ(0, mount("block", "/sys/block", "tmpfs", 0, NULL));
    for (int i = 0; i < 1024; i++) { /* whichever is free */
        char path[64];
        snprintf(path, sizeof(path), "/sys/block/loop%d", i);
        CHECK_EQ(0, mkdir(path, 0755));
        snprintf(path, sizeof(path), "/sys/block/loop%d/loop", i);
        CHECK_EQ(0, mkdir(path, 0755));
    }
}

static void
check_life_by_status(struct vd_disk *disk)
{
    struct vd_attach_request request = plain_request(disk);
    struct vd_attached found;
    struct vd_attachment *attachment = attach_or_stop(disk, &request);
    CHECK(!vd_attachment_gone(attachment));
    CHECK_OK(vd_attached_find(vd_disk_file_id(disk), &found));
    vd_attached_free(&found);
    CHECK_EQ(ERROR_SHARING_VIOLATION, try_attach(vd_disk_path(disk), true));
    CHECK_OK(vd_attachment_detach(attachment));
    CHECK(vd_attachment_gone(attachment));
    vd_attachment_release(attachment);
    CHECK_EQ(0, count_records());
}

/* Its device shows another image now. */
static void
check_takeover_by_status(struct vd_disk *disk, const char *other)
{
    struct vd_attach_request request = plain_request(disk);
    struct vd_attached found;
    request.permanent = true;
    request.read_only = true; /* which LOOP_CHANGE_FD asks for */
    struct vd_attachment *attachment = attach_or_stop(disk, &request);
    int device = open(vd_attachment_device(attachment), O_RDONLY | O_CLOEXEC);
    int image = open(other, O_RDONLY | O_CLOEXEC);
    CHECK_EQ(0, ioctl(device, LOOP_CHANGE_FD, image));
    CHECK(vd_attachment_gone(attachment));
    CHECK_EQ(ERROR_NOT_READY, vd_attachment_detach(attachment));
    CHECK_EQ(ERROR_NOT_FOUND, vd_attached_find(vd_disk_file_id(disk), &found));
    CHECK_EQ(0, ioctl(device, LOOP_CLR_FD));
    close(device);
    close(image);
    vd_attachment_release(attachment);
}

/* Before Linux 5.15 there is no diskseq; somewhere there is no /sys. */
static void
kernels_that_tell_less(void)
{
    const char *path = check_path(scratch, "status.vhd");
    const char *other = check_path(scratch, "status2.vhd");
    make_vhd(path, SIZE, 15);
    make_vhd(other, SIZE, 16);
    struct vd_disk *disk = open_disk(path, true);
    make_bare_block_directory();
    check_life_by_status(disk);
    check_takeover_by_status(disk, other);
    CHECK_EQ(0, umount("/sys/block"));
    CHECK_EQ(0, mount("none", "/sys", "tmpfs", 0, NULL));
    check_life_by_status(disk);
    CHECK_EQ(0, umount("/sys"));
    vd_disk_close(disk);
}

int
main(int argc, char **argv)
{
    scratch = argc > 1 ? realpath(argv[1], NULL) : NULL;
    if (scratch == NULL) {
        check_broken("usage: test_attach DIRECTORY");
    }
    world_begin(scratch);
    nothing_attached_is_nothing_found();
    a_vhd_is_shown_and_goes();
    what_is_written_reaches_the_image();
    a_file_that_is_too_short_is_no_device();
    a_disc_is_read_only_with_large_sectors();
    read_only_leaves_the_image_alone();
    a_window_shows_a_part();
    a_window_outside_is_refused();
    writing_needs_a_writable_image();
    direct_io_where_the_host_can();
    without_direct_io_it_still_works();
    an_attached_image_is_not_attached_again(false);
    an_attached_image_is_not_attached_again(true);
    locks_hold_without_records();
    for_the_caller_alone();
    a_handle_is_not_for_ever();
    it_is_listed_as_it_was_attached();
    permanent_outlives_its_handle();
    a_claimed_device_is_busy(false);
    a_claimed_device_is_busy(true);
    an_open_device_is_busy_and_unchanged(false);
    an_open_device_is_busy_and_unchanged(true);
    a_reader_outlives_the_attachment();
    the_node_gets_its_access_and_loses_it();
    a_node_changed_by_others_is_left();
    partitions_come_and_go();
    partitions_only_when_asked_for();
    kernels_that_tell_less();
    CHECK_EQ(0, count_devices(scratch, NULL));
    CHECK_EQ(0, count_records());
    CHECK(threads_become(1));
    free((void *)scratch);
    return check_result();
}
