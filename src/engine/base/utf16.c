/*
 * UTF-16 <-> Linux path bytes, strict in both directions: no overlong forms,
 * no encoded surrogates, nothing above U+10FFFF (RFC 3629, RFC 2781), and
 * what is not UTF-8 escaped byte by byte (PEP 383).
 *
 * Bytes -> UTF-16 -> bytes is the identity for every byte string.
 */
#include "base/utf16.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

#define HIGH_FIRST 0xD800u
#define LOW_FIRST 0xDC00u
#define LOW_LAST 0xDFFFu
#define ESCAPE_BASE 0xDC00u /* plus the byte, 0x80..0xFF */
#define SUPPLEMENTARY_FIRST 0x10000u
#define CODE_POINT_LAST 0x10FFFFu

/* Bytes that one unit can become: U+FFFF takes three, a pair takes four. */
#define BYTES_PER_UNIT 3

static bool
is_high_surrogate(uint32_t unit)
{
    return unit >= HIGH_FIRST && unit < LOW_FIRST;
}

static bool
is_low_surrogate(uint32_t unit)
{
    return unit >= LOW_FIRST && unit <= LOW_LAST;
}

static size_t
count_units(const char16_t *text)
{
    size_t count = 0;
    while (text[count] != 0) {
        count++;
    }
    return count;
}

static size_t
utf8_length(uint32_t code_point)
{
    if (code_point < 0x80) {
        return 1;
    }
    if (code_point < 0x800) {
        return 2;
    }
    return code_point < SUPPLEMENTARY_FIRST ? 3 : 4;
}

/* Returns how many bytes were written: 1..4. */
static size_t
put_utf8(uint32_t code_point, char *out)
{
    size_t length = utf8_length(code_point);
    if (length == 1) {
        out[0] = (char)code_point;
        return 1;
    }
    for (size_t i = length - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (code_point & 0x3F));
        code_point >>= 6;
    }
    /* The lead byte starts with as many ones as there are bytes. */
    out[0] = (char)((0xF00u >> length & 0xFF) | code_point);
    return length;
}

/* One character: *units_out units taken, *bytes_out bytes given. */
static vd_error
put_character(const char16_t *text, char *out, size_t *units_out,
              size_t *bytes_out)
{
    uint32_t unit = text[0];
    *units_out = 1;
    if (is_high_surrogate(unit) && is_low_surrogate(text[1])) {
        uint32_t code_point = SUPPLEMENTARY_FIRST +
                              ((unit - HIGH_FIRST) << 10) +
                              (text[1] - LOW_FIRST);
        *units_out = 2;
        *bytes_out = put_utf8(code_point, out);
        return ERROR_SUCCESS;
    }
    if (unit >= ESCAPE_BASE + 0x80 && unit <= ESCAPE_BASE + 0xFF) {
        out[0] = (char)(unit - ESCAPE_BASE);
        *bytes_out = 1;
        return ERROR_SUCCESS;
    }
    if (is_high_surrogate(unit) || is_low_surrogate(unit)) {
        return ERROR_INVALID_NAME;
    }
    *bytes_out = put_utf8(unit, out);
    return ERROR_SUCCESS;
}

vd_error
vd_utf16_to_bytes(const char16_t *text, char **out)
{
    /* Cannot overflow: the text itself takes two bytes a unit, so there are
     * fewer than SIZE_MAX / 4 units in any address space. */
    size_t size = count_units(text) * BYTES_PER_UNIT + 1;
    VD_AUTO_FREE char *bytes = malloc(size);
    if (bytes == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    size_t length = 0;
    while (*text != 0) {
        size_t units;
        size_t written;
        vd_error error = put_character(text, bytes + length, &units, &written);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        text += units;
        length += written;
    }
    bytes[length] = '\0';
    *out = VD_TAKE(bytes);
    return ERROR_SUCCESS;
}

/* The length that a lead byte announces, 0 if it cannot lead. */
static size_t
announced_length(uint8_t lead)
{
    if (lead < 0x80) {
        return 1;
    }
    if (lead < 0xC2 || lead > 0xF4) {
        return 0; /* a continuation byte, always overlong, or too large */
    }
    if (lead < 0xE0) {
        return 2;
    }
    return lead < 0xF0 ? 3 : 4;
}

static bool
is_shortest_form(uint32_t code_point, size_t length)
{
    static const uint32_t first_of_length[] = {0, 0, 0x80, 0x800,
                                               SUPPLEMENTARY_FIRST};
    return code_point >= first_of_length[length];
}

/* The length of the UTF-8 sequence at bytes, 0 if there is none.  Reads no
 * further than the terminating NUL, which continues nothing. */
static size_t
get_utf8(const uint8_t *bytes, uint32_t *code_point_out)
{
    size_t length = announced_length(bytes[0]);
    if (length <= 1) {
        *code_point_out = bytes[0];
        return length;
    }
    uint32_t code_point = bytes[0] & (0x7Fu >> length);
    for (size_t i = 1; i < length; i++) {
        if ((bytes[i] & 0xC0) != 0x80) {
            return 0;
        }
        code_point = code_point << 6 | (bytes[i] & 0x3F);
    }
    if (!is_shortest_form(code_point, length) ||
        code_point > CODE_POINT_LAST || is_high_surrogate(code_point) ||
        is_low_surrogate(code_point)) {
        return 0;
    }
    *code_point_out = code_point;
    return length;
}

/* Returns how many units were written: 1 or 2. */
static size_t
put_utf16(uint32_t code_point, char16_t *out)
{
    if (code_point < SUPPLEMENTARY_FIRST) {
        out[0] = (char16_t)code_point;
        return 1;
    }
    code_point -= SUPPLEMENTARY_FIRST;
    out[0] = (char16_t)(HIGH_FIRST + (code_point >> 10));
    out[1] = (char16_t)(LOW_FIRST + (code_point & 0x3FF));
    return 2;
}

vd_error
vd_utf16_from_bytes(const char *bytes, char16_t **out, size_t *units_out)
{
    /* No character takes more units than bytes; calloc checks the product. */
    VD_AUTO_FREE char16_t *text = calloc(strlen(bytes) + 1, sizeof(char16_t));
    if (text == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    const uint8_t *next = (const uint8_t *)bytes;
    size_t units = 0;
    while (*next != '\0') {
        uint32_t code_point;
        size_t length = get_utf8(next, &code_point);
        if (length == 0) {
            text[units++] = (char16_t)(ESCAPE_BASE + *next);
            next++;
            continue;
        }
        units += put_utf16(code_point, text + units);
        next += length;
    }
    if (units_out != NULL) {
        *units_out = units;
    }
    *out = VD_TAKE(text);
    return ERROR_SUCCESS;
}
