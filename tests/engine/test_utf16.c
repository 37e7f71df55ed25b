/*
 * UTF-16 <-> path bytes: the cases by name.  test_engine.py compares many
 * more with Python's own codecs.
 */
#include <stdlib.h>
#include <string.h>

#include "base/utf16.h"
#include "check.h"

static size_t
count_units(const char16_t *text)
{
    size_t count = 0;
    while (text[count] != 0) {
        count++;
    }
    return count;
}

static void
check_both_ways(const char *bytes, const char16_t *text)
{
    char16_t *units = NULL;
    char *back = NULL;
    size_t count = 12345;
    CHECK_OK(vd_utf16_from_bytes(bytes, &units, &count));
    CHECK_EQ(count_units(text), count);
    CHECK_BYTES(text, units, (count_units(text) + 1) * sizeof(char16_t));
    CHECK_OK(vd_utf16_to_bytes(text, &back));
    CHECK_STR(bytes, back);
    free(units);
    free(back);
}

static void
valid_text_goes_both_ways(void)
{
    check_both_ways("", u"");
    check_both_ways("/tmp/a b.iso", u"/tmp/a b.iso");
    check_both_ways("\x7F", u"\x7F");
    check_both_ways("\xC2\x80", u"\x80");
    check_both_ways("\xDF\xBF", u"\x7FF");
    check_both_ways("\xE0\xA0\x80", u"\x800");
    check_both_ways("\xED\x9F\xBF", u"\xD7FF");
    check_both_ways("\xEE\x80\x80", u"\xE000");
    check_both_ways("\xEF\xBF\xBF", u"\xFFFF");
    check_both_ways("\xF0\x90\x80\x80", u"\xD800\xDC00");
    check_both_ways("\xF4\x8F\xBF\xBF", u"\xDBFF\xDFFF");
}

static void
other_bytes_are_escaped_one_by_one(void)
{
    check_both_ways("\x80", u"\xDC80");
    check_both_ways("\xFF"
                    "a",
                    u"\xDCFF"
                    u"a");
    /* overlong */
    check_both_ways("\xC0\x80", u"\xDCC0\xDC80");
    check_both_ways("\xC1\xBF", u"\xDCC1\xDCBF");
    check_both_ways("\xE0\x9F\xBF", u"\xDCE0\xDC9F\xDCBF");
    check_both_ways("\xF0\x8F\xBF\xBF", u"\xDCF0\xDC8F\xDCBF\xDCBF");
    /* encoded surrogates */
    check_both_ways("\xED\xA0\x80", u"\xDCED\xDCA0\xDC80");
    check_both_ways("\xED\xBF\xBF", u"\xDCED\xDCBF\xDCBF");
    /* above U+10FFFF */
    check_both_ways("\xF4\x90\x80\x80", u"\xDCF4\xDC90\xDC80\xDC80");
    check_both_ways("\xF5\x80\x80\x80", u"\xDCF5\xDC80\xDC80\xDC80");
    /* cut short, at the end and before something else */
    check_both_ways("\xE2\x82", u"\xDCE2\xDC82");
    check_both_ways("\xF0\x9F\x98"
                    "A",
                    u"\xDCF0\xDC9F\xDC98"
                    u"A");
    check_both_ways("\xC3\xC3\xA9", u"\xDCC3\xE9");
}

static void
other_lone_surrogates_are_no_name(void)
{
    static const char16_t bad[][4] = {
        {0xD800, 0},
        {0xDBFF, 'a', 0},
        {'a', 0xDC00, 0},
        {0xDC7F, 0},
        {0xDD00, 0},
        {0xDFFF, 'a', 0},
        {0xD800, 0xD800, 0xDC00},
        {0xD83D, 0},
        {0xD83D, 0xDBFF, 0},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char *bytes = (char *)"untouched";
        CHECK_EQ(123, vd_utf16_to_bytes(bad[i], &bytes));
        CHECK_STR("untouched", bytes);
    }
}

static void
escapes_may_make_a_character(void)
{
    /* As os.fsencode: the bytes are what counts. */
    char *bytes = NULL;
    CHECK_OK(vd_utf16_to_bytes(u"\xDCC3\xDCA9", &bytes));
    CHECK_STR("\xC3\xA9", bytes);
    free(bytes);
}

static void
the_count_is_optional(void)
{
    char16_t *units = NULL;
    CHECK_OK(vd_utf16_from_bytes("x", &units, NULL));
    CHECK_EQ('x', units[0]);
    free(units);
}

static void
want_of_memory_is_reported(void)
{
    char16_t *units = NULL;
    char *bytes = NULL;
    check_fail_allocation(0);
    CHECK_EQ(8, vd_utf16_from_bytes("x", &units, NULL));
    CHECK(check_fail_allocation(0));
    CHECK_EQ(8, vd_utf16_to_bytes(u"x", &bytes));
    CHECK(check_fail_allocation(-1));
    CHECK(units == NULL && bytes == NULL);
}

int
main(void)
{
    valid_text_goes_both_ways();
    other_bytes_are_escaped_one_by_one();
    other_lone_surrogates_are_no_name();
    escapes_may_make_a_character();
    the_count_is_optional();
    want_of_memory_is_reported();
    return check_result();
}
