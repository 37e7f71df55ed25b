/* Attachments among several processes and threads: who keeps a device, who
 * takes it away, who is first. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/loop.h>

#include "attach_support.h"
#include "check.h"

#define SIZE (256u << 10)
#define THREADS 32
#define ROUNDS 1000

static const char *scratch;

static bool
no_devices(void *context)
{
    (void)context;
    return count_devices(scratch, NULL) == 0;
}

/* -- an attacher in a process of its own -- */

struct attacher {
    const char *path;
    struct vd_attach_request request; /* window_length is filled in */
    struct signal_pipe ready;         /* from the attacher: "a" */
    struct signal_pipe go;            /* to the attacher: finish */
};

static int
attach_and_wait(void *context)
{
    const struct attacher *attacher = context;
    struct vd_disk *disk =
        open_disk(attacher->path, !attacher->request.read_only);
    struct vd_attach_request request = attacher->request;
    request.window_length = vd_disk_size_bytes(disk);
    struct vd_attachment *attachment = attach_or_stop(disk, &request);
    pipe_send(&attacher->ready, 'a');
    pipe_receive(&attacher->go);
    bool gone = vd_attachment_gone(attachment);
    vd_error error = vd_attachment_detach(attachment);
    vd_attachment_release(attachment);
    vd_disk_close(disk);
    return gone && error == ERROR_NOT_READY ? 1 : !gone && error == 0 ? 0 : 2;
}

static pid_t
start_attacher(struct attacher *attacher)
{
    attacher->ready = pipe_new();
    attacher->go = pipe_new();
    pid_t child = start_child(attach_and_wait, attacher);
    CHECK_EQ('a', pipe_receive(&attacher->ready));
    return child;
}

static int
finish_attacher(struct attacher *attacher, pid_t child)
{
    pipe_send(&attacher->go, 'g');
    int status = wait_child(child);
    pipe_close(&attacher->ready);
    pipe_close(&attacher->go);
    return status;
}

static void
kill_attacher(struct attacher *attacher, pid_t child)
{
    kill(child, SIGKILL);
    CHECK_EQ(-1, wait_child(child));
    pipe_close(&attacher->ready);
    pipe_close(&attacher->go);
}

static struct attacher
plain_attacher(const char *path)
{
    return (struct attacher){
        .path = path,
        .request = {.local = true, .partition_nodes = true},
    };
}

static struct vd_file_id
id_of(const char *path)
{
    struct stat status;
    CHECK_EQ(0, stat(path, &status));
    return (struct vd_file_id){status.st_dev, status.st_ino};
}

static vd_error
try_attach(const char *path)
{
    struct vd_disk *disk = open_disk(path, true);
    struct vd_attach_request request = plain_request(disk);
    struct vd_attachment *attachment = NULL;
    vd_error error = vd_attach(disk, &request, &attachment);
    vd_attachment_release(attachment);
    vd_disk_close(disk);
    return error;
}

/* -- the end of an attacher -- */

/* Another program may have the device by now, and give the node away. */
static bool
is_roots(void *node)
{
    struct stat status;
    return stat(node, &status) == 0 && status.st_uid == 0;
}

static void
a_killed_attacher_leaves_nothing(void)
{
    struct attacher attacher =
        plain_attacher(check_path(scratch, "killed.vhd"));
    char name[VD_LOOP_NAME_SIZE];
    char node[64];
    struct stat status;
    make_vhd(attacher.path, SIZE, 1);
    attacher.request.access = (struct vd_node_access){true, 55, 66, 0600};
    pid_t child = start_attacher(&attacher);
    CHECK_EQ(1, count_devices(scratch, name));
    CHECK_EQ(ERROR_SHARING_VIOLATION, try_attach(attacher.path));
    snprintf(node, sizeof(node), "/dev/%s", name);
    CHECK_EQ(0, stat(node, &status));
    CHECK_EQ(55, status.st_uid);
    kill_attacher(&attacher, child);
    CHECK(check_eventually(no_devices, NULL));
    CHECK_EQ(1, count_records()); /* stale, until somebody looks */
    CHECK_OK(try_attach(attacher.path));
    CHECK_EQ(0, count_records());
    CHECK(check_eventually(is_roots, node));
}

