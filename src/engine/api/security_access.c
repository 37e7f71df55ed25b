/*
 * From a security descriptor to owner, group and mode of a device node
 * (DESIGN 5.6).
 *
 * Entries are looked at in order, as Windows does: for each class of users
 * (owner, group, others) and each of read and write the first entry that
 * speaks of it decides, and what none speaks of is denied.  Whatever owner,
 * group and mode cannot say is ERROR_NOT_SUPPORTED, never ignored.
 *
 * Of an access mask only reading and writing data counts.  Its other bits,
 * attributes and rights over the descriptor itself, come with these two or
 * alone not at all.
 */
#include "api/security.h"

#include <unistd.h>

#include "api/refuse.h"

#define GENERIC_ALL_BIT 0x10000000U
#define GENERIC_WRITE_BIT 0x40000000U
#define GENERIC_READ_BIT 0x80000000U
#define FILE_READ_DATA_BIT 0x0001U
#define FILE_WRITE_DATA_BIT 0x0002U

#define MASK_READS (GENERIC_ALL_BIT | GENERIC_READ_BIT | FILE_READ_DATA_BIT)
#define MASK_WRITES (GENERIC_ALL_BIT | GENERIC_WRITE_BIT | FILE_WRITE_DATA_BIT)

/* As in one class of a mode. */
#define MODE_READ 4U
#define MODE_WRITE 2U

enum user_class { CLASS_OTHERS, CLASS_GROUP, CLASS_OWNER, CLASS_COUNT };

#define CLASSES_NONE 0U
#define CLASSES_ALL ((1U << CLASS_COUNT) - 1)

#define MODE_BITS_PER_CLASS 3
#define MODE_ALL_READ_WRITE 0666

/* What the entries so far have decided, as mode bits. */
struct decision {
    unsigned decided[CLASS_COUNT];
    unsigned granted[CLASS_COUNT];
};

/* The uid or gid of S-1-22-kind-id.  The id that chown takes for "leave as
 * it is" is nobody's. */
static bool
unix_id(const struct vd_sid *sid, uint32_t kind, uint32_t *out)
{
    if (sid->authority != VD_SID_UNIX_AUTHORITY || sid->count != 2 ||
        sid->sub_authorities[0] != kind ||
        sid->sub_authorities[1] == UINT32_MAX) {
        return false;
    }
    *out = sid->sub_authorities[1];
    return true;
}

/* Local system and the administrators: root here. */
static bool
is_root(const struct vd_sid *sid)
{
    return vd_sid_equal(sid, &VD_SID_SYSTEM) ||
           vd_sid_equal(sid, &VD_SID_ADMINISTRATORS);
}

static vd_error
id_of(const struct vd_sid *sid, uint32_t kind, uint32_t *out)
{
    if (is_root(sid)) {
        *out = 0;
        return ERROR_SUCCESS;
    }
    if (!unix_id(sid, kind, out)) {
        return vd_refuse(ERROR_NOT_SUPPORTED,
                         "owner or group is nobody of this system");
    }
    return ERROR_SUCCESS;
}

static vd_error
take_owner_and_group(const struct vd_security *security,
                     struct vd_node_access *access)
{
    vd_error error = ERROR_SUCCESS;
    access->uid = geteuid();
    access->gid = getegid();
    if (security->has_owner) {
        error = id_of(&security->owner, VD_SID_UNIX_USER, &access->uid);
    }
    if (!error && security->has_group) {
        error = id_of(&security->group, VD_SID_UNIX_GROUP, &access->gid);
    }
    return error;
}

static bool
is_owner(const struct vd_sid *sid, const struct vd_node_access *access)
{
    uint32_t uid;
    return vd_sid_equal(sid, &VD_SID_OWNER_RIGHTS) ||
           vd_sid_equal(sid, &VD_SID_CREATOR_OWNER) ||
           (unix_id(sid, VD_SID_UNIX_USER, &uid) && uid == access->uid);
}

static bool
is_group(const struct vd_sid *sid, const struct vd_node_access *access)
{
    uint32_t gid;
    return vd_sid_equal(sid, &VD_SID_CREATOR_GROUP) ||
           (unix_id(sid, VD_SID_UNIX_GROUP, &gid) && gid == access->gid);
}

