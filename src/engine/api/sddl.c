/*
 * ConvertStringSecurityDescriptorToSecurityDescriptorW: the Security
 * Descriptor Definition Language of [MS-DTYP] 2.5.1 to a self-relative
 * security descriptor.
 *
 * Understood: O:, G:, D: and S: in any order, each at most once; ACL flags
 * P, AR, AI and NO_ACCESS_CONTROL; entries of the types A, D and AU, with
 * rights in letters or as a number.  Beyond the language, spaces and line
 * breaks may stand between parts, entries and fields, and a SID may also be
 * written as the name of an account of this system.  The entry types for
 * directory objects, labels, claims and conditions are ERROR_NOT_SUPPORTED:
 * a device node has no use for them.
 *
 * Errors: ERROR_INVALID_PARAMETER for bad syntax, ERROR_INVALID_SID,
 * ERROR_NONE_MAPPED, ERROR_INVALID_ACL (too long), ERROR_UNKNOWN_REVISION.
 */
#include <sddl.h>

#include <stdlib.h>
#include <string.h>

#include "api/refuse.h"
#include "api/security.h"
#include "api/sid.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/utf16.h"

/* Text still to be read. */
struct text {
    const char *at;
    const char *end;
};

struct word {
    const char *text;
    uint32_t value;
};

struct acl {
    bool given;
    bool null; /* NO_ACCESS_CONTROL */
    uint16_t control;
    uint16_t count;
    size_t size;
    uint8_t *bytes; /* VD_ACL_SIZE_MAX of them; owned */
};

struct descriptor {
    bool has_owner;
    bool has_group;
    struct vd_sid owner;
    struct vd_sid group;
    struct acl dacl;
    struct acl sacl;
};

/* What the flags of a DACL and of a SACL set in Control. */
static const struct word dacl_flags[] = {
    {"P", VD_SE_DACL_PROTECTED},
    {"AR", VD_SE_DACL_AUTO_INHERIT_REQ},
    {"AI", VD_SE_DACL_AUTO_INHERITED},
    {NULL, 0},
};

static const struct word sacl_flags[] = {
    {"P", VD_SE_SACL_PROTECTED},
    {"AR", VD_SE_SACL_AUTO_INHERIT_REQ},
    {"AI", VD_SE_SACL_AUTO_INHERITED},
    {NULL, 0},
};

static const struct word ace_types[] = {
    {"A", VD_ACE_ALLOWED},
    {"D", VD_ACE_DENIED},
    {"AU", VD_ACE_AUDIT},
    {NULL, 0},
};

static const struct word ace_types_refused[] = {
    {"OA", 0}, {"OD", 0}, {"OU", 0}, {"AL", 0}, {"OL", 0},
    {"ML", 0}, {"XA", 0}, {"XD", 0}, {"XU", 0}, {"ZA", 0},
    {"RA", 0}, {"SP", 0}, {"TL", 0}, {"FL", 0}, {NULL, 0},
};

static const struct word ace_flags[] = {
    {"OI", VD_ACE_OBJECT_INHERIT}, {"CI", VD_ACE_CONTAINER_INHERIT},
    {"NP", VD_ACE_NO_PROPAGATE},   {"IO", VD_ACE_INHERIT_ONLY},
    {"ID", VD_ACE_INHERITED},      {"SA", VD_ACE_AUDIT_SUCCESS},
    {"FA", VD_ACE_AUDIT_FAILURE},  {NULL, 0},
};

static const struct word rights[] = {
    {"GA", 0x10000000}, {"GX", 0x20000000}, {"GW", 0x40000000},
    {"GR", 0x80000000}, {"SD", 0x00010000}, {"RC", 0x00020000},
    {"WD", 0x00040000}, {"WO", 0x00080000}, {"CC", 0x00000001},
    {"DC", 0x00000002}, {"LC", 0x00000004}, {"SW", 0x00000008},
    {"RP", 0x00000010}, {"WP", 0x00000020}, {"DT", 0x00000040},
    {"LO", 0x00000080}, {"CR", 0x00000100}, {"FA", 0x001F01FF},
    {"FR", 0x00120089}, {"FW", 0x00120116}, {"FX", 0x001200A0},
    {"KA", 0x000F003F}, {"KR", 0x00020019}, {"KW", 0x00020006},
    {"KX", 0x00020019}, {NULL, 0},
};

static vd_error
syntax(const char *reason)
{
    return vd_refuse(ERROR_INVALID_PARAMETER, "SDDL: %s", reason);
}

static size_t
length_of(const struct text *text)
{
    return (size_t)(text->end - text->at);
}

