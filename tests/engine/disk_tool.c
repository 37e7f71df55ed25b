/*
 * The disk layer without the API: makes images, and reads and changes disks
 * as commands on standard input ask for it (tests/lib/images.py).
 *
 *   create KIND SIZE BLOCK SECTOR PATH   KIND: vhd-fixed, vhd-dynamic,
 *                                        vhdx-fixed, vhdx-dynamic
 *   create-child BLOCK PARENT PATH       PARENT: its name, beside PATH
 *   open MODE PATH          look: as an opened handle sees it, without a
 *                           lock; read, write: as an attachment uses it
 *   read OFFSET LENGTH      answered with LENGTH bytes, or "ok zeros" alone
 *   write OFFSET LENGTH     followed by LENGTH bytes
 *   zero OFFSET LENGTH FREE FREE: 1 for a trim
 *   flush
 *   close
 *
 * Each command is a line; a path goes to its end.  Each answer is one too:
 * "ok" with what there is to say, or "error" and the number.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/posix_file.h"
#include "disk/compact.h"
#include "disk/disk.h"
#include "disk/resize.h"
#include "format/format.h"
#include "format/vhd_create.h"
#include "format/vhdx.h"
#include "format/vhdx_create.h"

#define LINE_MAX_LENGTH 8192
#define TRANSFER_MAX ((size_t)64 << 20)
#define PATH_UNITS 512

/* As Windows 10; QEMU takes the size in the footer for the disk's. */
#define VHD_CREATOR {'w', 'i', 'n', ' '}
#define VHD_CREATOR_VERSION 0x000A0000

struct tool {
    struct vd_disk *disk;
    uint8_t *buffer; /* TRANSFER_MAX bytes */
};

/* ---- answers ---- */

static void
answer(vd_error error)
{
    if (error == ERROR_SUCCESS) {
        printf("ok\n");
    }
    else {
        printf("error %" PRIu32 "\n", error);
    }
}

static void
answer_facts(const struct vd_disk *disk)
{
    const struct vd_image_info *info = vd_disk_info(disk);
    printf("ok {\"format\": \"%s\", \"subtype\": %d, \"size\": %" PRIu64
           ", \"sector\": %" PRIu32 ", \"physical\": %" PRIu32
           ", \"block\": %" PRIu32 ", \"layers\": %zu, \"complete\": %s"
           ", \"log_dirty\": %s}\n",
           vd_disk_format(disk)->name, (int)info->subtype,
           vd_disk_size_bytes(disk), vd_disk_sector_size(disk),
           vd_disk_physical_sector_size(disk), info->block_size,
           vd_disk_layers(disk), vd_disk_complete(disk) ? "true" : "false",
           info->log_dirty ? "true" : "false");
}

/* ---- making images ---- */

static vd_error
random_guid(struct vd_guid *guid)
{
    if (getrandom(guid->bytes, sizeof(guid->bytes), 0) !=
        (ssize_t)sizeof(guid->bytes)) {
        return ERROR_GEN_FAILURE;
    }
    return ERROR_SUCCESS;
}

static vd_error
new_file(const char *path, struct vd_posix_file **out)
{
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        return ERROR_FILE_EXISTS;
    }
    close(fd);
    return vd_posix_file_open(AT_FDCWD, path, true, out);
}

static vd_error
create_vhdx(const char *path, const struct vhdx_create_request *wanted)
{
    struct vhdx_create_request request = *wanted;
    struct vd_posix_file *file = NULL;
    vd_error error = random_guid(&request.file_write_guid);
    if (error == ERROR_SUCCESS) {
        error = random_guid(&request.data_write_guid);
    }
    if (error == ERROR_SUCCESS) {
        error = new_file(path, &file);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_vhdx_create(&file->file, &request);
    }
    vd_posix_file_close(file);
    return error;
}

static vd_error
create_vhd(const char *path, const struct vd_vhd_create_request *wanted)
{
    struct vd_vhd_create_request request = *wanted;
    struct vd_posix_file *file = NULL;
    vd_error error = random_guid(&request.unique_id);
    if (error == ERROR_SUCCESS) {
        error = new_file(path, &file);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_vhd_create(&file->file, &request);
    }
    vd_posix_file_close(file);
    return error;
}

static vd_error
create(const char *kind, uint64_t size, uint32_t block, uint32_t sector,
       const char *path)
{
    bool fixed = strstr(kind, "-fixed") != NULL;
    if (strncmp(kind, "vhdx-", 5) == 0) {
        struct vhdx_create_request request = {
            .size_bytes = size,
            .block_size = block,
            .logical_sector_size = sector,
            .physical_sector_size = 4096,
            .fixed = fixed,
            .creator = u"virtdisk",
        };
        vd_error error = random_guid(&request.virtual_disk_id);
        return error != ERROR_SUCCESS ? error : create_vhdx(path, &request);
    }
    struct vd_vhd_create_request request = {
        .type = fixed ? VHD_TYPE_FIXED : VHD_TYPE_DYNAMIC,
        .size_bytes = size,
        .block_size = fixed ? 0 : block,
        .creator_application = VHD_CREATOR,
        .creator_version = VHD_CREATOR_VERSION,
    };
    return create_vhd(path, &request);
}

