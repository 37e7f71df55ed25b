/*
 * From errno to Win32 codes: the one table, used where a system call failed.
 *
 * Where Windows has several codes for one errno, the one is chosen that its
 * virtual disk functions are documented to return.
 */
#include "base/error.h"

#include <errno.h>
#include <stddef.h>

struct errno_code {
    int error_number;
    vd_error code;
};

static const struct errno_code errno_codes[] = {
    {0, ERROR_SUCCESS},
    {ENOENT, ERROR_FILE_NOT_FOUND},
    {ENOTDIR, ERROR_PATH_NOT_FOUND},
    {EMFILE, ERROR_TOO_MANY_OPEN_FILES},
    {ENFILE, ERROR_TOO_MANY_OPEN_FILES},
    {EACCES, ERROR_ACCESS_DENIED},
    {EPERM, ERROR_ACCESS_DENIED},
    /* As CreateFile answers when a directory is opened as a file. */
    {EISDIR, ERROR_ACCESS_DENIED},
    {EBADF, ERROR_INVALID_HANDLE},
    {ENOMEM, ERROR_NOT_ENOUGH_MEMORY},
    {EROFS, ERROR_WRITE_PROTECT},
    {ETXTBSY, ERROR_SHARING_VIOLATION},
    {ENOSYS, ERROR_NOT_SUPPORTED},
    {EOPNOTSUPP, ERROR_NOT_SUPPORTED},
    {ENOTTY, ERROR_NOT_SUPPORTED},
    {ENODEV, ERROR_DEV_NOT_EXIST},
    {ENXIO, ERROR_DEV_NOT_EXIST},
    {EEXIST, ERROR_FILE_EXISTS},
    {EINVAL, ERROR_INVALID_PARAMETER},
    {ENOSPC, ERROR_DISK_FULL},
    {EDQUOT, ERROR_DISK_FULL},
    {EBUSY, ERROR_BUSY},
    {EAGAIN, ERROR_BUSY},
    {ENAMETOOLONG, ERROR_FILENAME_EXCED_RANGE},
    {EFBIG, ERROR_FILE_TOO_LARGE},
    {EOVERFLOW, ERROR_FILE_TOO_LARGE},
    {EINTR, ERROR_OPERATION_ABORTED},
    {ECANCELED, ERROR_OPERATION_ABORTED},
    /* The host's server forgot the file while it was open. */
    {ESTALE, ERROR_FILE_INVALID},
    {EIO, ERROR_IO_DEVICE},
    {EREMOTEIO, ERROR_IO_DEVICE},
    /* The host's own file system is damaged, not the image. */
    {EUCLEAN, ERROR_IO_DEVICE},
    {EBADMSG, ERROR_IO_DEVICE},
    {ETIMEDOUT, ERROR_TIMEOUT},
    {ELOOP, ERROR_CANT_RESOLVE_FILENAME},
};

vd_error
vd_error_from_errno(int error_number)
{
    size_t count = sizeof(errno_codes) / sizeof(errno_codes[0]);
    for (size_t i = 0; i < count; i++) {
        if (errno_codes[i].error_number == error_number) {
            return errno_codes[i].code;
        }
    }
    return ERROR_GEN_FAILURE;
}
