/*
 * Security identifiers as bytes and as text.
 */
#include "api/sid.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include "api/refuse.h"
#include "base/bytes.h"
#include "base/cleanup.h"

#define SID_REVISION 1
#define SID_HEADER_SIZE 8
#define AUTHORITY_AT 2
#define AUTHORITY_BYTES 6
#define AUTHORITY_MAX 0xFFFFFFFFFFFFU

/* More than any passwd or group entry needs; a larger one is as none. */
#define ACCOUNT_BUFFER_FIRST 1024
#define ACCOUNT_BUFFER_MAX (1 << 20)

bool
vd_sid_equal(const struct vd_sid *a, const struct vd_sid *b)
{
    return a->authority == b->authority && a->count == b->count &&
           memcmp(a->sub_authorities, b->sub_authorities,
                  a->count * sizeof(a->sub_authorities[0])) == 0;
}

bool
vd_sid_decode(const uint8_t *bytes, size_t length, struct vd_sid *out)
{
    if (length < SID_HEADER_SIZE || bytes[0] != SID_REVISION ||
        bytes[1] > VD_SID_SUB_AUTHORITIES_MAX ||
        length - SID_HEADER_SIZE < bytes[1] * sizeof(uint32_t)) {
        return false;
    }
    struct vd_sid sid = {.count = bytes[1]};
    for (size_t i = 0; i < AUTHORITY_BYTES; i++) {
        sid.authority = sid.authority << 8 | bytes[AUTHORITY_AT + i];
    }
    for (size_t i = 0; i < sid.count; i++) {
        sid.sub_authorities[i] =
            vd_get_le32(bytes + SID_HEADER_SIZE + i * sizeof(uint32_t));
    }
    *out = sid;
    return true;
}

size_t
vd_sid_size(const struct vd_sid *sid)
{
    return SID_HEADER_SIZE + sid->count * sizeof(uint32_t);
}

void
vd_sid_encode(const struct vd_sid *sid, uint8_t *bytes)
{
    bytes[0] = SID_REVISION;
    bytes[1] = (uint8_t)sid->count;
    for (size_t i = 0; i < AUTHORITY_BYTES; i++) {
        bytes[AUTHORITY_AT + i] =
            (uint8_t)(sid->authority >> 8 * (AUTHORITY_BYTES - 1 - i));
    }
    for (size_t i = 0; i < sid->count; i++) {
        vd_put_le32(bytes + SID_HEADER_SIZE + i * sizeof(uint32_t),
                    sid->sub_authorities[i]);
    }
}

/* The names of [MS-DTYP] 2.5.1.1 whose SID does not depend on a domain. */
static const struct alias {
    char name[3];
    struct vd_sid sid;
} aliases[] = {
#define ALIAS(text, first, length, ...)                                       \
    {                                                                         \
        .name = text,                                                         \
        .sid = {.authority = (first),                                         \
                .count = (length),                                            \
                .sub_authorities = {__VA_ARGS__}},                            \
    }
#define BUILTIN(text, number) ALIAS(text, 5, 2, 32, number)
    ALIAS("WD", 1, 1, 0),  /* everyone */
    ALIAS("CO", 3, 1, 0),  /* creator owner */
    ALIAS("CG", 3, 1, 1),  /* creator group */
    ALIAS("OW", 3, 1, 4),  /* owner rights */
    ALIAS("NU", 5, 1, 2),  /* network */
    ALIAS("IU", 5, 1, 4),  /* interactive */
    ALIAS("SU", 5, 1, 6),  /* service */
    ALIAS("AN", 5, 1, 7),  /* anonymous */
    ALIAS("ED", 5, 1, 9),  /* enterprise domain controllers */
    ALIAS("PS", 5, 1, 10), /* principal self */
    ALIAS("AU", 5, 1, 11), /* authenticated users */
    ALIAS("RC", 5, 1, 12), /* restricted code */
    ALIAS("SY", 5, 1, 18), /* local system */
    ALIAS("LS", 5, 1, 19), /* local service */
    ALIAS("NS", 5, 1, 20), /* network service */
    ALIAS("WR", 5, 1, 33), /* write-restricted code */
    BUILTIN("BA", 544),    /* administrators */
    BUILTIN("BU", 545),    /* users */
    BUILTIN("BG", 546),    /* guests */
    BUILTIN("PU", 547),    /* power users */
    BUILTIN("AO", 548),    /* account operators */
    BUILTIN("SO", 549),    /* server operators */
    BUILTIN("PO", 550),    /* print operators */
    BUILTIN("BO", 551),    /* backup operators */
    BUILTIN("RE", 552),    /* replicator */
    BUILTIN("RU", 554),    /* pre-Windows 2000 compatible access */
    BUILTIN("RD", 555),    /* remote desktop users */
    BUILTIN("NO", 556),    /* network configuration operators */
    BUILTIN("MU", 558),    /* performance monitor users */
    BUILTIN("LU", 559),    /* performance log users */
    BUILTIN("IS", 568),    /* Internet users */
    BUILTIN("CY", 569),    /* cryptographic operators */
    BUILTIN("ER", 573),    /* event log readers */
    BUILTIN("CD", 574),    /* certificate service DCOM access */
    BUILTIN("RA", 575),    /* remote access servers */
    BUILTIN("ES", 576),    /* remote desktop endpoint servers */
    BUILTIN("MS", 577),    /* remote desktop management servers */
    BUILTIN("HA", 578),    /* Hyper-V administrators */
    BUILTIN("AA", 579),    /* access control assistance operators */
    BUILTIN("RM", 580),    /* remote management users */
    ALIAS("UD", 5, 6, 84, 0, 0, 0, 0, 0), /* user-mode drivers */
    ALIAS("AC", 15, 2, 2, 1),             /* all application packages */
    ALIAS("LW", 16, 1, 4096),             /* low integrity */
    ALIAS("ME", 16, 1, 8192),             /* medium integrity */
    ALIAS("MP", 16, 1, 8448),             /* medium plus integrity */
    ALIAS("HI", 16, 1, 12288),            /* high integrity */
    ALIAS("SI", 16, 1, 16384),            /* system integrity */
    ALIAS("AS", 18, 1, 1), /* authentication authority asserted identity */
    ALIAS("SS", 18, 1, 2), /* service asserted identity */
#undef BUILTIN
#undef ALIAS
};