static void
a_stale_record_is_not_listed(void)
{
    struct attacher attacher =
        plain_attacher(check_path(scratch, "killed.vhd"));
    struct vd_attached *all = NULL;
    size_t count = 42;
    pid_t child = start_attacher(&attacher);
    kill_attacher(&attacher, child);
    CHECK(check_eventually(no_devices, NULL));
    CHECK_OK(vd_attached_list(&all, &count));
    CHECK_EQ(0, count);
    CHECK_EQ(0, count_records());
    free(all);
    CHECK_EQ(ERROR_NOT_READY, vd_attached_detach(id_of(attacher.path)));
}

/* The device shows something else, even if it is the same image once more:
 * the diskseq tells. */
static void
a_taken_over_device_is_not_ours(void)
{
    struct attacher attacher =
        plain_attacher(check_path(scratch, "killed.vhd"));
    char name[VD_LOOP_NAME_SIZE];
    char node[64];
    attacher.request.read_only = true; /* which LOOP_CHANGE_FD asks for */
    pid_t child = start_attacher(&attacher);
    CHECK_EQ(1, count_devices(scratch, name));
    snprintf(node, sizeof(node), "/dev/%s", name);
    int device = open(node, O_RDONLY | O_CLOEXEC);
    int image = open(attacher.path, O_RDONLY | O_CLOEXEC);
    CHECK_EQ(0, ioctl(device, LOOP_CHANGE_FD, image));
    close(image);
    CHECK_EQ(ERROR_NOT_READY, vd_attached_detach(id_of(attacher.path)));
    CHECK_EQ(1, count_devices(scratch, NULL));
    CHECK_EQ(0, count_records());
    kill_attacher(&attacher, child);
    close(device);
    CHECK(check_eventually(no_devices, NULL));
}

static void
a_killed_handle_leaves_nothing(void)
{
    struct attacher attacher =
        plain_attacher(check_path(scratch, "killed.vhd"));
    attacher.request.local = false;
    pid_t child = start_attacher(&attacher);
    CHECK_EQ(1, count_records());
    CHECK_EQ(ERROR_SHARING_VIOLATION, try_attach(attacher.path));
    kill_attacher(&attacher, child);
    CHECK_OK(try_attach(attacher.path));
    CHECK_EQ(0, count_records());
}

static void
permanent_survives_a_kill(void)
{
    struct attacher attacher =
        plain_attacher(check_path(scratch, "permanent.vhd"));
    struct vd_attached found;
    make_vhd(attacher.path, SIZE, 3);
    attacher.request.permanent = true;
    pid_t child = start_attacher(&attacher);
    kill_attacher(&attacher, child);
    CHECK_OK(vd_attached_find(id_of(attacher.path), &found));
    CHECK(found.permanent);
    CHECK(shows_pattern(found.device, 0, SIZE, 3, 0));
    vd_attached_free(&found);
    CHECK_EQ(ERROR_SHARING_VIOLATION, try_attach(attacher.path));
    CHECK_OK(vd_attached_detach(id_of(attacher.path)));
    CHECK_EQ(0, count_devices(scratch, NULL));
    CHECK_OK(try_attach(attacher.path));
}

/* -- detaching what another process has attached -- */

static void
another_process_detaches(bool local)
{
    struct attacher attacher =
        plain_attacher(check_path(scratch, "taken.vhd"));
    make_vhd(attacher.path, SIZE, 4);
    attacher.request.local = local;
    pid_t child = start_attacher(&attacher);
    CHECK_EQ(local ? 1 : 0, count_devices(scratch, NULL));
    CHECK_OK(vd_attached_detach(id_of(attacher.path)));
    CHECK_EQ(0, count_devices(scratch, NULL));
    CHECK_EQ(0, count_records());
    CHECK_EQ(ERROR_NOT_READY, vd_attached_detach(id_of(attacher.path)));
    CHECK_OK(try_attach(attacher.path)); /* its locks are gone too */
    CHECK_EQ(1, finish_attacher(&attacher, child)); /* it knows */
}

/* It is still in use, so its attacher gets it back, and ends it himself. */
static void
a_busy_device_returns_to_its_attacher(void)
{
    struct attacher attacher =
        plain_attacher(check_path(scratch, "taken.vhd"));
    char name[VD_LOOP_NAME_SIZE];
    char node[64];
    pid_t child = start_attacher(&attacher);
    CHECK_EQ(1, count_devices(scratch, name));
    snprintf(node, sizeof(node), "/dev/%s", name);
    int reader = open(node, O_RDONLY | O_CLOEXEC);
    CHECK_EQ(ERROR_BUSY, vd_attached_detach(id_of(attacher.path)));
    close(reader);
    CHECK_EQ(1, count_devices(scratch, NULL));
    CHECK(shows_pattern(node, 0, SIZE, 4, 0));
    CHECK_EQ(0, finish_attacher(&attacher, child));
    CHECK_EQ(0, count_devices(scratch, NULL));
}

