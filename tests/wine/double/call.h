/*
 * The parts that the functions of the double have in common: a call is
 * begun, its arguments are written down (record.h), the script's answer is
 * given (script.h), and the call is ended.
 *
 * Structures are raw bytes of the sizes, and members at the places, that
 * Microsoft's metadata publishes for x64; no virtdisk.h is included, so that
 * a wrong header, structure or calling convention in the code under test
 * cannot cancel out.
 */
#ifndef DOUBLE_CALL_H
#define DOUBLE_CALL_H

#include "disk.h"
#include "script.h"

#define EXPORT __declspec(dllexport) DWORD WINAPI

enum {
    SIZE_GUID = 16,
    SIZE_VIRTUAL_STORAGE_TYPE = 20,
};

struct call {
    struct record record;
    struct answer answer;
};

void call_begin(struct call *call, const char *function);

/* Of a function with a structure that begins with its version. */
void call_begin_versioned(struct call *call, const char *function,
                          const void *structure);

/* Waits at the gate if the script says so, and writes the record. */
DWORD call_end(struct call *call, DWORD result);

/* Writes down the handle; ERROR_INVALID_HANDLE if it is not one that the
 * double gave out, else the result of the script. */
DWORD call_handle(struct call *call, HANDLE handle);

void call_descriptor(struct call *call, void *descriptor);
void call_overlapped(struct call *call, const OVERLAPPED *overlapped);

/* The result of a function that has an OVERLAPPED: where the script says so,
 * an operation that goes on, during which its parameters stay. */
DWORD call_go_on(struct call *call, DWORD result, HANDLE handle,
                 OVERLAPPED *overlapped, const void *parameters, size_t size);

/* A member that points to text: its address and the text. */
void call_text_member(struct call *call, const char *name,
                      const void *structure, size_t offset);

/* Fills a buffer by the documented rule: too small a one is
 * ERROR_INSUFFICIENT_BUFFER and the size it must have.  Writes down as Answer
 * what is handed out. */
DWORD call_fill(struct call *call, ULONG *size, void *buffer);

/* Hands out the data of the script if it is of this size. */
bool call_give(struct call *call, void *out, size_t size);

/* A handle that is not ours to close: what *Handle holds after a failure,
 * where it is undefined. */
HANDLE call_decoy(void);

#endif
