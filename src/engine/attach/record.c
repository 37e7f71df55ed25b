/*
 * The text of a record: written from a struct vd_record and read back with
 * suspicion.  Touches no files.
 *
 *     virtdisk-attachment 1
 *     image /srv/a%20b.vhd        bytes outside '!'..'~', and '%', as %XX
 *     file 65024 2337069          device and inode
 *     device loop3 57             name and diskseq; no line: no device
 *     backing 58 1                device and inode of what the device stands
 *                                 on; no line: on the image itself
 *     shown 1 814 /run/user/1000/virtdisk/disk-1
 *                                 number, mark and path of a file; or no line
 *     access 0 6 0660 0 0 0644    of the node, before and after; or no line
 *     boot 6b0c...                the kernel's boot_id; or no line
 *     whole 1                     shows all sectors; or no line
 *     pid 4711
 *     read_only 0
 *     permanent 1
 */
#include "attach/record.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attach/paths.h"
#include "attach/text.h"
#include "base/cleanup.h"
#include "base/trace.h"

#define FIRST_LINE "virtdisk-attachment 1"
#define VALUES_MAX 6

bool
vd_record_is_device_name(const char *name)
{
    uint64_t number;
    return strncmp(name, "loop", 4) == 0 && vd_text_number(name + 4, &number);
}

vd_error
vd_record_location(const struct vd_record *record, char **path_out)
{
    char *path = NULL;
    if (vd_record_has_file(record)) {
        path = strdup(record->shown.path);
    }
    else if (vd_record_has_device(record) &&
             asprintf(&path, VD_PATH_DEV "/%s", record->loop.name) < 0) {
        path = NULL;
    }
    *path_out = path;
    return path == NULL &&
                   (vd_record_has_file(record) || vd_record_has_device(record))
               ? ERROR_NOT_ENOUGH_MEMORY
               : ERROR_SUCCESS;
}

/* -- writing -- */

static bool
is_plain(unsigned char byte)
{
    return byte > ' ' && byte < 0x7F && byte != '%';
}

static void
write_escaped(FILE *stream, const char *bytes)
{
    for (; *bytes != '\0'; bytes++) {
        unsigned char byte = (unsigned char)*bytes;
        fprintf(stream, is_plain(byte) ? "%c" : "%%%02X", byte);
    }
}

static void
write_node(FILE *stream, const struct vd_node_change *node)
{
    const struct vd_node_state *before = &node->before;
    const struct vd_node_state *after = &node->after;
    fprintf(stream, "access %u %u %04o %u %u %04o\n", before->uid, before->gid,
            before->mode, after->uid, after->gid, after->mode);
}

static bool
stands_on_image(const struct vd_record *record)
{
    return record->loop.file_id.device == record->file_id.device &&
           record->loop.file_id.inode == record->file_id.inode;
}

static void
write_record(FILE *stream, const struct vd_record *record)
{
    fputs(FIRST_LINE "\nimage ", stream);
    write_escaped(stream, record->image_path);
    fprintf(stream, "\nfile %ju %ju\n", (uintmax_t)record->file_id.device,
            (uintmax_t)record->file_id.inode);
    if (vd_record_has_device(record)) {
        fprintf(stream, "device %s %" PRIu64 "\n", record->loop.name,
                record->loop.sequence);
    }
    if (vd_record_has_device(record) && !stands_on_image(record)) {
        fprintf(stream, "backing %ju %ju\n",
                (uintmax_t)record->loop.file_id.device,
                (uintmax_t)record->loop.file_id.inode);
    }
    if (vd_record_has_file(record)) {
        fprintf(stream, "shown %" PRIu64 " %" PRIu64 " ", record->shown.number,
                record->shown.mark);
        write_escaped(stream, record->shown.path);
        fputc('\n', stream);
    }
    if (record->node.changed) {
        write_node(stream, &record->node);
    }
    if (record->boot_id[0] != '\0') {
        fprintf(stream, "boot %s\n", record->boot_id);
    }
    if (record->whole) {
        fprintf(stream, "whole 1\n");
    }
    fprintf(stream, "pid %" PRIu64 "\nread_only %d\npermanent %d\n",
            record->pid, record->read_only, record->permanent);
}

