/*
 * For the tests of the disk server: images for it, being it, and finding it.
 */
#ifndef VIRTDISK_TESTS_SERVER_TOOLS_H
#define VIRTDISK_TESTS_SERVER_TOOLS_H

#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/posix_file.h"
#include "check.h"
#include "format/vhdx_create.h"
#include "server/protocol.h"
#include "server/server.h"

/* The test program is its own server: first in main.  A system call that is
 * not on the server's list ends it, so that it is found; but the thread
 * sanitizer has some of its own. */
static inline void
be_server_if_asked(char **arguments)
{
#ifdef __SANITIZE_THREAD__
    enum vd_confinement confinement = VD_CONFINE_REFUSE;
#else
    enum vd_confinement confinement = VD_CONFINE_KILL;
#endif
    if (strcmp(arguments[0], VD_SERVER_ARGV0) == 0) {
        _exit(vd_server_main(confinement));
    }
    if (getenv("VIRTDISK_SERVER") == NULL) {
        setenv("VIRTDISK_SERVER", "/proc/self/exe", 1);
    }
}

struct vhdx {
    uint64_t size;
    uint32_t block_size;
    uint32_t sector_size;
    const char *parent_path; /* NULL: none */
    const char16_t *parent;  /* as the image is to name it */
};

/* Of the newer of both headers ([MS-VHDX] 2.2.2). */
static inline struct vd_guid
data_write_guid(const char *path)
{
    uint8_t headers[2][4096];
    struct vd_guid guid;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || pread(fd, headers[0], 4096, 65536) != 4096 ||
        pread(fd, headers[1], 4096, 131072) != 4096) {
        check_broken(path);
    }
    close(fd);
    bool second = vd_get_le64(headers[1] + 8) > vd_get_le64(headers[0] + 8);
    memcpy(&guid, headers[second] + 32, sizeof(guid));
    return guid;
}

static inline void
make_vhdx(const char *path, const struct vhdx *vhdx)
{
    static uint8_t serial;
    struct vd_posix_file *file;
    struct vhdx_create_request request = {
        .size_bytes = vhdx->size,
        .block_size = vhdx->block_size,
        .logical_sector_size = vhdx->sector_size,
        .physical_sector_size = 4096,
        .creator = u"virtdisk tests",
        .has_parent = vhdx->parent != NULL,
        .relative_path = vhdx->parent,
    };
    memset(&request.virtual_disk_id, 1, VD_GUID_SIZE);
    memset(&request.file_write_guid, ++serial, VD_GUID_SIZE);
    memset(&request.data_write_guid, 0x80 + serial, VD_GUID_SIZE);
    if (vhdx->parent != NULL) {
        request.parent_linkage = data_write_guid(vhdx->parent_path);
    }
    unlink(path);
    check_write_file(path, "", 0);
    if (vd_posix_file_open(AT_FDCWD, path, true, &file) != ERROR_SUCCESS ||
        vd_vhdx_create(&file->file, &request) != ERROR_SUCCESS) {
        check_broken(path);
    }
    vd_posix_file_close(file);
}

/* Whether a process other than this one has the file open. */
static inline bool
process_has_open(pid_t pid, const char *path)
{
    char directory[64];
    bool found = false;
    snprintf(directory, sizeof(directory), "/proc/%d/fd", pid);
    DIR *fds = opendir(directory);
    const struct dirent *entry;
    while (fds != NULL && (entry = readdir(fds)) != NULL) {
        char target[4096];
        ssize_t length =
            readlinkat(dirfd(fds), entry->d_name, target, sizeof(target) - 1);
        target[length < 0 ? 0 : length] = '\0';
        found |= strcmp(target, path) == 0;
    }
    if (fds != NULL) {
        closedir(fds);
    }
    return found;
}

/* The server that has this image open, 0 if there is none. */
static inline pid_t
find_server(const char *image_path)
{
    pid_t found = 0;
    DIR *processes = opendir("/proc");
    const struct dirent *entry;
    while (processes != NULL && (entry = readdir(processes)) != NULL) {
        pid_t pid = (pid_t)atoi(entry->d_name);
        char path[64], name[64] = "";
        snprintf(path, sizeof(path), "/proc/%d/cmdline", pid);
        int fd = pid > 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        if (fd >= 0 && read(fd, name, sizeof(name) - 1) > 0 &&
            strcmp(name, VD_SERVER_ARGV0) == 0 &&
            process_has_open(pid, image_path)) {
            found = pid;
        }
        if (fd >= 0) {
            close(fd);
        }
    }
    closedir(processes);
    return found;
}

#endif
