/* The text of records, and a registry that others have had their hands in. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "attach/record.h"
#include "attach/registry.h"
#include "attach/text.h"
#include "attach/udev.h"
#include "attach_support.h"
#include "check.h"

#define SIZE (64u << 10)

static const char *scratch;

/* -- the text -- */

static const char full_text[] = "virtdisk-attachment 1\n"
                                "image /srv/a%20b%25%0A%FF.vhd\n"
                                "file 65024 2337069\n"
                                "device loop3 57\n"
                                "access 0 6 0660 1000 1001 0604\n"
                                "boot 0b1e-77\n"
                                "whole 1\n"
                                "pid 4711\n"
                                "read_only 0\n"
                                "permanent 1\n";

static const struct vd_record full_record = {
    .image_path = (char *)"/srv/a b%\n\xFF.vhd",
    .file_id = {65024, 2337069},
    .loop = {"loop3", 57, {65024, 2337069}},
    .node = {true, {0, 6, 0660}, {1000, 1001, 0604}},
    .boot_id = "0b1e-77",
    .pid = 4711,
    .permanent = true,
    .whole = true,
};

static vd_error
parse(const char *text, struct vd_record *out)
{
    char *copy = strdup(text);
    vd_error error = vd_record_parse(copy, strlen(copy), out);
    free(copy);
    return error;
}

static void
a_record_is_written_as_described(void)
{
    char *text = NULL;
    size_t length = 0;
    CHECK_OK(vd_record_format(&full_record, &text, &length));
    CHECK_STR(full_text, text);
    CHECK_EQ(strlen(full_text), length);
    free(text);
}

static void
a_record_is_read_back(void)
{
    struct vd_record record;
    CHECK_OK(parse(full_text, &record));
    CHECK_STR(full_record.image_path, record.image_path);
    CHECK_EQ(65024, record.file_id.device);
    CHECK_EQ(2337069, record.file_id.inode);
    CHECK_STR("loop3", record.loop.name);
    CHECK_EQ(57, record.loop.sequence);
    CHECK_EQ(2337069, record.loop.file_id.inode);
    CHECK(record.node.changed);
    CHECK_EQ(6, record.node.before.gid);
    CHECK_EQ(0660, record.node.before.mode);
    CHECK_EQ(1000, record.node.after.uid);
    CHECK_EQ(0604, record.node.after.mode);
    CHECK_STR("0b1e-77", record.boot_id);
    CHECK_EQ(4711, record.pid);
    CHECK(!record.read_only);
    CHECK(record.permanent);
    CHECK(record.whole);
    vd_record_clear(&record);
}

static void
what_is_optional_may_be_missing(void)
{
    struct vd_record record;
    CHECK_OK(parse("virtdisk-attachment 1\nimage /a\nfuture x y z\nfile 1 2\n"
                   "pid 3\nread_only 1\npermanent 0\n",
                   &record));
    CHECK(!vd_record_has_device(&record));
    CHECK(!record.node.changed);
    CHECK(record.read_only);
    CHECK(!record.whole);
    CHECK_STR("", record.boot_id);
    vd_record_clear(&record);
}

#define HEAD "virtdisk-attachment 1\n"
#define REST "file 1 2\npid 3\nread_only 1\npermanent 0\n"

static const char *const no_records[] = {
    "",
    "\n",
    "virtdisk-attachment 2\nimage /a\n" REST,
    "image /a\n" REST,
    HEAD,
    HEAD "image /a\n",
    HEAD REST,
    HEAD "image /a\nfile 1 2\npid 3\nread_only 1\npermanent 0", /* torn */
    HEAD "image a\n" REST,                                      /* relative */
    HEAD "image \n" REST,
    HEAD "image /a\nimage /a\n" REST,
    HEAD "image /a%\n" REST,
    HEAD "image /a%2\n" REST,
    HEAD "image /a%zz\n" REST,
    HEAD "image /a%ff\n" REST,
    HEAD "image /a%00b\n" REST,
    HEAD "image /a\xC3\xA4\n" REST,
    HEAD "image /a b\n" REST,
    HEAD "image /a\nfile 1\npid 3\nread_only 1\npermanent 0\n",
    HEAD "image /a\nfile -1 2\npid 3\nread_only 1\npermanent 0\n",
    HEAD "image /a\nfile 1 18446744073709551616\npid 3\nread_only 1\n"
         "permanent 0\n",
    HEAD "image /a\nfile 1 2\npid x\nread_only 1\npermanent 0\n",
    HEAD "image /a\nfile 1 2\npid 3\nread_only 2\npermanent 0\n",
    HEAD "image /a\nfile 1 2\npid 3\nread_only 01\npermanent 0\n",
    HEAD "image /a\nwhole 2\n" REST,
    HEAD "image /a\nwhole 1\nwhole 1\n" REST,
    HEAD "image /a\ndevice sda 1\n" REST,
    HEAD "image /a\ndevice loop 1\n" REST,
    HEAD "image /a\ndevice loop1/../sda 1\n" REST,
    HEAD "image /a\ndevice loop123456789012 1\n" REST,
    HEAD "image /a\ndevice loop1\n" REST,
    HEAD "image /a\naccess 0 0 0660 0 0\n" REST,
    HEAD "image /a\naccess 0 0 0660 0 0 0880\n" REST,
    HEAD "image /a\naccess 0 0 0660 0 0 0660 1\n" REST,
    HEAD "image /a\naccess 0 4294967296 0660 0 0 0660\n" REST,
    HEAD "image /a\nboot 0123456789012345678901234567890123456789\n" REST,
};

