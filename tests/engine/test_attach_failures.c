/* Attaching with every step failing in turn: the error, and nothing left. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "attach/shown.h"
#include "attach_support.h"
#include "check.h"

#define SIZE (64u << 10)
#define NOBODY 65534
#define SKIPPED 77 /* of check_skip, in a child */
#define ATTEMPTS 200

static const char *scratch;
static const char *image;

static void
check_nothing_left(size_t fds)
{
    CHECK_EQ(0, count_devices(scratch, NULL));
    CHECK_EQ(0, count_records());
    CHECK_EQ(0, access(RECORDS "/new", F_OK) == 0);
    CHECK_EQ(fds, count_fds());
    CHECK(threads_become(1));
}

static struct vd_attach_request
full_request(const struct vd_disk *disk)
{
    struct vd_attach_request request = plain_request(disk);
    request.access = (struct vd_node_access){true, 5, 6, 0600};
    return request;
}

static vd_error
attach_once(struct vd_disk *disk, const struct vd_attach_request *request)
{
    struct vd_attachment *attachment = NULL;
    vd_error error = vd_attach(disk, request, &attachment);
    CHECK_EQ(error == ERROR_SUCCESS, attachment != NULL);
    if (attachment != NULL) {
        CHECK_OK(vd_attachment_detach(attachment));
    }
    vd_attachment_release(attachment);
    return error;
}

/* -- want of memory, want of descriptors -- */

static void
every_allocation_may_fail(const struct vd_attach_request *request,
                          struct vd_disk *disk)
{
    size_t fds = count_fds();
    for (int successes = 0; successes < ATTEMPTS; successes++) {
        struct vd_attachment *attachment = NULL;
        check_fail_allocation(successes);
        vd_error error = vd_attach(disk, request, &attachment);
        bool failed = check_fail_allocation(-1);
        if (!failed) {
            CHECK(successes > 1);
            CHECK_OK(error);
            vd_attachment_release(attachment);
            check_nothing_left(fds);
            return;
        }
        CHECK_EQ(ERROR_NOT_ENOUGH_MEMORY, error);
        CHECK(attachment == NULL);
        check_nothing_left(fds);
    }
    CHECK(!"an end");
}

static void
memory_runs_out(void)
{
    struct vd_disk *disk = open_disk(image, true);
    struct vd_attach_request request = full_request(disk);
    every_allocation_may_fail(&request, disk);
    request.permanent = true;
    struct vd_attachment *attachment = attach_or_stop(disk, &request);
    CHECK_OK(vd_attachment_detach(attachment));
    vd_attachment_release(attachment);
    request.permanent = false;
    request.local = false;
    every_allocation_may_fail(&request, disk);
    vd_disk_close(disk);
}

