/*
 * The table of formats, and which of them a file is.
 *
 * The content alone decides, never the file's name.  A fixed VHD may carry a
 * disc image as its guest's data and a disc image may start with anything,
 * so no format goes before another: where two recognise a file, the caller
 * has to name one.
 */
#include "format/format.h"

#include <stddef.h>

#include "base/trace.h"

static const struct vd_format *const formats[] = {
    &vd_iso_format,
    &vd_vhd_format,
    &vd_vhdx_format,
};

#define FORMAT_COUNT (sizeof(formats) / sizeof(formats[0]))

static vd_error
find_by_device_id(uint32_t device_id, const struct vd_format **out)
{
    for (size_t i = 0; i < FORMAT_COUNT; i++) {
        if (formats[i]->device_id == device_id) {
            *out = formats[i];
            return ERROR_SUCCESS;
        }
    }
    vd_trace(VD_TRACE_FORMAT, "no format has the device id %u", device_id);
    return ERROR_VIRTDISK_PROVIDER_NOT_FOUND;
}

static vd_error
find_by_content(struct vd_file *file, const struct vd_format **out)
{
    const struct vd_format *found = NULL;
    for (size_t i = 0; i < FORMAT_COUNT; i++) {
        bool recognised;
        vd_error error = formats[i]->probe(file, &recognised);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        if (recognised && found != NULL) {
            vd_trace(VD_TRACE_FORMAT,
                     "the content is that of %s and of %s: name one",
                     found->name, formats[i]->name);
            return ERROR_VIRTDISK_PROVIDER_NOT_FOUND;
        }
        if (recognised) {
            found = formats[i];
        }
    }
    if (found == NULL) {
        vd_trace(VD_TRACE_FORMAT, "no format recognises the content");
        return ERROR_VIRTDISK_PROVIDER_NOT_FOUND;
    }
    *out = found;
    return ERROR_SUCCESS;
}

vd_error
vd_format_find(struct vd_file *file, uint32_t device_id,
               const struct vd_format **out)
{
    if (device_id == VD_DEVICE_UNKNOWN) {
        return find_by_content(file, out);
    }
    return find_by_device_id(device_id, out);
}
