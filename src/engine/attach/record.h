/*
 * What is written down about one attachment, and its text.
 *
 * A record is a file of lines, `name value`; names that are not known are
 * skipped.  It is only ever a claim: registry.h says how it is checked.
 */
#ifndef VD_ATTACH_RECORD_H
#define VD_ATTACH_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "attach/loop.h"
#include "attach/node.h"
#include "attach/shown.h"
#include "base/error.h"
#include "disk/disk.h"

#define VD_RECORD_NAME_SIZE 32
#define VD_RECORD_SIZE_MAX 32768 /* PATH_MAX escaped, twice, and the rest */
#define VD_RECORD_FILE_PREFIX "file"
#define VD_BOOT_ID_SIZE 40

struct vd_record {
    char name[VD_RECORD_NAME_SIZE]; /* of the file, not in its text: the
                                       device's, "file1" or "handle1" */
    bool detaching;                 /* likewise: somebody is detaching it */
    char *image_path;               /* owned */
    struct vd_file_id file_id;
    struct vd_loop loop;   /* name "": without a device */
    struct vd_shown shown; /* path NULL: not as a file */
    struct vd_node_change node;
    char boot_id[VD_BOOT_ID_SIZE]; /* "": unknown */
    uint64_t pid;                  /* of the attacher, for people */
    bool read_only;
    bool permanent;
    bool whole; /* shows all of the disk, not a part */
};

static inline bool
vd_record_has_device(const struct vd_record *record)
{
    return record->loop.name[0] != '\0';
}

static inline bool
vd_record_has_file(const struct vd_record *record)
{
    return record->shown.path != NULL;
}

/* Where the disk is: its device or file, NULL if it has neither; free with
 * free().  ERROR_NOT_ENOUGH_MEMORY. */
VD_MUST_CHECK
vd_error vd_record_location(const struct vd_record *record, char **path_out);

/* "loop" and decimal digits. */
bool vd_record_is_device_name(const char *name);

/* The text, VD_RECORD_SIZE_MAX bytes at most; free with free().
 * ERROR_FILENAME_EXCED_RANGE if the path is too long. */
VD_MUST_CHECK
vd_error vd_record_format(const struct vd_record *record, char **text_out,
                          size_t *length_out);

/* text is NUL-terminated at length.  ERROR_INVALID_DATA if it is no record.
 * name and detaching are left empty. */
VD_MUST_CHECK
vd_error vd_record_parse(char *text, size_t length, struct vd_record *out);

VD_MUST_CHECK
vd_error vd_record_copy(const struct vd_record *record, struct vd_record *out);

/* Frees what it owns and empties it. */
void vd_record_clear(struct vd_record *record);

#endif
