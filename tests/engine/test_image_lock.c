/*
 * Who may use an image at once: two openers in every combination, forked
 * holders, takers at the same moment, and file systems without locks.
 * test_engine.py does the same with QEMU.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "disk/image_lock.h"

#define ROUNDS 300

static const char *path;

static _Thread_local int lock_errno; /* of the next fcntl, 0: none */
static _Thread_local int lock_errno_after;

int
fcntl(int fd, int command, ...)
{
    va_list arguments;
    va_start(arguments, command);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    if (lock_errno != 0 && lock_errno_after-- == 0) {
        errno = lock_errno;
        return -1;
    }
    return (int)syscall(SYS_fcntl, fd, command, argument);
}

static int
open_image(bool writable)
{
    int fd = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    if (fd < 0) {
        check_broken(path);
    }
    return fd;
}

/* The kernel's answer for one byte: the type of a lock of somebody else. */
static int
lock_on_byte(int byte)
{
    int fd = open_image(true);
    struct flock lock = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    if (fcntl(fd, F_OFD_GETLK, &lock) < 0) {
        check_broken("F_OFD_GETLK");
    }
    close(fd);
    return lock.l_type;
}

/* Exactly these bytes are locked, all of them shared. */
static void
check_bytes_locked(const int *bytes, size_t count)
{
    for (int byte = 0; byte < 400; byte++) {
        bool expected = false;
        for (size_t i = 0; i < count; i++) {
            expected = expected || bytes[i] == byte;
        }
        int found = lock_on_byte(byte);
        if (found != (expected ? F_RDLCK : F_UNLCK)) {
            CHECK_EQ(-1, byte); /* tells which */
        }
    }
    CHECK_EQ(F_UNLCK, lock_on_byte(1 << 20));
}

static void
the_bytes_are_those_of_qemu(void)
{
    static const int reading[] = {100, 201, 203, 300};
    static const int writing[] = {100, 101, 103, 201, 203, 300};
    int fd = open_image(false);
    CHECK_OK(vd_image_lock(fd, VD_LOCK_READ));
    check_bytes_locked(reading, 4);
    vd_image_unlock(fd);
    check_bytes_locked(NULL, 0);
    /* a descriptor for reading is enough, as an attachment's may be */
    CHECK_OK(vd_image_lock(fd, VD_LOCK_WRITE));
    check_bytes_locked(writing, 6);
    close(fd);
    check_bytes_locked(NULL, 0);
}

static void
one_attachment_at_a_time(void)
{
    for (int first = VD_LOCK_READ; first <= VD_LOCK_WRITE; first++) {
        for (int second = VD_LOCK_READ; second <= VD_LOCK_WRITE; second++) {
            int a = open_image(true);
            int b = open_image(true);
            CHECK_OK(vd_image_lock_test(b, (enum vd_lock_mode)second));
            CHECK_OK(vd_image_lock(a, (enum vd_lock_mode)first));
            CHECK_EQ(32, vd_image_lock_test(b, (enum vd_lock_mode)second));
            CHECK_EQ(32, vd_image_lock(b, (enum vd_lock_mode)second));
            close(a);
            check_bytes_locked(NULL, 0); /* the loser holds nothing */
            CHECK_OK(vd_image_lock(b, (enum vd_lock_mode)second));
            close(b);
        }
    }
}

