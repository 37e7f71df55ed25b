/*
 * The layers below the API, one command at a time, for test_engine.py to
 * compare with other software:
 *
 *   open PATH DEVICE       facts about an image as JSON, or its error
 *   read PATH              the whole disk to standard output
 *   footer PATH            the footer at the end of a VHD as JSON
 *   geometry SIZE          cylinders, heads and sectors of a disk
 *   partitions PATH SECTOR the partition table of a raw disk as JSON
 *   lock PATH MODE         takes the locks (r, w), says so, and holds them
 *                          until standard input ends
 *   utf16                  per line of hexadecimal bytes on standard input:
 *                          its UTF-16 units, and the bytes they make again
 *   bytes                  per line of hexadecimal units: its bytes, or the
 *                          error
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/posix_file.h"
#include "base/utf16.h"
#include "disk/disk.h"
#include "disk/image_lock.h"
#include "disk/partition_scan.h"
#include "format/format.h"
#include "format/vhd_footer.h"

#define CHUNK (1u << 20)

typedef unsigned long long number;

static int
print_error(vd_error error)
{
    printf("{\"error\": %u}\n", error);
    return 0;
}

static int
open_command(const char *path, const char *device)
{
    struct vd_disk_options options = {
        .device_id = (uint32_t)strtoul(device, NULL, 10),
    };
    struct vd_disk *disk = NULL;
    struct vd_host_disk host;
    bool contiguous = false;
    uint64_t offset = 0;
    vd_error error = vd_disk_open(path, &options, &disk);
    if (error == 0) {
        error = vd_disk_contiguous(disk, &contiguous, &offset);
    }
    if (error == 0) {
        error = vd_disk_host(disk, &host);
    }
    if (error != 0) {
        vd_disk_close(disk);
        return print_error(error);
    }
    printf("{\"error\": 0, \"format\": \"%s\", \"size\": %llu, "
           "\"sector\": %u, \"optical\": %s, \"contiguous\": %s, "
           "\"offset\": %llu, \"host_sector\": %u, "
           "\"host_physical\": %u, \"remote\": %s}\n",
           vd_disk_format(disk)->name, (number)vd_disk_size_bytes(disk),
           vd_disk_sector_size(disk), vd_disk_optical(disk) ? "true" : "false",
           contiguous ? "true" : "false", (number)offset, host.sector_size,
           host.physical_sector_size, host.remote ? "true" : "false");
    vd_disk_close(disk);
    return 0;
}

static int
read_command(const char *path)
{
    static const struct vd_disk_options options = {.device_id = 0};
    static uint8_t buffer[CHUNK];
    struct vd_disk *disk = NULL;
    vd_error error = vd_disk_open(path, &options, &disk);
    if (error != 0) {
        return 1;
    }
    uint64_t size = vd_disk_size_bytes(disk);
    for (uint64_t offset = 0; offset < size && error == 0;) {
        size_t length =
            size - offset < CHUNK ? (size_t)(size - offset) : CHUNK;
        error = vd_disk_read(disk, buffer, length, offset);
        if (fwrite(buffer, 1, length, stdout) != length) {
            error = ERROR_WRITE_FAULT;
        }
        offset += length;
    }
    vd_disk_close(disk);
    return error == 0 ? 0 : 1;
}

static int
footer_command(const char *path)
{
    uint8_t raw[VHD_FOOTER_SIZE];
    uint64_t size = 0;
    struct vd_vhd_footer footer;
    struct vd_posix_file *file = NULL;
    vd_error error = vd_posix_file_open(AT_FDCWD, path, false, &file);
    if (error == 0) {
        error = vd_file_size(&file->file, &size);
    }
    if (error == 0) {
        error =
            vd_file_pread(&file->file, raw, sizeof(raw), size - sizeof(raw));
    }
    if (error == 0) {
        error = vd_vhd_footer_decode(raw, &footer);
    }
    if (error == 0) {
        error = vd_vhd_footer_check(&footer, size, sizeof(raw));
    }
    vd_posix_file_close(file);
    if (error != 0) {
        return print_error(error);
    }
    printf("{\"error\": 0, \"type\": %u, \"size\": %llu, "
           "\"creator_size\": %llu, \"geometry\": [%u, %u, %u]}\n",
           footer.disk_type, (number)footer.current_size,
           (number)vd_vhd_footer_creator_size(&footer),
           footer.geometry.cylinders, footer.geometry.heads,
           footer.geometry.sectors_per_track);
    return 0;
}

static int
geometry_command(const char *size)
{
    struct vd_vhd_geometry geometry =
        vd_vhd_geometry_of_size(strtoull(size, NULL, 10));
    printf("[%u, %u, %u]\n", geometry.cylinders, geometry.heads,
           geometry.sectors_per_track);
    return 0;
}

static vd_error
read_raw(void *context, void *buffer, size_t length, uint64_t offset)
{
    return vd_file_pread(context, buffer, length, offset);
}

static void
print_table(const struct vd_partition_table *table)
{
    printf("{\"error\": 0, \"scheme\": %d, \"end\": %llu, "
           "\"partitions\": [",
           (int)table->scheme, (number)table->end_bytes);
    for (size_t i = 0; i < table->count; i++) {
        const struct vd_partition *partition = &table->partitions[i];
        printf("%s[%u, %llu, %llu, %s]", i == 0 ? "" : ", ", partition->number,
               (number)partition->offset_bytes,
               (number)partition->length_bytes,
               partition->data ? "true" : "false");
    }
    printf("]}\n");
}

static int
partitions_command(const char *path, const char *sector)
{
    struct vd_posix_file *file = NULL;
    struct vd_partition_table table;
    vd_error error = vd_posix_file_open(AT_FDCWD, path, false, &file);
    if (error != 0) {
        return print_error(error);
    }
    struct vd_partition_source source = {
        .read = read_raw,
        .context = &file->file,
        .size_bytes = (uint64_t)file->status.st_size,
        .sector_size = (uint32_t)strtoul(sector, NULL, 10),
    };
    error = vd_partition_scan(&source, &table);
    vd_posix_file_close(file);
    if (error != 0) {
        return print_error(error);
    }
    print_table(&table);
    return 0;
}

static int
lock_command(const char *path, const char *mode)
{
    enum vd_lock_mode lock_mode =
        mode[0] == 'w' ? VD_LOCK_WRITE : VD_LOCK_READ;
    struct vd_posix_file *file = NULL;
    vd_error error = vd_posix_file_open(AT_FDCWD, path, mode[0] == 'w', &file);
    if (error == 0) {
        error = vd_image_lock(file->fd, lock_mode);
    }
    print_error(error);
    fflush(stdout);
    while (error == 0 && getchar() != EOF) {
    }
    vd_posix_file_close(file);
    return 0;
}

/* Hexadecimal digits of a line, in groups; returns how many groups. */
static size_t
parse_line(const char *line, int digits, uint16_t *values)
{
    size_t count = 0;
    char group[5] = "";
    while (strlen(line) >= (size_t)digits && *line != '\n') {
        memcpy(group, line, (size_t)digits);
        values[count++] = (uint16_t)strtoul(group, NULL, 16);
        line += digits;
    }
    return count;
}

