/*
 * The structure of a self-relative security descriptor ([MS-DTYP] 2.4.2,
 * 2.4.4 to 2.4.6).
 *
 * AttachVirtualDisk takes a pointer without a length, so a descriptor that
 * points outside itself would make the system read memory that is not its
 * own.  Everything that has a position or a size is checked here against the
 * length of the buffer; whether the rights make sense is the system's to
 * judge.  Knows neither Python nor Win32.
 */
#include "_virtdisk_descriptor.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    SD_CONTROL = 2,
    SD_OWNER = 4,
    SD_GROUP = 8,
    SD_SACL = 12,
    SD_DACL = 16,
    SD_HEADER_SIZE = 20,
    SD_SELF_RELATIVE = 0x8000,
    SID_HEADER_SIZE = 8,
    SID_MOST_SUB_AUTHORITIES = 15,
    ACL_HEADER_SIZE = 8,
    ACE_HEADER_SIZE = 4,
    ACE_MASK_SIZE = 4,
    GUID_SIZE = 16,
};

/* A part of the descriptor. */
struct part {
    const uint8_t *bytes;
    size_t size;
};

static struct part
part_of(const uint8_t *bytes, size_t size)
{
    struct part part;
    part.bytes = bytes;
    part.size = size;
    return part;
}

static uint32_t
little_endian(const uint8_t *bytes, int count)
{
    uint32_t value = 0;
    for (int i = 0; i < count; i++) {
        value |= (uint32_t)bytes[i] << (8 * i);
    }
    return value;
}

/* The rest of whole from offset on; false if that is not inside it. */
static bool
rest_from(struct part whole, size_t offset, struct part *out)
{
    if (offset > whole.size) {
        return false;
    }
    *out = part_of(whole.bytes + offset, whole.size - offset);
    return true;
}

static bool
valid_sid(struct part sid)
{
    if (sid.size < SID_HEADER_SIZE || sid.bytes[0] != 1 ||
        sid.bytes[1] > SID_MOST_SUB_AUTHORITIES) {
        return false;
    }
    return sid.size >= SID_HEADER_SIZE + 4 * (size_t)sid.bytes[1];
}

/* Where the SID of an entry starts; 0 for a type that is not documented to
 * have one.  Object entries have flags that tell which of two GUIDs stand
 * before it ([MS-DTYP] 2.4.4.3). */
static size_t
ace_sid_offset(struct part ace)
{
    uint8_t type = ace.bytes[0];
    size_t offset = ACE_HEADER_SIZE + ACE_MASK_SIZE;
    bool object = (type >= 0x05 && type <= 0x08) ||
                  (type >= 0x0B && type <= 0x0C) ||
                  (type >= 0x0F && type <= 0x10);
    if (object) {
        if (ace.size < offset + 4) {
            return ace.size + 1; /* lies outside */
        }
        uint32_t flags = little_endian(ace.bytes + offset, 4);
        offset += 4;
        offset += (flags & 1) ? GUID_SIZE : 0;
        offset += (flags & 2) ? GUID_SIZE : 0;
        return offset;
    }
    if (type == 0x04 || type > 0x14) {
        return 0;
    }
    return offset;
}

static bool
valid_ace(struct part ace)
{
    size_t offset = ace_sid_offset(ace);
    struct part sid;
    if (offset == 0) {
        return true;
    }
    return rest_from(ace, offset, &sid) && valid_sid(sid);
}

static bool
valid_acl(struct part acl)
{
    if (acl.size < ACL_HEADER_SIZE || acl.bytes[0] < 2 || acl.bytes[0] > 4) {
        return false;
    }
    size_t size = little_endian(acl.bytes + 2, 2);
    uint32_t count = little_endian(acl.bytes + 4, 2);
    if (size < ACL_HEADER_SIZE || size > acl.size) {
        return false;
    }
    struct part left =
        part_of(acl.bytes + ACL_HEADER_SIZE, size - ACL_HEADER_SIZE);
    for (uint32_t i = 0; i < count; i++) {
        if (left.size < ACE_HEADER_SIZE) {
            return false;
        }
        struct part ace =
            part_of(left.bytes, little_endian(left.bytes + 2, 2));
        if (ace.size < ACE_HEADER_SIZE || ace.size % 4 != 0 ||
            ace.size > left.size || !valid_ace(ace)) {
            return false;
        }
        left = part_of(left.bytes + ace.size, left.size - ace.size);
    }
    return true;
}

/* A SID or ACL named by the offset that stands at field; absent if 0. */
static bool
valid_member(struct part descriptor, size_t field, bool (*valid)(struct part))
{
    size_t offset = little_endian(descriptor.bytes + field, 4);
    struct part member;
    if (offset == 0) {
        return true;
    }
    return offset >= SD_HEADER_SIZE && offset % 4 == 0 &&
           rest_from(descriptor, offset, &member) && valid(member);
}

const char *
virtdisk_descriptor_fault(const void *bytes, size_t size)
{
    struct part descriptor = part_of(bytes, size);
    if (descriptor.size < SD_HEADER_SIZE) {
        return "shorter than its header";
    }
    if (descriptor.bytes[0] != 1) {
        return "its revision is not 1";
    }
    if (!(little_endian(descriptor.bytes + SD_CONTROL, 2) &
          SD_SELF_RELATIVE)) {
        return "not self-relative";
    }
    if (!valid_member(descriptor, SD_OWNER, valid_sid)) {
        return "the owner is not a SID inside it";
    }
    if (!valid_member(descriptor, SD_GROUP, valid_sid)) {
        return "the group is not a SID inside it";
    }
    if (!valid_member(descriptor, SD_SACL, valid_acl)) {
        return "the SACL is not an ACL inside it";
    }
    if (!valid_member(descriptor, SD_DACL, valid_acl)) {
        return "the DACL is not an ACL inside it";
    }
    return NULL;
}