vd_error
vd_record_format(const struct vd_record *record, char **text_out,
                 size_t *length_out)
{
    VD_AUTO_FREE char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    if (stream == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    write_record(stream, record);
    bool failed = ferror(stream) != 0;
    if (fclose(stream) != 0 || failed) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    if (length > VD_RECORD_SIZE_MAX) {
        vd_trace(VD_TRACE_ATTACH, "path too long for a record");
        return ERROR_FILENAME_EXCED_RANGE;
    }
    *text_out = VD_TAKE(text);
    *length_out = length;
    return ERROR_SUCCESS;
}

/* -- reading -- */

static int
hex_digit(char character)
{
    static const char digits[] = "0123456789ABCDEF";
    const char *found = strchr(digits, character);
    return character == '\0' || found == NULL ? -1 : (int)(found - digits);
}

/* The byte that text starts with, 0 if none is well formed; moves text on. */
static int
unescaped(const char **text)
{
    const char *start = *text;
    if (is_plain((unsigned char)start[0])) {
        *text = start + 1;
        return start[0];
    }
    int high = start[0] == '%' ? hex_digit(start[1]) : -1;
    int low = high < 0 ? -1 : hex_digit(start[2]);
    if (low < 0) {
        return 0;
    }
    *text = start + 3;
    return high << 4 | low;
}

static bool
read_path(const char *text, char **path_out)
{
    VD_AUTO_FREE char *path = malloc(strlen(text) + 1);
    size_t length = 0;
    if (path == NULL) {
        return false;
    }
    while (*text != '\0') {
        int byte = unescaped(&text);
        if (byte == 0) {
            return false;
        }
        path[length++] = (char)byte;
    }
    path[length] = '\0';
    *path_out = VD_TAKE(path);
    return length > 0 && (*path_out)[0] == '/';
}

static bool
read_image(char *values[], struct vd_record *record)
{
    return read_path(values[0], &record->image_path);
}

static bool
read_file_id(char *values[], struct vd_file_id *file_id)
{
    uint64_t device;
    uint64_t inode;
    if (!vd_text_number(values[0], &device) ||
        !vd_text_number(values[1], &inode)) {
        return false;
    }
    *file_id = (struct vd_file_id){(dev_t)device, (ino_t)inode};
    return true;
}

static bool
read_file(char *values[], struct vd_record *record)
{
    return read_file_id(values, &record->file_id);
}

static bool
read_backing(char *values[], struct vd_record *record)
{
    return read_file_id(values, &record->loop.file_id);
}

static bool
read_shown(char *values[], struct vd_record *record)
{
    return vd_text_number(values[0], &record->shown.number) &&
           vd_text_number(values[1], &record->shown.mark) &&
           read_path(values[2], &record->shown.path);
}

static bool
read_device(char *values[], struct vd_record *record)
{
    return vd_record_is_device_name(values[0]) &&
           vd_text_format(record->loop.name, sizeof(record->loop.name), "%s",
                          values[0]) &&
           vd_text_number(values[1], &record->loop.sequence);
}

static bool
read_node_state(char *values[], struct vd_node_state *state)
{
    uint64_t uid;
    uint64_t gid;
    if (!vd_text_number(values[0], &uid) || uid > UINT32_MAX ||
        !vd_text_number(values[1], &gid) || gid > UINT32_MAX ||
        strlen(values[2]) != 4 || strspn(values[2], "01234567") != 4) {
        return false;
    }
    mode_t mode = (mode_t)strtoul(values[2], NULL, 8);
    *state = (struct vd_node_state){(uid_t)uid, (gid_t)gid, mode};
    return true;
}

static bool
read_access(char *values[], struct vd_record *record)
{
    record->node.changed = true;
    return read_node_state(values, &record->node.before) &&
           read_node_state(values + 3, &record->node.after);
}

static bool
read_boot(char *values[], struct vd_record *record)
{
    return vd_text_format(record->boot_id, sizeof(record->boot_id), "%s",
                          values[0]);
}

static bool
read_pid(char *values[], struct vd_record *record)
{
    return vd_text_number(values[0], &record->pid);
}

static bool
read_bool(const char *value, bool *out)
{
    *out = value[0] == '1';
    return (value[0] == '0' || value[0] == '1') && value[1] == '\0';
}

static bool
read_read_only(char *values[], struct vd_record *record)
{
    return read_bool(values[0], &record->read_only);
}

static bool
read_permanent(char *values[], struct vd_record *record)
{
    return read_bool(values[0], &record->permanent);
}

static bool
read_whole(char *values[], struct vd_record *record)
{
    return read_bool(values[0], &record->whole);
}

struct field {
    const char *name;
    size_t values;
    bool required;
    bool (*read)(char *values[], struct vd_record *record);
};

static const struct field fields[] = {
    {"image", 1, true, read_image},
    {"file", 2, true, read_file},
    {"device", 2, false, read_device},
    {"backing", 2, false, read_backing},
    {"shown", 3, false, read_shown},
    {"access", 6, false, read_access},
    {"boot", 1, false, read_boot},
    {"pid", 1, true, read_pid},
    {"read_only", 1, true, read_read_only},
    {"permanent", 1, true, read_permanent},
    {"whole", 1, false, read_whole},
};

#define FIELD_COUNT (sizeof(fields) / sizeof(fields[0]))

/* Cuts a line at its blanks: the words after the first one. */
static size_t
split(char *line, char *values[VALUES_MAX])
{
    size_t count = 0;
    for (char *blank = strchr(line, ' '); blank != NULL && count < VALUES_MAX;
         blank = strchr(blank + 1, ' ')) {
        *blank = '\0';
        values[count++] = blank + 1;
    }
    return count;
}

/* Bit i of *seen: fields[i] has been there; a second time is once too many. */
static bool
read_line(char *line, unsigned *seen, struct vd_record *record)
{
    char *values[VALUES_MAX];
    size_t count = split(line, values);
    for (size_t i = 0; i < FIELD_COUNT; i++) {
        if (strcmp(line, fields[i].name) == 0) {
            bool repeated = (*seen & 1u << i) != 0;
            *seen |= 1u << i;
            return !repeated && count == fields[i].values &&
                   fields[i].read(values, record);
        }
    }
    return true;
}

static bool
all_required(unsigned seen)
{
    for (size_t i = 0; i < FIELD_COUNT; i++) {
        if (fields[i].required && (seen & 1u << i) == 0) {
            return false;
        }
    }
    return true;
}

/* Every line, the last one too, must have its end: a torn record has not. */
static bool
read_lines(char *text, struct vd_record *record)
{
    unsigned seen = 0;
    bool first = true;
    while (*text != '\0') {
        char *end = strchr(text, '\n');
        if (end == NULL) {
            return false;
        }
        *end = '\0';
        if (first ? strcmp(text, FIRST_LINE) != 0
                  : !read_line(text, &seen, record)) {
            return false;
        }
        first = false;
        text = end + 1;
    }
    return !first && all_required(seen);
}

vd_error
vd_record_parse(char *text, size_t length, struct vd_record *out)
{
    struct vd_record record = {.image_path = NULL};
    if (strlen(text) != length || !read_lines(text, &record) ||
        (vd_record_has_device(&record) && vd_record_has_file(&record))) {
        vd_trace(VD_TRACE_ATTACH, "a record that is none");
        vd_record_clear(&record);
        return ERROR_INVALID_DATA;
    }
    if (record.loop.file_id.inode == 0) {
        record.loop.file_id = record.file_id;
    }
    *out = record;
    return ERROR_SUCCESS;
}

vd_error
vd_record_copy(const struct vd_record *record, struct vd_record *out)
{
    VD_AUTO_FREE char *image_path = strdup(record->image_path);
    VD_AUTO_FREE char *shown_path = NULL;
    if (vd_record_has_file(record)) {
        shown_path = strdup(record->shown.path);
    }
    if (image_path == NULL ||
        (shown_path == NULL && vd_record_has_file(record))) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    *out = *record;
    out->image_path = VD_TAKE(image_path);
    out->shown.path = VD_TAKE(shown_path);
    return ERROR_SUCCESS;
}

void
vd_record_clear(struct vd_record *record)
{
    free(record->image_path);
    vd_shown_clear(&record->shown);
    *record = (struct vd_record){.image_path = NULL};
}
