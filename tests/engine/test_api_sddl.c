/*
 * Security descriptors: from SDDL to bytes ([MS-DTYP] 2.4, 2.5.1), checking
 * of hostile ones, and what they mean for a device node (DESIGN 5.6).
 */
#include <pwd.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include <sddl.h>

#include "api/security.h"
#include "api_support.h"
#include "check.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* The converted descriptor, or NULL with the last error set. */
static uint8_t *
convert(const char *sddl, ULONG *size)
{
    PSECURITY_DESCRIPTOR descriptor = NULL;
    *size = 0;
    SetLastError(0);
    if (!ConvertStringSecurityDescriptorToSecurityDescriptorW(
            wide(sddl), SDDL_REVISION_1, &descriptor, size)) {
        CHECK(descriptor == NULL);
        CHECK_EQ(0, *size);
    }
    return descriptor;
}

/* -- bytes -- */

/* Microsoft's sample for virtual disks: O:BAG:BAD:(A;;GA;;;WD). */
static const uint8_t sample_bytes[] = {
    /* revision, Sbz1, Control = DACL present, self-relative */
    0x01,
    0x00,
    0x04,
    0x80,
    /* offsets of owner, group, SACL, DACL */
    0x14,
    0,
    0,
    0,
    0x24,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0x34,
    0,
    0,
    0,
    /* S-1-5-32-544, twice */
    1,
    2,
    0,
    0,
    0,
    0,
    0,
    5,
    0x20,
    0,
    0,
    0,
    0x20,
    0x02,
    0,
    0,
    1,
    2,
    0,
    0,
    0,
    0,
    0,
    5,
    0x20,
    0,
    0,
    0,
    0x20,
    0x02,
    0,
    0,
    /* ACL: revision 2, 28 bytes, one entry */
    2,
    0,
    28,
    0,
    1,
    0,
    0,
    0,
    /* allowed, no flags, 20 bytes, GENERIC_ALL, S-1-1-0 */
    0,
    0,
    20,
    0,
    0,
    0,
    0,
    0x10,
    1,
    1,
    0,
    0,
    0,
    0,
    0,
    1,
    0,
    0,
    0,
    0,
};

static void
test_bytes(void)
{
    ULONG size;
    uint8_t *bytes = convert("O:BAG:BAD:(A;;GA;;;WD)", &size);
    CHECK_EQ(sizeof(sample_bytes), size);
    CHECK_BYTES(sample_bytes, bytes, sizeof(sample_bytes));
    CHECK(IsValidSecurityDescriptor(bytes));
    CHECK_EQ(size, GetSecurityDescriptorLength(bytes));
    CHECK(LocalFree(bytes) == NULL);
    CHECK(LocalFree(NULL) == NULL);
}

/* Spaces and line breaks where they do no harm. */
static void
test_spaces(void)
{
    ULONG size;
    uint8_t *bytes =
        convert(" O: BA\r\n G:\tBA D: ( A ; ; GA ; ; ; WD )\n ", &size);
    CHECK_EQ(sizeof(sample_bytes), size);
    if (bytes != NULL) {
        CHECK_BYTES(sample_bytes, bytes, sizeof(sample_bytes));
    }
    LocalFree(bytes);
}

static const struct header_row {
    const char *sddl;
    uint16_t control;
    uint16_t dacl_entries; /* NONE: no ACL there */
    uint16_t sacl_entries;
} header_rows[] = {
#define NONE 0xFFFF
    {"", 0x8000, NONE, NONE},
    {"O:SY", 0x8000, NONE, NONE},
    {"D:", 0x8004, 0, NONE},
    {"D:P", 0x9004, 0, NONE},
    {"D:PARAI", 0x9504, 0, NONE},
    {"D:AIARP", 0x9504, 0, NONE},
    {"D:NO_ACCESS_CONTROL", 0x8004, NONE, NONE},
    {"D:PNO_ACCESS_CONTROL", 0x9004, NONE, NONE},
    {"D:S:", 0x8014, 0, 0},
    {" D: P S: ", 0x9014, 0, 0},
    {"S:P", 0xA010, NONE, 0},
    {"S:PARAI(AU;SAFA;GA;;;WD)", 0xAA10, NONE, 1},
    {"S:(AU;SA;GR;;;WD)D:(A;;GR;;;WD)(D;;GW;;;WD)G:SYO:BA", 0x8014, 2, 1},
};

static void
check_acl(const uint8_t *bytes, size_t offset_at, uint16_t entries)
{
    size_t offset = bytes[offset_at] | (size_t)bytes[offset_at + 1] << 8;
    if (entries == NONE) {
        CHECK_EQ(0, offset);
        return;
    }
    CHECK(offset >= 20);
    CHECK_EQ(2, bytes[offset]);
    CHECK_EQ(entries, bytes[offset + 4] | bytes[offset + 5] << 8);
}

