/*
 * GetStorageDependencyInformation (virtdisk.h): which attached images a disk
 * or volume stands on, and which stand on it, through any number of images
 * that lie on disks of other images.
 *
 * Names here: the device of a disk is its node (/dev/loop3).  A volume's name
 * is the directory where it is mounted, with a final slash, as the name of a
 * Windows volume is its root directory too: HostVolumeName and then
 * DependentVolumeRelativePath is the path of the image.  One that is mounted
 * nowhere has the name "".
 *
 * A differencing chain is one entry (MULT_BACKING_FILES), named by its leaf.
 * What cannot be found out about an image, because it has been moved or may
 * not be read, is left out of its entry: the type is UNKNOWN then.
 */
#include <virtdisk.h>

#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "api/backing.h"
#include "api/host_file.h"
#include "api/multi_sz.h"
#include "api/refuse.h"
#include "attach/attach.h"
#include "attach/volume.h"
#include "base/cleanup.h"
#include "format/format.h"

#define FLAGS_KNOWN                                                           \
    (GET_STORAGE_DEPENDENCY_FLAG_HOST_VOLUMES |                               \
     GET_STORAGE_DEPENDENCY_FLAG_DISK_HANDLE)

#define HEADER_SIZE offsetof(STORAGE_DEPENDENCY_INFO, Version1Entries)

/* The strings of an entry, in the order of its members. */
enum { TEXT_DEVICE, TEXT_HOST, TEXT_DEPENDENT, TEXT_RELATIVE, TEXTS };

struct entry {
    uint32_t flags; /* DEPENDENT_DISK_FLAG */
    uint32_t device_id;
    ULONG level;
    size_t texts[TEXTS]; /* where each starts in `text` below */
};

struct walk {
    const struct vd_attached *attached; /* all on this system */
    size_t attached_count;
    dev_t system; /* what "/" is on */

    struct entry *entries;
    size_t count;
    struct vd_multi_sz text;
};

/* ---- the list ---- */

static vd_error
add_text(struct walk *walk, const char *text, size_t *place)
{
    *place = walk->text.count;
    return vd_multi_sz_append(&walk->text, text != NULL ? text : "");
}

/* "/mnt" -> "/mnt/"; the root is its own. */
static vd_error
add_volume(struct walk *walk, const char *root, size_t *place)
{
    VD_AUTO_FREE char *name = NULL;
    if (root == NULL || strcmp(root, "/") == 0) {
        return add_text(walk, root, place);
    }
    if (asprintf(&name, "%s/", root) < 0) {
        name = NULL;
        return vd_refuse(ERROR_NOT_ENOUGH_MEMORY, "no memory for a name");
    }
    return add_text(walk, name, place);
}

static vd_error
append(struct walk *walk, const struct entry *entry)
{
    struct entry *larger =
        reallocarray(walk->entries, walk->count + 1, sizeof(*larger));
    if (larger == NULL) {
        return vd_refuse(ERROR_NOT_ENOUGH_MEMORY, "no memory for a list");
    }
    larger[walk->count++] = *entry;
    walk->entries = larger;
    return ERROR_SUCCESS;
}

/* dependent: where the volume is mounted that stands on the image, if that is
 * known. */
static vd_error
add_entry(struct walk *walk, const struct vd_attached *attached,
          const struct vd_backing *backing, const char *dependent, ULONG level)
{
    struct entry entry = {.level = level};
    vd_backing_describe(backing, walk->system, &entry.flags, &entry.device_id);
    vd_error error =
        add_text(walk, attached->device, &entry.texts[TEXT_DEVICE]);
    if (!error) {
        error =
            add_volume(walk, backing->volume.root, &entry.texts[TEXT_HOST]);
    }
    if (!error) {
        error = add_volume(walk, dependent, &entry.texts[TEXT_DEPENDENT]);
    }
    if (!error) {
        error = add_text(walk, backing->path, &entry.texts[TEXT_RELATIVE]);
    }
    return error ? error : append(walk, &entry);
}

/* ---- up: what it stands on ---- */

static vd_error find_hosts(struct walk *walk, const struct vd_volume *volume,
                           ULONG level);

static vd_error
add_host(struct walk *walk, const struct vd_attached *attached,
         const char *dependent, ULONG level)
{
    struct vd_backing backing = {.attached = NULL};
    vd_error error = vd_backing_find(attached, &backing);
    if (!error) {
        error = add_entry(walk, attached, &backing, dependent, level);
    }
    if (!error) {
        error = find_hosts(walk, &backing.volume, level + 1);
    }
    vd_volume_free(&backing.volume);
    return error;
}

/* An image cannot lie on itself; a table of mounts that says so, because
 * everything changes while we look, must not hold us here for ever. */
