/*
 * Small images and shorter calls for the tests of api/.  See api_support.h.
 */
#include "api_support.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/handles.h"
#include "check.h"

#define FOOTER_BYTES 512

const uint8_t vhd_identifier[16] = {
    0x10, 0x21, 0x32, 0x43, 0x54, 0x65, 0x76, 0x87,
    0x98, 0xA9, 0xBA, 0xCB, 0xDC, 0xED, 0xFE, 0x0F,
};

static void
put_be32(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 24);
    at[1] = (uint8_t)(value >> 16);
    at[2] = (uint8_t)(value >> 8);
    at[3] = (uint8_t)value;
}

static void
put_le32(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
    at[2] = (uint8_t)(value >> 16);
    at[3] = (uint8_t)(value >> 24);
}

/* FORMATS: the footer of a fixed disk, field by field. */
static void
make_footer(uint8_t footer[FOOTER_BYTES])
{
    memset(footer, 0, FOOTER_BYTES);
    memcpy(footer, "conectix", 8);
    put_be32(footer + 8, 2);           /* features: reserved bit */
    put_be32(footer + 12, 0x00010000); /* file format version */
    memset(footer + 16, 0xFF, 8);      /* no dynamic header */
    memcpy(footer + 28, "win ", 4);
    put_be32(footer + 44, VHD_BYTES); /* original size, low half */
    put_be32(footer + 52, VHD_BYTES); /* current size, low half */
    put_be32(footer + 60, 2);         /* fixed */
    memcpy(footer + 68, vhd_identifier, sizeof(vhd_identifier));
    uint32_t sum = 0;
    for (size_t i = 0; i < FOOTER_BYTES; i++) {
        sum += footer[i];
    }
    put_be32(footer + 64, ~sum);
}

void
make_vhd(const char *path, const void *head, size_t head_length)
{
    uint8_t *image = malloc(VHD_BYTES + FOOTER_BYTES);
    if (image == NULL) {
        check_broken("memory for an image");
    }
    for (size_t i = 0; i < VHD_BYTES; i++) {
        image[i] = (uint8_t)(i >> 9 ^ i * 31);
    }
    if (head != NULL) {
        memcpy(image, head, head_length);
    }
    else {
        image[510] = 0; /* no signature of a partition table */
    }
    make_footer(image + VHD_BYTES);
    check_write_file(path, image, VHD_BYTES + FOOTER_BYTES);
    free(image);
}

void
make_iso(const char *path)
{
    uint8_t *image = calloc(1, ISO_BYTES);
    if (image == NULL) {
        check_broken("memory for an image");
    }
    memcpy(image + 16 * 2048, "\1CD001\1", 7);   /* primary descriptor */
    memcpy(image + 17 * 2048, "\377CD001\1", 7); /* terminator */
    check_write_file(path, image, ISO_BYTES);
    free(image);
}

void
make_mbr(uint8_t sector[512], const struct mbr_entry entries[4])
{
    memset(sector, 0, 512);
    for (size_t i = 0; i < 4; i++) {
        uint8_t *entry = sector + 446 + 16 * i;
        entry[4] = entries[i].type;
        put_le32(entry + 8, entries[i].first);
        put_le32(entry + 12, entries[i].count);
    }
    sector[510] = 0x55;
    sector[511] = 0xAA;
}

char16_t *
wide(const char *text)
{
    static char16_t buffers[4][4096];
    static unsigned next;
    char16_t *buffer = buffers[next++ % 4];
    size_t i = 0;
    for (; text[i] != '\0'; i++) {
        buffer[i] = (unsigned char)text[i];
    }
    buffer[i] = 0;
    return buffer;
}

const char *
narrow(const char16_t *text)
{
    static char buffers[4][4096];
    static unsigned next;
    char *buffer = buffers[next++ % 4];
    size_t i = 0;
    for (; text[i] != 0; i++) {
        buffer[i] = (char)text[i];
    }
    buffer[i] = '\0';
    return buffer;
}

static DWORD
open_with(const char *path, unsigned mask,
          OPEN_VIRTUAL_DISK_PARAMETERS *parameters, HANDLE *out)
{
    VIRTUAL_STORAGE_TYPE type = {.DeviceId = 0};
    return OpenVirtualDisk(&type, wide(path), mask,
                           OPEN_VIRTUAL_DISK_FLAG_NONE, parameters, out);
}

DWORD
open_1(const char *path, unsigned mask, unsigned depth, HANDLE *out)
{
    OPEN_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = OPEN_VIRTUAL_DISK_VERSION_1,
        .Version1 = {.RWDepth = depth},
    };
    return open_with(path, mask, &parameters, out);
}

DWORD
open_2(const char *path, bool info_only, bool read_only, HANDLE *out)
{
    OPEN_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = OPEN_VIRTUAL_DISK_VERSION_2,
        .Version2 = {.GetInfoOnly = info_only, .ReadOnly = read_only},
    };
    return open_with(path, VIRTUAL_DISK_ACCESS_NONE, &parameters, out);
}

HANDLE
open_all(const char *path)
{
    HANDLE handle = NULL;
    CHECK_OK(open_2(path, false, false, &handle));
    return handle;
}

HANDLE
open_iso(const char *path)
{
    HANDLE handle = NULL;
    CHECK_OK(open_1(path, VIRTUAL_DISK_ACCESS_READ, 0, &handle));
    return handle;
}

