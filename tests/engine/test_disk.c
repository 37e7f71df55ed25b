/* Opened disks: path, identity, content, host; several threads at once. */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "check.h"
#include "disk/disk.h"
#include "disk/partition_table.h"
#include "format/format.h"
#include "vhd_bytes.h"

#define DATA 65536
#define THREADS 8

static uint8_t image[DATA + FOOTER];

static const struct vd_disk_options read_only = {.writable = false};
static const struct vd_disk_options read_write = {.writable = true};

static struct vd_disk *
open_or_stop(const char *path, const struct vd_disk_options *options)
{
    struct vd_disk *disk = NULL;
    if (vd_disk_open(path, options, &disk) != 0) {
        check_broken(path);
    }
    return disk;
}

static void
make_image(const char *path)
{
    for (size_t i = 0; i < DATA; i++) {
        image[i] = (uint8_t)(i / 512 * 3 + i);
    }
    put_simple_footer(image + DATA, DATA, 2);
    check_write_file(path, image, sizeof(image));
}

static void
a_disk_tells_what_it_is(const char *path)
{
    struct stat status;
    struct vd_disk *disk = open_or_stop(path, &read_write);
    uint64_t file_size = 0;
    uint64_t offset = 42;
    bool contiguous = false;
    stat(path, &status);
    CHECK_STR(path, vd_disk_path(disk));
    CHECK_EQ(status.st_dev, vd_disk_file_id(disk).device);
    CHECK_EQ(status.st_ino, vd_disk_file_id(disk).inode);
    CHECK(vd_disk_writable(disk));
    CHECK(vd_disk_format(disk) == &vd_vhd_format);
    CHECK_EQ(VD_SUBTYPE_FIXED, vd_disk_info(disk)->subtype);
    CHECK_EQ(DATA, vd_disk_size_bytes(disk));
    CHECK_EQ(512, vd_disk_sector_size(disk));
    CHECK(!vd_disk_optical(disk));
    CHECK_OK(vd_disk_file_size(disk, &file_size));
    CHECK_EQ(DATA + 512, file_size);
    CHECK_OK(vd_disk_contiguous(disk, &contiguous, &offset));
    CHECK(contiguous);
    CHECK_EQ(0, offset);
    CHECK_EQ(O_RDWR, fcntl(vd_disk_fd(disk), F_GETFL) & O_ACCMODE);
    CHECK_EQ(FD_CLOEXEC, fcntl(vd_disk_fd(disk), F_GETFD));
    vd_disk_close(disk);
    disk = open_or_stop(path, &read_only);
    CHECK(!vd_disk_writable(disk));
    CHECK_EQ(O_RDONLY, fcntl(vd_disk_fd(disk), F_GETFL) & O_ACCMODE);
    vd_disk_close(disk);
    vd_disk_close(NULL);
}

static void
reads_need_no_alignment(const char *path)
{
    uint8_t buffer[DATA];
    struct vd_disk *disk = open_or_stop(path, &read_only);
    CHECK_OK(vd_disk_read(disk, buffer, DATA, 0));
    CHECK_BYTES(image, buffer, DATA);
    CHECK_OK(vd_disk_read(disk, buffer, 777, 12345));
    CHECK_BYTES(image + 12345, buffer, 777);
    CHECK_OK(vd_disk_read(disk, buffer, 1, DATA - 1));
    CHECK_EQ(image[DATA - 1], buffer[0]);
    CHECK_OK(vd_disk_read(disk, buffer, 0, DATA));
    vd_disk_close(disk);
}

static void
a_shrunken_file_is_a_device_error(const char *scratch)
{
    const char *path = check_path(scratch, "shrinks.vhd");
    uint8_t buffer[512];
    check_write_file(path, image, sizeof(image));
    struct vd_disk *disk = open_or_stop(path, &read_only);
    if (truncate(path, 1000) < 0) {
        check_broken(path);
    }
    CHECK_OK(vd_disk_read(disk, buffer, 512, 0));
    CHECK_EQ(1117, vd_disk_read(disk, buffer, 512, 512));
    vd_disk_close(disk);
}

static void
links_are_resolved(const char *scratch, const char *path)
{
    const char *link = check_path(scratch, "link.vhd");
    if (symlink("image.vhd", link) < 0 || chdir(scratch) < 0) {
        check_broken(link);
    }
    struct vd_disk *disk = open_or_stop(link, &read_only);
    CHECK_STR(path, vd_disk_path(disk));
    vd_disk_close(disk);
    disk = open_or_stop("link.vhd", &read_only);
    CHECK_STR(path, vd_disk_path(disk));
    vd_disk_close(disk);
}