/* ".\NAME", of an ASCII name. */
static bool
relative_path(const char *name, char16_t text[PATH_UNITS])
{
    size_t length = strlen(name);
    if (length + 3 > PATH_UNITS) {
        return false;
    }
    text[0] = u'.';
    text[1] = u'\\';
    for (size_t i = 0; i <= length; i++) {
        text[i + 2] = (char16_t)(unsigned char)name[i];
    }
    return true;
}

static vd_error
create_vhdx_child(const struct vd_disk *parent, uint32_t block,
                  const char16_t *name, const char *path)
{
    const struct vd_image_info *info = vd_disk_info(parent);
    struct vhdx_create_request request = {
        .size_bytes = info->size_bytes,
        .block_size = block,
        .logical_sector_size = info->sector_size,
        .physical_sector_size = info->physical_sector_size,
        .virtual_disk_id = info->virtual_disk_id,
        .creator = u"virtdisk",
        .has_parent = true,
        .relative_path = name,
    };
    struct vd_posix_file *file = NULL;
    struct vhdx_header header = {0};
    unsigned slot;
    vd_error error =
        vd_posix_file_open(AT_FDCWD, vd_disk_path(parent), false, &file);
    if (error == ERROR_SUCCESS) {
        error = vd_vhdx_header_read(&file->file, &header, &slot);
    }
    vd_posix_file_close(file);
    request.parent_linkage = header.data_write_guid;
    return error != ERROR_SUCCESS ? error : create_vhdx(path, &request);
}

static vd_error
create_vhd_child(const struct vd_disk *parent, uint32_t block,
                 const char16_t *name, const char *path)
{
    struct vd_vhd_create_request request = {
        .type = VHD_TYPE_DIFFERENCING,
        .size_bytes = vd_disk_size_bytes(parent),
        .block_size = block,
        .creator_application = VHD_CREATOR,
        .creator_version = VHD_CREATOR_VERSION,
        .parent_id = vd_disk_info(parent)->identifier,
        .relative_path = name,
    };
    return create_vhd(path, &request);
}

static vd_error
create_child(uint32_t block, const char *name, const char *path)
{
    static const struct vd_disk_options options = {.device_id = 0};
    char16_t relative[PATH_UNITS];
    char parent_path[LINE_MAX_LENGTH];
    const char *slash = strrchr(path, '/');
    struct vd_disk *parent = NULL;
    if (slash == NULL || !relative_path(name, relative)) {
        return ERROR_INVALID_PARAMETER;
    }
    snprintf(parent_path, sizeof(parent_path), "%.*s/%s", (int)(slash - path),
             path, name);
    vd_error error = vd_disk_open(parent_path, &options, &parent);
    if (error == ERROR_SUCCESS) {
        error = vd_disk_format(parent) == &vd_vhd_format
                    ? create_vhd_child(parent, block, relative, path)
                    : create_vhdx_child(parent, block, relative, path);
        vd_disk_close(parent);
    }
    return error;
}

/* ---- opening ---- */

static vd_error
open_disk(const char *mode, const char *path, struct vd_disk **out)
{
    bool writable = strcmp(mode, "write") == 0;
    struct vd_disk_options options = {.writable = writable};
    struct vd_disk_files files;
    struct vd_disk *view = NULL;
    vd_error error = vd_disk_open(path, &options, &view);
    if (error != ERROR_SUCCESS || strcmp(mode, "look") == 0) {
        *out = view;
        return error;
    }
    error = vd_disk_reopen(view, writable, &files);
    vd_disk_close(view);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    error = vd_disk_open_files(&files, writable, out);
    if (error != ERROR_SUCCESS) {
        vd_disk_files_close(&files);
    }
    return error;
}

static void
open_command(struct tool *tool, const char *mode, const char *path)
{
    vd_disk_close(tool->disk);
    tool->disk = NULL;
    vd_error error = open_disk(mode, path, &tool->disk);
    if (error != ERROR_SUCCESS) {
        answer(error);
    }
    else {
        answer_facts(tool->disk);
    }
}

/* ---- using it ---- */

static bool
usable(const struct tool *tool, uint64_t offset, uint64_t length)
{
    uint64_t size = tool->disk != NULL ? vd_disk_size_bytes(tool->disk) : 0;
    return length <= size && offset <= size - length;
}

static bool
only_zeros(const uint8_t *buffer, size_t length)
{
    return length != 0 && buffer[0] == 0 &&
           memcmp(buffer, buffer + 1, length - 1) == 0;
}

