/*
 * What the attaching process asks for.
 */
#ifndef VD_SERVER_REQUEST_H
#define VD_SERVER_REQUEST_H

#include "base/error.h"
#include "disk/disk.h"
#include "server/protocol.h"

/* Waits for it.  files: free with vd_disk_files_close.  ERROR_INVALID_DATA if
 * it is not what protocol.h says; the window is yet to be checked against
 * the disk. */
VD_MUST_CHECK
vd_error vd_request_receive(int control, struct vd_server_request *request_out,
                            struct vd_disk_files *files_out);

/* Waits for what follows the request for a visible file.  *file_out: the file
 * that is there. */
VD_MUST_CHECK
vd_error vd_request_receive_place(int control,
                                  struct vd_server_place *place_out,
                                  int *file_out);

/* Waits for the socket to listen on, the last of a request with upkeep. */
VD_MUST_CHECK
vd_error vd_request_receive_upkeep(int control, int *listener_out);

#endif
