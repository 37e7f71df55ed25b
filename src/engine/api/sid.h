/*
 * Security identifiers: [MS-DTYP] 2.4.2, and who of this system they are.
 *
 * Users and groups of this system are S-1-22-1-uid and S-1-22-2-gid, the
 * mapping that Samba uses.
 */
#ifndef VD_API_SID_H
#define VD_API_SID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define VD_SID_SUB_AUTHORITIES_MAX 15
#define VD_SID_SIZE_MAX (8 + 4 * VD_SID_SUB_AUTHORITIES_MAX)

struct vd_sid {
    uint64_t authority; /* 48 bits */
    unsigned count;
    uint32_t sub_authorities[VD_SID_SUB_AUTHORITIES_MAX];
};

/* A SID of up to three subauthorities:  VD_SID(5, 2, 32, 544)  is
 * S-1-5-32-544. Its arguments: the authority, how many subauthorities, and
 * these. */
#define VD_SID(first, length, ...)                                            \
    ((struct vd_sid){.authority = (first),                                    \
                     .count = (length),                                       \
                     .sub_authorities = {__VA_ARGS__}})

#define VD_SID_EVERYONE VD_SID(1, 1, 0)
#define VD_SID_CREATOR_OWNER VD_SID(3, 1, 0)
#define VD_SID_CREATOR_GROUP VD_SID(3, 1, 1)
#define VD_SID_OWNER_RIGHTS VD_SID(3, 1, 4)
#define VD_SID_SYSTEM VD_SID(5, 1, 18)
#define VD_SID_ADMINISTRATORS VD_SID(5, 2, 32, 544)

#define VD_SID_UNIX_AUTHORITY 22
#define VD_SID_UNIX_USER 1
#define VD_SID_UNIX_GROUP 2

bool vd_sid_equal(const struct vd_sid *a, const struct vd_sid *b);

/* The SID at the start of a buffer of `length` bytes; false if it is none or
 * does not fit. */
bool vd_sid_decode(const uint8_t *bytes, size_t length, struct vd_sid *out);

size_t vd_sid_size(const struct vd_sid *sid);
/* Writes vd_sid_size bytes. */
void vd_sid_encode(const struct vd_sid *sid, uint8_t *bytes);

/* Which accounts a name may be of. */
enum vd_account_kind {
    VD_ACCOUNT_USER,
    VD_ACCOUNT_GROUP,
    VD_ACCOUNT_ANY, /* a user, or else a group */
};

/*
 * A SID from text: S-1-..., one of the two-letter names that stand for a
 * fixed SID ([MS-DTYP] 2.5.1.1), or the name of an account of this system.
 * ERROR_INVALID_SID for a malformed S-1-..., ERROR_NONE_MAPPED for a name
 * that is none, which the two-letter names relative to a domain are too.
 */
VD_MUST_CHECK
vd_error vd_sid_from_text(const char *text, size_t length,
                          enum vd_account_kind kind, struct vd_sid *out);

#endif
