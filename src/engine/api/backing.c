/*
 * The image behind an attached disk.  See backing.h.
 */
#include "api/backing.h"

#include <virtdisk.h>

#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

#include "api/look.h"
#include "base/cleanup.h"
#include "format/format.h"

static bool
is_file(int fd, struct vd_file_id id)
{
    struct stat status;
    return fstat(fd, &status) == 0 && status.st_dev == id.device &&
           status.st_ino == id.inode;
}

static const char *
below(const char *path, const char *root)
{
    size_t length = strlen(root);
    if (strcmp(root, "/") == 0) {
        return path + 1;
    }
    return strncmp(path, root, length) == 0 && path[length] == '/'
               ? path + length + 1
               : path;
}

vd_error
vd_backing_find(const struct vd_attached *attached, struct vd_backing *out)
{
    struct vd_backing backing = {
        .attached = attached,
        .volume = {.device = attached->file_id.device},
        .path = attached->image_path,
    };
    VD_AUTO_CLOSE int fd = open(attached->image_path, O_PATH | O_CLOEXEC);
    if (fd >= 0 && is_file(fd, attached->file_id)) {
        vd_error error = vd_volume_of(fd, &backing.volume);
        if (error) {
            return error;
        }
    }
    if (backing.volume.root != NULL) {
        backing.path = below(attached->image_path, backing.volume.root);
    }
    *out = backing;
    return ERROR_SUCCESS;
}

static uint32_t
flags_of_subtype(enum vd_subtype subtype)
{
    switch (subtype) {
    case VD_SUBTYPE_FIXED:
        return DEPENDENT_DISK_FLAG_FULLY_ALLOCATED;
    case VD_SUBTYPE_DIFFERENCING:
        return DEPENDENT_DISK_FLAG_MULT_BACKING_FILES;
    case VD_SUBTYPE_DYNAMIC:
    case VD_SUBTYPE_NONE:
        break;
    }
    return DEPENDENT_DISK_FLAG_NONE;
}

static bool
same_file(struct vd_file_id a, struct vd_file_id b)
{
    return a.device == b.device && a.inode == b.inode;
}

static void
describe_disk(const struct vd_disk *disk, uint32_t *flags, uint32_t *device_id)
{
    struct vd_host_disk host;
    *device_id = vd_disk_format(disk)->device_id;
    *flags |= flags_of_subtype(vd_disk_info(disk)->subtype);
    if (!vd_disk_host(disk, &host) && host.remote) {
        *flags |= DEPENDENT_DISK_FLAG_REMOTE;
    }
}

/* What only the image itself can tell. */
static void
describe_image(const struct vd_attached *attached, uint32_t *flags,
               uint32_t *device_id)
{
    struct vd_disk_options options = {.no_parents = true};
    struct vd_disk *disk;
    if (vd_look_open(attached->image_path, &options, &disk)) {
        return;
    }
    if (same_file(vd_disk_file_id(disk), attached->file_id)) {
        describe_disk(disk, flags, device_id);
    }
    vd_disk_close(disk);
}

/* Whether there are to be nodes for partitions is known of an attachment with
 * a device; a disc has none in any case. */
static uint32_t
flags_of_device(const struct vd_attached *attached, dev_t system, bool optical)
{
    struct vd_device_stack below_system;
    uint32_t flags = 0;
    if (attached->device == NULL) {
        return DEPENDENT_DISK_FLAG_NO_HOST_DISK;
    }
    if (!optical && !vd_device_scans_partitions(attached->device)) {
        flags |= DEPENDENT_DISK_FLAG_NO_DRIVE_LETTER;
    }
    vd_device_stack_of(system, &below_system);
    if (vd_device_stack_has(&below_system,
                            vd_device_number(attached->device))) {
        flags |= DEPENDENT_DISK_FLAG_SYSTEM_VOLUME;
    }
    return flags;
}

static uint32_t
flags_of_volume(const struct vd_volume *volume, dev_t system)
{
    struct vd_device_stack stack;
    uint32_t flags = 0;
    if (volume->device != 0 && volume->device == system) {
        flags |= DEPENDENT_DISK_FLAG_SYSTEM_VOLUME_PARENT;
    }
    vd_device_stack_of(volume->device, &stack);
    if (vd_device_stack_removable(&stack)) {
        flags |= DEPENDENT_DISK_FLAG_REMOVABLE;
    }
    return flags;
}

void
vd_backing_describe(const struct vd_backing *backing, dev_t system,
                    uint32_t *flags_out, uint32_t *device_id_out)
{
    const struct vd_attached *attached = backing->attached;
    uint32_t device_id = VD_DEVICE_UNKNOWN;
    uint32_t flags = DEPENDENT_DISK_FLAG_NONE;
    describe_image(attached, &flags, &device_id);
    flags |= flags_of_device(attached, system, device_id == VD_DEVICE_ISO);
    flags |= flags_of_volume(&backing->volume, system);
    if (attached->read_only) {
        flags |= DEPENDENT_DISK_FLAG_READ_ONLY;
    }
    if (attached->permanent) {
        flags |= DEPENDENT_DISK_FLAG_PERMANENT_LIFETIME;
    }
    *flags_out = flags;
    *device_id_out = device_id;
}
