/*
 * struct vd_file over host files: opening, transfers, faults.
 *
 * The system calls are defined here, in front of the C library's, so that
 * they can be interrupted, cut short or made to fail.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/posix_file.h"
#include "check.h"

/* Faults, each armed by a test and spent by the calls. */
static struct {
    int interruptions; /* so many calls fail with EINTR */
    int error_number;  /* then one fails with this, 0: none */
    size_t longest;    /* no transfer is longer, 0: no limit */
    bool nothing;      /* one write moves no byte */
    int fstat_error;   /* of all such calls, 0: none */
    int fcntl_error;
    bool device_at_open; /* what is opened is not what was looked at */
} faults;

static unsigned calls; /* of the functions below, since last reset */

static bool
fault_happens(void)
{
    calls++;
    if (faults.interruptions > 0) {
        faults.interruptions--;
        errno = EINTR;
        return true;
    }
    if (faults.error_number != 0) {
        errno = faults.error_number;
        faults.error_number = 0;
        return true;
    }
    return false;
}

static size_t
shortened(size_t length)
{
    return faults.longest != 0 && length > faults.longest ? faults.longest
                                                          : length;
}

ssize_t
pread(int fd, void *buffer, size_t length, off_t offset)
{
    if (fault_happens()) {
        return -1;
    }
    return syscall(SYS_pread64, fd, buffer, shortened(length), offset);
}

ssize_t
pwrite(int fd, const void *buffer, size_t length, off_t offset)
{
    if (fault_happens()) {
        return -1;
    }
    if (faults.nothing) {
        faults.nothing = false;
        return 0;
    }
    return syscall(SYS_pwrite64, fd, buffer, shortened(length), offset);
}

int
fdatasync(int fd)
{
    return fault_happens() ? -1 : (int)syscall(SYS_fdatasync, fd);
}

int
ftruncate(int fd, off_t size)
{
    return fault_happens() ? -1 : (int)syscall(SYS_ftruncate, fd, size);
}

int
fallocate(int fd, int mode, off_t offset, off_t length)
{
    if (fault_happens()) {
        return -1;
    }
    return (int)syscall(SYS_fallocate, fd, mode, offset, length);
}

int
openat(int dirfd, const char *path, int flags, ...)
{
    if (fault_happens()) {
        return -1;
    }
    if (faults.device_at_open) {
        path = "/dev/null";
    }
    return (int)syscall(SYS_openat, dirfd, path, flags, 0);
}

int
fstat(int fd, struct stat *status)
{
    if (faults.fstat_error != 0) {
        errno = faults.fstat_error;
        return -1;
    }
    return fstatat(fd, "", status, AT_EMPTY_PATH);
}

int
fcntl(int fd, int command, ...)
{
    va_list arguments;
    va_start(arguments, command);
    long argument = va_arg(arguments, long);
    va_end(arguments);
    if (faults.fcntl_error != 0) {
        errno = faults.fcntl_error;
        return -1;
    }
    return (int)syscall(SYS_fcntl, fd, command, argument);
}

static struct vd_posix_file *
open_or_stop(const char *path, bool writable)
{
    struct vd_posix_file *file = NULL;
    if (vd_posix_file_open(AT_FDCWD, path, writable, &file) != 0) {
        check_broken(path);
    }
    calls = 0;
    return file;
}

static vd_error
open_error(const char *path, bool writable)
{
    struct vd_posix_file *file = NULL;
    vd_error error = vd_posix_file_open(AT_FDCWD, path, writable, &file);
    CHECK(error == 0 || file == NULL);
    vd_posix_file_close(file);
    return error;
}

static void
opens_regular_files_only(const char *scratch)
{
    const char *socket_path = check_path(scratch, "socket");
    const char *fifo_path = check_path(scratch, "fifo");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (chdir(scratch) < 0 || mkfifo(fifo_path, 0600) < 0) {
        check_broken(scratch);
    }
    strcpy(address.sun_path, "socket");
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        check_broken(socket_path);
    }
    close(fd);
    for (int writable = 0; writable <= 1; writable++) {
        CHECK_EQ(87, open_error(scratch, writable));
        CHECK_EQ(87, open_error("/dev/null", writable));
        CHECK_EQ(87, open_error(fifo_path, writable));
        CHECK_EQ(87, open_error(socket_path, writable));
    }
}

