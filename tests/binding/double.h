/*
 * What the files of the double share.  A name that ends in _locked is for
 * callers that hold double_lock.
 */
#ifndef DOUBLE_H
#define DOUBLE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include <windows.h>
#include <virtdisk.h>

#define EXPORT __attribute__((visibility("default")))

enum function {
    OPEN,
    ATTACH,
    DETACH,
    PHYSICAL_PATH,
    ALL_PATHS,
    INFORMATION,
    PROGRESS,
    CLOSE,
    CANCEL,
    CREATE_EVENT,
    WAIT,
    CONVERT,
    ADD_PARENT,
    RAW_SCSI,
    DESCRIPTOR,
    CREATE,
    COMPACT,
    MERGE,
    EXPAND,
    RESIZE,
    MIRROR,
    BREAK_MIRROR,
    SET_INFORMATION,
    ENUMERATE_METADATA,
    GET_METADATA,
    SET_METADATA,
    DELETE_METADATA,
    CREATE_FILE,
    DEPENDENCY,
    QUERY_CHANGES,
    TAKE_SNAPSHOT,
    DELETE_SNAPSHOT,
    MODIFY_SET,
    APPLY_SNAPSHOT,
    FORK,
    COMPLETE_FORK,
    FUNCTIONS,
};

enum {
    NO_FUNCTION = -1,
    CANCELLED = (int)0xC0000120, /* STATUS_CANCELLED */
    PATH_UNITS = 64,
    DESCRIPTOR_BYTES = 128,
    CDB_BYTES = 255,
    DATA_BYTES = 64,
    PARAMETER_BYTES = 184,
    TEXTS = 5,
};

/* What the last calls were given; mirrored in test_binding_double.py. */
struct recorded {
    uint32_t device_id;
    uint8_t vendor_id[16];
    uint32_t access_mask;
    uint32_t open_flags;
    uint32_t has_open_parameters;
    uint8_t open_parameters[44];
    uint16_t path[PATH_UNITS];
    uint32_t attach_flags;
    uint32_t provider_specific_flags;
    uint32_t has_attach_parameters;
    uint8_t attach_parameters[24];
    uint32_t has_descriptor;
    uint8_t descriptor[DESCRIPTOR_BYTES];
    uint32_t detach_flags;
    uint32_t detach_provider_flags;
    uint32_t descriptors_freed;
    uint32_t largest_query;
    uint32_t dependency_flags;
    uint32_t dependency_version;
    uint16_t parent_path[PATH_UNITS];
    uint32_t scsi_version;
    uint32_t rsvd_handle;
    uint32_t data_in;
    uint32_t cdb_length;
    uint32_t sense_length;
    uint32_t srb_flags;
    uint32_t data_length;
    uint32_t scsi_flags;
    uint8_t cdb[CDB_BYTES];
    uint8_t data[DATA_BYTES]; /* what came with a call that gives data */
};

extern struct recorded double_recorded;

/* What the last call that changes something was given; mirrored likewise.  A
 * pointer to text in the parameters is replaced by the number, from 1, of the
 * text; NULL stays. */
struct given {
    uint64_t numbers[2];
    uint32_t flags;
    uint32_t provider_specific_flags;
    uint32_t access_mask;
    uint32_t overlapped;
    uint32_t parameters_size; /* 0: NULL */
    uint32_t has_descriptor;
    uint32_t texts_count;
    uint8_t storage_type[20];
    uint8_t parameters[PARAMETER_BYTES];
    uint8_t guid[16];
    uint8_t descriptor[DESCRIPTOR_BYTES];
    uint16_t texts[TEXTS][PATH_UNITS];
};

extern struct given double_given;

/* What RawSCSIVirtualDisk answers; data that it gives is the output. */
struct scsi_answer {
    uint8_t status;
    uint8_t sense_length;
    uint8_t sense[255];
    uint8_t padding;
    uint32_t transferred;
};

extern struct scsi_answer double_scsi;

/* What GetVirtualDiskOperationProgress answers. */
struct progress_answer {
    uint64_t current;
    uint64_t completion;
};

extern struct progress_answer double_progress;

/* Guards everything, but for what the tests set before they call. */
extern pthread_mutex_t double_lock;

/* What calls that give data give, from malloc. */
extern uint8_t *double_data;
extern uint32_t double_data_size;

/* Every call comes through one of these: counted, held, answered. */
DWORD double_enter_locked(enum function function);
DWORD double_enter(enum function function);

/* The answer of a function that sets the last error. */
BOOL double_as_bool(DWORD code);

HANDLE double_new_object_locked(bool is_event);

/* If the answer is that it is, the operation is pending from now on. */
void double_pend_locked(OVERLAPPED *overlapped, DWORD code);

/* Gives out the data, or the size it has by now. */
DWORD double_query(enum function function, ULONG *size, void *buffer,
                   size_t offset);

void double_record_text(uint16_t *out, PCWSTR text);

/* The length of the self-relative descriptors of the tests: they end with
 * their DACL. */
size_t double_descriptor_size(const uint8_t *descriptor);

/* What the call now made was given by pointer, for double_intact(). */
void double_keep_nothing_locked(void);
void double_keep_locked(const void *pointer, size_t size);

/* Zeros, which double_allocations() does not count. */
void *double_allocate(size_t size);

#endif
