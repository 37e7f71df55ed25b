/*
 * A file that is being made (disk/new_file.h), also where the system cannot
 * do what it is asked for first, and the paths between directories.
 *
 * What a file system lacks is taken away by a seccomp filter, in a child.
 */
#include "disk/new_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/utf16.h"
#include "check.h"
#include "disk/mounted.h"
#include "disk/parent_path.h"

static const char *directory;

static const char *
path_of(const char *name)
{
    return check_path(directory, name);
}

static unsigned
count_files(void)
{
    unsigned count = 0;
    DIR *listing = opendir(directory);
    if (listing == NULL) {
        check_broken("opendir");
    }
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
        count += entry->d_type == DT_REG;
    }
    closedir(listing);
    return count;
}

/* ---- what the system lacks ---- */

#define ARGUMENT(n) (offsetof(struct seccomp_data, args) + 8 * (n))
#define LOAD(at) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (at))
#define ANSWER(code) BPF_STMT(BPF_RET | BPF_K, (code))
#define FAIL(error_number) ANSWER(SECCOMP_RET_ERRNO | (error_number))

static void
forbid(const struct sock_filter *filter, size_t length)
{
    struct sock_fprog program = {
        .len = (unsigned short)length,
        .filter = (struct sock_filter *)(uintptr_t)filter,
    };
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0) {
        check_broken("seccomp");
    }
}

static void
without_unnamed_files(void)
{
    static const struct sock_filter filter[] = {
        LOAD(offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 0, 3),
        LOAD(ARGUMENT(2)),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, O_TMPFILE & ~O_DIRECTORY, 0, 1),
        FAIL(EOPNOTSUPP),
        ANSWER(SECCOMP_RET_ALLOW),
    };
    forbid(filter, sizeof(filter) / sizeof(filter[0]));
}

static void
without_rename(void)
{
    static const struct sock_filter filter[] = {
        LOAD(offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_renameat2, 0, 1),
        FAIL(EINVAL),
        ANSWER(SECCOMP_RET_ALLOW),
    };
    forbid(filter, sizeof(filter) / sizeof(filter[0]));
}

/* The last step: a file that cannot be made durable is none. */
static void
without_sync(void)
{
    static const struct sock_filter filter[] = {
        LOAD(offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fsync, 0, 1),
        FAIL(EIO),
        ANSWER(SECCOMP_RET_ALLOW),
    };
    forbid(filter, sizeof(filter) / sizeof(filter[0]));
}

/* Its checks count as ours. */
static void
in_child(void (*test)(void))
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        test();
        exit(check_result());
    }
    int status;
    CHECK_EQ(child, waitpid(child, &status, 0));
    CHECK_EQ(0, status);
}

/* ---- files ---- */

static void
fill(const struct vd_new_file *file)
{
    CHECK_EQ(7, pwrite(file->fd, "content", 7, 0));
}

static void
check_content(const char *name)
{
    char content[8] = "";
    int fd = open(path_of(name), O_RDONLY | O_CLOEXEC);
    CHECK_EQ(7, read(fd, content, sizeof(content)));
    CHECK_STR("content", content);
    close(fd);
}

static void
test_life(void)
{
    struct vd_new_file file;
    unsigned files = count_files();
    CHECK_OK(vd_new_file_open(path_of("life"), &file));
    fill(&file);
    CHECK_EQ(ENOENT, access(path_of("life"), F_OK) < 0 ? errno : 0);
    CHECK_OK(vd_new_file_publish(&file));
    vd_new_file_close(&file);
    check_content("life");
    CHECK_EQ(files + 1, count_files());
    CHECK_EQ(80, vd_new_file_open(path_of("life"), &file));
    CHECK_EQ(0, unlink(path_of("life")));
}

static void
test_given_up(void)
{
    struct vd_new_file file;
    unsigned files = count_files();
    CHECK_OK(vd_new_file_open(path_of("up"), &file));
    vd_new_file_close(&file);
    CHECK_EQ(files, count_files());
    CHECK_OK(vd_new_file_open(path_of("up"), &file));
    CHECK_OK(vd_new_file_publish(&file));
    vd_new_file_withdraw(&file);
    vd_new_file_close(&file);
    CHECK_EQ(files, count_files());
}