static bool
is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static void
skip_spaces(struct text *text)
{
    while (text->at < text->end && is_space(*text->at)) {
        text->at++;
    }
}

/* The text without the spaces around it. */
static struct text
trimmed(struct text text)
{
    skip_spaces(&text);
    while (text.end > text.at && is_space(text.end[-1])) {
        text.end--;
    }
    return text;
}

/* Whether the text starts with a word; moves past it. */
static bool
consume(struct text *text, const char *word)
{
    size_t length = strlen(word);
    if (length_of(text) < length || memcmp(text->at, word, length) != 0) {
        return false;
    }
    text->at += length;
    return true;
}

/* A run of words of a table, their values or-ed; stops at the first text
 * that is none. */
static uint32_t
consume_words(struct text *text, const struct word *table)
{
    uint32_t value = 0;
    for (size_t i = 0; table[i].text != NULL;) {
        if (consume(text, table[i].text)) {
            value |= table[i].value;
            i = 0;
        }
        else {
            i++;
        }
    }
    return value;
}

/* Whether the whole text is a word of a table. */
static bool
is_word(const struct text *text, const struct word *table, uint32_t *value_out)
{
    for (size_t i = 0; table[i].text != NULL; i++) {
        struct text rest = *text;
        if (consume(&rest, table[i].text) && rest.at == rest.end) {
            *value_out = table[i].value;
            return true;
        }
    }
    return false;
}

/* Rights as a number: 0x..., octal with a leading 0, or decimal. */
static vd_error
parse_rights_number(const struct text *text, uint32_t *out)
{
    char digits[sizeof("037777777777")]; /* the longest spelling there is */
    size_t length = length_of(text);
    if (length >= sizeof(digits)) {
        return syntax("rights are too large a number");
    }
    memcpy(digits, text->at, length);
    digits[length] = '\0';
    char *end;
    unsigned long long value = strtoull(digits, &end, 0);
    if (*end != '\0' || value > UINT32_MAX) {
        return syntax("rights are no 32-bit number");
    }
    *out = (uint32_t)value;
    return ERROR_SUCCESS;
}

static vd_error
parse_rights(struct text text, uint32_t *out)
{
    if (text.at < text.end && *text.at >= '0' && *text.at <= '9') {
        return parse_rights_number(&text, out);
    }
    uint32_t mask = consume_words(&text, rights);
    if (text.at != text.end) {
        return syntax("unknown rights");
    }
    *out = mask;
    return ERROR_SUCCESS;
}

static vd_error
parse_ace_type(const struct text *text, uint8_t *out)
{
    uint32_t type;
    if (is_word(text, ace_types_refused, &type)) {
        return vd_refuse(ERROR_NOT_SUPPORTED, "SDDL: an entry of type %.2s",
                         text->at);
    }
    if (!is_word(text, ace_types, &type)) {
        return syntax("unknown type of entry");
    }
    *out = (uint8_t)type;
    return ERROR_SUCCESS;
}

static vd_error
parse_ace_flags(struct text text, uint8_t *out)
{
    uint8_t flags = (uint8_t)consume_words(&text, ace_flags);
    if (text.at != text.end) {
        return syntax("unknown flags of an entry");
    }
    *out = flags;
    return ERROR_SUCCESS;
}

/* type;flags;rights;object_guid;inherit_object_guid;account_sid */
enum ace_field {
    ACE_TYPE,
    ACE_FLAGS,
    ACE_RIGHTS,
    ACE_OBJECT,
    ACE_INHERITED_OBJECT,
    ACE_ACCOUNT,
    ACE_FIELDS,
};

/* The fields of the entry that text starts with, up to its ')'. */
static vd_error
split_ace(struct text *text, struct text fields[ACE_FIELDS])
{
    for (size_t i = 0; i < ACE_FIELDS; i++) {
        char closing = i + 1 < ACE_FIELDS ? ';' : ')';
        const char *end = text->at;
        while (end < text->end && *end != ';' && *end != ')') {
            end++;
        }
        if (end == text->end || *end != closing) {
            return syntax("an entry has six fields in parentheses");
        }
        fields[i] = trimmed((struct text){.at = text->at, .end = end});
        text->at = end + 1;
    }
    return ERROR_SUCCESS;
}

