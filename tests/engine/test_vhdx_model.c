/*
 * VHDX against the model: random operations, power cuts and faults, on every
 * kind of image and both sector sizes.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "format/vhdx_create.h"
#include "format_model.h"

#define MIB (1024u * 1024u)

static vd_error
create(struct vd_file *file, const struct format_model *model, bool fixed)
{
    struct vhdx_create_request request = {
        .size_bytes = model->size_bytes,
        .block_size = model->block_size,
        .logical_sector_size = model->sector_size,
        .physical_sector_size = 4096,
        .fixed = fixed,
        .has_parent = model->child,
        .relative_path = model->child ? u".\\parent.vhdx" : NULL,
        .absolute_path = model->child ? u"C:\\parent.vhdx" : NULL,
        .creator = u"virtdisk",
    };
    memset(&request.virtual_disk_id, 1, VD_GUID_SIZE);
    memset(&request.file_write_guid, 2, VD_GUID_SIZE);
    memset(&request.data_write_guid, 3, VD_GUID_SIZE);
    memset(&request.parent_linkage, 4, VD_GUID_SIZE);
    return vd_vhdx_create(file, &request);
}

static vd_error
create_dynamic(struct vd_file *file, const struct format_model *model)
{
    return create(file, model, false);
}

static vd_error
create_fixed(struct vd_file *file, const struct format_model *model)
{
    return create(file, model, true);
}

static const struct format_model models[] = {
    {&vd_vhdx_format, 9 * MIB + 512, 512, MIB, false, create_dynamic, 0,
     false},
    {&vd_vhdx_format, 9 * MIB + 512, 512, MIB, true, create_dynamic, 0, false},
    {&vd_vhdx_format, 9 * MIB + 4096, 4096, MIB, true, create_dynamic, 0,
     false},
    {&vd_vhdx_format, 9 * MIB, 4096, 2 * MIB, false, create_dynamic, 0, false},
    {&vd_vhdx_format, 5 * MIB, 512, 2 * MIB, false, create_fixed, 0, false},
    {&vd_vhdx_format, 5 * MIB, 512, MIB, false, create_dynamic, 9 * MIB,
     false},
    {&vd_vhdx_format, 5 * MIB + 512, 512, MIB, true, create_dynamic, 9 * MIB,
     false},
    {&vd_vhdx_format, 6 * MIB, 4096, 2 * MIB, true, create_dynamic, 12 * MIB,
     false},
    {&vd_vhdx_format, 3 * MIB, 4096, MIB, false, create_fixed, 6 * MIB, false},
};

int
main(int argc, char **argv)
{
    uint64_t seeds = argc > 2 ? strtoull(argv[2], NULL, 10) : 3;
    for (size_t i = 0; i < sizeof(models) / sizeof(models[0]); i++) {
        for (uint64_t seed = 1; seed <= seeds; seed++) {
            format_model_run(&models[i], seed, 200);
        }
        if (models[i].largest_bytes != 0) { /* created as the others */
            format_model_crash(&models[i], 77 + i, 30, 11, 2);
            format_model_fail(&models[i], 99 + i, 6);
            continue;
        }
        format_model_create(&models[i], 4);
        format_model_crash(&models[i], 77 + i, 40, 2, 4);
        format_model_fail(&models[i], 99 + i, 12);
    }
    return check_result();
}
