/*
 * The program virtdisk-server: installed beside the extension, started by
 * the engine, of no use to anybody else (server.h).
 */
#include <unistd.h>

#include "server/server.h"

int
main(void)
{
    /* _exit: threads that are left must not find the process half gone. */
    _exit(vd_server_main(VD_CONFINE_REFUSE));
}
