/*
 * Files that disks are shown as (shown.h): their names, their life, their
 * end.  Who mounts them is server/keeper.c.
 *
 * A name is used again only when there is neither a file nor a record of it:
 * whoever cleans up after an attachment cannot meet a later one.
 */
#include "attach/shown.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "attach/record.h"
#include "attach/registry.h"
#include "attach/text.h"
#include "attach/wait.h"
#include "base/cleanup.h"
#include "base/posix_file.h"
#include "base/trace.h"
#include "disk/image_lock.h"
#include "server/fusermount.h"

#define FILE_PREFIX "disk-"
#define FILE_NAME_SIZE 32

/* More than fusermount3 lets a user mount, by default. */
#define NUMBER_MAX 10000

#define CLOSING_LIMIT_MS 30000
#define KEEPER_LIMIT_MS 5000

/* Each try to unmount is a process. */
#define UNMOUNT_PAUSE_MS 10
#define UNMOUNT_PAUSE_MAX_MS 320

/* -- whether and where -- */

bool
vd_shown_possible(void)
{
    VD_AUTO_FREE char *directory = NULL;
    if (vd_registry_user_path(&directory) != ERROR_SUCCESS) {
        return false;
    }
    if (faccessat(AT_FDCWD, "/dev/fuse", R_OK | W_OK, AT_EACCESS) < 0) {
        vd_trace(VD_TRACE_ATTACH, "/dev/fuse: %s", strerror(errno));
        return false;
    }
    if (vd_fusermount_program() == NULL) {
        vd_trace(VD_TRACE_ATTACH, "fusermount3 is not installed");
        return false;
    }
    return true;
}

/* Ours alone: what is below is to be ours when it is mounted over. */
static vd_error
open_directory(const char *path, int *dir_out)
{
    struct stat status;
    VD_AUTO_CLOSE int dir = -1;
    if (mkdir(path, 0700) < 0 && errno != EEXIST) {
        vd_trace(VD_TRACE_ATTACH, "%s: %s", path, strerror(errno));
        return vd_error_from_errno(errno);
    }
    vd_error error = vd_registry_open(path, false, &dir);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (fstat(dir, &status) < 0) {
        return vd_error_from_errno(errno);
    }
    if (status.st_uid != geteuid() || (status.st_mode & 0077) != 0) {
        vd_trace(VD_TRACE_ATTACH, "%s is not this user's alone", path);
        return ERROR_ACCESS_DENIED;
    }
    *dir_out = vd_take_fd(&dir);
    return ERROR_SUCCESS;
}

/* -- a name -- */

/* A place that is being looked for. */
struct search {
    char *directory; /* owned */
    int dir;
    int registry; /* a directory too, perhaps the same */
};

static vd_error
begin_search(struct search *search)
{
    VD_AUTO_FREE char *records = NULL;
    vd_error error = vd_registry_user_path(&search->directory);
    if (error == ERROR_SUCCESS) {
        error = open_directory(search->directory, &search->dir);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_registry_path(&records);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_registry_open(records, true, &search->registry);
    }
    return error;
}

static void
end_search(struct search *search)
{
    free(search->directory);
    if (search->dir >= 0) {
        close(search->dir);
    }
    if (search->registry >= 0) {
        close(search->registry);
    }
}

/* Also one that is being detached, or cannot be read. */
static bool
has_record(const struct search *search, uint64_t number)
{
    char name[VD_RECORD_NAME_SIZE];
    struct vd_entry entry;
    if (!vd_text_format(name, sizeof(name), VD_RECORD_FILE_PREFIX "%llu",
                        (unsigned long long)number)) {
        return true;
    }
    vd_error error = vd_registry_find(search->registry, name, &entry);
    if (error == ERROR_SUCCESS) {
        vd_entry_close(&entry);
    }
    return error != ERROR_NOT_FOUND;
}

/* Left by somebody who was killed: its lock is free then. */
static int
open_left(const struct search *search, const char *name)
{
    int flags = O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
    struct stat status;
    VD_AUTO_CLOSE int fd = openat(search->dir, name, flags);
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0 || fstat(fd, &status) < 0 ||
        !S_ISREG(status.st_mode) || status.st_size != 0 ||
        status.st_nlink != 1) {
        return -1;
    }
    return vd_take_fd(&fd);
}

static int
open_new(const struct search *search, const char *name)
{
    int flags = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    VD_AUTO_CLOSE int fd = openat(search->dir, name, flags, 0600);
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0) {
        return -1;
    }
    return vd_take_fd(&fd);
}