static vd_error
parse_fields(const struct text fields[ACE_FIELDS], struct vd_ace *ace)
{
    vd_error error = parse_ace_flags(fields[ACE_FLAGS], &ace->flags);
    if (!error) {
        error = parse_rights(fields[ACE_RIGHTS], &ace->mask);
    }
    if (error) {
        return error;
    }
    if (length_of(&fields[ACE_OBJECT]) > 0 ||
        length_of(&fields[ACE_INHERITED_OBJECT]) > 0) {
        return syntax("an object in an entry that is not for objects");
    }
    return vd_sid_from_text(fields[ACE_ACCOUNT].at,
                            length_of(&fields[ACE_ACCOUNT]), VD_ACCOUNT_ANY,
                            &ace->sid);
}

/* The type comes first: what is refused need not have six fields. */
static vd_error
parse_ace(struct text *text, struct vd_ace *ace)
{
    struct text type = *text;
    const char *end = memchr(text->at, ';', length_of(text));
    type.end = end != NULL ? end : text->end;
    type = trimmed(type);
    vd_error error = parse_ace_type(&type, &ace->type);
    if (error) {
        return error;
    }
    struct text fields[ACE_FIELDS];
    error = split_ace(text, fields);
    return error ? error : parse_fields(fields, ace);
}

static vd_error
append_ace(struct acl *acl, const struct vd_ace *ace)
{
    size_t size = VD_ACE_SID_AT + vd_sid_size(&ace->sid);
    if (size > VD_ACL_SIZE_MAX - acl->size) {
        return vd_refuse(ERROR_INVALID_ACL, "SDDL: an ACL is too long");
    }
    uint8_t *bytes = acl->bytes + acl->size;
    bytes[0] = ace->type;
    bytes[1] = ace->flags;
    vd_put_le16(bytes + 2, (uint16_t)size);
    vd_put_le32(bytes + VD_ACE_HEADER_SIZE, ace->mask);
    vd_sid_encode(&ace->sid, bytes + VD_ACE_SID_AT);
    acl->size += size;
    acl->count++;
    return ERROR_SUCCESS;
}

static vd_error
parse_aces(struct text *text, struct acl *acl)
{
    while (consume(text, "(")) {
        struct vd_ace ace;
        vd_error error = parse_ace(text, &ace);
        if (!error) {
            error = append_ace(acl, &ace);
        }
        if (error) {
            return error;
        }
        skip_spaces(text);
    }
    return ERROR_SUCCESS;
}

static void
finish_acl(struct acl *acl)
{
    acl->bytes[0] = VD_ACL_REVISION;
    acl->bytes[1] = 0;
    vd_put_le16(acl->bytes + 2, (uint16_t)acl->size);
    vd_put_le16(acl->bytes + 4, acl->count);
    vd_put_le16(acl->bytes + 6, 0);
}

static vd_error
parse_acl(struct text *text, const struct word *flags, uint16_t present,
          struct acl *acl)
{
    if (acl->given) {
        return syntax("the same ACL twice");
    }
    acl->given = true;
    acl->bytes = malloc(VD_ACL_SIZE_MAX);
    if (acl->bytes == NULL) {
        return vd_refuse(ERROR_NOT_ENOUGH_MEMORY, "no memory for an ACL");
    }
    acl->size = VD_ACL_HEADER_SIZE;
    skip_spaces(text);
    acl->control = (uint16_t)(present | consume_words(text, flags));
    skip_spaces(text);
    if (consume(text, "NO_ACCESS_CONTROL")) {
        acl->null = true;
        return ERROR_SUCCESS;
    }
    vd_error error = parse_aces(text, acl);
    if (!error) {
        finish_acl(acl);
    }
    return error;
}

/* An owner or group reaches up to the letter before the next colon, or to
 * the end: names of accounts contain no colon. */
static vd_error
parse_principal(struct text *text, enum vd_account_kind kind, bool *given,
                struct vd_sid *out)
{
    if (*given) {
        return syntax("owner or group twice");
    }
    const char *colon = memchr(text->at, ':', length_of(text));
    struct text name = *text;
    if (colon != NULL) {
        name.end = colon > text->at ? colon - 1 : colon;
    }
    text->at = name.end;
    name = trimmed(name);
    if (length_of(&name) == 0) {
        return syntax("no owner or group");
    }
    vd_error error = vd_sid_from_text(name.at, length_of(&name), kind, out);
    if (!error) {
        *given = true;
    }
    return error;
}

static vd_error
parse_part(struct text *text, struct descriptor *descriptor)
{
    if (consume(text, "O:")) {
        return parse_principal(text, VD_ACCOUNT_USER, &descriptor->has_owner,
                               &descriptor->owner);
    }
    if (consume(text, "G:")) {
        return parse_principal(text, VD_ACCOUNT_GROUP, &descriptor->has_group,
                               &descriptor->group);
    }
    if (consume(text, "D:")) {
        return parse_acl(text, dacl_flags, VD_SE_DACL_PRESENT,
                         &descriptor->dacl);
    }
    if (consume(text, "S:")) {
        return parse_acl(text, sacl_flags, VD_SE_SACL_PRESENT,
                         &descriptor->sacl);
    }
    return syntax("neither O:, G:, D: nor S:");
}

