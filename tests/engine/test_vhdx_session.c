/*
 * What a writable session of a VHDX does besides writing: space goes back to
 * the host, damaged copies are mended, children stay valid as long as nothing
 * they can see is changed; and a log that zeroes without end is refused.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/posix_file.h"
#include "check.h"
#include "crash_file.h"
#include "format/format.h"
#include "format/vhdx.h"
#include "format/vhdx_create.h"

#define MIB (1024u * 1024u)
#define PAGE 4096u

static vd_error
create(struct vd_file *file)
{
    struct vhdx_create_request request = {
        .size_bytes = 16 * MIB,
        .block_size = 2 * MIB,
        .logical_sector_size = 512,
        .physical_sector_size = 4096,
    };
    memset(&request.file_write_guid, 2, VD_GUID_SIZE);
    memset(&request.data_write_guid, 3, VD_GUID_SIZE);
    return vd_vhdx_create(file, &request);
}

static struct vd_image *
open_image(struct vd_file *file)
{
    struct vd_open_request request = {.writable = true};
    struct vd_image *image = NULL;
    memset(&request.session, 0x77, sizeof(request.session));
    request.session.log_sequence = 7;
    if (vd_vhdx_format.open(file, &request, &image) != ERROR_SUCCESS) {
        check_broken("opening");
    }
    return image;
}

/* ---- space ---- */

static uint64_t
host_space(const char *path)
{
    struct stat status;
    if (stat(path, &status) != 0) {
        check_broken(path);
    }
    return (uint64_t)status.st_blocks * 512;
}

static vd_error
write_blocks(struct vd_image *image, unsigned count)
{
    uint8_t *data = malloc(2 * MIB);
    memset(data, 0xa5, 2 * MIB);
    vd_error error = ERROR_SUCCESS;
    for (unsigned i = 0; i < count && error == ERROR_SUCCESS; i++) {
        error =
            vd_vhdx_format.write(image, data, 2 * MIB, (uint64_t)i * 2 * MIB);
    }
    free(data);
    return error == ERROR_SUCCESS ? vd_vhdx_format.commit(image) : error;
}

static void
trimmed_space_goes_back_to_the_host(const char *scratch)
{
    const char *path = check_path(scratch, "trim.vhdx");
    struct vd_posix_file *file;
    check_write_file(path, "", 0);
    CHECK_OK(vd_posix_file_open(AT_FDCWD, path, true, &file));
    CHECK_OK(create(&file->file));
    struct vd_image *image = open_image(&file->file);
    CHECK_OK(write_blocks(image, 4));
    uint64_t full = host_space(path);
    CHECK_OK(vd_vhdx_format.zero(image, 0, 4 * MIB, true));
    CHECK_OK(vd_vhdx_format.commit(image));
    CHECK(host_space(path) >= full); /* somebody may still be reading there */
    vd_vhdx_format.reclaim(image);
    CHECK_OK(vd_vhdx_format.commit(image));
    CHECK(host_space(path) <= full - 4 * MIB);
    CHECK_OK(vd_vhdx_format.zero(image, 4 * MIB, 4 * MIB, true));
    CHECK_OK(vd_vhdx_format.close(image)); /* nobody is */
    CHECK(host_space(path) <= full - 8 * MIB);
    vd_posix_file_close(file);
}

/* A file that counts what is punched, and may refuse it. */
struct punched_file {
    struct vd_file file; /* first */
    struct vd_file_ops ops;
    struct vd_file *under;
    vd_error answer;
    size_t punches;
    uint64_t bytes;
};

static struct vd_file *
under(struct vd_file *file)
{
    return ((struct punched_file *)file)->under;
}

static vd_error
on_pread(struct vd_file *file, void *buffer, size_t length, uint64_t offset)
{
    return vd_file_pread(under(file), buffer, length, offset);
}

static vd_error
on_pwrite(struct vd_file *file, const void *buffer, size_t length,
          uint64_t offset)
{
    return vd_file_pwrite(under(file), buffer, length, offset);
}

