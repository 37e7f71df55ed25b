/*
 * See parent_path.h.
 */
#include "disk/parent_path.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/trace.h"
#include "base/utf16.h"

static vd_error
refuse(const char *text, const char *reason)
{
    vd_trace(VD_TRACE_DISK, "parent path \"%s\": %s", text, reason);
    return ERROR_BAD_PATHNAME;
}

static int
hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* "file://" and percent-escapes (RFC 8089), in place. */
static void
decode_url(char *text)
{
    static const char scheme[] = "file://";
    const char *from = text;
    char *to = text;
    if (strncmp(text, scheme, sizeof(scheme) - 1) == 0) {
        from += sizeof(scheme) - 1;
    }
    while (*from != '\0') {
        int high = *from == '%' ? hex_digit(from[1]) : -1;
        int low = high >= 0 ? hex_digit(from[2]) : -1;
        if (low >= 0) {
            *to++ = (char)(high << 4 | low);
            from += 3;
        }
        else {
            *to++ = *from++;
        }
    }
    *to = '\0';
}

static void
turn_slashes(char *text)
{
    for (; *text != '\0'; text++) {
        if (*text == '\\') {
            *text = '/';
        }
    }
}

static bool
has_control_characters(const char *text)
{
    for (; *text != '\0'; text++) {
        if ((unsigned char)*text < ' ' || *text == 0x7f) {
            return true;
        }
    }
    return false;
}

static bool
is_drive(const char *text)
{
    return text[0] != '\0' && text[1] == ':';
}

/* "../", "/../", "/.." at the end, or "..". */
static bool
goes_up(const char *text)
{
    for (const char *at = text; (at = strstr(at, "..")) != NULL; at += 2) {
        bool starts = at == text || at[-1] == '/';
        bool ends = at[2] == '\0' || at[2] == '/';
        if (starts && ends) {
            return true;
        }
    }
    return false;
}

static const char *
file_name(const char *text)
{
    const char *slash = strrchr(text, '/');
    return slash != NULL ? slash + 1 : text;
}

/* A share is another machine: not even its file name is ours to look for. */
static bool
is_share(const char *text)
{
    return strncmp(text, "//", 2) == 0 && text[2] != '?';
}

static const char *
skip_current(const char *text)
{
    while (strncmp(text, "./", 2) == 0) {
        text += 2;
    }
    return text;
}

static const char *
inside(const char *text, bool relative)
{
    text = skip_current(text);
    if (!relative || text[0] == '/' || is_drive(text) || goes_up(text)) {
        return file_name(text);
    }
    return text;
}