static void
odd_names_survive(const char *scratch)
{
    static const char *const names[] = {"with\nnewline.vhd",
                                        "\xFF\xFE not UTF-8.vhd",
                                        "image (deleted)", " (deleted)"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        const char *path = check_path(scratch, names[i]);
        check_write_file(path, image, sizeof(image));
        struct vd_disk *disk = open_or_stop(path, &read_only);
        CHECK_STR(path, vd_disk_path(disk));
        vd_disk_close(disk);
    }
}

/* The engine's calls of realpath, readlink and fstatfs come here, so that a
 * test can step in between opening and naming, or play another host. */
static const char *moved_to;    /* rename what is named, NULL: do not */
static const char *replacement; /* put this in its place, NULL: nothing */
static bool remove_named;
static bool no_proc;
static uint32_t host_type; /* of the file system, 0: the real one */
static int host_error;

static void
come_between(const char *path)
{
    if ((moved_to != NULL && rename(path, moved_to) < 0) ||
        (replacement != NULL && rename(replacement, path) < 0) ||
        (remove_named && unlink(path) < 0)) {
        check_broken(path);
    }
    moved_to = NULL;
    replacement = NULL;
    remove_named = false;
}

char *
realpath(const char *restrict path, char *restrict resolved)
{
    typedef char *function(const char *, char *);
    function *real;
    void *symbol = dlsym(RTLD_NEXT, "realpath");
    memcpy(&real, &symbol, sizeof(real));
    come_between(path);
    return real(path, resolved);
}

ssize_t
readlink(const char *restrict path, char *restrict buffer, size_t size)
{
    if (no_proc) {
        errno = ENOENT;
        return -1;
    }
    return syscall(SYS_readlinkat, AT_FDCWD, path, buffer, size);
}

int
fstatfs(int fd, struct statfs *status)
{
    if (host_error != 0) {
        errno = host_error;
        return -1;
    }
    long result = syscall(SYS_fstatfs, fd, status);
    if (host_type != 0) {
        status->f_type = (__fsword_t)host_type;
    }
    return (int)result;
}

/* The engine reads sysfs of a directory in its place, NULL: the real one. */
static const char *fake_sysfs;