static void
test_headers(void)
{
    for (size_t i = 0; i < COUNT(header_rows); i++) {
        const struct header_row *row = &header_rows[i];
        ULONG size;
        uint8_t *bytes = convert(row->sddl, &size);
        if (!CHECK(bytes != NULL)) {
            fprintf(stderr, "    SDDL %s\n", row->sddl);
            continue;
        }
        CHECK_EQ(row->control, bytes[2] | bytes[3] << 8);
        check_acl(bytes, 16, row->dacl_entries);
        check_acl(bytes, 12, row->sacl_entries);
        CHECK_EQ(size, GetSecurityDescriptorLength(bytes));
        LocalFree(bytes);
    }
}

/* The first entry of a DACL with these rights and this account. */
static const struct ace_row {
    const char *ace;
    uint8_t type;
    uint8_t flags;
    uint32_t mask;
    uint8_t sid[28];
    size_t sid_size;
} ace_rows[] = {
    {"(A;;GA;;;WD)", 0, 0, 0x10000000, {1, 1, [7] = 1, [8] = 0}, 12},
    {"(D;;GRGWGX;;;OW)", 1, 0, 0xE0000000, {1, 1, [7] = 3, [8] = 4}, 12},
    {"(AU;SAFA;FA;;;CO)", 2, 0xC0, 0x1F01FF, {1, 1, [7] = 3}, 12},
    {"(A;OICINPIOID;FRFWFX;;;CG)",
     0,
     0x1F,
     0x1201BF,
     {1, 1, [7] = 3, [8] = 1},
     12},
    {"(A;;RCSDWDWO;;;SY)", 0, 0, 0xF0000, {1, 1, [7] = 5, [8] = 18}, 12},
    {"(A;;CCDCLCSWRPWPDTLOCR;;;AU)",
     0,
     0,
     0x1FF,
     {1, 1, [7] = 5, [8] = 11},
     12},
    {"(A;;KAKRKWKX;;;LS)", 0, 0, 0xF003F, {1, 1, [7] = 5, [8] = 19}, 12},
    {"(A;;0x1f01FF;;;NS)", 0, 0, 0x1F01FF, {1, 1, [7] = 5, [8] = 20}, 12},
    {"(A;;0X80000000;;;AN)", 0, 0, 0x80000000, {1, 1, [7] = 5, [8] = 7}, 12},
    {"(A;;4294967295;;;IU)", 0, 0, 0xFFFFFFFF, {1, 1, [7] = 5, [8] = 4}, 12},
    {"(A;;017;;;NU)", 0, 0, 15, {1, 1, [7] = 5, [8] = 2}, 12},
    {"(A;;;;;SU)", 0, 0, 0, {1, 1, [7] = 5, [8] = 6}, 12},
    {"(A;;GA;;;BA)",
     0,
     0,
     0x10000000,
     {1, 2, [7] = 5, [8] = 32, [12] = 0x20, 2},
     16},
    {"(A;;GA;;;BU)",
     0,
     0,
     0x10000000,
     {1, 2, [7] = 5, [8] = 32, [12] = 0x21, 2},
     16},
    {"(A;;GA;;;AC)",
     0,
     0,
     0x10000000,
     {1, 2, [7] = 15, [8] = 2, [12] = 1},
     16},
    {"(A;;GA;;;LW)", 0, 0, 0x10000000, {1, 1, [7] = 16, [9] = 0x10}, 12},
    {"(A;;GA;;;S-1-5-32-545)",
     0,
     0,
     0x10000000,
     {1, 2, [7] = 5, [8] = 32, [12] = 0x21, 2},
     16},
    {"(A;;GA;;;S-1-0x010203040506-4294967295)",
     0,
     0,
     0x10000000,
     {1, 1, 1, 2, 3, 4, 5, 6, 0xFF, 0xFF, 0xFF, 0xFF},
     12},
    {"(A;;GA;;;S-1-22-1-1000)",
     0,
     0,
     0x10000000,
     {1, 2, [7] = 22, [8] = 1, [12] = 0xE8, 3},
     16},
    {"(A;;GA;;;S-1-22-0x2-0xfF)",
     0,
     0,
     0x10000000,
     {1, 2, [7] = 22, [8] = 2, [12] = 0xFF},
     16},
};

static void
check_ace(const struct ace_row *row, const uint8_t *ace)
{
    CHECK_EQ(row->type, ace[0]);
    CHECK_EQ(row->flags, ace[1]);
    CHECK_EQ(8 + row->sid_size, ace[2] | ace[3] << 8);
    for (size_t i = 0; i < 4; i++) {
        CHECK_EQ(row->mask >> 8 * i & 0xFF, ace[4 + i]);
    }
    CHECK_BYTES(row->sid, ace + 8, row->sid_size);
}

