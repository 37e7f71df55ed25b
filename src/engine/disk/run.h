/*
 * Where a file has data and where holes, for those who want to read only what
 * is there.
 */
#ifndef VD_DISK_RUN_H
#define VD_DISK_RUN_H

#include <stdint.h>

#include "disk/disk.h"

/* The range at offset of an open file, as far as one answer holds; all of it
 * data where the system does not say, or the file ends before it. */
void vd_run_of_file(int fd, uint64_t offset, uint64_t length,
                    struct vd_disk_run *out);

/* Finds the exact run at offset; `context` is the caller's. */
typedef vd_error vd_run_function(void *context, uint64_t offset,
                                 uint64_t length, struct vd_disk_run *out);

/* The same in whole granules, as vd_disk_run promises. */
VD_MUST_CHECK
vd_error vd_run_in_granules(vd_run_function *find, void *context,
                            uint64_t offset, uint64_t length, uint32_t granule,
                            struct vd_disk_run *out);

#endif
