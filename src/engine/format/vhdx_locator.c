/*
 * The parent locator item ([MS-VHDX] 2.6.2.6): which file a differencing
 * image was made of, and where it may be found; read and written.
 */
#include "format/vhdx.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/trace.h"

enum {
    LOCATOR_TYPE = 0,
    LOCATOR_COUNT = 18,
    LOCATOR_ENTRIES = 20,
    ENTRY_KEY_OFFSET = 0,
    ENTRY_VALUE_OFFSET = 4,
    ENTRY_KEY_LENGTH = 8,
    ENTRY_VALUE_LENGTH = 10,
    ENTRY_SIZE = 12,
};

#define MAX_PAIRS 256

const struct vd_guid vd_vhdx_locator_type = {
    {0xb7, 0xef, 0x4a, 0xb0, 0x9e, 0xd1, 0x81, 0x4a, 0xb7, 0x89, 0x25, 0xb8,
     0xe9, 0x44, 0x59, 0x13}};

/* A key or value: UTF-16LE inside the item, not terminated. */
struct string {
    const uint8_t *bytes;
    size_t length; /* bytes, even, > 0 */
};

static vd_error
corrupt(const char *reason)
{
    vd_trace(VD_TRACE_FORMAT, "VHDX: parent locator: %s", reason);
    return ERROR_VHD_METADATA_READ_FAILURE;
}

static bool
take_string(const uint8_t *item, size_t item_length, uint32_t offset,
            uint16_t length, struct string *out)
{
    if (offset == 0 || length == 0 || length % 2 != 0 ||
        offset > item_length || length > item_length - offset) {
        return false;
    }
    out->bytes = item + offset;
    out->length = length;
    return true;
}

static bool
is_key(const struct string *key, const char *name)
{
    size_t length = strlen(name);
    if (key->length != length * 2) {
        return false;
    }
    for (size_t i = 0; i < length; i++) {
        if (vd_get_le16(key->bytes + i * 2) != (unsigned char)name[i]) {
            return false;
        }
    }
    return true;
}

static int
hex_digit(unsigned unit)
{
    if (unit >= '0' && unit <= '9') {
        return (int)(unit - '0');
    }
    unit |= 0x20;
    return unit >= 'a' && unit <= 'f' ? (int)(unit - 'a' + 10) : -1;
}

/*
 * "{8-4-4-4-12}" in any case.  The first three groups are numbers, so in the
 * 16 bytes of a GUID their digits stand in reverse byte order.
 */
static bool
parse_guid(const struct string *text, struct vd_guid *out)
{
    static const uint8_t place[VD_GUID_SIZE] = {3, 2, 1,  0,  5,  4,  7,  6,
                                                8, 9, 10, 11, 12, 13, 14, 15};
    static const char shape[] = "{hhhhhhhh-hhhh-hhhh-hhhh-hhhhhhhhhhhh}";
    if (text->length != (sizeof(shape) - 1) * 2) {
        return false;
    }
    size_t digits = 0;
    struct vd_guid guid = {{0}};
    for (size_t i = 0; i < sizeof(shape) - 1; i++) {
        unsigned unit = vd_get_le16(text->bytes + i * 2);
        if (shape[i] != 'h') {
            if (unit != (unsigned char)shape[i]) {
                return false;
            }
            continue;
        }
        int digit = hex_digit(unit);
        if (digit < 0) {
            return false;
        }
        uint8_t *byte = &guid.bytes[place[digits / 2]];
        *byte = (uint8_t)(*byte << 4 | digit);
        digits++;
    }
    *out = guid;
    return true;
}