/* The classes that an entry speaks of, as a set. */
static vd_error
classes_of(const struct vd_ace *ace, const struct vd_node_access *access,
           unsigned *out)
{
    if (vd_sid_equal(&ace->sid, &VD_SID_EVERYONE)) {
        *out = CLASSES_ALL;
    }
    else if (is_owner(&ace->sid, access)) {
        *out = 1U << CLASS_OWNER;
    }
    else if (is_group(&ace->sid, access)) {
        *out = 1U << CLASS_GROUP;
    }
    else if (is_root(&ace->sid) && ace->type == VD_ACE_ALLOWED) {
        *out = CLASSES_NONE; /* root may anyway, and cannot be denied */
    }
    else {
        return vd_refuse(ERROR_NOT_SUPPORTED,
                         "an entry for neither everyone, owner nor group");
    }
    return ERROR_SUCCESS;
}

static unsigned
mode_of_mask(uint32_t mask)
{
    return ((mask & MASK_READS) != 0 ? MODE_READ : 0) |
           ((mask & MASK_WRITES) != 0 ? MODE_WRITE : 0);
}

static vd_error
check_ace(const struct vd_ace *ace)
{
    if (ace->type != VD_ACE_ALLOWED && ace->type != VD_ACE_DENIED) {
        return vd_refuse(ERROR_NOT_SUPPORTED, "an entry of type %u",
                         ace->type);
    }
    if ((ace->flags & ~VD_ACE_INHERITED) != 0) {
        return vd_refuse(ERROR_NOT_SUPPORTED, "an entry with flags %#x",
                         ace->flags);
    }
    if (mode_of_mask(ace->mask) == 0) {
        return vd_refuse(ERROR_NOT_SUPPORTED,
                         "access mask %#x neither reads nor writes",
                         ace->mask);
    }
    return ERROR_SUCCESS;
}

static void
decide(struct decision *decision, unsigned classes, unsigned mode, bool allow)
{
    for (unsigned i = 0; i < CLASS_COUNT; i++) {
        if ((classes & 1U << i) != 0) {
            unsigned fresh = mode & ~decision->decided[i];
            decision->decided[i] |= mode;
            decision->granted[i] |= allow ? fresh : 0;
        }
    }
}

static vd_error
mode_of_dacl(const uint8_t *dacl, const struct vd_node_access *access,
             mode_t *out)
{
    struct decision decision = {0};
    struct vd_ace_cursor cursor = vd_ace_first(dacl);
    struct vd_ace ace;
    while (vd_ace_next(&cursor, &ace)) {
        unsigned classes;
        vd_error error = check_ace(&ace);
        if (!error) {
            error = classes_of(&ace, access, &classes);
        }
        if (error) {
            return error;
        }
        decide(&decision, classes, mode_of_mask(ace.mask),
               ace.type == VD_ACE_ALLOWED);
    }
    mode_t mode = 0;
    for (unsigned i = 0; i < CLASS_COUNT; i++) {
        mode |= decision.granted[i] << MODE_BITS_PER_CLASS * i;
    }
    *out = mode;
    return ERROR_SUCCESS;
}

static vd_error
access_of(const struct vd_security *security, struct vd_node_access *out)
{
    struct vd_node_access access = {.set = true, .mode = MODE_ALL_READ_WRITE};
    if ((security->control & VD_SE_SACL_PRESENT) != 0) {
        return vd_refuse(ERROR_NOT_SUPPORTED, "a system ACL");
    }
    vd_error error = take_owner_and_group(security, &access);
    if (!error && security->dacl != NULL) {
        error = mode_of_dacl(security->dacl, &access, &access.mode);
    }
    if (!error) {
        *out = access;
    }
    return error;
}

vd_error
vd_security_access(const void *descriptor, const struct stat *image,
                   struct vd_node_access *out)
{
    if (descriptor == NULL) {
        *out = (struct vd_node_access){
            .set = true,
            .uid = image->st_uid,
            .gid = image->st_gid,
            .mode = image->st_mode & MODE_ALL_READ_WRITE,
        };
        return ERROR_SUCCESS;
    }
    struct vd_security security;
    vd_error error =
        vd_security_parse(descriptor, VD_SECURITY_SIZE_MAX, &security);
    return error ? error : access_of(&security, out);
}