static void
place_foreign_lock(int fd, short type, int byte)
{
    struct flock lock = {
        .l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    if (fcntl(fd, F_OFD_SETLK, &lock) < 0) {
        check_broken("F_OFD_SETLK");
    }
}

/* A lock of another program on each byte in turn: which of them stand
 * against reading and against writing. */
static void
foreign_locks_count_as_qemu_counts_them(void)
{
    static const struct {
        int byte;
        vd_error reading;
        vd_error writing;
    } cases[] = {
        {0, 0, 0},     {99, 0, 0},  {100, 0, 0},   {101, 32, 32}, {102, 0, 0},
        {103, 32, 32}, {104, 0, 0}, {200, 32, 32}, {201, 0, 32},  {202, 0, 0},
        {203, 0, 32},  {204, 0, 0}, {300, 32, 32}, {301, 0, 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int foreign = open_image(true);
        int fd = open_image(true);
        place_foreign_lock(foreign, F_RDLCK, cases[i].byte);
        CHECK_EQ(cases[i].reading, vd_image_lock_test(fd, VD_LOCK_READ));
        CHECK_EQ(cases[i].writing, vd_image_lock_test(fd, VD_LOCK_WRITE));
        CHECK_EQ(cases[i].reading, vd_image_lock(fd, VD_LOCK_READ));
        vd_image_unlock(fd);
        CHECK_EQ(cases[i].writing, vd_image_lock(fd, VD_LOCK_WRITE));
        close(fd);
        close(foreign);
    }
    int foreign = open_image(true);
    int fd = open_image(true);
    place_foreign_lock(foreign, F_WRLCK, 100); /* not QEMU's way at all */
    CHECK_EQ(32, vd_image_lock(fd, VD_LOCK_READ));
    close(fd);
    close(foreign);
}

static void
the_lock_lives_with_the_open_file(void)
{
    int fd = open_image(false);
    int other = open_image(false);
    CHECK_OK(vd_image_lock(fd, VD_LOCK_READ));
    pid_t child = fork();
    if (child == 0) {
        /* In a child it is the same open file: nothing to conflict with. */
        bool same = vd_image_lock_test(fd, VD_LOCK_READ) == 0 &&
                    vd_image_lock_test(other, VD_LOCK_READ) == 32;
        _exit(same ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK_EQ(0, status);
    int copy = dup(fd);
    close(fd);
    CHECK_EQ(32, vd_image_lock(other, VD_LOCK_READ));
    close(copy);
    CHECK_OK(vd_image_lock(other, VD_LOCK_READ));
    close(other);
}

static void
a_killed_holder_holds_nothing(void)
{
    int fd = open_image(false);
    int ready[2];
    char byte;
    if (pipe(ready) < 0) {
        check_broken("pipe");
    }
    pid_t child = fork();
    if (child == 0) {
        int own = open_image(true);
        byte = vd_image_lock(own, VD_LOCK_WRITE) == 0 ? 'y' : 'n';
        if (write(ready[1], &byte, 1) == 1) {
            pause();
        }
        _exit(1);
    }
    CHECK_EQ(1, read(ready[0], &byte, 1));
    CHECK_EQ('y', byte);
    CHECK_EQ(32, vd_image_lock(fd, VD_LOCK_READ));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    CHECK_OK(vd_image_lock(fd, VD_LOCK_READ));
    close(fd);
    close(ready[0]);
    close(ready[1]);
}

/* Two takers, round after round: never both. */
static pthread_barrier_t barrier;
static atomic_uint winners;
static atomic_uint both;
static atomic_uint unexpected;

static void *
take_and_give_back(void *argument)
{
    (void)argument;
    for (unsigned i = 0; i < ROUNDS; i++) {
        int fd = open_image(i % 2 == 0);
        pthread_barrier_wait(&barrier);
        vd_error error =
            vd_image_lock(fd, i % 3 == 0 ? VD_LOCK_WRITE : VD_LOCK_READ);
        if (error == 0 && atomic_fetch_add(&winners, 1) > 0) {
            atomic_fetch_add(&both, 1);
        }
        if (error != 0 && error != 32) {
            atomic_fetch_add(&unexpected, 1);
        }
        pthread_barrier_wait(&barrier);
        atomic_store(&winners, 0);
        close(fd);
    }
    return NULL;
}

static void
at_most_one_wins_a_race(void)
{
    pthread_t threads[2];
    pthread_barrier_init(&barrier, NULL, 2);
    for (unsigned i = 0; i < 2; i++) {
        if (pthread_create(&threads[i], NULL, take_and_give_back, NULL) != 0) {
            check_broken("pthread_create");
        }
    }
    for (unsigned i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    pthread_barrier_destroy(&barrier);
    CHECK_EQ(0, both);
    CHECK_EQ(0, unexpected);
    check_bytes_locked(NULL, 0);
}

static void
without_locks_there_is_no_attachment(void)
{
    static const struct {
        int error_number;
        vd_error code;
    } cases[] = {
        {EINVAL, 665}, {ENOLCK, 665}, {EOPNOTSUPP, 665}, {ENOSYS, 665},
        {EAGAIN, 32},  {EACCES, 32},  {EIO, 1117},
    };
    int fd = open_image(true);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        /* the n-th call: 6 bytes are placed, 6 are tested */
        for (int n = 0; n < 12; n++) {
            lock_errno = cases[i].error_number;
            lock_errno_after = n;
            CHECK_EQ(cases[i].code, vd_image_lock(fd, VD_LOCK_WRITE));
            lock_errno = 0;
            check_bytes_locked(NULL, 0);
        }
        lock_errno = cases[i].error_number;
        lock_errno_after = 0;
        CHECK_EQ(cases[i].code, vd_image_lock_test(fd, VD_LOCK_READ));
        lock_errno = 0;
    }
    close(fd);
    CHECK_EQ(6, vd_image_lock(fd, VD_LOCK_READ)); /* a closed descriptor */
}

static void
parents_are_shared_but_stand_still(void)
{
    int one = open_image(false);
    int two = open_image(false);
    int writer = open_image(true);
    int reader = open_image(false);
    CHECK_OK(vd_image_lock(one, VD_LOCK_PARENT));
    CHECK_OK(vd_image_lock(two, VD_LOCK_PARENT));
    CHECK_EQ(ERROR_SHARING_VIOLATION, vd_image_lock(writer, VD_LOCK_WRITE));
    CHECK_OK(vd_image_lock(reader, VD_LOCK_READ));
    close(one);
    close(two);
    close(reader);
    CHECK_OK(vd_image_lock(writer, VD_LOCK_WRITE));
    one = open_image(false);
    CHECK_EQ(ERROR_SHARING_VIOLATION, vd_image_lock(one, VD_LOCK_PARENT));
    close(one);
    close(writer);
}

/* A mark stands for itself: it is no reason to refuse anybody. */
static void
a_mark_tells_of_one_open_file(void)
{
    int holder = open_image(true);
    int copy = fcntl(holder, F_DUPFD_CLOEXEC, 0);
    int other = open_image(false);
    CHECK(!vd_image_lock_marked(other, 7));
    CHECK_OK(vd_image_lock_mark(holder, 7));
    CHECK(vd_image_lock_marked(other, 7));
    CHECK(!vd_image_lock_marked(other, 8));
    CHECK(!vd_image_lock_marked(other, UINT64_MAX));
    CHECK(!vd_image_lock_marked(holder, 7)); /* its own */
    CHECK_OK(vd_image_lock_test(other, VD_LOCK_READ));
    close(holder);
    CHECK(vd_image_lock_marked(other, 7));
    close(copy);
    CHECK(!vd_image_lock_marked(other, 7));
    CHECK_OK(vd_image_lock_mark(other, UINT64_MAX));
    vd_image_unlock(other);
    holder = open_image(false);
    CHECK(!vd_image_lock_marked(holder, UINT64_MAX));
    close(holder);
    close(other);
}

static const int attached_bytes[] = {100, 201, 203, 300};

/* The writer's locks and the reader's, until it is over. */
static void
a_reader_may_lend_its_image(void)
{
    static const int lent_bytes[] = {100, 101, 103, 201, 203, 300};
    int reader = open_image(false);
    int writer = open_image(true);
    int other = open_image(true);
    CHECK_OK(vd_image_lock(reader, VD_LOCK_READ));
    check_bytes_locked(attached_bytes, 4);
    CHECK_OK(vd_image_lock_lend(reader, writer));
    check_bytes_locked(lent_bytes, 6);
    CHECK_EQ(ERROR_SHARING_VIOLATION, vd_image_lock(other, VD_LOCK_WRITE));
    CHECK_EQ(ERROR_SHARING_VIOLATION, vd_image_lock(other, VD_LOCK_READ));
    CHECK_EQ(ERROR_SHARING_VIOLATION, vd_image_lock(other, VD_LOCK_PARENT));
    CHECK_OK(vd_image_lock_return(reader, writer));
    check_bytes_locked(attached_bytes, 4);
    CHECK_EQ(ERROR_SHARING_VIOLATION, vd_image_lock(other, VD_LOCK_WRITE));
    CHECK_OK(vd_image_lock(other, VD_LOCK_PARENT));
    CHECK_EQ(ERROR_SHARING_VIOLATION, vd_image_lock_lend(reader, writer));
    vd_image_unlock(other);
    check_bytes_locked(attached_bytes, 4); /* as if nothing had been tried */
    close(other);
    close(writer);
    check_bytes_locked(attached_bytes, 4);
    close(reader);
}

/* The n-th call fails: the reader has what it had. */
static void
lending_that_fails_changes_nothing(void)
{
    int reader = open_image(false);
    int writer = open_image(true);
    bool failed = true;
    CHECK_OK(vd_image_lock(reader, VD_LOCK_READ));
    for (int n = 0; failed; n++) {
        lock_errno = ENOLCK;
        lock_errno_after = n;
        vd_error error = vd_image_lock_lend(reader, writer);
        failed = lock_errno_after < 0;
        lock_errno = 0;
        CHECK_EQ(failed ? ERROR_FILE_SYSTEM_LIMITATION : 0, error);
        if (failed) {
            check_bytes_locked(attached_bytes, 4);
        }
        CHECK(failed || n > 10);
    }
    close(writer);
    close(reader);
}

int
main(int argc, char **argv)
{
    if (argc != 2) {
        return 2;
    }
    path = check_path(argv[1], "image");
    check_write_file(path, "image", 5);
    the_bytes_are_those_of_qemu();
    one_attachment_at_a_time();
    foreign_locks_count_as_qemu_counts_them();
    the_lock_lives_with_the_open_file();
    a_killed_holder_holds_nothing();
    parents_are_shared_but_stand_still();
    a_mark_tells_of_one_open_file();
    a_reader_may_lend_its_image();
    lending_that_fails_changes_nothing();
    at_most_one_wins_a_race();
    without_locks_there_is_no_attachment();
    return check_result();
}
