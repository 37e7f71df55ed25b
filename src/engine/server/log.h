/*
 * What the server has to tell when nobody is left to be answered: to the
 * system's log, and, as a trace, where VIRTDISK_DEBUG sends those.
 */
#ifndef VD_SERVER_LOG_H
#define VD_SERVER_LOG_H

/* Connects to the log: once, before the server is confined and has threads.
 * Without a log nothing is logged. */
void vd_log_open(void);

/* One line, of priority "error". */
void vd_log(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
