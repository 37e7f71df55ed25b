/*
 * Lines for the system's log (log.h), written to its socket by one system
 * call each: syslog(3) would look for the socket and the time zone again,
 * which a confined process may not.
 */
#include "server/log.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <syslog.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/trace.h"
#include "server/protocol.h"

#define LOG_LINE_SIZE 512

/* Set once, before there are threads; -1: no log. */
static int log_socket = -1;

void
vd_log_open(void)
{
    static const struct sockaddr_un address = {
        .sun_family = AF_UNIX,
        .sun_path = "/dev/log",
    };
    VD_AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 &&
        connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0) {
        log_socket = vd_take_fd(&fd);
    }
}

/* A path in it must not make a second line. */
static void
replace_control_characters(char *text)
{
    for (; *text != '\0'; text++) {
        unsigned char byte = (unsigned char)*text;
        if (byte < ' ' || byte == 0x7F) {
            *text = '?';
        }
    }
}

/* The log is not worth waiting for: disks are. */
static void
send_line(const char *reason)
{
    char line[LOG_LINE_SIZE + 64];
    int length =
        snprintf(line, sizeof(line), "<%d>" VD_SERVER_PROGRAM "[%d]: %s",
                 LOG_DAEMON | LOG_ERR, getpid(), reason);
    (void)send(log_socket, line, (size_t)length, MSG_NOSIGNAL | MSG_DONTWAIT);
}

void
vd_log(const char *format, ...)
{
    char reason[LOG_LINE_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason, sizeof(reason), format, arguments);
    va_end(arguments);
    replace_control_characters(reason);
    vd_trace(VD_TRACE_ATTACH, "server: %s", reason);
    if (log_socket >= 0) {
        send_line(reason);
    }
}