int
open(const char *path, int flags, ...)
{
    char elsewhere[8192];
    mode_t mode = 0;
    if ((flags & O_CREAT) != 0) {
        va_list arguments;
        va_start(arguments, flags);
        mode = (mode_t)va_arg(arguments, unsigned);
        va_end(arguments);
    }
    if (fake_sysfs != NULL && strncmp(path, "/sys/dev/block/", 15) == 0) {
        snprintf(elsewhere, sizeof(elsewhere), "%s/%s", fake_sysfs,
                 strchr(path + 15, '/') + 1);
        path = elsewhere;
    }
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

static void
put_attribute(const char *directory, const char *name, const char *text)
{
    check_write_file(check_path(directory, name), text, strlen(text));
}

static void
check_host(struct vd_disk *disk, uint32_t sector, uint32_t physical)
{
    struct vd_host_disk host = {.sector_size = 42};
    CHECK_OK(vd_disk_host(disk, &host));
    CHECK_EQ(sector, host.sector_size);
    CHECK_EQ(physical, host.physical_sector_size);
}

static void
sysfs_tells_sector_sizes(const char *scratch, const char *path)
{
    static const char *const nonsense[] = {"",    "none\n", "0\n", "256",
                                           "513", "131072", "-512"};
    char device[4200]; /* a whole disk, or a partition of one: */
    char queue[4300];  /* its own queue */
    char beside[4300]; /* its disk's */
    struct vd_disk *disk = open_or_stop(path, &read_only);
    snprintf(device, sizeof(device), "%s/device", scratch);
    snprintf(queue, sizeof(queue), "%s/queue", device);
    snprintf(beside, sizeof(beside), "%s/queue", scratch);
    if (mkdir(device, 0700) < 0 || mkdir(beside, 0700) < 0) {
        check_broken(device);
    }
    fake_sysfs = device;
    check_host(disk, 512, 512); /* no block device, as on btrfs */
    put_attribute(beside, "logical_block_size", "4096\n");
    check_host(disk, 4096, 4096);
    put_attribute(beside, "physical_block_size", "16384\n");
    check_host(disk, 4096, 16384);
    if (mkdir(queue, 0700) < 0) {
        check_broken(queue);
    }
    put_attribute(queue, "logical_block_size", "512\n");
    put_attribute(queue, "physical_block_size", "4096\n");
    check_host(disk, 512, 4096);
    unlink(check_path(beside, "logical_block_size"));
    for (size_t i = 0; i < sizeof(nonsense) / sizeof(nonsense[0]); i++) {
        put_attribute(queue, "logical_block_size", nonsense[i]);
        check_host(disk, 512, 512);
    }
    fake_sysfs = NULL;
    vd_disk_close(disk);
}

static void
partitions_are_read_through_the_disk(const char *scratch)
{
    static uint8_t content[DATA + FOOTER];
    struct vd_partition_table table;
    const char *path = check_path(scratch, "parts.vhd");
    memset(&table, 0xEE, sizeof(table));
    memcpy(content + 446, "\x80\0\0\0\x07\0\0\0\x08\0\0\0\x10\0\0", 16);
    memcpy(content + 510, "\x55\xAA", 2);
    put_simple_footer(content + DATA, DATA, 2);
    check_write_file(path, content, sizeof(content));
    struct vd_disk *disk = open_or_stop(path, &read_only);
    CHECK_OK(vd_partition_table_read(disk, &table));
    CHECK_EQ(VD_PARTITION_MBR, table.scheme);
    CHECK_EQ(1, table.count);
    CHECK_EQ(4096, table.partitions[0].offset_bytes);
    CHECK_EQ(8192, table.partitions[0].length_bytes);
    vd_disk_close(disk);
    /* a hybrid disc has a table too, but not as a disc */
    path = check_path(scratch, "hybrid.iso");
    memcpy(content + 32768,
           "\x01"
           "CD001",
           6);
    check_write_file(path, content, DATA);
    disk = open_or_stop(path, &read_only);
    CHECK_OK(vd_partition_table_read(disk, &table));
    CHECK_EQ(VD_PARTITION_NONE, table.scheme);
    CHECK_EQ(0, table.count);
    CHECK_EQ(0, table.end_bytes);
    vd_disk_close(disk);
}

static void
the_open_file_counts_not_its_name(const char *scratch)
{
    char path[4096];
    char elsewhere[4096];
    uint8_t first = 0;
    strcpy(path, check_path(scratch, "named.vhd"));
    strcpy(elsewhere, check_path(scratch, "elsewhere.vhd"));
    /* renamed */
    check_write_file(path, image, sizeof(image));
    moved_to = elsewhere;
    struct vd_disk *disk = open_or_stop(path, &read_only);
    CHECK_STR(elsewhere, vd_disk_path(disk));
    vd_disk_close(disk);
    /* replaced */
    const char *other = check_path(scratch, "other.vhd");
    check_write_file(path, image, sizeof(image));
    check_write_file(other, "no image", 8);
    moved_to = elsewhere;
    replacement = other;
    disk = open_or_stop(path, &read_only);
    CHECK_STR(elsewhere, vd_disk_path(disk));
    CHECK_OK(vd_disk_read(disk, &first, 1, 1));
    CHECK_EQ(image[1], first);
    vd_disk_close(disk);
    /* removed */
    check_write_file(path, image, sizeof(image));
    remove_named = true;
    disk = open_or_stop(path, &read_only);
    CHECK_STR(path, vd_disk_path(disk));
    CHECK_OK(vd_disk_read(disk, &first, 1, 1));
    vd_disk_close(disk);
}

static unsigned
count_descriptors(void)
{
    unsigned count = 0;
    DIR *directory = opendir("/proc/self/fd");
    while (directory != NULL && readdir(directory) != NULL) {
        count++;
    }
    closedir(directory);
    return count;
}

static vd_error
open_error(const char *path, const struct vd_disk_options *options)
{
    struct vd_disk *disk = NULL;
    vd_error error = vd_disk_open(path, options, &disk);
    CHECK((error == 0) == (disk != NULL));
    vd_disk_close(disk);
    return error;
}

static void
failures_leave_nothing_open(const char *scratch, const char *path)
{
    static const struct vd_disk_options as_iso = {.device_id = 1};
    static const struct vd_disk_options as_vhd = {.device_id = 2};
    static const struct vd_disk_options as_vhdx = {.device_id = 3};
    unsigned before = count_descriptors();
    const char *text = check_path(scratch, "text");
    check_write_file(text, "not an image", 12);
    CHECK_EQ(2, open_error(check_path(scratch, "none"), &read_only));
    CHECK_EQ(3, open_error(check_path(scratch, "none/none"), &read_only));
    CHECK_EQ(87, open_error(scratch, &read_only));
    CHECK_EQ(0xC03A0014, open_error(text, &read_only));
    CHECK_EQ(0xC03A0001, open_error(text, &as_vhd));
    CHECK_EQ(1392, open_error(text, &as_iso));
    CHECK_EQ(1392, open_error(path, &as_iso));
    CHECK_EQ(0xC03A0001, open_error(path, &as_vhdx));
    CHECK_OK(open_error(path, &as_vhd));
    int failures = 0;
    for (vd_error error = 8; error != 0; failures++) {
        check_fail_allocation(failures);
        error = open_error(path, &read_only);
        CHECK_EQ(check_fail_allocation(-1) ? 8 : 0, error);
    }
    CHECK_EQ(5, failures); /* disk, file, image, layers; none is left */
    check_write_file(check_path(scratch, "gone.vhd"), image, sizeof(image));
    remove_named = true;
    no_proc = true;
    CHECK_EQ(2, open_error(check_path(scratch, "gone.vhd"), &read_only));
    no_proc = false;
    check_write_file(check_path(scratch, "gone.vhd"), image, sizeof(image));
    remove_named = true;
    check_fail_allocation(3); /* the copy of the kernel's name */
    CHECK_EQ(8, open_error(check_path(scratch, "gone.vhd"), &read_only));
    CHECK(check_fail_allocation(-1));
    CHECK_EQ(before, count_descriptors());
}

static void
remote_hosts_are_known_by_type(const char *path)
{
    static const struct {
        uint32_t type;
        bool remote;
    } cases[] = {
        {0x00006969, true},  {0x0000517B, true},  {0xFF534D42, true},
        {0xFE534D42, true},  {0x01021997, true},  {0x00C36400, true},
        {0x0000EF53, false}, {0x9123683E, false}, {0x65735546, false},
        {0x01021994, false},
    };
    struct vd_host_disk host = {.sector_size = 42};
    struct vd_disk *disk = open_or_stop(path, &read_only);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        host_type = cases[i].type;
        CHECK_OK(vd_disk_host(disk, &host));
        CHECK_EQ(cases[i].remote, host.remote);
    }
    host_type = 0;
    host.sector_size = 42;
    host_error = EIO;
    CHECK_EQ(1117, vd_disk_host(disk, &host));
    CHECK_EQ(42, host.sector_size);
    host_error = 0;
    CHECK_OK(vd_disk_host(disk, &host));
    CHECK(host.sector_size >= 512);
    CHECK(host.physical_sector_size >= host.sector_size);
    vd_disk_close(disk);
}