/* ERROR_FILE_EXISTS if the next number is to be tried. */
static vd_error
take_number(const struct search *search, uint64_t number,
            struct vd_shown *shown, int *file_out)
{
    char name[FILE_NAME_SIZE];
    VD_AUTO_FREE char *path = NULL;
    if (has_record(search, number)) {
        return ERROR_FILE_EXISTS;
    }
    if (!vd_text_format(name, sizeof(name), FILE_PREFIX "%llu",
                        (unsigned long long)number) ||
        asprintf(&path, "%s/%s", search->directory, name) < 0) {
        path = NULL;
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    int file = open_new(search, name);
    if (file < 0 && errno != EEXIST) {
        vd_trace(VD_TRACE_ATTACH, "%s: %s", path, strerror(errno));
        return vd_error_from_errno(errno);
    }
    if (file < 0 && !vd_fusermount_mounted(path)) {
        file = open_left(search, name);
    }
    if (file < 0) {
        return ERROR_FILE_EXISTS;
    }
    shown->path = VD_TAKE(path);
    shown->number = number;
    *file_out = file;
    return ERROR_SUCCESS;
}

static vd_error
find_number(const struct search *search, struct vd_shown *shown, int *file_out)
{
    for (uint64_t number = 1; number <= NUMBER_MAX; number++) {
        vd_error error = take_number(search, number, shown, file_out);
        if (error != ERROR_FILE_EXISTS) {
            return error;
        }
    }
    vd_trace(VD_TRACE_ATTACH, "%s is full", search->directory);
    return ERROR_NO_SYSTEM_RESOURCES;
}

vd_error
vd_shown_new(struct vd_shown *out, int *file_out)
{
    struct search search = {NULL, -1, -1};
    struct vd_shown shown = {.path = NULL};
    if (getrandom(&shown.mark, sizeof(shown.mark), 0) !=
        (ssize_t)sizeof(shown.mark)) {
        return vd_error_from_errno(errno);
    }
    vd_error error = begin_search(&search);
    if (error == ERROR_SUCCESS) {
        error = find_number(&search, &shown, file_out);
    }
    end_search(&search);
    if (error == ERROR_SUCCESS) {
        *out = shown;
    }
    return error;
}

void
vd_shown_clear(struct vd_shown *shown)
{
    free(shown->path);
    *shown = (struct vd_shown){.path = NULL};
}

/* -- its life -- */

/* Whether the image is where it was, and then whether it is marked. */
static bool
look_at_image(const struct vd_record *record, bool *marked_out)
{
    struct vd_posix_file *file;
    vd_error error =
        vd_posix_file_open(AT_FDCWD, record->image_path, false, &file);
    if (error != ERROR_SUCCESS) {
        vd_trace(VD_TRACE_ATTACH, "%s cannot be looked at: error %u",
                 record->image_path, error);
        return false;
    }
    bool same = file->status.st_dev == record->file_id.device &&
                file->status.st_ino == record->file_id.inode;
    *marked_out = same && vd_image_lock_marked(file->fd, record->shown.mark);
    vd_posix_file_close(file);
    return same;
}

bool
vd_shown_alive(const struct vd_record *record)
{
    bool marked;
    return look_at_image(record, &marked)
               ? marked
               : vd_fusermount_mounted(record->shown.path);
}

/* The owner may have asked for a mode that keeps even him out: there is
 * nothing of his to be flushed then. */
vd_error
vd_shown_flush(const struct vd_shown *shown)
{
    int flags = O_RDONLY | O_NOFOLLOW | O_CLOEXEC;
    VD_AUTO_CLOSE int fd = open(shown->path, flags);
    if (fd < 0 && errno == EACCES) {
        return ERROR_SUCCESS;
    }
    if (fd < 0 || fsync(fd) < 0) {
        vd_trace(VD_TRACE_ATTACH, "flushing %s: %s", shown->path,
                 strerror(errno));
        return vd_error_from_errno(errno);
    }
    return ERROR_SUCCESS;
}

/* -- its end -- */

static void
pause_ms(unsigned pause)
{
    struct timespec time = {0, (long)pause * 1000000};
    nanosleep(&time, NULL); /* a signal only shortens it */
}

static bool
unmount(const struct vd_shown *shown, unsigned limit_ms)
{
    int64_t deadline = vd_wait_now() + limit_ms;
    unsigned pause = UNMOUNT_PAUSE_MS;
    for (;;) {
        vd_fusermount_unmount(shown->path, false);
        if (!vd_fusermount_mounted(shown->path)) {
            return true;
        }
        if (vd_wait_now() + pause >= deadline) {
            vd_trace(VD_TRACE_ATTACH, "%s is open elsewhere", shown->path);
            return false;
        }
        pause_ms(pause);
        pause = pause < UNMOUNT_PAUSE_MAX_MS ? pause * 2 : pause;
    }
}

static bool
wait_until_over(const struct vd_record *record, unsigned limit_ms)
{
    struct vd_wait wait = vd_wait_begin(limit_ms);
    while (vd_shown_alive(record)) {
        if (!vd_wait_more(&wait)) {
            return false;
        }
    }
    return true;
}

/* Unmounted already, and still served: then somebody has it open who had so
 * when its attacher ended, or it is mounted elsewhere only. */
bool
vd_shown_end(const struct vd_record *record, unsigned limit_ms)
{
    if (vd_fusermount_mounted(record->shown.path)) {
        return unmount(&record->shown, limit_ms);
    }
    return wait_until_over(record, limit_ms);
}

/* Whether the file below the mount is there, and with it a keeper who is to
 * remove it: its lock ends with him. */
static bool
is_kept(const char *path)
{
    int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
    VD_AUTO_CLOSE int fd = open(path, flags);
    return fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK;
}

void
vd_shown_wait(const struct vd_record *record)
{
    if (!wait_until_over(record, CLOSING_LIMIT_MS)) {
        vd_trace(VD_TRACE_ATTACH, "%s is still being written",
                 record->image_path);
        return;
    }
    struct vd_wait wait = vd_wait_begin(KEEPER_LIMIT_MS);
    while (is_kept(record->shown.path) && vd_wait_more(&wait)) {
    }
}

void
vd_shown_remove(const struct vd_shown *shown)
{
    if (vd_fusermount_mounted(shown->path)) {
        vd_fusermount_unmount(shown->path, true);
    }
    struct search search = {.dir = AT_FDCWD};
    VD_AUTO_CLOSE int left = vd_fusermount_mounted(shown->path)
                                 ? -1
                                 : open_left(&search, shown->path);
    if (left >= 0) {
        unlink(shown->path);
    }
}
