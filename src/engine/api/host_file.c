/*
 * CreateFileW, for what GetStorageDependencyInformation is asked about.
 *
 * The file is opened without the right to read or write it, which needs no
 * permission but to come to it, starts no device, and blocks on nothing.
 * GENERIC_READ therefore is a check of the permission alone.
 */
#include "api/host_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/refuse.h"
#include "base/cleanup.h"
#include "base/posix_file.h"
#include "base/utf16.h"

#define SHARE_ALL (FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE)
#define FLAGS_KNOWN                                                           \
    ((DWORD)FILE_ATTRIBUTE_NORMAL | (DWORD)FILE_FLAG_BACKUP_SEMANTICS)

static void
destroy(struct vd_object *object)
{
    struct vd_host_file *file = (struct vd_host_file *)object;
    close(file->fd);
    free(file);
}

static void
abandon(const struct vd_object *object)
{
    close(((const struct vd_host_file *)object)->fd);
}

static const struct vd_object_type host_file_type = {
    .destroy = destroy,
    .abandon = abandon,
};

vd_error
vd_host_file_acquire(HANDLE handle, struct vd_host_file **out)
{
    struct vd_object *object;
    vd_error error = vd_handle_acquire(handle, &object);
    if (error) {
        return error;
    }
    if (object->type != &host_file_type) {
        vd_object_release(object);
        return vd_refuse(ERROR_INVALID_PARAMETER,
                         "handle %p is not from CreateFileW", handle);
    }
    *out = (struct vd_host_file *)object;
    return ERROR_SUCCESS;
}

void
vd_host_file_release(struct vd_host_file *file)
{
    vd_object_release(&file->object);
}

static vd_error
check_arguments(DWORD access, DWORD share, DWORD disposition, DWORD flags)
{
    if ((share & ~(DWORD)SHARE_ALL) != 0) {
        return vd_refuse(ERROR_INVALID_PARAMETER, "share mode %#x", share);
    }
    if ((access & ~GENERIC_READ) != 0 || disposition != OPEN_EXISTING ||
        (flags & ~FLAGS_KNOWN) != 0) {
        return vd_refuse(ERROR_NOT_SUPPORTED,
                         "access %#x, disposition %u, flags %#x", access,
                         disposition, flags);
    }
    return ERROR_SUCCESS;
}

/* On Windows too a directory is opened only by those who say that they mean
 * it. */
static vd_error
check_opened(int fd, DWORD access, DWORD flags)
{
    struct stat status;
    if (fstat(fd, &status) < 0) {
        return vd_error_from_errno(errno);
    }
    if (S_ISDIR(status.st_mode) && (flags & FILE_FLAG_BACKUP_SEMANTICS) == 0) {
        return vd_refuse(ERROR_ACCESS_DENIED,
                         "a directory, without FILE_FLAG_BACKUP_SEMANTICS");
    }
    if ((access & GENERIC_READ) != 0 &&
        faccessat(fd, "", R_OK, AT_EMPTY_PATH | AT_EACCESS) < 0) {
        return vd_refuse(vd_error_from_errno(errno), "may not be read");
    }
    return ERROR_SUCCESS;
}

static vd_error
make_handle(int fd, HANDLE *out)
{
    struct vd_host_file *file = malloc(sizeof(*file));
    if (file == NULL) {
        return vd_refuse(ERROR_NOT_ENOUGH_MEMORY, "no memory for a handle");
    }
    file->fd = fd;
    vd_error error = vd_handle_create(&host_file_type, &file->object, out);
    if (error) {
        free(file);
    }
    return error;
}

static vd_error
open_path(PCWSTR name, DWORD access, DWORD flags, HANDLE *out)
{
    VD_AUTO_FREE char *path = NULL;
    vd_error error = vd_utf16_to_bytes(name, &path);
    if (error) {
        return error;
    }
    VD_AUTO_CLOSE int fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0) {
        error = errno == ENOENT ? vd_posix_file_missing(AT_FDCWD, path)
                                : vd_error_from_errno(errno);
        return vd_refuse(error, "%s: not opened", path);
    }
    error = check_opened(fd, access, flags);
    if (!error) {
        error = make_handle(fd, out);
    }
    if (!error) {
        (void)vd_take_fd(&fd);
    }
    return error;
}

static vd_error
check_and_open(PCWSTR name, const SECURITY_ATTRIBUTES *attributes,
               HANDLE template, DWORD access, DWORD flags, HANDLE *out)
{
    if (name == NULL) {
        return vd_refuse(ERROR_INVALID_PARAMETER, "lpFileName is NULL");
    }
    if (attributes != NULL || template != NULL) {
        return vd_refuse(ERROR_NOT_SUPPORTED, "attributes or a template");
    }
    return open_path(name, access, flags, out);
}

HANDLE WINAPI
CreateFileW(LPCWSTR lpFileName, DWORD dwDesiredAccess, DWORD dwShareMode,
            LPSECURITY_ATTRIBUTES lpSecurityAttributes,
            DWORD dwCreationDisposition, DWORD dwFlagsAndAttributes,
            HANDLE hTemplateFile)
{
    HANDLE handle = INVALID_HANDLE_VALUE;
    vd_error error =
        check_arguments(dwDesiredAccess, dwShareMode, dwCreationDisposition,
                        dwFlagsAndAttributes);
    if (!error) {
        error = check_and_open(lpFileName, lpSecurityAttributes, hTemplateFile,
                               dwDesiredAccess, dwFlagsAndAttributes, &handle);
    }
    if (error) {
        SetLastError(error);
    }
    return handle;
}