/* Nothing is ever replaced, and what is somebody else's not removed. */
static void
test_taken(void)
{
    struct vd_new_file file;
    CHECK_OK(vd_new_file_open(path_of("taken"), &file));
    check_write_file(path_of("taken"), "content", 7);
    CHECK_EQ(80, vd_new_file_publish(&file));
    vd_new_file_withdraw(&file);
    vd_new_file_close(&file);
    check_content("taken");
    CHECK_EQ(0, unlink(path_of("taken")));
    CHECK_EQ(0, count_files());
}

static void
test_access(void)
{
    struct vd_new_file file;
    struct stat status;
    CHECK_OK(vd_new_file_open(path_of("access"), &file));
    CHECK_OK(vd_new_file_set_access(&file, getuid(), getgid(), 0604));
    CHECK_OK(vd_new_file_publish(&file));
    vd_new_file_close(&file);
    CHECK_EQ(0, stat(path_of("access"), &status));
    CHECK_EQ(0604, status.st_mode & 07777);
    CHECK_EQ(0, unlink(path_of("access")));
}

static void
test_all(void)
{
    test_life();
    test_given_up();
    test_taken();
    test_access();
}

static void
test_with_names(void)
{
    struct vd_new_file file;
    without_unnamed_files();
    CHECK_OK(vd_new_file_open(path_of("hidden"), &file));
    CHECK(file.temporary != NULL);
    CHECK_EQ(1, count_files());
    vd_new_file_close(&file);
    test_all();
}

static void
test_with_links(void)
{
    without_rename();
    test_with_names();
}

static void
test_failed_sync(void)
{
    struct vd_new_file file;
    without_sync();
    CHECK_OK(vd_new_file_open(path_of("lost"), &file));
    CHECK_EQ(1117, vd_new_file_publish(&file));
    vd_new_file_close(&file);
    CHECK_EQ(0, count_files());
}

/* ---- paths between directories ---- */

static void
check_between(const char *from, const char *parent, const char *expected)
{
    char16_t *text;
    char *bytes;
    if (CHECK_OK(vd_parent_path_between(from, parent, &text))) {
        CHECK_OK(vd_utf16_to_bytes(text, &bytes));
        CHECK_STR(expected, bytes);
        free(bytes);
        free(text);
    }
}

static void
test_between(void)
{
    char16_t *text;
    check_between("/vm", "/vm/base.vhdx", ".\\base.vhdx");
    check_between("/vm", "/vm/old/base.vhdx", ".\\old\\base.vhdx");
    check_between("/vm/a", "/vm/base.vhdx", "..\\base.vhdx");
    check_between("/vm/a/b", "/vm/c/base.vhdx", "..\\..\\c\\base.vhdx");
    check_between("/vm", "/vms/base.vhdx", "..\\vms\\base.vhdx");
    check_between("/vms", "/vm/base.vhdx", "..\\vm\\base.vhdx");
    check_between("/", "/base.vhdx", ".\\base.vhdx");
    check_between("/vm", "/base.vhdx", "..\\base.vhdx");
    check_between("/", "/vm/base.vhdx", ".\\vm\\base.vhdx");
    check_between("/vm", "/vm/\xC3\xA9.vhdx", ".\\\xC3\xA9.vhdx");
    CHECK_EQ(123, vd_parent_path_between("/vm", "/vm/a\\b.vhdx", &text));
}

static void
test_mounted(void)
{
    struct stat status;
    CHECK_EQ(0, stat("/proc", &status));
    CHECK(vd_is_mounted(status.st_dev));
    CHECK(!vd_is_mounted((dev_t)-1));
}

int
main(int argc, char **argv)
{
    if (argc != 2) {
        check_broken("usage: test_new_file DIRECTORY");
    }
    directory = argv[1];
    in_child(test_with_names);
    in_child(test_with_links);
    in_child(test_failed_sync);
    test_all();
    test_between();
    test_mounted();
    return check_result();
}
