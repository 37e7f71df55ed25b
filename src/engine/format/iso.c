/*
 * ISO images: optical discs of 2048-byte sectors, read-only.
 *
 * Recognised by the volume descriptors from sector 16 on (ECMA-119 8,
 * ECMA-167 part 2): ISO 9660 ("CD001"), its predecessor High Sierra
 * ("CDROM", which the CD file systems of Windows and Linux read too) and
 * UDF ("BEA01" followed by "NSR02" or "NSR03").  Parses nothing further: the
 * size of the disc is that of the file, whatever its volumes say, and the
 * partition table of a hybrid image is none of an optical disc's.
 *
 * The length rules are AttachVirtualDisk's; ERROR_FILE_CORRUPT if they fail.
 */
#include "format/format.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/trace.h"

#define ISO_SECTOR_SIZE 2048
#define ISO_FIRST_DESCRIPTOR 16 /* sectors before it are the system area */
#define ISO_MAX_DESCRIPTORS 64
#define ISO_MIN_SIZE ((ISO_FIRST_DESCRIPTOR + 1) * ISO_SECTOR_SIZE)

/* Of a descriptor; High Sierra puts an eight-byte block number before. */
#define ISO_TYPE 0
#define ISO_IDENTIFIER 1
#define HIGH_SIERRA_TYPE 8
#define HIGH_SIERRA_IDENTIFIER 9
#define ISO_IDENTIFIER_SIZE 5
#define ISO_DESCRIPTOR_HEAD_SIZE 16

#define ISO_TYPE_PRIMARY 1

enum descriptor {
    DESCRIPTOR_NONE,       /* no volume descriptor */
    DESCRIPTOR_ISO_VOLUME, /* the primary one of a CD volume */
    DESCRIPTOR_ISO_OTHER,
    DESCRIPTOR_UDF_BEGIN,
    DESCRIPTOR_UDF_VOLUME,
    DESCRIPTOR_UDF_END,
    DESCRIPTOR_UDF_OTHER, /* boot: carries nothing that is looked for */
};

struct iso_descriptors {
    bool any;       /* there is a descriptor at all */
    bool udf_begun; /* the descriptors of UDF have begun */
    bool volume;    /* there is one that makes a disc of it */
};

struct descriptor_name {
    char identifier[ISO_IDENTIFIER_SIZE + 1];
    enum descriptor kind;
};

static const struct descriptor_name descriptor_names[] = {
    {"CD001", DESCRIPTOR_ISO_OTHER},  {"CDW02", DESCRIPTOR_UDF_OTHER},
    {"BEA01", DESCRIPTOR_UDF_BEGIN},  {"BOOT2", DESCRIPTOR_UDF_OTHER},
    {"NSR02", DESCRIPTOR_UDF_VOLUME}, {"NSR03", DESCRIPTOR_UDF_VOLUME},
    {"TEA01", DESCRIPTOR_UDF_END},
};

static bool
identifier_is(const uint8_t *head, size_t at, const char *identifier)
{
    return memcmp(head + at, identifier, ISO_IDENTIFIER_SIZE) == 0;
}

static enum descriptor
named_descriptor(const uint8_t *head)
{
    size_t count = sizeof(descriptor_names) / sizeof(descriptor_names[0]);
    for (size_t i = 0; i < count; i++) {
        if (identifier_is(head, ISO_IDENTIFIER,
                          descriptor_names[i].identifier)) {
            return descriptor_names[i].kind;
        }
    }
    return DESCRIPTOR_NONE;
}

static enum descriptor
classify(const uint8_t *head)
{
    enum descriptor kind = named_descriptor(head);
    uint8_t type = head[ISO_TYPE];
    if (kind == DESCRIPTOR_NONE &&
        identifier_is(head, HIGH_SIERRA_IDENTIFIER, "CDROM")) {
        kind = DESCRIPTOR_ISO_OTHER;
        type = head[HIGH_SIERRA_TYPE];
    }
    if (kind == DESCRIPTOR_ISO_OTHER && type == ISO_TYPE_PRIMARY) {
        return DESCRIPTOR_ISO_VOLUME;
    }
    return kind;
}

/* Whether the descriptor was the last to look at. */
static bool
note_descriptor(struct iso_descriptors *found, enum descriptor kind)
{
    if (kind == DESCRIPTOR_NONE || kind == DESCRIPTOR_UDF_END) {
        return true;
    }
    found->any = true;
    if (kind == DESCRIPTOR_UDF_BEGIN) {
        found->udf_begun = true;
    }
    found->volume = kind == DESCRIPTOR_ISO_VOLUME ||
                    (kind == DESCRIPTOR_UDF_VOLUME && found->udf_begun);
    return found->volume;
}