static vd_error
add_path(struct vd_parent_paths *paths, enum vd_parent_path_kind kind,
         const struct string *value)
{
    size_t units = value->length / 2;
    char16_t *text = calloc(units + 1, sizeof(*text));
    if (text == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    for (size_t i = 0; i < units; i++) {
        text[i] = vd_get_le16(value->bytes + i * 2);
    }
    paths->paths[paths->count].kind = kind;
    paths->paths[paths->count].text = text;
    paths->count++;
    return ERROR_SUCCESS;
}

/* One pair.  Unknown keys are allowed and mean nothing to us. */
static vd_error
take_pair(struct vhdx_locator *locator, const struct string *key,
          const struct string *value, bool *has_linkage)
{
    if (is_key(key, "parent_linkage")) {
        *has_linkage = parse_guid(value, &locator->linkage);
        return *has_linkage ? ERROR_SUCCESS : corrupt("parent_linkage");
    }
    if (is_key(key, "parent_linkage2")) {
        return parse_guid(value, &locator->linkage2)
                   ? ERROR_SUCCESS
                   : corrupt("parent_linkage2");
    }
    if (is_key(key, "relative_path")) {
        return add_path(&locator->paths, VD_PARENT_PATH_RELATIVE, value);
    }
    if (is_key(key, "volume_path")) {
        return add_path(&locator->paths, VD_PARENT_PATH_VOLUME, value);
    }
    if (is_key(key, "absolute_win32_path")) {
        return add_path(&locator->paths, VD_PARENT_PATH_ABSOLUTE, value);
    }
    return ERROR_SUCCESS;
}

/* Into the order of lookup: relative, volume, absolute. */
static void
sort_paths(struct vd_parent_paths *paths)
{
    static const int rank[] = {
        [VD_PARENT_PATH_RELATIVE] = 0,
        [VD_PARENT_PATH_VOLUME] = 1,
        [VD_PARENT_PATH_ABSOLUTE] = 2,
    };
    for (size_t i = 1; i < paths->count; i++) {
        for (size_t j = i; j > 0 && rank[paths->paths[j].kind] <
                                        rank[paths->paths[j - 1].kind];
             j--) {
            struct vd_parent_path path = paths->paths[j];
            paths->paths[j] = paths->paths[j - 1];
            paths->paths[j - 1] = path;
        }
    }
}

static bool
same_string(const struct string *a, const struct string *b)
{
    return a->length == b->length &&
           memcmp(a->bytes, b->bytes, a->length) == 0;
}

static vd_error
decode_pairs(const uint8_t *item, size_t length, struct vhdx_locator *out)
{
    struct string keys[MAX_PAIRS];
    bool has_linkage = false;
    uint16_t count = vd_get_le16(item + LOCATOR_COUNT);
    if (count > MAX_PAIRS ||
        LOCATOR_ENTRIES + (size_t)count * ENTRY_SIZE > length) {
        return corrupt("too many pairs");
    }
    for (uint16_t i = 0; i < count; i++) {
        const uint8_t *entry = item + LOCATOR_ENTRIES + i * ENTRY_SIZE;
        struct string value;
        if (!take_string(item, length, vd_get_le32(entry + ENTRY_KEY_OFFSET),
                         vd_get_le16(entry + ENTRY_KEY_LENGTH), &keys[i]) ||
            !take_string(item, length, vd_get_le32(entry + ENTRY_VALUE_OFFSET),
                         vd_get_le16(entry + ENTRY_VALUE_LENGTH), &value)) {
            return corrupt("a key or value outside the item");
        }
        for (uint16_t j = 0; j < i; j++) {
            if (same_string(&keys[i], &keys[j])) {
                return corrupt("a key stands twice");
            }
        }
        vd_error error = take_pair(out, &keys[i], &value, &has_linkage);
        if (error != ERROR_SUCCESS) {
            return error;
        }
    }
    if (!has_linkage || out->paths.count == 0) {
        return corrupt("no parent_linkage or no path");
    }
    return ERROR_SUCCESS;
}

vd_error
vd_vhdx_locator_decode(const uint8_t *item, size_t length,
                       struct vhdx_locator *out)
{
    struct vhdx_locator locator = {0};
    if (length < LOCATOR_ENTRIES ||
        memcmp(item + LOCATOR_TYPE, &vd_vhdx_locator_type, VD_GUID_SIZE) !=
            0) {
        return corrupt("not of the VHDX type");
    }
    vd_error error = decode_pairs(item, length, &locator);
    if (error != ERROR_SUCCESS) {
        vd_vhdx_parent_paths_free(&locator.paths);
        return error;
    }
    sort_paths(&locator.paths);
    *out = locator;
    return ERROR_SUCCESS;
}

void
vd_vhdx_parent_paths_free(struct vd_parent_paths *paths)
{
    for (size_t i = 0; i < paths->count; i++) {
        free(paths->paths[i].text);
    }
    memset(paths, 0, sizeof(*paths));
}

/* ---- writing ---- */

struct builder {
    uint8_t *item;
    size_t pairs; /* written so far */
    size_t end;   /* of the strings so far */
};

/* Room for a string; NULL if the item would become too long. */
static uint8_t *
add_string(struct builder *builder, size_t length, uint8_t *offset_field,
           uint8_t *length_field)
{
    if (length > UINT16_MAX || length > VHDX_LOCATOR_MAX - builder->end) {
        return NULL;
    }
    uint8_t *place = builder->item + builder->end;
    vd_put_le32(offset_field, (uint32_t)builder->end);
    vd_put_le16(length_field, (uint16_t)length);
    builder->end += length;
    return place;
}

static uint8_t *
new_pair(struct builder *builder)
{
    return builder->item + LOCATOR_ENTRIES + builder->pairs++ * ENTRY_SIZE;
}

static bool
copy_pair(struct builder *builder, const struct string *key,
          const struct string *value)
{
    uint8_t *entry = new_pair(builder);
    uint8_t *at = add_string(builder, key->length, entry + ENTRY_KEY_OFFSET,
                             entry + ENTRY_KEY_LENGTH);
    if (at == NULL) {
        return false;
    }
    memcpy(at, key->bytes, key->length);
    at = add_string(builder, value->length, entry + ENTRY_VALUE_OFFSET,
                    entry + ENTRY_VALUE_LENGTH);
    if (at == NULL) {
        return false;
    }
    memcpy(at, value->bytes, value->length);
    return true;
}

static bool
put_pair(struct builder *builder, const char *key, const char16_t *value)
{
    size_t key_length = strlen(key), units = 0;
    while (value[units] != 0) {
        units++;
    }
    uint8_t *entry = new_pair(builder);
    uint8_t *at = add_string(builder, key_length * 2, entry + ENTRY_KEY_OFFSET,
                             entry + ENTRY_KEY_LENGTH);
    for (size_t i = 0; at != NULL && i < key_length; i++) {
        vd_put_le16(at + i * 2, (unsigned char)key[i]);
    }
    if (at != NULL) {
        at = add_string(builder, units * 2, entry + ENTRY_VALUE_OFFSET,
                        entry + ENTRY_VALUE_LENGTH);
    }
    for (size_t i = 0; at != NULL && i < units; i++) {
        vd_put_le16(at + i * 2, value[i]);
    }
    return at != NULL;
}

/* "{8-4-4-4-12}" in lower case. */
static void
format_guid(const struct vd_guid *guid, char16_t text[39])
{
    static const uint8_t order[VD_GUID_SIZE] = {3, 2, 1,  0,  5,  4,  7,  6,
                                                8, 9, 10, 11, 12, 13, 14, 15};
    static const char digits[] = "0123456789abcdef";
    size_t at = 0;
    text[at++] = u'{';
    for (size_t i = 0; i < VD_GUID_SIZE; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) {
            text[at++] = u'-';
        }
        text[at++] = (char16_t)digits[guid->bytes[order[i]] >> 4];
        text[at++] = (char16_t)digits[guid->bytes[order[i]] & 15];
    }
    text[at++] = u'}';
    text[at] = 0;
}

