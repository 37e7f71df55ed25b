/*
 * Whether a block device carries a mounted file system: what
 * /proc/self/mountinfo (proc(5)) and sysfs say.
 */
#include "disk/mounted.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"

/* "8:1\n"; false if there is no such file. */
static bool
read_device(const char *path, dev_t *out)
{
    char text[32];
    unsigned major_number, minor_number;
    VD_AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
    if (length <= 0) {
        return false;
    }
    text[length] = '\0';
    if (sscanf(text, "%u:%u", &major_number, &minor_number) != 2) {
        return false;
    }
    *out = makedev(major_number, minor_number);
    return true;
}

/* The disk that a partition is part of; of anything else there is none. */
static bool
disk_of(dev_t partition, dev_t *out)
{
    char path[96];
    snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/partition",
             major(partition), minor(partition));
    if (access(path, F_OK) < 0) {
        return false;
    }
    snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/../dev",
             major(partition), minor(partition));
    return read_device(path, out);
}

static bool
is_or_is_part_of(dev_t mounted, dev_t device)
{
    dev_t disk = 0;
    return mounted == device || (disk_of(mounted, &disk) && disk == device);
}

bool
vd_is_mounted(dev_t device)
{
    FILE *list = fopen("/proc/self/mountinfo", "re");
    VD_AUTO_FREE char *line = NULL;
    size_t size = 0;
    bool found = false;
    if (list == NULL) {
        return false;
    }
    while (!found && getline(&line, &size, list) > 0) {
        unsigned major_number, minor_number;
        if (sscanf(line, "%*u %*u %u:%u", &major_number, &minor_number) == 2) {
            found =
                is_or_is_part_of(makedev(major_number, minor_number), device);
        }
    }
    fclose(list);
    return found;
}
