/*
 * VHD against the model: random operations, power cuts and faults, on every
 * kind of image, both block sizes and the layouts of other software.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "format/vhd_create.h"
#include "format_model.h"
#include "vhd_build.h"

#define KIB 1024u
#define MIB (1024u * 1024u)

static vd_error
create(struct vd_file *file, const struct format_model *model)
{
    struct vd_vhd_create_request request = {
        .type = model->child ? VHD_TYPE_DIFFERENCING : VHD_TYPE_DYNAMIC,
        .size_bytes = model->size_bytes,
        .block_size = model->block_size,
        .creator_application = "win ",
        .creator_version = 0x000A0000,
        .relative_path = model->child ? u".\\parent.vhd" : NULL,
        .absolute_path = model->child ? u"C:\\parent.vhd" : NULL,
    };
    memset(&request.unique_id, 1, VD_GUID_SIZE);
    if (model->child) {
        memset(&request.parent_id, 2, VD_GUID_SIZE);
    }
    return vd_vhd_create(file, &request);
}

/* Blocks of any size, unaligned as Virtual PC and QEMU place them: one block
 * of zeros is there already, its bitmap of no (child) or all bits. */
static vd_error
create_unaligned(struct vd_file *file, const struct format_model *model)
{
    struct build build = {
        .creator = "vpc ",
        .creator_version = 0x00010000,
        .size = model->size_bytes,
        .block_size = model->block_size,
        .type = model->child ? 4 : 3,
    };
    uint64_t at = build_bat_end(&build);
    build_image(file, &build,
                at + build_bitmap_size(&build) + model->block_size);
    build_entry(file, 0, (uint32_t)(at / 512));
    build_bitmap(file, &build, (uint32_t)(at / 512), model->child ? 0 : 0xFF);
    return vd_file_flush(file);
}

/* With the footer of software before Virtual PC 2004. */
static vd_error
create_old_fixed(struct vd_file *file, const struct format_model *model)
{
    uint8_t footer[FOOTER];
    put_simple_footer(footer, model->size_bytes, 2);
    put_bytes(file, model->size_bytes, footer, 511);
    return vd_file_flush(file);
}

/* The same, dynamic, and far behind the last block. */
static vd_error
create_old_dynamic(struct vd_file *file, const struct format_model *model)
{
    struct build build = {
        .size = model->size_bytes,
        .block_size = model->block_size,
        .type = 3,
    };
    uint64_t end = build_bat_end(&build) + 10000;
    build_image(file, &build, end);
    CHECK_OK(vd_file_truncate(file, end + 511));
    return vd_file_flush(file);
}

struct job {
    struct format_model model;
    size_t operations; /* of a run with power cuts */
};

static const struct job jobs[] = {
    {{&vd_vhd_format, 9 * MIB + 512, 512, 2 * MIB, false, create, 0, false},
     30},
    {{&vd_vhd_format, 5 * MIB - 512, 512, 512 * KIB, false, create, 0, false},
     30},
    {{&vd_vhd_format, 9 * MIB + 512, 512, 2 * MIB, true, create, 0, false},
     30},
    {{&vd_vhd_format, 5 * MIB - 512, 512, 512 * KIB, true, create, 0, false},
     30},
    {{&vd_vhd_format, 9 * MIB, 512, 2 * MIB, false, create_unaligned, 0,
      false},
     30},
    {{&vd_vhd_format, 9 * MIB, 512, 2 * MIB, true, create_unaligned, 0, false},
     30},
    {{&vd_vhd_format, 14 * MIB, 512, 4 * MIB, true, create_unaligned, 0,
      false},
     20},
    /* Small ones, for their many blocks that come and go. */
    {{&vd_vhd_format, 64 * KIB, 512, 4 * KIB, false, create_unaligned, 0,
      false},
     400},
    {{&vd_vhd_format, 63 * KIB, 512, 4 * KIB, true, create_unaligned, 0,
      false},
     400},
    {{&vd_vhd_format, 95 * KIB, 512, 8 * KIB, false, create_old_dynamic, 0,
      false},
     300},
    {{&vd_vhd_format, 3 * MIB, 512, 512 * KIB, false, create_old_dynamic, 0,
      false},
     30},
    {{&vd_vhd_format, 2 * MIB + 512, 512, MIB, false, create_old_fixed, 0,
      false},
     30},
    /* Images as a whole: those of small blocks get another BAT. */
    {{&vd_vhd_format, 3 * MIB, 512, 512 * KIB, false, create, 5 * MIB, true},
     25},
    {{&vd_vhd_format, 3 * MIB + 512, 512, 512 * KIB, true, create, 4 * MIB,
      true},
     25},
    {{&vd_vhd_format, 40 * KIB, 512, 4 * KIB, false, create_unaligned,
      800 * KIB, true},
     120},
    {{&vd_vhd_format, 63 * KIB, 512, 4 * KIB, true, create_unaligned, 64 * KIB,
      true},
     150},
    {{&vd_vhd_format, 95 * KIB, 512, 8 * KIB, false, create_old_dynamic,
      1200 * KIB, true},
     100},
    {{&vd_vhd_format, 30 * KIB, 512, MIB, false, create_old_fixed, 90 * KIB,
      true},
     60},
};

int
main(int argc, char **argv)
{
    uint64_t seeds = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    for (size_t i = 0; i < sizeof(jobs) / sizeof(jobs[0]); i++) {
        const struct format_model *model = &jobs[i].model;
        for (uint64_t seed = 1; seed <= seeds; seed++) {
            format_model_run(model, seed, 150);
            format_model_crash(model, 77 + i + 100 * seed, jobs[i].operations,
                               model->largest_bytes != 0 ? 3 : 1, 3);
        }
        format_model_fail(model, 99 + i, 12);
    }
    return check_result();
}
