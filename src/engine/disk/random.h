/*
 * Random identities: what formats, being pure logic, cannot make themselves.
 */
#ifndef VD_DISK_RANDOM_H
#define VD_DISK_RANDOM_H

#include <stddef.h>

#include "base/error.h"
#include "base/guid.h"
#include "format/format.h"

VD_MUST_CHECK
vd_error vd_random_bytes(void *buffer, size_t length);

/* RFC 4122 version 4. */
VD_MUST_CHECK
vd_error vd_random_guid(struct vd_guid *guid);

/* All that a session of changes needs. */
VD_MUST_CHECK
vd_error vd_random_session(struct vd_session *session);

#endif