static void
allow_descriptors(rlim_t count)
{
    struct rlimit limit;
    CHECK_EQ(0, getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = count;
    CHECK_EQ(0, setrlimit(RLIMIT_NOFILE, &limit));
}

static rlim_t
descriptors_allowed(void)
{
    struct rlimit limit;
    CHECK_EQ(0, getrlimit(RLIMIT_NOFILE, &limit));
    return limit.rlim_cur;
}

/* The lowest limit, descriptor by descriptor, until it is enough. */
static void
descriptors_run_out(bool local)
{
    struct vd_disk *disk = open_disk(image, true);
    struct vd_attach_request request = full_request(disk);
    size_t fds = count_fds();
    rlim_t former = descriptors_allowed();
    vd_error error = ERROR_TOO_MANY_OPEN_FILES;
    request.local = local;
    for (rlim_t more = 0; more < 40 && error != ERROR_SUCCESS; more++) {
        struct vd_attachment *attachment = NULL;
        allow_descriptors((rlim_t)vd_disk_fd(disk) + 1 + more);
        error = vd_attach(disk, &request, &attachment);
        allow_descriptors(former);
        CHECK(error == ERROR_TOO_MANY_OPEN_FILES ||
              (error == ERROR_SUCCESS && more > 2));
        vd_attachment_release(attachment);
        check_nothing_left(fds);
    }
    CHECK_OK(error);
    vd_disk_close(disk);
}

static bool
no_devices(void *context)
{
    (void)context;
    return count_devices(scratch, NULL) == 0;
}

/* Also the release works without a descriptor to spare. */
static void
released_without_descriptors(void)
{
    struct vd_disk *disk = open_disk(image, true);
    struct vd_attach_request request = full_request(disk);
    size_t fds = count_fds();
    struct vd_attached found;
    rlim_t former = descriptors_allowed();
    struct vd_attachment *attachment = attach_or_stop(disk, &request);
    allow_descriptors(0);
    CHECK_EQ(ERROR_TOO_MANY_OPEN_FILES, vd_attachment_detach(attachment));
    vd_attachment_release(attachment);
    allow_descriptors(former);
    /* It could not look whether somebody else had the device open. */
    CHECK(check_eventually(no_devices, NULL));
    CHECK_EQ(ERROR_NOT_FOUND, vd_attached_find(vd_disk_file_id(disk), &found));
    check_nothing_left(fds);
    vd_disk_close(disk);
}

/* -- a system that does not play along -- */

static void
records_cannot_be_written(void)
{
    struct vd_disk *disk = open_disk(image, true);
    struct vd_attach_request request = full_request(disk);
    size_t fds = count_fds();
    CHECK_EQ(0, mount(NULL, "/run", NULL, MS_REMOUNT | MS_RDONLY, NULL));
    vd_error error = attach_once(disk, &request);
    CHECK(error == ERROR_WRITE_PROTECT);
    CHECK_EQ(0, mount(NULL, "/run", NULL, MS_REMOUNT, NULL));
    check_nothing_left(fds);
    vd_disk_close(disk);
}

/* The lock can be taken, but there is no room for a record. */
static void
records_find_no_room(void)
{
    struct vd_disk *disk = open_disk(image, true);
    struct vd_attach_request request = full_request(disk);
    size_t fds = count_fds();
    CHECK_EQ(0, mount("small", RECORDS, "tmpfs", 0,
                      "mode=755,size=4096,nr_inodes=8"));
    static char page[4096];
    check_write_file(RECORDS "/full", page, sizeof(page));
    CHECK_EQ(ERROR_DISK_FULL, attach_once(disk, &request));
    CHECK_EQ(0, unlink(RECORDS "/full"));
    CHECK_EQ(0, count_records());
    CHECK_OK(attach_once(disk, &request));
    CHECK_EQ(0, umount(RECORDS));
    check_nothing_left(fds);
    vd_disk_close(disk);
}

/* /dev without nodes, as in a container without devtmpfs. */
static void
devices_have_no_nodes(void)
{
    struct vd_disk *disk = open_disk(image, true);
    struct vd_attach_request request = full_request(disk);
    size_t fds = count_fds();
    struct stat control;
    CHECK_EQ(0, stat("/dev/loop-control", &control));
    CHECK_EQ(0, mount("dev", "/dev", "tmpfs", 0, "mode=755"));
    CHECK_EQ(ERROR_NOT_SUPPORTED, attach_once(disk, &request));
    CHECK_EQ(0, mknod("/dev/loop-control", S_IFCHR | 0600, control.st_rdev));
    CHECK_EQ(ERROR_DEV_NOT_EXIST, attach_once(disk, &request));
    CHECK_EQ(0, umount("/dev"));
    check_nothing_left(fds);
    vd_disk_close(disk);
}

static void
the_image_is_in_use(void)
{
    struct vd_disk *disk = open_disk(image, true);
    struct vd_attach_request request = full_request(disk);
    size_t fds = count_fds();
    /* As QEMU holds an image that it writes to: byte 101. */
    struct flock writes = {
        .l_type = F_RDLCK,
        .l_whence = SEEK_SET,
        .l_start = 101,
        .l_len = 1,
    };
    int other = open(image, O_RDWR | O_CLOEXEC);
    CHECK_EQ(0, fcntl(other, F_OFD_SETLK, &writes));
    CHECK_EQ(ERROR_SHARING_VIOLATION, attach_once(disk, &request));
    request.read_only = true;
    CHECK_EQ(ERROR_SHARING_VIOLATION, attach_once(disk, &request));
    close(other);
    check_nothing_left(fds);
    CHECK_OK(attach_once(disk, &request));
    vd_disk_close(disk);
}

/* -- without privilege -- */

struct unprivileged {
    bool with_runtime_directory;
};

static void
become_nobody(const struct unprivileged *unprivileged)
{
    unsetenv("XDG_RUNTIME_DIR");
    if (unprivileged->with_runtime_directory) {
        const char *directory = check_path(scratch, "runtime");
        setenv("XDG_RUNTIME_DIR", directory, 1);
    }
    if (setgroups(0, NULL) < 0 || setgid(NOBODY) < 0 || setuid(NOBODY) < 0) {
        check_broken("becoming nobody");
    }
}

static int
act_as_nobody(void *context)
{
    const struct unprivileged *unprivileged = context;
    struct vd_attached found;
    become_nobody(unprivileged);
    struct vd_disk *disk = open_disk(image, true);
    struct vd_attach_request request = plain_request(disk);
    /* As a file, if he has a place for it; but no server is installed here. */
    CHECK_EQ(vd_shown_possible() ? ERROR_NOT_SUPPORTED
                                 : ERROR_PRIVILEGE_NOT_HELD,
             attach_once(disk, &request));
    CHECK_EQ(ERROR_NOT_READY, vd_attached_detach(vd_disk_file_id(disk)));
    request.local = false;
    struct vd_attachment *attachment = attach_or_stop(disk, &request);
    vd_error error = vd_attached_find(vd_disk_file_id(disk), &found);
    CHECK_EQ(unprivileged->with_runtime_directory ? ERROR_SUCCESS
                                                  : ERROR_NOT_FOUND,
             error);
    if (error == ERROR_SUCCESS) {
        CHECK_STR(image, found.image_path);
        vd_attached_free(&found);
    }
    CHECK_EQ(ERROR_SHARING_VIOLATION, attach_once(disk, &request));
    CHECK_OK(vd_attachment_detach(attachment));
    CHECK_EQ(ERROR_NOT_READY, vd_attachment_detach(attachment));
    vd_attachment_release(attachment);
    CHECK_OK(attach_once(disk, &request));
    vd_disk_close(disk);
    return check_result();
}

static void
a_user_without_privilege(bool with_runtime_directory)
{
    struct unprivileged unprivileged = {with_runtime_directory};
    CHECK_EQ(0, wait_child(start_child(act_as_nobody, &unprivileged)));
    CHECK_EQ(0, count_devices(scratch, NULL));
}

/* In a user namespace where a user has 18 inotify instances. */
static void
have_few_instances(void)
{
    static const char limit[] = "18";
    if (unshare(CLONE_NEWUSER) < 0) {
        check_skip("needs user namespaces");
    }
    int file =
        open("/proc/sys/user/max_inotify_instances", O_WRONLY | O_CLOEXEC);
    if (file < 0 || write(file, limit, strlen(limit)) < 0) {
        check_broken("max_inotify_instances");
    }
    close(file);
}

static int
attach_in_quick_succession(void *context)
{
    become_nobody(context);
    have_few_instances();
    struct vd_disk *disk = open_disk(image, true);
    struct vd_attach_request request = plain_request(disk);
    request.local = false;
    for (unsigned i = 0; i < 200; i++) {
        if (!CHECK_OK(attach_once(disk, &request))) {
            break;
        }
    }
    vd_disk_close(disk);
    return check_result();
}

/* An instance counts until some 10 ms after the attachment. */
static void
watchers_do_not_pile_up(void)
{
    struct unprivileged unprivileged = {true};
    int status =
        wait_child(start_child(attach_in_quick_succession, &unprivileged));
    if (status == SKIPPED) {
        check_skip("needs user namespaces");
    }
    CHECK_EQ(0, status);
}

/* What root has attached everybody sees and only root takes away. */
static int
look_as_nobody(void *context)
{
    struct vd_attached found;
    struct stat status;
    become_nobody(context);
    CHECK_EQ(0, stat(image, &status));
    struct vd_file_id id = {status.st_dev, status.st_ino};
    if (CHECK_EQ(0, vd_attached_find(id, &found))) {
        CHECK_STR(image, found.image_path);
        vd_attached_free(&found);
    }
    CHECK_EQ(ERROR_PRIVILEGE_NOT_HELD, vd_attached_detach(id));
    return check_result();
}

static void
what_root_has_attached(mode_t node_mode)
{
    struct vd_disk *disk = open_disk(image, true);
    struct vd_attach_request request = full_request(disk);
    struct unprivileged unprivileged = {false};
    request.access.mode = node_mode;
    struct vd_attachment *attachment = attach_or_stop(disk, &request);
    CHECK_EQ(0, wait_child(start_child(look_as_nobody, &unprivileged)));
    CHECK(!vd_attachment_gone(attachment));
    CHECK(shows_pattern(vd_attachment_device(attachment), 0, SIZE, 1, 0));
    CHECK_OK(vd_attachment_detach(attachment));
    vd_attachment_release(attachment);
    vd_disk_close(disk);
}

/* A file system that the user nobody reaches, unlike argv[1]: in the /run of
 * this program, but not of it, which becomes read-only. */
static void
make_public_directory(char *buffer, size_t size)
{
    snprintf(buffer, size, "/run/public.%d", (int)getpid());
    if (mkdir(buffer, 0755) < 0 ||
        mount("public", buffer, "tmpfs", 0, "mode=755") < 0) {
        check_broken(buffer);
    }
}

int
main(void)
{
    char directory[64];
    char path[128];
    world_begin("/run"); /* it has nothing elsewhere */
    make_public_directory(directory, sizeof(directory));
    scratch = directory;
    snprintf(path, sizeof(path), "%s/image.vhd", scratch);
    image = path;
    make_vhd(image, SIZE, 1);
    CHECK_EQ(0, chmod(image, 0666));
    CHECK_EQ(0, mkdir(check_path(scratch, "runtime"), 0700));
    CHECK_EQ(0, chown(check_path(scratch, "runtime"), NOBODY, NOBODY));
    memory_runs_out();
    descriptors_run_out(true);
    descriptors_run_out(false);
    released_without_descriptors();
    records_cannot_be_written();
    records_find_no_room();
    devices_have_no_nodes();
    the_image_is_in_use();
    a_user_without_privilege(true);
    a_user_without_privilege(false);
    watchers_do_not_pile_up();
    what_root_has_attached(0600);
    what_root_has_attached(0666);
    CHECK_EQ(0, count_devices(scratch, NULL));
    return check_result();
}
