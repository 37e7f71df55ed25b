/* Where there is data: in files with holes, and in whole granules. */
#include "disk/run.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "check.h"

#define KIB ((uint64_t)1024)
#define MIB (1024 * KIB)

/* ---- files ---- */

static int
sparse_file(const char *path)
{
    uint8_t data[4096];
    memset(data, 0xA5, sizeof(data));
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)(8 * MIB)) < 0 ||
        pwrite(fd, data, sizeof(data), (off_t)(2 * MIB)) != sizeof(data)) {
        check_broken("a file with holes");
    }
    return fd;
}

static void
check_run(int fd, uint64_t offset, uint64_t length, bool data,
          uint64_t expected)
{
    struct vd_disk_run run;
    vd_run_of_file(fd, offset, length, &run);
    CHECK_EQ(data, run.data);
    CHECK_EQ(expected, run.length);
}

static void
test_file(const char *directory)
{
    VD_AUTO_CLOSE int fd = sparse_file(check_path(directory, "sparse"));
    struct vd_disk_run run;
    vd_run_of_file(fd, 0, 8 * MIB, &run);
    if (run.data) {
        check_skip("the file system has no holes");
    }
    check_run(fd, 0, 8 * MIB, false, 2 * MIB);
    check_run(fd, MIB, 64 * KIB, false, 64 * KIB);
    check_run(fd, 2 * MIB, 4 * KIB, true, 4 * KIB);
    check_run(fd, 2 * MIB, KIB, true, KIB);
    vd_run_of_file(fd, 2 * MIB, 4 * MIB, &run);
    CHECK(run.data && run.length >= 4 * KIB && run.length < 4 * MIB);
    check_run(fd, 6 * MIB, 2 * MIB, false, 2 * MIB);
}

/* What is not there must not look like zeros: reading it is an error. */
static void
test_past_the_end(const char *directory)
{
    VD_AUTO_CLOSE int fd = sparse_file(check_path(directory, "short"));
    check_run(fd, 6 * MIB, 4 * MIB, true, 4 * MIB);
    check_run(fd, 9 * MIB, MIB, true, MIB);
}

static void
test_no_answer(void)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) {
        check_broken("pipe");
    }
    check_run(ends[0], 5, 7, true, 7);
    close(ends[0]);
    close(ends[1]);
}

/* ---- granules ---- */

/* Data and holes in turn; a 0 ends the list, and the last goes on. */
struct script {
    const uint64_t *ends;
    bool first_is_data;
    vd_error error;
    uint64_t fails_from;
};

static vd_error
scripted(void *context, uint64_t offset, uint64_t length,
         struct vd_disk_run *out)
{
    const struct script *script = context;
    size_t i = 0;
    while (script->ends[i] != 0 && script->ends[i] <= offset) {
        i++;
    }
    if (script->error != 0 && offset >= script->fails_from) {
        return script->error;
    }
    uint64_t rest = script->ends[i] != 0 ? script->ends[i] - offset : length;
    out->data = script->first_is_data == (i % 2 == 0);
    out->length = rest < length ? rest : length;
    return ERROR_SUCCESS;
}

static void
check_granules(const struct script *script, uint64_t offset, uint64_t length,
               bool data, uint64_t expected)
{
    struct script copy = *script;
    struct vd_disk_run run;
    CHECK_OK(vd_run_in_granules(scripted, &copy, offset, length, 4096, &run));
    CHECK_EQ(data, run.data);
    CHECK_EQ(expected, run.length);
}

static void
test_granules(void)
{
    static const uint64_t odd[] = {5000, 20000, 20001, 0};
    const struct script data_first = {.ends = odd, .first_is_data = true};
    const struct script hole_first = {.ends = odd};
    check_granules(&data_first, 0, 65536, true, 8192);
    check_granules(&data_first, 8192, 57344, false, 8192);
    check_granules(&data_first, 16384, 49152, true, 4096);
    check_granules(&data_first, 20480, 45056, false, 45056);
    check_granules(&hole_first, 0, 65536, false, 4096);
    check_granules(&hole_first, 4096, 61440, true, 4096);
    check_granules(&hole_first, 8192, 57344, true, 12288);
    /* At the end of the range less than a granule is all there is. */
    check_granules(&data_first, 4096, 100, true, 100);
    check_granules(&data_first, 8192, 100, false, 100);
    check_granules(&data_first, 0, 4500, true, 4500);
}

/* Runs of one kind are one, whoever found them. */
static vd_error
piecewise(void *context, uint64_t offset, uint64_t length,
          struct vd_disk_run *out)
{
    unsigned *calls = context;
    uint64_t rest = 4096 - offset % 4096;
    (*calls)++;
    out->data = offset < 3 * 4096;
    out->length = rest < length ? rest : length;
    return ERROR_SUCCESS;
}

static void
test_joined(void)
{
    struct vd_disk_run run;
    unsigned calls = 0;
    CHECK_OK(vd_run_in_granules(piecewise, &calls, 0, 65536, 4096, &run));
    CHECK(run.data);
    CHECK_EQ(3 * 4096, run.length);
    CHECK_OK(vd_run_in_granules(piecewise, &calls, 3 * 4096, 4096 * 13, 4096,
                                &run));
    CHECK(!run.data);
    CHECK_EQ(4096 * 13, run.length);
    calls = 0;
    CHECK_OK(vd_run_in_granules(piecewise, &calls, 3 * 4096, (uint64_t)1 << 40,
                                4096, &run));
    CHECK(calls < 100); /* an answer does not take for ever */
    CHECK(!run.data && run.length >= 4096 && run.length % 4096 == 0);
}

static void
test_errors(void)
{
    static const uint64_t ends[] = {4096, 8192, 0};
    struct script script = {.ends = ends, .error = ERROR_IO_DEVICE};
    struct vd_disk_run run = {.length = 77};
    CHECK_EQ(ERROR_IO_DEVICE,
             vd_run_in_granules(scripted, &script, 0, 65536, 4096, &run));
    script.fails_from = 4096;
    CHECK_EQ(ERROR_IO_DEVICE,
             vd_run_in_granules(scripted, &script, 0, 65536, 4096, &run));
    CHECK_EQ(77, run.length);
}

int
main(int argc, char **argv)
{
    if (argc != 2) {
        check_broken("usage: test_run DIRECTORY");
    }
    test_granules();
    test_joined();
    test_errors();
    test_no_answer();
    test_past_the_end(argv[1]);
    test_file(argv[1]);
    return check_result();
}
