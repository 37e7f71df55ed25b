/*
 * What lies on what, from sysfs and the table of mounts.  See volume.h.
 */
#include "attach/volume.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "attach/paths.h"
#include "attach/text.h"
#include "base/cleanup.h"
#include "base/trace.h"

/* ---- the table of mounts (proc_pid_mountinfo(5)) ---- */

/* One line of it, its fields in place. */
struct mount {
    const char *id;
    const char *device; /* "8:1" */
    char *root;         /* where it is mounted */
    const char *source;
};

/* Blanks, newlines and backslashes stand as "\040": in place. */
static void
unescape(char *text)
{
    char *to = text;
    for (const char *from = text; *from != '\0'; from++) {
        unsigned value = 0;
        if (from[0] == '\\' && strspn(from + 1, "01234567") >= 3) {
            for (int i = 1; i <= 3; i++) {
                value = value * 8 + (unsigned)(from[i] - '0');
            }
            *to++ = (char)value;
            from += 3;
        }
        else {
            *to++ = *from;
        }
    }
    *to = '\0';
}

/* "id parent device root mounted-at options [tag...] - type source options",
 * taken apart. */
static bool
split_mount(char *line, struct mount *out)
{
    char *fields[5];
    char *rest = line;
    for (size_t i = 0; i < 5; i++) {
        fields[i] = strsep(&rest, " ");
    }
    char *dash = rest != NULL ? strstr(rest, " - ") : NULL;
    if (dash == NULL) {
        return false;
    }
    rest = dash + 3;
    (void)strsep(&rest, " ");
    const char *source = strsep(&rest, " ");
    if (source == NULL) {
        return false;
    }
    unescape(fields[4]);
    *out = (struct mount){
        .id = fields[0],
        .device = fields[2],
        .root = fields[4],
        .source = source,
    };
    return true;
}

/* The device of a file system whose files have a number of its own making
 * (btrfs). */
static dev_t
number_of_node(const char *path)
{
    struct stat status;
    if (path[0] != '/' || stat(path, &status) < 0 ||
        !S_ISBLK(status.st_mode)) {
        return 0;
    }
    return status.st_rdev;
}

static vd_error
take_mount(const struct mount *mount, struct vd_volume *volume)
{
    volume->root = strdup(mount->root);
    if (volume->root == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    if (major(volume->device) == 0) {
        volume->device = number_of_node(mount->source);
    }
    return ERROR_SUCCESS;
}

/* Of the mount with this id or, if that is NULL, the first of this device.
 * One that is not seen is none. */
static vd_error
find_mount(const char *id, const char *device, struct vd_volume *volume)
{
    VD_AUTO_FREE char *line = NULL;
    size_t size = 0;
    vd_error error = ERROR_SUCCESS;
    FILE *file = fopen(VD_PATH_OWN_MOUNTS, "re");
    if (file == NULL) {
        return vd_error_from_errno(errno);
    }
    while (getline(&line, &size, file) >= 0) {
        struct mount mount;
        if (split_mount(line, &mount) &&
            (id != NULL ? strcmp(mount.id, id) == 0
                        : strcmp(mount.device, device) == 0)) {
            error = take_mount(&mount, volume);
            break;
        }
    }
    fclose(file);
    return error;
}

/* ---- the volume of an open file ---- */

/* "mnt_id:\t29" among the lines that the kernel says of a descriptor. */
static vd_error
mount_id_of(int fd, char *id, size_t id_size)
{
    static const char name[] = "mnt_id:";
    char path[64];
    char line[128];
    vd_error error = ERROR_NOT_FOUND;
    snprintf(path, sizeof(path), VD_PATH_OWN_FD_INFO "/%d", fd);
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return vd_error_from_errno(errno);
    }
    while (error != ERROR_SUCCESS && fgets(line, sizeof(line), file) != NULL) {
        if (strncmp(line, name, sizeof(name) - 1) == 0) {
            const char *value = line + sizeof(name) - 1;
            value += strspn(value, " \t");
            snprintf(id, id_size, "%.*s", (int)strspn(value, "0123456789"),
                     value);
            error = ERROR_SUCCESS;
        }
    }
    fclose(file);
    return error;
}