static bool
put_guid(struct builder *builder, const char *key, const struct vd_guid *guid)
{
    char16_t text[39];
    format_guid(guid, text);
    return put_pair(builder, key, text);
}

static bool
replaces_paths(const struct vhdx_locator_change *change)
{
    return change->relative_path != NULL || change->absolute_path != NULL;
}

/* Whether a pair of the former item is not taken over. */
static bool
is_replaced(const struct vhdx_locator_change *change, const struct string *key)
{
    if (is_key(key, "parent_linkage")) {
        return change->linkage != NULL;
    }
    if (is_key(key, "parent_linkage2")) {
        return change->linkage2 != NULL;
    }
    return replaces_paths(change) &&
           (is_key(key, "relative_path") || is_key(key, "volume_path") ||
            is_key(key, "absolute_win32_path"));
}

/* What stays of the former item, which has been decoded before. */
static bool
copy_pairs(struct builder *builder, const uint8_t *item, size_t length,
           const struct vhdx_locator_change *change)
{
    uint16_t count = length != 0 ? vd_get_le16(item + LOCATOR_COUNT) : 0;
    bool fits = true;
    for (uint16_t i = 0; i < count && fits; i++) {
        const uint8_t *entry = item + LOCATOR_ENTRIES + i * ENTRY_SIZE;
        struct string key, value;
        fits =
            take_string(item, length, vd_get_le32(entry + ENTRY_KEY_OFFSET),
                        vd_get_le16(entry + ENTRY_KEY_LENGTH), &key) &&
            take_string(item, length, vd_get_le32(entry + ENTRY_VALUE_OFFSET),
                        vd_get_le16(entry + ENTRY_VALUE_LENGTH), &value);
        if (fits && !is_replaced(change, &key)) {
            fits = copy_pair(builder, &key, &value);
        }
    }
    return fits;
}

static bool
put_changes(struct builder *builder, const struct vhdx_locator_change *change)
{
    bool fits = true;
    if (change->linkage != NULL) {
        fits = put_guid(builder, "parent_linkage", change->linkage);
    }
    if (fits && change->linkage2 != NULL &&
        !vd_guid_is_zero(change->linkage2)) {
        fits = put_guid(builder, "parent_linkage2", change->linkage2);
    }
    if (fits && change->relative_path != NULL) {
        fits = put_pair(builder, "relative_path", change->relative_path);
    }
    if (fits && change->absolute_path != NULL) {
        fits = put_pair(builder, "absolute_win32_path", change->absolute_path);
    }
    return fits;
}

vd_error
vd_vhdx_locator_edit(const uint8_t *former, size_t former_length,
                     const struct vhdx_locator_change *change,
                     uint8_t item[VHDX_LOCATOR_MAX], size_t *length_out)
{
    /* The strings come behind the most pairs that there can be. */
    size_t pairs = 4;
    if (former_length != 0) {
        pairs += vd_get_le16(former + LOCATOR_COUNT);
    }
    struct builder builder = {.item = item,
                              .end = LOCATOR_ENTRIES + pairs * ENTRY_SIZE};
    memset(item, 0, builder.end);
    memcpy(item + LOCATOR_TYPE, &vd_vhdx_locator_type, VD_GUID_SIZE);
    if (!copy_pairs(&builder, former, former_length, change) ||
        !put_changes(&builder, change) || builder.pairs > MAX_PAIRS) {
        vd_trace(VD_TRACE_FORMAT, "VHDX: the parent's path is too long");
        return ERROR_INVALID_PARAMETER;
    }
    vd_put_le16(item + LOCATOR_COUNT, (uint16_t)builder.pairs);
    *length_out = builder.end;
    return ERROR_SUCCESS;
}
