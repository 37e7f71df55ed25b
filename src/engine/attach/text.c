/*
 * Small texts (text.h).
 */
#include "attach/text.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"

bool
vd_text_format(char *buffer, size_t size, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(buffer, size, format, arguments);
    va_end(arguments);
    return length >= 0 && (size_t)length < size;
}

bool
vd_text_number(const char *text, uint64_t *out)
{
    if (text[0] == '\0' || text[strspn(text, "0123456789")] != '\0') {
        return false; /* strtoull would take signs and blanks */
    }
    errno = 0;
    unsigned long long value = strtoull(text, NULL, 10);
    if (errno != 0) {
        return false;
    }
    *out = value;
    return true;
}

vd_error
vd_text_read_line(const char *path, char *buffer, size_t size)
{
    VD_AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, buffer, size - 1);
    if (length < 0) {
        return vd_error_from_errno(errno);
    }
    buffer[length] = '\0';
    char *end = strchr(buffer, '\n');
    if (end == NULL && (size_t)length == size - 1) {
        return ERROR_INVALID_DATA;
    }
    if (end != NULL) {
        *end = '\0';
    }
    return ERROR_SUCCESS;
}
