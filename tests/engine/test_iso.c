/* The ISO format: recognition, length rules, hostile descriptors. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "format/format.h"
#include "memory_file.h"

#define SECTOR 2048
#define FIRST 16

static const struct vd_open_request read_only = {.writable = false};

static uint8_t image[100 * SECTOR];

static void
clear(void)
{
    memset(image, 0, sizeof(image));
}

static void
put(unsigned sector, uint8_t type, const char *identifier)
{
    uint8_t *descriptor = image + sector * SECTOR;
    descriptor[0] = type;
    memcpy(descriptor + 1, identifier, 5);
    descriptor[6] = 1;
}

static bool
recognised(size_t size)
{
    bool found = false;
    struct memory_file memory = memory_file_over(image, size);
    CHECK_OK(vd_iso_format.probe(&memory.file, &found));
    return found;
}

static vd_error
open_error(size_t size)
{
    struct vd_image *opened = NULL;
    struct memory_file memory = memory_file_over(image, size);
    vd_error error = vd_iso_format.open(&memory.file, &read_only, &opened);
    if (error == 0) {
        CHECK_OK(opened->format->close(opened));
    }
    else {
        CHECK(opened == NULL);
    }
    return error;
}

static void
an_image_is_an_optical_disc(void)
{
    clear();
    put(FIRST, 1, "CD001");
    size_t size = 20 * SECTOR;
    struct memory_file memory = memory_file_over(image, size);
    struct vd_image *opened = NULL;
    CHECK(recognised(size));
    CHECK_OK(vd_iso_format.open(&memory.file, &read_only, &opened));
    CHECK(opened->format == &vd_iso_format);
    CHECK(opened->file == &memory.file);
    CHECK_EQ(size, opened->info.size_bytes);
    CHECK_EQ(2048, opened->info.sector_size);
    CHECK_EQ(2048, opened->info.physical_sector_size);
    CHECK_EQ(0, opened->info.block_size);
    CHECK_EQ(VD_SUBTYPE_NONE, opened->info.subtype);
    CHECK(opened->info.optical);
    CHECK(!opened->info.has_identifier);
    struct vd_extent extent;
    CHECK_OK(opened->format->lookup(opened, 3000, 4000, &extent));
    CHECK_EQ(VD_EXTENT_PRESENT, extent.state);
    CHECK_EQ(3000, extent.file_offset);
    CHECK_EQ(4000, extent.length);
    CHECK_OK(opened->format->close(opened));
    CHECK_STR("ISO", vd_iso_format.name);
    CHECK_EQ(1, vd_iso_format.device_id);
}

static void
lengths_are_those_of_windows(void)
{
    clear();
    put(FIRST, 1, "CD001");
    CHECK_OK(open_error(34816));
    CHECK_EQ(1392, open_error(34816 - 2048));
    CHECK_EQ(1392, open_error(34816 - 1));
    CHECK_EQ(1392, open_error(34816 + 1));
    CHECK_EQ(1392, open_error(34816 + 512));
    CHECK_EQ(1392, open_error(0));
    /* recognised as what it is, however damaged */
    CHECK(recognised(34816 + 1));
    CHECK(recognised(32768 + 16));
    CHECK(!recognised(32768 + 15));
    CHECK(!recognised(32768));
    CHECK(!recognised(0));
}

static void
descriptors_decide(void)
{
    static const struct {
        const char *names[5]; /* of sectors 16.. */
        uint8_t types[5];
        bool recognised;
        vd_error error;
    } cases[] = {
        {{"CD001"}, {1}, true, 0},
        {{"CD001", "CD001"}, {0, 1}, true, 0},
        {{"CD001", "CD001", "CD001"}, {2, 3, 1}, true, 0},
        {{"CD001"}, {255}, true, 1392},
        {{"CD001", "CD001"}, {0, 2}, true, 1392},
        {{"BEA01", "NSR02", "TEA01"}, {0}, true, 0},
        {{"BEA01", "NSR03", "TEA01"}, {0}, true, 0},
        {{"BEA01", "BOOT2", "NSR03", "TEA01"}, {0}, true, 0},
        {{"BEA01", "TEA01", "NSR02"}, {0}, true, 1392},
        {{"NSR02", "TEA01"}, {0}, true, 1392},
        {{"NSR02", "BEA01"}, {0}, true, 1392},
        {{"BEA01", "XXXXX", "NSR02"}, {0}, true, 1392},
        {{"BEA01", "NSR04"}, {0}, true, 1392},
        /* a bridge disc without the first half */
        {{"CD001", "BEA01", "NSR02"}, {255, 0, 0}, true, 0},
        {{"XXXXX", "CD001"}, {1, 1}, false, 1392},
        {{"TEA01", "CD001"}, {0, 1}, false, 1392},
        {{"cd001"}, {1}, false, 1392},
        {{"CDROM"}, {1}, false, 1392}, /* at the place of the others */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        clear();
        for (unsigned n = 0; n < 5 && cases[i].names[n] != NULL; n++) {
            put(FIRST + n, cases[i].types[n], cases[i].names[n]);
        }
        CHECK_EQ(cases[i].recognised, recognised(32 * SECTOR));
        CHECK_EQ(cases[i].error, open_error(32 * SECTOR));
    }
}

static void
high_sierra_is_a_disc_too(void)
{
    clear();
    memcpy(image + FIRST * SECTOR + 8,
           "\x01"
           "CDROM\x01",
           7);
    CHECK(recognised(20 * SECTOR));
    CHECK_OK(open_error(20 * SECTOR));
    image[FIRST * SECTOR + 8] = 0; /* its boot record alone */
    CHECK(recognised(20 * SECTOR));
    CHECK_EQ(1392, open_error(20 * SECTOR));
}

static void
the_walk_is_bounded(void)
{
    clear();
    for (unsigned i = 0; i < 63; i++) {
        put(FIRST + i, 2, "CD001");
    }
    put(FIRST + 63, 1, "CD001");
    CHECK_OK(open_error(sizeof(image)));
    put(FIRST + 63, 2, "CD001");
    put(FIRST + 64, 1, "CD001");
    struct memory_file memory = memory_file_over(image, sizeof(image));
    struct vd_image *opened = NULL;
    CHECK_EQ(1392, vd_iso_format.open(&memory.file, &read_only, &opened));
    CHECK_EQ(64, memory.reads);
}

static void
faults_are_reported(void)
{
    clear();
    put(FIRST, 0, "CD001");
    put(FIRST + 1, 1, "CD001");
    for (int n = 0; n < 3; n++) {
        bool found = true;
        struct vd_image *opened = NULL;
        struct memory_file memory = memory_file_over(image, 20 * SECTOR);
        memory.operations_left = n;
        CHECK_EQ(1117, vd_iso_format.probe(&memory.file, &found));
        memory.operations_left = n;
        CHECK_EQ(1117, vd_iso_format.open(&memory.file, &read_only, &opened));
        CHECK(found && opened == NULL);
    }
    check_fail_allocation(0);
    CHECK_EQ(8, open_error(20 * SECTOR));
    CHECK(check_fail_allocation(-1));
}

int
main(void)
{
    an_image_is_an_optical_disc();
    lengths_are_those_of_windows();
    descriptors_decide();
    high_sierra_is_a_disc_too();
    the_walk_is_bounded();
    faults_are_reported();
    return check_result();
}