static void
a_stopped_attacher_is_busy(void)
{
    struct attacher attacher =
        plain_attacher(check_path(scratch, "taken.vhd"));
    int status;
    pid_t child = start_attacher(&attacher);
    kill(child, SIGSTOP);
    CHECK_EQ(child, waitpid(child, &status, WUNTRACED));
    CHECK_EQ(ERROR_BUSY, vd_attached_detach(id_of(attacher.path)));
    CHECK_EQ(1, count_devices(scratch, NULL));
    CHECK_EQ(1, count_records());
    kill(child, SIGCONT);
    CHECK_EQ(0, finish_attacher(&attacher, child));
    CHECK_EQ(0, count_devices(scratch, NULL));
}

/* A detacher that died in the middle: the next one finishes it. */
static void
a_crashed_detacher_is_succeeded(void)
{
    struct attacher attacher =
        plain_attacher(check_path(scratch, "taken.vhd"));
    char name[VD_LOOP_NAME_SIZE];
    char from[64];
    char to[64];
    struct vd_attached found;
    attacher.request.permanent = true;
    pid_t child = start_attacher(&attacher);
    CHECK_EQ(1, count_devices(scratch, name));
    snprintf(from, sizeof(from), RECORDS "/%s", name);
    snprintf(to, sizeof(to), RECORDS "/%s.detaching", name);
    CHECK_EQ(0, rename(from, to));
    CHECK_OK(vd_attached_find(id_of(attacher.path), &found));
    vd_attached_free(&found);
    CHECK_EQ(ERROR_SHARING_VIOLATION, try_attach(attacher.path));
    CHECK_OK(vd_attached_detach(id_of(attacher.path)));
    CHECK_EQ(0, count_devices(scratch, NULL));
    CHECK_EQ(0, count_records());
    CHECK_EQ(1, finish_attacher(&attacher, child));
}

static int
detach_it(void *context)
{
    const char *path = context;
    vd_error error = vd_attached_detach(id_of(path));
    return error == ERROR_SUCCESS ? 0 : error == ERROR_NOT_READY ? 1 : 2;
}

static void
one_of_many_detachers_succeeds(void)
{
    struct attacher attacher =
        plain_attacher(check_path(scratch, "taken.vhd"));
    pid_t children[8];
    int results[3] = {0, 0, 0};
    pid_t child = start_attacher(&attacher);
    for (size_t i = 0; i < 8; i++) {
        children[i] = start_child(detach_it, (void *)attacher.path);
    }
    for (size_t i = 0; i < 8; i++) {
        int status = wait_child(children[i]);
        results[status >= 0 && status < 2 ? status : 2]++;
    }
    CHECK_EQ(1, results[0]);
    CHECK_EQ(7, results[1]);
    CHECK_EQ(1, finish_attacher(&attacher, child));
}

static int
attach_it(void *context)
{
    const struct attacher *attacher = context;
    struct vd_disk *disk = open_disk(attacher->path, true);
    struct vd_attach_request request = plain_request(disk);
    struct vd_attachment *attachment = NULL;
    vd_error error = vd_attach(disk, &request, &attachment);
    pipe_send(&attacher->ready, 'd');
    pipe_receive(&attacher->go);
    vd_attachment_release(attachment);
    vd_disk_close(disk);
    return error == 0 ? 0 : error == ERROR_SHARING_VIOLATION ? 1 : 2;
}

static void
one_of_many_attachers_succeeds(void)
{
    struct attacher attacher =
        plain_attacher(check_path(scratch, "taken.vhd"));
    pid_t children[8];
    int results[3] = {0, 0, 0};
    attacher.ready = pipe_new();
    attacher.go = pipe_new();
    for (size_t i = 0; i < 8; i++) {
        children[i] = start_child(attach_it, &attacher);
    }
    for (size_t i = 0; i < 8; i++) {
        CHECK_EQ('d', pipe_receive(&attacher.ready));
    }
    for (size_t i = 0; i < 8; i++) {
        pipe_send(&attacher.go, 'g');
    }
    for (size_t i = 0; i < 8; i++) {
        int status = wait_child(children[i]);
        results[status >= 0 && status < 2 ? status : 2]++;
    }
    CHECK_EQ(1, results[0]);
    CHECK_EQ(7, results[1]);
    pipe_close(&attacher.ready);
    pipe_close(&attacher.go);
    CHECK_EQ(0, count_devices(scratch, NULL));
}

