/*
 * The structure of security descriptors, and the Win32 calls about it.
 *
 * A caller of AttachVirtualDisk passes a pointer without a length.  What is
 * read through it is bounded by the size fields that are checked on the way
 * and by VD_SECURITY_SIZE_MAX, as on Windows: memory that a valid descriptor
 * would occupy must be readable.  Who has a length uses vd_security_parse.
 */
#include "api/security.h"

#include <stdlib.h>

#include <windows.h>

#include "api/refuse.h"
#include "base/bytes.h"
#include "base/checked.h"

static vd_error
invalid(const char *reason)
{
    return vd_refuse(ERROR_INVALID_SECURITY_DESCR, "security descriptor: %s",
                     reason);
}

static void
extend(struct vd_security *security, size_t end)
{
    if (end > security->length) {
        security->length = end;
    }
}

/* The SID at an offset that the header names; offset 0: there is none. */
static vd_error
parse_sid(const uint8_t *bytes, size_t length, size_t header_at,
          struct vd_security *security, struct vd_sid *sid_out, bool *has_sid)
{
    size_t offset = vd_get_le32(bytes + header_at);
    *has_sid = offset != 0;
    if (offset == 0) {
        return ERROR_SUCCESS;
    }
    if (offset < VD_SECURITY_HEADER_SIZE || offset > length ||
        !vd_sid_decode(bytes + offset, length - offset, sid_out)) {
        return invalid("owner or group is not inside it");
    }
    extend(security, offset + vd_sid_size(sid_out));
    return ERROR_SUCCESS;
}

static bool
ace_names_sid(uint8_t type)
{
    return type == VD_ACE_ALLOWED || type == VD_ACE_DENIED ||
           type == VD_ACE_AUDIT;
}

/* Whether the entry at `ace`, with `left` bytes of the ACL after it starts,
 * is one; its size. */
static bool
ace_valid(const uint8_t *ace, size_t left, size_t *size_out)
{
    if (left < VD_ACE_HEADER_SIZE) {
        return false;
    }
    size_t size = vd_get_le16(ace + 2);
    struct vd_sid sid;
    if (size < VD_ACE_HEADER_SIZE || size > left || size % 4 != 0 ||
        (ace_names_sid(ace[0]) &&
         (size < VD_ACE_SID_AT ||
          !vd_sid_decode(ace + VD_ACE_SID_AT, size - VD_ACE_SID_AT, &sid)))) {
        return false;
    }
    *size_out = size;
    return true;
}

static bool
acl_valid(const uint8_t *acl, size_t left, size_t *size_out)
{
    if (left < VD_ACL_HEADER_SIZE ||
        (acl[0] != VD_ACL_REVISION && acl[0] != VD_ACL_REVISION_DS)) {
        return false;
    }
    size_t size = vd_get_le16(acl + 2);
    if (size < VD_ACL_HEADER_SIZE || size > left) {
        return false;
    }
    size_t offset = VD_ACL_HEADER_SIZE;
    for (unsigned i = vd_get_le16(acl + 4); i > 0; i--) {
        size_t ace_size;
        if (!ace_valid(acl + offset, size - offset, &ace_size)) {
            return false;
        }
        offset += ace_size;
    }
    *size_out = size;
    return true;
}

/* The ACL at an offset that the header names, NULL for offset 0. */
static vd_error
parse_acl(const uint8_t *bytes, size_t length, size_t header_at,
          struct vd_security *security, const uint8_t **acl_out)
{
    size_t offset = vd_get_le32(bytes + header_at);
    *acl_out = NULL;
    if (offset == 0) {
        return ERROR_SUCCESS;
    }
    size_t size;
    if (offset < VD_SECURITY_HEADER_SIZE || offset > length ||
        !acl_valid(bytes + offset, length - offset, &size)) {
        return invalid("an ACL is malformed or not inside it");
    }
    extend(security, offset + size);
    *acl_out = bytes + offset;
    return ERROR_SUCCESS;
}

static vd_error
parse_acls(const uint8_t *bytes, size_t length, struct vd_security *security)
{
    const uint8_t *sacl;
    vd_error error = ERROR_SUCCESS;
    if ((security->control & VD_SE_SACL_PRESENT) != 0) {
        error = parse_acl(bytes, length, VD_SECURITY_SACL_AT, security, &sacl);
    }
    if (!error && (security->control & VD_SE_DACL_PRESENT) != 0) {
        error = parse_acl(bytes, length, VD_SECURITY_DACL_AT, security,
                          &security->dacl);
    }
    return error;
}

vd_error
vd_security_parse(const uint8_t *bytes, size_t length, struct vd_security *out)
{
    if (length < VD_SECURITY_HEADER_SIZE || bytes[0] != VD_SECURITY_REVISION) {
        return invalid("no header of revision 1");
    }
    struct vd_security security = {
        .control = vd_get_le16(bytes + VD_SECURITY_CONTROL_AT),
        .length = VD_SECURITY_HEADER_SIZE,
    };
    if ((security.control & VD_SE_SELF_RELATIVE) == 0) {
        return invalid("not self-relative");
    }
    vd_error error = parse_sid(bytes, length, VD_SECURITY_OWNER_AT, &security,
                               &security.owner, &security.has_owner);
    if (!error) {
        error = parse_sid(bytes, length, VD_SECURITY_GROUP_AT, &security,
                          &security.group, &security.has_group);
    }
    if (!error) {
        error = parse_acls(bytes, length, &security);
    }
    if (!error) {
        *out = security;
    }
    return error;
}

struct vd_ace_cursor
vd_ace_first(const uint8_t *acl)
{
    return (struct vd_ace_cursor){
        .next = acl + VD_ACL_HEADER_SIZE,
        .left = vd_get_le16(acl + 4),
    };
}

bool
vd_ace_next(struct vd_ace_cursor *cursor, struct vd_ace *out)
{
    if (cursor->left == 0) {
        return false;
    }
    const uint8_t *ace = cursor->next;
    size_t size = vd_get_le16(ace + 2);
    *out = (struct vd_ace){.type = ace[0], .flags = ace[1]};
    if (ace_names_sid(out->type)) {
        out->mask = vd_get_le32(ace + VD_ACE_HEADER_SIZE);
        out->has_sid = vd_sid_decode(ace + VD_ACE_SID_AT, size - VD_ACE_SID_AT,
                                     &out->sid);
    }
    cursor->next += size;
    cursor->left--;
    return true;
}

BOOL WINAPI
IsValidSecurityDescriptor(PSECURITY_DESCRIPTOR pSecurityDescriptor)
{
    struct vd_security security;
    return pSecurityDescriptor != NULL &&
           vd_security_parse(pSecurityDescriptor, VD_SECURITY_SIZE_MAX,
                             &security) == ERROR_SUCCESS;
}

/* 0 for what IsValidSecurityDescriptor says FALSE to; Microsoft leaves that
 * case undefined. */
DWORD WINAPI
GetSecurityDescriptorLength(PSECURITY_DESCRIPTOR pSecurityDescriptor)
{
    struct vd_security security;
    if (pSecurityDescriptor == NULL ||
        vd_security_parse(pSecurityDescriptor, VD_SECURITY_SIZE_MAX,
                          &security)) {
        return 0;
    }
    return (DWORD)security.length;
}

/* Always NULL: free cannot fail. */
HLOCAL WINAPI
LocalFree(HLOCAL hMem)
{
    free(hMem);
    return NULL;
}