static void
test_aces(void)
{
    for (size_t i = 0; i < COUNT(ace_rows); i++) {
        char sddl[128];
        ULONG size;
        snprintf(sddl, sizeof(sddl), "D:%s", ace_rows[i].ace);
        uint8_t *bytes = convert(sddl, &size);
        if (!CHECK(bytes != NULL)) {
            fprintf(stderr, "    SDDL %s\n", sddl);
            continue;
        }
        CHECK_EQ(20 + 8 + 8 + ace_rows[i].sid_size, size);
        check_ace(&ace_rows[i], bytes + 28);
        LocalFree(bytes);
    }
}

/* -- errors -- */

static const struct error_row {
    const char *sddl;
    DWORD error;
} error_rows[] = {
    {"X", ERROR_INVALID_PARAMETER},
    {"X:", ERROR_INVALID_PARAMETER},
    {"D", ERROR_INVALID_PARAMETER},
    {"d:", ERROR_INVALID_PARAMETER},
    {"D :", ERROR_INVALID_PARAMETER},
    {"D:P AI", ERROR_INVALID_PARAMETER},
    {"D:(A;;G R;;;WD)", ERROR_INVALID_PARAMETER},
    {"D:(A;; ;;;W D)", ERROR_NONE_MAPPED},
    {"O: ", ERROR_INVALID_PARAMETER},
    {"D:(", ERROR_INVALID_PARAMETER},
    {"D:()", ERROR_INVALID_PARAMETER},
    {"D:(A)", ERROR_INVALID_PARAMETER},
    {"D:(A;;GA;;;WD", ERROR_INVALID_PARAMETER},
    {"D:(A;;GA;;WD)", ERROR_INVALID_PARAMETER},
    {"D:(A;;GA;;;;WD)", ERROR_INVALID_PARAMETER},
    {"D:(B;;GA;;;WD)", ERROR_INVALID_PARAMETER},
    {"D:(;;GA;;;WD)", ERROR_INVALID_PARAMETER},
    {"D:(a;;GA;;;WD)", ERROR_INVALID_PARAMETER},
    {"D:(A;XX;GA;;;WD)", ERROR_INVALID_PARAMETER},
    {"D:(A;;GG;;;WD)", ERROR_INVALID_PARAMETER},
    {"D:(A;;GAX;;;WD)", ERROR_INVALID_PARAMETER},
    {"D:(A;;0x;;;WD)", ERROR_INVALID_PARAMETER},
    {"D:(A;;0xG;;;WD)", ERROR_INVALID_PARAMETER},
    {"D:(A;;0x100000000;;;WD)", ERROR_INVALID_PARAMETER},
    {"D:(A;;99999999999999999999;;;WD)", ERROR_INVALID_PARAMETER},
    {"D:(A;;-1;;;WD)", ERROR_INVALID_PARAMETER},
    {"D:(A;;GA;00000000-0000-0000-0000-000000000000;;WD)",
     ERROR_INVALID_PARAMETER},
    {"D:(A;;GA;;x;WD)", ERROR_INVALID_PARAMETER},
    {"D:(A;;GA;;;WD)x", ERROR_INVALID_PARAMETER},
    {"D:(A;;GA;;;WD)D:", ERROR_INVALID_PARAMETER},
    {"S:S:", ERROR_INVALID_PARAMETER},
    {"O:BAO:BA", ERROR_INVALID_PARAMETER},
    {"G:BAG:BA", ERROR_INVALID_PARAMETER},
    {"O:", ERROR_INVALID_PARAMETER},
    {"O:G:BA", ERROR_INVALID_PARAMETER},
    {"O::", ERROR_INVALID_PARAMETER},
    {"O:BA:", ERROR_NONE_MAPPED}, /* "B" followed by a part called "A:" */
    {"D:NO_ACCESS_CONTROL(A;;GA;;;WD)", ERROR_INVALID_PARAMETER},
    {"O:S-1-", ERROR_INVALID_SID},
    {"O:S-1-5", ERROR_INVALID_SID},
    {"O:S-1-5-", ERROR_INVALID_SID},
    {"O:S-1-5-x", ERROR_INVALID_SID},
    {"O:S-1-5-0x", ERROR_INVALID_SID},
    {"O:S-1-5-0x0x1", ERROR_INVALID_SID},
    {"O:S-1-5-+1", ERROR_INVALID_SID},
    {"O:S-1-5-1-", ERROR_INVALID_SID},
    {"O:S-1-5-1 2", ERROR_INVALID_SID},
    {"O:S-1-5-4294967296", ERROR_INVALID_SID},
    {"O:S-1-0x1000000000000-1", ERROR_INVALID_SID},
    {"O:S-1-5-1-2-3-4-5-6-7-8-9-10-11-12-13-14-15-16", ERROR_INVALID_SID},
    {"D:(A;;GA;;;S-1-5)", ERROR_INVALID_SID},
    {"D:(A;;GA;;;)", ERROR_NONE_MAPPED},
    {"O:DA", ERROR_NONE_MAPPED}, /* relative to a domain */
    {"O:no-such-user", ERROR_NONE_MAPPED},
    {"G:no-such-group", ERROR_NONE_MAPPED},
    {"D:(A;;GA;;;no-such-account)", ERROR_NONE_MAPPED},
    {"D:(OA;;GA;bf967aba-0de6-11d0-a285-00aa003049e2;;WD)",
     ERROR_NOT_SUPPORTED},
    {"S:(ML;;NW;;;LW)", ERROR_NOT_SUPPORTED},
    {"D:(XA;;FX;;;WD;(@User.Project Any_of @Resource.Project))",
     ERROR_NOT_SUPPORTED},
    {"S:(RA;;;;;WD;(\"Secret\",TU,0,3))", ERROR_NOT_SUPPORTED},
};

