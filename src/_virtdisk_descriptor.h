/*
 * Checks a self-relative security descriptor before the system sees it.
 */
#ifndef VIRTDISK_DESCRIPTOR_H
#define VIRTDISK_DESCRIPTOR_H

#include <stddef.h>

/* What is wrong with the structure of the descriptor in these bytes, as the
 * end of a sentence; NULL if nothing is. */
const char *virtdisk_descriptor_fault(const void *bytes, size_t size);

#endif
