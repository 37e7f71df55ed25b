/*
 * A file in memory that loses power: every change since the file was made is
 * recorded, and crash_file_image builds what the medium may hold if the power
 * goes after any of them.
 *
 * The model (FORMATS.md 0): what was written before a barrier that returned
 * is on the medium; of what was written since, any subset of 512-byte sectors
 * is, and the length is old or new.  A sector is never torn.
 */
#ifndef VIRTDISK_TESTS_CRASH_FILE_H
#define VIRTDISK_TESTS_CRASH_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/file.h"

struct crash_file;

struct crash_file *crash_file_new(void);
void crash_file_free(struct crash_file *file);

/* The file as the code under test sees it. */
struct vd_file *crash_file_of(struct crash_file *file);

/* How many changes and barriers there have been. */
size_t crash_file_events(const struct crash_file *file);

/*
 * A new file with what may be on the medium after the first `events` events:
 * of those since the last barrier each sector is taken or not by the random
 * numbers of `seed`; seed 0 takes all of them.
 */
struct crash_file *crash_file_image(const struct crash_file *file,
                                    size_t events, uint64_t seed);

/* Forgets how the file became what it is: all of it is on the medium. */
void crash_file_settle(struct crash_file *file);

/* Files with one clock know which of their events came first: the time is
 * how many changes and barriers there have been in all of them. */
void crash_file_share_clock(struct crash_file *file, struct crash_file *with);
size_t crash_file_clock(const struct crash_file *file);

/* How many events the file had had at that time. */
size_t crash_file_events_before(const struct crash_file *file, size_t time);

/* The n-th change or barrier from now on fails with this error; 0: none. */
void crash_file_fail(struct crash_file *file, size_t countdown,
                     vd_error error);

/* Whether it has not come to that yet. */
bool crash_file_waits(const struct crash_file *file);

/* What is appended reaches the medium with the file's new length or not at
 * all, as on file systems that order the two (ext4, XFS, Btrfs). */
void crash_file_order_appends(struct crash_file *file);

#endif