/* -- fork -- */

struct forked {
    struct vd_attachment *attachment;
    struct signal_pipe go;
    struct signal_pipe ready;
};

/* Lives on after its parent's attachment; holds nothing of it. */
static int
outlive(void *context)
{
    const struct forked *forked = context;
    bool gone = vd_attachment_gone(forked->attachment);
    vd_error error = vd_attachment_detach(forked->attachment);
    pipe_send(&forked->ready, 'r');
    pipe_receive(&forked->go);
    vd_attachment_release(forked->attachment);
    return gone && error == ERROR_NOT_READY ? 0 : 1;
}

static void
a_forked_child_holds_nothing(bool local)
{
    const char *path = check_path(scratch, "forked.vhd");
    make_vhd(path, SIZE, 5);
    struct vd_disk *disk = open_disk(path, true);
    struct vd_attach_request request = plain_request(disk);
    request.local = local;
    struct forked forked = {attach_or_stop(disk, &request), pipe_new(),
                            pipe_new()};
    pid_t child = start_child(outlive, &forked);
    CHECK_EQ('r', pipe_receive(&forked.ready));
    CHECK(!vd_attachment_gone(forked.attachment)); /* the child did nothing */
    CHECK_EQ(ERROR_SHARING_VIOLATION, try_attach(path));
    vd_attachment_release(forked.attachment);
    CHECK_EQ(0, count_devices(scratch, NULL));
    CHECK_OK(try_attach(path)); /* nor are the locks the child's */
    pipe_send(&forked.go, 'g');
    CHECK_EQ(0, wait_child(child));
    pipe_close(&forked.go);
    pipe_close(&forked.ready);
    vd_disk_close(disk);
}

/* A child can attach for itself, with a watcher of its own. */
static int
attach_in_child(void *context)
{
    const char *path = context;
    vd_error error = try_attach(path);
    return error == ERROR_SUCCESS && threads_become(1) ? 0 : 1;
}

static void
a_forked_child_attaches_for_itself(void)
{
    struct vd_disk *disk = open_disk(check_path(scratch, "forked.vhd"), true);
    struct vd_attach_request request = plain_request(disk);
    struct vd_attachment *attachment = attach_or_stop(disk, &request);
    const char *other = check_path(scratch, "child.vhd");
    make_vhd(other, SIZE, 6);
    CHECK_EQ(0, wait_child(start_child(attach_in_child, (void *)other)));
    CHECK(!vd_attachment_gone(attachment));
    vd_attachment_release(attachment);
    vd_disk_close(disk);
}

/* fork() while other threads attach and detach: no child may have caught a
 * descriptor in between. */
static void *
churn(void *context)
{
    const char *path = context;
    for (int i = 0; i < 40; i++) {
        CHECK_OK(try_attach(path));
    }
    return NULL;
}

static int
sleep_until_killed(void *context)
{
    (void)context;
    pause();
    return 0;
}