static void
print_bytes(const char *bytes)
{
    for (; *bytes != '\0'; bytes++) {
        printf("%02x", (unsigned char)*bytes);
    }
}

static int
utf16_command(void)
{
    char line[256];
    while (fgets(line, sizeof(line), stdin) != NULL) {
        uint16_t values[128];
        char bytes[129] = "";
        char16_t *text = NULL;
        char *back = NULL;
        size_t units = 0;
        size_t count = parse_line(line, 2, values);
        for (size_t i = 0; i < count; i++) {
            bytes[i] = (char)values[i];
        }
        if (vd_utf16_from_bytes(bytes, &text, &units) != 0 ||
            vd_utf16_to_bytes(text, &back) != 0) {
            return 1;
        }
        for (size_t i = 0; i < units; i++) {
            printf("%04x", (unsigned)text[i]);
        }
        putchar(' ');
        print_bytes(back);
        putchar('\n');
        free(text);
        free(back);
    }
    return 0;
}

static int
bytes_command(void)
{
    char line[256];
    while (fgets(line, sizeof(line), stdin) != NULL) {
        uint16_t values[64];
        char16_t text[64];
        char *bytes = NULL;
        size_t count = parse_line(line, 4, values);
        for (size_t i = 0; i < count; i++) {
            text[i] = values[i];
        }
        text[count] = 0;
        vd_error error = vd_utf16_to_bytes(text, &bytes);
        if (error != 0) {
            printf("error %u", error);
        }
        else {
            print_bytes(bytes);
        }
        putchar('\n');
        free(bytes);
    }
    return 0;
}

int
main(int argc, char **argv)
{
    const char *command = argc > 1 ? argv[1] : "";
    if (argc == 4 && strcmp(command, "open") == 0) {
        return open_command(argv[2], argv[3]);
    }
    if (argc == 3 && strcmp(command, "read") == 0) {
        return read_command(argv[2]);
    }
    if (argc == 3 && strcmp(command, "footer") == 0) {
        return footer_command(argv[2]);
    }
    if (argc == 3 && strcmp(command, "geometry") == 0) {
        return geometry_command(argv[2]);
    }
    if (argc == 4 && strcmp(command, "partitions") == 0) {
        return partitions_command(argv[2], argv[3]);
    }
    if (argc == 4 && strcmp(command, "lock") == 0) {
        return lock_command(argv[2], argv[3]);
    }
    if (argc == 2 && strcmp(command, "utf16") == 0) {
        return utf16_command();
    }
    if (argc == 2 && strcmp(command, "bytes") == 0) {
        return bytes_command();
    }
    fprintf(stderr, "unknown command\n");
    return 2;
}
