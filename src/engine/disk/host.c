/*
 * What an image file lies on (vd_disk_host of disk.h): the disk under its
 * file system, from sysfs, and whether that is on another machine.
 *
 * Where the file system has no one block device (btrfs, overlayfs, tmpfs and
 * all network file systems), nobody can say more than 512 bytes.  A FUSE
 * file system counts as local: the kernel does not tell what is behind it.
 */
#include "disk/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"

#define DEFAULT_SECTOR_SIZE 512
#define MAX_SECTOR_SIZE 65536

/* statfs(2); those that <linux/magic.h> of an older kernel lacks included. */
static const uint32_t remote_file_systems[] = {
    0x00006969, /* NFS */
    0x0000517B, /* SMB */
    0xFF534D42, /* CIFS */
    0xFE534D42, /* SMB 2 and later */
    0x01021997, /* 9P: of the host of a virtual machine */
    0x786F4256, /* shared folders of VirtualBox */
    0x00C36400, /* Ceph */
    0x5346414F, /* AFS */
    0x6B414653, /* AFS, the other client */
    0x73757245, /* Coda */
    0x0BD00BD0, /* Lustre */
};

static bool
is_remote(uint32_t file_system)
{
    size_t count =
        sizeof(remote_file_systems) / sizeof(remote_file_systems[0]);
    for (size_t i = 0; i < count; i++) {
        if (remote_file_systems[i] == file_system) {
            return true;
        }
    }
    return false;
}

/* A small sysfs attribute holding a decimal number; false if it is absent or
 * not a possible sector size. */
static bool
read_sector_size(const char *path, uint32_t *out)
{
    char text[32];
    VD_AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    ssize_t length = read(fd, text, sizeof(text) - 1);
    if (length <= 0) {
        return false;
    }
    text[length] = '\0';
    unsigned long value = strtoul(text, NULL, 10);
    if (value < DEFAULT_SECTOR_SIZE || value > MAX_SECTOR_SIZE ||
        !vd_is_power_of_two(value)) {
        return false;
    }
    *out = (uint32_t)value;
    return true;
}

/* A partition has no queue of its own: its directory lies in its disk's. */
static bool
read_queue_attribute(dev_t device, const char *attribute, uint32_t *out)
{
    static const char *const queues[] = {"queue", "../queue"};
    for (size_t i = 0; i < 2; i++) {
        char path[PATH_MAX];
        snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s/%s",
                 major(device), minor(device), queues[i], attribute);
        if (read_sector_size(path, out)) {
            return true;
        }
    }
    return false;
}

vd_error
vd_disk_host(const struct vd_disk *disk, struct vd_host_disk *out)
{
    struct statfs status;
    if (fstatfs(vd_disk_fd(disk), &status) < 0) {
        return vd_error_from_errno(errno);
    }
    struct vd_host_disk host = {
        .sector_size = DEFAULT_SECTOR_SIZE,
        .physical_sector_size = DEFAULT_SECTOR_SIZE,
        .remote = is_remote((uint32_t)status.f_type),
    };
    dev_t device = vd_disk_file_id(disk).device;
    if (read_queue_attribute(device, "logical_block_size",
                             &host.sector_size) &&
        !read_queue_attribute(device, "physical_block_size",
                              &host.physical_sector_size)) {
        host.physical_sector_size = host.sector_size;
    }
    *out = host;
    return ERROR_SUCCESS;
}