static vd_error
on_flush(struct vd_file *file)
{
    return vd_file_flush(under(file));
}

static vd_error
on_size(struct vd_file *file, uint64_t *size_out)
{
    return vd_file_size(under(file), size_out);
}

static vd_error
on_truncate(struct vd_file *file, uint64_t size)
{
    return vd_file_truncate(under(file), size);
}

static vd_error
on_punch(struct vd_file *file, uint64_t offset, uint64_t length)
{
    struct punched_file *punched = (struct punched_file *)file;
    punched->punches++;
    punched->bytes += length;
    return punched->answer != ERROR_SUCCESS
               ? punched->answer
               : vd_file_punch(punched->under, offset, length);
}

static const struct vd_file_ops punched_ops = {
    .pread = on_pread,
    .pwrite = on_pwrite,
    .flush = on_flush,
    .size = on_size,
    .truncate = on_truncate,
    .punch = on_punch,
};

static struct punched_file
count_punches(struct crash_file *file)
{
    return (struct punched_file){.file = {.ops = &punched_ops},
                                 .under = crash_file_of(file)};
}

/* Once, also if the host will not; and not again to be used again. */
static void
each_piece_is_punched_once(vd_error answer)
{
    struct crash_file *file = crash_file_new();
    struct punched_file punched = count_punches(file);
    CHECK_OK(create(&punched.file));
    struct vd_image *image = open_image(&punched.file);
    CHECK_OK(write_blocks(image, 2));
    CHECK_OK(vd_vhdx_format.zero(image, 0, 4 * MIB, true));
    CHECK_OK(vd_vhdx_format.commit(image));
    vd_vhdx_format.reclaim(image);
    CHECK_EQ(0, punched.punches);
    punched.answer = answer;
    CHECK_OK(vd_vhdx_format.commit(image));
    CHECK_OK(vd_vhdx_format.commit(image));
    CHECK_EQ(2, punched.punches);
    CHECK_EQ(4 * MIB, punched.bytes);
    punched.answer = ERROR_SUCCESS;
    CHECK_OK(write_blocks(image, 1));
    CHECK_EQ(answer == ERROR_SUCCESS ? 2 : 3, punched.punches);
    CHECK_OK(vd_vhdx_format.close(image));
    crash_file_free(file);
}

/* ---- damaged copies ---- */

static void
read_bytes(struct crash_file *file, uint64_t offset, uint8_t *buffer,
           size_t length)
{
    CHECK_OK(vd_file_pread(crash_file_of(file), buffer, length, offset));
}

static void
damage(struct crash_file *file, uint64_t offset)
{
    uint8_t byte;
    read_bytes(file, offset, &byte, 1);
    byte = (uint8_t)~byte;
    CHECK_OK(vd_file_pwrite(crash_file_of(file), &byte, 1, offset));
}

static void
check_tables(struct crash_file *file)
{
    uint8_t *tables = malloc(2 * VHDX_REGION_TABLE_SIZE);
    for (unsigned copy = 0; copy < 2; copy++) {
        uint8_t *table = tables + (size_t)copy * VHDX_REGION_TABLE_SIZE;
        read_bytes(file, VHDX_REGION_TABLE_OFFSET(copy), table,
                   VHDX_REGION_TABLE_SIZE);
        CHECK_EQ(0xC66B8CAE, vd_get_le32(table + 4)); /* FORMATS.md 9.4 */
        CHECK_EQ(0xC66B8CAE,
                 vd_crc32c_skipping(table, VHDX_REGION_TABLE_SIZE, 4));
    }
    free(tables);
}

static void
check_headers(struct crash_file *file)
{
    uint8_t header[PAGE];
    for (unsigned slot = 0; slot < 2; slot++) {
        read_bytes(file, VHDX_HEADER_OFFSET(slot), header, PAGE);
        CHECK_EQ(vd_get_le32(header + 4), vd_crc32c_skipping(header, PAGE, 4));
    }
}

