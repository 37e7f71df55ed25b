/*
 * Random identities.  See random.h.
 */
#include "disk/random.h"

#include <errno.h>
#include <sys/random.h>
#include <sys/types.h>

vd_error
vd_random_bytes(void *buffer, size_t length)
{
    if (getrandom(buffer, length, 0) != (ssize_t)length) {
        return vd_error_from_errno(errno);
    }
    return ERROR_SUCCESS;
}

/* In a GUID's memory order the version is in byte 7. */
vd_error
vd_random_guid(struct vd_guid *guid)
{
    vd_error error = vd_random_bytes(guid->bytes, sizeof(guid->bytes));
    guid->bytes[7] = (uint8_t)((guid->bytes[7] & 0x0f) | 0x40);
    guid->bytes[8] = (uint8_t)((guid->bytes[8] & 0x3f) | 0x80);
    return error;
}

vd_error
vd_random_session(struct vd_session *session)
{
    vd_error error = vd_random_guid(&session->file_write_guid);
    if (error == ERROR_SUCCESS) {
        error = vd_random_guid(&session->data_write_guid);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_random_guid(&session->log_guid);
    }
    if (error == ERROR_SUCCESS) {
        error = vd_random_bytes(&session->log_sequence,
                                sizeof(session->log_sequence));
        session->log_sequence >>= 2; /* never near the end of the numbers */
    }
    return error;
}