static void
what_is_no_record_is_refused(void)
{
    struct vd_record record;
    for (size_t i = 0; i < sizeof(no_records) / sizeof(no_records[0]); i++) {
        if (!CHECK_EQ(ERROR_INVALID_DATA, parse(no_records[i], &record))) {
            fprintf(stderr, "record %zu\n", i);
        }
    }
    char with_nul[sizeof(full_text)];
    memcpy(with_nul, full_text, sizeof(with_nul));
    with_nul[sizeof(full_text) - 5] = '\0';
    CHECK_EQ(ERROR_INVALID_DATA,
             vd_record_parse(with_nul, sizeof(full_text) - 1, &record));
}

/* Every proper beginning of a record is none. */
static void
a_torn_record_is_refused(void)
{
    for (size_t length = 0; length < sizeof(full_text) - 1; length++) {
        char text[sizeof(full_text)];
        struct vd_record record;
        memcpy(text, full_text, length);
        text[length] = '\0';
        CHECK_EQ(ERROR_INVALID_DATA, vd_record_parse(text, length, &record));
    }
}

static void
a_path_can_be_too_long(void)
{
    struct vd_record record = full_record;
    char *text = NULL;
    size_t length = 0;
    record.image_path = malloc(VD_RECORD_SIZE_MAX + 1);
    memset(record.image_path, 'a', VD_RECORD_SIZE_MAX);
    record.image_path[0] = '/';
    record.image_path[VD_RECORD_SIZE_MAX] = '\0';
    CHECK_EQ(ERROR_FILENAME_EXCED_RANGE,
             vd_record_format(&record, &text, &length));
    memset(record.image_path + 1, '\1', 4094); /* PATH_MAX - 1 at its worst */
    record.image_path[4095] = '\0';
    CHECK_OK(vd_record_format(&record, &text, &length));
    free(text);
    free(record.image_path);
}

/* -- the rule for udevd -- */

static void
the_rule_names_this_device_only(void)
{
    static const struct vd_loop loop = {"loop3", 57, {1, 2}};
    static const struct vd_node_access access = {true, 1000, 6, 0640};
    static const struct vd_node_access unset = {.set = false};
    char rule[512];
    CHECK(vd_udev_rule(&loop, &access, false, rule, sizeof(rule)));
    CHECK_STR("SUBSYSTEM==\"block\", KERNEL==\"loop3|loop3p*\", "
              "ATTRS{diskseq}==\"57\", OWNER=\"1000\", GROUP=\"6\", "
              "MODE=\"0640\"\n",
              rule);
    CHECK(vd_udev_rule(&loop, &unset, true, rule, sizeof(rule)));
    CHECK_STR("SUBSYSTEM==\"block\", KERNEL==\"loop3|loop3p*\", "
              "ATTRS{diskseq}==\"57\", ENV{UDISKS_IGNORE}=\"1\"\n",
              rule);
    CHECK(!vd_udev_rule(&loop, &access, true, rule, 40));
}

static void
check_rule_file(const char *device, const char *expected)
{
    char sequence_path[64];
    char path[128];
    snprintf(sequence_path, sizeof(sequence_path), "/sys/block/%s/diskseq",
             base_name(device));
    snprintf(path, sizeof(path), "/run/udev/rules.d/60-virtdisk-%s-%s.rules",
             base_name(device), first_line(sequence_path));
    CHECK(strstr(first_line(path), expected) != NULL);
}