static void
tells_missing_files_from_missing_paths(const char *scratch)
{
    check_write_file(check_path(scratch, "file"), "x", 1);
    const char *dangling = check_path(scratch, "dangling");
    if (symlink("nowhere/else", dangling) < 0) {
        check_broken(dangling);
    }
    CHECK_EQ(2, open_error(check_path(scratch, "none.vhd"), false));
    CHECK_EQ(2, open_error("none.vhd", false));
    CHECK_EQ(2, open_error("/none.vhd", true));
    CHECK_EQ(2, open_error(dangling, false));
    CHECK_EQ(3, open_error(check_path(scratch, "no/such.vhd"), false));
    CHECK_EQ(3, open_error(check_path(scratch, "no/such/x.vhd"), true));
    CHECK_EQ(3, open_error(check_path(scratch, "file/x.vhd"), false));
    CHECK_EQ(3, open_error(check_path(scratch, "dangling/x.vhd"), false));
    CHECK_EQ(3, open_error("", false));
    /* a name that can only be a directory's */
    CHECK_EQ(2, open_error(check_path(scratch, "none/"), false));
    CHECK_EQ(2, open_error("none///", false));
    CHECK_EQ(3, open_error(check_path(scratch, "no/such//"), false));
    CHECK_EQ(3, open_error(check_path(scratch, "file/"), false));
}

static void
other_errors_of_opening(const char *scratch)
{
    const char *loop = check_path(scratch, "loop");
    char long_name[300];
    memset(long_name, 'n', sizeof(long_name) - 1);
    long_name[sizeof(long_name) - 1] = '\0';
    if (symlink("loop", loop) < 0) {
        check_broken(loop);
    }
    CHECK_EQ(1921, open_error(loop, false));
    CHECK_EQ(206, open_error(check_path(scratch, long_name), false));
    const char *path = check_path(scratch, "file");
    faults.error_number = EROFS;
    CHECK_EQ(19, open_error(path, true));
    faults.error_number = EACCES;
    CHECK_EQ(5, open_error(path, true));
    faults.error_number = ETXTBSY;
    CHECK_EQ(32, open_error(path, true));
    faults.error_number = EMFILE;
    CHECK_EQ(4, open_error(path, false));
    /* removed or replaced between the look and the opening */
    faults.error_number = ENOENT;
    CHECK_EQ(2, open_error(path, false));
    faults.device_at_open = true;
    CHECK_EQ(87, open_error(path, false));
    faults.device_at_open = false;
    faults.fstat_error = EIO;
    CHECK_EQ(1117, open_error(path, false));
    faults.fstat_error = 0;
    faults.fcntl_error = EPERM;
    CHECK_EQ(5, open_error(path, false));
    faults.fcntl_error = 0;
    check_fail_allocation(0);
    CHECK_EQ(8, open_error(path, false));
    CHECK(check_fail_allocation(-1));
    faults.interruptions = 3;
    CHECK_OK(open_error(path, false));
    CHECK_EQ(0, faults.interruptions);
}

static void
an_open_file_is_an_ordinary_one(const char *scratch)
{
    const char *path = check_path(scratch, "file");
    struct stat status;
    for (int writable = 0; writable <= 1; writable++) {
        struct vd_posix_file *file = open_or_stop(path, writable);
        int mode = fcntl(file->fd, F_GETFL);
        CHECK_EQ(writable ? O_RDWR : O_RDONLY, mode & O_ACCMODE);
        CHECK_EQ(0, mode & O_NONBLOCK);
        CHECK_EQ(FD_CLOEXEC, fcntl(file->fd, F_GETFD));
        stat(path, &status);
        CHECK_EQ(status.st_ino, file->status.st_ino);
        CHECK_EQ(status.st_dev, file->status.st_dev);
        vd_posix_file_close(file);
    }
    vd_posix_file_close(NULL);
}