static vd_error
find_volume(int fd, const struct stat *status, struct vd_volume *volume)
{
    char text[32];
    if (S_ISBLK(status->st_mode)) {
        volume->device = status->st_rdev;
        snprintf(text, sizeof(text), "%u:%u", major(volume->device),
                 minor(volume->device));
        return find_mount(NULL, text, volume);
    }
    volume->device = status->st_dev;
    vd_error error = mount_id_of(fd, text, sizeof(text));
    return error != ERROR_SUCCESS ? error : find_mount(text, NULL, volume);
}

vd_error
vd_volume_of(int fd, struct vd_volume *out)
{
    struct vd_volume volume = {.device = 0};
    struct stat status;
    if (fstat(fd, &status) < 0) {
        return vd_error_from_errno(errno);
    }
    vd_error error = find_volume(fd, &status, &volume);
    if (error != ERROR_SUCCESS) {
        vd_trace(VD_TRACE_ATTACH, "no volume found: error %u", error);
        return error;
    }
    *out = volume;
    return ERROR_SUCCESS;
}

void
vd_volume_free(struct vd_volume *volume)
{
    free(volume->root);
    *volume = (struct vd_volume){.device = 0};
}

/* ---- devices under devices ---- */

static bool
read_attribute(dev_t device, const char *attribute, char *text, size_t size)
{
    char path[PATH_MAX];
    return vd_text_format(path, sizeof(path),
                          VD_PATH_BLOCK_NUMBERS "/%u:%u/%s", major(device),
                          minor(device), attribute) &&
           vd_text_read_line(path, text, size) == ERROR_SUCCESS;
}

/* "8:1". */
static dev_t
parse_number(char *text)
{
    uint64_t major_number;
    uint64_t minor_number;
    char *colon = strchr(text, ':');
    if (colon == NULL) {
        return 0;
    }
    *colon = '\0';
    if (!vd_text_number(text, &major_number) ||
        !vd_text_number(colon + 1, &minor_number)) {
        return 0;
    }
    return makedev((unsigned)major_number, (unsigned)minor_number);
}

static void
push(struct vd_device_stack *stack, dev_t device)
{
    if (device != 0 && stack->count < VD_DEVICE_STACK_MAX &&
        !vd_device_stack_has(stack, device)) {
        stack->devices[stack->count++] = device;
    }
}

static void
push_attribute(struct vd_device_stack *stack, dev_t device,
               const char *attribute)
{
    char text[32];
    if (read_attribute(device, attribute, text, sizeof(text))) {
        push(stack, parse_number(text));
    }
}

static void
push_slaves(struct vd_device_stack *stack, dev_t device)
{
    char path[64];
    snprintf(path, sizeof(path), VD_PATH_BLOCK_NUMBERS "/%u:%u/slaves",
             major(device), minor(device));
    DIR *directory = opendir(path);
    if (directory == NULL) {
        return;
    }
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        char attribute[sizeof("slaves//dev") + NAME_MAX];
        if (entry->d_name[0] != '.' &&
            vd_text_format(attribute, sizeof(attribute), "slaves/%s/dev",
                           entry->d_name)) {
            push_attribute(stack, device, attribute);
        }
    }
    closedir(directory);
}

void
vd_device_stack_of(dev_t device, struct vd_device_stack *out)
{
    out->count = 0;
    push(out, device);
    for (size_t i = 0; i < out->count; i++) {
        /* The directory of a partition lies in that of its disk. */
        if (vd_device_is_partition(out->devices[i])) {
            push_attribute(out, out->devices[i], "../dev");
        }
        push_slaves(out, out->devices[i]);
    }
}

bool
vd_device_stack_has(const struct vd_device_stack *stack, dev_t device)
{
    for (size_t i = 0; i < stack->count; i++) {
        if (stack->devices[i] == device) {
            return true;
        }
    }
    return false;
}

bool
vd_device_stack_removable(const struct vd_device_stack *stack)
{
    for (size_t i = 0; i < stack->count; i++) {
        char text[8];
        if (read_attribute(stack->devices[i], "removable", text,
                           sizeof(text)) &&
            strcmp(text, "1") == 0) {
            return true;
        }
    }
    return false;
}

bool
vd_device_is_partition(dev_t device)
{
    char text[16];
    return read_attribute(device, "partition", text, sizeof(text));
}

dev_t
vd_device_number(const char *device)
{
    return number_of_node(device);
}

bool
vd_device_scans_partitions(const char *device)
{
    char text[8];
    return read_attribute(number_of_node(device), "loop/partscan", text,
                          sizeof(text)) &&
           strcmp(text, "1") == 0;
}
