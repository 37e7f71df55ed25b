/*
 * Security descriptors, and what they mean for a device node.
 *
 * Structure: [MS-DTYP] 2.4.2 (SID), 2.4.4 (ACE), 2.4.5 (ACL) and 2.4.6
 * (SECURITY_DESCRIPTOR).  Self-relative ones only: nothing here makes an
 * absolute one, and one without SE_SELF_RELATIVE is refused as invalid.
 */
#ifndef VD_API_SECURITY_H
#define VD_API_SECURITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "api/sid.h"
#include "attach/attach.h"
#include "base/error.h"

#define VD_SECURITY_REVISION 1
#define VD_SECURITY_HEADER_SIZE 20

/* Where the members of the header are. */
#define VD_SECURITY_CONTROL_AT 2
#define VD_SECURITY_OWNER_AT 4
#define VD_SECURITY_GROUP_AT 8
#define VD_SECURITY_SACL_AT 12
#define VD_SECURITY_DACL_AT 16

#define VD_SE_DACL_PRESENT 0x0004
#define VD_SE_SACL_PRESENT 0x0010
#define VD_SE_DACL_AUTO_INHERIT_REQ 0x0100
#define VD_SE_SACL_AUTO_INHERIT_REQ 0x0200
#define VD_SE_DACL_AUTO_INHERITED 0x0400
#define VD_SE_SACL_AUTO_INHERITED 0x0800
#define VD_SE_DACL_PROTECTED 0x1000
#define VD_SE_SACL_PROTECTED 0x2000
#define VD_SE_SELF_RELATIVE 0x8000

#define VD_ACL_REVISION 2
#define VD_ACL_REVISION_DS 4
#define VD_ACL_HEADER_SIZE 8
#define VD_ACL_SIZE_MAX 0xFFFC /* its size is 16 bits and a multiple of 4 */

#define VD_ACE_HEADER_SIZE 4
#define VD_ACE_SID_AT 8 /* after the mask, in the types below */
#define VD_ACE_ALLOWED 0
#define VD_ACE_DENIED 1
#define VD_ACE_AUDIT 2

#define VD_ACE_OBJECT_INHERIT 0x01
#define VD_ACE_CONTAINER_INHERIT 0x02
#define VD_ACE_NO_PROPAGATE 0x04
#define VD_ACE_INHERIT_ONLY 0x08
#define VD_ACE_INHERITED 0x10
#define VD_ACE_AUDIT_SUCCESS 0x40
#define VD_ACE_AUDIT_FAILURE 0x80

/* The longest descriptor there can be: every part at its largest. */
#define VD_SECURITY_SIZE_MAX                                                  \
    (VD_SECURITY_HEADER_SIZE + 2 * VD_SID_SIZE_MAX + 2 * (1 << 16))

/* The parts of a descriptor, pointing into it. */
struct vd_security {
    uint16_t control;
    bool has_owner;
    bool has_group;
    struct vd_sid owner;
    struct vd_sid group;
    const uint8_t *dacl; /* NULL: none, or a NULL one: everybody may */
    size_t length;       /* up to the end of the last part */
};

/* Checks every offset, size and count against length (bytes).
 * ERROR_INVALID_SECURITY_DESCR. */
VD_MUST_CHECK
vd_error vd_security_parse(const uint8_t *bytes, size_t length,
                           struct vd_security *out);

struct vd_ace {
    uint8_t type;
    uint8_t flags;
    bool has_sid; /* of one of the three types above */
    uint32_t mask;
    struct vd_sid sid;
};

/* The entries of an ACL that vd_security_parse has checked. */
struct vd_ace_cursor {
    const uint8_t *next;
    unsigned left;
};

struct vd_ace_cursor vd_ace_first(const uint8_t *acl);

/* False after the last one. */
bool vd_ace_next(struct vd_ace_cursor *cursor, struct vd_ace *out);

/*
 * Owner, group and mode for the device node of an image (DESIGN 5.6).
 *
 * descriptor NULL: those of the image file.  Otherwise its owner and group,
 * by default the caller's, and the mode that its DACL amounts to.  Errors:
 * ERROR_INVALID_SECURITY_DESCR, and ERROR_NOT_SUPPORTED for anything that
 * owner, group and mode cannot express.
 */
VD_MUST_CHECK
vd_error vd_security_access(const void *descriptor, const struct stat *image,
                            struct vd_node_access *out);

#endif