static void
the_rule_is_there_as_long_as_the_device(void)
{
    const char *path = check_path(scratch, "udev.vhd");
    make_vhd(path, SIZE, 1);
    struct vd_disk *disk = open_disk(path, true);
    struct vd_attach_request request = plain_request(disk);
    request.partition_nodes = false;
    struct vd_attachment *attachment = attach_or_stop(disk, &request);
    CHECK_EQ(-1, access("/run/udev", F_OK)); /* no udevd, no rules */
    vd_attachment_release(attachment);
    CHECK_EQ(0, mkdir("/run/udev", 0755));
    check_write_file("/run/udev/control", "", 0);
    for (int detach = 0; detach < 2; detach++) {
        attachment = attach_or_stop(disk, &request);
        check_rule_file(vd_attachment_device(attachment), "UDISKS_IGNORE");
        CHECK_EQ(1, count_entries("/run/udev/rules.d"));
        if (detach == 1) {
            CHECK_OK(vd_attachment_detach(attachment));
        }
        vd_attachment_release(attachment);
        CHECK_EQ(0, count_entries("/run/udev/rules.d"));
    }
    request.partition_nodes = true; /* nothing to say */
    attachment = attach_or_stop(disk, &request);
    CHECK_EQ(0, count_entries("/run/udev/rules.d"));
    vd_attachment_release(attachment);
    CHECK_EQ(0, unlink("/run/udev/control"));
    vd_disk_close(disk);
}

static void
a_rule_that_cannot_be_written_is_an_error(void)
{
    struct vd_disk *disk = open_disk(check_path(scratch, "udev.vhd"), true);
    struct vd_attach_request request = plain_request(disk);
    struct vd_attachment *attachment = NULL;
    request.access = (struct vd_node_access){true, 0, 0, 0600};
    check_write_file("/run/udev/control", "", 0);
    CHECK_EQ(0, rmdir("/run/udev/rules.d"));
    check_write_file("/run/udev/rules.d", "", 0);
    CHECK_EQ(ERROR_PATH_NOT_FOUND, vd_attach(disk, &request, &attachment));
    CHECK_EQ(0, count_devices(scratch, NULL));
    CHECK_EQ(0, count_records());
    CHECK_EQ(0, unlink("/run/udev/rules.d"));
    CHECK_EQ(0, unlink("/run/udev/control"));
    vd_disk_close(disk);
}

/* -- the directory -- */

static vd_error
try_attach(void)
{
    struct vd_disk *disk = open_disk(check_path(scratch, "udev.vhd"), true);
    struct vd_attach_request request = plain_request(disk);
    struct vd_attachment *attachment = NULL;
    vd_error error = vd_attach(disk, &request, &attachment);
    vd_attachment_release(attachment);
    vd_disk_close(disk);
    return error;
}

static void
remove_registry(void)
{
    unlink(RECORDS "/lock");
    CHECK_EQ(0, rmdir(RECORDS));
}

static void
the_directory_is_made_for_all_to_read(void)
{
    struct stat status;
    remove_registry();
    mode_t former = umask(077);
    CHECK_OK(try_attach());
    umask(former);
    CHECK_EQ(0, stat(RECORDS, &status));
    CHECK_EQ(0755, status.st_mode & 07777);
    CHECK_EQ(0, stat(RECORDS "/lock", &status));
    CHECK_EQ(0600, status.st_mode & 07777);
}

static void
a_directory_of_others_is_refused(void)
{
    struct vd_attached *all = NULL;
    size_t count = 0;
    CHECK_EQ(0, chmod(RECORDS, 0777));
    CHECK_EQ(ERROR_ACCESS_DENIED, try_attach());
    CHECK_EQ(ERROR_ACCESS_DENIED, vd_attached_list(&all, &count));
    CHECK_EQ(0, chmod(RECORDS, 0755));
    CHECK_EQ(0, chown(RECORDS, 1, 1));
    CHECK_EQ(ERROR_ACCESS_DENIED, try_attach());
    CHECK_EQ(0, chown(RECORDS, 0, 0));
    remove_registry();
    CHECK_EQ(0, symlink(scratch, RECORDS));
    CHECK_EQ(ERROR_ACCESS_DENIED, try_attach());
    CHECK_EQ(0, unlink(RECORDS));
    check_write_file(RECORDS, "", 0);
    CHECK_EQ(ERROR_ACCESS_DENIED, try_attach());
    CHECK_EQ(0, unlink(RECORDS));
    CHECK_EQ(0, count_devices(scratch, NULL));
    CHECK_OK(try_attach());
}

/* Nothing in it is followed, waited for or believed, and nothing of it is in
 * the way. */