/* Not by opening and closing; by the first change. */
static void
a_damaged_copy_is_mended(uint64_t offset)
{
    struct crash_file *file = crash_file_new();
    CHECK_OK(create(crash_file_of(file)));
    damage(file, offset);
    size_t events = crash_file_events(file);
    CHECK_OK(vd_vhdx_format.close(open_image(crash_file_of(file))));
    CHECK_EQ(events, crash_file_events(file));
    struct vd_image *image = open_image(crash_file_of(file));
    CHECK_OK(vd_vhdx_format.begin(image, VD_CHANGE_LAYOUT));
    CHECK_OK(vd_vhdx_format.close(image));
    check_tables(file);
    check_headers(file);
    crash_file_free(file);
}

/* ---- children ---- */

static void
layout_leaves_children_valid(void)
{
    struct crash_file *file = crash_file_new();
    uint8_t before[VD_GUID_SIZE], after[VD_GUID_SIZE];
    const struct vd_guid id = {{1}};
    bool moved = true;
    CHECK_OK(create(crash_file_of(file)));
    struct vd_image *image = open_image(crash_file_of(file));
    CHECK_OK(write_blocks(image, 4));
    CHECK_OK(vd_vhdx_format.close(image));
    read_bytes(file, VHDX_HEADER_OFFSET(0) + 32, before, sizeof(before));
    image = open_image(crash_file_of(file));
    memset(&vd_vhdx_of(image)->session.data_write_guid, 0x11, VD_GUID_SIZE);
    CHECK_OK(vd_vhdx_format.begin(image, VD_CHANGE_LAYOUT));
    CHECK_OK(vd_vhdx_format.zero(image, 0, 4 * MIB, true));
    CHECK_OK(vd_vhdx_format.commit(image));
    vd_vhdx_format.reclaim(image);
    for (unsigned moves = 0; moved; moves++) {
        CHECK_EQ(moves < 2,
                 (CHECK_OK(vd_vhdx_format.relocate(image, &moved)), moved));
    }
    CHECK_OK(vd_vhdx_format.metadata_set(image, &id, "x", 1));
    CHECK_OK(vd_vhdx_format.commit(image));
    vd_vhdx_format.reclaim(image);
    CHECK_OK(vd_vhdx_format.shorten(image));
    CHECK_BYTES(before, &image->info.identifier, VD_GUID_SIZE);
    CHECK_OK(vd_vhdx_format.close(image));
    for (unsigned slot = 0; slot < 2; slot++) {
        read_bytes(file, VHDX_HEADER_OFFSET(slot) + 32, after, sizeof(after));
        CHECK_BYTES(before, after, sizeof(before));
    }
    image = open_image(crash_file_of(file));
    memset(&vd_vhdx_of(image)->session.data_write_guid, 0x11, VD_GUID_SIZE);
    CHECK_OK(vd_vhdx_format.begin(image, VD_CHANGE_CONTENT));
    CHECK_EQ(0x11, image->info.identifier.bytes[0]);
    CHECK_OK(vd_vhdx_format.close(image));
    crash_file_free(file);
}

/* ---- a log of zero descriptors ---- */

#define LOG_OFFSET (64 * MIB)
#define LOG_LENGTH (4 * MIB)
#define TARGET (16 * MIB)

/* An entry, written from the specification, whose descriptors zero a page
 * each: one after the other, or to and fro between two places. */
