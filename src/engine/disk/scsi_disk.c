/*
 * A virtual disk as a SCSI disk: the medium is the disk's reading and
 * writing, the identity that of the image.  See scsi_disk.h.
 */
#include "disk/scsi_disk.h"

#include "format/format.h"

static vd_error
read_disk(void *context, void *buffer, size_t length, uint64_t offset)
{
    const struct vd_scsi_disk *scsi = context;
    return vd_disk_read(scsi->disk, buffer, length, scsi->offset + offset);
}

static vd_error
write_disk(void *context, const void *buffer, size_t length, uint64_t offset)
{
    const struct vd_scsi_disk *scsi = context;
    return vd_disk_write(scsi->disk, buffer, length, scsi->offset + offset);
}

static vd_error
zero_disk(void *context, uint64_t offset, uint64_t length, bool may_free)
{
    const struct vd_scsi_disk *scsi = context;
    return vd_disk_zero(scsi->disk, scsi->offset + offset, length, may_free);
}

static vd_error
flush_disk(void *context)
{
    const struct vd_scsi_disk *scsi = context;
    return vd_disk_flush(scsi->disk);
}

static vd_error
run_of_disk(void *context, uint64_t offset, uint64_t length, bool *data_out,
            uint64_t *length_out)
{
    const struct vd_scsi_disk *scsi = context;
    struct vd_disk_run run;
    vd_error error = vd_disk_run(scsi->disk, scsi->offset + offset, length,
                                 scsi->unit.block_size, &run);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    *data_out = run.data;
    *length_out = run.length;
    return ERROR_SUCCESS;
}

static const struct vd_scsi_medium medium = {
    .read = read_disk,
    .write = write_disk,
    .zero = zero_disk,
    .flush = flush_disk,
    .run = run_of_disk,
};

/* A VHDX has an id for this very purpose; a VHD has its unique id. */
static struct vd_guid
id_of(const struct vd_image_info *info)
{
    return info->has_virtual_disk_id ? info->virtual_disk_id
                                     : info->identifier;
}

void
vd_scsi_disk_init(struct vd_scsi_disk *out, struct vd_disk *disk,
                  uint64_t offset, uint64_t length, bool read_only)
{
    const struct vd_image_info *info = vd_disk_info(disk);
    *out = (struct vd_scsi_disk){
        .unit =
            {
                .medium = &medium,
                .context = out,
                .blocks = length / info->sector_size,
                .block_size = info->sector_size,
                .physical_block_size = info->physical_sector_size,
                .unmap_granularity = info->block_size,
                .thin = info->subtype != VD_SUBTYPE_FIXED,
                .read_only = read_only,
                .id = id_of(info),
            },
        .disk = disk,
        .offset = offset,
    };
}
