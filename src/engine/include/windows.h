/*
 * The small subset of Win32 that virtdisk.h and its callers need, for Linux.
 *
 * Types have the sizes they have on Windows, not those of their C names:
 * DWORD and ULONG are 32 bits also where long has 64, WCHAR is UTF-16 also
 * where wchar_t has 32 (API: WinDef.h, BaseTsd.h, WinNT.h, MinWinBase.h of
 * the Windows SDK).  The functions declared here are implemented by the
 * engine (api/) with the behaviour Microsoft documents, for the objects that
 * exist here: virtual disk handles, events, and disks, directories and files
 * that are only asked what they are.  There are no threads or processes
 * behind HANDLE, and no ANSI variants.
 *
 * Nothing of this is used on Windows.
 */
#ifndef _WINDOWS_
#define _WINDOWS_

#ifdef _WIN32
#error "on Windows use the windows.h of the compiler"
#endif

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifndef __cplusplus
#include <uchar.h>
#endif

#include <winerror.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Source annotations.  They say in a prototype what the pointers are for
 * and are checked by Microsoft's analyser only.
 */
#define _In_
#define _In_opt_
#define _In_reads_bytes_(size)
#define _Out_
#define _Out_opt_
#define _Out_writes_(count)
#define _Out_writes_bytes_(size)
#define _Out_writes_to_(size, count)
#define _Inout_
#define _Inout_opt_
#define _Inout_updates_bytes_to_(size, count)

#define WINAPI

/*
 * A 64-bit integer inside a structure is aligned to 8 bytes on Windows; on
 * 32-bit x86 Linux only to 4 unless it is told.
 */
#ifdef __cplusplus
#define DECLSPEC_ALIGN(bytes) alignas(bytes)
#else
#define DECLSPEC_ALIGN(bytes) _Alignas(bytes)
#endif

typedef uint8_t BYTE;
typedef uint8_t UCHAR;
typedef uint16_t WORD;
typedef uint16_t USHORT;
typedef int32_t LONG;
typedef uint32_t DWORD;
typedef uint32_t ULONG;
typedef int64_t LONGLONG;
typedef uint64_t DWORD64;
typedef uint64_t ULONG64;
typedef uint64_t ULONGLONG;
typedef intptr_t LONG_PTR;
typedef uintptr_t ULONG_PTR;
typedef size_t SIZE_T;

typedef DWORD *PDWORD;
typedef DWORD *LPDWORD;
typedef ULONG *PULONG;
typedef ULONG64 *PULONG64;
typedef ULONGLONG *PULONGLONG;

typedef void *PVOID;
typedef void *LPVOID;

typedef int32_t BOOL;
#define FALSE 0
#define TRUE 1

typedef char16_t WCHAR;
typedef WCHAR *PWSTR;
typedef WCHAR *LPWSTR;
typedef const WCHAR *PCWSTR;
typedef const WCHAR *LPCWSTR;

/* Opaque: a number the engine gives out, never a pointer to follow. */
typedef void *HANDLE;
typedef HANDLE *PHANDLE;
typedef HANDLE HLOCAL;
#define INVALID_HANDLE_VALUE ((HANDLE)(LONG_PTR) - 1)

typedef struct _GUID {
    uint32_t Data1;
    uint16_t Data2;
    uint16_t Data3;
    uint8_t Data4[8];
} GUID;

#ifdef __cplusplus
#define IsEqualGUID(a, b) (memcmp(&(a), &(b), sizeof(GUID)) == 0)
#else
/* Takes two pointers in C, two references in C++, as the SDK's does. */
#define IsEqualGUID(a, b) (memcmp((a), (b), sizeof(GUID)) == 0)
#endif

/* A self-relative or absolute SECURITY_DESCRIPTOR ([MS-DTYP] 2.4.6). */
typedef PVOID PSECURITY_DESCRIPTOR;

typedef struct _SECURITY_ATTRIBUTES {
    DWORD nLength;
    LPVOID lpSecurityDescriptor;
    BOOL bInheritHandle;
} SECURITY_ATTRIBUTES, *PSECURITY_ATTRIBUTES, *LPSECURITY_ATTRIBUTES;

