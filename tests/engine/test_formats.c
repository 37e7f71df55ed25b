/* Which format a file is: by content, by name, and when two claim it. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "format/format.h"
#include "memory_file.h"
#include "vhd_bytes.h"

#define NOT_FOUND 0xC03A0014
#define SIZE 65536

static uint8_t content[SIZE + FOOTER];

static void
put_iso(void)
{
    memcpy(content + 32768,
           "\x01"
           "CD001\x01",
           7);
}

static vd_error
find(uint32_t device_id, const struct vd_format **out)
{
    struct memory_file memory = memory_file_over(content, sizeof(content));
    *out = NULL;
    return vd_format_find(&memory.file, device_id, out);
}

static void
content_decides(void)
{
    const struct vd_format *format;
    memset(content, 0, sizeof(content));
    CHECK_EQ(NOT_FOUND, find(0, &format));
    CHECK(format == NULL);
    put_iso();
    CHECK_OK(find(0, &format));
    CHECK(format == &vd_iso_format);
    memset(content, 0, sizeof(content));
    put_simple_footer(content + SIZE, SIZE, 2);
    CHECK_OK(find(0, &format));
    CHECK(format == &vd_vhd_format);
    memset(content, 0, sizeof(content));
    memcpy(content, "vhdxfile", 8);
    CHECK_OK(find(0, &format));
    CHECK(format == &vd_vhdx_format);
}

/* A fixed VHD that holds a VHDX. */
static void
a_nested_image_is_no_proof(void)
{
    const struct vd_format *format;
    memset(content, 0, sizeof(content));
    memcpy(content, "vhdxfile", 8);
    put_simple_footer(content + SIZE, SIZE, 2);
    CHECK_EQ(NOT_FOUND, find(0, &format));
    CHECK_OK(find(2, &format));
    CHECK(format == &vd_vhd_format);
}

/* A fixed VHD that holds a disc image. */
static void
two_claims_are_none(void)
{
    const struct vd_format *format;
    put_simple_footer(content + SIZE, SIZE, 2);
    put_iso();
    CHECK_EQ(NOT_FOUND, find(0, &format));
    CHECK(format == NULL);
    CHECK_OK(find(2, &format));
    CHECK(format == &vd_vhd_format);
    CHECK_OK(find(1, &format));
    CHECK(format == &vd_iso_format);
}

static void
a_named_format_is_not_looked_for(void)
{
    const struct vd_format *format;
    memset(content, 0, sizeof(content));
    CHECK_OK(find(1, &format));
    CHECK(format == &vd_iso_format);
    CHECK_OK(find(2, &format));
    CHECK(format == &vd_vhd_format);
    CHECK_OK(find(3, &format));
    CHECK(format == &vd_vhdx_format);
    CHECK_EQ(NOT_FOUND, find(4, &format));
    CHECK_EQ(NOT_FOUND, find(UINT32_MAX, &format));
}

static void
an_unreadable_file_is_no_unknown_one(void)
{
    const struct vd_format *format = NULL;
    struct memory_file memory = memory_file_over(content, sizeof(content));
    for (int n = 0; n < 7; n++) { /* ISO: 2 operations, VHD: 4, VHDX */
        memory.operations_left = n;
        CHECK_EQ(1117, vd_format_find(&memory.file, 0, &format));
    }
    CHECK(format == NULL);
}

int
main(void)
{
    content_decides();
    two_claims_are_none();
    a_nested_image_is_no_proof();
    a_named_format_is_not_looked_for();
    an_unreadable_file_is_no_unknown_one();
    return check_result();
}
