/*
 * Small images and shorter calls for the tests of api/.
 */
#ifndef VIRTDISK_TESTS_API_SUPPORT_H
#define VIRTDISK_TESTS_API_SUPPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <virtdisk.h>

#define VHD_BYTES ((size_t)4 << 20)
#define ISO_SECTORS ((size_t)64)
#define ISO_BYTES (ISO_SECTORS * 2048)

/* The unique id in the footers that make_vhd writes. */
extern const uint8_t vhd_identifier[16];

/* A fixed VHD of VHD_BYTES; head (may be NULL) is what the disk starts with,
 * a pattern follows. */
void make_vhd(const char *path, const void *head, size_t head_length);
void make_iso(const char *path);

/* An MBR with these partitions, each {type, first sector, sector count}, to
 * be the head of a disk; type 0 is an empty entry. */
struct mbr_entry {
    uint8_t type;
    uint32_t first;
    uint32_t count;
};
void make_mbr(uint8_t sector[512], const struct mbr_entry entries[4]);

/* ASCII to UTF-16, and back; static storage, good for the next few calls. */
char16_t *wide(const char *text);
const char *narrow(const char16_t *text);

DWORD open_1(const char *path, unsigned mask, unsigned depth, HANDLE *out);
DWORD open_2(const char *path, bool info_only, bool read_only, HANDLE *out);
/* A new dynamic image of SMALL_BYTES, or the child of an image; of the format
 * with this device id. */
#define SMALL_BYTES ((uint64_t)8 << 20)
void make_image(const char *path, unsigned device_id, const char *parent);

/* Writes one byte all over sectors of a detached image, through a handle of
 * its own; and reads a sector, which has to be all one byte: that byte. */
void write_byte(const char *path, uint32_t sector, uint32_t sectors,
                uint8_t byte);
unsigned read_byte(const char *path, uint32_t sector);

/* A handle with all rights. */
HANDLE open_all(const char *path);
HANDLE open_iso(const char *path);

DWORD attach(HANDLE handle, unsigned flags);
DWORD detach(HANDLE handle);
/* The device, "" if there is none. */
const char *device_of(HANDLE handle);
bool is_loaded(HANDLE handle);

void close_handle(HANDLE handle);

/* Skips the program unless real loop devices can be used. */
void need_loop(void);

/* Descriptors that this process has open. */
unsigned count_descriptors(void);

/* Whether it comes to so many: the thread of an operation closes what it used
 * just after it has set the event.  The same of handles. */
bool descriptors_become(unsigned count);
bool handles_become(size_t count);

#endif