/*
 * One asynchronous call.  The engine writes to it until the call has
 * completed, so it must neither move nor go before then.  Internal is
 * STATUS_PENDING for exactly as long as the call runs.
 */
typedef struct _OVERLAPPED {
    ULONG_PTR Internal;
    ULONG_PTR InternalHigh;
    union {
        struct {
            DWORD Offset;
            DWORD OffsetHigh;
        };
        PVOID Pointer;
    };
    HANDLE hEvent;
} OVERLAPPED, *LPOVERLAPPED;

#define STATUS_PENDING ((DWORD)0x00000103)
#define HasOverlappedIoCompleted(overlapped)                                  \
    ((DWORD)(overlapped)->Internal != STATUS_PENDING)

#define INFINITE 0xFFFFFFFFU
#define WAIT_OBJECT_0 ((DWORD)0x00000000)
#define WAIT_FAILED ((DWORD)0xFFFFFFFF)

BOOL WINAPI CloseHandle(_In_ HANDLE hObject);

#define GENERIC_READ 0x80000000U
#define FILE_SHARE_READ 0x00000001
#define FILE_SHARE_WRITE 0x00000002
#define FILE_SHARE_DELETE 0x00000004
#define OPEN_EXISTING 3
#define FILE_ATTRIBUTE_NORMAL 0x00000080
#define FILE_FLAG_BACKUP_SEMANTICS 0x02000000 /* for a directory */

/*
 * A handle to a block device (a disk or a partition), a directory or a file,
 * for GetStorageDependencyInformation: nothing can be read or written through
 * it, whatever the access.  INVALID_HANDLE_VALUE on failure.  Known are the
 * constants above; the attributes and the template must be NULL.
 */
HANDLE WINAPI CreateFileW(_In_ LPCWSTR lpFileName, _In_ DWORD dwDesiredAccess,
                          _In_ DWORD dwShareMode,
                          _In_opt_ LPSECURITY_ATTRIBUTES lpSecurityAttributes,
                          _In_ DWORD dwCreationDisposition,
                          _In_ DWORD dwFlagsAndAttributes,
                          _In_opt_ HANDLE hTemplateFile);

/* The calling thread's last error; set by the BOOL and HANDLE functions
 * below when they fail, never by those of virtdisk.h. */
DWORD WINAPI GetLastError(void);
void WINAPI SetLastError(_In_ DWORD dwErrCode);

/* lpEventAttributes and lpName must be NULL: events have no security of
 * their own and are not shared between processes. */
HANDLE WINAPI CreateEventW(_In_opt_ LPSECURITY_ATTRIBUTES lpEventAttributes,
                           _In_ BOOL bManualReset, _In_ BOOL bInitialState,
                           _In_opt_ LPCWSTR lpName);
BOOL WINAPI SetEvent(_In_ HANDLE hEvent);
BOOL WINAPI ResetEvent(_In_ HANDLE hEvent);
DWORD WINAPI WaitForSingleObject(_In_ HANDLE hHandle,
                                 _In_ DWORD dwMilliseconds);

/*
 * Not of Win32: an event's descriptor, readable for as long as the event is
 * signalled, for poll() and event loops.  It is the event's own, to be waited
 * for and neither read, written nor closed, and valid until CloseHandle.  -1,
 * with the last error set, if hEvent is no event.
 */
int GetEventDescriptor(_In_ HANDLE hEvent);

BOOL WINAPI CancelIoEx(_In_ HANDLE hFile, _In_opt_ LPOVERLAPPED lpOverlapped);
BOOL WINAPI GetOverlappedResult(_In_ HANDLE hFile,
                                _In_ LPOVERLAPPED lpOverlapped,
                                _Out_ LPDWORD lpNumberOfBytesTransferred,
                                _In_ BOOL bWait);

/* Frees what ConvertStringSecurityDescriptorToSecurityDescriptorW gave. */
HLOCAL WINAPI LocalFree(_In_opt_ HLOCAL hMem);

BOOL WINAPI
IsValidSecurityDescriptor(_In_ PSECURITY_DESCRIPTOR pSecurityDescriptor);
DWORD WINAPI
GetSecurityDescriptorLength(_In_ PSECURITY_DESCRIPTOR pSecurityDescriptor);

#ifdef __cplusplus
}
#endif

#endif