static void
test_errors(void)
{
    for (size_t i = 0; i < COUNT(error_rows); i++) {
        ULONG size;
        uint8_t *bytes = convert(error_rows[i].sddl, &size);
        DWORD error = GetLastError();
        if (!CHECK(bytes == NULL) || !CHECK_EQ(error_rows[i].error, error)) {
            fprintf(stderr, "    SDDL %s\n", error_rows[i].sddl);
        }
        LocalFree(bytes);
    }
}

static void
check_refused(PCWSTR text, DWORD revision, PSECURITY_DESCRIPTOR *out,
              DWORD expected)
{
    SetLastError(0);
    CHECK(!ConvertStringSecurityDescriptorToSecurityDescriptorW(text, revision,
                                                                out, NULL));
    CHECK_EQ(expected, GetLastError());
}

static void
test_arguments(void)
{
    PSECURITY_DESCRIPTOR out = NULL;
    static const char16_t lone_surrogate[] = {'O', ':', 0xD800, 0};
    check_refused(NULL, SDDL_REVISION_1, &out, ERROR_INVALID_PARAMETER);
    check_refused(u"D:", SDDL_REVISION_1, NULL, ERROR_INVALID_PARAMETER);
    check_refused(u"D:", 0, &out, ERROR_UNKNOWN_REVISION);
    check_refused(u"D:", 2, &out, ERROR_UNKNOWN_REVISION);
    check_refused(lone_surrogate, SDDL_REVISION_1, &out,
                  ERROR_INVALID_PARAMETER);
    CHECK(out == NULL);
    CHECK(ConvertStringSecurityDescriptorToSecurityDescriptorW(
        u"D:", SDDL_REVISION_1, &out, NULL));
    LocalFree(out);
}

/* An ACL ends at 64 KiB: 3,276 entries of 20 bytes fit into it. */
static void
test_long_acl(void)
{
    static const char ace[] = "(A;;GA;;;WD)";
    enum { FIT = (0xFFFC - 8) / 20, LENGTH = sizeof(ace) - 1 };
    static char16_t text[2 + (FIT + 1) * LENGTH + 1];
    PSECURITY_DESCRIPTOR descriptor = NULL;
    ULONG size = 0;
    text[0] = 'D';
    text[1] = ':';
    for (size_t i = 0; i < (FIT + 1) * LENGTH; i++) {
        text[2 + i] = (unsigned char)ace[i % LENGTH];
    }
    check_refused(text, SDDL_REVISION_1, &descriptor, ERROR_INVALID_ACL);
    text[2 + FIT * LENGTH] = 0;
    CHECK(ConvertStringSecurityDescriptorToSecurityDescriptorW(
        text, SDDL_REVISION_1, &descriptor, &size));
    CHECK_EQ(20 + 8 + FIT * 20, size);
    CHECK_EQ(size, GetSecurityDescriptorLength(descriptor));
    LocalFree(descriptor);
}

static void
test_out_of_memory(void)
{
    bool failed = true;
    for (int successes = 0; failed; successes++) {
        ULONG size;
        check_fail_allocation(successes);
        uint8_t *bytes = convert("O:S-1-22-1-5G:BAD:(A;;GA;;;WD)S:", &size);
        DWORD error = GetLastError();
        failed = check_fail_allocation(-1);
        /* Only for making the result smaller is memory not needed. */
        CHECK(bytes != NULL || (failed && error == ERROR_NOT_ENOUGH_MEMORY));
        CHECK(successes > 5 || failed);
        LocalFree(bytes);
    }
}

