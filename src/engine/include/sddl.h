/*
 * Security descriptors from text, for Linux: the one function of the
 * Windows SDK's sddl.h that AttachVirtualDisk's callers need.
 */
#ifndef __SDDL_H__
#define __SDDL_H__

#include <windows.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SDDL_REVISION_1 1
#define SDDL_REVISION SDDL_REVISION_1

/* *SecurityDescriptor is self-relative; free it with LocalFree().  FALSE
 * and GetLastError() tell what is wrong with the text. */
BOOL WINAPI ConvertStringSecurityDescriptorToSecurityDescriptorW(
    _In_ LPCWSTR StringSecurityDescriptor, _In_ DWORD StringSDRevision,
    _Out_ PSECURITY_DESCRIPTOR *SecurityDescriptor,
    _Out_opt_ PULONG SecurityDescriptorSize);

#ifdef __cplusplus
}
#endif

#endif