static void
forking_while_others_attach(void)
{
    pthread_t threads[4];
    char paths[4][512];
    pid_t children[40];
    for (size_t i = 0; i < 4; i++) {
        snprintf(paths[i], sizeof(paths[i]), "%s/churn%zu.vhd", scratch, i);
        make_vhd(paths[i], SIZE, (unsigned)i);
        CHECK_EQ(0, pthread_create(&threads[i], NULL, churn, paths[i]));
    }
    for (size_t i = 0; i < 40; i++) {
        children[i] = start_child(sleep_until_killed, NULL);
    }
    for (size_t i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK_EQ(0, count_devices(scratch, NULL));
    CHECK_EQ(0, count_records());
    for (size_t i = 0; i < 40; i++) {
        kill(children[i], SIGKILL);
        CHECK_EQ(-1, wait_child(children[i]));
    }
}

/* -- many -- */

struct worker {
    pthread_t thread;
    char path[512];
    unsigned seed;
};

static pthread_barrier_t start;

static void *
attach_and_read(void *context)
{
    const struct worker *worker = context;
    pthread_barrier_wait(&start);
    struct vd_disk *disk = open_disk(worker->path, true);
    struct vd_attach_request request = plain_request(disk);
    for (int i = 0; i < 3; i++) {
        struct vd_attachment *attachment = attach_or_stop(disk, &request);
        CHECK(shows_pattern(vd_attachment_device(attachment), 0, SIZE,
                            worker->seed, 0));
        if (i == 1) {
            CHECK_OK(vd_attached_detach(vd_disk_file_id(disk)));
            CHECK(vd_attachment_gone(attachment));
        }
        vd_attachment_release(attachment);
    }
    vd_disk_close(disk);
    return NULL;
}

static void
many_threads_at_once(void)
{
    static struct worker workers[THREADS];
    size_t fds = count_fds();
    pthread_barrier_init(&start, NULL, THREADS);
    for (unsigned i = 0; i < THREADS; i++) {
        struct worker *worker = &workers[i];
        snprintf(worker->path, sizeof(worker->path), "%s/%u.vhd", scratch, i);
        worker->seed = i;
        make_vhd(worker->path, SIZE, i);
        CHECK_EQ(
            0, pthread_create(&worker->thread, NULL, attach_and_read, worker));
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(workers[i].thread, NULL);
    }
    pthread_barrier_destroy(&start);
    CHECK_EQ(0, count_devices(scratch, NULL));
    CHECK_EQ(0, count_records());
    CHECK_EQ(fds, count_fds());
    CHECK(threads_become(1));
}

/* All at the same time, not one after the other. */
static void
many_attachments_together(void)
{
    struct vd_disk *disks[THREADS];
    struct vd_attachment *attachments[THREADS];
    size_t fds = count_fds();
    for (size_t i = 0; i < THREADS; i++) {
        char path[512];
        snprintf(path, sizeof(path), "%s/%zu.vhd", scratch, i);
        disks[i] = open_disk(path, true);
        struct vd_attach_request request = plain_request(disks[i]);
        attachments[i] = attach_or_stop(disks[i], &request);
    }
    CHECK_EQ(THREADS, count_devices(scratch, NULL));
    CHECK_EQ(THREADS, count_records());
    CHECK(threads_become(2));
    for (size_t i = 0; i < THREADS; i++) {
        CHECK(shows_pattern(vd_attachment_device(attachments[i]), 0, SIZE,
                            (unsigned)i, 0));
        vd_attachment_release(attachments[i]);
        vd_disk_close(disks[i]);
    }
    CHECK_EQ(0, count_devices(scratch, NULL));
    CHECK_EQ(fds, count_fds());
    CHECK(threads_become(1));
}

static void
a_thousand_in_a_row(void)
{
    struct vd_disk *disk = open_disk(check_path(scratch, "0.vhd"), true);
    struct vd_attach_request request = plain_request(disk);
    size_t fds = count_fds();
    for (unsigned i = 0; i < ROUNDS; i++) {
        struct vd_attachment *attachment = attach_or_stop(disk, &request);
        if (i % 2 == 0) {
            CHECK_OK(vd_attachment_detach(attachment));
        }
        vd_attachment_release(attachment);
    }
    CHECK_EQ(fds, count_fds());
    CHECK(threads_become(1));
    CHECK_EQ(0, count_devices(scratch, NULL));
    CHECK_EQ(0, count_records());
    vd_disk_close(disk);
}

int
main(int argc, char **argv)
{
    char *directory = argc > 1 ? realpath(argv[1], NULL) : NULL;
    if (directory == NULL) {
        check_broken("usage: test_attach_processes DIRECTORY");
    }
    scratch = directory;
    world_begin(scratch);
    a_killed_attacher_leaves_nothing();
    a_stale_record_is_not_listed();
    a_taken_over_device_is_not_ours();
    a_killed_handle_leaves_nothing();
    permanent_survives_a_kill();
    another_process_detaches(true);
    another_process_detaches(false);
    a_busy_device_returns_to_its_attacher();
    a_stopped_attacher_is_busy();
    a_crashed_detacher_is_succeeded();
    one_of_many_detachers_succeeds();
    one_of_many_attachers_succeeds();
    a_forked_child_holds_nothing(true);
    a_forked_child_holds_nothing(false);
    a_forked_child_attaches_for_itself();
    forking_while_others_attach();
    many_threads_at_once();
    many_attachments_together();
    a_thousand_in_a_row();
    CHECK_EQ(0, count_devices(scratch, NULL));
    CHECK_EQ(0, count_records());
    free(directory);
    return check_result();
}