static vd_error
find_hosts(struct walk *walk, const struct vd_volume *volume, ULONG level)
{
    struct vd_device_stack stack;
    if (level > walk->attached_count) {
        return ERROR_SUCCESS;
    }
    vd_device_stack_of(volume->device, &stack);
    for (size_t i = 0; i < walk->attached_count; i++) {
        const struct vd_attached *attached = &walk->attached[i];
        if (attached->device == NULL ||
            !vd_device_stack_has(&stack, vd_device_number(attached->device))) {
            continue;
        }
        vd_error error = add_host(walk, attached, volume->root, level);
        if (error) {
            return error;
        }
    }
    return ERROR_SUCCESS;
}

/* ---- down: what stands on it ---- */

static vd_error find_guests(struct walk *walk, dev_t device, ULONG level);

static vd_error
add_guest(struct walk *walk, const struct vd_attached *attached,
          const struct vd_backing *backing, ULONG level)
{
    vd_error error = add_entry(walk, attached, backing, NULL, level);
    if (error || attached->device == NULL) {
        return error;
    }
    return find_guests(walk, vd_device_number(attached->device), level + 1);
}

static vd_error
add_if_guest(struct walk *walk, const struct vd_attached *attached,
             dev_t device, ULONG level)
{
    struct vd_backing backing = {.attached = NULL};
    struct vd_device_stack stack;
    vd_error error = vd_backing_find(attached, &backing);
    if (!error) {
        vd_device_stack_of(backing.volume.device, &stack);
        if (vd_device_stack_has(&stack, device)) {
            error = add_guest(walk, attached, &backing, level);
        }
    }
    vd_volume_free(&backing.volume);
    return error;
}

static vd_error
find_guests(struct walk *walk, dev_t device, ULONG level)
{
    if (level > walk->attached_count) {
        return ERROR_SUCCESS;
    }
    for (size_t i = 0; i < walk->attached_count; i++) {
        vd_error error = add_if_guest(walk, &walk->attached[i], device, level);
        if (error) {
            return error;
        }
    }
    return ERROR_SUCCESS;
}

/* ---- the answer ---- */

static size_t
size_of_entry(STORAGE_DEPENDENCY_INFO_VERSION version)
{
    return version == STORAGE_DEPENDENCY_INFO_VERSION_1
               ? sizeof(STORAGE_DEPENDENCY_INFO_TYPE_1)
               : sizeof(STORAGE_DEPENDENCY_INFO_TYPE_2);
}

static VIRTUAL_STORAGE_TYPE
type_of(const struct entry *entry)
{
    VIRTUAL_STORAGE_TYPE type = {.DeviceId = entry->device_id};
    if (entry->device_id != VD_DEVICE_UNKNOWN) {
        type.VendorId = VIRTUAL_STORAGE_TYPE_VENDOR_MICROSOFT;
    }
    return type;
}

static void
fill_1(const struct walk *walk, STORAGE_DEPENDENCY_INFO *info)
{
    for (size_t i = 0; i < walk->count; i++) {
        info->Version1Entries[i] = (STORAGE_DEPENDENCY_INFO_TYPE_1){
            .DependencyTypeFlags = walk->entries[i].flags,
            .VirtualStorageType = type_of(&walk->entries[i]),
        };
    }
}

static void
fill_2(const struct walk *walk, STORAGE_DEPENDENCY_INFO *info)
{
    WCHAR *text = (WCHAR *)&info->Version2Entries[walk->count];
    if (walk->count != 0) {
        memcpy(text, walk->text.units, walk->text.count * sizeof(*text));
    }
    for (size_t i = 0; i < walk->count; i++) {
        const struct entry *entry = &walk->entries[i];
        info->Version2Entries[i] = (STORAGE_DEPENDENCY_INFO_TYPE_2){
            .DependencyTypeFlags = entry->flags,
            .VirtualStorageType = type_of(entry),
            .AncestorLevel = entry->level,
            .DependencyDeviceName = text + entry->texts[TEXT_DEVICE],
            .HostVolumeName = text + entry->texts[TEXT_HOST],
            .DependentVolumeName = text + entry->texts[TEXT_DEPENDENT],
            .DependentVolumeRelativePath = text + entry->texts[TEXT_RELATIVE],
        };
    }
}

static vd_error
give(const struct walk *walk, ULONG size, STORAGE_DEPENDENCY_INFO *info,
     ULONG *size_used)
{
    size_t needed = HEADER_SIZE + walk->count * size_of_entry(info->Version);
    if (info->Version == STORAGE_DEPENDENCY_INFO_VERSION_2) {
        needed += walk->text.count * sizeof(*walk->text.units);
    }
    if (needed > UINT32_MAX) {
        return vd_refuse(ERROR_NOT_ENOUGH_MEMORY, "more than fits");
    }
    if (size_used != NULL) {
        *size_used = (ULONG)needed;
    }
    if (size < needed) {
        return ERROR_INSUFFICIENT_BUFFER;
    }
    info->NumberEntries = (ULONG)walk->count;
    if (info->Version == STORAGE_DEPENDENCY_INFO_VERSION_1) {
        fill_1(walk, info);
    }
    else {
        fill_2(walk, info);
    }
    return ERROR_SUCCESS;
}

