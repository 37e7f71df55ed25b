/*
 * VHDs through the disk layer, on real files: what a TRIM costs a child, what
 * it gives back to the file system, and a parent that looks changed.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/posix_file.h"
#include "check.h"
#include "disk/disk.h"
#include "vhd_support.h"

#define BLOCK_2M (2ull * MIB)

static const char *directory;
static uint8_t buffer[4 * MIB], found[4 * MIB];

/* A dynamic disk, or a child of p.vhd if `child`. */
static void
make(const char *name, uint64_t size, bool child, uint32_t time_stamp)
{
    const char *path = check_path(directory, name);
    struct vd_posix_file *file;
    struct vd_vhd_create_request request =
        create_request(child ? VHD_TYPE_DIFFERENCING : VHD_TYPE_DYNAMIC, size);
    if (child) {
        request.parent_id = request.unique_id;
        request.unique_id.bytes[0] ^= 1;
        request.relative_path = u".\\p.vhd";
        request.parent_time_stamp = time_stamp;
    }
    check_write_file(path, "", 0);
    CHECK_OK(vd_posix_file_open(AT_FDCWD, path, true, &file));
    CHECK_OK(vd_vhd_create(&file->file, &request));
    vd_posix_file_close(file);
}

static struct vd_disk *
open_live(const char *name)
{
    struct vd_disk_options options = {.writable = true};
    struct vd_disk *view, *live = NULL;
    struct vd_disk_files files;
    if (!CHECK_OK(
            vd_disk_open(check_path(directory, name), &options, &view))) {
        check_broken("the disk does not open");
    }
    CHECK_OK(vd_disk_reopen(view, true, &files));
    CHECK_OK(vd_disk_open_files(&files, true, &live));
    vd_disk_close(view);
    return live;
}

static uint64_t
file_size(const char *name)
{
    struct stat status;
    CHECK_EQ(0, stat(check_path(directory, name), &status));
    return (uint64_t)status.st_size;
}

static uint64_t
allocated(const char *name)
{
    struct stat status;
    CHECK_EQ(0, stat(check_path(directory, name), &status));
    return (uint64_t)status.st_blocks * 512;
}

static void
check_reads(struct vd_disk *disk, uint64_t offset, size_t length, int value)
{
    memset(buffer, value, length);
    memset(found, ~value, length);
    CHECK_OK(vd_disk_read(disk, found, length, offset));
    CHECK_BYTES(buffer, found, length);
}

static void
write_value(struct vd_disk *disk, uint64_t offset, size_t length, int value)
{
    memset(buffer, value, length);
    CHECK_OK(vd_disk_write(disk, buffer, length, offset));
}

/* What mkfs does first: nothing is there, so nothing is stored, whether the
 * space may go or not. */
static void
zeros_over_nothing_cost_nothing(void)
{
    uint64_t size = 64 * GIB;
    make("p.vhd", size, false, 0);
    make("c.vhd", size, true, 0);
    uint64_t before = file_size("c.vhd");
    struct vd_disk *disk = open_live("c.vhd");
    CHECK_OK(vd_disk_zero(disk, 0, size, true));
    CHECK_OK(vd_disk_zero(disk, 4096, size - 8192, false));
    CHECK_OK(vd_disk_flush(disk));
    CHECK_EQ(before, file_size("c.vhd"));
    write_value(disk, 5 * BLOCK_2M + 4096, 4096, 0x11);
    CHECK_OK(vd_disk_zero(disk, 0, size, true));
    check_reads(disk, 5 * BLOCK_2M, 16384, 0);
    check_reads(disk, size - 4096, 4096, 0);
    CHECK_OK(vd_disk_finish(disk));
    CHECK_EQ(before + 2 * MIB + 4096,
             file_size("c.vhd")); /* what is written */
}

/* Where the parent has something, zeros hide it: only there, by blocks. */
static void
zeros_hide_what_the_parent_has(void)
{
    uint64_t size = 16 * GIB;
    make("p.vhd", size, false, 0);
    struct vd_disk *disk = open_live("p.vhd");
    write_value(disk, 3 * BLOCK_2M, BLOCK_2M, 0x22);
    write_value(disk, 8 * GIB + 512, 512, 0x33);
    CHECK_OK(vd_disk_finish(disk));
    make("c.vhd", size, true, 0);
    uint64_t before = file_size("c.vhd");
    disk = open_live("c.vhd");
    CHECK_OK(
        vd_disk_zero(disk, 3 * BLOCK_2M + MIB, size - 6 * BLOCK_2M, true));
    check_reads(disk, 3 * BLOCK_2M, MIB, 0x22);
    check_reads(disk, 3 * BLOCK_2M + MIB, 2 * MIB, 0);
    check_reads(disk, 8 * GIB, 4096, 0);
    CHECK_OK(vd_disk_finish(disk));
    CHECK_EQ(before + 2 * (2 * MIB + 4096), file_size("c.vhd"));
    disk = open_live("c.vhd");
    check_reads(disk, 3 * BLOCK_2M, MIB, 0x22);
    check_reads(disk, 3 * BLOCK_2M + MIB, 2 * MIB, 0);
    check_reads(disk, 8 * GIB, 4096, 0);
    CHECK_OK(vd_disk_finish(disk));
}