/* -- accounts -- */

static void
check_sid_text(const char *sddl, size_t offset_at, uint32_t kind, uint32_t id)
{
    ULONG size;
    uint8_t *bytes = convert(sddl, &size);
    if (!CHECK(bytes != NULL)) {
        return;
    }
    const uint8_t *sid = bytes + bytes[offset_at];
    uint8_t expected[16] = {1,
                            2,
                            [7] = 22,
                            [8] = (uint8_t)kind,
                            [12] = (uint8_t)id,
                            (uint8_t)(id >> 8),
                            (uint8_t)(id >> 16),
                            (uint8_t)(id >> 24)};
    CHECK_BYTES(expected, sid, sizeof(expected));
    LocalFree(bytes);
}

static void
test_accounts(void)
{
    const struct passwd *user = getpwnam("nobody");
    const struct group *group = getgrnam("disk");
    if (user == NULL || group == NULL) {
        check_skip("needs the user nobody and the group disk");
    }
    check_sid_text("O:nobody", 4, 1, user->pw_uid);
    check_sid_text("O:nobodyG:diskD:", 4, 1, user->pw_uid);
    check_sid_text("O:nobodyG:diskD:", 8, 2, group->gr_gid);
    check_sid_text("G:disk", 8, 2, group->gr_gid);
    ULONG size;
    CHECK(convert("G:nobody", &size) == NULL); /* Debian: nogroup */
    CHECK_EQ(ERROR_NONE_MAPPED, GetLastError());
    CHECK(convert("O:disk", &size) == NULL);
    CHECK_EQ(ERROR_NONE_MAPPED, GetLastError());
    struct vd_sid sid;
    CHECK_OK(vd_sid_from_text("nobody", 6, VD_ACCOUNT_ANY, &sid));
    CHECK_EQ(VD_SID_UNIX_USER, sid.sub_authorities[0]);
    CHECK_OK(vd_sid_from_text("disk!", 4, VD_ACCOUNT_ANY, &sid));
    CHECK_EQ(VD_SID_UNIX_GROUP, sid.sub_authorities[0]);
    CHECK_EQ(group->gr_gid, sid.sub_authorities[1]);
}

/* -- what they mean -- */

#define OWNED "O:S-1-22-1-33G:S-1-22-2-44"

