/*
 * VHDX images on real files, for the tests of api/: 8 MiB disks with 1 MiB
 * blocks and 512-byte sectors.
 */
#ifndef VIRTDISK_TESTS_VHDX_IMAGES_H
#define VIRTDISK_TESTS_VHDX_IMAGES_H

#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/posix_file.h"
#include "check.h"
#include "format/vhdx_create.h"

#define VHDX_BYTES ((uint64_t)8 << 20)
#define VHDX_BLOCK ((uint32_t)1 << 20)

/* The DataWriteGuid of an image, from its greater header ([MS-VHDX]
 * 2.2.2). */
static inline struct vd_guid
vhdx_data_write_guid(const char *path)
{
    uint8_t headers[2][4096];
    struct vd_guid guid;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || pread(fd, headers[0], 4096, 65536) != 4096 ||
        pread(fd, headers[1], 4096, 131072) != 4096) {
        check_broken("reading headers");
    }
    close(fd);
    unsigned slot = vd_get_le64(headers[1] + 8) > vd_get_le64(headers[0] + 8);
    memcpy(&guid, headers[slot] + 32, sizeof(guid));
    return guid;
}

/* A disk of its own, or the child of an image; relative_path is what the
 * child calls that. */
static inline void
make_vhdx(const char *path, const char *parent, const char16_t *relative_path)
{
    static uint8_t serial;
    struct vhdx_create_request request = {
        .size_bytes = VHDX_BYTES,
        .block_size = VHDX_BLOCK,
        .logical_sector_size = 512,
        .physical_sector_size = 4096,
        .has_parent = parent != NULL,
        .relative_path = relative_path,
        .creator = u"virtdisk",
    };
    struct vd_posix_file *file;
    serial++;
    memset(&request.file_write_guid, serial, VD_GUID_SIZE);
    memset(&request.data_write_guid, 0x80 + serial, VD_GUID_SIZE);
    memset(&request.virtual_disk_id, 1, VD_GUID_SIZE);
    if (parent != NULL) {
        request.parent_linkage = vhdx_data_write_guid(parent);
    }
    unlink(path);
    check_write_file(path, "", 0);
    CHECK_OK(vd_posix_file_open(AT_FDCWD, path, true, &file));
    CHECK_OK(vd_vhdx_create(&file->file, &request));
    vd_posix_file_close(file);
}

#endif
