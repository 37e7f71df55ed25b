/*
 * A pyconfig.h for building a limited-API extension for Windows with the
 * headers of this host's CPython: its headers are the same on every system,
 * only this file differs.
 *
 * States facts of the Windows ABI (LLP64) that the headers ask for under
 * Py_LIMITED_API, and no more.
 */
#ifndef WINE_PYCONFIG_H
#define WINE_PYCONFIG_H

#ifndef _WIN32
#error "for Windows targets only"
#endif

#define MS_WINDOWS 1
#define MS_WIN32 1
#ifdef _WIN64
#define MS_WIN64 1
#endif

/* The Python API lives in a DLL. */
#define HAVE_DECLSPEC_DLL 1
#define Py_ENABLE_SHARED 1

#define SIZEOF_SHORT 2
#define SIZEOF_INT 4
#define SIZEOF_LONG 4
#define SIZEOF_LONG_LONG 8
#define SIZEOF_WCHAR_T 2
#define SIZEOF_TIME_T 8
#define SIZEOF_PID_T SIZEOF_INT
#define SIZEOF_FLOAT 4
#define SIZEOF_DOUBLE 8
#define SIZEOF_FPOS_T 8
#ifdef _WIN64
#define SIZEOF_VOID_P 8
#else
#define SIZEOF_VOID_P 4
#endif
#define SIZEOF_SIZE_T SIZEOF_VOID_P
#define SIZEOF_HKEY SIZEOF_VOID_P
#define ALIGNOF_SIZE_T SIZEOF_VOID_P
#define ALIGNOF_MAX_ALIGN_T 8

#define HAVE_STDDEF_H 1
#define HAVE_WCHAR_H 1 /* for PyUnicode_AsWideCharString and its like */
#define HAVE_SYS_TYPES_H 1
#define HAVE_SYS_STAT_H 1
#define HAVE_ERRNO_H 1
#define HAVE_IO_H 1
#define HAVE_PROCESS_H 1
#define HAVE_FCNTL_H 1
#define HAVE_WCSCOLL 1
#define WITH_THREAD 1
#define NT_THREADS 1
#define DOUBLE_IS_LITTLE_ENDIAN_IEEE754 1

_Static_assert(sizeof(long) == SIZEOF_LONG, "LLP64");
_Static_assert(sizeof(void *) == SIZEOF_VOID_P, "pointers");
_Static_assert(sizeof(__WCHAR_TYPE__) == SIZEOF_WCHAR_T, "UTF-16");

#endif