static const struct access_row {
    const char *sddl;
    DWORD error;
    uid_t uid;
    gid_t gid;
    mode_t mode;
} access_rows[] = {
    {OWNED, 0, 33, 44, 0666},
    {OWNED "D:NO_ACCESS_CONTROL", 0, 33, 44, 0666},
    {OWNED "D:", 0, 33, 44, 0000},
    {OWNED "D:P(A;;GA;;;WD)", 0, 33, 44, 0666},
    {OWNED "D:PAI(A;ID;GR;;;WD)", 0, 33, 44, 0444},
    {OWNED "D:(A;;GW;;;WD)", 0, 33, 44, 0222},
    {OWNED "D:(A;;GA;;;OW)", 0, 33, 44, 0600},
    {OWNED "D:(A;;GA;;;CO)", 0, 33, 44, 0600},
    {OWNED "D:(A;;GA;;;S-1-22-1-33)", 0, 33, 44, 0600},
    {OWNED "D:(A;;GA;;;CG)", 0, 33, 44, 0060},
    {OWNED "D:(A;;GA;;;S-1-22-2-44)", 0, 33, 44, 0060},
    {OWNED "D:(A;;GA;;;OW)(A;;GR;;;CG)", 0, 33, 44, 0640},
    {OWNED "D:(A;;FA;;;OW)(A;;FR;;;WD)", 0, 33, 44, 0644},
    {OWNED "D:(A;;FW;;;OW)", 0, 33, 44, 0200},
    {OWNED "D:(A;;0x1;;;OW)(A;;0x2;;;CG)", 0, 33, 44, 0420},
    {OWNED "D:(A;;GRGX;;;WD)", 0, 33, 44, 0444},
    /* the first entry that speaks of a right decides */
    {OWNED "D:(D;;GW;;;WD)(A;;GA;;;WD)", 0, 33, 44, 0444},
    {OWNED "D:(A;;GA;;;WD)(D;;GA;;;WD)", 0, 33, 44, 0666},
    {OWNED "D:(A;;GA;;;OW)(D;;GW;;;WD)(A;;GA;;;WD)", 0, 33, 44, 0644},
    {OWNED "D:(D;;GA;;;CG)(A;;GA;;;WD)", 0, 33, 44, 0606},
    {OWNED "D:(A;;GR;;;OW)(D;;GA;;;OW)(A;;GA;;;OW)", 0, 33, 44, 0400},
    /* root may anyway */
    {OWNED "D:P(A;;GA;;;BA)", 0, 33, 44, 0000},
    {OWNED "D:P(A;;GA;;;SY)(A;;GA;;;BA)(A;;GR;;;OW)", 0, 33, 44, 0400},
    {"O:BAG:BAD:(A;;GA;;;BA)", 0, 0, 0, 0000},
    {"O:SYG:SYD:(A;;GA;;;OW)", 0, 0, 0, 0600},
    {"O:S-1-22-1-4294967294G:S-1-22-2-4294967294D:", 0, 4294967294, 4294967294,
     0},
    /* what owner, group and mode cannot say */
    {OWNED "D:(D;;GA;;;BA)", ERROR_NOT_SUPPORTED, 0, 0, 0},
    {OWNED "D:(D;;GA;;;SY)", ERROR_NOT_SUPPORTED, 0, 0, 0},
    {OWNED "D:(A;;GA;;;AU)", ERROR_NOT_SUPPORTED, 0, 0, 0},
    {OWNED "D:(A;;GA;;;BU)", ERROR_NOT_SUPPORTED, 0, 0, 0},
    {OWNED "D:(A;;GA;;;WD)(A;;GA;;;AC)", ERROR_NOT_SUPPORTED, 0, 0, 0},
    {OWNED "D:(A;;GA;;;S-1-22-1-34)", ERROR_NOT_SUPPORTED, 0, 0, 0},
    {OWNED "D:(A;;GA;;;S-1-22-2-33)", ERROR_NOT_SUPPORTED, 0, 0, 0},
    {OWNED "D:(A;;GA;;;S-1-22-3-33)", ERROR_NOT_SUPPORTED, 0, 0, 0},
    {OWNED "D:(A;;GX;;;WD)", ERROR_NOT_SUPPORTED, 0, 0, 0},
    {OWNED "D:(A;;;;;WD)", ERROR_NOT_SUPPORTED, 0, 0, 0},
    {OWNED "D:(A;;SDRCWDWO;;;WD)", ERROR_NOT_SUPPORTED, 0, 0, 0},
    {OWNED "D:(D;;WD;;;WD)", ERROR_NOT_SUPPORTED, 0, 0, 0},
    {OWNED "D:(A;OI;GA;;;WD)", ERROR_NOT_SUPPORTED, 0, 0, 0},
    {OWNED "D:(A;CI;GA;;;WD)", ERROR_NOT_SUPPORTED, 0, 0, 0},
    {OWNED "D:(A;IO;GA;;;WD)", ERROR_NOT_SUPPORTED, 0, 0, 0},
    {OWNED "D:(A;NP;GA;;;WD)", ERROR_NOT_SUPPORTED, 0, 0, 0},
    {OWNED "D:(A;SA;GA;;;WD)", ERROR_NOT_SUPPORTED, 0, 0, 0},
    {OWNED "D:(AU;SA;GA;;;WD)", ERROR_NOT_SUPPORTED, 0, 0, 0},
    {OWNED "D:S:", ERROR_NOT_SUPPORTED, 0, 0, 0},
    {OWNED "S:(AU;SA;GA;;;WD)", ERROR_NOT_SUPPORTED, 0, 0, 0},
    {"O:WD", ERROR_NOT_SUPPORTED, 0, 0, 0},
    {"O:S-1-22-2-33", ERROR_NOT_SUPPORTED, 0, 0, 0},
    {"G:S-1-22-1-33", ERROR_NOT_SUPPORTED, 0, 0, 0},
    {"O:S-1-22-1-4294967295", ERROR_NOT_SUPPORTED, 0, 0, 0},
    {"G:S-1-22-2-4294967295", ERROR_NOT_SUPPORTED, 0, 0, 0},
    {"O:S-1-22-1-33-1", ERROR_NOT_SUPPORTED, 0, 0, 0},
    {"O:S-1-5-21-1-2-3-500", ERROR_NOT_SUPPORTED, 0, 0, 0},
};

static void
check_access(const struct access_row *row)
{
    struct vd_node_access access = {.set = false};
    ULONG size;
    uint8_t *bytes = convert(row->sddl, &size);
    bool good = CHECK(bytes != NULL);
    if (good) {
        good = CHECK_EQ(row->error, vd_security_access(bytes, NULL, &access));
    }
    good &= CHECK_EQ(row->error == 0, access.set);
    good &= CHECK_EQ(row->uid, access.uid);
    good &= CHECK_EQ(row->gid, access.gid);
    good &= CHECK_EQ(row->mode, access.mode);
    if (!good) {
        fprintf(stderr, "    SDDL %s\n", row->sddl);
    }
    LocalFree(bytes);
}