struct reader {
    pthread_t thread;
    struct vd_disk *disk;
    unsigned seed;
    unsigned wrong;
};

static void *
read_here_and_there(void *argument)
{
    struct reader *reader = argument;
    uint8_t buffer[3000];
    for (unsigned i = 0; i < 500; i++) {
        size_t length = (size_t)rand_r(&reader->seed) % sizeof(buffer);
        size_t offset = (size_t)rand_r(&reader->seed) % (DATA - length);
        if (vd_disk_read(reader->disk, buffer, length, offset) != 0 ||
            memcmp(buffer, image + offset, length) != 0) {
            reader->wrong++;
        }
    }
    return NULL;
}

static void
threads_share_a_disk(const char *path)
{
    struct reader readers[THREADS];
    struct vd_disk *disk = open_or_stop(path, &read_only);
    for (unsigned i = 0; i < THREADS; i++) {
        readers[i] = (struct reader){.disk = disk, .seed = i + 1};
        if (pthread_create(&readers[i].thread, NULL, read_here_and_there,
                           &readers[i]) != 0) {
            check_broken("pthread_create");
        }
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(readers[i].thread, NULL);
        CHECK_EQ(0, readers[i].wrong);
    }
    vd_disk_close(disk);
}

int
main(int argc, char **argv)
{
    char scratch[4096]; /* resolved, to compare with */
    char path[4200];
    if (argc != 2 || realpath(argv[1], scratch) == NULL) {
        return 2;
    }
    snprintf(path, sizeof(path), "%s/image.vhd", scratch);
    make_image(path);
    a_disk_tells_what_it_is(path);
    reads_need_no_alignment(path);
    a_shrunken_file_is_a_device_error(scratch);
    links_are_resolved(scratch, path);
    odd_names_survive(scratch);
    the_open_file_counts_not_its_name(scratch);
    failures_leave_nothing_open(scratch, path);
    remote_hosts_are_known_by_type(path);
    sysfs_tells_sector_sizes(scratch, path);
    partitions_are_read_through_the_disk(scratch);
    threads_share_a_disk(path);
    return check_result();
}