static bool
names_a_file(const char *name)
{
    return *name != '\0' && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static vd_error
read_text(const struct vd_parent_path *path, char **out)
{
    VD_AUTO_FREE char *text = NULL;
    vd_error error = vd_utf16_to_bytes(path->text, &text);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (path->kind == VD_PARENT_PATH_URL) {
        decode_url(text);
    }
    if (has_control_characters(text)) {
        return refuse("...", "control characters");
    }
    turn_slashes(text);
    if (is_share(text)) {
        return refuse(text, "on another machine");
    }
    *out = VD_TAKE(text);
    return ERROR_SUCCESS;
}

vd_error
vd_parent_path_resolve(const struct vd_parent_path *path, char **out)
{
    VD_AUTO_FREE char *text = NULL;
    vd_error error = read_text(path, &text);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    const char *name = inside(text, path->kind == VD_PARENT_PATH_URL ||
                                        path->kind == VD_PARENT_PATH_RELATIVE);
    if (!names_a_file(name)) {
        return refuse(text, "no file name");
    }
    char *copy = strdup(name);
    if (copy == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    *out = copy;
    return ERROR_SUCCESS;
}

/* ---- up ---- */

/* One component after the other, at the end of a directory's path ("" is the
 * root directory): down, up, or nowhere.  false: up from the root. */
static bool
follow(char *directory, const char *text)
{
    char *end = directory + strlen(directory);
    while (*text != '\0') {
        size_t length = strcspn(text, "/");
        if (length == 2 && strncmp(text, "..", 2) == 0) {
            end = strrchr(directory, '/');
            if (end == NULL) {
                return false;
            }
        }
        else if (length > 1 || (length == 1 && *text != '.')) {
            *end = '/';
            memcpy(end + 1, text, length);
            end += 1 + length;
        }
        *end = '\0';
        text += length;
        text += *text == '/';
    }
    return true;
}

static bool
leads_up(const struct vd_parent_path *path, const char *text)
{
    text = skip_current(text);
    return path->kind == VD_PARENT_PATH_RELATIVE && text[0] != '/' &&
           !is_drive(text) && goes_up(text) && names_a_file(file_name(text));
}

vd_error
vd_parent_path_climb(const struct vd_parent_path *path, const char *child,
                     char **out)
{
    VD_AUTO_FREE char *text = NULL;
    vd_error error = read_text(path, &text);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (!leads_up(path, text)) {
        return ERROR_FILE_NOT_FOUND;
    }
    size_t directory = (size_t)(strrchr(child, '/') - child);
    VD_AUTO_FREE char *place = malloc(directory + strlen(text) + 2);
    if (place == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    memcpy(place, child, directory);
    place[directory] = '\0';
    if (!follow(place, text)) {
        return refuse(text, "above the root directory");
    }
    *out = VD_TAKE(place);
    return ERROR_SUCCESS;
}

/* ---- the other way ---- */

/* How much of both is the same directory, with the slash after it. */
static size_t
common_directory(const char *directory, const char *parent)
{
    size_t common = 0;
    size_t i = 0;
    while (directory[i] != '\0' && directory[i] == parent[i]) {
        i++;
        if (directory[i - 1] == '/') {
            common = i;
        }
    }
    /* The directory may be the whole of what leads to the parent. */
    return directory[i] == '\0' && parent[i] == '/' ? i + 1 : common;
}

static size_t
count_components(const char *path)
{
    size_t count = 0;
    for (; *path != '\0'; path++) {
        count += path[0] != '/' && (path[1] == '/' || path[1] == '\0');
    }
    return count;
}

/* Up as often as asked, then down to the rest, with our slashes. */
static vd_error
compose(size_t ups, const char *rest, char **out)
{
    const char *step = ups != 0 ? "../" : "./";
    size_t steps = ups != 0 ? ups : 1;
    size_t step_length = strlen(step);
    char *path = malloc(steps * step_length + strlen(rest) + 1);
    if (path == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    for (size_t i = 0; i < steps; i++) {
        memcpy(path + i * step_length, step, step_length);
    }
    memcpy(path + steps * step_length, rest, strlen(rest) + 1);
    *out = path;
    return ERROR_SUCCESS;
}

vd_error
vd_parent_path_between(const char *directory, const char *parent,
                       char16_t **out)
{
    VD_AUTO_FREE char *path = NULL;
    char16_t *text;
    size_t common = common_directory(directory, parent);
    if (strchr(parent, '\\') != NULL) {
        vd_trace(VD_TRACE_DISK, "%s: a backslash in a name", parent);
        return ERROR_INVALID_NAME;
    }
    if (has_control_characters(parent + common)) {
        /* Nobody would follow it, we neither. */
        vd_trace(VD_TRACE_DISK, "control characters in a parent's name");
        return ERROR_INVALID_NAME;
    }
    /* Past its end: the parent is in it, or below. */
    size_t ups =
        common > strlen(directory) ? 0 : count_components(directory + common);
    vd_error error = compose(ups, parent + common, &path);
    if (error == ERROR_SUCCESS) {
        error = vd_utf16_from_bytes(path, &text, NULL);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    for (char16_t *at = text; *at != 0; at++) {
        if (*at == u'/') {
            *at = u'\\';
        }
    }
    *out = text;
    return ERROR_SUCCESS;
}
