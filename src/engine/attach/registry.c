/*
 * The directory of records (registry.h).
 *
 * Files in it: "lock"; "new", a record being written; "loop3", "file1" and
 * "handle1"; what shown.c keeps there, in a user's;
 * "loop3.detaching" while somebody takes the device away.  Everything is
 * done relative to a descriptor of the directory and without following
 * symbolic links.
 */
#include "attach/registry.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "attach/paths.h"
#include "attach/text.h"
#include "attach/udev.h"
#include "attach/upkeep_socket.h"
#include "base/cleanup.h"
#include "base/trace.h"

#define LOCK_NAME "lock"
#define NEW_NAME "new"
#define HANDLE_PREFIX "handle"
#define DETACHING_SUFFIX ".detaching"
#define FILE_NAME_SIZE (VD_RECORD_NAME_SIZE + sizeof(DETACHING_SUFFIX))

/* -- the directory -- */

static bool
is_own_directory(const char *path)
{
    struct stat status;
    return path != NULL && path[0] == '/' && stat(path, &status) == 0 &&
           S_ISDIR(status.st_mode) && status.st_uid == geteuid();
}

vd_error
vd_registry_user_path(char **path_out)
{
    char *path;
    const char *parent = getenv("XDG_RUNTIME_DIR");
    if (!is_own_directory(parent)) {
        vd_trace(VD_TRACE_ATTACH, "XDG_RUNTIME_DIR is no directory of ours");
        return ERROR_NOT_FOUND;
    }
    if (asprintf(&path, "%s/" VD_RECORDS_DIRECTORY, parent) < 0) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    *path_out = path;
    return ERROR_SUCCESS;
}

