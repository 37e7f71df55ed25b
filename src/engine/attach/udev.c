/*
 * A run-time rule for udevd, one file per device.
 *
 * udevd sets owner and mode of a node again at every event, so the node
 * alone is not enough (node.c).  The rule names the device's diskseq: one
 * left over from a crash matches nothing.  udevd looks for new rules at most
 * every three seconds; until then its defaults may come back for a moment.
 * Without diskseq (Linux before 5.15) there is no rule, because it could hit
 * somebody else's device later.
 *
 * Source: udev(7); 80-udisks2.rules for UDISKS_IGNORE.
 */
#include "attach/udev.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "attach/partitions.h"
#include "attach/paths.h"
#include "attach/text.h"
#include "base/cleanup.h"
#include "base/trace.h"

#define RULE_SIZE 512
#define RULE_NAME_SIZE 64

bool
vd_udev_rule(const struct vd_loop *loop, const struct vd_node_access *access,
             bool hidden, char *buffer, size_t size)
{
    char permissions[96] = "";
    if (access->set &&
        !vd_text_format(permissions, sizeof(permissions),
                        ", OWNER=\"%u\", GROUP=\"%u\", MODE=\"%04o\"",
                        access->uid, access->gid, access->mode)) {
        return false;
    }
    /* ATTRS looks also at a partition's parent, which has the diskseq. */
    return vd_text_format(buffer, size,
                          "SUBSYSTEM==\"block\", KERNEL==\"%s|%sp*\", "
                          "ATTRS{diskseq}==\"%llu\"%s%s\n",
                          loop->name, loop->name,
                          (unsigned long long)loop->sequence, permissions,
                          hidden ? ", ENV{UDISKS_IGNORE}=\"1\"" : "");
}

static bool
udevd_runs(void)
{
    return access(VD_PATH_UDEV_CONTROL, F_OK) == 0;
}

/* With the diskseq: removing one's rule cannot hit a later one. */
static bool
rule_name(const struct vd_loop *loop, const char *suffix, char *buffer)
{
    return vd_text_format(buffer, RULE_NAME_SIZE, "60-virtdisk-%s-%llu%s",
                          loop->name, (unsigned long long)loop->sequence,
                          suffix);
}

static vd_error
open_rules(bool create, int *dir_out)
{
    if (create && mkdir(VD_PATH_UDEV_RULES, 0755) < 0 && errno != EEXIST) {
        return vd_loop_error(errno);
    }
    int dir = open(VD_PATH_UDEV_RULES,
                   O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir < 0) {
        return vd_loop_error(errno);
    }
    *dir_out = dir;
    return ERROR_SUCCESS;
}

static vd_error
write_file(int dir, const char *name, const char *text)
{
    int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    VD_AUTO_CLOSE int fd = openat(dir, name, flags, 0644);
    size_t length = strlen(text);
    if (fd < 0 || fchmod(fd, 0644) < 0) {
        return vd_loop_error(errno);
    }
    ssize_t written = write(fd, text, length);
    if (written < 0 || (size_t)written != length) {
        return written < 0 ? vd_loop_error(errno) : ERROR_DISK_FULL;
    }
    return ERROR_SUCCESS;
}

/* udevd must never see half a rule: it reads names that end in .rules. */
static vd_error
publish(int dir, const struct vd_loop *loop, const char *text)
{
    char temporary[RULE_NAME_SIZE];
    char final[RULE_NAME_SIZE];
    if (!rule_name(loop, ".new", temporary) ||
        !rule_name(loop, ".rules", final)) {
        return ERROR_INVALID_NAME;
    }
    unlinkat(dir, temporary, 0); /* left by a crash */
    vd_error error = write_file(dir, temporary, text);
    if (error == ERROR_SUCCESS && renameat(dir, temporary, dir, final) < 0) {
        error = vd_loop_error(errno);
    }
    if (error != ERROR_SUCCESS) {
        unlinkat(dir, temporary, 0);
    }
    return error;
}

vd_error
vd_udev_add(const struct vd_loop *loop, const struct vd_node_access *access,
            bool hidden)
{
    char rule[RULE_SIZE];
    if ((!access->set && !hidden) || !udevd_runs()) {
        return ERROR_SUCCESS;
    }
    if (loop->sequence == 0) {
        vd_trace(VD_TRACE_ATTACH, "%s has no diskseq: no udev rule",
                 loop->name);
        return ERROR_SUCCESS;
    }
    if (!vd_udev_rule(loop, access, hidden, rule, sizeof(rule))) {
        return ERROR_INSUFFICIENT_BUFFER;
    }
    VD_AUTO_CLOSE int dir = -1;
    vd_error error = open_rules(true, &dir);
    if (error == ERROR_SUCCESS) {
        error = publish(dir, loop, rule);
    }
    if (error != ERROR_SUCCESS) {
        vd_trace(VD_TRACE_ATTACH, "udev rule for %s: error %u", loop->name,
                 error);
    }
    return error;
}

static void
write_uevent(const char *path)
{
    VD_AUTO_CLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);
    static const char event[] = "change";
    if (fd < 0 || write(fd, event, sizeof(event) - 1) < 0) {
        vd_trace(VD_TRACE_ATTACH, "%s: %s", path, strerror(errno));
    }
}

static vd_error
announce_partition(const char *partition, void *context)
{
    const char *device = context;
    char path[96];
    if (vd_text_format(path, sizeof(path), VD_PATH_BLOCK "/%s/%s/uevent",
                       device, partition)) {
        write_uevent(path);
    }
    return ERROR_SUCCESS;
}

void
vd_udev_announce(const char *device)
{
    char path[64];
    char name[VD_LOOP_NAME_SIZE];
    if (!udevd_runs() || !vd_text_format(name, sizeof(name), "%s", device) ||
        !vd_text_format(path, sizeof(path), VD_PATH_BLOCK "/%s/uevent",
                        device)) {
        return;
    }
    write_uevent(path);
    if (vd_partitions_each(device, announce_partition, name) !=
        ERROR_SUCCESS) {
        vd_trace(VD_TRACE_ATTACH, "%s went while it was announced", device);
    }
}

void
vd_udev_remove(const struct vd_loop *loop)
{
    char name[RULE_NAME_SIZE];
    VD_AUTO_CLOSE int dir = -1;
    if (!rule_name(loop, ".rules", name) ||
        open_rules(false, &dir) != ERROR_SUCCESS) {
        return; /* no rules on this system */
    }
    if (unlinkat(dir, name, 0) < 0 && errno != ENOENT) {
        vd_trace(VD_TRACE_ATTACH, "%s: %s", name, strerror(errno));
    }
}