/* A child may lack its parents only if nothing asks for them. */
static void
zeros_need_the_parent(void)
{
    struct vd_disk_options options = {.writable = true, .no_parents = true};
    struct vd_disk *view, *disk;
    struct vd_disk_files files;
    CHECK_OK(vd_disk_open(check_path(directory, "c.vhd"), &options, &view));
    CHECK_OK(vd_disk_reopen(view, true, &files));
    CHECK_OK(vd_disk_open_first(&files, &disk));
    CHECK_OK(vd_disk_zero(disk, 9 * GIB, 4096, false)); /* stored */
    check_reads(disk, 9 * GIB, 4096, 0);
    CHECK_EQ(ERROR_VHD_PARENT_VHD_NOT_FOUND,
             vd_disk_read(disk, found, 512, 9 * GIB + 4096));
    CHECK_OK(vd_disk_finish(disk));
    vd_disk_close(view);
}

/* The space of whole blocks is the file system's again once the release is
 * durable, and what is trimmed between two flushes at the end. */
static void
trimmed_blocks_are_given_back(void)
{
    make("d.vhd", 64 * MIB, false, 0);
    struct vd_disk *disk = open_live("d.vhd");
    for (uint64_t block = 0; block < 16; block++) {
        write_value(disk, block * BLOCK_2M, BLOCK_2M, (int)block + 1);
    }
    CHECK_OK(vd_disk_flush(disk));
    uint64_t full = allocated("d.vhd");
    CHECK(full >= 32 * MIB);
    CHECK_OK(vd_disk_zero(disk, 2 * BLOCK_2M, 8 * BLOCK_2M, true));
    CHECK(allocated("d.vhd") >= 32 * MIB); /* may still be looked at */
    CHECK_OK(vd_disk_flush(disk));
    CHECK(allocated("d.vhd") <= full - 15 * MIB);
    check_reads(disk, 1 * BLOCK_2M, BLOCK_2M, 2);
    check_reads(disk, 2 * BLOCK_2M, BLOCK_2M, 0);
    write_value(disk, 20 * BLOCK_2M, 512, 0x44); /* takes one of them */
    check_reads(disk, 20 * BLOCK_2M + 512, MIB, 0);
    CHECK_OK(vd_disk_zero(disk, 10 * BLOCK_2M, 2 * BLOCK_2M, true));
    CHECK_OK(vd_disk_finish(disk));
    CHECK(allocated("d.vhd") <= full - 18 * MIB);
    disk = open_live("d.vhd");
    check_reads(disk, 12 * BLOCK_2M, BLOCK_2M, 13);
    check_reads(disk, 20 * BLOCK_2M, 512, 0x44);
    CHECK_OK(vd_disk_finish(disk));
}

/* What is said on standard error while the child is opened. */
static void
said_while_opening(const char *name, char *text, size_t size)
{
    const char *path = check_path(directory, "said");
    struct vd_disk_options options = {.device_id = 0};
    struct vd_disk *disk;
    fflush(stderr);
    int kept = dup(2);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (kept < 0 || fd < 0 || dup2(fd, 2) < 0) {
        check_broken("redirecting standard error");
    }
    vd_error error =
        vd_disk_open(check_path(directory, name), &options, &disk);
    fflush(stderr);
    dup2(kept, 2);
    close(kept);
    ssize_t length = pread(fd, text, size - 1, 0);
    close(fd);
    text[length > 0 ? length : 0] = '\0';
    CHECK_OK(error);
    vd_disk_close(disk);
}

/* As on Windows: told, not refused. */
static void
a_parent_of_another_time_is_told(void)
{
    char text[4096];
    struct timespec times[2] = {{.tv_sec = 946684800 + 1000},
                                {.tv_sec = 946684800 + 1000}};
    make("p.vhd", 64 * MIB, false, 0);
    CHECK_EQ(0, utimensat(AT_FDCWD, check_path(directory, "p.vhd"), times, 0));
    make("c.vhd", 64 * MIB, true, 0); /* does not know */
    said_while_opening("c.vhd", text, sizeof(text));
    CHECK(strstr(text, "after the child") == NULL);
    make("c.vhd", 64 * MIB, true, 1000);
    said_while_opening("c.vhd", text, sizeof(text));
    CHECK(strstr(text, "after the child") == NULL);
    make("c.vhd", 64 * MIB, true, 900);
    said_while_opening("c.vhd", text, sizeof(text));
    CHECK(strstr(text, "p.vhd: changed 100 s after the child was made") !=
          NULL);
}

int
main(int argc, char **argv)
{
    directory = argc > 1 ? argv[1] : ".";
    setenv("VIRTDISK_DEBUG", "disk", 1);
    a_parent_of_another_time_is_told();
    zeros_over_nothing_cost_nothing();
    zeros_hide_what_the_parent_has();
    zeros_need_the_parent();
    trimmed_blocks_are_given_back();
    return check_result();
}