void
make_image(const char *path, unsigned device_id, const char *parent)
{
    VIRTUAL_STORAGE_TYPE type = {.DeviceId = device_id};
    CREATE_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = CREATE_VIRTUAL_DISK_VERSION_2,
    };
    HANDLE handle = NULL;
    parameters.Version2.MaximumSize = parent == NULL ? SMALL_BYTES : 0;
    parameters.Version2.ParentPath = parent == NULL ? NULL : wide(parent);
    if (device_id == VIRTUAL_STORAGE_TYPE_DEVICE_VHDX) {
        parameters.Version2.BlockSizeInBytes = 1 << 20;
    }
    unlink(path);
    CHECK_OK(CreateVirtualDisk(&type, wide(path), VIRTUAL_DISK_ACCESS_NONE,
                               NULL, CREATE_VIRTUAL_DISK_FLAG_NONE, 0,
                               &parameters, NULL, &handle));
    close_handle(handle);
}

static DWORD
move_sectors(HANDLE handle, bool write, uint32_t sector, uint8_t *data,
             uint32_t sectors)
{
    uint8_t cdb[10] = {write ? 0x2A : 0x28};
    put_be32(cdb + 2, sector);
    cdb[7] = (uint8_t)(sectors >> 8);
    cdb[8] = (uint8_t)sectors;
    RAW_SCSI_VIRTUAL_DISK_RESPONSE response = {.Version = 0};
    RAW_SCSI_VIRTUAL_DISK_PARAMETERS parameters = {
        .Version = RAW_SCSI_VIRTUAL_DISK_VERSION_1,
        .Version1 =
            {
                .DataIn = !write,
                .CdbLength = sizeof(cdb),
                .DataTransferLength = sectors * 512,
                .DataBuffer = data,
                .Cdb = cdb,
            },
    };
    DWORD error = RawSCSIVirtualDisk(handle, &parameters, 0, &response);
    CHECK_EQ(0, response.Version1.ScsiStatus);
    return error;
}

void
write_byte(const char *path, uint32_t sector, uint32_t sectors, uint8_t byte)
{
    uint8_t *data = malloc((size_t)sectors * 512);
    HANDLE handle = open_all(path);
    if (data == NULL) {
        check_broken("memory for sectors");
    }
    memset(data, byte, (size_t)sectors * 512);
    CHECK_OK(attach(handle, ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST));
    CHECK_OK(move_sectors(handle, true, sector, data, sectors));
    CHECK_OK(detach(handle));
    close_handle(handle);
    free(data);
}

unsigned
read_byte(const char *path, uint32_t sector)
{
    uint8_t data[512] = {0};
    HANDLE handle = NULL;
    CHECK_OK(open_2(path, false, true, &handle));
    CHECK_OK(attach(handle, ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST |
                                ATTACH_VIRTUAL_DISK_FLAG_READ_ONLY));
    CHECK_OK(move_sectors(handle, false, sector, data, 1));
    close_handle(handle);
    CHECK(memcmp(data, data + 1, sizeof(data) - 1) == 0);
    return data[0];
}

DWORD
attach(HANDLE handle, unsigned flags)
{
    return AttachVirtualDisk(handle, NULL, flags, 0, NULL, NULL);
}

DWORD
detach(HANDLE handle)
{
    return DetachVirtualDisk(handle, DETACH_VIRTUAL_DISK_FLAG_NONE, 0);
}

const char *
device_of(HANDLE handle)
{
    static char16_t path[64];
    ULONG size = sizeof(path);
    DWORD error = GetVirtualDiskPhysicalPath(handle, &size, path);
    if (error != ERROR_SUCCESS) {
        CHECK_EQ(ERROR_DEV_NOT_EXIST, error);
        return "";
    }
    return narrow(path);
}

bool
is_loaded(HANDLE handle)
{
    GET_VIRTUAL_DISK_INFO info = {.Version = GET_VIRTUAL_DISK_INFO_IS_LOADED};
    ULONG size = sizeof(info);
    CHECK_OK(GetVirtualDiskInformation(handle, &size, &info, NULL));
    return info.IsLoaded != FALSE;
}

void
close_handle(HANDLE handle)
{
    CHECK(CloseHandle(handle));
}

void
need_loop(void)
{
    if (geteuid() != 0) {
        check_skip("needs root");
    }
    if (access("/dev/loop-control", R_OK | W_OK) != 0) {
        check_skip("needs /dev/loop-control");
    }
}

unsigned
count_descriptors(void)
{
    check_let_watcher_end();
    DIR *directory = opendir("/proc/self/fd");
    if (directory == NULL) {
        check_broken("/proc/self/fd");
    }
    unsigned count = 0;
    while (readdir(directory) != NULL) {
        count++;
    }
    closedir(directory);
    return count - 3; /* ".", ".." and the directory itself */
}

static bool
has_descriptors(void *count)
{
    return count_descriptors() == *(unsigned *)count;
}

bool
descriptors_become(unsigned count)
{
    return check_eventually(has_descriptors, &count);
}

static bool
has_handles(void *count)
{
    return vd_handle_count() == *(size_t *)count;
}

bool
handles_become(size_t count)
{
    return check_eventually(has_handles, &count);
}