static void
write_log(struct crash_file *file, uint32_t descriptors, bool apart)
{
    size_t length = (64 + 32 * (size_t)descriptors + PAGE - 1) / PAGE * PAGE;
    uint8_t *entry = calloc(1, length);
    memcpy(entry, "loge", 4);
    vd_put_le32(entry + 8, (uint32_t)length);
    vd_put_le64(entry + 16, 1);
    vd_put_le32(entry + 24, descriptors);
    memset(entry + 32, 5, 16);
    vd_put_le64(entry + 56, 128 * MIB);
    for (uint32_t i = 0; i < descriptors; i++) {
        uint8_t *descriptor = entry + 64 + 32 * (size_t)i;
        memcpy(descriptor, "zero", 4);
        vd_put_le64(descriptor + 8, PAGE);
        vd_put_le64(descriptor + 16,
                    TARGET + (apart ? i % 2 * MIB : i * (uint64_t)PAGE));
        vd_put_le64(descriptor + 24, 1);
    }
    vd_put_le32(entry + 4, vd_crc32c(entry, length));
    CHECK_OK(vd_file_pwrite(crash_file_of(file), entry, length, LOG_OFFSET));
    free(entry);
}

static void
write_headers(struct crash_file *file)
{
    struct vhdx_header header = {
        .version = 1, .log_length = LOG_LENGTH, .log_offset = LOG_OFFSET};
    memset(&header.log_guid, 5, VD_GUID_SIZE);
    for (unsigned slot = 0; slot < 2; slot++) {
        uint8_t buffer[PAGE];
        header.sequence = slot + 1;
        vd_vhdx_header_encode(&header, buffer);
        CHECK_OK(vd_file_pwrite(crash_file_of(file), buffer, PAGE,
                                VHDX_HEADER_OFFSET(slot)));
    }
}

static vd_error
replay(uint32_t descriptors, bool apart, bool writable, size_t *punches,
       size_t *events)
{
    struct crash_file *file = crash_file_new();
    struct punched_file punched = count_punches(file);
    struct vd_open_request request = {.writable = writable};
    struct vd_image *image = NULL;
    memset(&request.session, 0x77, sizeof(request.session));
    CHECK_OK(create(crash_file_of(file)));
    CHECK_OK(vd_file_truncate(crash_file_of(file), LOG_OFFSET + LOG_LENGTH));
    write_log(file, descriptors, apart);
    write_headers(file);
    *events = crash_file_events(file);
    vd_error error = vd_vhdx_format.open(&punched.file, &request, &image);
    if (error == ERROR_SUCCESS) {
        CHECK_OK(vd_vhdx_format.close(image));
    }
    *punches = punched.punches;
    *events = crash_file_events(file) - *events;
    crash_file_free(file);
    return error;
}

static void
zeroing_is_joined(void)
{
    size_t punches, events;
    CHECK_OK(replay(4096, false, true, &punches, &events));
    CHECK_EQ(1, punches);
}

/* 65,536 ranges are as many as are taken; what is too much is refused before
 * anything is changed. */
static void
zeroing_is_bounded(void)
{
    size_t punches, events;
    CHECK_OK(replay(65536, true, true, &punches, &events));
    CHECK_EQ(65536, punches);
    CHECK_EQ(ERROR_FILE_CORRUPT, replay(65537, true, true, &punches, &events));
    CHECK_EQ(0, punches);
    CHECK_EQ(0, events);
    CHECK_EQ(ERROR_FILE_CORRUPT,
             replay(65537, true, false, &punches, &events));
    CHECK_OK(replay(65536, true, false, &punches, &events));
    CHECK_EQ(0, events);
}

int
main(int argc, char **argv)
{
    if (argc < 2) {
        return 2;
    }
    trimmed_space_goes_back_to_the_host(argv[1]);
    each_piece_is_punched_once(ERROR_SUCCESS);
    each_piece_is_punched_once(ERROR_NOT_SUPPORTED);
    a_damaged_copy_is_mended(VHDX_REGION_TABLE_OFFSET(0) + 40);
    a_damaged_copy_is_mended(VHDX_REGION_TABLE_OFFSET(1) + 40);
    a_damaged_copy_is_mended(VHDX_HEADER_OFFSET(0) + 8);
    a_damaged_copy_is_mended(VHDX_HEADER_OFFSET(1) + 8);
    layout_leaves_children_valid();
    zeroing_is_joined();
    zeroing_is_bounded();
    return check_result();
}
