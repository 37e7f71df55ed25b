/* base/: error codes, traces, CRC-32, byte order, checked arithmetic. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/crc32.h"
#include "base/error.h"
#include "base/guid.h"
#include "base/trace.h"
#include "check.h"

/* Numbers, not names: the Windows SDK's values. */
static void
errno_values_become_codes(void)
{
    static const struct {
        int error_number;
        vd_error code;
    } expected[] = {
        {0, 0},
        {ENOENT, 2},
        {ENOTDIR, 3},
        {EMFILE, 4},
        {ENFILE, 4},
        {EACCES, 5},
        {EPERM, 5},
        {EISDIR, 5},
        {EBADF, 6},
        {ENOMEM, 8},
        {EROFS, 19},
        {ETXTBSY, 32},
        {ENOSYS, 50},
        {EOPNOTSUPP, 50},
        {ENOTTY, 50},
        {ENODEV, 55},
        {ENXIO, 55},
        {EEXIST, 80},
        {EINVAL, 87},
        {ENOSPC, 112},
        {EDQUOT, 112},
        {EBUSY, 170},
        {EAGAIN, 170},
        {ENAMETOOLONG, 206},
        {EFBIG, 223},
        {EOVERFLOW, 223},
        {EINTR, 995},
        {ECANCELED, 995},
        {ESTALE, 1006},
        {EIO, 1117},
        {EUCLEAN, 1117},
        {EBADMSG, 1117},
        {EREMOTEIO, 1117},
        {ETIMEDOUT, 1460},
        {ELOOP, 1921},
        {EDOM, 31},
        {123456, 31},
        {-1, 31},
    };
    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
        CHECK_EQ(expected[i].code,
                 vd_error_from_errno(expected[i].error_number));
    }
}

static void
trace_lists_are_parsed(void)
{
    CHECK_EQ(0, vd_trace_parse(""));
    CHECK_EQ(VD_TRACE_FORMAT, vd_trace_parse("format"));
    CHECK_EQ(VD_TRACE_DISK | VD_TRACE_API, vd_trace_parse("disk,api"));
    CHECK_EQ(VD_TRACE_ATTACH, vd_trace_parse(",nothing,attach,,"));
    CHECK_EQ(0, vd_trace_parse("form,formats,FORMAT, format"));
    CHECK_EQ(VD_TRACE_FORMAT | VD_TRACE_DISK | VD_TRACE_ATTACH | VD_TRACE_API,
             vd_trace_parse("all"));
}

static size_t
read_file(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, text, size - 1);
    if (length < 0) {
        check_broken(path);
    }
    close(fd);
    text[length] = '\0';
    return (size_t)length;
}

/* The mask is read once, so this runs before anything traces. */
static void
traces_go_to_standard_error(const char *scratch)
{
    char text[8192];
    char path[4096];
    char long_word[2000];
    memset(long_word, 'x', sizeof(long_word) - 1);
    long_word[sizeof(long_word) - 1] = '\0';
    strcpy(path, check_path(scratch, "trace"));
    setenv("VIRTDISK_DEBUG", "disk", 1);
    int saved = dup(STDERR_FILENO);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (saved < 0 || fd < 0 || dup2(fd, STDERR_FILENO) < 0) {
        check_broken("stderr");
    }
    errno = EXDEV;
    vd_trace(VD_TRACE_DISK, "sector %d of \x1B[31m\n%s", 7, "\x7Fred");
    int after = errno;
    vd_trace(VD_TRACE_FORMAT, "not asked for");
    vd_trace(VD_TRACE_DISK, "%s", long_word);
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(fd);
    size_t length = read_file(path, text, sizeof(text));
    static const char first[] = "virtdisk: disk: sector 7 of ?[31m??red\n";
    CHECK_EQ(EXDEV, after);
    CHECK_BYTES(first, text, strlen(first));
    CHECK(strstr(text, "not asked for") == NULL);
    CHECK_EQ('\n', text[length - 1]);
    CHECK(length > 1000 && length < 1200); /* cut, but there */
}

static void
crc32_is_that_of_zip(void)
{
    /* The check value of the catalogues, and zlib.crc32 of the others. */
    static const uint8_t zeros[32];
    CHECK_EQ(0xCBF43926,
             vd_crc32(VD_CRC32_START, (const uint8_t *)"123456789", 9));
    CHECK_EQ(0x00000000, vd_crc32(VD_CRC32_START, zeros, 0));
    CHECK_EQ(0x190A55AD, vd_crc32(VD_CRC32_START, zeros, 32));
    uint32_t half = vd_crc32(VD_CRC32_START, (const uint8_t *)"12345", 5);
    CHECK_EQ(0xCBF43926, vd_crc32(half, (const uint8_t *)"6789", 4));
}

static void
integers_are_read_in_their_order(void)
{
    static const uint8_t bytes[] = {0x81, 0x02, 0x03, 0x04,
                                    0x05, 0x06, 0x07, 0x88};
    CHECK_EQ(0x0281, vd_get_le16(bytes));
    CHECK_EQ(0x04030281, vd_get_le32(bytes));
    CHECK_EQ(0x8807060504030281, vd_get_le64(bytes));
    CHECK_EQ(0x8102, vd_get_be16(bytes));
    CHECK_EQ(0x81020304, vd_get_be32(bytes));
    CHECK_EQ(0x8102030405060788, vd_get_be64(bytes));
}

static void
arithmetic_is_checked(void)
{
    uint64_t result = 42;
    CHECK(!vd_add_u64(UINT64_MAX, 1, &result));
    CHECK(!vd_sub_u64(1, 2, &result));
    CHECK(!vd_mul_u64(UINT64_MAX / 2, 3, &result));
    CHECK(!vd_round_up_u64(UINT64_MAX, 512, &result));
    CHECK_EQ(42, result);
    CHECK(vd_add_u64(UINT64_MAX - 1, 1, &result));
    CHECK_EQ(UINT64_MAX, result);
    CHECK(vd_sub_u64(2, 2, &result));
    CHECK_EQ(0, result);
    CHECK(vd_mul_u64(1ull << 32, 1ull << 31, &result));
    CHECK_EQ(1ull << 63, result);
    CHECK(vd_round_up_u64(513, 512, &result));
    CHECK_EQ(1024, result);
    CHECK(vd_range_within(0, 10, 10));
    CHECK(vd_range_within(10, 0, 10));
    CHECK(!vd_range_within(1, 10, 10));
    CHECK(!vd_range_within(UINT64_MAX, 2, 10));
    CHECK(!vd_range_within(2, UINT64_MAX, 10));
    CHECK(vd_is_power_of_two(1));
    CHECK(!vd_is_power_of_two(0));
    CHECK(!vd_is_power_of_two(96));
}

static void
guids_compare_as_bytes(void)
{
    struct vd_guid zero = {{0}};
    struct vd_guid other = {{[15] = 1}};
    CHECK(vd_guid_is_zero(&zero));
    CHECK(!vd_guid_is_zero(&other));
    CHECK(vd_guid_equal(&other, &other));
    CHECK(!vd_guid_equal(&zero, &other));
}

int
main(int argc, char **argv)
{
    if (argc != 2) {
        return 2;
    }
    traces_go_to_standard_error(argv[1]);
    trace_lists_are_parsed();
    errno_values_become_codes();
    crc32_is_that_of_zip();
    integers_are_read_in_their_order();
    arithmetic_is_checked();
    guids_compare_as_bytes();
    return check_result();
}