static void
paths_are_relative_to_the_directory(const char *scratch)
{
    struct vd_posix_file *file = NULL;
    int dirfd = open(scratch, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK_OK(vd_posix_file_open(dirfd, "file", false, &file));
    vd_posix_file_close(file);
    CHECK_EQ(2, vd_posix_file_open(dirfd, "none", false, &file));
    CHECK_EQ(3, vd_posix_file_open(dirfd, "none/x", false, &file));
    close(dirfd);
}

static void
transfers_are_whole(const char *scratch)
{
    const char *path = check_path(scratch, "data");
    uint8_t data[10000];
    uint8_t back[10000];
    uint64_t size;
    for (size_t i = 0; i < sizeof(data); i++) {
        data[i] = (uint8_t)(i * 7 + 1);
    }
    check_write_file(path, "", 0);
    struct vd_posix_file *posix_file = open_or_stop(path, true);
    struct vd_file *file = &posix_file->file;
    faults.longest = 999;
    faults.interruptions = 2;
    CHECK_OK(vd_file_pwrite(file, data, sizeof(data), 5));
    CHECK_EQ(2 + 11, calls);
    CHECK_OK(vd_file_size(file, &size));
    CHECK_EQ(sizeof(data) + 5, size);
    calls = 0;
    faults.interruptions = 2;
    CHECK_OK(vd_file_pread(file, back, sizeof(back), 5));
    CHECK_EQ(2 + 11, calls);
    CHECK_BYTES(data, back, sizeof(data));
    faults.longest = 0;
    CHECK_OK(vd_file_pread(file, back, 0, 1 << 30));
    CHECK_EQ(38, vd_file_pread(file, back, 2, sizeof(data) + 4));
    CHECK_EQ(38, vd_file_pread(file, back, 1, 1 << 30));
    CHECK_EQ(38, vd_file_pread(file, back, 1, INT64_MAX));
    CHECK_EQ(38, vd_file_pread(file, back, 1, UINT64_MAX));
    CHECK_EQ(223, vd_file_pwrite(file, data, 1, INT64_MAX));
    CHECK_EQ(223, vd_file_pwrite(file, data, 1, UINT64_MAX));
    faults.error_number = EIO;
    CHECK_EQ(1117, vd_file_pread(file, back, 1, 0));
    faults.error_number = ENOSPC;
    CHECK_EQ(112, vd_file_pwrite(file, data, 1, 0));
    faults.nothing = true;
    CHECK_EQ(29, vd_file_pwrite(file, data, 1, 0));
    vd_posix_file_close(posix_file);
}

static void
a_read_only_file_stays_so(const char *scratch)
{
    struct vd_posix_file *file =
        open_or_stop(check_path(scratch, "data"), false);
    CHECK_EQ(6, vd_file_pwrite(&file->file, "x", 1, 0));
    CHECK_EQ(87, vd_file_truncate(&file->file, 0));
    CHECK_EQ(6, vd_file_punch(&file->file, 0, 1));
    vd_posix_file_close(file);
}

static void
flush_is_not_repeated(const char *scratch)
{
    struct vd_posix_file *file =
        open_or_stop(check_path(scratch, "data"), true);
    CHECK_OK(vd_file_flush(&file->file));
    CHECK_EQ(1, calls);
    faults.error_number = EIO;
    CHECK_EQ(1117, vd_file_flush(&file->file));
    faults.interruptions = 1;
    CHECK_EQ(995, vd_file_flush(&file->file));
    CHECK_EQ(3, calls);
    vd_posix_file_close(file);
}

static void
truncate_sets_the_size(const char *scratch)
{
    const char *path = check_path(scratch, "size");
    uint64_t size = 0;
    check_write_file(path, "0123456789", 10);
    struct vd_posix_file *file = open_or_stop(path, true);
    faults.interruptions = 1;
    CHECK_OK(vd_file_truncate(&file->file, 4));
    CHECK_OK(vd_file_size(&file->file, &size));
    CHECK_EQ(4, size);
    CHECK_OK(vd_file_truncate(&file->file, 1 << 20));
    CHECK_OK(vd_file_size(&file->file, &size));
    CHECK_EQ(1 << 20, size);
    CHECK_EQ(223, vd_file_truncate(&file->file, UINT64_MAX));
    faults.error_number = EDQUOT;
    CHECK_EQ(112, vd_file_truncate(&file->file, 1 << 21));
    vd_posix_file_close(file);
}

/* [first, last] of a file full of 0xFF must read as zeros, the rest not. */
static void
check_hole(struct vd_file *file, size_t size, size_t first, size_t last)
{
    uint64_t found = 0;
    uint8_t *content = malloc(size);
    CHECK_OK(vd_file_size(file, &found));
    CHECK_EQ(size, found);
    CHECK_OK(vd_file_pread(file, content, size, 0));
    size_t wrong = 0;
    for (size_t i = 0; i < size; i++) {
        wrong += content[i] != (i >= first && i <= last ? 0 : 0xFF);
    }
    CHECK_EQ(0, wrong);
    free(content);
}

/* error_number is what the host file system answers to fallocate. */
static void
punch_makes_zeros(const char *scratch, int error_number)
{
    size_t size = 300000;
    uint8_t *content = malloc(size);
    memset(content, 0xFF, size);
    const char *path = check_path(scratch, "hole");
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    close(fd);
    struct vd_posix_file *posix_file = open_or_stop(path, true);
    struct vd_file *file = &posix_file->file;
    CHECK_OK(vd_file_pwrite(file, content, size, 0));
    faults.error_number = error_number;
    faults.interruptions = 1;
    CHECK_OK(vd_file_punch(file, 1000, 200000));
    check_hole(file, size, 1000, 200999);
    CHECK_OK(vd_file_pwrite(file, content, size, 0));
    faults.error_number = error_number;
    CHECK_OK(vd_file_punch(file, size - 1, UINT64_MAX - size));
    check_hole(file, size, size - 1, size - 1);
    calls = 0;
    CHECK_OK(vd_file_punch(file, 0, 0));
    CHECK_OK(vd_file_punch(file, size, 1));
    CHECK_OK(vd_file_punch(file, UINT64_MAX, UINT64_MAX));
    CHECK_EQ(0, calls);
    vd_posix_file_close(posix_file);
    free(content);
}

static void
punch_reports_errors(const char *scratch)
{
    struct vd_posix_file *file =
        open_or_stop(check_path(scratch, "hole"), true);
    faults.error_number = EPERM;
    CHECK_EQ(5, vd_file_punch(&file->file, 0, 1));
    faults.error_number = EOPNOTSUPP;
    check_fail_allocation(0);
    CHECK_EQ(8, vd_file_punch(&file->file, 0, 1));
    CHECK(check_fail_allocation(-1));
    int fd = file->fd;
    file->fd = -1;
    uint64_t size = 42;
    CHECK_EQ(6, vd_file_punch(&file->file, 0, 1));
    CHECK_EQ(6, vd_file_size(&file->file, &size));
    CHECK_EQ(42, size);
    file->fd = fd;
    vd_posix_file_close(file);
}

static void
the_fallback_of_punch_reports_errors(const char *scratch)
{
    const char *path = check_path(scratch, "hole");
    struct vd_posix_file *file = open_or_stop(path, false);
    faults.error_number = ENOSYS; /* then writing fails by itself */
    CHECK_EQ(6, vd_file_punch(&file->file, 0, 1));
    vd_posix_file_close(file);
}

/* Space to the byte, the file longer where it was shorter, and no content
 * changed. */
static void
allocate_takes_space(const char *scratch)
{
    static const uint8_t byte = 0xFF;
    const char *path = check_path(scratch, "space");
    struct stat status;
    uint8_t found = 0;
    close(open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    struct vd_posix_file *posix_file = open_or_stop(path, true);
    struct vd_file *file = &posix_file->file;
    CHECK_OK(vd_file_pwrite(file, &byte, 1, 99));
    faults.interruptions = 1;
    CHECK_OK(vd_file_allocate(file, 50, 1 << 20));
    CHECK_OK(vd_file_pread(file, &found, 1, 99));
    CHECK_EQ(byte, found);
    CHECK_OK(vd_file_pread(file, &found, 1, 49 + (1 << 20)));
    CHECK_EQ(0, found);
    CHECK_OK(fstat(posix_file->fd, &status));
    CHECK_EQ(50 + (1 << 20), status.st_size);
    CHECK(status.st_blocks * 512 >= 1 << 20);
    calls = 0;
    CHECK_OK(vd_file_allocate(file, 1 << 30, 0));
    CHECK_EQ(223, vd_file_allocate(file, UINT64_MAX, 1)); /* too large */
    CHECK_EQ(0, calls);
    vd_posix_file_close(posix_file);
}

static void
allocate_reports_errors(const char *scratch)
{
    struct vd_posix_file *file =
        open_or_stop(check_path(scratch, "space"), true);
    faults.error_number = EOPNOTSUPP;
    CHECK_EQ(ERROR_NOT_SUPPORTED, vd_file_allocate(&file->file, 0, 1));
    faults.error_number = ENOSYS;
    CHECK_EQ(ERROR_NOT_SUPPORTED, vd_file_allocate(&file->file, 0, 1));
    faults.error_number = ENOSPC;
    CHECK_EQ(ERROR_DISK_FULL, vd_file_allocate(&file->file, 0, 1));
    vd_posix_file_close(file);
}

int
main(int argc, char **argv)
{
    if (argc != 2) {
        return 2;
    }
    const char *scratch = argv[1];
    opens_regular_files_only(scratch);
    tells_missing_files_from_missing_paths(scratch);
    other_errors_of_opening(scratch);
    an_open_file_is_an_ordinary_one(scratch);
    paths_are_relative_to_the_directory(scratch);
    transfers_are_whole(scratch);
    a_read_only_file_stays_so(scratch);
    flush_is_not_repeated(scratch);
    truncate_sets_the_size(scratch);
    punch_makes_zeros(scratch, 0);
    punch_makes_zeros(scratch, EOPNOTSUPP);
    punch_makes_zeros(scratch, ENOSYS);
    punch_reports_errors(scratch);
    the_fallback_of_punch_reports_errors(scratch);
    allocate_takes_space(scratch);
    allocate_reports_errors(scratch);
    return check_result();
}