static void
test_access(void)
{
    for (size_t i = 0; i < COUNT(access_rows); i++) {
        check_access(&access_rows[i]);
    }
}

/* Without owner and group in it: the caller's. */
static void
test_default_owner(void)
{
    struct vd_node_access access;
    ULONG size;
    uint8_t *bytes = convert("D:(A;;GA;;;OW)", &size);
    CHECK_OK(vd_security_access(bytes, NULL, &access));
    CHECK_EQ(geteuid(), access.uid);
    CHECK_EQ(getegid(), access.gid);
    CHECK_EQ(0600, access.mode);
    LocalFree(bytes);
}

static void
test_no_descriptor(void)
{
    struct stat image = {
        .st_uid = 1234, .st_gid = 2345, .st_mode = S_IFREG | 06751};
    struct vd_node_access access;
    CHECK_OK(vd_security_access(NULL, &image, &access));
    CHECK(access.set);
    CHECK_EQ(1234, access.uid);
    CHECK_EQ(2345, access.gid);
    CHECK_EQ(0640, access.mode);
}

/* -- hostile bytes -- */

/* In memory of exactly that size, so that the sanitizer sees a step past
 * the end. */
static vd_error
parse_copy(const uint8_t *bytes, size_t length)
{
    struct vd_security security;
    uint8_t *copy = malloc(length + (length == 0));
    memcpy(copy, bytes, length);
    vd_error error = vd_security_parse(copy, length, &security);
    if (!error && security.dacl != NULL) {
        struct vd_ace_cursor cursor = vd_ace_first(security.dacl);
        struct vd_ace ace;
        while (vd_ace_next(&cursor, &ace)) {
            CHECK(ace.has_sid == (ace.type <= VD_ACE_AUDIT));
        }
    }
    CHECK(error || security.length <= length);
    free(copy);
    return error;
}

static void
test_truncated(void)
{
    for (size_t length = 0; length < sizeof(sample_bytes); length++) {
        CHECK_EQ(ERROR_INVALID_SECURITY_DESCR,
                 parse_copy(sample_bytes, length));
    }
    CHECK_OK(parse_copy(sample_bytes, sizeof(sample_bytes)));
}

/* One byte of the sample changed. */
static const struct damage_row {
    size_t at;
    uint8_t value;
    DWORD error;
} damage_rows[] = {
    {0, 0, ERROR_INVALID_SECURITY_DESCR},        /* revision */
    {0, 2, ERROR_INVALID_SECURITY_DESCR},        /* revision */
    {3, 0, ERROR_INVALID_SECURITY_DESCR},        /* absolute */
    {4, 0, 0},                                   /* no owner */
    {4, 19, ERROR_INVALID_SECURITY_DESCR},       /* owner inside the header */
    {4, 0x50, ERROR_INVALID_SECURITY_DESCR},     /* owner past the end */
    {7, 0xFF, ERROR_INVALID_SECURITY_DESCR},     /* owner far away */
    {8, 0x24 + 1, ERROR_INVALID_SECURITY_DESCR}, /* group where none is */
    {12, 1, 0},                               /* SACL not said to be there */
    {2, 0x14, 0},                             /* SACL said to be there, NULL */
    {16, 4, ERROR_INVALID_SECURITY_DESCR},    /* DACL inside the header */
    {19, 0x80, ERROR_INVALID_SECURITY_DESCR}, /* DACL far away */
    {20, 2, ERROR_INVALID_SECURITY_DESCR},    /* revision of a SID */
    {21, 16, ERROR_INVALID_SECURITY_DESCR},   /* 16 subauthorities */
    {21, 15, ERROR_INVALID_SECURITY_DESCR},   /* they reach past the end */
    {21, 0, 0},
    {52, 1, ERROR_INVALID_SECURITY_DESCR}, /* revision of an ACL */
    {52, 4, 0},
    {54, 7, ERROR_INVALID_SECURITY_DESCR},  /* ACL shorter than its header */
    {54, 27, ERROR_INVALID_SECURITY_DESCR}, /* than its entry */
    {54, 29, ERROR_INVALID_SECURITY_DESCR}, /* than what there is */
    {56, 0, 0},
    {56, 2, ERROR_INVALID_SECURITY_DESCR}, /* more entries than room */
    {62, 0, ERROR_INVALID_SECURITY_DESCR}, /* an entry of no size */
    {62, 3, ERROR_INVALID_SECURITY_DESCR},
    {62, 4, ERROR_INVALID_SECURITY_DESCR},  /* no room for the mask */
    {62, 16, ERROR_INVALID_SECURITY_DESCR}, /* no room for the SID */
    {62, 18, ERROR_INVALID_SECURITY_DESCR}, /* not a multiple of 4 */
    {62, 24, ERROR_INVALID_SECURITY_DESCR}, /* past the ACL */
    {68, 0, ERROR_INVALID_SECURITY_DESCR},  /* SID of the entry */
};