/* ---- the call ---- */

static dev_t
system_device(void)
{
    struct vd_volume volume;
    VD_AUTO_CLOSE int fd = open("/", O_PATH | O_CLOEXEC);
    if (fd < 0 || vd_volume_of(fd, &volume)) {
        return 0;
    }
    dev_t device = volume.device;
    vd_volume_free(&volume);
    return device;
}

static vd_error
check_disk(int fd)
{
    struct stat status;
    if (fstat(fd, &status) < 0 || !S_ISBLK(status.st_mode) ||
        vd_device_is_partition(status.st_rdev)) {
        return vd_refuse(ERROR_INVALID_PARAMETER, "not the handle of a disk");
    }
    return ERROR_SUCCESS;
}

/* An object that stands on no image of ours is no virtual disk (inferred:
 * others have seen ERROR_INVALID_FUNCTION on Windows); one that carries none
 * is answered with an empty list. */
static vd_error
fill_walk(struct walk *walk, int fd, bool hosts)
{
    struct vd_volume volume;
    vd_error error = vd_volume_of(fd, &volume);
    if (error) {
        return error;
    }
    walk->system = system_device();
    if (!hosts) {
        error = volume.device != 0 ? find_guests(walk, volume.device, 1)
                                   : ERROR_SUCCESS;
    }
    else {
        error = find_hosts(walk, &volume, 1);
        if (!error && walk->count == 0) {
            error = vd_refuse(ERROR_VIRTDISK_NOT_VIRTUAL_DISK,
                              "on no attached image");
        }
    }
    vd_volume_free(&volume);
    return error;
}

static vd_error
walk_and_give(int fd, bool hosts, ULONG size, STORAGE_DEPENDENCY_INFO *info,
              ULONG *size_used)
{
    struct vd_attached *attached;
    struct walk walk = {.count = 0};
    vd_error error = vd_attached_list(&attached, &walk.attached_count);
    if (error) {
        return error;
    }
    walk.attached = attached;
    error = fill_walk(&walk, fd, hosts);
    if (!error) {
        error = give(&walk, size, info, size_used);
    }
    for (size_t i = 0; i < walk.attached_count; i++) {
        vd_attached_free(&attached[i]);
    }
    free(attached);
    free(walk.entries);
    free(walk.text.units);
    return error;
}

static vd_error
check_arguments(GET_STORAGE_DEPENDENCY_FLAG flags, ULONG size,
                const STORAGE_DEPENDENCY_INFO *info, ULONG *size_used)
{
    if (info == NULL || size == 0) {
        return vd_refuse(ERROR_INVALID_PARAMETER, "no buffer");
    }
    if ((flags & ~(unsigned)FLAGS_KNOWN) != 0) {
        return vd_refuse(ERROR_INVALID_PARAMETER, "dependency flags %#x",
                         (unsigned)flags);
    }
    if (size < HEADER_SIZE) {
        if (size_used != NULL) {
            *size_used = HEADER_SIZE;
        }
        return ERROR_INSUFFICIENT_BUFFER;
    }
    if (info->Version != STORAGE_DEPENDENCY_INFO_VERSION_1 &&
        info->Version != STORAGE_DEPENDENCY_INFO_VERSION_2) {
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "STORAGE_DEPENDENCY_INFO version %u",
                         (unsigned)info->Version);
    }
    return ERROR_SUCCESS;
}

/* ObjectHandle is one from CreateFileW.  AncestorLevel counts from 1, the
 * image that is next to the object.  *SizeUsed is set on success and with
 * ERROR_INSUFFICIENT_BUFFER. */
DWORD WINAPI
GetStorageDependencyInformation(HANDLE ObjectHandle,
                                GET_STORAGE_DEPENDENCY_FLAG Flags,
                                ULONG StorageDependencyInfoSize,
                                PSTORAGE_DEPENDENCY_INFO StorageDependencyInfo,
                                PULONG SizeUsed)
{
    struct vd_host_file *file;
    vd_error error = check_arguments(Flags, StorageDependencyInfoSize,
                                     StorageDependencyInfo, SizeUsed);
    if (!error) {
        error = vd_host_file_acquire(ObjectHandle, &file);
    }
    if (error) {
        return error;
    }
    if ((Flags & GET_STORAGE_DEPENDENCY_FLAG_DISK_HANDLE) != 0) {
        error = check_disk(file->fd);
    }
    if (!error) {
        error = walk_and_give(
            file->fd, (Flags & GET_STORAGE_DEPENDENCY_FLAG_HOST_VOLUMES) != 0,
            StorageDependencyInfoSize, StorageDependencyInfo, SizeUsed);
    }
    vd_host_file_release(file);
    return error;
}
