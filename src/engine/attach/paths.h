/*
 * Where the attach layer finds the system: the one place for such paths.
 */
#ifndef VD_ATTACH_PATHS_H
#define VD_ATTACH_PATHS_H

/* Records of what is attached, of the system and (below
 * $XDG_RUNTIME_DIR) of a user. */
#define VD_PATH_RECORDS "/run/virtdisk"
#define VD_RECORDS_DIRECTORY "virtdisk"

#define VD_PATH_DEV "/dev"
#define VD_PATH_LOOP_CONTROL "/dev/loop-control"
#define VD_PATH_BLOCK "/sys/block"
#define VD_PATH_BLOCK_NUMBERS "/sys/dev/block"
#define VD_PATH_BOOT_ID "/proc/sys/kernel/random/boot_id"
#define VD_PATH_OWN_FDS "/proc/self/fd"
#define VD_PATH_OWN_FD_INFO "/proc/self/fdinfo"
#define VD_PATH_OWN_MOUNTS "/proc/self/mountinfo"

/* There while udevd runs; and its rules until the next start. */
#define VD_PATH_UDEV_CONTROL "/run/udev/control"
#define VD_PATH_UDEV_RULES "/run/udev/rules.d"

#endif