static void
read_command(struct tool *tool, uint64_t offset, uint64_t length)
{
    vd_error error = ERROR_INVALID_PARAMETER;
    if (usable(tool, offset, length) && length <= TRANSFER_MAX) {
        /* What a failed read leaves must not look like data. */
        memset(tool->buffer, 0xee, (size_t)length);
        error = vd_disk_read(tool->disk, tool->buffer, (size_t)length, offset);
    }
    if (error == ERROR_SUCCESS && only_zeros(tool->buffer, (size_t)length)) {
        printf("ok zeros\n");
        return;
    }
    answer(error);
    if (error == ERROR_SUCCESS) {
        fwrite(tool->buffer, 1, (size_t)length, stdout);
    }
}

static void
write_command(struct tool *tool, uint64_t offset, uint64_t length)
{
    if (length > TRANSFER_MAX ||
        fread(tool->buffer, 1, (size_t)length, stdin) != length) {
        fprintf(stderr, "cut short: write of %" PRIu64 " bytes\n", length);
        exit(EXIT_FAILURE);
    }
    answer(
        usable(tool, offset, length)
            ? vd_disk_write(tool->disk, tool->buffer, (size_t)length, offset)
            : ERROR_INVALID_PARAMETER);
}

static void
zero_command(struct tool *tool, uint64_t offset, uint64_t length,
             uint64_t may_free)
{
    answer(usable(tool, offset, length)
               ? vd_disk_zero(tool->disk, offset, length, may_free != 0)
               : ERROR_INVALID_PARAMETER);
}

static vd_error
resize_disk(struct vd_disk *disk, uint64_t size_bytes)
{
    const struct vd_resize resize = {.mode = VD_RESIZE_UNSAFE,
                                     .size_bytes = size_bytes};
    return disk != NULL ? vd_disk_resize(disk, &resize)
                        : ERROR_INVALID_PARAMETER;
}

static vd_error
compact_disk(struct vd_disk *disk)
{
    const struct vd_compact_options options = {.no_zero_scan = false};
    return disk != NULL ? vd_disk_compact(disk, &options, NULL)
                        : ERROR_INVALID_PARAMETER;
}

static void
close_command(struct tool *tool)
{
    vd_disk_close(tool->disk);
    tool->disk = NULL;
    answer(ERROR_SUCCESS);
}

/* ---- commands ---- */

static bool
create_line(const char *line)
{
    char kind[16], name[256];
    uint64_t size;
    uint32_t block, sector;
    int at = 0;
    if (sscanf(line, "create %15s %" SCNu64 " %" SCNu32 " %" SCNu32 " %n",
               kind, &size, &block, &sector, &at) == 4 &&
        at != 0) {
        answer(create(kind, size, block, sector, line + at));
        return true;
    }
    if (sscanf(line, "create-child %" SCNu32 " %255s %n", &block, name, &at) ==
            2 &&
        at != 0) {
        answer(create_child(block, name, line + at));
        return true;
    }
    return false;
}

static bool
transfer_line(struct tool *tool, const char *line)
{
    uint64_t offset, length, may_free;
    if (sscanf(line, "read %" SCNu64 " %" SCNu64, &offset, &length) == 2) {
        read_command(tool, offset, length);
    }
    else if (sscanf(line, "write %" SCNu64 " %" SCNu64, &offset, &length) ==
             2) {
        write_command(tool, offset, length);
    }
    else if (sscanf(line, "zero %" SCNu64 " %" SCNu64 " %" SCNu64, &offset,
                    &length, &may_free) == 3) {
        zero_command(tool, offset, length, may_free);
    }
    else {
        return false;
    }
    return true;
}

static bool
run_line(struct tool *tool, const char *line)
{
    char mode[8];
    uint64_t size;
    int at = 0;
    if (sscanf(line, "open %7s %n", mode, &at) == 1 && at != 0) {
        open_command(tool, mode, line + at);
    }
    else if (strcmp(line, "flush") == 0) {
        answer(tool->disk != NULL ? vd_disk_flush(tool->disk)
                                  : ERROR_INVALID_PARAMETER);
    }
    else if (strcmp(line, "close") == 0) {
        close_command(tool);
    }
    else if (sscanf(line, "resize %" SCNu64, &size) == 1) {
        answer(resize_disk(tool->disk, size));
    }
    else if (strcmp(line, "compact") == 0) {
        answer(compact_disk(tool->disk));
    }
    else {
        return create_line(line) || transfer_line(tool, line);
    }
    return true;
}

int
main(void)
{
    static char line[LINE_MAX_LENGTH];
    VD_AUTO_FREE uint8_t *buffer = malloc(TRANSFER_MAX);
    struct tool tool = {.buffer = buffer};
    while (buffer != NULL && fgets(line, sizeof(line), stdin) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        if (!run_line(&tool, line)) {
            fprintf(stderr, "unknown command: %s\n", line);
            return EXIT_FAILURE;
        }
        fflush(stdout);
    }
    vd_disk_close(tool.disk);
    return buffer != NULL ? EXIT_SUCCESS : EXIT_FAILURE;
}