static bool
find_alias(const char *text, struct vd_sid *out)
{
    for (size_t i = 0; i < sizeof(aliases) / sizeof(aliases[0]); i++) {
        if (strcmp(text, aliases[i].name) == 0) {
            *out = aliases[i].sid;
            return true;
        }
    }
    return false;
}

/* Below 16, or 16 for what is no digit. */
static unsigned
digit_value(char digit)
{
    if (digit >= '0' && digit <= '9') {
        return (unsigned)(digit - '0');
    }
    if (digit >= 'a' && digit <= 'f') {
        return (unsigned)(digit - 'a') + 10;
    }
    if (digit >= 'A' && digit <= 'F') {
        return (unsigned)(digit - 'A') + 10;
    }
    return 16;
}

/* A decimal number, or a hexadecimal one after 0x; moves *text past it. */
static bool
parse_number(const char **text, uint64_t maximum, uint64_t *out)
{
    bool hexadecimal = strncmp(*text, "0x", 2) == 0;
    unsigned base = hexadecimal ? 16 : 10;
    const char *at = *text + (hexadecimal ? 2 : 0);
    const char *first = at;
    uint64_t value = 0;
    for (; digit_value(*at) < base; at++) {
        /* maximum has at most 48 bits: no overflow before it is passed. */
        value = value * base + digit_value(*at);
        if (value > maximum) {
            return false;
        }
    }
    if (at == first) {
        return false;
    }
    *text = at;
    *out = value;
    return true;
}

/* What follows "S-1-". */
static bool
parse_sid(const char *text, struct vd_sid *out)
{
    struct vd_sid sid = {0};
    if (!parse_number(&text, AUTHORITY_MAX, &sid.authority)) {
        return false;
    }
    while (*text == '-' && sid.count < VD_SID_SUB_AUTHORITIES_MAX) {
        uint64_t value;
        text++;
        if (!parse_number(&text, UINT32_MAX, &value)) {
            return false;
        }
        sid.sub_authorities[sid.count++] = (uint32_t)value;
    }
    if (*text != '\0' || sid.count == 0) {
        return false;
    }
    *out = sid;
    return true;
}

/* One look-up with a buffer of that size: 0, or an errno value; ENOENT if
 * there is no such account. */
static int
find_user(const char *name, char *buffer, size_t size, uint32_t *id_out)
{
    struct passwd entry;
    struct passwd *found;
    int failed = getpwnam_r(name, &entry, buffer, size, &found);
    if (found == NULL) {
        return failed ? failed : ENOENT;
    }
    *id_out = entry.pw_uid;
    return 0;
}

static int
find_group(const char *name, char *buffer, size_t size, uint32_t *id_out)
{
    struct group entry;
    struct group *found;
    int failed = getgrnam_r(name, &entry, buffer, size, &found);
    if (found == NULL) {
        return failed ? failed : ENOENT;
    }
    *id_out = entry.gr_gid;
    return 0;
}

/* Both databases answer ERANGE when the buffer is too small. */
static bool
find_account(int (*find)(const char *name, char *buffer, size_t size,
                         uint32_t *id_out),
             const char *name, uint32_t *id_out)
{
    for (size_t size = ACCOUNT_BUFFER_FIRST; size <= ACCOUNT_BUFFER_MAX;
         size *= 2) {
        VD_AUTO_FREE char *buffer = malloc(size);
        int failed = buffer ? find(name, buffer, size, id_out) : ENOMEM;
        if (failed != ERANGE) {
            return failed == 0;
        }
    }
    return false;
}

static vd_error
sid_of_account(const char *name, enum vd_account_kind kind, struct vd_sid *out)
{
    uint32_t id;
    if (kind != VD_ACCOUNT_GROUP && find_account(find_user, name, &id)) {
        *out = VD_SID(VD_SID_UNIX_AUTHORITY, 2, VD_SID_UNIX_USER, id);
        return ERROR_SUCCESS;
    }
    if (kind != VD_ACCOUNT_USER && find_account(find_group, name, &id)) {
        *out = VD_SID(VD_SID_UNIX_AUTHORITY, 2, VD_SID_UNIX_GROUP, id);
        return ERROR_SUCCESS;
    }
    return vd_refuse(ERROR_NONE_MAPPED, "no account is called \"%s\"", name);
}

vd_error
vd_sid_from_text(const char *text, size_t length, enum vd_account_kind kind,
                 struct vd_sid *out)
{
    VD_AUTO_FREE char *copy = strndup(text, length);
    if (copy == NULL) {
        return vd_refuse(ERROR_NOT_ENOUGH_MEMORY, "no memory for a SID");
    }
    if (strncmp(copy, "S-1-", 4) == 0) {
        if (!parse_sid(copy + 4, out)) {
            return vd_refuse(ERROR_INVALID_SID, "\"%s\" is no SID", copy);
        }
        return ERROR_SUCCESS;
    }
    if (find_alias(copy, out)) {
        return ERROR_SUCCESS;
    }
    return sid_of_account(copy, kind, out);
}