vd_error
vd_registry_path(char **path_out)
{
    if (geteuid() != 0) {
        return vd_registry_user_path(path_out);
    }
    char *path = strdup(VD_PATH_RECORDS);
    if (path == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    *path_out = path;
    return ERROR_SUCCESS;
}

/* Only root and its owner may have a say in it. */
static vd_error
check_directory(const char *path, int dir)
{
    struct stat status;
    if (fstat(dir, &status) < 0) {
        return vd_error_from_errno(errno);
    }
    if ((status.st_uid != 0 && status.st_uid != geteuid()) ||
        (status.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
        vd_trace(VD_TRACE_ATTACH, "%s belongs to others, or is open to them",
                 path);
        return ERROR_ACCESS_DENIED;
    }
    return ERROR_SUCCESS;
}

static vd_error
open_directory(const char *path, int *dir_out)
{
    int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    VD_AUTO_CLOSE int dir = open(path, flags);
    if (dir < 0) {
        int error_number = errno;
        vd_trace(VD_TRACE_ATTACH, "%s: %s", path, strerror(error_number));
        if (error_number == ENOENT) {
            return ERROR_NOT_FOUND;
        }
        return error_number == ENOTDIR || error_number == ELOOP
                   ? ERROR_ACCESS_DENIED
                   : vd_error_from_errno(error_number);
    }
    vd_error error = check_directory(path, dir);
    if (error == ERROR_SUCCESS) {
        *dir_out = vd_take_fd(&dir);
    }
    return error;
}

static vd_error
make_directory(const char *path, int *dir_out)
{
    bool made = mkdir(path, 0700) == 0;
    if (!made && errno != EEXIST) {
        vd_trace(VD_TRACE_ATTACH, "%s: %s", path, strerror(errno));
        return vd_error_from_errno(errno);
    }
    VD_AUTO_CLOSE int dir = -1;
    vd_error error = open_directory(path, &dir);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    /* Whatever the umask: everybody may see what root has attached. */
    if (made && geteuid() == 0 && fchmod(dir, 0755) < 0) {
        return vd_error_from_errno(errno);
    }
    *dir_out = vd_take_fd(&dir);
    return ERROR_SUCCESS;
}

vd_error
vd_registry_open(const char *path, bool create, int *dir_out)
{
    return create ? make_directory(path, dir_out)
                  : open_directory(path, dir_out);
}

/* -- locks -- */

static vd_error
wait_for_lock(int fd)
{
    while (flock(fd, LOCK_EX) < 0) {
        if (errno != EINTR) {
            return vd_error_from_errno(errno);
        }
    }
    return ERROR_SUCCESS;
}

vd_error
vd_registry_lock(int dir, int *lock_out)
{
    int flags = O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC;
    VD_AUTO_CLOSE int lock = openat(dir, LOCK_NAME, flags, 0600);
    if (lock < 0) {
        vd_trace(VD_TRACE_ATTACH, "lock of the records: %s", strerror(errno));
        return vd_loop_error(errno);
    }
    vd_error error = wait_for_lock(lock);
    if (error == ERROR_SUCCESS) {
        *lock_out = vd_take_fd(&lock);
    }
    return error;
}

vd_error
vd_registry_lock_record(int record_fd)
{
    return wait_for_lock(record_fd);
}

static struct flock
whole_file(void)
{
    return (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET};
}

vd_error
vd_registry_mark_alive(int record_fd)
{
    struct flock lock = whole_file();
    if (fcntl(record_fd, F_OFD_SETLK, &lock) < 0) {
        return vd_error_from_errno(errno);
    }
    return ERROR_SUCCESS;
}

void
vd_registry_mark_dead(int record_fd)
{
    struct flock lock = whole_file();
    lock.l_type = F_UNLCK;
    fcntl(record_fd, F_OFD_SETLK, &lock);
}

bool
vd_registry_alive(int record_fd)
{
    struct flock lock = whole_file();
    /* In doubt he lives. */
    return fcntl(record_fd, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

/* -- reading -- */

static bool
file_name(const char *name, bool detaching, char buffer[FILE_NAME_SIZE])
{
    return vd_text_format(buffer, FILE_NAME_SIZE, "%s%s", name,
                          detaching ? DETACHING_SUFFIX : "");
}

static bool
is_numbered(const char *name, const char *prefix, uint64_t *number_out)
{
    size_t length = strlen(prefix);
    return strncmp(name, prefix, length) == 0 &&
           vd_text_number(name + length, number_out);
}

/* Takes a file's name apart; false if no record is called so. */
static bool
parse_file_name(const char *text, struct vd_record *record)
{
    uint64_t number;
    const char *suffix = strchr(text, '.');
    size_t length = suffix == NULL ? strlen(text) : (size_t)(suffix - text);
    if ((suffix != NULL && strcmp(suffix, DETACHING_SUFFIX) != 0) ||
        !vd_text_format(record->name, sizeof(record->name), "%.*s",
                        (int)length, text)) {
        return false;
    }
    record->detaching = suffix != NULL;
    return vd_record_is_device_name(record->name) ||
           is_numbered(record->name, VD_RECORD_FILE_PREFIX, &number) ||
           is_numbered(record->name, HANDLE_PREFIX, &number);
}

static vd_error
read_whole(int fd, char *text, size_t *length_out)
{
    size_t length = 0;
    for (;;) {
        ssize_t done = pread(fd, text + length,
                             VD_RECORD_SIZE_MAX + 1 - length, (off_t)length);
        if (done < 0) {
            return vd_error_from_errno(errno);
        }
        if (done == 0) {
            break;
        }
        length += (size_t)done;
    }
    if (length > VD_RECORD_SIZE_MAX) {
        return ERROR_INVALID_DATA;
    }
    text[length] = '\0';
    *length_out = length;
    return ERROR_SUCCESS;
}

static vd_error
read_record(int fd, struct vd_record *out)
{
    struct stat status;
    size_t length = 0;
    if (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode)) {
        return ERROR_INVALID_DATA;
    }
    VD_AUTO_FREE char *text = malloc(VD_RECORD_SIZE_MAX + 2);
    if (text == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    vd_error error = read_whole(fd, text, &length);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    return vd_record_parse(text, length, out);
}

/* A record must be called as what it tells of. */
static bool
name_fits(const struct vd_record *record, const char *name)
{
    uint64_t number;
    if (vd_record_has_device(record)) {
        return strcmp(name, record->loop.name) == 0;
    }
    return vd_record_has_file(record)
               ? is_numbered(name, VD_RECORD_FILE_PREFIX, &number) &&
                     number == record->shown.number
               : is_numbered(name, HANDLE_PREFIX, &number);
}

/* O_NONBLOCK: it may be a FIFO that somebody has put there. */
static vd_error
open_record(int dir, const char *file, struct vd_entry *out)
{
    struct vd_record named = {.image_path = NULL};
    struct vd_entry entry;
    if (!parse_file_name(file, &named)) {
        return ERROR_NOT_FOUND;
    }
    int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
    VD_AUTO_CLOSE int fd = openat(dir, file, flags);
    if (fd < 0) {
        return errno == ENOENT ? ERROR_NOT_FOUND : vd_error_from_errno(errno);
    }
    vd_error error = read_record(fd, &entry.record);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (!name_fits(&entry.record, named.name)) {
        vd_trace(VD_TRACE_ATTACH, "record %s tells of another", file);
        vd_record_clear(&entry.record);
        return ERROR_INVALID_DATA;
    }
    memcpy(entry.record.name, named.name, sizeof(named.name));
    entry.record.detaching = named.detaching;
    entry.fd = vd_take_fd(&fd);
    *out = entry;
    return ERROR_SUCCESS;
}

vd_error
vd_registry_find(int dir, const char *name, struct vd_entry *out)
{
    char file[FILE_NAME_SIZE];
    for (int detaching = 0; detaching < 2; detaching++) {
        if (!file_name(name, detaching == 1, file)) {
            return ERROR_NOT_FOUND;
        }
        vd_error error = open_record(dir, file, out);
        if (error != ERROR_NOT_FOUND) {
            return error;
        }
    }
    return ERROR_NOT_FOUND;
}

void
vd_entry_close(struct vd_entry *entry)
{
    vd_record_clear(&entry->record);
    if (entry->fd >= 0) {
        close(entry->fd);
        entry->fd = -1;
    }
}

/* -- confirming and sweeping -- */

static void
read_boot_id(char buffer[VD_BOOT_ID_SIZE])
{
    if (vd_text_read_line(VD_PATH_BOOT_ID, buffer, VD_BOOT_ID_SIZE) !=
        ERROR_SUCCESS) {
        buffer[0] = '\0';
    }
}

/* diskseq starts again with the kernel; /run may outlive it in a container. */
static bool
of_this_boot(const struct vd_record *record)
{
    char boot_id[VD_BOOT_ID_SIZE];
    read_boot_id(boot_id);
    return boot_id[0] == '\0' || record->boot_id[0] == '\0' ||
           strcmp(boot_id, record->boot_id) == 0;
}

static bool
confirmed(const struct vd_entry *entry)
{
    const struct vd_record *record = &entry->record;
    if (vd_record_has_device(record)) {
        return of_this_boot(record) && vd_loop_bound(&record->loop);
    }
    return vd_record_has_file(record)
               ? of_this_boot(record) && vd_shown_alive(record)
               : vd_registry_alive(entry->fd);
}

/* Undoes what outlives an attachment that has ended by itself.  Whoever was
 * detaching it has restored the node, and it may have a new owner. */
static void
sweep_record(int dir, const struct vd_record *record)
{
    vd_trace(VD_TRACE_ATTACH, "removing the record of %s: %s is over",
             record->image_path, record->name);
    if (vd_record_has_device(record)) {
        vd_udev_remove(&record->loop);
    }
    if (vd_record_has_device(record) && !record->detaching) {
        vd_node_restore(record->loop.name, &record->node);
    }
    if (vd_record_has_file(record)) {
        vd_shown_remove(&record->shown);
    }
    vd_registry_remove(dir, record->name, record->detaching);
}

/* A growing array of records. */
struct collection {
    struct vd_record *records;
    size_t count;
    size_t room;
};

static vd_error
collect(struct collection *collection, struct vd_record *record)
{
    if (collection->count == collection->room) {
        size_t room = collection->room == 0 ? 16 : collection->room * 2;
        struct vd_record *records =
            reallocarray(collection->records, room, sizeof(*records));
        if (records == NULL) {
            return ERROR_NOT_ENOUGH_MEMORY;
        }
        collection->records = records;
        collection->room = room;
    }
    collection->records[collection->count++] = *record;
    *record = (struct vd_record){.image_path = NULL}; /* handed over */
    return ERROR_SUCCESS;
}

/* What cannot be read is no reason to hide the others. */
static vd_error
read_entry(int dir, const char *file, bool sweep,
           struct collection *collection)
{
    struct vd_entry entry;
    vd_error error = open_record(dir, file, &entry);
    if (error == ERROR_NOT_ENOUGH_MEMORY ||
        error == ERROR_TOO_MANY_OPEN_FILES) {
        return error;
    }
    if (error != ERROR_SUCCESS) {
        if (error != ERROR_NOT_FOUND) {
            vd_trace(VD_TRACE_ATTACH, "record %s ignored: error %u", file,
                     error);
        }
        return ERROR_SUCCESS;
    }
    if (confirmed(&entry)) {
        error = collect(collection, &entry.record);
    }
    else if (sweep) {
        sweep_record(dir, &entry.record);
    }
    vd_entry_close(&entry);
    return error;
}

static vd_error
read_entries(int dir, DIR *entries, bool sweep, struct collection *collection)
{
    const struct dirent *entry;
    while ((entry = readdir(entries)) != NULL) {
        vd_error error = read_entry(dir, entry->d_name, sweep, collection);
        if (error != ERROR_SUCCESS) {
            return error;
        }
    }
    return ERROR_SUCCESS;
}

vd_error
vd_registry_read(int dir, bool sweep, struct vd_record **out,
                 size_t *count_out)
{
    struct collection collection = {NULL, 0, 0};
    VD_AUTO_CLOSE int fd =
        openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *entries = fd < 0 ? NULL : fdopendir(fd);
    if (entries == NULL) {
        return vd_error_from_errno(errno);
    }
    fd = -1; /* entries has it */
    vd_error error = read_entries(dir, entries, sweep, &collection);
    closedir(entries);
    if (error != ERROR_SUCCESS) {
        vd_registry_free(collection.records, collection.count);
        return error;
    }
    *out = collection.records;
    *count_out = collection.count;
    return ERROR_SUCCESS;
}

void
vd_registry_sweep(int dir, const char *name)
{
    struct vd_entry entry;
    if (vd_registry_find(dir, name, &entry) != ERROR_SUCCESS) {
        return;
    }
    if (!confirmed(&entry)) {
        sweep_record(dir, &entry.record);
    }
    vd_entry_close(&entry);
}

void
vd_registry_free(struct vd_record *records, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        vd_record_clear(&records[i]);
    }
    free(records);
}

static void
supersede(int dir, const char *name, bool detaching)
{
    char file[FILE_NAME_SIZE];
    struct vd_entry entry;
    if (!file_name(name, detaching, file)) {
        return;
    }
    vd_error error = open_record(dir, file, &entry);
    if (error == ERROR_SUCCESS) {
        sweep_record(dir, &entry.record);
        vd_entry_close(&entry);
    }
    else if (error != ERROR_NOT_FOUND) {
        vd_registry_remove(dir, name, detaching); /* in the way */
    }
}

void
vd_registry_supersede(int dir, const char *name)
{
    supersede(dir, name, false);
    supersede(dir, name, true);
}

/* -- writing -- */

static vd_error
write_text(int fd, const char *text, size_t length)
{
    while (length > 0) {
        ssize_t done = write(fd, text, length);
        if (done < 0 && errno != EINTR) {
            vd_trace(VD_TRACE_ATTACH, "writing a record: %s", strerror(errno));
            return vd_error_from_errno(errno);
        }
        if (done > 0) {
            text += done;
            length -= (size_t)done;
        }
    }
    return ERROR_SUCCESS;
}

/* Locked before it has its name, so that nobody finds it without. */
static vd_error
write_new(int dir, const struct vd_record *record, int *fd_out)
{
    VD_AUTO_FREE char *text = NULL;
    size_t length = 0;
    vd_error error = vd_record_format(record, &text, &length);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    unlinkat(dir, NEW_NAME, 0); /* left by a crash */
    int flags = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    VD_AUTO_CLOSE int fd = openat(dir, NEW_NAME, flags, 0644);
    if (fd < 0 || fchmod(fd, 0644) < 0) {
        vd_trace(VD_TRACE_ATTACH, "a new record: %s", strerror(errno));
        return vd_error_from_errno(errno);
    }
    error = write_text(fd, text, length);
    if (error == ERROR_SUCCESS) {
        error = vd_registry_mark_alive(fd);
    }
    if (error == ERROR_SUCCESS) {
        *fd_out = vd_take_fd(&fd);
    }
    return error;
}

static vd_error
link_new(int dir, const char *name)
{
    if (linkat(dir, NEW_NAME, dir, name, 0) < 0) {
        return vd_error_from_errno(errno); /* EEXIST: ERROR_FILE_EXISTS */
    }
    return ERROR_SUCCESS;
}

/* The first free name, "handle1", "handle2" ... */
static vd_error
link_handle(int dir, struct vd_record *record)
{
    for (unsigned number = 1;; number++) {
        if (!vd_text_format(record->name, sizeof(record->name),
                            HANDLE_PREFIX "%u", number)) {
            return ERROR_NO_SYSTEM_RESOURCES;
        }
        vd_error error = link_new(dir, record->name);
        if (error != ERROR_FILE_EXISTS) {
            return error;
        }
    }
}

static vd_error
give_name(int dir, struct vd_record *record)
{
    if (!vd_record_has_device(record) && !vd_record_has_file(record)) {
        return link_handle(dir, record);
    }
    if (vd_record_has_device(record)
            ? !vd_text_format(record->name, sizeof(record->name), "%s",
                              record->loop.name)
            : !vd_text_format(record->name, sizeof(record->name),
                              VD_RECORD_FILE_PREFIX "%llu",
                              (unsigned long long)record->shown.number)) {
        return ERROR_INVALID_NAME;
    }
    return link_new(dir, record->name);
}

vd_error
vd_registry_add(int dir, struct vd_record *record, int *fd_out)
{
    VD_AUTO_CLOSE int fd = -1;
    read_boot_id(record->boot_id);
    vd_error error = write_new(dir, record, &fd);
    if (error == ERROR_SUCCESS) {
        error = give_name(dir, record);
    }
    unlinkat(dir, NEW_NAME, 0);
    if (error == ERROR_SUCCESS) {
        *fd_out = vd_take_fd(&fd);
    }
    return error;
}

/* -- changing -- */

static bool
same_file(int dir, const char *name, bool detaching, int record_fd)
{
    char file[FILE_NAME_SIZE];
    struct stat there;
    struct stat ours;
    return file_name(name, detaching, file) &&
           fstatat(dir, file, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
           fstat(record_fd, &ours) == 0 && there.st_ino == ours.st_ino &&
           there.st_dev == ours.st_dev;
}

bool
vd_registry_current(int dir, const char *name, int record_fd,
                    bool *detaching_out)
{
    for (int detaching = 0; detaching < 2; detaching++) {
        if (same_file(dir, name, detaching == 1, record_fd)) {
            *detaching_out = detaching == 1;
            return true;
        }
    }
    return false;
}

bool
vd_registry_undisturbed(const char *path, const char *name, int record_fd)
{
    char file[PATH_MAX];
    struct stat there;
    struct stat ours;
    if (!vd_text_format(file, sizeof(file), "%s/%s", path, name) ||
        fstat(record_fd, &ours) < 0) {
        return true; /* in doubt nothing has happened */
    }
    if (lstat(file, &there) < 0) {
        return errno != ENOENT;
    }
    return there.st_ino == ours.st_ino && there.st_dev == ours.st_dev;
}

vd_error
vd_registry_set_detaching(int dir, const char *name, bool detaching)
{
    char from[FILE_NAME_SIZE];
    char to[FILE_NAME_SIZE];
    if (!file_name(name, !detaching, from) ||
        !file_name(name, detaching, to)) {
        return ERROR_INVALID_NAME;
    }
    if (renameat(dir, from, dir, to) < 0) {
        vd_trace(VD_TRACE_ATTACH, "renaming record %s: %s", name,
                 strerror(errno));
        return vd_loop_error(errno);
    }
    return ERROR_SUCCESS;
}

void
vd_registry_remove(int dir, const char *name, bool detaching)
{
    char file[FILE_NAME_SIZE];
    if (file_name(name, detaching, file) && unlinkat(dir, file, 0) < 0 &&
        errno != ENOENT) {
        vd_trace(VD_TRACE_ATTACH, "removing record %s: %s", file,
                 strerror(errno));
    }
    vd_upkeep_socket_remove(dir, name);
}