static vd_error
parse_descriptor(const char *string, struct descriptor *descriptor)
{
    struct text text = {.at = string, .end = string + strlen(string)};
    vd_error error = ERROR_SUCCESS;
    for (skip_spaces(&text); !error && text.at < text.end;
         skip_spaces(&text)) {
        error = parse_part(&text, descriptor);
    }
    return error;
}

/* Each part follows the one before; a part that is not there has offset 0. */
static void
put_sid(uint8_t *bytes, size_t header_at, bool given, const struct vd_sid *sid,
        size_t *size)
{
    if (given) {
        vd_put_le32(bytes + header_at, (uint32_t)*size);
        vd_sid_encode(sid, bytes + *size);
        *size += vd_sid_size(sid);
    }
}

static void
put_acl(uint8_t *bytes, size_t header_at, const struct acl *acl, size_t *size)
{
    if (acl->given && !acl->null) {
        vd_put_le32(bytes + header_at, (uint32_t)*size);
        memcpy(bytes + *size, acl->bytes, acl->size);
        *size += acl->size;
    }
}

static vd_error
encode(const struct descriptor *descriptor, uint8_t **out, ULONG *size_out)
{
    uint8_t *bytes = calloc(1, VD_SECURITY_SIZE_MAX);
    if (bytes == NULL) {
        return vd_refuse(ERROR_NOT_ENOUGH_MEMORY,
                         "no memory for a security descriptor");
    }
    size_t size = VD_SECURITY_HEADER_SIZE;
    bytes[0] = VD_SECURITY_REVISION;
    vd_put_le16(bytes + VD_SECURITY_CONTROL_AT,
                (uint16_t)(VD_SE_SELF_RELATIVE | descriptor->dacl.control |
                           descriptor->sacl.control));
    put_sid(bytes, VD_SECURITY_OWNER_AT, descriptor->has_owner,
            &descriptor->owner, &size);
    put_sid(bytes, VD_SECURITY_GROUP_AT, descriptor->has_group,
            &descriptor->group, &size);
    put_acl(bytes, VD_SECURITY_SACL_AT, &descriptor->sacl, &size);
    put_acl(bytes, VD_SECURITY_DACL_AT, &descriptor->dacl, &size);
    /* Shrinking: if there is no smaller block, the large one serves. */
    uint8_t *shrunk = realloc(bytes, size);
    *out = shrunk != NULL ? shrunk : bytes;
    *size_out = (ULONG)size;
    return ERROR_SUCCESS;
}

static vd_error
convert(const char *string, uint8_t **out, ULONG *size_out)
{
    struct descriptor descriptor = {0};
    vd_error error = parse_descriptor(string, &descriptor);
    if (!error) {
        error = encode(&descriptor, out, size_out);
    }
    free(descriptor.dacl.bytes);
    free(descriptor.sacl.bytes);
    return error;
}

static vd_error
convert_utf16(PCWSTR string, DWORD revision, uint8_t **out, ULONG *size_out)
{
    if (string == NULL) {
        return syntax("no text");
    }
    if (revision != SDDL_REVISION_1) {
        return vd_refuse(ERROR_UNKNOWN_REVISION, "SDDL revision %u", revision);
    }
    VD_AUTO_FREE char *bytes = NULL;
    vd_error error = vd_utf16_to_bytes(string, &bytes);
    if (error == ERROR_INVALID_NAME) {
        return syntax("not Unicode");
    }
    return error ? error : convert(bytes, out, size_out);
}

BOOL WINAPI
ConvertStringSecurityDescriptorToSecurityDescriptorW(
    LPCWSTR StringSecurityDescriptor, DWORD StringSDRevision,
    PSECURITY_DESCRIPTOR *SecurityDescriptor, PULONG SecurityDescriptorSize)
{
    uint8_t *bytes = NULL;
    ULONG size = 0;
    vd_error error = ERROR_INVALID_PARAMETER;
    if (SecurityDescriptor != NULL) {
        error = convert_utf16(StringSecurityDescriptor, StringSDRevision,
                              &bytes, &size);
    }
    if (error) {
        SetLastError(error);
        return FALSE;
    }
    *SecurityDescriptor = bytes;
    if (SecurityDescriptorSize != NULL) {
        *SecurityDescriptorSize = size;
    }
    return TRUE;
}
