/*
 * A SCSI disk (SPC-4, SBC-3): command descriptor blocks in; data, status and
 * sense data out.
 *
 * Pure logic over a few functions that move whole blocks: no files, no
 * threads, no state that lasts from one command to the next but one: that the
 * capacity has changed is told once, as a unit attention.  There are no
 * reservations, no task management, and sense data is only ever that of the
 * command it comes with.  Any number of threads may
 * execute commands on one unit if its functions allow that.
 */
#ifndef VD_DISK_SCSI_H
#define VD_DISK_SCSI_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/guid.h"

#define VD_SCSI_CDB_MAX 16
#define VD_SCSI_SENSE_SIZE 18 /* fixed format */

#define VD_SCSI_GOOD 0x00
#define VD_SCSI_CHECK_CONDITION 0x02

/* Offsets and lengths are bytes, in whole blocks inside the unit. */
struct vd_scsi_medium {
    vd_error (*read)(void *context, void *buffer, size_t length,
                     uint64_t offset);
    vd_error (*write)(void *context, const void *buffer, size_t length,
                      uint64_t offset);
    /* Makes a range read as zeros; may_free: its space may be given up. */
    vd_error (*zero)(void *context, uint64_t offset, uint64_t length,
                     bool may_free);
    /* Returns when everything written before is durable. */
    vd_error (*flush)(void *context);
    /* Whether there is data from offset on, in whole blocks, and for how many
     * bytes that holds: at most length, at least a block. */
    vd_error (*run)(void *context, uint64_t offset, uint64_t length,
                    bool *data_out, uint64_t *length_out);
};

struct vd_scsi_unit {
    const struct vd_scsi_medium *medium;
    void *context;                /* of the medium's functions */
    uint64_t blocks;              /* at least 1 */
    uint32_t block_size;          /* bytes: 512 or 4096 */
    uint32_t physical_block_size; /* bytes, a power of two, not less */
    uint32_t unmap_granularity;   /* bytes, 0: unknown */
    bool thin;                    /* unmapping gives space up */
    bool read_only;
    struct vd_guid id;             /* for page 83 */
    atomic_bool *capacity_changed; /* to be told; NULL: it never changes */
};

struct vd_scsi_command {
    const uint8_t *cdb;
    size_t cdb_length; /* 1..VD_SCSI_CDB_MAX; may be more than it takes */
    bool data_in;      /* data goes to the caller */
    void *data;
    size_t length; /* bytes, of data */
};

/* A command that fails has transferred nothing, as far as the caller is to
 * rely on it. */
struct vd_scsi_result {
    uint8_t status;
    uint8_t sense_length; /* 0 with VD_SCSI_GOOD */
    uint8_t sense[VD_SCSI_SENSE_SIZE];
    size_t transferred; /* bytes, to or from data */
};

void vd_scsi_execute(const struct vd_scsi_unit *unit,
                     const struct vd_scsi_command *command,
                     struct vd_scsi_result *result);

#endif
