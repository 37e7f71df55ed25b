/*
 * GetLastError and SetLastError: what the BOOL and HANDLE functions of
 * windows.h and sddl.h failed with, per thread.  The functions of virtdisk.h
 * return their code and set nothing.
 */
#include <windows.h>

static _Thread_local DWORD last_error;

DWORD WINAPI
GetLastError(void)
{
    return last_error;
}

void WINAPI
SetLastError(DWORD dwErrCode)
{
    last_error = dwErrCode;
}