static void
test_damaged(void)
{
    for (size_t i = 0; i < COUNT(damage_rows); i++) {
        const struct damage_row *row = &damage_rows[i];
        uint8_t bytes[sizeof(sample_bytes)];
        memcpy(bytes, sample_bytes, sizeof(bytes));
        bytes[row->at] = row->value;
        if (!CHECK_EQ(row->error, parse_copy(bytes, sizeof(bytes)))) {
            fprintf(stderr, "    byte %zu = %u\n", row->at, row->value);
        }
    }
}

static void
test_win32_calls_on_damaged(void)
{
    uint8_t bytes[VD_SECURITY_SIZE_MAX] = {0};
    struct vd_node_access access;
    CHECK(!IsValidSecurityDescriptor(NULL));
    CHECK_EQ(0, GetSecurityDescriptorLength(NULL));
    CHECK(!IsValidSecurityDescriptor(bytes));
    CHECK_EQ(0, GetSecurityDescriptorLength(bytes));
    CHECK_EQ(ERROR_INVALID_SECURITY_DESCR,
             vd_security_access(bytes, NULL, &access));
    memcpy(bytes, sample_bytes, sizeof(sample_bytes));
    CHECK(IsValidSecurityDescriptor(bytes));
    /* The last offset at which a descriptor can have an owner. */
    bytes[4] = 0xFF;
    bytes[5] = 0xFF;
    bytes[6] = 0xFF;
    CHECK(!IsValidSecurityDescriptor(bytes));
}

/* An entry of a type without a SID that is known here is passed over when
 * checked, and is what owner, group and mode cannot say. */
static void
test_unknown_entry(void)
{
    uint8_t bytes[VD_SECURITY_SIZE_MAX] = {0};
    struct vd_node_access access;
    memcpy(bytes, sample_bytes, sizeof(sample_bytes));
    bytes[60] = 5; /* ACCESS_ALLOWED_OBJECT_ACE */
    CHECK(IsValidSecurityDescriptor(bytes));
    CHECK_EQ(ERROR_NOT_SUPPORTED, vd_security_access(bytes, NULL, &access));
}

static uint32_t
next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

static void
test_random_damage(void)
{
    uint32_t state = 2463534242;
    unsigned valid = 0;
    for (int i = 0; i < 50000; i++) {
        uint8_t bytes[sizeof(sample_bytes)];
        memcpy(bytes, sample_bytes, sizeof(bytes));
        for (uint32_t n = next_random(&state) % 4; n > 0; n--) {
            bytes[next_random(&state) % sizeof(bytes)] =
                (uint8_t)next_random(&state);
        }
        valid += parse_copy(bytes, sizeof(bytes)) == ERROR_SUCCESS;
    }
    CHECK(valid > 0);
}

/* Text with a few letters changed: whatever is accepted is a descriptor. */
static void
test_random_text(void)
{
    static const char letters[] = "AUDOGS:();-0x19WDBYPIRCFMNE ";
    static const char start[] =
        "O:BAG:S-1-22-2-7D:PAI(A;ID;GRGW;;;WD)(D;;0x1F;;;OW)S:(AU;SA;GA;;;SY)";
    uint32_t state = 88172645;
    unsigned valid = 0;
    for (int i = 0; i < 50000; i++) {
        char text[sizeof(start)];
        ULONG size;
        memcpy(text, start, sizeof(text));
        for (uint32_t n = 1 + next_random(&state) % 3; n > 0; n--) {
            text[next_random(&state) % (sizeof(text) - 1)] =
                letters[next_random(&state) % (sizeof(letters) - 1)];
        }
        uint8_t *bytes = convert(text, &size);
        if (bytes != NULL) {
            CHECK_OK(parse_copy(bytes, size));
            CHECK_EQ(size, GetSecurityDescriptorLength(bytes));
            valid++;
        }
        LocalFree(bytes);
    }
    CHECK(valid > 0);
}

int
main(void)
{
    test_bytes();
    test_spaces();
    test_headers();
    test_aces();
    test_errors();
    test_arguments();
    test_long_acl();
    test_out_of_memory();
    test_access();
    test_default_owner();
    test_no_descriptor();
    test_truncated();
    test_damaged();
    test_win32_calls_on_damaged();
    test_unknown_entry();
    test_random_damage();
    test_random_text();
    test_accounts();
    return check_result();
}
