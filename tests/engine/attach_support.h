/*
 * For the tests of the attach layer: a world of their own, images, and what
 * is left behind.
 */
#ifndef VIRTDISK_TESTS_ATTACH_SUPPORT_H
#define VIRTDISK_TESTS_ATTACH_SUPPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "attach/attach.h"
#include "attach/loop.h"
#include "disk/disk.h"

#define RECORDS "/run/virtdisk"

/* Gives the program, which works in that directory, a mount namespace with an
 * empty /run, so that no other program's records are seen or touched; or skips
 * it without root or loop devices. */
void world_begin(const char *directory);

/* A fixed VHD of this many bytes; byte i is pattern_byte(seed, i). */
void make_vhd(const char *path, size_t size, unsigned seed);
uint8_t pattern_byte(unsigned seed, size_t i);

/* An ISO 9660 image of this many 2,048-byte sectors, at least 18. */
void make_iso(const char *path, size_t sectors);

/* Ends the program if it fails. */
struct vd_disk *open_disk(const char *path, bool writable);

/* The whole disk, read-write if it is, with a device, not permanent, with
 * partitions, and the node as it is. */
struct vd_attach_request plain_request(const struct vd_disk *disk);

/* Attaches or ends the program. */
struct vd_attachment *attach_or_stop(struct vd_disk *disk,
                                     const struct vd_attach_request *request);

/* Whether length bytes of a file or device at offset are the pattern from
 * its start on. */
bool shows_pattern(const char *path, uint64_t offset, size_t length,
                   unsigned seed, size_t start);

/* The first line of a file, "" if it has none; static storage. */
const char *first_line(const char *path);

/* Loop devices whose image lies below directory; the last one's name goes to
 * name (VD_LOOP_NAME_SIZE bytes) unless that is NULL. */
size_t count_devices(const char *directory, char *name);

/* Entries of a directory, 0 if there is none. */
size_t count_entries(const char *directory);
size_t count_records(void);
size_t count_fds(void);

/* Whether this process has so many threads in the end: the watcher ends by
 * itself. */
bool threads_become(size_t count);

/* "loop3" of "/dev/loop3". */
const char *base_name(const char *device);

/* -- other processes -- */

/* What a child runs; what it returns is its exit status. */
typedef int child_function(void *context);

pid_t start_child(child_function *function, void *context);

/* The exit status; -1 if a signal ended it. */
int wait_child(pid_t child);

/* A barrier between processes: a pipe. */
struct signal_pipe {
    int fds[2];
};

struct signal_pipe pipe_new(void);
void pipe_send(const struct signal_pipe *pipe, char value);
char pipe_receive(const struct signal_pipe *pipe);
void pipe_close(struct signal_pipe *pipe);

#endif