/*
 * Walks the descriptors.  A terminator of ISO 9660 does not end the walk: a
 * bridge disc has its UDF descriptors behind it.
 */
static vd_error
walk_descriptors(struct vd_file *file, uint64_t size,
                 struct iso_descriptors *out)
{
    struct iso_descriptors found = {.any = false};
    for (unsigned i = 0; i < ISO_MAX_DESCRIPTORS; i++) {
        uint64_t offset =
            (uint64_t)(ISO_FIRST_DESCRIPTOR + i) * ISO_SECTOR_SIZE;
        uint8_t head[ISO_DESCRIPTOR_HEAD_SIZE];
        if (offset + sizeof(head) > size) {
            break;
        }
        vd_error error = vd_file_pread(file, head, sizeof(head), offset);
        if (error != ERROR_SUCCESS) {
            return error;
        }
        if (note_descriptor(&found, classify(head))) {
            break;
        }
    }
    *out = found;
    return ERROR_SUCCESS;
}

static vd_error
iso_probe(struct vd_file *file, bool *recognised)
{
    uint64_t size;
    struct iso_descriptors descriptors;
    vd_error error = vd_file_size(file, &size);
    if (error == ERROR_SUCCESS) {
        error = walk_descriptors(file, size, &descriptors);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    *recognised = descriptors.any;
    return ERROR_SUCCESS;
}

static vd_error
check_size(uint64_t size)
{
    if (size < ISO_MIN_SIZE) {
        vd_trace(VD_TRACE_FORMAT,
                 "ISO: %llu bytes are too few for a volume descriptor",
                 (unsigned long long)size);
        return ERROR_FILE_CORRUPT;
    }
    if (size % ISO_SECTOR_SIZE != 0) {
        vd_trace(VD_TRACE_FORMAT, "ISO: %llu bytes are not a multiple of %d",
                 (unsigned long long)size, ISO_SECTOR_SIZE);
        return ERROR_FILE_CORRUPT;
    }
    return ERROR_SUCCESS;
}

static vd_error
check_descriptors(struct vd_file *file, uint64_t size)
{
    struct iso_descriptors descriptors;
    vd_error error = walk_descriptors(file, size, &descriptors);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    if (!descriptors.volume) {
        vd_trace(VD_TRACE_FORMAT, "ISO: no ISO 9660 or UDF volume found");
        return ERROR_FILE_CORRUPT;
    }
    return ERROR_SUCCESS;
}

static vd_error
new_image(struct vd_file *file, uint64_t size, struct vd_image **out)
{
    struct vd_image *image = calloc(1, sizeof(*image));
    if (image == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    image->format = &vd_iso_format;
    image->file = file;
    image->info = (struct vd_image_info){
        .size_bytes = size,
        .sector_size = ISO_SECTOR_SIZE,
        .physical_sector_size = ISO_SECTOR_SIZE,
        .subtype = VD_SUBTYPE_NONE,
        .optical = true,
    };
    *out = image;
    return ERROR_SUCCESS;
}

/* A disc is read-only however its file is opened. */
static vd_error
iso_open(struct vd_file *file, const struct vd_open_request *request,
         struct vd_image **out)
{
    (void)request;
    uint64_t size;
    vd_error error = vd_file_size(file, &size);
    if (error == ERROR_SUCCESS) {
        error = check_size(size);
    }
    if (error == ERROR_SUCCESS) {
        error = check_descriptors(file, size);
    }
    if (error != ERROR_SUCCESS) {
        return error;
    }
    return new_image(file, size, out);
}

static vd_error
iso_lookup(struct vd_image *image, uint64_t offset, uint64_t length,
           struct vd_extent *out)
{
    (void)image;
    *out = (struct vd_extent){
        .state = VD_EXTENT_PRESENT,
        .file_offset = offset,
        .length = length,
    };
    return ERROR_SUCCESS;
}

static vd_error
iso_close(struct vd_image *image)
{
    free(image);
    return ERROR_SUCCESS;
}

const struct vd_format vd_iso_format = {
    .name = "ISO",
    .device_id = 1, /* VIRTUAL_STORAGE_TYPE_DEVICE_ISO */
    .probe = iso_probe,
    .open = iso_open,
    .lookup = iso_lookup,
    .close = iso_close,
};
