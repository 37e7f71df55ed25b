/*
 * Partitions where the kernel does not scan: BLKPG.
 *
 * Many kernels are built without the partition formats, or find less than
 * is there; what they have found is kept.  Reads no table itself
 * (disk/partition_table.h) and removes nothing: the kernel drops the
 * partitions of a device with LO_FLAGS_PARTSCAN when it is freed.
 *
 * Source: linux/blkpg.h.
 */
#include "attach/partitions.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/blkpg.h>

#include "attach/loop.h"
#include "attach/paths.h"
#include "attach/text.h"
#include "base/cleanup.h"
#include "base/trace.h"
#include "disk/partition_table.h"

static bool
kernel_has(const char *device, uint32_t number)
{
    char path[64];
    return vd_text_format(path, sizeof(path),
                          VD_PATH_BLOCK "/%s/%sp%u/partition", device, device,
                          number) &&
           access(path, F_OK) == 0;
}

static vd_error
add(int fd, const char *device, const struct vd_partition *partition)
{
    struct blkpg_partition description = {
        .start = (long long)partition->offset_bytes, /* inside the disk */
        .length = (long long)partition->length_bytes,
        .pno = (int)partition->number,
    };
    struct blkpg_ioctl_arg argument = {
        .op = BLKPG_ADD_PARTITION,
        .datalen = sizeof(description),
        .data = &description,
    };
    if (ioctl(fd, BLKPG, &argument) == 0) {
        return ERROR_SUCCESS;
    }
    int error_number = errno;
    vd_trace(VD_TRACE_ATTACH, "adding partition %u of %s: %s",
             partition->number, device, strerror(error_number));
    /* EBUSY: it, or one that overlaps it, is there.  EINVAL: not on the
     * sectors of this device.  The kernel's own scan skips both. */
    if (error_number == EBUSY || error_number == EINVAL) {
        return ERROR_SUCCESS;
    }
    return vd_loop_error(error_number);
}

static vd_error
add_missing(int fd, const char *device, const struct vd_partition_table *table)
{
    for (size_t i = 0; i < table->count; i++) {
        const struct vd_partition *partition = &table->partitions[i];
        if (kernel_has(device, partition->number)) {
            continue;
        }
        vd_error error = add(fd, device, partition);
        if (error != ERROR_SUCCESS) {
            return error;
        }
    }
    return ERROR_SUCCESS;
}

vd_error
vd_partitions_add(int fd, const char *device, struct vd_disk *disk)
{
    /* Too large for the stack of a small thread. */
    VD_AUTO_FREE struct vd_partition_table *table = malloc(sizeof(*table));
    if (table == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    vd_error error = vd_partition_table_read(disk, table);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    return add_missing(fd, device, table);
}

/* "loop3p1" among the entries of /sys/block/loop3. */
static bool
is_partition_of(const char *device, const char *entry)
{
    size_t length = strlen(device);
    uint64_t number;
    return strncmp(entry, device, length) == 0 && entry[length] == 'p' &&
           vd_text_number(entry + length + 1, &number);
}

static vd_error
visit_entries(DIR *entries, const char *device,
              vd_error (*visit)(const char *partition, void *context),
              void *context)
{
    const struct dirent *entry;
    while ((entry = readdir(entries)) != NULL) {
        if (!is_partition_of(device, entry->d_name)) {
            continue;
        }
        vd_error error = visit(entry->d_name, context);
        if (error != ERROR_SUCCESS) {
            return error;
        }
    }
    return ERROR_SUCCESS;
}

vd_error
vd_partitions_each(const char *device,
                   vd_error (*visit)(const char *partition, void *context),
                   void *context)
{
    char path[64];
    if (!vd_text_format(path, sizeof(path), VD_PATH_BLOCK "/%s", device)) {
        return ERROR_INVALID_NAME;
    }
    DIR *entries = opendir(path);
    if (entries == NULL) {
        return vd_error_from_errno(errno);
    }
    vd_error error = visit_entries(entries, device, visit, context);
    closedir(entries);
    return error;
}