static void
garbage_in_the_directory_is_ignored(void)
{
    struct vd_attached *all = NULL;
    size_t count = 42;
    char *huge = malloc(1 << 20);
    memset(huge, 'a', 1 << 20);
    check_write_file(RECORDS "/loop7000", huge, 1 << 20);
    free(huge);
    check_write_file(RECORDS "/loop7001", "\0\1\2", 3);
    check_write_file(RECORDS "/loop7002", full_text, sizeof(full_text) - 1);
    check_write_file(RECORDS "/other", "x", 1);
    check_write_file(RECORDS "/new", "left by a crash", 15);
    CHECK_EQ(0, mkfifo(RECORDS "/loop7003", 0600));
    CHECK_EQ(0, symlink("/etc/passwd", RECORDS "/handle1"));
    CHECK_EQ(0, mkdir(RECORDS "/loop7004", 0700));
    CHECK_OK(vd_attached_list(&all, &count));
    CHECK_EQ(0, count);
    free(all);
    CHECK_OK(try_attach());
    CHECK_EQ(0, unlink(RECORDS "/loop7000"));
    CHECK_EQ(0, unlink(RECORDS "/loop7001"));
    CHECK_EQ(0, unlink(RECORDS "/loop7002"));
    CHECK_EQ(0, unlink(RECORDS "/loop7003"));
    CHECK_EQ(0, rmdir(RECORDS "/loop7004"));
    CHECK_EQ(0, unlink(RECORDS "/handle1"));
    CHECK_EQ(0, unlink(RECORDS "/other"));
    CHECK_EQ(0, count_records());
}

/* A name taken by what is no record: the next one is used. */
static void
a_handle_finds_another_name(void)
{
    struct vd_disk *disk = open_disk(check_path(scratch, "udev.vhd"), true);
    struct vd_attach_request request = plain_request(disk);
    request.local = false;
    check_write_file(RECORDS "/handle1", "", 0);
    struct vd_attachment *attachment = attach_or_stop(disk, &request);
    CHECK_EQ(0, access(RECORDS "/handle2", F_OK));
    vd_attachment_release(attachment);
    CHECK_EQ(-1, access(RECORDS "/handle2", F_OK));
    CHECK_EQ(0, unlink(RECORDS "/handle1"));
    vd_disk_close(disk);
}

/* A record from before the last start of the system, however well it fits. */
static void
a_record_of_another_boot_is_stale(void)
{
    const char *path = check_path(scratch, "udev.vhd");
    struct vd_disk *disk = open_disk(path, true);
    struct vd_attach_request request = plain_request(disk);
    struct vd_attached found;
    char name[64];
    char text[VD_RECORD_SIZE_MAX];
    request.permanent = true;
    struct vd_attachment *attachment = attach_or_stop(disk, &request);
    snprintf(name, sizeof(name), RECORDS "/%s",
             base_name(vd_attachment_device(attachment)));
    int fd = open(name, O_RDWR | O_CLOEXEC);
    ssize_t length = read(fd, text, sizeof(text) - 1);
    CHECK(length > 0);
    text[length > 0 ? length : 0] = '\0';
    char *boot = strstr(text, "\nboot ");
    if (CHECK(boot != NULL)) {
        boot[6] = boot[6] == '0' ? '1' : '0';
        CHECK_EQ(length, pwrite(fd, text, (size_t)length, 0));
    }
    close(fd);
    CHECK_EQ(ERROR_NOT_FOUND, vd_attached_find(vd_disk_file_id(disk), &found));
    CHECK_EQ(0, count_records());
    CHECK_OK(vd_attachment_detach(attachment)); /* its owner still can */
    vd_attachment_release(attachment);
    vd_disk_close(disk);
}

static void
numbers_are_digits(void)
{
    uint64_t value = 42;
    CHECK(vd_text_number("18446744073709551615", &value));
    CHECK_EQ(UINT64_MAX, value);
    CHECK(!vd_text_number("18446744073709551616", &value));
    CHECK(!vd_text_number("", &value));
    CHECK(!vd_text_number("-1", &value));
    CHECK(!vd_text_number("+1", &value));
    CHECK(!vd_text_number(" 1", &value));
    CHECK(!vd_text_number("1x", &value));
    CHECK_EQ(UINT64_MAX, value);
}

int
main(int argc, char **argv)
{
    char *directory = argc > 1 ? realpath(argv[1], NULL) : NULL;
    if (directory == NULL) {
        check_broken("usage: test_attach_records DIRECTORY");
    }
    scratch = directory;
    numbers_are_digits();
    a_record_is_written_as_described();
    a_record_is_read_back();
    what_is_optional_may_be_missing();
    what_is_no_record_is_refused();
    a_torn_record_is_refused();
    a_path_can_be_too_long();
    the_rule_names_this_device_only();
    world_begin(scratch);
    the_rule_is_there_as_long_as_the_device();
    a_rule_that_cannot_be_written_is_an_error();
    the_directory_is_made_for_all_to_read();
    a_directory_of_others_is_refused();
    garbage_in_the_directory_is_ignored();
    a_handle_finds_another_name();
    a_record_of_another_boot_is_stale();
    CHECK_EQ(0, count_devices(scratch, NULL));
    free(directory);
    return check_result();
}
