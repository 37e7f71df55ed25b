/*
 * UTF-16 text for a caller's buffer.  See multi_sz.h.
 */
#include "api/multi_sz.h"

#include <stdlib.h>
#include <string.h>

#include "api/refuse.h"
#include "base/cleanup.h"
#include "base/utf16.h"

vd_error
vd_multi_sz_append(struct vd_multi_sz *text, const char *bytes)
{
    VD_AUTO_FREE char16_t *string = NULL;
    size_t length;
    vd_error error = vd_utf16_from_bytes(bytes, &string, &length);
    if (error) {
        return error;
    }
    size_t count = text->count + length + 1;
    char16_t *units = realloc(text->units, count * sizeof(*units));
    if (units == NULL) {
        return vd_refuse(ERROR_NOT_ENOUGH_MEMORY, "no memory for paths");
    }
    memcpy(units + text->count, string, (length + 1) * sizeof(*units));
    text->units = units;
    text->count = count;
    return ERROR_SUCCESS;
}
